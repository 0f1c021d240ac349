//! All scenarios with the release module in the workspace's own proxy-wasm host, whose clock the test advances.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod caught;
mod in_process;
// Only the Envoy tests use the fields for Envoy versions and the volume's layout.
#[allow(dead_code)]
mod scenarios;
mod sidecar;
mod sources;

use std::cell::Cell;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use fake_entra::{Directory, Disconnect};
use in_process::{InProcessHost, MAX_WAIT, Surroundings, local_reply, received, upstream};
use scenarios::{Scenario, TestHost};
use sources::{FakeSource, SourceScenario};
use stack::AUDIENCE;
use wasm_host::{Callout, Host, StreamState};

fn main() -> ExitCode {
    in_process::run::<WasmHost>()
}

/// Runs scenarios on the workspace's own proxy-wasm host.
///
/// It differs from Envoy by design:
///
/// - Time advances only when the host is idle: a response takes no time, unless a fault adds a delay.
/// - A setup's volume layout has no effect: the federated token is in memory, and a rotation takes effect at once.
/// - There are no connections, no TLS, no HTTP parsing, and no routing except by host, so an upstream receives the headers
///   that the filter forwards and those that Envoy always adds.
/// - Concurrent requests are distributed over the workers in turn and arrive one after the other.
struct WasmHost {
    host: Host,
    surroundings: Surroundings,
    next_worker: Cell<usize>,
}

const WORKERS: usize = 2;

impl WasmHost {
    /// Replaces the federated token with one for this audience.
    fn write_token(&self, audience: &str) {
        self.surroundings.project(audience, self.host.wall_clock());
    }

    /// Sends requests concurrently, to the workers in turn, and waits for their responses.
    fn send(&self, requests: &[stack::Request], to: &str) -> Vec<StreamState> {
        let streams: Vec<_> = requests
            .iter()
            .map(|request| {
                let worker = self.next_worker.replace(self.next_worker.get() + 1) % WORKERS;
                let request = wasm_host::Request::new(received(request)).to(to);
                self.host.worker(worker).request(request)
            })
            .collect();
        let deadline = self.host.now() + MAX_WAIT;
        self.serve();
        while streams.iter().any(|stream| stream.state() == StreamState::Paused) {
            let next = self.host.next_timer().filter(|next| *next <= deadline);
            let next = next.unwrap_or_else(|| panic!("no response:\n{}", self.host.log_text()));
            self.host.advance(next.saturating_sub(self.host.now()));
            self.serve();
        }
        for stream in &streams {
            stream.end();
        }
        streams.iter().map(wasm_host::Stream::state).collect()
    }

    /// Responds to all calls, including those that follow from a response.
    fn serve(&self) {
        sidecar::simple::serve(&self.host, |call| self.answer(call));
    }

    fn answer(&self, call: &Callout) {
        match call.cluster.as_str() {
            sidecar::TOKEN_CLUSTER => {
                let body = self.surroundings.federated_token();
                self.host.respond(call, wasm_host::Response::new(200, body));
            }
            sidecar::ENTRA_CLUSTER | sidecar::ENTRA_AGAIN_CLUSTER | sources::CLUSTER => {
                let header = |name: &str| call.headers.text(name).unwrap();
                let now = self.host.wall_clock();
                let answer = if call.cluster == sources::CLUSTER {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    let headers = call.headers.iter().map(|(name, value)| match name {
                        b":authority" => ("host".to_owned(), text(value)),
                        name => (text(name), text(value)),
                    });
                    let (method, path) = (header(":method"), header(":path"));
                    self.surroundings.source_request(&method, &path, headers, &call.body, now)
                } else {
                    let id = call.headers.text("client-request-id");
                    let (authority, path) = (header(":authority"), header(":path"));
                    self.surroundings.token_request(&authority, &path, &call.body, id.as_deref(), now)
                };
                match answer.disconnect {
                    Some(Disconnect::Reset) => self.host.respond(call, wasm_host::Response::unreachable()),
                    Some(Disconnect::Truncate) => self.host.abort_response(call),
                    None => {
                        let response = wasm_host::Response::new(answer.status, answer.body);
                        let response = answer
                            .headers
                            .iter()
                            .fold(response, |response, (name, value)| response.header(name, value));
                        self.host.respond_after(call, answer.delay, response);
                    }
                }
            }
            other => panic!("unexpected call to the cluster {other}"),
        }
    }
}

impl InProcessHost for WasmHost {
    fn start(scenario: &Scenario) -> Self {
        let setup = &scenario.setup;
        let mut builder = sidecar::builder(&sidecar::module()).workers(WORKERS).started_at(SystemTime::now());
        if let Some(configuration) = setup.configuration {
            builder = builder.configuration(configuration().to_string());
        }
        if let Some(name) = setup.unset_variable {
            builder = builder.without_variable(name);
        }
        let host = builder.start().unwrap_or_else(|error| panic!("{error}"));
        let world = Self { host, surroundings: Surroundings::new(), next_worker: Cell::new(0) };
        world.write_token(setup.audience);
        world
    }

    fn start_with_source(scenario: &SourceScenario) -> Self {
        let surroundings = Surroundings::with_source(scenario);
        let source = surroundings.source.as_ref().unwrap();
        let mut builder = sidecar::builder(&sidecar::module()).workers(WORKERS).started_at(SystemTime::now());
        builder = builder.configuration(source.configuration().to_string()).cluster(sources::CLUSTER);
        for (name, value) in &source.variables {
            builder = builder.without_variable(name).variable(name, value);
        }
        let host = builder.start().unwrap_or_else(|error| panic!("{error}"));
        let audience = source.projected_audience.clone();
        let world = Self { host, surroundings, next_worker: Cell::new(0) };
        world.write_token(&audience);
        world
    }

    fn source(&self) -> FakeSource {
        self.surroundings.source.clone().unwrap()
    }

    fn log(&self) -> String {
        self.host.log_text()
    }

    fn check_log(&self) {
        let log = self.log();
        for unexpected in ["restricted", "panicked", "Function: proxy_on", "eyJ", "wasi_unstable"] {
            assert!(!log.contains(unexpected), "{unexpected:?} in the log:\n{log}");
        }
    }
}

impl TestHost for WasmHost {
    fn outbound(&self, requests: &[stack::Request]) -> Vec<stack::Response> {
        let outcomes = self.send(requests, "127.0.0.1:15001");
        let answered = requests.iter().zip(outcomes);
        answered
            .map(|(request, outcome)| match outcome {
                StreamState::Forwarded(passed) => upstream(&passed.headers, request.body().map_or(0, <[u8]>::len)),
                other => reply(other),
            })
            .collect()
    }

    fn imds(&self, request: &stack::Request) -> stack::Response {
        match self.send(std::slice::from_ref(request), sidecar::IMDS_ADDRESS).remove(0) {
            // The listener's only route answers 404.
            StreamState::Forwarded(_) => stack::Response { status: 404, headers: Vec::new(), body: Vec::new() },
            other => reply(other),
        }
    }

    fn entra(&self) -> Directory {
        self.surroundings.entra.clone()
    }

    fn rotate(&self) {
        self.write_token(AUDIENCE);
    }

    /// Also answers the calls that the filter makes in this time: an exchange for the next token begins while no request needs it.
    fn advance(&self, time: Duration) {
        let end = self.host.now() + time;
        self.serve();
        while let Some(next) = self.host.next_timer().filter(|next| *next <= end) {
            self.host.advance(next.saturating_sub(self.host.now()));
            self.serve();
        }
        self.host.advance(end.saturating_sub(self.host.now()));
    }
}

fn reply(outcome: StreamState) -> stack::Response {
    match outcome {
        StreamState::LocalReply(reply) => local_reply(&reply),
        other => panic!("{other:?} is not a response"),
    }
}
