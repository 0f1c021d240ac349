//! The usual policies: refresh a token at a fixed age, and retry every few seconds.

use crate::{DAY, Day, LIFETIME, OUTAGE};

/// The time between retries in seconds.
const RETRY: u64 = 5;

/// Simulates a proxy that refreshes its token when it is `refresh_at` seconds old. All proxies behave identically.
pub(crate) fn day(refresh_at: u64, day: &mut Day) {
    let mut now = 0;
    let mut expires_at = 0;
    while now < DAY {
        day.record_exchange(now);
        if OUTAGE.contains(&now) {
            let next = now + RETRY;
            day.without_token += next.saturating_sub(expires_at.max(now));
            now = next;
        } else {
            expires_at = now + LIFETIME;
            now += refresh_at;
        }
    }
}
