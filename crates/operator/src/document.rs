//! Documents: what the given files contain, and where the filter's configurations are in them.

use std::ops::Range;
use std::rc::Rc;

use crate::embedded::Places;
use crate::finding::Findings;
use crate::source::Source;
use crate::tree::{Node, Text, Value};
use crate::{json, yaml};

/// A document of a file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// The index of the source.
    pub(crate) source: usize,
    /// The value of the document.
    pub(crate) root: Rc<Node>,
    /// The text, if the file is the filter's configuration as JSON: the core reads it itself.
    pub(crate) json: Option<String>,
}

/// The name of an object of Kubernetes, for messages: `EnvoyFilter entra-exchange`.
pub(crate) fn kind_and_name(root: &Node) -> String {
    let kind = root.text_of("kind").unwrap_or("object");
    match root.at(&["metadata", "name"]).and_then(Node::text) {
        Some(name) => format!("{kind} {name}"),
        None => kind.to_owned(),
    }
}

/// Reads the documents of all sources. What is not YAML or JSON becomes a finding.
pub(crate) fn read(sources: &[Source], findings: &mut Findings) -> Vec<Document> {
    let mut documents = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        if source.has_byte_order_mark() {
            findings.add(
                "byte_order_mark",
                (index, 0..0),
                "the file begins with a byte order mark, which Envoy does not accept",
                "Save the file as UTF-8 without a byte order mark.",
            );
        }
        read_source(index, source, &mut documents, findings);
    }
    documents
}

fn read_source(index: usize, source: &Source, documents: &mut Vec<Document>, findings: &mut Findings) {
    let start = source.content_start();
    let text = source.text().get(start..).unwrap_or_default();
    let places = Places::direct(start, text.len());
    if text.trim().is_empty() {
        let message = "the configuration is empty";
        findings.add("empty_configuration", (index, start..start), message, ADD_SECTIONS);
        return;
    }
    if is_json(source.name(), text) {
        match json::read(text, &places) {
            Ok(root) => documents.push(Document { source: index, root: Rc::new(root), json: Some(text.to_owned()) }),
            Err(error) => {
                let place = places.of(error.offset);
                findings.add("invalid_json", (index, place..place), error.message, error.remedy);
            }
        }
        return;
    }
    match yaml::read(text, &places) {
        Ok(roots) => {
            for root in roots {
                let nested = nested_documents(index, source, &root);
                documents.push(Document { source: index, root, json: None });
                documents.extend(nested);
            }
        }
        Err(error) => {
            findings.add("invalid_yaml", (index, error.offset..error.offset), error.message, error.remedy);
        }
    }
}

pub(crate) const ADD_SECTIONS: &str = "Add destinations, managed_identity, or both.";

/// Whether a file is read as JSON. YAML is told apart by its name, or because it does not begin with a brace.
fn is_json(name: &str, text: &str) -> bool {
    let has_ending = |ending: &str| name.to_ascii_lowercase().ends_with(ending);
    has_ending(".json") || (text.trim_start().starts_with(['{', '[']) && !has_ending(".yaml") && !has_ending(".yml"))
}

/// The files in a ConfigMap are documents, too: an Envoy outside a mesh often has its configuration from one.
fn nested_documents(index: usize, source: &Source, root: &Node) -> Vec<Document> {
    if root.text_of("kind") != Some("ConfigMap") {
        return Vec::new();
    }
    let mut documents = Vec::new();
    for entry in root.get("data").map(Node::entries).unwrap_or_default() {
        let Value::String(text) = &entry.value.value else { continue };
        let places = places_of(source, &entry.value.span, text);
        if entry.key.ends_with(".json") {
            if let Ok(root) = json::read(&text.text, &places) {
                documents.push(Document { source: index, root: Rc::new(root), json: Some(text.text.clone()) });
            }
        } else if let Ok(roots) = yaml::read(&text.text, &places) {
            let roots = roots.into_iter().filter(|root| matches!(root.value, Value::Object(_)));
            documents.extend(roots.map(|root| Document { source: index, root, json: None }));
        }
    }
    documents
}

/// The places of a string's bytes.
pub(crate) fn places_of(source: &Source, span: &Range<usize>, text: &Text) -> Places {
    let raw = source.text().get(span.clone()).unwrap_or_default();
    Places::follow(raw, span.start, &text.text, text.style)
}
