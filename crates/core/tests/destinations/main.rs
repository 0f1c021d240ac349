//! Runs the examples of documents: each configuration in a document is followed by a table of requests and their outcomes,
//! which are checked.
//!
//! A row has a request (`METHOD host/path`), its properties (`header:`, `cluster:`, `connection:`, `principal:`, `to:`), and
//! the outcome: the identity and scope of the token, or the status and code of the reply, or `passes` if a destination's
//! action is `pass`, or `keeps` and the credentials that the request keeps, or `untouched` if no rule applies.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use entra_exchange_core::config::Config;
use entra_exchange_core::decision::Decision;
use entra_exchange_core::policy::Policy;
use entra_exchange_core::request::{DescribedRequest, RequestView};

#[test]
fn every_example_of_a_deployment_has_the_outcomes_in_its_table() {
    let (configurations, rows) = check("tests/destinations/deployments.md");
    assert!(configurations >= 15 && rows >= 50, "{configurations} {rows}");
}

#[test]
fn every_example_of_the_documentation_has_the_outcomes_in_its_table() {
    let (configurations, rows) = check("../../docs/destinations.md");
    assert!(configurations >= 7 && rows >= 40, "{configurations} {rows}");
}

#[test]
fn every_configuration_of_an_earlier_release_loads_with_the_same_meaning() {
    let releases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/destinations/releases");
    let mut checked = 0;
    for release in fs::read_dir(releases).unwrap() {
        let (configurations, rows) = check(release.unwrap().path().to_str().unwrap());
        assert!(configurations >= 5 && rows >= 25, "{configurations} {rows}");
        checked += 1;
    }
    assert!(checked >= 1);
}

/// Checks all examples of a document; returns the numbers of configurations and rows.
fn check(document: &str) -> (usize, usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut configurations, mut rows, mut policy, mut in_table) = (0, 0, None, false);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        in_table = line == "| request | with | outcome |" || (in_table && line.starts_with('|'));
        if line == "```json" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            policy = Some(policy_of(&block.join("\n")));
            configurations += 1;
        } else if in_table && line.starts_with("| `") {
            let cells = cells(line);
            let [request, with, outcome] = cells.as_slice() else { panic!("{line}: expected three cells") };
            let actual = outcome_of(policy.as_ref().expect("a configuration before the table"), request, with);
            assert_eq!([actual], outcome.as_slice(), "{document}: {line}");
            rows += 1;
        }
    }
    (configurations, rows)
}

/// The code spans in each cell of a row.
fn cells(row: &str) -> Vec<Vec<String>> {
    let row = row.trim_matches('|').replace("\\|", "\0");
    row.split('|')
        .map(|cell| cell.split('`').skip(1).step_by(2).map(|text| text.replace('\0', "|")).collect())
        .collect()
}

/// The environment variables of the proxy, as the workload-identity webhook sets them.
fn variable(name: &str) -> Option<String> {
    let value = match name {
        "AZURE_TENANT_ID" => "11111111-1111-4111-8111-111111111111",
        "AZURE_CLIENT_ID" => "dddddddd-0000-4000-8000-000000000004",
        "IDENTITY_HEADER" => "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a",
        _ => return None,
    };
    Some(value.to_owned())
}

fn policy_of(text: &str) -> Policy {
    let config = Config::parse(text.as_bytes(), &variable).unwrap_or_else(|refused| panic!("{refused}\n{text}"));
    assert_eq!(config.warnings, Vec::<String>::new(), "{text}");
    Policy::new(&config, false)
}

fn outcome_of(policy: &Policy, request: &[String], with: &[String]) -> String {
    let [line] = request else { panic!("{request:?} is not a valid request") };
    let (method, target) = line.split_once(' ').unwrap();
    let (host, path) = target.split_at(target.find('/').unwrap_or(target.len()));
    let mut sent = DescribedRequest::new(method, host, if method == "CONNECT" { "" } else { path });
    for more in with {
        let (kind, value) = more.split_once(": ").unwrap();
        match kind {
            "header" => {
                let (name, value) = value.split_once(": ").unwrap();
                sent = sent.with_header(name, value.as_bytes());
            }
            "connection" => {
                sent.attempt = Some(1);
                sent.upstream_tls = Some(value == "TLS");
            }
            "cluster" => sent.cluster_name = Some(value.to_owned()),
            "principal" => sent.peer_uri = Some(value.to_owned()),
            "to" => sent.destination_address = value.parse().ok(),
            _ => panic!("{more:?} is not a known property"),
        }
    }
    match policy.decide(&RequestView::new(&sent)) {
        Decision::Exchange(spec, _) => format!("{}: {}", spec.identity(), spec.scope()),
        Decision::Report(report) | Decision::ReportToNode(report) => {
            let refused = report.would_refuse().map(|code| format!(", would be refused: {}", code.as_str()));
            let token =
                report.spec.map_or("no token".to_owned(), |spec| format!("{}: {}", spec.identity(), spec.scope()));
            format!("passes, reported for {token}{}", refused.unwrap_or_default())
        }
        Decision::Pass(_) => "passes".to_owned(),
        Decision::Keep(kept) => format!("keeps {}", kept.credentials),
        Decision::Ignore => "untouched".to_owned(),
        Decision::Refuse(refusal) => {
            let reply = refusal.reply();
            let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            let code = body.get("code").or_else(|| body.get("error")).and_then(|code| code.as_str());
            format!("{} {}", reply.status, code.unwrap_or_default())
        }
        other => format!("{other:?}"),
    }
}
