//! App Service's endpoint for tokens, which needs no address of its own and knows its callers by a secret.
//!
//! Protocol: learn.microsoft.com, "How to use managed identities for App Service and Azure Functions", REST endpoint
//! reference; its first version (2017-09-01) as the libraries of that time speak it.

use serde::Serialize;

use super::guard::must_be_get;
use super::query::{Query, bad};
use super::reply;
use crate::broker::CachedToken;
use crate::config::Secret;
use crate::http::{Reply, RequestAccess};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// The path of `IDENTITY_ENDPOINT` and of `MSI_ENDPOINT`.
const PATH: &[u8] = b"/msi/token";

/// The version that callers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 2017-09-01: `MSI_ENDPOINT` and `MSI_SECRET`.
    First,
    /// 2019-08-01 and later: `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
    Current,
}

impl Version {
    /// The header that brings the secret.
    const fn secret_header(self) -> &'static str {
        match self {
            Self::First => "secret",
            Self::Current => "x-identity-header",
        }
    }
}

/// Whether this is the endpoint's path; one slash may stand at its end.
pub(super) fn is_token_path(path: &[u8]) -> bool {
    path.strip_suffix(b"/").unwrap_or(path) == PATH
}

/// A request to this endpoint where the configuration does not have it.
pub(super) fn off() -> Problem {
    Problem::new(
        Code::PathRefused,
        "App Service's endpoint is not switched on",
        "Set managed_identity.app_service, such as to {}, and give the app and the proxy the same IDENTITY_HEADER.",
    )
}

/// Reads a request for a token.
///
/// # Errors
/// When it is not to be answered with one: first of all without the secret.
pub(super) fn read_request(
    request: &dyn RequestAccess,
    query: &[u8],
    secret: &Result<Secret, Problem>,
) -> Result<(Version, Query), Problem> {
    let version = form_urlencoded::parse(query).find(|(name, _)| name.eq_ignore_ascii_case("api-version"));
    let version = match version.as_ref().map(|(_, version)| &**version) {
        Some("2017-09-01") => Version::First,
        _ => Version::Current,
    };
    let secret = secret.as_ref().map_err(Clone::clone)?;
    if !request.header(version.secret_header()).is_some_and(|sent| secret.is(&sent)) {
        return Err(Problem::new(
            Code::SecretWrong,
            format!("the header {} is missing or wrong", version.secret_header()),
            "Give the app the same IDENTITY_HEADER (MSI_SECRET) as the proxy.",
        ));
    }
    must_be_get(request)?;
    let query = Query::read(query)?;
    match query.version.as_deref() {
        Some("2017-09-01") => {}
        Some(version) if version >= "2019-08-01" => {}
        _ => {
            return Err(bad(
                "api-version is missing or unknown",
                "Send api-version=2019-08-01, or 2017-09-01 with MSI_ENDPOINT.",
            ));
        }
    }
    Ok((version, query))
}

/// A token as App Service replies it, all strings. There is no `not_before`: adal for Go reads it as a number in both versions, and fails
/// on the first version's dates.
#[derive(Serialize)]
struct TokenBody<'a> {
    access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    expires_on: String,
    resource: &'a str,
    token_type: &'static str,
}

#[derive(Serialize)]
struct ErrorBody {
    #[serde(rename = "statusCode")]
    status_code: u16,
    message: String,
}

/// What App Service replies with a token for `resource`. The first version shows the client id only to a caller that named one.
pub(super) fn token_reply(
    version: Version,
    cached: &CachedToken,
    client_id: &str,
    named_by_client_id: bool,
    resource: &str,
) -> Reply {
    let (expires_on, shows_client_id) = match version {
        Version::First => (date(cached.expires_at()), named_by_client_id),
        Version::Current => (cached.expires_at().unix_seconds().to_string(), true),
    };
    let body = TokenBody {
        access_token: cached.token().expose(),
        client_id: shows_client_id.then_some(client_id),
        expires_on,
        resource,
        token_type: "Bearer",
    };
    Reply::json(200, "application/json; charset=utf-8", &body)
}

/// What App Service replies when something went wrong.
pub(super) fn problem_reply(problem: &Problem) -> Reply {
    let status = reply::status(problem);
    let body = ErrorBody { status_code: status, message: reply::sentence(problem) };
    reply::with_retry_after(problem, Reply::json(status, "application/json; charset=utf-8", &body))
}

/// A time as the first version writes it on Linux: `06/20/2019 02:57:58 +00:00`.
fn date(at: Timestamp) -> String {
    let text = at.rfc3339();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    format!("{}/{}/{} {} +00:00", part(5, 7), part(8, 10), part(0, 4), part(11, 19))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_the_first_version_had_it() {
        assert_eq!(date(Timestamp::from_unix_seconds(1_561_000_678)), "06/20/2019 03:17:58 +00:00");
        assert_eq!(date(Timestamp::from_unix_seconds(u64::MAX)), "12/31/9999 23:59:59 +00:00");
    }
}
