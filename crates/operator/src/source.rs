//! The text of a file, and positions in it.

use std::fmt;
use std::ops::Range;

use crate::yaml;

/// The largest file that is read, in bytes. A Kubernetes object has at most 1.5 MB (etcd's limit for a request).
pub const LONGEST: usize = 8 * 1024 * 1024;

/// The text of a file with the name that messages show.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
    /// The byte offset at which each line begins.
    lines: Vec<usize>,
    has_byte_order_mark: bool,
}

/// Why the content of a file is not a text that can be checked. `Display` continues a sentence that begins with the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotText {
    /// It has more than [`LONGEST`] bytes.
    TooLong,
    /// It is encoded as UTF-16 or UTF-32.
    Utf16,
    /// It has a byte that is not part of valid UTF-8, at this line.
    NotUtf8(usize),
    /// It has a NUL character, at this line.
    Nul(usize),
    /// Its YAML aliases stand for more values than are read.
    AliasBomb,
}

impl fmt::Display for NotText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(formatter, "is larger than {} MB, so it is not checked", LONGEST / 1024 / 1024),
            Self::Utf16 => formatter.write_str("is encoded as UTF-16: save it as UTF-8"),
            Self::NotUtf8(line) => write!(formatter, "is not valid UTF-8 in line {line}: save it as UTF-8"),
            Self::Nul(line) => write!(formatter, "has a NUL character in line {line}: it is not a text file"),
            Self::AliasBomb => write!(
                formatter,
                "has YAML aliases that expand to more than {} values: write the values out",
                yaml::MOST_VALUES
            ),
        }
    }
}

impl std::error::Error for NotText {}

/// A position in a file: line and column, both from 1. The column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl Source {
    /// Reads the content of a file. A byte order mark of UTF-8 is kept in the text, so that it can be reported.
    ///
    /// # Errors
    /// If the content is not text in UTF-8, too long, or an alias bomb.
    pub fn read(name: impl Into<String>, content: &[u8]) -> Result<Self, NotText> {
        if content.len() > LONGEST {
            return Err(NotText::TooLong);
        }
        if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] = content {
            return Err(NotText::Utf16);
        }
        let line_of =
            |offset: usize| content.iter().take(offset).filter(|byte| **byte == b'\n').count().saturating_add(1);
        let text = std::str::from_utf8(content).map_err(|error| NotText::NotUtf8(line_of(error.valid_up_to())))?;
        if let Some(offset) = text.find('\0') {
            return Err(NotText::Nul(line_of(offset)));
        }
        if yaml::expands_too_far(text) {
            return Err(NotText::AliasBomb);
        }
        Ok(Self::new(name, text))
    }

    /// A source with this text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let breaks = text.match_indices('\n').map(|(offset, _)| offset.saturating_add(1));
        let lines = std::iter::once(0).chain(breaks).collect();
        let has_byte_order_mark = text.starts_with('\u{feff}');
        // A control character could act on the terminal that shows the name.
        let name = name.into().replace(char::is_control, " ");
        Self { name, text, lines, has_byte_order_mark }
    }

    /// The name of the file, with spaces in place of control characters.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text, with a byte order mark if the file has one.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the file begins with a byte order mark.
    pub const fn has_byte_order_mark(&self) -> bool {
        self.has_byte_order_mark
    }

    /// The byte offset at which the content begins: after a byte order mark.
    pub const fn content_start(&self) -> usize {
        if self.has_byte_order_mark { '\u{feff}'.len_utf8() } else { 0 }
    }

    /// The position of a byte offset. A byte order mark occupies no column.
    pub fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        let column = before.chars().filter(|character| *character != '\u{feff}').count().saturating_add(1);
        Position { line, column }
    }

    /// The line at a byte offset: its number, from 1, and its bytes without the line break.
    pub(crate) fn line_at(&self, offset: usize) -> (usize, Range<usize>) {
        let line = self.lines.partition_point(|start| *start <= offset.min(self.text.len())).max(1);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let end = self.lines.get(line).map_or(self.text.len(), |next| next.saturating_sub(1));
        (line, start..end.max(start))
    }

    /// The byte offset of a position; the end of the line or text if the position is beyond it.
    pub fn offset(&self, position: Position) -> usize {
        offset_in(&self.text, position)
    }

    /// The part of a span that is in its first line, and at least one character if there is one.
    pub fn first_line_of(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.floor_char_boundary(span.end.max(start));
        let text = self.text.get(start..end).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default().trim_end();
        let shortest = self.text.get(start..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        start..start.saturating_add(line.len().max(shortest)).min(self.text.len())
    }
}

/// The byte offset of a position in a text; the end of the line or text if the position is beyond it.
pub(crate) fn offset_in(text: &str, position: Position) -> usize {
    let mut start = 0;
    for _ in 1..position.line {
        match text.get(start..).and_then(|rest| rest.find('\n')) {
            Some(length) => start = start.saturating_add(length).saturating_add(1),
            None => return text.len(),
        }
    }
    let line = text.get(start..).and_then(|rest| rest.split('\n').next()).unwrap_or_default();
    let column = position.column.saturating_sub(1);
    start.saturating_add(line.char_indices().nth(column).map_or(line.len(), |(offset, _)| offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_characters_and_an_offset_is_its_inverse() {
        let source = Source::new("f", "a: ä\nß: b\n");
        let offset = source.text().find('b').unwrap();
        let position = source.position(offset);
        assert_eq!(position, Position { line: 2, column: 4 });
        assert_eq!(source.offset(position), offset);
        assert_eq!(source.position(usize::MAX), Position { line: 3, column: 1 });
    }

    #[test]
    fn content_that_is_not_text_is_named() {
        let read = |content: &[u8]| Source::read("f", content).map(|_| ()).unwrap_err();
        assert_eq!(read(b"\xff\xfea\0"), NotText::Utf16);
        assert_eq!(read(b"{\0}\0"), NotText::Utf16);
        assert_eq!(read(b"a\nb\xff"), NotText::NotUtf8(2));
        assert_eq!(read(b"a\nbc\0"), NotText::Nul(2));
        assert_eq!(read(&vec![b' '; LONGEST + 1]), NotText::TooLong);
        assert_eq!(read(yaml::tests::alias_bomb().as_bytes()), NotText::AliasBomb);
    }
}
