//! Where a shard's table lies in memory, to ask for the lines of a key before anybody waits for them.
//!
//! A look-up in a large index waits for memory twice: for the control bytes, which say in which slot a word
//! may be, and then for the slot. Both are near the place that the hash names, so both can be asked for at
//! once, before the lock. A put waits for its slot twice over: on x86 whatever takes or frees a lock
//! waits until all earlier stores have found their lines.
//!
//! Nothing depends on it: what stands here may be outdated by the time it is used, or wrong if `hashbrown`
//! lays its tables out otherwise, and then a line is asked for in vain. `HashTable` keeps slots below
//! its control bytes, the first of them last, so that one address leads to both.

use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;

use crate::storage::location::{Word, table_hash};
use crate::storage::raw::prefetch::prefetch;

/// Slots from the one that the hash names on to the last that is still asked for. Three of four words
/// are not further away.
const NEAR: usize = 3;

/// What is asked for of a shard that has no table yet: an address that is there.
static NOTHING: [u64; 16] = [0; 16];

/// Where a table lies.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Address of its control bytes, and the end of its slots.
    control: AtomicUsize,
    /// Its buckets less one.
    mask: AtomicUsize,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            control: AtomicUsize::new(NOTHING[8..].as_ptr().addr()),
            mask: AtomicUsize::new(0),
        }
    }
}

impl Ahead {
    /// Takes note of where `table` lies, if there is a word in it. Cost: finding the first word, which may
    /// mean looking through the control bytes of all of it.
    pub(super) fn note(&self, table: &HashTable<Word>) {
        if let Some(word) = table.iter().next() {
            self.note_by(table, *word);
        }
    }

    /// As [`Ahead::note`], of a table that holds `word`. Cost: that of a look-up.
    pub(super) fn note_by(&self, table: &HashTable<Word>, word: Word) {
        let found = table.find_bucket_index(table_hash(word.bits()), |other| *other == word);
        let found = found.and_then(|bucket| Some((bucket, table.get_bucket(bucket)?)));
        if let Some((bucket, word)) = found {
            let control = std::ptr::from_ref(word).addr() + (bucket + 1) * size_of::<Word>();
            self.control.store(control, Ordering::Relaxed);
            self.mask.store(table.num_buckets() - 1, Ordering::Relaxed);
        }
    }

    /// Whether it says where every word of `table` is.
    #[cfg(test)]
    pub(super) fn knows(&self, table: &HashTable<Word>) -> bool {
        let control = self.control.load(Ordering::Relaxed);
        let is_there = |(bucket, word): (usize, &Word)| {
            let address = std::ptr::from_ref(word).addr();
            address == control.wrapping_sub((bucket + 1) * size_of::<Word>())
        };
        let buckets = 0..table.num_buckets();
        let mut words = buckets.filter_map(|bucket| Some((bucket, table.get_bucket(bucket)?)));
        self.mask.load(Ordering::Relaxed) + 1 == table.num_buckets() && words.all(is_there)
    }

    /// Asks for the control bytes and the slots in which a word with these hash bits may be.
    #[inline(always)]
    pub(super) fn ask(&self, bits: u64) {
        let bucket = table_hash(bits) as usize & self.mask.load(Ordering::Relaxed);
        let control = self.control.load(Ordering::Relaxed);
        let slot = control.wrapping_sub((bucket + 1) * size_of::<Word>());
        prefetch(control.wrapping_add(bucket));
        prefetch(slot);
        prefetch(slot.wrapping_sub(NEAR * size_of::<Word>()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_every_bucket_as_the_table_grows() {
        let ahead = Ahead::default();
        let mut table = HashTable::new();
        let of = |i: u64| Word::new(i.wrapping_mul(0x9E37_79B9_7F4A_7C15), 0, 4096 + i * 8);
        ahead.note(&table);
        let nothing = NOTHING[8..].as_ptr().addr();
        assert_eq!(ahead.control.load(Ordering::Relaxed), nothing);
        for i in 0..1_000 {
            let word = of(i);
            table.insert_unique(table_hash(word.bits()), word, |w| table_hash(w.bits()));
            ahead.note(&table);
            assert!(ahead.knows(&table));
        }
    }
}
