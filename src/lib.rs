//! The filter: a proxy-wasm shell that runs in Envoy and decides nothing.
//!
//! `entra-exchange-core` decides; here Envoy is told. [`root`] owns what a worker knows and makes all calls, [`stream`]
//! is one request, [`envoy`] has the host calls that the two share.

// Host calls exist in Envoy only.
#![cfg(target_family = "wasm")]
// The SDK's macro makes a public function without a comment.
#![allow(missing_docs)]

mod abi;
mod envoy;
mod meters;
mod root;
mod stream;
mod worker;

use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| Box::new(root::Root::new(context_id)));
}}
