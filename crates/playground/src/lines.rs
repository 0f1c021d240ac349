//! Fields of the page with one pair of name and value in each line.

/// The pairs in a text. Empty lines are left out.
///
/// # Errors
/// If a line has no separator: a sentence with the line and `example`.
pub(crate) fn pairs(text: &str, separator: char, example: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(separator).ok_or_else(|| format!("{line:?}: write {example}"))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(pair).collect()
}

/// The environment variables in a text, `NAME=VALUE` in each line.
///
/// # Errors
/// If a line has another form: a sentence.
pub(crate) fn variables(text: &str) -> Result<Vec<(String, String)>, String> {
    pairs(text, '=', "NAME=VALUE").map_err(|error| format!("environment variable {error}"))
}

/// A text that is not empty.
pub(crate) fn given(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_pair() {
        let read = variables("A=1\n\n  B = x=y \n");
        assert_eq!(read, Ok(vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())]));
        assert_eq!(variables("A"), Err("environment variable \"A\": write NAME=VALUE".to_owned()));
    }
}
