//! The identity tokens that Vault issues, what Entra says of them, and whether the fake answers like the real one.

use std::fs;
use std::time::SystemTime;

use fake_entra::Directory;
use fake_sources::Source;
use serde_json::{Value, json};
use stack::source_cluster::{self, Caller};
use stack::vault::{DISALLOWED_ROLE, ISSUER, ROLE, Vault};
use stack::{AUDIENCE, Request};

use crate::filter::register;
use crate::real_server::Test;
use crate::workload;

pub(crate) const ALL: &[Test<Vault>] = &[
    ("entra_accepts_a_roles_token_by_the_published_keys", |vault| {
        let response = vault.read(&path(ROLE), &vault.login().unwrap()).unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        let data = &response.json()["data"];
        assert_eq!((&data["client_id"], &data["ttl"]), (&json!(AUDIENCE), &json!(3600)));
        let token = data["token"].as_str().unwrap();
        let claims = fake_entra::claims(token).unwrap();
        assert_eq!(
            (&claims["iss"], &claims["aud"], &claims["sub"]),
            (&json!(ISSUER), &json!(AUDIENCE), &json!(vault.entity()))
        );
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
        assert_eq!(exchanged(vault, token), 200);
    }),
    ("discovery_and_keys_are_readable_without_a_token", |vault| {
        let discovery = vault.read("identity/oidc/.well-known/openid-configuration", "").unwrap();
        assert_eq!((discovery.status, &discovery.json()["issuer"]), (200, &json!(ISSUER)));
        let keys = vault.read("identity/oidc/.well-known/keys", "").unwrap().json();
        assert!(keys["keys"].as_array().unwrap().iter().all(|key| key["alg"] == "RS256"), "{keys}");
    }),
    ("a_new_login_replaces_a_revoked_vault_token_for_the_same_subject", |vault| {
        let former = vault.login().unwrap();
        assert_eq!(vault.read(&path(ROLE), &former).unwrap().status, 200);
        vault.revoke(&former).unwrap();
        assert_eq!(vault.read(&path(ROLE), &former).unwrap().status, 403);
        let renewed = vault.read(&path(ROLE), &vault.login().unwrap()).unwrap().json();
        let claims = fake_entra::claims(renewed["data"]["token"].as_str().unwrap()).unwrap();
        assert_eq!(claims["sub"], vault.entity());
    }),
    ("a_token_without_an_entity_and_a_client_id_that_is_not_allowed_are_rejected", |vault| {
        for (role, token, reason) in [
            (ROLE, vault.root_token().to_owned(), "no entity associated with the request's token"),
            (DISALLOWED_ROLE, vault.login().unwrap(), "allowed"),
        ] {
            let response = vault.read(&path(role), &token).unwrap();
            assert_eq!(response.status, 400, "{}", response.text());
            assert!(response.json()["errors"][0].as_str().unwrap().contains(reason), "{}", response.text());
        }
    }),
    ("envoy_adds_the_vault_token_of_a_file_to_a_request_through_the_shipped_cluster", |vault| {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        fs::write(&token, vault.login().unwrap()).unwrap();
        let mut cluster = source_cluster::read("vault").unwrap();
        source_cluster::set_address(&mut cluster, vault.addr());
        source_cluster::remove_tls(&mut cluster);
        source_cluster::set_vault_token(&mut cluster, &token, &folder.path().join("secret.yaml")).unwrap();
        let caller = Caller::start(&stack::envoy::binary(), &cluster).unwrap();

        let response = caller.call(&Request::get("vault.example", &format!("/v1/{}", path(ROLE)))).unwrap();

        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(exchanged(vault, response.json()["data"]["token"].as_str().unwrap()), 200);
    }),
    ("the_fake_answers_like_the_real_one", |vault| {
        let fake = fake_sources::Vault::new();
        let (real_token, fake_token) = (vault.login().unwrap(), fake.token());
        for (method, path, real_token, fake_token) in [
            ("GET", path(ROLE), real_token.as_str(), fake_token.as_str()),
            ("GET", path(ROLE), "", ""),
            ("GET", path(ROLE), "x", "x"),
            ("GET", path("unknown"), &real_token, &fake_token),
            ("POST", path(ROLE), vault.root_token(), &fake_token),
            ("GET", "another/path".to_owned(), vault.root_token(), &fake_token),
        ] {
            let real = vault.send(method, &path, real_token).unwrap();
            let request = fake_http::Request::new(method, &format!("/v1/{path}"));
            let request =
                if fake_token.is_empty() { request } else { request.with_header("x-vault-token", fake_token) };
            let fake = fake.respond(&request, SystemTime::now());
            let fake_body: Value = serde_json::from_slice(&fake.body).unwrap();
            assert_eq!((fake.status, &fake_body["errors"]), (real.status, &real.json()["errors"]), "{method} {path}");
            assert_eq!(names(&fake_body["data"]), names(&real.json()["data"]), "{path}");
        }
    }),
];

fn path(role: &str) -> String {
    format!("identity/oidc/token/{role}")
}

fn names(object: &Value) -> Vec<&String> {
    object.as_object().into_iter().flat_map(|object| object.keys()).collect()
}

/// Presents a token to a fake Entra that knows Vault's keys, and returns the status.
fn exchanged(vault: &Vault, token: &str) -> u16 {
    let entra = Directory::new();
    register(&entra, vault);
    workload::exchanged(&entra, token)
}
