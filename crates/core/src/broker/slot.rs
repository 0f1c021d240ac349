//! The state of one token key in one worker.

use std::sync::Arc;
use std::time::Duration;

use super::freshness::{self, CachedToken};
use super::release;
use super::store::{Entry, Failure, RefusedAssertion};
use super::vocabulary::{
    EVICTED_POLL_PERIOD, FORCED_PERIOD, QueueId, RequiredLifetime, StreamId, TOUCH_PERIOD, too_many_waiting,
};
use crate::assertion::Assertion;
use crate::entra::{TokenKey, TokenRequest, TokenSpec};
use crate::fast_map::FastMap;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// The slots of one worker.
///
/// Each slot is in a box, so that a turn that takes it moves no more than a pointer. The lookups are not inlined: they are so many that the
/// module would be several kilobytes larger.
#[derive(Default)]
pub(super) struct Slots(FastMap<TokenKey, Box<Slot>>);

impl Slots {
    #[inline(never)]
    pub(super) fn get(&self, key: TokenKey) -> Option<&Slot> {
        self.0.get(&key).map(|slot| &**slot)
    }

    #[inline(never)]
    pub(super) fn get_mut(&mut self, key: TokenKey) -> Option<&mut Slot> {
        self.0.get_mut(&key).map(|slot| &mut **slot)
    }

    /// Returns the slot of a token spec, and creates it if it does not exist.
    pub(super) fn get_or_create(&mut self, spec: &Arc<TokenSpec>) -> &mut Slot {
        self.0.entry(spec.key()).or_insert_with(|| Box::new(Slot::new(Arc::clone(spec))))
    }

    /// Takes the slot of a key, to be put back at the end of the turn.
    #[inline(never)]
    pub(super) fn take(&mut self, key: TokenKey) -> Option<Box<Slot>> {
        self.0.remove(&key)
    }

    #[inline(never)]
    pub(super) fn put_back(&mut self, slot: Box<Slot>) {
        self.0.insert(slot.key(), slot);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TokenKey, &Slot)> {
        self.0.iter().map(|(key, slot)| (*key, &**slot))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Slot> {
        self.0.values().map(|slot| &**slot)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.0.values_mut().map(|slot| &mut **slot)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The state of one token key in this worker.
pub(super) struct Slot {
    pub(super) spec: Arc<TokenSpec>,
    /// Whether the token is kept fresh even if no request needs it.
    pub(super) warm: bool,
    pub(super) token: Option<Arc<CachedToken>>,
    /// Whether the token is rejected. It stays in use until another replaces it.
    pub(super) rejected: bool,
    /// Whether the shared entry lists this worker as a holder of the token, or will after the next poll.
    pub(super) registered: bool,
    /// Whether a request has used the token since it was adopted.
    pub(super) used: bool,
    /// Whether a prefetch is requested.
    pub(super) prefetch: bool,
    pub(super) failure: Option<Failure>,
    /// The federated token that Entra rejected, if the failure is a rejection of the credential.
    pub(super) refused: Option<RefusedAssertion>,
    /// The throttling or exhausted budget that holds back the exchange.
    pub(super) held_back: Option<Failure>,
    /// The time at which a request last used the token.
    pub(super) used_at: Timestamp,
    /// The time at which that use was last shared with the other workers.
    pub(super) touched_at: Timestamp,
    /// The time of the next check for another worker's token, if the scope was evicted while its token was in use.
    pub(super) evicted: Option<Timestamp>,
    /// In order of arrival, which is also the order of deadlines.
    pub(super) waiters: Vec<Waiter>,
    pub(super) exchange: Exchange,
    /// In a VM that serves no requests, the number of failed reads of the federated token.
    pub(super) unreadable: u32,
    /// Whether the lease metric counts this worker's lease.
    pub(super) leased: bool,
    /// The time of the next poll, as in [`Broker::timers`](super::Broker).
    pub(super) timer: Option<Timestamp>,
}

/// A request that waits for the token.
pub(super) struct Waiter {
    pub(super) stream: StreamId,
    pub(super) deadline: Timestamp,
    pub(super) required_lifetime: RequiredLifetime,
    /// The token that the caller rejects and must not receive.
    pub(super) rejected: Option<Rejected>,
}

/// A token that must not be served to the caller that rejected it.
pub(super) enum Rejected {
    This(Arc<CachedToken>),
    /// The token with this SHA-256, if this worker ever adopts it. The caller rejected it at `asked_at`.
    Digest {
        digest: [u8; 32],
        asked_at: Timestamp,
    },
}

/// The immediate result of a token request.
pub enum TokenLookup {
    /// The cached token.
    Ready(Arc<CachedToken>),
    /// The stream must pause. A later `Command::Finish` names it.
    Pending,
    /// There is no token, and the request must not wait for one.
    Failed(Problem),
}

/// The result of a token request.
pub(super) enum TokenRequestResult<'a> {
    Token(&'a Arc<CachedToken>),
    Failure(&'a Failure),
    /// Entra issued the rejected token again.
    SameToken,
}

impl Rejected {
    pub(super) fn is(&self, token: &CachedToken) -> bool {
        match self {
            Self::This(this) => std::ptr::eq(Arc::as_ptr(this), token) || this.token() == token.token(),
            Self::Digest { digest, .. } => token.token().digest() == *digest,
        }
    }

    /// Whether Entra has issued this token, which the caller rejected, again since the rejection.
    fn is_issued_again(&self, token: &CachedToken) -> bool {
        match self {
            Self::This(this) => this.issued_at() != token.issued_at(),
            Self::Digest { asked_at, .. } => *asked_at <= token.issued_at(),
        }
    }
}

/// The state of a key's exchange in this worker.
pub(super) enum Exchange {
    /// No exchange is needed.
    Idle,
    /// Another worker holds the lease, or this worker may not begin yet. Poll again at `until` at the latest.
    Deferred { until: Timestamp },
    /// This worker waits for the assertion during the back-off. One that Entra has not rejected ends the back-off.
    Comparing { since: Timestamp, until: Timestamp },
    /// This worker waits for the assertion.
    Reading { since: Timestamp, until: Timestamp, attempt: Attempt },
    /// This worker calls the token endpoint.
    Calling { until: Timestamp, call: Box<EndpointCall> },
    /// This worker waits until `until` to read the assertion again.
    Pausing { until: Timestamp, attempt: Attempt },
}

impl Exchange {
    /// Whether it waits for the assertion.
    pub(super) const fn is_reading(&self) -> bool {
        matches!(self, Self::Comparing { .. } | Self::Reading { .. })
    }

    /// Whether it waits for the token endpoint.
    pub(super) const fn is_calling(&self) -> bool {
        matches!(self, Self::Calling { .. })
    }

    /// The time of the next poll, which is also the end of this worker's lease if it holds it.
    pub(super) const fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Idle => None,
            Self::Deferred { until }
            | Self::Comparing { until, .. }
            | Self::Reading { until, .. }
            | Self::Calling { until, .. }
            | Self::Pausing { until, .. } => Some(*until),
        }
    }

    /// Makes a wait for the assertion last until then.
    pub(super) const fn extend(&mut self, later: Timestamp) {
        if let Self::Comparing { until, .. } | Self::Reading { until, .. } = self {
            *until = later;
        }
    }
}

/// A call to the token endpoint.
pub(super) struct EndpointCall {
    pub(super) attempt: Attempt,
    pub(super) asked_at: Timestamp,
    /// The assertion that was sent. Parts of it are removed from the texts of the response.
    pub(super) assertion: Arc<Assertion>,
    pub(super) request: TokenRequest,
    /// The index of the cluster among the token spec's clusters.
    pub(super) cluster_index: usize,
}

/// The attempt of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    Second,
}

impl Slot {
    pub(super) fn new(spec: Arc<TokenSpec>) -> Self {
        Self {
            spec,
            warm: false,
            token: None,
            rejected: false,
            registered: false,
            used: false,
            prefetch: false,
            failure: None,
            refused: None,
            held_back: None,
            used_at: Timestamp::default(),
            touched_at: Timestamp::default(),
            evicted: None,
            waiters: Vec::new(),
            exchange: Exchange::Idle,
            unreadable: 0,
            leased: false,
            timer: None,
        }
    }

    /// The key of its token.
    pub(super) fn key(&self) -> TokenKey {
        self.spec.key()
    }

    pub(super) fn usable(&self, now: Timestamp) -> Option<&Arc<CachedToken>> {
        self.token.as_ref().filter(|token| token.is_usable(now))
    }

    pub(super) fn backing_off(&self, now: Timestamp) -> Option<&Failure> {
        self.failure.iter().chain(&self.held_back).find(|failure| failure.is_backing_off(now))
    }

    /// Whether another federated token would end the back-off, and the file may be read now to check for one.
    pub(super) fn may_compare(&self, now: Timestamp) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.is_backing_off(now))
            && self.refused.is_some_and(|refused| refused.may_be_compared(now))
            && !self.held_back.as_ref().is_some_and(|failure| failure.is_backing_off(now))
    }

    /// Whether a request must wait although the exchange backs off, because the file is being read or is about to be.
    fn awaits_comparison(&self, now: Timestamp) -> bool {
        self.may_compare(now) || matches!(self.exchange, Exchange::Comparing { .. })
    }

    /// Whether this worker neither performs an exchange for the key nor has waiters. Another worker may perform one.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty() && !self.prefetch && !self.holds_lease()
    }

    /// Whether Entra rejected the last exchange and there is no token that can be sent.
    pub(super) fn is_refused(&self, now: Timestamp) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.problem.code == Code::EntraRefused)
            && self.usable(now).is_none()
    }

    /// Returns the token if it has the required lifetime and is not discarded. During a back-off, every token that can be sent is
    /// acceptable.
    pub(super) fn acceptable(&self, required_lifetime: RequiredLifetime, now: Timestamp) -> Option<&Arc<CachedToken>> {
        self.usable(now).filter(|token| {
            let fits = (required_lifetime == RequiredLifetime::Any || token.is_long_lived(now))
                && !self.is_discarded(token, now);
            fits || self.backing_off(now).is_some()
        })
    }

    /// Returns the token if it can be sent, whatever its remaining lifetime, and is not the one that the caller rejects.
    pub(super) fn usable_for(&self, rejected: Option<&Rejected>, now: Timestamp) -> Option<&Arc<CachedToken>> {
        self.usable(now).filter(|token| !rejected.is_some_and(|rejected| rejected.is(token)))
    }

    /// Returns the result of a request: an acceptable token or a failure that backs off, and `None` while the request must wait.
    pub(super) fn outcome(
        &self,
        required_lifetime: RequiredLifetime,
        rejected: Option<&Rejected>,
        now: Timestamp,
    ) -> Option<TokenRequestResult<'_>> {
        if let Some(token) = self.acceptable(required_lifetime, now) {
            match rejected.filter(|rejected| rejected.is(token)) {
                None => return Some(TokenRequestResult::Token(token)),
                Some(rejected) if rejected.is_issued_again(token) => return Some(TokenRequestResult::SameToken),
                Some(_) => {}
            }
        }
        self.backing_off(now).filter(|_| !self.awaits_comparison(now)).map(TokenRequestResult::Failure)
    }

    /// Converts an outcome to the result that the request receives.
    pub(super) fn result_of(
        &self,
        outcome: TokenRequestResult<'_>,
        now: Timestamp,
    ) -> Result<Arc<CachedToken>, Problem> {
        match outcome {
            TokenRequestResult::Token(token) => Ok(Arc::clone(token)),
            TokenRequestResult::Failure(failure) => Err(failure.to_problem(now)),
            TokenRequestResult::SameToken => Err(same_token_again().about(self.spec.identity(), self.spec.scope())),
        }
    }

    /// Answers a request or makes it wait. `full` is the limit on waiting requests if it is reached. The second value is true when
    /// [`super::Broker::poll`] must be called.
    pub(super) fn answer(&mut self, waiter: Waiter, full: Option<usize>, now: Timestamp) -> (TokenLookup, bool) {
        // The first use of a token and a new key need a timer.
        let poll = self.timer.is_none();
        let outcome = self.outcome(waiter.required_lifetime, waiter.rejected.as_ref(), now);
        match outcome.map(|outcome| self.result_of(outcome, now)) {
            Some(Ok(token)) => return (TokenLookup::Ready(token), self.mark_used() || poll),
            Some(Err(problem)) => return (TokenLookup::Failed(problem), self.must_register(now) || poll),
            None => {}
        }
        let Some(waiting) = full else {
            self.waiters.push(waiter);
            return (TokenLookup::Pending, self.waiters.len() == 1);
        };
        // A token with less than the required lifetime is better than none.
        if let Some(token) = self.usable_for(waiter.rejected.as_ref(), now) {
            let token = Arc::clone(token);
            return (TokenLookup::Ready(token), self.mark_used() || poll);
        }
        let problem = too_many_waiting(waiting).about(self.spec.identity(), self.spec.scope());
        (TokenLookup::Failed(problem), self.must_register(now) || poll)
    }

    /// Removes a waiting request. Returns whether it waited.
    pub(super) fn forget(&mut self, stream: StreamId) -> bool {
        let index = self.waiters.iter().position(|waiter| waiter.stream == stream);
        index.map(|index| self.waiters.remove(index)).is_some()
    }

    /// Records that the token is used. Returns whether [`super::Broker::poll`] must be called: the first use needs a timer, and this
    /// worker must be registered as a holder.
    pub(super) const fn mark_used(&mut self) -> bool {
        let (used, registered) = (self.used, self.registered);
        (self.used, self.registered) = (true, true);
        !used || !registered
    }

    /// Whether [`super::Broker::poll`] must be called because this worker holds a token and is not registered as a holder: it adopted the
    /// token for a caller that rejects it, and later callers may be served it.
    pub(super) fn must_register(&mut self, now: Timestamp) -> bool {
        self.usable(now).is_some() && !std::mem::replace(&mut self.registered, true)
    }

    /// Whether there is a result for a waiter, which then only waits for its release.
    pub(super) fn has_ready_waiter(&self, now: Timestamp) -> bool {
        let is_ready =
            |waiter: &Waiter| self.outcome(waiter.required_lifetime, waiter.rejected.as_ref(), now).is_some();
        self.waiters.iter().any(is_ready)
    }

    /// Adopts the token and failure that another worker has published.
    pub(super) fn adopt(&mut self, entry: &Entry, now: Timestamp) {
        let is_better = |theirs: &&CachedToken| theirs.is_usable(now) || self.usable(now).is_none();
        let theirs = entry.token.as_ref().filter(is_better);
        if let Some(theirs) = theirs.filter(|theirs| self.token.as_deref() != Some(theirs)) {
            self.token = Some(Arc::new(theirs.clone()));
            self.used = std::mem::take(&mut self.prefetch);
            (self.rejected, self.registered) = (false, false);
        }
        self.rejected |= entry.rejected && self.token.as_deref() == entry.token.as_ref();
        self.failure.clone_from(&entry.failure);
        self.refused = entry.refused;
    }

    /// Adopts the shared entry after a wake-up, and registers this worker's queue as a holder of the token. Returns whether the entry
    /// changed.
    pub(super) fn synchronize(&mut self, entry: &mut Entry, queue: QueueId, now: Timestamp) -> bool {
        let before = self.token.clone();
        let was_unused = self.is_unused();
        self.adopt(entry, now);
        if was_unused && before.is_some() && before != self.token {
            // Another worker keeps the token fresh, and this one does not use it.
            (self.token, self.rejected) = (None, false);
        }
        let is_evicted = !self.spec.is_listed() && entry.is_evicted();
        if is_evicted && !self.keeps_evicted(now) {
            // The next request is admitted again.
            (self.token, self.rejected) = (None, false);
        }
        self.evicted = is_evicted.then(|| now.plus(EVICTED_POLL_PERIOD));
        // Also for an older token whose replacement has expired: this worker must be woken for the next one.
        let held = self.usable(now);
        let unregistered = held.filter(|_| !is_evicted && !entry.holders.contains(&queue));
        if let Some(token) = unregistered {
            entry.enter(queue, token);
        }
        let changed = unregistered.is_some();
        self.registered = held.is_some();
        changed
    }

    /// Whether the token stays in this worker although its scope was evicted, because requests wait for it or use it.
    pub(super) fn keeps_evicted(&self, now: Timestamp) -> bool {
        self.spec.is_listed() || !self.is_idle() || (!self.rejected && now.since(self.used_at) < TOUCH_PERIOD)
    }

    /// Whether no request in this worker has used the token since it was adopted.
    fn is_unused(&self) -> bool {
        let asked = self.warm || self.used || self.prefetch || !self.waiters.is_empty();
        !asked && matches!(self.exchange, Exchange::Idle)
    }

    /// Moves all times back after the clock was set back, so that waits do not become longer, and removes a token with an issue time in
    /// the future, so that it is not used again when the clock reaches that time.
    pub(super) fn set_back(&mut self, by: Duration, now: Timestamp) {
        if self.token.take_if(|token| !token.is_usable(now)).is_some() {
            self.rejected = false;
        }
        (self.used_at, self.touched_at) = (self.used_at.minus(by), self.touched_at.minus(by));
        self.evicted = self.evicted.map(|at| at.minus(by));
        for waiter in &mut self.waiters {
            waiter.deadline = waiter.deadline.minus(by);
            if let Some(Rejected::Digest { asked_at, .. }) = &mut waiter.rejected {
                *asked_at = asked_at.minus(by);
            }
        }
        match &mut self.exchange {
            Exchange::Idle => {}
            Exchange::Deferred { until } | Exchange::Pausing { until, .. } => *until = until.minus(by),
            Exchange::Comparing { since, until } | Exchange::Reading { since, until, .. } => {
                (*since, *until) = (since.minus(by), until.minus(by));
            }
            Exchange::Calling { until, call } => {
                *until = until.minus(by);
                call.asked_at = call.asked_at.minus(by);
            }
        }
    }

    /// Whether the configuration discards the token.
    fn is_discarded(&self, token: &CachedToken, now: Timestamp) -> bool {
        freshness::is_discarded(token.issued_at(), self.spec.discard_before(), now)
    }

    /// Whether the token is to be replaced.
    fn is_due(&self, token: &CachedToken, now: Timestamp) -> bool {
        token.is_due(now) || self.rejected || self.is_discarded(token, now)
    }

    /// Whether an exchange is needed now.
    pub(super) fn needs_exchange(&self, now: Timestamp) -> bool {
        if self.backing_off(now).is_some() && !self.may_compare(now) {
            return false;
        }
        match self.usable(now) {
            None => self.warm || self.prefetch || !self.waiters.is_empty(),
            Some(token) => {
                let due = self.is_due(token, now) && (self.warm || self.used);
                let unserved =
                    |waiter: &Waiter| self.outcome(waiter.required_lifetime, waiter.rejected.as_ref(), now).is_none();
                due || self.waiters.iter().any(unserved)
            }
        }
    }

    /// Whether this worker holds the key's lease.
    pub(super) const fn holds_lease(&self) -> bool {
        !matches!(self.exchange, Exchange::Idle | Exchange::Deferred { .. })
    }

    /// Returns the time of the next poll if no event occurs before, or `None` if the slot can be removed.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let exchange = self.exchange.until();
        let waiter = if self.has_ready_waiter(now) {
            Some(now.plus(release::PERIOD))
        } else {
            self.waiters.first().map(|waiter| waiter.deadline)
        };
        if exchange.is_some() || waiter.is_some() {
            return exchange.into_iter().chain(waiter).min();
        }
        let next_try = self.backing_off(now).map(|failure| failure.next_try);
        match self.usable(now) {
            Some(token) => {
                let refresh = if self.is_due(token, now) { now } else { token.refresh_at() };
                let refresh = next_try.map_or(refresh, |next_try| next_try.max(refresh));
                let refresh = Some(refresh).filter(|_| self.warm || self.used);
                refresh.into_iter().chain(self.evicted).chain([token.usable_until()]).min()
            }
            None if self.warm => Some(next_try.unwrap_or(now)),
            // A slot that is only held back is not kept, because callers could create any number of them.
            None => self.failure.as_ref().and(next_try),
        }
    }
}

/// The problem of a caller that rejects a token which Entra issues again. Another exchange would return the same token.
fn same_token_again() -> Problem {
    Problem::new(
        Code::EntraReplyInvalid,
        "Entra issued the same token again that this request rejects",
        "Retry after the time in Retry-After. If this repeats, check for a cache or proxy between the filter and Entra: Entra \
         issues a new token in each exchange.",
    )
    .retry_after(FORCED_PERIOD)
}
