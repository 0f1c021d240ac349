//! Typed access to the tree of a configuration. A mistake does not end the reading: all of them are collected, each with its
//! path, what was found, and what was expected.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, UNIX_EPOCH};

use super::tree::Node;
use crate::host::Host;
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
    pub(super) fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(Mistake { path: path.to_owned(), message: message.into() });
    }
}

/// A value with its path.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) path: String,
    node: &'a Node,
}

impl<'a> Field<'a> {
    pub(super) const fn root(node: &'a Node) -> Self {
        Self { path: String::new(), node }
    }

    /// Reports that the value is not valid; `expected` names what to write instead.
    fn not_valid(&self, expected: &str, mistakes: &mut Mistakes) {
        mistakes.add(&self.path, format!("{} is not valid: write {expected}", self.node));
    }

    /// Reads a string that is not empty.
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
    pub(super) fn count(&self, most: usize, mistakes: &mut Mistakes) -> Option<usize> {
        let count = match self.node {
            Node::Number(number) => number.parse().ok().filter(|count| (1..=most).contains(count)),
            _ => None,
        };
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
            Node::String(text) => read_time(text),
            _ => None,
        };
        if time.is_none() {
            self.not_valid("a time such as \"2026-01-31T02:10:00Z\" or \"2026-01-31T03:10:00+01:00\"", mistakes);
        }
        time
    }

    /// Reads one of several fixed strings; returns the value that belongs to it.
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
    pub(super) fn list(&self, mistakes: &mut Mistakes) -> Option<Vec<Self>> {
        match self.node {
            Node::List(items) if !items.is_empty() => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, node)| Field { path: format!("{}[{index}]", self.path), node })
                    .collect(),
            ),
            _ => {
                self.not_valid("a list with at least one item", mistakes);
                None
            }
        }
    }

    /// Reads the strings of a list that may be empty, each with its path.
    pub(super) fn texts_or_none(&self, mistakes: &mut Mistakes) -> Vec<(String, &'a str)> {
        match self.node {
            Node::List(items) if items.is_empty() => Vec::new(),
            _ => self.texts(mistakes),
        }
    }

    /// Reads the strings of a list that is not empty, each with its path.
    pub(super) fn texts(&self, mistakes: &mut Mistakes) -> Vec<(String, &'a str)> {
        let items = self.list(mistakes).unwrap_or_default();
        items.into_iter().filter_map(|item| Some((item.path.clone(), item.text(mistakes)?))).collect()
    }

    /// Reads an object. Fields that are not in `known`, or that occur twice, are mistakes.
    pub(super) fn object(&self, known: &[&str], mistakes: &mut Mistakes) -> Option<Object<'a>> {
        let Node::Object(fields) = self.node else {
            self.not_valid("an object, { … }", mistakes);
            return None;
        };
        let object = Object { path: self.path.clone(), fields };
        for (index, (name, _)) in fields.iter().enumerate() {
            let path = object.path_of(name);
            if fields.iter().take(index).any(|(before, _)| before == name) {
                mistakes.add(&path, "duplicate entry: remove it");
            } else if !known.contains(&name.as_str()) {
                mistakes.add(&path, unknown(name, known));
            }
        }
        Some(object)
    }
}

/// Parses a time of RFC 3339, section 5.6. `humantime` accepts UTC only, so the offset is parsed here.
fn read_time(text: &str) -> Option<Timestamp> {
    let utc = |text: &str| {
        // `humantime` ignores text after the `Z`.
        if text.bytes().filter(|byte| byte.eq_ignore_ascii_case(&b'z')).count() != 1 {
            return None;
        }
        let since_epoch = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Timestamp::default().plus(since_epoch))
    };
    match text.len().checked_sub("+00:00".len()).and_then(|index| text.split_at_checked(index)) {
        Some((local, offset)) if offset.starts_with('+') => {
            Some(utc(&format!("{local}Z"))?.minus(read_offset(offset)?))
        }
        Some((local, offset)) if offset.starts_with('-') => Some(utc(&format!("{local}Z"))?.plus(read_offset(offset)?)),
        _ => utc(text),
    }
}

/// Parses the length of an offset from UTC: a sign, then hours and minutes of two digits each.
fn read_offset(text: &str) -> Option<Duration> {
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let part = |digits: &str, most: u64| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|number| is_number && *number <= most)
    };
    let minutes = part(hours, 23)?.checked_mul(60)?.checked_add(part(minutes, 59)?)?;
    Some(Duration::from_secs(minutes.checked_mul(60)?))
}

/// The message for an unknown field.
fn unknown(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(choice) => format!("unknown field: did you mean {choice:?}?"),
        None => format!("unknown field: expected one of {}", known.join(", ")),
    }
}

/// An object with its path.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    path: String,
    fields: &'a [(String, Node)],
}

impl<'a> Object<'a> {
    /// The path of a field, whether it is present or not.
    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The field with this name, if it is present.
    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        let (_, node) = self.fields.iter().find(|(field, _)| field == name)?;
        Some(Field { path: self.path_of(name), node })
    }

    /// Reads a string that need not be present.
    pub(super) fn text(&self, name: &str, mistakes: &mut Mistakes) -> Option<&'a str> {
        self.get(name)?.text(mistakes)
    }

    /// Reads a string that must be present; `expected` names what to write if it is not.
    pub(super) fn required(&self, name: &str, expected: &str, mistakes: &mut Mistakes) -> Option<&'a str> {
        if self.get(name).is_none() {
            mistakes.add(&self.path_of(name), format!("is missing: write {expected}"));
        }
        self.text(name, mistakes)
    }

    /// Reads one of several fixed strings; returns `default` if the field is not present.
    pub(super) fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)], default: T, mistakes: &mut Mistakes) -> T {
        self.get(name).and_then(|field| field.choice(choices, mistakes)).unwrap_or(default)
    }

    /// Reads the items of a list that need not be present.
    pub(super) fn list(&self, name: &str, mistakes: &mut Mistakes) -> Option<Vec<Field<'a>>> {
        self.get(name)?.list(mistakes)
    }

    /// Reads the field `hosts`, which need not be present: names and addresses without ports.
    pub(super) fn hosts(&self, default: &[&str], mistakes: &mut Mistakes) -> Vec<String> {
        let Some(texts) = self.texts("hosts", mistakes) else {
            return default.iter().map(|host| (*host).to_owned()).collect();
        };
        let mut hosts: Vec<String> = Vec::new();
        for (path, text) in texts {
            match Host::parse(text.as_bytes()) {
                Some(Host { name, port: None }) => hosts.push(name.into_owned()),
                _ => mistakes
                    .add(&path, format!("{text:?} is not a valid host: write a name or an address without a port")),
            }
        }
        hosts
    }

    /// Reads the strings of a list that need not be present, each with its path.
    pub(super) fn texts(&self, name: &str, mistakes: &mut Mistakes) -> Option<Vec<(String, &'a str)>> {
        Some(self.get(name)?.texts(mistakes))
    }
}
