//! The engine's parts and who may touch them when.
//!
//! Lock order, outermost first: `compaction`, `section`, `segments`, `manifest`, shards of the
//! index; `commit`, `upkeep`, `interval`, `populate`, `background`, `reserve`, `snapshots`, `retired`,
//! `counters` and the flags of failed syncs are taken last and never while waiting for another. Readers never wait for a sync.
//! Writers wait for one inside the section when a segment is needed and the one before is not yet
//! sealed, or none is ready; when the first write of a life goes on in the segment of the last; and
//! when the store is poisoned.
//!
//! Invariants
//! - Appending, LSNs, offsets and publishing happen inside the section, so publishing order is LSN
//!   order per key.
//! - A record is published only after all its bytes are in the map.
//! - `durable_lsn` grows only after a sync that began when every record up to it was stored.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::sync::{Mutex, RwLock};
use kvs_format::hash::{Fingerprint, HashKey};

use crate::engine::bulk::state::Loads;
use crate::engine::catalog::{End, LogEnd, Manifest};
use crate::engine::cold::Cold;
use crate::engine::compaction::state::Background;
use crate::engine::config::Config;
use crate::engine::counters::Counters;
use crate::engine::deadlines::{Deadlines, Interval};
use crate::engine::error::{Error, Result};
use crate::engine::frozen::Frozen;
use crate::engine::latency::Timers;
use crate::engine::pending::Pending;
use crate::engine::populate::{Ahead, Populate};
use crate::engine::recovery::{Recovered, Resumable, recover};
use crate::engine::report::RecoveryReport;
use crate::engine::reserve::Reserve;
use crate::engine::segment::{Segment, View};
use crate::engine::tasks::Upkeep;
use crate::engine::version::Version;
use crate::engine::waiters::Commit;
use crate::index::Index;
use crate::storage::fs::Fs;
use crate::storage::raw::checksum::use_fastest;
use crate::storage::raw::mmap::{Map, MapWriter};
use crate::storage::window::Windows;

/// An open store over the file system `F`.
pub struct Engine<F: Fs> {
    /// For the upkeep thread.
    pub(crate) me: Weak<Self>,
    pub(crate) fs: F,
    pub(crate) config: Config,
    pub(crate) hash_key: HashKey,
    pub(crate) index: Index<View>,
    pub(crate) windows: Windows,
    /// One compaction at a time, or one load that becomes visible.
    pub(crate) compaction: Mutex<()>,
    /// The writer section.
    pub(crate) section: Mutex<Section<F>>,
    /// Live segments by id; changed inside the section only.
    pub(crate) segments: RwLock<BTreeMap<u64, Arc<Segment<F>>>>,
    /// `None` when read-only.
    pub(crate) manifest: Mutex<Option<Manifest<F>>>,
    /// A sync of the directory has failed.
    pub(crate) dir_sync_failed: Mutex<bool>,
    pub(crate) commit: Commit,
    pub(crate) upkeep: Upkeep<F>,
    pub(crate) background: Background,
    pub(crate) reserve: Reserve,
    pub(crate) populate: Populate,
    pub(crate) cold: Cold,
    pub(crate) interval: Interval,
    /// Whether there may be pending writes: set before the section that stored one is left, cleared
    /// when the last one stands in the index.
    pub(crate) has_pending: AtomicBool,
    /// A sync failed.
    pub(crate) poisoned: AtomicBool,
    /// Keys written since the last good sync, once poisoned.
    pub(crate) undurable: OnceLock<HashSet<Fingerprint>>,
    /// What a writer looked up before it entered the section still holds if this has not moved.
    pub(crate) version: Version,
    /// Maps of segments that are gone but may still be looked at.
    pub(crate) retired: Mutex<Vec<(Weak<Map>, u64)>>,
    /// Those that may live, the oldest first.
    pub(crate) snapshots: Mutex<Vec<Weak<Frozen>>>,
    pub(crate) counters: Counters,
    pub(crate) timers: Timers,
    pub(crate) report: RecoveryReport,
}

/// What writers appended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Sets and removes.
    pub(crate) records: u64,
    /// Bytes of their keys and values.
    pub(crate) bytes: u64,
    /// Bytes appended to the log for them, headers and what the store notes for itself included.
    pub(crate) appended: u64,
}

/// What only the holder of the section touches.
pub struct Section<F: Fs> {
    /// The segment being written; `None` before the first write of a life.
    pub(crate) active: Option<Active<F>>,
    /// The unsealed segment of a clean close, before the first write.
    pub(crate) resumable: Option<Resumable<F>>,
    /// A log segment that is complete but not yet sealed.
    pub(crate) sealing: Option<Arc<Segment<F>>>,
    /// How ended segments end.
    pub(crate) ends: BTreeMap<u64, End>,
    /// The newest view.
    pub(crate) view: Arc<View>,
    /// End of the last complete log segment: what the next LINK names.
    pub(crate) log_end: LogEnd,
    pub(crate) next_lsn: u64,
    pub(crate) durable_lsn: u64,
    /// What the last MARK stated.
    pub(crate) marked_lsn: u64,
    pub(crate) pending: Pending,
    /// Bulk loads under way.
    pub(crate) loads: Loads,
    pub(crate) deadlines: Deadlines,
    /// When the active segment was activated, and the number of group commits then.
    pub(crate) activated: (Duration, u64),
    /// Bytes a second that the segment before it was filled with, if that was fast.
    pub(crate) pace: u64,
    /// What was written since the store was opened.
    pub(crate) written: Written,
    /// Bytes of data records in all segments.
    pub(crate) payload: u64,
    /// Those of them that are not the newest of their key.
    pub(crate) dead: u64,
    /// Those that are, and have expired, when that was last counted; and the Unix millisecond at which
    /// to count again.
    pub(crate) expired: u64,
    pub(crate) count_expired_at: u64,
    /// The compaction thread looks at that time by itself.
    pub(crate) watched: bool,
    /// Garbage below which a write need not think of compaction (again).
    pub(crate) compact_floor: u64,
    pub(crate) closed: bool,
}

impl<F: Fs> Section<F> {
    /// LSN of the FOOTER of the segment that is being sealed.
    pub(crate) fn sealing_lsn(&self) -> Option<u64> {
        let id = self.sealing.as_ref()?.header.id;
        self.ends.get(&id).map(|end| end.end_lsn)
    }
}

/// The segment being written.
pub struct Active<F: Fs> {
    pub(crate) segment: Arc<Segment<F>>,
    pub(crate) map: MapWriter,
    /// Offset behind its last record.
    pub(crate) offset: u64,
    /// Bytes allocated.
    pub(crate) capacity: u64,
    pub(crate) records: u64,
    pub(crate) min_lsn: u64,
    pub(crate) max_lsn: u64,
    pub(crate) payload: u64,
    pub(crate) ahead: Ahead,
    /// Offset at which this life began to write it.
    pub(crate) begun: u64,
    /// Offset up to which a hint file covers it.
    pub(crate) hinted: u64,
    /// Its successor has been asked for.
    pub(crate) next_asked: bool,
}

impl<F: Fs> Engine<F> {
    /// Opens the store in `fs`, which the caller has locked.
    ///
    /// # Errors
    /// See [`crate::Options::open`].
    pub fn open(fs: F, config: Config) -> Result<Arc<Self>> {
        let started = std::time::Instant::now();
        use_fastest();
        let found = recover(&fs, &config)?;
        let Recovered {
            manifest,
            hash_key,
            segments,
            ends,
            view,
            index,
            windows,
            resumable,
            log_end,
            next_lsn,
            durable_lsn,
            unhinted,
            mut report,
        } = found;
        report.duration = started.elapsed();
        let total = |of: fn(&crate::engine::segment::Slot) -> &AtomicU64| {
            let sum: u64 = view.slots().map(|s| of(s).load(Ordering::Relaxed)).sum();
            sum
        };
        let payload = total(|slot| &slot.payload);
        let dead = payload - total(|slot| &slot.live);
        let count_expired_at = match view.slots().any(|slot| slot.expiring.is_any()) {
            true => 0,
            false => u64::MAX,
        };
        let stored = ends.values().map(|end| end.length).sum();
        let reserve = Reserve::found(&fs, config.reserve && !config.read_only, stored);
        let engine = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            fs,
            config,
            hash_key,
            index,
            windows,
            compaction: Mutex::new(()),
            section: Mutex::new(Section {
                active: None,
                resumable,
                sealing: None,
                ends,
                view,
                log_end,
                next_lsn,
                durable_lsn,
                marked_lsn: 0,
                pending: Pending::default(),
                loads: Loads::default(),
                deadlines: Deadlines::default(),
                activated: (Duration::ZERO, 0),
                pace: 0,
                written: Written::default(),
                payload,
                dead,
                expired: 0,
                count_expired_at,
                watched: false,
                compact_floor: 0,
                closed: false,
            }),
            segments: RwLock::new(segments),
            manifest: Mutex::new(manifest),
            dir_sync_failed: Mutex::new(false),
            commit: Commit::new(durable_lsn),
            upkeep: Upkeep::default(),
            background: Background::default(),
            reserve,
            populate: Populate::default(),
            cold: Cold::default(),
            interval: Interval::default(),
            has_pending: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            undurable: OnceLock::new(),
            version: Version::default(),
            retired: Mutex::new(Vec::new()),
            snapshots: Mutex::new(Vec::new()),
            counters: Counters::default(),
            timers: Timers::default(),
            report,
        });
        engine.expect_cold_reads(std::iter::empty());
        engine.watch_expiry();
        engine.ask_for_hints(&unhinted);
        Ok(engine)
    }

    /// What opening found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Live keys. Expired ones that were not yet reclaimed count.
    pub fn len(&self) -> u64 {
        self.index.len()
    }

    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Refuses to read a key whose newest version may not be on disk after a failed sync.
    #[inline]
    pub(crate) fn check_readable(&self, key: &[u8]) -> Result<()> {
        match self.may_be_poisoned() {
            true => self.check_poisoned(key),
            false => Ok(()),
        }
    }

    /// Whether [`Engine::check_readable`] must look closer.
    #[inline]
    pub(crate) fn may_be_poisoned(&self) -> bool {
        self.is_poisoned() || self.upkeep.has_failed()
    }

    #[cold]
    fn check_poisoned(&self, key: &[u8]) -> Result<()> {
        if !self.is_poisoned() {
            // A sync failed beside the writers, and none has come by since.
            self.poison(&mut self.section.lock());
        }
        let undurable = self.undurable.get();
        let fingerprint = self.hash_key.fingerprint(key);
        match undurable.is_none_or(|keys| keys.contains(&fingerprint)) {
            true => Err(Error::Poisoned),
            false => Ok(()),
        }
    }

    /// Refuses to write to a store that is read-only, closed or poisoned.
    pub(crate) fn check_writable(&self, section: &mut Section<F>) -> Result<()> {
        if self.config.read_only {
            return Err(Error::ReadOnly);
        }
        if section.closed {
            return Err(Error::Closed);
        }
        if self.upkeep.has_failed() {
            self.poison(section);
        }
        match self.is_poisoned() {
            true => Err(Error::Poisoned),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::raw::checksum;
    use crate::storage::real::RealFs;

    #[test]
    fn an_open_store_uses_the_fastest_checksum_there_is() {
        let config = Config::new(&crate::engine::options::Options::new());
        let engine = Engine::open(RealFs::in_memory(), config).expect("it opens");
        assert_eq!(kvs_format::crc::is_fast(), checksum::is_there());
        drop(engine);
    }
}
