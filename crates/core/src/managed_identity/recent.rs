//! The token specs that callers requested last, of those that the configuration does not list.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::entra::TokenSpec;

/// The maximum number of specs. Beyond it, the oldest is dropped. The apps of a pod use few resources.
const CAPACITY: usize = 8;

/// Token specs of one identity. Building a spec calculates a hash, which costs as much as the rest of a request; a request for a scope that
/// is among these finds it instead. It decides nothing: a scope's spec is always the same.
#[derive(Default)]
pub(super) struct RecentSpecs(Mutex<Vec<Arc<TokenSpec>>>);

impl RecentSpecs {
    /// The spec of a scope, if it is among these.
    pub(super) fn get(&self, scope: &str) -> Option<Arc<TokenSpec>> {
        self.specs().iter().find(|spec| spec.scope() == scope).cloned()
    }

    /// Adds the spec of a scope that is not among these.
    pub(super) fn add(&self, spec: &Arc<TokenSpec>) {
        let mut specs = self.specs();
        if specs.len() >= CAPACITY {
            specs.remove(0);
        }
        specs.push(Arc::clone(spec));
    }

    fn specs(&self) -> MutexGuard<'_, Vec<Arc<TokenSpec>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
