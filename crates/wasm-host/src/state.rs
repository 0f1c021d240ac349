//! The state of one VM that its host calls can access.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use wasmtime::{Memory, StoreLimits, StoreLimitsBuilder, TypedFunc};

use crate::callout::Response;
use crate::log::{LogLevel, Thread};
use crate::metrics::Defined;
use crate::process::Process;
use crate::stream::{self, Reply};

/// The root context's id. Streams get the ids that follow.
pub(crate) const ROOT: u32 = 1;

/// The state of one VM.
pub(crate) struct State {
    pub(crate) process: Rc<RefCell<Process>>,
    pub(crate) thread: Thread,
    pub(crate) generation: u64,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    /// Whether `_initialize` is running, during which host calls are restricted.
    pub(crate) initialising: bool,
    /// Whether `proxy_on_configure` is running, the only time at which the plugin's configuration can be read.
    pub(crate) configuring: bool,
    pub(crate) current: u32,
    /// The context that `set_effective_context` selected, until the guest returns.
    pub(crate) effective: Option<u32>,
    pub(crate) streams: HashMap<u32, stream::Shared>,
    pub(crate) next_context: u32,
    pub(crate) next_call: u32,
    /// The response that is being delivered to the root context.
    pub(crate) response: Option<Response>,
    /// The actions on streams that run when the guest returns.
    pub(crate) deferred: Vec<(stream::Shared, Deferred)>,
    pub(crate) tick_period: Duration,
    pub(crate) tick_at: Option<Duration>,
    pub(crate) metrics: Defined,
    /// How often the guest called each function of the host.
    pub(crate) host_calls: BTreeMap<&'static str, u64>,
    pub(crate) random: u64,
    pub(crate) limits: StoreLimits,
}

/// An action on a stream that runs when the guest returns.
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
            response: None,
            deferred: Vec::new(),
            tick_period: Duration::ZERO,
            tick_at: None,
            metrics: Defined::default(),
            host_calls: BTreeMap::new(),
            random: seed.wrapping_add(generation.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            limits: StoreLimitsBuilder::new().memory_size(limit).build(),
        }
    }

    /// The stream of the effective context; `None` for the root context.
    pub(crate) fn stream(&self) -> Option<&stream::Shared> {
        // When the effective context no longer exists, the current one applies.
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

/// Converts a length to the guest's 32-bit size.
pub(crate) fn size(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
