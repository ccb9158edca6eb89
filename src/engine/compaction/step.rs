//! One step of a compaction, in the calling thread: some segments are rewritten and removed.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvs_format::hash::Fingerprint;
use kvs_format::manifest::{Edit, MergedBody};
use kvs_format::name;
use kvs_format::record::{Draft, Kind, RecordRef};
use kvs_format::scan::Scanner;
use kvs_format::segment::{PAGE_BYTES, SegmentKind};
use kvs_format::system::FOOTER_RECORD_BYTES;
use zerocopy::byteorder::little_endian::U64;

use crate::engine::bulk::state::IndexChange;
use crate::engine::catalog::End;
use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::hints;
use crate::engine::merged::{EDIT_BYTES, Output};
use crate::engine::options::SEGMENT_BYTES_MAX;
use crate::engine::pending::Ticket;
use crate::engine::report::{CompactProgress, CompactReport};
use crate::engine::reserve::Loan;
use crate::engine::scan::walk_together;
use crate::engine::segment::{Segment, Slot};
use crate::storage::fs::Fs;
use crate::storage::location::Word;

/// A record that has expired: what stands in the index as long as nobody writes the key.
struct Over {
    fingerprint: Fingerprint,
    lsn: u64,
    word: Word,
    size: u64,
}

/// Index entries taken away before writers get a turn.
const OVER_TOGETHER: usize = 256;

/// Index entries that are asked for before the one that is looked at.
const ASKED_AHEAD: usize = 24;

/// Why a step was ended before it had changed anything.
pub(super) enum Halt {
    /// Whoever sets the pace said so.
    Cancelled,
    /// It could not be done.
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Halt {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Told how far it has come; may take its time, and says whether to go on.
pub(super) type Control<'a> = dyn FnMut(&CompactProgress) -> ControlFlow<()> + 'a;

/// Lets somebody look in between pieces of work, with no lock held but that of compaction.
pub(super) struct Pace<'a> {
    pub(super) progress: CompactProgress,
    control: &'a mut Control<'a>,
    unseen: u64,
}

/// Bytes read between two looks.
const PIECE_BYTES: u64 = 512 << 10;

impl<'a> Pace<'a> {
    pub(super) fn new(control: &'a mut Control<'a>) -> Self {
        Self {
            progress: CompactProgress::default(),
            control,
            unseen: 0,
        }
    }

    #[inline]
    fn read(&mut self, bytes: u64) -> Result<(), Halt> {
        self.progress.bytes_read += bytes;
        self.unseen += bytes;
        match self.unseen < PIECE_BYTES {
            true => Ok(()),
            false => self.look(),
        }
    }

    fn look(&mut self) -> Result<(), Halt> {
        self.unseen = 0;
        match (self.control)(&self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Halt::Cancelled),
        }
    }
}

/// A tombstone that may have to be kept; or a record that has expired, which is one from then on.
struct Grave {
    lsn: u64,
    /// Where an expired record is.
    word: Option<Word>,
    key: Box<[u8]>,
    content: Draft,
}

/// An ended segment: one to be rewritten, or one that stays.
pub(super) struct Victim<F: Fs> {
    pub(super) segment: Arc<Segment<F>>,
    pub(super) end: End,
}

impl<F: Fs> Engine<F> {
    /// Rewrites these segments; `others` are all that ended and stay.
    ///
    /// # Errors
    /// Ended by the pace or failed: either way nothing has changed, unless the failure poisoned.
    pub(super) fn rewrite(
        &self,
        victims: &[Victim<F>],
        others: &[Victim<F>],
        pace: &mut Pace<'_>,
    ) -> Result<CompactReport, Halt> {
        let (mut outputs, mut over) = (Vec::new(), Vec::new());
        let mut report = match self.copy(victims, others, &mut outputs, &mut over, pace) {
            Ok(report) => report,
            Err(halt) => {
                // Nobody points at them yet.
                self.remove_outputs(&outputs);
                return Err(halt);
            }
        };
        self.exchange(&outputs);
        self.take_away(&over);
        self.retire(victims, &outputs)?;
        report.segments_after = outputs.len() as u64;
        for mut output in outputs {
            self.sort_output(&mut output);
            self.write_output_hint(&output);
            let _ = output.fresh.map.seal();
        }
        Ok(report)
    }

    /// Steps 1 to 3.
    fn copy(
        &self,
        victims: &[Victim<F>],
        others: &[Victim<F>],
        outputs: &mut Vec<Output<F>>,
        over: &mut Vec<Over>,
        pace: &mut Pace<'_>,
    ) -> Result<CompactReport, Halt> {
        // One time for the whole step.
        let now = self.now_ms();
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
            let mut visit = |record: &RecordRef<'_>, fingerprint: Fingerprint, is_newest: bool| {
                pace.read(record.header.size())?;
                let kind = record.header.kind;
                if !kind.is_data() {
                    return Ok(());
                }
                let lsn = record.header.lsn;
                let mut bury = |word, content| {
                    let grave = Grave {
                        lsn,
                        word,
                        key: record.key.into(),
                        content,
                    };
                    let newest = graves.get(&fingerprint).map_or(0, |grave| grave.lsn);
                    if grave.lsn > newest {
                        graves.insert(fingerprint, grave);
                    }
                };
                let draft = Draft::of_moved(record);
                if kind == Kind::Tombstone {
                    bury(None, draft);
                    return Ok(());
                }
                if !is_newest {
                    return Ok(());
                }
                let old = slot.word(fingerprint.lo, record.offset);
                if record.expires_at.is_some_and(|at| at <= now) {
                    // What it may shadow it goes on shadowing, without its value.
                    let tombstone = Draft::new(Kind::Tombstone, None, record.key, &[])
                        .expect("a key that was read is within the limits");
                    if !planted!("expired_forgotten") {
                        bury(Some(old), tombstone);
                    }
                    over.push(Over {
                        fingerprint,
                        lsn,
                        word: old,
                        size: record.header.size(),
                    });
                    report.records_expired += 1;
                    return Ok(());
                }
                let output = self.output_for(outputs, draft.size(), live)?;
                live = live.saturating_sub(draft.size());
                self.put(
                    output,
                    fingerprint,
                    &draft,
                    kind,
                    lsn,
                    record.key,
                    record.value,
                    Some(old),
                )?;
                output
                    .expiring
                    .extend(record.expires_at.map(|at| (at, draft.size())));
                report.records_moved += 1;
                pace.progress.records_moved += 1;
                Ok::<(), Halt>(())
            };
            self.walk_victim(victim, |records| {
                let of = |record: &RecordRef<'_>| self.hash_key.fingerprint(record.key);
                let fingerprints: Vec<_> = records.iter().map(of).collect();
                let newest = self.are_newest(slot, records, &fingerprints);
                let known = fingerprints.into_iter().zip(newest);
                records
                    .iter()
                    .zip(known)
                    .try_for_each(|(record, (fingerprint, is_newest))| {
                        visit(record, fingerprint, is_newest)
                    })
            })?;
            pace.look()?;
        }
        let mut graves: Vec<(Fingerprint, Grave)> = graves.into_iter().collect();
        graves.sort_unstable_by_key(|(_, grave)| grave.lsn);
        let (keepers, reasons) = self.graves_to_keep(&graves, others)?;
        let kept = graves.iter().zip(keepers);
        let kept: Vec<_> = kept.filter(|(_, keep)| *keep).map(|(g, _)| g).collect();
        let mut left: u64 = kept.iter().map(|(_, grave)| grave.content.size()).sum();
        for (fingerprint, grave) in kept {
            let output = self.output_for(outputs, grave.content.size(), left)?;
            left -= grave.content.size();
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
            output.graves.bytes += grave.content.size();
        }
        for output in outputs.iter_mut() {
            self.end_output(output)?;
            self.sync_output(output.segment())?;
            report.bytes_after += output.offset;
            if output.graves.bytes > 0 {
                output.graves.reasons.clone_from(&reasons);
                let graves = std::mem::take(&mut output.graves);
                let _ = output.fresh.segment.graves.set(graves);
            }
        }
        if !outputs.is_empty() {
            self.sync_dir()?;
        }
        for output in outputs.iter() {
            self.read_back(output)?;
        }
        // Room for saying so: a full disk must show while nothing has changed.
        self.reserve_edits(EDIT_BYTES * (2 + victims.len() + outputs.len()) as u64)?;
        // The barrier: whatever made a record here look dead is durable before the record goes.
        let last = self.section.lock().next_lsn - 1;
        self.wait(Ticket(planted!("no_barrier", 0, last)))?;
        Ok(report)
    }

    /// Which of `records`, all of one segment, the index names.
    fn are_newest(
        &self,
        slot: &Slot,
        records: &[RecordRef<'_>],
        fingerprints: &[Fingerprint],
    ) -> Vec<bool> {
        let mut ask_ahead = self.entries_ahead(fingerprints.iter().map(|of| of.lo));
        let is_newest = |(record, fingerprint): (&RecordRef<'_>, &Fingerprint)| {
            ask_ahead();
            let word = slot.word(fingerprint.lo, record.offset);
            let shard = self.index.look(fingerprint.lo);
            shard.words(fingerprint.lo).any(|known| known == word)
        };
        records.iter().zip(fingerprints).map(is_newest).collect()
    }

    /// Asks for the index entries of `hashes` before they are looked at, at each call for one more: far enough
    /// ahead to come in time, not so far that they have left the nearest cache when they are wanted.
    fn entries_ahead<'a>(
        &'a self,
        mut hashes: impl Iterator<Item = u64> + 'a,
    ) -> impl FnMut() + 'a {
        for hash in hashes.by_ref().take(ASKED_AHEAD) {
            self.index.prefetch(hash);
        }
        move || {
            if let Some(hash) = hashes.next() {
                self.index.prefetch(hash);
            }
        }
    }

    fn walk_victim(
        &self,
        victim: &Victim<F>,
        mut visit: impl FnMut(&[RecordRef<'_>]) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        if victim.end.length == PAGE_BYTES {
            return Ok(());
        }
        let segment = &victim.segment;
        let mut scanner = Scanner::new(&segment.header, victim.end.length, 0);
        let stop = walk_together(&segment.file, &mut scanner, |records| visit(records)).map_err(
            |halt| match halt {
                Halt::Failed(Error::Io { path, source, .. }) if path.as_os_str().is_empty() => {
                    Halt::Failed(Error::Io {
                        op: "read the segment",
                        path: self.fs.path_of(&name::segment(segment.header.id)),
                        source,
                    })
                }
                halt => halt,
            },
        )?;
        match stop.reason {
            None if stop.offset == victim.end.length => Ok(()),
            // Damage is not copied into a segment with fresh checks; the inputs stay.
            reason => Err(Halt::Failed(self.corrupt(
                segment.header.id,
                stop.rejected_at,
                reason.unwrap_or(kvs_format::DecodeError::NotBound),
            ))),
        }
    }

    /// Which of the newest tombstones of the victims must stay: those whose key may have an older
    /// value in a segment that stays; and which segments those are.
    fn graves_to_keep(
        &self,
        graves: &[(Fingerprint, Grave)],
        others: &[Victim<F>],
    ) -> Result<(Vec<bool>, Vec<u64>)> {
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
        let loading = section.loads.oldest();
        let since = section.active.as_ref().map_or(0, |active| active.min_lsn);
        let active = section
            .active
            .as_ref()
            .map(|active| Arc::clone(&active.segment));
        drop(section);
        if let Some(active) = active.filter(|_| since > 0) {
            staying.push((active, since, 0));
        }
        if planted!("tombstones_dropped") {
            return Ok((vec![false; graves.len()], Vec::new()));
        }
        let mut keep = Vec::with_capacity(graves.len());
        let mut undecided: Vec<usize> = Vec::new();
        for (i, (fingerprint, grave)) in graves.iter().enumerate() {
            // A newer version is in the index: the tombstone shadows nothing any more.
            let known = self.look_up(fingerprint.lo, &grave.key)?;
            let superseded = known
                .found
                .is_some_and(|(word, _)| Some(word) != grave.word);
            // A load under way may hold an older value, which nobody knows of yet.
            let unsure = retired || loading.is_some_and(|lsn| lsn < grave.lsn);
            keep.push(!superseded && unsure);
            if !superseded && !unsure {
                undecided.push(i);
            }
        }
        let newest = graves.last().map_or(0, |(_, grave)| grave.lsn);
        let bits = self.index.bits();
        let mut reasons = Vec::new();
        for (segment, min_lsn, length) in staying {
            undecided.retain(|i| !keep[*i]);
            if min_lsn > newest || undecided.is_empty() {
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
            let mut is_reason = false;
            for i in &undecided {
                let (fingerprint, grave) = &graves[*i];
                if min_lsn <= grave.lsn {
                    keep[*i] = hint
                        .as_ref()
                        .is_none_or(|hint| hint.has_older(*fingerprint, bits, grave.lsn));
                    is_reason |= keep[*i];
                }
            }
            if is_reason {
                reasons.push(segment.header.id);
                if hint.is_none() && length > 0 {
                    self.upkeep.want_hints();
                }
            }
        }
        Ok((keep, reasons))
    }

    /// An output with room for a record of `size` bytes; a new one is made large enough for what is
    /// expected to be left.
    fn output_for<'a>(
        &self,
        outputs: &'a mut Vec<Output<F>>,
        size: u64,
        left: u64,
    ) -> Result<&'a mut Output<F>> {
        if !outputs.last().is_some_and(|output| output.has_room(size)) {
            let most = self.config.segment_bytes.unwrap_or(SEGMENT_BYTES_MAX);
            let wanted = PAGE_BYTES + left.max(size) + FOOTER_RECORD_BYTES;
            let least = PAGE_BYTES + size + FOOTER_RECORD_BYTES;
            let capacity = wanted.min(most).max(least).next_multiple_of(4096);
            let large = self.config.populates();
            if let Some(whole) = outputs.last() {
                // Its second handle is not needed any more.
                whole.segment().slot.map().keep_small();
            }
            let fresh = self.with_reserve(Loan::Rest, || {
                self.create_segment(SegmentKind::Merged, capacity, large)
            })?;
            outputs.push(Output::new(fresh, large));
        }
        Ok(outputs
            .last_mut()
            .expect("one was pushed if there was none"))
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
        self.expect_cold_reads(outputs.iter().map(|output| &*output.fresh.segment.slot));
        for output in outputs {
            let slot = &output.fresh.segment.slot;
            let mut ask_ahead = self.entries_ahead(output.moved.iter().map(|moved| moved.hash));
            for moved in &output.moved {
                ask_ahead();
                let mut shard = self.index.lock(moved.hash);
                let new = slot.word(moved.hash, moved.offset);
                let newest = || shard.words(moved.hash).next().unwrap_or(moved.old);
                let old = planted!("exchange_not_exact", newest(), moved.old);
                if shard.replace(old, new) {
                    shard.view().slot(moved.old).lose(moved.size, moved.expires);
                    slot.gain(moved.size, moved.expires);
                }
            }
        }
    }

    /// Takes what has expired out of the index, unless somebody has written the key meanwhile. Entries
    /// are taken away inside the section, as by any writer.
    fn take_away(&self, over: &[Over]) {
        for over in over.chunks(OVER_TOGETHER) {
            let mut section = self.section.lock();
            for over in over {
                let mut shard = self.index.lock(over.fingerprint.lo);
                if shard.remove(over.word) {
                    shard.view().slot(over.word).lose(over.size, true);
                    drop(shard);
                    section.dead += over.size;
                    // To a load that is older it is a removal.
                    let change = IndexChange {
                        fingerprint: over.fingerprint,
                        old: Some((over.word, over.size, true)),
                        new: None,
                    };
                    section.loads.note(over.lsn, change);
                }
            }
            self.index_changed();
        }
    }

    /// Steps 5 to 7.
    fn retire(&self, victims: &[Victim<F>], outputs: &[Output<F>]) -> Result<()> {
        let bodies: Vec<MergedBody> = outputs.iter().filter_map(Output::body).collect();
        let ids: Vec<U64> = victims
            .iter()
            .map(|victim| U64::new(victim.segment.header.id))
            .collect();
        if planted!("unlinked_before_edit") {
            for victim in victims {
                let _ = self.fs.unlink(&name::segment(victim.segment.header.id));
            }
        }
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
            self.recount_expired(&mut section, self.now_ms());
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
}
