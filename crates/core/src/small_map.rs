//! A map for a few keys, which searches a list. The standard library's hash map adds 1.6 KB to the module for each type, so it is used
//! only for maps that can be large.

/// A map from keys to values, in no particular order.
#[derive(Clone, Debug)]
pub(crate) struct SmallMap<K, V>(Vec<(K, V)>);

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq, V> SmallMap<K, V> {
    /// Returns the value of the first key for which `is_key` is true.
    pub(crate) fn get(&self, is_key: impl Fn(&K) -> bool) -> Option<&V> {
        self.0.iter().find(|(key, _)| is_key(key)).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.iter_mut().find(|(other, _)| other == key).map(|(_, value)| value)
    }

    /// Sets the value of a key, and replaces an existing value.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.get_mut(&key) {
            Some(old) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    /// Removes a key and returns its value.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let index = self.0.iter().position(|(other, _)| other == key)?;
        Some(self.0.swap_remove(index).1)
    }

    /// Removes all entries for whose value `keep` is false.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        self.0.retain(|(_, value)| keep(value));
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_value_that_was_set_last_until_it_is_removed() {
        let mut map = SmallMap::default();
        for (key, value) in [(1, 'a'), (2, 'b'), (1, 'c')] {
            map.insert(key, value);
        }
        assert_eq!((map.len(), map.get(|key| *key == 1), map.get(|key| *key == 3)), (2, Some(&'c'), None));
        assert_eq!((map.remove(&1), map.remove(&1), map.len()), (Some('c'), None, 1));
        map.retain(|value| *value != 'b');
        assert_eq!(map.values().count(), 0);
    }
}
