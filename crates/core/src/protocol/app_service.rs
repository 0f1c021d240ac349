//! Replies of App Service's token endpoint.
//!
//! Protocol: learn.microsoft.com, "How to use managed identities for App Service and Azure Functions", REST endpoint
//! reference; its first version (2017-09-01) as the client libraries of that time implement it.

use super::{AppServiceVersion, Caller, managed_identity};
use crate::entra::AccessToken;
use crate::http::Reply;
use crate::json::ObjectWriter;
use crate::problem::Problem;
use crate::time::Timestamp;

/// The reply with a token. Every value is a string. In the first version it has the client id only if the caller selected the identity by
/// it. It has no `not_before`: adal for Go parses that as a number in both versions, and fails on the first version's dates.
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
    let mut body = managed_identity::with_token(token);
    body.some_text("client_id", has_client_id.then_some(&caller.client_id))
        .plain("expires_on", &expires_on)
        .text("resource", &caller.resource)
        .plain("token_type", "Bearer");
    Reply::json(200, "application/json; charset=utf-8", body)
}

/// The reply with a problem.
pub(super) fn problem_reply(problem: &Problem) -> Reply {
    let status = managed_identity::status(problem.code);
    let mut body = ObjectWriter::new();
    body.number("statusCode", status.into()).text("message", &managed_identity::sentence(problem));
    managed_identity::with_retry_after(problem, Reply::json(status, "application/json; charset=utf-8", body))
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
