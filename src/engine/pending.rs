//! Writes that are stored but not durable: the pending table.
//!
//! A `Sync` write is stored at once but enters the index only when it is durable. Until then it is
//! *pending*. Any write to a key that has a pending version joins the queue behind it, so per key
//! what readers see follows LSN order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use kvs_format::hash::Fingerprint;

use crate::engine::segment::Slot;
use crate::engine::time::WallClock;

/// What a stored record changes in the index, once it may.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) key: Box<[u8]>,
    /// Where the new version is; `None` for a tombstone.
    pub(crate) new: Option<Place>,
    /// The key is not in the index: publishing will add it.
    pub(crate) adds: bool,
}

/// Where a record is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) slot: Arc<Slot>,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    /// Unix milliseconds from which on it counts as removed.
    pub(crate) expires_at: Option<u64>,
}

impl Place {
    pub(crate) fn is_alive(&self, clock: &WallClock) -> bool {
        self.expires_at.is_none_or(|at| at > clock.now_ms())
    }
}

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
#[derive(Clone, Debug)]
pub(crate) struct PendingKey {
    /// LSN of the last record of its write: when that is durable, so is the version.
    pub(crate) lsn: u64,
    /// `None` for a tombstone.
    pub(crate) new: Option<Place>,
    /// Publishing it, or one before it, will add the key to the index.
    pub(crate) adds: bool,
}

impl PendingKey {
    /// True if another set of the key will find no room made for it in the index.
    pub(crate) fn set_adds(&self) -> bool {
        self.new.is_none() && !self.adds
    }
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

    pub(crate) fn get(&self, fingerprint: Fingerprint) -> Option<&PendingKey> {
        self.newest.get(&fingerprint)
    }

    pub(crate) fn push(&mut self, write: PendingWrite) {
        for change in &write.changes {
            let older = self.newest.get(&change.fingerprint);
            let newest = PendingKey {
                lsn: write.lsn,
                new: change.new.clone(),
                adds: change.adds || older.is_some_and(|older| older.adds),
            };
            self.newest.insert(change.fingerprint, newest);
        }
        self.queue.push_back(write);
    }

    pub(crate) fn pop_durable(&mut self, durable_lsn: u64) -> Option<PendingWrite> {
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

    /// Undoes [`Pending::pop_durable`].
    pub(crate) fn put_back(&mut self, write: PendingWrite) {
        for change in &write.changes {
            self.newest.entry(change.fingerprint).or_insert(PendingKey {
                lsn: write.lsn,
                new: change.new.clone(),
                adds: change.adds,
            });
        }
        self.queue.push_front(write);
    }

    /// How many keys have a pending version.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.newest.len() as u64
    }

    /// Of every key that publishing will add to the index.
    pub(crate) fn added(&self) -> impl Iterator<Item = Fingerprint> {
        let adds = self.newest.iter().filter(|(_, newest)| newest.adds);
        adds.map(|(fingerprint, _)| *fingerprint)
    }

    /// Of every key with a pending version.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Fingerprint> {
        self.newest.keys().copied()
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.newest.clear();
    }
}
