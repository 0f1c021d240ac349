//! The status page as JSON. `docs/configuration.md` describes its fields.

use serde::Serialize;

use super::{Build, KeyStatus, Keys, StatusPage, TokenTimes, Waiting};
use crate::broker::store::{Failure, Run};
use crate::configuration_status::Shown;
use crate::time::Timestamp;
use crate::untrusted::Guid;

#[derive(Serialize)]
pub(super) struct Body<'a> {
    #[serde(flatten)]
    build: Build,
    configuration: Shown<'a>,
    /// The current time, in the format of RFC 3339.
    time: String,
    keys: Vec<Key<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys_left_out: Option<usize>,
}

#[derive(Serialize)]
struct Key<'a> {
    identity: &'a str,
    scope: &'a str,
    key: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<TokenTimes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_problem: Option<LastProblem<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exchanges: Vec<Exchanges>,
}

/// A failure and its next attempt.
#[derive(Serialize)]
struct LastProblem<'a> {
    code: &'static str,
    /// `transient` or `throttled`, or `needs_change` if an operator must change something.
    class: &'static str,
    detail: &'a str,
    remedy: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aadsts: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a Guid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a Guid>,
    age_s: u64,
    /// The number of consecutive failures.
    failures: u32,
    next_try_in_s: u64,
}

/// Consecutive exchanges with the same outcome.
#[derive(Serialize)]
struct Exchanges {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aadsts: Option<String>,
    count: u32,
    first_age_s: u64,
    last_age_s: u64,
}

impl<'a> Body<'a> {
    pub(super) fn new(page: &StatusPage<'a>, keys: &'a Keys) -> Self {
        Self {
            build: page.build,
            configuration: page.configuration.shown(),
            time: page.now.rfc3339(),
            keys: keys.shown.iter().map(|key| Key::new(key, page.now)).collect(),
            keys_left_out: Some(keys.left_out).filter(|left_out| *left_out > 0),
        }
    }
}

impl<'a> Key<'a> {
    fn new(key: &'a KeyStatus, now: Timestamp) -> Self {
        let entry = &key.entry;
        Self {
            identity: &entry.identity,
            scope: &entry.scope,
            key: &key.key,
            state: entry.state(now),
            token: key.token(now),
            last_problem: entry.failure.as_ref().map(|failure| LastProblem::new(failure, now)),
            waiting: key.waiting,
            exchanges: entry.exchanges.latest_first().map(|run| Exchanges::new(run, now)).collect(),
        }
    }
}

impl<'a> LastProblem<'a> {
    fn new(failure: &'a Failure, now: Timestamp) -> Self {
        let problem = &failure.problem;
        Self {
            code: problem.code.as_str(),
            class: failure.class.as_str(),
            detail: &problem.detail,
            remedy: &problem.remedy,
            aadsts: problem.aadsts(),
            trace_id: problem.entra.trace_id.as_ref(),
            correlation_id: problem.entra.correlation_id.as_ref(),
            age_s: now.since(failure.failed_at).as_secs(),
            failures: failure.failures,
            next_try_in_s: failure.next_try.since(now).as_secs(),
        }
    }
}

impl Exchanges {
    fn new(run: &Run, now: Timestamp) -> Self {
        Self {
            outcome: run.outcome(),
            aadsts: run.aadsts(),
            count: run.count,
            first_age_s: now.since(run.first).as_secs(),
            last_age_s: now.since(run.last).as_secs(),
        }
    }
}
