//! Rewriting live records and retiring the segments they were in.
//!
//! The order is what makes it safe (each step names what a cut before it would mean):
//! 1. copy and verify live records, LSN and `content` unchanged - outputs are leftovers;
//! 2. sync outputs and their names, read them back - the same;
//! 3. barrier: everything written so far is durable, so that no dropped record was shadowed by a
//!    newer one that a power cut could take away - the same;
//! 4. exchange the index words, each only if it is still exactly the old one;
//! 5. COMPACT in the manifest - from here the inputs are leftovers;
//! 6. unlink the inputs, sync the directory, FORGET;
//! 7. unmap, when the last value that points there is gone.
//!
//! A bulk load under way (`engine::bulk`) may hold older values than any tombstone written since it
//! began: those tombstones stay.

pub mod plan;
mod run;
pub mod state;
mod step;
mod worker;
