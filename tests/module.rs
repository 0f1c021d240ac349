//! The module that ships: what it asks of a host.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;

use wasmparser::{Parser, Payload};

/// The imports as `module.name`, one a line, in the module's order.
fn imports(module: &[u8]) -> String {
    let mut lines = String::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ImportSection(section) = payload.unwrap() {
            for import in section.into_imports() {
                let import = import.unwrap();
                lines += &format!("{}.{}\n", import.module, import.name);
            }
        }
    }
    lines
}

/// A host that runs this module must offer these; a new one is seen in the diff. `UPDATE=1` writes the file anew.
#[test]
fn the_modules_imports_are_those_on_the_list() {
    let module = stack::root().join("dist/entra-exchange.wasm");
    let module = fs::read(&module).unwrap_or_else(|error| panic!("{}: {error}: make build", module.display()));
    let list = stack::root().join("tests/module-imports.txt");
    let found = imports(&module);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&list, &found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(&list).unwrap(), "see tests/module-imports.txt");
}
