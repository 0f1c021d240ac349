//! The requests that wait for their upstream connections, and when each of them is looked at.
//!
//! In a cluster's own filter chain a request gets its token when its connection exists and has TLS. Envoy tells a filter
//! nothing when a connection is established, so the filter must look, and a look costs a call into Envoy. A pool gives
//! its connections to the requests that came first, so the oldest are looked at in every turn; each of the others waits
//! for its next look in proportion to its age, because one that has waited long will probably wait on.

use std::sync::Arc;
use std::time::Duration;

use super::release::{PERIOD, Release};
use super::{Broker, GRACE, StreamId, too_many_waiting};
use crate::entra::TokenSpec;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// How many looks in one turn may be in vain: 64 take some 50 µs.
const LOOKS_IN_VAIN: usize = 64;

/// How many of these are for the oldest requests.
const OLDEST: usize = 4;

/// A request is looked at again after this part of its age …
const PART_OF_AGE: u32 = 16;
/// … and after this long at the latest.
const LONGEST: Duration = Duration::from_millis(250);

/// The requests of one worker that wait for their connections.
#[derive(Default)]
pub(super) struct Connections {
    /// In the order of their arrival, which is the order of their deadlines.
    waiting: Vec<Waiting>,
    /// Where the looks at those that are due stopped in the last turn.
    stopped_at: usize,
    /// No look and no deadline is due before.
    next_due: Option<Timestamp>,
}

struct Waiting {
    stream: StreamId,
    spec: Arc<TokenSpec>,
    since: Timestamp,
    deadline: Timestamp,
    next_look: Timestamp,
    ended: bool,
}

/// How the wait for a connection ends.
#[derive(Debug)]
pub enum Connection {
    /// It is established: the request is to be decided again.
    Established,
    /// It was not established in time.
    TimedOut(Problem),
}

impl Broker {
    /// Has a request wait for its connection.
    ///
    /// Returns whether [`Broker::tick`] and [`Broker::connections`] must be called earlier than [`Broker::next_due`]
    /// said before; or, when too many requests wait already, the problem.
    pub fn await_connection(
        &mut self,
        spec: &Arc<TokenSpec>,
        stream: StreamId,
        now: Timestamp,
    ) -> Result<bool, Problem> {
        self.observe_clock(now);
        if let Some(most) = self.is_full(spec) {
            return Err(too_many_waiting(most).about(spec.identity(), spec.scope()));
        }
        let next = self.next_due();
        self.waiting.insert(stream, spec.key());
        self.connections.add(stream, spec, now, now.plus(self.limits.wait));
        Ok(next.is_none_or(|next| now.plus(PERIOD) < next))
    }

    /// Looks at the connections of requests that wait for them: to be called in every turn of the root context.
    /// `is_established` tells of one request whether its connection exists.
    ///
    /// Returns the requests that wait no more.
    pub fn connections(
        &mut self,
        now: Timestamp,
        is_established: impl FnMut(StreamId) -> bool,
    ) -> Vec<(StreamId, Connection)> {
        self.observe_clock(now);
        let ended = self.connections.turn(now, &mut self.release, is_established);
        for (stream, _) in &ended {
            self.waiting.remove(stream);
        }
        ended
    }
}

impl Connections {
    /// A request is gone.
    pub(super) fn forget(&mut self, stream: StreamId) {
        self.waiting.retain(|waiting| waiting.stream != stream);
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        for waiting in &mut self.waiting {
            waiting.since = waiting.since.minus(by);
            waiting.deadline = waiting.deadline.minus(by);
            waiting.next_look = waiting.next_look.minus(by);
        }
        self.next_due = self.next_due.map(|due| due.minus(by));
    }

    /// When the next turn is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.next_due.filter(|_| !self.waiting.is_empty())
    }

    fn add(&mut self, stream: StreamId, spec: &Arc<TokenSpec>, now: Timestamp, deadline: Timestamp) {
        let next_look = now.plus(PERIOD);
        self.next_due = Some(self.next_due().map_or(next_look, |due| due.min(next_look)));
        let spec = Arc::clone(spec);
        self.waiting.push(Waiting { stream, spec, since: now, deadline, next_look, ended: false });
    }

    fn turn(
        &mut self,
        now: Timestamp,
        release: &mut Release,
        mut is_established: impl FnMut(StreamId) -> bool,
    ) -> Vec<(StreamId, Connection)> {
        let mut ended = Vec::new();
        let mut in_vain = 0;
        for waiting in &mut self.waiting {
            if release.is_spent(now) || (in_vain >= OLDEST && waiting.deadline > now) {
                break;
            }
            let end = waiting.poll(now, &mut is_established).or_else(|| waiting.give_up(now));
            in_vain += usize::from(end.is_none());
            release.take(usize::from(end.is_some()), now);
            ended.extend(end.map(|end| (waiting.stream, end)));
        }
        // Those that are due, in turn: none is passed over for long, however many there are.
        let start = self.stopped_at.min(self.waiting.len());
        let (last, first) = self.waiting.split_at_mut(start);
        let mut steps = 0;
        for waiting in first.iter_mut().chain(last) {
            if in_vain >= LOOKS_IN_VAIN || release.is_spent(now) {
                break;
            }
            steps += 1;
            if waiting.ended || waiting.next_look > now {
                continue;
            }
            let end = waiting.poll(now, &mut is_established);
            in_vain += usize::from(end.is_none());
            release.take(usize::from(end.is_some()), now);
            ended.extend(end.map(|end| (waiting.stream, end)));
        }
        self.stopped_at = (start + steps) % self.waiting.len().max(1);
        self.waiting.retain(|waiting| !waiting.ended);
        self.next_due = self.waiting.iter().map(|waiting| waiting.next_look.min(waiting.deadline)).min();
        ended
    }
}

impl Waiting {
    fn poll(&mut self, now: Timestamp, is_established: &mut impl FnMut(StreamId) -> bool) -> Option<Connection> {
        if is_established(self.stream) {
            self.ended = true;
            return Some(Connection::Established);
        }
        let wait = (now.since(self.since) / PART_OF_AGE).clamp(PERIOD, LONGEST);
        self.next_look = now.plus(wait);
        None
    }

    /// How it ends when its time is over.
    fn give_up(&mut self, now: Timestamp) -> Option<Connection> {
        if self.deadline > now {
            return None;
        }
        self.ended = true;
        let problem = Problem::new(
            Code::TokenWaitTimeout,
            format!("no connection to the upstream within {} s", now.since(self.since).as_secs()),
            "Check that the upstream accepts connections, and that the cluster's circuit breakers allow as many as it needs.",
        );
        Some(Connection::TimedOut(problem.about(self.spec.identity(), self.spec.scope()).retry_after(GRACE)))
    }
}
