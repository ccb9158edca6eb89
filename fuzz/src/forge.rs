//! Writes all checks of a file anew, so that what stands behind them is reached.
//!
//! The result is what a person with write access could make: the store need not notice, but must not
//! panic, hang or read outside its files.

use kvs_format::aligned;
use kvs_format::crc::{PlaceKey, crc32};
use kvs_format::name::{self, Name};
use kvs_format::segment::PAGE_BYTES;
use kvs_format::{hint, manifest, record, segment};

fn put(bytes: &mut [u8], at: usize, crc: u32) {
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller took as many bytes")
}

/// The file called `name`, whatever it is.
pub fn file(name: &str, bytes: &mut [u8]) {
    match name::parse(name) {
        Some(Name::Segment(_)) => segment(bytes),
        Some(Name::Hint(_)) => hint(bytes),
        Some(Name::Manifest | Name::ManifestTmp) => manifest(bytes),
        // Nobody reads the reserve.
        Some(Name::Reserve) | None => {}
    }
}

/// The record at `offset` of the segment with this key; its padded size if all of it is there.
pub fn record(bytes: &mut [u8], key: &PlaceKey, offset: u64) -> Option<usize> {
    let head = bytes.first_chunk::<{ record::HEADER_BYTES }>()?;
    if head == &[0; record::HEADER_BYTES] {
        return None;
    }
    let extension = if head[17] == 2 { 8 } else { 0 };
    let body = extension + number(&head[18..20]) + number(&head[20..24]);
    let unpadded = record::HEADER_BYTES as u64 + body;
    let whole = unpadded <= bytes.len() as u64;
    if whole {
        let content = crc32(&bytes[record::CONTENT_START..unpadded as usize]);
        put(bytes, 4, content);
    }
    let place = key.place(offset, &array(&bytes[4..24]));
    put(bytes, 0, place);
    whole.then_some(aligned(unpadded) as usize)
}

/// A segment: header, then record after record as long as their lengths lead to another.
pub fn segment(bytes: &mut [u8]) {
    if bytes.len() < segment::HEADER_BYTES {
        return;
    }
    let crc = crc32(&bytes[..60]);
    put(bytes, 60, crc);
    let key = PlaceKey::of_segment(&array(&bytes[24..40]), number(&bytes[16..24]));
    let mut at = PAGE_BYTES as usize;
    while let Some(size) = bytes
        .get_mut(at..)
        .and_then(|rest| record(rest, &key, at as u64))
    {
        at += size;
    }
}

/// A manifest: header, then edit after edit.
pub fn manifest(bytes: &mut [u8]) {
    if bytes.len() < manifest::HEADER_BYTES {
        return;
    }
    let crc = crc32(&bytes[..60]);
    put(bytes, 60, crc);
    let key = PlaceKey::of_manifest(&array(&bytes[16..32]), &array(&bytes[32..48]));
    let mut at = manifest::HEADER_BYTES;
    while let Some(rest) = bytes.get_mut(at..) {
        let Some(head) = rest.first_chunk::<{ manifest::EDIT_HEADER_BYTES }>() else {
            return;
        };
        let unpadded = manifest::EDIT_HEADER_BYTES as u64 + number(&head[4..8]);
        if head == &[0; manifest::EDIT_HEADER_BYTES] || unpadded > rest.len() as u64 {
            return;
        }
        let crc = key.edit(at as u64, &rest[4..unpadded as usize]);
        put(rest, 0, crc);
        at += aligned(unpadded) as usize;
    }
}

/// A hint: entry count as the length says, then the one check.
pub fn hint(bytes: &mut [u8]) {
    let fixed = hint::HEADER_BYTES + hint::TRAILER_BYTES;
    if bytes.len() < fixed {
        return;
    }
    let count = (bytes.len() - fixed) / hint::ENTRY_BYTES;
    bytes[72..80].copy_from_slice(&(count as u64).to_le_bytes());
    let end = bytes.len() - 4;
    let crc = crc32(&bytes[..end]);
    put(bytes, end, crc);
}
