//! What becomes of the requests of one destination on one of its hosts.

use std::collections::HashMap;
use std::sync::Arc;

use super::caller;
use super::credential::{self, Credentials, Places};
use super::seen::Seen;
use super::way::{Judgement, Way};
use crate::azure::HeaderForm;
use crate::config::{self, Destination, ExistingCredential, Identity};
use crate::decision::{ConfigPath, Decision, Delivery, Injection, Refusal, Report};
use crate::entra::Grant;
use crate::host::HostPattern;
use crate::http::Request;
use crate::problem::{Code, Problem};
use crate::untrusted::UntrustedText;

pub(super) struct Rule {
    config_path: ConfigPath,
    label: String,
    override_headers_allowed: bool,
    action: Action,
}

enum Action {
    Pass,
    Refuse,
    Report(Arc<Holders>, Terms),
    Inject(Arc<Holders>, Terms),
}

/// What becomes of a request that may use an identity, when nothing is against it.
enum Verdict {
    /// It is forwarded unchanged.
    Pass,
    /// It is forwarded unchanged, because it brings these credentials.
    Keep(String),
    /// It goes on with this token.
    Inject(Arc<Grant>, Injection),
    /// The same, but its connection must be seen first.
    AwaitConnection(Arc<Grant>, Injection),
}

struct Terms {
    way: Way,
    existing_credential: ExistingCredential,
    places: Places,
    header: Arc<str>,
    form: HeaderForm,
    pass_on_failure: bool,
}

/// Whose token a request gets.
pub(super) enum Holders {
    /// This one's, whoever sends it.
    Anybody(Arc<Holder>),
    /// By the principal who sends it.
    Principals(HashMap<String, Arc<Holder>>),
}

/// An identity and its token for one scope.
pub(super) struct Holder {
    /// By its name in the configuration.
    identity: Arc<str>,
    scope: String,
    /// Or what is missing in the pod for it.
    grant: Result<Arc<Grant>, Problem>,
}

impl Holder {
    pub(super) fn new(identity: &Identity, scope: &str) -> Self {
        Self {
            identity: Arc::from(identity.name.as_str()),
            scope: scope.to_owned(),
            grant: identity.grant(scope).map(Arc::new),
        }
    }
}

impl Holders {
    /// These identities' principals.
    pub(super) fn among<'a>(identities: impl Iterator<Item = (&'a Identity, Arc<Holder>)>) -> Self {
        let each = identities.flat_map(|(identity, holder)| {
            identity.principals.iter().map(move |principal| (principal.clone(), Arc::clone(&holder)))
        });
        Self::Principals(each.collect())
    }

    /// All tokens that there can be.
    pub(super) fn grants(&self) -> impl Iterator<Item = &Arc<Grant>> {
        let holders: Vec<&Arc<Holder>> = match self {
            Self::Anybody(holder) => vec![holder],
            Self::Principals(holders) => holders.values().collect(),
        };
        holders.into_iter().filter_map(|holder| holder.grant.as_ref().ok())
    }

    /// Whose token this request gets. A request that may use no identity gets none, whatever else it brings.
    fn of(&self, label: &str, request: &dyn Request) -> Result<&Arc<Holder>, Problem> {
        match self {
            Self::Anybody(holder) => Ok(holder),
            Self::Principals(holders) => {
                let principal = caller::principal(request)?;
                holders.get(&principal).ok_or_else(|| {
                    Problem::new(
                        Code::PrincipalNotListed,
                        format!(
                            "{:?} is no principal of an identity for destination {label:?}",
                            UntrustedText::new(&principal)
                        ),
                        "Add it to the principals of the identity that it may use.",
                    )
                })
            }
        }
    }
}

impl Rule {
    pub(super) fn new(destination: &Destination, host: &HostPattern, holders: Option<Arc<Holders>>) -> Self {
        let action = match (&destination.action, holders) {
            (config::Action::Inject(_, terms), Some(holders)) => Action::Inject(holders, Terms::new(terms, host)),
            (config::Action::Report(_, terms), Some(holders)) => Action::Report(holders, Terms::new(terms, host)),
            (config::Action::Pass, _) => Action::Pass,
            (_, _) => Action::Refuse,
        };
        Self {
            config_path: ConfigPath::Destination(destination.place),
            label: destination.label.clone(),
            override_headers_allowed: destination.override_headers_allowed,
            action,
        }
    }

    /// Whether its requests may name another method or path in a header.
    pub(super) const fn allows_override_headers(&self) -> bool {
        self.override_headers_allowed
    }

    pub(super) const fn is_refuse(&self) -> bool {
        matches!(self.action, Action::Refuse)
    }

    pub(super) const fn is_report(&self) -> bool {
        matches!(self.action, Action::Report(..))
    }

    pub(super) fn decide(&self, seen: &Seen<'_>) -> Decision {
        match &self.action {
            Action::Pass => Decision::Pass(None),
            Action::Refuse => {
                let problem = Problem::new(
                    Code::RefusedByRule,
                    format!("the action of destination {:?} is to refuse", self.label),
                    "Change the destination's action, if such requests are to go on.",
                );
                self.refuse(problem, seen.request)
            }
            Action::Report(holders, terms) => Decision::Report(match holders.of(&self.label, seen.request) {
                Ok(holder) => Report {
                    identity: Some(Arc::clone(&holder.identity)),
                    grant: holder.grant.as_ref().ok().cloned(),
                    would_refuse: terms
                        .judge(self.config_path, &self.label, holder, seen)
                        .err()
                        .map(|problem| problem.code),
                },
                Err(problem) => Report::refused(&problem),
            }),
            Action::Inject(holders, terms) => match holders.of(&self.label, seen.request) {
                Ok(holder) => match terms.judge(self.config_path, &self.label, holder, seen) {
                    Ok(Verdict::Pass) => Decision::Pass(Some(Arc::clone(&holder.identity))),
                    Ok(Verdict::Keep(credentials)) => Decision::Keep(Arc::clone(&holder.identity), credentials),
                    Ok(Verdict::Inject(grant, injection)) => Decision::Exchange(grant, Delivery::Inject(injection)),
                    Ok(Verdict::AwaitConnection(grant, injection)) => {
                        Decision::AwaitConnection(grant, Delivery::Inject(injection))
                    }
                    Err(problem) => self.refuse(problem.about(&holder.identity, &holder.scope), seen.request),
                },
                Err(problem) => self.refuse(problem, seen.request),
            },
        }
    }

    fn refuse(&self, problem: Problem, request: &dyn Request) -> Decision {
        Decision::Refuse(Refusal { reply: problem.reply_to(request), problem, decided_by: self.config_path })
    }
}

impl Terms {
    fn new(terms: &config::Terms, host: &HostPattern) -> Self {
        let clusters = terms.tls_clusters.iter().map(|name| name.replace("{host}", &host.name()));
        let header = Arc::from(terms.header.as_str());
        Self {
            way: Way { tls_clusters: clusters.collect(), plaintext_allowed: terms.plaintext_allowed },
            existing_credential: terms.existing_credential,
            places: Places::new(terms.credentials, &header),
            header,
            form: terms.form,
            pass_on_failure: terms.pass_on_failure,
        }
    }

    fn judge(&self, decided_by: ConfigPath, label: &str, holder: &Holder, seen: &Seen<'_>) -> Result<Verdict, Problem> {
        must_be_able_to_carry_a_token(label, seen)?;
        // On the first attempt what the app brought was judged.
        let earlier = credential::of_an_earlier_attempt(seen.request);
        let credentials = if earlier.is_some() { Credentials::default() } else { self.places.look(seen) };
        if !credentials.are_none() {
            match self.existing_credential {
                ExistingCredential::Keep => return Ok(Verdict::Keep(credentials.names())),
                ExistingCredential::Replace => self.must_be_replaceable(label, &credentials, seen)?,
                ExistingCredential::Refuse => {
                    return Err(credential_present(
                        label,
                        &credentials,
                        "Have the app send none; or set the destination's existing_credential to \"keep\" or \"replace\".",
                    ));
                }
            }
        }
        let is_connected = match self.way.judge(label, seen.request) {
            Judgement::Open => true,
            Judgement::Unknown => false,
            Judgement::Barred(problem) => return Err(problem),
        };
        match &holder.grant {
            Ok(grant) => {
                let carried = earlier.as_ref().and_then(|header| credential::carried(seen.request, header, self.form));
                let others = credentials.into_headers().chain(earlier);
                let injection = Injection {
                    decided_by,
                    header: Arc::clone(&self.header),
                    form: self.form,
                    in_place_of: others.filter(|name| **name != *self.header).collect(),
                    carried,
                    pass_on_failure: self.pass_on_failure,
                };
                let verdict = if is_connected { Verdict::Inject } else { Verdict::AwaitConnection };
                Ok(verdict(Arc::clone(grant), injection))
            }
            // Nothing is asked of Entra without the variable: it is as if no token could be had.
            Err(_) if self.pass_on_failure => Ok(Verdict::Pass),
            Err(problem) => Err(problem.clone()),
        }
    }

    /// A credential is replaced where it can be removed, and where that cannot lead the request to another cluster.
    fn must_be_replaceable(&self, label: &str, credentials: &Credentials, seen: &Seen<'_>) -> Result<(), Problem> {
        if !credentials.are_removable() {
            return Err(credential_present(
                label,
                credentials,
                "A signature cannot be replaced: have the app send none, or set existing_credential to \"keep\".",
            ));
        }
        if self.way.survives_a_change(seen.request) {
            return Ok(());
        }
        Err(Problem::new(
            Code::ReplaceNotSupported,
            format!(
                "the request to destination {label:?} has {}, and existing_credential is \"replace\"; in a listener's \
                 filter chain Envoy selects the route again when a header changes, and the token could be sent to another \
                 cluster",
                credentials.in_words()
            ),
            "Put the filter into the cluster's own http_filters, where the cluster is fixed; or have the app send no \
             credential.",
        ))
    }
}

fn credential_present(label: &str, credentials: &Credentials, remedy: &str) -> Problem {
    let detail = format!("the request to destination {label:?} has {}", credentials.in_words());
    Problem::new(Code::CredentialPresent, detail, remedy)
}

/// CONNECT would give the token to whoever makes the tunnel; TRACE would send it back in the answer (RFC 9110, section
/// 9.3.8: a client must not send credentials with it).
fn must_be_able_to_carry_a_token(label: &str, seen: &Seen<'_>) -> Result<(), Problem> {
    if seen.path().is_none() {
        return Err(Problem::new(
            Code::TunnelAsked,
            format!("the request asks for a tunnel to destination {label:?}, and whoever makes it would get the token"),
            "Send the request itself through this proxy; or write a destination with methods: [\"CONNECT\"] and action: pass.",
        ));
    }
    if seen.method().eq_ignore_ascii_case(b"TRACE") {
        return Err(Problem::new(
            Code::TraceNotSupported,
            format!("the request to destination {label:?} is a TRACE, whose answer would show the token"),
            "Use another method; or add a destination with methods: [\"TRACE\"] and action: pass.",
        ));
    }
    Ok(())
}
