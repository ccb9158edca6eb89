//! Engines behind the PingCAP "Practical Networked Applications in Rust" course.
//!
//! The course builds a key-value store in steps; each step has a place here:
//!
//! | course project | asks for | here |
//! |---|---|---|
//! | 1, the Rust toolbox | a command line and an in-memory `KvStore` | `src/bin/kvs`, [`KvStore`] over [`Options::open_in_memory`](crate::Options::open_in_memory) |
//! | 2, log-structured file I/O | `KvStore::open`, `Result`, compaction | [`KvStore`] over [`Store`](crate::Store) |
//! | 3, networking | a server over any engine, `sled` as another one | [`Engine`], `SledKvsEngine`, [`server`](crate::server) |
//! | 4, concurrency and parallelism | `trait KvsEngine` shared by threads, thread pools | [`KvsEngine`], [`thread_pool`](crate::thread_pool) |
//! | 5, asynchrony | engines that answer by futures | [`future`](crate::future) |
//!
//! The engine speaks bytes, the course speaks `String`: everything in this module is a thin
//! adapter, with no state and no file of its own, so the course's guarantees are the engine's. A server
//! speaks to an [`Engine`]: bytes, and a stated set of operations. Every [`KvsEngine`] can be one.
//!
//! Elsewhere: what the store promises (`engine`), the course's own suites (`tests/course.rs`,
//! `tests/course_net.rs`).

mod engine;
mod kv_store;
mod kvs_engine;
#[cfg(feature = "sled")]
mod sled;

#[cfg(feature = "sled")]
pub use self::sled::SledKvsEngine;
pub use engine::{
    Engine, EngineError, EngineResult, Figures, Newest, Operation, SetOptions, Ticket, Visit,
};
pub use kv_store::KvStore;
pub use kvs_engine::{EngineVisitor, KvsEngine, StringEngine};
