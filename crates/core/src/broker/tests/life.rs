//! The life of a token: used, refreshed, rejected, wanted, let go.

use super::*;

#[test]
fn a_token_that_is_used_is_refreshed_in_time_and_served_meanwhile() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.ready(1);
    process.poll(1);
    let wait = process.due_in(0).unwrap();
    assert!((2940..=3300).contains(&wait.as_secs()), "{wait:?}");
    process.advance(wait);
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.poll(1), [], "the other worker leaves it to the first");
    process.ready(0);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, token(3600)), [Observed::Wake(1)]);
    process.poll(1);
    assert_eq!(process.due_in(1), process.due_in(0), "both have the new one");
}

#[test]
fn a_token_that_nobody_used_since_its_refresh_is_let_go() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.refresh(0);
    // Nobody asks for it: it is not refreshed again.
    process.advance(Duration::from_secs(3569));
    assert_eq!(process.poll(0), []);
    process.advance(Duration::from_secs(1));
    assert_eq!(process.poll(0), []);
    assert!(process.workers[0].slots.is_empty() && process.workers[0].timers.is_empty());
}

#[test]
fn a_refresh_that_fails_is_invisible_while_the_token_is_valid() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(process.due_in(0).unwrap());
    let mut tries = 0;
    // Entra is down until the token's last moments.
    while process.now < START.plus(Duration::from_secs(3569)) {
        if process.poll(0) == [Observed::Read] {
            process.assertion(0);
            assert_eq!(process.endpoint(0, answer(500, &json!({}))), []);
            tries += 1;
        }
        process.ready(0);
        process.advance(process.due_in(0).unwrap());
    }
    assert!((4..60).contains(&tries), "{tries} tries");
    process.advance(Duration::from_secs(3));
    assert_eq!(process.exchange(0, 2, answer(500, &json!({}))), [Observed::Problem(2, Code::EntraUnavailable)]);
}

#[test]
fn a_client_that_wants_five_minutes_waits_for_a_fresh_token_unless_a_back_off_runs() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(3320));
    let key = process.spec.key();
    let ask = |process: &mut Process, stream: u32| {
        process.workers[0].get(&process.spec, Need::LongLived, StreamId(stream), process.now, &process.shared).0
    };
    assert!(matches!(ask(&mut process, 2), TokenLookup::Pending));
    process.ready(0);
    assert_eq!(process.poll(0), [Observed::Read]);
    process.assertion(0);
    // The exchange fails: what is valid does.
    assert_eq!(process.endpoint(0, answer(500, &json!({}))), [Observed::Token(2)]);
    assert!(matches!(ask(&mut process, 3), TokenLookup::Ready(_)));
    // And so it does when its patience ends.
    process.advance(Duration::from_secs(61));
    assert!(matches!(ask(&mut process, 4), TokenLookup::Pending));
    process.workers[0].poll(key, process.now, &process.shared);
    process.assertion(0);
    process.advance(Limits::default().wait);
    assert_eq!(process.poll(0), [Observed::Read, Observed::Token(4)]);
}

#[test]
fn a_short_lived_token_serves_clients_that_want_five_minutes_too() {
    let mut process = Process::new();
    process.exchange(0, 1, token(600));
    process.advance(Duration::from_secs(500));
    let (answer, _) = process.workers[0].get(&process.spec, Need::LongLived, StreamId(2), process.now, &process.shared);
    assert!(matches!(answer, TokenLookup::Ready(_)));
}

#[test]
fn a_token_from_before_a_given_time_is_not_used() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    let source = crate::assertion::Source::File { cluster: "projected_token".to_owned() };
    let later = Arc::new(TokenSpec::new(&TokenSpecParts {
        identity: "payments",
        authority: process.spec.authority(),
        tenant_id: process.spec.tenant_id(),
        client_id: process.spec.client_id(),
        scope: process.spec.scope(),
        assertion: &source,
        clusters: process.spec.clusters(),
        discard_before: Some(START.plus(Duration::from_secs(60))),
    }));
    process.advance(Duration::from_secs(60));
    // A new configuration is a new broker.
    process.workers[1] = Broker::new(WorkerId(99), QueueId(9), Limits::default());
    process.spec = later;
    process.exchange(1, 2, token(3600));
    process.ready(1);
}

#[test]
fn a_warm_token_is_fetched_before_anybody_asks_and_kept() {
    let mut process = Process::new();
    process.workers[0].keep_warm(&[Arc::clone(&process.spec)], process.now);
    assert_eq!(process.due_in(0), Some(Duration::ZERO));
    assert_eq!(process.poll(0), [Observed::Read]);
    process.assertion(0);
    process.endpoint(0, token(3600));
    for _ in 0..3 {
        process.refresh(0);
    }
    process.ready(1);
}

#[test]
fn a_token_that_is_over_when_it_comes_is_fetched_once_more_and_then_a_problem() {
    let mut process = Process::new();
    process.pending(0, 1);
    assert_eq!(process.poll(0), [Observed::Read]);
    for again in [true, false] {
        process.assertion(0);
        process.advance(Duration::from_secs(2));
        let seen = process.endpoint(0, token(1));
        assert_eq!(seen, [if again { Observed::Read } else { Observed::Problem(1, Code::EntraReplyInvalid) }]);
    }
    assert_eq!(process.failed(1).code, Code::EntraReplyInvalid);
}

#[test]
fn what_nobody_uses_any_more_is_let_go() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(7200));
    process.poll(0);
    assert!(process.workers[0].slots.is_empty() && process.workers[0].timers.is_empty());
    let name =
        process.shared.values.borrow().iter().find(|(_, (value, _))| value.len() > 2).map(|(name, _)| name.clone());
    assert!(name.is_some());
    let other = process.spec.key();
    shared::update(&process.shared, other, process.now, |entry| {
        *entry = Entry::default();
        Update::Commit(())
    });
    assert!(process.shared.shelves().all(|value| value == shared::EMPTY));
}

#[test]
fn a_request_that_does_not_wait_has_a_token_fetched_and_is_told_of_no_failure() {
    let mut process = Process::new();
    let want = |process: &mut Process| process.workers[0].prefetch(&process.spec, process.now, &process.shared);
    assert!(want(&mut process));
    assert!(!want(&mut process) || process.due_in(0).is_none());
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, refusal(90_002)), []);
    // Nobody waits, so it is not tried again until somebody asks.
    let next_try = process.due_in(0).unwrap();
    process.advance(next_try);
    assert_eq!(process.poll(0), []);
    assert_eq!(process.due_in(0), None);
    assert!(want(&mut process));
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, token(3600)), []);
    // It counts as used: it is refreshed in time, and served.
    assert!(process.due_in(0).unwrap() < Duration::from_secs(3400));
    want(&mut process);
    process.ready(1);
}

#[test]
fn what_was_wanted_and_came_from_another_worker_is_not_fetched_again() {
    let mut process = Process::new();
    process.workers[0].prefetch(&process.spec, process.now, &process.shared);
    process.exchange(1, 1, token(3600));
    assert_eq!(process.poll(0), []);
    // Nobody asks any more: after one refresh it is let go.
    let refresh = process.due_in(0).unwrap();
    process.advance(refresh);
    assert_eq!(process.poll(0), [Observed::Read]);
    process.assertion(0);
    process.endpoint(0, token(3600));
    process.advance(Duration::from_secs(3600));
    assert_eq!(process.poll(0), []);
    assert_eq!(process.due_in(0), None);
}

/// The generator's published sequence for this seed, of which the upper halves are taken.
#[test]
fn the_jitter_is_split_mix_64() {
    let mut random = Random(1_234_567);
    let expected: [u64; 5] = [
        6_457_827_717_110_365_317,
        3_203_168_211_198_807_973,
        9_817_491_932_198_370_423,
        4_593_380_528_125_082_431,
        16_408_922_859_458_223_821,
    ];
    for number in expected {
        assert_eq!(u64::from(random.next()), number >> 32);
    }
}

/// A look sets the timer for the refresh; without one it would never come.
#[test]
fn the_first_use_of_a_token_asks_for_a_look_and_the_next_does_not() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.refresh(0);
    // It is new, nobody has used it, and its timer is that of its end.
    assert!(process.ask(0, 2).1);
    assert!(!process.ask(0, 3).1);
    let want = |process: &mut Process| process.workers[0].prefetch(&process.spec, process.now, &process.shared);
    assert!(!want(&mut process));
    process.poll(0);
    process.refresh(0);
    assert!(want(&mut process));
    assert!(!want(&mut process));
}

#[test]
fn what_is_wanted_after_a_back_off_asks_for_a_look_and_only_once() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(90_002));
    let want = |process: &mut Process| process.workers[0].prefetch(&process.spec, process.now, &process.shared);
    assert!(!want(&mut process), "while it backs off there is nothing to look at");
    process.advance(process.due_in(0).unwrap());
    assert!(want(&mut process));
    assert!(!want(&mut process));
}

#[test]
fn a_token_that_comes_late_takes_no_newer_ones_place() {
    let mut process = Process::new();
    process.stall(0, 1);
    let began = process.now;
    process.exchange(1, 2, token(3600));
    process.endpoint(0, token(3600));
    for worker in [0, 1] {
        match process.ask(worker, 3).0 {
            TokenLookup::Ready(cached) => assert_eq!(cached.issued_at(), began, "worker {worker}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_older_token_is_taken_where_the_newer_is_over_or_there_is_none() {
    let mut process = Process::new();
    process.stall(0, 1);
    process.exchange(1, 2, token(60));
    process.advance(Duration::from_secs(60));
    process.endpoint(0, token(3600));
    process.ready(0);
}

#[test]
fn a_token_of_the_very_moment_from_which_on_it_counts_is_kept() {
    let mut process = Process::new();
    let spec = |before| grant_of("payments", "s/.default", &["entra"], Some(before));
    process.spec = spec(START);
    process.exchange(0, 1, token(3600));
    process.ready(0);
    process.advance(Duration::from_millis(1));
    process.spec = spec(process.now);
    process.pending(1, 2);
}

/// An unused token is let go at its end and not looked at before.
#[test]
fn nothing_is_looked_at_for_a_token_that_nobody_uses() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.refresh(0);
    assert_eq!(process.due_in(0), Some(Duration::from_secs(3570)), "its end, not its refresh");
}
