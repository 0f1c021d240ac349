//! The dashboard that ships.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use stack::root;

use crate::prometheus::Prometheus;
use crate::rules::shorten;

fn dashboard() -> Value {
    let text = fs::read_to_string(root().join("observe/grafana/dashboard.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Title and expression of every query, with Grafana's variables filled in.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let queries = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().unwrap().iter();
        targets.map(move |target| (title.to_owned(), target["expr"].as_str().unwrap().to_owned()))
    });
    // Grafana's own choice of the interval is at least four scrapes; the hour becomes 12 s here.
    queries
        .map(|(title, query)| (title, shorten(&query.replace("$__rate_interval", "1h").replace("$identity", ".*"))))
        .collect()
}

/// Every query that gives nothing although everything has happened that the dashboard shows.
pub(crate) fn empty_panels(prometheus: &Prometheus) -> Vec<String> {
    let queries = queries(&dashboard()).into_iter();
    queries
        .filter(|(_, query)| prometheus.query(query).is_empty())
        .map(|(title, query)| format!("{title}: {query}"))
        .collect()
}

#[test]
fn the_dashboard_has_what_grafana_needs_of_one() {
    let dashboard = dashboard();
    for field in ["title", "uid", "schemaVersion", "panels", "templating", "time"] {
        assert!(dashboard.get(field).is_some(), "{field}");
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    let mut places = BTreeSet::new();
    for panel in panels {
        let place = &panel["gridPos"];
        assert!(places.insert((place["x"].as_u64(), place["y"].as_u64())), "{} covers another", panel["title"]);
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{}", panel["title"]);
        assert_eq!(panel["datasource"]["uid"], "${datasource}");
        for target in panel["targets"].as_array().unwrap() {
            assert!(target["refId"].is_string() && target["legendFormat"].is_string(), "{target}");
        }
    }
}

#[test]
fn the_dashboard_shows_every_metric_and_the_docs_list_every_panel() {
    let all = dashboard().to_string();
    let metrics = fs::read_to_string(root().join("crates/core/src/metrics.rs")).unwrap();
    for metric in metrics.split('"').filter(|text| text.starts_with("entra_exchange_") && !text.contains('.')) {
        assert!(all.contains(metric), "no panel shows {metric}");
    }
    let page = fs::read_to_string(root().join("docs/monitoring.md")).unwrap();
    for panel in dashboard()["panels"].as_array().unwrap() {
        let row = format!("| {} |", panel["title"].as_str().unwrap());
        assert!(page.contains(&row), "docs/monitoring.md has no {row:?}");
    }
}
