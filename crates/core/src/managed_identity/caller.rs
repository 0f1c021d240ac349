//! The caller of a managed-identity endpoint, and the replies in its protocol.

use super::{app_service, imds};
use crate::broker::{CachedToken, RejectedToken};
use crate::decision::{ConfigPath, Decision, Refusal};
use crate::http::Reply;
use crate::problem::Problem;
use crate::time::Timestamp;

/// The protocol of a managed-identity endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The instance metadata service of a virtual machine.
    Imds,
    /// App Service, in this version.
    AppService(app_service::Version),
}

/// The caller of a managed-identity endpoint, with what its reply needs.
#[derive(Clone, Debug)]
pub struct Caller {
    pub(super) protocol: Protocol,
    /// The resource as the caller sent it.
    pub(super) resource: String,
    /// The client id of the identity.
    pub(super) client_id: String,
    /// Whether the caller selected the identity by its client id.
    pub(super) named_by_client_id: bool,
    /// The token that the caller rejects, if any.
    pub(crate) rejected_token: Option<RejectedToken>,
}

impl Caller {
    /// The reply with a token.
    pub(crate) fn token_reply(&self, cached: &CachedToken, now: Timestamp) -> Reply {
        match self.protocol {
            Protocol::Imds => imds::token_reply(cached, &self.client_id, &self.resource, now),
            Protocol::AppService(version) => {
                app_service::token_reply(version, cached, &self.client_id, self.named_by_client_id, &self.resource)
            }
        }
    }

    /// The protocol of the reply.
    pub(crate) const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The reply with the problem that no token is available.
    pub(crate) fn problem_reply(&self, problem: &Problem) -> Reply {
        self.protocol.problem_reply(problem)
    }
}

impl Protocol {
    /// The part of the configuration that enables it.
    pub(crate) const fn decided_by(self) -> ConfigPath {
        match self {
            Self::Imds => ConfigPath::Imds,
            Self::AppService(_) => ConfigPath::AppService,
        }
    }

    /// Rejects a request with a problem.
    pub(super) fn refuse(self, problem: Problem) -> Decision {
        let reply = self.problem_reply(&problem);
        Decision::Refuse(Refusal { problem, decided_by: self.decided_by(), reply })
    }

    /// The reply with a problem.
    pub(super) fn problem_reply(self, problem: &Problem) -> Reply {
        match self {
            Self::Imds => imds::problem_reply(problem),
            Self::AppService(_) => app_service::problem_reply(problem),
        }
    }
}
