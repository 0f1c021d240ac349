//! The state that the workers of one Envoy process share for each token key: the token, the last failure and the lease.
//!
//! Envoy's shared data supports compare-and-set, but a set of a name that does not exist always succeeds, and names cannot be removed.
//! There is therefore a fixed number of *shelves*, created before any worker runs, and each holds the entries of the keys that fall to
//! it. Every change is then a real compare-and-set, and a removed entry frees its memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::causes::Causes;
use super::freshness::CachedToken;
use super::vocabulary::{FORCED_PERIOD, GRACE_PERIOD, Limits, QueueId, READING_PERIOD, SharedData, WorkerId};
use crate::assertion::Fingerprint;
use crate::entra::{RetryClass, TokenKey};
use crate::problem::Problem;
use crate::time::Timestamp;

/// The prefix of all names. It contains the version of the entries' format, so a module with another format neither reads nor changes
/// these entries.
#[cfg(not(feature = "next"))]
pub(super) const PREFIX: &str = "entra-exchange/5/";
/// The prefix of a module of another version, for the upgrade tests.
#[cfg(feature = "next")]
pub(super) const PREFIX: &str = "entra-exchange/next/";

/// Maximum number of attempts of a compare-and-set.
const TRIES: usize = 64;

/// Time after a failure's next attempt at which the failure is removed.
const KEPT_AFTER_FAILURE: Duration = Duration::from_secs(600);

/// Shared data of a process with one worker, which shares it with nobody: a compare-and-set always succeeds. It
/// holds tokens, so it has no `Debug`.
#[derive(Default)]
pub struct LocalData(RefCell<HashMap<String, Vec<u8>>>);

impl SharedData for LocalData {
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)> {
        self.0.borrow().get(name).map(|value| (value.clone(), 1))
    }

    fn set(&self, name: &str, value: &[u8], _: Option<u32>) -> bool {
        self.0.borrow_mut().insert(name.to_owned(), value.to_vec());
        true
    }
}

/// The exclusive right of one worker to perform a key's exchange until a given time. A lease always expires, so a worker that dies
/// does not block the others for long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) holder: WorkerId,
    pub(super) until: Timestamp,
    /// The queues of the workers to wake when the lease ends.
    pub(super) waiting: Vec<QueueId>,
}

impl Lease {
    /// Maximum duration of a lease. A longer one dates from before the clock was set back and is not valid.
    pub(super) const LONGEST: Duration = Limits::LONGEST_EXCHANGE.saturating_add(GRACE_PERIOD);

    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        now < self.until && self.until.since(now) <= Self::LONGEST
    }
}

/// A failed exchange and its back-off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) problem: Problem,
    /// Whether the failure is transient or needs a change.
    pub(super) class: RetryClass,
    pub(super) failed_at: Timestamp,
    /// The earliest time of the next exchange.
    pub(super) next_try: Timestamp,
    /// The number of failures with this cause since the last token.
    pub(super) failures: u32,
}

impl Failure {
    /// Whether the back-off is in effect. A failure with a time in the future dates from before the clock was set back and is ignored;
    /// [`GRACE_PERIOD`] allows for another worker's clock reading.
    pub(super) fn is_backing_off(&self, now: Timestamp) -> bool {
        self.failed_at <= now.plus(GRACE_PERIOD) && now < self.next_try
    }

    /// Whether the failure is so old that the next one counts as the first.
    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at() <= now
    }

    /// The time from which the failure may be removed.
    pub(super) fn expires_at(&self) -> Timestamp {
        self.next_try.plus(KEPT_AFTER_FAILURE)
    }

    /// Returns the problem with the Retry-After time that applies now.
    pub(super) fn to_problem(&self, now: Timestamp) -> Problem {
        self.problem.clone().retry_after(self.next_try.since(now))
    }
}

/// A federated token that Entra rejected. Entra may accept another one immediately, so the file is read during the back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RefusedAssertion {
    pub(super) fingerprint: Fingerprint,
    /// The time at which a worker last read the file.
    pub(super) read_at: Timestamp,
}

impl RefusedAssertion {
    /// Whether the file may be read again. A time in the future dates from before the clock was set back.
    pub(super) fn may_be_compared(&self, now: Timestamp) -> bool {
        now.since(self.read_at) >= READING_PERIOD || self.read_at > now.plus(GRACE_PERIOD)
    }
}

/// The shared state of one token key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The name of the identity, for the status page.
    #[serde(default)]
    pub(super) identity: String,
    /// The scope, for the status page.
    #[serde(default)]
    pub(super) scope: String,
    pub(super) token: Option<CachedToken>,
    pub(super) failure: Option<Failure>,
    /// The number of failures of each cause since the last token.
    #[serde(default)]
    pub(super) causes: Causes,
    /// The federated token that Entra rejected, if the failure is a rejection of the credential.
    #[serde(default)]
    pub(super) refused: Option<RefusedAssertion>,
    pub(super) lease: Option<Lease>,
    /// Whether the token is rejected. It stays in use until another replaces it.
    #[serde(default)]
    pub(super) rejected: bool,
    /// The time at which a rejection last forced an exchange.
    #[serde(default)]
    pub(super) forced_at: Option<Timestamp>,
    /// The queues of the workers that hold this token or an older one. They are woken when the token is rejected or replaced; workers
    /// that are alive then register again.
    #[serde(default)]
    pub(super) holders: Vec<QueueId>,
    /// The time until which a token that one of the `holders` holds can be sent. An older token may outlast a newer one with a shorter
    /// lifetime.
    #[serde(default)]
    pub(super) held_until: Timestamp,
}

impl Entry {
    /// Whether a rejection forced an exchange less than [`FORCED_PERIOD`] ago. A time in the future dates from before the
    /// clock was set back and does not count.
    pub(super) fn is_forced(&self, now: Timestamp) -> bool {
        self.forced_at.is_some_and(|at| at <= now.plus(GRACE_PERIOD) && now.since(at) < FORCED_PERIOD)
    }

    /// Replaces the token. Returns the queues of the workers to wake: all that hold an older token, except the `holder` of the new one.
    pub(super) fn replace_token(&mut self, token: CachedToken, holder: QueueId) -> Vec<QueueId> {
        let mut older = std::mem::take(&mut self.holders);
        older.retain(|queue| *queue != holder);
        self.enter(holder, &token);
        self.token = Some(token);
        self.rejected = false;
        older
    }

    /// Registers a worker as a holder of a token of this key.
    pub(super) fn enter(&mut self, holder: QueueId, token: &CachedToken) {
        self.holders.push(holder);
        self.held_until = self.held_until.max(token.usable_until());
    }

    /// Whether no worker can still hold a token of this key.
    fn is_released(&self, now: Timestamp) -> bool {
        self.holders.is_empty() || self.held_until <= now
    }

    /// Removes a token that is no longer usable. Otherwise it would be used again after the clock is set back.
    fn clean(&mut self, now: Timestamp) {
        if self.token.take_if(|token| !token.is_usable(now)).is_some() {
            self.rejected = false;
        }
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        let token_over = self.token.as_ref().is_none_or(|token| !token.is_usable(now));
        let failure_over = self.failure.as_ref().is_none_or(|failure| failure.is_expired(now));
        let lease_over = self.lease.as_ref().is_none_or(|lease| !lease.is_live(now));
        token_over && failure_over && lease_over && !self.is_forced(now) && self.is_released(now)
    }
}

/// A shelf without entries: the length of an empty list.
pub(super) const EMPTY: &[u8] = &[0];

/// Serializes a shared value.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    // Serialization fails only for types of unknown length, and no shared type is one.
    postcard::to_allocvec(value).unwrap_or_default()
}

/// Deserializes a shared value. Invalid bytes are read as the default value.
pub(super) fn decode<T: DeserializeOwned + Default>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).unwrap_or_default()
}

/// The entries of one name. They are few, so a list is searched: a map would add 10 KB to the module for each type.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Shelf<K, V>(pub(super) Vec<(K, V)>);

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq, V: Default> Shelf<K, V> {
    /// Changes the entry of a key, and creates it if it does not exist.
    pub(super) fn change<T>(&mut self, key: K, change: impl FnOnce(&mut V) -> T) -> T {
        match self.0.iter_mut().find(|(other, _)| *other == key) {
            Some((_, entry)) => change(entry),
            None => {
                let mut entry = V::default();
                let result = change(&mut entry);
                self.0.push((key, entry));
                result
            }
        }
    }

    /// Returns the entry of a key, or the default entry.
    pub(super) fn take(self, key: &K) -> V {
        self.0.into_iter().find(|(other, _)| other == key).map(|(_, entry)| entry).unwrap_or_default()
    }
}

fn shelf(number: u8) -> String {
    format!("{PREFIX}{number:02x}")
}

fn shelf_of(key: TokenKey) -> String {
    shelf(key.first_byte())
}

/// Creates the missing shelves.
pub(super) fn prepare(shared: &dyn SharedData) {
    for number in 0..=u8::MAX {
        let name = shelf(number);
        if shared.get(&name).is_none() {
            shared.set(&name, EMPTY, None);
        }
    }
}

/// Clears the shelves of a version, whose names begin with `prefix`. Returns the number of shelves that held entries.
pub(super) fn empty(prefix: &str, shared: &dyn SharedData) -> usize {
    // No format writes an entry in so few bytes, and every format reads an empty value as a shelf without entries.
    const NO_ENTRIES: usize = 2;
    let names = (0..=u8::MAX).map(|number| format!("{prefix}{number:02x}"));
    let used = names.filter(|name| shared.get(name).is_some_and(|(bytes, _)| bytes.len() > NO_ENTRIES));
    used.map(|name| shared.set(&name, b"", None)).filter(|emptied| *emptied).count()
}

/// Reads the shared entry of `key`.
pub(super) fn read(shared: &dyn SharedData, key: TokenKey) -> Entry {
    let bytes = shared.get(&shelf_of(key)).map(|(bytes, _)| bytes).unwrap_or_default();
    decode::<Shelf<TokenKey, Entry>>(&bytes).take(&key)
}

/// Reads all shared entries.
pub(super) fn read_all(shared: &dyn SharedData) -> Vec<(TokenKey, Entry)> {
    let shelves = (0..=u8::MAX).filter_map(|number| shared.get(&shelf(number)));
    shelves.flat_map(|(bytes, _)| decode::<Shelf<TokenKey, Entry>>(&bytes).0).collect()
}

/// The result of a change to a shared value, and whether to write the change.
pub(super) enum Update<T> {
    Commit(T),
    Abandon(T),
}

impl<T> Update<T> {
    pub(super) fn commit_if(changed: bool, result: T) -> Self {
        if changed { Self::Commit(result) } else { Self::Abandon(result) }
    }
}

/// Atomically changes the value of an existing name.
///
/// `change` may be called several times, each time with the current bytes. It returns the bytes to write, or `None` to leave the value
/// unchanged. Returns `false` if every compare-and-set failed.
pub(super) fn update_value(
    shared: &dyn SharedData,
    name: &str,
    change: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
) -> bool {
    for _ in 0..TRIES {
        let (bytes, cas) = match shared.get(name) {
            Some((bytes, cas)) => (bytes, Some(cas)),
            None => (Vec::new(), None),
        };
        if change(&bytes).is_none_or(|bytes| shared.set(name, &bytes, cas)) {
            return true;
        }
    }
    false
}

/// Calls `update` with a change that returns whether to write it. Returns the result of the last change, or `None` if `update` returns
/// `false`. `update` does not depend on `T`, so the module contains its code only once.
pub(super) fn with_result<V, T>(
    mut change: impl FnMut(&mut V) -> Update<T>,
    update: impl FnOnce(&mut dyn FnMut(&mut V) -> bool) -> bool,
) -> Option<T> {
    let mut last = None;
    let done = update(&mut |value| {
        let (is_written, result) = match change(value) {
            Update::Commit(result) => (true, result),
            Update::Abandon(result) => (false, result),
        };
        last = Some(result);
        is_written
    });
    last.filter(|_| done)
}

/// Atomically changes the shared entry of `key`, as [`update_value`] does. Returns the last result of `change`, or `None` if every
/// compare-and-set failed.
pub(super) fn update<T>(
    shared: &dyn SharedData,
    key: TokenKey,
    now: Timestamp,
    change: impl FnMut(&mut Entry) -> Update<T>,
) -> Option<T> {
    with_result(change, |change| update_entry(shared, key, now, change))
}

fn update_entry(
    shared: &dyn SharedData,
    key: TokenKey,
    now: Timestamp,
    change: &mut dyn FnMut(&mut Entry) -> bool,
) -> bool {
    update_value(shared, &shelf_of(key), &mut |bytes| {
        let mut shelf: Shelf<TokenKey, Entry> = decode(bytes);
        shelf.change(key, &mut *change).then(|| {
            shelf.0.retain(|(_, entry)| !entry.is_expired(now));
            shelf.0.iter_mut().for_each(|(_, entry)| entry.clean(now));
            encode(&shelf)
        })
    })
}

/// Removes the shared entry of `key`, unless its lease is held. Returns the queues of the workers that hold its token if that is
/// rejected: nothing else tells them that it is replaced.
pub(super) fn remove(shared: &dyn SharedData, key: TokenKey, now: Timestamp) -> Vec<QueueId> {
    let removed = update(shared, key, now, |entry| {
        if entry.lease.as_ref().is_some_and(|lease| lease.is_live(now)) {
            return Update::Abandon(Vec::new());
        }
        // The time of a forced exchange is kept as long as it limits the next one.
        let forced = std::mem::take(entry);
        let wake = if forced.rejected { forced.holders.clone() } else { Vec::new() };
        if forced.is_forced(now) {
            let Entry { identity, scope, forced_at, .. } = forced;
            *entry = Entry { identity, scope, forced_at, ..Entry::default() };
        }
        Update::Commit(wake)
    });
    removed.unwrap_or_default()
}
