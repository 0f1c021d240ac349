//! What holds an exchange back: Entra throttles the identity, or the scope is over the budget of unlisted scopes.

use std::sync::Arc;
use std::time::Duration;

use super::budget::{Permit, UnlistedLimits};
use super::shared::{self, Failure, Update};
use super::slot::{Exchange, Slot};
use super::{Broker, CONTENDED, Command, GRACE, Limits, READ_TIMEOUT, SOON, SharedData, Turn, credential};
use crate::entra::{RetryClass, TokenKey, TokenSpec};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// How often the use of a scope is told to the other workers. At the default rate of new scopes, at most half as many as
/// are kept can come between two uses that are told: a scope in use is not dropped for others.
const TOUCH_PERIOD: Duration = Duration::from_secs(30);

impl Limits {
    /// How long an exchange takes at the longest, with both of its tries.
    pub(super) fn longest_exchange(&self) -> Duration {
        let one = READ_TIMEOUT.saturating_add(GRACE).saturating_add(self.exchange).saturating_add(GRACE);
        one.saturating_mul(2).saturating_add(SOON).saturating_add(GRACE)
    }
}

impl Broker {
    /// Whether an exchange for this may begin, before the first request waits for it.
    ///
    /// # Errors
    /// Why the request is answered at once.
    pub(super) fn admit(
        &mut self,
        spec: &Arc<TokenSpec>,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> Result<(), Problem> {
        let state = credential::read(shared, spec.credential());
        if let Some(throttled) = state.throttled(now) {
            return Err(throttled.to_problem(now).about(spec.identity(), spec.scope()));
        }
        self.admit_scope(spec, now, shared)
    }

    /// Whether the scope is listed, or within the budget.
    fn admit_scope(&mut self, spec: &TokenSpec, now: Timestamp, shared: &dyn SharedData) -> Result<(), Problem> {
        if spec.is_listed() {
            return Ok(());
        }
        let limits = self.limits.unlisted;
        let key = spec.key();
        let admitted = credential::update(shared, spec.credential(), now, |state| {
            Update::Commit(state.budget.admit(key, limits, now))
        });
        match admitted {
            Some(Ok(dropped)) => {
                dropped.into_iter().for_each(|key| self.drop_scope(key, now, shared));
                Ok(())
            }
            Some(Err(wait)) => Err(too_many_new_scopes(spec, limits, wait)),
            // The exchange itself is admitted again.
            None => Ok(()),
        }
    }

    /// Holds the exchange of a key back, if Entra throttles its client or its scope is over the budget. Returns whether it
    /// did, and notes the failure.
    pub(super) fn hold_back(&mut self, key: TokenKey, turn: &mut Turn<'_>) -> bool {
        let (worker, now) = (self.worker, turn.now);
        let Some(slot) = self.slots.get_mut(&key) else { return false };
        // Another worker's token or exchange does as well.
        let entry = shared::read(turn.shared, key);
        slot.adopt(&entry, now);
        let is_others = |lease: &shared::Lease| lease.holder != worker && lease.is_live(now);
        if !slot.wants_exchange(now) || entry.lease.as_ref().is_some_and(is_others) {
            return false;
        }
        let state = credential::read(turn.shared, slot.spec.credential());
        if let Some(throttled) = state.throttled(now).and_then(|throttled| put_off(slot, throttled, now)) {
            slot.held_back = Some(throttled);
            return true;
        }
        let spec = Arc::clone(&slot.spec);
        let Err(problem) = self.admit_scope(&spec, now, turn.shared) else { return false };
        let wait = problem.retry_after.unwrap_or(GRACE);
        if let Some(slot) = self.slots.get_mut(&key) {
            let class = RetryClass::Transient;
            slot.held_back = Some(Failure { problem, class, failed_at: now, next_try: now.plus(wait), failures: 1 });
        }
        true
    }

    /// Whether the exchange of a key may begin, whose lease this worker has; if not, the lease is given back until there is a
    /// permit.
    pub(super) fn has_permit(&mut self, key: TokenKey, turn: &mut Turn<'_>) -> bool {
        let (worker, queue, limits, now) = (self.worker, self.queue, self.limits, turn.now);
        let Some(slot) = self.slots.get_mut(&key).filter(|slot| !slot.spec.is_listed()) else { return true };
        let ends = now.plus(limits.longest_exchange());
        let permit = credential::update(turn.shared, slot.spec.credential(), now, |state| {
            Update::Commit(state.budget.begin((queue, key), ends, limits.unlisted, now))
        });
        let until = match permit {
            Some(Permit::Granted) => return true,
            Some(Permit::Wait { until }) => until,
            None => now.plus(CONTENDED),
        };
        slot.exchange = Exchange::Elsewhere { until };
        let waiting = shared::update(turn.shared, key, now, |entry| {
            let lease = entry.lease.take_if(|lease| lease.holder == worker);
            Update::Commit(lease.map(|lease| lease.waiting).unwrap_or_default())
        });
        turn.commands.extend(waiting.unwrap_or_default().into_iter().map(|queue| Command::Wake(queue, key)));
        false
    }

    /// Ends the exchange of a key. `refused` is what Entra said of its scope, where it said something.
    pub(super) fn end_exchange(&self, spec: &TokenSpec, refused: Option<bool>, turn: &mut Turn<'_>) {
        if spec.is_listed() {
            return;
        }
        let next = credential::update(turn.shared, spec.credential(), turn.now, |state| {
            Update::Commit(state.budget.end((self.queue, spec.key()), refused))
        });
        if let Some((queue, key)) = next.flatten() {
            turn.commands.push(Command::Wake(queue, key));
        }
    }

    /// Tells the other workers now and then that a scope is in use.
    pub(super) fn touch(&mut self, spec: &TokenSpec, now: Timestamp, shared: &dyn SharedData) {
        let key = spec.key();
        let Some(slot) = self.slots.get_mut(&key).filter(|_| !spec.is_listed()) else { return };
        slot.used_at = now;
        if now.since(slot.touched_at) >= TOUCH_PERIOD || slot.touched_at > now {
            slot.touched_at = now;
            credential::update(shared, spec.credential(), now, |state| match state.budget.touch(key, now) {
                true => Update::Commit(()),
                false => Update::Abandon(()),
            });
        }
    }

    /// Makes room for a scope in this worker: the least recently used one is let go, refused ones first. One that
    /// requests wait for, or whose exchange is under way, stays.
    pub(super) fn make_room(&mut self, spec: &TokenSpec) {
        let unlisted = |slot: &&Slot| !slot.spec.is_listed() && slot.spec.identity() == spec.identity();
        if spec.is_listed() || self.slots.values().filter(unlisted).count() < self.limits.unlisted.scopes {
            return;
        }
        let idle = self.slots.iter().filter(|(_, slot)| unlisted(slot) && slot.is_idle());
        let least_wanted = idle.min_by_key(|(_, slot)| (!slot.is_refused(), slot.used_at)).map(|(key, _)| *key);
        if let Some(key) = least_wanted {
            self.let_go(key);
        }
    }

    /// Drops a scope: its token and its failure are shared no longer.
    fn drop_scope(&mut self, key: TokenKey, now: Timestamp, shared: &dyn SharedData) {
        shared::remove(shared, key, now);
        if self.slots.get(&key).is_some_and(Slot::is_idle) {
            self.let_go(key);
        }
    }
}

/// The throttling, as it holds a key back: a valid token is refreshed within half of what is left of it all the same.
/// `None` when the key's own back-off was timed by this throttling and is over.
fn put_off(slot: &Slot, throttled: &Failure, now: Timestamp) -> Option<Failure> {
    let served = |failure: &Failure| failure.failed_at == throttled.failed_at;
    if slot.failure.as_ref().is_some_and(served) || slot.held_back.as_ref().is_some_and(served) {
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
            "callers asked for more than {} new resources of identity {:?} within a minute",
            limits.new_per_minute,
            spec.identity()
        ),
        "Write the resources that the app needs into the identity's resources: those are not limited. Or raise \
         managed_identity.limits.new_scopes_per_minute.",
    )
    .about(spec.identity(), spec.scope())
    .retry_after(wait)
}
