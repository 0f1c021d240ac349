//! Admission: how many requests may wait, and which exchanges may begin. An exchange is held back while Entra throttles the client or
//! while the budget of unlisted scopes is exhausted.

use std::sync::Arc;
use std::time::Duration;

use super::budget::Permit;
use super::slot::{Exchange, Slot, TokenLookup};
use super::store::{self, Failure, Lease, Store, Update};
use super::vocabulary::{CONTENTION_RETRY_DELAY, GRACE_PERIOD, StreamId, TOUCH_PERIOD, UnlistedLimits};
use super::{Broker, Command, Turn};
use crate::entra::{RetryClass, TokenKey, TokenSpec};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

impl Broker {
    /// Records the result of a lookup before it is returned: marks the token's scope as used, or admits the exchange that the request
    /// waits for.
    pub(super) fn record_lookup(
        &mut self,
        spec: &Arc<TokenSpec>,
        stream: StreamId,
        (lookup, poll): (TokenLookup, bool),
        now: Timestamp,
        store: &dyn Store,
    ) -> (TokenLookup, Vec<Command>) {
        let mut must_poll = poll;
        match lookup {
            TokenLookup::Ready(_) => must_poll |= self.touch(spec, now, store),
            TokenLookup::Failed(_) => {}
            TokenLookup::Pending => {
                // Only the first waiting request requires a poll.
                if poll && let Err(problem) = self.admit(spec, now, store) {
                    return self.refuse(spec, stream, problem, now);
                }
                self.waiting = self.waiting.saturating_add(1);
            }
        }
        (lookup, self.poll_later(spec.key(), must_poll))
    }

    /// Returns the limit that applies if no more requests may wait for this token spec, and `None` otherwise.
    ///
    /// With several identities, those of one may wait while they are fewer than the places that are left, so that no identity's callers
    /// can take all of them. Callers choose unlisted scopes: requests for them take at most half of [`Limits::waiting`], and those of one
    /// identity at most a quarter.
    pub(super) fn is_full(&self, spec: &TokenSpec) -> Option<usize> {
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
        // While fewer than half of the places are taken, more are left than one identity can have.
        if self.limits.identities > 1 && waiting >= half {
            let of_identity = self.count_waiting(is_same);
            if of_identity >= all.saturating_sub(waiting) {
                return Some(of_identity);
            }
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
    /// otherwise with the problem.
    fn refuse(
        &mut self,
        spec: &TokenSpec,
        stream: StreamId,
        problem: Problem,
        now: Timestamp,
    ) -> (TokenLookup, Vec<Command>) {
        let Some(slot) = self.slots.get_mut(spec.key()) else { return (TokenLookup::Failed(problem), Vec::new()) };
        let index = slot.waiters.iter().position(|waiter| waiter.stream == stream);
        let rejected = index.and_then(|index| slot.waiters.remove(index).rejected);
        let token = slot.usable_for(rejected.as_ref(), now).cloned();
        // This worker must be registered as a holder of the token, also of one that this caller rejects.
        let poll = if token.is_some() { slot.mark_used() } else { slot.must_register(now) };
        self.schedule(spec.key(), now);
        (token.map_or(TokenLookup::Failed(problem), TokenLookup::Ready), self.poll_later(spec.key(), poll))
    }

    /// Checks whether an exchange for this token spec may begin, before the first request waits for it.
    ///
    /// # Errors
    /// The problem with which the request is answered immediately.
    pub(super) fn admit(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, store: &dyn Store) -> Result<(), Problem> {
        let state = store.read_credential(spec.credential());
        if let Some(throttled) = state.throttled(now) {
            return Err(throttled.to_problem(now).about(spec.identity(), spec.scope()));
        }
        self.admit_scope(spec, now, store)
    }

    /// Checks that the scope is listed or within the budget.
    fn admit_scope(&mut self, spec: &TokenSpec, now: Timestamp, store: &dyn Store) -> Result<(), Problem> {
        if spec.is_listed() {
            return Ok(());
        }
        let limits = self.limits.unlisted;
        let key = spec.key();
        let admitted = store::update_credential(store, spec.credential(), now, |state| {
            Update::Commit(state.admit(key, limits, now))
        });
        match admitted {
            Some(Ok(dropped)) => {
                dropped.into_iter().for_each(|key| self.drop_scope(key, now, store));
                Ok(())
            }
            Some(Err(wait)) => Err(too_many_new_scopes(spec, limits, wait)),
            // The exchange checks admission again.
            None => Ok(()),
        }
    }

    /// Holds back the exchange of a key if Entra throttles its client or the budget of its scope is exhausted, and records the
    /// failure. Returns whether the exchange is held back.
    pub(super) fn hold_back(&mut self, slot: &mut Slot, turn: &mut Turn<'_>) -> bool {
        let (worker, now) = (self.worker, turn.now);
        // Another worker's token or exchange is sufficient.
        let entry = turn.store.read(slot.key());
        slot.adopt(&entry, now);
        let is_held_by_other = |lease: &Lease| lease.holder != worker && lease.is_live(now);
        if !slot.needs_exchange(now) || entry.lease.as_ref().is_some_and(is_held_by_other) {
            return false;
        }
        let state = turn.store.read_credential(slot.spec.credential());
        if let Some(throttled) = state.throttled(now).and_then(|throttled| throttling_of(slot, throttled, now)) {
            slot.held_back = Some(throttled);
            return true;
        }
        let Err(problem) = self.admit_scope(&slot.spec, now, turn.store) else { return false };
        let wait = problem.retry_after.unwrap_or(GRACE_PERIOD);
        let class = RetryClass::Transient;
        slot.held_back = Some(Failure { problem, class, failed_at: now, next_try: now.plus(wait), failures: 1 });
        true
    }

    /// Acquires or extends the permit for the exchange of a key whose lease this worker holds until `until`. Returns false, and releases
    /// the lease, when no permit is available.
    pub(super) fn acquire_permit(&self, slot: &mut Slot, until: Timestamp, turn: &mut Turn<'_>) -> bool {
        if slot.spec.is_listed() {
            return true;
        }
        let (worker, queue, limits, now) = (self.worker, self.queue, self.limits, turn.now);
        let key = slot.key();
        let permit = store::update_credential(turn.store, slot.spec.credential(), now, |state| {
            Update::Commit(state.budget.begin((queue, key), until, limits.unlisted, now))
        });
        let until = match permit {
            Some(Permit::Granted) => return true,
            Some(Permit::Wait { until }) => until,
            None => now.plus(CONTENTION_RETRY_DELAY),
        };
        slot.exchange = Exchange::Deferred { until };
        let waiting =
            store::update(turn.store, key, now, |entry| Update::Commit(Lease::release(&mut entry.lease, worker)));
        turn.commands.extend(waiting.flatten().unwrap_or_default().into_iter().map(|queue| Command::Wake(queue, key)));
        false
    }

    /// Ends the exchange of a key. `refused` states whether Entra rejected the scope and no token of it can be sent; it is `None` if
    /// Entra's response does not tell.
    pub(super) fn end_exchange(&self, spec: &TokenSpec, refused: Option<bool>, turn: &mut Turn<'_>) {
        if spec.is_listed() {
            return;
        }
        let next = store::update_credential(turn.store, spec.credential(), turn.now, |state| {
            Update::Commit(state.budget.end((self.queue, spec.key()), refused))
        });
        if let Some((queue, key)) = next.flatten() {
            turn.commands.push(Command::Wake(queue, key));
        }
    }

    /// Shares with the other workers, once every [`TOUCH_PERIOD`], that an unlisted scope is in use. Returns whether the key must be polled
    /// because the scope was evicted, and the wake-up for that may be lost.
    fn touch(&mut self, spec: &TokenSpec, now: Timestamp, store: &dyn Store) -> bool {
        if spec.is_listed() {
            return false;
        }
        let key = spec.key();
        let Some(slot) = self.slots.get_mut(key) else { return false };
        if now.since(slot.touched_at) < TOUCH_PERIOD {
            return false;
        }
        slot.touched_at = now;
        let is_kept = store::update_credential(store, spec.credential(), now, |state| {
            let is_kept = state.budget.touch(key, now);
            Update::commit_if(is_kept, is_kept)
        });
        is_kept == Some(false)
    }

    /// Makes room for an unlisted scope in this worker: evicts a scope that Entra rejected and that has no token, or else the least
    /// recently used one. A scope with waiting requests or an exchange in progress is kept.
    pub(super) fn make_room(&mut self, spec: &TokenSpec, now: Timestamp) {
        let unlisted = |slot: &&Slot| !slot.spec.is_listed() && slot.spec.identity() == spec.identity();
        if self.slots.values().filter(unlisted).count() < self.limits.unlisted.scopes {
            return;
        }
        let idle = self.slots.iter().filter(|(_, slot)| unlisted(slot) && slot.is_idle());
        let next_to_evict = idle.min_by_key(|(_, slot)| (!slot.is_refused(now), slot.used_at)).map(|(key, _)| key);
        if let Some(key) = next_to_evict {
            self.remove_slot(key);
        }
    }

    /// Removes a scope's token and failure from the store, and from this worker unless they are in use. Wakes the workers that hold a token
    /// of it, so that they do the same.
    fn drop_scope(&mut self, key: TokenKey, now: Timestamp, store: &dyn Store) {
        let holders = store::update(store, key, now, |entry| entry.evict(now)).unwrap_or_default();
        let is_kept = self.slots.get(key).is_some_and(|slot| slot.keeps_evicted(now));
        if !is_kept {
            self.remove_slot(key);
        }
        self.wakes
            .extend(holders.into_iter().filter(|queue| is_kept || *queue != self.queue).map(|queue| (queue, key)));
    }
}

/// Returns the back-off of a key whose client is throttled. A key with a valid token tries again within half of the token's remaining
/// lifetime. `None` if the key's own back-off was caused by this throttling and has elapsed.
fn throttling_of(slot: &Slot, throttled: &Failure, now: Timestamp) -> Option<Failure> {
    let elapsed = |failure: &Failure| failure.failed_at == throttled.failed_at;
    if slot.failure.as_ref().is_some_and(elapsed) || slot.held_back.as_ref().is_some_and(elapsed) {
        return None;
    }
    let left = slot.usable(now).map(|token| token.usable_until().since(now));
    let soonest = left.map(|left| now.plus((left / 2).max(Duration::from_secs(1))));
    Some(Failure {
        problem: throttled.problem.clone().about(slot.spec.identity(), slot.spec.scope()),
        next_try: soonest.map_or(throttled.next_try, |soonest| soonest.min(throttled.next_try)),
        ..throttled.clone()
    })
}

fn too_many_new_scopes(spec: &TokenSpec, limits: UnlistedLimits, wait: Duration) -> Problem {
    Problem::new(
        Code::TooManyScopes,
        format!(
            "callers requested more than {} new resources of identity {:?} within a minute",
            limits.new_per_minute,
            spec.identity()
        ),
        "Add the resources that the app needs to the identity's resources, which are not limited, or increase \
         managed_identity.limits.new_scopes_per_minute.",
    )
    .about(spec.identity(), spec.scope())
    .retry_after(wait)
}
