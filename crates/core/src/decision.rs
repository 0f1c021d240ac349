//! The decision about a request, and the effect on the request once its token is available.

use std::sync::Arc;

use crate::azure::HeaderForm;
use crate::broker::{CachedToken, Readiness, RejectedToken, RequiredLifetime};
pub use crate::config_path::ConfigPath;
use crate::entra::TokenSpec;
use crate::http::Reply;
use crate::metrics::Outcome;
use crate::problem::{Code, Problem};
use crate::protocol::{Caller, Protocol};
use crate::status_page::Format;
use crate::time::Timestamp;

/// How the engine handles a request.
#[derive(Debug)]
pub enum Decision {
    /// Forward the request unchanged: no part of the configuration applies to it.
    Ignore,
    /// Forward the request unchanged, because the matching destination's action is `pass`, or because no token can be requested and its
    /// `on_failure` is `pass`.
    Pass(Passed),
    /// Forward the request unchanged, because it already carries credentials and the matching destination keeps them.
    Keep(Kept),
    /// Reject the request.
    Refuse(Box<Refusal>),
    /// Decide again when the upstream connection is established, because only then is its transport known. If it is
    /// established in time and uses TLS, the request continues as with [`Self::Exchange`].
    AwaitConnection(Arc<TokenSpec>, Delivery),
    /// Get a token for this token spec, then deliver it.
    Exchange(Arc<TokenSpec>, Delivery),
    /// Forward the request unchanged, and report how it would have been handled.
    Report(Report),
    /// Like [`Self::Report`], for a token request to IMDS: mark it with [`NODE_ROUTE`](crate::policy::NODE_ROUTE), and have
    /// Envoy select its route again.
    ReportToNode(Report),
    /// Answer a liveness probe: the filter works.
    Live,
    /// Answer a readiness check.
    Check(Arc<Readiness>),
    /// Answer with the status page in this format.
    Status(Format),
    /// Reject a request for one of the filter's own pages. It concerns no identity, so it is not counted.
    RefuseOwn(Box<Problem>),
}

impl Decision {
    /// The part of the configuration that decided; `None` if none applies, or for the filter's own pages.
    pub fn decided_by(&self) -> Option<ConfigPath> {
        match self {
            Self::Ignore | Self::Live | Self::Check(_) | Self::Status(_) | Self::RefuseOwn(_) => None,
            Self::Pass(passed) => Some(passed.decided_by),
            Self::Keep(kept) => Some(kept.decided_by),
            Self::Refuse(refusal) => Some(refusal.decided_by),
            Self::Exchange(_, delivery) | Self::AwaitConnection(_, delivery) => Some(delivery.decided_by()),
            Self::Report(report) | Self::ReportToNode(report) => Some(report.decided_by),
        }
    }

    /// Why the request gets no token; `None` if it may get one, or if that is no problem.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refuse(refusal) => Some(&refusal.problem),
            Self::Pass(passed) => passed.problem.as_deref(),
            Self::Report(report) | Self::ReportToNode(report) => report.problem.as_deref(),
            Self::RefuseOwn(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether the request is forwarded without a token of the filter.
    pub(crate) const fn forwards_unchanged(&self) -> bool {
        match self {
            Self::Ignore | Self::Pass(_) | Self::Keep(..) | Self::Report(_) | Self::ReportToNode(_) => true,
            Self::Refuse(_)
            | Self::AwaitConnection(..)
            | Self::Exchange(..)
            | Self::Check(_)
            | Self::Live
            | Self::Status(_)
            | Self::RefuseOwn(_) => false,
        }
    }
}

/// A request that a destination passes.
#[derive(Debug)]
pub struct Passed {
    /// The part of the configuration that decided.
    pub decided_by: ConfigPath,
    /// The identity whose token the request would have got, if its action is `inject`.
    pub identity: Option<Arc<str>>,
    /// Why no token can be requested, if its action is `inject`.
    pub problem: Option<Box<Problem>>,
}

/// A request that keeps its credentials.
#[derive(Debug)]
pub struct Kept {
    /// The part of the configuration that decided.
    pub decided_by: ConfigPath,
    /// The identity whose token the request would have got.
    pub identity: Arc<str>,
    /// The names of the headers and query parameters with credentials; a `?` precedes the latter.
    pub credentials: String,
}

/// Why a request is handled as it is: for commands and tools. A host that only handles requests needs [`Policy::decide`] alone.
///
/// [`Policy::decide`]: crate::policy::Policy::decide
#[derive(Debug)]
pub struct Explanation {
    /// The decision about the request.
    pub decision: Decision,
    /// Every rule for the request's host, in order of precedence. Empty if a managed-identity endpoint or the status page decided, or if
    /// no destination has the host.
    pub candidates: Vec<Candidate>,
}

/// A destination's rule for a request's host, with one of its path prefixes and one of its methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The destination.
    pub config_path: ConfigPath,
    /// The destination's name in messages.
    pub label: String,
    /// Whether it matches the host by a wildcard.
    pub wildcard: bool,
    /// The port; `None` matches any port.
    pub port: Option<u16>,
    /// The path prefix in canonical form; empty for any path.
    pub path_prefix: String,
    /// The method; `None` matches any method.
    pub method: Option<String>,
    /// Whether the rule applies, and why not.
    pub outcome: Match,
}

/// Whether a rule applies to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It decides about the request.
    Applies,
    /// It matches, but a more specific rule applies, or it is ambiguous which one does.
    LessSpecific,
    /// Its port is not the request's.
    OtherPort,
    /// The request's path is not within its path prefix, or is ambiguous.
    OtherPath,
    /// Its method is not the request's.
    OtherMethod,
}

/// A rejected request: the reason, the part of the configuration that decided, and the client's protocol.
#[derive(Debug)]
pub struct Refusal {
    /// The reason, with the identity if it is known.
    pub problem: Problem,
    /// The part of the configuration that decided.
    pub decided_by: ConfigPath,
    /// The protocol in which the client gets the reason.
    pub protocol: Protocol,
}

impl Refusal {
    /// The reply to the client.
    pub fn reply(&self) -> Reply {
        self.protocol.problem_reply(&self.problem)
    }
}

/// How a request would have been handled if its action were not `report`.
#[derive(Debug)]
pub struct Report {
    /// The part of the configuration that decided.
    pub decided_by: ConfigPath,
    /// The identity whose token the request would get, if known.
    pub identity: Option<Arc<str>>,
    /// The spec of the token that the request would get. The token is fetched, to show whether the exchange succeeds. `None`
    /// if the request would be rejected before a token is selected.
    pub spec: Option<Arc<TokenSpec>>,
    /// Why the request would be rejected, as far as that is known without waiting.
    pub problem: Option<Box<Problem>>,
}

impl Report {
    /// The report of a request that would be rejected before a token is selected.
    pub(crate) fn refused(decided_by: ConfigPath, problem: Problem) -> Self {
        Self { decided_by, identity: problem.identity(), spec: None, problem: Some(Box::new(problem)) }
    }

    /// The code with which the request would be rejected.
    pub fn would_refuse(&self) -> Option<Code> {
        self.problem.as_ref().map(|problem| problem.code)
    }

    /// The report in one line, for tests.
    #[cfg(test)]
    pub(crate) fn summary(&self) -> String {
        let identity = self.identity.as_deref().unwrap_or("unknown");
        let scope = self.spec.as_ref().map_or("no token", |spec| spec.scope());
        let enforced = self.would_refuse().map_or("forwarded", Code::as_str);
        format!("report {identity} {scope}, enforced: {enforced}")
    }
}

/// What to do with a token, or with the problem that none is available.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Forward the request with the token.
    Inject(Injection),
    /// Answer the request like Azure's managed-identity endpoint.
    ManagedIdentity(ManagedIdentityCaller),
}

/// How a token is injected into a request.
#[derive(Clone, Debug)]
pub struct Injection {
    /// The part of the configuration that decided.
    pub decided_by: ConfigPath,
    /// The name of the header that carries the token, in lower case.
    pub header: Arc<str>,
    /// The form of the token in the header; `None` is the token alone.
    pub form: Option<HeaderForm>,
    /// Other headers with credentials, which the token replaces.
    pub in_place_of: Vec<Arc<str>>,
    /// The SHA-256 of the token that the request carried in an earlier attempt.
    pub carried: Option<[u8; 32]>,
    /// Whether the request is forwarded unchanged if no token is available (`on_failure: pass`).
    pub pass_on_failure: bool,
    /// The protocol in which the client gets the reason if there is no token.
    pub protocol: Protocol,
}

/// A caller of a managed-identity endpoint.
#[derive(Clone, Debug)]
pub struct ManagedIdentityCaller {
    /// The part of the configuration that decided.
    pub decided_by: ConfigPath,
    /// What its reply needs.
    pub caller: Caller,
    /// The token that it rejects, if any.
    pub rejected_token: Option<RejectedToken>,
}

/// The final effect on a request, carried out by the engine. It may hold a token, so it does not implement `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Effect {
    /// Set a header, remove others, and forward the request.
    Authorize {
        /// The name of the header to set, in lower case. All existing values are replaced.
        header: Arc<str>,
        /// The token.
        token: Arc<CachedToken>,
        /// The form of the token in the header; `None` is the token alone.
        form: Option<HeaderForm>,
        /// The names of the headers to remove, because they hold other credentials.
        without: Vec<Arc<str>>,
    },
    /// Forward the request unchanged.
    Pass,
    /// Reject the request with the problem that no token is available, in this protocol.
    Refuse(Protocol),
    /// Answer the request with this reply.
    Reply(Reply),
}

impl Delivery {
    /// The minimum remaining lifetime that the token must have.
    pub const fn required_lifetime(&self) -> RequiredLifetime {
        match self {
            Self::Inject(_) => RequiredLifetime::Any,
            Self::ManagedIdentity(_) => RequiredLifetime::FiveMinutes,
        }
    }

    /// The token that the client reports as rejected, which must not be served again.
    pub const fn rejected_token(&self) -> Option<RejectedToken> {
        match self {
            Self::Inject(Injection { carried: Some(digest), .. }) => Some(RejectedToken::Attempted(*digest)),
            Self::Inject(_) => None,
            Self::ManagedIdentity(caller) => caller.rejected_token,
        }
    }

    /// The part of the configuration that decided.
    pub const fn decided_by(&self) -> ConfigPath {
        match self {
            Self::Inject(injection) => injection.decided_by,
            Self::ManagedIdentity(caller) => caller.decided_by,
        }
    }

    /// The protocol in which the client gets a problem.
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::Inject(injection) => injection.protocol,
            Self::ManagedIdentity(caller) => caller.caller.protocol,
        }
    }

    /// Returns the effect on the request and its outcome for metrics and logs, given the token or the problem that none is
    /// available.
    pub fn deliver(&self, outcome: Result<&Arc<CachedToken>, &Problem>, now: Timestamp) -> (Effect, Outcome) {
        match (self, outcome) {
            (Self::Inject(injection), Ok(cached)) => (injection.authorize(cached), Outcome::Injected),
            (Self::Inject(injection), Err(_)) if injection.pass_on_failure => (Effect::Pass, Outcome::Passed),
            (Self::ManagedIdentity(caller), Ok(cached)) => {
                let reply = caller.caller.token_reply(cached.token(), cached.issued_at(), cached.expires_at(), now);
                (Effect::Reply(reply), Outcome::Answered)
            }
            (_, Err(_)) => (Effect::Refuse(self.protocol()), Outcome::Failed),
        }
    }
}

impl Injection {
    fn authorize(&self, token: &Arc<CachedToken>) -> Effect {
        Effect::Authorize {
            header: Arc::clone(&self.header),
            token: Arc::clone(token),
            form: self.form,
            without: self.in_place_of.clone(),
        }
    }
}

/// The form of a token in a header. `None` means the token alone, without a scheme: the service's form applies to
/// `Authorization` only.
pub(crate) fn form_in(header: &str, form: HeaderForm) -> Option<HeaderForm> {
    (header == "authorization").then_some(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached() -> CachedToken {
        let token = crate::entra::AccessToken::parse("abc").unwrap();
        CachedToken::new(token, Timestamp::default(), std::time::Duration::from_secs(60), None, 0)
    }

    fn inject(header: &str, pass_on_failure: bool) -> Delivery {
        Delivery::Inject(Injection {
            decided_by: ConfigPath::Destination(0),
            header: Arc::from(header),
            form: form_in(header, HeaderForm::Bearer),
            in_place_of: vec![Arc::from("api-key")],
            carried: None,
            pass_on_failure,
            protocol: Protocol::ProblemJson,
        })
    }

    #[test]
    fn a_token_has_the_scheme_bearer_in_authorization_and_no_scheme_in_any_other_header() {
        for (header, value) in [("authorization", "Bearer abc"), ("x-token", "abc")] {
            let (effect, outcome) = inject(header, false).deliver(Ok(&Arc::new(cached())), Timestamp::default());
            let Effect::Authorize { header: set, token, form, without } = effect else { panic!("{outcome:?}") };
            assert_eq!((&*set, token.header_value(form), outcome), (header, value, Outcome::Injected));
            assert_eq!(without, [Arc::from("api-key")]);
        }
    }

    #[test]
    fn a_request_without_a_token_is_rejected_or_forwarded_unchanged() {
        let problem = Problem::new(Code::EntraRefused, "d", "r");
        let of = |delivery: Delivery| delivery.deliver(Err(&problem), Timestamp::default());
        assert!(of(inject("authorization", false)) == (Effect::Refuse(Protocol::ProblemJson), Outcome::Failed));
        assert!(of(inject("authorization", true)) == (Effect::Pass, Outcome::Passed));
    }

    #[test]
    fn a_decision_names_the_part_of_the_configuration_and_why_a_request_gets_no_token() {
        use crate::policy::tests::decide;
        use crate::request::tests::Sent;
        let config =
            br#"{"status": {"hosts": ["status.example"]}, "defaults": {"scope": "s/.default"}, "destinations": [
            {"hosts": ["refused.example"], "action": "refuse"},
            {"hosts": ["passed.example"], "plaintext": "allow", "on_failure": "pass"},
            {"hosts": ["reported.example"], "action": "report"},
            {"hosts": ["free.example"], "action": "pass"}
        ]}"#;
        let policy = crate::policy::Policy::new(&crate::config::Config::parse(config, &|_| None).unwrap(), false);
        for (host, index, code) in [
            ("refused.example", Some(0), Some(Code::RefusedByRule)),
            ("passed.example", Some(1), Some(Code::EnvVarMissing)),
            ("reported.example", Some(2), Some(Code::TlsClustersMissing)),
            ("free.example", Some(3), None),
            ("unlisted.example", None, None),
        ] {
            let decision = decide(&policy, &Sent::get(host, "/"));
            assert_eq!(decision.decided_by(), index.map(ConfigPath::Destination), "{host}");
            assert_eq!(decision.forwards_unchanged(), host != "refused.example", "{host}");
            assert_eq!(decision.problem().map(|problem| problem.code), code, "{host}");
        }
        let page = decide(&policy, &Sent::get("status.example", "/entra-exchange/status").to("10.0.0.7:80"));
        assert_eq!((page.decided_by(), page.problem().map(|problem| problem.code)), (None, Some(Code::NotLocal)));
    }
}
