//! The filter: a proxy-wasm shell over `entra-exchange-core`'s engine.
//!
//! [`plugin`] forwards Envoy's callbacks to the engine, and [`host`] implements the engine's host calls. Neither contains a decision.

// Host calls exist only in Envoy, so there is nothing to compile for other targets.
#![cfg(target_family = "wasm")]

mod host;
mod plugin;

use plugin::Filter;

entra_exchange_abi::plugin!(Filter);
