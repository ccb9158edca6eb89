//! Calls to a store with few keys, what they answered, and what a store that does one call at a time
//! would have answered.

/// The values of a group of keys, by number.
pub type State = Vec<Option<i64>>;

/// A call and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `get`, one of `get_many`, or a reader's.
    Read { key: usize, seen: Option<i64> },
    /// All keys, as a snapshot or an iterator shows them.
    Snapshot { seen: State },
    /// `set`.
    Set { key: usize, new: i64 },
    /// `remove`.
    Remove { key: usize, found: bool },
    /// `set_if_absent`.
    SetIfAbsent { key: usize, new: i64, stored: bool },
    /// `compare_and_swap`.
    Swap {
        key: usize,
        expected: Option<i64>,
        new: Option<i64>,
        swapped: bool,
    },
    /// `fetch_update` that stores or removes.
    Replace {
        key: usize,
        new: Option<i64>,
        old: Option<i64>,
    },
    /// `increment`.
    Add { key: usize, by: i64, sum: i64 },
    /// `write` of a batch.
    Batch { writes: Vec<(usize, Option<i64>)> },
    /// Several at one moment.
    Together { ops: Vec<Op> },
}

impl Op {
    /// Does it to `state`; false if it could not have answered what it did.
    pub fn apply(&self, state: &mut State) -> bool {
        match self {
            Self::Read { key, seen } => state[*key] == *seen,
            Self::Snapshot { seen } => state == seen,
            Self::Set { key, new } => {
                state[*key] = Some(*new);
                true
            }
            Self::Remove { key, found } => state[*key].take().is_some() == *found,
            Self::SetIfAbsent { key, new, stored } => {
                let absent = state[*key].is_none();
                state[*key].get_or_insert(*new);
                absent == *stored
            }
            Self::Swap {
                key,
                expected,
                new,
                swapped,
            } => {
                let equal = state[*key] == *expected;
                if equal {
                    state[*key] = *new;
                }
                equal == *swapped
            }
            Self::Replace { key, new, old } => {
                let was = std::mem::replace(&mut state[*key], *new);
                was == *old
            }
            Self::Add { key, by, sum } => {
                let added = state[*key].unwrap_or(0) + by;
                state[*key] = Some(added);
                added == *sum
            }
            Self::Batch { writes } => {
                for (key, new) in writes {
                    state[*key] = *new;
                }
                true
            }
            Self::Together { ops } => ops.iter().all(|op| op.apply(state)),
        }
    }

    /// What it says of one key alone, as a call to a store of one key; `None` if nothing.
    pub fn of_key(&self, wanted: usize) -> Option<Self> {
        let mut op = self.clone();
        let key = match &mut op {
            Self::Snapshot { seen } => {
                let seen = seen[wanted];
                return Some(Self::Read { key: 0, seen });
            }
            Self::Batch { writes } => {
                let last = writes.iter().rfind(|(key, _)| *key == wanted)?;
                return Some(Self::Batch {
                    writes: vec![(0, last.1)],
                });
            }
            Self::Together { ops } => {
                let ops: Vec<Self> = ops.iter().filter_map(|op| op.of_key(wanted)).collect();
                return (!ops.is_empty()).then_some(Self::Together { ops });
            }
            Self::Read { key, .. }
            | Self::Set { key, .. }
            | Self::Remove { key, .. }
            | Self::SetIfAbsent { key, .. }
            | Self::Swap { key, .. }
            | Self::Replace { key, .. }
            | Self::Add { key, .. } => key,
        };
        let is_wanted = std::mem::take(key) == wanted;
        is_wanted.then_some(op)
    }
}

/// An operation, and when it was called and had returned.
#[derive(Clone, Debug)]
pub struct Call {
    pub op: Op,
    pub thread: usize,
    pub start: u64,
    pub end: u64,
}
