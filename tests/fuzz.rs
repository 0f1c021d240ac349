//! Hostile input, in any order: bytes become requests, answers, deaths, and a clock that jumps.
//!
//! `make test` runs some thousand seeds; `FUZZ_SECONDS=n cargo test --test fuzz -- --ignored --nocapture` goes on with
//! random ones. `FUZZ_SEED=n` repeats one.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod sidecar;

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use serde_json::json;
use sidecar::simple::{self, Answers};
use sidecar::{ENTRA_AGAIN_CLUSTER, ENTRA_CLUSTER, IMDS_ADDRESS, LISTED_CLUSTER, TOKEN_CLUSTER, idle_timeout};
use stack::{HEALTH_HOST, IDENTITY_HEADER, IMDS_HOST, LISTED_HOST, UNLISTED_HOST};
use wasm_host::{Callout, Cluster, Headers, Host, Request, Response, Stream, StreamState};

/// How many seeds `make test` runs.
const CASES: u64 = 2000;

/// No line of the log is longer.
const LONGEST_LINE: usize = 8192;

/// The metadata service's address, and the path at which it hands out tokens.
const METADATA_ADDRESS: &str = "169.254.169.254:80";
const TOKEN_PATH: &str = "metadata/identity/oauth2/token";
/// Where App Service's endpoint is.
const APP_SERVICE_HOST: &str = "127.0.0.1";
/// A host that gets another token, over plain HTTP, in place of what the request brings.
const OTHER_HOST: &str = "blob.storage.example";
const OTHER_RESOURCE: &str = "https://storage.azure.com";
const LISTED_RESOURCE: &str = "https://vault.azure.net";

/// The filter's own limit on a wait, and a second for whoever answers then.
const ANSWERED_WITHIN: Duration = Duration::from_secs(16);

/// What an access token begins with, and what a federated token does: no log, no stranger may see either. Of a federated
/// token nobody may see any other part either; see [`Assertions`].
const TOKEN: &[u8] = b"eyJhY2Nlc3M";
const ASSERTION: &[u8] = b"eyJhbGci";
/// What an access token with claims of another tenant begins with: nobody may get it.
const FOREIGN: &str = "e30.eyJ0aWQiOi";

#[test]
fn seeded_cases_break_no_promise() {
    match std::env::var("FUZZ_SEED") {
        Ok(seed) => {
            fuzz(&bytes(seed.parse().unwrap()), true);
        }
        Err(_) => {
            (0..CASES).map(run).sum::<u64>();
        }
    }
}

#[test]
#[ignore = "runs for FUZZ_SECONDS"]
fn random_cases_break_no_promise() {
    let seconds = std::env::var("FUZZ_SECONDS").map_or(60, |seconds| seconds.parse().unwrap());
    let (started, first) = (Instant::now(), RandomState::new().build_hasher().finish());
    let (mut cases, mut events) = (0, 0);
    while started.elapsed() < Duration::from_secs(seconds) {
        events += run(first.wrapping_add(cases));
        cases += 1;
    }
    println!("{cases} cases with {events} events in {:?}", started.elapsed());
}

/// Tries a seed; how many events it was.
fn run(seed: u64) -> u64 {
    let tried = catch_unwind(|| fuzz(&bytes(seed), false));
    tried.unwrap_or_else(|_| panic!("to see it again: FUZZ_SEED={seed}"))
}

/// The bytes of a seed (SplitMix64).
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let length = 100 + next() % 900;
    (0..length).flat_map(|_| next().to_le_bytes().into_iter().take(1)).collect()
}

/// Makes bytes a sequence of events, and prints them when they are to be `told`. Returns how many there were.
///
/// # Panics
/// When the module traps, when a token gets where it does not belong, or when a stream does not end.
fn fuzz(bytes: &[u8], told: bool) -> u64 {
    let mut input = Input(bytes);
    let mut case = Case::new(&mut input, told);
    let mut events = 0;
    while !input.0.is_empty() {
        case.step(&mut input);
        events += 1;
        case.look_at_calls();
    }
    case.finish();
    events
}

/// What is left of the bytes.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    fn some_bytes(&mut self) -> Vec<u8> {
        let length = self.below(24).min(self.0.len());
        self.0.split_off(..length).unwrap_or_default().to_vec()
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most * (u32::from(self.byte()) * 256 + u32::from(self.byte())) / 65536
    }
}

struct Case {
    host: Host,
    /// Whether the filter gives no token to anybody.
    only_reports: bool,
    answers: Answers,
    streams: Vec<Waiting>,
    assertions: Assertions,
    /// The tokens of odd answers, each with its scope: any text is a token.
    odd_tokens: Vec<(String, String)>,
    /// Whether the clock was set back: who waits for another worker's exchange, and that one dies, is then answered
    /// by the stream idle timeout only.
    set_back: bool,
    told: bool,
}

/// Every run of twelve letters and digits of the federated tokens that were sent, without their case.
#[derive(Default)]
struct Assertions {
    tokens: HashSet<String>,
    runs: HashSet<Vec<u8>>,
}

impl Assertions {
    /// Longer than what the filter takes for a piece, so that what it cuts off at a limit is none.
    const RUN: usize = 12;

    fn extend(&mut self, token: &str) {
        if self.tokens.insert(token.to_owned()) {
            self.runs.extend(Self::letters(token.as_bytes()).windows(Self::RUN).map(<[u8]>::to_vec));
        }
    }

    fn letters(text: &[u8]) -> Vec<u8> {
        text.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect()
    }

    /// The first piece of a federated token in a text.
    fn shown_in(&self, text: &[u8]) -> Option<String> {
        let letters = Self::letters(text);
        let found = letters.windows(Self::RUN).find(|run| self.runs.contains(*run));
        found.map(|run| String::from_utf8_lossy(run).into_owned())
    }
}

struct Waiting {
    stream: Stream,
    asked: Headers,
    /// Whether the client connected to the metadata service's address.
    to_metadata: bool,
    /// Whether it connected from another host than the pod.
    from_outside: bool,
    worker: usize,
    since: Duration,
    /// Whether its VM has died since.
    orphan: bool,
}

impl Case {
    fn new(input: &mut Input<'_>, told: bool) -> Self {
        let mut builder = sidecar::builder(&sidecar::module()).seed(u64::from(input.byte()));
        let kind = input.below(5);
        let only_reports = kind == 4;
        if kind >= 2 {
            let clusters: &[&str] =
                if input.below(2) == 0 { &[ENTRA_CLUSTER] } else { &[ENTRA_CLUSTER, ENTRA_AGAIN_CLUSTER] };
            let mut configuration = json!({
                "entra": {"clusters": clusters},
                "destinations": [
                    {"hosts": [LISTED_HOST], "scope": format!("{LISTED_RESOURCE}/.default"),
                     "tls_clusters": [LISTED_CLUSTER], "existing_credential": "refuse"},
                    {"hosts": [OTHER_HOST], "scope": format!("{OTHER_RESOURCE}/.default"),
                     "plaintext": "allowed", "existing_credential": "replace"},
                ],
                "managed_identity": {"imds": {}, "app_service": {}, "health": {"hosts": [HEALTH_HOST]}},
                "status": {"hosts": [IMDS_HOST]},
            });
            if only_reports {
                configuration["defaults"] = json!({"action": "report"});
                // Nothing else answers App Service's protocol, so it cannot be left to anybody.
                configuration["managed_identity"] =
                    json!({"action": "report", "imds": {}, "health": {"hosts": [HEALTH_HOST]}});
            }
            builder = builder.configuration(configuration.to_string());
        }
        Self {
            host: builder.start().unwrap(),
            only_reports,
            answers: Answers::default(),
            streams: Vec::new(),
            assertions: Assertions::default(),
            odd_tokens: Vec::new(),
            set_back: false,
            told,
        }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.told {
            println!("{:?}: {}", self.host.now(), what());
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(20) {
            0..=4 => self.request(input),
            5..=8 => {
                let turns = self.host.ready_events();
                if !turns.is_empty() {
                    let turn = turns[input.below(turns.len())];
                    self.tell(|| format!("{turn:?}"));
                    self.host.deliver(turn);
                }
            }
            9..=11 => self.with_call(input, |case, call, _| {
                case.tell(|| format!("a good answer to {:?}'s call to {}", call.thread, call.cluster));
                case.answers.answer(&case.host, call);
            }),
            12..=13 => self.with_call(input, |case, call, input| {
                let response = any_response(call, input);
                let answer: Option<serde_json::Value> = serde_json::from_slice(&response.body).ok();
                let token = answer.as_ref().and_then(|answer| answer["access_token"].as_str());
                if let Some(token) = token.filter(|token| !token.starts_with(FOREIGN)) {
                    case.odd_tokens.push((simple::scope(&call.body), token.to_owned()));
                }
                let delay = if input.below(2) == 0 { Duration::ZERO } else { input.up_to(Duration::from_secs(20)) };
                case.tell(|| format!("in {delay:?} to {:?}'s call to {}: {response:?}", call.thread, call.cluster));
                case.host.respond_after(call, delay, response);
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
                let name = input.pick(&[TOKEN_CLUSTER, ENTRA_CLUSTER, ENTRA_AGAIN_CLUSTER]);
                let kind = kinds[input.below(kinds.len())];
                self.tell(|| format!("cluster {name} is {kind:?}"));
                self.host.set_cluster(name, kind);
            }
        }
    }

    fn with_call(&mut self, input: &mut Input<'_>, act: impl FnOnce(&mut Self, &Callout, &mut Input<'_>)) {
        let calls = self.host.callouts();
        if let Some(call) = calls.get(input.below(calls.len())) {
            act(self, call, input);
        }
    }

    fn request(&mut self, input: &mut Input<'_>) {
        let odd = input.some_bytes();
        let port = format!("{LISTED_HOST}:8080");
        let authority: &[u8] = match input.below(13) {
            0..=3 => LISTED_HOST.as_bytes(),
            4 => OTHER_HOST.as_bytes(),
            5 => UNLISTED_HOST.as_bytes(),
            6 | 7 => IMDS_HOST.as_bytes(),
            8 => port.as_bytes(),
            9 => HEALTH_HOST.as_bytes(),
            10 => APP_SERVICE_HOST.as_bytes(),
            11 => input.pick(&["imds.internal", "169.254.169.254.", "169.254.169.254:", "2852039166"]).as_bytes(),
            _ => &odd,
        };
        let resource = input.pick(&[LISTED_RESOURCE, OTHER_RESOURCE, "https%3A%2F%2Fvault.azure.net", "%ff%00&x=%"]);
        let token_path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
        let other_paths = [
            "/",
            "/readyz",
            "/healthz",
            "/entra-exchange/status",
            "/metadata/instance/compute",
            "/metadata/instance/../identity/oauth2/token",
            "/metadata/instance/..;/identity/oauth2/token",
            "/metadata/instance/%2e%2e%2fidentity/oauth2/token",
            "//metadata/identity/oauth2/token/",
        ];
        let path = match input.below(6) {
            1..=4 if authority == HEALTH_HOST.as_bytes() => b"/readyz".to_vec(),
            0 => input.pick(&other_paths).as_bytes().to_vec(),
            1 => input.some_bytes(),
            2 => format!("/msi/token?api-version=2019-08-01&resource={resource}").into_bytes(),
            3 => format!("{token_path}&bypass_cache=true").into_bytes(),
            _ => token_path.into_bytes(),
        };
        let mut headers = vec![
            (b":method".to_vec(), b"GET".to_vec()),
            (b":authority".to_vec(), authority.to_vec()),
            (b":path".to_vec(), path),
        ];
        if input.below(4) > 0 {
            headers.push((b"metadata".to_vec(), b"true".to_vec()));
            headers.push((b"x-identity-header".to_vec(), IDENTITY_HEADER.as_bytes().to_vec()));
        }
        for _ in 0..input.below(4) {
            let odd = input.some_bytes();
            let names = ["authorization", "x-forwarded-for", "metadata", "content-type"].map(str::as_bytes);
            let name = if input.below(5) == 0 { odd.as_slice() } else { input.pick(&names) };
            headers.push((name.to_vec(), input.some_bytes()));
        }
        if input.below(16) == 0 {
            headers.remove(input.below(3));
        }
        let asked = Headers::received(headers);
        let addresses =
            [IMDS_ADDRESS, "127.0.0.1:15001", "10.0.0.1:80", "", METADATA_ADDRESS, "[::ffff:169.254.169.254]:80"];
        let address = input.pick(&addresses);
        let worker = input.below(2);
        let stream = self.host.worker(worker).request(Request::new(asked.clone()).to(address));
        self.tell(|| format!("worker {worker}, stream {}: {stream:?} of {asked:?}", self.streams.len()));
        let (to_metadata, from_outside) = (address.contains(IMDS_HOST), address.starts_with("10."));
        let since = self.host.now();
        self.streams.push(Waiting { stream, asked, to_metadata, from_outside, worker, since, orphan: false });
    }

    /// The assertion goes to Entra and nowhere else, and what is asked for is one of what may be.
    fn look_at_calls(&mut self) {
        for call in self.host.callouts() {
            self.assertions.extend(&simple::assertion(&call.body));
            let has_assertion =
                contains(&call.body, ASSERTION) || call.headers.iter().any(|(_, value)| contains(value, ASSERTION));
            assert_eq!(has_assertion, call.cluster != TOKEN_CLUSTER, "a call to {}", call.cluster);
            assert!(!contains(&call.body, TOKEN), "an access token in a call");
        }
    }

    fn finish(mut self) {
        // Whoever is alive answers in its time, though no call is answered any more.
        self.host.advance(ANSWERED_WITHIN);
        let log = self.host.log_text();
        for waiting in &self.streams {
            let left = waiting.stream.state() == StreamState::Paused;
            assert!(!left || waiting.orphan || self.set_back, "since {:?}: {:?}\n{log}", waiting.since, waiting.asked);
        }
        self.host.advance(idle_timeout());
        let log = self.host.log_text();
        assert!(!log.contains("Function: "), "{log}");
        for secret in [TOKEN, ASSERTION] {
            assert!(!contains(log.as_bytes(), secret), "a token in the log:\n{log}");
        }
        for line in log.lines() {
            assert_eq!(self.assertions.shown_in(line.as_bytes()), None, "{line}");
            // Envoy's own lines are the host's business.
            // The characters that are invisible or reorder text.
            let hidden =
                |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
            let clean = line.chars().all(|c| !c.is_control() && !hidden(c));
            assert!(clean && line.len() < LONGEST_LINE, "{} bytes: {line:?}", line.len());
        }
        for waiting in std::mem::take(&mut self.streams) {
            assert_ne!(waiting.stream.state(), StreamState::Paused, "{:?}", waiting.asked);
            self.look_at_end(&waiting);
            waiting.stream.end();
        }
        for worker in 0..2 {
            assert_eq!(self.host.worker(worker).streams(), 0);
        }
    }

    /// No token goes where it is not named.
    fn look_at_end(&self, waiting: &Waiting) {
        let host = host_of(&waiting.asked);
        match waiting.stream.state() {
            StreamState::Forwarded(passed) => {
                assert!(!waiting.to_metadata || self.may_reach_the_node(&host, &waiting.asked), "{:?}", waiting.asked);
                let authorization = passed.headers.get("authorization");
                let changed = authorization != waiting.asked.get("authorization");
                assert!(!changed || !self.only_reports, "a token, though it only reports");
                if changed {
                    let resource = match host.as_str() {
                        LISTED_HOST => {
                            assert_eq!(passed.cluster.as_deref(), Some(LISTED_CLUSTER));
                            LISTED_RESOURCE
                        }
                        OTHER_HOST => OTHER_RESOURCE,
                        other => panic!("a token for {other:?}"),
                    };
                    let scope = format!("{resource}/.default");
                    let odd = self.odd_tokens.iter().filter(|(other, _)| *other == scope);
                    let mut tokens = odd.map(|(_, token)| format!("Bearer {token}")).chain([simple::bearer(resource)]);
                    assert!(
                        tokens.any(|token| authorization == Some(token.as_bytes())),
                        "for {host:?}: {authorization:?}"
                    );
                }
                let others = |headers: &Headers| -> Vec<_> {
                    let others = headers.iter().filter(|(name, _)| *name != b"authorization");
                    others.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
                };
                assert_eq!(others(&passed.headers), others(&waiting.asked));
            }
            StreamState::LocalReply(reply) => {
                let body = self.without_odd_tokens(&reply.body);
                assert!(!contains(&body, ASSERTION), "an assertion in a reply");
                assert!(!contains(&body, FOREIGN.as_bytes()), "another tenant's token in a reply");
                for known in [stack::TENANT_ID, stack::ISSUER_URL, stack::SUBJECT] {
                    let told = waiting.from_outside && host == HEALTH_HOST && contains(&body, known.as_bytes());
                    assert!(!told, "a caller from outside the pod reads {known}");
                }
                assert_eq!(self.assertions.shown_in(&body), None, "{}", String::from_utf8_lossy(&body));
                let has_token =
                    contains(&reply.body, TOKEN) || reply.headers.iter().any(|(_, value)| contains(value, TOKEN));
                let answers = [IMDS_HOST, APP_SERVICE_HOST].contains(&host.as_str());
                assert!(!has_token || (answers && !self.only_reports), "a token in a reply for {host:?}");
            }
            StreamState::Reset | StreamState::Paused => {}
        }
    }
}

impl Case {
    /// A reply without what a hostile endpoint gave as an access token. Header and claims of a federated token may be in it, which are no
    /// secret, but never a whole one.
    fn without_odd_tokens(&self, body: &[u8]) -> Vec<u8> {
        let mut body = String::from_utf8_lossy(body).into_owned();
        for whole in self.assertions.tokens.iter().filter(|token| !token.is_empty()) {
            assert!(!body.contains(whole), "a federated token in a reply: {body}");
        }
        for (_, token) in self.odd_tokens.iter().filter(|(_, token)| !token.is_empty()) {
            body = body.replace(&format!("\"access_token\":\"{token}\""), "");
        }
        body.into_bytes()
    }

    /// Whether a request to the metadata service's address is one of those that may go on to the node.
    fn may_reach_the_node(&self, host: &str, asked: &Headers) -> bool {
        let target = asked.text(":path").unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let listed = path.split('/').take(3).eq(["", "metadata", "instance"]) && !path.contains(['.', '%', ';', '\\']);
        let token = path.trim_start_matches('/').trim_end_matches('/').eq_ignore_ascii_case(TOKEN_PATH);
        let reported = self.only_reports && token;
        [IMDS_HOST, "127.0.0.1", "localhost"].contains(&host) && (listed || reported)
    }
}

/// The host that a request is for, as Envoy routes it.
fn host_of(headers: &Headers) -> String {
    let authority = headers.text(":authority").unwrap_or_default().to_ascii_lowercase();
    authority.split(':').next().unwrap_or_default().to_owned()
}

/// An answer that may be anything, and is often nearly right.
fn any_response(call: &Callout, input: &mut Input<'_>) -> Response {
    let statuses = [200, 200, 200, 201, 204, 302, 400, 401, 403, 429, 500, 503, 0, 999];
    let status = statuses[input.below(statuses.len())];
    let scope = simple::scope(&call.body);
    let body = match input.below(9) {
        6.. if call.cluster != TOKEN_CLUSTER => hostile_body(&simple::assertion(&call.body), input),
        0 => input.some_bytes(),
        1 => Vec::new(),
        2 => {
            let mut right = simple::token_answer(&scope).to_string().into_bytes();
            for _ in 0..input.below(4) {
                let place = input.below(right.len());
                right[place] = input.byte();
            }
            right
        }
        3 => {
            let mut answer = simple::token_answer(&scope);
            let name = input.pick(&["expires_in", "access_token", "token_type", "refresh_in"]);
            let value = [json!(0), json!(-1), json!("7"), json!(1e300), json!(null), json!(u64::MAX), json!(40)];
            answer[name] = value[input.below(value.len())].clone();
            answer.to_string().into_bytes()
        }
        4 => {
            let codes = [700_213, 700_024, 700_016, 7_000_222, 90_033, 0];
            let code = codes[input.below(codes.len())];
            let text = String::from_utf8_lossy(&input.some_bytes()).into_owned();
            let refusal = json!({
                "error": input.pick(&["invalid_client", "temporarily_unavailable", ""]), "error_codes": [code],
                "error_description": format!("AADSTS{code}: {text}"), "trace_id": text, "correlation_id": 1,
            });
            refusal.to_string().into_bytes()
        }
        _ => vec![b'['; 200 * (1 + input.below(200))],
    };
    let response = Response::new(status, body).header("retry-after", input.some_bytes());
    match input.below(8) {
        0 => Response { headers: Headers::new([(b":status".to_vec(), input.some_bytes())]), ..response },
        1 => Response { headers: Headers::default(), ..response },
        _ => response,
    }
}

/// What a token endpoint says that repeats the federated token, in any form and anywhere, or says too much.
fn hostile_body(assertion: &str, input: &mut Input<'_>) -> Vec<u8> {
    let parts: Vec<&str> = assertion.split('.').collect();
    let length = 8 + input.below(60);
    let separator = input.pick(&[" ", "\n", ".", "\u{200b}", "\u{202e}", " and then ", "|", "\u{2028}"]);
    let pieces: Vec<String> =
        assertion.as_bytes().chunks(length).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
    let echo = match input.below(8) {
        0 => assertion.to_owned(),
        1 => parts[input.below(parts.len())].to_owned(),
        2 => pieces.join(separator),
        3 => assertion.to_uppercase(),
        4 => format!("client_assertion={assertion}&scope=x"),
        5 => assertion.get(..input.below(assertion.len())).unwrap_or_default().to_owned(),
        6 => parts.iter().rev().copied().collect::<Vec<_>>().join(separator),
        _ => format!("{}{assertion}", "x ".repeat(input.below(200) * 12)),
    };
    let odd = [json!(null), json!(7), json!([echo]), json!({"a": echo}), json!(true)];
    let text = match input.below(6) {
        0 => odd[input.below(odd.len())].clone(),
        1 => json!(echo.repeat(1 + input.below(200))),
        2 => json!(format!("AADSTS70021: {echo}\r\nevent=forged {echo}")),
        _ => json!(echo),
    };
    let tenants = [
        json!("11111111-1111-4111-8111-111111111111"),
        json!(7),
        json!(null),
        json!(stack::TENANT_ID.to_owned() + " "),
    ];
    let mut body = match input.below(7) {
        6 => {
            use base64::Engine as _;
            let claims = json!({"tid": tenants[input.below(tenants.len())]}).to_string();
            let padded = ["", "="][input.below(2)];
            let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
            let token = format!("e30.{claims}{padded}.c2ln");
            json!({"token_type": "Bearer", "expires_in": 3600, "access_token": token}).to_string()
        }
        0 => text.to_string(),
        1 => echo,
        2 => json!({"token_type": "Bearer", "expires_in": 3600, "access_token": text}).to_string(),
        3 => json!({"error": text, "trace_id": text, "correlation_id": text}).to_string(),
        _ => json!({
            "error": "invalid_client", "error_description": text, "error_codes": text, "trace_id": text,
            "token_type": text, "access_token": text,
        })
        .to_string(),
    };
    if input.below(16) == 0 {
        body.push_str(&" ".repeat(300 * 1024));
    }
    body.into_bytes()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
