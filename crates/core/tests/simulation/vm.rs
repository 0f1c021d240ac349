//! The VM of one worker: its driver, and the host that it acts through.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use entra_exchange_core::broker::{CachedToken, QueueId, Shelves, Store, StreamId, WorkerId};
use entra_exchange_core::engine::{CallId, Driver, Finished, Host};
use entra_exchange_core::entra::{TokenKey, TokenSpec};
use entra_exchange_core::event::{Event, Level};
use entra_exchange_core::http::{CallFailure, HttpCall};
use entra_exchange_core::problem::Problem;
use entra_exchange_core::time::Timestamp;

use crate::entra::{self, Answered, Weather};
use crate::judge::{Life, LoggedFailure, Rejects, Target};
use crate::plan::Plan;
use crate::random::Random;
use crate::sabotage::Sabotage;
use crate::specs::{self, Federated};
use crate::world::{MAIN, SharedView, SimulatedEvent, World};

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
    pub(crate) driver: Driver,
    pub(crate) queue: QueueId,
    /// The number of VMs that the worker had before this one.
    pub(crate) generation: u32,
    pub(crate) specs: Vec<Arc<TokenSpec>>,
    /// The time at which the timer fires.
    pub(crate) tick_at: Option<u64>,
    /// The second in which the timer fired last, and how often it fired in that second.
    pub(crate) ticks: (u64, u64),
    /// The outstanding calls to the token endpoint. Envoy drops them together with the VM.
    pub(crate) calls: BTreeMap<u32, TokenKey>,
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
            driver: Driver::new(WorkerId(random.next()), queue, plan.limits, Some(Level::Info)),
            queue,
            generation,
            specs: [specs::all(discard_before, plan.federated), specs::unlisted(discard_before)].concat(),
            tick_at: None,
            ticks: (0, 0),
            calls: BTreeMap::new(),
            streams: HashMap::new(),
            handed_out: HashMap::new(),
            stalled_until: 0,
            stalled: 0,
        }
    }
}

/// The process from the view of one VM.
pub(crate) struct VmHost<'a> {
    world: &'a World,
    vm: usize,
    generation: u32,
    queue: QueueId,
    specs: &'a [Arc<TokenSpec>],
    calls: &'a mut BTreeMap<u32, TokenKey>,
    store: Shelves<SharedView<'a>>,
    /// The lines that were logged.
    lines: Vec<String>,
}

impl Host for VmHost<'_> {
    fn now(&self) -> Timestamp {
        self.world.now(self.vm)
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure> {
        let world = self.world;
        world.note(self.vm, || format!("  calls {}{}", call.cluster, call.path));
        let life = (self.vm, self.generation);
        let (target, answered) = if call.cluster == specs::FILE {
            let answered = world.read_file(self.vm, call.timeout);
            world.judge.borrow_mut().reads(self.vm, &answered, &world.clock);
            (Target::File, answered)
        } else if call.cluster == specs::SERVICE {
            world.judge.borrow_mut().asks_service(life, &world.clock);
            (Target::Service, world.ask_service(self.vm, call.timeout))
        } else {
            let spec = world.requested_by(call, self.specs).ok_or(CallFailure::NoSuchCluster)?;
            let is_first = spec.clusters().first() == Some(&call.cluster);
            world.judge.borrow_mut().asks_entra(spec.key(), &entra::assertion_in(call), is_first, &world.clock);
            (Target::Token(spec.key()), world.call_entra(call))
        };
        answered.answer.as_ref().map_err(|failure| *failure)?;
        let id = world.number() as u32;
        world.judge.borrow_mut().calls(id, life, target, call.timeout, &world.clock);
        if let Target::Token(key) = target {
            self.calls.retain(|_, other| *other != key);
            self.calls.insert(id, key);
        }
        world.disturb_leader(self.vm, answered.after);
        let at = world.clock.steady() + answered.after;
        world.put(at, self.vm, SimulatedEvent::Response { generation: self.generation, id, answered });
        Ok(CallId(id))
    }

    fn wake(&mut self, worker: QueueId, message: &[u8]) {
        if worker == self.queue {
            self.world.wake_self(self.vm, worker, message);
        } else {
            self.world.wake(worker, message);
        }
    }

    fn set_timer(&mut self, _: Option<Duration>) {}

    fn log(&mut self, event: &Event) {
        self.lines.push(event.to_string());
    }
}

impl World {
    /// Passes an event to the driver of a VM. Returns its result, and the lines that were logged.
    pub(crate) fn act<T>(
        &self,
        vm: usize,
        state: &mut Vm,
        event: impl FnOnce(&mut Driver, Timestamp, &mut VmHost<'_>) -> T,
    ) -> (T, Vec<String>) {
        let Vm { driver, queue, generation, specs, calls, .. } = state;
        let store = Shelves::new(SharedView { world: self, vm });
        let (generation, queue) = (*generation, *queue);
        let mut host = VmHost { world: self, vm, generation, queue, specs, calls, store, lines: Vec::new() };
        let result = event(driver, self.now(vm), &mut host);
        (result, host.lines)
    }

    /// Passes an event to the driver of a VM, and finishes the requests whose wait has ended.
    pub(crate) fn drive(
        &self,
        vm: usize,
        after: After,
        event: impl FnOnce(&mut Driver, Timestamp, &mut VmHost<'_>) -> Vec<Finished>,
    ) {
        let now = self.now(vm);
        let mut state = self.vms[vm].borrow_mut();
        let life = (vm, state.generation);
        let publications = || self.judge.borrow().publications;
        let began = publications();
        let (finished, lines) = self.act(vm, &mut state, event);
        // Other workers publish tokens while this one processes an event.
        let unseen = began..publications();
        for line in lines {
            self.logs(&state, &line, after, now);
        }
        for finished in finished {
            // No request asks for readiness here.
            let Finished::Token(stream, outcome) = finished else { continue };
            self.note(vm, || format!("  {stream:?} gets {}", shown(outcome.as_ref())));
            let waiting = state.streams.len();
            let known = self.judge.borrow_mut().stops_waiting(life, stream);
            self.judge.borrow_mut().must(known, "answered once", || format!("{stream:?} of worker {vm}"));
            match (state.streams.remove(&stream), outcome) {
                (Some(requested), Ok(issued)) => self.hand_out(&mut state, life, &requested, issued),
                (Some(requested), Err(problem)) => {
                    let mut judge = self.judge.borrow_mut();
                    judge.refuses(&requested, &problem, (life, waiting), &unseen, &self.clock);
                }
                (None, _) => {}
            }
        }
        self.set_timer(life, &mut state, now);
    }

    fn set_timer(&self, (vm, generation): Life, state: &mut Vm, now: Timestamp) {
        let period = state.driver.next_due(now).map(|due| (due.since(now).as_millis() as u64).max(1));
        state.tick_at = period.map(|period| self.clock.steady() + period);
        if let Some(at) = state.tick_at {
            self.put(at, vm, SimulatedEvent::Tick { generation, at });
        }
    }

    /// The token that a call requests from the token endpoint, if the configuration allows this call.
    fn requested_by<'a>(&self, call: &HttpCall, specs: &'a [Arc<TokenSpec>]) -> Option<&'a Arc<TokenSpec>> {
        let requested = (entra::tenant_of(call), entra::field(call, "client_id"), entra::field(call, "scope"));
        let is_requested = |spec: &&Arc<TokenSpec>| {
            (spec.tenant_id(), spec.client_id(), spec.scope()) == (&*requested.0, &*requested.1, &*requested.2)
        };
        let spec = specs.iter().find(is_requested);
        let is_allowed = spec.is_some_and(|spec| {
            call.authority == spec.authority().host()
                && call.path == format!("/{}/oauth2/v2.0/token", spec.tenant_id())
                && spec.clusters().contains(&call.cluster)
        });
        self.judge.borrow_mut().must(is_allowed, "assertion", || {
            format!("it is sent to {} and {}{}", call.cluster, call.authority, call.path)
        });
        spec
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
    fn read_file(&self, vm: usize, timeout: Duration) -> Answered {
        let faults = if self.clock.steady() < self.plan.end { self.plan.assertion_faults } else { 0 };
        if vm == MAIN {
            return entra::no_listener();
        }
        entra::assertion(&mut self.random.borrow_mut(), faults, self.clock.wall(), timeout.as_millis() as u64)
    }

    /// The response of the service with a federated token, which is behind an internal listener too.
    fn ask_service(&self, vm: usize, timeout: Duration) -> Answered {
        let faults = if self.clock.steady() < self.plan.end { self.plan.assertion_faults } else { 0 };
        if vm == MAIN {
            return entra::no_listener();
        }
        let serial = self.number();
        entra::issued(&mut self.random.borrow_mut(), faults, self.clock.wall(), serial, timeout.as_millis() as u64)
    }

    fn call_entra(&self, call: &HttpCall) -> Answered {
        entra::token(
            &mut self.random.borrow_mut(),
            self.weather(),
            call,
            (self.clock.wall(), self.clock.steady()),
            call.timeout.as_millis() as u64,
            &mut self.judge.borrow_mut().minted,
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
    fn wake(&self, queue: QueueId, message: &[u8]) {
        let vm = queue.0 as usize % 100;
        if self.sabotage == Some(Sabotage::NoMessageToOthers) {
            return;
        }
        if self.clock.steady() < self.plan.end && self.chance(self.plan.lost) {
            return;
        }
        for _ in 0..if self.chance(self.plan.doubled) { 2 } else { 1 } {
            let at = self.clock.steady() + self.draw(0, self.plan.delay);
            self.put(at, vm, SimulatedEvent::Message { queue, message: message.to_vec() });
        }
    }

    /// Sends the worker a message to itself, which arrives in the next iteration of its event loop.
    fn wake_self(&self, vm: usize, queue: QueueId, message: &[u8]) {
        if self.sabotage != Some(Sabotage::NoMessageToOneself) {
            let at = self.clock.steady() + self.draw(0, 2);
            self.put(at, vm, SimulatedEvent::Message { queue, message: message.to_vec() });
        }
    }

    /// Compares the log line of an exchange with its result.
    fn logs(&self, state: &Vm, line: &str, after: After, now: Timestamp) {
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let mut judge = self.judge.borrow_mut();
        judge.must_hide_secrets(line);
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
                // With a federated token that a worker shares, it can make an exchange.
                let is_main = state.queue.0 % 100 == MAIN as u32;
                let left_to_others = !is_main || self.plan.federated == Federated::Service;
                judge.must(left_to_others, "left to others", || format!("the main thread published a failure: {line}"));
                let wait = milliseconds("next_try_in_ms").unwrap_or_default().as_millis() as u64;
                judge.fails(key, LoggedFailure { wait, is_refusal }, after, &self.clock);
            }
            // The same event may end the exchange of another token.
            (Some("retried"), _, None) => {
                let next =
                    spec.and_then(|spec| spec.clusters().iter().find(|name| field("next_cluster") == Some(name)));
                // A refusal is retried through the same cluster.
                let is_clear = next.is_some() || is_refusal;
                judge.must(is_clear, "readable", || format!("{line:?} names no cluster that leads to Entra"));
            }
            _ => judge.must(false, "readable", || format!("{line:?} has unexpected fields")),
        }
    }

    /// The call for which a response is delivered: its own, or in a host that mixes them up that for another token.
    pub(crate) fn delivered_for(&self, id: u32, calls: &mut BTreeMap<u32, TokenKey>) -> u32 {
        let own = calls.remove(&id);
        if self.sabotage != Some(Sabotage::AnswersMixedUp) {
            return id;
        }
        let other = calls.iter().find(|(_, key)| own.is_some_and(|own| own != **key)).map(|(other, _)| *other);
        if let (Some(other), Some(own)) = (other, own) {
            calls.remove(&other);
            calls.insert(id, own);
        }
        other.unwrap_or(id)
    }
}

/// A result in the trace of a run.
pub(crate) fn shown(result: Result<&Arc<CachedToken>, &Problem>) -> String {
    match result {
        Ok(issued) => format!("token {:?}", entra::number_of(issued.token().expose())),
        Err(problem) => format!("{problem:?}"),
    }
}
