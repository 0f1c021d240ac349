//! The clock, or the time that `--at` gives.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads a time in the format of RFC 3339, in UTC; returns seconds since 1970.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let time = humantime::parse_rfc3339(text).map_err(|_| "write a time such as 2026-01-31T02:10:00Z")?;
    Ok(time.duration_since(UNIX_EPOCH).as_ref().map(Duration::as_secs).unwrap_or_default())
}

/// The current time, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).as_ref().map(Duration::as_secs).unwrap_or_default()
}
