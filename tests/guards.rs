//! What a store gave out stays readable, whatever becomes of the store. Goal: values, keys, readers
//! and iterators show the same bytes from the moment they were made until they are dropped: across
//! overwriting, sealing, trimming, compaction, retirement of their segment, closing and reopening.
//!
//! Method: threads write values that say themselves what they must look like, hold on to what they
//! read, hand it to each other, and look at all of it again and again, while segments of the smallest
//! size rotate and are compacted; then the store is closed and opened again, with everything still
//! held. A mapping that goes too early ends the process; one whose bytes change fails a comparison.
//! `.ci/run` runs it under valgrind and the sanitizers too, which see what happens to look right.
//!
//! `KVS_GUARD_WRITES=n` writes n values per thread and life instead of 1,500.

use std::collections::VecDeque;

use std::sync::atomic::{AtomicUsize, Ordering};

use kvs::{Batch, Durability, Iter, Key, Options, Store, Value};
// Not that of the standard library, whose waiting the thread sanitizer does not see.
use parking_lot::Mutex;

const LIVES: u64 = 3;
const WRITERS: usize = 2;
const HOLDERS: usize = 2;
const KEYS: u64 = 24;
/// Values, and pairs of an iterator, that a holder keeps.
const HELD: usize = 200;

fn writes() -> u64 {
    let wanted = std::env::var("KVS_GUARD_WRITES").ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(1500)
}

fn key(id: u64) -> Vec<u8> {
    format!("key-{id:04}").into_bytes()
}

/// A value says which it is; everything else in it follows from that.
fn value(id: u64, round: u64) -> Vec<u8> {
    let len = 16 + (round * 131 + id * 17) % 2500;
    let mut bytes = Vec::with_capacity(len as usize);
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(&round.to_be_bytes());
    bytes.extend((16..len).map(|i| (i * 7 + id * 31 + round * 101) as u8));
    bytes
}

/// Which value it is, after a look at every byte.
fn identify(bytes: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let (id, round) = (word(0), word(8));
    assert!(bytes == value(id, round), "a value is not what was written");
    (id, round)
}

/// What somebody holds, and what it was when they got it.
struct Held {
    id: u64,
    round: u64,
    value: Value,
    key: Option<Key>,
}

impl Held {
    fn new(value: Value, key: Option<Key>) -> Self {
        let (id, round) = identify(&value);
        let held = Self {
            id,
            round,
            value,
            key,
        };
        held.check();
        held
    }

    fn check(&self) {
        assert_eq!(identify(&self.value), (self.id, self.round));
        if let Some(held) = &self.key {
            assert!(**held == *key(self.id), "a key is not what was written");
        }
    }
}

/// Everything held across lives.
#[derive(Default)]
struct Attic {
    held: Mutex<Vec<Held>>,
    iterators: Mutex<Vec<(Iter, u64)>>,
}

impl Attic {
    fn check(&self) {
        self.held.lock().iter().for_each(Held::check);
    }

    /// Runs what is left of all iterators; each shows every key once.
    fn finish_iterators(&self) {
        for (iter, before) in self.iterators.lock().drain(..) {
            let mut seen = before;
            for pair in iter {
                let (key, value) = pair.unwrap();
                Held::new(value, Some(key)).check();
                seen += 1;
            }
            assert_eq!(seen, KEYS, "an iterator shows the store as it was");
        }
    }
}

/// A thread that panicked must not keep the others waiting.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn write(store: &Store, life: u64, thread: u64) {
    let handles = [Durability::Os, Durability::Sync].map(|level| store.with_durability(level));
    for i in 0..writes() {
        let round = life << 32 | i << 4 | thread;
        let id = (i * 7 + thread) % KEYS;
        // A few are synced: they enter the index by another way.
        let store = &handles[usize::from(i % 50 == 49)];
        match i % 10 {
            9 => {
                let mut batch = Batch::new();
                for id in [id, (id + 1) % KEYS] {
                    batch.set(key(id), value(id, round));
                }
                store.write(&batch).unwrap();
            }
            _ => store.set(key(id), value(id, round)).unwrap(),
        }
        if i % 400 == 200 {
            store.compact().unwrap();
        }
    }
}

/// Holds values, pairs of iterators and slices of a reader, and passes some on.
fn hold(store: &Store, attic: &Attic, passed: &Mutex<Vec<Held>>, busy: impl Fn() -> bool) {
    let mut held: VecDeque<Held> = VecDeque::new();
    let mut reader = store.reader();
    let mut iter = (store.iter().unwrap(), 0);
    let mut turn = 0;
    while busy() {
        turn += 1;
        let mut slices = Vec::new();
        for id in 0..KEYS {
            let found = store.get(key(id)).unwrap().unwrap();
            held.push_back(Held::new(found, None));
            let slice = reader.get(key(id)).unwrap().unwrap();
            slices.push((slice, identify(slice)));
            if let Some(pair) = iter.0.next() {
                let (key, value) = pair.unwrap();
                held.push_back(Held::new(value, Some(key)));
                iter.1 += 1;
            } else {
                assert_eq!(iter.1, KEYS, "an iterator shows the store as it was");
                iter = (store.iter().unwrap(), 0);
            }
        }
        // Clones live on when the original is dropped elsewhere.
        if let Some(own) = held.back() {
            let clone = Held::new(own.value.clone(), own.key.clone());
            passed.lock().push(clone);
        }
        let got: Vec<Held> = std::mem::take(&mut *passed.lock());
        held.extend(got);
        held.iter().for_each(Held::check);
        for (slice, what) in &slices {
            assert_eq!(identify(slice), *what);
        }
        drop(slices);
        if turn % 4 == 0 {
            reader.refresh();
        }
        let surplus = held.len().saturating_sub(HELD);
        held.drain(..surplus);
    }
    attic.held.lock().extend(held);
    attic.iterators.lock().push(iter);
}

fn live(store: &Store, life: u64, attic: &Attic) {
    for id in 0..KEYS {
        store.set(key(id), value(id, life << 32)).unwrap();
    }
    let writing = AtomicUsize::new(WRITERS);
    let passed = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..WRITERS {
            let writing = &writing;
            scope.spawn(move || {
                let _done = Done(writing);
                write(store, life, thread as u64);
            });
        }
        for _ in 0..HOLDERS {
            let (passed, writing) = (&passed, &writing);
            let busy = move || writing.load(Ordering::Acquire) > 0;
            scope.spawn(move || hold(store, attic, passed, busy));
        }
    });
    // Nothing of what is held is the newest any more: all its segments are retired.
    for id in 0..KEYS {
        store.set(key(id), value(id, life << 32 | 1)).unwrap();
    }
    store.compact().unwrap();
    assert!(store.stats().pinned_bytes > 0);
    attic.check();
}

fn outlives_everything(mut open: impl FnMut() -> Store) {
    let attic = Attic::default();
    for life in 1..=LIVES {
        let store = open();
        // What earlier lives gave out is looked at while this one writes and compacts.
        live(&store, life, &attic);
        assert!(store.close().unwrap().closed);
        attic.check();
    }
    attic.finish_iterators();
    attic.check();
}

fn options() -> Options {
    Options::new()
        .segment_bytes(64 << 10)
        .durability(Durability::Os)
}

#[test]
fn what_was_given_out_outlives_everything_on_a_file_system() {
    let dir = tempfile::tempdir().unwrap();
    outlives_everything(|| options().open(dir.path()).unwrap());
    let store = options().open(dir.path()).unwrap();
    assert_eq!(store.stats().pinned_bytes, 0, "nothing is held any more");
    assert_eq!(store.len(), KEYS);
}

#[test]
fn what_was_given_out_outlives_everything_where_records_are_written_by_call() {
    let dir = tempfile::tempdir().unwrap();
    let options = options().force_write_path(true);
    outlives_everything(|| options.open(dir.path()).unwrap());
}

#[test]
fn what_was_given_out_outlives_everything_in_memory() {
    outlives_everything(|| options().open_in_memory().unwrap());
}

#[test]
fn the_last_guard_gives_the_space_back() {
    let store = options()
        .compaction(kvs::Compaction::Manual)
        .open_in_memory()
        .unwrap();
    for id in 0..KEYS {
        store.set(key(id), value(id, 1)).unwrap();
    }
    let held = store.get(key(3)).unwrap().unwrap();
    let clone = held.clone();
    let iter = store.iter().unwrap();
    for id in 0..KEYS {
        store.set(key(id), value(id, 2)).unwrap();
    }
    store.compact().unwrap();
    let pinned = || store.stats().pinned_bytes;
    assert!(pinned() > 0);
    drop(held);
    assert!(pinned() > 0, "the clone counts");
    let elsewhere = std::thread::spawn(move || {
        assert_eq!(identify(&clone), (3, 1));
        drop(clone);
    });
    elsewhere.join().unwrap();
    assert!(pinned() > 0, "the iterator counts");
    drop(iter);
    // A thread of the store that brings pages in may be the last to let go.
    let start = std::time::Instant::now();
    while pinned() > 0 && start.elapsed().as_secs() < 10 {
        std::thread::yield_now();
    }
    assert_eq!(pinned(), 0);
}
