//! Implements the engine's host interface with proxy-wasm host calls. Header values are bytes, because they need not be UTF-8.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use entra_exchange_abi::hostcalls::{self, LogLevel, MapType, MetricType, Status};
use entra_exchange_core::broker::{QueueId, SharedData, Shelves, Store, StreamId};
use entra_exchange_core::engine::{CallId, Host, HttpHost, MetricId};
use entra_exchange_core::event::{Event, Level};
use entra_exchange_core::fast_map::FastMap;
use entra_exchange_core::http::{CallFailure, HttpCall, Reply};
use entra_exchange_core::metrics::Kind;
use entra_exchange_core::request::{Headers, RequestSource};
use entra_exchange_core::sent::SentTokens;
use entra_exchange_core::time::Timestamp;

/// Envoy, as the host of one root context.
pub(crate) struct Envoy {
    root: u32,
    /// The context on which host calls act.
    effective: Cell<u32>,
    /// The metrics that this VM has defined. Envoy keeps each metric once for the whole process.
    metrics: FastMap<String, MetricId>,
    /// What the workers share.
    store: Shelves<Shared>,
    /// The tokens that this VM has sent, in all of its root contexts.
    sent: Rc<SentTokens>,
}

thread_local! {
    static SENT: Rc<SentTokens> = Rc::default();
}

/// Envoy's shared data, which all workers of a VM id share.
struct Shared;

impl SharedData for Shared {
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)> {
        hostcalls::get_shared_data(name).ok()
    }

    fn set(&self, name: &str, value: &[u8], cas: Option<u32>) -> bool {
        hostcalls::set_shared_data(name, value, cas).is_ok()
    }
}

impl Envoy {
    pub(crate) fn new(root: u32) -> Self {
        Self {
            root,
            effective: Cell::new(root),
            metrics: FastMap::default(),
            store: Shelves::new(Shared),
            sent: SENT.with(Rc::clone),
        }
    }

    /// Records that Envoy has begun a callback of the root context.
    pub(crate) fn enter_root_callback(&self) {
        self.effective.set(self.root);
    }

    /// Records that Envoy has begun a callback of this stream.
    pub(crate) fn enter_stream_callback(&self, stream: u32) {
        self.effective.set(stream);
    }

    /// Makes host calls act on this context. Returns whether the context exists.
    fn act_on(&self, context: u32) -> bool {
        if self.effective.get() == context {
            return true;
        }
        let exists = hostcalls::set_effective_context(context).is_ok();
        if exists {
            self.effective.set(context);
        }
        exists
    }
}

impl Host for Envoy {
    fn now(&self) -> Timestamp {
        Timestamp::default().plus(hostcalls::get_current_time().unwrap_or_default())
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure> {
        // The root context makes the call, because Envoy cancels a stream's calls when the stream ends.
        self.act_on(self.root);
        let pseudo = [(":method", call.method), (":path", call.path.as_str()), (":authority", call.authority.as_str())];
        let headers: Vec<(&str, &str)> =
            pseudo.into_iter().chain(call.headers.iter().map(|(name, value)| (&**name, &**value))).collect();
        match hostcalls::dispatch_http_call(&call.cluster, &headers, &call.body, call.timeout) {
            Ok(number) => Ok(CallId(number)),
            Err(Status::BAD_ARGUMENT) => Err(CallFailure::NoSuchCluster),
            Err(_) => Err(CallFailure::NoEndpoint),
        }
    }

    fn wake(&mut self, worker: QueueId, message: &[u8]) {
        let _ = hostcalls::enqueue_shared_queue(worker.0, message);
    }

    fn set_timer(&mut self, after: Option<Duration>) {
        self.act_on(self.root);
        // A period of zero disables the timer.
        let period = after.map_or(Duration::ZERO, |after| after.max(Duration::from_millis(1)));
        let _ = hostcalls::set_tick_period(period);
    }

    fn log(&mut self, event: &Event) {
        let level = match event.level {
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let _ = hostcalls::log(level, &event.to_string());
    }

    fn metric(&mut self, kind: Kind, name: &str) -> Option<MetricId> {
        if let Some(metric) = self.metrics.get(name) {
            return Some(*metric);
        }
        let metric_type = match kind {
            Kind::Counter => MetricType::Counter,
            Kind::Sum | Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let metric = hostcalls::define_metric(metric_type, name).ok().map(MetricId)?;
        self.metrics.insert(name.to_owned(), metric);
        Some(metric)
    }

    fn record(&mut self, metric: MetricId, kind: Kind, value: i64) {
        let _ = match kind {
            Kind::Counter | Kind::Sum => hostcalls::increment_metric(metric.0, value),
            Kind::Gauge | Kind::Histogram => {
                hostcalls::record_metric(metric.0, u64::try_from(value).unwrap_or_default())
            }
        };
    }
}

/// The request of the context on which host calls act.
struct EffectiveRequest;

/// An attribute of the request. Its parts are separated by NUL.
fn property(path: &str) -> Option<Vec<u8>> {
    hostcalls::get_property(path).ok().flatten()
}

/// An attribute that is a text.
fn text(path: &str) -> Option<String> {
    String::from_utf8(property(path)?).ok()
}

fn is_set(path: &str) -> bool {
    property(path).is_some_and(|value| !value.is_empty())
}

impl RequestSource for EffectiveRequest {
    fn authority(&self) -> Option<Cow<'_, [u8]>> {
        hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, ":authority").ok().flatten().map(Cow::Owned)
    }

    fn has_header(&self, name: &str) -> bool {
        matches!(hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name), Ok(Some(_)))
    }

    fn headers(&self) -> Cow<'_, Headers> {
        let (block, positions) = hostcalls::get_map(MapType::HttpRequestHeaders).unwrap_or_default();
        Cow::Owned(Headers::in_block(block, positions))
    }

    fn cluster_name(&self) -> Option<Cow<'_, str>> {
        text("xds\0cluster_name").map(Cow::Owned)
    }

    fn attempt(&self) -> Option<u64> {
        // Envoy encodes an integer as eight bytes in little-endian order.
        property("upstream\0request_attempt_count")?.try_into().ok().map(u64::from_le_bytes)
    }

    fn upstream_is_established(&self) -> bool {
        is_set("upstream\0cx_pool_ready_duration")
    }

    fn upstream_tls(&self) -> bool {
        is_set("upstream\0tls_version")
    }

    fn peer_uri(&self) -> Option<Cow<'_, str>> {
        text("connection\0uri_san_peer_certificate").map(Cow::Owned)
    }

    fn destination_address(&self) -> Option<Cow<'_, [u8]>> {
        property("destination\0address").map(Cow::Owned)
    }
}

impl HttpHost for Envoy {
    fn request(&self, stream: StreamId) -> Option<&dyn RequestSource> {
        self.act_on(stream.0).then_some(&EffectiveRequest)
    }

    fn response_status(&self, stream: StreamId) -> Option<u16> {
        let status = self
            .act_on(stream.0)
            .then(|| hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, ":status").ok())??;
        std::str::from_utf8(&status?).ok()?.parse().ok()
    }

    fn set_header(&mut self, stream: StreamId, name: &str, value: Option<&str>) {
        if self.act_on(stream.0) {
            let _ = hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, value.map(str::as_bytes));
        }
    }

    fn set_filter_state(&mut self, stream: StreamId, name: &str, value: &str) {
        if self.act_on(stream.0) {
            let _ = hostcalls::set_property(name, value.as_bytes());
        }
    }

    fn clear_route_cache(&mut self, stream: StreamId) {
        if self.act_on(stream.0) {
            let _ = hostcalls::call_foreign_function("clear_route_cache", &[]);
        }
    }

    fn reply(&mut self, stream: StreamId, reply: &Reply, details: &str) {
        if self.act_on(stream.0) {
            let headers: Vec<(&str, &str)> =
                reply.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let _ = hostcalls::send_local_response(reply.status, details, &headers, &reply.body);
        }
    }

    fn resume(&mut self, stream: StreamId) {
        if self.act_on(stream.0) {
            let _ = hostcalls::resume_http_request();
        }
    }

    fn sent(&self) -> &SentTokens {
        &self.sent
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        property("xds\0node\0id")
    }

    fn random(&mut self) -> u64 {
        let clock = |_| hostcalls::get_current_time().unwrap_or_default().subsec_nanos().into();
        hostcalls::random().unwrap_or_else(clock)
    }

    fn register_queue(&mut self, name: &str) -> QueueId {
        QueueId(hostcalls::register_shared_queue(name).unwrap_or_default())
    }
}
