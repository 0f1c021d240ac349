//! The VM of one worker: its broker, and a shell that carries out the broker's commands like the engine's driver
//! (`crates/core/src/engine/driver.rs`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use entra_exchange_core::broker::{
    Broker, CachedToken, Command, QueueId, READ_TIMEOUT, SharedData, StreamId, WorkerId,
};
use entra_exchange_core::entra::{TokenKey, TokenRequest, TokenSpec};
use entra_exchange_core::event::Event;
use entra_exchange_core::http::CallResult;
use entra_exchange_core::time::Timestamp;

use crate::entra::{self, Answered, Weather};
use crate::judge::{LoggedFailure, Rejects};
use crate::plan::Plan;
use crate::random::Random;
use crate::sabotage::Sabotage;
use crate::specs;
use crate::world::{MAIN, SharedView, SimulatedEvent, World};

/// The purpose of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallPurpose {
    Assertion(TokenKey),
    Endpoint(TokenKey),
}

/// The context of an event. The default is that of an event other than a response.
#[derive(Clone, Copy)]
pub(crate) struct After {
    /// Whether no other worker could have taken the lease during the call.
    pub(crate) under_lease: bool,
    pub(crate) minted: Option<usize>,
    pub(crate) retry_after: Option<u64>,
}

impl Default for After {
    fn default() -> Self {
        Self { under_lease: true, minted: None, retry_after: None }
    }
}

/// The token that a request asks for.
pub(crate) struct RequestedToken {
    pub(crate) spec: Arc<TokenSpec>,
    pub(crate) rejects: Rejects,
}

pub(crate) struct Vm {
    pub(crate) broker: Broker,
    pub(crate) queue: QueueId,
    /// The number of VMs that the worker had before this one.
    pub(crate) generation: u32,
    pub(crate) specs: Vec<Arc<TokenSpec>>,
    /// The time at which the timer fires.
    pub(crate) tick_at: Option<u64>,
    /// The second in which the timer fired last, and how often it fired in that second.
    pub(crate) ticks: (u64, u64),
    /// The outstanding calls. Envoy drops them together with the VM.
    pub(crate) calls: HashMap<u64, CallPurpose>,
    /// The waiting requests.
    pub(crate) streams: HashMap<StreamId, RequestedToken>,
    /// The last token that was handed out for each key.
    pub(crate) handed_out: HashMap<TokenKey, Arc<CachedToken>>,
    pub(crate) stalled_until: u64,
    /// The total time that the worker was stalled.
    pub(crate) stalled: u64,
}

impl Vm {
    pub(crate) fn boot(
        plan: &Plan,
        vm: usize,
        generation: u32,
        discard_before: Option<Timestamp>,
        random: &mut Random,
    ) -> Self {
        // The number of a queue contains the index of its worker and the generation of its VM.
        let queue = QueueId(generation * 100 + vm as u32);
        Self {
            broker: Broker::new(WorkerId(random.next()), queue, plan.limits),
            queue,
            generation,
            specs: [specs::all(discard_before), specs::unlisted(discard_before)].concat(),
            tick_at: None,
            ticks: (0, 0),
            calls: HashMap::new(),
            streams: HashMap::new(),
            handed_out: HashMap::new(),
            stalled_until: 0,
            stalled: 0,
        }
    }
}

/// Passes the result of a call to a broker.
pub(crate) fn report(
    broker: &mut Broker,
    call: CallPurpose,
    answer: CallResult,
    now: Timestamp,
    shared: &dyn SharedData,
) -> Vec<Command> {
    match call {
        CallPurpose::Assertion(key) => broker.assertion_arrived(key, answer, now, shared),
        CallPurpose::Endpoint(key) => broker.endpoint_answered(key, answer, now, shared),
    }
}

impl World {
    /// Passes an event to a broker, and carries out its commands until there are none left.
    pub(crate) fn drive(
        &self,
        vm: usize,
        after: After,
        event: impl FnOnce(&mut Broker, Timestamp, &dyn SharedData) -> Vec<Command>,
    ) {
        let now = self.now(vm);
        let shared_view = SharedView { world: self, vm };
        let mut state = self.vms[vm].borrow_mut();
        let life = (vm, state.generation);
        let publications = || self.judge.borrow().publications;
        let began = publications();
        let mut commands = VecDeque::from(event(&mut state.broker, now, &shared_view));
        // Other workers publish tokens while this one processes an event.
        let unseen = began..publications();
        while let Some(command) = commands.pop_front() {
            self.note(vm, || match &command {
                Command::ReadAssertion(spec) => format!("  reads for {:?}", spec.key()),
                Command::CallEndpoint { spec, cluster, .. } => format!("  calls {cluster} for {:?}", spec.key()),
                command => format!("  {command:?}"),
            });
            let (call, timeout, answered) = match command {
                Command::ReadAssertion(spec) => {
                    self.judge.borrow_mut().reads(spec.key(), &self.clock);
                    (CallPurpose::Assertion(spec.key()), READ_TIMEOUT, self.read_file(vm))
                }
                Command::CallEndpoint { spec, cluster, request, timeout } => {
                    let is_first = spec.clusters().first() == Some(&cluster);
                    let assertion = entra::assertion_in(&request);
                    self.judge.borrow_mut().asks_entra(spec.key(), assertion, is_first, &self.clock);
                    (CallPurpose::Endpoint(spec.key()), timeout, self.call_entra(&spec, &cluster, &request, timeout))
                }
                // No request asks for readiness here.
                Command::Measure(_) | Command::ReadForProbe(_) | Command::FinishProbe(..) => continue,
                Command::Wake(queue, key) => {
                    self.wake(queue, key);
                    continue;
                }
                Command::Finish(stream, outcome) => {
                    let waiting = state.streams.len();
                    let known = self.judge.borrow_mut().stops_waiting(life, stream);
                    self.judge.borrow_mut().must(known, "answered once", || format!("{stream:?} of worker {vm}"));
                    match (state.streams.remove(&stream), outcome) {
                        (Some(requested), Ok(issued)) => self.hand_out(&mut state, life, &requested, issued),
                        (Some(requested), Err(problem)) => {
                            self.judge.borrow_mut().refuses(
                                &requested,
                                &problem,
                                (life, waiting),
                                &unseen,
                                &self.clock,
                            );
                        }
                        (None, _) => {}
                    }
                    continue;
                }
                Command::Log(event) => {
                    self.logs(&state, &event, after, now);
                    continue;
                }
            };
            if answered.answer.is_err() {
                commands.extend(report(&mut state.broker, call, answered.answer, now, &shared_view));
                continue;
            }
            let number = self.number();
            let (CallPurpose::Assertion(key) | CallPurpose::Endpoint(key)) = call;
            self.judge.borrow_mut().calls(number, life, key, timeout, &self.clock);
            // A response to an earlier call for the key is dropped: the broker would take it for the response to this one.
            state.calls.retain(|_, other| *other != call);
            state.calls.insert(number, call);
            self.disturb_leader(vm, answered.after);
            let call = self.mixed_up(call, &state.specs);
            let at = self.clock.steady() + answered.after;
            self.put(at, vm, SimulatedEvent::TokenLookup { generation: life.1, number, call, answered });
        }
        let period = state.broker.next_due().map(|due| (due.since(now).as_millis() as u64).max(1));
        state.tick_at = period.map(|period| self.clock.steady() + period);
        if let Some(at) = state.tick_at {
            self.put(at, vm, SimulatedEvent::Tick { generation: life.1, at });
        }
    }

    /// Lets a worker die or stall while the others rely on its call, depending on the plan.
    fn disturb_leader(&self, vm: usize, within: u64) {
        if self.clock.steady() >= self.plan.end {
            return;
        }
        if self.chance(self.plan.dies_leading) {
            self.put(self.clock.steady() + self.draw(0, within), vm, SimulatedEvent::Dies);
        }
        if self.chance(self.plan.stalls_leading) {
            let length = self.draw(1_000, 25_000);
            self.put(self.clock.steady() + self.draw(0, within), vm, SimulatedEvent::Stalls { length });
        }
    }

    /// The response with the token file. Internal listeners do not answer the main thread.
    fn read_file(&self, vm: usize) -> Answered {
        let faults = if self.clock.steady() < self.plan.end { self.plan.assertion_faults } else { 0 };
        let mut random = self.random.borrow_mut();
        if vm == MAIN {
            return entra::no_listener();
        }
        entra::assertion(&mut random, faults, self.clock.wall(), READ_TIMEOUT.as_millis() as u64)
    }

    fn call_entra(&self, spec: &TokenSpec, cluster: &String, request: &TokenRequest, timeout: Duration) -> Answered {
        let mut judge = self.judge.borrow_mut();
        let is_allowed = request.authority == spec.authority().host() && spec.clusters().contains(cluster);
        judge.must(is_allowed, "assertion", || format!("it is sent to {cluster} and {}", request.authority));
        entra::token(
            &mut self.random.borrow_mut(),
            self.weather(),
            request,
            (self.clock.wall(), self.clock.steady()),
            timeout.as_millis() as u64,
            &mut judge.minted,
        )
    }

    fn weather(&self) -> Weather {
        let now = self.clock.steady();
        if now >= self.plan.end {
            return Weather::Fair;
        }
        let until_now = self.plan.weather.iter().filter(|(at, _)| *at <= now);
        until_now.max_by_key(|(at, _)| *at).map_or(Weather::Fair, |(_, weather)| *weather)
    }

    /// Sends a message to another worker. It is ignored if the VM of the queue is gone.
    pub(crate) fn wake(&self, queue: QueueId, key: TokenKey) {
        let vm = queue.0 as usize % 100;
        if self.sabotage == Some(Sabotage::NoMessageToOthers) {
            return;
        }
        if self.clock.steady() < self.plan.end && self.chance(self.plan.lost) {
            return;
        }
        for _ in 0..if self.chance(self.plan.doubled) { 2 } else { 1 } {
            self.put(self.clock.steady() + self.draw(0, self.plan.delay), vm, SimulatedEvent::Message { queue, key });
        }
    }

    /// Compares the log line of an exchange with its result.
    fn logs(&self, state: &Vm, event: &Event, after: After, now: Timestamp) {
        let line = event.to_string();
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let mut judge = self.judge.borrow_mut();
        judge.must_hide_secrets(&line);
        let is_meant =
            |spec: &&Arc<TokenSpec>| field("identity") == Some(spec.identity()) && field("scope") == Some(spec.scope());
        let spec = state.specs.iter().find(is_meant);
        let Some(key) = spec.map(|spec| spec.key()) else {
            return judge.must(false, "readable", || format!("{line:?} names no known token"));
        };
        let milliseconds = |name: &str| field(name).and_then(|number| number.parse().ok()).map(Duration::from_millis);
        let is_refusal = field("code") == Some("entra_refused");
        match (field("outcome"), after.minted, milliseconds("took_ms")) {
            (Some("issued"), Some(number), Some(took)) => {
                judge.succeeds(key, number, now.minus(took), after.under_lease, &self.clock);
            }
            (Some("failed"), ..) => {
                let left_to_others = state.queue.0 % 100 != MAIN as u32;
                judge.must(left_to_others, "left to others", || format!("the main thread published a failure: {line}"));
                let wait = milliseconds("next_try_in_ms").unwrap_or_default().as_millis() as u64;
                judge.fails(key, LoggedFailure { wait, is_refusal }, after, &self.clock);
            }
            (Some("retried"), None, None) => {
                let next =
                    spec.and_then(|spec| spec.clusters().iter().find(|name| field("next_cluster") == Some(name)));
                // A refusal is retried through the same cluster.
                let is_clear = next.is_some() || is_refusal;
                judge.must(is_clear, "readable", || format!("{line:?} names no cluster that leads to Entra"));
            }
            _ => judge.must(false, "readable", || format!("{line:?} has unexpected fields")),
        }
    }

    fn mixed_up(&self, call: CallPurpose, specs: &[Arc<TokenSpec>]) -> CallPurpose {
        let other = |key: TokenKey| specs.iter().map(|spec| spec.key()).find(|other| *other != key).unwrap_or(key);
        match call {
            CallPurpose::Endpoint(key) if self.sabotage == Some(Sabotage::AnswersMixedUp) => {
                CallPurpose::Endpoint(other(key))
            }
            call => call,
        }
    }
}
