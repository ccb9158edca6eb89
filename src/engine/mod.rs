//! What the store promises.
//!
//! [`Store`] is the public face; `core` says which parts the engine has and in which order they
//! may be locked. One writer section gives out log sequence numbers; readers never enter it.
//!
//! Elsewhere: the bytes (`kvs_format`), files and maps (`storage`), the table (`index`).

pub mod batch;
mod batched;
mod bulk;
pub mod catalog;
pub mod checkpoint;
mod cold;
mod commit;
mod compaction;
pub mod config;
pub mod core;
mod counters;
pub mod cursor;
mod deadlines;
pub mod error;
mod expire;
mod expiring;
pub mod expiry;
pub mod forecast;
mod frozen;
mod full;
mod garbage;
mod hints;
mod index_room;
mod interval;
mod iter;
pub mod latency;
mod load;
mod many;
mod merged;
pub mod options;
mod outgrown;
mod pending;
mod populate;
mod read;
mod reader;
mod recovery;
mod registry;
pub mod repair;
pub mod report;
mod reserve;
pub mod rmw;
mod scan;
mod segment;
pub mod snapshot;
mod store;
mod tasks;
mod time;
mod upkeep;
pub mod value;
mod verify;
pub mod version;
mod waiters;
mod writer;

#[cfg(feature = "testing")]
pub mod dump;
#[cfg(feature = "testing")]
pub mod testing;

pub use iter::{Iter, Keys, Prefix};
pub(crate) use pending::Ticket;
pub use reader::Reader;
pub use snapshot::Snapshot;
pub use store::Store;
