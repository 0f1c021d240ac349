//! Reads Envoy configuration files and changes values in them by path.
//!
//! A path such as `static_resources.clusters[entra].load_assignment.endpoints[0]` consists of keys separated by dots. `[0]` selects a
//! list element by its index, and `[entra]` selects the one with this `name`.

use std::fs;

use serde_json::Value;

use crate::error::{NoSuchPath, StartError};
use crate::workspace;

/// Reads the documents of a YAML file and resolves anchors. `path` is relative to the repository's root.
pub fn read(path: &str) -> Result<Vec<Value>, StartError> {
    let path = workspace::root().join(path);
    let text = fs::read_to_string(&path).map_err(StartError::io(format!("reading {}", path.display())))?;
    serde_saphyr::from_multiple(&text).map_err(|error| StartError::Yaml { path, reason: error.to_string() })
}

/// Returns the value at `path`.
pub fn at_mut<'a>(document: &'a mut Value, path: &str) -> Result<&'a mut Value, NoSuchPath> {
    let mut value = document;
    for (end, step) in steps(path) {
        value = match step {
            Step::Key(key) => value.get_mut(key),
            Step::Element(name) => element_mut(value, name),
        }
        .ok_or_else(|| NoSuchPath { path: path.to_owned(), missing: path[..end].to_owned() })?;
    }
    Ok(value)
}

/// Replaces the value at `path`. The path must exist, so that a change of the document's structure is an error.
pub fn set(document: &mut Value, path: &str, value: impl Into<Value>) -> Result<(), NoSuchPath> {
    *at_mut(document, path)? = value.into();
    Ok(())
}

enum Step<'a> {
    Key(&'a str),
    Element(&'a str),
}

/// Splits a path into steps, each with the position in `path` where it ends.
fn steps(path: &str) -> impl Iterator<Item = (usize, Step<'_>)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = path.get(start..).filter(|rest| !rest.is_empty())?;
        let (length, step) = match rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((name, _)) => (name.len() + 2, Step::Element(name)),
            None => {
                let length = rest.find(['.', '[']).unwrap_or(rest.len());
                (length, Step::Key(&rest[..length]))
            }
        };
        let end = start + length;
        start = if path[end..].starts_with('.') { end + 1 } else { end };
        Some((end, step))
    })
}

fn element_mut<'a>(list: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let list = list.as_array_mut()?;
    match name.parse::<usize>() {
        Ok(position) => list.get_mut(position),
        Err(_) => list.iter_mut().find(|element| element.get("name").is_some_and(|value| value == name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_can_have_keys_indexes_and_names() {
        let mut document = json!({"a": {"list": [{"name": "x", "v": 1}, {"name": "y", "v": [2, 3]}]}});

        assert_eq!(*at_mut(&mut document, "a.list[y].v[1]").unwrap(), 3);
        set(&mut document, "a.list[0].v", 7).unwrap();
        assert_eq!(document["a"]["list"][0]["v"], 7);
    }

    #[test]
    fn the_error_for_a_missing_path_names_the_part_that_does_not_exist() {
        let mut document = json!({"a": [{"name": "x"}]});

        for (path, missing) in
            [("a[z].v", "a[z]"), ("a[x].v.w", "a[x].v"), ("b", "b"), ("a[1]", "a[1]"), ("a.x", "a.x")]
        {
            let error = set(&mut document, path, 1).unwrap_err().to_string();
            assert!(error.contains(&format!("nothing at `{missing}`")), "{path}: {error}");
        }
    }
}
