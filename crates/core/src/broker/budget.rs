//! The budget of the scopes that callers choose: how many are alive, how many are new in a minute, how many are exchanged
//! at a time.
//!
//! A scope that a destination or the identity's `resources` names is *listed*: the configuration bounds their number. Any
//! other comes from a managed-identity caller, who can invent as many as there are texts. Each costs an exchange, an
//! entry in shared data, a slot and a timer in each worker, and a log line; so all workers of one Envoy process share
//! one budget for each credential.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{GRACE, QueueId};
use crate::entra::TokenKey;
use crate::time::Timestamp;

/// The period of [`UnlistedLimits::new_per_minute`].
const MINUTE: Duration = Duration::from_secs(60);

/// A scope that nobody used for so long is forgotten: no token of Entra's lives longer.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How soon to look again whether an exchange may begin. Usually the worker that ends one wakes the next before that.
const NEXT_LOOK: Duration = Duration::from_secs(1);

/// How many scopes that the configuration does not list callers may ask for, for each credential in one Envoy process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnlistedLimits {
    /// How many are kept: beyond that the least recently used one is dropped, refused ones first.
    pub scopes: usize,
    /// How many may be new within a minute: beyond that callers get 429.
    pub new_per_minute: usize,
    /// How many are exchanged at a time: beyond that exchanges wait for each other.
    pub parallel_exchanges: usize,
}

impl Default for UnlistedLimits {
    /// An app asks for a handful of resources. Sixty-four tokens and their scopes are some 300 KB of shared data, and
    /// thirty exchanges a minute are far below what Entra throttles.
    fn default() -> Self {
        Self { scopes: 64, new_per_minute: 30, parallel_exchanges: 4 }
    }
}

/// What the workers share of one credential's unlisted scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Budget {
    scopes: Vec<Scope>,
    /// When a scope was new, within the last minute.
    admitted_at: Vec<Timestamp>,
    /// The exchanges that wait for another one's end, the first to come first.
    waiting: Vec<(QueueId, TokenKey)>,
}

/// A scope that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Scope {
    key: TokenKey,
    used_at: Timestamp,
    /// Whether Entra refused it last.
    refused: bool,
    /// Which worker exchanges it, and how long that may take.
    exchanging: Option<(QueueId, Timestamp)>,
}

/// Whether an exchange may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    Granted,
    /// As many as may are under way; look again then at the latest.
    Wait {
        until: Timestamp,
    },
}

impl Budget {
    /// Admits a scope. Returns the keys that are dropped for it.
    ///
    /// # Errors
    /// How long until another new one is admitted, when too many were new within the last minute.
    pub(super) fn admit(
        &mut self,
        key: TokenKey,
        limits: UnlistedLimits,
        now: Timestamp,
    ) -> Result<Vec<TokenKey>, Duration> {
        self.forget_past(now);
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
            let Some(index) = self.least_wanted() else { break };
            dropped.push(self.scopes.swap_remove(index).key);
        }
        self.scopes.push(Scope { key, used_at: now, refused: false, exchanging: None });
        Ok(dropped)
    }

    /// Notes that a scope is used. Returns whether it is kept.
    pub(super) fn touch(&mut self, key: TokenKey, now: Timestamp) -> bool {
        self.scope(key).map(|scope| scope.used_at = now).is_some()
    }

    /// Begins the exchange of a scope, whose lease the worker has; `until` is when it has ended at the latest. A scope that was
    /// dropped since it was admitted waits until it is admitted again.
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
            return Permit::Wait { until: now.plus(NEXT_LOOK) };
        }
        self.waiting.retain(|waiting| *waiting != (queue, key));
        if let Some(scope) = self.scope(key) {
            scope.exchanging = Some((queue, until));
        }
        Permit::Granted
    }

    /// Ends a worker's exchange of a scope, unless another worker took it over; `refused` is what Entra said of it, where it
    /// said something. Returns which worker is to begin which exchange next.
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

    /// How many scopes that callers chose are kept.
    pub(super) const fn scopes(&self) -> usize {
        self.scopes.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.admitted_at.is_empty()
    }

    fn scope(&mut self, key: TokenKey) -> Option<&mut Scope> {
        self.scopes.iter_mut().find(|scope| scope.key == key)
    }

    /// The place of the scope that is dropped next: refused ones first, then the least recently used; none that is being
    /// exchanged.
    fn least_wanted(&self) -> Option<usize> {
        let idle = self.scopes.iter().enumerate().filter(|(_, scope)| scope.exchanging.is_none());
        idle.min_by_key(|(_, scope)| (!scope.refused, scope.used_at)).map(|(index, _)| index)
    }

    /// Forgets what is over. A time from the future is from before the clock was set back: it counts as now.
    pub(super) fn forget_past(&mut self, now: Timestamp) {
        self.admitted_at.retain(|at| *at <= now.plus(GRACE) && now.since(*at) < MINUTE);
        for scope in &mut self.scopes {
            scope.used_at = scope.used_at.min(now.plus(GRACE));
            scope.exchanging.take_if(|(_, until)| *until <= now || until.since(now) > LONGEST);
        }
        let is_kept = |scope: &Scope| now.since(scope.used_at) < FORGOTTEN_AFTER || scope.exchanging.is_some();
        self.scopes.retain(is_kept);
    }
}

/// No exchange takes longer, with both of its tries.
const LONGEST: Duration = Duration::from_secs(150);

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
    fn the_least_recently_used_scope_is_dropped_and_a_refused_one_before_it() {
        let mut budget = Budget::default();
        for number in 0..3 {
            assert_eq!(budget.admit(key(number), LIMITS, at(u64::from(number))), Ok(vec![]));
        }
        assert!(budget.touch(key(0), at(3)));
        assert_eq!(budget.admit(key(3), LIMITS, at(4)), Ok(vec![key(1)]));
        assert!(!budget.touch(key(1), at(5)), "it is not kept any more");
        begin(&mut budget, 3, 5);
        budget.end((QueueId(7), key(3)), Some(true));
        assert_eq!(budget.admit(key(4), LIMITS, at(61)), Ok(vec![key(3)]));
        // What said nothing of the scope changes nothing, and a token ends the refusal.
        budget.end((QueueId(7), key(2)), Some(true));
        budget.end((QueueId(7), key(2)), None);
        budget.end((QueueId(7), key(0)), Some(true));
        budget.end((QueueId(7), key(0)), Some(false));
        assert_eq!(budget.admit(key(5), LIMITS, at(62)), Ok(vec![key(2)]));
    }

    #[test]
    fn no_more_scopes_are_new_in_any_minute_and_a_known_one_is_not_new() {
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
    fn exchanges_wait_for_each_other_in_their_order_and_a_scope_that_is_exchanged_is_not_dropped() {
        let mut budget = Budget::default();
        for number in 0..3 {
            budget.admit(key(number), LIMITS, at(0)).unwrap();
        }
        let wait = Permit::Wait { until: at(2) };
        assert_eq!(
            [0, 1, 2, 2].map(|number| begin(&mut budget, number, 1)),
            [Permit::Granted, Permit::Granted, wait, wait]
        );
        // Another worker that takes over the exchange of a scope needs no other permit, and keeps it when the first one ends.
        let other = budget.begin((QueueId(8), key(0)), at(31), LIMITS, at(1));
        assert_eq!(other, Permit::Granted);
        budget.end((QueueId(7), key(0)), None);
        assert_eq!(begin(&mut budget, 2, 1), wait);
        assert_eq!(budget.admit(key(3), LIMITS, at(1)), Ok(vec![key(2)]));
        assert_eq!(budget.end((QueueId(8), key(0)), None), Some((QueueId(7), key(2))));
        assert_eq!(budget.end((QueueId(7), key(1)), None), None);
    }

    #[test]
    fn an_exchange_that_never_ended_holds_its_permit_no_longer_than_it_may_take() {
        let mut budget = Budget::default();
        for number in 0..3 {
            budget.admit(key(number), LIMITS, at(0)).unwrap();
            begin(&mut budget, number, 0);
        }
        budget.forget_past(at(29));
        assert_ne!(begin(&mut budget, 2, 29), Permit::Granted);
        budget.forget_past(at(30));
        assert_eq!(begin(&mut budget, 2, 30), Permit::Granted);
    }

    #[test]
    fn a_clock_that_is_set_back_blocks_nobody() {
        let mut budget = Budget::default();
        for number in 0..4 {
            budget.admit(key(number), LIMITS, at(100_000)).unwrap();
        }
        begin(&mut budget, 2, 100_000);
        begin(&mut budget, 3, 100_000);
        assert!(budget.admit(key(9), LIMITS, at(0)).is_ok(), "what was new then is not new now");
        assert_eq!(begin(&mut budget, 9, 0), Permit::Granted);
    }

    #[test]
    fn what_nobody_uses_for_a_day_is_forgotten() {
        let mut budget = Budget::default();
        budget.admit(key(1), LIMITS, at(0)).unwrap();
        budget.forget_past(at(86_399));
        assert!(!budget.is_empty());
        budget.forget_past(at(86_400));
        assert!(budget.is_empty());
    }
}
