//! The store in Envoy's shared data.
//!
//! Envoy's shared data supports compare-and-set, but a set of a name that does not exist always succeeds, and names cannot be removed.
//! There is therefore a fixed number of *shelves*, created before any worker runs, and each holds the entries of the keys that fall to
//! it. Every change is then a real compare-and-set, and a removed entry frees its memory.

use std::cell::Cell;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::predecessors::Predecessors;
use super::shared_data::{
    CREDENTIAL_SHELVES, PREFIX, SharedData, credential_shelf, shelf_names, source_shelf, token_shelf,
};
use super::{CredentialState, Entry, Record, SourceState, Store};
use crate::assertion::Source;
use crate::entra::{CredentialKey, TokenKey};
use crate::event::Event;
use crate::time::Timestamp;

/// The name of the configuration that was announced last, whatever the format of the entries is.
const ANNOUNCED: &str = "entra-exchange/configuration";

/// Maximum number of attempts of a compare-and-set.
const TRIES: usize = 64;

/// The store in Envoy's shared data, from the view of one VM.
#[derive(Default)]
pub struct Shelves<M> {
    pub(crate) memory: M,
    predecessors: Cell<Option<Predecessors>>,
}

impl<M: SharedData> Shelves<M> {
    /// Creates the view of one VM.
    pub const fn new(memory: M) -> Self {
        Self { memory, predecessors: Cell::new(None) }
    }

    fn value(&self, name: &str) -> Vec<u8> {
        self.memory.get(name).map(|(bytes, _)| bytes).unwrap_or_default()
    }
}

impl<M: SharedData> Store for Shelves<M> {
    /// Creates the missing names.
    fn prepare(&self) {
        for name in shelf_names(PREFIX) {
            if self.memory.get(&name).is_none() {
                self.memory.set(&name, EMPTY, None);
            }
        }
    }

    fn announce(&self, configuration: &str, wait: Duration, now: Timestamp) -> bool {
        self.predecessors.set(Some(Predecessors::register(wait, now, &self.memory)));
        let is_new = self.value(ANNOUNCED) != configuration.as_bytes();
        if is_new {
            self.memory.set(ANNOUNCED, configuration.as_bytes(), None);
            change_value(&self.memory, &source_shelf(PREFIX), &mut |bytes| {
                let mut shelf: Shelf<String, SourceState> = decode(bytes);
                shelf.0.iter_mut().for_each(|(_, state)| state.forget());
                Some(encode(&shelf))
            });
        }
        is_new
    }

    fn read(&self, key: TokenKey) -> Entry {
        decode::<Shelf<TokenKey, Entry>>(&self.value(&shelf_of(key))).take(&key)
    }

    /// Reads each shelf once, however many of the keys fall to it: callers of managed identity can choose scopes that fall to the same one.
    fn read_each(&self, keys: &[TokenKey], visit: &mut dyn FnMut(&Entry)) {
        for (index, key) in keys.iter().enumerate() {
            let is_same = |other: &&TokenKey| other.first_byte() == key.first_byte();
            let (before, from_here) = keys.split_at(index);
            if before.iter().any(|other| is_same(&other)) {
                continue;
            }
            let shelf: Shelf<TokenKey, Entry> = decode(&self.value(&shelf_of(*key)));
            let is_wanted = |other: &TokenKey| from_here.iter().filter(is_same).any(|key| key == other);
            shelf.0.iter().filter(|(key, _)| is_wanted(key)).for_each(|(_, entry)| visit(entry));
        }
    }

    fn read_all(&self) -> Vec<(TokenKey, Entry)> {
        let shelves = (0..=u8::MAX).map(|number| self.value(&token_shelf(PREFIX, number)));
        shelves.flat_map(|bytes| decode::<Shelf<TokenKey, Entry>>(&bytes).0).collect()
    }

    fn update(&self, key: TokenKey, now: Timestamp, change: &mut dyn FnMut(&mut Entry) -> bool) -> bool {
        change_entry(&self.memory, &shelf_of(key), key, now, change)
    }

    fn read_credential(&self, key: CredentialKey) -> CredentialState {
        decode::<Shelf<CredentialKey, CredentialState>>(&self.value(&shelf_of_credential(key))).take(&key)
    }

    fn update_credential(
        &self,
        key: CredentialKey,
        now: Timestamp,
        change: &mut dyn FnMut(&mut CredentialState) -> bool,
    ) -> bool {
        change_entry(&self.memory, &shelf_of_credential(key), key, now, change)
    }

    fn read_source(&self, source: &Source) -> SourceState {
        decode::<Shelf<String, SourceState>>(&self.value(&source_shelf(PREFIX))).take(&source.id().to_owned())
    }

    fn update_source(&self, source: &Source, now: Timestamp, change: &mut dyn FnMut(&mut SourceState) -> bool) -> bool {
        change_entry(&self.memory, &source_shelf(PREFIX), source.id().to_owned(), now, change)
    }

    fn next_cleanup(&self) -> Option<Timestamp> {
        self.predecessors.get().and_then(|predecessors| predecessors.next_due())
    }

    fn clean_up(&self, now: Timestamp) -> Option<Event> {
        let mut predecessors = self.predecessors.get()?;
        let event = predecessors.empty(now, &self.memory);
        self.predecessors.set(Some(predecessors));
        event
    }
}

fn shelf_of(key: TokenKey) -> String {
    token_shelf(PREFIX, key.first_byte())
}

fn shelf_of_credential(key: CredentialKey) -> String {
    credential_shelf(PREFIX, key.first_byte() % CREDENTIAL_SHELVES)
}

/// A shelf without entries: the length of an empty list.
pub(crate) const EMPTY: &[u8] = &[0];

/// Serializes a shared value. Not inlined: the module contains the code of each type once.
#[inline(never)]
fn encode(value: &impl Serialize) -> Vec<u8> {
    // Serialization fails only for types of unknown length, and no shared type is one.
    postcard::to_allocvec(value).unwrap_or_default()
}

/// Deserializes a shared value. Invalid bytes are read as the default value.
#[inline(never)]
fn decode<T: DeserializeOwned + Default>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).unwrap_or_default()
}

/// The entries of one name. They are few, so a list is searched: a map would add 10 KB to the module for each type.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Shelf<K, V>(Vec<(K, V)>);

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq, V: Default> Shelf<K, V> {
    /// Changes the entry of a key, and creates it if it does not exist.
    fn change<T>(&mut self, key: K, change: impl FnOnce(&mut V) -> T) -> T {
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
    fn take(self, key: &K) -> V {
        self.0.into_iter().find(|(other, _)| other == key).map(|(_, entry)| entry).unwrap_or_default()
    }
}

/// Changes the entry of a key in a shelf, and removes entries that no longer have an effect.
fn change_entry<K, V>(
    memory: &dyn SharedData,
    name: &str,
    key: K,
    now: Timestamp,
    change: &mut dyn FnMut(&mut V) -> bool,
) -> bool
where
    K: Clone + PartialEq + Serialize + DeserializeOwned,
    V: Record + Serialize + DeserializeOwned,
{
    change_value(memory, name, &mut |bytes| {
        let mut shelf: Shelf<K, V> = decode(bytes);
        shelf.change(key.clone(), &mut *change).then(|| {
            shelf.0.iter_mut().for_each(|(_, entry)| entry.clean(now));
            shelf.0.retain(|(_, entry)| !entry.is_expired(now));
            encode(&shelf)
        })
    })
}

/// Atomically changes the value of an existing name. `change` may be called several times, each time with the current bytes. It returns
/// the bytes to write, or `None` to leave the value unchanged. Returns `false` if every compare-and-set failed.
fn change_value(memory: &dyn SharedData, name: &str, change: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>) -> bool {
    for _ in 0..TRIES {
        let (bytes, cas) = match memory.get(name) {
            Some((bytes, cas)) => (bytes, Some(cas)),
            None => (Vec::new(), None),
        };
        if change(&bytes).is_none_or(|bytes| memory.set(name, &bytes, cas)) {
            return true;
        }
    }
    false
}
