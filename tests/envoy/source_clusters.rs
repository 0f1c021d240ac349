//! Each source over HTTP through its cluster of `envoy/sources/`: the filter in a real Envoy gets an access token with the fake's token.

use std::fs;

use fake_sources::{
    AzurePipelines, Client, ClientAuth, ConnectionIssuer, GitHub, Google, GrantType, JsonService, Server, Source,
    TokenEndpoint, Vault,
};
use serde_json::{Value, json};
use stack::source_cluster::{self, set_address, set_ca, set_name, set_vault_token};
use stack::{AUDIENCE, CLIENT_ID, LISTED_HOST, Request, Stack, TENANT_ID};

use crate::scenarios::seen_token;

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("the_source_github_actions_gets_the_workloads_token_through_its_cluster", github_actions),
    ("the_source_azure_pipelines_gets_the_workloads_token_through_its_cluster", azure_pipelines),
    ("the_source_google_metadata_gets_the_workloads_token_through_its_cluster", google_metadata),
    ("the_source_vault_gets_the_workloads_token_through_its_cluster", vault),
    ("the_source_oidc_client_credentials_gets_the_workloads_token_through_its_cluster", oidc_client_credentials),
    ("the_source_http_gets_the_workloads_token_through_a_cluster", http),
];

fn github_actions() {
    let github = GitHub::new();
    let server = Server::start_tls(&github, &["localhost"]).unwrap();
    let variables = github.variables(&format!("localhost:{}", server.addr().port()));
    let assertion = json!({"source": "github_actions", "allowed_hosts": ["localhost"]});
    gets_a_token(&github, &server, "github-actions", &variables, assertion);
}

fn azure_pipelines() {
    let azure = AzurePipelines::new(ConnectionIssuer::AzureDevOps);
    let server = Server::start_tls(&azure, &["localhost"]).unwrap();
    let assertion = json!({"source": "azure_pipelines", "service_connection_id": azure.connection()});
    gets_a_token(&azure, &server, "azure-pipelines", &azure.variables(AzurePipelines::HOST), assertion);
}

fn google_metadata() {
    let google = Google::new();
    let server = Server::start(&google).unwrap();
    gets_a_token(&google, &server, "google-metadata", &[], json!({"source": "google_metadata"}));
}

fn vault() {
    let vault = Vault::new();
    let server = Server::start_tls(&vault, &["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (token, secret) = (folder.path().join("token"), folder.path().join("secret.yaml"));
    fs::write(&token, vault.token()).unwrap();
    let mut cluster = adapted("vault", &server, &folder.path().join("ca.pem"));
    set_vault_token(&mut cluster, &token, &secret).unwrap();
    gets_a_token_through(&vault, cluster, &[], json!({"source": "vault", "role": Vault::ROLE}));
}

fn oidc_client_credentials() {
    let auth = ClientAuth::SecretBasic("s:/+ %ü".to_owned());
    let endpoint = TokenEndpoint::new(GrantType::ClientCredentials, Client { id: "pay:1".to_owned(), auth });
    let server = Server::start_tls(&endpoint, &["localhost"]).unwrap();
    let variables = [("OIDC_SECRET".to_owned(), "s:/+ %ü".to_owned())];
    let client = json!({"id": "pay:1", "secret_from_env": "OIDC_SECRET"});
    let assertion = json!({"source": "oidc_client_credentials", "path": endpoint.target(), "basic_auth": client});
    gets_a_token(&endpoint, &server, "oidc", &variables, assertion);
}

fn http() {
    let service = JsonService::new();
    let server = Server::start_tls(&service, &["localhost"]).unwrap();
    let variables = [("API_KEY".to_owned(), service.api_key().to_owned())];
    let body = json!({"audience": AUDIENCE}).to_string();
    let request = json!({"path": service.target(), "headers_from_env": {"X-Api-Key": "API_KEY"}, "body": body});
    let response = json!({"token": "/result/jwt", "expiry": {"time": "/result/expires_at"}});
    let assertion = json!({"source": "http", "request": request, "response": response});
    gets_a_token(&service, &server, "oidc", &variables, assertion);
}

/// The cluster of a file, which connects to the fake.
fn adapted(name: &str, server: &Server, ca: &std::path::Path) -> Value {
    let mut cluster = source_cluster::read(name).unwrap();
    if let Some(pem) = server.ca_pem() {
        set_name(&mut cluster, "localhost").unwrap();
        fs::write(ca, pem).unwrap();
        set_ca(&mut cluster, ca);
    }
    set_address(&mut cluster, server.addr());
    cluster
}

fn gets_a_token(
    source: &impl Source,
    server: &Server,
    cluster: &str,
    variables: &[(String, String)],
    assertion: Value,
) {
    let folder = tempfile::tempdir().unwrap();
    let cluster = adapted(cluster, server, &folder.path().join("ca.pem"));
    gets_a_token_through(source, cluster, variables, assertion);
}

/// Sends two requests, which must get the workload's token with one call to the source.
fn gets_a_token_through(source: &impl Source, cluster: Value, variables: &[(String, String)], assertion: Value) {
    let mut entry = json!({"name": "federated", "cluster": cluster["name"]});
    entry.as_object_mut().unwrap().extend(assertion.as_object().unwrap().clone());
    let options = source_cluster::options(cluster, variables, &json!([entry]));
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    source.register(&stack.directory(), TENANT_ID, CLIENT_ID).unwrap();
    for _ in 0..2 {
        let answer = stack.send(&Request::get(LISTED_HOST, "/")).unwrap();
        assert_eq!(seen_token(&answer)["appid"], CLIENT_ID, "{:?}\n{}", source.stats(), stack.log());
    }
    let stats = source.stats();
    assert_eq!((stats.issued, stats.rejected), (1, Vec::new()));
    assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());
}
