//! The 64-bit index word: 23 hash bits, a window, a granule.
//!
//! ```text
//!  63        41 40       25 24            0
//!  | 23 hash  | 16 window | 25 granule    |
//! ```
//!
//! A window is 256 MiB of one segment; a granule is 8 bytes in it. Windows never leave the process:
//! on disk a place is a segment id and an offset. Hash bits 16 to 38 stand in the word, 50 to 59
//! choose the shard, and the word alone gives the table hash, so growth never reads the log.

use kvs_format::ALIGN;

/// Bytes of a window.
pub const WINDOW_BYTES: u64 = 1 << 28;

/// How many windows a process has: 16 TiB.
pub const WINDOWS_MAX: usize = 1 << 16;

const GRANULE_BITS: u32 = 25;
const WINDOW_BITS: u32 = 16;
/// Hash bits of a word.
pub const HASH_BITS: u32 = 23;

const _: () = {
    assert!(GRANULE_BITS + WINDOW_BITS + HASH_BITS == 64);
    assert!(WINDOW_BYTES / ALIGN == 1 << GRANULE_BITS);
    assert!(WINDOWS_MAX == 1 << WINDOW_BITS);
};

/// An index entry: which hash, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(pub u64);

/// The 23 bits of a key's hash that its index word keeps.
#[inline]
pub fn hash_bits(hash: u64) -> u64 {
    (hash >> 16) & ((1 << HASH_BITS) - 1)
}

/// The hash under which `hashbrown` files a word: its low bits choose the slot, its top 7 the tag.
///
/// Slot and tag are disjoint up to 2^16 slots a shard; beyond, the comparison of all 23 bits still
/// keeps the log cold.
#[inline]
pub fn table_hash(bits23: u64) -> u64 {
    bits23 | (bits23 >> (HASH_BITS - 7)) << 57
}

impl Word {
    /// The word of a record at `offset` of a segment whose first window is `base`.
    #[inline]
    pub fn new(hash: u64, base: u16, offset: u64) -> Self {
        let window = u64::from(base) + offset / WINDOW_BYTES;
        let granule = offset % WINDOW_BYTES / ALIGN;
        Self(hash_bits(hash) << (WINDOW_BITS + GRANULE_BITS) | window << GRANULE_BITS | granule)
    }

    /// Its 23 hash bits.
    #[inline]
    pub fn bits(self) -> u64 {
        self.0 >> (WINDOW_BITS + GRANULE_BITS)
    }

    /// Its window and granule: larger further on in the log of a segment.
    #[inline]
    pub fn place(self) -> u64 {
        self.0 & ((1 << (WINDOW_BITS + GRANULE_BITS)) - 1)
    }

    /// Its window.
    #[inline]
    pub fn window(self) -> usize {
        (self.0 >> GRANULE_BITS) as usize & (WINDOWS_MAX - 1)
    }

    /// Its offset in a segment whose first window is `base`.
    #[inline]
    pub fn offset(self, base: u16) -> u64 {
        let granule = self.0 & ((1 << GRANULE_BITS) - 1);
        (self.window() as u64 - u64::from(base)) * WINDOW_BYTES + granule * ALIGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_gives_back_what_it_was_made_of() {
        for base in [0u16, 1, 77, 65_520] {
            for offset in [4096, 4104, WINDOW_BYTES - 8, WINDOW_BYTES, (1 << 32) - 8] {
                let hash = 0x1234_5678_9abc_def0;
                let word = Word::new(hash, base, offset);
                assert_eq!(word.bits(), hash_bits(hash));
                assert_eq!(Word(word.bits() << 41 | word.place()), word);
                assert_eq!(word.offset(base), offset);
                assert_eq!(
                    word.window() as u64,
                    u64::from(base) + offset / WINDOW_BYTES
                );
            }
        }
    }

    #[test]
    fn the_table_hash_uses_all_23_bits_and_nothing_else() {
        let all = (1 << HASH_BITS) - 1;
        assert_eq!(table_hash(all), all | 0x7f << 57);
        assert_eq!(table_hash(1 << 16), 1 << 16 | 1 << 57);
    }
}
