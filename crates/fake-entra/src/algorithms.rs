//! Signs JWTs with algorithms that Entra does not accept, so that a test can present such a token.

use std::sync::OnceLock;

use jwt_simple::prelude::{ECDSAP256KeyPairLike, ES256KeyPair, HS256Key, MACLike, RS512KeyPair, RSAKeyPairLike};
use jwt_simple::reexports::ct_codecs::{Base64UrlSafeNoPadding, Encoder};
use serde_json::{Map, Value, json};

use crate::keys::{MODULUS_BITS, jwt_claims};

/// A signature algorithm (RFC 7518, section 3.1) that Entra does not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherAlgorithm {
    /// ECDSA with P-256, SPIRE's default.
    Es256,
    /// RSA with SHA-512.
    Rs512,
    /// HMAC with SHA-256: a shared secret.
    Hs256,
    /// No signature.
    None,
}

impl OtherAlgorithm {
    /// The `alg` in the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs512 => "RS512",
            Self::Hs256 => "HS256",
            Self::None => "none",
        }
    }

    /// Signs exactly these claims.
    pub(crate) fn sign(self, claims: &Map<String, Value>) -> String {
        static ES256: OnceLock<ES256KeyPair> = OnceLock::new();
        static RS512: OnceLock<RS512KeyPair> = OnceLock::new();
        let signed = match self {
            Self::Es256 => {
                let key = ES256.get_or_init(|| ES256KeyPair::generate().with_key_id("es256"));
                key.sign(jwt_claims(claims))
            }
            Self::Rs512 => {
                let key = RS512.get_or_init(|| {
                    let key = RS512KeyPair::generate(MODULUS_BITS).expect("2048 bits are an accepted RSA key size");
                    key.with_key_id("rs512")
                });
                key.sign(jwt_claims(claims))
            }
            Self::Hs256 => HS256Key::from_bytes(b"a secret that both sides share")
                .with_key_id("hs256")
                .authenticate(jwt_claims(claims)),
            Self::None => return unsigned(claims),
        };
        signed.expect("a key signs any JSON object")
    }
}

fn unsigned(claims: &Map<String, Value>) -> String {
    let part = |value: &Value| {
        Base64UrlSafeNoPadding::encode_to_string(value.to_string()).expect("any text can be encoded as base64url")
    };
    format!("{}.{}.", part(&json!({ "alg": "none", "typ": "JWT" })), part(&Value::Object(claims.clone())))
}
