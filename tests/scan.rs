//! SCAN cursors. Goal: a key that has a value from the first call of a walk to the last comes exactly
//! once, one that never has a value does not come, whatever happens between any two calls; and any
//! number is a legal cursor.
//!
//! Method: walks over stores of one to four index shards, where keys share places; random operations,
//! compactions and reopenings between calls, on a simulated disk, against the sets of keys that were
//! there throughout and at some time; threads that write and compact while others walk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvs::testing::sim::{Call, Errno, Fault, SimFs};
use kvs::testing::{self, Engine};
use kvs::{Compaction, Cursor, Error, Options, Store};
use proptest::prelude::*;

fn options() -> Options {
    Options::new()
        .segment_bytes(64 << 10)
        .compaction(Compaction::Manual)
}

fn key(i: u32) -> Vec<u8> {
    format!("key-{i}").into_bytes()
}

/// All keys of a walk, as often as they came.
fn walk(mut next: impl FnMut(Cursor) -> (Cursor, Vec<Vec<u8>>)) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut cursor = Cursor::START;
    loop {
        let (next, keys) = next(cursor);
        all.extend(keys);
        if next.is_end() {
            return all;
        }
        assert!(u64::from(next) > u64::from(cursor), "it goes forward");
        cursor = next;
    }
}

fn copies(keys: Vec<kvs::Key>) -> Vec<Vec<u8>> {
    keys.into_iter().map(Vec::from).collect()
}

fn all_keys(store: &Store, count: usize) -> Vec<Vec<u8>> {
    walk(|cursor| {
        let (next, keys) = store.scan(cursor, count).unwrap();
        (next, copies(keys))
    })
}

#[test]
fn a_walk_shows_every_key_once_for_every_count() {
    for bits in [0, 2, 10] {
        for verify in [true, false] {
            let options = options().shard_bits(bits).verify_reads(verify);
            let store = options.open_in_memory().unwrap();
            assert_eq!(all_keys(&store, 10), Vec::<Vec<u8>>::new());
            let expected: BTreeSet<Vec<u8>> = (0..3000).map(key).collect();
            for key in &expected {
                store.set(key, [&b"of "[..], key].concat()).unwrap();
            }
            for count in [0, 1, 7, 1000, usize::MAX] {
                let mut found = all_keys(&store, count);
                found.sort();
                assert!(found.iter().eq(&expected), "{bits} bits, {count} at a time");
            }
            let pairs = walk(|cursor| {
                let (next, pairs) = store.scan_pairs(cursor, 100).unwrap();
                let valued = pairs
                    .iter()
                    .all(|(key, value)| value.strip_prefix(b"of ") == Some(key));
                assert!(valued, "a key comes with its value");
                (next, pairs.into_iter().map(|(key, _)| key.into()).collect())
            });
            assert_eq!(pairs.len(), 3000);
        }
    }
}

#[test]
fn a_call_gives_about_as_many_keys_as_it_is_asked_for() {
    let store = options().shard_bits(2).open_in_memory().unwrap();
    for i in 0..70_000 {
        store.set(key(i), "").unwrap();
    }
    for (count, least, most) in [
        (0, 1, 1),
        (1, 1, 3),
        (10, 10, 13),
        (30_000, 30_000, 30_003),
        (usize::MAX, Cursor::COUNT_MAX, Cursor::COUNT_MAX + 3),
    ] {
        let (_, keys) = store.scan(Cursor::START, count).unwrap();
        assert!(
            (least..=most).contains(&keys.len()),
            "{} for {count}",
            keys.len()
        );
    }
}

#[test]
fn keys_of_one_place_come_together() {
    // 23 bits of hash: of 20,000 keys in one shard, some dozens share a place with another.
    let store = options().shard_bits(0).open_in_memory().unwrap();
    let expected: BTreeSet<Vec<u8>> = (0..20_000).map(key).collect();
    for key in &expected {
        store.set(key, "").unwrap();
    }
    let mut together = 0;
    let mut found = walk(|cursor| {
        let (next, keys) = store.scan(cursor, 1).unwrap();
        together += u32::from(keys.len() > 1);
        (next, copies(keys))
    });
    found.sort();
    assert!(found.iter().eq(&expected));
    assert!(together > 5, "no two keys shared a place");
}

#[test]
fn any_number_is_a_cursor() {
    let store = options().shard_bits(1).open_in_memory().unwrap();
    for i in 0..100 {
        store.set(key(i), "").unwrap();
    }
    let places = 2u64 << 23;
    let mut state = 1u64;
    let random = (0..500).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> (state % 64)
    });
    let edges = [
        1,
        2,
        places - 1,
        places,
        places + 1,
        places + 2,
        1 << 63,
        u64::MAX,
    ];
    for number in random.chain(edges) {
        let (next, keys) = store.scan(number.into(), 1000).unwrap();
        assert!(next.is_end() && keys.len() <= 100);
        if number > places {
            assert!(keys.is_empty(), "{number} is behind the last place");
        }
        let (next, keys) = store.scan(number.into(), 1).unwrap();
        assert!(keys.len() <= 2 && (next.is_end() || u64::from(next) > number));
    }
    assert_eq!(
        store.scan(1.into(), 1000).unwrap().1.len(),
        100,
        "the first place"
    );
    assert_eq!(Cursor::from(7).to_string(), "7");
}

#[test]
fn what_has_expired_or_is_damaged_or_undurable_does_not_come() {
    let fs = SimFs::new();
    let store = testing::open(fs.clone(), &options().shard_bits(0), 1).unwrap();
    store.set(b"stays", b"1").unwrap();
    store.set_expiring(b"past", b"1", 1).unwrap();
    store.set_expiring(b"future", b"1", u64::MAX).unwrap();
    store.flush().unwrap();
    let bare = options().shard_bits(0).verify_reads(false).read_only(true);
    let bare = testing::open(fs.clone(), &bare, 1).unwrap();
    for store in [&store, &bare] {
        let (next, mut keys) = store.scan_keys(Cursor::START, 10).unwrap();
        keys.sort_unstable_by(|a, b| a[..].cmp(b));
        assert!(next.is_end() && keys == [&b"future"[..], b"stays"]);
        assert_eq!(store.scan_pairs(Cursor::START, 10).unwrap().1.len(), 2);
    }
    // A byte of the first record: LINK of 48 bytes stands before it.
    let damage = |at: usize| fs.edit("0000000000000001.seg", |bytes| bytes[4096 + 48 + at] ^= 1);
    let scan = |store: &Arc<Engine<SimFs>>| store.scan_keys(Cursor::START, 10);
    damage(29);
    assert!(matches!(
        scan(&store),
        Err(Error::Corrupt { offset: 4144, .. })
    ));
    assert_eq!(
        scan(&bare).unwrap().1.len(),
        2,
        "the value is not looked at"
    );
    damage(18);
    assert!(matches!(
        scan(&bare),
        Err(Error::Corrupt { offset: 4144, .. })
    ));
    damage(18);
    damage(29);
    assert_eq!(scan(&store).unwrap().1.len(), 2);
    store.set(b"new", b"2").unwrap();
    fs.fail_call(Call::SyncData, 0, Fault::once(Errno::IO));
    assert!(store.flush().is_err());
    assert!(matches!(scan(&store), Err(Error::Poisoned)));
}

/// What happens between two calls.
#[derive(Clone, Debug)]
enum Between {
    Set(u32, u16),
    Remove(u32),
    Compact,
    CompactSome(u8),
    Rotate,
    Reopen,
    /// Many keys come and go: tables grow.
    Grow,
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        20 => (0..60u32, 0..2000u16).prop_map(|(key, len)| Between::Set(key, len)),
        8 => (0..60u32).prop_map(Between::Remove),
        2 => Just(Between::Compact),
        3 => any::<u8>().prop_map(Between::CompactSome),
        1 => Just(Between::Rotate),
        1 => Just(Between::Reopen),
        1 => Just(Between::Grow),
    ]
}

/// One store, and what is known of its keys.
struct Walked {
    fs: SimFs,
    store: Arc<Engine<SimFs>>,
    bits: u8,
    there: BTreeSet<Vec<u8>>,
    /// Keys that have had a value since the walk began.
    ever: BTreeSet<Vec<u8>>,
    /// Keys that have had one all the time.
    always: BTreeSet<Vec<u8>>,
}

impl Walked {
    fn options(bits: u8) -> Options {
        options().shard_bits(bits)
    }

    fn new(bits: u8) -> Self {
        let fs = SimFs::new();
        let store = testing::open(fs.clone(), &Self::options(bits), 1).unwrap();
        let [there, ever, always] = Default::default();
        Self {
            fs,
            store,
            bits,
            there,
            ever,
            always,
        }
    }

    fn begin(&mut self) {
        (self.ever, self.always) = (self.there.clone(), self.there.clone());
    }

    fn set(&mut self, i: u32, len: usize) {
        self.store.set(&key(i), &vec![i as u8; len]).unwrap();
        self.there.insert(key(i));
        self.ever.insert(key(i));
    }

    fn remove(&mut self, i: u32) {
        let found = self.store.remove(&key(i)).unwrap();
        assert_eq!(found, self.there.remove(&key(i)));
        self.always.remove(&key(i));
    }

    fn happen(&mut self, what: &Between) {
        match *what {
            Between::Set(i, len) => self.set(i, len.into()),
            Between::Remove(i) => self.remove(i),
            Between::Compact => drop(self.store.compact().unwrap()),
            Between::CompactSome(mask) => drop(self.store.compact_subset(mask.into()).unwrap()),
            Between::Rotate => self.store.rotate_now().unwrap(),
            Between::Reopen => {
                self.store.close().unwrap();
                self.store = testing::open(self.fs.clone(), &Self::options(self.bits), 2).unwrap();
            }
            Between::Grow => {
                (1000..1300).for_each(|i| self.set(i, 8));
                (1000..1300).for_each(|i| self.remove(i));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_there_all_the_time_comes_once_and_what_never_is_does_not(
        bits in 0u8..4,
        count in 1usize..8,
        first in proptest::collection::vec(between(), 0..80),
        walks in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(between(), 0..6), 1..20),
            1..3,
        ),
    ) {
        let mut store = Walked::new(bits);
        first.iter().for_each(|what| store.happen(what));
        for steps in &walks {
            store.begin();
            let mut came = BTreeMap::<Vec<u8>, u32>::new();
            let mut steps = steps.iter().cycle();
            let mut cursor = Cursor::START;
            loop {
                let (next, keys) = store.store.scan_keys(cursor, count).unwrap();
                for key in copies(keys) {
                    prop_assert!(store.there.contains(&key), "{:?} is not there", key);
                    *came.entry(key).or_default() += 1;
                }
                cursor = next;
                if cursor.is_end() {
                    break;
                }
                for what in steps.next().into_iter().flatten() {
                    store.happen(what);
                }
            }
            for (key, times) in &came {
                prop_assert!(*times == 1, "{:?} came {} times", key, times);
                prop_assert!(store.ever.contains(key));
            }
            for key in &store.always {
                prop_assert!(came.contains_key(key), "{:?} did not come", key);
            }
        }
    }
}

/// A test that fails must not wait for threads that go on.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn walks_go_on_while_others_write_and_compact() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_bytes(64 << 10);
    let store = options.open(dir.path()).unwrap();
    // Some are overwritten, some come and go, some are never there.
    let stays = |i: u32| i.is_multiple_of(3);
    (0..900)
        .filter(|i| stays(*i))
        .for_each(|i| store.set(key(i), [0; 200]).unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        for t in 0..2u32 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let mut i = t;
                while !stop.load(Ordering::Relaxed) {
                    i = (i + 7) % 900;
                    match i % 3 {
                        0 => store.set(key(i), vec![i as u8; 100 + i as usize]).unwrap(),
                        1 if i % 2 == t => store.set(key(i), [1; 300]).unwrap(),
                        1 => drop(store.remove(key(i)).unwrap()),
                        _ => {}
                    }
                }
            });
        }
        let (store, stop) = (&store, &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = store.compact();
                std::thread::yield_now();
            }
        });
        let expected: Vec<Vec<u8>> = (0..900).filter(|i| stays(*i)).map(key).collect();
        for round in 0..60 {
            let mut seen = BTreeMap::<Vec<u8>, u32>::new();
            for key in all_keys(store, 1 + round % 40) {
                *seen.entry(key).or_default() += 1;
            }
            let missing = expected.iter().find(|key| !seen.contains_key(*key));
            assert_eq!(missing, None, "round {round}");
            let twice = seen.iter().find(|(_, times)| **times > 1);
            assert_eq!(twice, None, "round {round}");
            let never = (0..900).filter(|i| i % 3 == 2).map(key);
            assert_eq!(never.into_iter().find(|key| seen.contains_key(key)), None);
        }
    });
    store.close().unwrap();
}
