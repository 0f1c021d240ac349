//! Tests of the broker with several workers, a clock and shared data that the tests control.

mod admission;
mod credentials;
mod entries;
mod exchange;
mod failures;
mod form;
mod gauges;
mod life;
mod many;
mod readiness;
mod reading;
mod reject;
mod shown;
mod sources;
mod stores;
mod unconnected;
mod worker;

use std::cell::RefCell;
use std::collections::HashMap;

use serde_json::json;

use super::store::{self, EMPTY, Entry, Failure, Lease, PREFIX, Update};
use super::vocabulary::{FORCED_PERIOD, GRACE_PERIOD, IMMEDIATE_RETRY_DELAY, READING_PERIOD};
use super::*;
use crate::assertion::Source;
use crate::assertion::tests::{claims, jwt};
use crate::entra::tests_support::spec;
use crate::entra::{RetryClass, TokenSpecParts};
use crate::event::Event;
use crate::http::{CallResponse, HttpCall};
use crate::metrics::Measurement;
use crate::problem::{Code, Problem};
use worker::{Effect, Worker};

pub(super) const START: Timestamp = Timestamp::from_unix_seconds(1_795_334_000);

/// The timeout of a read of the federated token, and the delay before a file without a JWT is read a second time.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
const PARTIAL_FILE_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A store in shared data with the semantics of Envoy's.
type Shared = Shelves<Memory>;

/// Envoy's shared data.
#[derive(Default)]
pub(super) struct Memory {
    values: RefCell<HashMap<String, (Vec<u8>, u32)>>,
    sets: RefCell<u32>,
    gets: RefCell<u32>,
}

impl Shared {
    /// The values of the shelves of tokens, without those of credentials, whose number the configuration bounds.
    fn shelves(&self) -> impl Iterator<Item = Vec<u8>> {
        let of_tokens = |name: &str| !name.contains("/credential/") && !name.ends_with("/sources");
        let values = self.memory.values.borrow().clone();
        values.into_iter().filter(move |(name, _)| of_tokens(name)).map(|(_, (value, _))| value)
    }

    /// The total size of all values.
    fn bytes(&self) -> usize {
        self.memory.values.borrow().values().map(|(value, _)| value.len()).sum()
    }
}

impl SharedData for Memory {
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)> {
        *self.gets.borrow_mut() += 1;
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

/// An empty store of each kind.
fn stores() -> [Box<dyn Store>; 2] {
    let shelves = Shared::default();
    shelves.prepare();
    [Box::new(shelves), Box::new(MemoryStore::default())]
}

/// Two workers of one process.
struct Process {
    shared: Shared,
    workers: [Worker; 2],
    spec: Arc<TokenSpec>,
    now: Timestamp,
    /// The lifetime of a federated token in seconds. By default no token is so old that it is read again.
    federated_lifetime: u64,
    /// How often the time has advanced.
    steps: u32,
}

#[derive(Debug, PartialEq)]
enum Observed {
    Read,
    EndpointCall,
    Wake(u32),
    Token(u32),
    Problem(u32, Code),
    Ready(u32),
}

fn observed(commands: Vec<Effect>) -> Vec<Observed> {
    commands
        .into_iter()
        .filter_map(|command| match command {
            Effect::Call(Purpose::Assertion(_), _) => Some(Observed::Read),
            Effect::Call(Purpose::Token(_), _) => Some(Observed::EndpointCall),
            Effect::Wake(QueueId(queue), _) => Some(Observed::Wake(queue)),
            Effect::Finish(StreamId(stream), Ok(_)) => Some(Observed::Token(stream)),
            Effect::Finish(StreamId(stream), Err(problem)) => Some(Observed::Problem(stream, problem.code)),
            Effect::FinishProbe(StreamId(stream), status) => Some(match status.outcome() {
                Ok(()) => Observed::Ready(stream),
                Err(problem) => Observed::Problem(stream, problem.code),
            }),
            Effect::Log(_) | Effect::Measure(_) | Effect::Nudge(_) => None,
        })
        .collect()
}

fn answer(status: u16, body: &serde_json::Value) -> CallResult {
    Ok(CallResponse {
        status,
        retry_after: None,
        request_id: None,
        grpc: None,
        body: body.to_string().into_bytes(),
        is_envoys_own: false,
    })
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

/// Creates a token spec of an identity and scope with these clusters of the token endpoint.
fn spec_of(identity: &str, scope: &str, clusters: &[&str], discard_before: Option<Timestamp>) -> Arc<TokenSpec> {
    let clusters: Vec<String> = clusters.iter().map(|cluster| (*cluster).to_owned()).collect();
    Arc::new(TokenSpec::new(&TokenSpecParts {
        identity,
        authority: &crate::authority::Authority::public(),
        tenant_id: "t",
        client_id: "c",
        scope,
        assertion: &crate::assertion::Source::File { cluster: "projected_token".to_owned() },
        clusters: &clusters,
        discard_before,
    }))
}

impl Process {
    fn new() -> Self {
        let shared = Shared::default();
        shared.prepare();
        let worker = |number: u32| Worker::new(WorkerId(u64::from(number) + 7), QueueId(number), Limits::default());
        Self {
            shared,
            workers: [worker(0), worker(1)],
            spec: Arc::new(spec()),
            now: START,
            federated_lifetime: 1_000_000_000,
            steps: 0,
        }
    }

    fn advance(&mut self, length: Duration) {
        self.now = self.now.plus(length);
        self.steps += 1;
        assert!(self.steps < 20_000, "what the test waits for does not happen");
    }

    /// Requests the token in a worker.
    fn request_token(&mut self, worker: usize, stream: u32) -> (TokenLookup, bool) {
        self.workers[worker].get(&self.spec, RequiredLifetime::Any, StreamId(stream), self.now, &self.shared)
    }

    fn pending(&mut self, worker: usize, stream: u32) {
        assert!(matches!(self.request_token(worker, stream).0, TokenLookup::Pending));
    }

    fn ready(&mut self, worker: usize) {
        assert!(matches!(self.request_token(worker, 999).0, TokenLookup::Ready(_)));
    }

    fn failed(&mut self, worker: usize) -> Problem {
        match self.request_token(worker, 999).0 {
            TokenLookup::Failed(problem) => problem,
            _ => panic!("a request that must fail does not"),
        }
    }

    fn poll(&mut self, worker: usize) -> Vec<Observed> {
        let key = self.spec.key();
        let mut commands = self.workers[worker].poll(key, self.now, &self.shared);
        commands.extend(self.workers[worker].tick(self.now, &self.shared));
        observed(commands)
    }

    /// Envoy's response with a federated token that is valid now.
    fn federated_token(&self) -> CallResult {
        let mut claims = claims();
        claims["nbf"] = json!(self.now.unix_seconds());
        claims["exp"] = json!(self.now.unix_seconds() + self.federated_lifetime);
        let body = jwt(&json!({"alg": "RS256"}), &claims).into_bytes();
        Ok(CallResponse { status: 200, retry_after: None, request_id: None, grpc: None, body, is_envoys_own: false })
    }

    fn assertion(&mut self, worker: usize) -> Vec<Observed> {
        let read = self.federated_token();
        self.assertion_answer(worker, read)
    }

    fn assertion_answer(&mut self, worker: usize, answer: CallResult) -> Vec<Observed> {
        observed(self.read(worker, answer))
    }

    fn endpoint(&mut self, worker: usize, answer: CallResult) -> Vec<Observed> {
        observed(self.called(worker, answer))
    }

    /// Gives a worker this answer of the token's source.
    fn read(&mut self, worker: usize, answer: CallResult) -> Vec<Effect> {
        let purpose = Purpose::Assertion(self.spec.assertion().clone());
        self.workers[worker].call_finished(&purpose, answer, self.now, &self.shared)
    }

    /// Gives a worker this response of the token endpoint.
    fn called(&mut self, worker: usize, answer: CallResult) -> Vec<Effect> {
        self.workers[worker].call_finished(&Purpose::Token(self.spec.key()), answer, self.now, &self.shared)
    }

    /// Begins the exchange of a worker, which reads the federated token unless it has read it less than a second ago.
    fn begin(&mut self, worker: usize) {
        if self.poll(worker) != [Observed::EndpointCall] {
            assert_eq!(self.assertion(worker), [Observed::EndpointCall]);
        }
    }

    /// Performs an exchange in a worker to which the token endpoint responds with `answer`.
    fn exchange(&mut self, worker: usize, stream: u32, answer: CallResult) -> Vec<Observed> {
        self.pending(worker, stream);
        self.begin(worker);
        self.endpoint(worker, answer)
    }

    /// Waits until the token is due, and refreshes it in this worker.
    fn refresh(&mut self, worker: usize) -> Vec<Observed> {
        self.advance(self.due_in(worker).unwrap());
        assert_eq!(self.poll(worker), [Observed::Read]);
        self.assertion(worker);
        self.endpoint(worker, token(3600))
    }

    /// Begins an exchange in this worker for a stream, and lets its lease expire without a response.
    fn stall(&mut self, worker: usize, stream: u32) {
        self.pending(worker, stream);
        self.poll(worker);
        self.assertion(worker);
        self.advance(Limits::default().exchange + GRACE_PERIOD);
    }

    fn due_in(&self, worker: usize) -> Option<Duration> {
        self.workers[worker].next_due().map(|due| due.since(self.now))
    }
}
