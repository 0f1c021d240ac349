use fake_http::Request;
use fake_sources::{ManagedIdentity, Source};

use crate::{exchange, is_strict, json, now, set};

/// The identity's tenant, which is not that of the resource.
const HOME: &str = "5f0c6d1e-3b2a-4d8f-9e70-1a2b3c4d5e6f";

fn request(endpoint: &ManagedIdentity, version: &str) -> Request {
    let (path, client) = (endpoint.target(), ManagedIdentity::CLIENT_ID);
    let target = format!("{path}?api-version={version}&resource=api%3A%2F%2FAzureADTokenExchange&client_id={client}");
    Request::new("GET", &target)
}

fn imds() -> (ManagedIdentity, Request) {
    let imds = ManagedIdentity::imds(HOME);
    let request = request(&imds, "2018-02-01").with_header("metadata", "true");
    (imds, request)
}

fn app_service() -> (ManagedIdentity, Request) {
    let endpoint = ManagedIdentity::app_service(HOME);
    let variables = endpoint.variables("localhost:8081");
    assert_eq!(variables[0], ("IDENTITY_ENDPOINT".to_owned(), "http://localhost:8081/msi/token".to_owned()));
    let request = request(&endpoint, "2019-08-01").with_header("x-identity-header", &variables[1].1);
    (endpoint, request)
}

#[test]
fn imds_accepts_only_a_direct_request_for_the_exchange_with_its_identity() {
    let (imds, valid) = imds();
    is_strict(
        &imds,
        &valid,
        &[
            ("no metadata header", 400, "Required metadata", &|request| set(request, "metadata", "")),
            ("a forwarded request", 400, "X-Forwarded-For", &|request| set(request, "x-forwarded-for", "10.0.0.1")),
            ("another path", 404, "the path is", &|request| request.target = request.target.replace("oauth2", "x")),
            ("a POST", 405, "not GET", &|request| request.method = "POST".to_owned()),
            ("a parameter twice", 400, "twice", &|request| request.target += "&resource=x"),
            ("another version", 400, "api-version", &|request| {
                request.target = request.target.replace("2018-02-01", "2019-08-01");
            }),
            ("another resource", 400, "AADSTS500011", &|request| request.target = request.target.replace("AD", "B")),
            ("no identity", 400, "Identity not found", &|request| {
                request.target = request.target.replace("client_id", "clientid");
            }),
        ],
    );
}

#[test]
fn app_service_accepts_only_a_request_with_its_secret() {
    let (endpoint, valid) = app_service();
    is_strict(
        &endpoint,
        &valid,
        &[
            ("no secret", 401, "X-IDENTITY-HEADER", &|request| set(request, "x-identity-header", "")),
            ("another identity", 400, "Identity not found", &|request| request.target += "0"),
        ],
    );
}

#[test]
fn entra_accepts_the_tokens_in_another_tenant_than_the_identitys() {
    for (endpoint, request) in [imds(), app_service()] {
        let response = json(&endpoint.respond(&request, now()));
        assert!(response["expires_on"].is_string() && response["token_type"] == "Bearer");
        let token = response["access_token"].as_str().expect("a token");
        let claims = fake_entra::claims(token).expect("a JWT");
        assert_eq!((&claims["aud"], &claims["oid"]), (&"fb60f99c-7a34-4190-8149-302f77469936".into(), &claims["sub"]));
        assert_eq!(exchange(&endpoint, token, now()), "issued");
    }
}
