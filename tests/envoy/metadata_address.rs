//! Requests to 169.254.169.254 in a real Envoy with `envoy/sidecar/envoy.yaml`: no request can reach the node's own identity.

use std::path::PathBuf;

use serde_json::{Value, json};
use stack::{CLIENT_ID, HEALTH_HOST, LISTED_HOST, Options, Request, Stack, envoy, sidecar};

use super::{assert_clean_log, evasions, newest};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("no_token_request_to_the_metadata_address_reaches_the_node_through_the_plain_sidecar", none_reaches_the_node),
    ("in_report_mode_only_token_requests_reach_the_node", report_forwards_token_requests_to_the_node),
    (
        "without_the_filter_the_plain_sidecar_forwards_only_listed_paths_to_the_node",
        no_token_request_is_forwarded_without_the_filter,
    ),
    ("listed_paths_of_other_clouds_are_forwarded_unchanged", listed_paths_of_other_clouds_are_forwarded),
    ("the_health_listener_answers_only_its_two_paths", health_answers_two_paths),
    ("a_probe_from_outside_the_pod_gets_only_the_code_of_a_problem", a_probe_from_outside_gets_only_the_code),
];

/// The newest and the oldest Envoy, or the binary that replaces them.
fn envoys() -> Vec<PathBuf> {
    let count = if envoy::replacement().is_some() { 1 } else { envoy::VERSIONS.len() };
    envoy::VERSIONS.iter().take(count).map(|version| envoy::binary_of(version)).collect()
}

/// A stack whose listener `managed_identity` reads the original destination address from a PROXY header.
fn with_proxy_header(options: Options, change: impl FnOnce(&mut Value) + Send + 'static) -> Stack {
    let edit = Box::new(|document: &mut Value| {
        sidecar::accept_proxy_protocol(document, sidecar::MANAGED_IDENTITY).unwrap();
        change(document);
    });
    newest(Options { edit: Some(edit), ..options })
}

fn configured(configuration: &Value) -> Options {
    Options { configuration: Some(configuration.to_string()), ..Options::default() }
}

fn send(stack: &Stack, request: &str) -> String {
    let bytes = [evasions::CALLED, request.as_bytes()].concat();
    stack::client::send_bytes(stack.imds_addr(), &bytes).unwrap()
}

fn get(stack: &Stack, host: &str, target: &str) -> String {
    send(stack, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nMetadata: true\r\nConnection: close\r\n\r\n"))
}

fn token_target() -> &'static str {
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"
}

fn none_reaches_the_node() {
    for (binary, called_as) in envoys().into_iter().zip([evasions::CALLED, evasions::CALLED_MAPPED]) {
        let stack = with_proxy_header(Options { envoy: Some(binary), ..Options::default() }, |_| {});
        evasions::none_reaches_the_node(&stack, stack.imds_addr(), called_as, 404);
        assert_clean_log(&stack);
    }
    // With other routes than the manifest's, only the filter stops the requests.
    let stack = with_proxy_header(Options::default(), route_everything_to_the_node);
    evasions::none_reaches_the_node(&stack, stack.imds_addr(), evasions::CALLED, 403);
    assert_clean_log(&stack);
}

/// Routes that an operator might have configured without the manifest's restrictions.
fn route_everything_to_the_node(document: &mut Value) {
    let manager = "static_resources.listeners[managed_identity].filter_chains[0].filters[0].typed_config";
    let manager = stack::document::at_mut(document, manager).unwrap();
    for option in ["normalize_path", "merge_slashes", "path_with_escaped_slashes_action"] {
        manager.as_object_mut().unwrap().shift_remove(option).unwrap();
    }
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "instance_metadata"}});
    manager["route_config"]["virtual_hosts"] = json!([{"name": "all", "domains": ["*"], "routes": [route]}]);
}

fn report_forwards_token_requests_to_the_node() {
    let report = json!({"managed_identity": {"action": "report", "imds": {"pass": ["/metadata/instance"]}}});
    for binary in envoys() {
        let stack = with_proxy_header(Options { envoy: Some(binary), ..configured(&report) }, |_| {});
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
        let exchanged = stack::eventually(std::time::Duration::from_secs(5), || stack.directory().stats().issued == 1);
        assert!(exchanged, "report mode makes the exchange, too");
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
        assert_clean_log(&stack);
    }
}

/// Without the filter, and without the section `managed_identity`.
fn no_token_request_is_forwarded_without_the_filter() {
    let without_section = json!({"destinations": [{"hosts": [LISTED_HOST], "action": "report",
        "scope": "https://vault.azure.net/.default", "tls_clusters": ["payments_kv"]}]});
    let without_filter = with_proxy_header(Options::default(), |document| {
        let filters =
            "static_resources.listeners[managed_identity].filter_chains[0].filters[0].typed_config.http_filters";
        let filters = stack::document::at_mut(document, filters).unwrap().as_array_mut().unwrap();
        filters.retain(|filter| filter["name"] != "entra-exchange");
        let text = document.to_string();
        assert!(text.contains("entra-exchange.wasm"), "the other listeners still have the filter");
    });
    for stack in [without_filter, with_proxy_header(configured(&without_section), |_| {})] {
        for host in ["169.254.169.254", "localhost", "imds.internal", LISTED_HOST] {
            let answer = get(&stack, host, token_target());
            assert!(answer.starts_with("HTTP/1.1 404"), "{host}: {answer}");
        }
        assert_eq!(stack.upstream.requests(), 0);
    }
}

fn listed_paths_of_other_clouds_are_forwarded() {
    let configuration = json!({"managed_identity": {"imds": {"pass": ["/latest", "/computeMetadata/v1"]}}});
    let stack = with_proxy_header(configured(&configuration), |document| {
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
        let answer = send(&stack, request);
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
    // AWS and Google reject a request with this header.
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
    assert_clean_log(&stack);
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
        assert_clean_log(&stack);
    }
}

fn a_probe_from_outside_gets_only_the_code() {
    let edit = Box::new(|document: &mut Value| sidecar::accept_proxy_protocol(document, sidecar::HEALTH).unwrap());
    let options = Options { edit: Some(edit), token: Some("no token".to_owned()), ..Options::default() };
    let stack = newest(options);
    let probe = |address: &str| {
        let request = format!(
            "PROXY TCP4 10.0.0.1 {address} 50000 15003\r\nGET /readyz HTTP/1.1\r\nHost: {HEALTH_HOST}\r\nConnection: close\r\n\r\n"
        );
        stack::client::send_bytes(stack.health_addr(), request.as_bytes()).unwrap()
    };
    // The first probe waits until the federated token is read, the second does not.
    for _ in 0..2 {
        let outside = probe("10.0.0.7");
        assert!(outside.starts_with("HTTP/1.1 503") && outside.contains(r#""code":"assertion_"#), "{outside}");
        for detail in [stack::TENANT_ID, CLIENT_ID, stack::ISSUER_URL, stack::SUBJECT, "default"] {
            assert!(!outside.contains(detail), "{detail} in {outside}");
        }
        assert!(outside.contains("Details are given only to callers within the pod"), "{outside}");
        assert!(probe("127.0.0.1").contains("JWT"), "{}", probe("127.0.0.1"));
    }
    assert_clean_log(&stack);
}
