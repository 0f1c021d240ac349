//! The commands of the README with keys in the form that OpenSSL 3 writes (PKCS #8): Entra accepts the tokens, and during a rotation
//! those of both keys. The keys are made here, so that the test needs no OpenSSL.

// All of this is test code, but clippy recognizes only test functions as such.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use fake_entra::{Credential, Directory};
use jwt_simple::prelude::{ES256KeyPair, RS256KeyPair};
use serde_json::Value;

const ISSUER: &str = "https://issuer.example.com";
const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const CLIENT: &str = "aaaaaaaa-0000-4000-8000-000000000001";

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn issuer(arguments: &[&str], folder: &Path) {
    run(env!("CARGO_BIN_EXE_diy-issuer"), arguments, folder);
}

/// What Entra, which reads the documents of the site, says of a token: `issued`, or a code.
fn exchange(folder: &Path, token: &str) -> String {
    let read =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(folder.join("site").join(name)).unwrap()).unwrap() };
    let discovery = read(".well-known/openid-configuration");
    assert_eq!((&discovery["issuer"], &discovery["jwks_uri"]), (&ISSUER.into(), &format!("{ISSUER}/jwks.json").into()));
    let entra = Directory::new();
    entra.register_resource("https://vault.azure.net");
    entra.trust_issuer(ISSUER, read("jwks.json"));
    let credential = Credential {
        tenant_id: TENANT.to_owned(),
        client_id: CLIENT.to_owned(),
        issuer: ISSUER.to_owned(),
        subject: "vm-payments".to_owned(),
        audience: "api://AzureADTokenExchange".to_owned(),
    };
    entra.register_credential(credential).unwrap();
    let form = format!(
        "grant_type=client_credentials&client_id={CLIENT}&scope=https://vault.azure.net/.default&client_assertion_type=\
         urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion={token}"
    );
    let response = entra.token(TENANT, form.as_bytes(), SystemTime::now());
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    if response.status == 200 { "issued".to_owned() } else { format!("AADSTS{}", body["error_codes"][0]) }
}

#[test]
fn tokens_of_both_keys_are_accepted_during_a_rotation_and_those_of_the_old_one_not_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["keys", "site", "token"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let new_key = |name: &str| {
        let key = RS256KeyPair::generate(2048).unwrap().to_pem().unwrap();
        fs::write(folder.join(format!("keys/{name}.pem")), key).unwrap();
    };
    let publish = || issuer(&["publish", ISSUER, "keys", "site"], folder);
    let mint = |name: &str| {
        issuer(&["mint", ISSUER, &format!("keys/{name}.pem"), "vm-payments", "token/token"], folder);
        fs::read_to_string(folder.join("token/token")).unwrap()
    };
    new_key("2026-11");
    publish();
    let first = mint("2026-11");
    assert_eq!(exchange(folder, &first), "issued");

    // The new key is published before it is used.
    new_key("2027-05");
    publish();
    let second = mint("2027-05");
    assert_eq!([exchange(folder, &first), exchange(folder, &second)], ["issued", "issued"]);

    fs::remove_file(folder.join("keys/2026-11.pem")).unwrap();
    publish();
    assert_eq!(exchange(folder, &second), "issued");
    assert!(exchange(folder, &first).starts_with("AADSTS"));
    // Nothing but the token is left where Envoy reads it.
    assert_eq!(fs::read_dir(folder.join("token")).unwrap().count(), 1);
}

#[test]
fn a_key_that_is_not_rsa_and_a_folder_without_keys_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("keys")).unwrap();
    let refused = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diy-issuer"));
        let output = command.args(["publish", ISSUER, "keys", "site"]).current_dir(folder).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused().contains("no *.pem file"));
    fs::write(folder.join("keys/ec.pem"), ES256KeyPair::generate().to_pem().unwrap()).unwrap();
    assert!(refused().contains("ec.pem"));
}
