//! Files in memory, built record by record, and how the tests read them.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use kvs_format::crc::PlaceKey;
use kvs_format::manifest::{Edit, Edits, HEADER_BYTES, ManifestHeader, Tail};
use kvs_format::record::{Framing, Kind, encode_into, size_of_record};
use kvs_format::scan::{Scanner, Step, Stop};
use kvs_format::segment::{PAGE_BYTES, SegmentHeader, SegmentKind};
use kvs_format::system::{BatchHead, Footer, Link, Mark};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// Bytes of the first page, as an index.
pub const PAGE: usize = PAGE_BYTES as usize;

/// A record for [`Image::batch`] and [`Image::put`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    pub kind: Kind,
    pub expires_at: Option<u64>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

pub fn set(key: &[u8], value: &[u8]) -> Data {
    Data {
        kind: Kind::Set,
        expires_at: None,
        key: key.to_vec(),
        value: value.to_vec(),
    }
}

pub fn expiring(key: &[u8], value: &[u8], expires_at: u64) -> Data {
    Data {
        kind: Kind::SetExpiring,
        expires_at: Some(expires_at),
        ..set(key, value)
    }
}

pub fn tombstone(key: &[u8]) -> Data {
    Data {
        kind: Kind::Tombstone,
        ..set(key, b"")
    }
}

impl Data {
    pub fn size(&self) -> u64 {
        size_of_record(self.kind, self.key.len(), self.value.len())
    }
}

/// A record that a scan found, with its own copy of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub offset: u64,
    pub size: u64,
    pub lsn: u64,
    pub framing: Framing,
    pub kind: Kind,
    pub expires_at: Option<u64>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub place: u32,
    pub content: u32,
}

/// A segment file in memory.
#[derive(Clone, Debug)]
pub struct Image {
    pub header: SegmentHeader,
    pub bytes: Vec<u8>,
    pub next_lsn: u64,
    /// Offset of every record, in order.
    pub starts: Vec<usize>,
    summary: Footer,
}

impl Image {
    pub fn new(kind: SegmentKind, id: u64, salt: [u8; 16], next_lsn: u64) -> Self {
        let header = SegmentHeader { kind, id, salt };
        let mut bytes = vec![0; PAGE];
        bytes[..64].copy_from_slice(&header.encode());
        Self {
            header,
            bytes,
            next_lsn,
            starts: Vec::new(),
            summary: Footer {
                records: U64::ZERO,
                min_lsn: U64::ZERO,
                max_lsn: U64::ZERO,
                payload_bytes: U64::ZERO,
            },
        }
    }

    /// A log segment that begins with the LINK of a store's first one.
    pub fn log(id: u64, salt: u8) -> Self {
        let mut image = Self::new(SegmentKind::Log, id, [salt; 16], 1);
        image.link(0, 0, 0);
        image
    }

    /// A merged segment without records.
    pub fn merged(id: u64, salt: u8) -> Self {
        Self::new(SegmentKind::Merged, id, [salt; 16], 0)
    }

    pub fn key(&self) -> PlaceKey {
        self.header.place_key()
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Appends a record whatever the rules for segments say; returns its offset.
    pub fn put(&mut self, lsn: u64, framing: Framing, data: &Data) -> usize {
        let start = self.bytes.len();
        self.bytes.resize(start + data.size() as usize, 0);
        let size = encode_into(
            &mut self.bytes[start..],
            &self.header.place_key(),
            start as u64,
            lsn,
            framing,
            data.kind,
            data.expires_at,
            &data.key,
            &data.value,
        )
        .unwrap();
        assert_eq!(start + size, self.bytes.len());
        if data.kind.is_data() {
            let summary = &mut self.summary;
            let low = match summary.records.get() {
                0 => lsn,
                _ => summary.min_lsn.get().min(lsn),
            };
            summary.records += 1;
            summary.min_lsn = U64::new(low);
            summary.max_lsn = U64::new(summary.max_lsn.get().max(lsn));
            summary.payload_bytes += size as u64;
        }
        self.starts.push(start);
        self.next_lsn = lsn + 1;
        start
    }

    /// Appends a record with the next LSN, framing 0.
    pub fn append(&mut self, data: &Data) -> usize {
        self.put(self.next_lsn, Framing::Single, data)
    }

    pub fn system(&mut self, lsn: u64, framing: Framing, kind: Kind, payload: &[u8]) -> usize {
        let data = Data {
            kind,
            ..set(b"", payload)
        };
        self.put(lsn, framing, &data)
    }

    pub fn link(&mut self, previous_id: u64, previous_end: u64, previous_lsn: u64) -> usize {
        let link = Link {
            previous_id: U64::new(previous_id),
            previous_end: U64::new(previous_end),
            previous_lsn: U64::new(previous_lsn),
        };
        self.system(
            previous_lsn + 1,
            Framing::Single,
            Kind::Link,
            link.as_bytes(),
        )
    }

    pub fn mark(&mut self, durable_lsn: u64) -> usize {
        let salt = self.header.mark_salt();
        self.mark_with_salt(durable_lsn, salt)
    }

    pub fn mark_with_salt(&mut self, durable_lsn: u64, salt: [u8; 8]) -> usize {
        let mark = Mark {
            durable_lsn: U64::new(durable_lsn),
            salt,
        };
        self.system(self.next_lsn, Framing::Single, Kind::Mark, mark.as_bytes())
    }

    pub fn batch_head(&mut self, count: u32, bytes: u64) -> usize {
        let head = BatchHead {
            count: U32::new(count),
            bytes: U64::new(bytes),
        };
        self.system(
            self.next_lsn,
            Framing::InBatch,
            Kind::BatchHead,
            head.as_bytes(),
        )
    }

    /// Appends a whole batch; returns the offset of its head.
    pub fn batch(&mut self, records: &[Data]) -> usize {
        let bytes = records.iter().map(Data::size).sum();
        let start = self.batch_head(records.len() as u32, bytes);
        for (i, data) in records.iter().enumerate() {
            let framing = match i + 1 == records.len() {
                true => Framing::BatchEnd,
                false => Framing::InBatch,
            };
            self.put(self.next_lsn, framing, data);
        }
        start
    }

    /// What a FOOTER here must say.
    pub fn summary(&self) -> Footer {
        self.summary
    }

    /// Appends the FOOTER: the next LSN in a log segment, the max LSN in a merged one.
    pub fn footer(&mut self) -> usize {
        let summary = self.summary;
        let lsn = match self.header.kind {
            SegmentKind::Log => self.next_lsn,
            SegmentKind::Merged => summary.max_lsn.get(),
        };
        self.system(lsn, Framing::Single, Kind::Footer, summary.as_bytes())
    }

    /// Scans all of it, fed at once.
    pub fn scan(&self) -> (Vec<Found>, Stop) {
        scan_at_once(Scanner::new(&self.header, self.len(), 0), &self.bytes)
    }
}

fn found(step: Step<'_>) -> Result<Found, Step<'_>> {
    let Step::Record(record) = step else {
        return Err(step);
    };
    Ok(Found {
        offset: record.offset,
        size: record.header.size(),
        lsn: record.header.lsn,
        framing: record.header.framing,
        kind: record.header.kind,
        expires_at: record.expires_at,
        key: record.key.to_vec(),
        value: record.value.to_vec(),
        place: record.header.place,
        content: record.header.content,
    })
}

/// Feeds `scanner` all of `file` from its offset on.
pub fn scan_at_once(mut scanner: Scanner, file: &[u8]) -> (Vec<Found>, Stop) {
    let mut out = Vec::new();
    loop {
        let from = (scanner.offset() as usize).min(file.len());
        match found(scanner.step(&file[from..])) {
            Ok(record) => out.push(record),
            Err(Step::Stop(stop)) => return (out, stop),
            Err(step) => panic!("{step:?} with all bytes at hand"),
        }
    }
}

/// Feeds `scanner` one byte more each time it asks, starting from none.
pub fn scan_byte_by_byte(mut scanner: Scanner, file: &[u8]) -> (Vec<Found>, Stop) {
    let mut out = Vec::new();
    let mut have = 0;
    loop {
        let from = scanner.offset() as usize;
        match found(scanner.step(&file[from..from + have])) {
            Ok(record) => {
                // Not before its padding is there, and as soon as it is.
                assert_eq!(have as u64, record.size);
                out.push(record);
                have = 0;
            }
            Err(Step::Stop(stop)) => return (out, stop),
            Err(Step::NeedMore(need)) => {
                assert!(need > have as u64, "asks for {need} bytes and has {have}");
                have += 1;
            }
            Err(Step::Record(_)) => unreachable!(),
        }
    }
}

/// A manifest in memory.
#[derive(Clone, Debug)]
pub struct ManifestImage {
    pub header: ManifestHeader,
    pub bytes: Vec<u8>,
    pub next_seq: u64,
    /// Offset of every edit, in order.
    pub starts: Vec<usize>,
}

impl ManifestImage {
    pub fn new(store_id: u8, salt: u8) -> Self {
        let header = ManifestHeader {
            store_id: [store_id; 16],
            salt: [salt; 16],
        };
        Self {
            header,
            bytes: header.encode().to_vec(),
            next_seq: 1,
            starts: Vec::new(),
        }
    }

    pub fn append(&mut self, edit: &Edit<'_>) -> usize {
        self.append_with_seq(edit, self.next_seq)
    }

    pub fn append_with_seq(&mut self, edit: &Edit<'_>, seq: u64) -> usize {
        let start = self.bytes.len();
        self.bytes.resize(start + edit.encoded_bytes(), 0);
        let key = self.header.place_key();
        let size = edit
            .encode_into(&mut self.bytes[start..], &key, start as u64, seq)
            .unwrap();
        assert_eq!(start + size, self.bytes.len());
        self.starts.push(start);
        self.next_seq = seq + 1;
        start
    }
}

/// How many edits `bytes` hold, and how they end.
pub fn read_manifest(bytes: &[u8]) -> (usize, Tail) {
    let (header, mut edits) = Edits::new(bytes).unwrap();
    assert_eq!(ManifestHeader::decode(&bytes[..HEADER_BYTES]), Ok(header));
    let count = edits.by_ref().count();
    (count, edits.tail())
}
