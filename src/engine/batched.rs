//! Batches: looked up together, stored in one turn of the writer section, published at once.
//!
//! What one look-up waits for, the look-ups of a batch wait for together: the records that their keys
//! have now are all asked for before the first is looked at (`engine::many`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvs_format::SEGMENT_BYTES_MAX;
use kvs_format::hash::SHARD_BITS_MAX;
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
use crate::storage::location::{HASH_BITS, hash_bits};

/// Operations of a batch for which what was found before the section is kept.
const EARLY_MAX: usize = 4096;

/// Bits that number the operations of a batch; of a hash the shard and the bits of a word count.
const NUMBER_BITS: u32 = 31;
const _: () = assert!(NUMBER_BITS + HASH_BITS + SHARD_BITS_MAX as u32 == u64::BITS);

/// A new version that readers are to see.
struct Publishing<'a> {
    hash: u64,
    key: &'a [u8],
    /// `None` for a tombstone.
    new: Option<New>,
}

impl<'a> Publishing<'a> {
    fn of(change: &'a Change) -> Self {
        let hash = change.fingerprint.lo;
        Self {
            hash,
            key: &change.key,
            new: change.new.as_ref().map(|place| New::of(place, hash)),
        }
    }
}

/// The order in which keys with these hashes are published: that of their shards. Of a key that stands
/// there twice the last one counts.
fn publishing_order<'k>(
    hashes: &[u64],
    shard_of: impl Fn(u64) -> usize,
    key: impl Fn(usize) -> &'k [u8],
) -> Vec<usize> {
    debug_assert!(hashes.len() < 1 << NUMBER_BITS, "a batch is below 4 GiB");
    // Of one key, or of several with equal bits, the last comes first.
    let packed = |(i, hash): (usize, &u64)| {
        let shard = shard_of(*hash) as u64;
        let from_the_end = (hashes.len() - 1 - i) as u64;
        (shard << HASH_BITS | hash_bits(*hash)) << NUMBER_BITS | from_the_end
    };
    let mut sorted: Vec<u64> = hashes.iter().enumerate().map(packed).collect();
    sorted.sort_unstable();
    let mut order: Vec<usize> = Vec::with_capacity(hashes.len());
    let (mut bits_before, mut equal_from) = (u64::MAX, 0);
    for packed in sorted {
        let i = hashes.len() - 1 - (packed & ((1 << NUMBER_BITS) - 1)) as usize;
        if packed >> NUMBER_BITS != bits_before {
            (bits_before, equal_from) = (packed >> NUMBER_BITS, order.len());
        }
        if order[equal_from..]
            .iter()
            .all(|later| key(*later) != key(i))
        {
            order.push(i);
        }
    }
    order
}

impl<F: Fs> Engine<F> {
    /// As [`Engine::look_up`], of many keys with their hashes; tells `each` in their order.
    fn look_up_many<'k>(
        &self,
        mut keys: impl Iterator<Item = (u64, &'k [u8])>,
        mut each: impl FnMut(Known),
    ) -> Result<()> {
        let mut together: Vec<(u64, &[u8])> = Vec::with_capacity(TOGETHER);
        let mut found: Vec<Candidates> = Vec::with_capacity(TOGETHER);
        loop {
            let some = keys.by_ref().take(TOGETHER);
            together.extend(some.inspect(|(hash, _)| self.index.prefetch(*hash)));
            if together.is_empty() {
                return Ok(());
            }
            found.extend(together.iter().map(|(hash, _)| self.candidates(*hash)));
            bring(&found);
            for ((_, key), candidates) in together.drain(..).zip(found.drain(..)) {
                each(self.known_among(candidates, key)?);
            }
        }
    }

    pub(crate) fn append_batch(&self, level: Durability, batch: &Batch) -> Result<Option<Ticket>> {
        let last = batch.len() - 1;
        let mut drafts = Vec::with_capacity(batch.len());
        let mut hashes = Vec::with_capacity(batch.len());
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
            hashes.push(self.hash_key.hash(key));
        }
        let max = SEGMENT_BYTES_MAX
            - kvs_format::segment::PAGE_BYTES
            - BATCH_HEAD_RECORD_BYTES
            - CLOSING_BYTES;
        let count = u32::try_from(batch.len()).ok().filter(|_| bytes <= max);
        let Some(count) = count else {
            return Err(Error::BatchTooLarge { bytes, max });
        };
        // Each keeps a segment from going: of many the few that may have moved are not worth it.
        let keeps = level != Durability::Sync && batch.len() <= EARLY_MAX;
        let mut early = Vec::with_capacity(if keeps { batch.len() } else { 0 });
        let mut adds = Vec::with_capacity(batch.len());
        let keys = hashes.iter().zip(&entries);
        // A damaged old version refuses the batch before anything is written.
        self.look_up_many(keys.map(|(hash, (key, _, _))| (*hash, *key)), |known| {
            adds.push(!known.is_found());
            early.extend(keeps.then_some(known));
        })?;
        let order = match level {
            Durability::Sync => Vec::new(),
            _ => publishing_order(&hashes, |hash| self.index.position(hash), |i| entries[i].0),
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
        if need == Need::Values && self.index_is_nearly_full(section, hashes.len() as u64) {
            self.check_index_for_batch(section, batch)?;
        }
        self.make_room_for(section, head_draft.size() + bytes, need)?;
        let pending = &section.pending;
        let is_pending = |key: &[u8]| pending.get(self.hash_key.fingerprint(key)).is_some();
        let waits = level == Durability::Sync
            || (!pending.is_empty() && entries.iter().any(|(key, _, _)| is_pending(key)));
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
            let (draft, hash) = (&drafts[i], hashes[i]);
            let offset;
            (lsn, offset) = self.append(section, draft, framing, key, value.unwrap_or(&[]))?;
            let active = section.active.as_ref().expect("it was appended to");
            let slot = &active.segment.slot;
            if waits {
                changes.push(Change {
                    fingerprint: self.hash_key.fingerprint(key),
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
                    hash,
                    key,
                    new: value.map(|_| New {
                        word: slot.word(hash, offset),
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
        let hashes: Vec<_> = write.changes.iter().map(|of| of.fingerprint.lo).collect();
        let shard_of = |hash| self.index.position(hash);
        let order = publishing_order(&hashes, shard_of, |i| &write.changes[i].key);
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
        early: Vec<Known>,
    ) -> Result<()> {
        let hash = |i: &usize| all[*i].hash;
        let mut known = early;
        let mut unknown = Vec::new();
        if known.is_empty() {
            known.resize_with(all.len(), Known::default);
            unknown.extend_from_slice(order);
        }
        loop {
            let mut places = unknown.iter();
            let keys = unknown.iter().map(|i| (hash(i), all[*i].key));
            self.look_up_many(keys, |found| {
                let place = places.next().expect("one for each of the keys");
                known[*place] = found;
            })?;
            let mut shards = self.index.lock_many(order.iter().map(hash));
            // Both go in the order of the shards.
            let next = |at: &mut usize, i: &usize, shards: &[(usize, ShardMut<'_, View>)]| {
                let shard = self.index.position(hash(i));
                while shards[*at].0 != shard {
                    *at += 1;
                }
            };
            let mut at = 0;
            let mut covered = |i: &&usize| {
                next(&mut at, i, &shards);
                known[**i].covers(&shards[at].1, hash(i))
            };
            // What does not hold any more is looked up again: compaction has moved some.
            unknown = order.iter().filter(|i| !covered(i)).copied().collect();
            if !unknown.is_empty() {
                continue;
            }
            let mut at = 0;
            for i in order {
                next(&mut at, i, &shards);
                let Publishing { key, new, .. } = all[*i];
                let lost = apply(&mut shards[at].1, &known[*i], new);
                section.dead += lost;
                section.dead -= new.map_or(0, |new| new.size);
                if !section.loads.is_empty() {
                    let fingerprint = self.hash_key.fingerprint(key);
                    let change = known[*i].became(fingerprint, new, lost);
                    section.loads.note(lsn, change);
                }
            }
            drop(shards);
            self.index_changed();
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_published_once_as_the_last_left_it_though_others_have_its_hash() {
        let mut state = 3u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for case in 0..1_000 {
            let (some, alike) = (1 + random(40), 1 + random(4));
            let keys: Vec<[u8; 1]> = (0..some).map(|_| [random(12) as u8]).collect();
            // Of 12 keys, some have the same shard and hash bits.
            let hash = |key: &[u8; 1]| {
                let of = u64::from(key[0]) / alike;
                of << 50 | of << 16
            };
            let hashes: Vec<u64> = keys.iter().map(hash).collect();
            let order = publishing_order(&hashes, |hash| (hash >> 50) as usize, |i| &keys[i]);
            let shards: Vec<u64> = order.iter().map(|i| hashes[*i] >> 50).collect();
            assert!(shards.is_sorted(), "case {case}");
            let mut found = order;
            found.sort_unstable();
            let is_last = |i: &usize| !keys[*i + 1..].contains(&keys[*i]);
            let wanted: Vec<usize> = (0..keys.len()).filter(is_last).collect();
            assert_eq!(found, wanted, "case {case}");
        }
    }
}
