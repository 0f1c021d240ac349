//! Tests of the state that the workers share for each credential.

use super::super::readiness::REFUSAL_PERIOD;
use super::readiness::readiness_of;
use super::*;
use crate::assertion::{Assertion, Fingerprint};
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

/// Returns whether the identity of a token spec is ready in a process whose source is readable.
fn is_ready_at(shared: &Shared, spec: &TokenSpec, fingerprint: Fingerprint, now: Timestamp) -> bool {
    store::record_reading(shared, spec.assertion(), true, now);
    let readiness = readiness_of(&[spec]);
    let read: Vec<_> = readiness.unread(now, shared).into_iter().map(|source| (source, Ok(fingerprint))).collect();
    readiness.judge(&read, now, shared).outcome().is_ok()
}

/// Records that Entra rejects the credential of a token spec. Returns the fingerprint of the rejected federated token.
fn reject_credential(shared: &Shared, spec: &TokenSpec, now: Timestamp) -> Fingerprint {
    let assertion = Assertion::parse(jwt(&json!({"alg": "RS256"}), &claims()).as_bytes(), START).unwrap();
    credential::record_refusal(shared, spec, &refused(PROBLEM_OF_CREDENTIAL), assertion.fingerprint(), now);
    assertion.fingerprint()
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
    let token = AccessToken::parse("abc").unwrap();
    let cached = CachedToken::new(token, at(0), Duration::from_secs(100), None, 0);
    credential::record_issued(&shared, &spec(), &cached, at(0));
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
    reject_credential(&shared, &spec(), at(700));
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

#[test]
fn a_rejection_makes_a_pod_unready_as_soon_as_no_token_can_be_sent() {
    // Two tokens, each with the time of its issue and its life in seconds.
    for tokens in [[(0, 3600), (10, 100)], [(0, 100), (10, 3600)], [(50_000, 3600), (0, 100)]] {
        let shared = Shared::default();
        let mut ends = Vec::new();
        for (scope, (issued_at, life)) in ["a/.default", "b/.default"].into_iter().zip(tokens) {
            let spec = spec_of("payments", scope, &["entra"], None);
            let token = AccessToken::parse("abc").unwrap();
            let cached = CachedToken::new(token, at(issued_at), Duration::from_secs(life), None, 0);
            // A token with an issue time in the future dates from before the clock was set back.
            ends.extend((issued_at < 1000).then_some(cached.usable_until()));
            credential::record_issued(&shared, &spec, &cached, at(issued_at));
        }
        let spec = spec_of("payments", "c/.default", &["entra"], None);
        let fingerprint = reject_credential(&shared, &spec, at(20));
        let end = ends.into_iter().max().unwrap();
        let is_ready = |now| is_ready_at(&shared, &spec, fingerprint, now);
        let times = [at(20), end.minus(Duration::from_millis(1)), end, end.plus(Duration::from_hours(2))];
        assert_eq!(times.map(is_ready), [true, true, false, false], "{tokens:?}");
    }
}

#[test]
fn a_token_that_was_evicted_does_not_hide_a_rejection() {
    let shared = Shared::default();
    let limits = UnlistedLimits { scopes: 1, ..UnlistedLimits::default() };
    let [first, second] = [0, 1].map(admission::unlisted);
    let admit = |spec: &TokenSpec| {
        let admitted = store::update_credential(&shared, spec.credential(), START, |state| {
            Update::Commit(state.admit(spec.key(), limits, START))
        });
        admitted.unwrap().unwrap()
    };
    assert_eq!(admit(&first), []);
    let token = AccessToken::parse("abc").unwrap();
    store::update(&shared, first.key(), START, |entry| {
        entry.replace_token(CachedToken::new(token.clone(), START, Duration::from_hours(24), None, 0), QueueId(1));
        Update::Commit(())
    });
    let cached = CachedToken::new(token, START, Duration::from_hours(24), None, 0);
    credential::record_issued(&shared, &first, &cached, START);
    credential::record_known(&shared, &first, START);
    let fingerprint = reject_credential(&shared, &first, START);
    assert!(is_ready_at(&shared, &first, fingerprint, START));
    assert_eq!(admit(&second), [first.key()]);
    assert!(!is_ready_at(&shared, &first, fingerprint, START));
    assert_eq!(shared.read_credential(first.credential()).known, []);
}

#[test]
fn a_rejection_of_a_token_that_was_issued_for_one_request_counts_for_an_hour() {
    let hour = START.plus(REFUSAL_PERIOD);
    // Another worker's clock may be a second ahead; a later time dates from before the clock was set back.
    let before = START.minus(GRACE_PERIOD);
    let times = [START, hour.minus(Duration::from_millis(1)), hour, before, before.minus(Duration::from_millis(1))];
    let of_file = Arc::new(spec());
    for (spec, expected) in [(&of_file, [false; 5]), (&sources::specs(1)[0], [false, false, true, false, true])] {
        let shared = Shared::default();
        let fingerprint = reject_credential(&shared, spec, START);
        assert_eq!(times.map(|now| is_ready_at(&shared, spec, fingerprint, now)), expected, "{}", spec.identity());
    }
}

#[test]
fn callers_cannot_make_a_pod_unready_whose_listed_token_can_be_sent() {
    let shared = Shared::default();
    let listed = spec_of("payments", "a/.default", &["entra"], None);
    let token = AccessToken::parse("abc").unwrap();
    let cached = CachedToken::new(token, START, Duration::from_secs(3600), None, 0);
    credential::record_issued(&shared, &listed, &cached, START);
    credential::record_known(&shared, &listed, START);
    for number in 0..600 {
        credential::record_known(&shared, &admission::unlisted(number), START);
    }
    let fingerprint = reject_credential(&shared, &listed, START);
    assert!(is_ready_at(&shared, &listed, fingerprint, START));
}

#[test]
fn a_token_of_an_unlisted_scope_counts_while_it_can_be_sent() {
    let at = |seconds: u64| START.plus(Duration::from_secs(seconds));
    let shared = Shared::default();
    let unlisted = admission::unlisted(0);
    store::update_credential(&shared, unlisted.credential(), START, |state| {
        Update::Commit(state.admit(unlisted.key(), UnlistedLimits::default(), START))
    });
    let cached = CachedToken::new(AccessToken::parse("abc").unwrap(), START, Duration::from_secs(100), None, 0);
    let end = cached.usable_until();
    store::update(&shared, unlisted.key(), START, |entry| {
        entry.replace_token(cached.clone(), QueueId(1));
        Update::Commit(())
    });
    let fingerprint = reject_credential(&shared, &unlisted, START);
    let is_ready = |discard_before: Option<Timestamp>, now: Timestamp| {
        let spec = spec_of("payments", "a/.default", &["entra"], discard_before);
        is_ready_at(&shared, &spec, fingerprint, now)
    };
    assert!(is_ready(None, at(20)) && is_ready(None, end.minus(Duration::from_millis(1))));
    assert!(!is_ready(None, end));
    assert!(is_ready(Some(START), at(20)) && !is_ready(Some(at(10)), at(20)), "discard_tokens_before");
}
