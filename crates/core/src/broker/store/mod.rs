//! What the workers of one process share: typed entries, which each of them reads and updates.
//!
//! [`Store`] is the port. [`Shelves`] keeps the entries in Envoy's shared data, because each Wasm VM has a memory of its own.
//! [`MemoryStore`] keeps them in the memory of a process whose workers share it.

mod credential;
mod entry;
mod memory;
mod predecessors;
mod record;
mod shared_data;
mod shelves;
mod source;
mod update;

pub(crate) use super::exchanges::{Exchanges, Run};
pub use credential::CredentialState;
pub use entry::Entry;
pub(crate) use entry::{Failure, Lease, RefusedAssertion};
pub use memory::MemoryStore;
pub(crate) use record::{Record, Update};
#[cfg(test)]
pub(crate) use shared_data::PREFIX;
pub use shared_data::SharedData;
#[cfg(test)]
pub(crate) use shelves::EMPTY;
pub use shelves::Shelves;
pub use source::SourceState;
pub(crate) use update::{record_reading, update, update_credential, update_source};

use std::time::Duration;

use crate::assertion::Source;
use crate::entra::{CredentialKey, TokenKey};
use crate::event::Event;
use crate::time::Timestamp;

/// The entries that all workers of a process share.
///
/// An entry is changed by a function that gets the current entry and returns whether to keep its change. It may be called several times,
/// each time with the current entry, because another worker may change the entry at the same time. Each kept change also removes entries
/// that no longer have an effect.
pub trait Store {
    /// Makes the store ready for use. Call it for each accepted configuration, when no other worker can do the same: Envoy configures the
    /// canary VM before any worker.
    fn prepare(&self);

    /// Records the fingerprint of the configuration that is now in use, and whose requests wait at most `wait`. Returns whether another
    /// one was in use before, whose federated tokens are then forgotten.
    fn announce(&self, configuration: &str, wait: Duration, now: Timestamp) -> bool;

    /// Returns the entry of a token, which is empty if there is none.
    fn read(&self, key: TokenKey) -> Entry;

    /// Passes the entries that exist of these tokens to `visit`, in any order.
    fn read_each(&self, keys: &[TokenKey], visit: &mut dyn FnMut(&Entry));

    /// Returns the entries of all tokens.
    fn read_all(&self) -> Vec<(TokenKey, Entry)>;

    /// Changes the entry of a token atomically. Returns `false` if other workers changed it during each of many attempts.
    fn update(&self, key: TokenKey, now: Timestamp, change: &mut dyn FnMut(&mut Entry) -> bool) -> bool;

    /// Returns the state of a credential, which is empty if there is none.
    fn read_credential(&self, key: CredentialKey) -> CredentialState;

    /// Changes the state of a credential, as [`Store::update`] does the entry of a token.
    fn update_credential(
        &self,
        key: CredentialKey,
        now: Timestamp,
        change: &mut dyn FnMut(&mut CredentialState) -> bool,
    ) -> bool;

    /// Returns the state of a source, which is empty if there is none.
    fn read_source(&self, source: &Source) -> SourceState;

    /// Changes the state of a source, as [`Store::update`] does the entry of a token.
    fn update_source(&self, source: &Source, now: Timestamp, change: &mut dyn FnMut(&mut SourceState) -> bool) -> bool;

    /// The time at which [`Store::clean_up`] must be called.
    fn next_cleanup(&self) -> Option<Timestamp> {
        None
    }

    /// Removes what modules of other versions left behind, if it is due. Returns the event to log.
    fn clean_up(&self, _now: Timestamp) -> Option<Event> {
        None
    }
}
