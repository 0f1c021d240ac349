//! The file of the schema and the tables of `docs/configuration.md` are those that are written from the declarations.

use std::fs;
use std::path::Path;

use entra_exchange_core::config;
use serde_json::Value;

use crate::{SCHEMA, root};

const FILE: &str = "schema/entra-exchange.schema.json";
const PAGE: &str = "docs/configuration.md";

/// The comment before a table of the page; the names of sections follow.
const MARKER: &str = "<!-- fields of ";

/// Compares a file with the text that it should have, or writes it.
fn check(file: &str, expected: &str) {
    let path = root().join(file);
    if std::env::var_os("SCHEMA_WRITE").is_some() {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).unwrap();
        fs::write(&path, expected).unwrap();
    }
    let actual = fs::read_to_string(&path).unwrap_or_default();
    assert!(actual == expected, "{file} differs from the declarations in crates/core/src/config: run `make schema`");
}

/// The page with the tables that the declarations give.
fn with_tables(page: &str) -> String {
    let (mut text, mut lines) = (String::new(), page.lines().peekable());
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        let Some(sections) = line.strip_prefix(MARKER).and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        let sections: Vec<&str> = sections.split(", ").collect();
        text.push_str(&config::field_table(&sections).unwrap_or_else(|| panic!("{line}: no such section")));
        while lines.next_if(|line| line.starts_with('|')).is_some() {}
    }
    text
}

#[test]
fn the_file_of_the_schema_is_written_from_the_declarations() {
    check(FILE, &config::schema());
}

#[test]
fn the_tables_of_the_page_are_written_from_the_declarations() {
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    check(PAGE, &with_tables(&page));
}

#[test]
fn a_field_that_several_kinds_have_with_the_same_meaning_is_one_row() {
    let table = config::field_table(&["assertions"]).unwrap();
    let rows: Vec<&str> = table.lines().collect();
    let of = |name: &str| rows.iter().filter(|row| row.starts_with(&format!("| `{name}` |"))).count();
    assert_eq!([of("attempts"), of("back_off"), of("expect.iss")], [1, 1, 1], "{table}");
    assert!(
        table.contains("| `attempts` | that of the source, see [sources.md](sources.md) | all but `file`: "),
        "{table}"
    );
    assert!(rows.len() < 60, "{}", rows.len());
}

#[test]
fn every_section_has_a_table_and_a_row_in_the_list_of_sections() {
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    let overview = page.split("| section | purpose |").nth(1).unwrap().split("\n\n").next().unwrap();
    let tables: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(MARKER)?.strip_suffix(" -->")).collect();
    let tables: Vec<&str> = tables.iter().flat_map(|sections| sections.split(", ")).collect();
    for name in SCHEMA["properties"].as_object().unwrap().keys().filter(|name| *name != "$schema") {
        assert!(overview.contains(&format!("`{name}`")), "{name}: not in the list of sections");
        // The fields of `defaults` are also fields of destinations.
        assert!(name == "defaults" || tables.contains(&name.as_str()), "{name}: no table");
    }
}

/// Calls `visit` with each field of a schema and its path.
fn each_field(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    for object in std::iter::once(schema).chain(alternatives) {
        for (name, field) in object["properties"].as_object().into_iter().flatten() {
            // The field that selects the alternative is declared outside of the alternatives.
            if field.get("const").is_some() {
                continue;
            }
            let path = format!("{path}.{name}");
            visit(&path, field);
            each_field(field, &path, visit);
            each_field(&field["items"], &path, visit);
        }
    }
}

#[test]
fn every_field_has_a_description_without_markdown_links_and_a_default_in_the_page() {
    let mut fields = 0;
    each_field(&SCHEMA, "", &mut |path, field| {
        let description = field["description"].as_str().unwrap_or_default();
        assert!(description.len() > 15 && description.ends_with('.'), "{path}: {description}");
        assert!(!description.contains("]("), "{path}: {description}");
        fields += 1;
    });
    assert!(fields > 60, "{fields}");
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    let empty: Vec<&str> = page.lines().filter(|line| line.starts_with("| `") && line.contains("` |  | ")).collect();
    assert_eq!(empty, [""; 0], "declare default, unset or required");
}

#[test]
fn every_allowed_word_is_named_in_the_description_or_is_the_default() {
    each_field(&SCHEMA, "", &mut |path, field| {
        // The page azure-services.md lists the services.
        let words = field["enum"].as_array().into_iter().flatten().filter(|_| !path.ends_with(".azure_service"));
        for word in words.filter_map(Value::as_str) {
            let named = field["description"].as_str().unwrap().contains(&format!("`{word}`"));
            assert!(named || field["default"] == word, "{path}: {word}");
        }
    });
}
