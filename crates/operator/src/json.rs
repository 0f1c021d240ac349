//! JSON with places in the source.

use std::ops::Range;
use std::rc::Rc;

use jsonc_parser::ast;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::{CollectOptions, ParseOptions};

use crate::embedded::Places;
use crate::source::Position;
use crate::tree::{Entry, Node, Style, Text, Value};

/// Why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotJson {
    /// The byte of the text at which the reader stopped.
    pub(crate) offset: usize,
    /// What was found, such as `trailing comma`.
    pub(crate) message: String,
    /// An instruction that corrects the text.
    pub(crate) remedy: &'static str,
}

/// Reads JSON. `places` leads from the text to the source.
///
/// # Errors
/// If the text is not JSON (RFC 8259).
pub(crate) fn read(text: &str, places: &Places) -> Result<Node, NotJson> {
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        return Err(not_json(text, &error));
    }
    let options = ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        ..ParseOptions::default()
    };
    let parsed = jsonc_parser::parse_to_ast(text, &CollectOptions::default(), &options);
    let value = parsed.map_err(|error| NotJson {
        offset: error.range().start,
        message: error.kind().to_string(),
        remedy: WRITE_JSON,
    })?;
    Ok(value.value.map_or_else(|| Node { span: 0..0, value: Value::Null }, |value| node(&value, places)))
}

fn node(value: &ast::Value<'_>, places: &Places) -> Node {
    let range = value.range();
    let span = places.range(&(range.start..range.end));
    let value = match value {
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::BooleanLit(literal) => Value::Bool(literal.value),
        ast::Value::NumberLit(number) => Value::Number(number.value.to_owned()),
        ast::Value::StringLit(string) => {
            Value::String(Text { text: string.value.to_string(), style: Style::DoubleQuoted })
        }
        ast::Value::Array(array) => {
            Value::List(array.elements.iter().map(|item| Rc::new(node(item, places))).collect())
        }
        ast::Value::Object(object) => {
            Value::Object(object.properties.iter().map(|property| entry(property, places)).collect())
        }
    };
    Node { span, value }
}

fn entry(property: &ast::ObjectProp<'_>, places: &Places) -> Entry {
    let Range { start, end } = {
        let range = property.name.range();
        range.start..range.end
    };
    let key = property.name.as_str().to_owned();
    Entry { key, key_span: places.range(&(start..end)), value: Rc::new(node(&property.value, places)) }
}

const WRITE_JSON: &str = "Write valid JSON. Comments, single quotes and unquoted names are not JSON.";

/// Says what to change, by the place at which the reader stopped.
fn not_json(text: &str, error: &serde_json::Error) -> NotJson {
    let full = error.to_string();
    let message = full.split(" at line ").next().unwrap_or(&full).to_owned();
    // serde_json counts bytes in the line, and points at the last byte that it read.
    let line_start = crate::source::offset_in(text, Position { line: error.line(), column: 1 });
    let offset = line_start.saturating_add(error.column().saturating_sub(1)).min(text.len());
    let before = text.get(..offset).unwrap_or_default().trim_end();
    let (offset, remedy) = if error.is_eof() {
        (text.len(), "Write valid JSON: the text ends too early.")
    } else if message.starts_with("trailing comma")
        || before.ends_with(',') && text.get(offset..).is_some_and(|rest| rest.starts_with(['}', ']']))
    {
        (offset, "Remove the comma, or add what is missing after it.")
    } else if message.starts_with("expected `,`") {
        (offset, "Add the missing comma.")
    } else if before.is_empty() && !text.trim_start().starts_with(['{', '[', '"']) {
        (offset, "Write valid JSON: inside a StringValue the configuration is JSON, not YAML.")
    } else {
        (offset, WRITE_JSON)
    };
    NotJson { offset, message, remedy }
}
