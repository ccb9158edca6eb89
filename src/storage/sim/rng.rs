//! Numbers that look random and depend on nothing but the seed: SplitMix64.
//!
//! A failing image must come back from its seed on every machine and with every version of every
//! dependency, so the generator is ours and will not change.

/// A stream of numbers.
#[derive(Clone, Debug)]
pub(in crate::storage) struct Rng(u64);

impl Rng {
    /// The stream `stream` of `seed`: streams of one seed have nothing to do with each other.
    pub(in crate::storage) fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed);
        let first = mixed.next();
        Self(first ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    /// The next number.
    pub(in crate::storage) fn next(&mut self) -> u64 {
        // Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0. Its tiny bias towards small numbers does not matter.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True in `of_8` of 8 cases.
    pub(super) fn chance(&mut self, of_8: u64) -> bool {
        self.next() >> 61 < of_8
    }

    /// Goes on from where another run of the generator was.
    #[cfg(test)]
    pub(super) fn set_state(&mut self, state: u64) {
        self.0 = state;
    }
}
