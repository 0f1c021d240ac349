use std::time::Duration;

use fake_entra::OtherAlgorithm;
use fake_http::{Disconnect, Request, Response};
use fake_sources::{Delivery, Fault, GitHub, Google, Source, TokenFault};
use serde_json::{Value, json};

use crate::{AUDIENCE_PARAMETER, exchange, json as body, now};

fn respond(github: &GitHub) -> Response {
    let target = format!("{}&{AUDIENCE_PARAMETER}", github.target());
    let request = Request::new("GET", &target).with_header("authorization", &format!("Bearer {}", github.bearer()));
    github.respond(&request, now())
}

fn with_fault(fault: Fault) -> (GitHub, Response) {
    let github = GitHub::new();
    github.add_faults([fault]);
    let response = respond(&github);
    assert_eq!(respond(&github).status, 200, "the fault affects one response");
    (github, response)
}

/// Entra's result for a token with this fault.
fn exchanged(fault: TokenFault) -> String {
    let (github, response) = with_fault(Fault::Token(fault));
    exchange(&github, body(&response)["value"].as_str().expect("a token"), now())
}

#[test]
fn entra_rejects_every_wrong_token() {
    let claim = |name, value: Value| TokenFault::Claim(name, value);
    for (fault, code) in [
        (TokenFault::Expired(60), "AADSTS700024"),
        (TokenFault::NotYetValid(60), "AADSTS700024"),
        (TokenFault::Algorithm(OtherAlgorithm::Es256), "AADSTS5002730"),
        (TokenFault::Algorithm(OtherAlgorithm::Rs512), "AADSTS5002730"),
        (TokenFault::Algorithm(OtherAlgorithm::Hs256), "AADSTS5002730"),
        (TokenFault::Algorithm(OtherAlgorithm::None), "AADSTS5002730"),
        (claim("aud", json!(["api://AzureADTokenExchange", "account"])), "AADSTS700212"),
        (claim("aud", json!("https://github.com/contoso")), "AADSTS700212"),
        // Only Entra's own tokens name the audience so.
        (claim("aud", json!("fb60f99c-7a34-4190-8149-302f77469936")), "AADSTS700212"),
        (claim("sub", json!("repo:contoso/payments:pull_request")), "AADSTS700213"),
        (claim("iss", json!("https://token.actions.githubusercontent.com/contoso")), "AADSTS700211"),
        (claim("iss", json!("https://login.microsoftonline.com/x/v2.0")), "AADSTS700222"),
        (TokenFault::Without("sub"), "AADSTS50027"),
        (TokenFault::Without("exp"), "AADSTS50027"),
        (TokenFault::Torn, "AADSTS50027"),
        (TokenFault::Replaced(json!("gho_opaque")), "AADSTS50027"),
    ] {
        assert_eq!(exchanged(fault.clone()), code, "{fault:?}");
    }
}

#[test]
fn entra_accepts_a_short_lived_or_large_token() {
    assert_eq!(exchanged(TokenFault::Lifetime(1)), "issued");
    assert_eq!(exchanged(TokenFault::Padding(20_000)), "issued");
}

#[test]
fn a_wrong_type_replaces_the_token_in_json_and_in_text() {
    for wrong in [json!(7), json!(null), json!({"jwt": "x"}), json!(["x"])] {
        let (_, response) = with_fault(Fault::Token(TokenFault::Replaced(wrong.clone())));
        assert_eq!(body(&response)["value"], wrong);
        let google = Google::new();
        google.add_faults([Fault::Token(TokenFault::Replaced(wrong.clone()))]);
        let request = Request::new("GET", &format!("{}?{AUDIENCE_PARAMETER}", google.target()));
        let response = google.respond(&request.with_header("metadata-flavor", "Google"), now());
        assert_eq!(String::from_utf8_lossy(&response.body), wrong.to_string());
    }
}

#[test]
fn the_delivery_is_late_incomplete_or_of_another_type() {
    let delivered = |delivery| with_fault(Fault::Deliver(delivery)).1;
    assert_eq!(delivered(Delivery::Delay(Duration::from_secs(12))).delay, Duration::from_secs(12));
    assert_eq!(delivered(Delivery::Reset).disconnect, Some(Disconnect::Reset));
    assert_eq!(delivered(Delivery::Truncate).disconnect, Some(Disconnect::Truncate));
    let torn = delivered(Delivery::Torn);
    assert!(serde_json::from_slice::<Value>(&torn.body).is_err() && torn.disconnect.is_none());
    let padded = delivered(Delivery::Padding(70_000));
    assert!(padded.body.len() > 70_000 && body(&padded)["value"].is_string());
    let html = delivered(Delivery::ContentType("text/html"));
    assert_eq!(html.headers.iter().filter(|(name, _)| name == "content-type").count(), 1);
}

#[test]
fn a_fixed_response_ignores_the_request() {
    assert_eq!(with_fault(Fault::status(500)).1.status, 500);
    let redirect = with_fault(Fault::redirect("https://elsewhere.example/")).1;
    assert!(redirect.headers.contains(&("location".to_owned(), "https://elsewhere.example/".to_owned())));
    let page = with_fault(Fault::html()).1;
    assert!(page.status == 200 && page.body.starts_with(b"<!DOCTYPE html>"));
    let throttled = with_fault(Fault::retry_after("7")).1;
    assert!(throttled.status == 429 && throttled.headers.contains(&("retry-after".to_owned(), "7".to_owned())));
}

#[test]
fn reset_removes_pending_faults_and_counters() {
    let github = GitHub::new();
    github.add_faults([Fault::status(500), Fault::status(500)]);
    respond(&github);
    assert_eq!(github.stats().requests, 1);
    github.reset();
    assert_eq!(respond(&github).status, 200);
    assert_eq!((github.stats().requests, github.stats().issued), (1, 1));
}
