//! Safe wrappers of the host calls that the filter uses. Every status other than success is an `Err`; nothing here panics.
//!
//! Function names are those of the ABI without `proxy_`; sizes and enum values are the ABI's.

use std::ops::Range;
use std::time::Duration;

pub use crate::status::Status;
use crate::sys;

/// The severity of a log line (`proxy_log_level_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LogLevel {
    /// Normal operation.
    Info = 2,
    /// An operator should check it.
    Warn = 3,
    /// A function has failed.
    Error = 4,
    /// The VM has crashed.
    Critical = 5,
}

/// `proxy_buffer_type_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BufferType {
    /// The body of the response to an HTTP call.
    HttpCallResponseBody = 4,
    /// The plugin's configuration.
    PluginConfiguration = 7,
}

/// `proxy_map_type_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapType {
    /// The request headers of the effective context's stream.
    HttpRequestHeaders = 0,
    /// The response headers of the effective context's stream.
    HttpResponseHeaders = 2,
    /// The headers of the response to an HTTP call.
    HttpCallResponseHeaders = 6,
    /// The trailers of the response to an HTTP call.
    HttpCallResponseTrailers = 7,
}

/// `proxy_metric_type_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MetricType {
    /// A value that only increases.
    Counter = 0,
    /// A value that is set.
    Gauge = 1,
    /// A distribution of recorded values.
    Histogram = 2,
}

/// The request direction of a stream (`proxy_stream_type_t`).
const HTTP_REQUEST: u32 = 0;

/// Tells the host to derive the gRPC status from the HTTP status.
const NO_GRPC_STATUS: i32 = -1;

/// Converts the status `absent` to `None`.
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

/// Returns the time since the Unix epoch by the host's clock.
///
/// # Errors
/// The host's status.
pub fn get_current_time() -> Result<Duration, Status> {
    sys::current_time().map(Duration::from_nanos)
}

/// Returns a random number from WASI's `random_get`. The standard library's way to one adds 8 KB to the module, for the texts of all errors
/// of WASI.
///
/// # Errors
/// The number of WASI's error.
pub fn random() -> Result<u64, Status> {
    sys::random()
}

/// Sets the period in which the host calls [`crate::Plugin::on_tick`]. Zero disables the timer.
///
/// # Errors
/// The host's status.
pub fn set_tick_period(period: Duration) -> Result<(), Status> {
    sys::set_tick_period(u32::try_from(period.as_millis()).unwrap_or(u32::MAX))
}

/// Returns at most `max_size` bytes of a buffer, beginning at offset `start`; `None` when the buffer does not exist.
///
/// # Errors
/// The host's status.
pub fn get_buffer(buffer: BufferType, start: usize, max_size: usize) -> Result<Option<Vec<u8>>, Status> {
    optional(sys::buffer(buffer as u32, start, max_size), Status::NOT_FOUND)
}

/// Returns the first value of the header with this lower-case name.
///
/// # Errors
/// The host's status.
pub fn get_map_value_bytes(map: MapType, name: &str) -> Result<Option<Vec<u8>>, Status> {
    optional(sys::header(map as u32, name), Status::NOT_FOUND)
}

/// The positions of a header's name and value in a block of bytes.
pub type Position = (Range<usize>, Range<usize>);

/// Returns all headers of a map: a block of bytes, and the positions of each name and value in it.
///
/// # Errors
/// The host's status.
pub fn get_map(map: MapType) -> Result<(Vec<u8>, Vec<Position>), Status> {
    let block = sys::headers(map as u32)?;
    let positions = positions(&block);
    Ok((block, positions))
}

/// Replaces all values of a header with one; `None` removes the header.
///
/// # Errors
/// The host's status.
pub fn set_map_value_bytes(map: MapType, name: &str, value: Option<&[u8]>) -> Result<(), Status> {
    match value {
        Some(value) => sys::replace_header(map as u32, name, value),
        None => sys::remove_header(map as u32, name),
    }
}

/// Returns an attribute, such as `"xds\0cluster_name"`, whose parts are separated by NUL; `None` when it does not exist.
///
/// # Errors
/// The host's status.
pub fn get_property(path: &str) -> Result<Option<Vec<u8>>, Status> {
    optional(sys::property(path.as_bytes()), Status::NOT_FOUND)
}

/// Sets a property of the effective context's stream for access logs and later callbacks. Envoy stores it as filter state.
///
/// # Errors
/// The host's status.
pub fn set_property(name: &str, value: &[u8]) -> Result<(), Status> {
    sys::set_property(name.as_bytes(), value)
}

/// Returns a value that all VMs share, with its compare-and-set (CAS) number.
///
/// # Errors
/// The host's status; [`Status::NOT_FOUND`] for a key that was never set.
pub fn get_shared_data(name: &str) -> Result<(Vec<u8>, u32), Status> {
    sys::shared_data(name)
}

/// Sets a value that all VMs share. With a compare-and-set number, succeeds only if it equals the number of the current value.
///
/// # Errors
/// The host's status; [`Status::CAS_MISMATCH`] when another VM has set the value since it was read.
pub fn set_shared_data(name: &str, value: &[u8], cas: Option<u32>) -> Result<(), Status> {
    sys::set_shared_data(name, value, cas.unwrap_or_default())
}

/// Registers this VM as the reader of a queue and returns the queue's id.
///
/// # Errors
/// The host's status.
pub fn register_shared_queue(name: &str) -> Result<u32, Status> {
    sys::register_shared_queue(name)
}

/// Adds a message to a queue. The host then calls `on_queue_ready` in the VM that reads it.
///
/// # Errors
/// The host's status; [`Status::NOT_FOUND`] for a queue that does not exist.
pub fn enqueue_shared_queue(queue: u32, message: &[u8]) -> Result<(), Status> {
    sys::enqueue_shared_queue(queue, message)
}

/// Removes and returns the oldest message of a queue; `None` when it is empty.
///
/// # Errors
/// The host's status.
pub fn dequeue_shared_queue(queue: u32) -> Result<Option<Vec<u8>>, Status> {
    optional(sys::dequeue_shared_queue(queue), Status::EMPTY)
}

/// Resumes the paused request of the effective context when the current callback returns.
///
/// # Errors
/// The host's status.
pub fn resume_http_request() -> Result<(), Status> {
    sys::continue_stream(HTTP_REQUEST)
}

/// Sends a local reply to the request of the effective context when the current callback returns. `details` becomes Envoy's
/// `%RESPONSE_CODE_DETAILS%` and must not contain white space.
///
/// # Errors
/// The host's status.
pub fn send_local_response(status: u16, details: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<(), Status> {
    sys::send_local_response(u32::from(status), details, body, &pairs(headers), NO_GRPC_STATUS)
}

/// Sends an HTTP request to a cluster and returns the call's id, which [`crate::Plugin::on_http_call_response`] receives with the
/// response.
///
/// # Errors
/// The host's status; [`Status::BAD_ARGUMENT`] when the cluster does not exist. No response follows an error.
pub fn dispatch_http_call(
    cluster: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
) -> Result<u32, Status> {
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    sys::http_call(cluster, &pairs(headers), body, &pairs(&[]), timeout)
}

/// Makes the host calls that follow in this callback apply to this context.
///
/// # Errors
/// The host's status, when the context does not exist.
pub fn set_effective_context(context: u32) -> Result<(), Status> {
    sys::set_effective_context(context)
}

/// Defines a metric, or finds the existing one, and returns its id.
///
/// # Errors
/// The host's status.
pub fn define_metric(kind: MetricType, name: &str) -> Result<u32, Status> {
    sys::define_metric(kind as u32, name)
}

/// Adds an amount to a counter or a gauge.
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

/// Calls a function that is specific to this host (a foreign function) and returns its result.
///
/// # Errors
/// The host's status; [`Status::NOT_FOUND`] when the host has no such function.
pub fn call_foreign_function(name: &str, arguments: &[u8]) -> Result<Vec<u8>, Status> {
    sys::call_foreign_function(name, arguments)
}

/// The positions of each name and value in a header map that [`pairs`] encodes.
fn positions(block: &[u8]) -> Vec<Position> {
    let Some((count, rest)) = block.split_first_chunk() else { return Vec::new() };
    let count = u32::from_le_bytes(*count) as usize;
    let (sizes, _) = rest.as_chunks::<8>();
    // The caller checks each position, so one that overflows is a wrong one among others.
    let mut end = count.wrapping_mul(8).wrapping_add(4);
    let mut next = |size: [u8; 4]| {
        let start = end;
        let after = start.wrapping_add(u32::from_le_bytes(size) as usize);
        end = after.wrapping_add(1);
        start..after
    };
    let pair = |[a, b, c, d, e, f, g, h]: &[u8; 8]| (next([*a, *b, *c, *d]), next([*e, *f, *g, *h]));
    sizes.iter().take(count).map(pair).collect()
}

/// Encodes a header map as the ABI defines it: the number of pairs, the sizes of each name and value, then the names and values, each
/// followed by a NUL. Integers are 32-bit little-endian.
fn pairs(headers: &[(&str, &str)]) -> Vec<u8> {
    let size = |length: usize| u32::try_from(length).unwrap_or_default().to_le_bytes();
    let texts: usize = headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
    let mut bytes = Vec::with_capacity(texts.saturating_add(headers.len().saturating_mul(10)).saturating_add(4));
    bytes.extend_from_slice(&size(headers.len()));
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
