//! What belongs to one VM and can be reached from its host calls.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use wasmtime::{Memory, StoreLimits, StoreLimitsBuilder, TypedFunc};

use crate::callout::Response;
use crate::log::{LogLevel, Thread};
use crate::metrics::Defined;
use crate::process::Process;
use crate::stream::{self, Reply};

/// The root context's number. Streams have those that follow.
pub(crate) const ROOT: u32 = 1;

/// One VM's.
pub(crate) struct State {
    pub(crate) process: Rc<RefCell<Process>>,
    pub(crate) thread: Thread,
    pub(crate) generation: u64,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    /// `_initialize` runs: the proxy cannot be called yet.
    pub(crate) initialising: bool,
    /// The root context is being configured: only then its configuration can be read.
    pub(crate) configuring: bool,
    pub(crate) current: u32,
    /// What `set_effective_context` chose, until the guest returns.
    pub(crate) effective: Option<u32>,
    pub(crate) streams: HashMap<u32, stream::Shared>,
    pub(crate) next_context: u32,
    pub(crate) next_call: u32,
    /// The answer that is being told to the root context.
    pub(crate) answer: Option<Response>,
    /// What happens to streams as soon as the guest has returned.
    pub(crate) deferred: Vec<(stream::Shared, Deferred)>,
    pub(crate) tick_period: Duration,
    pub(crate) tick_at: Option<Duration>,
    pub(crate) metrics: Defined,
    pub(crate) random: u64,
    pub(crate) limits: StoreLimits,
}

/// What a guest wants done to a stream.
pub(crate) enum Deferred {
    Continue,
    Reply(Reply),
    Reset,
}

impl State {
    pub(crate) fn new(process: &Rc<RefCell<Process>>, thread: Thread, generation: u64) -> Self {
        let (limit, seed) = {
            let process = process.borrow();
            (process.settings.memory_limit, process.settings.seed)
        };
        Self {
            process: Rc::clone(process),
            thread,
            generation,
            memory: None,
            allocate: None,
            initialising: true,
            configuring: false,
            current: 0,
            effective: None,
            streams: HashMap::new(),
            next_context: ROOT + 1,
            next_call: 1,
            answer: None,
            deferred: Vec::new(),
            tick_period: Duration::ZERO,
            tick_at: None,
            metrics: Defined::default(),
            random: seed.wrapping_add(generation.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            limits: StoreLimitsBuilder::new().memory_size(limit).build(),
        }
    }

    /// The stream in effect; `None` is the root context.
    pub(crate) fn stream(&self) -> Option<&stream::Shared> {
        // A context in effect that is gone meanwhile gives way to the true one.
        let effective = self.effective.filter(|context| self.has_context(*context));
        self.streams.get(&effective.unwrap_or(self.current))
    }

    pub(crate) fn has_context(&self, context: u32) -> bool {
        context == ROOT || self.streams.contains_key(&context)
    }

    pub(crate) fn is_allowed(&self, name: &str) -> bool {
        self.process.borrow().settings.capabilities.as_ref().is_none_or(|allowed| allowed.contains(name))
    }

    pub(crate) fn log(&self, level: LogLevel, text: impl Into<String>) {
        self.process.borrow_mut().log(self.thread, level, text);
    }
}

/// A size as guests count.
pub(crate) fn size(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
