//! Sources that are asked by one HTTP call: how the request is made, where the token is in the answer, and how long it is used.

mod answer;
mod format;
mod named;
mod request;
mod spiffe;

use std::fmt;
use std::time::Duration;

pub(crate) use format::{Expiry, Format};
pub(crate) use named::{NAMED, Named};
pub(crate) use request::{Body, MAX_URL, Request, Target, Text, basic, encode};
pub(crate) use spiffe::KIND as SPIFFE;

use super::Assertion;
use super::token::Expected;
use crate::http::{CallResult, HttpCall};
use crate::problem::{Code, Problem};
use crate::secret::Secrets;
use crate::time::{self, Timestamp};

/// The first pause before the source is asked again, if it is not configured.
pub(crate) const BACK_OFF: Duration = Duration::from_millis(200);

/// The shortest first pause if the source is not ready: the job has not started yet, or the credential is being renewed.
const PAUSE_UNREADY: Duration = Duration::from_secs(1);

/// The longest pause before a source is asked again for the same exchange, unless the first one is longer. If the source demands a longer
/// one (`Retry-After`), another exchange asks it.
const MAX_PAUSE: Duration = Duration::from_secs(3);

/// How long the source is not asked again after a failure, unless it demands a longer time.
const MIN_REST: Duration = Duration::from_secs(2);

/// The longest time for which a source is not asked again because it demands it.
const MAX_REST: Duration = Duration::from_secs(300);

/// A source that is asked by one HTTP call. `Debug` shows nothing of its request, which contains secrets.
pub struct HttpSource {
    /// The kind of the source, as in the configuration.
    pub(crate) kind: &'static str,
    /// What distinguishes two sources of one kind: it differs if anything in the configuration of the source or of its inputs differs.
    pub(crate) id: String,
    /// The call.
    pub(crate) request: Request,
    /// Where the token is in the answer.
    pub(crate) format: Format,
    /// Where the time at which the token expires is in the answer, in addition to its own `exp`.
    pub(crate) expiry: Option<Expiry>,
    /// What the token's claims must be.
    pub(crate) expected: Expected,
    /// How long an answer may take.
    pub(crate) timeout: Duration,
    /// How many times the source is asked for one exchange.
    pub(crate) attempts: u32,
    /// The pause before the second attempt; each further one is twice as long.
    pub(crate) back_off: Duration,
    /// The statuses with which the source says that it can issue a token a little later.
    pub(crate) not_ready: Vec<u16>,
    /// How long an assertion is used again, at most. It is never used again after half of its life.
    pub(crate) reuse: Duration,
}

impl fmt::Debug for HttpSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct(self.kind).field("cluster", &self.request.cluster).finish_non_exhaustive()
    }
}

impl PartialEq for HttpSource {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for HttpSource {}

impl HttpSource {
    /// The content of a file that this cluster serves: the input of another source, or a token with these claims.
    pub(crate) fn of_file(cluster: &str, id: String, expected: Expected) -> Self {
        let target = Target { authority: cluster.to_owned(), path: "/".to_owned() };
        let (headers, body) = (Vec::new(), Body::Raw(String::new()));
        Self {
            kind: "file",
            id,
            request: Request {
                cluster: cluster.to_owned(),
                method: "GET",
                target,
                headers,
                body,
                secrets: Secrets::default(),
            },
            format: Format::Text,
            expiry: None,
            expected,
            timeout: Duration::from_secs(2),
            attempts: 2,
            back_off: BACK_OFF,
            not_ready: Vec::new(),
            reuse: Duration::from_secs(1),
        }
    }

    /// The call that asks the source. `input` is the assertion that it contains.
    pub(super) fn call(&self, input: Option<&Assertion>) -> HttpCall {
        self.request.call(input.map(Assertion::expose).unwrap_or_default(), self.timeout)
    }

    /// Reads the assertion from the answer and checks that it is valid at `now`. `input` is the assertion that the call contained.
    pub(super) fn read(
        &self,
        answer: CallResult,
        input: Option<&Assertion>,
        now: Timestamp,
    ) -> Result<Assertion, Problem> {
        answer::read(self, answer, input, now)
    }

    /// The time until which an assertion is used again.
    pub(super) fn reuse_until(&self, assertion: &Assertion, asked_at: Timestamp) -> Timestamp {
        let half = assertion.lifetime().expires_at.since(asked_at) / 2;
        asked_at.plus(half.min(self.reuse))
    }

    /// The pause after which the source is asked again at once, or `None` if this problem of the `attempt`-th call is final.
    pub(super) fn pause_before_retry(
        &self,
        problem: &Problem,
        attempt: u32,
        random: &mut dyn FnMut() -> u32,
    ) -> Option<Duration> {
        let first = match problem.code {
            Code::SourceNotReady => self.back_off.max(PAUSE_UNREADY),
            // A file may have been read while it was being written.
            Code::AssertionMalformed if !self.expected.made_on_demand => self.back_off,
            Code::AssertionUnavailable => self.back_off,
            // The answer of another attempt would be the same.
            _ => return None,
        };
        if attempt >= self.attempts || problem.retry_after.is_some_and(|demanded| demanded > MAX_PAUSE) {
            return None;
        }
        let longest = first.saturating_mul(1 << attempt.saturating_sub(1).min(9)).min(MAX_PAUSE.max(first));
        // Between half and all of it, so that proxies that failed together do not ask together again.
        let pause = longest.saturating_sub(time::part(longest / 2, random()));
        Some(problem.retry_after.unwrap_or(pause))
    }

    /// How long the source is not asked again after this failure.
    pub(super) fn back_off(problem: &Problem) -> Duration {
        problem.retry_after.unwrap_or_default().clamp(MIN_REST, MAX_REST)
    }
}

#[cfg(test)]
mod tests;
