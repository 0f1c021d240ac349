//! The token endpoint: what is sent to it, and what its answer means.
//!
//! The request is the client-credentials grant with a JWT as client assertion (RFC 6749, section 4.4; RFC 7523,
//! section 2.2), in the form of Microsoft's v2.0 endpoint (learn.microsoft.com, "OAuth 2.0 client credentials flow",
//! third case).

mod authority;
mod catalogue;
mod grant;

pub use authority::{Authority, AuthorityMistake, Cloud};
pub(crate) use catalogue::{Passing, is_of_credential};
pub use grant::{CredentialKey, Grant, GrantParts, TokenKey};

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::assertion::{Assertion, Claims};
use crate::http::CallResult;
use crate::problem::{Code, EntraDiagnosis, Problem};
use crate::time::Timestamp;

/// No answer of the token endpoint is longer.
const LONGEST_ANSWER: usize = 256 * 1024;

/// No token of Entra's lives longer than a day; what claims more is believed only this far.
const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The status with which Entra throttles (RFC 6585, section 4).
const TOO_MANY_REQUESTS: u16 = 429;

/// The longest `Retry-After` that is obeyed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// An Entra access token. `Debug` hides it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct AccessToken(String);

impl TryFrom<String> for AccessToken {
    type Error = &'static str;

    /// What lies in shared data is judged as what Entra sends: it becomes a header.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("this is no token")
    }
}

impl AccessToken {
    /// A token as RFC 6750, section 2.1 writes it (`b64token`); anything else, such as a line break, is no token.
    pub fn parse(text: &str) -> Option<Self> {
        let fits =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
        (!text.is_empty() && text.bytes().all(fits)).then(|| Self(text.to_owned()))
    }

    /// Its SHA-256, by which a client can name it without showing it.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }

    /// The token itself, for the header or the reply that it is meant for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AccessToken(hidden)")
    }
}

/// A request to the token endpoint. `Debug` hides the body, which holds the assertion.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// The authority's host.
    pub authority: String,
    /// The path, with the tenant.
    pub path: String,
    /// The form.
    pub body: String,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TokenRequest").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TokenRequest {
    pub(crate) fn new(grant: &Grant, assertion: &Assertion) -> Self {
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", grant.client_id())
            .append_pair("scope", grant.scope())
            .append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
            .append_pair("client_assertion", assertion.expose())
            .finish();
        Self {
            authority: grant.authority().host().to_owned(),
            path: format!("/{}/oauth2/v2.0/token", grant.tenant_id()),
            body,
        }
    }
}

/// What the token endpoint's answer comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A token.
    Granted { token: AccessToken, expires_in: Duration, refresh_in: Option<Duration> },
    /// The endpoint was not reached: no connection, a reset, or no answer in time. Another way may lead there.
    Unreached { problem: Box<Problem> },
    /// None.
    Refused {
        problem: Box<Problem>,
        passing: Passing,
        /// What the endpoint asked for, capped.
        retry_after: Option<Duration>,
    },
}

/// Reads the endpoint's answer to a request for `grant` with an assertion of these `claims`.
pub(crate) fn read_answer(answer: CallResult, cluster: &str, grant: &Grant, claims: &Claims, now: Timestamp) -> Answer {
    let unreached =
        |problem: Problem| Answer::Unreached { problem: Box::new(problem.about(grant.identity(), grant.scope())) };
    let refused = |problem: Problem, passing: Passing, retry_after: Option<Duration>| Answer::Refused {
        problem: Box::new(problem.about(grant.identity(), grant.scope())),
        passing,
        retry_after,
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => {
            return unreached(Problem::uncalled(failure, cluster, "which leads to Entra"));
        }
    };
    if answer.is_envoys_own {
        return unreached(no_answer(answer.status, &answer.body, cluster));
    }
    let retry_after = answer.retry_after.as_deref().and_then(|value| read_retry_after(value, now));
    if answer.status == 200 && answer.body.len() <= LONGEST_ANSWER {
        return match read_grant(&answer.body, grant.tenant_id()) {
            Ok((token, expires_in, refresh_in)) => Answer::Granted { token, expires_in, refresh_in },
            Err(wrong) => refused(
                Problem::new(
                    Code::EntraReplyInvalid,
                    format!("Entra answered 200, but {wrong}"),
                    "See what stands between this Envoy and Entra: this is not how Entra answers.",
                ),
                Passing::ByItself,
                retry_after,
            ),
        };
    }
    let (problem, passing) = read_refusal(answer.status, &answer.body, cluster, claims);
    refused(problem, passing, retry_after)
}

/// The token of a successful answer (RFC 6749, section 5.1), or what is wrong with it.
fn read_grant(body: &[u8], tenant_id: &str) -> Result<(AccessToken, Duration, Option<Duration>), &'static str> {
    let body: Value = serde_json::from_slice(body).map_err(|_| "the body is no JSON")?;
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    if !text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("Bearer")) {
        return Err("token_type is not Bearer");
    }
    let token =
        text("access_token").and_then(AccessToken::parse).ok_or("access_token is missing, empty or no token")?;
    if let Some(tenant) = tenant_of(&token)
        && is_guid(tenant_id)
        && !tenant.eq_ignore_ascii_case(tenant_id)
    {
        return Err("the token is of another tenant (tid)");
    }
    let expires_in = length(body.get("expires_in")).ok_or("expires_in is missing or no number of seconds")?;
    Ok((token, expires_in, length(body.get("refresh_in"))))
}

/// `tid` of a token that can be read; access tokens are opaque to clients, and some cannot.
fn tenant_of(token: &AccessToken) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.expose().split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    Some(claims.get("tid")?.as_str()?.to_owned())
}

/// A positive number of seconds, as a number or, as some endpoints write it, a string.
fn length(value: Option<&Value>) -> Option<Duration> {
    let seconds = match value? {
        Value::Number(number) => number.as_u64()?,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds).min(LONGEST_LIFE))
}

/// `Retry-After` in both forms (RFC 9110, section 10.2.3), capped.
fn read_retry_after(value: &[u8], now: Timestamp) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            let seconds = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
            Timestamp::from_unix_seconds(seconds).since(now)
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// What came by the way to Entra is none of Entra's answers.
fn no_answer(status: u16, body: &[u8], cluster: &str) -> Problem {
    let said = redact(&String::from_utf8_lossy(body.get(..300).unwrap_or(body)));
    Problem::new(
        Code::EntraUnavailable,
        format!("the way to Entra through cluster {cluster:?} answered {status}: {}", said.trim()),
        format!(
            "It is tried again by itself. If it stays so: see in Envoy's /clusters whether {cluster:?} reaches the \
             authority's port 443, and that its trusted_ca and server name are right."
        ),
    )
}

/// What a refusal says and how it passes.
fn read_refusal(status: u16, body: &[u8], cluster: &str, claims: &Claims) -> (Problem, Passing) {
    let body = body.get(..LONGEST_ANSWER).unwrap_or(body);
    let json: Option<Value> = serde_json::from_slice(body).ok().filter(|json: &Value| json.get("error").is_some());
    let Some(json) = json else {
        let passing = if status == TOO_MANY_REQUESTS { Passing::Throttled } else { Passing::ByItself };
        return (no_answer(status, body, cluster), passing);
    };
    let text = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
    let description = redact(&text("error_description").unwrap_or_default());
    let aadsts = json
        .get("error_codes")
        .and_then(Value::as_array)
        .and_then(|codes| codes.iter().find_map(|code| u32::try_from(code.as_u64()?).ok()))
        .or_else(|| aadsts_in(&description));
    let diagnosis = EntraDiagnosis {
        error: text("error"),
        aadsts,
        trace_id: text("trace_id"),
        correlation_id: text("correlation_id"),
    };
    let row = aadsts.and_then(catalogue::row);
    let passing = match row {
        _ if status == TOO_MANY_REQUESTS => Passing::Throttled,
        Some(row) => row.passing,
        None if status >= 500 || diagnosis.error.as_deref() == Some("temporarily_unavailable") => Passing::ByItself,
        None => Passing::ByChange,
    };
    let code = if passing.is_transient() { Code::EntraUnavailable } else { Code::EntraRefused };
    // The lines after the first repeat what has members of its own.
    let said = description.lines().next().unwrap_or_default().trim();
    let said = if said.is_empty() { diagnosis.error.as_deref().unwrap_or("no reason given") } else { said };
    let mut problem = Problem::new(
        code,
        format!("{said} (the federated token says: {claims})"),
        row.map_or(
            "Look the code up at https://login.microsoftonline.com/error, and the trace id in the sign-in log.",
            |row| row.remedy,
        ),
    );
    problem.entra = diagnosis;
    (problem, passing)
}

/// The code in `AADSTS700213: …`.
fn aadsts_in(description: &str) -> Option<u32> {
    let (_, rest) = description.split_once("AADSTS")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// A text from outside without anything that looks like a JWT, whose header always begins with `{"`, in base64 `eyJ`.
fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("eyJ") {
        clean.push_str(before);
        clean.push_str("(a token)");
        let in_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '=' | '+' | '/');
        rest = after.trim_start_matches(in_token);
    }
    clean.push_str(rest);
    clean
}

/// Whether this is a GUID in its usual form, as tenants and clients have.
pub(crate) fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// What tests elsewhere in the crate share.
#[cfg(test)]
pub(crate) mod tests_support {
    use super::*;
    use crate::assertion::Source;

    /// The grant of identity `payments` for Key Vault.
    pub(crate) fn grant() -> Grant {
        Grant::new(&GrantParts {
            identity: "payments",
            authority: &Authority::public(),
            tenant_id: "11111111-1111-4111-8111-111111111111",
            client_id: "aaaaaaaa-0000-4000-8000-000000000001",
            scope: "https://vault.azure.net/.default",
            assertion: &Source::File { cluster: "projected_token".to_owned() },
            clusters: &["entra".to_owned()],
            discard_before: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::tests_support::grant;
    use super::*;
    use crate::assertion::tests::{NOW, claims, jwt};
    use crate::http::{CallFailure, Response};
    use serde_json::json;

    fn assertion() -> Assertion {
        Assertion::parse(jwt(&json!({"alg": "RS256"}), &claims()).as_bytes(), NOW).unwrap()
    }

    fn answer(status: u16, body: &str) -> Answer {
        answer_with(status, body, None)
    }

    fn answer_with(status: u16, body: &str, retry_after: Option<&str>) -> Answer {
        let response = Response {
            status,
            retry_after: retry_after.map(|value| value.as_bytes().to_vec()),
            body: body.as_bytes().to_vec(),
            is_envoys_own: false,
        };
        read_answer(Ok(response), "entra", &grant(), assertion().claims(), NOW)
    }

    fn refused(answer: Answer) -> (Problem, Passing, Option<Duration>) {
        let Answer::Refused { problem, passing, retry_after } = answer else { panic!("{answer:?}") };
        (*problem, passing, retry_after)
    }

    #[test]
    fn the_request_is_the_client_credentials_grant_with_an_assertion() {
        let request = TokenRequest::new(&grant(), &assertion());
        assert_eq!(request.authority, "login.microsoftonline.com");
        assert_eq!(request.path, "/11111111-1111-4111-8111-111111111111/oauth2/v2.0/token");
        let fields: Vec<(String, String)> = form_urlencoded::parse(request.body.as_bytes()).into_owned().collect();
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            fields,
            [
                ("grant_type", "client_credentials"),
                ("client_id", "aaaaaaaa-0000-4000-8000-000000000001"),
                ("scope", "https://vault.azure.net/.default"),
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ("client_assertion", assertion().expose()),
            ]
        );
        assert!(!format!("{request:?}").contains("eyJ"));
    }

    #[test]
    fn what_would_end_a_header_is_no_token_wherever_it_comes_from() {
        for text in ["a\rb", "a\nb", "a\0b", "a b", ""] {
            assert!(AccessToken::parse(text).is_none(), "{text:?}");
            assert!(serde_json::from_value::<AccessToken>(Value::from(text)).is_err(), "{text:?}");
        }
        let token: AccessToken = serde_json::from_value(Value::from("a.b")).unwrap();
        assert_eq!(serde_json::to_value(&token).unwrap(), "a.b");
    }

    #[test]
    fn a_token_is_read_with_its_times() {
        let granted = Answer::Granted {
            token: AccessToken("abc.def".into()),
            expires_in: Duration::from_secs(3599),
            refresh_in: None,
        };
        assert_eq!(answer(200, r#"{"token_type":"Bearer","expires_in":3599,"access_token":"abc.def"}"#), granted);
        assert_eq!(answer(200, r#"{"token_type":"bearer","expires_in":"3599","access_token":"abc.def"}"#), granted);
        let Answer::Granted { expires_in, refresh_in, .. } = answer(
            200,
            r#"{"token_type":"Bearer","expires_in":18446744073709551615,"refresh_in":43199,"access_token":"a"}"#,
        ) else {
            panic!()
        };
        assert_eq!((expires_in, refresh_in), (LONGEST_LIFE, Some(Duration::from_secs(43199))));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_no_token() {
        for body in [
            "",
            "<html>",
            "{",
            "[]",
            r#"{"token_type":"Bearer","expires_in":1}"#,
            r#"{"token_type":"pop","expires_in":1,"access_token":"a"}"#,
            r#"{"token_type":"Bearer","expires_in":1,"access_token":""}"#,
            r#"{"token_type":"Bearer","expires_in":1,"access_token":"a\r\nx: y"}"#,
            r#"{"token_type":"Bearer","access_token":"a"}"#,
            r#"{"token_type":"Bearer","expires_in":-1,"access_token":"a"}"#,
            r#"{"token_type":"Bearer","expires_in":0,"access_token":"a"}"#,
        ] {
            let (problem, passing, _) = refused(answer(200, body));
            assert_eq!((problem.code, passing), (Code::EntraReplyInvalid, Passing::ByItself), "{body}");
        }
    }

    #[test]
    fn a_token_of_another_tenant_is_refused() {
        let token = |tid: &str| {
            let body = json!({"token_type": "Bearer", "expires_in": 60, "access_token": jwt(&json!({}), &json!({"tid": tid}))});
            answer(200, &body.to_string())
        };
        assert!(matches!(token("11111111-1111-4111-8111-111111111111"), Answer::Granted { .. }));
        assert!(refused(token("22222222-2222-4222-8222-222222222222")).0.detail.contains("another tenant"));
    }

    #[test]
    fn a_refusal_carries_entras_words_the_claims_and_the_remedy() {
        let body = json!({
            "error": "invalid_client",
            "error_description": "AADSTS700213: No matching federated identity record found.\r\nTrace ID: t\r\nCorrelation ID: c",
            "error_codes": [700213], "trace_id": "t", "correlation_id": "c",
        });
        let (problem, passing, _) = refused(answer(401, &body.to_string()));
        assert_eq!((problem.code, passing), (Code::EntraRefused, Passing::RetrySoon));
        assert!(problem.detail.starts_with(
            "AADSTS700213: No matching federated identity record found. (the federated token says: issuer"
        ));
        assert!(problem.detail.contains("system:serviceaccount:payments:api"));
        assert!(problem.remedy.contains("subject"));
        assert_eq!(problem.aadsts().as_deref(), Some("AADSTS700213"));
        assert_eq!(problem.identity.as_deref(), Some("payments"));
    }

    #[test]
    fn how_a_refusal_passes_is_judged_by_code_then_by_status() {
        let error = |status: u16, body: &str| {
            let (problem, passing, _) = refused(answer(status, body));
            (problem.code, passing)
        };
        assert_eq!(
            error(400, r#"{"error":"x","error_description":"AADSTS700016: no"}"#),
            (Code::EntraRefused, Passing::ByChange)
        );
        assert_eq!(
            error(400, r#"{"error":"x","error_codes":[700024]}"#),
            (Code::EntraRefused, Passing::FreshAssertion)
        );
        assert_eq!(error(400, r#"{"error":"x","error_codes":[90033]}"#), (Code::EntraUnavailable, Passing::ByItself));
        for (status, body) in [
            (429, r#"{"error":"x"}"#),
            (429, r#"{"error":"x","error_codes":[700016]}"#),
            (429, "slow down"),
            (400, r#"{"error":"x","error_codes":[50196]}"#),
            (400, r#"{"error":"x","error_codes":[90055]}"#),
        ] {
            assert_eq!(error(status, body), (Code::EntraUnavailable, Passing::Throttled), "{status} {body}");
        }
        assert_eq!(error(400, r#"{"error":"temporarily_unavailable"}"#), (Code::EntraUnavailable, Passing::ByItself));
        assert_eq!(error(400, r#"{"error":"x","error_codes":[999]}"#), (Code::EntraRefused, Passing::ByChange));
        assert_eq!(error(503, "upstream connect error"), (Code::EntraUnavailable, Passing::ByItself));
        assert_eq!(error(200, &"x".repeat(LONGEST_ANSWER + 1)), (Code::EntraUnavailable, Passing::ByItself));
    }

    #[test]
    fn a_missing_cluster_is_named() {
        let answer = read_answer(Err(CallFailure::NoSuchCluster), "entra", &grant(), assertion().claims(), NOW);
        let Answer::Unreached { problem } = answer else { panic!("{answer:?}") };
        assert_eq!(problem.code, Code::ClusterMissing);
        assert!(problem.detail.contains("\"entra\""));
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_capped() {
        let wait = |value: &str| refused(answer_with(429, "{}", Some(value))).2;
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999999"), Some(LONGEST_RETRY_AFTER));
        let soon = std::time::UNIX_EPOCH + Duration::from_secs(NOW.unix_seconds() + 9);
        assert_eq!(wait(&httpdate::fmt_http_date(soon)), Some(Duration::from_secs(9)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn a_token_in_somebody_elses_text_is_taken_out() {
        let token = jwt(&json!({"alg": "RS256"}), &claims());
        assert_eq!(redact(&format!("bad token '{token}', sorry")), "bad token '(a token)', sorry");
        assert_eq!(redact("nothing here"), "nothing here");
    }
}
