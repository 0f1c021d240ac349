//! YAML with places in the source, as Kubernetes and Envoy read it: anchors, merge keys, and plain scalars with a type.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::embedded::Places;
use crate::tree::{Entry, Node, Style, Text, Value};

/// How many values a text with aliases may have after they are expanded. An alias bomb has more.
pub(crate) const MOST_VALUES: usize = 500_000;

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
/// If the text is not YAML, or an alias bomb.
pub(crate) fn read(text: &str, places: &Places) -> Result<Vec<Rc<Node>>, NotYaml> {
    if expands_too_far(text) {
        return Err(NotYaml {
            offset: places.of(0),
            message: format!("the aliases expand to more than {MOST_VALUES} values"),
            remedy: "Write the values out instead of using aliases of aliases.",
        });
    }
    let mut builder = Builder { text, places, anchors: HashMap::new(), open: Vec::new(), documents: Vec::new() };
    for event in parser(text) {
        let (event, span) = event.map_err(|error| not_yaml(&error, places))?;
        builder.take(event, &span)?;
    }
    Ok(builder.documents)
}

fn parser(text: &str) -> impl Iterator<Item = Result<(Event<'_>, Span), ScanError>> {
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    Parser::new_from_str_with_options(text, options)
}

/// Whether the aliases of a text expand to more than [`MOST_VALUES`] values. A text without aliases, or that is not YAML, does not.
pub(crate) fn expands_too_far(text: &str) -> bool {
    let mut expanded = Expanded::default();
    let has_aliases = text.contains('&') && text.contains('*');
    has_aliases && parser(text).map_while(Result::ok).any(|(event, _)| expanded.take(&event) > MOST_VALUES)
}

/// Counts the values of a text after its aliases are expanded, without expanding them.
#[derive(Default)]
struct Expanded {
    /// The number of values under each anchor.
    anchors: HashMap<usize, usize>,
    /// The lists and objects that are not complete: anchor, and number of values.
    open: Vec<(usize, usize)>,
    /// The number of values of the complete documents.
    complete: usize,
    has_alias: bool,
}

impl Expanded {
    /// The number of values so far, of the innermost list or object and of the complete documents. It is 0 before the first alias.
    fn take(&mut self, event: &Event<'_>) -> usize {
        match event {
            Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) => self.open.push((*anchor, 1)),
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((anchor, count)) = self.open.pop() {
                    self.add(count, anchor);
                }
            }
            Event::Scalar(_, _, anchor, _) => self.add(1, *anchor),
            Event::Alias(id) => {
                self.has_alias = true;
                self.add(self.anchors.get(id).copied().unwrap_or(1), 0);
            }
            _ => {}
        }
        let innermost = self.open.last().map(|(_, count)| *count).unwrap_or_default();
        if self.has_alias { self.complete.saturating_add(innermost) } else { 0 }
    }

    fn add(&mut self, count: usize, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, count);
        }
        let total = self.open.last_mut().map_or(&mut self.complete, |(_, total)| total);
        *total = total.saturating_add(count);
    }
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

/// A list or object that is not complete.
struct Open {
    start: usize,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<(String, Range<usize>)>,
    is_object: bool,
    items: Vec<Rc<Node>>,
    entries: Vec<Entry>,
}

struct Builder<'a> {
    text: &'a str,
    places: &'a Places,
    anchors: HashMap<usize, Rc<Node>>,
    open: Vec<Open>,
    documents: Vec<Rc<Node>>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), NotYaml> {
        let range = span.byte_range().unwrap_or_default();
        match event {
            Event::SequenceStart(_, anchor, _) => self.begin(range.start, anchor, false),
            Event::MappingStart(_, anchor, _) => self.begin(range.start, anchor, true),
            Event::SequenceEnd | Event::MappingEnd => self.end(range.end),
            Event::Scalar(value, style, anchor, tag) => {
                let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let node = Node { span: self.places.range(&range), value: scalar(&value, style, is_text) };
                self.add(Rc::new(node), anchor);
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(NotYaml {
                        offset: self.places.of(range.start),
                        message: "an alias inside the value of its own anchor".to_owned(),
                        remedy: "Write the values out instead of using the alias.",
                    });
                };
                self.add(node, 0);
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, start: usize, anchor: usize, is_object: bool) {
        self.open.push(Open { start, anchor, key: None, is_object, items: Vec::new(), entries: Vec::new() });
    }

    fn end(&mut self, end: usize) {
        let Some(Open { start, anchor, is_object, items, entries, .. }) = self.open.pop() else { return };
        // The parser places the end of a block at the next token: blank lines and comments after the block are not part of it.
        let text = self.text.get(start..end.max(start)).unwrap_or_default();
        let last = entries.last().map(|entry| &entry.value).or(items.last());
        let is_flow = text.starts_with(['{', '[']);
        let span = match last {
            Some(last) if !is_flow => self.places.of(start)..last.span.end.max(self.places.of(start)),
            _ => self.places.range(&(start..start.saturating_add(text.trim_end().len()))),
        };
        let value = if is_object { Value::Object(merged(entries)) } else { Value::List(items) };
        self.add(Rc::new(Node { span, value }), anchor);
    }

    /// Adds a complete node to the list or object that is open.
    fn add(&mut self, node: Rc<Node>, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let Some(open) = self.open.last_mut() else {
            if !matches!(node.value, Value::Null) {
                self.documents.push(node);
            }
            return;
        };
        match (open.is_object, open.key.take()) {
            (false, _) => open.items.push(node),
            (true, None) => open.key = Some((key_of(&node), node.span.clone())),
            (true, Some((key, key_span))) => open.entries.push(Entry { key, key_span, value: node }),
        }
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
    let mut names: HashSet<String> = own.iter().map(|entry| entry.key.clone()).collect();
    for merge in merges {
        let sources = match &merge.value.value {
            Value::List(items) => items.clone(),
            _ => vec![Rc::clone(&merge.value)],
        };
        for entry in sources.iter().flat_map(|source| source.entries()) {
            if names.insert(entry.key.clone()) {
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
pub(crate) mod tests {
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

    pub(crate) fn alias_bomb() -> String {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..30 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        text
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let refused = |text: &str| read(text, &Places::direct(0, text.len())).map(drop).map_err(|not| not.message);
        let bomb = Err("the aliases expand to more than 500000 values".to_owned());
        assert_eq!(refused(&alias_bomb()), bomb);
        // Many documents, each of which is small enough.
        let hundred = vec!["x"; 100].join(", ");
        let aliases = vec!["*a"; 1000].join(", ");
        let document = format!("a: &a [{hundred}]\nb: [{aliases}]\n---\n");
        assert_eq!((refused(&document), refused(&document.repeat(6))), (Ok(()), bomb));
        assert!(refused(&format!("# & *\n[{}]", vec!["x"; 600_000].join(", "))).is_ok());
    }

    #[test]
    fn a_block_ends_with_its_last_value() {
        let text = "a:\n  b: 1\n\n# comment\nc: 2\n";
        let documents = read(text, &Places::direct(0, text.len())).unwrap();
        assert_eq!(&text[documents[0].get("a").unwrap().span.clone()], "b: 1");
        assert_eq!(documents[0].place("c", true), 21..22);
    }
}
