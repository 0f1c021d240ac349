//! The filter: a proxy-wasm shell over `entra-exchange-core`'s engine.
//!
//! [`plugin`] hands Envoy's callbacks to the engine, [`host`] carries out what the engine asks for. Neither decides anything.

// Host calls exist in Envoy only.
#![cfg(target_family = "wasm")]

mod host;
mod plugin;

use plugin::Filter;

entra_exchange_abi::plugin!(Filter);
