//! What one worker knows of one key.

use std::sync::Arc;
use std::time::Duration;

use super::freshness::Issued;
use super::shared::{self, Entry, Failure, Then};
use super::{FORCED_PERIOD, Need, SharedData, StreamId, release};
use crate::assertion::Assertion;
use crate::entra::{Grant, TokenKey, TokenRequest};
use crate::problem::Code;
use crate::time::Timestamp;

/// What this worker knows of one key.
pub(super) struct Slot {
    pub(super) grant: Arc<Grant>,
    /// To be kept fresh even when nobody asks.
    pub(super) warm: bool,
    pub(super) token: Option<Arc<Issued>>,
    /// Whether anybody asked since the token came.
    pub(super) used: bool,
    /// Whether somebody asked who does not wait for it.
    pub(super) wanted: bool,
    pub(super) failure: Option<Failure>,
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
}

/// Where the exchange for a key stands, as this worker sees it.
pub(super) enum Exchange {
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
pub(super) struct Call {
    pub(super) attempt: Attempt,
    pub(super) asked_at: Timestamp,
    /// What the answer is compared with, so that nothing of it is quoted.
    pub(super) assertion: Assertion,
    pub(super) request: TokenRequest,
    /// The place of the cluster among the ways to the authority.
    pub(super) way: usize,
}

/// Which try of one exchange this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    Second,
}

impl Slot {
    pub(super) fn new(grant: Arc<Grant>) -> Self {
        Self {
            grant,
            warm: false,
            token: None,
            used: false,
            wanted: false,
            failure: None,
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

    pub(super) fn usable(&self, now: Timestamp) -> Option<&Arc<Issued>> {
        self.token.as_ref().filter(|token| token.is_usable(now))
    }

    pub(super) fn backing_off(&self, now: Timestamp) -> Option<&Failure> {
        self.failure.iter().chain(&self.held_back).find(|failure| failure.is_backing_off(now))
    }

    /// Whether nothing is under way or waited for.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty() && !self.wanted && matches!(self.exchange, Exchange::Idle)
    }

    /// Whether Entra refused it last.
    pub(super) fn is_refused(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.problem.code == Code::EntraRefused)
    }

    /// The token, when it does for this need. While a back-off runs, whatever can be sent does.
    pub(super) fn fitting(&self, need: Need, now: Timestamp) -> Option<&Arc<Issued>> {
        self.usable(now)
            .filter(|token| need == Need::Usable || token.is_long_lived(now) || self.backing_off(now).is_some())
    }

    /// Whether a waiter can be finished as soon as it may be released.
    pub(super) fn has_ready_waiter(&self, now: Timestamp) -> bool {
        let failed = self.backing_off(now).is_some();
        [Need::Usable, Need::LongLived].into_iter().any(|need| {
            (failed || self.fitting(need, now).is_some()) && self.waiters.iter().any(|waiter| waiter.need == need)
        })
    }

    /// Takes over what another worker has published.
    pub(super) fn adopt(&mut self, entry: &Entry) {
        if let Some(theirs) = entry.token.as_ref().filter(|theirs| self.token.as_deref() != Some(theirs)) {
            self.token = Some(Arc::new(theirs.clone()));
            self.used = std::mem::take(&mut self.wanted);
        }
        self.failure.clone_from(&entry.failure);
    }

    /// The clock was set back: what was to happen in a while is to happen in that while still.
    pub(super) fn set_back(&mut self, by: Duration) {
        for waiter in &mut self.waiters {
            waiter.deadline = waiter.deadline.minus(by);
        }
        match &mut self.exchange {
            Exchange::Idle => {}
            Exchange::Elsewhere { until }
            | Exchange::Reading { until, .. }
            | Exchange::Calling { until, .. }
            | Exchange::Pausing { until, .. } => *until = until.minus(by),
        }
    }

    /// Drops a token that must not be used any more, by configuration.
    pub(super) fn drop_discarded(&mut self, key: TokenKey, now: Timestamp, shared: &dyn SharedData) {
        let before = self.grant.discard_before();
        if let Some(token) = self.token.clone().filter(|token| before.is_some_and(|before| token.issued_at() < before))
        {
            self.reject(key, &token, now, shared);
        }
    }

    /// Drops a token for all workers, unless another came since or one was dropped a moment ago.
    pub(super) fn reject(&mut self, key: TokenKey, token: &Issued, now: Timestamp, shared: &dyn SharedData) -> bool {
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
    pub(super) fn wants_exchange(&self, now: Timestamp) -> bool {
        if self.backing_off(now).is_some() {
            return false;
        }
        match self.usable(now) {
            None => self.warm || self.wanted || !self.waiters.is_empty(),
            Some(token) => {
                let due = token.is_due(now) && (self.warm || self.used || !self.waiters.is_empty());
                due || self.waiters.iter().any(|waiter| self.fitting(waiter.need, now).is_none())
            }
        }
    }

    /// Whether this worker is fetching.
    pub(super) const fn holds_lease(&self) -> bool {
        matches!(self.exchange, Exchange::Reading { .. } | Exchange::Calling { .. } | Exchange::Pausing { .. })
    }

    /// When to look at it, even if nothing happens; `None` when it can be let go.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let exchange = match &self.exchange {
            Exchange::Idle => None,
            Exchange::Elsewhere { until }
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
                let refresh = token.refresh_at();
                Some(next_try.map_or(refresh, |next_try| next_try.max(refresh)).min(token.usable_until()))
            }
            Some(token) => Some(token.usable_until()),
            None if self.warm => Some(next_try.unwrap_or(now)),
            // One that is only held back has nothing to keep: callers could make any number.
            None => self.failure.as_ref().and(next_try),
        }
    }
}
