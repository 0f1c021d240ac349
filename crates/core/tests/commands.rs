//! Checks the commands and names in the repository's Markdown pages: every command is valid shell, and every name exists.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use entra_exchange_core::problem::Code;

/// The folders whose pages are for readers.
const FOLDERS: [&str; 11] = [
    "",
    "docs",
    "docs/decisions",
    "docs/runbook",
    "examples/diy-issuer",
    "examples/fleet",
    "examples/github-actions",
    "examples/migrate-from-pod-identity",
    "examples/vm-keycloak",
    "examples/vm-vault",
    "tests/sdk",
];

/// The text of a file, by its path from the repository's root.
fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap()
}

/// Every page with its text, by its path from the repository's root.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = Vec::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                let path = Path::new(folder).join(name).display().to_string();
                pages.push((path.clone(), file(&path)));
            }
        }
    }
    assert!(pages.len() > 15, "{}", pages.len());
    pages
}

/// The shell blocks of a document.
fn shell_blocks(text: &str) -> Vec<&str> {
    text.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// The inline code of a document, outside its code blocks.
fn code(text: &str) -> Vec<&str> {
    let outside = text.split("\n```").step_by(2);
    outside.flat_map(|part| part.lines()).flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The words of lower-case letters, digits and underscores that follow `beginning`.
fn words<'a>(text: &'a str, beginning: &str) -> BTreeSet<&'a str> {
    let ends = |character: char| !(character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_');
    let after = text.match_indices(beginning).map(|(start, _)| &text[start + beginning.len()..]);
    after.map(|rest| rest.split(ends).next().unwrap()).filter(|word| !word.is_empty()).collect()
}

#[test]
fn every_command_of_the_documentation_is_valid_shell() {
    let mut checked = 0;
    for (page, text) in pages() {
        for block in shell_blocks(&text) {
            let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            shell.stdin.take().unwrap().write_all(block.as_bytes()).unwrap();
            let output = shell.wait_with_output().unwrap();
            assert!(output.status.success(), "{page}: {}\n{block}", String::from_utf8_lossy(&output.stderr));
            checked += 1;
        }
    }
    assert!(checked >= 8, "{checked}");
}

#[test]
fn every_target_of_make_that_a_page_names_exists() {
    let makefile = file("Makefile");
    for (page, text) in pages() {
        let blocks = shell_blocks(&text).into_iter().flat_map(str::lines);
        for command in code(&text).into_iter().chain(blocks).filter_map(|code| code.strip_prefix("make ")) {
            let target = command.split(' ').next().unwrap();
            assert!(makefile.contains(&format!("\n{target}: ")), "{page}: make {target}");
        }
    }
}

/// A name in the documentation must be found in logs, replies and metrics.
#[test]
fn every_metric_event_and_code_that_a_page_names_exists() {
    let metrics = file("crates/core/src/metrics.rs");
    let events = ["start", "configuration", "exchange", "rejected", "request", "upgrade"];
    // The listener of readiness.yaml, and the crate.
    let other_names = ["health", "core"];
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    for (page, text) in pages() {
        for name in words(&text, "entra_exchange_") {
            let is_metric = metrics.contains(&format!("\"entra_exchange_{name}\""));
            assert!(is_metric || other_names.contains(&name), "{page}: entra_exchange_{name}");
        }
        for event in words(&text, "event=") {
            assert!(events.contains(&event), "{page}: event={event}");
        }
        let in_details = words(&text, "entra_exchange{").into_iter().chain(words(&text, "\"code\": \""));
        let in_problems = words(&text, "urn:entra-exchange:problem:");
        let after_status =
            code(&text).into_iter().filter_map(|code| code.strip_prefix("403 ").or(code.strip_prefix("503 ")));
        for found in in_details.chain(in_problems).chain(after_status.filter(|code| !code.contains(' '))) {
            assert!(codes.contains(&found), "{page}: {found}");
        }
    }
}
