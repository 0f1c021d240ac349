//! No text makes `check` panic or name a place outside the file, however a manifest was damaged.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use operator::{Options, Source, check, report};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Manifests and configurations, broken ones among them.
fn texts() -> Vec<(String, String)> {
    let mut texts = Vec::new();
    for folder in ["tests/corpus", "../../envoy/istio", "../../envoy/sidecar", "../../envoy/configuration"] {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "yaml" || ending == "json") {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                texts.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    texts.sort();
    texts
}

/// A change of a text: at a place, remove some characters and insert others.
fn damage() -> impl Strategy<Value = (prop::sample::Index, usize, String)> {
    let inserted = prop_oneof![
        prop::sample::select(vec![
            "{", "}", "[", "]", "\"", "'", ":", "- ", "|", ">", "&a ", "*a", "<<: ", "#", "\n", "\t", "\r\n", "%",
            "\\", "---\n", "null", "\u{feff}", "ä", "😀", "\\u"
        ])
        .prop_map(str::to_owned),
        Just(String::new()),
    ];
    (any::<prop::sample::Index>(), 0_usize..40, inserted)
}

#[test]
fn no_damaged_manifest_makes_the_check_panic_or_leave_the_file() {
    let texts = texts();
    assert!(texts.len() > 100);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 6 * ProptestConfig::default().cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let strategy = (any::<prop::sample::Index>(), prop::collection::vec(damage(), 1..6));
    let result = runner.run(&strategy, |(which, damages)| {
        let (name, text) = which.get(&texts);
        let mut characters: Vec<char> = text.chars().collect();
        for (place, removed, inserted) in damages {
            let start = place.index(characters.len() + 1);
            let end = (start + removed).min(characters.len());
            characters.splice(start..end, inserted.chars());
        }
        let source = Source::new(name, characters.into_iter().collect::<String>());
        let sources = [source];
        let checked = check(&sources, &Options::default());
        for finding in &checked.findings {
            let length = sources[0].text().len();
            prop_assert!(finding.span.start <= length, "{finding:?}");
            prop_assert!(finding.remedy.ends_with(['.', '?']), "{finding:?}");
        }
        report::text(&sources, &checked.findings, false);
        report::sarif(&sources, &checked.findings);
        report::json(&sources, &checked.findings);
        Ok(())
    });
    result.unwrap();
}
