use super::*;

fn json(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap()
}

#[test]
fn a_number_of_any_form_is_rounded_down() {
    for (text, floor, whole) in [
        ("0", Some(0), Some(0)),
        ("-0", Some(0), Some(0)),
        ("-1", None, None),
        ("-0.5", None, None),
        ("1.0", Some(1), Some(1)),
        ("1.5", Some(1), None),
        ("0.99", Some(0), None),
        ("1e2", Some(100), Some(100)),
        ("1.25e1", Some(12), None),
        ("18446744073709551615", Some(u64::MAX), Some(u64::MAX)),
        ("18446744073709551616", Some(u64::MAX), Some(u64::MAX)),
        ("1e300", Some(u64::MAX), Some(u64::MAX)),
        ("\"1\"", None, None),
        ("null", None, None),
    ] {
        assert_eq!((json(text).floor(), json(text).as_whole()), (floor, whole), "{text}");
    }
    assert_eq!((json("1.0").as_u64(), json("-1").as_u64(), json("7").as_u64()), (None, None, Some(7)));
}

#[test]
fn the_last_of_duplicate_fields_is_read() {
    let json = json(r#"{"a":1,"a":"x","b":[]}"#);
    assert_eq!((json.text("a"), json.text("b"), json.get("c")), (Some("x"), None, None));
    assert_eq!(Json::List(Vec::new()).get("a"), None);
}

#[test]
fn an_object_is_written_field_by_field() {
    let mut inner = ObjectWriter::new();
    inner.number("n", u64::MAX).switch("no", false);
    let mut object = ObjectWriter::new();
    object.text("a", "\"\u{1}/").some_text("none", None).some_text("some", Some("é")).object("o", inner);
    object.list("empty", []).list("list", [b"1".to_vec(), quoted("\n").into_bytes()]);
    let expected =
        r#"{"a":"\"\u0001/","some":"é","o":{"n":18446744073709551615,"no":false},"empty":[],"list":[1,"\n"]}"#;
    assert_eq!(String::from_utf8(object.finish()).unwrap(), expected);
    assert_eq!(ObjectWriter::new().finish(), b"{}");
}
