//! Points in time. They are a type of their own, so that they cannot be confused with a [`Duration`].

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time in milliseconds since the Unix epoch. The shell reads it from the clock of the host.
///
/// Arithmetic saturates: no clock reading and no value in a response can make it overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time `milliseconds` after the Unix epoch.
    pub const fn from_unix_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// The time `seconds` after the Unix epoch, as in a JWT's `exp` (RFC 7519, section 2, NumericDate).
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn unix_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The time in the format of RFC 3339, to the second. Times after the year 9999 give the last second of that year.
    pub(crate) fn rfc3339(self) -> String {
        let seconds = Duration::from_secs(self.unix_seconds().min(253_402_300_799));
        let time = std::time::UNIX_EPOCH.checked_add(seconds);
        time.map(|time| humantime::format_rfc3339_seconds(time).to_string()).unwrap_or_default()
    }

    /// Parses a time of RFC 3339, section 5.6. `humantime` accepts UTC only, so the offset is parsed here.
    pub(crate) fn parse_rfc3339(text: &str) -> Option<Self> {
        let utc = |text: &str| {
            // `humantime` ignores text after the `Z`.
            if text.bytes().filter(|byte| byte.eq_ignore_ascii_case(&b'z')).count() != 1 {
                return None;
            }
            let since_epoch = humantime::parse_rfc3339(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(Self::default().plus(since_epoch))
        };
        match text.len().checked_sub("+00:00".len()).and_then(|index| text.split_at_checked(index)) {
            Some((local, offset)) if offset.starts_with('+') => {
                Some(utc(&format!("{local}Z"))?.minus(read_offset(offset)?))
            }
            Some((local, offset)) if offset.starts_with('-') => {
                Some(utc(&format!("{local}Z"))?.plus(read_offset(offset)?))
            }
            _ => utc(text),
        }
    }

    /// The time `length` after this one.
    pub fn plus(self, length: Duration) -> Self {
        Self(self.0.saturating_add(millis(length)))
    }

    /// The time `length` before this one, but not before the Unix epoch.
    pub fn minus(self, length: Duration) -> Self {
        Self(self.0.saturating_sub(millis(length)))
    }

    /// The time elapsed from `earlier` to this time; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Parses the length of an offset from UTC: a sign, then hours and minutes of two digits each.
fn read_offset(text: &str) -> Option<Duration> {
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let part = |digits: &str, most: u64| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|number| is_number && *number <= most)
    };
    let minutes = part(hours, 23)?.checked_mul(60)?.checked_add(part(minutes, 59)?)?;
    Some(Duration::from_secs(minutes.checked_mul(60)?))
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(self.0));
        match time {
            // httpdate panics on years past 9999.
            Some(time) if self.unix_seconds() < 253_402_300_800 => formatter.write_str(&httpdate::fmt_http_date(time)),
            _ => write!(formatter, "{} s after 1970", self.unix_seconds()),
        }
    }
}

fn millis(length: Duration) -> u64 {
    // `as_millis` and a checked multiplication calculate with 128 bits.
    length.as_secs().min(u64::MAX / 1000 - 1) * 1000 + u64::from(length.subsec_millis())
}

/// Returns `length` multiplied by `share / u32::MAX`.
pub(crate) fn part(length: Duration, share: u32) -> Duration {
    let millis = length.as_millis() * u128::from(share) / u128::from(u32::MAX);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let end = Timestamp::from_unix_millis(u64::MAX);
        assert_eq!(end.plus(Duration::MAX), end);
        let start = Timestamp::default();
        assert_eq!(start.minus(Duration::MAX), start);
        assert_eq!(start.since(end), Duration::ZERO);
    }

    #[test]
    fn a_time_is_displayed_as_a_date_and_an_extreme_one_does_not_panic() {
        assert_eq!(Timestamp::from_unix_seconds(784_111_777).to_string(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(Timestamp::from_unix_millis(u64::MAX).to_string().contains("after 1970"));
    }
}
