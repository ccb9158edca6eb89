//! Reading allocates nothing, whatever the bytes say: no length in a damaged file can ask for memory.
//!
//! Method: an allocator that counts what the current thread asks for.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use common::{Image, ManifestImage, expiring, set, tombstone};
use kvs_format::crc::crc32;
use kvs_format::hash::{Fingerprint, HashKey};
use kvs_format::hint::{ExpiryHistogram, HintEntry, HintHeader, HintRef};
use kvs_format::kvx::{self, Decoder, Encoder};
use kvs_format::manifest::{CutBody, Edit, Edits};
use kvs_format::name;
use kvs_format::record::{Kind, decode};
use kvs_format::scan::{Scanner, Step, find_mark};
use kvs_format::segment::SegmentHeader;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to `System` unchanged, which keeps the contract. The counter is a
// thread-local `Cell` with a constant start value and no destructor: touching it does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on; `at` came from `System`.
        unsafe { System.realloc(at, layout, bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on; `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

fn scan_all(header: &SegmentHeader, file: &[u8]) -> usize {
    let mut scanner = Scanner::new(header, file.len() as u64, 0);
    let mut records = 0;
    loop {
        let from = (scanner.offset() as usize).min(file.len());
        match scanner.step(&file[from..]) {
            Step::Record(_) => records += 1,
            Step::NeedMore(_) | Step::Stop(_) => return records,
        }
    }
}

fn read(header: &SegmentHeader, segment: &[u8], manifest: &[u8], hint: &[u8]) {
    black_box(SegmentHeader::decode(segment).is_ok());
    black_box(scan_all(header, segment));
    black_box(find_mark(header, 0, segment));
    for at in (0..segment.len()).step_by(8) {
        black_box(decode(&header.place_key(), at as u64, &segment[at..]).is_ok());
    }
    if let Ok((_, mut edits)) = Edits::new(manifest) {
        for edit in edits.by_ref() {
            black_box(edit);
        }
        black_box(edits.tail());
    }
    if let Ok(hint) = HintRef::decode(hint) {
        black_box(hint.contains(Fingerprint { lo: 1, hi: 1 }));
    }
}

fn files() -> (Image, Vec<u8>, Vec<u8>) {
    let mut segment = Image::log(42, 0xA1);
    segment.append(&set(b"key", &[7; 1000]));
    segment.append(&expiring(b"k", b"v", 5));
    segment.batch(&[set(b"a", b"b"), tombstone(b"c")]);
    segment.mark(3);
    segment.footer();
    let mut manifest = ManifestImage::new(1, 2);
    let ids = [U64::new(1); 9];
    for _ in 0..4 {
        manifest.append(&Edit::Forget { ids: &ids });
        manifest.append(&Edit::Cut {
            cut: CutBody::new_zeroed(),
            dropped: &ids,
        });
    }
    let entries = [1, 2, 3].map(|lo| {
        let fingerprint = Fingerprint { lo, hi: 1 };
        HintEntry::new(fingerprint, lo, 4096 + lo * 64, 32, Kind::Set)
    });
    let header = HintHeader {
        shard_bits: 0,
        segment_id: 42,
        salt: [0xA1; 16],
        covered: 8192,
        end_lsn: 9,
        last_offset: 8000,
        last_place: 0,
        count: 3,
        hash_check: 0,
        min_lsn: 1,
        max_lsn: 3,
    };
    let mut hint = header.encode().to_vec();
    hint.extend_from_slice(entries.as_bytes());
    hint.extend_from_slice(&ExpiryHistogram::EMPTY.encode());
    let crc = crc32(&hint);
    hint.extend_from_slice(&crc.to_le_bytes());
    (segment, manifest.bytes, hint)
}

#[test]
fn reading_good_files_allocates_nothing() {
    let (segment, manifest, hint) = files();
    assert_eq!(scan_all(&segment.header, &segment.bytes), 8);
    assert_eq!(Edits::new(&manifest).unwrap().1.count(), 8);
    assert!(HintRef::decode(&hint).is_ok());
    let count = allocations_of(|| read(&segment.header, &segment.bytes, &manifest, &hint));
    assert_eq!(count, 0);
}

#[test]
fn reading_damaged_files_allocates_nothing() {
    let (segment, manifest, hint) = files();
    let (mut bad_segment, mut bad_manifest, mut bad_hint) =
        (segment.bytes.clone(), manifest.clone(), hint.clone());
    for at in 0..hint.len() {
        // A byte with all bits set: where a length stands, a long one.
        let (in_segment, in_manifest) = (4096 + at, at % manifest.len());
        bad_segment[in_segment] ^= 0xFF;
        bad_manifest[in_manifest] ^= 0xFF;
        bad_hint[at] ^= 0xFF;
        let count = allocations_of(|| {
            black_box(scan_all(&segment.header, &bad_segment));
            black_box(find_mark(&segment.header, 0, &bad_segment));
            black_box(HintRef::decode(&bad_hint).is_ok());
            if let Ok((_, mut edits)) = Edits::new(&bad_manifest) {
                black_box(edits.by_ref().count());
                black_box(edits.tail());
            }
        });
        assert_eq!(count, 0, "byte {at}");
        bad_segment[in_segment] ^= 0xFF;
        bad_manifest[in_manifest] ^= 0xFF;
        bad_hint[at] ^= 0xFF;
    }
    for fill in [0x00, 0x01, 0xFF] {
        let bytes = vec![fill; 8192];
        let count = allocations_of(|| read(&segment.header, &bytes, &bytes, &bytes));
        assert_eq!(count, 0, "bytes {fill:#x}");
    }
}

fn read_export(bytes: &[u8]) -> u64 {
    let mut decoder = Decoder::new();
    let mut from = 0;
    loop {
        match decoder.step(&bytes[from..]) {
            Ok(kvx::Step::Header { used } | kvx::Step::Pair { used, .. }) => from += used,
            Ok(kvx::Step::End { count, .. }) => return count,
            Ok(kvx::Step::NeedMore(_)) | Err(_) => return 0,
        }
    }
}

#[test]
fn reading_and_writing_an_export_allocates_nothing() {
    let mut good = Vec::with_capacity(4096);
    let count = allocations_of(|| {
        let mut encoder = Encoder::new();
        good.extend_from_slice(&Encoder::header());
        for expires_at in [None, Some(7)] {
            good.extend_from_slice(&encoder.pair(b"key", &[7; 1000], expires_at).unwrap());
            good.extend_from_slice(b"key");
            good.extend_from_slice(&[7; 1000]);
        }
        good.extend_from_slice(&encoder.end());
        assert_eq!(read_export(&good), 2);
    });
    assert_eq!(count, 0);
    for at in 0..good.len() {
        good[at] ^= 0xFF;
        let count = allocations_of(|| assert_eq!(read_export(&good), 0));
        assert_eq!(count, 0, "byte {at}");
        good[at] ^= 0xFF;
    }
}

#[test]
fn hashing_and_names_allocate_nothing() {
    let key = HashKey::from_bytes(&[1; 16]);
    let bytes = vec![7; 1000];
    let count = allocations_of(|| {
        black_box(key.fingerprint(&bytes));
        black_box(name::segment(7));
        black_box(name::parse(&name::hint(7)));
    });
    assert_eq!(count, 0);
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations_of(|| drop(black_box(vec![1u8; 10]))), 1);
}
