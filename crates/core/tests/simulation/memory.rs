//! Envoy's shared data: one map for the process, a set that compares when it is asked to, and one rule that surprises:
//! a set on a name that does not exist succeeds whatever the number.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Whether the value under this name holds tokens' entries.
pub(crate) fn is_of_tokens(name: &str) -> bool {
    !name.contains("/credential/") && !name.ends_with("/readings")
}

#[derive(Default)]
pub(crate) struct Memory {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    /// One for all names, and rising.
    number: Cell<u32>,
    longest: Cell<usize>,
}

impl Memory {
    pub(crate) fn get(&self, name: &str) -> Option<(Vec<u8>, u32)> {
        self.values.borrow().get(name).cloned()
    }

    pub(crate) fn set(&self, name: &str, value: &[u8], cas: Option<u32>) -> bool {
        let mut values = self.values.borrow_mut();
        if let (Some((_, current)), Some(cas)) = (values.get(name), cas)
            && cas != 0
            && *current != cas
        {
            return false;
        }
        self.number.set(self.number.get() + 1);
        self.longest.set(self.longest.get().max(value.len()));
        values.insert(name.to_owned(), (value.to_vec(), self.number.get()));
        true
    }

    /// The longest value that there ever was, in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.longest.get()
    }

    /// The names of tokens' shelves under which there is more than an empty list. What is known of each credential is
    /// kept, and there are few.
    pub(crate) fn not_empty(&self) -> usize {
        let values = self.values.borrow();
        values.iter().filter(|(name, (value, _))| value.as_slice() != [0] && is_of_tokens(name)).count()
    }
}
