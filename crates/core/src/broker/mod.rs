//! The broker makes one exchange for each token, however many requests need the token.
//!
//! Each worker has one broker. It is a state machine without I/O: the engine's driver reports each event with its time, and the broker
//! returns the [`Command`]s to carry out. Workers share state only through the [`Store`]; the worker that acquires a key's
//! lease there performs the exchange for all of them. The only message between workers is "poll this key": a wake-up that is
//! lost, duplicated or late delays the result and does not change it.

mod admission;
mod budget;
mod causes;
mod connections;
mod credential;
mod exchange;
mod exchanges;
mod freshness;
mod gauges;
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

pub use connections::ConnectionOutcome;
pub use freshness::CachedToken;
pub(crate) use readiness::{Credential, Decisive};
pub use readiness::{Readiness, ReadinessStatus};
pub use reject::{RejectedBy, RejectedToken, Rejection};
pub use slot::TokenLookup;
pub use store::{CredentialState, Entry, MemoryStore, SharedData, Shelves, SourceState, Store};
pub use vocabulary::{Limits, QueueId, RequiredLifetime, StreamId, UnlistedLimits, WorkerId};

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::assertion::{Assertions, Source};
use crate::entra::{self, RetryClass, TokenKey, TokenSpec};
use crate::event::Event;
use crate::http::{CallResult, HttpCall};
use crate::metrics::Measurement;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;
use connections::Connections;
use exchange::Failed;
use gauges::Observed;
use readiness::Checks;
use release::Release;
use slot::{Attempt, Exchange, Slot, Slots, Waiter};
use turn::Turn;

/// The purpose of a call, which identifies it in the report of its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To ask this source for a federated token.
    Assertion(Source),
    /// To request the token with this key from the token endpoint.
    Token(TokenKey),
}

/// An action that the broker requests from the engine's driver.
pub enum Command {
    /// Start a call. Report its result with this purpose to [`Broker::call_finished`]. A call replaces an earlier one with the same
    /// purpose, whose result must not be reported.
    Call(Purpose, HttpCall),
    /// Answer a readiness probe that waits.
    FinishProbe(StreamId, ReadinessStatus),
    /// Make the worker that owns this queue poll the key ([`Broker::poll`]).
    Wake(QueueId, TokenKey),
    /// Make the worker that owns this queue continue its waits for sources ([`Broker::continue_sources`]).
    Nudge(QueueId),
    /// Resume or answer a paused request with this result.
    Finish(StreamId, Result<Arc<CachedToken>, Problem>),
    /// Write an exchange event to the log.
    Log(Event),
    /// Record a metric value.
    Measure(Measurement),
}

/// The broker of one worker.
pub struct Broker {
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
    checks: Checks,
    observed: Observed,
    connections: Connections,
    release: Release,
    /// The workers to wake in the next turn, each with the key to poll.
    wakes: Vec<(QueueId, TokenKey)>,
    /// Whether this VM has received a request. The VM on Envoy's main thread never does, and internal listeners do not respond to
    /// its calls.
    serves_requests: bool,
    /// The clock reading of the latest event.
    latest: Timestamp,
}

impl Broker {
    /// Creates the broker of one worker, which `queue` wakes. The worker's id must be random, because it seeds the jitter.
    pub fn new(worker: WorkerId, queue: QueueId, limits: Limits) -> Self {
        Self {
            worker,
            queue,
            limits,
            random: Random(worker.0),
            slots: Slots::default(),
            timers: BTreeSet::new(),
            waiting: 0,
            assertions: Assertions::default(),
            checks: Checks::default(),
            observed: Observed::default(),
            connections: Connections::default(),
            release: Release::default(),
            wakes: Vec::new(),
            serves_requests: false,
            latest: Timestamp::default(),
        }
    }

    /// Looks up a token for a request.
    ///
    /// The second value is true when [`Broker::poll`] must be called for this key soon, in a context that can make HTTP calls.
    pub fn get(
        &mut self,
        spec: &Arc<TokenSpec>,
        required_lifetime: RequiredLifetime,
        stream: StreamId,
        now: Timestamp,
        store: &dyn Store,
    ) -> (TokenLookup, bool) {
        let waiter = Waiter { stream, deadline: now.plus(self.limits.wait), required_lifetime, rejected: None };
        let full = self.is_full(spec);
        let answered = self.slot_of(spec, now, store).answer(waiter, full, now);
        self.record_lookup(spec, stream, answered, now, store)
    }

    /// Records the result of a lookup before it is returned: marks the token's scope as used, or admits the exchange that the request
    /// waits for.
    fn record_lookup(
        &mut self,
        spec: &Arc<TokenSpec>,
        stream: StreamId,
        (lookup, poll): (TokenLookup, bool),
        now: Timestamp,
        store: &dyn Store,
    ) -> (TokenLookup, bool) {
        match lookup {
            TokenLookup::Ready(_) => self.touch(spec, now, store),
            TokenLookup::Failed(_) => {}
            TokenLookup::Pending => {
                // Only the first waiting request requires a poll.
                if poll && let Err(problem) = self.admit(spec, now, store) {
                    return self.refuse(spec, stream, problem, now);
                }
                self.waiting = self.waiting.saturating_add(1);
            }
        }
        (lookup, poll)
    }

    /// Returns the limit that applies if no more requests may wait for this token spec, and `None` otherwise.
    ///
    /// With several identities, those of one may wait while they are fewer than the places that are left, so that no identity's callers
    /// can take all of them. Callers choose unlisted scopes: requests for them take at most half of [`Limits::waiting`], and those of one
    /// identity at most a quarter.
    fn is_full(&self, spec: &TokenSpec) -> Option<usize> {
        let (all, waiting) = (self.limits.waiting, self.waiting);
        if waiting >= all {
            return Some(all);
        }
        let (half, quarter) = (all.div_ceil(2), all.div_ceil(4));
        // So few that none of the limits below can be reached.
        if waiting < quarter {
            return None;
        }
        let is_same = |other: &TokenSpec| other.identity() == spec.identity();
        let of_identity = self.count_waiting(is_same);
        if self.limits.identities > 1 && of_identity >= all.saturating_sub(waiting) {
            return Some(of_identity);
        }
        if spec.is_listed() {
            return None;
        }
        if self.count_waiting(|other| !other.is_listed()) >= half {
            return Some(half);
        }
        (self.count_waiting(|other| !other.is_listed() && is_same(other)) >= quarter).then_some(quarter)
    }

    /// Returns how many requests wait for the tokens of these specs, or for the connections to which they are to be sent.
    fn count_waiting(&self, counts: impl Fn(&TokenSpec) -> bool) -> usize {
        let for_tokens = self.slots.values().filter(|slot| counts(&slot.spec)).map(|slot| slot.waiters.len()).sum();
        self.connections.count(counts).saturating_add(for_tokens)
    }

    /// Answers the only request that waits for a key whose exchange is not admitted: with the cached token if it can still be sent,
    /// otherwise with the problem. The second value is true when [`Broker::poll`] must be called.
    fn refuse(&mut self, spec: &TokenSpec, stream: StreamId, problem: Problem, now: Timestamp) -> (TokenLookup, bool) {
        let Some(slot) = self.slots.get_mut(spec.key()) else { return (TokenLookup::Failed(problem), false) };
        let index = slot.waiters.iter().position(|waiter| waiter.stream == stream);
        let rejected = index.and_then(|index| slot.waiters.remove(index).rejected);
        let token = slot.usable_for(rejected.as_ref(), now).cloned();
        // This worker must be registered as a holder of the token, also of one that this caller rejects.
        let poll = if token.is_some() { slot.mark_used() } else { slot.must_register(now) };
        self.schedule(spec.key(), now);
        (token.map_or(TokenLookup::Failed(problem), TokenLookup::Ready), poll)
    }

    /// Fetches a token into the cache for a request that does not wait for it.
    ///
    /// Returns whether [`Broker::poll`] must be called for this key soon, in a context that can make HTTP calls.
    pub fn prefetch(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, store: &dyn Store) -> bool {
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
    pub fn forget(&mut self, stream: StreamId) {
        self.checks.forget(stream);
        if self.waiting == 0 {
            return;
        }
        let waited = self.connections.forget(stream) || self.slots.values_mut().any(|slot| slot.forget(stream));
        self.waiting = self.waiting.saturating_sub(usize::from(waited));
    }

    /// Fetches these tokens and keeps them fresh from now on, even if no request needs them.
    pub fn keep_warm(&mut self, specs: &[Arc<TokenSpec>], now: Timestamp) {
        for spec in specs {
            let slot = self.slots.get_or_create(spec);
            slot.warm = true;
            self.schedule(spec.key(), now);
        }
    }

    /// Polls a key after a wake-up.
    pub fn poll(&mut self, key: TokenKey, now: Timestamp, store: &dyn Store) -> Vec<Command> {
        self.observe_clock(now);
        let mut turn = Turn::new(now, store);
        self.poll_key(key, &mut turn);
        turn.commands
    }

    /// Polls every key that is due. Call it at [`Broker::next_due`].
    pub fn tick(&mut self, now: Timestamp, store: &dyn Store) -> Vec<Command> {
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
    pub fn keys(&self) -> usize {
        self.slots.len()
    }

    /// The time at which [`Broker::tick`] and [`Broker::poll_connections`] must be called if no event occurs before.
    pub fn next_due(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let others = [self.connections.next_due(), self.checks.next_due(), self.assertions.next_due()];
        others.into_iter().flatten().chain(timer).min()
    }

    /// Processes the result of a [`Command::Call`].
    pub fn call_finished(
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

    /// Processes the response of the token endpoint.
    fn endpoint_answered(&mut self, slot: &mut Slot, answer: CallResult, turn: &mut Turn<'_>) {
        let now = turn.now;
        let Exchange::Calling { call, .. } = std::mem::replace(&mut slot.exchange, Exchange::Idle) else { return };
        let call = *call;
        let spec = Arc::clone(&slot.spec);
        let cluster = spec.clusters().get(call.cluster_index).map(String::as_str).unwrap_or_default();
        match entra::read_answer(answer, cluster, &spec, &call.assertion, now) {
            entra::EndpointAnswer::Granted { token, expires_in, refresh_in, request_id } => {
                let cached = CachedToken::new(token, call.asked_at, expires_in, refresh_in, self.random.next());
                match (cached.is_usable(now), call.attempt) {
                    (true, _) => self.succeed(slot, cached, cluster, request_id.as_ref(), turn),
                    (false, Attempt::First) => self.read(slot, Attempt::Second, turn),
                    (false, Attempt::Second) => {
                        let problem = expired_on_arrival(&spec, expires_in, now.since(call.asked_at));
                        self.fail(slot, Failed::transient(problem, call.asked_at), turn);
                    }
                }
            }
            entra::EndpointAnswer::Unreached { problem } => {
                let began = call.asked_at;
                if let Some(problem) = self.call_next(slot, call, *problem, turn) {
                    self.fail(slot, Failed::transient(problem, began), turn);
                }
            }
            entra::EndpointAnswer::Refused { problem, retry_class, retry_after } => {
                let retry_class = credential::retry_class_of(turn.store, &spec, &problem, retry_class, now);
                if credential::is_refusal(&problem) {
                    let mut workers = self.sharing(turn);
                    self.assertions.refuse(spec.assertion(), &call.assertion, call.asked_at, &mut workers);
                }
                match (call.attempt, retry_class) {
                    (Attempt::First, RetryClass::Immediate | RetryClass::StaleAssertion) => {
                        self.retry_refused(slot, &problem, retry_class, turn);
                    }
                    _ => {
                        let (assertion, began) = (call.assertion.fingerprint(), call.asked_at);
                        credential::record_refusal(turn.store, &spec, &problem, assertion, now);
                        let refused = credential::is_refusal(&problem).then_some(assertion);
                        let failed = Failed { problem: *problem, retry_class, began, retry_after, refused };
                        self.fail(slot, failed, turn);
                    }
                }
            }
        }
    }

    /// Returns the slot of a token spec, creates it if necessary, and adopts the shared token if the slot has no usable one.
    fn slot_of(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, store: &dyn Store) -> &mut Slot {
        self.observe_clock(now);
        self.serves_requests = true;
        let key = spec.key();
        if !spec.is_listed() && self.slots.get(key).is_none() {
            self.make_room(spec);
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
        self.checks.set_back(back);
        for key in self.slots.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            if let Some(mut slot) = self.slots.take(key) {
                slot.set_back(back, now);
                self.put_back(slot, now);
            }
        }
    }
}

/// The problem of a token that has expired on arrival. Its back-off prevents an endless sequence of exchanges.
fn expired_on_arrival(spec: &TokenSpec, lifetime: Duration, took: Duration) -> Problem {
    Problem::new(
        Code::EntraReplyInvalid,
        format!(
            "the token's lifetime ({} s) had already elapsed when it arrived, after {} s",
            lifetime.as_secs(),
            took.as_secs()
        ),
        "Check Entra's response time, the token lifetime policy of the tenant, and this node's clock.",
    )
    .about(spec.identity(), spec.scope())
}

/// The random number generator for jitter: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators"). It is not used for secrets.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half is of better quality.
        u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default()
    }
}
