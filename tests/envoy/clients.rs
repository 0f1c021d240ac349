//! Clients with unusual HTTP features, with the sidecar's manifest, on every supported version of Envoy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use stack::client::send_text;
use stack::{HEALTH_HOST, IDENTITY_HEADER, IMDS_HOST, LISTED_HOST, Options, Stack, envoy};

use super::{assert_clean_log, newest};

/// A test's name and its function, which takes a version of Envoy.
type Named = (&'static str, fn(&'static str));

/// The tests of this file.
pub(crate) const ALL: &[Named] = &[
    ("a_request_that_offers_an_upgrade_to_tls_is_served_without_the_upgrade", a_client_that_offers_tls),
    ("an_http_1_0_request_is_served_with_a_host_and_at_imds_also_without_one", a_client_of_http_1_0),
    ("a_websocket_opens_with_the_sidecars_manifest", a_websocket_opens),
    ("a_client_that_half_closes_its_connection_gets_no_response", a_client_that_half_closes),
];

fn stack_with(version: &str) -> Stack {
    newest(Options { envoy: Some(envoy::binary_of(version)), ..Options::default() })
}

const IMDS: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
const APP_SERVICE: &str = "/msi/token?api-version=2019-08-01&resource=https://vault.azure.net";

/// A request for each listener: the address, the path and the header lines.
fn kinds(stack: &Stack) -> [(SocketAddr, String, String); 4] {
    let secret = format!("X-IDENTITY-HEADER: {IDENTITY_HEADER}\r\n");
    [
        (stack.outbound_addr(), "/".to_owned(), format!("Host: {LISTED_HOST}\r\n")),
        (stack.imds_addr(), IMDS.to_owned(), format!("Host: {IMDS_HOST}\r\nMetadata: true\r\n")),
        (stack.imds_addr(), APP_SERVICE.to_owned(), format!("Host: 127.0.0.1:15002\r\n{secret}")),
        (stack.health_addr(), "/healthz".to_owned(), format!("Host: {HEALTH_HOST}:15003\r\n")),
    ]
}

/// Apache HttpClient 5.4 and later sends these headers with every request over plain HTTP.
fn a_client_that_offers_tls(version: &'static str) {
    let stack = stack_with(version);
    for (addr, path, headers) in kinds(&stack) {
        for protocol in ["TLS/1.2", "TLS/1.3"] {
            let upgrade = format!("Upgrade: {protocol}\r\nConnection: Upgrade\r\n");
            let answer = send_text(addr, &format!("GET {path} HTTP/1.1\r\n{headers}{upgrade}\r\n"), false).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        }
        let other = format!("GET {path} HTTP/1.1\r\n{headers}Upgrade: spdy/3\r\nConnection: Upgrade\r\n\r\n");
        assert!(
            send_text(addr, &other, false).unwrap().starts_with("HTTP/1.1 403 "),
            "only upgrades to TLS are ignored: {path}"
        );
    }
    let seen: Vec<Value> = stack.upstream.seen();
    assert!(seen.len() == 2 && seen.iter().all(|request| !request.to_string().contains("TLS/1")), "{seen:?}");
    assert_clean_log(&stack);
}

/// nginx uses HTTP/1.0 for `proxy_pass` by default.
fn a_client_of_http_1_0(version: &'static str) {
    let stack = stack_with(version);
    for (addr, path, headers) in kinds(&stack) {
        let answer =
            send_text(addr, &format!("GET {path} HTTP/1.0\r\n{headers}Connection: close\r\n\r\n"), false).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 "), "{path}: {answer}");
    }
    let without_host = |addr: SocketAddr, path: &str, headers: &str| {
        send_text(addr, &format!("GET {path} HTTP/1.0\r\n{headers}\r\n"), false).unwrap()
    };
    let answer = without_host(stack.imds_addr(), IMDS, "Metadata: true\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.contains("\"access_token\":\"ey"), "{answer}");
    // The rules of IMDS apply, and other listeners do not add a default host.
    assert!(without_host(stack.imds_addr(), IMDS, "").contains("Required metadata header not specified"));
    assert!(without_host(stack.outbound_addr(), "/", "").starts_with("HTTP/1.0 400 "));
    assert_eq!(stack.upstream.requests(), 1);
    assert_clean_log(&stack);
}

fn a_websocket_opens(version: &'static str) {
    let stack = stack_with(version);
    let mut stream = TcpStream::connect(stack.outbound_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let open = format!(
        "GET /chat HTTP/1.1\r\nHost: {LISTED_HOST}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    );
    stream.write_all(open.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"back and forth").unwrap();
    let mut echoed = [0; 14];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"back and forth");
    assert!(stack.upstream.seen()[0].to_string().contains("Bearer ey"));
    assert_clean_log(&stack);
}

/// `printf … | nc` half-closes its connection at the end of its input. Envoy has no option for such clients; `docs/migrate.md` names
/// alternatives.
fn a_client_that_half_closes(version: &'static str) {
    let stack = stack_with(version);
    let request = format!("GET {IMDS} HTTP/1.1\r\nHost: {IMDS_HOST}\r\nMetadata: true\r\nConnection: close\r\n\r\n");
    for _ in 0..2 {
        assert_eq!(send_text(stack.imds_addr(), &request, true).unwrap(), "");
        assert!(
            send_text(stack.imds_addr(), &request, false).unwrap().starts_with("HTTP/1.1 200 "),
            "a client that keeps its connection open gets a response"
        );
    }
    assert_clean_log(&stack);
}
