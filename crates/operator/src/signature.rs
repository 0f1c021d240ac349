//! `inspect --jwks`: whether a token has the signature of a key of its issuer.

use entra_exchange_core::untrusted::UntrustedText;
use jwt_simple::prelude::{
    ECDSAP256PublicKeyLike, ECDSAP256kPublicKeyLike, ECDSAP384PublicKeyLike, ES256PublicKey, ES256kPublicKey,
    ES384PublicKey, Ed25519PublicKey, EdDSAPublicKeyLike, NoCustomClaims, PS256PublicKey, PS384PublicKey,
    PS512PublicKey, RS256PublicKey, RS384PublicKey, RS512PublicKey, RSAPublicKeyLike, UnixTimeStamp,
    VerificationOptions,
};
use serde::Serialize;
use serde_json::Value;

use crate::token::{inspect, plain, text_of, whole};

/// The key that signed a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signer {
    /// Its name (`kid`), or `without kid`.
    pub key: String,
    /// The algorithm of the signature (RFC 7518, section 3.1; RFC 8037 for EdDSA).
    pub algorithm: &'static str,
}

/// Verifies a token with a key, and returns why it does not fit.
type Verify = fn(&str, &str, VerificationOptions) -> Result<(), jwt_simple::Error>;

macro_rules! with {
    ($key:ty) => {
        |token, key, options| <$key>::from_jwk(key)?.verify_token::<NoCustomClaims>(token, Some(options)).map(|_| ())
    };
}

/// The algorithms, each with the type of key that it needs.
const ALGORITHMS: &[(&str, &str, Verify)] = &[
    ("RS256", "RSA", with!(RS256PublicKey)),
    ("RS384", "RSA", with!(RS384PublicKey)),
    ("RS512", "RSA", with!(RS512PublicKey)),
    ("PS256", "RSA", with!(PS256PublicKey)),
    ("PS384", "RSA", with!(PS384PublicKey)),
    ("PS512", "RSA", with!(PS512PublicKey)),
    ("ES256", "EC", with!(ES256PublicKey)),
    ("ES384", "EC", with!(ES384PublicKey)),
    ("ES256K", "EC", with!(ES256kPublicKey)),
    ("EdDSA", "OKP", with!(Ed25519PublicKey)),
];

/// Verifies the signature of a token with the issuer's key set (RFC 7517). Its times are judged apart from it.
///
/// # Errors
/// Why it could not be verified, as a sentence.
pub fn verify(text: &str, key_set: &str) -> Result<Signer, String> {
    let token = plain(text);
    let inspected = inspect(token, 0).map_err(|reason| reason.to_string())?;
    let keys: Value = serde_json::from_str(key_set).map_err(|error| format!("the key set is not JSON: {error}"))?;
    let keys = keys.get("keys").and_then(Value::as_array).ok_or("the key set has no field keys")?;
    let named = text_of(&inspected.header, "alg").unwrap_or("none");
    let Some((algorithm, kind, verify)) = ALGORITHMS.iter().find(|(name, ..)| *name == named) else {
        let known: Vec<&str> = ALGORITHMS.iter().map(|(name, ..)| *name).collect();
        let (named, known) = (UntrustedText::new(named), known.join(", "));
        return Err(format!("the token has the algorithm {named}, and only {known} are verified with a key set"));
    };
    let expiry = inspected.claims.get("exp").and_then(Value::as_f64).map_or(u64::from(u32::MAX), whole);
    let wanted = text_of(&inspected.header, "kid");
    let fitting = keys.iter().filter(|key| wanted.is_none() || key.get("kid").and_then(Value::as_str) == wanted);
    let mut reason = None;
    for key in fitting {
        // The times are judged apart from the signature.
        let options = VerificationOptions {
            accept_future: true,
            artificial_time: Some(UnixTimeStamp::from_secs(expiry.saturating_sub(1))),
            ..VerificationOptions::default()
        };
        let verified = if key.get("kty").and_then(Value::as_str) == Some(kind) {
            verify(token, &key.to_string(), options).map_err(|error| error.to_string())
        } else {
            Err(format!("{algorithm} needs one with \"kty\": {kind:?}"))
        };
        match verified {
            Ok(()) => return Ok(Signer { key: name_of(key), algorithm }),
            Err(error) => reason = Some(format!("the key {} does not fit: {error}", name_of(key))),
        }
    }
    Err(reason.unwrap_or_else(|| none_fits(keys, wanted)))
}

/// The name of a key, cleaned: it comes from outside.
fn name_of(key: &Value) -> String {
    let name = key.get("kid").and_then(Value::as_str).unwrap_or("without kid");
    UntrustedText::new(name).as_str().to_owned()
}

fn none_fits(keys: &[Value], wanted: Option<&str>) -> String {
    let known: Vec<String> = keys.iter().map(name_of).collect();
    if known.is_empty() {
        return "the key set has no keys".to_owned();
    }
    let (wanted, known) = (UntrustedText::new(wanted.unwrap_or("none")), UntrustedText::new(&known.join(", ")));
    format!("the key set has no key {wanted:?}, but {known} (AADSTS7000272)")
}

#[cfg(test)]
mod tests {
    use jwt_simple::prelude::{
        Claims, Duration, ECDSAP256KeyPairLike, ECDSAP256kKeyPairLike, ECDSAP384KeyPairLike, ES256KeyPair,
        ES256kKeyPair, ES384KeyPair, Ed25519KeyPair, EdDSAKeyPairLike, JWTClaims, PS256KeyPair, PS384KeyPair,
        PS512KeyPair, RS256KeyPair, RS384KeyPair, RS512KeyPair, RSAKeyPairLike,
    };
    use serde_json::json;

    use super::*;

    fn claims() -> JWTClaims<NoCustomClaims> {
        Claims::create(Duration::from_secs(1))
    }

    /// A key pair of each algorithm: the algorithm, a token that it signed, and its key set.
    fn signed() -> Vec<(&'static str, String, String)> {
        let set = |jwk: &str| format!("{{\"keys\":[{jwk}]}}");
        // One modulus for all, because a test build makes one in seconds.
        let rsa = RS256KeyPair::generate(2048).unwrap().to_der().unwrap();
        let mut all = Vec::new();
        macro_rules! add {
            ($algorithm:literal, $pair:expr) => {
                let pair = $pair.with_key_id("one");
                all.push(($algorithm, pair.sign(claims()).unwrap(), set(&pair.public_key().to_jwk())));
            };
        }
        add!("RS256", RS256KeyPair::from_der(&rsa).unwrap());
        add!("RS384", RS384KeyPair::from_der(&rsa).unwrap());
        add!("RS512", RS512KeyPair::from_der(&rsa).unwrap());
        add!("PS256", PS256KeyPair::from_der(&rsa).unwrap());
        add!("PS384", PS384KeyPair::from_der(&rsa).unwrap());
        add!("PS512", PS512KeyPair::from_der(&rsa).unwrap());
        add!("ES256", ES256KeyPair::generate());
        add!("ES384", ES384KeyPair::generate());
        add!("ES256K", ES256kKeyPair::generate());
        add!("EdDSA", Ed25519KeyPair::generate());
        all
    }

    /// The token with another signature.
    fn forged(token: &str) -> String {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let other = if signature.starts_with('A') { 'B' } else { 'A' };
        format!("{signed}.{other}{}", &signature[1..])
    }

    #[test]
    fn a_token_of_each_algorithm_is_verified_with_its_own_key_only() {
        let all = signed();
        assert_eq!(all.len(), ALGORITHMS.len());
        for (algorithm, token, keys) in &all {
            let expected = Signer { key: "one".to_owned(), algorithm };
            assert_eq!(verify(&format!("Bearer {token}"), keys), Ok(expected), "{algorithm}");
            assert!(verify(&forged(token), keys).unwrap_err().starts_with("the key one does not fit"), "{algorithm}");
            for (other, _, keys) in all.iter().filter(|(other, ..)| other != algorithm) {
                assert!(verify(token, keys).is_err(), "{algorithm} with a key of {other}");
            }
        }
    }

    #[test]
    fn the_key_is_chosen_by_its_name() {
        let pair = ES256KeyPair::generate().with_key_id("one");
        let token = pair.sign(claims()).unwrap();
        let jwk: Value = serde_json::from_str(&pair.public_key().to_jwk()).unwrap();
        let mut other: Value = serde_json::from_str(&ES256KeyPair::generate().public_key().to_jwk()).unwrap();
        let unnamed = json!({ "keys": [&other] }).to_string();
        other["kid"] = json!("two");
        let both = json!({ "keys": [&other, &jwk] }).to_string();
        assert_eq!(verify(&token, &both), Ok(Signer { key: "one".to_owned(), algorithm: "ES256" }));
        let missing = verify(&token, &json!({ "keys": [other] }).to_string()).unwrap_err();
        assert_eq!(missing, "the key set has no key \"one\", but two (AADSTS7000272)");
        assert!(verify(&token, &unnamed).unwrap_err().contains("but without kid"));
    }

    #[test]
    fn a_signature_that_cannot_be_verified_has_a_reason() {
        let reason = |algorithm: &str, keys: Value| {
            use base64::Engine as _;
            let part = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
            let token =
                format!("{}.{}.c2ln", part(&json!({ "alg": algorithm, "kid": "one" })), part(&json!({ "sub": "s" })));
            verify(&token, &json!({ "keys": keys }).to_string()).unwrap_err()
        };
        let curve = json!([{ "kty": "EC", "kid": "one" }]);
        assert_eq!(reason("RS256", curve.clone()), "the key one does not fit: RS256 needs one with \"kty\": \"RSA\"");
        for algorithm in ["HS256", "none", "A\u{1b}[2J"] {
            let reason = reason(algorithm, curve.clone());
            assert!(reason.contains("and only RS256, RS384,") && !reason.contains('\u{1b}'), "{reason}");
        }
        assert_eq!(reason("RS256", json!([])), "the key set has no keys");
    }
}
