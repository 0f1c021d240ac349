//! The interface between the engine and the process that it runs in.
//!
//! A host passes events to [`super::Engine`] or [`super::Driver`] and implements these traits. It makes no decisions, retries nothing and
//! adds no headers. The Wasm module implements both traits with proxy-wasm's host calls, and the tests with a virtual clock.
//!
//! A *worker* is an engine with its queue: one for each of Envoy's threads in the Wasm module, because each has a VM of its own. A process
//! with one engine for all threads, behind a mutex, has one worker. All workers of a process use one [`Store`], and no two of them have
//! the same [`QueueId`].

use std::time::Duration;

use crate::broker::{QueueId, Store, StreamId};
use crate::event::Event;
use crate::http::{CallFailure, HttpCall, Reply};
use crate::metrics::Kind;
use crate::request::RequestSource;
use crate::sent::SentTokens;
use crate::time::Timestamp;

/// The host's number of a call. It is not reused before the call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub u32);

/// The host's number of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricId(pub u32);

/// The process, from the view of one worker.
pub trait Host {
    /// Returns the current time of the wall clock.
    fn now(&self) -> Timestamp;

    /// Returns what all workers of the process share.
    fn store(&self) -> &dyn Store;

    /// Starts a call and returns its number. The host reports the result once to [`super::Engine::call_finished`].
    ///
    /// The host ends the call after its `timeout`, and reports a response with status 504 and without `date`; for a connection that
    /// breaks it reports [`CallResponse::broken_off`](crate::http::CallResponse::broken_off).
    ///
    /// # Errors
    /// The call could not be started; nothing is reported for it.
    fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure>;

    /// Sends a message to the worker that owns this queue, which may be this worker. There the host passes it to
    /// [`super::Engine::woken`], in a later turn. A message to a worker that no longer exists is dropped.
    fn wake(&mut self, worker: QueueId, message: &[u8]);

    /// Sets the timer, which calls [`super::Engine::timer`] once after this time. Replaces an earlier timer; `None` only cancels it.
    fn set_timer(&mut self, after: Option<Duration>);

    /// Writes a line to the log.
    fn log(&mut self, event: &Event);

    /// Returns the number of the metric with this name, and defines the metric if it does not exist. A host to which a definition is
    /// expensive remembers the numbers. By default the host keeps no metrics.
    fn metric(&mut self, _kind: Kind, _name: &str) -> Option<MetricId> {
        None
    }

    /// Records a value: adds it to a [`Kind::Counter`] or [`Kind::Sum`], sets a [`Kind::Gauge`] to it, or adds it to the distribution of
    /// a [`Kind::Histogram`].
    fn record(&mut self, _metric: MetricId, _kind: Kind, _value: i64) {}
}

/// The HTTP streams of a process. A stream may be paused or in a callback. Calls for a stream that no longer exists have no effect.
pub trait HttpHost: Host {
    /// Returns read access to a stream's request; `None` if the stream no longer exists. The engine reads one request at a time, so a
    /// host may make the stream its current one.
    fn request(&self, stream: StreamId) -> Option<&dyn RequestSource>;

    /// Returns the status of the stream's response once its headers have arrived.
    fn response_status(&self, stream: StreamId) -> Option<u16>;

    /// Sets a request header and replaces all existing values; `None` removes the header.
    fn set_header(&mut self, stream: StreamId, name: &str, value: Option<&str>);

    /// Sets filter state, which access logs show as `%FILTER_STATE(wasm.<name>:PLAIN)%` and which a route may match on.
    fn set_filter_state(&mut self, stream: StreamId, name: &str, value: &str);

    /// Makes Envoy select the stream's route again, because a route may match on filter state.
    fn clear_route_cache(&mut self, stream: StreamId);

    /// Answers a stream with a local reply. `details` are the response code details; if they are empty, Envoy sets its own.
    fn reply(&mut self, stream: StreamId, reply: &Reply, details: &str);

    /// Resumes a paused stream.
    fn resume(&mut self, stream: StreamId);

    /// Returns the tokens that this worker has sent. They outlive its engines, because a retry may come after another configuration.
    fn sent(&self) -> &SentTokens;

    /// Returns the node id of Envoy's bootstrap.
    fn node_id(&self) -> Option<Vec<u8>>;

    /// Returns a random number. Workers and processes must get different sequences.
    fn random(&mut self) -> u64;

    /// Registers this worker's queue under a unique name.
    fn register_queue(&mut self, name: &str) -> QueueId;
}
