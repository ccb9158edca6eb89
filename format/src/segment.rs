//! The immutable first page of a segment file.
//!
//! ```text
//!  0       8    10   11    12    16    24               40                       60    64    4096
//!  +-------+----+----+-----+-----+-----+----------------+------------------------+-----+-...-+
//!  | magic | vn | kd | 0   | 0   | id  | salt           | 0                      | crc | 0   | records
//!  +-------+----+----+-----+-----+-----+----------------+------------------------+-----+-...-+
//! ```
//!
//! Written once, before the segment is activated, and never again: nothing that changes lives here.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::FORMAT_VERSION;
use crate::crc::{PlaceKey, crc32};
use crate::error::DecodeError;

/// Bytes of the first page; the first record starts here.
pub const PAGE_BYTES: u64 = 4096;

/// Bytes of the header in that page; the rest of the page is zero.
pub const HEADER_BYTES: usize = 64;

/// First bytes of every segment file.
pub const MAGIC: [u8; 8] = *b"kvs-seg\0";

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SegmentKind {
    /// Records in the order they were written, LSNs without a gap, begun by a LINK.
    Log = 1,
    /// Records that compaction moved together; it exists whole or not at all.
    Merged = 2,
}

impl SegmentKind {
    /// The kind of this byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Log),
            2 => Some(Self::Merged),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U16,
    kind: u8,
    zero_a: [u8; 5],
    id: U64,
    salt: [u8; 16],
    zero_b: [u8; 20],
    crc: U32,
}

const CRC_AT: usize = 60;

const _: () = {
    assert!(size_of::<Raw>() == HEADER_BYTES);
    assert!(core::mem::offset_of!(Raw, id) == 16);
    assert!(core::mem::offset_of!(Raw, salt) == 24);
    assert!(core::mem::offset_of!(Raw, crc) == CRC_AT);
};

/// Who a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Log or merged.
    pub kind: SegmentKind,
    /// Number of the segment; never used twice in a store.
    pub id: u64,
    /// 16 random bytes of this life of the file.
    pub salt: [u8; 16],
}

impl SegmentHeader {
    /// The 64 bytes as they stand in the file.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let raw = Raw {
            magic: MAGIC,
            version: U16::new(FORMAT_VERSION),
            kind: self.kind as u8,
            zero_a: [0; 5],
            id: U64::new(self.id),
            salt: self.salt,
            zero_b: [0; 20],
            crc: U32::ZERO,
        };
        let mut bytes: [u8; HEADER_BYTES] = zerocopy::transmute!(raw);
        let crc = crc32(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// Magic first (another kind of file), then the check, then the version: a header of a later
    /// version is refused as such only if it is whole.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::Truncated {
                need: HEADER_BYTES as u64,
                have: bytes.len() as u64,
            });
        };
        let raw: Raw = zerocopy::transmute!(*bytes);
        if raw.magic != MAGIC {
            return Err(DecodeError::BadMagic);
        }
        let (stored, computed) = (raw.crc.get(), crc32(&bytes[..CRC_AT]));
        if stored != computed {
            return Err(DecodeError::BadCrc { stored, computed });
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(DecodeError::BadVersion {
                found: raw.version.get(),
            });
        }
        if raw.zero_a != [0; 5] || raw.zero_b != [0; 20] {
            return Err(DecodeError::NotZero);
        }
        let kind = SegmentKind::from_byte(raw.kind).ok_or(DecodeError::BadKind {
            kind: raw.kind,
            framing: 0,
        })?;
        Ok(Self {
            kind,
            id: raw.id.get(),
            salt: raw.salt,
        })
    }

    /// The start state of this segment's `place` checks.
    #[must_use]
    pub fn place_key(&self) -> PlaceKey {
        PlaceKey::of_segment(&self.salt, self.id)
    }

    /// The part of the salt that a MARK repeats.
    #[must_use]
    pub fn mark_salt(&self) -> [u8; 8] {
        let mut out = [0u8; 8];
        out.copy_from_slice(&self.salt[..8]);
        out
    }
}
