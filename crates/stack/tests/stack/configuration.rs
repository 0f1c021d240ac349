//! Tests of the filter's configuration in a running Envoy.

use std::fs;
use std::io;
use std::path::PathBuf;

use stack::{LISTED_HOST, Options, PushError, Stack};

/// A filter that responds to every request with its configuration, and rejects a configuration that does not begin with `{`.
const ECHO: &str = r#"
(module
  (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response" (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 1024))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (local.get $size))))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param $context i32) (param $size i32) (result i32)
    ;; 7 is the plugin's configuration; its address goes to 0, its length to 4
    (drop (call $buffer (i32.const 7) (i32.const 0) (local.get $size) (i32.const 0) (i32.const 4)))
    (i32.eq (i32.load8_u (i32.load (i32.const 0))) (i32.const 0x7b)))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $reply (i32.const 200) (i32.const 0) (i32.const 0)
      (i32.load (i32.const 0)) (i32.load (i32.const 4)) (i32.const 0) (i32.const 0) (i32.const -1)))
    (i32.const 1)))
"#;

fn echo(folder: &tempfile::TempDir) -> io::Result<Option<PathBuf>> {
    let path = folder.path().join("echo.wasm");
    fs::write(&path, wat::parse_str(ECHO).map_err(io::Error::other)?)?;
    Ok(Some(path))
}

fn configurations_of_all_workers(stack: &Stack) -> Vec<String> {
    let mut texts: Vec<String> = (0..20).map(|_| stack.get(LISTED_HOST, "/", &[]).text()).collect();
    texts.push(stack.get_imds("/", &[]).text());
    texts.sort();
    texts.dedup();
    texts
}

#[test]
fn the_filter_gets_the_configuration_of_envoy_yaml_or_of_the_options() {
    let folder = tempfile::tempdir().unwrap();
    let deployed = Stack::start(Options { module: echo(&folder).unwrap(), ..Options::default() }).unwrap();
    let configuration = deployed.get(LISTED_HOST, "/", &[]).json();
    assert_eq!(configuration["destinations"][0]["hosts"][0], LISTED_HOST);

    let other = Options {
        module: echo(&folder).unwrap(),
        configuration: Some(r#"{"other":1}"#.to_owned()),
        ..Options::default()
    };
    assert_eq!(configurations_of_all_workers(&Stack::start(other).unwrap()), [r#"{"other":1}"#]);
}

#[test]
fn every_worker_has_a_pushed_configuration_when_the_push_returns() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { lds: true, concurrency: 3, module: echo(&folder).unwrap(), ..Options::default() };
    let stack = Stack::start(options).unwrap();

    for round in 0..10 {
        let text = format!(r#"{{"round":{round}}}"#);
        stack.push_configuration(&text).unwrap();
        assert_eq!(configurations_of_all_workers(&stack), [text]);
    }
    // Pushing the same configuration again changes nothing and is not an error.
    stack.push_configuration(r#"{"round":9}"#).unwrap();
    assert_eq!(configurations_of_all_workers(&stack), [r#"{"round":9}"#]);
}

#[test]
fn a_rejected_configuration_keeps_the_former_one_and_returns_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(Options { lds: true, module: echo(&folder).unwrap(), ..Options::default() }).unwrap();
    stack.push_configuration(r#"{"former":1}"#).unwrap();

    let error = stack.push_configuration("not JSON").unwrap_err();

    assert!(matches!(&error, PushError::Rejected(reason) if reason.contains("Wasm")), "{error}");
    assert_eq!(configurations_of_all_workers(&stack), [r#"{"former":1}"#]);
    stack.push_configuration(r#"{"later":1}"#).unwrap();
    assert_eq!(configurations_of_all_workers(&stack), [r#"{"later":1}"#]);
}

#[test]
fn a_stack_without_lds_cannot_change_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let stack = Stack::start(Options { module: echo(&folder).unwrap(), ..Options::default() }).unwrap();

    assert!(matches!(stack.push_configuration("{}"), Err(PushError::LdsDisabled)));
}
