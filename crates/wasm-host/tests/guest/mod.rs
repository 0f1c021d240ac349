//! Builds small guests from WebAssembly text, one per test.

// Each test file uses only a part of this module.
#![allow(dead_code)]

use wasm_host::{Host, Module, Thread};

/// Compiles a module of these functions, with the host calls imported and a few helper functions:
///
/// - `$log_text` logs a text, `$log_number` a number;
/// - `$log_returned` logs the bytes whose pointer and length a host call wrote to addresses 0 and 4;
/// - `$log_result` logs the result of a host call: those bytes, or its status when that is not 0;
/// - `$log_header`, `$log_property` and `$log_shared` read a value and log it;
/// - `$call` makes a GET to a cluster with a timeout in milliseconds, and returns the status.
///
/// In the text, `'a'` is replaced by the pointer and length of these bytes (`\ff` is one byte), and `` `a=b|c=d` `` by those of
/// encoded headers.
pub(crate) fn module(functions: &str) -> Module {
    let text = text(functions);
    let bytes = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
    Module::new(&bytes).unwrap_or_else(|error| panic!("{error}"))
}

/// Builds the WebAssembly text of [`module`].
pub(crate) fn text(functions: &str) -> String {
    let mut data = String::new();
    let mut address = 1024;
    let mut expanded = String::new();
    let mut rest = format!("{PRELUDE}{functions})");
    while let Some(start) = rest.find(['\'', '`']) {
        let quote = rest[start..].chars().next().unwrap();
        let end = start + 1 + rest[start + 1..].find(quote).unwrap();
        let inner = &rest[start + 1..end];
        let bytes = if quote == '\'' { unescaped(inner) } else { pairs(inner) };
        expanded += &rest[..start];
        expanded += &format!("(i32.const {address}) (i32.const {})", bytes.len());
        let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        data += &format!("(data (i32.const {address}) \"{escaped}\")");
        address += bytes.len();
        rest = rest[end + 1..].to_owned();
    }
    expanded.push_str(&rest);
    expanded.pop();
    format!("{expanded}{data})")
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        rest = others;
        match (first, others) {
            (b'\\', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    bytes
}

fn pairs(text: &str) -> Vec<u8> {
    let pairs: Vec<(&str, &str)> =
        text.split('|').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap()).collect();
    let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut encoded = number(pairs.len()).to_vec();
    encoded.extend(pairs.iter().flat_map(|(name, value)| [number(name.len()), number(value.len())]).flatten());
    for (name, value) in pairs {
        encoded.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    encoded
}

/// Returns the log lines of a thread's VM.
pub(crate) fn log_of(host: &Host, thread: Thread) -> Vec<String> {
    host.log().into_iter().filter(|line| line.thread == thread).map(|line| line.text).collect()
}

/// Returns the log lines of the first worker and clears the log.
pub(crate) fn log_of_worker(host: &Host) -> Vec<String> {
    let lines = log_of(host, Thread::Worker(0));
    host.clear_log();
    lines
}

const PRELUDE: &str = r#"(module
  (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_log_level" (func $get_log_level (param i32) (result i32)))
  (import "env" "proxy_get_current_time_nanoseconds" (func $get_time (param i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $set_tick_period (param i32) (result i32)))
  (import "env" "proxy_get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_property" (func $set_property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $get_buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_pairs" (func $get_pairs (param i32 i32 i32) (result i32)))
  (import "env" "proxy_set_header_map_pairs" (func $set_pairs (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get_header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value" (func $add_header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_replace_header_map_value" (func $replace_header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_remove_header_map_value" (func $remove_header (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_shared_data" (func $get_shared (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data" (func $set_shared (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_register_shared_queue" (func $register_queue (param i32 i32 i32) (result i32)))
  (import "env" "proxy_resolve_shared_queue" (func $resolve_queue (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_enqueue_shared_queue" (func $enqueue (param i32 i32 i32) (result i32)))
  (import "env" "proxy_dequeue_shared_queue" (func $dequeue (param i32 i32 i32) (result i32)))
  (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
  (import "env" "proxy_close_stream" (func $close (param i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $send_local_response (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_http_call" (func $http_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $set_effective (param i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define_metric (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment_metric (param i32 i64) (result i32)))
  (import "env" "proxy_record_metric" (func $record_metric (param i32 i64) (result i32)))
  (import "env" "proxy_get_metric" (func $get_metric (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (global $heap (mut i32) (i32.const 16384))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $length i32) (result i32)
    (global.get $heap)
    (global.set $heap (i32.add (global.get $heap) (local.get $length))))
  (func $log_text (param $pointer i32) (param $length i32)
    (drop (call $log (i32.const 2) (local.get $pointer) (local.get $length))))
  (func $log_number (param $value i32) (local $pointer i32)
    (local.set $pointer (i32.const 40))
    (loop $next
      (local.set $pointer (i32.sub (local.get $pointer) (i32.const 1)))
      (i32.store8 (local.get $pointer) (i32.add (i32.const 48) (i32.rem_u (local.get $value) (i32.const 10))))
      (local.set $value (i32.div_u (local.get $value) (i32.const 10)))
      (br_if $next (local.get $value)))
    (call $log_text (local.get $pointer) (i32.sub (i32.const 40) (local.get $pointer))))
  (func $log_returned (call $log_text (i32.load (i32.const 0)) (i32.load (i32.const 4))))
  (func $log_result (param $status i32)
    (if (local.get $status) (then (call $log_number (local.get $status))) (else (call $log_returned))))
  (func $log_header (param $pointer i32) (param $length i32)
    (call $log_result
      (call $get_header (i32.const 0) (local.get $pointer) (local.get $length) (i32.const 0) (i32.const 4))))
  (func $log_property (param $pointer i32) (param $length i32)
    (call $log_result (call $get_property (local.get $pointer) (local.get $length) (i32.const 0) (i32.const 4))))
  (func $log_shared (param $pointer i32) (param $length i32)
    (call $log_result
      (call $get_shared (local.get $pointer) (local.get $length) (i32.const 0) (i32.const 4) (i32.const 8))))
  (func $call (param $pointer i32) (param $length i32) (param $timeout i32) (result i32)
    (call $http_call (local.get $pointer) (local.get $length) `:method=GET|:path=/|:authority=x` 'body'
      (i32.const 0) (i32.const 0) (local.get $timeout) (i32.const 12)))
"#;
