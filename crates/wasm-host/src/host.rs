//! The host: threads with their VMs, streams on them, and whose turn it is.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use crate::callout::{Callout, Cluster, Pending, Response};
use crate::log::{LogLine, Thread};
use crate::metrics::Metric;
use crate::module::Module;
use crate::process::Process;
use crate::settings::{FailurePolicy, Settings};
use crate::stream::{self, Outcome, Record, Reply, Request};
use crate::vm::{StartFailure, Trapped, Vm};

/// An Envoy process with the module in it. A clone is the same process.
#[derive(Clone)]
pub struct Host(Rc<Inner>);

struct Inner {
    module: Module,
    process: Rc<RefCell<Process>>,
    main: RefCell<Seat>,
    workers: Vec<RefCell<Seat>>,
    generations: Cell<u64>,
}

/// A thread's place for a VM.
#[derive(Default)]
struct Seat {
    vm: Option<Vm>,
    reloaded_at: Option<Duration>,
}

/// Why Envoy would not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The module returned false from `on_vm_start` or `on_configure`.
    #[error("the module refused its configuration:\n{log}")]
    Refused {
        /// All that was logged.
        log: String,
    },
    /// The module trapped.
    #[error("the module trapped as it was configured:\n{log}")]
    Trapped {
        /// All that was logged.
        log: String,
    },
}

/// Something that can happen next. Which of them does is the test's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Turn {
    /// The oldest of the thread's messages to itself: something is in this queue.
    QueueReady {
        /// Whose turn it is.
        thread: Thread,
        /// The queue's number.
        queue: u32,
    },
    /// The answer to a call has arrived.
    Answer {
        /// Whose turn it is.
        thread: Thread,
        /// Which call: its number in the order in which calls were made.
        call: u64,
    },
    /// The root context's timer has run out.
    Tick {
        /// Whose turn it is.
        thread: Thread,
    },
}

/// One turn after the other, and no end: the module keeps itself awake.
const TOO_MANY_TURNS: usize = 1_000_000;

impl Host {
    pub(crate) fn start(module: &Module, settings: Settings) -> Result<Self, StartError> {
        let workers = (0..settings.workers).map(|_| RefCell::default()).collect();
        let host = Self(Rc::new(Inner {
            module: module.clone(),
            process: Rc::new(RefCell::new(Process::new(settings))),
            main: RefCell::default(),
            workers,
            generations: Cell::new(0),
        }));
        host.make(Thread::Canary)?;
        for thread in host.threads() {
            let vm = host.make(thread)?;
            host.seat(thread).borrow_mut().vm = Some(vm);
        }
        Ok(host)
    }

    fn make(&self, thread: Thread) -> Result<Vm, StartError> {
        self.new_vm(thread).map_err(|failure| {
            let log = self.log_text();
            match failure {
                StartFailure::Refused => StartError::Refused { log },
                StartFailure::Trapped => StartError::Trapped { log },
            }
        })
    }

    fn new_vm(&self, thread: Thread) -> Result<Vm, StartFailure> {
        let generation = self.0.generations.get() + 1;
        self.0.generations.set(generation);
        Vm::start(&self.0.module, &self.0.process, thread, generation)
    }

    /// The main thread and the workers.
    fn threads(&self) -> impl Iterator<Item = Thread> + use<> {
        std::iter::once(Thread::Main).chain((0..self.0.workers.len()).map(Thread::Worker))
    }

    fn seat(&self, thread: Thread) -> &RefCell<Seat> {
        match thread {
            // The canary is gone; what it left for itself reaches the main thread.
            Thread::Canary | Thread::Main => &self.0.main,
            Thread::Worker(number) => &self.0.workers[number],
        }
    }

    /// The worker of this number, from 0.
    ///
    /// # Panics
    /// When there are not that many.
    pub fn worker(&self, number: usize) -> Worker<'_> {
        assert!(number < self.0.workers.len(), "there are {} workers", self.0.workers.len());
        Worker { host: self, thread: Thread::Worker(number) }
    }

    /// The main thread, where requests never are.
    pub fn main_thread(&self) -> Worker<'_> {
        Worker { host: self, thread: Thread::Main }
    }

    /// The calls that wait for an answer, oldest first.
    pub fn callouts(&self) -> Vec<Callout> {
        let process = self.0.process.borrow();
        process.callouts.values().filter(|call| call.answer.is_none()).map(|call| call.callout.clone()).collect()
    }

    /// Answers a call; the module hears of it on a later turn. Nothing happens when nobody waits for it any more.
    pub fn answer(&self, callout: &Callout, response: Response) {
        self.answer_after(callout, Duration::ZERO, response);
    }

    /// The same, some time from now. A call that times out before then is answered by its timeout.
    pub fn answer_after(&self, callout: &Callout, delay: Duration, response: Response) {
        self.settle(callout, delay, Some(response));
    }

    /// Breaks an answer off in its middle: the module is told of no header and no body.
    pub fn cut(&self, callout: &Callout) {
        self.settle(callout, Duration::ZERO, None);
    }

    fn settle(&self, callout: &Callout, delay: Duration, response: Option<Response>) {
        let mut process = self.0.process.borrow_mut();
        let at = process.now + delay;
        if let Some(pending) = process.callouts.get_mut(&callout.number)
            && pending.answer.is_none()
        {
            pending.answer = Some((at, response));
        }
    }

    /// Changes how a cluster takes calls; `None` takes the cluster away.
    pub fn set_cluster(&self, name: &str, kind: Option<Cluster>) {
        let clusters = &mut self.0.process.borrow_mut().settings.clusters;
        match kind {
            Some(kind) => clusters.insert(name.to_owned(), kind),
            None => clusters.remove(name),
        };
    }

    /// All that can happen now, in no order that a test may count on, but the same in every run.
    pub fn turns(&self) -> Vec<Turn> {
        let process = self.0.process.borrow();
        let mut turns: Vec<Turn> = Vec::new();
        for post in &process.posts {
            let thread = post.thread;
            let earlier =
                turns.iter().any(|turn| matches!(turn, Turn::QueueReady { thread: other, .. } if *other == thread));
            if !earlier {
                turns.push(Turn::QueueReady { thread, queue: post.queue });
            }
        }
        for (call, Pending { callout, answer, .. }) in &process.callouts {
            if answer.as_ref().is_some_and(|(at, _)| *at <= process.now) {
                turns.push(Turn::Answer { thread: callout.thread, call: *call });
            }
        }
        for thread in self.threads() {
            let seat = self.seat(thread).borrow();
            if seat.vm.as_ref().and_then(Vm::tick_at).is_some_and(|at| at <= process.now) {
                turns.push(Turn::Tick { thread });
            }
        }
        turns
    }

    /// Lets one thing happen. Returns whether it still could.
    pub fn take(&self, turn: Turn) -> bool {
        if !self.turns().contains(&turn) {
            return false;
        }
        match turn {
            Turn::QueueReady { thread, .. } => {
                let post = {
                    let mut process = self.0.process.borrow_mut();
                    let place = process.posts.iter().position(|post| post.thread == thread);
                    place.and_then(|place| process.posts.remove(place))
                };
                if let Some(post) = post {
                    self.enter(thread, |vm| vm.queue_ready(post.context, post.queue));
                }
            }
            Turn::Answer { thread, call } => {
                let pending = self.0.process.borrow_mut().callouts.remove(&call);
                if let Some(Pending { token, answer: Some((_, answer)), generation, .. }) = pending {
                    self.enter(
                        thread,
                        |vm| if vm.generation() == generation { vm.answer(token, answer) } else { Ok(()) },
                    );
                }
            }
            Turn::Tick { thread } => {
                self.enter(thread, Vm::tick);
            }
        }
        true
    }

    /// Lets everything happen that can, oldest first, until nothing can.
    ///
    /// # Panics
    /// When there is no end to it.
    pub fn run_until_idle(&self) {
        for _ in 0..TOO_MANY_TURNS {
            match self.turns().first() {
                Some(turn) => self.take(*turn),
                None => return,
            };
        }
        panic!("the module never comes to rest");
    }

    /// Lets time pass, and everything happen that can meanwhile.
    pub fn advance(&self, time: Duration) {
        let target = self.now() + time;
        self.run_until_idle();
        while let Some(next) = self.next_timer().filter(|next| *next <= target) {
            self.move_to(next);
            self.run_until_idle();
        }
        self.move_to(target);
    }

    /// Lets time pass, while every thread is busy elsewhere: what can happen then is in [`Host::turns`].
    pub fn elapse(&self, time: Duration) {
        let target = self.now() + time;
        while let Some(next) = self.next_timer().filter(|next| *next <= target) {
            self.move_to(next);
        }
        self.move_to(target);
    }

    /// How long it is since the host started.
    pub fn now(&self) -> Duration {
        self.0.process.borrow().now
    }

    /// What the wall clock shows.
    pub fn wall_clock(&self) -> SystemTime {
        self.0.process.borrow().wall
    }

    /// Sets the wall clock. Timers run on.
    pub fn set_wall_clock(&self, time: SystemTime) {
        self.0.process.borrow_mut().wall = time;
    }

    /// When a timer runs out next, on the clock of [`Host::now`]: a tick, a timeout, or an answer on its way.
    pub fn next_timer(&self) -> Option<Duration> {
        let process = self.0.process.borrow();
        let ticks = self.threads().filter_map(|thread| self.seat(thread).borrow().vm.as_ref()?.tick_at());
        let calls = process.callouts.values().filter_map(|call| {
            let answer = call.answer.as_ref().map(|(at, _)| *at);
            answer.into_iter().chain(call.deadline).min()
        });
        let idle = process.idle.keys().map(|(at, _)| *at).next();
        ticks.chain(calls).chain(idle).filter(|at| *at > process.now).min()
    }

    /// Moves the clocks, and does what Envoy's own timers do then.
    fn move_to(&self, time: Duration) {
        let idle = {
            let mut process = self.0.process.borrow_mut();
            let passed = time.saturating_sub(process.now);
            process.now = time;
            process.wall += passed;
            for call in process.callouts.values_mut() {
                if let Some(deadline) = call.deadline.filter(|deadline| *deadline <= time)
                    && call.answer.as_ref().is_none_or(|(at, _)| *at > deadline)
                {
                    call.answer = Some((deadline, Some(Response::timed_out())));
                }
            }
            let later = process.idle.split_off(&(time, u64::MAX));
            std::mem::replace(&mut process.idle, later)
        };
        for stream in idle.into_values() {
            if stream.borrow().outcome == Outcome::Paused {
                let status = if stream.borrow().request.end_of_stream { 504 } else { 408 };
                stream.borrow_mut().reply(Reply::text(status, "stream timeout"));
                self.end(&stream);
            }
        }
    }

    /// Calls into a thread's VM, if it has one. When it traps, it has one no more.
    fn enter(&self, thread: Thread, call: impl FnOnce(&mut Vm) -> Result<(), Trapped>) -> bool {
        let mut seat = self.seat(thread).borrow_mut();
        let Some(vm) = &mut seat.vm else { return false };
        if call(vm).is_err() {
            self.bury(thread, &mut seat);
        }
        true
    }

    /// A VM is dead: nobody hears the answers to its calls.
    fn bury(&self, thread: Thread, seat: &mut Seat) {
        seat.vm = None;
        self.0.process.borrow_mut().callouts.retain(|_, call| call.callout.thread != thread);
    }

    fn end(&self, stream: &stream::Shared) {
        let Some(place) = stream.borrow().place else { return };
        self.enter(place.thread, |vm| {
            if vm.generation() == place.generation { vm.end_stream(place.context) } else { Ok(()) }
        });
        stream.borrow_mut().place = None;
    }

    /// Makes a new VM in place of a dead one, where the policy says so. Returns whether there is one.
    fn revive(&self, thread: Thread) -> bool {
        if self.seat(thread).borrow().vm.is_some() {
            return true;
        }
        let (policy, now) = {
            let process = self.0.process.borrow();
            (process.settings.failure_policy, process.now)
        };
        let FailurePolicy::Reload(back_off) = policy else { return false };
        let mut seat = self.seat(thread).borrow_mut();
        if seat.reloaded_at.is_some_and(|at| now < at + back_off) {
            return false;
        }
        seat.reloaded_at = Some(now);
        seat.vm = self.new_vm(thread).ok();
        seat.vm.is_some()
    }

    fn request(&self, thread: Thread, request: Request) -> Stream {
        let record = Rc::new(RefCell::new(Record::new(request)));
        if self.revive(thread) {
            let mut trapped = false;
            self.enter(thread, |vm| vm.request(&record).inspect_err(|_| trapped = true));
            if trapped && record.borrow().outcome == Outcome::Paused {
                record.borrow_mut().reply(Reply::text(503, ""));
            }
        } else if self.0.process.borrow().settings.failure_policy == FailurePolicy::Open {
            let cluster = (self.0.process.borrow().settings.route)(&record.borrow().request.headers);
            record.borrow_mut().pass(cluster);
        } else {
            record.borrow_mut().reply(Reply::text(503, ""));
        }
        if record.borrow().outcome == Outcome::Paused {
            self.0.process.borrow_mut().watch(&record);
        }
        Stream { host: self.clone(), record }
    }

    /// All that was logged.
    pub fn log(&self) -> Vec<LogLine> {
        self.0.process.borrow().log.clone()
    }

    /// The same as text.
    pub fn log_text(&self) -> String {
        self.0.process.borrow().log.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Forgets what was logged.
    pub fn clear_log(&self) {
        self.0.process.borrow_mut().log.clear();
    }

    /// A value in the memory that all VMs share.
    pub fn shared_data(&self, name: &str) -> Option<Vec<u8>> {
        self.0.process.borrow().shared_data.get(name.as_bytes()).ok().map(|(value, _)| value)
    }

    /// A metric, by its name as the module defined it.
    pub fn metric(&self, name: &str) -> Option<Metric> {
        self.0.process.borrow().metrics.get(name)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Host").field("now", &self.now()).field("turns", &self.turns()).finish_non_exhaustive()
    }
}

/// A thread with a VM.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    host: &'a Host,
    thread: Thread,
}

impl Worker<'_> {
    /// A request arrives here, and the filter looks at its headers.
    pub fn request(&self, request: impl Into<Request>) -> Stream {
        self.host.request(self.thread, request.into())
    }

    /// Ends its VM as a trap does.
    pub fn kill(&self) {
        self.host.bury(self.thread, &mut self.host.seat(self.thread).borrow_mut());
    }

    /// Whether it has a VM that has not trapped.
    pub fn is_alive(&self) -> bool {
        self.host.seat(self.thread).borrow().vm.is_some()
    }

    /// The size of the VM's linear memory, in bytes.
    pub fn memory(&self) -> usize {
        self.host.seat(self.thread).borrow().vm.as_ref().map_or(0, Vm::memory)
    }

    /// How many streams the VM knows.
    pub fn streams(&self) -> usize {
        self.host.seat(self.thread).borrow().vm.as_ref().map_or(0, Vm::streams)
    }

    /// The fuel that the VM has used since this was asked last: about one for each instruction. Needs
    /// [`Module::metered`].
    pub fn fuel(&self) -> u64 {
        self.host.seat(self.thread).borrow_mut().vm.as_mut().map_or(0, Vm::take_fuel)
    }
}

/// A request on its way.
pub struct Stream {
    host: Host,
    record: stream::Shared,
}

impl Stream {
    /// What has become of it so far.
    pub fn outcome(&self) -> Outcome {
        self.record.borrow().outcome.clone()
    }

    /// The upstream has answered; or, where it still waits, the client has left. The filter hears of it.
    pub fn end(&self) {
        {
            let mut record = self.record.borrow_mut();
            if record.outcome == Outcome::Paused {
                record.outcome = Outcome::Reset;
            }
        }
        self.host.end(&self.record);
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Stream").field(&self.outcome()).finish()
    }
}
