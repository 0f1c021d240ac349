//! Tests of admission: throttling by Entra, and the budget of unlisted scopes.

use super::super::vocabulary::{EVICTED_POLL_PERIOD, TOUCH_PERIOD};
use super::reject::named;
use super::*;
use crate::config::Config;
use crate::http::CallResult;

fn scope(number: usize) -> String {
    format!("api://{number}/.default")
}

/// Creates the token spec of an unlisted scope of the identity `payments`.
pub(super) fn unlisted(number: usize) -> Arc<TokenSpec> {
    let listed = spec_of("payments", &scope(number), &["entra"], None);
    Arc::new(TokenSpec::clone(&listed).unlisted())
}

fn of_another_client(name: &str) -> Arc<TokenSpec> {
    Arc::new(TokenSpec::new(&TokenSpecParts {
        identity: name,
        authority: &crate::authority::Authority::public(),
        tenant_id: "t",
        client_id: "another",
        scope: "s/.default",
        assertion: &crate::assertion::Source::File { cluster: "projected_token".to_owned() },
        clusters: &["entra".to_owned()],
        discard_before: None,
    }))
}

fn throttled(retry_after: u64) -> CallResult {
    let body = json!({"error": "x"}).to_string().into_bytes();
    let retry_after = Some(retry_after.to_string().into_bytes());
    Ok(CallResponse { status: 429, retry_after, request_id: None, grpc: None, body, is_envoys_own: false })
}

impl Process {
    fn switch_to(&mut self, spec: Arc<TokenSpec>) -> &mut Self {
        self.spec = spec;
        self
    }

    /// Makes a worker request another unlisted scope, in favor of which this one is evicted. Returns the workers that it wakes for this one.
    fn evict_for(&mut self, worker: usize, number: usize) -> Vec<(QueueId, TokenKey)> {
        let (other, evicted) = (unlisted(number), self.spec.key());
        let (lookup, effects) =
            self.workers[worker].request(&other, RequiredLifetime::Any, StreamId(500), self.now, &self.shared);
        assert!(matches!(lookup, TokenLookup::Pending));
        self.workers[worker].poll(other.key(), self.now, &self.shared);
        let wakes = effects.into_iter().filter_map(|effect| match effect {
            Effect::Wake(queue, key) if key == evicted => Some((queue, key)),
            _ => None,
        });
        wakes.collect()
    }

    /// Requests the token and returns the problem with which the request is answered without an exchange.
    fn refused(&mut self, worker: usize) -> (Code, Option<u64>) {
        let (answer, poll) = self.request_token(worker, 999);
        match answer {
            TokenLookup::Failed(problem) => {
                assert!(!poll, "no poll is needed");
                (problem.code, problem.retry_after.map(|wait| wait.as_secs()))
            }
            _ => panic!("a request that must fail does not"),
        }
    }
}

#[test]
fn throttling_backs_off_every_exchange_of_the_client_in_every_worker_and_no_other_client() {
    for answer in [throttled(30), refusal(50_196), refusal(90_055)] {
        let mut process = Process::new();
        process.switch_to(spec_of("payments", "a/.default", &["entra"], None));
        process.exchange(0, 1, answer);
        // An identity with another name uses the same client.
        for (worker, name) in [(0, "payments"), (1, "payments"), (1, "another name")] {
            process.switch_to(spec_of(name, "b/.default", &["entra"], None));
            let (code, wait) = process.refused(worker);
            assert!(code == Code::EntraUnavailable && wait.is_some_and(|wait| wait <= 30), "{code:?} {wait:?}");
        }
        process.switch_to(of_another_client("payments"));
        assert_eq!(process.exchange(1, 2, token(3600)), [Observed::Token(2)]);
        process.advance(Duration::from_secs(31));
        process.switch_to(spec_of("payments", "b/.default", &["entra"], None));
        assert_eq!(process.exchange(1, 3, token(3600)), [Observed::Token(3)]);
    }
}

#[test]
fn a_request_waits_for_the_exchange_of_another_worker_during_throttling_until_its_lease_expires() {
    for stalls in [false, true] {
        let mut process = Process::new();
        let spec = spec_of("payments", "a/.default", &["entra"], None);
        process.switch_to(Arc::clone(&spec));
        process.pending(0, 1);
        process.pending(1, 2);
        process.begin(1);
        process.switch_to(spec_of("payments", "b/.default", &["entra"], None)).exchange(1, 3, throttled(60));
        process.switch_to(spec);
        if stalls {
            process.advance(Limits::default().exchange + GRACE_PERIOD);
            let commands = process.workers[0].poll(process.spec.key(), process.now, &process.shared);
            let released = process.workers[0].tick(process.now, &process.shared);
            let answers: Vec<(StreamId, Problem)> = commands
                .into_iter()
                .chain(released)
                .filter_map(|command| match command {
                    Effect::Finish(stream, outcome) => Some((stream, outcome.err()?)),
                    _ => None,
                })
                .collect();
            let [(StreamId(1), problem)] = &answers[..] else { panic!("{} answers", answers.len()) };
            assert_eq!(
                (problem.code, problem.scope.as_deref()),
                (Code::EntraUnavailable, Some("a/.default")),
                "the throttled scope was b"
            );
            assert_eq!(process.failed(0).scope.as_deref(), Some("a/.default"));
        } else {
            assert_eq!(process.poll(0), []);
            process.endpoint(1, token(3600));
            assert_eq!(process.poll(0), [Observed::Token(1)]);
        }
    }
}

#[test]
fn a_prefetch_begins_no_exchange_that_is_not_admitted() {
    let mut process = Process::new();
    process.switch_to(spec_of("payments", "a/.default", &["entra"], None)).exchange(0, 1, throttled(30));
    process.switch_to(spec_of("payments", "b/.default", &["entra"], None));
    let prefetch = |process: &mut Process| process.workers[0].prefetch(&process.spec, process.now, &process.shared);
    assert!(!prefetch(&mut process));
    assert_eq!(process.poll(0), []);
    process.advance(Duration::from_secs(30));
    assert!(prefetch(&mut process));
    process.begin(0);
}

#[test]
fn consecutive_throttled_exchanges_are_counted_per_credential() {
    let mut process = Process::new();
    let mut waits = Vec::new();
    for number in 0..7 {
        process.switch_to(spec_of("payments", &scope(number), &["entra"], None));
        process.exchange(0, 1, throttled(0));
        process.switch_to(spec_of("payments", "other/.default", &["entra"], None));
        let TokenLookup::Failed(problem) = process.request_token(1, 999).0 else { panic!() };
        waits.push(problem.retry_after.unwrap());
        process.advance(Duration::from_secs(61));
    }
    let state = process.shared.read_credential(process.spec.credential());
    assert_eq!(
        state.throttled(process.now.minus(Duration::from_secs(61))).map(|throttled| throttled.failures),
        Some(7)
    );
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(60)), "{waits:?}");
    // Several concurrent throttled exchanges count as one failure.
    let mut process = Process::new();
    for number in 0..3 {
        process.switch_to(spec_of("payments", &scope(number), &["entra"], None));
        process.pending(0, number as u32);
        process.poll(0);
        process.assertion(0);
    }
    for number in 0..3 {
        process.switch_to(spec_of("payments", &scope(number), &["entra"], None));
        process.endpoint(0, throttled(20));
    }
    let state = process.shared.read_credential(process.spec.credential());
    assert_eq!(state.throttled(process.now).map(|throttled| throttled.failures), Some(1));
    // A token resets the count.
    process.advance(Duration::from_secs(21));
    process.switch_to(spec_of("payments", "x/.default", &["entra"], None));
    process.exchange(0, 9, token(3600));
    let state = process.shared.read_credential(process.spec.credential());
    assert_eq!(state.throttled(START), None);
}

#[test]
fn a_cached_token_is_served_during_throttling_and_refreshed_within_half_of_its_remaining_lifetime() {
    for held in [spec_of("payments", "held/.default", &["entra"], None), unlisted(0)] {
        let mut process = Process::new();
        process.switch_to(Arc::clone(&held));
        process.exchange(0, 1, token(3600));
        process.advance(Duration::from_secs(3000));
        process.switch_to(spec_of("payments", "throttled/.default", &["entra"], None));
        process.exchange(1, 2, throttled(3600));
        process.switch_to(held);
        process.advance(process.due_in(0).unwrap());
        assert_eq!(process.poll(0), [], "it is due and held back");
        process.ready(0);
        let left = Duration::from_secs(3570) - process.now.since(START);
        assert_eq!(process.due_in(0), Some(left / 2));
        process.advance(left / 2);
        assert_eq!(process.poll(0), [Observed::Read], "the refresh is attempted despite the throttling");
        process.ready(0);
    }
}

#[test]
fn at_most_four_unlisted_scopes_are_exchanged_in_parallel_and_each_end_starts_another() {
    let mut process = Process::new();
    for number in 0..6 {
        process.switch_to(unlisted(number));
        process.pending(number % 2, number as u32);
        let begun = process.poll(number % 2);
        assert_eq!(begun.len(), usize::from(number < 2), "{number}: {begun:?}");
        let is_leased = process.shared.read(process.spec.key()).lease.is_some();
        assert_eq!(is_leased, number < 4, "{number}: an exchange that waits does not hold back other workers");
    }
    // Each worker has read the federated token once, for two scopes.
    assert_eq!(process.assertion(0), [Observed::EndpointCall, Observed::EndpointCall]);
    assert_eq!(process.assertion(1), [Observed::EndpointCall, Observed::EndpointCall]);
    // Listed scopes and those of another client do not wait for them.
    process.switch_to(spec_of("payments", "listed/.default", &["entra"], None));
    assert_eq!(process.exchange(0, 10, token(3600)), [Observed::Token(10)]);
    process.switch_to(Arc::new(TokenSpec::clone(&of_another_client("b")).unlisted()));
    assert_eq!(process.exchange(0, 11, token(3600)), [Observed::Token(11)]);
    process.switch_to(unlisted(1));
    let commands = process.called(1, token(3600));
    let woken: Vec<(QueueId, TokenKey)> = commands
        .into_iter()
        .filter_map(|command| if let Effect::Wake(queue, key) = command { Some((queue, key)) } else { None })
        .collect();
    assert_eq!(woken, [(QueueId(0), unlisted(4).key())]);
    process.switch_to(unlisted(4));
    assert_eq!(process.poll(0), [Observed::EndpointCall]);
    // A lost wake-up costs at most a second; a dead worker costs the duration of its lease.
    process.advance(Duration::from_secs(1));
    process.switch_to(unlisted(5));
    assert_eq!(process.poll(1), []);
    process.advance(Limits::default().exchange + GRACE_PERIOD);
    process.workers[1].forget(StreamId(5));
    process.pending(1, 20);
    let begun = process.workers[1].poll(unlisted(5).key(), process.now, &process.shared);
    assert_eq!(observed(begun), [Observed::Read]);
}

/// The specs of unlisted scopes whose federated token comes from a source with this timeout, and that source's input from one with
/// another timeout. The limits have the longest exchange that the configuration allows.
fn from_slow_sources(scopes: usize, timeout: Duration, of_input: Duration) -> (Limits, Vec<Arc<TokenSpec>>) {
    let text = json!({
        "assertions": [{
            "name": "sts", "source": "token_exchange", "cluster": "sts", "path": "/token", "subject_token": "provider",
            "basic_auth": {"id": "payments", "secret_from_env": "SECRET"}, "timeout": format!("{}s", timeout.as_secs()),
        }, {
            "name": "provider", "source": "oidc_client_credentials", "cluster": "provider", "path": "/token",
            "basic_auth": {"id": "payments", "secret_from_env": "SECRET"}, "timeout": format!("{}s", of_input.as_secs()),
        }],
        "identities": [{"assertion": "sts", "tenant_id": "11111111-1111-4111-8111-111111111111",
            "client_id": "aaaaaaaa-0000-4000-8000-000000000001"}],
        "destinations": [{"hosts": ["a.example"], "scope": "https://vault.azure.net/.default"}],
        "limits": {"exchange": format!("{}s", Limits::LONGEST_EXCHANGE.as_secs())},
    });
    let secret = |name: &str| (name == "SECRET").then(|| "secret".to_owned());
    let config = Config::parse(text.to_string().as_bytes(), &secret).unwrap();
    let spec = |number| Arc::new(config.identities[0].spec(&scope(number)).unwrap().unlisted());
    (config.limits, (0..scopes).map(spec).collect())
}

/// The keys whose leases a worker holds.
fn exchanging(process: &Process, worker: usize) -> usize {
    process.workers[worker].slots.values().filter(|slot| slot.holds_lease()).count()
}

#[test]
fn at_most_four_unlisted_scopes_are_exchanged_in_parallel_however_slow_their_sources_and_entra_may_be() {
    let longest = Limits::LONGEST_EXCHANGE;
    let short = Duration::from_secs(1);
    for (timeout, of_input) in [(longest, longest), (short, longest), (longest, short), (short, short)] {
        let (limits, specs) = from_slow_sources(5, timeout, of_input);
        let mut process = Process::new();
        process.workers = [0, 1].map(|number| Worker::new(WorkerId(u64::from(number) + 7), QueueId(number), limits));
        for (number, spec) in specs.iter().enumerate() {
            process.switch_to(Arc::clone(spec)).pending(number % 2, number as u32);
            process.poll(number % 2);
        }
        assert_eq!(exchanging(&process, 0) + exchanging(&process, 1), 4, "{timeout:?} {of_input:?}");
        // Neither source answers, and the workers write their leases and permits again.
        process.advance(of_input - Duration::from_millis(500));
        for worker in [0, 1] {
            process.poll(worker);
        }
        assert_eq!(exchanging(&process, 0) + exchanging(&process, 1), 4, "{timeout:?} {of_input:?}");
    }
}

#[test]
fn the_lease_of_an_exchange_that_waits_for_the_slowest_source_which_another_worker_asks_is_valid() {
    let longest = Limits::LONGEST_EXCHANGE;
    let (limits, specs) = from_slow_sources(2, longest, longest);
    let mut process = Process::new();
    process.workers = [0, 1].map(|number| Worker::new(WorkerId(u64::from(number) + 7), QueueId(number), limits));
    process.switch_to(Arc::clone(&specs[0])).pending(0, 1);
    assert_eq!(process.poll(0), [Observed::Read]);
    process.switch_to(Arc::clone(&specs[1])).pending(1, 2);
    assert_eq!(process.poll(1), []);
    let lease = process.shared.read(process.spec.key()).lease.unwrap();
    assert_eq!(lease.until.since(process.now), longest + 2 * GRACE_PERIOD);
    assert!(lease.is_live(process.now) && lease.is_live(process.now.minus(GRACE_PERIOD)));
    process.pending(0, 3);
    process.poll(0);
    assert_eq!((exchanging(&process, 0), exchanging(&process, 1)), (1, 1), "one worker exchanges the second scope");
}

#[test]
fn no_timeout_that_the_configuration_allows_exceeds_the_bound_of_leases() {
    let longest = Limits::LONGEST_EXCHANGE;
    from_slow_sources(1, longest, longest);
    let with = |field: &str, seconds: u64| {
        let mut text = json!({"managed_identity": {"imds": {}}, "limits": {"exchange": "10s"}, "assertions": [{
            "name": "provider", "source": "oidc_client_credentials", "cluster": "provider", "path": "/token", "timeout": "10s",
        }], "identities": [{"assertion": "provider"}]});
        *text.pointer_mut(field).unwrap() = json!(format!("{seconds}s"));
        Config::parse(text.to_string().as_bytes(), &|_| None).map(|_| ())
    };
    for field in ["/limits/exchange", "/assertions/0/timeout"] {
        assert!(with(field, longest.as_secs()).is_ok(), "{field}");
        assert!(with(field, longest.as_secs() + 1).is_err(), "{field}");
    }
}

#[test]
fn an_exchange_that_begins_when_another_of_its_scope_ends_counts_towards_the_limit() {
    let mut process = Process::new();
    let unlisted_limits = UnlistedLimits { parallel_exchanges: 1, ..UnlistedLimits::default() };
    let limits = Limits { unlisted: unlisted_limits, ..Limits::default() };
    process.workers = [0, 1].map(|number| Worker::new(WorkerId(u64::from(number) + 7), QueueId(number), limits));
    process.switch_to(unlisted(0)).pending(0, 0);
    process.begin(0);
    // The worker stalls until another one takes over and fails, and the back-off of that failure ends.
    process.advance(Limits::default().exchange + GRACE_PERIOD);
    process.pending(1, 10);
    assert_eq!(process.poll(1), [Observed::Read]);
    let unreadable = answer(503, &json!({}));
    assert_eq!(process.assertion_answer(1, unreadable), [Observed::Problem(10, Code::AssertionUnavailable)]);
    let back_off = process.shared.read(process.spec.key()).failure.unwrap().next_try.since(process.now);
    process.advance(back_off);
    // The late failure of the first worker is discarded, and its request waits for another exchange.
    assert_eq!(process.endpoint(0, answer(500, &json!({}))), [Observed::Read]);
    process.switch_to(unlisted(4));
    process.pending(1, 11);
    assert_eq!(process.poll(1), [], "a second exchange waits");
}

#[test]
fn beyond_thirty_new_scopes_a_minute_a_caller_gets_retry_after_and_no_state_is_kept() {
    let mut process = Process::new();
    for number in 0..30 {
        process.switch_to(unlisted(number));
        process.exchange(number % 2, number as u32, token(3600));
        process.advance(Duration::from_secs(1));
    }
    let keys = process.workers.each_ref().map(|worker| worker.keys());
    let bytes = process.shared.bytes();
    for number in 100..200 {
        process.switch_to(unlisted(number));
        assert_eq!(process.refused(number % 2), (Code::TooManyScopes, Some(30)));
        assert!(
            !process.workers[0].prefetch(&Arc::clone(&process.spec), process.now, &process.shared)
                || process.poll(0).is_empty()
        );
    }
    assert_eq!((process.workers.each_ref().map(|worker| worker.keys()), process.shared.bytes()), (keys, bytes));
    // Known scopes, listed scopes and scopes of another identity are served.
    for number in 0..30 {
        process.switch_to(unlisted(number)).ready(number % 2);
    }
    process.switch_to(spec_of("payments", "listed/.default", &["entra"], None));
    assert_eq!(process.exchange(0, 50, token(3600)), [Observed::Token(50)]);
    process.switch_to(Arc::new(TokenSpec::clone(&of_another_client("b")).unlisted()));
    assert_eq!(process.exchange(0, 51, token(3600)), [Observed::Token(51)]);
    process.advance(Duration::from_secs(30));
    process.switch_to(unlisted(300));
    assert_eq!(process.exchange(0, 52, token(3600)), [Observed::Token(52)]);
    process.switch_to(unlisted(301));
    assert_eq!(process.refused(1), (Code::TooManyScopes, Some(1)));
}

#[test]
fn beyond_sixty_four_scopes_the_least_recently_used_one_is_evicted_in_every_worker_and_one_in_use_is_not() {
    let mut process = Process::new();
    let in_use = unlisted(1000);
    process.switch_to(Arc::clone(&in_use));
    process.exchange(0, 1, token(86_400));
    process.advance(Duration::from_secs(2));
    for number in 0..200 {
        process.switch_to(unlisted(number));
        process.exchange(0, 2, token(86_400));
        process.advance(Duration::from_secs(2));
        process.switch_to(Arc::clone(&in_use)).ready(0);
    }
    let kept = process.shared.read_all();
    assert_eq!((kept.len(), process.workers[0].keys()), (64, 64));
    assert!(kept.iter().any(|(key, _)| *key == in_use.key()));
    assert!(kept.iter().all(|(_, entry)| entry.token.is_some()));
    // An evicted scope is new again.
    process.switch_to(unlisted(0));
    process.advance(Duration::from_secs(60));
    assert_eq!(process.exchange(0, 3, token(3600)), [Observed::Token(3)]);
}

/// A worker that keeps two unlisted scopes of each identity.
fn with_two_scopes(process: &mut Process) {
    let unlisted = UnlistedLimits { scopes: 2, ..UnlistedLimits::default() };
    process.workers[0] = Worker::new(WorkerId(7), QueueId(0), Limits { unlisted, ..Limits::default() });
}

/// Whether a worker keeps each of these scopes.
fn keeps(process: &Process, specs: &[Arc<TokenSpec>]) -> Vec<bool> {
    specs.iter().map(|spec| process.workers[0].slots.get(spec.key()).is_some()).collect()
}

#[test]
fn a_worker_evicts_the_least_recently_used_scope_after_the_clock_was_set_back() {
    let mut process = Process::new();
    with_two_scopes(&mut process);
    let specs = [0, 1, 2].map(unlisted);
    for spec in &specs[..2] {
        process.switch_to(Arc::clone(spec)).exchange(0, 1, token(3600));
        process.advance(Duration::from_secs(1));
    }
    process.advance(Duration::from_secs(900));
    process.switch_to(Arc::clone(&specs[1])).ready(0);
    process.now = process.now.minus(Duration::from_secs(600));
    process.poll(0);
    process.advance(Duration::from_secs(1));
    process.switch_to(Arc::clone(&specs[0])).ready(0);
    process.switch_to(Arc::clone(&specs[2])).exchange(1, 3, token(3600));
    process.ready(0);
    assert_eq!(keeps(&process, &specs), [true, false, true]);
}

#[test]
fn a_request_for_a_listed_scope_or_one_that_the_worker_keeps_evicts_none() {
    let mut process = Process::new();
    with_two_scopes(&mut process);
    let listed = spec_of("payments", "listed/.default", &["entra"], None);
    let specs = [unlisted(0), unlisted(1), listed];
    for spec in &specs {
        process.switch_to(Arc::clone(spec)).exchange(0, 1, token(3600));
        process.advance(Duration::from_secs(1));
    }
    for spec in specs.iter().rev() {
        process.switch_to(Arc::clone(spec)).ready(0);
        assert_eq!(keeps(&process, &specs), [true, true, true], "{}", spec.scope());
    }
}

#[test]
fn a_worker_evicts_a_rejected_scope_before_one_that_is_not_used_for_longer() {
    let mut process = Process::new();
    with_two_scopes(&mut process);
    let specs = [0, 1, 2].map(unlisted);
    for (spec, response) in specs.iter().zip([token(3600), refusal(500_011), token(3600)]) {
        process.switch_to(Arc::clone(spec)).exchange(1, 1, response);
        process.request_token(0, 2);
        process.poll(0);
        process.advance(Duration::from_secs(1));
    }
    assert_eq!(keeps(&process, &specs), [true, false, true]);
}

#[test]
fn a_scope_is_not_evicted_for_one_of_another_identity_and_a_listed_scope_never() {
    let mut process = Process::new();
    with_two_scopes(&mut process);
    let other = Arc::new(TokenSpec::clone(&of_another_client("b")).unlisted());
    let listed = spec_of("payments", "listed/.default", &["entra"], None);
    let specs = [other, listed, unlisted(0), unlisted(1), unlisted(2)];
    for spec in &specs[..4] {
        process.switch_to(Arc::clone(spec)).exchange(0, 1, token(3600));
        process.advance(Duration::from_secs(1));
    }
    assert_eq!(keeps(&process, &specs), [true, true, true, true, false]);
    process.switch_to(Arc::clone(&specs[4])).pending(0, 3);
    assert_eq!(keeps(&process, &specs), [true, true, false, true, true]);
}

#[test]
fn a_scope_with_an_exchange_or_a_waiting_request_is_not_evicted() {
    let mut process = Process::new();
    with_two_scopes(&mut process);
    let specs = [0, 1, 2].map(unlisted);
    // The request for the first scope is gone, and its exchange continues.
    process.switch_to(Arc::clone(&specs[0])).pending(0, 1);
    process.begin(0);
    process.workers[0].forget(StreamId(1));
    // The request for the second one waits for the exchange of the other worker.
    process.switch_to(Arc::clone(&specs[1])).pending(1, 2);
    process.begin(1);
    process.pending(0, 2);
    process.poll(0);
    process.switch_to(Arc::clone(&specs[2])).pending(0, 3);
    assert_eq!(keeps(&process, &specs), [true, true, true]);
}

#[test]
fn a_cached_request_for_an_unlisted_scope_writes_to_shared_data_at_most_every_thirty_seconds() {
    let mut process = Process::new();
    process.switch_to(unlisted(0)).exchange(0, 1, token(3600));
    let writes = |process: &mut Process, seconds: u64| {
        process.advance(Duration::from_secs(seconds));
        let before = *process.shared.memory.sets.borrow();
        process.ready(0);
        *process.shared.memory.sets.borrow() - before
    };
    assert_eq!([0, 0, 29, 1, 29, 1].map(|seconds| writes(&mut process, seconds)), [1, 0, 0, 1, 0, 1]);
    process.advance(Duration::from_secs(900));
    process.ready(0);
    process.now = process.now.minus(Duration::from_secs(600));
    assert_eq!([0, 29, 1].map(|seconds| writes(&mut process, seconds)), [0, 0, 1]);
    process.switch_to(spec_of("payments", "listed/.default", &["entra"], None)).exchange(0, 1, token(3600));
    assert_eq!([0, 30].map(|seconds| writes(&mut process, seconds)), [0, 0]);
}

#[test]
fn a_rejected_scope_is_evicted_first() {
    let mut process = Process::new();
    for number in 0..64 {
        process.switch_to(unlisted(number));
        let response = if number == 40 { refusal(500_011) } else { token(86_400) };
        process.exchange(0, 1, response);
        process.advance(Duration::from_secs(2));
    }
    process.switch_to(unlisted(64));
    process.exchange(0, 2, token(86_400));
    let kept: Vec<TokenKey> = process.shared.read_all().into_iter().map(|(key, _)| key).collect();
    assert!(kept.len() == 64 && !kept.contains(&unlisted(40).key()) && kept.contains(&unlisted(0).key()));
}

#[test]
fn a_scope_whose_refresh_entra_rejects_is_not_evicted_first_while_its_token_can_be_sent() {
    for code in [53_003, 500_011, 700_016, 90_033] {
        let mut process = Process::new();
        process.switch_to(unlisted(0)).exchange(0, 1, token(43_200));
        for number in 1..64 {
            process.advance(Duration::from_secs(2));
            process.switch_to(unlisted(number)).exchange(0, 1, token(86_400));
        }
        process.switch_to(unlisted(0)).advance(Duration::from_secs(21_600));
        process.ready(0);
        // Entra rejects the first attempt, and a second one if there is one.
        process.begin(0);
        process.endpoint(0, refusal(code));
        process.advance(IMMEDIATE_RETRY_DELAY);
        process.poll(0);
        process.assertion(0);
        process.endpoint(0, refusal(code));
        assert!(process.shared.read(process.spec.key()).failure.is_some(), "AADSTS{code}");
        process.ready(0);
        process.switch_to(unlisted(64)).exchange(0, 2, token(86_400));
        let kept: Vec<TokenKey> = process.shared.read_all().into_iter().map(|(key, _)| key).collect();
        assert!(kept.contains(&unlisted(0).key()), "AADSTS{code}: half of its token's lifetime is left");
        assert!(!kept.contains(&unlisted(1).key()), "AADSTS{code}: it is the least recently used one");
        process.switch_to(unlisted(0)).ready(1);
    }
}

#[test]
fn a_scope_whose_token_has_expired_and_that_entra_rejects_is_evicted_first() {
    let mut process = Process::new();
    for number in 0..64 {
        process.switch_to(unlisted(number)).exchange(0, 1, token(if number == 40 { 600 } else { 86_400 }));
        process.advance(Duration::from_secs(2));
    }
    process.advance(Duration::from_secs(600));
    process.switch_to(unlisted(40));
    process.exchange(1, 2, refusal(500_011));
    process.switch_to(unlisted(64)).exchange(0, 2, token(86_400));
    let kept: Vec<TokenKey> = process.shared.read_all().into_iter().map(|(key, _)| key).collect();
    assert!(!kept.contains(&unlisted(40).key()) && kept.contains(&unlisted(0).key()));
}

#[test]
fn a_worker_does_not_evict_a_scope_first_whose_refresh_entra_rejects_while_its_token_can_be_sent() {
    let mut process = Process::new();
    with_two_scopes(&mut process);
    let specs = [0, 1, 2].map(unlisted);
    for (spec, lifetime) in specs.iter().zip([3600, 86_400]) {
        process.switch_to(Arc::clone(spec)).exchange(0, 1, token(lifetime));
        process.advance(Duration::from_secs(1));
    }
    process.switch_to(Arc::clone(&specs[0]));
    process.advance(Duration::from_secs(3300));
    process.poll(0);
    process.assertion(0);
    process.endpoint(0, refusal(500_011));
    process.ready(0);
    process.switch_to(Arc::clone(&specs[2])).pending(0, 3);
    assert_eq!(keeps(&process, &specs), [true, false, true]);
}

#[test]
fn requests_for_unlisted_scopes_leave_room_for_other_identities_and_half_of_the_limit_for_listed_scopes() {
    let mut process = Process::new();
    process.workers[0] = Worker::new(WorkerId(7), QueueId(0), Limits { waiting: 8, ..Limits::default() });
    let mut full_after = |specs: &[Arc<TokenSpec>], streams: [u32; 2]| {
        for (spec, stream) in specs.iter().zip(streams) {
            process.switch_to(Arc::clone(spec)).pending(0, stream);
        }
        for spec in specs {
            assert_eq!(process.switch_to(Arc::clone(spec)).failed(0).code, Code::TooManyWaiting);
        }
    };
    // One identity takes a quarter, whatever its scopes, and leaves a quarter to another.
    full_after(&[unlisted(0), unlisted(1)], [1, 2]);
    let other = Arc::new(TokenSpec::clone(&of_another_client("b")).unlisted());
    full_after(&[Arc::clone(&other), other], [3, 4]);
    let third = Arc::new(TokenSpec::clone(&of_another_client("c")).unlisted());
    assert_eq!(process.switch_to(third).failed(0).code, Code::TooManyWaiting, "half of the limit is used");
    process.switch_to(of_another_client("b"));
    for stream in 5..9 {
        process.pending(0, stream);
    }
    assert_eq!(process.failed(0).code, Code::TooManyWaiting);
}

#[test]
fn with_several_identities_the_requests_of_one_leave_room_for_listed_and_unlisted_scopes_of_another() {
    let mut process = Process::new();
    let limits = Limits { waiting: 16, identities: 2, ..Limits::default() };
    process.workers[0] = Worker::new(WorkerId(7), QueueId(0), limits);
    let mut accepted = |spec: Arc<TokenSpec>, first: u32| {
        process.switch_to(spec);
        let waits = |process: &mut Process, stream| matches!(process.request_token(0, stream).0, TokenLookup::Pending);
        (first..first + 20).filter(|stream| waits(&mut process, *stream)).count()
    };
    let listed = |identity: &str| spec_of(identity, &format!("https://{identity}.example/.default"), &["entra"], None);
    let (a, b) = (listed("a"), listed("b"));
    assert_eq!(accepted(Arc::clone(&a), 100), 8, "half");
    assert_eq!(accepted(Arc::new(TokenSpec::clone(&a).unlisted()), 200), 0, "whatever the scope");
    assert_eq!(accepted(Arc::new(TokenSpec::clone(&b).unlisted()), 300), 4, "a quarter");
    assert_eq!(accepted(listed("c"), 400), 2, "half of what is left, for each further one");
    // Requests that wait for connections count, too.
    for stream in 500..516 {
        let _ = process.workers[0].await_connection(&listed("d"), StreamId(stream), process.now);
    }
    process.switch_to(listed("e"));
    process.pending(0, 600);
}

#[test]
fn a_worker_that_adopts_tokens_of_other_workers_keeps_no_more_than_the_limit() {
    let mut process = Process::new();
    for number in 0..100 {
        process.switch_to(unlisted(number));
        let refused = number == 90;
        process.exchange(0, 1, if refused { refusal(500_011) } else { token(86_400) });
        if refused {
            process.failed(1);
        } else {
            process.ready(1);
        }
        process.poll(1);
        process.advance(Duration::from_secs(2));
    }
    let worker = &process.workers[1];
    assert_eq!((worker.slots.len(), worker.timers.len()), (64, 64));
    let keeps = |number: usize| worker.slots.get(unlisted(number).key()).is_some();
    assert!(!keeps(90), "the rejected scope is evicted first");
    assert!(keeps(36) && !keeps(34), "then the least recently used scopes");
}

#[test]
fn the_rejection_time_of_an_evicted_scope_is_kept_for_as_long_as_it_limits_the_next_one() {
    let mut process = Process::new();
    process.switch_to(unlisted(0));
    process.exchange(0, 1, token(86_400));
    let forced_at = Some(process.now);
    let key = process.spec.key();
    store::update(&process.shared, key, process.now, |entry| {
        entry.forced_at = forced_at;
        Update::Commit(())
    });
    store::update(&process.shared, key, process.now, |entry| entry.evict(process.now));
    let entry = process.shared.read(key);
    assert_eq!((entry.token.is_none(), entry.forced_at), (true, forced_at));
    assert_eq!((entry.identity.as_str(), entry.scope), ("payments", scope(0)));
    process.advance(FORCED_PERIOD);
    store::update(&process.shared, key, process.now, |entry| entry.evict(process.now));
    assert!(process.shared.read(key) == Entry::default());
}

#[test]
fn a_worker_that_serves_its_cached_token_because_no_exchange_is_admitted_is_woken_when_the_token_is_replaced() {
    // The token's remaining lifetime is too short for the request, or the configuration discards it.
    for (required_lifetime, discards) in [(RequiredLifetime::FiveMinutes, false), (RequiredLifetime::Any, true)] {
        let spec = |before| spec_of("payments", "held/.default", &["entra"], before);
        let mut process = Process::new();
        process.switch_to(spec(None)).exchange(0, 1, token(3600));
        process.advance(Duration::from_secs(3400));
        process.switch_to(spec_of("payments", "throttled/.default", &["entra"], None));
        process.exchange(1, 2, throttled(30));
        process.switch_to(spec(discards.then_some(process.now)));
        let (answer, poll) =
            process.workers[1].get(&process.spec, required_lifetime, StreamId(3), process.now, &process.shared);
        assert!(matches!(answer, TokenLookup::Ready(_)) && poll, "{required_lifetime:?}");
        assert_eq!(process.poll(1), []);
        process.advance(Duration::from_secs(31));
        let lookup = process.workers[0].get(
            &process.spec,
            RequiredLifetime::FiveMinutes,
            StreamId(4),
            process.now,
            &process.shared,
        );
        assert!(matches!(lookup.0, TokenLookup::Pending), "{required_lifetime:?}");
        assert_eq!(process.poll(0), [Observed::Read]);
        assert_eq!(process.assertion(0), [Observed::EndpointCall]);
        assert_eq!(process.endpoint(0, token(3600)), [Observed::Wake(1), Observed::Token(4)], "{required_lifetime:?}");
    }
}

#[test]
fn a_worker_evicts_a_scope_that_another_worker_exchanges_to_make_room_for_a_new_one() {
    let mut process = Process::new();
    let unlisted_limits = UnlistedLimits { scopes: 1, ..UnlistedLimits::default() };
    process.workers[1] =
        Worker::new(WorkerId(8), QueueId(1), Limits { unlisted: unlisted_limits, ..Limits::default() });
    process.switch_to(unlisted(0)).exchange(0, 1, token(3600));
    process.ready(1);
    process.poll(1);
    process.advance(process.due_in(0).unwrap().max(process.due_in(1).unwrap()));
    assert_eq!((process.poll(0), process.poll(1)), (vec![Observed::Read], vec![]));
    process.switch_to(unlisted(1)).pending(1, 2);
    assert_eq!(process.workers[1].keys(), 1);
    // The end of the other worker's exchange has no effect here.
    process.switch_to(unlisted(0)).assertion(0);
    process.endpoint(0, token(3600));
    assert_eq!(process.poll(1), []);
}

#[test]
fn a_worker_that_holds_a_rejected_token_of_an_evicted_scope_is_woken_and_does_not_serve_it_again() {
    let mut process = with_one_unlisted_scope();
    process.exchange(0, 1, token(3600));
    process.ready(1);
    process.poll(1);
    let TokenLookup::Ready(held) = process.request_token(1, 2).0 else { panic!("worker 1 holds it") };
    let rejection = process.workers[0].reject(process.spec.key(), &held, process.now, &process.shared);
    assert!(rejection.newly_rejected);
    // Worker 1 learns of the rejection, and its exchange fails. Then worker 0 requests another scope.
    process.begin(1);
    process.endpoint(1, answer(500, &json!({})));
    process.ready(1);
    let evicted = process.spec.key();
    assert_eq!(process.evict_for(0, 1), [(QueueId(1), evicted)]);
    process.poll(1);
    assert!(!matches!(process.request_token(1, 4).0, TokenLookup::Ready(_)), "the rejected token is not served again");
}

#[test]
fn a_worker_that_never_used_a_rejected_token_of_an_evicted_scope_does_not_serve_it_either() {
    let mut process = with_one_unlisted_scope();
    let evicted = process.spec.key();
    // Worker 1 adopts the token although its request has ended.
    process.pending(0, 1);
    process.begin(0);
    process.pending(1, 2);
    process.poll(1);
    process.workers[1].forget(StreamId(2));
    assert_eq!(process.endpoint(0, token(3600)), [Observed::Wake(1), Observed::Token(1)]);
    process.poll(1);
    let TokenLookup::Ready(held) = process.request_token(0, 3).0 else { panic!("worker 0 holds it") };
    let rejection = process.workers[0].reject(evicted, &held, process.now, &process.shared);
    assert_eq!(rejection.wake, [QueueId(0), QueueId(1)]);
    assert_eq!(process.poll(1), [], "it does not use the token");
    process.begin(0);
    process.endpoint(0, answer(500, &json!({})));
    assert_eq!(process.evict_for(0, 1), [(QueueId(1), evicted)]);
    process.poll(1);
    process.pending(1, 5);
}

/// A process that keeps one unlisted scope, whose token of this name both workers serve.
fn serving_one_unlisted_scope(name: &str) -> Process {
    let mut process = with_one_unlisted_scope();
    process.exchange(0, 1, named(name));
    process.ready(1);
    process.poll(1);
    process
}

#[test]
fn an_eviction_wakes_every_worker_that_holds_the_token_and_one_that_does_not_use_it_drops_it() {
    for uses in [false, true] {
        let mut process = serving_one_unlisted_scope("old");
        let evicted = process.spec.key();
        process.advance(TOUCH_PERIOD);
        if uses {
            process.ready(1);
        }
        assert_eq!(process.evict_for(0, 1), [(QueueId(1), evicted)]);
        assert!(process.workers[0].slots.get(evicted).is_none());
        process.poll(1);
        assert_eq!(process.workers[1].slots.get(evicted).is_some(), uses);
        assert!(process.shared.read(evicted) == Entry::default(), "it is not registered again");
        match uses {
            true => assert_eq!(process.served(1), "old"),
            false => process.pending(1, 3),
        }
    }
}

#[test]
fn a_worker_that_drops_a_scope_for_another_one_keeps_its_own_token_only_if_it_is_in_use() {
    for (seconds, uses) in [(29, true), (31, false)] {
        let mut process = Process::new();
        with_two_scopes(&mut process);
        process.switch_to(unlisted(0)).exchange(0, 1, token(3600));
        process.ready(0);
        process.advance(Duration::from_secs(1));
        process.switch_to(unlisted(1)).exchange(1, 2, token(3600));
        // The use is shared every thirty seconds, so the budget does not know of this one.
        process.advance(Duration::from_secs(seconds - 1));
        process.switch_to(unlisted(0));
        if uses {
            process.ready(0);
        }
        process.evict_for(0, 2);
        assert_eq!(process.workers[0].slots.get(process.spec.key()).is_some(), uses);
        assert!(process.shared.read(process.spec.key()) == Entry::default());
    }
}

#[test]
fn a_prefetch_also_wakes_the_workers_that_hold_the_token_of_the_scope_that_it_evicts() {
    let mut process = serving_one_unlisted_scope("old");
    let (now, evicted) = (process.now, process.spec.key());
    let (other, queue) = (unlisted(1), QueueId(1));
    let effects = process.workers[0].prefetch_effects(&other, now, &process.shared);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Wake(to, key) if (*to, *key) == (queue, evicted))));
}

#[test]
fn an_exchange_that_is_admitted_again_wakes_the_workers_that_hold_the_token_of_the_scope_that_it_evicts() {
    let mut process = with_one_unlisted_scope();
    let evicted = process.spec.key();
    // The second scope is evicted before its exchange begins.
    process.switch_to(unlisted(1)).pending(0, 1);
    process.switch_to(unlisted(0)).exchange(1, 2, token(3600));
    process.switch_to(unlisted(1));
    let effects = process.workers[0].poll(process.spec.key(), process.now, &process.shared);
    let is_wake = |effect: &Effect| matches!(effect, Effect::Wake(QueueId(1), key) if *key == evicted);
    assert!(effects.iter().any(is_wake), "in the same event");
}

#[test]
fn a_worker_that_uses_the_token_of_an_evicted_scope_serves_the_next_token_within_a_second() {
    let old = crate::entra::AccessToken::parse("old").unwrap().digest();
    for rejected in [None, Some(RejectedToken::Cached), Some(RejectedToken::Digest(old))] {
        let mut process = serving_one_unlisted_scope("old");
        process.advance(Duration::from_secs(10));
        process.ready(1);
        assert_eq!(process.evict_for(0, 1).len(), 1);
        process.poll(1);
        let sets = *process.shared.memory.sets.borrow();
        for _ in 0..20 {
            assert_eq!(process.served(1), "old");
        }
        assert_eq!(*process.shared.memory.sets.borrow(), sets, "a cached request writes nothing");
        process.switch_to(unlisted(1)).assertion(0);
        process.endpoint(0, named("other"));
        process.advance(Duration::from_secs(1));
        // A caller of worker 0 may have got the token from worker 1.
        process.switch_to(unlisted(0));
        let (spec, need, now) = (Arc::clone(&process.spec), RequiredLifetime::Any, process.now);
        match rejected {
            None => process.pending(0, 4),
            Some(rejected) => {
                process.workers[0].get_replacement(&spec, need, rejected, StreamId(4), now, &process.shared);
            }
        }
        process.begin(0);
        assert_eq!(process.endpoint(0, named("new")), [Observed::Token(4)]);
        assert_eq!(process.served(1), "old");
        assert!(process.due_in(1).unwrap() <= EVICTED_POLL_PERIOD);
        process.advance(EVICTED_POLL_PERIOD);
        process.poll(1);
        assert_eq!(process.served(1), "new");
        // From now on it is woken again.
        assert_eq!(process.shared.read(spec.key()).holders.len(), 2);
        assert!(process.workers[1].slots.get(spec.key()).unwrap().evicted.is_none());
    }
}

#[test]
fn a_worker_no_longer_polls_an_evicted_scope_that_it_has_not_used_for_thirty_seconds() {
    let mut process = serving_one_unlisted_scope("old");
    let evicted = process.spec.key();
    process.evict_for(0, 1);
    let mut polls = 0;
    while process.workers[1].slots.get(evicted).is_some() {
        process.poll(1);
        process.advance(EVICTED_POLL_PERIOD);
        polls += 1;
    }
    assert_eq!((polls, process.workers[1].keys()), (61, 0));
}

#[test]
fn a_worker_whose_wake_up_for_an_eviction_is_lost_notices_the_eviction_when_it_shares_the_use() {
    let mut process = serving_one_unlisted_scope("old");
    process.advance(Duration::from_secs(29));
    process.ready(1);
    process.evict_for(0, 1);
    process.advance(Duration::from_secs(1));
    let polls = [(); 3].map(|()| process.request_token(1, 9).1);
    assert_eq!(polls, [true, false, false], "once every thirty seconds");
    process.poll(1);
    assert!(process.due_in(1).unwrap() <= EVICTED_POLL_PERIOD);
}

#[test]
fn a_poll_of_an_evicted_scope_is_not_delayed_when_the_clock_is_set_back() {
    let mut process = serving_one_unlisted_scope("old");
    process.advance(Duration::from_secs(900));
    process.ready(1);
    process.evict_for(0, 1);
    process.poll(1);
    process.now = process.now.minus(Duration::from_secs(600));
    process.ready(1);
    assert!(process.due_in(1).unwrap() <= EVICTED_POLL_PERIOD);
}

#[test]
fn a_token_in_use_of_an_evicted_scope_is_served_while_its_refresh_is_not_admitted_or_fails() {
    for new_per_minute in [2, 30] {
        let mut process = with_one_unlisted_scope();
        let unlisted = UnlistedLimits { scopes: 1, new_per_minute, ..UnlistedLimits::default() };
        let limits = Limits { unlisted, ..Limits::default() };
        process.workers[1] = Worker::new(WorkerId(8), QueueId(1), limits);
        process.exchange(1, 1, named("old"));
        process.advance(Duration::from_secs(3350));
        process.ready(1);
        process.evict_for(0, 1);
        process.evict_for(0, 2);
        for _ in 0..40 {
            process.poll(1);
            process.assertion_answer(1, answer(503, &json!({})));
            assert_eq!(process.served(1), "old");
            process.advance(Duration::from_secs(5));
        }
    }
}

#[test]
fn a_worker_that_serves_a_rejected_token_of_an_unlisted_scope_for_the_first_time_replaces_it() {
    let mut process = with_one_unlisted_scope();
    process.exchange(0, 1, token(3600));
    let TokenLookup::Ready(held) = process.request_token(0, 2).0 else { panic!("worker 0 holds it") };
    let rejection = process.workers[0].reject(process.spec.key(), &held, process.now, &process.shared);
    assert_eq!(rejection.wake, [QueueId(0)]);
    // Worker 0 does not get to the exchange.
    process.ready(1);
    process.begin(1);
    assert_eq!(process.endpoint(1, token(3600)), [Observed::Wake(0)]);
}

/// A process that keeps one unlisted scope, and the token spec of the first.
fn with_one_unlisted_scope() -> Process {
    let mut process = Process::new();
    let limits = Limits { unlisted: UnlistedLimits { scopes: 1, ..UnlistedLimits::default() }, ..Limits::default() };
    process.workers = [0, 1].map(|number| Worker::new(WorkerId(u64::from(number) + 7), QueueId(number), limits));
    process.spec = unlisted(0);
    process
}
