//! A simulated Envoy process: its workers, their shared data, and a queue of events that are processed one by one.
//!
//! Each worker runs the engine's driver, as in Envoy. The seed determines everything.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use entra_exchange_core::broker::{QueueId, RequiredLifetime, SharedData, Shelves, Store, StreamId};
use entra_exchange_core::engine::CallId;
use entra_exchange_core::entra::TokenKey;
use entra_exchange_core::time::Timestamp;

use crate::clock::Clock;
use crate::entra::Answered;
use crate::judge::{Judge, Life};
use crate::memory::Memory;
use crate::plan::Plan;
use crate::random::Random;
use crate::sabotage::Sabotage;
use crate::specs::{self, Federated};
use crate::vm::{After, Vm};

/// The VM of the main thread. It gets no requests, and the cluster that serves the token file does not answer it.
pub(crate) const MAIN: usize = 0;

/// An event in a worker's VM.
#[derive(Debug)]
pub(crate) enum SimulatedEvent {
    RequestAccess {
        index: usize,
        need: RequiredLifetime,
    },
    Leaves {
        generation: u32,
        stream: StreamId,
    },
    /// A message in this queue. It is ignored if the queue belongs to an earlier VM.
    Message {
        queue: QueueId,
        message: Vec<u8>,
    },
    Tick {
        generation: u32,
        at: u64,
    },
    Response {
        generation: u32,
        id: u32,
        answered: Answered,
    },
    Rejected {
        generation: u32,
        key: TokenKey,
    },
    Dies,
    Stalls {
        length: u64,
    },
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    pub(crate) memory: Memory,
    pub(crate) judge: RefCell<Judge>,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) random: RefCell<Random>,
    pub(crate) vms: Vec<RefCell<Vm>>,
    agenda: RefCell<BTreeMap<(u64, u64), (usize, SimulatedEvent)>>,
    numbers: Cell<u64>,
    /// The number of workers that are processing an event.
    depth: Cell<u32>,
    /// Whether to print the events.
    verbose: bool,
}

/// Shared data as one worker accesses it: other workers may change it between a read and a write.
pub(crate) struct SharedView<'a> {
    pub(crate) world: &'a World,
    pub(crate) vm: usize,
}

impl SharedView<'_> {
    fn name(&self, name: &str) -> String {
        match self.world.sabotage {
            Some(Sabotage::NothingShared) => format!("{}/{name}", self.vm),
            _ => name.to_owned(),
        }
    }
}

impl SharedData for SharedView<'_> {
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)> {
        self.world.memory.get(&self.name(name))
    }

    fn set(&self, name: &str, value: &[u8], cas: Option<u32>) -> bool {
        self.world.interleave_others();
        let cas = cas.filter(|_| self.world.sabotage != Some(Sabotage::EverySetSucceeds));
        let is_set = self.world.memory.set(&self.name(name), value, cas);
        if is_set {
            self.world.observe_budget(self.vm, name);
        }
        is_set
    }
}

impl World {
    pub(crate) fn new(plan: Plan, mut random: Random, sabotage: Option<Sabotage>) -> Self {
        let judge = RefCell::new(Judge::new(&plan));
        let vms = (0..=plan.workers).map(|vm| RefCell::new(Vm::boot(&plan, vm, 0, None, &mut random))).collect();
        let world = Self {
            clock: Clock::default(),
            memory: Memory::default(),
            judge,
            sabotage,
            random: RefCell::new(random),
            vms,
            agenda: RefCell::default(),
            numbers: Cell::new(0),
            depth: Cell::new(0),
            verbose: std::env::var_os("SEED").is_some() && sabotage.is_none(),
            plan,
        };
        if sabotage != Some(Sabotage::ShelvesNotMade) {
            world.prepare(MAIN);
        }
        world.announce();
        for vm in 0..=world.plan.workers {
            world.warm_up(vm);
        }
        world
    }

    /// Prepares the store for a VM that loads the configuration.
    fn prepare(&self, vm: usize) {
        Shelves::new(SharedView { world: self, vm }).prepare();
    }

    /// Puts the events of the plan on the agenda.
    fn announce(&self) {
        for (at, count) in &self.plan.bursts {
            for _ in 0..*count {
                self.request(at + self.draw(0, 20));
            }
        }
        for number in 0..self.plan.in_use_every.map_or(0, |every| self.plan.end / every) {
            let at = number * self.plan.in_use_every.unwrap_or_default();
            let (index, need) = (specs::first_unlisted(), RequiredLifetime::Any);
            self.put(at, self.any_worker(), SimulatedEvent::RequestAccess { index, need });
        }
        for at in &self.plan.deaths {
            self.put(*at, self.any_worker(), SimulatedEvent::Dies);
        }
        for (at, length) in &self.plan.stalls {
            self.put(*at, self.any_worker(), SimulatedEvent::Stalls { length: *length });
        }
        // A new configuration replaces the VMs, one after the other.
        if let Some(at) = self.plan.discard_at {
            for vm in 0..=self.plan.workers {
                self.put(at + 1 + self.draw(0, 50), vm, SimulatedEvent::Dies);
            }
        }
    }

    /// Adds a request for a random token in a random worker.
    pub(crate) fn request(&self, at: u64) {
        let index = if self.plan.unlisted_percent > 0 && self.chance(self.plan.unlisted_percent) {
            specs::first_unlisted() + self.random.borrow_mut().index(specs::UNLISTED)
        } else {
            self.random.borrow_mut().index(self.plan.keys)
        };
        let need = self.random.borrow_mut().pick(&[
            RequiredLifetime::Any,
            RequiredLifetime::Any,
            RequiredLifetime::FiveMinutes,
        ]);
        self.put(at, self.any_worker(), SimulatedEvent::RequestAccess { index, need });
    }

    /// Adds a request for every token in every worker.
    pub(crate) fn request_all(&self, at: u64) {
        for vm in 1..=self.plan.workers {
            for index in 0..self.plan.keys {
                self.put(at, vm, SimulatedEvent::RequestAccess { index, need: RequiredLifetime::Any });
            }
        }
    }

    /// Lets the VM of every worker die.
    pub(crate) fn kill_all(&self, at: u64) {
        for vm in 1..=self.plan.workers {
            self.put(at, vm, SimulatedEvent::Dies);
        }
    }

    fn any_worker(&self) -> usize {
        1 + self.random.borrow_mut().index(self.plan.workers)
    }

    /// Prints an event if only one seed is run.
    pub(crate) fn note(&self, vm: usize, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10} ms  worker {vm}  {}", self.clock.steady(), text());
        }
    }

    pub(crate) fn draw(&self, least: u64, most: u64) -> u64 {
        self.random.borrow_mut().between(least, most)
    }

    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.random.borrow_mut().chance(percent)
    }

    pub(crate) fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    pub(crate) fn put(&self, at: u64, vm: usize, event: SimulatedEvent) {
        self.agenda.borrow_mut().insert((at, self.number()), (vm, event));
    }

    /// Processes all events until then.
    pub(crate) fn run_until(&self, end: u64) {
        loop {
            let Some(entry) =
                self.agenda.borrow_mut().first_entry().filter(|entry| entry.key().0 <= end).map(|entry| {
                    let at = entry.key().0;
                    (at, entry.remove())
                })
            else {
                break;
            };
            let (at, (vm, event)) = entry;
            self.set_clock(at);
            self.process(vm, event);
            self.judge();
            if self.judge.borrow().violation.is_some() {
                return;
            }
        }
        self.set_clock(end);
        self.judge();
    }

    fn set_clock(&self, at: u64) {
        for (jump_at, by) in &self.plan.jumps {
            if (self.clock.steady()..at).contains(jump_at) {
                self.clock.run_to(*jump_at);
                self.judge();
                self.clock.jump(*by);
                self.note(MAIN, || format!("the clock jumps by {by} ms"));
            }
        }
        if let Some(discard_at) = self.plan.discard_at
            && (self.clock.steady()..at).contains(&discard_at)
        {
            self.clock.run_to(discard_at);
            self.judge.borrow_mut().discard_before = Some(self.clock.wall());
        }
        self.clock.run_to(at);
    }

    fn judge(&self) {
        let now = self.clock.steady();
        let stalled = |vm: usize| {
            let vm = self.vms[vm].borrow();
            (vm.stalled_until <= now).then_some(vm.stalled)
        };
        self.judge.borrow_mut().after_step(&self.clock, stalled, self.memory.longest());
        // Setting the clock also moves the minute in which the number of new scopes is limited.
        if self.plan.unlisted_percent > 0 && self.plan.jumps.is_empty() && now < self.plan.end {
            // A worker that is processing an event is checked afterwards.
            let kept = self.vms.iter().filter_map(|vm| Some(vm.try_borrow().ok()?.driver.keys())).max();
            let (kept, most) = (kept.unwrap_or_default(), self.plan.most_keys());
            self.judge.borrow_mut().must(kept <= most, "budget", || format!("{kept} keys in a worker, at most {most}"));
        }
    }

    /// While one worker writes shared data, processes an imminent event of another one.
    fn interleave_others(&self) {
        if self.depth.get() >= 4 || !self.chance(40) {
            return;
        }
        let soon = self.clock.steady() + 2;
        let next = {
            let agenda = self.agenda.borrow();
            let mut near = agenda.iter().take_while(|((at, _), _)| *at <= soon);
            near.find(|(_, (vm, _))| self.vms[*vm].try_borrow_mut().is_ok()).map(|(when, _)| *when)
        };
        if let Some((vm, event)) = next.and_then(|when| self.agenda.borrow_mut().remove(&when)) {
            self.process(vm, event);
        }
    }

    fn process(&self, vm: usize, event: SimulatedEvent) {
        let stalled_until = self.vms[vm].borrow().stalled_until;
        if stalled_until > self.clock.steady() {
            return self.put(stalled_until, vm, event);
        }
        self.depth.set(self.depth.get() + 1);
        self.note(vm, || format!("{event:?}"));
        match event {
            SimulatedEvent::RequestAccess { index, need } => self.handle_request(vm, index, need),
            SimulatedEvent::Leaves { generation, stream } => self.leaves((vm, generation), stream),
            SimulatedEvent::Message { queue, message } => {
                if self.vms[vm].borrow().queue == queue {
                    self.drive(vm, self.after_no_call(), |driver, now, host| driver.woken(&[message], now, host));
                }
            }
            SimulatedEvent::Tick { generation, at } => {
                let fires = {
                    let mut vm = self.vms[vm].borrow_mut();
                    vm.generation == generation && vm.tick_at.take_if(|due| *due == at).is_some()
                };
                if fires {
                    self.count_tick(vm);
                }
                if fires && self.sabotage != Some(Sabotage::NoTimer) {
                    self.drive(vm, self.after_no_call(), |driver, now, host| driver.timer(now, host));
                }
            }
            SimulatedEvent::Response { generation, id, answered } => {
                self.answered((vm, generation), id, answered);
            }
            SimulatedEvent::Rejected { generation, key } => self.rejected((vm, generation), key),
            SimulatedEvent::Dies => self.dies(vm),
            SimulatedEvent::Stalls { length } => {
                let mut vm = self.vms[vm].borrow_mut();
                vm.stalled_until = self.clock.steady() + length;
                vm.stalled += length;
            }
        }
        self.depth.set(self.depth.get() - 1);
    }

    /// The context of a wake-up or a timer. A worker that waits for another one's call may have lost its lease if it stalled, or if the clock
    /// that ends leases was set.
    fn after_no_call(&self) -> After {
        let Plan { federated, jumps, stalls, stalls_leading, .. } = &self.plan;
        let is_certain = jumps.is_empty() && stalls.is_empty() && *stalls_leading == 0;
        After { under_lease: *federated == Federated::File || is_certain, ..After::default() }
    }

    /// Detects a timer that is always set for a time in the past, and so fires every millisecond.
    fn count_tick(&self, vm: usize) {
        let second = self.clock.steady() / 1000;
        let mut state = self.vms[vm].borrow_mut();
        let count = if state.ticks.0 == second { state.ticks.1 + 1 } else { 1 };
        state.ticks = (second, count);
        self.judge
            .borrow_mut()
            .must(count < 200, "no storm", || format!("the timer of worker {vm} fires {count} times in a second"));
    }

    /// Replaces a VM with a new one without memory. Its streams are gone.
    fn dies(&self, vm: usize) {
        {
            let mut state = self.vms[vm].borrow_mut();
            self.judge.borrow_mut().dies((vm, state.generation));
            let generation = state.generation + 1;
            let discard_before = self.judge.borrow().discard_before;
            *state = Vm::boot(&self.plan, vm, generation, discard_before, &mut self.random.borrow_mut());
        }
        // The new VM loads the same configuration.
        if self.sabotage != Some(Sabotage::ShelvesNotMade) {
            self.prepare(vm);
        }
        self.warm_up(vm);
    }

    fn warm_up(&self, vm: usize) {
        if self.plan.warm {
            let first = Arc::clone(&self.vms[vm].borrow().specs[0]);
            self.drive(vm, After::default(), |driver, now, _| {
                driver.keep_warm(&[first], now);
                Vec::new()
            });
        }
    }

    fn answered(&self, (vm, generation): Life, id: u32, answered: Answered) {
        let (under_lease, call) = self.judge.borrow_mut().call_ends(id, &self.clock);
        let id = {
            let mut state = self.vms[vm].borrow_mut();
            if state.generation != generation {
                return;
            }
            self.delivered_for(id, &mut state.calls)
        };
        if let Some(call) = call {
            self.judge.borrow_mut().is_answered(&call, &answered, under_lease, &self.clock);
        }
        let Answered { answer, retry_after, minted, .. } = answered;
        let after = After { under_lease, minted, retry_after };
        self.drive(vm, after, |driver, now, host| driver.call_finished(CallId(id), answer, now, host));
    }

    /// From now on there are no faults, so a request without a token is a violation.
    pub(crate) fn expect_tokens(&self) {
        self.judge.borrow_mut().nothing_is_wrong = true;
    }

    /// Checks that no worker keeps a token key, no request waits, and a shelf becomes empty with the next write to it.
    pub(crate) fn expect_nothing_left(&self) {
        let keys: usize = self.vms.iter().map(|vm| vm.borrow().driver.keys()).sum();
        let mut judge = self.judge.borrow_mut();
        judge.must(keys == 0, "nothing left", || format!("workers still keep {keys} token keys"));
        let waiting = judge.waiting();
        judge.must(waiting == 0, "nothing left", || format!("{waiting} requests still wait"));
        drop(judge);
        // The main thread acquires and releases each lease.
        let all =
            if self.plan.unlisted_percent > 0 { specs::all_as_listed() } else { specs::all(None, self.plan.federated) };
        for spec in all {
            self.drive(MAIN, After::default(), |driver, now, host| {
                driver.keep_warm(&[spec], now);
                driver.timer(now, host)
            });
        }
        self.run_until(self.clock.steady() + 1_000);
        let shelves = self.memory.not_empty();
        self.judge.borrow_mut().must(shelves == 0, "nothing left", || format!("{shelves} shelves are not empty"));
    }

    /// The wall clock as a worker reads it.
    pub(crate) fn now(&self, vm: usize) -> Timestamp {
        match self.sabotage {
            Some(Sabotage::SlowClock) if vm == 1 => self.clock.wall().minus(Duration::from_secs(7200)),
            Some(Sabotage::ClockStandsStill) if vm == 1 => Clock::default().wall().plus(Duration::from_secs(1)),
            _ => self.clock.wall(),
        }
    }
}
