//! What the workers know of each token, for people who look: never the token.

use serde::Serialize;

use super::SharedData;
use super::shared::{self, Entry, Failure};
use crate::configuration_status::{ConfigurationStatus, ConfiguredToken, Shown};
use crate::entra::TokenKey;
use crate::http::Reply;
use crate::problem::Problem;
use crate::time::Timestamp;
use crate::untrusted::Guid;

/// What the workers of one Envoy process know of one key.
#[derive(Debug, Serialize)]
struct KeyStatus {
    /// The identity, by its name in the configuration.
    identity: String,
    /// What the token is for.
    scope: String,
    /// The start of the key, which tells two keys of the same identity and scope apart, such as another client id's.
    key: String,
    /// The state of its token.
    state: State,
    /// The token that requests get, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<TokenTimes>,
    /// Why the last exchange failed, when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_problem: Option<LastProblem>,
}

/// The state of a key's token, in the words of `docs/glossary.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// There is no token; the next request starts an exchange.
    Absent,
    /// There is no token, and a worker makes an exchange.
    Fetching,
    /// Requests get the token, and it is not time to refresh it.
    Fresh,
    /// Requests get the token, and it is time to refresh it, or it was rejected.
    Due,
    /// Requests get the token, and a worker makes an exchange.
    Refreshing,
    /// There is no token, the last exchange failed, and its back-off runs.
    Failing,
}

/// A token's times, in seconds from now.
#[derive(Debug, Serialize)]
struct TokenTimes {
    /// How long ago it was asked for.
    age_s: u64,
    /// When another is fetched, if it is used.
    refresh_in_s: u64,
    /// How long it is sent.
    usable_for_s: u64,
    /// How long it lives.
    expires_in_s: u64,
}

/// A failure, and when it is tried again.
#[derive(Debug, Serialize)]
struct LastProblem {
    /// What went wrong, in a word.
    code: &'static str,
    /// Whether it passes (`transient`, `throttled`) or somebody must change something (`needs_change`).
    class: &'static str,
    /// What happened.
    detail: String,
    /// What to do about it.
    remedy: String,
    /// Entra's code, such as `AADSTS700213`.
    #[serde(skip_serializing_if = "Option::is_none")]
    aadsts: Option<String>,
    /// Entra's id for its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<Guid>,
    /// Entra's id for the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<Guid>,
    /// How long ago it happened.
    age_s: u64,
    /// How many failed in a row.
    failures: u32,
    /// When the next try is due.
    next_try_in_s: u64,
}

/// Which build of the filter it is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Build {
    /// As the changelog names it.
    pub version: &'static str,
    /// The commit it was made of.
    pub commit: &'static str,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    build: Build,
    configuration: Shown<'a>,
    /// RFC 3339.
    time: String,
    keys: Vec<KeyStatus>,
    /// How many keys there are beyond [`MOST_KEYS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    keys_left_out: Option<usize>,
}

/// How many keys are shown.
const MOST_KEYS: usize = 500;

/// What is known of each key that the configuration names, or that this process has a token or a failure of, by identity and scope: as JSON. Of more than
/// `MOST_KEYS` the first are shown.
pub fn status(build: Build, configuration: &ConfigurationStatus, now: Timestamp, shared: &dyn SharedData) -> Reply {
    let mut keys: Vec<KeyStatus> = Vec::new();
    let mut left_out = 0;
    let known = shared::read_all(shared);
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
    // Each in its place: the library's sort has 22 KB, for a page that a person reads.
    for (key, entry) in known.into_iter().chain(unknown) {
        let key = KeyStatus::new(key, entry, now);
        let index = keys.partition_point(|other| other.rank() < key.rank());
        keys.insert(index, key);
        if keys.len() > MOST_KEYS {
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
    /// Where it stands among others.
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
