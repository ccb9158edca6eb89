//! Iterating over the store as it was at one moment.
//!
//! An iterator owns its snapshot and goes through it in the order of the log, so that cold pages come
//! one after the other and once. It takes as many words at a time as it has memory for, from the
//! lowest place on that it has not yet been at, and looks at the whole index for each of these
//! rounds. Rounds grow: whoever breaks off soon has paid little, whoever goes on to the end has
//! looked at the index about a dozen times.

use std::sync::Arc;

use kvs_format::DecodeError;
use kvs_format::record::{HEADER_BYTES, Kind};

use crate::engine::cold::ReadOn;
use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::read::verified;
use crate::engine::snapshot::Snapshot;
use crate::engine::value::{Key, Value};
use crate::index::smallest;
use crate::storage::fs::Fs;
use crate::storage::location::Word;
use crate::storage::pin::{Pin, Stripe};
use crate::storage::real::RealFs;

/// Words taken in the first round.
const FIRST_ROUND: u64 = 4096;

/// By how much the rounds grow.
const GROWTH: u64 = 4;

/// The largest round has this part of the keys: words of eight bytes, two times as many while they are
/// chosen, so two bytes a key.
const LARGEST_ROUND_PART: u64 = 8;

/// All pairs of a [`Snapshot`], in no stated order.
///
/// Owns its snapshot: writes, compaction and closing go on meanwhile and change nothing of what it
/// yields. After an error it yields the same error again and again. Reads records in the order of the
/// log and checks all of them. Memory: up to two bytes for every key of the store.
pub struct Iter<F: Fs = RealFs> {
    snapshot: Snapshot<F>,
    words: std::vec::IntoIter<Word>,
    /// From this place on, words are still to come; `None` if none are.
    from: Option<u64>,
    round: u64,
    read_on: ReadOn,
    failed: Option<Failure>,
}

/// An error that comes again and again.
enum Failure {
    Poisoned,
    Expired,
    Corrupt(u64, u64, DecodeError),
}

impl<F: Fs> Iter<F> {
    pub(crate) fn new(snapshot: Snapshot<F>) -> Self {
        Self {
            snapshot,
            words: Vec::new().into_iter(),
            from: Some(0),
            round: FIRST_ROUND,
            read_on: ReadOn::default(),
            failed: None,
        }
    }

    fn error(&self, failure: &Failure) -> Error {
        let engine = self.snapshot.engine();
        match *failure {
            Failure::Poisoned => Error::Poisoned,
            Failure::Expired => Error::SnapshotExpired {
                max: engine.config.pinned_bytes_max,
            },
            Failure::Corrupt(segment, offset, reason) => engine.corrupt(segment, offset, reason),
        }
    }

    /// The next words, in the order of the log; false if there are none.
    fn take_words(&mut self) -> Result<bool, Failure> {
        let Some(from) = self.from else {
            return Ok(false);
        };
        // Kept for a moment, so that whoever takes it away need not wait.
        let held = self.snapshot.look(Arc::clone);
        let held = held.map_err(|_| Failure::Expired)?;
        let count = usize::try_from(self.round).unwrap_or(usize::MAX);
        let words = held.shards.iter().flat_map(|shard| shard.table.iter());
        let (mut words, more) = smallest(words.copied(), from, count, Word::place);
        words.sort_unstable_by_key(|word| word.place());
        // One record has one word: the next place is behind the last.
        self.from = words.last().filter(|_| more).map(|word| word.place() + 1);
        let largest = (self.snapshot.len() / LARGEST_ROUND_PART).max(FIRST_ROUND);
        self.round = (self.round * GROWTH).min(largest);
        self.words = words.into_iter();
        Ok(self.words.len() > 0)
    }

    /// The next pair that has not expired.
    fn step(&mut self) -> Result<Option<(Key, Value)>, Failure> {
        loop {
            let Some(word) = self.words.next() else {
                match self.take_words()? {
                    true => continue,
                    false => return Ok(None),
                }
            };
            let readable = self.snapshot.check_readable();
            readable.map_err(|_| Failure::Poisoned)?;
            let pin = self.snapshot.look(|held| held.view.pin(word));
            let pin = pin.map_err(|_| Failure::Expired)?;
            let offset = pin.offset_of(word);
            self.read_on.come_to(&pin, offset);
            let pair = pair(&pin, offset, self.snapshot.now());
            match pair.map_err(|reason| Failure::Corrupt(pin.segment_id, offset, reason))? {
                None => {}
                Some(found) => {
                    let key = found.key(Arc::clone(&pin));
                    let value = Value::new(pin, found.value_at, found.value_len);
                    return Ok(Some((key, value)));
                }
            }
        }
    }
}

/// Where key and value of a record are in its segment.
pub(crate) struct Pair {
    pub(crate) key_at: u64,
    pub(crate) key_len: u32,
    pub(crate) value_at: u64,
    pub(crate) value_len: u32,
    /// 8 bytes before the key say when.
    pub(crate) expires: bool,
}

impl Pair {
    pub(crate) fn key(&self, pin: Pin) -> Key {
        Key::of_record(pin, self.key_at, self.key_len, self.expires)
    }
}

/// The pair at `offset`, checked in full; `None` if it has expired by `now`.
#[inline]
pub(crate) fn pair(stripe: &Stripe, offset: u64, now: u64) -> Result<Option<Pair>, DecodeError> {
    let record = verified(stripe, offset)?;
    if record.expires_at.is_some_and(|at| at <= now) {
        return Ok(None);
    }
    let header = record.header;
    debug_assert!(header.kind != Kind::Tombstone);
    let key_at = offset + HEADER_BYTES as u64 + header.kind.extension();
    Ok(Some(Pair {
        key_at,
        key_len: u32::from(header.key_len),
        value_at: key_at + u64::from(header.key_len),
        value_len: header.value_len,
        expires: record.expires_at.is_some(),
    }))
}

impl<F: Fs> Iterator for Iter<F> {
    type Item = Result<(Key, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed.is_none() {
            match self.step() {
                Ok(pair) => return pair.map(Ok),
                Err(failure) => self.failed = Some(failure),
            }
        }
        let failure = self.failed.as_ref()?;
        Some(Err(self.error(failure)))
    }
}

/// Keys of a [`Snapshot`]: see [`Iter`].
pub struct Keys<F: Fs = RealFs>(pub(crate) Iter<F>);

impl<F: Fs> Iterator for Keys<F> {
    type Item = Result<Key>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map(|(key, _)| key))
    }
}

/// Pairs of a [`Snapshot`] whose key begins with a prefix: see [`Iter`].
pub struct Prefix<F: Fs = RealFs> {
    pairs: Iter<F>,
    prefix: Vec<u8>,
}

impl<F: Fs> Prefix<F> {
    pub(crate) fn new(pairs: Iter<F>, prefix: &[u8]) -> Self {
        Self {
            pairs,
            prefix: prefix.to_vec(),
        }
    }
}

impl<F: Fs> Iterator for Prefix<F> {
    type Item = Result<(Key, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pairs.find(|pair| match pair {
            Ok((key, _)) => key.starts_with(&self.prefix),
            Err(_) => true,
        })
    }
}

impl<F: Fs> Snapshot<F> {
    /// All pairs at that moment, in no stated order: see [`Iter`].
    #[must_use]
    pub fn iter(&self) -> Iter<F> {
        Iter::new(self.clone())
    }

    /// All keys at that moment, in no stated order.
    #[must_use]
    pub fn keys(&self) -> Keys<F> {
        Keys(self.iter())
    }

    /// All pairs at that moment whose key begins with `prefix`, in no stated order. Cost: looks at
    /// every key.
    #[must_use]
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Prefix<F> {
        Prefix::new(self.iter(), prefix.as_ref())
    }
}

impl<F: Fs> Engine<F> {
    /// See [`crate::Store::iter`].
    pub fn pairs(self: &Arc<Self>) -> Result<Iter<F>> {
        Ok(self.snapshot()?.iter())
    }
}
