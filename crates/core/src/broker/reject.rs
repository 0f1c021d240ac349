//! Rejected tokens: the upstream responded with 401, or a caller requested a replacement.
//!
//! A rejected token is marked in its shared entry. One worker fetches a replacement, and all other requests are served the rejected
//! token until the replacement is available. Only the caller that rejected the token never receives it again.

use std::fmt;
use std::sync::Arc;

use super::freshness::CachedToken;
use super::slot::{Rejected, Slot, TokenLookup, Waiter};
use super::store::{self, Store, Update};
use super::vocabulary::{FORCED_PERIOD, GRACE_PERIOD, QueueId, RequiredLifetime, StreamId};
use super::{Broker, Command};
use crate::entra::{TokenKey, TokenSpec};
use crate::event::Event;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// The token that a caller rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectedToken {
    /// The cached token, unless it replaced a rejected token less than 30 s ago.
    Cached,
    /// The token with this SHA-256.
    Digest([u8; 32]),
    /// The token with this SHA-256, which an earlier attempt of the same request carried, if it is marked as rejected.
    Attempted([u8; 32]),
}

/// The origin of a rejection.
#[derive(Clone, Copy)]
pub(super) enum RejectedBy<'a> {
    /// A managed-identity caller, or a retry of a request whose token was rejected.
    Caller,
    /// The upstream, which responded with 401 to a request of this part of the configuration. (Envoy does not expose request headers
    /// to a filter in the response phase, so the host is unknown.)
    Upstream(&'a dyn fmt::Display),
}

impl RejectedBy<'_> {
    /// The event to log when the token of `spec` is marked as rejected.
    pub(super) fn event(self, spec: &TokenSpec) -> Event {
        let about =
            |event: Event, by| event.with("by", by).with("identity", spec.identity()).with("scope", spec.scope());
        let event = match self {
            Self::Caller => about(Event::info("rejected"), "caller"),
            Self::Upstream(decided_by) => {
                about(Event::warn("rejected"), "upstream").with("decided_by", decided_by).with("status", "401")
            }
        };
        let event = event.with("next_forced_in_ms", FORCED_PERIOD.as_millis());
        event.with("detail", "the cached token was rejected: a replacement is fetched")
    }
}

/// The result of marking a token as rejected in its shared entry.
pub(super) enum Verdict {
    /// The token is now marked. The value lists the queues of the workers that hold it.
    Marked(Vec<QueueId>),
    /// The token was already marked, and its replacement is not available yet.
    Known,
    /// Another token has replaced it, and the slot has adopted that.
    Replaced,
    /// A rejection already forced an exchange of this key at this time, less than [`FORCED_PERIOD`] ago.
    TooSoon(Timestamp),
}

impl Broker {
    /// Looks up a token for a request that rejects one. The result is another token or a problem.
    ///
    /// The rejected token is marked for all workers and stays in use for other requests until its replacement is available. At most
    /// one exchange per key is forced in 30 s.
    pub(crate) fn get_replacement(
        &mut self,
        spec: &Arc<TokenSpec>,
        required_lifetime: RequiredLifetime,
        rejected_token: RejectedToken,
        stream: StreamId,
        now: Timestamp,
        store: &dyn Store,
    ) -> (TokenLookup, Vec<Command>) {
        let full = self.is_full(spec);
        let deadline = now.plus(self.limits.wait);
        let slot = self.slot_of(spec, now, store);
        let rejects_now = !matches!(rejected_token, RejectedToken::Attempted(_));
        if rejects_now {
            // The caller may have received the token from another worker.
            slot.adopt(&store.read(spec.key()), now);
        }
        let meant = slot.token.clone().filter(|token| match rejected_token {
            RejectedToken::Cached => true,
            RejectedToken::Digest(digest) => token.token().digest() == digest,
            RejectedToken::Attempted(digest) => slot.rejected && token.token().digest() == digest,
        });
        let mut rejected = match (rejected_token, meant.clone()) {
            (_, Some(token)) => Some(Rejected::This(token)),
            (RejectedToken::Digest(digest), None) => Some(Rejected::Digest { digest, asked_at: now }),
            (RejectedToken::Cached | RejectedToken::Attempted(_), None) => None,
        };
        let mut holders = None;
        if let Some(token) = meant.filter(|token| rejects_now && token.is_usable(now)) {
            match slot.reject(spec.key(), &token, now, store) {
                Verdict::Marked(queues) => holders = Some(queues),
                Verdict::Known | Verdict::Replaced => {}
                Verdict::TooSoon(at) if rejected_token == RejectedToken::Cached && at <= token.issued_at() => {
                    rejected = None
                }
                Verdict::TooSoon(at) => {
                    let problem = replaced_recently(at, now).about(spec.identity(), spec.scope());
                    // A worker that has just adopted the token must be registered as a holder.
                    let poll = slot.must_register(now);
                    return (TokenLookup::Failed(problem), self.poll_later(spec.key(), poll));
                }
            }
        }
        let answered = slot.answer(Waiter { stream, deadline, required_lifetime, rejected }, full, now);
        let (lookup, commands) = self.record_lookup(spec, stream, answered, now, store);
        let Some(holders) = holders else { return (lookup, commands) };
        // The commands of a rejection wake this worker, too.
        let is_own = |command: &Command| matches!(command, Command::Wake(_, key) if *key == spec.key());
        let replaces = self.replace(spec, holders, RejectedBy::Caller).into_iter();
        (lookup, replaces.chain(commands.into_iter().filter(|command| !is_own(command))).collect())
    }

    /// Marks a token that the upstream rejected, for all workers. It stays in use until its replacement is available. At most one
    /// exchange per key is forced in 30 s. `decided_by` is the part of the configuration that decided about the request.
    pub(crate) fn reject(
        &mut self,
        spec: &TokenSpec,
        token: &CachedToken,
        decided_by: &dyn fmt::Display,
        now: Timestamp,
        store: &dyn Store,
    ) -> Vec<Command> {
        let key = spec.key();
        let Some(slot) = self.slots.get_mut(key).filter(|slot| slot.token.as_deref() == Some(token)) else {
            return Vec::new();
        };
        match slot.reject(key, token, now, store) {
            Verdict::Marked(holders) => self.replace(spec, holders, RejectedBy::Upstream(decided_by)),
            // The timers still belong to the old token.
            Verdict::Known | Verdict::Replaced => self.poll_later(key, true),
            Verdict::TooSoon(_) => Vec::new(),
        }
    }

    /// Logs that a token is now marked as rejected, and makes this worker and its holders poll the key, so that one of them replaces it.
    fn replace(&self, spec: &TokenSpec, mut holders: Vec<QueueId>, by: RejectedBy<'_>) -> Vec<Command> {
        if !holders.contains(&self.queue) {
            holders.push(self.queue);
        }
        let wakes = holders.into_iter().map(|queue| Command::Wake(queue, spec.key()));
        std::iter::once(Command::Log(by.event(spec))).chain(wakes).collect()
    }
}

impl Slot {
    /// Marks the token as rejected for all workers, unless it was replaced or an exchange was forced recently.
    fn reject(&mut self, key: TokenKey, token: &CachedToken, now: Timestamp, store: &dyn Store) -> Verdict {
        let verdict = store::update(store, key, now, |entry| {
            if entry.token.as_ref().is_some_and(|theirs| theirs != token && theirs.is_usable(now)) {
                self.adopt(entry, now);
                return Update::Abandon(Verdict::Replaced);
            }
            if entry.rejected && entry.token.as_ref() == Some(token) {
                self.adopt(entry, now);
                return Update::Abandon(Verdict::Known);
            }
            if let Some(at) = entry.forced_at.filter(|_| entry.is_forced(now)) {
                return Update::Abandon(Verdict::TooSoon(at));
            }
            // Another worker may have replaced it with a token that has expired. It is not published again.
            entry.rejected = entry.token.as_ref() == Some(token);
            entry.forced_at = Some(now);
            self.adopt(entry, now);
            (self.rejected, self.used) = (true, true);
            Update::Commit(Verdict::Marked(entry.holders.clone()))
        });
        // Every compare-and-set failed. The next wake-up reads the other workers' changes.
        verdict.unwrap_or(Verdict::Known)
    }
}

/// The problem of a caller that rejects a token which has just replaced a rejected one.
fn replaced_recently(at: Timestamp, now: Timestamp) -> Problem {
    let (period, ago) = (FORCED_PERIOD.as_secs(), now.since(at).as_secs());
    Problem::new(
        Code::TokenReplacedRecently,
        format!(
            "another token was requested {ago} s ago because of a rejection; this is done at most every {period} s"
        ),
        "Retry after the time in Retry-After. If the service rejects every new token, check the identity's role \
         assignments and the requested resource.",
    )
    .retry_after(at.plus(FORCED_PERIOD).since(now).max(GRACE_PERIOD))
}
