//! How JSON is written.

/// Writes an object, field by field. The name of a field has no character to be escaped.
#[derive(Clone, Debug)]
pub(crate) struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    /// An object without fields.
    pub(crate) fn new() -> Self {
        Self(b"{".to_vec())
    }

    /// Adds a string.
    pub(crate) fn text(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.name(name);
        quote(value, &mut self.0);
        self
    }

    /// Adds a string that has no character to be escaped, and is not searched for one.
    pub(crate) fn plain(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.name(name);
        self.0.reserve(value.len().saturating_add(2));
        self.0.push(b'"');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'"');
        self
    }

    /// Adds a string, if there is one.
    pub(crate) fn some_text(&mut self, name: &'static str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, name: &'static str, value: u64) -> &mut Self {
        self.json(name, value.to_string().as_bytes())
    }

    /// Adds `true` or `false`.
    pub(crate) fn switch(&mut self, name: &'static str, value: bool) -> &mut Self {
        self.json(name, if value { b"true" } else { b"false" })
    }

    /// Adds an object.
    pub(crate) fn object(&mut self, name: &'static str, object: Self) -> &mut Self {
        self.json(name, &object.finish())
    }

    /// Adds a list of values, each in JSON.
    pub(crate) fn list(&mut self, name: &'static str, items: impl IntoIterator<Item = Vec<u8>>) -> &mut Self {
        let items: Vec<_> = items.into_iter().collect();
        self.json(name, &[b"[", items.join(&b',').as_slice(), b"]"].concat())
    }

    /// The object in JSON.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }

    fn json(&mut self, name: &'static str, value: &[u8]) -> &mut Self {
        self.name(name);
        self.0.extend_from_slice(value);
        self
    }

    #[inline(never)]
    fn name(&mut self, name: &'static str) {
        self.0.extend_from_slice(if self.0.len() > 1 { b",\"" } else { b"\"" });
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

/// A string in JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

#[inline(never)]
fn quote(text: &str, json: &mut Vec<u8>) {
    json.reserve(text.len().saturating_add(2));
    // Writing a string to memory cannot fail.
    serde_json::to_writer(json, text).unwrap_or_default();
}
