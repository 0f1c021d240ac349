//! One request on its way through the filter.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::headers::Headers;
use crate::log::Thread;

/// A request as the filter first sees it.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) headers: Headers,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) end_of_stream: bool,
}

impl Request {
    /// A request without a body, to `127.0.0.1:15001`.
    pub fn new(headers: Headers) -> Self {
        Self {
            headers,
            source: "127.0.0.1:50000".to_owned(),
            destination: "127.0.0.1:15001".to_owned(),
            end_of_stream: true,
        }
    }

    /// The address and port to which the client connected.
    #[must_use]
    pub fn to(mut self, destination: &str) -> Self {
        destination.clone_into(&mut self.destination);
        self
    }

    /// A body follows, of which Envoy has not seen the end.
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

/// What has become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The filter holds it.
    Paused,
    /// It went on to an upstream.
    Passed(Passed),
    /// It was answered without an upstream.
    Replied(Reply),
    /// Its client was cut off, or left.
    Reset,
}

/// What went on to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The request's headers as the filter left them.
    pub headers: Headers,
    /// Where these headers are routed.
    pub cluster: Option<String>,
}

/// What the client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Without `:status`.
    pub headers: Headers,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(status: u16, body: &str) -> Self {
        let headers = if body.is_empty() { Headers::default() } else { Headers::new([("content-type", "text/plain")]) };
        Self { status, headers, body: body.as_bytes().to_vec() }
    }
}

/// A stream as host and VM share it.
pub(crate) type Shared = Rc<RefCell<Record>>;

pub(crate) struct Record {
    pub(crate) request: Request,
    pub(crate) outcome: Outcome,
    /// Whether the guest can still reach the request's headers: until it lets the request go on.
    pub(crate) headers_in_reach: bool,
    /// What the guest set with `set_property`.
    pub(crate) state: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where it lives, until it ends.
    pub(crate) place: Option<Place>,
    /// When it ends for want of movement.
    pub(crate) idle_at: Option<Duration>,
}

/// The VM and the context that a stream lives in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) thread: Thread,
    pub(crate) generation: u64,
    pub(crate) context: u32,
}

impl Record {
    pub(crate) fn new(request: Request) -> Self {
        Self {
            request,
            outcome: Outcome::Paused,
            headers_in_reach: true,
            state: Vec::new(),
            place: None,
            idle_at: None,
        }
    }

    /// Goes on to the upstream, unless it has been decided otherwise.
    pub(crate) fn pass(&mut self, cluster: Option<String>) {
        if self.outcome == Outcome::Paused {
            self.headers_in_reach = false;
            self.outcome = Outcome::Passed(Passed { headers: self.request.headers.clone(), cluster });
        }
    }

    /// Is answered here: the first answer holds. A request that went on already is answered too, as long as its
    /// upstream has not.
    pub(crate) fn reply(&mut self, reply: Reply) {
        if matches!(self.outcome, Outcome::Paused | Outcome::Passed(_)) {
            self.outcome = Outcome::Replied(as_grpc(&self.request.headers, reply));
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.outcome, Outcome::Replied(_) | Outcome::Reset)
    }
}

/// A gRPC client gets every local reply as status 200, with the body in a header.
fn as_grpc(request: &Headers, reply: Reply) -> Reply {
    let content_type = request.get("content-type").unwrap_or_default();
    let is_grpc = content_type == b"application/grpc" || content_type.starts_with(b"application/grpc+");
    if !is_grpc {
        return reply;
    }
    // doc/http-grpc-status-mapping.md of gRPC.
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
