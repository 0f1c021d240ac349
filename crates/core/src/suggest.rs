//! "Did you mean" suggestions for unknown words in a configuration.

/// Returns the known word that is most similar to `word`, or `None` when no known word is similar enough to be a typo.
/// The measure is the number of inserted, removed, replaced or swapped characters.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|other| (strsim::osa_distance(word, other), *other));
    distances.min().filter(|(distance, other)| *distance <= 1 + other.len() / 4).map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_gets_a_suggestion_and_an_unrelated_word_gets_none() {
        let known = ["hosts", "identity", "scope"];
        assert_eq!(nearest("host", &known), Some("hosts"));
        assert_eq!(nearest("indentity", &known), Some("identity"));
        assert_eq!(nearest("tokens", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
