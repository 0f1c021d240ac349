//! A request, and its state while the filter handles it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::headers::Headers;
use crate::log::Thread;

/// A request before the filter runs.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) headers: Headers,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) end_of_stream: bool,
}

impl Request {
    /// Creates a request without a body to `127.0.0.1:15001`.
    pub fn new(headers: Headers) -> Self {
        Self {
            headers,
            source: "127.0.0.1:50000".to_owned(),
            destination: "127.0.0.1:15001".to_owned(),
            end_of_stream: true,
        }
    }

    /// Sets the address and port to which the client connected.
    #[must_use]
    pub fn to(mut self, destination: &str) -> Self {
        destination.clone_into(&mut self.destination);
        self
    }

    /// Adds a body whose end Envoy has not received yet.
    #[must_use]
    pub fn with_body(mut self) -> Self {
        self.end_of_stream = false;
        self
    }
}

impl From<Headers> for Request {
    fn from(headers: Headers) -> Self {
        Self::new(headers)
    }
}

/// The state of a request's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// The filter has paused the request.
    Paused,
    /// The request was forwarded to an upstream.
    Forwarded(Forwarded),
    /// The client got a local reply.
    LocalReply(Reply),
    /// The stream was reset by the filter or the client.
    Reset,
}

/// A request that was forwarded to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The request's headers after the filter ran.
    pub headers: Headers,
    /// The cluster that the route selects for these headers.
    pub cluster: Option<String>,
}

/// A local reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers without `:status`.
    pub headers: Headers,
    /// The complete body.
    pub body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(status: u16, body: &str) -> Self {
        let headers = if body.is_empty() { Headers::default() } else { Headers::new([("content-type", "text/plain")]) };
        Self { status, headers, body: body.as_bytes().to_vec() }
    }
}

/// A stream that the host and a VM share.
pub(crate) type Shared = Rc<RefCell<Record>>;

pub(crate) struct Record {
    pub(crate) request: Request,
    pub(crate) state: StreamState,
    /// Whether the guest can access the request's headers, which ends when it continues the request.
    pub(crate) headers_accessible: bool,
    /// The properties that the guest set with `set_property`.
    pub(crate) filter_state: Vec<(Vec<u8>, Vec<u8>)>,
    /// The VM and context of the stream until it ends.
    pub(crate) location: Option<Location>,
    /// The time of its idle timeout.
    pub(crate) idle_at: Option<Duration>,
}

/// The VM and the context of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) thread: Thread,
    pub(crate) generation: u64,
    pub(crate) context: u32,
}

impl Record {
    pub(crate) fn new(request: Request) -> Self {
        Self {
            request,
            state: StreamState::Paused,
            headers_accessible: true,
            filter_state: Vec::new(),
            location: None,
            idle_at: None,
        }
    }

    /// Forwards the request to the upstream, unless it is no longer paused.
    pub(crate) fn forward(&mut self, cluster: Option<String>) {
        if self.state == StreamState::Paused {
            self.headers_accessible = false;
            self.state = StreamState::Forwarded(Forwarded { headers: self.request.headers.clone(), cluster });
        }
    }

    /// Sends a local reply; only the first one takes effect. It also replaces the upstream's response to a request that was
    /// forwarded already.
    pub(crate) fn reply(&mut self, reply: Reply) {
        if matches!(self.state, StreamState::Paused | StreamState::Forwarded(_)) {
            self.state = StreamState::LocalReply(reply.for_client(&self.request.headers));
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, StreamState::LocalReply(_) | StreamState::Reset)
    }
}

impl Reply {
    /// Converts a local reply as Envoy does for a gRPC client: status 200, with the body in the header `grpc-message`. The reply to any
    /// other request stays as it is.
    #[must_use]
    pub fn for_client(self, request: &Headers) -> Self {
        as_grpc(request, self)
    }
}

fn as_grpc(request: &Headers, reply: Reply) -> Reply {
    let content_type = request.get("content-type").unwrap_or_default();
    let is_grpc = content_type == b"application/grpc" || content_type.starts_with(b"application/grpc+");
    if !is_grpc {
        return reply;
    }
    // The mapping of gRPC's doc/http-grpc-status-mapping.md.
    let status = match reply.status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502..=504 => "14",
        _ => "2",
    };
    let mut headers = reply.headers;
    headers.replace("content-type", "application/grpc");
    headers.add("grpc-status", status);
    headers.add("grpc-message", &reply.body);
    Reply { status: 200, headers, body: Vec::new() }
}
