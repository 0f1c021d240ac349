//! The root context: reads the configuration, and carries out what the broker asks for.
//!
//! It makes all calls: a stream could be gone when the answer comes, and all who wait for the same token with it.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use entra_exchange_abi::hostcalls::{self, BufferType, MapType, Status};
use entra_exchange_abi::{Action, Plugin};
use entra_exchange_core::assertion::Source;
use entra_exchange_core::broker::{self, Broker, Build, CachedToken, Command, Connection, Predecessors, StreamId};
use entra_exchange_core::config::Config;
use entra_exchange_core::configuration_status;
use entra_exchange_core::decision;
use entra_exchange_core::entra::TokenKey;
use entra_exchange_core::event::Event;
use entra_exchange_core::http::{CallFailure, CallResponse, CallResult};
use entra_exchange_core::policy::{self, OWN_HEADER, Policy};
use entra_exchange_core::problem::Problem;
use entra_exchange_core::time::Timestamp;

use crate::envoy::{self, CurrentRequest, Shared};
use crate::worker::Worker;

/// What stands in for an answer that broke off, as Envoy answers itself when there was no connection.
const NO_ANSWER: u16 = 503;

/// One plugin configuration in one VM.
pub(crate) struct Root {
    id: u32,
    configured: Option<Configured>,
    /// The calls under way, by Envoy's number for them.
    calls: HashMap<u32, CallPurpose>,
}

/// What comes of a configuration.
struct Configured {
    policy: Rc<Policy>,
    worker: Rc<RefCell<Worker>>,
    predecessors: Predecessors,
}

/// What a call is for.
#[derive(Clone)]
enum CallPurpose {
    Assertion(TokenKey),
    Endpoint(TokenKey),
    Check(Source),
}

impl Root {
    /// Tells the broker something, and does what it says until it says nothing more.
    fn drive(&mut self, what: impl FnOnce(&mut Broker, Timestamp) -> Vec<Command>) {
        let Some(configured) = &self.configured else { return };
        let (worker, policy) = (Rc::clone(&configured.worker), Rc::clone(&configured.policy));
        let predecessors_due = configured.predecessors.next_due();
        let worker = &mut *worker.borrow_mut();
        let now = envoy::now();
        let Some(state) = worker.state() else { return };
        let mut commands = VecDeque::from(what(&mut state.broker, now));
        while let Some(command) = commands.pop_front() {
            commands.extend(self.carry_out(command, worker, now));
        }
        self.poll_connections(worker, &policy, now);
        let next_due = worker.state().and_then(|state| state.broker.next_due());
        let next_observation = worker.state().and_then(|state| state.broker.next_observation());
        set_tick(now, next_due.into_iter().chain(next_observation).chain(predecessors_due).min());
    }

    /// Does one thing; what is to be done about it comes back.
    fn carry_out(&mut self, command: Command, worker: &mut Worker, now: Timestamp) -> Vec<Command> {
        let (call, made) = match command {
            Command::ReadAssertion(spec) => {
                let call = CallPurpose::Assertion(spec.key());
                (call.clone(), self.read(call, spec.assertion()))
            }
            Command::ReadForCheck(source) => {
                let call = CallPurpose::Check(source.clone());
                (call.clone(), self.read(call, &source))
            }
            Command::Checked(stream, status) => {
                envoy::with_stream(stream, self.id, || worker.tell_readiness(&status));
                return Vec::new();
            }
            Command::CallEndpoint { spec, cluster, request, timeout } => {
                let headers = [
                    (":method", "POST"),
                    (":path", request.path.as_str()),
                    (":authority", request.authority.as_str()),
                    ("content-type", "application/x-www-form-urlencoded"),
                    ("accept", "application/json"),
                ];
                let (call, body) = (CallPurpose::Endpoint(spec.key()), Some(request.body.as_bytes()));
                (call.clone(), self.call(call, &cluster, &headers, body, timeout))
            }
            Command::Wake(queue, key) => {
                envoy::enqueue(queue, key.as_bytes());
                return Vec::new();
            }
            Command::Finish(stream, outcome) => {
                self.finish(stream, outcome.as_ref(), worker, now);
                return Vec::new();
            }
            Command::Log(event) => {
                if let Some(level) = worker.log.exchanges {
                    envoy::log(&event.at_least(level));
                }
                return Vec::new();
            }
            Command::Measure(measurement) => {
                worker.meters.record(&measurement);
                return Vec::new();
            }
        };
        match (made, worker.state()) {
            // A call that cannot be made is reported at once.
            (Err(failure), Some(state)) => report(&mut state.broker, call, Err(failure), now),
            _ => Vec::new(),
        }
    }

    /// Finishes a paused request.
    fn finish(
        &self,
        stream: StreamId,
        token: Result<&Arc<CachedToken>, &Problem>,
        worker: &mut Worker,
        now: Timestamp,
    ) {
        if let Some(ending) = worker.finish(stream, token, now) {
            envoy::with_stream(stream, self.id, || {
                if worker.end(stream, ending) {
                    let _ = hostcalls::resume_http_request();
                }
            });
        }
    }

    /// Looks at the connections of the requests that wait for them, and decides about those that wait no more.
    fn poll_connections(&self, worker: &mut Worker, policy: &Policy, now: Timestamp) {
        let Some(state) = worker.state() else { return };
        let is_established = |stream| {
            let mut is_established = false;
            envoy::with_stream(stream, self.id, || is_established = policy::is_established(&CurrentRequest));
            is_established
        };
        for (stream, connection) in state.broker.connections(now, is_established) {
            match connection {
                Connection::Established => envoy::with_stream(stream, self.id, || {
                    if worker.connected(stream, policy) {
                        let _ = hostcalls::resume_http_request();
                    }
                }),
                Connection::TimedOut(problem) => self.finish(stream, Err(&problem), worker, now),
            }
        }
    }

    fn read(&mut self, call: CallPurpose, source: &Source) -> Result<(), CallFailure> {
        let cluster = source.cluster();
        let headers = [(":method", "GET"), (":path", "/"), (":authority", cluster)];
        self.call(call, cluster, &headers, None, broker::READ_TIMEOUT)
    }

    fn call(
        &mut self,
        call: CallPurpose,
        cluster: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<(), CallFailure> {
        match hostcalls::dispatch_http_call(cluster, headers, body.unwrap_or_default(), timeout) {
            Ok(number) => {
                self.calls.insert(number, call);
                Ok(())
            }
            Err(Status::BAD_ARGUMENT) => Err(CallFailure::NoSuchCluster),
            Err(_) => Err(CallFailure::NoEndpoint),
        }
    }
}

/// Has Envoy call [`Root::on_tick`] then; at no time when nothing is due.
fn set_tick(now: Timestamp, due: Option<Timestamp>) {
    // No period is no tick.
    let period = due.map_or(Duration::ZERO, |due| due.since(now).max(Duration::from_millis(1)));
    let _ = hostcalls::set_tick_period(period);
}

/// Tells the broker what came of a call.
fn report(broker: &mut Broker, call: CallPurpose, answer: CallResult, now: Timestamp) -> Vec<Command> {
    match call {
        CallPurpose::Assertion(key) => broker.assertion_arrived(key, answer, now, &Shared),
        CallPurpose::Endpoint(key) => broker.endpoint_answered(key, answer, now, &Shared),
        CallPurpose::Check(source) => broker.check_answered(&source, answer, now, &Shared),
    }
}

/// The answer to the call that is being reported. Without headers there is none: the connection broke, and Envoy has no map
/// to look into.
fn response(headers: usize, body_size: usize) -> CallResponse {
    if headers == 0 {
        return CallResponse {
            status: NO_ANSWER,
            retry_after: None,
            request_id: None,
            body: Vec::new(),
            is_envoys_own: true,
        };
    }
    let header = |name: &str| hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, name).ok().flatten();
    let status = header(":status").and_then(|status| String::from_utf8(status).ok()?.parse().ok()).unwrap_or(NO_ANSWER);
    CallResponse {
        status,
        retry_after: header("retry-after"),
        request_id: header("x-ms-request-id"),
        body: hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size).ok().flatten().unwrap_or_default(),
        // Whoever has a clock dates its answers (RFC 9110, section 6.6.1), and Entra has one; Envoy does not date its own.
        is_envoys_own: status >= 500 && header("date").is_none(),
    }
}

impl Plugin for Root {
    fn new(id: u32) -> Self {
        Self { id, configured: None, calls: HashMap::new() }
    }

    fn on_vm_start(&mut self) -> bool {
        envoy::log(&Event::info("start").with("version", envoy::BUILD.version).with("commit", envoy::BUILD.commit));
        true
    }

    fn on_configure(&mut self, text: Vec<u8>) -> bool {
        match Config::parse(&text, &|name| std::env::var(name).ok()) {
            Ok(mut config) => {
                let now = envoy::now();
                let warnings = config.warnings_at(now);
                config.warnings.extend(warnings);
                // The canary is configured before any worker: the one moment when nobody else does this.
                broker::prepare(&Shared);
                let keeps_state = envoy::keep_over_redirects(OWN_HEADER);
                if !keeps_state {
                    let problem = decision::state_unavailable();
                    let event = Event::error("configuration").with("detail", &problem.detail);
                    envoy::log(&event.with("remedy", &problem.remedy));
                }
                let policy = Rc::new(Policy::new(&config, envoy::is_gateway()));
                let worker = Rc::new(RefCell::new(Worker::new(config.limits, config.log, keeps_state)));
                let predecessors = Predecessors::register(config.limits.wait, now, &Shared);
                // The canary does not live to see it.
                let warm = (!policy.warm().is_empty()).then_some(now);
                let due = warm.or(predecessors.next_due());
                if due.is_some() {
                    set_tick(now, due);
                }
                policy.configuration().announce(&Shared).iter().for_each(envoy::log);
                let Build { version, commit } = envoy::BUILD;
                for measurement in policy.configuration().measurements(version, commit) {
                    worker.borrow().meters.record(&measurement);
                }
                self.configured = Some(Configured { policy, worker, predecessors });
                true
            }
            Err(refused) => {
                configuration_status::rejection(&text, &refused).iter().for_each(envoy::log);
                false
            }
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        let mut keys = BTreeSet::new();
        while let Ok(Some(message)) = hostcalls::dequeue_shared_queue(queue) {
            keys.extend(TokenKey::from_bytes(&message));
        }
        self.drive(|broker, now| {
            let mut commands: Vec<Command> = keys.into_iter().flat_map(|key| broker.poll(key, now, &Shared)).collect();
            commands.extend(broker.start_probe(now));
            commands
        });
    }

    fn on_tick(&mut self) {
        if let Some(configured) = &mut self.configured
            && configured.predecessors.next_due().is_some()
        {
            let now = envoy::now();
            if let Some(event) = configured.predecessors.empty(now, &Shared) {
                envoy::log(&event);
            }
            set_tick(now, configured.predecessors.next_due());
        }
        if let Some(configured) = &self.configured
            && !configured.policy.warm().is_empty()
        {
            let mut worker = configured.worker.borrow_mut();
            if worker.state().is_none() {
                worker.begin().broker.keep_warm(configured.policy.warm(), envoy::now());
            }
        }
        self.drive(|broker, now| {
            let mut commands = broker.tick(now, &Shared);
            commands.extend(broker.observe(now, &Shared));
            commands
        });
    }

    fn on_http_call_response(&mut self, number: u32, headers: usize, body_size: usize) {
        if let Some(call) = self.calls.remove(&number) {
            let answer = Ok(response(headers, body_size));
            self.drive(|broker, now| report(broker, call, answer, now));
        }
    }

    fn on_request_headers(&mut self, stream: u32) -> Action {
        // Without a configuration there is nothing to decide by: a request must not leave undecided.
        let Some(configured) = &self.configured else { return Action::Pause };
        let goes_on = configured.worker.borrow_mut().receive(StreamId(stream), &configured.policy);
        if goes_on { Action::Continue } else { Action::Pause }
    }

    fn on_response_headers(&mut self, stream: u32) -> Action {
        if let Some(configured) = &self.configured {
            configured.worker.borrow_mut().answered(StreamId(stream));
        }
        Action::Continue
    }

    fn on_delete(&mut self, stream: u32) {
        if let Some(configured) = &self.configured {
            configured.worker.borrow_mut().forget(StreamId(stream));
        }
    }
}
