//! Signature Version 4 of AWS, as a service verifies it (docs.aws.amazon.com, "Create a signed AWS API request").

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use fake_http::Request;
use hmac_sha256::{HMAC, Hash};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The difference of the clocks that AWS tolerates.
const MAX_SKEW: Duration = Duration::from_mins(5);

/// The headers that must be signed if they are sent. `x-amz-*` must be signed too.
const MUST_BE_SIGNED: [&str; 2] = ["host", "content-type"];

/// The credentials of a role's session. Their `Debug` output contains no secret.
#[derive(Clone)]
pub struct Credentials {
    /// The access key id.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: String,
    /// The session token. A user's own credentials have none.
    pub session_token: Option<String>,
}

/// What a signature is valid for.
pub(crate) struct Scope<'a> {
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
}

impl Scope<'_> {
    /// The scope of credentials on the day of this time.
    fn on(&self, time: &str) -> String {
        format!("{}/{}/{}/aws4_request", date_of(time), self.region, self.service)
    }
}

/// The day of a time such as `20261126T083000Z`.
fn date_of(time: &str) -> &str {
    time.split('T').next().unwrap_or_default()
}

/// The code and the reason of a rejection.
type Refusal = (&'static str, String);

/// The value of `Authorization`.
struct Authorization<'a> {
    access_key_id: &'a str,
    scope: &'a str,
    signed: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn parse(value: &'a str) -> Option<Self> {
        let fields = value.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let field = |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
        let (access_key_id, scope) = field("Credential")?.split_once('/')?;
        let signed = field("SignedHeaders")?.split(';').collect();
        Some(Self { access_key_id, scope, signed, signature: field("Signature")? })
    }
}

impl Credentials {
    /// Verifies the signature of a request to the root of a service, which arrives at `now`.
    pub(crate) fn verify(&self, request: &Request, scope: &Scope<'_>, now: SystemTime) -> Result<(), Refusal> {
        let Some(value) = request.header("authorization") else {
            return Err(("MissingAuthenticationToken", "the request is not signed".to_owned()));
        };
        let incomplete = |what: &str| ("IncompleteSignature", what.to_owned());
        let authorization = Authorization::parse(value).ok_or_else(|| incomplete("Authorization is not complete"))?;
        if authorization.access_key_id != self.access_key_id {
            return Err(("InvalidClientTokenId", "the access key id is another one".to_owned()));
        }
        if request.header("x-amz-security-token") != self.session_token.as_deref() {
            return Err(("InvalidClientTokenId", "the session token is missing or wrong".to_owned()));
        }
        let time = request.header("x-amz-date").ok_or_else(|| incomplete("X-Amz-Date is missing"))?;
        let skew = now.duration_since(parse_time(time).ok_or_else(|| incomplete("X-Amz-Date is not valid"))?);
        if skew.unwrap_or_else(|early| early.duration()) > MAX_SKEW {
            return Err(("SignatureDoesNotMatch", format!("Signature expired: {time}")));
        }
        let expected_scope = scope.on(time);
        if authorization.scope != expected_scope {
            return Err(("SignatureDoesNotMatch", format!("Credential should be scoped to {expected_scope}")));
        }
        let body_hash = hex(&Hash::hash(&request.body));
        if request.header("x-amz-content-sha256").is_some_and(|hash| hash != body_hash) {
            return Err(("SignatureDoesNotMatch", "X-Amz-Content-Sha256 is not the hash of the body".to_owned()));
        }
        let must_be_signed = |name: &str| MUST_BE_SIGNED.contains(&name) || name.starts_with("x-amz-");
        let mut names = request.headers.iter().map(|(name, _)| name.as_str());
        if let Some(name) = names.find(|name| must_be_signed(name) && !authorization.signed.contains(name)) {
            return Err(("SignatureDoesNotMatch", format!("the header {name} is not signed")));
        }
        if self.signature(request, &authorization.signed, &body_hash, time, scope) != authorization.signature {
            return Err(("SignatureDoesNotMatch", "the signature is that of another request or key".to_owned()));
        }
        Ok(())
    }

    /// Signs all headers and the body of a request to the root of STS, as a client does.
    #[must_use]
    pub fn sign(&self, request: Request, region: &str, now: SystemTime) -> Request {
        let scope = Scope { region, service: "sts" };
        let time: String = iso_8601(now).chars().filter(|character| !matches!(character, '-' | ':')).collect();
        let body_hash = hex(&Hash::hash(&request.body));
        let mut request = request.with_header("x-amz-date", &time).with_header("x-amz-content-sha256", &body_hash);
        if let Some(token) = &self.session_token {
            request = request.with_header("x-amz-security-token", token);
        }
        let mut names: Vec<&str> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let signature = self.signature(&request, &names, &body_hash, &time, &scope);
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={}, Signature={signature}",
            self.access_key_id,
            scope.on(&time),
            names.join(";"),
        );
        request.with_header("authorization", &value)
    }

    fn signature(&self, request: &Request, names: &[&str], body_hash: &str, time: &str, scope: &Scope<'_>) -> String {
        let canonical = hex(&Hash::hash(canonical(request, names, body_hash).as_bytes()));
        let signed = format!("AWS4-HMAC-SHA256\n{time}\n{}\n{canonical}", scope.on(time));
        hex(&HMAC::mac(signed, self.key(date_of(time), scope)))
    }

    /// The signing key of a day.
    fn key(&self, date: &str, scope: &Scope<'_>) -> [u8; 32] {
        let first = HMAC::mac(date, format!("AWS4{}", self.secret_access_key));
        [scope.region, scope.service, "aws4_request"].into_iter().fold(first, |key, part| HMAC::mac(part, key))
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// The canonical request, of which the path is `/` and the query is empty.
fn canonical(request: &Request, signed: &[&str], body_hash: &str) -> String {
    let mut canonical = format!("{}\n/\n\n", request.method);
    for name in signed {
        let values = request.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.trim());
        let value = values.collect::<Vec<_>>().join(",");
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(canonical, "{name}:{value}");
    }
    canonical + &format!("\n{}\n{body_hash}", signed.join(";"))
}

/// Parses a time such as `20261126T083000Z`.
fn parse_time(text: &str) -> Option<SystemTime> {
    let part = |range| text.get(range);
    let date = format!("{}-{}-{}", part(0..4)?, part(4..6)?, part(6..8)?);
    let time = format!("{}:{}:{}", part(9..11)?, part(11..13)?, part(13..15)?);
    let is_complete = text.len() == 16 && part(8..9) == Some("T") && text.ends_with('Z');
    let parsed = OffsetDateTime::parse(&format!("{date}T{time}Z"), &Rfc3339).ok().filter(|_| is_complete)?;
    Some(parsed.into())
}

/// A time such as `2026-11-26T08:30:00Z`.
pub(crate) fn iso_8601(time: SystemTime) -> String {
    OffsetDateTime::from(time)
        .replace_nanosecond(0)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The case `post-x-www-form-urlencoded` of AWS's test suite for Signature Version 4.
    #[test]
    fn a_signature_of_the_public_test_suite_is_accepted_and_that_of_another_body_is_not() {
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
        };
        let mut request = Request::new("POST", "/")
            .with_header("host", "example.amazonaws.com")
            .with_header("x-amz-date", "20150830T123600Z")
            .with_body("application/x-www-form-urlencoded", "Param1=value1")
            .with_header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders=content-type;host;x-amz-date, \
                 Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            );
        let scope = Scope { region: "us-east-1", service: "service" };
        let now = parse_time("20150830T123900Z").unwrap();
        assert_eq!(credentials.verify(&request, &scope, now), Ok(()));
        let (code, reason) = credentials.verify(&request, &scope, now + MAX_SKEW).unwrap_err();
        assert!(code == "SignatureDoesNotMatch" && reason.contains("expired"), "{reason}");
        request.body = b"Param1=value2".to_vec();
        let (code, reason) = credentials.verify(&request, &scope, now).unwrap_err();
        assert!(code == "SignatureDoesNotMatch" && reason.contains("another request"), "{reason}");
    }
}
