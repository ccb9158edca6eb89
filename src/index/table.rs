//! The sharded table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use hashbrown::HashTable;
use kvs_format::hash::shard_of;

use crate::index::ahead::Ahead;
use crate::index::words::{Memory, Words};
use crate::storage::location::{Word, hash_bits, table_hash};

/// One lock's worth of the index.
#[derive(Debug)]
struct Shard<V> {
    table: Arc<Words>,
    view: Arc<V>,
}

/// A shard behind its lock, in a cache line pair of its own: neighbours' locks must not fight.
#[derive(Debug)]
#[repr(align(128))]
struct Locked<V> {
    lock: RwLock<Shard<V>>,
    ahead: Ahead,
}

/// All shards.
#[derive(Debug)]
pub struct Index<V> {
    shards: Box<[Locked<V>]>,
    bits: u8,
    len: AtomicU64,
    memory: Arc<Memory>,
}

/// A shard's table and view at one moment.
#[derive(Debug)]
pub struct ShardSnapshot<V> {
    /// Its words.
    pub table: Arc<Words>,
    /// Where its windows were then.
    pub view: Arc<V>,
}

impl<V> ShardSnapshot<V> {
    /// Every word that may stand for a key of this hash.
    #[inline]
    pub fn words(&self, hash: u64) -> impl Iterator<Item = Word> {
        let bits = hash_bits(hash);
        self.table
            .iter_hash(table_hash(bits))
            .copied()
            .filter(move |word| word.bits() == bits)
    }
}

impl<V> Clone for ShardSnapshot<V> {
    fn clone(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
            view: Arc::clone(&self.view),
        }
    }
}

/// A shard locked against changes.
pub struct ShardRef<'a, V>(RwLockReadGuard<'a, Shard<V>>);

impl<V> ShardRef<'_, V> {
    /// Every word that may stand for a key of this hash.
    #[inline]
    pub fn words(&self, hash: u64) -> impl Iterator<Item = Word> {
        self.0.words(hash)
    }
}

impl<V> Shard<V> {
    #[inline]
    fn words(&self, hash: u64) -> impl Iterator<Item = Word> {
        let bits = hash_bits(hash);
        self.table
            .iter_hash(table_hash(bits))
            .copied()
            .filter(move |word| word.bits() == bits)
    }
}

/// A shard locked for a change.
pub struct ShardMut<'a, V> {
    shard: RwLockWriteGuard<'a, Shard<V>>,
    ahead: &'a Ahead,
    len: &'a AtomicU64,
}

impl<V> Index<V> {
    /// An empty index of `1 << bits` shards.
    pub fn new(bits: u8, view: &Arc<V>) -> Self {
        let memory = Arc::<Memory>::default();
        let shards = (0..1usize << bits)
            .map(|_| Locked {
                lock: RwLock::new(Shard {
                    table: Arc::new(Words::new(HashTable::new(), &memory)),
                    view: Arc::clone(view),
                }),
                ahead: Ahead::default(),
            })
            .collect();
        Self {
            shards,
            bits,
            len: AtomicU64::new(0),
            memory,
        }
    }

    /// log2 of the number of shards.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Words in all shards.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    #[inline]
    fn shard(&self, hash: u64) -> &RwLock<Shard<V>> {
        &self.shards[shard_of(hash, self.bits)].lock
    }

    /// As [`Index::shard`], for a look-up: what it will wait for is asked for at once.
    #[inline]
    fn shard_to_look_up(&self, hash: u64) -> &RwLock<Shard<V>> {
        let shard = &self.shards[shard_of(hash, self.bits)];
        shard.ahead.ask(hash_bits(hash));
        &shard.lock
    }

    /// Brings what a look-up of this hash will wait for into the processor's caches, without waiting.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.shard_to_look_up(hash);
    }

    /// Calls `visit` with every word that may stand for a key of this hash, under the read lock.
    ///
    /// `visit` pins what it wants to look at later; it reads no record itself.
    #[inline]
    pub fn candidates(&self, hash: u64, mut visit: impl FnMut(Word, &Arc<V>)) {
        let bits = hash_bits(hash);
        let shard = self.shard_to_look_up(hash).read();
        for word in shard.table.iter_hash(table_hash(bits)) {
            if word.bits() == bits {
                visit(*word, &shard.view);
            }
        }
    }

    /// What `visit` makes of a word that may stand for a key of this hash, under the read lock: of the only
    /// one, but once in some eight million times.
    #[inline]
    pub fn candidate<T>(&self, hash: u64, visit: impl FnOnce(Word, &Arc<V>) -> T) -> Option<T> {
        let bits = hash_bits(hash);
        let shard = self.shard_to_look_up(hash).read();
        let word = shard
            .table
            .find(table_hash(bits), |word| word.bits() == bits)?;
        Some(visit(*word, &shard.view))
    }

    /// Locks the shard of `hash` against changes; others look at it meanwhile.
    #[inline]
    pub fn look(&self, hash: u64) -> ShardRef<'_, V> {
        ShardRef(self.shard(hash).read())
    }

    /// Locks the shard of `hash` for a change.
    #[inline]
    pub fn lock(&self, hash: u64) -> ShardMut<'_, V> {
        self.lock_shard(shard_of(hash, self.bits))
    }

    #[inline]
    fn lock_shard(&self, shard: usize) -> ShardMut<'_, V> {
        let Locked { lock, ahead } = &self.shards[shard];
        ShardMut {
            shard: lock.write(),
            ahead,
            len: &self.len,
        }
    }

    /// Locks several shards, in the one order that cannot deadlock. Every hash's shard is among the
    /// result at the position [`Index::position`] says.
    pub fn lock_many(&self, hashes: impl Iterator<Item = u64>) -> Vec<(usize, ShardMut<'_, V>)> {
        let mut shards: Vec<usize> = hashes.map(|hash| shard_of(hash, self.bits)).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
            .into_iter()
            .map(|shard| (shard, self.lock_shard(shard)))
            .collect()
    }

    /// Number of the shard of `hash`.
    pub fn position(&self, hash: u64) -> usize {
        shard_of(hash, self.bits)
    }

    /// Shows every shard a new view. A word of a new segment may be inserted afterwards.
    pub fn set_view(&self, view: &Arc<V>) {
        for shard in &self.shards {
            shard.lock.write().view = Arc::clone(view);
        }
    }

    /// Puts a finished table in the place of shard number `shard`.
    pub fn install(&self, shard: usize, table: HashTable<Word>) {
        let Locked { lock, ahead } = &self.shards[shard];
        let mut slot = lock.write();
        ahead.note(&table);
        self.len.fetch_add(table.len() as u64, Ordering::Relaxed);
        self.len
            .fetch_sub(slot.table.len() as u64, Ordering::Relaxed);
        slot.table = Arc::new(Words::new(table, &self.memory));
    }

    /// Puts finished tables in the place of those of their shards, all at once: no reader sees some of
    /// them. Returns what was there. Called, like [`ShardMut::insert`], by the one writer; each shard
    /// comes once, in their order.
    pub fn replace(&self, tables: Vec<(usize, HashTable<Word>)>) -> Vec<Arc<Words>> {
        let mut tables: Vec<_> = tables
            .into_iter()
            .map(|(shard, table)| {
                // Before the locks, under which everybody waits. Too early is as good as too late.
                self.shards[shard].ahead.note(&table);
                (shard, Arc::new(Words::new(table, &self.memory)))
            })
            .collect();
        let mut locked: Vec<_> = tables
            .iter()
            .map(|(shard, _)| self.shards[*shard].lock.write())
            .collect();
        let mut len = self.len.load(Ordering::Relaxed);
        for (shard, (_, table)) in locked.iter_mut().zip(&mut tables) {
            len = len + table.len() as u64 - shard.table.len() as u64;
            std::mem::swap(&mut shard.table, table);
        }
        self.len.store(len, Ordering::Relaxed);
        drop(locked);
        tables.into_iter().map(|(_, table)| table).collect()
    }

    /// All tables as they are now. The caller keeps writers out while it asks.
    pub fn snapshot(&self) -> Vec<ShardSnapshot<V>> {
        let of = |shard: &Locked<V>| {
            let shard = shard.lock.read();
            ShardSnapshot {
                table: Arc::clone(&shard.table),
                view: Arc::clone(&shard.view),
            }
        };
        self.shards.iter().map(of).collect()
    }

    /// The words of shard number `shard` whose hash bits are the `count` smallest from `from` on, every
    /// word with the last of these bits, and the view to find them by. True if larger ones are left.
    ///
    /// Cost: looks at the whole shard under its read lock. Memory: that of two times `count` words.
    pub fn smallest_hashes(
        &self,
        shard: usize,
        from: u64,
        count: usize,
    ) -> (Vec<Word>, Arc<V>, bool) {
        let shard = self.shards[shard].lock.read();
        let words = shard.table.iter().copied();
        let (words, more) = smallest(words, from, count, Word::bits);
        (words, Arc::clone(&shard.view), more)
    }

    /// Bytes of memory that the index occupies, tables that only snapshots hold included.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.memory.bytes() + size_of_val(&*self.shards) as u64
    }

    /// Bytes that adding `more` words, wherever they belong, takes at most.
    #[inline]
    pub fn growth_max(&self, more: u64) -> u64 {
        self.memory.growth_max().saturating_mul(more)
    }

    /// Bytes that adding so many words to each of these shards takes. A table that a snapshot holds is
    /// copied first.
    pub fn growth(&self, more: impl IntoIterator<Item = (usize, usize)>) -> u64 {
        let of = |(shard, more): (usize, usize)| {
            let shard = self.shards[shard].lock.read();
            let copied = match Arc::strong_count(&shard.table) > 1 && more > 0 {
                true => shard.table.allocation_size() as u64,
                false => 0,
            };
            copied + shard.table.growth(more)
        };
        more.into_iter().map(of).sum()
    }
}

impl<V> ShardMut<'_, V> {
    /// Every word that may stand for a key of this hash.
    #[inline]
    pub fn words(&self, hash: u64) -> impl Iterator<Item = Word> {
        self.shard.words(hash)
    }

    /// The view of this shard.
    pub fn view(&self) -> &V {
        &self.shard.view
    }
}

impl<V> ShardMut<'_, V> {
    /// The table, for a change: a copy if a snapshot holds it.
    #[inline]
    fn table(&mut self) -> &mut Words {
        let before = Arc::as_ptr(&self.shard.table);
        let table = Arc::make_mut(&mut self.shard.table);
        if !std::ptr::eq(before, table) {
            self.ahead.note(table);
        }
        table
    }

    /// Adds `word`, which is not in the table. Called, like [`ShardMut::remove`], by one thread at a
    /// time: words are added and taken away by the one writer.
    #[inline]
    pub fn insert(&mut self, word: Word) {
        let table = self.table();
        // One that had no word may have been copied since: a copy is found by its words.
        if table.insert(word) || table.len() == 1 {
            self.ahead.note_by(&self.shard.table, word);
        }
        // One writer at a time: no read-modify-write is needed.
        let len = self.len.load(Ordering::Relaxed);
        self.len.store(len + 1, Ordering::Relaxed);
    }

    /// Puts `new` in the place of exactly `old`; false if `old` is not there.
    #[inline]
    pub fn replace(&mut self, old: Word, new: Word) -> bool {
        self.table().replace(old, new)
    }

    /// Takes exactly `old` away; false if it is not there.
    #[inline]
    pub fn remove(&mut self, old: Word) -> bool {
        let removed = self.table().remove(old);
        if removed {
            let len = self.len.load(Ordering::Relaxed);
            self.len.store(len - 1, Ordering::Relaxed);
        }
        removed
    }
}

/// The `count` smallest of `words` by `key`, from `from` on, and all that have the key of the last of
/// them, in no order. True if larger ones were left out.
///
/// Time: linear in the number of words. Memory: that of two times `count` words.
pub fn smallest(
    words: impl Iterator<Item = Word>,
    from: u64,
    count: usize,
    key: impl Fn(Word) -> u64,
) -> (Vec<Word>, bool) {
    let count = count.max(1);
    let mut found: Vec<Word> = Vec::new();
    let (mut limit, mut more) = (u64::MAX, false);
    let mut cut = |found: &mut Vec<Word>, limit: &mut u64| {
        let before = found.len();
        let (_, last, _) = found.select_nth_unstable_by_key(count - 1, |word| key(*word));
        *limit = key(*last);
        found.retain(|word| key(*word) <= *limit);
        more |= found.len() < before;
    };
    // Every cut is paid for by as many words that came in since the last.
    let mut room = count.saturating_mul(2);
    let mut beyond = false;
    for word in words {
        let at = key(word);
        if at < from {
            continue;
        }
        if at > limit {
            beyond = true;
            continue;
        }
        found.push(word);
        if found.len() >= room {
            cut(&mut found, &mut limit);
            room = found.len().saturating_add(count);
        }
    }
    if found.len() > count {
        cut(&mut found, &mut limit);
    }
    (found, more || beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_are_those_that_sorting_gives_and_all_of_the_last_kind() {
        let mut state = 7u64;
        let mut random = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for case in 0..2_000u64 {
            let words: Vec<Word> = (0..random(200))
                .map(|i| Word(random(1 + case % 40) << 41 | i))
                .collect();
            let (from, count) = (random(1 + case % 40), random(50) as usize);
            let (mut found, more) = smallest(words.iter().copied(), from, count, Word::bits);
            let mut wanted: Vec<Word> =
                words.iter().copied().filter(|w| w.bits() >= from).collect();
            wanted.sort_unstable();
            let all = wanted.len();
            if let Some(last) = wanted.get(count.max(1) - 1).map(|word| word.bits()) {
                wanted.retain(|word| word.bits() <= last);
            }
            found.sort_unstable();
            assert_eq!(found, wanted, "case {case}");
            assert_eq!(more, wanted.len() < all, "case {case}");
        }
    }

    #[test]
    fn a_huge_count_asks_for_no_more_memory_than_there_are_words() {
        let (found, more) = smallest([Word(3), Word(5)].into_iter(), 0, usize::MAX, |w| w.0);
        assert_eq!((found.len(), more), (2, false));
    }

    fn index() -> Index<u32> {
        Index::new(2, &Arc::new(7))
    }

    fn words(index: &Index<u32>, hash: u64) -> Vec<Word> {
        let mut found = Vec::new();
        index.candidates(hash, |word, _| found.push(word));
        found.sort();
        found
    }

    #[test]
    fn two_keys_with_the_same_hash_bits_are_both_candidates() {
        let index = index();
        let (hash, other) = (0xABCD_EF01_2345_6789, 0x1111_EF01_2345_6789);
        let (a, b) = (Word::new(hash, 0, 4096), Word::new(hash, 0, 8192));
        index.lock(hash).insert(a);
        index.lock(hash).insert(b);
        assert_eq!(words(&index, hash), [a, b]);
        assert_eq!(index.len(), 2);
        // Same 23 bits, another shard: not a candidate.
        assert_ne!(index.position(hash), index.position(other));
        assert_eq!(words(&index, other), []);
    }

    #[test]
    fn a_change_after_a_snapshot_is_not_seen_by_the_snapshot() {
        let index = index();
        let hash = 42 << 16;
        let (a, b) = (Word::new(hash, 0, 4096), Word::new(hash, 3, 8192));
        index.lock(hash).insert(a);
        let before = index.snapshot();
        assert!(index.lock(hash).replace(a, b));
        assert!(
            !index.lock(hash).replace(a, b),
            "exactly the old word, or nothing"
        );
        assert!(!index.lock(hash).remove(a));
        let seen: Vec<Word> = before
            .iter()
            .flat_map(|s| s.table.iter().copied())
            .collect();
        assert_eq!(seen, [a]);
        assert_eq!(words(&index, hash), [b]);
        assert!(index.lock(hash).remove(b));
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn it_is_known_where_each_table_lies_whatever_moves_it() {
        let index = index();
        let hash = 42 << 16;
        let known = |what: &str| {
            for (i, shard) in index.shards.iter().enumerate() {
                let table = &shard.lock.read().table;
                assert!(table.is_empty() || shard.ahead.knows(table), "{what}: {i}");
            }
        };
        let word = |i: u64| Word::new(i << 16, 0, 4096 + i * 8);
        for i in 0..1_000 {
            index.lock(hash).insert(word(i));
            known("growth");
        }
        for i in 0..3_000 {
            assert!(index.lock(hash).remove(word(i)));
            index.lock(hash).insert(word(1_000 + i));
            known("what is removed is cleared out");
        }
        let snapshot = index.snapshot();
        index.lock(hash).insert(word(5_000));
        known("a copy, by adding");
        let snapshots = [snapshot, index.snapshot()];
        let moved = Word(word(5_000).0 + 1);
        assert!(index.lock(hash).replace(word(5_000), moved));
        known("a copy, by replacing");
        let snapshots = [snapshots.into(), vec![index.snapshot()]].concat();
        assert!(index.lock(hash).remove(moved));
        known("a copy, by removing");
        for i in 3_000..4_000 {
            assert!(index.lock(hash).remove(word(i)));
        }
        let snapshots = [snapshots, vec![index.snapshot()]];
        index.lock(hash).insert(word(1));
        known("a copy of one that is empty");
        drop(snapshots);
        let table = |from: u64| {
            let mut table = HashTable::new();
            for word in (from..from + 100).map(word) {
                table.insert_unique(table_hash(word.bits()), word, |w| table_hash(w.bits()));
            }
            table
        };
        index.install(1, table(7));
        known("installing");
        index.replace(vec![(0, table(9)), (1, table(300))]);
        known("replacing");
    }

    #[test]
    fn memory_that_a_snapshot_holds_counts_until_it_is_dropped() {
        let index = index();
        let empty = index.bytes();
        let word = |i: u64| Word::new(42 << 16, 0, 4096 + 8 * i);
        (0..3).for_each(|i| index.lock(42 << 16).insert(word(i)));
        let one = index.bytes() - empty;
        assert_eq!(one, 4 * 9 + 16);
        let snapshot = index.snapshot();
        assert_eq!(index.bytes() - empty, one, "shared");
        // A copy, and that twice as large.
        assert_eq!(index.growth([(0, 1)]), one + 4 * 9);
        assert_eq!(index.growth([(0, 0), (1, 3)]), one);
        index.lock(42 << 16).insert(word(3));
        assert_eq!(index.bytes() - empty, 2 * one + 4 * 9);
        drop(snapshot);
        assert_eq!(index.bytes() - empty, one + 4 * 9);
        assert!(index.growth_max(2) >= 2 * (one + 8 * 9));
    }
}
