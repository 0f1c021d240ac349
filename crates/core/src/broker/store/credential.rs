//! The state that the workers of one process share for each credential: whether Entra accepts or throttles it, and the budget of unlisted
//! scopes.
//!
//! It is separate from the tokens' entries because it concerns all tokens of the credential: a rejection decides readiness whichever
//! exchange received it, and throttling backs off all exchanges of the client. Each identity in the configuration has one
//! credential; callers cannot add any.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::budget::Budget;
use super::super::freshness::{self, CachedToken};
use super::super::vocabulary::{GRACE_PERIOD, UnlistedLimits};
use super::{Failure, Record, Update};
use crate::assertion::Fingerprint;
use crate::entra::{RetryClass, TokenKey};
use crate::problem::Problem;
use crate::time::Timestamp;

/// Time after the first such rejection during which the client may be new and not yet replicated in Entra.
const REPLICATION: Duration = Duration::from_mins(10);

/// Maximum number of known tokens of a credential. Beyond it the oldest is removed.
const MAX_KNOWN: usize = 256;

/// The shared state of one credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialState {
    /// The issued token of a listed scope that can be sent for the longest time.
    #[serde(default)]
    cached: Option<Lifetime>,
    /// Whether Entra has ever issued a token to the client.
    #[serde(default)]
    client: Client,
    /// The last rejection of the credential, unless a token was issued since.
    #[serde(default)]
    pub(crate) refusal: Option<Refusal>,
    /// Throttling of the client or tenant. The credential makes no exchange before its next attempt.
    #[serde(default)]
    throttled: Option<Failure>,
    /// The budget of unlisted scopes.
    #[serde(default)]
    pub(crate) budget: Budget,
    /// The tokens that this process has exchanged, oldest first, including tokens that are no longer cached, but no unlisted scope
    /// that was evicted.
    #[serde(default)]
    pub(crate) known: Vec<TokenKey>,
}

/// Whether Entra knows a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Client {
    /// Entra has not responded yet.
    #[default]
    Untested,
    /// Entra has issued no token, and first rejected the client as unknown at this time.
    UnknownSince(Timestamp),
    /// Entra has issued a token.
    Accepted,
}

/// The times between which a token can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lifetime {
    issued_at: Timestamp,
    usable_until: Timestamp,
}

/// A rejection of the credential by Entra.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) problem: Problem,
    /// The rejected federated token.
    pub(crate) assertion: Fingerprint,
    pub(crate) at: Timestamp,
}

impl CredentialState {
    /// Records that Entra issued a token, and so accepts the credential. `listed` is the token if its scope is listed.
    pub(crate) fn record_issued(&mut self, listed: Option<&CachedToken>, now: Timestamp) {
        if let Some(token) = listed {
            let newer = Lifetime { issued_at: token.issued_at(), usable_until: token.usable_until() };
            let outlasted = |known: Lifetime| known.usable_until <= newer.usable_until || !known.is_usable(None, now);
            if self.cached.is_none_or(outlasted) {
                self.cached = Some(newer);
            }
        }
        self.refusal = None;
        self.client = Client::Accepted;
        self.throttled.take_if(|throttled| !throttled.is_backing_off(now));
    }

    /// Returns the throttling that is in effect.
    pub(crate) fn throttled(&self, now: Timestamp) -> Option<&Failure> {
        self.throttled.as_ref().filter(|throttled| throttled.is_backing_off(now))
    }

    /// Whether a token of a listed scope can be sent that was issued at or after `discard_before`.
    pub(crate) fn has_listed_token(&self, discard_before: Option<Timestamp>, now: Timestamp) -> bool {
        self.cached.is_some_and(|cached| cached.is_usable(discard_before, now))
    }

    /// Returns whether a client that Entra rejects as unknown may have been created only recently.
    pub(crate) fn is_new_client(&mut self, now: Timestamp) -> Update<bool> {
        match self.client {
            Client::Accepted => Update::Abandon(false),
            // A time in the future dates from before the clock was set back.
            Client::UnknownSince(since) if since <= now.plus(GRACE_PERIOD) => {
                Update::Abandon(now.since(since) < REPLICATION)
            }
            Client::Untested | Client::UnknownSince(_) => {
                self.client = Client::UnknownSince(now);
                Update::Commit(true)
            }
        }
    }

    /// Records that Entra rejects the credential with this federated token.
    pub(crate) fn record_refusal(&mut self, problem: Problem, assertion: Fingerprint, now: Timestamp) {
        self.refusal = Some(Refusal { problem, assertion, at: now });
    }

    /// Admits an unlisted scope, as [`Budget::admit`] does. Evicted scopes are no longer known.
    pub(crate) fn admit(
        &mut self,
        key: TokenKey,
        limits: UnlistedLimits,
        now: Timestamp,
    ) -> Result<Vec<TokenKey>, Duration> {
        let dropped = self.budget.admit(key, limits, now)?;
        self.known.retain(|known| !dropped.contains(known));
        Ok(dropped)
    }

    /// Records that a token was exchanged. Returns whether it is the first time in this process.
    pub(crate) fn record_known(&mut self, key: TokenKey) -> Update<bool> {
        if self.known.contains(&key) {
            return Update::Abandon(false);
        }
        self.known.push(key);
        if self.known.len() > MAX_KNOWN {
            self.known.remove(0);
        }
        Update::Commit(true)
    }

    /// Records that Entra throttles the credential, and backs off all of its exchanges. `wait` returns the back-off after a number of
    /// consecutive throttled exchanges. Returns that number; an exchange that began before the current back-off does not increase it.
    pub(crate) fn record_throttling(
        &mut self,
        problem: &Problem,
        now: Timestamp,
        wait: &dyn Fn(u32) -> Duration,
    ) -> u32 {
        let before = self.throttled.as_ref().map_or(0, |throttled| throttled.failures);
        let active = self.throttled(now);
        let failures = if active.is_some() { before } else { before.saturating_add(1) };
        let next_try = now.plus(wait(failures)).max(active.map_or(now, |throttled| throttled.next_try));
        let class = RetryClass::Throttled;
        self.throttled = Some(Failure { problem: problem.clone(), class, failed_at: now, next_try, failures });
        failures
    }
}

impl Record for CredentialState {
    fn clean(&mut self, now: Timestamp) {
        self.budget.remove_expired(now);
    }

    /// A client to which Entra has issued a token is remembered.
    fn is_expired(&self, now: Timestamp) -> bool {
        self.refusal.is_none()
            && self.client == Client::Untested
            && self.throttled.as_ref().is_none_or(|throttled| throttled.is_expired(now))
            && self.budget.is_empty()
            && self.known.is_empty()
    }
}

impl Lifetime {
    /// A token with an issue time in the future dates from before the clock was set back and is not usable.
    fn is_usable(self, discard_before: Option<Timestamp>, now: Timestamp) -> bool {
        let discarded = freshness::is_discarded(self.issued_at, discard_before, now);
        !discarded && self.issued_at <= now.plus(GRACE_PERIOD) && now < self.usable_until
    }
}
