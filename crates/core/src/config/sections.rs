//! The sections of a configuration, read one by one into what [`Config`] is made of.

use std::collections::HashMap;
use std::time::Duration;

use super::reader::{Field, Mistakes, Object};
use super::warnings::{self, owner};
use super::{Config, Destination, Identity, Log, ManagedIdentity, Status, TokenOwner};
use super::{destinations, identities, managed_identity};
use crate::broker::Limits;
use crate::configuration_status::Fingerprint;
use crate::event::Level;

/// Where the state of all tokens is shown, unless `status` says otherwise.
const STATUS_HOSTS: &[&str] = &["127.0.0.1", "localhost"];
const STATUS_PATH: &str = "/entra-exchange/status";

/// Reads all sections; with mistakes what comes back is of no use.
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
        ],
        mistakes,
    )?;
    let (identities, cloud) = identities::read(&root, variable, mistakes);
    let managed_identity = managed_identity::read(&root, &identities, variable, mistakes);
    let destinations = destinations::read(&root, &identities, cloud, managed_identity.as_ref(), mistakes);
    if root.get("destinations").is_none() && root.get("managed_identity").is_none() {
        mistakes.add("", "nothing is asked for: write destinations, managed_identity, or both");
    }
    check_principals(&identities, &destinations, managed_identity.as_ref(), mistakes);
    let status = read_status(&root, mistakes);
    let unlisted = managed_identity.as_ref().map(|answers| answers.limits).unwrap_or_default();
    let limits = Limits { unlisted, ..read_limits(&root, mistakes) };
    let mut warnings = Vec::new();
    // The one that is created implicitly need not be used.
    if root.get("identities").is_some() {
        warnings.extend(warnings::unused_identities(&identities, &destinations, managed_identity.as_ref()));
    }
    warnings.extend(warnings::alike_identities(&identities, managed_identity.as_ref()));
    warnings.extend(warnings::evaded_refusals(&destinations));
    warnings.extend(warnings::short_wait(&limits));
    warnings.extend(warnings::wrong_variables(&identities, managed_identity.as_ref()));
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
        warnings,
    })
}

fn read_status(root: &Object<'_>, mistakes: &mut Mistakes) -> Option<Status> {
    let object = root.get("status")?.object(&["hosts", "path"], mistakes)?;
    let path = object.text("path", mistakes).unwrap_or(STATUS_PATH);
    if !path.starts_with('/') || path.contains(['?', '#']) {
        mistakes.add(&object.path_of("path"), format!("{path:?} is no path: write such as {STATUS_PATH:?}"));
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

/// An identity with principals is for them alone, and one caller gets one token.
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
                "cannot be looked for among managed-identity callers, who show no certificate: take the identity out of \
                 managed_identity.identities",
            );
        }
    }
    let by_caller = destinations.iter().find(|destination| owner(destination) == Some(TokenOwner::Caller));
    let Some(by_caller) = by_caller.map(|destination| destination.index) else { return };
    let mut owners: HashMap<&str, &str> = HashMap::new();
    for identity in identities {
        for (number, client) in identity.allowed_callers.iter().enumerate() {
            if let Some(other) = owners.insert(client, &identity.name) {
                mistakes.add(
                    &format!("identities[{}].principals[{number}]", identity.index),
                    format!(
                        "{client:?} stands at {other:?} too, and destinations[{by_caller}] names no identity: write \
                         it at one of them, or an identity at each destination"
                    ),
                );
            }
        }
    }
}
