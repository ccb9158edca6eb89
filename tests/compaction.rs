//! Compaction: what it may drop, when it may stop, and who waits for it.
//!
//! The faults are those that logs of this kind have met in the field, by the numbers of our
//! catalogue. Here or elsewhere, each is held by a test:
//!
//! | fault | test |
//! |---|---|
//! | C-1 tombstone dropped while an older value stays | `c1_…`, `crash.rs::no_choice_of_segments_to_compact_brings_a_key_back` |
//! | C-2 cut between the unlinks of the inputs | `crash.rs::no_cut_of_a_compaction_brings_a_key_back` |
//! | C-3 unlinks that did not survive | the same |
//! | C-4 removing races with compaction | `c4_…` |
//! | C-5 the active segment is chosen | `c5_…` |
//! | C-6 inputs removed before the output is durable | `crash.rs::what_was_removed_stays_removed_through_compaction` |
//! | C-7 a compaction of compacted segments is cut | `crash.rs::what_was_removed_stays_removed_through_compaction` |
//! | C-8 a reader still needs an input | `c8_…`, `api.rs::a_value_outlives_overwriting_compaction_and_close` |
//! | C-9 damage copied under a fresh check | `c9_…` |
//! | C-10 no room to make room | `c10_…`, `full.rs` |
//! | C-11 the same segments again and again | `c11_…` |
//! | C-12 removing everything is undone | `c12_…` |
//! | C-13 compaction beside closing | `c13_…` |
//! | C-14 an old value dropped for a newer one that is not durable | `c14_…` |

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvs::testing::sim::{Call, Errno, Fault, SimFs, Survive};
use kvs::testing::{self, Engine};
use kvs::{Batch, CompactReport, Compaction, Error, Options, Store};

type Sim = Arc<Engine<SimFs>>;

fn options() -> Options {
    Options::new()
        .compaction(Compaction::Manual)
        .segment_bytes(64 << 10)
        .shard_bits(2)
}

fn open(fs: &SimFs, seed: u64) -> Sim {
    testing::open(fs.clone(), &options(), seed).unwrap()
}

fn value(store: &Sim, key: &[u8]) -> Option<Vec<u8>> {
    store.get(key).unwrap().map(|value| value.to_vec())
}

/// The store after a cut now, of which only what was synced survives, without any hint.
fn after_cut(fs: &SimFs, seed: u64) -> (SimFs, Sim) {
    let fs = SimFs::from_image(&fs.image(fs.log_len(), Survive::SyncedOnly));
    for name in fs.names() {
        if name.ends_with(".hint") {
            fs.remove(&name);
        }
    }
    let store = open(&fs, seed);
    (fs, store)
}

/// `keys` values of `len` bytes in a segment of their own, all of them overwritten in the next, and
/// the first of them once more behind that: one segment is all garbage, one in part.
fn overwritten(store: &Sim, keys: u8, len: usize) {
    for round in 0..2u8 {
        for key in 0..keys {
            store.set(&[key], &vec![round; len]).unwrap();
        }
        store.rotate_now().unwrap();
    }
    store.set(&[0], &vec![1; len]).unwrap();
}

#[test]
fn c1_a_tombstone_stays_as_long_as_an_older_value_does() {
    let fs = SimFs::new();
    let store = open(&fs, 1);
    store.set(b"k", b"old").unwrap();
    store.rotate_now().unwrap();
    store.remove(b"k").unwrap();
    store.set(b"other", b"1").unwrap();
    store.rotate_now().unwrap();
    // The segment with the tombstone alone.
    let report = store.compact_subset(0b10).unwrap();
    assert_eq!((report.tombstones_kept, report.records_moved), (1, 1));
    let (_, cut) = after_cut(&fs, 2);
    assert_eq!(value(&cut, b"k"), None);
    // The value, and then the tombstone, which shadows nothing any more.
    let report = store.compact_subset(0b01).unwrap();
    assert_eq!(report.bytes_after, 0);
    let report = store.compact_subset(0b01).unwrap();
    assert_eq!((report.tombstones_kept, report.records_moved), (0, 1));
    let (_, cut) = after_cut(&fs, 3);
    assert_eq!(value(&cut, b"k"), None);
    assert_eq!(value(&cut, b"other").as_deref(), Some(&b"1"[..]));
}

/// A newer record of the key is no reason to keep its tombstone.
#[test]
fn a_tombstone_goes_if_only_newer_records_of_its_key_stay() {
    let store = open(&SimFs::new(), 1);
    store.set(b"k", b"1").unwrap();
    store.remove(b"k").unwrap();
    store.set(b"x", b"1").unwrap();
    store.rotate_now().unwrap();
    store.set(b"k", b"2").unwrap();
    store.remove(b"k").unwrap();
    store.set(b"y", b"1").unwrap();
    store.rotate_now().unwrap();
    let report = store.compact_subset(0b01).unwrap();
    assert_eq!((report.tombstones_kept, report.records_moved), (0, 1));
}

#[test]
fn c4_what_is_removed_or_set_while_it_is_copied_stays_so() {
    for at in 0..4 {
        let fs = SimFs::new();
        let store = open(&fs, 1);
        overwritten(&store, 4, 9000);
        let mut looks = 0;
        let during = Arc::clone(&store);
        let report = store
            .compact_with(|_| {
                if looks == at {
                    during.remove(&[0]).unwrap();
                    during.set(&[1], b"newer").unwrap();
                }
                looks += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(report.segments_before > 0);
        store.compact().unwrap();
        let (_, cut) = after_cut(&fs, 2);
        for store in [&store, &cut] {
            let changed = looks > at;
            assert_eq!(value(store, &[0]).is_none(), changed, "at look {at}");
            assert_eq!(value(store, &[1]).unwrap() == b"newer", changed);
            assert_eq!(value(store, &[3]).unwrap(), vec![1; 9000]);
        }
    }
}

#[test]
fn c5_what_is_being_written_is_never_chosen() {
    let store = open(&SimFs::new(), 1);
    overwritten(&store, 4, 9000);
    let during = Arc::clone(&store);
    let mut written = Vec::new();
    store
        .compact_with(|_| {
            // Garbage in the active segment, while victims are at hand.
            during.set(b"hot", b"1").unwrap();
            during.set(b"hot", b"2").unwrap();
            let stats = during.stats();
            written.extend(stats.segments.iter().filter(|s| !s.sealed).map(|s| s.id));
            ControlFlow::Continue(())
        })
        .unwrap();
    let there: Vec<u64> = store.stats().segments.iter().map(|s| s.id).collect();
    assert!(!written.is_empty());
    assert!(written.iter().all(|id| there.contains(id)), "{written:?}");
    assert_eq!(value(&store, b"hot").unwrap(), b"2");
}

#[test]
fn c8_a_value_in_hand_stays_whole_while_its_segment_goes() {
    let fs = SimFs::new();
    let store = open(&fs, 1);
    store.set(b"k", &[7; 9000]).unwrap();
    let held = store.get(b"k").unwrap().unwrap();
    store.set(b"k", b"2").unwrap();
    store.compact().unwrap();
    assert!(store.stats().pinned_bytes >= 9000);
    assert_eq!(*held, [7; 9000][..]);
    drop(held);
    assert_eq!(store.stats().pinned_bytes, 0);
}

#[test]
fn c9_a_damaged_record_is_not_copied_and_nothing_is_given_up_for_it() {
    let fs = SimFs::new();
    let store = open(&fs, 1);
    overwritten(&store, 4, 9000);
    store.set(&[0], b"newer").unwrap();
    // In a live value of the second segment.
    let name = "0000000000000002.seg";
    fs.edit(name, |bytes| bytes[20_000] ^= 1);
    let before: Vec<_> = fs.names();
    let error = store.compact().unwrap_err();
    assert!(
        matches!(&error, Error::Corrupt { path, .. } if path.ends_with(name)),
        "{error}"
    );
    assert!(before.iter().all(|name| fs.names().contains(name)));
    assert_eq!(value(&store, &[3]).unwrap(), vec![1; 9000]);
    store.set(b"more", b"1").unwrap();
    store.close().unwrap();
}

#[test]
fn c10_without_room_the_inputs_stay_and_room_that_returns_is_used() {
    for k in 0..6 {
        for call in [Call::Allocate, Call::Create] {
            let fs = SimFs::new();
            let store = open(&fs, 1);
            overwritten(&store, 4, 9000);
            let disk = store.stats().segments.len();
            fs.fail_call(call, k, Fault::forever(Errno::NOSPC));
            match store.compact() {
                Err(Error::DiskFull { .. }) => {
                    assert!(store.stats().segments.len() >= disk, "{call:?} {k}");
                }
                // Too late to matter: hints, for example, are not needed.
                Ok(_) => {}
                Err(error) => panic!("{call:?} {k}: {error}"),
            }
            fs.clear_faults();
            store.set(b"more", b"1").unwrap();
            store.compact().unwrap();
            assert_eq!(store.stats().dead_bytes, 0, "{call:?} {k}");
            let (_, cut) = after_cut(&fs, 2);
            for key in 0..4 {
                assert_eq!(value(&cut, &[key]).unwrap(), vec![1; 9000]);
            }
        }
    }
}

#[test]
fn c11_what_was_compacted_is_not_compacted_again() {
    let store = open(&SimFs::new(), 1);
    overwritten(&store, 4, 9000);
    assert!(store.compact().unwrap().segments_before > 0);
    store.compact().unwrap();
    assert_eq!(store.compact().unwrap(), CompactReport::default());
}

#[test]
fn c12_what_was_removed_all_at_once_stays_removed() {
    let fs = SimFs::new();
    let store = open(&fs, 1);
    overwritten(&store, 8, 3000);
    let mut batch = Batch::new();
    for key in 0..8 {
        batch.remove([key]);
    }
    store.write(&batch).unwrap();
    store.rotate_now().unwrap();
    for mask in [0b100, 0b010, 0b001] {
        store.compact_subset(mask).unwrap();
        let (_, cut) = after_cut(&fs, 2);
        assert!(cut.pairs().unwrap().next().is_none(), "after {mask:b}");
    }
    store.compact().unwrap();
    assert_eq!(store.stats().dead_bytes, 0, "the tombstones too");
}

#[test]
fn c13_closing_waits_for_a_compaction_and_ends_all_later_ones() {
    let dir = tempfile::tempdir().unwrap();
    let fs = testing::RealFs::open(dir.path(), testing::Access::ReadWrite).unwrap();
    let store = testing::open(fs, &options(), 1).unwrap();
    for key in 0..40u8 {
        store.set(&[key % 20], &vec![key; 3000]).unwrap();
    }
    let closed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut closing = None;
        let report = store
            .compact_with(|_| {
                closing.get_or_insert_with(|| {
                    scope.spawn(|| {
                        store.close().unwrap();
                        closed.store(true, Ordering::SeqCst);
                    })
                });
                std::thread::sleep(Duration::from_millis(20));
                assert!(!closed.load(Ordering::SeqCst), "it waits");
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(report.segments_before > 0 && !report.cancelled);
        closing.unwrap().join().unwrap();
    });
    assert!(closed.load(Ordering::SeqCst));
    assert!(matches!(store.compact(), Err(Error::Closed)));
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert!(store.recovery().clean);
    assert_eq!(store.len(), 20);
}

#[test]
fn c14_no_value_goes_before_the_one_that_replaced_it_is_durable() {
    let fs = SimFs::new();
    let store = open(&fs, 1);
    store.set(b"a", &[1; 9000]).unwrap();
    store.rotate_now().unwrap();
    store.set(b"b", &[1; 9000]).unwrap();
    store.set(b"a", &[2; 9000]).unwrap();
    store.rotate_now().unwrap();
    store.set(b"b", &[2; 9000]).unwrap();
    store.flush().unwrap();
    let during = Arc::clone(&store);
    let mut looks = 0;
    // While the first segment is behind it: what the second one still has is shadowed by a write that
    // nobody has synced.
    store
        .compact_with(|_| {
            if looks == 0 {
                during.set(b"a", &[3; 9000]).unwrap();
                during.remove(b"b").unwrap();
            }
            looks += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(looks >= 2);
    let mut replay = fs.replay();
    loop {
        for survive in replay.survivals(0..4) {
            let image = SimFs::from_image(&replay.image(survive));
            let cut = replay.cut();
            if cut > 60 {
                let found = open(&image, 2);
                let a = value(&found, b"a").expect("some version of it is there");
                let b = value(&found, b"b");
                // The two went in one order.
                let newest = a[0] == 3;
                assert!(newest || b.is_some(), "cut {cut}, {survive:?}");
            }
        }
        if !replay.advance() {
            break;
        }
    }
}

#[test]
fn a_run_that_is_ended_leaves_the_store_as_it_was() {
    for end_at in 0..4 {
        let fs = SimFs::new();
        let store = open(&fs, 1);
        overwritten(&store, 6, 9000);
        let mut looks = 0;
        let mut seen = Vec::new();
        let report = store
            .compact_with(|progress| {
                seen.push(*progress);
                looks += 1;
                match looks > end_at {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })
            .unwrap();
        assert_eq!(report.cancelled, looks > end_at);
        if report.cancelled {
            assert_eq!(report.segments_before, 0);
            assert!(report.segments_left > 0);
            assert!(store.stats().dead_bytes > 0);
        }
        let last = seen.last().unwrap();
        assert!(last.bytes_read <= last.bytes_total + 1000 && last.segments_total > 0);
        assert!(seen.is_sorted_by_key(|progress| progress.bytes_read));
        let known = kvs_model::strays(&fs).unwrap();
        assert!(known.is_empty(), "outputs that nobody needs: {known:?}");
        let (_, cut) = after_cut(&fs, 2);
        for key in 0..6 {
            assert_eq!(value(&cut, &[key]).unwrap(), vec![1; 9000]);
        }
        assert!(!store.compact().unwrap().cancelled);
        assert_eq!(store.stats().dead_bytes, 0);
    }
}

#[test]
fn compaction_stops_at_the_most_that_may_be_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let store = options()
        .pinned_bytes_max(100 << 10)
        .open(dir.path())
        .unwrap();
    let mut held = Vec::new();
    let refused = loop {
        store.set("k", vec![7; 30_000]).unwrap();
        held.push(store.get("k").unwrap().unwrap());
        store.set("k", "small").unwrap();
        match store.compact() {
            Ok(_) => assert!(held.len() < 20, "{:?}", store.stats()),
            Err(error) => break error,
        }
    };
    let Error::Pinned { bytes, max } = refused else {
        panic!("{refused:?}");
    };
    let stats = store.stats();
    assert!(bytes > max && stats.pinned_bytes == bytes && stats.pinned_bytes_max == max);
    assert!(stats.compaction_paused);
    store.set("more", "1").unwrap();
    assert!(held.iter().all(|value| **value == [7; 30_000]));
    held.clear();
    assert!(!store.stats().compaction_paused);
    store.compact().unwrap();
    assert_eq!(store.stats().dead_bytes, 0);
}

/// Waits for the background, at most a minute.
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn garbage_is_given_back_in_the_background_while_readers_and_writers_go_on() {
    const KEYS: u32 = 2000;
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new()
        .segment_bytes(256 << 10)
        .open(dir.path())
        .unwrap();
    let round = AtomicU64::new(0);
    let value = |key: u32, round: u64| [key.to_le_bytes(), (round as u32).to_le_bytes()].concat();
    let set = |key: u32, round: u64| store.set(key.to_le_bytes(), value(key, round).repeat(25));
    for key in 0..KEYS {
        set(key, 0).unwrap();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut key, mut reads) = (0u32, 0u64);
            while !done.load(Ordering::Relaxed) {
                let before = round.load(Ordering::SeqCst);
                let found = store.get(key.to_le_bytes()).unwrap().unwrap();
                let after = round.load(Ordering::SeqCst);
                let stamp = u64::from(u32::from_le_bytes(found[4..8].try_into().unwrap()));
                assert_eq!(found[..4], key.to_le_bytes());
                assert!((before.saturating_sub(1)..=after).contains(&stamp));
                key = (key + 7) % KEYS;
                reads += 1;
            }
            reads
        });
        for r in 1..60 {
            round.store(r, Ordering::SeqCst);
            for key in 0..KEYS {
                set(key, r).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    // 27 MiB were written, half a MiB is alive.
    eventually("most garbage goes by itself", || {
        store.stats().dead_bytes < 4 << 20
    });
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.len(), u64::from(KEYS));
    assert_eq!(store.verify().unwrap().damage, []);
    for key in 0..KEYS {
        let found = store.get(key.to_le_bytes()).unwrap().unwrap();
        assert_eq!(*found, value(key, 59).repeat(25)[..]);
    }
}

#[test]
fn closing_compacts_within_its_budget_and_says_what_is_left() {
    let filled = |dir: &tempfile::TempDir, budget| {
        let options = Options::new()
            .segment_bytes(1 << 20)
            .close_budget(Duration::from_secs(budget));
        let store = options.open(dir.path()).unwrap();
        for i in 0..60_000u32 {
            // Three overwritings of every fourth key: too little garbage to begin before closing.
            store
                .set((i % 40_000).to_le_bytes(), [i as u8; 100])
                .unwrap();
        }
        store
    };
    let bytes = |dir: &tempfile::TempDir| -> u64 {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        entries.map(|e| e.unwrap().metadata().unwrap().len()).sum()
    };
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let report = filled(&with, 60).close().unwrap();
    assert!(report.closed && report.undone.is_empty(), "{report:?}");
    let report = filled(&without, 0).close().unwrap();
    assert_eq!(report.compacted, CompactReport::default());
    assert!(bytes(&with) <= bytes(&without));
    let store = Store::open(with.path()).unwrap();
    assert!(store.recovery().clean);
    let stats = store.stats();
    assert!(
        stats.dead_bytes <= stats.live_bytes / 4 + (1 << 20),
        "{stats:?}"
    );
    assert_eq!(store.len(), 40_000);
}

#[test]
fn compaction_by_hand_alone_never_happens_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    for i in 0..100_000u32 {
        store.set([i as u8], [0; 40]).unwrap();
    }
    assert!(store.stats().dead_bytes > 4 << 20);
    store.compact().unwrap();
    assert_eq!(store.stats().dead_bytes, 0);
    let report = store.close().unwrap();
    assert_eq!(report.compacted, CompactReport::default());
}
