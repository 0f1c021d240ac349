//! Requests to 169.254.169.254 in a real Envoy, in the form that `envoy/sidecar/envoy.yaml` ships: whatever they say of themselves, the
//! node's own identity is out of reach.

use std::path::PathBuf;

use serde_json::{Value, json};
use stack::{CLIENT_ID, HEALTH_HOST, LISTED_HOST, Options, Request, Stack, envoy, sidecar};

use super::{evasions, look_through_log, newest};

/// What this file shows, by its sentences.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("no_request_to_the_metadata_address_reaches_the_node_through_the_plain_sidecar", none_reaches_the_node),
    ("under_report_a_token_request_and_nothing_else_reaches_the_node", report_leaves_token_requests_to_the_node),
    (
        "without_the_filter_the_plain_sidecar_leads_nothing_but_listed_paths_to_the_node",
        nothing_leaks_without_the_filter,
    ),
    ("listed_paths_of_other_clouds_go_on_unchanged", listed_paths_of_other_clouds_go_on),
    ("the_health_listener_answers_its_two_paths_and_nothing_else", health_answers_two_paths),
    ("a_probe_from_outside_the_pod_is_told_the_code_alone", a_probe_is_told_the_code_alone),
];

/// The oldest and the newest Envoy, or the one that takes their place.
fn envoys() -> Vec<PathBuf> {
    let tried = if envoy::replacement().is_some() { 1 } else { envoy::VERSIONS.len() };
    envoy::VERSIONS.iter().take(tried).map(|version| envoy::binary_of(version)).collect()
}

/// A stack whose listener `managed_identity` takes the address that was called from a PROXY header.
fn called(options: Options, more: impl FnOnce(&mut Value) + Send + 'static) -> Stack {
    let edit = Box::new(|document: &mut Value| {
        sidecar::accept_proxy_protocol(document, sidecar::MANAGED_IDENTITY).unwrap();
        more(document);
    });
    newest(Options { edit: Some(edit), ..options })
}

fn configured(configuration: &Value) -> Options {
    Options { configuration: Some(configuration.to_string()), ..Options::default() }
}

fn ask(stack: &Stack, request: &str) -> String {
    let bytes = [evasions::CALLED, request.as_bytes()].concat();
    stack::client::send_bytes(stack.imds_addr(), &bytes).unwrap()
}

fn get(stack: &Stack, host: &str, target: &str) -> String {
    ask(stack, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nMetadata: true\r\nConnection: close\r\n\r\n"))
}

fn token_target() -> &'static str {
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"
}

fn none_reaches_the_node() {
    for (binary, called_as) in envoys().into_iter().zip([evasions::CALLED, evasions::CALLED_MAPPED]) {
        let stack = called(Options { envoy: Some(binary), ..Options::default() }, |_| {});
        evasions::none_reaches_the_node(&stack, stack.imds_addr(), called_as, 404);
        look_through_log(&stack);
    }
    // Where the routes are not those of the manifest, the filter alone keeps them off.
    let stack = called(Options::default(), lead_everything_to_the_node);
    evasions::none_reaches_the_node(&stack, stack.imds_addr(), evasions::CALLED, 403);
    look_through_log(&stack);
}

/// Routes as an operator might have written them before.
fn lead_everything_to_the_node(document: &mut Value) {
    let manager = "static_resources.listeners[managed_identity].filter_chains[0].filters[0].typed_config";
    let manager = stack::document::at_mut(document, manager).unwrap();
    for option in ["normalize_path", "merge_slashes", "path_with_escaped_slashes_action"] {
        manager.as_object_mut().unwrap().shift_remove(option).unwrap();
    }
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "instance_metadata"}});
    manager["route_config"]["virtual_hosts"] = json!([{"name": "all", "domains": ["*"], "routes": [route]}]);
}

fn report_leaves_token_requests_to_the_node() {
    let report = json!({"managed_identity": {"action": "report", "imds": {"pass": ["/metadata/instance"]}}});
    for binary in envoys() {
        let stack = called(Options { envoy: Some(binary), ..configured(&report) }, |_| {});
        for path in
            ["/metadata/identity/oauth2/token", "//metadata/identity/oauth2/token/", "/Metadata/identity/oauth2/token"]
        {
            let before = stack.upstream.requests();
            let target = token_target().replacen("/metadata/identity/oauth2/token", path, 1);
            let answer = get(&stack, "169.254.169.254", &target);
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.contains("resource=https://vault.azure.net"),
                "{answer}"
            );
            assert!(!answer.contains("access_token"), "the node answers: {answer}");
            assert_eq!(stack.upstream.requests(), before + 1);
        }
        // From a loopback address, too, as with AZURE_POD_IDENTITY_AUTHORITY_HOST.
        let tried = stack::eventually(std::time::Duration::from_secs(5), || stack.directory().stats().issued == 1);
        assert!(tried, "and the exchange was made all the same");
        let before = stack.upstream.requests();
        for evasion in evasions::all().into_iter().filter(|evasion| evasion.kind == evasions::Kind::ForeignHost) {
            let answer =
                stack::client::send_bytes(stack.imds_addr(), &[evasions::CALLED, &evasion.bytes].concat()).unwrap();
            assert_eq!(stack.upstream.requests(), before, "{} reached the node: {answer}", evasion.name);
        }
        for target in ["/metadata/identity/info", "/metadata/identity/getplatformmetadata", "/metadata/scheduledevents"]
        {
            get(&stack, "169.254.169.254", target);
            assert_eq!(stack.upstream.requests(), before, "{target}");
        }
        look_through_log(&stack);
    }
}

/// With the filter taken out, and with the section taken out.
fn nothing_leaks_without_the_filter() {
    let without_section = json!({"destinations": [{"hosts": [LISTED_HOST], "action": "report",
        "scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"]}]});
    let without_filter = called(Options::default(), |document| {
        let filters =
            "static_resources.listeners[managed_identity].filter_chains[0].filters[0].typed_config.http_filters";
        let filters = stack::document::at_mut(document, filters).unwrap().as_array_mut().unwrap();
        filters.retain(|filter| filter["name"] != "entra-exchange");
        let text = document.to_string();
        assert!(text.contains("entra-exchange.wasm"), "the other listeners have it still");
    });
    for stack in [without_filter, called(configured(&without_section), |_| {})] {
        for host in ["169.254.169.254", "localhost", "imds.internal", LISTED_HOST] {
            let answer = get(&stack, host, token_target());
            assert!(answer.starts_with("HTTP/1.1 404"), "{host}: {answer}");
        }
        assert_eq!(stack.upstream.requests(), 0);
    }
}

fn listed_paths_of_other_clouds_go_on() {
    let configuration = json!({"managed_identity": {"imds": {"pass": ["/latest", "/computeMetadata/v1"]}}});
    let stack = called(configured(&configuration), |document| {
        let hosts = "static_resources.listeners[managed_identity].filter_chains[0].filters[0].typed_config.route_config\
                     .virtual_hosts[managed_identity]";
        let hosts = stack::document::at_mut(document, hosts).unwrap();
        hosts["domains"].as_array_mut().unwrap().push(json!("metadata.google.internal"));
        for path in ["/latest", "/computeMetadata/v1"] {
            let route = json!({"match": {"path_separated_prefix": path}, "route": {"cluster": "instance_metadata"}});
            hosts["routes"].as_array_mut().unwrap().insert(0, route);
        }
    });
    let seen = |request: &str| -> Value {
        let answer = ask(&stack, request);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    };
    let header = |seen: &Value, name: &str| {
        let headers = seen["headers"].as_array().unwrap().iter();
        headers.filter(|header| header[0] == name).map(|header| header[1].as_str().unwrap().to_owned()).next()
    };
    let put = seen(
        "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
    );
    assert_eq!((&put["method"], &put["path"]), (&json!("PUT"), &json!("/latest/api/token")));
    assert_eq!(header(&put, "x-aws-ec2-metadata-token-ttl-seconds").as_deref(), Some("21600"));
    // AWS and Google refuse a request that was forwarded.
    assert_eq!(header(&put, "x-forwarded-for"), None);
    let google = seen(
        "GET /computeMetadata/v1/instance/id?alt=text HTTP/1.1\r\nHost: metadata.google.internal\r\nMetadata-Flavor: Google\r\n\
         Connection: close\r\n\r\n",
    );
    assert_eq!(google["path"], "/computeMetadata/v1/instance/id?alt=text");
    assert_eq!(header(&google, "metadata-flavor").as_deref(), Some("Google"));
    assert_eq!(header(&google, "host").as_deref(), Some("metadata.google.internal"));
    for target in ["/latest/../metadata/identity/oauth2/token", "/metadata/identity/info", "/metadata/instance"] {
        let before = stack.upstream.requests();
        get(&stack, "169.254.169.254", target);
        assert_eq!(stack.upstream.requests(), before, "{target}");
    }
    look_through_log(&stack);
}

fn health_answers_two_paths() {
    for binary in envoys() {
        let configuration = json!({
            "destinations": [{"hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "tls_clusters": ["health"]}],
            "managed_identity": {"imds": {}, "app_service": {}, "health": {"hosts": [HEALTH_HOST]}},
            "status": {"hosts": [HEALTH_HOST, "localhost"]},
        });
        let stack = newest(Options { envoy: Some(binary), ..configured(&configuration) });
        let send = |host: &str, path: &str| stack.send_health(&Request::get(host, path)).unwrap();
        assert_eq!((send(HEALTH_HOST, "/healthz").status, send(HEALTH_HOST, "/readyz").status), (200, 200));
        assert_eq!(send(&format!("{HEALTH_HOST}:15003"), "/healthz").status, 200);
        for (host, path) in [
            (HEALTH_HOST, "/"),
            (HEALTH_HOST, "/entra-exchange/status"),
            (HEALTH_HOST, "/readyz/"),
            (HEALTH_HOST, "/readyz/../entra-exchange/status"),
            (HEALTH_HOST, token_target()),
            ("localhost", "/entra-exchange/status"),
            ("169.254.169.254", token_target()),
            ("127.0.0.1", "/msi/token?api-version=2019-08-01&resource=x"),
            ("127.0.0.1", "/readyz"),
            (LISTED_HOST, "/secrets"),
        ] {
            let answer = send(host, path);
            assert_eq!((answer.status, answer.text().as_str()), (404, ""), "{host}{path}");
        }
        assert_eq!(stack.directory().stats().token_requests, 0);
        look_through_log(&stack);
    }
}

fn a_probe_is_told_the_code_alone() {
    let edit = Box::new(|document: &mut Value| sidecar::accept_proxy_protocol(document, sidecar::HEALTH).unwrap());
    let options = Options { edit: Some(edit), token: Some("no token".to_owned()), ..Options::default() };
    let stack = newest(options);
    let probe = |address: &str| {
        let request = format!(
            "PROXY TCP4 10.0.0.1 {address} 50000 15003\r\nGET /readyz HTTP/1.1\r\nHost: {HEALTH_HOST}\r\nConnection: close\r\n\r\n"
        );
        stack::client::send_bytes(stack.health_addr(), request.as_bytes()).unwrap()
    };
    // The first waits for the reading of the federated token, the second does not.
    for _ in 0..2 {
        let outside = probe("10.0.0.7");
        assert!(outside.starts_with("HTTP/1.1 503") && outside.contains(r#""code":"assertion_"#), "{outside}");
        for told in [stack::TENANT_ID, CLIENT_ID, stack::ISSUER_URL, stack::SUBJECT, "default"] {
            assert!(!outside.contains(told), "{told} in {outside}");
        }
        assert!(outside.contains("Only callers in the pod are told the details"), "{outside}");
        assert!(probe("127.0.0.1").contains("JWT"), "{}", probe("127.0.0.1"));
    }
    look_through_log(&stack);
}
