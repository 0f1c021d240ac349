//! HTTP calls that a guest makes to clusters, and their responses.

use std::time::Duration;

use crate::headers::Headers;
use crate::log::Thread;

/// How a cluster handles HTTP calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// The test responds.
    Responds,
    /// The test responds to workers. The main thread gets a 503, because it cannot connect to an internal listener.
    InternalListener,
    /// The cluster has no hosts: the call fails at once.
    NoHosts,
    /// The connection is refused: a 503 follows in a later event.
    RefusesConnections,
}

/// An HTTP call that waits for its response.
#[derive(Clone, Debug)]
pub struct Callout {
    pub(crate) number: u64,
    /// The thread that made the call.
    pub thread: Thread,
    /// The cluster that is called.
    pub cluster: String,
    /// The request's headers, including `:method`, `:path` and `:authority`.
    pub headers: Headers,
    /// The request's body.
    pub body: Vec<u8>,
    /// The time after which the guest gets a 504. `None` means that the call never times out.
    pub timeout: Option<Duration>,
}

/// The response to an HTTP call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The headers, beginning with `:status`.
    pub headers: Headers,
    /// The complete body.
    pub body: Vec<u8>,
}

impl Response {
    /// Creates a response with a status and a body.
    pub fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self { headers: Headers::new([(":status", status.to_string())]), body: body.as_ref().to_vec() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.add(name, value);
        self
    }

    /// Creates Envoy's response for an upstream that cannot be reached or that closes the connection before it responds.
    pub fn unreachable() -> Self {
        let text = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
        Self::new(503, text).header("content-type", "text/plain")
    }

    pub(crate) fn timed_out() -> Self {
        Self::new(504, "upstream request timeout").header("content-type", "text/plain")
    }
}

/// A call in progress.
pub(crate) struct Pending {
    pub(crate) callout: Callout,
    pub(crate) generation: u64,
    /// The guest's id for the call.
    pub(crate) token: u32,
    pub(crate) deadline: Option<Duration>,
    /// When the response arrives, and the response. `None` as the response means that it is aborted: the guest gets neither headers
    /// nor a body.
    pub(crate) response: Option<(Duration, Option<Response>)>,
}
