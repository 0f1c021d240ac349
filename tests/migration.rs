//! `examples/migrate-from-pod-identity`: what the API server and the sidecar would make of it.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;

use serde_json::{Value, json};
use stack::document::at_mut;
use stack::{Options, Stack, sidecar};

const FOLDER: &str = "examples/migrate-from-pod-identity";
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
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["azure.workload.identity/skip-containers"], "app");
}

#[test]
fn istio_takes_imds_for_http_and_the_filter_takes_the_configuration() {
    let istio = objects("after-istio.yaml");
    let entry = &istio.iter().find(|object| object["kind"] == "ServiceEntry").unwrap()["spec"];
    assert_eq!(entry["addresses"], json!([stack::IMDS_HOST]));
    assert_eq!(entry["endpoints"], json!([{"address": stack::IMDS_HOST}]));
    assert_eq!((&entry["resolution"], &entry["ports"][0]["protocol"]), (&json!("STATIC"), &json!("HTTP")));

    let configuration = fs::read_to_string(stack::root().join(FOLDER).join("istio.json")).unwrap();
    let options = Options { configuration: Some(configuration), ..Options::default() };
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    let answer = stack.get_imds(path, &[("metadata", "true")]);
    assert_eq!((answer.status, &answer.json()["client_id"]), (200, &json!(stack::CLIENT_ID)));
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
