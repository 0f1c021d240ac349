use fake_http::Request;
use fake_sources::{JsonService, Source};

use crate::{exchange, is_strict, json, now, set};

fn request(service: &JsonService) -> Request {
    Request::new("POST", service.target())
        .with_header("x-api-key", service.api_key())
        .with_body("application/json", r#"{"audience": "api://AzureADTokenExchange", "ttl_seconds": 60}"#)
}

#[test]
fn only_valid_json_with_the_api_key_is_accepted() {
    let service = JsonService::new();
    is_strict(
        &service,
        &request(&service),
        &[
            ("no key", 401, "API key", &|request| set(request, "x-api-key", "")),
            ("a form", 415, "application/json", &|request| {
                set(request, "content-type", "application/x-www-form-urlencoded")
            }),
            ("no JSON", 400, "not JSON", &|request| request.body = b"audience=x".to_vec()),
            ("no audience", 400, "audience is missing", &|request| request.body = b"{}".to_vec()),
            ("an audience of another type", 400, "not a string", &|request| {
                request.body = br#"{"audience": 7}"#.to_vec()
            }),
            ("a long life", 422, "ttl_seconds", &|request| {
                request.body = br#"{"audience": "x", "ttl_seconds": 901}"#.to_vec()
            }),
            ("a query", 404, "not POST /v2/tokens", &|request| request.target += "?audience=x"),
        ],
    );
}

#[test]
fn the_expiry_is_a_timestamp_and_entra_accepts_the_token() {
    let service = JsonService::new();
    let response = service.respond(&request(&service), now());
    let result = &json(&response)["result"];
    assert_eq!((response.status, &result["expires_at"]), (201, &"2027-01-15T08:01:00Z".into()));
    assert_eq!(exchange(&service, result["jwt"].as_str().expect("a token"), now()), "issued");
}
