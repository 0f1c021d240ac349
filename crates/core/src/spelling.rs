//! What was perhaps meant by a word that is not known.

/// The known word that is nearest to this one, when it is near enough to have been meant.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|other| (strsim::osa_distance(word, other), *other));
    distances.min().filter(|(distance, other)| *distance <= 1 + other.len() / 4).map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_near_and_another_word_is_not() {
        let known = ["hosts", "identity", "scope"];
        assert_eq!(nearest("host", &known), Some("hosts"));
        assert_eq!(nearest("indentity", &known), Some("identity"));
        assert_eq!(nearest("tokens", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
