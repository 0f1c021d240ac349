//! Puts the fields of a named source into the general form, `source: http`.

use super::fields::{AssertionFields, HttpFields, RequestFields};
use crate::assertion::{Named, encode};
use crate::config::object::{Object, Section as _};
use crate::config::reader::{Mistakes, Name, find};
use crate::config::shapes::Text;
use crate::config::tree::Node;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Stands for a value that is missing or not valid, which is reported by the name of its field.
const PLACEHOLDER: &str = "-";

/// The general form of a named source's assertion: that of its row, with the fields of the assertion.
pub(super) fn of(
    row: &Named,
    object: &Object<'_, '_, AssertionFields>,
    audience: &str,
    mistakes: &mut Mistakes,
) -> Node {
    let names = AssertionFields::NAMES.of(object.nodes());
    let mut form = Node::parse(row.form.as_bytes()).unwrap_or_else(|_| Node::Object(Vec::new()));
    fill(&mut form, &mut |name, before| {
        let default = match name {
            "audience" => Some(audience),
            "subject_token_type" => Some(JWT_TYPE),
            "client_assertion_type" => find(object.nodes(), "client_assertion").map(|_| JWT_BEARER),
            _ => None,
        };
        let own = match names.iter().find(|known| known.name == name) {
            // It is also read from the general form.
            Some(Name { name, .. }) if HttpFields::NAMES.has(name) => {
                text_of(object, name, "", &mut Mistakes::default())
            }
            Some(known) => text_of(object, known.name, before, mistakes).or(known.required.map(|_| PLACEHOLDER)),
            None => None,
        };
        own.or(default).map(str::to_owned)
    });
    for Name { name, .. } in names {
        let Some(value) = find(object.nodes(), name) else { continue };
        if HttpFields::NAMES.has(name) {
            place(&mut form, name, value);
        } else if let Some(request) = field_of(&mut form, "request").filter(|_| RequestFields::NAMES.has(name)) {
            place(request, name, value);
        }
    }
    form
}

/// The text of a field, which becomes part of the request behind the text `before`.
fn text_of<'a>(
    object: &Object<'_, 'a, AssertionFields>,
    name: &'static str,
    before: &str,
    mistakes: &mut Mistakes,
) -> Option<&'a str> {
    let field = object.field::<Text>(name);
    let text = field.read(mistakes)?;
    let is_in_host = !before.is_empty() && !before.starts_with('/');
    let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let expected = match text {
        text if is_in_host && !text.bytes().all(is_of_host) => "write letters, digits and hyphens",
        text if text.contains(|character: char| character.is_ascii_control()) => "remove its control characters",
        text => return Some(text),
    };
    field.mistake(format!("{text:?} is not valid: {expected}"), mistakes);
    Some(PLACEHOLDER)
}

/// Replaces each `$name` with its value, which depends on the text before it. What has no value is removed. Returns whether anything
/// is left.
fn fill(node: &mut Node, value: &mut dyn FnMut(&str, &str) -> Option<String>) -> bool {
    match node {
        Node::Object(fields) => {
            fields.retain_mut(|(_, field)| fill(field, value));
            !fields.is_empty()
        }
        Node::String(text) => {
            let Some((before, rest)) = text.split_once('$') else { return true };
            let is_of_name = |character: char| character.is_ascii_lowercase() || character == '_';
            let (name, after) = rest.split_at(rest.find(|character| !is_of_name(character)).unwrap_or(rest.len()));
            let Some(found) = value(name, before) else { return false };
            // In a path or a host the value is one segment.
            *text = if before.is_empty() { found } else { [before, &encode(&found), after].concat() };
            true
        }
        _ => true,
    }
}

/// Sets a field. The fields of an object are added to those that the row has, and replace those of the same name.
fn place(form: &mut Node, name: &str, value: &Node) {
    match (value, field_of(form, name)) {
        (Node::Object(added), Some(Node::Object(fields))) => {
            fields.retain(|(name, _)| find(added, name).is_none());
            fields.extend_from_slice(added);
        }
        (value, Some(field)) => field.clone_from(value),
        (_, None) => {}
    }
}

/// The field with this name of an object. It is an empty object if it was not present.
fn field_of<'n>(form: &'n mut Node, name: &str) -> Option<&'n mut Node> {
    let Node::Object(fields) = form else { return None };
    if find(fields, name).is_none() {
        fields.push((name.to_owned(), Node::Object(Vec::new())));
    }
    fields.iter_mut().find(|(other, _)| other == name).map(|(_, field)| field)
}
