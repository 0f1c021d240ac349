//! The clusters of `envoy/sources/`: Envoy accepts them, and requests through them reach the fakes as the services demand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fake_http::Tls;
use fake_sources::{AzurePipelines, ConnectionIssuer, GitHub, Google, Server, Source, Vault};
use serde_json::Value;
use stack::source_cluster::{
    Caller, FOLDER, read, set_address, set_ca, set_name, set_vault_token, set_watched_ca, validate,
};
use stack::{Layout, Request, TokenDirectory, document, envoy, eventually};
use tempfile::TempDir;

fn names(folder: &str) -> Vec<String> {
    let files = fs::read_dir(stack::root().join(folder)).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    let names = files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned());
    names.filter(|name| !["vault-token", "aks-token-proxy-ca"].contains(&name.as_str())).collect()
}

/// The working files of a test: a CA, and a Vault token with its secret.
struct Files(TempDir);

impl Files {
    fn create() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::write(files.ca(), Tls::create("unused", &["localhost"]).unwrap().ca_pem()).unwrap();
        fs::create_dir(files.path().join("token-folder")).unwrap();
        files.rename_token("first");
        files
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn ca(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    fn token(&self) -> PathBuf {
        self.path().join("token-folder/token")
    }

    /// Replaces the Vault token as Vault Agent does.
    fn rename_token(&self, token: &str) {
        let new = self.token().with_extension("new");
        fs::write(&new, token).unwrap();
        fs::rename(new, self.token()).unwrap();
    }

    /// Replaces the paths of a cluster with those of the test.
    fn adapt(&self, cluster: &mut Value) {
        set_ca(cluster, &self.ca());
        if cluster.to_string().contains("combined_validation_context") {
            let ca = fs::read_to_string(self.ca()).unwrap();
            let volume = TokenDirectory::create(self.path().join("volume"), Layout::default(), &ca).unwrap();
            set_watched_ca(cluster, &volume, &self.path().join("ca.yaml")).unwrap();
        }
        if cluster.to_string().contains("credential_injector") {
            set_vault_token(cluster, &self.token(), &self.path().join("vault-token.yaml")).unwrap();
        }
    }

    /// Starts an Envoy of this version, whose cluster connects to the fake.
    fn caller(&self, version: &str, mut cluster: Value, server: &Server) -> Caller {
        self.adapt(&mut cluster);
        set_address(&mut cluster, server.addr());
        if let Some(ca) = server.ca_pem() {
            fs::write(self.ca(), ca).unwrap();
        }
        Caller::start(&envoy::binary_of(version), &cluster).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// The cluster of a file, for a server whose certificate has the name `localhost`.
fn for_localhost(name: &str) -> Value {
    let mut cluster = read(name).unwrap();
    set_name(&mut cluster, "localhost").unwrap();
    cluster
}

fn github_request(github: &GitHub, authority: &str) -> Request {
    let target = format!("{}&audience=api%3A%2F%2FAzureADTokenExchange", github.target());
    Request::get(authority, &target).header("authorization", format!("Bearer {}", github.bearer()))
}

#[test]
fn envoy_accepts_every_cluster() {
    for version in envoy::VERSIONS {
        for name in names(FOLDER) {
            let mut cluster = read(&name).unwrap();
            let files = Files::create();
            files.adapt(&mut cluster);
            let valid = validate(&envoy::binary_of(version), &cluster);
            valid.unwrap_or_else(|error| panic!("{version}: {name}: {error}"));
        }
    }
}

#[test]
fn every_envoy_filter_adds_the_same_cluster() {
    let in_istio = names(&format!("{FOLDER}/istio"));
    for name in names(FOLDER) {
        if ["github-actions-rendered", "azure-app-service"].contains(&name.as_str()) {
            // An EnvoyFilter is not rendered for each job, and App Service has no sidecars of Istio.
            continue;
        }
        assert!(in_istio.contains(&name), "{name}");
        let object = document::read(&format!("{FOLDER}/istio/{name}.yaml")).unwrap().remove(0);
        assert_eq!(object["spec"]["configPatches"][0]["patch"]["value"], read(&name).unwrap(), "{name}");
    }
}

#[test]
fn a_github_job_gets_its_token_from_the_host_of_its_url() {
    for version in envoy::VERSIONS {
        let github = GitHub::new();
        let server = Server::start_tls(&github, &["localhost"]).unwrap();
        let files = Files::create();
        let caller = files.caller(version, for_localhost("github-actions"), &server);
        let authority = format!("localhost:{}", server.addr().port());

        let response = caller.call(&github_request(&github, &authority)).unwrap();

        assert_eq!(response.status, 200, "{version}: {} {:?}", response.text(), github.stats());
        assert!(response.text().contains("\"value\":\"ey"), "{version}");
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
    for elsewhere in ["https://elsewhere.example/x?y", "https://elsewhere.example/.actions.githubusercontent.com"] {
        assert!(!render(elsewhere).status.success(), "{elsewhere}");
    }
    let github = GitHub::new();
    let [(_, url), _] = github.variables(GitHub::HOST);
    let files = Files::create();
    let rendered = files.path().join("rendered.yaml");
    fs::write(&rendered, render(&url).stdout).unwrap();
    let mut cluster = document::read(rendered.to_str().unwrap()).unwrap()[0][0].clone();
    let text = cluster.to_string();
    // In the address, the SNI and the name to verify.
    assert_eq!((text.matches("JOB_HOST").count(), text.matches(GitHub::HOST).count()), (0, 3), "{text}");

    set_name(&mut cluster, "localhost").unwrap();
    let server = Server::start_tls(&github, &["localhost"]).unwrap();
    let [newest, _] = envoy::VERSIONS;
    let caller = files.caller(newest, cluster, &server);
    let response = caller.call(&github_request(&github, GitHub::HOST)).unwrap();
    assert_eq!(response.status, 200, "{} {:?}", response.text(), github.stats());
}

#[test]
fn a_github_bearer_token_is_not_sent_to_a_server_with_another_certificate() {
    let pinned = read("github-actions").unwrap();
    for (name, cluster) in [("localhost", pinned), ("other.example", for_localhost("github-actions"))] {
        let github = GitHub::new();
        let server = Server::start_tls(&github, &[name]).unwrap();
        let files = Files::create();
        let [newest, _] = envoy::VERSIONS;
        let caller = files.caller(newest, cluster, &server);
        let authority = format!("localhost:{}", server.addr().port());

        let response = caller.call(&github_request(&github, &authority)).unwrap();

        assert_eq!((response.status, github.stats().requests), (503, 0), "{name}: {}", response.text());
        assert_eq!(caller.envoy.stat("cluster.github.ssl.fail_verify_san").unwrap(), Some(1), "{name}");
    }
}

#[test]
fn an_azure_pipelines_job_gets_its_token() {
    let pipelines = AzurePipelines::new(ConnectionIssuer::AzureDevOps);
    let server = Server::start_tls(&pipelines, &["localhost"]).unwrap();
    let files = Files::create();
    let [newest, _] = envoy::VERSIONS;
    let caller = files.caller(newest, for_localhost("azure-pipelines"), &server);
    let target = format!("{}?api-version=7.1&serviceConnectionId={}", pipelines.target(), pipelines.connection());
    let request = Request::post(AzurePipelines::HOST, &target, "")
        .header("authorization", format!("Bearer {}", pipelines.bearer()))
        .header("x-tfs-fedauthredirect", "Suppress")
        .header("content-type", "application/json");

    let response = caller.call(&request).unwrap();

    assert_eq!(response.status, 200, "{} {:?}", response.text(), pipelines.stats());
}

#[test]
fn googles_metadata_server_gets_no_forwarding_header() {
    for version in envoy::VERSIONS {
        let google = Google::new();
        let server = Server::start(&google).unwrap();
        let files = Files::create();
        let caller = files.caller(version, read("google-metadata").unwrap(), &server);
        let target = format!("{}?audience=api%3A%2F%2FAzureADTokenExchange&format=full", google.target());

        let response = caller.call(&Request::get(Google::HOST, &target).header("metadata-flavor", "Google")).unwrap();

        assert_eq!(response.status, 200, "{version}: {} {:?}", response.text(), google.stats());
    }
}

#[test]
fn envoy_adds_the_vault_token_and_reads_a_renewed_one() {
    for version in envoy::VERSIONS {
        let vault = Vault::new();
        let server = Server::start_tls(&vault, &["localhost"]).unwrap();
        let files = Files::create();
        files.rename_token(&vault.token());
        let caller = files.caller(version, for_localhost("vault"), &server);
        let request = Request::get("vault.example.com", "/v1/identity/oidc/token/payments");
        let status = || caller.call(&request).unwrap().status;
        assert_eq!(status(), 200, "{version}: {:?}", vault.stats());

        let renewed = vault.renew_token();
        assert_eq!(status(), 403, "{version}: {:?}", vault.stats());
        files.rename_token(&renewed);

        assert!(eventually(Duration::from_secs(10), || status() == 200), "{version}: {:?}", vault.stats());
    }
}
