//! The shared state of one token key: the token, the last failure, the lease, and the workers to wake.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::causes::Causes;
use super::super::exchanges::Exchanges;
use super::super::freshness::CachedToken;
use super::super::vocabulary::{FORCED_PERIOD, GRACE_PERIOD, LONGEST_LEASE, QueueId, READING_PERIOD, WorkerId};
use super::{Record, Update};
use crate::assertion::Fingerprint;
use crate::entra::RetryClass;
use crate::problem::Problem;
use crate::time::Timestamp;

/// Time after a failure's next attempt at which the failure is removed.
const KEPT_AFTER_FAILURE: Duration = Duration::from_secs(600);

/// The exclusive right of one worker to perform a key's exchange until a given time. A lease always expires, so a worker that dies
/// does not block the others for long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) holder: WorkerId,
    pub(crate) until: Timestamp,
    /// The queues of the workers to wake when the lease ends.
    pub(crate) waiting: Vec<QueueId>,
}

impl Lease {
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        now < self.until && self.until.since(now) <= LONGEST_LEASE
    }

    /// Acquires or extends the lease in `slot` until `until`, for the worker that `queue` wakes. If another worker holds it, registers
    /// this one to be woken, and returns whether that changed the lease and until when it is held.
    #[inline(never)]
    pub(crate) fn acquire(
        slot: &mut Option<Self>,
        (worker, queue): (WorkerId, QueueId),
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), (bool, Timestamp)> {
        match slot {
            Some(lease) if lease.holder != worker && lease.is_live(now) => {
                let waits = !lease.waiting.contains(&queue);
                if waits {
                    lease.waiting.push(queue);
                }
                Err((waits, lease.until))
            }
            lease => {
                let mut waiting = lease.take().map(|lease| lease.waiting).unwrap_or_default();
                waiting.retain(|other| *other != queue);
                *lease = Some(Self { holder: worker, until, waiting });
                Ok(())
            }
        }
    }

    /// Releases the lease in `slot` if this worker holds it. Returns the queues of the workers to wake.
    #[inline(never)]
    pub(crate) fn release(slot: &mut Option<Self>, worker: WorkerId) -> Option<Vec<QueueId>> {
        slot.take_if(|lease| lease.holder == worker).map(|lease| lease.waiting)
    }
}

/// A failed exchange and its back-off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) problem: Problem,
    /// Whether the failure is transient or needs a change.
    pub(crate) class: RetryClass,
    pub(crate) failed_at: Timestamp,
    /// The earliest time of the next exchange.
    pub(crate) next_try: Timestamp,
    /// The number of failures with this cause since the last token.
    pub(crate) failures: u32,
}

impl Failure {
    /// Whether the back-off is in effect. A failure with a time in the future dates from before the clock was set back and is ignored;
    /// [`GRACE_PERIOD`] allows for another worker's clock reading.
    pub(crate) fn is_backing_off(&self, now: Timestamp) -> bool {
        self.failed_at <= now.plus(GRACE_PERIOD) && now < self.next_try
    }

    /// Whether the failure is so old that the next one counts as the first.
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at() <= now
    }

    /// The time from which the failure may be removed.
    pub(crate) fn expires_at(&self) -> Timestamp {
        self.next_try.plus(KEPT_AFTER_FAILURE)
    }

    /// Returns the problem with the Retry-After time that applies now.
    pub(crate) fn to_problem(&self, now: Timestamp) -> Problem {
        self.problem.clone().retry_after(self.next_try.since(now))
    }
}

/// A federated token that Entra rejected. Entra may accept another one immediately, so the file is read during the back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedAssertion {
    pub(crate) fingerprint: Fingerprint,
    /// The time at which a worker last read the file.
    pub(crate) read_at: Timestamp,
}

impl RefusedAssertion {
    /// Whether the file may be read again. A time in the future dates from before the clock was set back.
    pub(crate) fn may_be_compared(&self, now: Timestamp) -> bool {
        now.since(self.read_at) >= READING_PERIOD || self.read_at > now.plus(GRACE_PERIOD)
    }
}

/// The shared state of one token key.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name of the identity, for the status page.
    #[serde(default)]
    pub(crate) identity: String,
    /// The scope, for the status page.
    #[serde(default)]
    pub(crate) scope: String,
    pub(crate) token: Option<CachedToken>,
    pub(crate) failure: Option<Failure>,
    /// The number of failures of each cause since the last token.
    #[serde(default)]
    pub(crate) causes: Causes,
    /// The last exchanges, for the status page.
    #[serde(default)]
    pub(crate) exchanges: Exchanges,
    /// The federated token that Entra rejected, if the failure is a rejection of the credential.
    #[serde(default)]
    pub(crate) refused: Option<RefusedAssertion>,
    pub(crate) lease: Option<Lease>,
    /// Whether the token is rejected. It stays in use until another replaces it.
    #[serde(default)]
    pub(crate) rejected: bool,
    /// The time at which a rejection last forced an exchange.
    #[serde(default)]
    pub(crate) forced_at: Option<Timestamp>,
    /// The queues of the workers that hold this token or an older one. They are woken when the token is rejected or replaced; workers
    /// that are alive then register again.
    #[serde(default)]
    pub(crate) holders: Vec<QueueId>,
    /// The time until which a token that one of the `holders` holds can be sent. An older token may outlast a newer one with a shorter
    /// lifetime.
    #[serde(default)]
    pub(crate) held_until: Timestamp,
}

impl Entry {
    /// Whether a rejection forced an exchange less than [`FORCED_PERIOD`] ago. A time in the future dates from before the
    /// clock was set back and does not count.
    pub(crate) fn is_forced(&self, now: Timestamp) -> bool {
        self.forced_at.is_some_and(|at| at <= now.plus(GRACE_PERIOD) && now.since(at) < FORCED_PERIOD)
    }

    /// Replaces the token. Returns the queues of the workers to wake: all that hold an older token, except the `holder` of the new one.
    pub(crate) fn replace_token(&mut self, token: CachedToken, holder: QueueId) -> Vec<QueueId> {
        let mut older = std::mem::take(&mut self.holders);
        older.retain(|queue| *queue != holder);
        self.enter(holder, &token);
        self.token = Some(token);
        self.rejected = false;
        older
    }

    /// Registers a worker as a holder of a token of this key.
    pub(crate) fn enter(&mut self, holder: QueueId, token: &CachedToken) {
        self.holders.push(holder);
        self.held_until = self.held_until.max(token.usable_until());
    }

    /// Whether no worker can still hold a token of this key.
    fn is_released(&self, now: Timestamp) -> bool {
        self.holders.is_empty() || self.held_until <= now
    }

    /// Whether there is nothing left of a scope that was evicted, and it has not been admitted again.
    pub(crate) const fn is_evicted(&self) -> bool {
        self.token.is_none() && self.failure.is_none() && self.lease.is_none() && self.holders.is_empty()
    }

    /// Removes everything, unless the lease is held. Returns the queues of the workers that hold a token of this key: nothing else wakes them
    /// when the next token replaces it.
    pub(crate) fn evict(&mut self, now: Timestamp) -> Update<Vec<QueueId>> {
        if self.lease.as_ref().is_some_and(|lease| lease.is_live(now)) {
            return Update::Abandon(Vec::new());
        }
        // The time of a forced exchange is kept as long as it limits the next one.
        let mut evicted = std::mem::take(self);
        let wake = std::mem::take(&mut evicted.holders);
        if evicted.is_forced(now) {
            let Self { identity, scope, forced_at, .. } = evicted;
            *self = Self { identity, scope, forced_at, ..Self::default() };
        }
        Update::Commit(wake)
    }
}

impl Record for Entry {
    /// Removes a token that is no longer usable. Otherwise it would be used again after the clock is set back.
    fn clean(&mut self, now: Timestamp) {
        if self.token.take_if(|token| !token.is_usable(now)).is_some() {
            self.rejected = false;
        }
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        let token_over = self.token.as_ref().is_none_or(|token| !token.is_usable(now));
        let failure_over = self.failure.as_ref().is_none_or(|failure| failure.is_expired(now));
        let lease_over = self.lease.as_ref().is_none_or(|lease| !lease.is_live(now));
        token_over && failure_over && lease_over && !self.is_forced(now) && self.is_released(now)
    }
}
