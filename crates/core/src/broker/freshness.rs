//! The times at which a token is usable, due for refresh and expired, and the back-off after a failure.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::vocabulary::GRACE_PERIOD;
use crate::azure::HeaderForm;
use crate::entra::{AccessToken, RetryClass};
use crate::time::{Timestamp, part};

/// Lifetime above which a token without `refresh_in` is refreshed after half of its lifetime, as Microsoft's libraries do.
const LONG_LIFE: Duration = Duration::from_hours(2);

/// Time before expiry at which a token with a shorter lifetime is refreshed, unless half of its lifetime is shorter.
const REFRESH_MARGIN: Duration = Duration::from_mins(5);

/// Minimum age, or a quarter of the lifetime if that is shorter, at which a token is refreshed, whatever `refresh_in` and the jitter
/// are. A token that is due on arrival would be fetched endlessly.
const SOONEST_REFRESH: Duration = Duration::from_secs(30);

/// Time before expiry, or a tenth of the lifetime if that is shorter, from which on a token is not sent: it could expire in transit.
const LAST_MOMENTS: Duration = Duration::from_secs(30);

/// A cached access token with its times. It holds a secret, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedToken {
    token: AccessToken,
    issued_at: Timestamp,
    expires_at: Timestamp,
    refresh_at: Timestamp,
    usable_until: Timestamp,
    #[serde(skip)]
    local: Local,
}

/// What one worker keeps with a token.
#[derive(Default)]
struct Local {
    /// Whether the worker has sent the token.
    sent: AtomicBool,
    /// The value of a header whose form is not that of the token, which is built for the first request that needs it.
    encoded: OnceLock<String>,
}

impl Clone for Local {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Local {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Local {}

impl CachedToken {
    /// Creates a cached token. Its lifetime `expires_in` starts at `asked_at`, the time of the request, and not at the response.
    ///
    /// `jitter` is uniform in 0..=u32::MAX. It moves the refresh forward by up to a tenth of the lifetime, so that proxies that start
    /// together do not refresh together.
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
            local: Local::default(),
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

    /// The value of a header with the token in this form; `None` is the token alone.
    pub(crate) fn header_value(&self, form: Option<HeaderForm>) -> &str {
        match form {
            None => self.token.expose(),
            Some(HeaderForm::Bearer) => self.token.bearer(),
            Some(form @ HeaderForm::CosmosDb) => self.local.encoded.get_or_init(|| form.value(&self.token)),
        }
    }

    /// Marks the token as sent by this worker. Returns whether it was not marked before.
    pub(crate) fn mark_sent(&self) -> bool {
        !self.local.sent.swap(true, Ordering::Relaxed)
    }

    /// Whether the token may be sent. It may not within min(30 s, lifetime/10) of its expiry, and not if its issue time is in the
    /// future: the clock was set back since, so the elapsed part of its lifetime is unknown.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        now < self.usable_until && self.issued_at <= now.plus(GRACE_PERIOD)
    }

    /// Whether the token is due for refresh.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.refresh_at
    }

    /// The time from which the token is due for refresh.
    pub(crate) const fn refresh_at(&self) -> Timestamp {
        self.refresh_at
    }

    /// The time from which the token is no longer sent.
    pub(crate) const fn usable_until(&self) -> Timestamp {
        self.usable_until
    }

    /// Whether the token satisfies [`super::RequiredLifetime::FiveMinutes`]. A token whose whole lifetime is at most ten minutes always
    /// does.
    pub(crate) fn is_long_lived(&self, now: Timestamp) -> bool {
        self.expires_at.since(now) >= REFRESH_MARGIN || self.expires_at.since(self.issued_at) <= 2 * REFRESH_MARGIN
    }
}

/// Returns whether `discard_tokens_before` discards a token that was requested at `issued_at`. A time in the future discards nothing,
/// because it would discard every new token as well.
pub(super) fn is_discarded(issued_at: Timestamp, before: Option<Timestamp>, now: Timestamp) -> bool {
    before.is_some_and(|before| issued_at < before && before <= now)
}

/// Returns the back-off after the `failures`-th consecutive failure (1 is the first): exponential with full jitter, and at least one
/// second. A failure that needs a change backs off longer than a transient one.
///
/// The back-off is at least `retry_after`, the wait that the endpoint requested. While a token is valid, it is at most half of the
/// time for which the token can still be sent (`usable_for`).
pub(crate) fn back_off(
    failures: u32,
    retry_class: RetryClass,
    retry_after: Option<Duration>,
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
    let wait = part(window, jitter).max(shortest).max(retry_after.unwrap_or_default());
    match usable_for {
        Duration::ZERO => wait,
        left => wait.min((left / 2).max(shortest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_000_000);

    fn cached(lifetime: u64, refresh_in: Option<u64>, jitter: u32) -> CachedToken {
        let token = AccessToken::parse("t").unwrap();
        CachedToken::new(token, NOW, Duration::from_secs(lifetime), refresh_in.map(Duration::from_secs), jitter)
    }

    #[test]
    fn each_worker_marks_its_token_as_sent_once() {
        let token = cached(3600, None, 0);
        assert_eq!((token.mark_sent(), token.mark_sent()), (true, false));
        assert!(token.clone().mark_sent(), "a copy belongs to another worker");
    }

    fn refresh_after(lifetime: u64, refresh_in: Option<u64>, jitter: u32) -> u64 {
        cached(lifetime, refresh_in, jitter).refresh_at.since(NOW).as_secs()
    }

    #[test]
    fn refresh_follows_refresh_in_or_half_of_a_long_lifetime_or_a_margin_before_expiry() {
        assert_eq!(refresh_after(86400, Some(43200), 0), 43200);
        assert_eq!(refresh_after(86400, None, 0), 43200);
        assert_eq!(refresh_after(3600, None, 0), 3300);
        assert_eq!(refresh_after(7200, None, 0), 6900);
        assert_eq!(refresh_after(7202, None, 0), 3601);
        assert_eq!(refresh_after(120, None, 0), 60);
        // A refresh_in at or after the expiry is ignored.
        assert_eq!(refresh_after(3600, Some(3600), 0), 3300);
    }

    #[test]
    fn jitter_moves_the_refresh_forward_by_up_to_a_tenth_of_the_lifetime() {
        assert_eq!(refresh_after(3600, None, u32::MAX), 2940);
    }

    #[test]
    fn a_token_has_a_minimum_age_before_it_is_refreshed() {
        assert_eq!(refresh_after(86400, Some(100), u32::MAX), 30);
        assert_eq!(refresh_after(3600, Some(1), 0), 30);
        assert_eq!(refresh_after(60, Some(1), 0), 15);
    }

    #[test]
    fn a_token_is_not_sent_shortly_before_it_expires() {
        let hour = cached(3600, None, 0);
        assert!(hour.is_usable(NOW.plus(Duration::from_millis(3_569_999))));
        assert!(!hour.is_usable(NOW.plus(Duration::from_secs(3570))));
        let minute = cached(60, None, 0);
        assert!(minute.is_usable(NOW.plus(Duration::from_millis(53_999))));
        assert!(!minute.is_usable(NOW.plus(Duration::from_secs(54))));
    }

    #[test]
    fn a_token_with_an_issue_time_in_the_future_is_not_usable() {
        let hour = cached(3600, None, 0);
        assert!(hour.is_usable(NOW.minus(GRACE_PERIOD)), "another worker may have read the clock a moment later");
        assert!(!hour.is_usable(NOW.minus(GRACE_PERIOD + Duration::from_millis(1))));
    }

    #[test]
    fn the_back_off_doubles_up_to_its_maximum_and_is_at_least_retry_after() {
        let wait = |failures, retry_class| back_off(failures, retry_class, None, Duration::ZERO, u32::MAX).as_secs();
        assert_eq!([1, 2, 3, 6, 99].map(|failures| wait(failures, RetryClass::Transient)), [2, 4, 8, 60, 60]);
        assert_eq!([1, 2, 9].map(|failures| wait(failures, RetryClass::NeedsChange)), [30, 60, 600]);
        assert_eq!(back_off(1, RetryClass::Transient, None, Duration::ZERO, 0), Duration::from_secs(1));
        let asked = Some(Duration::from_secs(90));
        assert_eq!(back_off(1, RetryClass::Transient, asked, Duration::ZERO, 0), Duration::from_secs(90));
    }

    #[test]
    fn while_a_token_is_valid_the_back_off_is_at_most_half_of_its_remaining_lifetime() {
        let left = Duration::from_secs(100);
        assert_eq!(back_off(9, RetryClass::NeedsChange, None, left, u32::MAX), Duration::from_secs(50));
    }
}
