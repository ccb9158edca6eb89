//! One file at a time: the decoders of `kvs-format`, and replaying a manifest.

use kvs_format::crc::PlaceKey;
use kvs_format::hint::{self as hints, HintRef};
use kvs_format::manifest::{
    AddBody, CleanBody, CutBody, Edit, Edits, ManifestHeader, MergedBody, OpenedBody, PoisonBody,
    SealBody, StoreBody, Tail,
};
use kvs_format::record::{self as records, HEADER_BYTES, Kind, RecordRef};
use kvs_format::scan::{Scanner, Step, Stop, find_mark};
use kvs_format::segment::{PAGE_BYTES, SegmentHeader, SegmentKind};
use kvs_format::system::{BatchHead, Footer, Link, Mark};
use kvs_format::{DecodeError, aligned, name};
use zerocopy::byteorder::little_endian::U64;

use crate::edit::{self, Files};
use crate::forge;
use crate::input::Input;

const LOG: &[u8] = include_bytes!("../../format/vectors/segment-log.seg");
const MERGED: &[u8] = include_bytes!("../../format/vectors/segment-merged.seg");
const MANIFEST: &[u8] = include_bytes!("../../format/vectors/manifest.bin");
const HINT: &[u8] = include_bytes!("../../format/vectors/hint.bin");

/// A file from an input: `good` with edits, or plain bytes; then perhaps all checks written anew.
fn file(name: &str, good: Option<&[u8]>, forged: bool, input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = match good {
        None => input.rest().to_vec(),
        Some(good) => {
            let mut files = Files::from([(name.to_owned(), good.to_vec())]);
            edit::apply(&mut files, input);
            files.remove(name).unwrap_or_default()
        }
    };
    if forged {
        forge::file(name, &mut bytes);
    }
    bytes
}

/// One record: what decodes, encodes to the same bytes; what was encoded, decodes; no flipped bit and
/// no missing byte goes unnoticed.
///
/// Input: flags (bit 0: checks anew), segment id, granule (offset / 8), then the bytes there.
pub fn record(input: &[u8]) {
    let mut input = Input(input);
    let (flags, id, granule) = (input.u8(), input.number(), input.u16());
    let (key, offset) = (
        PlaceKey::of_segment(&[0xA1; 16], id),
        u64::from(granule) * 8,
    );
    let mut bytes = input.rest().to_vec();
    if flags & 1 == 1 {
        forge::record(&mut bytes, &key, offset);
    }
    let Ok(Some(record)) = records::decode(&key, offset, &bytes) else {
        return;
    };
    let header = record.header;
    let unpadded = header.unpadded() as usize;
    assert!(header.size() as usize <= bytes.len());
    assert_eq!(header.size(), aligned(header.unpadded()));
    assert_eq!(record.key.len(), usize::from(header.key_len));
    assert_eq!(record.value.len(), header.value_len as usize);
    system_payloads(&record);

    let mut again = vec![0xFF; header.size() as usize];
    let written = records::encode_into(
        &mut again,
        &key,
        offset,
        header.lsn,
        header.framing,
        header.kind,
        record.expires_at,
        record.key,
        record.value,
    );
    assert_eq!(written, Ok(again.len()));
    assert_eq!(again[..unpadded], bytes[..unpadded]);
    assert!(again[unpadded..].iter().all(|byte| *byte == 0));
    assert_eq!(
        records::decode(&key, offset, &again).map(|r| r.map(|r| r.header)),
        Ok(Some(header))
    );

    // Elsewhere it is no record.
    let other = PlaceKey::of_segment(&[0xA1; 16], id ^ 1);
    assert!(records::decode(&other, offset, &again).is_err());
    assert!(records::decode(&key, offset + 8, &again).is_err());
    assert!(records::decode(&key, offset, &again[..again.len() - 1]).is_err());
    // Short ones with every bit flipped, long ones at some places.
    let step = (unpadded * 8).div_ceil(512) | 1;
    for bit in (0..unpadded * 8).step_by(step) {
        again[bit / 8] ^= 1 << (bit % 8);
        assert!(
            records::decode(&key, offset, &again).is_err(),
            "bit {bit} flipped"
        );
        again[bit / 8] ^= 1 << (bit % 8);
    }
}

fn system_payloads(record: &RecordRef<'_>) {
    let kind = record.header.kind;
    assert_eq!(Link::of(record).is_ok(), kind == Kind::Link);
    assert_eq!(Mark::of(record).is_ok(), kind == Kind::Mark);
    assert_eq!(Footer::of(record).is_ok(), kind == Kind::Footer);
    assert_eq!(BatchHead::of(record).is_ok(), kind == Kind::BatchHead);
    assert_eq!(record.expires_at.is_some(), kind == Kind::SetExpiring);
    assert!(kind.is_data() || record.key.is_empty());
}

/// A segment: reading it in one piece and in the smallest pieces gives the same records and the same
/// stop, records follow each other without gaps, and the search for MARKs misses none.
///
/// Input: flags (bit 0: checks anew, bits 1-2: plain bytes behind a good header, or edits of the
/// golden log or merged segment), how much of the file counts, expected LSN, then bytes or edits.
pub fn segment_scan(input: &[u8]) {
    let mut input = Input(input);
    let (flags, cut, next_lsn) = (input.u8(), input.u16(), input.number());
    let name = name::segment(42);
    let good = [None, Some(LOG), Some(MERGED), Some(LOG)][usize::from(flags >> 1 & 3)];
    let mut bytes = file(&name, good, flags & 1 == 1 && good.is_some(), &mut input);
    if good.is_none() {
        let kind = [SegmentKind::Log, SegmentKind::Merged][usize::from(flags >> 3 & 1)];
        let header = SegmentHeader {
            kind,
            id: 42,
            salt: [0xA1; 16],
        };
        let mut page = header.encode().to_vec();
        page.resize(PAGE_BYTES as usize, 0);
        page.append(&mut bytes);
        bytes = page;
        if flags & 1 == 1 {
            forge::segment(&mut bytes);
        }
    }
    let Ok(header) = SegmentHeader::decode(&bytes) else {
        return;
    };
    assert_eq!(header.encode()[..], bytes[..header.encode().len()]);
    let limit = match u64::from(cut) {
        0 => bytes.len() as u64,
        cut => PAGE_BYTES + cut,
    };
    let scanner = Scanner::new(&header, limit, next_lsn);
    let at_once = scan(scanner.clone(), &bytes, usize::MAX);
    assert_eq!(at_once, scan(scanner, &bytes, 0));

    let (found, stop) = at_once;
    let mut offset = PAGE_BYTES;
    let mut marked = None;
    for (at, size, lsn, mark) in &found {
        assert_eq!(*at, offset);
        offset += size;
        marked = marked.max(*mark);
        assert!(*lsn > 0);
        // However it was recognised, by itself it is the same.
        let alone = records::decode(&header.place_key(), *at, &bytes[*at as usize..]);
        let alone = alone.expect("its checks hold").expect("it is a record");
        assert_eq!((alone.header.size(), alone.header.lsn), (*size, *lsn));
    }
    assert!(
        offset <= limit.max(PAGE_BYTES) && offset <= bytes.len().max(PAGE_BYTES as usize) as u64
    );
    if let Some(stop) = stop {
        assert_eq!(stop.rejected_at, offset);
        assert!((PAGE_BYTES..=offset).contains(&stop.offset));
        assert!(stop.offset == stop.rejected_at || stop.reason.is_some());
    }
    if let Some(records) = bytes.get(PAGE_BYTES as usize..) {
        assert!(find_mark(&header, PAGE_BYTES, records) >= marked);
    }
}

type Found = (u64, u64, u64, Option<u64>);

/// All records (offset, size, LSN, what a MARK states), feeding at most `piece` bytes more than asked
/// for; no stop if more was asked for than there is.
fn scan(mut scanner: Scanner, bytes: &[u8], piece: usize) -> (Vec<Found>, Option<Stop>) {
    let mut found = Vec::new();
    let mut fed = piece;
    for _ in 0..=3 * bytes.len() {
        let from = scanner.offset() as usize;
        let rest = bytes.get(from..).unwrap_or_default();
        match scanner.step(&rest[..fed.min(rest.len())]) {
            Step::Record(record) => {
                let mark = Mark::of(&record).ok().map(|mark| mark.durable_lsn.get());
                found.push((record.offset, record.header.size(), record.header.lsn, mark));
                fed = piece;
            }
            Step::NeedMore(more) if more > rest.len() as u64 => return (found, None),
            Step::NeedMore(more) => {
                assert!(more > fed as u64, "asks for what it has");
                fed = more as usize;
            }
            Step::Stop(stop) => return (found, Some(stop)),
        }
    }
    panic!("more steps than the file has bytes");
}

/// A manifest: what decodes, encodes to the same bytes; edits follow each other without gaps;
/// replaying them is stable under zeros behind the end and under another replay.
///
/// Input: flags (bit 0: checks anew, bits 1-2: plain bytes, edits of the golden manifest, or a list
/// of manifest edits), then those.
pub fn manifest(input: &[u8]) {
    let mut input = Input(input);
    let flags = input.u8();
    let bytes = match flags >> 1 & 3 {
        0 => file(name::MANIFEST, None, flags & 1 == 1, &mut input),
        1 => file(name::MANIFEST, Some(MANIFEST), flags & 1 == 1, &mut input),
        _ => composed(&mut input),
    };
    let replayed = kvs::testing::replay(&bytes);
    let Ok((header, mut edits)) = Edits::new(&bytes) else {
        assert!(replayed.is_err());
        return;
    };
    assert_eq!(header.encode()[..], bytes[..header.encode().len()]);
    let mut offset = header.encode().len() as u64;
    let mut again = Vec::new();
    for edit in edits.by_ref() {
        assert_eq!(edit.offset, offset);
        again.resize(edit.edit.encoded_bytes(), 0);
        let key = header.place_key();
        assert_eq!(
            edit.edit.encode_into(&mut again, &key, offset, edit.seq),
            Ok(again.len())
        );
        let unpadded = kvs_format::manifest::EDIT_HEADER_BYTES + edit.edit.body_bytes();
        assert_eq!(again[..unpadded], bytes[offset as usize..][..unpadded]);
        offset += edit.size;
    }
    match edits.tail() {
        Tail::Clean { end } | Tail::Torn { end } | Tail::Damaged { offset: end, .. } => {
            assert_eq!(end, offset);
        }
    }
    let Ok(replayed) = replayed else { return };
    assert_eq!(replayed.end, offset);
    let mut longer = bytes[..offset as usize].to_vec();
    let shorter = kvs::testing::replay(&longer).expect("what was replayed before");
    longer.resize(longer.len() + 4096, 0);
    let longer = kvs::testing::replay(&longer).expect("zeros say nothing");
    for other in [shorter, longer] {
        assert!(other.cancelled.is_none());
        assert_eq!(other.catalog.live, replayed.catalog.live);
        assert_eq!(other.catalog.retired, replayed.catalog.retired);
        assert_eq!(other.catalog.log_end, replayed.catalog.log_end);
        assert_eq!(other.next_seq, replayed.next_seq);
    }
    // A torn manifest never counts as cleanly closed.
    assert!(replayed.cancelled.is_none() || replayed.catalog.clean.is_none());
}

/// A manifest of valid edits that say anything at all.
fn composed(input: &mut Input<'_>) -> Vec<u8> {
    let header = ManifestHeader {
        store_id: [0x61; 16],
        salt: [0x62; 16],
    };
    let mut bytes = header.encode().to_vec();
    let mut seq = input.number();
    let mut put = |edit: Edit<'_>| {
        let at = bytes.len();
        bytes.resize(at + edit.encoded_bytes(), 0);
        edit.encode_into(&mut bytes[at..], &header.place_key(), at as u64, seq)
            .expect("the buffer has the size the edit asked for");
        seq = seq.wrapping_add(1);
    };
    fn n(input: &mut Input<'_>) -> U64 {
        U64::new(input.number())
    }
    fn ids(input: &mut Input<'_>) -> Vec<U64> {
        (0..input.u8() % 8).map(|_| n(input)).collect()
    }
    put(Edit::Store(StoreBody {
        hash_key: [7; 16],
        next_id: n(input),
        next_lsn: n(input),
        shard_bits: input.u8() % 11,
        zero: [0; 7],
    }));
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        match input.u8() % 9 {
            0 => put(Edit::Add(AddBody {
                id: n(input),
                salt: [1; 16],
                allocated: n(input),
            })),
            1 => put(Edit::Seal(SealBody {
                id: n(input),
                length: n(input),
                end_lsn: n(input),
                min_lsn: n(input),
                max_lsn: n(input),
                records: n(input),
            })),
            2 => {
                let merged = |input: &mut Input<'_>| MergedBody {
                    id: n(input),
                    salt: [2; 16],
                    length: n(input),
                    min_lsn: n(input),
                    max_lsn: n(input),
                    records: n(input),
                };
                let outputs: Vec<_> = (0..input.u8() % 4).map(|_| merged(input)).collect();
                let inputs = ids(input);
                put(Edit::Compact {
                    outputs: &outputs,
                    inputs: &inputs,
                });
            }
            3 => put(Edit::Forget { ids: &ids(input) }),
            4 => put(Edit::Opened(OpenedBody {
                id: n(input),
                allocated: n(input),
            })),
            5 => put(Edit::Clean(CleanBody {
                id: n(input),
                length: n(input),
                lsn: n(input),
            })),
            6 => {
                let cut = CutBody {
                    id: n(input),
                    end: n(input),
                    end_lsn: n(input),
                    next_lsn: n(input),
                    min_lsn: n(input),
                    max_lsn: n(input),
                    records: n(input),
                };
                put(Edit::Cut {
                    cut,
                    dropped: &ids(input),
                });
            }
            7 => put(Edit::Poison(PoisonBody {
                durable_lsn: n(input),
            })),
            _ => {
                put(Edit::Store(StoreBody {
                    hash_key: [8; 16],
                    next_id: n(input),
                    next_lsn: n(input),
                    shard_bits: 0,
                    zero: [0; 7],
                }));
            }
        }
    }
    let tail = usize::from(input.u8());
    bytes.extend_from_slice(input.take(tail));
    bytes
}

/// A hint: whatever decodes is in order, says what its bytes say, and finds each of its entries.
///
/// Input: flags (bit 0: check anew, bit 1: edits of the golden hint, otherwise plain bytes), then
/// those.
pub fn hint(input: &[u8]) {
    let mut input = Input(input);
    let flags = input.u8();
    let good = (flags & 2 == 2).then_some(HINT);
    let bytes = file(&name::hint(42), good, flags & 1 == 1, &mut input);
    let decoded: Result<HintRef<'_>, DecodeError> = HintRef::decode(&bytes);
    let Ok(hint) = decoded else { return };
    let header = hint.header;
    assert_eq!(hints::file_bytes(header.count), Some(bytes.len() as u64));
    assert_eq!(header.encode()[..], bytes[..hints::HEADER_BYTES]);
    let trailer = bytes.len() - hints::TRAILER_BYTES;
    assert_eq!(hint.expiry.encode()[..], bytes[trailer..bytes.len() - 4]);
    assert_eq!(hint.entries.len() as u64, header.count);
    for pair in hint.entries.windows(2) {
        assert!(pair[0].sort_key(header.shard_bits) < pair[1].sort_key(header.shard_bits));
    }
    for entry in hint.entries {
        assert!(entry.offset() >= PAGE_BYTES && entry.offset() + entry.size() <= header.covered);
        assert!(entry.size() >= HEADER_BYTES as u64);
        let own = hint.entries_of(entry.fingerprint());
        assert!(own.contains(entry) && hint.contains(entry.fingerprint()));
        assert!(
            own.iter()
                .all(|other| other.fingerprint() == entry.fingerprint())
        );
    }
}
