//! JSON, read and written with `serde_json`.
//!
//! All that is read is read into one type, and all that is written is written with one: the module contains the code of `serde_json` once
//! for each type, so a type of its own for each text would make it 30 KB larger.

mod value;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use value::Json;
pub(crate) use writer::{ObjectWriter, quoted};
