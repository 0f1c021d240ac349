//! The broker among other workers, on a clock and a shared memory that the tests own.

use std::cell::RefCell;

use serde_json::json;

use super::shared::{Entry, Then};
use super::*;
use crate::assertion::tests::{claims, jwt};
use crate::entra::GrantParts;
use crate::entra::tests_support::grant;
use crate::http::Response;

const START: Timestamp = Timestamp::from_unix_seconds(1_795_334_000);

/// Shared data as Envoy has it.
#[derive(Default)]
struct Shared {
    values: RefCell<HashMap<String, (Vec<u8>, u32)>>,
    sets: RefCell<u32>,
}

impl SharedData for Shared {
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)> {
        self.values.borrow().get(name).cloned()
    }

    fn set(&self, name: &str, value: &[u8], cas: Option<u32>) -> bool {
        let mut values = self.values.borrow_mut();
        if let (Some((_, current)), Some(cas)) = (values.get(name), cas)
            && cas != 0
            && *current != cas
        {
            return false;
        }
        *self.sets.borrow_mut() += 1;
        values.insert(name.to_owned(), (value.to_vec(), *self.sets.borrow()));
        true
    }
}

/// Two workers of one process.
struct Process {
    shared: Shared,
    workers: [Broker; 2],
    grant: Arc<Grant>,
    now: Timestamp,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Read,
    Call,
    Wake(u32),
    Token(u32),
    Problem(u32, Code),
    Ready(u32),
}

fn seen(commands: Vec<Command>) -> Vec<Seen> {
    commands
        .into_iter()
        .filter_map(|command| match command {
            Command::ReadAssertion(_) => Some(Seen::Read),
            Command::CallEndpoint { .. } => Some(Seen::Call),
            Command::Wake(QueueId(queue), _) => Some(Seen::Wake(queue)),
            Command::Finish(StreamId(stream), Ok(_)) => Some(Seen::Token(stream)),
            Command::Finish(StreamId(stream), Err(problem)) => Some(Seen::Problem(stream, problem.code)),
            Command::ReadForCheck(_) => Some(Seen::Read),
            Command::Checked(StreamId(stream), Ok(())) => Some(Seen::Ready(stream)),
            Command::Checked(StreamId(stream), Err(problem)) => Some(Seen::Problem(stream, problem.code)),
            Command::Log(_) | Command::Measure(_) => None,
        })
        .collect()
}

fn answer(status: u16, body: &serde_json::Value) -> CallResult {
    Ok(Response { status, retry_after: None, body: body.to_string().into_bytes(), is_envoys_own: false })
}

fn token(life: u64) -> CallResult {
    answer(200, &json!({"token_type": "Bearer", "expires_in": life, "access_token": "abc"}))
}

fn refusal(code: u32) -> CallResult {
    answer(
        401,
        &json!({"error": "invalid_client", "error_description": format!("AADSTS{code}: no"), "error_codes": [code]}),
    )
}

impl Process {
    fn new() -> Self {
        let shared = Shared::default();
        prepare(&shared);
        let worker = |number: u32| Broker::new(WorkerId(u64::from(number) + 7), QueueId(number), Limits::default());
        Self { shared, workers: [worker(0), worker(1)], grant: Arc::new(grant()), now: START }
    }

    fn advance(&mut self, length: Duration) {
        self.now = self.now.plus(length);
    }

    /// A request arrives; `Err` is how it ended at once.
    fn ask(&mut self, worker: usize, stream: u32) -> (Answer, bool) {
        self.workers[worker].get(&self.grant, Need::Usable, StreamId(stream), self.now, &self.shared)
    }

    fn pending(&mut self, worker: usize, stream: u32) {
        assert!(matches!(self.ask(worker, stream).0, Answer::Pending));
    }

    fn ready(&mut self, worker: usize) {
        assert!(matches!(self.ask(worker, 999).0, Answer::Ready(_)));
    }

    fn failed(&mut self, worker: usize) -> Problem {
        match self.ask(worker, 999).0 {
            Answer::Failed(problem) => problem,
            other => panic!("{other:?}"),
        }
    }

    fn look(&mut self, worker: usize) -> Vec<Seen> {
        let key = self.grant.key();
        let mut commands = self.workers[worker].look(key, self.now, &self.shared);
        commands.extend(self.workers[worker].tick(self.now, &self.shared));
        seen(commands)
    }

    fn assertion(&mut self, worker: usize) -> Vec<Seen> {
        let mut claims = claims();
        claims["exp"] = json!(self.now.unix_seconds() + 3600);
        let body = jwt(&json!({"alg": "RS256"}), &claims).into_bytes();
        self.assertion_answer(worker, Ok(Response { status: 200, retry_after: None, body, is_envoys_own: false }))
    }

    fn assertion_answer(&mut self, worker: usize, answer: CallResult) -> Vec<Seen> {
        seen(self.workers[worker].assertion_arrived(self.grant.key(), answer, self.now, &self.shared))
    }

    fn endpoint(&mut self, worker: usize, answer: CallResult) -> Vec<Seen> {
        seen(self.workers[worker].endpoint_answered(self.grant.key(), answer, self.now, &self.shared))
    }

    /// A worker asks, and its exchange comes to `answer`.
    fn exchange(&mut self, worker: usize, stream: u32, answer: CallResult) -> Vec<Seen> {
        self.pending(worker, stream);
        assert_eq!(self.look(worker), [Seen::Read]);
        assert_eq!(self.assertion(worker), [Seen::Call]);
        self.endpoint(worker, answer)
    }

    fn due_in(&self, worker: usize) -> Option<Duration> {
        self.workers[worker].next_due().map(|due| due.since(self.now))
    }
}

#[test]
fn one_exchange_serves_all_who_wait_in_every_worker() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.pending(0, 2);
    process.pending(1, 3);
    assert_eq!(process.look(0), [Seen::Read]);
    assert_eq!(process.look(1), []);
    assert_eq!(process.assertion(0), [Seen::Call]);
    assert_eq!(process.endpoint(0, token(3600)), [Seen::Wake(1), Seen::Token(1), Seen::Token(2)]);
    assert_eq!(process.look(1), [Seen::Token(3)]);
    process.ready(0);
    process.ready(1);
    // What comes next is the refresh.
    assert!(process.due_in(0).unwrap() > Duration::from_secs(2900));
}

#[test]
fn a_worker_that_comes_later_takes_the_published_token_without_pausing() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.ready(1);
}

#[test]
fn only_the_first_who_waits_asks_for_a_look() {
    let mut process = Process::new();
    assert!(process.ask(0, 1).1);
    assert!(!process.ask(0, 2).1);
}

#[test]
fn a_waiter_is_answered_when_the_leader_dies() {
    let mut process = Process::new();
    process.pending(0, 1);
    assert_eq!(process.look(0), [Seen::Read]);
    process.pending(1, 2);
    assert_eq!(process.look(1), []);
    // Worker 0 is never heard of again.
    let wait = process.due_in(1).unwrap();
    assert_eq!(wait, READ_TIMEOUT + GRACE);
    process.advance(wait);
    assert_eq!(process.look(1), [Seen::Read]);
    assert_eq!(process.assertion(1), [Seen::Call]);
    assert_eq!(process.endpoint(1, token(3600)), [Seen::Token(2)]);
}

#[test]
fn a_leader_that_was_given_up_stands_down_and_still_serves_its_own() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.look(0);
    process.advance(READ_TIMEOUT + GRACE);
    process.pending(1, 2);
    assert_eq!(process.look(1), [Seen::Read]);
    // The answer to worker 0 comes after all: no second exchange begins.
    assert_eq!(process.assertion(0), []);
    assert_eq!(process.assertion(1), [Seen::Call]);
    assert_eq!(process.endpoint(1, token(3600)), [Seen::Wake(0), Seen::Token(2)]);
    assert_eq!(process.look(0), [Seen::Token(1)]);
}

#[test]
fn an_answer_that_never_comes_ends_with_the_lease() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.look(0);
    process.assertion(0);
    process.advance(Limits::default().exchange + GRACE);
    assert_eq!(process.look(0), [Seen::Read]);
}

#[test]
fn a_request_that_waits_too_long_is_answered_even_when_nothing_else_happens() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.look(0);
    process.assertion(0);
    process.advance(Limits::default().wait);
    assert_eq!(process.look(0), [Seen::Read, Seen::Problem(1, Code::WaitedTooLong)]);
}

#[test]
fn a_waiter_that_leaves_cancels_nothing_for_the_others() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.pending(0, 2);
    process.look(0);
    process.workers[0].forget(StreamId(1));
    process.assertion(0);
    assert_eq!(process.endpoint(0, token(3600)), [Seen::Token(2)]);
    assert!(process.workers[0].waiting.is_empty());
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
fn a_refusal_that_correct_credentials_meet_is_tried_once_more_soon() {
    let mut process = Process::new();
    assert_eq!(process.exchange(0, 1, refusal(700213)), []);
    assert_eq!(process.due_in(0), Some(SOON));
    process.advance(SOON);
    assert_eq!(process.look(0), [Seen::Read]);
    assert_eq!(process.assertion(0), [Seen::Call]);
    assert_eq!(process.endpoint(0, refusal(700213)), [Seen::Problem(1, Code::EntraRefused)]);
}

#[test]
fn an_assertion_out_of_its_time_is_read_again_at_once() {
    let mut process = Process::new();
    assert_eq!(process.exchange(0, 1, refusal(700024)), [Seen::Read]);
    assert_eq!(process.assertion(0), [Seen::Call]);
    assert_eq!(process.endpoint(0, token(3600)), [Seen::Token(1)]);
}

#[test]
fn while_it_backs_off_requests_fail_at_once_in_every_worker_and_say_when_to_try_again() {
    let mut process = Process::new();
    assert_eq!(process.exchange(0, 1, refusal(700016)), [Seen::Problem(1, Code::EntraRefused)]);
    for worker in [0, 1] {
        let problem = process.failed(worker);
        assert_eq!(problem.aadsts().as_deref(), Some("AADSTS700016"));
        assert!(problem.retry_after.unwrap() > Duration::ZERO);
    }
    let wait = process.failed(1).retry_after.unwrap();
    process.advance(wait);
    assert_eq!(process.exchange(1, 2, token(3600)), [Seen::Token(2)]);
}

#[test]
fn a_token_that_is_used_is_refreshed_in_time_and_served_meanwhile() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.ready(1);
    process.look(1);
    let wait = process.due_in(0).unwrap();
    assert!((2940..=3300).contains(&wait.as_secs()), "{wait:?}");
    process.advance(wait);
    assert_eq!(process.look(0), [Seen::Read]);
    assert_eq!(process.look(1), [], "the other worker leaves it to the first");
    process.ready(0);
    assert_eq!(process.assertion(0), [Seen::Call]);
    assert_eq!(process.endpoint(0, token(3600)), [Seen::Wake(1)]);
    process.look(1);
    assert_eq!(process.due_in(1), process.due_in(0), "both have the new one");
}

#[test]
fn a_token_that_nobody_used_since_its_refresh_is_let_go() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(process.due_in(0).unwrap());
    process.look(0);
    process.assertion(0);
    process.endpoint(0, token(3600));
    // Nobody asks for it: it is not refreshed again.
    process.advance(Duration::from_secs(3569));
    assert_eq!(process.look(0), []);
    process.advance(Duration::from_secs(1));
    assert_eq!(process.look(0), []);
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
        if process.look(0) == [Seen::Read] {
            process.assertion(0);
            assert_eq!(process.endpoint(0, answer(500, &json!({}))), []);
            tries += 1;
        }
        process.ready(0);
        process.advance(process.due_in(0).unwrap());
    }
    assert!((4..60).contains(&tries), "{tries} tries");
    process.advance(Duration::from_secs(3));
    assert_eq!(process.exchange(0, 2, answer(500, &json!({}))), [Seen::Problem(2, Code::EntraUnavailable)]);
}

#[test]
fn a_client_that_wants_five_minutes_waits_for_a_fresh_token_unless_a_back_off_runs() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(3320));
    let key = process.grant.key();
    let ask = |process: &mut Process, stream: u32| {
        process.workers[0].get(&process.grant, Need::LongLived, StreamId(stream), process.now, &process.shared).0
    };
    assert!(matches!(ask(&mut process, 2), Answer::Pending));
    process.ready(0);
    assert_eq!(process.look(0), [Seen::Read]);
    process.assertion(0);
    // The exchange fails: what is valid does.
    assert_eq!(process.endpoint(0, answer(500, &json!({}))), [Seen::Token(2)]);
    assert!(matches!(ask(&mut process, 3), Answer::Ready(_)));
    // And so it does when its patience ends.
    process.advance(Duration::from_secs(61));
    assert!(matches!(ask(&mut process, 4), Answer::Pending));
    process.workers[0].look(key, process.now, &process.shared);
    process.assertion(0);
    process.advance(Limits::default().wait);
    assert_eq!(process.look(0), [Seen::Read, Seen::Token(4)]);
}

#[test]
fn a_short_lived_token_serves_clients_that_want_five_minutes_too() {
    let mut process = Process::new();
    process.exchange(0, 1, token(600));
    process.advance(Duration::from_secs(500));
    let (answer, _) =
        process.workers[0].get(&process.grant, Need::LongLived, StreamId(2), process.now, &process.shared);
    assert!(matches!(answer, Answer::Ready(_)));
}

#[test]
fn a_rejected_token_is_dropped_for_all_workers_but_once_in_thirty_seconds() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.ready(1);
    let key = process.grant.key();
    let reject = |process: &mut Process, worker: usize| {
        let token = process.workers[worker].slots[&key].token.clone().unwrap();
        process.workers[worker].reject(key, &token, process.now, &process.shared)
    };
    process.advance(Duration::from_secs(1));
    assert!(reject(&mut process, 0));
    process.exchange(0, 2, token(3600));
    // The other worker still has the old one: it takes the new one, and nothing is fetched.
    assert!(reject(&mut process, 1));
    process.ready(1);
    // The new one is rejected, too: it stays until the bound allows another exchange.
    assert!(!reject(&mut process, 1));
    process.ready(1);
    process.advance(FORCED_PERIOD);
    assert!(reject(&mut process, 1));
    process.pending(1, 3);
}

#[test]
fn a_token_from_before_a_given_time_is_not_used() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    let source = crate::assertion::Source::File { cluster: "projected_token".to_owned() };
    let later = Arc::new(Grant::new(&GrantParts {
        identity: "payments",
        authority: process.grant.authority(),
        tenant_id: process.grant.tenant_id(),
        client_id: process.grant.client_id(),
        scope: process.grant.scope(),
        assertion: &source,
        clusters: process.grant.clusters(),
        discard_before: Some(START.plus(Duration::from_secs(60))),
    }));
    process.advance(Duration::from_secs(60));
    // A new configuration is a new broker.
    process.workers[1] = Broker::new(WorkerId(99), QueueId(9), Limits::default());
    process.grant = later;
    process.exchange(1, 2, token(3600));
    process.ready(1);
}

#[test]
fn the_ways_to_the_authority_are_tried_in_order_when_one_does_not_reach_it() {
    let mut process = Process::new();
    let source = crate::assertion::Source::File { cluster: "projected_token".to_owned() };
    let clusters = ["first".to_owned(), "second".to_owned()];
    process.grant = Arc::new(Grant::new(&GrantParts {
        identity: "payments",
        authority: &crate::entra::Authority::public(),
        tenant_id: "t",
        client_id: "c",
        scope: "s/.default",
        assertion: &source,
        clusters: &clusters,
        discard_before: None,
    }));
    let own = |status| Ok(Response { status, retry_after: None, body: b"reset".to_vec(), is_envoys_own: true });
    process.pending(0, 1);
    process.look(0);
    assert_eq!(process.assertion(0), [Seen::Call]);
    assert_eq!(process.endpoint(0, own(503)), [Seen::Call]);
    assert_eq!(process.endpoint(0, token(60)), [Seen::Token(1)]);
    // Both fail.
    process.advance(Duration::from_secs(60));
    process.pending(0, 2);
    process.look(0);
    process.assertion(0);
    assert_eq!(process.endpoint(0, own(504)), [Seen::Call]);
    assert_eq!(process.endpoint(0, own(503)), [Seen::Problem(2, Code::EntraUnavailable)]);
    // An answer is never asked for again elsewhere.
    process.advance(Duration::from_secs(60));
    process.pending(0, 3);
    process.look(0);
    process.assertion(0);
    assert_eq!(process.endpoint(0, answer(503, &json!({"error": "x"}))), [Seen::Problem(3, Code::EntraUnavailable)]);
}

#[test]
fn the_assertion_goes_to_the_authority_by_its_clusters_and_nowhere_else() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.look(0);
    let body = jwt(&json!({"alg": "RS256"}), &claims()).into_bytes();
    let read = Ok(Response { status: 200, retry_after: None, body: body.clone(), is_envoys_own: false });
    let commands = process.workers[0].assertion_arrived(process.grant.key(), read, process.now, &process.shared);
    let assertion = String::from_utf8(body).unwrap();
    let mut calls = 0;
    for command in commands {
        let Command::CallEndpoint { cluster, request, .. } = command else { continue };
        assert!(process.grant.clusters().contains(&cluster), "{cluster}");
        assert_eq!(request.authority, process.grant.authority().host());
        assert!(request.body.contains(&format!("client_assertion={assertion}")));
        calls += 1;
    }
    assert_eq!(calls, 1);
}

#[test]
fn a_warm_token_is_fetched_before_anybody_asks_and_kept() {
    let mut process = Process::new();
    process.workers[0].keep_warm(&[Arc::clone(&process.grant)], process.now);
    assert_eq!(process.due_in(0), Some(Duration::ZERO));
    assert_eq!(process.look(0), [Seen::Read]);
    process.assertion(0);
    process.endpoint(0, token(3600));
    for _ in 0..3 {
        process.advance(process.due_in(0).unwrap());
        assert_eq!(process.look(0), [Seen::Read]);
        process.assertion(0);
        process.endpoint(0, token(3600));
    }
    process.ready(1);
}

#[test]
fn a_vm_that_serves_no_requests_and_cannot_read_the_token_leaves_it_to_the_others() {
    let mut process = Process::new();
    let warm = [Arc::clone(&process.grant)];
    process.workers[0].keep_warm(&warm, process.now);
    process.workers[1].keep_warm(&warm, process.now);
    assert_eq!(process.look(0), [Seen::Read]);
    assert_eq!(process.look(1), []);
    // Worker 0 is the main thread's: an internal listener does not answer it.
    assert_eq!(process.assertion_answer(0, answer(503, &json!({}))), [Seen::Wake(1)]);
    assert_eq!(process.look(1), [Seen::Read]);
    process.assertion(1);
    assert_eq!(process.endpoint(1, answer(500, &json!({}))), []);
    // It tries again only at long, growing intervals, and finds the token there.
    let first = process.due_in(0).unwrap();
    process.advance(first);
    process.look(0);
    process.assertion_answer(0, answer(503, &json!({})));
    assert!(process.due_in(0).unwrap() >= 2 * first);
}

#[test]
fn a_token_file_that_cannot_be_read_is_a_problem_and_not_a_hang() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.look(0);
    assert_eq!(process.assertion_answer(0, answer(503, &json!({}))), [Seen::Problem(1, Code::AssertionUnavailable)]);
}

#[test]
fn answers_that_nobody_waits_for_do_nothing() {
    let mut process = Process::new();
    assert_eq!(process.assertion(0), []);
    assert_eq!(process.endpoint(0, token(60)), []);
    process.exchange(0, 1, token(3600));
    assert_eq!(process.endpoint(0, token(60)), []);
    assert_eq!(process.assertion(0), []);
}

#[test]
fn a_clock_that_is_set_back_leaves_no_lease_and_no_failure_for_ever() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.look(0);
    process.now = process.now.minus(Duration::from_secs(86400));
    process.pending(1, 2);
    assert_eq!(process.look(1), [Seen::Read], "a lease from the future counts for nothing");
    process.assertion(1);
    process.endpoint(1, refusal(700016));
    process.now = process.now.minus(Duration::from_secs(86400));
    process.pending(1, 3);
}

#[test]
fn a_lease_is_counted_while_it_is_held() {
    let mut process = Process::new();
    let mut held = 0;
    let mut count = |commands: &[Command]| {
        for command in commands {
            if let Command::Measure(Measurement { name, value, .. }) = command
                && name == "entra_exchange_leases"
            {
                held += value;
            }
        }
        held
    };
    process.pending(0, 1);
    let key = process.grant.key();
    let commands = process.workers[0].look(key, process.now, &process.shared);
    assert_eq!(count(&commands), 1);
    let commands = process.workers[0].assertion_arrived(key, answer(503, &json!({})), process.now, &process.shared);
    assert_eq!(count(&commands), 0);
}

#[test]
fn nobody_waits_for_longer_when_the_clock_is_set_back() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.look(0);
    process.assertion(0);
    process.pending(1, 2);
    process.look(1);
    process.now = process.now.minus(Duration::from_secs(3600));
    // Something happens there: the timers are set anew.
    process.look(0);
    process.look(1);
    assert!(process.due_in(0).unwrap() <= Limits::default().wait);
    assert!(process.due_in(1).unwrap() <= Limits::default().wait);
    process.advance(Limits::default().wait);
    assert!(process.look(0).contains(&Seen::Problem(1, Code::WaitedTooLong)));
    assert!(process.look(1).contains(&Seen::Problem(2, Code::WaitedTooLong)));
}

#[test]
fn a_back_off_from_before_the_clock_was_set_back_does_not_last_until_its_time_comes_again() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(700016));
    process.now = process.now.minus(Duration::from_secs(1800));
    process.pending(1, 2);
    assert_eq!(process.look(1), [Seen::Read]);
}

#[test]
fn a_failure_is_not_told_when_another_worker_has_a_token_since() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(700016));
    let wait = process.failed(1).retry_after.unwrap();
    process.advance(wait);
    process.pending(0, 2);
    process.look(0);
    process.pending(1, 3);
    process.look(1);
    process.assertion(0);
    process.endpoint(0, token(3600));
    // By this clock the back-off that worker 1 knows of runs again.
    process.now = process.now.minus(Duration::from_millis(500));
    assert_eq!(process.look(1), [Seen::Token(3)]);
}

#[test]
fn a_full_queue_withholds_no_token() {
    let mut process = Process::new();
    let limits = Limits { waiting: 1, ..Limits::default() };
    process.workers[0] = Broker::new(WorkerId(7), QueueId(0), limits);
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(3320));
    let mut ask = |stream| {
        process.workers[0].get(&process.grant, Need::LongLived, StreamId(stream), process.now, &process.shared).0
    };
    assert!(matches!(ask(2), Answer::Pending));
    assert!(matches!(ask(3), Answer::Ready(_)));
}

#[test]
fn a_token_that_is_over_when_it_comes_is_fetched_once_more_and_then_a_problem() {
    let mut process = Process::new();
    process.pending(0, 1);
    assert_eq!(process.look(0), [Seen::Read]);
    for again in [true, false] {
        process.assertion(0);
        process.advance(Duration::from_secs(2));
        let seen = process.endpoint(0, token(1));
        assert_eq!(seen, [if again { Seen::Read } else { Seen::Problem(1, Code::EntraReplyInvalid) }]);
    }
    assert_eq!(process.failed(1).code, Code::EntraReplyInvalid);
}

#[test]
fn what_nobody_uses_any_more_is_let_go() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(Duration::from_secs(7200));
    process.look(0);
    assert!(process.workers[0].slots.is_empty() && process.workers[0].timers.is_empty());
    let name =
        process.shared.values.borrow().iter().find(|(_, (value, _))| value.len() > 2).map(|(name, _)| name.clone());
    assert!(name.is_some());
    let other = process.grant.key();
    shared::update(&process.shared, other, process.now, |entry| {
        *entry = Entry::default();
        Then::Write(())
    });
    assert!(process.shared.values.borrow().values().all(|(value, _)| value == b"[]"));
}

#[test]
fn a_request_that_does_not_wait_has_a_token_fetched_and_is_told_of_no_failure() {
    let mut process = Process::new();
    let want = |process: &mut Process| process.workers[0].want(&process.grant, process.now, &process.shared);
    assert!(want(&mut process));
    assert!(!want(&mut process) || process.due_in(0).is_none());
    assert_eq!(process.look(0), [Seen::Read]);
    assert_eq!(process.assertion(0), [Seen::Call]);
    assert_eq!(process.endpoint(0, refusal(700_016)), []);
    // Nobody waits, so it is not tried again until somebody asks.
    let next_try = process.due_in(0).unwrap();
    process.advance(next_try);
    assert_eq!(process.look(0), []);
    assert_eq!(process.due_in(0), None);
    assert!(want(&mut process));
    assert_eq!(process.look(0), [Seen::Read]);
    assert_eq!(process.assertion(0), [Seen::Call]);
    assert_eq!(process.endpoint(0, token(3600)), []);
    // It counts as used: it is refreshed in time, and served.
    assert!(process.due_in(0).unwrap() < Duration::from_secs(3400));
    want(&mut process);
    process.ready(1);
}

#[test]
fn what_was_wanted_and_came_from_another_worker_is_not_fetched_again() {
    let mut process = Process::new();
    process.workers[0].want(&process.grant, process.now, &process.shared);
    process.exchange(1, 1, token(3600));
    assert_eq!(process.look(0), []);
    // Nobody asks any more: after one refresh it is let go.
    let refresh = process.due_in(0).unwrap();
    process.advance(refresh);
    assert_eq!(process.look(0), [Seen::Read]);
    process.assertion(0);
    process.endpoint(0, token(3600));
    process.advance(Duration::from_secs(3600));
    assert_eq!(process.look(0), []);
    assert_eq!(process.due_in(0), None);
}

#[test]
fn a_caller_that_does_not_want_this_token_gets_another_but_once_in_thirty_seconds() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    let digest = crate::entra::AccessToken::parse("abc").unwrap().digest();
    let refresh = |process: &mut Process, worker: usize, stale| {
        process.workers[worker].refresh(&process.grant, stale, process.now, &process.shared).is_some()
    };
    assert!(!refresh(&mut process, 1, Stale::Digest([0; 32])));
    process.ready(1);
    assert!(refresh(&mut process, 1, Stale::Digest(digest)));
    assert!(matches!(process.ask(1, 2).0, Answer::Pending));
    assert_eq!(process.look(1), [Seen::Read]);
    process.assertion(1);
    assert_eq!(process.endpoint(1, token(3600)), [Seen::Token(2)]);
    // Whatever asks, in whatever worker: the bound is one.
    assert!(!refresh(&mut process, 1, Stale::Any));
    // The other worker takes the newer one in place of its own.
    assert!(refresh(&mut process, 0, Stale::Any));
    process.ready(0);
    process.ready(1);
    process.advance(FORCED_PERIOD);
    assert!(refresh(&mut process, 1, Stale::Any));
    assert!(matches!(process.ask(1, 3).0, Answer::Pending));
}

#[test]
fn readiness_is_an_assertion_that_was_read_and_no_refusal_for_good() {
    let mut process = Process::new();
    let readiness = Readiness {
        assertion: process.grant.assertion().clone(),
        identities: vec![process.grant.identity().to_owned()],
    };
    let ready = |process: &mut Process, worker: usize, stream: u32| {
        let outcome = process.workers[worker].ready(&readiness, StreamId(stream), process.now, &process.shared);
        outcome.map(|outcome| outcome.map_err(|problem| problem.code))
    };
    // What was not read yet is read for it, once for all who ask; nothing is exchanged.
    assert_eq!((ready(&mut process, 0, 1), ready(&mut process, 0, 2), ready(&mut process, 0, 3)), (None, None, None));
    process.workers[0].forget(StreamId(3));
    assert_eq!(seen(process.workers[0].check(process.now)), [Seen::Read]);
    assert_eq!(seen(process.workers[0].check(process.now)), []);
    let missing = Ok(Response { status: 503, retry_after: None, body: Vec::new(), is_envoys_own: true });
    let source = process.grant.assertion().clone();
    let answered = seen(process.workers[0].check_answered(&source, missing, process.now));
    assert_eq!(answered, [Seen::Problem(1, Code::AssertionUnavailable), Seen::Problem(2, Code::AssertionUnavailable)]);
    // It is tried again with each probe, until it could be read, here or for an exchange.
    assert_eq!(ready(&mut process, 0, 4), None);
    process.exchange(0, 5, refusal(700_016));
    assert_eq!(ready(&mut process, 0, 6), Some(Err(Code::EntraRefused)));
    // Every worker knows of the refusal.
    assert_eq!(ready(&mut process, 1, 7), Some(Err(Code::EntraRefused)));
    process.advance(Duration::from_secs(600));
    process.exchange(0, 8, answer(500, &json!({})));
    assert_eq!(ready(&mut process, 0, 9), Some(Ok(())));
    process.advance(Duration::from_secs(600));
    process.exchange(0, 10, token(3600));
    assert_eq!((ready(&mut process, 0, 11), ready(&mut process, 1, 12)), (Some(Ok(())), None));
}

#[test]
fn without_a_decisive_identity_all_must_be_refused_before_the_pod_is_not_ready() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(700_016));
    let identities = vec![process.grant.identity().to_owned(), "another".to_owned()];
    let readiness = Readiness { assertion: process.grant.assertion().clone(), identities };
    assert_eq!(process.workers[0].ready(&readiness, StreamId(2), process.now, &process.shared), Some(Ok(())));
}

#[test]
fn the_status_tells_people_where_each_token_stands_and_never_the_token() {
    let mut process = Process::new();
    let status = |process: &Process| {
        let reply = super::status(Build { version: "1.2.3", commit: "c0ffee" }, process.now, &process.shared);
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((&body["version"], &body["commit"]), (&json!("1.2.3"), &json!("c0ffee")));
        assert!(body["time"].as_str().unwrap().ends_with('Z') && !body.to_string().contains("abc"), "{body}");
        body["keys"].get(0).cloned().unwrap_or_default()
    };
    assert_eq!(status(&process), json!(null));
    process.pending(0, 1);
    process.look(0);
    let (identity, scope) = (process.grant.identity().to_owned(), process.grant.scope().to_owned());
    let key = process.grant.key().short();
    assert_eq!(status(&process), json!({"identity": identity, "scope": scope, "key": key, "state": "exchanging"}));
    process.assertion(0);
    process.endpoint(0, token(3600));
    process.advance(Duration::from_secs(100));
    let seen = status(&process);
    assert_eq!(seen["state"], "valid");
    assert_eq!(seen["token"]["age_s"], 100);
    assert_eq!((&seen["token"]["usable_for_s"], &seen["token"]["expires_in_s"]), (&json!(3470), &json!(3500)));
    process.advance(Duration::from_secs(3300));
    assert_eq!(status(&process)["state"], "due");
    process.advance(Duration::from_secs(200));
    process.exchange(0, 2, refusal(700_016));
    let seen = status(&process);
    assert_eq!(seen["state"], "backing_off");
    assert_eq!(seen["last_problem"]["aadsts"], "AADSTS700016");
    assert_eq!((&seen["last_problem"]["failures"], &seen["last_problem"]["age_s"]), (&json!(1), &json!(0)));
    assert!(seen["last_problem"]["next_try_in_s"].as_u64().is_some() && seen.get("token").is_none());
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
    process.advance(process.due_in(0).unwrap());
    assert_eq!(process.look(0), [Seen::Read]);
    process.assertion(0);
    process.endpoint(0, token(3600));
    // It is new, nobody has used it, and its timer is that of its end.
    assert!(process.ask(0, 2).1);
    assert!(!process.ask(0, 3).1);
    let want = |process: &mut Process| process.workers[0].want(&process.grant, process.now, &process.shared);
    assert!(!want(&mut process));
    process.look(0);
    process.advance(process.due_in(0).unwrap());
    process.look(0);
    process.assertion(0);
    process.endpoint(0, token(3600));
    assert!(want(&mut process));
    assert!(!want(&mut process));
}

#[test]
fn what_is_wanted_after_a_back_off_asks_for_a_look_and_only_once() {
    let mut process = Process::new();
    process.exchange(0, 1, refusal(700_016));
    let want = |process: &mut Process| process.workers[0].want(&process.grant, process.now, &process.shared);
    assert!(!want(&mut process), "while it backs off there is nothing to look at");
    process.advance(process.due_in(0).unwrap());
    assert!(want(&mut process));
    assert!(!want(&mut process));
}

#[test]
fn the_ways_share_the_time_of_an_exchange() {
    let mut process = Process::new();
    let clusters = ["first".to_owned(), "second".to_owned()];
    let parts = GrantParts {
        identity: "payments",
        authority: &crate::entra::Authority::public(),
        tenant_id: "t",
        client_id: "c",
        scope: "s/.default",
        assertion: &process.grant.assertion().clone(),
        clusters: &clusters,
        discard_before: None,
    };
    process.grant = Arc::new(Grant::new(&parts));
    process.pending(0, 1);
    process.look(0);
    let body = jwt(&json!({"alg": "RS256"}), &{
        let mut claims = claims();
        claims["exp"] = json!(process.now.unix_seconds() + 3600);
        claims
    });
    let read = Ok(Response { status: 200, retry_after: None, body: body.into_bytes(), is_envoys_own: false });
    let key = process.grant.key();
    let commands = process.workers[0].assertion_arrived(key, read, process.now, &process.shared);
    let timeouts: Vec<Duration> = commands
        .iter()
        .filter_map(|command| match command {
            Command::CallEndpoint { timeout, .. } => Some(*timeout),
            _ => None,
        })
        .collect();
    assert_eq!(timeouts, [Limits::default().exchange / 2]);
}

/// The earliest end among the tokens of an identity, and of no other.
#[test]
fn the_earliest_end_of_an_identitys_tokens_is_measured() {
    let mut process = Process::new();
    let grant_of = |process: &Process, identity: &str, scope: &str| {
        Arc::new(Grant::new(&GrantParts {
            identity,
            authority: &crate::entra::Authority::public(),
            tenant_id: "t",
            client_id: "c",
            scope,
            assertion: &process.grant.assertion().clone(),
            clusters: &["entra".to_owned()],
            discard_before: None,
        }))
    };
    let mut ends = Vec::new();
    for (identity, scope, life) in [("a", "x/.default", 3600), ("b", "x2/.default", 600), ("a", "y/.default", 7000)] {
        process.grant = grant_of(&process, identity, scope);
        process.pending(0, 1);
        process.look(0);
        process.assertion(0);
        let key = process.grant.key();
        let commands = process.workers[0].endpoint_answered(key, token(life), process.now, &process.shared);
        ends.extend(commands.into_iter().filter_map(|command| match command {
            Command::Measure(measured) if measured.name.contains("token_expiry") => {
                Some((measured.name, measured.value))
            }
            _ => None,
        }));
    }
    let name = |identity: &str| format!("entra_exchange_token_expiry_timestamp_seconds.identity=.={identity};.;");
    let at = |life: u64| i64::try_from(START.unix_seconds() + life).unwrap();
    assert_eq!(ends, [(name("a"), at(3600)), (name("b"), at(600)), (name("a"), at(3600))]);
}

#[test]
fn a_check_reads_once_at_a_time_and_remembers_what_could_be_read() {
    let mut process = Process::new();
    let source = process.grant.assertion().clone();
    let readiness = Readiness { assertion: source.clone(), identities: vec!["payments".to_owned()] };
    let ready = |process: &mut Process, stream: u32| {
        process.workers[0].ready(&readiness, StreamId(stream), process.now, &process.shared)
    };
    let check = |process: &mut Process| seen(process.workers[0].check(process.now));
    assert_eq!(ready(&mut process, 1), None);
    assert_eq!(check(&mut process), [Seen::Read]);
    // An answer that never came is waited for no longer than it may take, also when the clock is set back.
    process.now = process.now.minus(Duration::from_secs(3600));
    assert_eq!(ready(&mut process, 2), None);
    process.advance(READ_TIMEOUT - Duration::from_millis(1));
    assert_eq!(check(&mut process), []);
    process.advance(Duration::from_millis(1));
    assert_eq!(check(&mut process), [Seen::Read]);
    let mut claims = claims();
    claims["nbf"] = json!(process.now.unix_seconds());
    claims["exp"] = json!(process.now.unix_seconds() + 3600);
    let body = jwt(&json!({"alg": "RS256"}), &claims).into_bytes();
    let read = Ok(Response { status: 200, retry_after: None, body, is_envoys_own: false });
    assert_eq!(seen(process.workers[0].check_answered(&source, read, process.now)), [Seen::Ready(1), Seen::Ready(2)]);
    assert_eq!(ready(&mut process, 3), Some(Ok(())));
}

#[test]
fn a_token_that_comes_late_takes_no_newer_ones_place() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.look(0);
    process.assertion(0);
    process.advance(Limits::default().exchange + GRACE);
    let began = process.now;
    process.exchange(1, 2, token(3600));
    process.endpoint(0, token(3600));
    for worker in [0, 1] {
        match process.ask(worker, 3).0 {
            Answer::Ready(issued) => assert_eq!(issued.issued_at(), began, "worker {worker}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_older_token_is_taken_where_the_newer_is_over_or_there_is_none() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.look(0);
    process.assertion(0);
    process.advance(Limits::default().exchange + GRACE);
    process.exchange(1, 2, token(60));
    process.advance(Duration::from_secs(60));
    process.endpoint(0, token(3600));
    process.ready(0);
}

#[test]
fn whoever_waited_too_long_gets_the_token_that_a_late_worker_brought() {
    let mut process = Process::new();
    process.pending(1, 1);
    process.look(1);
    process.assertion(1);
    process.advance(Limits::default().exchange + GRACE);
    // The other takes over, and is at its second try when its request has waited for its time.
    process.pending(0, 2);
    assert_eq!(process.look(0), [Seen::Read]);
    process.advance(READ_TIMEOUT);
    assert_eq!(process.assertion(0), [Seen::Call]);
    process.advance(Limits::default().exchange);
    assert_eq!(process.endpoint(0, refusal(700_213)), []);
    process.advance(SOON);
    assert_eq!(process.look(0), [Seen::Read]);
    assert_eq!(process.endpoint(1, token(3600)), [Seen::Token(1)]);
    process.advance(Limits::default().wait - READ_TIMEOUT - Limits::default().exchange - SOON);
    assert_eq!(process.look(0), [Seen::Token(2)]);
}

/// A process whose worker 0 has had an exchange for each of these, which came to this.
fn with_exchanges(of: &[(&str, &str)], answer: fn() -> CallResult) -> (Process, Vec<Command>) {
    let mut process = Process::new();
    let mut commands = Vec::new();
    let source = process.grant.assertion().clone();
    for (identity, scope) in of {
        process.grant = Arc::new(Grant::new(&GrantParts {
            identity,
            authority: &crate::entra::Authority::public(),
            tenant_id: "t",
            client_id: "c",
            scope,
            assertion: &source,
            clusters: &["entra".to_owned()],
            discard_before: None,
        }));
        process.pending(0, 1);
        process.look(0);
        process.assertion(0);
        let key = process.grant.key();
        commands.extend(process.workers[0].endpoint_answered(key, answer(), process.now, &process.shared));
    }
    (process, commands)
}

#[test]
fn the_status_is_in_the_order_of_identity_and_scope() {
    let (process, _) = with_exchanges(&[("b", "x/.default"), ("a", "z/.default"), ("a", "y/.default")], || token(3600));
    let reply = super::status(Build { version: "1", commit: "c" }, process.now, &process.shared);
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    let shown: Vec<String> = body["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| format!("{} {}", key["identity"].as_str().unwrap(), key["scope"].as_str().unwrap()))
        .collect();
    assert_eq!(shown, ["a y/.default", "a z/.default", "b x/.default"]);
}

#[test]
fn a_failure_is_counted_by_how_it_passes() {
    let classes = |answer: fn() -> CallResult| {
        let (_, commands) = with_exchanges(&[("a", "x/.default")], answer);
        let measured = commands.into_iter().find_map(|command| match command {
            Command::Measure(measured) if measured.name.contains("exchanges_total") => Some(measured.name),
            _ => None,
        });
        measured.unwrap()
    };
    for (answer, class) in
        [((|| refusal(700_016)) as fn() -> CallResult, "by_change"), (|| refusal(90_033), "by_itself")]
    {
        let expected = format!("entra_exchange_exchanges_total.identity=.=a;.;.outcome=.=failed;.;.class=.={class};.;");
        assert_eq!(classes(answer), expected);
    }
}

/// Names can never be removed from Envoy's shared data: there are as many as there are shelves, whatever is asked for.
#[test]
fn keys_are_spread_over_shelves_that_were_made_beforehand() {
    let made: Vec<String> = {
        let shared = Shared::default();
        prepare(&shared);
        let names = shared.values.borrow();
        names.keys().cloned().collect()
    };
    assert_eq!(made.len(), 256);
    let scopes: Vec<String> = (0..40).map(|number| format!("{number}/.default")).collect();
    let of: Vec<(&str, &str)> = scopes.iter().map(|scope| ("a", scope.as_str())).collect();
    let (process, _) = with_exchanges(&of, || token(3600));
    let values = process.shared.values.borrow();
    assert!(values.keys().all(|name| made.contains(name)), "{:?}", values.keys());
    assert!(values.values().filter(|(value, _)| value != b"[]").count() > 20);
}

#[test]
fn a_token_of_the_very_moment_from_which_on_it_counts_is_kept() {
    let mut process = Process::new();
    let grant = |before| {
        Arc::new(Grant::new(&GrantParts {
            identity: "payments",
            authority: &crate::entra::Authority::public(),
            tenant_id: "t",
            client_id: "c",
            scope: "s/.default",
            assertion: &crate::assertion::Source::File { cluster: "projected_token".to_owned() },
            clusters: &["entra".to_owned()],
            discard_before: Some(before),
        }))
    };
    process.grant = grant(START);
    process.exchange(0, 1, token(3600));
    process.ready(0);
    process.grant = grant(START.plus(Duration::from_millis(1)));
    process.pending(1, 2);
}

/// An unused token is let go at its end and not looked at before.
#[test]
fn nothing_is_looked_at_for_a_token_that_nobody_uses() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    process.advance(process.due_in(0).unwrap());
    process.look(0);
    process.assertion(0);
    process.endpoint(0, token(3600));
    assert_eq!(process.due_in(0), Some(Duration::from_secs(3570)), "its end, not its refresh");
}

#[test]
fn a_request_that_comes_in_the_pause_before_the_second_try_does_not_cut_it_short() {
    let mut process = Process::new();
    assert_eq!(process.exchange(0, 1, refusal(700_213)), []);
    process.advance(SOON - Duration::from_millis(1));
    process.pending(0, 2);
    assert_eq!(process.look(0), []);
    process.advance(Duration::from_millis(1));
    assert_eq!(process.look(0), [Seen::Read]);
}
