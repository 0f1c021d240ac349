//! Events for Envoy's log. Each is one line of the form `event=… key=value …` (logfmt).

use std::fmt;

use crate::json::quoted;

/// The log level of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Normal operation.
    Info,
    /// An operator should look into it.
    Warn,
    /// The filter cannot work until something is changed.
    Error,
}

/// An event. It cannot contain a token by accident: [`crate::assertion::Assertion`] and [`crate::entra::AccessToken`] implement neither
/// `Display` nor `Debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The log level.
    pub level: Level,
    name: &'static str,
    fields: Vec<(&'static str, String)>,
}

impl Event {
    /// An event at level `info`.
    pub fn info(name: &'static str) -> Self {
        Self { level: Level::Info, name, fields: Vec::new() }
    }

    /// An event at level `warn`.
    pub fn warn(name: &'static str) -> Self {
        Self { level: Level::Warn, name, fields: Vec::new() }
    }

    /// An event at level `error`.
    pub fn error(name: &'static str) -> Self {
        Self { level: Level::Error, name, fields: Vec::new() }
    }

    /// Raises the level to `level` if it is lower.
    #[must_use]
    pub fn at_least(mut self, level: Level) -> Self {
        self.level = self.level.max(level);
        self
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.push(key, &value);
        self
    }

    /// Not generic and not inlined: it is in the module once, and not once for each of its many calls.
    #[inline(never)]
    fn push(&mut self, key: &'static str, value: &dyn fmt::Display) {
        self.fields.push((key, value.to_string()));
    }

    /// Adds a field if there is a value.
    #[must_use]
    pub fn with_some(self, key: &'static str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "event={}", self.name)?;
        for (key, value) in &self.fields {
            let plain = !value.is_empty()
                && value.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=');
            if plain {
                write!(formatter, " {key}={value}")?;
            } else {
                // Quoted as a JSON string, so that untrusted text cannot begin a new line or field.
                write!(formatter, " {key}={}", quoted(value))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_key_value_fields_and_a_value_cannot_forge_another_field_or_line() {
        let event = Event::warn("exchange")
            .with("outcome", "refused")
            .with("detail", "no\nevent=exchange outcome=issued")
            .with_some("trace_id", None::<&str>);
        assert_eq!(event.to_string(), r#"event=exchange outcome=refused detail="no\nevent=exchange outcome=issued""#);
    }

    /// Tools split a line at spaces and a field at its first `=`, so a value that contains `=` could look like a field.
    #[test]
    fn a_value_with_spaces_quotes_control_characters_or_equals_signs_is_quoted() {
        for (value, written) in [
            ("outcome=issued", r#""outcome=issued""#),
            ("=", r#""=""#),
            ("", "\"\""),
            ("a b", r#""a b""#),
            ("a\tb", r#""a\tb""#),
            ("a\u{7f}b", "\"a\u{7f}b\""),
            ("a\"b", r#""a\"b""#),
            ("outbound|80||a.example", "outbound|80||a.example"),
        ] {
            assert_eq!(Event::info("e").with("key", value).to_string(), format!("event=e key={written}"));
        }
    }
}
