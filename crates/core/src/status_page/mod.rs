//! The status page: the state of each token, never the token itself. Programs get it as JSON, and browsers as a page.

mod format;
mod html;
mod json;

pub use format::Format;

use crate::broker::store::Entry;
use crate::broker::{CachedToken, Store};
use crate::configuration_status::{ConfigurationStatus, ConfiguredToken};
use crate::entra::TokenKey;
use crate::http::Reply;
use crate::time::Timestamp;

/// The build of the filter.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The version, as in the changelog.
    pub version: &'static str,
    /// The commit that it was built from.
    pub commit: &'static str,
}

/// What the page shows.
#[derive(Clone, Copy)]
pub struct StatusPage<'a> {
    /// The build of the filter.
    pub build: Build,
    /// The configuration in use.
    pub configuration: &'a ConfigurationStatus,
    /// The current time.
    pub now: Timestamp,
    /// The tokens and failures of this process.
    pub store: &'a dyn Store,
    /// Returns how many requests wait for a token in this worker.
    pub waiting: &'a dyn Fn(TokenKey) -> usize,
}

/// Maximum number of keys on the page.
const MAX_KEYS: usize = 500;

/// The tokens on the page, in the order of identity and scope.
struct Keys {
    shown: Vec<KeyStatus>,
    /// The number of keys beyond [`MAX_KEYS`], which are omitted.
    left_out: usize,
}

/// The status of one token key in one Envoy process.
struct KeyStatus {
    /// The start of the key. It distinguishes keys with the same identity and scope, for example with another client id.
    key: String,
    entry: Entry,
    /// `None` if nothing waits.
    waiting: Option<Waiting>,
}

/// What waits for the exchange of a token.
#[derive(Clone, Copy)]
struct Waiting {
    /// The requests in the worker that renders the page.
    requests: usize,
    /// The other workers that wait for the one that performs the exchange. It is not known how many requests wait in them.
    workers: usize,
}

impl StatusPage<'_> {
    /// Returns the page: each token that the configuration names or for which this process has a token or a failure, in the order of
    /// identity and scope. Only the first `MAX_KEYS` are included.
    pub fn reply(&self, format: Format) -> Reply {
        let keys = self.keys();
        let mut reply = match format {
            Format::Json => Reply::json(200, "application/json", json::body(self, &keys)),
            Format::Html => html::reply(self, &keys),
        };
        // A cache that stores responses in spite of `no-store` must not confuse the formats (RFC 9110, section 12.5.5).
        reply.headers.push(("vary", "accept".to_owned()));
        reply
    }

    fn keys(&self) -> Keys {
        let known = self.store.read_all();
        let is_known = |token: &ConfiguredToken| known.iter().any(|(key, _)| *key == token.key);
        let unknown: Vec<(TokenKey, Entry)> = self
            .configuration
            .tokens
            .iter()
            .filter(|token| !is_known(token))
            .map(|token| {
                let (identity, scope) = (token.identity.clone(), token.scope.clone());
                (token.key, Entry { identity, scope, ..Entry::default() })
            })
            .collect();
        let mut keys = Keys { shown: Vec::new(), left_out: 0 };
        // Sorted insertion: the standard library's sort would add 22 KB to the module.
        for (key, entry) in known.into_iter().chain(unknown) {
            let key = self.status_of(key, entry);
            let (Ok(index) | Err(index)) = keys.shown.binary_search_by(|other| other.rank().cmp(&key.rank()));
            keys.shown.insert(index, key);
            if keys.shown.len() > MAX_KEYS {
                keys.shown.pop();
                keys.left_out += 1;
            }
        }
        keys
    }

    fn status_of(&self, key: TokenKey, entry: Entry) -> KeyStatus {
        let lease = entry.lease.as_ref().filter(|lease| lease.is_live(self.now));
        let workers = lease.map_or(0, |lease| lease.waiting.len());
        let waiting = Waiting { requests: (self.waiting)(key), workers };
        let waiting = Some(waiting).filter(|waiting| waiting.requests > 0 || waiting.workers > 0);
        KeyStatus { key: key.short(), entry, waiting }
    }
}

impl KeyStatus {
    /// The sort key.
    fn rank(&self) -> (&str, &str, &str) {
        (&self.entry.identity, &self.entry.scope, &self.key)
    }

    /// The cached token, if it can still be sent.
    fn token(&self, now: Timestamp) -> Option<TokenTimes> {
        self.entry.token.as_ref().filter(|token| token.is_usable(now)).map(|token| TokenTimes::of(token, now))
    }
}

/// The times of a token, in seconds from now.
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

impl TokenTimes {
    fn of(token: &CachedToken, now: Timestamp) -> Self {
        Self {
            age_s: now.since(token.issued_at()).as_secs(),
            refresh_in_s: token.refresh_at().since(now).as_secs(),
            usable_for_s: token.usable_until().since(now).as_secs(),
            expires_in_s: token.expires_at().since(now).as_secs(),
        }
    }
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
