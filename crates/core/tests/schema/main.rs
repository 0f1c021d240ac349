//! The JSON Schema of the configuration: its file, the tables of the documentation, and that it agrees with the reader.
//!
//! `SCHEMA_WRITE=1` writes the file and the tables anew (`make schema`).

// All of this is test code, but clippy recognizes only test functions as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod examples;
mod random;
mod samples;
mod shapes;
mod written;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use boon::{Compiler, SchemaIndex, Schemas};
use entra_exchange_core::config::{self, Config};
use serde_json::Value;

/// The schema, as JSON.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(&config::schema()).unwrap());

static VALIDATOR: LazyLock<(Schemas, SchemaIndex)> = LazyLock::new(|| {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("configuration.json", SCHEMA.clone()).unwrap();
    let index = compiler.compile("configuration.json", &mut schemas).unwrap_or_else(|error| panic!("{error:#}"));
    (schemas, index)
});

/// The mistakes that the schema finds.
fn validate(configuration: &Value) -> Result<(), String> {
    let (schemas, index) = &*VALIDATOR;
    schemas.validate(configuration, *index).map_err(|error| format!("{error:#}"))
}

/// The mistakes that the reader finds, one line each.
fn read(configuration: &Value) -> Result<Config, String> {
    let variable = |name: &str| match name {
        "AZURE_TENANT_ID" => Some("11111111-1111-4111-8111-111111111111".to_owned()),
        "AZURE_CLIENT_ID" => Some("dddddddd-0000-4000-8000-000000000004".to_owned()),
        "IDENTITY_HEADER" => Some("853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a".to_owned()),
        _ => None,
    };
    Config::parse(configuration.to_string().as_bytes(), &variable).map_err(|refused| refused.to_string())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
