//! The state that the workers of one process share for each source of federated tokens.
//!
//! The configuration bounds the number of sources, and [`Assertion`] the length of a federated token (16 KiB).

use serde::{Deserialize, Serialize};

use super::super::vocabulary::GRACE_PERIOD;
use super::{Failure, Lease, Record, Update};
use crate::assertion::{Assertion, ReadResult, Source};
use crate::entra::RetryClass;
use crate::secret::Secret;
use crate::time::Timestamp;

/// The shared state of one source. It holds a federated token, so it has no `Debug`.
///
/// The lease is the right to ask the source. Only the fact that a token is readable is shared of a source that each worker reads itself
/// (`Source::is_shared`).
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Whether the last read of the source, in any worker, gave a usable federated token.
    pub(crate) readable: bool,
    /// The federated token that the source issued last.
    issued: Option<Issued>,
    /// The failure after which the source is not asked again before its next attempt.
    failure: Option<Failure>,
    pub(crate) lease: Option<Lease>,
}

/// A federated token and its times.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Issued {
    #[serde(with = "text")]
    token: Secret,
    at: Timestamp,
    /// The time until which it is used again.
    reuse_until: Timestamp,
    /// The time until which workers get it that have waited for it. It is later than `reuse_until` if the token is not used again.
    kept_until: Timestamp,
}

/// A secret in shared data, which is the memory of this process.
mod text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::secret::Secret;

    pub(super) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}

impl SourceState {
    /// Returns the answer that serves a worker now, which has waited since `waited_since` for one: a federated token that is used again or
    /// was issued since, or a failure that backs off. An answer with a time in the future dates from before the clock was set back.
    pub(crate) fn answer(
        &self,
        source: &Source,
        waited_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<ReadResult> {
        let serves = |issued: &&Issued| {
            let until = match waited_since {
                Some(since) if since <= issued.at => issued.kept_until,
                _ => issued.reuse_until,
            };
            issued.at <= now.plus(GRACE_PERIOD) && now < until
        };
        let token = self.issued.as_ref().filter(serves);
        // Bytes that are not a valid token were not written by this module.
        let token = token.and_then(|issued| source.parse(issued.token.expose().as_bytes(), now).ok());
        let failure = self.failure.as_ref().filter(|failure| failure.is_backing_off(now));
        token.map(|token| Ok(token.into())).or_else(|| Some(Err(failure?.to_problem(now))))
    }

    /// Records the answer of the source. A token is used again, and after a failure the source is not asked again, until `until`.
    pub(crate) fn record(&mut self, result: &ReadResult, until: Timestamp, now: Timestamp) {
        (self.issued, self.failure) = match result {
            Ok(assertion) => (Some(Issued::new(assertion, until, now)), None),
            Err(problem) => {
                let (problem, class) = (problem.clone(), RetryClass::Transient);
                (None, Some(Failure { problem, class, failed_at: now, next_try: until, failures: 1 }))
            }
        };
    }

    /// Drops this token, which Entra rejected in an exchange that began at `asked_at`. One that the source issued since is kept, so that
    /// the source is asked once more for all exchanges with the rejected one.
    pub(crate) fn refuse(&mut self, refused: &Assertion, asked_at: Timestamp) -> Update<()> {
        let is_refused = |issued: &mut Issued| issued.token.is(refused.expose().as_bytes()) && issued.at <= asked_at;
        Update::commit_if(self.issued.take_if(is_refused).is_some(), ())
    }

    /// Forgets the token, because another configuration is in use.
    pub(super) fn forget(&mut self) {
        self.issued = None;
    }
}

impl Issued {
    fn new(assertion: &Assertion, reuse_until: Timestamp, now: Timestamp) -> Self {
        let kept_until = reuse_until.max(now.plus(GRACE_PERIOD)).min(assertion.lifetime().expires_at);
        Self { token: Secret::new(assertion.expose().to_owned()), at: now, reuse_until, kept_until }
    }
}

impl Record for SourceState {
    fn clean(&mut self, now: Timestamp) {
        self.issued.take_if(|issued| issued.kept_until <= now);
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        let failure_over = self.failure.as_ref().is_none_or(|failure| !failure.is_backing_off(now));
        let lease_over = self.lease.as_ref().is_none_or(|lease| !lease.is_live(now));
        !self.readable && self.issued.is_none() && failure_over && lease_over
    }
}
