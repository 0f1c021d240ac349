//! When a token is used, refreshed and no longer used; how long to wait after a failure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::GRACE;
use crate::entra::{AccessToken, RetryClass};
use crate::time::Timestamp;

/// From this life on a token without `refresh_in` is refreshed at its half, as Microsoft's libraries do.
const LONG_LIFE: Duration = Duration::from_secs(2 * 3600);

/// A shorter life is refreshed this long before its end, or at its half when that is later.
const REFRESH_MARGIN: Duration = Duration::from_secs(5 * 60);

/// No token is refreshed sooner than this, or than a quarter of its life, whatever `refresh_in` says and the jitter takes
/// off: one that is due when it comes would be fetched again and again.
const SOONEST_REFRESH: Duration = Duration::from_secs(30);

/// A token is not used in its last moments: it would expire on its way.
const LAST_MOMENTS: Duration = Duration::from_secs(30);

/// A token and its times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedToken {
    token: AccessToken,
    issued_at: Timestamp,
    expires_at: Timestamp,
    refresh_at: Timestamp,
    usable_until: Timestamp,
}

impl CachedToken {
    /// A token that was asked for at `asked_at`, so that the time its answer took shortens its life here.
    ///
    /// `jitter` is uniform in 0..=u32::MAX: up to a tenth of the life is taken off the time of refresh, so that
    /// proxies that start together drift apart.
    pub(crate) fn new(
        token: AccessToken,
        asked_at: Timestamp,
        expires_in: Duration,
        refresh_in: Option<Duration>,
        jitter: u32,
    ) -> Self {
        let before_refresh = match refresh_in.filter(|wait| *wait < expires_in) {
            Some(wait) => wait,
            None if expires_in > LONG_LIFE => expires_in / 2,
            None => expires_in.saturating_sub(REFRESH_MARGIN.min(expires_in / 2)),
        };
        let early = part(expires_in / 10, jitter);
        let soonest = SOONEST_REFRESH.min(expires_in / 4);
        let expires_at = asked_at.plus(expires_in);
        Self {
            token,
            issued_at: asked_at,
            expires_at,
            refresh_at: asked_at.plus(before_refresh.saturating_sub(early).max(soonest)),
            usable_until: expires_at.minus(LAST_MOMENTS.min(expires_in / 10)),
        }
    }

    /// The access token.
    pub const fn token(&self) -> &AccessToken {
        &self.token
    }

    /// When the token was requested: the time from which its lifetime counts.
    pub const fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// When the token expires.
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whether it may still be sent: not in its last min(30 s, life/10), and not when it was requested in the future. The
    /// clock was set back since, and nobody knows how much of the token's lifetime has elapsed.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        now < self.usable_until && self.issued_at <= now.plus(GRACE)
    }

    /// Whether another should be fetched.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.refresh_at
    }

    /// From when on another should be fetched.
    pub(crate) const fn refresh_at(&self) -> Timestamp {
        self.refresh_at
    }

    /// From when on it is not sent any more.
    pub(crate) const fn usable_until(&self) -> Timestamp {
        self.usable_until
    }

    /// Whether a client that wants five more minutes of it is served, or it never had that long to give.
    pub(crate) fn is_long_lived(&self, now: Timestamp) -> bool {
        self.expires_at.since(now) >= REFRESH_MARGIN || self.expires_at.since(self.issued_at) <= 2 * REFRESH_MARGIN
    }
}

/// Whether `discard_tokens_before` discards a token that was asked for at `issued_at`. A time that has not come yet discards
/// nothing: every new token would be fetched in vain.
pub(super) fn is_discarded(issued_at: Timestamp, before: Option<Timestamp>, now: Timestamp) -> bool {
    before.is_some_and(|before| issued_at < before && before <= now)
}

/// How long to wait after the `failures`-th failure in a row (1 is the first): exponential, with full jitter, never
/// under a second; what must be changed by somebody is tried less often than what passes by itself.
///
/// What the endpoint asked for is the least; while a token is valid the next try is never later than half of what is
/// left of it (`usable_for`).
pub(crate) fn back_off(
    failures: u32,
    retry_class: RetryClass,
    asked_for: Option<Duration>,
    usable_for: Duration,
    jitter: u32,
) -> Duration {
    let (first, longest) = match retry_class {
        RetryClass::Transient | RetryClass::Throttled | RetryClass::Immediate | RetryClass::StaleAssertion => (2, 60),
        RetryClass::NeedsChange => (30, 600),
    };
    let doublings = failures.saturating_sub(1).min(16);
    let window = Duration::from_secs((first << doublings).min(longest));
    let shortest = Duration::from_secs(1);
    let wait = part(window, jitter).max(shortest).max(asked_for.unwrap_or_default());
    match usable_for {
        Duration::ZERO => wait,
        left => wait.min((left / 2).max(shortest)),
    }
}

/// The share of `length` that `share` is of `u32::MAX`.
fn part(length: Duration, share: u32) -> Duration {
    let millis = length.as_millis() * u128::from(share) / u128::from(u32::MAX);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_000_000);

    fn cached(life: u64, refresh_in: Option<u64>, jitter: u32) -> CachedToken {
        let token = AccessToken::parse("t").unwrap();
        CachedToken::new(token, NOW, Duration::from_secs(life), refresh_in.map(Duration::from_secs), jitter)
    }

    fn refresh_after(life: u64, refresh_in: Option<u64>, jitter: u32) -> u64 {
        cached(life, refresh_in, jitter).refresh_at.since(NOW).as_secs()
    }

    #[test]
    fn refresh_is_as_asked_or_at_half_of_a_long_life_or_a_margin_before_the_end() {
        assert_eq!(refresh_after(86400, Some(43200), 0), 43200);
        assert_eq!(refresh_after(86400, None, 0), 43200);
        assert_eq!(refresh_after(3600, None, 0), 3300);
        assert_eq!(refresh_after(7200, None, 0), 6900);
        assert_eq!(refresh_after(7202, None, 0), 3601);
        assert_eq!(refresh_after(120, None, 0), 60);
        // A refresh_in at or past the end is none.
        assert_eq!(refresh_after(3600, Some(3600), 0), 3300);
    }

    #[test]
    fn jitter_takes_off_up_to_a_tenth_of_the_life() {
        assert_eq!(refresh_after(3600, None, u32::MAX), 2940);
    }

    #[test]
    fn a_refresh_that_would_come_at_once_waits_a_little() {
        assert_eq!(refresh_after(86400, Some(100), u32::MAX), 30);
        assert_eq!(refresh_after(3600, Some(1), 0), 30);
        assert_eq!(refresh_after(60, Some(1), 0), 15);
    }

    #[test]
    fn a_token_is_not_sent_in_its_last_moments() {
        let hour = cached(3600, None, 0);
        assert!(hour.is_usable(NOW.plus(Duration::from_millis(3_569_999))));
        assert!(!hour.is_usable(NOW.plus(Duration::from_secs(3570))));
        let minute = cached(60, None, 0);
        assert!(minute.is_usable(NOW.plus(Duration::from_millis(53_999))));
        assert!(!minute.is_usable(NOW.plus(Duration::from_secs(54))));
    }

    #[test]
    fn a_token_from_the_future_is_not_usable() {
        let hour = cached(3600, None, 0);
        assert!(hour.is_usable(NOW.minus(GRACE)), "another worker may have read the clock a moment later");
        assert!(!hour.is_usable(NOW.minus(GRACE + Duration::from_millis(1))));
    }

    #[test]
    fn back_off_doubles_to_its_cap_and_obeys_what_was_asked_for() {
        let wait = |failures, retry_class| back_off(failures, retry_class, None, Duration::ZERO, u32::MAX).as_secs();
        assert_eq!([1, 2, 3, 6, 99].map(|failures| wait(failures, RetryClass::Transient)), [2, 4, 8, 60, 60]);
        assert_eq!([1, 2, 9].map(|failures| wait(failures, RetryClass::NeedsChange)), [30, 60, 600]);
        assert_eq!(back_off(1, RetryClass::Transient, None, Duration::ZERO, 0), Duration::from_secs(1));
        let asked = Some(Duration::from_secs(90));
        assert_eq!(back_off(1, RetryClass::Transient, asked, Duration::ZERO, 0), Duration::from_secs(90));
    }

    #[test]
    fn while_a_token_is_valid_the_next_try_is_within_half_of_its_time() {
        let left = Duration::from_secs(100);
        assert_eq!(back_off(9, RetryClass::NeedsChange, None, left, u32::MAX), Duration::from_secs(50));
    }
}
