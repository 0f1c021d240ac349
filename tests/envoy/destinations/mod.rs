//! Where tokens go in a real Envoy, and where they do not: in a listener's filter chain and in a cluster's own, and with
//! everything that HTTP can do.

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
use super::{look_through_log, newest};

/// What this file shows, by its sentences; the other files have their own.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("a_report_lets_a_request_pass_and_tells_what_would_refuse_it", a_report_tells_what_would_refuse),
    ("an_odd_way_to_write_a_host_gets_no_token_for_another", odd_ways_to_write_a_host),
    ("a_caller_at_a_gateway_is_known_by_its_certificate", a_caller_is_known_by_its_certificate),
];

type Change = Box<dyn FnOnce(&mut Value) + Send>;

/// A sidecar with this configuration of the filter and these changes around it.
fn with(configuration: &Value, changes: Vec<Change>) -> Stack {
    let edit = move |document: &mut Value| changes.into_iter().for_each(|change| change(document));
    newest(Options { configuration: Some(configuration.to_string()), edit: Some(Box::new(edit)), ..Options::default() })
}

/// The filter stands in the cluster of the listed host.
fn in_cluster() -> Change {
    Box::new(|document| sidecar::move_into_cluster(document, "payments_kv").unwrap())
}

/// The listed host as a destination that states no way.
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

/// A cluster in clear, of this name and with this address.
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

/// The headers of this name that an upstream saw, one for each request.
fn seen(upstream: &Upstream, name: &str) -> Vec<Option<String>> {
    let header = |request: &Value| {
        let headers = request["headers"].as_array().unwrap();
        headers.iter().find(|header| header[0] == name).map(|header| header[1].as_str().unwrap().to_owned())
    };
    upstream.seen().iter().map(header).collect()
}

/// Sends bytes as they are, and reads until the other side ends, or for so long.
fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn a_report_tells_what_would_refuse() {
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
    assert!(made, "the exchange is made all the same");
    let line = "event=request outcome=reported identity=default";
    let log = stack.log();
    assert_eq!(log.matches(line).count(), 3, "{log}");
    assert_eq!(log.matches(&format!("{line} would_refuse=cluster_not_listed")).count(), 2, "{log}");
    look_through_log(&stack);
}

fn odd_ways_to_write_a_host() {
    // Any host is led to the one upstream, so that what Envoy makes of it is seen.
    let stack = with(
        &json!({"destinations": [{"hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "plaintext": "allowed"}]}),
        vec![],
    );
    let addr = stack.outbound_addr();
    // What the upstream takes for the host, and whether it got a token.
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
    let mut told = String::new();
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
        writeln!(told, "{:?} {target:?}: {}", headers.trim_end(), sent(headers, target)).unwrap();
    }
    println!("{told}");
    for line in told.lines() {
        let to_us = line.contains(&format!(": {LISTED_HOST}"))
            || line.to_ascii_lowercase().contains(": payments-kv.vault.azure.net ");
        assert!(!line.ends_with("true") || to_us, "{line}");
    }
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told[0], format!("\"Host: {LISTED_HOST}:\" \"/\": {LISTED_HOST}: true"));
    for invalid in &told[1..3] {
        assert!(invalid.ends_with("refused 400"), "{invalid}");
    }
    look_through_log(&stack);
}

fn a_caller_is_known_by_its_certificate() {
    let mesh = Mesh::new().unwrap();
    let socket = mesh.transport_socket().unwrap();
    let mutual = change("static_resources.listeners[outbound].filter_chains[0]", |chain| {
        chain["transport_socket"] = socket;
    });
    // What a gateway of Istio's does: it writes of the certificate what it knows, and takes away what callers write.
    let told = change(MANAGER, |manager| {
        manager["forward_client_cert_details"] = json!("SANITIZE_SET");
        manager["set_current_client_cert_details"] = json!({"uri": true});
    });
    let mut configuration = destination(&json!({}));
    configuration["identities"] =
        json!([{"name": "payments", "principals": ["spiffe://cluster.local/ns/payments/sa/api"]}]);
    let stack = with(&configuration, vec![mutual, told]);
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
    look_through_log(&stack);
}
