//! Lists of calls given to several threads at once.
//!
//! Of keys that belong to one thread alone each answer is known, whatever the others do. Of shared ones an
//! order of all calls is looked for that explains all answers, and what is left at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use kvs::{Batch, Store, Update, Value};
use kvs_model::Level;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;

use crate::checker::linearise;
use crate::history::{Call, Op, State};
use crate::{config, options};

/// Keys that all threads use, and keys of each of them alone.
const SHARED: usize = 3;
const OWN: usize = 2;
const THREADS: usize = 3;

/// What a thread does; keys are numbers within a group.
#[derive(Clone, Debug)]
enum Act {
    Read(usize),
    Set(usize),
    Remove(usize),
    IfAbsent(usize),
    /// Expects what this thread read last; removes if false.
    Swap(usize, bool),
    Replace(usize, bool),
    Add(usize, i64),
    /// Sets all keys of the group, or removes those whose bit is set.
    Batch(u8),
    Snapshot,
    Flush,
    Compact,
    At(Level),
}

/// An act, and whether it is done to the thread's own keys.
type Task = (bool, Act);

fn act() -> impl Strategy<Value = Act> {
    let id = || 0..SHARED;
    let level = prop_oneof![Just(Level::Os), Just(Level::Short), Just(Level::Sync)];
    prop_oneof![
        6 => id().prop_map(Act::Read),
        6 => id().prop_map(Act::Set),
        3 => id().prop_map(Act::Remove),
        3 => id().prop_map(Act::IfAbsent),
        4 => (id(), weighted(0.8, Just(()))).prop_map(|(id, new)| Act::Swap(id, new.is_some())),
        3 => (id(), any::<bool>()).prop_map(|(id, new)| Act::Replace(id, new)),
        4 => (id(), 1i64..5).prop_map(|(id, by)| Act::Add(id, by)),
        4 => any::<u8>().prop_map(Act::Batch),
        3 => Just(Act::Snapshot),
        1 => Just(Act::Flush),
        1 => Just(Act::Compact),
        1 => level.prop_map(Act::At),
    ]
}

fn number(value: &Value) -> i64 {
    let text = std::str::from_utf8(value).expect("nobody wrote anything but digits");
    text.parse().expect("nobody wrote anything but digits")
}

/// Keys that belong together.
#[derive(Clone, Copy)]
struct Group<'a> {
    name: &'a str,
    len: usize,
}

impl Group<'_> {
    fn key(&self, id: usize) -> String {
        format!("{}-{}", self.name, id % self.len)
    }

    fn all(&self, get: impl Fn(&str) -> Option<Value>) -> State {
        let keys = (0..self.len).map(|id| self.key(id));
        keys.map(|key| get(&key).as_ref().map(number)).collect()
    }
}

struct Shared {
    store: Store,
    clock: AtomicU64,
    values: AtomicU64,
    calls: Mutex<Vec<Call>>,
}

impl Shared {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// What nobody else writes, nor gets to by adding.
    fn fresh(&self) -> i64 {
        (self.values.fetch_add(1, Ordering::Relaxed) as i64 + 1) * 100_000
    }

    /// Does it, and what it answered.
    fn act(&self, store: &Store, group: Group<'_>, act: &Act, last: Option<i64>) -> Option<Op> {
        let new = self.fresh();
        let text = new.to_string();
        let of = |wanted: &bool| wanted.then_some(new);
        Some(match act {
            Act::Read(id) => Op::Read {
                key: id % group.len,
                seen: store.get(group.key(*id)).unwrap().as_ref().map(number),
            },
            Act::Set(id) => {
                store.set(group.key(*id), &text).unwrap();
                let key = id % group.len;
                Op::Set { key, new }
            }
            Act::Remove(id) => Op::Remove {
                key: id % group.len,
                found: store.remove(group.key(*id)).unwrap(),
            },
            Act::IfAbsent(id) => Op::SetIfAbsent {
                key: id % group.len,
                new,
                stored: store.set_if_absent(group.key(*id), &text).unwrap(),
            },
            Act::Swap(id, sets) => {
                let expected = last.map(|n| n.to_string().into_bytes());
                let next = sets.then(|| text.clone().into_bytes());
                let key = group.key(*id);
                let swapped = store.compare_and_swap(key, expected.as_deref(), next.as_deref());
                Op::Swap {
                    key: id % group.len,
                    expected: last,
                    new: of(sets),
                    swapped: swapped.unwrap(),
                }
            }
            Act::Replace(id, sets) => {
                let old = store.fetch_update(group.key(*id), |_: Option<&[u8]>| match sets {
                    true => Update::Set(text.clone().into_bytes()),
                    false => Update::Remove,
                });
                Op::Replace {
                    key: id % group.len,
                    new: of(sets),
                    old: old.unwrap().as_ref().map(number),
                }
            }
            Act::Add(id, by) => Op::Add {
                key: id % group.len,
                by: *by,
                sum: store.increment(group.key(*id), *by).unwrap(),
            },
            Act::Batch(mask) => {
                let mut batch = Batch::new();
                let writes: Vec<(usize, Option<i64>)> = (0..group.len)
                    .map(|id| (id, (mask >> id & 1 == 0).then_some(new + id as i64)))
                    .collect();
                for (id, value) in &writes {
                    match value {
                        Some(value) => batch.set(group.key(*id), value.to_string()),
                        None => batch.remove(group.key(*id)),
                    };
                }
                store.write(&batch).unwrap();
                Op::Batch { writes }
            }
            Act::Snapshot => {
                let snapshot = store.snapshot().unwrap();
                let seen = group.all(|key| snapshot.get(key).unwrap());
                Op::Snapshot { seen }
            }
            Act::Flush => {
                store.flush().unwrap();
                return None;
            }
            Act::Compact => {
                store.compact().unwrap();
                return None;
            }
            Act::At(_) => return None,
        })
    }

    /// A thread's list.
    fn work(&self, thread: usize, tasks: &[Task]) -> Result<(), String> {
        let name = format!("own-{thread}");
        let own = Group {
            name: &name,
            len: OWN,
        };
        let (mut known, mut last): (State, _) = (vec![None; OWN], [None; 2]);
        let mut store = self.store.clone();
        for (is_own, act) in tasks {
            if let Act::At(level) = act {
                store = self.store.with_durability(level.durability());
            }
            let group = if *is_own { own } else { SHARED_GROUP };
            let start = self.now();
            let done = self.act(&store, group, act, last[usize::from(*is_own)]);
            let end = self.now();
            let Some(op) = done else { continue };
            if let Op::Read { seen, .. } = &op {
                last[usize::from(*is_own)] = *seen;
            }
            if *is_own {
                if !op.apply(&mut known) {
                    return Err(format!("{op:?} of keys of its own that were {known:?}"));
                }
                continue;
            }
            let call = Call {
                op,
                thread,
                start,
                end,
            };
            self.calls.lock().unwrap().push(call);
        }
        let left = own.all(|key| self.store.get(key).unwrap());
        match left == known {
            true => Ok(()),
            false => Err(format!("its own keys are {left:?}, not {known:?}")),
        }
    }
}

const SHARED_GROUP: Group<'static> = Group {
    name: "shared",
    len: SHARED,
};

/// There is an order of the calls, on that many keys, that explains all answers.
fn explained(keys: usize, calls: &[Call]) -> Result<(), String> {
    let line = |call: &Call| {
        let Call {
            op,
            thread,
            start,
            end,
        } = call;
        format!("{start} to {end}, thread {thread}: {op:?}")
    };
    linearise(&vec![None; keys], calls).map_err(|stuck| {
        let calls: Vec<String> = calls.iter().map(line).collect();
        format!("no order explains it ({stuck:?}):\n{}", calls.join("\n"))
    })
}

/// Runs the lists side by side; what cannot be explained.
fn run(lists: &[Vec<Task>]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let wall = Arc::new(AtomicU64::new(crate::START_MS));
    let shared = Shared {
        store: options(&wall).open(dir.path()).unwrap(),
        clock: AtomicU64::new(0),
        values: AtomicU64::new(0),
        calls: Mutex::default(),
    };
    let barrier = Barrier::new(lists.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = lists
            .iter()
            .enumerate()
            .map(|(thread, tasks)| {
                let (shared, barrier) = (&shared, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    shared.work(thread, tasks)
                })
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.collect::<Result<(), String>>()
    })?;
    let seen = SHARED_GROUP.all(|key| shared.store.get(key).unwrap());
    let (start, end) = (shared.now(), shared.now());
    let mut calls = shared.calls.into_inner().unwrap();
    let thread = THREADS;
    calls.push(Call {
        op: Op::Snapshot { seen: seen.clone() },
        thread,
        start,
        end,
    });
    // Each key alone, which says more of what is wrong, and all at once.
    for id in 0..SHARED {
        let of_key = |call: &Call| {
            let op = call.op.of_key(id)?;
            Some(Call { op, ..call.clone() })
        };
        let calls: Vec<Call> = calls.iter().filter_map(of_key).collect();
        explained(1, &calls).map_err(|why| format!("key {id}: {why}"))?;
    }
    explained(SHARED, &calls)?;
    shared.store.close().unwrap();
    let again = options(&wall).open(dir.path()).unwrap();
    match SHARED_GROUP.all(|key| again.get(key).unwrap()) == seen {
        true => Ok(()),
        false => Err("closed and opened, it shows something else".to_owned()),
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn calls_of_several_threads_have_an_order_that_explains_them(
        lists in vec(vec((weighted(0.4, Just(())).prop_map(|own| own.is_some()), act()), 1..16), THREADS),
    ) {
        if let Err(wrong) = run(&lists) {
            return Err(TestCaseError::fail(wrong));
        }
    }
}
