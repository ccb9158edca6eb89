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
    key.hash(&MAGIC)
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
    /// Bytes of the records that expire in each bucket.
    pub bytes: [u64; EXPIRY_BUCKETS],
}

impl ExpiryHistogram {
    /// Of a segment without expiring records.
    pub const EMPTY: Self = Self {
        first_ms: 0,
        bucket_ms: 0,
        bytes: [0; EXPIRY_BUCKETS],
    };

    /// Of records that expire at these Unix milliseconds and have these sizes: 64 buckets of equal
    /// width from the first expiry to the last.
    #[must_use]
    pub fn of(expiring: impl Iterator<Item = (u64, u64)> + Clone) -> Self {
        let mut histogram = Self::EMPTY;
        let times = || expiring.clone().map(|(at, _)| at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else {
            return histogram;
        };
        histogram.first_ms = first;
        histogram.bucket_ms = (last - first) / EXPIRY_BUCKETS as u64 + 1;
        for (at, size) in expiring {
            let bucket = (at - first) / histogram.bucket_ms;
            histogram.bytes[bucket as usize] += size;
        }
        histogram
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
