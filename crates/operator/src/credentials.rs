//! `credentials`: the federated credentials that a configuration needs, as commands or declarations that create them.

use std::fmt::Write as _;

use entra_exchange_core::authority::Authority;
use serde::Serialize;
use serde_json::json;

use crate::check::{Options, check};
use crate::document;
use crate::finding::{self, Findings, Severity};
use crate::inventory::{Configuration, Inventory};
use crate::source::Source;
use crate::token_source::{self, AzureDevOps, TokenSource};
use crate::tree::Node;

/// How many federated credentials an application or a managed identity may have (learn.microsoft.com, "Important considerations and
/// restrictions for federated identity credentials").
pub const MOST: usize = 20;

/// What the configuration does not say.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    /// The issuer of the federated tokens; `None` for that of their source.
    pub issuer: Option<String>,
    /// The subjects: the workloads that may use the identities. Empty for the subject that the configuration demands.
    pub subjects: Vec<String>,
    /// The audience; `None` for that of the authority's cloud.
    pub audience: Option<String>,
    /// The name of the only identity whose credentials are wanted.
    pub identity: Option<String>,
    /// What is known of Azure DevOps, for identities of pipelines.
    pub devops: AzureDevOps,
    /// Environment variables of the proxy's container.
    pub variables: Vec<(String, String)>,
}

impl Workloads {
    /// The value of an environment variable.
    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// A federated credential of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FederatedCredential {
    /// The identity in the configuration.
    pub identity: String,
    /// The client id; `None` if it is not known.
    pub client_id: Option<String>,
    /// The Azure resource id, if it is a managed identity and the configuration has it.
    pub resource_id: Option<String>,
    /// The name of the credential.
    pub name: String,
    /// The issuer.
    pub issuer: String,
    /// The subject.
    pub subject: String,
    /// The audience.
    pub audience: String,
}

/// The form of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Commands of the Azure CLI.
    Az,
    /// Bicep.
    Bicep,
    /// Terraform.
    Terraform,
    /// JSON.
    Json,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Az, Self::Bicep, Self::Terraform, Self::Json];

    /// The name of the format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Az => "az",
            Self::Bicep => "bicep",
            Self::Terraform => "terraform",
            Self::Json => "json",
        }
    }

    /// What it is, for a list of formats.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Az => "Commands of the Azure CLI",
            Self::Bicep => "Bicep",
            Self::Terraform => "Terraform",
            Self::Json => "JSON",
        }
    }
}

/// Why there is no list of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCredentials {
    /// The configuration has mistakes.
    Mistakes(usize),
    /// The files contain no configuration, or several.
    Configurations(usize),
    /// A client would have more than [`MOST`] credentials: its identity, and how many.
    TooMany(String, usize),
    /// No identity has this name.
    NoIdentity(String),
    /// The federated tokens of two identities have different sources, so that one issuer or subject cannot be right for both: the identities.
    Sources(String, String),
    /// The configuration does not say which issuer the tokens have: the identity, and where to look.
    NoIssuer(String, &'static str),
    /// The configuration does not say which workload may use the identity: the identity, and where to look.
    NoSubject(String, &'static str),
    /// A value is longer than Entra allows, or empty: its name.
    NotValid(&'static str),
}

impl std::fmt::Display for NoCredentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mistakes(count) => {
                write!(formatter, "the configuration has {}", finding::correct(*count))
            }
            Self::Configurations(count) => {
                write!(formatter, "the files contain {count} configurations of the filter: give the files of one")
            }
            Self::TooMany(identity, count) => write!(
                formatter,
                "{identity} would have {count} federated credentials, and Entra allows {MOST} per application or managed identity: let \
                 workloads share a service account, divide them among several identities, use AKS identity bindings, which need one \
                 credential, or a flexible federated credential, whose subject is a pattern"
            ),
            Self::NoIdentity(name) => {
                write!(formatter, "no identity has the name {name:?}: write a name from identities")
            }
            Self::Sources(one, other) => write!(
                formatter,
                "the identities {one} and {other} get their federated tokens from different sources: name one with --identity"
            ),
            Self::NoIssuer(identity, where_to_look) => write!(
                formatter,
                "the issuer of the federated tokens of {identity} is not known: write --issuer or --token, or set expect.iss of its \
                 assertion ({where_to_look})"
            ),
            Self::NoSubject(identity, where_to_look) => write!(
                formatter,
                "no workload is named for {identity}: write --service-account, --subject or --token, or set expect.sub of its assertion \
                 ({where_to_look})"
            ),
            Self::NotValid(name) => write!(formatter, "the {name} is empty or longer than 600 characters"),
        }
    }
}

/// The credentials that the configuration in the sources needs.
///
/// # Errors
/// If the configuration has mistakes, or Entra does not allow so many credentials.
pub fn credentials(sources: &[Source], workloads: &Workloads) -> Result<Vec<FederatedCredential>, NoCredentials> {
    let options = Options { variables: workloads.variables.clone(), ..Options::default() };
    let mistakes = check(sources, &options).count(Severity::Error);
    if mistakes > 0 {
        return Err(NoCredentials::Mistakes(mistakes));
    }
    let documents = document::read(sources, &mut Findings::default());
    let inventory = Inventory::of(sources, &documents);
    let [configuration] = inventory.configurations.as_slice() else {
        return Err(NoCredentials::Configurations(inventory.configurations.len()));
    };
    let variable = |name: &str| workloads.variable(name).map(str::to_owned);
    let authority = configuration.get("entra").and_then(|entra| entra.text_of("authority")).map(str::to_owned);
    let usual_audience = audience(authority.or_else(|| variable("AZURE_AUTHORITY_HOST")));
    let mut credentials = Vec::new();
    for identity in identities(configuration, workloads)? {
        let text = |name: &str| identity.and_then(|identity| identity.text_of(name)).map(str::to_owned);
        let named = name_in(identity).to_owned();
        let tenant = text("tenant_id").or_else(|| variable("AZURE_TENANT_ID"));
        let source = token_source::of(configuration, identity, tenant.as_deref(), &workloads.devops);
        let Tokens { issuer, subjects, audience } = tokens(&named, &source, workloads, usual_audience)?;
        for subject in &subjects {
            add(
                &mut credentials,
                FederatedCredential {
                    name: name_of(subject),
                    identity: named.clone(),
                    client_id: text("client_id").or_else(|| variable("AZURE_CLIENT_ID")),
                    resource_id: text("resource_id"),
                    issuer: issuer.clone(),
                    subject: subject.clone(),
                    audience: audience.clone(),
                },
            )?;
        }
    }
    Ok(credentials)
}

/// Adds a credential with a name that no other one of its client has. A client needs each only once, also if two identities use it.
fn add(credentials: &mut Vec<FederatedCredential>, mut new: FederatedCredential) -> Result<(), NoCredentials> {
    let is_of_client =
        |other: &&FederatedCredential| (&other.client_id, &other.resource_id) == (&new.client_id, &new.resource_id);
    let others: Vec<&FederatedCredential> = credentials.iter().filter(is_of_client).collect();
    if others.iter().any(|other| (&other.issuer, &other.subject) == (&new.issuer, &new.subject)) {
        return Ok(());
    }
    let count = others.len().saturating_add(1);
    if count > MOST {
        return Err(NoCredentials::TooMany(new.identity, count));
    }
    let is_free = |name: &String| others.iter().all(|other| other.name != *name);
    let numbered = (2..=count).map(|number| format!("{}-{number}", new.name));
    if let Some(name) = std::iter::once(new.name.clone()).chain(numbered).find(is_free) {
        new.name = name;
    }
    credentials.push(new);
    Ok(())
}

/// The identities whose credentials are wanted.
fn identities<'a>(
    configuration: &'a Configuration<'_>,
    workloads: &Workloads,
) -> Result<Vec<Option<&'a Node>>, NoCredentials> {
    let mut listed: Vec<Option<&Node>> = match configuration.get("identities") {
        Some(identities) => identities.items().map(Some).collect(),
        None => vec![None],
    };
    if let Some(wanted) = &workloads.identity {
        listed.retain(|identity| name_in(*identity) == wanted);
        if listed.is_empty() {
            return Err(NoCredentials::NoIdentity(wanted.clone()));
        }
    }
    let are_claims_given = workloads.issuer.is_some() || !workloads.subjects.is_empty() || workloads.audience.is_some();
    if let (Some((first, others)), true) = (listed.split_first(), are_claims_given)
        && let Some(other) = others.iter().find(|other| token_source::name_of(**other) != token_source::name_of(*first))
    {
        return Err(NoCredentials::Sources(name_in(*first).to_owned(), name_in(*other).to_owned()));
    }
    Ok(listed)
}

fn name_in(identity: Option<&Node>) -> &str {
    identity.and_then(|identity| identity.text_of("name")).unwrap_or("default")
}

/// The claims of the federated tokens of an identity.
struct Tokens {
    issuer: String,
    subjects: Vec<String>,
    audience: String,
}

/// Claims that the configuration demands come first, because the filter rejects tokens with others.
fn tokens(
    identity: &str,
    source: &TokenSource<'_>,
    workloads: &Workloads,
    usual_audience: &str,
) -> Result<Tokens, NoCredentials> {
    let issuer = source.expected_issuer.or(workloads.issuer.as_deref()).or(source.usual_issuer.as_deref());
    let issuer = issuer.ok_or_else(|| NoCredentials::NoIssuer(identity.to_owned(), source.where_to_look))?.to_owned();
    let subjects = match (source.expected_subject, &source.usual_subject) {
        (Some(subject), _) => vec![subject.to_owned()],
        (None, Some(subject)) if workloads.subjects.is_empty() => vec![subject.clone()],
        (None, _) => workloads.subjects.clone(),
    };
    if subjects.is_empty() {
        return Err(NoCredentials::NoSubject(identity.to_owned(), source.where_to_look));
    }
    if subjects.len() > MOST {
        return Err(NoCredentials::TooMany(identity.to_owned(), subjects.len()));
    }
    for (name, value) in [("issuer", &issuer)].into_iter().chain(subjects.iter().map(|one| ("subject", one))) {
        if value.is_empty() || value.len() > 600 {
            return Err(NoCredentials::NotValid(name));
        }
    }
    let audience = source.audience.or(workloads.audience.as_deref()).unwrap_or(usual_audience).to_owned();
    Ok(Tokens { issuer, subjects, audience })
}

/// The audience for the authority's cloud.
fn audience(authority: Option<String>) -> &'static str {
    authority.and_then(|text| Authority::parse(&text, true).ok()).unwrap_or_else(Authority::public).audience()
}

/// A name from a subject: letters, digits and hyphens, 3 to 120 characters. For a service account its namespace and name.
fn name_of(subject: &str) -> String {
    let short = subject.strip_prefix("system:serviceaccount:").unwrap_or(subject);
    let plain: String = short.chars().map(|one| if one.is_ascii_alphanumeric() { one } else { '-' }).collect();
    let mut name = plain.trim_matches('-').to_owned();
    name.truncate(110);
    name.truncate(name.trim_end_matches('-').len());
    if name.len() < 3 { format!("credential-{name}") } else { name }
}

/// The credentials in a format.
pub fn render(credentials: &[FederatedCredential], format: Format) -> String {
    let mut text = String::new();
    for (index, credential) in credentials.iter().enumerate() {
        match format {
            Format::Json => {}
            Format::Az => text.push_str(&az(credential)),
            Format::Bicep => text.push_str(&bicep(credential, index)),
            Format::Terraform => text.push_str(&terraform(credential, index)),
        }
        text.push('\n');
    }
    match format {
        Format::Json => serde_json::to_string_pretty(credentials).unwrap_or_default(),
        Format::Bicep if credentials.iter().any(|one| one.resource_id.is_none()) => {
            format!("extension microsoftGraphV1\n\n{text}")
        }
        _ => text,
    }
}

/// The subscription, resource group and name in the id of a managed identity.
fn parts(resource_id: &str) -> Option<(&str, &str, &str)> {
    let mut parts = resource_id.trim_matches('/').split('/');
    let subscription = parts.nth(1)?;
    let group = parts.nth(1)?;
    Some((subscription, group, parts.next_back()?))
}

/// A text in single quotes for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn client_of(credential: &FederatedCredential) -> &str {
    credential.client_id.as_deref().unwrap_or("<client id>")
}

fn az(credential: &FederatedCredential) -> String {
    let FederatedCredential { name, issuer, subject, audience, resource_id, identity, .. } = credential;
    let mut text = format!("# identity {identity}\n");
    // Writing to a string does not fail.
    let _ = match resource_id.as_deref().and_then(parts) {
        Some((subscription, group, managed)) => write!(
            text,
            "az identity federated-credential create --subscription {} --resource-group {} --identity-name {} \\\n  --name {} \\\n  \
             --issuer {} \\\n  --subject {} \\\n  --audiences {}\n",
            quoted(subscription),
            quoted(group),
            quoted(managed),
            quoted(name),
            quoted(issuer),
            quoted(subject),
            quoted(audience),
        ),
        None => {
            // In this order, whatever features of serde_json a build uses.
            let parameters = format!(
                "{{\"name\":{},\"issuer\":{},\"subject\":{},\"audiences\":[{}]}}",
                json!(name),
                json!(issuer),
                json!(subject),
                json!(audience)
            );
            let (client, parameters) = (quoted(client_of(credential)), quoted(&parameters));
            writeln!(text, "az ad app federated-credential create --id {client} --parameters {parameters}")
        }
    };
    text
}

/// A text in single quotes for Bicep, in which a backslash, a quote and `${` are escaped.
fn bicep_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'").replace("${", r"\${"))
}

fn bicep(credential: &FederatedCredential, index: usize) -> String {
    let FederatedCredential { name, issuer, subject, audience, resource_id, identity, .. } = credential;
    let values = format!(
        "issuer: {}\n    subject: {}\n    audiences: [{}]",
        bicep_text(issuer),
        bicep_text(subject),
        bicep_text(audience)
    );
    match resource_id.as_deref().and_then(parts) {
        Some((_, _, managed)) => format!(
            "// identity {identity}\nresource credential{index} \
             'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = {{\n  name: {}\n  properties: \
             {{\n    {values}\n  }}\n}}\n",
            bicep_text(&format!("{managed}/{name}")),
        ),
        None => {
            let values = values.replace("\n  ", "\n");
            format!(
                "// identity {identity}\nresource application{index} 'Microsoft.Graph/applications@v1.0' existing = {{\n  uniqueName: \
                 '<unique name of the application {}>'\n}}\n\nresource credential{index} \
                 'Microsoft.Graph/applications/federatedIdentityCredentials@v1.0' = {{\n  name: \
                 '${{application{index}.uniqueName}}/{name}'\n  {values}\n}}\n",
                client_of(credential),
            )
        }
    }
}

/// A text in double quotes for Terraform, in which templates are escaped.
fn terraform_text(text: &str) -> String {
    json!(text).to_string().replace("${", "$${").replace("%{", "%%{")
}

fn terraform(credential: &FederatedCredential, index: usize) -> String {
    let FederatedCredential { name, issuer, subject, audience, resource_id, identity, .. } = credential;
    let text = terraform_text;
    match resource_id.as_deref().and_then(|id| parts(id).map(|parts| (id, parts))) {
        Some((id, (_, group, _))) => format!(
            "# identity {identity}\nresource \"azurerm_federated_identity_credential\" \"credential_{index}\" {{\n  name                = \
             {}\n  resource_group_name = {}\n  parent_id           = {}\n  issuer              = {}\n  subject             = {}\n  audience            = [{}]\n}}\n",
            text(name),
            text(group),
            text(id),
            text(issuer),
            text(subject),
            text(audience)
        ),
        None => format!(
            "# identity {identity}\ndata \"azuread_application\" \"application_{index}\" {{\n  client_id = {}\n}}\n\nresource \
             \"azuread_application_federated_identity_credential\" \"credential_{index}\" {{\n  application_id = \
             data.azuread_application.application_{index}.id\n  display_name   = {}\n  issuer         = {}\n  subject        = {}\n  \
             audiences      = [{}]\n}}\n",
            text(client_of(credential)),
            text(name),
            text(issuer),
            text(subject),
            text(audience)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Vec<Source> {
        vec![Source::new("f.yaml", text)]
    }

    fn workloads(count: usize) -> Workloads {
        let subjects = (0..count).map(|number| format!("system:serviceaccount:payments:api-{number}")).collect();
        Workloads { issuer: Some("https://issuer.example/".to_owned()), subjects, ..Workloads::default() }
    }

    const TWO: &str = "identities:
- { name: a, client_id: aaaaaaaa-0000-4000-8000-000000000001 }
- { name: b, client_id: aaaaaaaa-0000-4000-8000-000000000002, resource_id: /subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/m }
destinations: [ { hosts: [x.example], action: pass } ]\n";

    #[test]
    fn each_identity_needs_a_credential_for_each_workload() {
        let found = credentials(&source(TWO), &workloads(2)).unwrap();
        let summary: Vec<(&str, &str)> = found.iter().map(|one| (one.identity.as_str(), one.name.as_str())).collect();
        assert_eq!(
            summary,
            [("a", "payments-api-0"), ("a", "payments-api-1"), ("b", "payments-api-0"), ("b", "payments-api-1")]
        );
        assert!(found.iter().all(|one| one.audience == "api://AzureADTokenExchange"));
    }

    #[test]
    fn the_audience_is_that_of_the_cloud() {
        for (authority, audience) in [
            ("login.microsoftonline.us", "api://AzureADTokenExchangeUSGov"),
            ("login.sovcloud-identity.fr", "api://AzureADTokenExchangeFrance"),
        ] {
            let text = format!("entra: {{ authority: \"https://{authority}\" }}\n{TWO}");
            assert_eq!(credentials(&source(&text), &workloads(1)).unwrap()[0].audience, audience);
        }
    }

    #[test]
    fn more_than_twenty_are_refused_with_the_ways_out() {
        assert!(credentials(&source(TWO), &workloads(20)).is_ok());
        let refused = credentials(&source(TWO), &workloads(21)).unwrap_err();
        assert_eq!(refused, NoCredentials::TooMany("a".to_owned(), 21));
        assert!(refused.to_string().contains("identity bindings"));
    }

    #[test]
    fn a_configuration_with_mistakes_is_refused() {
        let refused = credentials(&source("destinations: [ {} ]\n"), &workloads(1)).unwrap_err();
        assert!(matches!(refused, NoCredentials::Mistakes(count) if count > 0));
        let no_issuer = Workloads { issuer: Some(String::new()), ..workloads(1) };
        assert_eq!(credentials(&source(TWO), &no_issuer), Err(NoCredentials::NotValid("issuer")));
    }

    /// A configuration with one identity, whose federated token comes from this source.
    fn from(assertion: &str) -> Vec<Source> {
        source(&format!(
            "assertions: [ {{ name: s, cluster: c, {assertion} }} ]\nidentities: [ {{ assertion: s }} ]\n\
             destinations: [ {{ hosts: [x.example], action: pass }} ]\n"
        ))
    }

    #[test]
    fn the_issuer_is_that_of_the_source_unless_the_configuration_or_the_question_names_one() {
        let issuer = |assertion: &str, given: Option<&str>| {
            let workloads = Workloads { issuer: given.map(str::to_owned), ..workloads(1) };
            credentials(&from(assertion), &workloads).map(|found| found[0].issuer.clone())
        };
        let is = |issuer: &str| Ok(issuer.to_owned());
        let github = "source: github_actions";
        assert_eq!(issuer(github, None), is("https://token.actions.githubusercontent.com"));
        assert_eq!(issuer(github, Some("https://ghes.example")), is("https://ghes.example"));
        assert_eq!(issuer("source: google_metadata", None), is("https://accounts.google.com"));
        let vault = "source: vault, role: r";
        assert!(matches!(issuer(vault, None), Err(NoCredentials::NoIssuer(name, _)) if name == "default"));
        let named = |more: &str| issuer(&format!("{vault}, {more}"), None);
        assert_eq!(named("authority: vault.example.com"), is("https://vault.example.com/v1/identity/oidc"));
        let in_namespace = named("authority: \"vault.example.com:8200\", namespace: team/");
        assert_eq!(in_namespace, is("https://vault.example.com:8200/v1/team/identity/oidc"));
        assert!(named("authority: 127.0.0.1").is_err() && named("authority: vault").is_err());
        let own_server = format!("{github}, allowed_hosts: [ghes.example.com]");
        assert!(issuer(&own_server, None).unwrap_err().to_string().contains("https://HOST/_services/token"));
        let provider = |path: &str| {
            issuer(&format!("source: oidc_client_credentials, authority: keycloak.example.com, path: {path}"), None)
        };
        let realm = provider("/auth/realms/workloads/protocol/openid-connect/token");
        assert_eq!(realm, is("https://keycloak.example.com/auth/realms/workloads"));
        assert!(provider("/oauth2/token").unwrap_err().to_string().contains("the provider's issuer"));
        let expected = format!("{vault}, expect: {{ iss: https://vault.example/v1/identity/oidc }}");
        assert_eq!(issuer(&expected, Some("https://other.example")), is("https://vault.example/v1/identity/oidc"));
    }

    #[test]
    fn the_subject_and_audience_are_those_that_the_configuration_demands() {
        let sources = from("source: google_metadata, audience: api://own, expect: { sub: \"1234\" }");
        let found = credentials(&sources, &Workloads::default()).unwrap();
        assert_eq!((found[0].subject.as_str(), found[0].audience.as_str()), ("1234", "api://own"));
        let spiffe = from("source: spiffe_workload_api, spiffe_id: \"spiffe://e/a\", expect: { iss: \"https://e\" }");
        assert_eq!(credentials(&spiffe, &Workloads::default()).unwrap()[0].subject, "spiffe://e/a");
        let refused = credentials(&from("source: google_metadata"), &Workloads::default()).unwrap_err();
        assert!(matches!(&refused, NoCredentials::NoSubject(name, _) if name == "default"));
        assert!(refused.to_string().contains("gcloud iam service-accounts describe"), "{refused}");
    }

    #[test]
    fn the_claims_of_a_service_connection_follow_from_ids_or_its_name() {
        let id = "64171687-7a59-4fce-b2c8-823278dcf176";
        let sources = from(&format!("source: azure_pipelines, service_connection_id: {id}"));
        let ask = |organization: Option<&str>, connection: Option<&str>, tenant: &str| {
            let workloads = Workloads {
                devops: AzureDevOps {
                    organization_id: organization.map(str::to_owned),
                    service_connection: connection.map(str::to_owned),
                },
                variables: vec![("AZURE_TENANT_ID".to_owned(), tenant.to_owned())],
                ..Workloads::default()
            };
            credentials(&sources, &workloads).map(|found| (found[0].issuer.clone(), found[0].subject.clone()))
        };
        let (tenant, organization) = ("ff882432-09b0-437b-bd22-ca13c0037ded", "0ca3ddd9-f0b0-4635-a98c-5866526961b6");
        let (issuer, subject) = ask(Some(organization), None, tenant).unwrap();
        assert_eq!(issuer, format!("https://login.microsoftonline.com/{tenant}/v2.0"));
        assert!(!name_of(&subject).ends_with('-'));
        assert!(subject.ends_with(&format!("/a/rISbSSETf0KqFyZ8ppdXmA/sc/{organization}/{id}")), "{subject}");
        let older = (format!("https://vstoken.dev.azure.com/{organization}"), "sc://org/project/name".to_owned());
        assert_eq!(ask(Some(organization), Some("org/project/name"), tenant), Ok(older));
        for refused in [ask(None, None, tenant), ask(Some(organization), None, "contoso.com")] {
            assert!(refused.unwrap_err().to_string().contains("--organization-id"));
        }
    }

    #[test]
    fn claims_that_are_given_are_for_identities_with_one_source() {
        let text = "assertions: [ { name: s, source: github_actions, cluster: c } ]\n\
                    identities: [ { name: a, client_id: aaaaaaaa-0000-4000-8000-000000000001 }, { name: b, client_id: \
                    aaaaaaaa-0000-4000-8000-000000000002, assertion: s } ]\n\
                    destinations: [ { hosts: [x.example], action: pass } ]\n";
        let ask = |identity: Option<&str>| {
            let workloads = Workloads { identity: identity.map(str::to_owned), ..workloads(1) };
            credentials(&source(text), &workloads).map(|found| found.len())
        };
        assert_eq!(ask(None), Err(NoCredentials::Sources("a".to_owned(), "b".to_owned())));
        assert_eq!((ask(Some("a")), ask(Some("b"))), (Ok(1), Ok(1)));
        assert_eq!(ask(Some("c")), Err(NoCredentials::NoIdentity("c".to_owned())));
    }

    #[test]
    fn the_credentials_of_one_client_have_different_names_and_subjects() {
        let subjects = ["refs/heads/a-b", "refs/heads/a/b", "refs/heads/a-b"].map(str::to_owned).to_vec();
        let found = credentials(&source(TWO), &Workloads { subjects, ..workloads(0) }).unwrap();
        let names: Vec<(&str, &str)> = found.iter().map(|one| (one.identity.as_str(), one.name.as_str())).collect();
        let [one, other] = ["refs-heads-a-b", "refs-heads-a-b-2"];
        assert_eq!(names, [("a", one), ("a", other), ("b", one), ("b", other)]);
    }

    #[test]
    fn values_cannot_leave_their_quotes() {
        let subjects = vec!["a'; rm -rf ~ #${x}%{y}\"".to_owned()];
        let found = credentials(&source(TWO), &Workloads { subjects, ..workloads(0) }).unwrap();
        let rendered = |format| render(&found, format);
        assert!(rendered(Format::Az).contains(r"'a'\''; rm -rf ~ #${x}%{y}"), "{}", rendered(Format::Az));
        assert!(rendered(Format::Bicep).contains(r#"'a\'; rm -rf ~ #\${x}%{y}"'"#), "{}", rendered(Format::Bicep));
        assert!(
            rendered(Format::Terraform).contains(r##""a'; rm -rf ~ #$${x}%%{y}\"""##),
            "{}",
            rendered(Format::Terraform)
        );
    }
}
