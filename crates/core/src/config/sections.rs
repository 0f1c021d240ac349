//! Reads the sections of a configuration into a [`Config`].

use std::time::Duration;

use super::Fingerprint;
use super::reader::{Field, Mistakes, Object};
use super::treatment::is_token;
use super::warnings::{self, owner};
use super::{Config, Destination, Identity, Log, ManagedIdentity, Status, TokenOwner};
use super::{destinations, identities, managed_identity};
use crate::broker::Limits;
use crate::event::Level;
use crate::fast_map::FastMap;

/// The hosts and the path of the status page if `status` does not set them.
const STATUS_HOSTS: &[&str] = &["127.0.0.1", "localhost"];
const STATUS_PATH: &str = "/entra-exchange/status";

/// Reads all sections. The result is only valid if no mistakes were added.
pub(super) fn read(
    root: &Field<'_>,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Option<Config> {
    let root = root.object(
        &[
            "entra",
            "identities",
            "assertions",
            "defaults",
            "destinations",
            "managed_identity",
            "status",
            "limits",
            "log",
            "header_prefix",
        ],
        mistakes,
    )?;
    let (identities, cloud) = identities::read(&root, variable, mistakes);
    let managed_identity = managed_identity::read(&root, &identities, variable, mistakes);
    let destinations = destinations::read(&root, &identities, cloud, managed_identity.as_ref(), mistakes);
    if root.get("destinations").is_none() && root.get("managed_identity").is_none() {
        mistakes.add("", "the configuration is empty: add destinations, managed_identity, or both");
    }
    check_principals(&identities, &destinations, managed_identity.as_ref(), mistakes);
    let status = read_status(&root, mistakes);
    let unlisted = managed_identity.as_ref().map(|answers| answers.limits).unwrap_or_default();
    let limits = Limits { unlisted, ..read_limits(&root, mistakes) };
    let mut warnings = Vec::new();
    // The identity that is created implicitly need not be used.
    if root.get("identities").is_some() {
        warnings.extend(warnings::unused_identities(&identities, &destinations, managed_identity.as_ref()));
    }
    warnings.extend(warnings::identities_with_one_client_id(&identities, managed_identity.as_ref()));
    warnings.extend(warnings::evaded_refusals(&destinations));
    warnings.extend(warnings::short_wait(&limits));
    warnings.extend(warnings::invalid_variables(&identities, managed_identity.as_ref()));
    warnings.extend(managed_identity.iter().flat_map(managed_identity::warnings));
    let log = read_log(&root, mistakes);
    Some(Config {
        fingerprint: Fingerprint::default(),
        identities,
        destinations,
        managed_identity,
        status,
        limits,
        log,
        original_url: format!("{}-original-url", read_header_prefix(&root, mistakes)),
        warnings,
    })
}

fn read_status(root: &Object<'_>, mistakes: &mut Mistakes) -> Option<Status> {
    let object = root.get("status")?.object(&["hosts", "path"], mistakes)?;
    let path = object.text("path", mistakes).unwrap_or(STATUS_PATH);
    if !path.starts_with('/') || path.contains(['?', '#']) {
        mistakes.add(
            &object.path_of("path"),
            format!("{path:?} is not a valid path: write a path such as {STATUS_PATH:?}"),
        );
    }
    Some(Status { hosts: object.hosts(STATUS_HOSTS, mistakes), path: path.to_owned() })
}

fn read_log(root: &Object<'_>, mistakes: &mut Mistakes) -> Log {
    let choices = [("info", Some(Level::Info)), ("warn", Some(Level::Warn)), ("never", None)];
    let object = root.get("log").and_then(|log| log.object(&["exchanges", "requests", "access"], mistakes));
    let mut level = |name: &str, default: Option<Level>| match &object {
        Some(object) => object.choice(name, &choices, default, mistakes),
        None => default,
    };
    let (exchanges, requests) = (level("exchanges", Some(Level::Info)), level("requests", None));
    let access = object.as_ref().and_then(|object| object.get("access")?.switch(mistakes)).unwrap_or(false);
    Log { exchanges, requests, access }
}

/// Reads the prefix of the headers that Envoy sets, in lower case.
fn read_header_prefix(root: &Object<'_>, mistakes: &mut Mistakes) -> String {
    let prefix = root.text("header_prefix", mistakes).unwrap_or("x-envoy");
    if !is_token(prefix) {
        mistakes.add(
            &root.path_of("header_prefix"),
            format!("{prefix:?} is not a valid header prefix: write the header_prefix of Envoy's bootstrap, such as \"x-acme\""),
        );
    }
    prefix.to_ascii_lowercase()
}

fn read_limits(root: &Object<'_>, mistakes: &mut Mistakes) -> Limits {
    const SHORTEST: Duration = Duration::from_secs(1);
    let defaults = Limits::default();
    let Some(object) = root.get("limits").and_then(|limits| limits.object(&["exchange", "wait", "waiting"], mistakes))
    else {
        return defaults;
    };
    let mut length = |name: &str, longest: Duration, default: Duration| {
        object.get(name).and_then(|field| field.duration(SHORTEST..=longest, mistakes)).unwrap_or(default)
    };
    Limits {
        exchange: length("exchange", Limits::LONGEST_EXCHANGE, defaults.exchange),
        wait: length("wait", Limits::LONGEST_WAIT, defaults.wait),
        waiting: object.get("waiting").and_then(|field| field.count(1_000_000, mistakes)).unwrap_or(defaults.waiting),
        ..defaults
    }
}

/// Checks that no identity with principals is available to managed-identity callers, whose certificates are not known, and that
/// each caller has one identity if a destination selects the identity by caller.
fn check_principals(
    identities: &[Identity],
    destinations: &[Destination],
    managed_identity: Option<&ManagedIdentity>,
    mistakes: &mut Mistakes,
) {
    for index in managed_identity.map(|answers| answers.offered.as_slice()).unwrap_or_default() {
        if let Some(identity) = identities.get(*index).filter(|identity| !identity.allowed_callers.is_empty()) {
            mistakes.add(
                &format!("identities[{}].principals", identity.index),
                "cannot be checked for managed-identity callers, which present no certificate: remove the identity from \
                 managed_identity.identities",
            );
        }
    }
    let by_caller = destinations.iter().find(|destination| owner(destination) == Some(TokenOwner::Caller));
    let Some(by_caller) = by_caller.map(|destination| destination.index) else { return };
    let mut owners: FastMap<&str, &str> = FastMap::default();
    for identity in identities {
        for (number, principal) in identity.allowed_callers.iter().enumerate() {
            if let Some(other) = owners.insert(principal, &identity.name) {
                mistakes.add(
                    &format!("identities[{}].principals[{number}]", identity.index),
                    format!(
                        "{principal:?} is also a principal of {other:?}, and destinations[{by_caller}] sets no identity: remove it \
                         from one of the two, or set identity on each destination"
                    ),
                );
            }
        }
    }
}
