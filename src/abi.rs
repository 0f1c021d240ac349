//! The one host call that the SDK makes without all of its arguments.

use std::ptr::null;

use entra_exchange_core::http::Reply;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
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
}

/// The host derives the gRPC status from the HTTP status.
const NO_GRPC_STATUS: i32 = -1;

/// Answers the request in effect. `details` become Envoy's response code details (`%RESPONSE_CODE_DETAILS%`).
pub(crate) fn send_local_response(reply: &Reply, details: Option<&str>) {
    let headers = pairs(&reply.headers);
    let (data, size) = details.map_or((null(), 0), |details| (details.as_ptr(), details.len()));
    // SAFETY: each pointer and size are those of a slice that lives until the call has returned; the host only reads them
    // (proxy-wasm ABI 0.2.1, `proxy_send_local_response`). It fails only where there is no stream to answer.
    let _ = unsafe {
        proxy_send_local_response(
            u32::from(reply.status),
            data,
            size,
            reply.body.as_ptr(),
            reply.body.len(),
            headers.as_ptr(),
            headers.len(),
            NO_GRPC_STATUS,
        )
    };
}

/// A header map as the ABI has it: the number of pairs, the sizes of each name and value, then names and values, each with a
/// NUL behind it. Integers are 32 bits, the least byte first.
fn pairs(headers: &[(&'static str, String)]) -> Vec<u8> {
    let size = |length: usize| u32::try_from(length).unwrap_or_default().to_le_bytes();
    let mut bytes = size(headers.len()).to_vec();
    for (name, value) in headers {
        bytes.extend([size(name.len()), size(value.len())].concat());
    }
    for text in headers.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]) {
        bytes.extend_from_slice(text);
        bytes.push(0);
    }
    bytes
}
