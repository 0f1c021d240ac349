//! Several workers and a source over HTTP: how often it is asked, and that no secret is shown whatever it answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;
use crate::config::Config;

const SECRET: &str = "q7Rz0pWvX3nL8sKd:with/colon";
const KEY: &str = "Zk4TbN1mYw9eHc6u%20percent";

/// Token specs of one identity, whose federated token is exchanged at a token service.
pub(super) fn specs(scopes: usize) -> Vec<Arc<TokenSpec>> {
    specs_of(scopes, "projected_token")
}

/// The same with this subject token: a file, or the token of another service.
fn specs_of(scopes: usize, subject: &str) -> Vec<Arc<TokenSpec>> {
    specs_with(scopes, subject, &json!({}))
}

/// The same with these fields of the token service.
fn specs_with(scopes: usize, subject: &str, fields: &Value) -> Vec<Arc<TokenSpec>> {
    let variable = |name: &str| match name {
        "AZURE_TENANT_ID" => Some("11111111-1111-4111-8111-111111111111".to_owned()),
        "AZURE_CLIENT_ID" => Some("aaaaaaaa-0000-4000-8000-000000000001".to_owned()),
        "SECRET" => Some(SECRET.to_owned()),
        "KEY" => Some(KEY.to_owned()),
        _ => None,
    };
    let mut text = json!({
        "assertions": [{
            "name": "sts", "source": "token_exchange", "cluster": "sts", "path": "/token", "subject_token": subject,
            "basic_auth": {"id": "payments", "secret_from_env": "SECRET"}, "form_from_env": {"key": "KEY"},
        }, {
            "name": "provider", "source": "oidc_client_credentials", "cluster": "provider", "path": "/token",
        }],
        "identities": [{"assertion": "sts"}],
        "destinations": [{"hosts": ["a.example"], "scope": "https://vault.azure.net/.default"}],
    });
    let own = text["assertions"][0].as_object_mut().unwrap();
    own.extend(fields.as_object().unwrap().clone());
    let config = Config::parse(text.to_string().as_bytes(), &variable).unwrap();
    let spec = |number| config.identities[0].spec(&format!("api://{number}/.default")).unwrap();
    (0..scopes).map(|number| Arc::new(spec(number))).collect()
}

enum Event {
    Poll(TokenKey),
    Nudge,
    Tick,
    Answer(Purpose, CallResult),
    Request(usize),
}

/// What a source and Entra answer.
#[derive(Clone, Copy, PartialEq)]
enum Services {
    Good,
    /// They repeat what they got, or make no sense.
    Hostile,
    /// The source answers with this status and `Retry-After`.
    Failing(u16, Option<&'static str>),
    /// Entra rejects the first federated token with this error.
    RefusingFirst(u32),
    /// Entra rejects every federated token with this error.
    Refusing(u32),
    /// The source answers after two seconds with a token that lives for three, and is used again for half of its life.
    Slow,
    /// The file with the source's input takes longer than its content is used again.
    SlowFile,
    /// The source rejects the first token of its input.
    RefusingFirstInput,
}

/// Workers of one process, and what happens to them.
struct Workers {
    store: Box<dyn Store>,
    workers: Vec<Worker>,
    specs: Vec<Arc<TokenSpec>>,
    now: Timestamp,
    agenda: BTreeMap<(Timestamp, u64), (usize, Event)>,
    number: u64,
    /// The latest call of each worker with each purpose: only its result is reported.
    calls: Vec<(usize, Purpose, u64)>,
    /// The times at which the source was asked.
    asked: Vec<Timestamp>,
    /// The number of times that the source of its input was asked.
    inputs: usize,
    /// The workers that asked it.
    asking: BTreeSet<usize>,
    /// The first federated token.
    first: String,
    exchanges: usize,
    failures: usize,
    /// The requests that wait, each with its worker.
    waiting: BTreeSet<(usize, u32)>,
    shown: Vec<String>,
    random: Random,
    services: Services,
    /// The worker that processes no event from its first call to the source on.
    stalls: bool,
    stalled: Option<usize>,
}

impl Workers {
    fn new(workers: u32, scopes: usize, seed: u64, services: Services) -> Self {
        let [shelves, _] = stores();
        Self::with(shelves, workers, specs(scopes), seed, services)
    }

    fn with(store: Box<dyn Store>, workers: u32, specs: Vec<Arc<TokenSpec>>, seed: u64, services: Services) -> Self {
        let worker = |number: u32| Worker::new(WorkerId(seed + u64::from(number)), QueueId(number), Limits::default());
        Self {
            store,
            workers: (0..workers).map(worker).collect(),
            specs,
            now: START,
            agenda: BTreeMap::new(),
            number: 0,
            calls: Vec::new(),
            asked: Vec::new(),
            inputs: 0,
            asking: BTreeSet::new(),
            first: String::new(),
            exchanges: 0,
            failures: 0,
            waiting: BTreeSet::new(),
            shown: Vec::new(),
            random: Random(seed),
            services,
            stalls: false,
            stalled: None,
        }
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.random.next()).unwrap() % count
    }

    fn put(&mut self, at: Timestamp, worker: usize, event: Event) {
        self.number += 1;
        self.agenda.insert((at, self.number), (worker, event));
    }

    fn run(&mut self, until: Timestamp) {
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= until) {
            let (at, number) = *entry.key();
            assert!(number < 100_000, "the workers do not come to rest");
            let (worker, event) = entry.remove();
            self.now = self.now.max(at);
            if self.stalled == Some(worker) {
                continue;
            }
            let (now, acting) = (self.now, &mut self.workers[worker]);
            let effects = match event {
                Event::Poll(key) => acting.poll(key, now, &*self.store),
                Event::Nudge => acting.start_probe(now, &*self.store),
                Event::Tick => acting.tick(now, &*self.store),
                Event::Answer(purpose, answer) if self.calls.contains(&(worker, purpose.clone(), number)) => {
                    acting.call_finished(&purpose, answer, now, &*self.store)
                }
                Event::Answer(..) => Vec::new(),
                Event::Request(index) => {
                    self.request(worker, index);
                    Vec::new()
                }
            };
            self.carry_out(worker, effects);
            if let Some(due) = self.workers[worker].next_due() {
                self.put(due.max(self.now.plus(Duration::from_millis(1))), worker, Event::Tick);
            }
        }
        self.now = until;
    }

    fn request(&mut self, worker: usize, index: usize) {
        let (spec, stream) = (Arc::clone(&self.specs[index]), u32::try_from(self.number).unwrap());
        let (lookup, poll) =
            self.workers[worker].get(&spec, RequiredLifetime::Any, StreamId(stream), self.now, &*self.store);
        match lookup {
            TokenLookup::Pending => drop(self.waiting.insert((worker, stream))),
            TokenLookup::Failed(problem) => self.failed(&problem),
            TokenLookup::Ready(_) => {}
        }
        if poll {
            self.put(self.now, worker, Event::Poll(spec.key()));
        }
    }

    fn failed(&mut self, problem: &Problem) {
        self.failures += 1;
        self.shown.push(format!("{problem:?}"));
    }

    fn carry_out(&mut self, worker: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Call(purpose, call) => {
                    let (after, answer) = self.answer(worker, &purpose, &call);
                    self.put(self.now.plus(after), worker, Event::Answer(purpose.clone(), answer));
                    self.calls.retain(|(other, with, _)| (*other, with) != (worker, &purpose));
                    self.calls.push((worker, purpose, self.number));
                }
                Effect::Wake(queue, key) => self.wake(queue, Event::Poll(key)),
                Effect::Nudge(queue) => self.wake(queue, Event::Nudge),
                Effect::Finish(StreamId(stream), result) => {
                    assert!(self.waiting.remove(&(worker, stream)));
                    result.err().iter().for_each(|problem| self.failed(problem));
                }
                Effect::Log(event) => self.shown.push(event.to_string()),
                Effect::Measure(measurement) => self.shown.push(format!("{measurement:?}")),
                Effect::FinishProbe(..) => {}
            }
        }
    }

    fn wake(&mut self, QueueId(queue): QueueId, event: Event) {
        let at = self.now.plus(Duration::from_millis(1));
        self.put(at, usize::try_from(queue).unwrap(), event);
    }

    /// The answer to a call, and the time that it takes.
    fn answer(&mut self, worker: usize, purpose: &Purpose, call: &HttpCall) -> (Duration, CallResult) {
        let after = Duration::from_millis(u64::from(self.random.next() % 300));
        let is_source = call.cluster == "sts";
        if is_source {
            self.asked.push(self.now);
            self.asking.insert(worker);
            if std::mem::take(&mut self.stalls) {
                self.stalled = Some(worker);
            }
        }
        if call.cluster == "projected_token" {
            let after = if self.services == Services::SlowFile { Duration::from_millis(1500) } else { after };
            return (after, text(200, self.jwt("sub", "api", 3600)));
        }
        if call.cluster == "provider" {
            self.inputs += 1;
            let token = self.jwt("jti", &format!("input-{}", self.inputs), 3600);
            if self.first.is_empty() {
                self.first.clone_from(&token);
            }
            return (after, answer(200, &json!({"access_token": token, "expires_in": 3600})));
        }
        if self.services == Services::Hostile && self.below(2) == 0 {
            let after = if self.below(4) == 0 { call.timeout * 2 } else { after };
            let answer = if is_source { self.hostile(call) } else { refusal([700_024, 700_213][self.below(2)]) };
            return if after > call.timeout { (call.timeout, no_answer()) } else { (after, answer) };
        }
        let is_first = |call: &HttpCall| String::from_utf8_lossy(&call.body).contains(&self.first);
        match (purpose, self.services) {
            (Purpose::Token(_), Services::RefusingFirst(code)) if is_first(call) => (after, refusal(code)),
            (Purpose::Token(_), Services::Refusing(code)) => (after, refusal(code)),
            (Purpose::Token(_), services) => {
                self.exchanges += 1;
                let life = if services == Services::Hostile { 60 } else { 3600 };
                (after, token(life))
            }
            (_, Services::Failing(status, retry_after)) => {
                let retry_after = retry_after.map(|after| after.as_bytes().to_vec());
                (after, text(status, "no".to_owned()).map(|answer| CallResponse { retry_after, ..answer }))
            }
            (_, Services::RefusingFirstInput) if is_first(call) => (after, text(400, "no".to_owned())),
            (_, Services::Slow) => (Duration::from_secs(2), self.source_token(3)),
            _ => (after, self.source_token(300)),
        }
    }

    fn source_token(&mut self, life: u64) -> CallResult {
        let token = self.jwt("jti", &self.asked.len().to_string(), life);
        if self.first.is_empty() {
            self.first.clone_from(&token);
        }
        answer(200, &json!({"access_token": token, "expires_in": life, "token_type": "N_A"}))
    }

    fn jwt(&self, claim: &str, value: &str, life: u64) -> String {
        let mut all = claims();
        all["nbf"] = json!(self.now.unix_seconds());
        all["exp"] = json!(self.now.unix_seconds() + life);
        all[claim] = json!(value);
        let algorithm = if claim == "alg" { value } else { "RS256" };
        jwt(&json!({"alg": algorithm}), &all)
    }

    /// What a source answers that repeats what it got, or that makes no sense.
    fn hostile(&mut self, call: &HttpCall) -> CallResult {
        let authorization = call.headers.iter().find(|(name, _)| name == "authorization").unwrap().1.to_string();
        let form = String::from_utf8(call.body.clone()).unwrap();
        let subject = form.split("subject_token=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let known = [SECRET.to_owned(), KEY.to_owned(), authorization, form, subject, SECRET.to_uppercase()];
        let said = known[self.below(known.len())].clone();
        let apart = |said: &str| said.chars().flat_map(|letter| [letter, '\u{200b}']).collect::<String>();
        let said = [said.clone(), format!("no:\nevent=forged {said}"), apart(&said), "x ".repeat(40_000) + &said]
            [self.below(4)]
        .clone();
        let claim = ["iss", "sub", "aud", "alg"][self.below(4)];
        let life = [0, 1, 2, 300, u64::MAX / 2][self.below(5)];
        let value = [json!(life), json!("1"), json!(-1), Value::Null, json!([said])][self.below(5)].clone();
        match self.below(12) {
            0 => Err(crate::http::CallFailure::NoEndpoint),
            1 => no_answer(),
            2 => text(302, said),
            3 => text(200, format!("<html>{said}")),
            4 => text(200, format!("{{\"access_token\": \"{said}")),
            5 => text(200, "[".repeat(70_000)),
            6 => answer(200, &json!({"access_token": value, "expires_in": 300})),
            7 | 8 => answer(200, &json!({"access_token": self.jwt(claim, &said, 300), "expires_in": 300})),
            9 => answer(200, &json!({"access_token": self.jwt("sub", "payments", 1), "expires_in": value})),
            10 => answer(200, &json!({"access_token": said})),
            _ => {
                let status = [400, 401, 403, 404, 408, 429, 500, 503, 0, 999][self.below(10)];
                let after = [None, Some("0"), Some("1"), Some("99999999"), Some("-1")][self.below(5)];
                text(status, said).map(|response| CallResponse {
                    retry_after: after.map(|after| after.as_bytes().to_vec()),
                    ..response
                })
            }
        }
    }

    /// Checks that nothing that was shown contains twelve consecutive letters and digits of a secret, whatever is between them.
    fn assert_hidden(&self, seed: u64) {
        let letters = |text: &str| -> Vec<u8> {
            text.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase()).collect()
        };
        let secrets = [letters(SECRET), letters(KEY)];
        let parts: BTreeSet<&[u8]> = secrets.iter().flat_map(|secret| secret.windows(12)).collect();
        for text in &self.shown {
            assert!(!letters(text).windows(12).any(|run| parts.contains(run)), "seed {seed}: {text}");
            assert!(!text.contains("eyJ") && !text.contains("\nevent=") && text.len() < 8192, "seed {seed}: {text}");
        }
    }
}

fn text(status: u16, body: String) -> CallResult {
    let body = body.into_bytes();
    Ok(CallResponse { status, retry_after: None, request_id: None, grpc: None, body, is_envoys_own: false })
}

fn no_answer() -> CallResult {
    text(503, String::new()).map(|response| CallResponse { is_envoys_own: true, ..response })
}

const WORKERS: u32 = 4;
const SCOPES: usize = 40;

/// A process without tokens, in which every worker gets a request for every scope within a moment.
fn cold_start(services: Services) -> Workers {
    let mut process = Workers::new(WORKERS, SCOPES, 1, services);
    process.request_all(START);
    process
}

impl Workers {
    /// Puts a request for every scope in every worker on the agenda, in another order in each, so that each gets some of the leases.
    fn request_all(&mut self, from: Timestamp) {
        let workers = self.workers.len();
        for worker in 0..workers {
            for index in 0..self.specs.len() {
                let at = from.plus(Duration::from_millis(index as u64));
                self.put(at, worker, Event::Request((index * 7 + worker * 11) % self.specs.len()));
            }
        }
    }

    fn run_for(&mut self, seconds: u64) {
        self.run(self.now.plus(Duration::from_secs(seconds)));
    }
}

#[test]
fn at_a_cold_start_a_source_is_asked_once_whatever_the_number_of_scopes_and_workers() {
    for store in stores() {
        let mut process = Workers::with(store, WORKERS, specs(SCOPES), 1, Services::Good);
        process.request_all(START);
        process.run_for(10);
        assert_eq!((process.exchanges, process.waiting.len(), process.failures), (SCOPES, 0, 0));
        assert_eq!(process.asked.len(), 1);
        let reads = process
            .shown
            .iter()
            .filter(|text| text.contains("assertion_reads_total") && text.contains("token_exchange"));
        assert_eq!(reads.count(), 1, "an answer is counted once");
    }
}

#[test]
fn an_assertion_that_is_not_used_again_serves_all_workers_that_waited_for_it() {
    let mut process = Workers::with(Box::new(MemoryStore::default()), WORKERS, specs(SCOPES), 1, Services::Slow);
    process.request_all(START);
    process.run_for(10);
    assert_eq!((process.exchanges, process.waiting.len(), process.asked.len()), (SCOPES, 0, 1));
}

#[test]
fn an_assertion_that_is_not_used_again_serves_only_workers_that_waited_for_it() {
    let mut process = Workers::with(Box::new(MemoryStore::default()), 2, specs(1), 1, Services::Slow);
    process.request_all(START);
    process.run(START.plus(Duration::from_millis(2_500)));
    let (source, now) = (process.specs[0].assertion().clone(), process.now);
    let state = process.store.read_source(&source);
    let serves = |since: Option<Timestamp>, now: Timestamp| state.answer(&source, since, now).is_some();
    assert!(serves(Some(START), now) && !serves(None, now) && !serves(Some(now), now));
    assert!(!serves(Some(START), now.plus(GRACE_PERIOD)), "it has expired");
}

#[test]
fn a_source_that_demands_a_pause_gets_one_call_for_all_workers_until_it_is_over() {
    let mut process = cold_start(Services::Failing(429, Some("60")));
    process.run_for(10);
    assert_eq!((process.asked.len(), process.waiting.len(), process.exchanges), (1, 0, 0));
    for worker in &mut process.workers {
        let lookup = worker.get(&process.specs[1], RequiredLifetime::Any, StreamId(1), process.now, &*process.store).0;
        let TokenLookup::Failed(problem) = lookup else { panic!("the source failed") };
        assert!((50..=60).contains(&problem.retry_after.unwrap().as_secs()), "{problem:?}");
    }
    for _ in 0..4 {
        process.request_all(process.now);
        process.run_for(10);
    }
    assert_eq!(process.asked.len(), 1, "the pause is not over");
    process.services = Services::Good;
    process.run_for(30);
    process.request_all(process.now);
    process.run_for(10);
    assert_eq!((process.asked.len(), process.waiting.len(), process.exchanges), (2, 0, SCOPES));
}

#[test]
fn a_source_that_fails_is_asked_again_by_the_same_worker_for_all() {
    let mut process = cold_start(Services::Failing(503, None));
    process.run_for(2);
    assert_eq!((process.asked.len(), process.asking.len()), (3, 1), "three attempts");
    assert_eq!((process.waiting.len(), process.failures), (0, SCOPES * WORKERS as usize));
}

#[test]
fn no_other_worker_asks_a_source_in_the_pause_before_its_next_attempt() {
    let fields = json!({"timeout": "1s", "back_off": "10s"});
    let [shelves, _] = stores();
    let failing = Services::Failing(503, None);
    let mut process = Workers::with(shelves, WORKERS, specs_with(SCOPES, "projected_token", &fields), 1, failing);
    process.request_all(START);
    process.run_for(4);
    assert_eq!(process.asked.len(), 1, "half of the pause is not over");
    process.run_for(26);
    assert_eq!((process.asked.len(), process.asking.len()), (3, 1));
}

#[test]
fn a_worker_that_stalls_while_it_asks_delays_the_others_by_the_timeout_of_the_source() {
    let mut process = cold_start(Services::Good);
    process.stalls = true;
    process.run_for(10);
    let stalled = process.stalled.unwrap();
    let others = |process: &Workers| process.waiting.iter().filter(|(worker, _)| *worker != stalled).count();
    assert!(others(&process) > 0 && process.asked.len() == 1);
    // The timeout of 10 s, the grace period of the lease, and the time for the exchanges.
    process.run_for(3);
    assert_eq!((others(&process), process.asked.len(), process.asking.len()), (0, 2, 2));
}

#[test]
fn the_late_answer_of_a_worker_that_lost_its_lease_is_not_shared() {
    let mut process = cold_start(Services::Good);
    process.stalls = true;
    process.run_for(13);
    let stalled = process.stalled.take().unwrap();
    let source = process.specs[0].assertion().clone();
    let late = text(500, "no".to_owned());
    let effects =
        process.workers[stalled].call_finished(&Purpose::Assertion(source), late, process.now, &*process.store);
    process.carry_out(stalled, effects);
    process.request_all(process.now);
    process.run_for(10);
    assert_eq!((process.asked.len(), process.waiting.len()), (2, 0));
    assert_eq!(process.exchanges, SCOPES);
}

#[test]
fn an_assertion_that_entra_refuses_is_dropped_in_all_workers_and_fetched_once_more() {
    for code in [700_024, 700_213] {
        let mut process = cold_start(Services::RefusingFirst(code));
        process.run_for(10);
        assert_eq!((process.exchanges, process.waiting.len(), process.failures), (SCOPES, 0, 0), "AADSTS{code}");
        assert_eq!(process.asked.len(), 2, "AADSTS{code}");
    }
}

#[test]
fn a_source_whose_assertions_entra_always_refuses_is_asked_a_few_times_and_not_once_for_each_scope() {
    for code in [700_024, 700_213] {
        let mut process = cold_start(Services::Refusing(code));
        process.run_for(3);
        assert_eq!(process.waiting.len(), 0, "AADSTS{code}");
        let calls = process.asked.len();
        assert!((2..=SCOPES / 4).contains(&calls), "AADSTS{code}: {calls} calls");
    }
}

/// A process without tokens, in which the subject token is that of another service.
fn cold_chain(services: Services) -> Workers {
    let [shelves, _] = stores();
    let mut process = Workers::with(shelves, WORKERS, specs_of(SCOPES, "provider"), 1, services);
    process.request_all(START);
    process
}

#[test]
fn at_a_cold_start_each_source_of_a_chain_is_asked_once() {
    let mut process = cold_chain(Services::Good);
    process.run_for(10);
    assert_eq!((process.exchanges, process.waiting.len(), process.failures), (SCOPES, 0, 0));
    assert_eq!((process.inputs, process.asked.len()), (1, 1));
}

#[test]
fn a_token_that_the_next_source_of_a_chain_rejects_is_fetched_once_more() {
    let mut process = cold_chain(Services::RefusingFirstInput);
    process.run_for(1);
    assert_eq!((process.inputs, process.asked.len(), process.exchanges), (1, 1, 0));
    for _ in 0..4 {
        process.run_for(30);
        process.request_all(process.now);
    }
    process.run_for(10);
    assert_eq!((process.inputs, process.asked.len(), process.exchanges), (2, 2, SCOPES));
}

#[test]
fn a_file_that_is_read_slowly_is_still_the_input_of_a_source() {
    let mut process = cold_start(Services::SlowFile);
    process.run_for(10);
    assert_eq!((process.exchanges, process.waiting.len(), process.asked.len()), (SCOPES, 0, 1));
}

#[test]
fn a_new_configuration_forgets_the_assertions_of_the_previous_one() {
    for store in stores() {
        let mut process = Workers::with(store, WORKERS, specs(1), 1, Services::Good);
        let announce = |process: &Workers, name: &str| process.store.announce(name, Duration::from_secs(15), START);
        announce(&process, "one");
        process.request_all(START);
        process.run_for(1);
        let source = process.specs[0].assertion().clone();
        let is_known =
            |process: &Workers| process.store.read_source(&source).answer(&source, None, process.now).is_some();
        assert!(!announce(&process, "one") && is_known(&process));
        assert!(announce(&process, "another") && !is_known(&process));
        assert!(process.store.read_source(&source).readable);
    }
}

#[test]
fn a_clock_that_is_set_back_ends_the_use_of_an_answer_from_the_future() {
    for services in [Services::Good, Services::Failing(429, Some("60"))] {
        let mut process = cold_start(services);
        process.run_for(1);
        let source = process.specs[0].assertion().clone();
        let state = process.store.read_source(&source);
        let answer_at = |now: Timestamp| state.answer(&source, None, now).is_some();
        assert!(answer_at(process.now) && answer_at(process.now.minus(GRACE_PERIOD)));
        assert!(!answer_at(START.minus(Duration::from_secs(2))));
    }
}

#[test]
fn a_federated_token_whose_use_is_over_leaves_the_store_with_the_next_change() {
    for store in stores() {
        let mut process = Workers::with(store, 1, specs(1), 1, Services::Good);
        process.request_all(START);
        process.run_for(1);
        let source = process.specs[0].assertion().clone();
        let other = Source::File { cluster: "another".to_owned() };
        let is_kept = |process: &Workers, readable: bool, after: u64| {
            store::record_reading(&*process.store, &other, readable, START.plus(Duration::from_secs(after)));
            // With the clock of the time at which it came.
            process.store.read_source(&source).answer(&source, None, process.now).is_some()
        };
        assert!(is_kept(&process, true, 30));
        assert!(!is_kept(&process, false, 600));
        assert!(process.store.read_source(&source).readable);
    }
}

#[test]
fn bytes_in_shared_data_that_are_not_an_entry_are_read_as_none() {
    let shared = Shared::default();
    let name = format!("{PREFIX}sources");
    for bytes in [&b""[..], b"\xff\xff\xff", b"[not an entry]"] {
        shared.memory.set(&name, bytes, None);
        let source = specs(1)[0].assertion().clone();
        assert!(shared.read_source(&source) == SourceState::default());
    }
}

#[test]
fn a_hostile_source_gets_a_bounded_number_of_calls_and_no_secret_is_shown() {
    for seed in 0..200 {
        let (workers, scopes) = (3, 3);
        let mut process = Workers::new(workers, scopes, seed, Services::Hostile);
        for _ in 0..60 {
            let at = START.plus(Duration::from_millis(u64::from(process.random.next() % 600_000)));
            let (worker, index) = (process.below(workers as usize), process.below(scopes));
            process.put(at, worker, Event::Request(index));
        }
        // The last request waits for its limit.
        process.run(START.plus(Duration::from_secs(700)));
        assert!(process.waiting.is_empty(), "seed {seed}");
        process.assert_hidden(seed);
        for at in &process.asked {
            let within = |other: &&Timestamp| **other >= *at && other.since(*at) < Duration::from_secs(2);
            // Three attempts, and one more for each scope whose exchange Entra calls stale, or whose assertion lives for a moment.
            let calls = process.asked.iter().filter(within).count();
            assert!(calls <= 3 + 2 * scopes, "seed {seed}: {calls} calls in two seconds");
        }
    }
}

#[test]
fn only_a_worker_that_serves_requests_shares_that_a_source_is_unreachable() {
    let process = Workers::new(1, 1, 1, Services::Good);
    let source = process.specs[0].assertion();
    let file = text(200, process.jwt("sub", "api", 3600));
    let issued = answer(200, &json!({"access_token": process.jwt("jti", "1", 300), "expires_in": 300}));
    // Whether the source's first shared answer is a token.
    let shared = |serves_requests: bool, reply: &CallResult| {
        let (store, spec) = (MemoryStore::default(), &process.specs[0]);
        let mut worker = Worker::new(WorkerId(7), QueueId(0), Limits::default());
        if serves_requests {
            worker.get(spec, RequiredLifetime::Any, StreamId(1), START, &store);
        } else {
            worker.keep_warm(&process.specs, START);
        }
        let mut now = START;
        let mut effects = worker.poll(spec.key(), now, &store);
        for _ in 0..8 {
            if let Some(answer) = store.read_source(source).answer(source, None, now) {
                return Some(answer.is_ok());
            }
            let calls = effects.iter().find_map(|effect| match effect {
                Effect::Call(purpose @ Purpose::Assertion(_), call) => Some((purpose.clone(), call.cluster == "sts")),
                _ => None,
            });
            effects = if let Some((purpose, is_source)) = calls {
                let reply = if is_source { reply } else { &file };
                worker.call_finished(&purpose, reply.clone(), now, &store)
            } else {
                now = worker.next_due()?;
                worker.tick(now, &store)
            };
        }
        None
    };
    assert_eq!([true, false].map(|serves| shared(serves, &issued)), [Some(true), Some(true)]);
    assert_eq!([true, false].map(|serves| shared(serves, &no_answer())), [Some(false), None]);
}
