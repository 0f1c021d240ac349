//! The rules and the state machines of entra-exchange.
//!
//! No I/O, no clock, no global state and no proxy-wasm: a host (the Wasm filter, the simulation, the fleet example, a
//! test) passes each event to the [`engine`] and implements its traits for the time, calls, streams and the log. The groups of modules
//! below are in the order in which a request passes through them; `docs/architecture.md` follows one request.
//!
//! # Example
//!
//! A host with one request, from configuration to token. A real host implements the same traits with Envoy.
//!
//! ```
//! use std::collections::HashMap;
//! use std::time::Duration;
//!
//! use entra_exchange_core::broker::{MemoryStore, QueueId, Store, StreamId};
//! use entra_exchange_core::engine::{CallId, Engine, Flow, Host, HttpHost};
//! use entra_exchange_core::http::{CallFailure, CallResponse, HttpCall, Reply};
//! use entra_exchange_core::request::{DescribedRequest, RequestSource};
//! use entra_exchange_core::sent::SentTokens;
//! use entra_exchange_core::status_page::Build;
//! # use entra_exchange_core::{event::Event, time::Timestamp};
//!
//! /// One process with one request.
//! #[derive(Default)]
//! struct Process {
//!     store: MemoryStore,
//!     sent: SentTokens,
//!     request: DescribedRequest,
//!     set: HashMap<String, String>,
//!     messages: Vec<Vec<u8>>,
//!     calls: Vec<HttpCall>,
//!     resumed: bool,
//! }
//!
//! impl Host for Process {
//!     fn now(&self) -> Timestamp {
//!         Timestamp::from_unix_seconds(1_795_334_000)
//!     }
//!     fn store(&self) -> &dyn Store {
//!         &self.store
//!     }
//!     fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure> {
//!         self.calls.push(call.clone());
//!         Ok(CallId(self.calls.len() as u32))
//!     }
//!     fn wake(&mut self, _: QueueId, message: &[u8]) {
//!         self.messages.push(message.to_vec());
//!     }
//! #   fn set_timer(&mut self, _: Option<Duration>) {}
//! #   fn log(&mut self, _: &Event) {}
//!     // … the timer and the log
//! }
//!
//! impl HttpHost for Process {
//!     fn request(&self, _: StreamId) -> Option<&dyn RequestSource> {
//!         Some(&self.request)
//!     }
//!     fn set_header(&mut self, _: StreamId, name: &str, value: Option<&str>) {
//!         self.set.insert(name.to_owned(), value.unwrap_or_default().to_owned());
//!     }
//!     fn resume(&mut self, _: StreamId) {
//!         self.resumed = true;
//!     }
//! #   fn response_status(&self, _: StreamId) -> Option<u16> { None }
//! #   fn set_filter_state(&mut self, _: StreamId, _: &str, _: &str) {}
//! #   fn clear_route_cache(&mut self, _: StreamId) {}
//! #   fn reply(&mut self, _: StreamId, _: &Reply, _: &str) {}
//! #   fn sent(&self) -> &SentTokens { &self.sent }
//! #   fn node_id(&self) -> Option<Vec<u8>> { None }
//! #   fn random(&mut self) -> u64 { 7 }
//! #   fn register_queue(&mut self, _: &str) -> QueueId { QueueId(0) }
//!     // … filter state, local replies and the worker's queue
//! }
//!
//! // Configure.
//! let configuration = br#"{
//!     "identities": [{"tenant_id": "11111111-1111-4111-8111-111111111111", "client_id": "aaaaaaaa-0000-4000-8000-000000000001"}],
//!     "destinations": [{"hosts": ["kv.vault.azure.net"], "scope": "https://vault.azure.net/.default", "tls_clusters": ["vault"]}]
//! }"#;
//! let mut process = Process::default();
//! let build = Build { version: "1.0", commit: "example" };
//! let mut engine = Engine::configure(configuration, &|_| None, build, &mut process).expect("a valid configuration");
//!
//! // The request pauses, because the cache has no token.
//! let stream = StreamId(1);
//! process.request = DescribedRequest::new("GET", "kv.vault.azure.net", "/secrets/db");
//! process.request.cluster_name = Some("vault".to_owned());
//! assert_eq!(engine.request(stream, &mut process), Flow::Pause);
//!
//! // The engine reads the federated token, then calls the token endpoint.
//! # let federated_token = {
//! #     use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
//! #     let claims = r#"{"iss": "https://issuer.example", "sub": "s", "aud": "a", "exp": 1795337600}"#;
//! #     format!("{}.{}.c2ln", BASE64.encode(r#"{"alg": "RS256"}"#), BASE64.encode(claims))
//! # };
//! let ok = |body: String| Ok(CallResponse::new(|name| (name == ":status").then(|| b"200".to_vec()), body.into_bytes()));
//! let messages = std::mem::take(&mut process.messages);
//! engine.woken(&messages, &mut process);
//! engine.call_finished(CallId(1), ok(federated_token), &mut process);
//! assert_eq!(process.calls[1].path, "/11111111-1111-4111-8111-111111111111/oauth2/v2.0/token");
//! let answer = r#"{"token_type": "Bearer", "expires_in": 3600, "access_token": "abc"}"#;
//! engine.call_finished(CallId(2), ok(answer.to_owned()), &mut process);
//!
//! // The request is forwarded with the token.
//! assert!(process.resumed);
//! assert_eq!(process.set["authorization"], "Bearer abc");
//! ```

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
