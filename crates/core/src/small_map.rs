//! A map for a few keys, which searches a list. The standard library's hash map adds 1.6 KB to the module for each type, so it is used
//! only for maps that can be large.

use std::borrow::Borrow;

/// A map from keys to values, in no particular order.
#[derive(Clone, Debug)]
pub(crate) struct SmallMap<K, V>(Vec<(K, V)>);

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq, V> SmallMap<K, V> {
    pub(crate) fn get<Q: PartialEq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.iter().find(|(other, _)| other.borrow() == key).map(|(_, value)| value)
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

    /// Removes all entries for whose value `keep` is false.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        self.0.retain(|(_, value)| keep(value));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
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
        assert_eq!((map.len(), map.get(&1), map.get(&3)), (2, Some(&'c'), None));
        map.retain(|value| *value != 'b');
        assert_eq!((map.get(&2), map.values().collect::<Vec<_>>()), (None, vec![&'c']));
    }
}
