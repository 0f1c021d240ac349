//! Tests of routing to the upstream and of the verification of its certificate.

use std::time::Duration;

use serde_json::json;
use stack::{LISTED_HOST, Options, Request, Stack, UNLISTED_HOST, document, eventually, sidecar};

use crate::{remove_filter, without_filter};

#[test]
fn listed_and_unlisted_hosts_are_routed_to_separate_clusters() {
    let stack = Stack::start(without_filter()).unwrap();
    let requests = |cluster: &str| stack.envoy.stat(&format!("cluster.{cluster}.upstream_rq_completed")).unwrap();

    for host in [LISTED_HOST, "payments-kv.vault.azure.net:443", "PAYMENTS-KV.vault.azure.net"] {
        assert_eq!(stack.get(host, "/secrets/db?api-version=7.4", &[("x-a", "b")]).status, 200, "{host}");
    }
    for host in [UNLISTED_HOST, "api.example.com:443"] {
        assert_eq!(stack.get(host, "/", &[]).status, 200, "{host}");
    }

    assert!(eventually(Duration::from_secs(5), || requests("payments_kv") == Some(3)));
    assert!(eventually(Duration::from_secs(5), || requests("elsewhere") == Some(2)));
    assert_eq!(stack.upstream.requests(), 5);
}

#[test]
fn the_upstream_returns_the_request_that_it_receives() {
    let stack = Stack::start(without_filter()).unwrap();

    let request = Request::post(LISTED_HOST, "/a/../b?c", "12345").header("x-bytes", b"a\xffb").header("x-twice", "1");
    let response = stack.send(&request.header("x-twice", "2")).unwrap();

    let seen = response.json();
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["path"], "/a/../b?c");
    assert_eq!(seen["body_length"], 5);
    assert_eq!(response.seen_header("host").as_deref(), Some(LISTED_HOST));
    assert_eq!(response.seen_header("x-bytes").as_deref(), Some("a\u{fffd}b"));
    let twice = seen["headers"].as_array().unwrap().iter().filter(|header| header[0] == "x-twice");
    assert_eq!(twice.count(), 2);
}

#[test]
fn an_upstream_whose_certificate_has_a_wrong_ca_gets_no_request() {
    for (cluster, host) in [("payments_kv", LISTED_HOST), ("elsewhere", UNLISTED_HOST)] {
        let edit = move |envoy: &mut serde_json::Value| {
            remove_filter(envoy);
            let entra_ca = document::at_mut(envoy, &sidecar::trusted_ca("entra")).unwrap().clone();
            document::set(envoy, &sidecar::trusted_ca(cluster), entra_ca).unwrap();
        };
        let stack = Stack::start(Options { edit: Some(Box::new(edit)), ..Options::default() }).unwrap();

        let response = stack.get(host, "/", &[]);

        assert_eq!(response.status, 503, "{host}");
        let failures = format!("cluster.{cluster}.ssl.fail_verify_error");
        assert!(eventually(Duration::from_secs(5), || stack.envoy.stat(&failures).unwrap() >= Some(1)), "{host}");
        assert_eq!(stack.upstream.requests(), 0, "{host}");
    }
}

#[test]
fn an_upstream_whose_certificate_has_a_wrong_name_gets_no_request() {
    let edit = |envoy: &mut serde_json::Value| {
        remove_filter(envoy);
        let names = "static_resources.clusters[payments_kv].transport_socket.typed_config\
                     .common_tls_context.validation_context.match_typed_subject_alt_names[0].matcher.exact";
        document::set(envoy, names, json!("other-kv.vault.azure.net")).unwrap();
    };
    let stack = Stack::start(Options { edit: Some(Box::new(edit)), ..Options::default() }).unwrap();

    assert_eq!(stack.get(LISTED_HOST, "/", &[]).status, 503);
    let failures = "cluster.payments_kv.ssl.fail_verify_san";
    assert!(eventually(Duration::from_secs(5), || stack.envoy.stat(failures).unwrap() >= Some(1)));
    // For unlisted hosts, the SNI and the name to verify come from the host.
    assert_eq!(stack.get("other.invalid", "/", &[]).status, 503);
    assert_eq!(stack.upstream.requests(), 0);
}
