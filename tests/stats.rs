//! What a store counts, exactly: known work is done and every number is compared with what it must be.

use std::ops::ControlFlow;
use std::time::Duration;

use kvs::testing;
use kvs::testing::sim::{Call, Errno, Fault, SimFs};
use kvs::{Batch, Compaction, Durability, Options, Store};

/// Bytes of a record with a key of 3 bytes and a value of `value`.
fn record(value: u64) -> u64 {
    (24 + 3 + value).next_multiple_of(8)
}

/// LINK, at the start of each segment.
const LINK: u64 = 48;

fn options() -> Options {
    Options::new()
        .compaction(Compaction::Manual)
        .durability(Durability::Os)
}

fn key(i: u64) -> [u8; 3] {
    let bytes = i.to_be_bytes();
    [bytes[5], bytes[6], bytes[7]]
}

#[test]
fn writes_are_counted_with_their_bytes() {
    let store = options().open_in_memory().unwrap();
    let nothing = store.stats();
    assert_eq!((nothing.written_records, nothing.appended_bytes), (0, 0));
    for i in 0..10 {
        store.set(key(i), [1; 5]).unwrap();
    }
    store.set(key(0), [2; 100]).unwrap();
    assert!(store.remove(key(1)).unwrap());
    // Needless: nothing is written.
    assert!(!store.remove(key(1)).unwrap());
    assert!(!store.set_if_absent(key(2), [3; 5]).unwrap());
    let mut batch = Batch::new();
    batch.set(key(20), [4; 7]).remove(key(3));
    store.write(&batch).unwrap();
    let stats = store.stats();
    assert_eq!(stats.written_records, 10 + 1 + 1 + 2);
    assert_eq!(stats.written_bytes, 10 * 8 + 103 + 3 + 10 + 3);
    let records = 10 * record(5) + record(100) + record(0) + record(7) + record(0);
    let batch_head = 40;
    assert_eq!(stats.appended_bytes, LINK + records + batch_head);
    assert_eq!(stats.keys, 9);
    let live = 7 * record(5) + record(100) + record(7);
    assert_eq!((stats.live_bytes, stats.dead_bytes), (live, records - live));
    let all = |of: fn(&kvs::SegmentStats) -> u64| stats.segments.iter().map(of).sum::<u64>();
    assert_eq!(all(|s| s.live_bytes), live);
    assert_eq!(all(|s| s.dead_bytes), records - live);
    assert_eq!(all(|s| s.bytes), 4096 + stats.appended_bytes);
    // There is a manifest besides.
    let manifest = stats.disk_bytes - all(|s| s.allocated_bytes);
    assert!((4096..64 << 10).contains(&manifest), "{manifest}");
    assert_eq!(all(|s| s.allocated_bytes), 4 << 20);
}

#[test]
fn every_file_of_a_store_on_disk_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().segment_bytes(64 << 10).open(dir.path()).unwrap();
    for i in 0..1000 {
        store.set(key(i), [1; 200]).unwrap();
    }
    store.close().unwrap();
    let store = Store::open_read_only(dir.path()).unwrap();
    let stats = store.stats();
    let segments: u64 = stats.segments.iter().map(|s| s.allocated_bytes).sum();
    assert!(segments >= 1000 * record(200) && stats.disk_bytes > segments);
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(dir.path()).unwrap();
    let on_disk: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().blocks() * 512)
        .sum();
    assert_eq!(stats.disk_bytes, on_disk);
    assert_eq!(stats.written_records, 0, "by this life");
}

/// Who only looks sees the reserve, too.
#[test]
fn the_reserve_is_there_for_who_only_looks() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    for i in 0..6000 {
        store.set(key(i), [1; 1000]).unwrap();
    }
    store.close().unwrap();
    let store = options().open(dir.path()).unwrap();
    let reserve = store.stats().reserve_bytes;
    assert!(reserve >= 1 << 20 && !store.stats().reserve_lent);
    store.close().unwrap();
    let store = Store::open_read_only(dir.path()).unwrap();
    assert_eq!(store.stats().reserve_bytes, reserve);
    assert!(!store.stats().reserve_lent);
}

#[test]
fn each_sync_of_a_lone_writer_is_a_group_of_one() {
    let store = options()
        .durability(Durability::Sync)
        .open_in_memory()
        .unwrap();
    for i in 0..5 {
        store.set(key(i), [1; 5]).unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.groups.count, stats.groups.writers), (5, 5));
    assert_eq!((stats.groups.largest, stats.groups.waiting), (1, 0));
    let mut by_size = [0; kvs::GROUP_SIZES];
    by_size[0] = 5;
    assert_eq!(stats.groups.by_size, by_size);
    assert_eq!((stats.syncs, stats.group_commits), (5, 5));
    assert!(stats.sync_time > Duration::ZERO);
}

#[test]
fn groups_are_told_apart_by_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let store = options()
        .durability(Durability::Sync)
        .open(dir.path())
        .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for i in 0..40 {
                    store.set(key(thread * 100 + i), [1; 5]).unwrap();
                }
            });
        }
    });
    let groups = store.stats().groups;
    assert_eq!(groups.by_size.iter().sum::<u64>(), groups.count);
    assert!(
        groups.count <= groups.writers && groups.writers <= 320,
        "{groups:?}"
    );
    assert!((2..=8).contains(&groups.largest), "{groups:?}");
    // The mean lies where the distribution says.
    let bounds = |at_most: bool| -> u64 {
        let size = |power: usize| (1u64 << power << u32::from(at_most)) - u64::from(at_most);
        (0..)
            .zip(groups.by_size)
            .map(|(power, n)| n * size(power))
            .sum()
    };
    assert!(
        (bounds(false)..=bounds(true)).contains(&groups.writers),
        "{groups:?}"
    );
    let power = groups.largest.ilog2() as usize;
    assert!(groups.by_size[power] > 0 && groups.by_size[power + 1..].iter().all(|n| *n == 0));
    store.close().unwrap();
}

#[test]
fn compaction_is_counted_by_what_it_read_wrote_and_gave_back() {
    let store = options().segment_bytes(64 << 10).open_in_memory().unwrap();
    for round in 0..3u8 {
        for i in 0..500 {
            store.set(key(i), [round; 100]).unwrap();
        }
    }
    let before = store.stats();
    assert_eq!(before.compaction, kvs::CompactionStats::default());
    let ended = store.compact_with(|_| ControlFlow::Break(())).unwrap();
    assert!(ended.cancelled);
    let stats = store.stats().compaction;
    assert_eq!((stats.steps, stats.steps_ended), (0, 1));
    assert_eq!(stats.bytes_written, 0);
    let read = stats.bytes_read;
    let report = store.compact().unwrap();
    let stats = store.stats().compaction;
    assert_eq!((stats.steps, stats.steps_ended), (1, 1));
    // All but the first page of each.
    let records = report.bytes_before - 4096 * report.segments_before;
    assert_eq!(stats.bytes_read - read, records);
    assert_eq!(stats.bytes_written, report.bytes_after);
    assert_eq!(
        stats.bytes_given_back,
        report.bytes_before - report.bytes_after
    );
    assert!(stats.time > Duration::ZERO);
    assert_eq!((stats.brakes, stats.rest_time), (0, Duration::ZERO));
    // What compaction moves was not written by anybody.
    assert_eq!(store.stats().written_records, before.written_records);
}

#[test]
fn pins_are_counted_until_they_are_dropped() {
    let store = options().segment_bytes(64 << 10).open_in_memory().unwrap();
    for i in 0..1000 {
        store.set(key(i), [1; 100]).unwrap();
    }
    let pins = || store.stats().pins;
    assert_eq!(pins(), 0);
    let first = store.get(key(0)).unwrap().unwrap();
    let again = first.clone();
    let last = store.get(key(999)).unwrap().unwrap();
    assert_eq!(pins(), 3);
    let stats = store.stats();
    let pinned: Vec<u64> = stats
        .segments
        .iter()
        .map(|s| s.pins)
        .filter(|p| *p > 0)
        .collect();
    assert_eq!(pinned, [2, 1]);
    drop(last);
    assert_eq!(pins(), 2);
    let bytes = stats.segments[0].bytes;
    for i in 0..500 {
        store.set(key(i), [2; 100]).unwrap();
    }
    store.compact().unwrap();
    let stats = store.stats();
    assert_eq!((stats.pins, stats.pinned_segments), (0, 1));
    assert!(stats.pinned_bytes >= bytes);
    drop((first, again));
    assert_eq!(
        (store.stats().pinned_segments, store.stats().pinned_bytes),
        (0, 0)
    );
}

#[test]
fn a_store_that_refuses_to_write_says_so() {
    let fs = SimFs::new();
    let store = testing::open(fs.clone(), &options().shard_bits(2), 1).unwrap();
    store.set(b"a", b"1").unwrap();
    store.flush().unwrap();
    let good = store.stats();
    assert!(!good.poisoned);
    assert_eq!((good.syncs, good.groups.count), (1, 1));
    store.set(b"b", b"2").unwrap();
    fs.fail_call(Call::SyncData, 0, Fault::once(Errno::IO));
    assert!(store.flush().is_err());
    let bad = store.stats();
    assert!(bad.poisoned);
    // It was tried, and made nothing durable.
    assert_eq!((bad.syncs, bad.groups.count), (2, 1));
    assert_eq!(bad.durable_lsn, good.durable_lsn);
}

#[cfg(feature = "latency")]
#[test]
fn one_call_in_sixteen_is_measured_and_every_sync_and_step() {
    let store = options().open_in_memory().unwrap();
    assert_eq!(store.latency(), kvs::LatencyReport::default());
    for i in 0..1600 {
        store.set(key(i), [1; 100]).unwrap();
    }
    for _ in 0..2 {
        for i in 0..1600 {
            assert!(store.get(key(i)).unwrap().is_some());
        }
    }
    for i in 0..320 {
        assert!(store.remove(key(i)).unwrap());
    }
    let before = store.latency();
    assert_eq!(before.put.samples, 100);
    assert_eq!(before.get.samples, 200);
    assert_eq!(before.remove.samples, 20);
    assert_eq!(before.sync.samples, store.stats().syncs);
    assert_eq!(before.compaction_step.samples, 0);
    for latency in [before.put, before.get, before.remove] {
        assert!(latency.min > Duration::ZERO && latency.min <= latency.p50);
        assert!(latency.p50 <= latency.p90 && latency.p90 <= latency.p99);
        assert!(latency.p99 <= latency.p999 && latency.p999 <= latency.max);
        assert!(latency.min <= latency.mean && latency.mean <= latency.max);
    }
    store.compact().unwrap();
    let after = store.latency();
    assert_eq!(
        after.compaction_step.samples,
        store.stats().compaction.steps
    );
    assert_eq!(after.sync.samples, store.stats().syncs);
    assert!(after.sync.samples > before.sync.samples);
}
