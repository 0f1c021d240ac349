//! Property tests: for every configuration, request, token file and response, nothing panics, nothing overflows, and the
//! result is valid.

// All of this is test code, but clippy recognizes only test functions as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod answers;
mod callers;
mod configuration;
mod events;
mod keys;
mod matcher;
mod metadata_address;
mod worker;

use proptest::prelude::*;
use serde_json::{Map, Value};

/// Any JSON value with a few levels, in which these names are frequent.
fn json(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(names).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 8, move |inner| {
        let name = prop_oneof![3 => prop::sample::select(names).prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..8).prop_map(|fields| Value::from(Map::from_iter(fields))),
        ]
    })
}
