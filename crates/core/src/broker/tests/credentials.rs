//! Tests of the state that the workers share for each credential.

use super::*;
use crate::entra::{AccessToken, RetryClass};

const PROBLEM_OF_CREDENTIAL: u32 = 700_213;
const UNKNOWN_CLIENT: u32 = 700_016;

fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

fn refused(aadsts: u32) -> Problem {
    let mut problem = Problem::new(Code::EntraRefused, "d", "r");
    problem.entra.aadsts = Some(aadsts);
    problem
}

/// Records that Entra issued a token with a life in seconds. Returns the time from which it is not sent.
fn issue(shared: &Shared, issued_at: u64, life: u64, now: u64) -> Timestamp {
    let token = AccessToken::parse("abc").unwrap();
    let cached = CachedToken::new(token, at(issued_at), Duration::from_secs(life), None, 0);
    credential::record_issued(shared, &spec(), &cached, at(now));
    cached.usable_until()
}

/// Records that Entra rejects the credential.
fn reject(shared: &Shared, now: Timestamp) {
    let assertion = crate::assertion::Assertion::parse(jwt(&json!({"alg": "RS256"}), &claims()).as_bytes(), START);
    let fingerprint = assertion.unwrap().fingerprint();
    credential::record_refusal(shared, &spec(), &refused(PROBLEM_OF_CREDENTIAL), fingerprint, now);
}

#[test]
fn a_rejection_applies_as_soon_as_no_issued_token_can_be_sent() {
    let applies_from = |shared: &Shared, end: Timestamp| {
        reject(shared, at(20));
        let state = shared.read_credential(spec().credential());
        let applies = |now: Timestamp| state.refusal(None, now).is_some();
        !applies(at(20)) && !applies(end.minus(Duration::from_millis(1))) && applies(end)
    };
    for (first, second) in [((0, 3600), (10, 100)), ((0, 100), (10, 3600))] {
        let shared = Shared::default();
        let ends = [first, second].map(|(issued_at, life)| issue(&shared, issued_at, life, issued_at));
        assert!(applies_from(&shared, ends[0].max(ends[1])), "{first:?} {second:?}");
    }
    // A token with an issue time in the future dates from before the clock was set back.
    let shared = Shared::default();
    issue(&shared, 10_000, 3600, 10_000);
    let end = issue(&shared, 0, 100, 0);
    assert!(applies_from(&shared, end));
}

#[test]
fn a_client_may_be_new_for_ten_minutes_after_its_first_rejection() {
    let shared = Shared::default();
    let class = |now: u64| {
        credential::retry_class_of(&shared, &spec(), &refused(UNKNOWN_CLIENT), RetryClass::NeedsChange, at(now))
    };
    assert_eq!(
        [10_000, 10_599, 10_600].map(class),
        [RetryClass::Immediate, RetryClass::Immediate, RetryClass::NeedsChange]
    );
    // The first rejection lies in the future after the clock was set back, so the ten minutes begin again.
    assert_eq!([0, 599, 600].map(class), [RetryClass::Immediate, RetryClass::Immediate, RetryClass::NeedsChange]);
}

#[test]
fn the_state_of_a_credential_is_removed_when_nothing_in_it_has_an_effect() {
    let shared = Shared::default();
    let bytes = |now: u64| {
        store::update_credential(&shared, spec().credential(), at(now), |_| Update::Commit(()));
        shared.bytes()
    };
    let empty = bytes(0);
    issue(&shared, 0, 100, 0);
    assert!(bytes(1) > empty, "Entra has issued a token to the client");

    let shared = Shared::default();
    let bytes = |now: u64| {
        store::update_credential(&shared, spec().credential(), at(now), |_| Update::Commit(()));
        shared.bytes()
    };
    assert_eq!(bytes(0), empty);
    credential::record_throttling(&shared, &spec(), &refused(50_196), at(0), &|_| Duration::from_secs(30));
    assert!(bytes(629) > empty);
    assert_eq!(bytes(630), empty, "the next throttling counts as the first");
    reject(&shared, at(700));
    assert!(bytes(100_000) > empty);
}

#[test]
fn a_failed_read_of_one_source_leaves_the_others_readable() {
    let shared = Shared::default();
    let sources = ["a", "b", "c"].map(|cluster| crate::assertion::Source::File { cluster: cluster.to_owned() });
    shared.prepare();
    for source in &sources {
        store::record_reading(&shared, source, true, START);
    }
    store::record_reading(&shared, &sources[1], false, START);
    assert_eq!(sources.map(|source| shared.read_source(&source).readable), [true, false, true]);
}
