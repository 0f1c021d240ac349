//! The section `destinations`: which requests get which token.

use super::reader::{Mistakes, Object};
use super::{Destination, ExistingCredential, ManagedIdentity};
use crate::host::Host;

pub(super) fn read(
    root: &Object<'_>,
    names: &[&str],
    managed_identity: Option<&ManagedIdentity>,
    mistakes: &mut Mistakes,
) -> Vec<Destination> {
    const KNOWN: &[&str] = &[
        "name",
        "hosts",
        "scope",
        "identity",
        "tls_clusters",
        "plaintext",
        "existing_credential",
        "on_failure",
        "warm",
    ];
    let mut destinations: Vec<Destination> = Vec::new();
    for item in root.list("destinations", mistakes).unwrap_or_default() {
        let Some(object) = item.object(KNOWN, mistakes) else { continue };
        let mut hosts: Vec<Host<'static>> = Vec::new();
        if object.get("hosts").is_none() {
            mistakes.add(&object.path_of("hosts"), "is missing: write the hosts that get the token");
        }
        for (path, text) in object.texts("hosts", mistakes).unwrap_or_default() {
            let Some(host) = Host::parse(text.as_bytes()) else {
                mistakes.add(&path, format!("{text:?} is no host: write a name such as \"api.example.com\", with :port if only that port is meant"));
                continue;
            };
            let host = Host { name: host.name.into_owned().into(), port: host.port };
            if hosts.contains(&host) || destinations.iter().any(|other| other.hosts.contains(&host)) {
                mistakes.add(
                    &path,
                    format!("{text:?} stands in two places, and which token it gets is not clear: write it once"),
                );
            }
            if managed_identity.is_some_and(|answers| answers.hosts().any(|other| *other == host.name)) {
                mistakes.add(&path, format!("{text:?} is answered by managed_identity: take it out here or there"));
            }
            hosts.push(host);
        }
        let scope = object.required("scope", "the resource and /.default", mistakes).unwrap_or_default();
        if !scope.is_empty() {
            check_scope(&object, scope, mistakes);
        }
        let identity = match object.text("identity", mistakes) {
            Some(name) => names.iter().position(|other| *other == name).unwrap_or_else(|| {
                mistakes
                    .add(&object.path_of("identity"), format!("{name:?} is no identity: write {}", names.join(" or ")));
                0
            }),
            None if names.len() > 1 => {
                mistakes.add(&object.path_of("identity"), format!("is missing: write {}", names.join(" or ")));
                0
            }
            None => 0,
        };
        let tls_clusters = object.texts("tls_clusters", mistakes).unwrap_or_default();
        let label = object.text("name", mistakes).map_or_else(
            || hosts.first().map(|host| host.name.clone().into_owned()).unwrap_or_default(),
            str::to_owned,
        );
        destinations.push(Destination {
            label,
            hosts,
            scope: scope.to_owned(),
            identity,
            tls_clusters: tls_clusters.into_iter().map(|(_, name)| name.to_owned()).collect(),
            pass_on_failure: object.word("on_failure", &[("refuse", false), ("pass", true)], false, mistakes),
            warm: object.get("warm").and_then(|field| field.switch(mistakes)).unwrap_or(false),
            plaintext_allowed: object.word("plaintext", &[("refuse", false), ("allowed", true)], false, mistakes),
            existing_credential: object.word(
                "existing_credential",
                &[
                    ("keep", ExistingCredential::Keep),
                    ("replace", ExistingCredential::Replace),
                    ("refuse", ExistingCredential::Refuse),
                ],
                ExistingCredential::Keep,
                mistakes,
            ),
        });
    }
    destinations
}

/// A scope is one resource and `/.default` (learn.microsoft.com, "OAuth 2.0 client credentials flow").
fn check_scope(object: &Object<'_>, scope: &str, mistakes: &mut Mistakes) {
    let path = object.path_of("scope");
    if scope.contains(char::is_whitespace) {
        mistakes.add(&path, format!("{scope:?} is more than one scope: write one resource and /.default"));
    } else if !scope.ends_with("/.default") {
        let right = format!("{}/.default", scope.strip_suffix('/').unwrap_or(scope));
        mistakes.add(&path, format!("{scope:?} is a resource: write {right:?}"));
    }
}
