//! A real Vault issues the federated tokens: `make test-vault`.
//!
//! The tests are ignored by default, because they require Go and a long build.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

#[path = "../caught/mod.rs"]
mod caught;
mod filter;
#[path = "../real_server/mod.rs"]
mod real_server;
mod tokens;
#[path = "../real_server/workload.rs"]
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    real_server::run(stack::Vault::start, &[tokens::ALL, filter::ALL].concat())
}
