//! Executes the broker's commands through a host.

use std::collections::VecDeque;
use std::sync::Arc;

use super::host::{CallId, Host};
use super::meters;
use crate::broker::{
    Broker, CachedToken, Command, ConnectionOutcome, Limits, Purpose, QueueId, Readiness, ReadinessStatus, RejectedBy,
    RejectedToken, Rejection, RequiredLifetime, Store, StreamId, TokenLookup, WorkerId,
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
    queue: QueueId,
    /// Calls in progress. There are few.
    calls: Vec<(CallId, Purpose)>,
    /// The minimum level of exchange events; `None` disables them.
    exchange_log: Option<Level>,
}

/// A paused stream whose wait has ended.
#[derive(Debug)]
pub enum Finished {
    /// The stream waited for a token.
    Token(StreamId, Result<Arc<CachedToken>, Problem>),
    /// The stream is a readiness probe.
    Readiness(StreamId, ReadinessStatus),
}

impl Driver {
    /// Creates the driver of one worker, which `queue` wakes. The worker's id must be random, because it seeds the jitter.
    pub fn new(worker: WorkerId, queue: QueueId, limits: Limits, exchange_log: Option<Level>) -> Self {
        Self { broker: Broker::new(worker, queue, limits), queue, calls: Vec::new(), exchange_log }
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
            let (lookup, poll) = self.broker.get(spec, required_lifetime, stream, now, host.store());
            if poll {
                host.wake(self.queue, spec.key().as_bytes());
            }
            return lookup;
        };
        let (lookup, rejection) =
            self.broker.get_replacement(spec, required_lifetime, rejected_token, stream, now, host.store());
        report_rejection(spec, &rejection, RejectedBy::Caller, host);
        lookup
    }

    /// Fetches a token into the cache for a request that does not wait for it.
    pub fn prefetch(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, host: &mut dyn Host) {
        if self.broker.prefetch(spec, now, host.store()) {
            host.wake(self.queue, spec.key().as_bytes());
        }
    }

    /// Checks whether the pod is ready. On `None` the stream must pause, and a later [`Finished::Readiness`] names it.
    pub fn probe(
        &mut self,
        readiness: &Arc<Readiness>,
        stream: StreamId,
        now: Timestamp,
        host: &mut dyn Host,
    ) -> Option<ReadinessStatus> {
        let status = self.broker.check_readiness(readiness, stream, now, host.store());
        if status.is_none() {
            host.wake(self.queue, ANOTHER_TURN);
        }
        status
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
        let rejection = self.broker.reject(spec.key(), token, now, host.store());
        report_rejection(spec, &rejection, RejectedBy::Upstream(decided_by), host);
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
        if self.broker.await_connection(spec, stream, now)? {
            host.wake(self.queue, ANOTHER_TURN);
        }
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
        self.turn(now, host, |broker, store| {
            let mut commands: Vec<Command> = keys.into_iter().flat_map(|key| broker.poll(key, now, store)).collect();
            commands.extend(broker.continue_sources(now, store));
            commands.extend(broker.start_probe(now, store));
            commands
        })
    }

    /// Processes the expiry of the timer.
    pub fn timer(&mut self, now: Timestamp, host: &mut dyn Host) -> Vec<Finished> {
        self.turn(now, host, |broker, store| {
            let mut commands = broker.tick(now, store);
            commands.extend(broker.observe(now, store));
            commands
        })
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
        self.turn(now, host, |broker, store| broker.call_finished(&purpose, result, now, store))
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

    /// Passes one event to the broker, and carries out its commands until there are none.
    fn turn(
        &mut self,
        now: Timestamp,
        host: &mut dyn Host,
        event: impl FnOnce(&mut Broker, &dyn Store) -> Vec<Command>,
    ) -> Vec<Finished> {
        let mut finished = Vec::new();
        let mut commands = VecDeque::from(event(&mut self.broker, host.store()));
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
                Command::Log(event) => {
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

/// Logs a rejection and wakes the workers that it concerns.
fn report_rejection(spec: &TokenSpec, rejection: &Rejection, by: RejectedBy<'_>, host: &mut dyn Host) {
    if let Some(event) = rejection.event(spec, by) {
        host.log(&event);
    }
    rejection.wake.iter().for_each(|queue| host.wake(*queue, spec.key().as_bytes()));
}
