//! `check`: the findings, each with its place.

use operator::{Options, Severity, Source, report};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{NAME, lines};

/// A text to check.
#[derive(Debug, Deserialize)]
pub(crate) struct Question {
    text: String,
    variables: String,
    /// Seconds since 1970.
    now: u64,
}

pub(crate) fn answer(question: Question) -> Result<Value, String> {
    let variables = lines::variables(&question.variables)?;
    let source = source(&question.text)?;
    let options = Options { variables, now: Some(question.now), ..Options::default() };
    let sources = [source];
    let checked = operator::check(&sources, &options);
    Ok(json!({
        "configurations": checked.configurations,
        "errors": checked.count(Severity::Error),
        "warnings": checked.count(Severity::Warning),
        "accepted": checked.accepted,
        "findings": report::json(&sources, &checked.findings),
    }))
}

/// The text of the editor as a source, within the same limits as a file.
pub(crate) fn source(text: &str) -> Result<Source, String> {
    Source::read(NAME, text.as_bytes()).map_err(|reason| format!("the {NAME} {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Value {
        let question = Question { text: text.to_owned(), variables: String::new(), now: 1_769_825_400 };
        answer(question).unwrap_or_default()
    }

    #[test]
    fn a_mistake_has_its_place_code_and_remedy() {
        let checked = check("entra: { clusters: [entra] }\ndestinatons: []\n");
        let findings = checked.get("findings").and_then(Value::as_array).cloned().unwrap_or_default();
        let unknown = findings.iter().find(|finding| finding.get("code") == Some(&json!("unknown_field")));
        let place = unknown.map(|finding| (finding.get("line").cloned(), finding.get("column").cloned()));
        assert_eq!(place, Some((Some(json!(2)), Some(json!(1)))), "{checked}");
        assert_eq!(unknown.and_then(|finding| finding.get("remedy")?.as_str()), Some("Did you mean \"destinations\"?"));
    }

    #[test]
    fn a_text_that_is_not_one_is_an_error() {
        assert_eq!(
            answer(Question { text: "a\0".to_owned(), variables: String::new(), now: 0 }),
            Err("the configuration is encoded as UTF-16: save it as UTF-8".to_owned())
        );
    }
}
