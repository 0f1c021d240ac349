//! The manifests of `envoy/istio/` in a real Envoy: the tests apply the Envoy configuration in them like istiod and the istio-agent.

// A test may panic.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

#[path = "../evasions/mod.rs"]
mod evasions;
mod form;
mod manifest;
mod objects;
mod readiness;
mod seen;
mod service_entries;

use std::path::PathBuf;
use std::time::Duration;

use form::{Form, HTTP, upstream_options};
use manifest::{GATEWAY, IMDS, SIDECAR, TRAFFIC_EXTENSION, UPSTREAM, WASM_PLUGIN, manifest};
use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{IMDS_HOST, LISTED_HOST, Mesh, Options, Request, Response, Stack, UNLISTED_HOST, envoy, sidecar};

#[test]
fn a_request_through_the_sidecar_arrives_with_a_token() {
    arrives_with_a_token(Form::envoy_filter(SIDECAR));
}

#[test]
fn a_request_through_the_egress_gateway_arrives_with_a_token() {
    arrives_with_a_token(Form::envoy_filter(GATEWAY));
}

#[test]
fn a_request_through_the_filter_in_the_upstreams_cluster_arrives_with_a_token() {
    arrives_with_a_token(Form::upstream());
}

#[test]
fn a_request_through_the_wasm_plugin_arrives_with_a_token() {
    // The extension's name up to Istio 1.29, and from Istio 1.30.
    for name in
        ["wasmplugin/payments.entra-exchange", "trafficextension/payments.entra-exchange~istio-translated-wasmplugin"]
    {
        let plugin = manifest(WASM_PLUGIN).object("WasmPlugin")["spec"].take();
        arrives_with_a_token(Form::plugin(name, &plugin));
    }
}

#[test]
fn a_request_through_the_traffic_extension_arrives_with_a_token() {
    let extension = manifest(TRAFFIC_EXTENSION).object("TrafficExtension");
    arrives_with_a_token(Form::plugin("trafficextension/payments.entra-exchange", &extension["spec"]["wasm"]));
}

fn arrives_with_a_token(form: Form) {
    for envoy in envoys() {
        let form = form.clone().with_http_10();
        let edit = Box::new(move |bootstrap: &mut Value| form.into_istio(bootstrap));
        let stack = start(Options { envoy: Some(envoy), edit: Some(edit), ..Options::default() });
        for _ in 0..3 {
            let answer = stack.get(LISTED_HOST, "/secrets/db?api-version=7.4", &[]);
            assert_eq!(answer.status, 200, "{}\n{}", answer.text(), stack.log());
            assert!(answer.seen_header("authorization").is_some_and(|value| value.starts_with("Bearer ey")));
        }
        for (version, bytes) in [
            (
                "1.1",
                format!("GET / HTTP/1.1\r\nHost: {LISTED_HOST}\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\n"),
            ),
            ("1.0", format!("GET / HTTP/1.0\r\nHost: {LISTED_HOST}\r\n\r\n")),
        ] {
            let answer = stack::client::send_text(stack.outbound_addr(), &bytes, false).unwrap();
            let is_served = answer.starts_with(&format!("HTTP/{version} 200 "));
            assert!(is_served && answer.contains("Bearer ey"), "{bytes}{answer}");
        }
        assert_eq!(stack.directory().stats().token_requests, 1, "exchanges");
        assert_healthy(&stack);
    }
}

const BLOB: &str = "paymentsdata.blob.core.windows.net";
const OPENAI: &str = "contoso-eu.openai.azure.com";
const GOVERNMENT: &str = "agency-kv.vault.usgovcloudapi.net";

/// The claims of the token that the upstream received.
fn claims(answer: &Response) -> Value {
    let header = answer.seen_header("authorization").unwrap_or_else(|| panic!("no token: {}", answer.text()));
    fake_entra::claims(header.strip_prefix("Bearer ").unwrap()).unwrap()
}

fn audience(answer: &Response) -> String {
    claims(answer)["aud"].as_str().unwrap().to_owned()
}

fn run(form: Form, options: Options) -> Stack {
    start(Options { edit: Some(Box::new(move |bootstrap: &mut Value| form.into_istio(bootstrap))), ..options })
}

#[test]
fn each_azure_service_gets_a_token_for_its_own_audience() {
    let configuration = json!({"defaults": {"tls_clusters": ["outbound|80||{host}"]}, "destinations": [
        {"azure_service": "key_vault", "names": ["payments-kv"]},
        {"azure_service": "blob_storage", "names": ["paymentsdata"]},
    ]});
    let stack = run(Form::sidecar(configuration, &[LISTED_HOST, BLOB]), Options::default());
    assert_eq!(audience(&stack.get(LISTED_HOST, "/secrets/db", &[])), "https://vault.azure.net");
    assert_eq!(
        audience(&stack.get(BLOB, "/invoices/1", &[("x-ms-version", "2021-12-02")])),
        "https://storage.azure.com"
    );
    // A shared access signature is a credential of the application.
    let signed = stack.get(BLOB, "/invoices/1?sv=2021-12-02&sig=abc%3D", &[]);
    assert_eq!((signed.status, signed.seen_header("authorization")), (200, None));
    assert_eq!(stack.directory().stats().token_requests, 2);
    assert_healthy(&stack);
}

#[test]
fn without_an_environment_variable_only_requests_to_listed_hosts_are_rejected() {
    let configuration = json!({"destinations": [
        {"azure_service": "key_vault", "names": ["payments-kv"], "tls_clusters": ["outbound|80||{host}"]},
    ]});
    let options = Options::default().variable("AZURE_CLIENT_ID", None);
    let stack = run(Form::sidecar(configuration, &[LISTED_HOST, UNLISTED_HOST]), options);
    let answer = stack.get(LISTED_HOST, "/secrets/db", &[]);
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("env_var_missing")));
    assert_eq!(stack.get(UNLISTED_HOST, "/", &[]).status, 200);
}

#[test]
fn an_api_key_is_replaced_with_a_token_if_so_configured() {
    let configuration = json!({"destinations": [{"azure_service": "azure_openai", "names": ["contoso-eu", "contoso-us"],
        "tls_clusters": ["outbound|80||{host}"], "existing_credential": "replace"}]});
    let path = "/openai/deployments/gpt/chat/completions";
    let mut form = Form::upstream();
    form.configure(|current| *current = configuration.clone());
    form.hosts = vec![OPENAI.to_owned()];
    let stack = run(form, Options::default());
    stack.directory().register_resource("https://cognitiveservices.azure.com");
    let answer = stack.get(OPENAI, path, &[("api-key", "unused")]);
    assert_eq!(audience(&answer), "https://cognitiveservices.azure.com");
    assert_eq!(answer.seen_header("api-key"), None);
    // In the listener's filter chain, the route could change with the header.
    let stack = run(Form::sidecar(configuration, &[OPENAI]), Options::default());
    let answer = stack.get(OPENAI, path, &[("api-key", "unused")]);
    assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("replace_not_supported")));
}

#[test]
fn the_same_configuration_works_in_the_us_government_cloud() {
    let configuration = json!({"destinations": [
        {"azure_service": "key_vault", "names": ["agency-kv"], "tls_clusters": ["outbound|80||{host}"]},
    ]});
    let form = Form::sidecar(configuration, &[GOVERNMENT, LISTED_HOST]);
    let edit = Box::new(move |bootstrap: &mut Value| {
        form.into_istio(bootstrap);
        // As the manifest instructs: three times in the cluster `entra`, whose parts the second cluster shares. In this test, the address
        // is the fake Entra's.
        for cluster in ["entra", "entra_new_connection"] {
            let entra = at_mut(bootstrap, &format!("static_resources.clusters[{cluster}]")).unwrap();
            let text = entra.to_string().replace("login.microsoftonline.com", "login.microsoftonline.us");
            *entra = serde_json::from_str(&text).unwrap();
        }
    });
    let options = Options::default().variable("AZURE_AUTHORITY_HOST", Some("https://login.microsoftonline.us/"));
    let stack = start(Options { edit: Some(edit), ..options });
    stack.directory().register_resource("https://vault.usgovcloudapi.net");
    assert_eq!(audience(&stack.get(GOVERNMENT, "/secrets/db", &[])), "https://vault.usgovcloudapi.net");
    let answer = stack.get("agency-kv.vault.azure.net", "/secrets/db", &[]);
    assert_eq!(answer.status, 404, "the host of the public cloud has no route and is not listed");
    assert_eq!(stack.get(LISTED_HOST, "/", &[]).seen_header("authorization"), None);
}

/// The client certificate alone selects the identity, so two workloads are as good a test as thirty.
#[test]
fn at_the_egress_gateway_each_workload_gets_the_token_of_its_own_identity() {
    const REPORTS_KV: &str = "reports-kv.vault.azure.net";
    const GRAPH: &str = "graph.microsoft.com";
    let (payments, reports) = ("aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002");
    let (api, batch) = ("spiffe://cluster.local/ns/payments/sa/api", "spiffe://cluster.local/ns/reports/sa/batch");
    let web = "spiffe://cluster.local/ns/reports/sa/web";
    let mut form = Form::envoy_filter(GATEWAY);
    form.configure(|configuration| {
        *configuration = json!({
            "defaults": {"tls_clusters": ["outbound|443||{host}"]},
            "identities": [
                {"name": "payments", "client_id": payments, "principals": [api]},
                {"name": "reports", "client_id": reports, "principals": [batch, web]},
            ],
            "destinations": [
                {"azure_service": "key_vault", "names": ["payments-kv", "reports-kv"]},
                {"azure_service": "microsoft_graph", "path_prefixes": ["/v1.0/users"], "identity": "reports"},
            ],
        });
    });
    form.hosts = [LISTED_HOST, REPORTS_KV, GRAPH].map(str::to_owned).to_vec();
    let mesh = Mesh::new().unwrap();
    let socket = mesh.transport_socket().unwrap();
    let edit = Box::new(move |bootstrap: &mut Value| {
        form.into_istio(bootstrap);
        // Istio generates this for `tls: { mode: ISTIO_MUTUAL }`, and a gateway's node has this kind of id.
        let chain = format!("static_resources.listeners[{}].filter_chains[0]", sidecar::OUTBOUND);
        at_mut(bootstrap, &chain).unwrap()["transport_socket"] = socket;
        set(bootstrap, "node.id", "router~10.0.0.1~egress-5c8.payments~payments.svc.cluster.local").unwrap();
    });
    let stack = start(Options { edit: Some(edit), ..Options::default() });
    stack.directory().register_resource("https://graph.microsoft.com");
    for client_id in [payments, reports] {
        stack.directory().register_credential(stack::credential(client_id)).unwrap();
    }
    let call = |caller: &str, host: &str, path: &str| {
        mesh.send_as(&[caller], &Request::get(host, path), stack.outbound_addr()).unwrap()
    };
    for (caller, host, path, client_id) in [
        (api, LISTED_HOST, "/secrets/db", payments),
        (batch, LISTED_HOST, "/secrets/db", reports),
        (web, REPORTS_KV, "/secrets/db", reports),
        (batch, GRAPH, "/v1.0/users/x", reports),
    ] {
        assert_eq!(claims(&call(caller, host, path))["appid"], client_id, "{caller} to {host}{path}");
    }
    for (caller, host, path) in [
        // The destination uses another identity, which this workload may not use.
        (api, GRAPH, "/v1.0/users"),
        ("spiffe://cluster.local/ns/other/sa/app", LISTED_HOST, "/secrets/db"),
        ("spiffe://cluster.local/ns/payments/sa/api/x", LISTED_HOST, "/secrets/db"),
    ] {
        let answer = call(caller, host, path);
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (403, &json!("principal_not_listed")),
            "{caller} to {host}"
        );
    }
    let elsewhere = call(batch, GRAPH, "/v1.0/groups");
    assert_eq!(
        (elsewhere.status, elsewhere.seen_header("authorization")),
        (200, None),
        "a path that is not listed is not changed"
    );
    // Three of the four combinations of two identities and two resources.
    assert_eq!(stack.directory().stats().token_requests, 3);
    assert_healthy(&stack);
}

#[test]
fn the_filter_in_the_sidecar_answers_an_imds_request() {
    let entry = manifest(IMDS).object("ServiceEntry")["spec"].take();
    assert_eq!(entry["addresses"], json!([IMDS_HOST]));
    assert_eq!(entry["ports"], json!([{"number": 80, "name": "http", "protocol": "HTTP"}]));
    assert_eq!(manifest(SIDECAR).patch("HTTP_FILTER")["match"]["listener"]["portNumber"], 80);

    let edit = Box::new(|bootstrap: &mut Value| {
        let mut form = Form::envoy_filter(SIDECAR);
        form.configure(|configuration| configuration["managed_identity"] = json!({"imds": {}}));
        form.into_istio(bootstrap);
        let hosts = format!("static_resources.listeners[{}].{HTTP}.route_config.virtual_hosts", sidecar::OUTBOUND);
        // Without a route, a request that the filter does not answer gets 404.
        let host = json!({"name": format!("{IMDS_HOST}:80"), "domains": [IMDS_HOST]});
        at_mut(bootstrap, &hosts).unwrap().as_array_mut().unwrap().push(host);
    });
    let stack = start(Options { edit: Some(edit), ..Options::default() });
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
    let answer = stack.get(IMDS_HOST, path, &[("metadata", "true")]);
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), stack.log());
    assert!(answer.json()["access_token"].as_str().unwrap().starts_with("ey"));
    assert_eq!(stack.get(IMDS_HOST, path, &[]).status, 400, "without Metadata: true");
    assert_healthy(&stack);
}

/// The sidecar with `managed_identity`, where requests to hosts that Istio routes on its own are forwarded to the node's IMDS; the test's
/// upstream takes its place. (Istio's own clusters forward to the address that the client connected to.) A PROXY header states this address.
fn at_the_metadata_address(mut form: Form, managed_identity: Value, envoy: PathBuf) -> Stack {
    form.configure(|configuration| configuration["managed_identity"] = managed_identity);
    // With ALLOW_ANY, Istio forwards connections that it does not recognize as HTTP to the address that the client connected to.
    form.passthrough = "instance_metadata";
    let edit = Box::new(move |bootstrap: &mut Value| {
        form.into_istio(bootstrap);
        let filters = format!("static_resources.listeners[{}].listener_filters", sidecar::OUTBOUND);
        let inspector = at_mut(bootstrap, &filters).unwrap().clone();
        sidecar::accept_proxy_protocol(bootstrap, sidecar::OUTBOUND).unwrap();
        let filters = at_mut(bootstrap, &filters).unwrap().as_array_mut().unwrap();
        filters.extend(inspector.as_array().unwrap().iter().cloned());
        let hosts = format!("static_resources.listeners[{}].{HTTP}.route_config.virtual_hosts", sidecar::OUTBOUND);
        let hosts = at_mut(bootstrap, &hosts).unwrap().as_array_mut().unwrap();
        let entry = manifest(IMDS).object("ServiceEntry")["spec"].take();
        let of_entry = json!([entry["hosts"][0], entry["addresses"][0]]);
        for (name, domains) in [("imds.internal:80", of_entry), ("allow_any", json!(["*"]))] {
            let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "instance_metadata", "timeout": "0s"}});
            hosts.push(json!({"name": name, "domains": domains, "routes": [route]}));
        }
    });
    start(Options { envoy: Some(envoy), edit: Some(edit), ..Options::default() })
}

#[test]
fn no_request_to_the_metadata_address_reaches_the_node() {
    let plugin = manifest(WASM_PLUGIN).object("WasmPlugin")["spec"].take();
    let extension = manifest(TRAFFIC_EXTENSION).object("TrafficExtension")["spec"]["wasm"].take();
    let forms = [
        Form::envoy_filter(SIDECAR).with_http_10(),
        Form::plugin("wasmplugin/payments.entra-exchange", &plugin),
        Form::plugin("trafficextension/payments.entra-exchange", &extension),
    ];
    // Every form on the newest Envoy, and the first one on the oldest, too.
    let [newest, oldest] = [envoys().remove(0), envoys().pop().unwrap()];
    let on_newest = forms.iter().map(|form| (form, &newest, evasions::CALLED));
    for (form, envoy, called) in on_newest.chain([(&forms[2], &oldest, evasions::CALLED_MAPPED)]) {
        let section = json!({"imds": {"pass": ["/metadata/instance"]}});
        let stack = at_the_metadata_address(form.clone(), section, envoy.clone());
        evasions::none_reaches_the_node(&stack, stack.outbound_addr(), called, 403);
        assert_healthy(&stack);
    }
}

/// Istio recognizes HTTP/1.0 only with `http10.yaml` or istiod's PILOT_HTTP10.
#[test]
fn a_request_that_istio_does_not_recognize_as_http_never_reaches_the_node() {
    let token = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    let request = format!("GET {token} HTTP/1.0\r\nHost: {IMDS_HOST}\r\nMetadata: true\r\n\r\n");
    for (guards_metadata, http_10) in [(true, false), (true, true), (false, false)] {
        let mut form = Form::envoy_filter(SIDECAR);
        (form.guards_metadata, form.http_10) = (guards_metadata, http_10);
        let stack = at_the_metadata_address(form, json!({"imds": {}}), envoys().remove(0));
        let bytes = [evasions::CALLED, request.as_bytes()].concat();
        let answer = stack::client::send_bytes(stack.outbound_addr(), &bytes).unwrap();
        // Without the EnvoyFilter of imds.yaml, the node answers the last case.
        assert_eq!(stack.upstream.requests(), u64::from(!guards_metadata), "{guards_metadata} {http_10}: {answer}");
        assert_eq!(answer.is_empty(), guards_metadata && !http_10, "{answer}");
        assert_eq!(answer.contains(stack::CLIENT_ID), http_10, "{answer}");
    }
}

#[test]
fn only_requests_for_listed_paths_or_in_report_mode_reach_the_node() {
    let send = |stack: &Stack, called: &str, host: &str, target: &str| {
        let request =
            format!("{called}GET {target} HTTP/1.1\r\nHost: {host}\r\nMetadata: true\r\nConnection: close\r\n\r\n");
        stack::client::send_bytes(stack.outbound_addr(), request.as_bytes()).unwrap()
    };
    let metadata = std::str::from_utf8(evasions::CALLED).unwrap();
    let elsewhere = "PROXY TCP4 127.0.0.1 10.0.0.7 50000 80\r\n";
    let token = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    for (action, is_forwarded) in [("answer", false), ("refuse", false), ("report", true)] {
        let section = json!({"action": action, "imds": {"pass": ["/metadata/instance"]}});
        let stack = at_the_metadata_address(Form::envoy_filter(SIDECAR), section, envoys().remove(0));
        for (host, target, is_forwarded) in [
            (IMDS_HOST, "/metadata/instance?api-version=2021-02-01", true),
            (IMDS_HOST, token, is_forwarded),
            ("imds.internal", "/metadata/instance", false),
            ("imds.internal", token, false),
            (IMDS_HOST, "/metadata/identity/info", false),
        ] {
            let before = stack.upstream.requests();
            let answer = send(&stack, metadata, host, target);
            let forwarded = stack.upstream.requests() - before;
            assert_eq!(forwarded, u64::from(is_forwarded), "{action}: {host}{target}: {answer}");
        }
        // A request to another address with the Host of IMDS is rejected, because a route by host could forward it to the node.
        let before = stack.upstream.requests();
        assert!(send(&stack, elsewhere, IMDS_HOST, token).starts_with("HTTP/1.1 403"), "{action}");
        assert_eq!(stack.upstream.requests(), before, "{action}");
        // All other HTTP requests of the pod are forwarded unchanged.
        let other = send(&stack, elsewhere, "other.example", "/a%2fb//c/../d;x");
        assert!(other.contains(r#""path":"/a%2fb//c/../d;x""#), "{action}: {other}");
    }
}

/// Envoy selects the route by host, so a cluster with a fixed endpoint would forward requests for any address to the node.
#[test]
fn the_cluster_of_imds_forwards_to_the_address_that_the_client_connected_to() {
    for file in ["envoy/istio/imds.yaml", "examples/migrate-from-pod-identity/after-istio.yaml"] {
        let objects = stack::document::read(file).unwrap();
        let entry = &objects.iter().find(|object| object["kind"] == "ServiceEntry").unwrap()["spec"];
        assert_eq!((&entry["resolution"], &entry["endpoints"]), (&json!("NONE"), &Value::Null), "{file}");
        let guard = objects.iter().find(|object| object["kind"] == "EnvoyFilter");
        assert_eq!(guard, Some(&manifest(IMDS).object("EnvoyFilter")), "{file}");
    }
}

/// The patch replaces the options that Istio generates, including the one that verifies the server's name.
#[test]
fn the_patched_cluster_still_verifies_the_servers_name() {
    let verified = json!({"auto_sni": true, "auto_san_validation": true});
    assert_eq!(upstream_options()["upstream_http_protocol_options"], verified);
    let cluster = &manifest(UPSTREAM).patch("CLUSTER")["match"]["cluster"];
    assert_eq!(cluster["service"], manifest(SIDECAR).object("ServiceEntry")["spec"]["hosts"][0]);
    assert_eq!(cluster["portNumber"], manifest(SIDECAR).object("ServiceEntry")["spec"]["ports"][0]["number"]);

    let edit = Box::new(|bootstrap: &mut Value| {
        Form::upstream().into_istio(bootstrap);
        let domains =
            format!("static_resources.listeners[{}].{HTTP}.route_config.virtual_hosts[0].domains", sidecar::OUTBOUND);
        set(bootstrap, &domains, json!(["*"])).unwrap();
    });
    let stack = start(Options { edit: Some(edit), ..Options::default() });
    assert_eq!(stack.get("another.example", "/", &[]).status, 503, "the server's certificate is for another name");
}

fn envoys() -> Vec<PathBuf> {
    let count = if envoy::replacement().is_some() { 1 } else { envoy::VERSIONS.len() };
    envoy::VERSIONS.iter().take(count).map(|version| envoy::binary_of(version)).collect()
}

pub(crate) fn start(options: Options) -> Stack {
    Stack::start(options).unwrap_or_else(|error| panic!("{error}"))
}

fn assert_healthy(stack: &Stack) {
    // Envoy ignores fields that it does not know and only counts them.
    assert_eq!(stack.envoy.stat("server.dynamic_unknown_fields").unwrap(), Some(0));
    assert!(stack::eventually(Duration::from_secs(2), || stack.log().contains("event=exchange outcome=issued")));
    let unexpected = stack.forbidden_log_lines();
    assert!(unexpected.is_empty(), "unexpected lines in the log:\n{}", unexpected.join("\n"));
}
