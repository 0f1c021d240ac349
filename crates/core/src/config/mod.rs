//! What an operator writes: JSON, read once into types that cannot be wrong.
//!
//! What is written wrongly refuses the configuration, every mistake at once. What is missing in the pod (a variable)
//! refuses the requests that need it: one forgotten annotation must not take a proxy's listener away.

mod azure_service;
mod destinations;
mod identities;
mod managed_identity;
mod reader;
mod sections;
mod shared_suffixes;
mod treatment;
mod tree;
mod warnings;

pub use reader::Mistake;

use std::fmt;

use crate::assertion::Source;
use crate::azure::{CredentialPlaces, HeaderForm};
use crate::broker::{Credential, Limits, UnlistedLimits};
use crate::configuration_status::Fingerprint;
use crate::entra::{Authority, TokenSpec, TokenSpecParts};
use crate::event::Level;
use crate::host::HostPattern;
use crate::problem::Problem;
use crate::time::Timestamp;
use reader::{Field, Mistakes};
use subtle::ConstantTimeEq;
use tree::Node;

/// A configuration that can be acted on.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) identities: Vec<Identity>,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) managed_identity: Option<ManagedIdentity>,
    pub(crate) status: Option<Status>,
    /// How long things may take, and how many may wait.
    pub limits: Limits,
    /// What is logged.
    pub log: Log,
    /// What is allowed but probably not meant, one sentence each.
    pub warnings: Vec<String>,
}

/// What is logged, and how loud at the least; `None` is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// A line for each exchange. One that failed is a warning at the least.
    pub exchanges: Option<Level>,
    /// A line for each request that concerns the filter.
    pub requests: Option<Level>,
    /// Whether access logs learn of every request that concerns the filter, not only of those that were rejected.
    pub access: bool,
}

/// Who we are.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Where it is written: its index in the text.
    pub(crate) index: usize,
    pub(crate) name: String,
    /// Who may use it, by the URI in the certificate of the caller; without any, everybody.
    pub(crate) allowed_callers: Vec<String>,
    /// Managed-identity callers may select it by this.
    pub(crate) object_id: Option<String>,
    /// And by this: its Azure resource id.
    pub(crate) resource_id: Option<String>,
    /// What managed-identity callers may ask for, without a slash at the end; `None` is anything.
    pub(crate) resources: Option<Vec<String>>,
    /// As Entra knows it, or what is missing in the pod for that.
    client: Result<Client, Problem>,
}

/// Who we are, as Entra knows it, and how to ask for it.
#[derive(Clone, Debug)]
struct Client {
    authority: Authority,
    tenant_id: String,
    client_id: String,
    assertion: Source,
    clusters: Vec<String>,
    discard_before: Option<Timestamp>,
}

impl Identity {
    /// The grant for a scope, or what is missing in the pod for it.
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

    /// Its client id, or what is missing in the pod for it.
    pub(crate) fn client_id(&self) -> Result<&str, &Problem> {
        self.client.as_ref().map(|client| client.client_id.as_str())
    }

    /// What its readiness hangs on, or what is missing in the pod for it.
    pub(crate) fn credential(&self) -> Result<Credential, Problem> {
        self.client.as_ref().map_err(Clone::clone)?;
        // It is the same for every scope.
        self.spec("").map(|spec| Credential::of(&spec))
    }
}

/// Some requests, and what becomes of them.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// Where it is written; one with several scopes is several.
    pub(crate) index: usize,
    pub(crate) label: String,
    pub(crate) hosts: Vec<HostPattern>,
    /// `None` is any.
    pub(crate) methods: Vec<Option<String>>,
    /// Canonical, without a slash at the end; the empty one is any path.
    pub(crate) path_prefixes: Vec<String>,
    /// Whether a request may name another method or path in a header.
    pub(crate) override_headers_allowed: bool,
    pub(crate) action: DestinationAction,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum DestinationAction {
    /// It goes on with the token.
    Inject(Token, InjectionConfig),
    /// The token is fetched all the same; the request goes on as it came.
    Report(Token, InjectionConfig),
    /// It goes on as it came.
    Pass,
    /// It is answered with a refusal.
    Refuse,
}

impl DestinationAction {
    /// The token that it is about.
    pub(crate) const fn token(&self) -> Option<&Token> {
        match self {
            Self::Inject(token, _) | Self::Report(token, _) => Some(token),
            Self::Pass | Self::Refuse => None,
        }
    }

    /// The same with a token for this scope, where there is one.
    fn with_scope(self, scope: Option<String>) -> Self {
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
    /// It is kept fresh even when nobody asks.
    pub(crate) warm: bool,
}

/// Whose token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TokenOwner {
    /// One identity's, by its place in [`Config::identities`].
    Identity(usize),
    /// That of the identity which has the caller among its principals.
    Caller,
}

/// How a token gets into a request, and when it does not.
#[derive(Clone, Debug)]
pub(crate) struct InjectionConfig {
    pub(crate) tls_clusters: Vec<String>,
    pub(crate) plaintext_allowed: bool,
    pub(crate) existing_credential: ExistingCredential,
    /// Where credentials are looked for, beside `Authorization` and the header.
    pub(crate) credentials: CredentialPlaces,
    /// In lower case.
    pub(crate) header: String,
    /// How the token stands in `Authorization`.
    pub(crate) form: HeaderForm,
    /// Without a token, the request goes on as it came.
    pub(crate) pass_on_failure: bool,
}

/// What happens to a credential that a request brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExistingCredential {
    Keep,
    Replace,
    Refuse,
}

/// Answers to apps that ask a managed-identity endpoint.
#[derive(Clone, Debug)]
pub(crate) struct ManagedIdentity {
    /// The identities on offer, by their places in [`Config::identities`].
    pub(crate) offered: Vec<usize>,
    /// Whose token a caller gets that names no identity.
    pub(crate) default: Option<usize>,
    pub(crate) action: ManagedAction,
    pub(crate) imds: Option<Imds>,
    pub(crate) app_service: Option<AppService>,
    /// Where `/healthz` and `/readyz` are answered, on any port.
    pub(crate) health_hosts: Vec<String>,
    /// The identities that decide whether the pod is ready, by their places in [`Config::identities`]; `None` is the
    /// default one, or else all that the configuration uses.
    pub(crate) health_identities: Option<Vec<usize>>,
    /// How many scopes that the configuration does not list callers may ask for.
    pub(crate) limits: UnlistedLimits,
}

impl ManagedIdentity {
    /// All hosts that it answers.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &String> {
        let imds = self.imds.iter().flat_map(|imds| &imds.hosts);
        imds.chain(self.app_service.iter().flat_map(|app_service| &app_service.hosts)).chain(&self.health_hosts)
    }
}

/// What becomes of a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ManagedAction {
    /// It is answered.
    Answer,
    /// It goes on to the node's own endpoint, and the exchange is made all the same.
    Report,
    Refuse,
}

/// Where the instance metadata service is answered.
#[derive(Clone, Debug)]
pub(crate) struct Imds {
    /// On any port.
    pub(crate) hosts: Vec<String>,
    /// What goes on to the node's own: paths and all below them.
    pub(crate) pass: Vec<String>,
    /// The path `/` goes on, too, alone: Google's clients look there whether they run in Google's cloud.
    pub(crate) passes_root: bool,
}

/// Where App Service's endpoint is answered.
#[derive(Clone, Debug)]
pub(crate) struct AppService {
    /// On any port.
    pub(crate) hosts: Vec<String>,
    /// What callers must send, or why nobody can.
    pub(crate) secret: Result<Secret, Problem>,
}

/// A secret: it has no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Whether this is it, in a time that says nothing of how much of it is right.
    pub(crate) fn is(&self, sent: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(sent).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(hidden)")
    }
}

/// Where the state of all tokens is shown.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// On any port.
    pub(crate) hosts: Vec<String>,
    pub(crate) path: String,
}

/// Everything that is wrong in a configuration, one line each.
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
    /// Whether a destination or the managed-identity endpoint uses the identity at this place.
    pub(crate) fn uses(&self, index: usize) -> bool {
        warnings::uses(index, &self.destinations, self.managed_identity.as_ref())
    }

    /// The scopes that destinations name, each with the name of an identity whose token its requests may get.
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

    /// Every identity with every scope that is named for it: by destinations, and by what managed-identity callers may ask for.
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

    /// Reads a configuration; `variable` looks an environment variable up.
    ///
    /// # Errors
    /// Every mistake in the text, with its path, what is there and what would be right.
    pub fn parse(text: &[u8], variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Refused> {
        let mut mistakes = Mistakes::default();
        let tree: Node = serde_json::from_slice(text).map_err(|error| {
            mistakes.add("", not_json(text, &error));
            Refused(std::mem::take(&mut mistakes.0))
        })?;
        let config = sections::read(&Field::root(&tree), variable, &mut mistakes);
        let by_last = tree.by_last();
        if by_last != tree {
            // What is written twice is read both ways, so that no mistake hides behind another.
            let mut others = Mistakes::default();
            sections::read(&Field::root(&by_last), variable, &mut others);
            others.0.retain(|other| !mistakes.0.contains(other));
            mistakes.0.append(&mut others.0);
        }
        match config {
            Some(config) if mistakes.0.is_empty() => Ok(Self { fingerprint: Fingerprint::of(text), ..config }),
            _ => Err(Refused(mistakes.0)),
        }
    }

    /// What is allowed but has no effect at this time, one sentence each.
    pub fn warnings_at(&self, now: Timestamp) -> Vec<String> {
        let is_ahead = |identity: &&Identity| {
            identity.client.as_ref().is_ok_and(|client| client.discard_before.is_some_and(|before| before > now))
        };
        let ahead = self.identities.iter().filter(is_ahead);
        ahead
            .map(|Identity { index, name, .. }| {
                format!(
                    "identities[{index}].discard_tokens_before ({name}) is in the future and has no effect until then; set the \
                     time at which the roles changed"
                )
            })
            .collect()
    }
}

/// What to say of a text that is not JSON.
fn not_json(text: &[u8], error: &serde_json::Error) -> String {
    match text {
        text if text.iter().all(u8::is_ascii_whitespace) => {
            "there is no configuration: write at least destinations or managed_identity".to_owned()
        }
        [0xef, 0xbb, 0xbf, ..] => "the text begins with a byte order mark: save it as UTF-8 without one".to_owned(),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            "the text is UTF-16: save it as UTF-8".to_owned()
        }
        _ => format!("this is no JSON: {error}. The module takes JSON text in a google.protobuf.StringValue"),
    }
}

#[cfg(test)]
mod tests;
