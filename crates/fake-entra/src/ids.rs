//! GUIDs and timestamps in Entra's format. None of them is a secret.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns a GUID that is unique in this process.
pub fn unique_guid() -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let state = RandomState::new();
    guid(state.hash_one((0, call)), state.hash_one((1, call)))
}

/// Derives a GUID from these words, for example the object id of an application.
pub fn guid_of(words: &[&str]) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, words).hash(&mut hasher);
        hasher.finish()
    };
    guid(half(0), half(1))
}

fn guid(high: u64, low: u64) -> String {
    let hex = format!("{high:016x}{low:016x}");
    // Version 4 and its variant, so that GUID validators accept it.
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// Whether `word` is a GUID in its usual form, `8-4-4-4-12` hexadecimal digits.
pub(crate) fn is_guid(word: &str) -> bool {
    let groups: Vec<&str> = word.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Returns the seconds since the Unix epoch; zero for earlier times.
pub fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Formats a time as `2026-01-31 12:00:00Z`, the format of `timestamp` in error responses.
pub(crate) fn timestamp(seconds: u64) -> String {
    calendar(seconds, ' ', "")
}

/// Formats a time as `2026-01-31T12:00:00.0000000Z`, the format in the text of AADSTS700024.
pub(crate) fn long_timestamp(seconds: u64) -> String {
    calendar(seconds, 'T', ".0000000")
}

fn calendar(seconds: u64, separator: char, fraction: &str) -> String {
    let at = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}{separator}{:02}:{:02}:{:02}{fraction}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_entras_two_formats() {
        assert_eq!(timestamp(1_769_860_800), "2026-01-31 12:00:00Z");
        assert_eq!(long_timestamp(0), "1970-01-01T00:00:00.0000000Z");
    }

    #[test]
    fn guids_are_well_formed_and_unique() {
        let (one, other) = (unique_guid(), unique_guid());
        assert!(is_guid(&one) && is_guid(&other));
        assert_ne!(one, other);
        assert_eq!(guid_of(&["a", "b"]), guid_of(&["a", "b"]));
        assert_ne!(guid_of(&["a", "b"]), guid_of(&["ab"]));
    }
}
