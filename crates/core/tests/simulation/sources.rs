//! A source over HTTP that all workers share. All other faults occur too, and it is asked once for all workers: while one call is in
//! progress or about to be repeated, its answer is used again, or it backs off, no other worker asks it. A token that Entra rejects is not
//! used again.

use std::collections::{HashMap, HashSet};

use entra_exchange_core::broker::RequiredLifetime;

use crate::entra::Answered;
use crate::judge::Life;
use crate::plan::Plan;
use crate::random::Random;
use crate::specs::Federated;
use crate::world::{SimulatedEvent, World};

/// The time for which a token of the source is used again, in milliseconds ([`crate::specs`]).
const REUSE: u64 = 60_000;
/// The time for which the source is not asked after its last attempt failed.
const REST: u64 = 2_000;
/// The time for which no other worker asks the source after the first attempt of one failed: half of the pause, and the time by which the
/// lease outlasts it.
const PAUSE: u64 = 1_100;

impl Plan {
    /// The plan of a seed, with a source that the workers share.
    fn with_service(random: &mut Random) -> Self {
        let mut plan = Self::of(random);
        plan.federated = Federated::Service;
        plan.add_attacks(random);
        // A worker that waits for another one's call needs its message before the requests' limit.
        plan.delay = plan.delay.min(200);
        // Tokens that live for a moment need the source often.
        if random.chance(50) {
            plan.weather.push((0, crate::entra::Weather::Granting(20, None)));
        }
        plan
    }
}

/// What is known of the source. Times are in milliseconds of the steady clock.
#[derive(Default)]
pub(crate) struct Service {
    /// Whether VMs ask it that have got no request, such as that of the main thread. They do not share what may be their own fault.
    is_kept_warm: bool,
    /// The number of calls.
    pub(crate) calls: u64,
    /// The worker whose first attempt failed; it makes another one.
    retries: Option<Life>,
    /// The worker that makes its second attempt. A stalled worker gives it up before its answer is processed.
    retrying: Option<Life>,
    /// The workers whose lease may have ended before their call failed. Until one does not fail, each may be the last one.
    uncertain: HashSet<Life>,
    /// The call whose answer is shared.
    answered_at: u64,
    /// The time until which nobody asks.
    until: u64,
    /// The token that was issued last.
    issued: Option<String>,
    /// The tokens that Entra rejected, with the times at which they were issued and rejected.
    refused: HashMap<String, (u64, u64)>,
}

impl Service {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { is_kept_warm: plan.warm, ..Self::default() }
    }

    /// A worker asks the source. `jumped_since` states whether the clock was set since a time. Returns the violation.
    pub(crate) fn is_asked(&mut self, life: Life, now: u64, jumped_since: impl Fn(u64) -> bool) -> Option<String> {
        self.calls += 1;
        let is_early = now < self.until && self.retries != Some(life) && !jumped_since(self.answered_at);
        self.retrying = self.retries.take().filter(|retries| *retries == life);
        is_early.then(|| format!("worker {} asks the source {} ms too early", life.0, self.until - now))
    }

    /// The worker that asked under its lease at `asked_at` gets the answer.
    pub(crate) fn answers(&mut self, life: Life, answered: &Answered, asked_at: u64, now: u64) {
        let is_second = self.retrying.take() == Some(life);
        let may_retry = may_retry(answered);
        self.retries = None;
        if !may_retry {
            self.uncertain.remove(&life);
        }
        let (until, issued) = match answered.is_good {
            true => (asked_at + REUSE, token_in(answered)),
            false if self.uncertain.contains(&life) => (0, None),
            false if may_retry => {
                self.retries = (!is_second).then_some(life);
                let is_over = now + if is_second { rest(answered) } else { PAUSE };
                // The attempt that is the first one here may be the last, which such a VM does not share.
                (if self.is_kept_warm { 0 } else { is_over }, None)
            }
            false => (now + rest(answered), None),
        };
        (self.answered_at, self.until, self.issued) = (now, until, issued);
    }

    /// A worker gets an answer after its lease may have ended.
    pub(crate) fn answers_late(&mut self, life: Life, answered: &Answered) {
        if may_retry(answered) {
            self.uncertain.insert(life);
        } else {
            self.uncertain.remove(&life);
        }
    }

    /// Entra rejects an exchange with this token. `is_certain` states whether the worker that made the exchange drops it.
    pub(crate) fn is_refused(&mut self, token: &str, is_certain: bool, now: u64) {
        if self.issued.as_deref() == Some(token) {
            (self.until, self.issued) = (0, None);
            self.refused.extend(is_certain.then(|| (token.to_owned(), (self.answered_at, now))));
        }
    }

    /// A worker begins an exchange with this token. Other workers may do so while one drops it, and one that was issued before the clock
    /// was set back seems to be newer than its rejection. Returns the violation.
    pub(crate) fn is_used(&self, token: &str, now: u64, jumped_since: impl Fn(u64) -> bool) -> Option<String> {
        let (issued, rejected) = *self.refused.get(token)?;
        let is_late = now > rejected && !jumped_since(issued);
        is_late.then(|| format!("a token is used {} ms after Entra rejected it", now - rejected))
    }
}

/// Whether another attempt follows unless it was the last one.
fn may_retry(answered: &Answered) -> bool {
    answered.answer.as_ref().is_ok_and(|response| response.status >= 500)
}

/// The time for which the source is not asked after this answer of the last attempt.
fn rest(answered: &Answered) -> u64 {
    REST.max(answered.retry_after.unwrap_or_default().min(300) * 1000)
}

/// The federated token in an answer of the source.
fn token_in(answered: &Answered) -> Option<String> {
    let body = &answered.answer.as_ref().ok()?.body;
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    json["token"].as_str().map(str::to_owned)
}

/// Seeds that once violated a rule.
const FAILED_SEEDS: [u64; 9] = [1_979, 75_262, 78_458, 79_050, 127_661, 149_241, 179_871, 229_311, 277_567];

#[test]
fn every_invariant_holds_for_a_source_that_the_workers_share() {
    let exchanges = crate::run_share(5, FAILED_SEEDS, Plan::with_service);
    assert!(exchanges > 0);
}

#[test]
fn at_a_cold_start_six_workers_ask_a_source_once_for_five_tokens() {
    for seed in 0..20 {
        let mut plan = Plan::quiet(6, 5, 1_000);
        plan.federated = Federated::Service;
        plan.bursts = vec![(0, 100)];
        let world = World::new(plan, Random::new(seed), None);
        world.run_until(world.plan.end);
        let judge = world.judge.borrow();
        assert_eq!((judge.violation.clone(), judge.waiting()), (None, 0), "seed {seed}");
        assert_eq!((judge.service.calls, judge.exchanges), (1, 5), "seed {seed}");
    }
}

#[test]
fn a_worker_that_waits_for_the_call_of_another_one_is_woken_when_it_ends() {
    for seed in 0..20 {
        let mut plan = Plan::quiet(2, 2, 1_000);
        plan.federated = Federated::Service;
        let world = World::new(plan, Random::new(seed), None);
        // Each asks for a token that the other one does not need, so only the call to the source connects them.
        for (vm, index) in [(1, 0), (2, 1)] {
            world.put(0, vm, SimulatedEvent::RequestAccess { index, need: RequiredLifetime::Any });
        }
        world.run_until(world.plan.end);
        let judge = world.judge.borrow();
        assert_eq!((judge.violation.clone(), judge.waiting()), (None, 0), "seed {seed}");
        assert_eq!((judge.service.calls, judge.exchanges), (1, 2), "seed {seed}");
    }
}
