//! The limit of the index's memory: asked before anything is appended.
//!
//! Far from the limit a write compares two numbers. Near it, a write that adds a key asks how much
//! the tables in question will grow, those of keys that are stored and not yet in the index included.

use std::collections::{BTreeMap, HashSet};

use crate::engine::batch::Batch;
use crate::engine::core::{Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::pending::{Change, PendingKey};
use crate::storage::fs::Fs;

impl<F: Fs> Engine<F> {
    /// True if adding `more` keys might take the index beyond its limit.
    #[inline]
    pub(crate) fn index_is_nearly_full(&self, section: &Section<F>, more: u64) -> bool {
        let Some(max) = self.config.index_bytes_max else {
            return false;
        };
        let growth = self.index.growth_max(more + section.pending.len());
        self.index.bytes().saturating_add(growth) > max
    }

    /// Refuses to add keys of these hashes, none of which is in the index or pending, if the index
    /// would have to grow for them beyond its limit.
    ///
    /// # Errors
    /// [`Error::IndexFull`].
    #[cold]
    pub(crate) fn check_index_room(
        &self,
        section: &Section<F>,
        added: impl IntoIterator<Item = u64>,
    ) -> Result<()> {
        let mut more: BTreeMap<usize, usize> = BTreeMap::new();
        for fingerprint in section.pending.added() {
            *more.entry(self.index.position(fingerprint.lo)).or_default() += 1;
        }
        let before = self.index.growth(more.clone());
        for hash in added {
            *more.entry(self.index.position(hash)).or_default() += 1;
        }
        let after = self.index.growth(more);
        let bytes = self.index.bytes() + after;
        match self.config.index_bytes_max {
            // What needs no growth is no burden.
            Some(max) if bytes > max && after > before => Err(Error::IndexFull { bytes, max }),
            _ => Ok(()),
        }
    }

    /// The same for a whole batch.
    #[cold]
    pub(crate) fn check_index_for_batch(
        &self,
        section: &Section<F>,
        batch: &Batch,
        changes: &[Change],
    ) -> Result<()> {
        let sets = || {
            let operations = batch.operations().zip(changes);
            operations.filter(|((_, value), _)| value.is_some())
        };
        // If there is room even if all of them are new, nobody need be looked up.
        let hashes = sets().map(|(_, change)| change.fingerprint.lo);
        if self.check_index_room(section, hashes).is_ok() {
            return Ok(());
        }
        let (mut seen, mut added) = (HashSet::new(), Vec::new());
        for ((key, _), change) in sets() {
            let hash = change.fingerprint.lo;
            if !seen.insert(change.fingerprint) {
                continue;
            }
            let adds = match section.pending.get(change.fingerprint) {
                Some(pending) => PendingKey::set_adds(pending),
                None => !self.look_up(hash, key)?.is_found(),
            };
            if adds {
                added.push(hash);
            }
        }
        self.check_index_room(section, added)
    }
}
