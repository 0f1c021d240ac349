//! Replies of the instance metadata service (IMDS).
//!
//! Protocol: learn.microsoft.com, "How to use managed identities on an Azure VM to acquire an access token".

use super::{Caller, managed_identity};
use crate::entra::AccessToken;
use crate::http::Reply;
use crate::json::ObjectWriter;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;
use crate::untrusted::OAuthError;

/// The reply with a token. Every value is a string. `expires_in` precedes `expires_on`, because MSAL.NET uses the last of the two;
/// MSAL Python reads only the former, and MSAL for Java, Node and Rust only the latter.
pub(super) fn token_reply(
    caller: &Caller,
    token: &AccessToken,
    issued_at: Timestamp,
    expires_at: Timestamp,
    now: Timestamp,
) -> Reply {
    let expires_in = expires_at.since(now).as_secs().to_string();
    let mut body = managed_identity::with_token(token);
    body.text("client_id", &caller.client_id)
        .plain("expires_in", &expires_in)
        .plain("expires_on", &expires_at.unix_seconds().to_string())
        .plain("ext_expires_in", &expires_in)
        .plain("not_before", &issued_at.unix_seconds().to_string())
        .text("resource", &caller.resource)
        .plain("token_type", "Bearer");
    Reply::json(200, "application/json; charset=utf-8", body)
}

/// The reply with a problem ("Error handling" on the same page).
pub(super) fn problem_reply(problem: &Problem) -> Reply {
    let status = managed_identity::status(problem.code);
    let error = match (problem.entra.error.as_ref().map(OAuthError::as_str), problem.code) {
        (_, Code::ResourceNotAllowed) => "invalid_resource",
        // The error of an invalid client assertion (RFC 7521, section 4.2.1), which Entra uses too.
        (_, Code::AssertionInvalid | Code::AssertionMalformed | Code::AssertionUnexpected | Code::SourceRefused) => {
            "invalid_client"
        }
        (Some(error), _) if status == 400 => error,
        _ if matches!(status, 429 | 503) => "temporarily_unavailable",
        _ => "invalid_request",
    };
    let mut body = ObjectWriter::new();
    body.text("error", error).text("error_description", &managed_identity::sentence(problem));
    managed_identity::with_retry_after(problem, Reply::json(status, "application/json; charset=utf-8", body))
}
