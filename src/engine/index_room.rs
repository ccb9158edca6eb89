//! The limit of the index's memory: asked before anything is appended.
//!
//! Far from the limit a write compares two numbers. Near it, a write that adds a key asks how much
//! the tables in question will grow, those of keys that are stored and not yet in the index included.

use std::collections::{BTreeMap, HashSet};

use crate::engine::batch::Batch;
use crate::engine::core::{Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::pending::PendingKey;
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
    pub(crate) fn check_index_for_batch(&self, section: &Section<F>, batch: &Batch) -> Result<()> {
        let sets = || {
            let sets = batch.operations().filter(|(_, value)| value.is_some());
            sets.map(|(key, _)| key)
        };
        // If there is room even if all of them are new, nobody need be looked up.
        let hashes = sets().map(|key| self.hash_key.hash(key));
        if self.check_index_room(section, hashes).is_ok() {
            return Ok(());
        }
        let (mut seen, mut added) = (HashSet::new(), Vec::new());
        for key in sets() {
            let fingerprint = self.hash_key.fingerprint(key);
            let hash = fingerprint.lo;
            if !seen.insert(fingerprint) {
                continue;
            }
            let adds = match section.pending.get(fingerprint) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;
    use crate::engine::options::Options;
    use crate::engine::pending::{Change, PendingWrite};
    use crate::storage::real::RealFs;

    /// A key that is stored at level `Sync` is in the index only when it is durable.
    #[test]
    fn keys_that_wait_for_a_sync_have_their_room_already() {
        let of = |max| {
            let options = Options::new().shard_bits(0).index_bytes_max(max);
            let mut config = Config::new(&options);
            config.reserve = false;
            Engine::open(RealFs::in_memory(), config).unwrap()
        };
        // 32 buckets have room for 28 keys.
        let engine = of(128 + 32 * 9 + 16);
        (0..27u8).for_each(|key| engine.set(&[key], b"").unwrap());
        let mut guard = engine.section.lock();
        let section = &mut *guard;
        assert!(engine.index_is_nearly_full(section, 1));
        assert!(engine.check_index_room(section, [1]).is_ok());
        let waits = |key: u8, lsn, adds| PendingWrite {
            lsn,
            changes: vec![Change {
                fingerprint: engine.hash_key.fingerprint(&[key]),
                key: [key].into(),
                new: None,
                adds,
            }],
        };
        section.pending.push(waits(1, 1001, false));
        assert!(engine.check_index_room(section, [1]).is_ok());
        section.pending.push(waits(100, 1002, true));
        let full = engine.check_index_room(section, [1]);
        let (bytes, max) = (128 + 64 * 9 + 16, 128 + 32 * 9 + 16);
        assert!(
            matches!(full, Err(Error::IndexFull { bytes: b, max: m }) if (b, m) == (bytes, max)),
            "{full:?}"
        );
        assert!(engine.check_index_room(section, []).is_ok());
        // Removed before it is durable: its room is needed all the same.
        section.pending.push(waits(100, 1003, false));
        assert!(engine.check_index_room(section, [1]).is_err());
        section.pending.pop_durable(1001);
        section.pending.pop_durable(1002);
        assert!(engine.check_index_room(section, [1]).is_err());
        section.pending.pop_durable(1003);
        assert!(engine.check_index_room(section, [1]).is_ok());
    }
}
