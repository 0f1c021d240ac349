//! The alerts and the dashboard that ship, on a real Prometheus that scrapes a real Envoy.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod alerts;
mod dashboard;
mod prometheus;
mod rules;

use std::fs;

use stack::root;

#[test]
fn every_alert_has_a_runbook_and_is_on_the_troubleshooting_page() {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let mut shipped = rules::shipped();
    let mut runbooks = Vec::new();
    for rule in rules::every_rule(&mut shipped) {
        let (alert, runbook) = (rule["alert"].as_str().unwrap(), rule["annotations"]["runbook"].as_str().unwrap());
        let text = fs::read_to_string(root().join(runbook)).unwrap_or_else(|error| panic!("{runbook}: {error}"));
        assert!(text.starts_with(&format!("# {alert}\n")), "{runbook} is not about {alert}");
        for heading in ["## Meaning", "## Diagnosis", "## Remedy"] {
            assert!(text.contains(heading), "{runbook} has no {heading:?}");
        }
        let row = format!("| [`{alert}`]({}) |", runbook.trim_start_matches("docs/"));
        assert!(page.contains(&row), "docs/troubleshooting.md has no {row:?}");
        runbooks.push(runbook.to_owned());
    }
    let folder = fs::read_dir(root().join("docs/runbook")).unwrap();
    for file in folder.map(|file| format!("docs/runbook/{}", file.unwrap().file_name().display())) {
        assert!(runbooks.contains(&file), "{file} is of no alert");
    }
}

/// Each alert is silent, fires and stops in `rules-test.yaml`.
#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let path = root().join("observe/prometheus/rules-test.yaml");
    let tests = stack::document::read(path.to_str().unwrap()).unwrap().remove(0);
    let cases: Vec<_> = tests["tests"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|test| test["alert_rule_test"].as_array().unwrap())
        .collect();
    for alert in rules::alerts() {
        let of_alert = || cases.iter().filter(|case| case["alertname"] == alert.as_str());
        assert!(of_alert().any(|case| case.get("exp_alerts").is_some()), "{alert} never fires");
        assert!(of_alert().filter(|case| case.get("exp_alerts").is_none()).count() >= 2, "{alert} is never silent");
    }
}
