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

/// Whether a server may take the path for another one: it has a dot segment, an empty segment, a backslash, or one of these
/// or a slash percent-encoded. A rule for paths does not hold for such a path.
pub(crate) fn is_ambiguous(path: &[u8]) -> bool {
    let encoded = |code: &[u8; 3]| path.windows(3).any(|three| three.eq_ignore_ascii_case(code));
    path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."))
        || path.windows(2).any(|two| two == b"//")
        || path.contains(&b'\\')
        || [b"%2e", b"%2f", b"%5c"].into_iter().any(encoded)
}

/// Whether the path is this one or below it: whole segments count, in exactly this spelling.
pub(crate) fn is_within(path: &[u8], prefix: &[u8]) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || prefix.ends_with(b"/"))
}

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
    fn a_path_that_may_be_taken_for_another_is_ambiguous() {
        for path in ["/a/../b", "/..", "/./a", "/a//b", "//a", "/a\\b", "/a%2eb", "/%2E%2e/b", "/a%2Fb", "/a%5cb"] {
            assert!(is_ambiguous(path.as_bytes()), "{path}");
        }
        for path in ["/", "/a/b", "/a.b/..c/c..", "/a/", "/a%20b", "/%2", "", "*"] {
            assert!(!is_ambiguous(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn whole_segments_count() {
        assert!(is_within(b"/a/b", b"/a") && is_within(b"/a", b"/a") && is_within(b"/a/b", b"/"));
        assert!(!is_within(b"/ab", b"/a") && !is_within(b"/A", b"/a") && !is_within(b"/", b"/a"));
    }
}
