//! Bulk load: many pairs at once, at the rate of the bare log, with one sync at the end.
//!
//! The calling thread writes the pairs into merged segments of its own, without the writer section
//! and seen by nobody, while everybody else reads and writes. Then all of it counts at once:
//! 1. a MARK takes one LSN from the log: the place of the whole load among all writes;
//! 2. the pairs are written, many with one call, in the order they come; whether that order is sorted makes
//!    no difference;
//! 3. outputs are synced as they grow and when they are whole, and their names ([`writing`]); the log
//!    is durable up to the load's LSN, so that this LSN is never given out again;
//! 4. beside the last sync, the index tables of the keys are made aside ([`tables`]), from a snapshot
//!    and from what writers have changed since;
//! 5. COMPACT without inputs lists the outputs: from here the load is durable and there, before it
//!    the outputs are leftovers;
//! 6. inside the writer section, the tables take the place of the old ones, all at once; hints are
//!    written afterwards, beside everything else.
//!
//! A key that was written or removed since 1 keeps that: its LSN is higher. What readers see says so
//! because removals are noted from 1 on and everything else has its LSN in its record; what opening
//! sees, because compaction keeps every tombstone younger than a load that is under way. From 4 to
//! 6 nothing may be moved: the load is the one compaction at a time.
//!
//! Nothing is read back, unlike what compaction writes: nothing is given up for it.
//!
//! Of a key that comes twice, the later pair counts: same LSN, higher segment or offset.

mod ingest;
pub(crate) mod state;
mod tables;
mod writing;
