//! Puts the fields of an assertion into the general form.

use super::fields::AssertionFields;
use crate::assertion::Named;
use crate::config::object::{Object, Section as _};
use crate::config::reader::Mistakes;
use crate::config::shapes::Text;
use crate::config::tree::Node;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";

/// The fields of named sources that belong to the request of the general form.
const OF_REQUEST: [&str; 6] = ["authority", "path", "allowed_hosts", "basic_auth", "form", "form_from_env"];

/// The fields that have the same name in the general form.
const COMMON: [&str; 10] =
    ["cluster", "audience", "expect", "timeout", "attempts", "back_off", "request", "response", "not_ready", "reuse"];

/// The fields to which the table refers.
const REFERRED: [&str; 8] = [
    "role",
    "namespace",
    "service_connection_id",
    "subject_token",
    "subject_token_type",
    "client_assertion",
    "client_id",
    "region",
];

/// Those without which a source cannot be asked.
const REQUIRED: [(&str, &str); 6] = [
    ("vault", "role"),
    ("azure_pipelines", "service_connection_id"),
    ("token_exchange", "subject_token"),
    ("azure_managed_identity", "client_id"),
    ("azure_app_service", "client_id"),
    ("aws_sts", "region"),
];

/// The general form of an assertion. `row` is that of a named source.
pub(super) fn of(
    row: Option<&Named>,
    object: &Object<'_, '_, AssertionFields>,
    audience: &str,
    mistakes: &mut Mistakes,
) -> Node {
    let mut form = Node::Object(Vec::new());
    // Another field is a mistake of its own.
    let known = AssertionFields::NAMES.of(object.nodes());
    if let Some(row) = row {
        form = Node::parse(row.form.as_bytes()).unwrap_or(form);
        for name in REFERRED.into_iter().filter(|name| known.contains(name)) {
            let field = object.field::<Text>(name);
            match REQUIRED.contains(&(row.kind, name)) {
                true => drop(field.required("a non-empty string", mistakes)),
                false => drop(field.read(mistakes)),
            }
        }
        let is_set = |name: &str| object.nodes().iter().any(|(other, _)| other == name);
        fill(&mut form, &mut |name| {
            let default = match name {
                "audience" => Some(audience),
                "subject_token_type" => Some(JWT_TYPE),
                "client_assertion_type" => is_set("client_assertion").then_some(JWT_BEARER),
                _ => None,
            };
            let own = object.nodes().iter().find(|(other, _)| other == name);
            match own {
                Some((_, Node::String(text))) if !text.is_empty() => Some(text.clone()),
                // That it is missing or not valid is reported by its own name.
                _ if REQUIRED.contains(&(row.kind, name)) => Some("-".to_owned()),
                _ => default.map(str::to_owned),
            }
        });
    }
    for (name, value) in object.nodes().iter().filter(|(name, _)| known.contains(&name.as_str())) {
        if OF_REQUEST.contains(&name.as_str()) {
            if let Some(request) = field_of(&mut form, "request") {
                place(request, name, value);
            }
        } else if COMMON.contains(&name.as_str()) {
            place(&mut form, name, value);
        }
    }
    form
}

/// Replaces each `$name` with its value. What has no value is removed. Returns whether anything is left.
fn fill(node: &mut Node, value: &mut dyn FnMut(&str) -> Option<String>) -> bool {
    match node {
        Node::Object(fields) => {
            fields.retain_mut(|(_, field)| fill(field, value));
            !fields.is_empty()
        }
        Node::String(text) => {
            let Some((before, rest)) = text.split_once('$') else { return true };
            let is_of_name = |character: char| character.is_ascii_lowercase() || character == '_';
            let (name, after) = rest.split_at(rest.find(|character| !is_of_name(character)).unwrap_or(rest.len()));
            let Some(found) = value(name) else { return false };
            // In a path or a host the value is one segment.
            *text = if before.is_empty() { found } else { [before, &crate::assertion::encode(&found), after].concat() };
            true
        }
        _ => true,
    }
}

/// Sets a field; the fields of an object are added to those of the present one.
fn place(form: &mut Node, name: &str, value: &Node) {
    let Some(field) = field_of(form, name) else { return };
    match (value, &*field) {
        (Node::Object(added), Node::Object(_)) => added.iter().for_each(|(name, value)| place(field, name, value)),
        _ => field.clone_from(value),
    }
}

/// The field with this name of an object. It is an empty object if it was not present.
fn field_of<'n>(form: &'n mut Node, name: &str) -> Option<&'n mut Node> {
    let Node::Object(fields) = form else { return None };
    if fields.iter().all(|(other, _)| other != name) {
        fields.push((name.to_owned(), Node::Object(Vec::new())));
    }
    fields.iter_mut().find(|(other, _)| other == name).map(|(_, field)| field)
}
