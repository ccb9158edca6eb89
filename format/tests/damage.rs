//! Damaged bytes are refused, and no bytes make a decoder panic.
//!
//! Method: flip every single bit and cut at every length of good bytes; feed arbitrary bytes, and
//! arbitrary fields under checks that hold. Not covered by any check, hence not refused: the
//! padding behind the body of a record or an edit, and the zero rest of a segment's first page.
//! Bits of manifest edits are flipped in `manifest.rs`.

mod common;

use common::{Image, ManifestImage, PAGE, expiring, scan_at_once, set, tombstone};
use kvs_format::crc::{PlaceKey, crc32};
use kvs_format::error::DecodeError;
use kvs_format::hash::Fingerprint;
use kvs_format::hint::{ExpiryHistogram, HintEntry, HintHeader, HintRef};
use kvs_format::manifest::{Edits, ManifestHeader, decode_edit};
use kvs_format::record::{HEADER_BYTES, Kind, RecordRef, decode};
use kvs_format::scan::{Scanner, find_mark};
use kvs_format::segment::{SegmentHeader, SegmentKind};
use kvs_format::{name, record};
use proptest::collection::vec;
use proptest::prelude::*;
use zerocopy::IntoBytes;

/// A log segment with every kind of record; a body of every length modulo 8.
fn log() -> Image {
    let mut image = Image::log(42, 0xA1);
    image.append(&set(b"", b""));
    image.append(&set(b"key", b"value"));
    image.append(&expiring(b"k", b"some value", 1_700_000_000_000));
    image.append(&tombstone(b"key"));
    image.batch(&[set(b"in", b"batch"), expiring(b"", b"", 0), tombstone(b"x")]);
    image.mark(5);
    image.footer();
    image
}

fn hint() -> Vec<u8> {
    let fingerprint = |lo| Fingerprint { lo, hi: 1 };
    let entries = [
        HintEntry::new(fingerprint(1), 3, 4144, 32, Kind::Set),
        HintEntry::new(fingerprint(2), 4, 4176, 40, Kind::SetExpiring),
        HintEntry::new(fingerprint(2), 2, 4216, 24, Kind::Tombstone),
    ];
    hint_with(&entries, 2, 4, 4240)
}

fn hint_with(entries: &[HintEntry], min_lsn: u64, max_lsn: u64, covered: u64) -> Vec<u8> {
    let header = HintHeader {
        shard_bits: 4,
        segment_id: 7,
        salt: [8; 16],
        covered,
        end_lsn: 4,
        last_offset: 4216,
        last_place: 0x0123_4567,
        count: entries.len() as u64,
        hash_check: 99,
        min_lsn,
        max_lsn,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(entries.as_bytes());
    bytes.extend_from_slice(&ExpiryHistogram::EMPTY.encode());
    seal_hint(bytes)
}

fn seal_hint(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn each_flipped_bit(bytes: &[u8], mut check: impl FnMut(&[u8], usize)) {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            check(&bytes, at);
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn every_flipped_bit_of_a_segment_header_is_refused() {
    for image in [Image::log(42, 0xA1), Image::merged(43, 0)] {
        each_flipped_bit(&image.bytes[..64], |bytes, at| {
            assert!(SegmentHeader::decode(bytes).is_err(), "byte {at}");
        });
    }
}

#[test]
fn every_flipped_bit_of_a_manifest_header_is_refused() {
    each_flipped_bit(&ManifestImage::new(1, 2).bytes, |bytes, at| {
        assert!(ManifestHeader::decode(bytes).is_err(), "byte {at}");
        assert!(Edits::new(bytes).is_err(), "byte {at}");
    });
}

#[test]
fn every_flipped_bit_of_a_hint_is_refused() {
    assert!(HintRef::decode(&hint()).is_ok());
    each_flipped_bit(&hint(), |bytes, at| {
        assert!(HintRef::decode(bytes).is_err(), "byte {at}");
    });
}

#[test]
fn every_flipped_bit_of_a_record_is_refused_and_padding_is_not_looked_at() {
    let image = log();
    for start in &image.starts {
        let offset = *start as u64;
        let good = decode(&image.key(), offset, &image.bytes[*start..])
            .unwrap()
            .unwrap();
        let body_end = good.header.unpadded() as usize;
        let size = good.header.size() as usize;
        let elsewhere = image
            .key()
            .holds(offset + 8, &image.bytes[*start..], body_end);
        assert!(!elsewhere, "record at {offset}");
        each_flipped_bit(&image.bytes[*start..*start + size], |bytes, at| {
            let result = decode(&image.key(), offset, bytes);
            match at < body_end {
                true => assert!(result.is_err(), "record at {offset}, byte {at}: {result:?}"),
                false => assert_eq!(result, Ok(Some(good)), "padding byte {at}"),
            }
            // A damaged header is refused as a whole: by `place`, before its lengths are used.
            let place = matches!(result, Err(DecodeError::BadPlace { .. }));
            assert_eq!(place, at < HEADER_BYTES, "record at {offset}, byte {at}");
            let holds = image.key().holds(offset, bytes, body_end);
            assert_eq!(holds, at >= body_end, "record at {offset}, byte {at}");
        });
    }
}

#[test]
fn what_is_too_short_for_a_header_has_no_checks_that_hold() {
    let image = log();
    let start = image.starts[0];
    for len in 0..HEADER_BYTES {
        let (key, offset) = (image.key(), start as u64);
        assert!(!key.holds(offset, &image.bytes[start..], len));
        assert!(!key.holds(offset, &image.bytes[start..start + len], len));
        assert!(!key.holds(offset, &image.bytes[start..start + len], HEADER_BYTES));
    }
}

#[test]
fn a_flipped_bit_in_a_segment_ends_the_scan_there() {
    let image = log();
    let (good, _) = image.scan();
    let batch = image.starts[5]..=image.starts[8];
    each_flipped_bit(&image.bytes, |bytes, at| {
        if !(64..PAGE).contains(&at) && at >= 64 {
            let (records, stop) = scan_at_once(Scanner::new(&image.header, image.len(), 1), bytes);
            let hit = good
                .iter()
                .rposition(|record| record.offset <= at as u64)
                .unwrap();
            let body = good[hit].key.len() + good[hit].value.len();
            let body = body + HEADER_BYTES + good[hit].expires_at.map_or(0, |_| 8);
            if at - good[hit].offset as usize >= body {
                assert_eq!((stop.reason, &records), (None, &good), "padding byte {at}");
                return;
            }
            assert_eq!(records, good[..hit], "byte {at}");
            assert!(stop.reason.is_some(), "byte {at}");
            assert_eq!(stop.rejected_at, good[hit].offset, "byte {at}");
            let head_was_read = batch.contains(&(good[hit].offset as usize)) && hit > 5;
            let counts_to = match head_was_read {
                true => &good[5],
                false => &good[hit],
            };
            assert_eq!(
                (stop.offset, stop.next_lsn),
                (counts_to.offset, counts_to.lsn),
                "{at}"
            );
        }
    });
}

#[test]
fn a_segment_cut_at_any_length_keeps_the_whole_records_before_the_cut() {
    let image = log();
    let (good, _) = image.scan();
    for cut in 0..=image.bytes.len() {
        assert_eq!(
            SegmentHeader::decode(&image.bytes[..cut]).is_ok(),
            cut >= 64
        );
        if cut < PAGE {
            continue;
        }
        let scanner = Scanner::new(&image.header, cut as u64, 0);
        let (records, stop) = scan_at_once(scanner, &image.bytes[..cut]);
        let whole = good
            .iter()
            .filter(|record| record.offset + record.size <= cut as u64);
        // A head that announces more than there is room for is refused: the batch is lost whole.
        let counts = match whole.count() {
            6..9 => 5,
            whole => whole,
        };
        assert_eq!(records, good[..counts], "cut at {cut}");
        let end = good.get(counts).map_or(image.len(), |record| record.offset);
        assert_eq!(stop.offset, end, "cut at {cut}");
        let boundary = cut as u64 == end;
        // A shorter rest may happen to be zero.
        if boundary || cut as u64 - end >= 24 {
            assert_eq!(stop.reason.is_none(), boundary, "cut at {cut}");
        }
    }
}

#[test]
fn a_record_header_or_hint_cut_at_any_length_is_refused() {
    let image = log();
    for start in &image.starts {
        let offset = *start as u64;
        let record = decode(&image.key(), offset, &image.bytes[*start..])
            .unwrap()
            .unwrap();
        for cut in 4..record.header.size() as usize {
            let result = decode(&image.key(), offset, &image.bytes[*start..*start + cut]);
            assert!(
                matches!(result, Err(DecodeError::Truncated { .. })),
                "cut at {cut}"
            );
        }
    }
    for cut in 0..64 {
        assert!(ManifestHeader::decode(&ManifestImage::new(1, 2).bytes[..cut]).is_err());
    }
    let hint = hint();
    for cut in 0..hint.len() {
        assert!(HintRef::decode(&hint[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [&hint[..], &[0]].concat();
    assert!(HintRef::decode(&longer).is_err());
    let longer = [&hint[..hint.len() - 4], &[0; 8][..]].concat();
    let longer = seal_hint(longer);
    let error = HintRef::decode(&longer).unwrap_err();
    assert!(matches!(error, DecodeError::BadLength { .. }), "{error:?}");
}

#[test]
fn a_header_of_another_version_is_refused_by_its_number() {
    let reseal = |bytes: &[u8], version: u16| {
        let mut bytes = bytes[..64].to_vec();
        bytes[8..10].copy_from_slice(&version.to_le_bytes());
        let crc = crc32(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    for found in [0, 2, 0xFFFF] {
        let error = DecodeError::BadVersion { found };
        let segment = reseal(&Image::log(1, 1).bytes, found);
        assert_eq!(SegmentHeader::decode(&segment), Err(error));
        let manifest = reseal(&ManifestImage::new(1, 2).bytes, found);
        assert_eq!(ManifestHeader::decode(&manifest), Err(error));
        let mut bytes = hint();
        bytes.truncate(bytes.len() - 4);
        bytes[8..10].copy_from_slice(&found.to_le_bytes());
        assert_eq!(HintRef::decode(&seal_hint(bytes)).unwrap_err(), error);
    }
}

#[test]
fn reserved_bytes_that_are_not_zero_are_refused_under_a_right_check() {
    let segment = Image::log(1, 1).bytes;
    let manifest = ManifestImage::new(1, 2).bytes;
    for at in 0..60 {
        let reseal = |bytes: &[u8]| {
            let mut bytes = bytes[..64].to_vec();
            bytes[at] ^= 0x80;
            let crc = crc32(&bytes[..60]);
            bytes[60..].copy_from_slice(&crc.to_le_bytes());
            bytes
        };
        let free = (16..40).contains(&at);
        assert_eq!(
            SegmentHeader::decode(&reseal(&segment)).is_ok(),
            free,
            "byte {at}"
        );
        let free = (16..48).contains(&at);
        assert_eq!(
            ManifestHeader::decode(&reseal(&manifest)).is_ok(),
            free,
            "byte {at}"
        );
    }
    for at in (11..16).chain(68..72).chain(104..128) {
        let mut bytes = hint();
        bytes.truncate(bytes.len() - 4);
        bytes[at] = 1;
        let error = HintRef::decode(&seal_hint(bytes)).unwrap_err();
        assert_eq!(error, DecodeError::NotZero, "byte {at}");
    }
}

#[test]
fn shard_bits_out_of_range_are_refused_under_a_right_check() {
    for shard_bits in 0..=255 {
        let mut bytes = hint_with(&[], 0, 0, 4096);
        bytes.truncate(bytes.len() - 4);
        bytes[10] = shard_bits;
        let accepted = HintRef::decode(&seal_hint(bytes)).is_ok();
        assert_eq!(accepted, shard_bits <= 10, "{shard_bits} shard bits");
    }
}

#[test]
fn hint_entries_out_of_order_or_range_are_refused_under_a_right_check() {
    let entry = |lo, lsn, offset, size, kind| {
        HintEntry::new(Fingerprint { lo, hi: 0 }, lsn, offset, size, kind)
    };
    let good = entry(5, 10, 4144, 32, Kind::Set);
    let check = |name: &str, entries: &[HintEntry], bad: Option<u64>| {
        let bytes = hint_with(entries, 5, 20, 4240);
        let expected = bad.map(|index| DecodeError::BadEntry { index });
        assert_eq!(HintRef::decode(&bytes).err(), expected, "{name}");
    };
    check("none", &[], None);
    check("one", &[good], None);
    check(
        "older behind newer",
        &[good, entry(5, 9, 4176, 24, Kind::Tombstone)],
        None,
    );
    let twin = entry(5, 10, 4176, 32, Kind::Set);
    check("of equal LSNs, lower offset behind", &[twin, good], None);
    check(
        "of equal LSNs, higher offset behind",
        &[good, twin],
        Some(1),
    );
    check("up to the end", &[entry(5, 10, 4216, 24, Kind::Set)], None);
    check(
        "newer behind older",
        &[good, entry(5, 11, 4176, 24, Kind::Set)],
        Some(1),
    );
    check("twice", &[good, good], Some(1));
    check(
        "smaller hash behind",
        &[good, entry(4, 10, 4176, 24, Kind::Set)],
        Some(1),
    );
    check(
        "shards in order",
        &[
            entry(9, 9, 4144, 24, Kind::Set),
            entry(1 << 50, 8, 4176, 24, Kind::Set),
        ],
        None,
    );
    check(
        "shards not in order",
        &[
            entry(1 << 50, 8, 4176, 24, Kind::Set),
            entry(1 << 60, 9, 4144, 24, Kind::Set),
        ],
        Some(1),
    );
    check(
        "in the first page",
        &[entry(5, 10, 4088, 32, Kind::Set)],
        Some(0),
    );
    check(
        "beyond the end",
        &[entry(5, 10, 4224, 24, Kind::Set)],
        Some(0),
    );
    check(
        "shorter than a header",
        &[entry(5, 10, 4144, 16, Kind::Set)],
        Some(0),
    );
    check(
        "system record",
        &[entry(5, 10, 4144, 40, Kind::Mark)],
        Some(0),
    );
    check("LSN too low", &[entry(5, 4, 4144, 32, Kind::Set)], Some(0));
    check(
        "LSN too high",
        &[entry(5, 21, 4144, 32, Kind::Set)],
        Some(0),
    );
    let zero_lsn = hint_with(&[entry(5, 0, 4144, 32, Kind::Set)], 0, 20, 4240);
    assert!(HintRef::decode(&zero_lsn).is_err());
}

/// Every decoder and scanner over `bytes`; it is enough that they return.
fn decode_everything(bytes: &[u8]) {
    let header = SegmentHeader {
        kind: SegmentKind::Log,
        id: 42,
        salt: [0xA1; 16],
    };
    let merged = SegmentHeader {
        kind: SegmentKind::Merged,
        ..header
    };
    let _ = SegmentHeader::decode(bytes);
    let _ = ManifestHeader::decode(bytes);
    let _ = HintRef::decode(bytes);
    let _ = decode_edit(&header.place_key(), 64, bytes);
    let _ = find_mark(&header, 4096, bytes);
    if let Ok((_, mut edits)) = Edits::new(bytes) {
        let _ = edits.tail();
        while edits.next().is_some() {}
        let _ = edits.tail();
    }
    let check = |record: RecordRef<'_>, bytes: &[u8]| {
        assert!(record.header.size() <= bytes.len() as u64);
    };
    if let Ok(Some(record)) = decode(&header.place_key(), 4096, bytes) {
        check(record, bytes);
    }
    for segment in [header, merged] {
        for (start, lsn) in [(4096, 0), (4096, 1), (8192, 0), (8192, 7)] {
            let limit = start + bytes.len() as u64;
            let file = [&vec![0; start as usize], bytes].concat();
            let (records, stop) = scan_at_once(Scanner::resume(&segment, start, limit, lsn), &file);
            assert!(stop.offset <= stop.rejected_at && stop.rejected_at <= limit);
            assert!(
                records
                    .iter()
                    .all(|record| record.offset + record.size <= limit)
            );
        }
    }
}

/// A record whose checks hold at `offset` although its fields are anything.
fn checked_record(offset: u64, fields: &[u8; 16], body: &[u8]) -> Vec<u8> {
    let key = PlaceKey::of_segment(&[0xA1; 16], 42);
    let mut record = vec![0; 8];
    record.extend_from_slice(fields);
    record.extend_from_slice(body);
    let kind_and_lengths_say = record::HEADER_BYTES
        + usize::from(record[17] == 2) * 8
        + usize::from(u16::from_le_bytes([record[18], record[19]]))
        + u32::from_le_bytes([record[20], record[21], record[22], record[23]]) as usize;
    let end = kind_and_lengths_say.min(record.len());
    let content = crc32(&record[17..end]);
    record[4..8].copy_from_slice(&content.to_le_bytes());
    let mut rest = [0; 20];
    rest.copy_from_slice(&record[4..24]);
    record[..4].copy_from_slice(&key.place(offset, &rest).to_le_bytes());
    record
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..800)) {
        decode_everything(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_right_magic_never_panic(
        which in 0..3usize,
        rest in vec(any::<u8>(), 0..800),
    ) {
        let magic: &[u8] = [b"kvs-seg\0", b"kvs-man\0", b"kvs-hnt\0"][which];
        let mut bytes = [magic, &[1, 0], &rest].concat();
        decode_everything(&bytes);
        if let Some(head) = bytes.first_chunk_mut::<64>() {
            let crc = crc32(&head[..60]);
            head[60..].copy_from_slice(&crc.to_le_bytes());
        }
        decode_everything(&bytes);
    }

    #[test]
    fn arbitrary_fields_under_right_checks_never_panic(
        lsn in prop_oneof![0..3u64, any::<u64>()],
        framing in prop_oneof![0..3u8, any::<u8>()],
        kind in prop_oneof![0..9u8, any::<u8>()],
        key_len in prop_oneof![0..40u16, any::<u16>()],
        value_len in prop_oneof![0..40u32, any::<u32>()],
        at_start in any::<bool>(),
        body in vec(any::<u8>(), 0..120),
    ) {
        let mut fields = [0; 16];
        fields[..8].copy_from_slice(&lsn.to_le_bytes());
        fields[8..10].copy_from_slice(&[framing, kind]);
        fields[10..12].copy_from_slice(&key_len.to_le_bytes());
        fields[12..].copy_from_slice(&value_len.to_le_bytes());
        let offset = if at_start { 4096 } else { 8192 };
        decode_everything(&checked_record(offset, &fields, &body));
    }

    #[test]
    fn arbitrary_hint_fields_under_a_right_check_never_panic(
        head in vec(any::<u8>(), 54),
        entries in vec(any::<[u8; 32]>(), 0..6),
        shard_bits in 0..12u8,
    ) {
        let mut bytes = hint_with(&[], 0, 0, 0);
        bytes.truncate(128);
        bytes[10] = shard_bits;
        bytes[16..68].copy_from_slice(&head[..52]);
        bytes[72..80].copy_from_slice(&(entries.len() as u64).to_le_bytes());
        bytes[96..104].fill(0xFF);
        bytes.extend_from_slice(entries.as_bytes());
        bytes.extend_from_slice(&[0; 528]);
        decode_everything(&seal_hint(bytes));
    }

    #[test]
    fn arbitrary_edits_under_a_right_check_never_panic(
        kind in 0..11u8,
        seq in any::<u64>(),
        body in vec(prop_oneof![0..3u8, any::<u8>()], 0..160),
        garbage in vec(any::<u8>(), 0..100),
    ) {
        let mut image = ManifestImage::new(1, 2);
        let mut edit = [&[0; 4][..], &(body.len() as u32).to_le_bytes(), &seq.to_le_bytes()].concat();
        edit.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
        edit.extend_from_slice(&body);
        let crc = image.header.place_key().edit(64, &edit[4..]);
        edit[..4].copy_from_slice(&crc.to_le_bytes());
        image.bytes.extend_from_slice(&edit);
        decode_everything(&image.bytes);
        image.bytes.extend_from_slice(&garbage);
        decode_everything(&image.bytes);
    }

    #[test]
    fn an_arbitrary_name_never_panics(text in ".{0,30}") {
        let _ = name::parse(&text);
    }
}
