//! The whole store at one moment.
//!
//! A snapshot shares the tables of the index; the first write to a shard while it lives copies that
//! shard's table. It keeps the view of that moment, and so the map of every segment in it: words that
//! it knows cannot come to mean other records, since windows are used again only after unmapping.
//!
//! What a snapshot holds can be taken away from it (`frozen`), so that a forgotten one does not keep
//! removed segments on disk for ever. Records are looked at outside its locks, pinned.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Weak};

use crate::engine::core::{Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::frozen::{Frozen, Held};
use crate::engine::many::{TOGETHER, bring};
use crate::engine::read::{Candidates, Checks, Plain};
use crate::engine::value::Value;
use crate::storage::fs::Fs;
use crate::storage::raw::mmap::Map;
use crate::storage::raw::pinned::PinnedBytes;
use crate::storage::real::RealFs;

/// The whole store as it was at one moment, while writes and compaction go on: see
/// [`crate::Store::snapshot`].
///
/// A clone is the same snapshot. It outlives the store handle and [`crate::Store::close`], as a [`Value`]
/// does; the directory is free for another open all the same.
///
/// What it costs while it lives: the first write to each index shard copies the table of that shard
/// (8 to 18 bytes a key, at most one copy of the index for all writes together), and segments that
/// compaction removes stay mapped and on disk. If they come to more than
/// [`crate::Options::pinned_bytes_max`], the oldest snapshots are given up: every call to them, their
/// clones and their iterators answers [`Error::SnapshotExpired`] from then on. A [`Value`] or
/// [`crate::Key`] got from one before stays what it is.
///
/// ```
/// let store = kvs::Options::new().open_in_memory()?;
/// store.set("stock", "12")?;
/// let before = store.snapshot()?;
/// store.set("stock", "11")?;
/// assert_eq!(before.get("stock")?.as_deref(), Some(&b"12"[..]));
/// assert_eq!(store.get("stock")?.as_deref(), Some(&b"11"[..]));
/// # Ok::<(), kvs::Error>(())
/// ```
pub struct Snapshot<F: Fs = RealFs> {
    engine: Arc<Engine<F>>,
    frozen: Arc<Frozen>,
}

impl<F: Fs> Clone for Snapshot<F> {
    fn clone(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            frozen: Arc::clone(&self.frozen),
        }
    }
}

impl<F: Fs> fmt::Debug for Snapshot<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("lsn", &self.frozen.lsn)
            .field("keys", &self.frozen.len)
            .finish_non_exhaustive()
    }
}

impl<F: Fs> Snapshot<F> {
    /// Value of `key` at that moment; `None` if it had none then. An expiry that passes later changes
    /// nothing.
    ///
    /// Cost: as [`crate::Store::get`].
    ///
    /// # Errors
    /// As [`crate::Store::get`], and [`Error::SnapshotExpired`]. After a failed sync a snapshot that was
    /// durable by then is still readable; of another one, keys that were not written since the last
    /// good sync.
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let key = key.as_ref();
        let candidates = self.candidates(key)?;
        self.value_among(candidates, key)
    }

    /// Values of `keys` at that moment, in their order. Cost: as [`crate::Store::get_many`].
    ///
    /// # Errors
    /// As [`Snapshot::get`], for the first key that meets one.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        let mut values = Vec::with_capacity(keys.len());
        let mut found: Vec<Candidates> = Vec::with_capacity(TOGETHER);
        for keys in keys.chunks(TOGETHER) {
            found.clear();
            for key in keys {
                found.push(self.candidates(key.as_ref())?);
            }
            bring(&found);
            for (key, candidates) in keys.iter().zip(found.drain(..)) {
                values.push(self.value_among(candidates, key.as_ref())?);
            }
        }
        Ok(values)
    }

    /// Whether `key` had a value at that moment.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// How many keys had a value at that moment; as [`crate::Store::len`] it may count expired ones that
    /// were not yet reclaimed.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.frozen.len
    }

    /// True if no key had a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frozen.len == 0
    }

    /// Highest log sequence number given out when it was made: no later write is in it.
    ///
    /// Every earlier one is, unless it was of level [`crate::Durability::Sync`], or of another level on
    /// top of such a one, and not yet durable: those become visible when they are.
    #[must_use]
    pub fn lsn(&self) -> u64 {
        self.frozen.lsn
    }

    pub(crate) fn engine(&self) -> &Engine<F> {
        &self.engine
    }

    /// When it was made, in milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.frozen.now
    }

    /// Looks at what it holds, unless it was given up. `at` reads no record and locks nothing.
    #[inline]
    pub(crate) fn look<R>(&self, at: impl FnOnce(&Arc<Held>) -> R) -> Result<R> {
        self.frozen.look(at).ok_or(Error::SnapshotExpired {
            max: self.engine.config.pinned_bytes_max,
        })
    }

    /// Refuses to show the store as a whole if a sync failed and part of what it shows is not durable.
    #[inline]
    pub(crate) fn check_readable(&self) -> Result<()> {
        self.engine.check_frozen(self.frozen.lsn, None)
    }

    /// What may be the record of `key`, pinned.
    #[inline]
    fn candidates(&self, key: &[u8]) -> Result<Candidates> {
        self.engine.check_frozen(self.frozen.lsn, Some(key))?;
        let hash = self.engine.hash_key.hash(key);
        let shard = self.engine.index.position(hash);
        self.look(|held| {
            let mut candidates = Candidates::default();
            for word in held.shards[shard].words(hash) {
                candidates.push(word, held.view.pin(word));
            }
            candidates
        })
    }

    #[inline]
    fn value_among(&self, candidates: Candidates, key: &[u8]) -> Result<Option<Value>> {
        let checks = self.engine.checks();
        for (word, pin) in candidates.into_iter() {
            let checked = checks == Checks::Both;
            let pin = match PinnedBytes::new(pin, Plain { word, key, checked }) {
                Ok(bytes) => return Ok(Some(Value::of(bytes))),
                Err(pin) => pin,
            };
            if let Some(found) = self.engine.matches(&pin, word, key, checks)? {
                let alive = found.expires_at.is_none_or(|at| at > self.frozen.now);
                return Ok(alive.then(|| Value::new(pin, found.value_offset, found.value_len)));
            }
        }
        Ok(None)
    }
}

/// Removed segments, and their lengths.
type Retired = Vec<(Weak<Map>, u64)>;

/// What snapshots keep of what was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Snapshots that live and were not given up.
    pub(crate) snapshots: u64,
    /// Bytes of removed segments that they keep.
    pub(crate) bytes: u64,
}

impl<F: Fs> Engine<F> {
    /// See [`crate::Store::snapshot`].
    pub fn snapshot(self: &Arc<Self>) -> Result<Snapshot<F>> {
        // Inside the section, so that a batch is in it whole or not at all.
        let mut section = self.section.lock();
        let lsn = section.next_lsn - 1;
        self.check_whole(&mut section, lsn)?;
        let held = Arc::new(Held {
            shards: self.index.snapshot(),
            view: Arc::clone(&section.view),
        });
        let now = self.config.wall_clock.now_ms();
        let frozen = Arc::new(Frozen::new(&held, lsn, self.index.len(), now));
        let mut snapshots = self.snapshots.lock();
        drop(section);
        snapshots.retain(|snapshot| snapshot.strong_count() > 0);
        snapshots.push(Arc::downgrade(&frozen));
        drop(snapshots);
        Ok(Snapshot {
            engine: Arc::clone(self),
            frozen,
        })
    }

    /// Refuses to show what was visible at `lsn`, of one key or of all, if it may not be on disk after
    /// a failed sync.
    #[inline]
    pub(crate) fn check_frozen(&self, lsn: u64, key: Option<&[u8]>) -> Result<()> {
        match self.is_poisoned() || self.upkeep.has_failed() {
            true => self.check_frozen_after_failure(lsn, key),
            false => Ok(()),
        }
    }

    #[cold]
    fn check_frozen_after_failure(&self, lsn: u64, key: Option<&[u8]>) -> Result<()> {
        let whole = self.check_whole(&mut self.section.lock(), lsn);
        match (whole, key) {
            (Err(_), Some(key)) => self.check_readable(key),
            (whole, _) => whole,
        }
    }

    /// Refuses to show everything that was visible at `lsn` if part of it may not be on disk after a
    /// failed sync.
    pub(crate) fn check_whole(&self, section: &mut Section<F>, lsn: u64) -> Result<()> {
        // A closed store writes nothing, and has been told what there was to tell.
        if self.upkeep.has_failed() && !section.closed {
            self.poison(section);
        }
        let whole = !self.is_poisoned()
            || self
                .undurable
                .get()
                .is_some_and(|keys| keys.is_empty() || lsn <= section.durable_lsn);
        match whole {
            true => Ok(()),
            false => Err(Error::Poisoned),
        }
    }

    /// Gives up snapshots, the oldest first, until removed segments take no more than they may. One
    /// that keeps none is left alone.
    pub(crate) fn expire_snapshots(&self) {
        let max = self.config.pinned_bytes_max;
        if self.pinned_bytes() <= max {
            return;
        }
        let (snapshots, retired) = self.snapshots_and_retired();
        let mut bytes: u64 = retired.iter().map(|(_, bytes)| bytes).sum();
        // What a younger one keeps as well comes back only with that one.
        let kept: Vec<HashSet<*const Map>> = snapshots
            .iter()
            .map(|snapshot| maps(snapshot, &retired))
            .collect();
        for (i, snapshot) in snapshots.iter().enumerate() {
            if bytes <= max {
                return;
            }
            if kept[i].is_empty() {
                continue;
            }
            let freed = retired.iter().filter(|(map, _)| {
                let map = map.as_ptr();
                kept[i].contains(&map) && !kept[i + 1..].iter().any(|maps| maps.contains(&map))
            });
            bytes -= freed.map(|(_, bytes)| bytes).sum::<u64>();
            snapshot.give_up();
        }
    }

    /// What living snapshots keep.
    pub(crate) fn kept_by_snapshots(&self) -> Kept {
        let (snapshots, retired) = self.snapshots_and_retired();
        let mut kept = HashSet::new();
        for snapshot in &snapshots {
            kept.extend(maps(snapshot, &retired));
        }
        let of_kept = retired
            .iter()
            .filter(|(map, _)| kept.contains(&map.as_ptr()));
        Kept {
            snapshots: snapshots.len() as u64,
            bytes: of_kept.map(|(_, bytes)| bytes).sum(),
        }
    }

    /// Living snapshots that were not given up, the oldest first, and removed segments that are still
    /// mapped.
    fn snapshots_and_retired(&self) -> (Vec<Arc<Frozen>>, Retired) {
        let mut snapshots = self.snapshots.lock();
        let mut living = Vec::with_capacity(snapshots.len());
        snapshots.retain(|snapshot| {
            let held = snapshot.upgrade().filter(|s| s.look(|_| ()).is_some());
            let keep = held.is_some();
            living.extend(held);
            keep
        });
        let retired = self.retired.lock().clone();
        let mapped = retired
            .into_iter()
            .filter(|(map, _)| map.strong_count() > 0);
        (living, mapped.collect())
    }
}

/// Which of the `retired` maps a snapshot keeps.
fn maps(snapshot: &Frozen, retired: &Retired) -> HashSet<*const Map> {
    let retired: HashSet<*const Map> = retired.iter().map(|(map, _)| map.as_ptr()).collect();
    let of_view = |held: &Arc<Held>| {
        let maps = held.view.slots().map(|slot| std::ptr::from_ref(slot.map()));
        maps.filter(|map| retired.contains(map)).collect()
    };
    snapshot.look(of_view).unwrap_or_default()
}
