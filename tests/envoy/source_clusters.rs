//! Each source over HTTP through its cluster of `envoy/sources/`: the filter in a real Envoy gets an access token with the fake's token.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fake_entra::{Credential, Directory, Issuer};
use fake_http::{Endpoint, Handler, Tls};
use fake_sources::{
    AwsSts, AzurePipelines, Client, ClientAuth, ConnectionIssuer, Fault, GitHub, Google, GrantType, JsonService,
    ManagedIdentity, Server, Source, SpiffeServer, TokenEndpoint, Vault, WorkloadApi,
};
use jwt_simple::prelude::RS256KeyPair;
use serde_json::{Value, json};
use stack::source_cluster::{
    self, set_address, set_aws_credentials, set_ca, set_name, set_socket, set_vault_token, set_watched_ca,
};
use stack::{
    AUDIENCE, CLIENT_ID, ISSUER_URL, LISTED_HOST, Layout, NAMESPACE, Options, Request, SERVICE_ACCOUNT, Stack,
    TENANT_ID, TokenDirectory,
};

use crate::scenarios::seen_token;

/// The tenant of a managed identity, which is not that of the workload's client.
const HOME_TENANT_ID: &str = "5f0c6d1e-3b2a-4d8f-9e70-1a2b3c4d5e6f";

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("the_source_github_actions_gets_the_workloads_token_through_its_cluster", github_actions),
    ("the_source_azure_pipelines_gets_the_workloads_token_through_its_cluster", azure_pipelines),
    ("the_source_google_metadata_gets_the_workloads_token_through_its_cluster", google_metadata),
    ("the_source_vault_gets_the_workloads_token_through_its_cluster", vault),
    ("the_source_oidc_client_credentials_gets_the_workloads_token_through_its_cluster", oidc_client_credentials),
    ("the_source_azure_managed_identity_gets_the_workloads_token_through_its_cluster", azure_managed_identity),
    ("the_source_azure_app_service_gets_the_workloads_token_through_its_cluster", azure_app_service),
    ("the_source_aws_sts_gets_the_workloads_token_with_a_request_that_envoy_signs", aws_sts),
    ("aws_sts_is_not_ready_until_envoy_has_credentials", aws_sts_without_credentials),
    ("a_token_of_an_issuer_of_your_own_gets_the_workloads_token", own_issuer),
    ("the_source_spiffe_workload_api_gets_the_workloads_token_over_a_unix_socket", spiffe_workload_api),
    ("a_refusal_of_a_spiffe_agent_is_reported_with_its_grpc_status", refused_by_a_spiffe_agent),
    ("the_token_proxy_of_an_aks_identity_binding_is_trusted_after_a_rotation_of_its_ca", aks_identity_binding),
    ("the_source_token_exchange_gets_the_workloads_token_through_its_cluster", token_exchange),
    ("the_source_http_gets_the_workloads_token_through_a_cluster", http),
    ("at_a_cold_start_four_workers_ask_a_source_once_for_the_tokens_of_twenty_scopes", asked_once_by_four_workers),
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
    gets_a_token_through(&vault, cluster, &[], json!({"source": "vault", "role": Vault::ROLE}), None);
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

fn azure_managed_identity() {
    let imds = ManagedIdentity::imds(HOME_TENANT_ID);
    let server = Server::start(&imds).unwrap();
    let assertion = json!({"source": "azure_managed_identity", "client_id": ManagedIdentity::CLIENT_ID});
    gets_a_token(&imds, &server, "azure-imds", &[], assertion);
}

fn azure_app_service() {
    let endpoint = ManagedIdentity::app_service(HOME_TENANT_ID);
    let server = Server::start(&endpoint).unwrap();
    let variables = endpoint.variables(&server.addr().to_string());
    let assertion = json!({"source": "azure_app_service", "client_id": ManagedIdentity::CLIENT_ID});
    gets_a_token(&endpoint, &server, "azure-app-service", &variables, assertion);
}

fn aws_sts() {
    let sts = AwsSts::new("eu-central-1");
    let server = Server::start_tls(&sts, &["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = adapted("aws-sts", &server, &folder.path().join("ca.pem"));
    let session = sts.credentials().unwrap();
    let inline = json!({
        "access_key_id": session.access_key_id, "secret_access_key": session.secret_access_key,
        "session_token": session.session_token,
    });
    set_aws_credentials(&mut cluster, json!({"inline_credential": inline})).unwrap();
    gets_a_token_through(&sts, cluster, &[], json!({"source": "aws_sts", "region": "eu-central-1"}), None);
}

/// Envoy reads the credentials from a file, which has none at first: until then it sends requests without a signature.
fn aws_sts_without_credentials() {
    let sts = AwsSts::new("eu-central-1");
    let server = Server::start_tls(&sts, &["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    fs::write(&file, "[default]\n").unwrap();
    let mut cluster = adapted("aws-sts", &server, &folder.path().join("ca.pem"));
    let data = json!({"filename": file, "watched_directory": {"path": folder.path()}});
    let provider = json!({"credentials_file_provider": {"credentials_data_source": data}});
    set_aws_credentials(&mut cluster, provider).unwrap();
    let assertion =
        json!({"name": "aws", "source": "aws_sts", "region": "eu-central-1", "cluster": "aws_sts", "attempts": 1});
    let options = source_cluster::options(cluster, &[], &json!([assertion]));
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    sts.register(&stack.directory(), TENANT_ID, CLIENT_ID).unwrap();
    let send = || stack.send(&Request::get(LISTED_HOST, "/")).unwrap();

    let problem = send().json();
    assert_eq!(problem["code"], "source_not_ready", "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("MissingAuthenticationToken"), "{problem}");
    assert!(problem["remedy"].as_str().unwrap().contains("its own credential"), "{problem}");

    let session = sts.credentials().unwrap();
    let token = session.session_token.as_ref().unwrap();
    let (id, secret) = (&session.access_key_id, &session.secret_access_key);
    let content =
        format!("[default]\naws_access_key_id={id}\naws_secret_access_key={secret}\naws_session_token={token}\n");
    diy_issuer::replace(&file, &content).unwrap();
    let is_issued = || send().status == 200;
    assert!(stack::eventually(Duration::from_secs(20), is_issued), "{}\n{}", send().json(), stack.log());
    assert_eq!(seen_token(&send())["appid"], CLIENT_ID);
    assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());
}

/// The issuer of `examples/diy-issuer`: Entra knows its keys from the documents that it publishes.
fn own_issuer() {
    const ISSUER: &str = "https://issuer.example.com";
    const SUBJECT: &str = "vm-payments";
    let folder = tempfile::tempdir().unwrap();
    let (keys, site) = (folder.path().join("keys"), folder.path().join("site"));
    fs::create_dir(&keys).unwrap();
    let key = keys.join("2026-11.pem");
    fs::write(&key, RS256KeyPair::generate(2048).unwrap().to_pem().unwrap()).unwrap();
    diy_issuer::publish(ISSUER, &keys, &site).unwrap();
    let token = diy_issuer::Token { issuer: ISSUER, subject: SUBJECT, audience: AUDIENCE, seconds: 900 };
    let token = diy_issuer::Key::read(&key).unwrap().mint(&token).unwrap();
    let stack =
        Stack::start(Options { token: Some(token), ..Options::default() }).unwrap_or_else(|error| panic!("{error}"));
    let directory = stack.directory();
    let (issuer, subject) = (ISSUER.to_owned(), SUBJECT.to_owned());
    directory.register_credential(Credential { issuer, subject, ..stack::credential(CLIENT_ID) }).unwrap();
    let jwks: Value = serde_json::from_slice(&fs::read(site.join("jwks.json")).unwrap()).unwrap();
    directory.trust_issuer(ISSUER, jwks);
    let answer = stack.send(&Request::get(LISTED_HOST, "/")).unwrap();
    assert_eq!(seen_token(&answer)["appid"], CLIENT_ID, "{}", stack.log());
    assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());
}

fn spiffe_workload_api() {
    let api = WorkloadApi::new().with_audit_identity();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let _server = SpiffeServer::start(&api, &socket).unwrap();
    let assertion = json!({"source": "spiffe_workload_api", "spiffe_id": WorkloadApi::ID});
    gets_a_token_through(&api, spire_at(&socket), &[], assertion, None);
}

/// First the agent does not know the workload, then it is away.
fn refused_by_a_spiffe_agent() {
    let api = WorkloadApi::new();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let server = SpiffeServer::start(&api, &socket).unwrap();
    let assertion = json!({
        "source": "spiffe_workload_api", "name": "federated", "cluster": "spire_agent", "attempts": 1,
        "spiffe_id": WorkloadApi::AUDIT_ID,
    });
    let options = source_cluster::options(spire_at(&socket), &[], &json!([assertion]));
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let problem = || stack.send(&Request::get(LISTED_HOST, "/")).unwrap().json();
    let refused = problem();
    assert_eq!(refused["code"], "source_not_ready", "{refused}");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("gRPC status 7") && detail.contains("identity"), "{refused}");

    drop(server);
    let is_away = || problem()["code"] == "assertion_unavailable";
    assert!(stack::eventually(Duration::from_secs(10), is_away), "{}", problem());
    assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());
}

/// The cluster `spire_agent`, with this socket.
fn spire_at(socket: &Path) -> Value {
    let mut cluster = source_cluster::read("spire").unwrap();
    set_socket(&mut cluster, socket).unwrap();
    cluster
}

/// A proxy with a certificate of the cluster's CA that forwards token requests below its own path to Entra, as the SDKs send them.
fn aks_identity_binding() {
    const NAME: &str = "sni.example";
    const BINDING_AUDIENCE: &str = "api://AKSIdentityBinding";
    const BOUND_CLIENT_ID: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
    let entra: Arc<OnceLock<Directory>> = Arc::default();
    let (behind, tls) = (Arc::clone(&entra), Tls::create("token-proxy", &[NAME]).unwrap());
    let folder = tempfile::tempdir().unwrap();
    // The proxy has a certificate of a new CA, which the pod gets later than that.
    let old = Tls::create("token-proxy", &[NAME]).unwrap();
    let volume = TokenDirectory::create(folder.path().join("wi"), Layout::default(), old.ca_pem()).unwrap();
    let ca = tls.ca_pem().to_owned();
    let handler: Handler = Arc::new(move |request| {
        let path = format!("/proxy/{TENANT_ID}/oauth2/v2.0/token");
        if (request.host(), request.target.as_str()) != ("login.microsoftonline.com", &path) {
            return fake_http::Response::json(404, format!("{} {}", request.host(), request.target));
        }
        behind.get().unwrap().token(TENANT_ID, &request.body, SystemTime::now())
    });
    let endpoint = Endpoint { address: ([127, 0, 0, 1], 0).into(), tls: Some(tls), handler };
    let proxy = fake_http::Server::start("token-proxy", vec![endpoint]).unwrap();
    let mut cluster = source_cluster::read("aks-token-proxy").unwrap();
    set_watched_ca(&mut cluster, &volume, &folder.path().join("ca.yaml")).unwrap();
    set_address(&mut cluster, proxy.addresses()[0]);

    let mut options =
        source_cluster::options(cluster, &[], &json!([{"name": "f", "source": "file", "cluster": "projected_token"}]));
    let mut configuration: Value = serde_json::from_str(options.configuration.as_deref().unwrap()).unwrap();
    configuration["entra"] = json!({"clusters": ["aks_token_proxy"], "path_prefix": "/proxy/"});
    configuration["identities"][0]["client_id"] = json!(BOUND_CLIENT_ID);
    options.configuration = Some(configuration.to_string());
    let lifetime = Duration::from_secs(3600);
    let issuer = Issuer::new(ISSUER_URL);
    let token = issuer.service_account_token(NAMESPACE, SERVICE_ACCOUNT, BINDING_AUDIENCE, SystemTime::now(), lifetime);
    options.token = Some(token);
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let directory = stack.directory();
    let credential = Credential { audience: BINDING_AUDIENCE.to_owned(), ..stack::credential(BOUND_CLIENT_ID) };
    directory.register_credential(credential).unwrap();
    entra.set(directory).ok().unwrap();
    let send = || stack.send(&Request::get(LISTED_HOST, "/")).unwrap();
    let problem = send().json();
    assert_eq!(problem["code"], "entra_unavailable", "{problem}");

    volume.rotate(&ca).unwrap();
    let is_issued = || send().status == 200;
    assert!(stack::eventually(Duration::from_secs(20), is_issued), "{}\n{}", send().json(), stack.log());
    assert_eq!(seen_token(&send())["appid"], BOUND_CLIENT_ID);
    assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());
}

fn token_exchange() {
    // An issuer that Entra does not know.
    let issuer = Issuer::new("https://cluster.internal");
    let projected =
        issuer.service_account_token(NAMESPACE, SERVICE_ACCOUNT, AUDIENCE, SystemTime::now(), stack::TOKEN_LIFETIME);
    let auth = ClientAuth::SecretBasic("s:/+ %ü".to_owned());
    let client = Client { id: "pay:1".to_owned(), auth };
    let endpoint = TokenEndpoint::new(GrantType::TokenExchange(issuer), client).with_token_type_n_a();
    let server = Server::start_tls(&endpoint, &["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cluster = adapted("oidc", &server, &folder.path().join("ca.pem"));
    let variables = [("STS_SECRET".to_owned(), "s:/+ %ü".to_owned())];
    let client = json!({"id": "pay:1", "secret_from_env": "STS_SECRET"});
    let assertion = json!({
        "source": "token_exchange", "path": endpoint.target(), "basic_auth": client, "subject_token": "projected_token",
    });
    gets_a_token_through(&endpoint, cluster, &variables, assertion, Some(projected));
}

fn http() {
    let service = JsonService::new();
    let server = Server::start_tls(&service, &["localhost"]).unwrap();
    let variables = [("API_KEY".to_owned(), service.api_key().to_owned())];
    let body = json!({"audience": AUDIENCE});
    let request = json!({"path": service.target(), "headers_from_env": {"X-Api-Key": "API_KEY"}, "json": body});
    let response = json!({"token": "/result/jwt", "expiry": {"time": "/result/expires_at"}});
    let assertion = json!({"source": "http", "request": request, "response": response});
    gets_a_token(&service, &server, "oidc", &variables, assertion);
}

/// Eighty requests for tokens of twenty scopes, on as many connections, while the source answers after a second.
fn asked_once_by_four_workers() {
    const SCOPES: usize = 20;
    let service = JsonService::new();
    let server = Server::start_tls(&service, &["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cluster = adapted("oidc", &server, &folder.path().join("ca.pem"));
    let variables = [("API_KEY".to_owned(), service.api_key().to_owned())];
    let assertion = json!({
        "name": "federated", "source": "http", "cluster": cluster["name"],
        "request": {
            "path": service.target(), "headers_from_env": {"X-Api-Key": "API_KEY"}, "json": {"audience": AUDIENCE},
        },
        "response": {"token": "/result/jwt", "expiry": {"time": "/result/expires_at"}},
    });
    let mut options = source_cluster::options(cluster, &variables, &json!([assertion]));
    let mut configuration: Value = serde_json::from_str(options.configuration.as_deref().unwrap()).unwrap();
    let destination = configuration["destinations"][0].clone();
    let of_scope = |number| {
        let mut of_scope = destination.clone();
        of_scope["path_prefixes"] = json!([format!("/scope-{number}")]);
        of_scope["scope"] = json!(format!("api://scope-{number}/.default"));
        of_scope
    };
    configuration["destinations"] = (0..SCOPES).map(of_scope).collect();
    (options.configuration, options.concurrency) = (Some(configuration.to_string()), 4);
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let directory = stack.directory();
    service.register(&directory, TENANT_ID, CLIENT_ID).unwrap();
    (0..SCOPES).for_each(|number| directory.register_resource(&format!("api://scope-{number}")));
    service.add_faults([Fault::delay(Duration::from_secs(1))]);
    std::thread::scope(|scope| {
        let send = |number: usize| stack.send(&Request::get(LISTED_HOST, &format!("/scope-{}", number % SCOPES)));
        let sent: Vec<_> = (0..4 * SCOPES).map(|number| scope.spawn(move || send(number).unwrap())).collect();
        for answer in sent {
            assert_eq!(seen_token(&answer.join().unwrap())["appid"], CLIENT_ID, "{}", stack.log());
        }
    });
    assert_eq!(directory.stats().token_requests, SCOPES as u64);
    assert_eq!((service.stats().requests, service.stats().issued), (1, 1));
    assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());
}

/// The cluster of a file, which connects to the fake.
fn adapted(name: &str, server: &Server, ca: &Path) -> Value {
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
    gets_a_token_through(source, cluster, variables, assertion, None);
}

/// Sends two requests, which must get the workload's token with one call to the source. `projected` is the content of the token file.
fn gets_a_token_through(
    source: &impl Source,
    cluster: Value,
    variables: &[(String, String)],
    assertion: Value,
    projected: Option<String>,
) {
    let mut entry = json!({"name": "federated", "cluster": cluster["name"]});
    entry.as_object_mut().unwrap().extend(assertion.as_object().unwrap().clone());
    let mut options = source_cluster::options(cluster, variables, &json!([entry]));
    options.token = projected;
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
