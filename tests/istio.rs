//! `envoy/istio/`: the Envoy parts of its manifests, taken out and put together as istiod and the istio-agent do it, in a real Envoy.

// A test may fail where it stands.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fake_entra::Credential;
use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{
    AUDIENCE, IMDS_HOST, ISSUER_URL, LISTED_HOST, Mesh, Options, Request, Response, SUBJECT, Stack, TENANT_ID,
    UNLISTED_HOST, sidecar,
};

const FOLDER: &str = "envoy/istio";
const SIDECAR: &str = "envoyfilter.yaml";
const GATEWAY: &str = "egress-gateway.yaml";
const UPSTREAM: &str = "upstream.yaml";
const WASM_PLUGIN: &str = "wasmplugin.yaml";
const TRAFFIC_EXTENSION: &str = "trafficextension.yaml";
const WORKLOAD: &str = "workload.yaml";
const IMDS: &str = "imds.yaml";

/// The newest Envoy that is tried, and the oldest. `ENVOY` in the environment takes the place of both.
const VERSIONS: [&str; 2] = ["1.40.0", "1.36.2"];

const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// What needs an extension stands here only if Istio's Envoy has that extension: Istio builds it from a list of its own, which lacks
/// `envoy.formatter.file_content`, the `generic_secret` of the credential injector and `file_server`, among others.
const TYPES_IN_ISTIO: [&str; 8] = [
    RBAC,
    WASM,
    "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    // Parts of the router.
    "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
    "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    // No extension.
    "type.googleapis.com/google.protobuf.StringValue",
];

/// What a developer's machine has elsewhere than a pod; the stack has set the same paths of the sidecar's bootstrap already. Beside
/// these, only the module is a local file, as the istio-agent makes it, and the filter is discovered in a file instead of by ADS.
fn substitutions() -> [String; 5] {
    let entra =
        "static_resources.clusters[entra].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address";
    [
        format!("{entra}.address"),
        format!("{entra}.port_value"),
        sidecar::trusted_ca("entra"),
        format!("static_resources.listeners[projected_token].{TOKEN_BODY}.filename"),
        format!("static_resources.listeners[projected_token].{TOKEN_BODY}.watched_directory.path"),
    ]
}

const TOKEN_BODY: &str = "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[projected_token].routes[0]\
                          .direct_response.body";
const HTTP: &str = "filter_chains[0].filters[0].typed_config";
const PROTOCOL: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

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
    // Up to Istio 1.29 the first, from 1.30 on the second.
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
        let form = form.clone();
        let edit = Box::new(move |bootstrap: &mut Value| form.into_istio(bootstrap));
        let stack = start(Options { envoy, edit: Some(edit), ..Options::default() });
        for _ in 0..3 {
            let answer = stack.get(LISTED_HOST, "/secrets/db?api-version=7.4", &[]);
            assert_eq!(answer.status, 200, "{}\n{}", answer.text(), stack.log());
            assert!(answer.seen_header("authorization").is_some_and(|value| value.starts_with("Bearer ey")));
        }
        assert_eq!(stack.directory().stats().token_requests, 1, "exchanges");
        is_in_order(&stack);
    }
}

const BLOB: &str = "paymentsdata.blob.core.windows.net";
const OPENAI: &str = "contoso-eu.openai.azure.com";
const GOVERNMENT: &str = "agency-kv.vault.usgovcloudapi.net";

/// What the token that the upstream saw says of itself.
fn claims(answer: &Response) -> Value {
    let header = answer.seen_header("authorization").unwrap_or_else(|| panic!("no token: {}", answer.text()));
    let token = header.strip_prefix("Bearer ").unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

fn audience(answer: &Response) -> String {
    claims(answer)["aud"].as_str().unwrap().to_owned()
}

fn run(form: Form, options: Options) -> Stack {
    start(Options { edit: Some(Box::new(move |bootstrap: &mut Value| form.into_istio(bootstrap))), ..options })
}

#[test]
fn two_services_of_azures_get_each_its_own_token() {
    let configuration = json!({"defaults": {"tls_clusters": ["outbound|80||{host}"]}, "destinations": [
        {"azure_service": "key_vault", "names": ["payments-kv"]},
        {"azure_service": "blob_storage", "names": ["paymentsdata"]},
    ]});
    let stack = run(Form::scenario(configuration, &[LISTED_HOST, BLOB]), Options::default());
    assert_eq!(audience(&stack.get(LISTED_HOST, "/secrets/db", &[])), "https://vault.azure.net");
    assert_eq!(
        audience(&stack.get(BLOB, "/invoices/1", &[("x-ms-version", "2021-12-02")])),
        "https://storage.azure.com"
    );
    // A SAS is a credential of the application's own.
    let signed = stack.get(BLOB, "/invoices/1?sv=2021-12-02&sig=abc%3D", &[]);
    assert_eq!((signed.status, signed.seen_header("authorization")), (200, None));
    assert_eq!(stack.directory().stats().token_requests, 2);
    is_in_order(&stack);
}

#[test]
fn a_pod_without_its_variables_says_so_on_the_listed_hosts_alone() {
    let configuration = json!({"destinations": [
        {"azure_service": "key_vault", "names": ["payments-kv"], "tls_clusters": ["outbound|80||{host}"]},
    ]});
    let options = Options::default().variable("AZURE_CLIENT_ID", None);
    let stack = run(Form::scenario(configuration, &[LISTED_HOST, UNLISTED_HOST]), options);
    let answer = stack.get(LISTED_HOST, "/secrets/db", &[]);
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("variable_missing")));
    assert_eq!(stack.get(UNLISTED_HOST, "/", &[]).status, 200);
}

#[test]
fn an_api_key_that_a_client_insists_on_gives_way_to_the_token() {
    let configuration = json!({"destinations": [{"azure_service": "azure_openai", "names": ["contoso-eu", "contoso-us"],
        "tls_clusters": ["outbound|80||{host}"], "existing_credential": "replace"}]});
    let stack = run(Form::scenario(configuration, &[OPENAI]), Options::default());
    stack.directory().register_resource("https://cognitiveservices.azure.com");
    let answer = stack.get(OPENAI, "/openai/deployments/gpt/chat/completions", &[("api-key", "unused")]);
    assert_eq!(audience(&answer), "https://cognitiveservices.azure.com");
    assert_eq!(answer.seen_header("api-key"), None);
}

#[test]
fn the_same_text_is_right_in_the_us_governments_cloud() {
    let configuration = json!({"destinations": [
        {"azure_service": "key_vault", "names": ["agency-kv"], "tls_clusters": ["outbound|80||{host}"]},
    ]});
    let form = Form::scenario(configuration, &[GOVERNMENT, LISTED_HOST]);
    let edit = Box::new(move |bootstrap: &mut Value| {
        form.into_istio(bootstrap);
        // As the manifest says: three times in the cluster `entra`; the address is the fake's here.
        let entra = at_mut(bootstrap, "static_resources.clusters[entra]").unwrap();
        let text = entra.to_string().replace("login.microsoftonline.com", "login.microsoftonline.us");
        *entra = serde_json::from_str(&text).unwrap();
    });
    let options = Options::default().variable("AZURE_AUTHORITY_HOST", Some("https://login.microsoftonline.us/"));
    let stack = start(Options { edit: Some(edit), ..options });
    stack.directory().register_resource("https://vault.usgovcloudapi.net");
    assert_eq!(audience(&stack.get(GOVERNMENT, "/secrets/db", &[])), "https://vault.usgovcloudapi.net");
    let answer = stack.get("agency-kv.vault.azure.net", "/secrets/db", &[]);
    assert_eq!(answer.status, 404, "the public cloud's host is not routed, and not listed");
    assert_eq!(stack.get(LISTED_HOST, "/", &[]).seen_header("authorization"), None);
}

/// Thirty workloads are as two: whose token a request gets is decided by the caller's certificate alone.
#[test]
fn at_the_egress_gateway_each_caller_gets_the_token_of_its_own_identity() {
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
        // What Istio makes of `tls: { mode: ISTIO_MUTUAL }`; a gateway's node has this kind of id.
        let chain = format!("static_resources.listeners[{}].filter_chains[0]", sidecar::OUTBOUND);
        at_mut(bootstrap, &chain).unwrap()["transport_socket"] = socket;
        set(bootstrap, "node.id", "router~10.0.0.1~egress-5c8.payments~payments.svc.cluster.local").unwrap();
    });
    let stack = start(Options { edit: Some(edit), ..Options::default() });
    stack.directory().register_resource("https://graph.microsoft.com");
    for client_id in [payments, reports] {
        let credential = Credential {
            tenant_id: TENANT_ID.to_owned(),
            client_id: client_id.to_owned(),
            issuer: ISSUER_URL.to_owned(),
            subject: SUBJECT.to_owned(),
            audience: AUDIENCE.to_owned(),
        };
        stack.directory().register_credential(credential).unwrap();
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
        // Its destination names another identity, and that one is not its own.
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
    assert_eq!((elsewhere.status, elsewhere.seen_header("authorization")), (200, None), "not listed: Istio's business");
    // Two identities, two resources, three of the four that could be.
    assert_eq!(stack.directory().stats().token_requests, 3);
    is_in_order(&stack);
}

#[test]
fn a_call_to_imds_is_answered_in_the_sidecar() {
    let entry = manifest(IMDS).object("ServiceEntry")["spec"].take();
    assert_eq!(entry["addresses"], json!([IMDS_HOST]));
    assert_eq!(entry["endpoints"], json!([{"address": IMDS_HOST}]));
    assert_eq!(entry["ports"], json!([{"number": 80, "name": "http", "protocol": "HTTP"}]));
    assert_eq!(manifest(SIDECAR).patch("HTTP_FILTER")["match"]["listener"]["portNumber"], 80);

    let edit = Box::new(|bootstrap: &mut Value| {
        let mut form = Form::envoy_filter(SIDECAR);
        form.configure(|configuration| configuration["managed_identity"] = json!({"imds": {}}));
        form.into_istio(bootstrap);
        let hosts = format!("static_resources.listeners[{}].{HTTP}.route_config.virtual_hosts", sidecar::OUTBOUND);
        // No route: were it not answered, the answer would be 404.
        let host = json!({"name": format!("{IMDS_HOST}:80"), "domains": [IMDS_HOST]});
        at_mut(bootstrap, &hosts).unwrap().as_array_mut().unwrap().push(host);
    });
    let stack = start(Options { edit: Some(edit), ..Options::default() });
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
    let answer = stack.get(IMDS_HOST, path, &[("metadata", "true")]);
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), stack.log());
    assert!(answer.json()["access_token"].as_str().unwrap().starts_with("ey"));
    assert_eq!(stack.get(IMDS_HOST, path, &[]).status, 400, "without Metadata: true");
    is_in_order(&stack);
}

/// A patch takes the place of what Istio had put there, the line by which the server's name is verified among it.
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
    assert_eq!(stack.get("another.example", "/", &[]).status, 503, "its certificate has another name");
}

#[test]
fn the_upstream_has_tls_and_its_name_is_verified() {
    for (file, port) in [
        (SIDECAR, json!({"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 443})),
        (GATEWAY, json!({"number": 443, "name": "https", "protocol": "HTTPS"})),
    ] {
        let manifest = manifest(file);
        let entry = manifest.object("ServiceEntry");
        assert!(entry["spec"]["ports"].as_array().unwrap().contains(&port), "{file}");
        // Any more, such as `sni`, and Istio asks for `subjectAltNames`, too.
        let settings = json!([{"port": {"number": port["number"]}, "tls": {"mode": "SIMPLE"}}]);
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
    assert_eq!(sidecar.patch("HTTP_FILTER")["match"]["listener"]["portNumber"], *port);
    let gateway = manifest(GATEWAY);
    let server = &gateway.object("Gateway")["spec"]["servers"][0];
    assert_eq!(gateway.patch("HTTP_FILTER")["match"]["listener"]["portNumber"], server["port"]["number"]);
    assert_eq!(server["tls"], json!({"mode": "ISTIO_MUTUAL"}), "the caller is known");
    assert_eq!(gateway.object("AuthorizationPolicy")["spec"]["action"], "ALLOW");
}

#[test]
fn istios_envoy_has_every_extension_in_it() {
    for name in files() {
        for document in manifest(&name).0 {
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
fn every_object_of_istios_says_whom_it_is_for_and_in_which_order() {
    for name in files() {
        for object in manifest(&name).0 {
            let (kind, spec) = (object["kind"].as_str().unwrap(), &object["spec"]);
            let labels = match kind {
                "EnvoyFilter" => &spec["workloadSelector"]["labels"],
                "WasmPlugin" | "TrafficExtension" => &spec["selector"]["matchLabels"],
                _ => continue,
            };
            assert!(spec["priority"].is_i64(), "{name}: {kind} without priority");
            assert!(labels.as_object().is_some_and(|labels| !labels.is_empty()), "{name}: {kind} for all pods");
        }
        // YAML makes a number of a digest that is all digits.
        let text = fs::read_to_string(stack::root().join(FOLDER).join(&name)).unwrap();
        for line in text.lines().filter(|line| line.trim_start().starts_with("sha256:")) {
            let value = line.split_once(": ").map(|(_, value)| value.trim_matches('"')).unwrap();
            assert!(line.ends_with(&format!("\"{value}\"")) && value.len() == 64, "{name}: {line}");
        }
    }
}

#[test]
fn what_the_agent_puts_in_the_filters_place_is_taken() {
    let name = manifest(SIDECAR).value("EXTENSION_CONFIG")["name"].take();
    for (discovered, types) in [
        (manifest(SIDECAR).value("HTTP_FILTER"), json!([WASM, RBAC])),
        (manifest(GATEWAY).value("HTTP_FILTER"), json!([WASM, RBAC])),
        // Envoy 1.36 refuses a cluster that may discover an RBAC.
        (upstream_options()["http_filters"][0].take(), json!([WASM])),
    ] {
        assert_eq!((&discovered["name"], &discovered["config_discovery"]["type_urls"]), (&name, &types));
    }
}

#[test]
fn the_filter_may_do_the_same_as_in_the_plain_sidecar() {
    let mut plain = sidecar::document().unwrap();
    let plain = at_mut(&mut plain, &sidecar::filter(sidecar::OUTBOUND)).unwrap();
    for name in [SIDECAR, GATEWAY] {
        let mut extension = manifest(name).value("EXTENSION_CONFIG");
        let here = at_mut(&mut extension, "typed_config.config").unwrap();
        let capabilities = &here["capability_restriction_config"]["allowed_capabilities"];
        assert!(capabilities.as_object().is_some_and(|list| !list.is_empty()));
        let variables = &here["vm_config"]["environment_variables"]["host_env_keys"];
        assert_eq!(*variables, json!(["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_AUTHORITY_HOST"]), "{name}");
        // Where the module is from, what it decides, and that nobody asks it as App Service, is all that differs.
        for differs in ["vm_config.code", "vm_config.environment_variables.host_env_keys", "configuration.value"] {
            for document in [&mut *plain, &mut *here] {
                set(document, differs, Value::Null).unwrap();
            }
        }
        assert_eq!(here, plain, "{name}");
    }
}

#[test]
fn entra_and_the_projected_token_are_reached_as_in_the_plain_sidecar() {
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
fn the_plugins_are_the_same_filter() {
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
    let url = &filter["vm_config"]["code"]["remote"]["http_uri"]["uri"];
    assert_eq!(
        (&plugin["url"], &plugin["failStrategy"], &plugin["pluginName"]),
        (url, &filter["failure_policy"], &filter["root_id"])
    );
    let names: Vec<&Value> = plugin["vmConfig"]["env"].as_array().unwrap().iter().map(|env| &env["name"]).collect();
    assert_eq!(json!(names), filter["vm_config"]["environment_variables"]["host_env_keys"]);
}

#[test]
fn a_pod_of_ours_has_what_the_filter_reads() {
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

/// One form in which Istio gives the filter to Envoy.
#[derive(Clone)]
struct Form {
    /// The manifest with the ways to Entra and to the token.
    file: &'static str,
    /// What Envoy discovers, by its name.
    extension: Value,
    /// What stands in the chain, without where it is discovered.
    filter: Value,
    place: Place,
    /// The hosts of the ServiceEntry, each with its own cluster.
    hosts: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// In the listener's chain.
    Downstream,
    /// In the chain of the cluster that leads to the upstream.
    Upstream,
}

impl Form {
    /// As the manifest's own EXTENSION_CONFIG and HTTP_FILTER say it.
    fn envoy_filter(file: &'static str) -> Self {
        let manifest = manifest(file);
        let mut extension = manifest.value("EXTENSION_CONFIG");
        let uri = at_mut(&mut extension, "typed_config.config.vm_config.code.remote.http_uri.uri").unwrap();
        assert!(uri.as_str().unwrap().starts_with("oci://"));
        let hosts = vec![LISTED_HOST.to_owned()];
        Self { file, extension, filter: manifest.value("HTTP_FILTER"), place: Place::Downstream, hosts }
    }

    /// With the patch of the cluster in place of the HTTP_FILTER.
    fn upstream() -> Self {
        let filter = upstream_options()["http_filters"][0].take();
        Self { filter, place: Place::Upstream, ..Self::envoy_filter(SIDECAR) }
    }

    /// As istiod makes it of a WasmPlugin, or of a TrafficExtension's `wasm`: no `vm_id`, and the configuration as JSON in a text.
    fn plugin(name: &str, spec: &Value) -> Self {
        let name = format!("extensions.istio.io/{name}");
        let variables = spec["vmConfig"]["env"].as_array().unwrap();
        assert!(variables.iter().all(|variable| variable["valueFrom"] == "HOST"));
        assert_eq!(spec["failStrategy"], "FAIL_RELOAD");
        let extension = json!({"name": name, "typed_config": {"@type": WASM, "config": {
            "name": name.rsplit('/').next(),
            "root_id": spec["pluginName"],
            "failure_policy": "FAIL_RELOAD",
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": spec["pluginConfig"].to_string(),
            },
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": null,
                "environment_variables": {
                    "host_env_keys": variables.iter().map(|variable| &variable["name"]).collect::<Vec<_>>(),
                    "key_values": {"ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "1"},
                },
            },
        }}});
        let discovery = json!({"config_source": {"ads": {}, "initial_fetch_timeout": "0s"}, "type_urls": [WASM, RBAC]});
        let filter = json!({"name": name, "config_discovery": discovery});
        Self { extension, filter, ..Self::envoy_filter(SIDECAR) }
    }

    /// The sidecar with another configuration, and the ServiceEntry and DestinationRules for its hosts.
    fn scenario(configuration: Value, hosts: &[&str]) -> Self {
        let mut form = Self::envoy_filter(SIDECAR);
        form.configure(|written| *written = configuration);
        form.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        form
    }

    /// Changes what the module decides.
    fn configure(&mut self, change: impl FnOnce(&mut Value)) {
        let text = at_mut(&mut self.extension, "typed_config.config.configuration.value").unwrap();
        let mut configuration = serde_json::from_str(text.as_str().unwrap()).unwrap();
        change(&mut configuration);
        *text = json!(configuration.to_string());
    }

    /// Makes the sidecar's bootstrap the one that Istio gives a pod's Envoy. Of the sidecar's own only the listener `outbound`
    /// remains, and those for which the stack waits; all without the filter.
    fn into_istio(self, bootstrap: &mut Value) {
        let mut plain = bootstrap.clone();
        let manifest = manifest(self.file);
        let filter = self.discovered(&mut plain);

        let mut clusters = manifest.values("CLUSTER");
        // Istio has another for the ServiceEntry of IMDS; the route of the listener that remains knows this one.
        clusters.push(at_mut(&mut plain, "static_resources.clusters[instance_metadata]").unwrap().clone());
        let mut hosts = Vec::new();
        for host in &self.hosts {
            // What Istio makes of the ServiceEntry and the DestinationRule: the name to verify is the request's host, as in the
            // plain sidecar's cluster `elsewhere`.
            let name = form_cluster(self.file).replace(LISTED_HOST, host);
            let mut upstream = at_mut(&mut plain, "static_resources.clusters[elsewhere]").unwrap().clone();
            set(&mut upstream, "name", name.as_str()).unwrap();
            set(&mut upstream, "load_assignment.cluster_name", name.as_str()).unwrap();
            if self.place == Place::Upstream {
                let mut options = upstream_options();
                options["http_filters"][0] = filter.clone();
                upstream["typed_extension_protocol_options"] = json!({PROTOCOL: options});
            }
            clusters.push(upstream);
            let route = json!({"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}});
            hosts.push(json!({"name": format!("{host}:80"), "domains": [host], "routes": [route]}));
        }
        set(bootstrap, "static_resources.clusters", clusters).unwrap();

        let listeners = at_mut(bootstrap, "static_resources.listeners").unwrap().as_array_mut().unwrap();
        listeners.retain(|listener| listener["name"] != "projected_token");
        for listener in &mut *listeners {
            let filters = at_mut(listener, &format!("{HTTP}.http_filters")).unwrap().as_array_mut().unwrap();
            filters.retain(|filter| filter["name"] != "entra-exchange");
        }
        listeners.push(manifest.value("LISTENER"));

        for path in substitutions() {
            let local = at_mut(&mut plain, &path).unwrap().clone();
            set(bootstrap, &path, local).unwrap();
        }

        let http = format!("static_resources.listeners[{}].{HTTP}", sidecar::OUTBOUND);
        let http = at_mut(bootstrap, &http).unwrap();
        set(http, "route_config.virtual_hosts", hosts).unwrap();
        if self.place == Place::Downstream {
            insert(&manifest.patch("HTTP_FILTER"), at_mut(http, "http_filters").unwrap(), filter);
        }
    }

    /// The filter as it stands in the chain, and beside the stack's other files the one in which Envoy discovers the rest.
    fn discovered(&self, plain: &mut Value) -> Value {
        let module = at_mut(plain, &format!("{}.vm_config.code", sidecar::filter(sidecar::OUTBOUND))).unwrap().clone();
        let built = module["local"]["filename"].as_str().is_some_and(|path| Path::new(path).is_file());
        assert!(built, "there is no filter at {module}: build it first (`make`)");
        let mut extension = self.extension.clone();
        set(&mut extension, "typed_config.config.vm_config.code", module).unwrap();
        extension["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
        let ca = at_mut(plain, &sidecar::trusted_ca("entra")).unwrap().as_str().unwrap();
        // In a folder of its own: Envoy watches the whole folder, and its log grows in the other.
        let file = Path::new(ca).with_file_name("discovered").join("extensions.json");
        fs::create_dir(file.parent().unwrap()).unwrap();
        fs::write(&file, json!({"version_info": "1", "resources": [extension]}).to_string()).unwrap();

        let mut filter = self.filter.clone();
        let source = at_mut(&mut filter, "config_discovery.config_source").unwrap().as_object_mut().unwrap();
        assert_eq!(source.remove("ads"), Some(json!({})));
        source.insert("path_config_source".to_owned(), json!({"path": file}));
        filter
    }
}

/// Istio's name for the cluster that leads to the upstream, as the filter's configuration has it.
fn form_cluster(file: &str) -> String {
    let manifest = manifest(file);
    let extension = manifest.value("EXTENSION_CONFIG");
    let text = extension["typed_config"]["config"]["configuration"]["value"].as_str().unwrap();
    let configuration: Value = serde_json::from_str(text).unwrap();
    let destination = &configuration["destinations"][0];
    let host = manifest.object("ServiceEntry")["spec"]["hosts"][0].as_str().unwrap().to_owned();
    assert_eq!(host, format!("{}.vault.azure.net", destination["names"][0].as_str().unwrap()));
    destination["tls_clusters"][0].as_str().unwrap().replace("{host}", &host)
}

/// What the patch of a cluster puts there.
fn upstream_options() -> Value {
    let patch = manifest(UPSTREAM).patch("CLUSTER");
    assert_eq!(patch["patch"]["operation"], "MERGE");
    patch["patch"]["value"]["typed_extension_protocol_options"][PROTOCOL].clone()
}

/// Carries out the HTTP_FILTER patch.
fn insert(patch: &Value, filters: &mut Value, filter: Value) {
    assert_eq!(patch["patch"]["operation"], "INSERT_BEFORE");
    let chain = &patch["match"]["listener"]["filterChain"]["filter"];
    assert_eq!(chain["name"], "envoy.filters.network.http_connection_manager");
    let filters = filters.as_array_mut().unwrap();
    let place = filters.iter().position(|other| other["name"] == chain["subFilter"]["name"]).unwrap();
    filters.insert(place, filter);
}

/// The objects of a file.
struct Manifest(Vec<Value>);

fn manifest(name: &str) -> Manifest {
    Manifest(stack::document::read(&format!("{FOLDER}/{name}")).unwrap())
}

fn files() -> Vec<String> {
    let folder = fs::read_dir(stack::root().join(FOLDER)).unwrap();
    folder.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

impl Manifest {
    fn objects(&self, kind: &str) -> Vec<Value> {
        self.0.iter().filter(|object| object["kind"] == kind).cloned().collect()
    }

    /// The first object of this kind.
    fn object(&self, kind: &str) -> Value {
        self.objects(kind).into_iter().next().unwrap_or_else(|| panic!("no {kind}"))
    }

    /// The patches that apply to this, in their order.
    fn patches(&self, to: &str) -> Vec<Value> {
        let filters = self.objects("EnvoyFilter");
        let patches = filters.iter().flat_map(|filter| filter["spec"]["configPatches"].as_array().unwrap());
        patches.filter(|patch| patch["applyTo"] == to).cloned().collect()
    }

    fn patch(&self, to: &str) -> Value {
        only(self.patches(to))
    }

    /// The Envoy parts of these patches.
    fn values(&self, to: &str) -> Vec<Value> {
        self.patches(to).into_iter().map(|mut patch| patch["patch"]["value"].take()).collect()
    }

    fn value(&self, to: &str) -> Value {
        only(self.values(to))
    }
}

fn only(mut list: Vec<Value>) -> Value {
    assert_eq!(list.len(), 1, "{list:?}");
    list.remove(0)
}

fn envoys() -> Vec<Option<PathBuf>> {
    match std::env::var_os("ENVOY") {
        Some(_) => vec![None],
        None => {
            let binary = |version| stack::root().join(format!(".tools/envoy-{version}/envoy/_bin/envoy"));
            VERSIONS.map(|version| Some(binary(version))).to_vec()
        }
    }
}

fn start(options: Options) -> Stack {
    Stack::start(options).unwrap_or_else(|error| panic!("{error}"))
}

fn is_in_order(stack: &Stack) {
    // What istiod does not know it drops, with no more than a warning.
    assert_eq!(stack.envoy.stat("server.dynamic_unknown_fields").unwrap(), Some(0));
    assert!(stack::eventually(Duration::from_secs(2), || stack.log().contains("event=exchange outcome=issued")));
    for wrong in ["restricted", "panicked", "Function: proxy_on", "eyJ"] {
        assert!(!stack.log().contains(wrong), "{wrong:?} in the log:\n{}", stack.log());
    }
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
