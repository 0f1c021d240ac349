//! The broker makes one exchange for each token, however many requests need the token.
//!
//! Each worker has one broker. It is a state machine without I/O: the engine's driver reports each event with its time, and the broker
//! returns the commands to carry out. Workers share state only through the [`Store`]; the worker that acquires a key's
//! lease there performs the exchange for all of them. The only message between workers is "poll this key": a wake-up that is
//! lost, duplicated or late delays the result and does not change it.

mod admission;
mod budget;
mod causes;
mod command;
mod connections;
mod credential;
mod endpoint;
mod exchange;
mod exchanges;
mod freshness;
mod gauges;
mod probes;
mod random;
mod readiness;
mod reading;
mod reject;
mod release;
mod slot;
mod sources;
pub(crate) mod store;
#[cfg(test)]
mod tests;
mod turn;
mod vocabulary;

pub(crate) use command::{Command, Purpose};
pub use connections::ConnectionOutcome;
pub use freshness::CachedToken;
pub(crate) use readiness::{Credential, Decisive};
pub use readiness::{Readiness, ReadinessStatus};
pub use reject::RejectedToken;
pub use slot::TokenLookup;
pub use store::{CredentialState, Entry, MemoryStore, SharedData, Shelves, SourceState, Store};
pub use vocabulary::{Limits, QueueId, RequiredLifetime, StreamId, UnlistedLimits, WorkerId};

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::assertion::Assertions;
use crate::entra::{TokenKey, TokenSpec};
use crate::http::CallResult;
use crate::time::Timestamp;
use connections::Connections;
use gauges::Observed;
use probes::Probes;
use random::Random;
use release::Release;
use slot::{Slot, Slots, Waiter};
use turn::Turn;

/// The broker of one worker.
pub(crate) struct Broker {
    worker: WorkerId,
    queue: QueueId,
    limits: Limits,
    random: Random,
    slots: Slots,
    /// The next poll of each key, earliest first.
    timers: BTreeSet<(Timestamp, TokenKey)>,
    /// The number of requests that wait for a token or a connection.
    waiting: usize,
    assertions: Assertions,
    probes: Probes,
    observed: Observed,
    connections: Connections,
    release: Release,
    /// The workers to wake at the end of the event, each with the key to poll.
    wakes: Vec<(QueueId, TokenKey)>,
    /// Whether this VM has received a request. The VM on Envoy's main thread never does, and internal listeners do not respond to
    /// its calls.
    serves_requests: bool,
    /// The clock reading of the latest event.
    latest: Timestamp,
}

impl Broker {
    /// Creates the broker of one worker, which `queue` wakes. The worker's id must be random, because it seeds the jitter.
    pub(crate) fn new(worker: WorkerId, queue: QueueId, limits: Limits) -> Self {
        Self {
            worker,
            queue,
            limits,
            random: Random(worker.0),
            slots: Slots::default(),
            timers: BTreeSet::new(),
            waiting: 0,
            assertions: Assertions::default(),
            probes: Probes::default(),
            observed: Observed::default(),
            connections: Connections::default(),
            release: Release::default(),
            wakes: Vec::new(),
            serves_requests: false,
            latest: Timestamp::default(),
        }
    }

    /// Looks up a token for a request. It starts no call: if the key must be polled, the worker wakes itself for that.
    pub(crate) fn get(
        &mut self,
        spec: &Arc<TokenSpec>,
        required_lifetime: RequiredLifetime,
        stream: StreamId,
        now: Timestamp,
        store: &dyn Store,
    ) -> (TokenLookup, Vec<Command>) {
        let waiter = Waiter { stream, deadline: now.plus(self.limits.wait), required_lifetime, rejected: None };
        let full = self.is_full(spec);
        let answered = self.slot_of(spec, now, store).answer(waiter, full, now);
        self.record_lookup(spec, stream, answered, now, store)
    }

    /// Fetches a token into the cache for a request that does not wait for it. It starts no call either.
    pub(crate) fn prefetch(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, store: &dyn Store) -> Vec<Command> {
        let poll = self.request_prefetch(spec, now, store);
        self.poll_later(spec.key(), poll)
    }

    /// Marks a token to be fetched into the cache, if it is needed. Returns whether its key must be polled.
    fn request_prefetch(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, store: &dyn Store) -> bool {
        let slot = self.slot_of(spec, now, store);
        let poll = slot.timer.is_none();
        if slot.usable(now).is_some() {
            return slot.mark_used() || poll;
        }
        if slot.backing_off(now).is_some() {
            return poll;
        }
        if !slot.prefetch && self.admit(spec, now, store).is_err() {
            self.schedule(spec.key(), now);
            return false;
        }
        let before = self.slots.get_mut(spec.key()).map(|slot| std::mem::replace(&mut slot.prefetch, true));
        before != Some(true) || poll
    }

    /// Removes a waiting request whose stream no longer exists. Its exchange continues, because other requests may wait for it.
    pub(crate) fn forget(&mut self, stream: StreamId) {
        self.probes.forget(stream);
        if self.waiting == 0 {
            return;
        }
        let waited = self.connections.forget(stream) || self.slots.values_mut().any(|slot| slot.forget(stream));
        self.waiting = self.waiting.saturating_sub(usize::from(waited));
    }

    /// Fetches these tokens and keeps them fresh from now on, even if no request needs them.
    pub(crate) fn keep_warm(&mut self, specs: &[Arc<TokenSpec>], now: Timestamp) {
        for spec in specs {
            let slot = self.slots.get_or_create(spec);
            slot.warm = true;
            self.schedule(spec.key(), now);
        }
    }

    /// Polls a key after a wake-up.
    pub(crate) fn poll(&mut self, key: TokenKey, now: Timestamp, store: &dyn Store) -> Vec<Command> {
        self.observe_clock(now);
        let mut turn = Turn::new(now, store);
        self.poll_key(key, &mut turn);
        turn.commands
    }

    /// Polls every key that is due. Call it at [`Broker::next_due`].
    pub(crate) fn tick(&mut self, now: Timestamp, store: &dyn Store) -> Vec<Command> {
        self.observe_clock(now);
        let mut turn = Turn::new(now, store);
        self.ask_again(&mut turn);
        self.finish_probes(&mut turn);
        // Each key is polled once. A key that is due again immediately is polled in the next tick.
        let due: Vec<TokenKey> = self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| *key).collect();
        for key in due {
            // The remaining keys come first in the next tick, so none is starved.
            if self.release.is_spent(now) {
                break;
            }
            self.poll_key(key, &mut turn);
        }
        turn.commands
    }

    /// The number of token keys for which this worker keeps state.
    pub(crate) fn keys(&self) -> usize {
        self.slots.len()
    }

    /// The time at which [`Broker::tick`] and [`Broker::poll_connections`] must be called if no event occurs before.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let others = [self.connections.next_due(), self.probes.next_due(), self.assertions.next_due()];
        others.into_iter().flatten().chain(timer).min()
    }

    /// Processes the result of a [`Command::Call`].
    pub(crate) fn call_finished(
        &mut self,
        purpose: &Purpose,
        answer: CallResult,
        now: Timestamp,
        store: &dyn Store,
    ) -> Vec<Command> {
        self.observe_clock(now);
        let mut turn = Turn::new(now, store);
        match purpose {
            Purpose::Assertion(source) => self.assertion_answered(source, answer, &mut turn),
            Purpose::Token(key) if self.slots.get(*key).is_some_and(|slot| slot.exchange.is_calling()) => {
                self.with_slot(*key, &mut turn, |broker, slot, turn| broker.endpoint_answered(slot, answer, turn));
            }
            // A late response: the exchange has gone on without it.
            Purpose::Token(_) => {}
        }
        turn.commands
    }

    /// Makes this worker poll a key in a later turn, if that is needed, and wakes the workers that the event concerns.
    fn poll_later(&mut self, key: TokenKey, needed: bool) -> Vec<Command> {
        // The path of every request that gets a cached token.
        if self.wakes.is_empty() && !needed {
            return Vec::new();
        }
        let own = needed.then_some((self.queue, key));
        self.wakes.drain(..).chain(own).map(|(queue, key)| Command::Wake(queue, key)).collect()
    }

    /// Returns the slot of a token spec, creates it if necessary, and adopts the shared token if the slot has no usable one.
    fn slot_of(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, store: &dyn Store) -> &mut Slot {
        self.observe_clock(now);
        self.serves_requests = true;
        let key = spec.key();
        if !spec.is_listed() && self.slots.get(key).is_none() {
            self.make_room(spec, now);
        }
        let slot = self.slots.get_or_create(spec);
        slot.used_at = now;
        if slot.usable(now).is_none() {
            slot.adopt(&store.read(key), now);
        }
        slot
    }

    /// Records the time of an event, and detects a clock that was set back.
    pub(crate) fn observe_clock(&mut self, now: Timestamp) {
        let back = self.latest.since(now);
        self.latest = now;
        if !back.is_zero() {
            self.set_back(back, now);
        }
    }

    /// Moves all times back after the clock was set back, so that no wait becomes longer.
    #[cold]
    fn set_back(&mut self, back: Duration, now: Timestamp) {
        self.assertions.set_back(back);
        self.observed.set_back(back);
        self.connections.set_back(back);
        self.probes.set_back(back);
        for key in self.slots.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            if let Some(mut slot) = self.slots.take(key) {
                slot.set_back(back, now);
                self.put_back(slot, now);
            }
        }
    }
}
