//! What the store writes about itself among the records: LINK, MARK, FOOTER and batch heads.
//!
//! Their payload stands where a value would; their key is empty.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::DecodeError;
use crate::record::{Kind, RecordRef, size_of_record};

/// Payload of the first record of a log segment: where its predecessor ended.
///
/// All zero in the first log segment of a store.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Link {
    /// Id of the preceding log segment.
    pub previous_id: U64,
    /// Offset behind its last record.
    pub previous_end: U64,
    /// LSN of its last record.
    pub previous_lsn: U64,
}

/// Payload of a MARK: every record with an LSN up to `durable_lsn` was on disk when it was written.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Mark {
    /// Highest LSN that a finished sync covers.
    pub durable_lsn: U64,
    /// First 8 bytes of the segment's salt.
    pub salt: [u8; 8],
}

/// Payload of the last record of a sealed segment: a summary of its data records.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Footer {
    /// How many data records (kinds 1 to 3) the segment holds.
    pub records: U64,
    /// Lowest LSN among them; 0 if there are none.
    pub min_lsn: U64,
    /// Highest LSN among them; 0 if there are none.
    pub max_lsn: U64,
    /// Bytes of them, padding included.
    pub payload_bytes: U64,
}

/// Payload of a batch head.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct BatchHead {
    /// How many records follow, at least 1.
    pub count: U32,
    /// Bytes of those records, padding included.
    pub bytes: U64,
}

const LINK_BYTES: usize = 24;
const MARK_BYTES: usize = 16;
const FOOTER_BYTES: usize = 32;
const BATCH_HEAD_BYTES: usize = 12;

const _: () = {
    assert!(size_of::<Link>() == LINK_BYTES);
    assert!(size_of::<Mark>() == MARK_BYTES);
    assert!(size_of::<Footer>() == FOOTER_BYTES);
    assert!(size_of::<BatchHead>() == BATCH_HEAD_BYTES);
};

/// Payload length of a system record; `None` for data records.
#[must_use]
pub const fn payload_bytes(kind: Kind) -> Option<usize> {
    match kind {
        Kind::Set | Kind::SetExpiring | Kind::Tombstone => None,
        Kind::BatchHead => Some(BATCH_HEAD_BYTES),
        Kind::Mark => Some(MARK_BYTES),
        Kind::Link => Some(LINK_BYTES),
        Kind::Footer => Some(FOOTER_BYTES),
    }
}

/// Bytes of a LINK record.
pub const LINK_RECORD_BYTES: u64 = size_of_record(Kind::Link, 0, LINK_BYTES);
/// Bytes of a MARK record.
pub const MARK_RECORD_BYTES: u64 = size_of_record(Kind::Mark, 0, MARK_BYTES);
/// Bytes of a FOOTER record.
pub const FOOTER_RECORD_BYTES: u64 = size_of_record(Kind::Footer, 0, FOOTER_BYTES);
/// Bytes of a batch head record.
pub const BATCH_HEAD_RECORD_BYTES: u64 = size_of_record(Kind::BatchHead, 0, BATCH_HEAD_BYTES);

/// Bytes of LINK, one MARK and FOOTER: what a log segment needs beside its data.
pub const CLOSING_BYTES: u64 = LINK_RECORD_BYTES + MARK_RECORD_BYTES + FOOTER_RECORD_BYTES;

const _: () = {
    assert!(LINK_RECORD_BYTES == 48);
    assert!(MARK_RECORD_BYTES == 40);
    assert!(FOOTER_RECORD_BYTES == 56);
    assert!(BATCH_HEAD_RECORD_BYTES == 40);
};

fn payload<T: FromBytes + KnownLayout + Immutable + Unaligned + Copy>(
    record: &RecordRef<'_>,
    kind: Kind,
) -> Result<T, DecodeError> {
    if record.header.kind != kind {
        return Err(DecodeError::BadKind {
            kind: record.header.kind as u8,
            framing: record.header.framing as u8,
        });
    }
    T::read_from_bytes(record.value).map_err(|_| DecodeError::BadLength {
        found: record.value.len() as u64,
        allowed: size_of::<T>() as u64,
    })
}

impl Link {
    /// The payload of a LINK record.
    ///
    /// # Errors
    /// [`DecodeError::BadKind`] for another record.
    pub fn of(record: &RecordRef<'_>) -> Result<Self, DecodeError> {
        payload(record, Kind::Link)
    }
}

impl Mark {
    /// The payload of a MARK record.
    ///
    /// # Errors
    /// [`DecodeError::BadKind`] for another record.
    pub fn of(record: &RecordRef<'_>) -> Result<Self, DecodeError> {
        payload(record, Kind::Mark)
    }
}

impl Footer {
    /// The payload of a FOOTER record.
    ///
    /// # Errors
    /// [`DecodeError::BadKind`] for another record.
    pub fn of(record: &RecordRef<'_>) -> Result<Self, DecodeError> {
        payload(record, Kind::Footer)
    }
}

impl BatchHead {
    /// The payload of a batch head.
    ///
    /// # Errors
    /// [`DecodeError::BadKind`] for another record.
    pub fn of(record: &RecordRef<'_>) -> Result<Self, DecodeError> {
        payload(record, Kind::BatchHead)
    }
}
