//! Which steps a compaction consists of, for each who may ask for one: a person, the write that finds
//! too much garbage, closing.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::compaction::plan::{
    CLOSING_PARTS, GARBAGE_BYTES_MIN, Load, Mode, best, plan, steps, wanted, wanted_to_close,
};
use crate::engine::compaction::step::{Control, Halt, Pace, Victim};
use crate::engine::core::{Active, Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::latency::Timed;
use crate::engine::options::{Compaction, SEGMENT_BYTES_MAX};
use crate::engine::pending::Ticket;
use crate::engine::report::{CompactProgress, CompactReport};
use crate::storage::fs::Fs;

/// Bytes that one step of a compaction in the foreground copies: what it needs of free space.
const STEP_BYTES: u64 = SEGMENT_BYTES_MAX;

impl<F: Fs> Engine<F> {
    /// True if a write has something to do about garbage, now that it has let go of the section.
    #[inline]
    pub(crate) fn wants_compaction(&self, section: &mut Section<F>) -> bool {
        let may_expire = section.count_expired_at != u64::MAX;
        if may_expire && self.config.compaction != Compaction::Manual {
            self.count_expired(section);
        }
        match self.config.compaction {
            Compaction::Background if self.config.threads => {
                section.garbage() >= section.compact_floor || (may_expire && !section.watched)
            }
            Compaction::Manual => false,
            _ => wanted(section.payload, section.garbage(), section.compact_floor),
        }
    }

    /// Does something about garbage after a write that found enough of it. The write itself has
    /// succeeded; what goes wrong here is met again by whoever compacts or writes next.
    #[cold]
    pub(crate) fn compact_automatically(&self) {
        if self.config.compacts_in_background() && self.ask_for_compaction() {
            return;
        }
        let Some(_one) = self.compaction.try_lock() else {
            return;
        };
        let mut control = |_: &CompactProgress| ControlFlow::Continue(());
        let done = self
            .check_pinned()
            .and_then(|()| self.compact_locked(Mode::Worthwhile, &mut control));
        let mut section = self.section.lock();
        let live = section.payload.saturating_sub(section.garbage());
        let step = match done {
            Ok(_) => live.max(GARBAGE_BYTES_MIN) / 2,
            // Damage or a full disk does not go away by trying again at once.
            Err(_) => section.payload.max(GARBAGE_BYTES_MIN),
        };
        section.compact_floor = section.garbage() + step;
    }

    /// See [`crate::Store::compact`].
    pub fn compact(&self) -> Result<CompactReport> {
        self.compact_with(|_| ControlFlow::Continue(()))
    }

    /// See [`crate::Store::compact_with`].
    pub fn compact_with(
        &self,
        mut control: impl FnMut(&CompactProgress) -> ControlFlow<()>,
    ) -> Result<CompactReport> {
        let _one = self.compaction.lock();
        self.check_pinned()?;
        self.compact_locked(Mode::Everything, &mut control)
    }

    /// Refuses if compaction would give no space back.
    pub(super) fn check_pinned(&self) -> Result<()> {
        self.expire_snapshots();
        let bytes = self.pinned_bytes();
        let max = self.config.pinned_bytes_max;
        match bytes > max {
            true => Err(Error::Pinned { bytes, max }),
            false => Ok(()),
        }
    }

    /// Bytes of removed segments that are still looked at.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned().1
    }

    /// Removed segments that are still looked at, and their bytes.
    pub(crate) fn pinned(&self) -> (u64, u64) {
        let mut retired = self.retired.lock();
        retired.retain(|(map, _)| map.strong_count() > 0);
        let bytes = retired.iter().map(|(_, bytes)| bytes).sum();
        (retired.len() as u64, bytes)
    }

    /// Everything that `mode` chooses, in steps.
    pub(crate) fn compact_locked(
        &self,
        mode: Mode,
        control: &mut Control<'_>,
    ) -> Result<CompactReport> {
        let last = self.end_log_for_compaction()?;
        let chosen = plan(&self.loads(last), mode);
        let mut pace = Pace::new(control);
        pace.progress.segments_total = chosen.len() as u64;
        pace.progress.bytes_total = chosen.iter().map(|load| load.payload).sum();
        let mut report = CompactReport::default();
        let mut todo: VecDeque<Vec<Load>> = match mode {
            // No step may do harm; nor may all of it at once.
            #[cfg(feature = "testing")]
            Mode::Subset(_) => steps(&chosen, u64::MAX).into(),
            _ => steps(&chosen, STEP_BYTES).into(),
        };
        // Single segments that found no room, and why; more room since the first of them.
        let (mut put_off, mut no_room, mut more_room) = (Vec::new(), None, false);
        loop {
            if todo.is_empty() && more_room {
                todo = put_off.drain(..).map(|load| vec![load]).collect();
                more_room = false;
            }
            let Some(step) = todo.pop_front() else {
                break;
            };
            match self.compact_step(&step, last, &mut pace) {
                Ok(done) => {
                    more_room |= done.bytes_after < done.bytes_before;
                    report += done;
                }
                Err(Halt::Cancelled) => {
                    report.cancelled = true;
                    todo.push_front(step);
                    break;
                }
                // One at a time: each gives some room back. Those that do not fit come again then.
                Err(Halt::Failed(Error::DiskFull { .. })) if step.len() > 1 => {
                    let singles = step.into_iter().chain(todo.drain(..).flatten());
                    todo = singles.map(|load| vec![load]).collect();
                }
                Err(Halt::Failed(error @ Error::DiskFull { .. })) => {
                    put_off.extend(step);
                    no_room = Some(error);
                }
                Err(Halt::Failed(error)) => return Err(error),
            }
        }
        report.segments_left = (put_off.len() + todo.iter().map(Vec::len).sum::<usize>()) as u64;
        match no_room {
            Some(error) if report.segments_before == 0 => Err(error),
            _ => Ok(report),
        }
    }

    /// Rewrites these segments, as far as they are still there.
    pub(super) fn compact_step(
        &self,
        step: &[Load],
        last: u64,
        pace: &mut Pace<'_>,
    ) -> Result<CompactReport, Halt> {
        let ids: BTreeSet<u64> = step.iter().map(|load| load.id).collect();
        let (victims, others): (Vec<_>, Vec<_>) = self.ended().into_iter().partition(|victim| {
            ids.contains(&victim.segment.header.id) && victim.end.end_lsn <= last
        });
        if victims.is_empty() {
            return Ok(CompactReport::default());
        }
        let (started, before) = (Instant::now(), pace.progress.bytes_read);
        let rewritten = self.timers.time(Timed::CompactionStep, || {
            self.rewrite(&victims, &others, pace)
        });
        let read = pace.progress.bytes_read - before;
        self.counters
            .note_step(read, started.elapsed(), rewritten.as_ref().ok());
        let report = rewritten?;
        // What it gave back: the maps too, unless somebody looks at them.
        drop(victims);
        self.expire_snapshots();
        pace.progress.segments_done += report.segments_before;
        self.keep_reserve();
        if self.manifest_wants_rewrite() {
            self.rewrite_manifest()?;
        }
        Ok(report)
    }

    /// Compacts until little garbage is left or the time is up; a step that has begun by then may take
    /// a quarter of the budget longer, so that its work is not in vain. False if something is left. The
    /// caller has made sure that nobody else compacts.
    pub(crate) fn compact_to_close(&self, budget: Duration, by: Instant) -> (CompactReport, bool) {
        let mut report = CompactReport::default();
        let give_up = by + budget / 4;
        let worth = {
            let mut section = self.section.lock();
            self.recount_expired(&mut section, self.now_ms());
            wanted_to_close(section.payload, section.garbage())
        };
        if !worth || Instant::now() >= by {
            return (report, !worth);
        }
        if self.check_pinned().is_err() {
            return (report, false);
        }
        let mut control = |_: &CompactProgress| match Instant::now() < give_up {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        let mut pace = Pace::new(&mut control);
        let Ok(last) = self.end_log_for_closing() else {
            return (report, false);
        };
        loop {
            let step = best(&self.loads(last), CLOSING_PARTS, self.step_bytes());
            if step.is_empty() {
                return (report, true);
            }
            if Instant::now() >= by {
                return (report, false);
            }
            match self.compact_step(&step, last, &mut pace) {
                Ok(done) if done.bytes_after < done.bytes_before => report += done,
                // Nothing came back: it would not the next time either.
                Ok(done) => {
                    report += done;
                    return (report, false);
                }
                Err(halt) => {
                    report.cancelled = matches!(halt, Halt::Cancelled);
                    return (report, false);
                }
            }
        }
    }

    /// Bytes that a step among many copies: about one segment.
    pub(super) fn step_bytes(&self) -> u64 {
        let stored = self.section.lock().payload;
        self.config.overwritten_size(stored, 0)
    }

    /// Seals everything that was written, and waits until it is durable and published; returns the
    /// last LSN for which that holds.
    pub(super) fn end_log_for_compaction(&self) -> Result<u64> {
        let last = {
            let mut guard = self.section.lock();
            let section = &mut *guard;
            self.check_writable(section)?;
            let ended = self.begin_life_to_remove(section).and_then(|()| {
                let holds_records = |active: &_| holds_records::<F>(active);
                match section.active.as_ref().is_some_and(holds_records) {
                    true => self.rotate_to_remove(section, 0),
                    false => Ok(()),
                }
            });
            match ended {
                Ok(()) => section.next_lsn - 1,
                // What has ended already may give back the room that is missing.
                Err(Error::DiskFull { .. }) if !section.ends.is_empty() => section.durable_lsn,
                Err(error) => return Err(error),
            }
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

    /// As [`Engine::end_log_for_compaction`], but ends the active segment only if that is worth it.
    fn end_log_for_closing(&self) -> Result<u64> {
        let is_worth = {
            let mut section = self.section.lock();
            self.check_writable(&mut section)?;
            section.active.as_ref().is_some_and(|active| {
                let dead = active.payload - self.still_live(active).min(active.payload);
                dead > GARBAGE_BYTES_MIN && dead > active.payload / 4
            })
        };
        match is_worth {
            true => self.end_log_for_compaction(),
            false => self.end_of_sealed(),
        }
    }

    /// Waits for the segment that is being sealed; returns an LSN that no segment sealed by then goes
    /// beyond, and up to which everything is durable and published.
    pub(super) fn end_of_sealed(&self) -> Result<u64> {
        loop {
            let mut section = self.section.lock();
            self.check_writable(&mut section)?;
            self.reap(&mut section)?;
            let Some(lsn) = section.sealing_lsn() else {
                return Ok(section.durable_lsn);
            };
            drop(section);
            self.wait_for_seal(lsn);
        }
    }

    /// Every ended segment but the one that is being sealed.
    fn ended(&self) -> Vec<Victim<F>> {
        let section = self.section.lock();
        let segments = self.segments.read();
        let sealing = section.sealing.as_ref().map(|segment| segment.header.id);
        section
            .ends
            .iter()
            .filter(|(id, _)| sealing != Some(**id))
            .filter_map(|(id, end)| {
                Some(Victim {
                    segment: Arc::clone(segments.get(id)?),
                    end: *end,
                })
            })
            .collect()
    }

    /// What the segments hold that ended by `last`: a record behind it may be stored and not yet
    /// published, and would look dead.
    pub(super) fn loads(&self, last: u64) -> Vec<Load> {
        let now = self.now_ms();
        let ended = self.ended();
        let ids: BTreeSet<u64> = ended.iter().map(|v| v.segment.header.id).collect();
        ended
            .iter()
            .filter(|victim| victim.end.end_lsn <= last)
            .map(|victim| {
                let segment = &victim.segment;
                // Half of the reasons gone: about half of the tombstones may go by now.
                let kept = segment.graves.get().filter(|graves| {
                    let there = graves.reasons.iter().filter(|id| ids.contains(id));
                    there.count() * 2 > graves.reasons.len()
                });
                let slot = &segment.slot;
                let live = slot.live.load(Ordering::Relaxed);
                let histogram = slot.expiring.histogram();
                Load {
                    id: segment.header.id,
                    payload: slot.payload.load(Ordering::Relaxed),
                    live: live.saturating_sub(slot.expiring.expired(now)),
                    due: histogram.total() > 0 && histogram.first_ms <= now,
                    kept: kept.map_or(0, |graves| graves.bytes),
                    min_lsn: victim.end.min_lsn,
                }
            })
            .collect()
    }

    /// Bytes of the active segment that are the newest of their key and have not expired.
    pub(super) fn still_live(&self, active: &Active<F>) -> u64 {
        let slot = &active.segment.slot;
        let live = slot.live.load(Ordering::Relaxed);
        live.saturating_sub(slot.expiring.expired(self.now_ms()))
    }

    fn manifest_wants_rewrite(&self) -> bool {
        let manifest = self.manifest.lock();
        manifest.as_ref().is_some_and(|m| m.wants_rewrite())
    }

    fn rewrite_manifest(&self) -> Result<()> {
        let salt = (self.config.entropy)()?;
        let mut manifest = self.manifest.lock();
        let Some(manifest) = manifest.as_mut() else {
            return Ok(());
        };
        match manifest.rewrite(&self.fs, salt) {
            Err(error) if manifest.has_failed() => {
                self.upkeep_failed();
                Err(error.into())
            }
            // The old one is as good, and only longer.
            _ => Ok(()),
        }
    }
}

fn holds_records<F: Fs>(active: &Active<F>) -> bool {
    active.records > 0
}
