//! A segment's keys and locations without its values, so that a store opens without reading its log.
//!
//! ```text
//!  0       8    10   11  16    24     40          48       56            64           72
//!  | magic | vn | sb | 0 | id  | salt | covered   | end_lsn| last offset | last place | 0 ->
//!  72      80           88        96        104                         128
//!  | count | hash check | min lsn | max lsn | 0                         | entries, 32 bytes each ->
//!  trailer: expiry_first u64, bucket_ms u64, 64 x bytes u64, crc u32 of everything before it
//! ```
//!
//! An accelerator: whatever is in doubt about a hint, the segment is scanned instead.
//!
//! Invariants
//! - One entry for *every* data record below `covered`, dead ones and tombstones too.
//! - Sorted by shard, fingerprint (low word, high word), then LSN and offset, newest first.
//! - Bound to the segment's id, salt and to the `place` of the last record below `covered`.

use byteorder::{ByteOrder, LittleEndian};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::FORMAT_VERSION;
use crate::crc::crc32;
use crate::error::DecodeError;
use crate::hash::{Fingerprint, HashKey, SHARD_BITS_MAX, shard_of};
use crate::record::{HEADER_BYTES as RECORD_HEADER_BYTES, Kind};
use crate::segment::PAGE_BYTES;

/// Bytes of the file header; the first entry starts here.
pub const HEADER_BYTES: usize = 128;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 32;

/// Buckets of the expiry histogram.
pub const EXPIRY_BUCKETS: usize = 64;

/// The bucket of what expires later than all others.
const LATER: usize = EXPIRY_BUCKETS - 1;

/// Bytes behind the entries, check included.
pub const TRAILER_BYTES: usize = 16 + 8 * EXPIRY_BUCKETS + 4;

/// First bytes of every hint file.
pub const MAGIC: [u8; 8] = *b"kvs-hnt\0";

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U16,
    shard_bits: u8,
    zero_a: [u8; 5],
    segment_id: U64,
    salt: [u8; 16],
    covered: U64,
    end_lsn: U64,
    last_offset: U64,
    last_place: U32,
    zero_b: [u8; 4],
    count: U64,
    hash_check: U64,
    min_lsn: U64,
    max_lsn: U64,
    zero_c: [u8; 24],
}

const _: () = {
    assert!(size_of::<Raw>() == HEADER_BYTES);
    assert!(core::mem::offset_of!(Raw, covered) == 40);
    assert!(core::mem::offset_of!(Raw, last_place) == 64);
    assert!(core::mem::offset_of!(Raw, count) == 72);
    assert!(core::mem::offset_of!(Raw, max_lsn) == 96);
    assert!(size_of::<HintEntry>() == ENTRY_BYTES);
};

/// What a hint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintHeader {
    /// log2 of the number of shards its entries are grouped by.
    pub shard_bits: u8,
    /// The segment.
    pub segment_id: u64,
    /// The segment's salt.
    pub salt: [u8; 16],
    /// Every data record that starts below this offset has an entry, and no other.
    pub covered: u64,
    /// LSN of the last record below `covered`.
    pub end_lsn: u64,
    /// Offset of that record.
    pub last_offset: u64,
    /// Its `place` check.
    pub last_place: u32,
    /// Entries.
    pub count: u64,
    /// [`hash_check`] of the store's hash key.
    pub hash_check: u64,
    /// Lowest LSN among the entries; 0 if there are none.
    pub min_lsn: u64,
    /// Highest LSN among the entries; 0 if there are none.
    pub max_lsn: u64,
}

/// What a hint says of the store's hash key, so that entries made with another key are not used.
#[must_use]
pub fn hash_check(key: &HashKey) -> u64 {
    key.fingerprint(&MAGIC).lo
}

impl HintHeader {
    /// The 128 bytes as they stand in the file.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        zerocopy::transmute!(Raw {
            magic: MAGIC,
            version: U16::new(FORMAT_VERSION),
            shard_bits: self.shard_bits,
            zero_a: [0; 5],
            segment_id: U64::new(self.segment_id),
            salt: self.salt,
            covered: U64::new(self.covered),
            end_lsn: U64::new(self.end_lsn),
            last_offset: U64::new(self.last_offset),
            last_place: U32::new(self.last_place),
            zero_b: [0; 4],
            count: U64::new(self.count),
            hash_check: U64::new(self.hash_check),
            min_lsn: U64::new(self.min_lsn),
            max_lsn: U64::new(self.max_lsn),
            zero_c: [0; 24],
        })
    }
}

/// One data record of the segment.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct HintEntry {
    fp_lo: U64,
    fp_hi: U64,
    lsn: U64,
    granule: U32,
    size_kind: U32,
}

impl HintEntry {
    /// Entry of the record of `kind` that starts at `offset` and has `size` bytes with padding.
    #[must_use]
    pub fn new(fingerprint: Fingerprint, lsn: u64, offset: u64, size: u64, kind: Kind) -> Self {
        Self {
            fp_lo: U64::new(fingerprint.lo),
            fp_hi: U64::new(fingerprint.hi),
            lsn: U64::new(lsn),
            granule: U32::new((offset / 8) as u32),
            size_kind: U32::new(((size / 8) as u32) << 3 | kind as u32),
        }
    }

    /// Fingerprint of the key.
    #[must_use]
    #[inline]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            lo: self.fp_lo.get(),
            hi: self.fp_hi.get(),
        }
    }

    /// LSN of the record.
    #[must_use]
    #[inline]
    pub fn lsn(&self) -> u64 {
        self.lsn.get()
    }

    /// Offset of the record in its segment.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> u64 {
        u64::from(self.granule.get()) * 8
    }

    /// Bytes of the record, padding included.
    #[must_use]
    #[inline]
    pub fn size(&self) -> u64 {
        u64::from(self.size_kind.get() >> 3) * 8
    }

    /// Kind byte of the record.
    #[must_use]
    #[inline]
    pub fn kind_byte(&self) -> u8 {
        (self.size_kind.get() & 7) as u8
    }

    /// True for a tombstone.
    #[must_use]
    #[inline]
    pub fn is_tombstone(&self) -> bool {
        self.kind_byte() == Kind::Tombstone as u8
    }

    /// True for a record that expires.
    #[must_use]
    #[inline]
    pub fn expires(&self) -> bool {
        self.kind_byte() == Kind::SetExpiring as u8
    }

    /// The order in which entries stand: shard, low word, high word, newest first.
    #[must_use]
    #[inline]
    pub fn sort_key(&self, shard_bits: u8) -> (usize, u64, u64, u64, u32) {
        let fp = self.fingerprint();
        let shard = shard_of(fp.lo, shard_bits);
        (shard, fp.lo, fp.hi, !self.lsn(), !self.granule.get())
    }
}

/// When the segment's expiring records expire: bytes by bucket of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryHistogram {
    /// Unix milliseconds at which bucket 0 starts; 0 without expiring records.
    pub first_ms: u64,
    /// Milliseconds a bucket spans; 0 without expiring records.
    pub bucket_ms: u64,
    /// Bytes of the records that expire in each bucket; in the first one also of those that expire
    /// sooner, in the last one of those that expire later.
    pub bytes: [u64; EXPIRY_BUCKETS],
}

impl ExpiryHistogram {
    /// Of a segment without expiring records.
    pub const EMPTY: Self = Self {
        first_ms: 0,
        bucket_ms: 0,
        bytes: [0; EXPIRY_BUCKETS],
    };

    /// Of records that expire at these Unix milliseconds and have these sizes: 63 buckets of equal
    /// width from the first expiry on, and one for what is later.
    ///
    /// At most an eighth of the bytes are later: a few records that live for years do not take away
    /// what is known of the others. Nor do those that have expired at `now`, some of them maybe for years:
    /// they have the first bucket, and it ends with the last of them.
    #[must_use]
    pub fn of(expiring: impl Iterator<Item = (u64, u64)> + Clone, now: u64) -> Self {
        let mut histogram = Self::EMPTY;
        let times = || expiring.clone().map(|(at, _)| at);
        let over = times().filter(|at| *at <= now).max();
        let first = match over {
            Some(over) => over.saturating_add(1),
            None => times().min().unwrap_or(0),
        };
        let Some(last) = times().max() else {
            return histogram;
        };
        let last = last.max(first);
        // Bytes by the number of bits of how much later than the first they expire.
        let mut by_bits = [0u64; 65];
        let mut total = 0u64;
        for (at, size) in expiring.clone().filter(|(at, _)| *at >= first) {
            by_bits[64 - (at - first).leading_zeros() as usize] += size;
            total += size;
        }
        let (mut bits, mut later) = (64, 0);
        while bits > 0 && later + by_bits[bits] <= total / 8 {
            later += by_bits[bits];
            bits -= 1;
        }
        let span = match bits {
            0 => 0,
            bits => u64::MAX >> (64 - bits),
        };
        let buckets = LATER as u64 - u64::from(over.is_some());
        histogram.bucket_ms = span.min(last - first) / buckets + 1;
        histogram.first_ms = match over {
            Some(_) => first.saturating_sub(histogram.bucket_ms),
            None => first,
        };
        for (at, size) in expiring {
            histogram.bytes[histogram.bucket(at)] += size;
        }
        histogram
    }

    /// The bucket of what expires at `at`.
    fn bucket(&self, at: u64) -> usize {
        let bucket = at.saturating_sub(self.first_ms) / self.bucket_ms.max(1);
        usize::try_from(bucket).map_or(LATER, |bucket| bucket.min(LATER))
    }

    /// Adds a record that expires at this Unix millisecond. Where it has no bucket, first all buckets that
    /// have ended at `now` become one, then buckets widen: what is known of the others may become known
    /// later, never sooner than it is true.
    pub fn add(&mut self, at: u64, size: u64, now: impl FnOnce() -> u64) {
        if self.bucket_ms == 0 {
            (self.first_ms, self.bucket_ms) = (at, 1);
        }
        let mut earlier = self.first_ms.saturating_sub(at);
        if earlier > 0 || (at - self.first_ms) / self.bucket_ms >= LATER as u64 {
            let now = now();
            self.join_ended(now);
            // One that is over may as well have expired just now.
            earlier = self.first_ms.saturating_sub(at.max(now));
        }
        // Where the last bucket in use, or the new one, would come to stand.
        let last = |histogram: &Self| {
            let used = histogram.bytes[..LATER]
                .iter()
                .rposition(|bytes| *bytes > 0);
            let used = used.map_or(0, |bucket| bucket as u64);
            match earlier {
                0 => used.max(at.saturating_sub(histogram.first_ms) / histogram.bucket_ms),
                _ => used.saturating_add(earlier.div_ceil(histogram.bucket_ms)),
            }
        };
        while last(self) >= LATER as u64 {
            // A hint may say anything: widths and sums of its own have no bound.
            self.bucket_ms = self.bucket_ms.saturating_mul(2);
            for bucket in 0..LATER {
                let pair = [2 * bucket, 2 * bucket + 1].map(|from| match from < LATER {
                    true => core::mem::take(&mut self.bytes[from]),
                    false => 0,
                });
                self.bytes[bucket] = pair[0].saturating_add(pair[1]);
            }
        }
        if earlier > 0 {
            let shift = earlier.div_ceil(self.bucket_ms).min(LATER as u64) as usize;
            for bucket in (0..LATER).rev() {
                let bytes = core::mem::take(&mut self.bytes[bucket]);
                let to = &mut self.bytes[(bucket + shift).min(LATER)];
                *to = to.saturating_add(bytes);
            }
            // By whole buckets, so that nothing is known later for it.
            self.first_ms = self
                .first_ms
                .saturating_sub(self.bucket_ms.saturating_mul(shift as u64));
        }
        let bucket = self.bucket(at);
        let bucket = &mut self.bytes[bucket];
        *bucket = bucket.saturating_add(size);
    }

    /// Makes one bucket of those that have ended at `now`, in the place of the last of them.
    fn join_ended(&mut self, now: u64) {
        let ended = now.saturating_sub(self.first_ms) / self.bucket_ms;
        let Some(skipped) = ended.checked_sub(1).filter(|skipped| *skipped > 0) else {
            return;
        };
        let shift = usize::try_from(skipped).map_or(LATER, |skipped| skipped.min(LATER));
        let over = self.bytes[..shift]
            .iter()
            .fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
        self.bytes.copy_within(shift..LATER, 0);
        self.bytes[LATER - shift..LATER].fill(0);
        self.bytes[0] = self.bytes[0].saturating_add(over);
        self.first_ms += skipped * self.bucket_ms;
    }

    /// Bytes of all records in it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.bytes
            .iter()
            .fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Bytes of records that have surely expired at this Unix millisecond: whole buckets, and none of
    /// the last, which has no end.
    #[must_use]
    pub fn expired(&self, now: u64) -> u64 {
        let past = now.saturating_sub(self.first_ms) / self.bucket_ms.max(1);
        let past = usize::try_from(past).map_or(LATER, |past| past.min(LATER));
        let past = if now < self.first_ms { 0 } else { past };
        self.bytes[..past]
            .iter()
            .fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// The next Unix millisecond after `now` at which more will have expired; `None` if that is not
    /// known of any.
    #[must_use]
    pub fn next_change(&self, now: u64) -> Option<u64> {
        (0..LATER as u64)
            .zip(&self.bytes)
            .filter(|(_, bytes)| **bytes > 0)
            .map(|(bucket, _)| {
                let end = (bucket + 1).saturating_mul(self.bucket_ms);
                self.first_ms.saturating_add(end)
            })
            .find(|end| *end > now)
    }

    /// The trailer without its check.
    #[must_use]
    pub fn encode(&self) -> [u8; TRAILER_BYTES - 4] {
        let mut out = [0u8; TRAILER_BYTES - 4];
        LittleEndian::write_u64(&mut out[0..8], self.first_ms);
        LittleEndian::write_u64(&mut out[8..16], self.bucket_ms);
        LittleEndian::write_u64_into(&self.bytes, &mut out[16..]);
        out
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut histogram = Self::EMPTY;
        histogram.first_ms = LittleEndian::read_u64(&bytes[0..8]);
        histogram.bucket_ms = LittleEndian::read_u64(&bytes[8..16]);
        LittleEndian::read_u64_into(&bytes[16..16 + 8 * EXPIRY_BUCKETS], &mut histogram.bytes);
        histogram
    }
}

/// A whole hint file whose check held and whose entries are in order and in range.
#[derive(Clone, Copy, Debug)]
pub struct HintRef<'a> {
    /// What it is about.
    pub header: HintHeader,
    /// Its entries.
    pub entries: &'a [HintEntry],
    /// Its trailer.
    pub expiry: ExpiryHistogram,
}

/// Bytes of a hint file with `count` entries.
#[must_use]
pub const fn file_bytes(count: u64) -> Option<u64> {
    match count.checked_mul(ENTRY_BYTES as u64) {
        Some(entries) => entries.checked_add((HEADER_BYTES + TRAILER_BYTES) as u64),
        None => None,
    }
}

impl<'a> HintRef<'a> {
    /// Checks the whole file `bytes`: length, check, then header, then every entry.
    ///
    /// Cost: one pass for the checksum, one over the entries.
    ///
    /// # Errors
    /// Whatever makes it no hint that may be used.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let have = bytes.len() as u64;
        let least = (HEADER_BYTES + TRAILER_BYTES) as u64;
        let Some(head) = bytes
            .first_chunk::<HEADER_BYTES>()
            .filter(|_| have >= least)
        else {
            return Err(DecodeError::Truncated { need: least, have });
        };
        let raw: Raw = zerocopy::transmute!(*head);
        if raw.magic != MAGIC {
            return Err(DecodeError::BadMagic);
        }
        let count = raw.count.get();
        if file_bytes(count) != Some(have) {
            return Err(DecodeError::BadLength {
                found: count,
                allowed: (have - least) / ENTRY_BYTES as u64,
            });
        }
        let (body, check) = bytes.split_at(bytes.len() - 4);
        let (stored, computed) = (LittleEndian::read_u32(check), crc32(body));
        if stored != computed {
            return Err(DecodeError::BadCrc { stored, computed });
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(DecodeError::BadVersion {
                found: raw.version.get(),
            });
        }
        if raw.zero_a != [0; 5] || raw.zero_b != [0; 4] || raw.zero_c != [0; 24] {
            return Err(DecodeError::NotZero);
        }
        if raw.shard_bits > SHARD_BITS_MAX {
            return Err(DecodeError::BadLength {
                found: u64::from(raw.shard_bits),
                allowed: u64::from(SHARD_BITS_MAX),
            });
        }
        let (entries, trailer) = body[HEADER_BYTES..].split_at(count as usize * ENTRY_BYTES);
        let entries = <[HintEntry]>::ref_from_bytes(entries).map_err(|_| DecodeError::NotBound)?;
        let hint = Self {
            header: HintHeader {
                shard_bits: raw.shard_bits,
                segment_id: raw.segment_id.get(),
                salt: raw.salt,
                covered: raw.covered.get(),
                end_lsn: raw.end_lsn.get(),
                last_offset: raw.last_offset.get(),
                last_place: raw.last_place.get(),
                count,
                hash_check: raw.hash_check.get(),
                min_lsn: raw.min_lsn.get(),
                max_lsn: raw.max_lsn.get(),
            },
            entries,
            expiry: ExpiryHistogram::decode(trailer),
        };
        hint.check_entries()?;
        Ok(hint)
    }

    fn check_entries(&self) -> Result<(), DecodeError> {
        let bits = self.header.shard_bits;
        let covered = self.header.covered;
        let mut previous = (0, 0, 0, 0, 0);
        for (index, entry) in self.entries.iter().enumerate() {
            let key = entry.sort_key(bits);
            let kind = entry.kind_byte();
            let in_range = entry.offset() >= PAGE_BYTES
                && entry.size() >= RECORD_HEADER_BYTES as u64
                && entry.offset() + entry.size() <= covered;
            let legal = (1..=3).contains(&kind)
                && (self.header.min_lsn..=self.header.max_lsn).contains(&entry.lsn())
                && entry.lsn() > 0;
            if !in_range || !legal || (index > 0 && key <= previous) {
                return Err(DecodeError::BadEntry {
                    index: index as u64,
                });
            }
            previous = key;
        }
        Ok(())
    }

    /// True if the segment holds a record, live or dead, of the key with this fingerprint.
    #[must_use]
    pub fn contains(&self, fingerprint: Fingerprint) -> bool {
        !self.entries_of(fingerprint).is_empty()
    }

    /// The entries of the key with this fingerprint, newest first. Cost: two binary searches.
    #[must_use]
    pub fn entries_of(&self, fingerprint: Fingerprint) -> &'a [HintEntry] {
        entries_of(self.entries, self.header.shard_bits, fingerprint)
    }
}

/// The run of `entries`, sorted as in a hint, that belongs to one key.
#[must_use]
pub fn entries_of(entries: &[HintEntry], shard_bits: u8, fingerprint: Fingerprint) -> &[HintEntry] {
    let wanted = (
        shard_of(fingerprint.lo, shard_bits),
        fingerprint.lo,
        fingerprint.hi,
    );
    let of = |entry: &HintEntry| {
        let (shard, lo, hi, ..) = entry.sort_key(shard_bits);
        (shard, lo, hi)
    };
    let start = entries.partition_point(|entry| of(entry) < wanted);
    let rest = &entries[start..];
    &rest[..rest.partition_point(|entry| of(entry) == wanted)]
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_histogram_that_says_what_no_store_writes_takes_more_without_a_panic() {
        use super::{EXPIRY_BUCKETS, ExpiryHistogram};
        for (first_ms, bucket_ms) in [(0, 1 << 63), (u64::MAX, 1), (u64::MAX, u64::MAX), (5, 0)] {
            for (at, now) in [0, 1, u64::MAX].map(|at| (at, [0, at, u64::MAX])) {
                for now in now {
                    let mut histogram = ExpiryHistogram {
                        first_ms,
                        bucket_ms,
                        bytes: [u64::MAX; EXPIRY_BUCKETS],
                    };
                    histogram.add(at, 100, || now);
                    assert_eq!(histogram.total(), u64::MAX);
                    let _ = (histogram.expired(u64::MAX), histogram.next_change(0));
                    let one = ExpiryHistogram::of([(at, 100)].into_iter(), now);
                    assert_eq!(one.total(), 100);
                }
            }
        }
    }

    use super::*;

    /// A generator of numbers (Steele, Lea, Flood, 2014).
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Times, near each other or far apart, and bytes.
    fn some_that_expire(state: &mut u64) -> [(u64, u64); 40] {
        let base = random(state) >> (random(state) % 64);
        [(); 40].map(|()| {
            let delta = random(state) >> (8 + random(state) % 56);
            (base.saturating_add(delta), random(state) % 1_000)
        })
    }

    fn truth(expiring: &[(u64, u64)], now: u64) -> u64 {
        let expired = expiring.iter().filter(|(at, _)| *at <= now);
        expired.map(|(_, size)| size).sum()
    }

    #[test]
    fn a_histogram_never_calls_expired_what_has_not_and_is_at_most_a_bucket_late() {
        let mut state = 7;
        for case in 0..2_000 {
            let expiring = some_that_expire(&mut state);
            let whole = ExpiryHistogram::of(expiring.iter().copied(), 0);
            let mut grown = ExpiryHistogram::EMPTY;
            for (at, size) in expiring {
                grown.add(at, size, || 0);
            }
            let total = truth(&expiring, u64::MAX);
            let first = expiring.iter().map(|(at, _)| *at).min().unwrap_or(0);
            for histogram in [&whole, &grown] {
                assert_eq!(histogram.total(), total, "case {case}");
                assert_eq!(histogram.expired(first.saturating_sub(1)), 0, "case {case}");
                for (at, _) in expiring {
                    for now in [at - at.min(1), at, at.saturating_add(histogram.bucket_ms)] {
                        let known = histogram.expired(now);
                        assert!(known <= truth(&expiring, now), "case {case}");
                        let late = histogram.bucket_ms.saturating_mul(2);
                        let due = now.checked_sub(late).map_or(0, |at| truth(&expiring, at));
                        assert!(known + histogram.bytes[LATER] >= due, "case {case}");
                        let next = histogram.next_change(now);
                        assert!(next.is_none_or(|next| next > now), "case {case}");
                    }
                }
            }
            assert!(whole.bytes[LATER] <= total / 8, "case {case}");
        }
    }

    #[test]
    fn what_lives_for_ever_does_not_hide_what_expires_soon() {
        let sessions = (0..1_000).map(|i| (1_000_000 + i * 60, 100));
        let mut expiring = [(u64::MAX, 5_000); 1_001];
        for (place, session) in expiring.iter_mut().zip(sessions) {
            *place = session;
        }
        let histogram = ExpiryHistogram::of(expiring.iter().copied(), 0);
        assert!(histogram.bucket_ms < 2_100, "{}", histogram.bucket_ms);
        assert_eq!(histogram.expired(1_000_000 + 70_000), 100_000);
        assert_eq!(histogram.expired(u64::MAX), 100_000);
        assert_eq!(histogram.next_change(2_000_000), None);
    }

    #[test]
    fn whenever_it_is_made_it_calls_nothing_expired_that_has_not() {
        let mut state = 11;
        for case in 0..2_000 {
            let expiring = some_that_expire(&mut state);
            let made = expiring[random(&mut state) as usize % 40].0;
            let whole = ExpiryHistogram::of(expiring.iter().copied(), made);
            let mut grown = ExpiryHistogram::EMPTY;
            for (at, size) in expiring {
                // Time goes on; the clock may be set.
                let now = made.saturating_sub(random(&mut state) % 10_000);
                grown.add(at, size, || now);
            }
            for histogram in [&whole, &grown] {
                assert_eq!(histogram.total(), truth(&expiring, u64::MAX), "case {case}");
                for (at, _) in expiring {
                    for now in [at - at.min(1), at, at.saturating_add(histogram.bucket_ms)] {
                        let known = histogram.expired(now);
                        assert!(known <= truth(&expiring, now), "case {case}");
                        let late = histogram.bucket_ms.saturating_mul(2);
                        let due = now.checked_sub(late).map_or(0, |at| truth(&expiring, at));
                        // What was over when it was made is known a bucket later.
                        let late = known + histogram.bytes[LATER] < due;
                        let made = made.saturating_add(histogram.bucket_ms);
                        assert!(!late || now < made, "case {case}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_long_over_does_not_hide_what_expires_soon() {
        let (now, year) = (1_800_000_000_000, 365 * 86_400_000);
        let over = (0..400u64).map(|i| (now - i * year / 10, 100));
        let soon = (0..100u64).map(|i| (now + 1 + i * 600, 100));
        let all: [(u64, u64); 500] = {
            let mut all = [(0, 0); 500];
            all.iter_mut()
                .zip(over.chain(soon))
                .for_each(|(place, pair)| *place = pair);
            all
        };
        let mut grown = ExpiryHistogram::EMPTY;
        for (at, size) in all {
            grown.add(at, size, || now);
        }
        let mut reversed = ExpiryHistogram::EMPTY;
        for (at, size) in all.into_iter().rev() {
            reversed.add(at, size, || now);
        }
        let whole = ExpiryHistogram::of(all.into_iter(), now);
        for (how, histogram) in [("whole", whole), ("grown", grown), ("reversed", reversed)] {
            assert!(
                histogram.bucket_ms < 4_000,
                "{how}: {}",
                histogram.bucket_ms
            );
            assert_eq!(histogram.total(), 50_000, "{how}");
            let known = histogram.expired(now + 2 * histogram.bucket_ms);
            assert!(known >= 40_000, "{how}: {known}");
            assert_eq!(histogram.expired(now + 70_000), 50_000, "{how}");
        }
        assert_eq!(whole.expired(now + 1), 40_000);
        // All of it, to the millisecond, however far apart.
        let whole = ExpiryHistogram::of(all[..400].iter().copied(), now);
        assert_eq!(whole.expired(now + 1), 40_000);
        // An hour later nothing of before takes away from what is known.
        let later = now + 3_600_000;
        for i in 0..100u64 {
            grown.add(later + i * 600, 100, || later);
        }
        assert!(grown.bucket_ms < 4_000, "{}", grown.bucket_ms);
        assert_eq!(grown.expired(later + 70_000), 60_000);
    }

    #[test]
    fn what_a_file_may_say_is_no_overflow() {
        let histogram = ExpiryHistogram {
            first_ms: u64::MAX,
            bucket_ms: u64::MAX,
            bytes: [u64::MAX; EXPIRY_BUCKETS],
        };
        assert_eq!(histogram.total(), u64::MAX);
        assert_eq!(histogram.expired(0), 0);
        assert_eq!(histogram.next_change(5), Some(u64::MAX));
        assert_eq!(ExpiryHistogram::EMPTY.expired(u64::MAX), 0);
        assert_eq!(ExpiryHistogram::EMPTY.next_change(0), None);
    }
}
