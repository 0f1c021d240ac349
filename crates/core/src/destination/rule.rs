//! The rule for the requests to one host of one destination.

use std::sync::Arc;

use super::client_certificate;
use super::credential::{self, Credentials, Places};
use super::transport::{Transport, TransportCheck};
use crate::azure::HeaderForm;
use crate::config::{self, Destination, ExistingCredential, Identity};
use crate::decision::{ConfigPath, Decision, Delivery, Injection, Kept, Passed, Refusal, Report, form_in};
use crate::entra::TokenSpec;
use crate::fast_map::FastMap;
use crate::host::HostPattern;
use crate::problem::{Code, Problem};
use crate::protocol::Protocol;
use crate::request::RequestView;
use crate::untrusted::UntrustedText;

/// A destination, compiled for one of its hosts.
pub(super) struct Rule {
    config_path: ConfigPath,
    label: String,
    override_headers_allowed: bool,
    action: RuleAction,
}

enum RuleAction {
    Pass,
    Refuse,
    Report(Arc<TokenChooser>, InjectionRule),
    Inject(Arc<TokenChooser>, InjectionRule),
}

struct InjectionRule {
    transport: Transport,
    existing_credential: ExistingCredential,
    places: Places,
    header: Arc<str>,
    /// The form of the token in `header`; `None` is the token alone.
    form: Option<HeaderForm>,
    /// The service's form of a token in `Authorization`.
    service_form: HeaderForm,
    pass_on_failure: bool,
}

/// Selects the identity whose token a request gets.
pub(super) enum TokenChooser {
    /// Always this identity.
    Single(Arc<IdentityToken>),
    /// The identity that lists the caller, by the URI in the caller's certificate.
    ByCaller(FastMap<String, Arc<IdentityToken>>),
}

/// An identity and its token for one scope.
pub(super) struct IdentityToken {
    /// The identity's name in the configuration.
    identity: Arc<str>,
    scope: String,
    /// The token spec, or the problem with an environment variable.
    spec: Result<Arc<TokenSpec>, Problem>,
}

impl IdentityToken {
    pub(super) fn new(identity: &Identity, scope: &str) -> Self {
        Self {
            identity: Arc::from(identity.name.as_str()),
            scope: scope.to_owned(),
            spec: identity.spec(scope).map(Arc::new),
        }
    }
}

impl TokenChooser {
    /// Selects among these identities by their allowed callers.
    pub(super) fn among<'a>(identities: impl Iterator<Item = (&'a Identity, Arc<IdentityToken>)>) -> Self {
        let each = identities.flat_map(|(identity, identity_token)| {
            identity.allowed_callers.iter().map(move |principal| (principal.clone(), Arc::clone(&identity_token)))
        });
        Self::ByCaller(each.collect())
    }

    /// The specs of all tokens that it may select.
    pub(super) fn specs(&self) -> impl Iterator<Item = &Arc<TokenSpec>> {
        let chooser: Vec<&Arc<IdentityToken>> = match self {
            Self::Single(identity_token) => vec![identity_token],
            Self::ByCaller(chooser) => chooser.values().collect(),
        };
        chooser.into_iter().filter_map(|identity_token| identity_token.spec.as_ref().ok())
    }

    /// Selects the identity for a request.
    ///
    /// # Errors
    /// If no identity lists the caller. Such a request is rejected even if it carries its own credential.
    fn choose(&self, label: &str, request: &RequestView<'_>) -> Result<&Arc<IdentityToken>, Problem> {
        match self {
            Self::Single(identity_token) => Ok(identity_token),
            Self::ByCaller(chooser) => {
                let principal = client_certificate::principal(request)?;
                chooser.get(&*principal).ok_or_else(|| {
                    Problem::new(
                        Code::PrincipalNotListed,
                        format!(
                            "{:?} is not in the principals of any identity for destination {label:?}",
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
    pub(super) fn new(destination: &Destination, host: &HostPattern, chooser: Option<Arc<TokenChooser>>) -> Self {
        let action = match (&destination.action, chooser) {
            (config::DestinationAction::Inject(_, injection), Some(chooser)) => {
                RuleAction::Inject(chooser, InjectionRule::new(injection, host))
            }
            (config::DestinationAction::Report(_, injection), Some(chooser)) => {
                RuleAction::Report(chooser, InjectionRule::new(injection, host))
            }
            (config::DestinationAction::Pass, _) => RuleAction::Pass,
            (_, _) => RuleAction::Refuse,
        };
        Self {
            config_path: ConfigPath::Destination(destination.index),
            label: destination.label.clone(),
            override_headers_allowed: destination.override_headers_allowed,
            action,
        }
    }

    pub(super) const fn config_path(&self) -> ConfigPath {
        self.config_path
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Whether its requests may override their method or path in a header.
    pub(super) const fn allows_override_headers(&self) -> bool {
        self.override_headers_allowed
    }

    /// The name of the header that it injects a token into.
    pub(super) const fn header(&self) -> Option<&Arc<str>> {
        match &self.action {
            RuleAction::Inject(_, injection) => Some(&injection.header),
            RuleAction::Pass | RuleAction::Refuse | RuleAction::Report(..) => None,
        }
    }

    pub(super) const fn is_refuse(&self) -> bool {
        matches!(self.action, RuleAction::Refuse)
    }

    pub(super) const fn is_report(&self) -> bool {
        matches!(self.action, RuleAction::Report(..))
    }

    pub(super) fn decide(&self, view: &RequestView<'_>) -> Decision {
        match &self.action {
            RuleAction::Pass => Decision::Pass(Passed { decided_by: self.config_path, identity: None, problem: None }),
            RuleAction::Refuse => {
                let problem = Problem::new(
                    Code::RefusedByRule,
                    format!("the action of destination {:?} is \"refuse\"", self.label),
                    "If such requests are to be forwarded, change the destination's action.",
                );
                self.refuse(problem, view)
            }
            RuleAction::Report(chooser, injection) => {
                let report = self.report(chooser, injection, view);
                Decision::Report(report.unwrap_or_else(|problem| Report::refused(self.config_path, problem)))
            }
            RuleAction::Inject(chooser, injection) => self.inject(chooser, injection, view),
        }
    }

    /// Decides as [`Self::inject`] does, and reports the decision of a request that may use an identity.
    fn report(
        &self,
        chooser: &TokenChooser,
        injection: &InjectionRule,
        view: &RequestView<'_>,
    ) -> Result<Report, Problem> {
        let identity_token = chooser.choose(&self.label, view)?;
        Ok(Report {
            decided_by: self.config_path,
            identity: Some(Arc::clone(&identity_token.identity)),
            spec: identity_token.spec.as_ref().ok().cloned(),
            problem: injection.evaluate(self.config_path, &self.label, identity_token, view).err().map(Box::new),
        })
    }

    /// Decides a request by its identity and the destination's conditions.
    fn inject(&self, chooser: &TokenChooser, injection: &InjectionRule, view: &RequestView<'_>) -> Decision {
        let problem = match chooser.choose(&self.label, view) {
            Ok(identity_token) => match injection.evaluate(self.config_path, &self.label, identity_token, view) {
                Ok(decision) => return decision,
                Err(problem) => problem.about(&identity_token.identity, &identity_token.scope),
            },
            Err(problem) => problem,
        };
        self.refuse(problem, view)
    }

    fn refuse(&self, problem: Problem, request: &RequestView<'_>) -> Decision {
        let protocol = Protocol::of_client(request);
        Decision::Refuse(Box::new(Refusal { problem, decided_by: self.config_path, protocol }))
    }
}

impl InjectionRule {
    fn new(injection: &config::InjectionConfig, host: &HostPattern) -> Self {
        let settings = &injection.settings;
        let clusters = settings.tls_clusters.iter().map(|name| name.replace("{host}", &host.name()));
        let header = Arc::from(settings.header.as_str());
        Self {
            transport: Transport { tls_clusters: clusters.collect(), plaintext_allowed: settings.plaintext_allowed },
            existing_credential: settings.existing_credential,
            places: Places::new(injection.credentials, &header),
            form: form_in(&header, injection.form),
            header,
            service_form: injection.form,
            pass_on_failure: settings.pass_on_failure,
        }
    }

    /// Decides a request that may use this identity.
    ///
    /// # Errors
    /// It does not meet the destination's conditions, or its token cannot be requested and `on_failure` is not `pass`.
    fn evaluate(
        &self,
        decided_by: ConfigPath,
        label: &str,
        identity_token: &IdentityToken,
        view: &RequestView<'_>,
    ) -> Result<Decision, Problem> {
        must_be_able_to_carry_token(label, view)?;
        // The app's own credentials were checked in the first attempt.
        let own_headers = view.own_headers();
        let credentials = if own_headers.is_empty() { self.places.find(view) } else { Credentials::default() };
        if own_headers.iter().any(|header| *header != self.header) {
            self.must_keep_cluster("another token of the filter", label, view)?;
        }
        if !credentials.are_none() {
            match self.existing_credential {
                ExistingCredential::Keep => {
                    let (identity, credentials) = (Arc::clone(&identity_token.identity), credentials.names());
                    return Ok(Decision::Keep(Kept { decided_by, identity, credentials }));
                }
                ExistingCredential::Replace => self.must_be_replaceable(label, &credentials, view)?,
                ExistingCredential::Refuse => {
                    return Err(credential_present(
                        label,
                        &credentials,
                        "Remove the credential from the app's request; or set the destination's existing_credential to \"keep\" or \"replace\".",
                    ));
                }
            }
        }
        let is_connected = match self.transport.check(label, view) {
            TransportCheck::Allowed => true,
            TransportCheck::Pending => false,
            TransportCheck::Rejected(problem) => return Err(problem),
        };
        let spec = match &identity_token.spec {
            Ok(spec) => Arc::clone(spec),
            // Without the variable no token can be requested, so this is a failure to get a token.
            Err(problem) if self.pass_on_failure => {
                let (identity, problem) = (Arc::clone(&identity_token.identity), Box::new(problem.clone()));
                return Ok(Decision::Pass(Passed { decided_by, identity: Some(identity), problem: Some(problem) }));
            }
            Err(problem) => return Err(problem.clone()),
        };
        let delivery = Delivery::Inject(self.injection(decided_by, credentials, own_headers, view));
        Ok(if is_connected { Decision::Exchange(spec, delivery) } else { Decision::AwaitConnection(spec, delivery) })
    }

    /// How the token is injected in place of these credentials and of the filter's own headers of an earlier attempt.
    fn injection(
        &self,
        decided_by: ConfigPath,
        credentials: Credentials,
        own_headers: Vec<Arc<str>>,
        view: &RequestView<'_>,
    ) -> Injection {
        // It decides where a later attempt looks for its token.
        view.is_in_cluster();
        let carried = own_headers.iter().find_map(|header| credential::carried(view, header, self.service_form));
        let mut in_place_of = credentials.into_headers();
        in_place_of.extend(own_headers);
        in_place_of.retain(|name| *name != self.header);
        Injection {
            decided_by,
            header: Arc::clone(&self.header),
            form: self.form,
            in_place_of,
            carried,
            pass_on_failure: self.pass_on_failure,
            protocol: Protocol::of_client(view),
        }
    }

    /// Checks that the credentials can be removed, and that removing them cannot route the request to another cluster.
    fn must_be_replaceable(
        &self,
        label: &str,
        credentials: &Credentials,
        view: &RequestView<'_>,
    ) -> Result<(), Problem> {
        if !credentials.are_removable() {
            return Err(credential_present(
                label,
                credentials,
                "Remove the signature from the app's request, or set existing_credential to \"keep\": a query parameter cannot be replaced.",
            ));
        }
        self.must_keep_cluster(
            &format!("{}, and existing_credential is \"replace\"", credentials.description()),
            label,
            view,
        )
    }

    /// Checks that removing a header cannot route the request to another cluster.
    fn must_keep_cluster(&self, found: &str, label: &str, view: &RequestView<'_>) -> Result<(), Problem> {
        if self.transport.keeps_cluster_on_header_change(view) {
            return Ok(());
        }
        Err(Problem::new(
            Code::ReplaceNotSupported,
            format!(
                "the request to destination {label:?} has {found}; in a listener's filter chain Envoy selects the route \
                 again when a header changes, and the token could be sent to another cluster"
            ),
            "Add the filter to the cluster's own http_filters, where the cluster is fixed; or remove the credential from the app's \
             request.",
        ))
    }
}

fn credential_present(label: &str, credentials: &Credentials, remedy: &str) -> Problem {
    let detail = format!("the request to destination {label:?} has {}", credentials.description());
    Problem::new(Code::CredentialPresent, detail, remedy)
}

/// Rejects CONNECT, which would send the token to the proxy that opens the tunnel, and TRACE, whose response would contain it
/// (RFC 9110, section 9.3.8: a client must not send credentials with it).
fn must_be_able_to_carry_token(label: &str, view: &RequestView<'_>) -> Result<(), Problem> {
    if view.target().is_none() {
        return Err(Problem::new(
            Code::ConnectNotSupported,
            format!(
                "the request is a CONNECT to destination {label:?}, and the proxy that opens the tunnel would receive the token"
            ),
            "Send the request itself through this proxy; or add a destination with methods: [\"CONNECT\"] and action: pass.",
        ));
    }
    if view.method().eq_ignore_ascii_case(b"TRACE") {
        return Err(Problem::new(
            Code::TraceNotSupported,
            format!("the request to destination {label:?} is a TRACE, and its response would contain the token"),
            "Use another method; or add a destination with methods: [\"TRACE\"] and action: pass.",
        ));
    }
    Ok(())
}
