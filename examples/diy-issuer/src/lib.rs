//! An issuer of federated tokens from a key of OpenSSL: the documents that Entra reads, and the tokens.
//!
//! The documents are static files for a web server. A token is written to a file, which Envoy serves to the filter.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{fs, io};

use jwt_simple::prelude::{Claims, Duration, RS256KeyPair, RSAKeyPairLike as _};
use serde_json::{Value, json};

/// The document that names the issuer's keys, below the issuer's URL.
const DISCOVERY: &str = ".well-known/openid-configuration";

/// The keys, below the issuer's URL.
const JWKS: &str = "jwks.json";

/// A private key. Its id is the RFC 7638 thumbprint.
pub struct Key(RS256KeyPair);

/// What a token says.
pub struct Token<'a> {
    /// The issuer's URL, exactly as in the federated credential.
    pub issuer: &'a str,
    /// The workload.
    pub subject: &'a str,
    /// The audience, exactly as in the federated credential.
    pub audience: &'a str,
    /// The seconds for which the token is valid.
    pub seconds: u64,
}

impl Key {
    /// Reads a key in PEM, as `openssl genrsa` writes it.
    ///
    /// # Errors
    /// When the file cannot be read, or is not an RSA key of at least 2048 bits.
    pub fn read(path: &Path) -> io::Result<Self> {
        let pair = RS256KeyPair::from_pem(&fs::read_to_string(path)?)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        let id = pair.jwk_thumbprint();
        Ok(Self(pair.with_key_id(&id)))
    }

    /// The public key (RFC 7517).
    fn jwk(&self) -> io::Result<Value> {
        let mut jwk: Value = serde_json::from_str(&self.0.public_key().to_jwk())?;
        jwk["use"] = json!("sig");
        jwk["alg"] = json!("RS256");
        jwk["kid"] = json!(self.0.jwk_thumbprint());
        Ok(jwk)
    }

    /// Signs a token that is valid from now on.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn mint(&self, token: &Token<'_>) -> io::Result<String> {
        let claims = Claims::create(Duration::from_secs(token.seconds))
            .with_issuer(token.issuer)
            .with_subject(token.subject)
            .with_audience(token.audience);
        self.0.sign(claims).map_err(|error| io::Error::other(error.to_string()))
    }
}

/// Writes the documents of an issuer with the public keys of all `*.pem` files in a folder. Returns the number of keys.
///
/// # Errors
/// When a file cannot be read or written, or the folder has no key.
pub fn publish(issuer: &str, keys: &Path, site: &Path) -> io::Result<usize> {
    let mut files: Vec<PathBuf> = fs::read_dir(keys)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "pem"));
    files.sort();
    let jwks = files.iter().map(|file| Key::read(file)?.jwk()).collect::<io::Result<Vec<_>>>()?;
    if jwks.is_empty() {
        return Err(io::Error::other(format!("{} has no *.pem file", keys.display())));
    }
    let discovery = json!({
        "issuer": issuer, "jwks_uri": format!("{}/{JWKS}", issuer.trim_end_matches('/')),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    });
    fs::create_dir_all(site.join(".well-known"))?;
    // The keys first, so that the first document never names keys that do not exist.
    replace(&site.join(JWKS), &format!("{:#}\n", json!({ "keys": jwks })))?;
    replace(&site.join(DISCOVERY), &format!("{discovery:#}\n"))?;
    Ok(jwks.len())
}

/// Replaces a file at once: a reader sees the old content or the new one, and Envoy notices the rename.
///
/// # Errors
/// When the file cannot be written.
pub fn replace(file: &Path, content: &str) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    fs::write(&name, content)?;
    fs::rename(&name, file)
}
