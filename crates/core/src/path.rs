//! Request paths: splitting, decoding and comparing them. The request itself is forwarded with its original path.

use std::borrow::Cow;

/// Splits a request target into its path and its query, without the `?` (RFC 3986, section 3.4).
pub(crate) fn split(target: &[u8]) -> (&[u8], &[u8]) {
    match target.iter().position(|byte| *byte == b'?') {
        Some(index) => {
            let query = target.get(index..).and_then(|query| query.strip_prefix(b"?"));
            (target.get(..index).unwrap_or_default(), query.unwrap_or_default())
        }
        None => (target, &[]),
    }
}

/// Returns the percent-decoded path, which path rules are compared with: servers treat `/%24batch` and `/$batch` as the
/// same path.
///
/// # Errors
/// Names the part of the path that servers interpret in different ways, such as `a dot segment`: with it, a request could
/// evade a path rule.
pub(crate) fn canonical(path: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let decoded = decode(path)?;
    if decoded.iter().any(u8::is_ascii_control) {
        return Err("a control character");
    }
    // A CONNECT request has no path, and `OPTIONS *` applies to the whole server (RFC 9110, section 9.3.7).
    if !decoded.starts_with(b"/") && !decoded.is_empty() && *decoded != *b"*" {
        return Err("no slash at its beginning");
    }
    if decoded.windows(2).any(|pair| pair == b"//") {
        return Err("an empty segment (//)");
    }
    if decoded.contains(&b';') {
        // Some servers, such as Java servlet containers, drop the rest of the segment (RFC 3986, section 3.3).
        return Err("a matrix parameter (;)");
    }
    if decoded.windows(2).any(|pair| pair == b":$") {
        // On NTFS `/a::$DATA` is the file `/a`, and `/a:$i30:$INDEX_ALLOCATION/b` is `/a/b` (learn.microsoft.com, "File Streams").
        return Err("an NTFS stream type (:$)");
    }
    for segment in decoded.split(|byte| *byte == b'/') {
        match segment {
            b"." | b".." => return Err("a dot segment"),
            // Windows file systems drop trailing dots and spaces.
            [.., b'.' | b' '] => return Err("a segment that ends in a dot or a space"),
            _ => {}
        }
    }
    if decoded.split(|byte| *byte == b'%').skip(1).any(is_escape) {
        return Err("an escape that is itself escaped (%25)");
    }
    // Overlong encodings can hide slashes and dots. Servers replace or drop other invalid UTF-8, or read it as Latin-1.
    if std::str::from_utf8(&decoded).is_err() {
        return Err("bytes that are not valid UTF-8");
    }
    Ok(decoded)
}

/// Decodes every percent-encoded byte. An encoded slash is an error, because decoding it would change the segments.
fn decode(path: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    if path.contains(&b'\\') {
        return Err("a backslash");
    }
    if path.contains(&b'#') {
        return Err("a fragment (#)");
    }
    let mut parts = path.split(|byte| *byte == b'%');
    let before = parts.next().unwrap_or_default();
    if before.len() == path.len() {
        return Ok(Cow::Borrowed(path));
    }
    let mut decoded = before.to_vec();
    for part in parts {
        match escaped(part) {
            Some((b'/' | b'\\', _)) => return Err("an escaped slash or backslash"),
            // A server that decodes a path before it rewrites it treats the rest as a query or a fragment.
            Some((b'?' | b'#', _)) => return Err("an escaped question mark or number sign (%3F, %23)"),
            Some((byte, after)) => {
                decoded.push(byte);
                decoded.extend(after);
            }
            None => return Err("a percent sign that is not an escape"),
        }
    }
    Ok(Cow::Owned(decoded))
}

/// Decodes the two hexadecimal digits at the start of `part`; returns the byte and the rest of `part`.
fn escaped(part: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (high, rest) = part.split_first()?;
    let (low, after) = rest.split_first()?;
    Some((digit(high)? << 4 | digit(low)?, after))
}

/// Whether the text after a percent sign makes it an escape, either `%2e` or the `%u002e` form that IIS decodes.
fn is_escape(part: &[u8]) -> bool {
    let four = |digits: &[u8]| digits.get(..4).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    escaped(part).is_some() || matches!(part.split_first(), Some((b'u' | b'U', digits)) if four(digits))
}

/// Says why a path cannot be compared byte by byte: it has no canonical form, or it encodes a character that needs no
/// encoding. Returns `None` for a path without either.
pub(crate) fn ambiguity(path: &[u8]) -> Option<&'static str> {
    let needless = |part: &[u8]| escaped(part).is_some_and(|(byte, _)| is_pchar(byte));
    match canonical(path) {
        Err(reason) => Some(reason),
        Ok(_) if path.split(|byte| *byte == b'%').skip(1).any(needless) => {
            Some("an escape of a character that can be written as it is")
        }
        Ok(_) => None,
    }
}

/// Whether a character needs no percent-encoding in a path segment (`pchar` in RFC 3986, section 3.3).
const fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~')
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// Whether the path equals `prefix` or is below it. Whole segments are compared, byte by byte.
pub(crate) fn is_within(path: &[u8], prefix: &[u8]) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || prefix.ends_with(b"/"))
}

/// Whether the path is at or below the identity endpoint of the Azure Instance Metadata Service, which issues tokens of
/// the node's own identities. Case is ignored.
pub(crate) fn is_of_node_identity(path: &[u8]) -> bool {
    is_within(&path.to_ascii_lowercase(), NODE_IDENTITY)
}

/// Whether a rule for this prefix covers [the identity endpoint](is_of_node_identity), all of it or a part.
pub(crate) fn takes_in_node_identity(prefix: &[u8]) -> bool {
    is_within(NODE_IDENTITY, &prefix.to_ascii_lowercase()) || is_of_node_identity(prefix)
}

const NODE_IDENTITY: &[u8] = b"/metadata/identity";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_split_at_its_first_question_mark() {
        assert_eq!(split(b"/a?b=c?d"), (&b"/a"[..], &b"b=c?d"[..]));
        assert_eq!(split(b"/a"), (&b"/a"[..], &b""[..]));
        assert_eq!(split(b"?"), (&b""[..], &b""[..]));
    }

    #[test]
    fn a_path_that_servers_interpret_in_different_ways_has_no_canonical_form() {
        for (path, reason) in [
            ("//", "empty segment"),
            ("/a//b", "empty segment"),
            ("/admin%3Fx", "question mark"),
            ("/admin%3f", "question mark"),
            ("/c%23", "number sign"),
            ("/.", "dot segment"),
            ("/a/..", "dot segment"),
            ("/a/./b", "dot segment"),
            ("/%2e%2e/a", "dot segment"),
            ("/.%2E", "dot segment"),
            ("/a\\b", "backslash"),
            ("/a%2fb", "escaped slash"),
            ("/a%5Cb", "escaped slash or backslash"),
            ("/a#b", "fragment"),
            ("/%", "not an escape"),
            ("/%2", "not an escape"),
            ("/%zz", "not an escape"),
            ("/%u002e", "not an escape"),
            ("/a%00", "control"),
            ("/a%7f", "control"),
            ("/a%0a", "control"),
            ("/a;b", "matrix"),
            ("/admin;x=1/secret", "matrix"),
            ("/x;/admin", "matrix"),
            ("/a/..;x/b", "matrix"),
            ("/admin%3bx", "matrix"),
            ("/admin%3B/x", "matrix"),
            (";", "slash at its beginning"),
            ("/admin./x", "ends in a dot"),
            ("/admin.", "ends in a dot"),
            ("/admin%2e", "ends in a dot"),
            ("/admin%20", "ends in a dot or a space"),
            ("/admin%20/x", "ends in a dot or a space"),
            ("/admin.%20", "ends in a dot or a space"),
            ("/...", "ends in a dot"),
            ("/%20", "ends in a dot or a space"),
            ("/%252e%252e/a", "itself escaped"),
            ("/a%252fb", "itself escaped"),
            ("/a%25%32%66b", "itself escaped"),
            ("/%25u002e", "itself escaped"),
            ("/%25%75002e", "itself escaped"),
            ("/%c0%ae%c0%ae/a", "not valid UTF-8"),
            ("/a%c0%afb", "not valid UTF-8"),
            ("/a%e0%80%afb", "not valid UTF-8"),
            ("/a%f0%80%80%afb", "not valid UTF-8"),
            ("/ad%ffmin", "not valid UTF-8"),
            ("/%ed%a0%80", "not valid UTF-8"),
            ("/web.config::$DATA", "NTFS stream type"),
            ("/admin:$i30:$INDEX_ALLOCATION/x", "NTFS stream type"),
            ("/a%3A%3a%24data", "NTFS stream type"),
            ("admin", "slash at its beginning"),
            ("%2fadmin", "escaped slash"),
            ("http://a/admin", "slash at its beginning"),
            ("**", "slash at its beginning"),
        ] {
            let found = canonical(path.as_bytes()).unwrap_err();
            assert!(found.contains(reason), "{path}: {found}");
            assert_eq!(ambiguity(path.as_bytes()), Some(found), "{path}");
        }
        assert!(canonical(b"/caf\xe9").is_err(), "Latin-1");
    }

    #[test]
    fn two_spellings_of_one_path_have_one_canonical_form() {
        for (path, expected) in [
            ("/", "/"),
            ("", ""),
            ("*", "*"),
            ("/a/b/", "/a/b/"),
            ("/a.b/..c/.d", "/a.b/..c/.d"),
            ("/v1.0/%24batch", "/v1.0/$batch"),
            ("/users%28%27x%27%29", "/users('x')"),
            ("/%61dmin/%7Ex", "/admin/~x"),
            ("/%40%3A%3D%2B%2C%21%26%2A", "/@:=+,!&*"),
            ("/%20a%3Db%25", "/ a=b%"),
            ("/100%25-sure", "/100%-sure"),
            ("/caf%C3%A9", "/caf\u{e9}"),
            ("/caf%c3%a9", "/caf\u{e9}"),
            ("/caf\u{e9}", "/caf\u{e9}"),
            ("/a%5B0%5D", "/a[0]"),
            // Colons and tildes that services use in paths: drive items, custom methods, JSON pointers (RFC 6901), short names.
            ("/drive/root:/a.txt:/content", "/drive/root:/a.txt:/content"),
            ("/items:batch$x", "/items:batch$x"),
            ("/pointer/a~1b/PROGRA~1", "/pointer/a~1b/PROGRA~1"),
        ] {
            assert_eq!(canonical(path.as_bytes()).as_deref(), Ok(expected.as_bytes()), "{path}");
        }
        for needless in ["/%61", "/v1.0/%24batch", "/%7E", "/a/%2D"] {
            assert!(
                ambiguity(needless.as_bytes()).is_some_and(|reason| reason.contains("can be written")),
                "{needless}"
            );
        }
        for plain in ["/caf%C3%A9", "/%20a", "/v1.0/$batch", "/a%5B0%5D", "/100%25"] {
            assert_eq!(ambiguity(plain.as_bytes()), None, "{plain}");
        }
    }

    #[test]
    fn a_prefix_matches_whole_segments_only() {
        assert!(is_within(b"/a/b", b"/a") && is_within(b"/a", b"/a") && is_within(b"/a/b", b"/"));
        assert!(!is_within(b"/ab", b"/a") && !is_within(b"/A", b"/a") && !is_within(b"/", b"/a"));
    }
}
