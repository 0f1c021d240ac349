//! The writer. Its text is that of `serde_json`, without white space.

/// Writes an object, field by field.
#[derive(Clone, Debug)]
pub(crate) struct ObjectWriter(String);

impl ObjectWriter {
    /// An object without fields.
    pub(crate) fn new() -> Self {
        Self("{".to_owned())
    }

    /// Adds a string.
    pub(crate) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.name(name);
        quote(value, &mut self.0);
        self
    }

    /// Adds a string, if there is one.
    pub(crate) fn some_text(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.raw(name, &value.to_string())
    }

    /// Adds `true` or `false`.
    pub(crate) fn switch(&mut self, name: &str, value: bool) -> &mut Self {
        self.raw(name, if value { "true" } else { "false" })
    }

    /// Adds an object.
    pub(crate) fn object(&mut self, name: &str, object: Self) -> &mut Self {
        self.raw(name, &object.finish())
    }

    /// Adds a list of texts in JSON.
    pub(crate) fn list(&mut self, name: &str, items: impl IntoIterator<Item = String>) -> &mut Self {
        self.name(name);
        self.0.push('[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.0.push(',');
            }
            self.0.push_str(&item);
        }
        self.0.push(']');
        self
    }

    /// The object in JSON.
    pub(crate) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }

    fn raw(&mut self, name: &str, json: &str) -> &mut Self {
        self.name(name);
        self.0.push_str(json);
        self
    }

    #[inline(never)]
    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        quote(name, &mut self.0);
        self.0.push(':');
    }
}

/// A string in JSON.
pub(crate) fn quoted(text: &str) -> String {
    let mut json = String::new();
    quote(text, &mut json);
    json
}

#[inline(never)]
fn quote(text: &str, json: &mut String) {
    json.reserve(text.len().saturating_add(2));
    json.push('"');
    let mut rest = text;
    while let Some(plain) = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        let (before, after) = rest.split_at_checked(plain).unwrap_or((rest, ""));
        json.push_str(before);
        let byte = after.bytes().next().unwrap_or_default();
        match byte {
            8 => json.push_str("\\b"),
            b'\t' => json.push_str("\\t"),
            b'\n' => json.push_str("\\n"),
            12 => json.push_str("\\f"),
            b'\r' => json.push_str("\\r"),
            b'"' | b'\\' => json.extend(['\\', char::from(byte)]),
            _ => {
                json.push_str(if byte < 16 { "\\u000" } else { "\\u001" });
                json.extend(char::from_digit(u32::from(byte) % 16, 16));
            }
        }
        rest = after.get(1..).unwrap_or_default();
    }
    json.push_str(rest);
    json.push('"');
}
