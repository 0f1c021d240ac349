//! The upstream connection that gets a token: TLS and plaintext, retries and hedged attempts.

use std::thread;

use serde_json::json;
use stack::{LISTED_HOST, Request, UNLISTED_HOST, Upstream, document};

use super::{Change, LISTED_ROUTE, change, in_cluster, seen, token, with, without_a_pin};
use crate::assert_clean_log;
use crate::scenarios::{destination, problem};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("in_a_clusters_filter_chain_a_request_waits_for_its_connection", a_request_waits_for_its_connection),
    ("in_a_clusters_filter_chain_no_token_is_sent_in_plaintext", no_token_is_sent_in_plaintext),
    ("a_request_whose_connection_fails_ends_with_503", a_request_whose_connection_fails),
    ("a_retry_carries_the_filters_token_with_every_policy_for_existing_credentials", a_retry_carries_the_token),
    ("a_retry_after_401_carries_a_new_token", a_retry_after_401_carries_a_new_token),
    ("every_attempt_of_a_hedged_request_carries_the_token", a_hedged_request),
    ("a_hedged_attempt_in_plaintext_gets_no_token", a_hedged_attempt_in_plaintext),
];

fn a_request_waits_for_its_connection() {
    let stack = with(&without_a_pin(&json!({})), vec![in_cluster()]);
    // The first requests wait for new connections, the later ones use pooled connections.
    for _ in 0..2 {
        thread::scope(|scope| {
            let sent: Vec<_> = (0..20).map(|_| scope.spawn(|| stack.get(LISTED_HOST, "/", &[]))).collect();
            sent.into_iter().for_each(|answer| drop(token(&answer.join().unwrap())));
        });
    }
    assert_eq!(stack.directory().stats().token_requests, 1);
    assert_eq!(stack.get(UNLISTED_HOST, "/", &[]).seen_header("authorization"), None);
    let body = vec![7; 3_000_000];
    let answer = stack.send(&Request::post(LISTED_HOST, "/", body)).unwrap();
    assert_eq!((token(&answer).is_empty(), &answer.json()["body_length"]), (false, &json!(3_000_000)));
    assert_clean_log(&stack);
}

fn no_token_is_sent_in_plaintext() {
    let upstream = Upstream::start().unwrap();
    let addr = upstream.plaintext_addr();
    let plaintext = move || {
        change("static_resources.clusters[payments_kv]", move |cluster| {
            cluster.as_object_mut().unwrap().remove("transport_socket");
            let address = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value";
            document::set(cluster, address, addr.port()).unwrap();
        })
    };
    let stack = with(&without_a_pin(&json!({})), vec![in_cluster(), plaintext()]);
    for _ in 0..2 {
        problem(&stack.get(LISTED_HOST, "/", &[]), 403, "connection_not_tls");
    }
    assert_eq!((upstream.requests(), stack.directory().stats().token_requests), (0, 0));
    assert_clean_log(&stack);
    let stack = with(&without_a_pin(&json!({"plaintext": "allow"})), vec![in_cluster(), plaintext()]);
    token(&stack.get(LISTED_HOST, "/", &[]));
}

fn a_request_whose_connection_fails() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = change(
        "static_resources.clusters[payments_kv].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value",
        move |value| *value = json!(port),
    );
    let stack = with(&without_a_pin(&json!({})), vec![in_cluster(), nowhere]);
    for _ in 0..3 {
        assert_eq!(stack.get(LISTED_HOST, "/", &[]).status, 503);
    }
    assert_clean_log(&stack);
}

fn retry_on(status: u16) -> Change {
    change(LISTED_ROUTE, move |route| {
        route["route"]["retry_policy"] = json!({
            "retry_on": "retriable-status-codes", "retriable_status_codes": [status], "num_retries": 2,
        });
    })
}

fn a_retry_carries_the_token() {
    for existing in ["keep", "refuse", "replace"] {
        let configuration = without_a_pin(&json!({"existing_credential": existing, "header": "x-token"}));
        let stack = with(&configuration, vec![in_cluster(), retry_on(503)]);
        assert_eq!(stack.get(LISTED_HOST, "/status/503", &[]).status, 503);
        let tokens = seen(&stack.upstream, "x-token");
        assert_eq!((tokens.len(), tokens.iter().all(|token| *token == tokens[0])), (3, true), "{existing}");
        assert!(tokens[0].as_ref().is_some_and(|token| token.starts_with("ey")), "the token has no scheme");
        assert_clean_log(&stack);
    }
}

fn a_retry_after_401_carries_a_new_token() {
    let stack = with(&without_a_pin(&json!({})), vec![in_cluster(), retry_on(401)]);
    stack.get(LISTED_HOST, "/status/401", &[]);
    let tokens = seen(&stack.upstream, "authorization");
    assert_eq!(tokens.len(), 3);
    assert_ne!(tokens[0], tokens[1]);
    // Another forced refresh within thirty seconds is not allowed.
    assert_eq!(tokens[1], tokens[2]);
    assert_eq!(stack.directory().stats().token_requests, 2);
    assert_clean_log(&stack);
    // In the listener's filter chain, the filter runs once per request, not once per attempt.
    let stack = with(&destination(&json!({})), vec![retry_on(401)]);
    stack.get(LISTED_HOST, "/status/401", &[]);
    let tokens = seen(&stack.upstream, "authorization");
    assert_eq!((tokens.len(), tokens[0] == tokens[2]), (3, true));
}

/// Starts a second, parallel attempt after 0.3 s.
fn hedged() -> Change {
    change(LISTED_ROUTE, |route| {
        route["route"]["hedge_policy"] = json!({"hedge_on_per_try_timeout": true});
        route["route"]["retry_policy"] =
            json!({"retry_on": "gateway-error", "num_retries": 1, "per_try_timeout": "0.3s"});
    })
}

fn a_hedged_request() {
    for (configuration, changes) in
        [(destination(&json!({})), vec![hedged()]), (without_a_pin(&json!({})), vec![in_cluster(), hedged()])]
    {
        let stack = with(&configuration, changes);
        let first = token(&stack.get(LISTED_HOST, "/", &[]));
        let before = seen(&stack.upstream, "authorization").len();
        assert_eq!(stack.get(LISTED_HOST, "/delay/1000", &[]).status, 200);
        let tokens = seen(&stack.upstream, "authorization").split_off(before);
        assert_eq!(tokens.len(), 2, "two attempts: {tokens:?}");
        assert!(tokens.iter().all(|token| token.as_deref() == Some(first.as_str())), "{tokens:?}");
        assert_clean_log(&stack);
    }
}

fn a_hedged_attempt_in_plaintext() {
    let clear = Upstream::start().unwrap();
    let addr = clear.plaintext_addr();
    let another_endpoint = change("static_resources.clusters[payments_kv]", move |cluster| {
        let address = json!({"socket_address": {"address": addr.ip(), "port_value": addr.port()}});
        let metadata = json!({"filter_metadata": {"envoy.transport_socket_match": {"clear": true}}});
        let endpoints = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
        endpoints.as_array_mut().unwrap().push(json!({"endpoint": {"address": address}, "metadata": metadata}));
        cluster["type"] = json!("STATIC");
        let raw = json!({
            "name": "envoy.transport_sockets.raw_buffer",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"},
        });
        cluster["transport_socket_matches"] =
            json!([{"name": "clear", "match": {"clear": true}, "transport_socket": raw}]);
    });
    let stack = with(&without_a_pin(&json!({})), vec![in_cluster(), hedged(), another_endpoint]);
    // Envoy alternates between the endpoints, so one of two attempts uses the plaintext endpoint.
    for _ in 0..4 {
        problem(&stack.get(LISTED_HOST, "/delay/1000", &[]), 403, "connection_not_tls");
    }
    let tokens = seen(&stack.upstream, "authorization");
    assert!(!tokens.is_empty() && tokens.iter().all(Option::is_some), "{tokens:?}");
    assert_eq!(clear.requests(), 0);
    assert_clean_log(&stack);
}
