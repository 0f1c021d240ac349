//! YAML with places in the source, as Kubernetes and Envoy read it: anchors, merge keys, and plain scalars with a type.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::embedded::Places;
use crate::tree::{Entry, Node, Style, Text, Value};

/// How many values a document may have after its aliases are expanded. An alias bomb has more.
const MOST_VALUES: usize = 500_000;

/// Why a text is not YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotYaml {
    /// The byte of the source at which the reader stopped.
    pub(crate) offset: usize,
    /// What was found.
    pub(crate) message: String,
    /// An instruction that corrects the text.
    pub(crate) remedy: &'static str,
}

/// Reads all documents of a text, which `places` leads to the source. Empty documents are left out.
///
/// # Errors
/// If the text is not YAML, or has more than half a million values.
pub(crate) fn read(text: &str, places: &Places) -> Result<Vec<Rc<Node>>, NotYaml> {
    let mut builder = Builder { text, places, anchors: HashMap::new(), open: Vec::new(), documents: Vec::new() };
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| not_yaml(&error, places))?;
        builder.take(event, &span)?;
    }
    Ok(builder.documents)
}

fn not_yaml(error: &ScanError, places: &Places) -> NotYaml {
    let offset = error.marker().byte_offset().unwrap_or_default();
    let message = error.info();
    let remedy = if message.contains("tab") {
        "Indent with spaces: YAML does not allow tabs in indentation."
    } else if message.contains("anchor") || message.contains("alias") {
        "Define the anchor (&name) before its alias (*name), in the same document."
    } else {
        "Correct the indentation, quotes or brackets at this place."
    };
    NotYaml { offset: places.of(offset), message, remedy }
}

/// A node, and the number of values in it after its aliases are expanded.
type Weighed = (Rc<Node>, usize);

/// A list or object that is not complete.
struct Open {
    start: usize,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<(String, Range<usize>)>,
    is_object: bool,
    items: Vec<Rc<Node>>,
    entries: Vec<Entry>,
    weight: usize,
}

struct Builder<'a> {
    text: &'a str,
    places: &'a Places,
    anchors: HashMap<usize, Weighed>,
    open: Vec<Open>,
    documents: Vec<Rc<Node>>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), NotYaml> {
        let range = span.byte_range().unwrap_or_default();
        match event {
            Event::SequenceStart(_, anchor, _) => self.begin(range.start, anchor, false),
            Event::MappingStart(_, anchor, _) => self.begin(range.start, anchor, true),
            Event::SequenceEnd | Event::MappingEnd => self.end(range.end)?,
            Event::Scalar(value, style, anchor, tag) => {
                let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let node = Node { span: self.places.range(&range), value: scalar(&value, style, is_text) };
                self.add((Rc::new(node), 1), anchor)?;
            }
            Event::Alias(id) => {
                let Some((node, weight)) = self.anchors.get(&id).cloned() else {
                    return Err(self.refuse(range.start, "an alias inside the value of its own anchor"));
                };
                self.add((node, weight), 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn refuse(&self, offset: usize, message: &str) -> NotYaml {
        let remedy = "Write the values out instead of using aliases of aliases.";
        NotYaml { offset: self.places.of(offset), message: message.to_owned(), remedy }
    }

    fn begin(&mut self, start: usize, anchor: usize, is_object: bool) {
        self.open.push(Open { start, anchor, key: None, is_object, items: Vec::new(), entries: Vec::new(), weight: 1 });
    }

    fn end(&mut self, end: usize) -> Result<(), NotYaml> {
        let Some(Open { start, anchor, is_object, items, entries, weight, .. }) = self.open.pop() else {
            return Ok(());
        };
        // The parser places the end of a block at the next token: blank lines and comments after the block are not part of it.
        let text = self.text.get(start..end.max(start)).unwrap_or_default();
        let last = entries.last().map(|entry| &entry.value).or(items.last());
        let is_flow = text.starts_with(['{', '[']);
        let span = match last {
            Some(last) if !is_flow => self.places.of(start)..last.span.end.max(self.places.of(start)),
            _ => self.places.range(&(start..start.saturating_add(text.trim_end().len()))),
        };
        let value = if is_object { Value::Object(merged(entries)) } else { Value::List(items) };
        self.add((Rc::new(Node { span, value }), weight), anchor)
    }

    /// Adds a complete node to the list or object that is open.
    fn add(&mut self, (node, weight): Weighed, anchor: usize) -> Result<(), NotYaml> {
        if anchor != 0 {
            self.anchors.insert(anchor, (Rc::clone(&node), weight));
        }
        let Some(open) = self.open.last_mut() else {
            if !matches!(node.value, Value::Null) {
                self.documents.push(node);
            }
            return Ok(());
        };
        open.weight = open.weight.saturating_add(weight);
        if open.weight > MOST_VALUES {
            let start = open.start;
            return Err(self.refuse(start, "the aliases expand to more than 500,000 values"));
        }
        match (open.is_object, open.key.take()) {
            (false, _) => open.items.push(node),
            (true, None) => open.key = Some((key_of(&node), node.span.clone())),
            (true, Some((key, key_span))) => open.entries.push(Entry { key, key_span, value: node }),
        }
        Ok(())
    }
}

/// The name of a field. A number or a boolean is taken as it is written.
fn key_of(node: &Node) -> String {
    match &node.value {
        Value::String(text) => text.text.clone(),
        _ => node.to_json(),
    }
}

/// Replaces merge keys (`<<: *anchor`) with the fields that they stand for, which do not override the object's own.
fn merged(entries: Vec<Entry>) -> Vec<Entry> {
    if entries.iter().all(|entry| entry.key != "<<") {
        return entries;
    }
    let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.key == "<<");
    for merge in merges {
        let sources = match &merge.value.value {
            Value::List(items) => items.clone(),
            _ => vec![Rc::clone(&merge.value)],
        };
        for entry in sources.iter().flat_map(|source| source.entries()) {
            if own.iter().all(|other| other.key != entry.key) {
                own.push(entry.clone());
            }
        }
    }
    own
}

/// The value of a scalar. A plain one has the type that YAML libraries of Go and C++ give it, those of YAML 1.1 included.
fn scalar(text: &str, style: ScalarStyle, is_text: bool) -> Value {
    let style = match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted => Style::SingleQuoted,
        ScalarStyle::DoubleQuoted => Style::DoubleQuoted,
        ScalarStyle::Literal => Style::Literal,
        ScalarStyle::Folded => Style::Folded,
    };
    if style == Style::Plain && !is_text {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
            text if is_number(text) => return Value::Number(text.to_owned()),
            _ => {}
        }
    }
    Value::String(Text { text: text.to_owned(), style })
}

/// Whether a plain scalar is a number that JSON can have, too.
fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit() || first == '-')
        && serde_json::from_str::<serde_json::Number>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        let documents = read(text, &Places::direct(0, text.len())).unwrap();
        documents.iter().map(|document| document.to_json()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn plain_scalars_have_types_and_quoted_ones_are_strings() {
        assert_eq!(
            json("[1, '1', yes, \"yes\", ~, 1.5, 0x10, 1m, 2026-01-31]"),
            r#"[1,"1",true,"yes",null,1.5,"0x10","1m","2026-01-31"]"#
        );
    }

    #[test]
    fn anchors_and_merge_keys_are_resolved() {
        assert_eq!(
            json("a: &a { x: 1, y: 2 }\nb: { <<: *a, y: 3 }\nc: *a"),
            r#"{"a":{"x":1,"y":2},"b":{"y":3,"x":1},"c":{"x":1,"y":2}}"#
        );
        assert_eq!(json("---\na: 1\n---\n# nothing\n---\nb: 2\n"), r#"{"a":1} {"b":2}"#);
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        let refused = read(&text, &Places::direct(0, text.len())).unwrap_err();
        assert!(refused.message.contains("500,000"), "{refused:?}");
    }

    #[test]
    fn a_block_ends_with_its_last_value() {
        let text = "a:\n  b: 1\n\n# comment\nc: 2\n";
        let documents = read(text, &Places::direct(0, text.len())).unwrap();
        assert_eq!(&text[documents[0].get("a").unwrap().span.clone()], "b: 1");
        assert_eq!(documents[0].place("c", true), 21..22);
    }
}
