//! Merged segments while they are written, by a compaction or a bulk load.
//!
//! Nobody but their writer knows them: they count when COMPACT lists them, whole, and are removed if
//! it never does. So they are written without the writer section and in any order of LSN.

use std::sync::Arc;

use kvs_format::hash::Fingerprint;
use kvs_format::hint::{ExpiryHistogram, HintEntry};
use kvs_format::manifest::MergedBody;
use kvs_format::name;
use kvs_format::record::{Draft, Framing, Kind};
use kvs_format::segment::PAGE_BYTES;
use kvs_format::system::{FOOTER_RECORD_BYTES, Footer};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

use crate::engine::catalog::End;
use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::hints;
use crate::engine::populate::Ahead;
use crate::engine::scan::{LastRecord, scan, summary};
use crate::engine::segment::{Graves, Segment};
use crate::engine::tasks::{Fresh, HintJob};
use crate::storage::fs::{Fs, FsFile};
use crate::storage::location::Word;

/// At least what COMPACT and FORGET take for each segment they name, and for themselves.
pub(crate) const EDIT_BYTES: u64 = 96;

/// A record that was copied: where the index may still point, and where it is now.
pub(crate) struct Moved {
    pub(crate) hash: u64,
    pub(crate) old: Word,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) expires: bool,
}

/// A merged segment being written.
pub(crate) struct Output<F: Fs> {
    pub(crate) fresh: Fresh<F>,
    pub(crate) offset: u64,
    pub(crate) entries: Vec<HintEntry>,
    /// When those that expire do, and their sizes.
    pub(crate) expiring: Vec<(u64, u64)>,
    pub(crate) moved: Vec<Moved>,
    pub(crate) end: Option<End>,
    last: Option<LastRecord>,
    pub(crate) graves: Graves,
    ahead: Ahead,
}

impl<F: Fs> Output<F> {
    /// Shows nothing of it yet but its first page; pages are brought in `ahead` of its writer or not.
    pub(crate) fn new(mut fresh: Fresh<F>, ahead: bool) -> Self {
        fresh.map.publish(PAGE_BYTES);
        Self {
            fresh,
            offset: PAGE_BYTES,
            entries: Vec::new(),
            expiring: Vec::new(),
            moved: Vec::new(),
            end: None,
            last: None,
            graves: Graves::default(),
            ahead: Ahead::new(ahead, PAGE_BYTES),
        }
    }

    /// True if a record of `size` bytes fits, and the FOOTER behind it.
    pub(crate) fn has_room(&self, size: u64) -> bool {
        self.offset + size + FOOTER_RECORD_BYTES <= self.fresh.capacity
    }

    /// It is whole: how it ends, its FOOTER, and the bytes of its data records.
    pub(crate) fn ended(&mut self, end: End, footer: LastRecord, payload: u64, now: u64) {
        self.end = Some(end);
        self.last = Some(footer);
        let slot = &self.fresh.segment.slot;
        slot.payload
            .store(payload, std::sync::atomic::Ordering::Relaxed);
        slot.expiring.set(&self.expiry(now));
    }

    /// When its records that expire do.
    fn expiry(&self, now: u64) -> ExpiryHistogram {
        ExpiryHistogram::of(self.expiring.iter().copied(), now)
    }

    /// What its hint is written of, later: its entries are sorted. `None` of an empty one.
    pub(crate) fn into_hint(self) -> Option<HintJob> {
        let header = self.fresh.segment.header;
        let _ = self.fresh.map.seal();
        Some(HintJob {
            header,
            entries: self.entries,
            expiring: self.expiring,
            last: self.last?,
        })
    }

    /// The segment.
    pub(crate) fn segment(&self) -> &Segment<F> {
        &self.fresh.segment
    }

    /// What COMPACT says of it, once it is whole.
    pub(crate) fn body(&self) -> Option<MergedBody> {
        let header = &self.fresh.segment.header;
        let end = self.end?;
        Some(MergedBody {
            id: U64::new(header.id),
            salt: header.salt,
            length: U64::new(end.length),
            min_lsn: U64::new(end.min_lsn),
            max_lsn: U64::new(end.max_lsn),
            records: U64::new(end.records),
        })
    }
}

impl<F: Fs> Engine<F> {
    /// Stores one record, for which there is room.
    ///
    /// # Errors
    /// If the file cannot be written; the output is of no use then.
    #[expect(clippy::too_many_arguments, reason = "the fields of a record, once")]
    pub(crate) fn put(
        &self,
        output: &mut Output<F>,
        fingerprint: Fingerprint,
        draft: &Draft,
        kind: Kind,
        lsn: u64,
        key: &[u8],
        value: &[u8],
        old: Option<Word>,
    ) -> Result<()> {
        let fresh = &mut output.fresh;
        let offset = output.offset;
        let place_key = &fresh.segment.slot.stripes.any().place_key;
        let (header, extension) = draft.place(place_key, offset, lsn, Framing::Single);
        let parts = [&header[..], extension, key, value];
        fresh
            .segment
            .file
            .store(&mut fresh.map, offset, &parts)
            .map_err(|source| Error::Io {
                op: "write the merged segment",
                path: self.fs.path_of(&name::segment(fresh.segment.header.id)),
                source,
            })?;
        let size = draft.size();
        output.offset += size;
        fresh.map.publish(output.offset);
        if output.offset >= output.ahead.at {
            let map = Arc::downgrade(&fresh.segment.slot.stripes.any().map);
            let ahead = &mut output.ahead;
            self.populate
                .ask(ahead, &map, output.offset, fresh.capacity);
        }
        let mut place = [0u8; 4];
        place.copy_from_slice(&header[..4]);
        output.last = Some(LastRecord {
            offset,
            place: u32::from_le_bytes(place),
            lsn,
            size,
        });
        if kind.is_data() {
            output
                .entries
                .push(HintEntry::new(fingerprint, lsn, offset, size, kind));
            if let Some(old) = old {
                output.moved.push(Moved {
                    hash: fingerprint.lo,
                    old,
                    offset,
                    size,
                    expires: kind == Kind::SetExpiring,
                });
            }
        }
        Ok(())
    }

    /// FOOTER, and no byte behind it.
    pub(crate) fn end_output(&self, output: &mut Output<F>) -> Result<()> {
        let (records, min_lsn, max_lsn, payload) = summary(&output.entries);
        let footer = Footer {
            records: U64::new(records),
            min_lsn: U64::new(min_lsn),
            max_lsn: U64::new(max_lsn),
            payload_bytes: U64::new(payload),
        };
        let draft = Draft::new(Kind::Footer, None, &[], footer.as_bytes())
            .expect("a FOOTER is within the limits");
        self.put(
            output,
            Fingerprint::default(),
            &draft,
            Kind::Footer,
            max_lsn,
            &[],
            footer.as_bytes(),
            None,
        )?;
        output.end = Some(End {
            length: output.offset,
            end_lsn: max_lsn,
            min_lsn,
            max_lsn,
            records,
            cut: None,
        });
        let segment = &output.fresh.segment;
        segment.slot.map().keep_small();
        let name = name::segment(segment.header.id);
        segment
            .file
            .set_len(output.offset)
            .map_err(self.io("trim the merged segment", &name))?;
        let payload_bytes = &segment.slot.payload;
        payload_bytes.store(payload, std::sync::atomic::Ordering::Relaxed);
        segment.slot.expiring.set(&output.expiry(self.now_ms()));
        Ok(())
    }

    /// Makes it durable. If that fails the store is poisoned: see [`Segment::sync`].
    ///
    /// Its pages were mapped one by one as they were written. The kernel would take the write permission
    /// of each away by itself, and interrupt all threads each time: a third of a compaction's time.
    pub(crate) fn sync_output(&self, segment: &Segment<F>) -> Result<()> {
        segment.slot.map().unmap_pages();
        let synced = self.sync_written(segment);
        segment.slot.map().map_pages();
        synced
    }

    /// As [`Engine::sync_output`], of one that was not written through its map.
    pub(crate) fn sync_written(&self, segment: &Segment<F>) -> Result<()> {
        let synced = planted!("output_not_synced", Ok(()), self.sync_segment(segment));
        synced.map_err(|source| {
            self.upkeep_failed();
            self.io("sync the merged segment", &name::segment(segment.header.id))(source)
        })
    }

    /// Reads what was written before anything is given up for it.
    pub(crate) fn read_back(&self, output: &Output<F>) -> Result<()> {
        let segment = &output.fresh.segment;
        let id = segment.header.id;
        let scanned = scan(
            &segment.file,
            &segment.header,
            PAGE_BYTES,
            output.offset,
            0,
            &self.hash_key,
        )
        .map_err(|source| Error::Io {
            op: "read the merged segment back",
            path: self.fs.path_of(&name::segment(id)),
            source,
        })?;
        let stop = scanned.stop;
        if stop.offset != output.offset || scanned.entries != output.entries {
            let reason = stop.reason.unwrap_or(kvs_format::DecodeError::NotBound);
            return Err(self.corrupt(id, stop.rejected_at, reason));
        }
        Ok(())
    }

    /// Sorts its entries as they stand in a hint.
    pub(crate) fn sort_output(&self, output: &mut Output<F>) {
        hints::sort(&mut output.entries, self.index.bits());
    }

    /// Its entries are sorted. Best effort: without a hint the segment is scanned.
    pub(crate) fn write_output_hint(&self, output: &Output<F>) {
        let header = &output.fresh.segment.header;
        let Some(last) = &output.last else {
            return;
        };
        let bytes = hints::encode_sorted(
            header,
            &output.entries,
            &output.expiry(self.now_ms()),
            last,
            self.index.bits(),
            &self.hash_key,
        );
        let _ = hints::write(&self.fs, header.id, &bytes);
    }

    /// The hint of a segment that counts, and may be compacted away at any moment. Best effort.
    pub(crate) fn write_hint_of(&self, job: &HintJob) {
        let header = &job.header;
        // On a full disk the room is needed for more important things.
        if self.reserve.is_lent() || self.upkeep.has_failed() {
            return;
        }
        let bytes = hints::encode_sorted(
            header,
            &job.entries,
            &ExpiryHistogram::of(job.expiring.iter().copied(), self.now_ms()),
            &job.last,
            self.index.bits(),
            &self.hash_key,
        );
        let _ = hints::write(&self.fs, header.id, &bytes);
        self.remove_hint_of_compacted(header.id);
    }

    /// After writing the hint of segment `id`: compaction forgets a segment before it removes its files, so
    /// whoever comes last removes this one.
    pub(crate) fn remove_hint_of_compacted(&self, id: u64) {
        if !self.segments.read().contains_key(&id) {
            let _ = self.fs.unlink(&name::hint(id));
        }
    }

    /// Removes what nobody points at. Best effort: what stays is removed when the store is opened.
    pub(crate) fn remove_outputs(&self, outputs: &[Output<F>]) {
        for output in outputs {
            let id = output.fresh.segment.header.id;
            let _ = self.fs.unlink(&name::segment(id));
            let _ = self.fs.unlink(&name::hint(id));
        }
    }
}
