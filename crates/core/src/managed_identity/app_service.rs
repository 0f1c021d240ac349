//! App Service's token endpoint. It authenticates callers by a secret, so any local address can serve it.
//!
//! Protocol: learn.microsoft.com, "How to use managed identities for App Service and Azure Functions", REST endpoint
//! reference; its first version (2017-09-01) as the client libraries of that time implement it.

use serde::Serialize;

use super::guard::must_be_get;
use super::query::{Query, bad};
use super::reply;
use crate::broker::CachedToken;
use crate::http::Reply;
use crate::problem::{Code, Problem};
use crate::request::RequestView;
use crate::secret::Secret;
use crate::time::Timestamp;

/// The path of `IDENTITY_ENDPOINT` and of `MSI_ENDPOINT`.
const PATH: &[u8] = b"/msi/token";

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 2017-09-01: `MSI_ENDPOINT` and `MSI_SECRET`.
    First,
    /// 2019-08-01 and later: `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
    Current,
}

impl Version {
    /// The header with the secret.
    const fn secret_header(self) -> &'static str {
        match self {
            Self::First => "secret",
            Self::Current => "x-identity-header",
        }
    }
}

/// Whether this is the endpoint's path, with or without a trailing slash.
pub(super) fn is_token_path(path: &[u8]) -> bool {
    path.strip_suffix(b"/").unwrap_or(path) == PATH
}

/// The problem that the configuration does not enable this endpoint.
pub(super) fn not_enabled() -> Problem {
    Problem::new(
        Code::PathRefused,
        "App Service's endpoint is not enabled",
        "Set managed_identity.app_service, such as to {}, and set the same IDENTITY_HEADER for the app and the proxy.",
    )
}

/// Reads a token request.
///
/// # Errors
/// If the request is not valid. The secret is checked first.
pub(super) fn read_request(
    request: &RequestView<'_>,
    query: &[u8],
    secret: &Result<Secret, Problem>,
) -> Result<(Version, Query), Problem> {
    let version = form_urlencoded::parse(query).find(|(name, _)| name.eq_ignore_ascii_case("api-version"));
    let version = match version.as_ref().map(|(_, version)| &**version) {
        Some("2017-09-01") => Version::First,
        _ => Version::Current,
    };
    let secret = secret.as_ref().map_err(Clone::clone)?;
    if !request.header(version.secret_header()).is_some_and(|sent| secret.is(sent)) {
        return Err(Problem::new(
            Code::SecretWrong,
            format!("the header {} is missing or wrong", version.secret_header()),
            "Set the app's IDENTITY_HEADER (MSI_SECRET) to that of the proxy.",
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

/// The body of a token reply; every value is a string. It has no `not_before`: adal for Go parses that as a number in both versions,
/// and fails on the first version's dates.
#[derive(Serialize)]
struct TokenBody<'a> {
    access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    expires_on: String,
    resource: &'a str,
    token_type: &'static str,
}

/// The body of an error reply.
#[derive(Serialize)]
struct ErrorBody {
    #[serde(rename = "statusCode")]
    status_code: u16,
    message: String,
}

/// The reply with a token for `resource`. In the first version it has the client id only if the caller selected the identity by it.
pub(super) fn token_reply(
    version: Version,
    cached: &CachedToken,
    client_id: &str,
    named_by_client_id: bool,
    resource: &str,
) -> Reply {
    let (expires_on, has_client_id) = match version {
        Version::First => (date(cached.expires_at()), named_by_client_id),
        Version::Current => (cached.expires_at().unix_seconds().to_string(), true),
    };
    let body = TokenBody {
        access_token: cached.token().expose(),
        client_id: has_client_id.then_some(client_id),
        expires_on,
        resource,
        token_type: "Bearer",
    };
    Reply::json(200, "application/json; charset=utf-8", &body)
}

/// The reply with a problem.
pub(super) fn problem_reply(problem: &Problem) -> Reply {
    let status = reply::status(problem);
    let body = ErrorBody { status_code: status, message: reply::sentence(problem) };
    reply::with_retry_after(problem, Reply::json(status, "application/json; charset=utf-8", &body))
}

/// Formats a time like the first version on Linux: `06/20/2019 02:57:58 +00:00`.
fn date(at: Timestamp) -> String {
    let text = at.rfc3339();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    format!("{}/{}/{} {} +00:00", part(5, 7), part(8, 10), part(0, 4), part(11, 19))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_the_format_of_the_first_version() {
        assert_eq!(date(Timestamp::from_unix_seconds(1_561_000_678)), "06/20/2019 03:17:58 +00:00");
        assert_eq!(date(Timestamp::from_unix_seconds(u64::MAX)), "12/31/9999 23:59:59 +00:00");
    }
}
