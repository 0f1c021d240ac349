//! Reads the section `identities`, and the environment variables that it defaults to.

use super::assertions::{Assertions, PROJECTED_TOKEN};
use super::entra::Entra;
use super::fields::fields;
use super::object::{Field, Object};
use super::reader::Mistakes;
use super::shapes::{List, Text, Time};
use super::types::{Client, Identity};
use super::variables::{combined, read_variable};
use crate::assertion::Source;
use crate::host::Host;
use crate::problem::{Code, Problem};
use crate::untrusted::{UntrustedText, is_guid};

/// The name of the identity that is created implicitly if `identities` is not set.
const DEFAULT_IDENTITY: &str = "default";

const TENANT_VARIABLE: &str = "AZURE_TENANT_ID";
const CLIENT_VARIABLE: &str = "AZURE_CLIENT_ID";

pub(super) const SET_VARIABLES: &str = "Set the variables in the container that runs Envoy (in an Istio sidecar as proxyMetadata in the pod \
    annotation proxy.istio.io/config), list them in vm_config.environment_variables.host_env_keys, and restart the pod. Or set \
    tenant_id and client_id in the identity's configuration.";

/// A GUID (RFC 9562, section 4), as a pattern of the schema.
const GUID: &str = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$";

/// A domain name, which has a dot, as a pattern of the schema.
const DOMAIN: &str = r"^[A-Za-z0-9_-]+(\.+[A-Za-z0-9_-]+)+$";

fields! {
    /// A tenant and a client that tokens are requested for.
    pub(super) IdentityFields {
        /// at most 63 of `a-z`, `0-9`, `_`, `-`; required when there are several identities
        name: Text, default(DEFAULT_IDENTITY), pattern("^[a-z0-9_-]{1,63}$");
        /// a GUID or a domain name. Prefer the GUID: the filter can reject an access token of another tenant (`tid`) only when it knows
        /// the id
        tenant_id: Text, unset("`AZURE_TENANT_ID`"), pattern(&format!("{GUID}|{DOMAIN}")),
            example("11111111-1111-4111-8111-111111111111");
        /// the client id of the application or managed identity
        client_id: Text, unset("`AZURE_CLIENT_ID`"), pattern(GUID), example("aaaaaaaa-0000-4000-8000-000000000001");
        /// the name of the entry in `assertions` that provides the federated token
        assertion: Text, default(PROJECTED_TOKEN);
        /// the callers that may use the identity at an egress gateway, by the URI in their client certificate; others get 403
        /// `principal_not_listed`. All identities must have `principals`, or none
        principals: List<Text>, unset("any caller"), pattern(r"^[^*\t-\r ]*://[^*\t-\r ]*$"), unique(),
            example(&["spiffe://cluster.local/ns/payments/sa/api"][..]);
        /// the principal id of the managed identity, by which [callers](#selecting-an-identity) may select it
        object_id: Text, unset("none"), pattern(GUID), example("bbbbbbbb-0000-4000-8000-000000000002");
        /// the Azure resource id of the managed identity, by which [callers](#selecting-an-identity) may select it
        resource_id: Text, unset("none"), pattern("^/subscriptions/"), example(
            "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id"
        );
        /// the resources that managed-identity callers may request. A trailing slash makes no difference to this list; it is kept in the
        /// scope that is sent to Entra
        resources: List<Text>, unset("any"), forbidden(r"/\.default$"), example(&["https://vault.azure.net"][..]);
        /// a time, such as `2026-01-31T02:10:00Z` or `2026-01-31T03:10:00+01:00`: tokens issued earlier are
        /// [replaced](tokens.md#rejected-and-discarded-tokens)
        discard_tokens_before: Time, unset("never");
    }
}

/// The names of all identities, for a message.
pub(super) fn names(identities: &[Identity], separator: &str) -> String {
    let named = identities.iter().map(|identity| identity.name.as_str()).filter(|name| !name.is_empty());
    named.collect::<Vec<_>>().join(separator)
}

/// Reads the name of an identity; returns the identity's index.
pub(super) fn read_index(
    field: &Field<'_, '_, Text>,
    identities: &[Identity],
    mistakes: &mut Mistakes,
) -> Option<usize> {
    let name = field.read(mistakes)?;
    let found = identities.iter().position(|identity| identity.name == name);
    if found.is_none() {
        field.mistake(format!("{name:?} is not a known identity: write {}", names(identities, " or ")), mistakes);
    }
    found
}

/// Reads the section. Returns at least one identity.
pub(super) fn read(
    section: &Field<'_, '_, List<IdentityFields>>,
    entra: &Entra,
    assertions: &Assertions,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Vec<Identity> {
    let mut identities: Vec<Identity> = Vec::new();
    let items = section.read(mistakes).unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        let Some(object) = item.read(mistakes) else { continue };
        let name = read_name(&object.name(), items.len() == 1, &identities, mistakes);
        identities.push(read_identity(index, name, &object, entra, assertions, variable, mistakes));
    }
    if identities.iter().any(|identity| !identity.allowed_callers.is_empty()) {
        for identity in identities.iter().filter(|identity| identity.allowed_callers.is_empty()) {
            mistakes.add(
                format!("identities[{}].principals", identity.index),
                format!("is missing: another identity has principals, so list those that may use {:?}", identity.name),
            );
        }
    }
    if !section.is_set() {
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

/// Reads an entry, whose name is known.
fn read_identity(
    index: usize,
    name: &str,
    object: &Object<'_, '_, IdentityFields>,
    entra: &Entra,
    assertions: &Assertions,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Identity {
    let (tenant_id, client_id) = (object.tenant_id(), object.client_id());
    let tenant_id = read_checked(&tenant_id, check_tenant, mistakes);
    let client_id = read_checked(&client_id, check_client, mistakes);
    let source = read_source(&object.assertion(), assertions, mistakes);
    let discard_before = object.discard_tokens_before().read(mistakes);
    let client = client(entra, tenant_id, client_id, source, variable);
    let texts = object.resources().texts(mistakes);
    Identity {
        index,
        name: name.to_owned(),
        allowed_callers: read_principals(&object.principals(), mistakes),
        object_id: read_checked(&object.object_id(), check_object, mistakes).map(str::to_owned),
        resource_id: read_checked(&object.resource_id(), check_resource_id, mistakes).map(str::to_owned),
        resources: texts.map(|texts| read_resources(texts, mistakes)),
        client: client.map(|client| Client { discard_before, ..client }),
    }
}

/// Reads the name of an assertion; returns its source, or the one that is created implicitly.
fn read_source(
    field: &Field<'_, '_, Text>,
    assertions: &Assertions,
    mistakes: &mut Mistakes,
) -> Option<Result<Source, Problem>> {
    let Some(wanted) = field.read(mistakes) else { return projected(assertions) };
    let found = assertions.iter().find(|(name, _)| name == wanted);
    if found.is_none() {
        let all: Vec<&str> = assertions.iter().map(|(name, _)| name.as_str()).collect();
        field.mistake(format!("{wanted:?} is not a known assertion: write {}", all.join(" or ")), mistakes);
    }
    found.map(|(_, source)| source.clone()).or_else(|| projected(assertions))
}

/// Reads the name of an identity. Returns an empty name if it is missing, which is reported.
fn read_name<'a>(field: &Field<'_, 'a, Text>, is_only: bool, others: &[Identity], mistakes: &mut Mistakes) -> &'a str {
    let Some(name) = field.read(mistakes) else {
        if is_only {
            return DEFAULT_IDENTITY;
        }
        if !field.is_set() {
            field.mistake("is missing: with several identities each needs a name", mistakes);
        }
        return "";
    };
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    if name.len() > 63 || !name.bytes().all(fits) {
        field.mistake(
            format!("{name:?} is not a valid name: write at most 63 characters of a-z, 0-9, _ and -"),
            mistakes,
        );
    }
    if others.iter().any(|other| other.name == name) {
        field.mistake(format!("{name:?} is already the name of another identity: choose another name"), mistakes);
    }
    name
}

/// Reads the callers that may use an identity: URIs, which are compared exactly with that in the caller's certificate.
fn read_principals(field: &Field<'_, '_, List<Text>>, mistakes: &mut Mistakes) -> Vec<String> {
    let mut allowed_callers: Vec<String> = Vec::new();
    for (path, text) in field.texts(mistakes).unwrap_or_default() {
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
fn projected(assertions: &Assertions) -> Option<Result<Source, Problem>> {
    assertions.iter().find(|(name, _)| name == PROJECTED_TOKEN).map(|(_, source)| source.clone())
}

/// Reads a text that need not be present, and reports the mistake that `check` finds in it.
fn read_checked<'a>(
    field: &Field<'_, 'a, Text>,
    check: fn(&str) -> Option<&'static str>,
    mistakes: &mut Mistakes,
) -> Option<&'a str> {
    let text = field.read(mistakes)?;
    if let Some(mistake) = check(text) {
        field.mistake(format!("{text:?} {mistake}"), mistakes);
    }
    Some(text)
}

fn check_tenant(text: &str) -> Option<&'static str> {
    if matches!(text, "common" | "organizations" | "consumers") {
        return Some("is not a tenant that an application can sign in to: write the tenant's id");
    }
    let domain = text.contains('.')
        && !text.starts_with('[')
        && Host::parse(text.as_bytes()).is_some_and(|host| host.port.is_none());
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
    assertion: Option<Result<Source, Problem>>,
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
    let assertion = assertion.unwrap_or_else(|| Ok(Source::File { cluster: PROJECTED_TOKEN.to_owned() }));
    match (tenant_id, client_id, entra.authority.clone(), assertion) {
        (Ok(tenant_id), Ok(client_id), Ok(authority), Ok(assertion)) => Ok(Client {
            tenant_id,
            client_id,
            authority,
            assertion,
            clusters: entra.clusters.clone(),
            discard_before: None,
        }),
        (tenant_id, client_id, authority, assertion) => {
            let problems = [tenant_id.err(), client_id.err(), authority.err(), assertion.err()];
            Err(combined(problems.into_iter().flatten()))
        }
    }
}
