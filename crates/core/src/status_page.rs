//! The status page: the state of each token, never the token itself.

use crate::broker::store::{Entry, Failure};
use crate::broker::{CachedToken, Store};
use crate::configuration_status::{ConfigurationStatus, ConfiguredToken};
use crate::entra::TokenKey;
use crate::http::Reply;
use crate::json::ObjectWriter;
use crate::time::Timestamp;
use crate::untrusted::Guid;

/// The status of one token key in one Envoy process, for the page.
struct KeyStatus {
    /// The identity, by its name in the configuration.
    identity: String,
    /// The scope of the token.
    scope: String,
    /// The start of the key. It distinguishes keys with the same identity and scope, for example with another client id.
    key: String,
    /// Everything in JSON.
    json: String,
}

/// The build of the filter.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The version, as in the changelog.
    pub version: &'static str,
    /// The commit that it was built from.
    pub commit: &'static str,
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
    let mut body = ObjectWriter::new();
    body.text("version", build.version)
        .text("commit", build.commit)
        .object("configuration", configuration.shown())
        .text("time", &now.rfc3339())
        .list("keys", keys.into_iter().map(|key| key.json));
    if left_out > 0 {
        body.number("keys_left_out", left_out);
    }
    Reply::json(200, "application/json", body)
}

impl KeyStatus {
    /// The sort key.
    fn rank(&self) -> (&str, &str, &str) {
        (&self.identity, &self.scope, &self.key)
    }

    fn new(key: TokenKey, entry: Entry, now: Timestamp) -> Self {
        let key = key.short();
        let mut json = ObjectWriter::new();
        json.text("identity", &entry.identity)
            .text("scope", &entry.scope)
            .text("key", &key)
            .text("state", entry.state(now));
        if let Some(token) = entry.token.as_ref().filter(|token| token.is_usable(now)) {
            json.object("token", times(token, now));
        }
        if let Some(failure) = &entry.failure {
            json.object("last_problem", last_problem(failure, now));
        }
        Self { identity: entry.identity, scope: entry.scope, key, json: json.finish() }
    }
}

/// The times of a token in seconds: since it was requested, until it is due for refresh, until it can no longer be sent, until it expires.
fn times(token: &CachedToken, now: Timestamp) -> ObjectWriter {
    let mut json = ObjectWriter::new();
    json.number("age_s", now.since(token.issued_at()).as_secs())
        .number("refresh_in_s", token.refresh_at().since(now).as_secs())
        .number("usable_for_s", token.usable_until().since(now).as_secs())
        .number("expires_in_s", token.expires_at().since(now).as_secs());
    json
}

/// A failure: its problem with the diagnostic fields of Entra, its age, the number of consecutive failures, and the time until the next
/// attempt, in seconds. `class` is `transient` or `throttled`, or `needs_change` if an operator must change something.
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

impl Entry {
    /// The state of the token, by its name in the glossary (`docs/glossary.md`). A token that was rejected is due.
    fn state(&self, now: Timestamp) -> &'static str {
        let is_exchanging = self.lease.as_ref().is_some_and(|lease| lease.is_live(now));
        let is_backing_off = self.failure.as_ref().is_some_and(|failure| failure.is_backing_off(now));
        match self.token.as_ref().filter(|token| token.is_usable(now)) {
            Some(_) if is_exchanging => "refreshing",
            Some(token) if token.is_due(now) || self.rejected => "due",
            Some(_) => "fresh",
            None if is_exchanging => "fetching",
            None if is_backing_off => "failing",
            None => "absent",
        }
    }
}
