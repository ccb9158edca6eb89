//! How a store is opened.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::engine::error::{Error, Result};
use crate::engine::time::WallClock;

/// When a write returns, and what survives.
///
/// | level | returns | process killed | power cut | visible to readers |
/// |---|---|---|---|---|
/// | `Os` | when the bytes are in the kernel's hands | nothing acknowledged is lost | may lose the newest writes, a suffix | at return |
/// | `Interval(d)` | as `Os`; a sync begins within `d / 2` | nothing acknowledged is lost | may lose the newest writes, a suffix that was acknowledged within `d` | at return |
/// | `Sync` | after an `fdatasync` that began after the write | nothing acknowledged is lost | nothing acknowledged is lost | once durable |
///
/// Writes of different levels mix freely, on one key too: per key, what readers see follows the order
/// of the writes, and what survives a power cut is always a prefix of all writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// The operating system has the bytes; it writes them when it likes.
    Os,
    /// As `Os`, and a thread of the store syncs. A write that stays undurable for the whole interval,
    /// because the device is slow, makes the next ones wait until it is durable.
    Interval(Duration),
    /// The device has the bytes. Concurrent writers share one sync.
    Sync,
}

impl Default for Durability {
    /// `Interval` of one second.
    fn default() -> Self {
        Self::Interval(Duration::from_secs(1))
    }
}

/// Who gives back the space of overwritten and removed values.
///
/// Compaction copies the live records of segments that hold much garbage into new ones and removes
/// the old ones. Reads and writes go on meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compaction {
    /// A thread of the store's own, from garbage of 17/32 of the live bytes on. It works half of the
    /// time until there is 19/32, then all the time; beyond 21/32 (and 32 MiB) writers wait for it, at
    /// most 25 milliseconds for every 256 KiB. Closing compacts too: [`Options::close_budget`].
    #[default]
    Background,
    /// The write that finds more garbage than data, before it returns. No file comes or goes between
    /// two calls, except when a segment is prepared or sealed.
    Foreground,
    /// Nobody but [`crate::Store::compact`].
    Manual,
}

/// Where random bytes for salts come from.
pub(crate) type Entropy = Arc<dyn Fn() -> std::io::Result<[u8; 16]> + Send + Sync>;

/// What tells the time.
pub(crate) type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Smallest segment size that may be set, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// Largest segment size that may be set, in bytes: one index window.
pub const SEGMENT_BYTES_MAX: u64 = 256 << 20;

/// How a store is opened: a builder like [`std::fs::OpenOptions`].
///
/// ```
/// use kvs::{Durability, Options};
///
/// let dir = std::env::temp_dir().join(format!("kvs-options-{}", std::process::id()));
/// let store = Options::new().durability(Durability::Sync).open(&dir)?;
/// store.set("key", "value")?;
/// store.close()?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), kvs::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    pub(crate) durability: Durability,
    pub(crate) read_only: bool,
    pub(crate) verify_reads: bool,
    pub(crate) segment_bytes: Option<u64>,
    pub(crate) compaction: Compaction,
    pub(crate) pinned_bytes_max: u64,
    pub(crate) index_bytes_max: Option<u64>,
    pub(crate) close_budget: Duration,
    pub(crate) default_ttl: Option<Duration>,
    pub(crate) wall_clock: WallClock,
    pub(crate) shard_bits: u8,
    pub(crate) force_write_path: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The defaults: [`Durability::Interval`] of one second, verified reads, segments that grow with the
    /// store, compaction in the background.
    #[must_use]
    pub fn new() -> Self {
        Self {
            durability: Durability::default(),
            read_only: false,
            verify_reads: true,
            segment_bytes: None,
            compaction: Compaction::default(),
            pinned_bytes_max: 1 << 30,
            index_bytes_max: None,
            close_budget: Duration::from_secs(1),
            default_ttl: None,
            wall_clock: WallClock::system(),
            shard_bits: 10,
            force_write_path: false,
        }
    }

    /// When a write returns. Default: [`Durability::Interval`] of one second.
    /// [`crate::Store::with_durability`] chooses another level for some calls.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Opens under a shared lock and writes nothing, not even to repair. Default: false.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether `get` checks both checksums of the record it returns. Default: true. Without, `get`
    /// compares the key only, and damage to a value goes unnoticed until `verify` or compaction.
    #[must_use]
    pub fn verify_reads(mut self, verify_reads: bool) -> Self {
        self.verify_reads = verify_reads;
        self
    }

    /// Fixed size of new segments, from [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`]. Default: a
    /// sixteenth of the store, or half of that while it is being overwritten; at least 4 MiB, at most 256
    /// MiB. A store that is filled fast gets at least those for a sixteenth of a second, up to 16 MiB. A larger record gets a segment of its own size.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// Who compacts. Default: [`Compaction::Background`].
    #[must_use]
    pub fn compaction(mut self, compaction: Compaction) -> Self {
        self.compaction = compaction;
        self
    }

    /// Most bytes of removed segments that snapshots and values still held may keep on disk.
    /// Default: 1 GiB.
    ///
    /// A [`crate::Snapshot`] or an iterator keeps every segment of its moment, a [`crate::Value`] or
    /// anything else that borrows a record the whole segment it is in. Beyond this many bytes snapshots
    /// are given up, the oldest first, and answer [`Error::SnapshotExpired`] from then on. If values
    /// alone keep that much, automatic compaction pauses and [`crate::Store::compact`] answers
    /// [`Error::Pinned`]: garbage then grows until values are dropped. [`crate::Stats`] tells how much is
    /// pinned, how much of it by snapshots, and whether compaction is paused by it.
    ///
    /// There is one bound for both since it is one disk: a larger one for snapshots would never be
    /// reached, because nothing is removed any more beyond this one.
    #[must_use]
    pub fn pinned_bytes_max(mut self, bytes: u64) -> Self {
        self.pinned_bytes_max = bytes;
        self
    }

    /// Most bytes of memory that the index may take. Default: no limit.
    ///
    /// A write of a new key that would make the index grow beyond it is refused with
    /// [`Error::IndexFull`] before anything is stored, a batch as a whole. Overwriting, removing, reading
    /// and compacting go on, and a removed key makes room for another. Tables double when they are
    /// full, one of 1024 at a time: the table that grows exists twice for that moment, which is not
    /// counted. What iterators and snapshots keep of older states counts.
    ///
    /// Not a condition for opening: a store whose index is larger opens, to be read, written over and
    /// removed from. [`crate::Stats::index_bytes`] tells what the index takes, `kvs plan` what it will.
    #[must_use]
    pub fn index_bytes_max(mut self, bytes: u64) -> Self {
        self.index_bytes_max = Some(bytes);
        self
    }

    /// How long [`crate::Store::close`] may compact with [`Compaction::Background`], if more than a fifth of
    /// the store is garbage; a step that has begun may take a quarter longer. What is done by then
    /// stays done. Dropping the last handle never compacts. Default: 1 second.
    #[must_use]
    pub fn close_budget(mut self, budget: Duration) -> Self {
        self.close_budget = budget;
        self
    }

    /// How long a value lives that is stored without saying so itself, at least a millisecond. Default:
    /// `None`, for ever.
    ///
    /// It holds for every way of storing a value, batches included; [`crate::SetOptions`] and
    /// [`crate::Batch::set_with_expiry`] say otherwise for one. Values that are there already keep what
    /// they have.
    #[must_use]
    pub fn default_ttl(mut self, ttl: Option<Duration>) -> Self {
        self.default_ttl = ttl;
        self
    }

    /// What tells the time by which keys expire. Default: the system's clock.
    ///
    /// The store takes the latest time it was ever told: where `now` goes back, time stands still.
    /// That holds as long as the process lives. Nothing on disk states the time, so after a restart
    /// with a clock that was set back, a key that had expired shows again until its time comes anew,
    /// unless its space was given back meanwhile; also one that was removed when it had expired, since
    /// nothing is written then. No value shows that was overwritten before it expired, and writes are
    /// never ordered by the clock.
    ///
    /// Options are equal only if they have the same clock: those for a second handle of an open store
    /// are a clone of the first. `now` is called by every thread that meets a key that expires.
    #[must_use]
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.wall_clock = WallClock::new(now);
        self
    }

    /// log2 of the number of index shards, 0 to 10, fixed when the store is created.
    #[doc(hidden)]
    #[must_use]
    pub fn shard_bits(mut self, bits: u8) -> Self {
        self.shard_bits = bits;
        self
    }

    /// Writes records by `pwrite` instead of through the map, as on file systems where a store
    /// through a map may fail.
    #[doc(hidden)]
    #[must_use]
    pub fn force_write_path(mut self, force: bool) -> Self {
        self.force_write_path = force;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let sizes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        if self
            .segment_bytes
            .is_some_and(|bytes| !sizes.contains(&bytes))
        {
            return Err(Error::InvalidOption {
                option: "segment_bytes",
                expected: "from 65,536 to 268,435,456",
            });
        }
        if self.default_ttl.is_some_and(|ttl| ttl.as_millis() == 0) {
            return Err(Error::InvalidOption {
                option: "default_ttl",
                expected: "at least a millisecond",
            });
        }
        if self.shard_bits > kvs_format::hash::SHARD_BITS_MAX {
            return Err(Error::InvalidOption {
                option: "shard_bits",
                expected: "from 0 to 10",
            });
        }
        Ok(())
    }
}
