//! Reading: find the candidates and pin them under the shard's lock, look at the log outside it.

use std::sync::Arc;

use kvs_format::name;
use kvs_format::record::{
    CONTENT_START, Framing, HEADER_BYTES, Kind, RawHeader, RecordRef, complete, parse_header,
};
use kvs_format::{DecodeError, VALUE_BYTES_MAX};
use zerocopy::FromBytes;

use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::segment::View;
use crate::engine::time::WallClock;
use crate::engine::value::Value;
use crate::storage::fs::{Fs, FsFile};
use crate::storage::location::Word;
use crate::storage::pin::{Pin, Stripe};
use crate::storage::raw::pinned::{Find, PinnedBytes};

const _: () = assert!(CONTENT_START < HEADER_BYTES);

/// Words that may stand for a key, each with its segment pinned.
#[derive(Default)]
pub(crate) struct Candidates {
    first: Option<(Word, Pin)>,
    // Two keys share 23 hash bits and a shard about once in eight million: no allocation otherwise.
    rest: Vec<(Word, Pin)>,
}

impl Candidates {
    #[inline]
    pub(crate) fn push(&mut self, word: Word, pin: Pin) {
        match self.first {
            None => self.first = Some((word, pin)),
            Some(_) => self.rest.push((word, pin)),
        }
    }

    pub(crate) fn contains(&self, word: Word) -> bool {
        self.first.as_ref().is_some_and(|(w, _)| *w == word)
            || self.rest.iter().any(|(w, _)| *w == word)
    }

    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Word, Pin)> {
        self.first.iter().chain(&self.rest)
    }

    #[inline]
    pub(crate) fn into_iter(self) -> impl Iterator<Item = (Word, Pin)> {
        self.first.into_iter().chain(self.rest)
    }
}

/// A record that was found to be of the key asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) value_offset: u64,
    pub(crate) value_len: u32,
    pub(crate) expires_at: Option<u64>,
    pub(crate) size: u64,
}

/// How much of a record is checked before it is taken for what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checks {
    /// `place` and `content`.
    Both,
    /// `place`: kind and lengths are those that were written; the key is compared anyway.
    Place,
    /// Only the key is compared.
    None,
}

impl Found {
    /// The clock is asked only if the record expires.
    #[inline]
    pub(crate) fn is_alive(&self, clock: &WallClock) -> bool {
        self.expires_at.is_none_or(|at| at > clock.now_ms())
    }
}

/// The record at `offset` of a pinned segment, with both checks done.
#[inline]
pub(crate) fn verified(stripe: &Stripe, offset: u64) -> Result<RecordRef<'_>, DecodeError> {
    let rest = stripe.map.from(offset);
    let short = |need: usize| DecodeError::Truncated {
        need: need as u64,
        have: rest.len() as u64,
    };
    let head = rest
        .first_chunk::<HEADER_BYTES>()
        .ok_or_else(|| short(HEADER_BYTES))?;
    let header =
        parse_header(&stripe.place_key, offset, head)?.ok_or_else(|| short(HEADER_BYTES))?;
    complete(&stripe.place_key, header, offset, rest)
}

#[inline]
fn found(record: &RecordRef<'_>) -> Found {
    let header = &record.header;
    let lead = HEADER_BYTES as u64 + header.kind.extension();
    Found {
        value_offset: record.offset + lead + u64::from(header.key_len),
        value_len: header.value_len,
        expires_at: record.expires_at,
        size: header.size(),
    }
}

/// Whether the record at `offset` is of `key`, checked in full.
#[inline]
fn match_verified(stripe: &Stripe, offset: u64, key: &[u8]) -> Result<Option<Found>, DecodeError> {
    let record = verified(stripe, offset)?;
    let kind = record.header.kind;
    if !matches!(kind, Kind::Set | Kind::SetExpiring) {
        return Err(DecodeError::BadKind {
            kind: kind as u8,
            framing: record.header.framing as u8,
        });
    }
    Ok((record.key == key).then(|| found(&record)))
}

/// Whether the record at `offset` is of `key`, for a writer: what it says of its size goes into the
/// books, so the header is checked; the value, which is about to be garbage, is not.
#[inline]
fn match_placed(stripe: &Stripe, offset: u64, key: &[u8]) -> Result<Option<Found>, DecodeError> {
    let rest = stripe.map.from(offset);
    if let Some(head) = rest.first_chunk::<HEADER_BYTES>() {
        let Some(header) = parse_header(&stripe.place_key, offset, head)? else {
            return match_verified(stripe, offset, key);
        };
        let lead = HEADER_BYTES + header.kind.extension() as usize;
        let end = lead + usize::from(header.key_len);
        let is_value = matches!(header.kind, Kind::Set | Kind::SetExpiring);
        if is_value && rest.get(lead..end) == Some(key) && header.unpadded() <= rest.len() as u64 {
            let stamp = rest[HEADER_BYTES..lead].first_chunk();
            return Ok(Some(Found {
                value_offset: offset + end as u64,
                value_len: header.value_len,
                expires_at: stamp.map(|bytes| u64::from_le_bytes(*bytes)),
                size: header.size(),
            }));
        }
    }
    match_verified(stripe, offset, key)
}

/// Whether the record at `offset` is of `key`, by comparing the key alone.
///
/// A key that differs is believed only after both checks: a damaged key must not look like an
/// absent one.
#[inline]
fn match_unverified(
    stripe: &Stripe,
    offset: u64,
    key: &[u8],
) -> Result<Option<Found>, DecodeError> {
    let plain = || {
        let (raw, rest) = RawHeader::ref_from_prefix(stripe.map.from(offset)).ok()?;
        let kind = Kind::from_byte(raw.kind)?;
        if usize::from(raw.key_len.get()) != key.len()
            || !matches!(kind, Kind::Set | Kind::SetExpiring)
        {
            return None;
        }
        let extension = kind.extension();
        let body = extension + key.len() as u64 + u64::from(raw.value_len.get());
        let (stamp, rest) = rest.get(..body as usize)?.split_at(extension as usize);
        if &rest[..key.len()] != key {
            return None;
        }
        Some(Found {
            value_offset: offset + HEADER_BYTES as u64 + extension + key.len() as u64,
            value_len: raw.value_len.get(),
            expires_at: stamp.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
            size: kvs_format::aligned(HEADER_BYTES as u64 + body),
        })
    };
    match plain() {
        Some(found) => Ok(Some(found)),
        None => match_verified(stripe, offset, key),
    }
}

/// Finds the value, if `word` is of an ordinary record of `key`: one that does not expire, and whose checks
/// hold if they are asked for. Anything else is to be looked at in full, by [`Engine::matches`].
///
/// Few instructions, and no branch that is often missed: while memory is waited for, a processor goes
/// on with what comes next as far as some 300 instructions, which is the next read if this one is short.
pub(crate) struct Plain<'k> {
    pub(crate) word: Word,
    pub(crate) key: &'k [u8],
    pub(crate) checked: bool,
}

impl Find for Plain<'_> {
    #[inline(always)]
    fn find(self, stripe: &Stripe) -> Option<&[u8]> {
        let Self { word, key, checked } = self;
        let offset = stripe.offset_of(word);
        if checked {
            // The checks look at all of it, and where it ends says only its header, which is waited for.
            stripe.map.prefetch(offset);
        }
        let bytes = stripe.map.from(offset);
        let (header, body) = RawHeader::ref_from_prefix(bytes).ok()?;
        let body_len = key.len() + header.value_len.get() as usize;
        // Kind and framing in one comparison.
        let kind = u16::from_le_bytes([header.framing, header.kind]);
        let least = u16::from_le_bytes([Framing::Single as u8, Kind::Set as u8]);
        if kind.wrapping_sub(least) > Framing::BatchEnd as u16
            || header.lsn.get() == 0
            || header.value_len.get() as usize > VALUE_BYTES_MAX
            || usize::from(header.key_len.get()) != key.len()
            || body_len > body.len()
            || !same(&body[..key.len()], key)
        {
            return None;
        }
        let len = HEADER_BYTES + body_len;
        if checked && !stripe.place_key.holds(offset, bytes, len) {
            return None;
        }
        Some(&body[key.len()..body_len])
    }
}

/// Whether two slices of one length are equal: without a call, if they are of 8 to 16 bytes.
#[inline(always)]
fn same(a: &[u8], b: &[u8]) -> bool {
    let ends = |bytes: &[u8]| {
        let (first, last) = (bytes.first_chunk()?, bytes.last_chunk()?);
        Some((u64::from_le_bytes(*first), u64::from_le_bytes(*last)))
    };
    match (ends(a), ends(b)) {
        (Some((a0, a1)), Some((b0, b1))) if a.len() <= 16 => (a0 ^ b0) | (a1 ^ b1) == 0,
        _ => a == b,
    }
}

impl<F: Fs> Engine<F> {
    #[inline]
    pub(crate) fn candidates(&self, hash: u64) -> Candidates {
        let mut candidates = Candidates::default();
        self.index
            .candidates(hash, |word, view| candidates.push(word, view.pin(word)));
        candidates
    }

    #[cold]
    pub(crate) fn corrupt(&self, segment_id: u64, offset: u64, reason: DecodeError) -> Error {
        Error::Corrupt {
            path: self.fs.path_of(&name::segment(segment_id)),
            offset,
            reason,
        }
    }

    #[inline]
    pub(crate) fn matches(
        &self,
        stripe: &Stripe,
        word: Word,
        key: &[u8],
        checks: Checks,
    ) -> Result<Option<Found>> {
        let offset = stripe.offset_of(word);
        let result = match checks {
            Checks::Both => match_verified(stripe, offset, key),
            Checks::Place => match_placed(stripe, offset, key),
            Checks::None => match_unverified(stripe, offset, key),
        };
        result.map_err(|reason| self.corrupt(stripe.segment_id, offset, reason))
    }

    #[inline]
    pub(crate) fn checks(&self) -> Checks {
        match self.config.verify_reads {
            true => Checks::Both,
            false => Checks::None,
        }
    }

    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<(Pin, Found)>> {
        let hash = self.hash_key.hash(key);
        let (mut first, mut several) = (None, false);
        self.index.candidates(hash, |word, view| match first {
            None => first = Some((word, view.pin(word))),
            Some(_) => several = true,
        });
        let Some((word, pin)) = first else {
            return Ok(None);
        };
        if several {
            return self.find_among_several(hash, key);
        }
        let found = self.matches(&pin, word, key, self.checks())?;
        let clock = &self.config.wall_clock;
        Ok(found
            .filter(|found| found.is_alive(clock))
            .map(|found| (pin, found)))
    }

    /// Two keys share 23 hash bits and a shard about once in eight million.
    #[cold]
    fn find_among_several(&self, hash: u64, key: &[u8]) -> Result<Option<(Pin, Found)>> {
        self.find_among(self.candidates(hash), key)
    }

    fn find_among(&self, candidates: Candidates, key: &[u8]) -> Result<Option<(Pin, Found)>> {
        for (word, pin) in candidates.into_iter() {
            if let Some(found) = self.matches(&pin, word, key, self.checks())? {
                return Ok(found
                    .is_alive(&self.config.wall_clock)
                    .then_some((pin, found)));
            }
        }
        Ok(None)
    }

    /// The value of `key`, which is among `candidates` if it is anywhere.
    #[inline]
    pub(crate) fn value_among(&self, candidates: Candidates, key: &[u8]) -> Result<Option<Value>> {
        for (word, pin) in candidates.into_iter() {
            let checked = self.config.verify_reads;
            let pin = match PinnedBytes::new(pin, Plain { word, key, checked }) {
                Ok(bytes) => return Ok(Some(Value::of(bytes))),
                Err(pin) => pin,
            };
            if let Some(found) = self.matches(&pin, word, key, self.checks())? {
                let alive = found.is_alive(&self.config.wall_clock);
                return Ok(alive.then(|| Value::new(pin, found.value_offset, found.value_len)));
            }
        }
        Ok(None)
    }

    /// See [`crate::Store::get`].
    #[inline(always)]
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        self.get_hashed(self.hash_key.hash(key), key)
    }

    /// The same of a key whose hash is known.
    ///
    /// Always a part of whoever calls it: else the value would be handed over in memory, to be taken apart
    /// again, by instructions that stand between this record's memory and that of the next.
    #[inline(always)]
    pub(crate) fn get_hashed(&self, hash: u64, key: &[u8]) -> Result<Option<Value>> {
        if !self.may_be_poisoned() {
            let pinned = |word, view: &Arc<View>| (word, view.pin(word));
            let Some((word, pin)) = self.index.candidate(hash, pinned) else {
                return Ok(None);
            };
            let checked = self.config.verify_reads;
            if let Ok(bytes) = PinnedBytes::new(pin, Plain { word, key, checked }) {
                return Ok(Some(Value::of(bytes)));
            }
        }
        self.get_in_full(hash, key).map_err(|error| *error)
    }

    /// Of a record that is not an ordinary one, or not of this key, or damaged.
    ///
    /// Its result is of another type than that of who calls it: else both would share a place in memory, and
    /// the ordinary value would be put there in pieces and read back in larger ones, for which a processor
    /// waits until all that came before is done.
    #[cold]
    #[inline(never)]
    pub(crate) fn get_in_full(&self, hash: u64, key: &[u8]) -> Result<Option<Value>, Box<Error>> {
        self.check_readable(key)?;
        Ok(self.value_among(self.candidates(hash), key)?)
    }

    /// See [`crate::Store::contains_key`].
    pub fn contains_key(&self, key: &[u8]) -> Result<bool> {
        self.check_readable(key)?;
        Ok(self.find(key)?.is_some())
    }

    /// See [`crate::Store::get_into`].
    pub fn get_into(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        self.check_readable(key)?;
        let hash = self.hash_key.hash(key);
        loop {
            let mut moved = false;
            for (word, pin) in self.candidates(hash).into_iter() {
                let segment = self.segments.read().get(&pin.segment_id).cloned();
                let Some(segment) = segment else {
                    // Compaction has just moved the record: look again.
                    moved = true;
                    break;
                };
                let offset = pin.offset_of(word);
                let read = read_record(&segment.file, &pin, offset, out);
                let record = match read {
                    Ok(Ok(record)) => record,
                    Ok(Err(reason)) => return Err(self.corrupt(pin.segment_id, offset, reason)),
                    Err(source) => {
                        return Err(Error::Io {
                            op: "read the record",
                            path: self.fs.path_of(&name::segment(pin.segment_id)),
                            source,
                        });
                    }
                };
                if record.key != key {
                    continue;
                }
                let found = found(&record);
                let expired = !found.is_alive(&self.config.wall_clock);
                let start = (found.value_offset - offset) as usize;
                let end = start + record.value.len();
                out.truncate(end);
                out.drain(..start);
                if expired {
                    out.clear();
                }
                return Ok(!expired);
            }
            if !moved {
                out.clear();
                return Ok(false);
            }
        }
    }
}

/// Reads the record at `offset` by `pread` into `out` and checks it.
fn read_record<'a, F: FsFile>(
    file: &F,
    stripe: &Stripe,
    offset: u64,
    out: &'a mut Vec<u8>,
) -> std::io::Result<Result<RecordRef<'a>, DecodeError>> {
    out.clear();
    out.resize(HEADER_BYTES, 0);
    file.read_exact_at(offset, out)?;
    let mut head = [0u8; HEADER_BYTES];
    head.copy_from_slice(out);
    let header = match parse_header(&stripe.place_key, offset, &head) {
        Ok(Some(header)) => header,
        Ok(None) => {
            return Ok(Err(DecodeError::Truncated {
                need: HEADER_BYTES as u64,
                have: 0,
            }));
        }
        Err(reason) => return Ok(Err(reason)),
    };
    let left = stripe.map.published().saturating_sub(offset);
    if header.unpadded() > left {
        return Ok(Err(DecodeError::Truncated {
            need: header.unpadded(),
            have: left,
        }));
    }
    out.resize(header.unpadded() as usize, 0);
    file.read_exact_at(offset + HEADER_BYTES as u64, &mut out[HEADER_BYTES..])?;
    Ok(complete(&stripe.place_key, header, offset, out))
}
