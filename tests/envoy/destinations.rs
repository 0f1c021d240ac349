//! Where tokens go in a real Envoy, and where they do not: in a listener's filter chain and in a cluster's own, and with
//! everything that HTTP can do.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use fake_entra::Fault;
use serde_json::{Value, json};
use stack::{LISTED_HOST, Mesh, Options, Request, Response, Stack, UNLISTED_HOST, Upstream, document, sidecar};

use super::scenarios::{destination, problem};
use super::{look_through_log, newest};

/// What this file shows, by its sentences.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("in_a_clusters_own_chain_a_request_waits_for_its_connection", a_request_waits_for_its_connection),
    ("in_a_clusters_own_chain_no_token_goes_in_clear", no_token_goes_in_clear),
    ("a_connection_that_cannot_be_made_leaves_nobody_waiting", a_connection_that_cannot_be_made),
    ("a_retry_carries_our_token_whatever_is_done_with_credentials", a_retry_carries_our_token),
    ("a_retry_after_401_carries_a_fresh_token", a_retry_after_401_carries_a_fresh_token),
    ("every_attempt_of_a_hedged_request_carries_the_token", a_hedged_request),
    ("a_hedged_attempt_in_clear_gets_no_token", a_hedged_attempt_in_clear),
    ("a_mirror_gets_the_token_of_the_listeners_chain_and_not_of_the_clusters", a_mirror_gets_or_gets_not),
    ("hosts_are_matched_before_the_routes_rewrite_or_after_it", hosts_are_matched_before_or_after_a_rewrite),
    ("a_route_on_the_tokens_header_leads_it_astray_but_not_in_a_clusters_own_chain", a_route_on_the_tokens_header),
    ("a_replaced_credential_leads_no_token_astray", a_replaced_credential_leads_no_token_astray),
    ("an_internal_redirect_takes_no_token_along", an_internal_redirect_takes_no_token_along),
    ("without_the_state_that_keeps_it_off_a_redirect_no_token_is_sent", without_its_state_no_token_is_sent),
    ("a_grpc_client_reads_its_refusal_in_one_sentence", a_grpc_client_reads_its_refusal),
    ("http2_gets_its_token_on_both_sides", http2_gets_its_token),
    ("a_websocket_is_opened_with_a_token", a_websocket_is_opened_with_a_token),
    ("a_tunnel_is_refused", a_tunnel_is_refused),
    ("a_report_lets_a_request_pass_and_tells_what_would_refuse_it", a_report_tells_what_would_refuse),
    ("a_large_upload_waits_at_its_headers_and_arrives_whole", a_large_upload_waits),
    ("head_continue_and_trailers_go_through", head_continue_and_trailers),
    ("an_odd_way_to_write_a_host_gets_no_token_for_another", odd_ways_to_write_a_host),
    ("a_caller_at_a_gateway_is_known_by_its_certificate", a_caller_is_known_by_its_certificate),
];

type Change = Box<dyn FnOnce(&mut Value) + Send>;

/// A sidecar with this configuration of the filter and these changes around it.
fn with(configuration: &Value, changes: Vec<Change>) -> Stack {
    let edit = move |document: &mut Value| changes.into_iter().for_each(|change| change(document));
    newest(Options { configuration: Some(configuration.to_string()), edit: Some(Box::new(edit)), ..Options::default() })
}

/// The filter stands in the cluster of the listed host.
fn in_cluster() -> Change {
    Box::new(|document| sidecar::move_into_cluster(document, "payments_kv").unwrap())
}

/// The listed host as a destination that states no way.
fn without_a_pin(more: &Value) -> Value {
    let mut configuration = destination(more);
    configuration["destinations"][0].as_object_mut().unwrap().remove("tls_clusters");
    configuration
}

/// Changes the value at a path.
fn change(path: &'static str, what: impl FnOnce(&mut Value) + Send + 'static) -> Change {
    Box::new(move |document| what(document::at_mut(document, path).unwrap()))
}

const LISTED_ROUTE: &str = "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[listed].routes[0]";
const OTHER_ROUTE: &str = "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[elsewhere].routes[0]";
const MANAGER: &str = "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config";

/// A cluster in clear, of this name and with this address.
fn clear_cluster(name: &'static str, addr: SocketAddr) -> Change {
    change("static_resources.clusters", move |clusters| {
        let address = json!({"socket_address": {"address": addr.ip(), "port_value": addr.port()}});
        let endpoints = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
        let cluster = json!({"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}});
        clusters.as_array_mut().unwrap().push(cluster);
    })
}

fn token(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.seen_header("authorization").unwrap_or_else(|| panic!("no token: {}", answer.text()))
}

/// The headers of this name that an upstream saw, one for each request.
fn seen(upstream: &Upstream, name: &str) -> Vec<Option<String>> {
    let header = |request: &Value| {
        let headers = request["headers"].as_array().unwrap();
        headers.iter().find(|header| header[0] == name).map(|header| header[1].as_str().unwrap().to_owned())
    };
    upstream.seen().iter().map(header).collect()
}

/// Sends bytes as they are, and reads until the other side ends, or for so long.
fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn a_request_waits_for_its_connection() {
    let stack = with(&without_a_pin(&json!({})), vec![in_cluster()]);
    // The first are on connections that are being made, the later ones on those that are there.
    for _ in 0..2 {
        thread::scope(|scope| {
            let sent: Vec<_> = (0..20).map(|_| scope.spawn(|| stack.get(LISTED_HOST, "/", &[]))).collect();
            sent.into_iter().for_each(|answer| drop(token(&answer.join().unwrap())));
        });
    }
    assert_eq!(stack.directory().stats().token_requests, 1);
    assert_eq!(stack.get(UNLISTED_HOST, "/", &[]).seen_header("authorization"), None);
    let body = vec![7; 3_000_000];
    let answer = stack.send(&Request::post(LISTED_HOST, "/", body)).unwrap();
    assert_eq!((token(&answer).is_empty(), &answer.json()["body_length"]), (false, &json!(3_000_000)));
    look_through_log(&stack);
}

fn no_token_goes_in_clear() {
    let upstream = Upstream::start().unwrap();
    let addr = upstream.plaintext_addr();
    let in_clear = move || {
        change("static_resources.clusters[payments_kv]", move |cluster| {
            cluster.as_object_mut().unwrap().remove("transport_socket");
            let address = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value";
            document::set(cluster, address, addr.port()).unwrap();
        })
    };
    let stack = with(&without_a_pin(&json!({})), vec![in_cluster(), in_clear()]);
    for _ in 0..2 {
        problem(&stack.get(LISTED_HOST, "/", &[]), 403, "connection_not_tls");
    }
    assert_eq!((upstream.requests(), stack.directory().stats().token_requests), (0, 0));
    look_through_log(&stack);
    let stack = with(&without_a_pin(&json!({"plaintext": "allowed"})), vec![in_cluster(), in_clear()]);
    token(&stack.get(LISTED_HOST, "/", &[]));
}

fn a_connection_that_cannot_be_made() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = change(
        "static_resources.clusters[payments_kv].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value",
        move |value| *value = json!(port),
    );
    let stack = with(&without_a_pin(&json!({})), vec![in_cluster(), nowhere]);
    for _ in 0..3 {
        assert_eq!(stack.get(LISTED_HOST, "/", &[]).status, 503);
    }
    look_through_log(&stack);
}

fn retry_on(status: u16) -> Change {
    change(LISTED_ROUTE, move |route| {
        route["route"]["retry_policy"] = json!({
            "retry_on": "retriable-status-codes", "retriable_status_codes": [status], "num_retries": 2,
        });
    })
}

fn a_retry_carries_our_token() {
    for existing in ["keep", "refuse", "replace"] {
        let configuration = without_a_pin(&json!({"existing_credential": existing, "header": "x-token"}));
        let stack = with(&configuration, vec![in_cluster(), retry_on(503)]);
        assert_eq!(stack.get(LISTED_HOST, "/status/503", &[]).status, 503);
        let tokens = seen(&stack.upstream, "x-token");
        assert_eq!((tokens.len(), tokens.iter().all(|token| *token == tokens[0])), (3, true), "{existing}");
        assert!(tokens[0].as_ref().is_some_and(|token| token.starts_with("ey")), "bare");
        look_through_log(&stack);
    }
}

fn a_retry_after_401_carries_a_fresh_token() {
    let stack = with(&without_a_pin(&json!({})), vec![in_cluster(), retry_on(401)]);
    stack.get(LISTED_HOST, "/status/401", &[]);
    let tokens = seen(&stack.upstream, "authorization");
    assert_eq!(tokens.len(), 3);
    assert_ne!(tokens[0], tokens[1]);
    // One more within half a minute is not forced.
    assert_eq!(tokens[1], tokens[2]);
    assert_eq!(stack.directory().stats().token_requests, 2);
    look_through_log(&stack);
    // In the listener's chain the filter runs once, whatever the router does afterwards.
    let stack = with(&destination(&json!({})), vec![retry_on(401)]);
    stack.get(LISTED_HOST, "/status/401", &[]);
    let tokens = seen(&stack.upstream, "authorization");
    assert_eq!((tokens.len(), tokens[0] == tokens[2]), (3, true));
}

/// After 0.3 s a second attempt is made beside the first.
fn hedged() -> Change {
    change(LISTED_ROUTE, |route| {
        route["route"]["hedge_policy"] = json!({"hedge_on_per_try_timeout": true});
        route["route"]["retry_policy"] =
            json!({"retry_on": "gateway-error", "num_retries": 1, "per_try_timeout": "0.3s"});
    })
}

fn a_hedged_request() {
    for (configuration, changes) in
        [(destination(&json!({})), vec![hedged()]), (without_a_pin(&json!({})), vec![in_cluster(), hedged()])]
    {
        let stack = with(&configuration, changes);
        let first = token(&stack.get(LISTED_HOST, "/", &[]));
        let before = seen(&stack.upstream, "authorization").len();
        assert_eq!(stack.get(LISTED_HOST, "/delay/1000", &[]).status, 200);
        let tokens = seen(&stack.upstream, "authorization").split_off(before);
        assert_eq!(tokens.len(), 2, "two attempts: {tokens:?}");
        assert!(tokens.iter().all(|token| token.as_deref() == Some(first.as_str())), "{tokens:?}");
        look_through_log(&stack);
    }
}

fn a_hedged_attempt_in_clear() {
    let clear = Upstream::start().unwrap();
    let addr = clear.plaintext_addr();
    let another_endpoint = change("static_resources.clusters[payments_kv]", move |cluster| {
        let address = json!({"socket_address": {"address": addr.ip(), "port_value": addr.port()}});
        let metadata = json!({"filter_metadata": {"envoy.transport_socket_match": {"clear": true}}});
        let endpoints = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
        endpoints.as_array_mut().unwrap().push(json!({"endpoint": {"address": address}, "metadata": metadata}));
        cluster["type"] = json!("STATIC");
        let raw = json!({
            "name": "envoy.transport_sockets.raw_buffer",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"},
        });
        cluster["transport_socket_matches"] =
            json!([{"name": "clear", "match": {"clear": true}, "transport_socket": raw}]);
    });
    let stack = with(&without_a_pin(&json!({})), vec![in_cluster(), hedged(), another_endpoint]);
    // The endpoints take turns: of two attempts, one meets the other endpoint.
    for _ in 0..4 {
        problem(&stack.get(LISTED_HOST, "/delay/1000", &[]), 403, "connection_not_tls");
    }
    let tokens = seen(&stack.upstream, "authorization");
    assert!(!tokens.is_empty() && tokens.iter().all(Option::is_some), "{tokens:?}");
    assert_eq!(clear.requests(), 0);
    look_through_log(&stack);
}

fn a_mirror_gets_or_gets_not() {
    for (changes, gets) in [(vec![], true), (vec![in_cluster()], false)] {
        let mirror = Upstream::start().unwrap();
        let mirrored = change(LISTED_ROUTE, |route| {
            route["route"]["request_mirror_policies"] = json!([{"cluster": "mirror"}]);
        });
        let more = vec![clear_cluster("mirror", mirror.plaintext_addr()), mirrored];
        let stack = with(&destination(&json!({})), changes.into_iter().chain(more).collect());
        token(&stack.get(LISTED_HOST, "/", &[]));
        assert!(stack::eventually(Duration::from_secs(5), || mirror.requests() == 1));
        assert_eq!(seen(&mirror, "authorization")[0].is_some(), gets);
    }
}

fn hosts_are_matched_before_or_after_a_rewrite() {
    let rewritten = || {
        change(OTHER_ROUTE, |route| {
            route["route"] = json!({"cluster": "payments_kv", "host_rewrite_literal": LISTED_HOST});
        })
    };
    let stack = with(&destination(&json!({})), vec![rewritten()]);
    let answer = stack.get(UNLISTED_HOST, "/", &[]);
    assert_eq!(
        (answer.seen_header("host").unwrap().as_str(), answer.seen_header("authorization")),
        (LISTED_HOST, None)
    );
    let stack = with(&destination(&json!({})), vec![rewritten(), in_cluster()]);
    let answer = stack.get(UNLISTED_HOST, "/", &[]);
    assert_eq!(answer.seen_header("host").unwrap(), LISTED_HOST);
    token(&answer);
}

/// A configuration as it must not be: setting the header makes Envoy choose the route again.
fn a_route_on_the_tokens_header() {
    for (changes, leaks) in [(vec![], true), (vec![in_cluster()], false)] {
        let thief = Upstream::start().unwrap();
        let astray = change(
            "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[listed].routes",
            |routes| {
                let on_header = json!({
                    "match": {"prefix": "/", "headers": [{"name": "authorization", "present_match": true}]},
                    "route": {"cluster": "thief"},
                });
                routes.as_array_mut().unwrap().insert(0, on_header);
            },
        );
        let more = vec![clear_cluster("thief", thief.plaintext_addr()), astray];
        let stack = with(&destination(&json!({})), changes.into_iter().chain(more).collect());
        token(&stack.get(LISTED_HOST, "/", &[]));
        let stolen = seen(&thief, "authorization");
        assert_eq!(stolen.iter().flatten().count(), usize::from(leaks), "{stolen:?}");
    }
}

/// A route on a header leads to the listed cluster, all others to one in plaintext: when the filter changes that header, Envoy selects
/// another route.
fn a_replaced_credential_leads_no_token_astray() {
    // The header that the route matches on, the one that takes the token, and whether the filter changes the former.
    for (matched, token_header, is_changed) in [
        ("authorization", "authorization", true),
        ("authorization", "x-token", true),
        ("api-key", "authorization", true),
        ("x-token", "x-token", true),
        ("x-team", "authorization", false),
    ] {
        for in_clusters_chain in [false, true] {
            let thief = Upstream::start().unwrap();
            let astray = change(
                "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[listed].routes",
                move |routes| {
                    let by_header = json!({"name": matched, "string_match": {"exact": "theirs"}});
                    routes[0]["match"]["headers"] = json!([by_header]);
                    let rest = json!({"match": {"prefix": "/"}, "route": {"cluster": "thief"}});
                    routes.as_array_mut().unwrap().push(rest);
                },
            );
            let mut changes = vec![clear_cluster("thief", thief.plaintext_addr()), astray];
            if in_clusters_chain {
                changes.push(in_cluster());
            }
            let stack = with(&destination(&json!({"existing_credential": "replace", "header": token_header})), changes);
            let answer = stack.get(LISTED_HOST, "/", &[(matched, "theirs")]);
            if is_changed && !in_clusters_chain {
                problem(&answer, 403, "replace_not_supported");
                assert_eq!(stack.upstream.requests(), 0, "{matched}");
            } else {
                let seen = answer.seen_header(token_header).unwrap_or_else(|| panic!("{matched}: {}", answer.text()));
                assert!(seen.trim_start_matches("Bearer ").starts_with("ey"), "{matched}");
                assert_eq!(stack.upstream.requests(), 1, "{matched}");
            }
            assert_eq!(thief.requests(), 0, "{matched} {token_header} {in_clusters_chain}");
            look_through_log(&stack);
        }
    }
}

fn follow() -> Change {
    change(LISTED_ROUTE, |route| {
        route["route"]["internal_redirect_policy"] = json!({"allow_cross_scheme_redirect": true});
    })
}

fn without_its_state_no_token_is_sent() {
    let without = change("static_resources.listeners", |listeners| {
        let filter = sidecar::filter(sidecar::OUTBOUND);
        let list = format!("{filter}.capability_restriction_config.allowed_capabilities");
        let list = list.trim_start_matches("static_resources.listeners");
        let list = document::at_mut(listeners, list).unwrap().as_object_mut().unwrap();
        list.remove("proxy_call_foreign_function").unwrap();
    });
    let stack = with(&destination(&json!({})), vec![follow(), without]);
    for path in ["/", &format!("/redirect?http://{UNLISTED_HOST}/taken")] {
        problem(&stack.get(LISTED_HOST, path, &[]), 503, "filter_state_unavailable");
    }
    assert_eq!((stack.upstream.requests(), stack.directory().stats().token_requests), (0, 0));
    assert_eq!(stack.get(UNLISTED_HOST, "/", &[]).status, 200);
    assert!(stack.log().contains("remedy=\"Add proxy_call_foreign_function"), "{}", stack.log());
}

fn an_internal_redirect_takes_no_token_along() {
    let path = format!("/redirect?http://{UNLISTED_HOST}/taken");
    for header in ["authorization", "x-token"] {
        let stack = with(&destination(&json!({"header": header})), vec![follow()]);
        let answer = stack.get(LISTED_HOST, &path, &[]);
        assert_eq!((answer.status, answer.json()["path"].as_str()), (200, Some("/taken")));
        assert!(seen(&stack.upstream, header)[0].is_some());
        assert_eq!(answer.seen_header(header), None);
        look_through_log(&stack);
    }
    // In clusters' own chains every cluster that such a request can come to needs the filter.
    let everywhere: Change = Box::new(|document| {
        let filter = sidecar::http_filter(document).unwrap();
        sidecar::move_into_cluster(document, "payments_kv").unwrap();
        sidecar::put_into_cluster(document, "elsewhere", filter).unwrap();
    });
    let stack = with(&without_a_pin(&json!({})), vec![follow(), everywhere]);
    let answer = stack.get(LISTED_HOST, &path, &[]);
    assert_eq!((answer.json()["path"].as_str(), answer.seen_header("authorization")), (Some("/taken"), None));
    assert!(seen(&stack.upstream, "authorization")[0].is_some());
    look_through_log(&stack);
}

fn a_grpc_client_reads_its_refusal() {
    let refused = destination(&json!({"tls_clusters": ["another"]}));
    let stack = with(&refused, vec![]);
    for kind in ["application/grpc", "application/grpc+proto"] {
        let answer = stack.get(LISTED_HOST, "/service/Method", &[("content-type", kind)]);
        assert_eq!((answer.status, answer.header("grpc-status").as_deref()), (200, Some("7")));
        let message = answer.header("grpc-message").unwrap();
        assert!(message.contains("(cluster_not_listed): Route it to a cluster with TLS"), "{message}");
        assert!(!message.contains('{'), "{message}");
    }
    // So is what Entra refuses, after the request has waited.
    let stack = with(&destination(&json!({})), vec![]);
    stack.directory().add_faults(vec![Fault::status(503)]);
    let answer = stack.get(LISTED_HOST, "/service/Method", &[("content-type", "application/grpc")]);
    assert_eq!(answer.header("grpc-status").as_deref(), Some("14"));
    assert!(answer.header("grpc-message").unwrap().contains("(entra_unavailable)"));
    look_through_log(&stack);
}

fn http2_gets_its_token() {
    let http2 = || {
        change("static_resources.clusters[payments_kv]", |cluster| {
            let options = &mut cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
            options["@type"] = json!("type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
            options["explicit_http_config"] = json!({"http2_protocol_options": {}});
        })
    };
    for changes in [vec![http2()], vec![http2(), in_cluster()]] {
        let stack = with(&destination(&json!({"path_prefixes": ["/v1"]})), changes);
        let request = Request::post(LISTED_HOST, "/v1", vec![1; 100_000]);
        for _ in 0..2 {
            let answer = request.send_http2(stack.outbound_addr()).unwrap();
            assert_eq!((token(&answer).is_empty(), &answer.json()["body_length"]), (false, &json!(100_000)));
        }
        // Of two names for the host, `:authority` is what Envoy routes by, what the filter looks at and what the upstream gets.
        let other = Request::get(UNLISTED_HOST, "/v1").header("host", LISTED_HOST);
        let answer = other.send_http2(stack.outbound_addr()).unwrap();
        assert_eq!(
            (answer.seen_header("host").unwrap().as_str(), answer.seen_header("authorization")),
            (UNLISTED_HOST, None)
        );
        let ours = Request::get(LISTED_HOST, "/v1").header("host", UNLISTED_HOST);
        let answer = ours.send_http2(stack.outbound_addr()).unwrap();
        assert_eq!((token(&answer).is_empty(), answer.seen_header("host").unwrap().as_str()), (false, LISTED_HOST));
        let ambiguous = Request::get(LISTED_HOST, "/v1/%2e%2e/").send_http2(stack.outbound_addr()).unwrap();
        problem(&ambiguous, 400, "ambiguous_path");
        look_through_log(&stack);
    }
}

fn a_websocket_is_opened_with_a_token() {
    for changes in [vec![], vec![in_cluster()]] {
        let stack = with(&destination(&json!({})), changes);
        let mut stream = TcpStream::connect(stack.outbound_addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let open = format!(
            "GET /chat HTTP/1.1\r\nHost: {LISTED_HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
        );
        stream.write_all(open.as_bytes()).unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(char::from(byte[0]));
        }
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        stream.write_all(b"back and forth").unwrap();
        let mut echoed = [0; 14];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"back and forth");
        assert!(seen(&stack.upstream, "authorization")[0].is_some());
        look_through_log(&stack);
    }
}

fn a_tunnel_is_refused() {
    let tunnels = change(MANAGER, |manager| {
        manager["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
        for host in manager["route_config"]["virtual_hosts"].as_array_mut().unwrap() {
            let cluster = host["routes"][0]["route"]["cluster"].clone();
            let route = json!({"match": {"connect_matcher": {}}, "route": {"cluster": cluster, "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}});
            host["routes"].as_array_mut().unwrap().insert(0, route);
        }
    });
    let stack = with(&destination(&json!({})), vec![tunnels]);
    let answer = raw(
        stack.outbound_addr(),
        format!("CONNECT {LISTED_HOST}:443 HTTP/1.1\r\nHost: {LISTED_HOST}:443\r\n\r\n").as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("tunnel_asked"), "{answer}");
    assert_eq!(stack.upstream.requests(), 0);
    look_through_log(&stack);
}

fn a_report_tells_what_would_refuse() {
    let mut configuration = destination(&json!({"action": "report"}));
    configuration["log"] = json!({"requests": "warn"});
    let elsewhere = change(LISTED_ROUTE, |route| route["match"] = json!({"prefix": "/listed"}));
    let another = change(
        "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[listed].routes",
        |routes| {
            let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "elsewhere", "timeout": "0s"}});
            routes.as_array_mut().unwrap().truncate(1);
            routes.as_array_mut().unwrap().push(route);
        },
    );
    let stack = with(&configuration, vec![elsewhere, another]);
    for path in ["/listed", "/", "/"] {
        let answer = stack.get(LISTED_HOST, path, &[]);
        assert_eq!((answer.status, answer.seen_header("authorization")), (200, None), "{path}");
    }
    let made = stack::eventually(Duration::from_secs(5), || stack.directory().stats().issued == 1);
    assert!(made, "the exchange is made all the same");
    let line = "event=request outcome=reported identity=default";
    let log = stack.log();
    assert_eq!(log.matches(line).count(), 3, "{log}");
    assert_eq!(log.matches(&format!("{line} would_refuse=cluster_not_listed")).count(), 2, "{log}");
    look_through_log(&stack);
}

fn a_large_upload_waits() {
    const SIZE: usize = 100 << 20;
    for changes in [vec![], vec![in_cluster()]] {
        let stack = with(&destination(&json!({})), changes);
        stack.directory().add_faults(vec![Fault::delay(Duration::from_secs(2))]);
        let resident = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", stack.envoy.pid())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or_default() << 10
        };
        let before = resident();
        thread::scope(|scope| {
            let upload = Request::post(LISTED_HOST, "/", vec![7; SIZE]).timeout(Duration::from_secs(120));
            let sent = scope.spawn(|| stack.send(&{ upload }).unwrap());
            thread::sleep(Duration::from_millis(1500));
            assert!(!sent.is_finished(), "it waits for the token");
            assert!(resident().saturating_sub(before) < SIZE / 2, "it is not taken in whole");
            let answer = sent.join().unwrap();
            assert_eq!((token(&answer).is_empty(), &answer.json()["body_length"]), (false, &json!(SIZE)));
        });
        look_through_log(&stack);
    }
}

fn head_continue_and_trailers() {
    for changes in [vec![], vec![in_cluster()]] {
        let trailers = change(MANAGER, |manager| manager["http_protocol_options"] = json!({"enable_trailers": true}));
        let cluster = change("static_resources.clusters[payments_kv]", |cluster| {
            let options = &mut cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
            options["@type"] = json!("type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
            options["explicit_http_config"] = json!({"http_protocol_options": {"enable_trailers": true}});
        });
        let stack = with(&destination(&json!({})), [cluster, trailers].into_iter().chain(changes).collect());
        let addr = stack.outbound_addr();
        let close = "Connection: close\r\n";
        let head = raw(addr, format!("HEAD / HTTP/1.1\r\nHost: {LISTED_HOST}\r\n{close}\r\n").as_bytes());
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
        let refused =
            raw(addr, format!("HEAD / HTTP/1.1\r\nHost: {LISTED_HOST}\r\nAuthorization: x\r\n{close}\r\n").as_bytes());
        assert!(refused.starts_with("HTTP/1.1 200"), "kept: {refused}");
        let expect = format!(
            "POST / HTTP/1.1\r\nHost: {LISTED_HOST}\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n{close}\r\n\
             3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"
        );
        let answer = raw(addr, expect.as_bytes());
        assert!(answer.contains("HTTP/1.1 200"), "{answer}");
        let last = stack.upstream.seen().pop().unwrap();
        assert_eq!((&last["body_length"], &last["trailers"]), (&json!(3), &json!([["x-sum", "7"]])));
        let tokens = seen(&stack.upstream, "authorization");
        let ours = |token: &Option<String>| token.as_ref().is_some_and(|token| token.starts_with("Bearer ey"));
        assert_eq!(tokens.iter().map(ours).collect::<Vec<_>>(), [true, false, true]);
        look_through_log(&stack);
    }
}

fn odd_ways_to_write_a_host() {
    // Any host is led to the one upstream, so that what Envoy makes of it is seen.
    let stack = with(
        &json!({"destinations": [{"hosts": [LISTED_HOST], "scope": "https://vault.azure.net/.default", "plaintext": "allowed"}]}),
        vec![],
    );
    let addr = stack.outbound_addr();
    // What the upstream takes for the host, and whether it got a token.
    let sent = |lines: &str, target: &str| {
        let before = stack.upstream.seen().len();
        let answer = raw(addr, format!("GET {target} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n").as_bytes());
        let seen_there = stack.upstream.seen();
        if seen_there.len() == before {
            return format!("refused {}", answer.get(9..12).unwrap_or_default());
        }
        let host = seen(&stack.upstream, "host").pop().flatten().unwrap_or_default();
        format!("{host} {}", seen(&stack.upstream, "authorization").pop().flatten().is_some())
    };
    let mut told = String::new();
    let lines: [(String, String); 15] = [
        (format!("Host: {LISTED_HOST}:\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}:65536\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}:+80\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}\r\n"), "/".into()),
        (format!("Host: {}\r\n", LISTED_HOST.to_ascii_uppercase()), "/".into()),
        (format!("Host: {LISTED_HOST}:443\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}.\r\n"), "/".into()),
        (format!("Host: x@{LISTED_HOST}\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}@evil.example.com\r\n"), "/".into()),
        (format!("Host: evil.example.com\r\nHost: {LISTED_HOST}\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}\r\nHost: evil.example.com\r\n"), "/".into()),
        (format!("Host: {LISTED_HOST}\r\n"), "http://evil.example.com/".into()),
        ("Host: evil.example.com\r\n".to_string(), format!("http://{LISTED_HOST}/")),
        ("Host: [::1]\r\n".into(), "/".into()),
        ("Host: p\u{e4}yments-kv.vault.azure.net\r\n".into(), "/".into()),
    ];
    for (headers, target) in &lines {
        writeln!(told, "{:?} {target:?}: {}", headers.trim_end(), sent(headers, target)).unwrap();
    }
    println!("{told}");
    for line in told.lines() {
        let to_us = line.contains(&format!(": {LISTED_HOST}"))
            || line.to_ascii_lowercase().contains(": payments-kv.vault.azure.net ");
        assert!(!line.ends_with("true") || to_us, "{line}");
    }
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told[0], format!("\"Host: {LISTED_HOST}:\" \"/\": {LISTED_HOST}: true"));
    for invalid in &told[1..3] {
        assert!(invalid.ends_with("refused 400"), "{invalid}");
    }
    look_through_log(&stack);
}

fn a_caller_is_known_by_its_certificate() {
    let mesh = Mesh::new().unwrap();
    let socket = mesh.transport_socket().unwrap();
    let mutual = change("static_resources.listeners[outbound].filter_chains[0]", |chain| {
        chain["transport_socket"] = socket;
    });
    // What a gateway of Istio's does: it writes of the certificate what it knows, and takes away what callers write.
    let told = change(MANAGER, |manager| {
        manager["forward_client_cert_details"] = json!("SANITIZE_SET");
        manager["set_current_client_cert_details"] = json!({"uri": true});
    });
    let mut configuration = destination(&json!({}));
    configuration["identities"] =
        json!([{"name": "payments", "principals": ["spiffe://cluster.local/ns/payments/sa/api"]}]);
    let stack = with(&configuration, vec![mutual, told]);
    let calls = |uris: &[&str]| {
        let forged = "URI=spiffe://cluster.local/ns/payments/sa/api";
        let request = Request::get(LISTED_HOST, "/").header("x-forwarded-client-cert", forged);
        mesh.send_as(uris, &request, stack.outbound_addr()).unwrap()
    };
    let ours = "spiffe://cluster.local/ns/payments/sa/api";
    token(&calls(&[ours]));
    for strangers in
        [&["spiffe://cluster.local/ns/payments/sa/api2"][..], &[], &[ours, "spiffe://cluster.local/ns/x/sa/y"]]
    {
        problem(&calls(strangers), 403, "principal_not_listed");
    }
    assert_eq!(stack.upstream.requests(), 1);
    look_through_log(&stack);
}
