//! The filter in a real Envoy, which SPIRE's agent attests, gets an access token with a JWT-SVID through the shipped cluster.

use std::time::Duration;

use serde_json::{Value, json};
use stack::source_cluster::{self, set_socket};
use stack::spire::{AUDIT_ID, ID, Spire};
use stack::{LISTED_HOST, Request, Response, Stack};

use crate::real_server::Test;
use crate::tokens::{trust, wait_for};
use crate::workload::has_the_workloads_token;

pub(crate) const ALL: &[Test<Spire>] = &[
    ("the_filter_gets_the_workloads_token_with_a_jwt_svid", |spire| {
        wait_for(&spire.socket(), ID);
        let stack = start(spire, &json!({ "spiffe_id": ID }));
        trust(&stack.directory(), spire);

        for _ in 0..2 {
            has_the_workloads_token(&send(&stack), &stack.log());
        }

        assert_eq!(stack.directory().stats().token_requests, 1);
        assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());
    }),
    ("an_identity_is_chosen_by_the_hint_of_its_entry", |spire| {
        wait_for(&spire.socket(), AUDIT_ID);
        let stack = start(spire, &json!({ "hint": "audit" }));
        trust(&stack.directory(), spire);

        // Entra knows the other identity only, and says which one it got.
        let problem = send(&stack).json();
        assert!(problem["detail"].as_str().unwrap().contains(AUDIT_ID), "{problem}");
    }),
    ("an_entry_that_is_registered_late_is_waited_for", |spire| {
        const LATE: &str = "spiffe://example.org/late";
        let stack = start(spire, &json!({ "spiffe_id": LATE }));
        trust(&stack.directory(), spire);
        let problem = send(&stack).json();
        assert_eq!(problem["code"], "source_not_ready", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("gRPC status 7"), "{problem}");

        spire.register(LATE, "").unwrap();

        // Entra does not know this identity, which shows that the agent issued it.
        let is_issued = || send(&stack).json()["detail"].as_str().is_some_and(|detail| detail.contains(LATE));
        assert!(stack::eventually(Duration::from_secs(60), is_issued), "{}", stack.log());
    }),
    ("the_defaults_of_spire_are_reported_with_the_settings_that_change_them", |_| {
        for (settings, setting) in [
            ("", "jwt_key_type"),
            ("  jwt_issuer = \"https://oidc.example.org\"\n", "jwt_key_type"),
            ("  jwt_key_type = \"rsa-2048\"\n", "jwt_issuer"),
        ] {
            let spire = Spire::with_settings(settings).unwrap();
            wait_for(&spire.socket(), ID);
            let problem = send(&start(&spire, &json!({ "spiffe_id": ID }))).json();
            assert_eq!(problem["code"], "assertion_invalid", "{settings}: {problem}");
            assert!(problem["remedy"].as_str().unwrap().contains(setting), "{settings}: {problem}");
        }
    }),
];

/// Starts a stack whose assertion has these fields.
fn start(spire: &Spire, fields: &Value) -> Stack {
    let mut cluster = source_cluster::read("spire").unwrap();
    set_socket(&mut cluster, &spire.socket()).unwrap();
    let mut assertion = json!({"name": "federated", "source": "spiffe_workload_api", "cluster": cluster["name"]});
    assertion.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Stack::start(source_cluster::options(cluster, &[], &json!([assertion]))).unwrap()
}

fn send(stack: &Stack) -> Response {
    stack.send(&Request::get(LISTED_HOST, "/")).unwrap()
}
