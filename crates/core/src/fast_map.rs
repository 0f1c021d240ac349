//! A hash map whose keys come from the configuration or from Envoy. No caller can add keys that collide, so the hash need not be secret as
//! the standard library's is, and it takes a few instructions.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A hash map for keys that no caller chooses.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// A set of keys that no caller chooses. A caller may choose the key that is looked up.
pub type FastSet<K> = HashSet<K, BuildHasherDefault<FastHasher>>;

/// Multiplies and rotates for each word of eight bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct FastHasher(u64);

/// 2^64 divided by the golden ratio, whose multiples are evenly distributed (Knuth, The Art of Computer Programming, volume 3, section 6.4).
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

impl FastHasher {
    const fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER);
    }
}

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.add(u64::from_le_bytes(*word)));
        match bytes.last_chunk::<8>() {
            // The last word overlaps the one before it.
            Some(word) if !rest.is_empty() => self.add(u64::from_le_bytes(*word)),
            Some(_) => {}
            None => self.add(rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))),
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.add(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.add(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    fn finish(&self) -> u64 {
        // The table uses the lowest bits and the highest; multiplication mixes the highest best.
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn similar_keys_have_different_lowest_bits() {
        let hash = |text: &str| BuildHasherDefault::<FastHasher>::default().hash_one(text);
        let hosts = (0..1024).map(|number| format!("service-{number}.vault.azure.net"));
        let lowest: HashSet<u64> = hosts.map(|host| hash(&host) % 4096).collect();
        // Of 1,024 random numbers below 4,096, about 906 are different.
        assert!(lowest.len() > 850, "{}", lowest.len());
        let ids: HashSet<u64> =
            (0..1024_u32).map(|id| BuildHasherDefault::<FastHasher>::default().hash_one(id) % 4096).collect();
        assert!(ids.len() > 850, "{}", ids.len());
    }
}
