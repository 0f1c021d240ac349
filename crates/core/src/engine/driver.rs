//! The one interpreter of the broker's commands.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::host::{CallId, Host};
use super::meters::Meters;
use crate::assertion::Source;
use crate::broker::{
    Broker, CachedToken, Command, Connection, Limits, Need, QueueId, READ_TIMEOUT, Readiness, ReadinessStatus,
    RejectedBy, Rejection, SharedData, Stale, StreamId, TokenLookup, WorkerId,
};
use crate::decision::ConfigPath;
use crate::entra::{TokenKey, TokenSpec};
use crate::event::Level;
use crate::http::{CallResult, HttpCall};
use crate::problem::Problem;
use crate::small_map::SmallMap;
use crate::time::Timestamp;

/// The message that has a worker take a turn and names no key: no key is as short.
const ANOTHER_TURN: &[u8] = b"";

/// One worker's broker, with its calls.
///
/// Each method hands in one event, carries out through the [`Host`] what the broker asks for because of it, and sets the
/// timer. Paused streams that are to be finished come back, because only the caller knows what a stream is.
pub struct Driver {
    broker: Broker,
    queue: QueueId,
    /// Calls in progress.
    calls: SmallMap<CallId, Purpose>,
    /// The least level of lines about exchanges; `None` writes none.
    exchange_log: Option<Level>,
    meters: Meters,
}

/// What a call is for.
#[derive(Clone)]
enum Purpose {
    Assertion(TokenKey),
    Endpoint(TokenKey),
    Probe(Source),
}

/// A paused stream whose wait has ended.
#[derive(Debug)]
pub enum Finished {
    /// It waited for a token.
    Token(StreamId, Result<Arc<CachedToken>, Problem>),
    /// It asked whether the pod is ready.
    Readiness(StreamId, ReadinessStatus),
}

impl Driver {
    /// A driver for one worker, which `queue` wakes. The worker's id must be random: the jitter comes from it.
    pub fn new(worker: WorkerId, queue: QueueId, limits: Limits, exchange_log: Option<Level>) -> Self {
        Self {
            broker: Broker::new(worker, queue, limits),
            queue,
            calls: SmallMap::default(),
            exchange_log,
            meters: Meters::default(),
        }
    }

    /// Fetches these tokens now and keeps them fresh, even when no request asks for them. The host's timer must be due.
    pub fn keep_warm(&mut self, specs: &[Arc<TokenSpec>], now: Timestamp) {
        self.broker.keep_warm(specs, now);
    }

    /// Asks for a token on behalf of a request. [`TokenLookup::Pending`] means that the stream is to pause; a [`Finished::Token`]
    /// will name it. With `stale`, the request rejects the token that is cached. `now` is [`Host::now`], which costs a host call.
    pub fn request_token(
        &mut self,
        spec: &Arc<TokenSpec>,
        need: Need,
        stale: Option<Stale>,
        stream: StreamId,
        now: Timestamp,
        host: &mut dyn Host,
    ) -> TokenLookup {
        let Some(stale) = stale else {
            let (lookup, poll) = self.broker.get(spec, need, stream, now, host.shared());
            if poll {
                host.wake(self.queue, spec.key().as_bytes());
            }
            return lookup;
        };
        let (lookup, rejection) = self.broker.get_another(spec, need, stale, stream, now, host.shared());
        report_rejection(spec, &rejection, RejectedBy::Caller, host);
        lookup
    }

    /// Fetches a token for a request that does not wait for it.
    pub fn prefetch(&mut self, spec: &Arc<TokenSpec>, host: &mut dyn Host) {
        if self.broker.prefetch(spec, host.now(), host.shared()) {
            host.wake(self.queue, spec.key().as_bytes());
        }
    }

    /// Whether the pod is ready; `None` when the stream is to pause: a [`Finished::Readiness`] will name it.
    pub fn probe(
        &mut self,
        readiness: &Arc<Readiness>,
        stream: StreamId,
        host: &mut dyn Host,
    ) -> Option<ReadinessStatus> {
        let status = self.broker.ready(readiness, stream, host.now(), host.shared());
        if status.is_none() {
            host.wake(self.queue, ANOTHER_TURN);
        }
        status
    }

    /// The upstream answered 401 to a request that carried this token, which `decided_by` gave it.
    pub fn reject(&mut self, spec: &TokenSpec, token: &CachedToken, decided_by: &ConfigPath, host: &mut dyn Host) {
        let rejection = self.broker.reject(spec.key(), token, host.now(), host.shared());
        report_rejection(spec, &rejection, RejectedBy::Upstream(decided_by), host);
    }

    /// A request waits until its upstream connection is established: [`Driver::poll_connections`] will name it.
    ///
    /// # Errors
    /// Too many requests wait already.
    pub fn await_connection(
        &mut self,
        spec: &Arc<TokenSpec>,
        stream: StreamId,
        host: &mut dyn Host,
    ) -> Result<(), Problem> {
        if self.broker.await_connection(spec, stream, host.now())? {
            host.wake(self.queue, ANOTHER_TURN);
        }
        Ok(())
    }

    /// The streams whose wait for a connection has ended; `is_established` says of one whether its connection exists.
    pub fn poll_connections(
        &mut self,
        now: Timestamp,
        is_established: impl FnMut(StreamId) -> bool,
    ) -> Vec<(StreamId, Connection)> {
        self.broker.connections(now, is_established)
    }

    /// A paused stream no longer exists.
    pub fn forget(&mut self, stream: StreamId) {
        self.broker.forget(stream);
    }

    /// Messages from [`Host::wake`] have arrived.
    pub fn woken(&mut self, messages: &[Vec<u8>], host: &mut dyn Host) -> Vec<Finished> {
        // Sorting a list would add 22 KB to the module.
        let mut keys = BTreeSet::new();
        messages.iter().filter_map(|message| TokenKey::from_bytes(message)).for_each(|key| {
            keys.insert(key);
        });
        self.turn(host, |broker, now, shared| {
            let mut commands: Vec<Command> = keys.into_iter().flat_map(|key| broker.poll(key, now, shared)).collect();
            commands.extend(broker.start_probe(now));
            commands
        })
    }

    /// The timer has fired.
    pub fn timer(&mut self, host: &mut dyn Host) -> Vec<Finished> {
        self.turn(host, |broker, now, shared| {
            let mut commands = broker.tick(now, shared);
            commands.extend(broker.observe(now, shared));
            commands
        })
    }

    /// A call that [`Host::start_call`] started has ended. One that is not known is ignored.
    pub fn call_finished(&mut self, id: CallId, result: CallResult, host: &mut dyn Host) -> Vec<Finished> {
        match self.calls.remove(&id) {
            Some(purpose) => self.turn(host, |broker, now, shared| report(broker, purpose, result, now, shared)),
            None => Vec::new(),
        }
    }

    /// When [`Driver::timer`] is due, even if nothing happens.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.broker.next_due().into_iter().chain(self.broker.next_observation()).min()
    }

    /// How many token keys this worker keeps something of.
    pub fn keys(&self) -> usize {
        self.broker.keys()
    }

    /// Hands one event to the broker, and carries out its commands until there are none.
    fn turn(
        &mut self,
        host: &mut dyn Host,
        event: impl FnOnce(&mut Broker, Timestamp, &dyn SharedData) -> Vec<Command>,
    ) -> Vec<Finished> {
        let now = host.now();
        let mut finished = Vec::new();
        let mut commands = VecDeque::from(event(&mut self.broker, now, host.shared()));
        while let Some(command) = commands.pop_front() {
            let (purpose, call) = match command {
                Command::ReadAssertion(spec) => (Purpose::Assertion(spec.key()), read(spec.assertion())),
                Command::ReadForCheck(source) => {
                    let call = read(&source);
                    (Purpose::Probe(source), call)
                }
                Command::CallEndpoint { spec, cluster, request, timeout } => {
                    (Purpose::Endpoint(spec.key()), request.into_call(cluster, timeout))
                }
                Command::Wake(queue, key) => {
                    host.wake(queue, key.as_bytes());
                    continue;
                }
                Command::Finish(stream, outcome) => {
                    finished.push(Finished::Token(stream, outcome));
                    continue;
                }
                Command::Checked(stream, status) => {
                    finished.push(Finished::Readiness(stream, status));
                    continue;
                }
                Command::Log(event) => {
                    if let Some(level) = self.exchange_log {
                        host.log(&event.at_least(level));
                    }
                    continue;
                }
                Command::Measure(measurement) => {
                    self.meters.record(&measurement, host);
                    continue;
                }
            };
            match host.start_call(&call) {
                Ok(id) => self.calls.insert(id, purpose),
                // A call that cannot be started has ended.
                Err(failure) => {
                    commands.extend(report(&mut self.broker, purpose, Err(failure), now, host.shared()));
                }
            }
        }
        finished
    }
}

/// The call that reads a federated token.
fn read(source: &Source) -> HttpCall {
    let cluster = source.cluster().to_owned();
    HttpCall {
        authority: cluster.clone(),
        cluster,
        method: "GET",
        path: "/".to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout: READ_TIMEOUT,
    }
}

fn report(
    broker: &mut Broker,
    purpose: Purpose,
    result: CallResult,
    now: Timestamp,
    shared: &dyn SharedData,
) -> Vec<Command> {
    match purpose {
        Purpose::Assertion(key) => broker.assertion_arrived(key, result, now, shared),
        Purpose::Endpoint(key) => broker.endpoint_answered(key, result, now, shared),
        Purpose::Probe(source) => broker.check_answered(&source, result, now, shared),
    }
}

/// Logs that a token was rejected, and wakes the workers that must know.
fn report_rejection(spec: &TokenSpec, rejection: &Rejection, by: RejectedBy<'_>, host: &mut dyn Host) {
    if let Some(event) = rejection.event(spec, by) {
        host.log(&event);
    }
    rejection.wake.iter().for_each(|queue| host.wake(*queue, spec.key().as_bytes()));
}
