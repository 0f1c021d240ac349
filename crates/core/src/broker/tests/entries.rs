//! Tests of the entries of tokens.

use super::*;
use crate::assertion::{Assertion, ReadResult};
use crate::broker::store::RefusedAssertion;

#[test]
fn a_rejected_federated_token_is_compared_with_the_file_a_second_after_the_last_read() {
    let assertion = Assertion::parse(jwt(&json!({"alg": "RS256"}), &claims()).as_bytes(), START);
    let refused = RefusedAssertion { fingerprint: assertion.unwrap().fingerprint(), read_at: START };
    let at = |later: u64| refused.may_be_compared(START.plus(Duration::from_millis(later)));
    assert_eq!([0, 999, 1000].map(at), [false, false, true]);
    // Another worker's clock may be a second ahead; a later time dates from before the clock was set back.
    let before = |earlier: u64| refused.may_be_compared(START.minus(Duration::from_millis(earlier)));
    assert_eq!([1000, 1001, 60_000].map(before), [false, true, true]);
}

#[test]
fn an_entry_is_kept_for_as_long_as_something_in_it_has_an_effect() {
    let now = START.plus(Duration::from_secs(1000));
    let token = |life: u64| {
        let token = crate::entra::AccessToken::parse("abc").unwrap();
        Some(CachedToken::new(token, START, Duration::from_secs(life), None, 0))
    };
    let held = |holders: &[QueueId], held_until: u64| Entry {
        holders: holders.to_vec(),
        held_until: START.plus(Duration::from_secs(held_until)),
        ..Entry::default()
    };
    let lease = |until: u64| {
        let until = START.plus(Duration::from_secs(until));
        Some(Lease { holder: WorkerId(7), until, waiting: Vec::new() })
    };
    let forced = |at: u64| Some(START.plus(Duration::from_secs(at)));
    let rows = [
        (Entry { token: token(3600), ..Entry::default() }, true),
        (Entry { token: token(900), ..Entry::default() }, false),
        (Entry { lease: lease(1001), ..Entry::default() }, true),
        (Entry { lease: lease(1000), ..Entry::default() }, false),
        (Entry { forced_at: forced(971), ..Entry::default() }, true),
        (Entry { forced_at: forced(970), ..Entry::default() }, false),
        (held(&[QueueId(1)], 1001), true),
        (held(&[QueueId(1)], 1000), false),
        (held(&[], 1001), false),
    ];
    for (row, (entry, is_kept)) in rows.into_iter().enumerate() {
        for store in stores() {
            let key = spec().key();
            store::update(&*store, key, now, |stored| {
                stored.clone_from(&entry);
                Update::Commit(())
            });
            assert_eq!(store.read(key) != Entry::default(), is_kept, "row {row}");
        }
    }
}

#[test]
fn an_entry_of_which_something_is_left_is_not_evicted() {
    let until = START.plus(Duration::from_secs(9));
    let token =
        CachedToken::new(crate::entra::AccessToken::parse("abc").unwrap(), START, Duration::from_secs(60), None, 0);
    let failure = Failure {
        problem: Problem::new(Code::EntraRefused, "d", "r"),
        class: RetryClass::NeedsChange,
        failed_at: START,
        next_try: until,
        failures: 1,
    };
    let lease = Lease { holder: WorkerId(7), until, waiting: Vec::new() };
    for entry in [
        Entry { token: Some(token), ..Entry::default() },
        Entry { failure: Some(failure), ..Entry::default() },
        Entry { lease: Some(lease), ..Entry::default() },
        Entry { holders: vec![QueueId(1)], ..Entry::default() },
    ] {
        assert!(!entry.is_evicted());
    }
    // The time of a forced exchange is kept for its limit.
    assert!(Entry { forced_at: Some(START), ..Entry::default() }.is_evicted());
}

#[test]
fn the_state_of_a_source_is_kept_for_as_long_as_something_in_it_has_an_effect() {
    let now = START.plus(Duration::from_secs(1000));
    let after = |seconds: u64| START.plus(Duration::from_secs(seconds));
    let changed = |change: &dyn Fn(&mut SourceState)| {
        let mut state = SourceState::default();
        change(&mut state);
        state
    };
    let read = |result: &ReadResult, until: u64| changed(&|state| state.record(result, after(until), START));
    let leased = |until: u64| {
        let lease = Lease { holder: WorkerId(7), until: after(until), waiting: Vec::new() };
        changed(&|state| state.lease = Some(lease.clone()))
    };
    let jwt = jwt(&json!({"alg": "RS256"}), &claims());
    let issued = Ok(Arc::new(Assertion::parse(jwt.as_bytes(), START).unwrap()));
    let failed = Err(Problem::new(Code::AssertionUnavailable, "d", "r"));
    for (number, (state, is_kept)) in [
        (changed(&|state| state.readable = true), true),
        (read(&issued, 1001), true),
        (read(&issued, 1000), false),
        (read(&failed, 1001), true),
        (read(&failed, 1000), false),
        (leased(1001), true),
        (leased(1000), false),
    ]
    .into_iter()
    .enumerate()
    {
        for store in stores() {
            let source = Source::File { cluster: "projected_token".to_owned() };
            store::update_source(&*store, &source, now, |stored| {
                stored.clone_from(&state);
                Update::Commit(())
            });
            assert_eq!(store.read_source(&source) != SourceState::default(), is_kept, "{number}");
        }
    }
}

/// The state of a source that has issued this token at `START`.
fn issued(assertion: &Assertion, reuse_until: Timestamp) -> SourceState {
    let mut state = SourceState::default();
    let assertion = Assertion::parse(assertion.expose().as_bytes(), START).unwrap();
    state.record(&Ok(Arc::new(assertion)), reuse_until, START);
    state
}

fn assertion(id: &str) -> Assertion {
    let mut claims = claims();
    claims["jti"] = json!(id);
    Assertion::parse(jwt(&json!({"alg": "RS256"}), &claims).as_bytes(), START).unwrap()
}

#[test]
fn an_issued_token_serves_until_its_reuse_ends_and_a_moment_longer_those_who_have_waited_for_it() {
    let source = Source::File { cluster: "projected_token".to_owned() };
    let after = |millis: u64| START.plus(Duration::from_millis(millis));
    let state = issued(&assertion("1"), after(100));
    for (waited_since, now, serves) in [
        (None, 99, true),
        (None, 100, false),
        (Some(0), 100, true),
        (Some(0), 999, true),
        (Some(0), 1000, false),
        (Some(1), 99, true),
        (Some(1), 100, false),
    ] {
        let answer = state.answer(&source, waited_since.map(after), after(now));
        assert_eq!(answer.is_some(), serves, "{waited_since:?} {now}");
    }
}

#[test]
fn only_the_token_that_entra_rejected_is_dropped_unless_the_source_has_issued_it_again_since() {
    let source = Source::File { cluster: "projected_token".to_owned() };
    let before = START.minus(Duration::from_millis(1));
    for (refused, asked_at, is_kept) in
        [("1", START, false), ("1", before, true), ("2", START, true), ("2", before, true)]
    {
        let mut state = issued(&assertion("1"), START.plus(Duration::from_secs(60)));
        let update = state.refuse(&assertion(refused), asked_at);
        assert_eq!(state.answer(&source, None, START).is_some(), is_kept, "{refused}");
        assert_eq!(matches!(update, Update::Abandon(())), is_kept, "{refused}");
    }
}
