//! Tests of failed exchanges: retries, further clusters and the back-off.

use super::*;

#[test]
fn a_rejection_that_a_new_credential_may_get_is_retried_once_shortly_after() {
    let mut process = Process::new();
    assert_eq!(process.exchange(0, 1, refusal(700213)), []);
    assert_eq!(process.due_in(0), Some(IMMEDIATE_RETRY_DELAY));
    process.advance(IMMEDIATE_RETRY_DELAY);
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, refusal(700213)), [Observed::Problem(1, Code::EntraRefused)]);
}

#[test]
fn an_expired_assertion_is_read_again_immediately() {
    let mut process = Process::new();
    assert_eq!(process.exchange(0, 1, refusal(700024)), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, token(3600)), [Observed::Token(1)]);
}

#[test]
fn during_a_back_off_requests_fail_immediately_in_every_worker_with_retry_after() {
    let mut process = Process::new();
    assert_eq!(process.exchange(0, 1, refusal(90_002)), [Observed::Problem(1, Code::EntraRefused)]);
    for worker in [0, 1] {
        let problem = process.failed(worker);
        assert_eq!(problem.aadsts().as_deref(), Some("AADSTS90002"));
        assert!(problem.retry_after.unwrap() > Duration::ZERO);
    }
    let wait = process.failed(1).retry_after.unwrap();
    process.advance(wait);
    assert_eq!(process.exchange(1, 2, token(3600)), [Observed::Token(2)]);
}

#[test]
fn the_clusters_of_the_authority_are_tried_in_order_until_one_reaches_it() {
    let mut process = Process::new();
    process.spec = spec_of("payments", "s/.default", &["first", "second"], None);
    let own = |status| {
        Ok(CallResponse {
            status,
            retry_after: None,
            request_id: None,
            grpc: None,
            body: b"reset".to_vec(),
            is_envoys_own: true,
        })
    };
    process.pending(0, 1);
    process.poll(0);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, own(503)), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, token(60)), [Observed::Token(1)]);
    // Both fail.
    process.advance(Duration::from_secs(60));
    process.pending(0, 2);
    process.poll(0);
    process.assertion(0);
    assert_eq!(process.endpoint(0, own(504)), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, own(503)), [Observed::Problem(2, Code::EntraUnavailable)]);
    // A call with a response is not repeated through another cluster.
    process.advance(Duration::from_secs(60));
    process.pending(0, 3);
    process.poll(0);
    process.assertion(0);
    assert_eq!(
        process.endpoint(0, answer(503, &json!({"error": "x"}))),
        [Observed::Problem(3, Code::EntraUnavailable)]
    );
}

/// Returns the timeouts of the requested calls.
fn timeouts(commands: &[Effect]) -> Vec<Duration> {
    let timeout = |command: &Effect| match command {
        Effect::Call(Purpose::Token(_), call) => Some(call.timeout),
        _ => None,
    };
    commands.iter().filter_map(timeout).collect()
}

#[test]
fn a_call_times_out_after_three_seconds_while_another_cluster_can_be_tried_and_all_calls_share_the_exchange_timeout() {
    for (clusters, expected) in [(&["a"][..], &[10][..]), (&["a", "b"], &[3, 7]), (&["a", "b", "c"], &[3, 3, 4])] {
        let mut process = Process::new();
        process.spec = spec_of("payments", "s/.default", clusters, None);
        process.pending(0, 1);
        process.poll(0);
        let read = process.federated_token();
        let mut commands = process.read(0, read);
        for (index, seconds) in expected.iter().enumerate() {
            assert_eq!(timeouts(&commands), [Duration::from_secs(*seconds)], "{clusters:?}, {index}");
            process.advance(Duration::from_secs(*seconds));
            let silence = CallResponse {
                status: 504,
                retry_after: None,
                request_id: None,
                grpc: None,
                body: Vec::new(),
                is_envoys_own: true,
            };
            commands = process.called(0, Ok(silence));
        }
        assert_eq!(observed(commands), [Observed::Problem(1, Code::EntraUnavailable)]);
    }
    let short = Limits { exchange: Duration::from_secs(1), ..Limits::default() };
    assert_eq!(short.call_timeout(0, 2) + short.call_timeout(1, 2), short.exchange);
    assert!(short.call_timeout(usize::MAX, usize::MAX) <= short.exchange);
}

#[test]
fn a_call_that_does_not_reach_the_authority_is_logged_and_is_no_failure_while_another_cluster_can_be_tried() {
    let mut process = Process::new();
    process.spec = spec_of("payments", "s/.default", &["entra", "entra_new_connection"], None);
    process.pending(0, 1);
    process.poll(0);
    process.assertion(0);
    let reset = CallResponse {
        status: 503,
        retry_after: None,
        request_id: None,
        grpc: None,
        body: b"reset".to_vec(),
        is_envoys_own: true,
    };
    let commands = process.called(0, Ok(reset));
    let lines: Vec<String> = commands
        .iter()
        .filter_map(|command| match command {
            Effect::Log(event) => Some(event.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("event=exchange outcome=retried identity=payments scope=s/.default"), "{lines:?}");
    assert!(
        lines[0].contains("next_cluster=entra_new_connection")
            && lines[0].contains("from cluster \\\"entra\\\": reset"),
        "{lines:?}"
    );
    let counted: Vec<&str> = commands
        .iter()
        .filter_map(|command| match command {
            Effect::Measure(measured) => Some(measured.name.as_str()),
            _ => None,
        })
        .collect();
    let retried = "identity=.=payments;.;outcome=.=retried;.;class=.=transient;.;entra_exchange_exchanges_total";
    assert_eq!(counted, [retried]);
    // No back-off is in effect in the meantime.
    process.pending(1, 2);
    assert_eq!(process.endpoint(0, token(3600)), [Observed::Token(1)]);
}

#[test]
fn a_request_in_the_pause_before_the_retry_does_not_shorten_the_pause() {
    let mut process = Process::new();
    assert_eq!(process.exchange(0, 1, refusal(700_213)), []);
    process.advance(IMMEDIATE_RETRY_DELAY - Duration::from_millis(1));
    process.pending(0, 2);
    assert_eq!(process.poll(0), []);
    process.advance(Duration::from_millis(1));
    assert_eq!(process.poll(0), [Observed::Read]);
}

/// Performs an exchange that Entra rejects because the client is unknown. Returns whether it was retried immediately.
fn unknown_client(process: &mut Process, stream: u32) -> bool {
    process.pending(0, stream);
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    let first = process.endpoint(0, refusal(700_016));
    if first == [Observed::Problem(stream, Code::EntraRefused)] {
        return false;
    }
    process.advance(IMMEDIATE_RETRY_DELAY);
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, refusal(700_016)), [Observed::Problem(stream, Code::EntraRefused)]);
    true
}

#[test]
fn an_unknown_client_has_a_short_back_off_for_ten_minutes_and_then_a_long_one() {
    let mut process = Process::new();
    let started = process.now;
    let (mut stream, mut waits) = (0, Vec::new());
    while process.now.since(started) < Duration::from_secs(2400) {
        stream += 1;
        let is_new = process.now.since(started) < Duration::from_secs(600);
        assert_eq!(unknown_client(&mut process, stream), is_new, "after {:?}", process.now.since(started));
        let wait = process.failed(0).retry_after.unwrap();
        if is_new {
            assert!(wait <= Duration::from_secs(60), "{wait:?}");
        } else {
            waits.push(wait);
        }
        process.advance(wait);
    }
    assert!(waits.iter().any(|wait| *wait > Duration::from_secs(60)), "{waits:?}");
}

#[test]
fn a_client_that_had_a_token_and_was_deleted_is_not_new() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(3600));
    assert!(!unknown_client(&mut process, 2));
}

#[test]
fn failures_are_counted_separately_for_each_cause_and_no_count_is_reset_by_another_cause() {
    let mut process = Process::new();
    let mut stream = 0;
    let mut failed = |process: &mut Process, answer: CallResult| {
        stream += 1;
        process.exchange(0, stream, answer);
        let wait = process.failed(0).retry_after.unwrap();
        process.advance(wait);
        let failures = process.shared.read(process.spec.key()).failure.unwrap().failures;
        (failures, wait)
    };
    for number in 1..9 {
        assert_eq!(failed(&mut process, answer(500, &json!({}))).0, number);
    }
    // Between one and thirty seconds, with jitter. The ninth failure with one cause could wait ten minutes.
    for code in [90_002, 53_003] {
        let (failures, wait) = failed(&mut process, refusal(code));
        assert!(failures == 1 && wait <= Duration::from_secs(30), "AADSTS{code}: {wait:?}");
    }
    assert_eq!(failed(&mut process, answer(500, &json!({}))).0, 9);
    assert_eq!(failed(&mut process, refusal(53_003)).0, 2);
    assert_eq!(process.exchange(0, 100, token(60)), [Observed::Token(100)]);
    process.advance(Duration::from_secs(60));
    assert_eq!(failed(&mut process, refusal(53_003)).0, 1, "a token resets every count");
}

#[test]
fn a_new_federated_token_is_exchanged_immediately_after_the_rejection_of_the_previous_one() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(90_002));
    // A second later the file holds another token.
    process.advance(READING_PERIOD);
    process.pending(1, 2);
    assert_eq!(process.poll(1), [Observed::Read]);
    process.pending(1, 3);
    assert_eq!(process.assertion(1), [Observed::EndpointCall]);
    process.pending(0, 4);
    assert_eq!(process.poll(0), [], "it waits for the other worker's exchange");
    assert_eq!(process.endpoint(1, token(3600)), [Observed::Wake(0), Observed::Token(2), Observed::Token(3)]);
    assert_eq!(process.poll(0), [Observed::Token(4)]);
}

#[test]
fn while_the_file_holds_the_rejected_token_it_is_read_once_a_second_and_entra_is_not_called() {
    let mut process = Process::new();
    let refused = process.federated_token();
    process.exchange(0, 1, refusal(90_002));
    let failure = |process: &Process| process.shared.read(process.spec.key()).failure;
    let before = failure(&process);
    for second in 1..4 {
        process.advance(READING_PERIOD - Duration::from_millis(1));
        process.failed(0);
        process.advance(Duration::from_millis(1));
        process.pending(1, second);
        assert_eq!(process.poll(1), [Observed::Read]);
        assert_eq!(process.failed(0).code, Code::EntraRefused, "one worker reads for all");
        // An unreadable file does not cause a call to Entra either.
        let read = if second == 2 { answer(503, &json!({})) } else { refused.clone() };
        assert_eq!(process.assertion_answer(1, read), [Observed::Problem(second, Code::EntraRefused)]);
        assert_eq!(failure(&process), before, "the back-off continues");
    }
}

#[test]
fn a_new_federated_token_that_is_also_rejected_continues_the_back_off() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(90_002));
    process.advance(READING_PERIOD);
    assert_eq!(process.exchange(1, 2, refusal(90_002)), [Observed::Problem(2, Code::EntraRefused)]);
    assert_eq!(process.shared.read(process.spec.key()).failure.unwrap().failures, 2);
    process.failed(0);
}

#[test]
fn a_failure_that_a_new_federated_token_cannot_resolve_keeps_its_back_off() {
    for answer in [refusal(500_011), refusal(53_003), answer(500, &json!({})), refusal(50_196)] {
        let mut process = Process::new();
        process.exchange(0, 1, answer);
        // The back-off is at least a second.
        process.advance(READING_PERIOD - Duration::from_millis(1));
        let wait = process.failed(1).retry_after.unwrap();
        process.advance(wait - Duration::from_millis(1));
        process.failed(1);
    }
}
