//! The steps of an exchange: take the lease, read the assertion, call the token endpoint, publish what came of it.

use std::sync::Arc;
use std::time::Duration;

use super::causes::Causes;
use super::freshness::{self, CachedToken};
use super::shared::{self, Entry, Failure, Lease, RefusedAssertion, Update};
use super::slot::{Attempt, EndpointCall, Exchange, Waiter};
use super::{
    Broker, CONTENDED, Command, ELSEWHERE_FIRST, ELSEWHERE_LONGEST, GRACE, QueueId, READ_TIMEOUT, SOON, Turn,
    credential,
};
use crate::assertion::Fingerprint;
use crate::entra::{RetryClass, TokenKey, TokenSpec};
use crate::event::{Event, Level};
use crate::metrics;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;
use crate::untrusted::Guid;

/// An exchange that failed.
pub(super) struct Failed {
    pub(super) problem: Problem,
    pub(super) retry_class: RetryClass,
    /// When its last call began.
    pub(super) began: Timestamp,
    /// How long Entra asked to wait.
    pub(super) asked_for: Option<Duration>,
    /// The federated token, when Entra refused the credential.
    pub(super) refused: Option<Fingerprint>,
}

impl Failed {
    /// One that passes by itself.
    pub(super) const fn transiently(problem: Problem, began: Timestamp) -> Self {
        Self { problem, retry_class: RetryClass::Transient, began, asked_for: None, refused: None }
    }
}

/// Whose turn it is to fetch.
enum LeaseOutcome {
    Ours,
    /// This worker reads the file, to see whether it still holds the federated token that Entra refused.
    Comparison,
    Theirs {
        until: Timestamp,
    },
    /// There is something newer to look at: a token that is not due, or a failure that backs off.
    Nobodys,
}

/// The class of a failed exchange: what is wrong in the pod needs a change, whatever the back-off is.
fn class_of(problem: &Problem, retry_class: RetryClass) -> RetryClass {
    match problem.code {
        Code::ClusterMissing | Code::AssertionMalformed | Code::AssertionExpired | Code::AssertionInvalid => {
            RetryClass::NeedsChange
        }
        _ => retry_class.after_retry(),
    }
}

/// The line about an exchange without a token: the fields that `outcome=failed` and `outcome=retried` share.
fn unsuccessful(spec: &TokenSpec, outcome: &str, problem: &Problem, class: RetryClass) -> Event {
    Event::info("exchange")
        .with("outcome", outcome)
        .with("identity", spec.identity())
        .with("scope", spec.scope())
        .with("code", problem.code.as_str())
        .with("class", class.as_str())
        .with_some("aadsts", problem.aadsts())
        .with_some("trace_id", problem.entra.trace_id.as_ref().map(Guid::as_str))
        .with_some("correlation_id", problem.entra.correlation_id.as_ref().map(Guid::as_str))
        .with("detail", &problem.detail)
}

/// Counts an exchange that is retried at once, and gives the line to log about it.
fn retried(spec: &TokenSpec, problem: &Problem, class: RetryClass, turn: &mut Turn<'_>) -> Event {
    turn.commands.push(Command::Measure(metrics::exchange(spec.identity(), "retried", class.as_str())));
    unsuccessful(spec, "retried", problem, class)
}

impl Broker {
    pub(super) fn poll_key(&mut self, key: TokenKey, turn: &mut Turn<'_>) {
        let (queue, now) = (self.queue, turn.now);
        let Some(slot) = self.slots.get_mut(&key) else { return };
        shared::update(turn.shared, key, now, |entry| Update::commit_if(slot.synchronize(entry, queue, now), ()));
        match slot.exchange {
            Exchange::Pausing { until, attempt } if until <= now => self.read(key, attempt, turn),
            Exchange::Comparing { until }
            | Exchange::Reading { until, .. }
            | Exchange::Calling { until, .. }
            | Exchange::Pausing { until, .. }
                if until > now => {}
            // Nobody's yet, another worker's, or one of ours whose answer never came and whose lease is over.
            _ => self.begin(key, turn),
        }
        // Those that could not be released in the turn that had an outcome for them.
        self.finish_waiters(key, turn);
        self.give_up_waiting(key, turn);
        self.update_timers(key, turn);
    }

    /// Takes what others have published; where that does not do, takes the lease and begins an exchange.
    pub(super) fn begin(&mut self, key: TokenKey, turn: &mut Turn<'_>) {
        let (worker, queue, now) = (self.worker, self.queue, turn.now);
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.exchange = Exchange::Idle;
        if !slot.wants_exchange(now) {
            slot.wanted = false;
            return self.finish_waiters(key, turn);
        }
        if self.hold_back(key, turn) {
            return self.finish_waiters(key, turn);
        }
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let until = now.plus(READ_TIMEOUT).plus(GRACE);
        let lease_outcome = shared::update(turn.shared, key, now, |entry| {
            let entered = slot.synchronize(entry, queue, now);
            if !slot.wants_exchange(now) {
                return Update::commit_if(entered, LeaseOutcome::Nobodys);
            }
            match &mut entry.lease {
                Some(lease) if lease.holder != worker && lease.is_live(now) => {
                    let lease_outcome = LeaseOutcome::Theirs { until: lease.until };
                    let waits = !lease.waiting.contains(&queue);
                    if waits {
                        lease.waiting.push(queue);
                    }
                    Update::commit_if(waits || entered, lease_outcome)
                }
                lease => {
                    let mut waiting = lease.take().map(|lease| lease.waiting).unwrap_or_default();
                    waiting.retain(|other| *other != queue);
                    slot.spec.identity().clone_into(&mut entry.identity);
                    slot.spec.scope().clone_into(&mut entry.scope);
                    *lease = Some(Lease { holder: worker, until, waiting });
                    match entry.refused.as_mut().filter(|_| slot.may_compare(now)) {
                        Some(refused) => {
                            refused.read_at = now;
                            Update::Commit(LeaseOutcome::Comparison)
                        }
                        None => Update::Commit(LeaseOutcome::Ours),
                    }
                }
            }
        });
        if matches!(lease_outcome, Some(LeaseOutcome::Ours | LeaseOutcome::Comparison)) && !self.has_permit(key, turn) {
            return self.finish_waiters(key, turn);
        }
        let Some(slot) = self.slots.get_mut(&key) else { return };
        match lease_outcome {
            Some(LeaseOutcome::Comparison) => {
                slot.exchange = Exchange::Comparing { until };
                turn.commands.push(Command::ReadAssertion(Arc::clone(&slot.spec)));
            }
            Some(LeaseOutcome::Ours) => {
                slot.exchange = Exchange::Reading { until, attempt: Attempt::First };
                slot.malformed = false;
                turn.commands.push(Command::ReadAssertion(Arc::clone(&slot.spec)));
            }
            Some(LeaseOutcome::Theirs { until }) => slot.exchange = Exchange::Elsewhere { until },
            Some(LeaseOutcome::Nobodys) => slot.wanted = false,
            None => slot.exchange = Exchange::Elsewhere { until: now.plus(CONTENDED) },
        }
        self.finish_waiters(key, turn);
    }

    /// Reads the assertion once more.
    pub(super) fn read(&mut self, key: TokenKey, attempt: Attempt, turn: &mut Turn<'_>) {
        let until = turn.now.plus(READ_TIMEOUT).plus(GRACE);
        if !self.renew(key, until, turn) {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.exchange = Exchange::Reading { until, attempt };
            turn.commands.push(Command::ReadAssertion(Arc::clone(&slot.spec)));
        }
    }

    /// Calls the token endpoint.
    pub(super) fn call(&mut self, key: TokenKey, call: EndpointCall, turn: &mut Turn<'_>) {
        let Some(slot) = self.slots.get(&key) else { return };
        let spec = Arc::clone(&slot.spec);
        let timeout = self.limits.call_timeout(call.cluster_index, spec.clusters().len());
        let until = turn.now.plus(timeout).plus(GRACE);
        if !self.renew(key, until, turn) {
            return;
        }
        let cluster = spec.clusters().get(call.cluster_index).cloned().unwrap_or_default();
        turn.commands.push(Command::CallEndpoint { spec, cluster, request: call.request.clone(), timeout });
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.exchange = Exchange::Calling { until, call: Box::new(call) };
        }
    }

    /// Calls the token endpoint once more at once, through the next of its clusters, when it was not reached. Gives the
    /// call's problem back when there is no next.
    ///
    /// A pooled connection that a NAT or firewall has forgotten ends a call so, with a reset or with silence, and Entra is
    /// asked so rarely that every connection may be one.
    pub(super) fn call_next(
        &mut self,
        key: TokenKey,
        call: EndpointCall,
        problem: Problem,
        turn: &mut Turn<'_>,
    ) -> Option<Problem> {
        let cluster_index = call.cluster_index + 1;
        let Some(slot) = self.slots.get(&key) else { return Some(problem) };
        let Some(next) = slot.spec.clusters().get(cluster_index) else { return Some(problem) };
        let event = retried(&slot.spec, &problem, RetryClass::Transient, turn).with("next_cluster", next).with(
            "remedy",
            "If this repeats, check idle_timeout and tcp_keepalive of the cluster: something between this Envoy and \
             Entra forgets idle connections.",
        );
        turn.commands.push(Command::Log(event.at_least(Level::Warn)));
        self.call(key, EndpointCall { cluster_index, ..call }, turn);
        None
    }

    /// Retries an exchange at once that Entra refused with an error that a second try often cures.
    pub(super) fn retry_refused(&mut self, key: TokenKey, problem: &Problem, class: RetryClass, turn: &mut Turn<'_>) {
        if let Some(slot) = self.slots.get(&key) {
            let event = retried(&slot.spec, problem, class, turn);
            turn.commands.push(Command::Log(event));
        }
        match class {
            RetryClass::Immediate => self.try_again(key, Attempt::Second, SOON, turn),
            _ => self.read(key, Attempt::Second, turn),
        }
    }

    /// Reads the assertion once more after `wait`, and goes on with the exchange from there.
    pub(super) fn try_again(&mut self, key: TokenKey, attempt: Attempt, wait: Duration, turn: &mut Turn<'_>) {
        let until = turn.now.plus(wait);
        if self.renew(key, until.plus(GRACE), turn)
            && let Some(slot) = self.slots.get_mut(&key)
        {
            slot.exchange = Exchange::Pausing { until, attempt };
        }
    }

    /// Prolongs our lease for the next step. When it went to another worker meanwhile, ours stands down and waits.
    fn renew(&mut self, key: TokenKey, until: Timestamp, turn: &mut Turn<'_>) -> bool {
        let (worker, queue, now) = (self.worker, self.queue, turn.now);
        let Some(slot) = self.slots.get_mut(&key) else { return false };
        let renewed = shared::update(turn.shared, key, now, |entry| match &mut entry.lease {
            Some(lease) if lease.holder == worker => {
                lease.until = until;
                Update::Commit(true)
            }
            // The other worker may have published a token meanwhile, which ends a failure that is known here.
            _ => Update::commit_if(slot.synchronize(entry, queue, now), false),
        });
        if renewed == Some(true) {
            // A worker that did nothing for long may have lost its permit to another scope.
            return self.has_permit(key, turn);
        }
        self.begin(key, turn);
        false
    }

    /// The file holds the federated token that Entra refused, or none that could be sent: the back-off goes on.
    pub(super) fn end_comparison(&mut self, key: TokenKey, turn: &mut Turn<'_>) {
        self.publish(key, None, turn, |_, _| Vec::new());
    }

    /// Whether the federated token that was read ends the back-off, because it is not the one that Entra refused. Then the
    /// failure is forgotten in all workers; if it does not, the lease is given back.
    pub(super) fn ends_back_off(&mut self, key: TokenKey, read: Fingerprint, turn: &mut Turn<'_>) -> bool {
        let worker = self.worker;
        let Some(slot) = self.slots.get_mut(&key) else { return false };
        if slot.refused.is_some_and(|refused| refused.fingerprint == read) {
            self.end_comparison(key, turn);
            return false;
        }
        (slot.failure, slot.refused) = (None, None);
        shared::update(turn.shared, key, turn.now, |entry| {
            let is_ours = entry.lease.as_ref().is_some_and(|lease| lease.holder == worker);
            if is_ours {
                (entry.failure, entry.refused) = (None, None);
            }
            Update::commit_if(is_ours, ())
        });
        true
    }

    /// This VM cannot read the federated token and serves no requests: another one can, and does.
    pub(super) fn yield_to_workers(&mut self, key: TokenKey, turn: &mut Turn<'_>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let wait = ELSEWHERE_FIRST.saturating_mul(1 << slot.unreadable.min(6)).min(ELSEWHERE_LONGEST);
        slot.unreadable = slot.unreadable.saturating_add(1);
        self.publish(key, None, turn, |_, _| Vec::new());
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.exchange = Exchange::Elsewhere { until: turn.now.plus(wait) };
        }
    }

    /// Publishes a token, which Entra issued through `cluster` in its answer `request_id`.
    pub(super) fn succeed(
        &mut self,
        key: TokenKey,
        cached: CachedToken,
        cluster: &str,
        request_id: Option<&Guid>,
        turn: &mut Turn<'_>,
    ) {
        let Some(slot) = self.slots.get(&key) else { return };
        let now = turn.now;
        turn.commands.push(Command::Log(
            Event::info("exchange")
                .with("outcome", "issued")
                .with("identity", slot.spec.identity())
                .with("scope", slot.spec.scope())
                .with("expires_in_s", cached.expires_at().since(now).as_secs())
                .with("took_ms", now.since(cached.issued_at()).as_millis())
                .with("cluster", cluster)
                .with_some("trace_id", request_id.map(Guid::as_str)),
        ));
        let spec = Arc::clone(&slot.spec);
        turn.commands.push(Command::Measure(metrics::exchange(spec.identity(), "issued", "none")));
        turn.commands.push(Command::Measure(metrics::exchange_took(now.since(cached.issued_at()).as_millis())));
        let queue = self.queue;
        credential::note_issued(turn.shared, &spec, &cached, now);
        self.publish(key, Some(false), turn, |entry, has_lease| {
            (entry.failure, entry.refused) = (None, None);
            entry.causes = Causes::default();
            // Another worker that took over may have a newer one already.
            let newer = |theirs: &CachedToken| theirs.is_usable(now) && theirs.issued_at() > cached.issued_at();
            match entry.token.as_ref().is_some_and(newer) && !has_lease {
                true => Vec::new(),
                false => entry.replace_token(cached.clone(), queue),
            }
        });
        self.observe_exchange(&spec, turn);
    }

    /// Publishes a failure and its back-off.
    pub(super) fn fail(&mut self, key: TokenKey, failed: Failed, turn: &mut Turn<'_>) {
        let Failed { problem, retry_class, began, asked_for, refused } = failed;
        let jitter = self.random.next();
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let now = turn.now;
        // A worker whose lease had ended may have brought a token all the same: the next try is timed by that.
        let known = shared::read(turn.shared, key);
        slot.adopt(&known, now);
        let mut causes = known.causes;
        let failures = if retry_class == RetryClass::Throttled {
            let wait = |failures| freshness::back_off(failures, retry_class, asked_for, Duration::ZERO, jitter);
            credential::note_throttled(turn.shared, &slot.spec, &problem, now, wait)
        } else {
            causes.count(&problem)
        };
        let usable_for = slot.usable(now).map(|token| token.usable_until().since(now)).unwrap_or_default();
        let wait = freshness::back_off(failures, retry_class, asked_for, usable_for, jitter);
        let class = class_of(&problem, retry_class);
        turn.commands.push(Command::Log(
            unsuccessful(&slot.spec, "failed", &problem, class)
                .at_least(Level::Warn)
                .with("took_ms", now.since(began).as_millis())
                .with("failures", failures.max(causes.total()))
                .with("next_try_in_ms", wait.as_millis())
                .with("remedy", &problem.remedy),
        ));
        turn.commands.push(Command::Measure(metrics::exchange(slot.spec.identity(), "failed", class.as_str())));
        let spec = Arc::clone(&slot.spec);
        let refused_scope = (problem.code == Code::EntraRefused).then_some(true);
        let refused = refused.map(|fingerprint| RefusedAssertion { fingerprint, read_at: now });
        let failure = Failure { problem, class, failed_at: now, next_try: now.plus(wait), failures };
        self.publish(key, refused_scope, turn, |entry, has_lease| {
            // Another worker that took over has the later word. When nothing is there the entry was let go meanwhile.
            let is_empty = entry.lease.is_none() && entry.token.is_none() && entry.failure.is_none();
            if has_lease || is_empty {
                entry.failure = Some(failure.clone());
                entry.causes = causes.clone();
                entry.refused = refused;
            }
            Vec::new()
        });
        self.observe_exchange(&spec, turn);
    }

    /// Gives back our lease with what came of it, wakes who waits elsewhere, and finishes our own. `refused` is what Entra
    /// said of the scope, where it said something. `change` is told whether the lease is ours still, and returns the queues of
    /// workers that must know of its change.
    fn publish(
        &mut self,
        key: TokenKey,
        refused: Option<bool>,
        turn: &mut Turn<'_>,
        mut change: impl FnMut(&mut Entry, bool) -> Vec<QueueId>,
    ) {
        let (worker, own, now) = (self.worker, self.queue, turn.now);
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let waiting = shared::update(turn.shared, key, now, |entry| {
            let lease = entry.lease.take_if(|lease| lease.holder == worker);
            let mut wake = change(entry, lease.is_some());
            let waiting = lease.map(|lease| lease.waiting).unwrap_or_default();
            wake.retain(|queue| !waiting.contains(queue));
            slot.synchronize(entry, own, now);
            Update::Commit([waiting, wake].concat())
        });
        slot.exchange = Exchange::Idle;
        // Whoever does not wait is not tried for again and again.
        slot.wanted = false;
        // Before another exchange begins below, which needs a permit of its own.
        let spec = Arc::clone(&slot.spec);
        self.end_exchange(&spec, refused, turn);
        turn.commands.extend(waiting.unwrap_or_default().into_iter().map(|queue| Command::Wake(queue, key)));
        self.finish_waiters(key, turn);
        // Whoever could not be finished, because another worker took over, goes on waiting.
        if self.slots.get(&key).is_some_and(|slot| !slot.waiters.is_empty() && !slot.has_ready_waiter(turn.now)) {
            self.begin(key, turn);
        }
    }

    /// Finishes those for whom there is a token that does, or a failure that backs off: the first to come first, and
    /// only as many as may be released now.
    fn finish_waiters(&mut self, key: TokenKey, turn: &mut Turn<'_>) {
        let now = turn.now;
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let mut waiters = std::mem::take(&mut slot.waiters);
        waiters.retain(|waiter| {
            if self.release.is_spent(now) {
                return true;
            }
            let Some(outcome) = slot.outcome(waiter.need, waiter.rejected.as_ref(), now) else { return true };
            let outcome = slot.result_of(outcome, now);
            let outcome_is_token = outcome.is_ok();
            slot.used |= outcome_is_token;
            self.release.take(1, now);
            self.waiting.remove(&waiter.stream);
            turn.commands.push(Command::Finish(waiter.stream, outcome));
            // The other workers must know who holds the token.
            if outcome_is_token && !std::mem::replace(&mut slot.entered, true) {
                turn.commands.push(Command::Wake(self.queue, key));
            }
            false
        });
        slot.waiters = waiters;
    }

    /// Answers those whose time is over; with a token that does not last, where there is one.
    fn give_up_waiting(&mut self, key: TokenKey, turn: &mut Turn<'_>) {
        let now = turn.now;
        let wait = self.limits.wait;
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let over = slot.waiters.iter().take_while(|waiter| waiter.deadline <= now).count();
        let over = self.release.take(over, now);
        let given_up: Vec<Waiter> = slot.waiters.drain(..over).collect();
        for waiter in given_up {
            self.waiting.remove(&waiter.stream);
            let token = slot.usable_for(waiter.rejected.as_ref(), now).cloned();
            let outcome = token.ok_or_else(|| {
                Problem::new(
                    Code::TokenWaitTimeout,
                    format!("no token came within {} s", wait.as_secs()),
                    "See in the log what the exchange waits for: Entra, or the way to it, is slow.",
                )
                .about(slot.spec.identity(), slot.spec.scope())
                .retry_after(GRACE)
            });
            turn.commands.push(Command::Finish(waiter.stream, outcome));
        }
    }

    /// Counts the lease, and sets the key's timer.
    pub(super) fn update_timers(&mut self, key: TokenKey, turn: &mut Turn<'_>) {
        if let Some(slot) = self.slots.get_mut(&key) {
            let leased = slot.holds_lease();
            if std::mem::replace(&mut slot.leased, leased) != leased {
                turn.commands.push(Command::Measure(metrics::leases(if leased { 1 } else { -1 })));
            }
        }
        self.schedule(key, turn.now);
    }

    /// Sets the key's timer, or lets the key go.
    pub(super) fn schedule(&mut self, key: TokenKey, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let due = slot.next_due(now);
        if let Some(old) = slot.timer.take() {
            self.timers.remove(&(old, key));
        }
        match due {
            Some(at) => {
                slot.timer = Some(at);
                self.timers.insert((at, key));
            }
            None => {
                self.slots.remove(&key);
            }
        }
    }

    /// Lets a key go, and its timer.
    pub(super) fn let_go(&mut self, key: TokenKey) {
        if let Some(at) = self.slots.remove(&key).and_then(|slot| slot.timer) {
            self.timers.remove(&(at, key));
        }
    }
}
