//! The steps of an exchange: acquire the lease, read the assertion, call the token endpoint, publish the result.

use std::time::Duration;

use super::causes::Causes;
use super::freshness::{self, CachedToken};
use super::slot::{Attempt, EndpointCall, Exchange, Slot};
use super::store::{self, Entry, Failure, Lease, RefusedAssertion, Update};
use super::vocabulary::{
    CONTENTION_RETRY_DELAY, GRACE_PERIOD, IMMEDIATE_RETRY_DELAY, QueueId, YIELD_INITIAL, YIELD_MAX,
};
use super::{Broker, Command, Purpose, Turn, credential};
use crate::assertion::Fingerprint;
use crate::entra::{RetryClass, TokenSpec};
use crate::event::{Event, Level};
use crate::metrics;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;
use crate::untrusted::Guid;

/// A failed exchange.
pub(super) struct Failed {
    pub(super) problem: Problem,
    pub(super) retry_class: RetryClass,
    /// The start time of its last call.
    pub(super) began: Timestamp,
    /// The wait that Entra requested.
    pub(super) retry_after: Option<Duration>,
    /// The federated token, if Entra rejected the credential.
    pub(super) refused: Option<Fingerprint>,
}

impl Failed {
    /// Creates a transient failure.
    pub(super) const fn transient(problem: Problem, began: Timestamp) -> Self {
        Self { problem, retry_class: RetryClass::Transient, began, retry_after: None, refused: None }
    }
}

/// The result of requesting a key's lease.
enum LeaseOutcome {
    Acquired,
    /// This worker reads the file to compare its token with the one that Entra rejected.
    AcquiredToCompare,
    HeldByOther {
        until: Timestamp,
    },
    /// Another worker has published a token that is not due, or a failure that backs off.
    NotNeeded,
}

/// Returns the reported class of a failed exchange. A fault in the pod needs a change, whatever its back-off is.
fn class_of(problem: &Problem, retry_class: RetryClass) -> RetryClass {
    match problem.code {
        Code::ClusterMissing
        | Code::AssertionMalformed
        | Code::AssertionExpired
        | Code::AssertionInvalid
        | Code::AssertionUnexpected
        | Code::SourceRefused
        | Code::SourceReplyInvalid => RetryClass::NeedsChange,
        _ => retry_class.after_retry(),
    }
}

/// Creates the log event of an exchange without a token, with the fields that `outcome=failed` and `outcome=retried` share.
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

/// Counts an exchange that is retried immediately, and returns its log event.
fn retried(spec: &TokenSpec, problem: &Problem, class: RetryClass, turn: &mut Turn<'_>) -> Event {
    turn.commands.push(Command::Measure(metrics::exchange(spec.identity(), "retried", class.as_str())));
    unsuccessful(spec, "retried", problem, class)
}

impl Broker {
    /// Advances the exchange of a key, and answers its waiters.
    pub(super) fn poll_slot(&mut self, slot: &mut Slot, turn: &mut Turn<'_>) {
        let (queue, now) = (self.queue, turn.now);
        store::update(turn.store, slot.key(), now, |entry| Update::commit_if(slot.synchronize(entry, queue, now), ()));
        match slot.exchange {
            Exchange::Pausing { until, attempt } if until <= now => self.read(slot, attempt, turn),
            Exchange::Comparing { until, .. }
            | Exchange::Reading { until, .. }
            | Exchange::Calling { until, .. }
            | Exchange::Pausing { until, .. }
                if until > now => {}
            // Idle, deferred, or an exchange of this worker whose response is missing and whose lease has expired.
            _ => self.begin(slot, turn),
        }
        // The waiters that the release limit held back in an earlier turn.
        self.finish_waiters(slot, turn);
        self.time_out_waiters(slot, turn);
    }

    /// Adopts the results that other workers published. If an exchange is still needed, acquires the lease and begins it.
    pub(super) fn begin(&mut self, slot: &mut Slot, turn: &mut Turn<'_>) {
        let (worker, queue, now) = (self.worker, self.queue, turn.now);
        slot.exchange = Exchange::Idle;
        if !slot.needs_exchange(now) {
            slot.prefetch = false;
            return self.finish_waiters(slot, turn);
        }
        if self.hold_back(slot, turn) {
            return self.finish_waiters(slot, turn);
        }
        let until = now.plus(slot.spec.assertion().timeout()).plus(GRACE_PERIOD);
        let lease_outcome = store::update(turn.store, slot.key(), now, |entry| {
            let changed = slot.synchronize(entry, queue, now);
            if !slot.needs_exchange(now) {
                return Update::commit_if(changed, LeaseOutcome::NotNeeded);
            }
            if let Err((waits, until)) = Lease::acquire(&mut entry.lease, (worker, queue), until, now) {
                return Update::commit_if(waits || changed, LeaseOutcome::HeldByOther { until });
            }
            slot.spec.identity().clone_into(&mut entry.identity);
            slot.spec.scope().clone_into(&mut entry.scope);
            match entry.refused.as_mut().filter(|_| slot.may_compare(now)) {
                Some(refused) => {
                    refused.read_at = now;
                    Update::Commit(LeaseOutcome::AcquiredToCompare)
                }
                None => Update::Commit(LeaseOutcome::Acquired),
            }
        });
        if matches!(lease_outcome, Some(LeaseOutcome::Acquired | LeaseOutcome::AcquiredToCompare))
            && !self.acquire_permit(slot, until, turn)
        {
            return self.finish_waiters(slot, turn);
        }
        match lease_outcome {
            Some(LeaseOutcome::AcquiredToCompare) => {
                self.await_assertion(slot, Exchange::Comparing { since: now, until }, turn);
            }
            Some(LeaseOutcome::Acquired) => {
                self.await_assertion(slot, Exchange::Reading { since: now, until, attempt: Attempt::First }, turn);
            }
            Some(LeaseOutcome::HeldByOther { until }) => slot.exchange = Exchange::Deferred { until },
            Some(LeaseOutcome::NotNeeded) => slot.prefetch = false,
            None => slot.exchange = Exchange::Deferred { until: now.plus(CONTENTION_RETRY_DELAY) },
        }
        self.finish_waiters(slot, turn);
    }

    /// Reads the assertion again.
    pub(super) fn read(&mut self, slot: &mut Slot, attempt: Attempt, turn: &mut Turn<'_>) {
        let until = turn.now.plus(slot.spec.assertion().timeout()).plus(GRACE_PERIOD);
        if self.renew(slot, until, turn) {
            self.await_assertion(slot, Exchange::Reading { since: turn.now, until, attempt }, turn);
        }
    }

    /// Calls the token endpoint.
    pub(super) fn call(&mut self, slot: &mut Slot, call: EndpointCall, turn: &mut Turn<'_>) {
        let timeout = self.limits.call_timeout(call.cluster_index, slot.spec.clusters().len());
        let until = turn.now.plus(timeout).plus(GRACE_PERIOD);
        if !self.renew(slot, until, turn) {
            return;
        }
        let cluster = slot.spec.clusters().get(call.cluster_index).cloned().unwrap_or_default();
        let request = call.request.clone().into_call(cluster, timeout);
        turn.commands.push(Command::Call(Purpose::Token(slot.key()), request));
        slot.exchange = Exchange::Calling { until, call: Box::new(call) };
    }

    /// Repeats a call that did not reach the token endpoint, immediately and through its next cluster. Returns the call's problem if
    /// there is no further cluster.
    ///
    /// A call on a pooled connection that a NAT or firewall has dropped ends with a reset or a timeout. Calls to Entra are so rare that
    /// every pooled connection may be affected.
    pub(super) fn call_next(
        &mut self,
        slot: &mut Slot,
        call: EndpointCall,
        problem: Problem,
        turn: &mut Turn<'_>,
    ) -> Option<Problem> {
        let cluster_index = call.cluster_index + 1;
        let Some(next) = slot.spec.clusters().get(cluster_index) else { return Some(problem) };
        let event = retried(&slot.spec, &problem, RetryClass::Transient, turn).with("next_cluster", next).with(
            "remedy",
            "If this repeats, check idle_timeout and tcp_keepalive of the cluster: a NAT or firewall between this Envoy and \
             Entra may drop idle connections.",
        );
        turn.commands.push(Command::LogExchange(event.at_least(Level::Warn)));
        self.call(slot, EndpointCall { cluster_index, ..call }, turn);
        None
    }

    /// Retries an exchange that Entra rejected with an error that a second attempt often resolves.
    pub(super) fn retry_refused(&mut self, slot: &mut Slot, problem: &Problem, class: RetryClass, turn: &mut Turn<'_>) {
        let event = retried(&slot.spec, problem, class, turn);
        turn.commands.push(Command::LogExchange(event));
        match class {
            RetryClass::Immediate => self.try_again(slot, Attempt::Second, IMMEDIATE_RETRY_DELAY, turn),
            _ => self.read(slot, Attempt::Second, turn),
        }
    }

    /// Repeats the exchange from the read of the assertion, after `wait`.
    pub(super) fn try_again(&mut self, slot: &mut Slot, attempt: Attempt, wait: Duration, turn: &mut Turn<'_>) {
        let until = turn.now.plus(wait);
        if self.renew(slot, until.plus(GRACE_PERIOD), turn) {
            slot.exchange = Exchange::Pausing { until, attempt };
        }
    }

    /// Extends this worker's lease for the next step. If another worker has taken it over, this worker waits for that one. Returns
    /// whether the exchange may continue.
    pub(super) fn renew(&mut self, slot: &mut Slot, until: Timestamp, turn: &mut Turn<'_>) -> bool {
        let (worker, queue, now) = (self.worker, self.queue, turn.now);
        let renewed = store::update(turn.store, slot.key(), now, |entry| match &mut entry.lease {
            Some(lease) if lease.holder == worker => {
                lease.until = until;
                Update::Commit(true)
            }
            // The other worker may have published a token meanwhile, which ends a failure that is known here.
            _ => Update::commit_if(slot.synchronize(entry, queue, now), false),
        });
        if renewed == Some(true) {
            // The permit may have expired and gone to another scope.
            return self.acquire_permit(slot, until, turn);
        }
        self.begin(slot, turn);
        false
    }

    /// Releases the lease and continues the back-off, because the file holds the rejected federated token or no valid one.
    pub(super) fn end_comparison(&mut self, slot: &mut Slot, turn: &mut Turn<'_>) {
        self.publish(slot, None, turn, |_, _| Vec::new());
    }

    /// Ends the back-off, in all workers, if the federated token is not the one that Entra rejected. Otherwise releases the lease.
    /// Returns whether the back-off has ended.
    pub(super) fn ends_back_off(&mut self, slot: &mut Slot, read: Fingerprint, turn: &mut Turn<'_>) -> bool {
        let worker = self.worker;
        if slot.refused.is_some_and(|refused| refused.fingerprint == read) {
            self.end_comparison(slot, turn);
            return false;
        }
        (slot.failure, slot.refused) = (None, None);
        store::update(turn.store, slot.key(), turn.now, |entry| {
            let is_ours = entry.lease.as_ref().is_some_and(|lease| lease.holder == worker);
            if is_ours {
                (entry.failure, entry.refused) = (None, None);
            }
            Update::commit_if(is_ours, ())
        });
        true
    }

    /// Leaves the exchange to the workers that serve requests, because this VM serves none and cannot read the federated token.
    pub(super) fn yield_to_workers(&mut self, slot: &mut Slot, turn: &mut Turn<'_>) {
        let wait = YIELD_INITIAL.saturating_mul(1 << slot.unreadable.min(6)).min(YIELD_MAX);
        slot.unreadable = slot.unreadable.saturating_add(1);
        self.publish(slot, None, turn, |_, _| Vec::new());
        slot.exchange = Exchange::Deferred { until: turn.now.plus(wait) };
    }

    /// Publishes a token. `cluster` is the cluster of the call, and `request_id` Entra's id of the response.
    pub(super) fn succeed(
        &mut self,
        slot: &mut Slot,
        cached: CachedToken,
        cluster: &str,
        request_id: Option<&Guid>,
        turn: &mut Turn<'_>,
    ) {
        let now = turn.now;
        turn.commands.push(Command::LogExchange(
            Event::info("exchange")
                .with("outcome", "issued")
                .with("identity", slot.spec.identity())
                .with("scope", slot.spec.scope())
                .with("expires_in_s", cached.expires_at().since(now).as_secs())
                .with("took_ms", now.since(cached.issued_at()).as_millis())
                .with("cluster", cluster)
                .with_some("trace_id", request_id.map(Guid::as_str)),
        ));
        turn.commands.push(Command::Measure(metrics::exchange(slot.spec.identity(), "issued", "none")));
        turn.commands.push(Command::Measure(metrics::exchange_took(now.since(cached.issued_at()).as_millis())));
        let queue = self.queue;
        credential::record_issued(turn.store, &slot.spec, &cached, now);
        self.publish(slot, Some(false), turn, |entry, has_lease| {
            (entry.failure, entry.refused) = (None, None);
            entry.causes = Causes::default();
            entry.exchanges.record(None, now);
            // A worker that took over may already have a newer token.
            let newer = |theirs: &CachedToken| theirs.is_usable(now) && theirs.issued_at() > cached.issued_at();
            match entry.token.as_ref().is_some_and(newer) && !has_lease {
                true => Vec::new(),
                false => entry.replace_token(cached.clone(), queue),
            }
        });
        self.observe_exchange(&slot.spec, turn);
    }

    /// Publishes a failure and its back-off.
    pub(super) fn fail(&mut self, slot: &mut Slot, failed: Failed, turn: &mut Turn<'_>) {
        let Failed { problem, retry_class, began, retry_after, refused } = failed;
        let jitter = self.random.next();
        let now = turn.now;
        // A worker whose lease had expired may still have published a token. The next attempt depends on it.
        let known = turn.store.read(slot.key());
        slot.adopt(&known, now);
        let mut causes = known.causes;
        let failures = if retry_class == RetryClass::Throttled {
            let wait = |failures| freshness::back_off(failures, retry_class, retry_after, Duration::ZERO, jitter);
            credential::record_throttling(turn.store, &slot.spec, &problem, now, &wait)
        } else {
            causes.count(&problem)
        };
        let usable_for = slot.usable(now).map(|token| token.usable_until().since(now)).unwrap_or_default();
        let wait = freshness::back_off(failures, retry_class, retry_after, usable_for, jitter);
        let class = class_of(&problem, retry_class);
        turn.commands.push(Command::LogExchange(
            unsuccessful(&slot.spec, "failed", &problem, class)
                .at_least(Level::Warn)
                .with("took_ms", now.since(began).as_millis())
                .with("failures", failures.max(causes.total()))
                .with("next_try_in_ms", wait.as_millis())
                .with("remedy", &problem.remedy),
        ));
        turn.commands.push(Command::Measure(metrics::exchange(slot.spec.identity(), "failed", class.as_str())));
        let refused_scope = (problem.code == Code::EntraRefused).then(|| slot.usable(now).is_none());
        let refused = refused.map(|fingerprint| RefusedAssertion { fingerprint, read_at: now });
        let failure = Failure { problem, class, failed_at: now, next_try: now.plus(wait), failures };
        self.publish(slot, refused_scope, turn, |entry, has_lease| {
            // A worker that took over decides. An empty entry has been removed in the meantime.
            let is_empty = entry.lease.is_none() && entry.token.is_none() && entry.failure.is_none();
            if has_lease || is_empty {
                entry.failure = Some(failure.clone());
                entry.causes = causes.clone();
                entry.exchanges.record(Some(&failure.problem), now);
                entry.refused = refused;
            }
            Vec::new()
        });
        self.observe_exchange(&slot.spec, turn);
    }

    /// Releases this worker's lease with the result of the exchange, wakes the waiting workers, and finishes the waiters of this one.
    /// `refused` is as in [`Broker::end_exchange`]. `change` receives whether
    /// this worker still holds the lease, and returns the queues of the workers to wake.
    fn publish(
        &mut self,
        slot: &mut Slot,
        refused: Option<bool>,
        turn: &mut Turn<'_>,
        mut change: impl FnMut(&mut Entry, bool) -> Vec<QueueId>,
    ) {
        let (worker, own, now) = (self.worker, self.queue, turn.now);
        let waiting = store::update(turn.store, slot.key(), now, |entry| {
            let waiting = Lease::release(&mut entry.lease, worker);
            let mut wake = change(entry, waiting.is_some());
            let waiting = waiting.unwrap_or_default();
            wake.retain(|queue| !waiting.contains(queue));
            slot.synchronize(entry, own, now);
            Update::Commit([waiting, wake].concat())
        });
        slot.exchange = Exchange::Idle;
        // A prefetch is attempted only once.
        slot.prefetch = false;
        // The permit must be released before the exchange below begins, which needs a permit itself.
        self.end_exchange(&slot.spec, refused, turn);
        let key = slot.key();
        turn.commands.extend(waiting.unwrap_or_default().into_iter().map(|queue| Command::Wake(queue, key)));
        self.finish_waiters(slot, turn);
        // Waiters without a result, because another worker took over, continue to wait.
        if !slot.waiters.is_empty() && !slot.has_ready_waiter(turn.now) {
            self.begin(slot, turn);
        }
    }
}
