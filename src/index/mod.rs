//! Keys -> the newest place of each, in memory: 8 bytes an entry whatever the key's length.
//!
//! The table holds [`Word`]s and never a key: whether a candidate is the key asked for is decided in
//! the log, by the caller, outside the lock. `V` is whatever the caller needs to find a window's
//! segment; every shard carries its own reference to it, so that a reader touches one lock only.
//!
//! Invariants
//! - A word is in the table only while its segment is in the view of the same shard.
//! - A shard's table is shared with snapshots; the first change after one copies it.

mod ahead;
mod forecast;
mod table;
mod words;

pub use forecast::forecast_bytes;
pub use table::{Index, ShardMut, ShardSnapshot, smallest};
