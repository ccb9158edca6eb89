//! What a program that embeds the store relies on, over the real file system.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvs::{Batch, Compaction, Durability, Error, Options, Store};

fn pairs(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    store
        .iter()
        .unwrap()
        .map(|pair| pair.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap())
        .collect()
}

#[test]
fn values_come_back_byte_for_byte_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    let odd: [&[u8]; 6] = [b"", b"\0", b"key", &[0xFF; 300], b"key\0", &[7; 65_535]];
    let store = Store::open(dir.path()).unwrap();
    for (i, key) in odd.iter().enumerate() {
        for len in [0usize, 1, 7, 8, 9, 4096, 100_000] {
            let mut key = key.to_vec();
            key.truncate(65_000);
            key.extend_from_slice(&[i as u8, len as u8, (len >> 8) as u8]);
            let value: Vec<u8> = (0..len).map(|n| (n * 31 + i) as u8).collect();
            store.set(&key, &value).unwrap();
            assert_eq!(store.get(&key).unwrap().unwrap(), value[..]);
            expected.insert(key, value);
        }
        store.set(key, b"plain").unwrap();
        expected.insert(key.to_vec(), b"plain".to_vec());
    }
    assert_eq!(pairs(&store), expected);
    assert!(store.close().unwrap().closed);
    let store = Store::open(dir.path()).unwrap();
    assert!(store.recovery().clean, "{}", store.recovery());
    assert_eq!(pairs(&store), expected);
    assert_eq!(store.len(), expected.len() as u64);
    let mut out = Vec::new();
    for (key, value) in &expected {
        assert_eq!(store.get(key).unwrap().as_deref(), Some(&value[..]));
        assert!(store.get_into(key, &mut out).unwrap());
        assert_eq!(out, *value);
    }
    assert!(!store.get_into("absent", &mut out).unwrap());
    assert!(store.get("absent").unwrap().is_none());
    assert!(store.verify().unwrap().damage.is_empty());
}

#[test]
fn the_newest_value_counts_and_a_removed_key_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let store = Store::open(dir.path()).unwrap();
        for i in 0..500u32 {
            store.set(i.to_be_bytes(), format!("{round}-{i}")).unwrap();
        }
        for i in (0..500u32).step_by(3) {
            assert!(store.remove(i.to_be_bytes()).unwrap());
            assert!(!store.remove(i.to_be_bytes()).unwrap());
        }
        drop(store);
        let store = Store::open_read_only(dir.path()).unwrap();
        for i in 0..500u32 {
            let value = store.get(i.to_be_bytes()).unwrap();
            let expected = format!("{round}-{i}");
            match i % 3 {
                0 => assert!(value.is_none()),
                _ => assert_eq!(value.as_deref(), Some(expected.as_bytes())),
            }
            assert_eq!(store.contains_key(i.to_be_bytes()).unwrap(), i % 3 != 0);
        }
    }
}

#[test]
fn a_value_outlives_overwriting_compaction_and_close() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new()
        .segment_bytes(64 << 10)
        .open(dir.path())
        .unwrap();
    store.set("k", vec![1u8; 5000]).unwrap();
    let value = store.get("k").unwrap().unwrap();
    for i in 0..200u32 {
        store.set("k", vec![2u8; 5000]).unwrap();
        store.set(i.to_be_bytes(), vec![3u8; 1000]).unwrap();
    }
    store.compact().unwrap();
    assert!(
        store.stats().pinned_bytes > 0,
        "the value pins its retired segment"
    );
    store.close().unwrap();
    let sum = std::thread::spawn(move || value.iter().map(|b| u64::from(*b)).sum::<u64>());
    assert_eq!(sum.join().unwrap(), 5000);
}

#[test]
fn many_small_segments_rotate_compact_and_reopen() {
    for force_write_path in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new()
            .segment_bytes(64 << 10)
            .force_write_path(force_write_path);
        let mut expected = BTreeMap::new();
        for round in 0..4u32 {
            let store = options.open(dir.path()).unwrap();
            for i in 0..2000u32 {
                let key = format!("key-{}", (i * 7919 + round) % 1500);
                let value = vec![(i + round) as u8; (i % 200) as usize];
                store.set(&key, &value).unwrap();
                expected.insert(key.into_bytes(), value);
                if i % 5 == 0 {
                    let key = format!("key-{}", i % 1500);
                    let was = expected.remove(key.as_bytes()).is_some();
                    assert_eq!(store.remove(&key).unwrap(), was);
                }
            }
            assert_eq!(pairs(&store), expected);
            if round == 2 {
                let report = store.compact().unwrap();
                assert!(report.segments_before > report.segments_after, "{report:?}");
                assert_eq!(store.stats().dead_bytes, 0, "nothing is left to reclaim");
                assert_eq!(pairs(&store), expected);
            }
            let stats = store.stats();
            assert!(stats.segments.len() > 2 || round == 2, "{stats:?}");
            store.close().unwrap();
        }
        let store = options.open(dir.path()).unwrap();
        assert_eq!(pairs(&store), expected);
        assert!(store.verify().unwrap().damage.is_empty());
    }
}

#[test]
fn a_value_larger_than_a_segment_gets_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_bytes(64 << 10);
    let store = options.open(dir.path()).unwrap();
    let large: Vec<u8> = (0..300_000u32).map(|i| (i / 3) as u8).collect();
    store.set("before", "1").unwrap();
    store.set("large", &large).unwrap();
    store.set("after", "2").unwrap();
    assert_eq!(store.get("large").unwrap().unwrap(), large[..]);
    store.compact().unwrap();
    drop(store);
    let store = options.open(dir.path()).unwrap();
    assert_eq!(store.get("large").unwrap().unwrap(), large[..]);
    assert_eq!(store.get("before").unwrap().unwrap(), b"1");
    assert_eq!(store.get("after").unwrap().unwrap(), b"2");
}

#[test]
fn too_long_keys_are_refused_and_nothing_is_written() {
    let store = Options::new().open_in_memory().unwrap();
    let key = vec![1u8; 65_536];
    assert!(matches!(
        store.set(&key, "v"),
        Err(Error::KeyTooLong {
            len: 65_536,
            max: 65_535
        })
    ));
    assert!(store.is_empty());
    assert_eq!(store.stats().last_lsn, 0);
}

#[test]
fn the_in_memory_mode_does_everything_but_stay() {
    let store = Options::new()
        .segment_bytes(64 << 10)
        .open_in_memory()
        .unwrap();
    for i in 0..5000u32 {
        store.set((i % 100).to_be_bytes(), i.to_be_bytes()).unwrap();
    }
    store.compact().unwrap();
    assert_eq!(store.len(), 100);
    assert_eq!(
        store.get(99u32.to_be_bytes()).unwrap().unwrap(),
        &4999u32.to_be_bytes()
    );
    store.flush().unwrap();
    store.close().unwrap();
}

#[test]
fn a_batch_is_applied_whole_and_its_last_word_on_a_key_counts() {
    for durability in [Durability::Os, Durability::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().durability(durability);
        let store = options.open(dir.path()).unwrap();
        store.set("gone", "x").unwrap();
        let mut batch = Batch::new();
        batch
            .set("a", "1")
            .set("b", "2")
            .remove("gone")
            .set("a", "3")
            .remove("never");
        store.write(&batch).unwrap();
        let check = |store: &Store| {
            assert_eq!(store.get("a").unwrap().unwrap(), b"3");
            assert_eq!(store.get("b").unwrap().unwrap(), b"2");
            assert!(!store.contains_key("gone").unwrap());
            assert_eq!(store.len(), 2);
        };
        check(&store);
        drop(store);
        check(&options.open(dir.path()).unwrap());
    }
}

#[test]
fn a_second_open_in_this_process_shares_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let one = Store::open(dir.path()).unwrap();
    let link = dir
        .path()
        .parent()
        .unwrap()
        .join(format!("link-{}", std::process::id()));
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    let two = Store::open(&link).unwrap();
    std::fs::remove_file(&link).unwrap();
    one.set("k", "v").unwrap();
    assert_eq!(two.get("k").unwrap().unwrap(), b"v");
    assert!(matches!(
        Options::new().durability(Durability::Sync).open(dir.path()),
        Err(Error::OptionsDiffer { path }) if path == dir.path()
    ));
    assert!(!one.close().unwrap().closed, "another handle lives");
    two.set("k", "w").unwrap();
    assert!(two.close().unwrap().closed);
    let again = Store::open(dir.path()).unwrap();
    assert_eq!(again.get("k").unwrap().unwrap(), b"w");
}

#[test]
fn the_lock_is_free_when_the_last_handle_is_gone_even_with_an_iterator_left() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20u32 {
        let store = Store::open(dir.path()).unwrap();
        store.set(i.to_be_bytes(), "v").unwrap();
        let iter = store.iter().unwrap();
        drop(store);
        let other = Options::new().read_only(true).open(dir.path()).unwrap();
        assert_eq!(other.len(), u64::from(i) + 1);
        assert_eq!(iter.count(), i as usize + 1);
    }
}

#[test]
fn threads_that_open_and_drop_the_same_store_never_see_it_locked() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let threads: Vec<_> = (0..4u32)
        .map(|t| {
            let dir = Arc::clone(&dir);
            std::thread::spawn(move || {
                for i in 0..25u32 {
                    let store = Store::open(dir.path()).unwrap();
                    store.set((t * 100 + i).to_be_bytes(), "v").unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(Store::open(dir.path()).unwrap().len(), 100);
}

#[test]
fn concurrent_writers_and_readers_of_both_levels_lose_nothing() {
    for durability in [Durability::Os, Durability::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new()
            .segment_bytes(64 << 10)
            .durability(durability);
        let store = options.open(dir.path()).unwrap();
        let per_thread = if durability == Durability::Os {
            4000u32
        } else {
            150
        };
        std::thread::scope(|scope| {
            for t in 0..4u32 {
                let store = store.clone();
                scope.spawn(move || {
                    for i in 0..per_thread {
                        let key = (t, i % 97);
                        let key = [key.0.to_be_bytes(), key.1.to_be_bytes()].concat();
                        let value = [i.to_be_bytes().as_slice(), &[t as u8; 60]].concat();
                        store.set(&key, &value).unwrap();
                        let read = store.get(&key).unwrap().unwrap();
                        assert_eq!(read, value[..], "a thread reads its own write");
                        if i % 11 == 0 {
                            assert!(store.remove(&key).unwrap());
                            assert!(store.get(&key).unwrap().is_none());
                        }
                    }
                });
            }
            let store = store.clone();
            scope.spawn(move || {
                for _ in 0..3 {
                    store.compact().unwrap();
                    for pair in store.iter().unwrap() {
                        let (key, value) = pair.unwrap();
                        assert_eq!(value[4], key[3], "a value stands under its own key");
                    }
                }
            });
        });
        let before = pairs(&store);
        store.close().unwrap();
        let store = options.open(dir.path()).unwrap();
        assert_eq!(pairs(&store), before);
    }
}

#[test]
fn a_reader_sees_the_newest_values_and_its_slices_outlive_everything_but_itself() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_bytes(64 << 10);
    let store = options.open(dir.path()).unwrap();
    let value = |i: u32, round: u32| vec![(i + round) as u8; 300];
    let mut reader = store.reader();
    let mut held = Vec::new();
    for round in 0..20u32 {
        for i in 0..200u32 {
            store.set(i.to_be_bytes(), value(i, round)).unwrap();
            assert_eq!(
                reader.get(i.to_be_bytes()).unwrap().unwrap(),
                value(i, round)
            );
            if i % 50 == 0 {
                held.push((i, round, reader.get(i.to_be_bytes()).unwrap().unwrap()));
            }
        }
        store.compact().unwrap();
        assert!(reader.get("absent").unwrap().is_none());
    }
    for (i, round, slice) in &held {
        assert_eq!(
            *slice,
            value(*i, *round),
            "mapped as long as the reader lives"
        );
    }
    assert!(store.stats().pinned_bytes > 0, "and that is counted");
    reader.refresh();
    assert_eq!(store.stats().pinned_bytes, 0);
    assert_eq!(
        reader.get(7u32.to_be_bytes()).unwrap().unwrap(),
        value(7, 19)
    );
}

#[test]
fn a_reader_that_has_seen_many_rotations_ends_on_a_small_stack() {
    let small = std::thread::Builder::new().stack_size(64 << 10);
    let reading = || {
        let options = Options::new()
            .segment_bytes(64 << 10)
            .compaction(kvs::Compaction::Manual);
        let store = options.open_in_memory().unwrap();
        let reader = store.reader();
        for i in 0..2000u32 {
            store.set("key", vec![i as u8; 50_000]).unwrap();
            assert_eq!(reader.get("key").unwrap().unwrap()[0], i as u8);
        }
    };
    small.spawn(reading).unwrap().join().unwrap();
}

#[test]
fn many_keys_at_once_are_as_many_gets() {
    let store = Options::new()
        .segment_bytes(64 << 10)
        .open_in_memory()
        .unwrap();
    for i in 0..500u32 {
        store
            .set(i.to_be_bytes(), i.to_string().repeat(i as usize % 60))
            .unwrap();
    }
    for i in (0..500u32).step_by(7) {
        store.remove(i.to_be_bytes()).unwrap();
    }
    let keys: Vec<_> = (0..600u32)
        .rev()
        .chain(0..40)
        .map(u32::to_be_bytes)
        .collect();
    let together = store.get_many(&keys).unwrap();
    assert_eq!(together.len(), keys.len());
    for (key, value) in keys.iter().zip(together) {
        assert_eq!(value.as_deref(), store.get(key).unwrap().as_deref());
    }
    assert!(store.get_many::<&[u8]>(&[]).unwrap().is_empty());
}

#[test]
fn an_iterator_shows_the_store_as_it_was() {
    let store = Options::new()
        .segment_bytes(64 << 10)
        .open_in_memory()
        .unwrap();
    for i in 0..1000u32 {
        store.set(i.to_be_bytes(), "old").unwrap();
    }
    let iter = store.iter().unwrap();
    let prefix = store.prefix([0, 0, 1]).unwrap();
    for i in 0..1000u32 {
        store.set(i.to_be_bytes(), "new").unwrap();
        store.remove((i / 2).to_be_bytes()).unwrap();
    }
    store.compact().unwrap();
    let seen: Vec<_> = iter.map(Result::unwrap).collect();
    assert_eq!(seen.len(), 1000);
    assert!(seen.iter().all(|(_, value)| *value == b"old"));
    assert_eq!(prefix.count(), 256);
    assert_eq!(store.keys().unwrap().count() as u64, store.len());
}

#[test]
fn a_small_closed_store_is_small_on_disk() {
    use std::os::unix::fs::MetadataExt;
    let blocks = |dir: &std::path::Path| -> u64 {
        let files = std::fs::read_dir(dir).unwrap();
        files
            .map(|f| f.unwrap().metadata().unwrap().blocks() * 512)
            .sum()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for i in 0..10u32 {
        store.set(format!("key-{i}"), format!("value-{i}")).unwrap();
    }
    let open = blocks(dir.path());
    assert!(open <= 8 << 20, "{open} bytes while open");
    store.close().unwrap();
    let closed = blocks(dir.path());
    assert!(closed <= 64 << 10, "{closed} bytes after close");
}

#[test]
fn a_read_only_open_creates_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_read_only(dir.path()).unwrap();
    assert!(store.is_empty() && store.get("k").unwrap().is_none());
    assert!(matches!(store.set("k", "v"), Err(Error::ReadOnly)));
    assert!(matches!(store.remove("k"), Err(Error::ReadOnly)));
    assert!(matches!(store.compact(), Err(Error::ReadOnly)));
    drop(store);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(matches!(
        Store::open_read_only(dir.path().join("nowhere")),
        Err(Error::Io { .. })
    ));
}

#[test]
fn garbage_is_reclaimed_by_the_write_that_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().compaction(Compaction::Foreground);
    let store = options.open(dir.path()).unwrap();
    for i in 0..200_000u32 {
        store.set((i % 1000).to_be_bytes(), [i as u8; 64]).unwrap();
    }
    let stats = store.stats();
    assert!(
        stats.live_bytes + stats.dead_bytes < 4 << 20,
        "19 MB were written, 96 kB are alive: {stats:?}"
    );
    assert_eq!(store.len(), 1000);
    assert_eq!(
        store.get(999u32.to_be_bytes()).unwrap().unwrap(),
        &[199_999u32 as u8; 64]
    );
}
