//! Who asks for a token, and in which protocol the answer is given.

use super::{app_service, imds};
use crate::broker::{CachedToken, Stale};
use crate::decision::{ConfigPath, Decision, Refusal};
use crate::http::Reply;
use crate::problem::Problem;
use crate::time::Timestamp;

/// How a caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Like a virtual machine's.
    Imds,
    /// Like App Service's.
    AppService(app_service::Version),
}

/// Who asked, and for what.
#[derive(Clone, Debug)]
pub struct Caller {
    pub(super) protocol: Protocol,
    /// As it was sent.
    pub(super) resource: String,
    /// Whose token it is.
    pub(super) client_id: String,
    /// Whether the caller named the identity by its client id.
    pub(super) named_by_client_id: bool,
    /// The token that the caller does not want any more.
    pub(crate) stale: Option<Stale>,
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

    /// The protocol of the answer.
    pub(crate) const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The reply when there is none.
    pub(crate) fn problem_reply(&self, problem: &Problem) -> Reply {
        self.protocol.problem_reply(problem)
    }
}

impl Protocol {
    /// The part of the configuration that switches it on.
    pub(crate) const fn decided_by(self) -> ConfigPath {
        match self {
            Self::Imds => ConfigPath::Imds,
            Self::AppService(_) => ConfigPath::AppService,
        }
    }

    pub(super) fn refuse(self, problem: Problem) -> Decision {
        let reply = self.problem_reply(&problem);
        Decision::Refuse(Refusal { problem, decided_by: self.decided_by(), reply })
    }

    pub(super) fn problem_reply(self, problem: &Problem) -> Reply {
        match self {
            Self::Imds => imds::problem_reply(problem),
            Self::AppService(_) => app_service::problem_reply(problem),
        }
    }
}
