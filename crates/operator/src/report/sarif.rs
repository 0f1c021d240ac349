//! Findings as SARIF 2.1.0 (OASIS, "Static Analysis Results Interchange Format"), which code-review systems show in the change.

use serde_json::{Value, json};

use crate::finding::{CODES, Finding};
use crate::source::Source;

/// The page that describes the findings.
const PAGE: &str = "docs/command.md";

/// The findings as a SARIF log. File names are relative to the folder in which the command ran, as they were given.
pub fn sarif(sources: &[Source], findings: &[Finding]) -> Value {
    let rules: Vec<Value> = CODES
        .iter()
        .map(|code| {
            json!({
                "id": code.code,
                "shortDescription": { "text": code.summary },
                "defaultConfiguration": { "level": code.severity.as_str() },
                "help": { "text": format!("{PAGE} lists the codes of entra-exchange check.") },
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "entra-exchange",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": findings.iter().map(|finding| result(sources, finding)).collect::<Vec<_>>(),
        }],
    })
}

fn result(sources: &[Source], finding: &Finding) -> Value {
    let path = finding.path.as_ref().map(|path| format!("{path}: ")).unwrap_or_default();
    let location = sources.get(finding.source).map(|source| {
        let (start, end) = (source.position(finding.span.start), source.position(finding.span.end));
        json!({ "physicalLocation": {
            "artifactLocation": { "uri": source.name() },
            "region": {
                "startLine": start.line, "startColumn": start.column,
                "endLine": end.line, "endColumn": end.column,
            },
        } })
    });
    json!({
        "ruleId": finding.code,
        "ruleIndex": CODES.iter().position(|code| code.code == finding.code),
        "level": finding.severity.as_str(),
        "message": { "text": format!("{path}{}. {}", finding.message, finding.remedy) },
        "locations": location.into_iter().collect::<Vec<_>>(),
    })
}
