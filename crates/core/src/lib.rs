//! The rules and the state machines of entra-exchange.
//!
//! No I/O, no clock, no global state and no proxy-wasm: a host (the Wasm filter, the simulation, the fleet example, a
//! test) passes each event to the [`engine`] and implements its traits for the time, calls, streams and the log. The groups of modules
//! below are in the order in which a request passes through them; `docs/architecture.md` follows one request.

pub mod config;
pub mod configuration_status;
pub mod decision;
pub mod engine;
pub mod policy;
pub mod status_page;

mod config_path;
mod destination;
mod managed_identity;

pub mod assertion;
pub mod authority;
pub mod azure;
pub mod broker;
pub mod entra;
pub mod problem;
pub mod protocol;
pub mod request;

pub mod event;
pub mod fast_map;
mod host;
pub mod http;
mod json;
pub mod metrics;
mod override_headers;
mod path;
mod quote;
pub mod request_log;
mod secret;
pub mod sent;
mod small_map;
mod suggest;
pub mod time;
pub mod untrusted;
mod xml;
