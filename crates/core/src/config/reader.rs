//! Typed access to the tree of a configuration. A mistake does not end the reading: all of them are collected, each with its
//! path, what was found, and what was expected.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::tree::Node;
use crate::suggest::nearest;
use crate::time::Timestamp;

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The path of the field, such as `destinations[2].scope`; empty for the whole configuration.
    pub path: String,
    /// What was found, and what was expected.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            formatter.write_str(&self.message)
        } else {
            write!(formatter, "{}: {}", self.path, self.message)
        }
    }
}

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Mistakes(pub(super) Vec<Mistake>);

impl Mistakes {
    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.push(path.into(), message.into());
    }

    /// Adds a mistake in a value.
    pub(super) fn add_at(&mut self, path: &Path<'_>, message: impl Into<String>) {
        self.push_at(path, message.into());
    }

    #[inline(never)]
    fn push_at(&mut self, path: &Path<'_>, message: String) {
        self.push(path.to_string(), message);
    }

    #[inline(never)]
    fn push(&mut self, path: String, message: String) {
        self.0.push(Mistake { path, message });
    }
}

/// The path of a value: a list of steps, each of which refers to the one before. It is written only into a mistake.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    Root,
    Field(&'p Self, &'static str),
    Item(&'p Self, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => formatter.write_str(name),
            Self::Field(object, name) => write!(formatter, "{object}.{name}"),
            Self::Item(list, index) => write!(formatter, "{list}[{index}]"),
        }
    }
}

/// A value with its path. Many fields are read with the same few functions, which are not inlined: the module is smaller so.
#[derive(Clone, Copy)]
pub(super) struct Value<'p, 'a> {
    pub(super) path: &'p Path<'p>,
    pub(super) node: &'a Node,
}

impl<'a> Value<'_, 'a> {
    /// Reports that the value is not valid; `expected` names what to write instead.
    #[inline(never)]
    pub(super) fn not_valid(&self, expected: &str, mistakes: &mut Mistakes) {
        mistakes.add_at(self.path, format!("{} is not valid: write {expected}", self.node));
    }

    /// Reads a string that is not empty.
    #[inline(never)]
    pub(super) fn text(&self, mistakes: &mut Mistakes) -> Option<&'a str> {
        match self.node {
            Node::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.not_valid("a non-empty string", mistakes);
                None
            }
        }
    }

    /// Reads `true` or `false`.
    #[inline(never)]
    pub(super) fn switch(&self, mistakes: &mut Mistakes) -> Option<bool> {
        match self.node {
            Node::Bool(value) => Some(*value),
            _ => {
                self.not_valid("true or false", mistakes);
                None
            }
        }
    }

    /// Reads a number from 1 to `most`.
    #[inline(never)]
    pub(super) fn count(&self, most: usize, mistakes: &mut Mistakes) -> Option<usize> {
        let count = self.node.as_whole().and_then(|count| usize::try_from(count).ok());
        let count = count.filter(|count| (1..=most).contains(count));
        if count.is_none() {
            self.not_valid(&format!("a number from 1 to {most}"), mistakes);
        }
        count
    }

    /// Reads a duration, such as `"10s"`.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>, mistakes: &mut Mistakes) -> Option<Duration> {
        let length = match self.node {
            Node::String(text) => humantime::parse_duration(text).ok().filter(|length| range.contains(length)),
            _ => None,
        };
        if length.is_none() {
            let (shortest, longest) = (range.start().as_secs(), range.end().as_secs());
            self.not_valid(&format!("a duration from {shortest}s to {longest}s, such as \"10s\""), mistakes);
        }
        length
    }

    /// Reads a point in time (RFC 3339), in UTC or with an offset.
    pub(super) fn time(&self, mistakes: &mut Mistakes) -> Option<Timestamp> {
        let time = match self.node {
            Node::String(text) => Timestamp::parse_rfc3339(text),
            _ => None,
        };
        if time.is_none() {
            self.not_valid("a time such as \"2026-01-31T02:10:00Z\" or \"2026-01-31T03:10:00+01:00\"", mistakes);
        }
        time
    }

    /// Reads one of several fixed strings; returns the value that belongs to it.
    #[inline(never)]
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)], mistakes: &mut Mistakes) -> Option<T> {
        let found = match self.node {
            Node::String(text) => choices.iter().find(|(choice, _)| choice == text),
            _ => None,
        };
        if found.is_none() {
            let all: Vec<String> = choices.iter().map(|(choice, _)| format!("{choice:?}")).collect();
            self.not_valid(&all.join(" or "), mistakes);
        }
        found.map(|(_, value)| *value)
    }

    /// Reads the items of a list that is not empty.
    #[inline(never)]
    pub(super) fn list(&self, mistakes: &mut Mistakes) -> Option<&'a [Node]> {
        match self.node {
            Node::List(items) if !items.is_empty() => Some(items),
            _ => {
                self.not_valid("a list with at least one item", mistakes);
                None
            }
        }
    }

    /// Reads the strings of a list that is not empty, each with its path.
    #[inline(never)]
    pub(super) fn texts(&self, mistakes: &mut Mistakes) -> Vec<(String, &'a str)> {
        let mut texts = Vec::new();
        for (index, node) in self.list(mistakes).unwrap_or_default().iter().enumerate() {
            let path = Path::Item(self.path, index);
            let text = Value { path: &path, node }.text(mistakes);
            texts.extend(text.map(|text| (path.to_string(), text)));
        }
        texts
    }

    /// Reads an object of strings with any names.
    #[inline(never)]
    pub(super) fn pairs(&self, mistakes: &mut Mistakes) -> Option<Vec<(&'a str, &'a str)>> {
        let fields = self.object(mistakes)?;
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for (name, node) in fields {
            let path = || format!("{}.{name}", self.path);
            match node {
                _ if pairs.iter().any(|(before, _)| before == name) => {
                    mistakes.add(path(), "duplicate entry: remove it");
                }
                Node::String(text) if !text.is_empty() => pairs.push((name, text)),
                _ => mistakes.add(path(), format!("{node} is not valid: write a non-empty string")),
            }
        }
        Some(pairs)
    }

    /// Reads an object.
    #[inline(never)]
    pub(super) fn object(&self, mistakes: &mut Mistakes) -> Option<&'a [(String, Node)]> {
        let Node::Object(fields) = self.node else {
            self.not_valid("an object, { … }", mistakes);
            return None;
        };
        Some(fields)
    }

    /// Reads the fields of an object. Those that are not among the known ones, that occur twice or that are missing are mistakes.
    #[inline(never)]
    pub(super) fn fields(&self, known: &Names, mistakes: &mut Mistakes) -> Option<&'a [(String, Node)]> {
        let fields = self.object(mistakes)?;
        let names = known.of(fields);
        for (index, (name, _)) in fields.iter().enumerate() {
            let message = if fields.iter().take(index).any(|(before, _)| before == name) {
                "duplicate entry: remove it".to_owned()
            } else if names.iter().any(|known| known.name == name) {
                continue;
            } else {
                unknown(name, &names)
            };
            let separator = if matches!(self.path, Path::Root) { "" } else { "." };
            mistakes.add(format!("{}{separator}{name}", self.path), message);
        }
        for Name { name, required } in names {
            if let Some(expected) = required.filter(|_| find(fields, name).is_none()) {
                mistakes.add_at(&Path::Field(self.path, name), format!("is missing: write {expected}"));
            }
        }
        Some(fields)
    }
}

/// The message for an unknown field.
fn unknown(name: &str, known: &[Name]) -> String {
    let known: Vec<&str> = known.iter().map(|known| known.name).collect();
    match nearest(name, &known) {
        Some(choice) => format!("unknown field: did you mean {choice:?}?"),
        None => format!("unknown field: expected one of {}", known.join(", ")),
    }
}

/// The name of a field.
#[derive(Clone, Copy)]
pub(super) struct Name {
    pub(super) name: &'static str,
    /// What to write if the object does not have the field. `None` if it need not have it.
    pub(super) required: Option<&'static str>,
}

/// The names of the fields that the objects of a section may have.
pub(super) enum Names {
    /// The names of the section's own fields, and those of the sections that it includes.
    Fields(&'static [Name], &'static [Self]),
    /// The names of each kind, which the text of a field selects.
    Kinds(&'static str, &'static [(&'static str, Self)]),
}

impl Names {
    /// The names that this object may have, each once.
    pub(super) fn of(&self, object: &[(String, Node)]) -> Vec<Name> {
        let mut names = Vec::new();
        self.collect(object, true, &mut names);
        names
    }

    /// Whether the objects may have a field of this name, whatever their kind is.
    pub(super) fn has(&self, name: &str) -> bool {
        self.of(&[]).iter().any(|known| known.name == name)
    }

    /// Adds the names. Those of a kind are only required if the object is known to be of this kind.
    fn collect(&self, object: &[(String, Node)], is_known: bool, names: &mut Vec<Name>) {
        match self {
            Self::Fields(own, included) => {
                for name in *own {
                    if names.iter().all(|other| other.name != name.name) {
                        names.push(Name { required: name.required.filter(|_| is_known), ..*name });
                    }
                }
                included.iter().for_each(|included| included.collect(object, is_known, names));
            }
            Self::Kinds(by, kinds) => {
                let is_of = |word: &str| matches!(find(object, by), Some(Node::String(text)) if text == word);
                let known = kinds.iter().any(|(word, _)| is_of(word));
                // If the kind is missing or unknown, which is another mistake, no field of any kind is one.
                let possible = kinds.iter().filter(|(word, _)| !known || is_of(word));
                possible.for_each(|(_, kind)| kind.collect(object, known, names));
            }
        }
    }
}

/// The value of the field with this name.
#[inline(never)]
pub(super) fn find<'a>(fields: &'a [(String, Node)], name: &str) -> Option<&'a Node> {
    fields.iter().find(|(field, _)| field == name).map(|(_, node)| node)
}
