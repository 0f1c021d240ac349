//! Bindings to the host's functions, and the memory that the host writes results into. This is the only file with `unsafe`.
//!
//! Every wrapper passes pointers and sizes of slices that live until the call has returned, and the host only reads from them.
//! The host writes results into memory that it has allocated through [`allocate`]; the wrapper takes ownership of all of it.

use std::alloc::{Layout, alloc};
use std::ptr::{NonNull, null, null_mut};

use crate::status::Status;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, text: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, max_size: usize, to: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        to: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, to: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, to: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, size: usize) -> u32;
    fn proxy_get_shared_data(
        name: *const u8,
        name_size: usize,
        to: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(name: *const u8, name_size: usize, value: *const u8, size: usize, cas: u32) -> u32;
    fn proxy_register_shared_queue(name: *const u8, name_size: usize, queue: *mut u32) -> u32;
    fn proxy_enqueue_shared_queue(queue: u32, message: *const u8, size: usize) -> u32;
    fn proxy_dequeue_shared_queue(queue: u32, to: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout: u32,
        call: *mut u32,
    ) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, metric: *mut u32) -> u32;
    fn proxy_increment_metric(metric: u32, by: i64) -> u32;
    fn proxy_record_metric(metric: u32, value: u64) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        arguments: *const u8,
        arguments_size: usize,
        to: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn random_get(to: *mut u8, size: usize) -> u32;
}

unsafe extern "C" {
    /// Initializes libc's state, such as the environment.
    fn __wasm_call_ctors();
}

/// Initializes libc. It is called once, before any other function.
pub(crate) fn initialize_libc() {
    // SAFETY: the linker generates this function, and it is called once.
    unsafe { __wasm_call_ctors() };
}

/// `proxy_on_memory_allocate`: allocates memory for a result of the host. [`Returned::take`] takes ownership of it.
pub fn allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        Ok(_) if size == 0 => NonNull::dangling().as_ptr(),
        // SAFETY: the layout's size is not zero.
        Ok(layout) => unsafe { alloc(layout) },
        Err(_) => null_mut(),
    }
}

/// The pointer and size through which the host returns bytes.
struct Returned {
    data: *mut u8,
    size: usize,
}

impl Returned {
    const fn none() -> Self {
        Self { data: null_mut(), size: 0 }
    }

    /// Takes ownership of the bytes. The host leaves the pointer null when there are none.
    fn take(self) -> Vec<u8> {
        if self.data.is_null() {
            return Vec::new();
        }
        // SAFETY: the host allocated this memory through `allocate` with exactly this size, wrote all of it, and keeps no pointer.
        unsafe { Vec::from_raw_parts(self.data, self.size, self.size) }
    }
}

/// Calls a host function that returns bytes through two out-parameters.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>, Status> {
    let mut bytes = Returned::none();
    Status::check(call(&raw mut bytes.data, &raw mut bytes.size))?;
    Ok(bytes.take())
}

/// Calls a host function that returns a number through an out-parameter.
fn number<T: Default>(call: impl FnOnce(*mut T) -> u32) -> Result<T, Status> {
    let mut number = T::default();
    Status::check(call(&raw mut number))?;
    Ok(number)
}

pub(crate) fn log(level: u32, text: &str) -> Result<(), Status> {
    // SAFETY: see the module's documentation.
    Status::check(unsafe { proxy_log(level, text.as_ptr(), text.len()) })
}

pub(crate) fn current_time() -> Result<u64, Status> {
    // SAFETY: see the module's documentation.
    number(|time| unsafe { proxy_get_current_time_nanoseconds(time) })
}

pub(crate) fn random() -> Result<u64, Status> {
    let mut bytes = [0; 8];
    // SAFETY: the host writes exactly this number of bytes.
    Status::check(unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) })?;
    Ok(u64::from_le_bytes(bytes))
}

pub(crate) fn set_tick_period(milliseconds: u32) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_set_tick_period_milliseconds(milliseconds) })
}

pub(crate) fn buffer(buffer: u32, start: usize, max_size: usize) -> Result<Vec<u8>, Status> {
    // SAFETY: see the module's documentation.
    returned(|to, size| unsafe { proxy_get_buffer_bytes(buffer, start, max_size, to, size) })
}

pub(crate) fn header(map: u32, name: &str) -> Result<Vec<u8>, Status> {
    // SAFETY: see the module's documentation.
    returned(|to, size| unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), to, size) })
}

pub(crate) fn headers(map: u32) -> Result<Vec<u8>, Status> {
    // SAFETY: see the module's documentation.
    returned(|to, size| unsafe { proxy_get_header_map_pairs(map, to, size) })
}

pub(crate) fn replace_header(map: u32, name: &str, value: &[u8]) -> Result<(), Status> {
    // SAFETY: see the module's documentation.
    Status::check(unsafe {
        proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

pub(crate) fn remove_header(map: u32, name: &str) -> Result<(), Status> {
    // SAFETY: see the module's documentation.
    Status::check(unsafe { proxy_remove_header_map_value(map, name.as_ptr(), name.len()) })
}

pub(crate) fn property(path: &[u8]) -> Result<Vec<u8>, Status> {
    // SAFETY: see the module's documentation.
    returned(|to, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), to, size) })
}

pub(crate) fn set_property(path: &[u8], value: &[u8]) -> Result<(), Status> {
    // SAFETY: see the module's documentation.
    Status::check(unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

pub(crate) fn shared_data(name: &str) -> Result<(Vec<u8>, u32), Status> {
    let mut cas = 0;
    // SAFETY: see the module's documentation.
    let value =
        returned(|to, size| unsafe { proxy_get_shared_data(name.as_ptr(), name.len(), to, size, &raw mut cas) })?;
    Ok((value, cas))
}

pub(crate) fn set_shared_data(name: &str, value: &[u8], cas: u32) -> Result<(), Status> {
    // SAFETY: see the module's documentation.
    Status::check(unsafe { proxy_set_shared_data(name.as_ptr(), name.len(), value.as_ptr(), value.len(), cas) })
}

pub(crate) fn register_shared_queue(name: &str) -> Result<u32, Status> {
    // SAFETY: see the module's documentation.
    number(|queue| unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), queue) })
}

pub(crate) fn enqueue_shared_queue(queue: u32, message: &[u8]) -> Result<(), Status> {
    // SAFETY: see the module's documentation.
    Status::check(unsafe { proxy_enqueue_shared_queue(queue, message.as_ptr(), message.len()) })
}

pub(crate) fn dequeue_shared_queue(queue: u32) -> Result<Vec<u8>, Status> {
    // SAFETY: see the module's documentation.
    returned(|to, size| unsafe { proxy_dequeue_shared_queue(queue, to, size) })
}

pub(crate) fn continue_stream(stream: u32) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_continue_stream(stream) })
}

pub(crate) fn send_local_response(
    status: u32,
    details: &str,
    body: &[u8],
    headers: &[u8],
    grpc_status: i32,
) -> Result<(), Status> {
    // Absent details are a null pointer, not an empty text.
    let details_data = if details.is_empty() { null() } else { details.as_ptr() };
    // SAFETY: see the module's documentation.
    Status::check(unsafe {
        proxy_send_local_response(
            status,
            details_data,
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status,
        )
    })
}

pub(crate) fn http_call(
    cluster: &str,
    headers: &[u8],
    body: &[u8],
    trailers: &[u8],
    timeout: u32,
) -> Result<u32, Status> {
    // SAFETY: see the module's documentation.
    number(|call| unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            timeout,
            call,
        )
    })
}

pub(crate) fn set_effective_context(context: u32) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_set_effective_context(context) })
}

pub(crate) fn define_metric(kind: u32, name: &str) -> Result<u32, Status> {
    // SAFETY: see the module's documentation.
    number(|metric| unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), metric) })
}

pub(crate) fn increment_metric(metric: u32, by: i64) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_increment_metric(metric, by) })
}

pub(crate) fn record_metric(metric: u32, value: u64) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_record_metric(metric, value) })
}

pub(crate) fn call_foreign_function(name: &str, arguments: &[u8]) -> Result<Vec<u8>, Status> {
    // SAFETY: see the module's documentation.
    returned(|to, size| unsafe {
        proxy_call_foreign_function(name.as_ptr(), name.len(), arguments.as_ptr(), arguments.len(), to, size)
    })
}
