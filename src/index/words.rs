//! One shard's words in a table whose memory is counted, wherever the table is held.
//!
//! A table that only a snapshot still holds counts too: it goes when the snapshot does.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashTable;

use crate::storage::location::{Word, table_hash};

/// What the table takes for a word: itself and a control byte.
pub(super) const BUCKET_BYTES: u64 = size_of::<Word>() as u64 + 1;

/// Control bytes that are there twice, so that groups may be read past the end: 16 at most.
pub(super) const GROUP_BYTES: u64 = 16;

/// Words that a table of so many buckets has room for: 7/8 of them are used.
fn full(buckets: usize) -> usize {
    match buckets {
        0..=1 => 0,
        2..=8 => buckets - 1,
        _ => buckets / 8 * 7,
    }
}

/// Buckets of the smallest table with room for `len` words.
pub(super) fn buckets_for(len: usize) -> usize {
    match len {
        0 => 0,
        1..=3 => 4,
        4..=7 => 8,
        8..=14 => 16,
        _ => (len * 8 / 7).next_power_of_two(),
    }
}

/// True if it is better to clear out what removed words have left in a full table of `buckets`, which
/// is to hold `len`, than to double it: at least 1/8 of it comes free.
fn has_slack(len: usize, buckets: usize) -> bool {
    len <= full(buckets) / 8 * 7
}

/// What all tables of an index take.
#[derive(Debug, Default)]
pub struct Memory {
    bytes: AtomicU64,
    /// Most that one of them ever took.
    largest: AtomicU64,
}

impl Memory {
    /// Bytes of all tables.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that adding a word takes at most: a copy for a snapshot, twice as large.
    #[inline]
    pub fn growth_max(&self) -> u64 {
        2 * self.largest.load(Ordering::Relaxed) + 4 * BUCKET_BYTES + GROUP_BYTES
    }

    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.largest.fetch_max(bytes, Ordering::Relaxed);
    }
}

/// A counted table.
#[derive(Debug)]
pub struct Words {
    table: HashTable<Word>,
    memory: Arc<Memory>,
}

impl Deref for Words {
    type Target = HashTable<Word>;

    fn deref(&self) -> &HashTable<Word> {
        &self.table
    }
}

impl Clone for Words {
    fn clone(&self) -> Self {
        Self::new(self.table.clone(), &self.memory)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        let bytes = self.bytes();
        self.memory.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Words {
    /// `table`, counted by `memory` from now on.
    pub fn new(table: HashTable<Word>, memory: &Arc<Memory>) -> Self {
        memory.add(table.allocation_size() as u64);
        Self {
            table,
            memory: Arc::clone(memory),
        }
    }

    fn bytes(&self) -> u64 {
        self.table.allocation_size() as u64
    }

    /// Bytes that adding `more` words would take beyond what the table takes now.
    pub fn growth(&self, more: usize) -> u64 {
        let (bytes, capacity, buckets) =
            (self.bytes(), self.table.capacity(), buckets_of(&self.table));
        let len = self.table.len() + more;
        let cleared = has_slack(capacity + 1, buckets) && len <= full(buckets);
        if more == 0 || len <= capacity || cleared {
            return 0;
        }
        let group = match bytes {
            0 => GROUP_BYTES,
            bytes => bytes - buckets as u64 * BUCKET_BYTES,
        };
        // A table that is full of what was removed doubles all the same.
        let grown = buckets_for(len.max(full(buckets) + 1)) as u64 * BUCKET_BYTES + group;
        grown.saturating_sub(bytes)
    }

    /// Adds `word`, which is not in it. True if the table may lie somewhere else now.
    #[inline]
    pub fn insert(&mut self, word: Word) -> bool {
        let is_full = self.table.len() == self.table.capacity();
        if is_full {
            self.make_room();
        }
        self.table
            .insert_unique(table_hash(word.bits()), word, |w| table_hash(w.bits()));
        is_full
    }

    #[cold]
    fn make_room(&mut self) {
        let before = self.bytes();
        let (len, full) = (self.table.len() + 1, full(buckets_of(&self.table)));
        // Up to half full the table clears itself out in place.
        if has_slack(len, buckets_of(&self.table)) && len > full / 2 {
            let mut cleared = HashTable::with_capacity(full);
            for word in &self.table {
                cleared.insert_unique(table_hash(word.bits()), *word, |w| table_hash(w.bits()));
            }
            self.table = cleared;
        } else {
            self.table.reserve(1, |w| table_hash(w.bits()));
        }
        let after = self.bytes();
        self.memory.bytes.fetch_sub(before, Ordering::Relaxed);
        self.memory.add(after);
    }

    /// Puts `new` in the place of exactly `old`; false if `old` is not there.
    #[inline]
    pub fn replace(&mut self, old: Word, new: Word) -> bool {
        let found = self
            .table
            .find_mut(table_hash(old.bits()), |word| *word == old);
        found.map(|slot| *slot = new).is_some()
    }

    /// Takes exactly `old` away; false if it is not there.
    #[inline]
    pub fn remove(&mut self, old: Word) -> bool {
        let found = self
            .table
            .find_entry(table_hash(old.bits()), |word| *word == old);
        found.map(|entry| entry.remove()).is_ok()
    }
}

/// Buckets of `table`, 0 if it has no memory.
fn buckets_of(table: &HashTable<Word>) -> usize {
    match table.allocation_size() {
        0 => 0,
        _ => table.num_buckets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(i: u64) -> Word {
        Word::new(i.wrapping_mul(0x9E37_79B9_7F4A_7C15), 0, 4096 + i * 8)
    }

    #[test]
    fn growth_is_known_before_it_happens() {
        let memory = Arc::new(Memory::default());
        let mut words = Words::new(HashTable::new(), &memory);
        for i in 0..5000 {
            let (before, wanted) = (memory.bytes(), words.growth(1));
            let at_most = memory.growth_max();
            words.insert(word(i));
            assert_eq!(memory.bytes() - before, wanted, "word {i}");
            assert!(wanted <= at_most, "word {i}");
            assert_eq!(memory.bytes(), words.allocation_size() as u64);
        }
        for more in [1, 10, 1000, 20_000] {
            let mut copy = words.clone();
            let (before, wanted) = (memory.bytes(), words.growth(more));
            for i in 0..more as u64 {
                copy.insert(word(10_000 + i));
            }
            assert_eq!(memory.bytes() - before, wanted, "{more} more");
        }
        drop(words);
        assert_eq!(memory.bytes(), 0, "what is gone takes nothing");
    }

    #[test]
    fn a_table_of_which_much_was_removed_takes_as_much_again_without_growing() {
        let memory = Arc::new(Memory::default());
        let mut words = Words::new(HashTable::new(), &memory);
        let full = full(1024) as u64;
        for i in 0..full {
            words.insert(word(i));
        }
        let bytes = memory.bytes();
        assert!(words.growth(1) > 0);
        // Three quarters of them stay; each round removes the oldest and adds as many.
        let quarter = full / 4;
        assert!((0..quarter).all(|i| words.remove(word(i))));
        for i in quarter..40 * quarter {
            assert!(words.remove(word(i)));
            assert_eq!(words.growth(1), 0, "word {i}");
            words.insert(word(full - quarter + i));
            assert_eq!(memory.bytes(), bytes, "word {i}");
        }
    }

    #[test]
    fn growth_is_known_in_a_table_that_is_full_of_what_was_removed() {
        let memory = Arc::new(Memory::default());
        let mut words = Words::new(HashTable::new(), &memory);
        let full = full(1024) as u64;
        for i in 0..full {
            words.insert(word(i));
        }
        let bytes = memory.bytes();
        // An eleventh is removed and comes again, over and over.
        let (mut first, mut next) = (0, full);
        while memory.bytes() == bytes {
            assert!((first..first + full / 11).all(|i| words.remove(word(i))));
            first += full / 11;
            for _ in 0..full / 11 {
                let (before, wanted) = (memory.bytes(), words.growth(1));
                words.insert(word(next));
                assert_eq!(memory.bytes() - before, wanted, "word {next}");
                next += 1;
            }
            assert!(next < 100 * full, "it does not grow for ever");
        }
    }
}
