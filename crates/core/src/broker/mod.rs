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
use crate::problem::{Code, Problem};
use crate::time::Timestamp;
use shared::{Entry, Failure, Lease, Then};

/// How long Envoy may take to serve the federated token: it is a file on this machine.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the token endpoint may take to answer.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request waits for a token before it is answered without one: longer than one exchange that times out.
pub const WAIT_LIMIT: Duration = Duration::from_secs(15);

/// How many requests may wait in one worker. A waiting request holds its headers and a stream of its client.
pub const WAITING_LIMIT: usize = 10_000;

/// Entra refuses a correct, new credential now and then: one more try comes this soon.
const SOON: Duration = Duration::from_millis(250);

/// A lease outlasts the call that it is for by this, so that the answer can be dealt with.
const GRACE: Duration = Duration::from_secs(1);

/// How soon to look again when other workers were faster at every try to change what is shared.
const CONTENDED: Duration = Duration::from_millis(50);

/// What is no longer in use is let go this often.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);

/// A paused request, by the shell's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub u32);

/// What the shell is to do.
#[derive(Debug)]
pub enum Command {
    /// Ask the cluster of the grant's assertion source, within [`READ_TIMEOUT`]; report to
    /// [`Broker::assertion_arrived`].
    ReadAssertion(Arc<Grant>),
    /// Send this to the grant's cluster, within [`EXCHANGE_TIMEOUT`]; report to [`Broker::endpoint_answered`].
    CallEndpoint(Arc<Grant>, TokenRequest),
    /// Have the worker behind this queue look again ([`Broker::look`]).
    Wake(QueueId),
    /// Finish a paused request.
    Finish(StreamId, Result<Arc<Issued>, Problem>),
    /// Write a line to the log.
    Log(Event),
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
    random: Random,
    slots: HashMap<TokenKey, Slot>,
    /// The keys that something goes on with.
    active: BTreeSet<TokenKey>,
    waiting: HashMap<StreamId, TokenKey>,
    next_sweep: Timestamp,
}

/// What this worker knows of one key.
struct Slot {
    grant: Arc<Grant>,
    token: Option<Arc<Issued>>,
    failure: Option<Failure>,
    /// In the order in which they came, which is the order of their deadlines.
    waiters: Vec<Waiter>,
    refresh_wanted: bool,
    exchange: Exchange,
}

struct Waiter {
    stream: StreamId,
    deadline: Timestamp,
}

/// Where the exchange for a key stands, as this worker sees it.
enum Exchange {
    /// Nobody needs one.
    Idle,
    /// Another worker has the lease; look again then at the latest.
    Elsewhere { until: Timestamp },
    /// This worker asked for the assertion.
    Reading { until: Timestamp, attempt: Attempt },
    /// This worker called the token endpoint.
    Calling { until: Timestamp, attempt: Attempt, asked_at: Timestamp, claims: Claims },
    /// This worker tries once more, then.
    Pausing { until: Timestamp, attempt: Attempt },
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

impl Slot {
    fn new(grant: Arc<Grant>) -> Self {
        Self { grant, token: None, failure: None, waiters: Vec::new(), refresh_wanted: false, exchange: Exchange::Idle }
    }

    fn usable(&self, now: Timestamp) -> Option<&Arc<Issued>> {
        self.token.as_ref().filter(|token| token.is_usable(now))
    }

    fn backing_off(&self, now: Timestamp) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| failure.is_backing_off(now))
    }

    /// Whether nothing needs to be fetched now.
    fn is_settled(&self, now: Timestamp) -> bool {
        self.backing_off(now).is_some() || self.usable(now).is_some_and(|token| !token.is_due(now))
    }

    /// Takes over what another worker has published.
    fn adopt(&mut self, entry: &Entry) {
        if let Some(theirs) = &entry.token
            && self.token.as_ref().is_none_or(|ours| ours.expires_at() < theirs.expires_at())
        {
            self.token = Some(Arc::new(theirs.clone()));
        }
        self.failure.clone_from(&entry.failure);
    }

    fn is_idle(&self) -> bool {
        self.waiters.is_empty() && !self.refresh_wanted && matches!(self.exchange, Exchange::Idle)
    }

    /// When something is to be done even if nothing happens.
    fn next_due(&self) -> Option<Timestamp> {
        let exchange = match &self.exchange {
            Exchange::Idle => None,
            Exchange::Elsewhere { until }
            | Exchange::Reading { until, .. }
            | Exchange::Calling { until, .. }
            | Exchange::Pausing { until, .. } => Some(*until),
        };
        let waiter = self.waiters.first().map(|waiter| waiter.deadline);
        exchange.into_iter().chain(waiter).min()
    }
}

impl Broker {
    /// A broker for one worker, which `queue` wakes. The worker's id must be as good as random: the jitter comes of it.
    pub fn new(worker: WorkerId, queue: QueueId) -> Self {
        Self {
            worker,
            queue,
            random: Random(worker.0),
            slots: HashMap::new(),
            active: BTreeSet::new(),
            waiting: HashMap::new(),
            next_sweep: Timestamp::default(),
        }
    }

    /// Asks for a token on behalf of a request.
    ///
    /// The second value says whether [`Broker::look`] must be called soon, where calls can be made.
    pub fn get(
        &mut self,
        grant: &Arc<Grant>,
        stream: StreamId,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> (Answer, bool) {
        let key = grant.key();
        let slot = self.slots.entry(key).or_insert_with(|| Slot::new(Arc::clone(grant)));
        if slot.usable(now).is_none() {
            slot.adopt(&shared::read(shared, key));
        }
        if let Some(token) = slot.usable(now) {
            let token = Arc::clone(token);
            let refresh = !slot.refresh_wanted && !slot.is_settled(now);
            if refresh {
                slot.refresh_wanted = true;
                self.active.insert(key);
            }
            return (Answer::Ready(token), refresh);
        }
        if let Some(failure) = slot.backing_off(now) {
            return (Answer::Failed(failure.told(now)), false);
        }
        if self.waiting.len() >= WAITING_LIMIT {
            let problem = Problem::new(
                Code::TooManyWaiting,
                format!("{WAITING_LIMIT} requests wait for a token in this worker already"),
                "See in the log what the exchange waits for; requests are taken again as soon as it ends.",
            );
            return (Answer::Failed(problem.about(grant.identity(), grant.scope()).retry_after(GRACE)), false);
        }
        slot.waiters.push(Waiter { stream, deadline: now.plus(WAIT_LIMIT) });
        self.waiting.insert(stream, key);
        self.active.insert(key);
        (Answer::Pending, slot.waiters.len() == 1)
    }

    /// A request that waited is gone. What was begun for it goes on: others may wait for the same.
    pub fn forget(&mut self, stream: StreamId) {
        if let Some(slot) = self.waiting.remove(&stream).and_then(|key| self.slots.get_mut(&key)) {
            slot.waiters.retain(|waiter| waiter.stream != stream);
        }
    }

    /// Looks at every key that something goes on with: after a wake-up, and when [`Broker::next_due`] has come.
    pub fn look(&mut self, now: Timestamp, shared: &dyn SharedData) -> Vec<Command> {
        let mut commands = Vec::new();
        for key in self.active.clone() {
            self.look_at(key, now, shared, &mut commands);
        }
        if now >= self.next_sweep {
            self.next_sweep = now.plus(SWEEP_PERIOD);
            self.slots.retain(|key, slot| self.active.contains(key) || slot.usable(now).is_some());
        }
        commands
    }

    /// When [`Broker::look`] must be called next, even if nothing happens.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.active.iter().filter_map(|key| self.slots.get(key)?.next_due()).min()
    }

    /// The answer to [`Command::ReadAssertion`].
    pub fn assertion_arrived(
        &mut self,
        key: TokenKey,
        answer: CallResult,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        let Some(slot) = self.slots.get_mut(&key) else { return commands };
        let Exchange::Reading { attempt, .. } = slot.exchange else { return commands };
        let grant = Arc::clone(&slot.grant);
        match grant.assertion().read(answer, now) {
            Ok(assertion) => {
                let until = now.plus(EXCHANGE_TIMEOUT).plus(GRACE);
                if self.renew(key, until, now, shared, &mut commands) {
                    let request = TokenRequest::new(&grant, &assertion);
                    let claims = assertion.claims().clone();
                    self.set(key, Exchange::Calling { until, attempt, asked_at: now, claims });
                    commands.push(Command::CallEndpoint(grant, request));
                }
            }
            Err(problem) => {
                let problem = problem.about(grant.identity(), grant.scope());
                self.fail(key, problem, Passing::ByItself, None, now, shared, &mut commands);
            }
        }
        commands
    }

    /// The answer to [`Command::CallEndpoint`].
    pub fn endpoint_answered(
        &mut self,
        key: TokenKey,
        answer: CallResult,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> Vec<Command> {
        let mut commands = Vec::new();
        let Some(slot) = self.slots.get_mut(&key) else { return commands };
        let Exchange::Calling { attempt, asked_at, ref claims, .. } = slot.exchange else { return commands };
        match entra::read_answer(answer, &slot.grant, claims, now) {
            entra::Answer::Granted { token, expires_in, refresh_in } => {
                let issued = Issued::new(token, asked_at, expires_in, refresh_in, self.random.next());
                self.succeed(key, issued, now, shared, &mut commands);
            }
            entra::Answer::Refused { problem, passing, retry_after } => match (attempt, passing) {
                (Attempt::First, Passing::RetrySoon) => self.try_again(key, SOON, now, shared, &mut commands),
                (Attempt::First, Passing::FreshAssertion) => {
                    self.try_again(key, Duration::ZERO, now, shared, &mut commands);
                }
                _ => self.fail(key, *problem, passing, retry_after, now, shared, &mut commands),
            },
        }
        commands
    }

    fn look_at(&mut self, key: TokenKey, now: Timestamp, shared: &dyn SharedData, commands: &mut Vec<Command>) {
        let Some(slot) = self.slots.get_mut(&key) else {
            self.active.remove(&key);
            return;
        };
        match slot.exchange {
            Exchange::Pausing { until, attempt } if until <= now => self.read(key, attempt, now, shared, commands),
            Exchange::Reading { until, .. } | Exchange::Calling { until, .. } | Exchange::Pausing { until, .. }
                if until > now => {}
            // Nobody's yet, another worker's, or one of ours whose answer never came and whose lease is over.
            _ => self.begin(key, now, shared, commands),
        }
        self.give_up_waiting(key, now, commands);
        if self.slots.get(&key).is_none_or(Slot::is_idle) {
            self.active.remove(&key);
        }
    }

    /// Takes what others have published; where that does not do, takes the lease and begins an exchange.
    fn begin(&mut self, key: TokenKey, now: Timestamp, shared: &dyn SharedData, commands: &mut Vec<Command>) {
        let (worker, queue) = (self.worker, self.queue);
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.exchange = Exchange::Idle;
        if slot.waiters.is_empty() && !slot.refresh_wanted {
            return;
        }
        let somebody_waits = !slot.waiters.is_empty();
        let until = now.plus(READ_TIMEOUT).plus(GRACE);
        let turn = shared::update(shared, key, now, |entry| {
            slot.adopt(entry);
            if slot.is_settled(now) {
                return Then::Keep(Turn::Nobodys);
            }
            match &mut entry.lease {
                Some(lease) if lease.holder != worker && lease.is_live(now) => {
                    let turn = Turn::Theirs { until: lease.until };
                    if !somebody_waits || lease.waiting.contains(&queue) {
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
                commands.push(Command::ReadAssertion(Arc::clone(&slot.grant)));
            }
            Some(Turn::Theirs { until }) => slot.exchange = Exchange::Elsewhere { until },
            Some(Turn::Nobodys) => slot.refresh_wanted = false,
            None => slot.exchange = Exchange::Elsewhere { until: now.plus(CONTENDED) },
        }
        self.finish_waiters(key, now, commands);
    }

    /// Reads the assertion once more.
    fn read(
        &mut self,
        key: TokenKey,
        attempt: Attempt,
        now: Timestamp,
        shared: &dyn SharedData,
        commands: &mut Vec<Command>,
    ) {
        let until = now.plus(READ_TIMEOUT).plus(GRACE);
        if !self.renew(key, until, now, shared, commands) {
            return;
        }
        self.set(key, Exchange::Reading { until, attempt });
        if let Some(slot) = self.slots.get(&key) {
            commands.push(Command::ReadAssertion(Arc::clone(&slot.grant)));
        }
    }

    /// Tries the exchange a second and last time, after `wait`.
    fn try_again(
        &mut self,
        key: TokenKey,
        wait: Duration,
        now: Timestamp,
        shared: &dyn SharedData,
        commands: &mut Vec<Command>,
    ) {
        if wait.is_zero() {
            return self.read(key, Attempt::Second, now, shared, commands);
        }
        let until = now.plus(wait);
        if self.renew(key, until.plus(GRACE), now, shared, commands) {
            self.set(key, Exchange::Pausing { until, attempt: Attempt::Second });
        }
    }

    /// Prolongs our lease for the next step. When it went to another worker meanwhile, ours stands down and waits.
    fn renew(
        &mut self,
        key: TokenKey,
        until: Timestamp,
        now: Timestamp,
        shared: &dyn SharedData,
        commands: &mut Vec<Command>,
    ) -> bool {
        let worker = self.worker;
        let renewed = shared::update(shared, key, now, |entry| match &mut entry.lease {
            Some(lease) if lease.holder == worker => {
                lease.until = until;
                Then::Write(true)
            }
            _ => Then::Keep(false),
        });
        if renewed == Some(true) {
            return true;
        }
        self.begin(key, now, shared, commands);
        false
    }

    fn succeed(
        &mut self,
        key: TokenKey,
        issued: Issued,
        now: Timestamp,
        shared: &dyn SharedData,
        commands: &mut Vec<Command>,
    ) {
        let Some(slot) = self.slots.get(&key) else { return };
        commands.push(Command::Log(
            Event::info("exchange")
                .with("outcome", "issued")
                .with("identity", slot.grant.identity())
                .with("scope", slot.grant.scope())
                .with("expires_in_s", issued.expires_at().since(now).as_secs())
                .with("took_ms", now.since(issued.issued_at()).as_millis()),
        ));
        self.publish(key, now, shared, commands, |entry, _| {
            if entry.token.as_ref().is_none_or(|theirs| theirs.expires_at() < issued.expires_at()) {
                entry.token = Some(issued.clone());
            }
            entry.failure = None;
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn fail(
        &mut self,
        key: TokenKey,
        problem: Problem,
        passing: Passing,
        asked_for: Option<Duration>,
        now: Timestamp,
        shared: &dyn SharedData,
        commands: &mut Vec<Command>,
    ) {
        let jitter = self.random.next();
        let Some(slot) = self.slots.get(&key) else { return };
        let failures = slot.failure.as_ref().map_or(0, |failure| failure.failures).saturating_add(1);
        let usable_for = slot.usable(now).map(|token| token.usable_for(now)).unwrap_or_default();
        let wait = freshness::back_off(failures, passing, asked_for, usable_for, jitter);
        commands.push(Command::Log(
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
        let failure = Failure { problem, next_try: now.plus(wait), failures };
        self.publish(key, now, shared, commands, |entry, ours| {
            // Another worker that took over has the later word.
            if ours {
                entry.failure = Some(failure.clone());
            }
        });
    }

    /// Gives back our lease with what came of it, wakes who waits elsewhere, and finishes our own.
    fn publish(
        &mut self,
        key: TokenKey,
        now: Timestamp,
        shared: &dyn SharedData,
        commands: &mut Vec<Command>,
        mut change: impl FnMut(&mut Entry, bool),
    ) {
        let worker = self.worker;
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let waiting = shared::update(shared, key, now, |entry| {
            let ours = entry.lease.as_ref().is_none_or(|lease| lease.holder == worker);
            change(entry, ours);
            let lease = if ours { entry.lease.take() } else { None };
            slot.adopt(entry);
            Then::Write(lease.map(|lease| lease.waiting).unwrap_or_default())
        });
        slot.exchange = Exchange::Idle;
        slot.refresh_wanted = false;
        commands.extend(waiting.unwrap_or_default().into_iter().map(Command::Wake));
        self.finish_waiters(key, now, commands);
        // Whoever could not be finished (another worker has the lease) goes on waiting.
        if self.slots.get(&key).is_some_and(|slot| !slot.waiters.is_empty()) {
            self.begin(key, now, shared, commands);
        } else {
            self.active.remove(&key);
        }
    }

    /// Finishes all who wait, when there is a token, or a failure that backs off.
    fn finish_waiters(&mut self, key: TokenKey, now: Timestamp, commands: &mut Vec<Command>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let outcome = match (slot.usable(now), slot.backing_off(now)) {
            (Some(token), _) => Ok(Arc::clone(token)),
            (None, Some(failure)) => Err(failure.told(now)),
            (None, None) => return,
        };
        for waiter in slot.waiters.drain(..) {
            self.waiting.remove(&waiter.stream);
            commands.push(Command::Finish(waiter.stream, outcome.clone()));
        }
    }

    /// Answers those whose time is over.
    fn give_up_waiting(&mut self, key: TokenKey, now: Timestamp, commands: &mut Vec<Command>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let over = slot.waiters.iter().take_while(|waiter| waiter.deadline <= now).count();
        for waiter in slot.waiters.drain(..over) {
            self.waiting.remove(&waiter.stream);
            let problem = Problem::new(
                Code::WaitedTooLong,
                format!("no token came within {} s", WAIT_LIMIT.as_secs()),
                "See in the log what the exchange waits for: Entra, or the way to it, is slow.",
            )
            .about(slot.grant.identity(), slot.grant.scope())
            .retry_after(GRACE);
            commands.push(Command::Finish(waiter.stream, Err(problem)));
        }
    }

    fn set(&mut self, key: TokenKey, exchange: Exchange) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.exchange = exchange;
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
            cluster: "entra",
        })
    }
}
