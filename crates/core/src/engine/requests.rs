//! Request handling of the engine: decides, pauses, resumes and answers requests.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Engine, Finished, Flow, HttpHost, meters};
use crate::broker::{CachedToken, ConnectionOutcome, Readiness, ReadinessStatus, StreamId, TokenLookup};
use crate::decision::{ConfigPath, Decision, Delivery, Effect, Refusal, Report};
use crate::entra::{TokenKey, TokenSpec};
use crate::fast_map::FastMap;
use crate::http::Reply;
use crate::metrics::{self, Outcome};
use crate::policy::{self, NODE_ROUTE};
use crate::problem::{Code, Problem};
use crate::protocol::Protocol;
use crate::request::{RequestSource, RequestView};
use crate::request_log::{ACCESS_LOG_KEY, RequestRecord, response_code_details};
use crate::status_page::{Format, StatusPage};
use crate::time::Timestamp;

/// The streams of one worker for which the engine keeps state.
#[derive(Default)]
pub(super) struct Requests(FastMap<StreamId, Known>);

/// The state of a stream.
enum Known {
    /// The request waits for its connection or its token.
    Waiting(Waiting),
    /// The request was forwarded with this token, and its response has not arrived.
    Injected(Arc<TokenSpec>, Arc<CachedToken>, ConfigPath),
}

impl Requests {
    /// Removes a stream and returns its state if it waits.
    fn take_waiting(&mut self, stream: StreamId) -> Option<Waiting> {
        match self.0.remove(&stream)? {
            Known::Waiting(waiting) => Some(waiting),
            Known::Injected(..) => None,
        }
    }

    /// The number of requests that wait for the token with this key, or for their connections before they get it.
    fn waiting_for(&self, key: TokenKey) -> usize {
        let waits = |known: &&Known| matches!(known, Known::Waiting(waiting) if waiting.spec.key() == key);
        self.0.values().filter(waits).count()
    }
}

/// A waiting request.
struct Waiting {
    spec: Arc<TokenSpec>,
    delivery: Delivery,
    since: Timestamp,
}

/// The result of a request that needs a token.
struct Ending {
    spec: Arc<TokenSpec>,
    decided_by: ConfigPath,
    outcome: Outcome,
    problem: Option<Box<Problem>>,
    effect: Effect,
}

impl Ending {
    fn new(
        spec: Arc<TokenSpec>,
        delivery: &Delivery,
        token: Result<&Arc<CachedToken>, &Problem>,
        now: Timestamp,
    ) -> Self {
        let (effect, outcome) = delivery.deliver(token, now);
        let decided_by = delivery.decided_by();
        Self { spec, decided_by, outcome, problem: token.err().cloned().map(Box::new), effect }
    }

    /// The HTTP status of the reply; `None` if the request is forwarded.
    fn status(&self) -> Option<u16> {
        match &self.effect {
            Effect::Authorize { .. } | Effect::Pass => None,
            Effect::Refuse(protocol) => self.problem.as_ref().map(|problem| protocol.status(problem.code)),
            Effect::Reply(reply) => Some(reply.status),
        }
    }
}

impl Engine {
    /// Processes the headers of a request.
    ///
    /// Call it when they have arrived, once for each attempt of a request. On [`Flow::Continue`] the host forwards the request with the
    /// headers that were set in this call. On [`Flow::Pause`] it waits: the stream was answered in this call, or a later event resumes or
    /// answers it. It starts no call; what it needs follows from a message to this worker's own queue.
    pub fn request(&mut self, stream: StreamId, host: &mut dyn HttpHost) -> Flow {
        let (decision, own_headers) = {
            let Some(request) = self.view(stream, host) else { return Flow::Pause };
            let request = if self.last_was_listed { request.headers_first() } else { request };
            let decision = self.policy.decide(&request);
            let own_headers = if decision.forwards_unchanged() { request.own_headers() } else { Vec::new() };
            (decision, own_headers)
        };
        self.last_was_listed = !matches!(decision, Decision::Ignore);
        remove(stream, &own_headers, host);
        match decision {
            Decision::Ignore => Flow::Continue,
            Decision::Pass(passed) => {
                self.record(stream, &RequestRecord::new(Outcome::Passed, passed.identity.as_deref()), host);
                Flow::Continue
            }
            Decision::Keep(kept) => {
                let record = RequestRecord::new(Outcome::Kept, Some(&kept.identity));
                self.record(stream, &RequestRecord { credential: Some(&kept.credentials), ..record }, host);
                Flow::Continue
            }
            Decision::Report(report) => {
                self.report(stream, &report, host);
                Flow::Continue
            }
            Decision::ReportToNode(report) => {
                self.report(stream, &report, host);
                // The route may match on this filter state.
                host.set_filter_state(stream, NODE_ROUTE.0, NODE_ROUTE.1);
                host.clear_route_cache(stream);
                Flow::Continue
            }
            Decision::Refuse(refusal) => self.refuse(stream, &refusal, host),
            Decision::RefuseOwn(problem) => {
                reply(stream, &Protocol::ProblemJson.problem_reply(&problem), None, host);
                Flow::Pause
            }
            Decision::Live => {
                reply(stream, &Reply::ok(), None, host);
                Flow::Pause
            }
            Decision::Check(readiness) => self.probe(stream, &readiness, host),
            Decision::Status(format) => {
                let page = self.status_page(format, host);
                reply(stream, &page, None, host);
                Flow::Pause
            }
            Decision::AwaitConnection(spec, delivery) => self.await_connection(stream, spec, delivery, host),
            Decision::Exchange(spec, delivery) => self.request_token(stream, spec, delivery, host),
        }
    }

    /// Processes the headers of a response. On a 401 response, the injected token is replaced.
    ///
    /// Call it for each response of an upstream, before [`Self::stream_gone`]; without it, a rejected token is used until it expires. It
    /// never changes the response.
    pub fn response(&mut self, stream: StreamId, host: &mut dyn HttpHost) {
        let Some(worker) = &mut self.worker else { return };
        if let Some(Known::Injected(spec, token, decided_by)) = worker.requests.0.remove(&stream)
            && host.response_status(stream) == Some(UNAUTHORIZED)
        {
            meters::record(&metrics::rejected_by_upstream(spec.identity()), host);
            worker.driver.reject(&spec, &token, &decided_by, host.now(), host);
        }
    }

    /// Removes a stream that no longer exists. Its number may be reused.
    ///
    /// Call it for every stream, however it ended. No later event names the stream; an exchange that it waited for goes on, because its
    /// token serves the next request.
    pub fn stream_gone(&mut self, stream: StreamId, host: &mut dyn HttpHost) {
        let Some(worker) = &mut self.worker else { return };
        worker.driver.forget(stream);
        if worker.requests.take_waiting(stream).is_some() {
            meters::record(&metrics::waiters(-1), host);
        }
    }

    /// Finishes a stream whose wait has ended.
    pub(super) fn finish(&mut self, finished: Finished, now: Timestamp, host: &mut dyn HttpHost) {
        match finished {
            Finished::Token(stream, token) => self.finish_waiting(stream, token.as_ref(), now, host),
            Finished::Readiness(stream, status) => self.reply_readiness(stream, &status, host),
        }
    }

    /// Decides the requests again whose connections are established, and answers those whose wait has timed out.
    pub(super) fn poll_connections(&mut self, now: Timestamp, host: &mut dyn HttpHost) {
        let Some(worker) = &mut self.worker else { return };
        let is_established = |stream| host.request(stream).is_some_and(RequestSource::upstream_is_established);
        for (stream, connection) in worker.driver.poll_connections(now, is_established) {
            match connection {
                ConnectionOutcome::Established => {
                    let waited = self.worker.as_mut().and_then(|worker| worker.requests.take_waiting(stream));
                    if waited.is_some() {
                        meters::record(&metrics::waiters(-1), host);
                    }
                    if self.request(stream, host) == Flow::Continue {
                        host.resume(stream);
                    }
                }
                ConnectionOutcome::TimedOut(problem) => self.finish_waiting(stream, Err(&problem), now, host),
            }
        }
    }

    /// Forwards or answers a waiting request with this result.
    fn finish_waiting(
        &mut self,
        stream: StreamId,
        token: Result<&Arc<CachedToken>, &Problem>,
        now: Timestamp,
        host: &mut dyn HttpHost,
    ) {
        let Some(waiting) = self.worker.as_mut().and_then(|worker| worker.requests.take_waiting(stream)) else {
            return;
        };
        meters::record(&metrics::waiters(-1), host);
        for measurement in metrics::waited(waiting.spec.identity(), now.since(waiting.since).as_millis()) {
            meters::record(&measurement, host);
        }
        let ending = Ending::new(waiting.spec, &waiting.delivery, token, now);
        if self.end(stream, ending, now, host) == Flow::Continue {
            host.resume(stream);
        }
    }

    /// Rejects a request and records it.
    fn refuse(&mut self, stream: StreamId, refusal: &Refusal, host: &mut dyn HttpHost) -> Flow {
        let answer = refusal.reply();
        let record = RequestRecord::refused(&refusal.problem, refusal.decided_by, answer.status);
        self.record(stream, &record, host);
        reply(stream, &answer, Some(refusal.problem.code), host);
        Flow::Pause
    }

    /// Answers a readiness probe, at once or when the sources of federated tokens are known.
    fn probe(&mut self, stream: StreamId, readiness: &Arc<Readiness>, host: &mut dyn HttpHost) -> Flow {
        let now = host.now();
        for finished in self.begin(host).driver.probe(readiness, stream, now, host) {
            self.finish(finished, now, host);
        }
        Flow::Pause
    }

    /// Pauses a request until its connection is established, or answers it if no more requests may wait.
    fn await_connection(
        &mut self,
        stream: StreamId,
        spec: Arc<TokenSpec>,
        delivery: Delivery,
        host: &mut dyn HttpHost,
    ) -> Flow {
        let now = host.now();
        match self.begin(host).driver.await_connection(&spec, stream, now, host) {
            Ok(()) => self.pause(stream, spec, delivery, now, host),
            Err(problem) => {
                let ending = Ending::new(spec, &delivery, Err(&problem), now);
                self.end(stream, ending, now, host)
            }
        }
    }

    /// Looks up the token of a request, and forwards, answers or pauses the request.
    fn request_token(
        &mut self,
        stream: StreamId,
        spec: Arc<TokenSpec>,
        delivery: Delivery,
        host: &mut dyn HttpHost,
    ) -> Flow {
        let now = host.now();
        let driver = &mut self.begin(host).driver;
        let ending = match driver.request_token(
            &spec,
            delivery.required_lifetime(),
            delivery.rejected_token(),
            stream,
            now,
            host,
        ) {
            TokenLookup::Ready(cached) => Ending::new(spec, &delivery, Ok(&cached), now),
            TokenLookup::Failed(problem) => Ending::new(spec, &delivery, Err(&problem), now),
            TokenLookup::Pending => return self.pause(stream, spec, delivery, now, host),
        };
        self.end(stream, ending, now, host)
    }

    /// Pauses a request until its connection or its token is available.
    fn pause(
        &mut self,
        stream: StreamId,
        spec: Arc<TokenSpec>,
        delivery: Delivery,
        since: Timestamp,
        host: &mut dyn HttpHost,
    ) -> Flow {
        let waiting = Waiting { spec, delivery, since };
        self.begin(host).requests.0.insert(stream, Known::Waiting(waiting));
        meters::record(&metrics::waiters(1), host);
        Flow::Pause
    }

    /// Records how a request would be handled if its action were not `report`, prefetches its token, and forwards it unchanged.
    fn report(&mut self, stream: StreamId, report: &Report, host: &mut dyn HttpHost) {
        let record = RequestRecord::new(Outcome::Reported, report.identity.as_deref());
        self.record(stream, &RequestRecord { would_refuse: report.would_refuse(), ..record }, host);
        if let Some(spec) = &report.spec {
            let now = host.now();
            self.begin(host).driver.prefetch(spec, now, host);
        }
    }

    /// Applies the result of a request and records it.
    fn end(&mut self, stream: StreamId, ending: Ending, now: Timestamp, host: &mut dyn HttpHost) -> Flow {
        let record = RequestRecord {
            decided_by: Some(ending.decided_by),
            problem: ending.problem.as_deref(),
            status: ending.status(),
            ..RequestRecord::new(ending.outcome, Some(ending.spec.identity()))
        };
        self.record(stream, &record, host);
        match ending.effect {
            Effect::Authorize { header, token, form, without } => {
                if token.mark_sent() {
                    host.sent().add(token.token(), token.expires_at(), now);
                }
                without.iter().for_each(|name| host.set_header(stream, name, None));
                host.set_header(stream, &header, Some(token.header_value(form)));
                if let Some(worker) = &mut self.worker {
                    worker.requests.0.insert(stream, Known::Injected(ending.spec, token, ending.decided_by));
                }
                Flow::Continue
            }
            Effect::Pass => {
                let own_headers = self.view(stream, host).map(|request| request.own_headers()).unwrap_or_default();
                remove(stream, &own_headers, host);
                Flow::Continue
            }
            Effect::Refuse(protocol) => {
                if let Some(problem) = &ending.problem {
                    reply(stream, &protocol.problem_reply(problem), Some(problem.code), host);
                }
                Flow::Pause
            }
            Effect::Reply(answer) => {
                reply(stream, &answer, None, host);
                Flow::Pause
            }
        }
    }

    /// A view of a request that recognizes the tokens that this VM has sent.
    fn view<'a>(&'a self, stream: StreamId, host: &'a dyn HttpHost) -> Option<RequestView<'a>> {
        Some(RequestView::new(host.request(stream)?).recognizing(host.sent(), &self.original_url))
    }

    /// The status page.
    fn status_page(&self, format: Format, host: &dyn HttpHost) -> Reply {
        let waiting = |key| self.worker.as_ref().map_or(0, |worker| worker.requests.waiting_for(key));
        let page = StatusPage {
            build: self.build,
            configuration: self.policy.configuration(),
            now: host.now(),
            store: host.store(),
            waiting: &waiting,
        };
        page.reply(format)
    }

    /// Answers a readiness probe.
    fn reply_readiness(&mut self, stream: StreamId, status: &ReadinessStatus, host: &mut dyn HttpHost) {
        for measurement in status.measurements() {
            meters::record(&measurement, host);
        }
        let Some(request) = host.request(stream) else { return };
        let answer = policy::readiness_reply(status, &RequestView::new(request));
        reply(stream, &answer, status.outcome().err().map(|problem| problem.code), host);
    }

    /// Counts a request, sets its value for access logs, and writes its log line if one is due.
    fn record(&mut self, stream: StreamId, record: &RequestRecord<'_>, host: &mut dyn HttpHost) {
        self.request_counters.count(record, host);
        if let Some(value) = self.request_log.access_log_value(record) {
            host.set_filter_state(stream, ACCESS_LOG_KEY, &value);
        }
        if let Some(event) = self.request_log.line(record, || authority(stream, host), || host.now()) {
            host.log(&event);
        }
    }
}

/// The status 401 (RFC 9110, section 15.5.2).
const UNAUTHORIZED: u16 = 401;

fn authority(stream: StreamId, host: &dyn HttpHost) -> Option<Vec<u8>> {
    host.request(stream).and_then(|request| request.authority().map(Cow::into_owned))
}

/// Removes headers with the token of an earlier attempt, so that it is not sent to another destination.
fn remove(stream: StreamId, own_headers: &[Arc<str>], host: &mut dyn HttpHost) {
    own_headers.iter().for_each(|header| host.set_header(stream, header, None));
}

/// Answers a request. If there is a code, the response code details contain it.
fn reply(stream: StreamId, answer: &Reply, code: Option<Code>, host: &mut dyn HttpHost) {
    host.reply(stream, answer, &code.map(response_code_details).unwrap_or_default());
}
