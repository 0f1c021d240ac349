//! The broker: one exchange for each token, whatever asks and how often.
//!
//! Each worker has one. It is a state machine: told what happened and when, it says what to do ([`Command`]) and does
//! none of it. Workers meet only in [`SharedData`]; whoever takes a key's lease there fetches for all. What a worker
//! is told by another is only ever "look again": a wake-up that is lost, doubled or late changes nothing but the time.

mod freshness;
mod key;
mod shared;
#[cfg(test)]
mod tests;

pub use freshness::Issued;
pub use key::{Grant, GrantParts, TokenKey};
pub use shared::{QueueId, SharedData, WorkerId, prepare};

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::assertion::Claims;
use crate::entra::{self, Passing, TokenRequest};
use crate::event::Event;
use crate::http::CallResult;
use crate::metrics::{self, Measurement};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;
use shared::{Entry, Failure, Lease, Then};

/// How long Envoy may take to serve the federated token: it is a file on this machine.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Entra refuses a correct, new credential now and then: one more try comes this soon.
const SOON: Duration = Duration::from_millis(250);

/// A lease outlasts the call that it is for by this, so that the answer can be dealt with.
const GRACE: Duration = Duration::from_secs(1);

/// How soon to look again when other workers were faster at every try to change what is shared.
const CONTENDED: Duration = Duration::from_millis(50);

/// A token that was rejected or is to be discarded forces an exchange this often at most, for all workers together: a
/// broken upstream cannot make us hammer Entra.
const FORCED_PERIOD: Duration = Duration::from_secs(30);

/// A VM that serves no requests, and cannot read the federated token, tries again after this long, then twice this, …
const ELSEWHERE_FIRST: Duration = Duration::from_secs(60);
/// … and this long at the most.
const ELSEWHERE_LONGEST: Duration = Duration::from_secs(3600);

/// How long things may take, and how many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long the token endpoint may take to answer, by all ways to it together.
    pub exchange: Duration,
    /// How long a request waits for a token before it is answered without one.
    pub wait: Duration,
    /// How many requests may wait in one worker: each holds its headers and a stream of its client.
    pub waiting: usize,
}

impl Default for Limits {
    /// An exchange usually takes a tenth of a second, and Entra itself gives up within seconds. A request waits for longer than one
    /// exchange that times out, so that it gets the reason instead of a time-out of its own. Ten thousand waiting requests hold some
    /// ten megabytes.
    fn default() -> Self {
        Self { exchange: Duration::from_secs(10), wait: Duration::from_secs(15), waiting: 10_000 }
    }
}

impl Limits {
    /// No exchange may take longer: a lease that claims more counts for nothing.
    pub const LONGEST_EXCHANGE: Duration = Duration::from_secs(60);
}

/// A paused request, by the shell's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub u32);

/// What the shell is to do.
#[derive(Debug)]
pub enum Command {
    /// Ask the cluster of the grant's assertion source, within [`READ_TIMEOUT`]; report to
    /// [`Broker::assertion_arrived`].
    ReadAssertion(Arc<Grant>),
    /// Send a request to the token endpoint; report to [`Broker::endpoint_answered`].
    CallEndpoint {
        /// Whose answer is reported.
        grant: Arc<Grant>,
        /// The Envoy cluster to send it to.
        cluster: String,
        /// What to send.
        request: TokenRequest,
        /// How long the answer may take.
        timeout: Duration,
    },
    /// Have the worker behind this queue look at the key again ([`Broker::look`]).
    Wake(QueueId, TokenKey),
    /// Finish a paused request.
    Finish(StreamId, Result<Arc<Issued>, Problem>),
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
pub enum Answer {
    /// Here it is.
    Ready(Arc<Issued>),
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
    /// Whether this VM has ever had a request. The one on the main thread never has, and internal listeners do not
    /// answer it.
    serves: bool,
}

/// What this worker knows of one key.
struct Slot {
    grant: Arc<Grant>,
    /// To be kept fresh even when nobody asks.
    warm: bool,
    token: Option<Arc<Issued>>,
    /// Whether anybody asked since the token came.
    used: bool,
    failure: Option<Failure>,
    /// In the order in which they came, which is the order of their deadlines.
    waiters: Vec<Waiter>,
    exchange: Exchange,
    /// In a VM that serves no requests: how often the federated token could not be read.
    unreadable: u32,
    /// Whether a lease of this worker's is counted.
    leased: bool,
    /// When the key is to be looked at next, as it stands in [`Broker::timers`].
    timer: Option<Timestamp>,
}

struct Waiter {
    stream: StreamId,
    deadline: Timestamp,
    need: Need,
}

/// Where the exchange for a key stands, as this worker sees it.
enum Exchange {
    /// Nobody needs one.
    Idle,
    /// Another worker has the lease, or this one must not try; look again then at the latest.
    Elsewhere { until: Timestamp },
    /// This worker asked for the assertion.
    Reading { until: Timestamp, attempt: Attempt },
    /// This worker called the token endpoint.
    Calling { until: Timestamp, call: Call },
    /// This worker tries once more, then.
    Pausing { until: Timestamp, attempt: Attempt },
}

/// A call to the token endpoint.
struct Call {
    attempt: Attempt,
    asked_at: Timestamp,
    claims: Claims,
    request: TokenRequest,
    /// The place of the cluster among the ways to the authority.
    way: usize,
}

/// Which try of one exchange this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    First,
    Second,
}

/// Whose turn it is to fetch.
enum Turn {
    Ours,
    Theirs {
        until: Timestamp,
    },
    /// There is something newer to look at: a token that is not due, or a failure that backs off.
    Nobodys,
}

/// One thing that happens to a broker: when, what all workers share, and what is to be done about it.
struct Moment<'a> {
    now: Timestamp,
    shared: &'a dyn SharedData,
    commands: Vec<Command>,
}

impl Slot {
    fn new(grant: Arc<Grant>) -> Self {
        Self {
            grant,
            warm: false,
            token: None,
            used: false,
            failure: None,
            waiters: Vec::new(),
            exchange: Exchange::Idle,
            unreadable: 0,
            leased: false,
            timer: None,
        }
    }

    fn usable(&self, now: Timestamp) -> Option<&Arc<Issued>> {
        self.token.as_ref().filter(|token| token.is_usable(now))
    }

    fn backing_off(&self, now: Timestamp) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| failure.is_backing_off(now))
    }

    /// The token, when it does for this need. While a back-off runs, whatever can be sent does.
    fn fitting(&self, need: Need, now: Timestamp) -> Option<&Arc<Issued>> {
        self.usable(now)
            .filter(|token| need == Need::Usable || token.is_long_lived(now) || self.backing_off(now).is_some())
    }

    /// Takes over what another worker has published.
    fn adopt(&mut self, entry: &Entry) {
        if let Some(theirs) = entry.token.as_ref().filter(|theirs| self.token.as_deref() != Some(theirs)) {
            self.token = Some(Arc::new(theirs.clone()));
            self.used = false;
        }
        self.failure.clone_from(&entry.failure);
    }

    /// Drops a token that must not be used any more, by configuration.
    fn drop_discarded(&mut self, key: TokenKey, now: Timestamp, shared: &dyn SharedData) {
        let before = self.grant.discard_before();
        if let Some(token) = self.token.clone().filter(|token| before.is_some_and(|before| token.issued_at() < before))
        {
            self.reject(key, &token, now, shared);
        }
    }

    /// Drops a token for all workers, unless another came since or one was dropped a moment ago.
    fn reject(&mut self, key: TokenKey, token: &Issued, now: Timestamp, shared: &dyn SharedData) -> bool {
        if self.token.as_deref() != Some(token) {
            return false;
        }
        let dropped = shared::update(shared, key, now, |entry| match &entry.token {
            // Another worker has a newer one.
            Some(theirs) if theirs != token => Then::Keep(true),
            _ if entry.forced_at.is_some_and(|at| at <= now && now.since(at) < FORCED_PERIOD) => Then::Keep(false),
            _ => {
                entry.token = None;
                entry.forced_at = Some(now);
                Then::Write(true)
            }
        });
        if dropped == Some(true) {
            self.token = None;
            self.adopt(&shared::read(shared, key));
        }
        dropped == Some(true)
    }

    /// Whether an exchange is to be made now.
    fn wants_exchange(&self, now: Timestamp) -> bool {
        if self.backing_off(now).is_some() {
            return false;
        }
        match self.usable(now) {
            None => self.warm || !self.waiters.is_empty(),
            Some(token) => {
                let due = token.is_due(now) && (self.warm || self.used || !self.waiters.is_empty());
                due || self.waiters.iter().any(|waiter| self.fitting(waiter.need, now).is_none())
            }
        }
    }

    /// Whether this worker is fetching.
    const fn holds_lease(&self) -> bool {
        matches!(self.exchange, Exchange::Reading { .. } | Exchange::Calling { .. } | Exchange::Pausing { .. })
    }

    /// When to look at it, even if nothing happens; `None` when it can be let go.
    fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let exchange = match &self.exchange {
            Exchange::Idle => None,
            Exchange::Elsewhere { until }
            | Exchange::Reading { until, .. }
            | Exchange::Calling { until, .. }
            | Exchange::Pausing { until, .. } => Some(*until),
        };
        let waiter = self.waiters.first().map(|waiter| waiter.deadline);
        if exchange.is_some() || waiter.is_some() {
            return exchange.into_iter().chain(waiter).min();
        }
        let next_try = self.backing_off(now).map(|failure| failure.next_try);
        match self.usable(now) {
            Some(token) if self.warm || self.used => {
                let refresh = token.refresh_at();
                Some(next_try.map_or(refresh, |next_try| next_try.max(refresh)).min(token.usable_until()))
            }
            Some(token) => Some(token.usable_until()),
            None if self.warm => Some(next_try.unwrap_or(now)),
            None => next_try,
        }
    }
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
            serves: false,
        }
    }

    /// Asks for a token on behalf of a request.
    ///
    /// The second value says whether [`Broker::look`] must be called for this key soon, where calls can be made.
    pub fn get(
        &mut self,
        grant: &Arc<Grant>,
        need: Need,
        stream: StreamId,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> (Answer, bool) {
        self.serves = true;
        let key = grant.key();
        let slot = self.slots.entry(key).or_insert_with(|| Slot::new(Arc::clone(grant)));
        if slot.usable(now).is_none() {
            slot.adopt(&shared::read(shared, key));
        }
        slot.drop_discarded(key, now, shared);
        // The first use of a token, and a key that is new, need a timer.
        let look = slot.timer.is_none();
        if let Some(token) = slot.fitting(need, now) {
            let token = Arc::clone(token);
            let first_use = !std::mem::replace(&mut slot.used, true);
            return (Answer::Ready(token), look || first_use);
        }
        if let Some(failure) = slot.backing_off(now) {
            return (Answer::Failed(failure.told(now)), look);
        }
        if self.waiting.len() >= self.limits.waiting {
            let problem = Problem::new(
                Code::TooManyWaiting,
                format!("{} requests wait for a token in this worker already", self.limits.waiting),
                "See in the log what the exchange waits for; requests are taken again as soon as it ends.",
            );
            return (Answer::Failed(problem.about(grant.identity(), grant.scope()).retry_after(GRACE)), look);
        }
        slot.waiters.push(Waiter { stream, deadline: now.plus(self.limits.wait), need });
        self.waiting.insert(stream, key);
        (Answer::Pending, slot.waiters.len() == 1)
    }

    /// A request that waited is gone. What was begun for it goes on: others may wait for the same.
    pub fn forget(&mut self, stream: StreamId) {
        if let Some(slot) = self.waiting.remove(&stream).and_then(|key| self.slots.get_mut(&key)) {
            slot.waiters.retain(|waiter| waiter.stream != stream);
        }
    }

    /// From now on these are fetched, and kept fresh, even when nobody asks.
    pub fn keep_warm(&mut self, grants: &[Arc<Grant>], now: Timestamp) {
        for grant in grants {
            let slot = self.slots.entry(grant.key()).or_insert_with(|| Slot::new(Arc::clone(grant)));
            slot.warm = true;
            self.schedule(grant.key(), now);
        }
    }

    /// A token was rejected where it was sent, or is not to be used any more: it is dropped, for all workers, and the
    /// next request has another fetched. At most one exchange for each key is forced so every 30 s; until
    /// then the token stays.
    ///
    /// Returns whether it was dropped.
    pub fn reject(&mut self, key: TokenKey, token: &Issued, now: Timestamp, shared: &dyn SharedData) -> bool {
        self.slots.get_mut(&key).is_some_and(|slot| slot.reject(key, token, now, shared))
    }

    /// Looks at a key again, after a wake-up.
    pub fn look(&mut self, key: TokenKey, now: Timestamp, shared: &dyn SharedData) -> Vec<Command> {
        let mut moment = Moment { now, shared, commands: Vec::new() };
        self.look_at(key, &mut moment);
        moment.commands
    }

    /// Looks at every key whose time has come: to be called when [`Broker::next_due`] has come.
    pub fn tick(&mut self, now: Timestamp, shared: &dyn SharedData) -> Vec<Command> {
        let mut moment = Moment { now, shared, commands: Vec::new() };
        // Each key once: one that is due again at once comes with the next tick.
        let due: Vec<TokenKey> = self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| *key).collect();
        for key in due {
            self.look_at(key, &mut moment);
        }
        moment.commands
    }

    /// When [`Broker::tick`] must be called next, even if nothing happens.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The answer to [`Command::ReadAssertion`].
    pub fn assertion_arrived(
        &mut self,
        key: TokenKey,
        answer: CallResult,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> Vec<Command> {
        let mut moment = Moment { now, shared, commands: Vec::new() };
        let Some(slot) = self.slots.get_mut(&key) else { return moment.commands };
        let Exchange::Reading { attempt, .. } = slot.exchange else { return moment.commands };
        let grant = Arc::clone(&slot.grant);
        let assertion = grant.assertion().read(answer, now);
        let outcome = assertion.as_ref().err().map_or("read", |problem| problem.code.as_str());
        moment.commands.push(Command::Measure(metrics::assertion_read(outcome)));
        match assertion {
            Ok(assertion) => {
                slot.unreadable = 0;
                let request = TokenRequest::new(&grant, &assertion);
                let claims = assertion.claims().clone();
                self.call(key, Call { attempt, asked_at: now, claims, request, way: 0 }, &mut moment);
            }
            Err(problem) if problem.code == Code::AssertionUnavailable && !self.serves => {
                self.leave_to_others(key, &mut moment);
            }
            Err(problem) => {
                let problem = problem.about(grant.identity(), grant.scope());
                self.fail(key, problem, Passing::ByItself, None, &mut moment);
            }
        }
        self.settle(key, &mut moment);
        moment.commands
    }

    /// The answer to [`Command::CallEndpoint`].
    pub fn endpoint_answered(
        &mut self,
        key: TokenKey,
        answer: CallResult,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> Vec<Command> {
        let mut moment = Moment { now, shared, commands: Vec::new() };
        let Some(slot) = self.slots.get_mut(&key) else { return moment.commands };
        let call = match std::mem::replace(&mut slot.exchange, Exchange::Idle) {
            Exchange::Calling { call, .. } => call,
            other => {
                slot.exchange = other;
                return moment.commands;
            }
        };
        let cluster = slot.grant.clusters().get(call.way).map(String::as_str).unwrap_or_default();
        match entra::read_answer(answer, cluster, &slot.grant, &call.claims, now) {
            entra::Answer::Granted { token, expires_in, refresh_in } => {
                let issued = Issued::new(token, call.asked_at, expires_in, refresh_in, self.random.next());
                self.succeed(key, issued, &mut moment);
            }
            entra::Answer::Unreached { .. } if call.way + 1 < slot.grant.clusters().len() => {
                let way = call.way + 1;
                self.call(key, Call { way, ..call }, &mut moment);
            }
            entra::Answer::Unreached { problem } => self.fail(key, *problem, Passing::ByItself, None, &mut moment),
            entra::Answer::Refused { problem, passing, retry_after } => match (call.attempt, passing) {
                (Attempt::First, Passing::RetrySoon) => self.try_again(key, SOON, &mut moment),
                (Attempt::First, Passing::FreshAssertion) => self.read(key, Attempt::Second, &mut moment),
                _ => self.fail(key, *problem, passing, retry_after, &mut moment),
            },
        }
        self.settle(key, &mut moment);
        moment.commands
    }

    fn look_at(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        let now = moment.now;
        let Some(slot) = self.slots.get_mut(&key) else { return };
        match slot.exchange {
            Exchange::Pausing { until, attempt } if until <= now => self.read(key, attempt, moment),
            Exchange::Reading { until, .. } | Exchange::Calling { until, .. } | Exchange::Pausing { until, .. }
                if until > now => {}
            // Nobody's yet, another worker's, or one of ours whose answer never came and whose lease is over.
            _ => self.begin(key, moment),
        }
        self.give_up_waiting(key, moment);
        self.settle(key, moment);
    }

    /// Takes what others have published; where that does not do, takes the lease and begins an exchange.
    fn begin(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        let (worker, queue, now) = (self.worker, self.queue, moment.now);
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.exchange = Exchange::Idle;
        if !slot.wants_exchange(now) {
            return self.finish_waiters(key, moment);
        }
        let until = now.plus(READ_TIMEOUT).plus(GRACE);
        let turn = shared::update(moment.shared, key, now, |entry| {
            slot.adopt(entry);
            if !slot.wants_exchange(now) {
                return Then::Keep(Turn::Nobodys);
            }
            match &mut entry.lease {
                Some(lease) if lease.holder != worker && lease.is_live(now) => {
                    let turn = Turn::Theirs { until: lease.until };
                    if lease.waiting.contains(&queue) {
                        return Then::Keep(turn);
                    }
                    lease.waiting.push(queue);
                    Then::Write(turn)
                }
                lease => {
                    let mut waiting = lease.take().map(|lease| lease.waiting).unwrap_or_default();
                    waiting.retain(|other| *other != queue);
                    *lease = Some(Lease { holder: worker, until, waiting });
                    Then::Write(Turn::Ours)
                }
            }
        });
        match turn {
            Some(Turn::Ours) => {
                slot.exchange = Exchange::Reading { until, attempt: Attempt::First };
                moment.commands.push(Command::ReadAssertion(Arc::clone(&slot.grant)));
            }
            Some(Turn::Theirs { until }) => slot.exchange = Exchange::Elsewhere { until },
            Some(Turn::Nobodys) => {}
            None => slot.exchange = Exchange::Elsewhere { until: now.plus(CONTENDED) },
        }
        self.finish_waiters(key, moment);
    }

    /// Reads the assertion once more.
    fn read(&mut self, key: TokenKey, attempt: Attempt, moment: &mut Moment<'_>) {
        let until = moment.now.plus(READ_TIMEOUT).plus(GRACE);
        if !self.renew(key, until, moment) {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.exchange = Exchange::Reading { until, attempt };
            moment.commands.push(Command::ReadAssertion(Arc::clone(&slot.grant)));
        }
    }

    /// Calls the token endpoint.
    fn call(&mut self, key: TokenKey, call: Call, moment: &mut Moment<'_>) {
        let Some(slot) = self.slots.get(&key) else { return };
        let grant = Arc::clone(&slot.grant);
        // The ways share the time, so that the lease and the patience of requests outlast them all.
        let ways = u32::try_from(grant.clusters().len()).unwrap_or(u32::MAX).max(1);
        let timeout = self.limits.exchange / ways;
        let until = moment.now.plus(timeout).plus(GRACE);
        if !self.renew(key, until, moment) {
            return;
        }
        let cluster = grant.clusters().get(call.way).cloned().unwrap_or_default();
        moment.commands.push(Command::CallEndpoint { grant, cluster, request: call.request.clone(), timeout });
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.exchange = Exchange::Calling { until, call };
        }
    }

    /// Tries the exchange a second and last time, after `wait`.
    fn try_again(&mut self, key: TokenKey, wait: Duration, moment: &mut Moment<'_>) {
        let until = moment.now.plus(wait);
        if self.renew(key, until.plus(GRACE), moment)
            && let Some(slot) = self.slots.get_mut(&key)
        {
            slot.exchange = Exchange::Pausing { until, attempt: Attempt::Second };
        }
    }

    /// Prolongs our lease for the next step. When it went to another worker meanwhile, ours stands down and waits.
    fn renew(&mut self, key: TokenKey, until: Timestamp, moment: &mut Moment<'_>) -> bool {
        let worker = self.worker;
        let renewed = shared::update(moment.shared, key, moment.now, |entry| match &mut entry.lease {
            Some(lease) if lease.holder == worker => {
                lease.until = until;
                Then::Write(true)
            }
            _ => Then::Keep(false),
        });
        if renewed == Some(true) {
            return true;
        }
        self.begin(key, moment);
        false
    }

    /// This VM cannot read the federated token and serves no requests: another one can, and does.
    fn leave_to_others(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let wait = ELSEWHERE_FIRST.saturating_mul(1 << slot.unreadable.min(6)).min(ELSEWHERE_LONGEST);
        slot.unreadable = slot.unreadable.saturating_add(1);
        self.publish(key, moment, |_, _| {});
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.exchange = Exchange::Elsewhere { until: moment.now.plus(wait) };
        }
    }

    fn succeed(&mut self, key: TokenKey, issued: Issued, moment: &mut Moment<'_>) {
        let Some(slot) = self.slots.get(&key) else { return };
        let now = moment.now;
        moment.commands.push(Command::Log(
            Event::info("exchange")
                .with("outcome", "issued")
                .with("identity", slot.grant.identity())
                .with("scope", slot.grant.scope())
                .with("expires_in_s", issued.expires_at().since(now).as_secs())
                .with("took_ms", now.since(issued.issued_at()).as_millis()),
        ));
        let identity = slot.grant.identity().to_owned();
        moment.commands.push(Command::Measure(metrics::exchange(&identity, "issued", "none")));
        moment.commands.push(Command::Measure(metrics::exchange_took(now.since(issued.issued_at()).as_millis())));
        self.publish(key, moment, |entry, ours| {
            // Another worker that took over may have a newer one already.
            if ours || entry.token.as_ref().is_none_or(|theirs| theirs.issued_at() <= issued.issued_at()) {
                entry.token = Some(issued.clone());
            }
            entry.failure = None;
        });
        if let Some(end) = self.earliest_end(&identity, now) {
            moment.commands.push(Command::Measure(metrics::token_expiry(&identity, end.unix_seconds())));
        }
    }

    fn fail(
        &mut self,
        key: TokenKey,
        problem: Problem,
        passing: Passing,
        asked_for: Option<Duration>,
        moment: &mut Moment<'_>,
    ) {
        let jitter = self.random.next();
        let Some(slot) = self.slots.get(&key) else { return };
        let now = moment.now;
        let failures = slot.failure.as_ref().map_or(0, |failure| failure.failures).saturating_add(1);
        let usable_for = slot.usable(now).map(|token| token.usable_until().since(now)).unwrap_or_default();
        let wait = freshness::back_off(failures, passing, asked_for, usable_for, jitter);
        moment.commands.push(Command::Log(
            Event::warn("exchange")
                .with("outcome", "failed")
                .with("identity", slot.grant.identity())
                .with("scope", slot.grant.scope())
                .with("code", problem.code.as_str())
                .with_some("aadsts", problem.aadsts())
                .with_some("trace_id", problem.entra.trace_id.as_deref())
                .with_some("correlation_id", problem.entra.correlation_id.as_deref())
                .with("next_try_in_ms", wait.as_millis())
                .with("detail", &problem.detail)
                .with("remedy", &problem.remedy),
        ));
        moment.commands.push(Command::Measure(metrics::exchange(slot.grant.identity(), "failed", passing.as_str())));
        let failure = Failure { problem, next_try: now.plus(wait), failures };
        self.publish(key, moment, |entry, ours| {
            // Another worker that took over has the later word.
            if ours {
                entry.failure = Some(failure.clone());
            }
        });
    }

    /// Gives back our lease with what came of it, wakes who waits elsewhere, and finishes our own.
    fn publish(&mut self, key: TokenKey, moment: &mut Moment<'_>, mut change: impl FnMut(&mut Entry, bool)) {
        let worker = self.worker;
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let waiting = shared::update(moment.shared, key, moment.now, |entry| {
            let ours = entry.lease.as_ref().is_none_or(|lease| lease.holder == worker);
            change(entry, ours);
            let lease = if ours { entry.lease.take() } else { None };
            slot.adopt(entry);
            Then::Write(lease.map(|lease| lease.waiting).unwrap_or_default())
        });
        slot.exchange = Exchange::Idle;
        moment.commands.extend(waiting.unwrap_or_default().into_iter().map(|queue| Command::Wake(queue, key)));
        self.finish_waiters(key, moment);
        // Whoever could not be finished, because another worker took over, goes on waiting.
        if self.slots.get(&key).is_some_and(|slot| !slot.waiters.is_empty()) {
            self.begin(key, moment);
        }
    }

    /// Finishes all for whom there is a token that does, or a failure that backs off.
    fn finish_waiters(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        let now = moment.now;
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let mut waiters = std::mem::take(&mut slot.waiters);
        waiters.retain(|waiter| {
            let outcome = match (slot.fitting(waiter.need, now), slot.backing_off(now)) {
                (Some(token), _) => Ok(Arc::clone(token)),
                (None, Some(failure)) => Err(failure.told(now)),
                (None, None) => return true,
            };
            slot.used |= outcome.is_ok();
            self.waiting.remove(&waiter.stream);
            moment.commands.push(Command::Finish(waiter.stream, outcome));
            false
        });
        slot.waiters = waiters;
    }

    /// Answers those whose time is over; with a token that does not last, where there is one.
    fn give_up_waiting(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        let now = moment.now;
        let wait = self.limits.wait;
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let over = slot.waiters.iter().take_while(|waiter| waiter.deadline <= now).count();
        let token = slot.usable(now).cloned();
        for waiter in slot.waiters.drain(..over) {
            self.waiting.remove(&waiter.stream);
            let outcome = token.clone().ok_or_else(|| {
                Problem::new(
                    Code::WaitedTooLong,
                    format!("no token came within {} s", wait.as_secs()),
                    "See in the log what the exchange waits for: Entra, or the way to it, is slow.",
                )
                .about(slot.grant.identity(), slot.grant.scope())
                .retry_after(GRACE)
            });
            moment.commands.push(Command::Finish(waiter.stream, outcome));
        }
    }

    /// Counts the lease, and sets the key's timer.
    fn settle(&mut self, key: TokenKey, moment: &mut Moment<'_>) {
        if let Some(slot) = self.slots.get_mut(&key) {
            let leased = slot.holds_lease();
            if std::mem::replace(&mut slot.leased, leased) != leased {
                moment.commands.push(Command::Measure(metrics::leases(if leased { 1 } else { -1 })));
            }
        }
        self.schedule(key, moment.now);
    }

    /// The earliest end among the tokens of an identity, as far as this worker knows them.
    fn earliest_end(&self, identity: &str, now: Timestamp) -> Option<Timestamp> {
        let slots = self.slots.values().filter(|slot| slot.grant.identity() == identity);
        slots.filter_map(|slot| Some(slot.usable(now)?.expires_at())).min()
    }

    /// Sets the key's timer, or lets the key go.
    fn schedule(&mut self, key: TokenKey, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let due = slot.next_due(now);
        if let Some(old) = slot.timer.take() {
            self.timers.remove(&(old, key));
        }
        match due {
            Some(at) => {
                slot.timer = Some(at);
                self.timers.insert((at, key));
            }
            None => {
                self.slots.remove(&key);
            }
        }
    }
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

/// What tests elsewhere in the crate share.
#[cfg(test)]
pub(crate) mod tests_support {
    use super::*;
    use crate::assertion::Source;
    use crate::entra::Authority;

    /// The grant of identity `payments` for Key Vault.
    pub(crate) fn grant() -> Grant {
        Grant::new(&GrantParts {
            identity: "payments",
            authority: &Authority::public(),
            tenant_id: "11111111-1111-4111-8111-111111111111",
            client_id: "aaaaaaaa-0000-4000-8000-000000000001",
            scope: "https://vault.azure.net/.default",
            assertion: &Source::File { cluster: "projected_token".to_owned() },
            clusters: &["entra".to_owned()],
            discard_before: None,
        })
    }
}
