//! What the filter writes: lines of the log, replies, and names of metrics. None of it may show a secret, hide a character, be long
//! because somebody else says much, or have a field that somebody else wrote.

use serde_json::Value;
use wasm_host::{LogLine, Reply, StreamState};

use crate::answers::{FOREIGN, OPAQUE};
use crate::case::{ASSERTION, Case, TOKEN, Waiting, contains};
use crate::setup::host_of;

/// No text is longer. A problem's text may quote a claim of the federated token and what Entra answered, of 1 KiB each, in as many words
/// of its own.
const LONGEST_TEXT: usize = 3 * 1024;

impl Case {
    pub(crate) fn look_at_log(&self, log: &[LogLine], streams: &[Waiting]) {
        let mut kept = 0;
        for line in log {
            assert!(!line.text.contains("Function: "), "{line}");
            for secret in [TOKEN, ASSERTION] {
                assert!(!contains(line.text.as_bytes(), secret), "a token in the log: {line}");
            }
            self.look_at_text(&line.text, None);
            if line.text.starts_with("event=") {
                let fields = fields(&line.text).unwrap_or_else(|reason| panic!("{reason}: {line}"));
                for (_, value) in &fields {
                    self.look_at_text(value, Some(LONGEST_TEXT));
                }
                let has = |name: &str| fields.iter().any(|(other, _)| other == name);
                kept += usize::from(line.text.contains(" outcome=kept ") && has("credential"));
            }
        }
        if self.setup.logs_requests && !self.setup.only_reports() {
            let keeps = streams.iter().filter(|waiting| self.is_kept(waiting)).count();
            assert_eq!(kept, keeps, "requests that keep their credential, in the log and as seen");
        }
    }

    /// Whether a request to a destination went on without a token, which it does only with a credential of its own.
    fn is_kept(&self, waiting: &Waiting) -> bool {
        let StreamState::Forwarded(passed) = waiting.stream.state() else { return false };
        let headers = &waiting.asked.headers;
        let is_ours = waiting.asked.is_to_metadata() && self.setup.has_imds();
        let destination = self.setup.destination(&host_of(headers)).filter(|_| !is_ours);
        destination.is_some() && passed.headers.get("authorization") == headers.get("authorization")
    }

    pub(crate) fn look_at_metrics(&self, names: &[String]) {
        for name in names {
            self.look_at_text(name, Some(LONGEST_TEXT));
            assert!(![TOKEN, ASSERTION].iter().any(|secret| contains(name.as_bytes(), secret)), "{name}");
        }
    }

    /// The texts of a reply, except an access token that is granted.
    pub(crate) fn look_at_texts_of(&self, reply: &Reply) {
        // Of a gRPC client's reply Envoy makes the body a header.
        for text in reply.headers.iter().map(|(_, value)| value).chain([reply.body.as_slice()]) {
            match serde_json::from_slice(text) {
                Ok(json) => self.look_at_json(&json),
                Err(_) => self.look_at_text(&String::from_utf8_lossy(text), Some(LONGEST_TEXT)),
            }
        }
    }

    fn look_at_json(&self, json: &Value) {
        match json {
            Value::String(text) => self.look_at_text(text, Some(LONGEST_TEXT)),
            Value::Array(values) => values.iter().for_each(|value| self.look_at_json(value)),
            Value::Object(members) => {
                members
                    .iter()
                    .filter(|(name, _)| *name != "access_token")
                    .for_each(|(_, value)| self.look_at_json(value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn look_at_text(&self, text: &str, longest: Option<usize>) {
        assert_eq!(self.assertions.shown_in(text.as_bytes()), None, "{text}");
        for secret in [FOREIGN, OPAQUE] {
            assert!(!text.contains(secret), "an access token in {text:?}");
        }
        assert!(!text.contains(is_hidden), "a character that nobody sees in {text:?}");
        assert!(longest.is_none_or(|longest| text.len() <= longest), "{} bytes: {text:?}", text.len());
    }
}

/// Whether nobody sees a character, or it reorders others: control characters, format characters, tags (Unicode 16, categories Cc, Cf, Zl
/// and Zp).
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}')
}

/// The fields of an event's line, or what tools would misread in it.
fn fields(line: &str) -> Result<Vec<(String, String)>, &'static str> {
    let (mut rest, mut fields) = (line, Vec::new());
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or("a field without a value")?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'0'..=b'9'))
        {
            return Err("a name that is none");
        }
        let (value, end) = if after.starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
            let value = values.next().and_then(Result::ok).ok_or("a quoted value that does not end")?;
            (value, values.byte_offset())
        } else {
            let end = after.find(' ').unwrap_or(after.len());
            (after[..end].to_owned(), end)
        };
        if !after.starts_with('"') && value.contains(['=', '"']) {
            return Err("a value that is not quoted");
        }
        fields.push((name.to_owned(), value));
        rest = match &after[end..] {
            "" => "",
            next => next.strip_prefix(' ').ok_or("no space after a value")?,
        };
    }
    Ok(fields)
}

#[test]
fn a_line_is_read_as_tools_read_it() {
    let read = fields(r#"event=exchange detail="a \"b\" c=d" code=x_1"#).unwrap();
    let expected = [("event", "exchange"), ("detail", "a \"b\" c=d"), ("code", "x_1")];
    assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for misread in ["event=a b", "event=a b=c=d", r#"event="a"#, r#"event="a"b=c"#, "event=a B=c", "=a"] {
        assert!(fields(misread).is_err(), "{misread}");
    }
}
