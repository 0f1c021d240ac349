//! What a configuration is once it is read: types that hold only valid values.

use std::fmt;

use super::fingerprint::Fingerprint;
use super::log::Log;
use super::reader::Mistake;
use super::settings::Settings;
use crate::assertion::Source;
use crate::authority::Authority;
use crate::azure::{CredentialPlaces, HeaderForm};
use crate::broker::{Credential, Limits, UnlistedLimits};
use crate::entra::{TokenSpec, TokenSpecParts};
use crate::host::HostPattern;
use crate::problem::Problem;
use crate::secret::Secret;
use crate::time::Timestamp;

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) identities: Vec<Identity>,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) managed_identity: Option<ManagedIdentity>,
    pub(crate) status: Option<Status>,
    /// Time-outs, and the maximum number of waiting requests.
    pub limits: Limits,
    /// The settings of the log.
    pub log: Log,
    /// The name of the header that Envoy sets on an internal redirect, in lower case.
    pub(crate) original_url: String,
    /// Warnings about settings that are valid but probably not intended, one sentence each.
    pub warnings: Vec<String>,
}

/// An identity: a client at Entra, and who may use it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Its index in `identities` of the configuration.
    pub(crate) index: usize,
    pub(crate) name: String,
    /// The callers that may use it, by the URI in their certificates (`principals`). If empty, every caller may.
    pub(crate) allowed_callers: Vec<String>,
    /// The object id by which managed-identity callers may select it.
    pub(crate) object_id: Option<String>,
    /// The Azure resource id by which managed-identity callers may select it.
    pub(crate) resource_id: Option<String>,
    /// The resources that managed-identity callers may request, without a trailing slash; `None` allows any.
    pub(crate) resources: Option<Vec<String>>,
    /// Its client at Entra, or the problem with an environment variable.
    pub(super) client: Result<Client, Problem>,
}

/// An identity's client at Entra, and the parameters with which its tokens are requested.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) authority: Authority,
    pub(super) tenant_id: String,
    pub(super) client_id: String,
    pub(super) assertion: Source,
    pub(super) clusters: Vec<String>,
    pub(super) discard_before: Option<Timestamp>,
}

impl Identity {
    /// The token spec for a scope.
    ///
    /// # Errors
    /// If an environment variable is missing or not valid.
    pub(crate) fn spec(&self, scope: &str) -> Result<TokenSpec, Problem> {
        let client = self.client.as_ref().map_err(|problem| problem.clone().about(&self.name, scope))?;
        Ok(TokenSpec::new(&TokenSpecParts {
            identity: &self.name,
            authority: &client.authority,
            tenant_id: &client.tenant_id,
            client_id: &client.client_id,
            scope,
            assertion: &client.assertion,
            clusters: &client.clusters,
            discard_before: client.discard_before,
        }))
    }

    /// The client id, or the problem with an environment variable.
    pub(crate) fn client_id(&self) -> Result<&str, &Problem> {
        self.client.as_ref().map(|client| client.client_id.as_str())
    }

    /// The credential that decides its readiness, or the problem with an environment variable.
    pub(crate) fn credential(&self) -> Result<Credential, Problem> {
        self.client.as_ref().map_err(Clone::clone)?;
        // The credential is the same for every scope.
        self.spec("").map(|spec| Credential::of(&spec))
    }
}

/// Conditions on requests, and the action for requests that match.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// Its index in `destinations` of the configuration. An entry with several scopes gives several destinations.
    pub(crate) index: usize,
    pub(crate) label: String,
    pub(crate) hosts: Vec<HostPattern>,
    /// `None` matches any method.
    pub(crate) methods: Vec<Option<String>>,
    /// In canonical form, without a trailing slash; the empty prefix matches any path.
    pub(crate) path_prefixes: Vec<String>,
    /// Whether a request may override its method or path in a header.
    pub(crate) override_headers_allowed: bool,
    pub(crate) action: DestinationAction,
}

/// How a matching request is handled.
#[derive(Clone, Debug)]
pub(crate) enum DestinationAction {
    /// It is forwarded with the token.
    Inject(Token, InjectionConfig),
    /// It is forwarded unchanged, and the token is fetched to test the configuration.
    Report(Token, InjectionConfig),
    /// It is forwarded unchanged.
    Pass,
    /// It is rejected.
    Refuse,
}

impl DestinationAction {
    /// The token, if the action uses one.
    pub(crate) const fn token(&self) -> Option<&Token> {
        match self {
            Self::Inject(token, _) | Self::Report(token, _) => Some(token),
            Self::Pass | Self::Refuse => None,
        }
    }

    /// The same action with another scope. Without a scope, or without a token, it is unchanged.
    pub(super) fn with_scope(self, scope: Option<String>) -> Self {
        let Some(scope) = scope else { return self };
        match self {
            Self::Inject(token, injection) => Self::Inject(Token { scope, ..token }, injection),
            Self::Report(token, injection) => Self::Report(Token { scope, ..token }, injection),
            other => other,
        }
    }
}

/// The token of a destination.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) scope: String,
    pub(crate) owner: TokenOwner,
    /// Whether the token is fetched in advance and kept fresh, even without requests that use it.
    pub(crate) warm: bool,
}

/// The identity that owns a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TokenOwner {
    /// This identity, by its index in [`Config::identities`].
    Identity(usize),
    /// The identity that lists the caller in its `principals`.
    Caller,
}

/// How a token is injected into a request, and under which conditions.
#[derive(Clone, Debug)]
pub(crate) struct InjectionConfig {
    pub(crate) settings: Settings,
    /// Where clients put their own credentials, in addition to `Authorization` and the header.
    pub(crate) credentials: CredentialPlaces,
    /// The form of the token in `Authorization`.
    pub(crate) form: HeaderForm,
}

/// The section `managed_identity`: the endpoints that the filter implements.
#[derive(Clone, Debug)]
pub(crate) struct ManagedIdentity {
    /// The identities that callers may select, by their indexes in [`Config::identities`].
    pub(crate) offered: Vec<usize>,
    /// The identity that is used if the caller selects none.
    pub(crate) default: Option<usize>,
    pub(crate) action: ManagedAction,
    pub(crate) imds: Option<Imds>,
    pub(crate) app_service: Option<AppService>,
    /// The hosts at which `/healthz` and `/readyz` are answered, on any port.
    pub(crate) health_hosts: Vec<String>,
    /// The identities that decide whether the pod is ready, by their indexes in [`Config::identities`]. `None` stands for the
    /// default identity, or all that the configuration uses if there is no default.
    pub(crate) health_identities: Option<Vec<usize>>,
    /// The limits for scopes that the configuration does not list.
    pub(crate) limits: UnlistedLimits,
}

impl ManagedIdentity {
    /// The hosts of all its endpoints.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &String> {
        let imds = self.imds.iter().flat_map(|imds| &imds.hosts);
        imds.chain(self.app_service.iter().flat_map(|app_service| &app_service.hosts)).chain(&self.health_hosts)
    }
}

/// How a managed-identity token request is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ManagedAction {
    /// It is answered with a token.
    Answer,
    /// It is forwarded to the node's own endpoint, and the token is fetched to test the configuration.
    Report,
    /// It is rejected.
    Refuse,
}

/// The settings of the instance metadata service (IMDS) endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Imds {
    /// The hosts of the endpoint, on any port.
    pub(crate) hosts: Vec<String>,
    /// The paths that are forwarded to the node's metadata service, with all paths below them.
    pub(crate) pass: Vec<String>,
    /// Whether the path `/` is forwarded as well: Google's clients request it to detect Google's cloud.
    pub(crate) passes_root: bool,
}

/// The settings of the App Service endpoint.
#[derive(Clone)]
pub(crate) struct AppService {
    /// The hosts of the endpoint, on any port.
    pub(crate) hosts: Vec<String>,
    /// The secret that callers must send, or the problem with its environment variable.
    pub(crate) secret: Result<Secret, Problem>,
}

impl fmt::Debug for AppService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AppService").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// The settings of the status page.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// The hosts of the endpoint, on any port.
    pub(crate) hosts: Vec<String>,
    pub(crate) path: String,
}

/// A rejected configuration: every mistake in it, displayed one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub Vec<Mistake>);

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

impl Config {
    /// The scopes that destinations use, each with the name of an identity whose token its requests may get.
    pub(crate) fn listed_scopes(&self) -> impl Iterator<Item = (&str, &str)> {
        let tokens = self.destinations.iter().filter_map(|destination| destination.action.token());
        tokens.flat_map(|token| {
            let gets = move |index: usize| match token.owner {
                TokenOwner::Identity(own) => own == index,
                TokenOwner::Caller => true,
            };
            let identities = self.identities.iter().enumerate().filter(move |(index, _)| gets(*index));
            identities.map(|(_, identity)| (identity.name.as_str(), token.scope.as_str()))
        })
    }

    /// Every identity with every scope that the configuration lists for it, in destinations and in its `resources`.
    pub(crate) fn named_tokens(&self) -> impl Iterator<Item = (&Identity, String)> {
        let named = |name: &str| self.identities.iter().find(|identity| identity.name == name);
        let by_destinations =
            self.listed_scopes().filter_map(move |(name, scope)| Some((named(name)?, scope.to_owned())));
        let offered = self.managed_identity.iter().flat_map(|answers| &answers.offered);
        let offered = offered.filter_map(|index| self.identities.get(*index));
        let by_resources = offered.flat_map(|identity| {
            let resources = identity.resources.iter().flatten();
            resources.map(move |resource| (identity, format!("{resource}/.default")))
        });
        by_destinations.chain(by_resources)
    }
}
