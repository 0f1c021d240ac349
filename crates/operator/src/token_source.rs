//! What a configuration says about the federated tokens of an identity: their source, and the claims that are known from it.

use crate::azure_devops;
use crate::inventory::Configuration;
use crate::tree::Node;

/// The entry of `assertions` that an identity uses if it names none.
const PROJECTED_TOKEN: &str = "projected_token";

/// What is known of Azure DevOps, which makes the federated tokens of its pipelines.
#[derive(Clone, Debug, Default)]
pub struct AzureDevOps {
    /// The id of the organization.
    pub organization_id: Option<String>,
    /// The name of an older service connection, `ORGANIZATION/PROJECT/NAME`; its tokens are not issued by Entra.
    pub service_connection: Option<String>,
}

/// The source of an identity's federated tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TokenSource<'a> {
    /// The name of the entry in `assertions`.
    pub(crate) name: &'a str,
    /// The issuer that the configuration demands (`expect.iss`).
    pub(crate) expected_issuer: Option<&'a str>,
    /// The issuer that such a source has, unless it is one of the organization's own.
    pub(crate) usual_issuer: Option<String>,
    /// The subject that the configuration demands (`expect.sub`).
    pub(crate) expected_subject: Option<&'a str>,
    /// The subject that such a source has, if it is known.
    pub(crate) usual_subject: Option<String>,
    /// The audience that the configuration sets.
    pub(crate) audience: Option<&'a str>,
    /// Where an operator finds an issuer or subject that is not known: the end of a sentence.
    pub(crate) where_to_look: &'static str,
}

/// The source of an identity's federated tokens. `None` stands for the identity that is created implicitly. `tenant` is the identity's.
pub(crate) fn of<'a>(
    configuration: &'a Configuration<'_>,
    identity: Option<&'a Node>,
    tenant: Option<&str>,
    devops: &AzureDevOps,
) -> TokenSource<'a> {
    let name = name_of(identity);
    let mut entries = configuration.get("assertions").into_iter().flat_map(Node::items);
    let entry = entries.find(|entry| entry.text_of("name").unwrap_or(PROJECTED_TOKEN) == name);
    let expected = |claim: &str| entry?.get("expect")?.text_of(claim);
    let (usual, where_to_look) = entry.map_or((None, CLUSTER), |entry| usual(entry, tenant, devops));
    let (usual_issuer, usual_subject) = usual.unwrap_or_default();
    TokenSource {
        name,
        expected_issuer: expected("iss"),
        usual_issuer,
        // The filter demands that the subject is the SPIFFE ID.
        expected_subject: expected("sub").or_else(|| entry?.text_of("spiffe_id")),
        usual_subject,
        audience: entry.and_then(|entry| entry.text_of("audience")),
        where_to_look,
    }
}

/// The name of the entry in `assertions` from which an identity gets its federated tokens.
pub(crate) fn name_of(identity: Option<&Node>) -> &str {
    identity.and_then(|identity| identity.text_of("assertion")).unwrap_or(PROJECTED_TOKEN)
}

const CLUSTER: &str = "the cluster's OIDC issuer URL, and the service accounts of the workloads";

/// The claims that the tokens of a source usually have: the issuer, and the subject.
type Usual = Option<(Option<String>, Option<String>)>;

fn usual(entry: &Node, tenant: Option<&str>, devops: &AzureDevOps) -> (Usual, &'static str) {
    let only_issuer = |issuer: Option<String>| issuer.map(|issuer| (Some(issuer), None));
    match entry.text_of("source") {
        // docs.github.com, "OpenID Connect reference". An own server has another issuer.
        Some("github_actions") => (
            only_issuer(entry.get("allowed_hosts").is_none().then(|| GITHUB.to_owned())),
            "a job's subject, such as repo:ORG/REPO:environment:production; the issuer of an own server is https://HOST/_services/token",
        ),
        Some("azure_pipelines") => {
            let known = azure_pipelines(entry, tenant, devops);
            (known.map(|(issuer, subject)| (Some(issuer), Some(subject))), AZURE_PIPELINES)
        }
        // cloud.google.com, "Verify VM identity".
        Some("google_metadata") => (
            only_issuer(Some("https://accounts.google.com".to_owned())),
            "the numeric id of the service account: gcloud iam service-accounts describe ADDRESS --format 'value(uniqueId)'",
        ),
        Some("vault") => {
            (only_issuer(vault(entry)), "the issuer is VAULT/v1/identity/oidc, and the subject the entity's id")
        }
        Some("oidc_client_credentials" | "token_exchange") => {
            (only_issuer(keycloak(entry)), "the provider's issuer, and the subject of the client's tokens")
        }
        Some("azure_managed_identity" | "azure_app_service") => (
            None,
            "the issuer is AUTHORITY/TENANT-ID/v2.0 with the identity's own tenant, and the subject its object id: az identity show \
             --query principalId",
        ),
        Some("aws_sts") => (
            None,
            "the issuer: aws iam get-outbound-web-identity-federation-info; the subject is the ARN of the role, not that of its session",
        ),
        Some("spiffe_workload_api") => {
            (None, "the issuer is jwt_issuer of the SPIRE server, and the subject the SPIFFE ID")
        }
        Some("http") => (None, "the issuer and subject of the service's tokens: run entra-exchange inspect with one"),
        _ => (None, CLUSTER),
    }
}

const GITHUB: &str = "https://token.actions.githubusercontent.com";

const AZURE_PIPELINES: &str = "Azure DevOps shows issuer and subject of the service connection; with --organization-id, and \
    --service-connection for an older one, they are computed";

fn azure_pipelines(entry: &Node, tenant: Option<&str>, devops: &AzureDevOps) -> Option<azure_devops::Claims> {
    let organization = devops.organization_id.as_deref()?;
    match &devops.service_connection {
        Some(name) => Some(azure_devops::by_name(organization, name)),
        None => azure_devops::by_id(tenant?, organization, entry.text_of("service_connection_id")?),
    }
}

/// Vault's issuer is its address, and the namespace is part of the path (developer.hashicorp.com, "Identity tokens"). An authority that is
/// only the name of a cluster says nothing.
fn vault(entry: &Node) -> Option<String> {
    let host = entry.text_of("authority").filter(|host| is_public(host))?;
    let namespace = entry.text_of("namespace").map(|text| format!("{}/", text.trim_matches('/'))).unwrap_or_default();
    Some(format!("https://{host}/v1/{namespace}identity/oidc"))
}

/// A realm of Keycloak is the beginning of the path of its token endpoint.
fn keycloak(entry: &Node) -> Option<String> {
    let host = entry.text_of("authority").filter(|host| is_public(host))?;
    let realm = entry.text_of("path")?.strip_suffix("/protocol/openid-connect/token")?;
    realm.contains("/realms/").then(|| format!("https://{host}{realm}"))
}

/// Whether Entra could reach a host by this name.
fn is_public(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or(host);
    name.contains('.') && name.parse::<std::net::IpAddr>().is_err()
}
