//! Walking through all keys in small calls, with nothing held in between.
//!
//! A cursor is a place in the order of hashes: index shard, then the 23 hash bits of a word. Neither an
//! overwrite nor compaction, growth of a table or opening the store again changes the hash of a key:
//! its seed and the number of shards stand in the manifest. So a key that stays is met once, when the
//! cursor passes its place; all keys of one place come in one call.
//!
//! ```text
//!  cursor = (shard << 23 | hash bits) + 1     0 begins and ends
//! ```

use std::fmt;
use std::sync::Arc;

use kvs_format::DecodeError;
use kvs_format::record::{HEADER_BYTES, parse_header};

use crate::engine::core::Engine;
use crate::engine::error::Result;
use crate::engine::iter::{Pair, pair};
use crate::engine::read::Checks;

use crate::engine::value::{Key, Value};
use crate::storage::fs::Fs;
use crate::storage::location::HASH_BITS;
use crate::storage::pin::{Pin, Stripe};

/// Where a walk through the keys goes on: see [`crate::Store::scan`].
///
/// A plain number that may be kept, sent away and given back later, also to a store that was closed
/// and opened meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cursor(u64);

impl Cursor {
    /// Before the first key; also what the last call returns.
    pub const START: Self = Self(0);

    /// Most entries that one call looks at.
    pub const COUNT_MAX: usize = 1 << 16;

    /// True if the call that returned it was the last one.
    #[must_use]
    pub fn is_end(self) -> bool {
        self == Self::START
    }
}

impl From<u64> for Cursor {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<Cursor> for u64 {
    fn from(cursor: Cursor) -> u64 {
        cursor.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The pair at `offset`, with its place checked and its key and value taken as they are; `None` if it
/// has expired by `now`.
fn placed(stripe: &Stripe, offset: u64, now: u64) -> Result<Option<Pair>, DecodeError> {
    let rest = stripe.map.from(offset);
    let header = match rest.first_chunk() {
        Some(head) => parse_header(&stripe.place_key, offset, head)?,
        None => None,
    };
    let header = header.filter(|header| header.unpadded() <= rest.len() as u64);
    let Some(header) = header else {
        return Err(DecodeError::Truncated {
            need: HEADER_BYTES as u64,
            have: rest.len() as u64,
        });
    };
    let key_at = HEADER_BYTES as u64 + header.kind.extension();
    let stamp = rest[HEADER_BYTES..key_at as usize].first_chunk();
    if stamp.is_some_and(|stamp| u64::from_le_bytes(*stamp) <= now) {
        return Ok(None);
    }
    Ok(Some(Pair {
        key_at: offset + key_at,
        key_len: u32::from(header.key_len),
        value_at: offset + key_at + u64::from(header.key_len),
        value_len: header.value_len,
        expires: stamp.is_some(),
    }))
}

impl<F: Fs> Engine<F> {
    /// See [`crate::Store::scan`].
    pub fn scan_keys(&self, cursor: Cursor, count: usize) -> Result<(Cursor, Vec<Key>)> {
        let check = match self.checks() {
            Checks::None => placed,
            _ => pair,
        };
        self.scan_with(cursor, count, check, |pin, pair| pair.key(pin))
    }

    /// See [`crate::Store::scan_pairs`].
    pub fn scan_pairs(&self, cursor: Cursor, count: usize) -> Result<(Cursor, Vec<(Key, Value)>)> {
        self.scan_with(cursor, count, pair, |pin, pair| {
            let key = pair.key(Arc::clone(&pin));
            (key, Value::new(pin, pair.value_at, pair.value_len))
        })
    }

    fn scan_with<T>(
        &self,
        cursor: Cursor,
        count: usize,
        check: fn(&Stripe, u64, u64) -> Result<Option<Pair>, DecodeError>,
        item: impl Fn(Pin, &Pair) -> T,
    ) -> Result<(Cursor, Vec<T>)> {
        self.check_frozen(u64::MAX, None)?;
        let count = count.clamp(1, Cursor::COUNT_MAX);
        let end = 1u64 << (u32::from(self.index.bits()) + HASH_BITS);
        let mut place = cursor.0.saturating_sub(1);
        let mut looked = 0;
        let mut items = Vec::new();
        let now = self.config.wall_clock.now_ms();
        while place < end && looked < count {
            let (shard, from) = (place >> HASH_BITS, place & ((1 << HASH_BITS) - 1));
            let wanted = count - looked;
            let (mut words, view, more) = self.index.smallest_hashes(shard as usize, from, wanted);
            looked += words.len();
            words.sort_unstable();
            place = match words.last().filter(|_| more) {
                Some(last) => (shard << HASH_BITS | last.bits()) + 1,
                None => (shard + 1) << HASH_BITS,
            };
            for word in words {
                let pin = view.pin(word);
                let offset = pin.offset_of(word);
                let found = check(&pin, offset, now)
                    .map_err(|reason| self.corrupt(pin.segment_id, offset, reason))?;
                items.extend(found.map(|found| item(pin, &found)));
            }
        }
        let next = match place < end {
            true => Cursor(place + 1),
            false => Cursor::START,
        };
        Ok((next, items))
    }
}
