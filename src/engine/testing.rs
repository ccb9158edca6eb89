//! What tests and fuzzers need of the engine and programs do not: the engine over the simulated
//! file system, deterministic, with everything done in the calling thread.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvs_format::hint::ExpiryHistogram;
use kvs_format::record::Kind;

use crate::engine::batch::Batch;
use crate::engine::checkpoint::{CheckpointProgress, CheckpointReport, Sources};
use crate::engine::compaction::plan::Mode;
use crate::engine::config::Config;
use crate::engine::core::Engine;
use crate::engine::error::Result;
use crate::engine::options::{Durability, Options};
use crate::engine::pending::Ticket;
use crate::engine::reader::Reader;
use crate::engine::report::{CompactReport, RecoveryReport};
use crate::engine::store::Store;
use crate::engine::value::Value;
use crate::engine::writer::{One, When};
use crate::storage::fs::{Access, Fs};
use crate::storage::raw::mmap::{Map, MapWriter};
use crate::storage::real::RealFs;

pub use crate::engine::catalog::replay;

/// Opens the engine over `fs`. Salts come from a counter that starts at `seed`; no threads.
///
/// # Errors
/// As [`Options::open`].
pub fn open<F: Fs>(fs: F, options: &Options, seed: u64) -> Result<Arc<Engine<F>>> {
    // Time stands still: no interval is ever over.
    open_by_clock(fs, options, seed, || Duration::ZERO)
}

/// As [`open`], with a clock that tells the time since some moment in the past.
///
/// # Errors
/// As [`Options::open`].
pub fn open_by_clock<F: Fs>(
    fs: F,
    options: &Options,
    seed: u64,
    clock: impl Fn() -> Duration + Send + Sync + 'static,
) -> Result<Arc<Engine<F>>> {
    open_engine(fs, options, seed, clock, false)
}

/// As [`open_by_clock`], with the threads that a store has: what is sealed, prepared or synced beside
/// the writers is done whenever the scheduler likes.
///
/// # Errors
/// As [`Options::open`].
pub fn open_with_threads<F: Fs>(
    fs: F,
    options: &Options,
    seed: u64,
    clock: impl Fn() -> Duration + Send + Sync + 'static,
) -> Result<Arc<Engine<F>>> {
    open_engine(fs, options, seed, clock, true)
}

/// [`Options::open_in_memory`] as [`open`] opens: the same calls run the same instructions each time.
///
/// # Errors
/// As that.
pub fn open_in_memory(options: &Options, seed: u64) -> Result<Store> {
    Store::of_memory(open(RealFs::in_memory(), options, seed)?)
}

fn open_engine<F: Fs>(
    fs: F,
    options: &Options,
    seed: u64,
    clock: impl Fn() -> Duration + Send + Sync + 'static,
    threads: bool,
) -> Result<Arc<Engine<F>>> {
    options.check()?;
    let mut config = Config::new(options);
    config.threads = threads;
    config.clock = Arc::new(clock);
    let counter = AtomicU64::new(seed);
    config.entropy = Arc::new(move || {
        // splitmix64 (Steele, Lea, Flood, 2014): distinct and well spread is all a salt needs here.
        let word = || {
            let mut z = counter
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let mut salt = [0u8; 16];
        salt[..8].copy_from_slice(&word().to_le_bytes());
        salt[8..].copy_from_slice(&word().to_le_bytes());
        Ok(salt)
    });
    Engine::open(fs, config)
}

/// True if the model's memory is what a planted bug is in: `oracle_forgets`.
pub fn oracle_forgets() -> bool {
    planted!("oracle_forgets")
}

/// A key, its segment id, its offset and its LSN.
pub type IndexEntry = (Vec<u8>, u64, u64, u64);

impl<F: Fs> Engine<F> {
    /// [`crate::Store::set`].
    ///
    /// # Errors
    /// As that.
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.set_at(self.config.durability, key, value)
    }

    /// [`crate::Store::remove`].
    ///
    /// # Errors
    /// As that.
    pub fn remove(&self, key: &[u8]) -> Result<bool> {
        self.remove_at(self.config.durability, key)
    }

    /// [`crate::Store::write`].
    ///
    /// # Errors
    /// As that.
    pub fn write(&self, batch: &Batch) -> Result<()> {
        self.write_at(self.config.durability, batch)
    }

    /// As [`Engine::write`], and returns when the batch is stored: what [`Engine::wait_until`] wants.
    ///
    /// # Errors
    /// As [`crate::Store::write`].
    pub fn append_pending(&self, batch: &Batch) -> Result<Option<u64>> {
        let ticket = self.append_at(self.config.durability, batch)?;
        Ok(ticket.map(|ticket| ticket.0))
    }

    /// Returns when what was appended is as durable as its level says.
    ///
    /// # Errors
    /// As [`crate::Store::write`].
    pub fn wait_until(&self, ticket: u64) -> Result<()> {
        self.wait_for(Some(Ticket(ticket)))
    }

    /// The newest value, durable or not, and what must be durable before anybody is told of it.
    ///
    /// # Errors
    /// As [`crate::Store::get`].
    pub fn get_pending(&self, key: &[u8]) -> Result<(Option<Value>, Option<u64>)> {
        let newest = self.newest(key)?;
        Ok((newest.value, newest.ticket.map(|ticket| ticket.0)))
    }

    /// Closes the store without compacting it.
    ///
    /// # Errors
    /// As [`Engine::close_within`].
    pub fn close(&self) -> Result<()> {
        self.close_within(Duration::ZERO).map(|_| ())
    }

    /// [`crate::Store::reader`].
    pub fn reader(&self) -> Reader<'_, F> {
        Reader::new(self)
    }

    /// Compacts the i-th of the ended segments if bit i of `mask` is set, and no other.
    ///
    /// # Errors
    /// As [`crate::Store::compact`].
    pub fn compact_subset(&self, mask: u64) -> Result<CompactReport> {
        let _one = self.compaction.lock();
        self.compact_locked(Mode::Subset(mask), &mut |_| ControlFlow::Continue(()))
    }

    /// Ends the active segment and starts another, as if it had been full.
    ///
    /// # Errors
    /// As [`crate::Store::set`].
    pub fn rotate_now(&self) -> Result<()> {
        let mut section = self.section.lock();
        self.check_writable(&mut section)?;
        self.begin_life(&mut section)?;
        match section
            .active
            .as_ref()
            .is_some_and(|active| active.records > 0)
        {
            true => self.rotate(&mut section, 0),
            false => Ok(()),
        }
    }

    /// Stores a pair that counts as removed from `expires_at` (Unix milliseconds) on.
    ///
    /// # Errors
    /// As [`crate::Store::set`].
    pub fn set_expiring(&self, key: &[u8], value: &[u8], expires_at: u64) -> Result<()> {
        self.set_expiring_at(self.config.durability, key, value, expires_at)
    }

    /// As [`Engine::set_expiring`], at another level.
    ///
    /// # Errors
    /// As [`crate::Store::set`].
    pub fn set_expiring_at(
        &self,
        level: Durability,
        key: &[u8],
        value: &[u8],
        expires_at: u64,
    ) -> Result<()> {
        let one = One {
            kind: Kind::Set,
            expires_at: Some(expires_at),
            key,
            value,
        };
        self.write_one(level, one, When::Always).map(|_| ())
    }

    /// [`crate::Store::checkpoint`] by way of the empty directory `to`, which becomes `dest`.
    ///
    /// # Errors
    /// As that.
    pub fn checkpoint_by(&self, to: &F, dest: &str) -> Result<CheckpointReport> {
        let sources = Sources {
            links: true,
            previous: None,
        };
        let mut control = |_: &CheckpointProgress| ControlFlow::Continue(());
        self.checkpoint(to, Path::new(dest), &sources, &mut control)
    }

    /// The time by which records expire, in Unix milliseconds.
    pub fn wall_clock_ms(&self) -> u64 {
        self.now_ms()
    }

    /// Of every segment with records that expire: its id, when they do, and bytes of those that are the
    /// newest of their key.
    pub fn expiring(&self) -> Vec<(u64, ExpiryHistogram, u64)> {
        let segments = self.segments.read();
        let all = segments.iter().map(|(id, segment)| {
            let expiring = &segment.slot.expiring;
            (*id, expiring.histogram(), expiring.live())
        });
        all.filter(|(_, histogram, _)| histogram.total() > 0)
            .collect()
    }

    /// Every key of the index, sorted: what two ways of opening
    /// must agree on.
    ///
    /// # Errors
    /// As [`crate::Store::iter`].
    pub fn index_entries(self: &Arc<Self>) -> Result<Vec<IndexEntry>> {
        let mut entries = Vec::new();
        for shard in self.index.snapshot() {
            for word in shard.table.iter() {
                let pin = shard.view.pin(*word);
                let offset = pin.offset_of(*word);
                let record = crate::engine::read::verified(&pin, offset)
                    .map_err(|reason| self.corrupt(pin.segment_id, offset, reason))?;
                let lsn = record.header.lsn;
                entries.push((record.key.to_vec(), pin.segment_id, offset, lsn));
            }
        }
        entries.sort();
        Ok(entries)
    }
}

/// [`crate::repair`] of the store in `fs` into a new one in `to`; the report, and what was salvaged if
/// it was asked for.
///
/// # Errors
/// As that.
pub fn repair_by<F: Fs>(fs: &F, to: Option<F>) -> Result<RecoveryReport> {
    let mut salvaged = crate::engine::repair::examine(fs)?;
    if let Some(to) = to {
        let options = Options::new().segment_bytes(64 << 10);
        let engine = open(to, &options, 1)?;
        salvaged.pour(fs, &engine)?;
    }
    Ok(salvaged.report)
}

/// A mapped file that takes bare appends: the ceiling that benches measure against.
pub struct FileMap {
    writer: MapWriter,
    end: u64,
}

impl FileMap {
    /// Maps the first `len` bytes of `file`, which has them allocated.
    ///
    /// # Errors
    /// What mapping said.
    pub fn new(file: &std::fs::File, len: u64) -> std::io::Result<Self> {
        let (_, writer) = Map::new(file, len, Access::ReadWrite)?;
        Ok(Self { writer, end: 0 })
    }

    /// Stores `parts` one behind the other and steps by `size`.
    pub fn append(&mut self, parts: &[&[u8]], size: u64) {
        self.writer.store(self.end, parts);
        self.end += size;
        self.writer.publish(self.end);
    }
}
