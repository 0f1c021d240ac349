//! Tests that the API server and the sidecar accept the manifests in `examples/migrate-from-pod-identity`.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use entra_exchange_core::config::Config;
use serde_json::{Value, json};
use stack::document::at_mut;
use stack::{Options, Request, Stack, sidecar};

const FOLDER: &str = "examples/migrate-from-pod-identity";
/// The tenant in the manifests.
const TENANT: &str = "11111111-1111-4111-8111-111111111111";
/// The manifests with the sidecar of this repository.
const WITH_SIDECAR: [&str; 2] = ["after-variables.yaml", "after-iptables.yaml"];

#[test]
fn every_object_has_the_fields_that_the_api_server_requires() {
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
fn no_container_is_privileged_and_only_one_has_capabilities() {
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
            assert!(container["securityContext"].is_null(), "{file}: the app is unchanged");
        }
    }
    assert_eq!(list(&pod("after-variables.yaml"), "initContainers").len(), 1, "no container with a capability");
}

#[test]
fn the_sidecar_is_a_native_sidecar_and_the_first_init_container() {
    for file in WITH_SIDECAR {
        let containers = list(&pod(file), "initContainers");
        assert_eq!(containers[0]["name"], "entra-exchange", "{file}");
        assert_eq!(containers[0]["restartPolicy"], "Always", "{file}");
        assert!(containers.iter().skip(1).all(|container| container["restartPolicy"].is_null()), "{file}");
    }
}

#[test]
fn the_sidecar_has_what_envoy_yaml_requires() {
    let mut document = sidecar::document().unwrap();
    let filter = at_mut(&mut document, &sidecar::filter(sidecar::MANAGED_IDENTITY)).unwrap().clone();
    let allowed = filter["vm_config"]["environment_variables"]["host_env_keys"].clone();
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
            assert!(
                allowed.as_array().unwrap().contains(&json!(name)),
                "{file}: envoy.yaml does not pass {name} to the filter"
            );
        }
        for name in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"] {
            assert!(names(&container["env"]).contains(&name), "{file}: {name}");
        }
        // The token file is in a volume that is mounted at Envoy's `watched_directory`.
        let mount = mount_path(container, "federated-token");
        assert_eq!(body["watched_directory"]["path"], mount, "{file}");
        let token = volume(&pod, "federated-token")["projected"]["sources"][0]["serviceAccountToken"].clone();
        assert_eq!(body["filename"], format!("{mount}/{}", token["path"].as_str().unwrap()), "{file}");
        assert_eq!(token["audience"], stack::AUDIENCE, "{file}");
        // Envoy reads the mounted configuration.
        let envoy = format!("{}/envoy.yaml", mount_path(container, "envoy"));
        assert!(container["args"].as_array().unwrap().contains(&json!(envoy)), "{file}");
        // The probes match the health listener.
        assert_eq!(container["ports"], json!([{"name": "health", "containerPort": health_port}]), "{file}");
        for (probe, path) in [("startupProbe", "/readyz"), ("livenessProbe", "/healthz")] {
            let header = json!({"name": "Host", "value": health});
            let request = json!({"path": path, "port": "health", "httpHeaders": [header]});
            assert_eq!(container[probe]["httpGet"], request, "{file}: {probe}");
        }
    }
}

#[test]
fn the_apps_requests_reach_the_sidecar() {
    let mut document = sidecar::document().unwrap();
    let port = port(&mut document, sidecar::MANAGED_IDENTITY);

    let variables = pod("after-variables.yaml");
    let (app, envoy) = (&list(&variables, "containers")[0], &list(&variables, "initContainers")[0]);
    assert_eq!(variable(app, "IDENTITY_ENDPOINT")["value"], format!("http://127.0.0.1:{port}/msi/token"));
    let secret = variable(app, "IDENTITY_HEADER")["valueFrom"].clone();
    assert!(secret["secretKeyRef"]["name"].is_string());
    assert_eq!(variable(envoy, "IDENTITY_HEADER")["valueFrom"], secret, "app and sidecar have the same secret");

    let iptables = pod("after-iptables.yaml");
    let [envoy, redirect] = list(&iptables, "initContainers").try_into().unwrap();
    let script = redirect["args"][0].as_str().unwrap().to_owned();
    assert!(script.contains(&format!("-j REDIRECT --to-ports {port}")), "{script}");
    assert!(script.contains(&format!("--uid-owner {} -j RETURN", envoy["securityContext"]["runAsUser"])), "{script}");
    assert!(script.contains(&format!("-d {}/32", stack::IMDS_HOST)), "{script}");
}

#[test]
fn only_the_sidecar_has_the_federated_token() {
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
    // Istio's annotations give istio-proxy the variables and the token, as in envoy/istio/workload.yaml, without the webhook.
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
fn istio_treats_imds_as_http_and_the_filter_accepts_the_configuration() {
    let istio = objects("after-istio.yaml");
    let entry = &istio.iter().find(|object| object["kind"] == "ServiceEntry").unwrap()["spec"];
    assert_eq!(entry["addresses"], json!([stack::IMDS_HOST]));
    assert_eq!((&entry["resolution"], &entry["ports"][0]["protocol"]), (&json!("NONE"), &json!("HTTP")));

    let configuration = fs::read_to_string(stack::root().join(FOLDER).join("istio.json")).unwrap();
    let options = Options { configuration: Some(configuration), ..Options::default() };
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    let response = stack.get_imds(path, &[("metadata", "true")]);
    assert_eq!((response.status, &response.json()["client_id"]), (200, &json!(stack::CLIENT_ID)));
}

/// Checks every JSON block of the documents against its purpose. A block without an entry here fails the test.
#[test]
fn every_json_block_of_the_docs_is_valid_for_its_manifest() {
    let filter = stack::document::read("envoy/istio/envoyfilter.yaml").unwrap();
    let patches = filter.iter().filter_map(|object| object["spec"]["configPatches"].as_array()).flatten();
    let extension = patches.map(|patch| &patch["patch"]["value"]["typed_config"]["config"]["configuration"]["value"]);
    let envoyfilter: Value = serde_json::from_str(extension.filter_map(Value::as_str).next().unwrap()).unwrap();
    for file in documents() {
        for (index, block) in json_blocks(&file).into_iter().enumerate() {
            match (file.as_str(), index) {
                ("README.md", 0) => assert_eq!(block, envoyfilter, "{file}"),
                ("docs/azure-services.md", 0) => assert_eq!(block, envoyfilter["destinations"][0], "{file}"),
                // The core's tests run the tables of these blocks.
                ("docs/destinations.md", _) => assert_loads(&file, &block),
                // Checked by `a_rejected_exchange_returns_the_problem_of_the_docs`.
                ("docs/configuration.md", 0) => assert!(block["code"].is_string(), "{file}"),
                // Run with the manifests by the tests below.
                ("docs/migrate.md", 0 | 1) => assert_loads(&file, &block),
                _ => panic!("{file}: block {index} has no entry in this test: {block}"),
            }
        }
    }
}

#[test]
fn the_configuration_of_section_3_works_with_both_manifests() {
    let configuration = json_blocks("docs/migrate.md").remove(0);
    let edit = |document: &mut Value| sidecar::accept_proxy_protocol(document, sidecar::MANAGED_IDENTITY).unwrap();
    // The tenant that is registered in the fake Entra.
    let text = configuration.to_string();
    assert!(text.contains(TENANT));
    let options = Options {
        configuration: Some(text.replace(TENANT, stack::TENANT_ID)),
        edit: Some(Box::new(edit)),
        // Only the secret comes from the pod's environment.
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
            let response = stack.send_health(&Request::get(host, request["path"].as_str().unwrap())).unwrap();
            assert_eq!(response.status, 200, "{file}: {probe}: {}", response.text());
        }
    }
    for identity in identities {
        let (client_id, resource) =
            (identity["client_id"].as_str().unwrap(), identity["resources"][0].as_str().unwrap());
        let query = format!("resource={resource}&client_id={client_id}");
        // The requests of an app in after-variables.yaml and in after-iptables.yaml.
        for (destination, host, target, header) in [
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
            let response = send(&stack, destination, host, &target, &header);
            assert!(response.starts_with("HTTP/1.1 200") && response.contains("access_token"), "{target}: {response}");
            assert!(response.contains(client_id), "{target}: {response}");
        }
    }
    assert_eq!(stack.upstream.requests(), 0);
}

#[test]
fn the_configuration_of_section_4_forwards_token_requests_to_the_node_with_the_shipped_file() {
    let configuration = json_blocks("docs/migrate.md").remove(1);
    let edit = |document: &mut Value| sidecar::accept_proxy_protocol(document, sidecar::MANAGED_IDENTITY).unwrap();
    let options =
        Options { configuration: Some(configuration.to_string()), edit: Some(Box::new(edit)), ..Options::default() };
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let target = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    let response = send(&stack, "169.254.169.254 50000 80", stack::IMDS_HOST, target, "Metadata: true");
    assert!(
        response.starts_with("HTTP/1.1 200") && !response.contains("access_token"),
        "the node must respond: {response}"
    );
    assert_eq!(stack.upstream.requests(), 1);
    let issued = || stack.log().contains("event=exchange outcome=issued");
    assert!(
        stack::eventually(Duration::from_secs(5), issued),
        "the log must have the result of the exchange: {}",
        stack.log()
    );
}

#[test]
fn a_rejected_exchange_returns_the_problem_of_the_docs() {
    let documented = json_blocks("docs/configuration.md").remove(0);
    let issuer = fake_entra::Issuer::new(stack::ISSUER_URL);
    let token = issuer.service_account_token(
        "other",
        "other",
        stack::AUDIENCE,
        std::time::SystemTime::now(),
        stack::TOKEN_LIFETIME,
    );
    let stack = Stack::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
    stack.directory().trust_issuer(stack::ISSUER_URL, issuer.jwks());
    stack.rotate_token_with(&token).unwrap();
    // Wait until Envoy reads the new file. Each request is for another resource, so that no cached token is returned.
    let mut number = 0;
    let is_read = stack::eventually(Duration::from_secs(10), || {
        number += 1;
        let resource = format!("https://unregistered-{number}.example");
        let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
        let request = stack::Request::get(stack::IMDS_HOST, &path).header("metadata", "true");
        let response = stack.send_imds(&request).unwrap().text();
        std::thread::sleep(Duration::from_millis(400));
        response.contains(documented["aadsts"].as_str().unwrap())
    });
    assert!(is_read, "Envoy has not read the new federated token");
    let rejected = stack.get(stack::LISTED_HOST, "/", &[]);
    assert_eq!(json!(rejected.status), documented["status"]);
    let problem = rejected.json();
    let names = |block: &Value| block.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&problem), names(&documented));
    for field in ["type", "title", "status", "code", "identity", "scope", "aadsts"] {
        assert_eq!(problem[field], documented[field], "{field}");
    }
}

/// Sends a GET over a connection whose PROXY header has this destination, and returns the response.
fn send(stack: &Stack, destination: &str, host: &str, target: &str, header: &str) -> String {
    let request = format!(
        "PROXY TCP4 127.0.0.1 {destination}\r\nGET {target} HTTP/1.1\r\nHost: {host}\r\n{header}\r\nConnection: close\r\n\r\n"
    );
    stack::client::send_bytes(stack.imds_addr(), request.as_bytes()).unwrap()
}

fn assert_loads(file: &str, configuration: &Value) {
    let variable = |_: &str| Some(stack::TENANT_ID.to_owned());
    let loaded = Config::parse(configuration.to_string().as_bytes(), &variable);
    assert!(loaded.is_ok(), "{file}: {}", loaded.unwrap_err());
}

/// Returns the Markdown files of the repository.
fn documents() -> Vec<String> {
    let folder = |folder: &str| {
        let files = fs::read_dir(stack::root().join(folder)).unwrap().map(|file| file.unwrap().file_name());
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        files.map(move |name| format!("{prefix}{}", name.into_string().unwrap())).collect::<Vec<_>>()
    };
    let files = ["", "docs", FOLDER, "examples/fleet"].map(folder).concat();
    files.into_iter().filter(|file| file.ends_with(".md")).collect()
}

/// Returns the JSON blocks of a document.
fn json_blocks(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(stack::root().join(file)).unwrap();
    let blocks = text.split("\n```json\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("\n```").next().unwrap());
    blocks.map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{file}: {error}: {block}"))).collect()
}

/// Returns the objects in a manifest.
fn objects(file: &str) -> Vec<Value> {
    stack::document::read(&format!("{FOLDER}/{file}")).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the pod spec of a manifest's Deployment.
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

/// Returns the field `name` of each element.
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
