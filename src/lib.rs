//! Embedded, memory-mapped, crash-safe key-value store with zero-copy reads.
#![deny(unsafe_code)]
#![warn(missing_docs)]

#[macro_use]
mod planted;

pub mod client;
mod engine;
pub mod engines;
pub mod future;
mod index;
pub mod protocol;
pub mod server;
mod storage;
mod sync;
pub mod thread_pool;

pub use client::KvsClient;
pub use engine::batch::Batch;
pub use engine::checkpoint::{CheckpointOptions, CheckpointProgress, CheckpointReport};
pub use engine::cursor::Cursor;
pub use engine::error::{Error, Result};
pub use engine::expiry::{Expiry, SetOptions, Ttl};
pub use engine::forecast::{Forecast, Plan};
#[cfg(feature = "latency")]
pub use engine::latency::{Latency, LatencyReport};
pub use engine::options::{Compaction, Durability, Options, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
pub use engine::repair::{RepairOptions, repair};
pub use engine::report::{
    CloseReport, CompactProgress, CompactReport, CompactionStats, Damage, GROUP_SIZES, GroupStats,
    LoadReport, Lost, RecoveryReport, SegmentKind, SegmentStats, Stats, TornTail, Undone,
    VerifyReport,
};
pub use engine::rmw::Update;
pub use engine::value::{Key, Value};
pub use engine::{Iter, Keys, Prefix, Reader, Snapshot, Store};
#[cfg(feature = "sled")]
pub use engines::SledKvsEngine;
pub use engines::{KvStore, KvsEngine};
pub use server::KvsServer;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing {
    //! The engine over a simulated file system, and what the test suites need to look inside.
    pub use crate::engine::core::Engine;
    pub use crate::engine::dump::dump;
    pub use crate::engine::testing::*;
    pub use crate::engine::version::Version;
    pub use crate::storage::fs::{Access, Fs, FsFile};
    pub use crate::storage::published::Published;
    pub use crate::storage::real::RealFs;
    pub use crate::storage::sim;
}

/// The course's name for [`Error`].
pub use engine::error::Error as KvsError;
