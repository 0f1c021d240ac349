//! What the engine does to requests: decides, pauses, resumes and answers them.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Engine, Finished, Flow, HttpHost, StreamRequest};
use crate::broker::{self, CachedToken, Connection, ReadinessStatus, StreamId, TokenLookup};
use crate::decision::{self, ConfigPath, Decision, Delivery, Effect, Report};
use crate::entra::TokenSpec;
use crate::http::{Reply, RequestAccess};
use crate::metrics::{self, Outcome};
use crate::policy::{self, NODE_ROUTE, OWN_HEADER};
use crate::problem::{Code, Problem};
use crate::request_log::{ACCESS_LOG_KEY, RequestRecord, response_code_details};
use crate::time::Timestamp;

/// The streams of one worker that the engine must know again.
#[derive(Default)]
pub(super) struct Requests(HashMap<StreamId, Known>);

/// What is known of a stream.
enum Known {
    /// It waits for its connection or its token.
    Waiting(Waiting),
    /// It was forwarded with this token, and its response has not arrived.
    Injected(Arc<TokenSpec>, Arc<CachedToken>, ConfigPath),
}

impl Requests {
    /// Takes out a stream that waits.
    fn take_waiting(&mut self, stream: StreamId) -> Option<Waiting> {
        match self.0.remove(&stream)? {
            Known::Waiting(waiting) => Some(waiting),
            Known::Injected(..) => None,
        }
    }
}

/// A request that waits.
struct Waiting {
    spec: Arc<TokenSpec>,
    delivery: Delivery,
    since: Timestamp,
}

/// How a request ends that needs a token.
struct Ending {
    spec: Arc<TokenSpec>,
    decided_by: ConfigPath,
    outcome: Outcome,
    problem: Option<Problem>,
    effect: Effect,
    /// The token that it is forwarded with.
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

impl Engine {
    /// The headers of a request have arrived.
    pub fn request(&mut self, stream: StreamId, host: &mut dyn HttpHost) -> Flow {
        let request = StreamRequest { host, stream };
        let decision = self.policy.decide(&request);
        match if self.keeps_state { decision } else { decision.without_state(&request) } {
            Decision::Ignore => {
                forward_unchanged(stream, host);
                Flow::Continue
            }
            Decision::Pass(identity) => {
                self.record(stream, &RequestRecord::new(Outcome::Passed, identity.as_deref()), host);
                forward_unchanged(stream, host);
                Flow::Continue
            }
            Decision::Keep(identity, credentials) => {
                let record = RequestRecord::new(Outcome::Kept, Some(&identity));
                self.record(stream, &RequestRecord { credential: Some(&credentials), ..record }, host);
                forward_unchanged(stream, host);
                Flow::Continue
            }
            Decision::Report(report) => {
                self.report(stream, &report, host);
                Flow::Continue
            }
            Decision::ReportToNode(report) => {
                self.report(stream, &report, host);
                // The route may match on this mark.
                host.set_filter_state(stream, NODE_ROUTE.0, NODE_ROUTE.1);
                host.clear_route_cache(stream);
                Flow::Continue
            }
            Decision::Refuse(refusal) => {
                self.record(stream, &refusal.record(), host);
                reply(stream, &refusal.reply, Some(refusal.problem.code), host);
                Flow::Pause
            }
            Decision::Reply(answer) => {
                reply(stream, &answer, None, host);
                Flow::Pause
            }
            Decision::Check(readiness) => {
                if let Some(status) = self.begin(host).driver.probe(&readiness, stream, host) {
                    self.reply_readiness(stream, &status, host);
                }
                Flow::Pause
            }
            Decision::Status => {
                let page = broker::status(self.build, self.policy.configuration(), host.now(), host.shared());
                reply(stream, &page, None, host);
                Flow::Pause
            }
            Decision::AwaitConnection(spec, delivery) => {
                match self.begin(host).driver.await_connection(&spec, stream, host) {
                    Ok(()) => self.pause(stream, spec, delivery, host),
                    Err(problem) => {
                        let ending = Ending::new(spec, &delivery, Err(&problem), host.now());
                        self.end(stream, ending, host)
                    }
                }
            }
            Decision::Exchange(spec, delivery) => self.request_token(stream, spec, delivery, host),
        }
    }

    /// The headers of a response have arrived. A token that the upstream rejected is replaced.
    pub fn response(&mut self, stream: StreamId, host: &mut dyn HttpHost) {
        let Some(worker) = &mut self.worker else { return };
        if let Some(Known::Injected(spec, token, decided_by)) = worker.requests.0.remove(&stream)
            && host.response_status(stream) == Some(UNAUTHORIZED)
        {
            self.meters.record(&metrics::rejected_by_upstream(spec.identity()), host);
            worker.driver.reject(&spec, &token, &decided_by, host);
        }
    }

    /// A stream no longer exists, and its number may be used for another.
    pub fn stream_gone(&mut self, stream: StreamId, host: &mut dyn HttpHost) {
        let Some(worker) = &mut self.worker else { return };
        worker.driver.forget(stream);
        if worker.requests.take_waiting(stream).is_some() {
            self.meters.record(&metrics::waiters(-1), host);
        }
    }

    /// Finishes a stream whose wait has ended.
    pub(super) fn finish(&mut self, finished: Finished, host: &mut dyn HttpHost) {
        match finished {
            Finished::Token(stream, token) => self.finish_waiting(stream, token.as_ref(), host),
            Finished::Readiness(stream, status) => self.reply_readiness(stream, &status, host),
        }
    }

    /// Decides again about the requests whose connections are established, and answers those for which none was in time.
    pub(super) fn poll_connections(&mut self, host: &mut dyn HttpHost) {
        let Some(worker) = &mut self.worker else { return };
        let now = host.now();
        let is_established = |stream| policy::is_established(&StreamRequest { host: &*host, stream });
        for (stream, connection) in worker.driver.poll_connections(now, is_established) {
            match connection {
                Connection::Established => {
                    let waited = self.worker.as_mut().and_then(|worker| worker.requests.take_waiting(stream));
                    if waited.is_some() {
                        self.meters.record(&metrics::waiters(-1), host);
                    }
                    if self.request(stream, host) == Flow::Continue {
                        host.resume(stream);
                    }
                }
                Connection::TimedOut(problem) => self.finish_waiting(stream, Err(&problem), host),
            }
        }
    }

    fn finish_waiting(
        &mut self,
        stream: StreamId,
        token: Result<&Arc<CachedToken>, &Problem>,
        host: &mut dyn HttpHost,
    ) {
        let Some(waiting) = self.worker.as_mut().and_then(|worker| worker.requests.take_waiting(stream)) else {
            return;
        };
        let now = host.now();
        self.meters.record(&metrics::waiters(-1), host);
        for measurement in metrics::waited(waiting.spec.identity(), now.since(waiting.since).as_millis()) {
            self.meters.record(&measurement, host);
        }
        let ending = Ending::new(waiting.spec, &waiting.delivery, token, now);
        if self.end(stream, ending, host) == Flow::Continue {
            host.resume(stream);
        }
    }

    fn request_token(
        &mut self,
        stream: StreamId,
        spec: Arc<TokenSpec>,
        delivery: Delivery,
        host: &mut dyn HttpHost,
    ) -> Flow {
        let now = host.now();
        let driver = &mut self.begin(host).driver;
        let ending = match driver.request_token(&spec, delivery.need(), delivery.stale(), stream, now, host) {
            TokenLookup::Ready(cached) => Ending::new(spec, &delivery, Ok(&cached), now),
            TokenLookup::Failed(problem) => Ending::new(spec, &delivery, Err(&problem), now),
            TokenLookup::Pending => return self.pause(stream, spec, delivery, host),
        };
        self.end(stream, ending, host)
    }

    fn pause(&mut self, stream: StreamId, spec: Arc<TokenSpec>, delivery: Delivery, host: &mut dyn HttpHost) -> Flow {
        let since = host.now();
        let waiting = Waiting { spec, delivery, since };
        self.begin(host).requests.0.insert(stream, Known::Waiting(waiting));
        self.meters.record(&metrics::waiters(1), host);
        Flow::Pause
    }

    /// Records how a request would be handled if its action were not `report`, fetches its token, and leaves it unchanged.
    fn report(&mut self, stream: StreamId, report: &Report, host: &mut dyn HttpHost) {
        let record = RequestRecord::new(Outcome::Reported, report.identity.as_deref());
        self.record(stream, &RequestRecord { would_refuse: report.would_refuse, ..record }, host);
        if let Some(spec) = &report.spec {
            self.begin(host).driver.prefetch(spec, host);
        }
        forward_unchanged(stream, host);
    }

    /// Does to a request what was decided.
    fn end(&mut self, stream: StreamId, ending: Ending, host: &mut dyn HttpHost) -> Flow {
        let ending = match &ending.effect {
            // First the state that keeps the token off an internal redirect: without it there must be no token.
            Effect::Authorize { header, .. } if !host.set_filter_state(stream, OWN_HEADER, header) => {
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
        self.record(stream, &record, host);
        let flow = apply(stream, &ending.effect, record.code(), host);
        if let (Some(token), Some(worker)) = (ending.injected, &mut self.worker) {
            worker.requests.0.insert(stream, Known::Injected(ending.spec, token, ending.decided_by));
        }
        flow
    }

    /// Answers a request that asks whether the pod is ready.
    fn reply_readiness(&mut self, stream: StreamId, status: &ReadinessStatus, host: &mut dyn HttpHost) {
        for measurement in status.measurements() {
            self.meters.record(&measurement, host);
        }
        let answer = policy::readiness_reply(status, &StreamRequest { host, stream });
        reply(stream, &answer, status.outcome().err().map(|problem| problem.code), host);
    }

    /// Counts a request, sets its value for access logs, and logs it where that is due.
    fn record(&mut self, stream: StreamId, record: &RequestRecord<'_>, host: &mut dyn HttpHost) {
        self.meters.count(record, host);
        if let Some(value) = self.request_log.access_log_value(record) {
            host.set_filter_state(stream, ACCESS_LOG_KEY, &value);
        }
        if let Some(event) = self.request_log.line(record, || host.header(stream, ":authority"), || host.now()) {
            host.log(&event);
        }
    }
}

/// RFC 9110, section 15.5.2.
const UNAUTHORIZED: u16 = 401;

/// Does to a request what was decided; `code` is the reason, where it is answered with a problem.
fn apply(stream: StreamId, effect: &Effect, code: Option<Code>, host: &mut dyn HttpHost) -> Flow {
    match effect {
        Effect::Authorize { header, value, without } => {
            without.iter().for_each(|name| host.set_header(stream, name, None));
            host.set_header(stream, header, Some(value));
        }
        Effect::Pass => forward_unchanged(stream, host),
        Effect::Refuse(problem) => {
            let answer = problem.reply_to(&StreamRequest { host, stream });
            reply(stream, &answer, code, host);
        }
        Effect::Reply(answer) => reply(stream, answer, code, host),
    }
    Flow::forward_if(matches!(effect, Effect::Authorize { .. } | Effect::Pass))
}

/// Lets a request be forwarded as its client sent it: on a retry, or after an internal redirect, without the token that it got before.
fn forward_unchanged(stream: StreamId, host: &mut dyn HttpHost) {
    let header = StreamRequest { host, stream }.property(&[OWN_HEADER]).and_then(|name| String::from_utf8(name).ok());
    if let Some(header) = header.filter(|header| !header.is_empty()) {
        host.set_header(stream, &header, None);
        host.set_filter_state(stream, OWN_HEADER, "");
    }
}

/// Answers a request. With a code, Envoy's response code details name it.
fn reply(stream: StreamId, answer: &Reply, code: Option<Code>, host: &mut dyn HttpHost) {
    host.reply(stream, answer, &code.map(response_code_details).unwrap_or_default());
}
