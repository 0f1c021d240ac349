//! The sections `defaults` and `destinations`: which requests get which token.

use std::collections::HashMap;

use super::reader::{Field, Mistakes, Object};
use super::{Action, Destination, ExistingCredential, Identity, ManagedIdentity, Terms, Token, Whose};
use super::{azure_service, identities, shared_suffixes};
use crate::azure::HeaderForm;
use crate::entra::Cloud;
use crate::host::HostPattern;
use crate::path;

/// What only a destination says.
const OWN: &[&str] = &["name", "azure_service", "names", "hosts", "methods", "path_prefixes"];

/// What `defaults` may say for all, and a destination for itself.
const TREATMENT: &[&str] = &[
    "scope",
    "identity",
    "action",
    "tls_clusters",
    "plaintext",
    "shared_suffix",
    "existing_credential",
    "header",
    "on_failure",
    "warm",
];

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
    for (place, item) in root.list("destinations", mistakes).unwrap_or_default().into_iter().enumerate() {
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
                    if let Some(other) = taken.insert(what, place) {
                        mistakes.add(path, tie(host, prefix, method.as_deref(), other));
                    }
                }
            }
        }
        let mut treatment = defaults.clone().with(&object, identities, mistakes);
        if let Some(azure) = &azure {
            treatment.form = azure.form;
            treatment.scope = Some(String::new());
        }
        for (path, host) in &hosts {
            if host.wildcard && !treatment.shared_suffix_allowed && shared_suffixes::is_shared(&host.host.name) {
                mistakes.add(
                    path,
                    format!(
                        "strangers can have a host under {:?}: list your own hosts, or write shared_suffix: allowed",
                        host.name()
                    ),
                );
            }
        }
        let label = object
            .text("name", mistakes)
            .map_or_else(|| hosts.first().map(|(_, host)| host.name()).unwrap_or_default(), str::to_owned);
        let action = treatment.action(&object, identities, mistakes);
        let hosts: Vec<HostPattern> = hosts.into_iter().map(|(_, host)| host).collect();
        let groups = match azure {
            Some(azure) => {
                azure.by_scope().into_iter().map(|(scope, hosts)| (action.clone().with_scope(scope), hosts)).collect()
            }
            None => vec![(action, hosts)],
        };
        for (action, hosts) in groups {
            let (label, methods, path_prefixes) = (label.clone(), methods.clone(), path_prefixes.clone());
            destinations.push(Destination { place, label, hosts, methods, path_prefixes, action });
        }
    }
    destinations
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
        if !is_token(text) {
            mistakes.add(&path, format!("{text:?} is no method: write such as \"GET\""));
        } else if right != text {
            // Methods are case-sensitive (RFC 9110, section 9.1), and hardly one has small letters.
            mistakes.add(&path, format!("{text:?} is another method than {right:?}: write {right:?}"));
        } else if methods.contains(&Some(right.clone())) {
            mistakes.add(&path, format!("{text:?} stands here a second time: write it once"));
        } else {
            methods.push(Some(right));
        }
    }
    methods
}

/// The prefixes without a slash at their end; a single empty one is any path.
fn read_prefixes(object: &Object<'_>, mistakes: &mut Mistakes) -> Vec<String> {
    let Some(texts) = object.texts("path_prefixes", mistakes) else { return vec![String::new()] };
    let mut prefixes = Vec::new();
    for (path, text) in texts {
        let prefix = text.strip_suffix('/').unwrap_or(text).to_owned();
        if !text.starts_with('/') || text.contains(['?', '*']) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            mistakes.add(
                &path,
                format!(
                    "{text:?} is no path prefix: write whole segments that begin with a slash, such as \"/v1.0/users\""
                ),
            );
        } else if let Some(what) = path::ambiguity(prefix.as_bytes()) {
            mistakes
                .add(&path, format!("{text:?} has {what}, and requests for such paths are refused: write it without"));
        } else if prefixes.contains(&prefix) {
            mistakes.add(&path, format!("{text:?} stands here a second time: write it once"));
        } else {
            prefixes.push(prefix);
        }
    }
    prefixes
}

/// A name of a method or a header (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What happens to the requests of a destination, as far as it is written.
#[derive(Clone)]
struct Treatment {
    scope: Option<String>,
    /// The identity's place.
    identity: Option<usize>,
    action: Word,
    tls_clusters: Vec<String>,
    plaintext_allowed: bool,
    shared_suffix_allowed: bool,
    existing_credential: ExistingCredential,
    header: String,
    form: HeaderForm,
    pass_on_failure: bool,
    warm: bool,
}

/// What `action` says.
#[derive(Clone, Copy)]
enum Word {
    Inject,
    Report,
    Pass,
    Refuse,
}

impl Default for Treatment {
    fn default() -> Self {
        Self {
            scope: None,
            identity: None,
            action: Word::Inject,
            tls_clusters: Vec::new(),
            plaintext_allowed: false,
            shared_suffix_allowed: false,
            existing_credential: ExistingCredential::Keep,
            header: "authorization".to_owned(),
            form: HeaderForm::Bearer,
            pass_on_failure: false,
            warm: false,
        }
    }
}

impl Treatment {
    /// The same with what is written in this object.
    fn with(self, object: &Object<'_>, identities: &[Identity], mistakes: &mut Mistakes) -> Self {
        let danger = [("refuse", false), ("allowed", true)];
        Self {
            scope: object.get("scope").and_then(|field| read_scope(&field, mistakes)).or(self.scope),
            identity: object
                .get("identity")
                .and_then(|field| identities::read_place(&field, identities, mistakes))
                .or(self.identity),
            action: object.word(
                "action",
                &[("inject", Word::Inject), ("report", Word::Report), ("pass", Word::Pass), ("refuse", Word::Refuse)],
                self.action,
                mistakes,
            ),
            tls_clusters: object
                .texts("tls_clusters", mistakes)
                .map_or(self.tls_clusters, |texts| texts.into_iter().map(|(_, name)| name.to_owned()).collect()),
            plaintext_allowed: object.word("plaintext", &danger, self.plaintext_allowed, mistakes),
            shared_suffix_allowed: object.word("shared_suffix", &danger, self.shared_suffix_allowed, mistakes),
            existing_credential: object.word(
                "existing_credential",
                &[
                    ("keep", ExistingCredential::Keep),
                    ("replace", ExistingCredential::Replace),
                    ("refuse", ExistingCredential::Refuse),
                ],
                self.existing_credential,
                mistakes,
            ),
            header: object.get("header").and_then(|field| read_header(&field, mistakes)).unwrap_or(self.header),
            form: self.form,
            pass_on_failure: object.word(
                "on_failure",
                &[("refuse", false), ("pass", true)],
                self.pass_on_failure,
                mistakes,
            ),
            warm: object.get("warm").and_then(|field| field.switch(mistakes)).unwrap_or(self.warm),
        }
    }

    /// What it comes to for a destination, which must say what its action needs.
    fn action(self, object: &Object<'_>, identities: &[Identity], mistakes: &mut Mistakes) -> Action {
        match self.action {
            Word::Pass => return Action::Pass,
            Word::Refuse => return Action::Refuse,
            Word::Inject | Word::Report => {}
        }
        if self.scope.is_none() && object.get("scope").is_none() {
            mistakes.add(&object.path_of("scope"), "is missing: write the resource and /.default");
        }
        let whose = match self.identity {
            Some(place) => Whose::Identity(place),
            None if identities.iter().any(|identity| !identity.principals.is_empty()) => Whose::Caller,
            None => {
                if identities.len() > 1 && object.get("identity").is_none() {
                    let names = identities::names(identities, " or ");
                    mistakes.add(&object.path_of("identity"), format!("is missing: write {names}"));
                }
                Whose::Identity(0)
            }
        };
        let token = Token { scope: self.scope.unwrap_or_default(), whose, warm: self.warm };
        let terms = Terms {
            tls_clusters: self.tls_clusters,
            plaintext_allowed: self.plaintext_allowed,
            existing_credential: self.existing_credential,
            header: self.header,
            form: self.form,
            pass_on_failure: self.pass_on_failure,
        };
        match self.action {
            Word::Report => Action::Report(token, terms),
            _ => Action::Inject(token, terms),
        }
    }
}

/// A scope is one resource and `/.default` (learn.microsoft.com, "OAuth 2.0 client credentials flow").
fn read_scope(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let scope = field.text(mistakes)?;
    if scope.contains(char::is_whitespace) {
        mistakes.add(&field.path, format!("{scope:?} is more than one scope: write one resource and /.default"));
    } else if !scope.ends_with("/.default") {
        let right = format!("{}/.default", scope.strip_suffix('/').unwrap_or(scope));
        mistakes.add(&field.path, format!("{scope:?} is a resource: write {right:?}"));
    }
    Some(scope.to_owned())
}

/// Headers that belong to one connection or to the message itself (RFC 9110, sections 7.6.1, 7.2 and 8.6).
const NOT_FOR_TOKENS: &[&str] = &[
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn read_header(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let name = field.text(mistakes)?.to_ascii_lowercase();
    if !is_token(&name) {
        mistakes.add(&field.path, format!("{name:?} is no header: write such as \"authorization\""));
    } else if NOT_FOR_TOKENS.contains(&name.as_str()) || name.starts_with("x-envoy-") {
        mistakes.add(
            &field.path,
            format!(
                "{name:?} does not reach the destination as it is: write \"authorization\" or a header of your own"
            ),
        );
    }
    Some(name)
}
