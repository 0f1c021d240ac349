//! What the judge sees of the budget of unlisted scopes: which of them the process keeps.

use entra_exchange_core::broker::{Shelves, Store};
use entra_exchange_core::entra::TokenKey;
use entra_exchange_core::time::Timestamp;
use serde_json::Value;

use crate::specs;
use crate::world::{SharedView, World};

/// An unlisted scope that the process keeps.
pub(crate) struct Kept {
    pub(crate) key: TokenKey,
    /// The time at which a worker last shared that it uses the scope.
    pub(crate) used_at: Timestamp,
    pub(crate) is_exchanging: bool,
}

impl Kept {
    fn parse(scope: &Value) -> Option<Self> {
        let key = serde_json::from_value(scope["key"].clone()).ok()?;
        let used_at = serde_json::from_value(scope["used_at"].clone()).ok()?;
        Some(Self { key, used_at, is_exchanging: !scope["exchanging"].is_null() })
    }
}

impl World {
    /// Shows the judge which unlisted scopes are kept after a worker has changed the value of this name.
    pub(crate) fn observe_budget(&self, vm: usize, name: &str) {
        if self.plan.unlisted_percent == 0 || !name.contains("/credential/") {
            return;
        }
        let state = Shelves::new(SharedView { world: self, vm }).read_credential(specs::unlisted_credential());
        let state = serde_json::to_value(state).unwrap_or_default();
        let scopes = state["budget"]["scopes"].as_array().cloned().unwrap_or_default();
        let kept: Vec<Kept> = scopes.iter().map(|scope| Kept::parse(scope).expect("a scope")).collect();
        self.judge.borrow_mut().sees_budget(&kept, &self.clock);
    }
}
