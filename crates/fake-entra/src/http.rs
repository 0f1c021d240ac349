//! The request and response types between a transport and the token endpoint.

use std::time::{Duration, SystemTime};

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

/// The response that the transport must send.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u16,
    /// The headers, without `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The complete body, even when `disconnect` truncates it.
    pub body: Vec<u8>,
    /// The time to wait before the transport sends anything.
    pub delay: Duration,
    /// How the transport must close the connection early; `None` for a normal response.
    pub disconnect: Option<Disconnect>,
}

/// How the transport closes a connection before the response is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    /// Sends a TCP RST instead of a response.
    Reset,
    /// Sends the `Content-Length` of the complete body and half of the body, then closes the connection.
    Truncate,
}

/// Shows only the body's length, because the body can contain an access token.
impl std::fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpResponse")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("delay", &self.delay)
            .field("disconnect", &self.disconnect)
            .finish()
    }
}

impl HttpResponse {
    pub(crate) fn json(status: u16, body: Vec<u8>) -> Self {
        Self::of_type("application/json; charset=utf-8", status, body)
    }

    pub(crate) fn of_type(content_type: &str, status: u16, body: Vec<u8>) -> Self {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            status,
            headers: vec![
                header("content-type", content_type),
                header("cache-control", "no-store, no-cache"),
                header("pragma", "no-cache"),
            ],
            body,
            delay: Duration::ZERO,
            disconnect: None,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Builds an error response in Entra's format.
    pub(crate) fn error(error: &EntraError, client_request_id: Option<&str>, now: SystemTime) -> Self {
        Self::error_with_status(error, error.status(), client_request_id, now)
    }

    /// Builds an error response in Entra's format with a status other than the default of its code.
    pub(crate) fn error_with_status(
        error: &EntraError,
        status: u16,
        client_request_id: Option<&str>,
        now: SystemTime,
    ) -> Self {
        let trace_id = unique_guid();
        let correlation_id = client_request_id.map_or_else(unique_guid, str::to_owned);
        let body = error.body(&Trace {
            trace_id: &trace_id,
            correlation_id: &correlation_id,
            timestamp: &timestamp(unix_seconds(now)),
        });
        Self::json(status, body).header("x-ms-request-id", &trace_id)
    }
}
