//! One worker's VM: its broker, and a shell that does what the broker says, as the filter's does in Envoy
//! (`src/root.rs`, `src/worker.rs`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use entra_exchange_core::broker::{Broker, Command, Issued, QueueId, READ_TIMEOUT, SharedData, StreamId, WorkerId};
use entra_exchange_core::entra::{Grant, TokenKey, TokenRequest};
use entra_exchange_core::event::Event;
use entra_exchange_core::http::CallResult;
use entra_exchange_core::time::Timestamp;

use crate::entra::{self, Answered, Weather};
use crate::grants;
use crate::judge::Rejects;
use crate::plan::Plan;
use crate::random::Random;
use crate::sabotage::Sabotage;
use crate::world::{Door, Happening, MAIN, World};

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Assertion(TokenKey),
    Endpoint(TokenKey),
}

/// What a broker is told is the answer to a call, or something else.
#[derive(Clone, Copy)]
pub(crate) struct After {
    /// Whether nobody else could have taken the lease meanwhile.
    pub(crate) under_lease: bool,
    pub(crate) minted: Option<usize>,
    pub(crate) retry_after: Option<u64>,
}

impl Default for After {
    fn default() -> Self {
        Self { under_lease: true, minted: None, retry_after: None }
    }
}

/// What a request asks for.
pub(crate) struct Asked {
    pub(crate) grant: Arc<Grant>,
    pub(crate) rejects: Rejects,
}

pub(crate) struct Vm {
    pub(crate) broker: Broker,
    pub(crate) queue: QueueId,
    /// The how-many-th VM of this worker.
    pub(crate) generation: u32,
    pub(crate) grants: Vec<Arc<Grant>>,
    /// When its timer fires.
    pub(crate) tick_at: Option<u64>,
    /// In which second it fired last, and how often in that.
    pub(crate) ticks: (u64, u64),
    /// The calls under way: Envoy forgets them with the VM.
    pub(crate) calls: HashMap<u64, Call>,
    /// Who waits for what.
    pub(crate) streams: HashMap<StreamId, Asked>,
    /// The tokens that were handed out last.
    pub(crate) handed_out: HashMap<TokenKey, Arc<Issued>>,
    pub(crate) stalled_until: u64,
    /// For how long it has done nothing, all in all.
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
        // A queue is found by its number: which worker's it is, and the how-many-th of that one.
        let queue = QueueId(generation * 100 + vm as u32);
        Self {
            broker: Broker::new(WorkerId(random.next()), queue, plan.limits),
            queue,
            generation,
            grants: [grants::all(discard_before), grants::invented(discard_before)].concat(),
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

/// Tells a broker what came of a call.
pub(crate) fn report(
    broker: &mut Broker,
    call: Call,
    answer: CallResult,
    now: Timestamp,
    shared: &dyn SharedData,
) -> Vec<Command> {
    match call {
        Call::Assertion(key) => broker.assertion_arrived(key, answer, now, shared),
        Call::Endpoint(key) => broker.endpoint_answered(key, answer, now, shared),
    }
}

impl World {
    /// Tells a broker something, and does what it says until it says nothing more.
    pub(crate) fn tell(
        &self,
        vm: usize,
        after: After,
        what: impl FnOnce(&mut Broker, Timestamp, &dyn SharedData) -> Vec<Command>,
    ) {
        let now = self.now(vm);
        let door = Door { world: self, vm };
        let mut at_work = self.vms[vm].borrow_mut();
        let life = (vm, at_work.generation);
        let mut commands = VecDeque::from(what(&mut at_work.broker, now, &door));
        while let Some(command) = commands.pop_front() {
            self.note(vm, || match &command {
                Command::ReadAssertion(grant) => format!("  reads for {:?}", grant.key()),
                Command::CallEndpoint { grant, cluster, .. } => format!("  calls {cluster} for {:?}", grant.key()),
                command => format!("  {command:?}"),
            });
            let (call, timeout, answered) = match command {
                Command::ReadAssertion(grant) => {
                    self.judge.borrow_mut().exchange_begins(grant.key(), &self.clock);
                    (Call::Assertion(grant.key()), READ_TIMEOUT, self.read_file(vm))
                }
                Command::CallEndpoint { grant, cluster, request, timeout } => {
                    (Call::Endpoint(grant.key()), timeout, self.ask_entra(&grant, &cluster, &request, timeout))
                }
                // No request asks for readiness here.
                Command::Measure(_) | Command::ReadForCheck(_) | Command::Checked(..) => continue,
                Command::Wake(queue, key) => {
                    self.wake(queue, key);
                    continue;
                }
                Command::Finish(stream, outcome) => {
                    let waiting = at_work.streams.len();
                    let known = self.judge.borrow_mut().waits_no_more(life, stream);
                    self.judge.borrow_mut().must(known, "answered once", || format!("{stream:?} of worker {vm}"));
                    match (at_work.streams.remove(&stream), outcome) {
                        (Some(asked), Ok(issued)) => self.hands_out(&mut at_work, life, &asked, issued),
                        (Some(asked), Err(problem)) => {
                            self.judge.borrow_mut().refuses(&asked, &problem, (life, waiting), &self.clock);
                        }
                        (None, _) => {}
                    }
                    continue;
                }
                Command::Log(event) => {
                    self.logs(&at_work, &event, after, now);
                    continue;
                }
            };
            if answered.answer.is_err() {
                commands.extend(report(&mut at_work.broker, call, answered.answer, now, &door));
                continue;
            }
            let number = self.number();
            let (Call::Assertion(key) | Call::Endpoint(key)) = call;
            self.judge.borrow_mut().calls(number, life, key, timeout, &self.clock);
            // An answer to a call that was given up is nobody's: it would be taken for the answer to this one.
            at_work.calls.retain(|_, other| *other != call);
            at_work.calls.insert(number, call);
            self.troubles_leader(vm, answered.after);
            let call = self.mixed_up(call, &at_work.grants);
            let at = self.clock.steady() + answered.after;
            self.put(at, vm, Happening::Answer { generation: life.1, number, call, answered });
        }
        let period = at_work.broker.next_due().map(|due| (due.since(now).as_millis() as u64).max(1));
        at_work.tick_at = period.map(|period| self.clock.steady() + period);
        if let Some(at) = at_work.tick_at {
            self.put(at, vm, Happening::Tick { generation: life.1, at });
        }
    }

    /// A worker may die or come to nothing for long just while others rely on it.
    fn troubles_leader(&self, vm: usize, within: u64) {
        if self.clock.steady() >= self.plan.end {
            return;
        }
        if self.chance(self.plan.dies_leading) {
            self.put(self.clock.steady() + self.draw(0, within), vm, Happening::Dies);
        }
        if self.chance(self.plan.stalls_leading) {
            let length = self.draw(1_000, 25_000);
            self.put(self.clock.steady() + self.draw(0, within), vm, Happening::Stalls { length });
        }
    }

    /// Internal listeners do not answer the main thread.
    fn read_file(&self, vm: usize) -> Answered {
        let faults = if self.clock.steady() < self.plan.end { self.plan.assertion_faults } else { 0 };
        let mut random = self.random.borrow_mut();
        if vm == MAIN {
            return entra::no_listener();
        }
        entra::assertion(&mut random, faults, self.clock.wall(), READ_TIMEOUT.as_millis() as u64)
    }

    fn ask_entra(&self, grant: &Grant, cluster: &String, request: &TokenRequest, timeout: Duration) -> Answered {
        let mut judge = self.judge.borrow_mut();
        let right = request.authority == grant.authority().host() && grant.clusters().contains(cluster);
        judge.must(right, "assertion", || format!("it goes to {cluster} and {}", request.authority));
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

    /// A message to another worker; to a queue whose VM is gone it does nothing.
    pub(crate) fn wake(&self, queue: QueueId, key: TokenKey) {
        let vm = queue.0 as usize % 100;
        if self.sabotage == Some(Sabotage::NoMessageToOthers) {
            return;
        }
        if self.clock.steady() < self.plan.end && self.chance(self.plan.lost) {
            return;
        }
        for _ in 0..if self.chance(self.plan.doubled) { 2 } else { 1 } {
            self.put(self.clock.steady() + self.draw(0, self.plan.delay), vm, Happening::Message { queue, key });
        }
    }

    /// What the log says of an exchange, held against what came of it.
    fn logs(&self, at_work: &Vm, event: &Event, after: After, now: Timestamp) {
        let line = event.to_string();
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let mut judge = self.judge.borrow_mut();
        judge.look_for_secrets(&line);
        let is_meant =
            |grant: &&Arc<Grant>| field("identity") == Some(grant.identity()) && field("scope") == Some(grant.scope());
        let grant = at_work.grants.iter().find(is_meant);
        let Some(key) = grant.map(|grant| grant.key()) else {
            return judge.must(false, "told", || format!("{line:?} is about nobody"));
        };
        let milliseconds = |name: &str| field(name).and_then(|number| number.parse().ok()).map(Duration::from_millis);
        match (field("outcome"), after.minted, milliseconds("took_ms")) {
            (Some("issued"), Some(number), Some(took)) => {
                judge.succeeds(key, number, now.minus(took), after.under_lease, &self.clock);
            }
            (Some("failed"), ..) => {
                let left_to_others = at_work.queue.0 % 100 != MAIN as u32;
                judge.must(left_to_others, "left to others", || format!("the main thread fails for all: {line}"));
                let wait = milliseconds("next_try_in_ms").unwrap_or_default().as_millis() as u64;
                judge.fails(key, wait, after.retry_after, after.under_lease, &self.clock);
            }
            (Some("retried"), None, None) => {
                let next =
                    grant.and_then(|grant| grant.clusters().iter().find(|way| field("next_cluster") == Some(way)));
                judge.must(next.is_some(), "told", || format!("{line:?} names no cluster that leads to Entra"));
            }
            _ => judge.must(false, "told", || format!("{line:?} makes no sense")),
        }
    }

    fn mixed_up(&self, call: Call, grants: &[Arc<Grant>]) -> Call {
        let other = |key: TokenKey| grants.iter().map(|grant| grant.key()).find(|other| *other != key).unwrap_or(key);
        match call {
            Call::Endpoint(key) if self.sabotage == Some(Sabotage::AnswersMixedUp) => Call::Endpoint(other(key)),
            call => call,
        }
    }
}
