//! The workload's identity and its registration in Entra.

use std::time::{Duration, SystemTime};

use fake_entra::{Credential, Directory, Issuer};

/// A host whose requests get a token.
pub const LISTED_HOST: &str = "payments-kv.vault.azure.net";
/// A host whose requests are forwarded unchanged.
pub const UNLISTED_HOST: &str = "egress.example.com";
/// The host of IMDS, which applications call for a managed identity's token.
pub const IMDS_HOST: &str = "169.254.169.254";
/// The `Host` header of probes in the sidecar's configuration.
pub const HEALTH_HOST: &str = "entra-exchange.health";
/// The value of `IDENTITY_HEADER`, the secret of App Service's clients. It protects only test servers.
pub const IDENTITY_HEADER: &str = "7d1f0c9e2b6a4853";
/// The workload's tenant id.
pub const TENANT_ID: &str = "3f6c1e0a-5b0e-4d0f-9c55-0c9f5a1b7d21";
/// The client id of the workload's application.
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
/// The value of `AZURE_AUTHORITY_HOST`.
pub const AUTHORITY_HOST: &str = "https://login.microsoftonline.com/";
/// The resources that are registered in the fake Entra.
pub const RESOURCES: [&str; 2] = ["https://vault.azure.net", "https://storage.azure.com"];
/// The lifetime of a projected token.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// Registers the workload in Entra, as an administrator does before the deployment.
pub(crate) fn register(directory: &Directory, issuer: &Issuer) -> Result<(), String> {
    directory.trust_issuer(ISSUER_URL, issuer.jwks());
    for resource in RESOURCES {
        directory.register_resource(resource);
    }
    directory.register_credential(credential(CLIENT_ID))
}

/// Creates the federated credential that lets the workload's projected token authenticate this application.
pub fn credential(client_id: &str) -> Credential {
    Credential {
        tenant_id: TENANT_ID.to_owned(),
        client_id: client_id.to_owned(),
        issuer: ISSUER_URL.to_owned(),
        subject: SUBJECT.to_owned(),
        audience: AUDIENCE.to_owned(),
    }
}

/// Creates the token that the kubelet would project now.
pub(crate) fn valid_token(issuer: &Issuer) -> String {
    issuer.service_account_token(NAMESPACE, SERVICE_ACCOUNT, AUDIENCE, SystemTime::now(), TOKEN_LIFETIME)
}
