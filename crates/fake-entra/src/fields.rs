//! A strict reader of the admin API's JSON objects: an unknown field is an error, so that a typing error is not mistaken for a default.

use std::fmt;

use serde_json::{Map, Value};

/// The error of an invalid document of the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// The path of the field, such as `times` or `[1].times`; empty when the document itself is not valid.
    pub field: String,
    /// The expected value.
    pub reason: String,
}

impl InvalidField {
    pub(crate) fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { field: field.to_owned(), reason: reason.into() }
    }

    /// Prefixes the field with the index of a list's entry.
    pub(crate) fn in_entry(self, index: usize) -> Self {
        let field = if self.field.is_empty() { format!("[{index}]") } else { format!("[{index}].{}", self.field) };
        Self { field, ..self }
    }
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.reason) } else { write!(f, "{}: {}", self.field, self.reason) }
    }
}

impl std::error::Error for InvalidField {}

/// An object whose fields are read one by one; fields that remain at the end are unknown.
pub(crate) struct Fields {
    remaining: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    pub(crate) fn of(value: &Value) -> Result<Self, InvalidField> {
        match value {
            Value::Object(fields) => Ok(Self { remaining: fields.clone(), known: Vec::new() }),
            _ => Err(InvalidField::new("", "must be a JSON object")),
        }
    }

    pub(crate) fn value(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.remaining.remove(name)
    }

    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<String>, InvalidField> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(InvalidField::new(name, "must be a string")),
        }
    }

    pub(crate) fn required_text(&mut self, name: &'static str) -> Result<String, InvalidField> {
        self.text(name)?.ok_or_else(|| InvalidField::new(name, "is missing: set a string"))
    }

    pub(crate) fn number(&mut self, name: &'static str, from: u64, to: u64) -> Result<Option<u64>, InvalidField> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .filter(|number| (from..=to).contains(number))
                .map(Some)
                .ok_or_else(|| InvalidField::new(name, format!("must be a whole number from {from} to {to}"))),
        }
    }

    pub(crate) fn required_number(&mut self, name: &'static str, from: u64, to: u64) -> Result<u64, InvalidField> {
        self.number(name, from, to)?
            .ok_or_else(|| InvalidField::new(name, format!("is missing: set a whole number from {from} to {to}")))
    }

    /// Checks that all fields have been read. The error for an unknown field lists the valid ones.
    pub(crate) fn end(self) -> Result<(), InvalidField> {
        match self.remaining.keys().next() {
            None => Ok(()),
            Some(unknown) => Err(InvalidField::new(
                unknown,
                format!("is not a valid field; valid fields are: {}", self.known.join(", ")),
            )),
        }
    }
}
