//! Requests that get a token in a real Envoy, and requests that do not: in a listener's and in a cluster's filter chain, and with
//! the features of HTTP.

pub(crate) mod connection;
pub(crate) mod protocols;
pub(crate) mod routes;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use stack::{LISTED_HOST, Mesh, Options, Request, Response, Stack, Upstream, document, sidecar};

use super::scenarios::{destination, problem};
use super::{assert_clean_log, newest};

/// The tests of this file; each submodule has its own list.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("report_forwards_a_request_and_logs_why_it_would_be_rejected", report_logs_why_a_request_would_be_rejected),
    ("an_unusual_form_of_a_host_gets_no_token_for_another_host", unusual_forms_of_a_host),
    ("a_gateway_identifies_its_callers_by_their_certificates", callers_are_identified_by_their_certificates),
];

type Change = Box<dyn FnOnce(&mut Value) + Send>;

/// A sidecar with this configuration of the filter and these changes to the bootstrap.
fn with(configuration: &Value, changes: Vec<Change>) -> Stack {
    let edit = move |document: &mut Value| changes.into_iter().for_each(|change| change(document));
    newest(Options { configuration: Some(configuration.to_string()), edit: Some(Box::new(edit)), ..Options::default() })
}

/// Moves the filter into the cluster of the listed host.
fn in_cluster() -> Change {
    Box::new(|document| sidecar::move_into_cluster(document, "payments_kv").unwrap())
}

/// A configuration whose destination has no `tls_clusters`.
fn without_a_pin(more: &Value) -> Value {
    let mut configuration = destination(more);
    configuration["destinations"][0].as_object_mut().unwrap().remove("tls_clusters");
    configuration
}

/// Changes the value at a path.
fn change(path: &'static str, what: impl FnOnce(&mut Value) + Send + 'static) -> Change {
    Box::new(move |document| what(document::at_mut(document, path).unwrap()))
}

const LISTED_ROUTE: &str = "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[listed].routes[0]";

const MANAGER: &str = "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config";

/// Adds a plaintext cluster with this name and address.
fn clear_cluster(name: &'static str, addr: SocketAddr) -> Change {
    change("static_resources.clusters", move |clusters| {
        let address = json!({"socket_address": {"address": addr.ip(), "port_value": addr.port()}});
        let endpoints = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
        let cluster = json!({"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}});
        clusters.as_array_mut().unwrap().push(cluster);
    })
}

fn token(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.seen_header("authorization").unwrap_or_else(|| panic!("no token: {}", answer.text()))
}

/// The header with this name in each request that an upstream received.
fn seen(upstream: &Upstream, name: &str) -> Vec<Option<String>> {
    let header = |request: &Value| {
        let headers = request["headers"].as_array().unwrap();
        headers.iter().find(|header| header[0] == name).map(|header| header[1].as_str().unwrap().to_owned())
    };
    upstream.seen().iter().map(header).collect()
}

/// Sends these bytes, and reads until the server closes the connection or five seconds have passed without data.
fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn report_logs_why_a_request_would_be_rejected() {
    let mut configuration = destination(&json!({"action": "report"}));
    configuration["log"] = json!({"requests": "warn"});
    let elsewhere = change(LISTED_ROUTE, |route| route["match"] = json!({"prefix": "/listed"}));
    let another = change(
        "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[listed].routes",
        |routes| {
            let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "elsewhere", "timeout": "0s"}});
            routes.as_array_mut().unwrap().truncate(1);
            routes.as_array_mut().unwrap().push(route);
        },
    );
    let stack = with(&configuration, vec![elsewhere, another]);
    for path in ["/listed", "/", "/"] {
        let answer = stack.get(LISTED_HOST, path, &[]);
        assert_eq!((answer.status, answer.seen_header("authorization")), (200, None), "{path}");
    }
    let made = stack::eventually(Duration::from_secs(5), || stack.directory().stats().issued == 1);
    assert!(made, "report mode makes the exchange, too");
    let line = "event=request outcome=reported identity=default";
    let log = stack.log();
    assert_eq!(log.matches(line).count(), 3, "{log}");
    assert_eq!(log.matches(&format!("{line} would_refuse=cluster_not_listed")).count(), 2, "{log}");
    assert_clean_log(&stack);
}

fn unusual_forms_of_a_host() {
    // Every host is routed to the test's upstream, which shows the host that Envoy forwards.
    let stack = with(
        &json!({"destinations": [{"hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "plaintext": "allow"}]}),
        vec![],
    );
    let addr = stack.outbound_addr();
    // The host that the upstream received, and whether it got a token.
    let sent = |lines: &str, target: &str| {
        let before = stack.upstream.seen().len();
        let answer = raw(addr, format!("GET {target} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n").as_bytes());
        let seen_there = stack.upstream.seen();
        if seen_there.len() == before {
            return format!("refused {}", answer.get(9..12).unwrap_or_default());
        }
        let host = seen(&stack.upstream, "host").pop().flatten().unwrap_or_default();
        format!("{host} {}", seen(&stack.upstream, "authorization").pop().flatten().is_some())
    };
    let mut outcomes = String::new();
    let lines: [(String, String); 15] = [
        (format!("Host: {LISTED_HOST}:\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}:65536\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}:+80\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}\r\n"), "/".into()),
        (format!("Host: {}\r\n", LISTED_HOST.to_ascii_uppercase()), "/".into()),
        (format!("Host: {LISTED_HOST}:443\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}.\r\n"), "/".into()),
        (format!("Host: x@{LISTED_HOST}\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}@evil.example.com\r\n"), "/".into()),
        (format!("Host: evil.example.com\r\nHost: {LISTED_HOST}\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}\r\nHost: evil.example.com\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}\r\n"), "http://evil.example.com/".into()),
        ("Host: evil.example.com\r\n".to_string(), format!("http://{LISTED_HOST}/")),
        ("Host: [::1]\r\n".into(), "/".into()),
        ("Host: p\u{e4}yments-kv.vault.azure.net\r\n".into(), "/".into()),
    ];
    for (headers, target) in &lines {
        writeln!(outcomes, "{:?} {target:?}: {}", headers.trim_end(), sent(headers, target)).unwrap();
    }
    println!("{outcomes}");
    for line in outcomes.lines() {
        let to_us = line.contains(&format!(": {LISTED_HOST}"))
            || line.to_ascii_lowercase().contains(": payments-kv.vault.azure.net ");
        assert!(!line.ends_with("true") || to_us, "{line}");
    }
    let outcomes: Vec<&str> = outcomes.lines().collect();
    assert_eq!(outcomes[0], format!("\"Host: {LISTED_HOST}:\" \"/\": {LISTED_HOST}: true"));
    for invalid in &outcomes[1..3] {
        assert!(invalid.ends_with("refused 400"), "{invalid}");
    }
    assert_clean_log(&stack);
}

fn callers_are_identified_by_their_certificates() {
    let mesh = Mesh::new().unwrap();
    let socket = mesh.transport_socket().unwrap();
    let mutual = change("static_resources.listeners[outbound].filter_chains[0]", |chain| {
        chain["transport_socket"] = socket;
    });
    // Like an Istio gateway: Envoy sets the header from the certificate and removes the header that the client sent.
    let forwarded_certificate = change(MANAGER, |manager| {
        manager["forward_client_cert_details"] = json!("SANITIZE_SET");
        manager["set_current_client_cert_details"] = json!({"uri": true});
    });
    let mut configuration = destination(&json!({}));
    configuration["identities"] =
        json!([{"name": "payments", "principals": ["spiffe://cluster.local/ns/payments/sa/api"]}]);
    let stack = with(&configuration, vec![mutual, forwarded_certificate]);
    let calls = |uris: &[&str]| {
        let forged = "URI=spiffe://cluster.local/ns/payments/sa/api";
        let request = Request::get(LISTED_HOST, "/").header("x-forwarded-client-cert", forged);
        mesh.send_as(uris, &request, stack.outbound_addr()).unwrap()
    };
    let ours = "spiffe://cluster.local/ns/payments/sa/api";
    token(&calls(&[ours]));
    for strangers in
        [&["spiffe://cluster.local/ns/payments/sa/api2"][..], &[], &[ours, "spiffe://cluster.local/ns/x/sa/y"]]
    {
        problem(&calls(strangers), 403, "principal_not_listed");
    }
    assert_eq!(stack.upstream.requests(), 1);
    assert_clean_log(&stack);
}
