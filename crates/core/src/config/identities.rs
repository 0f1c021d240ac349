//! The sections `entra`, `assertions` and `identities`: where tokens come from, and who we are there.

use super::reader::{Field, Mistakes, Object};
use super::{Client, Identity};
use crate::assertion::Source;
use crate::entra::{Authority, Cloud};
use crate::host::Host;
use crate::problem::{Code, Problem};
use crate::untrusted::{UntrustedText, is_guid};

/// The cluster that leads to the authority, unless `entra.clusters` says another.
const ENTRA_CLUSTER: &str = "entra";

/// The assertion that exists unwritten, and its cluster.
const PROJECTED_TOKEN: &str = "projected_token";

/// The identity that exists unwritten.
const DEFAULT_IDENTITY: &str = "default";

const TENANT_VARIABLE: &str = "AZURE_TENANT_ID";
const CLIENT_VARIABLE: &str = "AZURE_CLIENT_ID";
const AUTHORITY_VARIABLE: &str = "AZURE_AUTHORITY_HOST";

const SET_VARIABLES: &str = "Set the variables in the container that runs Envoy (in Istio's sidecars as proxyMetadata in the pod's \
    annotation proxy.istio.io/config), list them in vm_config.environment_variables.host_env_keys, and restart the pod. Or write \
    tenant_id and client_id into the identity's configuration.";

/// Reads the three sections. There is always at least one identity. The cloud is the authority's; a variable that names no
/// authority is told to the requests, whose hosts are the public cloud's then.
pub(super) fn read(
    root: &Object<'_>,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> (Vec<Identity>, Option<Cloud>) {
    let entra = read_entra(root, variable, mistakes);
    let cloud = entra.authority.as_ref().map_or(Some(Cloud::Public), Authority::cloud);
    let assertions = read_assertions(root, mistakes);
    (read_identities(root, &entra, &assertions, variable, mistakes), cloud)
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
        object.choice("unknown_authority", &[("refuse", false), ("allow", true)], false, mistakes)
    });
    let written = object.as_ref().and_then(|object| object.text("authority", mistakes));
    let authority = match written {
        Some(text) => Authority::parse(text, unknown_allowed).or_else(|wrong| {
            mistakes.add("entra.authority", format!("{text:?} {wrong}"));
            Ok(Authority::public())
        }),
        None => read_variable(AUTHORITY_VARIABLE, variable).and_then(|text| {
            let Some(text) = text else { return Ok(Authority::public()) };
            Authority::parse(&text, unknown_allowed).map_err(|wrong| {
                Problem::new(
                    Code::EnvVarMissing,
                    format!("{AUTHORITY_VARIABLE}: {:?} {wrong}", UntrustedText::new(&text)),
                    "Correct the variable, or write entra.authority in the configuration.",
                )
            })
        }),
    };
    let clusters = object.as_ref().and_then(|object| object.texts("clusters", mistakes)).map_or_else(
        || vec![ENTRA_CLUSTER.to_owned()],
        |clusters| clusters.into_iter().map(|(_, name)| name.to_owned()).collect(),
    );
    Entra { authority, clusters }
}

/// The value of an environment variable; `None` where it is not set or empty.
///
/// # Errors
/// White space at its ends: a Secret that was made from a file often ends in a line break. No header can carry it
/// (RFC 9110, section 5.5), and no id has it.
pub(super) fn read_variable(name: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, Problem> {
    match variable(name).filter(|text| !text.is_empty()) {
        Some(text) if text.trim() != text => Err(Problem::new(
            Code::EnvVarMissing,
            format!("{name} begins or ends with white space"),
            format!(
                "Remove the white space from {name}. A Secret has a line break at its end when it was made with echo: \
                 use printf or echo -n."
            ),
        )),
        text => Ok(text),
    }
}

/// The names of all identities, for a message.
pub(super) fn names(identities: &[Identity], between: &str) -> String {
    let named = identities.iter().map(|identity| identity.name.as_str()).filter(|name| !name.is_empty());
    named.collect::<Vec<_>>().join(between)
}

/// The place of the identity that is named here.
pub(super) fn read_place(field: &Field<'_>, identities: &[Identity], mistakes: &mut Mistakes) -> Option<usize> {
    let name = field.text(mistakes)?;
    let found = identities.iter().position(|identity| identity.name == name);
    if found.is_none() {
        mistakes.add(&field.path, format!("{name:?} is no identity: write {}", names(identities, " or ")));
    }
    found
}

fn read_assertions(root: &Object<'_>, mistakes: &mut Mistakes) -> Vec<(String, Source)> {
    let mut assertions: Vec<(String, Source)> = Vec::new();
    for item in root.list("assertions", mistakes).unwrap_or_default() {
        let Some(object) = item.object(&["name", "source", "cluster"], mistakes) else { continue };
        let name = object.required("name", "such as \"projected_token\"", mistakes).unwrap_or_default();
        if object.required("source", "\"file\"", mistakes).is_some()
            && let Some(field) = object.get("source")
        {
            field.choice(&[("file", ())], mistakes);
        }
        let cluster = object.required("cluster", "the Envoy cluster that serves the token's file", mistakes);
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
    const KNOWN: &[&str] = &[
        "name",
        "tenant_id",
        "client_id",
        "assertion",
        "principals",
        "object_id",
        "resource_id",
        "resources",
        "discard_tokens_before",
    ];
    let mut identities: Vec<Identity> = Vec::new();
    let items = root.list("identities", mistakes).unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        let Some(object) = item.object(KNOWN, mistakes) else { continue };
        let name = read_name(&object, items.len() == 1, &identities, mistakes);
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
        let client = client(entra, tenant_id, client_id, source.or_else(|| projected(assertions)), variable)
            .map(|client| Client { discard_before, ..client });
        let texts = object.texts("resources", mistakes);
        identities.push(Identity {
            index,
            name: name.to_owned(),
            allowed_callers: read_principals(&object, mistakes),
            object_id: written(&object, "object_id", wrong_object, mistakes).map(str::to_owned),
            resource_id: written(&object, "resource_id", wrong_resource_id, mistakes).map(str::to_owned),
            resources: texts.map(|texts| read_resources(texts, mistakes)),
            client,
        });
    }
    if identities.iter().any(|identity| !identity.allowed_callers.is_empty()) {
        for identity in identities.iter().filter(|identity| identity.allowed_callers.is_empty()) {
            mistakes.add(
                &format!("identities[{}].principals", identity.index),
                format!("is missing: another identity has principals, so say who may use {:?} too", identity.name),
            );
        }
    }
    if root.get("identities").is_none() {
        identities.push(Identity {
            index: 0,
            name: DEFAULT_IDENTITY.to_owned(),
            allowed_callers: Vec::new(),
            object_id: None,
            resource_id: None,
            resources: None,
            client: client(entra, None, None, projected(assertions), variable),
        });
    }
    identities
}

/// The name of an identity; the empty one where it is missing, which is reported.
fn read_name<'a>(object: &Object<'a>, is_only: bool, others: &[Identity], mistakes: &mut Mistakes) -> &'a str {
    let path = object.path_of("name");
    let Some(name) = object.text("name", mistakes) else {
        if is_only {
            return DEFAULT_IDENTITY;
        }
        if object.get("name").is_none() {
            mistakes.add(&path, "is missing: with several identities each needs a name");
        }
        return "";
    };
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    if name.len() > 63 || !name.bytes().all(fits) {
        mistakes.add(&path, format!("{name:?} is no name: write at most 63 of a-z, 0-9, _ and -"));
    }
    if others.iter().any(|other| other.name == name) {
        mistakes.add(&path, format!("{name:?} is the name of another identity: write another"));
    }
    name
}

/// Who may use it: what stands in callers' certificates as a URI, compared as it is.
fn read_principals(object: &Object<'_>, mistakes: &mut Mistakes) -> Vec<String> {
    let mut allowed_callers: Vec<String> = Vec::new();
    for (path, text) in object.texts("principals", mistakes).unwrap_or_default() {
        if text.contains('*') || text.contains(char::is_whitespace) {
            mistakes.add(&path, format!("{text:?} is no principal: write each in full, there are no patterns"));
        } else if !text.contains("://") {
            mistakes.add(&path, format!("{text:?} is no URI: write it as the certificate has it, \"spiffe://{text}\""));
        } else if allowed_callers.iter().any(|other| other == text) {
            mistakes.add(&path, format!("{text:?} is a duplicate entry: remove it"));
        } else {
            allowed_callers.push(text.to_owned());
        }
    }
    allowed_callers
}

/// What callers may ask for, without a slash at the end.
fn read_resources(texts: Vec<(String, &str)>, mistakes: &mut Mistakes) -> Vec<String> {
    let mut resources = Vec::new();
    for (path, text) in texts {
        if let Some(resource) = text.strip_suffix("/.default") {
            mistakes.add(&path, format!("{text:?} is a scope, and callers ask for a resource: write {resource:?}"));
        }
        resources.push(text.strip_suffix('/').unwrap_or(text).to_owned());
    }
    resources
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

fn wrong_object(text: &str) -> Option<&'static str> {
    (!is_guid(text)).then_some("is no object id: write the managed identity's principal id, a GUID")
}

fn wrong_resource_id(text: &str) -> Option<&'static str> {
    (!text.starts_with("/subscriptions/"))
        .then_some("is no resource id: write the managed identity's, which starts with /subscriptions/")
}

/// The identity as Entra knows it: what was written, else the variables; or what is missing in the pod.
fn client(
    entra: &Entra,
    tenant_id: Option<&str>,
    client_id: Option<&str>,
    assertion: Option<Source>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Client, Problem> {
    let from = |written: Option<&str>, name: &str, wrong: fn(&str) -> Option<&'static str>| {
        if let Some(text) = written {
            return Ok(text.to_owned());
        }
        let found = read_variable(name, variable)?;
        let wrong = match &found {
            None => Some("is not set"),
            Some(text) => wrong(text),
        };
        match (found, wrong) {
            (Some(text), None) => Ok(text),
            (found, wrong) => Err(Problem::new(
                Code::EnvVarMissing,
                match found {
                    Some(text) => format!("{name}: {:?} {}", UntrustedText::new(&text), wrong.unwrap_or_default()),
                    None => format!("{name} is not set"),
                },
                SET_VARIABLES,
            )),
        }
    };
    let tenant_id = from(tenant_id, TENANT_VARIABLE, wrong_tenant);
    let client_id = from(client_id, CLIENT_VARIABLE, wrong_client);
    match (tenant_id, client_id, entra.authority.clone()) {
        (Ok(tenant_id), Ok(client_id), Ok(authority)) => Ok(Client {
            tenant_id,
            client_id,
            authority,
            assertion: assertion.unwrap_or(Source::File { cluster: PROJECTED_TOKEN.to_owned() }),
            clusters: entra.clusters.clone(),
            discard_before: None,
        }),
        (tenant_id, client_id, authority) => {
            Err(all_in_one([tenant_id.err(), client_id.err(), authority.err()].into_iter().flatten()))
        }
    }
}

/// One problem that names every variable that is missing or wrong, so that one restart of the pod is enough.
fn all_in_one(problems: impl Iterator<Item = Problem>) -> Problem {
    let (mut details, mut remedies) = (Vec::new(), Vec::new());
    for problem in problems {
        details.push(problem.detail);
        if !remedies.contains(&problem.remedy) {
            remedies.push(problem.remedy);
        }
    }
    Problem::new(Code::EnvVarMissing, details.join("; "), remedies.join(" "))
}
