//! A proxy-wasm 0.2.1 host that behaves as Envoy does where it matters, on a clock that the test owns.
//!
//! A test speaks with it: it sends a request, sees which calls the module makes, answers them when it likes, and lets
//! time pass. Nothing happens by itself.
//!
//! ```no_run
//! use std::time::Duration;
//! use wasm_host::{Headers, Host, Module, Outcome, Response};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let module = Module::new(&std::fs::read("dist/entra-exchange.wasm")?)?;
//! let host = Host::builder(&module).configuration("{}").cluster("entra").workers(2).start()?;
//! let stream = host.worker(0).request(Headers::get_request("vault.example", "/"));
//! assert_eq!(stream.outcome(), Outcome::Paused);
//! host.run_until_idle();
//! for call in host.callouts() {
//!     host.answer(&call, Response::new(200, "a token"));
//! }
//! host.advance(Duration::from_secs(1));
//! # Ok(())
//! # }
//! ```
//!
//! # What is as in Envoy
//!
//! A canary VM is configured first and dropped, then the main thread's VM, then one per worker. They share
//! data, queues and metrics. Callbacks that the module does not export, or that its capability list leaves out, are
//! not called. Each rule has a test in this crate that fails without it.
//!
//! # What is not here
//!
//! Bodies, trailers and responses of streams, gRPC calls, foreign functions, and configurations that change while
//! the host runs. A guest that makes a gRPC call traps, so that nobody takes silence for an answer.

mod abi;
mod builder;
mod callout;
mod headers;
mod host;
mod log;
mod metrics;
mod module;
mod process;
mod properties;
mod settings;
mod shared_data;
mod shared_queue;
mod state;
mod status;
mod stream;
mod vm;
mod wasi;

pub use builder::Builder;
pub use callout::{Callout, Cluster, Response};
pub use headers::Headers;
pub use host::{Host, StartError, Stream, Turn, Worker};
pub use log::{LogLevel, LogLine, Thread};
pub use metrics::Metric;
pub use module::{Module, ModuleError};
pub use settings::FailurePolicy;
pub use stream::{Outcome, Passed, Reply, Request};
