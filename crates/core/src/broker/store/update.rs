//! Changes of entries that have a result.

use super::{CredentialState, Entry, SourceState, Store, Update};
use crate::assertion::Source;
use crate::entra::{CredentialKey, TokenKey};
use crate::time::Timestamp;

/// Changes the entry of a token. Returns the last result of `change`, or `None` if [`Store::update`] returns `false`.
pub(crate) fn update<T>(
    store: &dyn Store,
    key: TokenKey,
    now: Timestamp,
    change: impl FnMut(&mut Entry) -> Update<T>,
) -> Option<T> {
    with_result(change, |change| store.update(key, now, change))
}

/// Changes the state of a credential, as [`update`] does the entry of a token.
pub(crate) fn update_credential<T>(
    store: &dyn Store,
    key: CredentialKey,
    now: Timestamp,
    change: impl FnMut(&mut CredentialState) -> Update<T>,
) -> Option<T> {
    with_result(change, |change| store.update_credential(key, now, change))
}

/// Changes the state of a source, as [`update`] does the entry of a token.
pub(crate) fn update_source<T>(
    store: &dyn Store,
    source: &Source,
    now: Timestamp,
    change: impl FnMut(&mut SourceState) -> Update<T>,
) -> Option<T> {
    with_result(change, |change| store.update_source(source, now, change))
}

/// Records whether the last read of the source gave a usable federated token. Writes only changes.
pub(crate) fn record_reading(store: &dyn Store, source: &Source, usable: bool, now: Timestamp) {
    update_source(store, source, now, |state| {
        Update::commit_if(std::mem::replace(&mut state.readable, usable) != usable, ())
    });
}

/// Calls `update` with a change that returns whether to keep it. Returns the result of the last change, or `None` if `update` returns
/// `false`. `update` does not depend on `T`, so the module contains its code only once.
fn with_result<V, T>(
    mut change: impl FnMut(&mut V) -> Update<T>,
    update: impl FnOnce(&mut dyn FnMut(&mut V) -> bool) -> bool,
) -> Option<T> {
    let mut last = None;
    let done = update(&mut |value| {
        let (is_kept, result) = match change(value) {
            Update::Commit(result) => (true, result),
            Update::Abandon(result) => (false, result),
        };
        last = Some(result);
        is_kept
    });
    last.filter(|_| done)
}
