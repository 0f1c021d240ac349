//! The ways to replace a federated token's file, each on the oldest Envoy that detects the change. The scenarios cover the kubelet's way.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use stack::{AUDIENCE, IMDS_HOST, ISSUER_URL, NAMESPACE, Options, Request, SERVICE_ACCOUNT, Stack, document, envoy};

use super::{assert_clean_log, newest};

/// The tests of this file.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("envoy_detects_a_token_that_is_renamed_onto_the_file_if_it_watches_the_files_folder", renamed),
    ("envoy_detects_a_token_that_is_overwritten_in_place_with_watch_modify", overwritten_with_watch_modify),
    ("envoy_detects_a_token_that_is_overwritten_in_place_with_the_file_server", overwritten_with_file_server),
];

const LISTENER: &str = "static_resources.listeners[projected_token]";
const BODY: &str = "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[projected_token].routes[0].direct_response.body";

/// A folder with an expired token, outside of any volume of the kubelet.
///
/// The token's folder has a parent of its own, so that no other file changes in the parent.
struct File {
    folder: PathBuf,
    // Deleted when this value is dropped.
    _parent: tempfile::TempDir,
}

impl File {
    fn create() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let issuer = fake_entra::Issuer::new(ISSUER_URL);
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        let expired =
            issuer.service_account_token(NAMESPACE, SERVICE_ACCOUNT, AUDIENCE, long_ago, Duration::from_secs(3600));
        let folder = parent.path().join("token-folder");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("token"), expired).unwrap();
        Self { folder, _parent: parent }
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self) -> PathBuf {
        self.folder().join("token")
    }

    fn rename_onto(&self, token: &str) {
        fs::write(self.folder().join(".new"), token).unwrap();
        fs::rename(self.folder().join(".new"), self.path()).unwrap();
    }
}

/// The sidecar with this token's file and this `watched_directory`.
fn watching(version: &str, file: &File, watched: Value) -> Stack {
    let path = file.path();
    started(version, move |listener| {
        *document::at_mut(listener, BODY).unwrap() = json!({"filename": path, "watched_directory": watched});
    })
}

fn started(version: &str, change: impl FnOnce(&mut Value) + Send + 'static) -> Stack {
    let edit = move |document: &mut Value| change(document::at_mut(document, LISTENER).unwrap());
    newest(Options { envoy: Some(envoy::binary_of(version)), edit: Some(Box::new(edit)), ..Options::default() })
}

fn request_token(stack: &Stack) -> (u16, String) {
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    let answer = stack.send_imds(&Request::get(IMDS_HOST, path).header("metadata", "true")).unwrap();
    (answer.status, answer.text())
}

fn assert_expired(stack: &Stack) {
    let (status, text) = request_token(stack);
    assert!(status == 503 && text.contains("the federated token expired"), "{status} {text}");
}

/// Whether Envoy serves the new token. Waits for the back-off after the previous failure.
fn detects_the_change(stack: &Stack) -> bool {
    stack::eventually(Duration::from_secs(6), || request_token(stack).0 == 200)
}

fn renamed() {
    let [_, oldest] = envoy::VERSIONS;
    // Watching the parent of the file's folder works only where the kubelet replaces the token.
    for watches_own_folder in [true, false] {
        let file = File::create();
        let folder = if watches_own_folder { file.folder() } else { file.folder().parent().unwrap() };
        let stack = watching(oldest, &file, json!({"path": folder}));
        assert_expired(&stack);
        file.rename_onto(&stack.new_token());
        assert_eq!(detects_the_change(&stack), watches_own_folder);
        assert_clean_log(&stack);
    }
}

fn overwritten_with_watch_modify() {
    let [newest, _] = envoy::VERSIONS;
    for watch_modify in [true, false] {
        let file = File::create();
        let stack = watching(newest, &file, json!({"path": file.folder(), "watch_modify": watch_modify}));
        assert_expired(&stack);
        fs::write(file.path(), stack.new_token()).unwrap();
        assert_eq!(detects_the_change(&stack), watch_modify);
        assert_clean_log(&stack);
    }
}

fn overwritten_with_file_server() {
    let file = File::create();
    let folder = file.folder().to_owned();
    let stack = started(envoy::WITH_FILE_SERVER, move |listener| {
        *listener = document::read("envoy/sidecar/file-server.yaml").unwrap().remove(0);
        let server =
            "filter_chains[0].filters[0].typed_config.http_filters[envoy.filters.http.file_server].typed_config";
        let server = document::at_mut(listener, server).unwrap();
        document::set(server, "path_mappings[0].file_path_prefix", json!(folder)).unwrap();
        document::set(server, "directory_behaviors[0].default_file", "token").unwrap();
    });
    assert_expired(&stack);
    fs::write(file.path(), stack.new_token()).unwrap();
    assert!(detects_the_change(&stack));
    assert_clean_log(&stack);
}
