//! A newcomer's way from a manifest of aad-pod-identity to an access token, with the command alone: `detect` writes the files, a real
//! Envoy runs them, and Entra knows nothing but the federated credentials that they contain.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use fake_entra::Credential;
use serde_json::Value;
use stack::sidecar::{self, Substitutes};
use stack::{ISSUER_URL, Options, Request, Stack, TENANT_ID, document};

const RESOURCE: &str = "https://vault.azure.net";

/// The documents of a file that `detect` wrote. The paths of `document::read` are below the repository's root, unless they are absolute.
fn documents(file: &Path) -> Vec<Value> {
    document::read(file.to_str().unwrap()).unwrap()
}

/// Runs `detect` on the manifest, as docs/migrate.md says.
fn detect(manifest: &str, folder: &Path) {
    let written = Command::new(env!("CARGO_BIN_EXE_entra-exchange"))
        .args(["detect", manifest, "--issuer", ISSUER_URL, "--tenant-id", TENANT_ID, "--write"])
        .arg(folder)
        .current_dir(stack::root())
        .output()
        .unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
}

/// Puts the addresses and files of the stack into the Envoy of the migration, in the places that it has.
fn adapt(migrated: &mut Value, stacks: &mut Value) {
    let (address, file) = ("127.0.0.1:1".parse().unwrap(), Path::new("/"));
    let places = sidecar::substitutions(&Substitutes {
        entra: address,
        entra_ca: file,
        upstream: address,
        upstream_ca: file,
        instance_metadata: address,
        token_file: file,
        watched: file,
        module: file,
        configuration: None,
    });
    for (place, _) in places {
        if document::at_mut(migrated, &place).is_ok() {
            let value = document::at_mut(stacks, &place).unwrap().clone();
            document::set(migrated, &place, value).unwrap();
        }
    }
}

fn token_request(client: &str) -> Request {
    let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={RESOURCE}&client_id={client}");
    Request::get("169.254.169.254", &path).header("metadata", "true")
}

#[test]
fn a_workload_with_aad_pod_identity_gets_its_token_with_the_files_of_detect() {
    let folder = tempfile::tempdir().unwrap();
    detect("examples/migrate-from-pod-identity/before-pod-identity.yaml", folder.path());
    let own = folder.path().join("payments-orders");

    // What the administrator of Entra runs.
    let list: Value =
        serde_json::from_str(&std::fs::read_to_string(own.join("federated-credentials.json")).unwrap()).unwrap();
    let [credential] = list.as_array().unwrap().as_slice() else { panic!("{list}") };
    let text = |name: &str| credential[name].as_str().unwrap().to_owned();

    // What the administrator of the cluster applies: the kubelet makes a token for the pod's account and the volume's audience.
    let patch = documents(&own.join("patch.yaml")).remove(0);
    let pod = &patch["spec"]["template"]["spec"];
    let account = pod["serviceAccountName"].as_str().unwrap();
    let projected = pod["volumes"].as_array().unwrap().iter().find(|volume| !volume["projected"].is_null()).unwrap();
    let audience = projected["projected"]["sources"][0]["serviceAccountToken"]["audience"].as_str().unwrap();
    let objects = documents(&own.join("objects.yaml"));
    assert_eq!((&objects[0]["kind"], &objects[0]["metadata"]["name"]), (&"ServiceAccount".into(), &account.into()));
    assert_eq!(pod["initContainers"][0]["volumeMounts"][0]["name"], pod["volumes"][0]["name"]);
    assert_eq!(pod["volumes"][0]["configMap"]["name"], objects[1]["metadata"]["name"]);
    let envoy = folder.path().join("envoy.yaml");
    std::fs::write(&envoy, objects[1]["data"]["envoy.yaml"].as_str().unwrap()).unwrap();
    let mut migrated = documents(&envoy).remove(0);

    let options = Options {
        // Every variable that the patch sets, and no other.
        environment: Vec::new(),
        edit: Some(Box::new(move |bootstrap| {
            adapt(&mut migrated, bootstrap);
            *bootstrap = migrated;
        })),
        ..Options::default()
    };
    assert!(pod["initContainers"][0]["env"].is_null(), "{pod}");
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{error}"));
    let registered = Credential {
        tenant_id: TENANT_ID.to_owned(),
        client_id: text("client_id"),
        issuer: text("issuer"),
        subject: text("subject"),
        audience: text("audience"),
    };
    stack.directory().register_credential(registered).unwrap();
    let life = stack::TOKEN_LIFETIME;
    let projected = stack.issuer.service_account_token("payments", account, audience, SystemTime::now(), life);
    stack.rotate_token_with(&projected).unwrap();

    let request = token_request(&text("client_id"));
    let mut answer = stack.send_imds(&request).unwrap();
    // Envoy notices a renewed token after a moment, and until then Entra rejects the first one.
    let is_accepted = stack::eventually(Duration::from_secs(20), || {
        answer = stack.send_imds(&request).unwrap();
        answer.status == 200
    });
    assert!(is_accepted, "{}\n{}", answer.text(), stack.log());
    let answer = answer.json();
    assert_eq!(answer["client_id"], credential["client_id"]);
    assert!(stack.directory().issued(answer["access_token"].as_str().unwrap(), SystemTime::now()));
    assert_eq!(stack.forbidden_log_lines(), Vec::<String>::new());

    // Another identity is refused.
    let other = token_request("cccccccc-0000-4000-8000-000000000003");
    assert_eq!(stack.send_imds(&other).unwrap().status, 400);
}
