//! What opening, checking, compacting and closing tell.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Bytes from its start.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

/// A range of a file whose records could not be salvaged: see [`crate::repair`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The file.
    pub file: PathBuf,
    /// Bytes from its start.
    pub offset: u64,
    /// Bytes of the range; 0 if that is not known.
    pub bytes: u64,
    /// The log sequence numbers that stood there, first and last, if the log says so. Those of records
    /// that the store writes about itself are among them.
    pub lsns: Option<(u64, u64)>,
    /// How many records stood there, if that is known.
    pub records: Option<u64>,
    /// What is wrong there.
    pub reason: String,
}

/// Where the log was cut because a write had not been finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TornTail {
    /// The segment.
    pub segment: u64,
    /// Offset behind its last whole record.
    pub offset: u64,
}

/// What opening a store found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The store had been closed, or never written.
    pub clean: bool,
    /// Live segments.
    pub segments: u64,
    /// Segments whose keys came from their hint file.
    pub hints_used: u64,
    /// Records read and checked one by one.
    pub records_scanned: u64,
    /// Bytes of those records.
    pub bytes_scanned: u64,
    /// Live keys.
    pub keys: u64,
    /// Unfinished bytes stood behind the last whole record.
    pub torn_tail: Option<TornTail>,
    /// Log segments that stood behind a hole and were given up whole.
    pub dropped_segments: u64,
    /// Files of no further use that were removed.
    pub leftovers_removed: u64,
    /// Damage was found: what could be verified is served, but something may be missing. Only a
    /// read-only open gets this far.
    pub incomplete: bool,
    /// Where. From [`crate::repair`]: damage that cost nothing.
    pub damage: Vec<Damage>,
    /// From [`crate::repair`]: what could not be salvaged. Any key may have had a newer version there.
    pub lost: Vec<Lost>,
    /// From [`crate::repair`]: batches of which some records are in and others lost.
    pub broken_batches: u64,
    /// How long opening took.
    pub duration: Duration,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match (self.incomplete, self.clean) {
            (true, _) => "damaged, incomplete",
            (false, true) => "clean",
            (false, false) => "recovered",
        };
        write!(
            f,
            "{how}: {} keys in {} segments, {} from hints, {} records ({} bytes) scanned in {:.1} ms",
            self.keys,
            self.segments,
            self.hints_used,
            self.records_scanned,
            self.bytes_scanned,
            self.duration.as_secs_f64() * 1e3
        )?;
        if let Some(torn) = self.torn_tail {
            write!(
                f,
                ", unfinished tail cut at offset {} of segment {}",
                torn.offset, torn.segment
            )?;
        }
        if self.dropped_segments > 0 {
            write!(f, ", {} segments dropped", self.dropped_segments)?;
        }
        if self.leftovers_removed > 0 {
            write!(f, ", {} leftovers removed", self.leftovers_removed)?;
        }
        if !self.lost.is_empty() {
            write!(f, ", {} ranges lost", self.lost.len())?;
        }
        if self.broken_batches > 0 {
            write!(f, ", {} batches in part", self.broken_batches)?;
        }
        Ok(())
    }
}

/// What checking every record found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Whole records in them, what the store writes about itself included.
    pub records: u64,
    /// Bytes of those records.
    pub bytes: u64,
    /// Damaged places; empty if all is well.
    pub damage: Vec<Damage>,
}

/// What compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactReport {
    /// Segments that were rewritten.
    pub segments_before: u64,
    /// Segments that took their place.
    pub segments_after: u64,
    /// Bytes of the segments that were rewritten.
    pub bytes_before: u64,
    /// Bytes of those that took their place.
    pub bytes_after: u64,
    /// Records that were moved.
    pub records_moved: u64,
    /// Records that were dropped because they had expired.
    pub records_expired: u64,
    /// Tombstones that had to stay because an older value may exist elsewhere; those of keys that have
    /// expired too.
    pub tombstones_kept: u64,
    /// Segments with garbage that were left as they are: the run was cancelled, or there was no room
    /// to rewrite them.
    pub segments_left: u64,
    /// The caller ended the run before it was done. What it had done by then stays done.
    pub cancelled: bool,
}

impl std::ops::AddAssign for CompactReport {
    fn add_assign(&mut self, other: Self) {
        self.segments_before += other.segments_before;
        self.segments_after += other.segments_after;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
        self.records_moved += other.records_moved;
        self.records_expired += other.records_expired;
        self.tombstones_kept += other.tombstones_kept;
        self.segments_left += other.segments_left;
        self.cancelled |= other.cancelled;
    }
}

/// What a bulk load did: see [`crate::Store::load`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// Pairs that were taken.
    pub pairs: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Those of them that nobody sees: their key came again later in the load, or was written or
    /// removed by somebody else since the load began.
    pub superseded: u64,
    /// Segments that were written.
    pub segments: u64,
}

/// How far a compaction has come: see [`crate::Store::compact_with`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactProgress {
    /// Segments rewritten and removed so far.
    pub segments_done: u64,
    /// Segments to be rewritten.
    pub segments_total: u64,
    /// Bytes of them read so far.
    pub bytes_read: u64,
    /// Bytes of them.
    pub bytes_total: u64,
    /// Records moved so far.
    pub records_moved: u64,
}

/// Something that closing could not do, and that costs space or time but no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Undone {
    /// Compaction ended before all garbage worth it was gone: its time was up, the disk is full, a
    /// segment is damaged or values still held keep removed segments on disk.
    Compaction,
    /// Space behind the end of the log was not given back. The next close tries again.
    Trim,
    /// The hint of the newest segment was not written: the next open reads that segment.
    Hint,
}

/// What closing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// This was the last handle, so the store itself was closed. Otherwise it goes on.
    pub closed: bool,
    /// What compaction did while closing.
    pub compacted: CompactReport,
    /// What could not be done. What endangers data is an error of [`crate::Store::close`] instead.
    pub undone: Vec<Undone>,
}

/// What a segment holds.
pub use kvs_format::segment::SegmentKind;

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentStats {
    /// Number of the segment.
    pub id: u64,
    /// Log or merged.
    pub kind: SegmentKind,
    /// Never written again.
    pub sealed: bool,
    /// Bytes that count: up to behind its last record.
    pub bytes: u64,
    /// Bytes of records that are the newest of their key.
    pub live_bytes: u64,
    /// Bytes of records that compaction can drop, tombstones included.
    pub dead_bytes: u64,
    /// Bytes of disk of its file, preallocated space included.
    pub allocated_bytes: u64,
    /// Values, readers and others that keep it mapped at this moment.
    pub pins: u64,
}

/// Sizes of groups that are told apart: powers of two.
pub const GROUP_SIZES: usize = 12;

/// Group commits since the store was opened: syncs of the log that made writes durable, each shared by
/// all who waited for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStats {
    /// How many there were.
    pub count: u64,
    /// Threads that waited for them, in all; the mean size of a group is `writers / count`.
    pub writers: u64,
    /// Most threads that waited for one.
    pub largest: u64,
    /// Groups of 1, of 2 to 3, of 4 to 7, ..., of 2048 and more threads.
    pub by_size: [u64; GROUP_SIZES],
    /// Threads that wait for the next one at this moment, besides the one that syncs.
    pub waiting: u64,
}

/// Compaction since the store was opened, whoever asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionStats {
    /// Steps that rewrote segments.
    pub steps: u64,
    /// Steps that were ended before they were done, or failed.
    pub steps_ended: u64,
    /// Bytes of records read.
    pub bytes_read: u64,
    /// Bytes of the segments that took the place of others.
    pub bytes_written: u64,
    /// By how much they are smaller than those.
    pub bytes_given_back: u64,
    /// Time that steps took, rests included.
    pub time: Duration,
    /// Time in which the thread rested, to leave the machine to others.
    pub rest_time: Duration,
    /// How often a writer waited for compaction.
    pub brakes: u64,
    /// Time that writers waited.
    pub brake_time: Duration,
}

/// What the store holds and costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Live keys.
    pub keys: u64,
    /// Bytes of records that are the newest of their key.
    pub live_bytes: u64,
    /// Bytes of records that compaction can drop, tombstones included.
    pub dead_bytes: u64,
    /// Bytes of the live records that have expired, as far as the store knows without reading them:
    /// compaction can drop them too.
    pub expired_bytes: u64,
    /// Values, readers and others that keep live segments mapped at this moment.
    pub pins: u64,
    /// Removed segments that snapshots and values still held keep mapped and on disk.
    pub pinned_segments: u64,
    /// Bytes of removed segments that snapshots and values still held keep mapped and on disk.
    pub pinned_bytes: u64,
    /// How many of them snapshots keep, iterators included.
    pub snapshot_bytes: u64,
    /// Snapshots that live and were not given up, iterators included.
    pub snapshots: u64,
    /// Most of them before compaction stops: see [`crate::Options::pinned_bytes_max`].
    pub pinned_bytes_max: u64,
    /// There are more than that: nothing is compacted until values are dropped.
    pub compaction_paused: bool,
    /// Bytes of disk set aside for removing and compacting on a full disk. 0 in a small store, and
    /// while they are used: then nothing can be set.
    pub reserve_bytes: u64,
    /// The disk was full and the room set aside is in use: removing and compacting go on, nothing is set.
    pub reserve_lent: bool,
    /// A sync has failed: nothing is written until the store is reopened.
    pub poisoned: bool,
    /// Bytes of memory of the index.
    pub index_bytes: u64,
    /// Bytes of disk of all files, preallocated space included.
    pub disk_bytes: u64,
    /// Highest log sequence number given out.
    pub last_lsn: u64,
    /// Highest log sequence number known to be on disk.
    pub durable_lsn: u64,
    /// Group commits since the store was opened: as in [`GroupStats::count`].
    pub group_commits: u64,
    /// What they were like.
    pub groups: GroupStats,
    /// Syncs of segments since the store was opened: those of group commits, of sealing and of compaction.
    pub syncs: u64,
    /// How long they took in all.
    pub sync_time: Duration,
    /// Sets and removes stored since the store was opened.
    pub written_records: u64,
    /// Bytes of their keys and values.
    pub written_bytes: u64,
    /// Bytes appended to the log for them, headers and what the store notes for itself included. With
    /// [`CompactionStats::bytes_written`] added, and divided by `written_bytes`, it is the write
    /// amplification.
    pub appended_bytes: u64,
    /// What compaction did since the store was opened.
    pub compaction: CompactionStats,
    /// The segments, by id.
    pub segments: Vec<SegmentStats>,
}
