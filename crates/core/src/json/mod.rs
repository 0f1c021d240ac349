//! JSON (RFC 8259): a value, a parser and a writer.
//!
//! They replace those of `serde_json` in the module, which are 45 KB larger, for the most part because of floating-point numbers: here a
//! number keeps its text. `tests.rs` compares them with those of `serde_json`.

mod parser;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use parser::Error;
pub(crate) use writer::{ObjectWriter, quoted};

/// A value. Objects keep duplicate fields, so that they can be reported. RFC 8259, section 4, leaves their handling to the reader.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// A string.
    String(String),
    /// An array.
    List(Vec<Self>),
    /// An object, with its fields in their order.
    Object(Vec<(String, Self)>),
}

impl Json {
    /// Parses a text.
    ///
    /// # Errors
    /// If the text is not JSON in UTF-8, or has more than 127 levels.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Error> {
        parser::parse(text)
    }

    /// The value of a field; the last one of several with the same name. `None` if this is not an object.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(fields) => fields.iter().rev().find(|(field, _)| field == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The value of a field that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Self::as_str)
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is written without a fraction and an exponent, and not too large.
    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Number(number) => number.parse().ok(),
            _ => None,
        }
    }

    /// The number, rounded down, and whether it had no fraction. `None` for a negative number.
    pub(crate) fn floor(&self) -> Option<(u64, bool)> {
        match self {
            Self::Number(number) => floor(number),
            _ => None,
        }
    }
}

/// The largest exponent that is computed with. A number of u64 has 20 digits.
const LARGEST_EXPONENT: usize = 400;

/// Rounds a number down. A number beyond the range gives the largest one.
fn floor(number: &str) -> Option<(u64, bool)> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_zero = mantissa.bytes().all(|byte| matches!(byte, b'0' | b'.' | b'-'));
    if is_zero {
        return Some((0, true));
    }
    if before.starts_with('-') {
        return None;
    }
    let is_fraction = exponent.starts_with('-');
    let exponent = exponent.trim_start_matches(['+', '-']).parse().unwrap_or(LARGEST_EXPONENT).min(LARGEST_EXPONENT);
    let whole = match is_fraction {
        true => before.len().saturating_sub(exponent),
        false => before.len().saturating_add(exponent),
    };
    let mut digits = before.bytes().chain(after.bytes());
    let mut value = 0_u64;
    for digit in digits.by_ref().chain(std::iter::repeat(b'0')).take(whole) {
        value = value.saturating_mul(10).saturating_add(u64::from(digit.wrapping_sub(b'0')));
    }
    Some((value, digits.all(|digit| digit == b'0')))
}
