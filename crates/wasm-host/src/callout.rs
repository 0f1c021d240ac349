//! Calls that a guest makes: to which cluster, and what comes back.

use std::time::Duration;

use crate::headers::Headers;
use crate::log::Thread;

/// How a cluster takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// The test answers.
    Answers,
    /// The test answers workers; the main thread gets a 503, for no connection can be made from there.
    InternalListener,
    /// It has no hosts: the call fails at once.
    NoHosts,
    /// Nobody listens: a 503 comes on a later turn.
    Refuses,
}

/// A call that waits for its answer.
#[derive(Clone, Debug)]
pub struct Callout {
    pub(crate) number: u64,
    /// Who made it.
    pub thread: Thread,
    /// Where it goes.
    pub cluster: String,
    /// Its headers, `:method`, `:path` and `:authority` among them.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
    /// After this it is answered with a 504. `None` is never.
    pub timeout: Option<Duration>,
}

/// An answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// With `:status` first.
    pub headers: Headers,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// A status and a body.
    pub fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self { headers: Headers::new([(":status", status.to_string())]), body: body.as_ref().to_vec() }
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.add(name, value);
        self
    }

    /// What Envoy answers for an upstream that cannot be reached or hangs up before it has answered.
    pub fn unreachable() -> Self {
        let text = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
        Self::new(503, text).header("content-type", "text/plain")
    }

    pub(crate) fn timed_out() -> Self {
        Self::new(504, "upstream request timeout").header("content-type", "text/plain")
    }
}

/// A call on its way.
pub(crate) struct Pending {
    pub(crate) callout: Callout,
    pub(crate) generation: u64,
    /// The guest's number for it.
    pub(crate) token: u32,
    pub(crate) deadline: Option<Duration>,
    /// `None` is an answer that broke off: the guest gets neither headers nor body.
    pub(crate) answer: Option<(Duration, Option<Response>)>,
}
