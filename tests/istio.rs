//! `envoy/istio/envoyfilter.yaml`: its Envoy parts, taken out and put together as istiod and the istio-agent do it, in a real Envoy.

// A test may fail where it stands.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{LISTED_HOST, Options, Stack, sidecar};

const FOLDER: &str = "envoy/istio";
const FILE: &str = "envoy/istio/envoyfilter.yaml";

/// The newest Envoy that is tried, and the oldest. `ENVOY` in the environment takes the place of both.
const VERSIONS: [&str; 2] = ["1.40.0", "1.36.2"];

/// What a developer's machine has elsewhere than a pod; the stack has set the same paths of the sidecar's bootstrap already. Beside
/// these, only the module is a local file, as the istio-agent makes it, and the filter is discovered in a file instead of by ADS.
fn substitutions() -> [String; 5] {
    let entra =
        "static_resources.clusters[entra].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address";
    let token = "static_resources.listeners[projected_token].filter_chains[0].filters[0].typed_config\
                 .route_config.virtual_hosts[projected_token].routes[0].direct_response.body";
    [
        format!("{entra}.address"),
        format!("{entra}.port_value"),
        sidecar::trusted_ca("entra"),
        format!("{token}.filename"),
        format!("{token}.watched_directory.path"),
    ]
}

/// What needs an extension stands here only if Istio's Envoy has that extension: Istio builds it from a list of its own, which lacks
/// `envoy.formatter.file_content`, the `generic_secret` of the credential injector and `file_server`, among others.
const TYPES_IN_ISTIO: [&str; 6] = [
    "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
    "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
    "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    // No extension.
    "type.googleapis.com/google.protobuf.StringValue",
];

#[test]
fn a_request_through_it_arrives_with_a_token() {
    let versions: &[Option<PathBuf>] = match std::env::var_os("ENVOY") {
        Some(_) => &[None],
        None => &VERSIONS.map(|version| Some(stack::root().join(format!(".tools/envoy-{version}/envoy/_bin/envoy")))),
    };
    for envoy in versions {
        let options = Options { envoy: envoy.clone(), edit: Some(Box::new(into_istio)), ..Options::default() };
        let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
        for _ in 0..3 {
            let answer = stack.get(LISTED_HOST, "/secrets/db?api-version=7.4", &[]);
            assert_eq!(answer.status, 200, "{}\n{}", answer.text(), stack.log());
            assert!(answer.seen_header("authorization").is_some_and(|value| value.starts_with("Bearer ey")));
        }
        assert_eq!(stack.directory().stats().token_requests, 1, "exchanges");
        // What istiod does not know it drops, with no more than a warning.
        assert_eq!(stack.envoy.stat("server.dynamic_unknown_fields").unwrap(), Some(0));
        assert!(stack::eventually(Duration::from_secs(2), || stack.log().contains("event=exchange outcome=issued")));
        for wrong in ["restricted", "panicked", "Function: proxy_on", "eyJ"] {
            assert!(!stack.log().contains(wrong), "{wrong:?} in the log:\n{}", stack.log());
        }
    }
}

#[test]
fn the_upstream_has_tls_and_its_name_is_verified() {
    let entry = object("ServiceEntry");
    let rule = object("DestinationRule");
    let port = &entry["spec"]["ports"][0];
    assert_eq!(*port, json!({"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 443}));
    assert_eq!(entry["spec"]["hosts"], json!([rule["spec"]["host"]]), "every host has its DestinationRule");
    // Any more, such as `sni`, and Istio asks for `subjectAltNames`, too.
    let settings = json!([{"port": {"number": port["number"]}, "tls": {"mode": "SIMPLE"}}]);
    assert_eq!(rule["spec"]["trafficPolicy"]["portLevelSettings"], settings);
    assert_eq!(patch("HTTP_FILTER")["match"]["listener"]["portNumber"], port["number"]);
}

#[test]
fn istios_envoy_has_every_extension_in_it() {
    for file in fs::read_dir(stack::root().join(FOLDER)).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        for document in stack::document::read(&format!("{FOLDER}/{name}")).unwrap() {
            let mut types = Vec::new();
            collect_types(&document, &mut types);
            for found in types {
                assert!(TYPES_IN_ISTIO.contains(&found.as_str()), "{name}: {found}");
            }
            // A format needs no `@type` where Envoy has the formatter built in; Istio's has not.
            assert!(!document.to_string().contains("%FILE_CONTENT"), "{name}: FILE_CONTENT");
        }
    }
}

#[test]
fn the_filter_may_do_the_same_as_in_the_plain_sidecar() {
    let mut plain = sidecar::document().unwrap();
    let plain = at_mut(&mut plain, &sidecar::filter(sidecar::OUTBOUND)).unwrap();
    let mut extension = value("EXTENSION_CONFIG");
    let here = at_mut(&mut extension, "typed_config.config").unwrap();
    let capabilities = &here["capability_restriction_config"]["allowed_capabilities"];
    assert!(capabilities.as_object().is_some_and(|list| !list.is_empty()));
    // Where the module is from and what it decides is all that differs.
    for differs in ["vm_config.code", "configuration.value"] {
        for document in [&mut *plain, &mut *here] {
            set(document, differs, Value::Null).unwrap();
        }
    }
    assert_eq!(here, plain);
}

#[test]
fn entra_and_the_projected_token_are_reached_as_in_the_plain_sidecar() {
    let mut plain = sidecar::document().unwrap();
    for cluster in values("CLUSTER") {
        let path = format!("static_resources.clusters[{}]", cluster["name"].as_str().unwrap());
        assert_eq!(cluster, *at_mut(&mut plain, &path).unwrap());
    }
    let listener = value("LISTENER");
    assert_eq!(listener, *at_mut(&mut plain, "static_resources.listeners[projected_token]").unwrap());
}

/// Makes the sidecar's bootstrap the one that Istio gives a pod's Envoy. Of the sidecar's own only the listener `outbound` remains,
/// and `managed_identity`, for which the stack waits; both without the filter.
fn into_istio(bootstrap: &mut Value) {
    let mut plain = bootstrap.clone();
    let upstream = upstream(&mut plain);
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": upstream["name"], "timeout": "0s"}});

    let mut clusters = values("CLUSTER");
    clusters.push(upstream);
    set(bootstrap, "static_resources.clusters", clusters).unwrap();

    let listeners = at_mut(bootstrap, "static_resources.listeners").unwrap().as_array_mut().unwrap();
    listeners.retain(|listener| listener["name"] != "projected_token");
    for listener in &mut *listeners {
        let filters = at_mut(listener, &format!("{HTTP}.http_filters")).unwrap().as_array_mut().unwrap();
        filters.retain(|filter| filter["name"] != "entra-exchange");
    }
    listeners.push(value("LISTENER"));

    for path in substitutions() {
        let local = at_mut(&mut plain, &path).unwrap().clone();
        set(bootstrap, &path, local).unwrap();
    }

    let http = format!("static_resources.listeners[{}].{HTTP}", sidecar::OUTBOUND);
    let http = at_mut(bootstrap, &http).unwrap();
    let hosts = json!([{"name": format!("{LISTED_HOST}:80"), "domains": [LISTED_HOST], "routes": [route]}]);
    set(http, "route_config.virtual_hosts", hosts).unwrap();
    insert(at_mut(http, "http_filters").unwrap(), discovered(&mut plain));
}

const HTTP: &str = "filter_chains[0].filters[0].typed_config";

/// What Istio makes of the ServiceEntry and the DestinationRule: the name to verify is the request's host, as in the plain sidecar's
/// cluster `elsewhere`.
fn upstream(plain: &mut Value) -> Value {
    let entry = object("ServiceEntry");
    let (port, host) = (&entry["spec"]["ports"][0]["number"], entry["spec"]["hosts"][0].as_str().unwrap());
    let name = format!("outbound|{port}||{host}");
    let mut cluster = at_mut(plain, "static_resources.clusters[elsewhere]").unwrap().clone();
    set(&mut cluster, "name", name.as_str()).unwrap();
    set(&mut cluster, "load_assignment.cluster_name", name.as_str()).unwrap();
    cluster
}

/// The filter as the HTTP_FILTER patch has it, and beside the stack's other files the one in which Envoy discovers the rest.
fn discovered(plain: &mut Value) -> Value {
    let module = at_mut(plain, &format!("{}.vm_config.code", sidecar::filter(sidecar::OUTBOUND))).unwrap().clone();
    let built = module["local"]["filename"].as_str().is_some_and(|path| Path::new(path).is_file());
    assert!(built, "there is no filter at {module}: build it first (`make`)");
    let mut extension = value("EXTENSION_CONFIG");
    let code = at_mut(&mut extension, "typed_config.config.vm_config.code").unwrap();
    assert!(code["remote"]["http_uri"]["uri"].as_str().unwrap().starts_with("oci://"));
    *code = module;
    extension["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
    let ca = at_mut(plain, &sidecar::trusted_ca("entra")).unwrap().as_str().unwrap();
    let file = Path::new(ca).with_file_name("extensions.json");
    fs::write(&file, json!({"version_info": "1", "resources": [extension]}).to_string()).unwrap();

    let mut filter = value("HTTP_FILTER");
    let source = at_mut(&mut filter, "config_discovery.config_source").unwrap().as_object_mut().unwrap();
    assert_eq!(source.remove("ads"), Some(json!({})));
    source.insert("path_config_source".to_owned(), json!({"path": file}));
    filter
}

/// Carries out the HTTP_FILTER patch.
fn insert(filters: &mut Value, filter: Value) {
    let patch = patch("HTTP_FILTER");
    assert_eq!(patch["patch"]["operation"], "INSERT_BEFORE");
    let chain = &patch["match"]["listener"]["filterChain"]["filter"];
    assert_eq!(chain["name"], "envoy.filters.network.http_connection_manager");
    let filters = filters.as_array_mut().unwrap();
    let place = filters.iter().position(|other| other["name"] == chain["subFilter"]["name"]).unwrap();
    filters.insert(place, filter);
}

/// The file's object of this kind.
fn object(kind: &str) -> Value {
    let documents = stack::document::read(FILE).unwrap();
    only(documents.into_iter().filter(|object| object["kind"] == kind).collect())
}

/// The patches that apply to this, in their order.
fn patches(to: &str) -> Vec<Value> {
    let patches = object("EnvoyFilter")["spec"]["configPatches"].as_array().unwrap().clone();
    let patches: Vec<Value> = patches.into_iter().filter(|patch| patch["applyTo"] == to).collect();
    assert!(patches.iter().all(|patch| patch["match"]["context"] == "SIDECAR_OUTBOUND"));
    patches
}

fn patch(to: &str) -> Value {
    only(patches(to))
}

/// The Envoy parts of these patches.
fn values(to: &str) -> Vec<Value> {
    patches(to).into_iter().map(|mut patch| patch["patch"]["value"].take()).collect()
}

fn value(to: &str) -> Value {
    only(values(to))
}

fn only(mut list: Vec<Value>) -> Value {
    assert_eq!(list.len(), 1, "{list:?}");
    list.remove(0)
}

/// Every type that is named, by itself or in a list of those that may be discovered.
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
