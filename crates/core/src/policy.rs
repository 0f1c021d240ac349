//! What becomes of a request: the one place that asks whether it is a destination's or a managed-identity caller's.

use std::sync::Arc;

use crate::broker::{Issued, Need, Readiness, Stale};
use crate::config::{Config, Status};
use crate::destination::Destinations;
use crate::entra::Grant;
use crate::host::Host;
use crate::http::{Reply, Request};
use crate::managed_identity::{self, Caller, Endpoint};
use crate::metrics::Outcome;
use crate::path;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// What to do with a request.
#[derive(Debug)]
pub enum Decision {
    /// Let it go on as it came: it is none of ours.
    Ignore,
    /// Let it go on as it came, though it is this identity's.
    Pass(Arc<str>),
    /// Answer it, by the rules for this identity, where one is known.
    Refuse(Option<Arc<str>>, Reply),
    /// Get this token, then do this with it.
    Exchange(Arc<Grant>, Delivery),
    /// Let it go on as it came, and have this token fetched all the same.
    Report(Arc<Grant>),
    /// Answer it: it is about the filter, and no identity's.
    Reply(Reply),
    /// Answer whether this holds.
    Check(Arc<Readiness>),
    /// Show the state of all tokens.
    Status,
}

/// What becomes of a token, or of the problem that there is none.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// The request goes on with the token in its `Authorization` header.
    Inject {
        /// When no token can be had it goes on all the same, as it came.
        pass_on_failure: bool,
    },
    /// The request is answered as Azure's own endpoint would.
    ManagedIdentity(Caller),
}

/// What the shell does to a request in the end. It may hold a token, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Effect {
    /// Set the request's `Authorization` header to this, in place of any other, and let the request go on.
    Authorize(String),
    /// Let the request go on as it came.
    Pass,
    /// Answer it.
    Reply(Reply),
}

impl Delivery {
    /// What is needed of the token for it.
    pub const fn need(&self) -> Need {
        match self {
            Self::Inject { .. } => Need::Usable,
            Self::ManagedIdentity(_) => Need::LongLived,
        }
    }

    /// The token that is not wanted for it any more.
    pub const fn stale(&self) -> Option<Stale> {
        match self {
            Self::Inject { .. } => None,
            Self::ManagedIdentity(caller) => caller.stale,
        }
    }

    /// What to do to the request, now that there is a token, or a problem; and what that is called.
    pub fn deliver(&self, outcome: Result<&Issued, &Problem>, now: Timestamp) -> (Effect, Outcome) {
        match (self, outcome) {
            // RFC 6750, section 2.1.
            (Self::Inject { .. }, Ok(issued)) => {
                (Effect::Authorize(format!("Bearer {}", issued.token().expose())), Outcome::Injected)
            }
            (Self::Inject { pass_on_failure: true }, Err(_)) => (Effect::Pass, Outcome::Passed),
            (Self::Inject { .. }, Err(problem)) => (Effect::Reply(problem.to_reply()), Outcome::Failed),
            (Self::ManagedIdentity(caller), Ok(issued)) => {
                (Effect::Reply(caller.token_reply(issued, now)), Outcome::Answered)
            }
            (Self::ManagedIdentity(caller), Err(problem)) => {
                (Effect::Reply(caller.problem_reply(problem)), Outcome::Failed)
            }
        }
    }
}

/// A configuration, ready to decide. It is made once and never changes.
pub struct Policy {
    destinations: Destinations,
    managed_identity: Option<Endpoint>,
    status: Option<Status>,
}

impl Policy {
    /// Makes the policy of a configuration, for a proxy that may be a gateway.
    pub fn new(config: &Config, on_gateway: bool) -> Self {
        let endpoint = |answers| Endpoint::new(answers, config, on_gateway);
        Self {
            destinations: Destinations::new(config),
            managed_identity: config.managed_identity.as_ref().map(endpoint),
            status: config.status.clone(),
        }
    }

    /// The tokens that are to be kept fresh even when nobody asks.
    pub fn warm(&self) -> &[Arc<Grant>] {
        self.destinations.warm()
    }

    /// Decides about a request. One that needs no token costs one look, at its authority.
    pub fn decide(&self, request: &dyn Request) -> Decision {
        let authority = request.header(":authority").unwrap_or_default();
        let Some(host) = Host::parse(&authority) else { return Decision::Ignore };
        if let Some(decision) = self.status.as_ref().and_then(|status| status.decide(&host, request)) {
            return decision;
        }
        let endpoint = self.managed_identity.as_ref().filter(|endpoint| endpoint.answers(&host));
        match endpoint {
            Some(endpoint) => endpoint.decide(&host, request).unwrap_or(Decision::Ignore),
            None => self.destinations.decide(&host, request),
        }
    }
}

impl Status {
    /// Decides about a request to one of its hosts; `None` when it is for another path.
    fn decide(&self, host: &Host<'_>, request: &dyn Request) -> Option<Decision> {
        if self.hosts.iter().all(|own| *own != host.name) {
            return None;
        }
        let target = request.header(":path").unwrap_or_default();
        let (path, _) = path::split(&target);
        if path != self.path.as_bytes() {
            return None;
        }
        let local = managed_identity::is_local(request);
        let allowed = if local { managed_identity::must_be_get(request) } else { Err(not_local()) };
        Some(match allowed {
            Ok(()) => Decision::Status,
            Err(problem) => Decision::Reply(problem.to_reply()),
        })
    }
}

fn not_local() -> Problem {
    Problem::new(
        Code::NotLocal,
        "the state of tokens is shown only in the pod itself, on a loopback address",
        "Ask from within the pod, such as with kubectl exec or kubectl port-forward.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_injected_as_a_bearer_token_and_a_problem_is_told() {
        let now = Timestamp::from_unix_seconds(0);
        let token = crate::entra::AccessToken::parse("abc").unwrap();
        let issued = Issued::new(token, now, std::time::Duration::from_secs(60), None, 0);
        let inject = Delivery::Inject { pass_on_failure: false };
        assert!(inject.deliver(Ok(&issued), now) == (Effect::Authorize("Bearer abc".to_owned()), Outcome::Injected));
        let problem = Problem::new(Code::EntraRefused, "d", "r");
        assert!(inject.deliver(Err(&problem), now) == (Effect::Reply(problem.to_reply()), Outcome::Failed));
        assert!(
            Delivery::Inject { pass_on_failure: true }.deliver(Err(&problem), now) == (Effect::Pass, Outcome::Passed)
        );
    }
}
