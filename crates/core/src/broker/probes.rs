//! The readiness probes that wait until the federated tokens are read.

use std::sync::Arc;
use std::time::Duration;

use super::readiness::{Readiness, Reading};
use super::release::PERIOD;
use super::store::{Store, record_reading};
use super::vocabulary::StreamId;
use super::{Broker, Command, Turn};
use crate::assertion::{ReadResult, Source};
use crate::time::Timestamp;

/// A probe that waits for reads of federated tokens.
struct Waiting {
    stream: StreamId,
    readiness: Arc<Readiness>,
    unread: Vec<Source>,
    read: Vec<(Source, Reading)>,
}

/// Maximum number of probes that wait in a worker. The kubelet sends one at a time.
const MOST_WAITING: usize = 256;

/// The probes that wait for reads of federated tokens, or for their release after these reads.
#[derive(Default)]
pub(super) struct Probes {
    waiting: Vec<Waiting>,
    /// The time at which the next probes are released.
    next_release: Option<Timestamp>,
}

impl Probes {
    pub(super) fn forget(&mut self, stream: StreamId) {
        self.waiting.retain(|waiting| waiting.stream != stream);
    }

    /// The time of the next [`Broker::tick`].
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.next_release.filter(|_| !self.waiting.is_empty())
    }

    /// Moves the time back after the clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        self.next_release = self.next_release.map(|at| at.minus(by));
    }
}

impl Broker {
    /// Checks readiness. Never requests a token.
    ///
    /// The stream pauses until a [`Command::FinishProbe`] names it: at once if the state of all sources is known, and otherwise after
    /// another turn, in which [`Broker::start_probe`] has them read.
    pub(crate) fn check_readiness(
        &mut self,
        readiness: &Arc<Readiness>,
        stream: StreamId,
        now: Timestamp,
        store: &dyn Store,
    ) -> Vec<Command> {
        self.observe_clock(now);
        let unread = readiness.unread(now, store);
        // A waiting probe holds a stream, as a waiting request does. Beyond the limit it is answered from the known state.
        if unread.is_empty() || self.probes.waiting.len() >= MOST_WAITING {
            return vec![Command::FinishProbe(stream, readiness.judge(&[], now, store))];
        }
        self.probes.waiting.push(Waiting { stream, readiness: Arc::clone(readiness), unread, read: Vec::new() });
        vec![Command::Nudge(self.queue)]
    }

    /// Wants the federated tokens that probes wait for.
    pub(crate) fn start_probe(&mut self, now: Timestamp, store: &dyn Store) -> Vec<Command> {
        let mut turn = Turn::new(now, store);
        let mut sources: Vec<Source> = Vec::new();
        for source in self.probes.waiting.iter().flat_map(|waiting| &waiting.unread) {
            if !sources.contains(source) {
                sources.push(source.clone());
            }
        }
        for source in sources {
            if let Some(read) = self.want(&source, &mut turn) {
                self.continue_probes(&source, &read, &mut turn);
            }
        }
        turn.commands
    }

    /// Continues the probes that wait for this source.
    pub(super) fn continue_probes(&mut self, source: &Source, read: &ReadResult, turn: &mut Turn<'_>) {
        let waiting = &mut self.probes.waiting;
        if !waiting.iter().any(|waiting| waiting.unread.contains(source)) {
            return;
        }
        // A read that only the gauges wanted does not make a pod not ready: its access tokens may be valid for hours.
        if read.is_err() {
            record_reading(turn.store, source, false, turn.now);
        }
        let reading = read.as_ref().map(|assertion| assertion.fingerprint()).map_err(Clone::clone);
        for waiting in waiting.iter_mut() {
            if let Some(index) = waiting.unread.iter().position(|other| other == source) {
                waiting.read.push((waiting.unread.swap_remove(index), reading.clone()));
            }
        }
        self.finish_probes(turn);
    }

    /// Answers the probes whose reads have ended, in order of arrival and within the release limit.
    pub(super) fn finish_probes(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now;
        let ended = self.probes.waiting.iter().filter(|waiting| waiting.unread.is_empty()).count();
        let mut released = self.release.take(ended, now);
        self.probes.next_release = (released < ended).then(|| now.plus(PERIOD));
        self.probes.waiting.retain(|waiting| {
            if released == 0 || !waiting.unread.is_empty() {
                return true;
            }
            released = released.saturating_sub(1);
            let status = waiting.readiness.judge(&waiting.read, now, turn.store);
            turn.commands.push(Command::FinishProbe(waiting.stream, status));
            false
        });
    }
}
