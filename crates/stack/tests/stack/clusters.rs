//! Tests of the two clusters that only the filter calls, through a listener that is routed to them.

use std::time::Duration;

use serde_json::{Value, json};
use stack::{CLIENT_ID, Layout, Options, Request, Stack, TENANT_ID, document, eventually, sidecar};

use crate::remove_filter;

/// Routes the listener `managed_identity` to this cluster.
fn route_to(envoy: &mut Value, cluster: &str) {
    remove_filter(envoy);
    let hosts = "static_resources.listeners[managed_identity].filter_chains[0].filters[0].typed_config\
                 .route_config.virtual_hosts";
    let to_cluster = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    let any_host = json!([{"name": "any", "domains": ["*"], "routes": [to_cluster]}]);
    document::set(envoy, hosts, any_host).unwrap();
}

fn exchange(stack: &Stack) -> Request {
    let form = format!(
        "grant_type=client_credentials&client_id={CLIENT_ID}&scope=https%3A%2F%2Fvault.azure.net%2F.default\
         &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
         &client_assertion={}",
        std::fs::read_to_string(stack.token_directory.file()).unwrap()
    );
    Request::post("login.microsoftonline.com", &format!("/{TENANT_ID}/oauth2/v2.0/token"), form)
        .header("content-type", "application/x-www-form-urlencoded")
}

#[test]
fn envoy_serves_a_rotated_token_in_both_layouts_and_up_to_16_kilobytes() {
    for layout in [Layout::Webhook160, Layout::Webhook151] {
        let edit = |envoy: &mut Value| route_to(envoy, "projected_token");
        let options = Options { edit: Some(Box::new(edit)), layout, ..Options::default() };
        let stack = Stack::start(options).unwrap();
        let served = || stack.get_imds("/", &[]).text();
        assert_eq!(served().split('.').count(), 3, "a JWT");

        let token = stack.rotate_token().unwrap();
        assert!(eventually(Duration::from_secs(5), || served() == token), "{layout:?}");

        let large = "t".repeat(16_000);
        stack.rotate_token_with(&large).unwrap();
        assert!(eventually(Duration::from_secs(5), || served() == large), "{layout:?}");
    }
}

#[test]
fn the_fake_entra_exchanges_the_workloads_token() {
    let edit = |envoy: &mut Value| route_to(envoy, "entra");
    let stack = Stack::start(Options { edit: Some(Box::new(edit)), ..Options::default() }).unwrap();

    let response = stack.send_imds(&exchange(&stack)).unwrap();

    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["token_type"], "Bearer");
}

#[test]
fn a_token_endpoint_with_a_wrong_ca_or_certificate_name_never_receives_the_token() {
    let wrong_ca = |envoy: &mut Value| {
        let ca = document::at_mut(envoy, &sidecar::trusted_ca("payments_kv")).unwrap().clone();
        document::set(envoy, &sidecar::trusted_ca("entra"), ca).unwrap();
    };
    let wrong_name = |envoy: &mut Value| {
        let names = "static_resources.clusters[entra].transport_socket.typed_config\
                     .common_tls_context.validation_context.match_typed_subject_alt_names[0].matcher.exact";
        document::set(envoy, names, "login.example.com").unwrap();
    };
    for wrong in [wrong_ca as fn(&mut Value), wrong_name] {
        let edit = move |envoy: &mut Value| {
            route_to(envoy, "entra");
            wrong(envoy);
        };
        let stack = Stack::start(Options { edit: Some(Box::new(edit)), ..Options::default() }).unwrap();

        assert_eq!(stack.send_imds(&exchange(&stack)).unwrap().status, 503);
        assert_eq!(stack.directory().stats(), fake_entra::Stats::default());
    }
}
