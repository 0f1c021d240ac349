//! Reads the sections `entra`, `assertions` and `identities`, and the environment variables that they default to.

use super::reader::{Field, Mistakes, Object};
use super::{Client, Identity};
use crate::assertion::Source;
use crate::entra::{Authority, Cloud};
use crate::host::Host;
use crate::problem::{Code, Problem};
use crate::untrusted::{UntrustedText, is_guid};

/// The cluster that leads to the authority if `entra.clusters` is not set.
const ENTRA_CLUSTER: &str = "entra";

/// The name and the cluster of the assertion that is created implicitly.
const PROJECTED_TOKEN: &str = "projected_token";

/// The name of the identity that is created implicitly if `identities` is not set.
const DEFAULT_IDENTITY: &str = "default";

const TENANT_VARIABLE: &str = "AZURE_TENANT_ID";
const CLIENT_VARIABLE: &str = "AZURE_CLIENT_ID";
const AUTHORITY_VARIABLE: &str = "AZURE_AUTHORITY_HOST";

const SET_VARIABLES: &str = "Set the variables in the container that runs Envoy (in an Istio sidecar as proxyMetadata in the pod \
    annotation proxy.istio.io/config), list them in vm_config.environment_variables.host_env_keys, and restart the pod. Or set \
    tenant_id and client_id in the identity's configuration.";

/// Reads the three sections. Returns at least one identity, and the cloud of the authority. If the variable is not a valid
/// authority, the cloud is the public one, and requests are rejected with the problem.
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

/// The section `entra`: the authority that issues tokens, and the clusters that lead to it.
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
    let configured = object.as_ref().and_then(|object| object.text("authority", mistakes));
    let authority = match configured {
        Some(text) => Authority::parse(text, unknown_allowed).or_else(|mistake| {
            mistakes.add("entra.authority", format!("{text:?} {mistake}"));
            Ok(Authority::public())
        }),
        None => read_variable(AUTHORITY_VARIABLE, variable).and_then(|text| {
            let Some(text) = text else { return Ok(Authority::public()) };
            Authority::parse(&text, unknown_allowed).map_err(|mistake| {
                Problem::new(
                    Code::EnvVarMissing,
                    format!("{AUTHORITY_VARIABLE}: {:?} {mistake}", UntrustedText::new(&text)),
                    "Correct the variable, or set entra.authority in the configuration.",
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

/// The value of an environment variable; `None` if it is not set or empty.
///
/// # Errors
/// If the value begins or ends with white space: a Secret that was created from a file often ends in a line break. A header
/// value cannot end in one (RFC 9110, section 5.5), and neither can an id.
pub(super) fn read_variable(name: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, Problem> {
    match variable(name).filter(|text| !text.is_empty()) {
        Some(text) if text.trim() != text => Err(Problem::new(
            Code::EnvVarMissing,
            format!("{name} begins or ends with white space"),
            format!(
                "Remove the white space from {name}. A Secret that was created with echo ends in a line break: use printf or \
                 echo -n."
            ),
        )),
        text => Ok(text),
    }
}

/// The names of all identities, for a message.
pub(super) fn names(identities: &[Identity], separator: &str) -> String {
    let named = identities.iter().map(|identity| identity.name.as_str()).filter(|name| !name.is_empty());
    named.collect::<Vec<_>>().join(separator)
}

/// Reads the name of an identity; returns the identity's index.
pub(super) fn read_index(field: &Field<'_>, identities: &[Identity], mistakes: &mut Mistakes) -> Option<usize> {
    let name = field.text(mistakes)?;
    let found = identities.iter().position(|identity| identity.name == name);
    if found.is_none() {
        mistakes.add(&field.path, format!("{name:?} is not a known identity: write {}", names(identities, " or ")));
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
            mistakes.add(
                &object.path_of("name"),
                format!("{name:?} is already the name of another assertion: choose another name"),
            );
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
        let tenant_id = read_checked(&object, "tenant_id", check_tenant, mistakes);
        let client_id = read_checked(&object, "client_id", check_client, mistakes);
        let source = match object.text("assertion", mistakes) {
            None => None,
            Some(wanted) => {
                let found = assertions.iter().find(|(name, _)| name == wanted);
                if found.is_none() {
                    let all: Vec<&str> = assertions.iter().map(|(name, _)| name.as_str()).collect();
                    mistakes.add(
                        &object.path_of("assertion"),
                        format!("{wanted:?} is not a known assertion: write {}", all.join(" or ")),
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
            object_id: read_checked(&object, "object_id", check_object, mistakes).map(str::to_owned),
            resource_id: read_checked(&object, "resource_id", check_resource_id, mistakes).map(str::to_owned),
            resources: texts.map(|texts| read_resources(texts, mistakes)),
            client,
        });
    }
    if identities.iter().any(|identity| !identity.allowed_callers.is_empty()) {
        for identity in identities.iter().filter(|identity| identity.allowed_callers.is_empty()) {
            mistakes.add(
                &format!("identities[{}].principals", identity.index),
                format!("is missing: another identity has principals, so list those that may use {:?}", identity.name),
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

/// Reads the name of an identity. Returns an empty name if it is missing, which is reported.
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
        mistakes.add(&path, format!("{name:?} is not a valid name: write at most 63 characters of a-z, 0-9, _ and -"));
    }
    if others.iter().any(|other| other.name == name) {
        mistakes.add(&path, format!("{name:?} is already the name of another identity: choose another name"));
    }
    name
}

/// Reads the callers that may use an identity: URIs, which are compared exactly with that in the caller's certificate.
fn read_principals(object: &Object<'_>, mistakes: &mut Mistakes) -> Vec<String> {
    let mut allowed_callers: Vec<String> = Vec::new();
    for (path, text) in object.texts("principals", mistakes).unwrap_or_default() {
        if text.contains('*') || text.contains(char::is_whitespace) {
            mistakes.add(&path, format!("{text:?} is not a valid principal: write each in full, without patterns"));
        } else if !text.contains("://") {
            mistakes.add(&path, format!("{text:?} is not a URI: write it as in the certificate, \"spiffe://{text}\""));
        } else if allowed_callers.iter().any(|other| other == text) {
            mistakes.add(&path, format!("{text:?} is a duplicate entry: remove it"));
        } else {
            allowed_callers.push(text.to_owned());
        }
    }
    allowed_callers
}

/// Reads the resources that callers may request, without a trailing slash.
fn read_resources(texts: Vec<(String, &str)>, mistakes: &mut Mistakes) -> Vec<String> {
    let mut resources = Vec::new();
    for (path, text) in texts {
        if let Some(resource) = text.strip_suffix("/.default") {
            mistakes.add(&path, format!("{text:?} is a scope, and callers request a resource: write {resource:?}"));
        }
        resources.push(text.strip_suffix('/').unwrap_or(text).to_owned());
    }
    resources
}

/// The source of the assertion that is created implicitly, or of the configured one with its name.
fn projected(assertions: &[(String, Source)]) -> Option<Source> {
    assertions.iter().find(|(name, _)| name == PROJECTED_TOKEN).map(|(_, source)| source.clone())
}

/// Reads a text that need not be present, and reports the mistake that `check` finds in it.
fn read_checked<'a>(
    object: &Object<'a>,
    name: &str,
    check: fn(&str) -> Option<&'static str>,
    mistakes: &mut Mistakes,
) -> Option<&'a str> {
    let text = object.text(name, mistakes)?;
    if let Some(mistake) = check(text) {
        mistakes.add(&object.path_of(name), format!("{text:?} {mistake}"));
    }
    Some(text)
}

fn check_tenant(text: &str) -> Option<&'static str> {
    if matches!(text, "common" | "organizations" | "consumers") {
        return Some("is not a tenant that an application can sign in to: write the tenant's id");
    }
    let domain = text.contains('.') && Host::parse(text.as_bytes()).is_some_and(|host| host.port.is_none());
    (!is_guid(text) && !domain).then_some("is not a valid tenant: write its id, a GUID, or one of its domain names")
}

fn check_client(text: &str) -> Option<&'static str> {
    (!is_guid(text))
        .then_some("is not a valid client id: write the application's or managed identity's client id, a GUID")
}

fn check_object(text: &str) -> Option<&'static str> {
    (!is_guid(text)).then_some("is not a valid object id: write the managed identity's principal id, a GUID")
}

fn check_resource_id(text: &str) -> Option<&'static str> {
    (!text.starts_with("/subscriptions/"))
        .then_some("is not a valid resource id: write that of the managed identity, which starts with /subscriptions/")
}

/// The identity's client at Entra, from the configuration or else from the variables, or the problem with a variable.
fn client(
    entra: &Entra,
    tenant_id: Option<&str>,
    client_id: Option<&str>,
    assertion: Option<Source>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Client, Problem> {
    let from = |configured: Option<&str>, name: &str, check: fn(&str) -> Option<&'static str>| {
        if let Some(text) = configured {
            return Ok(text.to_owned());
        }
        let found = read_variable(name, variable)?;
        let mistake = match &found {
            None => Some("is not set"),
            Some(text) => check(text),
        };
        match (found, mistake) {
            (Some(text), None) => Ok(text),
            (found, mistake) => Err(Problem::new(
                Code::EnvVarMissing,
                match found {
                    Some(text) => format!("{name}: {:?} {}", UntrustedText::new(&text), mistake.unwrap_or_default()),
                    None => format!("{name} is not set"),
                },
                SET_VARIABLES,
            )),
        }
    };
    let tenant_id = from(tenant_id, TENANT_VARIABLE, check_tenant);
    let client_id = from(client_id, CLIENT_VARIABLE, check_client);
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
            Err(combined([tenant_id.err(), client_id.err(), authority.err()].into_iter().flatten()))
        }
    }
}

/// One problem that names every variable that is missing or wrong, so that one restart of the pod is enough.
fn combined(problems: impl Iterator<Item = Problem>) -> Problem {
    let (mut details, mut remedies) = (Vec::new(), Vec::new());
    for problem in problems {
        details.push(problem.detail);
        if !remedies.contains(&problem.remedy) {
            remedies.push(problem.remedy);
        }
    }
    Problem::new(Code::EnvVarMissing, details.join("; "), remedies.join(" "))
}
