//! The steps of an exchange: take the lease, read the assertion, call the token endpoint, publish what came of it.

use std::sync::Arc;
use std::time::Duration;

use super::causes::Causes;
use super::freshness::{self, Issued};
use super::shared::{self, Entry, Failure, Lease, RefusedAssertion, Then};
use super::slot::{Attempt, Call, Exchange, Waiter};
use super::{
    Broker, CONTENDED, Command, ELSEWHERE_FIRST, ELSEWHERE_LONGEST, GRACE, Moment, QueueId, READ_TIMEOUT, SOON,
    credential,
};
use crate::assertion::Fingerprint;
use crate::entra::{Grant, Passing, TokenKey};
use crate::event::{Event, Level};
use crate::metrics;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;
use crate::untrusted::Guid;

/// An exchange that failed.
pub(super) struct Failed {
    pub(super) problem: Problem,
    pub(super) passing: Passing,
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
        Self { problem, passing: Passing::ByItself, began, asked_for: None, refused: None }
    }
}

/// Whose turn it is to fetch.
enum Turn {
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
fn class_of(problem: &Problem, passing: Passing) -> Passing {
    match problem.code {
        Code::ClusterMissing | Code::AssertionMalformed | Code::AssertionExpired | Code::AssertionInvalid => {
            Passing::ByChange
        }
        _ => passing.after_retry(),
    }
}

/// The line about an exchange without a token: the fields that `outcome=failed` and `outcome=retried` share.
fn unsuccessful(grant: &Grant, outcome: &str, problem: &Problem, class: Passing) -> Event {
    Event::info("exchange")
        .with("outcome", outcome)
        .with("identity", grant.identity())
        .with("scope", grant.scope())
        .with("code", problem.code.as_str())
        .with("class", class.as_str())
        .with_some("aadsts", problem.aadsts())
        .with_some("trace_id", problem.entra.trace_id.as_ref().map(Guid::as_str))
        .with_some("correlation_id", problem.entra.correlation_id.as_ref().map(Guid::as_str))
        .with("detail", &problem.detail)
}

/// Counts an exchange that is retried at once, and gives the line to log about it.
fn retried(grant: &Grant, problem: &Problem, class: Passing, moment: &mut Moment<'_>) -> Event {
    moment.commands.push(Command::Measure(metrics::exchange(grant.identity(), "retried", class.as_str())));
    unsuccessful(grant, "retried", problem, class)
}

impl Broker {
    pub(super) fn look_at(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        let (queue, now) = (self.queue, moment.now);
        let Some(slot) = self.slots.get_mut(&key) else { return };
        shared::update(moment.shared, key, now, |entry| Then::write_if(slot.synchronize(entry, queue, now), ()));
        match slot.exchange {
            Exchange::Pausing { until, attempt } if until <= now => self.read(key, attempt, moment),
            Exchange::Comparing { until }
            | Exchange::Reading { until, .. }
            | Exchange::Calling { until, .. }
            | Exchange::Pausing { until, .. }
                if until > now => {}
            // Nobody's yet, another worker's, or one of ours whose answer never came and whose lease is over.
            _ => self.begin(key, moment),
        }
        // Those that could not be released in the turn that had an outcome for them.
        self.finish_waiters(key, moment);
        self.give_up_waiting(key, moment);
        self.settle(key, moment);
    }

    /// Takes what others have published; where that does not do, takes the lease and begins an exchange.
    pub(super) fn begin(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        let (worker, queue, now) = (self.worker, self.queue, moment.now);
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.exchange = Exchange::Idle;
        if !slot.wants_exchange(now) {
            slot.wanted = false;
            return self.finish_waiters(key, moment);
        }
        if self.hold_back(key, moment) {
            return self.finish_waiters(key, moment);
        }
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let until = now.plus(READ_TIMEOUT).plus(GRACE);
        let turn = shared::update(moment.shared, key, now, |entry| {
            let entered = slot.synchronize(entry, queue, now);
            if !slot.wants_exchange(now) {
                return Then::write_if(entered, Turn::Nobodys);
            }
            match &mut entry.lease {
                Some(lease) if lease.holder != worker && lease.is_live(now) => {
                    let turn = Turn::Theirs { until: lease.until };
                    let waits = !lease.waiting.contains(&queue);
                    if waits {
                        lease.waiting.push(queue);
                    }
                    Then::write_if(waits || entered, turn)
                }
                lease => {
                    let mut waiting = lease.take().map(|lease| lease.waiting).unwrap_or_default();
                    waiting.retain(|other| *other != queue);
                    slot.grant.identity().clone_into(&mut entry.identity);
                    slot.grant.scope().clone_into(&mut entry.scope);
                    *lease = Some(Lease { holder: worker, until, waiting });
                    match entry.refused.as_mut().filter(|_| slot.may_compare(now)) {
                        Some(refused) => {
                            refused.read_at = now;
                            Then::Write(Turn::Comparison)
                        }
                        None => Then::Write(Turn::Ours),
                    }
                }
            }
        });
        if matches!(turn, Some(Turn::Ours | Turn::Comparison)) && !self.has_permit(key, moment) {
            return self.finish_waiters(key, moment);
        }
        let Some(slot) = self.slots.get_mut(&key) else { return };
        match turn {
            Some(Turn::Comparison) => {
                slot.exchange = Exchange::Comparing { until };
                moment.commands.push(Command::ReadAssertion(Arc::clone(&slot.grant)));
            }
            Some(Turn::Ours) => {
                slot.exchange = Exchange::Reading { until, attempt: Attempt::First };
                slot.malformed = false;
                moment.commands.push(Command::ReadAssertion(Arc::clone(&slot.grant)));
            }
            Some(Turn::Theirs { until }) => slot.exchange = Exchange::Elsewhere { until },
            Some(Turn::Nobodys) => slot.wanted = false,
            None => slot.exchange = Exchange::Elsewhere { until: now.plus(CONTENDED) },
        }
        self.finish_waiters(key, moment);
    }

    /// Reads the assertion once more.
    pub(super) fn read(&mut self, key: TokenKey, attempt: Attempt, moment: &mut Moment<'_>) {
        let until = moment.now.plus(READ_TIMEOUT).plus(GRACE);
        if !self.renew(key, until, moment) {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.exchange = Exchange::Reading { until, attempt };
            moment.commands.push(Command::ReadAssertion(Arc::clone(&slot.grant)));
        }
    }

    /// Calls the token endpoint.
    pub(super) fn call(&mut self, key: TokenKey, call: Call, moment: &mut Moment<'_>) {
        let Some(slot) = self.slots.get(&key) else { return };
        let grant = Arc::clone(&slot.grant);
        let timeout = self.limits.call_timeout(call.way, grant.clusters().len());
        let until = moment.now.plus(timeout).plus(GRACE);
        if !self.renew(key, until, moment) {
            return;
        }
        let cluster = grant.clusters().get(call.way).cloned().unwrap_or_default();
        moment.commands.push(Command::CallEndpoint { grant, cluster, request: call.request.clone(), timeout });
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
        call: Call,
        problem: Problem,
        moment: &mut Moment<'_>,
    ) -> Option<Problem> {
        let way = call.way + 1;
        let Some(slot) = self.slots.get(&key) else { return Some(problem) };
        let Some(next) = slot.grant.clusters().get(way) else { return Some(problem) };
        let event = retried(&slot.grant, &problem, Passing::ByItself, moment).with("next_cluster", next).with(
            "remedy",
            "If this repeats, check idle_timeout and tcp_keepalive of the cluster: something between this Envoy and \
             Entra forgets idle connections.",
        );
        moment.commands.push(Command::Log(event.at_least(Level::Warn)));
        self.call(key, Call { way, ..call }, moment);
        None
    }

    /// Retries an exchange at once that Entra refused with an error that a second try often cures.
    pub(super) fn retry_refused(&mut self, key: TokenKey, problem: &Problem, class: Passing, moment: &mut Moment<'_>) {
        if let Some(slot) = self.slots.get(&key) {
            let event = retried(&slot.grant, problem, class, moment);
            moment.commands.push(Command::Log(event));
        }
        match class {
            Passing::RetrySoon => self.try_again(key, Attempt::Second, SOON, moment),
            _ => self.read(key, Attempt::Second, moment),
        }
    }

    /// Reads the assertion once more after `wait`, and goes on with the exchange from there.
    pub(super) fn try_again(&mut self, key: TokenKey, attempt: Attempt, wait: Duration, moment: &mut Moment<'_>) {
        let until = moment.now.plus(wait);
        if self.renew(key, until.plus(GRACE), moment)
            && let Some(slot) = self.slots.get_mut(&key)
        {
            slot.exchange = Exchange::Pausing { until, attempt };
        }
    }

    /// Prolongs our lease for the next step. When it went to another worker meanwhile, ours stands down and waits.
    fn renew(&mut self, key: TokenKey, until: Timestamp, moment: &mut Moment<'_>) -> bool {
        let worker = self.worker;
        let renewed = shared::update(moment.shared, key, moment.now, |entry| match &mut entry.lease {
            Some(lease) if lease.holder == worker => {
                lease.until = until;
                Then::Write(true)
            }
            _ => Then::Keep(false),
        });
        if renewed == Some(true) {
            // A worker that did nothing for long may have lost its permit to another scope.
            return self.has_permit(key, moment);
        }
        self.begin(key, moment);
        false
    }

    /// The file holds the federated token that Entra refused, or none that could be sent: the back-off goes on.
    pub(super) fn end_comparison(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        self.publish(key, None, moment, |_, _| Vec::new());
    }

    /// Whether the federated token that was read ends the back-off, because it is not the one that Entra refused. Then the
    /// failure is forgotten in all workers; if it does not, the lease is given back.
    pub(super) fn ends_back_off(&mut self, key: TokenKey, read: Fingerprint, moment: &mut Moment<'_>) -> bool {
        let worker = self.worker;
        let Some(slot) = self.slots.get_mut(&key) else { return false };
        if slot.refused.is_some_and(|refused| refused.fingerprint == read) {
            self.end_comparison(key, moment);
            return false;
        }
        (slot.failure, slot.refused) = (None, None);
        shared::update(moment.shared, key, moment.now, |entry| {
            let is_ours = entry.lease.as_ref().is_some_and(|lease| lease.holder == worker);
            if is_ours {
                (entry.failure, entry.refused) = (None, None);
            }
            Then::write_if(is_ours, ())
        });
        true
    }

    /// This VM cannot read the federated token and serves no requests: another one can, and does.
    pub(super) fn leave_to_others(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let wait = ELSEWHERE_FIRST.saturating_mul(1 << slot.unreadable.min(6)).min(ELSEWHERE_LONGEST);
        slot.unreadable = slot.unreadable.saturating_add(1);
        self.publish(key, None, moment, |_, _| Vec::new());
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.exchange = Exchange::Elsewhere { until: moment.now.plus(wait) };
        }
    }

    /// Publishes a token, which Entra issued through `cluster` in its answer `request_id`.
    pub(super) fn succeed(
        &mut self,
        key: TokenKey,
        issued: Issued,
        cluster: &str,
        request_id: Option<&Guid>,
        moment: &mut Moment<'_>,
    ) {
        let Some(slot) = self.slots.get(&key) else { return };
        let now = moment.now;
        moment.commands.push(Command::Log(
            Event::info("exchange")
                .with("outcome", "issued")
                .with("identity", slot.grant.identity())
                .with("scope", slot.grant.scope())
                .with("expires_in_s", issued.expires_at().since(now).as_secs())
                .with("took_ms", now.since(issued.issued_at()).as_millis())
                .with("cluster", cluster)
                .with_some("trace_id", request_id.map(Guid::as_str)),
        ));
        let grant = Arc::clone(&slot.grant);
        moment.commands.push(Command::Measure(metrics::exchange(grant.identity(), "issued", "none")));
        moment.commands.push(Command::Measure(metrics::exchange_took(now.since(issued.issued_at()).as_millis())));
        let queue = self.queue;
        credential::note_issued(moment.shared, &grant, &issued, now);
        self.publish(key, Some(false), moment, |entry, has_lease| {
            (entry.failure, entry.refused) = (None, None);
            entry.causes = Causes::default();
            // Another worker that took over may have a newer one already.
            let newer = |theirs: &Issued| theirs.is_usable(now) && theirs.issued_at() > issued.issued_at();
            match entry.token.as_ref().is_some_and(newer) && !has_lease {
                true => Vec::new(),
                false => entry.replace_token(issued.clone(), queue),
            }
        });
        self.observe_exchange(&grant, moment);
    }

    /// Publishes a failure and its back-off.
    pub(super) fn fail(&mut self, key: TokenKey, failed: Failed, moment: &mut Moment<'_>) {
        let Failed { problem, passing, began, asked_for, refused } = failed;
        let jitter = self.random.next();
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let now = moment.now;
        // A worker whose lease had ended may have brought a token all the same: the next try is timed by that.
        let known = shared::read(moment.shared, key);
        slot.adopt(&known, now);
        let mut causes = known.causes;
        let failures = if passing == Passing::Throttled {
            let wait = |failures| freshness::back_off(failures, passing, asked_for, Duration::ZERO, jitter);
            credential::note_throttled(moment.shared, &slot.grant, &problem, now, wait)
        } else {
            causes.count(&problem)
        };
        let usable_for = slot.usable(now).map(|token| token.usable_until().since(now)).unwrap_or_default();
        let wait = freshness::back_off(failures, passing, asked_for, usable_for, jitter);
        let class = class_of(&problem, passing);
        moment.commands.push(Command::Log(
            unsuccessful(&slot.grant, "failed", &problem, class)
                .at_least(Level::Warn)
                .with("took_ms", now.since(began).as_millis())
                .with("failures", failures.max(causes.total()))
                .with("next_try_in_ms", wait.as_millis())
                .with("remedy", &problem.remedy),
        ));
        moment.commands.push(Command::Measure(metrics::exchange(slot.grant.identity(), "failed", class.as_str())));
        let grant = Arc::clone(&slot.grant);
        let refused_scope = (problem.code == Code::EntraRefused).then_some(true);
        let refused = refused.map(|fingerprint| RefusedAssertion { fingerprint, read_at: now });
        let failure = Failure { problem, class, failed_at: now, next_try: now.plus(wait), failures };
        self.publish(key, refused_scope, moment, |entry, has_lease| {
            // Another worker that took over has the later word. When nothing is there the entry was let go meanwhile.
            let is_empty = entry.lease.is_none() && entry.token.is_none() && entry.failure.is_none();
            if has_lease || is_empty {
                entry.failure = Some(failure.clone());
                entry.causes = causes.clone();
                entry.refused = refused;
            }
            Vec::new()
        });
        self.observe_exchange(&grant, moment);
    }

    /// Gives back our lease with what came of it, wakes who waits elsewhere, and finishes our own. `refused` is what Entra
    /// said of the scope, where it said something. `change` is told whether the lease is ours still, and returns the queues of
    /// workers that must know of its change.
    fn publish(
        &mut self,
        key: TokenKey,
        refused: Option<bool>,
        moment: &mut Moment<'_>,
        mut change: impl FnMut(&mut Entry, bool) -> Vec<QueueId>,
    ) {
        let (worker, own, now) = (self.worker, self.queue, moment.now);
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let waiting = shared::update(moment.shared, key, now, |entry| {
            let lease = entry.lease.take_if(|lease| lease.holder == worker);
            let mut wake = change(entry, lease.is_some());
            let waiting = lease.map(|lease| lease.waiting).unwrap_or_default();
            wake.retain(|queue| !waiting.contains(queue));
            slot.synchronize(entry, own, now);
            Then::Write([waiting, wake].concat())
        });
        slot.exchange = Exchange::Idle;
        // Whoever does not wait is not tried for again and again.
        slot.wanted = false;
        // Before another exchange begins below, which needs a permit of its own.
        let grant = Arc::clone(&slot.grant);
        self.end_exchange(&grant, refused, moment);
        moment.commands.extend(waiting.unwrap_or_default().into_iter().map(|queue| Command::Wake(queue, key)));
        self.finish_waiters(key, moment);
        // Whoever could not be finished, because another worker took over, goes on waiting.
        if self.slots.get(&key).is_some_and(|slot| !slot.waiters.is_empty() && !slot.has_ready_waiter(moment.now)) {
            self.begin(key, moment);
        }
    }

    /// Finishes those for whom there is a token that does, or a failure that backs off: the first to come first, and
    /// only as many as may be released now.
    fn finish_waiters(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        let now = moment.now;
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
            moment.commands.push(Command::Finish(waiter.stream, outcome));
            // The other workers must know who holds the token.
            if outcome_is_token && !std::mem::replace(&mut slot.entered, true) {
                moment.commands.push(Command::Wake(self.queue, key));
            }
            false
        });
        slot.waiters = waiters;
    }

    /// Answers those whose time is over; with a token that does not last, where there is one.
    fn give_up_waiting(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        let now = moment.now;
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
                    Code::WaitedTooLong,
                    format!("no token came within {} s", wait.as_secs()),
                    "See in the log what the exchange waits for: Entra, or the way to it, is slow.",
                )
                .about(slot.grant.identity(), slot.grant.scope())
                .retry_after(GRACE)
            });
            moment.commands.push(Command::Finish(waiter.stream, outcome));
        }
    }

    /// Counts the lease, and sets the key's timer.
    pub(super) fn settle(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        if let Some(slot) = self.slots.get_mut(&key) {
            let leased = slot.holds_lease();
            if std::mem::replace(&mut slot.leased, leased) != leased {
                moment.commands.push(Command::Measure(metrics::leases(if leased { 1 } else { -1 })));
            }
        }
        self.schedule(key, moment.now);
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
