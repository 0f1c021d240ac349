//! What becomes of a request: the one place that asks whether it is a destination's or a managed-identity caller's.

use std::sync::Arc;

use crate::broker::{Issued, Need, Readiness, Stale};
use crate::config::{Config, Status};
use crate::destination::Destinations;
pub use crate::destination::OWN_HEADER;
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
    /// Let it go on as it came, though a destination is for it: this identity's, where one is known.
    Pass(Option<Arc<str>>),
    /// Answer it, by the rules for this identity, where one is known.
    Refuse(Option<Arc<str>>, Reply),
    /// Ask again when its connection to the upstream is there: only then it is known where a token would go.
    AwaitConnection,
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
    /// The request goes on with the token.
    Inject(Injection),
    /// The request is answered as Azure's own endpoint would.
    ManagedIdentity(Caller),
}

/// How a token gets into a request.
#[derive(Clone, Debug)]
pub struct Injection {
    /// The header that takes it, in lower case.
    pub header: Arc<str>,
    /// The other headers with credentials that it takes the place of.
    pub in_place_of: Vec<String>,
    /// When no token can be had the request goes on all the same, as it came.
    pub pass_on_failure: bool,
}

/// What the shell does to a request in the end. It may hold a token, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Effect {
    /// Set this header in place of any other of its name, take the others away, and let the request go on.
    Authorize {
        /// Its name, in lower case.
        header: Arc<str>,
        /// Its value, with the token.
        value: String,
        /// Other credentials.
        without: Vec<String>,
    },
    /// Let the request go on as it came.
    Pass,
    /// Answer it with what went wrong, in the form that its client reads ([`Problem::reply_to`]).
    Refuse(Problem),
    /// Answer it.
    Reply(Reply),
}

impl Delivery {
    /// What is needed of the token for it.
    pub const fn need(&self) -> Need {
        match self {
            Self::Inject(_) => Need::Usable,
            Self::ManagedIdentity(_) => Need::LongLived,
        }
    }

    /// The token that is not wanted for it any more.
    pub const fn stale(&self) -> Option<Stale> {
        match self {
            Self::Inject(_) => None,
            Self::ManagedIdentity(caller) => caller.stale,
        }
    }

    /// What to do to the request, now that there is a token, or a problem; and what that is called.
    pub fn deliver(&self, outcome: Result<&Issued, &Problem>, now: Timestamp) -> (Effect, Outcome) {
        match (self, outcome) {
            (Self::Inject(injection), Ok(issued)) => (injection.authorize(issued), Outcome::Injected),
            (Self::Inject(injection), Err(_)) if injection.pass_on_failure => (Effect::Pass, Outcome::Passed),
            (Self::Inject(_), Err(problem)) => (Effect::Refuse(problem.clone()), Outcome::Failed),
            (Self::ManagedIdentity(caller), Ok(issued)) => {
                (Effect::Reply(caller.token_reply(issued, now)), Outcome::Answered)
            }
            (Self::ManagedIdentity(caller), Err(problem)) => {
                (Effect::Reply(caller.problem_reply(problem)), Outcome::Failed)
            }
        }
    }
}

impl Injection {
    fn authorize(&self, issued: &Issued) -> Effect {
        let token = issued.token().expose();
        // RFC 6750, section 2.1; what another header is to hold, nobody has laid down.
        let value = if &*self.header == "authorization" { format!("Bearer {token}") } else { token.to_owned() };
        Effect::Authorize { header: Arc::clone(&self.header), value, without: self.in_place_of.clone() }
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

    fn issued() -> Issued {
        let token = crate::entra::AccessToken::parse("abc").unwrap();
        Issued::new(token, Timestamp::default(), std::time::Duration::from_secs(60), None, 0)
    }

    fn inject(header: &str, pass_on_failure: bool) -> Delivery {
        Delivery::Inject(Injection {
            header: Arc::from(header),
            in_place_of: vec!["api-key".to_owned()],
            pass_on_failure,
        })
    }

    #[test]
    fn a_token_is_a_bearer_token_in_authorization_and_bare_in_any_other_header() {
        for (header, value) in [("authorization", "Bearer abc"), ("x-token", "abc")] {
            let effect = Effect::Authorize {
                header: Arc::from(header),
                value: value.to_owned(),
                without: vec!["api-key".to_owned()],
            };
            let delivered = inject(header, false).deliver(Ok(&issued()), Timestamp::default());
            assert!(delivered == (effect, Outcome::Injected), "{header}");
        }
    }

    #[test]
    fn without_a_token_a_request_is_refused_or_goes_on_as_it_came() {
        let problem = Problem::new(Code::EntraRefused, "d", "r");
        let of = |delivery: Delivery| delivery.deliver(Err(&problem), Timestamp::default());
        assert!(of(inject("authorization", false)) == (Effect::Refuse(problem.clone()), Outcome::Failed));
        assert!(of(inject("authorization", true)) == (Effect::Pass, Outcome::Passed));
    }
}
