//! Keys that expire: exact on read, removed for good, and never in the way of an older or newer value.
//!
//! Time is what the test says it is; nothing here sleeps but for the store's own threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use kvs::testing::sim::{Image, SimFs};
use kvs::testing::{Engine, open};
use kvs::{Batch, Compaction, Durability, Error, Expiry, Options, SetOptions, Store, Ttl, Update};

/// A clock that is set by hand, in Unix milliseconds.
#[derive(Clone, Default)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn at(ms: u64) -> Self {
        let time = Self::default();
        time.set(ms);
        time
    }

    fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::SeqCst);
    }

    fn options(&self) -> Options {
        let time = self.clone();
        Options::new()
            .segment_bytes(64 << 10)
            .clock(move || UNIX_EPOCH + Duration::from_millis(time.0.load(Ordering::SeqCst)))
    }

    fn store(&self) -> Store {
        self.options().open_in_memory().unwrap()
    }

    fn engine(&self) -> Arc<Engine<SimFs>> {
        open(SimFs::new(), &self.sim_options(), 1).unwrap()
    }

    fn sim_options(&self) -> Options {
        self.options().shard_bits(2).compaction(Compaction::Manual)
    }
}

fn text(store: &Store, key: &str) -> Option<String> {
    let value = store.get(key).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Every way of reading says that the key is there, or that it is not.
fn is_there(store: &Store, key: &str) -> bool {
    let there = store.get(key).unwrap().is_some();
    assert_eq!(store.contains_key(key).unwrap(), there);
    assert_eq!(store.get_into(key, &mut Vec::new()).unwrap(), there);
    assert_eq!(store.get_many(&[key]).unwrap()[0].is_some(), there);
    assert_eq!(store.reader().get(key).unwrap().is_some(), there);
    assert_eq!(store.prefix(key).unwrap().count() == 1, there);
    assert_eq!(store.expires_at(key).unwrap().is_some(), there);
    assert_eq!(store.ttl(key).unwrap().is_some(), there);
    there
}

const LEVELS: [Durability; 3] = [
    Durability::Os,
    Durability::Interval(Duration::from_secs(60)),
    Durability::Sync,
];

#[test]
fn a_key_is_there_up_to_the_last_millisecond_before_it_expires() {
    for level in LEVELS {
        let time = Time::at(1_000);
        let store = time.store().with_durability(level);
        let options = SetOptions::new().ttl(Duration::from_millis(50));
        assert!(store.set_with("k", "v", &options).unwrap());
        assert_eq!(store.expires_at("k").unwrap(), Some(Expiry::At(1_050)));
        time.set(1_049);
        assert!(is_there(&store, "k"));
        let left = Duration::from_millis(1);
        assert_eq!(store.ttl("k").unwrap(), Some(Ttl::Left(left)));
        time.set(1_050);
        assert!(!is_there(&store, "k"));
        assert!(!store.remove("k").unwrap(), "nothing to remove");
        assert!(store.set_if_absent("k", "new").unwrap());
        assert_eq!(store.expires_at("k").unwrap(), Some(Expiry::Never));
        assert_eq!(store.ttl("k").unwrap(), Some(Ttl::Never));
    }
}

#[test]
fn setting_a_key_takes_its_expiry_away_unless_it_is_told_to_keep_it() {
    let time = Time::at(1_000);
    let store = time.store();
    let soon = SetOptions::new().expires_at(2_000);
    let expiry = |key: &str| store.expires_at(key).unwrap();
    for key in ["set", "keep", "again", "sum", "update", "swap", "batch"] {
        store.set_with(key, "1", &soon).unwrap();
    }
    store.set("set", "2").unwrap();
    assert_eq!(expiry("set"), Some(Expiry::Never));
    let keep = SetOptions::new().keep_ttl();
    store.set_with("keep", "2", &keep).unwrap();
    assert_eq!(expiry("keep"), Some(Expiry::At(2_000)));
    assert_eq!(text(&store, "keep").as_deref(), Some("2"));
    store.set_with("none", "2", &keep).unwrap();
    assert_eq!(expiry("none"), Some(Expiry::Never));
    let later = soon.ttl(Duration::from_millis(500));
    store.set_with("again", "2", &later).unwrap();
    assert_eq!(expiry("again"), Some(Expiry::At(1_500)), "the last word");
    assert_eq!(store.increment("sum", 4).unwrap(), 5);
    assert_eq!(expiry("sum"), Some(Expiry::At(2_000)));
    let set = |_: Option<&[u8]>| Update::Set(b"2".to_vec());
    store.fetch_update("update", set).unwrap();
    assert_eq!(expiry("update"), Some(Expiry::Never));
    assert!(
        store
            .compare_and_swap("swap", Some(b"1"), Some(b"2"))
            .unwrap()
    );
    assert_eq!(expiry("swap"), Some(Expiry::Never));
    let mut batch = Batch::new();
    batch.set("batch", "2");
    store.write(&batch).unwrap();
    assert_eq!(expiry("batch"), Some(Expiry::Never));
}

#[test]
fn conditions_hold_for_keys_that_are_there_now() {
    let time = Time::at(1_000);
    let store = time.store();
    let (absent, present) = (
        SetOptions::new().if_absent(),
        SetOptions::new().if_present(),
    );
    assert!(!store.set_with("k", "1", &present).unwrap());
    let lease = absent.expires_at(2_000);
    assert!(store.set_with("k", "1", &lease).unwrap());
    assert!(!store.set_with("k", "2", &lease).unwrap());
    assert!(store.set_with("k", "2", &present.keep_ttl()).unwrap());
    time.set(2_000);
    assert!(!store.set_with("k", "3", &present).unwrap());
    assert!(store.set_with("k", "3", &absent).unwrap());
    assert_eq!(text(&store, "k").as_deref(), Some("3"));
    let last = absent.if_present();
    assert!(store.set_with("k", "4", &last).unwrap(), "the last word");
}

#[test]
fn expire_and_persist_change_keys_that_are_there() {
    for level in LEVELS {
        let time = Time::at(1_000);
        let store = time.store().with_durability(level);
        assert!(!store.expire_at("k", 2_000).unwrap());
        assert!(!store.persist("k").unwrap());
        store.set("k", "v").unwrap();
        assert!(!store.persist("k").unwrap(), "it lives for ever already");
        assert!(store.expire_at("k", 2_000).unwrap());
        let last = store.stats().last_lsn;
        assert!(store.expire_at("k", 2_000).unwrap());
        assert_eq!(store.stats().last_lsn, last, "nothing to write");
        assert!(store.expire_in("k", Duration::from_millis(7)).unwrap());
        assert_eq!(store.expires_at("k").unwrap(), Some(Expiry::At(1_007)));
        assert!(store.persist("k").unwrap());
        assert_eq!(store.expires_at("k").unwrap(), Some(Expiry::Never));
        assert_eq!(text(&store, "k").as_deref(), Some("v"));
        assert!(store.expire_at("k", 1_500).unwrap());
        time.set(1_500);
        assert!(!store.persist("k").unwrap(), "too late");
        assert!(!store.expire_at("k", 2_000).unwrap());
        assert!(!is_there(&store, "k"));
    }
}

#[test]
fn a_time_that_is_over_removes_the_key() {
    let time = Time::at(1_000);
    let store = time.store();
    for over in [0, 1, 999, 1_000] {
        store.set("k", "v").unwrap();
        assert!(store.expire_at("k", over).unwrap());
        assert!(!is_there(&store, "k"));
        assert_eq!(store.len(), 0, "it was removed, not left to be found");
        store.set("k", "v").unwrap();
        let set = SetOptions::new().expires_at(over);
        assert!(store.set_with("k", "v", &set).unwrap());
        assert!(store.set_with("k", "v", &set.if_absent()).unwrap());
        assert_eq!(store.len(), 0);
        let mut batch = Batch::new();
        batch
            .set("k", "v")
            .set_with_expiry("k", "v", Expiry::At(over));
        batch.set_with_expiry("l", "v", Expiry::At(1_001));
        store.write(&batch).unwrap();
        assert!(!is_there(&store, "k") && is_there(&store, "l"));
        store.remove("l").unwrap();
    }
    let last = store.stats().last_lsn;
    let set = SetOptions::new().ttl(Duration::ZERO);
    assert!(store.set_with("nobody", "v", &set).unwrap());
    assert_eq!(store.stats().last_lsn, last, "nothing to remove");
}

#[test]
fn times_beyond_counting_are_the_last_and_lengths_are_checked() {
    let time = Time::at(u64::MAX / 2);
    let store = time.store();
    let set = SetOptions::new().ttl(Duration::MAX);
    store.set_with("k", "v", &set).unwrap();
    assert_eq!(store.expires_at("k").unwrap(), Some(Expiry::At(u64::MAX)));
    store.expire_in("k", Duration::MAX).unwrap();
    assert!(is_there(&store, "k"));
    let long = vec![0; kvs_format::KEY_BYTES_MAX + 1];
    for over in [SetOptions::new(), set, set.if_absent(), set.expires_at(0)] {
        let refused = store.set_with(&long, "v", &over);
        assert!(matches!(refused, Err(Error::KeyTooLong { .. })), "{over:?}");
    }
    let options = Options::new().default_ttl(Some(Duration::from_micros(999)));
    assert!(matches!(
        options.open_in_memory().err(),
        Some(Error::InvalidOption {
            option: "default_ttl",
            ..
        })
    ));
}

#[test]
fn a_default_ttl_holds_for_everything_that_says_nothing_else() {
    let time = Time::at(1_000);
    let options = time.options().default_ttl(Some(Duration::from_millis(100)));
    let store = options.open_in_memory().unwrap();
    store.set("set", "1").unwrap();
    store.set_if_absent("absent", "1").unwrap();
    store.increment("sum", 1).unwrap();
    store.compare_and_swap("swap", None, Some(b"1")).unwrap();
    store
        .set_with("keep", "1", &SetOptions::new().keep_ttl())
        .unwrap();
    let mut batch = Batch::new();
    batch.set("batch", "1");
    batch.set_with_expiry("never", "1", Expiry::Never);
    batch.set_with_expiry("own", "1", Expiry::At(5_000));
    store.write(&batch).unwrap();
    let ever = SetOptions::new().expiry(Expiry::Never);
    store.set_with("ever", "1", &ever).unwrap();
    let expiry = |key: &str| store.expires_at(key).unwrap().unwrap();
    for key in ["set", "absent", "sum", "swap", "keep", "batch"] {
        assert_eq!(expiry(key), Expiry::At(1_100), "{key}");
    }
    assert_eq!([expiry("never"), expiry("ever")], [Expiry::Never; 2]);
    assert_eq!(expiry("own"), Expiry::At(5_000));
    time.set(1_050);
    store.increment("sum", 1).unwrap();
    assert_eq!(expiry("sum"), Expiry::At(1_100), "it keeps its own");
    store.set("set", "2").unwrap();
    assert_eq!(expiry("set"), Expiry::At(1_150));
}

/// L-1: whatever the clock is set to, what has expired stays so, and the last write counts.
#[test]
fn l1_a_clock_that_jumps_brings_no_key_back_and_orders_no_writes() {
    let mut state = 1u64;
    let mut random = move |n: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % n
    };
    for _ in 0..40 {
        let time = Time::at(10_000);
        let store = time.engine();
        let mut latest = store.wall_clock_ms();
        // The value, and when it expires.
        let mut newest: [Option<(u64, u64)>; 4] = [None; 4];
        for step in 0..300u64 {
            let now = 5_000 + random(20_000);
            time.set(now);
            latest = latest.max(store.wall_clock_ms());
            assert_eq!(latest, store.wall_clock_ms());
            let key = random(4);
            let name = [key as u8];
            match random(10) {
                0..=4 => {
                    let at = [u64::MAX, 5_000 + random(25_000)][random(2) as usize];
                    let set = SetOptions::new().expires_at(at);
                    let value = step.to_be_bytes();
                    store.set_with(Durability::Os, &name, &value, &set).unwrap();
                    newest[key as usize] = Some((step, at));
                }
                5 => {
                    store.remove(&name).unwrap();
                    newest[key as usize] = None;
                }
                6 => store.rotate_now().unwrap(),
                7 => drop(store.compact_subset(random(16)).unwrap()),
                8 => drop(store.persist(Durability::Os, &name).map(|persisted| {
                    let alive = newest[key as usize].filter(|(_, at)| *at > latest);
                    assert_eq!(persisted, alive.is_some());
                    if let Some((step, _)) = alive {
                        // Never, as the store says; later than any time here, as this test does.
                        newest[key as usize] = Some((step, u64::MAX));
                        store.expire_at(Durability::Os, &name, u64::MAX).unwrap();
                    }
                })),
                _ => {}
            }
            for (key, newest) in newest.iter().enumerate() {
                let found = store.get(&[key as u8]).unwrap();
                let expected = newest.filter(|(_, at)| *at > latest);
                let expected = expected.map(|(step, _)| step.to_be_bytes());
                let expected = expected.as_ref().map(|value| &value[..]);
                assert_eq!(found.as_deref(), expected, "key {key} at {latest}");
            }
        }
    }
}

/// A set and an expire of the same key at the same time: the key has one of the two values, and
/// whoever came second is what counts. No set is undone.
#[test]
fn no_set_is_lost_between_expire_and_persist_of_all_levels() {
    let time = Time::at(1_000);
    let store = time.options().open_in_memory().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for level in LEVELS {
            let (store, stop) = (store.with_durability(level), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    store.expire_at("k", 1_000_000).unwrap();
                    store.persist("k").unwrap();
                }
            });
        }
        let compacted = store.clone();
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                compacted.compact().unwrap();
            }
        });
        let end = Instant::now() + Duration::from_millis(600);
        for i in 0u64.. {
            let level = LEVELS[i as usize % 3];
            let writer = store.with_durability(level);
            writer.set("k", i.to_be_bytes()).unwrap();
            assert_eq!(
                store.get("k").unwrap().as_deref(),
                Some(&i.to_be_bytes()[..])
            );
            if Instant::now() > end {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn segments(store: &Arc<Engine<SimFs>>) -> usize {
    store.stats().segments.len()
}

/// C-1 for time: the older value is in a segment that stays.
#[test]
fn what_has_expired_is_kept_as_a_tombstone_as_long_as_an_older_value_is() {
    let time = Time::at(1_000);
    let store = time.engine();
    store.set(b"k", b"older").unwrap();
    store.rotate_now().unwrap();
    let big = vec![7; 5_000];
    store.set_expiring(b"k", &big, 2_000).unwrap();
    store.set_expiring(b"alone", &big, 2_000).unwrap();
    store.rotate_now().unwrap();
    time.set(2_000);
    assert_eq!(store.len(), 2, "not yet reclaimed");
    let report = store.compact_subset(0b10).unwrap();
    assert_eq!((report.records_expired, report.tombstones_kept), (2, 1));
    assert!(report.bytes_after < 4_096 + 200, "values go: {report:?}");
    assert_eq!(store.len(), 0);
    assert!(store.get(b"k").unwrap().is_none());
    // Once both are in one step, nothing is left of them.
    let report = store.compact().unwrap();
    assert_eq!((report.tombstones_kept, report.bytes_after), (0, 0));
    assert!(store.get(b"k").unwrap().is_none());
}

/// What is written while a compaction is under way counts, whatever it wants to drop.
#[test]
fn a_key_that_is_set_while_its_expired_version_is_dropped_stays() {
    let time = Time::at(1_000);
    let store = Arc::new(time.store());
    for i in 0..3_000u32 {
        let options = SetOptions::new().expires_at(2_000);
        store.set_with(i.to_be_bytes(), [1; 400], &options).unwrap();
    }
    time.set(2_000);
    let mut next = 0u32;
    let writer = Arc::clone(&store);
    store
        .compact_with(|_| {
            for _ in 0..50 {
                writer.set((next % 3_000).to_be_bytes(), [2; 40]).unwrap();
                next += 7;
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let written: std::collections::BTreeSet<u32> =
        (0..next).step_by(7).map(|i| i % 3_000).collect();
    assert!(written.len() > 50, "it was written meanwhile");
    for i in 0..3_000u32 {
        let found = store.get(i.to_be_bytes()).unwrap();
        assert_eq!(found.is_some(), written.contains(&i), "{i}");
    }
    assert_eq!(store.len(), written.len() as u64);
}

fn image(fs: &SimFs) -> Image {
    fs.snapshot()
}

fn without_hints(image: &Image) -> Image {
    let mut bare = image.clone();
    for name in image.names() {
        if name.ends_with(".hint") {
            bare.remove(&name);
        }
    }
    bare
}

#[test]
fn hints_and_scans_tell_the_same_of_what_expires() {
    let time = Time::at(1_000);
    let fs = SimFs::new();
    let store = open(fs.clone(), &time.sim_options(), 1).unwrap();
    for i in 0..2_000u64 {
        let key = (i % 900).to_be_bytes();
        match i % 5 {
            0 => store.set(&key, &[1; 90]).unwrap(),
            1 if i % 400 == 1 => store.set_expiring(&key, &[2; 90], u64::MAX).unwrap(),
            _ => store
                .set_expiring(&key, &[3; 90], 5_000 + i * i % 7_919)
                .unwrap(),
        }
    }
    let in_process = store.expiring();
    assert!(in_process.len() > 2);
    // The sealed ones: what writing the hint told is what the hint tells.
    store.compact_subset(1).unwrap();
    store.close().unwrap();
    let open_image = |image: &Image| {
        let options = time.sim_options().read_only(true);
        open(SimFs::from_image(image), &options, 9).unwrap()
    };
    let image = image(&fs);
    let (hinted, scanned) = (open_image(&image), open_image(&without_hints(&image)));
    assert!(hinted.recovery().hints_used > 2 && scanned.recovery().hints_used == 0);
    assert_eq!(hinted.expiring(), scanned.expiring());
    assert!(hinted.expiring().len() > 2);
    // And both what the process knew that wrote it.
    let lives = |all: &[(u64, _, u64)]| -> Vec<_> { all.iter().map(|x| (x.0, x.2)).collect() };
    assert_eq!(lives(&store.expiring()), lives(&hinted.expiring()));
}

/// Never more than has expired; all of it in the end.
#[test]
fn what_is_known_to_have_expired_is_garbage_without_a_scan() {
    let time = Time::at(1_000);
    let fs = SimFs::new();
    let store = open(fs.clone(), &time.sim_options(), 1).unwrap();
    for i in 0..1_000u64 {
        let value = [1; 100];
        store
            .set_expiring(&i.to_be_bytes(), &value, 2_000 + i * 10)
            .unwrap();
    }
    store.close().unwrap();
    drop(store);
    let store = open(fs, &time.sim_options(), 2).unwrap();
    assert!(store.recovery().hints_used > 1);
    let record = 24 + 8 + 8 + 100u64;
    for now in [1_999, 2_500, 7_000, 11_000, 12_000, 20_000] {
        time.set(now);
        let truth = (0..1_000).filter(|i| 2_000 + i * 10 <= now).count() as u64
            * record.next_multiple_of(8);
        let known = store.stats().expired_bytes;
        assert!(known <= truth, "{known} of {truth} at {now}");
        let width = 10_000 / 63 + 1;
        let due = (0..1_000)
            .filter(|i| 2_000 + i * 10 + 2 * width <= now)
            .count() as u64;
        assert!(known >= due * record, "{known} of {truth} at {now}");
    }
    assert!(segments(&store) > 1);
    let report = store.compact().unwrap();
    assert_eq!((report.records_expired, report.bytes_after), (1_000, 0));
    assert_eq!(store.stats().expired_bytes, 0);
    assert_eq!(store.len(), 0);
}

/// Writes pairs that expire, and leaves the store alone: it shrinks by itself.
#[test]
fn a_store_whose_keys_expire_gives_their_space_back_by_itself() {
    for reopened in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let time = Time::at(1_000);
        let options = time.options().default_ttl(Some(Duration::from_secs(5)));
        let mut store = options.open(dir.path()).unwrap();
        for i in 0..6_000u32 {
            store.set(i.to_be_bytes(), [1; 1_000]).unwrap();
        }
        if reopened {
            store.close().unwrap();
            store = options.open(dir.path()).unwrap();
        }
        assert!(store.stats().disk_bytes > 5 << 20);
        time.set(7_000);
        let end = Instant::now() + Duration::from_secs(30);
        while store.stats().disk_bytes > 2 << 20 {
            assert!(Instant::now() < end, "{:?}", store.stats());
            std::thread::sleep(Duration::from_millis(20));
        }
        store.close().unwrap();
    }
}

#[test]
fn the_write_that_finds_that_much_has_expired_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let time = Time::at(1_000);
    let options = time.options().compaction(Compaction::Foreground);
    let store = options.open(dir.path()).unwrap();
    let soon = SetOptions::new().expires_at(5_000);
    for i in 0..6_000u32 {
        store.set_with(i.to_be_bytes(), [1; 1_000], &soon).unwrap();
    }
    assert_eq!(store.len(), 6_000);
    time.set(7_000);
    store.set("one", "more").unwrap();
    assert!(store.len() < 200, "{}", store.len());
    assert!(store.stats().disk_bytes < 2 << 20);
}

#[test]
fn closing_gives_back_what_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let time = Time::at(1_000);
    let options = time.options().close_budget(Duration::from_secs(20));
    let store = options.open(dir.path()).unwrap();
    let soon = SetOptions::new().expires_at(5_000);
    for i in 0..6_000u32 {
        store.set_with(i.to_be_bytes(), [1; 1_000], &soon).unwrap();
    }
    time.set(7_000);
    let report = store.close().unwrap();
    // By itself, or by the thread that had just looked.
    assert!(report.closed && report.undone.is_empty(), "{report:?}");
    let store = options.open(dir.path()).unwrap();
    assert!(store.stats().disk_bytes < 2 << 20, "{report:?}");
}

/// Every history of four writes to one key, each in a segment of its own, older values and versions
/// that expire mixed; every choice of segments to compact when all that expires has, and then the
/// others. The power is cut behind every call. At a clock before and after: an older value is never
/// there; the newest is, unless it has expired, or was dropped when it had.
///
/// `KVS_RESURRECTION=1` tries all of them instead of every eighth.
#[test]
#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
fn no_cut_of_a_compaction_brings_an_older_value_back_at_any_clock() {
    let (before, due, after) = (1_000, 5_000, 9_000);
    let every = std::env::var("KVS_RESURRECTION").ok();
    let every = every
        .and_then(|every| every.parse().ok())
        .unwrap_or(8)
        .max(1);
    let (mut all, mut cases, mut distinct) = (0u64, 0, 0);
    for history in 0..81u32 {
        let writes: Vec<u32> = (0..4).map(|step| history / 3u32.pow(step) % 3).collect();
        if !writes.contains(&1) {
            continue;
        }
        for mask in 1..16u64 {
            all += 1;
            if !all.is_multiple_of(every) {
                continue;
            }
            cases += 1;
            let time = Time::at(before);
            let fs = SimFs::new();
            let store = open(fs.clone(), &time.sim_options(), 1).unwrap();
            let mut newest = None;
            for (step, write) in writes.iter().enumerate() {
                let value = [step as u8; 10];
                newest = Some((value, *write == 1));
                match write {
                    0 => store.set(b"k", &value).unwrap(),
                    1 => store.set_expiring(b"k", &value, due).unwrap(),
                    _ => {
                        store.remove(b"k").unwrap();
                        newest = None;
                    }
                }
                store.rotate_now().unwrap();
            }
            store.flush().unwrap();
            let start = fs.log_len();
            time.set(after);
            store.compact_subset(mask).unwrap();
            store.compact_subset(!mask).unwrap();
            drop(store);
            let mut replay = fs.replay();
            replay.advance_to(start);
            let mut seen = std::collections::HashSet::new();
            loop {
                for survive in replay.survivals(0..0) {
                    let image = replay.image(survive);
                    if !seen.insert(image.digest()) {
                        continue;
                    }
                    distinct += 1;
                    for now in [before, after] {
                        let options = Time::at(now).sim_options();
                        let store = open(SimFs::from_image(&image), &options, 2).unwrap();
                        let found = store.get(b"k").unwrap();
                        let found = found.as_deref();
                        let fine = match newest {
                            None => found.is_none(),
                            Some((value, false)) => found == Some(&value[..]),
                            Some((value, true)) => {
                                found.is_none() || (now < due && found == Some(&value[..]))
                            }
                        };
                        assert!(
                            fine,
                            "{writes:?}, mask {mask:04b}, cut {}, {survive:?}, at {now}: {found:?}",
                            replay.cut()
                        );
                    }
                }
                if !replay.advance() {
                    break;
                }
            }
        }
    }
    println!("{cases} of {all} cases, {distinct} distinct images, each at two clocks");
}
