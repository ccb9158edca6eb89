//! The index with a load in it, made aside.
//!
//! Made of a snapshot, without a lock, shard by shard: the pairs of one shard are one run of each
//! output's sorted entries. What writers change meanwhile is repeated here, so that what is left to be
//! done while they wait is what they did in the last moment, whatever the size of the load.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashTable;
use kvs_format::DecodeError;
use kvs_format::hash::{Fingerprint, shard_of};
use kvs_format::hint::{HintEntry, entries_of};
use kvs_format::record::{HEADER_BYTES, parse_header};

use crate::engine::bulk::state::IndexChange;
use crate::engine::core::Engine;
use crate::engine::error::Result;
use crate::engine::load::{run_length, threads};
use crate::engine::merged::Output;
use crate::engine::read::{Checks, verified};
use crate::engine::segment::{Slot, View};
use crate::index::ShardSnapshot;
use crate::storage::fs::Fs;
use crate::storage::location::{Word, hash_bits, table_hash};
use crate::storage::pin::Stripe;

/// Pairs beyond which more than one thread is worth starting.
const PARALLEL_PAIRS: usize = 200_000;

/// What a load will change in the index.
pub(super) struct Tables {
    /// By shard; `None` where the load has no pair.
    pub(super) shards: Vec<Option<HashTable<Word>>>,
    /// Each output's records that are the newest of their key.
    pub(super) live: Vec<Amount>,
    /// What others lose, by their first window.
    pub(super) lost: HashMap<u16, (Arc<Slot>, Amount)>,
    /// Pairs that are the newest of their key.
    pub(super) shown: u64,
}

/// Bytes of records.
#[derive(Clone, Copy, Default)]
pub(super) struct Amount {
    pub(super) bytes: u64,
    /// Those of them that expire.
    pub(super) expiring: u64,
}

impl Amount {
    #[inline]
    fn add(&mut self, bytes: u64, expires: bool) {
        self.bytes += bytes;
        self.expiring += u64::from(expires) * bytes;
    }

    fn take(&mut self, bytes: u64, expires: bool) {
        self.bytes -= bytes;
        self.expiring -= u64::from(expires) * bytes;
    }

    fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.expiring += other.expiring;
    }
}

/// What the tables are made of.
pub(super) struct Source<'a, F: Fs> {
    pub(super) engine: &'a Engine<F>,
    /// LSN of the load.
    pub(super) lsn: u64,
    /// Their entries are sorted.
    pub(super) outputs: &'a [Output<F>],
    /// Keys removed since the load began.
    pub(super) removed: &'a HashSet<Fingerprint>,
    /// The index as it was then.
    pub(super) shards: &'a [ShardSnapshot<View>],
}

/// The newest pair of a key in the load.
struct Winner {
    fingerprint: Fingerprint,
    output: usize,
    offset: u64,
    size: u64,
    expires: bool,
}

/// A version of a key that was there before.
struct Rival {
    word: Word,
    lsn: u64,
    size: u64,
    expires: bool,
}

impl<F: Fs> Source<'_, F> {
    /// Makes the tables.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if a record that may be an older version of a key is damaged.
    pub(super) fn tables(&self) -> Result<Tables> {
        let pairs: usize = self.outputs.iter().map(|o| o.entries.len()).sum();
        let shards = self.shards.len();
        // Schedules that a test chooses know nothing of these threads.
        let parts =
            match self.engine.config.threads && pairs >= PARALLEL_PAIRS && !cfg!(kvs_shuttle) {
                true => threads().min(shards),
                false => 1,
            };
        let part = |i: usize| self.part(shards * i / parts..shards * (i + 1) / parts);
        let made: Vec<Result<Tables>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..parts)
                .map(|i| {
                    // Without a thread this one makes them.
                    let spawned = std::thread::Builder::new().spawn_scoped(scope, move || part(i));
                    (i, spawned)
                })
                .collect();
            let first = part(0);
            let others = others.into_iter().map(|(i, spawned)| match spawned {
                Ok(worker) => match worker.join() {
                    Ok(made) => made,
                    Err(panic) => std::panic::resume_unwind(panic),
                },
                Err(_) => part(i),
            });
            std::iter::once(first).chain(others).collect()
        });
        let mut all = Tables::new(self.outputs.len());
        for part in made {
            all.append(part?);
        }
        Ok(all)
    }

    fn part(&self, range: Range<usize>) -> Result<Tables> {
        let bits = self.engine.index.bits();
        let mut made = Tables::new(self.outputs.len());
        let mut cursors: Vec<usize> = self
            .outputs
            .iter()
            .map(|output| {
                let before =
                    |entry: &HintEntry| shard_of(entry.fingerprint().lo, bits) < range.start;
                output.entries.partition_point(before)
            })
            .collect();
        let mut winners = Vec::new();
        for shard in range {
            winners.clear();
            for (i, (output, cursor)) in self.outputs.iter().zip(&mut cursors).enumerate() {
                let rest = &output.entries[*cursor..];
                let run = &rest[..run_length(rest, shard, bits)];
                *cursor += run.len();
                winners.extend(run.iter().map(|entry| Winner {
                    fingerprint: entry.fingerprint(),
                    output: i,
                    offset: entry.offset(),
                    size: entry.size(),
                    expires: entry.expires(),
                }));
            }
            // The newest of a key first: within an output it is already.
            let order = |winner: &Winner| {
                let fp = winner.fingerprint;
                (fp.lo, fp.hi, !winner.output)
            };
            if self.outputs.len() > 1 {
                winners.sort_by_key(order);
            }
            winners.dedup_by_key(|winner| winner.fingerprint);
            let table = match winners.is_empty() {
                true => None,
                false => Some(self.shard(&self.shards[shard], &winners, &mut made)?),
            };
            made.shards.push(table);
        }
        Ok(made)
    }

    fn shard(
        &self,
        before: &ShardSnapshot<View>,
        winners: &[Winner],
        made: &mut Tables,
    ) -> Result<HashTable<Word>> {
        let mut table = (**before.table).clone();
        if table.is_empty() {
            // Otherwise many may be there already, and it grows as for any writer.
            table.reserve(winners.len(), |word| table_hash(word.bits()));
        }
        for winner in winners {
            if self.removed.contains(&winner.fingerprint) {
                continue;
            }
            let slot = &self.outputs[winner.output].fresh.segment.slot;
            let word = slot.word(winner.fingerprint.lo, winner.offset);
            let hash = table_hash(word.bits());
            match self.rival(before, word, slot.stripes.any(), winner.offset)? {
                // Written since the load began.
                Some(rival) if rival.lsn > self.lsn => continue,
                Some(rival) => {
                    if let Some(place) = table.find_mut(hash, |word| *word == rival.word) {
                        *place = word;
                    }
                    let slot = before.view.slot(rival.word);
                    let lost = made
                        .lost
                        .entry(slot.base)
                        .or_insert_with(|| (Arc::clone(slot), Amount::default()));
                    lost.1.add(rival.size, rival.expires);
                }
                None => {
                    table.insert_unique(hash, word, |word| table_hash(word.bits()));
                }
            }
            made.live[winner.output].add(winner.size, winner.expires);
            made.shown += 1;
        }
        Ok(table)
    }

    /// The version that the key of our record had before.
    #[inline]
    fn rival(
        &self,
        before: &ShardSnapshot<View>,
        ours: Word,
        stripe: &Stripe,
        offset: u64,
    ) -> Result<Option<Rival>> {
        let bits = ours.bits();
        let mut words = before.table.iter_hash(table_hash(bits));
        if !words.any(|word| word.bits() == bits) {
            return Ok(None);
        }
        let key = key_at(stripe, offset)
            .map_err(|reason| self.engine.corrupt(stripe.segment_id, offset, reason))?;
        for word in before.table.iter_hash(table_hash(bits)) {
            if word.bits() != bits {
                continue;
            }
            let theirs = before.view.slot(*word).stripes.any();
            let found = self.engine.matches(theirs, *word, key, Checks::Place)?;
            if let Some(found) = found {
                let lsn = lsn_at(theirs, theirs.offset_of(*word));
                return Ok(Some(Rival {
                    word: *word,
                    lsn,
                    size: found.size,
                    expires: found.expires_at.is_some(),
                }));
            }
        }
        Ok(None)
    }
}

/// The key of the record at `offset`: we have just written it.
fn key_at(stripe: &Stripe, offset: u64) -> Result<&[u8], DecodeError> {
    Ok(verified(stripe, offset)?.key)
}

/// LSN of the record at `offset`, whose header was checked.
fn lsn_at(stripe: &Stripe, offset: u64) -> u64 {
    let head = stripe.map.from(offset).first_chunk::<HEADER_BYTES>();
    let header = head.and_then(|head| parse_header(&stripe.place_key, offset, head).ok()?);
    header.map_or(0, |header| header.lsn)
}

impl Tables {
    fn new(outputs: usize) -> Self {
        Self {
            shards: Vec::new(),
            live: vec![Amount::default(); outputs],
            lost: HashMap::new(),
            shown: 0,
        }
    }

    fn append(&mut self, part: Self) {
        self.shards.extend(part.shards);
        for (all, part) in self.live.iter_mut().zip(part.live) {
            all.append(part);
        }
        for (base, (slot, part)) in part.lost {
            let empty = (slot, Amount::default());
            let (_, all) = self.lost.entry(base).or_insert(empty);
            all.append(part);
        }
        self.shown += part.shown;
    }

    /// Repeats what writers did to the index since the snapshot, in their order. All of it is newer
    /// than the load.
    pub(super) fn repeat<F: Fs>(
        &mut self,
        outputs: &[Output<F>],
        bits: u8,
        view: &View,
        changes: &[IndexChange],
    ) {
        for change in changes {
            let fp = change.fingerprint;
            let Some(table) = &mut self.shards[shard_of(fp.lo, bits)] else {
                continue;
            };
            let hash = table_hash(hash_bits(fp.lo));
            // The load's version, if that is what the table names.
            let ours = outputs.iter().enumerate().rev().find_map(|(i, output)| {
                let entry = entries_of(&output.entries, bits, fp).first()?;
                let word = output.fresh.segment.slot.word(fp.lo, entry.offset());
                Some((i, entry, word))
            });
            let ours = ours.filter(|(_, _, word)| table.find(hash, |w| w == word).is_some());
            if let Some((output, entry, _)) = ours {
                self.live[output].take(entry.size(), entry.expires());
                self.shown -= 1;
                // What ours had taken the place of, the writer has counted already.
                if let Some((old, bytes, expires)) = change.old
                    && let Some((_, lost)) = self.lost.get_mut(&view.slot(old).base)
                {
                    lost.take(bytes, expires);
                }
            }
            let there = ours
                .map(|(_, _, word)| word)
                .or(change.old.map(|(old, _, _)| old));
            let place = there.and_then(|there| table.find_entry(hash, |w| *w == there).ok());
            match (place, change.new) {
                (Some(mut place), Some(new)) => *place.get_mut() = new,
                (Some(place), None) => {
                    place.remove();
                }
                (None, Some(new)) => {
                    table.insert_unique(hash, new, |word| table_hash(word.bits()));
                }
                (None, None) => {}
            }
        }
    }
}
