//! The broker in a simulated Envoy: many workers, one shared memory, a clock that the test owns, and everything that may
//! go wrong. A run is decided by its seed alone.
//!
//! `cargo test` runs a fixed set of seeds; `SEEDS=n` runs n of them, `SEED=n` runs one and says what it was.

// All of this is test code, of which clippy sees only what stands in a test function.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod clock;
mod entra;
mod grants;
mod judge;
mod memory;
mod plan;
mod random;
mod sabotage;
mod scenarios;
mod vm;
mod world;

use std::env;
use std::fmt::Write as _;

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
    let plan = Plan::of(&mut random);
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
    let seeds = match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..=seed,
        (None, count) => 1..=count.unwrap_or(SEEDS),
    };
    let (mut failed, mut exchanges, mut handed_out) = (String::new(), 0, 0);
    for seed in seeds.clone() {
        let outcome = run(seed, None);
        exchanges += outcome.exchanges;
        handed_out += outcome.handed_out;
        if let Some(violation) = outcome.violation {
            writeln!(failed, "SEED={seed}  {violation}").unwrap();
        }
    }
    println!("{} seeds, {exchanges} exchanges, {handed_out} tokens handed out", seeds.count());
    assert!(failed.is_empty(), "\n{failed}");
}

#[test]
fn a_host_that_breaks_a_promise_is_noticed() {
    for (sabotage, rule) in Sabotage::ALL {
        let broken = |seed| run(seed, Some(sabotage)).violation;
        let noticed = (1..=SEEDS).filter_map(broken).find(|violation| violation.starts_with(rule));
        assert!(noticed.is_some(), "{sabotage:?} breaks {rule:?}, and nobody notices");
    }
}
