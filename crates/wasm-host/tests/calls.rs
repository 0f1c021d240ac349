//! Calls to clusters: what fails at once, what is an answer, and who hears of it.

mod guest;

use std::time::Duration;

use guest::{heard, module, said};
use wasm_host::{Cluster, FailurePolicy, Headers, Host, Module, Outcome, Response, Thread, Turn};

fn any() -> Headers {
    Headers::get_request("example.com", "/")
}

/// Calls cluster `c` for each request, and tells what comes back.
fn caller(timeout: u32) -> Module {
    module(&format!(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $number (call $call 'c' (i32.const {timeout})))
             (i32.const 1))
           (func (export "proxy_on_http_call_response") (param $context i32) (param $token i32)
             (param $headers i32) (param $body i32) (param i32)
             (call $say 'answer')
             (call $number (local.get $context))
             (call $number (local.get $token))
             (call $number (local.get $headers))
             (call $number (local.get $body))
             (call $tell (call $get_header (i32.const 6) ':status' (i32.const 0) (i32.const 4)))
             (call $tell (call $get_buffer (i32.const 4) (i32.const 0) (i32.const 1000) (i32.const 0) (i32.const 4))))"#
    ))
}

#[test]
fn a_call_is_answered_later_and_the_root_context_hears_of_it() {
    let host = Host::builder(&caller(0)).cluster("c").start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["0"]);
    let [call] = host.callouts().try_into().unwrap();
    assert_eq!((call.thread, call.cluster.as_str(), call.timeout), (Thread::Worker(0), "c", None));
    assert_eq!((call.headers.text(":path").unwrap(), call.body.as_slice()), ("/".to_owned(), b"body".as_slice()));
    assert_eq!(call.headers.text("content-length").unwrap(), "4");
    assert_eq!(host.turns(), []);
    host.answer(&call, Response::new(200, "hello"));
    assert!(host.callouts().is_empty());
    assert!(heard(&host).is_empty(), "not before its turn");
    host.run_until_idle();
    assert_eq!(heard(&host), ["answer", "1", "1", "1", "5", "200", "hello"]);
}

#[test]
fn an_unknown_cluster_is_a_bad_argument_at_once() {
    let host = Host::builder(&caller(0)).start().unwrap();
    host.worker(0).request(any());
    host.advance(Duration::from_secs(60));
    assert_eq!(heard(&host), ["2"]);
}

#[test]
fn a_cluster_without_hosts_is_an_internal_failure_at_once() {
    let host = Host::builder(&caller(0)).cluster_that("c", Cluster::NoHosts).start().unwrap();
    host.worker(0).request(any());
    host.advance(Duration::from_secs(60));
    assert_eq!(heard(&host), ["10"]);
}

#[test]
fn a_refused_connection_is_a_503_with_a_text_on_a_later_turn() {
    let host = Host::builder(&caller(0)).cluster_that("c", Cluster::Refuses).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["0"]);
    assert!(host.callouts().is_empty());
    host.run_until_idle();
    let heard = heard(&host);
    assert_eq!(heard[5], "503");
    assert!(heard[6].starts_with("upstream connect error"), "{heard:?}");
}

#[test]
fn a_call_that_times_out_is_answered_504() {
    let host = Host::builder(&caller(2000)).cluster("c").start().unwrap();
    host.worker(0).request(any());
    host.advance(Duration::from_millis(1999));
    assert_eq!(heard(&host), ["0"]);
    host.advance(Duration::from_millis(1));
    assert_eq!(heard(&host), ["answer", "1", "1", "2", "24", "504", "upstream request timeout"]);
    assert!(host.callouts().is_empty());
}

#[test]
fn an_answer_on_its_way_arrives_in_its_time_or_too_late() {
    for (delay, status) in [(1999, "200"), (2001, "504")] {
        let host = Host::builder(&caller(2000)).cluster("c").start().unwrap();
        host.worker(0).request(any());
        host.answer_after(&host.callouts()[0], Duration::from_millis(delay), Response::new(200, "x"));
        host.advance(Duration::from_millis(1998));
        assert_eq!(heard(&host), ["0"]);
        host.advance(Duration::from_secs(5));
        assert_eq!(heard(&host)[5], status);
    }
}

#[test]
fn an_answer_that_breaks_off_has_no_headers_and_no_body() {
    let host = Host::builder(&caller(0)).cluster("c").start().unwrap();
    host.worker(0).request(any());
    host.cut(&host.callouts()[0]);
    host.run_until_idle();
    assert_eq!(heard(&host), ["0", "answer", "1", "1", "0", "0", "2", "1"]);
}

#[test]
fn an_internal_listener_answers_workers_and_not_the_main_thread() {
    let module = module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $set_tick_period (i32.const 1000)))
             (i32.const 1))
           (func (export "proxy_on_tick") (param i32)
             (drop (call $set_tick_period (i32.const 0)))
             (call $number (call $call 'c' (i32.const 0))))
           (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
             (call $tell (call $get_header (i32.const 6) ':status' (i32.const 0) (i32.const 4))))"#,
    );
    let host = Host::builder(&module).cluster_that("c", Cluster::InternalListener).start().unwrap();
    host.advance(Duration::from_secs(1));
    assert_eq!(said(&host, Thread::Main), ["0", "503"]);
    let calls = host.callouts();
    assert_eq!(calls.iter().map(|call| call.thread).collect::<Vec<_>>(), [Thread::Worker(0)]);
    host.answer(&calls[0], Response::new(200, ""));
    host.run_until_idle();
    assert_eq!(said(&host, Thread::Worker(0)), ["0", "200"]);
}

#[test]
fn a_call_needs_method_path_and_authority_and_a_timeout_that_is_one() {
    let module = module(
        r#"(func $try (param $place i32) (param $length i32) (param $timeout i32)
             (call $number (call $http_call 'c' (local.get $place) (local.get $length) (i32.const 0) (i32.const 0)
               (i32.const 0) (i32.const 0) (local.get $timeout) (i32.const 12))))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $try `:path=/|:authority=x` (i32.const 0))
             (call $try `:method=GET|:authority=x` (i32.const 0))
             (call $try `:method=GET|:path=/` (i32.const 0))
             (call $try 'rubbish' (i32.const 0))
             (call $try `:method=GET|:path=/|:authority=x` (i32.const -1))
             (call $try `:method=GET|:path=/|:authority=x` (i32.const 1))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).cluster("c").start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["2", "2", "2", "2", "2", "0"]);
}

#[test]
fn a_call_outlives_the_stream_that_made_it() {
    let host = Host::builder(&caller(0)).cluster("c").start().unwrap();
    let stream = host.worker(0).request(any());
    stream.end();
    assert_eq!(stream.outcome(), Outcome::Reset);
    host.answer(&host.callouts()[0], Response::new(200, ""));
    host.run_until_idle();
    assert_eq!(heard(&host)[1..4], ["answer", "1", "1"]);
}

#[test]
fn nobody_hears_the_answer_to_a_call_of_a_dead_vm() {
    let host = Host::builder(&caller(0)).cluster("c").failure_policy(FailurePolicy::RELOAD).start().unwrap();
    host.worker(0).request(any());
    let before = host.callouts();
    host.worker(0).kill();
    assert!(host.callouts().is_empty());
    host.answer(&before[0], Response::new(200, "old"));
    host.worker(0).request(any());
    host.run_until_idle();
    assert_eq!(heard(&host), ["0", "0"]);
}

#[test]
fn answers_come_in_the_order_that_the_test_chooses() {
    let host = Host::builder(&caller(0)).cluster("c").start().unwrap();
    host.worker(0).request(any());
    host.worker(0).request(any());
    for call in host.callouts() {
        host.answer(&call, Response::new(200, ""));
    }
    let turns = host.turns();
    assert_eq!(turns.len(), 2);
    assert!(host.take(turns[1]));
    assert!(host.take(turns[0]));
    assert!(!host.take(turns[0]));
    let tokens: Vec<_> = heard(&host).into_iter().skip(2).skip(2).step_by(7).collect();
    assert_eq!(tokens, ["2", "1"]);
    assert!(matches!(turns[0], Turn::Answer { call: 1, .. }));
}

#[test]
fn a_buffer_is_read_in_parts_and_not_beyond_its_end() {
    let module = module(
        r#"(func $read (param $start i32) (param $length i32)
             (i64.store (i32.const 0) (i64.const 0))
             (call $tell
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
             (call $number (call $get_buffer (i32.const 9) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 4))))"#,
    );
    let host = Host::builder(&module).cluster("c").start().unwrap();
    host.worker(0).request(any());
    host.answer(&host.callouts()[0], Response::new(200, "hello"));
    host.run_until_idle();
    assert_eq!(heard(&host), ["1", "he", "lo", "", "2", "2"]);
}
