//! Scenarios of the sources that belong to a platform: Azure's managed identities, AWS and SPIFFE.

use fake_entra::{Issuer, OtherAlgorithm};
use fake_sources::{AwsSts, Delivery, Fault, ManagedIdentity, TokenFault, WorkloadApi};
use serde_json::{Value, json};
use stack::LISTED_HOST;

use super::{FakeSource, SourceScenario, fails_with, gets_a_token};
use crate::scenarios::{get, problem, seen_token};

/// The tenant of the managed identity. That of the workload's client is another one.
const HOME: &str = "5f0c6d1e-3b2a-4d8f-9e70-1a2b3c4d5e6f";

fn imds_of(client_id: &str) -> FakeSource {
    let assertion = json!({"source": "azure_managed_identity", "client_id": client_id});
    FakeSource::new(ManagedIdentity::imds(HOME), [], assertion)
}

fn imds(_: &Issuer) -> FakeSource {
    imds_of(ManagedIdentity::CLIENT_ID)
}

fn app_service(_: &Issuer) -> FakeSource {
    let endpoint = ManagedIdentity::app_service(HOME);
    let variables = endpoint.variables("169.254.129.3:8081");
    let assertion = json!({"source": "azure_app_service", "client_id": ManagedIdentity::CLIENT_ID});
    FakeSource::new(endpoint, variables, assertion)
}

/// An STS whose cluster signs the requests, as far as the hosts of these tests know: they have no cluster with filters.
fn aws(_: &Issuer) -> FakeSource {
    let assertion = json!({"source": "aws_sts", "region": "eu-central-1"});
    FakeSource::new(AwsSts::behind_a_signer("eu-central-1"), [], assertion)
}

fn spiffe_with(api: WorkloadApi, fields: &Value) -> FakeSource {
    let mut assertion = json!({"source": "spiffe_workload_api"});
    assertion.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    FakeSource::new(api, [], assertion)
}

fn spiffe(_: &Issuer) -> FakeSource {
    spiffe_with(WorkloadApi::new(), &json!({}))
}

/// All scenarios.
pub(crate) const ALL: &[SourceScenario] = &[
    SourceScenario {
        name: "a_managed_identity_of_another_tenant_gets_the_workloads_token",
        source: imds,
        run: gets_a_token,
    },
    SourceScenario {
        name: "a_managed_identity_of_an_app_service_gets_the_workloads_token",
        source: app_service,
        run: gets_a_token,
    },
    SourceScenario {
        name: "imds_that_is_being_updated_is_asked_again",
        source: imds,
        run: |host, source| {
            source.fail([Fault::status(404), Fault::status(410)]);
            seen_token(&get(host, LISTED_HOST, "/"));
            assert_eq!(source.stats().requests, 3);
        },
    },
    SourceScenario {
        name: "a_managed_identity_that_the_machine_does_not_have_is_reported",
        source: |_| imds_of("dddddddd-0000-4000-8000-000000000005"),
        run: |host, source| {
            let found = problem(&get(host, LISTED_HOST, "/"), 503, "source_refused");
            assert!(found["detail"].as_str().unwrap().contains("Identity not found"), "{found}");
            assert_eq!(source.stats().requests, 1);
        },
    },
    SourceScenario {
        name: "a_token_of_a_managed_identity_for_another_resource_is_rejected",
        source: imds,
        run: |host, source| {
            fails_with(host, source, Fault::audiences(&["https://vault.azure.net"]), "assertion_unexpected");
        },
    },
    SourceScenario { name: "a_role_of_aws_gets_the_workloads_token", source: aws, run: gets_a_token },
    SourceScenario {
        name: "aws_sts_is_asked_again_before_envoy_has_credentials_and_when_it_throttles",
        source: aws,
        run: |host, source| {
            source.fail([Fault::Respond(AwsSts::unsigned()), Fault::Respond(AwsSts::throttled())]);
            seen_token(&get(host, LISTED_HOST, "/"));
            assert_eq!(source.stats().requests, 3);
        },
    },
    SourceScenario {
        name: "missing_credentials_of_aws_are_reported",
        source: aws,
        run: |host, source| {
            let found = fails_with(host, source, Fault::Respond(AwsSts::unsigned()), "source_not_ready");
            assert!(found["detail"].as_str().unwrap().contains("MissingAuthenticationToken"), "{found}");
        },
    },
    SourceScenario {
        name: "a_region_that_is_not_that_of_sts_is_reported",
        source: |_| {
            let assertion = json!({"source": "aws_sts", "region": "eu-central-1"});
            FakeSource::new(AwsSts::behind_a_signer("us-east-1"), [], assertion)
        },
        run: |host, _| {
            let found = problem(&get(host, LISTED_HOST, "/"), 503, "source_refused");
            assert!(found["detail"].as_str().unwrap().contains("InvalidClientTokenId"), "{found}");
        },
    },
    SourceScenario {
        name: "a_torn_answer_of_aws_is_reported",
        source: aws,
        run: |host, source| {
            fails_with(host, source, Fault::Deliver(Delivery::Torn), "source_reply_invalid");
        },
    },
    SourceScenario { name: "a_spiffe_identity_gets_the_workloads_token", source: spiffe, run: gets_a_token },
    SourceScenario {
        name: "one_of_several_spiffe_identities_is_chosen_by_its_id",
        source: |_| spiffe_with(WorkloadApi::new().with_audit_identity(), &json!({"spiffe_id": WorkloadApi::ID})),
        run: gets_a_token,
    },
    SourceScenario {
        name: "one_of_several_spiffe_identities_is_chosen_by_its_hint",
        source: |_| spiffe_with(WorkloadApi::new().with_audit_identity(), &json!({"hint": "audit"})),
        run: |host, _| {
            // Entra does not know this identity.
            let found = problem(&get(host, LISTED_HOST, "/"), 502, "entra_refused");
            assert!(found["detail"].as_str().unwrap().contains(WorkloadApi::AUDIT_ID), "{found}");
        },
    },
    SourceScenario {
        name: "a_hint_that_no_spiffe_identity_has_is_reported",
        source: |_| spiffe_with(WorkloadApi::new().with_audit_identity(), &json!({"hint": "payments"})),
        run: |host, _| {
            let found = problem(&get(host, LISTED_HOST, "/"), 503, "source_reply_invalid");
            assert!(found["detail"].as_str().unwrap().contains("audit"), "{found}");
        },
    },
    SourceScenario {
        name: "a_spiffe_identity_that_is_registered_late_and_an_agent_that_restarts_are_waited_for",
        source: spiffe,
        run: |host, source| {
            source.fail([Fault::Respond(WorkloadApi::no_identity()), Fault::Respond(WorkloadApi::unavailable())]);
            seen_token(&get(host, LISTED_HOST, "/"));
            assert_eq!(source.stats().requests, 3);
        },
    },
    SourceScenario {
        name: "a_workload_without_a_spiffe_identity_is_reported",
        source: spiffe,
        run: |host, source| {
            let found = fails_with(host, source, Fault::Respond(WorkloadApi::no_identity()), "source_not_ready");
            assert!(found["detail"].as_str().unwrap().contains("gRPC status 7"), "{found}");
        },
    },
    SourceScenario {
        name: "a_spiffe_id_of_another_workload_is_reported",
        source: |_| spiffe_with(WorkloadApi::new(), &json!({"spiffe_id": "spiffe://example.org/other", "attempts": 1})),
        run: |host, _| {
            problem(&get(host, LISTED_HOST, "/"), 503, "source_not_ready");
        },
    },
    SourceScenario {
        name: "the_default_algorithm_of_spire_is_reported_with_the_setting_that_changes_it",
        source: spiffe,
        run: |host, source| {
            let fault = Fault::Token(TokenFault::Algorithm(OtherAlgorithm::Es256));
            let found = fails_with(host, source, fault, "assertion_invalid");
            assert!(found["remedy"].as_str().unwrap().contains("jwt_key_type"), "{found}");
        },
    },
    SourceScenario {
        name: "the_missing_issuer_of_spire_is_reported_with_the_setting_that_sets_it",
        source: spiffe,
        run: |host, source| {
            let found = fails_with(host, source, Fault::Token(TokenFault::Without("iss")), "assertion_invalid");
            assert!(found["remedy"].as_str().unwrap().contains("jwt_issuer"), "{found}");
        },
    },
    SourceScenario {
        name: "a_torn_answer_of_a_spiffe_agent_is_reported",
        source: spiffe,
        run: |host, source| {
            fails_with(host, source, Fault::Deliver(Delivery::Torn), "source_reply_invalid");
        },
    },
];
