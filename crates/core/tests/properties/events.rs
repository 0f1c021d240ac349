//! No untrusted value can forge a log line or a field.

use entra_exchange_core::event::Event;
use proptest::prelude::*;

/// Parses the fields of a line: `key=value`, or `key="…"` with JSON escapes.
fn parse(line: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut rest = line;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = if after.starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
            let value = values.next().unwrap().unwrap();
            (value, &after[values.byte_offset()..])
        } else {
            let end = after.find(' ').unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        };
        fields.push((key.to_owned(), value));
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    assert!(rest.is_empty(), "{line}");
    fields
}

proptest! {
    #[test]
    fn parsing_a_line_gives_the_original_fields(one in any::<String>(), two in "[ =\"\\\\\na-c\u{85}\u{2028}]{0,12}") {
        let line = Event::warn("exchange").with("one", &one).with("two", &two).to_string();
        prop_assert!(line.bytes().all(|byte| byte >= b' '), "{:?}", line);
        let expected = [("event", "exchange"), ("one", &one), ("two", &two)];
        let fields = parse(&line);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        prop_assert_eq!(fields, expected);
    }
}
