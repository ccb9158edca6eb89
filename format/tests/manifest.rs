//! An edit is synced before the next is written: only the last one can be unfinished. Method: take
//! a good manifest, damage it at every byte or bit, read it, compare with what must be left.

mod common;

use common::{ManifestImage, read_manifest};
use kvs_format::error::DecodeError;
use kvs_format::manifest::{
    AddBody, CleanBody, CutBody, Edit, Edits, MergedBody, OpenedBody, PoisonBody, SealBody,
    StoreBody, Tail,
};
use zerocopy::byteorder::little_endian::U64;

fn n(number: u64) -> U64 {
    U64::new(number)
}

fn store(shard_bits: u8) -> Edit<'static> {
    Edit::Store(StoreBody {
        hash_key: [3; 16],
        next_id: n(1),
        next_lsn: n(1),
        shard_bits,
        zero: [0; 7],
    })
}

const MERGED: MergedBody = MergedBody {
    id: U64::from_bytes([4, 0, 0, 0, 0, 0, 0, 0]),
    salt: [4; 16],
    length: U64::ZERO,
    min_lsn: U64::ZERO,
    max_lsn: U64::ZERO,
    records: U64::ZERO,
};

/// One edit of every kind.
fn every_edit() -> [Edit<'static>; 9] {
    const IDS: &[U64] = &[
        U64::from_bytes([1, 0, 0, 0, 0, 0, 0, 0]),
        U64::from_bytes([2, 0, 0, 0, 0, 0, 0, 0]),
    ];
    [
        store(2),
        Edit::Add(AddBody {
            id: n(1),
            salt: [1; 16],
            allocated: n(65_536),
        }),
        Edit::Seal(SealBody {
            id: n(1),
            length: n(5_000),
            end_lsn: n(9),
            min_lsn: n(2),
            max_lsn: n(8),
            records: n(7),
        }),
        Edit::Compact {
            outputs: &[MERGED, MERGED],
            inputs: IDS,
        },
        Edit::Forget { ids: IDS },
        Edit::Opened(OpenedBody {
            id: n(3),
            allocated: n(65_536),
        }),
        Edit::Clean(CleanBody {
            id: n(3),
            length: n(4_144),
            lsn: n(10),
        }),
        Edit::Cut {
            cut: CutBody {
                id: n(3),
                end: n(4_096),
                end_lsn: n(9),
                next_lsn: n(1_009),
                min_lsn: n(0),
                max_lsn: n(0),
                records: n(0),
            },
            dropped: IDS,
        },
        Edit::Poison(PoisonBody { durable_lsn: n(9) }),
    ]
}

fn whole(edits: &[Edit<'_>]) -> ManifestImage {
    let mut image = ManifestImage::new(0x51, 0x52);
    for edit in edits {
        image.append(edit);
    }
    image
}

#[test]
fn a_cut_at_any_byte_loses_only_the_edit_it_cuts() {
    let image = whole(&every_edit());
    for cut in 64..=image.bytes.len() {
        let edits = image.starts.iter().filter(|start| **start < cut).count();
        let boundary = cut == 64 || cut == image.bytes.len() || image.starts.contains(&cut);
        let (whole, end) = match boundary {
            true => (edits, cut),
            false => (edits - 1, image.starts[edits - 1]),
        };
        let end = end as u64;
        let expected = match boundary {
            true => Tail::Clean { end },
            false => Tail::Torn { end },
        };
        assert_eq!(
            read_manifest(&image.bytes[..cut]),
            (whole, expected),
            "{cut}"
        );
        // The same with the file already longer, as after a crash that kept the length.
        let mut longer = image.bytes[..cut].to_vec();
        longer.resize(image.bytes.len() + 64, 0);
        let (count, tail) = read_manifest(&longer);
        // Bytes that were zero anyway are not missed.
        let same = longer[..image.bytes.len()] == image.bytes[..];
        if same || boundary {
            let (count_there, end) = match same {
                true => (image.starts.len(), image.bytes.len() as u64),
                false => (whole, end),
            };
            assert_eq!((count, tail), (count_there, Tail::Clean { end }), "{cut}");
        } else if count == whole {
            let blank = longer[end as usize..].iter().all(|byte| *byte == 0);
            let expected = match blank {
                true => Tail::Clean { end },
                false => Tail::Torn { end },
            };
            assert_eq!(tail, expected, "{cut}");
        } else {
            // Only zeros of the cut edit were lost.
            assert_eq!(count, whole + 1, "{cut}");
            assert!(image.bytes[cut..][..8].contains(&0), "{cut}");
        }
    }
}

#[test]
fn a_flipped_bit_in_an_earlier_edit_is_damage_there() {
    let image = whole(&every_edit());
    let last = *image.starts.last().unwrap();
    for at in 64..last {
        for bit in 0..8 {
            let mut bytes = image.bytes.clone();
            bytes[at] ^= 1 << bit;
            let hit = image.starts.iter().rposition(|start| *start <= at).unwrap();
            let (count, tail) = read_manifest(&bytes);
            assert_eq!(count, hit, "byte {at} bit {bit}");
            let Tail::Damaged { offset, .. } = tail else {
                panic!("byte {at} bit {bit}: {tail:?}");
            };
            assert_eq!(offset, image.starts[hit] as u64, "byte {at} bit {bit}");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_edit_looks_torn_whatever_its_kind() {
    for edit in &every_edit() {
        let image = whole(&[store(2), *edit]);
        let end = image.starts[1] as u64;
        for at in image.starts[1]..image.bytes.len() {
            for bit in 0..8 {
                let mut bytes = image.bytes.clone();
                bytes[at] ^= 1 << bit;
                let expected = (1, Tail::Torn { end });
                assert_eq!(
                    read_manifest(&bytes),
                    expected,
                    "{edit:?} byte {at} bit {bit}"
                );
            }
        }
    }
}

#[test]
fn a_zeroed_edit_with_a_valid_one_behind_it_is_damage() {
    let image = whole(&every_edit());
    for hit in 0..image.starts.len() - 1 {
        let (from, to) = (image.starts[hit], image.starts[hit + 1]);
        let mut bytes = image.bytes.clone();
        bytes[from..to].fill(0);
        let (count, tail) = read_manifest(&bytes);
        let offset = from as u64;
        assert_eq!(count, hit);
        assert!(
            matches!(tail, Tail::Damaged { offset: at, .. } if at == offset),
            "edit {hit}: {tail:?}"
        );
    }
}

#[test]
fn damage_is_seen_over_a_distance_and_whatever_the_first_number_is() {
    for first_seq in [0, 1, 1_000_000, u64::MAX / 2] {
        let mut image = ManifestImage::new(0x51, 0x52);
        image.next_seq = first_seq;
        for edit in &every_edit() {
            image.append(edit);
        }
        for hit in 0..image.starts.len() - 1 {
            let last = *image.starts.last().unwrap();
            let mut bytes = image.bytes.clone();
            bytes[image.starts[hit]..last].fill(0xFF);
            let (count, tail) = read_manifest(&bytes);
            assert_eq!(count, hit);
            assert!(
                matches!(tail, Tail::Damaged { .. }),
                "first {first_seq}, edit {hit}: {tail:?}"
            );
        }
    }
}

#[test]
fn an_edit_with_the_wrong_number_does_not_count() {
    for (seq, damaged) in [(0, false), (1, false), (3, true), (4, true), (1_000, true)] {
        let mut image = whole(&[store(2)]);
        let end = image.bytes.len() as u64;
        image.append_with_seq(&every_edit()[1], seq);
        let (count, tail) = read_manifest(&image.bytes);
        assert_eq!(count, 1);
        let expected = match damaged {
            false => Tail::Torn { end },
            true => Tail::Damaged {
                offset: end,
                reason: DecodeError::BadLsn {
                    expected: 2,
                    found: seq,
                },
            },
        };
        assert_eq!(tail, expected, "number {seq}");
    }
}

#[test]
fn an_edit_of_another_manifest_or_another_offset_does_not_count() {
    let image = whole(&every_edit()[..2]);
    let at = image.starts[1];
    let other_store = ManifestImage::new(0x53, 0x52);
    let other_salt = ManifestImage::new(0x51, 0x53);
    for other in [other_store, other_salt] {
        let mut bytes = other.bytes.clone();
        bytes.extend_from_slice(&image.bytes[64..]);
        assert_eq!(read_manifest(&bytes), (0, Tail::Torn { end: 64 }));
    }
    // A copy of the last edit behind itself.
    let mut bytes = image.bytes.clone();
    bytes.extend_from_slice(&image.bytes[at..]);
    let end = image.bytes.len() as u64;
    assert_eq!(read_manifest(&bytes), (2, Tail::Torn { end }));
}

/// Encodes an edit with any kind byte and body, its check right.
fn raw_edit(image: &mut ManifestImage, kind: u8, zero: [u8; 7], body: &[u8]) {
    let start = image.bytes.len();
    let mut edit = vec![0; 4];
    edit.extend_from_slice(&(body.len() as u32).to_le_bytes());
    edit.extend_from_slice(&image.next_seq.to_le_bytes());
    edit.push(kind);
    edit.extend_from_slice(&zero);
    edit.extend_from_slice(body);
    let crc = image.header.place_key().edit(start as u64, &edit[4..]);
    edit[..4].copy_from_slice(&crc.to_le_bytes());
    edit.resize(edit.len().next_multiple_of(8), 0);
    image.bytes.extend_from_slice(&edit);
}

#[test]
fn a_body_of_a_length_that_its_kind_does_not_allow_is_refused() {
    for kind in 0..=255u8 {
        for len in 0..=160usize {
            let mut image = ManifestImage::new(1, 2);
            raw_edit(&mut image, kind, [0; 7], &vec![0; len]);
            let allowed = match kind {
                1 => len == 40,
                2 => len == 32,
                3 => len == 48,
                // Counts are zero here: only the counts themselves.
                4 => len == 8,
                5 => len % 8 == 0,
                6 => len == 16,
                7 => len == 24,
                8 => len >= 56 && len % 8 == 0,
                9 => len == 8,
                _ => false,
            };
            let (count, _) = read_manifest(&image.bytes);
            assert_eq!(count, usize::from(allowed), "kind {kind}, {len} bytes");
        }
    }
}

#[test]
fn a_compact_whose_counts_do_not_fit_its_body_is_refused() {
    for (outputs, inputs) in [
        (0u32, 0u32),
        (1, 0),
        (0, 7),
        (0, 8),
        (1, 1),
        (2, 0),
        (u32::MAX, 0),
    ] {
        let mut image = ManifestImage::new(1, 2);
        let mut body = vec![0; 8 + 56];
        body[..4].copy_from_slice(&outputs.to_le_bytes());
        body[4..8].copy_from_slice(&inputs.to_le_bytes());
        raw_edit(&mut image, 4, [0; 7], &body);
        let fits = matches!((outputs, inputs), (1, 0) | (0, 7));
        let (count, _) = read_manifest(&image.bytes);
        assert_eq!(
            count,
            usize::from(fits),
            "{outputs} outputs, {inputs} inputs"
        );
    }
}

#[test]
fn reserved_bytes_and_shard_bits_out_of_range_are_refused() {
    for at in 0..7 {
        let mut zero = [0; 7];
        zero[at] = 1;
        let mut image = ManifestImage::new(1, 2);
        raw_edit(&mut image, 9, zero, &[0; 8]);
        assert_eq!(read_manifest(&image.bytes).0, 0);
        let mut body = [0; 40];
        body[33 + at] = 1;
        let mut image = ManifestImage::new(1, 2);
        raw_edit(&mut image, 1, [0; 7], &body);
        assert_eq!(read_manifest(&image.bytes).0, 0);
    }
    for bits in [0, 10, 11, 255] {
        let image = whole(&[store(bits)]);
        let (_, mut edits) = Edits::new(&image.bytes).unwrap();
        assert_eq!(edits.next().is_some(), bits <= 10, "{bits} shard bits");
    }
}
