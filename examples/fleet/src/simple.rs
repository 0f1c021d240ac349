//! The usual ways: refresh at a fixed age, and try again every few seconds.

use crate::{DAY, Day, LIFE, OUTAGE};

const RETRY: u64 = 5;

/// A proxy that refreshes its token when it is `refresh_at` seconds old. All of them are alike.
pub(crate) fn day(refresh_at: u64, day: &mut Day) {
    let mut now = 0;
    let mut expires_at = 0;
    while now < DAY {
        day.exchange(now);
        if OUTAGE.contains(&now) {
            let next = now + RETRY;
            day.without_token += next.saturating_sub(expires_at.max(now));
            now = next;
        } else {
            expires_at = now + LIFE;
            now += refresh_at;
        }
    }
}
