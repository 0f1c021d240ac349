//! The status page: the state of each token, never the token itself.

use serde::Serialize;

use crate::broker::Store;
use crate::broker::store::{Entry, Failure};
use crate::configuration_status::{ConfigurationStatus, ConfiguredToken, Shown};
use crate::entra::TokenKey;
use crate::http::Reply;
use crate::problem::Problem;
use crate::time::Timestamp;
use crate::untrusted::Guid;

/// The state of one token key in one Envoy process.
#[derive(Debug, Serialize)]
struct KeyStatus {
    /// The identity, by its name in the configuration.
    identity: String,
    /// The scope of the token.
    scope: String,
    /// The start of the key. It distinguishes keys with the same identity and scope, for example with another client id.
    key: String,
    /// The state of the token.
    state: State,
    /// The times of the cached token, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<TokenTimes>,
    /// The failure of the last exchange, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_problem: Option<LastProblem>,
}

/// The state of a token. `docs/glossary.md` defines the terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// There is no token. The next request starts an exchange.
    Absent,
    /// There is no token, and a worker performs an exchange.
    Fetching,
    /// The cached token is served and not due for refresh.
    Fresh,
    /// The cached token is served, and it is due for refresh or was rejected.
    Due,
    /// The cached token is served, and a worker performs an exchange.
    Refreshing,
    /// There is no token, the last exchange failed, and its back-off has not elapsed.
    Failing,
}

/// The times of a token, in seconds from now.
#[derive(Debug, Serialize)]
struct TokenTimes {
    /// The time since it was requested.
    age_s: u64,
    /// The time until it is due for refresh.
    refresh_in_s: u64,
    /// The time for which it can still be sent.
    usable_for_s: u64,
    /// The time until it expires.
    expires_in_s: u64,
}

/// A failure and its next attempt.
#[derive(Debug, Serialize)]
struct LastProblem {
    /// The problem code.
    code: &'static str,
    /// `transient` or `throttled`, or `needs_change` if an operator must change something.
    class: &'static str,
    /// What was found and what was expected.
    detail: String,
    /// What to do.
    remedy: String,
    /// Entra's error code, such as `AADSTS700213`.
    #[serde(skip_serializing_if = "Option::is_none")]
    aadsts: Option<String>,
    /// Entra's id of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<Guid>,
    /// Entra's id of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<Guid>,
    /// The time since the failure, in seconds.
    age_s: u64,
    /// The number of consecutive failures.
    failures: u32,
    /// The time until the next attempt, in seconds.
    next_try_in_s: u64,
}

/// The build of the filter.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Build {
    /// The version, as in the changelog.
    pub version: &'static str,
    /// The commit that it was built from.
    pub commit: &'static str,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    build: Build,
    configuration: Shown<'a>,
    /// The current time, in the format of RFC 3339.
    time: String,
    keys: Vec<KeyStatus>,
    /// The number of keys beyond [`MAX_KEYS`], which are omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys_left_out: Option<usize>,
}

/// Maximum number of keys on the page.
const MAX_KEYS: usize = 500;

/// Returns the status page as JSON: each token that the configuration names or for which this process has a token or a failure, in the
/// order of identity and scope. Only the first `MAX_KEYS` are included.
pub fn render(build: Build, configuration: &ConfigurationStatus, now: Timestamp, store: &dyn Store) -> Reply {
    let mut keys: Vec<KeyStatus> = Vec::new();
    let mut left_out = 0;
    let known = store.read_all();
    let is_known = |token: &ConfiguredToken| known.iter().any(|(key, _)| *key == token.key);
    let unknown: Vec<(TokenKey, Entry)> = configuration
        .tokens
        .iter()
        .filter(|token| !is_known(token))
        .map(|token| {
            let (identity, scope) = (token.identity.clone(), token.scope.clone());
            (token.key, Entry { identity, scope, ..Entry::default() })
        })
        .collect();
    // Sorted insertion: the standard library's sort would add 22 KB to the module.
    for (key, entry) in known.into_iter().chain(unknown) {
        let key = KeyStatus::new(key, entry, now);
        let index = keys.partition_point(|other| other.rank() < key.rank());
        keys.insert(index, key);
        if keys.len() > MAX_KEYS {
            keys.pop();
            left_out += 1;
        }
    }
    let keys_left_out = Some(left_out).filter(|left_out| *left_out > 0);
    Reply::json(
        200,
        "application/json",
        &Body { build, configuration: configuration.shown(), time: now.rfc3339(), keys, keys_left_out },
    )
}

impl KeyStatus {
    /// The sort key.
    fn rank(&self) -> (&str, &str, &str) {
        (&self.identity, &self.scope, &self.key)
    }

    fn new(key: TokenKey, entry: Entry, now: Timestamp) -> Self {
        let state = entry.state(now);
        let token = entry.token.filter(|token| token.is_usable(now));
        Self {
            identity: entry.identity,
            scope: entry.scope,
            key: key.short(),
            state,
            token: token.map(|token| TokenTimes {
                age_s: now.since(token.issued_at()).as_secs(),
                refresh_in_s: token.refresh_at().since(now).as_secs(),
                usable_for_s: token.usable_until().since(now).as_secs(),
                expires_in_s: token.expires_at().since(now).as_secs(),
            }),
            last_problem: entry.failure.map(|failure| LastProblem::new(failure, now)),
        }
    }
}

impl LastProblem {
    fn new(failure: Failure, now: Timestamp) -> Self {
        let aadsts = failure.problem.aadsts();
        let Problem { code, detail, remedy, entra, .. } = failure.problem;
        Self {
            code: code.as_str(),
            class: failure.class.as_str(),
            detail,
            remedy,
            aadsts,
            trace_id: entra.trace_id,
            correlation_id: entra.correlation_id,
            age_s: now.since(failure.failed_at).as_secs(),
            failures: failure.failures,
            next_try_in_s: failure.next_try.since(now).as_secs(),
        }
    }
}

impl Entry {
    fn state(&self, now: Timestamp) -> State {
        let is_exchanging = self.lease.as_ref().is_some_and(|lease| lease.is_live(now));
        let is_backing_off = self.failure.as_ref().is_some_and(|failure| failure.is_backing_off(now));
        match self.token.as_ref().filter(|token| token.is_usable(now)) {
            Some(_) if is_exchanging => State::Refreshing,
            Some(token) if token.is_due(now) || self.rejected => State::Due,
            Some(_) => State::Fresh,
            None if is_exchanging => State::Fetching,
            None if is_backing_off => State::Failing,
            None => State::Absent,
        }
    }
}
