//! Records that are whole but do not belong where they stand are refused.
//!
//! - Stale record of an earlier life: a new file gets disk blocks of an old one, and behind its end
//!   stand whole records of the right segment, at the right offset, with the right LSN.
//! - Record forged by a user: a value holds the bytes of records, and a reader comes to stand on
//!   them, because it lost its way or because a length was damaged.
//! - Misplaced write or read: bytes of one place appear at another, in the same file or in another.
//!
//! Each is built here as the fault would, all checks that the faulty bytes can have being right.

mod common;

use common::{Image, PAGE, expiring, scan_at_once, set, tombstone};
use kvs_format::error::DecodeError;
use kvs_format::record::{HEADER_BYTES, decode};
use kvs_format::scan::{Scanner, find_mark};
use kvs_format::segment::{SegmentHeader, SegmentKind};

fn filled(mut image: Image) -> Image {
    image.append(&set(b"one", b"1"));
    image.append(&expiring(b"two", b"22", 99));
    image.batch(&[set(b"three", b"333"), tombstone(b"one")]);
    image.mark(2);
    image.append(&set(b"four", b"4444"));
    image
}

#[track_caller]
fn assert_no_record(header: &SegmentHeader, offset: usize, file: &[u8], lsn: u64) {
    let limit = file.len() as u64;
    let (records, stop) = scan_at_once(Scanner::resume(header, offset as u64, limit, lsn), file);
    assert_eq!(records, [], "at {offset}");
    assert_eq!(stop.offset, offset as u64);
    let result = decode(&header.place_key(), offset as u64, &file[offset..]);
    assert!(!matches!(result, Ok(Some(_))), "at {offset}: {result:?}");
}

#[test]
fn stale_records_of_an_earlier_life_are_refused_at_every_boundary() {
    let old = filled(Image::log(9, 0x01));
    let young = filled(Image::log(9, 0x02));
    assert_eq!(old.bytes.len(), young.bytes.len());
    assert_eq!(old.starts, young.starts);
    let (good, _) = young.scan();
    for cut in &young.starts {
        // Right id, right offsets, right LSNs; only the salt is another.
        let file = [&young.bytes[..*cut], &old.bytes[*cut..]].concat();
        let scanner = Scanner::new(&young.header, young.len(), 1);
        let (records, stop) = scan_at_once(scanner, &file);
        let before = good.iter().filter(|r| r.offset < *cut as u64).count();
        assert_eq!(records, good[..before]);
        assert_eq!(stop.rejected_at, *cut as u64);
        assert!(
            matches!(stop.reason, Some(DecodeError::BadPlace { .. })),
            "{:?}",
            stop.reason
        );
    }
    assert_eq!(
        find_mark(&young.header, PAGE as u64, &old.bytes[PAGE..]),
        None
    );
}

#[test]
fn the_header_of_an_earlier_life_does_not_vouch_for_a_later_one() {
    let old = filled(Image::log(9, 0x01));
    let young = Image::log(9, 0x02);
    let header = SegmentHeader::decode(&old.bytes).unwrap();
    assert_ne!(header, young.header);
    assert_no_record(&header, PAGE, &young.bytes, 1);
}

#[test]
fn records_forged_in_a_value_are_refused_wherever_reading_starts() {
    // The inner segment has the outer one's id and salt: a copy of the store's own file.
    let inner = filled(Image::log(9, 0x03));
    let mut outer = Image::log(9, 0x03);
    let start = outer.append(&set(b"8 bytes.", &inner.bytes));
    // The inner records stand at multiples of 8 of the outer file too.
    assert_eq!((start + HEADER_BYTES + 8) % 8, 0);
    outer.append(&set(b"last", b""));
    let (records, stop) = outer.scan();
    assert_eq!((records.len(), stop.reason), (3, None));
    for offset in (start + 8..outer.starts[2]).step_by(8) {
        for lsn in [0, 1, 2] {
            assert_no_record(&outer.header, offset, &outer.bytes, lsn);
        }
    }
    assert_eq!(
        find_mark(&outer.header, PAGE as u64, &outer.bytes[PAGE..]),
        None
    );
}

#[test]
fn a_damaged_length_does_not_lead_into_a_value() {
    let inner = filled(Image::log(9, 0x03));
    let mut outer = Image::log(9, 0x03);
    // Key and value are such that the value starts at a multiple of 8.
    let start = outer.append(&set(b"8 bytes.", &inner.bytes[PAGE..]));
    let value_at = start + HEADER_BYTES + 8;
    assert_eq!(value_at % 8, 0);
    for value_len in 0..inner.bytes.len() as u32 - PAGE as u32 {
        let mut bytes = outer.bytes.clone();
        bytes[start + 20..start + 24].copy_from_slice(&value_len.to_le_bytes());
        let (records, stop) = scan_at_once(Scanner::new(&outer.header, outer.len(), 1), &bytes);
        assert_eq!(records.len(), 1, "value length {value_len}");
        assert_eq!(stop.offset, start as u64);
        // Even if `place` were right by chance, `content` is not.
        let mut rest = [0; 20];
        rest.copy_from_slice(&bytes[start + 4..start + 24]);
        let place = outer.key().place(start as u64, &rest);
        bytes[start..start + 4].copy_from_slice(&place.to_le_bytes());
        let (records, stop) = scan_at_once(Scanner::new(&outer.header, outer.len(), 1), &bytes);
        assert_eq!(records.len(), 1, "value length {value_len}");
        assert!(
            matches!(stop.reason, Some(DecodeError::BadContent { .. })),
            "{stop:?}"
        );
    }
}

#[test]
fn a_record_at_another_offset_is_refused() {
    let image = filled(Image::log(9, 0x04));
    let (good, _) = image.scan();
    for record in &good {
        let from = record.offset as usize;
        let bytes = &image.bytes[from..from + record.size as usize];
        for to in (PAGE..2 * PAGE).step_by(8) {
            let mut file = image.bytes[..PAGE].to_vec();
            file.resize(to, 0);
            file.extend_from_slice(bytes);
            if to != from {
                assert_no_record(&image.header, to, &file, record.lsn);
            }
        }
    }
}

#[test]
fn a_record_twice_in_a_row_counts_once() {
    let image = filled(Image::log(9, 0x04));
    let last = *image.starts.last().unwrap();
    let file = [&image.bytes[..], &image.bytes[last..]].concat();
    let (good, _) = image.scan();
    let scanner = Scanner::new(&image.header, file.len() as u64, 1);
    let (records, stop) = scan_at_once(scanner, &file);
    assert_eq!((records, stop.offset), (good, image.len()));
}

#[test]
fn a_record_of_another_segment_is_refused_even_with_the_same_salt() {
    let image = filled(Image::log(9, 0x05));
    for (id, salt) in [(10, 0x05), (9, 0x06)] {
        let other = SegmentHeader {
            kind: SegmentKind::Log,
            id,
            salt: [salt; 16],
        };
        for start in &image.starts {
            assert_no_record(&other, *start, &image.bytes, 0);
        }
        assert_eq!(find_mark(&other, PAGE as u64, &image.bytes[PAGE..]), None);
    }
}
