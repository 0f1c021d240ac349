//! A worker whose events go through the engine's driver, and what it does through its host.

use std::ops::Deref;

use super::*;
use crate::config_path::ConfigPath;
use crate::engine::{CallId, Driver, Finished, Host, MetricId};
use crate::event::Level;
use crate::http::CallFailure;
use crate::metrics::Kind;

/// The worker of one queue. It dereferences to its broker, whose state the tests check.
pub(super) struct Worker {
    driver: Driver,
    queue: QueueId,
    last_call: u32,
}

/// What a worker does through its host, or a stream whose wait has ended.
pub(super) enum Effect {
    Call(Purpose, HttpCall),
    Wake(QueueId, TokenKey),
    /// A wake-up without a key.
    Nudge(QueueId),
    Finish(StreamId, Result<Arc<CachedToken>, Problem>),
    FinishProbe(StreamId, ReadinessStatus),
    Log(Event),
    Measure(Measurement),
}

/// What the rejection of a token caused.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rejection {
    /// Whether the token is newly rejected, which is logged.
    pub(super) newly_rejected: bool,
    /// The queues of the workers that must poll the key.
    pub(super) wake: Vec<QueueId>,
}

/// The host of one event.
struct EventHost<'a> {
    store: &'a dyn Store,
    now: Timestamp,
    last_call: &'a mut u32,
    done: Vec<Done>,
    /// The metric whose value follows.
    metric: String,
}

/// What the driver asked its host for. It does not say what a call is for.
enum Done {
    Call(CallId, HttpCall),
    Other(Effect),
}

impl Host for EventHost<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn store(&self) -> &dyn Store {
        self.store
    }

    fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure> {
        *self.last_call += 1;
        let id = CallId(*self.last_call);
        self.done.push(Done::Call(id, call.clone()));
        Ok(id)
    }

    fn wake(&mut self, queue: QueueId, message: &[u8]) {
        let effect = TokenKey::from_bytes(message).map_or(Effect::Nudge(queue), |key| Effect::Wake(queue, key));
        self.done.push(Done::Other(effect));
    }

    fn set_timer(&mut self, _: Option<Duration>) {}

    fn log(&mut self, event: &Event) {
        self.done.push(Done::Other(Effect::Log(event.clone())));
    }

    fn metric(&mut self, _: Kind, name: &str) -> Option<MetricId> {
        name.clone_into(&mut self.metric);
        Some(MetricId(0))
    }

    fn record(&mut self, _: MetricId, kind: Kind, value: i64) {
        let name = std::mem::take(&mut self.metric);
        self.done.push(Done::Other(Effect::Measure(Measurement { kind, name, value })));
    }
}

impl Deref for Worker {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        self.driver.broker()
    }
}

impl Worker {
    pub(super) fn new(worker: WorkerId, queue: QueueId, limits: Limits) -> Self {
        Self { driver: Driver::new(worker, queue, limits, Some(Level::Info)), queue, last_call: 0 }
    }

    /// Passes an event to the driver. Returns its result and what the worker did.
    fn act<T>(
        &mut self,
        now: Timestamp,
        store: &dyn Store,
        event: impl FnOnce(&mut Driver, &mut EventHost<'_>) -> T,
    ) -> (T, Vec<Effect>) {
        let mut host =
            EventHost { store, now, last_call: &mut self.last_call, done: Vec::new(), metric: String::new() };
        let result = event(&mut self.driver, &mut host);
        let effects = host.done.into_iter().map(|done| match done {
            Done::Call(id, call) => Effect::Call(self.driver.purpose_of(id).unwrap().clone(), call),
            Done::Other(effect) => effect,
        });
        (result, effects.collect())
    }

    /// Passes an event to the driver that can end the wait of streams.
    fn turn(
        &mut self,
        now: Timestamp,
        store: &dyn Store,
        event: impl FnOnce(&mut Driver, &mut EventHost<'_>) -> Vec<Finished>,
    ) -> Vec<Effect> {
        let (finished, mut effects) = self.act(now, store, event);
        effects.extend(finished.into_iter().map(|finished| match finished {
            Finished::Token(stream, outcome) => Effect::Finish(stream, outcome),
            Finished::Readiness(stream, status) => Effect::FinishProbe(stream, status),
        }));
        effects
    }

    /// Whether the worker woke itself.
    fn woke_itself(&self, effects: &[Effect]) -> bool {
        effects.iter().any(|effect| matches!(effect, Effect::Wake(queue, _) if *queue == self.queue))
    }

    /// Requests a token. Returns also whether the key must be polled.
    pub(super) fn get(
        &mut self,
        spec: &Arc<TokenSpec>,
        required: RequiredLifetime,
        stream: StreamId,
        now: Timestamp,
        store: &dyn Store,
    ) -> (TokenLookup, bool) {
        let (lookup, effects) = self.request(spec, required, stream, now, store);
        (lookup, self.woke_itself(&effects))
    }

    /// Requests a token. Returns also what the worker did.
    pub(super) fn request(
        &mut self,
        spec: &Arc<TokenSpec>,
        required: RequiredLifetime,
        stream: StreamId,
        now: Timestamp,
        store: &dyn Store,
    ) -> (TokenLookup, Vec<Effect>) {
        self.act(now, store, |driver, host| driver.request_token(spec, required, None, stream, now, host))
    }

    /// Requests a token that replaces another one. Returns also what the rejection of that one caused.
    pub(super) fn get_replacement(
        &mut self,
        spec: &Arc<TokenSpec>,
        required: RequiredLifetime,
        rejected: RejectedToken,
        stream: StreamId,
        now: Timestamp,
        store: &dyn Store,
    ) -> (TokenLookup, Rejection) {
        let (lookup, effects) = self
            .act(now, store, |driver, host| driver.request_token(spec, required, Some(rejected), stream, now, host));
        (lookup, rejection_in(effects))
    }

    /// Rejects a token, as on a 401 response of the upstream.
    pub(super) fn reject(
        &mut self,
        key: TokenKey,
        token: &CachedToken,
        now: Timestamp,
        store: &dyn Store,
    ) -> Rejection {
        let spec = Arc::clone(&self.slots.get(key).unwrap().spec);
        let by = ConfigPath::Destination(0);
        let ((), effects) = self.act(now, store, |driver, host| driver.reject(&spec, token, &by, now, host));
        rejection_in(effects)
    }

    /// Fetches a token into the cache. Returns whether the key must be polled.
    pub(super) fn prefetch(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, store: &dyn Store) -> bool {
        let effects = self.prefetch_effects(spec, now, store);
        self.woke_itself(&effects)
    }

    /// Fetches a token into the cache. Returns what the worker did.
    pub(super) fn prefetch_effects(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, store: &dyn Store) -> Vec<Effect> {
        self.act(now, store, |driver, host| driver.prefetch(spec, now, host)).1
    }

    pub(super) fn keep_warm(&mut self, specs: &[Arc<TokenSpec>], now: Timestamp) {
        self.driver.keep_warm(specs, now);
    }

    pub(super) fn forget(&mut self, stream: StreamId) {
        self.driver.forget(stream);
    }

    /// Processes a wake-up for a key.
    pub(super) fn poll(&mut self, key: TokenKey, now: Timestamp, store: &dyn Store) -> Vec<Effect> {
        self.turn(now, store, |driver, host| driver.woken(&[key.as_bytes().to_vec()], now, host))
    }

    /// Processes the expiry of the timer.
    pub(super) fn tick(&mut self, now: Timestamp, store: &dyn Store) -> Vec<Effect> {
        self.turn(now, store, |driver, host| driver.timer(now, host))
    }

    /// Processes the result of the call with this purpose. Without such a call it is that of an unknown one.
    pub(super) fn call_finished(
        &mut self,
        purpose: &Purpose,
        answer: CallResult,
        now: Timestamp,
        store: &dyn Store,
    ) -> Vec<Effect> {
        let id = self.driver.call_of(purpose).unwrap_or(CallId(u32::MAX));
        self.turn(now, store, |driver, host| driver.call_finished(id, answer, now, host))
    }

    pub(super) fn check_readiness(
        &mut self,
        readiness: &Arc<Readiness>,
        stream: StreamId,
        now: Timestamp,
        store: &dyn Store,
    ) -> Option<ReadinessStatus> {
        let mut effects = self.turn(now, store, |driver, host| driver.probe(readiness, stream, now, host));
        match (effects.pop(), effects.is_empty()) {
            (Some(Effect::FinishProbe(finished, status)), true) if finished == stream => Some(status),
            (Some(Effect::Nudge(queue)), true) if queue == self.queue => None,
            _ => panic!("a probe is either answered or waits for another turn"),
        }
    }

    /// Processes the wake-up of a probe.
    pub(super) fn start_probe(&mut self, now: Timestamp, store: &dyn Store) -> Vec<Effect> {
        self.turn(now, store, |driver, host| driver.woken(&[Vec::new()], now, host))
    }

    /// Makes a request wait for its connection. Returns whether another turn is needed.
    pub(super) fn await_connection(
        &mut self,
        spec: &Arc<TokenSpec>,
        stream: StreamId,
        now: Timestamp,
    ) -> Result<bool, Problem> {
        let store = MemoryStore::default();
        let (waits, effects) = self.act(now, &store, |driver, host| driver.await_connection(spec, stream, now, host));
        waits.map(|()| effects.iter().any(|effect| matches!(effect, Effect::Nudge(_))))
    }

    pub(super) fn poll_connections(
        &mut self,
        now: Timestamp,
        is_established: impl FnMut(StreamId) -> bool,
    ) -> Vec<(StreamId, ConnectionOutcome)> {
        self.driver.poll_connections(now, is_established)
    }
}

/// What the rejection of a token caused: the wake-ups, and a log line if the token is newly rejected.
fn rejection_in(effects: Vec<Effect>) -> Rejection {
    let mut rejection = Rejection::default();
    for effect in effects {
        match effect {
            Effect::Log(event) => rejection.newly_rejected |= event.to_string().starts_with("event=rejected "),
            Effect::Wake(queue, _) => rejection.wake.push(queue),
            _ => {}
        }
    }
    rejection
}
