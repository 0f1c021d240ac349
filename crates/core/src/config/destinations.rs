//! The sections `defaults` and `destinations`: which requests get which token.

use std::collections::HashMap;

use super::azure_service::{self, AzureService};
use super::reader::{Mistakes, Object};
use super::shared_suffixes;
use super::treatment::{TREATMENT, Treatment, is_token};
use super::{Destination, Identity, ManagedIdentity};
use crate::entra::Cloud;
use crate::host::HostPattern;
use crate::path;

/// What only a destination says.
const OWN: &[&str] = &["name", "azure_service", "names", "hosts", "methods", "path_prefixes"];

/// What a request must be like, said once: a host with its port, a path prefix, a method.
type Match = (HostPattern, String, Option<String>);

pub(super) fn read(
    root: &Object<'_>,
    identities: &[Identity],
    cloud: Option<Cloud>,
    managed_identity: Option<&ManagedIdentity>,
    mistakes: &mut Mistakes,
) -> Vec<Destination> {
    let defaults = root.get("defaults").and_then(|defaults| defaults.object(TREATMENT, mistakes));
    let defaults =
        defaults.map_or_else(Treatment::default, |object| Treatment::default().with(&object, identities, mistakes));
    let known = [OWN, TREATMENT].concat();
    let mut taken: HashMap<Match, usize> = HashMap::new();
    let mut destinations: Vec<Destination> = Vec::new();
    for (index, item) in root.list("destinations", mistakes).unwrap_or_default().into_iter().enumerate() {
        let Some(object) = item.object(&known, mistakes) else { continue };
        let azure = azure_service::read(&object, cloud, mistakes);
        let hosts = match &azure {
            Some(azure) => azure.hosts(),
            None => read_hosts(&object, managed_identity, mistakes),
        };
        let methods = read_methods(&object, mistakes);
        let path_prefixes = read_prefixes(&object, mistakes);
        for (path, host) in &hosts {
            for prefix in &path_prefixes {
                for method in &methods {
                    let what = (host.clone(), prefix.clone(), method.clone());
                    if let Some(other) = taken.insert(what, index) {
                        mistakes.add(path, tie(host, prefix, method.as_deref(), other));
                    }
                }
            }
        }
        let mut treatment = defaults.clone().with(&object, identities, mistakes);
        if let Some(azure) = &azure {
            treatment.be_of(azure);
        }
        check_wildcards(&hosts, &treatment, mistakes);
        let label = object
            .text("name", mistakes)
            .map_or_else(|| hosts.first().map(|(_, host)| host.name()).unwrap_or_default(), str::to_owned);
        let override_headers_allowed = treatment.override_headers_allowed;
        let action = treatment.action(&object, identities, mistakes);
        let groups = match azure.map(AzureService::by_scope) {
            Some(groups) => {
                groups.into_iter().map(|(scope, hosts)| (action.clone().with_scope(scope), hosts)).collect()
            }
            None => vec![(action, hosts.into_iter().map(|(_, host)| host).collect())],
        };
        for (action, hosts) in groups {
            let (label, methods, path_prefixes) = (label.clone(), methods.clone(), path_prefixes.clone());
            destinations.push(Destination {
                index,
                label,
                hosts,
                methods,
                path_prefixes,
                override_headers_allowed,
                action,
            });
        }
    }
    destinations
}

/// A token for all hosts of a suffix under which anyone can register one is a token for strangers. Where none is sent there
/// is no danger.
fn check_wildcards(hosts: &[(String, HostPattern)], treatment: &Treatment, mistakes: &mut Mistakes) {
    if treatment.shared_suffix_allowed || !treatment.sends_tokens() {
        return;
    }
    for (path, host) in hosts.iter().filter(|(_, host)| host.wildcard && shared_suffixes::is_shared(&host.host.name)) {
        mistakes.add(
            path,
            format!(
                "strangers can have a host under {:?}: list your own hosts, or write shared_suffix: allow",
                host.name()
            ),
        );
    }
}

/// What to say where two destinations want the same requests.
fn tie(host: &HostPattern, prefix: &str, method: Option<&str>, other: usize) -> String {
    let path = if prefix.is_empty() { String::new() } else { format!(" with path {prefix:?}") };
    let method = method.map_or_else(String::new, |method| format!(" and method {method}"));
    let host = host.to_string();
    format!(
        "{host:?}{path}{method} stands in two places (also destinations[{other}]), and which of them decides is not \
         clear: write it once, or tell them apart by port, path_prefixes or methods"
    )
}

/// The hosts, each with the path of where it is written.
fn read_hosts(
    object: &Object<'_>,
    managed_identity: Option<&ManagedIdentity>,
    mistakes: &mut Mistakes,
) -> Vec<(String, HostPattern)> {
    if object.get("hosts").is_none() {
        mistakes.add(&object.path_of("hosts"), "is missing: write the hosts that get the token, or azure_service");
    }
    let mut hosts = Vec::new();
    for (path, text) in object.texts("hosts", mistakes).unwrap_or_default() {
        let Some(host) = HostPattern::parse(text) else {
            mistakes.add(&path, format!("{text:?} is no host: write a name such as \"api.example.com\" or \"*.example.com\", with :port if only that port is meant"));
            continue;
        };
        let is_answered = |own: &String| !host.wildcard && *own == host.host.name;
        if managed_identity.is_some_and(|answers| answers.hosts().any(is_answered)) {
            mistakes.add(&path, format!("{text:?} is answered by managed_identity: take it out here or there"));
        }
        hosts.push((path, host));
    }
    hosts
}

/// The methods; a single `None` is any.
fn read_methods(object: &Object<'_>, mistakes: &mut Mistakes) -> Vec<Option<String>> {
    let Some(texts) = object.texts("methods", mistakes) else { return vec![None] };
    let mut methods = Vec::new();
    for (path, text) in texts {
        let right = text.to_ascii_uppercase();
        if text == "*" {
            mistakes.add(&path, "\"*\" is not a method, and there are no patterns: leave methods out for any method");
        } else if !is_token(text) {
            mistakes.add(&path, format!("{text:?} is no method: write such as \"GET\""));
        } else if right != text {
            // Methods are case-sensitive (RFC 9110, section 9.1), and hardly one has small letters.
            mistakes.add(&path, format!("{text:?} is another method than {right:?}: write {right:?}"));
        } else if methods.contains(&Some(right.clone())) {
            mistakes.add(&path, format!("{text:?} is a duplicate entry: remove it"));
        } else {
            methods.push(Some(right));
        }
    }
    methods
}

/// The prefixes in their canonical form, without a slash at their end; a single empty one is any path.
fn read_prefixes(object: &Object<'_>, mistakes: &mut Mistakes) -> Vec<String> {
    let Some(texts) = object.texts("path_prefixes", mistakes) else { return vec![String::new()] };
    let mut prefixes = Vec::new();
    for (path, text) in texts {
        let plain = text.strip_suffix('/').unwrap_or(text);
        let prefix = path::canonical(plain.as_bytes());
        // What is canonical is UTF-8.
        let prefix = prefix.map(|prefix| String::from_utf8_lossy(&prefix).into_owned());
        if let Some(whole) =
            text.strip_suffix("/*").or_else(|| text.strip_suffix("/**")).filter(|it| it.starts_with('/'))
        {
            mistakes.add(
                &path,
                format!("{text:?} is not a path prefix: a prefix covers all paths below it, so write {whole:?}"),
            );
            continue;
        }
        if !text.starts_with('/') || text.contains(['?', '*']) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            mistakes.add(
                &path,
                format!(
                    "{text:?} is no path prefix: write whole segments that begin with a slash, such as \"/v1.0/users\""
                ),
            );
            continue;
        }
        match (prefix, path::ambiguity(plain.as_bytes())) {
            (Ok(prefix), Some(what)) => {
                mistakes.add(&path, format!("{text:?} has {what}: write {prefix:?}"));
            }
            (Err(what), _) => mistakes
                .add(&path, format!("{text:?} has {what}, and requests for such paths are refused: write it without")),
            (Ok(prefix), None) if prefixes.contains(&prefix) => {
                mistakes.add(&path, format!("{text:?} is a duplicate entry: remove it"));
            }
            (Ok(prefix), None) => prefixes.push(prefix),
        }
    }
    prefixes
}
