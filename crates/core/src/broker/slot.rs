//! What one worker knows of one key.

use std::sync::Arc;
use std::time::Duration;

use super::freshness::{self, CachedToken};
use super::shared::{Entry, Failure, RefusedAssertion};
use super::{FORCED_PERIOD, Need, QueueId, StreamId, TokenLookup, release, too_many_waiting};
use crate::assertion::Assertion;
use crate::entra::{TokenRequest, TokenSpec};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// What this worker knows of one key.
pub(super) struct Slot {
    pub(super) spec: Arc<TokenSpec>,
    /// To be kept fresh even when nobody asks.
    pub(super) warm: bool,
    pub(super) token: Option<Arc<CachedToken>>,
    /// Whether the token is rejected: it stays in use until another is there.
    pub(super) rejected: bool,
    /// Whether the shared entry names this worker among those that hold the token, or it will after the next look.
    pub(super) entered: bool,
    /// Whether anybody asked since the token came.
    pub(super) used: bool,
    /// Whether somebody asked who does not wait for it.
    pub(super) wanted: bool,
    pub(super) failure: Option<Failure>,
    /// The federated token that Entra refused, if the failure is a refusal of the credential.
    pub(super) refused: Option<RefusedAssertion>,
    /// What holds its exchange back though it did not fail itself.
    pub(super) held_back: Option<Failure>,
    /// When a request last used or asked for the token.
    pub(super) used_at: Timestamp,
    /// When that was last told to the other workers.
    pub(super) touched_at: Timestamp,
    /// In the order in which they came, which is the order of their deadlines.
    pub(super) waiters: Vec<Waiter>,
    pub(super) exchange: Exchange,
    /// In a VM that serves no requests: how often the federated token could not be read.
    pub(super) unreadable: u32,
    /// Whether the last reading of the federated token gave no JWT, so that one more decides.
    pub(super) malformed: bool,
    /// Whether a lease of this worker's is counted.
    pub(super) leased: bool,
    /// When the key is to be looked at next, as it stands in [`Broker::timers`].
    pub(super) timer: Option<Timestamp>,
}

pub(super) struct Waiter {
    pub(super) stream: StreamId,
    pub(super) deadline: Timestamp,
    pub(super) need: Need,
    /// The token that the caller rejects and must not get.
    pub(super) rejected: Option<Rejected>,
}

/// A token that a caller rejects.
pub(super) enum Rejected {
    This(Arc<CachedToken>),
    /// The one with this SHA-256, should it ever come into use here; the caller asked for another at `asked_at`.
    Digest {
        digest: [u8; 32],
        asked_at: Timestamp,
    },
}

/// How a request for a token ends.
pub(super) enum Outcome<'a> {
    Token(&'a Arc<CachedToken>),
    Failure(&'a Failure),
    /// Entra issued the token again that the request rejects.
    SameToken,
}

impl Rejected {
    pub(super) fn is(&self, token: &CachedToken) -> bool {
        match self {
            Self::This(this) => std::ptr::eq(Arc::as_ptr(this), token) || this.token() == token.token(),
            Self::Digest { digest, .. } => token.token().digest() == *digest,
        }
    }

    /// Whether Entra issued this token, which is the rejected one, once more since the caller rejected it.
    fn is_issued_again(&self, token: &CachedToken) -> bool {
        match self {
            Self::This(this) => this.issued_at() != token.issued_at(),
            Self::Digest { asked_at, .. } => *asked_at <= token.issued_at(),
        }
    }
}

/// Where the exchange for a key stands, as this worker sees it.
pub(super) enum Exchange {
    /// Nobody needs one.
    Idle,
    /// Another worker has the lease, or this one must not try; look again then at the latest.
    Elsewhere { until: Timestamp },
    /// This worker asked for the assertion while the exchange backs off: one that Entra did not refuse ends the back-off.
    Comparing { until: Timestamp },
    /// This worker asked for the assertion.
    Reading { until: Timestamp, attempt: Attempt },
    /// This worker called the token endpoint.
    Calling { until: Timestamp, call: Box<EndpointCall> },
    /// This worker tries once more, then.
    Pausing { until: Timestamp, attempt: Attempt },
}

/// A call to the token endpoint.
pub(super) struct EndpointCall {
    pub(super) attempt: Attempt,
    pub(super) asked_at: Timestamp,
    /// What the answer is compared with, so that nothing of it is quoted.
    pub(super) assertion: Assertion,
    pub(super) request: TokenRequest,
    /// The place of the cluster among the ways to the authority.
    pub(super) cluster_index: usize,
}

/// Which try of one exchange this is.
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
            entered: false,
            used: false,
            wanted: false,
            failure: None,
            refused: None,
            held_back: None,
            used_at: Timestamp::default(),
            touched_at: Timestamp::default(),
            waiters: Vec::new(),
            exchange: Exchange::Idle,
            unreadable: 0,
            malformed: false,
            leased: false,
            timer: None,
        }
    }

    pub(super) fn usable(&self, now: Timestamp) -> Option<&Arc<CachedToken>> {
        self.token.as_ref().filter(|token| token.is_usable(now))
    }

    pub(super) fn backing_off(&self, now: Timestamp) -> Option<&Failure> {
        self.failure.iter().chain(&self.held_back).find(|failure| failure.is_backing_off(now))
    }

    /// Whether the back-off is one that another federated token would end, and the file may be read to see whether it is there.
    pub(super) fn may_compare(&self, now: Timestamp) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.is_backing_off(now))
            && self.refused.is_some_and(|refused| refused.may_be_compared(now))
            && !self.held_back.as_ref().is_some_and(|failure| failure.is_backing_off(now))
    }

    /// Whether a request must wait although the exchange backs off: the file is read for it, or is about to be.
    fn awaits_comparison(&self, now: Timestamp) -> bool {
        self.may_compare(now) || matches!(self.exchange, Exchange::Comparing { .. })
    }

    /// Whether this worker does nothing for the key, and nobody here waits for it. Another worker may exchange it.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty() && !self.wanted && !self.holds_lease()
    }

    /// Whether Entra refused it last.
    pub(super) fn is_refused(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.problem.code == Code::EntraRefused)
    }

    /// The token, when it does for this need. While a back-off runs, whatever can be sent does.
    pub(super) fn fitting(&self, need: Need, now: Timestamp) -> Option<&Arc<CachedToken>> {
        self.usable(now).filter(|token| {
            let fits = (need == Need::Usable || token.is_long_lived(now)) && !self.is_discarded(token, now);
            fits || self.backing_off(now).is_some()
        })
    }

    /// The token that can be sent for a caller, however little of it is left: not the one that the caller rejects.
    pub(super) fn usable_for(&self, rejected: Option<&Rejected>, now: Timestamp) -> Option<&Arc<CachedToken>> {
        self.usable(now).filter(|token| !rejected.is_some_and(|rejected| rejected.is(token)))
    }

    /// How a request ends for which this is needed: with a token that does, or with a failure that backs off; `None` while
    /// it must wait.
    pub(super) fn outcome(&self, need: Need, rejected: Option<&Rejected>, now: Timestamp) -> Option<Outcome<'_>> {
        if let Some(token) = self.fitting(need, now) {
            match rejected.filter(|rejected| rejected.is(token)) {
                None => return Some(Outcome::Token(token)),
                Some(rejected) if rejected.is_issued_again(token) => return Some(Outcome::SameToken),
                Some(_) => {}
            }
        }
        self.backing_off(now).filter(|_| !self.awaits_comparison(now)).map(Outcome::Failure)
    }

    /// The outcome as the request gets it.
    pub(super) fn result_of(&self, outcome: Outcome<'_>, now: Timestamp) -> Result<Arc<CachedToken>, Problem> {
        match outcome {
            Outcome::Token(token) => Ok(Arc::clone(token)),
            Outcome::Failure(failure) => Err(failure.to_problem(now)),
            Outcome::SameToken => Err(same_token_again().about(self.spec.identity(), self.spec.scope())),
        }
    }

    /// Answers a request, or has it wait unless the worker is `full`: then, as many wait there as may. The second value
    /// says whether [`super::Broker::look`] must be called.
    pub(super) fn answer(&mut self, waiter: Waiter, full: Option<usize>, now: Timestamp) -> (TokenLookup, bool) {
        // The first use of a token, and a key that is new, need a timer.
        let look = self.timer.is_none();
        let outcome = self.outcome(waiter.need, waiter.rejected.as_ref(), now);
        match outcome.map(|outcome| self.result_of(outcome, now)) {
            Some(Ok(token)) => return (TokenLookup::Ready(token), self.use_token() || look),
            Some(Err(problem)) => return (TokenLookup::Failed(problem), look),
            None => {}
        }
        let Some(waiting) = full else {
            self.waiters.push(waiter);
            return (TokenLookup::Pending, self.waiters.len() == 1);
        };
        // One that does not last is better than none.
        if let Some(token) = self.usable_for(waiter.rejected.as_ref(), now) {
            let token = Arc::clone(token);
            return (TokenLookup::Ready(token), self.use_token() || look);
        }
        let problem = too_many_waiting(waiting).about(self.spec.identity(), self.spec.scope());
        (TokenLookup::Failed(problem), look)
    }

    /// Notes that the token is used. Returns whether [`super::Broker::look`] must be called: the first use needs a timer, and
    /// the other workers must know who holds the token.
    pub(super) const fn use_token(&mut self) -> bool {
        let (used, entered) = (self.used, self.entered);
        (self.used, self.entered) = (true, true);
        !used || !entered
    }

    /// Whether a waiter can be finished as soon as it may be released.
    pub(super) fn has_ready_waiter(&self, now: Timestamp) -> bool {
        let is_ready = |waiter: &Waiter| self.outcome(waiter.need, waiter.rejected.as_ref(), now).is_some();
        self.waiters.iter().any(is_ready)
    }

    /// Takes over what another worker has published.
    pub(super) fn adopt(&mut self, entry: &Entry, now: Timestamp) {
        let is_better = |theirs: &&CachedToken| theirs.is_usable(now) || self.usable(now).is_none();
        let theirs = entry.token.as_ref().filter(is_better);
        if let Some(theirs) = theirs.filter(|theirs| self.token.as_deref() != Some(theirs)) {
            self.token = Some(Arc::new(theirs.clone()));
            self.used = std::mem::take(&mut self.wanted);
            (self.rejected, self.entered) = (false, false);
        }
        self.rejected |= entry.rejected && self.token.as_deref() == entry.token.as_ref();
        self.failure.clone_from(&entry.failure);
        self.refused = entry.refused;
    }

    /// Takes over what is shared after a wake-up, and enters the queue of this worker among those that hold the token.
    /// Returns whether the entry changed.
    pub(super) fn synchronize(&mut self, entry: &mut Entry, queue: QueueId, now: Timestamp) -> bool {
        let before = self.token.clone();
        let was_unused = self.is_unused();
        self.adopt(entry, now);
        if was_unused && before.is_some() && before != self.token {
            // Another worker keeps the token fresh; this one has no use for it.
            (self.token, self.rejected) = (None, false);
        }
        // Also an older one, when the one that took its place is over: the next is to be known here.
        let held = self.usable(now);
        let enters = held.filter(|_| !entry.holders.contains(&queue));
        if let Some(token) = enters {
            entry.enter(queue, token);
        }
        let has_entered = enters.is_some();
        self.entered = held.is_some();
        has_entered
    }

    /// Whether nobody here has asked since the token came.
    fn is_unused(&self) -> bool {
        let asked = self.warm || self.used || self.wanted || !self.waiters.is_empty();
        !asked && matches!(self.exchange, Exchange::Idle)
    }

    /// The clock was set back: what was to happen in a while is to happen in that while still, and a token from the future
    /// must not come into use again when the clock has caught up.
    pub(super) fn set_back(&mut self, by: Duration, now: Timestamp) {
        if self.token.take_if(|token| !token.is_usable(now)).is_some() {
            self.rejected = false;
        }
        for waiter in &mut self.waiters {
            waiter.deadline = waiter.deadline.minus(by);
            if let Some(Rejected::Digest { asked_at, .. }) = &mut waiter.rejected {
                *asked_at = asked_at.minus(by);
            }
        }
        match &mut self.exchange {
            Exchange::Idle => {}
            Exchange::Elsewhere { until }
            | Exchange::Comparing { until }
            | Exchange::Reading { until, .. }
            | Exchange::Pausing { until, .. } => *until = until.minus(by),
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

    /// Whether another token is to be fetched in place of this one.
    fn is_due(&self, token: &CachedToken, now: Timestamp) -> bool {
        token.is_due(now) || self.rejected || self.is_discarded(token, now)
    }

    /// Whether an exchange is to be made now.
    pub(super) fn wants_exchange(&self, now: Timestamp) -> bool {
        if self.backing_off(now).is_some() && !self.may_compare(now) {
            return false;
        }
        match self.usable(now) {
            None => self.warm || self.wanted || !self.waiters.is_empty(),
            Some(token) => {
                let due = self.is_due(token, now) && (self.warm || self.used || !self.waiters.is_empty());
                let unserved = |waiter: &Waiter| self.outcome(waiter.need, waiter.rejected.as_ref(), now).is_none();
                due || self.waiters.iter().any(unserved)
            }
        }
    }

    /// Whether this worker is fetching.
    pub(super) const fn holds_lease(&self) -> bool {
        !matches!(self.exchange, Exchange::Idle | Exchange::Elsewhere { .. })
    }

    /// When to look at it, even if nothing happens; `None` when it can be let go.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let exchange = match &self.exchange {
            Exchange::Idle => None,
            Exchange::Elsewhere { until }
            | Exchange::Comparing { until }
            | Exchange::Reading { until, .. }
            | Exchange::Calling { until, .. }
            | Exchange::Pausing { until, .. } => Some(*until),
        };
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
            Some(token) if self.warm || self.used => {
                let refresh = if self.is_due(token, now) { now } else { token.refresh_at() };
                Some(next_try.map_or(refresh, |next_try| next_try.max(refresh)).min(token.usable_until()))
            }
            Some(token) => Some(token.usable_until()),
            None if self.warm => Some(next_try.unwrap_or(now)),
            // One that is only held back has nothing to keep: callers could make any number.
            None => self.failure.as_ref().and(next_try),
        }
    }
}

/// The answer to a caller that rejects a token which Entra issues again: one more exchange would bring the same.
fn same_token_again() -> Problem {
    Problem::new(
        Code::EntraReplyInvalid,
        "Entra issued the token again that this request rejects",
        "Retry after the time in Retry-After. If it repeats, check what is between the filter and Entra: Entra issues a new \
         token in each exchange.",
    )
    .retry_after(FORCED_PERIOD)
}
