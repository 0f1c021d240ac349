//! Tests of the shipped module: its imports and the sources that it is built from.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use wasmparser::{Parser, Payload};

/// Lists the imports as `module.name`, one per line. They are sorted, because the linker's order changes with unrelated code.
fn imports(module: &[u8]) -> String {
    let mut lines = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ImportSection(section) = payload.unwrap() {
            for import in section.into_imports() {
                let import = import.unwrap();
                lines.push(format!("{}.{}\n", import.module, import.name));
            }
        }
    }
    lines.sort_unstable();
    lines.concat()
}

/// A host that runs this module must provide these imports, so a diff must show a new one. `UPDATE=1` rewrites the file.
#[test]
fn the_modules_imports_are_the_listed_ones() {
    let module = fs::read(stack::module().unwrap_or_else(|error| panic!("{error}"))).unwrap();
    let list = stack::root().join("tests/module-imports.txt");
    let found = imports(&module);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&list, &found).unwrap();
    }
    assert_eq!(
        found,
        fs::read_to_string(&list).unwrap(),
        "tests/module-imports.txt differs; `UPDATE=1` in the environment rewrites it"
    );
}

/// If a source were missing in `stack::sources`, the tests would run a module from before a change of that source.
#[test]
fn every_file_that_the_module_was_compiled_from_is_in_its_fingerprint() {
    let root = stack::root();
    let known = stack::module_sources().unwrap();
    let rules = fs::read_to_string(root.join("target/wasm32-wasip1/module/entra_exchange.d")).expect("make build");
    // Cargo's dependency file has the format `target: source source ...`. Build outputs and Git's files are not sources.
    let compiled: Vec<_> = rules
        .split_whitespace()
        .filter_map(|path| Path::new(path).strip_prefix(&root).ok())
        .filter(|path| root.join(path).is_file() && !path.starts_with("target") && !path.starts_with(".git"))
        .collect();

    assert!(compiled.contains(&Path::new("src/lib.rs")), "{rules}");
    let missing: Vec<_> = compiled.iter().filter(|path| !known.iter().any(|known| known == *path)).collect();
    assert!(missing.is_empty(), "add to `SOURCES` in crates/stack/src/sources.rs: {missing:?}");
}
