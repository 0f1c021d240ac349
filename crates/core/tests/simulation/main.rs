//! The broker in a simulated Envoy: many workers, one shared memory, a clock that the test owns, and everything that may
//! go wrong. A run is decided by its seed alone.
//!
//! `cargo test` runs a fixed set of seeds; `SEEDS=n` runs n of them, from `FIRST=n` on (1 by default); `SEED=n` runs one and
//! prints what happens. The seeds of `failed-seeds.txt` are always run: each of them broke a rule once.

// All of this is test code, of which clippy sees only what stands in a test function.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod clock;
mod entra;
mod grants;
mod hostile;
mod inventors;
mod judge;
mod memory;
mod plan;
mod random;
mod requests;
mod sabotage;
mod scenarios;
mod vm;
mod world;

use std::env;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use plan::Plan;
use random::Random;
use sabotage::Sabotage;
use world::World;

/// How many seeds run unless `SEEDS` says otherwise.
const SEEDS: u64 = 200;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// What a run comes to.
#[derive(Debug, Default)]
struct Outcome {
    violation: Option<String>,
    exchanges: u64,
    handed_out: u64,
}

fn run(seed: u64, sabotage: Option<Sabotage>) -> Outcome {
    let mut random = Random::new(seed);
    let mut plan = Plan::of(&mut random);
    // With random numbers of its own: what a seed meant before stays.
    plan.add_attacks(&mut Random::new(!seed));
    live(plan, random, sabotage)
}

/// Lives a plan through, and the calm after it.
fn live(plan: Plan, random: Random, sabotage: Option<Sabotage>) -> Outcome {
    let world = World::new(plan, random, sabotage);
    let end = world.plan.end;
    world.run_until(end);
    // Nothing goes wrong any more, and back-offs end, also those from before the clock was set back: now every worker
    // has every token.
    let calm = end + 5 * HOUR;
    world.run_until(calm);
    world.expect_tokens();
    world.request_all(calm);
    world.run_until(calm + 60_000);
    // Nobody asks any more: when all tokens are over nothing is left.
    if !world.plan.warm {
        world.run_until(end + 10 * DAY);
        world.expect_nothing_left();
    }
    let judge = world.judge.borrow();
    Outcome { violation: judge.violation.clone(), exchanges: judge.exchanges, handed_out: judge.handed_out }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_invariant_holds_whatever_happens() {
    let seeds: Vec<u64> = match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => {
            let first = number("FIRST").unwrap_or(1);
            failed_seeds().chain(first..first + count.unwrap_or(SEEDS)).collect()
        }
    };
    let next = AtomicUsize::new(0);
    let total = Mutex::new((Vec::new(), 0, 0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run(*seed, None);
                    let mut total = total.lock().unwrap();
                    total.0.extend(outcome.violation.map(|violation| (*seed, violation)));
                    total.1 += outcome.exchanges;
                    total.2 += outcome.handed_out;
                }
            });
        }
    });
    let (mut failed, exchanges, handed_out) = total.into_inner().unwrap();
    failed.sort();
    println!("{} seeds, {exchanges} exchanges, {handed_out} tokens handed out", seeds.len());
    let lines: Vec<String> = failed.iter().map(|(seed, violation)| format!("SEED={seed}  {violation}")).collect();
    assert!(failed.is_empty(), "\n{}\n", lines.join("\n"));
}

/// The seeds that broke a rule once.
fn failed_seeds() -> impl Iterator<Item = u64> {
    let lines = include_str!("failed-seeds.txt").lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).map(|seed| seed.parse().expect("a seed"))
}

#[test]
fn a_host_that_breaks_a_promise_is_noticed() {
    for (sabotage, rule) in Sabotage::ALL {
        let broken = |seed| run(seed, Some(sabotage)).violation;
        let noticed = (1..=SEEDS).filter_map(broken).find(|violation| violation.starts_with(rule));
        assert!(noticed.is_some(), "{sabotage:?} breaks {rule:?}, and nobody notices");
    }
}
