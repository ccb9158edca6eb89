//! One compaction, in the calling thread.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvs_format::hash::Fingerprint;
use kvs_format::hint::HintEntry;
use kvs_format::manifest::{Edit, MergedBody};
use kvs_format::name;
use kvs_format::record::{Draft, Framing, Kind, RecordRef};
use kvs_format::scan::Scanner;
use kvs_format::segment::{PAGE_BYTES, SegmentKind};
use kvs_format::system::{FOOTER_RECORD_BYTES, Footer};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

use crate::engine::catalog::End;
use crate::engine::compaction::plan::{GARBAGE_BYTES_MIN, Load, Mode, plan, wanted};
use crate::engine::core::{Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::hints;
use crate::engine::options::SEGMENT_BYTES_MAX;
use crate::engine::pending::Ticket;
use crate::engine::report::CompactReport;
use crate::engine::scan::{LastRecord, scan, summary, walk};
use crate::engine::segment::Segment;
use crate::engine::tasks::Fresh;
use crate::storage::fs::{Fs, FsFile};
use crate::storage::location::Word;

/// A record that was copied: where the index may still point, and where it is now.
struct Moved {
    hash: u64,
    old: Word,
    offset: u64,
    size: u64,
}

/// A merged segment being written.
struct Output<F: Fs> {
    fresh: Fresh<F>,
    offset: u64,
    entries: Vec<HintEntry>,
    /// When those that expire do, and their sizes.
    expiring: Vec<(u64, u64)>,
    moved: Vec<Moved>,
    end: Option<End>,
    last: Option<LastRecord>,
}

/// A tombstone that may have to be kept.
struct Grave {
    lsn: u64,
    key: Box<[u8]>,
    content: Draft,
}

struct Victim<F: Fs> {
    segment: Arc<Segment<F>>,
    end: End,
}

impl<F: Fs> Engine<F> {
    pub(crate) fn wants_compaction(&self, section: &mut Section<F>) -> bool {
        self.config.auto_compact && wanted(section.payload, section.dead, section.compact_floor)
    }

    /// Compacts after a write that found enough garbage. The write itself has succeeded; what goes
    /// wrong here is met again by whoever compacts or writes next.
    pub(crate) fn compact_automatically(&self) {
        let Some(_one) = self.compaction.try_lock() else {
            return;
        };
        let done = self.compact_locked(Mode::Worthwhile);
        let mut section = self.section.lock();
        let live = section.payload.saturating_sub(section.dead);
        let step = match done {
            Ok(_) => live.max(GARBAGE_BYTES_MIN) / 2,
            // Damage or a full disk does not go away by trying again at once.
            Err(_) => section.payload.max(GARBAGE_BYTES_MIN),
        };
        section.compact_floor = section.dead + step;
    }

    /// See [`crate::Store::compact`].
    pub fn compact(&self) -> Result<CompactReport> {
        let _one = self.compaction.lock();
        self.compact_locked(Mode::Everything)
    }

    pub(crate) fn compact_locked(&self, mode: Mode) -> Result<CompactReport> {
        let last = self.end_log_for_compaction()?;
        let (victims, others) = self.choose(mode, last);
        if victims.is_empty() {
            return Ok(CompactReport::default());
        }
        let mut outputs = Vec::new();
        let copied = self.copy(&victims, &others, &mut outputs);
        let report = match copied {
            Ok(report) => report,
            Err(error) => {
                // Nobody points at them yet.
                for output in &outputs {
                    let _ = self
                        .fs
                        .unlink(&name::segment(output.fresh.segment.header.id));
                }
                return Err(error);
            }
        };
        self.exchange(&outputs);
        self.retire(&victims, &outputs)?;
        for output in outputs {
            self.write_output_hint(output);
        }
        let rewrite = {
            let manifest = self.manifest.lock();
            manifest.as_ref().is_some_and(|m| m.wants_rewrite())
        };
        if rewrite {
            self.rewrite_manifest()?;
        }
        Ok(report)
    }

    /// Seals everything that was written, and waits until it is durable and published; returns the
    /// last LSN for which that holds.
    fn end_log_for_compaction(&self) -> Result<u64> {
        let last = {
            let mut guard = self.section.lock();
            let section = &mut *guard;
            self.check_writable(section)?;
            self.begin_life(section)?;
            if section
                .active
                .as_ref()
                .is_some_and(|active| active.records > 0)
            {
                self.rotate(section, 0)?;
            }
            section.next_lsn - 1
        };
        // Publishes what is pending: otherwise a record that is not yet in the index would look dead.
        self.wait(Ticket(last))?;
        loop {
            let mut section = self.section.lock();
            self.reap(&mut section)?;
            self.check_writable(&mut section)?;
            // What is sealed behind `last` may hold records that are still pending.
            let Some(lsn) = section.sealing_lsn().filter(|lsn| *lsn <= last) else {
                return Ok(last);
            };
            drop(section);
            self.wait_for_seal(lsn);
        }
    }

    /// Victims, and the ended segments that are not. Only what ended by `last` is considered: a
    /// record behind it may be stored and not yet published, and would look dead.
    fn choose(&self, mode: Mode, last: u64) -> (Vec<Victim<F>>, Vec<Victim<F>>) {
        let section = self.section.lock();
        let segments = self.segments.read();
        let ended: Vec<Victim<F>> = section
            .ends
            .iter()
            // One that is being sealed since is not touched.
            .filter(|(id, _)| {
                let sealing = section.sealing.as_ref();
                sealing.is_none_or(|segment| segment.header.id != **id)
            })
            .filter_map(|(id, end)| {
                Some(Victim {
                    segment: Arc::clone(segments.get(id)?),
                    end: *end,
                })
            })
            .collect();
        let loads: Vec<Load> = ended
            .iter()
            .map(|victim| Load {
                id: victim.segment.header.id,
                payload: victim.segment.slot.payload.load(Ordering::Relaxed),
                live: victim.segment.slot.live.load(Ordering::Relaxed),
            })
            .collect();
        let chosen: BTreeSet<u64> = plan(&loads, mode).into_iter().collect();
        ended.into_iter().partition(|victim| {
            chosen.contains(&victim.segment.header.id) && victim.end.end_lsn <= last
        })
    }

    /// Steps 1 to 3.
    fn copy(
        &self,
        victims: &[Victim<F>],
        others: &[Victim<F>],
        outputs: &mut Vec<Output<F>>,
    ) -> Result<CompactReport> {
        let mut report = CompactReport {
            segments_before: victims.len() as u64,
            ..CompactReport::default()
        };
        let mut live: u64 = victims
            .iter()
            .map(|victim| victim.segment.slot.live.load(Ordering::Relaxed))
            .sum();
        let mut graves: HashMap<Fingerprint, Grave> = HashMap::new();
        for victim in victims {
            report.bytes_before += victim.end.length;
            let slot = &victim.segment.slot;
            self.walk_victim(victim, |record| {
                let kind = record.header.kind;
                if !kind.is_data() {
                    return Ok(());
                }
                let fingerprint = self.hash_key.fingerprint(record.key);
                let draft = Draft::of_moved(record);
                if kind == Kind::Tombstone {
                    let grave = Grave {
                        lsn: record.header.lsn,
                        key: record.key.into(),
                        content: draft,
                    };
                    let newest = graves.get(&fingerprint).map_or(0, |grave| grave.lsn);
                    if grave.lsn > newest {
                        graves.insert(fingerprint, grave);
                    }
                    return Ok(());
                }
                let old = slot.word(fingerprint.lo, record.offset);
                let mut is_newest = false;
                self.index
                    .candidates(fingerprint.lo, |word, _| is_newest |= word == old);
                if !is_newest {
                    return Ok(());
                }
                let output = self.output_for(outputs, draft.size(), live)?;
                live = live.saturating_sub(draft.size());
                self.put(
                    output,
                    fingerprint,
                    &draft,
                    kind,
                    record.header.lsn,
                    record.key,
                    record.value,
                    Some(old),
                )?;
                output
                    .expiring
                    .extend(record.expires_at.map(|at| (at, draft.size())));
                report.records_moved += 1;
                Ok(())
            })?;
        }
        let mut graves: Vec<(Fingerprint, Grave)> = graves.into_iter().collect();
        graves.sort_unstable_by_key(|(_, grave)| grave.lsn);
        let keepers = self.graves_to_keep(&graves, others)?;
        for (fingerprint, grave) in graves
            .iter()
            .zip(keepers)
            .filter(|(_, keep)| *keep)
            .map(|(g, _)| g)
        {
            let output = self.output_for(outputs, grave.content.size(), live)?;
            self.put(
                output,
                *fingerprint,
                &grave.content,
                Kind::Tombstone,
                grave.lsn,
                &grave.key,
                &[],
                None,
            )?;
            report.tombstones_kept += 1;
        }
        for output in outputs.iter_mut() {
            self.finish_output(output)?;
            report.bytes_after += output.offset;
        }
        report.segments_after = outputs.len() as u64;
        if !outputs.is_empty() {
            self.sync_dir()?;
        }
        for output in outputs.iter() {
            self.read_back(output)?;
        }
        // The barrier: whatever made a record here look dead is durable before the record goes.
        let last = self.section.lock().next_lsn - 1;
        self.wait(Ticket(last))?;
        Ok(report)
    }

    fn walk_victim(
        &self,
        victim: &Victim<F>,
        mut visit: impl FnMut(&RecordRef<'_>) -> Result<()>,
    ) -> Result<()> {
        if victim.end.length == PAGE_BYTES {
            return Ok(());
        }
        let segment = &victim.segment;
        let mut scanner = Scanner::new(&segment.header, victim.end.length, 0);
        let stop =
            walk(&segment.file, &mut scanner, |record| visit(record)).map_err(
                |error| match error {
                    Error::Io { path, source, .. } if path.as_os_str().is_empty() => Error::Io {
                        op: "read the segment",
                        path: self.fs.path_of(&name::segment(segment.header.id)),
                        source,
                    },
                    error => error,
                },
            )?;
        match stop.reason {
            None if stop.offset == victim.end.length => Ok(()),
            // Damage is not copied into a segment with fresh checks; the inputs stay.
            reason => Err(self.corrupt(
                segment.header.id,
                stop.rejected_at,
                reason.unwrap_or(kvs_format::DecodeError::NotBound),
            )),
        }
    }

    /// Which of the newest tombstones of the victims must stay: those whose key may have an older
    /// value in a segment that stays.
    fn graves_to_keep(
        &self,
        graves: &[(Fingerprint, Grave)],
        others: &[Victim<F>],
    ) -> Result<Vec<bool>> {
        let retired = {
            let manifest = self.manifest.lock();
            manifest
                .as_ref()
                .is_some_and(|m| !m.catalog.retired.is_empty())
        };
        // Everything that stays and holds records: the segments that were not chosen ...
        let mut staying: Vec<(Arc<Segment<F>>, u64, u64)> = others
            .iter()
            .filter(|other| other.end.records > 0)
            .map(|other| {
                (
                    Arc::clone(&other.segment),
                    other.end.min_lsn,
                    other.end.length,
                )
            })
            .collect();
        // ... and what was written since: never older than a victim's tombstone, and never hinted.
        let section = self.section.lock();
        let since = section.active.as_ref().map_or(0, |active| active.min_lsn);
        let active = section
            .active
            .as_ref()
            .map(|active| Arc::clone(&active.segment));
        drop(section);
        if let Some(active) = active.filter(|_| since > 0) {
            staying.push((active, since, 0));
        }
        let mut keep = Vec::with_capacity(graves.len());
        let mut undecided: Vec<usize> = Vec::new();
        for (i, (fingerprint, grave)) in graves.iter().enumerate() {
            // A newer version is in the index: the tombstone shadows nothing any more.
            let superseded = self.look_up(fingerprint.lo, &grave.key)?.is_found();
            keep.push(!superseded && retired);
            if !superseded && !retired {
                undecided.push(i);
            }
        }
        let oldest = graves.iter().map(|(_, grave)| grave.lsn).max().unwrap_or(0);
        let bits = self.index.bits();
        for (segment, min_lsn, length) in staying {
            if min_lsn >= oldest {
                continue;
            }
            let hint = hints::load(
                &self.fs,
                &segment.file,
                &segment.header,
                length,
                self.index.bits(),
                &self.hash_key,
            )
            .filter(|hint| hint.covered == length);
            for i in &undecided {
                let (fingerprint, grave) = &graves[*i];
                if min_lsn < grave.lsn {
                    keep[*i] |= hint
                        .as_ref()
                        .is_none_or(|hint| hint.contains(*fingerprint, bits));
                }
            }
        }
        Ok(keep)
    }

    /// An output with room for a record of `size` bytes; a new one is made large enough for what is
    /// expected to be left.
    fn output_for<'a>(
        &self,
        outputs: &'a mut Vec<Output<F>>,
        size: u64,
        left: u64,
    ) -> Result<&'a mut Output<F>> {
        let room = |output: &Output<F>| {
            output.offset + size + FOOTER_RECORD_BYTES <= output.fresh.capacity
        };
        if !outputs.last().is_some_and(room) {
            let most = self.config.segment_bytes.unwrap_or(SEGMENT_BYTES_MAX);
            let wanted = PAGE_BYTES + left.max(size) + FOOTER_RECORD_BYTES;
            let least = PAGE_BYTES + size + FOOTER_RECORD_BYTES;
            let capacity = wanted.min(most).max(least).next_multiple_of(4096);
            let mut fresh = self.create_segment(SegmentKind::Merged, capacity)?;
            fresh.map.publish(PAGE_BYTES);
            outputs.push(Output {
                fresh,
                offset: PAGE_BYTES,
                entries: Vec::new(),
                expiring: Vec::new(),
                moved: Vec::new(),
                end: None,
                last: None,
            });
        }
        Ok(outputs
            .last_mut()
            .expect("one was pushed if there was none"))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a record, once")]
    fn put(
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
                });
            }
        }
        Ok(())
    }

    /// FOOTER, trim, sync.
    fn finish_output(&self, output: &mut Output<F>) -> Result<()> {
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
        let name = name::segment(segment.header.id);
        let failed = |op, source| Error::Io {
            op,
            path: self.fs.path_of(&name),
            source,
        };
        segment
            .file
            .set_len(output.offset)
            .map_err(|e| failed("trim the merged segment", e))?;
        segment.sync().map_err(|e| {
            self.upkeep_failed();
            failed("sync the merged segment", e)
        })?;
        segment.slot.payload.store(payload, Ordering::Relaxed);
        Ok(())
    }

    /// Reads what was written before anything is given up for it.
    fn read_back(&self, output: &Output<F>) -> Result<()> {
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

    /// Step 4.
    fn exchange(&self, outputs: &[Output<F>]) {
        {
            let mut section = self.section.lock();
            let mut view = (*section.view).clone();
            for output in outputs {
                view = view.with(&output.fresh.segment.slot);
            }
            section.view = Arc::new(view);
            self.index.set_view(&section.view);
            let mut segments = self.segments.write();
            for output in outputs {
                let segment = &output.fresh.segment;
                segments.insert(segment.header.id, Arc::clone(segment));
                section
                    .ends
                    .extend(output.end.map(|end| (segment.header.id, end)));
            }
        }
        for output in outputs {
            let slot = &output.fresh.segment.slot;
            for moved in &output.moved {
                let new = slot.word(moved.hash, moved.offset);
                let mut shard = self.index.lock(moved.hash);
                if shard.replace(moved.old, new) {
                    shard.view().slot(moved.old).lose(moved.size);
                    slot.gain(moved.size);
                }
            }
        }
    }

    /// Steps 5 to 7.
    fn retire(&self, victims: &[Victim<F>], outputs: &[Output<F>]) -> Result<()> {
        let bodies: Vec<MergedBody> = outputs
            .iter()
            .filter_map(|output| {
                let header = &output.fresh.segment.header;
                let end = output.end?;
                Some(MergedBody {
                    id: U64::new(header.id),
                    salt: header.salt,
                    length: U64::new(end.length),
                    min_lsn: U64::new(end.min_lsn),
                    max_lsn: U64::new(end.max_lsn),
                    records: U64::new(end.records),
                })
            })
            .collect();
        let ids: Vec<U64> = victims
            .iter()
            .map(|victim| U64::new(victim.segment.header.id))
            .collect();
        let edited = self.edit(&Edit::Compact {
            outputs: &bodies,
            inputs: &ids,
        });
        if let Err(error) = edited {
            self.poison(&mut self.section.lock());
            return Err(error);
        }
        {
            let mut section = self.section.lock();
            let mut view = (*section.view).clone();
            let mut segments = self.segments.write();
            let mut retired = self.retired.lock();
            retired.retain(|(map, _)| map.strong_count() > 0);
            for victim in victims {
                let id = victim.segment.header.id;
                view = view.without(&victim.segment.slot);
                segments.remove(&id);
                section.ends.remove(&id);
                let map = &victim.segment.slot.stripes.any().map;
                retired.push((Arc::downgrade(map), victim.end.length));
            }
            drop((segments, retired));
            section.view = Arc::new(view);
            self.index.set_view(&section.view);
            let sum = |of: fn(&crate::engine::segment::Slot) -> u64| {
                section.view.slots().map(|slot| of(slot)).sum::<u64>()
            };
            let payload = sum(|slot| slot.payload.load(Ordering::Relaxed));
            let live = sum(|slot| slot.live.load(Ordering::Relaxed));
            section.payload = payload;
            section.dead = payload.saturating_sub(live);
        }
        for victim in victims {
            let id = victim.segment.header.id;
            for name in [name::segment(id), name::hint(id)] {
                match self.fs.unlink(&name) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    // The manifest knows that they are retired: opening removes them.
                    Err(source) => {
                        return Err(Error::Io {
                            op: "remove the segment",
                            path: self.fs.path_of(&name),
                            source,
                        });
                    }
                }
            }
        }
        self.sync_dir()?;
        self.edit(&Edit::Forget { ids: &ids })
    }

    fn write_output_hint(&self, output: Output<F>) {
        let Some(last) = output.last else {
            return;
        };
        let header = &output.fresh.segment.header;
        let mut entries = output.entries;
        let bytes = hints::encode(
            header,
            &mut entries,
            &output.expiring,
            &last,
            self.index.bits(),
            &self.hash_key,
        );
        // Best effort: without it the segment is scanned.
        let _ = hints::write(&self.fs, header.id, &bytes);
        let _ = output.fresh.map.seal();
    }

    fn rewrite_manifest(&self) -> Result<()> {
        let salt = (self.config.entropy)()?;
        let mut manifest = self.manifest.lock();
        match manifest.as_mut() {
            Some(manifest) => manifest.rewrite(&self.fs, salt).map_err(|error| {
                self.upkeep_failed();
                error.into()
            }),
            None => Ok(()),
        }
    }
}
