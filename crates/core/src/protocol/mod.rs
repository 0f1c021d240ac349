//! Replies in the protocols of clients: problems for requests to destinations, and the replies of Azure's managed-identity endpoints.

mod app_service;
mod imds;
mod managed_identity;
pub(crate) mod problem_json;

use crate::entra::AccessToken;
use crate::http::Reply;
use crate::problem::{Code, Problem};
use crate::request::RequestView;
use crate::time::Timestamp;

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Any HTTP client: `application/problem+json` (RFC 9457).
    ProblemJson,
    /// A gRPC client: one line of text.
    Grpc,
    /// A client of the instance metadata service (IMDS) of a virtual machine.
    Imds,
    /// A client of App Service's token endpoint.
    AppService(AppServiceVersion),
}

/// The version of App Service's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppServiceVersion {
    /// 2017-09-01: `MSI_ENDPOINT` and `MSI_SECRET`.
    First,
    /// 2019-08-01 and later: `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
    Current,
}

/// The caller of a managed-identity endpoint, with what its reply needs.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The protocol.
    pub protocol: Protocol,
    /// The resource as the caller sent it.
    pub resource: String,
    /// The client id of the identity.
    pub client_id: String,
    /// Whether the caller selected the identity by its client id.
    pub named_by_client_id: bool,
}

impl Protocol {
    /// The protocol of a client that sends a request to a destination.
    pub(crate) fn of_client(request: &RequestView<'_>) -> Self {
        let is_grpc = request.header("content-type").is_some_and(|value| value.starts_with(b"application/grpc"));
        if is_grpc { Self::Grpc } else { Self::ProblemJson }
    }

    /// The HTTP status of the reply to a problem.
    pub const fn status(self, code: Code) -> u16 {
        match self {
            Self::ProblemJson | Self::Grpc => code.status(),
            Self::Imds | Self::AppService(_) => managed_identity::status(code),
        }
    }

    /// The reply to a problem.
    pub fn problem_reply(self, problem: &Problem) -> Reply {
        match self {
            Self::ProblemJson => problem_json::reply(problem, problem.code.status()),
            Self::Grpc => problem_json::grpc_reply(problem),
            Self::Imds => imds::problem_reply(problem),
            Self::AppService(_) => app_service::problem_reply(problem),
        }
    }
}

impl Caller {
    /// The reply with a token.
    pub(crate) fn token_reply(
        &self,
        token: &AccessToken,
        issued_at: Timestamp,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Reply {
        match self.protocol {
            Protocol::AppService(version) => app_service::token_reply(version, self, token, expires_at),
            _ => imds::token_reply(self, token, issued_at, expires_at, now),
        }
    }
}

/// Adds `Retry-After` in seconds, rounded up (RFC 9110, section 10.2.3), if the time until a retry is known.
fn with_retry_after(problem: &Problem, mut reply: Reply) -> Reply {
    if let Some(wait) = problem.retry_after {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        reply.headers.push(("retry-after", seconds.to_string()));
    }
    reply
}
