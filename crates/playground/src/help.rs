//! Completion and help, from the JSON Schema that is generated from the configuration's declared fields.

use std::sync::LazyLock;

use serde::Serialize;
use serde_json::Value;

use crate::outline::{self, Field, Place, Role, Step, Style};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../schema/entra-exchange.schema.json")).unwrap_or_default()
});

/// What can be written at the cursor.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Completion {
    /// The beginning of the text that a proposal replaces, in UTF-16 units.
    from: usize,
    /// Its end.
    to: usize,
    /// The proposals, those that begin with the written word first.
    proposals: Vec<Proposal>,
}

/// A proposal.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Proposal {
    /// The name or the value.
    label: String,
    /// What kind of value a field has, or what a value is.
    kind: String,
    /// What the field is for.
    description: String,
    /// The text to insert.
    insert: String,
    /// How far from the end of the inserted text the cursor is, in UTF-16 units.
    back: usize,
}

/// What a field is for.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Help {
    /// The path of the field.
    path: String,
    /// The kind of its value.
    kind: String,
    /// The description.
    description: String,
    /// The default.
    default: Option<String>,
    /// The values, if only some are allowed.
    values: Vec<String>,
    /// Examples.
    examples: Vec<String>,
    /// The beginning of the word that it is about, in UTF-16 units.
    from: usize,
    /// Its end.
    to: usize,
}

/// What can be written at a cursor, which is an offset in UTF-16 units.
pub(crate) fn complete(text: &str, cursor: usize) -> Option<Completion> {
    let offset = byte_offset(text, cursor)?;
    let place = outline::at(text, offset)?;
    let schema = schema_at(&place)?;
    let is_name = place.role == Role::Name || (place.role == Role::Bare && schema.iter().any(|one| is_object(one)));
    let word = text.get(place.span.start..offset.max(place.span.start)).unwrap_or_default();
    let mut proposals = if is_name { names(&schema, &place, text) } else { values(&schema, &place) };
    let rank = |label: &str| {
        let (label, word) = (label.to_ascii_lowercase(), word.to_ascii_lowercase());
        label.find(&word).map(|at| usize::from(at > 0))
    };
    proposals.retain(|proposal| rank(&proposal.label).is_some());
    proposals.sort_by_key(|proposal| rank(&proposal.label));
    let end =
        if place.role == Role::Bare { offset.max(word_end(text, offset, &place)) } else { place.span.end.max(offset) };
    Some(Completion { from: utf16(text, place.span.start), to: utf16(text, end), proposals })
}

/// What the field at a cursor is for.
pub(crate) fn help(text: &str, cursor: usize) -> Option<Help> {
    let place = outline::at(text, byte_offset(text, cursor)?)?;
    let mut path = place.path.clone();
    if place.role == Role::Name {
        path.push(Step::Field(place.word.clone()));
    }
    // A word alone in an object is the beginning of a name; an item of a list is explained as the list.
    let schema = nodes(&path, &place.fields)?;
    let mut field = path.as_slice();
    while let [before @ .., Step::Item] = field {
        field = before;
    }
    let described =
        nodes(field, &place.fields).filter(|_| !schema.iter().any(|one| is_object(one)) || place.role != Role::Bare);
    let (schema, path) = match described {
        Some(described) => (described, field),
        None => (schema, path.as_slice()),
    };
    let first = schema.first()?;
    let texts = |name: &str| -> Vec<String> {
        let all = schema.iter().filter_map(|one| one.get(name)?.as_array()).flatten();
        all.map(shown).collect()
    };
    let items = schema.iter().filter_map(|one| one.get("items")?.get("enum")?.as_array()).flatten().map(shown);
    Some(Help {
        path: display(path),
        kind: kind(&schema),
        description: first.get("description").and_then(Value::as_str).unwrap_or_default().to_owned(),
        default: first.get("default").map(shown),
        values: texts("enum").into_iter().chain(items).collect(),
        examples: texts("examples"),
        from: utf16(text, place.span.start),
        to: utf16(text, place.span.end),
    })
}

/// A path as messages show it.
fn display(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Item => text.push_str("[]"),
            Step::Field(name) if text.is_empty() => text.push_str(name),
            Step::Field(name) => text.push_str(&format!(".{name}")),
        }
    }
    text
}

fn byte_offset(text: &str, cursor: usize) -> Option<usize> {
    let mut units = 0_usize;
    for (offset, next) in text.char_indices() {
        if units >= cursor {
            return Some(offset);
        }
        units = units.saturating_add(next.len_utf16());
    }
    (units >= cursor).then_some(text.len())
}

fn utf16(text: &str, offset: usize) -> usize {
    text.get(..offset).unwrap_or_default().encode_utf16().count()
}

/// The end of the name or value that the cursor is in: the rest of an unfinished text is left alone.
fn word_end(text: &str, offset: usize, place: &Place) -> usize {
    let rest = text.get(offset..place.span.end.max(offset)).unwrap_or_default();
    let is_part = |next: char| next.is_alphanumeric() || "_-./:".contains(next);
    offset.saturating_add(rest.find(|next| !is_part(next)).unwrap_or(rest.len()))
}

fn schema_at(place: &Place) -> Option<Vec<&'static Value>> {
    nodes(&place.path, &place.fields)
}

/// The schemas that describe the value at a path. There are several where an object has several kinds.
fn nodes(path: &[Step], fields: &[Vec<Field>]) -> Option<Vec<&'static Value>> {
    let mut nodes = branches(&SCHEMA, fields.first());
    for (depth, step) in path.iter().enumerate() {
        let around = fields.get(depth.saturating_add(1));
        let next: Vec<&'static Value> = nodes
            .iter()
            .filter_map(|node| match step {
                Step::Field(name) => {
                    let declared = node.get("properties").and_then(|all| all.get(name));
                    declared.or_else(|| node.get("additionalProperties").filter(|any| any.is_object()))
                }
                Step::Item => node.get("items"),
            })
            .flat_map(|node| branches(node, around))
            .collect();
        nodes = next;
    }
    (!nodes.is_empty()).then_some(nodes)
}

/// The kinds of an object that the written fields allow, or the schema itself.
fn branches(node: &'static Value, fields: Option<&Vec<Field>>) -> Vec<&'static Value> {
    let Some(kinds) = node.get("oneOf").and_then(Value::as_array) else { return vec![node] };
    let fits = |kind: &&Value| {
        fields.into_iter().flatten().all(|(name, value)| {
            let fixed = kind.get("properties").and_then(|all| all.get(name)?.get("const")?.as_str());
            fixed.is_none() || value.is_none() || fixed == value.as_deref()
        })
    };
    let fitting: Vec<&Value> = kinds.iter().filter(fits).collect();
    if fitting.is_empty() { kinds.iter().collect() } else { fitting }
}

fn is_object(node: &Value) -> bool {
    node.get("properties").is_some() || node.get("type").and_then(Value::as_str) == Some("object")
}

/// The fields that the object does not have yet.
fn names(schema: &[&Value], place: &Place, text: &str) -> Vec<Proposal> {
    let written = place.fields.last().map(Vec::as_slice).unwrap_or_default();
    let is_written = |name: &str| name != place.word && written.iter().any(|(other, _)| other == name);
    let mut proposals: Vec<Proposal> = Vec::new();
    for kind in schema {
        let required: Vec<&str> =
            kind.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, node) in kind.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if is_written(name) || proposals.iter().any(|other| other.label == *name) {
                continue;
            }
            let (insert, back) = written_name(name, node, place, text);
            let requirement = if required.contains(&name.as_str()) { "required " } else { "" };
            proposals.push(Proposal {
                label: name.clone(),
                kind: format!("{requirement}{}", self::kind(&[node])),
                description: node.get("description").and_then(Value::as_str).unwrap_or_default().to_owned(),
                insert,
                back,
            });
        }
    }
    proposals
}

/// A name with its colon and the beginning of its value, and how far from its end the cursor is.
fn written_name(name: &str, node: &Value, place: &Place, text: &str) -> (String, usize) {
    // The value is there, or the quote after the name.
    let after = text.get(place.span.end..).unwrap_or_default();
    if place.role == Role::Name || (place.is_quoted && after.starts_with(['"', '\''])) {
        return (name.to_owned(), 0);
    }
    let first = node.get("type").and_then(Value::as_str).or_else(|| node.get("const").map(|_| "string"));
    let is_json = place.is_quoted || text.trim_start().starts_with('{');
    match (place.style, is_json, first) {
        (Style::Block, _, Some("object")) => (format!("{name}:\n{}", " ".repeat(place.column.saturating_add(2))), 0),
        (_, false, Some("array")) => (format!("{name}: []"), 1),
        (Style::Flow, false, Some("object")) => (format!("{name}: {{}}"), 1),
        (_, false, _) => (format!("{name}: "), 0),
        (_, true, kind) => {
            let (value, back) = match kind {
                Some("object") => ("{}", 1),
                Some("array") => ("[]", 1),
                Some("string") => ("\"\"", 1),
                _ => ("", 0),
            };
            let quote = if place.is_quoted { "" } else { "\"" };
            (format!("{quote}{name}\": {value}"), back)
        }
    }
}

/// The values that are allowed, or examples of them.
fn values(schema: &[&Value], place: &Place) -> Vec<Proposal> {
    let mut proposals: Vec<Proposal> = Vec::new();
    let mut add = |value: &Value, kind: &str| {
        let label = shown(value);
        if !label.is_empty() && proposals.iter().all(|other| other.label != label) {
            let insert = match value {
                Value::String(text) if place.is_quoted => text.clone(),
                Value::String(text) if is_plain(text) && place.style == Style::Block => text.clone(),
                _ => value.to_string(),
            };
            proposals.push(Proposal { label, kind: kind.to_owned(), description: String::new(), insert, back: 0 });
        }
    };
    for node in schema {
        for value in node.get("enum").and_then(Value::as_array).into_iter().flatten() {
            let is_default = node.get("default") == Some(value);
            add(value, if is_default { "default" } else { "value" });
        }
        node.get("const").into_iter().for_each(|value| add(value, "value"));
        if node.get("type").and_then(Value::as_str) == Some("boolean") {
            [true, false].map(Value::from).iter().for_each(|value| add(value, "value"));
        }
        let single = |value: &&Value| !value.is_array() && !value.is_object();
        node.get("default").filter(single).into_iter().for_each(|value| add(value, "default"));
        let examples = node.get("examples").and_then(Value::as_array).into_iter().flatten();
        examples.filter(single).for_each(|value| add(value, "example"));
    }
    proposals
}

/// Whether YAML reads the text as a string without quotes.
fn is_plain(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.chars().all(|next| next.is_ascii_alphanumeric() || "_-./:".contains(next))
        && !text.ends_with(':')
        && !matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off")
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The kind of a value in one or two words.
fn kind(schema: &[&Value]) -> String {
    let Some(first) = schema.first() else { return String::new() };
    let name = |node: &Value| match node.get("type").and_then(Value::as_str) {
        Some("array") => "list",
        Some("object") => "object",
        Some("integer" | "number") => "number",
        Some("boolean") => "true or false",
        _ if is_object(node) || node.get("oneOf").is_some() => "object",
        _ => "string",
    };
    match (name(first), first.get("items")) {
        ("list", Some(items)) => format!("list of {}s", name(items)),
        (one, _) => one.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> (String, usize) {
        let offset = text.find('‸').unwrap_or_default();
        let before = text.get(..offset).unwrap_or_default().encode_utf16().count();
        (text.replace('‸', ""), before)
    }

    fn labels(text: &str) -> Vec<String> {
        let (text, cursor) = split(text);
        let completion = complete(&text, cursor);
        completion.map(|completion| completion.proposals.into_iter().map(|one| one.label).collect()).unwrap_or_default()
    }

    /// The text after the proposal with this label was chosen, with the cursor.
    fn chosen(text: &str, label: &str) -> String {
        let (text, cursor) = split(text);
        let Some(completion) = complete(&text, cursor) else { return "no completion".to_owned() };
        let Some(proposal) = completion.proposals.iter().find(|one| one.label == label) else {
            return format!("no {label} in {:?}", completion.proposals);
        };
        let units: Vec<u16> = text.encode_utf16().collect();
        let part = |range: &[u16]| String::from_utf16_lossy(range);
        let before = part(units.get(..completion.from).unwrap_or_default());
        let after = part(units.get(completion.to..).unwrap_or_default());
        let insert = &proposal.insert;
        let (start, end) = insert.split_at(insert.len().saturating_sub(proposal.back));
        format!("{before}{start}‸{end}{after}")
    }

    #[test]
    fn fields_that_are_not_written_yet_are_proposed() {
        let all = labels("{\"entra\": {}, ‸}");
        assert!(all.contains(&"destinations".to_owned()) && !all.contains(&"entra".to_owned()), "{all:?}");
        let left = labels("entra:\n  ‸\n  authority: x\n  clusters: []\n");
        assert!(left.contains(&"unknown_authority".to_owned()), "{left:?}");
        assert!(!left.iter().any(|name| name == "authority" || name == "clusters"), "{left:?}");
        assert_eq!(labels("entra: {}\nmanaged_ident‸"), ["managed_identity"]);
        assert_eq!(labels("nothing_like_it:\n  ‸"), [""; 0]);
    }

    #[test]
    fn the_kind_of_a_source_decides_which_fields_are_proposed() {
        let of = |source: &str| labels(&format!("assertions:\n- source: {source}\n  ‸\n"));
        assert!(of("azure_pipelines").contains(&"service_connection_id".to_owned()));
        assert!(!of("github_actions").contains(&"service_connection_id".to_owned()));
        assert!(labels("assertions:\n- source: ‸\n").contains(&"vault".to_owned()));
    }

    #[test]
    fn values_are_proposed_where_the_schema_names_them() {
        assert_eq!(labels("entra:\n  unknown_authority: ‸\n"), ["refuse", "allow"]);
        assert_eq!(labels("{\"entra\": {\"unknown_authority\": \"a‸\"}}"), ["allow"]);
    }

    #[test]
    fn a_chosen_proposal_leaves_a_text_that_goes_on() {
        assert_eq!(chosen("{‸}", "entra"), "{\"entra\": {‸}}");
        assert_eq!(chosen("{\"ent‸\"}", "entra"), "{\"entra‸\"}");
        assert_eq!(chosen("{\"ent‸\n}", "entra"), "{\"entra\": {‸}\n}");
        assert_eq!(chosen("{\"ent‸r\": 1}", "entra"), "{\"entra‸\": 1}");
        assert_eq!(chosen("‸", "entra"), "entra:\n  ‸");
        assert_eq!(chosen("entra:\n  cl‸", "clusters"), "entra:\n  clusters: [‸]");
        assert_eq!(chosen("entra: { cl‸ }", "clusters"), "entra: { clusters: [‸] }");
        assert_eq!(chosen("entra:\n  unknown_authority: r‸\n", "refuse"), "entra:\n  unknown_authority: refuse‸\n");
        assert_eq!(chosen("# ü€😀\nent‸", "entra"), "# ü€😀\nentra:\n  ‸");
    }

    #[test]
    fn help_describes_the_field_at_the_cursor() {
        let help = |text: &str| {
            let (text, cursor) = split(text);
            help(&text, cursor)
        };
        for text in [
            "{\"entra\": {\"clus‸ters\": [\"entra\"]}}",
            "entra:\n  clusters: [ent‸ra]\n",
            "entra:\n  clus‸ters:\n  - entra\n",
        ] {
            let found = help(text);
            assert_eq!(found.as_ref().map(|help| help.path.as_str()), Some("entra.clusters"), "{text}");
            assert_eq!(found.map(|help| help.kind), Some("list of strings".to_owned()));
        }
        assert_eq!(
            help("entra:\n  unknown_authority: al‸low\n").map(|help| help.values),
            Some(vec!["refuse".to_owned(), "allow".to_owned()])
        );
        assert_eq!(help("entra:\n  unknown_field: al‸low\n"), None);
    }

    #[test]
    fn every_field_of_the_schema_has_help() {
        fn visit(node: &Value, path: &str, count: &mut usize) {
            for (name, field) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
                *count += 1;
                let has_text = field.get("const").is_some()
                    || field.get("description").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
                assert!(has_text, "{path}.{name}");
                visit(field, &format!("{path}.{name}"), count);
            }
            let kinds = node.get("oneOf").and_then(Value::as_array).into_iter().flatten();
            kinds.for_each(|kind| visit(kind, path, count));
            node.get("items").into_iter().for_each(|items| visit(items, &format!("{path}[]"), count));
        }
        let mut count = 0;
        visit(&SCHEMA, "", &mut count);
        assert!(count > 80, "{count}");
    }
}
