//! The engine of one worker: it receives events and acts through its host.
//!
//! The [`Engine`] decides requests with the [`Policy`], fetches tokens with its [`Driver`], and applies the decisions to streams through
//! [`HttpHost`]. A host reports every event once, in order, and never from within another event.
//!
//! The documentation of the crate has an example of the whole loop.

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
