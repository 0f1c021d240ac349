//! The JSON Schema of the configuration, and the tables of its fields in the documentation.

use super::object::Section as _;
use super::sections::Root;
use super::tree::Node;

/// The identifier of the schema. It is a name, not an address.
const ID: &str = "urn:entra-exchange:schema:configuration";

/// The JSON Schema of the configuration (draft 2020-12), with descriptions and examples, as the text of a file.
///
/// Every configuration that [`Config::parse`](super::Config::parse) accepts is valid. The schema rejects wrong types, unknown fields
/// and words, numbers out of range, and missing fields; conditions across sections are checked by the parser alone.
pub fn schema() -> String {
    let mut keywords: Vec<(String, Node)> = [
        ("$schema", "https://json-schema.org/draft/2020-12/schema"),
        ("$id", ID),
        ("title", "Configuration of entra-exchange"),
    ]
    .map(|(keyword, value)| (keyword.to_owned(), value.into()))
    .into();
    keywords.extend(Root::declarations().keywords());
    let text = serde_json::to_string_pretty(&Node::Object(keywords)).unwrap_or_default();
    format!("{text}\n")
}

/// The table of the fields of these sections in Markdown: field, default and meaning. The fields of several sections begin with the
/// section's name. `None` if there is no section with one of the names.
pub fn field_table(sections: &[&str]) -> Option<String> {
    let root = Root::declarations();
    let mut table = "| field | default | meaning |\n|---|---|---|\n".to_owned();
    for section in sections {
        let prefix = if sections.len() > 1 { format!("{section}.") } else { String::new() };
        for cells in root.rows_of(section, &prefix)? {
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            table.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
    }
    Some(table)
}
