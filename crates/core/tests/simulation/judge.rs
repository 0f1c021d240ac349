//! What must hold, whatever happens: looked at after every step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use entra_exchange_core::broker::{Issued, Limits, StreamId};
use entra_exchange_core::entra::TokenKey;
use entra_exchange_core::problem::{Code, Problem};
use entra_exchange_core::time::Timestamp;

use crate::HOUR;
use crate::clock::Clock;
use crate::entra::{self, Minted};
use crate::grants;
use crate::plan::Plan;
use crate::vm::Asked;

/// A lease outlasts its call by this.
const GRACE: u64 = 1_000;
/// Timers and messages to oneself come a little late.
const TICK: u64 = 100;
/// Rejections force one exchange in this time, for all workers together.
const FORCED_PERIOD: u64 = 30_000;
/// All workers have the token that replaces a rejected one after this time at the latest.
const REPLACED_WITHIN: u64 = 1_000;
/// A few keys, each with a token and a list of queues: no value in the shared memory is longer.
const LONGEST_VALUE: usize = 32 * 1024;

/// A life of a VM: which worker's, and the how-many-th.
pub(crate) type Life = (usize, u32);

/// The token that a caller rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejects {
    Nothing,
    Token(usize),
    /// The cached one.
    Any,
}

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
    /// Until when a worker may have one in its own memory.
    held_until: HashMap<TokenKey, Timestamp>,
    /// When a token was last marked as rejected.
    marked: HashMap<TokenKey, u64>,
    /// The rejected tokens, and when each was replaced.
    rejected: HashMap<usize, Rejected>,
    /// How long a message to another worker takes; `None` when messages are lost.
    delay: Option<u64>,
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

struct Rejected {
    key: TokenKey,
    replaced_at: Option<u64>,
}

#[derive(Clone, Copy)]
struct Published {
    number: usize,
    at: u64,
    /// By the wall's clock, as the broker has it.
    asked_at: Timestamp,
    /// Until when it is usable for certain, and until when it may be: a late answer of a worker that had lost its lease takes
    /// the place of another token, or does not.
    until: Timestamp,
    until_perhaps: Timestamp,
    /// Whether it is this one for certain.
    is_certain: bool,
}

impl Published {
    fn is_usable(&self, clock: &Clock) -> bool {
        clock.wall() < self.until && self.asked_at <= clock.wall().plus(Duration::from_millis(GRACE))
    }
}

struct Failed {
    at: u64,
    /// No exchange before this.
    next_try: u64,
}

impl Judge {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            violation: None,
            nothing_is_wrong: false,
            minted: Vec::new(),
            exchanges: 0,
            handed_out: 0,
            limits: plan.limits,
            waiting: BTreeMap::new(),
            calls: Vec::new(),
            published: HashMap::new(),
            discard_before: None,
            held_until: HashMap::new(),
            marked: HashMap::new(),
            rejected: HashMap::new(),
            delay: (plan.lost == 0).then_some(plan.delay),
            failed: HashMap::new(),
        }
    }

    pub(crate) fn must(&mut self, holds: bool, rule: &str, what: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(format!("{rule}: {}", what()));
        }
    }

    /// A token is handed to a request.
    pub(crate) fn hands_out(&mut self, asked: &Asked, issued: &Issued, stalled_until: u64, clock: &Clock) {
        self.handed_out += 1;
        let grant = &asked.grant;
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
        let issued_at = issued.issued_at();
        let past = issued_at <= clock.wall().plus(Duration::from_millis(GRACE));
        self.must(past, "no expired token", || format!("token {number} is from the future, {issued_at}"));
        self.must(asked.rejects != Rejects::Token(number), "rejected", || {
            format!("a caller that rejects token {number} gets it")
        });
        // When the newer one is over, a rejected one is better than none.
        let newer = self.usable(grant.key(), clock).filter(|newer| newer.number != number);
        let rejected = self.rejected.get(&number).and_then(|rejected| rejected.replaced_at);
        let replaced_at = newer.and_then(|newer| Some(newer.at.max(rejected?)));
        if let (Some(replaced_at), Some(delay)) = (replaced_at, self.delay) {
            let last = replaced_at.max(stalled_until) + REPLACED_WITHIN.max(delay + TICK);
            self.must(now <= last, "rejected", || format!("token {number} is handed out {} ms late", now - last));
        }
    }

    /// A request is answered without a token.
    pub(crate) fn refuses(&mut self, asked: &Asked, problem: &Problem, (life, waiting): (Life, usize), clock: &Clock) {
        self.look_for_secrets(&format!("{problem:?}"));
        let usable = self.usable(asked.grant.key(), clock);
        let withheld = usable.filter(|token| match asked.rejects {
            Rejects::Nothing => true,
            Rejects::Token(number) => number != token.number && token.is_certain,
            Rejects::Any => false,
        });
        self.must(withheld.is_none(), "nothing withheld", || {
            let number = withheld.map(|token| token.number);
            format!("worker {} has token {number:?} and says {}: {}", life.0, problem.code.as_str(), problem.detail)
        });
        let most = self.limits.waiting;
        let most = if grants::is_invented(asked.grant.key()) { most.div_ceil(2) } else { most };
        self.must(problem.code != Code::TooManyWaiting || waiting >= most, "bounded waiting", || {
            format!("worker {} refuses with {waiting} waiting", life.0)
        });
        let too_many = problem.code == Code::TooManyScopes;
        self.must(!too_many || grants::is_invented(asked.grant.key()), "budget", || {
            format!("{} is listed, and worker {} says {}", asked.grant.scope(), life.0, problem.detail)
        });
        let too_soon = problem.code == Code::TokenReplacedRecently;
        let excused = !self.nothing_is_wrong || too_soon || problem.code == Code::TooManyWaiting;
        self.must(!too_soon || asked.rejects != Rejects::Nothing, "rejected", || {
            "a caller rejected nothing".to_owned()
        });
        self.must(excused, "recovery", || format!("all is well, and worker {} says {}", life.0, problem.detail));
        self.must(!problem.detail.is_empty() && !problem.remedy.is_empty(), "told", || format!("{problem:?}"));
    }

    /// The token that all can see, when it is still good.
    fn usable(&self, key: TokenKey, clock: &Clock) -> Option<Published> {
        self.published.get(&key).copied().filter(|token| token.is_usable(clock))
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
        self.must_be_in_parallel(key, clock);
        self.calls.push(Call { number, life, key, at: now, timeout: timeout.as_millis() as u64 });
    }

    /// Of the scopes that callers made up so many are exchanged at a time.
    fn must_be_in_parallel(&mut self, key: TokenKey, clock: &Clock) {
        // Nobody makes scopes up any more.
        if self.nothing_is_wrong {
            return;
        }
        let now = clock.steady();
        let goes_on = |call: &&Call| now < call.at + call.timeout && !clock.jumped_since(call.at.saturating_sub(HOUR));
        let keys = self.calls.iter().filter(goes_on).map(|call| call.key).chain([key]);
        let exchanged: HashSet<TokenKey> = keys.filter(|key| grants::is_invented(*key)).collect();
        let (count, most) = (exchanged.len(), self.limits.unlisted.parallel_exchanges);
        self.must(count <= most, "budget", || {
            format!("{count} unlisted scopes are exchanged at a time, at most {most}")
        });
    }

    /// A call is over. Returns whether it was made under a lease that nobody else could have taken meanwhile.
    pub(crate) fn call_ends(&mut self, number: u64, clock: &Clock) -> bool {
        let Some(place) = self.calls.iter().position(|call| call.number == number) else { return false };
        let call = self.calls.remove(place);
        clock.steady() < call.at + call.timeout + GRACE && !clock.jumped_since(call.at)
    }

    /// An exchange brought this token, which was asked for at `asked_at` by the wall's clock.
    pub(crate) fn succeeds(
        &mut self,
        key: TokenKey,
        number: usize,
        asked_at: Timestamp,
        under_lease: bool,
        clock: &Clock,
    ) {
        self.failed.remove(&key);
        if grants::is_invented(key) {
            // It may be dropped for another at any time.
            return;
        }
        let Some(minted) = self.minted.get(number) else { return };
        let until = asked_at.plus(Duration::from_millis(minted.life_ms() - minted.margin_ms()));
        let mut published =
            Published { number, at: clock.steady(), asked_at, until, until_perhaps: until, is_certain: under_lease };
        if let Some(other) = self.usable(key, clock).filter(|_| !under_lease) {
            published.asked_at = asked_at.max(other.asked_at);
            published.until = until.min(other.until);
            published.until_perhaps = until.max(other.until_perhaps);
        } else {
            for rejected in self.rejected.values_mut().filter(|rejected| rejected.key == key) {
                rejected.replaced_at.get_or_insert(clock.steady());
            }
        }
        self.published.insert(key, published);
        let held_until = self.held_until.entry(key).or_default();
        *held_until = until.max(*held_until);
    }

    /// An exchange failed, and the next is to come after `wait`.
    pub(crate) fn fails(&mut self, key: TokenKey, wait: u64, asked_for: Option<u64>, under_lease: bool, clock: &Clock) {
        self.must(wait >= 1_000, "back-off", || format!("tries again after {wait} ms"));
        if !under_lease || grants::is_invented(key) {
            // Whoever has the lease has the say.
            self.failed.remove(&key);
            return;
        }
        let now = clock.steady();
        match self.usable(key, clock) {
            Some(token) => {
                let left = token.until_perhaps.since(clock.wall()).as_millis() as u64;
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

    /// A worker marks a token as rejected: `number` is the one that its callers got last.
    pub(crate) fn marks(&mut self, key: TokenKey, number: Option<usize>, clock: &Clock) {
        let before = self.marked.insert(key, clock.steady());
        if let Some(before) = before.filter(|at| !clock.jumped_since(*at)) {
            let since = clock.steady() - before;
            self.must(since >= FORCED_PERIOD, "forced", || format!("a second token is rejected {since} ms later"));
        }
        // Whoever got no token here may have rejected a newer one.
        if let Some(number) =
            number.filter(|number| self.usable(key, clock).is_some_and(|token| token.number == *number))
        {
            self.rejected.insert(number, Rejected { key, replaced_at: None });
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
        // What is over by the wall's clock, or from the future, is over for good, also when the clock is set once more.
        self.published.retain(|_, token| token.is_usable(clock));
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
