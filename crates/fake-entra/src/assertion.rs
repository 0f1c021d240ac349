//! Parses a client assertion and verifies its signature and times.

use std::time::SystemTime;

use jwt_simple::prelude::{
    Base64UrlSafeNoPadding, Duration, NoCustomClaims, RS256PublicKey, RSAPublicKeyLike, UnixTimeStamp,
    VerificationOptions,
};
use jwt_simple::reexports::ct_codecs::Decoder;
use serde_json::Value;

use crate::catalogue::EntraError;
use crate::ids::{long_timestamp, unix_seconds};

/// The clock skew that is tolerated between the issuer and Entra, in seconds. Entra itself tolerates more;
/// a client that needs more than this in a test has read an old token.
const CLOCK_SKEW: u64 = 5;

/// The hosts of Entra's own issuers. Their tokens are not accepted as assertions (AADSTS700222).
const ENTRA_HOSTS: [&str; 10] = [
    "login.microsoftonline.com",
    "login.microsoft.com",
    "login.windows.net",
    "sts.windows.net",
    "login.microsoftonline.us",
    "login.usgovcloudapi.net",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
    "sts.chinacloudapi.cn",
    "login.microsoftonline.de",
];

/// A well-formed JWT whose signature has not been verified yet.
pub(crate) struct Assertion<'a> {
    raw: &'a str,
    pub(crate) kid: String,
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) audiences: Vec<String>,
    /// The claim `xms_mirid`: the resource of a managed identity.
    resource_id: String,
    not_before: Option<u64>,
    expires: u64,
}

impl<'a> Assertion<'a> {
    /// Parses the header and the claims. The error is 50027 when `raw` is not a JWT or lacks `kid`, `iss`, `sub`,
    /// `aud` or `exp`, and 5002730 when the algorithm is not RS256.
    pub(crate) fn parse(raw: &'a str) -> Result<Self, EntraError> {
        let parts: Vec<&str> = raw.split('.').collect();
        let [header, claims, signature] = parts.as_slice() else {
            return Err(EntraError::from_code(50027));
        };
        let header = json_part(header)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or_else(|| EntraError::from_code(50027))?;
        if algorithm != "RS256" {
            return Err(EntraError::from_code(5002730));
        }
        let claims = json_part(claims)?;
        decode(signature)?;
        Ok(Self {
            raw,
            kid: text(&header, "kid")?,
            issuer: text(&claims, "iss")?,
            subject: text(&claims, "sub")?,
            audiences: audiences(&claims)?,
            resource_id: text(&claims, "xms_mirid").unwrap_or_default(),
            not_before: seconds(&claims, "nbf")?,
            expires: seconds(&claims, "exp")?.ok_or_else(|| EntraError::from_code(50027))?,
        })
    }

    /// Whether the issuer is Entra, judged by the host of `iss`.
    pub(crate) fn is_from_entra(&self) -> bool {
        let host = self.issuer.strip_prefix("https://").and_then(|rest| rest.split('/').next());
        host.is_some_and(|host| {
            ENTRA_HOSTS
                .iter()
                .any(|entra| host == *entra || host.strip_suffix(entra).is_some_and(|prefix| prefix.ends_with('.')))
        })
    }

    /// Whether the token is one of those that Entra both issues and accepts: that of an Azure DevOps service connection, or of a user-assigned
    /// managed identity.
    pub(crate) fn is_of_exchange(&self) -> bool {
        let is_service_connection = self.subject.starts_with("/eid1/") && self.subject.contains("/sc/");
        is_service_connection || self.resource_id.contains("/Microsoft.ManagedIdentity/userAssignedIdentities/")
    }

    /// Verifies the RS256 signature against the issuer's JWKS. The error is 7000272 when the JWKS has no RSA
    /// signing key with this `kid`, and 700027 when the signature is not valid.
    pub(crate) fn verify_signature(&self, jwks: &Value) -> Result<(), EntraError> {
        let key = self.key(jwks).ok_or_else(|| {
            EntraError::new(
                7000272,
                format!(
                    "The certificate with identifier {} used to sign the federated credential could not be found in \
                     the metadata of identity provider {}. Please validate that your Identity Provider's metadata \
                     exposes the key used to sign the incoming token.",
                    self.kid, self.issuer
                ),
            )
        })?;
        // Verifies the signature only: at the Unix epoch no token has expired.
        let signature_only = VerificationOptions {
            accept_future: true,
            artificial_time: Some(UnixTimeStamp::from_secs(0)),
            time_tolerance: Some(Duration::from_secs(0)),
            ..VerificationOptions::default()
        };
        key.verify_token::<NoCustomClaims>(self.raw, Some(signature_only))
            .map(|_| ())
            .map_err(|_| EntraError::from_code(700027))
    }

    /// Verifies `nbf` and `exp` against `now` with [`CLOCK_SKEW`]. The error is 700024.
    pub(crate) fn verify_time(&self, now: SystemTime) -> Result<(), EntraError> {
        let now = unix_seconds(now);
        let is_valid_yet = self.not_before.is_none_or(|not_before| not_before <= now.saturating_add(CLOCK_SKEW));
        if is_valid_yet && now <= self.expires.saturating_add(CLOCK_SKEW) {
            return Ok(());
        }
        Err(EntraError::new(
            700024,
            format!(
                "Client assertion is not within its valid time range. Current time: {}, assertion valid from {}, \
                 expiry time of assertion {}.",
                long_timestamp(now),
                long_timestamp(self.not_before.unwrap_or_default()),
                long_timestamp(self.expires)
            ),
        ))
    }

    fn key(&self, jwks: &Value) -> Option<RS256PublicKey> {
        let has = |jwk: &Value, name: &str, value: &str| jwk.get(name).and_then(Value::as_str) == Some(value);
        let jwk = jwks.get("keys")?.as_array()?.iter().find(|jwk| {
            has(jwk, "kid", &self.kid) && has(jwk, "kty", "RSA") && jwk.get("use").is_none_or(|usage| usage == "sig")
        })?;
        let number = |name: &str| Base64UrlSafeNoPadding::decode_to_vec(jwk.get(name)?.as_str()?, None).ok();
        RS256PublicKey::from_components(&number("n")?, &number("e")?).ok()
    }
}

fn json_part(part: &str) -> Result<Value, EntraError> {
    let malformed = || EntraError::from_code(50027);
    let value: Value = serde_json::from_slice(&decode(part)?).map_err(|_| malformed())?;
    if value.is_object() { Ok(value) } else { Err(malformed()) }
}

/// Returns the claims of a JWT without verifying its signature (RFC 7519, section 7.2); `None` when `token` is not a valid JWT.
pub fn claims(token: &str) -> Option<Value> {
    json_part(token.split('.').nth(1)?).ok()
}

/// Decodes base64url without padding (RFC 7515, section 2). A trailing newline of a token file is an error here.
fn decode(part: &str) -> Result<Vec<u8>, EntraError> {
    Base64UrlSafeNoPadding::decode_to_vec(part, None).map_err(|_| EntraError::from_code(50027))
}

fn text(object: &Value, name: &str) -> Result<String, EntraError> {
    object.get(name).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| EntraError::from_code(50027))
}

fn seconds(claims: &Value, name: &str) -> Result<Option<u64>, EntraError> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| EntraError::from_code(50027)),
    }
}

/// `aud` is a string or a list of strings (RFC 7519, section 4.1.3).
fn audiences(claims: &Value) -> Result<Vec<String>, EntraError> {
    let malformed = || EntraError::from_code(50027);
    match claims.get("aud").ok_or_else(malformed)? {
        Value::String(one) => Ok(vec![one.clone()]),
        Value::Array(list) => list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(malformed)).collect(),
        _ => Err(malformed()),
    }
}
