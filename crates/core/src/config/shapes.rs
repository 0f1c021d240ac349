//! The shapes of values: how a value is read, and its JSON Schema.

use std::time::Duration;

use super::declared::Schema;
use super::object::{Field, Items, Shape, Shown};
use super::reader::{Mistakes, Value};
use super::tree::Node;
use crate::host::Host;
use crate::time::Timestamp;

/// A string that is not empty.
pub(super) enum Text {}

impl Shape for Text {
    type Value<'p, 'a> = &'a str;

    fn read<'a>(value: Value<'_, 'a>, mistakes: &mut Mistakes) -> Option<&'a str> {
        value.text(mistakes)
    }

    fn schema() -> Schema {
        Schema::of_type("string").with("minLength", 1)
    }
}

/// An object of strings that are not empty, with any names.
pub(super) enum Texts {}

impl Shape for Texts {
    type Value<'p, 'a> = Vec<(&'a str, &'a str)>;

    fn read<'a>(value: Value<'_, 'a>, mistakes: &mut Mistakes) -> Option<Vec<(&'a str, &'a str)>> {
        value.pairs(mistakes)
    }

    fn schema() -> Schema {
        Schema::of_type("object").with("additionalProperties", Node::Object(Text::schema().keywords().to_vec()))
    }
}

/// An object with any fields.
pub(super) enum AnyObject {}

impl Shape for AnyObject {
    type Value<'p, 'a> = &'a Node;

    fn read<'a>(value: Value<'_, 'a>, mistakes: &mut Mistakes) -> Option<&'a Node> {
        value.object(mistakes).map(|_| value.node)
    }

    fn schema() -> Schema {
        Schema::of_type("object")
    }
}

/// `true` or `false`.
pub(super) enum Switch {}

impl Shape for Switch {
    type Value<'p, 'a> = bool;

    fn read(value: Value<'_, '_>, mistakes: &mut Mistakes) -> Option<bool> {
        value.switch(mistakes)
    }

    fn schema() -> Schema {
        Schema::of_type("boolean")
    }
}

impl Shown for Switch {
    fn show(value: &bool) -> Node {
        Node::Bool(*value)
    }
}

/// A host as a pattern of the schema: a name, or an IPv6 address in brackets.
pub(super) const HOST: &str = r"([A-Za-z0-9_-]([A-Za-z0-9._-]*[A-Za-z0-9_-])?|\[[0-9A-Fa-f:.]+\])";

/// A port that need not be there, as a pattern of the schema.
pub(super) const PORT: &str = "(:0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?";

/// A host with or without a port.
pub(super) enum HostPort {}

impl Shape for HostPort {
    type Value<'p, 'a> = &'a str;

    fn read<'a>(value: Value<'_, 'a>, mistakes: &mut Mistakes) -> Option<&'a str> {
        let text = value.text(mistakes)?;
        if Host::parse(text.as_bytes()).is_none() {
            value.not_valid("a host, such as \"sts.example.com\" or \"sts.example.com:8443\"", mistakes);
        }
        Some(text)
    }

    fn schema() -> Schema {
        Text::schema().with("pattern", &*format!("^{HOST}{PORT}$"))
    }
}

/// A number from 1 to `MOST`.
pub(super) enum Count<const MOST: usize> {}

impl<const MOST: usize> Shape for Count<MOST> {
    type Value<'p, 'a> = usize;

    fn read(value: Value<'_, '_>, mistakes: &mut Mistakes) -> Option<usize> {
        value.count(MOST, mistakes)
    }

    fn schema() -> Schema {
        Schema::of_type("integer").with("minimum", 1).with("maximum", MOST)
    }
}

impl<const MOST: usize> Shown for Count<MOST> {
    fn show(value: &usize) -> Node {
        Node::from(*value)
    }
}

/// A duration as a pattern of the schema: numbers, each with its unit, such as `1m30s` or `1.5 s`. JSON Schema cannot express its range.
const DURATION: &str = r"^[^!-~]*([0-9][^!-\-/:-~]*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|wks?|w|months?|M|years?|yrs?|y)[^!-~]*)+$";

/// A duration from one second to `LONGEST` seconds, such as `"10s"`.
pub(super) enum Length<const LONGEST: u64> {}

impl<const LONGEST: u64> Shape for Length<LONGEST> {
    type Value<'p, 'a> = Duration;

    fn read(value: Value<'_, '_>, mistakes: &mut Mistakes) -> Option<Duration> {
        value.duration(Duration::from_secs(1)..=Duration::from_secs(LONGEST), mistakes)
    }

    fn schema() -> Schema {
        Schema::of_type("string").with("pattern", DURATION).with("examples", &["10s", "1m"][..])
    }
}

/// A duration of at most `LONGEST` seconds, such as `"200ms"`.
pub(super) enum Pause<const LONGEST: u64> {}

impl<const LONGEST: u64> Shape for Pause<LONGEST> {
    type Value<'p, 'a> = Duration;

    fn read(value: Value<'_, '_>, mistakes: &mut Mistakes) -> Option<Duration> {
        value.duration(Duration::ZERO..=Duration::from_secs(LONGEST), mistakes)
    }

    fn schema() -> Schema {
        Length::<LONGEST>::schema().with("pattern", &*format!("^0$|{DURATION}"))
    }
}

/// A point in time (RFC 3339), in UTC or with an offset.
pub(super) enum Time {}

impl Shape for Time {
    type Value<'p, 'a> = Timestamp;

    fn read(value: Value<'_, '_>, mistakes: &mut Mistakes) -> Option<Timestamp> {
        value.time(mistakes)
    }

    fn schema() -> Schema {
        Schema::of_type("string")
            .with("pattern", r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*)?(Z|[+-]\d\d:\d\d)$")
            .with("examples", &["2026-01-31T02:10:00Z", "2026-01-31T03:10:00+01:00"][..])
    }
}

/// A list of hosts: names and addresses without ports, in lower case.
pub(super) enum Hosts {}

impl Shape for Hosts {
    type Value<'p, 'a> = Vec<String>;

    fn read(value: Value<'_, '_>, mistakes: &mut Mistakes) -> Option<Vec<String>> {
        let mut hosts = Vec::new();
        for (path, text) in value.texts(mistakes) {
            match Host::parse(text.as_bytes()) {
                Some(Host { name, port: None }) => hosts.push(name.into_owned()),
                _ => mistakes
                    .add(&path, format!("{text:?} is not a valid host: write a name or an address without a port")),
            }
        }
        Some(hosts)
    }

    fn schema() -> Schema {
        Schema::list(Text::schema().with("pattern", &*format!("^{HOST}$")))
    }
}

impl Field<'_, '_, Hosts> {
    /// Reads the hosts. Returns `default` if the field is not present.
    pub(super) fn hosts(&self, default: &[&str], mistakes: &mut Mistakes) -> Vec<String> {
        self.read(mistakes).unwrap_or_else(|| default.iter().map(|host| (*host).to_owned()).collect())
    }
}

/// A list with at least one item.
pub(super) struct List<S>(std::marker::PhantomData<S>);

impl<S: Shape> Shape for List<S> {
    type Value<'p, 'a> = Items<'p, 'a, S>;

    /// Returns the items, which are not yet read.
    fn read<'p, 'a>(value: Value<'p, 'a>, mistakes: &mut Mistakes) -> Option<Items<'p, 'a, S>> {
        Items::read(value, mistakes)
    }

    fn schema() -> Schema {
        Schema::list(S::schema())
    }
}

impl<'a> Field<'_, 'a, List<Text>> {
    /// Reads the strings of a list, each with its path. Returns `None` if the field is not present.
    pub(super) fn texts(&self, mistakes: &mut Mistakes) -> Option<Vec<(String, &'a str)>> {
        Some(self.value()?.texts(mistakes))
    }
}

/// Fixed words, each with the value that it stands for.
pub(super) trait Words {
    /// The values.
    type Value: Copy + PartialEq + 'static;
    /// The words, in the order in which messages list them.
    const WORDS: &'static [(&'static str, Self::Value)];

    /// The word that stands for a value. Each value has one.
    fn word(value: Self::Value) -> &'static str {
        Self::WORDS.iter().find(|(_, other)| *other == value).map_or("", |(word, _)| *word)
    }
}

/// One of several fixed words.
pub(super) struct Choice<W>(std::marker::PhantomData<W>);

impl<W: Words> Shape for Choice<W> {
    type Value<'p, 'a> = W::Value;

    fn read(value: Value<'_, '_>, mistakes: &mut Mistakes) -> Option<W::Value> {
        value.choice(W::WORDS, mistakes)
    }

    fn schema() -> Schema {
        let words: Vec<&str> = W::WORDS.iter().map(|(word, _)| *word).collect();
        Schema::of_type("string").with("enum", words.as_slice())
    }
}

impl<W: Words> Shown for Choice<W> {
    fn show(value: &W::Value) -> Node {
        Node::from(W::word(*value))
    }
}

/// `refuse`, or `allow`: whether something dangerous is accepted.
pub(super) enum Permission {}

impl Words for Permission {
    type Value = bool;
    const WORDS: &'static [(&'static str, bool)] = &[("refuse", false), ("allow", true)];
}
