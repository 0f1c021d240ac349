//! What is decided about a request, and what becomes of it when its token is there.

use std::fmt;
use std::sync::Arc;

use crate::azure::HeaderForm;
use crate::broker::{Issued, Need, Readiness, Stale};
use crate::entra::Grant;
use crate::http::{Reply, Request};
use crate::managed_identity::caller::Caller;
use crate::metrics::Outcome;
use crate::problem::{Code, Problem};
use crate::request_log::RequestRecord;
use crate::time::Timestamp;

/// What to do with a request.
#[derive(Debug)]
pub enum Decision {
    /// Let it go on as it came: it is none of ours.
    Ignore,
    /// Let it go on as it came, though a destination is for it: this identity's, where one is known.
    Pass(Option<Arc<str>>),
    /// Forward it unchanged, though a destination is for it and this identity would be used: it brings these credentials (their
    /// names, for a log line).
    Keep(Arc<str>, String),
    /// Answer it with a refusal.
    Refuse(Refusal),
    /// Decide again when its connection to the upstream is established: only then is it known where a token would go. If it
    /// is established in time and has TLS, the request gets this token, and this is done with it.
    AwaitConnection(Arc<Grant>, Delivery),
    /// Get this token, then do this with it.
    Exchange(Arc<Grant>, Delivery),
    /// Let it go on as it came, and say what would have become of it in earnest.
    Report(Report),
    /// The same for a token request to IMDS. It is marked with [`NODE_ROUTE`](crate::policy::NODE_ROUTE), and Envoy selects its route again.
    ReportToNode(Report),
    /// Answer it: it is about the filter, and no identity's.
    Reply(Reply),
    /// Answer whether this holds.
    Check(Arc<Readiness>),
    /// Show the state of all tokens.
    Status,
}

impl Decision {
    /// The same in a proxy that does not keep the filter's state over an internal redirect: no token goes into a request there,
    /// because it would follow the redirect to any cluster.
    #[must_use]
    pub fn without_state(self, request: &dyn Request) -> Self {
        match self {
            Self::Exchange(grant, Delivery::Inject(injection))
            | Self::AwaitConnection(grant, Delivery::Inject(injection)) => {
                let problem = state_unavailable().about(grant.identity(), grant.scope());
                let reply = problem.reply_to(request);
                Self::Refuse(Refusal { problem, decided_by: injection.decided_by, reply })
            }
            other => other,
        }
    }
}

/// What to say of a proxy that does not keep the filter's state over an internal redirect.
pub fn state_unavailable() -> Problem {
    Problem::new(
        Code::FilterStateUnavailable,
        "Envoy does not let the filter declare the state that keeps a token off an internal redirect",
        "Add proxy_call_foreign_function to the plugin's capability_restriction_config.allowed_capabilities.",
    )
}

/// The part of the configuration that decides about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigPath {
    /// Several destinations, and which of them is not clear.
    Destinations,
    /// The destination with this index.
    Destination(usize),
    /// `managed_identity.imds`
    Imds,
    /// `managed_identity.app_service`
    AppService,
}

impl fmt::Display for ConfigPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destinations => formatter.write_str("destinations"),
            Self::Destination(index) => write!(formatter, "destinations[{index}]"),
            Self::Imds => formatter.write_str("managed_identity.imds"),
            Self::AppService => formatter.write_str("managed_identity.app_service"),
        }
    }
}

/// A request that is rejected: why, by which part of the configuration, and the reply in the client's protocol.
#[derive(Debug)]
pub struct Refusal {
    /// Why. Its identity is named where one is known.
    pub problem: Problem,
    /// The part of the configuration that decided.
    pub decided_by: ConfigPath,
    /// What the client receives.
    pub reply: Reply,
}

impl Refusal {
    /// What is recorded of the request.
    pub fn record(&self) -> RequestRecord<'_> {
        RequestRecord {
            decided_by: Some(self.decided_by),
            problem: Some(&self.problem),
            status: Some(self.reply.status),
            ..RequestRecord::new(Outcome::Refused, self.problem.identity.as_deref())
        }
    }
}

/// What would have become of a request, were the action not to report only.
#[derive(Debug)]
pub struct Report {
    /// The identity whose token it would get, where one is known.
    pub identity: Option<Arc<str>>,
    /// The token, which is fetched all the same; `None` when there can be none for it.
    pub grant: Option<Arc<Grant>>,
    /// Why it would be refused, as far as that can be seen without waiting for anything.
    pub would_refuse: Option<Code>,
}

impl Report {
    /// For a request that would be refused before a token is thought of.
    pub(crate) fn refused(problem: &Problem) -> Self {
        Self { identity: problem.identity(), grant: None, would_refuse: Some(problem.code) }
    }

    /// For tests.
    #[cfg(test)]
    pub(crate) fn in_words(&self) -> String {
        let identity = self.identity.as_deref().unwrap_or("nobody");
        let scope = self.grant.as_ref().map_or("nothing", |grant| grant.scope());
        let in_earnest = self.would_refuse.map_or("goes on", Code::as_str);
        format!("report {identity} {scope}, in earnest: {in_earnest}")
    }
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
    /// The part of the configuration that decided.
    pub decided_by: ConfigPath,
    /// The header that takes it, in lower case.
    pub header: Arc<str>,
    /// How it stands in `Authorization`.
    pub form: HeaderForm,
    /// The other headers with credentials that it takes the place of.
    pub in_place_of: Vec<String>,
    /// The SHA-256 of the token that an earlier attempt of the request carried.
    pub carried: Option<[u8; 32]>,
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
            Self::Inject(Injection { carried: Some(digest), .. }) => Some(Stale::Carried(*digest)),
            Self::Inject(_) => None,
            Self::ManagedIdentity(caller) => caller.stale,
        }
    }

    /// The part of the configuration that decided.
    pub const fn decided_by(&self) -> ConfigPath {
        match self {
            Self::Inject(injection) => injection.decided_by,
            Self::ManagedIdentity(caller) => caller.protocol().decided_by(),
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

impl Effect {
    /// The status of the reply, where the request is answered.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Authorize { .. } | Self::Pass => None,
            Self::Refuse(problem) => Some(problem.code.status()),
            Self::Reply(reply) => Some(reply.status),
        }
    }
}

impl Injection {
    fn authorize(&self, issued: &Issued) -> Effect {
        let token = issued.token();
        let value =
            form_in(&self.header, self.form).map_or_else(|| token.expose().to_owned(), |form| form.value(token));
        Effect::Authorize { header: Arc::clone(&self.header), value, without: self.in_place_of.clone() }
    }
}

/// The form of a token in this header; `None` for the bare token: nothing defines what a header other than `Authorization`
/// holds.
pub(crate) fn form_in(header: &str, form: HeaderForm) -> Option<HeaderForm> {
    (header == "authorization").then_some(form)
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
            decided_by: ConfigPath::Destination(0),
            header: Arc::from(header),
            form: HeaderForm::Bearer,
            in_place_of: vec!["api-key".to_owned()],
            carried: None,
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

    #[test]
    fn without_its_state_a_request_gets_no_token_and_others_are_decided_as_before() {
        use crate::http::tests::Sent;
        let request = Sent::get("a.example", "/");
        let config = br#"{"identities": [{"tenant_id": "11111111-1111-4111-8111-111111111111", "client_id": "aaaaaaaa-0000-4000-8000-000000000001"}],
            "destinations": [{"hosts": ["a.example"], "scope": "s/.default", "plaintext": "allowed", "on_failure": "pass"}]}"#;
        let policy = crate::policy::Policy::new(&crate::config::Config::parse(config, &|_| None).unwrap(), false);
        let Decision::Refuse(refusal) = policy.decide(&request).without_state(&request) else { panic!("not refused") };
        assert_eq!((refusal.problem.identity.as_deref(), refusal.reply.status), (Some("default"), 503));
        assert!(String::from_utf8(refusal.reply.body).unwrap().contains("proxy_call_foreign_function"));
        let unlisted = Sent::get("b.example", "/");
        assert!(matches!(policy.decide(&unlisted).without_state(&unlisted), Decision::Ignore));
    }
}
