//! Connections that something between Envoy and a server has forgotten: Envoy finds out when it sends on them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fake_entra::Fault;
use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{DropMode, Forwarder, IMDS_HOST, LISTED_HOST, Options, Request, Stack, sidecar};

use super::{look_through_log, newest, of_the_filter};

/// What this file shows, by its sentences.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("forgotten_connections_to_entra_cost_one_call_and_no_request", forgotten_connections_cost_one_call),
    ("connections_that_envoy_closes_before_they_are_forgotten_lose_no_call", an_idle_timeout_loses_no_call),
    ("a_forgotten_connection_to_the_upstream_fails_no_request_that_may_be_repeated", a_get_is_repeated),
];

/// The clusters that lead to Entra; the second never uses a connection twice.
const ENTRA: [&str; 2] = ["entra", "entra_new_connection"];
const UPSTREAM: [&str; 1] = ["payments_kv"];

/// A sidecar of one worker with a forwarder between these clusters and their server. `idle_timeout` takes the place of the
/// one that ships.
fn behind_a_forwarder(clusters: &'static [&'static str], idle_timeout: &'static str) -> (Stack, Arc<Forwarder>) {
    let forwarder = Arc::new(Forwarder::start().unwrap());
    let between = Arc::clone(&forwarder);
    let edit = move |document: &mut Value| {
        // As many exchanges at once as there are to be connections.
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

/// Asks for a token of each of these resources, all at once.
fn ask(stack: &Stack, resources: &[String]) {
    thread::scope(|scope| {
        for resource in resources {
            stack.directory().register_resource(resource);
            let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
            let request = Request::get(IMDS_HOST, &path).header("metadata", "true").timeout(Duration::from_secs(20));
            scope.spawn(move || {
                let answer = stack.send_imds(&request).unwrap();
                assert_eq!(answer.status, 200, "{}\n{}", answer.text(), of_the_filter(&stack.log()));
            });
        }
    });
}

fn resources(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("https://resource-{number}.example")).collect()
}

fn forgotten_connections_cost_one_call() {
    for how in [DropMode::Reset, DropMode::Silence] {
        for count in [1, 5] {
            let (stack, forwarder) = behind_a_forwarder(&ENTRA, "0s");
            stack
                .directory()
                .add_faults(vec![Fault::delay(Duration::from_millis(500)).times(u32::try_from(count).unwrap())]);
            ask(&stack, &resources(count));
            assert_eq!(forwarder.connections(), count as u64, "pooled connections");
            forwarder.drop_connections(how);
            let started = Instant::now();
            ask(&stack, &["https://sixth.example".to_owned()]);
            println!("{how:?}, {count} forgotten: {:?}", started.elapsed());
            let log = stack.log();
            assert_eq!(log.matches("outcome=retried").count(), 1, "{}", of_the_filter(&log));
            assert_eq!(log.matches("outcome=failed").count(), 0, "{}", of_the_filter(&log));
            assert_eq!(forwarder.connections(), count as u64 + 1, "a new connection");
            look_through_log(&stack);
        }
    }
}

/// The shipped time-out is a minute, and what is between forgets after four or more: here they are 1 s and 2 s.
fn an_idle_timeout_loses_no_call() {
    let (stack, forwarder) = behind_a_forwarder(&ENTRA, "1s");
    let (other, upstream) = behind_a_forwarder(&UPSTREAM, "1s");
    for forwarder in [&forwarder, &upstream] {
        forwarder.drop_idle_after(Duration::from_secs(2), DropMode::Silence);
    }
    for round in 0..3 {
        ask(&stack, &[format!("https://resource-{round}.example")]);
        assert_eq!(other.get(LISTED_HOST, "/", &[]).status, 200);
        assert_eq!(other.send(&Request::post(LISTED_HOST, "/", "x")).unwrap().status, 200);
        thread::sleep(Duration::from_secs(3));
    }
    assert_eq!(stack.log().matches("outcome=retried").count(), 0, "{}", of_the_filter(&stack.log()));
    assert_eq!((forwarder.connections(), upstream.connections()), (3, 3));
}

fn a_get_is_repeated() {
    let (stack, forwarder) = behind_a_forwarder(&UPSTREAM, "0s");
    for method in ["GET", "HEAD", "OPTIONS"] {
        let request = Request::new(method, LISTED_HOST, "/");
        assert_eq!(stack.send(&request).unwrap().status, 200);
        forwarder.drop_connections(DropMode::Reset);
        let seen = stack.upstream.requests();
        assert_eq!(stack.send(&request).unwrap().status, 200, "{method}");
        assert_eq!(stack.upstream.requests(), seen + 1);
        forwarder.drop_connections(DropMode::Reset);
        // What may have been carried out already is not sent again.
        let post = Request::post(LISTED_HOST, "/", "x");
        assert_eq!(stack.send(&post).unwrap().status, 503, "{method}");
    }
}
