//! Read-modify-write: atomic per key against all writers of all levels.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvs::testing::sim::SimFs;
use kvs::{Durability, Error, Options, Store, Update, testing};

const LEVELS: [Durability; 3] = [
    Durability::Os,
    Durability::Interval(Duration::from_millis(5)),
    Durability::Sync,
];

fn in_memory() -> Store {
    Options::new()
        .segment_bytes(64 << 10)
        .open_in_memory()
        .unwrap()
}

#[test]
fn set_if_absent_stores_once() {
    for level in LEVELS {
        let store = in_memory().with_durability(level);
        assert!(store.set_if_absent("k", "1").unwrap());
        assert!(!store.set_if_absent("k", "2").unwrap());
        assert_eq!(store.get("k").unwrap().unwrap(), b"1");
        assert!(store.remove("k").unwrap());
        assert!(store.set_if_absent("k", "3").unwrap());
        assert_eq!(store.get("k").unwrap().unwrap(), b"3");
    }
}

#[test]
fn compare_and_swap_compares_values_and_absence() {
    let store = in_memory();
    assert!(!store.compare_and_swap("k", Some(b"1"), Some(b"2")).unwrap());
    assert!(
        store.compare_and_swap("k", None, None).unwrap(),
        "absent, and stays so"
    );
    assert_eq!(store.stats().last_lsn, 0, "nothing was written");
    assert!(store.compare_and_swap("k", None, Some(b"")).unwrap());
    assert!(
        !store.compare_and_swap("k", None, Some(b"x")).unwrap(),
        "empty is a value"
    );
    assert!(store.compare_and_swap("k", Some(b""), Some(b"2")).unwrap());
    assert!(!store.compare_and_swap("k", Some(b"2 "), None).unwrap());
    assert!(store.compare_and_swap("k", Some(b"2"), None).unwrap());
    assert!(store.get("k").unwrap().is_none());
}

#[test]
fn fetch_update_keeps_sets_and_removes() {
    let store = in_memory();
    let set = |to: &'static str| move |_: Option<&[u8]>| Update::Set(to.into());
    assert!(store.fetch_update("k", set("1")).unwrap().is_none());
    assert_eq!(store.fetch_update("k", set("2")).unwrap().unwrap(), b"1");
    let last = store.stats().last_lsn;
    assert_eq!(
        store.fetch_update("k", |_| Update::Keep).unwrap().unwrap(),
        b"2"
    );
    assert_eq!(store.stats().last_lsn, last);
    assert_eq!(
        store
            .fetch_update("k", |_| Update::Remove)
            .unwrap()
            .unwrap(),
        b"2"
    );
    assert!(
        store
            .fetch_update("k", |_| Update::Remove)
            .unwrap()
            .is_none()
    );
    assert!(store.is_empty());
}

#[test]
fn increment_counts_and_refuses_what_is_no_integer() {
    let store = in_memory();
    assert_eq!(store.increment("n", 5).unwrap(), 5);
    assert_eq!(store.increment("n", -7).unwrap(), -2);
    assert_eq!(store.get("n").unwrap().unwrap(), b"-2");
    store.set("n", i64::MAX.to_string()).unwrap();
    assert!(matches!(store.increment("n", 1), Err(Error::Overflow)));
    assert_eq!(store.increment("n", -1).unwrap(), i64::MAX - 1);
    store.set("n", "12a").unwrap();
    assert!(matches!(store.increment("n", 1), Err(Error::NotAnInteger)));
    assert_eq!(store.get("n").unwrap().unwrap(), b"12a");
}

/// Threads of all levels add to the same few counters while segments rotate and are compacted: every
/// increment counts once, and is there after reopening.
#[test]
fn no_increment_is_lost_between_writers_of_all_levels() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_bytes(64 << 10);
    let store = options.open(dir.path()).unwrap();
    let keys = ["a", "b", "c"];
    let total = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (t, level) in LEVELS.into_iter().cycle().take(6).enumerate() {
            let (store, total) = (store.with_durability(level), &total);
            scope.spawn(move || {
                let rounds = if level == Durability::Sync { 60 } else { 600 };
                for i in 0..rounds {
                    let key = keys[(i + t) % keys.len()];
                    match i % 3 {
                        0 => {
                            store.increment(key, 1).unwrap();
                        }
                        1 => {
                            let add = |old: Option<&[u8]>| {
                                let old = old.map_or(0, |text| {
                                    std::str::from_utf8(text).unwrap().parse::<u64>().unwrap()
                                });
                                Update::Set((old + 1).to_string().into_bytes())
                            };
                            store.fetch_update(key, add).unwrap();
                        }
                        _ => loop {
                            let old = store.get(key).unwrap();
                            let next = old.as_deref().map_or(1, |text| {
                                std::str::from_utf8(text).unwrap().parse::<u64>().unwrap() + 1
                            });
                            let next = next.to_string();
                            if store
                                .compare_and_swap(key, old.as_deref(), Some(next.as_bytes()))
                                .unwrap()
                            {
                                break;
                            }
                        },
                    }
                    total.fetch_add(1, Ordering::Relaxed);
                    // Garbage, so that there is something to compact.
                    store
                        .with_durability(Durability::Os)
                        .set(format!("{t}-{}", i % 7), vec![t as u8; 700])
                        .unwrap();
                }
            });
        }
        let store = store.clone();
        scope.spawn(move || {
            for _ in 0..20 {
                store.compact().unwrap();
            }
        });
    });
    let sum = |store: &Store| -> u64 {
        let number = |key| {
            let value = store.get(key).unwrap().unwrap();
            std::str::from_utf8(&value).unwrap().parse::<u64>().unwrap()
        };
        keys.into_iter().map(number).sum()
    };
    assert_eq!(sum(&store), total.load(Ordering::Relaxed));
    store.close().unwrap();
    let store = options.open(dir.path()).unwrap();
    assert_eq!(sum(&store), total.load(Ordering::Relaxed));
}

#[test]
fn an_increment_keeps_when_the_key_expires_and_an_update_does_not() {
    let options = Options::new().segment_bytes(64 << 10);
    let store = testing::open(SimFs::new(), &options, 1).unwrap();
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let soon = unix.unwrap().as_millis() as u64 + 2_000;
    for key in [b"kept", b"lost"] {
        store.set_expiring(key, b"5", soon).unwrap();
    }
    assert_eq!(store.increment(Durability::Os, b"kept", 1).unwrap(), 6);
    store
        .fetch_update(Durability::Os, b"lost", |_| Update::Set(b"6".to_vec()))
        .unwrap();
    assert_eq!(store.get(b"kept").unwrap().unwrap(), b"6");
    std::thread::sleep(Duration::from_millis(2_100));
    assert!(store.get(b"kept").unwrap().is_none());
    assert_eq!(store.get(b"lost").unwrap().unwrap(), b"6");
}

/// An index word says where a record is, not which. While one that was seen is to be compared with
/// the current one, its place must not be given to another record, expired or not.
#[test]
fn a_version_that_has_expired_is_not_taken_for_a_newer_one_in_its_old_place() {
    let options = Options::new()
        .segment_bytes(64 << 10)
        .shard_bits(2)
        .compaction(kvs::Compaction::Manual);
    let store = testing::open(SimFs::new(), &options, 1).unwrap();
    store.set_expiring(b"k", b"expired", 1).unwrap();
    let mut asked = Vec::new();
    store
        .fetch_update(Durability::Os, b"k", |old| {
            asked.push(old.map(<[u8]>::to_vec));
            if asked.len() == 1 {
                // The segment of the expired version goes; the next one gets its windows, and at the
                // same offset the key gets a value.
                store.set(b"k", b"between").unwrap();
                store.rotate_now().unwrap();
                store.set(b"k", b"last").unwrap();
                store.compact().unwrap();
                store.set(b"k", b"newer").unwrap();
                store.rotate_now().unwrap();
                store.set(b"k", b"newest").unwrap();
            }
            Update::Set(b"mine".to_vec())
        })
        .unwrap();
    assert_eq!(asked, [None, Some(b"newest".to_vec())]);
    assert_eq!(store.get(b"k").unwrap().unwrap(), b"mine");
}

#[test]
fn a_version_that_expires_under_the_decision_is_looked_at_again() {
    let fs = kvs::testing::sim::SimFs::new();
    let store = kvs::testing::open(fs, &Options::new(), 1).unwrap();
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64;
    store.set_expiring(b"lease", b"me", now + 300).unwrap();
    let mut asked = Vec::new();
    store
        .fetch_update(Durability::Os, b"lease", |old| {
            asked.push(old.map(<[u8]>::to_vec));
            if asked.len() == 1 {
                std::thread::sleep(Duration::from_millis(400));
            }
            Update::Set(b"mine".to_vec())
        })
        .unwrap();
    assert_eq!(asked, [Some(b"me".to_vec()), None]);
}
