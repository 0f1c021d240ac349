//! Compares the parser and the writer with those of `serde_json`.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The same value of `serde_json`, with the last of duplicate fields.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => serde_json::from_str(number).unwrap(),
        Json::String(text) => Value::from(text.as_str()),
        Json::List(items) => items.iter().map(value).collect(),
        Json::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), value(field))).collect(),
    }
}

/// Checks that a text gives the same value, or the same error.
fn assert_same(text: &[u8]) {
    let expected = serde_json::from_slice::<Value>(text).map_err(|error| error.to_string());
    // It rejects numbers beyond the range of a float.
    if expected.as_ref().is_err_and(|error| error.starts_with("number out of range")) {
        return;
    }
    let parsed = Json::parse(text).map(|json| value(&json)).map_err(|error| error.to_string());
    const NOT_UTF8: &str = "invalid unicode code point";
    if let (Err(error), Err(other)) = (&parsed, &expected)
        && error.starts_with(NOT_UTF8)
        && other.starts_with(NOT_UTF8)
    {
        return;
    }
    assert_eq!(parsed, expected, "{}", String::from_utf8_lossy(text));
}

/// Pieces of JSON, valid and not.
const PIECES: [&str; 43] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    " ",
    "\n",
    "\t",
    "\"",
    "\"a\"",
    "\"a\":",
    "\"\\n\"",
    "\\",
    "\\u",
    "\\ud83d",
    "\\ude00",
    "\"\\ud83d\\ude00\"",
    "00e9",
    "\u{e9}",
    "\u{1}",
    "null",
    "true",
    "false",
    "nul",
    "tru",
    "0",
    "1",
    "-",
    "-0",
    "12",
    "01",
    "1.5",
    "1.",
    ".5",
    "1e3",
    "1E-2",
    "1e+",
    "e",
    "+",
    "x",
    "/",
    "\"",
];

proptest! {
    #[test]
    fn a_text_of_pieces_of_json_is_parsed_as_by_serde_json(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..12)) {
        assert_same(pieces.concat().as_bytes());
    }

    #[test]
    fn a_changed_text_is_parsed_as_by_serde_json(at in 0..100_usize, byte: u8) {
        let mut text = br#" { "a" : [ 1, -2.5e3, "\u00e9\ud83d\ude00\n", true, null, {} ], "b\\" : { "c" : [ ] }, "a" : false } "#.to_vec();
        let length = text.len();
        text[at % length] = byte;
        assert_same(&text);
        text.truncate(at % length);
        assert_same(&text);
    }

    #[test]
    fn any_string_is_written_as_by_serde_json(text: String) {
        assert_eq!(quoted(&text), serde_json::to_string(&text).unwrap());
    }

    #[test]
    fn a_number_is_rounded_down_as_a_float_is(number in 0.0..1e12_f64, shift in 0..6_usize) {
        for text in [number.to_string(), format!("{number:e}"), format!("{}e-{shift}", number.trunc())] {
            let json = Json::parse(text.as_bytes()).unwrap();
            let (whole, is_exact) = json.floor().unwrap();
            let float: f64 = text.parse().unwrap();
            assert_eq!((whole, is_exact), (float as u64, float.fract() == 0.0), "{text}");
        }
    }
}

#[test]
fn the_number_of_levels_is_limited() {
    for levels in [127, 128] {
        assert_same(format!("{}{}", "[".repeat(levels), "]".repeat(levels)).as_bytes());
        assert_same(format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels)).as_bytes());
    }
}

#[test]
fn a_number_of_any_form_is_rounded_down() {
    for (text, floor) in [
        ("0", Some((0, true))),
        ("-0", Some((0, true))),
        ("-0.0e5", Some((0, true))),
        ("-1", None),
        ("-0.5", None),
        ("1.0", Some((1, true))),
        ("1.5", Some((1, false))),
        ("0.99", Some((0, false))),
        ("1e2", Some((100, true))),
        ("1.25e1", Some((12, false))),
        ("1.25E+2", Some((125, true))),
        ("1200e-2", Some((12, true))),
        ("1250e-2", Some((12, false))),
        ("5e-9", Some((0, false))),
        ("18446744073709551615", Some((u64::MAX, true))),
        ("18446744073709551616", Some((u64::MAX, true))),
        ("1e999999999999999999999", Some((u64::MAX, true))),
        ("1e-999999999999999999999", Some((0, false))),
    ] {
        assert_eq!(Json::parse(text.as_bytes()).unwrap().floor(), floor, "{text}");
    }
    assert_eq!((Json::Null.floor(), Json::String("1".to_owned()).as_u64()), (None, None));
    assert_eq!((Json::Number("1.0".to_owned()).as_u64(), Json::Number("7".to_owned()).as_u64()), (None, Some(7)));
}

#[test]
fn the_last_of_duplicate_fields_is_read() {
    let json = Json::parse(br#"{"a":1,"a":"x","b":[]}"#).unwrap();
    assert_eq!((json.text("a"), json.text("b"), json.get("c")), (Some("x"), None, None));
    assert_eq!(Json::List(Vec::new()).get("a"), None);
}

#[test]
fn an_object_is_written_field_by_field() {
    let mut inner = ObjectWriter::new();
    inner.number("n", u64::MAX).switch("no", false);
    let mut object = ObjectWriter::new();
    object
        .text("a", "\"\u{1}\u{1f}\u{8}\u{c}/")
        .some_text("none", None)
        .some_text("some", Some("é"))
        .object("o", inner);
    object.list("empty", []).list("list", ["1".to_owned(), quoted("x")]);
    let text = object.finish();
    let expected =
        r#"{"a":"\"\u0001\u001f\b\f/","some":"é","o":{"n":18446744073709551615,"no":false},"empty":[],"list":[1,"x"]}"#;
    assert_eq!(text, expected);
    assert_eq!(ObjectWriter::new().finish(), "{}");
}
