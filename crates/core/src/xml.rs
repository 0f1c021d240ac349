//! Reads one element of an XML document, such as the answer of AWS STS.

/// The text of the first element with this name that has no attributes. `None` if there is no such element, or if it contains other
/// elements. References such as `&amp;` are not replaced: a JWT has none.
pub(crate) fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = document.split_once(&["<", name, ">"].concat())?;
    let (text, _) = after.split_once(&["</", name, ">"].concat())?;
    (!text.contains('<')).then(|| text.trim())
}

#[cfg(test)]
mod tests {
    use super::element;

    #[test]
    fn the_text_of_an_element_is_found_and_nothing_else() {
        let document = "<?xml version=\"1.0\"?>\n<A xmlns=\"x\"><B><Token>\n e.y.J </Token><Token>2</Token></B><Tokens>3</Tokens></A>";
        assert_eq!(element(document, "Token"), Some("e.y.J"));
        for missing in ["A", "B", "C", "", "Toke"] {
            assert_eq!(element(document, missing), None, "{missing}");
        }
        for torn in ["<Token>e.y.J</Tok", "<Token>e.y.J", "<Token", "", "</Token>x<Token>"] {
            assert_eq!(element(torn, "Token"), None, "{torn}");
        }
    }
}
