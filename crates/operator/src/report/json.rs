//! Findings as JSON.

use serde::Serialize;

use crate::finding::{Finding, Severity};
use crate::source::Source;

#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
    severity: Severity,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    message: &'a str,
    remedy: &'a str,
}

/// The findings as a list. Lines and columns begin with 1; columns count characters.
pub fn json(sources: &[Source], findings: &[Finding]) -> serde_json::Value {
    let line = |finding: &Finding| {
        let source = sources.get(finding.source)?;
        let (start, end) = (source.position(finding.span.start), source.position(finding.span.end));
        serde_json::to_value(Line {
            file: source.name(),
            line: start.line,
            column: start.column,
            end_line: end.line,
            end_column: end.column,
            severity: finding.severity,
            code: finding.code,
            path: finding.path.as_deref(),
            message: &finding.message,
            remedy: &finding.remedy,
        })
        .ok()
    };
    findings.iter().filter_map(line).collect::<Vec<_>>().into()
}
