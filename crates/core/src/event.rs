//! What happened, as one log line: `event=… key=value …`, for people and for `grep`.

use std::fmt;

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Info,
    /// Somebody should look at it.
    Warn,
    /// It cannot go on so.
    Error,
}

/// One event. Its values are never tokens: neither [`crate::assertion::Assertion`] nor
/// [`crate::entra::AccessToken`] can be formatted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// How loud.
    pub level: Level,
    name: &'static str,
    fields: Vec<(&'static str, String)>,
}

impl Event {
    /// An event as it should be.
    pub fn info(name: &'static str) -> Self {
        Self { level: Level::Info, name, fields: Vec::new() }
    }

    /// An event that somebody should look at.
    pub fn warn(name: &'static str) -> Self {
        Self { level: Level::Warn, name, fields: Vec::new() }
    }

    /// An event after which it cannot go on so.
    pub fn error(name: &'static str) -> Self {
        Self { level: Level::Error, name, fields: Vec::new() }
    }

    /// The same, at least so loud.
    #[must_use]
    pub fn at_least(mut self, level: Level) -> Self {
        self.level = self.level.max(level);
        self
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.fields.push((key, value.to_string()));
        self
    }

    /// Adds a field when there is a value.
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
                // Quoted as JSON quotes: an error text from outside cannot start a line or a field of its own.
                write!(formatter, " {key}={}", serde_json::Value::from(value.as_str()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_key_value_and_a_value_cannot_forge_another_field_or_line() {
        let event = Event::warn("exchange")
            .with("outcome", "refused")
            .with("detail", "no\nevent=exchange outcome=issued")
            .with_some("trace_id", None::<&str>);
        assert_eq!(event.to_string(), r#"event=exchange outcome=refused detail="no\nevent=exchange outcome=issued""#);
    }

    /// Tools split a line at its blanks and a field at its first `=`: with that sign alone, a value could pass for a field.
    #[test]
    fn every_value_that_is_more_than_a_word_is_quoted() {
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
