//! Paths of requests, as they were sent: neither Envoy nor this filter makes them canonical.

/// The path of a request's target, and its query without the `?` (RFC 3986, section 3.4).
pub(crate) fn split(target: &[u8]) -> (&[u8], &[u8]) {
    match target.iter().position(|byte| *byte == b'?') {
        Some(mark) => {
            let query = target.get(mark..).and_then(|query| query.strip_prefix(b"?"));
            (target.get(..mark).unwrap_or_default(), query.unwrap_or_default())
        }
        None => (target, &[]),
    }
}

/// What about a path can be read in two ways, by Envoy, by this filter and by whoever is behind them. Rules that hang on
/// paths would be evaded by it.
pub(crate) fn ambiguity(path: &[u8]) -> Option<&'static str> {
    if path.windows(2).any(|pair| pair == b"//") {
        return Some("an empty segment (//)");
    }
    for segment in path.split(|byte| *byte == b'/') {
        // Some servers take what follows a semicolon off before they look for dots.
        if matches!(segment.split(|byte| *byte == b';').next(), Some(b"." | b"..")) {
            return Some("a dot segment");
        }
    }
    let mut rest = path.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => return Some("a backslash"),
            b'#' => return Some("a fragment (#)"),
            b'%' => match (rest.next().and_then(digit), rest.next().and_then(digit)) {
                (Some(high), Some(low)) if needs_escape(high << 4 | low) => {}
                (Some(_), Some(_)) => return Some("an escape of a character that is written as it is or not at all"),
                _ => return Some("a percent sign that is no escape"),
            },
            _ => {}
        }
    }
    None
}

fn digit(byte: &u8) -> Option<u8> {
    char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Letters, digits and `-._~` mean the same with and without an escape (RFC 3986, section 2.3), and slashes and control
/// characters are read in several ways.
const fn needs_escape(byte: u8) -> bool {
    !(byte.is_ascii_alphanumeric()
        || byte.is_ascii_control()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b'\\'))
}

/// Whether the path is this one or below it: whole segments count, in exactly this spelling.
pub(crate) fn is_within(path: &[u8], prefix: &[u8]) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || prefix.ends_with(b"/"))
}

/// Whether the path is that of the identity endpoint of Azure's metadata service or below it, in any case of letters: what answers there
/// hands out the node's own identity.
pub(crate) fn is_of_node_identity(path: &[u8]) -> bool {
    is_within(&path.to_ascii_lowercase(), NODE_IDENTITY)
}

/// Whether the prefix takes in [the identity endpoint](is_of_node_identity).
pub(crate) fn takes_in_node_identity(prefix: &[u8]) -> bool {
    is_within(NODE_IDENTITY, &prefix.to_ascii_lowercase()) || is_of_node_identity(prefix)
}

const NODE_IDENTITY: &[u8] = b"/metadata/identity";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_parted_at_its_first_question_mark() {
        assert_eq!(split(b"/a?b=c?d"), (&b"/a"[..], &b"b=c?d"[..]));
        assert_eq!(split(b"/a"), (&b"/a"[..], &b""[..]));
        assert_eq!(split(b"?"), (&b""[..], &b""[..]));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_ambiguous() {
        for path in [
            "//",
            "/a//b",
            "/.",
            "/a/..",
            "/a/./b",
            "/a/..;x/b",
            "/a\\b",
            "/%2e%2e/a",
            "/%2E",
            "/a%2fb",
            "/a%5Cb",
            "/%61",
            "/a#b",
            "/%",
            "/%2",
            "/%zz",
            "/%u002e",
            "/a%00",
        ] {
            assert!(ambiguity(path.as_bytes()).is_some(), "{path}");
        }
        for path in ["/", "/a/b/", "/a.b/..c/...", "/%20a%3Fb", "/caf%C3%A9", "/a;b", "*", ""] {
            assert_eq!(ambiguity(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn whole_segments_count() {
        assert!(is_within(b"/a/b", b"/a") && is_within(b"/a", b"/a") && is_within(b"/a/b", b"/"));
        assert!(!is_within(b"/ab", b"/a") && !is_within(b"/A", b"/a") && !is_within(b"/", b"/a"));
    }
}
