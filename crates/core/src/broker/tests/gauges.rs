//! Tests of the gauges of an identity, which any worker can measure.

use super::*;
use crate::assertion::Source;

/// Returns the last value of a gauge in these commands, or `None` if it is not measured.
fn gauge(commands: &[Effect], name: &str) -> Option<u64> {
    let measured = commands.iter().rev().find_map(|command| match command {
        Effect::Measure(measured) if measured.name.ends_with(&format!("entra_exchange_{name}")) => Some(measured.value),
        _ => None,
    });
    measured.map(|value| u64::try_from(value).unwrap())
}

impl Process {
    /// Performs an exchange for this scope of identity `a`, to which the token endpoint responds with `answer`.
    fn exchanged(&mut self, worker: usize, scope: &str, answer: CallResult) -> Vec<Effect> {
        self.federated_lifetime = 3600;
        self.spec = spec_of("a", scope, &["entra"], None);
        self.pending(worker, 1);
        self.poll(worker);
        let read = self.federated_token();
        let mut commands = self.read(worker, read);
        commands.extend(self.called(worker, answer));
        commands
    }

    /// Advances the clock to the worker's next measurement and returns its commands.
    fn next_measurements(&mut self, worker: usize) -> Vec<Effect> {
        self.now = self.workers[worker].next_observation().unwrap().max(self.now);
        self.workers[worker].tick(self.now, &self.shared)
    }

    /// Advances the clock by `seconds` and performs all measurements of the worker that are due.
    fn observe_for(&mut self, worker: usize, seconds: u64) -> Vec<Effect> {
        let end = self.now.plus(Duration::from_secs(seconds));
        let mut commands = Vec::new();
        while self.workers[worker].next_observation().is_some_and(|at| at <= end) {
            commands.extend(self.next_measurements(worker));
        }
        self.now = end;
        commands
    }
}

const EXPIRY: &str = "token_expiry_timestamp_seconds";

#[test]
fn the_earliest_expiry_includes_the_tokens_of_all_workers_and_excludes_idle_tokens() {
    let mut process = Process::new();
    let at = |seconds: u64| Some(START.unix_seconds() + seconds);
    assert_eq!(gauge(&process.exchanged(0, "x/.default", token(3600)), EXPIRY), at(3600));
    assert_eq!(gauge(&process.exchanged(1, "y/.default", token(7000)), EXPIRY), at(3600), "another worker's token");
    // x is not used: it leaves the minimum a minute after it was due, long before it expires.
    let commands = process.observe_for(1, 3400);
    assert_eq!(gauge(&commands, EXPIRY), at(7000));
    assert_eq!(gauge(&process.observe_for(0, 7000), EXPIRY), Some(0), "no token is held");
}

#[test]
fn a_token_whose_refresh_fails_remains_the_earliest_until_it_can_no_longer_be_sent() {
    let mut process = Process::new();
    process.exchanged(0, "x/.default", token(3600));
    process.ready(0);
    process.poll(0);
    process.exchanged(1, "y/.default", token(7000));
    process.spec = spec_of("a", "x/.default", &["entra"], None);
    let refresh_in = process.workers[0].next_due().unwrap().since(process.now);
    process.advance(refresh_in);
    assert_eq!(process.poll(0), [Observed::Read]);
    process.assertion(0);
    let commands = process.called(0, refusal(90_002));
    let expiry = Some(START.unix_seconds() + 3600);
    assert_eq!((gauge(&commands, EXPIRY), gauge(&commands, "failures_in_a_row")), (expiry, Some(1)));
    let left = START.plus(Duration::from_secs(3560)).since(process.now).as_secs();
    let until_its_last_moments = process.observe_for(0, left);
    assert!(gauge(&until_its_last_moments, EXPIRY).is_none_or(|value| Some(value) == expiry));
    let after = process.observe_for(0, 20);
    assert_eq!(gauge(&after, EXPIRY), Some(START.unix_seconds() + 7000));
}

#[test]
fn a_token_that_is_long_due_counts_while_its_exchange_is_in_progress_or_fails() {
    for (fails, is_in_progress, counts) in
        [(false, false, false), (true, false, true), (false, true, true), (true, true, true)]
    {
        let mut process = Process::new();
        process.exchanged(0, "x/.default", token(3600));
        let key = process.spec.key();
        process.exchanged(1, "y/.default", token(7000));
        process.advance(Duration::from_secs(3400));
        let (now, later) = (process.now, process.now.plus(Duration::from_secs(10)));
        store::update(&process.shared, key, now, |entry| {
            let problem = Problem::new(Code::EntraUnavailable, "d", "r");
            let failure =
                Failure { problem, class: RetryClass::Transient, failed_at: now, next_try: later, failures: 1 };
            entry.failure = fails.then_some(failure);
            let lease = Lease { holder: WorkerId(7), until: later, waiting: Vec::new() };
            entry.lease = is_in_progress.then_some(lease);
            Update::Commit(())
        });
        let expiry = gauge(&process.exchanged(1, "z/.default", token(7000)), EXPIRY);
        let earliest = if counts { 3600 } else { 7000 };
        assert_eq!(expiry, Some(START.unix_seconds() + earliest), "{fails} {is_in_progress}");
    }
}

#[test]
fn failures_in_a_row_are_the_maximum_of_all_tokens_and_end_with_a_success_or_without_further_attempts() {
    let mut process = Process::new();
    let failures = |commands: &[Effect]| gauge(commands, "failures_in_a_row").unwrap();
    assert_eq!(failures(&process.exchanged(0, "x/.default", refusal(90_002))), 1);
    process.advance(Duration::from_secs(60));
    assert_eq!(failures(&process.exchanged(1, "x/.default", refusal(90_002))), 2);
    assert_eq!(failures(&process.exchanged(0, "y/.default", token(3600))), 2, "x still fails");
    process.advance(Duration::from_secs(120));
    assert_eq!(failures(&process.exchanged(0, "x/.default", token(3600))), 0);
    process.exchanged(0, "z/.default", refusal(90_002));
    assert_eq!(failures(&process.observe_for(0, 700)), 0, "there was no further attempt");
}

#[test]
fn the_federated_token_is_measured_and_read_again_when_it_is_old_until_it_is_renewed() {
    let mut process = Process::new();
    let commands = process.exchanged(0, "x/.default", token(86_400));
    let (cached, expiry) = ("federated_token_issued_timestamp_seconds", "federated_token_expiry_timestamp_seconds");
    assert_eq!(gauge(&commands, cached), Some(START.unix_seconds()));
    assert_eq!(gauge(&commands, expiry), Some(START.unix_seconds() + 3600));
    let file = Source::File { cluster: "projected_token".to_owned() };
    let first = process.federated_token();
    let is_read = |commands: &[Effect]| {
        commands.iter().any(|command| matches!(command, Effect::Call(Purpose::Assertion(source), _) if *source == file))
    };
    assert!(!is_read(&process.observe_for(0, 3239)));
    assert!(is_read(&process.observe_for(0, 1)), "9/10 of its lifetime");
    let read = |process: &mut Process, content: CallResult| process.read(0, content);
    assert_eq!(gauge(&read(&mut process, first.clone()), cached), Some(START.unix_seconds()));
    assert!(is_read(&process.observe_for(0, 60)), "once a minute");
    // It expires, and the last read remains the only measurement.
    process.advance(Duration::from_secs(3600));
    assert_eq!(gauge(&read(&mut process, first), cached), None);
    assert!(is_read(&process.observe_for(0, 60)));
    let renewed = process.federated_token();
    assert_eq!(gauge(&read(&mut process, renewed), cached), Some(process.now.unix_seconds()));
    assert!(!is_read(&process.observe_for(0, 3200)));
}

#[test]
fn a_read_for_the_gauges_does_not_make_a_pod_not_ready() {
    let mut process = Process::new();
    process.exchanged(0, "x/.default", token(86_400));
    let file = Source::File { cluster: "projected_token".to_owned() };
    assert!(process.shared.read_source(&file).readable);
    process.read(0, answer(503, &json!({})));
    assert!(process.shared.read_source(&file).readable);
}

#[test]
fn a_scope_is_new_once_in_a_process() {
    let mut process = Process::new();
    let is_new = |commands: &[Effect]| gauge(commands, "new_scopes_total") == Some(1);
    assert!(is_new(&process.exchanged(0, "x/.default", token(3600))));
    process.advance(Duration::from_secs(86_400));
    assert!(!is_new(&process.exchanged(1, "x/.default", token(3600))), "another worker, a day later");
    assert!(is_new(&process.exchanged(1, "y/.default", refusal(90_002))), "a rejected scope also counts");
}

#[test]
fn the_number_of_known_scopes_is_bounded() {
    let keys = [0, 1].map(|first| (0..=255).map(move |second| [first, second].repeat(16)));
    let keys: Vec<TokenKey> = keys.into_iter().flatten().map(|bytes| TokenKey::from_bytes(&bytes).unwrap()).collect();
    let mut state = CredentialState::default();
    for key in &keys {
        assert!(matches!(state.record_known(*key), Update::Commit(true)), "it is new");
        assert!(matches!(state.record_known(*key), Update::Abandon(false)), "it is known");
    }
    assert_eq!(state.known, keys[256..], "the oldest are removed");
}

#[test]
fn a_clock_that_is_set_back_delays_no_measurement() {
    let mut process = Process::new();
    process.exchanged(0, "x/.default", token(3600));
    let wait = process.workers[0].next_observation().unwrap().since(process.now);
    process.now = process.now.minus(Duration::from_secs(86_400));
    process.request_token(0, 9);
    assert!(process.workers[0].next_observation().unwrap().since(process.now) <= wait);
}

#[test]
fn the_federated_token_is_measured_for_each_identity_that_uses_it_however_many_reads_there_are() {
    let mut process = Process::new();
    process.exchanged(0, "x/.default", token(3600));
    process.spec = spec_of("b", "y/.default", &["entra"], None);
    process.pending(0, 2);
    let commands = process.workers[0].poll(process.spec.key(), process.now, &process.shared);
    let of_b = |command: &Effect| match command {
        Effect::Measure(measured) => {
            *measured == crate::metrics::federated_token_expiry("b", process.now.unix_seconds() + 3600)
        }
        _ => false,
    };
    assert!(commands.iter().any(of_b), "the read of identity `a` serves `b`");
}

#[test]
fn the_number_of_unlisted_scopes_is_measured_if_there_are_any() {
    let mut process = Process::new();
    assert_eq!(gauge(&process.exchanged(0, "x/.default", token(3600)), "unlisted_scopes"), None);
    for number in 1..4 {
        process.spec = spec_of("a", &format!("{number}/.default"), &["entra"], None);
        process.spec = Arc::new(TokenSpec::clone(&process.spec).unlisted());
        process.pending(0, 1);
        process.begin(0);
        assert_eq!(gauge(&process.called(0, token(3600)), "unlisted_scopes"), Some(number));
    }
}
