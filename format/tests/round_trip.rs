//! What is encoded is what is decoded: records of every kind and framing, segment and manifest
//! headers, every manifest edit, hint files, file names.

mod common;

use common::{Data, Image, ManifestImage, expiring, read_manifest, set, tombstone};
use kvs_format::crc::{PlaceKey, crc32};
use kvs_format::error::DecodeError;
use kvs_format::hash::{Fingerprint, HashKey, SHARD_BITS_MAX};
use kvs_format::hint::{
    ENTRY_BYTES, ExpiryHistogram, HintEntry, HintHeader, HintRef, TRAILER_BYTES, file_bytes,
    hash_check,
};
use kvs_format::manifest::{
    AddBody, CleanBody, CutBody, Edit, Edits, ManifestHeader, MergedBody, OpenedBody, PoisonBody,
    SealBody, StoreBody, Tail, decode_edit,
};
use kvs_format::name::{self, Name};
use kvs_format::record::{Draft, Framing, HEADER_BYTES, Kind, decode, encode_into};
use kvs_format::segment::{SegmentHeader, SegmentKind};
use kvs_format::system::{BatchHead, Footer, Link, Mark};
use kvs_format::{KEY_BYTES_MAX, aligned};
use proptest::collection::vec;
use proptest::prelude::*;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

fn any_data() -> impl Strategy<Value = Data> {
    let bytes = || vec(any::<u8>(), 0..40);
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| set(&key, &value)),
        (bytes(), bytes(), any::<u64>()).prop_map(|(key, value, at)| expiring(&key, &value, at)),
        bytes().prop_map(|key| tombstone(&key)),
    ]
}

fn any_framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::Single),
        Just(Framing::InBatch),
        Just(Framing::BatchEnd)
    ]
}

fn encoded(key: &PlaceKey, offset: u64, lsn: u64, framing: Framing, data: &Data) -> Vec<u8> {
    // Not zero at first: padding must be written.
    let mut out = vec![0xEE; data.size() as usize];
    let size = encode_into(
        &mut out,
        key,
        offset,
        lsn,
        framing,
        data.kind,
        data.expires_at,
        &data.key,
        &data.value,
    )
    .unwrap();
    assert_eq!(size, out.len());
    out
}

proptest! {
    #[test]
    fn a_data_record_comes_back_as_it_was_written(
        salt in any::<[u8; 16]>(),
        id in any::<u64>(),
        granule in 0..u64::MAX / 16,
        lsn in 1..=u64::MAX,
        framing in any_framing(),
        data in any_data(),
        behind in vec(any::<u8>(), 0..32),
    ) {
        let (key, offset) = (PlaceKey::of_segment(&salt, id), granule * 8);
        let mut bytes = encoded(&key, offset, lsn, framing, &data);
        let size = bytes.len() as u64;
        bytes.extend_from_slice(&behind);
        let record = decode(&key, offset, &bytes).unwrap().unwrap();
        prop_assert_eq!(record.offset, offset);
        prop_assert_eq!(record.header.lsn, lsn);
        prop_assert_eq!(record.header.framing, framing);
        prop_assert_eq!(record.header.kind, data.kind);
        prop_assert_eq!(record.expires_at, data.expires_at);
        prop_assert_eq!(record.key, &data.key[..]);
        prop_assert_eq!(record.value, &data.value[..]);
        prop_assert_eq!(record.header.size(), size);
        prop_assert_eq!(size, aligned(record.header.unpadded()));
        let padding = &bytes[record.header.unpadded() as usize..size as usize];
        prop_assert!(padding.iter().all(|byte| *byte == 0), "padding {padding:?}");
    }

    #[test]
    fn a_moved_record_keeps_its_content_check_and_its_lsn(
        lsn in 1..=u64::MAX,
        data in any_data(),
        to in 512..1_000_000u64,
    ) {
        let (from_key, to_key) = (PlaceKey::of_segment(&[1; 16], 1), PlaceKey::of_segment(&[2; 16], 2));
        let bytes = encoded(&from_key, 4096, lsn, Framing::BatchEnd, &data);
        let old = decode(&from_key, 4096, &bytes).unwrap().unwrap();
        let draft = Draft::of_moved(&old);
        prop_assert_eq!(draft.size(), old.header.size());
        let (header, extension) = draft.place(&to_key, to * 8, lsn, Framing::Single);
        let mut moved = [&header[..], extension, &data.key, &data.value].concat();
        moved.resize(draft.size() as usize, 0);
        let new = decode(&to_key, to * 8, &moved).unwrap().unwrap();
        prop_assert_eq!(new.header.content, old.header.content);
        prop_assert_eq!((new.key, new.value, new.expires_at), (old.key, old.value, old.expires_at));
        prop_assert_eq!((new.header.lsn, new.header.framing), (lsn, Framing::Single));
    }

    #[test]
    fn a_segment_header_comes_back(
        log in any::<bool>(),
        id in any::<u64>(),
        salt in any::<[u8; 16]>(),
    ) {
        let kind = match log {
            true => SegmentKind::Log,
            false => SegmentKind::Merged,
        };
        let header = SegmentHeader { kind, id, salt };
        prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        prop_assert_eq!(&header.mark_salt()[..], &salt[..8]);
    }

    #[test]
    fn a_manifest_header_comes_back(store_id in any::<[u8; 16]>(), salt in any::<[u8; 16]>()) {
        let header = ManifestHeader { store_id, salt };
        prop_assert_eq!(ManifestHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn every_edit_comes_back(
        n in any::<[u64; 7]>(),
        salt in any::<[u8; 16]>(),
        shard_bits in 0..=SHARD_BITS_MAX,
        ids in vec(any::<u64>(), 0..5),
        outputs in vec(any::<[u8; 56]>(), 0..4),
        first_seq in 0..u64::MAX / 2,
    ) {
        let n = n.map(U64::new);
        let [id, length, end_lsn, next_lsn, min_lsn, max_lsn, records] = n;
        let ids: Vec<U64> = ids.into_iter().map(U64::new).collect();
        let mut merged = vec![MergedBody::new_zeroed(); outputs.len()];
        merged.as_mut_bytes().copy_from_slice(outputs.as_bytes());
        let edits = [
            Edit::Store(StoreBody { hash_key: salt, next_id: id, next_lsn, shard_bits, zero: [0; 7] }),
            Edit::Add(AddBody { id, salt, allocated: length }),
            Edit::Seal(SealBody { id, length, end_lsn, min_lsn, max_lsn, records }),
            Edit::Compact { outputs: &merged, inputs: &ids },
            Edit::Forget { ids: &ids },
            Edit::Opened(OpenedBody { id, allocated: length }),
            Edit::Clean(CleanBody { id, length, lsn: end_lsn }),
            Edit::Cut {
                cut: CutBody { id, end: length, end_lsn, next_lsn, min_lsn, max_lsn, records },
                dropped: &ids,
            },
            Edit::Poison(PoisonBody { durable_lsn: end_lsn }),
        ];
        let mut image = ManifestImage::new(1, 2);
        image.next_seq = first_seq;
        for edit in &edits {
            image.append(edit);
        }
        let (header, mut read) = Edits::new(&image.bytes).unwrap();
        prop_assert_eq!(header, image.header);
        for (i, edit) in edits.iter().enumerate() {
            let got = read.next().unwrap();
            prop_assert_eq!(got.edit, *edit);
            prop_assert_eq!(usize::from(got.edit.kind()), i + 1);
            prop_assert_eq!(got.seq, first_seq + i as u64);
            prop_assert_eq!(got.offset, image.starts[i] as u64);
            prop_assert_eq!(got.size, edit.encoded_bytes() as u64);
            let bytes = &image.bytes[image.starts[i]..];
            prop_assert_eq!(decode_edit(&header.place_key(), got.offset, bytes), Ok(got));
        }
        prop_assert_eq!(read.next(), None);
        prop_assert_eq!(read.tail(), Tail::Clean { end: image.bytes.len() as u64 });
    }

    #[test]
    fn a_hint_comes_back_with_entries_and_trailer(
        keys in vec((any::<[u64; 2]>(), 1..1000u64, 512..600u64, 3..20u64, 1..=3u8), 0..20),
        shard_bits in 0..=SHARD_BITS_MAX,
        first_ms in any::<u64>(),
        bucket_ms in any::<u64>(),
        bucket in any::<u64>(),
        which in 0..64usize,
    ) {
        let mut entries: Vec<HintEntry> = keys
            .iter()
            .map(|([lo, hi], lsn, granule, words, kind)| {
                let kind = Kind::from_byte(*kind).unwrap();
                let fingerprint = Fingerprint { lo: *lo, hi: *hi };
                let entry = HintEntry::new(fingerprint, *lsn, granule * 8, words * 8, kind);
                assert_eq!(entry.fingerprint(), fingerprint);
                assert_eq!((entry.lsn(), entry.offset(), entry.size()), (*lsn, granule * 8, words * 8));
                assert_eq!(entry.kind_byte(), kind as u8);
                assert_eq!(entry.is_tombstone(), kind == Kind::Tombstone);
                entry
            })
            .collect();
        entries.sort_by_key(|entry| entry.sort_key(shard_bits));
        entries.dedup_by_key(|entry| entry.sort_key(shard_bits));
        let mut expiry = ExpiryHistogram { first_ms, bucket_ms, ..ExpiryHistogram::EMPTY };
        expiry.bytes[which] = bucket;
        let header = hint_header(shard_bits, &entries);
        let bytes = hint_bytes(&header, &entries, &expiry);
        prop_assert_eq!(Some(bytes.len() as u64), file_bytes(header.count));
        let hint = HintRef::decode(&bytes).unwrap();
        prop_assert_eq!(hint.header, header);
        prop_assert_eq!(hint.entries, &entries[..]);
        prop_assert_eq!(hint.expiry, expiry);
        for entry in &entries {
            let fingerprint = entry.fingerprint();
            let same: Vec<_> = entries.iter().filter(|e| e.fingerprint() == fingerprint).copied().collect();
            prop_assert_eq!(hint.entries_of(fingerprint), &same[..]);
            let other = Fingerprint { hi: !fingerprint.hi, ..fingerprint };
            prop_assert_eq!(hint.contains(other), entries.iter().any(|e| e.fingerprint() == other));
        }
    }

    #[test]
    fn a_file_name_says_its_id(id in any::<u64>()) {
        let segment = name::segment(id);
        let hint = name::hint(id);
        prop_assert_eq!(segment.as_str(), format!("{id:016x}.seg"));
        prop_assert_eq!(hint.as_str(), format!("{id:016x}.hint"));
        prop_assert_eq!(name::parse(&segment), Some(Name::Segment(id)));
        prop_assert_eq!(name::parse(&hint), Some(Name::Hint(id)));
    }

    #[test]
    fn a_name_that_parses_is_the_name_that_is_written(text in "([0-9a-f]{15,17}|[0-9a-fA-F]{16})\\.(seg|hint|sg)") {
        match name::parse(&text) {
            Some(Name::Segment(id)) => prop_assert_eq!(name::segment(id).to_string(), text),
            Some(Name::Hint(id)) => prop_assert_eq!(name::hint(id).to_string(), text),
            Some(other) => prop_assert!(false, "{text} is {other:?}"),
            None => {
                let digits = text.split('.').next().unwrap();
                let ours = digits.len() == 16
                    && digits.bytes().all(|b| b"0123456789abcdef".contains(&b))
                    && !text.ends_with(".sg");
                prop_assert!(!ours, "{text} is ours");
            }
        }
    }
}

fn hint_header(shard_bits: u8, entries: &[HintEntry]) -> HintHeader {
    HintHeader {
        shard_bits,
        segment_id: 7,
        salt: [9; 16],
        covered: 8192,
        end_lsn: 1001,
        last_offset: 8152,
        last_place: 0xABCD_EF01,
        count: entries.len() as u64,
        hash_check: hash_check(&HashKey::from_bytes(&[3; 16])),
        min_lsn: entries.iter().map(HintEntry::lsn).min().unwrap_or(0),
        max_lsn: entries.iter().map(HintEntry::lsn).max().unwrap_or(0),
    }
}

fn hint_bytes(header: &HintHeader, entries: &[HintEntry], expiry: &ExpiryHistogram) -> Vec<u8> {
    let mut out = header.encode().to_vec();
    out.extend_from_slice(entries.as_bytes());
    out.extend_from_slice(&expiry.encode());
    let crc = crc32(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

#[test]
fn system_records_come_back_with_their_payloads() {
    let mut image = Image::new(SegmentKind::Log, 5, [0x5A; 16], 0);
    image.link(4, 8192, 77);
    image.mark(77);
    image.batch(&[tombstone(b"k")]);
    image.footer();
    let key = image.key();
    let record = |i: usize| {
        let at = image.starts[i];
        decode(&key, at as u64, &image.bytes[at..])
            .unwrap()
            .unwrap()
    };
    let link = Link::of(&record(0)).unwrap();
    assert_eq!(
        [link.previous_id, link.previous_end, link.previous_lsn].map(U64::get),
        [4, 8192, 77]
    );
    let mark = Mark::of(&record(1)).unwrap();
    assert_eq!((mark.durable_lsn.get(), mark.salt), (77, [0x5A; 8]));
    let head = BatchHead::of(&record(2)).unwrap();
    assert_eq!((head.count.get(), head.bytes.get()), (1, 32));
    assert_eq!(Footer::of(&record(4)), Ok(image.summary()));
    assert_eq!(image.summary().payload_bytes.get(), 32);
    for (i, kind) in [(0, 6), (1, 5), (2, 4), (3, 3), (4, 7)] {
        let record = record(i);
        assert_eq!(record.header.kind as u8, kind);
        assert_eq!(Link::of(&record).is_ok(), kind == 6);
        assert_eq!(Mark::of(&record).is_ok(), kind == 5);
        assert_eq!(BatchHead::of(&record).is_ok(), kind == 4);
        assert_eq!(Footer::of(&record).is_ok(), kind == 7);
    }
}

#[test]
fn the_longest_key_is_stored_and_a_longer_one_refused() {
    assert_eq!(KEY_BYTES_MAX, 65_535);
    let key = PlaceKey::of_segment(&[0; 16], 1);
    let data = set(&vec![7; KEY_BYTES_MAX], b"v");
    let bytes = encoded(&key, 4096, 1, Framing::Single, &data);
    let record = decode(&key, 4096, &bytes).unwrap().unwrap();
    assert_eq!((record.key, record.value), (&data.key[..], &data.value[..]));
    let found = Draft::new(Kind::Set, None, &vec![7; KEY_BYTES_MAX + 1], b"").err();
    let allowed = KEY_BYTES_MAX as u64;
    let expected = DecodeError::BadLength {
        found: allowed + 1,
        allowed,
    };
    assert_eq!(found, Some(expected));
}

#[test]
fn an_expiry_time_makes_a_set_an_expiring_one() {
    let draft = Draft::new(Kind::Set, Some(9), b"k", b"v").unwrap();
    let key = PlaceKey::of_segment(&[0; 16], 1);
    let (header, extension) = draft.place(&key, 4096, 1, Framing::Single);
    assert_eq!(header[17], Kind::SetExpiring as u8);
    assert_eq!(extension, 9u64.to_le_bytes());
}

#[test]
fn zeros_are_the_end_and_less_than_a_header_of_anything_else_is_cut_off() {
    let key = PlaceKey::of_segment(&[0; 16], 1);
    for n in 0..64 {
        assert_eq!(
            decode(&key, 4096, &[0; 64][..n]),
            Ok(None),
            "{n} zero bytes"
        );
    }
    for n in 1..HEADER_BYTES {
        let mut bytes = [0; HEADER_BYTES];
        bytes[n - 1] = 1;
        let error = DecodeError::Truncated {
            need: 24,
            have: n as u64,
        };
        assert_eq!(decode(&key, 4096, &bytes[..n]), Err(error), "{n} bytes");
    }
}

#[test]
fn a_buffer_that_is_too_short_is_refused_and_not_written_beyond() {
    let key = PlaceKey::of_segment(&[0; 16], 1);
    for n in 0..32 {
        let mut out = vec![0xEE; n];
        let framing = Framing::Single;
        let result = encode_into(
            &mut out,
            &key,
            4096,
            1,
            framing,
            Kind::Set,
            None,
            b"k",
            b"v",
        );
        let have = n as u64;
        assert_eq!(result, Err(DecodeError::Truncated { need: 32, have }));
        let edit = Edit::Forget { ids: &[U64::ZERO] };
        assert!(edit.encode_into(&mut out, &key, 64, 1).is_err());
        assert!(out.iter().all(|byte| *byte == 0xEE));
    }
}

#[test]
fn names_that_are_not_ours_are_left_alone() {
    for text in [
        "00000000000000AB.seg",
        "00000000000000ab.SEG",
        "00000000000000ab.seg.tmp",
        "0000000000000ab.seg",
        "000000000000000ab.seg",
        "+000000000000001.seg",
        "00000000000000äb.seg",
        "00000000000000ab",
        "",
        "manifest",
        "MANIFEST.tmp2",
    ] {
        assert_eq!(name::parse(text), None, "{text}");
    }
    assert_eq!(name::parse("MANIFEST"), Some(Name::Manifest));
    assert_eq!(name::parse("MANIFEST.tmp"), Some(Name::ManifestTmp));
    assert_eq!(name::parse("RESERVE"), Some(Name::Reserve));
    assert_eq!(
        name::parse("00000000000000ab.seg"),
        Some(Name::Segment(0xAB))
    );
}

#[test]
fn a_manifest_without_edits_ends_behind_its_header() {
    let image = ManifestImage::new(1, 2);
    assert_eq!(read_manifest(&image.bytes), (0, Tail::Clean { end: 64 }));
}

#[test]
fn a_hint_entry_and_trailer_have_the_sizes_of_the_specification() {
    assert_eq!(ENTRY_BYTES, 32);
    assert_eq!(TRAILER_BYTES, 532);
    assert_eq!(file_bytes(0), Some(660));
    assert_eq!(file_bytes(u64::MAX), None);
}
