//! Replies of App Service's token endpoint.
//!
//! Protocol: learn.microsoft.com, "How to use managed identities for App Service and Azure Functions", REST endpoint
//! reference; its first version (2017-09-01) as the client libraries of that time implement it.

use serde::Serialize;

use super::{AppServiceVersion, Caller, managed_identity};
use crate::entra::AccessToken;
use crate::http::Reply;
use crate::problem::Problem;
use crate::time::Timestamp;

/// The body of a token reply without the token; every value is a string. It has no `not_before`: adal for Go parses that as a number in both versions,
/// and fails on the first version's dates.
#[derive(Serialize)]
struct TokenBody<'a> {
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

/// The reply with a token. In the first version it has the client id only if the caller selected the identity by it.
pub(super) fn token_reply(
    version: AppServiceVersion,
    caller: &Caller,
    token: &AccessToken,
    expires_at: Timestamp,
) -> Reply {
    let (expires_on, has_client_id) = match version {
        AppServiceVersion::First => (date(expires_at), caller.named_by_client_id),
        AppServiceVersion::Current => (expires_at.unix_seconds().to_string(), true),
    };
    let body = TokenBody {
        client_id: has_client_id.then_some(caller.client_id.as_str()),
        expires_on,
        resource: &caller.resource,
        token_type: "Bearer",
    };
    managed_identity::token_reply(token, &body)
}

/// The reply with a problem.
pub(super) fn problem_reply(problem: &Problem) -> Reply {
    let status = managed_identity::status(problem.code);
    let body = ErrorBody { status_code: status, message: managed_identity::sentence(problem) };
    managed_identity::with_retry_after(problem, Reply::json(status, "application/json; charset=utf-8", &body))
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
