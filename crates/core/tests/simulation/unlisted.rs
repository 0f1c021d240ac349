//! Callers that request many more unlisted scopes than the budget allows. All other faults occur too, and the invariants for
//! all other callers hold.

use std::time::Duration;

use entra_exchange_core::broker::{Limits, RequiredLifetime, UnlistedLimits};

use crate::entra::Weather;
use crate::plan::Plan;
use crate::random::Random;
use crate::specs;
use crate::world::{SimulatedEvent, World};

/// The seeds that broke a rule once.
const FAILED_SEEDS: [u64; 7] = [221, 395, 546, 737, 1_677, 151_091, 200_095];

impl Plan {
    /// The plan of a seed, with requests for unlisted scopes.
    fn with_unlisted(random: &mut Random) -> Self {
        let mut plan = Self::of(random);
        plan.unlisted_percent = random.pick(&[30, 60, 95]);
        plan.limits.unlisted = UnlistedLimits {
            scopes: random.pick(&[1, 3, 10]),
            new_per_minute: random.pick(&[1, 5, 30]),
            parallel_exchanges: random.pick(&[1, 2, 4]),
        };
        plan.bursts.push((0, 40));
        plan.bursts.push((random.between(0, plan.end), 100));
        // A generator of its own, so that the rest of the run does not depend on the scope in use.
        let mut further = Random::new(plan.bursts.iter().map(|(at, _)| at).sum());
        if further.chance(50) {
            plan.in_use_every = Some((plan.end / 300).max(further.pick(&[500, 5_000])));
            plan.weather.push((further.between(0, plan.end / 2), Weather::RefusingRefreshes));
        }
        plan
    }

    /// The maximum number of token keys in a worker: the listed ones, those of the budget, those that requests wait for, and
    /// those that are refreshed although no request waits.
    pub(crate) fn most_keys(&self) -> usize {
        let Limits { wait, unlisted, .. } = self.limits;
        let waited_for = unlisted.new_per_minute * wait.as_secs().div_ceil(60).max(1) as usize;
        self.keys + unlisted.scopes + waited_for + unlisted.parallel_exchanges
    }
}

#[test]
fn every_invariant_holds_while_callers_request_unlisted_scopes() {
    let admitted = crate::run_share(10, FAILED_SEEDS, Plan::with_unlisted);
    assert!(admitted > 0);
}

#[test]
fn a_hundred_requests_for_unlisted_scopes_a_second_cause_no_more_exchanges_than_the_budget_allows() {
    let minutes = 5;
    let mut plan = Plan::quiet(4, 1, minutes * 60_000);
    plan.unlisted_percent = 100;
    plan.limits.unlisted = UnlistedLimits { scopes: 10, new_per_minute: 6, parallel_exchanges: 2 };
    plan.bursts = (0..plan.end / 1000).map(|second| (second * 1000, 100)).collect();
    let world = World::new(plan, Random::new(1), None);
    world.run_until(world.plan.end);
    let judge = world.judge.borrow();
    assert_eq!(judge.violation, None);
    // Six a minute, and six more for the minute that is not complete.
    assert!((6..=6 * (minutes + 1)).contains(&judge.exchanges), "{} exchanges", judge.exchanges);
    assert!(judge.handed_out > 1000, "cached tokens are handed out only {} times", judge.handed_out);
    assert_eq!(world.plan.limits.wait, Duration::from_secs(15));
}

#[test]
fn a_scope_in_use_whose_refresh_entra_refuses_is_kept_while_callers_request_new_ones() {
    for seed in 0..5 {
        let mut plan = Plan::quiet(4, 1, 20 * 60_000);
        plan.unlisted_percent = 1;
        plan.limits.unlisted = UnlistedLimits { scopes: 10, new_per_minute: 5, parallel_exchanges: 2 };
        plan.weather = vec![(0, Weather::RefusingRefreshes)];
        plan.in_use_every = Some(1_000);
        let world = World::new(plan, Random::new(seed), None);
        for number in 1..specs::UNLISTED {
            let (at, index) = (number as u64 * 15_000, specs::first_unlisted() + number);
            world.put(at, 1 + number % 4, SimulatedEvent::RequestAccess { index, need: RequiredLifetime::Any });
        }
        world.run_until(world.plan.end);
        let judge = world.judge.borrow();
        assert_eq!((judge.violation.clone(), judge.waiting()), (None, 0), "seed {seed}");
        assert_eq!(judge.handed_out, 20 * 60 + specs::UNLISTED as u64 - 1, "seed {seed}: every request gets a token");
    }
}

#[test]
fn a_rejected_token_is_replaced_in_all_workers_although_more_scopes_are_in_use_than_are_kept() {
    let mut rejected = 0;
    for seed in 0..20 {
        let mut plan = Plan::quiet(6, 1, 120_000);
        plan.unlisted_percent = 1;
        plan.limits.unlisted = UnlistedLimits { scopes: 2, new_per_minute: 30, parallel_exchanges: 2 };
        plan.rejected = 2;
        let world = World::new(plan, Random::new(seed), None);
        for number in 0..1_200 {
            // Each worker uses as many scopes as it keeps, and each scope is used by four workers.
            let vm = 1 + world.draw(0, 5);
            let index = specs::first_unlisted() + ((vm + world.draw(0, 1)) % 3) as usize;
            let vm = vm as usize;
            world.put(number * 100, vm, SimulatedEvent::RequestAccess { index, need: RequiredLifetime::Any });
        }
        world.run_until(world.plan.end);
        let judge = world.judge.borrow();
        assert_eq!((judge.violation.clone(), judge.waiting()), (None, 0), "seed {seed}");
        rejected += judge.rejected_and_replaced();
    }
    assert!(rejected >= 20, "only {rejected} tokens are rejected and replaced");
}
