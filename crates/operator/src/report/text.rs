//! Findings with snippets of their sources, for a terminal.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::finding::{Finding, Severity};
use crate::source::Source;

/// How many findings are shown. Nobody reads more, and JSON has all.
const MOST_SHOWN: usize = 200;

/// The findings, each with its line of the source, its cause and its remedy. Colours are escape sequences of a terminal.
pub fn text(sources: &[Source], findings: &[Finding], colours: bool) -> String {
    let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for finding in findings.iter().take(MOST_SHOWN) {
        text.push_str(&one(sources, finding, &renderer));
        text.push_str("\n\n");
    }
    if let Some(more) = findings.len().checked_sub(MOST_SHOWN).filter(|more| *more > 0) {
        text.push_str(&format!("{more} more findings are not shown: correct these first, or write --output json\n\n"));
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
    // One line: with the whole text, the time for many findings would grow with the square of its length.
    let (number, line) = source.line_at(span.start);
    let text = source.text().get(line.clone()).unwrap_or_default();
    let in_line = |offset: usize| text.floor_char_boundary(offset.saturating_sub(line.start));
    let span = in_line(span.start)..in_line(span.end);
    let snippet =
        Snippet::source(text).line_start(number).path(source.name()).annotation(AnnotationKind::Primary.span(span));
    let report = [level
        .primary_title(title)
        .id(finding.code)
        .element(snippet)
        .element(Level::HELP.message(finding.remedy.clone()))];
    renderer.render(&report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, check};

    #[test]
    fn a_snippet_shows_the_line_of_its_finding() {
        let source = Source::new("f.yaml", "destinations:\r\n- { hosts: [a.example], action: pass, ä: 1 }\r\n");
        let found = check(std::slice::from_ref(&source), &Options::default()).findings;
        let shown = text(std::slice::from_ref(&source), &found, false);
        assert!(
            shown.contains(" --> f.yaml:2:39\n") && shown.contains("2 | - { hosts: [a.example], action: pass, ä: 1 }"),
            "{shown}"
        );
    }

    #[test]
    fn of_many_findings_the_first_are_shown() {
        let lines: String = (0..1000).map(|number| format!("- {{ hosts: [h{number}.example], x: 1 }}\n")).collect();
        let source = Source::new("f.yaml", format!("destinations:\n{lines}"));
        let found = check(std::slice::from_ref(&source), &Options::default()).findings;
        let shown = text(std::slice::from_ref(&source), &found, false);
        assert_eq!(shown.matches("\nerror[").count() + 1, MOST_SHOWN);
        assert!(
            shown.contains(&format!("\n{} more findings are not shown", found.len() - MOST_SHOWN)),
            "{}",
            found.len()
        );
    }
}
