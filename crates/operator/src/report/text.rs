//! Findings with snippets of their sources, for a terminal.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::finding::{Finding, Severity};
use crate::source::Source;

/// The findings, each with the lines of the source, its cause and its remedy. Colours are escape sequences of a terminal.
pub fn text(sources: &[Source], findings: &[Finding], colours: bool) -> String {
    let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for finding in findings {
        text.push_str(&one(sources, finding, &renderer));
        text.push_str("\n\n");
    }
    text
}

fn one(sources: &[Source], finding: &Finding, renderer: &Renderer) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = match &finding.path {
        Some(path) => format!("{path}: {}", finding.message),
        None => finding.message.clone(),
    };
    let Some(source) = sources.get(finding.source) else { return title };
    let span = source.first_line_of(&finding.span);
    let snippet =
        Snippet::source(source.text()).line_start(1).path(source.name()).annotation(AnnotationKind::Primary.span(span));
    let report = [level
        .primary_title(title)
        .id(finding.code)
        .element(snippet)
        .element(Level::HELP.message(finding.remedy.clone()))];
    renderer.render(&report)
}
