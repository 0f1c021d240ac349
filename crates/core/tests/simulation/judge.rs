//! The invariants, which are checked after every event.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use entra_exchange_core::broker::{CachedToken, Limits, StreamId};
use entra_exchange_core::entra::TokenKey;
use entra_exchange_core::problem::{Code, Problem};
use entra_exchange_core::time::Timestamp;

use crate::HOUR;
use crate::budget::Kept;
use crate::clock::Clock;
use crate::entra::{self, Answered, Minted};
use crate::plan::Plan;
use crate::sources::Service;
use crate::specs;
use crate::vm::{After, RequestedToken};

/// The time by which a lease outlasts its call. All times are in milliseconds.
const GRACE: u64 = 1_000;
/// The tolerance for timers and for a worker's messages to itself.
const TICK: u64 = 100;
/// The period in which rejections force at most one exchange, in all workers together.
const FORCED_PERIOD: u64 = 30_000;
/// The time after which all workers have the token that replaces a rejected one.
const REPLACED_WITHIN: u64 = 1_000;
/// A worker shares within this time that an unlisted scope is in use, and a little later at most.
const SHARED_WITHIN: Duration = Duration::from_secs(31);
/// The maximum length of a value in shared data: a few keys, each with a token and a list of queues.
const LONGEST_VALUE: usize = 32 * 1024;

/// The least time between two readings of the federated token, for each token whose exchange backs off.
const READING_PERIOD: u64 = 1_000;
/// The time after which a worker reads the federated token for its gauges.
const REREAD_PERIOD: u64 = 60_000;

/// The life of one VM: the index of its worker, and its generation.
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
    /// The first invariant that was violated.
    pub(crate) violation: Option<String>,
    /// Whether there are no more faults, so that every request must get its token.
    pub(crate) nothing_is_wrong: bool,
    pub(crate) minted: Vec<Minted>,
    pub(crate) exchanges: u64,
    pub(crate) handed_out: u64,
    limits: Limits,
    waiting: BTreeMap<(Life, u32), Waiting>,
    calls: Vec<ObservedCall>,
    /// The number of tokens that were put into shared data so far.
    pub(crate) publications: u64,
    /// For each key, the token in shared data.
    published: HashMap<TokenKey, Published>,
    /// The unlisted scopes that are kept.
    kept: HashSet<TokenKey>,
    /// For each key, the time at which its scope was last evicted.
    evicted_at: HashMap<TokenKey, u64>,
    /// For each key, the time at which a request was last answered with the cached token at once.
    used_at: HashMap<TokenKey, Timestamp>,
    /// The configuration's `discard_tokens_before`.
    pub(crate) discard_before: Option<Timestamp>,
    /// For each key, the time until which a worker may have a token in its own memory.
    held_until: HashMap<TokenKey, Timestamp>,
    /// For each key, the time at which a token was last marked as rejected.
    marked: HashMap<TokenKey, u64>,
    /// The rejected tokens, with the time at which each was replaced.
    rejected: HashMap<usize, Rejected>,
    /// The delay of messages to other workers; `None` if messages can be lost.
    delay: Option<u64>,
    failed: HashMap<TokenKey, Failed>,
    /// The listed tokens that are requested, or none if callers also request unlisted ones.
    keys: Vec<TokenKey>,
    /// The last read of the federated token in each worker.
    reads: HashMap<usize, FileRead>,
    /// The reads while the exchanges of all tokens backed off, each with the number of rejected tokens at the time.
    comparisons: Vec<(u64, usize)>,
    /// The federated token that Entra was last asked with for a key.
    asked_with: HashMap<TokenKey, String>,
    /// The source that all workers share.
    pub(crate) service: Service,
}

struct Waiting {
    since: u64,
    stalled: u64,
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A read of the federated token's file.
    File,
    /// A federated token of the service.
    Service,
    Token(TokenKey),
}

pub(crate) struct ObservedCall {
    id: u32,
    life: Life,
    target: Target,
    at: u64,
    timeout: u64,
}

impl ObservedCall {
    /// The key of the token that is requested.
    fn key(&self) -> Option<TokenKey> {
        if let Target::Token(key) = self.target { Some(key) } else { None }
    }
}

struct FileRead {
    /// The time of the last read that gave a token. The next one for the gauges comes later.
    counted_at: u64,
    /// What `counted_at` was before this read, and is until its answer is processed.
    counted_before: Option<u64>,
    /// Whether the next read is the second attempt, because the file held no JWT.
    is_repeated: bool,
}

struct Rejected {
    key: TokenKey,
    replaced_at: Option<u64>,
}

#[derive(Clone, Copy)]
struct Published {
    number: usize,
    /// Its place in the order of all tokens that were put into shared data.
    publication: u64,
    at: u64,
    /// By the wall clock, which the broker uses.
    asked_at: Timestamp,
    /// The time until which a usable token is certain, and the time until which one is possible. They differ if a worker
    /// that had lost its lease got a late response: its token may have replaced another one, or not.
    until: Timestamp,
    until_perhaps: Timestamp,
    /// Whether the published token is certainly this one.
    is_certain: bool,
    /// Whether its scope was evicted since.
    is_evicted: bool,
}

impl Published {
    fn is_usable(&self, clock: &Clock) -> bool {
        clock.wall() < self.until && self.asked_at <= clock.wall().plus(Duration::from_millis(GRACE))
    }

    fn is_perhaps_usable(&self, clock: &Clock) -> bool {
        clock.wall() < self.until_perhaps && self.asked_at <= clock.wall().plus(Duration::from_millis(GRACE))
    }
}

/// What the log says of an exchange that failed.
pub(crate) struct LoggedFailure {
    /// The next try comes after this time.
    pub(crate) wait: u64,
    /// Whether Entra refused.
    pub(crate) is_refusal: bool,
}

#[derive(Clone)]
struct Failed {
    at: u64,
    /// The federated token that Entra refused.
    assertion: Option<String>,
    /// The earliest time of the next exchange.
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
            publications: 0,
            published: HashMap::new(),
            kept: HashSet::new(),
            evicted_at: HashMap::new(),
            used_at: HashMap::new(),
            discard_before: None,
            held_until: HashMap::new(),
            marked: HashMap::new(),
            rejected: HashMap::new(),
            delay: (plan.lost == 0).then_some(plan.delay),
            failed: HashMap::new(),
            keys: specs::all(None, plan.federated)
                .iter()
                .take(if plan.unlisted_percent > 0 { 0 } else { plan.keys })
                .map(|spec| spec.key())
                .collect(),
            reads: HashMap::new(),
            comparisons: Vec::new(),
            asked_with: HashMap::new(),
            service: Service::new(plan),
        }
    }

    pub(crate) fn must(&mut self, holds: bool, rule: &str, what: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(format!("{rule}: {}", what()));
        }
    }

    /// Checks a token that is handed out to a request.
    pub(crate) fn hand_out(
        &mut self,
        requested: &RequestedToken,
        issued: &CachedToken,
        stalled_until: u64,
        clock: &Clock,
    ) {
        self.handed_out += 1;
        let spec = &requested.spec;
        let number = entra::number_of(issued.token().expose()).unwrap_or(usize::MAX);
        let Some(minted) = self.minted.get(number) else {
            return self.must(false, "own token", || "a token that was never issued".to_owned());
        };
        let own = (minted.tenant_id.as_str(), minted.client_id.as_str(), minted.scope.as_str())
            == (spec.tenant_id(), spec.client_id(), spec.scope());
        // Its exchange began a little earlier, and the clock may have been set since.
        let set_back = clock.set_back_since(minted.at.saturating_sub(70_000));
        let end = minted.at + minted.life_ms() - minted.margin_ms() + set_back;
        let (scope, now) = (minted.scope.clone(), clock.steady());
        self.must(own, "own token", || format!("{} gets the token for {scope}", spec.scope()));
        self.must(now < end, "no expired token", || format!("token {number} is handed out {} ms late", now - end));
        let issued_at = issued.issued_at();
        let past = issued_at <= clock.wall().plus(Duration::from_millis(GRACE));
        self.must(past, "no expired token", || format!("token {number} is from the future, {issued_at}"));
        self.must(requested.rejects != Rejects::Token(number), "rejected", || {
            format!("a caller that rejects token {number} gets it")
        });
        // Once the newer token has expired, a rejected one may be used again.
        let newer = self.usable(spec.key(), clock).filter(|newer| newer.number != number);
        let rejected = self.rejected.get(&number).and_then(|rejected| rejected.replaced_at);
        let replaced_at = newer.and_then(|newer| Some(newer.at.max(rejected?)));
        if let (Some(replaced_at), Some(delay)) = (replaced_at, self.delay) {
            let last = replaced_at.max(stalled_until) + REPLACED_WITHIN.max(delay + TICK);
            self.must(now <= last, "rejected", || format!("token {number} is handed out {} ms late", now - last));
        }
    }

    /// Checks the problem with which a request is answered. The worker could not know the tokens of the `unseen` publications:
    /// other workers made them while it decided.
    pub(crate) fn refuses(
        &mut self,
        requested: &RequestedToken,
        problem: &Problem,
        (life, waiting): (Life, usize),
        unseen: &Range<u64>,
        clock: &Clock,
    ) {
        self.must_hide_secrets(&format!("{problem:?}"));
        let usable = self.usable(requested.spec.key(), clock).filter(|token| !unseen.contains(&token.publication));
        let withheld = usable.filter(|token| match requested.rejects {
            Rejects::Nothing => true,
            Rejects::Token(number) => number != token.number && token.is_certain,
            Rejects::Any => false,
        });
        self.must(withheld.is_none(), "nothing withheld", || {
            let number = withheld.map(|token| token.number);
            format!("worker {} has token {number:?} and returns {}: {}", life.0, problem.code.as_str(), problem.detail)
        });
        let most = self.limits.waiting;
        let most = if specs::is_unlisted(requested.spec.key()) { most.div_ceil(4) } else { most };
        self.must(problem.code != Code::TooManyWaiting || waiting >= most, "bounded waiting", || {
            format!("worker {} rejects a request with {waiting} waiting", life.0)
        });
        let too_many = problem.code == Code::TooManyScopes;
        self.must(!too_many || specs::is_unlisted(requested.spec.key()), "budget", || {
            format!("{} is listed, and worker {} returns {}", requested.spec.scope(), life.0, problem.detail)
        });
        let too_soon = problem.code == Code::TokenReplacedRecently;
        let excused = !self.nothing_is_wrong || too_soon || problem.code == Code::TooManyWaiting;
        self.must(!too_soon || requested.rejects != Rejects::Nothing, "rejected", || {
            "a caller rejected nothing".to_owned()
        });
        self.must(excused, "recovery", || {
            format!("there is no fault, and worker {} returns {}", life.0, problem.detail)
        });
        self.must(!problem.detail.is_empty() && !problem.remedy.is_empty(), "readable", || format!("{problem:?}"));
    }

    /// The token in shared data, if it is usable.
    fn usable(&self, key: TokenKey, clock: &Clock) -> Option<Published> {
        self.published.get(&key).copied().filter(|token| token.is_usable(clock) && !token.is_evicted)
    }

    /// Whether an unlisted scope is not kept, or is being evicted: a worker changes the budget first and then the scope's entry, and another
    /// one may have admitted the scope in between.
    fn is_evicted(&self, key: TokenKey, clock: &Clock) -> bool {
        let is_being_evicted = self.evicted_at.get(&key) == Some(&clock.steady());
        specs::is_unlisted(key) && (is_being_evicted || !self.kept.contains(&key))
    }

    /// Records that a request is answered at once with the cached token.
    pub(crate) fn uses(&mut self, key: TokenKey, clock: &Clock) {
        self.used_at.insert(key, clock.wall());
    }

    /// Records which unlisted scopes are kept. Of an evicted one, the store contains neither the token nor the failure any more.
    pub(crate) fn sees_budget(&mut self, kept: &[Kept], clock: &Clock) {
        let before = std::mem::replace(&mut self.kept, kept.iter().map(|scope| scope.key).collect());
        for key in before.difference(&self.kept.clone()) {
            self.must_be_least_recently_used(*key, kept, clock);
            self.failed.remove(key);
            self.evicted_at.insert(*key, clock.steady());
            if let Some(token) = self.published.get_mut(key) {
                token.is_evicted = true;
            }
        }
    }

    /// Checks that a scope with a usable token is not evicted while one is kept that was certainly not used for longer.
    fn must_be_least_recently_used(&mut self, key: TokenKey, kept: &[Kept], clock: &Clock) {
        let used_at = self.used_at.get(&key).filter(|_| self.usable(key, clock).is_some() && !clock.jumped_since(0));
        let Some(used_at) = used_at.copied() else { return };
        let is_older = |other: &Kept| !other.is_exchanging && other.used_at.plus(SHARED_WITHIN) < used_at;
        self.must(!kept.iter().any(is_older), "kept", || {
            format!("a scope that was used {:?} ago is evicted before an older one", clock.wall().since(used_at))
        });
    }

    /// Records that a request waits.
    pub(crate) fn waits(&mut self, life: Life, stream: StreamId, since: u64, stalled: u64) {
        self.waiting.insert((life, stream.0), Waiting { since, stalled });
        let waiting = self.waiting.keys().filter(|(other, _)| *other == life).count();
        let most = self.limits.waiting;
        self.must(waiting <= most, "bounded waiting", || format!("{waiting} wait in worker {}", life.0));
    }

    /// Records that a request no longer waits. Returns whether it did.
    pub(crate) fn stops_waiting(&mut self, life: Life, stream: StreamId) -> bool {
        self.waiting.remove(&(life, stream.0)).is_some()
    }

    /// Records that a VM is gone, with all requests that waited in it.
    pub(crate) fn dies(&mut self, life: Life) {
        self.waiting.retain(|(other, _), _| *other != life);
        self.calls.retain(|call| call.life != life);
        self.reads.remove(&life.0);
    }

    /// Records that a worker reads the federated token. While all exchanges back off, it is read to compare it with a rejected one, or for
    /// the gauges.
    pub(crate) fn reads(&mut self, vm: usize, answered: &Answered, clock: &Clock) {
        let now = clock.steady();
        let last = self.reads.get(&vm);
        let is_second = last.is_some_and(|read| read.is_repeated);
        // A stalled worker gives up a read before its answer is processed.
        let is_given_up = self.calls.iter().any(|call| call.life.0 == vm && call.target == Target::File);
        let counted_before =
            last.and_then(|read| if is_given_up { read.counted_before } else { Some(read.counted_at) });
        let is_for_gauges = counted_before.is_some_and(|at| now - at >= REREAD_PERIOD)
            || clock.jumped_since(now.saturating_sub(REREAD_PERIOD));
        let counted_at = counted_before.filter(|_| !answered.is_good).unwrap_or(now);
        let is_repeated = answered.is_malformed() && !is_second;
        self.reads.insert(vm, FileRead { counted_at, counted_before, is_repeated });
        let failed: Vec<Failed> = self.keys.iter().filter_map(|key| self.backs_off(*key, clock)).collect();
        if is_second || is_for_gauges || self.keys.is_empty() || failed.len() < self.keys.len() {
            return;
        }
        let refused = failed.iter().filter(|failed| failed.assertion.is_some()).count();
        let early = failed.iter().map(|failed| failed.next_try - now).min().unwrap_or_default();
        self.must(refused > 0, "back-off", || format!("the file is read {early} ms too early"));
        self.comparisons.retain(|(at, _)| now - at < READING_PERIOD);
        // A token that was rejected a moment ago may have got another failure since.
        let tokens = self.comparisons.iter().map(|(_, refused)| *refused).fold(refused, usize::max);
        let recent = self.comparisons.len();
        self.must(recent < tokens, "back-off", || {
            format!("the file is read {} times in a second, for {tokens} tokens", recent + 1)
        });
        self.comparisons.push((now, refused));
    }

    /// A worker asks Entra for a token, with this federated token; `is_first` when it is the first of its clusters.
    pub(crate) fn asks_entra(&mut self, key: TokenKey, assertion: &str, is_first: bool, clock: &Clock) {
        self.exchanges += u64::from(is_first);
        // A call through the next cluster repeats the first one.
        let used = self.service.is_used(assertion, clock.steady(), |since| clock.jumped_since(since));
        self.must(!is_first || used.is_none(), "rejected assertion", || used.unwrap_or_default());
        if let Some(failed) = self.backs_off(key, clock) {
            let early = failed.next_try - clock.steady();
            let is_another = failed.assertion.as_deref().is_some_and(|refused| refused != assertion);
            self.must(is_another, "back-off", || format!("an exchange {early} ms too early"));
            self.failed.remove(&key);
        }
        self.asked_with.insert(key, assertion.to_owned());
    }

    /// The failure after which no exchange may be made yet.
    fn backs_off(&self, key: TokenKey, clock: &Clock) -> Option<Failed> {
        let failed = self.failed.get(&key).filter(|failed| !clock.jumped_since(failed.at));
        failed.filter(|failed| clock.steady() < failed.next_try).cloned()
    }

    /// Checks that a worker may ask the service for a federated token.
    pub(crate) fn asks_service(&mut self, life: Life, clock: &Clock) {
        let early = self.service.is_asked(life, clock.steady(), |since| clock.jumped_since(since));
        self.must(early.is_none(), "one call", || early.unwrap_or_default());
    }

    /// Records an answer that decides when the service is asked again: its own, or the rejection of its token by Entra.
    pub(crate) fn is_answered(&mut self, call: &ObservedCall, answered: &Answered, under_lease: bool, clock: &Clock) {
        let is_refusal = answered.answer.as_ref().is_ok_and(|response| matches!(response.status, 400 | 401));
        match call.target {
            Target::Service if under_lease => {
                self.service.answers(call.life, answered, call.at, clock.steady());
            }
            Target::Service => self.service.answers_late(call.life, answered),
            Target::Token(key) if is_refusal => {
                // A worker that may have lost its lease ignores the answer.
                let is_certain = under_lease && answered.refuses_credential();
                let token = self.asked_with.get(&key);
                token.into_iter().for_each(|token| self.service.is_refused(token, is_certain, clock.steady()));
            }
            _ => {}
        }
    }

    /// Checks that a worker may make a call.
    pub(crate) fn calls(&mut self, id: u32, life: Life, target: Target, timeout: Duration, clock: &Clock) {
        let now = clock.steady();
        // Another worker's call can overlap only if its lease has expired, or if the clock that ends leases was set. Each worker reads
        // the file itself.
        let is_same = |call: &&ObservedCall| call.target == target && (target != Target::File || call.life == life);
        let other = self
            .calls
            .iter()
            .filter(is_same)
            .find(|call| now < call.at + call.timeout + GRACE && !clock.jumped_since(call.at))
            .map(|call| format!("worker {} calls for {target:?} while worker {} does so", life.0, call.life.0));
        self.must(other.is_none(), "one exchange", || other.unwrap_or_default());
        if let Target::Token(key) = target {
            self.must_be_in_parallel(key, clock);
        }
        self.calls.push(ObservedCall { id, life, target, at: now, timeout: timeout.as_millis() as u64 });
    }

    /// Checks the number of unlisted scopes that are exchanged at a time.
    fn must_be_in_parallel(&mut self, key: TokenKey, clock: &Clock) {
        // There are no more requests for unlisted scopes.
        if self.nothing_is_wrong {
            return;
        }
        let now = clock.steady();
        let is_running =
            |call: &&ObservedCall| now < call.at + call.timeout && !clock.jumped_since(call.at.saturating_sub(HOUR));
        let keys = self.calls.iter().filter(is_running).filter_map(|call| call.key()).chain([key]);
        let exchanged: HashSet<TokenKey> = keys.filter(|key| specs::is_unlisted(*key)).collect();
        let (count, most) = (exchanged.len(), self.limits.unlisted.parallel_exchanges);
        self.must(count <= most, "budget", || {
            format!("{count} unlisted scopes are exchanged at a time, at most {most}")
        });
    }

    /// Records that a call has ended. Returns whether no other worker could have taken its lease in the meantime, and the call.
    pub(crate) fn call_ends(&mut self, id: u32, clock: &Clock) -> (bool, Option<ObservedCall>) {
        let Some(index) = self.calls.iter().position(|call| call.id == id) else { return (false, None) };
        let call = self.calls.remove(index);
        let under_lease = clock.steady() < call.at + call.timeout + GRACE && !clock.jumped_since(call.at);
        (under_lease, Some(call))
    }

    /// Records that an exchange gave the token with this number. It was requested at `asked_at` by the wall clock.
    pub(crate) fn succeeds(
        &mut self,
        key: TokenKey,
        number: usize,
        asked_at: Timestamp,
        under_lease: bool,
        clock: &Clock,
    ) {
        self.failed.remove(&key);
        let is_evicted = self.is_evicted(key, clock);
        let Some(minted) = self.minted.get(number) else { return };
        let until = asked_at.plus(Duration::from_millis(minted.life_ms() - minted.margin_ms()));
        let (at, publication) = (clock.steady(), self.publications);
        self.publications += 1;
        let mut published = Published {
            number,
            publication,
            at,
            asked_at,
            until,
            until_perhaps: until,
            is_certain: under_lease,
            is_evicted,
        };
        // Also a token that is only perhaps usable: the entry keeps the better one.
        let is_kept = |other: &Published| !other.is_evicted && other.is_perhaps_usable(clock);
        let other = self.published.get(&key).copied().filter(|other| !under_lease && is_kept(other));
        if let Some(other) = other {
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

    /// Checks the back-off after a failed exchange.
    pub(crate) fn fails(&mut self, key: TokenKey, failure: LoggedFailure, after: After, clock: &Clock) {
        let LoggedFailure { wait, is_refusal } = failure;
        let After { retry_after: asked_for, under_lease, .. } = after;
        self.must(wait >= 1_000, "back-off", || format!("a retry after {wait} ms"));
        if !under_lease || self.is_evicted(key, clock) {
            // The worker that holds the lease decides.
            self.failed.remove(&key);
            return;
        }
        let now = clock.steady();
        match self.usable(key, clock) {
            Some(token) => {
                let left = token.until_perhaps.since(clock.wall()).as_millis() as u64;
                let most = (left / 2).max(1_000);
                self.must(wait <= most, "back-off", || format!("a retry after {wait} of {left} ms"));
            }
            None if self.held_until.get(&key).is_some_and(|until| clock.wall() < *until) => {}
            None => {
                let least = asked_for.unwrap_or_default().min(3600) * 1000;
                self.must(wait >= least, "back-off", || format!("a retry after {wait} ms in spite of {least}"));
            }
        }
        let assertion = self.asked_with.get(&key).filter(|_| is_refusal).cloned();
        self.failed.insert(key, Failed { at: now, assertion, next_try: now + wait });
    }

    /// Checks that a worker may mark a token as rejected. `number` is the token that its callers got last.
    pub(crate) fn marks(&mut self, key: TokenKey, number: Option<usize>, clock: &Clock) {
        let before = self.marked.insert(key, clock.steady());
        if let Some(before) = before.filter(|at| !clock.jumped_since(*at)) {
            let since = clock.steady() - before;
            self.must(since >= FORCED_PERIOD, "forced", || format!("a second token is rejected {since} ms later"));
        }
        // A worker whose callers got no token may have rejected a newer one.
        let is_published = |number: &usize| {
            self.published.get(&key).is_some_and(|token| token.number == *number && token.is_usable(clock))
        };
        if let Some(number) = number.filter(is_published) {
            self.rejected.insert(number, Rejected { key, replaced_at: None });
        }
    }

    /// Checks that a text for operators contains no secret.
    pub(crate) fn must_hide_secrets(&mut self, text: &str) {
        self.must(!text.contains(entra::SECRET), "no secrets", || text.to_owned());
    }

    /// Checks the invariants that hold at all times. `stalled` gives the total time that a worker was stalled, or `None`
    /// while it is stalled.
    pub(crate) fn after_step(&mut self, clock: &Clock, stalled: impl Fn(usize) -> Option<u64>, longest_value: usize) {
        let (now, wait) = (clock.steady(), self.limits.wait.as_millis() as u64);
        let late = self.waiting.iter().find_map(|((life, stream), waiting)| {
            // Each time the clock is set back, the deadline starts again.
            let patience = wait * (1 + clock.times_set_back_since(waiting.since));
            let due = waiting.since + patience + TICK + (stalled(life.0)? - waiting.stalled);
            (now > due).then(|| format!("stream {stream} of worker {} waits for {} ms", life.0, now - waiting.since))
        });
        self.must(late.is_none(), "answered in time", || late.unwrap_or_default());
        self.must(longest_value <= LONGEST_VALUE, "memory", || format!("a value of {longest_value} bytes"));
        // A token that has expired by the wall clock, or is from the future, need not be usable again when the clock is set again. It
        // may be: the entry still contains it.
        for token in self.published.values_mut().filter(|token| !token.is_usable(clock)) {
            token.until = Timestamp::from_unix_seconds(0);
        }
    }

    /// The number of rejected tokens that were replaced.
    pub(crate) fn rejected_and_replaced(&self) -> usize {
        self.rejected.values().filter(|rejected| rejected.replaced_at.is_some()).count()
    }

    /// The number of waiting requests.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[test]
fn only_a_token_that_another_worker_publishes_while_a_worker_decides_may_be_withheld() {
    for (unseen, is_violation) in [(0..1, false), (1..1, true), (1..2, true)] {
        let (mut judge, clock) = (Judge::new(&Plan::quiet(2, 1, HOUR)), Clock::default());
        let spec = specs::all(None, specs::Federated::File).swap_remove(0);
        let (tenant_id, client_id) = (spec.tenant_id().to_owned(), spec.client_id().to_owned());
        judge.minted.push(Minted { tenant_id, client_id, scope: spec.scope().to_owned(), life: 3600, at: 0 });
        judge.succeeds(spec.key(), 0, clock.wall(), true, &clock);
        let requested = RequestedToken { spec, rejects: Rejects::Nothing };
        let problem = Problem::new(Code::TokenWaitTimeout, "detail", "remedy");
        judge.refuses(&requested, &problem, ((1, 0), 1), &unseen, &clock);
        assert_eq!(judge.violation.is_some(), is_violation, "{unseen:?}: {:?}", judge.violation);
    }
}
