//! Callers that request arbitrary resources: their cost is bounded, and no other caller waits because of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use entra_exchange_core::assertion::Source;
use entra_exchange_core::authority::Authority;
use entra_exchange_core::broker::{
    Limits, QueueId, RejectedToken, RequiredLifetime, SharedData, Shelves, Store, StreamId, TokenLookup,
    UnlistedLimits, WorkerId,
};
use entra_exchange_core::config::Config;
use entra_exchange_core::configuration_status::ConfigurationStatus;
use entra_exchange_core::engine::{CallId, Driver, Finished, Host, MetricId};
use entra_exchange_core::entra::{TokenSpec, TokenSpecParts};
use entra_exchange_core::event::{Event, Level};
use entra_exchange_core::http::{CallFailure, CallResponse, CallResult, HttpCall};
use entra_exchange_core::metrics::Kind;
use entra_exchange_core::problem::Code;
use entra_exchange_core::status_page::{Build, Format, StatusPage};
use entra_exchange_core::time::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::worker::{TENANT, jwt, response};

const WORKERS: usize = 2;

/// Small limits, so that a short run reaches each of them.
const UNLISTED: UnlistedLimits = UnlistedLimits { scopes: 6, new_per_minute: 10, parallel_exchanges: 2 };
const LIMITS: Limits = Limits {
    exchange: Duration::from_secs(10),
    wait: Duration::from_secs(15),
    waiting: 40,
    identities: 1,
    unlisted: UNLISTED,
};

const MINUTE: Duration = Duration::from_secs(60);

/// The maximum length of a resource, which the scope is derived from. A longer one is rejected earlier.
const LONGEST_RESOURCE: usize = 1024;

/// The maximum size of a token's entry in shared data: the scope three times (entry, problem, detail of the problem), the
/// problem's other texts, and the token.
const ENTRY: usize = 3 * (LONGEST_RESOURCE + 10) + 3_000;

/// The maximum size of a credential's entry in shared data: the key and times of each scope, the times of new scopes, the
/// waiting workers, and one problem each for refusal and throttling.
const CREDENTIAL: usize = 4_000 + 2 * ENTRY + UNLISTED.scopes * 400 + UNLISTED.new_per_minute * 20;

/// The response of the endpoint for a scope.
#[derive(Clone, Copy, Debug)]
enum Comes {
    Token,
    Refusal,
    Outage,
    Throttled,
    Nothing,
}

/// A caller's request for a resource.
#[derive(Clone, Debug)]
struct CallInProgress {
    /// The time after the previous request, in milliseconds.
    after: u64,
    worker: usize,
    resource: usize,
    need: RequiredLifetime,
    /// The token that the caller rejects (`bypass_cache`, `token_sha256_to_refresh`).
    rejected: Option<RejectedToken>,
    /// The number of identical requests at the same time.
    times: u32,
    comes: Comes,
}

/// A value with the number of its version.
type Versioned = (Vec<u8>, u32);

#[derive(Clone, Default)]
struct Memory(Rc<RefCell<HashMap<String, Versioned>>>);

impl SharedData for Memory {
    fn get(&self, name: &str) -> Option<Versioned> {
        self.0.borrow().get(name).cloned()
    }

    fn set(&self, name: &str, value: &[u8], cas: Option<u32>) -> bool {
        let mut values = self.0.borrow_mut();
        let number = values.get(name).map_or(0, |(_, number)| *number);
        if cas.is_some_and(|cas| cas != number && number != 0) {
            return false;
        }
        values.insert(name.to_owned(), (value.to_vec(), number + 1));
        true
    }
}

enum Due {
    CallInProgress(CallInProgress),
    /// A request of the other identity's caller.
    Other(usize),
    /// A message to a worker.
    Message(usize, Vec<u8>),
    /// The response to a worker's call.
    Response(usize, CallId, CallResult),
}

/// Two workers and the process that they run in.
struct Pod {
    drivers: Vec<Driver>,
    process: Process,
}

/// The shared data, the events to come, and what was observed.
struct Process {
    memory: Memory,
    store: Shelves<Memory>,
    now: Timestamp,
    agenda: BTreeMap<(Timestamp, u64), Due>,
    numbers: u64,
    /// The responses for the scopes of the called identity.
    answers: HashMap<String, Comes>,
    /// The times at which requests of the other identity's caller began to wait.
    others: HashMap<StreamId, Timestamp>,
    /// The calls for scopes of the called identity that are in progress.
    exchanging: HashMap<CallId, String>,
    exchanges: usize,
    /// The times of the calls of the called identity's exchanges.
    calls: Vec<Timestamp>,
    lines: usize,
    line_bytes: usize,
    metrics: HashSet<String>,
    /// The highest values so far.
    most_keys: usize,
    most_bytes: usize,
    most_parallel: usize,
    longest_wait: Duration,
    new_scopes: Vec<Timestamp>,
    known: HashSet<String>,
}

/// The process from the view of one worker.
struct View<'a> {
    process: &'a mut Process,
    worker: usize,
}

impl Host for View<'_> {
    fn now(&self) -> Timestamp {
        self.process.now
    }

    fn store(&self) -> &dyn Store {
        &self.process.store
    }

    fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure> {
        let process = &mut *self.process;
        let id = CallId(process.number() as u32);
        let (after, response) = if call.cluster == FILE {
            let claims = json!({"iss": "i", "sub": "s", "aud": "a", "exp": u64::MAX});
            (1, Ok(response(200, jwt(&json!({"alg": "RS256"}), &claims))))
        } else {
            process.token(id, call)
        };
        process.put(after, Due::Response(self.worker, id, response));
        Ok(id)
    }

    fn wake(&mut self, QueueId(queue): QueueId, message: &[u8]) {
        let after = u64::from(queue as usize != self.worker);
        self.process.put(after, Due::Message(queue as usize, message.to_vec()));
    }

    fn set_timer(&mut self, _: Option<Duration>) {}

    fn log(&mut self, event: &Event) {
        self.process.lines += 1;
        self.process.line_bytes = self.process.line_bytes.max(event.to_string().len());
    }

    fn metric(&mut self, _: Kind, name: &str) -> Option<MetricId> {
        self.process.metrics.insert(name.to_owned());
        None
    }
}

fn spec(client_id: &str, resource: &str) -> TokenSpec {
    TokenSpec::new(&TokenSpecParts {
        identity: if client_id == CALLED { "called" } else { "other" },
        authority: &Authority::public(),
        tenant_id: TENANT,
        client_id,
        scope: &format!("{resource}/.default"),
        assertion: &Source::File { cluster: FILE.to_owned() },
        clusters: &["entra".to_owned()],
        discard_before: None,
    })
}

const FILE: &str = "projected_token";
const CALLED: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const OTHER: &str = "bbbbbbbb-0000-4000-8000-000000000002";

/// A resource that a caller requests. Every third one has the maximum length.
fn resource(number: usize) -> String {
    let start = format!("api://{number}-");
    if number.is_multiple_of(3) { format!("{start}{}", "x".repeat(LONGEST_RESOURCE - start.len())) } else { start }
}

impl Process {
    fn new() -> Self {
        let (memory, now) = (Memory::default(), Timestamp::from_unix_seconds(1_795_334_000));
        let store = Shelves::new(memory.clone());
        store.prepare();
        Self {
            memory,
            store,
            now,
            agenda: BTreeMap::new(),
            numbers: 0,
            answers: HashMap::new(),
            others: HashMap::new(),
            exchanging: HashMap::new(),
            exchanges: 0,
            calls: Vec::new(),
            lines: 0,
            line_bytes: 0,
            metrics: HashSet::new(),
            most_keys: 0,
            most_bytes: 0,
            most_parallel: 0,
            longest_wait: Duration::ZERO,
            new_scopes: Vec::new(),
            known: HashSet::new(),
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn put(&mut self, after: u64, due: Due) {
        let number = self.number();
        self.agenda.insert((self.now.plus(Duration::from_millis(after)), number), due);
    }

    /// The token endpoint's response, and the time that it takes.
    fn token(&mut self, id: CallId, call: &HttpCall) -> (u64, CallResult) {
        let field = |name: &str| {
            let mut fields = form_urlencoded::parse(&call.body);
            fields.find(|(field, _)| field == name).map(|(_, value)| value.into_owned()).unwrap()
        };
        let scope = field("scope");
        if field("client_id") == OTHER {
            return (100, answer(Comes::Token, &scope, 0));
        }
        let comes = self.answers[&scope];
        self.exchanges += 1;
        self.calls.push(self.now);
        self.exchanging.insert(id, scope.clone());
        if self.known.insert(scope.clone()) {
            self.new_scopes.push(self.now);
        }
        let after = if matches!(comes, Comes::Nothing) { call.timeout.as_millis() as u64 } else { 100 };
        (after, answer(comes, &scope, self.exchanges))
    }
}

impl Pod {
    fn new() -> Self {
        let driver =
            |worker: usize| Driver::new(WorkerId(worker as u64 + 7), QueueId(worker as u32), LIMITS, Some(Level::Info));
        Self { drivers: (0..WORKERS).map(driver).collect(), process: Process::new() }
    }

    /// Processes all events and timers for this time.
    fn run(&mut self, duration: Duration) {
        let end = self.process.now.plus(duration);
        loop {
            let now = self.process.now;
            let timer = (0..WORKERS).filter_map(|worker| Some((self.drivers[worker].next_due(now)?, worker))).min();
            let event = self.process.agenda.keys().next().map(|(at, _)| *at);
            let (at, worker) = match (timer, event) {
                (Some((due, worker)), event) if event.is_none_or(|event| due < event) => (due, Some(worker)),
                (_, Some(event)) => (event, None),
                (None, None) => break,
                (Some((due, worker)), None) => (due, Some(worker)),
            };
            if at > end {
                break;
            }
            // A timer fires at least a millisecond after it is set.
            self.process.now = self.process.now.max(at);
            if let Some(worker) = worker {
                self.process.now = self.process.now.plus(Duration::from_millis(1));
                self.turn(worker, |driver, now, host| driver.timer(now, host));
            } else if let Some((_, due)) = self.process.agenda.pop_first() {
                self.handle(due);
            }
            self.measure();
        }
        self.process.now = end;
    }

    /// Passes an event to a worker, and finishes the requests whose wait has ended.
    fn turn(&mut self, worker: usize, event: impl FnOnce(&mut Driver, Timestamp, &mut View<'_>) -> Vec<Finished>) {
        let process = &mut self.process;
        let now = process.now;
        for finished in event(&mut self.drivers[worker], now, &mut View { process, worker }) {
            let Finished::Token(stream, outcome) = finished else { continue };
            if let Some(since) = self.process.others.remove(&stream) {
                assert_eq!(outcome.err(), None, "what the other identity's caller gets");
                self.process.longest_wait = self.process.longest_wait.max(now.since(since));
            }
        }
    }

    /// Requests a token in a worker.
    fn request(
        &mut self,
        worker: usize,
        spec: &Arc<TokenSpec>,
        need: RequiredLifetime,
        rejected: Option<RejectedToken>,
    ) -> (StreamId, TokenLookup) {
        let process = &mut self.process;
        let (now, stream) = (process.now, StreamId(process.number() as u32));
        let host = &mut View { process, worker };
        (stream, self.drivers[worker].request_token(spec, need, rejected, stream, now, host))
    }

    fn handle(&mut self, due: Due) {
        match due {
            Due::CallInProgress(call) => self.handle_call(&call),
            Due::Other(worker) => {
                let other = Arc::new(spec(OTHER, "https://vault.azure.net"));
                match self.request(worker, &other, RequiredLifetime::Any, None) {
                    (_, TokenLookup::Ready(_)) => {}
                    (stream, TokenLookup::Pending) => drop(self.process.others.insert(stream, self.process.now)),
                    (_, TokenLookup::Failed(problem)) => panic!("the other identity's caller gets {problem:?}"),
                }
            }
            Due::Message(worker, message) => {
                self.turn(worker, |driver, now, host| driver.woken(&[message], now, host));
            }
            Due::Response(worker, id, response) => {
                self.process.exchanging.remove(&id);
                self.turn(worker, |driver, now, host| driver.call_finished(id, response, now, host));
            }
        }
    }

    fn handle_call(&mut self, call: &CallInProgress) {
        let spec = Arc::new(spec(CALLED, &resource(call.resource)).unlisted());
        self.process.answers.insert(spec.scope().to_owned(), call.comes);
        for _ in 0..call.times {
            if let (_, TokenLookup::Failed(problem)) = self.request(call.worker, &spec, call.need, call.rejected)
                && problem.code == Code::TooManyScopes
            {
                let wait = problem.retry_after.unwrap();
                assert!(wait > Duration::ZERO && wait <= Duration::from_secs(60), "{wait:?}");
            }
        }
    }

    fn measure(&mut self) {
        let process = &mut self.process;
        process.most_keys = process.most_keys.max(self.drivers.iter().map(Driver::keys).max().unwrap());
        let values = process.memory.0.borrow();
        process.most_bytes = process.most_bytes.max(values.values().map(|(value, _)| value.len()).sum());
        let exchanging: HashSet<&String> = process.exchanging.values().collect();
        process.most_parallel = process.most_parallel.max(exchanging.len());
    }
}

/// The access token that the endpoint issues in the exchange with this number.
fn access_token(number: usize) -> String {
    format!("abc{number}")
}

fn answer(comes: Comes, scope: &str, number: usize) -> CallResult {
    let refusal = |code: u32| {
        // Entra's description contains the unknown resource.
        let text = format!("AADSTS{code}: The resource principal named {scope} was not found");
        json!({"error": "invalid_resource", "error_description": text, "error_codes": [code]}).to_string()
    };
    Ok(match comes {
        Comes::Token => {
            let token = access_token(number);
            response(200, json!({"token_type": "Bearer", "expires_in": 3600, "access_token": token}).to_string())
        }
        Comes::Refusal => response(400, refusal(500_011)),
        Comes::Outage => response(503, "<html>"),
        Comes::Throttled => response(429, refusal(50_196)),
        Comes::Nothing => CallResponse { is_envoys_own: true, ..response(504, "upstream request timeout") },
    })
}

fn calls() -> impl Strategy<Value = Vec<CallInProgress>> {
    let comes =
        prop::sample::select(&[Comes::Token, Comes::Refusal, Comes::Outage, Comes::Throttled, Comes::Nothing][..]);
    let after = prop_oneof![3 => Just(0_u64), 3 => 0..300_u64, 1 => 0..20_000_u64];
    let need = prop_oneof![Just(RequiredLifetime::Any), Just(RequiredLifetime::FiveMinutes)];
    let rejected = prop_oneof![
        3 => Just(None),
        2 => Just(Some(RejectedToken::Cached)),
        1 => (1..40_usize).prop_map(|number| Some(RejectedToken::Digest(Sha256::digest(access_token(number)).into()))),
    ];
    // Few resources for callers that repeat their requests, and many for those that do not.
    let resource = prop_oneof![2 => 0..60_usize, 1 => 0..4_usize];
    let call = (after, 0..WORKERS, resource, need, rejected, prop_oneof![4 => Just(1_u32), 1 => 1..60_u32], comes)
        .prop_map(|(after, worker, resource, need, rejected, times, comes)| CallInProgress {
            after,
            worker,
            resource,
            need,
            rejected,
            times,
            comes,
        });
    prop::collection::vec(call, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_cost_of_any_requests_is_bounded_and_no_other_caller_waits_because_of_them(calls in calls()) {
        let mut pod = Pod::new();
        let mut at = 0;
        for call in calls {
            at += call.after;
            if call.rejected.is_some() {
                // A caller that rejects one token after the other, once a second.
                for second in 0..u64::from(call.times) {
                    pod.process.put(at + 1000 * second, Due::CallInProgress(CallInProgress { times: 1, ..call.clone() }));
                }
            } else {
                pod.process.put(at, Due::CallInProgress(call));
            }
        }
        for number in 0..10 {
            pod.process.put(number * at / 10, Due::Other(number as usize % WORKERS));
        }
        pod.run(Duration::from_secs(180).saturating_add(Duration::from_millis(at)));

        let pod = pod.process;
        // Keys that requests wait for are kept in addition to the budget, and one key is the other identity's.
        let waited_for = UNLISTED.new_per_minute * (LIMITS.wait.as_secs() as usize).div_ceil(60);
        let most_keys = UNLISTED.scopes + waited_for + 1;
        prop_assert!(pod.most_keys <= most_keys, "{} keys in a worker, more than {most_keys}", pod.most_keys);
        let most_bytes = 600 + (UNLISTED.scopes + waited_for + 1) * ENTRY + 2 * CREDENTIAL;
        prop_assert!(pod.most_bytes <= most_bytes, "{} bytes are shared, more than {most_bytes}", pod.most_bytes);
        prop_assert!(pod.most_parallel <= UNLISTED.parallel_exchanges, "{} exchanges at a time", pod.most_parallel);
        // A scope that was admitted but not exchanged while its caller waited may be exchanged later.
        let most_new = UNLISTED.new_per_minute + UNLISTED.scopes;
        for from in &pod.new_scopes {
            let within = pod.new_scopes.iter().filter(|at| *at >= from && at.since(*from) < MINUTE).count();
            prop_assert!(within <= most_new, "{within} new scopes are exchanged within a minute");
        }
        // The names of metrics do not depend on scopes.
        prop_assert!(pod.metrics.iter().all(|name| !name.contains("api:")), "{:?}", pod.metrics);
        prop_assert!(pod.metrics.len() <= 20, "{} metrics", pod.metrics.len());
        // In a minute, each new scope is exchanged once, each kept one twice because callers reject its token and about once because an
        // exchange failed; each exchange has up to two attempts.
        let most_calls = 2 * (UNLISTED.new_per_minute + 3 * UNLISTED.scopes);
        for from in &pod.calls {
            let within = pod.calls.iter().filter(|at| *at >= from && at.since(*from) < MINUTE).count();
            prop_assert!(within <= most_calls, "{within} calls within a minute");
        }
        // A line for each exchange, and one for each rejected token, which causes an exchange.
        prop_assert!(pod.lines <= 2 * pod.exchanges + 10, "{} lines, {} exchanges", pod.lines, pod.exchanges);
        prop_assert!(pod.line_bytes <= ENTRY, "a line of {} bytes", pod.line_bytes);
        // The other identity's caller waits only for its own exchange: 1 ms, 100 ms, and the wake-ups.
        prop_assert!(pod.longest_wait <= Duration::from_millis(110), "the other caller waits {:?}", pod.longest_wait);
        prop_assert!(pod.others.is_empty(), "the other caller still waits");
        let configuration = Config::parse(br#"{"managed_identity": {"imds": {}}}"#, &|_| None).unwrap();
        let configuration = ConfigurationStatus::new(&configuration);
        let build = Build { version: "1", commit: "c" };
        let page =
            StatusPage { build, configuration: &configuration, now: pod.now, store: &pod.store, waiting: &|_| usize::MAX };
        for format in [Format::Json, Format::Html] {
            let page = page.reply(format).body.len();
            prop_assert!(page <= most_bytes, "a page of {page} bytes as {format:?}");
        }
    }
}
