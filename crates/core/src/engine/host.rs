//! What the engine asks of the process that it runs in.
//!
//! A host hands events in ([`super::Engine`], [`super::Driver`]) and carries out what these traits ask for. It decides nothing, retries nothing and
//! makes up no header. The Wasm module implements both traits over proxy-wasm's host calls; the tests over a virtual clock.

use std::time::Duration;

use crate::broker::{QueueId, SharedData, StreamId};
use crate::event::Event;
use crate::http::{CallFailure, HttpCall, Reply};
use crate::metrics::Kind;
use crate::time::Timestamp;

/// A host's number for a call. It is not used for another call before that one has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub u32);

/// The host's number for a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricId(pub u32);

/// A process, as one worker sees it.
pub trait Host {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// The memory that all workers of the process share.
    fn shared(&self) -> &dyn SharedData;

    /// Starts a call. Its result is reported once, with the number that is returned, to [`super::Engine::call_finished`].
    ///
    /// # Errors
    /// The call could not be started; nothing is reported for it.
    fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure>;

    /// Delivers a message to the worker behind this queue, which may be this one; it is handed to [`super::Engine::woken`] there,
    /// in a later turn. A message to a worker that no longer exists is dropped.
    fn wake(&mut self, worker: QueueId, message: &[u8]);

    /// Calls [`super::Engine::timer`] once after this time, in place of any time set before; `None` sets no timer.
    fn set_timer(&mut self, after: Option<Duration>);

    /// Writes a line to the log.
    fn log(&mut self, event: &Event);

    /// The number of the metric with this name, which is made when it does not exist; `None` when the host keeps no metrics.
    fn metric(&mut self, kind: Kind, name: &str) -> Option<MetricId>;

    /// Records a value: adds it to a [`Kind::Counter`] or [`Kind::Sum`], sets a [`Kind::Gauge`], adds it to a
    /// [`Kind::Histogram`]'s distribution.
    fn record(&mut self, metric: MetricId, kind: Kind, value: i64);
}

/// The HTTP streams of a process. Each method acts on one stream, whether it is paused or in a callback; on one that no
/// longer exists it does nothing.
pub trait HttpHost: Host {
    /// The first value of a request header; pseudo-headers by their names (`:authority`, `:path`, `:method`).
    fn header(&self, stream: StreamId, name: &str) -> Option<Vec<u8>>;

    /// An Envoy attribute, such as `["xds", "cluster_name"]`.
    fn property(&self, stream: StreamId, path: &[&str]) -> Option<Vec<u8>>;

    /// The status of the stream's response, once its headers have arrived.
    fn response_status(&self, stream: StreamId) -> Option<u16>;

    /// Sets a request header, in place of any other of its name; `None` removes it.
    fn set_header(&mut self, stream: StreamId, name: &str, value: Option<&str>);

    /// Sets filter state that access logs show as `%FILTER_STATE(wasm.<name>:PLAIN)%`, and that [`HttpHost::property`] finds on the
    /// request's next attempt. Returns whether the host took it.
    fn set_filter_state(&mut self, stream: StreamId, name: &str, value: &str) -> bool;

    /// Selects the stream's route again: a route may match on filter state.
    fn clear_route_cache(&mut self, stream: StreamId);

    /// Answers a paused stream, or one in its request callback, with a local reply. `details` are Envoy's response code details; empty for
    /// Envoy's own.
    fn reply(&mut self, stream: StreamId, reply: &Reply, details: &str);

    /// Resumes a paused stream.
    fn resume(&mut self, stream: StreamId);

    /// Keeps the filter state of this name when an internal redirect makes another request of the same stream. Returns whether the host does.
    fn keep_over_redirects(&mut self, name: &str) -> bool;

    /// The node's id in Envoy's bootstrap.
    fn node_id(&self) -> Option<Vec<u8>>;

    /// A random number, from a source that differs between workers and processes.
    fn random(&mut self) -> u64;

    /// Registers this worker's queue under a name that no other worker has.
    fn register_queue(&mut self, name: &str) -> QueueId;
}
