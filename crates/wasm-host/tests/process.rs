//! Tests of what the VMs of a process share: start order, shared data, queues, metrics and clock.

mod guest;

use std::time::Duration;

use guest::{log_of, log_of_worker, module};
use wasm_host::{Event, FailurePolicy, Headers, Host, Metric, StartError, Thread};

fn any() -> Headers {
    Headers::get_request("example.com", "/")
}

#[test]
fn the_canary_is_configured_first_then_the_main_thread_then_the_workers() {
    let module = module(
        r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (call $log_text 'start') (i32.const 1))
           (func (export "proxy_on_configure") (param i32 i32) (result i32) (call $log_text 'configure') (i32.const 1))"#,
    );
    let host = Host::builder(&module).workers(2).start().unwrap();
    let log: Vec<_> = host.log().into_iter().map(|line| (line.thread, line.text)).collect();
    let threads = [Thread::Canary, Thread::Main, Thread::Worker(0), Thread::Worker(1)];
    let expected = threads.map(|thread| [(thread, "start".to_owned()), (thread, "configure".to_owned())]);
    assert_eq!(log, expected.concat());
}

#[test]
fn the_host_does_not_start_when_the_module_rejects_its_configuration_or_traps() {
    let configure =
        |body: &str| module(&format!(r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) {body})"#));
    let rejected = Host::builder(&configure("(call $log_text 'no') (i32.const 0)")).start().unwrap_err();
    assert!(matches!(&rejected, StartError::Rejected { log } if log == "[Info][Canary] no\n"), "{rejected}");
    let trapped = Host::builder(&configure("(unreachable)")).start().unwrap_err();
    assert!(matches!(&trapped, StartError::Trapped { .. }), "{trapped}");
    let start = module(r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 0))"#);
    assert!(matches!(Host::builder(&start).start(), Err(StartError::Rejected { .. })));
}

#[test]
fn the_configuration_can_be_read_only_during_on_configure() {
    let module = module(
        r#"(func $read (call $log_result
             (call $get_buffer (i32.const 7) (i32.const 0) (i32.const 100) (i32.const 0) (i32.const 4))))
           (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (call $read) (i32.const 1))
           (func (export "proxy_on_configure") (param i32 i32) (result i32) (call $read) (i32.const 1))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $read) (i32.const 0))"#,
    );
    let host = Host::builder(&module).configuration("a text").start().unwrap();
    assert_eq!(log_of_worker(&host), ["1", "a text"]);
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["1"]);
}

#[test]
fn all_vms_see_the_data_that_the_canary_has_shared() {
    let module = module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (call $log_shared 'k')
             (drop (call $set_shared 'k' 'v' (i32.const 0)))
             (i32.const 1))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    assert_eq!(log_of(&host, Thread::Canary), ["1"]);
    assert_eq!(log_of(&host, Thread::Main), ["v"]);
    assert_eq!(log_of(&host, Thread::Worker(0)), ["v"]);
}

#[test]
fn setting_a_missing_key_succeeds_with_any_cas_number() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $log_number (call $set_shared 'k' 'v' (i32.const 4711)))
             (call $log_shared 'k')
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["0", "v"]);
}

#[test]
fn setting_a_key_requires_its_current_cas_number_or_none() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (drop (call $set_shared 'k' 'a' (i32.const 0)))
             (call $log_shared 'k')
             (call $log_number (call $set_shared 'k' 'b' (i32.add (i32.load (i32.const 8)) (i32.const 1))))
             (call $log_number (call $set_shared 'k' 'c' (i32.load (i32.const 8))))
             (call $log_number (call $set_shared 'k' 'd' (i32.load (i32.const 8))))
             (call $log_shared 'k')
             (call $log_number (call $set_shared 'k' 'e' (i32.const 0)))
             (call $log_shared 'k')
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["a", "8", "0", "8", "c", "0", "e"]);
}

#[test]
fn cas_numbers_increase_in_one_sequence_for_all_keys() {
    let module = module(
        r#"(func $set (param $pointer i32) (param $length i32)
             (drop (call $set_shared (local.get $pointer) (local.get $length) 'v' (i32.const 0)))
             (call $log_shared (local.get $pointer) (local.get $length))
             (call $log_number (i32.load (i32.const 8))))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $set 'a') (call $set 'b') (call $set 'a') (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["v", "1", "v", "2", "v", "3"]);
}

#[test]
fn a_removed_key_has_an_empty_value_instead_of_being_missing() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (drop (call $set_shared 'k' 'v' (i32.const 0)))
             (drop (call $set_shared 'k' (i32.const 0) (i32.const 0) (i32.const 0)))
             (call $log_shared 'k')
             (call $log_number (call $set_shared 'k' 'v' (i32.const 4711)))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["", "8"]);
    assert_eq!(host.shared_data("k"), Some(Vec::new()));
}

/// Functions that register one queue in every VM, add messages to it at a request, and log them on `proxy_on_queue_ready`.
const QUEUE: &str = r#"
    (func (export "proxy_on_configure") (param i32 i32) (result i32)
      (drop (call $register_queue 'q' (i32.const 12)))
      (i32.const 1))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
      (drop (call $enqueue (i32.load (i32.const 12)) 'one'))
      (drop (call $enqueue (i32.load (i32.const 12)) 'two'))
      (call $log_text 'sent')
      (i32.const 0))
    (func (export "proxy_on_queue_ready") (param i32) (param $queue i32)
      (call $log_result (call $dequeue (local.get $queue) (i32.const 0) (i32.const 4))))"#;

#[test]
fn the_last_vm_that_registers_a_queue_reads_it() {
    let host = Host::builder(&module(QUEUE)).workers(2).start().unwrap();
    host.worker(0).request(any());
    host.run_until_idle();
    assert_eq!(log_of(&host, Thread::Worker(0)), ["sent"]);
    assert_eq!(log_of(&host, Thread::Worker(1)), ["one", "two"]);
}

#[test]
fn each_message_is_announced_once_in_a_later_event() {
    let host = Host::builder(&module(QUEUE)).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["sent"]);
    let events = host.ready_events();
    assert_eq!(events, [Event::QueueReady { thread: Thread::Worker(0), queue: 1 }]);
    assert!(host.deliver(events[0]));
    assert_eq!(log_of_worker(&host), ["one"]);
    assert!(host.deliver(events[0]));
    assert_eq!(log_of_worker(&host), ["two"]);
    assert!(!host.deliver(events[0]));
}

#[test]
fn a_message_for_a_crashed_vm_stays_for_its_replacement() {
    let builder = Host::builder(&module(QUEUE)).failure_policy(FailurePolicy::RELOAD);
    let host = builder.start().unwrap();
    host.worker(0).request(any());
    host.worker(0).kill();
    host.run_until_idle();
    host.clear_log();
    // The new VM registers the same queue and finds the remaining messages.
    host.worker(0).request(any());
    host.run_until_idle();
    assert_eq!(log_of_worker(&host), ["sent", "one", "two"]);
}

#[test]
fn a_new_vm_is_notified_of_messages_for_the_crashed_one() {
    let host = Host::builder(&module(QUEUE)).failure_policy(FailurePolicy::RELOAD).start().unwrap();
    host.worker(0).request(any());
    host.worker(0).kill();
    host.worker(0).request(any());
    host.run_until_idle();
    // Two notifications for the crashed VM and two for the new one, whose root context has the same id.
    assert_eq!(log_of_worker(&host), ["sent", "sent", "one", "two", "one", "two"]);
}

#[test]
fn empty_and_unknown_queues_return_an_error_status() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $log_number (call $resolve_queue (i32.const 0) (i32.const 0) 'q' (i32.const 12)))
             (call $log_number (call $enqueue (i32.const 9) 'x'))
             (call $log_number (call $dequeue (i32.const 9) (i32.const 0) (i32.const 4)))
             (drop (call $register_queue 'q' (i32.const 12)))
             (call $log_number (call $resolve_queue (i32.const 0) (i32.const 0) 'q' (i32.const 12)))
             (call $log_number (call $resolve_queue 'id' 'q' (i32.const 12)))
             (call $log_number (call $resolve_queue 'other' 'q' (i32.const 12)))
             (call $log_number (call $dequeue (i32.load (i32.const 12)) (i32.const 0) (i32.const 4)))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).plugin("n", "r", "id").start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["1", "1", "1", "0", "0", "1", "7"]);
}

#[test]
fn every_vm_updates_the_same_counters_gauges_and_histograms() {
    let module = module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $define_metric (i32.const 0) 'c' (i32.const 100)))
             (drop (call $define_metric (i32.const 1) 'g' (i32.const 104)))
             (drop (call $define_metric (i32.const 2) 'h' (i32.const 108)))
             (call $log_number (call $define_metric (i32.const 3) 'x' (i32.const 0)))
             (call $log_number (call $increment_metric (i32.load (i32.const 100)) (i64.const 2)))
             (call $log_number (call $increment_metric (i32.load (i32.const 100)) (i64.const -1)))
             (call $log_number (call $record_metric (i32.load (i32.const 104)) (i64.const 7)))
             (call $log_number (call $increment_metric (i32.load (i32.const 104)) (i64.const -3)))
             (call $log_number (call $record_metric (i32.load (i32.const 108)) (i64.const 5)))
             (call $log_number (call $get_metric (i32.load (i32.const 104)) (i32.const 0)))
             (call $log_number (i32.load (i32.const 0)))
             (call $log_number (call $get_metric (i32.load (i32.const 108)) (i32.const 0)))
             (call $log_number (call $increment_metric (i32.const 400) (i64.const 1)))
             (call $log_number (call $record_metric (i32.const 400) (i64.const 1)))
             (i32.const 1))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    assert_eq!(log_of_worker(&host), ["2", "0", "2", "0", "0", "0", "0", "4", "2", "1", "1"]);
    // The canary, the main thread and a worker.
    assert_eq!(host.metric("c"), Some(Metric::Counter(6)));
    assert_eq!(host.metric("g"), Some(Metric::Gauge(4)));
    assert_eq!(host.metric("h"), Some(Metric::Histogram(vec![5, 5, 5])));
    assert_eq!(host.metric("x"), None);
}

/// Functions that tick every 100 ms and stop at the third tick.
const TICKS: &str = r#"
    (func (export "proxy_on_configure") (param i32 i32) (result i32)
      (drop (call $set_tick_period (i32.const 100)))
      (i32.const 1))
    (func (export "proxy_on_tick") (param i32)
      (call $log_text 'tick')
      (i32.store (i32.const 100) (i32.add (i32.load (i32.const 100)) (i32.const 1)))
      (if (i32.eq (i32.load (i32.const 100)) (i32.const 3))
        (then (drop (call $set_tick_period (i32.const 0))))))"#;

#[test]
fn every_thread_ticks_at_its_period_until_the_period_is_zero() {
    let host = Host::builder(&module(TICKS)).start().unwrap();
    host.advance(Duration::from_millis(99));
    assert_eq!(host.log_text(), "");
    host.advance(Duration::from_millis(1));
    assert_eq!(log_of_worker(&host), ["tick"]);
    host.advance(Duration::from_secs(1));
    assert_eq!(log_of(&host, Thread::Worker(0)), ["tick", "tick"]);
    assert_eq!(log_of(&host, Thread::Main).len(), 2);
    assert!(log_of(&host, Thread::Canary).is_empty(), "the canary has been dropped");
}

#[test]
fn a_busy_thread_ticks_once_instead_of_once_per_period() {
    let host = Host::builder(&module(TICKS)).start().unwrap();
    host.elapse(Duration::from_millis(250));
    assert_eq!(host.ready_events().len(), 2, "one per thread: {:?}", host.ready_events());
    host.run_until_idle();
    assert_eq!(log_of_worker(&host), ["tick"]);
    host.advance(Duration::from_millis(100));
    assert_eq!(log_of_worker(&host), ["tick"], "the period restarts");
}

#[test]
fn setting_the_wall_clock_does_not_affect_timers() {
    let module = module(
        r#"(func $now (drop (call $get_time (i32.const 0)))
             (call $log_number (i32.wrap_i64 (i64.div_u (i64.load (i32.const 0)) (i64.const 1000000000)))))
           (func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $set_tick_period (i32.const 1000)))
             (i32.const 1))
           (func (export "proxy_on_tick") (param i32) (call $now))"#,
    );
    let start = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let host = Host::builder(&module).started_at(start).start().unwrap();
    host.advance(Duration::from_secs(1));
    assert_eq!(log_of_worker(&host), ["1000001"]);
    host.set_wall_clock(start - Duration::from_secs(3600));
    host.advance(Duration::from_secs(1));
    assert_eq!(log_of_worker(&host), ["996401"]);
    assert_eq!(host.now(), Duration::from_secs(2));
}
