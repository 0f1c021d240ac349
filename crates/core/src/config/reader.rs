//! Typed reading from the tree. Every mistake is kept, with where it is, what is there and what would be right; reading
//! goes on.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, UNIX_EPOCH};

use super::tree::Node;
use crate::host::Host;
use crate::suggest::nearest;
use crate::time::Timestamp;

/// One thing that is wrong in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, such as `destinations[2].scope`; empty for the whole text.
    pub path: String,
    /// What is there and what would be right.
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

/// Where mistakes are gathered.
#[derive(Debug, Default)]
pub(super) struct Mistakes(pub(super) Vec<Mistake>);

impl Mistakes {
    pub(super) fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(Mistake { path: path.to_owned(), message: message.into() });
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) path: String,
    node: &'a Node,
}

impl<'a> Field<'a> {
    pub(super) const fn root(node: &'a Node) -> Self {
        Self { path: String::new(), node }
    }

    fn expected(&self, what: &str, mistakes: &mut Mistakes) {
        mistakes.add(&self.path, format!("{} is not {what}", self.node));
    }

    /// A string that is not empty.
    pub(super) fn text(&self, mistakes: &mut Mistakes) -> Option<&'a str> {
        match self.node {
            Node::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.expected("a text: write a string that is not empty", mistakes);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, mistakes: &mut Mistakes) -> Option<bool> {
        match self.node {
            Node::Bool(value) => Some(*value),
            _ => {
                self.expected("a switch: write true or false", mistakes);
                None
            }
        }
    }

    /// A number from 1 to `most`.
    pub(super) fn count(&self, most: usize, mistakes: &mut Mistakes) -> Option<usize> {
        let count = match self.node {
            Node::Number(number) => number.parse().ok().filter(|count| (1..=most).contains(count)),
            _ => None,
        };
        if count.is_none() {
            self.expected(&format!("a number from 1 to {most}"), mistakes);
        }
        count
    }

    /// A duration, such as `"10s"`.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>, mistakes: &mut Mistakes) -> Option<Duration> {
        let length = match self.node {
            Node::String(text) => humantime::parse_duration(text).ok().filter(|length| range.contains(length)),
            _ => None,
        };
        if length.is_none() {
            let (shortest, longest) = (range.start().as_secs(), range.end().as_secs());
            self.expected(&format!("a duration from {shortest}s to {longest}s: write such as \"10s\""), mistakes);
        }
        length
    }

    /// A point in time (RFC 3339), by UTC or with an offset.
    pub(super) fn time(&self, mistakes: &mut Mistakes) -> Option<Timestamp> {
        let time = match self.node {
            Node::String(text) => read_time(text),
            _ => None,
        };
        if time.is_none() {
            self.expected("a time: write such as \"2026-01-31T02:10:00Z\" or \"2026-01-31T03:10:00+01:00\"", mistakes);
        }
        time
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)], mistakes: &mut Mistakes) -> Option<T> {
        let found = match self.node {
            Node::String(text) => choices.iter().find(|(choice, _)| choice == text),
            _ => None,
        };
        if found.is_none() {
            let all: Vec<String> = choices.iter().map(|(choice, _)| format!("{choice:?}")).collect();
            self.expected(&format!("one of the words here: write {}", all.join(" or ")), mistakes);
        }
        found.map(|(_, value)| *value)
    }

    /// The items of a list that is not empty.
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
                self.expected("a list: write [ … ] with at least one item", mistakes);
                None
            }
        }
    }

    /// The texts of a list that may be empty.
    pub(super) fn texts_or_none(&self, mistakes: &mut Mistakes) -> Vec<(String, &'a str)> {
        match self.node {
            Node::List(items) if items.is_empty() => Vec::new(),
            _ => self.texts(mistakes),
        }
    }

    /// The texts of a list that is not empty.
    pub(super) fn texts(&self, mistakes: &mut Mistakes) -> Vec<(String, &'a str)> {
        let items = self.list(mistakes).unwrap_or_default();
        items.into_iter().filter_map(|item| Some((item.path.clone(), item.text(mistakes)?))).collect()
    }

    /// The fields of an object, which may be only those named in `known`.
    pub(super) fn object(&self, known: &[&str], mistakes: &mut Mistakes) -> Option<Object<'a>> {
        let Node::Object(fields) = self.node else {
            self.expected("an object: write { … }", mistakes);
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

/// Reads a time of RFC 3339, section 5.6. The library that reads dates takes UTC alone.
fn read_time(text: &str) -> Option<Timestamp> {
    let utc = |text: &str| {
        // The library overlooks what follows the `Z`.
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

/// How long an offset from UTC is: a sign, hours and minutes of two digits each.
fn read_offset(text: &str) -> Option<Duration> {
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let part = |digits: &str, most: u64| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|number| is_number && *number <= most)
    };
    let minutes = part(hours, 23)?.checked_mul(60)?.checked_add(part(minutes, 59)?)?;
    Some(Duration::from_secs(minutes.checked_mul(60)?))
}

/// What to say of a field that does not exist.
fn unknown(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(choice) => format!("there is no such field: did you mean {choice:?}?"),
        None => format!("there is no such field: write {}", known.join(", ")),
    }
}

/// An object's fields, by name.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    path: String,
    fields: &'a [(String, Node)],
}

impl<'a> Object<'a> {
    /// The path of a field, whether it is there or not.
    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field that need not be there.
    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        let (_, node) = self.fields.iter().find(|(field, _)| field == name)?;
        Some(Field { path: self.path_of(name), node })
    }

    /// A text that need not be there.
    pub(super) fn text(&self, name: &str, mistakes: &mut Mistakes) -> Option<&'a str> {
        self.get(name)?.text(mistakes)
    }

    /// A text that must be there; `what` says what to write.
    pub(super) fn required(&self, name: &str, what: &str, mistakes: &mut Mistakes) -> Option<&'a str> {
        if self.get(name).is_none() {
            mistakes.add(&self.path_of(name), format!("is missing: write {what}"));
        }
        self.text(name, mistakes)
    }

    /// A word that need not be there; `default` when it is not.
    pub(super) fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)], default: T, mistakes: &mut Mistakes) -> T {
        self.get(name).and_then(|field| field.choice(choices, mistakes)).unwrap_or(default)
    }

    /// The items of a list that need not be there.
    pub(super) fn list(&self, name: &str, mistakes: &mut Mistakes) -> Option<Vec<Field<'a>>> {
        self.get(name)?.list(mistakes)
    }

    /// The field `hosts`, which need not be there: names and addresses, each on any port.
    pub(super) fn hosts(&self, default: &[&str], mistakes: &mut Mistakes) -> Vec<String> {
        let Some(texts) = self.texts("hosts", mistakes) else {
            return default.iter().map(|host| (*host).to_owned()).collect();
        };
        let mut hosts: Vec<String> = Vec::new();
        for (path, text) in texts {
            match Host::parse(text.as_bytes()) {
                Some(Host { name, port: None }) => hosts.push(name.into_owned()),
                _ => mistakes.add(&path, format!("{text:?} is no host: write a name or an address without a port")),
            }
        }
        hosts
    }

    /// The texts of a list that need not be there, with their paths.
    pub(super) fn texts(&self, name: &str, mistakes: &mut Mistakes) -> Option<Vec<(String, &'a str)>> {
        Some(self.get(name)?.texts(mistakes))
    }
}
