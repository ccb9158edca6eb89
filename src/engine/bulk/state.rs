//! What writers note for the loads under way.

use std::collections::HashSet;

use kvs_format::hash::Fingerprint;

use crate::storage::location::Word;

/// A key's version in the index has become another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexChange {
    pub(crate) fingerprint: Fingerprint,
    /// The version it had, the bytes of its record, and whether that expires.
    pub(crate) old: Option<(Word, u64, bool)>,
    /// The one it has; `None`: removed.
    pub(crate) new: Option<Word>,
}

/// A load under way.
#[derive(Debug)]
struct Loading {
    lsn: u64,
    /// Keys removed since, until `changes` takes over.
    removed: HashSet<Fingerprint>,
    /// Everything that has changed in the index since the snapshot of which the tables are made.
    changes: Option<Vec<IndexChange>>,
}

/// All loads under way; only the writer section touches it.
#[derive(Debug, Default)]
pub(crate) struct Loads(Vec<Loading>);

impl Loads {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// LSN of the oldest: what is younger may still shadow one of its pairs.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.0.iter().map(|load| load.lsn).min()
    }

    /// A load begins, and has this LSN.
    pub(crate) fn begin(&mut self, lsn: u64) {
        self.0.push(Loading {
            lsn,
            removed: HashSet::new(),
            changes: None,
        });
    }

    /// It is over, however it ended.
    pub(crate) fn end(&mut self, lsn: u64) {
        self.0.retain(|load| load.lsn != lsn);
    }

    /// A write of this LSN was published.
    pub(crate) fn note(&mut self, lsn: u64, change: IndexChange) {
        for load in &mut self.0 {
            match &mut load.changes {
                Some(changes) => changes.push(change),
                // A write that is older, but becomes visible only now, is not newer than the load.
                None if lsn < load.lsn => {}
                None if change.new.is_none() => {
                    load.removed.insert(change.fingerprint);
                }
                // It says so in its record.
                None => {}
            }
        }
    }

    /// From now on every change is kept; the keys removed so far.
    pub(crate) fn keep_changes(&mut self, lsn: u64) -> HashSet<Fingerprint> {
        let mut removed = HashSet::new();
        for load in self.0.iter_mut().filter(|load| load.lsn == lsn) {
            load.changes = Some(Vec::new());
            removed = std::mem::take(&mut load.removed);
        }
        removed
    }

    /// The changes kept since this was last asked.
    pub(crate) fn take_changes(&mut self, lsn: u64) -> Vec<IndexChange> {
        let load = self.0.iter_mut().find(|load| load.lsn == lsn);
        let changes = load.and_then(|load| load.changes.as_mut());
        changes.map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(n: u64, removes: bool) -> IndexChange {
        IndexChange {
            fingerprint: Fingerprint { lo: n, hi: n },
            old: None,
            new: (!removes).then_some(Word(n)),
        }
    }

    #[test]
    fn a_load_hears_of_removals_younger_than_it_and_then_of_everything() {
        let mut loads = Loads::default();
        loads.note(1, change(1, true));
        loads.begin(10);
        loads.begin(20);
        assert_eq!(loads.oldest(), Some(10));
        // Stored before the first began, published now; between the two; behind both.
        for (lsn, key) in [(9, 2), (15, 3), (25, 4)] {
            loads.note(lsn, change(key, true));
        }
        loads.note(26, change(5, false));
        let keys = |n: &[u64]| {
            let of = |n: &u64| change(*n, true).fingerprint;
            n.iter().map(of).collect::<HashSet<_>>()
        };
        assert_eq!(loads.keep_changes(10), keys(&[3, 4]));
        loads.note(27, change(6, false));
        loads.note(28, change(7, true));
        let changed: Vec<u64> = loads
            .take_changes(10)
            .iter()
            .map(|change| change.fingerprint.lo)
            .collect();
        assert_eq!(changed, [6, 7]);
        assert!(loads.take_changes(10).is_empty());
        assert_eq!(loads.keep_changes(20), keys(&[4, 7]));
        loads.end(10);
        assert_eq!(loads.oldest(), Some(20));
        loads.end(20);
        assert!(loads.is_empty());
    }
}
