//! The ways in which a federated token's file is renewed, each on the oldest Envoy that notices it. The kubelet's way is among the
//! scenarios.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use stack::{AUDIENCE, IMDS_HOST, ISSUER_URL, NAMESPACE, Options, Request, SERVICE_ACCOUNT, Stack, document, envoy};

use super::{look_through_log, newest};

/// What this file shows, by its sentences.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("a_token_that_its_writer_renames_is_noticed_in_the_files_own_folder", renamed),
    ("a_token_that_is_overwritten_in_place_is_noticed_by_watch_modify", overwritten_with_watch_modify),
    ("a_token_that_is_overwritten_in_place_is_noticed_by_the_file_server", overwritten_with_file_server),
];

const LISTENER: &str = "static_resources.listeners[projected_token]";
const BODY: &str = "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[projected_token].routes[0].direct_response.body";

/// A folder with a token that has expired, outside of any volume of the kubelet's.
///
/// The token's folder stands in one of its own, so that nothing else moves in the folder above.
struct File {
    own: PathBuf,
    // Removed with the value.
    _above: tempfile::TempDir,
}

impl File {
    fn create() -> Self {
        let above = tempfile::tempdir().unwrap();
        let issuer = fake_entra::Issuer::new(ISSUER_URL);
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        let expired =
            issuer.service_account_token(NAMESPACE, SERVICE_ACCOUNT, AUDIENCE, long_ago, Duration::from_secs(3600));
        let own = above.path().join("own");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("token"), expired).unwrap();
        Self { own, _above: above }
    }

    fn folder(&self) -> &Path {
        &self.own
    }

    fn path(&self) -> PathBuf {
        self.folder().join("token")
    }

    fn rename_onto(&self, token: &str) {
        fs::write(self.folder().join(".new"), token).unwrap();
        fs::rename(self.folder().join(".new"), self.path()).unwrap();
    }
}

/// The sidecar with a token's file of its own, and `watched_directory` as given.
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

fn ask(stack: &Stack) -> (u16, String) {
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    let answer = stack.send_imds(&Request::get(IMDS_HOST, path).header("metadata", "true")).unwrap();
    (answer.status, answer.text())
}

fn is_expired(stack: &Stack) {
    let (status, text) = ask(stack);
    assert!(status == 503 && text.contains("the federated token expired"), "{status} {text}");
}

/// Once the back-off of the failure before is over.
fn is_noticed(stack: &Stack) -> bool {
    stack::eventually(Duration::from_secs(6), || ask(stack).0 == 200)
}

fn renamed() {
    let [_, oldest] = envoy::VERSIONS;
    // The folder above the file's own is right only where the kubelet renews the token.
    for (own_folder, noticed) in [(true, true), (false, false)] {
        let file = File::create();
        let folder = if own_folder { file.folder() } else { file.folder().parent().unwrap() };
        let stack = watching(oldest, &file, json!({"path": folder}));
        is_expired(&stack);
        file.rename_onto(&stack.new_token());
        assert_eq!(is_noticed(&stack), noticed);
        look_through_log(&stack);
    }
}

fn overwritten_with_watch_modify() {
    let [newest, _] = envoy::VERSIONS;
    for watch_modify in [true, false] {
        let file = File::create();
        let stack = watching(newest, &file, json!({"path": file.folder(), "watch_modify": watch_modify}));
        is_expired(&stack);
        fs::write(file.path(), stack.new_token()).unwrap();
        assert_eq!(is_noticed(&stack), watch_modify);
        look_through_log(&stack);
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
    is_expired(&stack);
    fs::write(file.path(), stack.new_token()).unwrap();
    assert!(is_noticed(&stack));
    look_through_log(&stack);
}
