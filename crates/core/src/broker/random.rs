//! Random numbers for jitter.

/// The random number generator for jitter: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators"). It is not used for secrets.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half is of better quality.
        u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default()
    }
}
