//! Who the workload is, and what Entra knows of it.

use std::time::{Duration, SystemTime};

use fake_entra::{Credential, Directory, Issuer};

/// The host whose requests get a token.
pub const LISTED_HOST: &str = "payments-kv.vault.azure.net";
/// A host whose requests pass untouched.
pub const UNLISTED_HOST: &str = "egress.example.com";
/// The host that applications call for a managed identity's token.
pub const IMDS_HOST: &str = "169.254.169.254";
/// The host that probes name, as the sidecar's configuration has it.
pub const HEALTH_HOST: &str = "entra-exchange.health";
/// What `IDENTITY_HEADER` says: the secret of App Service's clients. It guards nothing but fakes.
pub const IDENTITY_HEADER: &str = "7d1f0c9e2b6a4853";
/// The workload's tenant.
pub const TENANT_ID: &str = "3f6c1e0a-5b0e-4d0f-9c55-0c9f5a1b7d21";
/// The workload's application.
pub const CLIENT_ID: &str = "b1d2c8a4-7f3e-4c6b-8a90-2e5d4f6a7c13";
/// The namespace of the workload's service account.
pub const NAMESPACE: &str = "payments";
/// The workload's service account.
pub const SERVICE_ACCOUNT: &str = "api";
/// The `sub` of the projected token.
pub const SUBJECT: &str = "system:serviceaccount:payments:api";
/// The `aud` of the projected token.
pub const AUDIENCE: &str = "api://AzureADTokenExchange";
/// The `iss` of the projected token.
pub const ISSUER_URL: &str = "https://oidc.cluster.example.com/";
/// What `AZURE_AUTHORITY_HOST` says.
pub const AUTHORITY_HOST: &str = "https://login.microsoftonline.com/";
/// The resources that the fake Entra knows.
pub const RESOURCES: [&str; 2] = ["https://vault.azure.net", "https://storage.azure.com"];
/// How long a projected token lives.
pub const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// What an administrator does in Entra before the workload is deployed.
pub(crate) fn register(directory: &Directory, issuer: &Issuer) -> Result<(), String> {
    directory.trust_issuer(ISSUER_URL, issuer.jwks());
    for resource in RESOURCES {
        directory.register_resource(resource);
    }
    directory.register_credential(credential(CLIENT_ID))
}

/// The federated credential by which the workload's projected token stands for this application of its tenant.
pub fn credential(client_id: &str) -> Credential {
    Credential {
        tenant_id: TENANT_ID.to_owned(),
        client_id: client_id.to_owned(),
        issuer: ISSUER_URL.to_owned(),
        subject: SUBJECT.to_owned(),
        audience: AUDIENCE.to_owned(),
    }
}

/// The token that the kubelet would project now.
pub(crate) fn correct_token(issuer: &Issuer) -> String {
    issuer.service_account_token(NAMESPACE, SERVICE_ACCOUNT, AUDIENCE, SystemTime::now(), TOKEN_LIFE)
}
