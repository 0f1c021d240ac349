//! Times and lengths of time for people.

use std::time::{Duration, UNIX_EPOCH};

/// A point in time, in the format of RFC 3339 in UTC.
pub(crate) fn rfc3339(seconds: u64) -> String {
    // The last second of the year 9999, beyond which the format has no form.
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.min(253_402_300_799)));
    time.map(|time| humantime::format_rfc3339_seconds(time).to_string()).unwrap_or_default()
}

/// A length of time in its two largest units, such as `1h 3m`.
pub fn length(seconds: u64) -> String {
    const UNITS: &[(u64, &str)] = &[(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, name) in UNITS {
        let count = rest.checked_div(*unit).unwrap_or_default();
        rest = rest.checked_rem(*unit).unwrap_or_default();
        if count > 0 {
            parts.push(format!("{count}{name}"));
        }
    }
    parts.truncate(2);
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// How far a point in time is from now, such as `in 49m` or `3h ago`.
pub(crate) fn distance(seconds: u64, now: u64) -> String {
    if seconds > now {
        format!("in {}", length(seconds.saturating_sub(now)))
    } else {
        format!("{} ago", length(now.saturating_sub(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_its_two_largest_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (3_600, "1h"), (3_725, "1h 2m"), (90_061, "1d 1h")] {
            assert_eq!(length(seconds), text);
        }
        assert_eq!((distance(10, 70), distance(70, 10)), ("1m ago".to_owned(), "in 1m".to_owned()));
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
