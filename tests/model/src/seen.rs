//! What was begun earlier and goes on through other operations: snapshots that are kept, and a walk
//! through all keys.

use std::collections::BTreeSet;

use kvs::testing::sim::SimFs;
use kvs::{Cursor, Error, Snapshot};

use crate::check::{Pairs, snapshot_holds};
use crate::oracle::Write;

/// A snapshot, and what it must show.
pub(crate) struct Taken {
    pub(crate) snapshot: Snapshot<SimFs>,
    pub(crate) shows: Pairs,
    /// A call had failed in its store by the time that was closed.
    pub(crate) troubled: bool,
}

impl Taken {
    /// Reads it in every way there is; false if it was given up.
    pub(crate) fn holds(&self, troubled: bool) -> Result<bool, String> {
        match snapshot_holds(&self.snapshot, &self.shows) {
            Ok(held) => held.map(|()| true),
            Err(Error::Poisoned) if troubled || self.troubled => Ok(true),
            Err(Error::SnapshotExpired { .. }) => match self.snapshot.get(b"") {
                Err(Error::SnapshotExpired { .. }) => Ok(false),
                _ => Err("it was given up and came back".to_owned()),
            },
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A walk by cursors.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) cursor: Cursor,
    came: BTreeSet<Vec<u8>>,
    /// Keys that have had a value since it began.
    always: BTreeSet<Vec<u8>>,
}

impl Walk {
    /// Begins where the keys are `current`.
    pub(crate) fn over(current: &Pairs) -> Self {
        Self {
            always: current.keys().cloned().collect(),
            ..Self::default()
        }
    }

    /// These were committed.
    pub(crate) fn note(&mut self, writes: &[Write]) {
        for (key, version) in writes {
            // Also one that is over already.
            if version
                .as_ref()
                .is_none_or(|version| version.expires_at.is_some())
            {
                self.always.remove(key);
            }
        }
    }

    /// The store was opened again, or time has passed, and this is in it.
    pub(crate) fn reopened(&mut self, current: &Pairs) {
        self.always.retain(|key| current.contains_key(key));
    }

    /// A call gave these keys; `current` is what is there.
    pub(crate) fn step(
        &mut self,
        next: Cursor,
        keys: Vec<Vec<u8>>,
        current: &Pairs,
    ) -> Result<(), String> {
        for key in keys {
            if !current.contains_key(&key) {
                return Err(format!("{key:?} came and is not there"));
            }
            if self.came.contains(&key) {
                return Err(format!("{key:?} came twice"));
            }
            self.came.insert(key);
        }
        self.cursor = next;
        let missing = self.always.difference(&self.came).next();
        match missing.filter(|_| next.is_end()) {
            Some(key) => Err(format!("{key:?} was there all the time and did not come")),
            None => Ok(()),
        }
    }
}
