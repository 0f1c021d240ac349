//! Pooled connections that a NAT, firewall or load balancer has dropped: Envoy detects this only when it sends a request.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fake_entra::Fault;
use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{DropMode, Forwarder, IMDS_HOST, LISTED_HOST, Options, Request, Stack, sidecar};

use super::{assert_clean_log, filter_log, newest};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("dropped_connections_to_entra_cause_one_retry_and_fail_no_request", dropped_connections_cause_one_retry),
    ("connections_that_envoy_closes_before_they_are_dropped_fail_no_call", an_idle_timeout_prevents_failed_calls),
    ("a_dropped_connection_to_the_upstream_fails_no_request_that_is_safe_to_retry", a_get_is_retried),
];

/// The clusters for Entra; the second never reuses a connection.
const ENTRA: [&str; 2] = ["entra", "entra_new_connection"];
const UPSTREAM: [&str; 1] = ["payments_kv"];

/// A sidecar with one worker and a forwarder between these clusters and their server. `idle_timeout` replaces the value in the manifest.
fn behind_a_forwarder(clusters: &'static [&'static str], idle_timeout: &'static str) -> (Stack, Arc<Forwarder>) {
    let forwarder = Arc::new(Forwarder::start().unwrap());
    let between = Arc::clone(&forwarder);
    let edit = move |document: &mut Value| {
        // Allow one concurrent exchange for each connection.
        for listener in sidecar::WITH_FILTER {
            let text = at_mut(document, &format!("{}.configuration.value", sidecar::filter(listener))).unwrap();
            let mut configuration: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
            configuration["managed_identity"]["limits"] = json!({"parallel_exchanges": 8});
            *text = json!(configuration.to_string());
        }
        for cluster in clusters {
            let path = format!("static_resources.clusters[{cluster}]");
            let cluster = at_mut(document, &path).unwrap();
            let address = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address";
            let server = at_mut(cluster, address).unwrap();
            let target = format!("{}:{}", server["address"].as_str().unwrap(), server["port_value"]);
            between.set_target(target.parse().unwrap());
            *server = json!({"address": between.addr().ip(), "port_value": between.addr().port()});
            let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            let options = &mut cluster["typed_extension_protocol_options"][options]["common_http_protocol_options"];
            if options.get("idle_timeout").is_some() {
                set(options, "idle_timeout", idle_timeout).unwrap();
            }
        }
    };
    let stack = newest(Options { concurrency: 1, edit: Some(Box::new(edit)), ..Options::default() });
    (stack, forwarder)
}

/// Requests a token for each of these resources, concurrently.
fn request_tokens(stack: &Stack, resources: &[String]) {
    thread::scope(|scope| {
        for resource in resources {
            stack.directory().register_resource(resource);
            let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
            let request = Request::get(IMDS_HOST, &path).header("metadata", "true").timeout(Duration::from_secs(20));
            scope.spawn(move || {
                let answer = stack.send_imds(&request).unwrap();
                assert_eq!(answer.status, 200, "{}\n{}", answer.text(), filter_log(&stack.log()));
            });
        }
    });
}

fn resources(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("https://resource-{number}.example")).collect()
}

fn dropped_connections_cause_one_retry() {
    for how in [DropMode::Reset, DropMode::Silence] {
        for count in [1, 5] {
            let (stack, forwarder) = behind_a_forwarder(&ENTRA, "0s");
            stack
                .directory()
                .add_faults(vec![Fault::delay(Duration::from_millis(500)).times(u32::try_from(count).unwrap())]);
            request_tokens(&stack, &resources(count));
            assert_eq!(forwarder.connections(), count as u64, "pooled connections");
            forwarder.drop_connections(how);
            let started = Instant::now();
            request_tokens(&stack, &["https://sixth.example".to_owned()]);
            println!("{how:?}, {count} dropped: {:?}", started.elapsed());
            let log = stack.log();
            assert_eq!(log.matches("outcome=retried").count(), 1, "{}", filter_log(&log));
            assert_eq!(log.matches("outcome=failed").count(), 0, "{}", filter_log(&log));
            assert_eq!(forwarder.connections(), count as u64 + 1, "a new connection");
            assert_clean_log(&stack);
        }
    }
}

/// In production the idle timeout is one minute, and middleboxes drop connections after four minutes or more; here 1 s and 2 s.
fn an_idle_timeout_prevents_failed_calls() {
    let (stack, forwarder) = behind_a_forwarder(&ENTRA, "1s");
    let (other, upstream) = behind_a_forwarder(&UPSTREAM, "1s");
    for forwarder in [&forwarder, &upstream] {
        forwarder.drop_idle_after(Duration::from_secs(2), DropMode::Silence);
    }
    for round in 0..3 {
        request_tokens(&stack, &[format!("https://resource-{round}.example")]);
        assert_eq!(other.get(LISTED_HOST, "/", &[]).status, 200);
        assert_eq!(other.send(&Request::post(LISTED_HOST, "/", "x")).unwrap().status, 200);
        thread::sleep(Duration::from_secs(3));
    }
    assert_eq!(stack.log().matches("outcome=retried").count(), 0, "{}", filter_log(&stack.log()));
    assert_eq!((forwarder.connections(), upstream.connections()), (3, 3));
}

fn a_get_is_retried() {
    let (stack, forwarder) = behind_a_forwarder(&UPSTREAM, "0s");
    for method in ["GET", "HEAD", "OPTIONS"] {
        let request = Request::new(method, LISTED_HOST, "/");
        assert_eq!(stack.send(&request).unwrap().status, 200);
        forwarder.drop_connections(DropMode::Reset);
        let seen = stack.upstream.requests();
        assert_eq!(stack.send(&request).unwrap().status, 200, "{method}");
        assert_eq!(stack.upstream.requests(), seen + 1);
        forwarder.drop_connections(DropMode::Reset);
        // A request that the server may have processed already is not sent again.
        let post = Request::post(LISTED_HOST, "/", "x");
        assert_eq!(stack.send(&post).unwrap().status, 503, "{method}");
    }
}
