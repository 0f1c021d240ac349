//! The words that the broker's modules share: ids, limits and periods. It imports none of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::problem::{Code, Problem};

/// The random id of a worker, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerId(pub u64);

/// The id of the queue that wakes one worker's root context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueId(pub u32);

/// The host's number of an HTTP stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub u32);

/// The remaining lifetime that a request requires of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequiredLifetime {
    /// The token can be sent now.
    Any,
    /// The token lasts at least five minutes. Azure's SDKs treat a token with less as expired and request another immediately.
    FiveMinutes,
}

/// Timeouts, and limits on waiting requests and unlisted scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Timeout of an exchange: the total of the calls to all of the token endpoint's clusters.
    pub exchange: Duration,
    /// Time after which a request that waits for a token is answered without one.
    pub wait: Duration,
    /// Maximum number of requests that wait in one worker. Each holds its headers and a client stream in memory.
    pub waiting: usize,
    /// The number of identities in the configuration. With several, the waiting requests of one leave room for those of another.
    pub identities: usize,
    /// Limits on the scopes that callers request and the configuration does not list.
    pub unlisted: UnlistedLimits,
}

impl Default for Limits {
    /// Returns limits that suit most workloads. An exchange usually takes 100 ms. The wait is longer than an exchange that times
    /// out, so that a request receives the reason and not a timeout of its own. 10,000 waiting requests use about 10 MB.
    fn default() -> Self {
        Self {
            exchange: Duration::from_secs(10),
            wait: Duration::from_secs(15),
            waiting: 10_000,
            identities: 1,
            unlisted: UnlistedLimits::default(),
        }
    }
}

impl Limits {
    /// Upper bound of [`Limits::wait`].
    pub const LONGEST_WAIT: Duration = Duration::from_secs(300);

    /// Upper bound of [`Limits::exchange`], and of the timeout of a call to a source of federated tokens.
    pub const LONGEST_EXCHANGE: Duration = Duration::from_secs(60);

    /// Timeout of a call while another cluster can still be tried. Entra usually responds within a second; a pooled connection
    /// that a NAT or firewall has dropped never responds.
    const WITH_FALLBACK: Duration = Duration::from_secs(3);

    /// Returns the timeout of the call to the cluster at `index` of `count`. The timeouts add up to [`Limits::exchange`] at most, so
    /// that the lease and the wait of requests last longer than all calls together.
    pub fn call_timeout(&self, index: usize, count: usize) -> Duration {
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let index = u32::try_from(index).unwrap_or(u32::MAX).min(count - 1);
        let each = Self::WITH_FALLBACK.min(self.exchange / count);
        if index + 1 < count { each } else { self.exchange.saturating_sub(each.saturating_mul(index)) }
    }
}

/// Limits on the scopes that callers request and the configuration does not list, per credential and Envoy process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnlistedLimits {
    /// Maximum number of scopes that are kept. Beyond it a scope is evicted: one that Entra rejected and that has no token, or else the
    /// least recently used.
    pub scopes: usize,
    /// Maximum number of new scopes within a minute. Beyond it callers receive 429.
    pub new_per_minute: usize,
    /// Maximum number of parallel exchanges. Beyond it an exchange waits until another ends.
    pub parallel_exchanges: usize,
}

impl Default for UnlistedLimits {
    /// Returns limits that suit most apps, which request a handful of resources. 64 tokens with their scopes use about 300 KB of
    /// shared data, and 30 exchanges a minute are far below Entra's throttling limits.
    fn default() -> Self {
        Self { scopes: 64, new_per_minute: 30, parallel_exchanges: 4 }
    }
}

/// The problem of a request that arrives when the limit on waiting requests is reached.
pub(super) fn too_many_waiting(limit: usize) -> Problem {
    Problem::new(
        Code::TooManyWaiting,
        format!("{limit} requests already wait for a token or a connection in this worker"),
        "Check in the log what the exchange waits for, and check that the upstream accepts connections. Requests are \
         accepted again as soon as a waiting request ends.",
    )
    .retry_after(GRACE_PERIOD)
}

/// Delay before the single retry of an exchange that Entra rejected with [`RetryClass::Immediate`](crate::entra::RetryClass::Immediate): Entra sometimes rejects a
/// credential that is correct but new.
pub(super) const IMMEDIATE_RETRY_DELAY: Duration = Duration::from_millis(250);

/// Minimum interval, across all workers, between two reads of the federated token's file while an exchange backs off because
/// Entra rejected that token.
pub(super) const READING_PERIOD: Duration = Duration::from_secs(1);

/// Time that a lease lasts beyond the timeout of its call, so that the response can still be processed. Also the tolerated
/// difference between the clock readings of two workers.
pub(super) const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// Maximum duration of a lease. A longer one dates from before the clock was set back and is not valid. A worker whose exchange waits for a
/// source that another worker asks holds its lease for [`GRACE_PERIOD`] longer than that worker's lease of the source, which outlasts the
/// call by as much. Workers may read the clock at different times.
pub(super) const LONGEST_LEASE: Duration = Limits::LONGEST_EXCHANGE.saturating_add(GRACE_PERIOD.saturating_mul(3));

/// Delay before a key is polled again after every attempt to change its entry failed.
pub(super) const CONTENTION_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Interval at which a worker shares that an unlisted scope is in use. A worker that has not used a scope for longer does not keep the
/// scope's token when the scope is evicted.
pub(super) const TOUCH_PERIOD: Duration = Duration::from_secs(30);

/// Interval at which a worker polls an evicted scope whose token is in use, because nothing wakes it when another worker replaces the token.
pub(super) const EVICTED_POLL_PERIOD: Duration = Duration::from_millis(500);

/// Minimum interval, across all workers, between two exchanges of a key that rejected tokens force. It bounds the load that a
/// failing upstream can cause at Entra.
pub(super) const FORCED_PERIOD: Duration = Duration::from_secs(30);

/// First delay before a VM that serves no requests and cannot read the federated token tries again. It doubles with each attempt.
pub(super) const YIELD_INITIAL: Duration = Duration::from_secs(60);
/// Maximum of that delay.
pub(super) const YIELD_MAX: Duration = Duration::from_secs(3600);
