//! The managed-identity endpoints of Azure's hosts (IMDS and App Service), which the filter implements for apps in the pod, and the
//! health endpoints.

mod app_service;
pub(crate) mod guard;
mod health;
mod imds;
mod query;
mod recent;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::broker::{Decisive, Readiness};
use crate::config::{AppService, Config, Identity, Imds, ManagedAction, ManagedIdentity};
use crate::decision::{ConfigPath, Decision, Delivery, ManagedIdentityCaller, Refusal, Report};
use crate::entra::{TokenKey, TokenSpec};
use crate::fast_map::{FastMap, FastSet};
use crate::host::Host;
use crate::path;
use crate::problem::{Code, Problem};
use crate::protocol::{AppServiceVersion, Caller, Protocol};
use crate::request::RequestView;
use crate::untrusted::UntrustedText;
use guard::must_be_get;
pub use health::readiness_reply;
use query::{IdKind, Query, Selector};
use recent::RecentSpecs;

/// The endpoints, and the identities that callers may select.
pub(crate) struct Endpoint {
    imds: Option<Imds>,
    app_service: Option<AppService>,
    health_hosts: Vec<String>,
    /// The [`length_bit`] of every host of an endpoint. Most requests are for a host of another length, and are not compared further.
    host_lengths: u64,
    action: ManagedAction,
    offered: Vec<Offered>,
    /// The keys of all tokens that the configuration lists.
    listed: FastSet<TokenKey>,
    /// The index in `offered`.
    default: Option<usize>,
    readiness: Arc<Readiness>,
    /// Whether the proxy is a gateway, whose callers are other pods.
    on_gateway: bool,
}

/// An identity that callers may select.
struct Offered {
    identity: Identity,
    /// The tokens that the configuration lists for it, by scope. Building a token spec costs a third of a request.
    listed: FastMap<String, Arc<TokenSpec>>,
    /// Other tokens.
    recent: RecentSpecs,
}

impl Endpoint {
    /// Builds the endpoints of a configuration.
    pub(crate) fn new(answers: &ManagedIdentity, config: &Config, on_gateway: bool) -> Self {
        let offered = answers.offered.iter().filter_map(|index| config.identities.get(*index).cloned());
        let mut offered: Vec<Offered> = offered
            .map(|identity| Offered { identity, listed: FastMap::default(), recent: RecentSpecs::default() })
            .collect();
        let mut listed = FastSet::default();
        for (identity, scope) in config.named_tokens() {
            let Ok(spec) = identity.spec(&scope) else { continue };
            listed.insert(spec.key());
            if let Some(offered) = offered.iter_mut().find(|offered| offered.identity.name == identity.name) {
                offered.listed.insert(scope, Arc::new(spec));
            }
        }
        let default = answers.default.and_then(|index| answers.offered.iter().position(|other| *other == index));
        let imds_hosts = answers.imds.iter().flat_map(|imds| &imds.hosts);
        let app_service_hosts = answers.app_service.iter().flat_map(|app_service| &app_service.hosts);
        let hosts = imds_hosts.chain(app_service_hosts).chain(&answers.health_hosts);
        Self {
            host_lengths: hosts.fold(0, |lengths, host| lengths | length_bit(host)),
            imds: answers.imds.clone(),
            app_service: answers.app_service.clone(),
            health_hosts: answers.health_hosts.clone(),
            action: answers.action,
            readiness: Arc::new(readiness(answers, config)),
            offered,
            listed,
            default,
            on_gateway,
        }
    }

    /// Whether this is a host of one of the endpoints, on any port.
    pub(crate) fn answers(&self, host: &Host<'_>) -> bool {
        self.host_lengths & length_bit(&host.name) != 0
            && (self.imds(host).is_some() || self.app_service(host).is_some() || self.answers_health(host))
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

    /// Decides about a request whose client connected to the metadata service's address. Such a request is for IMDS regardless of its
    /// headers, so only IMDS rules apply. `host` is `None` if the authority is not a valid host.
    ///
    /// Returns `None` for any other connection. If `imds` is not configured, the connection's address is not read.
    pub(crate) fn decide_by_address(&self, host: Option<&Host<'_>>, request: &RequestView<'_>) -> Option<Decision> {
        let imds = self.imds.as_ref().filter(|_| guard::is_to_metadata_service(request))?;
        let is_listed = host.is_some_and(|host| self.imds(host).is_some());
        let host = if is_listed { Ok(()) } else { Err(imds::host_not_listed()) };
        let target = request.target().unwrap_or_default();
        Some(self.decide_imds(imds, host, target, request))
    }

    /// Decides about a request to one of its hosts. Returns `None` if no endpoint of that host has the path.
    pub(crate) fn decide(&self, host: &Host<'_>, request: &RequestView<'_>) -> Option<Decision> {
        let target = request.target().unwrap_or_default();
        let (path, query) = path::split(target);
        if self.answers_health(host) && matches!(path, b"/healthz" | b"/readyz") {
            return Some(self.decide_health(path, request));
        }
        if let Some(app_service) = self.app_service(host).filter(|_| app_service::is_token_path(path)) {
            let allowed = self.must_be_local(request);
            let token_request = allowed.and_then(|()| app_service::read_request(request, query, &app_service.secret));
            return Some(match token_request {
                Ok((version, query)) => self.decide_token(Protocol::AppService(version), Ok(query)),
                Err(problem) => self.decide_token(Protocol::AppService(AppServiceVersion::Current), Err(problem)),
            });
        }
        self.imds(host).map(|imds| self.decide_imds(imds, Ok(()), target, request))
    }

    /// Decides about a request to IMDS; `host` is the problem with its host, if any. Only two kinds of requests are forwarded to the
    /// node: those whose path is in `pass`, and token requests if the action is `report`.
    fn decide_imds(
        &self,
        imds: &Imds,
        host: Result<(), Problem>,
        target: &[u8],
        request: &RequestView<'_>,
    ) -> Decision {
        let (path, query) = path::split(target);
        let kind = imds::read_path(path);
        let allowed = self.must_be_local(request).and_then(|()| match kind {
            // Clients that probe for these paths must get a 404, whatever host they send.
            imds::Path::Absent => Err(imds::absent()),
            imds::Path::Token if self.action != ManagedAction::Report => host,
            imds::Path::Token => host.and_then(|()| imds::must_not_be_overridden(request)),
            imds::Path::Other if imds::passes(path, imds) => host.and_then(|()| imds::must_not_be_overridden(request)),
            imds::Path::Other => host.and_then(|()| Err(self.not_forwarded(path))),
        });
        match (allowed, kind) {
            (Ok(()), imds::Path::Token) => self.decide_token(Protocol::Imds, imds::read_request(request, query)),
            (Ok(()), _) => Decision::Ignore,
            (Err(problem), _) if app_service::is_token_path(path) => {
                refuse(Protocol::AppService(AppServiceVersion::Current), problem)
            }
            (Err(problem), _) => refuse(Protocol::Imds, problem),
        }
    }

    /// The problem that a path is neither served nor forwarded to the node.
    fn not_forwarded(&self, path: &[u8]) -> Problem {
        match &self.app_service {
            None if app_service::is_token_path(path) => app_service::not_enabled(),
            _ => imds::not_forwarded(path),
        }
    }

    fn decide_token(&self, protocol: Protocol, query: Result<Query, Problem>) -> Decision {
        let selected = query.and_then(|query| {
            let offered = self.select(query.selector.as_ref())?;
            must_be_allowed(&offered.identity, &query)?;
            let spec = self.spec(offered, &query.scope())?;
            let client_id = spec.client_id().to_owned();
            let named_by_client_id = query.selector.is_some_and(|selector| selector.kind == IdKind::Client);
            let caller = ManagedIdentityCaller {
                decided_by: decided_by(protocol),
                caller: Caller { protocol, resource: query.resource, client_id, named_by_client_id },
                rejected_token: query.rejected_token,
            };
            Ok((spec, caller))
        });
        match (self.action, selected) {
            (ManagedAction::Report, Ok((spec, _))) => Decision::ReportToNode(Report {
                decided_by: decided_by(protocol),
                identity: Some(Arc::from(spec.identity())),
                spec: Some(spec),
                problem: None,
            }),
            // The node's own endpoint decides.
            (ManagedAction::Report, Err(problem)) => {
                Decision::ReportToNode(Report::refused(decided_by(protocol), problem))
            }
            (ManagedAction::Answer, Ok((spec, caller))) => Decision::Exchange(spec, Delivery::ManagedIdentity(caller)),
            (ManagedAction::Refuse, Ok((spec, _))) => {
                let problem = Problem::new(
                    Code::ManagedIdentityRefused,
                    "managed_identity.action is \"refuse\": no token is issued",
                    "Set managed_identity.action to \"answer\" to enable managed identity.",
                );
                refuse(protocol, problem.about(spec.identity(), spec.scope()))
            }
            (_, Err(problem)) => refuse(protocol, problem),
        }
    }

    /// The token spec for a scope. A scope that is neither in the identity's `resources` nor in a destination is marked as unlisted, and
    /// the limits for such scopes apply.
    fn spec(&self, offered: &Offered, scope: &str) -> Result<Arc<TokenSpec>, Problem> {
        if let Some(spec) = offered.listed.get(scope).cloned().or_else(|| offered.recent.get(scope)) {
            return Ok(spec);
        }
        let spec = offered.identity.spec(scope)?;
        // Compared by the token's key, because several identities may be the same client.
        let listed = offered.identity.resources.is_some() || self.listed.contains(&spec.key());
        let spec = Arc::new(if listed { spec } else { spec.unlisted() });
        offered.recent.add(&spec);
        Ok(spec)
    }

    fn decide_health(&self, path: &[u8], request: &RequestView<'_>) -> Decision {
        match (must_be_get(request), path) {
            (Err(problem), _) => Decision::RefuseOwn(Box::new(problem)),
            (Ok(()), b"/healthz") => Decision::Live,
            (Ok(()), _) => Decision::Check(Arc::clone(&self.readiness)),
        }
    }

    /// Finds the identity that a caller selected; another one is never used in its place.
    fn select(&self, selector: Option<&Selector>) -> Result<&Offered, Problem> {
        let Some(selector) = selector else {
            return self.default.and_then(|index| self.offered.get(index)).ok_or_else(|| {
                Problem::new(
                    Code::IdentityAmbiguous,
                    "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request",
                    "Select an identity with client_id, or set managed_identity.default_identity.",
                )
            });
        };
        let is_selected = |offered: &&Offered| {
            let own = match selector.kind {
                IdKind::Client => offered.identity.client_id().ok(),
                IdKind::Object => offered.identity.object_id.as_deref(),
                IdKind::Resource => offered.identity.resource_id.as_deref(),
            };
            own.is_some_and(|own| own.eq_ignore_ascii_case(&selector.value))
        };
        let found: Vec<&Offered> = self.offered.iter().filter(is_selected).collect();
        match found.as_slice() {
            [only] => Ok(only),
            [] => Err(self.not_found(selector)),
            [first, second, ..] => Err(Problem::new(
                Code::IdentityAmbiguous,
                format!(
                    "the identities {:?} and {:?} both have this {}",
                    first.identity.name, second.identity.name, selector.parameter
                ),
                "Select the identity by another id, or remove one of the two from managed_identity.identities.",
            )),
        }
    }

    fn not_found(&self, selector: &Selector) -> Problem {
        // The selected identity may be one whose client id is missing in the environment.
        let by_client = self.offered.iter().filter(|_| selector.kind == IdKind::Client);
        by_client.filter_map(|offered| offered.identity.client_id().err().cloned()).next().unwrap_or_else(|| {
            Problem::new(
                Code::IdentityNotFound,
                "Identity not found",
                format!(
                    "Check that an identity in managed_identity.identities has {} {:?}.",
                    selector.parameter,
                    UntrustedText::new(&selector.value)
                ),
            )
        })
    }

    /// Rejects a request from outside the pod, which did not arrive on a loopback address or on that of IMDS.
    fn must_be_local(&self, request: &RequestView<'_>) -> Result<(), Problem> {
        if self.on_gateway {
            return Err(Problem::new(
                Code::NotLocal,
                "managed identity is not available on a gateway, because its callers are other pods",
                "Configure managed_identity in the sidecar of the calling pod; on a gateway, use destinations.",
            ));
        }
        if guard::is_local(request) {
            return Ok(());
        }
        Err(Problem::new(
            Code::NotLocal,
            "only requests from within the pod are answered, on a loopback address or 169.254.169.254",
            "Call the sidecar in the same pod, and bind its listener to 127.0.0.1.",
        ))
    }
}

/// The bit of a name's length among those of all lengths, modulo 64.
const fn length_bit(name: &str) -> u64 {
    1 << (name.len() % 64)
}

/// The part of the configuration that enables a protocol.
const fn decided_by(protocol: Protocol) -> ConfigPath {
    match protocol {
        Protocol::AppService(_) => ConfigPath::AppService,
        _ => ConfigPath::Imds,
    }
}

fn refuse(protocol: Protocol, problem: Problem) -> Decision {
    Decision::Refuse(Box::new(Refusal { problem, decided_by: decided_by(protocol), protocol }))
}

/// Rejects a resource that is not in the identity's `resources`, if that is set. A trailing slash is ignored.
fn must_be_allowed(identity: &Identity, query: &Query) -> Result<(), Problem> {
    let Some(resources) = &identity.resources else { return Ok(()) };
    let resource = query.resource.strip_suffix("/.default").unwrap_or(&query.resource);
    let resource = resource.strip_suffix('/').unwrap_or(resource);
    if resources.iter().any(|allowed| allowed == resource) {
        return Ok(());
    }
    let problem = Problem::new(
        Code::ResourceNotAllowed,
        format!("identity {:?} is not allowed for the resource {:?}", identity.name, query.resource),
        format!("Request one of {}, or add the resource to the identity's resources.", resources.join(", ")),
    );
    Err(problem.about(&identity.name, &query.scope()))
}

/// The identities that decide whether the pod is ready: those in `health.identities`, else the default identity, else all that the
/// configuration uses.
fn readiness(answers: &ManagedIdentity, config: &Config) -> Readiness {
    let named = answers.health_identities.clone();
    let decisive = named
        .or_else(|| answers.default.map(|index| vec![index]))
        .unwrap_or_else(|| (0..config.identities.len()).filter(|index| config.uses(*index)).collect());
    let identities = decisive.iter().filter_map(|index| config.identities.get(*index));
    let of = |identity: &Identity| Decisive { name: identity.name.clone(), credential: identity.credential() };
    Readiness { identities: identities.map(of).collect() }
}
