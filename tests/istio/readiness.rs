//! `readiness.yaml`: the probe that the istio-agent sends for the kubelet.

use serde_json::{Value, json};
use stack::document::{at_mut, set};
use stack::{Options, Request, Stack, sidecar};

use crate::form::{Form, HTTP};
use crate::manifest::{READINESS, SIDECAR, manifest};
use crate::start;

const HOST: &str = "entra-exchange.health";

/// The sidecar with the probe's listener, which discovers the same filter.
fn probed(options: Options) -> Stack {
    probed_with(options, |configuration| configuration["managed_identity"] = json!({"health": {"hosts": [HOST]}}))
}

fn probed_with(options: Options, change: impl FnOnce(&mut Value)) -> Stack {
    let mut form = Form::envoy_filter(SIDECAR);
    form.configure(change);
    let edit = Box::new(move |bootstrap: &mut Value| {
        form.into_istio(bootstrap);
        let outbound = format!("static_resources.listeners[{}].{HTTP}.http_filters[entra-exchange]", sidecar::OUTBOUND);
        let filter = at_mut(bootstrap, &outbound).unwrap().clone();
        let mut listener = manifest(READINESS).value("LISTENER");
        set(&mut listener, &format!("{HTTP}.http_filters[entra-exchange]"), filter).unwrap();
        set(&mut listener, "address.socket_address", json!({"address": "127.0.0.1", "port_value": 0})).unwrap();
        at_mut(bootstrap, "static_resources.listeners").unwrap().as_array_mut().unwrap().push(listener);
    });
    start(Options { edit: Some(edit), ..options })
}

/// The agent uses the probe's path, port and Host, and the other headers of the kubelet's request (istio/istio,
/// pilot/cmd/pilot-agent/status/server.go).
fn probe(stack: &Stack, host: &str, path: &str) -> u16 {
    let listener = stack.envoy.listener("entra_exchange_health").unwrap().unwrap();
    let request = Request::get(host, path).header("user-agent", "kube-probe/1.31").header("accept", "*/*");
    request.send(listener).unwrap().status
}

#[test]
fn a_probe_by_the_istio_agent_returns_the_pods_readiness() {
    let stack = probed(Options::default());
    assert_eq!((probe(&stack, HOST, "/healthz"), probe(&stack, HOST, "/readyz")), (200, 200), "{}", stack.log());
    for (host, path) in [(HOST, "/"), (HOST, "/secrets"), ("payments-kv.vault.azure.net", "/readyz"), ("other", "/")] {
        assert_eq!(probe(&stack, host, path), 404, "{host}{path}");
    }
    assert_eq!(stack.directory().stats().token_requests, 0, "a probe causes no exchange");

    let stack = probed(Options::default().variable("AZURE_CLIENT_ID", None));
    assert_eq!((probe(&stack, HOST, "/healthz"), probe(&stack, HOST, "/readyz")), (200, 503));
}

#[test]
fn a_forwarded_port_shows_the_status_page_if_it_is_configured() {
    let stack = probed_with(Options::default(), |configuration| configuration["status"] = json!({}));
    for host in ["localhost", "127.0.0.1:15103"] {
        assert_eq!(probe(&stack, host, "/entra-exchange/status"), 200, "{host}");
        assert_eq!(probe(&stack, host, "/readyz"), 404, "{host}");
    }
    assert_eq!(probe(&probed(Options::default()), "localhost", "/entra-exchange/status"), 404);
}

#[test]
fn the_manifests_listener_answers_the_probe_in_its_comment() {
    let text = std::fs::read_to_string(stack::root().join(crate::manifest::FOLDER).join(READINESS)).unwrap();
    let listener = manifest(READINESS).value("LISTENER");
    let port = &listener["address"]["socket_address"]["port_value"];
    assert!(text.contains(&format!("path: /readyz, port: {port}, httpHeaders: [ {{ name: Host, value: {HOST} }} ]")));
    let mut listener = listener;
    let hosts = at_mut(&mut listener, &format!("{HTTP}.route_config.virtual_hosts[health].domains")).unwrap();
    assert_eq!(*hosts, json!([HOST]));
    let filter = at_mut(&mut listener, &format!("{HTTP}.http_filters[entra-exchange]")).unwrap();
    assert_eq!(*filter, manifest(SIDECAR).value("HTTP_FILTER"));
}
