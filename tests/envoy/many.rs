//! Many requests that wait in a real Envoy, for their connections or for a token.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use fake_entra::Fault;
use serde_json::{Value, json};
use stack::{HEALTH_HOST, LISTED_HOST, Options, Request, Response, Stack, UNLISTED_HOST, document, sidecar};

use super::scenarios::{destination, problem};
use super::{assert_clean_log, newest};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("requests_that_wait_for_a_connection_are_limited_in_number_and_time", requests_without_a_connection),
    ("two_thousand_requests_that_wait_for_one_exchange_all_reach_the_upstream", two_thousand_cold_requests),
    ("requests_that_are_reset_while_they_wait_are_no_longer_counted", requests_that_are_reset),
    ("a_thousand_readiness_probes_at_once_are_all_answered", a_thousand_probes),
];

/// Sends these requests concurrently, each on its own connection.
fn at_once(stack: &Stack, requests: &[Request]) -> Vec<Response> {
    thread::scope(|scope| {
        let sent: Vec<_> = requests.iter().map(|request| scope.spawn(|| stack.send(request).unwrap())).collect();
        sent.into_iter().map(|answer| answer.join().unwrap()).collect()
    })
}

fn get(path: &str) -> Request {
    Request::get(LISTED_HOST, path).timeout(Duration::from_secs(60))
}

/// The number of requests that wait in the filter.
fn waiters(stack: &Stack) -> Option<u64> {
    stack.envoy.stat("wasmcustom.entra_exchange_waiters").unwrap()
}

/// The filter is in the filter chain of a cluster whose upstream accepts connections and never finishes a TLS handshake.
fn requests_without_a_connection() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let edit = move |document: &mut Value| {
        sidecar::move_into_cluster(document, "payments_kv").unwrap();
        let cluster = document::at_mut(document, "static_resources.clusters[payments_kv]").unwrap();
        let address = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value";
        document::set(cluster, address, port).unwrap();
        document::set(cluster, "connect_timeout", "60s").unwrap();
    };
    let mut configuration = destination(&json!({}));
    configuration["destinations"][0].as_object_mut().unwrap().remove("tls_clusters");
    configuration["limits"] = json!({"wait": "15s", "waiting": 200});
    let stack = newest(Options {
        concurrency: 1,
        configuration: Some(configuration.to_string()),
        edit: Some(Box::new(edit)),
        ..Options::default()
    });
    thread::scope(|scope| {
        let sent: Vec<_> = (0..210).map(|_| scope.spawn(|| stack.send(&get("/")).unwrap())).collect();
        assert!(stack::eventually(Duration::from_secs(20), || waiters(&stack) == Some(200)), "{:?}", waiters(&stack));
        assert_eq!(stack.get(UNLISTED_HOST, "/", &[]).status, 200);
        let answers: Vec<Response> = sent.into_iter().map(|answer| answer.join().unwrap()).collect();
        let (rejected, timed_out): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 503);
        assert_eq!((rejected.len(), timed_out.len()), (10, 200));
        rejected.into_iter().for_each(|answer| drop(problem(answer, 503, "too_many_waiting")));
        timed_out.into_iter().for_each(|answer| drop(problem(answer, 504, "token_wait_timeout")));
    });
    assert_eq!(waiters(&stack), Some(0));
    // Requests that end make room for others.
    let mut clients: Vec<TcpStream> = (0..150).map(|_| send_without_reading(&stack)).collect();
    assert!(stack::eventually(Duration::from_secs(10), || waiters(&stack) == Some(150)), "{:?}", waiters(&stack));
    clients.clear();
    assert!(stack::eventually(Duration::from_secs(10), || waiters(&stack) == Some(0)), "{:?}", waiters(&stack));
    assert_eq!(stack.directory().stats().token_requests, 0);
    assert_clean_log(&stack);
}

/// A client that sends a request and does not read the response.
fn send_without_reading(stack: &Stack) -> TcpStream {
    let mut client = TcpStream::connect(stack.outbound_addr()).unwrap();
    client.write_all(format!("GET / HTTP/1.1\r\nHost: {LISTED_HOST}\r\n\r\n").as_bytes()).unwrap();
    client
}

fn two_thousand_cold_requests() {
    let stack = newest(Options::default());
    // Shorter than the timeout of a call through the first cluster.
    stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(2))]);
    let answers = at_once(&stack, &vec![get("/"); 2000]);
    let first = answers[0].seen_header("authorization").unwrap();
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.seen_header("authorization").as_ref(), Some(&first));
    }
    assert_eq!((stack.directory().stats().token_requests, stack.upstream.requests()), (1, 2000));
    assert_eq!(waiters(&stack), Some(0));
    assert_clean_log(&stack);
}

fn requests_that_are_reset() {
    // With one cluster the call may take longer than all requests need to arrive.
    let mut configuration = destination(&json!({}));
    configuration["entra"] = json!({"clusters": ["entra"]});
    let stack =
        newest(Options { concurrency: 1, configuration: Some(configuration.to_string()), ..Options::default() });
    stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(3))]);
    let mut clients: Vec<TcpStream> = (0..500).map(|_| send_without_reading(&stack)).collect();
    thread::scope(|scope| {
        let remaining: Vec<_> = (0..100).map(|_| scope.spawn(|| stack.send(&get("/")).unwrap())).collect();
        assert!(stack::eventually(Duration::from_secs(20), || waiters(&stack) == Some(600)), "{:?}", waiters(&stack));
        // Some clients disconnect during the exchange, the others as soon as the filter starts to continue the requests.
        clients.truncate(300);
        let released = || waiters(&stack).is_some_and(|waiting| waiting < 400);
        assert!(stack::eventually(Duration::from_secs(10), released));
        clients.clear();
        for answer in remaining {
            assert_eq!(answer.join().unwrap().status, 200);
        }
    });
    assert!(stack::eventually(Duration::from_secs(10), || waiters(&stack) == Some(0)), "{:?}", waiters(&stack));
    assert_eq!(stack.directory().stats().token_requests, 1);
    assert_clean_log(&stack);
}

/// The probes of a pod that has not read its federated token yet wait for the read. One that finds too many waiting is not ready.
fn a_thousand_probes() {
    let stack = newest(Options { concurrency: 1, ..Options::default() });
    let probe = Request::get(HEALTH_HOST, "/readyz").timeout(Duration::from_secs(20));
    let answers = probe.send_many_http2(stack.health_addr(), 1000).unwrap();
    let ready = answers.iter().filter(|answer| answer.status == 200).count();
    let unready = answers.iter().filter(|answer| answer.status == 503).count();
    assert!(ready > 0 && ready + unready == 1000, "{ready} {unready}");
    assert_eq!(stack.send_health(&probe).unwrap().status, 200);
    assert_clean_log(&stack);
}
