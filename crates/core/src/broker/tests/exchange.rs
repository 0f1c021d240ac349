//! Tests of exchanges: leases, waiting requests and late responses.

use super::*;

#[test]
fn one_exchange_serves_all_waiters_in_every_worker() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.pending(0, 2);
    process.pending(1, 3);
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.poll(1), []);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, token(3600)), [Observed::Wake(1), Observed::Token(1), Observed::Token(2)]);
    assert_eq!(process.poll(1), [Observed::Token(3)]);
    process.ready(0);
    process.ready(1);
    // The next event is the refresh.
    assert!(process.due_in(0).unwrap() > Duration::from_secs(2900));
}

#[test]
fn a_later_worker_adopts_the_published_token_without_pausing() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.ready(1);
}

#[test]
fn only_the_first_waiter_requires_a_poll() {
    let mut process = Process::new();
    assert!(process.request_token(0, 1).1);
    assert!(!process.request_token(0, 2).1);
}

#[test]
fn a_waiter_is_answered_when_the_leader_dies() {
    let mut process = Process::new();
    process.pending(0, 1);
    assert_eq!(process.poll(0), [Observed::Read]);
    process.pending(1, 2);
    assert_eq!(process.poll(1), []);
    // Worker 0 has died.
    let wait = process.due_in(1).unwrap();
    assert_eq!(wait, READ_TIMEOUT + GRACE_PERIOD);
    process.advance(wait);
    assert_eq!(process.poll(1), [Observed::Read]);
    assert_eq!(process.assertion(1), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(1, token(3600)), [Observed::Token(2)]);
}

#[test]
fn a_worker_whose_lease_was_taken_over_stops_and_still_serves_its_waiters() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    process.advance(READ_TIMEOUT + GRACE_PERIOD);
    process.pending(1, 2);
    assert_eq!(process.poll(1), [Observed::Read]);
    // The response to worker 0 arrives late, and no second exchange begins.
    assert_eq!(process.assertion(0), []);
    assert_eq!(process.assertion(1), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(1, token(3600)), [Observed::Wake(0), Observed::Token(2)]);
    assert_eq!(process.poll(0), [Observed::Token(1)]);
}

#[test]
fn an_exchange_without_a_response_ends_with_its_lease() {
    let mut process = Process::new();
    process.stall(0, 1);
    assert_eq!(process.poll(0), [Observed::Read]);
}

#[test]
fn a_request_that_times_out_is_answered_even_if_no_other_event_occurs() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    process.assertion(0);
    process.advance(Limits::default().wait);
    assert_eq!(process.poll(0), [Observed::Read, Observed::Problem(1, Code::TokenWaitTimeout)]);
}

#[test]
fn a_cancelled_request_does_not_cancel_the_exchange_of_others() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.pending(0, 2);
    process.poll(0);
    process.workers[0].forget(StreamId(1));
    process.assertion(0);
    assert_eq!(process.endpoint(0, token(3600)), [Observed::Token(2)]);
    assert_eq!(process.workers[0].waiting, 0);
}

#[test]
fn the_queue_is_bounded() {
    let mut process = Process::new();
    for stream in 0..u32::try_from(Limits::default().waiting).unwrap() {
        process.pending(0, stream);
    }
    assert_eq!(process.failed(0).code, Code::TooManyWaiting);
}

#[test]
fn the_assertion_is_sent_only_to_the_clusters_of_the_authority() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    let body = jwt(&json!({"alg": "RS256"}), &claims()).into_bytes();
    let read = Ok(CallResponse {
        status: 200,
        retry_after: None,
        request_id: None,
        grpc: None,
        body: body.clone(),
        is_envoys_own: false,
    });
    let commands = process.read(0, read);
    let assertion = String::from_utf8(body).unwrap();
    let mut calls = 0;
    for command in commands {
        let Effect::Call(Purpose::Token(_), call) = command else { continue };
        assert!(process.spec.clusters().contains(&call.cluster), "{}", call.cluster);
        assert_eq!(call.authority, process.spec.authority().host());
        let body = String::from_utf8(call.body).unwrap();
        assert!(body.contains(&format!("client_assertion={assertion}")));
        calls += 1;
    }
    assert_eq!(calls, 1);
}

#[test]
fn a_vm_that_serves_no_requests_and_cannot_read_the_token_leaves_exchanges_to_the_workers() {
    let mut process = Process::new();
    let warm = [Arc::clone(&process.spec)];
    process.workers[0].keep_warm(&warm, process.now);
    process.workers[1].keep_warm(&warm, process.now);
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.poll(1), []);
    // Worker 0 runs on the main thread, to which internal listeners do not respond.
    assert_eq!(process.assertion_answer(0, answer(503, &json!({}))), [Observed::Wake(1)]);
    assert_eq!(process.poll(1), [Observed::Read]);
    process.assertion(1);
    assert_eq!(process.endpoint(1, answer(500, &json!({}))), []);
    // It tries again only at long, growing intervals, and then adopts the token.
    let first = process.due_in(0).unwrap();
    process.advance(first);
    process.poll(0);
    process.assertion_answer(0, answer(503, &json!({})));
    assert!(process.due_in(0).unwrap() >= 2 * first);
}

#[test]
fn unexpected_responses_are_ignored() {
    let mut process = Process::new();
    assert_eq!(process.assertion(0), []);
    assert_eq!(process.endpoint(0, token(60)), []);
    process.exchange(0, 1, token(3600));
    assert_eq!(process.endpoint(0, token(60)), []);
    assert_eq!(process.assertion(0), []);
}

#[test]
fn a_clock_that_is_set_back_extends_no_lease_and_no_failure() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    process.now = process.now.minus(Duration::from_secs(86400));
    process.pending(1, 2);
    assert_eq!(process.poll(1), [Observed::Read], "a lease with a time in the future is not valid");
    process.assertion(1);
    process.endpoint(1, refusal(90_002));
    process.now = process.now.minus(Duration::from_secs(86400));
    process.pending(1, 3);
}

#[test]
fn no_request_waits_longer_when_the_clock_is_set_back() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    process.assertion(0);
    process.pending(1, 2);
    process.poll(1);
    process.now = process.now.minus(Duration::from_secs(3600));
    // The next event sets the timers again.
    process.poll(0);
    process.poll(1);
    assert!(process.due_in(0).unwrap() <= Limits::default().wait);
    assert!(process.due_in(1).unwrap() <= Limits::default().wait);
    process.advance(Limits::default().wait);
    assert!(process.poll(0).contains(&Observed::Problem(1, Code::TokenWaitTimeout)));
    assert!(process.poll(1).contains(&Observed::Problem(2, Code::TokenWaitTimeout)));
}

#[test]
fn a_back_off_from_before_the_clock_was_set_back_is_not_in_effect() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(90_002));
    process.now = process.now.minus(Duration::from_secs(1800));
    process.pending(1, 2);
    assert_eq!(process.poll(1), [Observed::Read]);
}

#[test]
fn a_failure_is_not_returned_when_another_worker_has_a_newer_token() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(90_002));
    let wait = process.failed(1).retry_after.unwrap();
    process.advance(wait);
    process.pending(0, 2);
    process.poll(0);
    process.pending(1, 3);
    process.poll(1);
    process.assertion(0);
    process.endpoint(0, token(3600));
    // By this clock, the back-off that worker 1 knows is in effect again.
    process.now = process.now.minus(Duration::from_millis(500));
    assert_eq!(process.poll(1), [Observed::Token(3)]);
}

#[test]
fn a_full_queue_withholds_no_token() {
    let mut process = Process::new();
    let limits = Limits { waiting: 1, ..Limits::default() };
    process.workers[0] = Worker::new(WorkerId(7), QueueId(0), limits);
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(3320));
    let mut ask = |stream| {
        process.workers[0]
            .get(&process.spec, RequiredLifetime::FiveMinutes, StreamId(stream), process.now, &process.shared)
            .0
    };
    assert!(matches!(ask(2), TokenLookup::Pending));
    assert!(matches!(ask(3), TokenLookup::Ready(_)));
}

#[test]
fn a_request_that_times_out_gets_the_token_that_a_late_worker_published() {
    let mut process = Process::new();
    process.stall(1, 1);
    // The other worker takes over, and performs its second attempt when its request times out.
    process.pending(0, 2);
    assert_eq!(process.poll(0), [Observed::Read]);
    process.advance(READ_TIMEOUT);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    process.advance(Limits::default().exchange);
    assert_eq!(process.endpoint(0, refusal(700_213)), []);
    process.advance(IMMEDIATE_RETRY_DELAY);
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.endpoint(1, token(3600)), [Observed::Token(1)]);
    process.advance(Limits::default().wait - READ_TIMEOUT - Limits::default().exchange - IMMEDIATE_RETRY_DELAY);
    assert_eq!(process.poll(0), [Observed::Token(2)]);
}

#[test]
fn a_worker_whose_lease_was_taken_over_serves_the_token_that_came_meanwhile_and_not_a_former_failure() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(50_196));
    // The failure counts again when the clock has caught up with it.
    process.now = process.now.minus(Duration::from_secs(10));
    process.pending(1, 2);
    assert_eq!(process.poll(1), [Observed::Read]);
    process.advance(READ_TIMEOUT + GRACE_PERIOD);
    assert_eq!(process.exchange(0, 3, token(3600)), [Observed::Token(3)]);
    process.advance(Duration::from_secs(10).saturating_sub(READ_TIMEOUT + GRACE_PERIOD));
    assert_eq!(process.assertion(1), [Observed::Token(2)]);
}

#[test]
fn the_late_failure_of_a_worker_does_not_replace_the_token_of_the_one_that_took_over() {
    let mut process = Process::new();
    process.stall(0, 1);
    process.exchange(1, 2, token(3600));
    process.endpoint(0, answer(500, &json!({})));
    let entry = process.shared.read(process.spec.key());
    assert!(entry.failure.is_none() && entry.token.is_some());
}
