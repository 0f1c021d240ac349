//! The filter in a real Envoy gets an access token with a token that Vault issued: through the shipped cluster, and with the example's file.

use std::fs;

use fake_entra::{Credential, Directory};
use serde_json::json;
use stack::example::{self, Example};
use stack::source_cluster::{self, remove_tls, set_address, set_vault_token};
use stack::vault::{ISSUER, ROLE, Vault};
use stack::{CLIENT_ID, LISTED_HOST, Request, Stack};

use crate::real_server::Test;
use crate::workload::has_the_workloads_token;

pub(crate) const ALL: &[Test<Vault>] = &[
    ("the_filter_gets_the_workloads_token_with_vaults_identity_token", |vault| {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        fs::write(&token, vault.login().unwrap()).unwrap();
        let mut cluster = source_cluster::read("vault").unwrap();
        connect(&mut cluster, vault);
        set_vault_token(&mut cluster, &token, &folder.path().join("secret.yaml")).unwrap();
        let assertions = json!([{"name": "federated", "source": "vault", "cluster": cluster["name"], "role": ROLE}]);
        let stack = Stack::start(source_cluster::options(cluster, &[], &assertions)).unwrap();
        register(&stack.directory(), vault);

        for _ in 0..2 {
            has_the_workloads_token(&stack.send(&Request::get(LISTED_HOST, "/")).unwrap(), &stack.log());
        }

        assert_eq!(stack.directory().stats().token_requests, 1);
        assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());
        assert!(!stack.log().contains(&fs::read_to_string(token).unwrap()), "the Vault token is in the log");
    }),
    ("the_envoy_of_the_example_gets_the_workloads_token_after_a_revoked_vault_token_is_replaced", |vault| {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        let revoked = vault.login().unwrap();
        vault.revoke(&revoked).unwrap();
        fs::write(&token, revoked).unwrap();
        let example = Example::start("vm-vault", &[], |bootstrap| {
            let cluster = example::source_cluster(bootstrap).unwrap();
            connect(cluster, vault);
            set_vault_token(cluster, &token, &folder.path().join("secret.yaml")).unwrap();
        });
        let example = example.unwrap();
        register(&example.directory(), vault);
        let send = || example.send(&Request::get(LISTED_HOST, "/secrets/db")).unwrap();
        let answer = send();
        assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("source_not_ready")), "{}", answer.text());

        // As Vault Agent does.
        let renewed = folder.path().join("renewed");
        fs::write(&renewed, vault.login().unwrap()).unwrap();
        fs::rename(renewed, &token).unwrap();

        assert!(stack::eventually(std::time::Duration::from_secs(60), || send().status == 200), "{}", example.log());
        has_the_workloads_token(&send(), &example.log());
    }),
];

/// Connects the cluster to Vault, which has no TLS.
fn connect(cluster: &mut serde_json::Value, vault: &Vault) {
    set_address(cluster, vault.addr());
    remove_tls(cluster);
}

/// Makes Entra know Vault's keys and the workload's federated credential.
pub(crate) fn register(entra: &Directory, vault: &Vault) {
    entra.trust_issuer(ISSUER, vault.read("identity/oidc/.well-known/keys", "").unwrap().json());
    let credential =
        Credential { issuer: ISSUER.to_owned(), subject: vault.entity().to_owned(), ..stack::credential(CLIENT_ID) };
    entra.register_credential(credential).unwrap();
}
