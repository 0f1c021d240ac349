//! Tests of the errors of a stack that cannot start.

use serde_json::json;
use stack::{Options, Stack, StartError, document, envoy};

use crate::{remove_filter, without_filter};

#[test]
fn the_error_for_a_missing_envoy_has_its_path_and_a_remedy() {
    let error = Stack::start(Options { envoy: Some("/nowhere/envoy".into()), ..without_filter() }).err().unwrap();

    assert!(matches!(error, StartError::EnvoyMissing(_)));
    assert!(error.to_string().contains("/nowhere/envoy: run `make envoy`"), "{error}");
}

#[test]
fn the_error_for_a_missing_module_has_its_path() {
    let error =
        Stack::start(Options { module: Some("/nowhere/filter.wasm".into()), ..Options::default() }).err().unwrap();

    assert!(matches!(error, StartError::ModuleMissing(_)));
    assert!(error.to_string().contains("/nowhere/filter.wasm"), "{error}");
}

#[test]
fn the_error_for_an_invalid_bootstrap_has_the_end_of_envoys_log() {
    let edit = |document: &mut serde_json::Value| {
        remove_filter(document);
        document::set(document, "admin.address", json!({"no_such_field": 1})).unwrap();
    };
    let error = Stack::start(Options { edit: Some(Box::new(edit)), ..Options::default() }).err().unwrap();

    let StartError::EnvoyExited { tail, log, .. } = error else { panic!("{error}") };
    assert!(tail.contains("no_such_field"), "{tail}");
    std::fs::remove_dir_all(log.parent().unwrap()).unwrap();
}

#[test]
fn envoy_validates_a_bootstrap_without_starting() {
    let folder = tempfile::tempdir().unwrap();
    let mut document = json!({"static_resources": {"listeners": [], "clusters": []}});
    let valid = |document: &serde_json::Value| {
        envoy::Launch {
            binary: &envoy::binary(),
            bootstrap: document,
            folder: folder.path(),
            concurrency: 1,
            environment: &[],
            log_level: "info",
            listeners: &[],
        }
        .validate()
    };

    valid(&document).unwrap();
    document["static_resources"]["clusters"] = json!([{"nmae": "x"}]);
    let error = valid(&document).unwrap_err().to_string();
    assert!(error.contains("nmae"), "{error}");
}
