//! Tests of requests: what a guest can read and how it handles them.

mod guest;

use std::time::Duration;

use guest::{log_of_worker, module};
use wasm_host::{Forwarded, Headers, Host, Module, Reply, Request, StreamState};

fn any() -> Headers {
    Headers::get_request("example.com", "/")
}

/// Creates a module that runs this body at a request's headers; the body returns 0 to continue and 1 to pause the request.
fn at_request(body: &str) -> Module {
    module(&format!(
        r#"(func (export "proxy_on_request_headers") (param $context i32) (param $headers i32) (param $end i32)
             (result i32) {body})"#
    ))
}

/// Creates a module that pauses each request and runs this body when the root context gets a queue event.
fn on_next_event(body: &str) -> Module {
    module(&format!(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $register_queue 'q' (i32.const 12)))
             (i32.const 1))
           (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32)
             (i32.store (i32.const 16) (local.get $context))
             (drop (call $enqueue (i32.load (i32.const 12)) 'x'))
             (i32.const 1))
           (func (export "proxy_on_log") (param i32) (call $log_text 'log'))
           (func (export "proxy_on_done") (param i32) (result i32) (call $log_text 'done') (i32.const 1))
           (func (export "proxy_on_delete") (param i32) (call $log_text 'delete'))
           (func (export "proxy_on_queue_ready") (param i32 i32) {body})"#
    ))
}

fn forwarded(outcome: StreamState) -> Forwarded {
    match outcome {
        StreamState::Forwarded(forwarded) => forwarded,
        other => panic!("{other:?}"),
    }
}

fn replied(outcome: StreamState) -> Reply {
    match outcome {
        StreamState::LocalReply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_continues_or_pauses_as_the_guest_returns() {
    let host = Host::builder(&at_request("(i32.const 0)")).default_route("c").start().unwrap();
    let expected = Forwarded { headers: any(), cluster: Some("c".to_owned()) };
    assert_eq!(host.worker(0).request(any()).state(), StreamState::Forwarded(expected));
    let host = Host::builder(&at_request("(i32.const 1)")).start().unwrap();
    assert_eq!(host.worker(0).request(any()).state(), StreamState::Paused);
}

#[test]
fn only_exported_callbacks_are_called() {
    let host = Host::builder(&module("")).start().unwrap();
    let stream = host.worker(0).request(any());
    forwarded(stream.state());
    stream.end();
    assert_eq!(host.log_text(), "");
    assert_eq!(host.worker(0).streams(), 0);
}

#[test]
fn each_stream_has_its_own_context_from_its_headers_to_its_end() {
    let module = module(
        r#"(func (export "proxy_on_context_create") (param $context i32) (param $root i32)
             (call $log_text 'create') (call $log_number (local.get $context)) (call $log_number (local.get $root)))
           (func (export "proxy_on_request_headers") (param $context i32) (param $headers i32) (param $end i32)
             (result i32)
             (call $log_text 'headers') (call $log_number (local.get $context))
             (call $log_number (local.get $headers)) (call $log_number (local.get $end)) (i32.const 0))
           (func (export "proxy_on_log") (param $context i32) (call $log_text 'log'))
           (func (export "proxy_on_done") (param $context i32) (result i32) (call $log_text 'done') (i32.const 0))
           (func (export "proxy_on_delete") (param $context i32)
             (call $log_text 'delete') (call $log_number (local.get $context)))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    assert_eq!(log_of_worker(&host), ["create", "1", "0"]);
    let first = host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["create", "2", "1", "headers", "2", "4", "1"]);
    let second = host.worker(0).request(Request::new(any().with("a", "b")).with_body());
    assert_eq!(log_of_worker(&host), ["create", "3", "1", "headers", "3", "5", "0"]);
    assert_eq!(host.worker(0).streams(), 2);
    first.end();
    assert_eq!(log_of_worker(&host), ["log", "done", "delete", "2"]);
    first.end();
    assert_eq!(log_of_worker(&host), [""; 0], "a stream ends only once");
    second.end();
    assert_eq!(host.worker(0).streams(), 0);
}

#[test]
fn a_local_reply_is_sent_when_the_guest_returns_and_ends_the_stream() {
    let module = on_next_event(
        r"(drop (call $set_effective (i32.load (i32.const 16))))
          (drop (call $send_local_response (i32.const 403) (i32.const 0) (i32.const 0) 'no'
            `x-a=1|X-B=2` (i32.const -1)))
          (call $log_text 'after')
          (call $log_header ':path')",
    );
    let host = Host::builder(&module).start().unwrap();
    let stream = host.worker(0).request(any());
    host.run_until_idle();
    assert_eq!(log_of_worker(&host), ["after", "/", "log", "done", "delete"]);
    let reply = replied(stream.state());
    assert_eq!((reply.status, reply.body.as_slice()), (403, b"no".as_slice()));
    assert_eq!((reply.headers.text("x-a"), reply.headers.text("x-b")), (Some("1".into()), Some("2".into())));
    assert_eq!(host.worker(0).streams(), 0);
}

#[test]
fn a_request_continues_when_the_guest_returns_but_its_headers_are_inaccessible_at_once() {
    let module = on_next_event(
        r"(drop (call $set_effective (i32.load (i32.const 16))))
          (call $log_number (call $replace_header (i32.const 0) 'a' 'b'))
          (call $log_number (call $continue (i32.const 0)))
          (call $log_number (call $replace_header (i32.const 0) 'a' 'c'))
          (call $log_text 'after')",
    );
    // The route is selected when the request continues, not before.
    let host = Host::builder(&module).route_by(|headers| headers.text("a")).start().unwrap();
    let stream = host.worker(0).request(any());
    assert_eq!(stream.state(), StreamState::Paused);
    host.run_until_idle();
    let forwarded = forwarded(stream.state());
    assert_eq!((forwarded.headers.text("a"), forwarded.cluster), (Some("b".into()), Some("b".into())));
    stream.end();
    // A change after the request was continued is rejected.
    assert_eq!(log_of_worker(&host), ["0", "0", "2", "after", "log", "done", "delete"]);
}

#[test]
fn a_request_that_was_continued_is_forwarded_even_when_the_guest_then_traps() {
    let module = on_next_event(
        r"(drop (call $set_effective (i32.load (i32.const 16))))
          (drop (call $continue (i32.const 0)))
          (unreachable)",
    );
    let host = Host::builder(&module).start().unwrap();
    let stream = host.worker(0).request(any());
    host.run_until_idle();
    forwarded(stream.state());
    assert!(!host.worker(0).is_alive());
}

#[test]
fn a_local_reply_ends_the_request_even_when_the_guest_continues_it() {
    let module = at_request(
        r"(drop (call $send_local_response (i32.const 401) (i32.const 0) (i32.const 0) 'a' '' (i32.const -1)))
          (drop (call $send_local_response (i32.const 402) (i32.const 0) (i32.const 0) 'b' '' (i32.const -1)))
          (drop (call $continue (i32.const 0)))
          (i32.const 0)",
    );
    let host = Host::builder(&module).start().unwrap();
    // Only the first reply takes effect.
    assert_eq!(replied(host.worker(0).request(any()).state()).status, 401);
}

#[test]
fn a_grpc_client_gets_a_local_reply_as_status_200() {
    let module = at_request(
        r"(drop (call $send_local_response (i32.const 403) (i32.const 0) (i32.const 0) 'no' '' (i32.const -1)))
          (i32.const 1)",
    );
    let host = Host::builder(&module).start().unwrap();
    let reply = replied(host.worker(0).request(any().with("content-type", "application/grpc+proto")).state());
    assert_eq!((reply.status, reply.body.as_slice()), (200, b"".as_slice()));
    assert_eq!(reply.headers.text("grpc-status").as_deref(), Some("7"));
    assert_eq!(reply.headers.text("grpc-message").as_deref(), Some("no"));
}

#[test]
fn a_guest_can_reset_a_stream() {
    let host = Host::builder(&at_request("(drop (call $close (i32.const 0))) (i32.const 1)")).start().unwrap();
    assert_eq!(host.worker(0).request(any()).state(), StreamState::Reset);
    assert_eq!(host.worker(0).streams(), 0);
}

#[test]
fn a_paused_stream_ends_with_the_idle_timeout_and_its_context_is_notified() {
    let builder = Host::builder(&on_next_event("")).stream_idle_timeout(Duration::from_secs(60));
    let host = builder.start().unwrap();
    let without_body = host.worker(0).request(any());
    let with_body = host.worker(0).request(Request::new(any()).with_body());
    host.advance(Duration::from_millis(59_999));
    assert_eq!(without_body.state(), StreamState::Paused);
    host.advance(Duration::from_millis(1));
    assert_eq!(replied(without_body.state()).status, 504);
    assert_eq!(replied(with_body.state()).status, 408);
    assert_eq!(log_of_worker(&host), ["log", "done", "delete", "log", "done", "delete"]);
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
             (call $log_header ':path')
             (call $log_number (call $set_effective (i32.const 99)))
             (call $log_header ':path')
             (call $log_number (call $set_effective (i32.const 2)))
             (call $log_header ':path')
             (call $log_number (call $set_effective (i32.const 1)))
             (call $log_header ':path')
             (drop (call $set_effective (i32.const 2))))"#,
    );
    let host = Host::builder(&module).start().unwrap();
    let stream = host.worker(0).request(any());
    let event = host.ready_events()[0];
    for _ in 0..2 {
        host.deliver(event);
        assert_eq!(log_of_worker(&host), ["2", "2", "2", "0", "/", "0", "2"]);
    }
    stream.end();
    host.deliver(event);
    assert_eq!(log_of_worker(&host), ["2", "2", "2", "2", "2", "0", "2"], "the stream has ended");
}

#[test]
fn header_names_are_case_insensitive_and_the_first_value_is_returned() {
    let module =
        at_request("(call $log_header 'X-Odd') (call $log_header 'x-none') (call $log_header 'x-empty') (i32.const 0)");
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any().with("x-ODD", "first").with("x-odd", "second").with("x-empty", ""));
    assert_eq!(log_of_worker(&host), ["first", "1", ""]);
}

#[test]
fn header_values_can_be_any_bytes() {
    // The guest logs the number of bytes and the last one, and sets a header of arbitrary bytes.
    let module = at_request(
        r"(drop (call $get_header (i32.const 0) 'x' (i32.const 0) (i32.const 4)))
          (call $log_number (i32.load (i32.const 4)))
          (call $log_number (i32.load8_u (i32.add (i32.load (i32.const 0)) (i32.const 255))))
          (drop (call $add_header (i32.const 0) 'y' '\ff\fe\00'))
          (i32.const 0)",
    );
    let host = Host::builder(&module).start().unwrap();
    let all: Vec<u8> = (0..=255).collect();
    let stream = host.worker(0).request(any().with("x", &all));
    assert_eq!(log_of_worker(&host), ["256", "255"]);
    let forwarded = forwarded(stream.state());
    assert_eq!(
        (forwarded.headers.get("x"), forwarded.headers.get("y")),
        (Some(&*all), Some(b"\xff\xfe\x00".as_slice()))
    );
}

#[test]
fn headers_can_be_replaced_added_and_removed() {
    let set = |body: &str| {
        let host = Host::builder(&at_request(&format!("{body} (i32.const 0)"))).start().unwrap();
        let stream = host.worker(0).request(any().with("x", "1").with("y", "2").with("x", "3"));
        let headers = forwarded(stream.state()).headers;
        headers.iter().filter(|(name, _)| *name == b"x").map(|(_, value)| value.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(set("(drop (call $replace_header (i32.const 0) 'X' '4'))"), [b"4"]);
    assert_eq!(set("(drop (call $add_header (i32.const 0) 'X' '4'))"), [b"1", b"3", b"4"]);
    assert_eq!(set("(drop (call $remove_header (i32.const 0) 'X'))"), [[0; 0]; 0]);
    assert_eq!(set("(drop (call $set_pairs (i32.const 0) `x=5`))"), [b"5"]);
    // No map other than the request's headers can be changed.
    assert_eq!(set("(call $log_number (call $replace_header (i32.const 2) 'x' '4'))"), [b"1", b"3"]);
}

#[test]
fn all_headers_can_be_read_at_once_in_order() {
    let module =
        at_request("(call $log_result (call $get_pairs (i32.const 0) (i32.const 0) (i32.const 4))) (i32.const 0)");
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(Headers::new([("a", "b"), ("c", "")]));
    assert_eq!(log_of_worker(&host), ["\u{2}\0\0\0\u{1}\0\0\0\u{1}\0\0\0\u{1}\0\0\0\0\0\0\0a\0b\0c\0\0"]);
}

#[test]
fn duplicate_authorization_headers_are_joined_before_the_filter_runs() {
    let headers = Headers::received([("Authorization", "a"), ("x", "1"), ("authorization", "b"), ("x", "2")]);
    assert_eq!(headers, Headers::new([("authorization", "a,b"), ("x", "1"), ("x", "2")]));
}

#[test]
fn a_stream_has_the_properties_of_its_request() {
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
    let body: String = paths.iter().map(|(path, _)| format!("(call $log_property '{path}')")).collect();
    let builder = Host::builder(&at_request(&format!("{body} (i32.const 0)")));
    let builder = builder.plugin("plugin", "root", "vm").node("node-1", "payments");
    let host = builder.route("example.com", "c").property(&["filter_state", "k"], "v").start().unwrap();
    let headers = Headers::get_request("example.com", "/a?b").with("x-odd", "1").with("x-odd", "2");
    let headers = headers.with("x-request-id", "id-1");
    host.worker(0).request(Request::new(headers).to("127.0.0.1:15002"));
    assert_eq!(log_of_worker(&host), paths.map(|(_, value)| value));
}

#[test]
fn properties_that_envoy_does_not_have_are_not_found() {
    let paths =
        ["cluster_name", "route_name", "node", "listener_direction", "request\\00nothing", "request\\00headers\\00x"];
    let body: String = paths.iter().map(|path| format!("(call $log_property '{path}')")).collect();
    let host = Host::builder(&at_request(&format!("{body} (i32.const 0)"))).default_route("c").start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["1"; 6]);
    let unrouted =
        Host::builder(&at_request("(call $log_property 'xds\\00cluster_name') (i32.const 0)")).start().unwrap();
    unrouted.worker(0).request(any());
    assert_eq!(log_of_worker(&unrouted), ["1"]);
}

#[test]
fn a_property_that_contains_others_cannot_be_serialized() {
    let host = Host::builder(&at_request("(call $log_property 'xds') (i32.const 0)")).start().unwrap();
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["3"]);
}

#[test]
fn a_root_context_has_only_the_properties_of_plugin_and_node() {
    let module = module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (call $log_property 'plugin_name') (call $log_property 'plugin_root_id') (call $log_property 'plugin_vm_id')
             (call $log_property 'xds\00node\00id')
             (call $log_property 'xds\00cluster_name') (call $log_property 'request\00path')
             (call $log_property 'destination\00address')
             (call $log_number (call $set_property 'p' 'v'))
             (i32.const 1))"#,
    );
    let host = Host::builder(&module).plugin("a", "b", "c").node("d", "e").default_route("c").start().unwrap();
    assert_eq!(log_of_worker(&host), ["a", "b", "c", "d", "1", "1", "1", "1"]);
}

#[test]
fn a_property_that_a_guest_sets_is_visible_in_the_same_stream_only() {
    let module = at_request(
        "(call $log_property 'p') (drop (call $set_property 'p' 'v')) (call $log_property 'p') (i32.const 0)",
    );
    let host = Host::builder(&module).start().unwrap();
    host.worker(0).request(any());
    host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["1", "v", "1", "v"]);
}

#[test]
fn setting_a_header_makes_envoy_select_the_route_again() {
    let module = at_request(
        r"(call $log_property 'xds\00cluster_name')
          (drop (call $replace_header (i32.const 0) 'authorization' 'x'))
          (call $log_property 'xds\00cluster_name')
          (i32.const 0)",
    );
    let route =
        |headers: &Headers| Some(if headers.get("authorization").is_some() { "plaintext" } else { "tls" }.to_owned());
    let host = Host::builder(&module).route_by(route).start().unwrap();
    let stream = host.worker(0).request(any());
    assert_eq!(log_of_worker(&host), ["tls", "plaintext"]);
    assert_eq!(forwarded(stream.state()).cluster.as_deref(), Some("plaintext"));
}

#[test]
fn hosts_are_routed_with_and_without_a_port() {
    let host = Host::builder(&module("")).route("a.example", "a").default_route("other").start().unwrap();
    let cluster = |authority: &str| {
        forwarded(host.worker(0).request(Headers::get_request(authority, "/")).state()).cluster.unwrap()
    };
    assert_eq!(["a.example", "A.EXAMPLE:443", "b.example"].map(cluster), ["a", "a", "other"]);
}
