//! Reads the section `managed_identity`.

use super::fields::fields;
use super::identities;
use super::object::{Field, Object};
use super::reader::Mistakes;
use super::shapes::{Choice, Count, Hosts, List, Text, Words};
use super::types::{AppService, Identity, Imds, ManagedAction, ManagedIdentity};
use super::variables::read_variable;
use crate::broker::UnlistedLimits;
use crate::path;
use crate::problem::{Code, Problem};
use crate::secret::Secret;

/// The hosts to which IMDS clients send requests; the default of `managed_identity.imds.hosts`.
const IMDS_HOSTS: &[&str] = &["169.254.169.254", "127.0.0.1", "localhost"];

/// The path of Google's metadata, and the host to which Google's clients send requests.
const GOOGLE_PATH: &str = "/computeMetadata";
const GOOGLE_HOST: &str = "metadata.google.internal";

/// The hosts to which App Service clients send requests; the default of `managed_identity.app_service.hosts`.
const APP_SERVICE_HOSTS: &[&str] = &["127.0.0.1", "localhost"];

/// The variable with the secret of App Service clients; the default of `secret_from_env`. Clients read a variable of the same
/// name.
const SECRET_VARIABLE: &str = "IDENTITY_HEADER";

fields! {
    /// Local endpoints at which apps request tokens, and health checks.
    pub(super) ManagedIdentityFields, any_of(&["imds", "app_service", "health"]) {
        /// the identities that callers may request
        identities: List<Text>, unset("the only identity"), unique();
        /// the identity used when the caller does not select one. Without it, the caller gets IMDS's error "Multiple user assigned
        /// identities exist"
        default_identity: Text, unset("the only one of `identities`");
        /// `answer` returns a token; `report` fetches the token and forwards the request to the node's own endpoint; `refuse` rejects
        /// the request
        action: Choice<ManagedAction>, default("answer");
        /// the endpoint of the instance metadata service (IMDS). `{}` is enough
        imds: ImdsFields;
        /// the endpoint of App Service. `{}` is enough
        app_service: AppServiceFields;
        /// the endpoints of health checks, `/healthz` and `/readyz`
        health: HealthFields;
        /// the limits of scopes that the configuration does not list
        limits: UnlistedFields;
    }
}

fields! {
    /// The endpoint of the instance metadata service (IMDS).
    pub(super) ImdsFields {
        /// the hosts at which IMDS is answered, on any port
        hosts: Hosts, default(IMDS_HOSTS);
        /// metadata paths that are forwarded to the node's own service, with all paths below them
        pass: List<Text>, unset("none"), pattern(r"^/(metadata|latest|computeMetadata|[\d-]{10})(/[^?*]*)?$"),
            example(&["/metadata/instance"][..]);
    }
}

fields! {
    /// The endpoint of App Service.
    pub(super) AppServiceFields {
        /// the hosts at which App Service's endpoint, `/msi/token`, is answered, on any port
        hosts: Hosts, default(APP_SERVICE_HOSTS);
        /// the proxy's environment variable with the secret that callers must send
        secret_from_env: Text, default(SECRET_VARIABLE);
    }
}

fields! {
    /// The endpoints of health checks.
    pub(super) HealthFields {
        // There is no default: a kubelet sends the pod's address, which is not known in advance.
        /// the hosts at which `/healthz` and `/readyz` are answered
        hosts: Hosts, required("a list with the host that the probe sends"), example(&["entra-exchange.health"][..]);
        /// the identities that must be ready before `/readyz` returns 200
        identities: List<Text>, unset("`default_identity`, else every identity in use"), unique();
    }
}

fields! {
    /// The limits of scopes that the configuration does not list.
    pub(super) UnlistedFields {
        /// how many unlisted scopes are kept for each identity, from 1 to 1000. The least recently used one is dropped; first those that
        /// Entra rejected and that have no token
        unlisted_scopes: Count<1_000>, default(UnlistedLimits::default().scopes);
        /// how many unlisted scopes may be new within a minute, from 1 to 1000. Beyond that, callers get 429 with `Retry-After`
        new_scopes_per_minute: Count<1_000>, default(UnlistedLimits::default().new_per_minute);
        /// how many unlisted scopes are exchanged at a time, from 1 to 100. The others wait
        parallel_exchanges: Count<100>, default(UnlistedLimits::default().parallel_exchanges);
    }
}

impl Words for ManagedAction {
    type Value = Self;
    const WORDS: &'static [(&'static str, Self)] =
        &[("answer", Self::Answer), ("report", Self::Report), ("refuse", Self::Refuse)];
}

pub(super) fn read(
    section: &Field<'_, '_, ManagedIdentityFields>,
    identities: &[Identity],
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Option<ManagedIdentity> {
    let object = section.read(mistakes)?;
    let (imds, app_service, health) = (object.imds(), object.app_service(), object.health());
    let (offered, default) = read_offered(&object, identities, mistakes);
    let (health_hosts, health_identities) = read_health(&health, identities, mistakes);
    if !imds.is_set() && !app_service.is_set() && !health.is_set() {
        imds.mistake(
            "is missing: set \"imds\": {} to answer IMDS clients, or \"app_service\": {} to answer App Service clients",
            mistakes,
        );
    }
    let action = object.action().read(mistakes).unwrap_or(ManagedAction::Answer);
    if action == ManagedAction::Report && app_service.is_set() {
        app_service.mistake("cannot be combined with \"action\": \"report\": no other server in a pod answers App Service's protocol, and the \
             forwarded request would contain the secret. Remove app_service while the action is \"report\"", mistakes);
    }
    Some(ManagedIdentity {
        offered,
        default,
        action,
        imds: read_imds(&imds, mistakes),
        app_service: read_app_service(&app_service, variable, mistakes),
        health_hosts,
        health_identities,
        limits: read_limits(&object.limits(), mistakes),
    })
}

/// Reads the limits for scopes that the configuration does not list.
fn read_limits(field: &Field<'_, '_, UnlistedFields>, mistakes: &mut Mistakes) -> UnlistedLimits {
    let defaults = UnlistedLimits::default();
    let Some(object) = field.read(mistakes) else { return defaults };
    UnlistedLimits {
        scopes: object.unlisted_scopes().read(mistakes).unwrap_or(defaults.scopes),
        new_per_minute: object.new_scopes_per_minute().read(mistakes).unwrap_or(defaults.new_per_minute),
        parallel_exchanges: object.parallel_exchanges().read(mistakes).unwrap_or(defaults.parallel_exchanges),
    }
}

/// Reads the hosts of the health endpoints, and the identities that decide readiness; `None` if they are not configured.
fn read_health(
    field: &Field<'_, '_, HealthFields>,
    identities: &[Identity],
    mistakes: &mut Mistakes,
) -> (Vec<String>, Option<Vec<usize>>) {
    let Some(health) = field.read(mistakes) else { return (Vec::new(), None) };
    let (hosts, decisive) = (health.hosts(), health.identities());
    let decisive = decisive.is_set().then(|| read_indexes(&decisive, identities, mistakes));
    (hosts.hosts(&[], mistakes), decisive)
}

/// Reads a list of identities' names; returns their indexes.
fn read_indexes(field: &Field<'_, '_, List<Text>>, identities: &[Identity], mistakes: &mut Mistakes) -> Vec<usize> {
    let mut indexes = Vec::new();
    for item in field.read(mistakes).unwrap_or_default().iter() {
        let Some(index) = identities::read_index(&item, identities, mistakes) else { continue };
        if indexes.contains(&index) {
            item.mistake("duplicate entry: remove it", mistakes);
        } else {
            indexes.push(index);
        }
    }
    indexes
}

/// Reads which identities callers may select, and which is used for a caller that selects none.
fn read_offered(
    object: &Object<'_, '_, ManagedIdentityFields>,
    identities: &[Identity],
    mistakes: &mut Mistakes,
) -> (Vec<usize>, Option<usize>) {
    let (offers, default) = (object.identities(), object.default_identity());
    let offered = if offers.is_set() {
        read_indexes(&offers, identities, mistakes)
    } else if identities.len() > 1 {
        let names = identities::names(identities, ", ");
        offers.mistake(format!("is missing: list the identities that callers may select, from {names}"), mistakes);
        Vec::new()
    } else {
        vec![0]
    };
    if !default.is_set() {
        let only = if let [only] = offered.as_slice() { Some(*only) } else { None };
        return (offered, only);
    }
    let found = identities::read_index(&default, identities, mistakes);
    if let Some(identity) = found.filter(|index| !offered.contains(index)).and_then(|index| identities.get(index)) {
        let name = &identity.name;
        default.mistake(format!("{name:?} is not among managed_identity.identities: add it there"), mistakes);
    }
    (offered, found)
}

fn read_imds(field: &Field<'_, '_, ImdsFields>, mistakes: &mut Mistakes) -> Option<Imds> {
    let imds = field.read(mistakes)?;
    let mut pass: Vec<String> = Vec::new();
    for (index, text) in imds.pass().texts(mistakes).unwrap_or_default() {
        let text = text.strip_suffix('/').unwrap_or(text);
        if path::takes_in_node_identity(text.as_bytes()) {
            mistakes.add(
                &index,
                format!(
                    "{text:?} would expose the node's own identity: paths below /metadata/identity are never forwarded"
                ),
            );
        } else if !is_metadata_path(text) {
            mistakes.add(
                &index,
                format!(
                    "{text:?} is not a valid metadata path: write one below /metadata, /latest or {GOOGLE_PATH}, without a query, such as \
                     \"/metadata/instance\""
                ),
            );
        }
        pass.push(text.to_owned());
    }
    let mut hosts = imds.hosts().hosts(IMDS_HOSTS, mistakes);
    let passes_google = pass.iter().any(|prefix| path::is_within(prefix.as_bytes(), GOOGLE_PATH.as_bytes()));
    if passes_google && hosts.iter().all(|host| host != GOOGLE_HOST) {
        hosts.push(GOOGLE_HOST.to_owned());
    }
    Some(Imds { hosts, pass, passes_root: passes_google })
}

/// One warning for each path of `pass` that exposes the node's own credentials.
pub(super) fn warnings(managed_identity: &ManagedIdentity) -> impl Iterator<Item = String> {
    let pass = managed_identity.imds.iter().flat_map(|imds| imds.pass.iter().enumerate());
    pass.filter_map(|(index, prefix)| {
        let credentials = node_credentials(prefix)?;
        Some(format!(
            "managed_identity.imds.pass[{index}]: {prefix:?} includes {credentials}, which exposes the node's own credentials. List only \
             the paths that the application needs"
        ))
    })
}

/// The path that serves credentials of an AWS or Google node, if the prefix includes it or is below it.
fn node_credentials(prefix: &str) -> Option<&'static str> {
    // AWS serves the same tree under `latest` and under dates.
    let (first, rest) = prefix.strip_prefix('/')?.split_once('/').unwrap_or((prefix.get(1..)?, ""));
    let first = if is_date(first) { "latest" } else { first };
    let prefix = format!("/{first}/{rest}");
    let prefix = prefix.trim_end_matches('/').as_bytes();
    let credentials = ["/latest/meta-data/iam", "/computeMetadata/v1/instance/service-accounts"];
    let overlap = |path: &str| path::is_within(path.as_bytes(), prefix) || path::is_within(prefix, path.as_bytes());
    credentials.into_iter().find(|path| overlap(path))
}

/// Whether a path segment is a date, such as `2021-07-15`.
fn is_date(segment: &str) -> bool {
    segment.len() == 10 && segment.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

/// Whether this is a path of the metadata service of Azure, AWS (whose trees are `latest` and dates) or Google.
fn is_metadata_path(text: &str) -> bool {
    let first = text.strip_prefix('/').map(|rest| rest.split('/').next().unwrap_or_default());
    let known = first.is_some_and(|first| matches!(first, "metadata" | "latest" | "computeMetadata") || is_date(first));
    known && !text.contains(['?', '*']) && path::ambiguity(text.as_bytes()).is_none()
}

fn read_app_service(
    field: &Field<'_, '_, AppServiceFields>,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Option<AppService> {
    let app_service = field.read(mistakes)?;
    let name = app_service.secret_from_env().read(mistakes).unwrap_or(SECRET_VARIABLE);
    let secret = read_variable(name, variable).and_then(|secret| {
        secret.map(Secret::new).ok_or_else(|| {
            Problem::new(
                Code::EnvVarMissing,
                format!("{name} is not set in the proxy, so no caller can send the right secret"),
                format!(
                    "Set the same random {name} in the app's container and in the proxy's, and list it in \
                     vm_config.environment_variables.host_env_keys."
                ),
            )
        })
    });
    Some(AppService { hosts: app_service.hosts().hosts(APP_SERVICE_HOSTS, mistakes), secret })
}
