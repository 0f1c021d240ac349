//! The filter: a proxy-wasm shell that runs in Envoy and decides nothing.
//!
//! `entra-exchange-core` decides; here Envoy is told. [`root`] owns what a worker knows and makes all calls, [`worker`]
//! has what becomes of each request, [`envoy`] the host calls that the two share.

// Host calls exist in Envoy only.
#![cfg(target_family = "wasm")]

mod envoy;
mod meters;
mod root;
mod worker;

use root::Root;

entra_exchange_abi::plugin!(Root);
