//! Requests: what a guest sees of them, and what becomes of them.

mod guest;

use std::time::Duration;

use guest::{heard, module};
use wasm_host::{Headers, Host, Module, Outcome, Passed, Reply, Request};

fn any() -> Headers {
    Headers::get_request("example.com", "/")
}

/// A module that does this at a request's headers; the body returns 0 to let it go on and 1 to pause it.
fn at_request(body: &str) -> Module {
    module(&format!(
        r#"(func (export "proxy_on_request_headers") (param $context i32) (param $headers i32) (param $end i32)
             (result i32) {body})"#
    ))
}

/// Pauses each request, and does this when the root context is told of a queue.
fn on_next_turn(body: &str) -> Module {
    module(&format!(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $register_queue 'q' (i32.const 12)))
             (i32.const 1))
           (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32)
             (i32.store (i32.const 16) (local.get $context))
             (drop (call $enqueue (i32.load (i32.const 12)) 'x'))
             (i32.const 1))
           (func (export "proxy_on_log") (param i32) (call $say 'log'))
           (func (export "proxy_on_done") (param i32) (result i32) (call $say 'done') (i32.const 1))
           (func (export "proxy_on_delete") (param i32) (call $say 'delete'))
           (func (export "proxy_on_queue_ready") (param i32 i32) {body})"#
    ))
}

fn passed(outcome: Outcome) -> Passed {
    match outcome {
        Outcome::Passed(passed) => passed,
        other => panic!("{other:?}"),
    }
}

fn replied(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Replied(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_passes_or_pauses_as_the_guest_returns() {
    let host = Host::builder(&at_request("(i32.const 0)")).route_others("c").start().unwrap();
    let expected = Passed { headers: any(), cluster: Some("c".to_owned()) };
    assert_eq!(host.worker(0).request(any()).outcome(), Outcome::Passed(expected));
    let host = Host::builder(&at_request("(i32.const 1)")).start().unwrap();
    assert_eq!(host.worker(0).request(any()).outcome(), Outcome::Paused);
}

#[test]
fn only_callbacks_that_are_exported_are_called() {
    let host = Host::builder(&module("")).start().unwrap();
    let stream = host.worker(0).request(any());
    passed(stream.outcome());
    stream.end();
    assert_eq!(host.log_text(), "");
    assert_eq!(host.worker(0).streams(), 0);
}

#[test]
fn a_stream_has_a_context_of_its_own_from_its_first_headers_to_its_end() {
    let module = module(
        r#"(func (export "proxy_on_context_create") (param $context i32) (param $root i32)
             (call $say 'create') (call $number (local.get $context)) (call $number (local.get $root)))
           (func (export "proxy_on_request_headers") (param $context i32) (param $headers i32) (param $end i32)
             (result i32)
             (call $say 'headers') (call $number (local.get $context))
             (call $number (local.get $headers)) (call $number (local.get $end)) (i32.const 0))
           (func (export "proxy_on_log") (param $context i32) (call $say 'log'))
           (func (export "proxy_on_done") (param $context i32) (result i32) (call $say 'done') (i32.const 0))
           (func (export "proxy_on_delete") (param $context i32)
             (call $say 'delete') (call $number (local.get $context)))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    assert_eq!(heard(&host), ["create", "1", "0"]);
    let first = host.worker(0).request(any());
    assert_eq!(heard(&host), ["create", "2", "1", "headers", "2", "4", "1"]);
    let second = host.worker(0).request(Request::new(any().with("a", "b")).with_body());
    assert_eq!(heard(&host), ["create", "3", "1", "headers", "3", "5", "0"]);
    assert_eq!(host.worker(0).streams(), 2);
    first.end();
    assert_eq!(heard(&host), ["log", "done", "delete", "2"]);
    first.end();
    assert_eq!(heard(&host), [""; 0], "a stream ends once");
    second.end();
    assert_eq!(host.worker(0).streams(), 0);
}

#[test]
fn a_local_reply_is_sent_when_the_guest_has_returned_and_ends_the_stream() {
    let module = on_next_turn(
        r"(drop (call $set_effective (i32.load (i32.const 16))))
          (drop (call $send_local_response (i32.const 403) (i32.const 0) (i32.const 0) 'no'
            `x-a=1|X-B=2` (i32.const -1)))
          (call $say 'after')
          (call $header ':path')",
    );
    let host = Host::builder(&module).start().unwrap();
    let stream = host.worker(0).request(any());
    host.run_until_idle();
    assert_eq!(heard(&host), ["after", "/", "log", "done", "delete"]);
    let reply = replied(stream.outcome());
    assert_eq!((reply.status, reply.body.as_slice()), (403, b"no".as_slice()));
    assert_eq!((reply.headers.text("x-a"), reply.headers.text("x-b")), (Some("1".into()), Some("2".into())));
    assert_eq!(host.worker(0).streams(), 0);
}

#[test]
fn a_request_goes_on_when_the_guest_has_returned_and_its_headers_are_out_of_reach_at_once() {
    let module = on_next_turn(
        r"(drop (call $set_effective (i32.load (i32.const 16))))
          (call $number (call $replace_header (i32.const 0) 'a' 'b'))
          (call $number (call $continue (i32.const 0)))
          (call $number (call $replace_header (i32.const 0) 'a' 'c'))
          (call $say 'after')",
    );
    // Routed when it goes on, not before.
    let host = Host::builder(&module).route_by(|headers| headers.text("a")).start().unwrap();
    let stream = host.worker(0).request(any());
    assert_eq!(stream.outcome(), Outcome::Paused);
    host.run_until_idle();
    let passed = passed(stream.outcome());
    assert_eq!((passed.headers.text("a"), passed.cluster), (Some("b".into()), Some("b".into())));
    stream.end();
    // A change after it was told to go on is refused.
    assert_eq!(heard(&host), ["0", "0", "2", "after", "log", "done", "delete"]);
}

#[test]
fn a_guest_that_traps_after_it_let_a_request_go_on_has_still_let_it() {
    let module = on_next_turn(
        r"(drop (call $set_effective (i32.load (i32.const 16))))
          (drop (call $continue (i32.const 0)))
          (unreachable)",
    );
    let host = Host::builder(&module).start().unwrap();
    let stream = host.worker(0).request(any());
    host.run_until_idle();
    passed(stream.outcome());
    assert!(!host.worker(0).is_alive());
}

#[test]
fn a_reply_stops_the_request_whatever_the_guest_returns() {
    let module = at_request(
        r"(drop (call $send_local_response (i32.const 401) (i32.const 0) (i32.const 0) 'a' '' (i32.const -1)))
          (drop (call $send_local_response (i32.const 402) (i32.const 0) (i32.const 0) 'b' '' (i32.const -1)))
          (drop (call $continue (i32.const 0)))
          (i32.const 0)",
    );
    let host = Host::builder(&module).start().unwrap();
    // And the first one holds.
    assert_eq!(replied(host.worker(0).request(any()).outcome()).status, 401);
}

#[test]
fn a_grpc_client_gets_a_local_reply_as_status_200() {
    let module = at_request(
        r"(drop (call $send_local_response (i32.const 403) (i32.const 0) (i32.const 0) 'no' '' (i32.const -1)))
          (i32.const 1)",
    );
    let host = Host::builder(&module).start().unwrap();
    let reply = replied(host.worker(0).request(any().with("content-type", "application/grpc+proto")).outcome());
    assert_eq!((reply.status, reply.body.as_slice()), (200, b"".as_slice()));
    assert_eq!(reply.headers.text("grpc-status").as_deref(), Some("7"));
    assert_eq!(reply.headers.text("grpc-message").as_deref(), Some("no"));
}

#[test]
fn a_stream_can_be_cut_off() {
    let host = Host::builder(&at_request("(drop (call $close (i32.const 0))) (i32.const 1)")).start().unwrap();
    assert_eq!(host.worker(0).request(any()).outcome(), Outcome::Reset);
    assert_eq!(host.worker(0).streams(), 0);
}

#[test]
fn a_paused_stream_ends_with_the_idle_timeout_and_its_context_hears_of_it() {
    let builder = Host::builder(&on_next_turn("")).stream_idle_timeout(Duration::from_secs(60));
    let host = builder.start().unwrap();
    let whole = host.worker(0).request(any());
    let with_body = host.worker(0).request(Request::new(any()).with_body());
    host.advance(Duration::from_millis(59_999));
    assert_eq!(whole.outcome(), Outcome::Paused);
    host.advance(Duration::from_millis(1));
    assert_eq!(replied(whole.outcome()).status, 504);
    assert_eq!(replied(with_body.outcome()).status, 408);
    assert_eq!(heard(&host), ["log", "done", "delete", "log", "done", "delete"]);
}

#[test]
fn the_effective_context_must_exist_and_lasts_until_the_guest_returns() {
    let module = module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $register_queue 'q' (i32.const 12))) (i32.const 1))
           (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32)
             (drop (call $enqueue (i32.load (i32.const 12)) 'x'))
             (drop (call $enqueue (i32.load (i32.const 12)) 'x'))
             (drop (call $enqueue (i32.load (i32.const 12)) 'x'))
             (i32.const 1))
           (func (export "proxy_on_queue_ready") (param i32 i32)
             (call $header ':path')
             (call $number (call $set_effective (i32.const 99)))
             (call $header ':path')
             (call $number (call $set_effective (i32.const 2)))
             (call $header ':path')
             (call $number (call $set_effective (i32.const 1)))
             (call $header ':path')
             (drop (call $set_effective (i32.const 2))))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    let stream = host.worker(0).request(any());
    let turn = host.turns()[0];
    for _ in 0..2 {
        host.take(turn);
        assert_eq!(heard(&host), ["2", "2", "2", "0", "/", "0", "2"]);
    }
    stream.end();
    host.take(turn);
    assert_eq!(heard(&host), ["2", "2", "2", "2", "2", "0", "2"], "the stream is gone");
}

#[test]
fn header_names_are_found_in_any_case_and_the_first_value_is_told() {
    let module = at_request("(call $header 'X-Odd') (call $header 'x-none') (call $header 'x-empty') (i32.const 0)");
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any().with("x-ODD", "first").with("x-odd", "second").with("x-empty", ""));
    assert_eq!(heard(&host), ["first", "1", ""]);
}

#[test]
fn header_values_are_any_bytes() {
    // The guest counts the bytes that it was given, and sets some of its own.
    let module = at_request(
        r"(drop (call $get_header (i32.const 0) 'x' (i32.const 0) (i32.const 4)))
          (call $number (i32.load (i32.const 4)))
          (call $number (i32.load8_u (i32.add (i32.load (i32.const 0)) (i32.const 255))))
          (drop (call $add_header (i32.const 0) 'y' '\ff\fe\00'))
          (i32.const 0)",
    );
    let host = Host::builder(&module).start().unwrap();
    let all: Vec<u8> = (0..=255).collect();
    let stream = host.worker(0).request(any().with("x", &all));
    assert_eq!(heard(&host), ["256", "255"]);
    let passed = passed(stream.outcome());
    assert_eq!((passed.headers.get("x"), passed.headers.get("y")), (Some(&*all), Some(b"\xff\xfe\x00".as_slice())));
}

#[test]
fn a_header_is_replaced_added_or_removed_with_all_of_its_name() {
    let set = |body: &str| {
        let host = Host::builder(&at_request(&format!("{body} (i32.const 0)"))).start().unwrap();
        let stream = host.worker(0).request(any().with("x", "1").with("y", "2").with("x", "3"));
        let seen = passed(stream.outcome()).headers;
        seen.iter().filter(|(name, _)| *name == b"x").map(|(_, value)| value.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(set("(drop (call $replace_header (i32.const 0) 'X' '4'))"), [b"4"]);
    assert_eq!(set("(drop (call $add_header (i32.const 0) 'X' '4'))"), [b"1", b"3", b"4"]);
    assert_eq!(set("(drop (call $remove_header (i32.const 0) 'X'))"), [[0; 0]; 0]);
    assert_eq!(set("(drop (call $set_pairs (i32.const 0) `x=5`))"), [b"5"]);
    // The first, not the last, and no other map.
    assert_eq!(set("(call $number (call $replace_header (i32.const 2) 'x' '4'))"), [b"1", b"3"]);
}

#[test]
fn all_headers_are_told_at_once_in_their_order() {
    let module = at_request("(call $tell (call $get_pairs (i32.const 0) (i32.const 0) (i32.const 4))) (i32.const 0)");
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(Headers::new([("a", "b"), ("c", "")]));
    assert_eq!(heard(&host), ["\u{2}\0\0\0\u{1}\0\0\0\u{1}\0\0\0\u{1}\0\0\0\0\0\0\0a\0b\0c\0\0"]);
}

#[test]
fn two_authorization_headers_are_one_before_the_filter_sees_them() {
    let headers = Headers::received([("Authorization", "a"), ("x", "1"), ("authorization", "b"), ("x", "2")]);
    assert_eq!(headers, Headers::new([("authorization", "a,b"), ("x", "1"), ("x", "2")]));
}

#[test]
fn a_stream_has_its_requests_properties() {
    let paths = [
        ("request\\00path", "/a?b"),
        ("request\\00url_path", "/a"),
        ("request\\00host", "example.com"),
        ("request\\00scheme", "http"),
        ("request\\00method", "GET"),
        ("request\\00headers\\00x-odd", "1,2"),
        ("request\\00id", "id-1"),
        ("xds\\00cluster_name", "c"),
        ("source\\00address", "127.0.0.1:50000"),
        ("destination\\00address", "127.0.0.1:15002"),
        ("plugin_name", "plugin"),
        ("plugin_root_id", "root"),
        ("plugin_vm_id", "vm"),
        ("xds\\00node\\00id", "node-1"),
        ("xds\\00node\\00cluster", "payments"),
        ("filter_state\\00k", "v"),
    ];
    let body: String = paths.iter().map(|(path, _)| format!("(call $property '{path}')")).collect();
    let builder = Host::builder(&at_request(&format!("{body} (i32.const 0)")));
    let builder = builder.plugin("plugin", "root", "vm").node("node-1", "payments");
    let host = builder.route("example.com", "c").property(&["filter_state", "k"], "v").start().unwrap();
    let headers = Headers::get_request("example.com", "/a?b").with("x-odd", "1").with("x-odd", "2");
    let headers = headers.with("x-request-id", "id-1");
    host.worker(0).request(Request::new(headers).to("127.0.0.1:15002"));
    assert_eq!(heard(&host), paths.map(|(_, value)| value));
}

#[test]
fn properties_that_envoy_does_not_have_are_not_found() {
    let paths =
        ["cluster_name", "route_name", "node", "listener_direction", "request\\00nothing", "request\\00headers\\00x"];
    let body: String = paths.iter().map(|path| format!("(call $property '{path}')")).collect();
    let host = Host::builder(&at_request(&format!("{body} (i32.const 0)"))).route_others("c").start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["1"; 6]);
    let unrouted = Host::builder(&at_request("(call $property 'xds\\00cluster_name') (i32.const 0)")).start().unwrap();
    unrouted.worker(0).request(any());
    assert_eq!(heard(&unrouted), ["1"]);
}

#[test]
fn a_property_that_holds_others_has_no_bytes() {
    let host = Host::builder(&at_request("(call $property 'xds') (i32.const 0)")).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["3"]);
}

#[test]
fn a_root_context_sees_the_plugins_and_the_nodes_properties_only() {
    let module = module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (call $property 'plugin_name') (call $property 'plugin_root_id') (call $property 'plugin_vm_id')
             (call $property 'xds\00node\00id')
             (call $property 'xds\00cluster_name') (call $property 'request\00path')
             (call $property 'destination\00address')
             (call $number (call $set_property 'p' 'v'))
             (i32.const 1))"#,
    );
    let host = Host::builder(&module).plugin("a", "b", "c").node("d", "e").route_others("c").start().unwrap();
    assert_eq!(heard(&host), ["a", "b", "c", "d", "1", "1", "1", "1"]);
}

#[test]
fn what_a_guest_sets_as_a_property_it_reads_from_the_same_stream() {
    let module =
        at_request("(call $property 'p') (drop (call $set_property 'p' 'v')) (call $property 'p') (i32.const 0)");
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any());
    host.worker(0).request(any());
    assert_eq!(heard(&host), ["1", "v", "1", "v"]);
}

#[test]
fn a_header_that_is_set_makes_the_router_choose_again() {
    let module = at_request(
        r"(call $property 'xds\00cluster_name')
          (drop (call $replace_header (i32.const 0) 'authorization' 'x'))
          (call $property 'xds\00cluster_name')
          (i32.const 0)",
    );
    let route =
        |headers: &Headers| Some(if headers.get("authorization").is_some() { "clear" } else { "tls" }.to_owned());
    let host = Host::builder(&module).route_by(route).start().unwrap();
    let stream = host.worker(0).request(any());
    assert_eq!(heard(&host), ["tls", "clear"]);
    assert_eq!(passed(stream.outcome()).cluster.as_deref(), Some("clear"));
}

#[test]
fn hosts_are_routed_with_and_without_their_port() {
    let host = Host::builder(&module("")).route("a.example", "a").route_others("other").start().unwrap();
    let cluster = |authority: &str| {
        passed(host.worker(0).request(Headers::get_request(authority, "/")).outcome()).cluster.unwrap()
    };
    assert_eq!(["a.example", "A.EXAMPLE:443", "b.example"].map(cluster), ["a", "a", "other"]);
}
