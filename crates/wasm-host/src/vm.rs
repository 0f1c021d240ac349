//! A VM: an instance of the module with its contexts and callbacks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use wasmtime::{Instance, Store, TypedFunc, WasmParams, WasmResults};

use crate::callout::Response;
use crate::log::{LogLevel, Thread};
use crate::module::Module;
use crate::process::Process;
use crate::state::{Deferred, ROOT, State, size};
use crate::stream::{self, Location, StreamState};

/// The guest trapped: its VM can no longer be called.
#[derive(Debug)]
pub(crate) struct Trapped;

/// Why a VM did not start.
pub(crate) enum StartFailure {
    Trapped,
    Rejected,
}

impl From<Trapped> for StartFailure {
    fn from(_: Trapped) -> Self {
        Self::Trapped
    }
}

/// A VM that has not trapped.
pub(crate) struct Vm {
    store: Store<State>,
    exports: Exports,
}

/// The parameters are the context, the call's id, and the numbers of headers, body bytes and trailers.
type HttpCallResponse = TypedFunc<(u32, u32, u32, u32, u32), ()>;

/// The callbacks that the module exports and that its capability list allows.
struct Exports {
    context_create: Option<TypedFunc<(u32, u32), ()>>,
    vm_start: Option<TypedFunc<(u32, u32), u32>>,
    configure: Option<TypedFunc<(u32, u32), u32>>,
    tick: Option<TypedFunc<u32, ()>>,
    queue_ready: Option<TypedFunc<(u32, u32), ()>>,
    request_headers: Option<TypedFunc<(u32, u32, u32), u32>>,
    http_call_response: Option<HttpCallResponse>,
    done: Option<TypedFunc<u32, u32>>,
    log: Option<TypedFunc<u32, ()>>,
    delete: Option<TypedFunc<u32, ()>>,
}

impl Exports {
    fn of(instance: &Instance, store: &mut Store<State>) -> Self {
        fn find<P: WasmParams, R: WasmResults>(
            instance: &Instance,
            store: &mut Store<State>,
            name: &str,
        ) -> Option<TypedFunc<P, R>> {
            if !store.data().is_allowed(name) {
                return None;
            }
            instance.get_typed_func(store, name).ok()
        }
        Self {
            context_create: find(instance, store, "proxy_on_context_create"),
            vm_start: find(instance, store, "proxy_on_vm_start"),
            configure: find(instance, store, "proxy_on_configure"),
            tick: find(instance, store, "proxy_on_tick"),
            queue_ready: find(instance, store, "proxy_on_queue_ready"),
            request_headers: find(instance, store, "proxy_on_request_headers"),
            http_call_response: find(instance, store, "proxy_on_http_call_response"),
            done: find(instance, store, "proxy_on_done"),
            log: find(instance, store, "proxy_on_log"),
            delete: find(instance, store, "proxy_on_delete"),
        }
    }
}

impl Vm {
    /// Creates an instance, initializes it and configures its root context.
    pub(crate) fn start(
        module: &Module,
        process: &Rc<RefCell<Process>>,
        thread: Thread,
        generation: u64,
    ) -> Result<Self, StartFailure> {
        let state = State::new(process, thread, generation);
        let mut store = Store::new(module.engine(), state);
        store.limiter(|state| &mut state.limits);
        if module.is_metered() {
            let _ = store.set_fuel(u64::MAX);
        }
        let instance = module.instance().instantiate(&mut store).map_err(|error| {
            store.data().log(LogLevel::Critical, format!("the module cannot be instantiated: {error:#}"));
            StartFailure::Trapped
        })?;
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let allocate = ["malloc", "proxy_on_memory_allocate"]
            .iter()
            .find_map(|name| instance.get_typed_func(&mut store, name).ok());
        store.data_mut().allocate = allocate;

        let exports = Exports::of(&instance, &mut store);
        let mut vm = Self { store, exports };
        if let Ok(initialise) = instance.get_typed_func::<(), ()>(&mut vm.store, "_initialize") {
            vm.call("_initialize", &initialise, 0, ())?;
        }
        vm.store.data_mut().initialising = false;
        vm.configure_root()?;
        Ok(vm)
    }

    fn configure_root(&mut self) -> Result<(), StartFailure> {
        let (vm_size, plugin_size) = {
            let settings = &self.store.data().process.borrow().settings;
            (size(settings.vm_configuration.len()), size(settings.configuration.len()))
        };
        if let Some(function) = self.exports.context_create.clone() {
            self.call("proxy_on_context_create", &function, ROOT, (ROOT, 0))?;
        }
        if let Some(function) = self.exports.vm_start.clone()
            && self.call("proxy_on_vm_start", &function, ROOT, (ROOT, vm_size))? == 0
        {
            return Err(StartFailure::Rejected);
        }
        if let Some(function) = self.exports.configure.clone() {
            self.store.data_mut().configuring = true;
            let accepted = self.call("proxy_on_configure", &function, ROOT, (ROOT, plugin_size));
            self.store.data_mut().configuring = false;
            if accepted? == 0 {
                return Err(StartFailure::Rejected);
            }
        }
        Ok(())
    }

    /// Calls a function of the guest, then runs its deferred actions.
    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &str,
        function: &TypedFunc<P, R>,
        context: u32,
        parameters: P,
    ) -> Result<R, Trapped> {
        let state = self.store.data_mut();
        state.current = context;
        state.effective = None;
        let returned = function.call(&mut self.store, parameters).map_err(|error| {
            let state = self.store.data();
            state.log(LogLevel::Critical, format!("Function: {name} failed: {:#}", error.root_cause()));
            Trapped
        });
        let ended = self.run_deferred();
        let returned = returned?;
        for context in ended {
            self.end_stream(context)?;
        }
        Ok(returned)
    }

    /// Runs the deferred actions and returns the contexts of the streams that they ended.
    fn run_deferred(&mut self) -> Vec<u32> {
        let mut ended = Vec::new();
        for (stream, action) in std::mem::take(&mut self.store.data_mut().deferred) {
            match action {
                Deferred::Continue => self.forward(&stream),
                Deferred::Reply(reply) => stream.borrow_mut().reply(reply),
                Deferred::Reset => stream.borrow_mut().state = StreamState::Reset,
            }
            let record = stream.borrow();
            if let (true, Some(location)) = (record.has_ended(), record.location) {
                ended.push(location.context);
            }
        }
        ended
    }

    fn forward(&self, stream: &stream::Shared) {
        let cluster = {
            let process = self.store.data().process.borrow();
            (process.settings.route)(&stream.borrow().request.headers)
        };
        stream.borrow_mut().forward(cluster);
    }

    /// Delivers a request's headers to the guest. After a trap the stream stays paused, unless the guest had continued or ended it
    /// before.
    pub(crate) fn request(&mut self, stream: &stream::Shared) -> Result<(), Trapped> {
        let state = self.store.data_mut();
        let context = state.next_context;
        state.next_context += 1;
        let (count, end) = {
            let mut record = stream.borrow_mut();
            record.location = Some(Location { thread: state.thread, generation: state.generation, context });
            (size(record.request.headers.len()), u32::from(record.request.end_of_stream))
        };
        state.streams.insert(context, Rc::clone(stream));
        if let Some(function) = self.exports.context_create.clone() {
            self.call("proxy_on_context_create", &function, context, (context, ROOT))?;
        }
        let Some(function) = self.exports.request_headers.clone() else {
            self.forward(stream);
            return Ok(());
        };
        // 0 is Continue, 1 is Pause.
        if self.call("proxy_on_request_headers", &function, context, (context, count, end))? == 0 {
            self.forward(stream);
        }
        Ok(())
    }

    /// Ends a stream and calls the last callbacks of its context.
    pub(crate) fn end_stream(&mut self, context: u32) -> Result<(), Trapped> {
        let Some(stream) = self.store.data().streams.get(&context).cloned() else { return Ok(()) };
        if stream.borrow_mut().location.take().is_none() {
            return Ok(());
        }
        if let Some(function) = self.exports.log.clone() {
            self.call("proxy_on_log", &function, context, context)?;
        }
        if let Some(function) = self.exports.done.clone() {
            self.call("proxy_on_done", &function, context, context)?;
        }
        if let Some(function) = self.exports.delete.clone() {
            self.call("proxy_on_delete", &function, context, context)?;
        }
        self.store.data_mut().streams.remove(&context);
        Ok(())
    }

    /// Delivers `proxy_on_queue_ready`. Does nothing when the VM does not have that context.
    pub(crate) fn queue_ready(&mut self, context: u32, queue: u32) -> Result<(), Trapped> {
        match self.exports.queue_ready.clone() {
            Some(function) if self.store.data().has_context(context) => {
                self.call("proxy_on_queue_ready", &function, context, (context, queue))
            }
            _ => Ok(()),
        }
    }

    /// Delivers the response to an HTTP call; `None` is an aborted response.
    pub(crate) fn respond(&mut self, token: u32, response: Option<Response>) -> Result<(), Trapped> {
        let Some(function) = self.exports.http_call_response.clone() else { return Ok(()) };
        let count = response.as_ref().map_or(0, |response| size(response.headers.len()));
        let body = response.as_ref().map_or(0, |response| size(response.body.len()));
        self.store.data_mut().response = response;
        let result = self.call("proxy_on_http_call_response", &function, ROOT, (ROOT, token, count, body, 0));
        self.store.data_mut().response = None;
        result
    }

    /// When the root context's timer fires next.
    pub(crate) fn tick_at(&self) -> Option<Duration> {
        self.store.data().tick_at
    }

    /// Delivers a tick and restarts the timer with the period that the guest has set by then.
    pub(crate) fn tick(&mut self) -> Result<(), Trapped> {
        if let Some(function) = self.exports.tick.clone() {
            self.call("proxy_on_tick", &function, ROOT, ROOT)?;
        }
        let state = self.store.data_mut();
        state.tick_at = None;
        if !state.tick_period.is_zero() {
            state.tick_at = Some(state.process.borrow().now + state.tick_period);
        }
        Ok(())
    }

    pub(crate) fn generation(&self) -> u64 {
        self.store.data().generation
    }

    /// The size of the linear memory in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.store.data().memory.map_or(0, |memory| memory.data_size(&self.store))
    }

    /// The number of streams of this VM.
    pub(crate) fn streams(&self) -> usize {
        self.store.data().streams.len()
    }

    /// How often the guest called each function of the host since the last call.
    pub(crate) fn take_host_calls(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.store.data_mut().host_calls)
    }

    /// Returns the fuel used since the last call and refills it.
    pub(crate) fn take_fuel(&mut self) -> u64 {
        let used = self.store.get_fuel().map_or(0, |left| u64::MAX - left);
        let _ = self.store.set_fuel(u64::MAX);
        used
    }
}
