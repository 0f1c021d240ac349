//! Runs the broker in a simulated Envoy with several workers, shared data, a virtual clock and injected faults. A run is
//! determined by its seed.
//!
//! `cargo test` runs a fixed set of seeds. `SEEDS=n` runs n seeds, starting with `FIRST=n` (1 by default). `SEED=n` runs one
//! seed and prints its events. The seeds in `failed-seeds.txt` always run, because each of them once violated a rule.

// All of this is test code, but clippy recognizes only test functions as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod budget;
mod clock;
mod entra;
mod hostile;
mod judge;
mod memory;
mod plan;
mod planned_runs;
mod random;
mod requests;
mod sabotage;
mod sources;
mod specs;
mod unlisted;
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

/// The result of a run.
#[derive(Debug, Default)]
struct RunResult {
    violation: Option<String>,
    exchanges: u64,
    handed_out: u64,
}

fn run(seed: u64, sabotage: Option<Sabotage>) -> RunResult {
    let mut random = Random::new(seed);
    let mut plan = Plan::of(&mut random);
    // A separate generator, so that the rest of the plan does not depend on the attacks.
    plan.add_attacks(&mut Random::new(!seed));
    run_plan(plan, random, sabotage)
}

/// Runs a plan, and the calm after it.
fn run_plan(plan: Plan, random: Random, sabotage: Option<Sabotage>) -> RunResult {
    let world = World::new(plan, random, sabotage);
    let end = world.plan.end;
    world.run_until(end);
    // There are no more faults, and all back-offs end, including those that began before the clock was set back. From now
    // on, every worker can get every token.
    let calm = end + 5 * HOUR;
    world.run_until(calm);
    world.expect_tokens();
    world.request_all(calm);
    world.run_until(calm + 60_000);
    // There are no more requests, so nothing is left once all tokens have expired.
    if !world.plan.warm {
        world.run_until(end + 10 * DAY);
        world.expect_nothing_left();
    }
    let judge = world.judge.borrow();
    RunResult { violation: judge.violation.clone(), exchanges: judge.exchanges, handed_out: judge.handed_out }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_invariant_holds_under_every_fault() {
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

/// Runs the plans of some seeds, one after the other: a `share` of those that `SEEDS` asks for, by default 100, and the ones that once
/// `failed`. None may violate a rule. Returns the number of exchanges.
fn run_share(share: u64, failed: impl IntoIterator<Item = u64>, plan: fn(&mut Random) -> Plan) -> u64 {
    let first = number("FIRST").unwrap_or(1);
    let count = number("SEEDS").map_or(100, |seeds| seeds / share);
    let seeds = match number("SEED") {
        Some(seed) => vec![seed],
        None => failed.into_iter().chain(first..first + count).collect(),
    };
    let mut violations = Vec::new();
    let mut exchanges = 0;
    for seed in seeds {
        let mut random = Random::new(seed);
        let plan = plan(&mut random);
        let outcome = run_plan(plan, random, None);
        exchanges += outcome.exchanges;
        violations.extend(outcome.violation.map(|violation| format!("SEED={seed}  {violation}")));
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
    exchanges
}

/// The seeds that once violated a rule.
fn failed_seeds() -> impl Iterator<Item = u64> {
    let lines = include_str!("failed-seeds.txt").lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).map(|seed| seed.parse().expect("a seed"))
}

#[test]
fn a_host_that_violates_a_guarantee_is_detected() {
    for (sabotage, rule) in Sabotage::ALL {
        let violation = |seed| run(seed, Some(sabotage)).violation;
        let detected = (1..=SEEDS).filter_map(violation).find(|violation| violation.starts_with(rule));
        assert!(detected.is_some(), "{sabotage:?} violates {rule:?} and was not detected");
    }
}
