//! The module that ships: what it asks of a host, and what it is built from.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use wasmparser::{Parser, Payload};

/// The imports as `module.name`, one a line, sorted: the linker's order says nothing and changes with unrelated code.
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

/// A host that runs this module must offer these; a new one is seen in the diff. `UPDATE=1` writes the file anew.
#[test]
fn the_modules_imports_are_those_on_the_list() {
    let module = fs::read(stack::module().unwrap_or_else(|error| panic!("{error}"))).unwrap();
    let list = stack::root().join("tests/module-imports.txt");
    let found = imports(&module);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&list, &found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(&list).unwrap(), "see tests/module-imports.txt");
}

/// A source that is missing in `stack::sources` could change, and the tests would read the module from before the change.
#[test]
fn every_file_that_the_module_was_compiled_from_is_in_its_fingerprint() {
    let root = stack::root();
    let known = stack::module_sources().unwrap();
    let rules = fs::read_to_string(root.join("target/wasm32-wasip1/module/entra_exchange.d")).expect("make build");
    // Cargo's dependency file: `target: source source ...`. What the build itself wrote, and Git's files, are no sources.
    let compiled: Vec<_> = rules
        .split_whitespace()
        .filter_map(|path| Path::new(path).strip_prefix(&root).ok())
        .filter(|path| root.join(path).is_file() && !path.starts_with("target") && !path.starts_with(".git"))
        .collect();

    assert!(compiled.contains(&Path::new("src/lib.rs")), "{rules}");
    let missing: Vec<_> = compiled.iter().filter(|path| !known.iter().any(|known| known == *path)).collect();
    assert!(missing.is_empty(), "add to `SOURCES` in crates/stack/src/sources.rs: {missing:?}");
}
