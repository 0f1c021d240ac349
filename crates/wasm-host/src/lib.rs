//! A proxy-wasm 0.2.1 host that behaves like Envoy in the aspects that the filter depends on, with a virtual clock that the test controls.
//!
//! A test sends a request, inspects the HTTP calls that the module makes, responds to them in any order, and advances the
//! clock. Nothing happens without the test.
//!
//! ```no_run
//! use std::time::Duration;
//! use wasm_host::{Headers, Host, Module, Response, StreamState};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let module = Module::new(&std::fs::read("dist/entra-exchange.wasm")?)?;
//! let host = Host::builder(&module).configuration("{}").cluster("entra").workers(2).start()?;
//! let stream = host.worker(0).request(Headers::get_request("vault.example", "/"));
//! assert_eq!(stream.state(), StreamState::Paused);
//! host.run_until_idle();
//! for call in host.callouts() {
//!     host.respond(&call, Response::new(200, "a token"));
//! }
//! host.advance(Duration::from_secs(1));
//! # Ok(())
//! # }
//! ```
//!
//! # Envoy's behaviour
//!
//! The host first configures and drops a canary VM, then starts the main thread's VM, then one VM per worker. The VMs share
//! data, queues and metrics. Callbacks that the module does not export, or that its capability list does not allow, are
//! not called. Each rule has a test in this crate that fails without it.
//!
//! # Limitations
//!
//! The host does not support bodies, trailers and responses of streams, gRPC calls, foreign functions, and configuration
//! changes while it runs. A guest that makes a gRPC call traps, so that a missing response is not mistaken for Envoy's behaviour.

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
pub use host::{Event, Host, StartError, Stream, Worker};
pub use log::{LogLevel, LogLine, Thread};
pub use metrics::Metric;
pub use module::{Module, ModuleError};
pub use settings::FailurePolicy;
pub use stream::{Forwarded, Reply, Request, StreamState};
