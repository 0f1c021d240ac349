//! The engine without WebAssembly: every scenario in a native process with threads, one lock, one broker for all of them, and a
//! timer that fires once. Envoy's dynamic modules have this shape.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod caught;
mod in_process;
// Only the Envoy tests use the fields for Envoy versions and the volume's layout.
#[allow(dead_code)]
mod scenarios;
mod sidecar;
mod sources;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use entra_exchange_core::broker::{MemoryStore, QueueId, Store, StreamId};
use entra_exchange_core::engine::{CallId, Engine, Flow, Host, HttpHost};
use entra_exchange_core::event::Event;
use entra_exchange_core::http::{CallFailure, CallResponse, HttpCall, Reply};
use entra_exchange_core::request::{self, RequestSource};
use entra_exchange_core::sent::SentTokens;
use entra_exchange_core::status_page::Build;
use entra_exchange_core::time::Timestamp;
use fake_entra::{Directory, Disconnect};
use in_process::{InProcessHost, MAX_WAIT, Surroundings, local_reply, received, upstream};
use scenarios::{Scenario, TestHost};
use sources::{FakeSource, SourceScenario};
use stack::{AUDIENCE, LISTED_HOST};
use wasm_host::Headers;

fn main() -> ExitCode {
    in_process::run::<NativeHost>()
}

/// A process in which any thread may have a request. Time passes only when nothing else can happen.
struct NativeHost(Mutex<Worker>);

struct Worker {
    engine: Engine,
    process: Process,
}

/// What the process has besides the engine.
struct Process {
    surroundings: Surroundings,
    started_at: SystemTime,
    /// The time since then.
    now: Duration,
    store: MemoryStore,
    sent: SentTokens,
    streams: HashMap<StreamId, Stream>,
    last_stream: u32,
    /// The results of calls, by when they come.
    results: BTreeMap<(Duration, u32), CallResponse>,
    last_call: u32,
    messages: Vec<Vec<u8>>,
    timer: Option<Duration>,
    log: Vec<String>,
}

/// One request.
struct Stream {
    headers: Headers,
    destination_address: &'static str,
    end: Option<End>,
}

impl RequestSource for Stream {
    fn authority(&self) -> Option<Cow<'_, [u8]>> {
        self.headers.get(":authority").map(Cow::Borrowed)
    }

    fn has_header(&self, name: &str) -> bool {
        self.headers.get(name).is_some()
    }

    fn headers(&self) -> Cow<'_, request::Headers> {
        let mut headers = request::Headers::default();
        for (name, value) in self.headers.iter() {
            headers.push(std::str::from_utf8(name).unwrap(), value);
        }
        Cow::Owned(headers)
    }

    fn cluster_name(&self) -> Option<Cow<'_, str>> {
        let is_listed = self.headers.text(":authority").as_deref() == Some(LISTED_HOST);
        Some(Cow::Borrowed(if is_listed { sidecar::LISTED_CLUSTER } else { "elsewhere" }))
    }

    fn attempt(&self) -> Option<u64> {
        None
    }

    fn upstream_is_established(&self) -> bool {
        false
    }

    fn upstream_tls(&self) -> bool {
        false
    }

    fn peer_uri(&self) -> Option<Cow<'_, str>> {
        None
    }

    fn destination_address(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.destination_address.as_bytes()))
    }
}

/// How a request ended.
#[derive(Clone)]
enum End {
    Forwarded,
    Replied(wasm_host::Reply),
}

impl Process {
    fn wall_clock(&self) -> SystemTime {
        self.started_at + self.now
    }

    fn stream(&mut self, stream: StreamId) -> &mut Stream {
        self.streams.get_mut(&stream).unwrap()
    }

    /// The result of a call, and when it comes.
    fn result(&self, call: &HttpCall) -> (Duration, CallResponse) {
        if call.cluster == sidecar::TOKEN_CLUSTER {
            let token = self.surroundings.federated_token();
            return (Duration::ZERO, made(200, token.into_bytes()));
        }
        let now = self.wall_clock();
        let answer = if call.cluster == sources::CLUSTER {
            let headers = call.headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            let headers = std::iter::once(("host".to_owned(), call.authority.clone())).chain(headers);
            self.surroundings.source_request(call.method, &call.path, headers, &call.body, now)
        } else {
            self.surroundings.token_request(&call.authority, &call.path, &call.body, None, now)
        };
        if answer.delay > call.timeout {
            return (call.timeout, made(504, Vec::new()));
        }
        let response = match answer.disconnect {
            Some(Disconnect::Reset) => made(503, Vec::new()),
            Some(Disconnect::Truncate) => CallResponse::broken_off(),
            None => {
                let header = |name: &str| match name {
                    ":status" => Some(answer.status.to_string().into_bytes()),
                    name => {
                        let mut named = answer.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
                        named.next().map(|(_, value)| value.clone().into_bytes())
                    }
                };
                CallResponse::new(header, answer.body.clone())
            }
        };
        (answer.delay, response)
    }
}

impl Host for Process {
    fn now(&self) -> Timestamp {
        Timestamp::default().plus(self.wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap())
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure> {
        const KNOWN: [&str; 4] =
            [sidecar::TOKEN_CLUSTER, sidecar::ENTRA_CLUSTER, sidecar::ENTRA_AGAIN_CLUSTER, sources::CLUSTER];
        if !KNOWN.contains(&call.cluster.as_str()) {
            return Err(CallFailure::NoSuchCluster);
        }
        self.last_call += 1;
        let (delay, response) = self.result(call);
        self.results.insert((self.now + delay, self.last_call), response);
        Ok(CallId(self.last_call))
    }

    fn wake(&mut self, _: QueueId, message: &[u8]) {
        self.messages.push(message.to_vec());
    }

    fn set_timer(&mut self, after: Option<Duration>) {
        self.timer = after.map(|after| self.now + after);
    }

    fn log(&mut self, event: &Event) {
        self.log.push(event.to_string());
    }
}

impl HttpHost for Process {
    fn request(&self, stream: StreamId) -> Option<&dyn RequestSource> {
        self.streams.get(&stream).map(|stream| stream as &dyn RequestSource)
    }

    fn response_status(&self, _: StreamId) -> Option<u16> {
        Some(200)
    }

    fn set_header(&mut self, stream: StreamId, name: &str, value: Option<&str>) {
        let headers = &mut self.stream(stream).headers;
        match value {
            Some(value) => headers.replace(name, value),
            None => headers.remove(name),
        }
    }

    fn set_filter_state(&mut self, _: StreamId, _: &str, _: &str) {}

    fn clear_route_cache(&mut self, _: StreamId) {}

    fn reply(&mut self, stream: StreamId, reply: &Reply, _: &str) {
        let headers = reply.headers.iter().map(|(name, value)| (name, value.as_bytes()));
        let reply = wasm_host::Reply { status: reply.status, headers: Headers::new(headers), body: reply.body.clone() };
        let stream = self.stream(stream);
        stream.end = Some(End::Replied(reply.for_client(&stream.headers)));
    }

    fn resume(&mut self, stream: StreamId) {
        self.stream(stream).end = Some(End::Forwarded);
    }

    fn sent(&self) -> &SentTokens {
        &self.sent
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        None
    }

    fn random(&mut self) -> u64 {
        7
    }

    fn register_queue(&mut self, _: &str) -> QueueId {
        QueueId(0)
    }
}

impl Worker {
    /// A request arrives.
    fn begin(&mut self, request: &stack::Request, destination_address: &'static str) -> StreamId {
        self.process.last_stream += 1;
        let id = StreamId(self.process.last_stream);
        let stream = Stream { headers: received(request), destination_address, end: None };
        self.process.streams.insert(id, stream);
        if self.engine.request(id, &mut self.process) == Flow::Continue {
            self.process.resume(id);
        }
        id
    }

    /// Hands everything in that has happened by now.
    fn settle(&mut self) {
        let Self { engine, process } = self;
        loop {
            let messages = std::mem::take(&mut process.messages);
            let due = process.results.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= process.now);
            if !messages.is_empty() {
                engine.woken(&messages, process);
            } else if let Some(key) = due {
                let response = process.results.remove(&key).unwrap();
                engine.call_finished(CallId(key.1), Ok(response), process);
            } else if process.timer.take_if(|at| *at <= process.now).is_some() {
                engine.timer(process);
            } else {
                return;
            }
        }
    }

    /// When something happens next by itself.
    fn next(&self) -> Option<Duration> {
        let result = self.process.results.first_key_value().map(|((at, _), _)| *at);
        result.into_iter().chain(self.process.timer).min()
    }

    /// Lets time pass until then.
    fn run_until(&mut self, end: Duration) {
        self.settle();
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.process.now = next.max(self.process.now);
            self.settle();
        }
        self.process.now = end;
    }
}

impl NativeHost {
    fn start_in(surroundings: Surroundings, audience: &str, unset_variable: Option<&str>, text: &str) -> Self {
        let mut process = Process {
            surroundings,
            started_at: SystemTime::now(),
            now: Duration::ZERO,
            store: MemoryStore::default(),
            sent: SentTokens::default(),
            streams: HashMap::new(),
            last_stream: 0,
            results: BTreeMap::new(),
            last_call: 0,
            messages: Vec::new(),
            timer: None,
            log: Vec::new(),
        };
        process.surroundings.project(audience, process.started_at);
        let of_source = process.surroundings.source.iter().flat_map(|source| source.variables.clone());
        let variables = sidecar::variables().into_iter().map(|(name, value)| (name, value.to_owned()));
        let variables: HashMap<String, String> = variables.chain(of_source).collect();
        let environment = |name: &str| variables.get(name).filter(|_| unset_variable != Some(name)).cloned();
        let build = Build { version: "native", commit: "test" };
        let engine = Engine::configure(text.as_bytes(), &environment, build, &mut process);
        let engine = engine.unwrap_or_else(|| panic!("rejected: {:?}", process.log));
        Self(Mutex::new(Worker { engine, process }))
    }

    fn worker(&self) -> MutexGuard<'_, Worker> {
        self.0.lock().unwrap()
    }

    /// Sends requests at once, each on a thread of its own, and waits for how they end.
    fn send(&self, requests: &[stack::Request], address: &'static str) -> Vec<(Headers, End)> {
        let streams: Vec<StreamId> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                requests.iter().map(|request| scope.spawn(|| self.worker().begin(request, address))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut worker = self.worker();
        let deadline = worker.process.now + MAX_WAIT;
        worker.settle();
        while streams.iter().any(|stream| worker.process.streams[stream].end.is_none()) {
            let next = worker.next().filter(|next| *next <= deadline);
            let next = next.unwrap_or_else(|| panic!("no response:\n{}", worker.process.log.join("\n")));
            worker.run_until(next);
        }
        let Worker { engine, process } = &mut *worker;
        streams
            .into_iter()
            .map(|id| {
                if matches!(process.streams[&id].end, Some(End::Forwarded)) {
                    engine.response(id, process);
                }
                engine.stream_gone(id, process);
                let stream = process.streams.remove(&id).unwrap();
                (stream.headers, stream.end.unwrap())
            })
            .collect()
    }
}

impl InProcessHost for NativeHost {
    fn start(scenario: &Scenario) -> Self {
        let setup = &scenario.setup;
        let text = setup.configuration.map_or_else(sidecar::configuration, |configuration| configuration().to_string());
        Self::start_in(Surroundings::new(), setup.audience, setup.unset_variable, &text)
    }

    fn start_with_source(scenario: &SourceScenario) -> Self {
        let surroundings = Surroundings::with_source(scenario);
        let source = surroundings.source.as_ref().unwrap();
        let (text, audience) = (source.configuration().to_string(), source.projected_audience.clone());
        Self::start_in(surroundings, &audience, None, &text)
    }

    fn source(&self) -> FakeSource {
        self.worker().process.surroundings.source.clone().unwrap()
    }

    fn log(&self) -> String {
        self.worker().process.log.join("\n")
    }

    fn check_log(&self) {
        let log = self.log();
        assert!(!log.contains("eyJ"), "a token in the log:\n{log}");
    }
}

impl TestHost for NativeHost {
    fn outbound(&self, requests: &[stack::Request]) -> Vec<stack::Response> {
        let ends = self.send(requests, "127.0.0.1:15001");
        let answered = requests.iter().zip(ends);
        answered
            .map(|(request, (headers, end))| match end {
                End::Forwarded => upstream(&headers, request.body().map_or(0, <[u8]>::len)),
                End::Replied(reply) => local_reply(&reply),
            })
            .collect()
    }

    fn imds(&self, request: &stack::Request) -> stack::Response {
        match self.send(std::slice::from_ref(request), sidecar::IMDS_ADDRESS).remove(0).1 {
            // The listener's only route.
            End::Forwarded => stack::Response { status: 404, headers: Vec::new(), body: Vec::new() },
            End::Replied(reply) => local_reply(&reply),
        }
    }

    fn entra(&self) -> Directory {
        self.worker().process.surroundings.entra.clone()
    }

    fn rotate(&self) {
        let worker = self.worker();
        worker.process.surroundings.project(AUDIENCE, worker.process.wall_clock());
    }

    fn advance(&self, time: Duration) {
        let mut worker = self.worker();
        let end = worker.process.now + time;
        worker.run_until(end);
    }
}

/// A response with no header but its status, as a file server or Envoy itself makes it.
fn made(status: u16, body: Vec<u8>) -> CallResponse {
    CallResponse::new(|name| (name == ":status").then(|| status.to_string().into_bytes()), body)
}
