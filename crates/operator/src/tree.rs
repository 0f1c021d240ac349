//! A tree of values, each with its place in the source: what JSON and YAML have in common.

use std::ops::Range;
use std::rc::Rc;

/// A value with its place in the source.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The bytes of the source that the value occupies.
    pub(crate) span: Range<usize>,
    /// The value.
    pub(crate) value: Value,
}

/// A value. YAML's aliases share their node.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// `null`, or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// A string.
    String(Text),
    /// A list.
    List(Vec<Rc<Node>>),
    /// An object, in the order of the source, duplicates included.
    Object(Vec<Entry>),
}

/// A string, and the place of each of its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    /// The string itself.
    pub(crate) text: String,
    /// How it is written.
    pub(crate) style: Style,
}

/// How a string is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Without quotes, in YAML.
    Plain,
    /// In single quotes, in YAML.
    SingleQuoted,
    /// In double quotes, in YAML or JSON.
    DoubleQuoted,
    /// As a block after `|`.
    Literal,
    /// As a block after `>`.
    Folded,
}

/// A field of an object.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The name of the field.
    pub(crate) key: String,
    /// The place of the name.
    pub(crate) key_span: Range<usize>,
    /// The value of the field.
    pub(crate) value: Rc<Node>,
}

impl Node {
    /// The value of a field; the last one if the field occurs several times.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        self.entry(name).map(|entry| &*entry.value)
    }

    /// A field; the last one if the field occurs several times.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries().iter().rev().find(|entry| entry.key == name)
    }

    /// The value at a path of field names.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.get(name))
    }

    /// The fields of an object; none for other values.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Object(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none for other values.
    pub(crate) fn items(&self) -> impl Iterator<Item = &Self> {
        let items: &[Rc<Self>] = match &self.value {
            Value::List(items) => items,
            _ => &[],
        };
        items.iter().map(|item| &**item)
    }

    /// The string, if the value is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(&text.text),
            _ => None,
        }
    }

    /// The string of a field, if it is one.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.get(name)?.text()
    }

    /// Whether the value is `true`.
    pub(crate) const fn is_true(&self) -> bool {
        matches!(self.value, Value::Bool(true))
    }

    /// The number, if the value is a whole one.
    pub(crate) fn number(&self) -> Option<u64> {
        match &self.value {
            Value::Number(number) => number.parse().ok(),
            _ => None,
        }
    }

    /// Calls `visit` for this node and all nodes below it, in the order of the source.
    pub(crate) fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Self)) {
        visit(self);
        match &self.value {
            Value::List(items) => items.iter().for_each(|item| item.walk(visit)),
            Value::Object(entries) => entries.iter().for_each(|entry| entry.value.walk(visit)),
            _ => {}
        }
    }

    /// The value in JSON, with duplicate fields and the order of fields kept.
    pub(crate) fn to_json(&self) -> String {
        let mut json = String::new();
        self.write_json(&mut json);
        json
    }

    fn write_json(&self, json: &mut String) {
        match &self.value {
            Value::Null => json.push_str("null"),
            Value::Bool(value) => json.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => json.push_str(number),
            Value::String(text) => json.push_str(&quoted(&text.text)),
            Value::List(items) => {
                json.push('[');
                for (index, item) in items.iter().enumerate() {
                    json.push_str(if index == 0 { "" } else { "," });
                    item.write_json(json);
                }
                json.push(']');
            }
            Value::Object(entries) => {
                json.push('{');
                for (index, Entry { key, value, .. }) in entries.iter().enumerate() {
                    json.push_str(if index == 0 { "" } else { "," });
                    json.push_str(&quoted(key));
                    json.push(':');
                    value.write_json(json);
                }
                json.push('}');
            }
        }
    }

    /// The place of a path such as `destinations[2].hosts[0]`: the value, or the deepest object on the way to it. `of_key`
    /// selects the name of the last field instead of its value.
    pub(crate) fn place(&self, path: &str, of_key: bool) -> Range<usize> {
        let mut node = self;
        let mut span = self.span.clone();
        for step in steps(path) {
            let (found, place) = match step {
                Step::Field(name) => match node.entry(name) {
                    Some(entry) => (Some(&*entry.value), if of_key { &entry.key_span } else { &entry.value.span }),
                    None => (None, &node.span),
                },
                Step::Index(index) => match node.items().nth(index) {
                    Some(item) => (Some(item), &item.span),
                    None => (None, &node.span),
                },
            };
            span = place.clone();
            match found {
                Some(found) => node = found,
                None => break,
            }
        }
        span
    }
}

/// A step of a path.
enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

/// The steps of a path such as `destinations[2].hosts[0]`. A name may contain any character except `.` and `[`.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split('.').flat_map(|part| {
        let (name, indexes) = part.split_once('[').map_or((part, ""), |(name, rest)| (name, rest));
        let indexes = indexes.split('[').filter_map(|index| index.trim_end_matches(']').parse().ok());
        let name = (!name.is_empty()).then_some(Step::Field(name));
        name.into_iter().chain(indexes.map(Step::Index))
    })
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
