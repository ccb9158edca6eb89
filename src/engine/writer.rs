//! The writer section: reserve LSN and offset, store, publish.
//!
//! What can be done outside is: encoding, both lengths' limits, looking up the old version of the
//! key. Inside, a look-up is believed only if no writer has changed the index since (`version`), or
//! after every candidate under the shard's lock was among those looked at. Words of moved records
//! are new words, so a compaction in between is noticed the same way.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvs_format::hash::Fingerprint;
use kvs_format::name;
use kvs_format::record::{Draft, Framing, Kind};
use kvs_format::system::{FOOTER_RECORD_BYTES, MARK_RECORD_BYTES};
use kvs_format::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::engine::batch::Batch;
use crate::engine::bulk::state::IndexChange;
use crate::engine::core::{Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::options::Durability;
use crate::engine::pending::{Change, PendingKey, PendingWrite, Place, Ticket};
use crate::engine::read::{Candidates, Checks, Found};
use crate::engine::reserve::Need;
use crate::engine::segment::View;
use crate::engine::tasks::FailOnPanic;
use crate::engine::time::WallClock;
use crate::index::ShardMut;
use crate::storage::fs::{Fs, FsFile};
use crate::storage::location::Word;
use crate::storage::raw::prefetch::LINE_BYTES;

/// A record to be written.
#[derive(Clone, Copy)]
pub(crate) struct One<'a> {
    pub(crate) kind: Kind,
    pub(crate) expires_at: Option<u64>,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl<'a> One<'a> {
    /// The removal of `key`.
    pub(crate) fn tombstone(key: &'a [u8]) -> Self {
        Self {
            kind: Kind::Tombstone,
            expires_at: None,
            key,
            value: &[],
        }
    }
}

/// Where the new version of a key is, for the index and the books.
#[derive(Clone, Copy)]
pub(crate) struct New {
    pub(crate) word: Word,
    pub(crate) size: u64,
    pub(crate) expires: bool,
}

impl New {
    pub(crate) fn of(place: &Place, hash: u64) -> Self {
        Self {
            word: place.slot.word(hash, place.offset),
            size: place.size,
            expires: place.expires_at.is_some(),
        }
    }
}

/// Whether a version had expired when it was seen: time changes a key too.
type Alive = bool;

/// Which version of a key somebody has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// None at all.
    None,
    /// The one the index names. The segment is pinned as long as this is held: the word cannot come to
    /// mean another record.
    Indexed(Word, Alive),
    /// One that is stored but not durable.
    Pending(u64, Alive),
}

impl Version {
    fn is_current(self, pending: Option<&PendingKey>, known: &Known, clock: &WallClock) -> bool {
        match (self, pending) {
            (Self::Pending(lsn, alive), Some(pending)) => {
                let new = pending.new.as_ref();
                let is_alive = new.is_some_and(|place| place.is_alive(clock));
                pending.lsn == lsn && is_alive == alive
            }
            (Self::Indexed(word, alive), None) => known
                .found
                .is_some_and(|(indexed, found)| indexed == word && found.is_alive(clock) == alive),
            (Self::None, None) => known.found.is_none(),
            // Also a pending one that is durable by now: it is looked at again.
            (_, _) => false,
        }
    }
}

/// On what a write depends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// On nothing, but that a key is removed only if it is there.
    Always,
    /// The key has no value.
    Absent,
    /// The key's version is still the one that was seen.
    Unchanged(Version),
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is as durable and visible as its level says; whether the key had a value before.
    Written {
        /// It had.
        present: bool,
    },
    /// Nothing to remove, or something there already. What that rests on is durable.
    Needless,
    /// The key has another version by now; nothing was written.
    Changed,
}

/// What is left to do for a write that is stored.
#[must_use]
pub(crate) struct Stored {
    /// What must be durable before its outcome is told; `None`: nothing.
    pub(crate) ticket: Option<Ticket>,
    /// It found enough garbage to do something about.
    pub(crate) compact: bool,
}

/// What is known of a key before the section is entered.
#[derive(Default)]
pub(crate) struct Known {
    seen: Candidates,
    pub(crate) found: Option<(Word, Found)>,
}

impl Known {
    /// True if the key has a version in the index.
    pub(crate) fn is_found(&self) -> bool {
        self.found.is_some()
    }

    /// What became of the key's version; `lost` bytes of it: none if it had gone already.
    pub(crate) fn became(
        &self,
        fingerprint: Fingerprint,
        new: Option<New>,
        lost: u64,
    ) -> IndexChange {
        let old = self.found.filter(|_| lost > 0);
        IndexChange {
            fingerprint,
            old: old.map(|(word, found)| (word, found.size, found.expires_at.is_some())),
            new: new.map(|new| new.word),
        }
    }

    /// True if every word under the lock was looked at: then what was found still decides.
    pub(crate) fn covers<V>(&self, shard: &ShardMut<'_, V>, hash: u64) -> bool {
        shard.words(hash).all(|word| self.seen.contains(word))
    }
}

impl<F: Fs> Engine<F> {
    /// The current version of `key` in the index, with everything that was looked at to find it.
    pub(crate) fn look_up(&self, hash: u64, key: &[u8]) -> Result<Known> {
        self.known_among(self.candidates(hash), key)
    }

    /// What is known of `key` by all words that may stand for it.
    #[inline]
    pub(crate) fn known_among(&self, seen: Candidates, key: &[u8]) -> Result<Known> {
        let mut found = None;
        for (word, pin) in seen.iter() {
            if let Some(record) = self.matches(pin, *word, key, Checks::Place)? {
                found = Some((*word, record));
                break;
            }
        }
        Ok(Known { seen, found })
    }

    /// As [`Engine::look_up`], from inside the section: `known` if nothing has changed since.
    fn look_again(&self, known: Known, version: u64, hash: u64, key: &[u8]) -> Result<Known> {
        match self.version.get() == version {
            true => Ok(known),
            false => self.look_up(hash, key),
        }
    }

    pub(crate) fn check_sizes(key: &[u8], value: &[u8]) -> Result<()> {
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::KeyTooLong {
                len: key.len(),
                max: KEY_BYTES_MAX,
            });
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::ValueTooLong {
                len: value.len(),
                max: VALUE_BYTES_MAX,
            });
        }
        Ok(())
    }

    /// See [`crate::Store::set`].
    #[inline]
    pub fn set_at(&self, level: Durability, key: &[u8], value: &[u8]) -> Result<()> {
        let one = One {
            kind: Kind::Set,
            expires_at: self.default_expiry(),
            key,
            value,
        };
        self.write_one(level, one, When::Always).map(|_| ())
    }

    /// See [`crate::Store::remove`].
    pub fn remove_at(&self, level: Durability, key: &[u8]) -> Result<bool> {
        let outcome = self.write_one(level, One::tombstone(key), When::Always)?;
        Ok(outcome == Outcome::Written { present: true })
    }

    /// One record, if what `when` says holds at the moment it is stored.
    #[inline]
    pub(crate) fn write_one(&self, level: Durability, one: One<'_>, when: When) -> Result<Outcome> {
        let (outcome, stored) = self.store_one(level, one, when)?;
        self.settle(stored)?;
        Ok(outcome)
    }

    /// Waits for what a stored write waits for, and sees to garbage.
    #[inline]
    pub(crate) fn settle(&self, stored: Stored) -> Result<()> {
        if let Some(ticket) = stored.ticket {
            self.wait(ticket)?;
        }
        if stored.compact {
            let _fails = FailOnPanic(&self.upkeep);
            self.compact_automatically();
        }
        Ok(())
    }

    /// As [`Engine::write_one`], and returns when the record is stored.
    #[inline]
    fn store_one(&self, level: Durability, one: One<'_>, when: When) -> Result<(Outcome, Stored)> {
        let done = |outcome, ticket| {
            let compact = false;
            Ok((outcome, Stored { ticket, compact }))
        };
        let One {
            kind,
            expires_at,
            key,
            value,
        } = one;
        Self::check_sizes(key, value)?;
        let hash = self.hash_key.hash(key);
        // The check is computed while the index comes from memory.
        self.index.prefetch(hash);
        let draft = Draft::new(kind, expires_at, key, value).expect("lengths were checked");
        let version = self.version.get();
        let known = self.look_up(hash, key)?;

        // Half a write must not be followed by others.
        let _fails = FailOnPanic(&self.upkeep);
        let mut guard = self.section.lock();
        if let Durability::Interval(_) = level {
            guard = self.keep_bound(guard)?;
        }
        let section = &mut *guard;
        self.check_writable(section)?;
        // A plain set does not ask what was there, and publishing looks again itself.
        let known = match (kind, when) {
            (Kind::Set, When::Always) if self.config.index_bytes_max.is_none() => known,
            _ => self.look_again(known, version, hash, key)?,
        };
        let pending = match section.pending.is_empty() {
            true => None,
            false => section.pending.get(self.hash_key.fingerprint(key)),
        };
        let clock = &self.config.wall_clock;
        let present = match (pending, &known.found) {
            (Some(pending), _) => {
                let new = pending.new.as_ref();
                new.is_some_and(|place| place.is_alive(clock))
            }
            (None, Some((_, found))) => found.is_alive(clock),
            (None, None) => false,
        };
        let (unchanged, needless) = match when {
            When::Always => (true, kind == Kind::Tombstone && !present),
            When::Absent => (true, present),
            When::Unchanged(version) => (version.is_current(pending, &known, clock), false),
        };
        if !unchanged {
            return done(Outcome::Changed, None);
        }
        let adds =
            kind != Kind::Tombstone && pending.map_or(known.found.is_none(), PendingKey::set_adds);
        let pending = pending.map(|pending| Ticket(pending.lsn));
        if needless {
            // What was seen may rest on a write that is not durable yet.
            return done(Outcome::Needless, pending);
        }
        let need = match kind {
            Kind::Tombstone => Need::Removal,
            _ => Need::Values,
        };
        if adds && self.index_is_nearly_full(section, 1) {
            self.check_index_room(section, [hash])?;
        }
        let rotated = self.make_room_for(section, draft.size(), need)?;
        let (lsn, offset) = self.append(section, &draft, Framing::Single, key, value)?;
        let slot = &section
            .active
            .as_ref()
            .expect("it was appended to")
            .segment
            .slot;
        let is_set = kind != Kind::Tombstone;
        let size = draft.size();
        if level != Durability::Sync && pending.is_none() {
            let new = is_set.then(|| New {
                word: slot.word(hash, offset),
                size,
                expires: expires_at.is_some(),
            });
            if let Err(error) = self.publish_one(section, lsn, known, hash, key, new) {
                self.poison(section);
                return Err(error);
            }
            let late = match level {
                Durability::Interval(interval) => {
                    self.owe_sync(section, interval) || (rotated && self.is_late(section))
                }
                _ => false,
            };
            let stored = Stored {
                ticket: late.then_some(Ticket(lsn)),
                compact: self.wants_compaction(section),
            };
            return Ok((Outcome::Written { present }, stored));
        }
        let change = Change {
            fingerprint: self.hash_key.fingerprint(key),
            key: key.into(),
            new: is_set.then(|| Place {
                slot: Arc::clone(slot),
                offset,
                size,
                expires_at,
            }),
            adds,
        };
        section.pending.push(PendingWrite {
            lsn,
            changes: vec![change],
        });
        self.has_pending.store(true, Ordering::Release);
        let stored = Stored {
            ticket: Some(Ticket(lsn)),
            compact: self.wants_compaction(section),
        };
        Ok((Outcome::Written { present }, stored))
    }

    /// See [`crate::Store::write`].
    pub fn write_at(&self, level: Durability, batch: &Batch) -> Result<()> {
        let ticket = self.append_at(level, batch)?;
        self.wait_for(ticket)
    }

    /// As [`Engine::write_at`], and returns when the batch is stored: [`Engine::newest`] sees it, other
    /// reads do as soon as their level says. Who must not tell of it before it is as durable as that
    /// calls [`Engine::wait_for`].
    pub(crate) fn append_at(&self, level: Durability, batch: &Batch) -> Result<Option<Ticket>> {
        match batch.len() {
            0 => Ok(None),
            1 => self.append_single(level, batch),
            _ => self.append_batch(level, batch),
        }
    }

    /// Waits for what was appended, and sees to garbage.
    pub(crate) fn wait_for(&self, ticket: Option<Ticket>) -> Result<()> {
        let compact = match ticket {
            None => false,
            Some(ticket) => {
                self.wait(ticket)?;
                self.wants_compaction(&mut self.section.lock())
            }
        };
        let ticket = None;
        self.settle(Stored { ticket, compact })
    }

    /// A batch of one needs no frame.
    fn append_single(&self, level: Durability, batch: &Batch) -> Result<Option<Ticket>> {
        let mut ticket = None;
        for (key, value, expires_at) in self.resolve(batch) {
            let one = match value {
                None => One::tombstone(key),
                Some(value) => One {
                    kind: Kind::Set,
                    expires_at,
                    key,
                    value,
                },
            };
            let (_, stored) = self.store_one(level, one, When::Always)?;
            ticket = stored.ticket;
            if ticket.is_none() {
                self.settle(stored)?;
            }
        }
        Ok(ticket)
    }

    /// Stores one record in the active segment, which has room for it, and makes its bytes readable.
    ///
    /// # Errors
    /// If the file cannot be written the store is poisoned: nothing may follow half a record.
    #[inline]
    pub(crate) fn append(
        &self,
        section: &mut Section<F>,
        draft: &Draft,
        framing: Framing,
        key: &[u8],
        value: &[u8],
    ) -> Result<(u64, u64)> {
        let active = section
            .active
            .as_mut()
            .expect("room was made for the record");
        let (offset, lsn) = (active.offset, section.next_lsn);
        let segment = &active.segment;
        let place_key = &segment.slot.stripes.any().place_key;
        let (header, extension) = draft.place(place_key, offset, lsn, framing);
        let parts = [&header[..], extension, key, value];
        if let Err(source) = segment.file.store(&mut active.map, offset, &parts) {
            let error = Error::Io {
                op: "write the record",
                path: self.fs.path_of(&name::segment(segment.header.id)),
                source,
            };
            self.commit.blame(&error);
            self.poison(section);
            return Err(error);
        }
        let size = draft.size();
        active.offset += size;
        active.map.publish(active.offset);
        // The next one's lines. Its first is this one's last, but for one of eight.
        segment.slot.map().prefetch(active.offset + LINE_BYTES);
        section.next_lsn += 1;
        section.written.appended += size;
        if draft.is_data() {
            active.records += 1;
            if active.min_lsn == 0 {
                active.min_lsn = lsn;
            }
            active.max_lsn = lsn;
            active.payload += size;
            // Only the section changes it: no read-modify-write is needed.
            let payload = &segment.slot.payload;
            payload.store(payload.load(Ordering::Relaxed) + size, Ordering::Relaxed);
            // Not the newest of anything until it is published; a tombstone never is.
            section.payload += size;
            section.dead += size;
            section.written.records += 1;
            section.written.bytes += (key.len() + value.len()) as u64;
            if let Some(at) = draft.expires_at() {
                segment.slot.expiring.add(at, size, || self.now_ms());
                section.count_expired_at = section.count_expired_at.min(at);
            }
        }
        if active.offset >= active.ahead.at {
            self.bring_in_ahead(section);
        }
        Ok((lsn, offset))
    }

    /// What the writer will come to is brought in, if syncs do not have to pay for it.
    #[cold]
    fn bring_in_ahead(&self, section: &mut Section<F>) {
        let fast = self.fills_fast(section);
        let Some(active) = &mut section.active else {
            return;
        };
        let (offset, capacity) = (active.offset, active.capacity);
        if fast {
            let map = Arc::downgrade(&active.segment.slot.stripes.any().map);
            self.populate.ask(&mut active.ahead, &map, offset, capacity);
        } else {
            active.ahead.put_off(offset);
        }
    }

    /// Tells writers that looked something up before they entered the section to look again.
    #[inline]
    pub(crate) fn index_changed(&self) {
        self.version.changed();
    }

    /// Publishes one set or tombstone.
    #[inline]
    pub(crate) fn publish_one(
        &self,
        section: &mut Section<F>,
        lsn: u64,
        mut known: Known,
        hash: u64,
        key: &[u8],
        new: Option<New>,
    ) -> Result<()> {
        loop {
            let mut shard = self.index.lock(hash);
            if known.covers(&shard, hash) {
                let lost = apply(&mut shard, &known, new);
                drop(shard);
                section.dead += lost;
                section.dead -= new.map_or(0, |new| new.size);
                if !section.loads.is_empty() {
                    let change = known.became(self.hash_key.fingerprint(key), new, lost);
                    section.loads.note(lsn, change);
                }
                self.index_changed();
                return Ok(());
            }
            drop(shard);
            known = self.look_up(hash, key)?;
        }
    }

    /// Makes sure that the active segment has room for `bytes` and for closing it; whether it took a
    /// new one, which may have taken long.
    pub(crate) fn make_room_for(
        &self,
        section: &mut Section<F>,
        bytes: u64,
        need: Need,
    ) -> Result<bool> {
        let mut took_a_new_one = section.active.is_none();
        if self.reserve.is_lent() && need == Need::Values {
            self.take_reserve_back(section)?;
        }
        if section.active.is_none() {
            match need {
                Need::Values => self.begin_life(section)?,
                Need::Removal => self.begin_life_to_remove(section)?,
            }
        }
        let whole = bytes + MARK_RECORD_BYTES + FOOTER_RECORD_BYTES;
        let half = match &mut section.active {
            Some(active) if active.offset + whole <= active.capacity => {
                let half = active.offset + bytes > active.capacity / 2 && !active.next_asked;
                active.next_asked |= half;
                half
            }
            _ => {
                let rotated = match need {
                    Need::Values => self.rotate(section, bytes),
                    Need::Removal => self.rotate_to_remove(section, bytes),
                };
                if let (Err(_), Some(active)) = (&rotated, &mut section.active) {
                    // What was prepared may be gone: smaller writes still fit.
                    active.next_asked = false;
                }
                rotated?;
                took_a_new_one = true;
                false
            }
        };
        if half && self.config.threads {
            self.prepare_ahead(section);
        }
        Ok(took_a_new_one)
    }
}

/// Puts `new` in the place of the version that `known` found; returns the bytes that became garbage.
#[inline]
pub(crate) fn apply(shard: &mut ShardMut<'_, View>, known: &Known, new: Option<New>) -> u64 {
    let mut lost = 0;
    let mut replaced = false;
    if let Some((old, found)) = &known.found {
        replaced = match new {
            Some(new) => shard.replace(*old, new.word),
            None => shard.remove(*old),
        };
        if replaced {
            let slot = shard.view().slot(*old);
            slot.lose(found.size, found.expires_at.is_some());
            lost = found.size;
        }
    }
    if let Some(new) = new {
        if !replaced {
            shard.insert(new.word);
        }
        shard.view().slot(new.word).gain(new.size, new.expires);
    }
    lost
}
