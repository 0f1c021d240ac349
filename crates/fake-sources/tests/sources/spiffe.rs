use std::collections::BTreeSet;

use fake_http::{Request, Response};
use fake_sources::{Source, WorkloadApi};

use crate::{exchange, now, set};

/// A request for the audience of the exchange, and for this SPIFFE ID if it is not empty.
fn request(id: &str) -> Request {
    let audience = "api://AzureADTokenExchange";
    let mut message = [&[0x0a, 0x1a], audience.as_bytes()].concat();
    if !id.is_empty() {
        message.extend([0x12, u8::try_from(id.len()).expect("short")]);
        message.extend(id.as_bytes());
    }
    let frame = [&[0, 0, 0, 0, u8::try_from(message.len()).expect("short")], message.as_slice()].concat();
    Request::new("POST", "/SpiffeWorkloadAPI/FetchJWTSVID")
        .with_header("te", "trailers")
        .with_header("workload.spiffe.io", "true")
        .with_body("application/grpc", frame)
}

fn status(response: &Response) -> Option<&str> {
    response.headers.iter().find(|(name, _)| name == "grpc-status").map(|(_, value)| value.as_str())
}

/// The tokens in an answer: what follows their tag and their length of two bytes.
fn tokens(response: &Response) -> Vec<String> {
    let text = String::from_utf8_lossy(&response.body);
    let start = |index: usize| text[index..].split(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)).next();
    text.match_indices("eyJ")
        .filter(|(index, _)| !text[..*index].ends_with('.'))
        .filter_map(|(index, _)| start(index))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_workload_without_the_header_an_audience_or_the_identity_is_refused_in_the_headers() {
    let api = WorkloadApi::new();
    for (change, code) in [
        (&|request: &mut Request| set(request, "workload.spiffe.io", "") as _, "3"),
        (&|request| request.body = vec![0, 0, 0, 0, 0], "3"),
        (&|request| *request = self::request("spiffe://example.org/other"), "7"),
        (&|request| request.target.push('X'), "12"),
        (&|request| request.body.push(0), "13"),
    ] as [(&dyn Fn(&mut Request), &str); 5]
    {
        let mut request = request("");
        change(&mut request);
        let response = api.respond(&request, now());
        assert_eq!((response.status, status(&response), response.body.len()), (200, Some(code), 0));
    }
    let mut json = request("");
    set(&mut json, "content-type", "application/json");
    assert_eq!(api.respond(&json, now()).status, 415);
}

#[test]
fn entra_accepts_the_token_of_the_chosen_identity() {
    let api = WorkloadApi::new().with_audit_identity();
    assert_eq!(tokens(&api.respond(&request(""), now())).len(), 2);
    let [token] = tokens(&api.respond(&request(WorkloadApi::ID), now())).try_into().expect("one token");
    let claims = fake_entra::claims(&token).expect("a JWT");
    let names: BTreeSet<_> = claims.as_object().expect("claims").keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["aud", "exp", "iat", "iss", "sub"]));
    assert_eq!(exchange(&api, &token, now()), "issued");
}
