//! What must hold, whatever happens: looked at after every step.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use entra_exchange_core::broker::{Issued, Limits, StreamId};
use entra_exchange_core::entra::{Grant, TokenKey};
use entra_exchange_core::problem::{Code, Problem};
use entra_exchange_core::time::Timestamp;

use crate::clock::Clock;
use crate::entra::{self, Minted};

/// A lease outlasts its call by this.
const GRACE: u64 = 1_000;
/// Timers and messages to oneself come a little late.
const TICK: u64 = 100;
/// A token that is dropped before its time makes one exchange in this time, for all workers together.
const FORCED_PERIOD: u64 = 30_000;
/// A few keys, each with a token and a list of queues: no value in the shared memory is longer.
const LONGEST_VALUE: usize = 32 * 1024;

/// A life of a VM: which worker's, and the how-many-th.
pub(crate) type Life = (usize, u32);

pub(crate) struct Judge {
    /// The first thing that did not hold.
    pub(crate) violation: Option<String>,
    /// Whether every request must have its token.
    pub(crate) nothing_is_wrong: bool,
    pub(crate) minted: Vec<Minted>,
    pub(crate) exchanges: u64,
    pub(crate) handed_out: u64,
    limits: Limits,
    waiting: BTreeMap<(Life, u32), Waiting>,
    calls: Vec<Call>,
    /// For each key the token that all workers can see.
    published: HashMap<TokenKey, Published>,
    /// From when on a configuration discards what was asked for before.
    pub(crate) discard_before: Option<Timestamp>,
    /// Until when a worker may have one in its own memory, which another has dropped.
    held_until: HashMap<TokenKey, Timestamp>,
    dropped: HashMap<TokenKey, u64>,
    failed: HashMap<TokenKey, Failed>,
}

struct Waiting {
    since: u64,
    stalled: u64,
}

struct Call {
    number: u64,
    life: Life,
    key: TokenKey,
    at: u64,
    timeout: u64,
}

#[derive(Clone, Copy)]
struct Published {
    number: usize,
    /// By the wall's clock, as the broker has it.
    asked_at: Timestamp,
    until: Timestamp,
}

struct Failed {
    at: u64,
    /// No exchange before this.
    next_try: u64,
}

impl Judge {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            violation: None,
            nothing_is_wrong: false,
            minted: Vec::new(),
            exchanges: 0,
            handed_out: 0,
            limits,
            waiting: BTreeMap::new(),
            calls: Vec::new(),
            published: HashMap::new(),
            discard_before: None,
            held_until: HashMap::new(),
            dropped: HashMap::new(),
            failed: HashMap::new(),
        }
    }

    pub(crate) fn must(&mut self, holds: bool, rule: &str, what: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(format!("{rule}: {}", what()));
        }
    }

    /// A token is handed to a request.
    pub(crate) fn hands_out(&mut self, grant: &Grant, issued: &Issued, clock: &Clock) {
        self.handed_out += 1;
        let number = entra::number_of(issued.token().expose()).unwrap_or(usize::MAX);
        let Some(minted) = self.minted.get(number) else {
            return self.must(false, "own token", || "a token that nobody issued".to_owned());
        };
        let own = (minted.tenant_id.as_str(), minted.client_id.as_str(), minted.scope.as_str())
            == (grant.tenant_id(), grant.client_id(), grant.scope());
        // It was asked for in an exchange that began a little earlier, by a clock that may have been set since.
        let set_back = clock.set_back_since(minted.at.saturating_sub(70_000));
        let end = minted.at + minted.life_ms() - minted.margin_ms() + set_back;
        let (scope, now) = (minted.scope.clone(), clock.steady());
        self.must(own, "own token", || format!("{} gets the token for {scope}", grant.scope()));
        self.must(now < end, "no expired token", || format!("token {number} is handed out {} ms late", now - end));
    }

    /// A request is answered without a token.
    pub(crate) fn refuses(&mut self, grant: &Grant, problem: &Problem, (life, waiting): (Life, usize), clock: &Clock) {
        self.look_for_secrets(&format!("{problem:?}"));
        let withheld = self.usable(grant.key(), clock).filter(|token| !self.is_discarded(token));
        self.must(withheld.is_none(), "nothing withheld", || {
            let number = withheld.map(|token| token.number);
            format!("worker {} has token {number:?} and says {}: {}", life.0, problem.code.as_str(), problem.detail)
        });
        self.must(problem.code != Code::TooManyWaiting || waiting >= self.limits.waiting, "bounded waiting", || {
            format!("worker {} refuses with {waiting} waiting", life.0)
        });
        let excused = !self.nothing_is_wrong || problem.code == Code::TooManyWaiting;
        self.must(excused, "recovery", || format!("all is well, and worker {} says {}", life.0, problem.detail));
        self.must(!problem.detail.is_empty() && !problem.remedy.is_empty(), "told", || format!("{problem:?}"));
    }

    /// The token that all can see, when it is still good.
    fn usable(&self, key: TokenKey, clock: &Clock) -> Option<Published> {
        self.published.get(&key).copied().filter(|token| clock.wall() < token.until)
    }

    /// Whether it is withheld by policy, from one moment or another on.
    fn is_discarded(&self, token: &Published) -> bool {
        self.discard_before.is_some_and(|before| token.asked_at < before)
    }

    /// A request waits.
    pub(crate) fn waits(&mut self, life: Life, stream: StreamId, since: u64, stalled: u64) {
        self.waiting.insert((life, stream.0), Waiting { since, stalled });
        let waiting = self.waiting.keys().filter(|(other, _)| *other == life).count();
        let most = self.limits.waiting;
        self.must(waiting <= most, "bounded waiting", || format!("{waiting} wait in worker {}", life.0));
    }

    /// A request that waited is answered, or leaves.
    pub(crate) fn waits_no_more(&mut self, life: Life, stream: StreamId) -> bool {
        self.waiting.remove(&(life, stream.0)).is_some()
    }

    /// A VM is gone, and all that waited in it.
    pub(crate) fn dies(&mut self, life: Life) {
        self.waiting.retain(|(other, _), _| *other != life);
        self.calls.retain(|call| call.life != life);
    }

    /// A worker begins an exchange.
    pub(crate) fn exchange_begins(&mut self, key: TokenKey, clock: &Clock) {
        self.exchanges += 1;
        if let Some(failed) = self.failed.get(&key).filter(|failed| !clock.jumped_since(failed.at)) {
            let (now, next_try) = (clock.steady(), failed.next_try);
            self.must(now >= next_try, "back-off", || format!("an exchange {} ms too early", next_try - now));
        }
    }

    /// A worker makes a call for a key.
    pub(crate) fn calls(&mut self, number: u64, life: Life, key: TokenKey, timeout: Duration, clock: &Clock) {
        let now = clock.steady();
        // Another's call may go on only when its lease is over, or when somebody has set the clock by which leases end.
        let other = self
            .calls
            .iter()
            .find(|call| call.key == key && now < call.at + call.timeout + GRACE && !clock.jumped_since(call.at))
            .map(|call| format!("worker {} calls for {key:?} while worker {} does so", life.0, call.life.0));
        self.must(other.is_none(), "one exchange", || other.unwrap_or_default());
        self.calls.push(Call { number, life, key, at: now, timeout: timeout.as_millis() as u64 });
    }

    /// A call is over. Returns whether it was made under a lease that nobody else could have taken meanwhile.
    pub(crate) fn call_ends(&mut self, number: u64, clock: &Clock) -> bool {
        let Some(place) = self.calls.iter().position(|call| call.number == number) else { return false };
        let call = self.calls.remove(place);
        clock.steady() < call.at + call.timeout + GRACE && !clock.jumped_since(call.at)
    }

    /// An exchange brought this token, which was asked for at `asked_at` by the wall's clock.
    pub(crate) fn succeeds(&mut self, key: TokenKey, number: usize, asked_at: Timestamp) {
        self.failed.remove(&key);
        let Some(minted) = self.minted.get(number) else { return };
        let until = asked_at.plus(Duration::from_millis(minted.life_ms() - minted.margin_ms()));
        self.published.insert(key, Published { number, asked_at, until });
        self.held_until.insert(key, until);
    }

    /// An exchange failed, and the next is to come after `wait`.
    pub(crate) fn fails(&mut self, key: TokenKey, wait: u64, asked_for: Option<u64>, under_lease: bool, clock: &Clock) {
        self.must(wait >= 1_000, "back-off", || format!("tries again after {wait} ms"));
        if !under_lease {
            // Whoever has the lease has the say.
            self.failed.remove(&key);
            return;
        }
        let now = clock.steady();
        match self.usable(key, clock) {
            Some(token) if self.is_discarded(&token) => {}
            Some(token) => {
                let left = token.until.since(clock.wall()).as_millis() as u64;
                let most = (left / 2).max(1_000);
                self.must(wait <= most, "back-off", || format!("tries again after {wait} of {left} ms"));
            }
            None if self.held_until.get(&key).is_some_and(|until| clock.wall() < *until) => {}
            None => {
                let least = asked_for.unwrap_or_default().min(3600) * 1000;
                self.must(wait >= least, "back-off", || format!("tries after {wait} ms and was asked for {least}"));
            }
        }
        self.failed.insert(key, Failed { at: now, next_try: now + wait });
    }

    /// A worker was told that a token was rejected, and dropped it: for all, unless there was a newer one.
    pub(crate) fn drops(&mut self, key: TokenKey, number: Option<usize>, clock: &Clock) {
        let Some(seen) = self.usable(key, clock) else { return };
        if Some(seen.number) != number {
            return;
        }
        self.published.remove(&key);
        let before = self.dropped.insert(key, clock.steady());
        if let Some(before) = before.filter(|at| !clock.jumped_since(*at)) {
            let since = clock.steady() - before;
            self.must(since >= FORCED_PERIOD, "forced", || format!("a second token is dropped {since} ms later"));
        }
    }

    /// What is written where operators read it.
    pub(crate) fn look_for_secrets(&mut self, text: &str) {
        self.must(!text.contains(entra::SECRET), "no secrets", || text.to_owned());
    }

    /// Holds at all times. `stalled` is how long a worker has done nothing, all in all, or `None` while it does nothing.
    pub(crate) fn after_step(&mut self, clock: &Clock, stalled: impl Fn(usize) -> Option<u64>, longest_value: usize) {
        let (now, wait) = (clock.steady(), self.limits.wait.as_millis() as u64);
        let late = self.waiting.iter().find_map(|((life, stream), waiting)| {
            // Nobody can tell how late it is while the clock is being set back; but it is told anew each time.
            let patience = wait * (1 + clock.times_set_back_since(waiting.since));
            let due = waiting.since + patience + TICK + (stalled(life.0)? - waiting.stalled);
            (now > due).then(|| format!("stream {stream} of worker {} waits for {} ms", life.0, now - waiting.since))
        });
        self.must(late.is_none(), "answered in time", || late.unwrap_or_default());
        self.must(longest_value <= LONGEST_VALUE, "memory", || format!("a value of {longest_value} bytes"));
        // What is over by the wall's clock is over for good, also when the clock is set back.
        let wall = clock.wall();
        self.published.retain(|_, token| wall < token.until);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
