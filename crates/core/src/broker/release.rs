//! How many paused requests are released at a time.
//!
//! A thousand requests that wait for one token are ready in the same moment. Resumed together they overrun the upstream:
//! each needs a connection, and Envoy rejects what exceeds the cluster's circuit breakers. So a worker releases a few in
//! each millisecond, and the others stay what they are, waiting requests with a deadline.

use std::time::Duration;

use crate::time::Timestamp;

/// How many paused requests a worker resumes or answers in one [`PERIOD`] at most. Envoy carries out what a callback of
/// the module decided after it has returned, one request inside the other: hundreds would overflow its stack.
pub(super) const AT_ONCE: usize = 16;

/// The requests that are left over are released this much later.
pub(super) const PERIOD: Duration = Duration::from_millis(1);

/// What is left of [`AT_ONCE`] at one moment.
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

    /// Releases up to `wanted` requests: returns how many may go.
    pub(super) fn take(&mut self, wanted: usize, now: Timestamp) -> usize {
        // A clock that was set back is another moment, too.
        if self.at != now {
            *self = Self { at: now, released: 0 };
        }
        let granted = wanted.min(AT_ONCE.saturating_sub(self.released));
        self.released = self.released.saturating_add(granted);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_334_000);

    #[test]
    fn no_more_than_a_few_are_released_at_one_moment_however_they_are_asked_for() {
        let mut release = Release::default();
        assert!(!release.is_spent(NOW));
        assert_eq!(release.take(1, NOW), 1);
        assert_eq!(release.take(10_000, NOW), AT_ONCE - 1);
        assert_eq!(release.take(1, NOW), 0);
        assert!(release.is_spent(NOW));
    }

    #[test]
    fn the_next_moment_and_a_clock_that_was_set_back_release_as_many_again() {
        let mut release = Release::default();
        for now in [NOW, NOW.plus(PERIOD), NOW.minus(Duration::from_secs(3600))] {
            assert_eq!(release.take(usize::MAX, now), AT_ONCE);
        }
    }
}
