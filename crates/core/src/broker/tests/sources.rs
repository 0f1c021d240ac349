//! Several workers and a source over HTTP: how often it is asked, and that no secret is shown whatever it answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;
use crate::config::Config;

const SECRET: &str = "q7Rz0pWvX3nL8sKd:with/colon";
const KEY: &str = "Zk4TbN1mYw9eHc6u%20percent";

/// Token specs of one identity, whose federated token is exchanged at a token service.
fn specs(scopes: usize) -> Vec<Arc<TokenSpec>> {
    let variable = |name: &str| match name {
        "AZURE_TENANT_ID" => Some("11111111-1111-4111-8111-111111111111".to_owned()),
        "AZURE_CLIENT_ID" => Some("aaaaaaaa-0000-4000-8000-000000000001".to_owned()),
        "SECRET" => Some(SECRET.to_owned()),
        "KEY" => Some(KEY.to_owned()),
        _ => None,
    };
    let text = json!({
        "assertions": [{
            "name": "sts", "source": "token_exchange", "cluster": "sts", "path": "/token", "subject_token": "projected_token",
            "basic_auth": {"id": "payments", "secret_from_env": "SECRET"}, "form_from_env": {"key": "KEY"},
        }],
        "identities": [{"assertion": "sts"}],
        "destinations": [{"hosts": ["a.example"], "scope": "https://vault.azure.net/.default"}],
    });
    let config = Config::parse(text.to_string().as_bytes(), &variable).unwrap();
    let spec = |number| config.identities[0].spec(&format!("api://{number}/.default")).unwrap();
    (0..scopes).map(|number| Arc::new(spec(number))).collect()
}

enum Event {
    Poll(TokenKey),
    Tick,
    Answer(Purpose, CallResult),
    Request(usize),
}

/// Workers of one process, and what happens to them.
struct Workers {
    shared: Shared,
    brokers: Vec<Broker>,
    specs: Vec<Arc<TokenSpec>>,
    now: Timestamp,
    agenda: BTreeMap<(Timestamp, u64), (usize, Event)>,
    number: u64,
    /// The latest call of each worker with each purpose: only its result is reported.
    calls: Vec<(usize, Purpose, u64)>,
    asked: Vec<(usize, Timestamp)>,
    exchanges: usize,
    waiting: BTreeSet<u32>,
    shown: Vec<String>,
    random: Random,
    is_hostile: bool,
}

impl Workers {
    fn new(workers: u32, scopes: usize, seed: u64, is_hostile: bool) -> Self {
        let shared = Shared::default();
        shared.prepare();
        let worker = |number: u32| Broker::new(WorkerId(seed + u64::from(number)), QueueId(number), Limits::default());
        Self {
            shared,
            brokers: (0..workers).map(worker).collect(),
            specs: specs(scopes),
            now: START,
            agenda: BTreeMap::new(),
            number: 0,
            calls: Vec::new(),
            asked: Vec::new(),
            exchanges: 0,
            waiting: BTreeSet::new(),
            shown: Vec::new(),
            random: Random(seed),
            is_hostile,
        }
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.random.next()).unwrap() % count
    }

    fn put(&mut self, at: Timestamp, worker: usize, event: Event) {
        self.number += 1;
        self.agenda.insert((at, self.number), (worker, event));
    }

    fn run(&mut self, until: Timestamp) {
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= until) {
            let (at, number) = *entry.key();
            let (worker, event) = entry.remove();
            self.now = self.now.max(at);
            let (now, broker) = (self.now, &mut self.brokers[worker]);
            let commands = match event {
                Event::Poll(key) => broker.poll(key, now, &self.shared),
                Event::Tick => broker.tick(now, &self.shared),
                Event::Answer(purpose, answer) if self.calls.contains(&(worker, purpose.clone(), number)) => {
                    broker.call_finished(&purpose, answer, now, &self.shared)
                }
                Event::Answer(..) => Vec::new(),
                Event::Request(index) => {
                    self.request(worker, index);
                    Vec::new()
                }
            };
            self.carry_out(worker, commands);
            if let Some(due) = self.brokers[worker].next_due() {
                self.put(due.max(self.now.plus(Duration::from_millis(1))), worker, Event::Tick);
            }
        }
        self.now = until;
    }

    fn request(&mut self, worker: usize, index: usize) {
        let (spec, stream) = (Arc::clone(&self.specs[index]), u32::try_from(self.number).unwrap());
        let (lookup, poll) =
            self.brokers[worker].get(&spec, RequiredLifetime::Any, StreamId(stream), self.now, &self.shared);
        match lookup {
            TokenLookup::Pending => drop(self.waiting.insert(stream)),
            TokenLookup::Failed(problem) => self.shown.push(format!("{problem:?}")),
            TokenLookup::Ready(_) => {}
        }
        if poll {
            self.put(self.now, worker, Event::Poll(spec.key()));
        }
    }

    fn carry_out(&mut self, worker: usize, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Call(purpose, call) => {
                    let (after, answer) = self.answer(worker, &purpose, &call);
                    self.put(self.now.plus(after), worker, Event::Answer(purpose.clone(), answer));
                    self.calls.retain(|(other, with, _)| (*other, with) != (worker, &purpose));
                    self.calls.push((worker, purpose, self.number));
                }
                Command::Wake(QueueId(queue), key) => {
                    let at = self.now.plus(Duration::from_millis(1));
                    self.put(at, usize::try_from(queue).unwrap(), Event::Poll(key));
                }
                Command::Finish(StreamId(stream), result) => {
                    assert!(self.waiting.remove(&stream));
                    self.shown.extend(result.err().map(|problem| format!("{problem:?}")));
                }
                Command::Log(event) => self.shown.push(event.to_string()),
                Command::Measure(measurement) => self.shown.push(format!("{measurement:?}")),
                Command::FinishProbe(..) => {}
            }
        }
    }

    /// The answer to a call, and the time that it takes.
    fn answer(&mut self, worker: usize, purpose: &Purpose, call: &HttpCall) -> (Duration, CallResult) {
        let after = Duration::from_millis(u64::from(self.random.next() % 300));
        let is_source = call.cluster == "sts";
        if is_source {
            self.asked.push((worker, self.now));
        }
        if call.cluster == "projected_token" {
            return (after, text(200, self.jwt("sub", "api", 3600)));
        }
        if self.is_hostile && self.below(2) == 0 {
            let after = if self.below(4) == 0 { call.timeout * 2 } else { after };
            let answer = if is_source { self.hostile(call) } else { refusal([700_024, 700_213][self.below(2)]) };
            return if after > call.timeout { (call.timeout, no_answer()) } else { (after, answer) };
        }
        if let Purpose::Token(_) = purpose {
            self.exchanges += 1;
            let life = if self.is_hostile { 60 } else { 3600 };
            return (after, token(life));
        }
        let token = self.jwt("sub", "payments", 300);
        (after, answer(200, &json!({"access_token": token, "expires_in": 300, "token_type": "N_A"})))
    }

    fn jwt(&self, claim: &str, value: &str, life: u64) -> String {
        let mut all = claims();
        all["nbf"] = json!(self.now.unix_seconds());
        all["exp"] = json!(self.now.unix_seconds() + life);
        all[claim] = json!(value);
        let algorithm = if claim == "alg" { value } else { "RS256" };
        jwt(&json!({"alg": algorithm}), &all)
    }

    /// What a source answers that repeats what it got, or that makes no sense.
    fn hostile(&mut self, call: &HttpCall) -> CallResult {
        let authorization = call.headers.iter().find(|(name, _)| name == "authorization").unwrap().1.to_string();
        let form = String::from_utf8(call.body.clone()).unwrap();
        let subject = form.split("subject_token=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let known = [SECRET.to_owned(), KEY.to_owned(), authorization, form, subject, SECRET.to_uppercase()];
        let said = known[self.below(known.len())].clone();
        let apart = |said: &str| said.chars().flat_map(|letter| [letter, '\u{200b}']).collect::<String>();
        let said = [said.clone(), format!("no:\nevent=forged {said}"), apart(&said), "x ".repeat(40_000) + &said]
            [self.below(4)]
        .clone();
        let claim = ["iss", "sub", "aud", "alg"][self.below(4)];
        let life = [0, 1, 2, 300, u64::MAX / 2][self.below(5)];
        let value = [json!(life), json!("1"), json!(-1), Value::Null, json!([said])][self.below(5)].clone();
        match self.below(12) {
            0 => Err(crate::http::CallFailure::NoEndpoint),
            1 => no_answer(),
            2 => text(302, said),
            3 => text(200, format!("<html>{said}")),
            4 => text(200, format!("{{\"access_token\": \"{said}")),
            5 => text(200, "[".repeat(70_000)),
            6 => answer(200, &json!({"access_token": value, "expires_in": 300})),
            7 | 8 => answer(200, &json!({"access_token": self.jwt(claim, &said, 300), "expires_in": 300})),
            9 => answer(200, &json!({"access_token": self.jwt("sub", "payments", 1), "expires_in": value})),
            10 => answer(200, &json!({"access_token": said})),
            _ => {
                let status = [400, 401, 403, 404, 408, 429, 500, 503, 0, 999][self.below(10)];
                let after = [None, Some("0"), Some("1"), Some("99999999"), Some("-1")][self.below(5)];
                text(status, said).map(|response| CallResponse {
                    retry_after: after.map(|after| after.as_bytes().to_vec()),
                    ..response
                })
            }
        }
    }

    /// Checks that nothing that was shown contains twelve consecutive letters and digits of a secret, whatever is between them.
    fn assert_hidden(&self, seed: u64) {
        let letters = |text: &str| -> Vec<u8> {
            text.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase()).collect()
        };
        let secrets = [letters(SECRET), letters(KEY)];
        let parts: BTreeSet<&[u8]> = secrets.iter().flat_map(|secret| secret.windows(12)).collect();
        for text in &self.shown {
            assert!(!letters(text).windows(12).any(|run| parts.contains(run)), "seed {seed}: {text}");
            assert!(!text.contains("eyJ") && !text.contains("\nevent=") && text.len() < 8192, "seed {seed}: {text}");
        }
    }
}

fn text(status: u16, body: String) -> CallResult {
    let body = body.into_bytes();
    Ok(CallResponse { status, retry_after: None, request_id: None, grpc: None, body, is_envoys_own: false })
}

fn no_answer() -> CallResult {
    text(503, String::new()).map(|response| CallResponse { is_envoys_own: true, ..response })
}

#[test]
fn at_a_cold_start_each_worker_asks_a_source_at_most_once_whatever_the_number_of_scopes() {
    let (workers, scopes) = (4, 40);
    let mut process = Workers::new(workers, scopes, 1, false);
    for worker in 0..workers as usize {
        // In another order in each worker, so that each of them gets some of the leases.
        for index in 0..scopes {
            let at = START.plus(Duration::from_millis(index as u64));
            process.put(at, worker, Event::Request((index * 7 + worker * 11) % scopes));
        }
    }
    process.run(START.plus(Duration::from_secs(10)));
    assert_eq!((process.exchanges, process.waiting.len()), (scopes, 0));
    let asking: BTreeSet<usize> = process.asked.iter().map(|(worker, _)| *worker).collect();
    assert_eq!(process.asked.len(), asking.len(), "a worker asked twice");
    println!("{scopes} scopes in {workers} workers: {} calls to the source", process.asked.len());
}

#[test]
fn a_hostile_source_gets_a_bounded_number_of_calls_and_no_secret_is_shown() {
    for seed in 0..200 {
        let (workers, scopes) = (3, 3);
        let mut process = Workers::new(workers, scopes, seed, true);
        for _ in 0..60 {
            let at = START.plus(Duration::from_millis(u64::from(process.random.next() % 600_000)));
            let (worker, index) = (process.below(workers as usize), process.below(scopes));
            process.put(at, worker, Event::Request(index));
        }
        // The last request waits for its limit.
        process.run(START.plus(Duration::from_secs(700)));
        assert!(process.waiting.is_empty(), "seed {seed}");
        process.assert_hidden(seed);
        for (worker, at) in &process.asked {
            let within = |other: &&(usize, Timestamp)| {
                other.0 == *worker && other.1 >= *at && other.1.since(*at) < Duration::from_secs(2)
            };
            // Three attempts, and one more for each scope whose exchange Entra calls stale, or whose assertion lives for a moment.
            let calls = process.asked.iter().filter(within).count();
            assert!(calls <= 3 + 2 * scopes, "seed {seed}: {calls} calls in two seconds");
        }
    }
}
