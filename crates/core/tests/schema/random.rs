//! For random changes of configurations, the schema accepts whatever the reader accepts.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use crate::{SCHEMA, read, samples, validate};

/// A change at one place of a configuration.
#[derive(Clone, Debug)]
enum Change {
    Set(Value),
    Remove,
    /// A field of this name, or an item.
    Add(String, Value),
    /// Part of the text is replaced.
    Splice(Index, String),
}

/// Texts that mean something in a configuration: names, words, defaults and examples of the schema, and all texts of the samples.
fn words() -> Vec<String> {
    fn collect(value: &Value, words: &mut Vec<String>) {
        match value {
            Value::String(text) => words.push(text.clone()),
            Value::Array(items) => items.iter().for_each(|item| collect(item, words)),
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                words.push(name.clone());
                if !["description", "pattern"].contains(&name.as_str()) {
                    collect(value, words);
                }
            }),
            _ => {}
        }
    }
    let mut words = Vec::new();
    collect(&SCHEMA, &mut words);
    samples::all().iter().for_each(|sample| collect(sample, &mut words));
    words.sort();
    words.dedup();
    words
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => (0_u64..2000).prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        6 => prop::sample::select(words()).prop_map(Value::from),
        2 => ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(words()), inner), 0..3)
                .prop_map(|fields| Value::from(Map::from_iter(fields))),
        ]
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => value().prop_map(Change::Set),
        4 => Just(Change::Remove),
        2 => (prop::sample::select(words()), value()).prop_map(|(name, value)| Change::Add(name, value)),
        3 => (any::<Index>(), "[ -~\u{85}\u{a0}\u{feff}é\n]{0,2}").prop_map(|(at, text)| Change::Splice(at, text)),
    ]
}

/// The pointers to all values below a value.
fn pointers(value: &Value, pointer: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        let pointer = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
        pointers(child, &pointer, found);
        found.push(pointer);
    }
}

fn apply(configuration: &mut Value, at: Index, change: Change) {
    let mut all = Vec::new();
    pointers(configuration, "", &mut all);
    let Some(pointer) = (!all.is_empty()).then(|| at.get(&all)) else { return };
    if matches!(change, Change::Remove) {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match configuration.pointer_mut(parent).unwrap() {
            Value::Object(fields) => drop(fields.remove(&name.replace("~1", "/").replace("~0", "~"))),
            Value::Array(items) => drop(items.remove(name.parse().unwrap())),
            _ => {}
        }
        return;
    }
    let value = configuration.pointer_mut(pointer).unwrap();
    match (change, &mut *value) {
        (Change::Add(name, added), Value::Object(fields)) => drop(fields.insert(name, added)),
        (Change::Add(_, added), Value::Array(items)) => items.push(added),
        (Change::Splice(at, text), Value::String(old)) => {
            let characters: Vec<char> = old.chars().collect();
            let at = at.index(characters.len() + 1);
            let (before, after) = characters.split_at(at);
            *old = before.iter().copied().chain(text.chars()).chain(after.iter().skip(1).copied()).collect();
        }
        (Change::Set(new), _) => *value = new,
        _ => {}
    }
}

/// Small configurations, in which a random change more often leaves a valid one.
fn starts() -> Vec<Value> {
    let mut starts = samples::all().to_vec();
    starts.push(json!({"managed_identity": {"imds": {"pass": ["/latest/dynamic"]}}, "limits": {"wait": "1h"}}));
    starts.push(json!({"destinations": [{"azure_service": "storage", "action": "refuse"}]}));
    starts
        .push(json!({"destinations": [{"azure_service": "functions", "names": ["payments"], "scope": "a/.default"}]}));
    starts.push(json!({"defaults": {"action": "pass", "warm": true}, "destinations": [{"hosts": ["a.example"]}]}));
    starts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn the_schema_accepts_every_configuration_that_the_reader_accepts(
        start in prop::sample::select(starts()),
        changes in prop::collection::vec((any::<Index>(), change()), 1..4),
    ) {
        let mut configuration = start;
        for (at, change) in changes {
            apply(&mut configuration, at, change);
        }
        if read(&configuration).is_ok() {
            let result = validate(&configuration);
            prop_assert!(result.is_ok(), "{configuration}: {}", result.unwrap_err());
        }
    }
}
