//! The clusters of `envoy/sources/`: Envoy accepts them, and requests through them reach the fakes as the services demand.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fake_http::Tls;
use fake_sources::{AzurePipelines, ConnectionIssuer, GitHub, Google, Server, Source, Vault};
use serde_json::{Value, json};
use stack::document::{self, at_mut};
use stack::envoy::{self, Launch};
use stack::{Envoy, Request, eventually};
use tempfile::TempDir;

const FOLDER: &str = "envoy/sources";
const CA: &str = "transport_socket.typed_config.common_tls_context.validation_context.trusted_ca.filename";
const NAME: &str =
    "transport_socket.typed_config.common_tls_context.validation_context.match_typed_subject_alt_names[0].matcher";
const ENDPOINT: &str = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address";
const SECRET: &str = "[0].typed_config.credential.typed_config.credential.sds_config.path_config_source";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Makes the HTTP call that the request's headers describe, as a Wasm filter does, and responds with its result.
const LUA: &str = r#"
function envoy_on_request(handle)
  local request, headers = handle:headers(), {}
  for name, value in pairs(request) do
    local sent = string.match(name, "^x%-send%-(.+)$")
    if sent then headers[sent] = value end
  end
  headers[":method"], headers[":path"] = request:get("x-call-method"), request:get("x-call-path")
  headers[":authority"] = request:get("x-call-authority")
  local options = { ["timeout_ms"] = 5000, ["send_xff"] = false }
  local answer, body = handle:httpCall(request:get("x-call-cluster"), headers, "", options)
  handle:respond({ [":status"] = answer[":status"] }, body)
end
"#;

/// The cluster of a file for plain Envoy.
fn cluster(name: &str) -> Value {
    let mut documents = document::read(&format!("{FOLDER}/{name}.yaml")).unwrap();
    let clusters = documents.remove(0);
    let [cluster] = clusters.as_array().unwrap().as_slice() else { panic!("{name}: not one cluster") };
    cluster.clone()
}

fn names(folder: &str) -> Vec<String> {
    let files = fs::read_dir(stack::root().join(folder)).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    let names = files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned());
    names.filter(|name| name != "vault-token").collect()
}

fn bootstrap(clusters: &[Value]) -> Value {
    json!({
        "node": { "id": "test", "cluster": "test" },
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
        "static_resources": {
            "listeners": [{
                "name": "call",
                "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
                "filter_chains": [{ "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "call",
                        "route_config": { "virtual_hosts": [{
                            "name": "call", "domains": ["*"],
                            "routes": [{ "match": { "prefix": "/" }, "direct_response": { "status": 500 } }],
                        }] },
                        "http_filters": [
                            {
                                "name": "envoy.filters.http.lua",
                                "typed_config": {
                                    "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                                    "default_source_code": { "inline_string": LUA },
                                },
                            },
                            {
                                "name": "envoy.filters.http.router",
                                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                            },
                        ],
                    },
                }] }],
            }],
            "clusters": clusters,
        },
    })
}

/// The working files of a test: a CA, and a Vault token with its secret.
struct Files(TempDir);

impl Files {
    fn create() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("ca.pem", Tls::create("unused", &["localhost"]).unwrap().ca_pem());
        fs::create_dir(files.path().join("token-folder")).unwrap();
        let secret = fs::read_to_string(stack::root().join(FOLDER).join("vault-token.yaml")).unwrap();
        let token = files.path().join("token-folder/token").display().to_string();
        assert!(secret.contains("/var/run/vault/token"));
        files.write("vault-token.yaml", &secret.replace("/var/run/vault/token", &token));
        files.rename_token("first");
        files
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path().join(name), content).unwrap();
    }

    /// Replaces the Vault token as Vault Agent does.
    fn rename_token(&self, token: &str) {
        let folder = self.path().join("token-folder");
        fs::write(folder.join(".new"), token).unwrap();
        fs::rename(folder.join(".new"), folder.join("token")).unwrap();
    }

    /// Replaces the paths of a cluster with those of the test.
    fn adapt(&self, mut cluster: Value) -> Value {
        if let Ok(ca) = at_mut(&mut cluster, CA) {
            *ca = json!(self.path().join("ca.pem"));
        }
        if let Some(filters) = cluster["typed_extension_protocol_options"][HTTP_OPTIONS].get_mut("http_filters") {
            *at_mut(filters, SECRET).unwrap() = json!({
                "path": self.path().join("vault-token.yaml"),
                "watched_directory": { "path": self.path().join("token-folder") },
            });
        }
        cluster
    }

    fn launch<'a>(&'a self, binary: &'a Path, bootstrap: &'a Value) -> Launch<'a> {
        Launch {
            binary,
            bootstrap,
            folder: self.path(),
            concurrency: 1,
            environment: &[],
            log_level: "warning",
            listeners: &["call"],
        }
    }
}

/// An Envoy with one of the clusters, connected to a fake.
struct Caller {
    envoy: Envoy,
    cluster: String,
    files: Files,
}

impl Caller {
    /// Starts an Envoy of this version, whose cluster connects to the fake.
    fn start(version: &str, mut cluster: Value, files: Files, server: &Server) -> Self {
        if server.ca_pem().is_some() {
            // The name in the fake's certificate.
            *at_mut(&mut cluster, NAME).unwrap() = json!({ "suffix": "localhost" });
        }
        if let Ok(endpoint) = at_mut(&mut cluster, ENDPOINT) {
            *endpoint = json!({ "address": "127.0.0.1", "port_value": server.addr().port() });
        }
        Self::start_as_is(version, cluster, files, server)
    }

    /// Starts an Envoy with the cluster's own address and name.
    fn start_as_is(version: &str, cluster: Value, files: Files, server: &Server) -> Self {
        if let Some(ca) = server.ca_pem() {
            files.write("ca.pem", ca);
        }
        let name = cluster["name"].as_str().unwrap().to_owned();
        let (bootstrap, binary) = (bootstrap(&[files.adapt(cluster)]), envoy::binary_of(version));
        let envoy = Envoy::start(&files.launch(&binary, &bootstrap)).unwrap_or_else(|error| panic!("{error}"));
        Self { envoy, cluster: name, files }
    }

    fn call(&self, method: &str, authority: &str, target: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let listener: SocketAddr = self.envoy.listener("call").unwrap().expect("the listener has started");
        let request = Request::get("test", "/")
            .header("x-call-cluster", &self.cluster)
            .header("x-call-method", method)
            .header("x-call-authority", authority)
            .header("x-call-path", target);
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(&format!("x-send-{name}"), value));
        let response = request.send(listener).unwrap();
        (response.status, response.text())
    }
}

#[test]
fn envoy_accepts_every_cluster() {
    for version in envoy::VERSIONS {
        for name in names(FOLDER) {
            let files = Files::create();
            let bootstrap = bootstrap(&[files.adapt(cluster(&name))]);
            let valid = files.launch(&envoy::binary_of(version), &bootstrap).validate();
            valid.unwrap_or_else(|error| panic!("{version}: {name}: {error}"));
        }
    }
}

#[test]
fn every_envoy_filter_adds_the_same_cluster() {
    let in_istio = names(&format!("{FOLDER}/istio"));
    for name in names(FOLDER) {
        if name == "github-actions-rendered" {
            // An EnvoyFilter is not rendered for each job.
            continue;
        }
        assert!(in_istio.contains(&name), "{name}");
        let object = document::read(&format!("{FOLDER}/istio/{name}.yaml")).unwrap().remove(0);
        assert_eq!(object["spec"]["configPatches"][0]["patch"]["value"], cluster(&name), "{name}");
    }
}

#[test]
fn a_github_job_gets_its_token_from_the_host_of_its_url() {
    for version in envoy::VERSIONS {
        let github = GitHub::new();
        let server = Server::start_tls(&github, &["localhost"]).unwrap();
        let caller = Caller::start(version, cluster("github-actions"), Files::create(), &server);
        let authority = format!("localhost:{}", server.addr().port());
        let target = format!("{}&audience=api%3A%2F%2FAzureADTokenExchange", github.target());
        let bearer = format!("Bearer {}", github.bearer());

        let (status, body) = caller.call("GET", &authority, &target, &[("authorization", &bearer)]);

        assert_eq!(status, 200, "{version}: {body} {:?}", github.stats());
        assert!(body.contains("\"value\":\"ey"), "{version}");
    }
}

#[test]
fn the_commands_of_the_rendered_cluster_set_the_jobs_host() {
    let path = stack::root().join(FOLDER).join("github-actions-rendered.yaml");
    let text = fs::read_to_string(&path).unwrap();
    // The commands are indented in the comment at the top.
    let commands: String =
        text.lines().filter_map(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect();
    let render = |url: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &commands]).current_dir(path.parent().unwrap());
        shell.env("ACTIONS_ID_TOKEN_REQUEST_URL", url).output().unwrap()
    };
    let [(_, url), _] = GitHub::new().variables(GitHub::HOST);
    let files = Files::create();
    let rendered = files.path().join("rendered.yaml");
    fs::write(&rendered, render(&url).stdout).unwrap();

    let cluster = document::read(rendered.to_str().unwrap()).unwrap()[0][0].clone();
    let (text, mut original) = (cluster.to_string(), cluster.clone());
    assert_eq!((text.matches("JOB_HOST").count(), text.matches(GitHub::HOST).count()), (0, 3), "{text}");
    assert_eq!(*at_mut(&mut original, ENDPOINT).unwrap(), json!({ "address": GitHub::HOST, "port_value": 443 }));
    for elsewhere in ["https://elsewhere.example/x?y", "https://elsewhere.example/.actions.githubusercontent.com"] {
        assert!(!render(elsewhere).status.success(), "{elsewhere}");
    }
    let github = GitHub::new();
    let server = Server::start_tls(&github, &["localhost"]).unwrap();
    let [newest, _] = envoy::VERSIONS;
    let caller = Caller::start(newest, cluster, files, &server);
    let target = format!("{}&audience=api%3A%2F%2FAzureADTokenExchange", github.target());
    let bearer = format!("Bearer {}", github.bearer());
    let (status, body) = caller.call("GET", GitHub::HOST, &target, &[("authorization", &bearer)]);
    assert_eq!(status, 200, "{body} {:?}", github.stats());
}

#[test]
fn a_github_bearer_token_is_not_sent_to_a_server_with_another_certificate() {
    let pinned = cluster("github-actions");
    let mut unpinned = pinned.clone();
    *at_mut(&mut unpinned, NAME).unwrap() = json!({ "suffix": "localhost" });
    for (name, cluster) in [("localhost", pinned), ("other.localhost", unpinned)] {
        let github = GitHub::new();
        let server = Server::start_tls(&github, &[name]).unwrap();
        let [newest, _] = envoy::VERSIONS;
        let caller = Caller::start_as_is(newest, cluster, Files::create(), &server);
        let authority = format!("localhost:{}", server.addr().port());

        let (status, body) = caller.call("GET", &authority, &github.target(), &[("authorization", "Bearer x")]);

        assert_eq!((status, github.stats().requests), (503, 0), "{name}: {body}");
        assert_eq!(caller.envoy.stat("cluster.github.ssl.fail_verify_san").unwrap(), Some(1), "{name}");
    }
}

#[test]
fn an_azure_pipelines_job_gets_its_token() {
    let pipelines = AzurePipelines::new(ConnectionIssuer::AzureDevOps);
    let server = Server::start_tls(&pipelines, &["localhost"]).unwrap();
    let [newest, _] = envoy::VERSIONS;
    let caller = Caller::start(newest, cluster("azure-pipelines"), Files::create(), &server);
    let target = format!("{}?api-version=7.1&serviceConnectionId={}", pipelines.target(), pipelines.connection());
    let bearer = format!("Bearer {}", pipelines.bearer());
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-tfs-fedauthredirect", "Suppress"),
        ("content-type", "application/json"),
    ];

    let (status, body) = caller.call("POST", AzurePipelines::HOST, &target, &headers);

    assert_eq!(status, 200, "{body} {:?}", pipelines.stats());
}

#[test]
fn googles_metadata_server_gets_no_forwarding_header() {
    let google = Google::new();
    let server = Server::start(&google).unwrap();
    for version in envoy::VERSIONS {
        let caller = Caller::start(version, cluster("google-metadata"), Files::create(), &server);
        let target = format!("{}?audience=api%3A%2F%2FAzureADTokenExchange&format=full", google.target());

        let (status, body) = caller.call("GET", Google::HOST, &target, &[("metadata-flavor", "Google")]);

        assert_eq!(status, 200, "{version}: {body} {:?}", google.stats());
    }
}

#[test]
fn envoy_adds_the_vault_token_and_reads_a_renewed_one() {
    for version in envoy::VERSIONS {
        let vault = Vault::new();
        let server = Server::start_tls(&vault, &["localhost"]).unwrap();
        let files = Files::create();
        files.rename_token(&vault.token());
        let caller = Caller::start(version, cluster("vault"), files, &server);
        let call = || caller.call("GET", "vault.example.com", "/v1/identity/oidc/token/payments", &[]);
        assert_eq!(call().0, 200, "{version}: {:?}", vault.stats());

        let renewed = vault.renew_token();
        assert_eq!(call().0, 403, "{version}: {:?}", vault.stats());
        caller.files.rename_token(&renewed);

        assert!(eventually(Duration::from_secs(10), || call().0 == 200), "{version}: {:?}", vault.stats());
    }
}
