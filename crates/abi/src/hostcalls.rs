//! What the filter asks of its host. Every status that is not success is an `Err`; nothing here panics.
//!
//! Names are those of the ABI's functions without `proxy_`, sizes and numbers are the ABI's.

use std::time::Duration;

use crate::sys;

/// Why the host did not do what was asked (`proxy_status_t`). A host may return numbers that have no name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u32);

impl Status {
    /// There is no such header, property, name or queue.
    pub const NOT_FOUND: Self = Self(1);
    /// An argument is wrong: for a call, that there is no such cluster.
    pub const BAD_ARGUMENT: Self = Self(2);
    /// The queue has no message.
    pub const EMPTY: Self = Self(7);
    /// Another VM has changed the shared data meanwhile.
    pub const CAS_MISMATCH: Self = Self(8);

    pub(crate) const fn check(code: u32) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            code => Err(Self(code)),
        }
    }
}

/// How important a log line is (`proxy_log_level_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LogLevel {
    /// As it should be.
    Info = 2,
    /// Somebody should look at it.
    Warn = 3,
    /// Something does not work.
    Error = 4,
    /// The VM is lost.
    Critical = 5,
}

/// `proxy_buffer_type_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BufferType {
    /// The body of the answer to a call.
    HttpCallResponseBody = 4,
    /// The plugin's configuration.
    PluginConfiguration = 7,
}

/// `proxy_map_type_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapType {
    /// The headers of the request in effect.
    HttpRequestHeaders = 0,
    /// The headers of the response to it.
    HttpResponseHeaders = 2,
    /// The headers of the answer to a call.
    HttpCallResponseHeaders = 6,
}

/// `proxy_metric_type_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MetricType {
    /// It only grows.
    Counter = 0,
    /// It has a value.
    Gauge = 1,
    /// It has a distribution.
    Histogram = 2,
}

/// The request path of a stream (`proxy_stream_type_t`).
const HTTP_REQUEST: u32 = 0;

/// The host derives the gRPC status from the HTTP status.
const NO_GRPC_STATUS: i32 = -1;

/// `None` for what does not exist.
fn optional<T>(result: Result<T, Status>, absent: Status) -> Result<Option<T>, Status> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(status) if status == absent => Ok(None),
        Err(status) => Err(status),
    }
}

/// Writes a line to the host's log.
///
/// # Errors
/// The host's status.
pub fn log(level: LogLevel, text: &str) -> Result<(), Status> {
    sys::log(level as u32, text)
}

pub(crate) fn log_panic(text: &str) {
    let _ = log(LogLevel::Critical, text);
}

/// The time since the Unix epoch, by the host's clock.
///
/// # Errors
/// The host's status.
pub fn get_current_time() -> Result<Duration, Status> {
    sys::current_time().map(Duration::from_nanos)
}

/// Has [`crate::Plugin::on_tick`] called so often, or never with zero.
///
/// # Errors
/// The host's status.
pub fn set_tick_period(period: Duration) -> Result<(), Status> {
    sys::set_tick_period(u32::try_from(period.as_millis()).unwrap_or(u32::MAX))
}

/// At most `most` bytes of a buffer, from `start` on.
///
/// # Errors
/// The host's status.
pub fn get_buffer(buffer: BufferType, start: usize, most: usize) -> Result<Option<Vec<u8>>, Status> {
    optional(sys::buffer(buffer as u32, start, most), Status::NOT_FOUND)
}

/// The first value of a header, by its name in lower case.
///
/// # Errors
/// The host's status.
pub fn get_map_value_bytes(map: MapType, name: &str) -> Result<Option<Vec<u8>>, Status> {
    optional(sys::header(map as u32, name), Status::NOT_FOUND)
}

/// Sets a header in place of all others of its name; `None` removes them.
///
/// # Errors
/// The host's status.
pub fn set_map_value_bytes(map: MapType, name: &str, value: Option<&[u8]>) -> Result<(), Status> {
    match value {
        Some(value) => sys::replace_header(map as u32, name, value),
        None => sys::remove_header(map as u32, name),
    }
}

/// An attribute, such as `["xds", "cluster_name"]`.
///
/// # Errors
/// The host's status.
pub fn get_property(path: &[&str]) -> Result<Option<Vec<u8>>, Status> {
    optional(sys::property(path.join("\0").as_bytes()), Status::NOT_FOUND)
}

/// Sets a value that access logs and later callbacks of the stream in effect read (in Envoy: filter state).
///
/// # Errors
/// The host's status.
pub fn set_property(name: &str, value: &[u8]) -> Result<(), Status> {
    sys::set_property(name.as_bytes(), value)
}

/// The value under a name that all VMs share, and its compare-and-set number.
///
/// # Errors
/// The host's status; [`Status::NOT_FOUND`] for a name that was never set.
pub fn get_shared_data(name: &str) -> Result<(Vec<u8>, u32), Status> {
    sys::shared_data(name)
}

/// Sets a value that all VMs share. With a compare-and-set number, only if it is still that of the value.
///
/// # Errors
/// The host's status; [`Status::CAS_MISMATCH`] when another VM was faster.
pub fn set_shared_data(name: &str, value: &[u8], cas: Option<u32>) -> Result<(), Status> {
    sys::set_shared_data(name, value, cas.unwrap_or_default())
}

/// Makes this VM the one that reads a queue; its number.
///
/// # Errors
/// The host's status.
pub fn register_shared_queue(name: &str) -> Result<u32, Status> {
    sys::register_shared_queue(name)
}

/// Puts a message into a queue, which wakes the VM that reads it.
///
/// # Errors
/// The host's status; [`Status::NOT_FOUND`] for a queue that does not exist.
pub fn enqueue_shared_queue(queue: u32, message: &[u8]) -> Result<(), Status> {
    sys::enqueue_shared_queue(queue, message)
}

/// Takes the oldest message from a queue, if there is one.
///
/// # Errors
/// The host's status.
pub fn dequeue_shared_queue(queue: u32) -> Result<Option<Vec<u8>>, Status> {
    optional(sys::dequeue_shared_queue(queue), Status::EMPTY)
}

/// Lets the paused request in effect go on, after the current callback.
///
/// # Errors
/// The host's status.
pub fn resume_http_request() -> Result<(), Status> {
    sys::continue_stream(HTTP_REQUEST)
}

/// Answers the request in effect, after the current callback. `details` becomes Envoy's `%RESPONSE_CODE_DETAILS%`; it has no
/// white space.
///
/// # Errors
/// The host's status.
pub fn send_local_response(status: u16, details: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<(), Status> {
    sys::send_local_response(u32::from(status), details, body, &pairs(headers), NO_GRPC_STATUS)
}

/// Sends a request to a cluster; its number, by which [`crate::Plugin::on_http_call_response`] names the answer.
///
/// # Errors
/// The host's status; [`Status::BAD_ARGUMENT`] when there is no such cluster. Then no answer comes.
pub fn dispatch_http_call(
    cluster: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
) -> Result<u32, Status> {
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    sys::http_call(cluster, &pairs(headers), body, &pairs(&[]), timeout)
}

/// Makes the calls that follow in this callback be about this context.
///
/// # Errors
/// The host's status; when there is no such context.
pub fn set_effective_context(context: u32) -> Result<(), Status> {
    sys::set_effective_context(context)
}

/// Makes a metric, or finds it; its number.
///
/// # Errors
/// The host's status.
pub fn define_metric(kind: MetricType, name: &str) -> Result<u32, Status> {
    sys::define_metric(kind as u32, name)
}

/// Adds to a counter or a gauge.
///
/// # Errors
/// The host's status.
pub fn increment_metric(metric: u32, by: i64) -> Result<(), Status> {
    sys::increment_metric(metric, by)
}

/// Sets a gauge, or adds a value to a histogram.
///
/// # Errors
/// The host's status.
pub fn record_metric(metric: u32, value: u64) -> Result<(), Status> {
    sys::record_metric(metric, value)
}

/// Calls a function that only this host has; what it returns.
///
/// # Errors
/// The host's status; [`Status::NOT_FOUND`] when it has no such function.
pub fn call_foreign_function(name: &str, arguments: &[u8]) -> Result<Vec<u8>, Status> {
    sys::call_foreign_function(name, arguments)
}

/// A header map as the ABI has it: the number of pairs, the sizes of each name and value, then names and values, each with a
/// NUL behind it. Integers are 32 bits, the least byte first.
fn pairs(headers: &[(&str, &str)]) -> Vec<u8> {
    let size = |length: usize| u32::try_from(length).unwrap_or_default().to_le_bytes();
    let mut bytes = size(headers.len()).to_vec();
    for (name, value) in headers {
        bytes.extend_from_slice(&size(name.len()));
        bytes.extend_from_slice(&size(value.len()));
    }
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes
}
