//! Planned runs that random seeds rarely produce. Most of them count exchanges.

use crate::entra::Weather;
use crate::plan::Plan;
use crate::random::Random;
use crate::specs::Federated;
use crate::world::{SimulatedEvent, World};

const MINUTE: u64 = 60_000;

/// Ten requests a second for one token, in four workers.
fn steady(weather: Weather, length: u64) -> World {
    let mut plan = Plan::quiet(4, 1, length);
    plan.weather = vec![(0, weather)];
    plan.bursts = (0..length / 100).map(|tenth| (tenth * 100, 1)).collect();
    run(plan)
}

fn run(plan: Plan) -> World {
    let world = World::new(plan, Random::new(1), None);
    world.run_until(world.plan.end);
    assert_eq!(world.judge.borrow().violation, None);
    world
}

fn exchanges(world: &World) -> u64 {
    world.judge.borrow().exchanges
}

#[test]
fn two_hundred_requests_for_a_token_that_entra_refuses_cause_one_exchange_and_at_most_one_retry() {
    for (code, tries) in [(90_002, 1), (700_016, 2), (700_213, 2), (700_024, 2)] {
        let mut plan = Plan::quiet(4, 1, 10_000);
        plan.weather = vec![(0, Weather::Refusing(code))];
        plan.bursts = vec![(0, 200)];
        assert_eq!(exchanges(&run(plan)), tries, "AADSTS{code}");
    }
}

#[test]
fn an_endpoint_that_refuses_is_called_no_more_often_than_the_back_off_allows() {
    // A transient failure is retried every half minute on average, one that needs a change every five minutes.
    for (code, most) in [(90_033, 45), (90_002, 15)] {
        let count = exchanges(&steady(Weather::Refusing(code), 10 * MINUTE));
        assert!((2..=most).contains(&count), "AADSTS{code}: {count} exchanges");
    }
    assert_eq!(exchanges(&steady(Weather::Throttling(3600), 10 * MINUTE)), 1);
}

#[test]
fn a_token_in_use_is_refreshed_no_more_often_than_needed() {
    for (life, refresh_in, most) in [(3600, None, 1), (86_400, Some(1), 20), (3600, Some(1), 20), (120, None, 20)] {
        let count = exchanges(&steady(Weather::Granting(life, refresh_in), 10 * MINUTE));
        assert!(count <= most, "life {life}, refresh_in {refresh_in:?}: {count} exchanges");
    }
}

#[test]
fn a_token_that_has_expired_on_arrival_causes_no_storm_of_exchanges() {
    let count = exchanges(&steady(Weather::LateAndShort, 10 * MINUTE));
    assert!(count <= 60, "{count} exchanges");
}

#[test]
fn on_a_cold_start_all_workers_have_the_token_as_soon_as_one_has_it() {
    let mut plan = Plan::quiet(6, 1, 1_000);
    plan.bursts = vec![(0, 60)];
    let world = run(plan);
    assert_eq!((exchanges(&world), world.judge.borrow().waiting()), (1, 0));
}

#[test]
fn a_lease_that_is_never_released_expires_even_if_the_clock_is_set_back() {
    for seed in 0..20 {
        let mut plan = Plan::quiet(3, 1, 65_000);
        plan.bursts = vec![(0, 10)];
        plan.jumps = vec![(30, -3_600_000)];
        let world = World::new(plan, Random::new(seed), None);
        // The token file has been read or is being read, and Entra has not responded yet.
        world.kill_all(22 - seed);
        world.run_until(world.plan.end);
        world.expect_tokens();
        world.request_all(world.plan.end);
        world.run_until(world.plan.end + 1_000);
        let judge = world.judge.borrow();
        assert_eq!((judge.violation.clone(), judge.waiting()), (None, 0), "seed {seed}");
    }
}

#[test]
fn a_token_that_one_worker_rejects_is_replaced_in_all_workers_by_one_exchange() {
    for seed in 0..20 {
        let mut plan = Plan::quiet(6, 1, 20_000);
        plan.bursts = (0..1_500).map(|number| (number * 10, 1)).collect();
        let world = World::new(plan, Random::new(seed), None);
        let key = crate::specs::all(None, Federated::File)[0].key();
        world.put(5_000, 1, SimulatedEvent::Rejected { generation: 0, key });
        world.run_until(world.plan.end);
        // The judge checks that the rejected token is not handed out for too long.
        assert_eq!((world.judge.borrow().violation.clone(), exchanges(&world)), (None, 2), "seed {seed}");
        assert_eq!(world.judge.borrow().waiting(), 0);
    }
}

#[test]
fn a_rejected_token_stays_in_use_while_entra_is_down() {
    let mut plan = Plan::quiet(4, 1, 60_000);
    plan.bursts = (0..600).map(|number| (number * 100, 1)).collect();
    plan.weather = vec![(4_000, Weather::Down), (40_000, Weather::Fair)];
    let world = World::new(plan, Random::new(1), None);
    let key = crate::specs::all(None, Federated::File)[0].key();
    world.put(5_000, 1, SimulatedEvent::Rejected { generation: 0, key });
    world.run_until(world.plan.end);
    let judge = world.judge.borrow();
    assert_eq!((judge.violation.clone(), judge.handed_out), (None, 600));
}

#[test]
fn a_cached_token_is_not_used_after_the_clock_was_set_back_to_before_it_was_issued() {
    let mut plan = Plan::quiet(4, 1, 70_000);
    plan.bursts = vec![(0, 20), (60_000, 20)];
    plan.jumps = vec![(30_000, -3_600_000)];
    let world = run(plan);
    assert_eq!(exchanges(&world), 2);
}

#[test]
fn a_back_off_is_not_extended_when_the_clock_is_set_back() {
    let mut plan = Plan::quiet(3, 1, 60_000);
    plan.weather = vec![(0, Weather::Refusing(90_002)), (1_000, Weather::Fair)];
    plan.bursts = vec![(0, 10)];
    plan.jumps = vec![(1_000, -1_800_000)];
    let world = run(plan);
    world.expect_tokens();
    world.request_all(world.plan.end);
    world.run_until(world.plan.end + 1_000);
    assert_eq!((world.judge.borrow().violation.clone(), world.judge.borrow().waiting()), (None, 0));
}
