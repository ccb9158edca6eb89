//! What a store of so many pairs will take: memory, disk, time to open.
//!
//! What the format and the engine decide is computed as they decide it: the size of a record and a
//! hint, the next segment's size, the reserve, the tables' doubling. What a machine decides is
//! measured, or estimated where it says so; those constants stand here and nowhere else.

use std::time::Duration;

use kvs_format::hint::{ENTRY_BYTES, HEADER_BYTES, TRAILER_BYTES};
use kvs_format::segment::PAGE_BYTES;
use kvs_format::system::CLOSING_BYTES;
use kvs_format::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::engine::compaction::plan::Marks;
use crate::engine::config::{Config, GROWING_BYTES_MIN, PACED_BYTES_MAX};
use crate::engine::error::{Error, Result};
use crate::engine::options::Options;
use crate::engine::reserve;
use crate::engine::tasks::HINTS_WAITING_MAX;
use crate::index::forecast_bytes;

/// Time to open a store, for each key that comes from a hint: `cargo bench --bench open`, one million
/// pairs of 16 and 100 bytes, 24 to 26 ns on two cores of a virtual machine (EPYC, Linux 6.18).
const HINT_NS: f64 = 25.0;

/// Time to open a store for writing after a kill, for each byte of log that no hint covers: 0.6 ns to read
/// and check it (the row of that bench without hints, less that with them), the rest to write it again and
/// sync it, at the 2.2 GB/s of that machine's disk.
const SCAN_NS: f64 = 1.0;

/// Time to open it then beside that: syncs, the edit that says where the log ends, a fresh segment. The row
/// `killed` of that bench, less the row with hints and what [`SCAN_NS`] comes to: 24 ms in two runs.
const REPAIR_NS: f64 = 24_000_000.0;

/// Time to open a store whatever it holds: the row `one key` of that bench, 0.22 to 0.30 ms.
const OPEN_NS: f64 = 250_000.0;

/// Private memory beside the index: parts of the engine, counters and views of a few segments. Rounded;
/// the sum of all memory is compared with real stores by `tests/plan.rs`.
const ENGINE_BYTES: u64 = 512 << 10;

/// Private memory for each segment: counters in 16 stripes of 128 bytes, names, places.
const SEGMENT_BYTES: u64 = 4 << 10;

/// Bytes of disk of the MANIFEST: what it is allocated in advance.
const MANIFEST_BYTES: u64 = 64 << 10;

/// Blocks of a file system.
const BLOCK_BYTES: u64 = 4096;

/// Pairs of a store that is yet to be: all keys of one length, all values of one length.
///
/// ```
/// let forecast = kvs::Plan::new(1_000_000, 16, 100).forecast()?;
/// assert!(forecast.index_bytes > 10_000_000 && forecast.index_bytes < 21_000_000);
/// # Ok::<(), kvs::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    keys: u64,
    key_len: u64,
    value_len: u64,
    expiring: bool,
}

/// What a store will take, opened with default options: see [`Plan::forecast`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forecast {
    /// Bytes of memory of the index, as in [`crate::Stats::index_bytes`].
    pub index_bytes: u64,
    /// Bytes of memory that are the process' own: index and engine. What the allocator keeps of freed
    /// memory, after opening or growing, comes on top for a while. The maps of the segments are the
    /// system's cache, which it takes back when it needs memory.
    pub private_bytes: u64,
    /// The same while the store is opened: the hints are read into memory.
    pub opening_bytes: u64,
    /// Segments; fewer if a store of less than 256 MiB is filled fast.
    pub segments: u64,
    /// Bytes of the segments, without garbage.
    pub data_bytes: u64,
    /// Bytes of the hint files.
    pub hint_bytes: u64,
    /// Bytes of disk set aside for removing and compacting on a full disk.
    pub reserve_bytes: u64,
    /// Bytes of disk after closing, without garbage.
    pub closed_disk_bytes: u64,
    /// Bytes of disk while it is written: the segment being written and the next one are allocated
    /// whole. A store of less than 256 MiB that is filled fast has larger ones, and takes up to 32 MiB more.
    pub open_disk_bytes: u64,
    /// Bytes of disk at most, while pairs are overwritten as fast as compaction lets writers go on. A
    /// manual compaction of everything at once takes up to twice the data instead.
    pub peak_disk_bytes: u64,
    /// Time to open it after a clean close, with files in the cache.
    pub open_clean: Duration,
    /// Time to open it for writing after its process was killed while it wrote, with files in the cache; at
    /// most, since how much of the log has no hint then is chance.
    pub open_killed: Duration,
}

impl Plan {
    /// A store of `keys` keys of `key_len` bytes, with values of `value_len` bytes.
    #[must_use]
    pub fn new(keys: u64, key_len: u64, value_len: u64) -> Self {
        Self {
            keys,
            key_len,
            value_len,
            expiring: false,
        }
    }

    /// Whether the keys expire: a record then takes 8 bytes more. Default: false.
    #[must_use]
    pub fn expiring(mut self, expiring: bool) -> Self {
        self.expiring = expiring;
        self
    }

    /// Bytes of one record.
    fn record(&self) -> Result<u64> {
        let lengths = (
            usize::try_from(self.key_len).unwrap_or(usize::MAX),
            usize::try_from(self.value_len).unwrap_or(usize::MAX),
        );
        let kind = match self.expiring {
            true => kvs_format::record::Kind::SetExpiring,
            false => kvs_format::record::Kind::Set,
        };
        match lengths {
            (len, _) if len > KEY_BYTES_MAX => Err(Error::KeyTooLong {
                len,
                max: KEY_BYTES_MAX,
            }),
            (_, len) if len > VALUE_BYTES_MAX => Err(Error::ValueTooLong {
                len,
                max: VALUE_BYTES_MAX,
            }),
            (key, value) => Ok(kvs_format::record::size_of_record(kind, key, value)),
        }
    }

    /// What the store will take, opened with default options on a 64-bit machine. Memory and disk hold
    /// within 15 % once it has a few megabytes (while it is open: see [`Forecast::open_disk_bytes`]); times are those of one machine and another one's may be
    /// half or twice that (`cargo bench --bench open` prints both on yours).
    ///
    /// Cost: at most a few milliseconds.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`], [`Error::ValueTooLong`]; [`Error::StoreFull`] if it would have more than 16
    /// TiB of segments.
    pub fn forecast(&self) -> Result<Forecast> {
        let config = Config::new(&Options::new());
        let record = self.record()?;
        let log = Log::written(&config, self.keys, record)?;
        let index_bytes = forecast_bytes(config.shard_bits, self.keys);
        let hint =
            |records: u64| (HEADER_BYTES + TRAILER_BYTES) as u64 + records * ENTRY_BYTES as u64;
        let hint_bytes = match self.keys {
            0 => 0,
            keys => hint(keys) + hint(0) * (log.segments - 1),
        };
        let files = 2 * log.segments * (BLOCK_BYTES / 2) + MANIFEST_BYTES;
        let closed_reserve = reserve::target(log.bytes);
        let closed_disk_bytes = log.bytes + hint_bytes + files + closed_reserve;
        let ahead = config.segment_size(log.bytes, record);
        // Up to half of the last segment the next one is not there yet; then it is.
        let open_disk_bytes =
            closed_disk_bytes + log.left + if log.is_half_full { ahead } else { 0 };
        // Writers wait for compaction at the mark, and are held a little beyond it.
        let marks = Marks::of(log.bytes);
        let fast = match log.bytes > GROWING_BYTES_MIN / 2 {
            true => ahead.max(PACED_BYTES_MAX),
            false => ahead,
        };
        let garbage = match self.keys {
            0 => 0,
            _ => marks.brake + marks.brake / 8,
        };
        let peak_disk_bytes = closed_disk_bytes
            + garbage
            + garbage / record * ENTRY_BYTES as u64
            + reserve::target(log.bytes + garbage).saturating_sub(closed_reserve)
            // The active and the next one, and what compaction writes.
            + ahead
            + 2 * fast;
        let private_bytes = index_bytes + ENGINE_BYTES + log.segments * SEGMENT_BYTES;
        let open = |ns: f64| Duration::from_nanos(ns as u64);
        let clean = OPEN_NS + HINT_NS * self.keys as f64;
        // The segment that is being written and the one before it may have no hint yet; of a store that is
        // being overwritten nor may some others.
        let unsealed = (2 * ahead + HINTS_WAITING_MAX).min(log.bytes + garbage) as f64;
        Ok(Forecast {
            index_bytes,
            private_bytes,
            opening_bytes: private_bytes + hint_bytes,
            segments: log.segments,
            data_bytes: log.bytes,
            hint_bytes,
            reserve_bytes: closed_reserve,
            closed_disk_bytes,
            open_disk_bytes,
            peak_disk_bytes,
            open_clean: open(clean),
            open_killed: open(clean + REPAIR_NS + SCAN_NS * unsealed),
        })
    }
}

/// Segments that are filled one after the other.
#[derive(Debug)]
struct Log {
    segments: u64,
    bytes: u64,
    /// Bytes of the last one that are not used.
    left: u64,
    is_half_full: bool,
}

impl Log {
    fn written(config: &Config, keys: u64, record: u64) -> Result<Self> {
        let mut log = Self {
            segments: 0,
            bytes: 0,
            left: 0,
            is_half_full: false,
        };
        let (mut left, mut windows) = (keys, 0);
        while left > 0 {
            let size = config.segment_size(log.bytes, record);
            windows += size.div_ceil(crate::storage::location::WINDOW_BYTES);
            if windows > crate::storage::location::WINDOWS_MAX as u64 {
                return Err(Error::StoreFull);
            }
            let records = ((size - PAGE_BYTES - CLOSING_BYTES) / record).min(left);
            let used = PAGE_BYTES + CLOSING_BYTES + records * record;
            left -= records;
            log.segments += 1;
            log.bytes += used;
            log.left = size - used.min(size);
            log.is_half_full = used > size / 2;
        }
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused() {
        let plan = |keys, key, value| Plan::new(keys, key, value).forecast();
        assert!(matches!(
            plan(1, KEY_BYTES_MAX as u64 + 1, 1),
            Err(Error::KeyTooLong { len: 65_536, .. })
        ));
        assert!(matches!(
            plan(1, 1, u64::MAX),
            Err(Error::ValueTooLong { .. })
        ));
        assert!(matches!(plan(u64::MAX, 0, 0), Err(Error::StoreFull)));
        assert!(matches!(plan(1 << 40, 16, 100), Err(Error::StoreFull)));
        assert!(plan(1, 65_535, VALUE_BYTES_MAX as u64).is_ok());
        let empty = plan(0, 16, 100).unwrap();
        assert_eq!(
            (empty.segments, empty.data_bytes, empty.hint_bytes),
            (0, 0, 0)
        );
        assert!(plan(10_000_000_000, 16, 100).is_ok());
    }

    #[test]
    fn keys_that_expire_take_more_and_more_keys_take_more() {
        let of = |keys, expiring| {
            Plan::new(keys, 16, 100)
                .expiring(expiring)
                .forecast()
                .unwrap()
        };
        let (plain, expiring) = (of(100_000, false), of(100_000, true));
        assert_eq!(expiring.data_bytes - plain.data_bytes, 800_000);
        assert_eq!(expiring.index_bytes, plain.index_bytes);
        let mut last = of(0, false);
        for keys in [1, 10, 1000, 100_000, 10_000_000, 1_000_000_000] {
            let next = of(keys, false);
            assert!(next.index_bytes > last.index_bytes && next.data_bytes > last.data_bytes);
            assert!(next.closed_disk_bytes <= next.open_disk_bytes);
            assert!(next.open_disk_bytes <= next.peak_disk_bytes, "{next:?}");
            assert!(next.open_clean > last.open_clean && next.open_killed > next.open_clean);
            last = next;
        }
    }
}
