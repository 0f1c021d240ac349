//! Paths, as rules that hang on them see them: as they were sent, byte for byte, without the query.

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

/// The prefixes of whole segments, the longest first and at most so many segments long; the last is empty.
pub(super) fn prefixes(path: &[u8], deepest: usize) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(place, byte)| **byte == b'/' && *place > 0);
    let ends = slashes.map(|(place, _)| place).chain([path.len()]).take(deepest);
    let ends: Vec<usize> = [0].into_iter().chain(ends).collect();
    ends.into_iter().rev().filter_map(|end| path.get(..end))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn prefixes_are_whole_segments_and_the_longest_comes_first() {
        let of = |path: &'static str, deepest| {
            prefixes(path.as_bytes(), deepest).map(|prefix| std::str::from_utf8(prefix).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of("/a/bc/d", 9), ["/a/bc/d", "/a/bc", "/a", ""]);
        assert_eq!(of("/a/bc/d", 2), ["/a/bc", "/a", ""]);
        assert_eq!(of("/a/", 9), ["/a/", "/a", ""]);
        assert_eq!(of("*", 9), ["*", ""]);
        assert_eq!(of("/a", 0), [""]);
    }
}
