//! Broken and risky configurations and manifests: `check` finds each mistake at its line and column, with the right remedy.
//!
//! `corpus/NAME` is a file, and `corpus/NAME.expected` lists its findings, one a line:
//! `LINE:COLUMN SEVERITY CODE: REMEDY`. With `UPDATE=1` the test writes the expectations anew.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use operator::{CODES, Checked, Options, Source, check};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The files of the corpus, without their expectations.
fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_none_or(|ending| ending != "expected"));
    files.sort();
    files
}

fn checked(path: &Path) -> (Vec<Source>, Checked) {
    let name = path.file_name().unwrap().to_string_lossy();
    let sources = vec![Source::read(name, &std::fs::read(path).unwrap()).unwrap()];
    let checked = check(&sources, &Options { now: Some(1_800_000_000), ..Options::default() });
    (sources, checked)
}

fn summary(path: &Path) -> String {
    let (sources, checked) = checked(path);
    let mut summary = String::new();
    for finding in &checked.findings {
        let position = sources[0].position(finding.span.start);
        let (line, column, severity) = (position.line, position.column, finding.severity.as_str());
        writeln!(summary, "{line}:{column} {severity} {}: {}", finding.code, finding.remedy).unwrap();
    }
    summary
}

#[test]
fn every_mistake_is_found_at_its_place_with_the_right_remedy() {
    let mut differences = String::new();
    let files = files();
    assert!(files.len() >= 80, "{}", files.len());
    for path in &files {
        let expectation = PathBuf::from(format!("{}.expected", path.display()));
        let found = summary(path);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&expectation, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expectation).unwrap_or_default();
        if expected != found || found.is_empty() {
            writeln!(differences, "{}\nexpected:\n{expected}found:\n{found}", path.display()).unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

#[test]
fn every_code_has_a_file_in_the_corpus() {
    let mut found = BTreeSet::new();
    for path in files() {
        found.extend(checked(&path).1.findings.into_iter().map(|finding| finding.code));
    }
    // For a warning that a later version of the core adds, and for what a registry answers.
    found.extend(["configuration_warning", "digest_is_an_index", "image_not_found"]);
    let missing: Vec<&str> = CODES.iter().map(|code| code.code).filter(|code| !found.contains(code)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_page_lists_every_code() {
    let page = std::fs::read_to_string(folder().join("../../../../docs/command.md")).unwrap();
    for code in CODES {
        let row = format!("| `{}` | {} | {} |\n", code.code, code.severity.as_str(), code.summary);
        assert!(page.contains(&row), "{row}");
    }
}
