//! Managed identity: an app that asks for a token where Azure's hosts have an endpoint for it is answered here.

mod app_service;
pub(crate) mod caller;
pub(crate) mod guard;
mod health;
mod imds;
mod query;
mod reply;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use crate::broker::{Decisive, Readiness};
use crate::config::{AppService, Config, Identity, Imds, ManagedAction, ManagedIdentity};
use crate::decision::{Decision, Delivery, Report};
use crate::entra::{TokenKey, TokenSpec};
use crate::host::Host;
use crate::http::{Reply, RequestAccess};
use crate::path;
use crate::problem::{Code, Problem};
use crate::untrusted::UntrustedText;
use caller::{Caller, Protocol};
use guard::{Connection, must_be_get};
pub use health::readiness_reply;
use query::{IdKind, Query, Selector};

/// The endpoint, and the identities on offer.
pub(crate) struct Endpoint {
    imds: Option<Imds>,
    app_service: Option<AppService>,
    health_hosts: Vec<String>,
    action: ManagedAction,
    offered: Vec<Identity>,
    /// The scopes that destinations name, each with the identity whose token they get.
    listed: HashSet<TokenKey>,
    /// The place in `offered`.
    default: Option<usize>,
    readiness: Arc<Readiness>,
    /// On a gateway, whoever calls is somebody else than the pod itself.
    on_gateway: bool,
}

impl Endpoint {
    pub(crate) fn new(answers: &ManagedIdentity, config: &Config, on_gateway: bool) -> Self {
        let offered: Vec<Identity> =
            answers.offered.iter().filter_map(|index| config.identities.get(*index).cloned()).collect();
        let default = answers.default.and_then(|index| answers.offered.iter().position(|other| *other == index));
        Self {
            imds: answers.imds.clone(),
            app_service: answers.app_service.clone(),
            health_hosts: answers.health_hosts.clone(),
            action: answers.action,
            readiness: Arc::new(readiness(answers, config)),
            offered,
            listed: config
                .named_tokens()
                .filter_map(|(identity, scope)| Some(identity.spec(&scope).ok()?.key()))
                .collect(),
            default,
            on_gateway,
        }
    }

    /// Whether requests to this host, on any port, may be its own.
    pub(crate) fn answers(&self, host: &Host<'_>) -> bool {
        self.imds(host).is_some() || self.app_service(host).is_some() || self.answers_health(host)
    }

    fn imds(&self, host: &Host<'_>) -> Option<&Imds> {
        self.imds.as_ref().filter(|imds| imds.hosts.iter().any(|own| *own == host.name))
    }

    fn app_service(&self, host: &Host<'_>) -> Option<&AppService> {
        self.app_service.as_ref().filter(|app_service| app_service.hosts.iter().any(|own| *own == host.name))
    }

    fn answers_health(&self, host: &Host<'_>) -> bool {
        self.health_hosts.iter().any(|own| *own == host.name)
    }

    /// Decides about a request whose client connected to the metadata service's address: it addressed IMDS, whatever the request says of
    /// itself, so nothing but IMDS answers. `host` is `None` where the authority is not a valid host. `None` for any other connection;
    /// without `imds` the connection's address is not read.
    pub(crate) fn decide_by_address(
        &self,
        host: Option<&Host<'_>>,
        request: &dyn RequestAccess,
        connection: &Connection<'_>,
    ) -> Option<Decision> {
        let imds = self.imds.as_ref().filter(|_| connection.is_to_metadata_service())?;
        let named = host.is_some_and(|host| self.imds(host).is_some());
        let host = if named { Ok(()) } else { Err(imds::host_not_listed()) };
        let target = request.header(":path").unwrap_or_default();
        Some(self.decide_imds(imds, host, &target, request, connection))
    }

    /// Decides about a request to one of its hosts; `None` when it is none of its own after all.
    pub(crate) fn decide(
        &self,
        host: &Host<'_>,
        request: &dyn RequestAccess,
        connection: &Connection<'_>,
    ) -> Option<Decision> {
        let target = request.header(":path").unwrap_or_default();
        let (path, query) = path::split(&target);
        if self.answers_health(host) && matches!(path, b"/healthz" | b"/readyz") {
            return Some(self.decide_health(path, request));
        }
        if let Some(app_service) = self.app_service(host).filter(|_| app_service::is_token_path(path)) {
            let asked = self.must_be_local(connection);
            let asked = asked.and_then(|()| app_service::read_request(request, query, &app_service.secret));
            return Some(match asked {
                Ok((version, query)) => self.decide_token(Protocol::AppService(version), Ok(query)),
                Err(problem) => self.decide_token(Protocol::AppService(app_service::Version::Current), Err(problem)),
            });
        }
        self.imds(host).map(|imds| self.decide_imds(imds, Ok(()), &target, request, connection))
    }

    /// Decides about a request to IMDS; `host` is the problem with its host, if there is one. Only two kinds of request go on to the node:
    /// what `pass` lists, and a token request while the action is to report.
    fn decide_imds(
        &self,
        imds: &Imds,
        host: Result<(), Problem>,
        target: &[u8],
        request: &dyn RequestAccess,
        connection: &Connection<'_>,
    ) -> Decision {
        let (path, query) = path::split(target);
        let kind = imds::read_path(path);
        let allowed = self.must_be_local(connection).and_then(|()| match kind {
            // The clients that probe for these must read 404 there, whatever they call the host.
            imds::Path::Absent => Err(imds::absent()),
            imds::Path::Token if self.action != ManagedAction::Report => host,
            imds::Path::Token => host.and_then(|()| imds::must_not_be_overridden(request)),
            imds::Path::Other if imds::passes(path, imds) => host.and_then(|()| imds::must_not_be_overridden(request)),
            imds::Path::Other => host.and_then(|()| Err(self.not_passed(path))),
        });
        match (allowed, kind) {
            (Ok(()), imds::Path::Token) => self.decide_token(Protocol::Imds, imds::read_request(request, query)),
            (Ok(()), _) => Decision::Ignore,
            (Err(problem), _) if app_service::is_token_path(path) => {
                Protocol::AppService(app_service::Version::Current).refuse(problem)
            }
            (Err(problem), _) => Protocol::Imds.refuse(problem),
        }
    }

    /// A path that is not answered and does not go on to the node.
    fn not_passed(&self, path: &[u8]) -> Problem {
        match &self.app_service {
            None if app_service::is_token_path(path) => app_service::off(),
            _ => imds::not_passed(path),
        }
    }

    fn decide_token(&self, protocol: Protocol, asked: Result<Query, Problem>) -> Decision {
        let wanted = asked.and_then(|query| {
            let identity = self.select(query.selector.as_ref())?;
            must_be_allowed(identity, &query)?;
            let spec = self.spec(identity, &query.scope())?;
            let client_id = spec.client_id().to_owned();
            let named_by_client_id = query.selector.is_some_and(|selector| selector.kind == IdKind::Client);
            let caller =
                Caller { protocol, resource: query.resource, client_id, named_by_client_id, stale: query.stale };
            Ok((Arc::new(spec), caller))
        });
        match (self.action, wanted) {
            (ManagedAction::Report, Ok((spec, _))) => Decision::ReportToNode(Report {
                identity: Some(Arc::from(spec.identity())),
                spec: Some(spec),
                would_refuse: None,
            }),
            // The node's own endpoint judges it.
            (ManagedAction::Report, Err(problem)) => Decision::ReportToNode(Report::refused(&problem)),
            (ManagedAction::Answer, Ok((spec, caller))) => Decision::Exchange(spec, Delivery::ManagedIdentity(caller)),
            (ManagedAction::Refuse, Ok((spec, _))) => {
                let problem = Problem::new(
                    Code::ManagedIdentityRefused,
                    "managed_identity.action is \"refuse\": no token is given here",
                    "Whoever switched it off knows why; \"answer\" switches it on.",
                );
                protocol.refuse(problem.about(spec.identity(), spec.scope()))
            }
            (_, Err(problem)) => protocol.refuse(problem),
        }
    }

    /// The token to ask for. A scope that neither `resources` of the identity nor a destination names is within a budget.
    fn spec(&self, identity: &Identity, scope: &str) -> Result<TokenSpec, Problem> {
        let spec = identity.spec(scope)?;
        // By the token itself: the same client may have several names.
        let listed = identity.resources.is_some() || self.listed.contains(&spec.key());
        Ok(if listed { spec } else { spec.unlisted() })
    }

    fn decide_health(&self, path: &[u8], request: &dyn RequestAccess) -> Decision {
        match (must_be_get(request), path) {
            (Err(problem), _) => Decision::Reply(problem.to_reply()),
            (Ok(()), b"/healthz") => Decision::Reply(Reply::ok()),
            (Ok(()), _) => Decision::Check(Arc::clone(&self.readiness)),
        }
    }

    /// The identity that a caller named; another is never taken in its place.
    fn select(&self, selector: Option<&Selector>) -> Result<&Identity, Problem> {
        let Some(selector) = selector else {
            return self.default.and_then(|index| self.offered.get(index)).ok_or_else(|| {
                Problem::new(
                    Code::IdentityAmbiguous,
                    "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request",
                    "Name an identity with client_id; or write managed_identity.default_identity.",
                )
            });
        };
        let is_named = |identity: &&Identity| {
            let own = match selector.kind {
                IdKind::Client => identity.client_id().ok(),
                IdKind::Object => identity.object_id.as_deref(),
                IdKind::Resource => identity.resource_id.as_deref(),
            };
            own.is_some_and(|own| own.eq_ignore_ascii_case(&selector.value))
        };
        let named: Vec<&Identity> = self.offered.iter().filter(is_named).collect();
        match named.as_slice() {
            [only] => Ok(only),
            [] => Err(self.not_found(selector)),
            [first, second, ..] => Err(Problem::new(
                Code::IdentityAmbiguous,
                format!("the identities {:?} and {:?} both have this {}", first.name, second.name, selector.parameter),
                "Name the identity by another id, or offer one of the two.",
            )),
        }
    }

    fn not_found(&self, selector: &Selector) -> Problem {
        // It may be the one whose client id is missing in the pod.
        let by_client = self.offered.iter().filter(|_| selector.kind == IdKind::Client);
        by_client.filter_map(|identity| identity.client_id().err().cloned()).next().unwrap_or_else(|| {
            Problem::new(
                Code::IdentityNotFound,
                "Identity not found",
                format!(
                    "No identity on offer has {} {:?}: add it to managed_identity.identities.",
                    selector.parameter,
                    UntrustedText::new(&selector.value)
                ),
            )
        })
    }

    /// Only the pod itself is answered: the connection came in on a loopback address or on IMDS's own.
    fn must_be_local(&self, connection: &Connection<'_>) -> Result<(), Problem> {
        if self.on_gateway {
            return Err(Problem::new(
                Code::NotLocal,
                "a managed identity is never answered on a gateway: whoever calls is not the gateway's own pod",
                "Answer it in the sidecar of the pod that asks; a gateway's own workloads use destinations.",
            ));
        }
        if connection.is_local() {
            return Ok(());
        }
        Err(Problem::new(
            Code::NotLocal,
            "this is answered only to its own pod, on a loopback address or 169.254.169.254",
            "Call the sidecar in the same pod; bind its listener to 127.0.0.1.",
        ))
    }
}

/// What an identity may be asked for, where that is narrowed. A slash at the end makes no difference.
fn must_be_allowed(identity: &Identity, query: &Query) -> Result<(), Problem> {
    let Some(resources) = &identity.resources else { return Ok(()) };
    let resource = query.resource.strip_suffix("/.default").unwrap_or(&query.resource);
    let resource = resource.strip_suffix('/').unwrap_or(resource);
    if resources.iter().any(|allowed| allowed == resource) {
        return Ok(());
    }
    let problem = Problem::new(
        Code::ResourceNotAllowed,
        format!("identity {:?} is not offered for the resource {:?}", identity.name, query.resource),
        format!("It is offered for {}; the list is resources of the identity.", resources.join(", ")),
    );
    Err(problem.about(&identity.name, &query.scope()))
}

/// The identities that decide whether the pod is ready: those that the configuration names, else the default one, else
/// all that it uses.
fn readiness(answers: &ManagedIdentity, config: &Config) -> Readiness {
    let named = answers.health_identities.clone();
    let decisive = named
        .or_else(|| answers.default.map(|index| vec![index]))
        .unwrap_or_else(|| (0..config.identities.len()).filter(|index| config.uses(*index)).collect());
    let identities = decisive.iter().filter_map(|index| config.identities.get(*index));
    let of = |identity: &Identity| Decisive { name: identity.name.clone(), credential: identity.credential() };
    Readiness { identities: identities.map(of).collect() }
}
