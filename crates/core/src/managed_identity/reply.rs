//! What the replies of all protocols have in common.

use crate::http::Reply;
use crate::problem::{Code, Problem};

/// The status that clients get. They retry 404, 410, 429 and 5xx, and give up on other 4xx: so 400 is for what somebody must change
/// (a refusal of Entra's, a federated token that Entra would refuse, a variable that only a restart can bring), and 503 for what may pass
/// by itself, such as a federated token that has expired.
pub(super) fn status(problem: &Problem) -> u16 {
    match problem.code {
        Code::EntraRefused | Code::AssertionInvalid | Code::AssertionMalformed | Code::EnvVarMissing => 400,
        Code::TokenWaitTimeout => 503,
        code => code.status(),
    }
}

/// Completes the reply that tells a problem: `Retry-After` stands only where the status means that, too. The SDKs for Python wait
/// and ask again for the header alone, whatever the status, and would do so for minutes before a developer sees the refusal.
pub(super) fn with_retry_after(problem: &Problem, reply: Reply) -> Reply {
    if matches!(reply.status, 429 | 503) { problem.with_retry_after(reply) } else { reply }
}

/// The problem in one text, for clients that show only one.
pub(super) fn sentence(problem: &Problem) -> String {
    format!("{}. {}", problem.detail.trim_end_matches('.'), problem.remedy)
}
