//! What one worker's VM knows: its broker, and what is to become of the requests that wait.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use entra_exchange_abi::hostcalls;
use entra_exchange_core::broker::{
    self, Broker, CachedToken, Limits, QueueId, Readiness, ReadinessStatus, RejectedBy, Rejection, StreamId,
    TokenLookup, WorkerId,
};
use entra_exchange_core::config::Log;
use entra_exchange_core::decision::{self, ConfigPath, Decision, Delivery, Effect, Report};
use entra_exchange_core::entra::TokenSpec;
use entra_exchange_core::http::RequestAccess;
use entra_exchange_core::metrics::{self, Outcome};
use entra_exchange_core::policy::{OWN_HEADER, Policy};
use entra_exchange_core::problem::Problem;
use entra_exchange_core::request_log::{ACCESS_LOG_KEY, RequestLog, RequestRecord};
use entra_exchange_core::time::Timestamp;

use crate::envoy::{self, CurrentRequest, Shared};
use crate::meters::Meters;

/// One worker's VM.
pub(crate) struct Worker {
    limits: Limits,
    pub(crate) log: Log,
    request_log: RequestLog,
    pub(crate) meters: Meters,
    /// Whether Envoy keeps the state that keeps a token off an internal redirect.
    keeps_state: bool,
    /// Made with the first request that needs a token, or with the first tick when there are tokens to keep warm: the
    /// canary never has either.
    state: Option<WorkerState>,
}

pub(crate) struct WorkerState {
    pub(crate) broker: Broker,
    pub(crate) queue: QueueId,
    /// The requests that wait for their connections or their tokens.
    waiting: HashMap<StreamId, Waiting>,
    /// The tokens that requests went on with, until their answers come.
    injected: HashMap<StreamId, (Arc<TokenSpec>, Arc<CachedToken>, ConfigPath)>,
}

/// A request that waits.
struct Waiting {
    spec: Arc<TokenSpec>,
    delivery: Delivery,
    since: Timestamp,
}

/// How it ends for a request that needs a token.
pub(crate) struct Ending {
    spec: Arc<TokenSpec>,
    decided_by: ConfigPath,
    outcome: Outcome,
    problem: Option<Problem>,
    effect: Effect,
    /// The token that it goes on with.
    injected: Option<Arc<CachedToken>>,
}

impl Ending {
    fn new(
        spec: Arc<TokenSpec>,
        delivery: &Delivery,
        token: Result<&Arc<CachedToken>, &Problem>,
        now: Timestamp,
    ) -> Self {
        let (effect, outcome) = delivery.deliver(token.map(AsRef::as_ref), now);
        let injected = match (outcome, token) {
            (Outcome::Injected, Ok(cached)) => Some(Arc::clone(cached)),
            _ => None,
        };
        Self { spec, decided_by: delivery.decided_by(), outcome, problem: token.err().cloned(), effect, injected }
    }

    /// The same for a request that must not have its token.
    fn without_token(self, problem: Problem) -> Self {
        let problem = problem.about(self.spec.identity(), self.spec.scope());
        let effect = Effect::Refuse(problem.clone());
        Self { outcome: Outcome::Failed, problem: Some(problem), effect, injected: None, ..self }
    }
}

impl Worker {
    pub(crate) fn new(limits: Limits, log: Log, keeps_state: bool) -> Self {
        Self { limits, log, request_log: RequestLog::new(log), meters: Meters::default(), keeps_state, state: None }
    }

    pub(crate) const fn state(&mut self) -> Option<&mut WorkerState> {
        self.state.as_mut()
    }

    /// Puts it to work, if it is not yet.
    pub(crate) fn begin(&mut self) -> &mut WorkerState {
        let limits = self.limits;
        self.state.get_or_insert_with(|| WorkerState::new(limits))
    }

    /// Decides about the request in effect, and does what was decided. Returns whether it goes on.
    pub(crate) fn receive(&mut self, stream: StreamId, policy: &Policy) -> bool {
        let decision = policy.decide(&CurrentRequest);
        match if self.keeps_state { decision } else { decision.without_state(&CurrentRequest) } {
            Decision::Ignore => {
                envoy::forward_unchanged();
                true
            }
            Decision::Pass(identity) => {
                self.record(&RequestRecord::new(Outcome::Passed, identity.as_deref()));
                envoy::forward_unchanged();
                true
            }
            Decision::Keep(identity, credentials) => {
                let record = RequestRecord::new(Outcome::Kept, Some(&identity));
                self.record(&RequestRecord { credential: Some(&credentials), ..record });
                envoy::forward_unchanged();
                true
            }
            Decision::Report(report) => {
                self.report(&report);
                true
            }
            Decision::ReportToNode(report) => {
                self.report(&report);
                envoy::lead_to_node();
                true
            }
            Decision::Refuse(refusal) => {
                self.record(&refusal.record());
                envoy::send(&refusal.reply, Some(refusal.problem.code));
                false
            }
            Decision::Reply(reply) => {
                envoy::send(&reply, None);
                false
            }
            Decision::Check(readiness) => {
                if let Some(status) = self.start_probe(&readiness, stream, envoy::now()) {
                    self.tell_readiness(&status);
                }
                false
            }
            Decision::Status => {
                envoy::send(&broker::status(envoy::BUILD, policy.configuration(), envoy::now(), &Shared), None);
                false
            }
            Decision::AwaitConnection(spec, delivery) => {
                let ending = self.await_connection(spec, delivery, stream, envoy::now());
                ending.is_some_and(|ending| self.end(stream, ending))
            }
            Decision::Exchange(spec, delivery) => {
                let ending = self.request_token(spec, delivery, stream, envoy::now());
                // Without an ending it waits.
                ending.is_some_and(|ending| self.end(stream, ending))
            }
        }
    }

    /// Has a request wait for its connection: how it ends for it, or `None` when it is to pause.
    fn await_connection(
        &mut self,
        spec: Arc<TokenSpec>,
        delivery: Delivery,
        stream: StreamId,
        now: Timestamp,
    ) -> Option<Ending> {
        let state = self.begin();
        match state.broker.await_connection(&spec, stream, now) {
            Ok(earlier) => {
                if earlier {
                    envoy::enqueue(state.queue, envoy::ANOTHER_TURN);
                }
                self.pause(stream, spec, delivery, now);
                None
            }
            Err(problem) => Some(Ending::new(spec, &delivery, Err(&problem), now)),
        }
    }

    /// A request waits no more for its connection: decides about it again. Returns whether it goes on.
    pub(crate) fn connected(&mut self, stream: StreamId, policy: &Policy) -> bool {
        if self.state.as_mut().is_some_and(|state| state.waiting.remove(&stream).is_some()) {
            self.meters.record(&metrics::waiters(-1));
        }
        self.receive(stream, policy)
    }

    fn pause(&mut self, stream: StreamId, spec: Arc<TokenSpec>, delivery: Delivery, now: Timestamp) {
        self.begin().waiting.insert(stream, Waiting { spec, delivery, since: now });
        self.meters.record(&metrics::waiters(1));
    }

    /// Says what would become of a request, has its token fetched, and leaves it unchanged.
    fn report(&mut self, report: &Report) {
        let record = RequestRecord::new(Outcome::Reported, report.identity.as_deref());
        self.record(&RequestRecord { would_refuse: report.would_refuse, ..record });
        if let Some(spec) = &report.spec {
            self.prefetch(spec, envoy::now());
        }
        envoy::forward_unchanged();
    }

    /// Gets a token for a request: how it ends for it, or `None` when it is to pause.
    fn request_token(
        &mut self,
        spec: Arc<TokenSpec>,
        delivery: Delivery,
        stream: StreamId,
        now: Timestamp,
    ) -> Option<Ending> {
        let state = self.begin();
        let answer = match delivery.stale() {
            None => {
                let (answer, look) = state.broker.get(&spec, delivery.need(), stream, now, &Shared);
                if look {
                    envoy::enqueue(state.queue, spec.key().as_bytes());
                }
                answer
            }
            Some(stale) => {
                let (answer, rejection) = state.broker.get_another(&spec, delivery.need(), stale, stream, now, &Shared);
                report_rejection(&spec, &rejection, RejectedBy::Caller);
                answer
            }
        };
        match answer {
            TokenLookup::Ready(cached) => Some(Ending::new(spec, &delivery, Ok(&cached), now)),
            TokenLookup::Failed(problem) => Some(Ending::new(spec, &delivery, Err(&problem), now)),
            TokenLookup::Pending => {
                self.pause(stream, spec, delivery, now);
                None
            }
        }
    }

    /// Has a token fetched for a request that goes on without it.
    fn prefetch(&mut self, spec: &Arc<TokenSpec>, now: Timestamp) {
        let state = self.begin();
        if state.broker.prefetch(spec, now, &Shared) {
            envoy::enqueue(state.queue, spec.key().as_bytes());
        }
    }

    /// Whether the pod is ready; `None` when the request is to pause.
    fn start_probe(&mut self, readiness: &Arc<Readiness>, stream: StreamId, now: Timestamp) -> Option<ReadinessStatus> {
        let state = self.begin();
        let status = state.broker.ready(readiness, stream, now, &Shared);
        if status.is_none() {
            envoy::enqueue(state.queue, envoy::ANOTHER_TURN);
        }
        status
    }

    /// How it ends for a request that waited; `None` when it is gone.
    pub(crate) fn finish(
        &mut self,
        stream: StreamId,
        token: Result<&Arc<CachedToken>, &Problem>,
        now: Timestamp,
    ) -> Option<Ending> {
        let waiting = self.state.as_mut()?.waiting.remove(&stream)?;
        self.meters.record(&metrics::waiters(-1));
        for measurement in metrics::waited(waiting.spec.identity(), now.since(waiting.since).as_millis()) {
            self.meters.record(&measurement);
        }
        Some(Ending::new(waiting.spec, &waiting.delivery, token, now))
    }

    /// Does to the request in effect what it comes to. Returns whether it goes on.
    pub(crate) fn end(&mut self, stream: StreamId, ending: Ending) -> bool {
        let ending = match &ending.effect {
            // First what keeps the token off an internal redirect: without it there must be no token.
            Effect::Authorize { header, .. } if !envoy::set_filter_state(OWN_HEADER, header) => {
                ending.without_token(decision::state_unavailable())
            }
            _ => ending,
        };
        let record = RequestRecord {
            decided_by: Some(ending.decided_by),
            problem: ending.problem.as_ref(),
            status: ending.effect.status(),
            ..RequestRecord::new(ending.outcome, Some(ending.spec.identity()))
        };
        self.record(&record);
        let code = record.code();
        if let (Some(injected), Some(state)) = (ending.injected, &mut self.state) {
            state.injected.insert(stream, (ending.spec, injected, ending.decided_by));
        }
        envoy::apply(&ending.effect, code)
    }

    /// The answer to a request has come. When it went on with a token, and that was rejected, another is fetched.
    pub(crate) fn answered(&mut self, stream: StreamId) {
        let Some(state) = &mut self.state else { return };
        if let Some((spec, token, decided_by)) = state.injected.remove(&stream)
            && envoy::is_unauthorized()
        {
            self.meters.record(&metrics::rejected_by_upstream(spec.identity()));
            let rejection = state.broker.reject(spec.key(), &token, envoy::now(), &Shared);
            report_rejection(&spec, &rejection, RejectedBy::Upstream(&decided_by));
        }
    }

    /// Answers the request in effect, which asks whether the pod is ready.
    pub(crate) fn tell_readiness(&self, status: &ReadinessStatus) {
        status.measurements().for_each(|measurement| self.meters.record(&measurement));
        envoy::tell_readiness(status);
    }

    /// A request is gone.
    pub(crate) fn forget(&mut self, stream: StreamId) {
        let Some(state) = &mut self.state else { return };
        state.injected.remove(&stream);
        state.broker.forget(stream);
        if state.waiting.remove(&stream).is_some() {
            self.meters.record(&metrics::waiters(-1));
        }
    }

    /// Counts the request in effect, sets its value for access logs, and logs it where that is due.
    fn record(&mut self, record: &RequestRecord<'_>) {
        self.meters.count(record);
        if let Some(value) = self.request_log.access_log_value(record) {
            envoy::set_filter_state(ACCESS_LOG_KEY, &value);
        }
        let host = || CurrentRequest.header(":authority");
        if let Some(event) = self.request_log.line(record, host, envoy::now) {
            envoy::log(&event);
        }
    }
}

impl WorkerState {
    fn new(limits: Limits) -> Self {
        let worker = WorkerId(random());
        // One name has one reader, the last that registered it: so each worker has a name of its own.
        let name = format!("entra-exchange/{:016x}", worker.0);
        let queue = QueueId(hostcalls::register_shared_queue(&name).unwrap_or_default());
        Self { broker: Broker::new(worker, queue, limits), queue, waiting: HashMap::new(), injected: HashMap::new() }
    }
}

/// Logs that a token was rejected, and wakes the workers that must know.
fn report_rejection(spec: &TokenSpec, rejection: &Rejection, by: RejectedBy<'_>) {
    if let Some(event) = rejection.event(spec, by) {
        envoy::log(&event);
    }
    rejection.wake.iter().for_each(|queue| envoy::enqueue(*queue, spec.key().as_bytes()));
}

/// A random number: the standard library seeds its hash maps from the host's randomness.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
