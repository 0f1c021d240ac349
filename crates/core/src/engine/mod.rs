//! The engine of one worker: it receives events and acts through its host.
//!
//! The [`Engine`] decides requests with the [`Policy`], fetches tokens with its [`Driver`], and applies the decisions to streams through
//! [`HttpHost`]. A host reports every event once, in order, and never from within another event.
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
//! // Decide: there is no token yet, so the request pauses.
//! let stream = StreamId(1);
//! process.request = DescribedRequest::new("GET", "kv.vault.azure.net", "/secrets/db");
//! process.request.cluster_name = Some("vault".to_owned());
//! assert_eq!(engine.request(stream, &mut process), Flow::Pause);
//!
//! // Drive: the engine reads the federated token, then calls the token endpoint.
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

mod driver;
mod host;
mod meters;
mod requests;

pub use driver::{Driver, Finished};
pub use host::{CallId, Host, HttpHost, MetricId};

use std::sync::Arc;

use crate::broker::{Limits, WorkerId};
use crate::config::{Config, Log};
use crate::configuration_status;
use crate::http::CallResult;
use crate::policy::Policy;
use crate::request_log::RequestLog;
use crate::status_page::Build;
use crate::time::Timestamp;
use meters::RequestCounters;
use requests::Requests;

/// The filter with one configuration, in one worker.
pub struct Engine {
    policy: Arc<Policy>,
    limits: Limits,
    log: Log,
    build: Build,
    request_log: RequestLog,
    request_counters: RequestCounters,
    /// The header that Envoy sets on an internal redirect.
    original_url: String,
    /// Whether a part of the configuration applied to the last request. All headers of the next one are then read first, because one
    /// application or listener often sends similar requests. It only saves a host call, and decides nothing.
    last_was_listed: bool,
    /// Created by the first request that needs a token or, if tokens are kept warm, by the first timer. The canary VM, in which Envoy
    /// validates a configuration, has neither.
    worker: Option<Worker>,
}

/// The state of a worker, which is created on first use.
struct Worker {
    driver: Driver,
    requests: Requests,
}

/// Whether a stream continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The request is forwarded.
    Continue,
    /// The stream was answered, or pauses until it is resumed or answered.
    Pause,
}

impl Engine {
    /// Creates an engine from a configuration (JSON) and logs warnings or errors. `environment` returns the value of an environment
    /// variable. Returns `None` if the configuration is rejected; the host then keeps the previous one.
    ///
    /// Call it once for each configuration and worker, before any other event. It may set the timer; it starts no call and answers no
    /// stream.
    ///
    /// Streams and calls belong to the engine that got them: after another configuration the host keeps the previous engine until its
    /// last stream is gone, so that every request that waits there is answered. (Envoy does so: it gives a new configuration a context
    /// of its own.)
    pub fn configure(
        text: &[u8],
        environment: &dyn Fn(&str) -> Option<String>,
        build: Build,
        host: &mut dyn HttpHost,
    ) -> Option<Self> {
        let mut config = match Config::parse(text, environment) {
            Ok(config) => config,
            Err(problems) => {
                configuration_status::rejection(text, &problems).iter().for_each(|event| host.log(event));
                return None;
            }
        };
        let now = host.now();
        let warnings = config.warnings_at(now);
        config.warnings.extend(warnings);
        host.store().prepare();
        let on_gateway = host.node_id().is_some_and(|id| id.starts_with(ISTIO_GATEWAY));
        let policy = Arc::new(Policy::new(&config, on_gateway));
        host.sent().add_headers(policy.token_headers().iter().cloned());
        for event in policy.configuration().announce(config.limits.wait, now, host.store()) {
            host.log(&event);
        }
        for measurement in policy.configuration().measurements(build.version, build.commit) {
            meters::record(&measurement, host);
        }
        let engine = Self {
            policy,
            limits: config.limits,
            log: config.log,
            build,
            request_log: RequestLog::new(config.log),
            request_counters: RequestCounters::default(),
            original_url: config.original_url,
            last_was_listed: false,
            worker: None,
        };
        let warm = (!engine.policy.warm().is_empty()).then_some(now);
        if let Some(due) = warm.or(host.store().next_cleanup()) {
            host.set_timer(Some(due.since(now)));
        }
        Some(engine)
    }

    /// Processes the expiry of the timer.
    ///
    /// Call it when the time of the last [`Host::set_timer`] has elapsed; one call too many does no harm. It may start calls, resume and
    /// answer streams, and it sets the timer again if it needs one.
    pub fn timer(&mut self, host: &mut dyn HttpHost) {
        let now = host.now();
        let cleaned_up = host.store().clean_up(now);
        if let Some(event) = cleaned_up {
            host.log(&event);
        }
        if self.worker.is_none() && !self.policy.warm().is_empty() {
            let policy = Arc::clone(&self.policy);
            self.begin(host).driver.keep_warm(policy.warm(), now);
        }
        self.turn(now, host, |driver, host| driver.timer(now, host));
    }

    /// Processes messages from [`Host::wake`].
    ///
    /// Call it with all messages of this worker's queue, never from within another event. A lost or repeated message only costs time. It
    /// may start calls, resume and answer streams, and it sets the timer.
    pub fn woken(&mut self, messages: &[Vec<u8>], host: &mut dyn HttpHost) {
        let now = host.now();
        self.turn(now, host, |driver, host| driver.woken(messages, now, host));
    }

    /// Processes the result of a call that [`Host::start_call`] started.
    ///
    /// Call it once for each call that was started, whatever its result; an unknown call is ignored. It may start the next call, resume
    /// and answer streams, wake other workers, and it sets the timer.
    pub fn call_finished(&mut self, id: CallId, result: CallResult, host: &mut dyn HttpHost) {
        let now = host.now();
        self.turn(now, host, |driver, host| driver.call_finished(id, result, now, host));
    }

    /// Passes one event to the driver, finishes the streams whose wait has ended, and sets the timer.
    fn turn(
        &mut self,
        now: Timestamp,
        host: &mut dyn HttpHost,
        event: impl FnOnce(&mut Driver, &mut dyn Host) -> Vec<Finished>,
    ) {
        if let Some(worker) = &mut self.worker {
            for finished in event(&mut worker.driver, host) {
                self.finish(finished, now, host);
            }
            self.poll_connections(now, host);
        }
        let driver_due = self.worker.as_mut().and_then(|worker| worker.driver.next_due(now));
        let due = driver_due.into_iter().chain(host.store().next_cleanup()).min();
        host.set_timer(due.map(|due| due.since(now)));
    }

    /// Returns the worker, and creates it on first use.
    fn begin(&mut self, host: &mut dyn HttpHost) -> &mut Worker {
        self.worker.get_or_insert_with(|| {
            let id = host.random();
            // Only the last worker that registered a queue's name reads it, so each worker needs a separate name.
            let queue = host.register_queue(&format!("entra-exchange/{id:016x}"));
            let driver = Driver::new(WorkerId(id), queue, self.limits, self.log.exchanges);
            Worker { driver, requests: Requests::default() }
        })
    }
}

/// The start of an Istio gateway's node id.
const ISTIO_GATEWAY: &[u8] = b"router~";
