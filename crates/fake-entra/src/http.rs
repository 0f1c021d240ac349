//! The request to the token endpoint and its error responses.

use std::time::SystemTime;

use fake_http::Response;

use crate::catalogue::{EntraError, Trace};
use crate::ids::{timestamp, unique_guid, unix_seconds};

/// A request to the token endpoint.
#[derive(Clone, Copy)]
pub struct TokenRequest<'a> {
    /// The tenant id in the path.
    pub tenant_id: &'a str,
    /// The body, `application/x-www-form-urlencoded`.
    pub form: &'a [u8],
    /// The scheme and host of the request's authority, without a trailing slash. It selects the cloud and the `iss` of v2 tokens.
    pub authority: &'a str,
    /// The `client-request-id` header; the response repeats it as the correlation id.
    pub client_request_id: Option<&'a str>,
    /// The current time.
    pub now: SystemTime,
}

/// Builds an error response in Entra's format.
pub(crate) fn error(error: &EntraError, client_request_id: Option<&str>, now: SystemTime) -> Response {
    error_with_status(error, error.status(), client_request_id, now)
}

/// Builds an error response in Entra's format with a status other than the default of its code.
pub(crate) fn error_with_status(
    error: &EntraError,
    status: u16,
    client_request_id: Option<&str>,
    now: SystemTime,
) -> Response {
    let trace_id = unique_guid();
    let correlation_id = client_request_id.map_or_else(unique_guid, str::to_owned);
    let body = error.body(&Trace {
        trace_id: &trace_id,
        correlation_id: &correlation_id,
        timestamp: &timestamp(unix_seconds(now)),
    });
    Response::json(status, body).header("x-ms-request-id", &trace_id)
}
