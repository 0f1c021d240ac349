//! Tests of entries in shared data, and of the memory of a process with one worker.

use super::*;
use crate::broker::shared::RefusedAssertion;

#[test]
fn the_memory_of_one_worker_returns_the_last_value_of_a_name() {
    let memory = LocalData::default();
    assert_eq!(memory.get("a"), None);
    assert!(memory.set("a", b"first", None) && memory.set("b", b"other", None));
    let (value, cas) = memory.get("a").unwrap();
    assert_eq!(value, b"first");
    assert!(memory.set("a", b"second", Some(cas)));
    assert_eq!(memory.get("a").unwrap().0, b"second");
}

#[test]
fn a_rejected_federated_token_is_compared_with_the_file_a_second_after_the_last_read() {
    let assertion = crate::assertion::Assertion::parse(jwt(&json!({"alg": "RS256"}), &claims()).as_bytes(), START);
    let refused = RefusedAssertion { fingerprint: assertion.unwrap().fingerprint(), read_at: START };
    let at = |later: u64| refused.may_be_compared(START.plus(Duration::from_millis(later)));
    assert_eq!([0, 999, 1000].map(at), [false, false, true]);
    // Another worker's clock may be a second ahead; a later time dates from before the clock was set back.
    let before = |earlier: u64| refused.may_be_compared(START.minus(Duration::from_millis(earlier)));
    assert_eq!([1000, 1001, 60_000].map(before), [false, true, true]);
}
