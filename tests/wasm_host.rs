//! The module that ships, in the workspace's own proxy-wasm host: every scenario, on a clock that does not wait.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod caught;
// What only a real Envoy needs of a scenario, its versions and the volume's layout, is not read here.
#[allow(dead_code)]
mod scenarios;
mod sidecar;

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use caught::caught;
use fake_entra::{Directory, Disconnect, Issuer, TokenRequest};
use libtest_mimic::{Arguments, Trial};
use scenarios::{Scenario, World};
use serde_json::json;
use stack::{AUDIENCE, CLIENT_ID, ISSUER_URL, NAMESPACE, RESOURCES, SERVICE_ACCOUNT, TOKEN_LIFETIME};
use wasm_host::{Callout, Forwarded, Headers, Host, StreamState};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = scenarios::ALL.iter().map(|scenario| {
        Trial::test(scenario.name, move || {
            caught(|| {
                let world = WasmHost::start(scenario);
                (scenario.run)(&world);
                world.look_through_log();
            })
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// The other host of scenarios.
///
/// Where it differs from a real Envoy, by intent:
///
/// - Time passes only when nothing else can happen: an answer takes none, unless a fault says so.
/// - A setup's layout of the volume means nothing: the token is in memory, and a rotation is seen at once.
/// - Connections, TLS, HTTP parsing and routing by anything but the host are not here, so an upstream sees the headers
///   that the filter left and those that Envoy adds in any case.
/// - Requests that are sent at once go to the workers in turn, one arriving after the other.
struct WasmHost {
    host: Host,
    entra: Directory,
    issuer: Issuer,
    token: RefCell<String>,
    next_worker: Cell<usize>,
}

const WORKERS: usize = 2;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

impl WasmHost {
    fn start(scenario: &Scenario) -> Self {
        let setup = &scenario.setup;
        let mut builder = sidecar::builder(&sidecar::module()).workers(WORKERS).started_at(SystemTime::now());
        if let Some(configuration) = setup.configuration {
            builder = builder.configuration(configuration().to_string());
        }
        if let Some(name) = setup.without {
            builder = builder.without_variable(name);
        }
        let host = builder.start().unwrap_or_else(|error| panic!("{error}"));
        let issuer = Issuer::new(ISSUER_URL);
        let entra = Directory::new();
        entra.trust_issuer(ISSUER_URL, issuer.jwks());
        for resource in RESOURCES {
            entra.register_resource(resource);
        }
        entra.register_credential(stack::credential(CLIENT_ID)).unwrap();
        let world = Self { host, entra, issuer, token: RefCell::default(), next_worker: Cell::new(0) };
        world.project(setup.audience);
        world
    }

    /// Puts a federated token of this audience in place.
    fn project(&self, audience: &str) {
        let now = self.host.wall_clock();
        *self.token.borrow_mut() =
            self.issuer.service_account_token(NAMESPACE, SERVICE_ACCOUNT, audience, now, TOKEN_LIFETIME);
    }

    /// Sends requests at once, to the workers in turn, and waits for their answers.
    fn send(&self, requests: &[stack::Request], to: &str) -> Vec<StreamState> {
        let streams: Vec<_> = requests
            .iter()
            .map(|request| {
                let worker = self.next_worker.replace(self.next_worker.get() + 1) % WORKERS;
                let request = wasm_host::Request::new(received(request)).to(to);
                self.host.worker(worker).request(request)
            })
            .collect();
        let deadline = self.host.now() + PATIENCE;
        self.serve();
        while streams.iter().any(|stream| stream.state() == StreamState::Paused) {
            let next = self.host.next_timer().filter(|next| *next <= deadline);
            let next = next.unwrap_or_else(|| panic!("no answer:\n{}", self.host.log_text()));
            self.host.advance(next.saturating_sub(self.host.now()));
            self.serve();
        }
        for stream in &streams {
            stream.end();
        }
        streams.iter().map(wasm_host::Stream::state).collect()
    }

    /// Answers all calls, and those that come of it.
    fn serve(&self) {
        loop {
            self.host.run_until_idle();
            let calls = self.host.callouts();
            if calls.is_empty() {
                return;
            }
            for call in &calls {
                self.answer(call);
            }
        }
    }

    fn answer(&self, call: &Callout) {
        match call.cluster.as_str() {
            sidecar::TOKEN_CLUSTER => {
                let body = self.token.borrow().clone();
                self.host.respond(call, wasm_host::Response::new(200, body));
            }
            sidecar::ENTRA_CLUSTER | sidecar::ENTRA_AGAIN_CLUSTER => {
                let path = call.headers.text(":path").unwrap();
                let tenant_id = path.strip_prefix('/').and_then(|path| path.strip_suffix("/oauth2/v2.0/token"));
                let answer = self.entra.respond(&TokenRequest {
                    tenant_id: tenant_id.unwrap_or_else(|| panic!("{path} is no token endpoint")),
                    form: &call.body,
                    authority: &format!("https://{}", call.headers.text(":authority").unwrap()),
                    client_request_id: call.headers.text("client-request-id").as_deref(),
                    now: self.host.wall_clock(),
                });
                match answer.disconnect {
                    Some(Disconnect::Reset) => self.host.respond(call, wasm_host::Response::unreachable()),
                    Some(Disconnect::Truncate) => self.host.abort_response(call),
                    None => {
                        // The fake's server dates its answers, and Entra does: what has no date is Envoy's own.
                        let response = wasm_host::Response::new(answer.status, answer.body)
                            .header("date", "Thu, 01 Jan 2026 00:00:00 GMT");
                        let response = answer
                            .headers
                            .iter()
                            .fold(response, |response, (name, value)| response.header(name, value));
                        self.host.respond_after(call, answer.delay, response);
                    }
                }
            }
            other => panic!("a call to {other}"),
        }
    }

    /// Nothing was refused to the module by its capability list, nothing trapped, and no token was logged.
    fn look_through_log(&self) {
        let log = self.host.log_text();
        for wrong in ["restricted", "panicked", "Function: proxy_on", "eyJ", "wasi_unstable"] {
            assert!(!log.contains(wrong), "{wrong:?} in the log:\n{log}");
        }
    }
}

impl World for WasmHost {
    fn outbound(&self, requests: &[stack::Request]) -> Vec<stack::Response> {
        let outcomes = self.send(requests, "127.0.0.1:15001");
        let answered = requests.iter().zip(outcomes);
        answered
            .map(|(request, outcome)| match outcome {
                StreamState::Forwarded(passed) => upstream(&passed, request.body().map_or(0, <[u8]>::len)),
                other => reply(other),
            })
            .collect()
    }

    fn imds(&self, request: &stack::Request) -> stack::Response {
        match self.send(std::slice::from_ref(request), sidecar::IMDS_ADDRESS).remove(0) {
            // The listener's only route.
            StreamState::Forwarded(_) => stack::Response { status: 404, headers: Vec::new(), body: Vec::new() },
            other => reply(other),
        }
    }

    fn entra(&self) -> Directory {
        self.entra.clone()
    }

    fn rotate(&self) {
        self.project(AUDIENCE);
    }

    fn pass(&self, time: Duration) {
        self.serve();
        self.host.advance(time);
        self.serve();
    }
}

/// A request as the filter sees it.
fn received(request: &stack::Request) -> Headers {
    let first = [
        (":authority", request.host()),
        (":path", request.path()),
        (":method", request.method()),
        (":scheme", "http"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "5e1d5b1c-1b1e-4b6e-9d1e-1d5b1c1b1e4b"),
    ];
    let first = first.iter().map(|(name, value)| (*name, value.as_bytes()));
    Headers::received(first.chain(request.headers()))
}

/// What the upstream answers to what it saw.
fn upstream(passed: &Forwarded, body_length: usize) -> stack::Response {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let host = passed.headers.text(":authority").unwrap_or_default();
    let others = passed.headers.iter().filter(|(name, _)| !name.starts_with(b":"));
    let headers: Vec<_> = std::iter::once(("host".to_owned(), host))
        .chain(others.map(|(name, value)| (text(name), text(value))))
        .map(|(name, value)| json!([name, value]))
        .collect();
    let seen = json!({
        "method": passed.headers.text(":method"),
        "path": passed.headers.text(":path"),
        "headers": headers,
        "body_length": body_length,
    });
    stack::Response {
        status: 200,
        headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
        body: seen.to_string().into_bytes(),
    }
}

fn reply(outcome: StreamState) -> stack::Response {
    match outcome {
        StreamState::LocalReply(reply) => stack::Response {
            status: reply.status,
            headers: reply
                .headers
                .iter()
                .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec()))
                .collect(),
            body: reply.body,
        },
        other => panic!("{other:?} is no answer"),
    }
}
