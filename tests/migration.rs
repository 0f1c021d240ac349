//! `examples/migrate-from-pod-identity`: what the API server and the sidecar would make of it.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use entra_exchange_core::config::Config;
use serde_json::{Value, json};
use stack::document::at_mut;
use stack::{Options, Request, Stack, sidecar};

const FOLDER: &str = "examples/migrate-from-pod-identity";
/// The tenant of the manifests.
const TENANT: &str = "11111111-1111-4111-8111-111111111111";
/// The files with a sidecar of ours.
const WITH_SIDECAR: [&str; 2] = ["after-variables.yaml", "after-iptables.yaml"];

#[test]
fn every_object_has_what_the_api_server_asks_for() {
    for file in ["before-pod-identity.yaml", "before-azwi.yaml", "after-istio.yaml"].into_iter().chain(WITH_SIDECAR) {
        for object in objects(file) {
            for field in ["apiVersion", "kind"] {
                assert!(object[field].is_string(), "{file}: {field}");
            }
            assert_eq!(object["metadata"]["namespace"], "payments", "{file}");
            if object["kind"] == "Deployment" {
                let (labels, spec) = (&object["spec"]["template"]["metadata"]["labels"], pod(file));
                for (name, value) in object["spec"]["selector"]["matchLabels"].as_object().unwrap() {
                    assert_eq!(labels[name], *value, "{file}: the selector");
                }
                every_mount_has_its_volume(file, &spec);
            }
        }
    }
}

#[test]
fn no_container_is_privileged_and_one_alone_has_a_capability() {
    for file in ["after-variables.yaml", "after-iptables.yaml", "after-istio.yaml"] {
        let pod = pod(file);
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[field].is_null(), "{file}: {field}");
        }
        assert!(pod["volumes"].as_array().into_iter().flatten().all(|volume| volume["hostPath"].is_null()), "{file}");
        for container in list(&pod, "initContainers") {
            let security = &container["securityContext"];
            assert_ne!(security["privileged"], true, "{file}");
            assert_eq!(security["allowPrivilegeEscalation"], false, "{file}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{file}");
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{file}");
            let added = match container["name"].as_str() {
                Some("entra-exchange-redirect") => json!(["NET_ADMIN", "NET_RAW"]),
                _ => {
                    assert_eq!(security["runAsNonRoot"], true, "{file}");
                    Value::Null
                }
            };
            assert_eq!(security["capabilities"]["add"], added, "{file}");
        }
        for container in list(&pod, "containers") {
            assert!(container["securityContext"].is_null(), "{file}: the app is as it was");
        }
    }
    assert_eq!(list(&pod("after-variables.yaml"), "initContainers").len(), 1, "nothing with a capability");
}

#[test]
fn the_sidecar_is_a_native_one_and_stands_first() {
    for file in WITH_SIDECAR {
        let containers = list(&pod(file), "initContainers");
        assert_eq!(containers[0]["name"], "entra-exchange", "{file}");
        assert_eq!(containers[0]["restartPolicy"], "Always", "{file}");
        assert!(containers.iter().skip(1).all(|container| container["restartPolicy"].is_null()), "{file}");
    }
}

#[test]
fn it_brings_what_envoy_yaml_wants() {
    let mut document = sidecar::document().unwrap();
    let filter = at_mut(&mut document, &sidecar::filter(sidecar::MANAGED_IDENTITY)).unwrap().clone();
    let wanted = filter["vm_config"]["environment_variables"]["host_env_keys"].clone();
    let configuration: Value = serde_json::from_str(filter["configuration"]["value"].as_str().unwrap()).unwrap();
    let health = configuration["managed_identity"]["health"]["hosts"][0].clone();
    let health_port = port(&mut document, sidecar::HEALTH);
    let body = at_mut(
        &mut document,
        "static_resources.listeners[projected_token].filter_chains[0].filters[0].typed_config\
         .route_config.virtual_hosts[projected_token].routes[0].direct_response.body",
    )
    .unwrap()
    .clone();

    for file in WITH_SIDECAR {
        let pod = pod(file);
        let container = &list(&pod, "initContainers")[0];
        for name in names(&container["env"]) {
            assert!(wanted.as_array().unwrap().contains(&json!(name)), "{file}: nobody reads {name}");
        }
        for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"] {
            assert!(names(&container["env"]).contains(&name), "{file}: {name}");
        }
        // The token, at its path in a volume that is mounted where Envoy watches.
        let mount = mount_path(container, "federated-token");
        assert_eq!(body["watched_directory"]["path"], mount, "{file}");
        let token = volume(&pod, "federated-token")["projected"]["sources"][0]["serviceAccountToken"].clone();
        assert_eq!(body["filename"], format!("{mount}/{}", token["path"].as_str().unwrap()), "{file}");
        assert_eq!(token["audience"], stack::AUDIENCE, "{file}");
        // The configuration.
        let envoy = format!("{}/envoy.yaml", mount_path(container, "envoy"));
        assert!(container["args"].as_array().unwrap().contains(&json!(envoy)), "{file}");
        // The probes.
        assert_eq!(container["ports"], json!([{"name": "health", "containerPort": health_port}]), "{file}");
        for (probe, path) in [("startupProbe", "/readyz"), ("livenessProbe", "/healthz")] {
            let header = json!({"name": "Host", "value": health});
            let request = json!({"path": path, "port": "health", "httpHeaders": [header]});
            assert_eq!(container[probe]["httpGet"], request, "{file}: {probe}");
        }
    }
}

#[test]
fn the_app_finds_the_sidecar() {
    let mut document = sidecar::document().unwrap();
    let port = port(&mut document, sidecar::MANAGED_IDENTITY);

    let variables = pod("after-variables.yaml");
    let (app, envoy) = (&list(&variables, "containers")[0], &list(&variables, "initContainers")[0]);
    assert_eq!(variable(app, "IDENTITY_ENDPOINT")["value"], format!("http://127.0.0.1:{port}/msi/token"));
    let secret = variable(app, "IDENTITY_HEADER")["valueFrom"].clone();
    assert!(secret["secretKeyRef"]["name"].is_string());
    assert_eq!(variable(envoy, "IDENTITY_HEADER")["valueFrom"], secret, "the two have the same secret");

    let iptables = pod("after-iptables.yaml");
    let [envoy, redirect] = list(&iptables, "initContainers").try_into().unwrap();
    let script = redirect["args"][0].as_str().unwrap().to_owned();
    assert!(script.contains(&format!("-j REDIRECT --to-ports {port}")), "{script}");
    assert!(script.contains(&format!("--uid-owner {} -j RETURN", envoy["securityContext"]["runAsUser"])), "{script}");
    assert!(script.contains(&format!("-d {}/32", stack::IMDS_HOST)), "{script}");
}

#[test]
fn the_federated_token_is_in_the_sidecar_alone() {
    for file in ["after-variables.yaml", "after-iptables.yaml"] {
        let pod = pod(file);
        for container in list(&pod, "initContainers").iter().skip(1).chain(&list(&pod, "containers")) {
            let mounts = names(&container["volumeMounts"]);
            assert!(!mounts.contains(&"federated-token"), "{file}: {}", container["name"]);
        }
    }
    let istio = objects("after-istio.yaml");
    let deployment = istio.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let template = &deployment["spec"]["template"];
    // Istio's own annotations give istio-proxy variables and token, as envoy/istio/workload.yaml has them; the webhook has no part in it.
    let workload = stack::document::read("envoy/istio/workload.yaml").unwrap();
    let workload = workload.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let metadata = &workload["spec"]["template"]["metadata"];
    assert_eq!(template["metadata"]["annotations"], metadata["annotations"]);
    assert_eq!(template["metadata"]["labels"]["entra-exchange"], metadata["labels"]["entra-exchange"]);
    assert!(!template["metadata"].to_string().contains("azure.workload.identity"), "{template}");
    for container in list(&template["spec"], "containers") {
        assert!(container["volumeMounts"].is_null(), "{container}");
    }
}

#[test]
fn istio_takes_imds_for_http_and_the_filter_takes_the_configuration() {
    let istio = objects("after-istio.yaml");
    let entry = &istio.iter().find(|object| object["kind"] == "ServiceEntry").unwrap()["spec"];
    assert_eq!(entry["addresses"], json!([stack::IMDS_HOST]));
    assert_eq!((&entry["resolution"], &entry["ports"][0]["protocol"]), (&json!("NONE"), &json!("HTTP")));

    let configuration = fs::read_to_string(stack::root().join(FOLDER).join("istio.json")).unwrap();
    let options = Options { configuration: Some(configuration), ..Options::default() };
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    let answer = stack.get_imds(path, &[("metadata", "true")]);
    assert_eq!((answer.status, &answer.json()["client_id"]), (200, &json!(stack::CLIENT_ID)));
}

/// Every JSON block of the documents, each with what it is for: a block that is not named here makes the test fail.
#[test]
fn every_json_block_of_the_docs_is_right_for_its_manifest() {
    let filter = stack::document::read("envoy/istio/envoyfilter.yaml").unwrap();
    let patches = filter.iter().filter_map(|object| object["spec"]["configPatches"].as_array()).flatten();
    let extension = patches.map(|patch| &patch["patch"]["value"]["typed_config"]["config"]["configuration"]["value"]);
    let envoyfilter: Value = serde_json::from_str(extension.filter_map(Value::as_str).next().unwrap()).unwrap();
    for file in documents() {
        for (place, block) in json_blocks(&file).into_iter().enumerate() {
            match (file.as_str(), place) {
                ("README.md", 0) => assert_eq!(block, envoyfilter, "{file}"),
                ("docs/azure-services.md", 0) => assert_eq!(block, envoyfilter["destinations"][0], "{file}"),
                // The tables behind them run on the core's own tests.
                ("docs/destinations.md", _) => loads(&file, &block),
                // A refusal: `a_refusal_looks_as_in_the_docs`.
                ("docs/configuration.md", 0) => assert!(block["code"].is_string(), "{file}"),
                // Run with the manifests by the tests below.
                ("docs/migrate.md", 0 | 1) => loads(&file, &block),
                _ => panic!("{file}: block {place} is for no manifest: {block}"),
            }
        }
    }
}

#[test]
fn the_configuration_of_section_3_serves_both_manifests() {
    let configuration = json_blocks("docs/migrate.md").remove(0);
    let edit = |document: &mut Value| sidecar::take_proxy_header(document, sidecar::MANAGED_IDENTITY).unwrap();
    // The tenant that the fake Entra knows.
    let text = configuration.to_string();
    assert!(text.contains(TENANT));
    let options = Options {
        configuration: Some(text.replace(TENANT, stack::TENANT_ID)),
        edit: Some(Box::new(edit)),
        // Nothing but the secret comes from the pod.
        ..Options::default().variable("AZURE_CLIENT_ID", None).variable("AZURE_TENANT_ID", None)
    };
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let identities = configuration["identities"].as_array().unwrap();
    for identity in identities {
        stack.directory().register_credential(stack::credential(identity["client_id"].as_str().unwrap())).unwrap();
    }
    for file in WITH_SIDECAR {
        let pod = pod(file);
        let envoy = &list(&pod, "initContainers")[0];
        for probe in ["startupProbe", "livenessProbe"] {
            let request = &envoy[probe]["httpGet"];
            let host = request["httpHeaders"][0]["value"].as_str().unwrap();
            let answer = stack.send_health(&Request::get(host, request["path"].as_str().unwrap())).unwrap();
            assert_eq!(answer.status, 200, "{file}: {probe}: {}", answer.text());
        }
    }
    for identity in identities {
        let (client_id, resource) =
            (identity["client_id"].as_str().unwrap(), identity["resources"][0].as_str().unwrap());
        let query = format!("resource={resource}&client_id={client_id}");
        // As after-variables.yaml has the app call, and as after-iptables.yaml.
        for (called, host, target, header) in [
            (
                "127.0.0.1 50000 15002",
                "127.0.0.1:15002",
                format!("/msi/token?api-version=2019-08-01&{query}"),
                format!("X-IDENTITY-HEADER: {}", stack::IDENTITY_HEADER),
            ),
            (
                "169.254.169.254 50000 80",
                stack::IMDS_HOST,
                format!("/metadata/identity/oauth2/token?api-version=2018-02-01&{query}"),
                "Metadata: true".to_owned(),
            ),
        ] {
            let answer = send(&stack, called, host, &target, &header);
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("access_token"), "{target}: {answer}");
            assert!(answer.contains(client_id), "{target}: {answer}");
        }
    }
    assert_eq!(stack.upstream.requests(), 0);
}

#[test]
fn the_configuration_of_section_4_leaves_token_requests_to_the_node_on_the_shipped_file() {
    let configuration = json_blocks("docs/migrate.md").remove(1);
    let edit = |document: &mut Value| sidecar::take_proxy_header(document, sidecar::MANAGED_IDENTITY).unwrap();
    let options =
        Options { configuration: Some(configuration.to_string()), edit: Some(Box::new(edit)), ..Options::default() };
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let target = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    let answer = send(&stack, "169.254.169.254 50000 80", stack::IMDS_HOST, target, "Metadata: true");
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("access_token"), "the node answers: {answer}");
    assert_eq!(stack.upstream.requests(), 1);
    let issued = || stack.log().contains("event=exchange outcome=issued");
    assert!(
        stack::eventually(Duration::from_secs(5), issued),
        "and the log says what would have been: {}",
        stack.log()
    );
}

#[test]
fn a_refusal_looks_as_in_the_docs() {
    let told = json_blocks("docs/configuration.md").remove(0);
    let issuer = fake_entra::Issuer::new(stack::ISSUER_URL);
    let token = issuer.service_account_token(
        "other",
        "other",
        stack::AUDIENCE,
        std::time::SystemTime::now(),
        stack::TOKEN_LIFE,
    );
    let stack = Stack::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
    stack.directory().trust_issuer(stack::ISSUER_URL, issuer.jwks());
    stack.rotate_token_with(&token).unwrap();
    // Until Envoy has noticed the new file: each of these asks for another token, so none of the old federated token's is kept.
    let mut number = 0;
    let noticed = stack::eventually(Duration::from_secs(10), || {
        number += 1;
        let resource = format!("https://nobody-registered-{number}.example");
        let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
        let request = stack::Request::get(stack::IMDS_HOST, &path).header("metadata", "true");
        let answer = stack.send_imds(&request).unwrap().text();
        std::thread::sleep(Duration::from_millis(400));
        answer.contains(told["aadsts"].as_str().unwrap())
    });
    assert!(noticed, "the new federated token is not read");
    let refusal = stack.get(stack::LISTED_HOST, "/", &[]);
    assert_eq!(json!(refusal.status), told["status"]);
    let seen = refusal.json();
    let names = |block: &Value| block.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&seen), names(&told));
    for field in ["type", "title", "status", "code", "identity", "scope", "aadsts"] {
        assert_eq!(seen[field], told[field], "{field}");
    }
}

/// The answer to a GET over a connection that was made to this address, as a PROXY header says it.
fn send(stack: &Stack, called: &str, host: &str, target: &str, header: &str) -> String {
    let request = format!(
        "PROXY TCP4 127.0.0.1 {called}\r\nGET {target} HTTP/1.1\r\nHost: {host}\r\n{header}\r\nConnection: close\r\n\r\n"
    );
    stack::client::send_bytes(stack.imds_addr(), request.as_bytes()).unwrap()
}

fn loads(file: &str, configuration: &Value) {
    let variable = |_: &str| Some(stack::TENANT_ID.to_owned());
    let loaded = Config::parse(configuration.to_string().as_bytes(), &variable);
    assert!(loaded.is_ok(), "{file}: {}", loaded.unwrap_err());
}

/// The documents of the repository.
fn documents() -> Vec<String> {
    let folder = |folder: &str| {
        let files = fs::read_dir(stack::root().join(folder)).unwrap().map(|file| file.unwrap().file_name());
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        files.map(move |name| format!("{prefix}{}", name.into_string().unwrap())).collect::<Vec<_>>()
    };
    let files = ["", "docs", FOLDER, "examples/fleet"].map(folder).concat();
    files.into_iter().filter(|file| file.ends_with(".md")).collect()
}

/// The blocks of JSON in a document.
fn json_blocks(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(stack::root().join(file)).unwrap();
    let blocks = text.split("\n```json\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("\n```").next().unwrap());
    blocks.map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{file}: {error}: {block}"))).collect()
}

/// The objects in a file.
fn objects(file: &str) -> Vec<Value> {
    stack::document::read(&format!("{FOLDER}/{file}")).unwrap_or_else(|error| panic!("{error}"))
}

/// What its Deployment says of the Pod.
fn pod(file: &str) -> Value {
    let objects = objects(file);
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    deployment["spec"]["template"]["spec"].clone()
}

fn every_mount_has_its_volume(file: &str, pod: &Value) {
    for container in list(pod, "initContainers").iter().chain(&list(pod, "containers")) {
        for name in names(&container["volumeMounts"]) {
            assert!(names(&pod["volumes"]).contains(&name), "{file}: there is no volume {name}");
        }
    }
}

fn list(of: &Value, field: &str) -> Vec<Value> {
    of[field].as_array().cloned().unwrap_or_default()
}

/// The field `name` of each.
fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|one| one["name"].as_str().unwrap()).collect()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().into_iter().flatten().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {name}"))
}

fn variable<'a>(container: &'a Value, name: &str) -> &'a Value {
    named(&container["env"], name)
}

fn volume<'a>(pod: &'a Value, name: &str) -> &'a Value {
    named(&pod["volumes"], name)
}

fn mount_path<'a>(container: &'a Value, name: &str) -> &'a str {
    named(&container["volumeMounts"], name)["mountPath"].as_str().unwrap()
}

fn port(document: &mut Value, listener: &str) -> u64 {
    let path = format!("static_resources.listeners[{listener}].address.socket_address.port_value");
    at_mut(document, &path).unwrap().as_u64().unwrap()
}
