//! Whatever is done to a store, in any order: the operations of `tests/model`, and its oracle.

use std::time::Duration;

use kvs::Durability;
use kvs_model::{Op, Setup, run};

/// No list needs more operations than this to make its point, and more make few inputs.
const OPS_MAX: usize = 300;

/// Operations, and after each of them the comparison with the oracle: sets, removals, batches, loads,
/// read-modify-writes, at every level of durability; keys that expire, and clocks that are set; snapshots
/// and cursors; rotation and compaction of any segments; closing, killing, cutting the power with any
/// choice of what survives; calls that fail; lost and damaged hints; damage to copies of all files.
///
/// Input: flags (bits 0-1: level, bit 2: by `pwrite`, bit 3: values expire by default), then operations
/// as [`Op::decode`] takes them.
pub fn store_model(input: &[u8]) {
    let Some((flags, ops)) = input.split_first() else {
        return;
    };
    let mut ops = Op::decode_all(ops);
    ops.truncate(OPS_MAX);
    let setup = Setup {
        durability: match flags & 3 {
            0 => Durability::Os,
            1 => Durability::Interval(Duration::from_millis(30)),
            _ => Durability::Sync,
        },
        write_path: flags & 4 != 0,
        // What the model says of seeds: these two differ in the default time to live.
        seed: if flags & 8 == 0 { 1 } else { 1 << 16 },
    };
    if let Err(failure) = run(&ops, &setup) {
        panic!("{failure}\n{setup:?}\n{ops:#?}");
    }
}
