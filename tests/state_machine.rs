//! The public API as a state machine. Goal: every call of `Store` answers what the model of it answers and
//! leaves what the model leaves, whatever calls came before; and of calls that run at the same time there
//! is an order that explains every answer.
//!
//! Method: `proptest-state-machine` makes lists of calls, each chosen by what is in the store then, and
//! makes a list that fails as short as can be. The reference is the oracle of `kvs-model`; the store is a
//! real one in a directory. The concurrent variant gives such lists to several threads, on keys that they
//! share and on keys of their own, and asks the checker of `tests/linear` for an order.
//!
//! `KVS_STATE_CASES=n` runs n lists per test instead of 256.

// Not all of what `tests/linear.rs` records and tells is needed here.
#[allow(dead_code)]
#[path = "linear/checker.rs"]
mod checker;
#[path = "state_machine/concurrent.rs"]
mod concurrent;
#[allow(dead_code)]
#[path = "linear/history.rs"]
mod history;
#[path = "state_machine/reference.rs"]
mod reference;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use kvs::{Batch, Compaction, Cursor, Error, Expiry, Options, SetOptions, Snapshot, Store, Update};
use kvs_model::{Level, Only, Pairs, Span, Version, key};
use proptest::test_runner::Config;
use proptest_state_machine::{StateMachineTest, prop_state_machine};
use tempfile::TempDir;

use reference::{Answer, KEY_IDS, Reference, START_MS, State, Step};

fn config() -> Config {
    let wanted = std::env::var("KVS_STATE_CASES").ok();
    Config {
        cases: wanted.and_then(|n| n.parse().ok()).unwrap_or(256),
        failure_persistence: None,
        ..Config::default()
    }
}

/// A store in a directory of its own.
struct Real {
    dir: TempDir,
    wall: Arc<AtomicU64>,
    level: Level,
    store: Option<Store>,
    snapshot: Option<Snapshot>,
}

/// Small segments, so that a few calls make several of them.
fn options(wall: &Arc<AtomicU64>) -> Options {
    let wall = Arc::clone(wall);
    Options::new()
        .clock(move || UNIX_EPOCH + Duration::from_millis(wall.load(Ordering::Relaxed)))
        .compaction(Compaction::Manual)
        .segment_bytes(64 << 10)
        .shard_bits(2)
}

impl Real {
    fn store(&self) -> Store {
        let store = self.store.as_ref().expect("it is open between two steps");
        store.with_durability(self.level.durability())
    }

    fn open(&mut self) {
        self.store = Some(options(&self.wall).open(self.dir.path()).unwrap());
    }

    /// Does it; what it answered.
    fn step(&mut self, step: Step) -> Answer {
        let store = self.store();
        match step {
            Step::Set { key: id, value } => store.set(key(id), value).unwrap(),
            Step::SetWith {
                key: id,
                value,
                span,
                only,
            } => {
                let options = SetOptions::new();
                let options = match span {
                    Span::Default => options,
                    Span::Never => options.expiry(Expiry::Never),
                    Span::In(ms) => options.ttl(Duration::from_millis(ms.into())),
                    Span::Keep => options.keep_ttl(),
                };
                let options = match only {
                    Only::Always => options,
                    Only::Absent => options.if_absent(),
                    Only::Present => options.if_present(),
                };
                return Answer::Done(store.set_with(key(id), value, &options).unwrap());
            }
            Step::Expire { key: id, ms } => {
                let done = match ms {
                    Some(ms) => store.expire_in(key(id), Duration::from_millis(ms.into())),
                    None => store.persist(key(id)),
                };
                return Answer::Done(done.unwrap());
            }
            Step::Remove { key: id } => return Answer::Done(store.remove(key(id)).unwrap()),
            Step::Batch(writes) => {
                let mut batch = Batch::new();
                for (id, value) in writes {
                    match value {
                        Some((value, None)) => batch.set(key(id), value),
                        Some((value, Some(ms))) => {
                            let at = store.now_ms() + u64::from(ms);
                            batch.set_with_expiry(key(id), value, Expiry::At(at))
                        }
                        None => batch.remove(key(id)),
                    };
                }
                store.write(&batch).unwrap();
            }
            Step::Load(pairs) => {
                let pairs = pairs.into_iter().map(|(id, value)| (key(id), value));
                let report = store.load(pairs).unwrap();
                return Answer::Loaded(report.pairs, report.superseded);
            }
            Step::IfAbsent { key: id, value } => {
                return Answer::Done(store.set_if_absent(key(id), value).unwrap());
            }
            Step::Swap {
                key: id,
                expected,
                new,
            } => {
                let swapped = store.compare_and_swap(key(id), expected.as_deref(), new.as_deref());
                return Answer::Done(swapped.unwrap());
            }
            Step::Replace { key: id, new } => {
                let old = store.fetch_update(key(id), |_: Option<&[u8]>| match &new {
                    Some(new) => Update::Set(new.clone()),
                    None => Update::Remove,
                });
                return Answer::Old(old.unwrap().map(|value| value.to_vec()));
            }
            Step::Add { key: id, by } => {
                return match store.increment(key(id), by) {
                    Ok(sum) => Answer::Sum(sum),
                    Err(Error::NotAnInteger) => Answer::NotAnInteger,
                    Err(error) => panic!("increment: {error}"),
                };
            }
            Step::At(level) => self.level = level,
            Step::Flush => store.flush().unwrap(),
            Step::Compact => drop(store.compact().unwrap()),
            Step::Wait { ms } => {
                self.wall.fetch_add(ms.into(), Ordering::Relaxed);
            }
            Step::Snapshot => self.snapshot = Some(store.snapshot().unwrap()),
            Step::ReadSnapshot => {
                let snapshot = self.snapshot.as_ref().expect("a precondition of the step");
                let pairs = snapshot.iter().map(|pair| {
                    let (key, value) = pair.unwrap();
                    (key.to_vec(), value.to_vec())
                });
                return Answer::Pairs(pairs.collect());
            }
            Step::Walk { count } => {
                let (mut cursor, mut keys) = (Cursor::START, BTreeSet::new());
                loop {
                    let (next, some) = store.scan(cursor, count.into()).unwrap();
                    for key in some {
                        assert!(keys.insert(key.to_vec()), "a walk gave {key:?} twice");
                    }
                    cursor = next;
                    if cursor.is_end() {
                        return Answer::Keys(keys);
                    }
                }
            }
            Step::Checkpoint => {
                let scratch = tempfile::tempdir().unwrap();
                let copy = scratch.path().join("copy");
                store.checkpoint(&copy).unwrap();
                let copy = options(&self.wall).open(&copy).unwrap();
                return Answer::Pairs(values(&contents(&copy)));
            }
            Step::Reopen => {
                drop(store);
                self.snapshot = None;
                let store = self.store.take().expect("it is open between two steps");
                assert!(store.close().unwrap().closed);
                self.open();
                assert!(self.store().recovery().clean);
            }
            Step::Drop => {
                drop(store);
                self.snapshot = None;
                self.store = None;
                self.open();
            }
        }
        Answer::Nothing
    }
}

/// What a store shows by iterating, and when it expires.
fn contents(store: &Store) -> Pairs {
    let mut all = Pairs::new();
    for pair in store.iter().unwrap() {
        let (key, value) = pair.unwrap();
        let expires_at = match store.expires_at(&key).unwrap() {
            Some(Expiry::At(ms)) => Some(ms),
            Some(Expiry::Never) => None,
            None => panic!("{key:?} is there and has no expiry"),
        };
        let value = value.to_vec();
        let version = Version { value, expires_at };
        let twice = all.insert(key.to_vec(), version).is_some();
        assert!(!twice, "the iterator gave {key:?} twice");
    }
    all
}

fn values(pairs: &Pairs) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
    let value = |(key, version): (&Vec<u8>, &Version)| (key.clone(), version.value.clone());
    pairs.iter().map(value).collect()
}

struct Sequential;

impl StateMachineTest for Sequential {
    type SystemUnderTest = Real;
    type Reference = Reference;

    fn init_test(_: &State) -> Real {
        let mut real = Real {
            dir: tempfile::tempdir().unwrap(),
            wall: Arc::new(AtomicU64::new(START_MS)),
            level: Level::Os,
            store: None,
            snapshot: None,
        };
        real.open();
        real
    }

    fn apply(mut real: Real, state: &State, step: Step) -> Real {
        let answer = real.step(step.clone());
        assert_eq!(answer, state.answer, "{step:?}");
        real
    }

    fn check_invariants(real: &Real, state: &State) {
        let expected = state.oracle.current();
        let store = real.store();
        assert_eq!(contents(&store), *expected, "the iterator");
        let keys: Vec<Vec<u8>> = (0..KEY_IDS).map(key).collect();
        let together = store.get_many(&keys).unwrap();
        let reader = store.reader();
        for (key, many) in keys.iter().zip(together) {
            let want = expected.get(key).map(|version| &version.value[..]);
            assert_eq!(store.get(key).unwrap().as_deref(), want, "get");
            assert_eq!(many.as_deref(), want, "get_many");
            assert_eq!(reader.get(key).unwrap(), want, "the reader");
            assert_eq!(store.contains_key(key).unwrap(), want.is_some());
        }
        assert!(store.len() >= expected.len() as u64);
    }

    fn teardown(mut real: Real, state: State) {
        real.step(Step::Drop);
        Self::check_invariants(&real, &state);
        assert!(real.store().verify().unwrap().damage.is_empty());
    }
}

prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn every_call_answers_what_the_model_answers(sequential 1..50 => Sequential);
}
