//! The sections of a configuration, read one by one into what [`Config`] is made of.

use std::time::Duration;

use super::reader::{Field, Mistakes, Object};
use super::{Config, Destination, ExistingCredential, Identity, Log, ManagedIdentity, Principal};
use crate::assertion::Source;
use crate::broker::Limits;
use crate::entra::{Authority, is_guid};
use crate::event::Level;
use crate::host::Host;
use crate::problem::{Code, Problem};

/// The cluster that leads to the authority, unless `entra.clusters` says another.
const ENTRA_CLUSTER: &str = "entra";

/// The assertion that exists unwritten, and its cluster.
const PROJECTED_TOKEN: &str = "projected_token";

/// The identity that exists unwritten.
const DEFAULT_IDENTITY: &str = "default";

/// Where IMDS clients call, unless `managed_identity.imds.hosts` says otherwise.
const IMDS_HOSTS: [&str; 3] = ["169.254.169.254", "127.0.0.1", "localhost"];

const TENANT_VARIABLE: &str = "AZURE_TENANT_ID";
const CLIENT_VARIABLE: &str = "AZURE_CLIENT_ID";
const AUTHORITY_VARIABLE: &str = "AZURE_AUTHORITY_HOST";

/// Reads all sections; with mistakes what comes back is of no use.
pub(super) fn read(
    root: &Field<'_>,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Option<Config> {
    let root = root.object(
        &["entra", "identities", "assertions", "destinations", "managed_identity", "limits", "log"],
        mistakes,
    )?;
    let entra = read_entra(&root, variable, mistakes);
    let assertions = read_assertions(&root, mistakes);
    let identities = read_identities(&root, &entra, &assertions, variable, mistakes);
    let names: Vec<&str> = identities.iter().map(|identity| identity.name.as_str()).collect();
    let managed_identity = read_managed_identity(&root, &names, mistakes);
    let destinations = read_destinations(&root, &names, managed_identity.as_ref(), mistakes);
    if root.get("destinations").is_none() && root.get("managed_identity").is_none() {
        mistakes.add("", "nothing is asked for: write destinations, managed_identity, or both");
    }
    let warnings = warnings(&names, &destinations, managed_identity.as_ref());
    let limits = read_limits(&root, mistakes);
    let log = read_log(&root, mistakes);
    Some(Config { identities, destinations, managed_identity, limits, log, warnings })
}

/// Where tokens come from.
struct Entra {
    authority: Result<Authority, Problem>,
    clusters: Vec<String>,
}

fn read_entra(root: &Object<'_>, variable: &dyn Fn(&str) -> Option<String>, mistakes: &mut Mistakes) -> Entra {
    let object =
        root.get("entra").and_then(|entra| entra.object(&["authority", "unknown_authority", "clusters"], mistakes));
    let unknown_allowed = object.as_ref().is_some_and(|object| {
        object.word("unknown_authority", &[("refuse", false), ("allowed", true)], false, mistakes)
    });
    let written = object.as_ref().and_then(|object| object.text("authority", mistakes));
    let authority = match (written, variable(AUTHORITY_VARIABLE)) {
        (Some(text), _) => Authority::parse(text, unknown_allowed).or_else(|wrong| {
            mistakes.add("entra.authority", format!("{text:?} {wrong}"));
            Ok(Authority::public())
        }),
        (None, Some(text)) if !text.is_empty() => Authority::parse(&text, unknown_allowed).map_err(|wrong| {
            Problem::new(
                Code::VariableMissing,
                format!("{AUTHORITY_VARIABLE}: {text:?} {wrong}"),
                "Correct the variable, or write entra.authority in the configuration.",
            )
        }),
        _ => Ok(Authority::public()),
    };
    let clusters = object.as_ref().and_then(|object| object.texts("clusters", mistakes)).map_or_else(
        || vec![ENTRA_CLUSTER.to_owned()],
        |clusters| clusters.into_iter().map(|(_, name)| name.to_owned()).collect(),
    );
    Entra { authority, clusters }
}

fn read_assertions(root: &Object<'_>, mistakes: &mut Mistakes) -> Vec<(String, Source)> {
    let mut assertions: Vec<(String, Source)> = Vec::new();
    for item in root.list("assertions", mistakes).unwrap_or_default() {
        let Some(object) = item.object(&["name", "source", "cluster"], mistakes) else { continue };
        let name = required(&object, "name", "such as \"projected_token\"", mistakes).unwrap_or_default();
        if required(&object, "source", "\"file\"", mistakes).is_some()
            && let Some(field) = object.get("source")
        {
            field.word(&[("file", ())], mistakes);
        }
        let cluster = required(&object, "cluster", "the Envoy cluster that serves the token's file", mistakes);
        if assertions.iter().any(|(other, _)| other == name) {
            mistakes.add(&object.path_of("name"), format!("{name:?} is the name of another assertion: write another"));
        }
        assertions.push((name.to_owned(), Source::File { cluster: cluster.unwrap_or_default().to_owned() }));
    }
    if assertions.iter().all(|(name, _)| name != PROJECTED_TOKEN) {
        assertions.push((PROJECTED_TOKEN.to_owned(), Source::File { cluster: PROJECTED_TOKEN.to_owned() }));
    }
    assertions
}

fn read_identities(
    root: &Object<'_>,
    entra: &Entra,
    assertions: &[(String, Source)],
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Vec<Identity> {
    let mut identities: Vec<Identity> = Vec::new();
    let items = root.list("identities", mistakes).unwrap_or_default();
    for item in &items {
        let known = &["name", "tenant_id", "client_id", "assertion", "discard_tokens_before"];
        let Some(object) = item.object(known, mistakes) else { continue };
        let name = match object.text("name", mistakes) {
            Some(name) => name,
            None if items.len() == 1 => DEFAULT_IDENTITY,
            None => {
                mistakes.add(&object.path_of("name"), "is missing: with several identities each needs a name");
                continue;
            }
        };
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
        if name.len() > 63 || !name.bytes().all(fits) {
            mistakes
                .add(&object.path_of("name"), format!("{name:?} is no name: write at most 63 of a-z, 0-9, _ and -"));
        }
        if identities.iter().any(|other| other.name == name) {
            mistakes.add(&object.path_of("name"), format!("{name:?} is the name of another identity: write another"));
        }
        let tenant_id = written(&object, "tenant_id", wrong_tenant, mistakes);
        let client_id = written(&object, "client_id", wrong_client, mistakes);
        let source = match object.text("assertion", mistakes) {
            None => None,
            Some(wanted) => {
                let found = assertions.iter().find(|(name, _)| name == wanted);
                if found.is_none() {
                    let all: Vec<&str> = assertions.iter().map(|(name, _)| name.as_str()).collect();
                    mistakes.add(
                        &object.path_of("assertion"),
                        format!("{wanted:?} is no assertion: write {}", all.join(" or ")),
                    );
                }
                found.map(|(_, source)| source.clone())
            }
        };
        let discard_before = object.get("discard_tokens_before").and_then(|field| field.time(mistakes));
        let principal = principal(entra, tenant_id, client_id, source.or_else(|| projected(assertions)), variable)
            .map(|principal| Principal { discard_before, ..principal });
        identities.push(Identity { name: name.to_owned(), principal });
    }
    if root.get("identities").is_none() {
        let principal = principal(entra, None, None, projected(assertions), variable);
        identities.push(Identity { name: DEFAULT_IDENTITY.to_owned(), principal });
    }
    identities
}

fn projected(assertions: &[(String, Source)]) -> Option<Source> {
    assertions.iter().find(|(name, _)| name == PROJECTED_TOKEN).map(|(_, source)| source.clone())
}

/// A text that was written, with what `wrong` finds in it told.
fn written<'a>(
    object: &Object<'a>,
    name: &str,
    wrong: fn(&str) -> Option<&'static str>,
    mistakes: &mut Mistakes,
) -> Option<&'a str> {
    let text = object.text(name, mistakes)?;
    if let Some(wrong) = wrong(text) {
        mistakes.add(&object.path_of(name), format!("{text:?} {wrong}"));
    }
    Some(text)
}

fn wrong_tenant(text: &str) -> Option<&'static str> {
    if matches!(text, "common" | "organizations" | "consumers") {
        return Some("is no tenant that an application can sign in to: write the tenant's id");
    }
    let domain = text.contains('.') && Host::parse(text.as_bytes()).is_some_and(|host| host.port.is_none());
    (!is_guid(text) && !domain).then_some("is no tenant: write its id, a GUID, or one of its domain names")
}

fn wrong_client(text: &str) -> Option<&'static str> {
    (!is_guid(text)).then_some("is no client id: write the application's or managed identity's client id, a GUID")
}

/// The identity as Entra knows it: what was written, else the variables; or what is missing in the pod.
fn principal(
    entra: &Entra,
    tenant_id: Option<&str>,
    client_id: Option<&str>,
    assertion: Option<Source>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Principal, Problem> {
    let from = |written: Option<&str>, name: &str, annotation: &str, wrong: fn(&str) -> Option<&'static str>| {
        if let Some(text) = written {
            return Ok(text.to_owned());
        }
        let found = variable(name).filter(|text| !text.is_empty());
        let wrong = match &found {
            None => Some("is not set"),
            Some(text) => wrong(text),
        };
        match (found, wrong) {
            (Some(text), None) => Ok(text),
            (found, wrong) => Err(Problem::new(
                Code::VariableMissing,
                match found {
                    Some(text) => format!("{name}: {text:?} {}", wrong.unwrap_or_default()),
                    None => format!("{name} is not set"),
                },
                format!(
                    "Annotate the pod's service account with azure.workload.identity/{annotation}, label the pod \
                     azure.workload.identity/use: \"true\", and see that {name} reaches the proxy's container and \
                     stands in vm_config.environment_variables.host_env_keys."
                ),
            )),
        }
    };
    Ok(Principal {
        tenant_id: from(tenant_id, TENANT_VARIABLE, "tenant-id", wrong_tenant)?,
        client_id: from(client_id, CLIENT_VARIABLE, "client-id", wrong_client)?,
        authority: entra.authority.clone()?,
        assertion: assertion.unwrap_or(Source::File { cluster: PROJECTED_TOKEN.to_owned() }),
        clusters: entra.clusters.clone(),
        discard_before: None,
    })
}

fn read_managed_identity(root: &Object<'_>, names: &[&str], mistakes: &mut Mistakes) -> Option<ManagedIdentity> {
    let object = root.get("managed_identity")?.object(&["identities", "default_identity", "imds"], mistakes)?;
    let place = |path: &str, name: &str, mistakes: &mut Mistakes| {
        let found = names.iter().position(|other| *other == name);
        if found.is_none() {
            mistakes.add(path, format!("{name:?} is no identity: write {}", names.join(" or ")));
        }
        found
    };
    let offered: Vec<usize> = match object.texts("identities", mistakes) {
        Some(texts) => texts.iter().filter_map(|(path, name)| place(path, name, mistakes)).collect(),
        None if names.len() > 1 => {
            mistakes.add(
                &object.path_of("identities"),
                format!("is missing: say which identities callers may ask for, of {}", names.join(", ")),
            );
            Vec::new()
        }
        None => vec![0],
    };
    let default = match object.text("default_identity", mistakes) {
        Some(name) => {
            let found = place(&object.path_of("default_identity"), name, mistakes);
            if found.is_some_and(|place| !offered.contains(&place)) {
                mistakes.add(
                    &object.path_of("default_identity"),
                    format!("{name:?} is not among managed_identity.identities: add it there"),
                );
            }
            found
        }
        None => match offered.as_slice() {
            [only] => Some(*only),
            _ => None,
        },
    };
    let Some(imds) = object.get("imds") else {
        mistakes.add(&object.path_of("imds"), "is missing: write \"imds\": {} to answer IMDS clients");
        return None;
    };
    let imds = imds.object(&["hosts"], mistakes)?;
    let hosts = match imds.texts("hosts", mistakes) {
        None => IMDS_HOSTS.map(str::to_owned).to_vec(),
        Some(texts) => texts
            .into_iter()
            .filter_map(|(path, text)| match Host::parse(text.as_bytes()) {
                Some(Host { name, port: None }) => Some(name.into_owned()),
                _ => {
                    mistakes.add(&path, format!("{text:?} is no host: write a name or an address without a port"));
                    None
                }
            })
            .collect(),
    };
    Some(ManagedIdentity { offered, default, imds_hosts: hosts })
}

fn read_destinations(
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
            if managed_identity.is_some_and(|answers| answers.imds_hosts.iter().any(|other| *other == host.name)) {
                mistakes
                    .add(&path, format!("{text:?} is answered by managed_identity.imds: take it out here or there"));
            }
            hosts.push(host);
        }
        let scope = required(&object, "scope", "the resource and /.default", mistakes).unwrap_or_default();
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

/// A text that must be there.
fn required<'a>(object: &Object<'a>, name: &str, what: &str, mistakes: &mut Mistakes) -> Option<&'a str> {
    if object.get(name).is_none() {
        mistakes.add(&object.path_of(name), format!("is missing: write {what}"));
    }
    object.text(name, mistakes)
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
