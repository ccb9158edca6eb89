//! Hint entries of all segments -> the index, shard by shard, without reading the log.
//!
//! Entries of one segment are sorted by shard, fingerprint and age, so a shard's share is one run
//! of each. A key that stands in two segments is found by its 23 hash bits in the table; whether it
//! really is the same key is decided by looking the fingerprint up in the other segment's run.
//!
//! Rules: the highest LSN of a key wins; with equal LSNs (a key that came twice in one bulk load) the
//! newer segment does, and in one segment the higher offset; a tombstone that wins removes the key once
//! all segments of the shard have spoken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use kvs_format::hash::{Fingerprint, shard_of};
use kvs_format::hint::{ExpiryHistogram, HintEntry};
use parking_lot::Mutex;

use crate::engine::segment::{Slot, View};
use crate::index::Index;
use crate::storage::location::{Word, hash_bits, table_hash};

/// Entries beyond which more than one thread is worth starting.
const PARALLEL_ENTRIES: usize = 200_000;

/// Beyond these memory is the limit.
const THREADS_MAX: usize = 8;

/// What one segment contributes.
pub struct Source<'a> {
    /// The segment.
    pub slot: &'a Arc<Slot>,
    /// Its entries, sorted as in a hint file.
    pub entries: &'a [HintEntry],
    /// When those that expire do.
    pub expiry: ExpiryHistogram,
}

/// What the records of one segment come to, in bytes.
#[derive(Clone, Copy, Default)]
struct Sums {
    payload: u64,
    /// Newest of their key.
    live: u64,
    /// Those of them that expire.
    expiring: u64,
}

impl Sums {
    fn gain(&mut self, entry: &HintEntry) {
        self.live += entry.size();
        self.expiring += u64::from(entry.expires()) * entry.size();
    }

    fn lose(&mut self, entry: &HintEntry) {
        self.live -= entry.size();
        self.expiring -= u64::from(entry.expires()) * entry.size();
    }
}

/// Fills the empty `index` and the segments' statistics.
pub fn load(index: &Index<View>, sources: &[Source<'_>]) {
    let mut by_window: Vec<u32> = Vec::new();
    let mut total = 0;
    for (i, source) in sources.iter().enumerate() {
        source.slot.expiring.set(&source.expiry);
        let (base, windows) = (source.slot.base, source.slot.windows);
        let end = usize::from(base) + usize::from(windows);
        if by_window.len() < end {
            by_window.resize(end, u32::MAX);
        }
        by_window[usize::from(base)..end].fill(i as u32);
        total += source.entries.len();
    }
    let shards = 1usize << index.bits();
    let loader = Loader {
        index,
        sources,
        by_window: &by_window,
    };
    let parts = match total >= PARALLEL_ENTRIES {
        true => threads().min(shards),
        false => 1,
    };
    // Allocated here, not by the threads, whose heaps would grow by one system call a table, each
    // stopping the page faults of all others.
    let usual = total / shards;
    let mut tables: Vec<_> = (0..shards)
        .map(|_| HashTable::with_capacity(usual))
        .collect();
    let mut first = 0;
    let tasks: Vec<_> = (1..=parts)
        .map(|i| {
            let start = first;
            first = shards * i / parts;
            Mutex::new(Some((start, tables.drain(..first - start).collect())))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some((first, tables)) = task.lock().take() {
                loader.shards(first, tables);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..parts {
            // Without a thread this one does everything.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

/// How many threads opening a store may use.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX))
}

struct Loader<'a> {
    index: &'a Index<View>,
    sources: &'a [Source<'a>],
    by_window: &'a [u32],
}

impl Loader<'_> {
    /// Fills `tables` for the shards from `first` on and installs them.
    fn shards(&self, first: usize, tables: Vec<HashTable<Word>>) {
        let bits = self.index.bits();
        let mut cursors: Vec<usize> = self
            .sources
            .iter()
            .map(|source| {
                source
                    .entries
                    .partition_point(|e| shard_of(e.fingerprint().lo, bits) < first)
            })
            .collect();
        let mut sums = vec![Sums::default(); self.sources.len()];
        for (shard, table) in (first..).zip(tables) {
            let mut runs: Vec<&[HintEntry]> = Vec::with_capacity(self.sources.len());
            for (source, cursor) in self.sources.iter().zip(&mut cursors) {
                let rest = &source.entries[*cursor..];
                let len = run_length(rest, shard, bits);
                runs.push(&rest[..len]);
                *cursor += len;
            }
            let table = self.shard(table, &runs, &mut sums);
            self.index.install(shard, table);
        }
        for (source, sums) in self.sources.iter().zip(sums) {
            let slot = source.slot;
            slot.live.fetch_add(sums.live, Ordering::Relaxed);
            slot.payload.fetch_add(sums.payload, Ordering::Relaxed);
            slot.expiring.gain(sums.expiring);
        }
    }

    fn shard(
        &self,
        mut table: HashTable<Word>,
        runs: &[&[HintEntry]],
        sums: &mut [Sums],
    ) -> HashTable<Word> {
        let total = runs.iter().map(|run| run.len()).sum();
        table.reserve(total, |word| table_hash(word.bits()));
        let mut tombstones: Vec<(Word, usize, u64)> = Vec::new();
        for (i, run) in runs.iter().enumerate() {
            let mut previous: Option<Fingerprint> = None;
            for entry in *run {
                sums[i].payload += entry.size();
                let fp = entry.fingerprint();
                // Within a segment the newest of a key comes first.
                if previous.replace(fp) == Some(fp) {
                    continue;
                }
                let word = self.sources[i].slot.word(fp.lo, entry.offset());
                let Some((rival, source, rival_entry)) = self.rival(&table, runs, fp) else {
                    insert(&mut table, word);
                    sums[i].gain(entry);
                    if entry.is_tombstone() {
                        tombstones.push((word, i, entry.size()));
                    }
                    continue;
                };
                let age = |source: usize, entry: &HintEntry| {
                    (
                        entry.lsn(),
                        self.sources[source].slot.stripes.any().segment_id,
                    )
                };
                if !planted!("lsn_not_compared") && age(i, entry) < age(source, rival_entry) {
                    continue;
                }
                if let Some(slot) = table.find_mut(table_hash(rival.bits()), |word| *word == rival)
                {
                    *slot = word;
                }
                sums[source].lose(rival_entry);
                sums[i].gain(entry);
                if entry.is_tombstone() {
                    tombstones.push((word, i, entry.size()));
                }
            }
        }
        for (word, source, size) in tombstones {
            // Not found: a newer record of the key took its place.
            if let Ok(found) = table.find_entry(table_hash(word.bits()), |w| *w == word) {
                found.remove();
                sums[source].live -= size;
            }
        }
        // Duplicates may have left it far too large.
        if table.len() * 4 < table.capacity() {
            table.shrink_to_fit(|word| table_hash(word.bits()));
        }
        table
    }

    /// The record of the same key that is in the table already: its word, source and entry.
    #[inline]
    fn rival<'r>(
        &self,
        table: &HashTable<Word>,
        runs: &[&'r [HintEntry]],
        fp: Fingerprint,
    ) -> Option<(Word, usize, &'r HintEntry)> {
        let bits = hash_bits(fp.lo);
        for word in table.iter_hash(table_hash(bits)) {
            if word.bits() != bits {
                continue;
            }
            let source = self.by_window[word.window()] as usize;
            let offset = word.offset(self.sources[source].slot.base);
            let run = runs[source];
            let start = run.partition_point(|e| {
                let other = e.fingerprint();
                (other.lo, other.hi) < (fp.lo, fp.hi)
            });
            let same = run[start..]
                .iter()
                .take_while(|e| e.fingerprint() == fp)
                .find(|e| e.offset() == offset);
            if let Some(entry) = same {
                return Some((*word, source, entry));
            }
        }
        None
    }
}

fn insert(table: &mut HashTable<Word>, word: Word) {
    table.insert_unique(table_hash(word.bits()), word, |w| table_hash(w.bits()));
}

/// How many entries at the front of `rest` belong to `shard`.
pub fn run_length(rest: &[HintEntry], shard: usize, bits: u8) -> usize {
    // Gallop: runs have about equal lengths, and most of `rest` belongs to later shards.
    let inside = |i: usize| {
        rest.get(i)
            .is_some_and(|e| shard_of(e.fingerprint().lo, bits) <= shard)
    };
    let mut step = 1;
    let mut low = 0;
    while inside(low + step - 1) {
        low += step;
        step *= 2;
    }
    let end = (low + step).min(rest.len());
    low + rest[low..end].partition_point(|e| shard_of(e.fingerprint().lo, bits) <= shard)
}
