//! Schedules: the real engine, under a scheduler that runs one thread at a time and decides at every
//! lock which one goes on. Goal: group commit, what an answer rests on, poison, publishing and
//! retiring, preparing, sealing and closing hold in whatever order threads get on, and nobody waits
//! for ever: `shuttle` ends a run in which everybody does.
//!
//! Method: the engine over the simulated file system, with its threads, built with its locks from
//! `shuttle` (`src/sync.rs`). Many random schedules of each scenario, and as many that change threads
//! only a few times (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of
//! Finding Bugs", 2010). Nothing here is run without
//! `RUSTFLAGS="--cfg kvs_shuttle" cargo test --test schedules`; `.ci/run` does that.
//!
//! `KVS_SCHEDULES=n` tries n schedules of each kind per scenario instead of 300. A schedule that fails
//! is printed and can be run again with `shuttle::replay`.
#![cfg(kvs_shuttle)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvs::testing::sim::{Call, Errno, Fault, SimFs, Survive};
use kvs::testing::{self, Engine};
use kvs::{Batch, Cursor, Durability, Error, Options, Update};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};

const SYNC: Durability = Durability::Sync;
const OS: Durability = Durability::Os;

type Store = Arc<Engine<SimFs>>;

fn number(name: &str, default: usize) -> usize {
    let wanted = std::env::var(name).ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Tries schedules of `scenario`.
fn in_any_order(scenario: fn()) {
    let schedules = number("KVS_SCHEDULES", 300);
    let config = || {
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        config
    };
    Runner::new(RandomScheduler::new(schedules), config()).run(scenario);
    Runner::new(PctScheduler::new(3, schedules), config()).run(scenario);
}

fn options() -> Options {
    Options::new()
        .segment_bytes(64 << 10)
        .shard_bits(2)
        .compaction(kvs::Compaction::Manual)
}

/// A store with its threads, whose time goes on by a millisecond whenever it is asked for.
fn open(fs: &SimFs) -> Store {
    let time = AtomicU64::new(0);
    let clock = move || Duration::from_millis(time.fetch_add(1, Ordering::Relaxed));
    testing::open_with_threads(fs.clone(), &options(), 1, clock).unwrap()
}

/// What is left if the power goes now and nothing reached the disk but what was synced.
fn after_power_cut(fs: &SimFs) -> Store {
    let image = fs.image(fs.log_len(), Survive::SyncedOnly);
    testing::open(SimFs::from_image(&image), &options(), 2).unwrap()
}

fn get(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    store.get(key).unwrap().map(|value| value.to_vec())
}

fn pairs(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let pairs = store.pairs().unwrap().map(Result::unwrap);
    pairs
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect()
}

fn spawn(act: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(act)
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// B-1 and B-2: a group is closed before its sync begins, and nobody returns before it has ended.
#[test]
fn what_was_acknowledged_at_sync_survives() {
    in_any_order(|| {
        let fs = SimFs::new();
        let store = open(&fs);
        let writers = (0..3u8).map(|t| {
            let (fs, store) = (fs.clone(), store.clone());
            spawn(move || {
                for round in 0..2u8 {
                    store.set_at(SYNC, &[t], &[round]).unwrap();
                    assert_eq!(get(&store, &[t]), Some(vec![round]), "visible at return");
                    let left = after_power_cut(&fs);
                    assert_eq!(get(&left, &[t]), Some(vec![round]), "durable at return");
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        let other = {
            let store = store.clone();
            spawn(move || {
                store.set_at(OS, b"other", b"1").unwrap();
                store.rotate_now().unwrap();
                store.set_at(OS, b"other", b"2").unwrap();
            })
        };
        join(writers);
        join([other]);
        store.close().unwrap();
    });
}

/// An answer that says something about a version is given only when that version is durable.
#[test]
fn no_answer_rests_on_what_a_power_cut_takes_back() {
    in_any_order(|| {
        let fs = SimFs::new();
        let store = open(&fs);
        let writer = {
            let store = store.clone();
            spawn(move || store.set_at(SYNC, b"k", b"first").unwrap())
        };
        let absent = {
            let (fs, store) = (fs.clone(), store.clone());
            spawn(
                move || match store.set_if_absent(SYNC, b"k", b"absent").unwrap() {
                    true => assert_ne!(get(&store, b"k"), Some(b"mine".to_vec())),
                    false => assert!(get(&after_power_cut(&fs), b"k").is_some()),
                },
            )
        };
        let update = {
            let (fs, store) = (fs.clone(), store.clone());
            spawn(move || {
                // It writes only if there is nothing: what it was asked about last, it answers.
                let once = |old: Option<&[u8]>| match old {
                    None => Update::Set(b"mine".to_vec()),
                    Some(_) => Update::Keep,
                };
                store.fetch_update(SYNC, b"k", once).unwrap();
                assert!(get(&after_power_cut(&fs), b"k").is_some());
            })
        };
        join([writer, absent, update]);
        store.close().unwrap();
    });
}

/// Per key, what readers see follows the order of the writes, whatever their levels.
#[test]
fn a_write_of_a_lower_level_does_not_overtake_a_pending_one() {
    in_any_order(|| {
        let fs = SimFs::new();
        let store = open(&fs);
        let writers = [(0, SYNC), (1, OS), (2, SYNC)].map(|(t, level)| {
            let store = store.clone();
            spawn(move || {
                store.increment(level, b"n", 1).unwrap();
                let mut batch = Batch::new();
                batch.set("a", [t]).set("b", [t]);
                store.write_at(level, &batch).unwrap();
            })
        });
        let reader = {
            let store = store.clone();
            spawn(move || {
                let mut last = 0;
                for _ in 0..4 {
                    let seen = get(&store, b"n").map_or(0, |text| text[0] - b'0');
                    assert!(seen >= last, "it was {last} and is {seen}");
                    last = seen;
                    for [one, other] in [[b"a", b"b"], [b"b", b"a"]] {
                        if get(&store, one).is_some() {
                            assert!(get(&store, other).is_some(), "half a batch");
                        }
                    }
                    let mut pairs = pairs(&store);
                    assert_eq!(pairs.remove(&b"a"[..]), pairs.remove(&b"b"[..]));
                }
            })
        };
        join(writers);
        join([reader]);
        let shown = pairs(&store);
        assert_eq!(shown[&b"n"[..]], b"3");
        store.close().unwrap();
        assert_eq!(pairs(&after_power_cut(&fs)), shown, "as the log has it");
    });
}

/// B-3 and O12: one sync fails. Everybody hears of something, nobody who was told gets another write
/// in, and what was acknowledged at `Sync` is there.
#[test]
fn a_failed_sync_is_final_for_everybody() {
    in_any_order(|| {
        let fs = SimFs::new();
        let store = open(&fs);
        store.set_at(SYNC, b"old", b"1").unwrap();
        fs.fail_call(Call::SyncData, 1, Fault::once(Errno::IO));
        let writers = (0..3u8).map(|t| {
            let (fs, store) = (fs.clone(), store.clone());
            spawn(move || {
                for round in 0..3u8 {
                    let last = get_or_poisoned(&store, &[t]);
                    match store.set_at(SYNC, &[t], &[round]) {
                        Ok(()) => {
                            let left = after_power_cut(&fs);
                            assert_eq!(get(&left, &[t]), Some(vec![round]));
                        }
                        Err(told) => {
                            let again = store.set_at(OS, &[t], b"again");
                            assert!(matches!(again, Err(Error::Poisoned)), "{again:?}");
                            let read = get_or_poisoned(&store, &[t]);
                            match told {
                                Error::Poisoned => assert_eq!(read, last, "certainly not applied"),
                                _ => assert_eq!(read, None, "nobody knows what is there"),
                            }
                            return;
                        }
                    }
                }
            })
        });
        join(writers.collect::<Vec<_>>());
        assert_eq!(get(&store, b"old"), Some(b"1".to_vec()));
        assert!(store.close().is_err());
    });
}

/// `None` if the store refuses to tell.
fn get_or_poisoned(store: &Store, key: &[u8]) -> Option<Option<Vec<u8>>> {
    match store.get(key) {
        Ok(value) => Some(value.map(|value| value.to_vec())),
        Err(Error::Poisoned) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Publish and retire: whoever found a word finds its record, and keeps it, whatever is compacted,
/// unmapped, and mapped in its place.
#[test]
fn what_was_found_stays_while_its_segment_is_retired() {
    in_any_order(|| {
        let fs = SimFs::new();
        let store = open(&fs);
        for key in [b"a", b"b"] {
            store.set_at(OS, key, &[0; 900]).unwrap();
        }
        let compactor = {
            let store = store.clone();
            spawn(move || {
                for _ in 0..2 {
                    store.compact().unwrap();
                }
            })
        };
        let writer = {
            let store = store.clone();
            spawn(move || {
                for round in 1..4u8 {
                    store.set_at(OS, b"a", &[round; 900]).unwrap();
                    if round == 2 {
                        store.rotate_now().unwrap();
                    }
                }
            })
        };
        let readers = (0..2).map(|_| {
            let store = store.clone();
            spawn(move || {
                let reader = store.reader();
                let mut held = Vec::new();
                let mut copy = Vec::new();
                for _ in 0..3 {
                    for key in [b"a", b"b"] {
                        let value = store.get(key).unwrap().unwrap();
                        let slice = reader.get(key).unwrap().unwrap();
                        assert!(store.get_into(key, &mut copy).unwrap());
                        let (a, b, c) = (value[0], slice[0], copy[0]);
                        assert!(a <= b && b <= c, "{a}, then {b}, then {c}");
                        held.push((value, slice, a, b));
                    }
                    for (value, slice, a, b) in &held {
                        assert!(value.iter().all(|byte| byte == a) && value.len() == 900);
                        assert!(slice.iter().all(|byte| byte == b) && slice.len() == 900);
                    }
                }
            })
        });
        let readers: Vec<_> = readers.collect();
        join([compactor, writer]);
        join(readers);
        assert_eq!(get(&store, b"a"), Some(vec![3; 900]));
        assert_eq!(get(&store, b"b"), Some(vec![0; 900]));
        store.close().unwrap();
    });
}

/// A snapshot is whole whenever it is taken, and stays what it is, or is given up for good, while what
/// it looks at is retired.
#[test]
fn a_snapshot_is_whole_and_stays_or_is_given_up_for_good() {
    in_any_order(|| {
        let fs = SimFs::new();
        let little = options().pinned_bytes_max(70_000);
        let time = AtomicU64::new(0);
        let clock = move || Duration::from_millis(time.fetch_add(1, Ordering::Relaxed));
        let store = testing::open_with_threads(fs.clone(), &little, 1, clock).unwrap();
        let write = |store: &Store, level, round: u8| {
            let mut batch = Batch::new();
            batch.set("a", [round; 900]).set("b", [round; 900]);
            store.write_at(level, &batch).unwrap();
        };
        write(&store, OS, 0);
        let writers = [(1, OS), (2, SYNC)].map(|(t, level)| {
            let store = store.clone();
            spawn(move || {
                for round in [t, t + 2] {
                    write(&store, level, round);
                    store.set_at(OS, b"filler", &[t; 30_000]).unwrap();
                }
            })
        });
        let compactor = {
            let store = store.clone();
            spawn(move || (0..2).for_each(|_| drop(store.compact().unwrap())))
        };
        let readers = (0..2).map(|_| {
            let store = store.clone();
            spawn(move || {
                let (mut first, mut gone) = (None, false);
                let snapshot = store.snapshot().unwrap();
                for _ in 0..3 {
                    let read = || -> kvs::Result<_> {
                        let (a, b) = (snapshot.get("a")?.unwrap(), snapshot.get("b")?.unwrap());
                        let pairs: kvs::Result<Vec<_>> = snapshot.iter().collect();
                        let short = pairs?.into_iter().filter(|(key, _)| key.len() == 1);
                        let mut values: Vec<_> = short.map(|(_, value)| value).collect();
                        values.extend([a, b]);
                        Ok(values)
                    };
                    match read() {
                        Ok(values) => {
                            assert!(!gone, "it came back");
                            let round = *first.get_or_insert(values[0][0]);
                            let whole = |value: &kvs::Value| **value == [round; 900];
                            assert!(values.len() == 4 && values.iter().all(whole), "torn");
                        }
                        Err(Error::SnapshotExpired { .. }) => gone = true,
                        Err(error) => panic!("{error}"),
                    }
                    thread::yield_now();
                }
            })
        });
        let readers: Vec<_> = readers.collect();
        join(writers);
        join([compactor]);
        join(readers);
        store.close().unwrap();
    });
}

/// A walk shows what stays exactly once, whatever is overwritten and moved between and during its calls.
#[test]
fn a_walk_meets_what_stays_exactly_once() {
    in_any_order(|| {
        let fs = SimFs::new();
        let store = open(&fs);
        for key in 0..6u8 {
            store.set_at(OS, &[key], &[key; 500]).unwrap();
        }
        let writer = {
            let store = store.clone();
            spawn(move || {
                for key in [0, 3, 7, 5] {
                    store.set_at(OS, &[key], &[key; 20_000]).unwrap();
                }
                store.remove_at(OS, &[7]).unwrap();
            })
        };
        let compactor = {
            let store = store.clone();
            spawn(move || (0..2).for_each(|_| drop(store.compact().unwrap())))
        };
        let walker = {
            let store = store.clone();
            spawn(move || {
                let (mut came, mut cursor) = (Vec::new(), Cursor::START);
                loop {
                    let (next, pairs) = store.scan_pairs(cursor, 1).unwrap();
                    for (key, value) in pairs {
                        assert!(value.iter().all(|byte| *byte == key[0]));
                        came.push(key[0]);
                    }
                    if next.is_end() {
                        break;
                    }
                    cursor = next;
                }
                came.retain(|key| *key != 7);
                came.sort_unstable();
                assert_eq!(came, [0, 1, 2, 3, 4, 5]);
            })
        };
        join([writer, compactor, walker]);
        store.close().unwrap();
    });
}

/// Prepare, seal, close: whoever comes while the store closes is served or refused; what was
/// acknowledged is there afterwards, and the close was a clean one.
#[test]
fn closing_waits_for_nobody_and_loses_nothing() {
    in_any_order(|| {
        let fs = SimFs::new();
        let store = open(&fs);
        let interval = Durability::Interval(Duration::from_millis(8));
        let writers = [SYNC, OS, interval]
            .into_iter()
            .enumerate()
            .map(|(t, level)| {
                let store = store.clone();
                thread::spawn(move || {
                    let mut acknowledged = None;
                    for round in 0..3u8 {
                        // More than half of a segment: the next one is prepared.
                        match store.set_at(level, &[t as u8], &vec![round; 25_000]) {
                            Ok(()) => acknowledged = Some(round),
                            Err(Error::Closed) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    match store.flush() {
                        Ok(()) | Err(Error::Closed) => acknowledged,
                        Err(error) => panic!("{error}"),
                    }
                })
            });
        let writers: Vec<_> = writers.collect();
        thread::yield_now();
        store.close().unwrap();
        let acknowledged: Vec<_> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        let left = after_power_cut(&fs);
        assert!(left.recovery().clean, "{}", left.recovery());
        for (t, round) in acknowledged.into_iter().enumerate() {
            let found = get(&left, &[t as u8]).map(|value| value[0]);
            assert_eq!(found, round, "writer {t}");
        }
    });
}

/// A load beside writers of its keys at both levels, and beside compaction: readers see all of it or
/// nothing, and what the store then shows is what opening it shows.
#[test]
fn a_load_is_one_step_for_everybody() {
    in_any_order(|| {
        let fs = SimFs::new();
        let store = open(&fs);
        for key in [b"a", b"b", b"c", b"d"] {
            store.set_at(OS, key, b"old").unwrap();
        }
        let loader = {
            let store = store.clone();
            spawn(move || {
                let keys: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"e", b"a"];
                let pairs = keys.map(|key| Ok::<_, Error>((key, b"new")));
                store.load(pairs.into_iter()).unwrap();
                assert_eq!(get(&store, b"d").unwrap(), b"new");
            })
        };
        let writer = {
            let (fs, store) = (fs.clone(), store.clone());
            spawn(move || {
                store.set_at(SYNC, b"a", b"mine").unwrap();
                let removed = store.remove_at(OS, b"b").unwrap();
                assert!(removed && get(&store, b"b").is_none_or(|b| b == b"new"));
                let mut batch = Batch::new();
                batch.remove(b"x").set(b"c", b"mine");
                store.write_at(OS, &batch).unwrap();
                store.remove_at(SYNC, b"c").unwrap();
                assert_ne!(get(&after_power_cut(&fs), b"c"), Some(b"mine".to_vec()));
            })
        };
        let other = {
            let store = store.clone();
            spawn(move || {
                store.compact().unwrap();
                let seen = pairs(&store);
                let new = |key: &[u8]| seen.get(key).is_some_and(|value| value == b"new");
                assert_eq!(new(b"d"), new(b"e"), "{seen:?}");
                store.rotate_now().unwrap();
                store.compact().unwrap();
            })
        };
        join([loader, writer, other]);
        let (now, books) = (pairs(&store), books(&store));
        store.close().unwrap();
        drop(store);
        let again = testing::open(fs.clone(), &options(), 3).unwrap();
        assert_eq!(pairs(&again), now);
        assert_eq!(self::books(&again), books);
    });
}

/// Keys, live and dead bytes.
fn books(store: &Store) -> (u64, u64, u64) {
    let stats = store.stats();
    (stats.keys, stats.live_bytes, stats.dead_bytes)
}

/// The thread of an interval syncs what nobody else does, and ends when the store closes.
#[test]
fn an_interval_is_kept_by_its_own_thread() {
    in_any_order(|| {
        let fs = SimFs::new();
        let store = open(&fs);
        let interval = Durability::Interval(Duration::from_millis(6));
        store.set_at(interval, b"k", b"1").unwrap();
        while store.stats().durable_lsn == 0 {
            thread::yield_now();
        }
        assert!(get(&after_power_cut(&fs), b"k").is_some());
        store.close().unwrap();
    });
}
