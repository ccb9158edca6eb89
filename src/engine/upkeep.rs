//! Segments come and go here: creating, rotating, sealing; on a thread of its own where possible.
//!
//! Rotation does not wait for a sync: the next segment accepts at once while the old one is synced
//! and sealed in the background. What keeps the log a prefix is the LINK at recovery, and syncing
//! oldest first. At most two log segments are unsealed; a third waits.
//!
//! A failed sync in the background cannot poison at once (the section may be waiting for this very
//! thread); it raises a flag that everybody who enters the section looks at first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvs_format::manifest::{AddBody, CleanBody, Edit, OpenedBody};
use kvs_format::name;
use kvs_format::record::{Draft, Framing, Kind};
use kvs_format::segment::{PAGE_BYTES, SegmentHeader, SegmentKind};
use kvs_format::system::{Footer, Link};
use memmap2::Advice;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

use crate::engine::catalog::{End, LogEnd, seal_body};
use crate::engine::core::{Active, Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::hints;
use crate::engine::latency::Timed;
use crate::engine::options::Durability;
use crate::engine::pending::Ticket;
use crate::engine::populate::{self, Ahead};
use crate::engine::report::{CloseReport, Undone};
use crate::engine::reserve::RESCUE_BYTES;
use crate::engine::segment::{Segment, Slot};
use crate::engine::tasks::{
    FailOnPanic, Fresh, HINTS_WAITING_MAX, HintJob, SealJob, SealedHint, Task,
};
use crate::storage::error::StorageError;
use crate::storage::fs::{Access, Fs, FsFile};
use crate::storage::raw::mmap::LARGE_BYTES;

/// After so long with nothing to do, hints that may wait are written.
const IDLE: Duration = Duration::from_secs(1);

/// A store with less garbage than this part of its records is growing, not being overwritten.
const GARBAGE_PART: u64 = 8;

/// Bytes below which a segment is not made smaller to fit a disk that is nearly full.
pub(crate) const SHRINKING_BYTES_MIN: u64 = 1 << 20;

impl<F: Fs> Engine<F> {
    pub(crate) fn io(&self, op: &'static str, name: &str) -> impl Fn(std::io::Error) -> Error {
        let path = self.fs.path_of(name);
        move |source| Error::Io {
            op,
            path: path.clone(),
            source,
        }
    }

    /// As [`Segment::sync`], counted.
    pub(crate) fn sync_segment(&self, segment: &Segment<F>) -> std::io::Result<()> {
        let started = Instant::now();
        let synced = self.timers.time(Timed::Sync, || segment.sync());
        self.counters.note_sync(started.elapsed());
        synced
    }

    /// A sync failed outside the section.
    pub(crate) fn upkeep_failed(&self) {
        self.upkeep.fail();
    }

    /// Takes the manifest's next step, after which nothing may be undone.
    ///
    /// # Errors
    /// Any error here is final: the store is poisoned by whoever enters the section next.
    pub(crate) fn edit(&self, edit: &Edit<'_>) -> Result<()> {
        let mut manifest = self.manifest.lock();
        let manifest = manifest.as_mut().ok_or(Error::ReadOnly)?;
        manifest.append(&self.fs, edit).map_err(|error| {
            self.upkeep.fail();
            error.into()
        })
    }

    /// Makes the directory's names durable. As with a segment, a failure is told to everybody who
    /// asks afterwards, and poisons.
    pub(crate) fn sync_dir(&self) -> Result<()> {
        let mut failed = self.dir_sync_failed.lock();
        let synced = match *failed {
            true => Err(std::io::Error::other(
                "an earlier sync of the directory failed",
            )),
            false => self.fs.sync_dir(),
        };
        *failed = synced.is_err();
        synced.map_err(|source| {
            self.upkeep.fail();
            self.io("sync the directory", "")(source)
        })
    }

    /// [`Error::DiskFull`] if that is what the error says.
    pub(crate) fn or_disk_full(&self, error: Error) -> Error {
        match error {
            Error::Io { op, path, source } => {
                let error = StorageError::Io { op, path, source };
                match error.is_disk_full() {
                    true => Error::DiskFull {
                        path: self.fs.path().to_path_buf(),
                    },
                    false => error.into(),
                }
            }
            error => error,
        }
    }

    /// Creates a segment of `capacity` bytes: file, header and name durable; a log segment ADDed.
    /// `large`: it will be synced seldom while it is filled, so large pages are worth their syncs.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::StoreFull`] or [`Error::Io`] before anything counts; what was
    /// created is removed again. A failed sync is final.
    pub(crate) fn create_segment(
        &self,
        kind: SegmentKind,
        capacity: u64,
        large: bool,
    ) -> Result<Fresh<F>> {
        let lease = self.windows.lease(capacity).ok_or(Error::StoreFull)?;
        let id = {
            let mut manifest = self.manifest.lock();
            let manifest = manifest.as_mut().ok_or(Error::ReadOnly)?;
            // Room for the edits first: a full disk must show before anything counts.
            manifest
                .reserve(&self.fs, 0)
                .map_err(|error| self.or_disk_full(error.into()))?;
            manifest.take_id().ok_or(Error::StoreFull)?
        };
        let name = name::segment(id);
        let salt = (self.config.entropy)().map_err(self.io("get random bytes", &name))?;
        let salt = planted!("one_salt_for_all", [7; 16], salt);
        let header = SegmentHeader { kind, id, salt };
        let file = self
            .fs
            .create(&name)
            .map_err(self.io("create the segment", &name))
            .map_err(|error| self.or_disk_full(error))?;
        let made = (|| {
            file.allocate(capacity)
                .map_err(self.io("allocate the segment", &name))?;
            let maps = file
                .map(capacity, Access::ReadWrite)
                .map_err(self.io("map the segment", &name))?;
            if large {
                // Before the header: a page that is there keeps the first piece small.
                file.keep_large(&maps.0);
            }
            file.write_at(0, &header.encode())
                .map_err(self.io("write the segment header", &name))?;
            Ok(maps)
        })();
        let (map, writer) = match made {
            Ok(maps) => maps,
            Err(error) => {
                // Nobody knows the file yet: if it cannot be removed, opening will.
                let _ = self.fs.unlink(&name);
                return Err(self.or_disk_full(error));
            }
        };
        let synced = planted!("header_not_synced", Ok(()), file.sync_data())
            .map_err(self.io("sync the segment", &name))
            .and_then(|()| planted!("new_name_not_synced", Ok(()), self.sync_dir()));
        if let Err(error) = synced {
            self.upkeep.fail();
            return Err(error);
        }
        if kind == SegmentKind::Log {
            self.edit(&Edit::Add(AddBody {
                id: U64::new(id),
                salt,
                allocated: U64::new(capacity),
            }))?;
        }
        let slot = Slot::new(&map, &header, lease);
        Ok(Fresh {
            segment: Arc::new(Segment::new(header, file, slot)),
            map: writer,
            brought_in: 0,
            capacity,
        })
    }

    /// The CLEAN that names the segment must be durable before the segment's file is changed: without
    /// it the file may not be shorter than it was allocated.
    fn confirm_clean(&self) -> Result<()> {
        let mut manifest = self.manifest.lock();
        let manifest = manifest.as_mut().ok_or(Error::ReadOnly)?;
        manifest.confirm(&self.fs).map_err(|error| {
            self.upkeep.fail();
            error.into()
        })
    }

    /// The first write of a life: goes on in the segment of the last clean close.
    ///
    /// # Errors
    /// [`Error::DiskFull`] before anything counts.
    pub(crate) fn begin_life(&self, section: &mut Section<F>) -> Result<()> {
        if section.resumable.is_some() {
            let mut manifest = self.manifest.lock();
            let manifest = manifest.as_mut().ok_or(Error::ReadOnly)?;
            manifest
                .reserve(&self.fs, 0)
                .map_err(|error| self.or_disk_full(error.into()))?;
        }
        if section.resumable.is_some()
            && let Err(error) = self.confirm_clean()
        {
            self.poison(section);
            return Err(error);
        }
        let Some(resumable) = section.resumable.take() else {
            return Ok(());
        };
        let whole = resumable.segment.slot.map().len();
        let capacity = match self.reserve.is_lent() {
            true => whole.min((resumable.offset + RESCUE_BYTES).next_multiple_of(4096)),
            false => whole,
        };
        let name = name::segment(resumable.segment.header.id);
        // Shorter first: if a life before got this far and its sync failed, the file looks long enough,
        // but no later sync would make a length durable that was not set again.
        let file = &resumable.segment.file;
        let grown = file.set_len(resumable.offset);
        if let Err(source) = grown.and_then(|()| file.allocate(capacity)) {
            let error = self.io("allocate the segment", &name)(source);
            // Part of it may have been allocated.
            let _ = file.set_len(resumable.offset);
            section.resumable = Some(resumable);
            return Err(self.or_disk_full(error));
        }
        let ready = self
            .sync_segment(&resumable.segment)
            .map_err(self.io("sync the segment", &name))
            .inspect_err(|_| self.upkeep.fail())
            .and_then(|()| {
                self.edit(&Edit::Opened(OpenedBody {
                    id: U64::new(resumable.segment.header.id),
                    allocated: U64::new(capacity),
                }))
            });
        if let Err(error) = ready {
            section.resumable = Some(resumable);
            self.poison(section);
            return Err(error);
        }
        if self.config.durability == Durability::Sync {
            resumable.segment.slot.map().advise(Advice::Random);
        }
        let (records, min_lsn, max_lsn, payload) = resumable.summary;
        section.active = Some(Active {
            segment: resumable.segment,
            map: resumable.map,
            offset: resumable.offset,
            capacity,
            records,
            min_lsn,
            max_lsn,
            payload,
            ahead: Ahead::new(self.config.populates(), resumable.offset),
            begun: resumable.offset,
            hinted: resumable.hinted,
            next_asked: false,
        });
        Ok(())
    }

    /// Ends the active segment and activates one with room for `bytes`.
    ///
    /// # Errors
    /// Without a next segment the active one stays as it is and usable.
    pub(crate) fn rotate(&self, section: &mut Section<F>, bytes: u64) -> Result<()> {
        while let Some(lsn) = section.sealing_lsn() {
            self.wait_for_seal(lsn);
            self.check_writable(section)?;
            self.reap(section)?;
        }
        let mut fresh = self.next_segment(section, bytes)?;
        let fast = self.fills_fast(section);
        section.pace = self.own_pace(section).unwrap_or(0);
        let ended = match section.active.is_some() {
            true => Some(self.end_active(section)?),
            false => None,
        };
        section.sealing = ended.as_ref().map(|job| Arc::clone(&job.segment));
        if !fast {
            // It may have been prepared for a writer who has become slow since.
            fresh.brought_in = 0;
        }
        self.activate(section, fresh)?;
        if let Some(job) = ended {
            match self.config.threads {
                true => {
                    self.submit(Task::Seal(job));
                    // Before the worker begins with a hint, which may take as long as filling half. Not
                    // where there is garbage: compaction needs the room.
                    let grows = !self.is_overwritten(section) && !self.reserve.is_lent();
                    if fast
                        && grows
                        && let Some(active) = &mut section.active
                    {
                        active.next_asked = true;
                        self.prepare_ahead(section);
                    }
                }
                false => {
                    self.seal(job)?;
                    self.reap(section)?;
                }
            }
        }
        Ok(())
    }

    fn next_segment(&self, section: &Section<F>, bytes: u64) -> Result<Fresh<F>> {
        let ended: u64 = section.ends.values().map(|end| end.length).sum();
        let active = section.active.as_ref().map_or(0, |active| active.offset);
        let usual = self.size_of_next(section, ended + active, bytes);
        let least = self.config.segment_size_min(bytes);
        let capacity = match self.reserve.is_lent() {
            true => (least + RESCUE_BYTES).min(usual),
            false => usual,
        };
        let large = self.fills_fast(section);
        let prepared = {
            let mut state = self.upkeep.state.lock();
            while state.preparing && !self.upkeep.has_failed() {
                self.upkeep.changed.wait(&mut state);
            }
            if self.upkeep.has_failed() {
                // The one being prepared may yet be ADDed: a later one must not be used before it.
                return Err(Error::Poisoned);
            }
            state.prepare_failed = false;
            state.prepared.take()
        };
        match prepared {
            // A smaller one than would be chosen now still serves if the record fits.
            Some(fresh) if fresh.capacity >= self.config.segment_size(0, bytes).min(capacity) => {
                Ok(fresh)
            }
            // Log segments are activated in the order of their ids: one that is too small goes.
            Some(fresh) => {
                self.discard(fresh)?;
                self.create_log(capacity, least, large)
            }
            None => {
                // What it costs is wanted most when there is no room for it any more.
                if !self.config.threads {
                    self.keep_reserve_of(ended + active);
                }
                self.create_log(capacity, least, large)
            }
        }
    }

    fn size_of_next(&self, section: &Section<F>, stored: u64, bytes: u64) -> u64 {
        let pace = self.own_pace(section).unwrap_or(section.pace);
        match self.is_overwritten(section) {
            true => self.config.overwritten_size(stored, bytes),
            false => self.config.paced_size(stored, bytes, pace),
        }
    }

    /// Bytes a second that the active segment is being filled with; 0 unless that is fast, and where there is
    /// no room. `None` if there is too little in it to tell.
    fn own_pace(&self, section: &Section<F>) -> Option<u64> {
        let filled = |active: &Active<F>| active.offset - active.begun;
        let filled = section.active.as_ref().map_or(0, filled);
        if !self.fills_fast(section) || self.reserve.is_lent() {
            return Some(0);
        }
        if filled < LARGE_BYTES / 2 {
            return None;
        }
        let (then, _) = section.activated;
        let micros = (self.config.clock)().saturating_sub(then).as_micros();
        let pace = u128::from(filled) * 1_000_000 / micros.max(1);
        Some(pace.try_into().unwrap_or(u64::MAX))
    }

    /// A log segment of `capacity` bytes, or of less if the disk has no more, down to `least`.
    fn create_log(&self, mut capacity: u64, least: u64, large: bool) -> Result<Fresh<F>> {
        loop {
            let smaller = (capacity / 2).next_multiple_of(4096);
            match self.create_segment(SegmentKind::Log, capacity, large) {
                Err(Error::DiskFull { .. })
                    if self.config.segment_bytes.is_none()
                        && smaller >= least.max(SHRINKING_BYTES_MIN) =>
                {
                    capacity = smaller;
                }
                created => return created,
            }
        }
    }

    /// Gives up a log segment that was never activated.
    fn discard(&self, fresh: Fresh<F>) -> Result<()> {
        let id = fresh.segment.header.id;
        self.edit(&Edit::Forget {
            ids: &[U64::new(id)],
        })?;
        let name = name::segment(id);
        self.fs
            .unlink(&name)
            .map_err(self.io("remove the segment", &name))
    }

    /// FOOTER, and the books.
    fn end_active(&self, section: &mut Section<F>) -> Result<SealJob<F>> {
        let fast = self.fills_fast(section);
        let active = section.active.as_ref().expect("the caller looked");
        let footer = Footer {
            records: U64::new(active.records),
            min_lsn: U64::new(active.min_lsn),
            max_lsn: U64::new(active.max_lsn),
            payload_bytes: U64::new(active.payload),
        };
        let draft = Draft::new(Kind::Footer, None, &[], footer.as_bytes())
            .expect("a FOOTER is within the limits");
        let (lsn, _) = self.append(section, &draft, Framing::Single, &[], footer.as_bytes())?;
        let active = section.active.take().expect("it was appended to");
        let end = End {
            length: active.offset,
            end_lsn: lsn,
            min_lsn: active.min_lsn,
            max_lsn: active.max_lsn,
            records: active.records,
            cut: None,
        };
        let id = active.segment.header.id;
        section.log_end = LogEnd {
            id,
            end: end.length,
            lsn,
            next_lsn: lsn + 1,
        };
        section.ends.insert(id, end);
        Ok(SealJob {
            segment: active.segment,
            map: active.map,
            end,
            fast,
            hints_may_wait: match self.is_overwritten(section) {
                true => HINTS_WAITING_MAX,
                false => 0,
            },
        })
    }

    /// Whether the log has been synced more than ten times a second since the last segment began, or
    /// will be: then pages must be small, and none dirty ahead of the writer.
    fn is_synced_often(&self, section: &mut Section<F>) -> bool {
        let (now, groups) = ((self.config.clock)(), self.commit.groups());
        let (then, before) = std::mem::replace(&mut section.activated, (now, groups));
        let seconds = now.saturating_sub(then).as_secs_f64();
        self.config.durability == Durability::Sync || (groups - before) as f64 > 10.0 * seconds
    }

    /// True if the active segment has so far been given [`LARGE_BYTES`] a sync and a second, or more: then
    /// pages that are dirty as a whole, and some ahead of the writer, cost whoever writes them to the
    /// disk little. What is decided by it holds for the head of the next segment, too.
    pub(crate) fn fills_fast(&self, section: &Section<F>) -> bool {
        let Some(active) = &section.active else {
            return false;
        };
        let (then, before) = section.activated;
        let syncs = self.commit.groups() - before;
        let seconds = (self.config.clock)().saturating_sub(then).as_secs();
        let little = syncs.max(seconds).saturating_mul(LARGE_BYTES);
        self.config.populates() && active.offset - active.begun >= little
    }

    /// Shows the segment to readers and begins it with a LINK.
    fn activate(&self, section: &mut Section<F>, mut fresh: Fresh<F>) -> Result<()> {
        fresh.map.publish(PAGE_BYTES);
        let id = fresh.segment.header.id;
        section.view = Arc::new(section.view.with(&fresh.segment.slot));
        self.index.set_view(&section.view);
        self.segments.write().insert(id, Arc::clone(&fresh.segment));
        let often = self.is_synced_often(section);
        let populates = self.config.populates() && !often;
        if often || (populates && fresh.brought_in == 0) {
            // A store dirties its whole folio: with small ones a commit writes kilobytes, not
            // megabytes (256 MiB segment, late: 4.6 KiB against 2 MiB a sync). And who comes to a page
            // that was not brought in zeroes that one, not as much as the device reads ahead.
            fresh.segment.slot.map().advise(Advice::Random);
        }
        let log_end = section.log_end;
        section.next_lsn = section.next_lsn.max(log_end.next_lsn);
        section.active = Some(Active {
            segment: fresh.segment,
            map: fresh.map,
            offset: PAGE_BYTES,
            capacity: fresh.capacity,
            records: 0,
            min_lsn: 0,
            max_lsn: 0,
            payload: 0,
            ahead: match fresh.brought_in {
                0 => Ahead::new(populates, PAGE_BYTES),
                to => Ahead::going_on(populates, PAGE_BYTES, to),
            },
            begun: PAGE_BYTES,
            hinted: 0,
            next_asked: false,
        });
        let link = Link {
            previous_id: U64::new(log_end.id),
            previous_end: U64::new(log_end.end),
            previous_lsn: U64::new(log_end.lsn),
        };
        let draft = Draft::new(Kind::Link, None, &[], link.as_bytes())
            .expect("a LINK is within the limits");
        self.append(section, &draft, Framing::Single, &[], link.as_bytes())?;
        Ok(())
    }

    /// Makes a complete segment durable and tells the manifest; then trims it. Its hint comes when nobody
    /// waits for this thread.
    fn seal(&self, job: SealJob<F>) -> Result<()> {
        let SealJob {
            segment,
            map,
            end,
            fast,
            hints_may_wait,
        } = job;
        let id = segment.header.id;
        let name = name::segment(id);
        if fast {
            segment.file.release_pages(segment.slot.map());
        }
        planted!("sealed_unsynced", Ok(()), self.sync_segment(&segment))
            .map_err(self.io("sync the segment", &name))
            .inspect_err(|_| self.upkeep.fail())?;
        self.edit(&Edit::Seal(seal_body(id, &end)))?;
        // The manifest's length rules now. If trimming fails, or does not survive, the file is only
        // longer than it need be.
        let _ = segment.file.set_len(end.length);
        let _ = map.seal();
        segment.slot.map().expect_ordered_reads();
        self.expect_cold_reads(std::iter::once(&*segment.slot));
        let length = end.length;
        if !self.config.threads {
            self.write_hint_of_sealed(&segment, length);
        }
        let mut state = self.upkeep.state.lock();
        state.sealed_lsn = end.end_lsn;
        if self.config.threads {
            // Writers may wait for this thread: to seal this segment, to prepare one, to seal the next.
            let segment = Arc::downgrade(&segment);
            state.sealed_hints.push_back(SealedHint { segment, length });
            state.hints_may_wait = hints_may_wait;
        }
        drop(state);
        self.upkeep.changed.notify_all();
        Ok(())
    }

    /// Whether a good part of what is stored is garbage.
    fn is_overwritten(&self, section: &Section<F>) -> bool {
        section.dead > 0 && section.dead >= section.payload / GARBAGE_PART
    }

    /// Whether the segment has not been compacted away.
    fn counts(&self, segment: &Segment<F>) -> bool {
        self.segments.read().contains_key(&segment.header.id)
    }

    /// The hint of a sealed segment, which may be compacted away at any moment. Best effort.
    fn write_hint_of_sealed(&self, segment: &Segment<F>, length: u64) {
        // On a full disk the room is needed for more important things.
        if !self.reserve.is_lent() && !self.upkeep.has_failed() {
            self.write_hint(segment, length);
            self.remove_hint_of_compacted(segment.header.id);
        }
    }

    /// Best effort: true if it was written.
    pub(crate) fn write_hint(&self, segment: &Segment<F>, length: u64) -> bool {
        let (expiry, written) = hints::write_for(
            &self.fs,
            &segment.file,
            &segment.header,
            length,
            self.index.bits(),
            &self.hash_key,
            self.now_ms(),
        );
        if let Some(expiry) = expiry {
            // Finer than what was put together while it was written.
            segment.slot.expiring.set(&expiry);
        }
        written
    }

    /// Takes note of segments that were sealed in the background.
    pub(crate) fn reap(&self, section: &mut Section<F>) -> Result<()> {
        let Some(lsn) = section.sealing_lsn() else {
            return Ok(());
        };
        if self.upkeep.state.lock().sealed_lsn < lsn {
            return Ok(());
        }
        section.sealing = None;
        self.became_durable(section, lsn)
    }

    /// Returns when the segment whose FOOTER has this LSN is sealed, or cannot be.
    pub(crate) fn wait_for_seal(&self, lsn: u64) {
        let mut state = self.upkeep.state.lock();
        while state.sealed_lsn < lsn && !self.upkeep.has_failed() {
            self.upkeep.changed.wait(&mut state);
        }
    }

    /// Asks for the next segment, once.
    pub(crate) fn prepare_ahead(&self, section: &Section<F>) {
        let large = self.fills_fast(section);
        let mut state = self.upkeep.state.lock();
        if state.preparing || state.prepared.is_some() || state.prepare_failed {
            return;
        }
        let ended: u64 = section.ends.values().map(|end| end.length).sum();
        let active = section.active.as_ref().map_or(0, |active| active.capacity);
        let stored = ended + active;
        let prepare = Task::Prepare {
            bytes: self.size_of_next(section, stored, 0),
            stored,
            large,
        };
        state.preparing = true;
        drop(state);
        self.submit(prepare);
    }

    fn submit(&self, task: Task<F>) {
        self.upkeep.state.lock().tasks.push_back(task);
        self.wake_worker();
    }

    /// Asks for a hint, which comes when nobody waits for anything else.
    pub(crate) fn submit_hint(&self, job: HintJob) {
        self.upkeep.state.lock().hints.push_back(job);
        self.wake_worker();
    }

    /// Asks for the hints of these segments, which have none that is whole, when this thread has had nothing to
    /// do for a while.
    pub(crate) fn ask_for_hints(&self, ids: &[u64]) {
        if ids.is_empty() || self.config.read_only || !self.config.threads {
            return;
        }
        let missing: Vec<_> = {
            let section = self.section.lock();
            let segments = self.segments.read();
            let hint = |id| {
                let length = section.ends.get(id)?.length;
                let segment = Arc::downgrade(segments.get(id)?);
                Some(SealedHint { segment, length })
            };
            ids.iter().filter_map(hint).collect()
        };
        self.upkeep.state.lock().missing_hints.extend(missing);
        self.wake_worker();
    }

    fn wake_worker(&self) {
        let mut state = self.upkeep.state.lock();
        if state.worker.is_none()
            && let Some(engine) = self.me.upgrade()
        {
            let spawned = crate::sync::thread::Builder::new()
                .name("kvs-upkeep".to_owned())
                .spawn(move || engine.work());
            match spawned {
                Ok(worker) => state.worker = Some(worker),
                // No thread to be had: the work is done here.
                Err(_) => {
                    while let Some(task) = state.next(true) {
                        drop(state);
                        self.perform(task);
                        state = self.upkeep.state.lock();
                    }
                    return;
                }
            }
        }
        drop(state);
        self.upkeep.changed.notify_all();
    }

    fn work(&self) {
        let _guard = FailOnPanic(&self.upkeep);
        let mut idle = false;
        loop {
            let task = {
                let mut state = self.upkeep.state.lock();
                loop {
                    if let Some(task) = state.next(idle) {
                        break task;
                    }
                    if let Some(task) = state.next_missing(idle) {
                        idle = false;
                        break task;
                    }
                    if state.stop {
                        return;
                    }
                    let changed = &self.upkeep.changed;
                    match state.sealed_hints.is_empty() && state.missing_hints.is_empty() {
                        true => changed.wait(&mut state),
                        false => idle = changed.wait_for(&mut state, IDLE).timed_out(),
                    }
                }
            };
            idle &= matches!(task, Task::HintOfSealed(_));
            self.perform(task);
        }
    }

    fn perform(&self, task: Task<F>) {
        match task {
            Task::Seal(job) => {
                // An error has raised the flag.
                let _ = self.seal(job);
            }
            Task::Hint(job) => self.write_hint_of(&job),
            Task::HintOfSealed(SealedHint { segment, length }) => {
                let segment = segment.upgrade();
                let counts = |s: &Arc<_>| self.counts(s);
                if let Some(segment) = segment.filter(counts) {
                    self.write_hint_of_sealed(&segment, length);
                }
            }
            Task::Prepare {
                bytes,
                stored,
                large,
            } => {
                self.keep_reserve_of(stored);
                // Without one the writer creates it itself, and gets the error.
                let create = |bytes| self.create_segment(SegmentKind::Log, bytes, large);
                let usual = self.config.segment_size(stored, 0);
                let mut made = match create(bytes) {
                    // There may be room for one that is not made for speed.
                    Err(Error::DiskFull { .. }) if usual < bytes => create(usual).ok(),
                    made => made.ok(),
                };
                if let Some(fresh) = &mut made
                    && large
                {
                    // The writer that rotates must not wait for the first pages.
                    fresh.brought_in = populate::HEAD_BYTES.min(fresh.capacity);
                    // Here, since it waits for whoever is just bringing pages in.
                    fresh.segment.slot.map().advise(Advice::Random);
                    let map = Arc::downgrade(&fresh.segment.slot.stripes.any().map);
                    self.populate.bring_in(&map, 0, fresh.brought_in);
                }
                let mut state = self.upkeep.state.lock();
                state.prepare_failed = made.is_none();
                state.prepared = made;
                state.preparing = false;
                drop(state);
                self.upkeep.changed.notify_all();
            }
        }
    }

    /// Ends the worker after it has done what was asked of it.
    fn stop_worker(&self) {
        let worker = {
            let mut state = self.upkeep.state.lock();
            state.stop = true;
            state.worker.take()
        };
        self.upkeep.changed.notify_all();
        if let Some(worker) = worker
            && worker.join().is_err()
        {
            self.upkeep.fail();
        }
    }

    /// Compacts for at most `budget` if that is worth it, makes everything durable, ends the threads
    /// and leaves the store as after a clean close. Returns what could not be done and does no harm.
    ///
    /// # Errors
    /// What could not be done; the store is then recovered when it is next opened.
    pub fn close_within(&self, budget: Duration) -> Result<CloseReport> {
        let mut report = CloseReport {
            closed: true,
            ..CloseReport::default()
        };
        if self.config.read_only {
            return Ok(report);
        }
        let by = Instant::now() + budget;
        self.stop_compaction(by);
        // A compaction that somebody asked for ends first: it needs the store open.
        let _compaction = self.compaction.lock();
        if !budget.is_zero() {
            let whole;
            (report.compacted, whole) = self.compact_to_close(budget, by);
            if !whole {
                report.undone.push(Undone::Compaction);
            }
        }
        let last = {
            let mut section = self.section.lock();
            if std::mem::replace(&mut section.closed, true) {
                return Ok(CloseReport {
                    closed: true,
                    ..CloseReport::default()
                });
            }
            if self.upkeep.has_failed() {
                self.poison(&mut section);
            }
            section.next_lsn - 1
        };
        let flushed = self.wait(Ticket(last));
        self.populate.stop();
        self.stop_interval();
        self.stop_worker();
        let mut section = self.section.lock();
        if self.upkeep.has_failed() {
            self.poison(&mut section);
        }
        flushed?;
        if self.is_poisoned() {
            return Err(Error::Poisoned);
        }
        self.reap(&mut section)?;
        let prepared = self.upkeep.state.lock().prepared.take();
        if let Some(fresh) = prepared {
            self.discard(fresh)?;
        }
        let Some(active) = section.active.take() else {
            return Ok(report);
        };
        let id = active.segment.header.id;
        self.edit(&Edit::Clean(CleanBody {
            id: U64::new(id),
            length: U64::new(active.offset),
            lsn: U64::new(section.next_lsn - 1),
        }))?;
        // CLEAN says how long it is: longer does no harm.
        if active.segment.file.set_len(active.offset).is_err() {
            report.undone.push(Undone::Trim);
        }
        if active.offset.saturating_sub(active.hinted) > hints::PREFIX_BYTES
            && !self.write_hint(&active.segment, active.offset)
        {
            report.undone.push(Undone::Hint);
        }
        let ended: u64 = section.ends.values().map(|end| end.length).sum();
        drop(section);
        self.keep_reserve_of(ended + active.offset);
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::engine::config::{Config, GROWING_BYTES_MIN, PACED_BYTES_MAX};
    use crate::engine::options::Options;
    use crate::storage::real::RealFs;

    #[test]
    fn a_store_that_is_filled_fast_goes_on_in_larger_segments() {
        // By how much each look at the clock finds it advanced.
        for (tick, expected) in [
            (Duration::from_micros(1), PACED_BYTES_MAX),
            (Duration::from_secs(1), GROWING_BYTES_MIN),
        ] {
            let mut config = Config::new(&Options::new().durability(Durability::Os));
            let looks = AtomicU64::new(0);
            config.clock = Arc::new(move || tick * looks.fetch_add(1, Ordering::Relaxed) as u32);
            let engine = Engine::open(RealFs::in_memory(), config).expect("it opens");
            let value = vec![0; 64 << 10];
            for i in 0..GROWING_BYTES_MIN / value.len() as u64 + 1 {
                engine.set(&i.to_le_bytes(), &value).expect("set");
            }
            let section = engine.section.lock();
            assert_eq!(section.ends.len(), 1, "{tick:?}: the first segment ended");
            let active = section.active.as_ref().expect("there is one");
            assert_eq!(active.capacity, expected, "{tick:?}");
        }
    }
}
