//! What entra-exchange knows and decides.
//!
//! No I/O, no clock, no global state and no proxy-wasm: a shell (the Wasm filter, a test, the command line) hands in
//! what happened and when, and carries out what comes back. The modules stand in the order in which a request meets
//! them; `docs/architecture.md` walks one request through them.

pub mod config;
pub mod configuration_status;
pub mod decision;
pub mod policy;

mod destination;
mod managed_identity;

pub mod assertion;
pub mod azure;
pub mod broker;
pub mod entra;
pub mod problem;

pub mod event;
mod host;
pub mod http;
pub mod metrics;
mod path;
pub mod request_log;
mod spelling;
pub mod time;
pub mod untrusted;
