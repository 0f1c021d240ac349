//! What a seed makes of a run: how many workers, who asks for what and when, and what goes wrong.

use std::time::Duration;

use entra_exchange_core::broker::Limits;

use crate::entra::Weather;
use crate::random::Random;

/// Times are milliseconds of the steady clock.
pub(crate) struct Plan {
    pub(crate) workers: usize,
    /// How many of the grants are asked for.
    pub(crate) keys: usize,
    pub(crate) limits: Limits,
    /// Whether the first of them is kept warm, on the main thread too.
    pub(crate) warm: bool,
    /// When many ask at once, and how many.
    pub(crate) bursts: Vec<(u64, u64)>,
    /// How it goes with Entra, from when on.
    pub(crate) weather: Vec<(u64, Weather)>,
    /// When the wall's clock is set, and by how much.
    pub(crate) jumps: Vec<(u64, i64)>,
    /// When a worker's VM dies.
    pub(crate) deaths: Vec<u64>,
    /// When a worker does nothing, and for how long.
    pub(crate) stalls: Vec<(u64, u64)>,
    /// When a configuration comes that discards the tokens before it.
    pub(crate) discard_at: Option<u64>,
    /// In percent: a message to another worker is lost.
    pub(crate) lost: u64,
    /// In percent: a message to another worker comes twice.
    pub(crate) doubled: u64,
    /// The longest that a message to another worker takes.
    pub(crate) delay: u64,
    /// In percent: a VM dies during a call that it made.
    pub(crate) dies_leading: u64,
    /// In percent: a worker does nothing for long during a call that it made.
    pub(crate) stalls_leading: u64,
    /// In percent: the federated token is late, missing, expired or nonsense.
    pub(crate) assertion_faults: u64,
    /// In percent: a request leaves while it waits.
    pub(crate) leaves: u64,
    /// In percent: a token that was handed out is rejected where it was sent.
    pub(crate) rejected: u64,
    /// In percent: a request does not want the token that there is.
    pub(crate) stale: u64,
    /// In percent: a request does not wait for its token.
    pub(crate) unwaiting: u64,
    /// In percent: a request is for a scope that a caller made up.
    pub(crate) inventive: u64,
    /// When no more is asked and nothing more goes wrong.
    pub(crate) end: u64,
}

impl Plan {
    /// Nothing goes wrong, and nobody asks.
    pub(crate) fn quiet(workers: usize, keys: usize, end: u64) -> Self {
        Self {
            workers,
            keys,
            limits: Limits::default(),
            warm: false,
            bursts: Vec::new(),
            weather: Vec::new(),
            jumps: Vec::new(),
            deaths: Vec::new(),
            stalls: Vec::new(),
            discard_at: None,
            lost: 0,
            doubled: 0,
            delay: 3,
            dies_leading: 0,
            stalls_leading: 0,
            assertion_faults: 0,
            leaves: 0,
            rejected: 0,
            stale: 0,
            unwaiting: 0,
            inventive: 0,
            end,
        }
    }

    /// What the seed says. Each kind of trouble comes to some seeds only, so that others are strict about the rest.
    pub(crate) fn of(random: &mut Random) -> Self {
        let end = random.pick(&[20_000, 60_000, 300_000, 7_200_000]);
        let (workers, keys) = (random.between(2, 6) as usize, random.between(1, 5) as usize);
        let mut plan = Self::quiet(workers, keys, end);
        if random.chance(50) {
            plan.limits = Limits {
                exchange: Duration::from_millis(random.between(1_000, 20_000)),
                wait: Duration::from_millis(random.between(1_000, 20_000)),
                waiting: random.pick(&[1, 3, 20, 10_000]),
                ..Limits::default()
            };
        }
        plan.warm = random.chance(25);
        plan.bursts = times(random, 12, end).into_iter().map(|at| (at, random.pick(&[1, 2, 5, 20]))).collect();
        // A cold start is where most races are.
        plan.bursts.push((0, random.pick(&[2, 10, 30])));
        plan.weather = times(random, 4, end).into_iter().map(|at| (at, Weather::any(random))).collect();
        if random.chance(50) {
            plan.weather.push((0, Weather::any(random)));
        }
        if random.chance(25) {
            plan.jumps = times(random, 3, end)
                .into_iter()
                .map(|at| (at, random.pick(&[-3_600_000, 3_600_000, -20_000, 20_000, -1_500, 1_500])))
                .collect();
        }
        if random.chance(30) {
            plan.deaths = times(random, 4, end);
            plan.dies_leading = random.pick(&[0, 10, 40]);
        }
        if random.chance(20) {
            plan.stalls =
                times(random, 3, end).into_iter().map(|at| (at, random.pick(&[50, 800, 4_000, 20_000]))).collect();
            plan.stalls_leading = random.pick(&[0, 10, 30]);
        }
        if random.chance(15) {
            plan.discard_at = Some(random.between(0, end));
        }
        if random.chance(50) {
            (plan.lost, plan.doubled, plan.delay) =
                (random.pick(&[0, 10, 100]), random.pick(&[0, 20]), random.pick(&[3, 200, 3_000]));
        }
        plan.assertion_faults = random.pick(&[0, 0, 10, 50]);
        plan.leaves = random.pick(&[0, 10, 30]);
        plan.rejected = random.pick(&[0, 0, 10, 30]);
        plan.stale = random.pick(&[0, 0, 0, 20]);
        plan.unwaiting = random.pick(&[0, 0, 20, 90]);
        plan
    }
}

impl Plan {
    /// What an attacker, or bad luck, adds to a run: tokens that are rejected in one worker while others use them, a clock that
    /// is set back with a token in hand, throttling, hostile answers.
    pub(crate) fn add_attacks(&mut self, random: &mut Random) {
        if random.chance(25) {
            self.weather.extend(times(random, 2, self.end).into_iter().map(|at| (at, Weather::Hostile)));
        }
        if random.chance(20) {
            let throttled = |at| (at, Weather::ThrottlingClient(50_196));
            self.weather.extend(times(random, 2, self.end).into_iter().map(throttled));
        }
        let first = self.bursts.iter().map(|(at, _)| *at).min().unwrap_or_default();
        if random.chance(20) {
            let at = first + random.between(0, 20_000);
            self.jumps.push((at, random.pick(&[-5_000, -600_000, -3_600_000, -86_400_000])));
            self.bursts.push((at + random.between(0, 2_000), 10));
        }
        if random.chance(25) {
            self.rejected = random.pick(&[2, 10, 50]);
            let begin = random.between(0, self.end / 2);
            let every = random.pick(&[50, 400, 5_000]);
            self.bursts.extend((0..40).map(|number| (begin + number * every, 2)));
        }
        // The clock is set in the order of time.
        self.jumps.sort_unstable();
    }
}

fn times(random: &mut Random, most: u64, end: u64) -> Vec<u64> {
    (0..random.between(0, most)).map(|_| random.between(0, end)).collect()
}
