//! Executes the broker's commands through a host.

use std::collections::VecDeque;
use std::sync::Arc;

use super::host::{CallId, Host};
use super::meters;
use crate::broker::{
    Broker, CachedToken, Command, ConnectionOutcome, Limits, Purpose, QueueId, Readiness, ReadinessStatus,
    RejectedToken, RequiredLifetime, StreamId, TokenLookup, WorkerId,
};
use crate::decision::ConfigPath;
use crate::entra::{TokenKey, TokenSpec};
use crate::event::Level;
use crate::http::CallResult;
use crate::problem::Problem;
use crate::time::Timestamp;

/// The wake-up message that names no key. It is shorter than any key.
const ANOTHER_TURN: &[u8] = b"";

/// The broker of one worker and its HTTP calls.
///
/// Each method processes one event and carries out the resulting commands through the [`Host`]. The caller sets the timer
/// ([`Driver::next_due`]) and finishes the paused streams that a method returns, because only it knows the streams. `now` is
/// [`Host::now`], which a caller reads once for each event because it costs a host call.
pub struct Driver {
    broker: Broker,
    /// Calls in progress. There are few.
    calls: Vec<(CallId, Purpose)>,
    /// The minimum level of exchange events; `None` disables them.
    exchange_log: Option<Level>,
}

/// A paused stream whose wait has ended.
pub enum Finished {
    /// The stream waited for a token.
    Token(StreamId, Result<Arc<CachedToken>, Problem>),
    /// The stream is a readiness probe.
    Readiness(StreamId, ReadinessStatus),
}

impl Driver {
    /// Creates the driver of one worker, which `queue` wakes. The worker's id must be random, because it seeds the jitter.
    pub fn new(worker: WorkerId, queue: QueueId, limits: Limits, exchange_log: Option<Level>) -> Self {
        Self { broker: Broker::new(worker, queue, limits), calls: Vec::new(), exchange_log }
    }

    /// Fetches these tokens and keeps them fresh, even if no request needs them. Call it only while the host's timer is due.
    pub fn keep_warm(&mut self, specs: &[Arc<TokenSpec>], now: Timestamp) {
        self.broker.keep_warm(specs, now);
    }

    /// Looks up a token for a request. On [`TokenLookup::Pending`] the stream must pause, and a later [`Finished::Token`] names it.
    /// `rejected_token` is the token that the request rejects, if any.
    pub fn request_token(
        &mut self,
        spec: &Arc<TokenSpec>,
        required_lifetime: RequiredLifetime,
        rejected_token: Option<RejectedToken>,
        stream: StreamId,
        now: Timestamp,
        host: &mut dyn Host,
    ) -> TokenLookup {
        let Some(rejected_token) = rejected_token else {
            let (lookup, commands) = self.broker.get(spec, required_lifetime, stream, now, host.store());
            // There are none for most requests.
            if !commands.is_empty() {
                self.carry_out(commands, now, host);
            }
            return lookup;
        };
        let (lookup, commands) =
            self.broker.get_replacement(spec, required_lifetime, rejected_token, stream, now, host.store());
        self.carry_out(commands, now, host);
        lookup
    }

    /// Fetches a token into the cache for a request that does not wait for it.
    pub fn prefetch(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, host: &mut dyn Host) {
        let commands = self.broker.prefetch(spec, now, host.store());
        self.carry_out(commands, now, host);
    }

    /// Checks whether the pod is ready. The stream pauses until a [`Finished::Readiness`] names it, which this method may return.
    pub fn probe(
        &mut self,
        readiness: &Arc<Readiness>,
        stream: StreamId,
        now: Timestamp,
        host: &mut dyn Host,
    ) -> Vec<Finished> {
        let commands = self.broker.check_readiness(readiness, stream, now, host.store());
        self.carry_out(commands, now, host)
    }

    /// Processes a 401 response of the upstream to a request with this token. `decided_by` is the part of the configuration that
    /// decided about the request.
    pub fn reject(
        &mut self,
        spec: &TokenSpec,
        token: &CachedToken,
        decided_by: &ConfigPath,
        now: Timestamp,
        host: &mut dyn Host,
    ) {
        let commands = self.broker.reject(spec, token, decided_by, now, host.store());
        self.carry_out(commands, now, host);
    }

    /// Makes a request wait until its upstream connection is established. [`Driver::poll_connections`] returns it then.
    ///
    /// # Errors
    /// The limit on waiting requests is reached.
    pub fn await_connection(
        &mut self,
        spec: &Arc<TokenSpec>,
        stream: StreamId,
        now: Timestamp,
        host: &mut dyn Host,
    ) -> Result<(), Problem> {
        let commands = self.broker.await_connection(spec, stream, now)?;
        self.carry_out(commands, now, host);
        Ok(())
    }

    /// Returns the streams whose wait for a connection has ended. `is_established` returns whether a stream's connection exists.
    pub fn poll_connections(
        &mut self,
        now: Timestamp,
        is_established: impl FnMut(StreamId) -> bool,
    ) -> Vec<(StreamId, ConnectionOutcome)> {
        self.broker.poll_connections(now, is_established)
    }

    /// Removes a paused stream that no longer exists.
    pub fn forget(&mut self, stream: StreamId) {
        self.broker.forget(stream);
    }

    /// Processes messages from [`Host::wake`].
    pub fn woken(&mut self, messages: &[Vec<u8>], now: Timestamp, host: &mut dyn Host) -> Vec<Finished> {
        // Each key once, in order. Sorting the list afterwards would add 22 KB to the module.
        let mut keys = Vec::new();
        for key in messages.iter().filter_map(|message| TokenKey::from_bytes(message)) {
            if let Err(index) = keys.binary_search(&key) {
                keys.insert(index, key);
            }
        }
        let (broker, store) = (&mut self.broker, host.store());
        let mut commands: Vec<Command> = keys.into_iter().flat_map(|key| broker.poll(key, now, store)).collect();
        commands.extend(broker.continue_sources(now, store));
        commands.extend(broker.start_probe(now, store));
        self.carry_out(commands, now, host)
    }

    /// Processes the expiry of the timer.
    pub fn timer(&mut self, now: Timestamp, host: &mut dyn Host) -> Vec<Finished> {
        let mut commands = self.broker.tick(now, host.store());
        commands.extend(self.broker.observe(now, host.store()));
        self.carry_out(commands, now, host)
    }

    /// Processes the result of a call that [`Host::start_call`] started. An unknown call is ignored.
    pub fn call_finished(
        &mut self,
        id: CallId,
        result: CallResult,
        now: Timestamp,
        host: &mut dyn Host,
    ) -> Vec<Finished> {
        let Some(index) = self.calls.iter().position(|(other, _)| *other == id) else { return Vec::new() };
        let (_, purpose) = self.calls.swap_remove(index);
        let commands = self.broker.call_finished(&purpose, result, now, host.store());
        self.carry_out(commands, now, host)
    }

    /// The time at which [`Driver::timer`] must be called if no event occurs before. It is right also if the clock was set back and no
    /// event has reached the broker since.
    pub fn next_due(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.broker.observe_clock(now);
        self.broker.next_due().into_iter().chain(self.broker.next_observation()).min()
    }

    /// The number of token keys for which this worker keeps state.
    pub fn keys(&self) -> usize {
        self.broker.keys()
    }

    /// Carries out commands, and those that follow from calls which cannot be started. Returns the streams whose wait has ended.
    fn carry_out(&mut self, commands: Vec<Command>, now: Timestamp, host: &mut dyn Host) -> Vec<Finished> {
        let mut finished = Vec::new();
        let mut commands = VecDeque::from(commands);
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Call(purpose, call) => {
                    // The result of an earlier call would be taken for that of this one.
                    self.calls.retain(|(_, other)| *other != purpose);
                    match host.start_call(&call) {
                        Ok(id) => self.calls.push((id, purpose)),
                        // A call that cannot be started is reported as ended.
                        Err(failure) => {
                            commands.extend(self.broker.call_finished(&purpose, Err(failure), now, host.store()));
                        }
                    }
                }
                Command::Wake(queue, key) => host.wake(queue, key.as_bytes()),
                Command::Nudge(queue) => host.wake(queue, ANOTHER_TURN),
                Command::Finish(stream, outcome) => finished.push(Finished::Token(stream, outcome)),
                Command::FinishProbe(stream, status) => finished.push(Finished::Readiness(stream, status)),
                Command::Log(event) => host.log(&event),
                Command::LogExchange(event) => {
                    if let Some(level) = self.exchange_log {
                        host.log(&event.at_least(level));
                    }
                }
                Command::Measure(measurement) => meters::record(&measurement, host),
            }
        }
        finished
    }
}

#[cfg(test)]
impl Driver {
    /// The broker, whose state its tests check.
    pub(crate) const fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The call in progress with this purpose.
    pub(crate) fn call_of(&self, purpose: &Purpose) -> Option<CallId> {
        self.calls.iter().find(|(_, other)| other == purpose).map(|(id, _)| *id)
    }

    /// The purpose of a call in progress.
    pub(crate) fn purpose_of(&self, id: CallId) -> Option<&Purpose> {
        self.calls.iter().find(|(other, _)| *other == id).map(|(_, purpose)| purpose)
    }
}
