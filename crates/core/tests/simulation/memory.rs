//! Envoy's shared data: one map for the process, with an optional compare-and-set. As in Envoy, a compare-and-set of a name
//! that does not exist always succeeds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Whether the value under this name is a shelf with entries of tokens.
pub(crate) fn is_of_tokens(name: &str) -> bool {
    !name.contains("/credential/") && !name.ends_with("/sources")
}

#[derive(Default)]
pub(crate) struct Memory {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    /// The last compare-and-set number. All names share the sequence.
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

    /// The length in bytes of the longest value so far.
    pub(crate) fn longest(&self) -> usize {
        self.longest.get()
    }

    /// The number of shelves that are not empty. The entries of credentials, of which there are few, do not count.
    pub(crate) fn not_empty(&self) -> usize {
        let values = self.values.borrow();
        values.iter().filter(|(name, (value, _))| value.as_slice() != [0] && is_of_tokens(name)).count()
    }
}
