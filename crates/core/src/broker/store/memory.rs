//! The store of a process whose workers share its memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{CredentialState, Entry, Record, Store};
use crate::assertion::Source;
use crate::entra::{CredentialKey, TokenKey};
use crate::time::Timestamp;

/// The store of a process whose workers share its memory: typed entries under one lock. It holds tokens, so it has no `Debug`.
#[derive(Default)]
pub struct MemoryStore(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    configuration: String,
    tokens: BTreeMap<TokenKey, Entry>,
    credentials: BTreeMap<CredentialKey, CredentialState>,
    /// The ids of the sources whose last read gave a usable federated token.
    readable: BTreeSet<String>,
}

impl MemoryStore {
    /// Each change is made in one step, so the entries are whole even if a thread panicked while it had the lock.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn prepare(&self) {}

    fn announce(&self, configuration: &str, _: Duration, _: Timestamp) -> bool {
        let mut entries = self.entries();
        let is_new = entries.configuration != configuration;
        configuration.clone_into(&mut entries.configuration);
        is_new
    }

    fn read(&self, key: TokenKey) -> Entry {
        self.entries().tokens.get(&key).cloned().unwrap_or_default()
    }

    fn read_all(&self) -> Vec<(TokenKey, Entry)> {
        self.entries().tokens.iter().map(|(key, entry)| (*key, entry.clone())).collect()
    }

    fn update(&self, key: TokenKey, now: Timestamp, change: &mut dyn FnMut(&mut Entry) -> bool) -> bool {
        change_entry(&mut self.entries().tokens, key, now, change);
        true
    }

    fn read_credential(&self, key: CredentialKey) -> CredentialState {
        self.entries().credentials.get(&key).cloned().unwrap_or_default()
    }

    fn update_credential(
        &self,
        key: CredentialKey,
        now: Timestamp,
        change: &mut dyn FnMut(&mut CredentialState) -> bool,
    ) -> bool {
        change_entry(&mut self.entries().credentials, key, now, change);
        true
    }

    fn is_readable(&self, source: &Source) -> bool {
        self.entries().readable.contains(source.id())
    }

    fn record_reading(&self, source: &Source, usable: bool) {
        let readable = &mut self.entries().readable;
        if usable {
            readable.insert(source.id().to_owned());
        } else {
            readable.remove(source.id());
        }
    }
}

/// Changes the entry of a key, and removes entries that no longer have an effect. A change that is not kept leaves no trace.
fn change_entry<K: Ord, V: Record>(
    entries: &mut BTreeMap<K, V>,
    key: K,
    now: Timestamp,
    change: &mut dyn FnMut(&mut V) -> bool,
) {
    let mut changed = entries.get(&key).cloned().unwrap_or_default();
    if change(&mut changed) {
        entries.insert(key, changed);
        entries.retain(|_, entry| {
            entry.clean(now);
            !entry.is_expired(now)
        });
    }
}
