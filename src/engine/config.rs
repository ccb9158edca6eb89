//! What the engine needs to know of the options, and the sizes that follow from them.

use std::sync::Arc;
use std::time::Duration;

use kvs_format::segment::PAGE_BYTES;
use kvs_format::system::CLOSING_BYTES;

use crate::engine::options::{Clock, Compaction, Durability, Entropy, Options, SEGMENT_BYTES_MAX};
use crate::engine::time::{WallClock, millis};

/// Smallest segment of a store that chooses its own sizes.
pub const GROWING_BYTES_MIN: u64 = 4 << 20;

/// Largest segment of a store that is small, but filled fast.
pub const PACED_BYTES_MAX: u64 = 16 << 20;

/// Parts of a second that filling a segment is to take at least.
const PACE_PARTS: u64 = 16;

/// Segments that a store of middling size consists of.
const STORE_PARTS: u64 = 16;

/// Options as the engine sees them.
#[derive(Clone)]
pub struct Config {
    /// When a write returns.
    pub durability: Durability,
    /// Nothing is written.
    pub read_only: bool,
    /// `get` checks what it returns.
    pub verify_reads: bool,
    /// Fixed size of new segments.
    pub segment_bytes: Option<u64>,
    /// Who compacts.
    pub compaction: Compaction,
    /// Bytes of removed segments still in use beyond which compaction stops.
    pub pinned_bytes_max: u64,
    /// Bytes of memory beyond which the index does not grow.
    pub index_bytes_max: Option<u64>,
    /// How long closing may compact.
    pub close_budget: Duration,
    /// Room is set aside for the day when the disk is full.
    pub reserve: bool,
    /// log2 of the number of shards of a new store.
    pub shard_bits: u8,
    /// Sealing and preparing happen on a thread of their own; otherwise in the call that needs them.
    pub threads: bool,
    /// Files may be cut to what counts. Not after a life in this process that ended badly: values it
    /// gave out may still look behind the end that recovery finds.
    pub trim: bool,
    /// Source of salts.
    pub entropy: Entropy,
    /// Time since some moment in the past; never goes back.
    pub clock: Clock,
    /// By which records expire.
    pub(crate) wall_clock: WallClock,
    /// Milliseconds that a value lives if nothing else is said.
    pub default_ttl: Option<u64>,
    /// Bytes of memory to reckon with; `None`: those the system states.
    pub memory_bytes: Option<u64>,
}

impl Config {
    /// Of `options`, for the real file system.
    pub fn new(options: &Options) -> Self {
        Self {
            durability: options.durability,
            read_only: options.read_only,
            verify_reads: options.verify_reads,
            segment_bytes: options.segment_bytes,
            compaction: options.compaction,
            pinned_bytes_max: options.pinned_bytes_max,
            index_bytes_max: options.index_bytes_max,
            close_budget: options.close_budget,
            reserve: true,
            shard_bits: options.shard_bits,
            threads: true,
            trim: true,
            wall_clock: options.wall_clock.clone(),
            default_ttl: options.default_ttl.map(millis),
            memory_bytes: None,
            clock: Arc::new({
                let start = std::time::Instant::now();
                move || start.elapsed()
            }),
            entropy: Arc::new(|| {
                let mut bytes = [0u8; 16];
                let flags = rustix::rand::GetRandomFlags::empty();
                let got = rustix::rand::getrandom(&mut bytes, flags)?;
                // Up to 256 bytes come whole once the pool is initialised (getrandom(2)).
                match got == bytes.len() {
                    true => Ok(bytes),
                    false => Err(std::io::ErrorKind::UnexpectedEof.into()),
                }
            }),
        }
    }

    /// Whether pages are brought in ahead of the writer.
    pub fn populates(&self) -> bool {
        self.threads && self.durability != Durability::Sync
    }

    /// Whether compaction happens on a thread of its own.
    pub fn compacts_in_background(&self) -> bool {
        self.threads && self.compaction == Compaction::Background
    }

    /// Size of the next segment of a store of `stored` bytes that must hold a run of `record` bytes.
    ///
    /// A sixteenth of the store, as a power of two from 4 to 256 MiB. Two segments are allocated
    /// ahead of what is written, so this is also how much larger than its records a store is on disk;
    /// and segments much smaller than the store are what lets compaction choose those with the most
    /// garbage (a quarter: 1.2 of the key and value bytes allocated in vain at a million small pairs). A
    /// larger record gets a segment of its own size. Of a store that is being overwritten, or filled fast: see
    /// [`Config::overwritten_size`] and [`Config::paced_size`].
    pub fn segment_size(&self, stored: u64, record: u64) -> u64 {
        let usual = self.segment_bytes.unwrap_or_else(|| {
            (stored / STORE_PARTS)
                .next_power_of_two()
                .clamp(GROWING_BYTES_MIN, SEGMENT_BYTES_MAX)
        });
        usual.max(self.segment_size_min(record))
    }

    /// As [`Config::segment_size`], of a store much of which is garbage: half of that. What is allocated ahead
    /// is room that garbage could have; and the more garbage there is, the less has to be copied for each
    /// byte that comes back.
    pub fn overwritten_size(&self, stored: u64, record: u64) -> u64 {
        self.segment_size(stored / 2, record)
    }

    /// As [`Config::segment_size`], of a store that is being filled at `pace` bytes a second: a segment for a
    /// sixteenth of a second, up to 16 MiB. Sealing one and preparing the next take 10 to 20 ms, however
    /// small they are; whoever fills one sooner would wait.
    pub fn paced_size(&self, stored: u64, record: u64, pace: u64) -> u64 {
        let paced = match self.segment_bytes {
            Some(_) => 0,
            None => (pace / PACE_PARTS).min(PACED_BYTES_MAX).next_power_of_two(),
        };
        self.segment_size(stored, record).max(paced)
    }

    /// Size of the smallest segment that holds a run of `record` bytes.
    pub fn segment_size_min(&self, record: u64) -> u64 {
        (PAGE_BYTES + CLOSING_BYTES + record).next_multiple_of(4096)
    }

    /// Bytes to allocate for going on in a segment that ends at `length`.
    pub fn room_for(&self, length: u64, stored: u64) -> u64 {
        let closing = length + CLOSING_BYTES;
        // Filled fast, it was perhaps larger than it would be by now.
        let paced = match self.segment_bytes {
            Some(_) => 0,
            None => length.min(PACED_BYTES_MAX).next_power_of_two(),
        };
        self.segment_size(stored + length, 0)
            .max(paced)
            .max(closing.next_multiple_of(4096))
            .min(kvs_format::SEGMENT_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_grow_with_the_store_within_their_bounds() {
        let config = Config::new(&Options::new());
        assert_eq!(config.segment_size(0, 100), 4 << 20);
        assert_eq!(config.segment_size(100 << 20, 100), 8 << 20);
        assert_eq!(config.segment_size(200 << 20, 100), 16 << 20);
        assert_eq!(config.segment_size(1 << 40, 100), 256 << 20);
        assert_eq!(config.overwritten_size(200 << 20, 100), 8 << 20);
        assert_eq!(config.room_for(9 << 20, 20 << 20), 16 << 20);
        assert_eq!(config.room_for(100, 20 << 20), 4 << 20);
        assert_eq!(config.paced_size(0, 100, 0), 4 << 20);
        assert_eq!(config.paced_size(0, 100, 100 << 20), 8 << 20);
        assert_eq!(config.paced_size(0, 100, u64::MAX), 16 << 20);
        assert_eq!(config.paced_size(1 << 40, 100, u64::MAX), 256 << 20);
        let large = config.segment_size(0, 1 << 30);
        assert!(large > 1 << 30 && large.is_multiple_of(4096));
        let fixed = Config::new(&Options::new().segment_bytes(64 << 10));
        assert_eq!(fixed.segment_size(1 << 40, 100), 64 << 10);
        assert_eq!(fixed.paced_size(0, 100, u64::MAX), 64 << 10);
        assert_eq!(fixed.segment_size(0, 64 << 10), (64 << 10) + 8192);
    }
}
