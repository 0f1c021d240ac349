//! Types for untrusted text. It is truncated and sanitized once, where it enters, so that it can be logged and quoted.
//!
//! Text from a response, a federated token's claims, a caller or an environment variable may be too long, forge log lines,
//! reorder what a terminal displays, or contain a secret. A value of the types in this module has none of these problems.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The placeholder for a removed secret.
const HIDDEN: &str = "(hidden)";

/// The number of consecutive letters and digits in common with a secret that count as a piece of it. Shorter sequences
/// also occur in ordinary text.
const SHORTEST_PIECE: usize = 8;

/// The number of consecutive letters and digits in common with a secret that do not also occur in a name by chance.
const LONG_PIECE: usize = 12;

/// The number of consecutive base64url characters that may be a secret: 43 characters encode 256 bits.
const SHORTEST_TOKEN: usize = 43;

/// The number of bytes of a raw text that are read. It bounds the time of the comparison with a secret.
const LONGEST_RAW: usize = 2 * UntrustedText::LONGEST;

/// An untrusted text: at most 1 KiB on one line, without control characters, invisible characters, or characters that
/// reorder text.
#[derive(Clone, PartialEq, Eq)]
pub struct UntrustedText(String);

impl UntrustedText {
    /// The maximum length in bytes.
    pub const LONGEST: usize = 1024;

    /// Sanitizes and truncates a text that contains no secret.
    pub fn new(text: &str) -> Self {
        Self(cut(clean(start(text, LONGEST_RAW)), Self::LONGEST))
    }

    /// Sanitizes and truncates a text that may contain `secret` or another token.
    ///
    /// Each piece of the secret is removed by comparison, which ignores case and all characters but letters and digits.
    /// Other tokens, which are not available for comparison, are recognized by their form and removed.
    pub fn without(text: &str, secret: &str) -> Self {
        let text = remove_pieces(start(text, LONGEST_RAW), secret);
        Self(cut(remove_token_like(&clean(&text)), Self::LONGEST))
    }

    /// The same text, truncated to `longest` bytes.
    pub(crate) fn shortened(self, longest: usize) -> Self {
        Self(cut(self.0, longest))
    }

    /// The cleaned text.
    pub(crate) fn into_string(self) -> String {
        self.0
    }

    /// The cleaned text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Quoted and escaped like a `str`.
impl fmt::Debug for UntrustedText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl fmt::Display for UntrustedText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A GUID in its usual form, such as a tenant id, a client id or an id in Entra's responses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Guid(String);

impl Guid {
    /// Parses a GUID; `None` if the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        is_guid(text).then(|| Self(text.to_owned()))
    }

    /// The GUID in its original case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Guid {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not a GUID")
    }
}

/// Whether the text is a GUID: hexadecimal digits in groups of 8, 4, 4, 4 and 12, without braces.
pub(crate) fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// An OAuth error code, such as `invalid_client`: at most 64 of the characters that RFC 6749, section 5.2 allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct OAuthError(String);

impl OAuthError {
    /// Twice the longest of the registered codes (IANA, "OAuth Extensions Error Registry").
    const LONGEST: usize = 64;

    /// Parses an error code; `None` if the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |byte: u8| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        let is_code = (1..=Self::LONGEST).contains(&text.len()) && text.bytes().all(fits);
        is_code.then(|| Self(text.to_owned()))
    }

    /// Like [`Self::parse`], but also gives `None` if the text contains a piece of `secret`.
    pub fn parse_without(text: &str, secret: &str) -> Option<Self> {
        Self::parse(text).filter(|code| UntrustedText::without(&code.0, secret).0 == code.0)
    }

    /// The error code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for OAuthError {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not an OAuth error code")
    }
}

/// Whether a character is invisible or changes how other characters are displayed: control characters, line and paragraph
/// separators, zero-width and bidirectional formatting characters (Unicode Standard Annex 9), and tags.
pub(crate) fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180d}' | '\u{2800}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0080}'..='\u{e01ef}'
            | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Joins the text to one line: each run of white space and invisible characters becomes one space; the ends are trimmed.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || is_invisible(c)).filter(|word| !word.is_empty()) {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
    }
    clean
}

/// The longest prefix of a text of at most `longest` bytes.
fn start(text: &str, longest: usize) -> &str {
    text.get(..text.floor_char_boundary(longest)).unwrap_or_default()
}

/// Truncates the text to `longest` bytes, including the ellipsis that marks the truncation.
fn cut(text: String, longest: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= longest { text } else { format!("{}{MARK}", start(&text, longest - MARK.len())) }
}

/// The letters and digits of a text in lower case, each with its byte index.
fn letters(text: &str) -> Vec<(usize, u8)> {
    let bytes = text.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_alphanumeric());
    bytes.map(|(index, byte)| (index, byte.to_ascii_lowercase())).collect()
}

/// Each run of [`SHORTEST_PIECE`] letters: the indices of its start and end, and the run as a number.
fn pieces(letters: &[(usize, u8)]) -> impl Iterator<Item = (usize, usize, u64)> {
    letters.windows(SHORTEST_PIECE).filter_map(|window| {
        let run = window.iter().fold(0, |run, (_, byte)| (run << 8) | u64::from(*byte));
        Some((window.first()?.0, window.last()?.0 + 1, run))
    })
}

/// The beginning of a text, as much of it as is read.
pub(crate) fn beginning(text: &str) -> &str {
    start(text, LONGEST_RAW)
}

/// Replaces each piece of `secret` in a text with [`HIDDEN`]. A secret that is too short to have pieces is replaced as a whole.
pub(crate) fn remove_pieces(text: &str, secret: &str) -> String {
    let of_secret: Vec<u64> = pieces(&letters(secret)).map(|(_, _, run)| run).collect();
    if of_secret.is_empty() && !secret.is_empty() {
        return remove_whole(text, secret);
    }
    let (mut clean, mut end) = (String::with_capacity(text.len()), 0);
    for (from, to, _) in pieces(&letters(text)).filter(|(_, _, run)| of_secret.contains(run)) {
        // Overlapping runs are one piece. Both indices are at ASCII characters, so the slice is valid.
        if from >= end {
            clean.push_str(text.get(end..from).unwrap_or_default());
            clean.push_str(HIDDEN);
        }
        end = to;
    }
    clean.push_str(text.get(end..).unwrap_or_default());
    clean
}

/// Whether a text contains [`LONG_PIECE`] consecutive letters and digits of a secret, or all of a secret that has at least
/// [`SHORTEST_PIECE`], whatever their case and the characters between them. A name can have fewer in common with a secret by chance.
pub(crate) fn holds(text: &str, secret: &str) -> bool {
    let (text, secret) = (letters(text), letters(secret));
    let length = secret.len().min(LONG_PIECE);
    let is_same = |(run, part): (&(usize, u8), &(usize, u8))| run.1 == part.1;
    let is_in = |part: &[(usize, u8)]| text.windows(length).any(|run| run.iter().zip(part).all(is_same));
    length >= SHORTEST_PIECE && secret.windows(length).any(is_in)
}

/// Replaces each occurrence of `secret`, which is not empty, with [`HIDDEN`]. `str::replace` would add more than a kilobyte to the module.
fn remove_whole(mut text: &str, secret: &str) -> String {
    let mut clean = String::new();
    while let Some(at) = text.as_bytes().windows(secret.len()).position(|window| window == secret.as_bytes()) {
        clean.push_str(text.get(..at).unwrap_or_default());
        clean.push_str(HIDDEN);
        text = text.get(at + secret.len()..).unwrap_or_default();
    }
    clean.push_str(text);
    clean
}

/// Replaces everything that has the form of a token with [`HIDDEN`].
fn remove_token_like(text: &str) -> String {
    let (mut clean, mut run) = (String::with_capacity(text.len()), String::new());
    // The added space ends the last run; it is removed again below.
    for character in text.chars().chain([' ']) {
        if character.is_ascii_alphanumeric() || matches!(character, '-' | '_') {
            run.push(character);
            continue;
        }
        clean.push_str(if is_token_like(&run) { HIDDEN } else { &run });
        clean.push(character);
        run.clear();
    }
    clean.pop();
    clean
}

/// Whether a run of characters is a JSON object in base64url, or at least [`SHORTEST_TOKEN`] base64url characters with
/// upper case, lower case and digits. Kubernetes names and hexadecimal digests lack one of these three.
fn is_token_like(run: &str) -> bool {
    let has = |class: fn(&u8) -> bool| run.as_bytes().iter().any(class);
    let is_mixed = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit);
    (run.len() >= SHORTEST_TOKEN && is_mixed) || (run.len() >= SHORTEST_PIECE && run.starts_with("eyJ"))
}

/// Whether the text has the beginning of a part of a JWT.
pub(crate) fn holds_jwt(text: &str) -> bool {
    let is_start = |window: &[u8]| matches!(window, [before, b'e', b'y', b'J'] if !before.is_ascii_alphanumeric());
    text.starts_with("eyJ") || text.as_bytes().windows(4).any(is_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2EifQ.c2lnbmF0dXJlT2ZOb2JvZHk";

    fn sanitized(text: &str) -> String {
        UntrustedText::without(text, SECRET).0
    }

    #[test]
    fn a_text_is_joined_to_one_line_without_invisible_characters() {
        let text = "  a\r\nevent=x\0\u{1b}[31m\u{7f}b\u{85}c\u{2028}d\u{202e}e\u{2066}f\u{200b}g\u{feff}\u{e0041}h\t ";
        assert_eq!(UntrustedText::new(text).as_str(), "a event=x [31m b c d e f g h");
        assert_eq!(UntrustedText::new("Zürich, 東京 🙂").as_str(), "Zürich, 東京 🙂");
    }

    #[test]
    fn a_text_is_truncated_to_one_kibibyte_at_a_character_boundary() {
        for long in ["a".repeat(1025), "ü".repeat(600), "🙂".repeat(100_000), " \n".repeat(9000) + "end"] {
            let text = UntrustedText::new(&long);
            assert!(text.as_str().len() <= UntrustedText::LONGEST, "{}", text.as_str().len());
        }
        assert!(UntrustedText::new(&"a".repeat(1025)).as_str().ends_with("a…"));
        assert_eq!(UntrustedText::new(&"a".repeat(1024)).as_str().len(), 1024);
    }

    #[test]
    fn a_secret_and_its_parts_are_removed() {
        let parts: Vec<&str> = SECRET.split('.').collect();
        assert_eq!(sanitized(SECRET), "(hidden)");
        for part in parts {
            assert_eq!(sanitized(&format!("bad '{part}', sorry")), "bad '(hidden)', sorry");
        }
        assert_eq!(sanitized("nothing here"), "nothing here");
    }

    #[test]
    fn a_secret_in_pieces_is_removed() {
        for separator in [" ", "\n", "|", ", ", "\u{200b}", "\u{202e}", "%", "-", "🙂"] {
            for length in [3, 8, 20] {
                let pieces: Vec<&str> =
                    SECRET.as_bytes().chunks(length).map(|piece| std::str::from_utf8(piece).unwrap()).collect();
                let text = sanitized(&format!("got: {}", pieces.join(separator)));
                assert_eq!(text, "got: (hidden)", "{separator:?}, {length}");
            }
        }
        let apart = format!("{} and then, much later, {}", &SECRET[..30], &SECRET[30..]);
        assert_eq!(sanitized(&apart), "(hidden) and then, much later, (hidden)");
    }

    #[test]
    fn a_secret_in_another_case_or_alphabet_is_removed() {
        assert_eq!(sanitized(&SECRET.to_uppercase()), "(hidden)");
        let secret = "ab-cd_efgh-ij_klmnop";
        assert_eq!(UntrustedText::without("ab+cd/efgh+ij/klmnop", secret).0, "(hidden)");
    }

    #[test]
    fn a_secret_at_the_end_of_what_is_read_is_removed() {
        let text = sanitized(&format!("{}{SECRET}", " .".repeat(LONGEST_RAW / 2 - 4)));
        assert!(!text.contains("eyJhbGci"), "{text}");
    }

    #[test]
    fn a_token_that_cannot_be_compared_is_recognized_by_its_form() {
        assert_eq!(sanitized("a eyJhY2Nlc3M.b"), "a (hidden).b");
        let other = "ewogImFsZyI6Im5vbmUifQ.ewogInN1YiI6ICJhbm90aGVyIGNhbGxlciBvZiB0aGUgZW5kcG9pbnQiIH0x.AAAAaaaa1111AAAAaaaa1111AAAAaaaa1111AAAAaaaa1111";
        assert_eq!(sanitized(&format!("not {other}!")), "not ewogImFsZyI6Im5vbmUifQ.(hidden).(hidden)!");
        for kept in [
            "system:serviceaccount:a-namespace-with-a-rather-long-name-of-63-letters-and-more:api",
            "AADSTS700027, thumbprint 'C6FD0A21B3E1A7B2C9D0E1F2A3B4C5D6E7F80912C6FD0A21B3E1A7B2C9D0E1F2'",
            "11111111-1111-4111-8111-111111111111",
        ] {
            assert_eq!(sanitized(kept), kept);
        }
    }

    #[test]
    fn an_error_code_has_at_most_64_characters_of_those_that_oauth_allows() {
        for code in ["invalid_client", "a b!#[]~", "x"] {
            assert_eq!(OAuthError::parse(code).unwrap().as_str(), code);
        }
        for other in ["", "a\"b", "a\\b", "a\nb", "ü", "\u{7f}", &"a".repeat(65)] {
            assert_eq!(OAuthError::parse(other), None, "{other:?}");
        }
        assert_eq!(OAuthError::parse_without(&SECRET[..40], SECRET), None);
        assert!(OAuthError::parse_without("invalid_client", SECRET).is_some());
    }

    #[test]
    fn a_stored_value_is_validated_when_it_is_read() {
        assert!(serde_json::from_str::<Guid>("\"11111111-1111-4111-8111-111111111111\"").is_ok());
        assert!(serde_json::from_str::<Guid>("\"x\"").is_err());
        assert!(serde_json::from_str::<OAuthError>("\"a\\nb\"").is_err());
    }
}
