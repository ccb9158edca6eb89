//! What a store is asked, what it is to answer, and which calls make sense when.

use std::collections::{BTreeMap, BTreeSet};

use kvs_model::{Level, Only, Oracle, Pairs, Span, Version, Write, key};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

/// How many of the model's keys there are here: not the longest ones.
pub const KEY_IDS: u8 = 12;

/// What the clock says at first, in Unix milliseconds.
pub const START_MS: u64 = 1_000_000_000_000;

/// A key of a batch; what is set, and after how many milliseconds it expires.
pub type Change = (u8, Option<(Vec<u8>, Option<u16>)>);

/// A call.
#[derive(Clone, Debug)]
pub enum Step {
    Set {
        key: u8,
        value: Vec<u8>,
    },
    SetWith {
        key: u8,
        value: Vec<u8>,
        span: Span,
        only: Only,
    },
    /// `expire_in` so many milliseconds, or `persist`.
    Expire {
        key: u8,
        ms: Option<u16>,
    },
    Remove {
        key: u8,
    },
    Batch(Vec<Change>),
    Load(Vec<(u8, Vec<u8>)>),
    IfAbsent {
        key: u8,
        value: Vec<u8>,
    },
    Swap {
        key: u8,
        expected: Option<Vec<u8>>,
        new: Option<Vec<u8>>,
    },
    Replace {
        key: u8,
        new: Option<Vec<u8>>,
    },
    Add {
        key: u8,
        by: i64,
    },
    At(Level),
    Flush,
    Compact,
    Wait {
        ms: u16,
    },
    Snapshot,
    ReadSnapshot,
    /// Through all keys, so many at a time.
    Walk {
        count: u8,
    },
    /// And what is in the copy.
    Checkpoint,
    /// Closes, opens.
    Reopen,
    /// Lets go of the store without closing it, opens.
    Drop,
}

/// What a call answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Nothing,
    Done(bool),
    Old(Option<Vec<u8>>),
    Sum(i64),
    NotAnInteger,
    /// Pairs, and how many of them later ones took the place of.
    Loaded(u64, u64),
    Keys(BTreeSet<Vec<u8>>),
    Pairs(BTreeMap<Vec<u8>, Vec<u8>>),
}

/// What there is to be in a store, and what the last call is to have answered.
#[derive(Clone, Debug)]
pub struct State {
    pub oracle: Oracle,
    pub answer: Answer,
    now: u64,
    snapshot: Option<Pairs>,
}

pub struct Reference;

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        10 => vec(any::<u8>(), 0..40),
        2 => (any::<u8>(), 200usize..9_000).prop_map(|(byte, len)| vec![byte; len]),
        // Zeros are what lost sectors read as.
        1 => (0usize..300).prop_map(|len| vec![0; len]),
        2 => (-40i64..40).prop_map(|number| number.to_string().into_bytes()),
    ]
}

impl State {
    fn old(&self, id: u8) -> Option<Vec<u8>> {
        let old = self.oracle.current().get(&key(id));
        old.map(|version| version.value.clone())
    }

    fn commit(&mut self, writes: Vec<Write>) {
        self.oracle.commit(0, writes);
    }

    fn put(&mut self, id: u8, value: Vec<u8>, expires_at: Option<u64>) {
        self.commit(vec![(key(id), Some(Version { value, expires_at }))]);
    }

    fn take(&mut self, id: u8) {
        self.commit(vec![(key(id), None)]);
    }

    fn put_or_take(&mut self, id: u8, new: Option<Vec<u8>>) {
        match new {
            Some(new) => self.put(id, new, None),
            None => self.take(id),
        }
    }

    fn in_ms(&self, ms: u16) -> u64 {
        self.now + u64::from(ms)
    }

    /// Does it; what it is to answer.
    fn step(&mut self, step: &Step) -> Answer {
        match step.clone() {
            Step::Set { key, value } => self.put(key, value, None),
            Step::SetWith {
                key: id,
                value,
                span,
                only,
            } => {
                let old = self.oracle.expiry(&key(id));
                let holds = match only {
                    Only::Always => true,
                    Only::Absent => old.is_none(),
                    Only::Present => old.is_some(),
                };
                let expires_at = match span {
                    Span::Default | Span::Never => None,
                    Span::In(ms) => Some(self.in_ms(ms)),
                    Span::Keep => old.flatten(),
                };
                if holds {
                    self.put(id, value, expires_at);
                }
                return Answer::Done(holds);
            }
            Step::Expire { key: id, ms } => {
                let old = self.oracle.expiry(&key(id));
                let new = ms.map(|ms| self.in_ms(ms));
                let done = old.is_some_and(|old| old.is_some() || new.is_some());
                if let Some(value) = self.old(id).filter(|_| done) {
                    self.put(id, value, new);
                }
                return Answer::Done(done);
            }
            Step::Remove { key: id } => {
                let there = self.old(id).is_some();
                self.take(id);
                return Answer::Done(there);
            }
            Step::Batch(writes) => {
                let version = |(value, ms): (Vec<u8>, Option<u16>)| Version {
                    value,
                    expires_at: ms.map(|ms| self.in_ms(ms)),
                };
                let writes = writes.into_iter();
                let writes = writes.map(|(id, value)| (key(id), value.map(version)));
                let writes = writes.collect();
                self.commit(writes);
            }
            Step::Load(pairs) => {
                let keys: BTreeSet<u8> = pairs.iter().map(|(id, _)| *id).collect();
                let (all, superseded) = (pairs.len(), pairs.len() - keys.len());
                for (id, value) in pairs {
                    self.put(id, value, None);
                }
                return Answer::Loaded(all as u64, superseded as u64);
            }
            Step::IfAbsent { key: id, value } => {
                let absent = self.old(id).is_none();
                if absent {
                    self.put(id, value, None);
                }
                return Answer::Done(absent);
            }
            Step::Swap {
                key: id,
                expected,
                new,
            } => {
                let equal = self.old(id) == expected;
                if equal {
                    self.put_or_take(id, new);
                }
                return Answer::Done(equal);
            }
            Step::Replace { key: id, new } => {
                let old = self.old(id);
                self.put_or_take(id, new);
                return Answer::Old(old);
            }
            Step::Add { key: id, by } => {
                let old = self.old(id).unwrap_or_else(|| b"0".to_vec());
                let text = String::from_utf8(old).unwrap_or_default();
                // A number in the only way that `to_string` would write it.
                let number = text.parse::<i64>().ok();
                let number = number.filter(|number| number.to_string() == text);
                let Some(number) = number else {
                    return Answer::NotAnInteger;
                };
                let until = self.oracle.expiry(&key(id)).flatten();
                let sum = number + by;
                self.put(id, sum.to_string().into_bytes(), until);
                return Answer::Sum(sum);
            }
            Step::Wait { ms } => {
                self.now += u64::from(ms);
                self.oracle.set_now(self.now);
            }
            Step::Snapshot => self.snapshot = Some(self.oracle.current().clone()),
            Step::ReadSnapshot => {
                let shown = self.snapshot.as_ref().map(crate::values);
                return Answer::Pairs(shown.unwrap_or_default());
            }
            Step::Walk { .. } => {
                return Answer::Keys(self.oracle.current().keys().cloned().collect());
            }
            Step::Checkpoint => return Answer::Pairs(crate::values(self.oracle.current())),
            Step::Reopen | Step::Drop => self.snapshot = None,
            Step::At(_) | Step::Flush | Step::Compact => {}
        }
        Answer::Nothing
    }
}

impl ReferenceStateMachine for Reference {
    type State = State;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<State> {
        let mut oracle = Oracle::new();
        oracle.set_now(START_MS);
        let state = State {
            oracle,
            answer: Answer::Nothing,
            now: START_MS,
            snapshot: None,
        };
        Just(state).boxed()
    }

    fn transitions(state: &State) -> BoxedStrategy<Step> {
        // Keys that are there more often than others, and what they have: that a swap does not come off is
        // easily had.
        let current = state.oracle.current();
        let there: Vec<u8> = (0..KEY_IDS)
            .filter(|id| current.contains_key(&key(*id)))
            .collect();
        let any_key = 0..KEY_IDS;
        let id = || match there.is_empty() {
            true => any_key.clone().boxed(),
            false => prop_oneof![
                2 => proptest::sample::select(there.clone()),
                1 => any_key.clone(),
            ]
            .boxed(),
        };
        let swaps = {
            let of = state.clone();
            (id(), any::<bool>(), weighted(0.8, value())).prop_map(move |(key, equal, new)| {
                let old = of.old(key);
                let expected = match equal {
                    true => old,
                    false => old.map(|old| [&old[..], b"!"].concat()),
                };
                Step::Swap { key, expected, new }
            })
        };
        let numbers: Vec<u8> = (0..KEY_IDS).filter(|id| id % 4 == 3).collect();
        let adds = (proptest::sample::select(numbers), -5i64..100);
        let span = prop_oneof![
            Just(Span::Default),
            Just(Span::Never),
            Just(Span::Keep),
            (0u16..150).prop_map(Span::In),
        ];
        let only = prop_oneof![Just(Only::Always), Just(Only::Absent), Just(Only::Present)];
        let set_with = (id(), value(), span, only);
        let level = prop_oneof![
            2 => Just(Level::Os),
            1 => Just(Level::Short),
            1 => Just(Level::Sync),
        ];
        let one = (id(), weighted(0.7, (value(), weighted(0.3, 0u16..150))));
        prop_oneof![
            20 => (id(), value()).prop_map(|(key, value)| Step::Set { key, value }),
            8 => set_with.prop_map(|(key, value, span, only)| Step::SetWith { key, value, span, only }),
            6 => (id(), weighted(0.7, 0u16..150)).prop_map(|(key, ms)| Step::Expire { key, ms }),
            8 => id().prop_map(|key| Step::Remove { key }),
            6 => vec(one, 0..5).prop_map(Step::Batch),
            3 => vec((id(), value()), 0..6).prop_map(Step::Load),
            4 => (id(), value()).prop_map(|(key, value)| Step::IfAbsent { key, value }),
            6 => swaps,
            4 => (id(), weighted(0.8, value())).prop_map(|(key, new)| Step::Replace { key, new }),
            6 => adds.prop_map(|(key, by)| Step::Add { key, by }),
            2 => level.prop_map(Step::At),
            2 => Just(Step::Flush),
            3 => Just(Step::Compact),
            6 => (0u16..80).prop_map(|ms| Step::Wait { ms }),
            3 => Just(Step::Snapshot),
            3 => Just(Step::ReadSnapshot),
            2 => (0u8..6).prop_map(|count| Step::Walk { count }),
            1 => Just(Step::Checkpoint),
            2 => Just(Step::Reopen),
            1 => Just(Step::Drop),
        ]
        .boxed()
    }

    fn apply(mut state: State, step: &Step) -> State {
        state.answer = state.step(step);
        state
    }

    fn preconditions(state: &State, step: &Step) -> bool {
        match step {
            Step::ReadSnapshot => state.snapshot.is_some(),
            // What shrinking leaves of a swap may expect what was never there: that is fine too.
            _ => true,
        }
    }
}
