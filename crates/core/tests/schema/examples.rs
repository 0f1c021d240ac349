//! Every example of a configuration in the repository is valid.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{read, root, validate};

/// The files and folders with examples, and how many they have at least.
const PLACES: &[(&str, usize)] =
    &[("README.md", 1), ("docs", 12), ("envoy", 6), ("examples", 1), ("crates/core/tests/destinations", 20)];

/// The examples of a file, or of the files in a folder, each with the file's path.
fn examples(path: &Path, found: &mut Vec<(String, Value)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            examples(&entry.unwrap().path(), found);
        }
        return;
    }
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if !["md", "yaml", "json"].contains(&extension) {
        return;
    }
    let text = fs::read_to_string(path).unwrap();
    let documents = if extension == "md" {
        blocks(&text)
    } else {
        parse(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    };
    for document in &documents {
        configurations(document, &mut |configuration| found.push((path.display().to_string(), configuration)));
    }
}

/// The documents in a text, which is YAML or JSON.
fn parse(text: &str) -> Result<Vec<Value>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| error.to_string())
}

/// The documents in the JSON and YAML blocks of a page.
fn blocks(page: &str) -> Vec<Value> {
    let blocks = page.split("\n```").skip(1).step_by(2);
    let texts = blocks.filter_map(|block| block.strip_prefix("json\n").or_else(|| block.strip_prefix("yaml\n")));
    texts.flat_map(|text| parse(text).unwrap_or_else(|error| panic!("{error}: {text}"))).collect()
}

/// Calls `visit` with each configuration in a document: an object with a section of ours, or a text that contains one.
fn configurations(document: &Value, visit: &mut dyn FnMut(Value)) {
    match document {
        Value::Object(object) if object.contains_key("destinations") || object.contains_key("managed_identity") => {
            visit(document.clone());
        }
        // The page about Azure services shows a single destination.
        Value::Object(object) if object.contains_key("azure_service") => visit(json!({"destinations": [document]})),
        Value::Object(object) => object.values().for_each(|value| configurations(value, visit)),
        Value::Array(items) => items.iter().for_each(|item| configurations(item, visit)),
        Value::String(text) => {
            if let Ok(inner @ Value::Object(_)) = serde_json::from_str(text) {
                configurations(&inner, visit);
            }
        }
        _ => {}
    }
}

#[test]
fn every_example_in_the_documentation_and_the_manifests_is_valid_for_the_reader_and_the_schema() {
    for (place, least) in PLACES {
        let mut found = Vec::new();
        examples(&root().join(place), &mut found);
        for (file, example) in &found {
            if let Err(mistakes) = read(example) {
                panic!("{file}: {example}: {mistakes}");
            }
            validate(example).unwrap_or_else(|mistakes| panic!("{file}: {example}: {mistakes}"));
        }
        assert!(found.len() >= *least, "{place}: {}", found.len());
    }
}
