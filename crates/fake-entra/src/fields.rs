//! A JSON object of the admin API, read so strictly that a typing error cannot pass as a default.

use std::fmt;

use serde_json::{Map, Value};

/// What is wrong with a document of the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// The field, `times` or `[1].times`; empty when the document itself is wrong.
    pub field: String,
    /// What would be right.
    pub reason: String,
}

impl InvalidField {
    pub(crate) fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { field: field.to_owned(), reason: reason.into() }
    }

    /// The same error of the entry `index` of a list.
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

/// An object whose fields are taken one by one; what is left over in the end is unknown.
pub(crate) struct Fields {
    left: Map<String, Value>,
    asked: Vec<&'static str>,
}

impl Fields {
    pub(crate) fn of(value: &Value) -> Result<Self, InvalidField> {
        match value {
            Value::Object(fields) => Ok(Self { left: fields.clone(), asked: Vec::new() }),
            _ => Err(InvalidField::new("", "a JSON object is needed here")),
        }
    }

    pub(crate) fn value(&mut self, name: &'static str) -> Option<Value> {
        self.asked.push(name);
        self.left.remove(name)
    }

    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<String>, InvalidField> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(InvalidField::new(name, "must be a string")),
        }
    }

    pub(crate) fn required_text(&mut self, name: &'static str) -> Result<String, InvalidField> {
        self.text(name)?.ok_or_else(|| InvalidField::new(name, "is missing: a string is needed"))
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
            .ok_or_else(|| InvalidField::new(name, format!("is missing: a whole number from {from} to {to} is needed")))
    }

    /// Ends the reading: a field that nobody asked for is an error that names those that exist.
    pub(crate) fn end(self) -> Result<(), InvalidField> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(unknown) => {
                Err(InvalidField::new(unknown, format!("is not known here; known are: {}", self.asked.join(", "))))
            }
        }
    }
}
