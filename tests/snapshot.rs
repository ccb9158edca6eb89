//! Snapshots. Goal: a snapshot shows one moment, byte for byte, by every way of reading it, whatever is
//! written, compacted, unmapped and mapped in its place, closed and opened meanwhile; and one that
//! nobody needs any more does not keep removed segments on disk for ever.
//!
//! Method: a map is kept beside the store; segments of the smallest size and compaction by hand make
//! every segment of a snapshot go many times over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvs::testing::sim::{Call, Errno, Fault, SimFs};
use kvs::testing::{self, Fs};
use kvs::{Batch, Compaction, Durability, Error, Options, Snapshot, Store};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> Options {
    Options::new()
        .segment_bytes(64 << 10)
        .compaction(Compaction::Manual)
}

fn key(i: usize) -> Vec<u8> {
    format!("key-{i:05}").into_bytes()
}

/// A value that says which key and round it is of, of a length that depends on both.
fn value(i: usize, round: usize) -> Vec<u8> {
    let mut value = format!("{i} in round {round} ").into_bytes();
    value.resize(value.len() + (i * 37 + round * 101) % 900, b'.');
    value
}

/// Every way of reading a snapshot shows `expected` and nothing else.
fn shows<F: Fs>(snapshot: &Snapshot<F>, expected: &Pairs) {
    let mut seen = Pairs::new();
    for pair in snapshot.iter() {
        let (key, value) = pair.unwrap();
        let twice = seen.insert(key.to_vec(), value.to_vec());
        assert!(twice.is_none(), "{key:?} came twice");
    }
    assert!(seen == *expected, "the iterator shows something else");
    let keys: Vec<Vec<u8>> = snapshot.keys().map(|key| key.unwrap().to_vec()).collect();
    assert_eq!(keys.len(), expected.len());
    assert!(keys.iter().all(|key| expected.contains_key(key)));
    let with: Pairs = snapshot
        .prefix("key-0001")
        .map(|pair| pair.unwrap())
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect();
    let begin = |(key, _): &(&Vec<u8>, &Vec<u8>)| key.starts_with(b"key-0001");
    assert!(with.iter().eq(expected.iter().filter(begin)));
    let asked: Vec<Vec<u8>> = (0..300).map(key).chain([b"absent".to_vec()]).collect();
    let together = snapshot.get_many(&asked).unwrap();
    for (key, found) in asked.iter().zip(together) {
        let wanted = expected.get(key).map(Vec::as_slice);
        assert_eq!(snapshot.get(key).unwrap().as_deref(), wanted);
        assert_eq!(found.as_deref(), wanted);
        assert_eq!(snapshot.contains_key(key).unwrap(), wanted.is_some());
    }
    assert_eq!(snapshot.len(), expected.len() as u64);
    assert_eq!(snapshot.is_empty(), expected.is_empty());
}

fn fill(store: &Store, round: usize) -> Pairs {
    (0..300)
        .map(|i| {
            let (key, value) = (key(i), value(i, round));
            store.set(&key, &value).unwrap();
            (key, value)
        })
        .collect()
}

#[test]
fn a_snapshot_shows_its_moment_whatever_is_compacted_and_mapped_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let nothing = store.snapshot().unwrap();
    fill(&store, 0);
    let mut all = Vec::new();
    for round in 1..8 {
        let mut expected = fill(&store, round);
        // Some are gone for good, and some come back.
        for i in (0..300).filter(|i| i % 7 == round % 7) {
            assert!(store.remove(key(i)).unwrap());
            expected.remove(&key(i));
        }
        let before = store.stats().last_lsn;
        let snapshot = store.snapshot().unwrap();
        // A sync by the interval may note itself in the log meanwhile.
        let moments = before..=store.stats().last_lsn;
        assert!(moments.contains(&snapshot.lsn()), "{moments:?}");
        if round % 3 == 1 {
            all.push((snapshot, expected));
        }
        // Twice: windows of what the first gave back mean something else after the second.
        for _ in 0..2 {
            for i in (0..300).filter(|i| i % 4 != round % 4) {
                store.set(key(i), value(i, 100 + round)).unwrap();
            }
            let report = store.compact().unwrap();
            assert!(report.segments_before > 0 && report.records_moved > 0);
        }
        for (snapshot, expected) in &all {
            shows(snapshot, expected);
        }
    }
    shows(&nothing, &Pairs::new());
    let stats = store.stats();
    assert_eq!(stats.snapshots, 4);
    assert!(stats.snapshot_bytes > 0 && stats.snapshot_bytes == stats.pinned_bytes);

    // A clone is the same one; the pins go with the last.
    let (snapshot, expected) = all.swap_remove(1);
    let clone = snapshot.clone();
    drop((snapshot, all));
    shows(&clone, &expected);
    assert_eq!(store.stats().snapshots, 2);
    drop((clone, nothing));
    let stats = store.stats();
    assert_eq!(
        (stats.snapshots, stats.snapshot_bytes, stats.pinned_bytes),
        (0, 0, 0)
    );
}

#[test]
fn a_snapshot_outlives_the_store_and_does_not_hold_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let expected = fill(&store, 1);
    let snapshot = store.snapshot().unwrap();
    let mut iter = snapshot.iter();
    let first = iter.next().unwrap().unwrap();
    assert!(store.close().unwrap().closed);
    shows(&snapshot, &expected);
    // Another store in its place, which removes every segment the snapshot looks at.
    let store = options().open(dir.path()).unwrap();
    for round in 2..5 {
        fill(&store, round);
        store.compact().unwrap();
    }
    shows(&snapshot, &expected);
    drop(snapshot);
    let rest: Pairs = iter
        .map(|pair| pair.unwrap())
        .chain([first])
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect();
    assert!(rest == expected, "an iterator owns its snapshot");
    assert_eq!(store.stats().snapshots, 0, "that was another store");
    store.close().unwrap();
    let read_only = options().read_only(true).open(dir.path()).unwrap();
    assert_eq!(read_only.snapshot().unwrap().len(), 300);
}

#[test]
fn every_pair_comes_once_in_a_store_of_many_rounds() {
    let store = Options::new().open_in_memory().unwrap();
    let mut expected = Pairs::new();
    for i in 0..60_000usize {
        let key = i.to_be_bytes();
        store.set(key, &key[6..]).unwrap();
        expected.insert(key.to_vec(), key[6..].to_vec());
    }
    let snapshot = store.snapshot().unwrap();
    for i in 0..60_000usize {
        store.set(i.to_be_bytes(), "new").unwrap();
    }
    let mut seen = Pairs::new();
    let mut last = Vec::new();
    for pair in snapshot.iter() {
        let (key, value) = pair.unwrap();
        assert!(
            seen.is_empty() || last < key.to_vec(),
            "in the order of the log"
        );
        last = key.to_vec();
        assert!(seen.insert(key.to_vec(), value.to_vec()).is_none());
    }
    assert!(seen == expected);
}

/// What a snapshot of 300 pairs keeps once they are overwritten: about that many bytes, three segments.
const ONE: u64 = 160_000;

fn is_expired<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::SnapshotExpired { max }) if max % ONE > 0)
}

#[test]
fn a_forgotten_snapshot_does_not_keep_removed_segments_for_ever() {
    let max = ONE + 80_000;
    let dir = tempfile::tempdir().unwrap();
    let store = options().pinned_bytes_max(max).open(dir.path()).unwrap();
    let first = fill(&store, 1);
    let forgotten = store.snapshot().unwrap();
    let clone = forgotten.clone();
    let mut begun = forgotten.iter();
    let held = begun.next().unwrap().unwrap();
    let copy = (held.0.to_vec(), held.1.to_vec());
    let second = fill(&store, 2);
    store.compact().unwrap();
    shows(&forgotten, &first);
    assert!(store.stats().snapshot_bytes > 100_000);
    let younger = store.snapshot().unwrap();
    let third = fill(&store, 3);
    let report = store.compact().unwrap();
    assert!(report.segments_before > 0, "it is no reason to stop");
    // Whatever is asked of it, and again and again.
    for _ in 0..3 {
        assert!(is_expired(forgotten.get("no such key")));
        assert!(is_expired(clone.get_many(&[key(1)])));
        assert!(is_expired(clone.contains_key(key(1))));
        assert!(begun.next().is_some_and(is_expired));
        assert!(clone.iter().next().is_some_and(is_expired));
        assert!(clone.keys().next().is_some_and(is_expired));
        assert!(clone.prefix("key").next().is_some_and(is_expired));
    }
    assert_eq!(forgotten.len(), 300);
    // What was got from it stays; the one segment it is in is all that is left of it.
    assert_eq!((&*held.0, &*held.1), (&copy.0[..], &copy.1[..]));
    let stats = store.stats();
    assert_eq!(stats.snapshots, 1);
    assert!(stats.pinned_bytes <= max && !stats.compaction_paused);
    shows(&younger, &second);
    drop(younger);
    let stats = store.stats();
    assert_eq!((stats.snapshots, stats.snapshot_bytes), (0, 0));
    assert!((1..70_000).contains(&stats.pinned_bytes), "{stats:?}");
    shows(&store.snapshot().unwrap(), &third);
}

#[test]
fn the_oldest_goes_first_and_one_that_keeps_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = options()
        .pinned_bytes_max(2 * ONE + 80_000)
        .open(dir.path())
        .unwrap();
    let empty = store.snapshot().unwrap();
    let mut snapshots = Vec::new();
    for round in 0..12 {
        let expected = fill(&store, round);
        store.compact().unwrap();
        snapshots.push((store.snapshot().unwrap(), expected));
        let alive: Vec<bool> = snapshots
            .iter()
            .map(|(snapshot, _)| !is_expired(snapshot.get(key(0))))
            .collect();
        assert!(alive.is_sorted(), "the oldest are given up: {alive:?}");
        assert!(alive[round], "the youngest needs no more than there is");
        assert_eq!(alive[0], round < 3, "{alive:?} {:?}", store.stats());
        assert!(
            alive[round.saturating_sub(2)],
            "there is room for what two keep: {alive:?}"
        );
        shows(&snapshots[round].0, &snapshots[round].1);
    }
    shows(&empty, &Pairs::new());
}

#[test]
fn those_that_keep_the_same_are_given_up_together() {
    let dir = tempfile::tempdir().unwrap();
    let options = options().pinned_bytes_max(ONE - 60_000);
    let store = options.open(dir.path()).unwrap();
    fill(&store, 1);
    let twins = [(); 2].map(|()| store.snapshot().unwrap());
    let expected = fill(&store, 2);
    let younger = store.snapshot().unwrap();
    store.compact().unwrap();
    assert!(twins.iter().all(|twin| is_expired(twin.get(key(0)))));
    // It has seen the segments of the first round too, though it shows nothing of them.
    assert!(is_expired(younger.get(key(0))));
    let stats = store.stats();
    assert!(stats.pinned_bytes == 0 && !stats.compaction_paused);
    shows(&store.snapshot().unwrap(), &expected);
}

#[test]
fn values_alone_pause_compaction_and_cost_no_snapshot_its_life() {
    let dir = tempfile::tempdir().unwrap();
    let store = options()
        .pinned_bytes_max(100_000)
        .open(dir.path())
        .unwrap();
    let expected = fill(&store, 1);
    let held: Vec<_> = (0..300)
        .map(|i| store.get(key(i)).unwrap().unwrap())
        .collect();
    fill(&store, 2);
    store.compact().unwrap();
    let snapshot = store.snapshot().unwrap();
    // Pinned by values only: compaction stops, the snapshot has done nothing.
    assert!(matches!(store.compact(), Err(Error::Pinned { .. })));
    let stats = store.stats();
    assert!(stats.compaction_paused && stats.snapshot_bytes == 0 && stats.snapshots == 1);
    shows(&snapshot, &fill_of(2));
    assert!(
        held.iter()
            .zip(expected.values())
            .all(|(held, value)| **held == value[..])
    );
    drop(held);
    store.compact().unwrap();
}

fn fill_of(round: usize) -> Pairs {
    (0..300).map(|i| (key(i), value(i, round))).collect()
}

#[test]
fn an_iterator_that_meets_damage_says_so_again_and_again() {
    let fs = SimFs::new();
    let store = testing::open(fs.clone(), &options(), 1).unwrap();
    for i in 0..10u8 {
        store.set(&[i], &[i; 100]).unwrap();
    }
    let snapshot = store.snapshot().unwrap();
    let (mut pairs, mut keys, mut prefix) = (snapshot.iter(), snapshot.keys(), snapshot.prefix(""));
    // A byte of the value of the sixth: LINK of 48 bytes, then records of 24 + 101, padded.
    fs.edit("0000000000000001.seg", |bytes| {
        bytes[4096 + 48 + 5 * 128 + 60] ^= 1
    });
    let told = |error: Error| match error {
        Error::Corrupt { offset, .. } => offset,
        error => panic!("{error}"),
    };
    for i in 0..5u8 {
        assert_eq!(
            *pairs.next().unwrap().unwrap().0,
            [i],
            "in the order of the log"
        );
        assert!(keys.next().unwrap().is_ok() && prefix.next().unwrap().is_ok());
    }
    for _ in 0..3 {
        let place = 4096 + 48 + 5 * 128;
        assert_eq!(told(pairs.next().unwrap().unwrap_err()), place);
        assert_eq!(told(keys.next().unwrap().unwrap_err()), place);
        assert_eq!(told(prefix.next().unwrap().unwrap_err()), place);
    }
    assert_eq!(told(snapshot.get([5]).unwrap_err()), 4096 + 48 + 5 * 128);
    assert!(snapshot.get([6]).unwrap().is_some());
}

#[test]
fn after_a_failed_sync_a_snapshot_shows_what_is_durable() {
    let fs = SimFs::new();
    let store = testing::open(fs.clone(), &options(), 1).unwrap();
    store.set(b"old", b"1").unwrap();
    store.flush().unwrap();
    let durable = store.snapshot().unwrap();
    store.set(b"new", b"2").unwrap();
    let undurable = store.snapshot().unwrap();
    let mut begun = undurable.iter();
    assert!(begun.next().unwrap().is_ok());
    fs.fail_call(Call::SyncData, 0, Fault::once(Errno::IO));
    assert!(store.flush().is_err());
    assert_eq!(durable.get("old").unwrap().unwrap(), b"1");
    assert!(durable.get("new").unwrap().is_none(), "as it was");
    assert_eq!(durable.iter().map(Result::unwrap).count(), 1);
    assert_eq!(undurable.get("old").unwrap().unwrap(), b"1");
    assert!(matches!(undurable.get("new"), Err(Error::Poisoned)));
    assert!(matches!(
        undurable.get_many(&["old", "new"]),
        Err(Error::Poisoned)
    ));
    for _ in 0..2 {
        assert!(matches!(begun.next(), Some(Err(Error::Poisoned))));
        assert!(matches!(
            undurable.keys().next(),
            Some(Err(Error::Poisoned))
        ));
    }
    assert!(matches!(store.snapshot(), Err(Error::Poisoned)));
}

#[test]
fn an_expiry_that_passes_later_changes_nothing() {
    let store = testing::open(SimFs::new(), &options(), 1).unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    store.set_expiring(b"past", b"1", 1).unwrap();
    store.set_expiring(b"soon", b"2", now + 300).unwrap();
    let snapshot = store.snapshot().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    assert!(store.get(b"soon").unwrap().is_none());
    assert_eq!(snapshot.get("soon").unwrap().unwrap(), b"2");
    assert!(snapshot.get("past").unwrap().is_none());
    let keys: Vec<_> = snapshot.keys().map(|key| key.unwrap().to_vec()).collect();
    assert_eq!(keys, [b"soon"]);
    assert_eq!(store.snapshot().unwrap().keys().count(), 0);
}

/// A test that fails must not wait for threads that go on.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two keys that batches set together are equal in every snapshot, whichever way it is read, while
/// compaction moves both and other threads read the same snapshot.
#[test]
fn a_snapshot_never_shows_half_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let options = options().compaction(Compaction::Background);
    let store = options.open(dir.path()).unwrap();
    let stop = AtomicBool::new(false);
    let write = |store: &Store, n: u64| {
        let mut batch = Batch::new();
        let n = n.to_string();
        batch
            .set("left", &n)
            .set("right", &n)
            .set(format!("filler-{}", n.len()), vec![0; 3000]);
        store.write(&batch).unwrap();
    };
    write(&store, 0);
    let seen = std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        for (t, level) in [Durability::Os, Durability::Sync].into_iter().enumerate() {
            let (store, stop) = (store.with_durability(level), &stop);
            scope.spawn(move || {
                let mut n = t as u64;
                while !stop.load(Ordering::Relaxed) {
                    n += 2;
                    write(&store, n);
                }
            });
        }
        let (store, stop) = (&store, &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = store.compact();
            }
        });
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..400 {
            let snapshot = store.snapshot().unwrap();
            let of = |key: &str| snapshot.get(key).unwrap().map(|value| value.to_vec());
            let left = of("left").unwrap();
            if i % 4 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(of("right").as_ref(), Some(&left), "torn");
            let both = snapshot.get_many(&["right", "left"]).unwrap();
            assert!(both.iter().all(|value| value.as_deref() == Some(&left[..])));
            let all: Pairs = snapshot
                .iter()
                .map(|pair| pair.unwrap())
                .map(|(key, value)| (key.to_vec(), value.to_vec()))
                .collect();
            assert!(
                all[&b"left"[..]] == left && all[&b"right"[..]] == left,
                "torn"
            );
            seen.insert(left);
        }
        seen
    });
    assert!(
        seen.len() > 20,
        "there was something to tear: {}",
        seen.len()
    );
    store.close().unwrap();
}
