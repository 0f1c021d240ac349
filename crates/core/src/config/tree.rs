//! JSON with the fields in their original order, duplicates included.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error, Serialize, SerializeMap, Serializer};

/// A JSON value that keeps duplicate fields, so that they can be reported. RFC 8259, section 4, leaves their handling to the
/// reader.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

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
}

impl Node {
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
            Self::Number(value) => formatter.write_str(value),
            Self::String(value) => write!(formatter, "{}", serde_json::Value::from(value.as_str())),
            Self::List(items) if items.is_empty() => formatter.write_str("[]"),
            Self::List(_) => formatter.write_str("a list"),
            Self::Object(_) => formatter.write_str("an object"),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Node;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Number(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Number(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Number(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::String(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
                let mut object = Vec::new();
                while let Some(field) = fields.next_entry()? {
                    object.push(field);
                }
                Ok(Node::Object(object))
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

/// Writes the fields in their order. The JSON Schema is written with it.
impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.parse::<serde_json::Number>().map_err(S::Error::custom)?.serialize(serializer),
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
        Self::Number(number.to_string())
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
