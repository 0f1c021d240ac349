//! The filter in a real Envoy Gateway, with the objects that `render` makes, unchanged: `make test-gateway`.
//!
//! The tests are ignored by default, because they require Go, a long build, and Linux with user namespaces.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

#[path = "../caught/mod.rs"]
mod caught;
mod pod;
#[path = "../real_server/mod.rs"]
mod real_server;
mod registry;

use std::process::ExitCode;
use std::time::Duration;

use stack::{CLIENT_ID, LISTED_HOST, Request, UNLISTED_HOST, eventually};

use pod::Pod;
use real_server::Test;

const ALL: &[Test<Pod>] = &[
    ("a_request_through_the_gateway_gets_the_token_of_the_gateways_identity", |pod| {
        for _ in 0..2 {
            let request = Request::get(LISTED_HOST, "/secrets/db").header("x-forwarded-for", "10.0.0.1");
            let answer = pod.send(&request);
            assert_eq!(answer.status, 200, "{}\n{}", answer.text(), pod.log());
            let authorization = answer.seen_header("authorization").expect("a token");
            let token = authorization.strip_prefix("Bearer ").expect("a bearer token");
            assert_eq!(fake_entra::claims(token).unwrap()["appid"], CLIENT_ID);
            assert_eq!(answer.seen_header("x-forwarded-for"), None, "{}", answer.text());
        }
        assert_eq!(pod.entra.stats().token_requests, 1);
        assert!(!pod.log().contains("eyJ"), "a token is in the log");
        // Envoy Gateway's default level is `warn` (docs/envoy-gateway.md).
        assert!(!pod.log().contains("event=exchange"), "{}", pod.log());
    }),
    ("a_request_without_a_route_gets_404_from_envoy", |pod| {
        let answer = pod.send(&Request::get(UNLISTED_HOST, "/"));
        assert_eq!((answer.status, answer.text().as_str()), (404, ""));
    }),
    ("envoy_gateway_accepts_and_programs_every_object", |pod| {
        let statuses = pod.log();
        assert!(statuses.contains("Patches have been successfully applied"), "{statuses}");
        // Outside of a cluster, the Gateway has no Service with an address.
        let refused: Vec<&str> =
            statuses.split("lastTransitionTime").filter(|one| one.contains("status: \"False\"")).collect();
        assert!(refused.iter().all(|one| one.contains("AddressNotAssigned")), "{refused:?}");
    }),
    ("without_the_patch_policy_a_request_is_rejected_with_cluster_missing", |pod| {
        let objects = pod.objects.split("\n---\n");
        let kept: Vec<&str> = objects.filter(|object| !object.contains("kind: EnvoyPatchPolicy")).collect();
        // Another scope: the token of the first one is cached.
        let other = kept.join("\n---\n").replace(
            "azure_service: key_vault\n        names: [payments-kv]",
            "hosts: [payments-kv.vault.azure.net]\n        scope: https://storage.azure.com/.default",
        );
        pod.apply(&other);
        let mut answer = String::new();
        let is_rejected = || {
            answer = pod.send(&Request::get(LISTED_HOST, "/")).text();
            answer.contains("\"code\":\"cluster_missing\"")
        };
        let is_rejected = eventually(Duration::from_secs(30), is_rejected);
        pod.apply(&pod.objects);
        assert!(is_rejected, "{answer}\n{}", pod.log());
        let is_back = || pod.send(&Request::get(LISTED_HOST, "/")).status == 200;
        assert!(eventually(Duration::from_secs(30), is_back), "{}", pod.log());
    }),
];

fn main() -> ExitCode {
    pod::enter().unwrap_or_else(|| real_server::run(Pod::start, ALL))
}
