//! Reads the section `managed_identity`.

use super::identities;
use super::reader::{Field, Mistakes, Object};
use super::{AppService, Identity, Imds, ManagedAction, ManagedIdentity};
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

pub(super) fn read(
    root: &Object<'_>,
    identities: &[Identity],
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Option<ManagedIdentity> {
    const KNOWN: &[&str] = &["identities", "default_identity", "action", "imds", "app_service", "health", "limits"];
    let object = root.get("managed_identity")?.object(KNOWN, mistakes)?;
    let (offered, default) = read_offered(&object, identities, mistakes);
    let actions =
        [("answer", ManagedAction::Answer), ("report", ManagedAction::Report), ("refuse", ManagedAction::Refuse)];
    let (health_hosts, health_identities) = read_health(&object, identities, mistakes);
    if ["imds", "app_service", "health"].iter().all(|name| object.get(name).is_none()) {
        mistakes.add(
            &object.path_of("imds"),
            "is missing: set \"imds\": {} to answer IMDS clients, or \"app_service\": {} to answer App Service clients",
        );
    }
    let action = object.choice("action", &actions, ManagedAction::Answer, mistakes);
    if action == ManagedAction::Report && object.get("app_service").is_some() {
        mistakes.add(
            &object.path_of("app_service"),
            "cannot be combined with \"action\": \"report\": no other server in a pod answers App Service's protocol, and the \
             forwarded request would contain the secret. Remove app_service while the action is \"report\"",
        );
    }
    Some(ManagedIdentity {
        offered,
        default,
        action,
        imds: read_imds(&object, mistakes),
        app_service: read_app_service(&object, variable, mistakes),
        health_hosts,
        health_identities,
        limits: read_limits(&object, mistakes),
    })
}

/// Reads the limits for scopes that the configuration does not list.
fn read_limits(object: &Object<'_>, mistakes: &mut Mistakes) -> UnlistedLimits {
    const KNOWN: &[&str] = &["unlisted_scopes", "new_scopes_per_minute", "parallel_exchanges"];
    let defaults = UnlistedLimits::default();
    let Some(object) = object.get("limits").and_then(|limits| limits.object(KNOWN, mistakes)) else { return defaults };
    let mut count = |name: &str, most: usize, default: usize| {
        object.get(name).and_then(|field| field.count(most, mistakes)).unwrap_or(default)
    };
    UnlistedLimits {
        scopes: count("unlisted_scopes", 1_000, defaults.scopes),
        new_per_minute: count("new_scopes_per_minute", 1_000, defaults.new_per_minute),
        parallel_exchanges: count("parallel_exchanges", 100, defaults.parallel_exchanges),
    }
}

/// Reads the hosts of the health endpoints, and the identities that decide readiness; `None` if they are not configured.
fn read_health(
    object: &Object<'_>,
    identities: &[Identity],
    mistakes: &mut Mistakes,
) -> (Vec<String>, Option<Vec<usize>>) {
    let Some(health) = object.get("health").and_then(|health| health.object(&["hosts", "identities"], mistakes)) else {
        return (Vec::new(), None);
    };
    // There is no default: a kubelet sends the pod's address, which is not known in advance.
    if health.get("hosts").is_none() {
        mistakes.add(&health.path_of("hosts"), "is missing: list the host that the probe sends");
    }
    let decisive = health.get("identities").map(|field| read_indexes(&field, identities, mistakes));
    (health.hosts(&[], mistakes), decisive)
}

/// Reads a list of identities' names; returns their indexes.
fn read_indexes(field: &Field<'_>, identities: &[Identity], mistakes: &mut Mistakes) -> Vec<usize> {
    let mut indexes = Vec::new();
    for item in field.list(mistakes).unwrap_or_default() {
        let Some(index) = identities::read_index(&item, identities, mistakes) else { continue };
        if indexes.contains(&index) {
            mistakes.add(&item.path, "duplicate entry: remove it");
        } else {
            indexes.push(index);
        }
    }
    indexes
}

/// Reads which identities callers may select, and which is used for a caller that selects none.
fn read_offered(object: &Object<'_>, identities: &[Identity], mistakes: &mut Mistakes) -> (Vec<usize>, Option<usize>) {
    let offered: Vec<usize> = match object.get("identities") {
        Some(field) => read_indexes(&field, identities, mistakes),
        None if identities.len() > 1 => {
            let names = identities::names(identities, ", ");
            mistakes.add(
                &object.path_of("identities"),
                format!("is missing: list the identities that callers may select, from {names}"),
            );
            Vec::new()
        }
        None => vec![0],
    };
    let default = match (object.get("default_identity"), offered.as_slice()) {
        (Some(field), _) => {
            let found = identities::read_index(&field, identities, mistakes);
            if let Some(identity) =
                found.filter(|index| !offered.contains(index)).and_then(|index| identities.get(index))
            {
                let name = &identity.name;
                mistakes.add(&field.path, format!("{name:?} is not among managed_identity.identities: add it there"));
            }
            found
        }
        (None, [only]) => Some(*only),
        (None, _) => None,
    };
    (offered, default)
}

fn read_imds(object: &Object<'_>, mistakes: &mut Mistakes) -> Option<Imds> {
    let imds = object.get("imds")?.object(&["hosts", "pass"], mistakes)?;
    let mut pass: Vec<String> = Vec::new();
    for (index, text) in imds.texts("pass", mistakes).unwrap_or_default() {
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
    let mut hosts = imds.hosts(IMDS_HOSTS, mistakes);
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
    object: &Object<'_>,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Option<AppService> {
    let app_service = object.get("app_service")?.object(&["hosts", "secret_from_env"], mistakes)?;
    let name = app_service.text("secret_from_env", mistakes).unwrap_or(SECRET_VARIABLE);
    let secret = identities::read_variable(name, variable).and_then(|secret| {
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
    Some(AppService { hosts: app_service.hosts(APP_SERVICE_HOSTS, mistakes), secret })
}
