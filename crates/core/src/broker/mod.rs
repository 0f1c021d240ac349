//! The broker: one exchange for each token, whatever asks and how often.
//!
//! Each worker has one. It is a state machine: told what happened and when, it says what to do ([`Command`]) and does
//! none of it. Workers meet only in [`SharedData`]; whoever takes a key's lease there fetches for all. What a worker
//! is told by another is only ever "look again": a wake-up that is lost, doubled or late changes nothing but the time.

mod admission;
mod budget;
mod causes;
mod connections;
mod credential;
mod exchange;
mod freshness;
mod gauges;
mod predecessors;
mod readiness;
mod reject;
mod release;
mod shared;
mod slot;
mod status;
#[cfg(test)]
mod tests;

pub use budget::UnlistedLimits;
pub use connections::Connection;
pub use freshness::CachedToken;
pub use predecessors::Predecessors;
pub(crate) use readiness::{Credential, Decisive};
pub use readiness::{Readiness, ReadinessStatus};
pub use reject::{RejectedBy, Rejection, Stale};
pub use shared::{QueueId, SharedData, WorkerId, prepare};
pub use status::{Build, status};

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::assertion::Source;
use crate::entra::{self, RetryClass, TokenKey, TokenRequest, TokenSpec};
use crate::event::Event;
use crate::http::CallResult;
use crate::metrics::{self, Measurement};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;
use connections::Connections;
use exchange::Failed;
use gauges::Observed;
use readiness::Checks;
use release::Release;
use slot::{Attempt, EndpointCall, Exchange, Slot, Waiter};

/// How long Envoy may take to serve the federated token: it is a file on this machine.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// A file that is just being written may hold half a token: one that is not a JWT is read once more after this long.
const TORN: Duration = Duration::from_millis(100);

/// Entra refuses a correct, new credential now and then: one more try comes this soon.
const SOON: Duration = Duration::from_millis(250);

/// While an exchange backs off because Entra refused the federated token, its file is read this often at most, by all workers
/// together.
const READING_PERIOD: Duration = Duration::from_secs(1);

/// A lease outlasts the call that it is for by this, so that the answer can be dealt with.
const GRACE: Duration = Duration::from_secs(1);

/// How soon to look again when other workers were faster at every try to change what is shared.
const CONTENDED: Duration = Duration::from_millis(50);

/// A token that was rejected forces an exchange this often at most, for all workers together: a broken upstream cannot
/// make us hammer Entra.
const FORCED_PERIOD: Duration = Duration::from_secs(30);

/// A VM that serves no requests, and cannot read the federated token, tries again after this long, then twice this, …
const ELSEWHERE_FIRST: Duration = Duration::from_secs(60);
/// … and this long at the most.
const ELSEWHERE_LONGEST: Duration = Duration::from_secs(3600);

/// How long things may take, and how many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long the token endpoint may take to answer, through all of its clusters together.
    pub exchange: Duration,
    /// How long a request waits for a token before it is answered without one.
    pub wait: Duration,
    /// How many requests may wait in one worker: each holds its headers and a stream of its client.
    pub waiting: usize,
    /// How many scopes that the configuration does not list callers may ask for.
    pub unlisted: UnlistedLimits,
}

impl Default for Limits {
    /// An exchange usually takes a tenth of a second, and Entra itself gives up within seconds. A request waits for longer than one
    /// exchange that times out, so that it gets the reason instead of a time-out of its own. Ten thousand waiting requests hold some
    /// ten megabytes.
    fn default() -> Self {
        Self {
            exchange: Duration::from_secs(10),
            wait: Duration::from_secs(15),
            waiting: 10_000,
            unlisted: UnlistedLimits::default(),
        }
    }
}

impl Limits {
    /// No request may wait longer.
    pub const LONGEST_WAIT: Duration = Duration::from_secs(300);

    /// No exchange may take longer: a lease that claims more counts for nothing.
    pub const LONGEST_EXCHANGE: Duration = Duration::from_secs(60);

    /// How long a call may take while another cluster is left: Entra answers within a second, a connection that something
    /// between forgot never does.
    const WITH_ANOTHER_LEFT: Duration = Duration::from_secs(3);

    /// How long the call through the cluster at `index` of `count` may take. Together they take no longer than an exchange
    /// may, so that the lease and the patience of requests outlast them all.
    fn call_timeout(&self, index: usize, count: usize) -> Duration {
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let index = u32::try_from(index).unwrap_or(u32::MAX).min(count - 1);
        let each = Self::WITH_ANOTHER_LEFT.min(self.exchange / count);
        if index + 1 < count { each } else { self.exchange.saturating_sub(each.saturating_mul(index)) }
    }
}

/// A paused request, by the shell's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub u32);

/// What the shell is to do.
#[derive(Debug)]
pub enum Command {
    /// Ask the cluster of the grant's assertion source, within [`READ_TIMEOUT`]; report to
    /// [`Broker::assertion_arrived`].
    ReadAssertion(Arc<TokenSpec>),
    /// Send a request to the token endpoint; report to [`Broker::endpoint_answered`].
    CallEndpoint {
        /// Whose answer is reported.
        spec: Arc<TokenSpec>,
        /// The Envoy cluster to send it to.
        cluster: String,
        /// What to send.
        request: TokenRequest,
        /// How long the answer may take.
        timeout: Duration,
    },
    /// Ask the cluster of this assertion source, within [`READ_TIMEOUT`]; report to [`Broker::check_answered`].
    ReadForCheck(Source),
    /// Answer a request that asks for readiness.
    Checked(StreamId, ReadinessStatus),
    /// Have the worker behind this queue look at the key again ([`Broker::look`]).
    Wake(QueueId, TokenKey),
    /// Finish a paused request.
    Finish(StreamId, Result<Arc<CachedToken>, Problem>),
    /// Write a line about an exchange to the log.
    Log(Event),
    /// Take a value for a metric.
    Measure(Measurement),
}

/// What a request needs of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// That it can be sent now.
    Usable,
    /// That it lasts for a while: Azure's SDKs treat less than five minutes as expired, and would ask again at once.
    LongLived,
}

/// What a request for a token comes to.
#[derive(Debug)]
pub enum TokenLookup {
    /// Here it is.
    Ready(Arc<CachedToken>),
    /// The stream is to pause; [`Command::Finish`] will name it.
    Pending,
    /// There is none, and none is to be expected within a request's patience.
    Failed(Problem),
}

/// One worker's broker.
pub struct Broker {
    worker: WorkerId,
    queue: QueueId,
    limits: Limits,
    random: Random,
    slots: HashMap<TokenKey, Slot>,
    /// When each key is to be looked at next, the earliest first.
    timers: BTreeSet<(Timestamp, TokenKey)>,
    waiting: HashMap<StreamId, TokenKey>,
    checks: Checks,
    observed: Observed,
    connections: Connections,
    release: Release,
    /// Whether this VM has ever had a request. The one on the main thread never has, and internal listeners do not
    /// answer it.
    serves: bool,
    /// When something last happened here, by the clock as it was then.
    latest: Timestamp,
}

/// One thing that happens to a broker: when, what all workers share, and what is to be done about it.
struct Turn<'a> {
    now: Timestamp,
    shared: &'a dyn SharedData,
    commands: Vec<Command>,
}

impl Broker {
    /// A broker for one worker, which `queue` wakes. The worker's id must be as good as random: the jitter comes of it.
    pub fn new(worker: WorkerId, queue: QueueId, limits: Limits) -> Self {
        Self {
            worker,
            queue,
            limits,
            random: Random(worker.0),
            slots: HashMap::new(),
            timers: BTreeSet::new(),
            waiting: HashMap::new(),
            checks: Checks::default(),
            observed: Observed::default(),
            connections: Connections::default(),
            release: Release::default(),
            serves: false,
            latest: Timestamp::default(),
        }
    }

    /// Asks for a token on behalf of a request.
    ///
    /// The second value says whether [`Broker::look`] must be called for this key soon, where calls can be made.
    pub fn get(
        &mut self,
        spec: &Arc<TokenSpec>,
        need: Need,
        stream: StreamId,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> (TokenLookup, bool) {
        let waiter = Waiter { stream, deadline: now.plus(self.limits.wait), need, rejected: None };
        let full = self.is_full(spec);
        let answered = self.slot_of(spec, now, shared).answer(waiter, full, now);
        self.note_answer(spec, stream, answered, now, shared)
    }

    /// Notes what a request for a token came to, before it is answered: that the token is in use, or that the request waits
    /// for an exchange that is permitted.
    fn note_answer(
        &mut self,
        spec: &Arc<TokenSpec>,
        stream: StreamId,
        (answer, look): (TokenLookup, bool),
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> (TokenLookup, bool) {
        match answer {
            TokenLookup::Ready(_) if spec.is_listed() => {}
            TokenLookup::Ready(_) => self.touch(spec, now, shared),
            TokenLookup::Failed(_) => {}
            TokenLookup::Pending => {
                // Only the first one asks for a look.
                if look && let Err(problem) = self.admit(spec, now, shared) {
                    return self.refuse(spec, stream, problem, now);
                }
                self.waiting.insert(stream, spec.key());
            }
        }
        (answer, look)
    }

    /// How many requests may wait, when no more may wait for this grant.
    ///
    /// Callers choose the unlisted scopes. Their requests leave half of the room to all others, and those of one identity take
    /// at most half of the rest, so that no identity's callers can take it from another's.
    fn is_full(&self, spec: &TokenSpec) -> Option<usize> {
        let (all, waiting) = (self.limits.waiting, self.waiting.len());
        if spec.is_listed() {
            return (waiting >= all).then_some(all);
        }
        let (unlisted, of_identity) = (all.div_ceil(2), all.div_ceil(4));
        if waiting < of_identity {
            return None;
        }
        if waiting >= unlisted {
            return Some(unlisted);
        }
        let same = |slot: &&Slot| !slot.spec.is_listed() && slot.spec.identity() == spec.identity();
        let waiting = self.slots.values().filter(same).map(|slot| slot.waiters.len()).sum::<usize>();
        (waiting >= of_identity).then_some(of_identity)
    }

    /// Answers the only request that waits for a key whose exchange may not begin: with a token that does not last, where
    /// there is one.
    fn refuse(&mut self, spec: &TokenSpec, stream: StreamId, problem: Problem, now: Timestamp) -> (TokenLookup, bool) {
        let Some(slot) = self.slots.get_mut(&spec.key()) else { return (TokenLookup::Failed(problem), false) };
        let index = slot.waiters.iter().position(|waiter| waiter.stream == stream);
        let rejected = index.and_then(|index| slot.waiters.remove(index).rejected);
        let token = slot.usable_for(rejected.as_ref(), now).cloned();
        // The other workers must know who holds the token.
        let look = token.is_some() && slot.use_token();
        self.schedule(spec.key(), now);
        (token.map_or(TokenLookup::Failed(problem), TokenLookup::Ready), look)
    }

    /// Asks for a token on behalf of a request that does not wait for it.
    ///
    /// The value says whether [`Broker::look`] must be called for this key soon, where calls can be made.
    pub fn prefetch(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, shared: &dyn SharedData) -> bool {
        let slot = self.slot_of(spec, now, shared);
        let look = slot.timer.is_none();
        if slot.usable(now).is_some() {
            return slot.use_token() || look;
        }
        if slot.backing_off(now).is_some() {
            return look;
        }
        if !slot.wanted && self.admit(spec, now, shared).is_err() {
            self.schedule(spec.key(), now);
            return false;
        }
        let wanted = self.slots.get_mut(&spec.key()).map(|slot| std::mem::replace(&mut slot.wanted, true));
        wanted != Some(true) || look
    }

    /// A request that waited is gone. What was begun for it goes on: others may wait for the same.
    pub fn forget(&mut self, stream: StreamId) {
        self.checks.forget(stream);
        let Some(key) = self.waiting.remove(&stream) else { return };
        self.connections.forget(stream);
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.waiters.retain(|waiter| waiter.stream != stream);
        }
    }

    /// From now on these are fetched, and kept fresh, even when nobody asks.
    pub fn keep_warm(&mut self, specs: &[Arc<TokenSpec>], now: Timestamp) {
        for spec in specs {
            let slot = self.slots.entry(spec.key()).or_insert_with(|| Slot::new(Arc::clone(spec)));
            slot.warm = true;
            self.schedule(spec.key(), now);
        }
    }

    /// Looks at a key again, after a wake-up.
    pub fn poll(&mut self, key: TokenKey, now: Timestamp, shared: &dyn SharedData) -> Vec<Command> {
        self.observe_clock(now);
        let mut turn = Turn { now, shared, commands: Vec::new() };
        self.poll_key(key, &mut turn);
        turn.commands
    }

    /// Looks at every key whose time has come: to be called when [`Broker::next_due`] has come.
    pub fn tick(&mut self, now: Timestamp, shared: &dyn SharedData) -> Vec<Command> {
        self.observe_clock(now);
        let mut turn = Turn { now, shared, commands: Vec::new() };
        // Each key once: one that is due again at once comes with the next tick.
        let due: Vec<TokenKey> = self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| *key).collect();
        for key in due {
            // The keys that are left over come first in the next tick: none of them waits for ever.
            if self.release.is_spent(now) {
                break;
            }
            self.poll_key(key, &mut turn);
        }
        turn.commands
    }

    /// How many token keys this worker keeps something of.
    pub fn keys(&self) -> usize {
        self.slots.len()
    }

    /// When [`Broker::tick`] and [`Broker::connections`] must be called next, even if nothing happens.
    pub fn next_due(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(at, _)| *at);
        timer.into_iter().chain(self.connections.next_due()).min()
    }

    /// The answer to [`Command::ReadAssertion`].
    pub fn assertion_arrived(
        &mut self,
        key: TokenKey,
        answer: CallResult,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> Vec<Command> {
        self.observe_clock(now);
        let mut turn = Turn { now, shared, commands: Vec::new() };
        let Some(slot) = self.slots.get_mut(&key) else { return turn.commands };
        let (attempt, until, is_comparison) = match slot.exchange {
            Exchange::Reading { attempt, until } => (attempt, until, false),
            Exchange::Comparing { until } => (Attempt::First, until, true),
            _ => return turn.commands,
        };
        let began = until.minus(READ_TIMEOUT + GRACE);
        let spec = Arc::clone(&slot.spec);
        let assertion = spec.assertion().read(answer, now);
        let is_elsewheres = |problem: &Problem| problem.code == Code::AssertionUnavailable && !self.serves;
        // A VM that serves no requests can never read it: its attempt says nothing of the token.
        if !assertion.as_ref().is_err_and(is_elsewheres) {
            let outcome = assertion.as_ref().err().map_or("read", |problem| problem.code.as_str());
            turn.commands.push(Command::Measure(metrics::assertion_read(outcome)));
        }
        match assertion {
            Ok(assertion) => {
                slot.unreadable = 0;
                slot.malformed = false;
                credential::note_reading(shared, spec.assertion(), true);
                self.observe_reading(&spec, assertion.lifetime(), &mut turn);
                if !is_comparison || self.ends_back_off(key, assertion.fingerprint(), &mut turn) {
                    let request = TokenRequest::new(&spec, &assertion);
                    self.call(
                        key,
                        EndpointCall { attempt, asked_at: now, assertion, request, cluster_index: 0 },
                        &mut turn,
                    );
                }
            }
            Err(problem) if is_elsewheres(&problem) => {
                self.yield_to_workers(key, &mut turn);
            }
            Err(_) if is_comparison => {
                credential::note_reading(shared, spec.assertion(), false);
                self.end_comparison(key, &mut turn);
            }
            Err(problem) if problem.code == Code::AssertionMalformed && !slot.malformed => {
                slot.malformed = true;
                self.try_again(key, attempt, TORN, &mut turn);
            }
            Err(problem) => {
                slot.malformed = false;
                credential::note_reading(shared, spec.assertion(), false);
                let problem = problem.about(spec.identity(), spec.scope());
                self.fail(key, Failed::transiently(problem, began), &mut turn);
            }
        }
        self.update_timers(key, &mut turn);
        turn.commands
    }

    /// The answer to [`Command::CallEndpoint`].
    pub fn endpoint_answered(
        &mut self,
        key: TokenKey,
        answer: CallResult,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> Vec<Command> {
        self.observe_clock(now);
        let mut turn = Turn { now, shared, commands: Vec::new() };
        let Some(slot) = self.slots.get_mut(&key) else { return turn.commands };
        let call = match std::mem::replace(&mut slot.exchange, Exchange::Idle) {
            Exchange::Calling { call, .. } => *call,
            other => {
                slot.exchange = other;
                return turn.commands;
            }
        };
        let cluster = slot.spec.clusters().get(call.cluster_index).map(String::as_str).unwrap_or_default();
        match entra::read_answer(answer, cluster, &slot.spec, &call.assertion, now) {
            entra::EndpointAnswer::Granted { token, expires_in, refresh_in, request_id } => {
                let cached = CachedToken::new(token, call.asked_at, expires_in, refresh_in, self.random.next());
                match (cached.is_usable(now), call.attempt) {
                    (true, _) => {
                        let cluster = cluster.to_owned();
                        self.succeed(key, cached, &cluster, request_id.as_ref(), &mut turn);
                    }
                    (false, Attempt::First) => self.read(key, Attempt::Second, &mut turn),
                    (false, Attempt::Second) => {
                        let problem = over_on_arrival(&slot.spec, expires_in, now.since(call.asked_at));
                        self.fail(key, Failed::transiently(problem, call.asked_at), &mut turn);
                    }
                }
            }
            entra::EndpointAnswer::Unreached { problem } => {
                let began = call.asked_at;
                if let Some(problem) = self.call_next(key, call, *problem, &mut turn) {
                    self.fail(key, Failed::transiently(problem, began), &mut turn);
                }
            }
            entra::EndpointAnswer::Refused { problem, retry_class, retry_after } => {
                let retry_class = credential::passing_of(shared, &slot.spec, &problem, retry_class, now);
                match (call.attempt, retry_class) {
                    (Attempt::First, RetryClass::Immediate | RetryClass::StaleAssertion) => {
                        self.retry_refused(key, &problem, retry_class, &mut turn);
                    }
                    _ => {
                        let (assertion, began) = (call.assertion.fingerprint(), call.asked_at);
                        credential::note_answer(shared, &slot.spec, &problem, assertion, now);
                        let refused = credential::is_refusal(&problem).then_some(assertion);
                        let failed = Failed { problem: *problem, retry_class, began, asked_for: retry_after, refused };
                        self.fail(key, failed, &mut turn);
                    }
                }
            }
        }
        self.update_timers(key, &mut turn);
        turn.commands
    }

    /// What is known of the grant's key, as fresh as a request needs it.
    fn slot_of(&mut self, spec: &Arc<TokenSpec>, now: Timestamp, shared: &dyn SharedData) -> &mut Slot {
        self.observe_clock(now);
        self.serves = true;
        let key = spec.key();
        if !spec.is_listed() && !self.slots.contains_key(&key) {
            self.make_room(spec);
        }
        let slot = self.slots.entry(key).or_insert_with(|| Slot::new(Arc::clone(spec)));
        slot.used_at = now;
        if slot.usable(now).is_none() {
            slot.adopt(&shared::read(shared, key), now);
        }
        slot
    }

    /// Everything here is timed by a clock that somebody may set back: nobody is to wait for that much longer.
    fn observe_clock(&mut self, now: Timestamp) {
        let back = self.latest.since(now);
        self.latest = now;
        if back.is_zero() {
            return;
        }
        self.checks.set_back(back);
        self.observed.set_back(back);
        self.connections.set_back(back);
        for key in self.slots.keys().copied().collect::<Vec<_>>() {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.set_back(back, now);
            }
            self.schedule(key, now);
        }
    }
}

/// As many requests wait in this worker as may.
fn too_many_waiting(most: usize) -> Problem {
    Problem::new(
        Code::TooManyWaiting,
        format!("{most} requests wait for a token or a connection in this worker already"),
        "Check in the log what the exchange waits for, and that the upstream accepts connections; requests are accepted \
         again as soon as one of those that wait has ended.",
    )
    .retry_after(GRACE)
}

/// A token that nobody can use: without a back-off, it would be fetched again and again.
fn over_on_arrival(spec: &TokenSpec, life: Duration, took: Duration) -> Problem {
    Problem::new(
        Code::EntraReplyInvalid,
        format!("the token lives {} s, and that was over when it came, after {} s", life.as_secs(), took.as_secs()),
        "See how long Entra takes to answer, the life that the tenant gives to tokens, and this node's clock.",
    )
    .about(spec.identity(), spec.scope())
}

/// Jitter: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators"). Nothing secret hangs
/// on it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half is the better one.
        u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default()
    }
}
