//! Splits the core's messages, which are one sentence, into what was found and what to do.

/// The verbs with which an instruction begins in the core's messages.
const VERBS: &[&str] =
    &["add", "choose", "correct", "did you mean", "expected", "have", "list", "remove", "save", "set", "use", "write"];

/// What was found, and an instruction: a sentence with a capital letter and a full stop.
pub(super) fn split(message: &str) -> (String, String) {
    let lower = message.to_ascii_lowercase();
    let begins = |offset: usize| {
        let rest = lower.get(offset..).unwrap_or_default();
        VERBS.iter().any(|verb| {
            rest.strip_prefix(verb).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
        })
    };
    let separators = [": ", "; ", ". "].iter().flat_map(|separator| message.match_indices(separator));
    let mut ends: Vec<usize> = separators.map(|(offset, _)| offset).collect();
    ends.sort_unstable();
    let before_verb = ends.iter().copied().find(|end| begins(end.saturating_add(2)));
    let end = before_verb.or_else(|| ends.first().copied());
    match end.and_then(|end| Some((message.get(..end)?, message.get(end.saturating_add(2)..)?))) {
        Some((found, remedy)) => {
            let remedy = remedy.strip_prefix("expected ").map_or(remedy.to_owned(), |form| format!("write {form}"));
            (found.to_owned(), sentence(&remedy))
        }
        None => (message.to_owned(), "Correct the value.".to_owned()),
    }
}

/// A text with a capital letter at its beginning and a full stop at its end.
pub(super) fn sentence(text: &str) -> String {
    let mut characters = text.trim().chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    let mut sentence: String = first.into_iter().chain(characters).collect();
    if !sentence.ends_with(['.', '?', '!']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_split_before_its_instruction() {
        for (message, found, remedy) in [
            (r#""x" is a resource: write "x/.default""#, r#""x" is a resource"#, r#"Write "x/.default"."#),
            (r#"unknown field: did you mean "hosts"?"#, "unknown field", r#"Did you mean "hosts"?"#),
            (
                r#"cannot be combined with "action": "report": no other server. Remove app_service"#,
                r#"cannot be combined with "action": "report": no other server"#,
                "Remove app_service.",
            ),
            (
                "limits.wait (1s) is shorter: a request is answered with 504; set wait to at least 2s",
                "limits.wait (1s) is shorter: a request is answered with 504",
                "Set wait to at least 2s.",
            ),
            ("cannot be a destination: used elsewhere", "cannot be a destination", "Used elsewhere."),
        ] {
            assert_eq!(split(message), (found.to_owned(), remedy.to_owned()));
        }
    }
}
