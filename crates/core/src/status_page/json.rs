//! The status page as JSON. `docs/configuration.md` describes its fields.

use super::{KeyStatus, Keys, StatusPage, TokenTimes, Waiting};
use crate::broker::store::{Failure, Run};
use crate::json::{ObjectWriter, quoted};
use crate::time::Timestamp;
use crate::untrusted::Guid;

/// The page.
pub(super) fn body(page: &StatusPage<'_>, keys: &Keys) -> ObjectWriter {
    let shown = page.configuration.shown();
    let mut configuration = ObjectWriter::new();
    let warnings = shown.warnings.iter().map(|warning| quoted(warning).into_bytes());
    configuration.text("sha256", &shown.sha256).list("warnings", warnings);
    let mut body = ObjectWriter::new();
    body.text("version", page.build.version)
        .text("commit", page.build.commit)
        .object("configuration", configuration)
        .text("time", &page.now.rfc3339())
        .list("keys", keys.shown.iter().map(|status| key(status, page.now).finish()));
    if keys.left_out > 0 {
        body.number("keys_left_out", number(keys.left_out));
    }
    body
}

fn key(status: &KeyStatus, now: Timestamp) -> ObjectWriter {
    let entry = &status.entry;
    let mut json = ObjectWriter::new();
    json.text("identity", &entry.identity)
        .text("scope", &entry.scope)
        .text("key", &status.key)
        .text("state", entry.state(now));
    if let Some(token) = status.token(now) {
        json.object("token", times(&token));
    }
    if let Some(failure) = &entry.failure {
        json.object("last_problem", last_problem(failure, now));
    }
    if let Some(Waiting { requests, workers }) = status.waiting {
        let mut waiting = ObjectWriter::new();
        waiting.number("requests", number(requests)).number("workers", number(workers));
        json.object("waiting", waiting);
    }
    let mut exchanges = entry.exchanges.latest_first().map(|run| exchanges(run, now).finish()).peekable();
    if exchanges.peek().is_some() {
        json.list("exchanges", exchanges);
    }
    json
}

fn times(token: &TokenTimes) -> ObjectWriter {
    let mut json = ObjectWriter::new();
    json.number("age_s", token.age_s)
        .number("refresh_in_s", token.refresh_in_s)
        .number("usable_for_s", token.usable_for_s)
        .number("expires_in_s", token.expires_in_s);
    json
}

/// A failure and its next attempt. `class` is `transient` or `throttled`, or `needs_change` if an operator must change something;
/// `failures` is the number of consecutive ones.
fn last_problem(failure: &Failure, now: Timestamp) -> ObjectWriter {
    let problem = &failure.problem;
    let mut json = ObjectWriter::new();
    json.text("code", problem.code.as_str())
        .text("class", failure.class.as_str())
        .text("detail", &problem.detail)
        .text("remedy", &problem.remedy)
        .some_text("aadsts", problem.aadsts().as_deref())
        .some_text("trace_id", problem.entra.trace_id.as_ref().map(Guid::as_str))
        .some_text("correlation_id", problem.entra.correlation_id.as_ref().map(Guid::as_str))
        .number("age_s", now.since(failure.failed_at).as_secs())
        .number("failures", failure.failures.into())
        .number("next_try_in_s", failure.next_try.since(now).as_secs());
    json
}

/// Consecutive exchanges with the same outcome.
fn exchanges(run: &Run, now: Timestamp) -> ObjectWriter {
    let mut json = ObjectWriter::new();
    json.text("outcome", run.outcome())
        .some_text("aadsts", run.aadsts().as_deref())
        .number("count", run.count.into())
        .number("first_age_s", now.since(run.first).as_secs())
        .number("last_age_s", now.since(run.last).as_secs());
    json
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
