//! One Envoy process: its workers, what they share, and what happens to them one after the other.
//!
//! It does what the filter's shell does in Envoy (`src/root.rs`, `src/worker.rs`). Everything is decided by the seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use entra_exchange_core::broker::{Need, QueueId, SharedData, StreamId, prepare};
use entra_exchange_core::entra::TokenKey;
use entra_exchange_core::time::Timestamp;

use crate::clock::Clock;
use crate::entra::Answered;
use crate::grants;
use crate::judge::{Judge, Life};
use crate::memory::Memory;
use crate::plan::Plan;
use crate::random::Random;
use crate::sabotage::Sabotage;
use crate::vm::{After, Call, Vm, report};

/// The main thread's VM: it has no requests, and the cluster with the token's file does not answer it.
pub(crate) const MAIN: usize = 0;

/// What happens to a worker's VM.
#[derive(Debug)]
pub(crate) enum Happening {
    Request {
        place: usize,
        need: Need,
    },
    Leaves {
        generation: u32,
        stream: StreamId,
    },
    /// A message in this queue; nobody reads it when the queue is not the VM's any more.
    Message {
        queue: QueueId,
        key: TokenKey,
    },
    Tick {
        generation: u32,
        at: u64,
    },
    Answer {
        generation: u32,
        number: u64,
        call: Call,
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
    agenda: RefCell<BTreeMap<(u64, u64), (usize, Happening)>>,
    numbers: Cell<u64>,
    /// How many workers are in the middle of something.
    depth: Cell<u32>,
    /// Whether to tell what happens.
    told: bool,
}

/// The shared memory as one worker reaches it: between its look and its change others may come.
pub(crate) struct Door<'a> {
    pub(crate) world: &'a World,
    pub(crate) vm: usize,
}

impl Door<'_> {
    fn name(&self, name: &str) -> String {
        match self.world.sabotage {
            Some(Sabotage::NothingShared) => format!("{}/{name}", self.vm),
            _ => name.to_owned(),
        }
    }
}

impl SharedData for Door<'_> {
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)> {
        self.world.memory.get(&self.name(name))
    }

    fn set(&self, name: &str, value: &[u8], cas: Option<u32>) -> bool {
        self.world.let_others_come_between();
        let cas = cas.filter(|_| self.world.sabotage != Some(Sabotage::EverySetSucceeds));
        self.world.memory.set(&self.name(name), value, cas)
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
            told: std::env::var_os("SEED").is_some() && sabotage.is_none(),
            plan,
        };
        if sabotage != Some(Sabotage::ShelvesNotMade) {
            prepare(&Door { world: &world, vm: MAIN });
        }
        world.announce();
        for vm in 0..=world.plan.workers {
            world.warm_up(vm);
        }
        world
    }

    /// Puts on the agenda what the plan says.
    fn announce(&self) {
        for (at, count) in &self.plan.bursts {
            for _ in 0..*count {
                self.request(at + self.draw(0, 20));
            }
        }
        for at in &self.plan.deaths {
            self.put(*at, self.any_worker(), Happening::Dies);
        }
        for (at, length) in &self.plan.stalls {
            self.put(*at, self.any_worker(), Happening::Stalls { length: *length });
        }
        // Each VM comes anew with a new configuration, one after the other.
        if let Some(at) = self.plan.discard_at {
            for vm in 0..=self.plan.workers {
                self.put(at + 1 + self.draw(0, 50), vm, Happening::Dies);
            }
        }
    }

    /// Some worker has a request, for something.
    pub(crate) fn request(&self, at: u64) {
        let place = if self.plan.inventive > 0 && self.chance(self.plan.inventive) {
            grants::all(None).len() + self.random.borrow_mut().place(grants::INVENTED)
        } else {
            self.random.borrow_mut().place(self.plan.keys)
        };
        let need = self.random.borrow_mut().pick(&[Need::Usable, Need::Usable, Need::LongLived]);
        self.put(at, self.any_worker(), Happening::Request { place, need });
    }

    /// Every worker has a request for everything.
    pub(crate) fn request_all(&self, at: u64) {
        for vm in 1..=self.plan.workers {
            for place in 0..self.plan.keys {
                self.put(at, vm, Happening::Request { place, need: Need::Usable });
            }
        }
    }

    /// Every worker's VM dies.
    pub(crate) fn kill_all(&self, at: u64) {
        for vm in 1..=self.plan.workers {
            self.put(at, vm, Happening::Dies);
        }
    }

    fn any_worker(&self) -> usize {
        1 + self.random.borrow_mut().place(self.plan.workers)
    }

    /// Says what happens, when one seed is looked at.
    pub(crate) fn note(&self, vm: usize, what: impl FnOnce() -> String) {
        if self.told {
            println!("{:>10} ms  worker {vm}  {}", self.clock.steady(), what());
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

    pub(crate) fn put(&self, at: u64, vm: usize, happening: Happening) {
        self.agenda.borrow_mut().insert((at, self.number()), (vm, happening));
    }

    /// Lets everything happen until then.
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
            let (at, (vm, happening)) = entry;
            self.set_clock(at);
            self.happens(vm, happening);
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
        // A clock that is set takes the minute with it, in which so many scopes may be new.
        if self.plan.inventive > 0 && self.plan.jumps.is_empty() && now < self.plan.end {
            // A worker in the middle of something is looked at afterwards.
            let kept = self.vms.iter().filter_map(|vm| Some(vm.try_borrow().ok()?.broker.keys())).max();
            let (kept, most) = (kept.unwrap_or_default(), self.plan.most_keys());
            self.judge.borrow_mut().must(kept <= most, "budget", || format!("{kept} keys in a worker, at most {most}"));
        }
    }

    /// While one worker changes what is shared, another one does what it is about to do anyway.
    fn let_others_come_between(&self) {
        if self.depth.get() >= 4 || !self.chance(40) {
            return;
        }
        let soon = self.clock.steady() + 2;
        let next = {
            let agenda = self.agenda.borrow();
            let mut near = agenda.iter().take_while(|((at, _), _)| *at <= soon);
            near.find(|(_, (vm, _))| self.vms[*vm].try_borrow_mut().is_ok()).map(|(when, _)| *when)
        };
        if let Some((vm, happening)) = next.and_then(|when| self.agenda.borrow_mut().remove(&when)) {
            self.happens(vm, happening);
        }
    }

    fn happens(&self, vm: usize, happening: Happening) {
        let stalled_until = self.vms[vm].borrow().stalled_until;
        if stalled_until > self.clock.steady() {
            return self.put(stalled_until, vm, happening);
        }
        self.depth.set(self.depth.get() + 1);
        self.note(vm, || format!("{happening:?}"));
        match happening {
            Happening::Request { place, need } => self.asks(vm, place, need),
            Happening::Leaves { generation, stream } => self.leaves((vm, generation), stream),
            Happening::Message { queue, key } => {
                if self.vms[vm].borrow().queue == queue {
                    self.tell(vm, After::default(), |broker, now, shared| broker.look(key, now, shared));
                }
            }
            Happening::Tick { generation, at } => {
                let fires = {
                    let mut vm = self.vms[vm].borrow_mut();
                    vm.generation == generation && vm.tick_at.take_if(|due| *due == at).is_some()
                };
                if fires {
                    self.counts_ticks(vm);
                }
                if fires && self.sabotage != Some(Sabotage::NoTimer) {
                    self.tell(vm, After::default(), |broker, now, shared| broker.tick(now, shared));
                }
            }
            Happening::Answer { generation, number, call, answered } => {
                self.answered((vm, generation), number, call, answered);
            }
            Happening::Rejected { generation, key } => self.rejected((vm, generation), key),
            Happening::Dies => self.dies(vm),
            Happening::Stalls { length } => {
                let mut vm = self.vms[vm].borrow_mut();
                vm.stalled_until = self.clock.steady() + length;
                vm.stalled += length;
            }
        }
        self.depth.set(self.depth.get() - 1);
    }

    /// A timer that is set anew for a time that has come fires every millisecond.
    fn counts_ticks(&self, vm: usize) {
        let second = self.clock.steady() / 1000;
        let mut at_work = self.vms[vm].borrow_mut();
        let count = if at_work.ticks.0 == second { at_work.ticks.1 + 1 } else { 1 };
        at_work.ticks = (second, count);
        self.judge
            .borrow_mut()
            .must(count < 200, "no storm", || format!("worker {vm} ticks {count} times in a second"));
    }

    /// Its streams are gone with it; a new one takes its place, which knows nothing.
    fn dies(&self, vm: usize) {
        {
            let mut at_work = self.vms[vm].borrow_mut();
            self.judge.borrow_mut().dies((vm, at_work.generation));
            let generation = at_work.generation + 1;
            let discard_before = self.judge.borrow().discard_before;
            *at_work = Vm::boot(&self.plan, vm, generation, discard_before, &mut self.random.borrow_mut());
        }
        // Its configuration is taken as before.
        if self.sabotage != Some(Sabotage::ShelvesNotMade) {
            prepare(&Door { world: self, vm });
        }
        self.warm_up(vm);
    }

    fn warm_up(&self, vm: usize) {
        if self.plan.warm {
            let first = Arc::clone(&self.vms[vm].borrow().grants[0]);
            self.tell(vm, After::default(), |broker, now, _| {
                broker.keep_warm(&[first], now);
                Vec::new()
            });
        }
    }

    fn answered(&self, (vm, generation): Life, number: u64, call: Call, answered: Answered) {
        let known = {
            let mut at_work = self.vms[vm].borrow_mut();
            at_work.generation == generation && at_work.calls.remove(&number).is_some()
        };
        let under_lease = self.judge.borrow_mut().call_ends(number, &self.clock);
        if known {
            let Answered { answer, retry_after, minted, .. } = answered;
            let after = After { under_lease, minted, retry_after };
            self.tell(vm, after, |broker, now, shared| report(broker, call, answer, now, shared));
        }
    }

    /// From now on a request for which no token can be had is a mistake: nothing is wrong any more.
    pub(crate) fn expect_tokens(&self) {
        self.judge.borrow_mut().nothing_is_wrong = true;
    }

    /// When all is over no worker keeps a timer, nobody waits, and a shelf is empty as soon as somebody writes there.
    pub(crate) fn expect_nothing_left(&self) {
        let timers = self.vms.iter().filter(|vm| vm.borrow().broker.next_due().is_some()).count();
        let mut judge = self.judge.borrow_mut();
        judge.must(timers == 0, "nothing left", || format!("{timers} workers have a timer still"));
        let waiting = judge.waiting();
        judge.must(waiting == 0, "nothing left", || format!("{waiting} requests wait still"));
        drop(judge);
        // The main thread takes each lease and gives it back.
        let all = if self.plan.inventive > 0 { grants::everything() } else { grants::all(None) };
        for grant in all {
            self.tell(MAIN, After::default(), |broker, now, shared| {
                broker.keep_warm(&[grant], now);
                broker.tick(now, shared)
            });
        }
        self.run_until(self.clock.steady() + 1_000);
        let shelves = self.memory.not_empty();
        self.judge.borrow_mut().must(shelves == 0, "nothing left", || format!("{shelves} shelves hold something"));
    }

    /// The wall's clock as a worker reads it.
    pub(crate) fn now(&self, vm: usize) -> Timestamp {
        match self.sabotage {
            Some(Sabotage::SlowClock) if vm == 1 => self.clock.wall().minus(Duration::from_secs(7200)),
            Some(Sabotage::ClockStandsStill) if vm == 1 => Clock::default().wall().plus(Duration::from_secs(1)),
            _ => self.clock.wall(),
        }
    }
}
