//! The store of a process whose workers share its memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{CredentialState, Entry, Record, SourceState, Store};
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
    /// By the id of the source.
    sources: BTreeMap<String, SourceState>,
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
        if is_new {
            configuration.clone_into(&mut entries.configuration);
            entries.sources.values_mut().for_each(SourceState::forget);
        }
        is_new
    }

    fn read(&self, key: TokenKey) -> Entry {
        self.entries().tokens.get(&key).cloned().unwrap_or_default()
    }

    fn read_each(&self, keys: &[TokenKey], visit: &mut dyn FnMut(&Entry)) {
        let entries: Vec<Entry> = keys.iter().filter_map(|key| self.entries().tokens.get(key).cloned()).collect();
        entries.iter().for_each(visit);
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

    fn read_source(&self, source: &Source) -> SourceState {
        self.entries().sources.get(source.id()).cloned().unwrap_or_default()
    }

    fn update_source(&self, source: &Source, now: Timestamp, change: &mut dyn FnMut(&mut SourceState) -> bool) -> bool {
        change_entry(&mut self.entries().sources, source.id().to_owned(), now, change);
        true
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
