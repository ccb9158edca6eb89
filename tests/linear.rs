//! Linearisability. Goal: every call on a key takes effect at one moment between its start and its
//! end, at every level and with levels mixed on one key; a batch and an iterator do so for all their
//! keys at once; and neither rotation nor compaction nor a sync is to be seen in any answer.
//!
//! Method: threads call everything there is on six keys and record start, end and answer, while other
//! threads fill segments of the smallest size, compact and flush. A checker looks for an order of the
//! calls that explains all answers: per key for single keys, over all keys of a group for batches and
//! iterators. The checker is checked with histories that have no such order, and against trying all
//! orders of short histories.
//!
//! `KVS_LINEAR_SECONDS=n` records for n seconds per test instead of four.

#[path = "linear/checker.rs"]
mod checker;
#[path = "linear/history.rs"]
mod history;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvs::{Batch, Durability, Options, Store, Update, Value};
// Not that of the standard library, whose waiting the thread sanitizer does not see.
use parking_lot::Mutex;

use checker::linearise;
use history::{Call, Op, State};

const LEVELS: [Durability; 3] = [
    Durability::Os,
    Durability::Interval(Duration::from_millis(2)),
    Durability::Sync,
];

/// Keys that batches touch, and keys that only single operations do.
const JOINT: usize = 3;
const KEYS: usize = 6;
const WORKERS: usize = 4;
/// Calls of a worker between two moments at which everybody waits.
const CALLS: usize = 60;

fn key(id: usize) -> String {
    format!("key-{id}")
}

fn seconds() -> u64 {
    let wanted = std::env::var("KVS_LINEAR_SECONDS").ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(4)
}

/// splitmix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

fn number(bytes: &[u8]) -> i64 {
    let text = std::str::from_utf8(bytes).expect("nobody wrote anything but digits");
    text.parse().expect("nobody wrote anything but digits")
}

fn numbers(value: Option<Value>) -> Option<i64> {
    value.as_deref().map(number)
}

/// What all threads share.
struct Recorder {
    store: Store,
    clock: AtomicU64,
    calls: Mutex<Vec<Call>>,
    /// Makes every value one of a kind.
    values: AtomicU64,
}

impl Recorder {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// A value that nobody else writes, nor gets to by adding one a few times.
    fn fresh(&self) -> i64 {
        self.values.fetch_add(1, Ordering::Relaxed) as i64 * 100_000
    }

    /// Calls, and records; the call may answer several questions about the same moment or moments.
    fn record(&self, thread: usize, call: impl FnOnce() -> Vec<Op>) {
        let start = self.now();
        let ops = call();
        let end = self.now();
        let mut calls = self.calls.lock();
        calls.extend(ops.into_iter().map(|op| Call {
            op,
            thread,
            start,
            end,
        }));
    }

    fn work(&self, thread: usize, random: &mut Random) {
        let handles = LEVELS.map(|level| self.store.with_durability(level));
        let mut reader = self.store.reader();
        let mut last = None;
        for i in 0..CALLS {
            let store = &handles[random.below(LEVELS.len())];
            let id = random.below(KEYS);
            let name = key(id);
            let new = self.fresh();
            let maybe = (random.below(4) > 0).then_some(new);
            let text = new.to_string();
            let choice = random.below(16);
            if i % 16 == 0 {
                reader.refresh();
            }
            self.record(thread, || {
                let op = match choice {
                    0 | 1 => Op::Read {
                        key: id,
                        seen: numbers(store.get(&name).unwrap()),
                    },
                    2 | 3 => Op::Read {
                        key: id,
                        seen: reader.get(&name).unwrap().map(number),
                    },
                    4 => return self.read_all(),
                    5 | 6 => {
                        store.set(&name, &text).unwrap();
                        Op::Set { key: id, new }
                    }
                    7 => Op::Remove {
                        key: id,
                        found: store.remove(&name).unwrap(),
                    },
                    8 => Op::SetIfAbsent {
                        key: id,
                        new,
                        stored: store.set_if_absent(&name, &text).unwrap(),
                    },
                    9 | 10 => {
                        let expected: Option<i64> = last;
                        let (old, next) = (
                            expected.map(|n| n.to_string()),
                            maybe.map(|n| n.to_string()),
                        );
                        let [old, next] =
                            [&old, &next].map(|text| text.as_deref().map(str::as_bytes));
                        Op::Swap {
                            key: id,
                            expected,
                            new: maybe,
                            swapped: store.compare_and_swap(&name, old, next).unwrap(),
                        }
                    }
                    11 => {
                        let update = |_: Option<&[u8]>| match maybe {
                            Some(new) => Update::Set(new.to_string().into_bytes()),
                            None => Update::Remove,
                        };
                        Op::Replace {
                            key: id,
                            new: maybe,
                            old: numbers(store.fetch_update(&name, update).unwrap()),
                        }
                    }
                    12 | 13 => Op::Add {
                        key: id,
                        by: 1,
                        sum: store.increment(&name, 1).unwrap(),
                    },
                    _ => {
                        let mut batch = Batch::new();
                        let mut writes = Vec::new();
                        for id in 0..JOINT {
                            match maybe.filter(|_| id % 2 == 0 || choice == 14) {
                                Some(new) => batch.set(key(id), (new + id as i64).to_string()),
                                None => batch.remove(key(id)),
                            };
                            let is_set = maybe.is_some() && (id % 2 == 0 || choice == 14);
                            writes.push((id, is_set.then_some(new + id as i64)));
                        }
                        store.write(&batch).unwrap();
                        Op::Batch { writes }
                    }
                };
                if let Op::Read { seen, .. } = &op {
                    last = *seen;
                }
                vec![op]
            });
        }
    }

    /// Every key looked up on its own.
    fn read_all(&self) -> Vec<Op> {
        let keys: Vec<String> = (0..KEYS).map(key).collect();
        let values = self.store.get_many(&keys).unwrap();
        let reads = values.into_iter().enumerate();
        reads
            .map(|(key, value)| Op::Read {
                key,
                seen: numbers(value),
            })
            .collect()
    }

    /// What a snapshot shows, by whatever way and however late, was so at one moment while it was being
    /// made; so is what an iterator shows.
    fn snapshot(&self, thread: usize) {
        let start = self.now();
        let snapshot = self.store.snapshot().unwrap();
        let end = self.now();
        let keys: Vec<String> = (0..KEYS).map(key).collect();
        let seen: State = keys
            .iter()
            .map(|key| numbers(snapshot.get(key).unwrap()))
            .collect();
        // Meanwhile much is overwritten, and some of it compacted.
        std::thread::sleep(Duration::from_micros(200));
        let together = snapshot.get_many(&keys).unwrap();
        let again: State = together.into_iter().map(numbers).collect();
        assert_eq!(seen, again, "a snapshot changed");
        self.calls.lock().push(Call {
            op: Op::Snapshot { seen },
            thread,
            start,
            end,
        });
        let start = self.now();
        let iter = self.store.iter().unwrap();
        let end = self.now();
        let mut seen: State = vec![None; KEYS];
        for pair in iter {
            let (name, value) = pair.unwrap();
            let id = (0..KEYS).find(|id| key(*id).as_bytes() == &*name);
            if let Some(id) = id {
                assert!(seen[id].is_none(), "an iterator gave a key twice");
                seen[id] = Some(number(&value));
            }
        }
        self.calls.lock().push(Call {
            op: Op::Snapshot { seen },
            thread,
            start,
            end,
        });
    }

    /// One round: everybody calls, then everything is quiet.
    fn round(&self, seed: u64) -> Vec<Call> {
        let (working, ready) = (AtomicU64::new(WORKERS as u64), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for thread in 0..WORKERS {
                let mut random = Random(seed.wrapping_mul(1000) + thread as u64);
                let (working, ready) = (&working, &ready);
                threads.push(scope.spawn(move || {
                    while !ready.load(Ordering::Acquire) {
                        std::hint::spin_loop();
                    }
                    let done = Done(working);
                    self.work(thread, &mut random);
                    drop(done);
                }));
            }
            let busy = || working.load(Ordering::Acquire) > 0;
            threads.push(scope.spawn(move || {
                while busy() {
                    self.snapshot(WORKERS);
                    std::thread::sleep(Duration::from_micros(300));
                }
            }));
            let busy = || working.load(Ordering::Acquire) > 0;
            threads.push(scope.spawn(move || {
                let store = self.store.with_durability(Durability::Os);
                for i in 0u64.. {
                    store
                        .set(format!("filler-{}", i % 8), vec![i as u8; 3000])
                        .unwrap();
                    match i % 64 {
                        20 => drop(self.store.compact().unwrap()),
                        40 => self.store.flush().unwrap(),
                        _ => std::thread::yield_now(),
                    }
                    if !busy() {
                        break;
                    }
                }
            }));
            ready.store(true, Ordering::Release);
            // Joined one by one: the thread sanitizer does not see how a scope waits for its threads.
            for thread in threads {
                thread.join().unwrap();
            }
        });
        self.record(WORKERS + 1, || self.read_all());
        std::mem::take(&mut *self.calls.lock())
    }
}

/// A worker that panicked must not keep the others waiting.
struct Done<'a>(&'a AtomicU64);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// What is wrong with the answers of one round, if anything.
fn wrong(initial: &State, calls: &[Call]) -> Option<String> {
    for id in 0..KEYS {
        let of_key = |call: &Call| {
            let op = call.op.of_key(id)?;
            Some(Call { op, ..call.clone() })
        };
        let calls: Vec<Call> = calls.iter().filter_map(of_key).collect();
        let initial = vec![initial[id]];
        if let Err(stuck) = linearise(&initial, &calls) {
            return Some(explain(&format!("key {id}"), &initial, &calls, &stuck));
        }
    }
    let of_group = |call: &Call| {
        let op = match &call.op {
            Op::Snapshot { seen } => Op::Snapshot {
                seen: seen[..JOINT].to_vec(),
            },
            op => (0..JOINT)
                .any(|id| op.of_key(id).is_some())
                .then(|| op.clone())?,
        };
        Some(Call { op, ..call.clone() })
    };
    let calls: Vec<Call> = calls.iter().filter_map(of_group).collect();
    let initial = initial[..JOINT].to_vec();
    let stuck = linearise(&initial, &calls).err()?;
    Some(explain("the keys of batches", &initial, &calls, &stuck))
}

fn explain(what: &str, initial: &State, calls: &[Call], stuck: &checker::Stuck) -> String {
    let mut text = match stuck.undecided {
        true => format!("{what}: undecided after the longest order below\n"),
        false => format!("{what}: no order explains the answers; from {initial:?} this far:\n"),
    };
    let line = |i: &usize| {
        let Call {
            op,
            thread,
            start,
            end,
        } = &calls[*i];
        format!("  {start}..{end} thread {thread}: {op:?}\n")
    };
    let first = stuck.order.len().saturating_sub(12);
    text.extend(stuck.order[first..].iter().map(line));
    let mut left: Vec<usize> = (0..calls.len())
        .filter(|i| !stuck.order.contains(i))
        .collect();
    left.sort_by_key(|i| calls[*i].start);
    text.push_str("and then none of\n");
    text.extend(left.iter().take(12).map(line));
    text
}

#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
fn answers_are_linearisable(name: &str, store: Store) {
    let started = Instant::now();
    let recorder = Recorder {
        store,
        clock: AtomicU64::new(0),
        calls: Mutex::new(Vec::new()),
        values: AtomicU64::new(1),
    };
    let mut state: State = vec![None; KEYS];
    let (mut rounds, mut calls) = (0, 0);
    while rounds < 3 || started.elapsed() < Duration::from_secs(seconds()) {
        let history = recorder.round(rounds);
        rounds += 1;
        calls += history.len();
        if let Some(what) = wrong(&state, &history) {
            panic!("{name}, round {rounds}: {what}");
        }
        for call in &history[history.len() - KEYS..] {
            let Op::Read { key, seen } = call.op else {
                panic!("a round ends with a look at every key");
            };
            state[key] = seen;
        }
    }
    println!(
        "{name}: {calls} calls in {rounds} rounds, {:.1?}",
        started.elapsed()
    );
}

fn options() -> Options {
    Options::new().segment_bytes(64 << 10)
}

#[test]
fn answers_are_linearisable_on_a_file_system() {
    let dir = tempfile::tempdir().unwrap();
    answers_are_linearisable("file system", options().open(dir.path()).unwrap());
}

#[test]
fn answers_are_linearisable_in_memory() {
    answers_are_linearisable("memory", options().open_in_memory().unwrap());
}

#[test]
fn answers_are_linearisable_without_checks_of_reads() {
    let options = options().verify_reads(false);
    answers_are_linearisable("unverified", options.open_in_memory().unwrap());
}

fn call(start: u64, end: u64, op: Op) -> Call {
    Call {
        op,
        thread: 0,
        start,
        end,
    }
}

fn read(key: usize, seen: Option<i64>) -> Op {
    Op::Read { key, seen }
}

fn set(key: usize, new: i64) -> Op {
    Op::Set { key, new }
}

fn add(sum: i64) -> Op {
    Op::Add { key: 0, by: 1, sum }
}

fn swap(expected: Option<i64>, new: Option<i64>, swapped: bool) -> Op {
    Op::Swap {
        key: 0,
        expected,
        new,
        swapped,
    }
}

fn batch(new: i64) -> Op {
    let writes = vec![(0, Some(new)), (1, Some(new))];
    Op::Batch { writes }
}

#[test]
fn the_checker_refuses_what_no_order_explains() {
    let absent = |new, stored| Op::SetIfAbsent {
        key: 0,
        new,
        stored,
    };
    let remove = |found| Op::Remove { key: 0, found };
    let replace = |new, old| Op::Replace {
        key: 0,
        new: Some(new),
        old,
    };
    let both = |a, b| Op::Snapshot { seen: vec![a, b] };
    let refused: [(&str, Vec<Call>); 11] = [
        (
            "a read after a write returned sees what was before",
            vec![call(0, 1, set(0, 1)), call(2, 3, read(0, None))],
        ),
        (
            "two reads in a row see a write under way come and go",
            vec![
                call(0, 9, set(0, 1)),
                call(1, 2, read(0, Some(1))),
                call(3, 4, read(0, None)),
            ],
        ),
        (
            "a value that nobody wrote",
            vec![call(0, 3, set(0, 1)), call(1, 2, read(0, Some(2)))],
        ),
        (
            "two increments count once",
            vec![call(0, 3, add(1)), call(1, 2, add(1))],
        ),
        (
            "two are the first",
            vec![call(0, 3, absent(1, true)), call(1, 2, absent(2, true))],
        ),
        (
            "two swap the same version",
            vec![
                call(0, 5, swap(None, Some(1), true)),
                call(1, 4, swap(None, Some(2), true)),
            ],
        ),
        (
            "a swap fails although its version is there all the time",
            vec![
                call(0, 1, set(0, 1)),
                call(2, 5, swap(Some(1), Some(2), false)),
                call(3, 4, read(0, Some(1))),
            ],
        ),
        (
            "a key is removed twice",
            vec![
                call(0, 1, set(0, 1)),
                call(2, 5, remove(true)),
                call(3, 4, remove(true)),
            ],
        ),
        (
            "two replace the same version",
            vec![
                call(0, 1, set(0, 1)),
                call(2, 5, replace(2, Some(1))),
                call(3, 4, replace(3, Some(1))),
            ],
        ),
        (
            "an iterator shows half of a batch",
            vec![call(0, 3, batch(7)), call(1, 2, both(Some(7), None))],
        ),
        (
            "reads one after the other see half of a batch",
            vec![
                call(0, 9, batch(7)),
                call(1, 2, read(0, Some(7))),
                call(3, 4, read(1, None)),
            ],
        ),
    ];
    for (why, history) in refused {
        let stuck = linearise(&vec![None; 2], &history).expect_err(why);
        assert!(!stuck.undecided, "{why}");
    }
}

#[test]
fn the_checker_accepts_what_an_order_explains() {
    let accepted: [Vec<Call>; 4] = [
        Vec::new(),
        // The one that began last is the first.
        vec![
            call(0, 9, add(2)),
            call(1, 8, add(3)),
            call(2, 7, add(1)),
            call(10, 11, read(0, Some(3))),
        ],
        vec![
            call(0, 9, set(0, 1)),
            call(1, 2, read(0, None)),
            call(3, 4, read(0, Some(1))),
            call(5, 6, swap(Some(1), None, true)),
            call(7, 8, swap(Some(1), Some(1), false)),
        ],
        vec![
            call(0, 9, batch(7)),
            call(1, 2, read(0, None)),
            call(3, 4, read(1, Some(7))),
            call(5, 6, read(0, Some(7))),
        ],
    ];
    for history in accepted {
        linearise(&vec![None; 2], &history).unwrap();
    }
}

/// All orders that respect time, one after the other.
fn some_order_explains(state: &State, left: &[Call]) -> bool {
    left.is_empty()
        || (0..left.len()).any(|i| {
            let is_first = left.iter().all(|call| call.end > left[i].start);
            let (mut state, mut rest) = (state.clone(), left.to_vec());
            let call = rest.remove(i);
            is_first && call.op.apply(&mut state) && some_order_explains(&state, &rest)
        })
}

#[test]
fn the_checker_agrees_with_trying_all_orders() {
    let mut random = Random(7);
    let mut verdicts = [0u32; 2];
    for _ in 0..20_000 {
        let mut times: Vec<u64> = (0..12).collect();
        for i in (1..times.len()).rev() {
            times.swap(i, random.below(i + 1));
        }
        let calls: Vec<Call> = times
            .chunks(2)
            .map(|pair| {
                let mut value = || (random.below(3) > 0).then(|| random.below(3) as i64);
                let (a, b) = (value(), value());
                let op = match random.below(6) {
                    0 => read(0, a),
                    1 => read(1, a),
                    2 => set(random.below(2), random.below(3) as i64),
                    3 => batch(random.below(3) as i64),
                    4 => add(random.below(3) as i64),
                    _ => swap(a, b, random.below(2) == 0),
                };
                call(pair[0].min(pair[1]), pair[0].max(pair[1]), op)
            })
            .collect();
        let initial = vec![None; 2];
        let expected = some_order_explains(&initial, &calls);
        verdicts[usize::from(expected)] += 1;
        assert_eq!(linearise(&initial, &calls).is_ok(), expected, "{calls:?}");
    }
    assert!(
        verdicts.iter().all(|n| *n > 500),
        "both happen: {verdicts:?}"
    );
}
