//! Everything at once: threads that write at every level, one key, a batch or a bulk load at a time,
//! keys that expire, snapshots, and compaction that starts by itself and by force; and kills.
//!
//! Each thread has keys of its own and says when a call has returned. Of what a thread did, all that it
//! said must be there after a kill, whatever the level, and the one call that was under way wholly
//! or not at all. What it reads back itself, and in snapshots, it compares as it goes.
//!
//! The store's clock is the round: what expires is then known without looking at a clock.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use kvs::{Batch, Durability, Expiry, Options, SEGMENT_BYTES_MIN, SetOptions, Store};

use super::{
    Evidence, Kill, Random, assert_no_leftovers, describe, newest_merged, seed, start_and_kill,
};
use tempfile::TempDir;

const CHILD: &str = "KVS_KILL_MIXED_CHILD";
const CHILD_TEST: &str = "mixed::the_child_works_until_it_is_killed";
const THREADS: u8 = 4;
const KEYS: u64 = 30;
/// Milliseconds that the store's clock goes on by from round to round.
const ROUND_MS: u64 = 1_000;
const EPOCH_MS: u64 = 1_000_000_000_000;

/// A value and when it expires.
type State = BTreeMap<Vec<u8>, (Vec<u8>, Expiry)>;

/// A key's new value with its end, or its removal.
type Change = (Vec<u8>, Option<(Vec<u8>, Expiry)>);

#[derive(Debug)]
enum Operation {
    /// Applied whole: new values of keys with their ends, or removals.
    Write(Vec<Change>, Durability),
    /// The same, by a bulk load.
    Load(Vec<Change>),
    Flush,
    Compact,
    Snapshot,
}

fn key(thread: u8, id: u64) -> Vec<u8> {
    match id {
        0 => vec![thread; 1000],
        id => format!("{thread} key {id}").into_bytes(),
    }
}

fn value(random: &mut Random, thread: u8, i: u64) -> Vec<u8> {
    let len = match random.below(300) {
        0..2 => SEGMENT_BYTES_MIN + random.below(9_000),
        2..12 => 0,
        12..220 => random.below(400),
        _ => random.below(6_000),
    };
    let number = (i << 8 | u64::from(thread)).to_le_bytes();
    number.into_iter().cycle().take(len as usize).collect()
}

/// Operation `i` of a thread when the clock shows `now`.
fn operation(seed: u64, thread: u8, i: u64, now: u64) -> Operation {
    let number = i.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ u64::from(thread) << 56;
    let mut random = Random(seed ^ number);
    let level = match random.below(3) {
        0 => Durability::Os,
        1 => Durability::Interval(Duration::from_millis(20)),
        _ => Durability::Sync,
    };
    let change = |random: &mut Random| {
        let key = key(thread, random.below(KEYS));
        let state = match random.below(10) {
            0 | 1 => None,
            2..5 => {
                // Over already, within this round, or in one to come.
                let at = now + random.below(8) * ROUND_MS - ROUND_MS / 2;
                let kept = (at > now).then(|| value(random, thread, i));
                kept.map(|value| (value, Expiry::At(at)))
            }
            _ => Some((value(random, thread, i), Expiry::Never)),
        };
        (key, state)
    };
    match random.below(200) {
        0 if thread == 0 => Operation::Compact,
        0..4 => Operation::Flush,
        4..8 => Operation::Snapshot,
        8..11 => {
            let ids = 0..KEYS / 2;
            let pairs = ids.map(|id| {
                let value = value(&mut random, thread, i);
                (key(thread, id * 2), Some((value, Expiry::Never)))
            });
            Operation::Load(pairs.collect())
        }
        11..40 => Operation::Write((0..4).map(|_| change(&mut random)).collect(), level),
        _ => Operation::Write(vec![change(&mut random)], level),
    }
}

/// What is left of it at `now`.
fn visible(state: &State, now: u64) -> State {
    let visible = state.iter().filter(|(_, (_, expiry))| match expiry {
        Expiry::Never => true,
        Expiry::At(at) => *at > now,
    });
    visible.map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn apply(operation: &Operation, state: &mut State) {
    if let Operation::Write(changes, _) | Operation::Load(changes) = operation {
        for (key, new) in changes {
            match new {
                Some(new) => drop(state.insert(key.clone(), new.clone())),
                None => drop(state.remove(key)),
            }
        }
    }
}

fn options(now: u64) -> Options {
    let clock = move || std::time::UNIX_EPOCH + Duration::from_millis(now);
    Options::new().segment_bytes(SEGMENT_BYTES_MIN).clock(clock)
}

/// The keys of one thread, by `get`.
fn own(thread: u8, get: impl Fn(&[u8]) -> Option<(Vec<u8>, Expiry)>) -> State {
    let keys = (0..KEYS).map(|id| key(thread, id));
    keys.filter_map(|key| get(&key).map(|state| (key, state)))
        .collect()
}

fn in_store(store: &Store, key: &[u8]) -> Option<(Vec<u8>, Expiry)> {
    let value = store.get(key).unwrap()?.to_vec();
    Some((value, store.expires_at(key).unwrap().unwrap()))
}

fn act(store: &Store, operation: &Operation) {
    match operation {
        Operation::Flush => store.flush().unwrap(),
        Operation::Compact => drop(store.compact().unwrap()),
        Operation::Load(pairs) => {
            let pairs = pairs.iter().filter_map(|(key, new)| {
                let (value, _) = new.as_ref()?;
                Some((key, value))
            });
            store.load(pairs).unwrap();
        }
        Operation::Write(changes, level) => {
            let store = store.with_durability(*level);
            match &changes[..] {
                [(key, None)] => drop(store.remove(key).unwrap()),
                [(key, Some((value, Expiry::Never)))] => store.set(key, value).unwrap(),
                [(key, Some((value, expiry)))] => {
                    let set = SetOptions::new().expiry(*expiry);
                    assert!(store.set_with(key, value, &set).unwrap());
                }
                changes => {
                    let mut batch = Batch::new();
                    for (key, new) in changes {
                        match new {
                            Some((value, expiry)) => batch.set_with_expiry(key, value, *expiry),
                            None => batch.remove(key),
                        };
                    }
                    store.write(&batch).unwrap();
                }
            }
        }
        Operation::Snapshot => unreachable!("it needs to know what it should see"),
    }
}

/// Not a test by itself: what the parent starts. Does nothing without its orders.
#[test]
fn the_child_works_until_it_is_killed() {
    let Ok(orders) = std::env::var(CHILD) else {
        return;
    };
    let mut fields = orders.splitn(4, ' ');
    let mut number = || fields.next().unwrap().parse::<u64>().unwrap();
    let (seed, now) = (number(), number());
    let firsts = fields
        .next()
        .unwrap()
        .split(',')
        .map(|n| n.parse().unwrap());
    let firsts: Vec<u64> = firsts.collect();
    let store = options(now).open(fields.next().unwrap()).unwrap();
    std::thread::scope(|scope| {
        for (thread, first) in (0..THREADS).zip(firsts) {
            let store = store.clone();
            scope.spawn(move || work(&store, seed, thread, first, now));
        }
    });
}

fn work(store: &Store, seed: u64, thread: u8, first: u64, now: u64) {
    let mut mine = own(thread, |key| in_store(store, key));
    for i in first.. {
        let operation = operation(seed, thread, i, now);
        match &operation {
            Operation::Snapshot => {
                let snapshot = store.snapshot().unwrap();
                let seen = own(thread, |key| {
                    let value = snapshot.get(key).unwrap()?.to_vec();
                    Some((value, mine.get(key)?.1))
                });
                assert!(
                    seen == visible(&mine, now),
                    "in the snapshot of {thread}.{i}"
                );
            }
            operation => act(store, operation),
        }
        // One write call, hence whole or not at all.
        let line = format!("ack {thread}.{i}\n");
        io::stderr().write_all(line.as_bytes()).expect("a parent");
        apply(&operation, &mut mine);
        if let Operation::Write(changes, _) | Operation::Load(changes) = &operation {
            for (key, _) in changes {
                let wanted = mine.get(key).cloned();
                assert!(in_store(store, key) == wanted, "read back by {thread}.{i}");
            }
        }
    }
}

/// What the store has of each thread's keys, twice over.
fn found(store: &Store) -> Vec<State> {
    let mut all: Vec<State> = (0..THREADS)
        .map(|thread| own(thread, |key| in_store(store, key)))
        .collect();
    let mut count = 0;
    for pair in store.snapshot().unwrap().iter() {
        let (key, value) = pair.unwrap();
        let holds = |state: &State| state.get(&*key).is_some_and(|(v, _)| **v == *value);
        assert!(
            all.iter_mut().any(|state| holds(state)),
            "only in iteration"
        );
        count += 1;
    }
    assert_eq!(count, all.iter().map(State::len).sum::<usize>());
    all
}

fn difference(found: &State, wanted: &State) -> String {
    let keys = found.keys().chain(wanted.keys());
    let differ = keys.filter(|key| found.get(*key) != wanted.get(*key));
    let say = |state: &State, key: &Vec<u8>| {
        let value = state.get(key);
        let text = describe(value.map(|(value, _)| &value[..]));
        format!("{text} {:?}", value.map(|(_, expiry)| expiry))
    };
    let lines = differ.take(4).map(|key| {
        let (found, wanted) = (say(found, key), say(wanted, key));
        format!("{}: {found} instead of {wanted}", key.escape_ascii())
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What a thread has done, by the journal.
#[derive(Default)]
struct Done {
    count: u64,
    state: State,
}

#[expect(clippy::print_stdout, reason = "what a soak has done is worth telling")]
#[test]
fn nothing_acknowledged_is_lost_with_everything_at_once() {
    let cycles = std::env::var("KVS_KILL_CYCLES").map_or(25, |n| n.parse().unwrap());
    let seed = seed();
    let evidence = Evidence {
        seed,
        dir: TempDir::new().unwrap(),
    };
    let dir = evidence.dir.path().join("store");
    let mut random = Random(seed);
    let mut done: Vec<Done> = (0..THREADS).map(|_| Done::default()).collect();
    let (mut kills, mut barren) = (0u64, 0u64);
    let (mut compactions, mut acknowledged) = (0u64, 0u64);
    let mut merged = None;
    for round in 0u64.. {
        if kills == cycles {
            break;
        }
        let now = EPOCH_MS + round * ROUND_MS;
        let opening = round % 5 == 4;
        let kill = match opening {
            true => Kill::WhileOpening(Duration::from_micros(random.below(15_000))),
            false => {
                let most = if round % 5 == 3 { 150_000 } else { 30_000 };
                Kill::WhileWriting(Duration::from_micros(1_000 + random.below(most)))
            }
        };
        let firsts = done.iter().map(|done| done.count.to_string());
        let firsts = firsts.collect::<Vec<_>>().join(",");
        let orders = format!("{seed} {now} {firsts} {}", dir.display());
        let journal: Vec<_> = (0..THREADS).map(|_| Mutex::new(0u64)).collect();
        let take = |number: &str| {
            let (thread, i) = number.split_once('.').unwrap();
            let thread = thread.parse::<usize>().unwrap();
            let mut more = journal[thread].lock().unwrap();
            let expected = done[thread].count + *more;
            assert_eq!(i, expected.to_string(), "in order, none left out");
            *more += 1;
        };
        start_and_kill(CHILD_TEST, (CHILD, &orders), kill, take);
        let journal: Vec<u64> = journal
            .into_iter()
            .map(|n| n.into_inner().unwrap())
            .collect();
        acknowledged += journal.iter().sum::<u64>();
        if !opening {
            // A machine may be too busy for a child to get anywhere in time, but not again and again.
            match journal.iter().sum::<u64>() {
                0 => barren += 1,
                _ => kills += 1,
            }
            assert!(barren <= 3 + cycles / 50, "{barren} kills met no writes");
        }
        let read_only = round % 2 == 1;
        let store = options(now).read_only(read_only).open(&dir).unwrap();
        let recovery = store.recovery();
        assert!(!recovery.incomplete, "round {round}: {recovery}");
        assert_eq!(recovery.dropped_segments, 0, "round {round}: {recovery}");
        for (thread, found) in (0..).zip(found(&store)) {
            let done = &mut done[usize::from(thread)];
            for _ in 0..journal[usize::from(thread)] {
                apply(&operation(seed, thread, done.count, now), &mut done.state);
                done.count += 1;
            }
            let without = visible(&done.state, now);
            // What was under way: it is never tried again.
            let open = operation(seed, thread, done.count, now);
            done.count += 1;
            if found == without {
                continue;
            }
            apply(&open, &mut done.state);
            let with = visible(&done.state, now);
            assert!(
                found == with,
                "round {round}, thread {thread}, {} done: {}\nor, if {open:?} happened: {}",
                done.count - 1,
                difference(&found, &without),
                difference(&found, &with)
            );
        }
        compactions += u64::from(newest_merged(&store) > merged);
        if round % 10 == 0 {
            assert_eq!(store.verify().unwrap().damage, [], "round {round}");
        }
        merged = newest_merged(&store);
        let segments = store.stats().segments.len();
        store.close().unwrap();
        if !read_only {
            check_files(&dir, segments);
        }
    }
    assert!(
        compactions >= cycles / 50,
        "only {compactions} kills met compaction"
    );
    println!(
        "seed {seed}: {kills} kills under load, {acknowledged} acknowledged operations of {THREADS} \
         threads, {compactions} kills with compaction before them, lost: 0"
    );
}

/// Closing may compact, hence leave fewer.
fn check_files(dir: &Path, segments: usize) {
    assert_no_leftovers(dir, segments + 2);
}
