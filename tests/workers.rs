//! Tests of the shipped module with several workers. They cover races that a real Envoy shows once in a thousand runs, in every run.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod sidecar;

use std::time::{Duration, Instant};

use serde_json::json;
use sidecar::simple::{self, Answers};
use sidecar::{idle_timeout, to_imds, to_service};
use stack::{LISTED_HOST, UNLISTED_HOST};
use wasm_host::{Event, Host, Stream, StreamState};

/// The filter's limit for the time that a request waits for a token.
const WAIT_LIMIT: Duration = Duration::from_secs(15);

/// Workers with requests for one token key that is not cached, and the responses to their HTTP calls.
struct Run {
    host: Host,
    answers: Answers,
    /// The number of requests that have not been sent yet, by worker.
    unsent: Vec<usize>,
    /// The worker that may crash, once, at any step.
    may_crash: Option<usize>,
    streams: Vec<(usize, Stream)>,
}

/// A step that can be taken next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Request(usize),
    Event(Event),
    /// The response to the call with this index arrives and is delivered.
    Respond(usize),
    Crash(usize),
}

impl Run {
    fn new(requests: &[usize], may_crash: Option<usize>) -> Self {
        let host = sidecar::builder(&sidecar::module()).workers(requests.len()).start().unwrap();
        Self { host, answers: Answers::default(), unsent: requests.to_vec(), may_crash, streams: Vec::new() }
    }

    fn possible_steps(&self) -> Vec<Step> {
        let unsent = self.unsent.iter().enumerate().filter(|(_, count)| **count > 0);
        let mut steps: Vec<_> = unsent.map(|(worker, _)| Step::Request(worker)).collect();
        steps.extend(self.host.ready_events().into_iter().map(Step::Event));
        steps.extend((0..self.host.callouts().len()).map(Step::Respond));
        // When no other step is possible, a crash has no effect.
        if let Some(worker) = self.may_crash.filter(|_| !steps.is_empty()) {
            steps.push(Step::Crash(worker));
        }
        steps
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Request(worker) => {
                self.unsent[worker] -= 1;
                let stream = self.host.worker(worker).request(to_service(LISTED_HOST));
                self.streams.push((worker, stream));
            }
            Step::Event(event) => assert!(self.host.deliver(event)),
            Step::Respond(index) => {
                self.answers.answer(&self.host, &self.host.callouts()[index]);
                // No other response has arrived.
                let arrived =
                    self.host.ready_events().into_iter().find(|event| matches!(event, Event::CallResponse { .. }));
                assert!(self.host.deliver(arrived.unwrap()));
            }
            Step::Crash(worker) => {
                self.may_crash = None;
                self.host.worker(worker).kill();
            }
        }
    }

    /// Takes all remaining steps and advances the clock until no stream is paused or the time has elapsed.
    fn finish(&mut self, within: Duration) {
        let deadline = self.host.now() + within;
        self.answers.serve(&self.host);
        while self.streams.iter().any(|(_, stream)| stream.state() == StreamState::Paused) {
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

/// Runs every possible order of steps and checks the end state of each. Returns the number of orders.
fn explore(start: impl Fn() -> Run, mut check: impl FnMut(&mut Run, &[Step])) -> usize {
    // For each step taken: its index, and the number of possible steps.
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut orders = 0;
    loop {
        let mut run = start();
        let mut taken = Vec::new();
        loop {
            let steps = run.possible_steps();
            if steps.is_empty() {
                break;
            }
            if taken.len() == path.len() {
                path.push((0, steps.len()));
            }
            let step = steps[path[taken.len()].0];
            run.take(step);
            taken.push(step);
        }
        check(&mut run, &taken);
        orders += 1;
        while let Some((index, count)) = path.last_mut() {
            *index += 1;
            if index < count {
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
    let StreamState::Forwarded(forwarded) = stream.state() else { return false };
    forwarded.headers.get("authorization") == Some(simple::bearer("https://vault.azure.net").as_bytes())
}

#[test]
fn two_workers_make_one_exchange_for_an_uncached_token_in_every_order_of_events() {
    let mut orders = 0;
    for requests in [[1, 1], [2, 1]] {
        orders += explore(
            || Run::new(&requests, None),
            |run, taken| {
                assert!(run.streams.iter().all(|(_, stream)| has_token(stream)), "{taken:#?}");
                assert_eq!(run.answers.exchanges, 1, "{taken:#?}");
                assert!(!run.trapped(), "{}", run.host.log_text());
            },
        );
    }
    println!("{orders} orders");
    assert!(orders > 100, "{orders} orders");
}

#[test]
fn waiting_requests_get_a_token_whenever_another_worker_crashes() {
    let orders = explore(
        || Run::new(&[1, 1], Some(0)),
        |run, taken| {
            run.finish(WAIT_LIMIT);
            for (worker, stream) in &run.streams {
                assert!(*worker == 0 || has_token(stream), "{taken:#?}");
            }
            assert!(run.answers.exchanges <= 2, "{taken:#?}");
            assert!(!run.trapped(), "{}", run.host.log_text());
            run.finish(idle_timeout());
            assert!(run.streams.iter().all(|(_, stream)| stream.state() != StreamState::Paused), "{taken:#?}");
        },
    );
    println!("{orders} orders");
    assert!(orders > 100, "{orders} orders");
}

/// Runs one exchange on one worker once per step, and disturbs it before that step.
fn at_each_step(mut disturb: impl FnMut(&mut Run), mut check: impl FnMut(&mut Run, usize)) {
    for count in 0.. {
        let mut run = Run::new(&[1], None);
        for _ in 0..count {
            match run.possible_steps().first().copied() {
                Some(step) => run.take(step),
                None => return,
            }
        }
        disturb(&mut run);
        run.answers.serve(&run.host);
        check(&mut run, count);
    }
}

#[test]
fn a_response_that_arrives_after_the_stream_has_ended_does_no_harm() {
    let mut steps = 0;
    at_each_step(
        |run| run.streams.iter().for_each(|(_, stream)| stream.end()),
        |run, step| {
            assert_eq!(run.host.worker(0).streams(), 0, "step {step}");
            let next = run.host.worker(0).request(to_service(LISTED_HOST));
            run.answers.serve(&run.host);
            assert!(has_token(&next), "step {step}");
            // The next request uses the exchange that was started for the stream that ended.
            assert_eq!(run.answers.exchanges, 1, "step {step}");
            assert!(!run.trapped());
            steps += 1;
        },
    );
    assert!(steps >= 4, "{steps} steps");
}

#[test]
fn no_request_waits_forever_when_the_clock_jumps_by_an_hour() {
    let hour = Duration::from_secs(3600);
    for forward in [true, false] {
        at_each_step(
            |run| {
                let now = run.host.wall_clock();
                run.host.set_wall_clock(if forward { now + hour } else { now - hour });
            },
            |run, step| {
                while run.unsent[0] > 0 {
                    run.take(Step::Request(0));
                }
                run.finish(WAIT_LIMIT);
                // A request that waited may time out; a new one gets a token.
                let ended = run.streams.iter().all(|(_, stream)| stream.state() != StreamState::Paused);
                assert!(ended, "step {step}, forward {forward}");
                let next = run.host.worker(0).request(to_service(LISTED_HOST));
                run.answers.serve(&run.host);
                assert!(has_token(&next), "step {step}, forward {forward}: {next:?}");
                assert!(run.answers.exchanges <= 2, "step {step}, forward {forward}");
                assert!(!run.trapped());
            },
        );
    }
}

#[test]
fn a_restarted_worker_serves_again_while_the_other_one_never_stops() {
    let mut run = Run::new(&[0, 0], None);
    let get = |run: &mut Run, worker: usize| {
        let stream = run.host.worker(worker).request(to_service(LISTED_HOST));
        run.answers.serve(&run.host);
        has_token(&stream)
    };
    assert!(get(&mut run, 0));
    for _ in 0..20 {
        run.host.worker(0).kill();
        run.host.advance(Duration::from_secs(1));
        assert!(get(&mut run, 0) && get(&mut run, 1));
    }
    assert_eq!(run.answers.exchanges, 1, "the token is in shared data, so a new VM finds it");
}

/// The number of requests of the soak test. `SOAK=1000000` makes a million, which takes minutes in a debug build.
fn soak() -> u32 {
    std::env::var("SOAK").map_or(100_000, |count| count.parse().unwrap())
}

#[test]
fn memory_does_not_grow_over_many_requests() {
    let host = sidecar::builder(&sidecar::module()).start().unwrap();
    let mut answers = Answers::default();
    let mut send = |number: u32| {
        let request = match number % 3 {
            0 => to_service(LISTED_HOST),
            1 => to_service(UNLISTED_HOST),
            _ => to_imds("https://vault.azure.net"),
        };
        let stream = host.worker(0).request(request);
        if stream.state() == StreamState::Paused {
            answers.serve(&host);
        }
        stream.end();
        // In all this is about thirty times a token's lifetime.
        if number.is_multiple_of(1000) {
            host.advance(Duration::from_secs(1000));
        }
    };
    // The heap reaches its final size within about ten exchanges, when the list of the last ones is full.
    (0..40_000).for_each(&mut send);
    let (before, started) = (host.worker(0).memory(), Instant::now());
    (0..soak()).for_each(&mut send);
    println!("{} requests in {:?}, {before} bytes", soak(), started.elapsed());
    assert_eq!(host.worker(0).memory(), before);
    assert_eq!(host.worker(0).streams(), 0);
}

#[test]
fn ten_thousand_token_keys_are_cached_at_once() {
    const KEYS: usize = 10_000;
    let resource = |key: usize| format!("https://r{key}.example");
    // Resources that the configuration lists have no exchange budget.
    let resources: Vec<String> = (0..KEYS).map(resource).collect();
    let configuration = json!({"identities": [{"resources": resources}], "managed_identity": {"imds": {}}});
    let host = sidecar::builder(&sidecar::module()).configuration(configuration.to_string()).start().unwrap();
    let mut answers = Answers::default();
    let started = Instant::now();
    for round in 0..2 {
        // Two hundred requests wait at a time.
        for batch in (0..KEYS).collect::<Vec<_>>().chunks(200) {
            let request = |key: &usize| host.worker(key % 2).request(to_imds(&resource(*key)));
            let streams: Vec<_> = batch.iter().map(request).collect();
            if round == 0 {
                assert!(streams.iter().all(|stream| stream.state() == StreamState::Paused));
                answers.serve(&host);
                // A worker releases a few waiting requests per millisecond.
                host.advance(Duration::from_millis(20));
            }
            for (key, stream) in batch.iter().zip(streams) {
                let StreamState::LocalReply(reply) = stream.state() else { panic!("{stream:?}") };
                let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                assert_eq!(body["access_token"], simple::token(&resource(*key)));
                assert_eq!(body["resource"], resource(*key));
            }
        }
        // In the second round every worker has the tokens in its own memory.
        assert_eq!(answers.exchanges, KEYS);
    }
    println!("{KEYS} keys in {:?}, {} bytes", started.elapsed(), host.worker(0).memory());
    assert!(host.worker(0).memory() < 64 << 20, "{} bytes", host.worker(0).memory());
}

#[test]
fn an_aborted_response_is_a_failure_and_not_a_trap() {
    for cluster in [sidecar::TOKEN_CLUSTER, sidecar::ENTRA_CLUSTER] {
        let mut run = Run::new(&[0], None);
        let stream = run.host.worker(0).request(to_service(LISTED_HOST));
        run.host.run_until_idle();
        if cluster == sidecar::ENTRA_CLUSTER {
            run.take(Step::Respond(0));
        }
        run.host.abort_response(&run.host.callouts()[0]);
        run.host.run_until_idle();
        if cluster == sidecar::ENTRA_CLUSTER {
            let retry = &run.host.callouts()[0];
            assert_eq!(retry.cluster, sidecar::ENTRA_AGAIN_CLUSTER);
            run.host.abort_response(retry);
            run.host.run_until_idle();
        }
        assert!(!run.trapped(), "{}", run.host.log_text());
        let StreamState::LocalReply(reply) = stream.state() else { panic!("{stream:?}") };
        assert_eq!(reply.status, 503);
    }
}

#[test]
fn a_waiting_request_ends_in_time_when_the_leader_crashes_and_the_clock_is_set_back() {
    let mut run = Run::new(&[1, 1], None);
    for worker in [1, 0] {
        run.take(Step::Request(worker));
        run.host.run_until_idle();
    }
    run.host.worker(1).kill();
    run.host.set_wall_clock(run.host.wall_clock() - Duration::from_secs(3600));
    run.finish(WAIT_LIMIT);
    assert_ne!(run.streams[1].1.state(), StreamState::Paused);
}
