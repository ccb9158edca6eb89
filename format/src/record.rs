//! One framed key and value: a 24-byte header with two checks, then the body.
//!
//! ```text
//!  0        4         8                16   17   18     20        24
//!  +--------+---------+----------------+----+----+------+---------+------------------------+
//!  | place  | content | LSN            | fr | kd | klen | vlen    | [expiry] key value pad |
//!  +--------+---------+----------------+----+----+------+---------+------------------------+
//!           '----- place covers 4..24, and the offset, salt and id -----'
//!                                            '------ content covers 17.. end of value ------'
//! ```
//!
//! Invariants
//! - A record starts at a multiple of 8; padding after the value is zero and not checked.
//! - LSN and kind are at least 1, so no valid header is all zero: 24 zero bytes end a segment.
//!   A check may well *be* zero.
//! - `content` does not cover LSN, framing or place: compaction carries it unchanged.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc::{PlaceKey, crc32_from, crc32_of_parts, of_its_pages};
use crate::error::DecodeError;
use crate::{KEY_BYTES_MAX, VALUE_BYTES_MAX, aligned};

/// Bytes of a record header.
pub const HEADER_BYTES: usize = 24;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A key and its value.
    Set = 1,
    /// A key, its value and the Unix millisecond from which on it counts as removed.
    SetExpiring = 2,
    /// A key that was removed.
    Tombstone = 3,
    /// Announces the records of an atomic batch.
    BatchHead = 4,
    /// States a sync that has finished.
    Mark = 5,
    /// First record of a log segment: where its predecessor ended.
    Link = 6,
    /// Last record of a sealed segment: what it holds.
    Footer = 7,
}

impl Kind {
    /// The kind of this byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Set,
            2 => Self::SetExpiring,
            3 => Self::Tombstone,
            4 => Self::BatchHead,
            5 => Self::Mark,
            6 => Self::Link,
            7 => Self::Footer,
            _ => return None,
        })
    }

    /// True for what users wrote; false for what the store writes about itself.
    #[must_use]
    pub const fn is_data(self) -> bool {
        matches!(self, Self::Set | Self::SetExpiring | Self::Tombstone)
    }

    /// Bytes between header and key.
    #[must_use]
    pub const fn extension(self) -> u64 {
        match self {
            Self::SetExpiring => 8,
            _ => 0,
        }
    }
}

/// How a record belongs to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Framing {
    /// On its own.
    Single = 0,
    /// Batch head, or a record of a batch that another one follows.
    InBatch = 1,
    /// Last record of a batch.
    BatchEnd = 2,
}

impl Framing {
    /// The framing of this byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Single,
            1 => Self::InBatch,
            2 => Self::BatchEnd,
            _ => return None,
        })
    }
}

/// The header as it stands in the file. Untrusted until [`parse_header`] has checked it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawHeader {
    /// Check of place, LSN and bytes 4 to 23.
    pub place: U32,
    /// Check of kind, lengths and body.
    pub content: U32,
    /// Log sequence number.
    pub lsn: U64,
    /// [`Framing`].
    pub framing: u8,
    /// [`Kind`].
    pub kind: u8,
    /// Bytes of the key.
    pub key_len: U16,
    /// Bytes of the value.
    pub value_len: U32,
}

const _: () = {
    assert!(size_of::<RawHeader>() == HEADER_BYTES);
    assert!(core::mem::offset_of!(RawHeader, place) == 0);
    assert!(core::mem::offset_of!(RawHeader, content) == 4);
    assert!(core::mem::offset_of!(RawHeader, lsn) == 8);
    assert!(core::mem::offset_of!(RawHeader, framing) == 16);
    assert!(core::mem::offset_of!(RawHeader, kind) == CONTENT_START);
    assert!(core::mem::offset_of!(RawHeader, key_len) == 18);
    assert!(core::mem::offset_of!(RawHeader, value_len) == 20);
};

/// First byte of a record that `content` covers.
pub const CONTENT_START: usize = 17;

/// Bytes of a record in its segment, padding included.
#[must_use]
pub const fn size_of_record(kind: Kind, key_len: usize, value_len: usize) -> u64 {
    aligned(HEADER_BYTES as u64 + kind.extension() + key_len as u64 + value_len as u64)
}

/// A header whose `place` check held: its fields were written here, by this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `place` as stored.
    pub place: u32,
    /// `content` as stored; not yet compared with the body.
    pub content: u32,
    /// Log sequence number, at least 1.
    pub lsn: u64,
    /// How it belongs to a batch.
    pub framing: Framing,
    /// What it says.
    pub kind: Kind,
    /// Bytes of the key.
    pub key_len: u16,
    /// Bytes of the value.
    pub value_len: u32,
}

impl Header {
    /// Bytes of the record without padding.
    #[must_use]
    pub const fn unpadded(&self) -> u64 {
        HEADER_BYTES as u64 + self.kind.extension() + self.key_len as u64 + self.value_len as u64
    }

    /// Bytes of the record, padding included.
    #[must_use]
    pub const fn size(&self) -> u64 {
        aligned(self.unpadded())
    }
}

/// Checks the 24 header bytes that stand at `offset`; `Ok(None)` if they are all zero (the end).
///
/// # Errors
/// [`DecodeError::BadPlace`] if the header was not written for this place, [`DecodeError::BadKind`]
/// or [`DecodeError::BadLsn`] if it was but says what this version does not define.
#[inline(always)]
pub fn parse_header(
    key: &PlaceKey,
    offset: u64,
    bytes: &[u8; HEADER_BYTES],
) -> Result<Option<Header>, DecodeError> {
    if bytes == &[0u8; HEADER_BYTES] {
        return Ok(None);
    }
    let raw: RawHeader = zerocopy::transmute!(*bytes);
    let mut rest = [0u8; 20];
    rest.copy_from_slice(&bytes[4..]);
    let computed = key.place(offset, &rest);
    let stored = raw.place.get();
    if stored != computed {
        return Err(DecodeError::BadPlace { stored, computed });
    }
    let bad_kind = DecodeError::BadKind {
        kind: raw.kind,
        framing: raw.framing,
    };
    let (Some(kind), Some(framing)) = (Kind::from_byte(raw.kind), Framing::from_byte(raw.framing))
    else {
        return Err(bad_kind);
    };
    let legal = match kind {
        Kind::Set | Kind::SetExpiring | Kind::Tombstone => true,
        Kind::BatchHead => framing == Framing::InBatch,
        Kind::Mark | Kind::Link | Kind::Footer => framing == Framing::Single,
    };
    if !legal {
        return Err(bad_kind);
    }
    if raw.lsn.get() == 0 {
        return Err(DecodeError::BadLsn {
            expected: 1,
            found: 0,
        });
    }
    let header = Header {
        place: stored,
        content: raw.content.get(),
        lsn: raw.lsn.get(),
        framing,
        kind,
        key_len: raw.key_len.get(),
        value_len: raw.value_len.get(),
    };
    let system = crate::system::payload_bytes(kind);
    let allowed = match (kind, system) {
        (Kind::Tombstone, _) => 0,
        (_, Some(len)) => len as u64,
        _ => VALUE_BYTES_MAX as u64,
    };
    let found = u64::from(header.value_len);
    let exact = system.is_some() || kind == Kind::Tombstone;
    if found > allowed || (exact && found != allowed) {
        return Err(DecodeError::BadLength { found, allowed });
    }
    if !kind.is_data() && header.key_len != 0 {
        return Err(DecodeError::BadLength {
            found: u64::from(header.key_len),
            allowed: 0,
        });
    }
    Ok(Some(header))
}

/// A whole record whose two checks held, borrowed from the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Bytes from the start of the segment file.
    pub offset: u64,
    /// The checked header.
    pub header: Header,
    /// Unix milliseconds from which on the record counts as removed; only for
    /// [`Kind::SetExpiring`].
    pub expires_at: Option<u64>,
    /// The key; empty for what the store writes about itself.
    pub key: &'a [u8],
    /// The value, or the payload of a system record.
    pub value: &'a [u8],
}

/// Completes a record from its checked `header` and all its unpadded bytes.
///
/// # Errors
/// [`DecodeError::Truncated`] if `record` is shorter than the header says,
/// [`DecodeError::BadContent`] if the body is not the one that was written.
#[inline(always)]
pub fn complete<'a>(
    key: &PlaceKey,
    header: Header,
    offset: u64,
    record: &'a [u8],
) -> Result<RecordRef<'a>, DecodeError> {
    let need = header.unpadded();
    let have = record.len() as u64;
    if have < need {
        return Err(DecodeError::Truncated { need, have });
    }
    let need = need as usize;
    let room = of_its_pages(record, offset, need);
    let computed = key.content(&room[CONTENT_START..], need - CONTENT_START);
    if computed != header.content {
        return Err(DecodeError::BadContent {
            stored: header.content,
            computed,
        });
    }
    let body = &record[HEADER_BYTES..need];
    let (expires_at, body) = match header.kind {
        Kind::SetExpiring => {
            let (stamp, rest) = body.split_at(8);
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(stamp);
            (Some(u64::from_le_bytes(bytes)), rest)
        }
        _ => (None, body),
    };
    let (key, value) = body.split_at(usize::from(header.key_len));
    Ok(RecordRef {
        offset,
        header,
        expires_at,
        key,
        value,
    })
}

/// Decodes the record at `offset`, of which `bytes` are the bytes from there to the last one that
/// may belong to it; `Ok(None)` at the end (24 zero bytes, or fewer left and all of them zero).
///
/// # Errors
/// As [`parse_header`] and [`complete`]; [`DecodeError::Truncated`] if the bytes end too early.
pub fn decode<'a>(
    key: &PlaceKey,
    offset: u64,
    bytes: &'a [u8],
) -> Result<Option<RecordRef<'a>>, DecodeError> {
    if bytes.len() < HEADER_BYTES && bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(DecodeError::Truncated {
            need: HEADER_BYTES as u64,
            have: bytes.len() as u64,
        });
    };
    let Some(header) = parse_header(key, offset, head)? else {
        return Ok(None);
    };
    // The padded size must fit too: the next record starts behind the padding.
    if header.size() > bytes.len() as u64 {
        return Err(DecodeError::Truncated {
            need: header.size(),
            have: bytes.len() as u64,
        });
    }
    complete(key, header, offset, bytes).map(Some)
}

/// Up to this many bytes it is cheaper to copy a record's parts together than to update the checksum
/// part by part.
const GATHER_BYTES: usize = 256;

/// A header that knows its content but not yet its place: what can be prepared before the writer
/// has given out LSN and offset.
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    raw: RawHeader,
    expiry: [u8; 8],
}

impl Draft {
    /// Drafts a record; `expires_at` makes a [`Kind::Set`] a [`Kind::SetExpiring`].
    ///
    /// Writes what it is told: a key in a system record or a value in a tombstone is refused by
    /// every reader, not here.
    ///
    /// # Errors
    /// [`DecodeError::BadLength`] if key or value are longer than the format allows.
    pub fn new(
        kind: Kind,
        expires_at: Option<u64>,
        key: &[u8],
        value: &[u8],
    ) -> Result<Self, DecodeError> {
        let kind = match (kind, expires_at) {
            (Kind::Set, Some(_)) => Kind::SetExpiring,
            (kind, _) => kind,
        };
        for (found, allowed) in [(key.len(), KEY_BYTES_MAX), (value.len(), VALUE_BYTES_MAX)] {
            if found > allowed {
                return Err(DecodeError::BadLength {
                    found: found as u64,
                    allowed: allowed as u64,
                });
            }
        }
        let mut draft = Self {
            raw: RawHeader {
                place: U32::ZERO,
                content: U32::ZERO,
                lsn: U64::ZERO,
                framing: 0,
                kind: kind as u8,
                key_len: U16::new(key.len() as u16),
                value_len: U32::new(value.len() as u32),
            },
            expiry: expires_at.unwrap_or(0).to_le_bytes(),
        };
        let extension = kind.extension() as usize;
        let parts = [
            &draft.raw.as_bytes()[CONTENT_START..],
            &draft.expiry[..extension],
            key,
            value,
        ];
        let len = parts.iter().map(|part| part.len()).sum();
        let content = match len <= GATHER_BYTES {
            true => {
                let mut gathered = [0u8; GATHER_BYTES];
                let mut at = 0;
                for part in parts {
                    gathered[at..at + part.len()].copy_from_slice(part);
                    at += part.len();
                }
                crc32_from(0, &gathered, len)
            }
            false => crc32_of_parts(&parts),
        };
        draft.raw.content = U32::new(content);
        Ok(draft)
    }

    /// A draft of a record that already has its `content`: compaction moves it unchanged.
    #[must_use]
    pub fn of_moved(record: &RecordRef<'_>) -> Self {
        let header = &record.header;
        Self {
            raw: RawHeader {
                place: U32::ZERO,
                content: U32::new(header.content),
                lsn: U64::ZERO,
                framing: 0,
                kind: header.kind as u8,
                key_len: U16::new(header.key_len),
                value_len: U32::new(header.value_len),
            },
            expiry: record.expires_at.unwrap_or(0).to_le_bytes(),
        }
    }

    /// The final header for a record with this LSN and framing at `offset`, and the expiry bytes
    /// that stand between header and key.
    #[must_use]
    pub fn place(
        &self,
        key: &PlaceKey,
        offset: u64,
        lsn: u64,
        framing: Framing,
    ) -> ([u8; HEADER_BYTES], &[u8]) {
        let mut raw = self.raw;
        raw.lsn = U64::new(lsn);
        raw.framing = framing as u8;
        let mut bytes: [u8; HEADER_BYTES] = zerocopy::transmute!(raw);
        let mut rest = [0u8; 20];
        rest.copy_from_slice(&bytes[4..]);
        bytes[..4].copy_from_slice(&key.place(offset, &rest).to_le_bytes());
        let extension = match self.raw.kind == Kind::SetExpiring as u8 {
            true => &self.expiry[..],
            false => &[],
        };
        (bytes, extension)
    }

    /// True for a record of kind 1 to 3.
    #[must_use]
    #[inline]
    pub fn is_data(&self) -> bool {
        self.raw.kind <= Kind::Tombstone as u8
    }

    /// Unix milliseconds from which on it counts as removed.
    #[must_use]
    #[inline]
    pub fn expires_at(&self) -> Option<u64> {
        let expires = self.raw.kind == Kind::SetExpiring as u8;
        expires.then(|| u64::from_le_bytes(self.expiry))
    }

    /// Bytes of the record in its segment, padding included.
    #[must_use]
    pub fn size(&self) -> u64 {
        let extension = match self.raw.kind == Kind::SetExpiring as u8 {
            true => 8,
            false => 0,
        };
        aligned(
            HEADER_BYTES as u64
                + extension
                + u64::from(self.raw.key_len.get())
                + u64::from(self.raw.value_len.get()),
        )
    }
}

/// Encodes one whole record into `out`, padding included, and returns its size.
///
/// # Errors
/// [`DecodeError::BadLength`] as [`Draft::new`], [`DecodeError::Truncated`] if `out` is too short.
#[expect(clippy::too_many_arguments, reason = "the fields of a record, once")]
pub fn encode_into(
    out: &mut [u8],
    place_key: &PlaceKey,
    offset: u64,
    lsn: u64,
    framing: Framing,
    kind: Kind,
    expires_at: Option<u64>,
    key: &[u8],
    value: &[u8],
) -> Result<usize, DecodeError> {
    let draft = Draft::new(kind, expires_at, key, value)?;
    let size = draft.size() as usize;
    let have = out.len() as u64;
    let Some(out) = out.get_mut(..size) else {
        return Err(DecodeError::Truncated {
            need: size as u64,
            have,
        });
    };
    let (header, extension) = draft.place(place_key, offset, lsn, framing);
    let mut at = 0;
    for part in [&header[..], extension, key, value] {
        out[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    out[at..].fill(0);
    Ok(size)
}
