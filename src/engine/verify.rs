//! Checking every record, and saying what the store holds.

use std::sync::atomic::Ordering;

use kvs_format::DecodeError;
use kvs_format::name;
use kvs_format::scan::Scanner;
use kvs_format::segment::PAGE_BYTES;

use crate::engine::catalog;
use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::report::{Damage, SegmentStats, Stats, VerifyReport};
use crate::engine::scan::walk;
use crate::storage::fs::{Access, Fs, FsFile};

impl<F: Fs> Engine<F> {
    /// See [`crate::Store::verify`].
    pub fn verify(&self) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let parts: Vec<_> = {
            let section = self.section.lock();
            let segments = self.segments.read();
            let length = |id: &u64| section.ends.get(id).map(|end| end.length);
            segments
                .iter()
                .map(|(id, segment)| {
                    let end = length(id).unwrap_or_else(|| segment.slot.map().published());
                    (std::sync::Arc::clone(segment), end)
                })
                .collect()
        };
        let has_manifest = self.fs.open(name::MANIFEST, Access::Read).is_ok();
        if has_manifest {
            match catalog::read(&self.fs).map_err(Error::from) {
                Ok(_) => {}
                Err(Error::Corrupt {
                    path,
                    offset,
                    reason,
                }) => report.damage.push(Damage {
                    file: path,
                    offset,
                    reason: reason.to_string(),
                }),
                Err(error) => return Err(error),
            }
        }
        for (segment, end) in parts {
            report.segments += 1;
            if end == PAGE_BYTES {
                continue;
            }
            let id = segment.header.id;
            let mut scanner = Scanner::new(&segment.header, end, 0);
            let stop = walk(
                &segment.file,
                &mut scanner,
                |record| -> std::io::Result<()> {
                    report.records += 1;
                    report.bytes += record.header.size();
                    Ok(())
                },
            )
            .map_err(|source| Error::Io {
                op: "read the segment",
                path: self.fs.path_of(&name::segment(id)),
                source,
            })?;
            if stop.offset != end || stop.reason.is_some() {
                let reason = stop.reason.unwrap_or(DecodeError::Truncated {
                    need: end,
                    have: stop.offset,
                });
                report.damage.push(Damage {
                    file: self.fs.path_of(&name::segment(id)),
                    offset: stop.rejected_at,
                    reason: reason.to_string(),
                });
            }
        }
        Ok(report)
    }

    /// See [`crate::Store::stats`].
    pub fn stats(&self) -> Stats {
        let now = self.now_ms();
        let section = self.section.lock();
        let segments = self.segments.read();
        let mut stats = Stats {
            keys: self.len(),
            index_bytes: self.index.bytes(),
            reserve_bytes: self.reserve.bytes(),
            last_lsn: section.next_lsn - 1,
            durable_lsn: section.durable_lsn,
            reserve_lent: self.reserve.is_lent(),
            poisoned: self.is_poisoned() || self.upkeep.has_failed(),
            groups: self.commit.group_stats(),
            written_records: section.written.records,
            written_bytes: section.written.bytes,
            appended_bytes: section.written.appended,
            compaction: self.counters.compaction(),
            ..Stats::default()
        };
        for (id, segment) in segments.iter() {
            let slot = &segment.slot;
            let payload = slot.payload.load(Ordering::Relaxed);
            let live = slot.live.load(Ordering::Relaxed).min(payload);
            let end = section.ends.get(id);
            let sealing = section.sealing.as_ref();
            stats.live_bytes += live;
            stats.dead_bytes += payload - live;
            stats.expired_bytes += slot.expiring.expired(now);
            let allocated = segment.file.allocated().unwrap_or(0);
            let pins = slot.stripes.count();
            stats.disk_bytes += allocated;
            stats.pins += pins;
            stats.segments.push(SegmentStats {
                id: *id,
                kind: segment.header.kind,
                sealed: end.is_some() && sealing.is_none_or(|s| s.header.id != *id),
                bytes: end.map_or_else(|| slot.map().published(), |end| end.length),
                live_bytes: live,
                dead_bytes: payload - live,
                allocated_bytes: allocated,
                pins,
            });
        }
        let others = segments
            .keys()
            .map(|id| name::hint(*id).to_string())
            .chain([name::MANIFEST.to_owned(), name::RESERVE.to_owned()]);
        for other in others {
            if let Ok(file) = self.fs.open(&other, Access::Read) {
                stats.disk_bytes += file.allocated().unwrap_or(0);
            }
        }
        stats.pinned_bytes_max = self.config.pinned_bytes_max;
        (stats.pinned_segments, stats.pinned_bytes) = self.pinned();
        let kept = self.kept_by_snapshots();
        (stats.snapshots, stats.snapshot_bytes) = (kept.snapshots, kept.bytes);
        stats.group_commits = stats.groups.count;
        (stats.syncs, stats.sync_time) = self.counters.syncs();
        stats.compaction_paused = stats.pinned_bytes > stats.pinned_bytes_max;
        stats
    }
}
