//! What the VMs of one process share: the order in which they start, data, queues, metrics, the clock.

mod guest;

use std::time::Duration;

use guest::{heard, module, said};
use wasm_host::{FailurePolicy, Headers, Host, Metric, StartError, Thread, Turn};

fn any() -> Headers {
    Headers::get_request("example.com", "/")
}

#[test]
fn the_canary_is_configured_first_then_the_main_thread_then_the_workers() {
    let module = module(
        r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (call $say 'start') (i32.const 1))
           (func (export "proxy_on_configure") (param i32 i32) (result i32) (call $say 'configure') (i32.const 1))"#,
    );
    let host = Host::builder(&module).workers(2).start().unwrap();
    let log: Vec<_> = host.log().into_iter().map(|line| (line.thread, line.text)).collect();
    let threads = [Thread::Canary, Thread::Main, Thread::Worker(0), Thread::Worker(1)];
    let expected = threads.map(|thread| [(thread, "start".to_owned()), (thread, "configure".to_owned())]);
    assert_eq!(log, expected.concat());
}

#[test]
fn a_configuration_that_is_refused_or_traps_starts_no_host() {
    let configure = |answer: &str| {
        module(&format!(r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) {answer})"#))
    };
    let refused = Host::builder(&configure("(call $say 'no') (i32.const 0)")).start().unwrap_err();
    assert!(matches!(&refused, StartError::Refused { log } if log == "[Info][Canary] no\n"), "{refused}");
    let trapped = Host::builder(&configure("(unreachable)")).start().unwrap_err();
    assert!(matches!(&trapped, StartError::Trapped { .. }), "{trapped}");
    let start = module(r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 0))"#);
    assert!(matches!(Host::builder(&start).start(), Err(StartError::Refused { .. })));
}

#[test]
fn the_configuration_can_be_read_only_while_it_is_applied() {
    let module = module(
        r#"(func $read (call $tell
             (call $get_buffer (i32.const 7) (i32.const 0) (i32.const 100) (i32.const 0) (i32.const 4))))
           (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (call $read) (i32.const 1))
           (func (export "proxy_on_configure") (param i32 i32) (result i32) (call $read) (i32.const 1))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $read) (i32.const 0))"#,
    );
    let host = Host::builder(&module).configuration("a text").start().unwrap();
    assert_eq!(heard(&host), ["1", "a text"]);
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["1"]);
}

#[test]
fn what_the_canary_shares_is_there_for_all() {
    let module = module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (call $shared 'k')
             (drop (call $set_shared 'k' 'v' (i32.const 0)))
             (i32.const 1))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    assert_eq!(said(&host, Thread::Canary), ["1"]);
    assert_eq!(said(&host, Thread::Main), ["v"]);
    assert_eq!(said(&host, Thread::Worker(0)), ["v"]);
}

#[test]
fn a_set_on_a_missing_key_succeeds_whatever_the_number() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $number (call $set_shared 'k' 'v' (i32.const 4711)))
             (call $shared 'k')
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["0", "v"]);
}

#[test]
fn a_set_needs_the_present_number_or_none() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (drop (call $set_shared 'k' 'a' (i32.const 0)))
             (call $shared 'k')
             (call $number (call $set_shared 'k' 'b' (i32.add (i32.load (i32.const 8)) (i32.const 1))))
             (call $number (call $set_shared 'k' 'c' (i32.load (i32.const 8))))
             (call $number (call $set_shared 'k' 'd' (i32.load (i32.const 8))))
             (call $shared 'k')
             (call $number (call $set_shared 'k' 'e' (i32.const 0)))
             (call $shared 'k')
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["a", "8", "0", "8", "c", "0", "e"]);
}

#[test]
fn the_numbers_of_shared_data_are_one_row_for_all_keys_and_rise() {
    let module = module(
        r#"(func $set (param $place i32) (param $length i32)
             (drop (call $set_shared (local.get $place) (local.get $length) 'v' (i32.const 0)))
             (call $shared (local.get $place) (local.get $length))
             (call $number (i32.load (i32.const 8))))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $set 'a') (call $set 'b') (call $set 'a') (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["v", "1", "v", "2", "v", "3"]);
}

#[test]
fn what_is_removed_is_an_empty_value_and_no_missing_key() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (drop (call $set_shared 'k' 'v' (i32.const 0)))
             (drop (call $set_shared 'k' (i32.const 0) (i32.const 0) (i32.const 0)))
             (call $shared 'k')
             (call $number (call $set_shared 'k' 'v' (i32.const 4711)))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["", "8"]);
    assert_eq!(host.shared_data("k"), Some(Vec::new()));
}

/// Registers one name in every VM, sends to it with a request, and reads it when told.
const QUEUE: &str = r#"
    (func (export "proxy_on_configure") (param i32 i32) (result i32)
      (drop (call $register_queue 'q' (i32.const 12)))
      (i32.const 1))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
      (drop (call $enqueue (i32.load (i32.const 12)) 'one'))
      (drop (call $enqueue (i32.load (i32.const 12)) 'two'))
      (call $say 'sent')
      (i32.const 0))
    (func (export "proxy_on_queue_ready") (param i32) (param $queue i32)
      (call $tell (call $dequeue (local.get $queue) (i32.const 0) (i32.const 4))))"#;

#[test]
fn a_queues_name_belongs_to_its_last_registrant() {
    let host = Host::builder(&module(QUEUE)).workers(2).start().unwrap();
    host.worker(0).request(any());
    host.run_until_idle();
    assert_eq!(said(&host, Thread::Worker(0)), ["sent"]);
    assert_eq!(said(&host, Thread::Worker(1)), ["one", "two"]);
}

#[test]
fn a_queue_is_delivered_on_a_later_turn_and_once_for_each_message() {
    let host = Host::builder(&module(QUEUE)).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["sent"]);
    let turns = host.turns();
    assert_eq!(turns, [Turn::QueueReady { thread: Thread::Worker(0), queue: 1 }]);
    assert!(host.take(turns[0]));
    assert_eq!(heard(&host), ["one"]);
    assert!(host.take(turns[0]));
    assert_eq!(heard(&host), ["two"]);
    assert!(!host.take(turns[0]));
}

#[test]
fn a_message_to_a_vm_that_is_gone_stays_for_the_next() {
    let builder = Host::builder(&module(QUEUE)).failure_policy(FailurePolicy::RELOAD);
    let host = builder.start().unwrap();
    host.worker(0).request(any());
    host.worker(0).kill();
    host.run_until_idle();
    host.clear_log();
    // The new VM registers the same queue, and finds what was left.
    host.worker(0).request(any());
    host.run_until_idle();
    assert_eq!(heard(&host), ["sent", "one", "two"]);
}

#[test]
fn a_new_vm_is_told_of_a_queue_that_the_dead_one_registered() {
    let host = Host::builder(&module(QUEUE)).failure_policy(FailurePolicy::RELOAD).start().unwrap();
    host.worker(0).request(any());
    host.worker(0).kill();
    host.worker(0).request(any());
    host.run_until_idle();
    // Two of the dead VM's, two of its own: its root context has the same number.
    assert_eq!(heard(&host), ["sent", "sent", "one", "two", "one", "two"]);
}

#[test]
fn queues_that_are_empty_or_unknown_say_so() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $number (call $resolve_queue (i32.const 0) (i32.const 0) 'q' (i32.const 12)))
             (call $number (call $enqueue (i32.const 9) 'x'))
             (call $number (call $dequeue (i32.const 9) (i32.const 0) (i32.const 4)))
             (drop (call $register_queue 'q' (i32.const 12)))
             (call $number (call $resolve_queue (i32.const 0) (i32.const 0) 'q' (i32.const 12)))
             (call $number (call $resolve_queue 'id' 'q' (i32.const 12)))
             (call $number (call $resolve_queue 'other' 'q' (i32.const 12)))
             (call $number (call $dequeue (i32.load (i32.const 12)) (i32.const 0) (i32.const 4)))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).plugin("n", "r", "id").start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["1", "1", "1", "0", "0", "1", "7"]);
}

#[test]
fn counters_rise_gauges_are_set_and_histograms_keep_all_and_every_vm_writes_the_same() {
    let module = module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $define_metric (i32.const 0) 'c' (i32.const 100)))
             (drop (call $define_metric (i32.const 1) 'g' (i32.const 104)))
             (drop (call $define_metric (i32.const 2) 'h' (i32.const 108)))
             (call $number (call $define_metric (i32.const 3) 'x' (i32.const 0)))
             (call $number (call $increment_metric (i32.load (i32.const 100)) (i64.const 2)))
             (call $number (call $increment_metric (i32.load (i32.const 100)) (i64.const -1)))
             (call $number (call $record_metric (i32.load (i32.const 104)) (i64.const 7)))
             (call $number (call $increment_metric (i32.load (i32.const 104)) (i64.const -3)))
             (call $number (call $record_metric (i32.load (i32.const 108)) (i64.const 5)))
             (call $number (call $get_metric (i32.load (i32.const 104)) (i32.const 0)))
             (call $number (i32.load (i32.const 0)))
             (call $number (call $get_metric (i32.load (i32.const 108)) (i32.const 0)))
             (call $number (call $increment_metric (i32.const 400) (i64.const 1)))
             (call $number (call $record_metric (i32.const 400) (i64.const 1)))
             (i32.const 1))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    assert_eq!(heard(&host), ["2", "0", "2", "0", "0", "0", "0", "4", "2", "1", "1"]);
    // The canary, the main thread and a worker.
    assert_eq!(host.metric("c"), Some(Metric::Counter(6)));
    assert_eq!(host.metric("g"), Some(Metric::Gauge(4)));
    assert_eq!(host.metric("h"), Some(Metric::Histogram(vec![5, 5, 5])));
    assert_eq!(host.metric("x"), None);
}

/// Ticks every 100 ms, and stops at the third.
const TICKS: &str = r#"
    (func (export "proxy_on_configure") (param i32 i32) (result i32)
      (drop (call $set_tick_period (i32.const 100)))
      (i32.const 1))
    (func (export "proxy_on_tick") (param i32)
      (call $say 'tick')
      (i32.store (i32.const 100) (i32.add (i32.load (i32.const 100)) (i32.const 1)))
      (if (i32.eq (i32.load (i32.const 100)) (i32.const 3))
        (then (drop (call $set_tick_period (i32.const 0))))))"#;

#[test]
fn ticks_come_at_their_period_until_there_is_none_and_on_the_main_thread_too() {
    let host = Host::builder(&module(TICKS)).start().unwrap();
    host.advance(Duration::from_millis(99));
    assert_eq!(host.log_text(), "");
    host.advance(Duration::from_millis(1));
    assert_eq!(heard(&host), ["tick"]);
    host.advance(Duration::from_secs(1));
    assert_eq!(said(&host, Thread::Worker(0)), ["tick", "tick"]);
    assert_eq!(said(&host, Thread::Main).len(), 2);
    assert!(said(&host, Thread::Canary).is_empty(), "the canary is gone");
}

#[test]
fn a_thread_that_was_busy_ticks_once_and_not_for_every_period() {
    let host = Host::builder(&module(TICKS)).start().unwrap();
    host.elapse(Duration::from_millis(250));
    assert_eq!(host.turns().len(), 2, "one for each thread: {:?}", host.turns());
    host.run_until_idle();
    assert_eq!(heard(&host), ["tick"]);
    host.advance(Duration::from_millis(100));
    assert_eq!(heard(&host), ["tick"], "the period begins anew");
}

#[test]
fn the_wall_clock_can_be_set_and_timers_run_on() {
    let module = module(
        r#"(func $now (drop (call $get_time (i32.const 0)))
             (call $number (i32.wrap_i64 (i64.div_u (i64.load (i32.const 0)) (i64.const 1000000000)))))
           (func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $set_tick_period (i32.const 1000)))
             (i32.const 1))
           (func (export "proxy_on_tick") (param i32) (call $now))"#,
    );
    let start = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let host = Host::builder(&module).started_at(start).start().unwrap();
    host.advance(Duration::from_secs(1));
    assert_eq!(heard(&host), ["1000001"]);
    host.set_wall_clock(start - Duration::from_secs(3600));
    host.advance(Duration::from_secs(1));
    assert_eq!(heard(&host), ["996401"]);
    assert_eq!(host.now(), Duration::from_secs(2));
}
