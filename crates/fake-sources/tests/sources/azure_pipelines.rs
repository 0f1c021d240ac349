use fake_http::Request;
use fake_sources::{AzurePipelines, ConnectionIssuer, Source};

use crate::{TENANT, exchange, is_strict, json, now, set};

fn request(pipelines: &AzurePipelines) -> Request {
    let target = format!("{}?api-version=7.1&serviceConnectionId={}", pipelines.target(), pipelines.connection());
    Request::new("POST", &target)
        .with_header("authorization", &format!("Bearer {}", pipelines.bearer()))
        .with_header("x-tfs-fedauthredirect", "Suppress")
        .with_body("application/json", "")
}

#[test]
fn only_a_post_for_the_service_connection_without_sign_in_is_accepted() {
    let pipelines = AzurePipelines::new(ConnectionIssuer::AzureDevOps);
    is_strict(
        &pipelines,
        &request(&pipelines),
        &[
            ("a GET", 405, "does not support http method 'GET'", &|request| request.method = "GET".to_owned()),
            ("no version", 400, "api-version", &|request| {
                request.target = request.target.replace("api-version=7.1&", "")
            }),
            ("no connection", 400, "serviceConnectionId", &|request| {
                request.target = request.target.replace("&serviceConnectionId", "&id");
            }),
            ("another connection", 404, "does not exist", &|request| request.target += "0"),
            ("another path", 404, "the path is", &|request| request.target = request.target.replace("/jobs/", "/job/")),
            ("no header", 302, "X-TFS-FedAuthRedirect", &|request| set(request, "x-tfs-fedauthredirect", "")),
            ("a body", 415, "empty body", &|request| request.body = b"{}".to_vec()),
            ("no type", 415, "empty body", &|request| set(request, "content-type", "")),
        ],
    );
}

#[test]
fn a_wrong_bearer_token_gets_a_401_or_a_sign_in_page() {
    let pipelines = AzurePipelines::new(ConnectionIssuer::AzureDevOps);
    let mut request = request(&pipelines);
    set(&mut request, "authorization", "Bearer x");
    assert_eq!(pipelines.respond(&request, now()).status, 401);
    set(&mut request, "x-tfs-fedauthredirect", "");
    let page = pipelines.respond(&request, now());
    assert_eq!(page.status, 302);
    assert!(page.headers.iter().any(|(name, value)| name == "content-type" && value.starts_with("text/html")));
    assert!(String::from_utf8_lossy(&page.body).contains("Sign in"));
}

#[test]
fn a_rejection_has_a_message() {
    let pipelines = AzurePipelines::new(ConnectionIssuer::AzureDevOps);
    let mut request = request(&pipelines);
    request.method = "GET".to_owned();
    let body = json(&pipelines.respond(&request, now()));
    assert_eq!(body["Message"], "The requested resource does not support http method 'GET'.");
}

#[test]
fn entra_accepts_the_tokens_of_both_issuers() {
    for issuer in [ConnectionIssuer::AzureDevOps, ConnectionIssuer::Entra(TENANT.to_owned())] {
        let pipelines = AzurePipelines::new(issuer.clone());
        let body = json(&pipelines.respond(&request(&pipelines), now()));
        let token = body["oidcToken"].as_str().expect("a token");
        let audience = fake_entra::claims(token).expect("a JWT")["aud"].clone();
        match issuer {
            ConnectionIssuer::Entra(_) => assert_eq!(audience, "fb60f99c-7a34-4190-8149-302f77469936"),
            ConnectionIssuer::AzureDevOps => assert_eq!(audience, "api://AzureADTokenExchange"),
        }
        assert_eq!(exchange(&pipelines, token, now()), "issued", "{issuer:?}");
    }
}
