//! The module that ships, with several workers: what a real Envoy shows once in a thousand runs, shown in each.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod sidecar;

use std::time::{Duration, Instant};

use serde_json::json;
use sidecar::simple::{self, Answers};
use sidecar::{idle_timeout, to_imds, to_service};
use stack::{LISTED_HOST, UNLISTED_HOST};
use wasm_host::{Host, Outcome, Stream, Turn};

/// How long a request waits for a token at most: the filter's own limit.
const WAIT_LIMIT: Duration = Duration::from_secs(15);

/// Some workers with requests for one cold key, and whoever answers their calls.
struct Scene {
    host: Host,
    answers: Answers,
    /// How many requests are still to come, by worker.
    to_come: Vec<usize>,
    /// Which worker may die, once, at any moment.
    mortal: Option<usize>,
    streams: Vec<(usize, Stream)>,
}

/// What can happen next.
#[derive(Clone, Copy, Debug)]
enum Choice {
    Request(usize),
    Turn(Turn),
    /// The answer to the call of this place arrives, and is heard.
    Answer(usize),
    Death(usize),
}

impl Scene {
    fn new(requests: &[usize], mortal: Option<usize>) -> Self {
        let host = sidecar::builder(&sidecar::module()).workers(requests.len()).start().unwrap();
        Self { host, answers: Answers::default(), to_come: requests.to_vec(), mortal, streams: Vec::new() }
    }

    fn choices(&self) -> Vec<Choice> {
        let coming = self.to_come.iter().enumerate().filter(|(_, count)| **count > 0);
        let mut choices: Vec<_> = coming.map(|(worker, _)| Choice::Request(worker)).collect();
        choices.extend(self.host.turns().into_iter().map(Choice::Turn));
        choices.extend((0..self.host.callouts().len()).map(Choice::Answer));
        // Once nothing else can happen, a death changes nothing.
        if let Some(worker) = self.mortal.filter(|_| !choices.is_empty()) {
            choices.push(Choice::Death(worker));
        }
        choices
    }

    fn take(&mut self, choice: Choice) {
        match choice {
            Choice::Request(worker) => {
                self.to_come[worker] -= 1;
                let stream = self.host.worker(worker).request(to_service(LISTED_HOST));
                self.streams.push((worker, stream));
            }
            Choice::Turn(turn) => assert!(self.host.take(turn)),
            Choice::Answer(place) => {
                self.answers.answer(&self.host, &self.host.callouts()[place]);
                // It is the only one that has arrived.
                let arrived = self.host.turns().into_iter().find(|turn| matches!(turn, Turn::Answer { .. }));
                assert!(self.host.take(arrived.unwrap()));
            }
            Choice::Death(worker) => {
                self.mortal = None;
                self.host.worker(worker).kill();
            }
        }
    }

    /// Lets everything else happen, and time pass until all streams have ended.
    fn finish(&mut self, within: Duration) {
        let deadline = self.host.now() + within;
        self.answers.serve(&self.host);
        while self.streams.iter().any(|(_, stream)| stream.outcome() == Outcome::Paused) {
            match self.host.next_timer().filter(|next| *next <= deadline) {
                Some(next) => self.host.advance(next.saturating_sub(self.host.now())),
                None => return,
            }
            self.answers.serve(&self.host);
        }
    }

    fn trapped(&self) -> bool {
        self.host.log_text().contains("Function: ")
    }
}

/// Runs every order in which things can happen, and looks at the end of each. Returns how many there are.
fn explore(make: impl Fn() -> Scene, mut end: impl FnMut(&mut Scene, &[Choice])) -> usize {
    // For each step: the choice to take, and how many there were.
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut orders = 0;
    loop {
        let mut scene = make();
        let mut taken = Vec::new();
        loop {
            let choices = scene.choices();
            if choices.is_empty() {
                break;
            }
            if taken.len() == path.len() {
                path.push((0, choices.len()));
            }
            let choice = choices[path[taken.len()].0];
            scene.take(choice);
            taken.push(choice);
        }
        end(&mut scene, &taken);
        orders += 1;
        while let Some((choice, count)) = path.last_mut() {
            *choice += 1;
            if choice < count {
                break;
            }
            path.pop();
        }
        if path.is_empty() {
            return orders;
        }
    }
}

fn has_token(stream: &Stream) -> bool {
    let Outcome::Passed(passed) = stream.outcome() else { return false };
    passed.headers.get("authorization") == Some(simple::bearer("https://vault.azure.net").as_bytes())
}

#[test]
fn two_workers_make_one_exchange_for_a_cold_key_in_whatever_order_things_happen() {
    let mut orders = 0;
    for requests in [[1, 1], [2, 1]] {
        orders += explore(
            || Scene::new(&requests, None),
            |scene, taken| {
                assert!(scene.streams.iter().all(|(_, stream)| has_token(stream)), "{taken:#?}");
                assert_eq!(scene.answers.exchanges, 1, "{taken:#?}");
                assert!(!scene.trapped(), "{}", scene.host.log_text());
            },
        );
    }
    println!("{orders} orders");
    assert!(orders > 100, "{orders} orders");
}

#[test]
fn those_who_wait_are_answered_whenever_a_worker_dies() {
    let orders = explore(
        || Scene::new(&[1, 1], Some(0)),
        |scene, taken| {
            scene.finish(WAIT_LIMIT);
            for (worker, stream) in &scene.streams {
                assert!(*worker == 0 || has_token(stream), "{taken:#?}");
            }
            assert!(scene.answers.exchanges <= 2, "{taken:#?}");
            assert!(!scene.trapped(), "{}", scene.host.log_text());
            scene.finish(idle_timeout());
            assert!(scene.streams.iter().all(|(_, stream)| stream.outcome() != Outcome::Paused), "{taken:#?}");
        },
    );
    println!("{orders} orders");
    assert!(orders > 100, "{orders} orders");
}

/// Runs one exchange on one worker, step by step, and does something before each step in turn.
fn at_each_step(mut disturb: impl FnMut(&mut Scene), mut end: impl FnMut(&mut Scene, usize)) {
    for step in 0.. {
        let mut scene = Scene::new(&[1], None);
        for _ in 0..step {
            match scene.choices().first().copied() {
                Some(choice) => scene.take(choice),
                None => return,
            }
        }
        disturb(&mut scene);
        scene.answers.serve(&scene.host);
        end(&mut scene, step);
    }
}

#[test]
fn answers_that_come_after_the_stream_has_gone_harm_nobody() {
    let mut steps = 0;
    at_each_step(
        |scene| scene.streams.iter().for_each(|(_, stream)| stream.end()),
        |scene, step| {
            assert_eq!(scene.host.worker(0).streams(), 0, "step {step}");
            let next = scene.host.worker(0).request(to_service(LISTED_HOST));
            scene.answers.serve(&scene.host);
            assert!(has_token(&next), "step {step}");
            // What was begun for the one that left is there for the next.
            assert_eq!(scene.answers.exchanges, 1, "step {step}");
            assert!(!scene.trapped());
            steps += 1;
        },
    );
    assert!(steps >= 4, "{steps} steps");
}

#[test]
fn a_clock_that_jumps_an_hour_leaves_nobody_waiting() {
    let hour = Duration::from_secs(3600);
    for forward in [true, false] {
        at_each_step(
            |scene| {
                let now = scene.host.wall_clock();
                scene.host.set_wall_clock(if forward { now + hour } else { now - hour });
            },
            |scene, step| {
                while scene.to_come[0] > 0 {
                    scene.take(Choice::Request(0));
                }
                scene.finish(WAIT_LIMIT);
                // Who waited may be told that the time is over; who comes now has a token.
                let ended = scene.streams.iter().all(|(_, stream)| stream.outcome() != Outcome::Paused);
                assert!(ended, "step {step}, forward {forward}");
                let next = scene.host.worker(0).request(to_service(LISTED_HOST));
                scene.answers.serve(&scene.host);
                assert!(has_token(&next), "step {step}, forward {forward}: {next:?}");
                assert!(scene.answers.exchanges <= 2, "step {step}, forward {forward}");
                assert!(!scene.trapped());
            },
        );
    }
}

#[test]
fn a_worker_that_comes_back_serves_again_and_the_others_never_stopped() {
    let mut scene = Scene::new(&[0, 0], None);
    let get = |scene: &mut Scene, worker: usize| {
        let stream = scene.host.worker(worker).request(to_service(LISTED_HOST));
        scene.answers.serve(&scene.host);
        has_token(&stream)
    };
    assert!(get(&mut scene, 0));
    for _ in 0..20 {
        scene.host.worker(0).kill();
        scene.host.advance(Duration::from_secs(1));
        assert!(get(&mut scene, 0) && get(&mut scene, 1));
    }
    assert_eq!(scene.answers.exchanges, 1, "the token is shared, so a new VM finds it");
}

/// How many requests the soak makes. A million takes minutes in a debug build; `SOAK=1000000` asks for them.
fn soak() -> u32 {
    std::env::var("SOAK").map_or(100_000, |count| count.parse().unwrap())
}

#[test]
fn memory_is_flat_over_many_requests() {
    let host = sidecar::builder(&sidecar::module()).start().unwrap();
    let mut answers = Answers::default();
    let mut round = |number: u32| {
        let request = match number % 3 {
            0 => to_service(LISTED_HOST),
            1 => to_service(UNLISTED_HOST),
            _ => to_imds("https://vault.azure.net"),
        };
        let stream = host.worker(0).request(request);
        if stream.outcome() == Outcome::Paused {
            answers.serve(&host);
        }
        stream.end();
        // A token's life, some thirty times over.
        if number.is_multiple_of(1000) {
            host.advance(Duration::from_secs(1000));
        }
    };
    // The heap finds its size in the first thousands.
    (0..10_000).for_each(&mut round);
    let (before, started) = (host.worker(0).memory(), Instant::now());
    (0..soak()).for_each(&mut round);
    println!("{} requests in {:?}, {before} bytes", soak(), started.elapsed());
    assert_eq!(host.worker(0).memory(), before);
    assert_eq!(host.worker(0).streams(), 0);
}

#[test]
fn ten_thousand_keys_live_side_by_side() {
    const KEYS: usize = 10_000;
    let resource = |key: usize| format!("https://r{key}.example");
    // What the configuration names has no budget.
    let resources: Vec<String> = (0..KEYS).map(resource).collect();
    let configuration = json!({"identities": [{"resources": resources}], "managed_identity": {"imds": {}}});
    let host = sidecar::builder(&sidecar::module()).configuration(configuration.to_string()).start().unwrap();
    let mut answers = Answers::default();
    let started = Instant::now();
    for round in 0..2 {
        // Two hundred wait at a time.
        for batch in (0..KEYS).collect::<Vec<_>>().chunks(200) {
            let ask = |key: &usize| host.worker(key % 2).request(to_imds(&resource(*key)));
            let streams: Vec<_> = batch.iter().map(ask).collect();
            if round == 0 {
                assert!(streams.iter().all(|stream| stream.outcome() == Outcome::Paused));
                answers.serve(&host);
                // A worker releases a few in each millisecond.
                host.advance(Duration::from_millis(20));
            }
            for (key, stream) in batch.iter().zip(streams) {
                let Outcome::Replied(reply) = stream.outcome() else { panic!("{stream:?}") };
                let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                assert_eq!(body["access_token"], simple::token(&resource(*key)));
                assert_eq!(body["resource"], resource(*key));
            }
        }
        // The second time every worker has its own.
        assert_eq!(answers.exchanges, KEYS);
    }
    println!("{KEYS} keys in {:?}, {} bytes", started.elapsed(), host.worker(0).memory());
    assert!(host.worker(0).memory() < 64 << 20, "{} bytes", host.worker(0).memory());
}

#[test]
fn an_answer_that_breaks_off_is_a_failure_and_no_trap() {
    for cluster in [sidecar::TOKEN_CLUSTER, sidecar::ENTRA_CLUSTER] {
        let mut scene = Scene::new(&[0], None);
        let stream = scene.host.worker(0).request(to_service(LISTED_HOST));
        scene.host.run_until_idle();
        if cluster == sidecar::ENTRA_CLUSTER {
            scene.take(Choice::Answer(0));
        }
        scene.host.cut(&scene.host.callouts()[0]);
        scene.host.run_until_idle();
        if cluster == sidecar::ENTRA_CLUSTER {
            let again = &scene.host.callouts()[0];
            assert_eq!(again.cluster, sidecar::ENTRA_AGAIN_CLUSTER);
            scene.host.cut(again);
            scene.host.run_until_idle();
        }
        assert!(!scene.trapped(), "{}", scene.host.log_text());
        let Outcome::Replied(reply) = stream.outcome() else { panic!("{stream:?}") };
        assert_eq!(reply.status, 503);
    }
}

#[test]
fn who_waits_for_another_is_answered_in_time_when_that_one_dies_and_the_clock_is_set_back() {
    let mut scene = Scene::new(&[1, 1], None);
    for worker in [1, 0] {
        scene.take(Choice::Request(worker));
        scene.host.run_until_idle();
    }
    scene.host.worker(1).kill();
    scene.host.set_wall_clock(scene.host.wall_clock() - Duration::from_secs(3600));
    scene.finish(WAIT_LIMIT);
    assert_ne!(scene.streams[1].1.outcome(), Outcome::Paused);
}
