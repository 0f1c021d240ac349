//! What all VMs of one Envoy process share, and the clock.

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

/// A message of one thread's event loop to itself.
pub(crate) struct Post {
    pub(crate) thread: Thread,
    pub(crate) context: u32,
    pub(crate) queue: u32,
}

/// What all VMs share.
pub(crate) struct Process {
    pub(crate) settings: Settings,
    /// Since the host started. Never goes back.
    pub(crate) now: Duration,
    /// What the wall clock shows now; it can be set.
    pub(crate) wall: SystemTime,
    pub(crate) shared_data: SharedData,
    pub(crate) queues: SharedQueues,
    pub(crate) metrics: Metrics,
    pub(crate) log: Vec<LogLine>,
    pub(crate) posts: VecDeque<Post>,
    pub(crate) callouts: BTreeMap<u64, Pending>,
    made_callouts: u64,
    /// The streams that wait, by when they end for want of movement.
    pub(crate) idle: BTreeMap<(Duration, u64), stream::Shared>,
    made_streams: u64,
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
            made_callouts: 0,
            idle: BTreeMap::new(),
            made_streams: 0,
        }
    }

    pub(crate) fn log(&mut self, thread: Thread, level: LogLevel, text: impl Into<String>) {
        if level >= self.settings.log_level {
            self.log.push(LogLine { thread, level, text: text.into() });
        }
    }

    /// Puts a message into a queue and wakes its reader, on a later turn.
    pub(crate) fn enqueue(&mut self, queue: u32, message: &[u8]) -> Result<(), Status> {
        let Reader { thread, context } = self.queues.enqueue(queue, message)?;
        self.posts.push_back(Post { thread, context, queue });
        Ok(())
    }

    /// Sends a call off.
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
        let answer = match kind {
            Cluster::NoHosts => return Err(Status::InternalFailure),
            Cluster::Refuses => Some((self.now, Some(Response::unreachable()))),
            Cluster::InternalListener if !matches!(thread, Thread::Worker(_)) => {
                Some((self.now, Some(Response::unreachable())))
            }
            Cluster::InternalListener | Cluster::Answers => None,
        };
        if !body.is_empty() {
            headers.replace("content-length", body.len().to_string());
        }
        self.made_callouts += 1;
        let number = self.made_callouts;
        let callout = Callout { number, thread, cluster: cluster.to_owned(), headers, body, timeout };
        let deadline = timeout.map(|timeout| self.now + timeout);
        self.callouts.insert(number, Pending { callout, generation, token, deadline, answer });
        Ok(())
    }

    /// Watches a stream that waits.
    pub(crate) fn watch(&mut self, stream: &stream::Shared) {
        self.made_streams += 1;
        let at = self.now + self.settings.stream_idle_timeout;
        stream.borrow_mut().idle_at = Some(at);
        self.idle.insert((at, self.made_streams), stream.clone());
    }
}
