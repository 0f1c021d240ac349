use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fake_entra::Issuer;
use fake_http::Request;
use fake_sources::{Client, ClientAuth, GrantType, Source, TokenEndpoint};
use serde_json::{Value, json};

use crate::{exchange, is_strict, json as body, now, set};

const FORM: &str = "application/x-www-form-urlencoded";
const ID: &str = "payments:eu west";
const SECRET: &str = "s+cret: %/&=é";
const FORM_ENCODED: &str = "payments%3Aeu+west:s%2Bcret%3A+%25%2F%26%3D%C3%A9";
const STS: &str = "https://sts.example/realms/workloads";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

fn client(auth: ClientAuth) -> Client {
    Client { id: ID.to_owned(), auth }
}

fn basic_client() -> Client {
    client(ClientAuth::SecretBasic(SECRET.to_owned()))
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(credentials))
}

fn encode(parameters: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

fn post(endpoint: &TokenEndpoint, parameters: &[(&str, &str)]) -> Request {
    Request::new("POST", endpoint.target()).with_body(FORM, encode(parameters))
}

fn cluster() -> Issuer {
    Issuer::new("https://issuer.example/cluster")
}

fn cluster_token(audience: &str) -> String {
    cluster().service_account_token("payments", "payments", audience, now(), Duration::from_secs(600))
}

#[test]
fn a_basic_secret_must_be_form_encoded_and_the_form_must_be_complete() {
    let endpoint = TokenEndpoint::new(GrantType::ClientCredentials, basic_client());
    let valid = post(&endpoint, &[("grant_type", "client_credentials"), ("scope", "federation")]);
    is_strict(
        &endpoint,
        &valid.with_header("authorization", &basic(FORM_ENCODED)),
        &[
            ("another client", 401, "client id is wrong", &|request| {
                set(request, "authorization", &basic("orders:s%2Bcret%3A+%25%2F%26%3D%C3%A9"));
            }),
            ("a raw secret", 401, "not form-encoded", &|request| {
                set(request, "authorization", &basic(&format!("payments%3Aeu+west:{SECRET}")));
            }),
            ("a wrong secret", 401, "secret is wrong", &|request| {
                set(request, "authorization", &basic("payments%3Aeu+west:x"));
            }),
            ("no secret", 401, "missing", &|request| set(request, "authorization", "")),
            ("two methods", 401, "more than one method", &|request| request.body.extend(b"&client_secret=x")),
            ("another id", 401, "client_id is unknown", &|request| request.body.extend(b"&client_id=x")),
            ("a parameter twice", 400, "scope occurs twice", &|request| request.body.extend(b"&scope=x")),
            ("no grant type", 400, "grant_type is missing", &|request| request.body.clear()),
            ("another grant type", 400, "does not accept", &|request| request.body = b"grant_type=password".to_vec()),
            ("another audience", 400, "audience is unknown", &|request| request.body.extend(b"&audience=x")),
            ("JSON", 400, "not application/x-www-form-urlencoded", &|request| {
                set(request, "content-type", "application/json")
            }),
            ("a GET", 405, "not POST", &|request| request.method = "GET".to_owned()),
            ("another path", 404, "path", &|request| request.target = "/token".to_owned()),
        ],
    );
}

#[test]
fn a_secret_in_the_form_is_accepted_only_if_the_client_is_registered_so() {
    let parameters = [("grant_type", "client_credentials"), ("client_id", ID), ("client_secret", SECRET)];
    let endpoint = TokenEndpoint::new(GrantType::ClientCredentials, client(ClientAuth::SecretPost(SECRET.to_owned())));
    let response = endpoint.respond(&post(&endpoint, &parameters), now());
    assert_eq!(response.status, 200);
    assert_eq!(exchange(&endpoint, body(&response)["access_token"].as_str().expect("a token"), now()), "issued");

    let endpoint = TokenEndpoint::new(GrantType::ClientCredentials, basic_client());
    let response = endpoint.respond(&post(&endpoint, &parameters), now());
    assert_eq!((response.status, &body(&response)["error"]), (401, &json!("invalid_client")));
    assert!(response.headers.iter().any(|(name, _)| name == "www-authenticate"));
}

#[test]
fn a_token_of_another_issuer_authenticates_a_client() {
    let auth =
        ClientAuth::Assertion { issuer: cluster(), subject: "system:serviceaccount:payments:payments".to_owned() };
    let endpoint = TokenEndpoint::new(GrantType::ClientCredentials, client(auth));
    let status = |assertion: &str, kind: &str| {
        let parameters =
            [("grant_type", "client_credentials"), ("client_assertion_type", kind), ("client_assertion", assertion)];
        endpoint.respond(&post(&endpoint, &parameters), now()).status
    };
    assert_eq!(status(&cluster_token(STS), JWT_BEARER), 200);
    assert_eq!(status(&cluster_token("api://AzureADTokenExchange"), JWT_BEARER), 401);
    assert_eq!(status(&cluster_token(STS), "urn:x"), 401);
    assert_eq!(status("a.b.c", JWT_BEARER), 401);
    let expired = cluster().service_account_token(
        "payments",
        "payments",
        STS,
        now() - Duration::from_secs(7200),
        Duration::from_secs(60),
    );
    assert_eq!(status(&expired, JWT_BEARER), 401);
}

#[test]
fn a_token_exchange_demands_a_valid_subject_token_and_its_type() {
    let endpoint = TokenEndpoint::new(GrantType::TokenExchange(cluster()), basic_client()).with_token_type_n_a();
    let token = cluster_token("sts");
    let attempt = |changes: &[(&str, &str)]| {
        let mut parameters = vec![
            ("grant_type", TOKEN_EXCHANGE),
            ("subject_token", token.as_str()),
            ("subject_token_type", ACCESS_TOKEN),
        ];
        for (name, value) in changes {
            parameters.retain(|(existing, _)| existing != name);
            parameters.push((name, value));
        }
        let request = post(&endpoint, &parameters).with_header("authorization", &basic(FORM_ENCODED));
        let response = endpoint.respond(&request, now());
        (response.status, body(&response))
    };
    let (status, issued) = attempt(&[("audience", "api://AzureADTokenExchange")]);
    assert_eq!(
        (status, &issued["token_type"], &issued["issued_token_type"]),
        (200, &json!("N_A"), &json!(ACCESS_TOKEN))
    );
    assert_eq!(exchange(&endpoint, issued["access_token"].as_str().expect("a token"), now()), "issued");

    let another = Issuer::with_new_key("https://issuer.example/cluster");
    let forged = another.service_account_token("payments", "payments", "sts", now(), Duration::from_secs(600));
    for (changes, error) in [
        (vec![("subject_token", forged.as_str())], "invalid_request"),
        (vec![("subject_token", "")], "invalid_request"),
        (vec![("subject_token_type", "urn:x")], "invalid_request"),
        (vec![("requested_token_type", "urn:x")], "invalid_request"),
        (vec![("actor_token", token.as_str())], "invalid_request"),
        (vec![("audience", "https://other.example")], "invalid_target"),
        (vec![("grant_type", "client_credentials")], "unsupported_grant_type"),
    ] {
        let (status, rejected) = attempt(&changes);
        assert_eq!((status, &rejected["error"]), (400, &json!(error)), "{changes:?}: {rejected}");
    }
}

#[test]
fn an_opaque_access_token_is_accompanied_by_an_id_token() {
    let endpoint = TokenEndpoint::new(GrantType::ClientCredentials, basic_client()).with_opaque_access_token();
    let request =
        post(&endpoint, &[("grant_type", "client_credentials")]).with_header("authorization", &basic(FORM_ENCODED));
    let issued: Value = body(&endpoint.respond(&request, now()));
    assert_eq!(fake_entra::claims(issued["access_token"].as_str().expect("a token")), None);
    assert_eq!(exchange(&endpoint, issued["id_token"].as_str().expect("a token"), now()), "issued");
}
