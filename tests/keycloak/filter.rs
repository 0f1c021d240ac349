//! The filter in a real Envoy gets an access token with a token that Keycloak issued.

use fake_entra::Credential;
use serde_json::{Value, json};
use stack::example::{self, Example};
use stack::keycloak::{
    CLIENT_WITH_COLON, EXCHANGE_CLIENT, FEDERATED_CLIENT, ISSUER, Keycloak, SECRET, SUBJECT_CLIENT, TOKEN_PATH,
};
use stack::source_cluster;
use stack::{CLIENT_ID, LISTED_HOST, Request, Stack};

use crate::real_server::Test;
use crate::tokens::{cluster_token, subject_of, subject_of_federated};

const VARIABLE: &str = "OIDC_SECRET";

pub(crate) const ALL: &[Test<Keycloak>] = &[
    ("the_filter_gets_the_workloads_token_with_a_client_secret", |keycloak| {
        let assertions = json!([client("federated", CLIENT_WITH_COLON)]);
        gets_a_token(keycloak, &assertions, "unused", subject_of(keycloak, CLIENT_WITH_COLON));
    }),
    ("the_filter_gets_the_workloads_token_by_exchanging_another_token_of_keycloak", |keycloak| {
        let exchange = entry(&json!({
            "name": "federated", "source": "token_exchange", "subject_token": "subject", "basic_auth": basic_auth(EXCHANGE_CLIENT),
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }));
        let assertions = json!([exchange, client("subject", SUBJECT_CLIENT)]);
        gets_a_token(keycloak, &assertions, "unused", subject_of(keycloak, SUBJECT_CLIENT));
    }),
    ("the_filter_gets_the_workloads_token_with_a_projected_token_as_client_assertion", |keycloak| {
        let assertions = json!([entry(&json!({
            "name": "federated", "source": "oidc_client_credentials", "client_assertion": "projected_token",
            "form": {"client_id": FEDERATED_CLIENT},
        }))]);
        let projected = cluster_token(keycloak, ISSUER);
        gets_a_token(keycloak, &assertions, &projected, subject_of_federated(keycloak));
    }),
    ("the_envoy_of_the_example_gets_the_workloads_token", |keycloak| {
        let variables = [("KEYCLOAK_SECRET".to_owned(), SECRET.to_owned())];
        let example = Example::start("vm-keycloak", &variables, |bootstrap| {
            let cluster = example::source_cluster(bootstrap).unwrap();
            source_cluster::set_address(cluster, keycloak.addr());
            source_cluster::remove_tls(cluster);
        });
        let example = example.unwrap_or_else(|error| panic!("{error}"));
        let entra = example.directory();
        entra.trust_issuer(ISSUER, keycloak.jwks().unwrap());
        let subject = subject_of(keycloak, "payments");
        entra
            .register_credential(Credential { issuer: ISSUER.to_owned(), subject, ..stack::credential(CLIENT_ID) })
            .unwrap();

        let answer = example.send(&Request::get(LISTED_HOST, "/secrets/db")).unwrap();

        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), example.log());
    }),
];

/// An assertion with the fields that all have.
fn entry(fields: &Value) -> Value {
    let mut entry = json!({"cluster": "oidc", "authority": "keycloak.example", "path": TOKEN_PATH});
    entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    entry
}

fn client(name: &str, client: &str) -> Value {
    entry(&json!({"name": name, "source": "oidc_client_credentials", "basic_auth": basic_auth(client)}))
}

fn basic_auth(client: &str) -> Value {
    json!({"id": client, "secret_from_env": VARIABLE})
}

/// Sends two requests, which must get the workload's token with one exchange, by the federated credential of this subject.
/// Entra accepts no other token: `projected_token` is not from the issuer that it knows.
fn gets_a_token(keycloak: &Keycloak, assertions: &Value, projected_token: &str, subject: String) {
    let mut cluster = source_cluster::read("oidc").unwrap();
    assert_eq!(cluster["name"], "oidc");
    source_cluster::set_address(&mut cluster, keycloak.addr());
    source_cluster::remove_tls(&mut cluster);
    let variables = [(VARIABLE.to_owned(), SECRET.to_owned())];
    let mut options = source_cluster::options(cluster, &variables, assertions);
    options.token = Some(projected_token.to_owned());
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let entra = stack.directory();
    entra.trust_issuer(ISSUER, keycloak.jwks().unwrap());
    entra
        .register_credential(Credential { issuer: ISSUER.to_owned(), subject, ..stack::credential(CLIENT_ID) })
        .unwrap();

    for _ in 0..2 {
        let answer = stack.send(&Request::get(LISTED_HOST, "/")).unwrap();
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), stack.log());
        let authorization = answer.seen_header("authorization").expect("a token");
        let token = authorization.strip_prefix("Bearer ").expect("a bearer token");
        assert_eq!(fake_entra::claims(token).unwrap()["appid"], CLIENT_ID);
    }

    assert_eq!(entra.stats().token_requests, 1);
    assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());
}
