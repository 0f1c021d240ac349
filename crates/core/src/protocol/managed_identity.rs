//! Parts of a reply that all managed-identity protocols share.

use crate::entra::AccessToken;
use crate::http::Reply;
use crate::json::ObjectWriter;
use crate::problem::{Code, Problem};

/// The HTTP status for a problem. Clients retry 404, 410, 429 and 5xx, and fail on other 4xx. So the status is 400 if something must be
/// changed (Entra or the source of the federated token refused, Entra would reject the federated token, or an environment variable is
/// missing), and 503 if the problem may be transient, such as an expired federated token or a cluster that Envoy does not have yet.
pub(super) const fn status(code: Code) -> u16 {
    match code {
        Code::EntraRefused
        | Code::SourceRefused
        | Code::AssertionInvalid
        | Code::AssertionMalformed
        | Code::AssertionUnexpected
        | Code::EnvVarMissing => 400,
        Code::TokenWaitTimeout => 503,
        code => code.status(),
    }
}

/// The body of a reply, beginning with the token. JSON escapes no character that a token may have.
pub(super) fn with_token(token: &AccessToken) -> ObjectWriter {
    let mut body = ObjectWriter::new();
    body.plain("access_token", token.expose());
    body
}

/// Adds `Retry-After` to the reply to a problem, but only with a status that means a retry. The SDKs for Python retry on any status if
/// the header is present, so a developer would wait for minutes to see the refusal.
pub(super) fn with_retry_after(problem: &Problem, reply: Reply) -> Reply {
    if matches!(reply.status, 429 | 503) { super::with_retry_after(problem, reply) } else { reply }
}

/// The detail and the remedy as one text, for protocols with one text field.
pub(super) fn sentence(problem: &Problem) -> String {
    format!("{}. {}", problem.detail.trim_end_matches('.'), problem.remedy)
}
