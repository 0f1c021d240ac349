//! Checks of the objects in the manifests that no request can show.

use std::fs;

use entra_exchange_core::broker::Limits;
use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{AUDIENCE, sidecar};

use crate::form::{TOKEN_BODY, form_cluster, upstream_options};
use crate::manifest::{
    FOLDER, GATEWAY, RBAC, SIDECAR, TRAFFIC_EXTENSION, WASM, WASM_PLUGIN, WORKLOAD, files, manifest,
};

/// The types that the manifests may use. Istio builds Envoy with a subset of the extensions, which lacks `envoy.formatter.file_content`,
/// the `generic_secret` of the credential injector and `file_server`, among others.
const TYPES_IN_ISTIO: [&str; 10] = [
    RBAC,
    WASM,
    "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    // Parts of the router.
    "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
    "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    // Not extensions.
    "type.googleapis.com/envoy.config.route.v3.FilterConfig",
    "type.googleapis.com/google.protobuf.StringValue",
];

#[test]
fn the_connection_to_the_upstream_uses_tls_and_verifies_the_servers_name() {
    for (file, port) in [
        (SIDECAR, json!({"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 443})),
        (GATEWAY, json!({"number": 443, "name": "https", "protocol": "HTTPS"})),
    ] {
        let manifest = manifest(file);
        let entry = manifest.object("ServiceEntry");
        assert!(entry["spec"]["ports"].as_array().unwrap().contains(&port), "{file}");
        // With any further field, such as `sni`, Istio verifies the name only if `subjectAltNames` is set, too.
        let settings = json!([{"port": {"number": port["number"]}, "tls": {"mode": "SIMPLE"}, "connectionPool": connection_pool()}]);
        for host in entry["spec"]["hosts"].as_array().unwrap() {
            let rule = manifest.objects("DestinationRule").into_iter().find(|rule| rule["spec"]["host"] == *host);
            let rule = rule.unwrap_or_else(|| panic!("{file}: {host} has no DestinationRule"));
            assert_eq!(rule["spec"]["trafficPolicy"]["portLevelSettings"], settings, "{file}");
            assert_eq!(rule["spec"]["exportTo"], json!(["."]), "{file}");
        }
        assert_eq!(
            form_cluster(file),
            format!("outbound|{}||{}", port["number"], entry["spec"]["hosts"][0].as_str().unwrap())
        );
    }
    let sidecar = manifest(SIDECAR);
    let port = &sidecar.object("ServiceEntry")["spec"]["ports"][0]["number"];
    for patch in ["HTTP_FILTER", "NETWORK_FILTER"] {
        assert_eq!(sidecar.patch(patch)["match"]["listener"]["portNumber"], *port);
    }
    let gateway = manifest(GATEWAY);
    let server = &gateway.object("Gateway")["spec"]["servers"][0];
    for patch in ["HTTP_FILTER", "NETWORK_FILTER"] {
        assert_eq!(gateway.patch(patch)["match"]["listener"]["portNumber"], server["port"]["number"]);
    }
    assert_eq!(server["tls"], json!({"mode": "ISTIO_MUTUAL"}), "the client must present a certificate");
    assert_eq!(gateway.object("AuthorizationPolicy")["spec"]["action"], "ALLOW");
}

/// The circuit breakers of the plain sidecar's cluster, as an Istio `connectionPool`.
fn connection_pool() -> Value {
    let mut plain = sidecar::document().unwrap();
    let thresholds = "static_resources.clusters[payments_kv].circuit_breakers.thresholds[0]";
    let thresholds = at_mut(&mut plain, thresholds).unwrap().take();
    let waiting_in_two_workers = 2 * Limits::default().waiting;
    assert_eq!(thresholds["max_pending_requests"], waiting_in_two_workers);
    assert_eq!(thresholds["max_requests"], waiting_in_two_workers);
    json!({
        "tcp": {"maxConnections": thresholds["max_connections"]},
        "http": {
            "http1MaxPendingRequests": thresholds["max_pending_requests"],
            "http2MaxRequests": thresholds["max_requests"],
        },
    })
}

#[test]
fn istios_envoy_contains_every_extension_that_the_manifests_use() {
    for name in files() {
        for document in manifest(&name).0 {
            let mut types = Vec::new();
            collect_types(&document, &mut types);
            for found in types {
                assert!(TYPES_IN_ISTIO.contains(&found.as_str()), "{name}: {found}");
            }
            // Upstream Envoy has this formatter built in, so that it needs no `@type`; Istio's Envoy does not contain it.
            assert!(!document.to_string().contains("%FILE_CONTENT"), "{name}: FILE_CONTENT");
        }
    }
}

#[test]
fn every_istio_object_selects_workloads_and_sets_a_priority() {
    for name in files() {
        for object in manifest(&name).0 {
            let (kind, spec) = (object["kind"].as_str().unwrap(), &object["spec"]);
            let labels = match kind {
                "EnvoyFilter" => &spec["workloadSelector"]["labels"],
                "WasmPlugin" | "TrafficExtension" => &spec["selector"]["matchLabels"],
                _ => continue,
            };
            assert!(spec["priority"].is_i64(), "{name}: {kind} without priority");
            assert!(labels.as_object().is_some_and(|labels| !labels.is_empty()), "{name}: {kind} selects all pods");
        }
        // YAML reads an unquoted digest that consists of digits as a number.
        let text = fs::read_to_string(stack::root().join(FOLDER).join(&name)).unwrap();
        for line in text.lines().filter(|line| line.trim_start().starts_with("sha256:")) {
            let value = line.split_once(": ").map(|(_, value)| value.trim_matches('"')).unwrap();
            assert!(line.ends_with(&format!("\"{value}\"")) && value.len() == 64, "{name}: {line}");
        }
    }
}

/// With its label, the webhook would give the federated token to every container of the pod, including the application's.
#[test]
fn no_object_needs_the_label_of_the_workload_identity_webhook() {
    let has_webhook_label = |labels: &Value| labels.to_string().contains("azure.workload.identity");
    let pod = manifest(WORKLOAD).object("Deployment")["spec"]["template"]["metadata"]["labels"].take();
    assert!(!has_webhook_label(&pod), "{pod}");
    for name in files() {
        for object in manifest(&name).0 {
            let spec = &object["spec"];
            for labels in [&spec["workloadSelector"]["labels"], &spec["selector"]["matchLabels"]] {
                assert!(!has_webhook_label(labels), "{name}: {labels}");
                if name != GATEWAY && object["kind"] != "Deployment" && !labels.is_null() {
                    assert_eq!(
                        (labels, &pod["entra-exchange"]),
                        (&json!({"entra-exchange": "enabled"}), &json!("enabled"))
                    );
                }
            }
        }
    }
}

/// Every image that a pod or a proxy pulls, with the file that refers to it.
fn images() -> Vec<(String, String)> {
    let mut images = Vec::new();
    for folder in [FOLDER, "examples/migrate-from-pod-identity"] {
        for entry in fs::read_dir(stack::root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            for line in fs::read_to_string(&path).unwrap().lines().filter(|line| !line.trim_start().starts_with('#')) {
                let words = line.split([' ', '"', ',']).filter(|word| !word.is_empty());
                for pair in words.collect::<Vec<_>>().windows(2) {
                    if pair[0] == "image:" || pair[1].starts_with("oci://") {
                        images.push((path.display().to_string(), pair[1].to_owned()));
                    }
                }
            }
        }
    }
    images
}

#[test]
fn every_image_is_pinned_by_a_placeholder_digest() {
    let zeros = "0".repeat(64);
    let images = images();
    assert!(images.len() > 10, "{images:?}");
    for (file, image) in images {
        let text = fs::read_to_string(&file).unwrap();
        match image.split_once("@sha256:") {
            Some((_, digest)) => assert_eq!(digest, zeros, "{file}: {image}"),
            // Replaced by Istio's injection.
            None if image == "auto" => assert!(text.contains("inject.istio.io/templates: gateway"), "{file}"),
            // WasmPlugin and TrafficExtension have a field for the digest.
            None => {
                assert!(text.contains(&format!("sha256: \"{zeros}\"")) && image.starts_with("oci:"), "{file}: {image}")
            }
        }
    }
}

#[test]
fn the_filter_that_the_agent_substitutes_is_accepted() {
    let name = manifest(SIDECAR).value("EXTENSION_CONFIG")["name"].take();
    for (discovered, types) in [
        (manifest(SIDECAR).value("HTTP_FILTER"), json!([WASM, RBAC])),
        (manifest(GATEWAY).value("HTTP_FILTER"), json!([WASM, RBAC])),
        // Envoy 1.36 rejects a cluster that lists RBAC here.
        (upstream_options()["http_filters"][0].take(), json!([WASM])),
    ] {
        assert_eq!((&discovered["name"], &discovered["config_discovery"]["type_urls"]), (&name, &types));
    }
}

#[test]
fn the_filter_has_the_same_settings_and_capabilities_as_in_the_plain_sidecar() {
    let mut plain = sidecar::document().unwrap();
    let plain = at_mut(&mut plain, &sidecar::filter(sidecar::OUTBOUND)).unwrap();
    for name in [SIDECAR, GATEWAY] {
        let mut extension = manifest(name).value("EXTENSION_CONFIG");
        let here = at_mut(&mut extension, "typed_config.config").unwrap();
        let capabilities = &here["capability_restriction_config"]["allowed_capabilities"];
        assert!(capabilities.as_object().is_some_and(|list| !list.is_empty()));
        let variables = &here["vm_config"]["environment_variables"]["host_env_keys"];
        assert_eq!(*variables, json!(["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_AUTHORITY_HOST"]), "{name}");
        // Only the module's location, its configuration and the variable of the App Service endpoint differ.
        for differs in ["vm_config.code", "vm_config.environment_variables.host_env_keys", "configuration.value"] {
            for document in [&mut *plain, &mut *here] {
                set(document, differs, Value::Null).unwrap();
            }
        }
        assert_eq!(here, plain, "{name}");
    }
}

#[test]
fn the_clusters_for_entra_and_the_projected_token_are_those_of_the_plain_sidecar() {
    let mut plain = sidecar::document().unwrap();
    for (name, context) in [(SIDECAR, "SIDECAR_OUTBOUND"), (GATEWAY, "GATEWAY")] {
        let manifest = manifest(name);
        for cluster in manifest.values("CLUSTER") {
            let path = format!("static_resources.clusters[{}]", cluster["name"].as_str().unwrap());
            assert_eq!(cluster, *at_mut(&mut plain, &path).unwrap(), "{name}");
        }
        let listener = manifest.value("LISTENER");
        assert_eq!(listener, *at_mut(&mut plain, "static_resources.listeners[projected_token]").unwrap(), "{name}");
        let all = ["CLUSTER", "LISTENER", "EXTENSION_CONFIG", "HTTP_FILTER"].map(|to| manifest.patches(to));
        assert!(all.iter().flatten().all(|patch| patch["match"]["context"] == context), "{name}");
    }
}

#[test]
fn the_plugins_configure_the_same_filter_as_the_envoy_filter() {
    let mut extension = manifest(SIDECAR).value("EXTENSION_CONFIG");
    let filter = at_mut(&mut extension, "typed_config.config").unwrap();
    let plugin = manifest(WASM_PLUGIN).object("WasmPlugin")["spec"].take();
    let successor = manifest(TRAFFIC_EXTENSION).object("TrafficExtension")["spec"].take();
    for field in ["selector", "match", "priority"] {
        assert_eq!(plugin[field], successor[field], "{field}");
    }
    for (field, value) in successor["wasm"].as_object().unwrap() {
        assert_eq!(plugin[field], *value, "{field}");
    }
    assert_eq!(plugin["match"], json!([{"mode": "CLIENT", "ports": [{"number": 80}]}]));
    let configuration = filter["configuration"]["value"].as_str().unwrap();
    assert_eq!(plugin["pluginConfig"], serde_json::from_str::<Value>(configuration).unwrap());
    // The plugins have a field for the digest.
    let url = filter["vm_config"]["code"]["remote"]["http_uri"]["uri"].as_str().unwrap();
    let (image, digest) = url.split_once("@sha256:").unwrap();
    assert!(plugin["url"].as_str().unwrap().starts_with(&format!("{image}:")));
    assert_eq!(
        (&plugin["sha256"], &plugin["failStrategy"], &plugin["pluginName"]),
        (&json!(digest), &filter["failure_policy"], &filter["root_id"])
    );
    let names: Vec<&Value> = plugin["vmConfig"]["env"].as_array().unwrap().iter().map(|env| &env["name"]).collect();
    assert_eq!(json!(names), filter["vm_config"]["environment_variables"]["host_env_keys"]);
}

#[test]
fn the_example_pods_provide_the_variables_and_the_token_that_the_filter_reads() {
    let extension = manifest(SIDECAR).value("EXTENSION_CONFIG");
    let variables = &extension["typed_config"]["config"]["vm_config"]["environment_variables"]["host_env_keys"];
    let mut listener = manifest(SIDECAR).value("LISTENER");
    let body = at_mut(&mut listener, TOKEN_BODY).unwrap();
    let (file, watched) = (body["filename"].as_str().unwrap(), body["watched_directory"]["path"].as_str().unwrap());
    let holds_the_token = |volume: &Value, mount: &Value| {
        let token = &volume["projected"]["sources"][0]["serviceAccountToken"];
        assert_eq!(token["audience"], AUDIENCE);
        assert_eq!(mount["mountPath"], watched);
        assert_eq!(format!("{watched}/{}", token["path"].as_str().unwrap()), file);
        assert_eq!(mount["readOnly"], true);
    };

    let template = manifest(WORKLOAD).object("Deployment")["spec"]["template"].take();
    let annotation = |name: &str| -> Value {
        serde_json::from_str(template["metadata"]["annotations"][name].as_str().unwrap()).unwrap()
    };
    let labels = &manifest(SIDECAR).object("EnvoyFilter")["spec"]["workloadSelector"]["labels"];
    for (label, value) in labels.as_object().unwrap() {
        assert_eq!(template["metadata"]["labels"][label], *value);
    }
    let metadata = annotation("proxy.istio.io/config")["proxyMetadata"].take();
    assert_eq!(json!(metadata.as_object().unwrap().keys().collect::<Vec<_>>()), *variables);
    let name = "entra-exchange-token";
    holds_the_token(
        &annotation("sidecar.istio.io/userVolume")[name],
        &annotation("sidecar.istio.io/userVolumeMount")[name],
    );

    let pod = manifest(GATEWAY).object("Deployment")["spec"]["template"]["spec"].take();
    let proxy = &pod["containers"][0];
    let names: Vec<&Value> = proxy["env"].as_array().unwrap().iter().map(|env| &env["name"]).collect();
    assert_eq!(json!(names), *variables);
    assert_eq!(
        (&proxy["name"], &proxy["volumeMounts"][0]["name"]),
        (&json!("istio-proxy"), &pod["volumes"][0]["name"])
    );
    holds_the_token(&pod["volumes"][0], &proxy["volumeMounts"][0]);
}

/// Collects every `@type` and every type in `type_urls`.
fn collect_types(value: &Value, types: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(found) if name == "@type" => types.push(found.clone()),
                    Value::Array(list) if name == "type_urls" => {
                        types.extend(list.iter().map(|found| found.as_str().unwrap().to_owned()));
                    }
                    _ => collect_types(field, types),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|element| collect_types(element, types)),
        _ => {}
    }
}
