//! Access logs and traces that would contain the token.

use crate::document::places_of;
use crate::finding::Findings;
use crate::inventory::{Found, Inventory};
use crate::source::Source;
use crate::tree::{Node, Value};

/// The commands of Envoy's formats that give a request header. `NAME?OTHER` stands for the first that the request has.
const COMMANDS: &[&str] = &["%REQ(", "%REQUEST_HEADER(", "%REQ_WITHOUT_QUERY("];

pub(super) fn check(sources: &[Source], inventory: &Inventory<'_>, findings: &mut Findings) {
    let headers = inventory.token_headers();
    for document in &inventory.documents {
        let mut strings = Vec::new();
        collect(document.node, false, &mut strings);
        for node in strings {
            check_format(sources, Found { node, ..*document }, &headers, findings);
        }
    }
}

/// The strings below a field whose name has to do with a log.
fn collect<'a>(node: &'a Node, in_log: bool, strings: &mut Vec<&'a Node>) {
    match &node.value {
        Value::String(_) if in_log => strings.push(node),
        Value::List(items) => items.iter().for_each(|item| collect(item, in_log, strings)),
        Value::Object(entries) => {
            for entry in entries {
                let name = entry.key.to_ascii_lowercase();
                let is_log = name.contains("log") || name.contains("telemetry");
                collect(&entry.value, in_log || is_log, strings);
            }
        }
        _ => {}
    }
}

fn check_format(sources: &[Source], found: Found<'_>, headers: &[String], findings: &mut Findings) {
    let (Value::String(format), Some(source)) = (&found.node.value, sources.get(found.source)) else { return };
    let upper = format.text.to_ascii_uppercase();
    for command in COMMANDS {
        for (offset, _) in upper.match_indices(command) {
            let after = format.text.get(offset.saturating_add(command.len())..).unwrap_or_default();
            let names = after.split(')').next().unwrap_or_default().to_ascii_lowercase();
            if names.split('?').any(|name| headers.iter().any(|header| header == name)) {
                let length = command.len().saturating_add(names.len()).saturating_add(1);
                let places = places_of(source, &found.node.span, format);
                let span = places.range(&(offset..offset.saturating_add(length)));
                findings.add(
                    "token_logged",
                    (found.source, span),
                    "the access log would contain the access token",
                    "Remove the header from the format: the access log would contain the access token.",
                );
            }
        }
    }
}
