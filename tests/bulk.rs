//! Bulk loads. Goal: all pairs of a load or none, for readers, after any end of the iterator and of the
//! process; whoever writes the same keys meanwhile keeps what he wrote; opening by hints, opening by a
//! scan, compaction and the books of live and dead bytes agree on what that was.
//!
//! Method: what is written beside a load is written by its own iterator, so that it comes where a test
//! wants it, or by threads. Loads among all other operations are in `tests/model.rs`, power cuts in
//! `tests/crash.rs`, failing calls in `tests/faults.rs`, chosen schedules in `tests/schedules.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use kvs::testing::sim::{Call, Errno, Fault, Image, SimFs, Survive};
use kvs::testing::{Engine, open, open_with_threads};
use kvs::{Batch, Compaction, Durability, Error, Expiry, LoadReport, Options, Store};
use kvs_model::{Pairs, images_agree, pairs, strays};
use proptest::prelude::*;

type Sim = Arc<Engine<SimFs>>;

fn options() -> Options {
    Options::new()
        .segment_bytes(64 << 10)
        .shard_bits(2)
        .durability(Durability::Os)
        .compaction(Compaction::Manual)
}

fn load(store: &Sim, pairs: &[(&[u8], Vec<u8>)]) -> kvs::Result<LoadReport> {
    store.load(pairs.iter().cloned().map(Ok))
}

fn key(i: u32) -> [u8; 8] {
    let mut key = *b"key-0000";
    key[4..].copy_from_slice(&i.to_be_bytes());
    key
}

fn all(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let pairs = store.iter().unwrap().map(Result::unwrap);
    pairs.map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
}

/// Keys, live and dead bytes by segment.
fn books(store: &Store) -> Vec<(u64, u64, u64)> {
    let stats = store.stats();
    let segments = stats.segments.iter();
    let mut books: Vec<_> = segments
        .map(|s| (s.id, s.live_bytes, s.dead_bytes))
        .filter(|(_, live, dead)| live + dead > 0)
        .collect();
    books.push((stats.keys, stats.live_bytes, stats.dead_bytes));
    books
}

fn remove_hints(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "hint") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Closed and opened with its hints and without, the store shows the same and has the same books.
fn reopens_the_same(store: Store, options: &Options, dir: &Path) -> Store {
    let (expected, booked) = (all(&store), books(&store));
    assert!(store.verify().unwrap().damage.is_empty());
    store.close().unwrap();
    let store = options.open(dir).unwrap();
    assert_eq!(all(&store), expected, "with hints");
    assert_eq!(books(&store), booked, "with hints");
    store.close().unwrap();
    remove_hints(dir);
    let store = options.open(dir).unwrap();
    assert_eq!(store.recovery().hints_used, 0);
    assert_eq!(all(&store), expected, "without hints");
    assert_eq!(books(&store), booked, "without hints");
    store
}

#[test]
fn a_load_is_there_for_every_way_of_reading_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let options = options();
    let store = options.open(dir.path()).unwrap();
    for i in 0..400 {
        store.set(key(i), [0; 50]).unwrap();
    }
    store.remove(key(7)).unwrap();
    let before = store.iter().unwrap();
    let held = store.get(key(300)).unwrap().unwrap();

    // Half of the keys are there; some come twice, in one segment and in two; one pair is larger than a
    // segment; the empty key and empty values.
    let mut expected = all(&store);
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for i in (200..600).rev().chain(250..260) {
        pairs.push((key(i).to_vec(), vec![pairs.len() as u8; 300]));
    }
    pairs.push((Vec::new(), Vec::new()));
    pairs.push((key(1).to_vec(), vec![9; 70_000]));
    pairs.push((key(7).to_vec(), vec![1]));
    pairs.push((key(7).to_vec(), Vec::new()));
    let report = store.load(pairs.iter().map(|(k, v)| (k, v))).unwrap();
    expected.extend(pairs.iter().cloned());
    assert_eq!((report.pairs, report.superseded), (414, 11));
    let bytes = pairs.iter().map(|(k, v)| (k.len() + v.len()) as u64);
    assert_eq!(report.bytes, bytes.sum::<u64>());
    assert!(report.segments >= 3, "{report:?}");

    assert_eq!(all(&store), expected);
    assert_eq!(store.len(), expected.len() as u64);
    let reader = store.reader();
    let mut copy = Vec::new();
    for (key, value) in &expected {
        assert_eq!(store.get(key).unwrap().as_deref(), Some(&value[..]));
        assert_eq!(reader.get(key).unwrap(), Some(&value[..]));
        assert!(store.get_into(key, &mut copy).unwrap() && copy == *value);
    }
    assert_eq!(
        before.count(),
        399,
        "an iterator made before sees nothing of it"
    );
    assert_eq!(&held[..], [0; 50], "nor does a value");
    let stats = store.stats();
    let durable = stats.segments.iter().filter(|s| s.sealed).count() as u64;
    assert!(durable >= report.segments && stats.durable_lsn > 0);
    drop(reader);

    let store = reopens_the_same(store, &options, dir.path());
    store.compact().unwrap();
    assert_eq!(all(&store), expected);
    store.set(key(300), "newer").unwrap();
    store.remove(key(301)).unwrap();
    expected.insert(key(300).to_vec(), b"newer".to_vec());
    expected.remove(&key(301)[..]);
    let store = reopens_the_same(store, &options, dir.path());
    assert_eq!(all(&store), expected);
}

#[test]
fn a_load_is_durable_when_it_returns_and_what_came_before_it_too() {
    let fs = SimFs::new();
    let store = open(fs.clone(), &options(), 1).unwrap();
    store.set(b"before", b"1").unwrap();
    load(&store, &[(b"a", vec![1]), (b"b", vec![2])]).unwrap();
    let image = fs.image(fs.log_len(), Survive::SyncedOnly);
    let left = open(SimFs::from_image(&image), &options(), 2).unwrap();
    assert_eq!(pairs(&left).unwrap(), pairs(&store).unwrap());
    assert_eq!(left.len(), 3);
}

#[test]
fn an_empty_load_writes_nothing() {
    let fs = SimFs::new();
    let store = open(fs.clone(), &options(), 1).unwrap();
    let before = fs.log_len();
    assert_eq!(load(&store, &[]).unwrap(), LoadReport::default());
    assert_eq!(fs.log_len(), before);
}

/// After what ended early: nothing of it is there, no file is left, the store goes on.
fn nothing_happened(fs: &SimFs, store: &Sim, expected: &Pairs) {
    assert_eq!(pairs(store).unwrap(), *expected);
    assert_eq!(strays(fs).unwrap(), Vec::<String>::new());
    load(store, &[(b"next", vec![1])]).unwrap();
    store.set(b"next", b"2").unwrap();
    store.compact().unwrap();
    store.remove(b"next").unwrap();
    assert_eq!(pairs(store).unwrap(), *expected);
}

#[test]
fn a_load_that_ends_early_leaves_nothing() {
    let fs = SimFs::new();
    let store = open(fs.clone(), &options(), 1).unwrap();
    store.set(b"a", b"1").unwrap();
    let expected = pairs(&store).unwrap();
    let many = || (0..300u32).map(|i| (key(i).to_vec(), vec![7; 900]));

    #[derive(Debug, PartialEq)]
    enum Mine {
        Store(String),
        Own,
    }
    impl From<Error> for Mine {
        fn from(error: Error) -> Self {
            Self::Store(error.to_string())
        }
    }
    let failing = many().map(Ok).chain([Err(Mine::Own)]).chain(many().map(Ok));
    assert_eq!(store.load(failing).unwrap_err(), Mine::Own);
    nothing_happened(&fs, &store, &expected);

    let long = many().chain([(vec![0; 65_536], vec![])]);
    let refused = store.load(long.map(Ok::<_, Mine>));
    let text = "key of 65536 bytes, at most 65535 are allowed".to_owned();
    assert_eq!(refused.unwrap_err(), Mine::Store(text));
    nothing_happened(&fs, &store, &expected);

    let panicking = many().chain(std::iter::from_fn(|| panic!("on purpose")));
    let load = || store.load(panicking.map(Ok::<_, Error>));
    assert!(catch_unwind(AssertUnwindSafe(load)).is_err());
    nothing_happened(&fs, &store, &expected);
    store.close().unwrap();
}

#[test]
fn a_full_disk_refuses_a_load_and_nothing_else_changes() {
    let fs = SimFs::new();
    let store = open(fs.clone(), &options(), 1).unwrap();
    store.set(b"a", b"1").unwrap();
    let expected = pairs(&store).unwrap();
    for k in 0..3 {
        fs.fail_call(Call::Allocate, k, Fault::once(Errno::NOSPC));
        let many = (0..200u32).map(|i| Ok::<_, Error>((key(i).to_vec(), vec![7; 900])));
        let refused = store.load(many);
        assert!(
            matches!(refused, Err(Error::DiskFull { .. })),
            "{k}: {refused:?}"
        );
        fs.clear_faults();
        nothing_happened(&fs, &store, &expected);
    }
}

#[test]
fn a_read_only_store_refuses_loads() {
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path()).unwrap().close().unwrap();
    let store = Options::new().read_only(true).open(dir.path()).unwrap();
    for pairs in [vec![], vec![("a", "1")]] {
        assert!(matches!(store.load(pairs), Err(Error::ReadOnly)));
    }
}

#[test]
fn a_damaged_older_version_refuses_the_load() {
    let fs = SimFs::new();
    let store = open(fs.clone(), &options(), 1).unwrap();
    store.set(b"a", &[1; 100]).unwrap();
    store.set(b"b", &[2; 100]).unwrap();
    store.close().unwrap();
    drop(store);
    let name = fs
        .names()
        .into_iter()
        .find(|n| n.ends_with(".seg"))
        .unwrap();
    // The index knows where the record is by the hint; of the record itself, the header is damaged.
    fs.remove(&name.replace(".seg", ".hint"));
    let store = open(fs.clone(), &options(), 2).unwrap();
    let at = store.index_entries().unwrap()[0].2 as usize;
    fs.edit(&name, |bytes| bytes[at + 18] ^= 1);
    let refused = load(&store, &[(b"c", vec![3]), (b"a", vec![3])]);
    match refused {
        Err(Error::Corrupt { offset, .. }) => assert_eq!(offset as usize, at),
        // The map may have been made of the bytes before.
        other => panic!("{other:?}"),
    }
    assert_eq!(strays(&fs).unwrap(), Vec::<String>::new());
    assert!(store.get(b"c").unwrap().is_none());
}

/// What is done beside a load.
#[derive(Clone, Debug)]
enum Beside {
    Set(u8, Durability),
    Remove(u8, Durability),
    IfAbsent(u8),
    Batch(Vec<(u8, bool)>),
    Rotate,
    Compact(u8),
    Flush,
    Load(Vec<u8>),
}

/// What has become of a load's world.
#[derive(Default)]
struct World {
    now: Pairs,
    /// Keys written or removed since the load began.
    touched: BTreeSet<Vec<u8>>,
    /// What each write that stored something would leave, if the log ended behind it: the writes.
    writes: Vec<Vec<Written>>,
    sequence: u32,
}

impl World {
    fn value(&mut self) -> Vec<u8> {
        self.sequence += 1;
        self.sequence
            .to_be_bytes()
            .repeat(1 + self.sequence as usize % 300)
    }

    fn write(&mut self, writes: Vec<Written>) {
        for (key, value) in &writes {
            self.touched.insert(key.clone());
            apply(&mut self.now, key, value.as_ref());
        }
        self.writes.push(writes);
    }

    fn act(&mut self, store: &Sim, beside: &Beside) {
        let name = |id: &u8| vec![b'k', *id];
        match beside {
            Beside::Set(id, level) => {
                let value = self.value();
                store.set_at(*level, &name(id), &value).unwrap();
                self.write(vec![(name(id), Some(value))]);
            }
            Beside::Remove(id, level) => {
                let there = self.now.contains_key(&name(id));
                assert_eq!(store.remove_at(*level, &name(id)).unwrap(), there);
                // Of what is not there, nothing is written, and the load's pair will be.
                if there {
                    self.write(vec![(name(id), None)]);
                }
            }
            Beside::IfAbsent(id) => {
                let value = self.value();
                let absent = !self.now.contains_key(&name(id));
                let done = store.set_if_absent(Durability::Os, &name(id), &value);
                assert_eq!(done.unwrap(), absent);
                if absent {
                    self.write(vec![(name(id), Some(value))]);
                }
            }
            Beside::Batch(parts) => {
                let mut batch = Batch::new();
                let mut writes = Vec::new();
                for (id, set) in parts {
                    let value = set.then(|| self.value());
                    match &value {
                        Some(value) => batch.set(name(id), value),
                        None => batch.remove(name(id)),
                    };
                    writes.push((name(id), value));
                }
                store.write(&batch).unwrap();
                // A batch of one is a plain removal; a larger one has a tombstone for every key it removes.
                let needless = match &writes[..] {
                    [(key, None)] => !self.now.contains_key(key),
                    _ => false,
                };
                if !needless {
                    self.write(writes);
                }
            }
            Beside::Rotate => store.rotate_now().unwrap(),
            Beside::Compact(255) => drop(store.compact().unwrap()),
            Beside::Compact(mask) => drop(store.compact_subset(u64::from(*mask)).unwrap()),
            Beside::Flush => store.flush().unwrap(),
            Beside::Load(ids) => {
                let pairs: Vec<_> = ids.iter().map(|id| (name(id), self.value())).collect();
                store
                    .load(pairs.iter().cloned().map(Ok::<_, Error>))
                    .unwrap();
                let writes = pairs.into_iter().map(|(key, value)| (key, Some(value)));
                self.write(writes.collect());
            }
        }
    }
}

/// A key, and its value or that it was removed.
type Written = (Vec<u8>, Option<Vec<u8>>);

fn apply(pairs: &mut Pairs, key: &[u8], value: Option<&Vec<u8>>) {
    match value {
        Some(value) => pairs.insert(key.to_vec(), value.clone().into()),
        None => pairs.remove(key),
    };
}

/// Reopened with hints, without, and after a power cut, the store shows the same; after the cut, what a
/// prefix of the writes behind the load would leave.
fn agrees(fs: &SimFs, store: &Sim, expected: &Pairs) {
    assert_eq!(pairs(store).unwrap(), *expected);
    assert_eq!(store.len(), expected.len() as u64);
    let booked = |store: &Sim| {
        let stats = store.stats();
        let of = |s: &kvs::SegmentStats| (s.id, s.live_bytes, s.dead_bytes);
        let segments: Vec<_> = stats.segments.iter().map(of).collect();
        (stats.live_bytes, stats.dead_bytes, segments)
    };
    let mut image = fs.snapshot();
    images_agree(&image, &options(), expected).unwrap();
    for without in [false, true] {
        if without {
            strip_hints(&mut image);
        }
        let read_only = options().read_only(true);
        let again = open(SimFs::from_image(&image), &read_only, 9).unwrap();
        assert_eq!(booked(&again), booked(store), "hints removed: {without}");
    }
}

fn strip_hints(image: &mut Image) {
    for name in image.names() {
        if name.ends_with(".hint") {
            image.remove(&name);
        }
    }
}

/// Loads `ids` into a store in which `before` was done, `beside` done in between.
fn load_beside(before: &[Beside], ids: &[(u8, bool)], beside: &[Vec<Beside>], after: &[Beside]) {
    let fs = SimFs::new();
    let store = open(fs.clone(), &options(), 1).unwrap();
    let mut world = World::default();
    for act in before {
        world.act(&store, act);
    }
    let older = world.now.clone();
    world.touched.clear();
    world.writes.clear();
    let mut loaded: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut scripts = beside.iter();
    let report = {
        let (world, loaded) = (&mut world, &mut loaded);
        let pairs = ids.iter().enumerate().map(|(i, (id, large))| {
            // Not before the first pair: that is where the load's place is.
            if i > 0 {
                for act in scripts.next().into_iter().flatten() {
                    world.act(&store, act);
                }
            }
            let mut value = world.value();
            if *large {
                value.resize(25_000, 1);
            }
            loaded.push((vec![b'k', *id], value.clone()));
            Ok::<_, Error>((vec![b'k', *id], value))
        });
        store.load(pairs).unwrap()
    };
    let mut shown = BTreeMap::new();
    for (key, value) in &loaded {
        if !world.touched.contains(key) {
            shown.insert(key.clone(), value.clone().into());
        }
    }
    world.now.extend(shown.clone());
    assert_eq!(report.superseded as usize, loaded.len() - shown.len());
    agrees(&fs, &store, &world.now);

    // If the power goes: the load is there, and of what was written beside it a prefix.
    let image = fs.image(fs.log_len(), Survive::SyncedOnly);
    let left = open(SimFs::from_image(&image), &options(), 3).unwrap();
    let found = pairs(&left).unwrap();
    let mut state = older;
    let versions = loaded.iter().cloned();
    state.extend(versions.map(|(key, value)| (key, value.into())));
    let mut fits = found == state;
    for writes in &world.writes {
        for (key, value) in writes {
            apply(&mut state, key, value.as_ref());
        }
        fits |= found == state;
    }
    assert!(fits || ids.is_empty(), "{found:?}");

    for act in after {
        world.act(&store, act);
    }
    agrees(&fs, &store, &world.now);
}

fn act() -> impl Strategy<Value = Beside> {
    let id = || 0u8..10;
    let level = || prop_oneof![Just(Durability::Os), Just(Durability::Sync)];
    prop_oneof![
        6 => (id(), level()).prop_map(|(id, level)| Beside::Set(id, level)),
        6 => (id(), level()).prop_map(|(id, level)| Beside::Remove(id, level)),
        2 => id().prop_map(Beside::IfAbsent),
        3 => proptest::collection::vec((id(), any::<bool>()), 1..4).prop_map(Beside::Batch),
        2 => Just(Beside::Rotate),
        2 => Just(Beside::Compact(255)),
        2 => any::<u8>().prop_map(Beside::Compact),
        1 => Just(Beside::Flush),
        2 => proptest::collection::vec(id(), 0..4).prop_map(Beside::Load),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_beside_a_load_stays(
        before in proptest::collection::vec(act(), 0..12),
        ids in proptest::collection::vec((0u8..10, proptest::bool::weighted(0.2)), 1..12),
        beside in proptest::collection::vec(proptest::collection::vec(act(), 0..3), 0..12),
        after in proptest::collection::vec(act(), 0..8),
    ) {
        load_beside(&before, &ids, &beside, &after);
    }
}

/// A tombstone that is younger than a load under way stays, whatever compaction knows.
#[test]
fn what_is_removed_beside_a_load_does_not_come_back_with_it() {
    let remove = |id| Beside::Remove(id, Durability::Os);
    let beside = [vec![remove(1), Beside::Rotate, Beside::Compact(255)]];
    load_beside(
        &[Beside::Set(1, Durability::Os), Beside::Rotate],
        &[(1, false), (2, false)],
        &beside,
        &[Beside::Compact(255), Beside::Compact(255)],
    );
}

/// Of equal LSNs the later segment counts, also when only that one was compacted.
#[test]
fn a_key_that_comes_twice_in_two_segments_has_its_later_value() {
    let twice = [(1, true), (2, true), (3, true), (1, true), (1, false)];
    for mask in 0..16 {
        load_beside(
            &[],
            &twice,
            &[],
            &[Beside::Compact(mask), Beside::Set(2, Durability::Os)],
        );
    }
}

/// So does what repair salvages, with the manifest and without.
#[test]
fn repair_salvages_the_later_value_of_a_key_that_came_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let store = options().open(path("s")).unwrap();
    let pairs = (0..90u32).map(|i| (key(i % 40), vec![i as u8; 4_000]));
    let report = store.load(pairs).unwrap();
    assert!(report.segments > 3 && report.superseded == 50, "{report:?}");
    // In one segment.
    store.load([("a", "older"), ("a", "newer")]).unwrap();
    let expected = all(&store);
    store.close().unwrap();
    for copy in ["with", "without"] {
        if copy == "without" {
            std::fs::remove_file(path("s").join("MANIFEST")).unwrap();
        }
        kvs::repair(path("s"), path(copy), &kvs::RepairOptions::new()).unwrap();
        assert_eq!(
            all(&Store::open(path(copy)).unwrap()),
            expected,
            "{copy} the manifest"
        );
    }
}

/// Pairs are gathered in chunks of a MiB: records that fill one to the byte, that just do not fit behind
/// others, that are larger; enough of them for every chunk to be used again, and two outputs. Through the
/// map or not, which loads do not go through anyway.
#[test]
fn records_of_all_sizes_stand_where_they_are_said_to() {
    const CHUNK: usize = 1 << 20;
    // 24 bytes of header, 8 of key.
    let fill = CHUNK - 32;
    let sizes = [
        fill,
        fill - 8,
        0,
        fill - 32,
        fill - 31,
        fill + 1,
        40,
        fill + 8,
        3 * CHUNK + 5,
        7,
    ];
    let options = Options::new().segment_bytes(16 << 20).shard_bits(3);
    let options = options.compaction(Compaction::Manual);
    for write_path in [false, true] {
        let options = options.clone().force_write_path(write_path);
        let dir = tempfile::tempdir().unwrap();
        let store = options.open(dir.path()).unwrap();
        let value = |i: u32, size: usize| {
            let mut value = i.to_be_bytes().repeat(size / 4 + 1);
            value.truncate(size);
            value
        };
        let small = (0..3_000).map(|i| (i, i as usize % 700));
        let large = sizes.iter().cycle().take(30).copied();
        let wanted: Vec<(u32, usize)> = small.chain((3_000..).zip(large)).collect();
        let pair = |(i, size): &(u32, usize)| (key(*i), value(*i, *size));
        let report = store.load(wanted.iter().map(pair)).unwrap();
        assert!(report.segments > 1, "{report:?}");
        for (i, size) in &wanted {
            let found = store.get(key(*i)).unwrap().unwrap();
            assert!(*found == *value(*i, *size), "{i}: {size}");
        }
        assert_eq!(store.len(), wanted.len() as u64);
        drop(reopens_the_same(store, &options, dir.path()));
    }
}

/// So many pairs that threads take part, given up at any of them: nothing is left.
#[test]
fn a_load_with_threads_that_ends_early_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_bytes(4 << 20);
    let store = options.open(dir.path()).unwrap();
    store.set("before", "1").unwrap();
    let (files, expected) = (
        || std::fs::read_dir(dir.path()).unwrap().count(),
        all(&store),
    );
    let before = files();
    for given in [1, 900, 1_100, 3_800, 5_000, 20_000] {
        let pairs = (0..given).map(|i| Ok((key(i), vec![1; 1_000])));
        let failing = pairs.chain([Err(Error::KeyNotFound)]);
        let ended = store.try_load(failing);
        assert!(matches!(ended, Err(Error::KeyNotFound)), "{ended:?}");
        assert_eq!(
            (files(), all(&store)),
            (before, expected.clone()),
            "{given}"
        );
    }
    store
        .load((0..5_000).map(|i| (key(i), vec![2; 1_000])))
        .unwrap();
    assert_eq!(store.len(), 5_001);
}

/// An output may be whole before so much has come that threads take part: it is synced all the same.
#[test]
fn what_was_written_before_there_were_threads_is_durable_too() {
    let (small, large) = (vec![1; 10], vec![2; 2 << 20]);
    let orders: [&[&Vec<u8>]; 4] = [
        &[&small, &large],
        &[&small, &large, &small],
        &[&large, &small],
        &[&small, &small],
    ];
    for values in orders {
        let fs = SimFs::new();
        let store = open_with_threads(fs.clone(), &options(), 1, || Duration::ZERO).unwrap();
        let given = (0..)
            .zip(values)
            .map(|(i, value)| (key(i), (*value).clone()));
        store.load(given.map(Ok::<_, Error>)).unwrap();
        let expected = pairs(&store).unwrap();
        assert_eq!(expected.len(), values.len());
        let image = fs.image(fs.log_len(), Survive::SyncedOnly);
        let left = open(SimFs::from_image(&image), &options(), 2).unwrap();
        assert!(pairs(&left).unwrap() == expected, "{}", values.len());
    }
}

/// A write or a sync that fails beside the load is what the load says, and nothing of the load is there;
/// after the sync, or if the manifest could not be written, the store is poisoned.
#[test]
fn what_fails_beside_a_load_ends_it() {
    // Outputs that end before a chunk is full, without threads; and one of many chunks.
    let without = (1, 4_000, [(Call::WriteAt, 4), (Call::SyncData, 4)]);
    let with = (32, 18_000, [(Call::WriteAt, 9), (Call::SyncData, 1)]);
    for (mib, count, calls) in [without, with] {
        for (call, least) in calls {
            fails_beside_a_load(mib << 20, count, call, least);
        }
    }
}

fn fails_beside_a_load(segment_bytes: u64, count: u32, call: Call, least: u32) {
    let options = options().segment_bytes(segment_bytes);
    let many = || (0..count).map(|i| Ok::<_, Error>((key(i), vec![3; 1_000])));
    // Which call is whose depends on when the threads have their turns: on a busy machine a round may miss
    // the load's altogether.
    let mut best = 0;
    for _ in 0..20 {
        let mut failed = 0;
        for k in 0..12 {
            let fs = SimFs::new();
            let store = open_with_threads(fs.clone(), &options, 1, || Duration::ZERO).unwrap();
            store.set(b"a", b"1").unwrap();
            let expected = pairs(&store).unwrap();
            fs.fail_call(call, k, Fault::once(Errno::IO));
            let loaded = store.load(many());
            fs.clear_faults();
            match loaded {
                Ok(report) => {
                    assert_eq!(report.pairs, u64::from(count));
                    assert_eq!(store.len(), u64::from(count) + 1);
                }
                Err(Error::Io { op, .. }) => {
                    failed += u32::from(op.contains("merged segment"));
                    let image = fs.image(fs.log_len(), Survive::SyncedOnly);
                    let left = open(SimFs::from_image(&image), &options, 2).unwrap();
                    // The edit that lists it may have been durable when the one behind it failed.
                    let there = left.len() == u64::from(count) + 1 && op.contains("manifest");
                    assert!(left.len() <= 1 || there, "{k}: {op}: {}", left.len());
                    let poisoned = store.set(b"b", b"2").is_err();
                    let poisons = call == Call::SyncData || op.contains("manifest");
                    assert_eq!(poisoned, poisons, "{k}: {op}");
                    if !poisoned {
                        store.remove(b"b").unwrap();
                        nothing_happened(&fs, &store, &expected);
                    }
                }
                other => panic!("{call:?} {k}: {other:?}"),
            }
        }
        best = best.max(failed);
        if best >= least {
            return;
        }
    }
    panic!("{call:?}: {best}");
}

/// A clock that a test sets.
fn by_clock(time: &Arc<AtomicU64>) -> Options {
    let time = Arc::clone(time);
    let now = move || UNIX_EPOCH + Duration::from_millis(time.load(Ordering::SeqCst));
    options().clock(now)
}

/// To the millisecond, for every way of reading, reopened with hints and without; the books know what
/// expires, also of a load of which only a part does.
#[test]
fn pairs_of_a_load_expire_when_each_says() {
    let dir = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicU64::new(1_000));
    let options = by_clock(&time).default_ttl(Some(Duration::from_millis(7)));
    let mut store = options.open(dir.path()).unwrap();
    store
        .load_with_expiry((0..400u32).map(|i| (key(i), [i as u8; 300], Expiry::Never)))
        .unwrap();
    let pairs = (0..300u32).map(|i| {
        let expiry = match i % 3 {
            0 => Expiry::Never,
            1 => Expiry::At(2_000 + u64::from(i)),
            // Over before it is there: the older value does not outlive it.
            _ => Expiry::At(900),
        };
        (key(i), [1; 300], expiry)
    });
    let report = store.load_with_expiry(pairs).unwrap();
    assert_eq!((report.pairs, report.superseded), (300, 0));
    assert!(report.segments > 1);
    for (round, now) in [1_000, 2_000, 2_001, 2_150, 2_298, 2_299]
        .into_iter()
        .enumerate()
    {
        time.store(now, Ordering::SeqCst);
        let wanted = |i: u32| match i % 3 {
            _ if i >= 300 => Some(Expiry::Never),
            0 => Some(Expiry::Never),
            1 if 2_000 + u64::from(i) > now => Some(Expiry::At(2_000 + u64::from(i))),
            _ => None,
        };
        let reader = store.reader();
        for i in 0..400 {
            assert_eq!(store.expires_at(key(i)).unwrap(), wanted(i), "{i} at {now}");
            assert_eq!(reader.get(key(i)).unwrap().is_some(), wanted(i).is_some());
        }
        let there = (0..400).filter(|i| wanted(*i).is_some()).count();
        assert_eq!(store.iter().unwrap().count(), there);
        drop(reader);
        if round == 0 {
            assert_eq!(
                store.stats().expired_bytes,
                100 * 344,
                "those that were over"
            );
        }
        if round == 3 {
            // Not when it is opened: then what has expired is counted as it was.
            store = reopens_the_same(store, &options, dir.path());
        }
    }
    // Of the last bucket it is not known.
    let (expired, record) = (store.stats().expired_bytes, 344);
    assert!(
        expired <= 200 * record && expired > 180 * record,
        "{expired}"
    );
    let before = all(&store);
    let report = store.compact().unwrap();
    assert_eq!(report.records_expired, 200);
    assert_eq!(all(&store), before);
    drop(reopens_the_same(store, &options, dir.path()));
}

/// Both have the load's LSN: the one that has expired shadows the other as long as that is there, whichever
/// segments are compacted.
#[test]
fn a_pair_that_has_expired_shadows_an_earlier_one_of_its_load() {
    for mask in 0..16 {
        let fs = SimFs::new();
        let time = Arc::new(AtomicU64::new(1_000));
        let options = by_clock(&time);
        let store = open(fs.clone(), &options, 1).unwrap();
        let large = |n: u8| vec![n; 25_000];
        let at = |ms| Some(Expiry::At(ms));
        let pairs = [
            (b"twice", large(1), None),
            (b"other", large(2), None),
            (b"third", large(3), None),
            (b"twice", large(4), at(2_000)),
        ];
        let report = store
            .load_with(pairs.into_iter().map(Ok::<_, Error>))
            .unwrap();
        assert!(report.segments >= 2 && report.superseded == 1, "{report:?}");
        assert_eq!(&store.get(b"twice").unwrap().unwrap()[..4], [4; 4]);
        time.store(2_000, Ordering::SeqCst);
        for _ in 0..2 {
            store.compact_subset(mask).unwrap();
            assert!(store.get(b"twice").unwrap().is_none(), "{mask}");
        }
        store.close().unwrap();
        for without in [false, true] {
            let mut image = fs.snapshot();
            if without {
                strip_hints(&mut image);
            }
            let again = open(SimFs::from_image(&image), &options, 2).unwrap();
            assert!(again.get(b"twice").unwrap().is_none(), "{mask} {without}");
            assert!(again.get(b"other").unwrap().is_some());
        }
    }
}

/// The load's LSN is given to nothing else: a log that ends before it is damaged, not torn.
#[test]
fn a_log_that_has_lost_the_place_of_a_load_is_damaged() {
    let fs = SimFs::new();
    let store = open(fs.clone(), &options(), 1).unwrap();
    load(&store, &[(b"a", vec![1])]).unwrap();
    let image = fs.image(fs.log_len(), Survive::SyncedOnly);
    let left = open(SimFs::from_image(&image), &options(), 2).unwrap();
    assert_eq!(left.len(), 1);
    drop(left);
    // LINK, then the MARK that took the LSN.
    let log = format!("{:016x}.seg", 1);
    let mut damaged = image.clone();
    damaged.edit(&log, |bytes| bytes[4096 + 48] ^= 1);
    let refused = open(SimFs::from_image(&damaged), &options(), 2).map(|_| ());
    match refused {
        Err(Error::Corrupt { offset, path, .. }) => {
            assert_eq!(offset, 4096 + 48);
            assert!(path.ends_with(&log), "{path:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// Loads of one value for many keys after the other, beside writers, readers and compaction: whoever looks
/// at all keys at once sees one load, whoever looks at them one after the other never an older one.
#[test]
fn readers_see_whole_loads_while_others_write_and_compact() {
    const KEYS: u32 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_bytes(256 << 10).shard_bits(4);
    let store = options.open(dir.path()).unwrap();
    let generation = |n: u32| (0..KEYS).map(move |i| (key(i), n.to_be_bytes().repeat(20)));
    let number = |value: &[u8]| u32::from_be_bytes(value[..4].try_into().unwrap());
    store.load(generation(0)).unwrap();
    let (done, seen) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let go_on = &|| !done.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while go_on() {
                let values = store.iter().unwrap().map(Result::unwrap);
                let numbers: BTreeSet<u32> = values
                    .filter(|(key, _)| key.starts_with(b"key-"))
                    .map(|(_, value)| number(&value))
                    .collect();
                assert_eq!(numbers.len(), 1, "{numbers:?}");
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let reader = store.reader();
            let mut newest = 0;
            for i in (0..KEYS).cycle().step_by(7).take_while(|_| go_on()) {
                let n = number(reader.get(key(i)).unwrap().unwrap());
                assert!(n >= newest, "{n} after {newest}");
                newest = n;
            }
        });
        let others = (0..2u8).map(|t| {
            let store = &store;
            scope.spawn(move || {
                let mut mine = BTreeMap::new();
                for i in 0u32.. {
                    let key = [b'w', t, (i.wrapping_mul(7919) >> 8) as u8];
                    if i % 3 == 2 {
                        let there = mine.remove(&key[..]).is_some();
                        assert_eq!(store.remove(key).unwrap(), there);
                    } else {
                        store.set(key, i.to_be_bytes()).unwrap();
                        mine.insert(key.to_vec(), i.to_be_bytes().to_vec());
                    }
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
                mine
            })
        });
        let others: Vec<_> = others.collect();
        for n in 1..40 {
            let report = store.load(generation(n)).unwrap();
            assert_eq!((report.pairs, report.superseded), (u64::from(KEYS), 0));
            if n % 10 == 0 {
                store.compact().unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        let mut expected: BTreeMap<Vec<u8>, Vec<u8>> = generation(39)
            .map(|(key, value)| (key.to_vec(), value))
            .collect();
        for other in others {
            expected.extend(other.join().unwrap());
        }
        assert_eq!(all(&store), expected);
    });
    assert!(seen.load(Ordering::Relaxed) > 0);
    // Compaction may still be at work: the books are those of the store without it.
    let expected = all(&store);
    store.close().unwrap();
    let options = options.compaction(Compaction::Manual);
    let store = options.open(dir.path()).unwrap();
    assert_eq!(all(&store), expected);
    drop(reopens_the_same(store, &options, dir.path()));
}

/// Threads write, remove and load the same keys: nothing is lost between the running store, its books, and
/// what opening finds.
#[test]
fn threads_that_write_the_keys_of_loads_leave_one_truth() {
    const KEYS: u32 = 400;
    for round in 0..6u32 {
        let dir = tempfile::tempdir().unwrap();
        let options = options();
        let store = options.open(dir.path()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers = (0..2u32).map(|t| {
                let (store, done) = (&store, &done);
                scope.spawn(move || {
                    let levels = [Durability::Os, Durability::Sync];
                    let mut i = t;
                    while !done.load(Ordering::Relaxed) {
                        i = i.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        let key = key(i / 8 % KEYS);
                        // Syncs are slow: one in sixty-four.
                        let store = store.with_durability(levels[usize::from(i >> 20 & 63 == 0)]);
                        match i >> 28 {
                            0..8 => store
                                .set(key, vec![t as u8; (i >> 16 & 127) as usize])
                                .unwrap(),
                            8..14 => drop(store.remove(key).unwrap()),
                            14 => drop(store.increment([b'n', t as u8], 1).unwrap()),
                            _ => {
                                let mut batch = Batch::new();
                                batch.remove(key).set(self::key(i / 16 % KEYS), "b");
                                store.write(&batch).unwrap();
                            }
                        }
                    }
                })
            });
            let writers: Vec<_> = writers.collect();
            let other = scope.spawn(|| {
                for n in 0..8u32 {
                    let pairs = (0..KEYS).map(|i| (key(i * 3 % KEYS), vec![n as u8; 60]));
                    store.load(pairs).unwrap();
                }
            });
            for n in 0..8u32 {
                let pairs = (0..KEYS * 2).map(|i| (key(i % KEYS), vec![n as u8 + 100; 90]));
                let report = store.load(pairs).unwrap();
                assert!(report.superseded >= u64::from(KEYS));
                if n % 4 == round % 4 {
                    store.compact().unwrap();
                }
            }
            other.join().unwrap();
            done.store(true, Ordering::Relaxed);
            for writer in writers {
                writer.join().unwrap();
            }
        });
        drop(reopens_the_same(store, &options, dir.path()));
    }
}
