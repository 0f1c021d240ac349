//! What the configuration needs of JSON beyond reading: duplicate fields, hashes, messages, and the JSON Schema.

use std::fmt;
use std::time::Duration;

use serde::ser::{Error, Serialize, SerializeMap, Serializer};

pub(super) use crate::json::Json as Node;
use crate::json::quoted;

/// Below it, a floating-point number holds every integer.
const LARGEST_EXACT: u64 = 1 << f64::MANTISSA_DIGITS;

impl Node {
    /// The same value with only the last of each set of duplicate fields.
    pub(super) fn with_last_duplicates(&self) -> Self {
        match self {
            Self::List(items) => Self::List(items.iter().map(Self::with_last_duplicates).collect()),
            Self::Object(fields) => {
                let later =
                    |index: usize, name: &str| fields.iter().skip(index).skip(1).any(|(other, _)| other == name);
                let last = fields.iter().enumerate().filter(|(index, (name, _))| !later(*index, name));
                Self::Object(last.map(|(_, (name, node))| (name.clone(), node.with_last_duplicates())).collect())
            }
            other => other.clone(),
        }
    }

    /// Writes the value in JSON, without white space.
    pub(super) fn write_json(&self, json: &mut String) {
        let (open, close) = match self {
            Self::List(_) => ("[", "]"),
            Self::Object(_) => ("{", "}"),
            scalar => return json.push_str(&scalar.to_string()),
        };
        let mut separator = open;
        let mut item = |name: Option<&String>, value: &Self| {
            json.push_str(separator);
            separator = ",";
            if let Some(name) = name {
                Self::String(name.clone()).write_json(json);
                json.push(':');
            }
            value.write_json(json);
        };
        match self {
            Self::Object(fields) => fields.iter().for_each(|(name, value)| item(Some(name), value)),
            Self::List(items) => items.iter().for_each(|value| item(None, value)),
            _ => {}
        }
        if separator == open {
            json.push_str(open);
        }
        json.push_str(close);
    }
}

impl fmt::Display for Node {
    /// The value in JSON, shortened for a message.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => formatter.write_str("null"),
            Self::Bool(value) => write!(formatter, "{value}"),
            Self::Integer(value) => formatter.write_str(value),
            Self::Float(value) => match self.as_whole().filter(|whole| *whole < LARGEST_EXACT) {
                Some(whole) => write!(formatter, "{whole}"),
                // The standard library's formatting of floating-point numbers would add 10 KB to the module.
                None => serde_json::Number::from_f64(*value).map_or(Ok(()), |number| number.fmt(formatter)),
            },
            Self::String(value) => formatter.write_str(&quoted(value)),
            Self::List(items) if items.is_empty() => formatter.write_str("[]"),
            Self::List(_) => formatter.write_str("a list"),
            Self::Object(_) => formatter.write_str("an object"),
        }
    }
}

/// Writes the fields in their order. The JSON Schema is written with it.
impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => {
                value.parse::<serde_json::Number>().map_err(S::Error::custom)?.serialize(serializer)
            }
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::String(value) => serializer.serialize_str(value),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, node) in fields {
                    map.serialize_entry(name, node)?;
                }
                map.end()
            }
        }
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<bool> for Node {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<usize> for Node {
    fn from(number: usize) -> Self {
        Self::Integer(number.to_string())
    }
}

/// A duration is a string, such as `"10s"`.
impl From<Duration> for Node {
    fn from(length: Duration) -> Self {
        Self::String(humantime::format_duration(length).to_string())
    }
}

impl<T: Clone + Into<Self>> From<&[T]> for Node {
    fn from(items: &[T]) -> Self {
        Self::List(items.iter().cloned().map(Into::into).collect())
    }
}
