//! Tests of HTTP calls to clusters: immediate failures, responses and their delivery.

mod guest;

use std::time::Duration;

use guest::{log_of, log_of_worker, module};
use wasm_host::{Cluster, Event, FailurePolicy, Headers, Host, Module, Response, StreamState, Thread};

fn any() -> Headers {
    Headers::get_request("example.com", "/")
}

/// Creates a module that calls cluster `c` for each request and logs the response.
fn caller(timeout: u32) -> Module {
    module(&format!(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $log_number (call $call 'c' (i32.const {timeout})))
             (i32.const 1))
           (func (export "proxy_on_http_call_response") (param $context i32) (param $token i32)
             (param $headers i32) (param $body i32) (param i32)
             (call $log_text 'response')
             (call $log_number (local.get $context))
             (call $log_number (local.get $token))
             (call $log_number (local.get $headers))
             (call $log_number (local.get $body))
             (call $log_result (call $get_header (i32.const 6) ':status' (i32.const 0) (i32.const 4)))
             (call $log_result (call $get_buffer (i32.const 4) (i32.const 0) (i32.const 1000) (i32.const 0) (i32.const 4))))"#
    ))
}

#[test]
fn the_root_context_receives_the_response_in_a_later_event() {
    let host = Host::builder(&caller(0)).cluster("c").start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["0"]);
    let [call] = host.callouts().try_into().unwrap();
    assert_eq!((call.thread, call.cluster.as_str(), call.timeout), (Thread::Worker(0), "c", None));
    assert_eq!((call.headers.text(":path").unwrap(), call.body.as_slice()), ("/".to_owned(), b"body".as_slice()));
    assert_eq!(call.headers.text("content-length").unwrap(), "4");
    assert_eq!(host.ready_events(), []);
    host.respond(&call, Response::new(200, "hello"));
    assert!(host.callouts().is_empty());
    assert!(log_of_worker(&host).is_empty(), "not before its event is delivered");
    host.run_until_idle();
    assert_eq!(log_of_worker(&host), ["response", "1", "1", "1", "5", "200", "hello"]);
}

#[test]
fn an_unknown_cluster_is_a_bad_argument_at_once() {
    let host = Host::builder(&caller(0)).start().unwrap();
    host.worker(0).request(any());
    host.advance(Duration::from_secs(60));
    assert_eq!(log_of_worker(&host), ["2"]);
}

#[test]
fn a_cluster_without_hosts_is_an_internal_failure_at_once() {
    let host = Host::builder(&caller(0)).cluster_of_kind("c", Cluster::NoHosts).start().unwrap();
    host.worker(0).request(any());
    host.advance(Duration::from_secs(60));
    assert_eq!(log_of_worker(&host), ["10"]);
}

#[test]
fn a_refused_connection_is_a_503_with_a_text_in_a_later_event() {
    let host = Host::builder(&caller(0)).cluster_of_kind("c", Cluster::RefusesConnections).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["0"]);
    assert!(host.callouts().is_empty());
    host.run_until_idle();
    let log = log_of_worker(&host);
    assert_eq!(log[5], "503");
    assert!(log[6].starts_with("upstream connect error"), "{log:?}");
}

#[test]
fn a_call_that_times_out_gets_a_504() {
    let host = Host::builder(&caller(2000)).cluster("c").start().unwrap();
    host.worker(0).request(any());
    host.advance(Duration::from_millis(1999));
    assert_eq!(log_of_worker(&host), ["0"]);
    host.advance(Duration::from_millis(1));
    assert_eq!(log_of_worker(&host), ["response", "1", "1", "2", "24", "504", "upstream request timeout"]);
    assert!(host.callouts().is_empty());
}

#[test]
fn a_delayed_response_arrives_unless_the_call_times_out_first() {
    for (delay, status) in [(1999, "200"), (2001, "504")] {
        let host = Host::builder(&caller(2000)).cluster("c").start().unwrap();
        host.worker(0).request(any());
        host.respond_after(&host.callouts()[0], Duration::from_millis(delay), Response::new(200, "x"));
        host.advance(Duration::from_millis(1998));
        assert_eq!(log_of_worker(&host), ["0"]);
        host.advance(Duration::from_secs(5));
        assert_eq!(log_of_worker(&host)[5], status);
    }
}

#[test]
fn an_aborted_response_has_no_headers_and_no_body() {
    let host = Host::builder(&caller(0)).cluster("c").start().unwrap();
    host.worker(0).request(any());
    host.abort_response(&host.callouts()[0]);
    host.run_until_idle();
    assert_eq!(log_of_worker(&host), ["0", "response", "1", "1", "0", "0", "2", "1"]);
}

#[test]
fn an_internal_listener_serves_workers_but_not_the_main_thread() {
    let module = module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $set_tick_period (i32.const 1000)))
             (i32.const 1))
           (func (export "proxy_on_tick") (param i32)
             (drop (call $set_tick_period (i32.const 0)))
             (call $log_number (call $call 'c' (i32.const 0))))
           (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
             (call $log_result (call $get_header (i32.const 6) ':status' (i32.const 0) (i32.const 4))))"#,
    );
    let host = Host::builder(&module).cluster_of_kind("c", Cluster::InternalListener).start().unwrap();
    host.advance(Duration::from_secs(1));
    assert_eq!(log_of(&host, Thread::Main), ["0", "503"]);
    let calls = host.callouts();
    assert_eq!(calls.iter().map(|call| call.thread).collect::<Vec<_>>(), [Thread::Worker(0)]);
    host.respond(&calls[0], Response::new(200, ""));
    host.run_until_idle();
    assert_eq!(log_of(&host, Thread::Worker(0)), ["0", "200"]);
}

#[test]
fn a_call_requires_method_path_authority_and_a_valid_timeout() {
    let module = module(
        r#"(func $try (param $pointer i32) (param $length i32) (param $timeout i32)
             (call $log_number (call $http_call 'c' (local.get $pointer) (local.get $length) (i32.const 0) (i32.const 0)
               (i32.const 0) (i32.const 0) (local.get $timeout) (i32.const 12))))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $try `:path=/|:authority=x` (i32.const 0))
             (call $try `:method=GET|:authority=x` (i32.const 0))
             (call $try `:method=GET|:path=/` (i32.const 0))
             (call $try 'invalid' (i32.const 0))
             (call $try `:method=GET|:path=/|:authority=x` (i32.const -1))
             (call $try `:method=GET|:path=/|:authority=x` (i32.const 1))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).cluster("c").start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["2", "2", "2", "2", "2", "0"]);
}

#[test]
fn a_call_outlives_the_stream_that_made_it() {
    let host = Host::builder(&caller(0)).cluster("c").start().unwrap();
    let stream = host.worker(0).request(any());
    stream.end();
    assert_eq!(stream.state(), StreamState::Reset);
    host.respond(&host.callouts()[0], Response::new(200, ""));
    host.run_until_idle();
    assert_eq!(log_of_worker(&host)[1..4], ["response", "1", "1"]);
}

#[test]
fn the_response_to_a_call_of_a_crashed_vm_is_dropped() {
    let host = Host::builder(&caller(0)).cluster("c").failure_policy(FailurePolicy::RELOAD).start().unwrap();
    host.worker(0).request(any());
    let before = host.callouts();
    host.worker(0).kill();
    assert!(host.callouts().is_empty());
    host.respond(&before[0], Response::new(200, "old"));
    host.worker(0).request(any());
    host.run_until_idle();
    assert_eq!(log_of_worker(&host), ["0", "0"]);
}

#[test]
fn responses_arrive_in_the_order_that_the_test_chooses() {
    let host = Host::builder(&caller(0)).cluster("c").start().unwrap();
    host.worker(0).request(any());
    host.worker(0).request(any());
    for call in host.callouts() {
        host.respond(&call, Response::new(200, ""));
    }
    let events = host.ready_events();
    assert_eq!(events.len(), 2);
    assert!(host.deliver(events[1]));
    assert!(host.deliver(events[0]));
    assert!(!host.deliver(events[0]));
    let tokens: Vec<_> = log_of_worker(&host).into_iter().skip(2).skip(2).step_by(7).collect();
    assert_eq!(tokens, ["2", "1"]);
    assert!(matches!(events[0], Event::CallResponse { call: 1, .. }));
}

#[test]
fn a_buffer_can_be_read_in_parts_and_not_beyond_its_end() {
    let module = module(
        r#"(func $read (param $start i32) (param $length i32)
             (i64.store (i32.const 0) (i64.const 0))
             (call $log_result
               (call $get_buffer (i32.const 4) (local.get $start) (local.get $length) (i32.const 0) (i32.const 4))))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (drop (call $call 'c' (i32.const 0)))
             (call $read (i32.const 0) (i32.const 9))
             (i32.const 1))
           (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
             (call $read (i32.const 0) (i32.const 2))
             (call $read (i32.const 3) (i32.const 99))
             (call $read (i32.const 9) (i32.const 1))
             (call $read (i32.const 1) (i32.const -1))
             (call $log_number (call $get_buffer (i32.const 9) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 4))))"#,
    );
    let host = Host::builder(&module).cluster("c").start().unwrap();
    host.worker(0).request(any());
    host.respond(&host.callouts()[0], Response::new(200, "hello"));
    host.run_until_idle();
    assert_eq!(log_of_worker(&host), ["1", "he", "lo", "", "2", "2"]);
}
