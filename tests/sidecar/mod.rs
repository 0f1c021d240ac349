//! The sidecar of `envoy/sidecar/envoy.yaml` on the workspace's own proxy-wasm host instead of Envoy, with the manifest's configuration
//! and capability list. The test controls the clock.

// Each test target uses a part of this module.
#![allow(dead_code)]

pub(crate) mod simple;

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use stack::{AUTHORITY_HOST, CLIENT_ID, IDENTITY_HEADER, LISTED_HOST, TENANT_ID, sidecar};
use wasm_host::{Builder, Cluster, FailurePolicy, Headers, Host, Module, Request};

/// The cluster that serves the federated token's file.
pub(crate) const TOKEN_CLUSTER: &str = "projected_token";
/// The cluster for Entra.
pub(crate) const ENTRA_CLUSTER: &str = "entra";
/// The cluster for Entra that always opens a new connection, for a retry when the first call gets no response.
pub(crate) const ENTRA_AGAIN_CLUSTER: &str = "entra_new_connection";
/// The cluster for the listed host.
pub(crate) const LISTED_CLUSTER: &str = "payments_kv";

/// The address of the listener for managed identity.
pub(crate) const IMDS_ADDRESS: &str = "127.0.0.1:15002";

/// The release module, compiled once per process.
pub(crate) fn module() -> Module {
    static MODULE: OnceLock<Module> = OnceLock::new();
    MODULE.get_or_init(|| Module::new(&module_bytes()).unwrap_or_else(|error| panic!("{error}"))).clone()
}

/// The bytes of the release module.
pub(crate) fn module_bytes() -> Vec<u8> {
    let path = stack::module().unwrap_or_else(|error| panic!("{error}"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A host that is configured as the sidecar's Envoy, with two workers.
pub(crate) fn builder(module: &Module) -> Builder {
    let document = document();
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value} is not a string")).to_owned();
    let filter = filter();
    let vm = &filter["vm_config"];
    assert_eq!(filter["failure_policy"], "FAIL_RELOAD");
    let mut builder = Host::builder(module)
        .configuration(configuration())
        .capabilities(capabilities())
        .failure_policy(FailurePolicy::RELOAD)
        .plugin(&text(&filter["name"]), &text(&filter["root_id"]), &text(&vm["vm_id"]))
        .node(&text(&document["node"]["id"]), &text(&document["node"]["cluster"]))
        .stream_idle_timeout(idle_timeout())
        .cluster(ENTRA_CLUSTER)
        .cluster(ENTRA_AGAIN_CLUSTER)
        .cluster_of_kind(TOKEN_CLUSTER, Cluster::InternalListener)
        .cluster(LISTED_CLUSTER)
        .cluster("elsewhere")
        .route(LISTED_HOST, LISTED_CLUSTER)
        .default_route("elsewhere")
        .workers(2);
    for (name, value) in variables() {
        builder = builder.variable(&name, value);
    }
    builder
}

/// The filter's configuration in the sidecar.
pub(crate) fn configuration() -> String {
    filter()["configuration"]["value"].as_str().unwrap().to_owned()
}

/// The variables that the sidecar hands to the filter, with their values.
pub(crate) fn variables() -> Vec<(String, &'static str)> {
    let filter = filter();
    let names = filter["vm_config"]["environment_variables"]["host_env_keys"].as_array().unwrap();
    let value = |name: &str| match name {
        "AZURE_TENANT_ID" => TENANT_ID,
        "AZURE_CLIENT_ID" => CLIENT_ID,
        "AZURE_AUTHORITY_HOST" => AUTHORITY_HOST,
        "IDENTITY_HEADER" => IDENTITY_HEADER,
        other => panic!("no value for {other}"),
    };
    names.iter().map(|name| name.as_str().unwrap()).map(|name| (name.to_owned(), value(name))).collect()
}

fn filter() -> Value {
    at(document(), &sidecar::filter(sidecar::OUTBOUND))
}

/// The capabilities that the sidecar allows the module.
pub(crate) fn capabilities() -> Vec<String> {
    let filter = filter();
    let allowed = filter["capability_restriction_config"]["allowed_capabilities"].as_object().unwrap();
    allowed.keys().cloned().collect()
}

/// The sidecar's `stream_idle_timeout`.
pub(crate) fn idle_timeout() -> Duration {
    let manager = at(document(), "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config");
    let seconds = manager["stream_idle_timeout"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
    Duration::from_secs(seconds)
}

/// A request from the app to another service.
pub(crate) fn to_service(host: &str) -> Request {
    Request::new(Headers::get_request(host, "/"))
}

/// An IMDS request from the app for a token for this resource.
pub(crate) fn to_imds(resource: &str) -> Request {
    let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
    Request::new(Headers::get_request(stack::IMDS_HOST, &path).with("metadata", "true")).to(IMDS_ADDRESS)
}

/// A federated token that the filter accepts: only Entra verifies the signature.
pub(crate) fn unsigned_assertion(host: &Host) -> String {
    use base64::Engine as _;
    let part = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let now = host.wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({
        "iss": stack::ISSUER_URL, "sub": stack::SUBJECT, "aud": [stack::AUDIENCE], "exp": now + 3600,
    });
    let signature = part(Value::from("not a valid signature, but as long as those of real issuers".repeat(4)));
    format!("{}.{}.{signature}", part(serde_json::json!({"alg": "RS256"})), part(claims))
}

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| sidecar::document().unwrap_or_else(|error| panic!("{error}")))
}

fn at(document: &Value, path: &str) -> Value {
    let mut document = document.clone();
    stack::document::at_mut(&mut document, path).unwrap_or_else(|error| panic!("{error}")).clone()
}
