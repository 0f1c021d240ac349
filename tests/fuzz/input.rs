//! The bytes of a seed, and what is made of them.

use std::time::Duration;

/// The bytes of a seed (SplitMix64).
pub(crate) fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let length = 100 + next() % 900;
    (0..length).flat_map(|_| next().to_le_bytes().into_iter().take(1)).collect()
}

/// What is left of the bytes.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    pub(crate) fn some_bytes(&mut self) -> Vec<u8> {
        let length = self.below(24).min(self.0.len());
        self.0.split_off(..length).unwrap_or_default().to_vec()
    }

    /// Whether something happens that happens once in `count` times.
    pub(crate) fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        most * (u32::from(self.byte()) * 256 + u32::from(self.byte())) / 65536
    }
}
