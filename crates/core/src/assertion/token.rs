//! The federated token, and checks that Entra can accept it.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::authority;
use crate::json::Json;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;
use crate::untrusted::{self, UntrustedText};

/// The maximum length of a federated token in bytes. The listener that serves the file allows the same length
/// (`envoy/sidecar/envoy.yaml`).
const LONGEST: usize = 16 * 1024;

/// How far `nbf` may be in the future, because clocks differ. RFC 7519, section 4.1.5 allows a leeway of "no more than a
/// few minutes". Microsoft does not publish Entra's leeway; its token libraries (Microsoft.IdentityModel, `ClockSkew`)
/// allow five minutes. There is no leeway for `exp`: the next read may already give a fresh token.
const START_LEEWAY: Duration = Duration::from_mins(5);

/// The audience of tokens that Entra itself issues for an exchange: the id of the application `api://AzureADTokenExchange`.
const EXCHANGE_APPLICATION: &str = "fb60f99c-7a34-4190-8149-302f77469936";

/// A federated token, which authenticates the workload (the client assertion of RFC 7523, section 2.2).
///
/// It is sent to the token endpoint only. It has neither `Debug` nor `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Assertion {
    token: String,
    claims: Claims,
    lifetime: Lifetime,
    fingerprint: Fingerprint,
}

/// The only algorithm of signatures that Entra documents.
const RS256: &str = "RS256";

/// Where a federated token comes from, and what its claims must be.
#[derive(Clone, Default)]
pub(crate) struct Expected {
    /// Whether a service made the token for this call. Otherwise it is the content of a file.
    pub(crate) made_on_demand: bool,
    /// Whether another source gets the token instead of Entra, so that Entra's demands do not apply.
    pub(crate) is_input: bool,
    /// The only algorithm of its signature, if it is configured; otherwise that which Entra accepts.
    pub(crate) algorithm: Option<String>,
    /// The only issuer, if it is configured.
    pub(crate) issuer: Option<String>,
    /// The only subject, if it is configured.
    pub(crate) subject: Option<String>,
    /// The only audience, if it is known.
    pub(crate) audience: Option<String>,
    /// Whether Entra accepts a token that it issued itself.
    pub(crate) entra_issued: bool,
}

/// The times of a federated token, from its claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// The time at which the token was issued (`iat`), else that from which it is valid (`nbf`), if it has either claim.
    pub(crate) issued_at: Option<Timestamp>,
    /// The expiration time (`exp`).
    pub(crate) expires_at: Timestamp,
}

/// The SHA-256 of an assertion, which cannot be guessed from it: its signature alone has at least 256 bytes. Where each call makes another
/// token, it is that of the properties that a federated credential is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint([u8; 32]);

/// The claims of an assertion that a federated credential is compared with (RFC 7519, section 4.1). They are not secret,
/// and they are not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    issuer: UntrustedText,
    subject: UntrustedText,
    audience: UntrustedText,
}

impl fmt::Display for Claims {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "issuer {:?}, subject {:?}, audience {:?}", self.issuer, self.subject, self.audience)
    }
}

impl Assertion {
    /// Parses the content of the token file and checks that the token is valid at `now`.
    ///
    /// # Errors
    /// If Entra would not accept the token: the code, what was found, and a remedy.
    pub fn parse(content: &[u8], now: Timestamp) -> Result<Self, Problem> {
        Self::parse_expected(content, &Expected::default(), now)
    }

    /// Parses a token and checks that it is valid at `now` and the expected one.
    ///
    /// # Errors
    /// If Entra would not accept the token, or if it is not the expected one.
    pub(crate) fn parse_expected(content: &[u8], expected: &Expected, now: Timestamp) -> Result<Self, Problem> {
        let malformed_remedy = match expected.made_on_demand {
            true => {
                "Check that response.token names the federated token: the source must issue it as a JWT, not as an opaque token."
            }
            false => "Check the content of the file: it must be one JWT and nothing else.",
        };
        if content.len() > LONGEST {
            return Err(Problem::new(
                Code::AssertionMalformed,
                format!("the federated token is {} bytes long, more than {LONGEST}", content.len()),
                malformed_remedy,
            ));
        }
        // The kubelet writes no newline at the end; `kubectl create token > file` and editors may.
        let token = std::str::from_utf8(content).map(str::trim).unwrap_or_default();
        if token.is_empty() && !expected.made_on_demand {
            return Err(Problem::new(
                Code::AssertionUnavailable,
                "the federated token's file is empty or not valid UTF-8",
                "Check the program that writes the file: the content must be one JWT and nothing else.",
            ));
        }
        let (header, claims) = decode(token).ok_or_else(|| {
            Problem::new(Code::AssertionMalformed, "the federated token is not a JWT", malformed_remedy)
        })?;
        let (claims, lifetime) = check(&header, &claims, expected, now)?;
        let fingerprint = match expected.made_on_demand {
            true => claims.fingerprint(&header),
            false => Fingerprint(Sha256::digest(token).into()),
        };
        Ok(Self { token: token.to_owned(), claims, lifetime, fingerprint })
    }

    /// The token itself, for the request to the token endpoint.
    pub(crate) fn expose(&self) -> &str {
        &self.token
    }

    /// The token's fingerprint. Comparing it shows whether Entra has rejected this token, without storing the token.
    pub(crate) const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The same assertion, of which its source says that it expires at this time.
    pub(crate) fn expiring(mut self, at: Option<Timestamp>) -> Self {
        let expires_at = &mut self.lifetime.expires_at;
        *expires_at = at.map_or(*expires_at, |at| at.min(*expires_at));
        self
    }

    /// Whether a text contains the token or its signature, or is a part of the token.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        // A shorter signature may occur in other texts by chance. That of RS256 has 342 characters or more.
        const SHORTEST_SIGNATURE: usize = 32;
        // A shorter text may occur in the token by chance.
        const SHORTEST_PART: usize = 16;
        let signature = self.token.rsplit('.').next().filter(|signature| signature.len() >= SHORTEST_SIGNATURE);
        text.contains(&self.token)
            || signature.is_some_and(|signature| text.contains(signature))
            || (text.len() >= SHORTEST_PART && self.token.contains(text))
    }

    /// The times at which the token was issued and expires.
    pub(crate) const fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// The claims with which a federated credential is compared.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }
}

/// Decodes the header and claims of a compact JWS (RFC 7515, section 3.1).
fn decode(token: &str) -> Option<(Json, Json)> {
    let mut parts = token.split('.');
    let (header, claims) = (parts.next()?, parts.next()?);
    let (_signature, None) = (parts.next()?, parts.next()) else { return None };
    let part = |text: &str| -> Option<Json> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Json::parse(&bytes).ok().filter(|json| matches!(json, Json::Object(_)))
    };
    Some((part(header)?, part(claims)?))
}

/// Checks the properties of a token without which Entra would reject it; returns its claims and its lifetime.
fn check(header: &Json, claims: &Json, expected: &Expected, now: Timestamp) -> Result<(Claims, Lifetime), Problem> {
    expected.check_algorithm(header)?;
    if expected.is_input {
        let claim = |name: &str| shown(claims.text(name).unwrap_or_default());
        let lifetime = check_times(claims, expected.made_on_demand, now)?;
        let audience = shown(audience(claims).unwrap_or_default());
        let claims = Claims { issuer: claim("iss"), subject: claim("sub"), audience };
        return expected.check(&claims).map(|()| (claims, lifetime));
    }
    let text = |claim: &str, name: &str, remedy: &str| match claims.text(claim) {
        Some(text) if !text.is_empty() => Ok(shown(text)),
        _ => Err(invalid(format!("the federated token has no {name} ({claim})"), remedy)),
    };
    let issuer = text("iss", "issuer", "Configure the issuer to set iss to its URL (SPIRE: jwt_issuer).")?;
    let subject = text(
        "sub",
        "subject",
        "Configure the issuer to set sub to the workload's name, the same as the subject of the federated credential.",
    )?;
    let audience = shown(audience(claims)?);
    let lifetime = check_times(claims, expected.made_on_demand, now)?;
    let claims = Claims { issuer, subject, audience };
    expected.check(&claims).map(|()| (claims, lifetime))
}

/// The value of a claim, for messages. A hostile source could put a token into it that it was given by somebody else.
#[inline(never)]
fn shown(claim: &str) -> UntrustedText {
    UntrustedText::new(if untrusted::holds_jwt(claim) { "(a token)" } else { claim })
}

impl Expected {
    /// Checks the algorithm of the signature.
    fn check_algorithm(&self, header: &Json) -> Result<(), Problem> {
        let wanted = match &self.algorithm {
            // Another source may accept any algorithm.
            None if self.is_input => return Ok(()),
            wanted => wanted.as_deref().unwrap_or(RS256),
        };
        let found = header.text("alg").unwrap_or("none");
        // A name of an algorithm (RFC 7518, section 3.1) and no text that a hostile source put in its place.
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+');
        let found = if found.len() <= 20 && found.bytes().all(is_name) { found } else { "an unknown algorithm" };
        if found == wanted {
            return Ok(());
        }
        let found = UntrustedText::new(found);
        let why = if wanted == RS256 { "Entra accepts RS256 only" } else { "expect.alg is another" };
        Err(invalid(
            format!("the federated token is signed with {found}, and {why}"),
            "Configure the issuer to sign with an RSA key (SPIRE: jwt_key_type = \"rsa-2048\"; Kubernetes: an RSA \
             service-account signing key).",
        ))
    }

    /// Checks the claims. Of a projected token, those that Entra would reject are left to its more precise answer.
    fn check(&self, claims: &Claims) -> Result<(), Problem> {
        let is_entras = authority::is_issuer(claims.issuer.as_str());
        if is_entras && self.made_on_demand && !self.is_input && !self.entra_issued {
            return Err(invalid(
                format!(
                    "the federated token was issued by Entra ({claims}), and Entra does not accept its own tokens from this source"
                ),
                "Have the source issue the token itself. Entra accepts its own tokens from Azure Pipelines and managed identities only.",
            ));
        }
        let differs = |found: &UntrustedText, wanted: &Option<String>| {
            wanted.as_deref().filter(|wanted| *wanted != found.as_str()).map(str::to_owned)
        };
        let is_exchange = is_entras && claims.audience.as_str() == EXCHANGE_APPLICATION;
        let audience = if is_exchange { None } else { differs(&claims.audience, &self.audience) };
        let wanted = [
            ("issuer", differs(&claims.issuer, &self.issuer)),
            ("subject", differs(&claims.subject, &self.subject)),
            ("audience", audience),
        ];
        let Some((name, wanted)) = wanted.into_iter().find_map(|(name, wanted)| Some((name, wanted?))) else {
            return Ok(());
        };
        Err(Problem::new(
            Code::AssertionUnexpected,
            format!("the federated token has {claims}, and the expected {name} is {wanted:?}"),
            "Compare the token with the federated credential at Entra. Then correct the source, or audience or expect in the assertion's \
             configuration.",
        ))
    }
}

impl Claims {
    /// The fingerprint of every token with these claims, signed with this header's algorithm and key.
    fn fingerprint(&self, header: &Json) -> Fingerprint {
        let of_header = |name: &str| header.text(name).unwrap_or_default();
        let parts =
            [self.issuer.as_str(), self.subject.as_str(), self.audience.as_str(), of_header("alg"), of_header("kid")];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Fingerprint(hash.finalize().into())
    }
}

/// The only audience of the token, which is a string or a list with one string (RFC 7519, section 4.1.3).
fn audience(claims: &Json) -> Result<&str, Problem> {
    const REMEDY: &str = "Set the token's audience to that of the federated credential, api://AzureADTokenExchange by \
                          default, and to no other.";
    let audience = match claims.get("aud") {
        Some(Json::List(list)) if list.len() > 1 => {
            return Err(invalid(
                format!("the federated token has {} audiences, and Entra accepts exactly one", list.len()),
                REMEDY,
            ));
        }
        Some(Json::List(list)) => list.first().and_then(Json::as_str),
        single => single.and_then(Json::as_str),
    };
    match audience {
        Some(audience) if !audience.is_empty() => Ok(audience),
        _ => Err(invalid("the federated token has no audience (aud)".to_owned(), REMEDY)),
    }
}

/// Checks that the token is valid at `now` (RFC 7519, sections 4.1.4 and 4.1.5).
fn check_times(claims: &Json, made_on_demand: bool, now: Timestamp) -> Result<Lifetime, Problem> {
    let Some(expiry) = claims.get("exp").and_then(seconds) else {
        return Err(invalid(
            "the federated token has no expiration time (exp)".to_owned(),
            "Configure the issuer to set exp: Entra rejects a token without it.",
        ));
    };
    if expiry <= now {
        let detail = format!("the federated token expired on {expiry}, {} s ago", now.since(expiry).as_secs());
        let remedy = match made_on_demand {
            true => "Check the clocks of this node and of the source: it issued a token that is no longer valid.",
            false => {
                "Check that the token is renewed, and the node's clock. If the file contains a newer token, Envoy missed the \
                 change: set watched_directory to the folder in which the writer renames files. In Kubernetes this is the \
                 volume's mount path, which contains ..data; elsewhere it is the token file's own folder. A file that is \
                 overwritten in place needs watch_modify (Envoy 1.40) or file_server (Envoy 1.38)."
            }
        };
        return Err(Problem::new(Code::AssertionExpired, detail, remedy));
    }
    match claims.get("nbf").and_then(seconds) {
        Some(start) if start.since(now) > START_LEEWAY => Err(Problem::new(
            Code::AssertionNotYetValid,
            format!("the federated token is not valid before {start}, in {} s", start.since(now).as_secs()),
            "Check the clock of this node and that of the issuer.",
        )),
        start => {
            let issued_at = claims.get("iat").and_then(seconds).or(start);
            Ok(Lifetime { issued_at, expires_at: expiry })
        }
    }
}

/// Parses a NumericDate, which may have a fraction (RFC 7519, section 2). Fractions are rounded down.
fn seconds(value: &Json) -> Option<Timestamp> {
    // A date beyond the range of u64 stays far in the future.
    value.floor().map(Timestamp::from_unix_seconds)
}

fn invalid(detail: String, remedy: &str) -> Problem {
    Problem::new(Code::AssertionInvalid, detail, remedy)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_334_000);

    /// A JWT with this header, these claims and a made-up signature.
    pub(crate) fn jwt(header: &Value, claims: &Value) -> String {
        // Sorted by name: the order in a `Value` depends on which features of serde_json other crates of the build use.
        let part = |value: &Value| {
            let sorted: std::collections::BTreeMap<_, _> = value.as_object().into_iter().flatten().collect();
            URL_SAFE_NO_PAD.encode(serde_json::to_string(&sorted).unwrap())
        };
        format!("{}.{}.c2lnbmF0dXJl", part(header), part(claims))
    }

    pub(crate) fn claims() -> Value {
        json!({
            "aud": ["api://AzureADTokenExchange"], "iss": "https://issuer.example/cluster",
            "sub": "system:serviceaccount:payments:api",
            "nbf": 1_795_333_935_u64, "exp": 1_795_337_535_u64,
        })
    }

    fn parse(header: &Value, claims: &Value) -> Result<Assertion, Problem> {
        Assertion::parse(jwt(header, claims).as_bytes(), NOW)
    }

    fn assert_invalid(header: &Value, claims: &Value, detail: &str) {
        assert_rejected(Code::AssertionInvalid, header, claims, detail);
    }

    fn assert_rejected(code: Code, header: &Value, claims: &Value, detail: &str) {
        let problem = parse(header, claims).err().unwrap();
        assert_eq!(problem.code, code);
        assert!(problem.detail.contains(detail), "{}", problem.detail);
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    #[test]
    fn a_projected_token_is_parsed_with_or_without_a_newline() {
        let token = jwt(&json!({"alg": "RS256"}), &claims());
        for content in [token.clone(), format!("{token}\n")] {
            let assertion = Assertion::parse(content.as_bytes(), NOW).unwrap();
            assert_eq!(assertion.expose(), token);
            assert_eq!(
                assertion.claims().to_string(),
                "issuer \"https://issuer.example/cluster\", subject \"system:serviceaccount:payments:api\", \
                 audience \"api://AzureADTokenExchange\""
            );
        }
    }

    #[test]
    fn the_remedy_for_an_expired_token_names_the_watched_folder() {
        let rs256 = json!({"alg": "RS256"});
        assert_rejected(Code::AssertionExpired, &rs256, &with("exp", json!(1_795_333_999.5)), "expired");
        let remedy = parse(&rs256, &with("exp", json!(1))).err().unwrap().remedy;
        for form in ["..data", "the token file's own folder", "watch_modify", "file_server"] {
            assert!(remedy.contains(form), "{remedy}");
        }
    }

    #[test]
    fn a_token_that_entra_would_reject_is_rejected_with_a_detail() {
        let rs256 = json!({"alg": "RS256"});
        assert_invalid(&json!({"alg": "ES256"}), &claims(), "ES256");
        assert_invalid(&json!({"alg": "HS256"}), &claims(), "HS256");
        for (claim, detail) in
            [("iss", "no issuer"), ("sub", "no subject"), ("aud", "no audience"), ("exp", "no expiration time")]
        {
            for other in [Value::Null, json!({}), json!([]), json!([1]), json!(""), json!(true)] {
                assert_invalid(&rs256, &with(claim, other), detail);
            }
        }
        assert_invalid(&rs256, &with("aud", json!([""])), "no audience");
        assert_invalid(&rs256, &with("aud", json!(["a", "account"])), "2 audiences");
        assert_invalid(&rs256, &with("exp", json!("1795337535")), "no expiration time");
    }

    #[test]
    fn a_token_whose_nbf_is_within_five_minutes_is_accepted_and_an_expired_one_never() {
        let rs256 = json!({"alg": "RS256"});
        for ahead in [0, 1, 60, 300] {
            assert!(parse(&rs256, &with("nbf", json!(NOW.unix_seconds() + ahead))).is_ok(), "{ahead}");
        }
        for ahead in [301, 3600] {
            let claims = with("nbf", json!(NOW.unix_seconds() + ahead));
            assert_rejected(Code::AssertionNotYetValid, &rs256, &claims, "not valid before");
        }
        for ago in [0, 1, 299] {
            let claims = with("exp", json!(NOW.unix_seconds() - ago));
            assert_rejected(Code::AssertionExpired, &rs256, &claims, "expired");
        }
    }

    #[test]
    fn only_a_token_of_entra_may_have_the_guid_of_the_exchange_application_instead_of_the_expected_audience() {
        let expected = Expected { audience: Some("api://AzureADTokenExchange".to_owned()), ..Expected::default() };
        let accepts = |issuer: &str, audience: &str| {
            let mut claims = with("iss", json!(issuer));
            claims["aud"] = json!(audience);
            let token = jwt(&json!({"alg": "RS256"}), &claims);
            Assertion::parse_expected(token.as_bytes(), &expected, NOW).is_ok()
        };
        let entra = "https://login.microsoftonline.com/11111111-1111-4111-8111-111111111111/v2.0";
        assert!(accepts(entra, EXCHANGE_APPLICATION) && accepts(entra, "api://AzureADTokenExchange"));
        assert!(!accepts(entra, "00000003-0000-0000-c000-000000000000"));
        assert!(!accepts("https://issuer.example", EXCHANGE_APPLICATION));
    }

    #[test]
    fn claims_are_displayed_on_one_line_and_truncated() {
        let mut claims = with("sub", json!(format!("a\r\nevent=forged \u{202e}{}", "x".repeat(9000))));
        claims["iss"] = json!("https://issuer.example");
        let assertion = parse(&json!({"alg": "RS256"}), &claims).unwrap();
        let shown = assertion.claims().to_string();
        assert!(shown.len() < 1500 && shown.contains("subject \"a event=forged xxx"), "{shown}");
        let long = json!({"alg": format!("none\n{}", "x".repeat(5000))});
        assert!(parse(&long, &claims).err().unwrap().detail.len() < 1200);
    }

    #[test]
    fn a_token_in_a_claim_is_not_displayed() {
        for name in ["iss", "sub", "aud"] {
            for token in ["eyJhY2Nlc3M..c2ln", "x eyJhY2Nlc3M.b.c", "client_assertion=eyJhY2Nlc3M.b.c"] {
                let shown = match parse(&json!({"alg": "RS256"}), &with(name, json!(token))) {
                    Ok(assertion) => assertion.claims().to_string(),
                    Err(problem) => problem.detail.to_string(),
                };
                assert!(shown.contains("\"(a token)\"") && !shown.contains("eyJ"), "{name}: {shown}");
            }
        }
    }

    #[test]
    fn content_that_is_not_a_jwt_is_rejected() {
        for content in [&b"hello"[..], b"a.b.c", b"a.b", b"e30.e30.x.y", b"W10.W10.x"] {
            assert_eq!(Assertion::parse(content, NOW).err().unwrap().code, Code::AssertionMalformed);
        }
        for content in [&b""[..], b" \n", b"\xff\xfe"] {
            assert_eq!(Assertion::parse(content, NOW).err().unwrap().code, Code::AssertionUnavailable);
        }
        let of_length = |length| Assertion::parse(&vec![b'a'; length], NOW).err().unwrap();
        assert_eq!(of_length(16_384).detail, "the federated token is not a JWT");
        assert!(of_length(16_385).detail.contains("16385 bytes long, more than 16384"));
    }
}
