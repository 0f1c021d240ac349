//! Tests of objects whose fields are members of a struct, which [`settings!`] declares.

use super::super::declared::{Declaration, Declarations, Schema};
use super::super::fields::settings;
use super::super::object::{Object, Section as _};
use super::super::shapes::{Count, Switch};
use super::*;

settings! {
    /// Settings.
    #[derive(PartialEq)]
    pub(super) struct ExampleSettings of ExampleSettingFields {
        /// the largest body
        max_body: Option<usize>, Count<1000>, unset("no limit");
        /// how often it is tried
        retries: usize = 3, Count<9>;
        /// whether it is logged
        is_logged as "log": bool = false, Switch;
    }
}

/// The settings of a text, on top of these.
fn set(mut settings: ExampleSettings, text: &str) -> Result<ExampleSettings, Vec<String>> {
    let (tree, mut mistakes): (Node, _) = (Node::parse(text.as_bytes()).unwrap(), Mistakes::default());
    let root = Value { path: &Path::Root, node: &tree };
    if let Some(object) = Object::<ExampleSettingFields>::read(root, &mut mistakes) {
        settings.set(&object, &mut mistakes);
    }
    let mistakes: Vec<String> = mistakes.0.iter().map(ToString::to_string).collect();
    if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
}

#[test]
fn a_setting_has_its_default_until_it_is_set_and_an_optional_one_has_no_value() {
    let unset = ExampleSettings { max_body: None, retries: 3, is_logged: false };
    assert_eq!(set(ExampleSettings::default(), "{}"), Ok(unset));
    let limited = set(ExampleSettings::default(), r#"{"max_body":5,"log":true}"#).unwrap();
    assert_eq!(limited, ExampleSettings { max_body: Some(5), retries: 3, is_logged: true });
    let changed = set(limited, r#"{"retries":4}"#);
    assert_eq!(changed, Ok(ExampleSettings { max_body: Some(5), retries: 4, is_logged: true }));
    assert_eq!(
        set(ExampleSettings::default(), r#"{"max_body":0}"#),
        Err(vec!["max_body: 0 is not valid: write a number from 1 to 1000".to_owned()])
    );
}

#[test]
fn a_number_may_be_written_with_a_fraction_of_zero_and_is_shown_without_it() {
    let retries = |number: &str| set(ExampleSettings::default(), &format!(r#"{{"retries":{number}}}"#));
    assert_eq!((retries("4.0").unwrap().retries, retries("80e-1").unwrap().retries), (4, 8));
    for (number, shown) in
        [("12.0", "12"), ("3e2", "300"), ("0.5", "0.5"), ("9007199254740992.0", "9007199254740992.0")]
    {
        let mistake = format!("retries: {shown} is not valid: write a number from 1 to 9");
        assert_eq!(retries(number), Err(vec![mistake]));
    }
}

#[test]
fn a_field_that_declares_no_default_has_an_empty_cell_and_a_required_one_has_not() {
    let field = |name| Declaration::new(name, Schema::of_type("string"), &["the meaning"]);
    let mut declarations = Declarations::default();
    declarations.add(field("a"));
    declarations.add(field("b").required("a text"));
    let rows: Vec<String> = declarations.rows("").iter().map(|row| row.join(" | ")).collect();
    assert_eq!(rows, ["`a` |  | the meaning", "`b` | required | the meaning"]);
}

#[test]
fn the_table_shows_the_default_of_a_setting_or_the_effect_of_its_absence() {
    let rows: Vec<String> = ExampleSettingFields::declarations().rows("").iter().map(|row| row.join(" | ")).collect();
    assert_eq!(
        rows,
        [
            "`max_body` | no limit | the largest body",
            "`retries` | `3` | how often it is tried",
            "`log` | `false` | whether it is logged"
        ]
    );
}
