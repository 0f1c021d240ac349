//! The sections of a configuration, read one by one into what [`Config`] is made of.

use std::time::Duration;

use super::reader::{Field, Mistakes, Object};
use super::{Config, Destination, Log, ManagedIdentity, Status, destinations, identities, managed_identity};
use crate::broker::Limits;
use crate::event::Level;

/// Where the state of all tokens is shown, unless `status` says otherwise.
const STATUS_HOSTS: &[&str] = &["127.0.0.1"];
const STATUS_PATH: &str = "/entra-exchange/status";

/// Reads all sections; with mistakes what comes back is of no use.
pub(super) fn read(
    root: &Field<'_>,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Option<Config> {
    let root = root.object(
        &["entra", "identities", "assertions", "destinations", "managed_identity", "status", "limits", "log"],
        mistakes,
    )?;
    let identities = identities::read(&root, variable, mistakes);
    let names: Vec<&str> = identities.iter().map(|identity| identity.name.as_str()).collect();
    let managed_identity = managed_identity::read(&root, &identities, variable, mistakes);
    let destinations = destinations::read(&root, &names, managed_identity.as_ref(), mistakes);
    if root.get("destinations").is_none() && root.get("managed_identity").is_none() {
        mistakes.add("", "nothing is asked for: write destinations, managed_identity, or both");
    }
    let warnings = warnings(&names, &destinations, managed_identity.as_ref());
    let status = read_status(&root, mistakes);
    let limits = read_limits(&root, mistakes);
    let log = read_log(&root, mistakes);
    Some(Config { identities, destinations, managed_identity, status, limits, log, warnings })
}

fn read_status(root: &Object<'_>, mistakes: &mut Mistakes) -> Option<Status> {
    let object = root.get("status")?.object(&["hosts", "path"], mistakes)?;
    let path = object.text("path", mistakes).unwrap_or(STATUS_PATH);
    if !path.starts_with('/') || path.contains(['?', '#']) {
        mistakes.add(&object.path_of("path"), format!("{path:?} is no path: write such as {STATUS_PATH:?}"));
    }
    Some(Status { hosts: managed_identity::read_hosts(&object, STATUS_HOSTS, mistakes), path: path.to_owned() })
}

fn read_log(root: &Object<'_>, mistakes: &mut Mistakes) -> Log {
    let words = [("info", Some(Level::Info)), ("warn", Some(Level::Warn)), ("never", None)];
    let object = root.get("log").and_then(|log| log.object(&["exchanges", "requests"], mistakes));
    let mut level = |name: &str, default: Option<Level>| match &object {
        Some(object) => object.word(name, &words, default, mistakes),
        None => default,
    };
    Log { exchanges: level("exchanges", Some(Level::Info)), requests: level("requests", None) }
}

fn read_limits(root: &Object<'_>, mistakes: &mut Mistakes) -> Limits {
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST_WAIT: Duration = Duration::from_secs(300);
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
        wait: length("wait", LONGEST_WAIT, defaults.wait),
        waiting: object.get("waiting").and_then(|field| field.count(1_000_000, mistakes)).unwrap_or(defaults.waiting),
    }
}

fn warnings(names: &[&str], destinations: &[Destination], managed_identity: Option<&ManagedIdentity>) -> Vec<String> {
    let used = |place: usize| {
        destinations.iter().any(|destination| destination.identity == place)
            || managed_identity.is_some_and(|answers| answers.offered.contains(&place))
    };
    let unused = names
        .iter()
        .enumerate()
        .filter(|(place, _)| !used(*place))
        .map(|(place, name)| format!("identities[{place}] ({name}) is used by no destination and not on offer"));
    let no_way = destinations
        .iter()
        .enumerate()
        .filter(|(_, destination)| destination.tls_clusters.is_empty() && !destination.plaintext_allowed)
        .map(|(place, _)| format!("destinations[{place}].tls_clusters is missing: every request to it is refused"));
    unused.chain(no_way).collect()
}
