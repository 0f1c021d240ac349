//! Tests of VMs that trap, failure policies, limits and WASI.

mod guest;

use std::time::Duration;

use guest::{log_of_worker, module};
use wasm_host::{Builder, FailurePolicy, Headers, Host, Module, ModuleError, Stream, StreamState};

fn request(host: &Host, path: &str) -> Stream {
    host.worker(0).request(Headers::get_request("example.com", path))
}

fn status(stream: &Stream) -> u16 {
    match stream.state() {
        StreamState::LocalReply(reply) => reply.status,
        StreamState::Forwarded(_) => 200,
        other => panic!("{other:?}"),
    }
}

/// Creates a module that traps at `/trap`, pauses at `/pause`, and continues any other request.
fn trapping() -> Module {
    module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (call $log_text 'configure') (i32.const 1))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (drop (call $get_header (i32.const 0) ':path' (i32.const 0) (i32.const 4)))
             (if (i32.eq (i32.load8_u (i32.add (i32.load (i32.const 0)) (i32.const 1))) (i32.const 116))
               (then (unreachable)))
             (i32.eq (i32.load8_u (i32.add (i32.load (i32.const 0)) (i32.const 1))) (i32.const 112)))
           (func (export "proxy_on_done") (param i32) (result i32) (call $log_text 'done') (i32.const 1))"#,
    )
}

fn builder(policy: FailurePolicy) -> Builder {
    Host::builder(&trapping()).failure_policy(policy).stream_idle_timeout(Duration::from_secs(60))
}

#[test]
fn a_request_that_traps_gets_a_503_without_a_body_under_every_policy() {
    for policy in [FailurePolicy::Closed, FailurePolicy::Open, FailurePolicy::RELOAD] {
        let host = builder(policy).start().unwrap();
        let stream = request(&host, "/trap");
        let StreamState::LocalReply(reply) = stream.state() else { panic!("{stream:?}") };
        assert_eq!((reply.status, reply.body.len()), (503, 0));
        assert!(!host.worker(0).is_alive());
        let log = host.log_text();
        assert!(log.contains("Function: proxy_on_request_headers failed") && log.contains("unreachable"), "{log}");
    }
}

#[test]
fn a_trap_ends_only_the_vm_of_its_worker() {
    let host = builder(FailurePolicy::Closed).workers(2).start().unwrap();
    request(&host, "/trap");
    assert!(!host.worker(0).is_alive());
    assert!(host.worker(1).is_alive() && host.main_thread().is_alive());
    assert_eq!(status(&host.worker(1).request(Headers::get_request("example.com", "/"))), 200);
}

#[test]
fn fail_closed_rejects_every_later_request_with_503() {
    let host = builder(FailurePolicy::Closed).start().unwrap();
    request(&host, "/trap");
    host.advance(Duration::from_secs(3600));
    assert_eq!(status(&request(&host, "/")), 503);
    assert!(!host.worker(0).is_alive());
}

#[test]
fn fail_open_lets_later_requests_bypass_the_filter() {
    let host = builder(FailurePolicy::Open).start().unwrap();
    request(&host, "/trap");
    assert_eq!(status(&request(&host, "/pause")), 200);
    assert!(!host.worker(0).is_alive());
}

#[test]
fn fail_reload_creates_a_vm_at_the_next_request_at_most_once_per_back_off() {
    let host = builder(FailurePolicy::RELOAD).start().unwrap();
    host.clear_log();
    request(&host, "/trap");
    host.advance(Duration::from_secs(5));
    assert!(!host.worker(0).is_alive(), "only a request creates one");
    host.clear_log();
    // The first reload is immediate, and the new VM is configured.
    assert_eq!(status(&request(&host, "/")), 200);
    assert_eq!(log_of_worker(&host), ["configure"]);
    request(&host, "/trap");
    assert_eq!(status(&request(&host, "/")), 503);
    host.advance(Duration::from_millis(999));
    assert_eq!(status(&request(&host, "/")), 503);
    host.advance(Duration::from_millis(1));
    assert_eq!(status(&request(&host, "/")), 200);
}

#[test]
fn a_stream_paused_in_a_vm_that_traps_waits_for_its_idle_timeout() {
    for policy in [FailurePolicy::Closed, FailurePolicy::RELOAD] {
        let host = builder(policy).start().unwrap();
        let paused = request(&host, "/pause");
        request(&host, "/trap");
        request(&host, "/");
        host.clear_log();
        host.advance(Duration::from_millis(59_999));
        assert_eq!(paused.state(), StreamState::Paused);
        host.advance(Duration::from_millis(1));
        assert_eq!(status(&paused), 504);
        assert_eq!(log_of_worker(&host), [""; 0], "the new VM does not have the stream");
    }
}

#[test]
fn killing_a_vm_has_the_effect_of_a_trap() {
    let host = builder(FailurePolicy::Closed).start().unwrap();
    let paused = request(&host, "/pause");
    host.worker(0).kill();
    assert_eq!(status(&request(&host, "/")), 503);
    paused.end();
    assert_eq!(paused.state(), StreamState::Reset);
}

#[test]
fn a_trap_while_a_stream_ends_also_ends_the_vm() {
    let module = module(r#"(func (export "proxy_on_done") (param i32) (result i32) (unreachable))"#);
    let host = Host::builder(&module).start().unwrap();
    let stream = request(&host, "/");
    stream.end();
    assert!(!host.worker(0).is_alive());
    assert_eq!(status(&stream), 200);
}

#[test]
fn memory_growth_is_limited() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $log_number (memory.grow (i32.const 3)))
             (call $log_number (i32.add (memory.grow (i32.const 1)) (i32.const 1)))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).memory_limit(4 << 16).start().unwrap();
    request(&host, "/");
    // The module starts with one page; `memory.grow` returns -1 when it fails.
    assert_eq!(log_of_worker(&host), ["1", "0"]);
    assert_eq!(host.worker(0).memory(), 4 << 16);
}

#[test]
fn host_calls_are_restricted_during_initialization() {
    let calls = |call: &str| Host::builder(&module(&format!(r#"(func (export "_initialize") {call})"#))).start();
    let host = calls("(call $log_text 'hello') (drop (call $environ_sizes_get (i32.const 0) (i32.const 4)))").unwrap();
    assert_eq!(log_of_worker(&host), ["hello"]);
    let error = calls("(drop (call $set_shared 'k' 'v' (i32.const 0)))").unwrap_err().to_string();
    assert!(error.contains("Function: _initialize failed: restricted_callback"), "{error}");
}

#[test]
fn calls_outside_the_capability_list_fail_and_are_logged() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $log_number (call $set_shared 'k' 'v' (i32.const 0)))
             (call $log_number (call $environ_sizes_get (i32.const 0) (i32.const 4)))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).capabilities(["proxy_on_request_headers", "proxy_log"]).start().unwrap();
    request(&host, "/");
    assert_eq!(
        log_of_worker(&host),
        [
            "Attempted call to restricted proxy-wasm capability: proxy_set_shared_data",
            "10",
            "Attempted call to restricted WASI capability: environ_sizes_get",
            "76",
        ]
    );
    assert_eq!(host.shared_data("k"), None);
}

#[test]
fn callbacks_outside_the_capability_list_are_not_called() {
    let host = Host::builder(&trapping()).capabilities(["proxy_log"]).start().unwrap();
    assert_eq!(status(&request(&host, "/trap")), 200);
    assert_eq!(host.log_text(), "");
}

#[test]
fn the_guests_environment_has_only_the_configured_variables() {
    let module = module(
        r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32)
             (drop (call $environ_sizes_get (i32.const 100) (i32.const 104)))
             (call $log_number (i32.load (i32.const 100)))
             (drop (call $environ_get (i32.const 200) (i32.const 300)))
             (call $log_text (i32.load (i32.const 200)) (i32.load (i32.const 104)))
             (call $log_number (i32.sub (i32.load (i32.const 204)) (i32.load (i32.const 200))))
             (i32.const 1))"#,
    );
    let host = Host::builder(&module).variable("A", "1").variable("BC", "23").start().unwrap();
    assert_eq!(log_of_worker(&host), ["2", "A=1\0BC=23\0", "4"]);
    let host = Host::builder(&module).variable("A", "1").without_variable("A").start().unwrap();
    assert_eq!(log_of_worker(&host)[..1], ["0"]);
}

#[test]
fn standard_output_and_error_go_to_the_log() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (i32.store (i32.const 100) (i32.const 2048)) (i32.store (i32.const 104) (i32.const 2))
             (i32.store (i32.const 108) (i32.const 2050)) (i32.store (i32.const 112) (i32.const 2))
             (i32.store8 (i32.const 2048) (i32.const 97)) (i32.store8 (i32.const 2049) (i32.const 98))
             (i32.store8 (i32.const 2050) (i32.const 99)) (i32.store8 (i32.const 2051) (i32.const 10))
             (drop (call $fd_write (i32.const 1) (i32.const 100) (i32.const 2) (i32.const 120)))
             (call $log_number (i32.load (i32.const 120)))
             (drop (call $fd_write (i32.const 2) (i32.const 100) (i32.const 1) (i32.const 120)))
             (call $log_number (call $fd_write (i32.const 3) (i32.const 100) (i32.const 1) (i32.const 120)))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    request(&host, "/");
    let log = host.log_text();
    let lines = ["[Info][Worker(0)] abc", "[Info][Worker(0)] 4", "[Error][Worker(0)] ab", "[Info][Worker(0)] 8"];
    assert_eq!(log.lines().collect::<Vec<_>>(), lines);
}

#[test]
fn wasi_has_no_files_and_no_arguments_and_proc_exit_returns() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $log_number (call $path_open (i32.const 3) (i32.const 0) 'file' (i32.const 0) (i64.const 0) (i64.const 0)
               (i32.const 0) (i32.const 100)))
             (call $log_number (call $fd_read (i32.const 0) (i32.const 100) (i32.const 0) (i32.const 120)))
             (call $log_number (call $fd_prestat_get (i32.const 3) (i32.const 100)))
             (i32.store (i32.const 100) (i32.const 7))
             (call $log_number (call $args_sizes_get (i32.const 100) (i32.const 104)))
             (call $log_number (i32.load (i32.const 100)))
             (call $proc_exit (i32.const 1))
             (call $log_text 'still here')
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    request(&host, "/");
    assert_eq!(log_of_worker(&host), ["44", "52", "8", "0", "0", "wasi_unstable proc_exit", "still here"]);
}

#[test]
fn wasi_has_only_the_wall_clock_and_the_time_since_the_start() {
    let module = module(
        r#"(func $clock (param $id i32)
             (call $log_number (call $clock_time_get (local.get $id) (i64.const 0) (i32.const 0)))
             (call $log_number (i32.wrap_i64 (i64.div_u (i64.load (i32.const 0)) (i64.const 1000000000)))))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $clock (i32.const 0)) (call $clock (i32.const 1))
             (call $log_number (call $clock_time_get (i32.const 2) (i64.const 0) (i32.const 0)))
             (i32.const 0))"#,
    );
    let start = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let host = Host::builder(&module).started_at(start).start().unwrap();
    host.advance(Duration::from_secs(5));
    request(&host, "/");
    assert_eq!(log_of_worker(&host), ["0", "1005", "0", "5", "58"]);
}

#[test]
fn random_numbers_depend_on_seed_and_vm_and_have_a_limit() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $log_number (call $random_get (i32.const 0) (i32.const 8)))
             (call $log_number (i32.load (i32.const 0)))
             (call $log_number (call $random_get (i32.const 0) (i32.const 65537)))
             (i32.const 0))"#,
    );
    let numbers = |seed: u64, worker: usize| {
        let host = Host::builder(&module).seed(seed).workers(2).start().unwrap();
        host.worker(worker).request(Headers::get_request("example.com", "/"));
        host.log().into_iter().map(|line| line.text).collect::<Vec<_>>()
    };
    assert_eq!(numbers(1, 0), numbers(1, 0));
    assert_ne!(numbers(1, 0), numbers(2, 0));
    assert_ne!(numbers(1, 0), numbers(1, 1));
    assert_eq!((numbers(1, 0)[0].as_str(), numbers(1, 0)[2].as_str()), ("0", "28"));
}

#[test]
fn lines_below_the_log_level_are_not_logged() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (drop (call $get_log_level (i32.const 100)))
             (drop (call $log (i32.load (i32.const 100)) 'at'))
             (drop (call $log (i32.sub (i32.load (i32.const 100)) (i32.const 1)) 'below'))
             (drop (call $log (i32.const 5) 'critical'))
             (if (i32.ne (call $log (i32.const 6) 'invalid level') (i32.const 2)) (then (unreachable)))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).log_level(wasm_host::LogLevel::Warn).start().unwrap();
    request(&host, "/");
    assert_eq!(log_of_worker(&host), ["at", "critical"]);
}

#[test]
fn an_invalid_module_or_one_without_the_abi_is_rejected() {
    assert!(matches!(Module::new(b"no wasm"), Err(ModuleError::Load(_))));
    assert!(matches!(Module::new(&wat::parse_str("(module)").unwrap()), Err(ModuleError::Abi)));
    let unknown_import = r#"(module (import "env" "what" (func)) (func (export "proxy_abi_version_0_2_1")))"#;
    assert!(matches!(Module::new(&wat::parse_str(unknown_import).unwrap()), Err(ModuleError::Load(_))));
}

#[test]
fn out_of_bounds_pointers_are_rejected_without_a_trap() {
    let module = module(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $log_number (call $set_shared (i32.const -8) (i32.const 16) 'v' (i32.const 0)))
             (call $log_number (call $get_header (i32.const 0) ':path' (i32.const -4) (i32.const 4)))
             (call $log_number (call $get_time (i32.const 65533)))
             (i32.const 0))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    assert_eq!(status(&request(&host, "/")), 200);
    assert_eq!(log_of_worker(&host), ["6", "6", "6"]);
}
