//! The limit of the index's memory. Method: keys are added until one is refused; then everything that
//! needs no more memory must still work, and nothing of what was refused may be there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvs::{Batch, Durability, Error, Options, Store};

const MAX: u64 = 200_000;

fn options() -> Options {
    Options::new().shard_bits(4).index_bytes_max(MAX)
}

/// Adds keys from `from` on until one is refused; which one it was.
fn fill(store: &Store, from: u64) -> u64 {
    for i in from.. {
        let before = store.stats();
        match store.set(i.to_be_bytes(), b"value") {
            Ok(()) => assert!(store.stats().index_bytes <= MAX, "key {i}"),
            Err(Error::IndexFull { bytes, max }) => {
                assert!(bytes > MAX && max == MAX, "{bytes}");
                assert_eq!(store.stats().last_lsn, before.last_lsn, "nothing is stored");
                assert!(!store.contains_key(i.to_be_bytes()).unwrap());
                return i;
            }
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("there are more keys than fit")
}

#[test]
fn a_key_too_many_is_refused_and_everything_else_goes_on() {
    let store = options().open_in_memory().unwrap();
    let full = fill(&store, 0);
    assert!(full > 8_000, "{full} keys in {MAX} bytes");
    assert_eq!(store.len(), full);
    for i in (0..full).step_by(7) {
        store.set(i.to_be_bytes(), b"other").unwrap();
        assert_eq!(
            store.get(i.to_be_bytes()).unwrap().as_deref(),
            Some(&b"other"[..])
        );
    }
    let key = full.to_be_bytes();
    assert_eq!(store.increment(key, 1).map_err(is_full), Err(true));
    assert_eq!(store.set_if_absent(key, "1").map_err(is_full), Err(true));
    assert!(!store.set_if_absent(0u64.to_be_bytes(), "1").unwrap());
    store.compact().unwrap();
    assert!(store.stats().index_bytes <= MAX);
    // What was removed makes room for as many.
    for i in 0..full / 4 {
        assert!(store.remove(i.to_be_bytes()).unwrap());
    }
    let mut added = 0;
    for i in full..2 * full {
        added += u64::from(store.set(i.to_be_bytes(), b"new").is_ok());
    }
    assert!(added >= full / 8, "{added} of {}", full / 4);
    assert!(store.stats().index_bytes <= MAX);
}

fn is_full(error: Error) -> bool {
    matches!(error, Error::IndexFull { .. })
}

#[test]
fn a_batch_is_refused_as_a_whole_or_not_at_all() {
    for level in [Durability::Os, Durability::Sync] {
        let store = options().durability(level).open_in_memory().unwrap();
        let store = store.with_durability(Durability::Os);
        let full = fill(&store, 0);
        let store = store.with_durability(level);
        let mut batch = Batch::new();
        for i in full - 10..full + 5_000 {
            batch.set(i.to_be_bytes(), b"batch");
        }
        let before = store.stats();
        assert!(is_full(store.write(&batch).unwrap_err()));
        assert_eq!(store.stats().last_lsn, before.last_lsn);
        assert_eq!(
            store.get((full - 1).to_be_bytes()).unwrap().as_deref(),
            Some(&b"value"[..])
        );
        // Of keys that are there, one of them twice, with removals among them.
        let mut batch = Batch::new();
        for i in 0..full {
            batch.set(i.to_be_bytes(), b"batch");
        }
        batch.set(0u64.to_be_bytes(), b"again").remove("nothing");
        batch.remove(1u64.to_be_bytes());
        store.write(&batch).unwrap();
        assert_eq!(store.len(), full - 1);
        assert!(store.stats().index_bytes <= MAX);
    }
}

#[test]
fn what_an_iterator_keeps_counts_until_it_is_dropped() {
    let store = options().open_in_memory().unwrap();
    let half = fill(&store, 0) / 3;
    let store = options().open_in_memory().unwrap();
    for i in 0..half {
        store.set(i.to_be_bytes(), b"value").unwrap();
    }
    let before = store.stats().index_bytes;
    let held = store.iter().unwrap();
    // Overwriting copies every table, and is never refused.
    for i in 0..half {
        store.set(i.to_be_bytes(), b"other").unwrap();
    }
    let with = store.stats().index_bytes;
    assert!(with > before + before / 2, "{before} bytes, then {with}");
    let refused = fill(&store, half);
    drop(held);
    assert!(store.stats().index_bytes < MAX);
    assert!(fill(&store, refused) > refused + half / 4);
}

#[test]
fn a_store_that_is_larger_already_opens_and_can_be_made_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let keys = 40_000u64;
    let store = Options::new().shard_bits(4).open(dir.path()).unwrap();
    for i in 0..keys {
        store.set(i.to_be_bytes(), b"value").unwrap();
    }
    store.close().unwrap();
    let store = options().read_only(true).open(dir.path()).unwrap();
    assert_eq!(store.len(), keys);
    assert!(store.stats().index_bytes > MAX);
    store.close().unwrap();
    let store = options().open(dir.path()).unwrap();
    assert_eq!(store.len(), keys);
    store.set(1u64.to_be_bytes(), b"other").unwrap();
    let refused = (keys..2 * keys).find(|i| store.set(i.to_be_bytes(), b"new").is_err());
    assert!(refused.is_some(), "tables that are full do not grow");
    for i in 1_000..refused.unwrap_or(keys) {
        store.remove(i.to_be_bytes()).unwrap();
    }
    store.close().unwrap();
    let store = options().open(dir.path()).unwrap();
    let bytes = store.stats().index_bytes;
    assert!(bytes <= MAX, "{bytes}, {}", store.len());
    store.set(keys.to_be_bytes(), b"new").unwrap();
    store.close().unwrap();
}

/// Writes that wait for a sync are not in the index yet, but will be.
#[test]
fn writers_that_wait_for_a_sync_do_not_exceed_it_together() {
    let store = options()
        .durability(Durability::Sync)
        .open_in_memory()
        .unwrap();
    let next = AtomicU64::new(fill(&store.with_durability(Durability::Os), 0) / 16 * 13);
    let store = options()
        .durability(Durability::Sync)
        .open_in_memory()
        .unwrap();
    for i in 0..next.load(Ordering::Relaxed) {
        store
            .with_durability(Durability::Os)
            .set(i.to_be_bytes(), b"value")
            .unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut refused = 0;
                while refused < 50 {
                    let i = next.fetch_add(32, Ordering::Relaxed);
                    assert!(i < 1_000_000, "nothing is refused");
                    let mut batch = Batch::new();
                    (i..i + 32).for_each(|i| {
                        batch.set(i.to_be_bytes(), b"batch");
                    });
                    match store.write(&batch) {
                        Ok(()) => assert!(store.contains_key(i.to_be_bytes()).unwrap()),
                        Err(error) => {
                            assert!(is_full(error));
                            assert!(!store.contains_key(i.to_be_bytes()).unwrap());
                            refused += 1;
                        }
                    }
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
        }
    });
    assert!(store.stats().index_bytes <= MAX);
}

#[test]
fn a_load_that_would_exceed_it_applies_nothing() {
    let store = options().open_in_memory().unwrap();
    store.set("there", "before").unwrap();
    let pairs = |n: u64| (0..n).map(|i| (i.to_be_bytes(), "value"));
    assert_eq!(store.load(pairs(100_000)).map_err(is_full), Err(true));
    assert_eq!(store.len(), 1);
    assert!(store.stats().index_bytes <= MAX);
    assert_eq!(store.load(pairs(1_000)).unwrap().pairs, 1_000);
    assert_eq!(store.len(), 1_001);
}
