//! What the workers of one Envoy process share: for each token key the token, the last failure, and the lease.
//!
//! Envoy's shared data has compare-and-set, but a set on a name that does not exist always succeeds, and names can
//! never be removed. So there is a fixed number of *shelves*, made before any worker runs, and each holds the entries
//! of the keys that fall to it. Every change is then a true compare-and-set, and what is let go frees its memory.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::causes::Causes;
use super::freshness::CachedToken;
use super::{FORCED_PERIOD, GRACE, Limits, READING_PERIOD, credential};
use crate::assertion::Fingerprint;
use crate::entra::{RetryClass, TokenKey};
use crate::problem::Problem;
use crate::time::Timestamp;

/// The name contains the number of the entries' form: a module with another form neither reads nor harms these.
#[cfg(not(feature = "next"))]
pub(super) const PREFIX: &str = "entra-exchange/5/";
/// A module of another version, as the tests of an upgrade need one.
#[cfg(feature = "next")]
pub(super) const PREFIX: &str = "entra-exchange/next/";

/// How often a change is tried again when another worker was faster.
const TRIES: usize = 64;

/// An entry without a token in use is let go this long after its last failure's next try.
const KEPT_AFTER_FAILURE: Duration = Duration::from_secs(600);

/// The process-wide memory that all workers see, as the shell reaches it.
pub trait SharedData {
    /// The value under a name and its compare-and-set number; `None` where the name has never been set.
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)>;

    /// Sets a value. With `cas`, only if the number is still that; returns whether it was set.
    fn set(&self, name: &str, value: &[u8], cas: Option<u32>) -> bool;
}

/// One of the workers: unique in the process, as good as random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerId(pub u64);

/// The queue that wakes one worker's root context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueId(pub u32);

/// Who is fetching, until when. A lease always ends, so a worker that dies blocks nobody for long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) holder: WorkerId,
    pub(super) until: Timestamp,
    /// Who wants to be woken when it is over.
    pub(super) waiting: Vec<QueueId>,
}

impl Lease {
    /// The longest that a lease is given for at a time. One that claims more is left from before the clock was set
    /// back, and counts for nothing.
    pub(super) const LONGEST: Duration = Limits::LONGEST_EXCHANGE.saturating_add(GRACE);

    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        now < self.until && self.until.since(now) <= Self::LONGEST
    }
}

/// An exchange that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) problem: Problem,
    /// Whether it passes or needs a change.
    pub(super) class: RetryClass,
    pub(super) failed_at: Timestamp,
    /// No exchange before this time.
    pub(super) next_try: Timestamp,
    /// How many failed of this cause since the last token.
    pub(super) failures: u32,
}

impl Failure {
    /// One from the future is left from before the clock was set back, and counts for nothing. Another worker may
    /// have looked at the clock a moment later.
    pub(super) fn is_backing_off(&self, now: Timestamp) -> bool {
        self.failed_at <= now.plus(GRACE) && now < self.next_try
    }

    /// Whether it may be forgotten: nothing was tried for so long that the next failure is the first in a row.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.over_at() <= now
    }

    /// From when on it may be forgotten.
    pub(super) fn over_at(&self) -> Timestamp {
        self.next_try.plus(KEPT_AFTER_FAILURE)
    }

    /// The problem as it is told now.
    pub(super) fn to_problem(&self, now: Timestamp) -> Problem {
        self.problem.clone().retry_after(self.next_try.since(now))
    }
}

/// A federated token that Entra refused. Another one may be accepted at once, so that the file is read while the back-off runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RefusedAssertion {
    pub(super) fingerprint: Fingerprint,
    /// When a worker last read the file.
    pub(super) read_at: Timestamp,
}

impl RefusedAssertion {
    /// Whether the file may be read again. A time in the future dates from before the clock was set back.
    pub(super) fn may_be_compared(&self, now: Timestamp) -> bool {
        now.since(self.read_at) >= READING_PERIOD || self.read_at > now.plus(GRACE)
    }
}

/// What is shared for one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Whose token it is, for people.
    #[serde(default)]
    pub(super) identity: String,
    /// What it is for, for people.
    #[serde(default)]
    pub(super) scope: String,
    pub(super) token: Option<CachedToken>,
    pub(super) failure: Option<Failure>,
    /// How often each cause made an exchange fail since the last token.
    #[serde(default)]
    pub(super) causes: Causes,
    /// The federated token that Entra refused, if the failure is a refusal of the credential.
    #[serde(default)]
    pub(super) refused: Option<RefusedAssertion>,
    pub(super) lease: Option<Lease>,
    /// Whether the token is rejected: it stays in use until another takes its place.
    #[serde(default)]
    pub(super) rejected: bool,
    /// When a token was last rejected.
    #[serde(default)]
    pub(super) forced_at: Option<Timestamp>,
    /// The queues of the workers that hold this token or an older one. They are woken when it is rejected and when
    /// another takes its place; those that are alive then enter themselves anew.
    #[serde(default)]
    pub(super) holders: Vec<QueueId>,
    /// When the last of all tokens that `holders` hold ends. Until then a holder may still send an older token, also when
    /// the newer one had a shorter life and is over.
    #[serde(default)]
    pub(super) held_until: Timestamp,
}

impl Entry {
    /// Whether a rejection forced an exchange less than [`FORCED_PERIOD`] ago. A time in the future dates from before the
    /// clock was set back and does not count.
    pub(super) fn is_forced(&self, now: Timestamp) -> bool {
        self.forced_at.is_some_and(|at| at <= now.plus(GRACE) && now.since(at) < FORCED_PERIOD)
    }

    /// Puts another token in the place of the one that is there. Returns the queues of the workers to wake: of all that
    /// hold an older one, and not the `holder` of this one.
    pub(super) fn replace_token(&mut self, token: CachedToken, holder: QueueId) -> Vec<QueueId> {
        let mut older = std::mem::take(&mut self.holders);
        older.retain(|queue| *queue != holder);
        self.enter(holder, &token);
        self.token = Some(token);
        self.rejected = false;
        older
    }

    /// Enters a worker among those that hold a token of this key.
    pub(super) fn enter(&mut self, holder: QueueId, token: &CachedToken) {
        self.holders.push(holder);
        self.held_until = self.held_until.max(token.usable_until());
    }

    /// Whether no worker can hold a token of this key any more.
    fn is_released(&self, now: Timestamp) -> bool {
        self.holders.is_empty() || self.held_until <= now
    }

    /// Forgets a token that can no longer be used: after the clock was set back, it must not come into use again.
    fn clean(&mut self, now: Timestamp) {
        if self.token.take_if(|token| !token.is_usable(now)).is_some() {
            self.rejected = false;
        }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        let token_over = self.token.as_ref().is_none_or(|token| !token.is_usable(now));
        let failure_over = self.failure.as_ref().is_none_or(|failure| failure.is_over(now));
        let lease_over = self.lease.as_ref().is_none_or(|lease| !lease.is_live(now));
        token_over && failure_over && lease_over && !self.is_forced(now) && self.is_released(now)
    }
}

/// A shelf without entries: the length of an empty list.
pub(super) const EMPTY: &[u8] = &[0];

/// What is shared, as bytes.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    // It fails for types that do not know their length only; none of ours is one.
    postcard::to_allocvec(value).unwrap_or_default()
}

/// What these bytes say. What cannot be read counts as empty, and is written anew.
pub(super) fn decode<T: DeserializeOwned + Default>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).unwrap_or_default()
}

/// The entries under one name. There are few, so one is found by looking at each: a map has 10 KB of code for each type.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Shelf<K, V>(pub(super) Vec<(K, V)>);

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq, V: Default> Shelf<K, V> {
    /// Changes the entry of a key; a new one where there is none.
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

    /// The entry of a key, or an empty one.
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

/// Makes the shelves that are not there yet. To be called where no other worker can do the same at the same time:
/// Envoy configures the canary VM before any worker.
pub fn prepare(shared: &dyn SharedData) {
    for number in 0..=u8::MAX {
        let name = shelf(number);
        if shared.get(&name).is_none() {
            shared.set(&name, EMPTY, None);
        }
    }
    credential::prepare(shared);
}

/// Empties the shelves of a version, whose names begin with `prefix`. Returns how many held entries.
pub(super) fn empty(prefix: &str, shared: &dyn SharedData) -> usize {
    // No form writes an entry in so few bytes, and every form reads a value without bytes as a shelf without entries.
    const NO_ENTRIES: usize = 2;
    let names = (0..=u8::MAX).map(|number| format!("{prefix}{number:02x}"));
    let used = names.filter(|name| shared.get(name).is_some_and(|(bytes, _)| bytes.len() > NO_ENTRIES));
    used.map(|name| shared.set(&name, b"", None)).filter(|emptied| *emptied).count()
}

/// What is shared for `key`.
pub(super) fn read(shared: &dyn SharedData, key: TokenKey) -> Entry {
    let bytes = shared.get(&shelf_of(key)).map(|(bytes, _)| bytes).unwrap_or_default();
    decode::<Shelf<TokenKey, Entry>>(&bytes).take(&key)
}

/// What is shared, key by key.
pub(super) fn read_all(shared: &dyn SharedData) -> Vec<(TokenKey, Entry)> {
    let shelves = (0..=u8::MAX).filter_map(|number| shared.get(&shelf(number)));
    shelves.flat_map(|(bytes, _)| decode::<Shelf<TokenKey, Entry>>(&bytes).0).collect()
}

/// Whether a change is to be written.
pub(super) enum Update<T> {
    Commit(T),
    Abandon(T),
}

impl<T> Update<T> {
    pub(super) fn commit_if(changed: bool, result: T) -> Self {
        if changed { Self::Commit(result) } else { Self::Abandon(result) }
    }
}

/// Changes the value under a name that was made beforehand, as one step that no other worker can come between.
///
/// `change` may be called several times, each time with the bytes that are there then; it gives the bytes to write, if any. Returns
/// `false` when others were faster every time.
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

/// Calls `update` with a change that says whether it is to be written, and gives the result of the last change; `None` when
/// `update` returns `false`. Everything that does not depend on `T` is in `update`, once in the module.
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

/// Changes what is shared for `key`, as [`update_value`] does. The last result of `change` comes back, or `None` when
/// others were faster every time.
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
            shelf.0.retain(|(_, entry)| !entry.is_over(now));
            shelf.0.iter_mut().for_each(|(_, entry)| entry.clean(now));
            encode(&shelf)
        })
    })
}

/// Lets go of what is shared for `key`, unless a worker is fetching it.
pub(super) fn remove(shared: &dyn SharedData, key: TokenKey, now: Timestamp) {
    update(shared, key, now, |entry| {
        if entry.lease.as_ref().is_some_and(|lease| lease.is_live(now)) {
            return Update::Abandon(());
        }
        // A rejection is remembered for as long as it limits the next one.
        let forced = std::mem::take(entry);
        if forced.is_forced(now) {
            let Entry { identity, scope, forced_at, .. } = forced;
            *entry = Entry { identity, scope, forced_at, ..Entry::default() };
        }
        Update::Commit(())
    });
}
