//! What happened since the store was opened, as far as it happens rarely: syncs and compaction. What a
//! write counts stands in the section, and a read counts nothing.

use std::time::Duration;

use crate::engine::report::{CompactReport, CompactionStats};
use crate::sync::Mutex;

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    syncs: u64,
    sync_time: Duration,
    compaction: CompactionStats,
}

/// Counters of an engine. Their lock is taken last and held for a few additions.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Counted>);

impl Counters {
    /// Syncs of segments, and how long they took in all.
    pub(crate) fn syncs(&self) -> (u64, Duration) {
        let counted = self.0.lock();
        (counted.syncs, counted.sync_time)
    }

    pub(crate) fn compaction(&self) -> CompactionStats {
        self.0.lock().compaction
    }

    /// A step of compaction read so much and came to that; `None` if it was ended or failed.
    pub(crate) fn note_step(&self, read: u64, took: Duration, done: Option<&CompactReport>) {
        let compaction = &mut self.0.lock().compaction;
        compaction.bytes_read += read;
        compaction.time += took;
        match done {
            Some(report) => {
                compaction.steps += 1;
                compaction.bytes_written += report.bytes_after;
                let back = report.bytes_before.saturating_sub(report.bytes_after);
                compaction.bytes_given_back += back;
            }
            None => compaction.steps_ended += 1,
        }
    }

    /// The compaction thread has rested.
    pub(crate) fn note_rest(&self, took: Duration) {
        self.0.lock().compaction.rest_time += took;
    }

    /// A writer has waited for compaction.
    pub(crate) fn note_brake(&self, took: Duration) {
        let compaction = &mut self.0.lock().compaction;
        compaction.brakes += 1;
        compaction.brake_time += took;
    }

    /// A sync of a segment took so long.
    pub(crate) fn note_sync(&self, took: Duration) {
        let mut counted = self.0.lock();
        counted.syncs += 1;
        counted.sync_time += took;
    }
}
