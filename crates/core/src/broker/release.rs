//! A limit on the paused requests that are released at a time.
//!
//! A thousand requests that wait for one token become ready at the same moment. If they were resumed together, they would overload the
//! upstream: each needs a connection, and Envoy rejects requests beyond the cluster's circuit breakers. A worker therefore releases a
//! few per millisecond, and the others continue to wait with their deadlines.

use std::time::Duration;

use crate::time::Timestamp;

/// Maximum number of paused requests that a worker resumes or answers in one [`PERIOD`]. Envoy executes these actions recursively
/// after the module's callback returns, so hundreds would overflow its stack.
pub(super) const AT_ONCE: usize = 16;

/// Time after which the next requests are released.
pub(super) const PERIOD: Duration = Duration::from_millis(1);

/// The use of [`AT_ONCE`] at one point in time.
#[derive(Default)]
pub(super) struct Release {
    at: Timestamp,
    released: usize,
}

impl Release {
    /// Whether no more requests may be released now.
    pub(super) fn is_spent(&self, now: Timestamp) -> bool {
        self.at == now && self.released >= AT_ONCE
    }

    /// Releases up to `wanted` requests. Returns the number that may be released.
    pub(super) fn take(&mut self, wanted: usize, now: Timestamp) -> usize {
        // A clock that was set back also starts a new period.
        if self.at != now {
            *self = Self { at: now, released: 0 };
        }
        let released = wanted.min(AT_ONCE.saturating_sub(self.released));
        self.released = self.released.saturating_add(released);
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_334_000);

    #[test]
    fn the_number_of_requests_released_at_one_time_is_limited() {
        let mut release = Release::default();
        assert!(!release.is_spent(NOW));
        assert_eq!(release.take(1, NOW), 1);
        assert_eq!(release.take(10_000, NOW), AT_ONCE - 1);
        assert_eq!(release.take(1, NOW), 0);
        assert!(release.is_spent(NOW));
    }

    #[test]
    fn the_limit_starts_again_in_the_next_period_and_when_the_clock_is_set_back() {
        let mut release = Release::default();
        for now in [NOW, NOW.plus(PERIOD), NOW.minus(Duration::from_secs(3600))] {
            assert_eq!(release.take(usize::MAX, now), AT_ONCE);
        }
    }
}
