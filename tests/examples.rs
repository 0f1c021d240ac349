//! The examples with an Envoy of their own: Envoy accepts each of them, it differs from the sidecar only in its source, and with a fake of
//! the source it gets the workload's token.
//!
//! `make test-keycloak` and `make test-vault` run two of them with the real server. What no test runs is ignored, and says why.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod caught;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode};

use caught::caught;
use fake_http::Tls;
use fake_sources::{Client, ClientAuth, GitHub, GrantType, Server, Source, TokenEndpoint, Vault};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};
use stack::example::{self, Example, NAMES};
use stack::source_cluster::{self, set_address, set_ca, set_name, set_vault_token};
use stack::{CLIENT_ID, LISTED_HOST, Request, TENANT_ID, document, sidecar};

/// A test, and a sentence that is true if it passes.
type Test = (&'static str, fn());

const ALL: &[Test] = &[
    ("envoy_accepts_the_file_of_each_example", each_is_accepted),
    ("each_example_differs_from_the_sidecar_only_in_its_source", each_is_the_sidecar),
    ("the_commands_of_each_example_are_valid_for_the_shell", commands_are_valid),
    ("the_keycloak_client_of_the_readme_is_that_of_the_realm_with_which_a_real_keycloak_is_tested", keycloak_client),
    ("the_workflow_hands_on_each_variable_that_the_filter_reads", workflow_hands_on_variables),
    ("the_envoy_of_a_github_actions_job_gets_the_workloads_token_from_a_fake_of_github", github_actions),
    ("the_envoy_of_a_machine_gets_the_workloads_token_from_a_fake_of_keycloak", keycloak),
    ("the_envoy_of_a_machine_gets_the_workloads_token_from_a_fake_of_vault", vault),
];

/// What no test can run here, and how to run it.
const NOT_RUN: &[(&str, &str)] = &[(
    "a_job_on_github_gets_a_secret_from_azure",
    "needs GitHub and Azure: follow examples/github-actions/README.md in a repository of your own",
)];

fn main() -> ExitCode {
    let trial = |(name, test): &Test| {
        let test = *test;
        Trial::test(*name, move || caught(test))
    };
    let not_run = |(name, why): &(&str, &'static str)| {
        let why = *why;
        Trial::test(*name, move || Err(why.into())).with_kind("not run").with_ignored_flag(true)
    };
    let trials = ALL.iter().map(trial).chain(NOT_RUN.iter().map(not_run));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// The cluster of the example's source, connected to a server.
fn connect(bootstrap: &mut Value, server: &Server, ca: &Path) {
    let cluster = example::source_cluster(bootstrap).unwrap();
    fs::write(ca, server.ca_pem().unwrap()).unwrap();
    set_ca(cluster, ca);
    set_name(cluster, "localhost").unwrap();
    set_address(cluster, server.addr());
}

fn each_is_accepted() {
    for name in NAMES {
        let folder = tempfile::tempdir().unwrap();
        let (ca, token) = (folder.path().join("ca.pem"), folder.path().join("token"));
        fs::write(&ca, Tls::create("unused", &["localhost"]).unwrap().ca_pem()).unwrap();
        fs::write(&token, "token").unwrap();
        let valid = example::validate(name, |bootstrap| {
            for cluster in bootstrap["static_resources"]["clusters"].as_array_mut().unwrap() {
                set_ca(cluster, &ca);
                if cluster["name"] == "vault" {
                    set_vault_token(cluster, &token, &folder.path().join("secret.yaml")).unwrap();
                }
            }
        });
        valid.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// What an example has in place of the sidecar's parts for the projected token and for managed identity.
struct Difference {
    node: &'static str,
    source: &'static str,
    variables: &'static [&'static str],
}

fn difference(name: &str) -> Difference {
    match name {
        "github-actions" => Difference {
            node: "entra-exchange-github-actions",
            source: "github-actions",
            variables: &["ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"],
        },
        "vm-keycloak" => Difference { node: "entra-exchange-vm", source: "oidc", variables: &["KEYCLOAK_SECRET"] },
        "vm-vault" => Difference { node: "entra-exchange-vm", source: "vault", variables: &[] },
        other => panic!("{other}"),
    }
}

fn each_is_the_sidecar() {
    for name in NAMES {
        let (found, mut expected) = (example::document(name).unwrap(), sidecar::document().unwrap());
        let Difference { node, source, variables } = difference(name);
        document::set(&mut expected, "node.id", node).unwrap();
        expected.as_object_mut().unwrap().shift_remove("bootstrap_extensions");
        let is_kept = |item: &Value, kept: &[&str]| kept.iter().any(|name| item["name"] == *name);
        let resources = &mut expected["static_resources"];
        resources["listeners"].as_array_mut().unwrap().retain(|listener| is_kept(listener, &["outbound"]));
        let clusters = resources["clusters"].as_array_mut().unwrap();
        clusters.retain(|cluster| is_kept(cluster, &["entra", "entra_new_connection", "payments_kv"]));
        clusters.insert(2, source_cluster::read(source).unwrap());
        let hosts =
            "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts";
        let hosts = document::at_mut(&mut expected, hosts).unwrap().as_array_mut().unwrap();
        hosts.retain(|host| is_kept(host, &["listed"]));
        let filter = sidecar::filter(sidecar::OUTBOUND);
        let mut keys = vec!["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_AUTHORITY_HOST"];
        keys.extend(variables);
        let path = format!("{filter}.vm_config.environment_variables.host_env_keys");
        document::set(&mut expected, &path, json!(keys)).unwrap();
        let path = sidecar::configuration_path(sidecar::OUTBOUND);
        let text = document::at_mut(&mut found.clone(), &path).unwrap().clone();
        document::set(&mut expected, &path, text).unwrap();
        assert!(found == expected, "{name}: change it like envoy/sidecar/envoy.yaml or envoy/sources/{source}.yaml");
    }
}

/// The lines of a page's blocks for the shell, without the indentation of the list that they are in.
fn commands(page: &str) -> String {
    let (mut commands, mut indentation) = (String::new(), None);
    for line in page.lines() {
        match (line.trim_start(), indentation) {
            ("```sh", None) => indentation = Some(line.len() - "```sh".len()),
            ("```", Some(_)) => indentation = None,
            (_, Some(indentation)) => commands.extend([line.get(indentation..).unwrap_or_default(), "\n"]),
            _ => {}
        }
    }
    commands
}

fn commands_are_valid() {
    for name in NAMES {
        let page = fs::read_to_string(stack::root().join(format!("examples/{name}/README.md"))).unwrap();
        let commands = commands(&page);
        assert!(!commands.is_empty(), "{name}");
        let checked = Command::new("sh").args(["-n", "-c", &commands]).output().unwrap();
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

fn keycloak_client() {
    let page = fs::read_to_string(stack::root().join("examples/vm-keycloak/README.md")).unwrap();
    let json = page.split("<<'END'\n").nth(1).and_then(|rest| rest.split("   END\n").next()).unwrap();
    let mut documented: Value = serde_json::from_str(json).unwrap();
    let realm = fs::read_to_string(stack::root().join("tests/keycloak/workloads.json")).unwrap();
    let realm: Value = serde_json::from_str(&realm).unwrap();
    let clients = realm["clients"].as_array().unwrap();
    let mut imported = clients.iter().find(|client| client["clientId"] == "payments").unwrap().clone();
    for client in [&mut documented, &mut imported] {
        client.as_object_mut().unwrap().retain(|name, _| !["secret", "description"].contains(&name.as_str()));
    }
    assert_eq!(documented, imported);
}

fn workflow_hands_on_variables() {
    let workflow = document::read("examples/github-actions/workflow.yml").unwrap().remove(0);
    assert_eq!(workflow["permissions"]["id-token"], "write");
    let steps = workflow["jobs"]["deploy"]["steps"].as_array().unwrap();
    let start = steps.iter().find(|step| step["name"] == "Start Envoy").unwrap()["run"].as_str().unwrap();
    for variable in difference("github-actions").variables.iter().chain(&["AZURE_TENANT_ID", "AZURE_CLIENT_ID"]) {
        assert!(start.contains(&format!("--env {variable} ")), "{variable}: {start}");
    }
    for step in steps {
        let Some(commands) = step["run"].as_str() else { continue };
        let checked = Command::new("sh").args(["-n", "-c", commands]).output().unwrap();
        assert!(checked.status.success(), "{step}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// Sends requests as the readme says, and checks that they get the workload's token.
fn gets_a_token(example: &Example, source: &impl Source) {
    source.register(&example.directory(), TENANT_ID, CLIENT_ID).unwrap();
    let answer = example.send(&Request::get(LISTED_HOST, "/secrets/db")).unwrap();
    assert_eq!(answer.status, 200, "{}\n{:?}\n{}", answer.text(), source.stats(), example.log());
    let authorization = answer.seen_header("authorization").unwrap();
    let claims = fake_entra::claims(authorization.strip_prefix("Bearer ").unwrap()).unwrap();
    assert_eq!((&claims["appid"], &claims["aud"]), (&json!(CLIENT_ID), &json!("https://vault.azure.net")));
    // A client that uses Envoy as its HTTP proxy sends the whole URL.
    let mut connection = TcpStream::connect(example.outbound_addr()).unwrap();
    write!(connection, "GET http://{LISTED_HOST}/ HTTP/1.1\r\nhost: {LISTED_HOST}\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&authorization), "{answer}");
    assert_eq!((source.stats().issued, source.stats().rejected), (1, Vec::new()));
    assert!(!example.log().contains("eyJ"), "{}", example.log());
}

fn github_actions() {
    let github = GitHub::new();
    let server = Server::start_tls(&github, &["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let variables = github.variables(&format!("localhost:{}", server.addr().port()));
    let example = Example::start("github-actions", &variables, |bootstrap| {
        connect(bootstrap, &server, &folder.path().join("ca.pem"));
        // The fake has another host than GitHub.
        let configuration = document::at_mut(bootstrap, &sidecar::configuration_path(sidecar::OUTBOUND)).unwrap();
        let mut edited: Value = serde_json::from_str(configuration.as_str().unwrap()).unwrap();
        edited["assertions"][0]["allowed_hosts"] = json!(["localhost"]);
        *configuration = json!(edited.to_string());
    });
    gets_a_token(&example.unwrap_or_else(|error| panic!("{error}")), &github);
}

fn keycloak() {
    let auth = ClientAuth::SecretBasic("s3cret-of-payments".to_owned());
    let endpoint = TokenEndpoint::new(GrantType::ClientCredentials, Client { id: "payments".to_owned(), auth });
    let server = Server::start_tls(&endpoint, &["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let variables = [("KEYCLOAK_SECRET".to_owned(), "s3cret-of-payments".to_owned())];
    let example = Example::start("vm-keycloak", &variables, |bootstrap| {
        connect(bootstrap, &server, &folder.path().join("ca.pem"));
    });
    gets_a_token(&example.unwrap_or_else(|error| panic!("{error}")), &endpoint);
}

fn vault() {
    let vault = Vault::new();
    let server = Server::start_tls(&vault, &["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (token, secret) = (folder.path().join("token"), folder.path().join("secret.yaml"));
    fs::write(&token, vault.token()).unwrap();
    let example = Example::start("vm-vault", &[], |bootstrap| {
        connect(bootstrap, &server, &folder.path().join("ca.pem"));
        set_vault_token(example::source_cluster(bootstrap).unwrap(), &token, &secret).unwrap();
    });
    gets_a_token(&example.unwrap_or_else(|error| panic!("{error}")), &vault);
}
