//! Reads the sections `defaults` and `destinations`.

use super::azure_service::{self, AzureService, ServiceFields};
use super::fields::fields;
use super::object::{Field, Object};
use super::reader::Mistakes;
use super::settings::is_token;
use super::shapes::{HOST, List, PORT, Text};
use super::shared_suffixes;
use super::treatment::{Treatment, TreatmentFields};
use super::types::{Destination, Identity, ManagedIdentity};
use crate::authority::Cloud;
use crate::azure;
use crate::fast_map::FastMap;
use crate::host::HostPattern;
use crate::path;

fields! {
    /// Requests, and how they are handled.
    pub(super) DestinationFields,
        any_of(&["azure_service", "hosts"]),
        rule("dependentRequired", r#"{"names":["azure_service"]}"#),
        rule("dependentSchemas", &format!(r#"{{"azure_service":{{"properties":{{"hosts":false}},
            "anyOf":[{{"properties":{{"scope":false}}}},{{"properties":{{"azure_service":{{"enum":{:?}}}}}}}]}}}}"#, azure::ids_without_scope())),
        rule("if", r#"{"properties":{"action":{"enum":["pass","refuse"]}},"required":["action"]}"#),
        rule("then", r#"{"properties":{"warm":{"const":false}}}"#)
    {
        /// the name of the destination in messages
        name: Text, unset("the first host");
        /// an Azure service, such as `key_vault`. It sets hosts, scope and the header's format for the authority's cloud
        /// ([azure-services.md](azure-services.md))
        azure_service: Text, unset("none"), words(&azure::service_ids());
        /// the names of your own resources of that service, such as `["payments-kv"]`
        names: List<Text>, unset("none"), unique(), example(&["payments-kv"][..]);
        /// the hosts that match: `api.example.com` matches any port; `api.example.com:8443` matches that port (80 if the request has none); `*.example.com`
        /// matches exactly one more label
        hosts: List<Text>, unset("required without `azure_service`"), unique(),
            pattern(&format!(r"^(\*\.)?{HOST}{PORT}$")),
            example(&["api.example.com"][..]);
        /// the methods that match, such as `["GET"]`
        methods: List<Text>, unset("any"), unique(), pattern("^[!#$%&'*+.^_`|~0-9A-Z-]+$"), example(&["GET"][..]);
        /// the paths that match, with all paths below them: whole segments, case-sensitive, such as `["/v1.0/users"]`. On hosts with
        /// such rules, ambiguous paths are rejected (400 `ambiguous_path`)
        path_prefixes: List<Text>, unset("any"), unique(), pattern("^/[!-)+->@-~]*$"), example(&["/v1.0/users"][..]);
        ..TreatmentFields;
    }
}

/// A condition on requests, which only one destination may have: a host with its port, a path prefix, a method.
type Match = (HostPattern, String, Option<String>);

/// What the destinations are read with.
struct Context<'c> {
    /// The treatment of a destination that sets none of its fields: `defaults`.
    usual: Treatment,
    identities: &'c [Identity],
    cloud: Option<Cloud>,
    managed_identity: Option<&'c ManagedIdentity>,
}

/// Reads both sections. An entry with several scopes gives several destinations.
pub(super) fn read(
    defaults: &Field<'_, '_, TreatmentFields>,
    section: &Field<'_, '_, List<DestinationFields>>,
    identities: &[Identity],
    cloud: Option<Cloud>,
    managed_identity: Option<&ManagedIdentity>,
    mistakes: &mut Mistakes,
) -> Vec<Destination> {
    let mut usual = Treatment::default();
    if let Some(object) = defaults.read(mistakes) {
        usual.set(&object, identities, mistakes);
    }
    let context = Context { usual, identities, cloud, managed_identity };
    let mut taken: FastMap<Match, usize> = FastMap::default();
    let mut destinations: Vec<Destination> = Vec::new();
    for (index, item) in section.read(mistakes).unwrap_or_default().iter().enumerate() {
        let Some(object) = item.read(mistakes) else { continue };
        read_destination(index, &object, &context, &mut taken, &mut destinations, mistakes);
    }
    destinations
}

/// Reads an entry, and adds its destinations. `taken` has the conditions of the entries before it.
fn read_destination(
    index: usize,
    object: &Object<'_, '_, DestinationFields>,
    context: &Context<'_>,
    taken: &mut FastMap<Match, usize>,
    destinations: &mut Vec<Destination>,
    mistakes: &mut Mistakes,
) {
    let service = ServiceFields {
        service: object.azure_service(),
        names: object.names(),
        hosts: object.hosts(),
        scope: object.part::<TreatmentFields>().scope(),
    };
    let azure = azure_service::read(&service, context.cloud, mistakes);
    let hosts = match &azure {
        Some(azure) => azure.hosts(),
        None => read_hosts(&object.hosts(), context.managed_identity, mistakes),
    };
    let methods = read_methods(&object.methods(), mistakes);
    let path_prefixes = read_prefixes(&object.path_prefixes(), mistakes);
    take(index, &hosts, &path_prefixes, &methods, taken, mistakes);
    let mut treatment = context.usual.clone();
    treatment.set(&object.part(), context.identities, mistakes);
    if let Some(azure) = &azure {
        treatment.apply_service(azure);
    }
    check_wildcards(&hosts, &treatment, mistakes);
    let first_host = || hosts.first().map(|(_, host)| host.name()).unwrap_or_default();
    let label = object.name().read(mistakes).map_or_else(first_host, str::to_owned);
    let override_headers_allowed = treatment.settings.override_headers_allowed;
    let action = treatment.action(&object.part(), context.identities, mistakes);
    let groups = match azure.map(AzureService::by_scope) {
        Some(groups) => groups.into_iter().map(|(scope, hosts)| (action.clone().with_scope(scope), hosts)).collect(),
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

/// Adds the conditions of an entry to those before it. One that another entry has is a mistake.
fn take(
    index: usize,
    hosts: &[(String, HostPattern)],
    path_prefixes: &[String],
    methods: &[Option<String>],
    taken: &mut FastMap<Match, usize>,
    mistakes: &mut Mistakes,
) {
    for (path, host) in hosts {
        for prefix in path_prefixes {
            for method in methods {
                let condition = (host.clone(), prefix.clone(), method.clone());
                if let Some(other) = taken.insert(condition, index) {
                    mistakes.add(path, duplicate_match(host, prefix, method.as_deref(), other));
                }
            }
        }
    }
}

/// Rejects a wildcard over a suffix under which anyone can register a host: any of its owners would receive the token. A
/// destination that sends no token is not affected.
fn check_wildcards(hosts: &[(String, HostPattern)], treatment: &Treatment, mistakes: &mut Mistakes) {
    if treatment.settings.shared_suffix_allowed || !treatment.sends_tokens() {
        return;
    }
    for (path, host) in hosts.iter().filter(|(_, host)| host.wildcard && shared_suffixes::is_shared(&host.host.name)) {
        mistakes.add(
            path,
            format!(
                "anyone can register a host under {:?}: list your own hosts, or set shared_suffix to \"allow\"",
                host.name()
            ),
        );
    }
}

/// The message that two destinations match the same requests.
fn duplicate_match(host: &HostPattern, prefix: &str, method: Option<&str>, other: usize) -> String {
    let path = if prefix.is_empty() { String::new() } else { format!(" with path {prefix:?}") };
    let method = method.map_or_else(String::new, |method| format!(" and method {method}"));
    let host = host.to_string();
    format!(
        "{host:?}{path}{method} is also listed in destinations[{other}]: remove one of the two, or distinguish them by port, \
         path_prefixes or methods"
    )
}

/// Reads the hosts, each with its path in the configuration.
fn read_hosts(
    field: &Field<'_, '_, List<Text>>,
    managed_identity: Option<&ManagedIdentity>,
    mistakes: &mut Mistakes,
) -> Vec<(String, HostPattern)> {
    if !field.is_set() {
        field.mistake("is missing: list the hosts, or set azure_service", mistakes);
    }
    let mut hosts = Vec::new();
    for (path, text) in field.texts(mistakes).unwrap_or_default() {
        let Some(host) = HostPattern::parse(text) else {
            mistakes.add(&path, format!("{text:?} is not a valid host: write a name such as \"api.example.com\" or \"*.example.com\", with :port to match that port only"));
            continue;
        };
        let is_answered = |own: &String| !host.wildcard && *own == host.host.name;
        if managed_identity.is_some_and(|answers| answers.hosts().any(is_answered)) {
            mistakes.add(&path, format!("{text:?} is also a host of managed_identity: remove it from one of the two"));
        }
        hosts.push((path, host));
    }
    hosts
}

/// Reads the methods; a single `None` matches any method.
fn read_methods(field: &Field<'_, '_, List<Text>>, mistakes: &mut Mistakes) -> Vec<Option<String>> {
    let Some(texts) = field.texts(mistakes) else { return vec![None] };
    let mut methods = Vec::new();
    for (path, text) in texts {
        let upper = text.to_ascii_uppercase();
        if text == "*" {
            mistakes.add(&path, "\"*\" is not a valid method: remove methods to match any method");
        } else if !is_token(text) {
            mistakes.add(&path, format!("{text:?} is not a valid method: write a method such as \"GET\""));
        } else if upper != text {
            // Methods are case-sensitive (RFC 9110, section 9.1), and the registered ones have no lower-case letters.
            mistakes.add(
                &path,
                format!("{text:?} is not the method {upper:?}, because methods are case-sensitive: write {upper:?}"),
            );
        } else if methods.contains(&Some(upper.clone())) {
            mistakes.add(&path, format!("{text:?} is a duplicate entry: remove it"));
        } else {
            methods.push(Some(upper));
        }
    }
    methods
}

/// Reads the path prefixes, in canonical form and without a trailing slash; a single empty prefix matches any path.
fn read_prefixes(field: &Field<'_, '_, List<Text>>, mistakes: &mut Mistakes) -> Vec<String> {
    let Some(texts) = field.texts(mistakes) else { return vec![String::new()] };
    let mut prefixes = Vec::new();
    for (path, text) in texts {
        let plain = text.strip_suffix('/').unwrap_or(text);
        let prefix = path::canonical(plain.as_bytes());
        // A canonical path is valid UTF-8.
        let prefix = prefix.map(|prefix| String::from_utf8_lossy(&prefix).into_owned());
        if let Some(whole) =
            text.strip_suffix("/*").or_else(|| text.strip_suffix("/**")).filter(|it| it.starts_with('/'))
        {
            mistakes.add(
                &path,
                format!(
                    "{text:?} is not a valid path prefix: a prefix includes all paths below it, so write {whole:?}"
                ),
            );
            continue;
        }
        if !text.starts_with('/') || text.contains(['?', '*']) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            mistakes.add(
                &path,
                format!(
                    "{text:?} is not a valid path prefix: write whole segments that begin with a slash, such as \"/v1.0/users\""
                ),
            );
            continue;
        }
        match (prefix, path::ambiguity(plain.as_bytes())) {
            (Ok(prefix), Some(reason)) => {
                mistakes.add(&path, format!("{text:?} has {reason}: write {prefix:?}"));
            }
            (Err(reason), _) => mistakes
                .add(&path, format!("{text:?} has {reason}, and requests with such paths are rejected: remove it")),
            (Ok(prefix), None) if prefixes.contains(&prefix) => {
                mistakes.add(&path, format!("{text:?} is a duplicate entry: remove it"));
            }
            (Ok(prefix), None) => prefixes.push(prefix),
        }
    }
    prefixes
}
