//! The plan of a run, derived from its seed: the workers, the requests and the faults.

use std::time::Duration;

use entra_exchange_core::broker::Limits;

use crate::entra::Weather;
use crate::random::Random;
use crate::specs::Federated;

/// A plan. Times are in milliseconds of the steady clock.
pub(crate) struct Plan {
    pub(crate) workers: usize,
    /// The source of the federated tokens.
    pub(crate) federated: Federated,
    /// The number of token specs that are requested.
    pub(crate) keys: usize,
    pub(crate) limits: Limits,
    /// Whether the first token is kept warm, on the main thread too.
    pub(crate) warm: bool,
    /// The times of simultaneous requests, and their number.
    pub(crate) bursts: Vec<(u64, u64)>,
    /// The times at which the weather changes.
    pub(crate) weather: Vec<(u64, Weather)>,
    /// The times at which the wall clock is set, and the change.
    pub(crate) jumps: Vec<(u64, i64)>,
    /// The times at which a worker's VM dies.
    pub(crate) deaths: Vec<u64>,
    /// The times at which a worker stalls, and for how long.
    pub(crate) stalls: Vec<(u64, u64)>,
    /// The time of a new configuration that discards all earlier tokens.
    pub(crate) discard_at: Option<u64>,
    /// The probability in percent that a message to another worker is lost.
    pub(crate) lost: u64,
    /// The probability in percent that a message to another worker is delivered twice.
    pub(crate) doubled: u64,
    /// The maximum delay of a message to another worker.
    pub(crate) delay: u64,
    /// The probability in percent that a VM dies during a call that it made.
    pub(crate) dies_leading: u64,
    /// The probability in percent that a worker stalls for long during a call that it made.
    pub(crate) stalls_leading: u64,
    /// The probability in percent that the federated token is late, missing, expired or malformed.
    pub(crate) assertion_faults: u64,
    /// The probability in percent that a waiting request is cancelled.
    pub(crate) leaves: u64,
    /// The probability in percent that the upstream rejects a token that was handed out.
    pub(crate) rejected: u64,
    /// The probability in percent that a caller rejects the cached token.
    pub(crate) stale: u64,
    /// The probability in percent that a request does not wait for its token.
    pub(crate) unwaiting: u64,
    /// The probability in percent that a request is for an unlisted scope.
    pub(crate) unlisted_percent: u64,
    /// The interval of the requests for the first unlisted scope, if it is in use all the time.
    pub(crate) in_use_every: Option<u64>,
    /// The time after which there are no more requests and faults.
    pub(crate) end: u64,
}

impl Plan {
    /// A plan without requests and faults.
    pub(crate) fn quiet(workers: usize, keys: usize, end: u64) -> Self {
        Self {
            workers,
            federated: Federated::File,
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
            unlisted_percent: 0,
            in_use_every: None,
            end,
        }
    }

    /// The plan of a seed. Each kind of fault occurs with some seeds only, because the checks are stricter without it.
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
        // Most races occur at a cold start.
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
    /// Adds attacks and unlucky events: tokens that are rejected in one worker while others use them, a clock that is set back
    /// while a token is cached, throttling, and hostile responses.
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
        // The jumps must be in the order of time.
        self.jumps.sort_unstable();
    }
}

fn times(random: &mut Random, most: u64, end: u64) -> Vec<u64> {
    (0..random.between(0, most)).map(|_| random.between(0, end)).collect()
}
