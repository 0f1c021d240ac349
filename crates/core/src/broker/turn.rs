//! One turn of a key: its slot is taken, changed by the steps of its exchange, and put back with its next timer.

use super::slot::{Slot, Waiter};
use super::store::Store;
use super::vocabulary::GRACE_PERIOD;
use super::{Broker, Command};
use crate::entra::TokenKey;
use crate::metrics;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// One call into the broker: its time, the store, and the commands that it produces.
pub(super) struct Turn<'a> {
    pub(super) now: Timestamp,
    pub(super) store: &'a dyn Store,
    pub(super) commands: Vec<Command>,
}

impl<'a> Turn<'a> {
    pub(super) const fn new(now: Timestamp, store: &'a dyn Store) -> Self {
        Self { now, store, commands: Vec::new() }
    }
}

impl Broker {
    /// Polls a key.
    pub(super) fn poll_key(&mut self, key: TokenKey, turn: &mut Turn<'_>) {
        self.with_slot(key, turn, Self::poll_slot);
    }

    /// Takes the slot of a key for one turn: passes it to `steps`, and puts it back, unless it is no longer needed.
    pub(super) fn with_slot(
        &mut self,
        key: TokenKey,
        turn: &mut Turn<'_>,
        steps: impl FnOnce(&mut Self, &mut Slot, &mut Turn<'_>),
    ) {
        let Some(mut slot) = self.slots.take(key) else { return };
        steps(self, &mut slot, turn);
        let leased = slot.holds_lease();
        if std::mem::replace(&mut slot.leased, leased) != leased {
            turn.commands.push(Command::Measure(metrics::leases(if leased { 1 } else { -1 })));
        }
        turn.commands.extend(self.wakes.drain(..).map(|(queue, key)| Command::Wake(queue, key)));
        self.put_back(slot, turn.now);
    }

    /// Sets the timer of a key, or removes the key if it has none.
    pub(super) fn schedule(&mut self, key: TokenKey, now: Timestamp) {
        if let Some(slot) = self.slots.take(key) {
            self.put_back(slot, now);
        }
    }

    /// Puts a slot back with its next timer, or removes it if it has none.
    #[inline(never)]
    pub(super) fn put_back(&mut self, mut slot: Box<Slot>, now: Timestamp) {
        let due = slot.next_due(now);
        if let Some(old) = slot.timer.take() {
            self.timers.remove(&(old, slot.key()));
        }
        if let Some(at) = due {
            slot.timer = Some(at);
            self.timers.insert((at, slot.key()));
            self.slots.put_back(slot);
        }
    }

    /// Removes a key and its timer.
    pub(super) fn remove_slot(&mut self, key: TokenKey) {
        if let Some(at) = self.slots.take(key).and_then(|slot| slot.timer) {
            self.timers.remove(&(at, key));
        }
    }

    /// Finishes the waiters for which there is an acceptable token or a failure that backs off, in order of arrival and within the
    /// release limit.
    pub(super) fn finish_waiters(&mut self, slot: &mut Slot, turn: &mut Turn<'_>) {
        let now = turn.now;
        let mut waiters = std::mem::take(&mut slot.waiters);
        waiters.retain(|waiter| {
            if self.release.is_spent(now) {
                return true;
            }
            let Some(outcome) = slot.outcome(waiter.required_lifetime, waiter.rejected.as_ref(), now) else {
                return true;
            };
            let outcome = slot.result_of(outcome, now);
            let outcome_is_token = outcome.is_ok();
            slot.used |= outcome_is_token;
            self.release.take(1, now);
            self.waiting = self.waiting.saturating_sub(1);
            turn.commands.push(Command::Finish(waiter.stream, outcome));
            // The shared entry must list this worker as a holder of the token.
            if outcome_is_token && !std::mem::replace(&mut slot.registered, true) {
                turn.commands.push(Command::Wake(self.queue, slot.key()));
            }
            false
        });
        slot.waiters = waiters;
    }

    /// Answers the waiters whose deadline has passed: with the cached token if it can still be sent, otherwise with a problem.
    pub(super) fn time_out_waiters(&mut self, slot: &mut Slot, turn: &mut Turn<'_>) {
        let now = turn.now;
        let wait = self.limits.wait;
        let expired = slot.waiters.iter().take_while(|waiter| waiter.deadline <= now).count();
        let released = self.release.take(expired, now);
        let timed_out: Vec<Waiter> = slot.waiters.drain(..released).collect();
        for waiter in timed_out {
            self.waiting = self.waiting.saturating_sub(1);
            let token = slot.usable_for(waiter.rejected.as_ref(), now).cloned();
            let outcome = token.ok_or_else(|| {
                Problem::new(
                    Code::TokenWaitTimeout,
                    format!("no token arrived within {} s", wait.as_secs()),
                    "Check in the log what the exchange waits for: Entra or the network path to it is slow.",
                )
                .about(slot.spec.identity(), slot.spec.scope())
                .retry_after(GRACE_PERIOD)
            });
            turn.commands.push(Command::Finish(waiter.stream, outcome));
        }
    }
}
