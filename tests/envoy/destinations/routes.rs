//! Routes that could send a token to another cluster: mirrors, rewrites, routes on headers, internal redirects.

use std::time::Duration;

use serde_json::json;
use stack::{LISTED_HOST, UNLISTED_HOST, Upstream, sidecar};

use super::{Change, LISTED_ROUTE, change, clear_cluster, in_cluster, seen, token, with, without_a_pin};
use crate::assert_clean_log;
use crate::scenarios::{destination, problem};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("a_mirror_gets_the_token_from_a_listeners_filter_chain_but_not_from_a_clusters", a_mirror_gets_the_token_or_not),
    (
        "hosts_are_matched_before_a_rewrite_in_a_listener_and_after_it_in_a_cluster",
        hosts_are_matched_before_or_after_a_rewrite,
    ),
    ("a_route_on_the_tokens_header_misroutes_it_only_from_a_listeners_filter_chain", a_route_on_the_tokens_header),
    ("replacing_a_credential_never_misroutes_a_token", replacing_a_credential_never_misroutes_a_token),
    ("an_internal_redirect_does_not_carry_the_token", an_internal_redirect_does_not_carry_the_token),
    (
        "a_redirect_is_recognized_with_another_header_prefix_in_envoys_bootstrap",
        a_redirect_is_recognized_with_another_header_prefix,
    ),
    (
        "a_client_that_sends_the_header_of_a_redirect_keeps_its_own_credential",
        a_client_cannot_make_the_filter_take_its_credential_for_a_token,
    ),
];

const OTHER_ROUTE: &str = "static_resources.listeners[outbound].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[elsewhere].routes[0]";

fn a_mirror_gets_the_token_or_not() {
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

/// A configuration that operators must avoid: setting the header makes Envoy select the route again.
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
fn replacing_a_credential_never_misroutes_a_token() {
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
            assert_clean_log(&stack);
        }
    }
}

fn follow() -> Change {
    change(LISTED_ROUTE, |route| {
        route["route"]["internal_redirect_policy"] = json!({"allow_cross_scheme_redirect": true});
    })
}

fn an_internal_redirect_does_not_carry_the_token() {
    let path = format!("/redirect?http://{UNLISTED_HOST}/taken");
    for header in ["authorization", "x-token"] {
        let stack = with(&destination(&json!({"header": header})), vec![follow()]);
        let answer = stack.get(LISTED_HOST, &path, &[]);
        assert_eq!((answer.status, answer.json()["path"].as_str()), (200, Some("/taken")));
        assert!(seen(&stack.upstream, header)[0].is_some());
        assert_eq!(answer.seen_header(header), None);
        assert_clean_log(&stack);
    }
    // With upstream filters, every cluster that a redirected request can reach needs the filter.
    let everywhere: Change = Box::new(|document| {
        let filter = sidecar::http_filter(document).unwrap();
        sidecar::move_into_cluster(document, "payments_kv").unwrap();
        sidecar::put_into_cluster(document, "elsewhere", filter).unwrap();
    });
    let stack = with(&without_a_pin(&json!({})), vec![follow(), everywhere]);
    let answer = stack.get(LISTED_HOST, &path, &[]);
    assert_eq!((answer.json()["path"].as_str(), answer.seen_header("authorization")), (Some("/taken"), None));
    assert!(seen(&stack.upstream, "authorization")[0].is_some());
    assert_clean_log(&stack);
}

fn a_redirect_is_recognized_with_another_header_prefix() {
    let path = format!("/redirect?http://{UNLISTED_HOST}/taken");
    let prefix: Change = Box::new(|document| document["header_prefix"] = json!("x-acme"));
    let mut configuration = destination(&json!({}));
    configuration["header_prefix"] = json!("X-Acme");
    let stack = with(&configuration, vec![follow(), prefix]);
    let answer = stack.get(LISTED_HOST, &path, &[]);
    assert_eq!((answer.json()["path"].as_str(), answer.seen_header("authorization")), (Some("/taken"), None));
    assert!(answer.seen_header("x-acme-original-url").is_some());
    assert!(seen(&stack.upstream, "authorization")[0].is_some());
    assert_clean_log(&stack);
}

fn a_client_cannot_make_the_filter_take_its_credential_for_a_token() {
    let stack = with(&destination(&json!({})), vec![follow()]);
    token(&stack.get(LISTED_HOST, "/", &[]));
    let forged = [("x-envoy-original-url", "http://a.example/"), ("authorization", "Bearer own")];
    for host in [LISTED_HOST, UNLISTED_HOST] {
        let answer = stack.get(host, "/", &forged);
        assert_eq!(answer.seen_header("authorization").as_deref(), Some("Bearer own"), "{host}");
    }
    assert_clean_log(&stack);
}
