//! From stored to durable: tickets, the pending table, group commit, poison.
//!
//! A `Sync` write is stored at once but enters the index only when it is durable. Until then it is
//! *pending*. Any write to a key that has a pending version joins the queue behind it, so per key
//! what readers see follows LSN order.
//!
//! Group commit: whoever waits first leads. The leader states in a MARK what the last group made
//! durable, notes the last LSN, lets go of the section, syncs the unsealed segments oldest first,
//! takes the section again, publishes the group in LSN order and wakes all waiters at once. A write
//! that lands while the sync is under way belongs to the next group.
//!
//! A failed sync is final. The kernel may show bytes as clean that never reached the disk, so the
//! store is poisoned: pending writes are discarded, keys written since the last good sync refuse to
//! be read, nothing more is written.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use kvs_format::hash::Fingerprint;
use kvs_format::name;
use kvs_format::record::{Draft, Framing, Kind};
use kvs_format::scan::{Scanner, Step};
use kvs_format::system::{MARK_RECORD_BYTES, Mark};
use parking_lot::{Condvar, Mutex};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

use crate::engine::core::{Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::writer::Change;
use crate::storage::fs::Fs;

/// A place in the queue: the LSN that must be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// A write that is stored but not durable, and not in the index.
#[derive(Debug)]
pub(crate) struct PendingWrite {
    /// LSN of its last record.
    pub(crate) lsn: u64,
    /// What it changes, all at once.
    pub(crate) changes: Vec<Change>,
}

/// The newest pending version of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingKey {
    pub(crate) lsn: u64,
    /// False for a tombstone.
    pub(crate) present: bool,
}

/// All pending writes; only the section touches it.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    queue: VecDeque<PendingWrite>,
    newest: HashMap<Fingerprint, PendingKey>,
}

impl Pending {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    pub(crate) fn get(&self, fingerprint: Fingerprint) -> Option<PendingKey> {
        self.newest.get(&fingerprint).copied()
    }

    pub(crate) fn push(&mut self, write: PendingWrite) {
        for change in &write.changes {
            let newest = PendingKey {
                lsn: write.lsn,
                present: change.new.is_some(),
            };
            self.newest.insert(change.fingerprint, newest);
        }
        self.queue.push_back(write);
    }

    fn pop_durable(&mut self, durable_lsn: u64) -> Option<PendingWrite> {
        self.queue
            .front()
            .filter(|write| write.lsn <= durable_lsn)?;
        let write = self.queue.pop_front()?;
        for change in &write.changes {
            let newest = self.newest.get(&change.fingerprint);
            if newest.is_some_and(|newest| newest.lsn == write.lsn) {
                self.newest.remove(&change.fingerprint);
            }
        }
        Some(write)
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.newest.clear();
    }
}

/// What a failed sync said, to be told to every waiter of its group.
#[derive(Clone, Debug)]
struct Failure {
    op: &'static str,
    path: PathBuf,
    kind: io::ErrorKind,
    code: Option<i32>,
}

impl Failure {
    fn of(error: &Error) -> Self {
        match error {
            Error::Io { op, path, source } => Self {
                op,
                path: path.clone(),
                kind: source.kind(),
                code: source.raw_os_error(),
            },
            _ => Self {
                op: "complete the commit",
                path: PathBuf::new(),
                kind: io::ErrorKind::Other,
                code: None,
            },
        }
    }

    fn to_error(&self) -> Error {
        Error::Io {
            op: self.op,
            path: self.path.clone(),
            source: match self.code {
                Some(code) => io::Error::from_raw_os_error(code),
                None => self.kind.into(),
            },
        }
    }
}

#[derive(Debug)]
struct State {
    durable_lsn: u64,
    leading: bool,
    failure: Option<Failure>,
}

/// Where waiters meet.
#[derive(Debug)]
pub(crate) struct Commit {
    state: Mutex<State>,
    changed: Condvar,
}

impl Commit {
    pub(crate) fn new(durable_lsn: u64) -> Self {
        Self {
            state: Mutex::new(State {
                durable_lsn,
                leading: false,
                failure: None,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Commit {
    /// Lets all waiters go with an error: the first one that is told counts.
    fn fail(&self, error: &Error) {
        let mut state = self.state.lock();
        state.failure.get_or_insert_with(|| Failure::of(error));
        drop(state);
        self.changed.notify_all();
    }
}

/// Gives leadership back, and poisons if the leader did not get to the end.
struct Leadership<'a, F: Fs> {
    engine: &'a Engine<F>,
    finished: bool,
}

impl<F: Fs> Drop for Leadership<'_, F> {
    fn drop(&mut self) {
        if !self.finished {
            self.engine.poisoned.store(true, Ordering::Release);
        }
        let mut state = self.engine.commit.state.lock();
        state.leading = false;
        if !self.finished && state.failure.is_none() {
            state.failure = Some(Failure::of(&Error::Poisoned));
        }
        drop(state);
        self.engine.commit.changed.notify_all();
    }
}

impl<F: Fs> Engine<F> {
    /// Returns when everything up to the ticket is durable and visible.
    ///
    /// # Errors
    /// What the failed sync said; the outcome is then unknown until the store is reopened.
    pub(crate) fn wait(&self, ticket: Ticket) -> Result<()> {
        let mut state = self.commit.state.lock();
        loop {
            if state.durable_lsn >= ticket.0 {
                return Ok(());
            }
            if let Some(failure) = &state.failure {
                return Err(failure.to_error());
            }
            if state.leading {
                self.commit.changed.wait(&mut state);
                continue;
            }
            state.leading = true;
            drop(state);
            let mut leadership = Leadership {
                engine: self,
                finished: false,
            };
            let led = self.lead();
            leadership.finished = true;
            if let Err(error) = &led {
                self.commit.fail(error);
            }
            drop(leadership);
            state = self.commit.state.lock();
        }
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
            let segments: Vec<_> = section.sealing.iter().chain(active).cloned().collect();
            (section.next_lsn - 1, segments)
        };
        for segment in &segments {
            if let Err(source) = segment.sync() {
                let error = Error::Io {
                    op: "sync the segment",
                    path: self.fs.path_of(&name::segment(segment.header.id)),
                    source,
                };
                self.commit.fail(&error);
                self.poison(&mut self.section.lock());
                return Err(error);
            }
        }
        let mut section = self.section.lock();
        // Somebody else's sync may have failed meanwhile: then this one proves nothing.
        self.check_trusted(&mut section)?;
        self.became_durable(&mut section, end)
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

    /// Publishes what is durable up to `lsn`, in LSN order, and lets waiters go.
    pub(crate) fn became_durable(&self, section: &mut Section<F>, lsn: u64) -> Result<()> {
        section.durable_lsn = section.durable_lsn.max(lsn);
        while let Some(write) = section.pending.pop_durable(section.durable_lsn) {
            if let Err(error) = self.publish(section, &write.changes) {
                self.poison(section);
                return Err(error);
            }
        }
        let mut state = self.commit.state.lock();
        state.durable_lsn = state.durable_lsn.max(section.durable_lsn);
        drop(state);
        self.commit.changed.notify_all();
        Ok(())
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
        let mark = Mark {
            durable_lsn: U64::new(section.durable_lsn),
            salt: active.segment.header.mark_salt(),
        };
        let draft = Draft::new(Kind::Mark, None, &[], mark.as_bytes())
            .expect("a MARK is within the limits");
        self.append(section, &draft, Framing::Single, &[], mark.as_bytes())?;
        section.marked_lsn = section.durable_lsn;
        Ok(())
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
        let mut undurable = HashSet::new();
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
        if first && let Some(manifest) = &mut *self.manifest.lock() {
            manifest.append_poison(&self.fs, section.durable_lsn);
        }
        self.commit.fail(&Error::Poisoned);
    }
}
