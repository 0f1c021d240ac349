//! A case: one host with its filter, and all that happens to it.

use std::time::Duration;

use wasm_host::{Callout, Cluster, Host, Request, Response, Stream, StreamState};

use crate::answers::{
    Assertions, FOREIGN, OPAQUE, TokenFile, answer_well, any_response, hostile_assertion, hostile_exchange, refusal,
    subject_token,
};
use crate::input::Input;
use crate::requests::Asked;
use crate::setup::{Focus, SECRETS, SOURCE_CLUSTER, Setup};
use crate::sidecar::simple::{self, Answers};
use crate::sidecar::{ENTRA_AGAIN_CLUSTER, ENTRA_CLUSTER, TOKEN_CLUSTER, idle_timeout};

/// The filter's own limit on a wait, and a second for the worker to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(16);

/// What an access token begins with, and what a federated token does: no log, no stranger may see either. Of a federated
/// token nobody may see any other part either; see [`Assertions`].
pub(crate) const TOKEN: &[u8] = b"eyJhY2Nlc3M";
pub(crate) const ASSERTION: &[u8] = b"eyJhbGci";

pub(crate) struct Case {
    host: Host,
    pub(crate) setup: Setup,
    answers: Answers,
    file: TokenFile,
    streams: Vec<Waiting>,
    pub(crate) assertions: Assertions,
    /// The tokens of odd answers, each with its scope: any text is a token.
    pub(crate) odd_tokens: Vec<(String, String)>,
    /// Whether the clock was set back: who waits for another worker's exchange, and that one dies, is then answered
    /// by the stream idle timeout only.
    set_back: bool,
    /// The calls to the token service that got an answer, and the deaths of workers.
    source_calls: u64,
    deaths: u64,
    told: bool,
}

/// How the calls of a case are answered that is to become idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As they should be.
    Well,
    /// Entra refuses the federated token.
    Refused,
    /// The token endpoint is hostile.
    Hostile,
}

pub(crate) struct Waiting {
    pub(crate) stream: Stream,
    pub(crate) asked: Asked,
    worker: usize,
    since: Duration,
    /// Whether its VM has died since.
    orphan: bool,
}

impl Case {
    pub(crate) fn new(input: &mut Input<'_>, told: bool) -> Self {
        let (setup, host) = Setup::start(input);
        let mut assertions = Assertions::default();
        for (_, secret) in SECRETS {
            assertions.extend(secret);
        }
        Self {
            host,
            setup,
            answers: Answers::default(),
            file: TokenFile::default(),
            streams: Vec::new(),
            assertions,
            odd_tokens: Vec::new(),
            set_back: false,
            source_calls: 0,
            deaths: 0,
            told,
        }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.told {
            println!("{:?}: {}", self.host.now(), what());
        }
    }

    pub(crate) fn step(&mut self, input: &mut Input<'_>) {
        // A fourth of the steps of a case with a focus are of its own: so many requests, and so many answers.
        let focus = if self.setup.focus == Focus::Any { None } else { Some(self.setup.focus) };
        match input.below(if focus.is_some() { 27 } else { 20 }) {
            0..=4 | 20..=23 => self.request(input),
            24.. if focus == Some(Focus::Answers) => self.settle(Manner::Hostile, input),
            24.. => self.settle(Manner::Well, input),
            5..=7 => {
                let turns = self.host.ready_events();
                if !turns.is_empty() {
                    let turn = turns[input.below(turns.len())];
                    self.tell(|| format!("{turn:?}"));
                    self.host.deliver(turn);
                }
            }
            8 => {
                let manner = if input.once_in(4) { Manner::Refused } else { Manner::Well };
                self.settle(manner, input);
            }
            9..=11 => self.with_call(input, |case, call, _| {
                case.tell(|| format!("a good answer to {:?}'s call to {}", call.thread, call.cluster));
                answer_well(&mut case.file, &mut case.answers, &case.host, call);
            }),
            12..=13 => self.with_call(input, |case, call, input| {
                let delay = if input.below(2) == 0 { Duration::ZERO } else { input.up_to(Duration::from_secs(20)) };
                case.answer_anyhow(call, delay, input);
            }),
            14 => self.with_call(input, |case, call, input| {
                case.tell(|| format!("{:?}'s call to {} breaks off", call.thread, call.cluster));
                match input.below(2) {
                    0 => case.host.abort_response(call),
                    _ => case.host.respond(call, Response::unreachable()),
                }
            }),
            15 => {
                let place = input.below(self.streams.len());
                if let Some(waiting) = self.streams.get(place) {
                    self.tell(|| format!("stream {place} is left"));
                    waiting.stream.end();
                }
            }
            16 => {
                let worker = input.below(2);
                self.tell(|| format!("worker {worker} dies"));
                self.host.worker(worker).kill();
                self.deaths += 1;
                self.streams.iter_mut().filter(|waiting| waiting.worker == worker).for_each(|it| it.orphan = true);
            }
            17 => {
                let most = Duration::from_secs(if input.below(4) == 0 { 5000 } else { 5 });
                let time = input.up_to(most);
                let busy = input.below(2) == 1;
                self.tell(|| format!("{time:?} pass, busy: {busy}"));
                if busy { self.host.elapse(time) } else { self.host.advance(time) }
            }
            18 => {
                let (now, jump) = (self.host.wall_clock(), input.up_to(Duration::from_secs(2 * 3600)));
                let back = input.below(2) == 0;
                self.tell(|| format!("the clock jumps {jump:?}, back: {back}"));
                self.set_back |= back;
                self.host.set_wall_clock(if back { now - jump } else { now + jump });
            }
            _ => {
                let kinds = [Some(Cluster::Responds), Some(Cluster::NoHosts), Some(Cluster::RefusesConnections), None];
                let name = input.pick(&[TOKEN_CLUSTER, ENTRA_CLUSTER, ENTRA_AGAIN_CLUSTER, SOURCE_CLUSTER]);
                let kind = kinds[input.below(kinds.len())];
                self.tell(|| format!("cluster {name} is {kind:?}"));
                self.host.set_cluster(name, kind);
            }
        }
    }

    /// Delivers all events and gives every call a good response, so that many requests get tokens; or has Entra refuse the federated
    /// token, also at the second try; or has it say anything.
    fn settle(&mut self, manner: Manner, input: &mut Input<'_>) {
        self.tell(|| format!("every call gets a response: {manner:?}"));
        for _ in 0..16 {
            self.host.run_until_idle();
            self.look_at_calls();
            let calls = self.host.callouts();
            if calls.is_empty() && manner != Manner::Refused {
                return;
            }
            for call in &calls {
                self.count(call);
                let is_entras = call.cluster != TOKEN_CLUSTER && call.cluster != SOURCE_CLUSTER;
                match manner {
                    Manner::Refused if is_entras => self.host.respond(call, refusal()),
                    Manner::Hostile if call.cluster != TOKEN_CLUSTER => self.answer_anyhow(call, Duration::ZERO, input),
                    _ => answer_well(&mut self.file, &mut self.answers, &self.host, call),
                }
            }
            if manner == Manner::Refused {
                self.host.advance(Duration::from_millis(100));
            }
        }
    }

    /// Answers a call in any way, and keeps what is an access token in it.
    fn answer_anyhow(&mut self, call: &Callout, delay: Duration, input: &mut Input<'_>) {
        let response = if call.cluster == TOKEN_CLUSTER && input.once_in(2) {
            let token = hostile_assertion(&self.host, "issuer", input);
            self.assertions.extend(&token);
            Response::new(200, token)
        } else if call.cluster == SOURCE_CLUSTER && input.once_in(2) {
            let (response, token) = hostile_exchange(&self.host, call, input);
            self.assertions.extend(&token);
            response
        } else {
            any_response(call, input)
        };
        let answer: Option<serde_json::Value> = serde_json::from_slice(&response.body).ok();
        let token = answer.as_ref().and_then(|answer| answer["access_token"].as_str());
        let is_access_token =
            |token: &&str| call.cluster != SOURCE_CLUSTER && !token.starts_with(FOREIGN) && *token != OPAQUE;
        if let Some(token) = token.filter(is_access_token) {
            self.odd_tokens.push((simple::scope(&call.body), token.to_owned()));
        }
        self.tell(|| format!("in {delay:?} to {:?}'s call to {}: {response:?}", call.thread, call.cluster));
        self.host.respond_after(call, delay, response);
    }

    fn with_call(&mut self, input: &mut Input<'_>, act: impl FnOnce(&mut Self, &Callout, &mut Input<'_>)) {
        let calls = self.host.callouts();
        if let Some(call) = calls.get(input.below(calls.len())) {
            self.count(call);
            act(self, call, input);
        }
    }

    /// Counts a call to the token service. Each request and each worker begins a few of them, and a worker that fails rests for seconds.
    fn count(&mut self, call: &Callout) {
        self.source_calls += u64::from(call.cluster == SOURCE_CLUSTER);
        let causes = self.streams.len() as u64 + self.deaths + self.host.now().as_secs() + 2;
        assert!(self.source_calls <= 4 * causes, "{} calls for {causes} causes", self.source_calls);
    }

    fn request(&mut self, input: &mut Input<'_>) {
        let asked = Asked::any(&self.setup, input);
        let worker = input.below(2);
        let stream = self.host.worker(worker).request(Request::new(asked.headers.clone()).to(asked.address));
        self.tell(|| {
            let (number, headers) = (self.streams.len(), &asked.headers);
            format!("worker {worker}, stream {number}: {stream:?} of {headers:?} to {}", asked.address)
        });
        let since = self.host.now();
        self.streams.push(Waiting { stream, asked, worker, since, orphan: false });
    }

    /// The assertion goes to Entra and nowhere else, and what is asked for is one of what may be.
    pub(crate) fn look_at_calls(&mut self) {
        for call in self.host.callouts() {
            self.assertions.extend(&simple::assertion(&call.body));
            self.assertions.extend(&subject_token(&call.body));
            let has_assertion =
                contains(&call.body, ASSERTION) || call.headers.iter().any(|(_, value)| contains(value, ASSERTION));
            assert_eq!(has_assertion, call.cluster != TOKEN_CLUSTER, "a call to {}", call.cluster);
            assert!(!contains(&call.body, TOKEN), "an access token in a call");
        }
    }

    pub(crate) fn finish(mut self) {
        // A worker that is alive answers in time, although no call gets a response any more.
        self.host.advance(ANSWERED_WITHIN);
        let log = self.host.log_text();
        for waiting in &self.streams {
            let left = waiting.stream.state() == StreamState::Paused;
            assert!(
                !left || waiting.orphan || self.set_back,
                "since {:?}: {:?}\n{log}",
                waiting.since,
                waiting.asked.headers
            );
        }
        self.host.advance(idle_timeout());
        self.look_at_log(&self.host.log(), &self.streams);
        self.look_at_metrics(&self.host.metric_names());
        for waiting in std::mem::take(&mut self.streams) {
            assert_ne!(waiting.stream.state(), StreamState::Paused, "{:?}", waiting.asked.headers);
            self.look_at_end(&waiting);
            waiting.stream.end();
        }
        for worker in 0..2 {
            assert_eq!(self.host.worker(worker).streams(), 0);
        }
    }
}

pub(crate) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
