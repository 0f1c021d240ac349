//! The filter: a thin proxy-wasm shell around `entra-exchange-core`.
//!
//! The core decides how each request is handled; this crate calls Envoy. [`root`] is the root context: it reads the
//! configuration, makes all HTTP calls and dispatches Envoy's callbacks. [`worker`] holds the state of one VM: its
//! broker and the paused requests. [`envoy`] has the host calls that both use, [`meters`] the metrics.

// Host calls exist in Envoy only.
#![cfg(target_family = "wasm")]

mod envoy;
mod meters;
mod root;
mod worker;

use root::Root;

entra_exchange_abi::plugin!(Root);
