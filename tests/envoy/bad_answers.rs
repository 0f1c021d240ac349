//! Every kind of bad answer of a source, through a real Envoy: what the client is told, and what the log does not show.

use std::fs;

use fake_http::Response;
use fake_sources::{Delivery, Fault, JsonService, Server, Source, TokenFault};
use serde_json::{Value, json};
use stack::source_cluster::{self, set_address, set_ca, set_name};
use stack::{AUDIENCE, CLIENT_ID, LISTED_HOST, Request, Stack, TENANT_ID};

use crate::scenarios::{problem, seen_token};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] =
    &[("each_bad_answer_of_a_source_is_reported_with_its_cause_and_remedy", bad_answers)];

/// The faults, each with the code and a part of the detail of its problem.
fn cases() -> Vec<(Fault, &'static str, &'static str)> {
    let token = Fault::Token;
    let deliver = Fault::Deliver;
    let nested = Fault::Respond(Response::of_type("application/json", 200, "[".repeat(10_000)));
    vec![
        (token(TokenFault::Replaced(json!(5))), "source_reply_invalid", "has no string at"),
        (token(TokenFault::Replaced(json!("0paque"))), "assertion_malformed", "is not a JWT"),
        (deliver(Delivery::Padding(65 * 1024)), "source_reply_invalid", "more than 65536"),
        (token(TokenFault::Padding(20 * 1024)), "assertion_malformed", "more than 16384"),
        (deliver(Delivery::Torn), "source_reply_invalid", "is not valid JSON, or is incomplete"),
        (nested, "source_reply_invalid", "is not valid JSON, or is incomplete"),
        (token(TokenFault::Torn), "assertion_malformed", "is not a JWT"),
        (Fault::html(), "source_reply_invalid", "is an HTML page"),
        (Fault::redirect("https://other.example/"), "source_reply_invalid", "answered 302, a redirect"),
        (token(TokenFault::Expired(60)), "assertion_expired", "expired on"),
        (token(TokenFault::NotYetValid(3600)), "assertion_not_yet_valid", "is not valid before"),
        (token(TokenFault::Algorithm(fake_entra::OtherAlgorithm::Es256)), "assertion_invalid", "is signed with ES256"),
        (Fault::audiences(&[AUDIENCE, "account"]), "assertion_invalid", "has 2 audiences"),
        (Fault::audiences(&["account"]), "assertion_unexpected", "the expected audience is"),
        (Fault::no_response(), "assertion_unavailable", "did not answer within 1 s"),
        (deliver(Delivery::Reset), "assertion_unavailable", "could not be reached"),
        (deliver(Delivery::Truncate), "assertion_unavailable", "could not be reached"),
        (Fault::status(503), "assertion_unavailable", "answered 503"),
        (Fault::retry_after("120"), "assertion_unavailable", "answered 429"),
        (Fault::status(401), "source_refused", "refused with 401"),
    ]
}

fn bad_answers() {
    let service = JsonService::new();
    let server = Server::start_tls(&service, &["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, server.ca_pem().unwrap()).unwrap();
    let mut cluster = source_cluster::read("oidc").unwrap();
    set_name(&mut cluster, "localhost").unwrap();
    set_ca(&mut cluster, &ca);
    set_address(&mut cluster, server.addr());
    let cases = cases();
    let variables = [("API_KEY".to_owned(), service.api_key().to_owned())];
    let configuration = configuration(&service, cases.len());
    let mut options = source_cluster::options(cluster, &variables, &configuration["assertions"]);
    options.configuration = Some(configuration.to_string());
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    service.register(&stack.directory(), TENANT_ID, CLIENT_ID).unwrap();

    for (index, (fault, code, cause)) in cases.into_iter().enumerate() {
        service.add_faults([fault.clone()]);
        let answer = stack.send(&Request::get(&format!("case-{index}.example"), "/")).unwrap();
        let found = problem(&answer, 503, code);
        assert!(found["detail"].as_str().unwrap().contains(cause), "{fault:?}: {found}");
    }

    let stats = service.stats();
    assert_eq!((stats.requests, stack.directory().stats().token_requests), (20, 0));
    assert_eq!(seen_token(&stack.send(&Request::get(LISTED_HOST, "/")).unwrap())["appid"], CLIENT_ID);
    assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());
    assert!(!stack.log().contains(service.api_key()), "the API key is in the log");
}

/// A source, an identity and a destination for each case, so that no back-off is in the way of the next; and one for the listed host.
fn configuration(service: &JsonService, cases: usize) -> Value {
    let request = json!({
        "path": service.target(), "headers_from_env": {"X-Api-Key": "API_KEY"}, "json": {"audience": AUDIENCE},
    });
    let source = |index: usize| {
        json!({
            "name": format!("source-{index}"), "source": "http", "cluster": "oidc", "request": request.clone(),
            "response": {"token": "/result/jwt", "expiry": {"time": "/result/expires_at"}}, "attempts": 1, "timeout": "1s",
            // Sources with the same configuration are one.
            "reuse": format!("{}s", 100 + index),
        })
    };
    let identity = |index: usize| json!({"name": format!("identity-{index}"), "assertion": format!("source-{index}")});
    let destination = |index: usize| {
        let host = if index < cases { format!("case-{index}.example") } else { LISTED_HOST.to_owned() };
        json!({
            "hosts": [host], "scope": "https://vault.azure.net/.default", "identity": format!("identity-{index}"),
            "plaintext": "allow",
        })
    };
    let all = 0..=cases;
    json!({
        "assertions": all.clone().map(source).collect::<Vec<_>>(),
        "identities": all.clone().map(identity).collect::<Vec<_>>(),
        "destinations": all.map(destination).collect::<Vec<_>>(),
    })
}
