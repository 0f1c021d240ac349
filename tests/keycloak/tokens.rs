//! The tokens that Keycloak issues, and what Entra says of them.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fake_entra::{Credential, Directory};
use serde_json::{Value, json};
use stack::keycloak::{
    CLIENT, CLIENT_WITH_COLON, CLIENT_WITH_DEFAULTS, EXCHANGE_CLIENT, FEDERATED_CLIENT, FEDERATED_SUBJECT, ISSUER,
    Keycloak, SECRET, SUBJECT_CLIENT, TOKEN_PATH,
};
use stack::source_cluster::{self, Caller};
use stack::{AUDIENCE, CLIENT_ID, Request, Response, TENANT_ID};

use crate::real_server::Test;

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const CLIENT_CREDENTIALS: (&str, &str) = ("grant_type", "client_credentials");

pub(crate) const ALL: &[Test<Keycloak>] = &[
    ("the_issuer_is_an_https_url_and_its_keys_are_for_rs256", |keycloak| {
        let path = "/realms/workloads/.well-known/openid-configuration";
        let discovery = Request::get("keycloak.example", path).send(keycloak.addr()).unwrap().json();
        assert_eq!(discovery["issuer"], ISSUER);
        let jwks = keycloak.jwks().unwrap();
        assert!(jwks["keys"].as_array().unwrap().iter().any(|key| key["alg"] == "RS256" && key["use"] == "sig"));
    }),
    ("a_client_with_a_form_encoded_basic_secret_gets_a_token_that_entra_accepts", |keycloak| {
        for client in [CLIENT, CLIENT_WITH_COLON] {
            let response = post(keycloak, &[CLIENT_CREDENTIALS], Some(&basic(client)));
            let token = access_token(&response);
            let claims = fake_entra::claims(&token).unwrap();
            assert_eq!((&claims["iss"], &claims["aud"]), (&json!(ISSUER), &json!(AUDIENCE)), "{client}");
            assert_eq!((&claims["azp"], response.json()["token_type"].as_str()), (&json!(client), Some("Bearer")));
            assert_eq!(exchanged(keycloak, &token), "issued", "{client}");
        }
    }),
    ("a_request_through_the_shipped_cluster_gets_a_token", |keycloak| {
        let mut cluster = source_cluster::read("oidc").unwrap();
        source_cluster::set_address(&mut cluster, keycloak.addr());
        source_cluster::remove_tls(&mut cluster);
        let caller = Caller::start(&stack::envoy::binary(), &cluster).unwrap();
        let response = caller.call(&token_request(&[CLIENT_CREDENTIALS], Some(&basic(CLIENT_WITH_COLON)))).unwrap();
        assert_eq!(exchanged(keycloak, &access_token(&response)), "issued");
    }),
    ("a_basic_secret_that_is_not_form_encoded_is_rejected", |keycloak| {
        let raw = format!("Basic {}", BASE64_STANDARD.encode(format!("{CLIENT}:{SECRET}")));
        let response = post(keycloak, &[CLIENT_CREDENTIALS], Some(&raw));
        assert_eq!((response.status, response.json()["error"].as_str()), (400, Some("unauthorized_client")));
    }),
    ("a_wrong_secret_is_rejected", |keycloak| {
        let wrong = format!("Basic {}", BASE64_STANDARD.encode(format!("{CLIENT}:x")));
        let response = post(keycloak, &[CLIENT_CREDENTIALS], Some(&wrong));
        assert_eq!((response.status, response.json()["error"].as_str()), (401, Some("unauthorized_client")));
    }),
    ("a_secret_in_the_form_is_accepted", |keycloak| {
        let form = [CLIENT_CREDENTIALS, ("client_id", CLIENT_WITH_COLON), ("client_secret", SECRET)];
        let token = access_token(&post(keycloak, &form, None));
        assert_eq!(exchanged(keycloak, &token), "issued");
    }),
    ("the_default_settings_add_an_audience_and_entra_rejects_the_token", |keycloak| {
        let token = access_token(&post(keycloak, &[CLIENT_CREDENTIALS], Some(&basic(CLIENT_WITH_DEFAULTS))));
        assert_eq!(fake_entra::claims(&token).unwrap()["aud"], json!([AUDIENCE, "account"]));
        assert_eq!(exchanged(keycloak, &token), "AADSTS700212");
    }),
    ("a_token_is_exchanged_for_one_that_entra_accepts", |keycloak| {
        let subject = access_token(&post(keycloak, &[CLIENT_CREDENTIALS], Some(&basic(SUBJECT_CLIENT))));
        let response = exchange(keycloak, &subject, &[]);
        assert_eq!(response.json()["issued_token_type"], ACCESS_TOKEN);
        let (before, after) =
            (fake_entra::claims(&subject).unwrap(), fake_entra::claims(&access_token(&response)).unwrap());
        assert_eq!((&before["aud"], &after["aud"]), (&json!(EXCHANGE_CLIENT), &json!(AUDIENCE)));
        assert_eq!(before["sub"], after["sub"]);
        assert_eq!(exchanged(keycloak, &access_token(&response)), "issued");
    }),
    ("an_exchange_is_rejected_with_another_type_audience_or_subject_token", |keycloak| {
        let subject = access_token(&post(keycloak, &[CLIENT_CREDENTIALS], Some(&basic(SUBJECT_CLIENT))));
        let jwt = "urn:ietf:params:oauth:token-type:jwt";
        for (token, more, error) in [
            (subject.as_str(), ("requested_token_type", jwt), "invalid_request"),
            (subject.as_str(), ("audience", AUDIENCE), "invalid_client"),
            ("a.b.c", ("scope", ""), "invalid_request"),
        ] {
            let response = exchange(keycloak, token, &[more]);
            assert_eq!((response.status, response.json()["error"].as_str()), (400, Some(error)), "{more:?}");
        }
    }),
    ("a_clusters_token_authenticates_a_client_without_a_secret", |keycloak| {
        let response = federated(keycloak, ISSUER);
        let token = access_token(&response);
        assert_eq!(fake_entra::claims(&token).unwrap()["azp"], FEDERATED_CLIENT);
        assert_eq!(exchanged(keycloak, &token), "issued");
        let again = federated(keycloak, AUDIENCE);
        assert_eq!((again.status, again.json()["error"].as_str()), (400, Some("invalid_client")));
    }),
];

fn basic(client: &str) -> String {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", encode(client), encode(SECRET))))
}

fn post(keycloak: &Keycloak, form: &[(&str, &str)], authorization: Option<&str>) -> Response {
    token_request(form, authorization).send(keycloak.addr()).unwrap()
}

fn token_request(form: &[(&str, &str)], authorization: Option<&str>) -> Request {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request =
        Request::post("keycloak.example", TOKEN_PATH, body).header("content-type", "application/x-www-form-urlencoded");
    match authorization {
        Some(value) => request.header("authorization", value),
        None => request,
    }
}

fn exchange(keycloak: &Keycloak, subject_token: &str, more: &[(&str, &str)]) -> Response {
    let form = [("grant_type", TOKEN_EXCHANGE), ("subject_token", subject_token), ("subject_token_type", ACCESS_TOKEN)];
    post(keycloak, &[&form, more].concat(), Some(&basic(EXCHANGE_CLIENT)))
}

/// Asks for a token with a cluster's token for this audience.
fn federated(keycloak: &Keycloak, audience: &str) -> Response {
    let assertion = cluster_token(keycloak, audience);
    assert_eq!(fake_entra::claims(&assertion).unwrap()["sub"], FEDERATED_SUBJECT);
    let form = [
        CLIENT_CREDENTIALS,
        ("client_id", FEDERATED_CLIENT),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", &assertion),
    ];
    post(keycloak, &form, None)
}

/// A token of the cluster for this audience.
pub(crate) fn cluster_token(keycloak: &Keycloak, audience: &str) -> String {
    let hour = Duration::from_secs(3600);
    keycloak.cluster().service_account_token("payments", "payments", audience, SystemTime::now(), hour)
}

/// The `sub` of the tokens of a client with a secret.
pub(crate) fn subject_of(keycloak: &Keycloak, client: &str) -> String {
    subject(&access_token(&post(keycloak, &[CLIENT_CREDENTIALS], Some(&basic(client)))))
}

/// The `sub` of the tokens of [`FEDERATED_CLIENT`].
pub(crate) fn subject_of_federated(keycloak: &Keycloak) -> String {
    subject(&access_token(&federated(keycloak, ISSUER)))
}

fn subject(token: &str) -> String {
    fake_entra::claims(token).unwrap()["sub"].as_str().unwrap().to_owned()
}

fn access_token(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["access_token"].as_str().expect("a token").to_owned()
}

/// Presents a token to a fake Entra that knows Keycloak's keys; the result is `AADSTS…`, or `issued`.
fn exchanged(keycloak: &Keycloak, token: &str) -> String {
    let credential = Credential { issuer: ISSUER.to_owned(), subject: subject(token), ..stack::credential(CLIENT_ID) };
    entra_result(&keycloak.jwks().unwrap(), credential, token)
}

fn entra_result(jwks: &Value, credential: Credential, token: &str) -> String {
    let entra = Directory::new();
    entra.trust_issuer(&credential.issuer, jwks.clone());
    entra.register_resource("https://vault.azure.net");
    entra.register_credential(credential).unwrap();
    let form = format!(
        "grant_type=client_credentials&client_id={CLIENT_ID}&scope=https://vault.azure.net/.default\
         &client_assertion_type={JWT_BEARER}&client_assertion={token}"
    );
    let response = entra.token(TENANT_ID, form.as_bytes(), SystemTime::now());
    match response.status {
        200 => "issued".to_owned(),
        _ => {
            let body: Value = serde_json::from_slice(&response.body).unwrap();
            format!("AADSTS{}", body["error_codes"][0])
        }
    }
}
