//! What a transport gives to the token endpoint and what it gets back.

use std::time::{Duration, SystemTime};

use crate::catalogue::{Refusal, Trace};
use crate::ids::{timestamp, unique_guid, unix_seconds};

/// A request to the token endpoint.
#[derive(Clone, Copy)]
pub struct TokenRequest<'a> {
    /// The tenant in the path.
    pub tenant_id: &'a str,
    /// The body, `application/x-www-form-urlencoded`.
    pub form: &'a [u8],
    /// Scheme and host that were asked, without a slash at the end: the cloud, and the `iss` of v2 tokens.
    pub authority: &'a str,
    /// The `client-request-id` header, which becomes the correlation id.
    pub client_request_id: Option<&'a str>,
    /// When it is.
    pub now: SystemTime,
}

/// What the transport is to send.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header fields, without `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The body, whole even when it is to be cut.
    pub body: Vec<u8>,
    /// How long to wait before sending anything.
    pub delay: Duration,
    /// How to break the connection, if at all.
    pub cut: Option<Cut>,
}

/// How the transport breaks a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// TCP RST in place of the answer.
    Reset,
    /// `Content-Length` of the whole body, half of the body, and then the end of the connection.
    Truncate,
}

/// The body may hold an access token, so it shows its length only.
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("delay", &self.delay)
            .field("cut", &self.cut)
            .finish()
    }
}

impl Answer {
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
            cut: None,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A refusal in Entra's shape.
    pub(crate) fn refusal(refusal: &Refusal, client_request_id: Option<&str>, now: SystemTime) -> Self {
        Self::refusal_with_status(refusal, refusal.status(), client_request_id, now)
    }

    /// The same with another status than the code's own.
    pub(crate) fn refusal_with_status(
        refusal: &Refusal,
        status: u16,
        client_request_id: Option<&str>,
        now: SystemTime,
    ) -> Self {
        let trace_id = unique_guid();
        let correlation_id = client_request_id.map_or_else(unique_guid, str::to_owned);
        let body = refusal.body(&Trace {
            trace_id: &trace_id,
            correlation_id: &correlation_id,
            timestamp: &timestamp(unix_seconds(now)),
        });
        Self::json(status, body).header("x-ms-request-id", &trace_id)
    }
}
