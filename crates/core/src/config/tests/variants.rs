//! Tests of objects with several kinds, which [`variants!`] declares: an object as it would be with two kinds of sources.

use super::super::fields::{fields, variants};
use super::super::object::{Object, Section as _};
use super::super::shapes::{Choice, Count, Text};
use super::*;

fields! {
    /// A source.
    pub(super) ExampleFields {
        /// the name
        name: Text, required("its name");
        /// the kind: `file` or `http`
        source: Choice<ExampleKind>, required("a kind");
        ..ExampleKind;
    }
}

variants! {
    /// The kinds of the source.
    pub(super) enum ExampleKind of ExampleFields by "source" {
        /// A file.
        "file" => File: FileFields {
            /// the cluster of the file
            cluster: Text, required("its cluster");
        }
        /// A server.
        "http" => Http: HttpFields {
            /// the cluster of the server
            cluster: Text, required("its cluster");
            /// how often it is asked
            attempts: Count<9>, default(1);
        }
    }
}

/// Reads an example: its own fields in one text, or the mistakes.
fn example(text: &str) -> Result<String, Vec<String>> {
    let (tree, mut mistakes): (Node, _) = (Node::parse(text.as_bytes()).unwrap(), Mistakes::default());
    let root = Value { path: &Path::Root, node: &tree };
    let object = Object::<ExampleFields>::read(root, &mut mistakes);
    let read = object.and_then(|object| {
        let name = object.name().read(&mut mistakes)?;
        Some(match object.source().read(&mut mistakes)? {
            ExampleKind::File => {
                let file = object.part::<FileFields>();
                format!("{name}: {}", file.cluster().read(&mut mistakes)?)
            }
            ExampleKind::Http => {
                let http = object.part::<HttpFields>();
                let attempts = http.attempts().read(&mut mistakes).unwrap_or(1);
                format!("{name}: {} {attempts}", http.cluster().read(&mut mistakes)?)
            }
        })
    });
    let mistakes: Vec<String> = mistakes.0.iter().map(ToString::to_string).collect();
    if mistakes.is_empty() { Ok(read.unwrap()) } else { Err(mistakes) }
}

#[test]
fn an_object_may_have_the_fields_of_its_own_kind() {
    let mistakes = |text| example(text).unwrap_err();
    assert_eq!(example(r#"{"name":"a","source":"file","cluster":"c"}"#), Ok("a: c".to_owned()));
    assert_eq!(example(r#"{"name":"a","source":"http","cluster":"c","attempts":3}"#), Ok("a: c 3".to_owned()));
    assert_eq!(
        mistakes(r#"{"name":"a","source":"file","cluster":"c","attempts":3}"#),
        ["attempts: unknown field: expected one of name, source, cluster"]
    );
    assert_eq!(
        mistakes(r#"{"name":"a","source":"http","cluster":"c","attempt":3}"#),
        [r#"attempt: unknown field: did you mean "attempts"?"#]
    );
}

#[test]
fn an_object_without_a_known_kind_may_have_the_fields_of_every_kind_and_need_not_have_them() {
    for (source, mistake) in [
        (r#""source":"ftp","#, r#"source: "ftp" is not valid: write "file" or "http""#),
        (r#""source":5,"#, r#"source: 5 is not valid: write "file" or "http""#),
        ("", "source: is missing: write a kind"),
    ] {
        let text = format!(r#"{{"name":"a",{source}"cluster":"c","attempts":3,"other":1}}"#);
        assert_eq!(
            example(&text).unwrap_err(),
            ["other: unknown field: expected one of name, source, cluster, attempts", mistake]
        );
        // What a kind requires is not missing either.
        assert_eq!(example(&format!(r#"{{"name":"a",{source}"attempts":3}}"#)).unwrap_err(), [mistake]);
    }
}

#[test]
fn the_schema_and_the_table_have_the_fields_of_each_kind() {
    let declarations = ExampleFields::declarations();
    let schema = serde_json::to_value(Node::Object(declarations.keywords())).unwrap();
    let kinds = |kind: usize| {
        let kind = &schema["oneOf"][kind];
        let mut names: Vec<String> = kind["properties"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        (names.join(" "), kind["properties"]["source"]["const"].clone(), kind["additionalProperties"].clone())
    };
    assert_eq!(kinds(0), ("cluster name source".to_owned(), "file".into(), false.into()));
    assert_eq!(kinds(1), ("attempts cluster name source".to_owned(), "http".into(), false.into()));
    assert_eq!(schema["properties"]["source"]["enum"], serde_json::json!(["file", "http"]));
    let rows: Vec<String> = declarations.rows("").iter().map(|row| row.join(" | ")).collect();
    assert_eq!(
        rows,
        [
            "`name` | required | the name",
            "`source` | required | the kind: `file` or `http`",
            "`cluster` | required | `file`: the cluster of the file",
            "`cluster` | required | `http`: the cluster of the server",
            "`attempts` | `1` | `http`: how often it is asked",
        ]
    );
}
