//! Tests of many requests whose token arrives at the same time.

use super::*;

/// Creates a process in which many requests wait in worker 0 and one in worker 1. Worker 0 has called the endpoint.
fn many(streams: u32) -> Process {
    let mut process = Process::new();
    for stream in 0..streams {
        process.pending(0, stream);
    }
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    process
}

fn millisecond(process: &mut Process) -> Vec<Observed> {
    process.advance(release::PERIOD);
    process.poll(0)
}

#[test]
fn a_thousand_requests_for_one_token_are_released_a_few_at_a_time_in_the_order_of_arrival() {
    let mut process = many(1_000);
    let mut released = process.endpoint(0, token(3600));
    assert_eq!(released.len(), release::AT_ONCE);
    while released.len() < 1_000 {
        assert_eq!(process.due_in(0), Some(release::PERIOD), "the next turn is due in a millisecond");
        let more = millisecond(&mut process);
        assert_eq!(more.len(), release::AT_ONCE.min(1_000 - released.len()));
        released.extend(more);
    }
    assert_eq!(released, (0..1_000).map(Observed::Token).collect::<Vec<_>>());
    assert_eq!(process.workers[0].waiting, 0);
    assert!(process.due_in(0).unwrap() > Duration::from_secs(2900), "only the refresh remains");
}

#[test]
fn a_failure_is_returned_to_many_requests_a_few_at_a_time() {
    let mut process = many(100);
    let mut problems = process.endpoint(0, answer(500, &json!({})));
    while problems.len() < 100 {
        let more = millisecond(&mut process);
        assert!(!more.is_empty() && more.len() <= release::AT_ONCE, "{more:?}");
        problems.extend(more);
    }
    assert_eq!(problems, (0..100).map(|stream| Observed::Problem(stream, Code::EntraUnavailable)).collect::<Vec<_>>());
}

#[test]
fn a_request_that_is_reset_before_its_release_leaves_no_state() {
    let mut process = many(100);
    process.endpoint(0, token(3600));
    for stream in 50..100 {
        process.workers[0].forget(StreamId(stream));
    }
    let mut released = release::AT_ONCE;
    while process.due_in(0) == Some(release::PERIOD) {
        released += millisecond(&mut process).len();
    }
    assert_eq!((released, process.workers[0].waiting), (50, 0));
}

#[test]
fn a_request_whose_deadline_comes_before_its_release_gets_the_token() {
    let mut process = many(100);
    process.advance(Limits::default().wait.saturating_sub(Duration::from_millis(2)));
    let mut released = process.endpoint(0, token(3600));
    while released.len() < 100 {
        released.extend(millisecond(&mut process));
    }
    assert_eq!(released, (0..100).map(Observed::Token).collect::<Vec<_>>());
}

#[test]
fn many_requests_that_time_out_are_answered_a_few_at_a_time_and_none_is_lost() {
    let mut process = many(100);
    process.advance(Limits::default().wait);
    let mut problems = process.poll(0);
    problems.retain(|seen| *seen != Observed::Read);
    assert_eq!(problems.len(), release::AT_ONCE);
    while problems.len() < 100 {
        problems.extend(millisecond(&mut process));
    }
    assert_eq!(problems, (0..100).map(|stream| Observed::Problem(stream, Code::TokenWaitTimeout)).collect::<Vec<_>>());
}

#[test]
fn a_token_that_expires_during_the_release_is_not_given_to_the_remaining_requests() {
    let mut process = many(100);
    process.endpoint(0, token(3600));
    process.advance(Duration::from_secs(3600));
    for stream in 100..200 {
        process.pending(0, stream);
    }
    let seen = process.poll(0);
    assert!(!seen.iter().any(|seen| matches!(seen, Observed::Token(_))), "{seen:?}");
    assert!(seen.contains(&Observed::Read), "another one is fetched");
}

#[test]
fn the_requests_of_one_token_do_not_wait_for_those_of_another_to_be_released() {
    let mut process = many(1_000);
    process.endpoint(0, token(3600));
    let other = spec_of("reports", "api://other/.default", &["entra"], None);
    let (answer, _) =
        process.workers[0].get(&other, RequiredLifetime::Any, StreamId(5_000), process.now, &process.shared);
    assert!(matches!(answer, TokenLookup::Pending));
    process.workers[0].poll(other.key(), process.now, &process.shared);
    let read = process.federated_token();
    process.read(0, read);
    let answered =
        process.workers[0].call_finished(&Purpose::Token(other.key()), token(3600), process.now, &process.shared);
    assert_eq!(observed(answered), [], "no more are released in this millisecond");
    let mut soon = Vec::new();
    for _ in 0..2 {
        process.advance(release::PERIOD);
        soon.extend(observed(process.workers[0].tick(process.now, &process.shared)));
    }
    assert!(soon.contains(&Observed::Token(5_000)), "{soon:?}");
}

#[test]
fn a_refresh_in_progress_delays_no_request_with_an_acceptable_token() {
    let mut process = many(100);
    process.endpoint(0, token(3600));
    let long_lived = |process: &mut Process, stream| {
        process.workers[0]
            .get(&process.spec, RequiredLifetime::FiveMinutes, StreamId(stream), process.now, &process.shared)
            .0
    };
    // Waiters remain to be released when a caller requires a longer remaining lifetime and an exchange begins.
    process.advance(Duration::from_secs(3320));
    assert!(matches!(long_lived(&mut process, 900), TokenLookup::Pending));
    let mut seen = process.poll(0);
    assert_eq!(seen.remove(0), Observed::Read);
    while seen.len() < 100 - release::AT_ONCE {
        seen.extend(millisecond(&mut process));
    }
    assert!(seen.iter().all(|seen| matches!(seen, Observed::Token(stream) if *stream < 100)), "{seen:?}");
}
