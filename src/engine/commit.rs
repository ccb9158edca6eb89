//! From stored to durable: group commit, poison.
//!
//! Group commit: whoever waits first leads. The leader states in a MARK what the last group made
//! durable, notes the last LSN, lets go of the section, syncs the unsealed segments oldest first,
//! takes the section again, publishes the group in LSN order and lets all of the group go. A write
//! that lands while the sync is under way belongs to the next group.
//!
//! A failed sync is final. The kernel may show bytes as clean that never reached the disk, so the
//! store is poisoned: pending writes are discarded, keys written since the last good sync refuse to
//! be read, nothing more is written.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use kvs_format::name;
use kvs_format::record::{Draft, Framing, Kind};
use kvs_format::scan::{Scanner, Step};
use kvs_format::system::{MARK_RECORD_BYTES, Mark};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

use crate::engine::core::{Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::pending::Ticket;
use crate::engine::segment::Segment;
use crate::storage::fs::Fs;

/// Gives leadership back, and poisons if the leader did not get to the end.
struct Leadership<'a, F: Fs> {
    engine: &'a Engine<F>,
    finished: bool,
}

impl<F: Fs> Drop for Leadership<'_, F> {
    fn drop(&mut self) {
        if !self.finished {
            self.engine.poisoned.store(true, Ordering::Release);
            self.engine.commit.fail(&Error::Poisoned);
        }
        self.engine.commit.stop_leading();
    }
}

impl<F: Fs> Engine<F> {
    /// Returns when everything up to the ticket is durable and visible.
    ///
    /// # Errors
    /// What the failed sync said; the outcome is then unknown until the store is reopened.
    pub(crate) fn wait(&self, ticket: Ticket) -> Result<()> {
        while self.commit.wait_or_lead(ticket.0)? {
            let mut leadership = Leadership {
                engine: self,
                finished: false,
            };
            self.commit.gather();
            let led = self.lead();
            leadership.finished = true;
            if let Err(error) = &led {
                self.commit.fail(error);
            }
        }
        Ok(())
    }

    /// One group: MARK, sync, publish.
    fn lead(&self) -> Result<()> {
        let (end, segments) = {
            let mut section = self.section.lock();
            let section = &mut *section;
            self.check_trusted(section)?;
            self.reap(section)?;
            self.append_mark(section)?;
            // Oldest first: what is durable is always a prefix of the log.
            let active = section.active.as_ref().map(|active| &active.segment);
            let older = section.sealing.iter();
            let older = older.filter(|_| !planted!("older_segment_not_synced"));
            let segments: Vec<_> = older.chain(active).cloned().collect();
            section.deadlines.close_group();
            self.commit.close_group();
            (section.next_lsn - 1, segments)
        };
        let started = Instant::now();
        for segment in &segments {
            if let Err(source) = self.sync_of_group(segment) {
                let error = Error::Io {
                    op: "sync the segment",
                    path: self.fs.path_of(&name::segment(segment.header.id)),
                    source,
                };
                // Told to waiters only when the store refuses: whoever is told and tries again must
                // not be let in.
                self.commit.blame(&error);
                self.poison(&mut self.section.lock());
                return Err(error);
            }
        }
        self.commit.note_sync(started.elapsed());
        let mut section = self.section.lock();
        // Somebody else's sync may have failed meanwhile: then this one proves nothing.
        self.check_trusted(&mut section)?;
        section.deadlines.group_is_durable();
        let end = planted!("group_closed_late", section.next_lsn - 1, end);
        let durable = self.publish_durable(&mut section, end)?;
        // Whoever is let go may want the section at once.
        drop(section);
        self.commit.advance(durable);
        Ok(())
    }

    fn sync_of_group(&self, segment: &Segment<F>) -> std::io::Result<()> {
        let synced = planted!("acknowledged_unsynced", Ok(()), self.sync_segment(segment));
        planted!("failed_sync_forgotten", Ok(()), synced)
    }

    /// Refuses to make promises on top of a failed sync, whoever met it.
    fn check_trusted(&self, section: &mut Section<F>) -> Result<()> {
        if self.upkeep.has_failed() {
            self.poison(section);
        }
        match self.is_poisoned() {
            true => Err(Error::Poisoned),
            false => Ok(()),
        }
    }

    /// Publishes what is durable up to `lsn` and lets waiters go.
    pub(crate) fn became_durable(&self, section: &mut Section<F>, lsn: u64) -> Result<()> {
        let durable = self.publish_durable(section, lsn)?;
        self.commit.advance(durable);
        Ok(())
    }

    /// Publishes, in LSN order, what is durable up to `lsn`; returns up to where everything is.
    fn publish_durable(&self, section: &mut Section<F>, lsn: u64) -> Result<u64> {
        section.durable_lsn = section.durable_lsn.max(lsn);
        while let Some(write) = section.pending.pop_durable(section.durable_lsn) {
            if let Err(error) = self.publish(section, &write) {
                self.commit.blame(&error);
                section.pending.put_back(write);
                self.poison(section);
                return Err(error);
            }
        }
        let rest = !section.pending.is_empty();
        self.has_pending.store(rest, Ordering::Release);
        Ok(section.durable_lsn)
    }

    /// States in the log what the last sync made durable, if that is news and there is room.
    fn append_mark(&self, section: &mut Section<F>) -> Result<()> {
        if section.durable_lsn <= section.marked_lsn || section.durable_lsn == 0 {
            return Ok(());
        }
        let Some(active) = &section.active else {
            return Ok(());
        };
        // FOOTER keeps its place: a MARK that does not fit waits for the next segment.
        let closing = kvs_format::system::FOOTER_RECORD_BYTES;
        if active.offset + MARK_RECORD_BYTES + closing > active.capacity {
            return Ok(());
        }
        self.put_mark(section).map(|_| ())
    }

    /// Appends a MARK to the active segment, which has room for it; returns its LSN.
    pub(crate) fn put_mark(&self, section: &mut Section<F>) -> Result<u64> {
        let active = section.active.as_ref().expect("the caller looked");
        let durable = section.durable_lsn;
        let mark = Mark {
            durable_lsn: U64::new(planted!("mark_before_sync", section.next_lsn - 1, durable)),
            salt: active.segment.header.mark_salt(),
        };
        let draft = Draft::new(Kind::Mark, None, &[], mark.as_bytes())
            .expect("a MARK is within the limits");
        let (lsn, _) = self.append(section, &draft, Framing::Single, &[], mark.as_bytes())?;
        section.marked_lsn = section.durable_lsn;
        Ok(lsn)
    }

    /// Makes everything before it durable.
    pub fn flush(&self) -> Result<()> {
        let last = {
            let mut section = self.section.lock();
            if self.config.read_only {
                return Ok(());
            }
            self.check_writable(&mut section)?;
            section.next_lsn - 1
        };
        self.wait(Ticket(last))
    }

    /// After a failed write or sync: nothing behind the last good sync can be trusted any more.
    #[cold]
    pub(crate) fn poison(&self, section: &mut Section<F>) {
        // Nothing has been appended since.
        if self.undurable.get().is_some() || planted!("not_poisoned") {
            return;
        }
        // Also what is durable but not in the index.
        let mut undurable: HashSet<_> = section.pending.keys().collect();
        let active = section.active.as_ref().map(|active| &active.segment);
        for segment in section.sealing.iter().chain(active) {
            let map = segment.slot.map();
            let end = map.published();
            let mut scanner = Scanner::new(&segment.header, end, 0);
            loop {
                let offset = scanner.offset();
                let bytes = map.slice(offset, end.saturating_sub(offset)).unwrap_or(&[]);
                let Step::Record(record) = scanner.step(bytes) else {
                    break;
                };
                if record.header.kind.is_data() && record.header.lsn > section.durable_lsn {
                    undurable.insert(self.hash_key.fingerprint(record.key));
                }
            }
        }
        let first = self.undurable.set(undurable).is_ok();
        self.poisoned.store(true, Ordering::Release);
        section.pending.clear();
        self.has_pending.store(false, Ordering::Release);
        if first && let Some(manifest) = &mut *self.manifest.lock() {
            manifest.append_poison(&self.fs, section.durable_lsn);
        }
        self.commit.fail(&Error::Poisoned);
    }
}
