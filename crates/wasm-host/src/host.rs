//! The host: its threads with their VMs and streams, and the events that a test can deliver.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use crate::callout::{Callout, Cluster, Pending, Response};
use crate::log::{LogLine, Thread};
use crate::metrics::Metric;
use crate::module::Module;
use crate::process::Process;
use crate::settings::{FailurePolicy, Settings};
use crate::stream::{self, Record, Reply, Request, StreamState};
use crate::vm::{StartFailure, Trapped, Vm};

/// An Envoy process that runs the module. Clones share one process.
#[derive(Clone)]
pub struct Host(Rc<Inner>);

struct Inner {
    module: Module,
    process: Rc<RefCell<Process>>,
    main: RefCell<VmSlot>,
    workers: Vec<RefCell<VmSlot>>,
    generations: Cell<u64>,
}

/// A thread's VM, if it has one.
#[derive(Default)]
struct VmSlot {
    vm: Option<Vm>,
    reloaded_at: Option<Duration>,
}

/// Why the host did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The module returned false from `on_vm_start` or `on_configure`.
    #[error("the module rejected its configuration:\n{log}")]
    Rejected {
        /// The log.
        log: String,
    },
    /// The module trapped.
    #[error("the module trapped while it was configured:\n{log}")]
    Trapped {
        /// The log.
        log: String,
    },
}

/// An event that the host can deliver next. The test selects one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// A shared queue has a message. Each thread receives these events in order.
    QueueReady {
        /// The thread that handles the event.
        thread: Thread,
        /// The queue's id.
        queue: u32,
    },
    /// The response to an HTTP call has arrived.
    CallResponse {
        /// The thread that handles the event.
        thread: Thread,
        /// The call's number, in the order in which calls were made.
        call: u64,
    },
    /// The root context's timer has fired.
    Tick {
        /// The thread that handles the event.
        thread: Thread,
    },
}

/// The number of events after which `run_until_idle` panics, because the module never becomes idle.
const MAX_EVENTS: usize = 1_000_000;

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
        host.start_vm(Thread::Canary)?;
        for thread in host.threads() {
            let vm = host.start_vm(thread)?;
            host.slot(thread).borrow_mut().vm = Some(vm);
        }
        Ok(host)
    }

    fn start_vm(&self, thread: Thread) -> Result<Vm, StartError> {
        self.new_vm(thread).map_err(|failure| {
            let log = self.log_text();
            match failure {
                StartFailure::Rejected => StartError::Rejected { log },
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

    fn slot(&self, thread: Thread) -> &RefCell<VmSlot> {
        match thread {
            // The canary VM is dropped after its configuration; its events reach the main thread's VM.
            Thread::Canary | Thread::Main => &self.0.main,
            Thread::Worker(number) => &self.0.workers[number],
        }
    }

    /// Returns the worker with this index.
    ///
    /// # Panics
    /// When the index is out of range.
    pub fn worker(&self, number: usize) -> Worker<'_> {
        assert!(number < self.0.workers.len(), "there are {} workers", self.0.workers.len());
        Worker { host: self, thread: Thread::Worker(number) }
    }

    /// Returns the main thread, which handles no requests.
    pub fn main_thread(&self) -> Worker<'_> {
        Worker { host: self, thread: Thread::Main }
    }

    /// Returns the HTTP calls that wait for a response, oldest first.
    pub fn callouts(&self) -> Vec<Callout> {
        let process = self.0.process.borrow();
        process.callouts.values().filter(|call| call.response.is_none()).map(|call| call.callout.clone()).collect()
    }

    /// Responds to an HTTP call; the module receives the response in a later event. Does nothing when the call has ended already.
    pub fn respond(&self, callout: &Callout, response: Response) {
        self.respond_after(callout, Duration::ZERO, response);
    }

    /// Responds to an HTTP call after a delay. When the call times out before, its timeout is the response.
    pub fn respond_after(&self, callout: &Callout, delay: Duration, response: Response) {
        self.set_response(callout, delay, Some(response));
    }

    /// Aborts a response before it is complete: the module receives no headers and no body.
    pub fn abort_response(&self, callout: &Callout) {
        self.set_response(callout, Duration::ZERO, None);
    }

    fn set_response(&self, callout: &Callout, delay: Duration, response: Option<Response>) {
        let mut process = self.0.process.borrow_mut();
        let at = process.now + delay;
        if let Some(pending) = process.callouts.get_mut(&callout.number)
            && pending.response.is_none()
        {
            pending.response = Some((at, response));
        }
    }

    /// Changes how a cluster handles HTTP calls; `None` removes the cluster.
    pub fn set_cluster(&self, name: &str, kind: Option<Cluster>) {
        let clusters = &mut self.0.process.borrow_mut().settings.clusters;
        match kind {
            Some(kind) => clusters.insert(name.to_owned(), kind),
            None => clusters.remove(name),
        };
    }

    /// Returns all events that can be delivered now. Their order is unspecified, but the same in every run.
    pub fn ready_events(&self) -> Vec<Event> {
        let process = self.0.process.borrow();
        let mut events: Vec<Event> = Vec::new();
        for post in &process.posts {
            let thread = post.thread;
            let earlier =
                events.iter().any(|event| matches!(event, Event::QueueReady { thread: other, .. } if *other == thread));
            if !earlier {
                events.push(Event::QueueReady { thread, queue: post.queue });
            }
        }
        for (call, Pending { callout, response, .. }) in &process.callouts {
            if response.as_ref().is_some_and(|(at, _)| *at <= process.now) {
                events.push(Event::CallResponse { thread: callout.thread, call: *call });
            }
        }
        for thread in self.threads() {
            let slot = self.slot(thread).borrow();
            if slot.vm.as_ref().and_then(Vm::tick_at).is_some_and(|at| at <= process.now) {
                events.push(Event::Tick { thread });
            }
        }
        events
    }

    /// Delivers one event. Returns `false` when it is no longer possible.
    pub fn deliver(&self, event: Event) -> bool {
        if !self.ready_events().contains(&event) {
            return false;
        }
        match event {
            Event::QueueReady { thread, .. } => {
                let post = {
                    let mut process = self.0.process.borrow_mut();
                    let index = process.posts.iter().position(|post| post.thread == thread);
                    index.and_then(|index| process.posts.remove(index))
                };
                if let Some(post) = post {
                    self.enter(thread, |vm| vm.queue_ready(post.context, post.queue));
                }
            }
            Event::CallResponse { thread, call } => {
                let pending = self.0.process.borrow_mut().callouts.remove(&call);
                if let Some(Pending { token, response: Some((_, response)), generation, .. }) = pending {
                    self.enter(thread, |vm| {
                        if vm.generation() == generation { vm.respond(token, response) } else { Ok(()) }
                    });
                }
            }
            Event::Tick { thread } => {
                self.enter(thread, Vm::tick);
            }
        }
        true
    }

    /// Delivers events until none is left.
    ///
    /// # Panics
    /// When the module never becomes idle.
    pub fn run_until_idle(&self) {
        for _ in 0..MAX_EVENTS {
            match self.ready_events().first() {
                Some(event) => self.deliver(*event),
                None => return,
            };
        }
        panic!("the module never becomes idle");
    }

    /// Advances the clock and delivers the events that occur in this time.
    pub fn advance(&self, time: Duration) {
        let target = self.now() + time;
        self.run_until_idle();
        while let Some(next) = self.next_timer().filter(|next| *next <= target) {
            self.move_to(next);
            self.run_until_idle();
        }
        self.move_to(target);
    }

    /// Advances the clock without delivering events, as if every thread were busy. [`Host::ready_events`] then returns them.
    pub fn elapse(&self, time: Duration) {
        let target = self.now() + time;
        while let Some(next) = self.next_timer().filter(|next| *next <= target) {
            self.move_to(next);
        }
        self.move_to(target);
    }

    /// The time since the host started.
    pub fn now(&self) -> Duration {
        self.0.process.borrow().now
    }

    /// The wall-clock time.
    pub fn wall_clock(&self) -> SystemTime {
        self.0.process.borrow().wall
    }

    /// Sets the wall clock. Timers are not affected.
    pub fn set_wall_clock(&self, time: SystemTime) {
        self.0.process.borrow_mut().wall = time;
    }

    /// The time of the next timer on the clock of [`Host::now`]: a tick, a timeout or a delayed response.
    pub fn next_timer(&self) -> Option<Duration> {
        let process = self.0.process.borrow();
        let ticks = self.threads().filter_map(|thread| self.slot(thread).borrow().vm.as_ref()?.tick_at());
        let calls = process.callouts.values().filter_map(|call| {
            let response = call.response.as_ref().map(|(at, _)| *at);
            response.into_iter().chain(call.deadline).min()
        });
        let idle = process.idle.keys().map(|(at, _)| *at).next();
        ticks.chain(calls).chain(idle).filter(|at| *at > process.now).min()
    }

    /// Advances the clocks and runs Envoy's own timers: timeouts of calls and idle timeouts of streams.
    fn move_to(&self, time: Duration) {
        let idle = {
            let mut process = self.0.process.borrow_mut();
            let passed = time.saturating_sub(process.now);
            process.now = time;
            process.wall += passed;
            for call in process.callouts.values_mut() {
                if let Some(deadline) = call.deadline.filter(|deadline| *deadline <= time)
                    && call.response.as_ref().is_none_or(|(at, _)| *at > deadline)
                {
                    call.response = Some((deadline, Some(Response::timed_out())));
                }
            }
            let later = process.idle.split_off(&(time, u64::MAX));
            std::mem::replace(&mut process.idle, later)
        };
        for stream in idle.into_values() {
            if stream.borrow().state == StreamState::Paused {
                let status = if stream.borrow().request.end_of_stream { 504 } else { 408 };
                stream.borrow_mut().reply(Reply::text(status, "stream timeout"));
                self.end(&stream);
            }
        }
    }

    /// Calls a thread's VM, if it has one, and drops the VM when it traps.
    fn enter(&self, thread: Thread, call: impl FnOnce(&mut Vm) -> Result<(), Trapped>) -> bool {
        let mut slot = self.slot(thread).borrow_mut();
        let Some(vm) = &mut slot.vm else { return false };
        if call(vm).is_err() {
            self.drop_vm(thread, &mut slot);
        }
        true
    }

    /// Drops a VM and its pending HTTP calls, whose responses no context can receive.
    fn drop_vm(&self, thread: Thread, slot: &mut VmSlot) {
        slot.vm = None;
        self.0.process.borrow_mut().callouts.retain(|_, call| call.callout.thread != thread);
    }

    fn end(&self, stream: &stream::Shared) {
        let Some(location) = stream.borrow().location else { return };
        self.enter(location.thread, |vm| {
            if vm.generation() == location.generation { vm.end_stream(location.context) } else { Ok(()) }
        });
        stream.borrow_mut().location = None;
    }

    /// Replaces a VM that trapped, if the failure policy allows it. Returns whether the thread has a VM.
    fn ensure_vm(&self, thread: Thread) -> bool {
        if self.slot(thread).borrow().vm.is_some() {
            return true;
        }
        let (policy, now) = {
            let process = self.0.process.borrow();
            (process.settings.failure_policy, process.now)
        };
        let FailurePolicy::Reload(back_off) = policy else { return false };
        let mut slot = self.slot(thread).borrow_mut();
        if slot.reloaded_at.is_some_and(|at| now < at + back_off) {
            return false;
        }
        slot.reloaded_at = Some(now);
        slot.vm = self.new_vm(thread).ok();
        slot.vm.is_some()
    }

    fn request(&self, thread: Thread, request: Request) -> Stream {
        let record = Rc::new(RefCell::new(Record::new(request)));
        if self.ensure_vm(thread) {
            let mut trapped = false;
            self.enter(thread, |vm| vm.request(&record).inspect_err(|_| trapped = true));
            if trapped && record.borrow().state == StreamState::Paused {
                record.borrow_mut().reply(Reply::text(503, ""));
            }
        } else if self.0.process.borrow().settings.failure_policy == FailurePolicy::Open {
            let cluster = (self.0.process.borrow().settings.route)(&record.borrow().request.headers);
            record.borrow_mut().forward(cluster);
        } else {
            record.borrow_mut().reply(Reply::text(503, ""));
        }
        if record.borrow().state == StreamState::Paused {
            self.0.process.borrow_mut().start_idle_timeout(&record);
        }
        Stream { host: self.clone(), record }
    }

    /// Returns all log lines.
    pub fn log(&self) -> Vec<LogLine> {
        self.0.process.borrow().log.clone()
    }

    /// Returns all log lines as text.
    pub fn log_text(&self) -> String {
        self.0.process.borrow().log.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Clears the log.
    pub fn clear_log(&self) {
        self.0.process.borrow_mut().log.clear();
    }

    /// Returns a value of the shared data.
    pub fn shared_data(&self, name: &str) -> Option<Vec<u8>> {
        self.0.process.borrow().shared_data.get(name.as_bytes()).ok().map(|(value, _)| value)
    }

    /// Returns the names of all metrics that the module defined.
    pub fn metric_names(&self) -> Vec<String> {
        self.0.process.borrow().metrics.names()
    }

    /// Returns the metric that the module defined with this name.
    pub fn metric(&self, name: &str) -> Option<Metric> {
        self.0.process.borrow().metrics.get(name)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Host")
            .field("now", &self.now())
            .field("ready_events", &self.ready_events())
            .finish_non_exhaustive()
    }
}

/// A thread that has a VM: a worker or the main thread.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    host: &'a Host,
    thread: Thread,
}

impl Worker<'_> {
    /// Delivers a request's headers to the filter on this thread.
    pub fn request(&self, request: impl Into<Request>) -> Stream {
        self.host.request(self.thread, request.into())
    }

    /// Drops the VM as a trap does.
    pub fn kill(&self) {
        self.host.drop_vm(self.thread, &mut self.host.slot(self.thread).borrow_mut());
    }

    /// Whether the thread has a VM that has not trapped.
    pub fn is_alive(&self) -> bool {
        self.host.slot(self.thread).borrow().vm.is_some()
    }

    /// The size of the VM's linear memory, in bytes.
    pub fn memory(&self) -> usize {
        self.host.slot(self.thread).borrow().vm.as_ref().map_or(0, Vm::memory)
    }

    /// The number of streams in the VM.
    pub fn streams(&self) -> usize {
        self.host.slot(self.thread).borrow().vm.as_ref().map_or(0, Vm::streams)
    }

    /// How often the VM called each function of the host (`proxy_…`) since the last call.
    pub fn host_calls(&self) -> BTreeMap<&'static str, u64> {
        self.host.slot(self.thread).borrow_mut().vm.as_mut().map(Vm::take_host_calls).unwrap_or_default()
    }

    /// The fuel that the VM has used since the last call, about one unit per instruction. Requires
    /// [`Module::metered`].
    pub fn fuel(&self) -> u64 {
        self.host.slot(self.thread).borrow_mut().vm.as_mut().map_or(0, Vm::take_fuel)
    }
}

/// The stream of a request.
pub struct Stream {
    host: Host,
    record: stream::Shared,
}

impl Stream {
    /// The current state of the stream.
    pub fn state(&self) -> StreamState {
        self.record.borrow().state.clone()
    }

    /// Ends the stream and notifies the filter. A paused stream ends as if the client had disconnected.
    pub fn end(&self) {
        {
            let mut record = self.record.borrow_mut();
            if record.state == StreamState::Paused {
                record.state = StreamState::Reset;
            }
        }
        self.host.end(&self.record);
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Stream").field(&self.state()).finish()
    }
}
