//! Tests of the federated token that several exchanges wait for.

use super::*;

/// The token specs of forty scopes of one identity.
fn forty() -> Vec<Arc<TokenSpec>> {
    (0..40).map(|number| spec_of("payments", &format!("{number}/.default"), &["entra"], None)).collect()
}

/// Requests these tokens in a worker. Returns what the worker does.
fn burst(process: &mut Process, worker: usize, specs: &[Arc<TokenSpec>]) -> Vec<Observed> {
    let mut seen = Vec::new();
    for (stream, spec) in (0..).zip(specs) {
        process.spec = Arc::clone(spec);
        process.pending(worker, stream);
        seen.extend(process.poll(worker));
    }
    seen
}

#[test]
fn forty_scopes_of_one_identity_read_the_federated_token_once() {
    let mut process = Process::new();
    assert_eq!(burst(&mut process, 0, &forty()), [Observed::Read]);
    let calls = process.assertion(0);
    assert_eq!((calls.len(), &calls[0]), (40, &Observed::EndpointCall));
    assert!(calls.iter().all(|seen| *seen == Observed::EndpointCall));
}

#[test]
fn a_federated_token_is_used_again_for_a_second_and_then_read_again() {
    let mut process = Process::new();
    let specs = forty();
    assert_eq!(burst(&mut process, 0, &specs[..1]), [Observed::Read]);
    process.advance(Duration::from_millis(400));
    process.assertion(0);
    // The second begins with the read, because the file may have changed since.
    process.advance(Duration::from_millis(599));
    assert_eq!(burst(&mut process, 0, &specs[1..3]), [Observed::EndpointCall, Observed::EndpointCall]);
    process.advance(Duration::from_millis(1));
    assert_eq!(burst(&mut process, 0, &specs[3..5]), [Observed::Read]);
}

#[test]
fn a_federated_token_is_not_used_again_after_its_expiry() {
    let mut process = Process::new();
    let mut claims = claims();
    claims["exp"] = json!(process.now.unix_seconds() + 1);
    let body = jwt(&json!({"alg": "RS256"}), &claims).into_bytes();
    let specs = forty();
    process.now = process.now.plus(Duration::from_millis(500));
    burst(&mut process, 0, &specs[..1]);
    process.read(0, Ok(CallResponse { body, ..federated(&process) }));
    process.advance(Duration::from_millis(499));
    assert_eq!(burst(&mut process, 0, &specs[1..2]), [Observed::EndpointCall]);
    process.advance(Duration::from_millis(1));
    assert_eq!(burst(&mut process, 0, &specs[2..3]), [Observed::Read]);
}

fn federated(process: &Process) -> CallResponse {
    process.federated_token().unwrap()
}

#[test]
fn a_federated_token_that_entra_rejects_is_not_used_again() {
    for (code, expected) in [(90_002, Observed::Read), (700_213, Observed::Read), (500_011, Observed::EndpointCall)] {
        let mut process = Process::new();
        let specs = forty();
        burst(&mut process, 0, &specs[..1]);
        process.assertion(0);
        process.endpoint(0, refusal(code));
        assert_eq!(burst(&mut process, 0, &specs[1..2]), [expected], "AADSTS{code}");
    }
}

#[test]
fn an_unreadable_file_fails_all_exchanges_of_a_burst_with_one_read_and_is_read_again_after_a_second() {
    let mut process = Process::new();
    let specs = forty();
    assert_eq!(burst(&mut process, 0, &specs[..3]), [Observed::Read]);
    process.advance(Duration::from_millis(100));
    let unavailable = |stream| Observed::Problem(stream, Code::AssertionUnavailable);
    let mut failed = process.assertion_answer(0, answer(503, &json!({})));
    failed.sort_by_key(|seen| format!("{seen:?}"));
    assert_eq!(failed, [unavailable(0), unavailable(1), unavailable(2)]);
    assert_eq!(burst(&mut process, 0, &specs[3..4]), [unavailable(0)]);
    process.advance(Duration::from_secs(1));
    assert_eq!(burst(&mut process, 0, &specs[4..5]), [Observed::Read]);
}

#[test]
fn the_leases_of_all_waiting_exchanges_last_as_long_as_the_second_read() {
    let mut process = Process::new();
    let specs = forty();
    burst(&mut process, 0, &specs[..2]);
    process.advance(READ_TIMEOUT - Duration::from_millis(1));
    assert_eq!(process.assertion_answer(0, answer(200, &json!("half a token"))), []);
    process.advance(PARTIAL_FILE_RETRY_DELAY);
    assert_eq!(process.poll(0), [Observed::Read], "once for both");
    process.advance(Duration::from_secs(1));
    assert_eq!(process.poll(0), [], "the first read would have been lost by now");
    process.advance(READ_TIMEOUT - Duration::from_secs(1));
    for spec in &specs[..2] {
        let lease = process.shared.read(spec.key()).lease.unwrap();
        assert!(lease.is_live(process.now) && lease.holder == WorkerId(7));
    }
    assert_eq!(process.assertion(0), [Observed::EndpointCall, Observed::EndpointCall]);
}

#[test]
fn no_other_worker_takes_over_an_exchange_that_waits_for_the_second_read() {
    let mut process = Process::new();
    burst(&mut process, 0, &forty()[..2]);
    process.pending(1, 9);
    assert_eq!(process.poll(1), []);
    process.advance(READ_TIMEOUT - Duration::from_millis(1));
    assert_eq!(process.assertion_answer(0, answer(200, &json!("half a token"))), []);
    process.advance(PARTIAL_FILE_RETRY_DELAY);
    assert_eq!(process.poll(0), [Observed::Read]);
    // The other worker polls when the lease that it knows ends.
    process.advance(process.due_in(1).unwrap());
    assert_eq!(process.poll(1), []);
    assert_eq!(process.assertion(0), [Observed::EndpointCall, Observed::EndpointCall]);
}

#[test]
fn a_lease_lasts_as_long_as_the_call_to_the_input_of_its_source() {
    let text = json!({
        "assertions": [
            {"name": "sts", "source": "token_exchange", "cluster": "sts", "path": "/token", "subject_token": "projected", "timeout": "1s"},
            {"name": "projected", "source": "file", "cluster": "projected_token"},
        ],
        "identities": [{"tenant_id": "t.example", "client_id": "aaaaaaaa-0000-4000-8000-000000000001", "assertion": "sts"}],
        "destinations": [{"hosts": ["x.example"], "scope": "x/.default", "plaintext": "allow"}],
    });
    let config = crate::config::Config::parse(text.to_string().as_bytes(), &|_| None).unwrap();
    let mut process = Process::new();
    process.spec = Arc::new(config.identities[0].spec("x/.default").unwrap());
    process.pending(0, 1);
    assert_eq!(process.poll(0), [Observed::Read]);
    let lease = process.shared.read(process.spec.key()).lease.unwrap();
    assert_eq!(lease.until.since(process.now), READ_TIMEOUT + GRACE_PERIOD);
}

#[test]
fn an_exchange_that_begins_in_the_pause_before_the_second_read_waits_for_that() {
    let mut process = Process::new();
    let specs = forty();
    burst(&mut process, 0, &specs[..1]);
    process.assertion_answer(0, answer(200, &json!("half a token")));
    process.advance(Duration::from_millis(50));
    assert_eq!(burst(&mut process, 0, &specs[1..2]), []);
    assert_eq!(process.due_in(0), Some(Duration::from_millis(50)));
    process.advance(Duration::from_millis(50));
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall, Observed::EndpointCall]);
}

#[test]
fn a_lost_answer_delays_further_exchanges_only_until_the_read_has_timed_out() {
    let mut process = Process::new();
    let specs = forty();
    burst(&mut process, 0, &specs[..1]);
    process.now = process.now.minus(Duration::from_secs(3600));
    assert_eq!(burst(&mut process, 0, &specs[1..2]), []);
    process.advance(READ_TIMEOUT + GRACE_PERIOD);
    assert_eq!(burst(&mut process, 0, &specs[2..3]), [Observed::Read]);
}

#[test]
fn a_probe_waits_for_the_read_of_an_exchange() {
    let mut process = Process::new();
    let spec = Arc::clone(&process.spec);
    let credential = Ok(Credential::of(&spec));
    let readiness = Arc::new(Readiness { identities: vec![Decisive { name: "payments".to_owned(), credential }] });
    assert_eq!(burst(&mut process, 0, &[spec]), [Observed::Read]);
    let status = process.workers[0].check_readiness(&readiness, StreamId(9), process.now, &process.shared);
    assert!(status.is_none());
    assert_eq!(observed(process.workers[0].start_probe(process.now, &process.shared)), []);
    assert_eq!(process.assertion(0), [Observed::EndpointCall, Observed::Ready(9)]);
}

#[test]
fn an_exchange_does_not_continue_with_the_federated_token_of_another_source() {
    let mut process = Process::new();
    let projected = Arc::clone(&process.spec);
    let other = Arc::new(TokenSpec::new(&TokenSpecParts {
        identity: "other",
        authority: &crate::authority::Authority::public(),
        tenant_id: "t",
        client_id: "c",
        scope: "s/.default",
        assertion: &Source::File { cluster: "other".to_owned() },
        clusters: &["entra".to_owned()],
        discard_before: None,
    }));
    assert_eq!(burst(&mut process, 0, &[projected, other]), [Observed::Read, Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
}

#[test]
fn a_read_does_not_extend_the_lease_of_an_exchange_that_does_not_wait_for_it() {
    let mut process = Process::new();
    let specs = forty();
    burst(&mut process, 0, &specs[..1]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    let lease = |process: &Process| process.shared.read(specs[0].key()).lease.unwrap().until;
    let before = lease(&process);
    process.advance(Limits::default().exchange);
    assert_eq!(burst(&mut process, 0, &specs[1..2]), [Observed::Read]);
    assert_eq!(lease(&process), before);
}

#[test]
fn an_unreadable_token_file_is_reported_as_a_problem() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    assert_eq!(
        process.assertion_answer(0, answer(503, &json!({}))),
        [Observed::Problem(1, Code::AssertionUnavailable)]
    );
}

/// The response with a file of which only the first half has been written.
fn half_a_token(process: &Process) -> CallResult {
    let mut answer = process.federated_token().unwrap();
    answer.body.truncate(answer.body.len() / 2);
    Ok(answer)
}

#[test]
fn a_partially_written_token_is_read_again_before_a_problem_is_reported() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    let half = half_a_token(&process);
    assert_eq!(process.assertion_answer(0, half), []);
    process.advance(PARTIAL_FILE_RETRY_DELAY - Duration::from_millis(1));
    assert_eq!(process.poll(0), []);
    process.advance(Duration::from_millis(1));
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    // The retry of a rejected exchange is still available.
    assert_eq!(process.endpoint(0, refusal(700213)), []);
    process.advance(IMMEDIATE_RETRY_DELAY);
    assert_eq!(process.poll(0), [Observed::Read]);
    let half = half_a_token(&process);
    assert_eq!(process.assertion_answer(0, half), [], "the next partial read is retried again");
    process.advance(PARTIAL_FILE_RETRY_DELAY);
    assert_eq!(process.poll(0), [Observed::Read]);
    process.assertion(0);
    assert_eq!(process.endpoint(0, token(3600)), [Observed::Token(1)]);
}

#[test]
fn a_file_without_a_jwt_is_reported_after_two_reads_and_read_again_after_a_back_off() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    let nonsense = || {
        Ok(CallResponse {
            status: 200,
            retry_after: None,
            request_id: None,
            grpc: None,
            body: b"hello".to_vec(),
            is_envoys_own: false,
        })
    };
    for stream in [1, 2] {
        assert_eq!(process.assertion_answer(0, nonsense()), []);
        process.advance(PARTIAL_FILE_RETRY_DELAY);
        assert_eq!(process.poll(0), [Observed::Read]);
        assert_eq!(process.assertion_answer(0, nonsense()), [Observed::Problem(stream, Code::AssertionMalformed)]);
        process.advance(Duration::from_secs(60));
        process.pending(0, stream + 1);
        assert_eq!(process.poll(0), [Observed::Read]);
    }
    // A worker that takes over starts from the beginning.
    assert_eq!(process.assertion_answer(0, nonsense()), []);
    process.advance(Duration::from_secs(60));
    process.pending(1, 9);
    assert_eq!(process.poll(1), [Observed::Read]);
    assert_eq!(process.assertion_answer(1, nonsense()), []);
}

#[test]
fn an_exchange_begins_with_a_single_write_to_shared_data() {
    let mut process = Process::new();
    process.pending(0, 1);
    let before = *process.shared.memory.sets.borrow();
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(*process.shared.memory.sets.borrow() - before, 1, "the lease lasts for the read");
}
