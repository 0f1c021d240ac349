//! The budget of the scopes that callers choose: limits on the scopes that are kept, that are new in a minute, and that are
//! exchanged in parallel.
//!
//! A scope that a destination or the identity's `resources` names is *listed*, and the configuration bounds their number. Every
//! other scope is chosen by a managed-identity caller, and callers can choose any number of them. Each costs an exchange, an entry
//! in shared data, a slot and a timer in each worker, and a log line. All workers of one Envoy process therefore share one budget
//! for each credential.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::vocabulary::{GRACE_PERIOD, LONGEST_LEASE, QueueId, UnlistedLimits};
use crate::entra::TokenKey;
use crate::time::Timestamp;

/// The period of [`UnlistedLimits::new_per_minute`].
const MINUTE: Duration = Duration::from_secs(60);

/// Time after which an unused scope is removed. No token from Entra has a longer lifetime.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(24);

/// Delay before an exchange requests its permit again. Usually the worker that ends another exchange wakes it earlier.
const PERMIT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The unlisted scopes of one credential, shared by all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Budget {
    scopes: Vec<Scope>,
    /// The times at which a new scope was admitted, within the last minute.
    admitted_at: Vec<Timestamp>,
    /// The exchanges that wait for a permit, in order of arrival.
    waiting: Vec<(QueueId, TokenKey)>,
}

/// An unlisted scope that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Scope {
    key: TokenKey,
    used_at: Timestamp,
    /// Whether Entra rejected the scope in the last exchange, and no token of it could be sent.
    refused: bool,
    /// The worker that performs its exchange, and the time at which the permit expires: with its lease.
    exchanging: Option<(QueueId, Timestamp)>,
}

/// The result of requesting a permit for an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    Granted,
    /// The maximum number of exchanges is in progress. Request the permit again at this time.
    Wait {
        until: Timestamp,
    },
}

impl Budget {
    /// Admits a scope. Returns the keys that are evicted for it.
    ///
    /// # Errors
    /// Too many scopes were new within the last minute; the value is the time until the next one is admitted.
    pub(super) fn admit(
        &mut self,
        key: TokenKey,
        limits: UnlistedLimits,
        now: Timestamp,
    ) -> Result<Vec<TokenKey>, Duration> {
        self.remove_expired(now);
        if let Some(scope) = self.scope(key) {
            scope.used_at = now;
            return Ok(Vec::new());
        }
        if self.admitted_at.len() >= limits.new_per_minute {
            let oldest = self.admitted_at.iter().min().copied().unwrap_or(now);
            return Err(oldest.plus(MINUTE).since(now).max(Duration::from_millis(1)));
        }
        self.admitted_at.push(now);
        let mut dropped = Vec::new();
        while self.scopes.len() >= limits.scopes {
            let Some(index) = self.next_to_evict() else { break };
            dropped.push(self.scopes.swap_remove(index).key);
        }
        self.scopes.push(Scope { key, used_at: now, refused: false, exchanging: None });
        Ok(dropped)
    }

    /// Records that a scope is used. Returns whether it is kept.
    pub(super) fn touch(&mut self, key: TokenKey, now: Timestamp) -> bool {
        self.scope(key).map(|scope| scope.used_at = now).is_some()
    }

    /// Requests the permit for the exchange of a scope whose lease the worker holds. The permit expires at `until`. A scope that was
    /// evicted since it was admitted waits until it is admitted again.
    pub(super) fn begin(
        &mut self,
        (queue, key): (QueueId, TokenKey),
        until: Timestamp,
        limits: UnlistedLimits,
        now: Timestamp,
    ) -> Permit {
        let is_other = |scope: &&Scope| scope.key != key && scope.exchanging.is_some();
        let is_kept = self.scopes.iter().any(|scope| scope.key == key);
        if !is_kept || self.scopes.iter().filter(is_other).count() >= limits.parallel_exchanges {
            if !self.waiting.contains(&(queue, key)) && self.waiting.len() < limits.scopes {
                self.waiting.push((queue, key));
            }
            return Permit::Wait { until: now.plus(PERMIT_RETRY_DELAY) };
        }
        self.waiting.retain(|waiting| *waiting != (queue, key));
        if let Some(scope) = self.scope(key) {
            scope.exchanging = Some((queue, until));
        }
        Permit::Granted
    }

    /// Releases a worker's permit for a scope, unless another worker has taken over the exchange. `refused` states whether Entra
    /// rejected the scope and no token of it can be sent; it is `None` if Entra's response does not tell. Returns the next exchange and
    /// its worker.
    pub(super) fn end(
        &mut self,
        (queue, key): (QueueId, TokenKey),
        refused: Option<bool>,
    ) -> Option<(QueueId, TokenKey)> {
        if let Some(scope) = self.scope(key) {
            scope.exchanging.take_if(|(exchanging, _)| *exchanging == queue);
            scope.refused = refused.unwrap_or(scope.refused);
        }
        (!self.waiting.is_empty()).then(|| self.waiting.remove(0))
    }

    /// The keys of the unlisted scopes that are kept.
    pub(super) fn keys(&self) -> Vec<TokenKey> {
        self.scopes.iter().map(|scope| scope.key).collect()
    }

    /// The number of unlisted scopes that are kept.
    pub(super) const fn scopes(&self) -> usize {
        self.scopes.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.admitted_at.is_empty()
    }

    fn scope(&mut self, key: TokenKey) -> Option<&mut Scope> {
        self.scopes.iter_mut().find(|scope| scope.key == key)
    }

    /// Returns the index of the scope to evict next: one that Entra rejected and that has no token, or else the least recently used. A
    /// scope with an exchange in progress is not evicted.
    fn next_to_evict(&self) -> Option<usize> {
        let idle = self.scopes.iter().enumerate().filter(|(_, scope)| scope.exchanging.is_none());
        idle.min_by_key(|(_, scope)| (!scope.refused, scope.used_at)).map(|(index, _)| index)
    }

    /// Removes expired scopes, permits and admissions. A time in the future dates from before the clock was set back and is treated as
    /// now.
    pub(super) fn remove_expired(&mut self, now: Timestamp) {
        self.admitted_at.retain(|at| *at <= now.plus(GRACE_PERIOD) && now.since(*at) < MINUTE);
        for scope in &mut self.scopes {
            scope.used_at = scope.used_at.min(now.plus(GRACE_PERIOD));
            scope.exchanging.take_if(|(_, until)| *until <= now || until.since(now) > LONGEST_LEASE);
        }
        let is_kept = |scope: &Scope| now.since(scope.used_at) < FORGOTTEN_AFTER || scope.exchanging.is_some();
        self.scopes.retain(is_kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_000_000);
    const LIMITS: UnlistedLimits = UnlistedLimits { scopes: 3, new_per_minute: 4, parallel_exchanges: 2 };

    fn key(number: u8) -> TokenKey {
        TokenKey::from_bytes(&[number; 32]).unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn begin(budget: &mut Budget, number: u8, seconds: u64) -> Permit {
        budget.begin((QueueId(7), key(number)), at(seconds + 30), LIMITS, at(seconds))
    }

    #[test]
    fn the_least_recently_used_scope_is_evicted_after_a_rejected_one() {
        let mut budget = Budget::default();
        for number in 0..3 {
            assert_eq!(budget.admit(key(number), LIMITS, at(u64::from(number))), Ok(vec![]));
        }
        assert!(budget.touch(key(0), at(3)));
        assert_eq!(budget.admit(key(3), LIMITS, at(4)), Ok(vec![key(1)]));
        assert!(!budget.touch(key(1), at(5)), "it is no longer kept");
        begin(&mut budget, 3, 5);
        budget.end((QueueId(7), key(3)), Some(true));
        assert_eq!(budget.admit(key(4), LIMITS, at(61)), Ok(vec![key(3)]));
        // A response that does not concern the scope changes nothing, and a token ends the rejection.
        budget.end((QueueId(7), key(2)), Some(true));
        budget.end((QueueId(7), key(2)), None);
        budget.end((QueueId(7), key(0)), Some(true));
        budget.end((QueueId(7), key(0)), Some(false));
        assert_eq!(budget.admit(key(5), LIMITS, at(62)), Ok(vec![key(2)]));
    }

    #[test]
    fn new_scopes_are_limited_in_every_minute_and_known_scopes_are_not() {
        let mut budget = Budget::default();
        for seconds in [0, 10, 20, 30] {
            assert!(budget.admit(key(seconds), LIMITS, at(u64::from(seconds))).is_ok());
        }
        assert_eq!(budget.admit(key(99), LIMITS, at(40)), Err(Duration::from_secs(20)));
        assert_eq!(budget.admit(key(30), LIMITS, at(40)), Ok(vec![]));
        assert_eq!(budget.admit(key(99), LIMITS, at(59)), Err(Duration::from_secs(1)));
        assert!(budget.admit(key(99), LIMITS, at(60)).is_ok());
        assert_eq!(budget.admit(key(98), LIMITS, at(60)), Err(Duration::from_secs(10)));
    }

    #[test]
    fn exchanges_wait_in_order_of_arrival_and_a_scope_with_an_exchange_in_progress_is_not_evicted() {
        let mut budget = Budget::default();
        for number in 0..3 {
            budget.admit(key(number), LIMITS, at(0)).unwrap();
        }
        let wait = Permit::Wait { until: at(2) };
        assert_eq!(
            [0, 1, 2, 2].map(|number| begin(&mut budget, number, 1)),
            [Permit::Granted, Permit::Granted, wait, wait]
        );
        // A worker that takes over a scope's exchange needs no second permit, and keeps it when the first worker ends.
        let other = budget.begin((QueueId(8), key(0)), at(31), LIMITS, at(1));
        assert_eq!(other, Permit::Granted);
        budget.end((QueueId(7), key(0)), None);
        assert_eq!(begin(&mut budget, 2, 1), wait);
        assert_eq!(budget.admit(key(3), LIMITS, at(1)), Ok(vec![key(2)]));
        assert_eq!(budget.end((QueueId(8), key(0)), None), Some((QueueId(7), key(2))));
        assert_eq!(budget.end((QueueId(7), key(1)), None), None);
    }

    #[test]
    fn at_most_as_many_exchanges_wait_as_scopes_are_kept() {
        let mut budget = Budget::default();
        for number in 0..9 {
            assert_eq!(begin(&mut budget, number, 1), Permit::Wait { until: at(2) }, "it was not admitted");
        }
        assert_eq!(budget.waiting.len(), LIMITS.scopes);
    }

    #[test]
    fn the_permit_of_an_exchange_that_never_ends_expires() {
        let mut budget = Budget::default();
        for number in 0..3 {
            budget.admit(key(number), LIMITS, at(0)).unwrap();
            begin(&mut budget, number, 0);
        }
        budget.remove_expired(at(29));
        assert_ne!(begin(&mut budget, 2, 29), Permit::Granted);
        budget.remove_expired(at(30));
        assert_eq!(begin(&mut budget, 2, 30), Permit::Granted);
    }

    #[test]
    fn a_permit_is_valid_for_as_long_as_the_longest_lease_and_no_longer() {
        for (lasts, granted) in [(LONGEST_LEASE, false), (LONGEST_LEASE + Duration::from_millis(1), true)] {
            let mut budget = Budget::default();
            for number in 0..3 {
                budget.admit(key(number), LIMITS, at(0)).unwrap();
                budget.begin((QueueId(7), key(number)), at(0).plus(lasts), LIMITS, at(0));
            }
            budget.remove_expired(at(0));
            assert_eq!(begin(&mut budget, 2, 0) == Permit::Granted, granted, "{lasts:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_blocks_no_scope() {
        let mut budget = Budget::default();
        for number in 0..4 {
            budget.admit(key(number), LIMITS, at(100_000)).unwrap();
        }
        begin(&mut budget, 2, 100_000);
        begin(&mut budget, 3, 100_000);
        assert!(budget.admit(key(9), LIMITS, at(0)).is_ok(), "admissions in the future do not count");
        assert_eq!(begin(&mut budget, 9, 0), Permit::Granted);
    }

    #[test]
    fn a_scope_that_is_unused_for_a_day_is_removed() {
        let mut budget = Budget::default();
        budget.admit(key(1), LIMITS, at(0)).unwrap();
        budget.remove_expired(at(86_399));
        assert!(!budget.is_empty());
        budget.remove_expired(at(86_400));
        assert!(budget.is_empty());
    }
}
