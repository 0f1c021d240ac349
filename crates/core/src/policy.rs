//! What becomes of a request: the one place that asks whether it is a destination's or a managed-identity caller's.

use std::sync::Arc;

use crate::broker::{Issued, Need};
use crate::config::Config;
use crate::destination::Destinations;
pub use crate::destination::OWN_HEADER;
use crate::entra::Grant;
use crate::host::Host;
use crate::http::{Reply, Request};
use crate::managed_identity::{self, Endpoint};
use crate::metrics::Outcome;
use crate::problem::Problem;
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
    /// Let it go on as it came, and see that this token can be had.
    Report(Arc<Grant>),
    /// Ask again when its connection to the upstream is there: only then it is known where a token would go.
    AwaitConnection,
    /// Get this token, then do this with it.
    Exchange(Arc<Grant>, Delivery),
}

/// What becomes of a token, or of the problem that there is none.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// The request goes on with the token.
    Inject(Injection),
    /// The request is answered as the instance metadata service would.
    ManagedIdentity {
        /// The resource, as the caller wrote it.
        resource: String,
        /// Whose token it is.
        client_id: String,
    },
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
            Self::ManagedIdentity { .. } => Need::LongLived,
        }
    }

    /// What to do to the request, now that there is a token, or a problem; and what that is called.
    pub fn deliver(&self, outcome: Result<&Issued, &Problem>, now: Timestamp) -> (Effect, Outcome) {
        match (self, outcome) {
            (Self::Inject(injection), Ok(issued)) => (injection.authorize(issued), Outcome::Injected),
            (Self::Inject(injection), Err(_)) if injection.pass_on_failure => (Effect::Pass, Outcome::Passed),
            (Self::Inject(_), Err(problem)) => (Effect::Refuse(problem.clone()), Outcome::Failed),
            (Self::ManagedIdentity { resource, client_id }, Ok(issued)) => {
                (Effect::Reply(managed_identity::token_reply(issued, client_id, resource, now)), Outcome::Answered)
            }
            (Self::ManagedIdentity { .. }, Err(problem)) => {
                (Effect::Reply(managed_identity::problem_reply(problem)), Outcome::Failed)
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
}

impl Policy {
    /// Makes the policy of a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            destinations: Destinations::new(config),
            managed_identity: config.managed_identity.as_ref().map(|answers| Endpoint::new(answers, config)),
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
        match &self.managed_identity {
            Some(endpoint) if endpoint.answers(&host) => endpoint.decide(request),
            _ => self.destinations.decide(&host, request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

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
