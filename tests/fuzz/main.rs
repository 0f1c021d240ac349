//! Hostile input, in any order: bytes become requests, answers, deaths, and a clock that jumps.
//!
//! `make test` runs some thousand seeds; `FUZZ_SECONDS=n cargo test --test fuzz -- --ignored --nocapture` goes on with
//! random ones. `FUZZ_SEED=n` repeats one, or begins with it. `make fuzz-mutants` breaks the filter in one way after the other, and shows that this test
//! notices.

// A test may fail where it stands.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod answers;
mod case;
mod input;
mod readings;
mod requests;
mod setup;
#[path = "../sidecar/mod.rs"]
mod sidecar;
mod texts;
mod verdict;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use case::Case;
use input::{Input, bytes};

/// How many seeds `make test` runs.
const CASES: u64 = 2000;

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
    let seed = std::env::var("FUZZ_SEED").map(|seed| seed.parse().unwrap());
    let (started, first) = (Instant::now(), seed.unwrap_or_else(|_| RandomState::new().build_hasher().finish()));
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

/// Makes bytes a sequence of events, and prints them if they are to be `told`. Returns how many there were.
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
