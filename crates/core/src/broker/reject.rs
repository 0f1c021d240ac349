//! Tokens that somebody rejects: the upstream that answered 401, or a caller that asks for another one.
//!
//! Fetch first, then replace: the entry marks the token as rejected, one worker fetches another, and everybody else is
//! served the rejected token until the new one is there. Only the caller that rejected it never gets it again.

use std::fmt;
use std::sync::Arc;

use super::freshness::CachedToken;
use super::shared::{self, Update};
use super::slot::{Rejected, Slot, Waiter};
use super::{Broker, FORCED_PERIOD, GRACE, Need, QueueId, SharedData, StreamId, TokenLookup};
use crate::entra::{TokenKey, TokenSpec};
use crate::event::Event;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// Which token a caller does not want any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// The cached one, unless it was fetched in place of a rejected one less than 30 s ago.
    Any,
    /// The one with this SHA-256.
    Digest([u8; 32]),
    /// The one with this SHA-256, if it is rejected: an earlier attempt of the same request carried it.
    Carried([u8; 32]),
}

/// The result of rejecting a token.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rejection {
    /// Whether the token is marked as rejected since now, and another is fetched.
    pub marked: bool,
    /// The workers that must look at the key again ([`Broker::look`]): wake them by these queues, this worker's own
    /// among them.
    pub wake: Vec<QueueId>,
}

/// Who rejects a token.
#[derive(Clone, Copy)]
pub enum RejectedBy<'a> {
    /// A managed-identity caller, or an attempt of a request that follows a rejected one.
    Caller,
    /// The upstream, which answered 401 to a request of this part of the configuration. (Envoy shows a filter no request
    /// headers while the response passes, so the host is not known here.)
    Upstream(&'a dyn fmt::Display),
}

impl Rejection {
    /// What to log, when the token of `spec` is marked as rejected since now.
    pub fn event(&self, spec: &TokenSpec, by: RejectedBy<'_>) -> Option<Event> {
        if !self.marked {
            return None;
        }
        let about =
            |event: Event, by| event.with("by", by).with("identity", spec.identity()).with("scope", spec.scope());
        let event = match by {
            RejectedBy::Caller => about(Event::info("rejected"), "caller"),
            RejectedBy::Upstream(decided_by) => {
                about(Event::warn("rejected"), "upstream").with("decided_by", decided_by).with("status", "401")
            }
        };
        let event = event.with("next_forced_in_ms", FORCED_PERIOD.as_millis());
        Some(event.with("detail", "the cached token was rejected: another one is fetched"))
    }
}

/// What the shared entry says of a token that is rejected.
pub(super) enum Verdict {
    /// It is marked as rejected since now; the queues of the workers that hold it.
    Marked(Vec<QueueId>),
    /// It was marked before, and its replacement is not there yet.
    Known,
    /// Another token has replaced it; the slot has that now.
    Replaced,
    /// A rejected token of this key was replaced, or was to be, at this time: less than [`FORCED_PERIOD`] ago.
    TooSoon(Timestamp),
}

impl Broker {
    /// Asks on behalf of a request that rejects the cached token: the answer is another token, or the reason why there
    /// is none. The rejected token is marked for all workers, and stays in use for other requests until the new one is
    /// there; at most one exchange for each key is forced so every 30 s.
    pub fn get_another(
        &mut self,
        spec: &Arc<TokenSpec>,
        need: Need,
        stale: Stale,
        stream: StreamId,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> (TokenLookup, Rejection) {
        let (queue, full) = (self.queue, self.is_full(spec));
        let deadline = now.plus(self.limits.wait);
        let slot = self.slot_of(spec, now, shared);
        let rejects_now = !matches!(stale, Stale::Carried(_));
        if rejects_now {
            // The caller may have the token from another worker.
            slot.adopt(&shared::read(shared, spec.key()), now);
        }
        let meant = slot.token.clone().filter(|token| match stale {
            Stale::Any => true,
            Stale::Digest(digest) => token.token().digest() == digest,
            Stale::Carried(digest) => slot.rejected && token.token().digest() == digest,
        });
        let mut rejected = match (stale, meant.clone()) {
            (_, Some(token)) => Some(Rejected::This(token)),
            (Stale::Digest(digest), None) => Some(Rejected::Digest { digest, asked_at: now }),
            (Stale::Any | Stale::Carried(_), None) => None,
        };
        let mut holders = None;
        if let Some(token) = meant.filter(|token| rejects_now && token.is_usable(now)) {
            match slot.reject(spec.key(), &token, now, shared) {
                Verdict::Marked(queues) => holders = Some(queues),
                Verdict::Known | Verdict::Replaced => {}
                Verdict::TooSoon(at) if stale == Stale::Any && at <= token.issued_at() => rejected = None,
                Verdict::TooSoon(at) => {
                    let problem = replaced_recently(at, now).about(spec.identity(), spec.scope());
                    // A worker that took the token over just now is to be known as one that holds it.
                    let wake = if slot.entered { Vec::new() } else { vec![queue] };
                    return (TokenLookup::Failed(problem), Rejection { marked: false, wake });
                }
            }
        }
        let answered = slot.answer(Waiter { stream, deadline, need, rejected }, full, now);
        let (answer, look) = self.note_answer(spec, stream, answered, now, shared);
        let marked = holders.is_some();
        let holders = holders.unwrap_or_default();
        let wake = if look || marked { with(holders, queue) } else { holders };
        (answer, Rejection { marked, wake })
    }

    /// The upstream rejected a token. It is marked for all workers and stays in use until another is there; at most one
    /// exchange for each key is forced so every 30 s.
    pub fn reject(&mut self, key: TokenKey, token: &CachedToken, now: Timestamp, shared: &dyn SharedData) -> Rejection {
        let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.token.as_deref() == Some(token)) else {
            return Rejection::default();
        };
        match slot.reject(key, token, now, shared) {
            Verdict::Marked(holders) => Rejection { marked: true, wake: with(holders, self.queue) },
            // Its timers are those of the old one.
            Verdict::Known | Verdict::Replaced => Rejection { marked: false, wake: vec![self.queue] },
            Verdict::TooSoon(_) => Rejection::default(),
        }
    }
}

impl Slot {
    /// Marks the token as rejected for all workers, unless another has replaced it or one was forced a moment ago.
    fn reject(&mut self, key: TokenKey, token: &CachedToken, now: Timestamp, shared: &dyn SharedData) -> Verdict {
        let verdict = shared::update(shared, key, now, |entry| {
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
            // Elsewhere it may be replaced by one that is over: it is not published anew.
            entry.rejected = entry.token.as_ref() == Some(token);
            entry.forced_at = Some(now);
            self.adopt(entry, now);
            (self.rejected, self.used) = (true, true);
            Update::Commit(Verdict::Marked(entry.holders.clone()))
        });
        // Others were faster at every try: whatever they wrote is looked at with the next wake-up.
        verdict.unwrap_or(Verdict::Known)
    }
}

fn with(mut queues: Vec<QueueId>, own: QueueId) -> Vec<QueueId> {
    if !queues.contains(&own) {
        queues.push(own);
    }
    queues
}

/// The answer to a caller that rejects a token which has just been fetched in place of a rejected one.
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
    .retry_after(at.plus(FORCED_PERIOD).since(now).max(GRACE))
}
