//! The parser. Its messages and positions are those of `serde_json`, but for a string that is not UTF-8: the position is its end.

use std::fmt;

use super::Json;

/// The maximum number of levels, plus one. It bounds the recursion, and with it the stack.
const MAX_DEPTH: usize = 128;

/// The reason why a text is not JSON, with its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    reason: &'static str,
    /// The line, from 1.
    line: usize,
    /// The number of bytes of the line up to the position.
    column: usize,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at line {} column {}", self.reason, self.line, self.column)
    }
}

/// Parses a text.
pub(super) fn parse(text: &[u8]) -> Result<Json, Error> {
    let mut parser = Parser { text, index: 0, depth: 0 };
    let value = parser.value()?;
    match parser.next_token() {
        None => Ok(value),
        Some(_) => Err(parser.at_next("trailing characters")),
    }
}

const INVALID_NUMBER: &str = "invalid number";
const INVALID_ESCAPE: &str = "invalid escape";
const VALUE_ENDS: &str = "EOF while parsing a value";
const STRING_ENDS: &str = "EOF while parsing a string";
const TRAILING_COMMA: &str = "trailing comma";
const LONE_SURROGATE: &str = "lone leading surrogate in hex escape";
const HEX_ESCAPE_ENDS: &str = "unexpected end of hex escape";
const NOT_UNICODE: &str = "invalid unicode code point";

struct Parser<'t> {
    text: &'t [u8],
    /// The index of the next byte.
    index: usize,
    /// The number of levels that the value is in.
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.index).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.index += 1;
        Some(byte)
    }

    /// Skips white space, and returns the next byte without consuming it.
    fn next_token(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.index += 1;
        }
        self.peek()
    }

    /// An error after the bytes that are consumed.
    #[inline(never)]
    fn here(&self, reason: &'static str) -> Error {
        let before = self.text.get(..self.index).unwrap_or(self.text);
        let line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        Error { reason, line: lines.saturating_add(1), column: line.len() }
    }

    /// An error in the next byte.
    #[inline(never)]
    fn at_next(&self, reason: &'static str) -> Error {
        Parser { index: self.index.saturating_add(1), ..*self }.here(reason)
    }

    fn value(&mut self) -> Result<Json, Error> {
        match self.next_token() {
            None => Err(self.at_next(VALUE_ENDS)),
            Some(b'n') => self.word("null", Json::Null),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'-' | b'0'..=b'9') => self.number().map(Json::Number),
            Some(b'"') => self.string().map(Json::String),
            Some(bracket @ (b'[' | b'{')) => {
                self.depth += 1;
                if self.depth >= MAX_DEPTH {
                    return Err(self.at_next("recursion limit exceeded"));
                }
                self.index += 1;
                let value = if bracket == b'[' { self.list() } else { self.object() };
                self.depth -= 1;
                value
            }
            Some(_) => Err(self.at_next("expected value")),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, Error> {
        for byte in word.bytes() {
            match self.next() {
                Some(next) if next == byte => {}
                Some(_) => return Err(self.here("expected ident")),
                None => return Err(self.here(VALUE_ENDS)),
            }
        }
        Ok(value)
    }

    fn list(&mut self) -> Result<Json, Error> {
        let mut items = Vec::new();
        loop {
            match self.next_token() {
                None => return Err(self.at_next("EOF while parsing a list")),
                Some(b']') => break,
                Some(b',') if !items.is_empty() => {
                    self.index += 1;
                    if self.next_token() == Some(b']') {
                        return Err(self.at_next(TRAILING_COMMA));
                    }
                }
                Some(_) if !items.is_empty() => return Err(self.at_next("expected `,` or `]`")),
                Some(_) => {}
            }
            items.push(self.value()?);
        }
        self.index += 1;
        Ok(Json::List(items))
    }

    fn object(&mut self) -> Result<Json, Error> {
        let mut fields = Vec::new();
        loop {
            match self.next_token() {
                None => return Err(self.at_next("EOF while parsing an object")),
                Some(b'}') => break,
                Some(b',') if !fields.is_empty() => self.index += 1,
                Some(_) if !fields.is_empty() => return Err(self.at_next("expected `,` or `}`")),
                Some(_) => {}
            }
            match self.next_token() {
                Some(b'"') => {}
                Some(b'}') => return Err(self.at_next(TRAILING_COMMA)),
                Some(_) => return Err(self.at_next("key must be a string")),
                None => return Err(self.at_next(VALUE_ENDS)),
            }
            let name = self.string()?;
            match self.next_token() {
                Some(b':') => self.index += 1,
                Some(_) => return Err(self.at_next("expected `:`")),
                None => return Err(self.at_next("EOF while parsing an object")),
            }
            let value = self.value()?;
            fields.push((name, value));
        }
        self.index += 1;
        Ok(Json::Object(fields))
    }

    fn number(&mut self) -> Result<String, Error> {
        let start = self.index;
        if self.peek() == Some(b'-') {
            self.index += 1;
        }
        match self.next() {
            Some(b'0') if matches!(self.peek(), Some(b'0'..=b'9')) => return Err(self.at_next(INVALID_NUMBER)),
            Some(b'0'..=b'9') => self.digits(),
            Some(_) => return Err(self.here(INVALID_NUMBER)),
            None => return Err(self.here(VALUE_ENDS)),
        }
        if self.peek() == Some(b'.') {
            self.index += 1;
            match self.peek() {
                Some(b'0'..=b'9') => self.digits(),
                Some(_) => return Err(self.at_next(INVALID_NUMBER)),
                None => return Err(self.at_next(VALUE_ENDS)),
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.index += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.index += 1;
            }
            match self.next() {
                Some(b'0'..=b'9') => self.digits(),
                Some(_) => return Err(self.here(INVALID_NUMBER)),
                None => return Err(self.here(VALUE_ENDS)),
            }
        }
        let number = self.text.get(start..self.index).unwrap_or_default();
        Ok(String::from_utf8_lossy(number).into_owned())
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.index += 1;
        }
    }

    fn string(&mut self) -> Result<String, Error> {
        self.index += 1;
        let mut bytes = Vec::new();
        loop {
            let rest = self.text.get(self.index..).unwrap_or_default();
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len());
            bytes.extend_from_slice(rest.get(..plain).unwrap_or_default());
            self.index += plain;
            match self.next() {
                Some(b'"') => break,
                Some(b'\\') => self.escape(&mut bytes)?,
                Some(_) => return Err(self.here("control character (\\u0000-\\u001F) found while parsing a string")),
                None => return Err(self.here(STRING_ENDS)),
            }
        }
        String::from_utf8(bytes).map_err(|_| self.here(NOT_UNICODE))
    }

    /// Reads what follows a backslash.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let byte = match self.next() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let character = self.escaped_character()?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            Some(_) => return Err(self.here(INVALID_ESCAPE)),
            None => return Err(self.here(STRING_ENDS)),
        };
        bytes.push(byte);
        Ok(())
    }

    /// Reads a character in one hexadecimal escape, or in two of which each is a surrogate (RFC 8259, section 7).
    fn escaped_character(&mut self) -> Result<char, Error> {
        let first = self.hexadecimal()?;
        let code = match first {
            0xdc00..=0xdfff => return Err(self.here(LONE_SURROGATE)),
            0xd800..=0xdbff => {
                for expected in *b"\\u" {
                    match self.next() {
                        Some(next) if next == expected => {}
                        Some(_) => return Err(self.here(HEX_ESCAPE_ENDS)),
                        None => return Err(self.here(STRING_ENDS)),
                    }
                }
                let second = self.hexadecimal()?;
                if !matches!(second, 0xdc00..=0xdfff) {
                    return Err(self.here(LONE_SURROGATE));
                }
                0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            code => code,
        };
        char::from_u32(code).ok_or_else(|| self.here(NOT_UNICODE))
    }

    /// Reads four hexadecimal digits.
    fn hexadecimal(&mut self) -> Result<u32, Error> {
        let digits = self.text.get(self.index..).and_then(|rest| rest.first_chunk::<4>());
        self.index = self.text.len().min(self.index.saturating_add(4));
        let Some(digits) = digits else { return Err(self.here(STRING_ENDS)) };
        let mut code = 0;
        for byte in digits {
            let Some(digit) = char::from(*byte).to_digit(16) else { return Err(self.here(INVALID_ESCAPE)) };
            code = code << 4 | digit;
        }
        Ok(code)
    }
}
