//! Batches: looked up together, stored in one turn of the writer section, published at once.
//!
//! What one look-up waits for, the look-ups of a batch wait for together: the records that their keys
//! have now are all asked for before the first is looked at (`engine::many`).

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvs_format::SEGMENT_BYTES_MAX;
use kvs_format::hash::Fingerprint;
use kvs_format::record::{Draft, Framing, Kind};
use kvs_format::system::{BATCH_HEAD_RECORD_BYTES, BatchHead, CLOSING_BYTES};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

use crate::engine::batch::Batch;
use crate::engine::core::{Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::many::{TOGETHER, bring};
use crate::engine::options::Durability;
use crate::engine::pending::{Change, PendingWrite, Place, Ticket};
use crate::engine::read::Candidates;
use crate::engine::reserve::Need;
use crate::engine::segment::View;
use crate::engine::tasks::FailOnPanic;
use crate::engine::writer::{Known, New, Stored, apply};
use crate::index::ShardMut;
use crate::storage::fs::Fs;

/// Operations of a batch for which what was found before the section is kept.
const EARLY_MAX: usize = 4096;

/// A new version that readers are to see.
struct Publishing<'a> {
    fingerprint: Fingerprint,
    key: &'a [u8],
    /// `None` for a tombstone.
    new: Option<New>,
}

impl<'a> Publishing<'a> {
    fn of(change: &'a Change) -> Self {
        let hash = change.fingerprint.lo;
        Self {
            fingerprint: change.fingerprint,
            key: &change.key,
            new: change.new.as_ref().map(|place| New::of(place, hash)),
        }
    }
}

impl<F: Fs> Engine<F> {
    /// As [`Engine::look_up`], of many keys with their hashes; tells `each` in their order.
    fn look_up_many<'k>(
        &self,
        mut keys: impl Iterator<Item = (u64, &'k [u8])>,
        mut each: impl FnMut(Known),
    ) -> Result<()> {
        let mut together: Vec<(&[u8], Candidates)> = Vec::with_capacity(TOGETHER);
        loop {
            let some = keys.by_ref().take(TOGETHER);
            together.extend(some.map(|(hash, key)| (key, self.candidates(hash))));
            if together.is_empty() {
                return Ok(());
            }
            bring(together.iter().map(|(_, candidates)| candidates));
            for (key, candidates) in together.drain(..) {
                each(self.known_among(candidates, key)?);
            }
        }
    }

    /// The order in which keys are published: that of their shards. Of one that stands there twice
    /// the last one counts.
    fn publishing_order(&self, fingerprints: &[Fingerprint]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..fingerprints.len()).collect();
        order.sort_unstable_by_key(|i| {
            let fingerprint = fingerprints[*i];
            let shard = self.index.position(fingerprint.lo);
            (shard, fingerprint, Reverse(*i))
        });
        order.dedup_by_key(|i| fingerprints[*i]);
        order
    }

    pub(crate) fn append_batch(&self, level: Durability, batch: &Batch) -> Result<Option<Ticket>> {
        let last = batch.len() - 1;
        let mut drafts = Vec::with_capacity(batch.len());
        let mut fingerprints = Vec::with_capacity(batch.len());
        let mut bytes = 0;
        let entries = self.resolve(batch);
        for &(key, value, expires_at) in &entries {
            Self::check_sizes(key, value.unwrap_or(&[]))?;
            let kind = if value.is_some() {
                Kind::Set
            } else {
                Kind::Tombstone
            };
            let draft = Draft::new(kind, expires_at, key, value.unwrap_or(&[]))
                .expect("lengths were checked");
            bytes += draft.size();
            drafts.push(draft);
            fingerprints.push(self.hash_key.fingerprint(key));
        }
        // Each keeps a segment from going: of many the few that may have moved are not worth it.
        let keeps = level != Durability::Sync && batch.len() <= EARLY_MAX;
        let mut early = Vec::with_capacity(if keeps { batch.len() } else { 0 });
        let mut adds = Vec::with_capacity(batch.len());
        let keys = fingerprints.iter().zip(&entries);
        // A damaged old version refuses the batch before anything is written.
        self.look_up_many(keys.map(|(of, (key, _, _))| (of.lo, *key)), |known| {
            adds.push(!known.is_found());
            early.extend(keeps.then_some(known));
        })?;
        let order = match level {
            Durability::Sync => Vec::new(),
            _ => self.publishing_order(&fingerprints),
        };
        let max = SEGMENT_BYTES_MAX
            - kvs_format::segment::PAGE_BYTES
            - BATCH_HEAD_RECORD_BYTES
            - CLOSING_BYTES;
        let count = u32::try_from(batch.len()).ok().filter(|_| bytes <= max);
        let Some(count) = count else {
            return Err(Error::BatchTooLarge { bytes, max });
        };
        let head = BatchHead {
            count: U32::new(count),
            bytes: U64::new(bytes),
        };
        let head_draft = Draft::new(Kind::BatchHead, None, &[], head.as_bytes())
            .expect("a batch head is within the limits");

        let _fails = FailOnPanic(&self.upkeep);
        let mut guard = self.section.lock();
        if let Durability::Interval(_) = level {
            guard = self.keep_bound(guard)?;
        }
        let section = &mut *guard;
        self.check_writable(section)?;
        let need = match entries.iter().all(|(_, value, _)| value.is_none()) {
            true => Need::Removal,
            false => Need::Values,
        };
        if need == Need::Values && self.index_is_nearly_full(section, fingerprints.len() as u64) {
            self.check_index_for_batch(section, batch, &fingerprints)?;
        }
        self.make_room_for(section, head_draft.size() + bytes, need)?;
        let pending = &section.pending;
        let waits = level == Durability::Sync
            || (!pending.is_empty() && fingerprints.iter().any(|of| pending.get(*of).is_some()));
        let (mut publishing, mut changes) = match waits {
            true => (Vec::new(), Vec::with_capacity(batch.len())),
            false => (Vec::with_capacity(batch.len()), Vec::new()),
        };
        self.append(section, &head_draft, Framing::InBatch, &[], head.as_bytes())?;
        let mut lsn = 0;
        for (i, (key, value, expires_at)) in entries.into_iter().enumerate() {
            let framing = if i == last {
                Framing::BatchEnd
            } else {
                Framing::InBatch
            };
            let (draft, fingerprint) = (&drafts[i], fingerprints[i]);
            let offset;
            (lsn, offset) = self.append(section, draft, framing, key, value.unwrap_or(&[]))?;
            let active = section.active.as_ref().expect("it was appended to");
            let slot = &active.segment.slot;
            if waits {
                changes.push(Change {
                    fingerprint,
                    key: key.into(),
                    new: value.map(|_| Place {
                        slot: Arc::clone(slot),
                        offset,
                        size: draft.size(),
                        expires_at,
                    }),
                    adds: value.is_some() && adds[i],
                });
            } else {
                publishing.push(Publishing {
                    fingerprint,
                    key,
                    new: value.map(|_| New {
                        word: slot.word(fingerprint.lo, offset),
                        size: draft.size(),
                        expires: expires_at.is_some(),
                    }),
                });
            }
        }
        if waits {
            section.pending.push(PendingWrite { lsn, changes });
            self.has_pending.store(true, Ordering::Release);
            return Ok(Some(Ticket(lsn)));
        }
        if let Err(error) = self.publish_all(section, lsn, &publishing, &order, early) {
            self.poison(section);
            return Err(error);
        }
        // Storing a large batch takes its time.
        let late = match level {
            Durability::Interval(interval) => {
                self.owe_sync(section, interval) || self.is_late(section)
            }
            _ => false,
        };
        let compact = self.wants_compaction(section);
        drop(guard);
        if late {
            return Ok(Some(Ticket(lsn)));
        }
        let ticket = None;
        self.settle(Stored { ticket, compact })?;
        Ok(None)
    }

    /// Publishes what a write that is durable by now changes, all at once.
    pub(crate) fn publish(&self, section: &mut Section<F>, write: &PendingWrite) -> Result<()> {
        if let [change] = &write.changes[..] {
            let hash = change.fingerprint.lo;
            let known = self.look_up(hash, &change.key)?;
            let new = change.new.as_ref().map(|place| New::of(place, hash));
            return self.publish_one(section, write.lsn, known, hash, &change.key, new);
        }
        let fingerprints = write.changes.iter().map(|change| change.fingerprint);
        let order = self.publishing_order(&fingerprints.collect::<Vec<_>>());
        let publishing: Vec<_> = write.changes.iter().map(Publishing::of).collect();
        self.publish_all(section, write.lsn, &publishing, &order, Vec::new())
    }

    /// Publishes `all` at once, in this `order`: no reader sees some of them. `early` is what was known
    /// of each when it was last looked up, or empty.
    fn publish_all(
        &self,
        section: &mut Section<F>,
        lsn: u64,
        all: &[Publishing<'_>],
        order: &[usize],
        mut early: Vec<Known>,
    ) -> Result<()> {
        let hash = |i: &usize| all[*i].fingerprint.lo;
        loop {
            let mut known = Vec::with_capacity(order.len());
            if early.is_empty() {
                let keys = order.iter().map(|i| (hash(i), all[*i].key));
                self.look_up_many(keys, |found| known.push(found))?;
            } else {
                known.extend(order.iter().map(|i| std::mem::take(&mut early[*i])));
                // What does not hold any more is looked up again.
                early.clear();
            }
            let mut shards = self.index.lock_many(order.iter().map(hash));
            // Both go in the order of the shards.
            let next = |at: &mut usize, i: &usize, shards: &[(usize, ShardMut<'_, View>)]| {
                let shard = self.index.position(hash(i));
                while shards[*at].0 != shard {
                    *at += 1;
                }
            };
            let mut at = 0;
            let covered = order.iter().zip(&known).all(|(i, known)| {
                next(&mut at, i, &shards);
                known.covers(&shards[at].1, hash(i))
            });
            if !covered {
                continue;
            }
            let mut at = 0;
            for (i, known) in order.iter().zip(&known) {
                next(&mut at, i, &shards);
                let Publishing {
                    fingerprint, new, ..
                } = all[*i];
                let lost = apply(&mut shards[at].1, known, new);
                section.dead += lost;
                section.dead -= new.map_or(0, |new| new.size);
                if !section.loads.is_empty() {
                    let change = known.became(fingerprint, new, lost);
                    section.loads.note(lsn, change);
                }
            }
            drop(shards);
            self.index_changed();
            return Ok(());
        }
    }
}
