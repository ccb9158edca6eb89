//! Levels of durability: what `Interval` bounds, and how levels mix.
//!
//! Method: the simulated file system, a clock that the test moves, and the image that a power cut
//! leaves if nothing reached the disk but what was synced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvs::testing::sim::{Call, Errno, Fault, SimFs, Survive};
use kvs::testing::{self, Engine};
use kvs::{Batch, Durability, Error, Options, Store};

const INTERVAL: Durability = Durability::Interval(Duration::from_millis(100));

fn options() -> Options {
    Options::new().segment_bytes(64 << 10).shard_bits(2)
}

/// A store whose time stands where `clock` says, in milliseconds.
fn open(fs: &SimFs, clock: &Arc<AtomicU64>) -> Arc<Engine<SimFs>> {
    let clock = Arc::clone(clock);
    let now = move || Duration::from_millis(clock.load(Ordering::Relaxed));
    testing::open_by_clock(fs.clone(), &options(), 1, now).unwrap()
}

/// What is left if the power goes now.
fn after_power_cut(fs: &SimFs) -> Arc<Engine<SimFs>> {
    let image = fs.image(fs.log_len(), Survive::SyncedOnly);
    testing::open(SimFs::from_image(&image), &options(), 2).unwrap()
}

#[test]
fn a_power_cut_takes_back_no_more_than_one_interval() {
    let (fs, clock) = (SimFs::new(), Arc::new(AtomicU64::new(0)));
    let store = open(&fs, &clock);
    // One write a millisecond; nobody syncs but the writes themselves.
    for i in 0..1000u64 {
        clock.store(i, Ordering::Relaxed);
        store.set_at(INTERVAL, &i.to_be_bytes(), b"v").unwrap();
        if i % 97 == 0 {
            let left = after_power_cut(&fs);
            let kept = (0..=i).filter(|i| left.get(&i.to_be_bytes()).unwrap().is_some());
            let lost = i + 1 - kept.count() as u64;
            assert!(
                lost <= 100,
                "{lost} ms of acknowledged writes are lost at {i}"
            );
        }
    }
    let left = after_power_cut(&fs);
    assert!(left.len() >= 900, "it does sync: {}", left.len());
}

/// Time passes with every call to the disk: what a write waits for inside, for a full segment to be
/// sealed and the next one to be made, counts like any other wait.
#[test]
fn the_bound_holds_for_a_write_that_had_to_wait_for_a_segment() {
    let fs = SimFs::new();
    let disk = fs.clone();
    let now = move || Duration::from_millis(disk.log_len() as u64);
    let clock = now.clone();
    let store = testing::open_by_clock(fs.clone(), &options(), 1, clock).unwrap();
    let interval = Duration::from_millis(12);
    let mut acknowledged = Vec::new();
    for i in 0..120u64 {
        let level = Durability::Interval(interval);
        store.set_at(level, &i.to_be_bytes(), &[7; 5000]).unwrap();
        let at = now();
        acknowledged.push(at);
        let left = after_power_cut(&fs);
        let lost = (0..=i).find(|i| left.get(&i.to_be_bytes()).unwrap().is_none());
        let oldest = lost.map_or(at, |i| acknowledged[i as usize]);
        assert!(
            at - oldest <= interval,
            "lost from {oldest:?} on, at {at:?}"
        );
    }
    assert!(store.stats().segments.len() > 5, "segments were changed");
}

#[test]
fn a_write_of_another_level_is_not_held_up_by_an_interval_that_is_over() {
    let (fs, clock) = (SimFs::new(), Arc::new(AtomicU64::new(0)));
    let store = open(&fs, &clock);
    store.set_at(INTERVAL, b"a", b"1").unwrap();
    clock.store(500, Ordering::Relaxed);
    let before = store.stats().durable_lsn;
    store.set_at(Durability::Os, b"b", b"1").unwrap();
    assert_eq!(store.stats().durable_lsn, before);
    store.set_at(INTERVAL, b"c", b"1").unwrap();
    assert!(
        store.stats().durable_lsn > before,
        "the bound was kept first"
    );
}

#[test]
fn the_shortest_interval_counts() {
    let (fs, clock) = (SimFs::new(), Arc::new(AtomicU64::new(0)));
    let store = open(&fs, &clock);
    let long = Durability::Interval(Duration::from_secs(10));
    store.set_at(long, b"a", b"1").unwrap();
    store.set_at(INTERVAL, b"b", b"1").unwrap();
    let before = store.stats().durable_lsn;
    clock.store(99, Ordering::Relaxed);
    store.set_at(long, b"c", b"1").unwrap();
    assert_eq!(store.stats().durable_lsn, before);
    clock.store(100, Ordering::Relaxed);
    store.set_at(long, b"d", b"1").unwrap();
    assert!(store.stats().durable_lsn > before);
    assert!(after_power_cut(&fs).get(b"b").unwrap().is_some());
}

#[test]
fn a_failed_sync_of_an_interval_poisons_and_the_late_write_is_not_applied() {
    let (fs, clock) = (SimFs::new(), Arc::new(AtomicU64::new(0)));
    let store = open(&fs, &clock);
    store.set_at(INTERVAL, b"a", b"1").unwrap();
    clock.store(200, Ordering::Relaxed);
    fs.fail_call(Call::SyncData, 0, Fault::once(Errno::IO));
    let last = store.stats().last_lsn;
    let late = store.set_at(INTERVAL, b"b", b"1");
    assert!(matches!(late, Err(Error::Poisoned)), "{late:?}");
    assert_eq!(store.stats().last_lsn, last, "certainly not applied");
    assert!(matches!(store.get(b"a"), Err(Error::Poisoned)));
}

#[test]
fn a_batch_of_an_interval_is_whole_and_bounded_like_any_write() {
    let (fs, clock) = (SimFs::new(), Arc::new(AtomicU64::new(0)));
    let store = open(&fs, &clock);
    let mut batch = Batch::new();
    batch.set("a", "1").set("b", "2");
    store.write_at(INTERVAL, &batch).unwrap();
    assert_eq!(store.get(b"b").unwrap().unwrap(), b"2", "visible at return");
    assert_eq!(after_power_cut(&fs).len(), 0, "not yet durable");
    clock.store(100, Ordering::Relaxed);
    store.write_at(INTERVAL, &batch).unwrap();
    assert_eq!(after_power_cut(&fs).len(), 2);
}

#[test]
fn the_thread_of_an_interval_syncs_without_any_other_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let soon = store.with_durability(Durability::Interval(Duration::from_millis(20)));
    soon.set("a", "1").unwrap();
    let last = store.stats().last_lsn;
    let patience = std::time::Instant::now();
    while store.stats().durable_lsn < last {
        assert!(patience.elapsed() < Duration::from_secs(60), "nobody syncs");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!soon.close().unwrap().closed);
    assert!(store.close().unwrap().closed, "the thread ends");
}

#[test]
fn a_handle_of_another_level_is_the_same_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new()
        .durability(Durability::Os)
        .open(dir.path())
        .unwrap();
    store.set("a", "1").unwrap();
    assert_eq!(store.stats().durable_lsn, 0, "Os promises nothing");
    store
        .with_durability(Durability::Sync)
        .set("b", "2")
        .unwrap();
    assert_eq!(store.stats().durable_lsn, store.stats().last_lsn);
    store.set("b", "3").unwrap();
    assert!(store.stats().durable_lsn < store.stats().last_lsn);
    assert_eq!(store.get("b").unwrap().unwrap(), b"3");
}
