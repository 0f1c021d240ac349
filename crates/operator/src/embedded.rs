//! Places inside a string: which byte of the source each byte of a string comes from. A configuration is JSON inside a string of
//! a YAML or JSON document, and a mistake in it has a line and a column of the document.

use std::ops::Range;

use crate::tree::Style;

/// The places of a string's bytes in the source.
#[derive(Clone, Debug)]
pub(crate) struct Places(Vec<usize>);

impl Places {
    /// The places of a text that is the source itself, from this offset on.
    pub(crate) fn direct(start: usize, length: usize) -> Self {
        Self((start..=start.saturating_add(length)).collect())
    }

    /// Follows a string through its spelling. `raw` is the source from `start` on.
    ///
    /// Characters that are not white space are found exactly. White space that YAML folds has the place of the next character. No
    /// place is beyond the source: YAML adds a line break to a literal block at the end of a file that has none.
    pub(crate) fn follow(raw: &str, start: usize, text: &str, style: Style) -> Self {
        let mut places = match style {
            Style::Literal => literal(raw, start, text),
            style => spelled(raw, start, text, style),
        };
        let end = start.saturating_add(raw.len());
        places.0.iter_mut().for_each(|place| *place = (*place).min(end));
        places
    }

    /// The place of a byte of the string in the source; that of its end for a byte beyond it.
    pub(crate) fn of(&self, offset: usize) -> usize {
        self.0.get(offset).or(self.0.last()).copied().unwrap_or_default()
    }

    /// The place of a range of the string in the source.
    pub(crate) fn range(&self, range: &Range<usize>) -> Range<usize> {
        if range.is_empty() {
            return self.of(range.start)..self.of(range.start);
        }
        // The end is that of the last byte, because the next one may be in another line.
        let last = self.of(range.end.saturating_sub(1));
        self.of(range.start)..last.saturating_add(1)
    }
}

/// A literal block keeps its lines, without their indentation.
fn literal(raw: &str, start: usize, text: &str) -> Places {
    let header = if raw.starts_with('|') { raw.find('\n').map_or(raw.len(), |end| end.saturating_add(1)) } else { 0 };
    let mut places = Vec::with_capacity(text.len().saturating_add(1));
    let mut raw_start = start.saturating_add(header);
    let mut raw_lines = raw.get(header..).unwrap_or_default().split_inclusive('\n');
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches('\n');
        let raw_line = raw_lines.next().unwrap_or_default();
        let raw_content = raw_line.trim_end_matches(['\n', '\r']);
        let indentation = raw_content.len().saturating_sub(content.len());
        let first = raw_start.saturating_add(indentation);
        places.extend((0..line.len()).map(|offset| first.saturating_add(offset)));
        raw_start = raw_start.saturating_add(raw_line.len());
    }
    let end = places.last().map_or(raw_start, |last| last.saturating_add(1));
    places.push(end);
    Places(places)
}

/// Any other style: both texts are followed character by character.
fn spelled(raw: &str, start: usize, text: &str, style: Style) -> Places {
    let mut places = Vec::with_capacity(text.len().saturating_add(1));
    let mut rest = match style {
        Style::Folded if raw.starts_with('>') => raw.split_once('\n').map_or("", |(_, rest)| rest),
        Style::SingleQuoted => raw.strip_prefix('\'').unwrap_or(raw),
        Style::DoubleQuoted => raw.strip_prefix('"').unwrap_or(raw),
        _ => raw,
    };
    for character in text.chars() {
        rest = skip_to(rest, character, style);
        let place = start.saturating_add(raw.len().saturating_sub(rest.len()));
        places.extend((0..character.len_utf8()).map(|offset| place.saturating_add(offset)));
        rest = rest.get(spelling(rest, character, style)..).unwrap_or_default();
    }
    places.push(start.saturating_add(raw.len().saturating_sub(rest.len())));
    Places(places)
}

/// Skips folded white space and escaped line breaks before a character.
fn skip_to(rest: &str, character: char, style: Style) -> &str {
    let mut rest = rest;
    loop {
        if rest.starts_with(character) {
            return rest;
        }
        let after_break = rest.strip_prefix("\\\r\n").or_else(|| rest.strip_prefix("\\\n"));
        match after_break.filter(|_| style == Style::DoubleQuoted) {
            Some(after) => rest = after.trim_start_matches([' ', '\t']),
            None if character.is_whitespace() || !rest.starts_with(char::is_whitespace) => return rest,
            None => rest = rest.trim_start(),
        }
    }
}

/// How many bytes of the source a character occupies at its beginning.
fn spelling(rest: &str, character: char, style: Style) -> usize {
    let mut characters = rest.chars();
    match (characters.next(), style) {
        (Some('\\'), Style::DoubleQuoted) => escape(rest),
        (Some('\''), Style::SingleQuoted) => 2,
        (Some(first), _) if first == character => first.len_utf8(),
        // Folding turns a line break and the indentation after it into one space.
        (Some(first), _) if first.is_whitespace() => rest.len().saturating_sub(rest.trim_start().len()),
        _ => 0,
    }
}

/// How many bytes an escape sequence occupies (YAML 1.2.2, section 5.7; RFC 8259, section 7).
fn escape(rest: &str) -> usize {
    let unit = |text: &str| {
        text.as_bytes().get(1).map_or(1, |kind| match kind {
            b'x' => 4,
            b'u' => 6,
            b'U' => 10,
            _ => 2,
        })
    };
    let first = unit(rest);
    // JSON writes one character beyond the basic plane as two units.
    let is_high = rest.get(2..first).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    let is_high = first == 6 && is_high.is_some_and(|unit| (0xd800..0xdc00).contains(&unit));
    let second = rest.get(first..).filter(|rest| is_high && rest.starts_with("\\u")).map_or(0, |_| 6);
    let length = first.saturating_add(second);
    // A character after the backslash may have several bytes.
    (length..=rest.len()).find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of the source at which the characters of the text are found.
    fn found(raw: &str, text: &str, style: Style, character: char) -> Vec<String> {
        let places = Places::follow(raw, 0, text, style);
        let at = text.char_indices().filter(|(_, other)| *other == character).map(|(offset, _)| places.of(offset));
        at.map(|place| raw[place..].chars().take(3).collect()).collect()
    }

    #[test]
    fn a_literal_block_loses_its_indentation() {
        let raw = "|\n    {\n      \"x\": 1,\n\n      \"y\": 2\n    }\n";
        let text = "{\n  \"x\": 1,\n\n  \"y\": 2\n}\n";
        assert_eq!(found(raw, text, Style::Literal, 'y'), ["y\":"]);
        assert_eq!(found(&raw.replace('\n', "\r\n"), text, Style::Literal, 'y'), ["y\":"]);
    }

    #[test]
    fn no_place_is_beyond_the_source() {
        for (raw, text, style) in [
            ("|\n  {", "{\n", Style::Literal),
            ("|\n  {\n  a", "{\na\n\n", Style::Literal),
            ("|", "a\nb", Style::Literal),
            ("\"\\u00", "ab", Style::DoubleQuoted),
            ("a", "a b c", Style::Plain),
        ] {
            let places = Places::follow(raw, 7, text, style);
            let furthest = (0..=text.len() + 1).map(|offset| places.of(offset)).max();
            assert!(furthest <= Some(7 + raw.len()), "{raw:?}: {furthest:?}");
        }
    }

    #[test]
    fn folded_and_escaped_characters_are_followed() {
        assert_eq!(
            found(">-\n  { \"x\":\n    1, \"y\": 2 }\n", "{ \"x\":\n  1, \"y\": 2 }", Style::Folded, 'y'),
            ["y\":"]
        );
        assert_eq!(
            found(
                r#""{\"\u00e4\": \"\ud83d\ude00\", \"y\": 1}""#,
                "{\"ä\": \"😀\", \"y\": 1}",
                Style::DoubleQuoted,
                'y'
            ),
            ["y\\\""]
        );
        assert_eq!(found("'it''s y.'", "it's y.", Style::SingleQuoted, 'y'), ["y.'"]);
        assert_eq!(found("\"a \\\n   b y-\"", "a b y-", Style::DoubleQuoted, 'y'), ["y-\""]);
        assert_eq!(found("{ a\n   b y- }", "{ a b y- }", Style::Plain, 'y'), ["y- "]);
    }
}
