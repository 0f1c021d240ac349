//! The host calls of proxy-wasm 0.2.1.

use std::time::{Duration, SystemTime};

use wasmtime::{Caller, Linker, Result, bail};

use crate::headers::Headers;
use crate::log::LogLevel;
use crate::properties;
use crate::shared_queue::Reader;
use crate::state::{Deferred, ROOT, State, size};
use crate::status::{Status, code};
use crate::stream::{Record, Reply};

/// The guest during a host call.
pub(crate) type Guest<'a> = Caller<'a, State>;

/// A pointer and a length in the guest's memory.
type Slice = (u32, u32);

/// The result of a host call: success, an error status, or a trap.
type CallResult = Result<std::result::Result<(), Status>>;

const SUCCESS: CallResult = Ok(Ok(()));

/// Unwraps a value, or returns from the host call with the error status.
macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(status) => return Ok(Err(status)),
        }
    };
}

/// Checks that a host call is allowed, runs it, and converts its result to the guest's status code.
fn guarded(guest: &mut Guest<'_>, name: &'static str, call: impl FnOnce(&mut Guest<'_>) -> CallResult) -> Result<u32> {
    *guest.data_mut().host_calls.entry(name).or_default() += 1;
    if guest.data().initialising && name != "proxy_log" {
        bail!("restricted_callback: {name} cannot be called from _initialize");
    }
    if !guest.data().is_allowed(name) {
        let text = format!("Attempted call to restricted proxy-wasm capability: {name}");
        guest.data().log(LogLevel::Error, text);
        return Ok(code(Err(Status::InternalFailure)));
    }
    call(guest).map(code)
}

/// Copies a slice of the guest's memory.
pub(crate) fn bytes(guest: &Guest<'_>, (pointer, length): Slice) -> std::result::Result<Vec<u8>, Status> {
    let memory = guest.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    let (start, length) = (pointer as usize, length as usize);
    let end = start.checked_add(length).ok_or(Status::InvalidMemoryAccess)?;
    memory.data(guest).get(start..end).map(<[u8]>::to_vec).ok_or(Status::InvalidMemoryAccess)
}

/// Writes into the guest's memory.
pub(crate) fn write(guest: &mut Guest<'_>, pointer: u32, bytes: &[u8]) -> std::result::Result<(), Status> {
    let memory = guest.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    memory.write(guest, pointer as usize, bytes).map_err(|_| Status::InvalidMemoryAccess)
}

/// Returns bytes to the guest: writes them into memory that the guest allocates, and their pointer and length to `to`.
fn return_bytes(guest: &mut Guest<'_>, bytes: &[u8], (pointer_to, length_to): Slice) -> CallResult {
    let mut pointer = 0;
    if !bytes.is_empty() {
        let Some(allocate) = guest.data().allocate.clone() else { bail!("the module exports no allocator") };
        pointer = allocate.call(&mut *guest, size(bytes.len()))?;
        attempt!(write(guest, pointer, bytes));
    }
    attempt!(write(guest, pointer_to, &pointer.to_le_bytes()));
    attempt!(write(guest, length_to, &size(bytes.len()).to_le_bytes()));
    SUCCESS
}

fn log(guest: &mut Guest<'_>, level: u32, text: Slice) -> CallResult {
    let Some(level) = LogLevel::from_number(level) else { return Ok(Err(Status::BadArgument)) };
    let text = attempt!(bytes(guest, text));
    guest.data().log(level, String::from_utf8_lossy(&text));
    SUCCESS
}

fn get_log_level(guest: &mut Guest<'_>, to: u32) -> CallResult {
    let level = guest.data().process.borrow().settings.log_level as u32;
    Ok(write(guest, to, &level.to_le_bytes()))
}

/// Returns the wall-clock time in nanoseconds since the Unix epoch.
pub(crate) fn nanoseconds(guest: &Guest<'_>) -> u64 {
    let wall = guest.data().process.borrow().wall;
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn get_current_time(guest: &mut Guest<'_>, to: u32) -> CallResult {
    let now = nanoseconds(guest);
    Ok(write(guest, to, &now.to_le_bytes()))
}

fn set_tick_period(guest: &mut Guest<'_>, milliseconds: u32) -> CallResult {
    let state = guest.data_mut();
    state.tick_period = Duration::from_millis(u64::from(milliseconds));
    state.tick_at = (milliseconds > 0).then(|| state.process.borrow().now + state.tick_period);
    SUCCESS
}

fn get_property(guest: &mut Guest<'_>, path: Slice, to: Slice) -> CallResult {
    let path = attempt!(bytes(guest, path));
    let state = guest.data();
    let stream = state.stream().cloned();
    let stream = stream.as_ref().map(|stream| stream.borrow());
    let value = properties::read(&state.process.borrow().settings, stream.as_deref(), &path);
    drop(stream);
    return_bytes(guest, &attempt!(value), to)
}

fn set_property(guest: &mut Guest<'_>, path: Slice, value: Slice) -> CallResult {
    let (path, value) = (attempt!(bytes(guest, path)), attempt!(bytes(guest, value)));
    let Some(stream) = guest.data().stream() else { return Ok(Err(Status::NotFound)) };
    let state = &mut stream.borrow_mut().filter_state;
    state.retain(|(existing, _)| *existing != path);
    state.push((path, value));
    SUCCESS
}

/// Finds no foreign function.
fn call_foreign_function(guest: &mut Guest<'_>, name: Slice) -> CallResult {
    attempt!(bytes(guest, name));
    Ok(Err(Status::NotFound))
}

/// Returns the content of a buffer (`proxy_buffer_type_t`).
fn buffer(guest: &Guest<'_>, kind: u32) -> std::result::Result<Vec<u8>, Status> {
    let state = guest.data();
    match kind {
        4 => state.response.as_ref().map(|response| response.body.clone()).ok_or(Status::NotFound),
        6 => Ok(state.process.borrow().settings.vm_configuration.clone()),
        7 if state.configuring => Ok(state.process.borrow().settings.configuration.clone()),
        0..=8 => Err(Status::NotFound),
        _ => Err(Status::BadArgument),
    }
}

fn get_buffer_bytes(guest: &mut Guest<'_>, kind: u32, start: u32, length: u32, to: Slice) -> CallResult {
    let buffer = attempt!(buffer(guest, kind));
    if start.checked_add(length).is_none() {
        return Ok(Err(Status::BadArgument));
    }
    let start = (start as usize).min(buffer.len());
    let end = start.saturating_add(length as usize).min(buffer.len());
    // For an empty result Envoy writes neither pointer nor length.
    match buffer.get(start..end) {
        Some(part) if !part.is_empty() => return_bytes(guest, part, to),
        _ => SUCCESS,
    }
}

/// Reads a header map (`proxy_map_type_t`).
fn map<T>(guest: &Guest<'_>, kind: u32, read: impl FnOnce(&Headers) -> T) -> std::result::Result<T, Status> {
    let state = guest.data();
    match kind {
        0 => {
            let stream = state.stream().ok_or(Status::BadArgument)?.borrow();
            if stream.headers_accessible { Ok(read(&stream.request.headers)) } else { Err(Status::BadArgument) }
        }
        6 => state.response.as_ref().map(|response| read(&response.headers)).ok_or(Status::BadArgument),
        _ => Err(Status::BadArgument),
    }
}

/// Changes the request's headers. No other header map can be changed.
fn change(guest: &Guest<'_>, kind: u32, change: impl FnOnce(&mut Record)) -> CallResult {
    let stream = match guest.data().stream() {
        Some(stream) if kind == 0 => stream,
        _ => return Ok(Err(Status::BadArgument)),
    };
    let mut stream = stream.borrow_mut();
    if !stream.headers_accessible {
        return Ok(Err(Status::BadArgument));
    }
    change(&mut stream);
    SUCCESS
}

fn get_header_map_value(guest: &mut Guest<'_>, kind: u32, name: Slice, to: Slice) -> CallResult {
    let name = attempt!(bytes(guest, name));
    let value = attempt!(map(guest, kind, |headers| headers.get(&name).map(<[u8]>::to_vec)));
    match value {
        Some(value) => return_bytes(guest, &value, to),
        None => Ok(Err(Status::NotFound)),
    }
}

fn get_header_map_pairs(guest: &mut Guest<'_>, kind: u32, to: Slice) -> CallResult {
    if kind > 7 {
        return Ok(Err(Status::BadArgument));
    }
    // A missing map counts as empty, and an empty map is encoded as no bytes.
    let encoded = map(guest, kind, |headers| if headers.is_empty() { Vec::new() } else { headers.encode() });
    return_bytes(guest, &encoded.unwrap_or_default(), to)
}

fn add_header_map_value(guest: &mut Guest<'_>, kind: u32, name: Slice, value: Slice) -> CallResult {
    let (name, value) = (attempt!(bytes(guest, name)), attempt!(bytes(guest, value)));
    change(guest, kind, |stream| stream.request.headers.add(name, value))
}

fn replace_header_map_value(guest: &mut Guest<'_>, kind: u32, name: Slice, value: Slice) -> CallResult {
    let (name, value) = (attempt!(bytes(guest, name)), attempt!(bytes(guest, value)));
    change(guest, kind, |stream| stream.request.headers.replace(name, value))
}

fn remove_header_map_value(guest: &mut Guest<'_>, kind: u32, name: Slice) -> CallResult {
    let name = attempt!(bytes(guest, name));
    change(guest, kind, |stream| stream.request.headers.remove(name))
}

fn set_header_map_pairs(guest: &mut Guest<'_>, kind: u32, pairs: Slice) -> CallResult {
    let pairs = attempt!(bytes(guest, pairs));
    change(guest, kind, |stream| stream.request.headers = Headers::decode(&pairs))
}

fn get_shared_data(guest: &mut Guest<'_>, name: Slice, to: Slice, cas_to: u32) -> CallResult {
    let name = attempt!(bytes(guest, name));
    let found = guest.data().process.borrow().shared_data.get(&name);
    let (value, cas) = attempt!(found);
    attempt!(return_bytes(guest, &value, to)?);
    Ok(write(guest, cas_to, &cas.to_le_bytes()))
}

fn set_shared_data(guest: &mut Guest<'_>, name: Slice, value: Slice, cas: u32) -> CallResult {
    let (name, value) = (attempt!(bytes(guest, name)), attempt!(bytes(guest, value)));
    Ok(guest.data().process.borrow_mut().shared_data.set(&name, &value, cas))
}

fn register_shared_queue(guest: &mut Guest<'_>, name: Slice, to: u32) -> CallResult {
    let name = attempt!(bytes(guest, name));
    let reader = Reader { thread: guest.data().thread, context: ROOT };
    let number = guest.data().process.borrow_mut().queues.register(&name, reader);
    Ok(write(guest, to, &number.to_le_bytes()))
}

fn resolve_shared_queue(guest: &mut Guest<'_>, vm_id: Slice, name: Slice, to: u32) -> CallResult {
    let (vm_id, name) = (attempt!(bytes(guest, vm_id)), attempt!(bytes(guest, name)));
    let number = {
        let process = guest.data().process.borrow();
        let own = vm_id.is_empty() || vm_id == process.settings.vm_id.as_bytes();
        if own { process.queues.resolve(&name) } else { Err(Status::NotFound) }
    };
    Ok(write(guest, to, &attempt!(number).to_le_bytes()))
}

fn enqueue_shared_queue(guest: &mut Guest<'_>, queue: u32, message: Slice) -> CallResult {
    let message = attempt!(bytes(guest, message));
    Ok(guest.data().process.borrow_mut().enqueue(queue, &message))
}

fn dequeue_shared_queue(guest: &mut Guest<'_>, queue: u32, to: Slice) -> CallResult {
    let message = guest.data().process.borrow_mut().queues.dequeue(queue);
    return_bytes(guest, &attempt!(message), to)
}

fn continue_stream(guest: &mut Guest<'_>, kind: u32) -> CallResult {
    match (kind, guest.data().stream().cloned()) {
        (0, Some(stream)) => {
            // The stream continues when the guest returns, but its headers are inaccessible at once.
            stream.borrow_mut().headers_accessible = false;
            guest.data_mut().deferred.push((stream, Deferred::Continue));
        }
        // Streams of this host have no response, and a root context has no stream.
        (0 | 1, _) => {}
        _ => return Ok(Err(Status::BadArgument)),
    }
    SUCCESS
}

fn close_stream(guest: &mut Guest<'_>, kind: u32) -> CallResult {
    match (kind, guest.data().stream().cloned()) {
        (0 | 1, Some(stream)) => guest.data_mut().deferred.push((stream, Deferred::Reset)),
        (0..=3, _) => {}
        _ => return Ok(Err(Status::BadArgument)),
    }
    SUCCESS
}

fn send_local_response(guest: &mut Guest<'_>, status: u32, body: Slice, headers: Slice) -> CallResult {
    let (body, headers) = (attempt!(bytes(guest, body)), attempt!(bytes(guest, headers)));
    let status = u16::try_from(status).unwrap_or(500);
    let reply = Reply { status, headers: Headers::decode(&headers), body };
    if let Some(stream) = guest.data().stream().cloned() {
        guest.data_mut().deferred.push((stream, Deferred::Reply(reply)));
    }
    SUCCESS
}

fn http_call(
    guest: &mut Guest<'_>,
    cluster: Slice,
    headers: Slice,
    body: Slice,
    trailers: Slice,
    timeout: u32,
    to: u32,
) -> CallResult {
    let (cluster, headers) = (attempt!(bytes(guest, cluster)), attempt!(bytes(guest, headers)));
    let (body, _) = (attempt!(bytes(guest, body)), attempt!(bytes(guest, trailers)));
    attempt!(write(guest, to, &0_u32.to_le_bytes()));
    if i32::try_from(timeout).is_err() {
        return Ok(Err(Status::BadArgument));
    }
    let timeout = (timeout > 0).then(|| Duration::from_millis(u64::from(timeout)));
    let state = guest.data_mut();
    let token = state.next_call;
    // The call belongs to the root context, whichever context makes it.
    let from = (state.thread, state.generation, token);
    let called = state.process.borrow_mut().call(from, &cluster, Headers::decode(&headers), body, timeout);
    attempt!(called);
    state.next_call += 1;
    Ok(write(guest, to, &token.to_le_bytes()))
}

fn get_status(guest: &mut Guest<'_>, code_to: u32, to: Slice) -> CallResult {
    attempt!(write(guest, code_to, &0_u32.to_le_bytes()));
    return_bytes(guest, b"", to)
}

fn set_effective_context(guest: &mut Guest<'_>, context: u32) -> CallResult {
    let state = guest.data_mut();
    if !state.has_context(context) {
        return Ok(Err(Status::BadArgument));
    }
    state.effective = Some(context);
    SUCCESS
}

fn define_metric(guest: &mut Guest<'_>, kind: u32, name: Slice, to: u32) -> CallResult {
    let name = String::from_utf8_lossy(&attempt!(bytes(guest, name))).into_owned();
    let state = guest.data_mut();
    let number = state.process.borrow_mut().metrics.define(&mut state.metrics, kind, name);
    Ok(write(guest, to, &attempt!(number).to_le_bytes()))
}

fn increment_metric(guest: &mut Guest<'_>, metric: u32, offset: i64) -> CallResult {
    let state = guest.data();
    Ok(state.process.borrow_mut().metrics.increment(&state.metrics, metric, offset))
}

fn record_metric(guest: &mut Guest<'_>, metric: u32, value: u64) -> CallResult {
    let state = guest.data();
    Ok(state.process.borrow_mut().metrics.record(&state.metrics, metric, value))
}

fn get_metric(guest: &mut Guest<'_>, metric: u32, to: u32) -> CallResult {
    let state = guest.data();
    let value = state.process.borrow_mut().metrics.read(&state.metrics, metric);
    Ok(write(guest, to, &attempt!(value).to_le_bytes()))
}

/// Defines `env.proxy_…` functions, each behind [`guarded`].
macro_rules! define {
    ($linker:expr, $($name:literal: |$guest:ident, $($argument:ident: $type:ty),*| $call:expr;)*) => {
        $($linker.func_wrap("env", $name, |mut guest: Guest<'_>, $($argument: $type),*| {
            guarded(&mut guest, $name, |$guest| $call)
        })?;)*
    };
}

/// Registers all host calls with the linker.
pub(crate) fn link(linker: &mut Linker<State>) -> Result<()> {
    define! { linker,
        "proxy_log": |guest, level: u32, p: u32, n: u32| log(guest, level, (p, n));
        "proxy_get_log_level": |guest, to: u32| get_log_level(guest, to);
        "proxy_get_current_time_nanoseconds": |guest, to: u32| get_current_time(guest, to);
        "proxy_set_tick_period_milliseconds": |guest, period: u32| set_tick_period(guest, period);
        "proxy_get_property": |guest, p: u32, n: u32, vp: u32, vn: u32| get_property(guest, (p, n), (vp, vn));
        "proxy_set_property": |guest, p: u32, n: u32, vp: u32, vn: u32| set_property(guest, (p, n), (vp, vn));
        "proxy_get_buffer_bytes": |guest, kind: u32, start: u32, length: u32, p: u32, n: u32|
            get_buffer_bytes(guest, kind, start, length, (p, n));
        "proxy_set_buffer_bytes": |guest, kind: u32, _start: u32, _length: u32, _p: u32, _n: u32|
            Ok(buffer(guest, kind).and(Err(Status::BadArgument)));
        "proxy_get_header_map_pairs": |guest, kind: u32, p: u32, n: u32| get_header_map_pairs(guest, kind, (p, n));
        "proxy_set_header_map_pairs": |guest, kind: u32, p: u32, n: u32| set_header_map_pairs(guest, kind, (p, n));
        "proxy_get_header_map_value": |guest, kind: u32, p: u32, n: u32, vp: u32, vn: u32|
            get_header_map_value(guest, kind, (p, n), (vp, vn));
        "proxy_add_header_map_value": |guest, kind: u32, p: u32, n: u32, vp: u32, vn: u32|
            add_header_map_value(guest, kind, (p, n), (vp, vn));
        "proxy_replace_header_map_value": |guest, kind: u32, p: u32, n: u32, vp: u32, vn: u32|
            replace_header_map_value(guest, kind, (p, n), (vp, vn));
        "proxy_remove_header_map_value": |guest, kind: u32, p: u32, n: u32|
            remove_header_map_value(guest, kind, (p, n));
        "proxy_get_shared_data": |guest, p: u32, n: u32, vp: u32, vn: u32, cas: u32|
            get_shared_data(guest, (p, n), (vp, vn), cas);
        "proxy_set_shared_data": |guest, p: u32, n: u32, vp: u32, vn: u32, cas: u32|
            set_shared_data(guest, (p, n), (vp, vn), cas);
        "proxy_register_shared_queue": |guest, p: u32, n: u32, to: u32| register_shared_queue(guest, (p, n), to);
        "proxy_resolve_shared_queue": |guest, ip: u32, il: u32, p: u32, n: u32, to: u32|
            resolve_shared_queue(guest, (ip, il), (p, n), to);
        "proxy_dequeue_shared_queue": |guest, queue: u32, p: u32, n: u32| dequeue_shared_queue(guest, queue, (p, n));
        "proxy_enqueue_shared_queue": |guest, queue: u32, p: u32, n: u32| enqueue_shared_queue(guest, queue, (p, n));
        "proxy_continue_stream": |guest, kind: u32| continue_stream(guest, kind);
        "proxy_close_stream": |guest, kind: u32| close_stream(guest, kind);
        "proxy_send_local_response":
            |guest, status: u32, _dp: u32, _dn: u32, p: u32, n: u32, hp: u32, hn: u32, _grpc: u32|
            send_local_response(guest, status, (p, n), (hp, hn));
        "proxy_http_call":
            |guest, cp: u32, cn: u32, hp: u32, hn: u32, p: u32, n: u32, tp: u32, tn: u32, timeout: u32, to: u32|
            http_call(guest, (cp, cn), (hp, hn), (p, n), (tp, tn), timeout, to);
        "proxy_get_status": |guest, code: u32, p: u32, n: u32| get_status(guest, code, (p, n));
        "proxy_set_effective_context": |guest, context: u32| set_effective_context(guest, context);
        "proxy_define_metric": |guest, kind: u32, p: u32, n: u32, to: u32| define_metric(guest, kind, (p, n), to);
        "proxy_increment_metric": |guest, metric: u32, offset: i64| increment_metric(guest, metric, offset);
        "proxy_record_metric": |guest, metric: u32, value: u64| record_metric(guest, metric, value);
        "proxy_get_metric": |guest, metric: u32, to: u32| get_metric(guest, metric, to);
        // Contexts of this host never delay their end.
        "proxy_done": |_guest,| Ok(Err(Status::NotFound));
        "proxy_call_foreign_function": |guest, p: u32, n: u32, _ap: u32, _an: u32, _rp: u32, _rn: u32|
            call_foreign_function(guest, (p, n));
        "proxy_grpc_call":
            |_guest, _a: u32, _b: u32, _c: u32, _d: u32, _e: u32, _f: u32, _g: u32, _h: u32, _i: u32, _j: u32, _k: u32, _l: u32|
            bail!("this host does not support gRPC calls");
        "proxy_grpc_stream":
            |_guest, _a: u32, _b: u32, _c: u32, _d: u32, _e: u32, _f: u32, _g: u32, _h: u32, _i: u32|
            bail!("this host does not support gRPC calls");
        "proxy_grpc_send": |_guest, _a: u32, _b: u32, _c: u32, _d: u32| bail!("this host does not support gRPC calls");
        "proxy_grpc_cancel": |_guest, _a: u32| bail!("this host does not support gRPC calls");
        "proxy_grpc_close": |_guest, _a: u32| bail!("this host does not support gRPC calls");
    }
    Ok(())
}
