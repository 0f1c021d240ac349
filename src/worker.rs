//! What one worker's VM knows: its broker, and what is to become of the requests that wait.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use entra_exchange_abi::hostcalls;
use entra_exchange_core::broker::{
    self, Answer, Broker, Issued, Limits, QueueId, Readiness, ReadinessStatus, RejectedBy, Rejection, StreamId,
    WorkerId,
};
use entra_exchange_core::config::Log;
use entra_exchange_core::decision::{self, ConfigPath, Decision, Delivery, Effect, Report};
use entra_exchange_core::entra::Grant;
use entra_exchange_core::http::Request;
use entra_exchange_core::metrics::{self, Outcome};
use entra_exchange_core::policy::{OWN_HEADER, Policy};
use entra_exchange_core::problem::Problem;
use entra_exchange_core::request_log::{ACCESS_LOG_KEY, RequestLog, RequestRecord};
use entra_exchange_core::time::Timestamp;

use crate::envoy::{self, InEffect, Shared};
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
    at_work: Option<AtWork>,
}

pub(crate) struct AtWork {
    pub(crate) broker: Broker,
    pub(crate) queue: QueueId,
    /// The requests that wait for their connections or their tokens.
    waiting: HashMap<StreamId, Waiting>,
    /// The tokens that requests went on with, until their answers come.
    injected: HashMap<StreamId, (Arc<Grant>, Arc<Issued>, ConfigPath)>,
}

/// A request that waits.
struct Waiting {
    grant: Arc<Grant>,
    delivery: Delivery,
    since: Timestamp,
}

/// How it ends for a request that needs a token.
pub(crate) struct Ending {
    grant: Arc<Grant>,
    decided_by: ConfigPath,
    outcome: Outcome,
    problem: Option<Problem>,
    effect: Effect,
    /// The token that it goes on with.
    injected: Option<Arc<Issued>>,
}

impl Ending {
    fn new(grant: Arc<Grant>, delivery: &Delivery, token: Result<&Arc<Issued>, &Problem>, now: Timestamp) -> Self {
        let (effect, outcome) = delivery.deliver(token.map(AsRef::as_ref), now);
        let injected = match (outcome, token) {
            (Outcome::Injected, Ok(issued)) => Some(Arc::clone(issued)),
            _ => None,
        };
        Self { grant, decided_by: delivery.decided_by(), outcome, problem: token.err().cloned(), effect, injected }
    }

    /// The same for a request that must not have its token.
    fn without_token(self, problem: Problem) -> Self {
        let problem = problem.about(self.grant.identity(), self.grant.scope());
        let effect = Effect::Refuse(problem.clone());
        Self { outcome: Outcome::Failed, problem: Some(problem), effect, injected: None, ..self }
    }
}

impl Worker {
    pub(crate) fn new(limits: Limits, log: Log, keeps_state: bool) -> Self {
        Self { limits, log, request_log: RequestLog::new(log), meters: Meters::default(), keeps_state, at_work: None }
    }

    pub(crate) const fn at_work(&mut self) -> Option<&mut AtWork> {
        self.at_work.as_mut()
    }

    /// Puts it to work, if it is not yet.
    pub(crate) fn begin(&mut self) -> &mut AtWork {
        let limits = self.limits;
        self.at_work.get_or_insert_with(|| AtWork::new(limits))
    }

    /// Decides about the request in effect, and does what was decided. Returns whether it goes on.
    pub(crate) fn receive(&mut self, stream: StreamId, policy: &Policy) -> bool {
        let decision = policy.decide(&InEffect);
        match if self.keeps_state { decision } else { decision.without_state(&InEffect) } {
            Decision::Ignore => {
                envoy::as_it_came();
                true
            }
            Decision::Pass(identity) => {
                self.record(&RequestRecord::new(Outcome::Passed, identity.as_deref()));
                envoy::as_it_came();
                true
            }
            Decision::Keep(identity, credentials) => {
                let record = RequestRecord::new(Outcome::Kept, Some(&identity));
                self.record(&RequestRecord { credential: Some(&credentials), ..record });
                envoy::as_it_came();
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
                if let Some(status) = self.check(&readiness, stream, envoy::now()) {
                    self.tell_readiness(&status);
                }
                false
            }
            Decision::Status => {
                envoy::send(&broker::status(envoy::BUILD, policy.configuration(), envoy::now(), &Shared), None);
                false
            }
            Decision::AwaitConnection(grant, delivery) => {
                let ending = self.await_connection(grant, delivery, stream, envoy::now());
                ending.is_some_and(|ending| self.end(stream, ending))
            }
            Decision::Exchange(grant, delivery) => {
                let ending = self.ask(grant, delivery, stream, envoy::now());
                // Without an ending it waits.
                ending.is_some_and(|ending| self.end(stream, ending))
            }
        }
    }

    /// Has a request wait for its connection: how it ends for it, or `None` when it is to pause.
    fn await_connection(
        &mut self,
        grant: Arc<Grant>,
        delivery: Delivery,
        stream: StreamId,
        now: Timestamp,
    ) -> Option<Ending> {
        let at_work = self.begin();
        match at_work.broker.await_connection(&grant, stream, now) {
            Ok(earlier) => {
                if earlier {
                    envoy::enqueue(at_work.queue, envoy::ANOTHER_TURN);
                }
                self.pause(stream, grant, delivery, now);
                None
            }
            Err(problem) => Some(Ending::new(grant, &delivery, Err(&problem), now)),
        }
    }

    /// A request waits no more for its connection: decides about it again. Returns whether it goes on.
    pub(crate) fn connected(&mut self, stream: StreamId, policy: &Policy) -> bool {
        if self.at_work.as_mut().is_some_and(|at_work| at_work.waiting.remove(&stream).is_some()) {
            self.meters.take(&metrics::waiters(-1));
        }
        self.receive(stream, policy)
    }

    fn pause(&mut self, stream: StreamId, grant: Arc<Grant>, delivery: Delivery, now: Timestamp) {
        self.begin().waiting.insert(stream, Waiting { grant, delivery, since: now });
        self.meters.take(&metrics::waiters(1));
    }

    /// Says what would become of a request, has its token fetched, and leaves it unchanged.
    fn report(&mut self, report: &Report) {
        let record = RequestRecord::new(Outcome::Reported, report.identity.as_deref());
        self.record(&RequestRecord { would_refuse: report.would_refuse, ..record });
        if let Some(grant) = &report.grant {
            self.want(grant, envoy::now());
        }
        envoy::as_it_came();
    }

    /// Gets a token for a request: how it ends for it, or `None` when it is to pause.
    fn ask(&mut self, grant: Arc<Grant>, delivery: Delivery, stream: StreamId, now: Timestamp) -> Option<Ending> {
        let at_work = self.begin();
        let answer = match delivery.stale() {
            None => {
                let (answer, look) = at_work.broker.get(&grant, delivery.need(), stream, now, &Shared);
                if look {
                    envoy::enqueue(at_work.queue, grant.key().as_bytes());
                }
                answer
            }
            Some(stale) => {
                let (answer, rejection) =
                    at_work.broker.get_another(&grant, delivery.need(), stale, stream, now, &Shared);
                report_rejection(&grant, &rejection, RejectedBy::Caller);
                answer
            }
        };
        match answer {
            Answer::Ready(issued) => Some(Ending::new(grant, &delivery, Ok(&issued), now)),
            Answer::Failed(problem) => Some(Ending::new(grant, &delivery, Err(&problem), now)),
            Answer::Pending => {
                self.pause(stream, grant, delivery, now);
                None
            }
        }
    }

    /// Has a token fetched for a request that goes on without it.
    fn want(&mut self, grant: &Arc<Grant>, now: Timestamp) {
        let at_work = self.begin();
        if at_work.broker.want(grant, now, &Shared) {
            envoy::enqueue(at_work.queue, grant.key().as_bytes());
        }
    }

    /// Whether the pod is ready; `None` when the request is to pause.
    fn check(&mut self, readiness: &Arc<Readiness>, stream: StreamId, now: Timestamp) -> Option<ReadinessStatus> {
        let at_work = self.begin();
        let status = at_work.broker.ready(readiness, stream, now, &Shared);
        if status.is_none() {
            envoy::enqueue(at_work.queue, envoy::ANOTHER_TURN);
        }
        status
    }

    /// How it ends for a request that waited; `None` when it is gone.
    pub(crate) fn finish(
        &mut self,
        stream: StreamId,
        token: Result<&Arc<Issued>, &Problem>,
        now: Timestamp,
    ) -> Option<Ending> {
        let waiting = self.at_work.as_mut()?.waiting.remove(&stream)?;
        self.meters.take(&metrics::waiters(-1));
        for measurement in metrics::waited(waiting.grant.identity(), now.since(waiting.since).as_millis()) {
            self.meters.take(&measurement);
        }
        Some(Ending::new(waiting.grant, &waiting.delivery, token, now))
    }

    /// Does to the request in effect what it comes to. Returns whether it goes on.
    pub(crate) fn end(&mut self, stream: StreamId, ending: Ending) -> bool {
        let ending = match &ending.effect {
            // First what keeps the token off an internal redirect: without it there must be no token.
            Effect::Authorize { header, .. } if !envoy::leave(OWN_HEADER, header) => {
                ending.without_token(decision::state_unavailable())
            }
            _ => ending,
        };
        let record = RequestRecord {
            decided_by: Some(ending.decided_by),
            problem: ending.problem.as_ref(),
            status: ending.effect.status(),
            ..RequestRecord::new(ending.outcome, Some(ending.grant.identity()))
        };
        self.record(&record);
        let code = record.code();
        if let (Some(injected), Some(at_work)) = (ending.injected, &mut self.at_work) {
            at_work.injected.insert(stream, (ending.grant, injected, ending.decided_by));
        }
        envoy::apply(&ending.effect, code)
    }

    /// The answer to a request has come. When it went on with a token, and that was rejected, another is fetched.
    pub(crate) fn answered(&mut self, stream: StreamId) {
        let Some(at_work) = &mut self.at_work else { return };
        if let Some((grant, token, decided_by)) = at_work.injected.remove(&stream)
            && envoy::is_unauthorized()
        {
            self.meters.take(&metrics::rejected_by_upstream(grant.identity()));
            let rejection = at_work.broker.reject(grant.key(), &token, envoy::now(), &Shared);
            report_rejection(&grant, &rejection, RejectedBy::Upstream(&decided_by));
        }
    }

    /// Answers the request in effect, which asks whether the pod is ready.
    pub(crate) fn tell_readiness(&self, status: &ReadinessStatus) {
        status.measurements().for_each(|measurement| self.meters.take(&measurement));
        envoy::tell_readiness(status);
    }

    /// A request is gone.
    pub(crate) fn forget(&mut self, stream: StreamId) {
        let Some(at_work) = &mut self.at_work else { return };
        at_work.injected.remove(&stream);
        at_work.broker.forget(stream);
        if at_work.waiting.remove(&stream).is_some() {
            self.meters.take(&metrics::waiters(-1));
        }
    }

    /// Counts the request in effect, sets its value for access logs, and logs it where that is due.
    fn record(&mut self, record: &RequestRecord<'_>) {
        self.meters.count(record);
        if let Some(value) = self.request_log.access_log_value(record) {
            envoy::leave(ACCESS_LOG_KEY, &value);
        }
        let host = || InEffect.header(":authority");
        if let Some(event) = self.request_log.line(record, host, envoy::now) {
            envoy::log(&event);
        }
    }
}

impl AtWork {
    fn new(limits: Limits) -> Self {
        let worker = WorkerId(random());
        // One name has one reader, the last that registered it: so each worker has a name of its own.
        let name = format!("entra-exchange/{:016x}", worker.0);
        let queue = QueueId(hostcalls::register_shared_queue(&name).unwrap_or_default());
        Self { broker: Broker::new(worker, queue, limits), queue, waiting: HashMap::new(), injected: HashMap::new() }
    }
}

/// Logs that a token was rejected, and wakes the workers that must know.
fn report_rejection(grant: &Grant, rejection: &Rejection, by: RejectedBy<'_>) {
    if let Some(event) = rejection.event(grant, by) {
        envoy::log(&event);
    }
    rejection.wake.iter().for_each(|queue| envoy::enqueue(*queue, grant.key().as_bytes()));
}

/// A random number: the standard library seeds its hash maps from the host's randomness.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
