//! HTTP features and protocols: gRPC, HTTP/2, WebSocket, CONNECT, uploads, HEAD, `100 Continue` and trailers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use fake_entra::Fault;
use serde_json::json;
use stack::{LISTED_HOST, Request, UNLISTED_HOST};

use super::{MANAGER, change, in_cluster, raw, seen, token, with};
use crate::assert_clean_log;
use crate::scenarios::{destination, problem};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("a_grpc_client_gets_a_rejection_as_grpc_message", a_grpc_client_gets_a_rejection_as_grpc_message),
    ("an_http_2_request_gets_a_token_with_an_http_2_upstream", an_http_2_request_gets_a_token),
    ("a_websocket_upgrade_request_gets_a_token", a_websocket_upgrade_request_gets_a_token),
    ("a_connect_request_is_rejected", a_connect_request_is_rejected),
    ("a_large_upload_waits_before_its_body_is_read_and_arrives_complete", a_large_upload_waits),
    ("head_requests_continue_responses_and_trailers_are_supported", head_continue_and_trailers),
];

fn a_grpc_client_gets_a_rejection_as_grpc_message() {
    let refused = destination(&json!({"tls_clusters": ["another"]}));
    let stack = with(&refused, vec![]);
    for kind in ["application/grpc", "application/grpc+proto"] {
        let answer = stack.get(LISTED_HOST, "/service/Method", &[("content-type", kind)]);
        assert_eq!((answer.status, answer.header("grpc-status").as_deref()), (200, Some("7")));
        let message = answer.header("grpc-message").unwrap();
        assert!(message.contains("(cluster_not_listed): Route the request to a cluster with TLS"), "{message}");
        assert!(!message.contains('{'), "{message}");
    }
    // The same for a rejection after the request has waited for Entra.
    let stack = with(&destination(&json!({})), vec![]);
    stack.directory().add_faults(vec![Fault::status(503)]);
    let answer = stack.get(LISTED_HOST, "/service/Method", &[("content-type", "application/grpc")]);
    assert_eq!(answer.header("grpc-status").as_deref(), Some("14"));
    assert!(answer.header("grpc-message").unwrap().contains("(entra_unavailable)"));
    assert_clean_log(&stack);
}

fn an_http_2_request_gets_a_token() {
    let http2 = || {
        change("static_resources.clusters[payments_kv]", |cluster| {
            let options = &mut cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
            options["@type"] = json!("type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
            options["explicit_http_config"] = json!({"http2_protocol_options": {}});
        })
    };
    for changes in [vec![http2()], vec![http2(), in_cluster()]] {
        let stack = with(&destination(&json!({"path_prefixes": ["/v1"]})), changes);
        let request = Request::post(LISTED_HOST, "/v1", vec![1; 100_000]);
        for _ in 0..2 {
            let answer = request.send_http2(stack.outbound_addr()).unwrap();
            assert_eq!((token(&answer).is_empty(), &answer.json()["body_length"]), (false, &json!(100_000)));
        }
        // If `:authority` and `host` differ, Envoy routes by `:authority`, the filter checks it, and the upstream receives it.
        let other = Request::get(UNLISTED_HOST, "/v1").header("host", LISTED_HOST);
        let answer = other.send_http2(stack.outbound_addr()).unwrap();
        assert_eq!(
            (answer.seen_header("host").unwrap().as_str(), answer.seen_header("authorization")),
            (UNLISTED_HOST, None)
        );
        let ours = Request::get(LISTED_HOST, "/v1").header("host", UNLISTED_HOST);
        let answer = ours.send_http2(stack.outbound_addr()).unwrap();
        assert_eq!((token(&answer).is_empty(), answer.seen_header("host").unwrap().as_str()), (false, LISTED_HOST));
        let ambiguous = Request::get(LISTED_HOST, "/v1/%2e%2e/").send_http2(stack.outbound_addr()).unwrap();
        problem(&ambiguous, 400, "ambiguous_path");
        assert_clean_log(&stack);
    }
}

fn a_websocket_upgrade_request_gets_a_token() {
    for changes in [vec![], vec![in_cluster()]] {
        let stack = with(&destination(&json!({})), changes);
        let mut stream = TcpStream::connect(stack.outbound_addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let open = format!(
            "GET /chat HTTP/1.1\r\nHost: {LISTED_HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
        );
        stream.write_all(open.as_bytes()).unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(char::from(byte[0]));
        }
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        stream.write_all(b"back and forth").unwrap();
        let mut echoed = [0; 14];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"back and forth");
        assert!(seen(&stack.upstream, "authorization")[0].is_some());
        assert_clean_log(&stack);
    }
}

fn a_connect_request_is_rejected() {
    let tunnels = change(MANAGER, |manager| {
        manager["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
        for host in manager["route_config"]["virtual_hosts"].as_array_mut().unwrap() {
            let cluster = host["routes"][0]["route"]["cluster"].clone();
            let route = json!({"match": {"connect_matcher": {}}, "route": {"cluster": cluster, "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}});
            host["routes"].as_array_mut().unwrap().insert(0, route);
        }
    });
    let stack = with(&destination(&json!({})), vec![tunnels]);
    let answer = raw(
        stack.outbound_addr(),
        format!("CONNECT {LISTED_HOST}:443 HTTP/1.1\r\nHost: {LISTED_HOST}:443\r\n\r\n").as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("connect_not_supported"), "{answer}");
    assert_eq!(stack.upstream.requests(), 0);
    assert_clean_log(&stack);
}

fn a_large_upload_waits() {
    const SIZE: usize = 100 << 20;
    for changes in [vec![], vec![in_cluster()]] {
        let stack = with(&destination(&json!({})), changes);
        stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(2))]);
        let resident = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", stack.envoy.pid())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or_default() << 10
        };
        let before = resident();
        thread::scope(|scope| {
            let upload = Request::post(LISTED_HOST, "/", vec![7; SIZE]).timeout(Duration::from_secs(120));
            let sent = scope.spawn(|| stack.send(&{ upload }).unwrap());
            thread::sleep(Duration::from_millis(1500));
            assert!(!sent.is_finished(), "the upload does not wait for the token");
            assert!(resident().saturating_sub(before) < SIZE / 2, "Envoy buffers the whole upload");
            let answer = sent.join().unwrap();
            assert_eq!((token(&answer).is_empty(), &answer.json()["body_length"]), (false, &json!(SIZE)));
        });
        assert_clean_log(&stack);
    }
}

fn head_continue_and_trailers() {
    for changes in [vec![], vec![in_cluster()]] {
        let trailers = change(MANAGER, |manager| manager["http_protocol_options"] = json!({"enable_trailers": true}));
        let cluster = change("static_resources.clusters[payments_kv]", |cluster| {
            let options = &mut cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
            options["@type"] = json!("type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
            options["explicit_http_config"] = json!({"http_protocol_options": {"enable_trailers": true}});
        });
        let stack = with(&destination(&json!({})), [cluster, trailers].into_iter().chain(changes).collect());
        let addr = stack.outbound_addr();
        let close = "Connection: close\r\n";
        let head = raw(addr, format!("HEAD / HTTP/1.1\r\nHost: {LISTED_HOST}\r\n{close}\r\n").as_bytes());
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
        let refused =
            raw(addr, format!("HEAD / HTTP/1.1\r\nHost: {LISTED_HOST}\r\nAuthorization: x\r\n{close}\r\n").as_bytes());
        assert!(refused.starts_with("HTTP/1.1 200"), "kept: {refused}");
        let expect = format!(
            "POST / HTTP/1.1\r\nHost: {LISTED_HOST}\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n{close}\r\n\
             3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"
        );
        let answer = raw(addr, expect.as_bytes());
        assert!(answer.contains("HTTP/1.1 200"), "{answer}");
        let last = stack.upstream.seen().pop().unwrap();
        assert_eq!((&last["body_length"], &last["trailers"]), (&json!(3), &json!([["x-sum", "7"]])));
        let tokens = seen(&stack.upstream, "authorization");
        let ours = |token: &Option<String>| token.as_ref().is_some_and(|token| token.starts_with("Bearer ey"));
        assert_eq!(tokens.iter().map(ours).collect::<Vec<_>>(), [true, false, true]);
        assert_clean_log(&stack);
    }
}
