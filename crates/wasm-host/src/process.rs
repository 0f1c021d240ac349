//! The state that all VMs of one Envoy process share, including the clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use crate::callout::{Callout, Cluster, Pending, Response};
use crate::headers::Headers;
use crate::log::{LogLevel, LogLine, Thread};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::shared_data::SharedData;
use crate::shared_queue::{Reader, SharedQueues};
use crate::status::Status;
use crate::stream;

/// A callback that is posted to a thread's event loop.
pub(crate) struct Post {
    pub(crate) thread: Thread,
    pub(crate) context: u32,
    pub(crate) queue: u32,
}

/// The state of an Envoy process.
pub(crate) struct Process {
    pub(crate) settings: Settings,
    /// The time since the host started (monotonic).
    pub(crate) now: Duration,
    /// The wall-clock time, which a test can set.
    pub(crate) wall: SystemTime,
    pub(crate) shared_data: SharedData,
    pub(crate) queues: SharedQueues,
    pub(crate) metrics: Metrics,
    pub(crate) log: Vec<LogLine>,
    pub(crate) posts: VecDeque<Post>,
    pub(crate) callouts: BTreeMap<u64, Pending>,
    callout_count: u64,
    /// The paused streams by the time of their idle timeout.
    pub(crate) idle: BTreeMap<(Duration, u64), stream::Shared>,
    stream_count: u64,
}

impl Process {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            now: Duration::ZERO,
            wall: settings.started_at,
            settings,
            shared_data: SharedData::default(),
            queues: SharedQueues::default(),
            metrics: Metrics::default(),
            log: Vec::new(),
            posts: VecDeque::new(),
            callouts: BTreeMap::new(),
            callout_count: 0,
            idle: BTreeMap::new(),
            stream_count: 0,
        }
    }

    pub(crate) fn log(&mut self, thread: Thread, level: LogLevel, text: impl Into<String>) {
        if level >= self.settings.log_level {
            self.log.push(LogLine { thread, level, text: text.into() });
        }
    }

    /// Adds a message to a queue and posts a callback to its reader.
    pub(crate) fn enqueue(&mut self, queue: u32, message: &[u8]) -> Result<(), Status> {
        let Reader { thread, context } = self.queues.enqueue(queue, message)?;
        self.posts.push_back(Post { thread, context, queue });
        Ok(())
    }

    /// Starts an HTTP call.
    pub(crate) fn call(
        &mut self,
        (thread, generation, token): (Thread, u64, u32),
        cluster: &[u8],
        mut headers: Headers,
        body: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<(), Status> {
        let cluster = std::str::from_utf8(cluster).map_err(|_| Status::BadArgument)?;
        let kind = *self.settings.clusters.get(cluster).ok_or(Status::BadArgument)?;
        if [":method", ":path", ":authority"].iter().any(|name| headers.get(name).is_none()) {
            return Err(Status::BadArgument);
        }
        let response = match kind {
            Cluster::NoHosts => return Err(Status::InternalFailure),
            Cluster::RefusesConnections => Some((self.now, Some(Response::unreachable()))),
            Cluster::InternalListener if !matches!(thread, Thread::Worker(_)) => {
                Some((self.now, Some(Response::unreachable())))
            }
            Cluster::InternalListener | Cluster::Responds => None,
        };
        if !body.is_empty() {
            headers.replace("content-length", body.len().to_string());
        }
        self.callout_count += 1;
        let number = self.callout_count;
        let callout = Callout { number, thread, cluster: cluster.to_owned(), headers, body, timeout };
        let deadline = timeout.map(|timeout| self.now + timeout);
        self.callouts.insert(number, Pending { callout, generation, token, deadline, response });
        Ok(())
    }

    /// Starts the idle timeout of a paused stream.
    pub(crate) fn start_idle_timeout(&mut self, stream: &stream::Shared) {
        self.stream_count += 1;
        let at = self.now + self.settings.stream_idle_timeout;
        stream.borrow_mut().idle_at = Some(at);
        self.idle.insert((at, self.stream_count), stream.clone());
    }
}
