//! The scanner: how it is fed does not matter; what it refuses, and where it says reading stops.

mod common;

use common::{Data, Image, PAGE, expiring, scan_at_once, scan_byte_by_byte, set, tombstone};
use kvs_format::error::DecodeError;
use kvs_format::record::{Framing, Kind};
use kvs_format::scan::{Scanner, Stop, find_mark};
use kvs_format::segment::SegmentKind;
use kvs_format::system::MARK_RECORD_BYTES;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Put(Data),
    Batch(Vec<Data>),
    Mark,
}

fn any_data() -> impl Strategy<Value = Data> {
    let bytes = || vec(any::<u8>(), 0..20);
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| set(&key, &value)),
        (bytes(), bytes(), any::<u64>()).prop_map(|(key, value, at)| expiring(&key, &value, at)),
        bytes().prop_map(|key| tombstone(&key)),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any_data().prop_map(Op::Put),
        2 => vec(any_data(), 1..4).prop_map(Op::Batch),
        1 => Just(Op::Mark),
    ]
}

fn build(ops: &[Op], footer: bool) -> Image {
    let mut image = Image::log(3, 0x33);
    for op in ops {
        match op {
            Op::Put(data) => drop(image.append(data)),
            Op::Batch(records) => drop(image.batch(records)),
            Op::Mark => drop(image.mark(image.next_lsn - 1)),
        }
    }
    if footer {
        image.footer();
    }
    image
}

proptest! {
    #[test]
    fn fed_byte_by_byte_equals_fed_at_once(
        ops in vec(any_op(), 0..8),
        footer in any::<bool>(),
        behind in prop_oneof![vec(Just(0u8), 0..50), vec(any::<u8>(), 0..50)],
        cut in 0..100usize,
        flip in proptest::option::of(any::<prop::sample::Index>()),
        next_lsn in 0..2u64,
    ) {
        let image = build(&ops, footer);
        let mut file = image.bytes.clone();
        file.extend_from_slice(&behind);
        if let Some(index) = flip {
            let at = PAGE + index.index(file.len() - PAGE);
            file[at] ^= 0x10;
        }
        let limit = (file.len().saturating_sub(cut)).max(PAGE) as u64;
        let scanner = Scanner::new(&image.header, limit, next_lsn);
        let at_once = scan_at_once(scanner.clone(), &file);
        // More bytes than may be looked at, or no more: the same.
        let exact = scan_at_once(scanner.clone(), &file[..limit as usize]);
        let bytewise = scan_byte_by_byte(scanner, &file[..limit as usize]);
        prop_assert_eq!(&at_once, &exact);
        prop_assert_eq!(&at_once, &bytewise);
    }

    #[test]
    fn a_whole_segment_reads_as_it_was_written(ops in vec(any_op(), 0..8), footer in any::<bool>()) {
        let image = build(&ops, footer);
        let (records, stop) = image.scan();
        let starts: Vec<usize> = records.iter().map(|record| record.offset as usize).collect();
        prop_assert_eq!(&starts, &image.starts);
        prop_assert!(records.iter().zip(1..).all(|(record, lsn)| record.lsn == lsn));
        let data: Vec<Data> = records
            .iter()
            .filter(|record| record.kind.is_data())
            .map(|record| Data {
                kind: record.kind,
                expires_at: record.expires_at,
                key: record.key.clone(),
                value: record.value.clone(),
            })
            .collect();
        let written: Vec<Data> = ops
            .iter()
            .flat_map(|op| match op {
                Op::Put(data) => vec![data.clone()],
                Op::Batch(records) => records.clone(),
                Op::Mark => vec![],
            })
            .collect();
        prop_assert_eq!(data, written);
        let expected = Stop {
            offset: image.len(),
            next_lsn: image.next_lsn,
            rejected_at: image.len(),
            reason: None,
        };
        prop_assert_eq!(stop, expected);
    }

    #[test]
    fn a_scan_resumed_at_any_record_outside_a_batch_goes_on_the_same(ops in vec(any_op(), 1..8)) {
        let image = build(&ops, false);
        let (all, stop) = image.scan();
        for (i, record) in all.iter().enumerate().skip(1) {
            let inside = record.kind.is_data() && record.framing != Framing::Single;
            let scanner = Scanner::resume(&image.header, record.offset, image.len(), record.lsn);
            let (records, resumed) = scan_at_once(scanner, &image.bytes);
            match inside {
                true => prop_assert_eq!((records.len(), resumed.offset), (0, record.offset)),
                false => prop_assert_eq!((&records[..], resumed), (&all[i..], stop)),
            }
        }
    }
}

/// The scan finds `count` records, then refuses what stands at `at` for `reason`.
#[track_caller]
fn assert_refused(image: &Image, count: usize, at: usize, reason: DecodeError) {
    let (records, stop) = image.scan();
    assert_eq!(records.len(), count);
    assert_eq!(stop.reason, Some(reason));
    assert_eq!((stop.offset, stop.rejected_at), (at as u64, at as u64));
}

fn bad_kind(kind: Kind, framing: Framing) -> DecodeError {
    DecodeError::BadKind {
        kind: kind as u8,
        framing: framing as u8,
    }
}

/// A log segment with LINK and one record, for what comes behind.
fn two_records() -> Image {
    let mut image = Image::log(3, 0x33);
    image.append(&set(b"k", b"v"));
    image
}

#[test]
fn zeros_or_the_limit_are_the_clean_end() {
    let mut image = two_records();
    let end = image.len();
    for zeros in 0..64 {
        let expected = Stop {
            offset: end,
            next_lsn: 3,
            rejected_at: end,
            reason: None,
        };
        assert_eq!(image.scan().1, expected, "{zeros} zero bytes behind");
        image.bytes.push(0);
    }
}

#[test]
fn a_rest_too_short_for_a_header_must_be_zero() {
    for rest in 1..24 {
        let mut image = two_records();
        let end = image.bytes.len();
        image.bytes.resize(end + rest, 0);
        *image.bytes.last_mut().unwrap() = 1;
        let have = rest as u64;
        assert_refused(&image, 2, end, DecodeError::Truncated { need: 24, have });
    }
}

#[test]
fn nothing_behind_the_limit_is_looked_at() {
    let image = two_records();
    let last = image.starts[1];
    for limit in PAGE..image.bytes.len() {
        let (records, _) = scan_at_once(Scanner::new(&image.header, limit as u64, 1), &image.bytes);
        assert_eq!(records.len(), usize::from(limit >= last), "limit {limit}");
    }
    let beyond = Scanner::resume(&image.header, 5000, 4096, 1);
    let (records, stop) = scan_at_once(beyond, &image.bytes);
    assert_eq!((records.len(), stop.reason), (0, None));
}

#[test]
fn a_log_segment_starts_with_its_link() {
    let mut image = Image::new(SegmentKind::Log, 3, [0x33; 16], 1);
    image.append(&set(b"k", b"v"));
    assert_refused(&image, 0, PAGE, bad_kind(Kind::Set, Framing::Single));
    let mut image = Image::new(SegmentKind::Log, 3, [0x33; 16], 1);
    image.batch(&[set(b"k", b"v")]);
    assert_refused(&image, 0, PAGE, bad_kind(Kind::BatchHead, Framing::InBatch));
}

#[test]
fn a_link_elsewhere_than_first_is_refused() {
    let mut image = two_records();
    let at = image.link(1, 4144, 2);
    assert_refused(&image, 2, at, bad_kind(Kind::Link, Framing::Single));
}

#[test]
fn a_link_that_names_its_own_lsn_or_a_later_one_is_refused() {
    for (previous_lsn, counts) in [(4u64, true), (5, false), (6, false), (u64::MAX, false)] {
        let mut image = Image::new(SegmentKind::Log, 3, [0x33; 16], 5);
        let payload = [2u64, 4144, previous_lsn].map(u64::to_le_bytes).concat();
        image.system(5, Framing::Single, Kind::Link, &payload);
        let (records, stop) = image.scan();
        assert_eq!(records.len(), usize::from(counts), "names {previous_lsn}");
        assert_eq!(stop.reason.is_none(), counts, "names {previous_lsn}");
    }
}

#[test]
fn the_link_must_have_the_lsn_that_is_expected_if_one_is() {
    let image = two_records();
    for (expected, found) in [(0, 2), (1, 2), (2, 0), (9, 0)] {
        let scanner = Scanner::new(&image.header, image.len(), expected);
        let (records, stop) = scan_at_once(scanner, &image.bytes);
        assert_eq!(records.len(), found, "expected {expected}");
        if found == 0 {
            let error = DecodeError::BadLsn { expected, found: 1 };
            assert_eq!((stop.reason, stop.next_lsn), (Some(error), expected));
        }
    }
}

#[test]
fn a_gap_or_a_step_back_in_the_lsns_of_a_log_is_refused() {
    for lsn in [1, 2, 4, 1000] {
        let mut image = two_records();
        let at = image.put(lsn, Framing::Single, &set(b"k", b"w"));
        let error = DecodeError::BadLsn {
            expected: 3,
            found: lsn,
        };
        assert_refused(&image, 2, at, error);
    }
}

#[test]
fn nothing_follows_a_footer() {
    let mut image = two_records();
    image.footer();
    let at = image.append(&set(b"k", b"w"));
    assert_refused(&image, 3, at, bad_kind(Kind::Set, Framing::Single));
    let mut image = two_records();
    image.footer();
    let at = image.footer();
    assert_refused(&image, 3, at, bad_kind(Kind::Footer, Framing::Single));
    let mut image = Image::merged(4, 0x44);
    image.put(7, Framing::Single, &set(b"k", b"v"));
    image.footer();
    let at = image.put(8, Framing::Single, &set(b"k", b"w"));
    assert_refused(&image, 2, at, bad_kind(Kind::Set, Framing::Single));
}

#[test]
fn a_mark_that_claims_its_own_lsn_or_a_later_one_is_refused() {
    for (durable, counts) in [
        (0, true),
        (2, true),
        (3, false),
        (4, false),
        (u64::MAX, false),
    ] {
        let mut image = two_records();
        let at = image.mark(durable);
        let found = find_mark(&image.header, at as u64, &image.bytes[at..]);
        assert_eq!(found, counts.then_some(durable), "claims {durable}");
        match counts {
            true => assert_eq!(image.scan().1.reason, None),
            false => assert_refused(&image, 2, at, DecodeError::WrongIdentity),
        }
    }
}

#[test]
fn a_mark_with_another_salt_is_refused() {
    let mut image = two_records();
    let at = image.mark_with_salt(1, [0x34; 8]);
    assert_refused(&image, 2, at, DecodeError::WrongIdentity);
    assert_eq!(
        find_mark(&image.header, at as u64, &image.bytes[at..]),
        None
    );
}

#[test]
fn a_tombstone_with_a_value_is_refused() {
    let mut image = two_records();
    let data = Data {
        kind: Kind::Tombstone,
        ..set(b"k", b"v")
    };
    let at = image.append(&data);
    let error = DecodeError::BadLength {
        found: 1,
        allowed: 0,
    };
    assert_refused(&image, 2, at, error);
}

#[test]
fn a_system_record_with_a_key_or_another_length_is_refused() {
    for (kind, len) in [(Kind::BatchHead, 12), (Kind::Mark, 16), (Kind::Footer, 32)] {
        let framing = match kind {
            Kind::BatchHead => Framing::InBatch,
            _ => Framing::Single,
        };
        for value_len in [0, len - 1, len + 1] {
            let mut image = two_records();
            let at = image.system(3, framing, kind, &vec![0; value_len]);
            let error = DecodeError::BadLength {
                found: value_len as u64,
                allowed: len as u64,
            };
            assert_refused(&image, 2, at, error);
        }
        let mut image = two_records();
        let data = Data {
            kind,
            ..set(b"k", &vec![0; len])
        };
        let at = image.put(3, framing, &data);
        let error = DecodeError::BadLength {
            found: 1,
            allowed: 0,
        };
        assert_refused(&image, 2, at, error);
    }
}

#[test]
fn a_framing_that_a_kind_does_not_have_is_refused() {
    for kind in [Kind::Mark, Kind::Footer, Kind::BatchHead] {
        for framing in [Framing::Single, Framing::InBatch, Framing::BatchEnd] {
            if (kind == Kind::BatchHead) == (framing == Framing::InBatch)
                && (kind == Kind::BatchHead || framing == Framing::Single)
            {
                continue;
            }
            let payload: &[u8] = match kind {
                Kind::Mark => &[0; 16],
                Kind::Footer => &[0; 32],
                _ => &[0; 12],
            };
            let mut image = two_records();
            let at = image.system(3, framing, kind, payload);
            assert_refused(&image, 2, at, bad_kind(kind, framing));
        }
    }
    for framing in [Framing::InBatch, Framing::BatchEnd] {
        let mut image = two_records();
        let at = image.put(3, framing, &set(b"k", b"w"));
        assert_refused(&image, 2, at, bad_kind(Kind::Set, framing));
    }
}

#[test]
fn an_lsn_of_zero_is_refused() {
    let mut image = Image::merged(4, 0x44);
    let at = image.put(0, Framing::Single, &set(b"k", b"v"));
    let error = DecodeError::BadLsn {
        expected: 1,
        found: 0,
    };
    assert_refused(&image, 0, at, error);
}

#[test]
fn a_merged_segment_holds_data_records_in_any_order_of_lsn_then_a_footer() {
    let mut image = Image::merged(4, 0x44);
    for lsn in [7, 3, u64::MAX - 1, 5] {
        image.put(lsn, Framing::Single, &set(b"k", b"v"));
    }
    image.footer();
    let (records, stop) = image.scan();
    let lsns: Vec<u64> = records.iter().map(|record| record.lsn).collect();
    assert_eq!(lsns, [7, 3, u64::MAX - 1, 5, u64::MAX - 1]);
    assert_eq!((stop.offset, stop.reason), (image.len(), None));
}

#[test]
fn a_merged_segment_with_links_marks_or_batches_is_refused() {
    let refused = |append: &dyn Fn(&mut Image) -> usize, kind, framing| {
        let mut image = Image::merged(4, 0x44);
        let at = append(&mut image);
        assert_refused(&image, 0, at, bad_kind(kind, framing));
        let mut image = Image::merged(4, 0x44);
        image.put(7, Framing::Single, &set(b"k", b"v"));
        let at = append(&mut image);
        assert_refused(&image, 1, at, bad_kind(kind, framing));
    };
    refused(&|image| image.link(0, 0, 0), Kind::Link, Framing::Single);
    let mark = |image: &mut Image| {
        image.next_lsn = 8;
        image.mark(1)
    };
    refused(&mark, Kind::Mark, Framing::Single);
    let batch = |image: &mut Image| {
        image.next_lsn = 8;
        image.batch(&[set(b"k", b"v")])
    };
    refused(&batch, Kind::BatchHead, Framing::InBatch);
    for framing in [Framing::InBatch, Framing::BatchEnd] {
        let put = |image: &mut Image| image.put(9, framing, &set(b"k", b"v"));
        refused(&put, Kind::Set, framing);
    }
}

/// LINK, one record, then a batch head that says `count` and `bytes`, then `records`.
fn batch_image(count: u32, bytes: u64, records: &[(Framing, Data)]) -> (Image, usize) {
    let mut image = two_records();
    let head = image.batch_head(count, bytes);
    for (framing, data) in records {
        image.put(image.next_lsn, *framing, data);
    }
    (image, head)
}

#[track_caller]
fn assert_batch_refused(image: &Image, head: usize) {
    let (_, stop) = image.scan();
    assert!(stop.reason.is_some(), "{stop:?}");
    assert_eq!((stop.offset, stop.next_lsn), (head as u64, 3));
    let scanner = Scanner::new(&image.header, image.len(), 1);
    assert_eq!(scan_byte_by_byte(scanner, &image.bytes).1, stop);
}

#[test]
fn a_batch_whose_count_bytes_or_framing_disagree_is_refused_whole() {
    use Framing::{BatchEnd, InBatch, Single};
    let (a, b) = (set(b"a", b"1"), set(b"b", &[2; 20]));
    let bytes = a.size() + b.size();
    let good = [(InBatch, a.clone()), (BatchEnd, b.clone())];
    let (image, _) = batch_image(2, bytes, &good);
    assert_eq!((image.scan().0.len(), image.scan().1.reason), (5, None));
    for (count, bytes) in [
        (0, bytes),
        (0, 0),
        (1, bytes),
        (3, bytes),
        (u32::MAX, bytes),
        (2, bytes - 8),
        (2, bytes + 8),
        (2, bytes - 1),
        (2, 0),
        (2, a.size()),
        (2, u64::MAX),
        (1, a.size()),
    ] {
        let (mut image, head) = batch_image(count, bytes, &good);
        assert_batch_refused(&image, head);
        // With room behind, so that only the sum can tell.
        let next = image.next_lsn;
        image.put(next, Single, &set(b"c", &[3; 100]));
        assert_batch_refused(&image, head);
    }
    for (first, second) in [
        (InBatch, InBatch),
        (BatchEnd, InBatch),
        (BatchEnd, BatchEnd),
        (Single, BatchEnd),
        (InBatch, Single),
        (Single, Single),
    ] {
        let records = [(first, a.clone()), (second, b.clone())];
        let (image, head) = batch_image(2, bytes, &records);
        assert_batch_refused(&image, head);
    }
    // One that is not of the batch, between two that are: the sum does not count it.
    let records = [
        (InBatch, a.clone()),
        (Single, set(b"c", b"3")),
        (BatchEnd, b.clone()),
    ];
    let (image, head) = batch_image(2, bytes, &records);
    assert_batch_refused(&image, head);
}

#[test]
fn a_batch_with_a_gap_in_its_lsns_is_refused_whole() {
    let a = set(b"a", b"1");
    let (mut image, head) = batch_image(2, 2 * a.size(), &[(Framing::InBatch, a.clone())]);
    let next = image.next_lsn;
    image.put(next + 1, Framing::BatchEnd, &a);
    assert_batch_refused(&image, head);
}

#[test]
fn a_batch_with_another_kind_of_record_in_it_is_refused_whole() {
    let a = set(b"a", b"1");
    let start = || batch_image(2, a.size() + 40, &[(Framing::InBatch, a.clone())]);
    let (mut image, head) = start();
    image.mark(1);
    assert_batch_refused(&image, head);
    let (mut image, head) = start();
    image.batch_head(1, 0);
    assert_batch_refused(&image, head);
    let (mut image, head) = start();
    image.footer();
    assert_batch_refused(&image, head);
    // A head inside a batch, with a framing, a size and a sum that would be right.
    let (mut image, head) = batch_image(2, 40 + a.size(), &[]);
    image.batch_head(1, a.size());
    image.put(image.next_lsn, Framing::BatchEnd, &a);
    assert_batch_refused(&image, head);
}

#[test]
fn a_batch_that_ends_early_stops_at_its_head_wherever_it_is_cut() {
    let mut image = two_records();
    let head = image.batch(&[set(b"a", b"1"), tombstone(b"b"), expiring(b"c", b"3", 3)]);
    for cut in head + 40..image.bytes.len() {
        // The file ends there.
        let scanner = Scanner::new(&image.header, cut as u64, 1);
        let (_, stop) = scan_at_once(scanner, &image.bytes[..cut]);
        assert!(stop.reason.is_some(), "cut at {cut}");
        assert_eq!(
            (stop.offset, stop.next_lsn),
            (head as u64, 3),
            "cut at {cut}"
        );
        // Zeros from there on.
        let mut zeroed = image.bytes.clone();
        zeroed[cut..].fill(0);
        if zeroed == image.bytes {
            continue;
        }
        let (_, stop) = scan_at_once(Scanner::new(&image.header, image.len(), 1), &zeroed);
        let padding_only = image.len() - cut as u64 <= 6;
        if !padding_only {
            assert!(stop.reason.is_some(), "zeros from {cut}");
            assert_eq!(
                (stop.offset, stop.next_lsn),
                (head as u64, 3),
                "zeros from {cut}"
            );
        }
    }
}

#[test]
fn a_batch_is_followed_by_single_records_again() {
    let mut image = two_records();
    image.batch(&[tombstone(b"a")]);
    image.append(&set(b"b", b""));
    image.batch(&[set(b"c", b""), set(b"d", b"")]);
    image.mark(8);
    image.footer();
    assert_eq!(image.scan().0.len(), image.starts.len());
    assert_eq!(image.scan().1.reason, None);
}

#[test]
fn a_mark_is_found_behind_garbage() {
    let mut image = two_records();
    let garbage_at = image.bytes.len();
    image.bytes.resize(garbage_at + 808, 0x5A);
    image.next_lsn = 50;
    image.mark(40);
    image.next_lsn = 60;
    image.mark(30);
    image.bytes.resize(image.bytes.len() + 100, 0xA5);
    assert_eq!(image.scan().1.offset, garbage_at as u64);
    for from in (garbage_at..=garbage_at + 808).step_by(8) {
        let found = find_mark(&image.header, from as u64, &image.bytes[from..]);
        assert_eq!(found, Some(40), "from {from}");
    }
}

#[test]
fn a_mark_at_the_edge_of_a_chunk_is_found_if_it_is_whole() {
    let mut image = two_records();
    image.bytes.resize(image.bytes.len() + 64, 0xFF);
    let at = image.mark(1);
    image.bytes.resize(image.bytes.len() + 64, 0xFF);
    let end = at + MARK_RECORD_BYTES as usize;
    for from in (at - 64..=at + 40).step_by(8) {
        for to in end - 40..=end + 64 {
            let Some(chunk) = image.bytes.get(from..to) else {
                continue;
            };
            let whole = from <= at && end <= to;
            let found = find_mark(&image.header, from as u64, chunk);
            assert_eq!(found.is_some(), whole, "chunk {from}..{to}");
        }
    }
}

#[test]
fn a_mark_copied_into_a_value_is_not_found() {
    let mut image = two_records();
    let at = image.mark(2);
    let copy = image.bytes[at..].to_vec();
    let mut value_holds = image.clone();
    value_holds.append(&set(b"8 bytes.", &copy));
    let behind = value_holds.starts[3];
    let tail = &value_holds.bytes[behind..];
    assert!(tail.windows(40).any(|window| window == copy));
    assert_eq!(find_mark(&image.header, behind as u64, tail), None);
    let all = &value_holds.bytes[PAGE..];
    assert_eq!(find_mark(&image.header, PAGE as u64, all), Some(2));
}

#[test]
fn a_damaged_mark_is_not_found() {
    let mut image = two_records();
    let at = image.mark(2);
    for byte in at..at + MARK_RECORD_BYTES as usize {
        for bit in 0..8 {
            let mut bytes = image.bytes.clone();
            bytes[byte] ^= 1 << bit;
            assert_eq!(
                find_mark(&image.header, at as u64, &bytes[at..]),
                None,
                "byte {byte}"
            );
        }
    }
}
