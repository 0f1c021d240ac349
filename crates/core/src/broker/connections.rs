//! The requests that wait for their upstream connections, and the times at which each is polled.
//!
//! In a cluster's own filter chain, a request gets its token once its connection exists and uses TLS. Envoy does not notify a
//! filter when a connection is established, so the filter polls, and each poll costs a host call. A connection pool serves the
//! oldest requests first, so these are polled in every turn. The poll interval of every other request grows with its age, because a
//! request that has waited long will probably wait longer.

use std::sync::Arc;
use std::time::Duration;

use super::release::{PERIOD, Release};
use super::vocabulary::{GRACE_PERIOD, StreamId, too_many_waiting};
use super::{Broker, Command};
use crate::entra::TokenSpec;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// Maximum number of unsuccessful polls in one turn. 64 take about 50 µs.
const MAX_UNSUCCESSFUL_POLLS: usize = 64;

/// Number of these that are reserved for the oldest requests.
const MAX_OLDEST_POLLS: usize = 4;

/// The poll interval of a request is its age divided by this.
const AGE_DIVISOR: u32 = 16;
/// Maximum poll interval.
const LONGEST: Duration = Duration::from_millis(250);

/// The requests of one worker that wait for their connections.
#[derive(Default)]
pub(super) struct Connections {
    /// In order of arrival, which is also the order of deadlines.
    waiting: Vec<Waiting>,
    /// The index at which the next turn continues to poll the requests that are due.
    resume_at: usize,
    /// The earliest poll or deadline.
    next_due: Option<Timestamp>,
}

struct Waiting {
    stream: StreamId,
    spec: Arc<TokenSpec>,
    since: Timestamp,
    deadline: Timestamp,
    next_poll: Timestamp,
    ended: bool,
}

/// The result of waiting for a connection.
#[derive(Debug)]
pub enum ConnectionOutcome {
    /// The connection is established. Decide the request again.
    Established,
    /// The connection was not established in time.
    TimedOut(Problem),
}

impl Broker {
    /// Makes a request wait for its connection. If [`Broker::next_due`] is now earlier than before, the worker gives itself another turn,
    /// which sets the timer.
    ///
    /// # Errors
    /// The limit on waiting requests is reached.
    pub(crate) fn await_connection(
        &mut self,
        spec: &Arc<TokenSpec>,
        stream: StreamId,
        now: Timestamp,
    ) -> Result<Vec<Command>, Problem> {
        self.observe_clock(now);
        if let Some(limit) = self.is_full(spec) {
            return Err(too_many_waiting(limit).about(spec.identity(), spec.scope()));
        }
        let next = self.next_due();
        self.waiting = self.waiting.saturating_add(1);
        self.connections.add(stream, spec, now, now.plus(self.limits.wait));
        let is_earlier = next.is_none_or(|next| now.plus(PERIOD) < next);
        Ok(if is_earlier { vec![Command::Nudge(self.queue)] } else { Vec::new() })
    }

    /// Polls the connections that requests wait for. Call it in every turn of the root context. `is_established` returns whether a
    /// request's connection exists.
    ///
    /// Returns the requests whose wait has ended.
    pub(crate) fn poll_connections(
        &mut self,
        now: Timestamp,
        is_established: impl FnMut(StreamId) -> bool,
    ) -> Vec<(StreamId, ConnectionOutcome)> {
        self.observe_clock(now);
        let ended = self.connections.turn(now, &mut self.release, is_established);
        self.waiting = self.waiting.saturating_sub(ended.len());
        ended
    }
}

impl Connections {
    /// Removes a request whose stream no longer exists. Returns whether it waited.
    pub(super) fn forget(&mut self, stream: StreamId) -> bool {
        let index = self.waiting.iter().position(|waiting| waiting.stream == stream);
        index.map(|index| self.waiting.remove(index)).is_some()
    }

    /// Returns how many requests wait for connections to send the tokens of these specs.
    pub(super) fn count(&self, counts: impl Fn(&TokenSpec) -> bool) -> usize {
        self.waiting.iter().filter(|waiting| counts(&waiting.spec)).count()
    }

    /// Moves all times back after the clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        for waiting in &mut self.waiting {
            waiting.since = waiting.since.minus(by);
            waiting.deadline = waiting.deadline.minus(by);
            waiting.next_poll = waiting.next_poll.minus(by);
        }
        self.next_due = self.next_due.map(|due| due.minus(by));
    }

    /// The time of the next turn.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.next_due.filter(|_| !self.waiting.is_empty())
    }

    fn add(&mut self, stream: StreamId, spec: &Arc<TokenSpec>, now: Timestamp, deadline: Timestamp) {
        let next_poll = now.plus(PERIOD);
        self.next_due = Some(self.next_due().map_or(next_poll, |due| due.min(next_poll)));
        let spec = Arc::clone(spec);
        self.waiting.push(Waiting { stream, spec, since: now, deadline, next_poll, ended: false });
    }

    fn turn(
        &mut self,
        now: Timestamp,
        release: &mut Release,
        mut is_established: impl FnMut(StreamId) -> bool,
    ) -> Vec<(StreamId, ConnectionOutcome)> {
        let mut ended = Vec::new();
        let mut unsuccessful = 0;
        for waiting in &mut self.waiting {
            if release.is_spent(now) || (unsuccessful >= MAX_OLDEST_POLLS && waiting.deadline > now) {
                break;
            }
            let end = waiting.poll(now, &mut is_established).or_else(|| waiting.time_out(now));
            unsuccessful += usize::from(end.is_none());
            release.take(usize::from(end.is_some()), now);
            ended.extend(end.map(|end| (waiting.stream, end)));
        }
        // The requests that are due, round-robin, so that none is starved.
        let start = self.resume_at.min(self.waiting.len());
        let (last, first) = self.waiting.split_at_mut(start);
        let mut steps = 0;
        for waiting in first.iter_mut().chain(last) {
            if unsuccessful >= MAX_UNSUCCESSFUL_POLLS || release.is_spent(now) {
                break;
            }
            steps += 1;
            if waiting.ended || waiting.next_poll > now {
                continue;
            }
            let end = waiting.poll(now, &mut is_established);
            unsuccessful += usize::from(end.is_none());
            release.take(usize::from(end.is_some()), now);
            ended.extend(end.map(|end| (waiting.stream, end)));
        }
        self.resume_at = (start + steps) % self.waiting.len().max(1);
        self.waiting.retain(|waiting| !waiting.ended);
        self.next_due = self.waiting.iter().map(|waiting| waiting.next_poll.min(waiting.deadline)).min();
        ended
    }
}

impl Waiting {
    fn poll(&mut self, now: Timestamp, is_established: &mut impl FnMut(StreamId) -> bool) -> Option<ConnectionOutcome> {
        if is_established(self.stream) {
            self.ended = true;
            return Some(ConnectionOutcome::Established);
        }
        let wait = (now.since(self.since) / AGE_DIVISOR).clamp(PERIOD, LONGEST);
        self.next_poll = now.plus(wait);
        None
    }

    /// Ends the wait when the deadline has passed.
    fn time_out(&mut self, now: Timestamp) -> Option<ConnectionOutcome> {
        if self.deadline > now {
            return None;
        }
        self.ended = true;
        let problem = Problem::new(
            Code::TokenWaitTimeout,
            format!("no connection to the upstream was established within {} s", now.since(self.since).as_secs()),
            "Check that the upstream accepts connections and that the cluster's circuit breakers allow enough connections.",
        );
        Some(ConnectionOutcome::TimedOut(
            problem.about(self.spec.identity(), self.spec.scope()).retry_after(GRACE_PERIOD),
        ))
    }
}
