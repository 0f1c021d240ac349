//! The response of a fake, with the faults of its transport.

use std::time::Duration;

/// The response that the transport must send.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
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

impl Response {
    /// Creates a JSON response that must not be cached.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::of_type("application/json; charset=utf-8", status, body)
            .header("cache-control", "no-store, no-cache")
            .header("pragma", "no-cache")
    }

    /// Creates a response with this `Content-Type`.
    pub fn of_type(content_type: &str, status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            body: body.into(),
            delay: Duration::ZERO,
            disconnect: None,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Shows only the body's length, because the body can contain an access token.
impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("delay", &self.delay)
            .field("disconnect", &self.disconnect)
            .finish()
    }
}
