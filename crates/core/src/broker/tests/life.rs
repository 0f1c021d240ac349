//! Tests of the lifetime of a token: use, refresh, prefetch and removal.

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
    assert_eq!(process.poll(1), [], "the first worker performs the refresh");
    process.ready(0);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, token(3600)), [Observed::Wake(1)]);
    process.poll(1);
    assert_eq!(process.due_in(1), process.due_in(0), "both have the new token");
}

#[test]
fn a_token_that_is_unused_since_its_refresh_is_removed() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.refresh(0);
    // No request uses it, so it is not refreshed again.
    process.advance(Duration::from_secs(3569));
    assert_eq!(process.poll(0), []);
    process.advance(Duration::from_secs(1));
    assert_eq!(process.poll(0), []);
    assert!(process.workers[0].keys() == 0 && process.workers[0].timers.is_empty());
}

#[test]
fn a_failed_refresh_affects_no_request_while_the_token_is_valid() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(process.due_in(0).unwrap());
    let mut tries = 0;
    // Entra is unavailable until shortly before the token expires.
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
fn a_client_that_requires_five_minutes_waits_for_a_new_token_unless_a_back_off_is_in_effect() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(3320));
    let key = process.spec.key();
    let ask = |process: &mut Process, stream: u32| {
        process.workers[0]
            .get(&process.spec, RequiredLifetime::FiveMinutes, StreamId(stream), process.now, &process.shared)
            .0
    };
    assert!(matches!(ask(&mut process, 2), TokenLookup::Pending));
    process.ready(0);
    assert_eq!(process.poll(0), [Observed::Read]);
    process.assertion(0);
    // The exchange fails, and the valid token is served.
    assert_eq!(process.endpoint(0, answer(500, &json!({}))), [Observed::Token(2)]);
    assert!(matches!(ask(&mut process, 3), TokenLookup::Ready(_)));
    // It is also served when the request times out.
    process.advance(Duration::from_secs(61));
    assert!(matches!(ask(&mut process, 4), TokenLookup::Pending));
    process.workers[0].poll(key, process.now, &process.shared);
    process.assertion(0);
    process.advance(Limits::default().wait);
    assert_eq!(process.poll(0), [Observed::Read, Observed::Token(4)]);
}

#[test]
fn a_short_lived_token_also_serves_clients_that_require_five_minutes() {
    let mut process = Process::new();
    process.exchange(0, 1, token(600));
    process.advance(Duration::from_secs(500));
    let (answer, _) =
        process.workers[0].get(&process.spec, RequiredLifetime::FiveMinutes, StreamId(2), process.now, &process.shared);
    assert!(matches!(answer, TokenLookup::Ready(_)));
}

#[test]
fn a_token_from_before_the_discard_time_is_not_used() {
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
    process.workers[1] = Worker::new(WorkerId(99), QueueId(9), Limits::default());
    process.spec = later;
    process.exchange(1, 2, token(3600));
    process.ready(1);
}

#[test]
fn a_warm_token_is_fetched_before_the_first_request_and_kept_fresh() {
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
fn a_token_that_has_expired_on_arrival_is_fetched_once_more_and_then_reported_as_a_problem() {
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
fn unused_state_is_removed() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(7200));
    process.poll(0);
    assert!(process.workers[0].keys() == 0 && process.workers[0].timers.is_empty());
    let name = process
        .shared
        .memory
        .values
        .borrow()
        .iter()
        .find(|(_, (value, _))| value.len() > 2)
        .map(|(name, _)| name.clone());
    assert!(name.is_some());
    let other = process.spec.key();
    store::update(&process.shared, other, process.now, |entry| {
        *entry = Entry::default();
        Update::Commit(())
    });
    assert!(process.shared.shelves().all(|value| value == EMPTY));
}

#[test]
fn a_prefetch_fetches_a_token_and_reports_no_failure() {
    let mut process = Process::new();
    let prefetch = |process: &mut Process| process.workers[0].prefetch(&process.spec, process.now, &process.shared);
    assert!(prefetch(&mut process));
    assert!(!prefetch(&mut process) || process.due_in(0).is_none());
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, refusal(90_002)), []);
    // No request waits, so the exchange is not repeated until the next request.
    let next_try = process.due_in(0).unwrap();
    process.advance(next_try);
    assert_eq!(process.poll(0), []);
    assert_eq!(process.due_in(0), None);
    assert!(prefetch(&mut process));
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, token(3600)), []);
    // The prefetched token counts as used: it is refreshed in time and served.
    assert!(process.due_in(0).unwrap() < Duration::from_secs(3400));
    prefetch(&mut process);
    process.ready(1);
}

#[test]
fn a_prefetched_token_that_another_worker_published_is_not_fetched_again() {
    let mut process = Process::new();
    process.workers[0].prefetch(&process.spec, process.now, &process.shared);
    process.exchange(1, 1, token(3600));
    assert_eq!(process.poll(0), []);
    // Without further requests, it is removed after one refresh.
    let refresh = process.due_in(0).unwrap();
    process.advance(refresh);
    assert_eq!(process.poll(0), [Observed::Read]);
    process.assertion(0);
    process.endpoint(0, token(3600));
    process.advance(Duration::from_secs(3600));
    assert_eq!(process.poll(0), []);
    assert_eq!(process.due_in(0), None);
}

#[test]
fn a_late_response_for_which_nothing_waits_does_not_cancel_a_prefetch() {
    let mut process = Process::new();
    process.stall(0, 1);
    process.exchange(1, 2, token(60));
    assert_eq!(process.poll(0), [Observed::Token(1)]);
    process.advance(Duration::from_secs(60));
    process.poll(0);
    assert_eq!(process.workers[0].keys(), 0);
    assert!(process.workers[0].prefetch(&process.spec, process.now, &process.shared));
    assert_eq!(process.endpoint(0, token(60)), []);
    assert_eq!(process.poll(0), [Observed::Read]);
}

/// The generator's published sequence for this seed, of which the upper halves are used.
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

/// A poll sets the timer of the refresh. Without it the token would not be refreshed.
#[test]
fn the_first_use_of_a_token_requires_a_poll_and_the_next_does_not() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.refresh(0);
    // The new token is unused, and its timer is that of its expiry.
    assert!(process.request_token(0, 2).1);
    assert!(!process.request_token(0, 3).1);
    let prefetch = |process: &mut Process| process.workers[0].prefetch(&process.spec, process.now, &process.shared);
    assert!(!prefetch(&mut process));
    process.poll(0);
    process.refresh(0);
    assert!(prefetch(&mut process));
    assert!(!prefetch(&mut process));
}

#[test]
fn a_prefetch_after_a_back_off_requires_a_poll_only_once() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(90_002));
    let prefetch = |process: &mut Process| process.workers[0].prefetch(&process.spec, process.now, &process.shared);
    assert!(!prefetch(&mut process), "no poll is needed during a back-off");
    process.advance(process.due_in(0).unwrap());
    assert!(prefetch(&mut process));
    assert!(!prefetch(&mut process));
}

#[test]
fn a_late_token_does_not_replace_a_newer_one() {
    let mut process = Process::new();
    process.stall(0, 1);
    let began = process.now;
    process.exchange(1, 2, token(3600));
    process.endpoint(0, token(3600));
    for worker in [0, 1] {
        match process.request_token(worker, 3).0 {
            TokenLookup::Ready(cached) => assert_eq!(cached.issued_at(), began, "worker {worker}"),
            _ => panic!("worker {worker} serves no token"),
        }
    }
}

#[test]
fn an_older_token_is_published_if_the_newer_one_has_expired_or_there_is_none() {
    let mut process = Process::new();
    process.stall(0, 1);
    process.exchange(1, 2, token(60));
    process.advance(Duration::from_secs(60));
    process.endpoint(0, token(3600));
    process.ready(0);
}

#[test]
fn a_token_from_exactly_the_discard_time_is_kept() {
    let mut process = Process::new();
    let spec = |before| spec_of("payments", "s/.default", &["entra"], Some(before));
    process.spec = spec(START);
    process.exchange(0, 1, token(3600));
    process.ready(0);
    process.advance(Duration::from_millis(1));
    process.spec = spec(process.now);
    process.pending(1, 2);
}

/// An unused token is removed when it expires and not polled before.
#[test]
fn an_unused_token_is_not_polled_before_it_expires() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.refresh(0);
    assert_eq!(process.due_in(0), Some(Duration::from_secs(3570)), "its expiry, not its refresh");
}

#[test]
fn the_first_use_of_another_workers_token_needs_a_poll_even_if_it_is_served_because_the_queue_is_full() {
    let mut process = Process::new();
    process.workers[1] = Worker::new(WorkerId(8), QueueId(1), Limits { waiting: 1, ..Limits::default() });
    process.pending(0, 1);
    process.begin(0);
    process.pending(1, 2);
    assert_eq!(process.poll(1), []);
    process.endpoint(0, token(200));
    let mut request = || {
        let required = RequiredLifetime::FiveMinutes;
        process.workers[1].get(&process.spec, required, StreamId(3), process.now, &process.shared)
    };
    assert!(matches!(request(), (TokenLookup::Ready(_), true)), "this worker must be registered as a holder");
    assert!(matches!(request(), (TokenLookup::Ready(_), false)));
}

#[test]
fn a_request_that_requires_five_minutes_has_a_token_replaced_that_is_not_due_yet() {
    let mut process = Process::new();
    let body = json!({"token_type": "Bearer", "expires_in": 1200, "refresh_in": 1199, "access_token": "abc"});
    process.exchange(0, 1, answer(200, &body));
    process.advance(Duration::from_secs(1000));
    assert_eq!(process.poll(0), [], "it is not due");
    let (answer, _) =
        process.workers[0].get(&process.spec, RequiredLifetime::FiveMinutes, StreamId(2), process.now, &process.shared);
    assert!(matches!(answer, TokenLookup::Pending));
    assert_eq!(process.poll(0), [Observed::Read]);
}

#[test]
fn a_prefetched_token_is_kept_fresh_although_another_worker_fetched_it_and_an_older_one_was_never_used() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.begin(0);
    process.pending(1, 2);
    process.poll(1);
    process.workers[1].forget(StreamId(2));
    process.endpoint(0, token(3600));
    process.poll(1);
    // Worker 1 holds a token that no request has used. It expires.
    process.advance(Duration::from_secs(3600));
    process.pending(0, 3);
    process.begin(0);
    assert!(process.workers[1].prefetch(&process.spec, process.now, &process.shared));
    process.endpoint(0, token(3600));
    assert_eq!(process.poll(1), []);
    process.advance(process.due_in(1).unwrap());
    assert_eq!(process.poll(1), [Observed::Read]);
}
