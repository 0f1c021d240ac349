//! What the kinds of entries have in common. It imports none of them.

use crate::time::Timestamp;

/// A kind of entry.
pub(crate) trait Record: Clone + Default {
    /// Removes what must not have an effect any more.
    fn clean(&mut self, now: Timestamp);

    /// Whether nothing in it has an effect, so that it can be removed.
    fn is_expired(&self, now: Timestamp) -> bool;
}

/// The result of a change to an entry, and whether to keep the change.
pub(crate) enum Update<T> {
    Commit(T),
    Abandon(T),
}

impl<T> Update<T> {
    pub(crate) fn commit_if(changed: bool, result: T) -> Self {
        if changed { Self::Commit(result) } else { Self::Abandon(result) }
    }
}
