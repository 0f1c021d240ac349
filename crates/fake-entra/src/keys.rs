//! RSA keys that sign JWTs with RS256.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use jwt_simple::prelude::{
    JWTClaims, NoCustomClaims, RS256KeyPair, RSAKeyPairLike, RSAPublicKeyLike, UnixTimeStamp, VerificationOptions,
};
use serde_json::{Map, Value, json};

use crate::ids::unix_seconds;

/// The smallest key size that Entra and common issuers use.
pub(crate) const MODULUS_BITS: usize = 2048;

/// A key pair with its `kid`, the RFC 7638 thumbprint of the public key.
#[derive(Clone)]
pub(crate) struct SigningKey {
    pair: Arc<RS256KeyPair>,
    kid: String,
}

impl SigningKey {
    /// Generates a key, which takes up to a second.
    pub(crate) fn generate() -> Self {
        let pair = RS256KeyPair::generate(MODULUS_BITS).expect("2048 bits are an accepted RSA key size");
        let kid = pair.jwk_thumbprint();
        Self { pair: Arc::new(pair.with_key_id(&kid)), kid }
    }

    /// Returns Entra's own key: one per process, so that many directories need only one key.
    pub(crate) fn of_entra() -> Self {
        static KEY: OnceLock<SigningKey> = OnceLock::new();
        KEY.get_or_init(Self::generate).clone()
    }

    /// Returns the key that the issuers of this process share. It is never Entra's own.
    pub(crate) fn of_issuers() -> Self {
        static KEY: OnceLock<SigningKey> = OnceLock::new();
        KEY.get_or_init(Self::generate).clone()
    }

    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// Signs a JWT with exactly these claims.
    pub(crate) fn sign(&self, claims: &Map<String, Value>) -> String {
        self.pair.sign(jwt_claims(claims)).expect("an RSA key signs any JSON object")
    }

    /// Whether this key signed the JWT and the JWT is valid at `now`.
    pub(crate) fn signed(&self, token: &str, now: SystemTime) -> bool {
        let now = UnixTimeStamp::from_secs(unix_seconds(now));
        let options = VerificationOptions { artificial_time: Some(now), ..VerificationOptions::default() };
        self.pair.public_key().verify_token::<NoCustomClaims>(token, Some(options)).is_ok()
    }

    /// Returns the JWKS document (RFC 7517) with this key.
    pub(crate) fn jwks(&self) -> Value {
        let jwk: Value = serde_json::from_str(&self.pair.public_key().to_jwk()).expect("an exported JWK is JSON");
        json!({ "keys": [{
            "kty": "RSA",
            "use": "sig",
            "kid": self.kid,
            "alg": "RS256",
            "n": jwk["n"],
            "e": jwk["e"],
        }] })
    }
}

/// Wraps claims so that jwt-simple adds none.
pub(crate) fn jwt_claims(claims: &Map<String, Value>) -> JWTClaims<Map<String, Value>> {
    JWTClaims {
        issued_at: None,
        expires_at: None,
        invalid_before: None,
        issuer: None,
        subject: None,
        audiences: None,
        jwt_id: None,
        nonce: None,
        custom: claims.clone(),
    }
}
