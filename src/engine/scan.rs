//! Reading a segment by `pread`, record by record.
//!
//! Maps are for users' reads. What decides about durability, damage or compaction is read through
//! the file descriptor, so that a read error is an error and not a signal.

use std::io;

use kvs_format::hash::HashKey;
use kvs_format::hint::{ExpiryHistogram, HintEntry};
use kvs_format::record::{Framing, Kind, RecordRef};
use kvs_format::scan::{Scanner, Step, Stop};
use kvs_format::segment::SegmentHeader;
use kvs_format::system::{Footer, Link, MARK_RECORD_BYTES, Mark};

use crate::storage::fs::FsFile;

/// Bytes read at a time: small enough to stay in a core's cache between copy and checksum.
const CHUNK_BYTES: usize = 256 << 10;

/// Records shown together: a chunk of small pairs. After a large record the chunk is larger.
const TOGETHER_MAX: usize = 2048;

/// Walks the records that `scanner` accepts; returns where and why it stopped.
///
/// Memory: one chunk, or one record if that is larger and its header's check holds.
///
/// # Errors
/// The read error, or what `visit` returned.
pub fn walk<F: FsFile, E: From<io::Error>>(
    file: &F,
    scanner: &mut Scanner,
    mut visit: impl FnMut(&RecordRef<'_>) -> Result<(), E>,
) -> Result<Stop, E> {
    let mut window = Window::new();
    loop {
        let need = loop {
            match scanner.step(window.bytes()) {
                Step::Record(record) => {
                    visit(&record)?;
                    window.start += record.header.size() as usize;
                }
                Step::Stop(stop) => return Ok(stop),
                Step::NeedMore(bytes) => break bytes,
            }
        };
        window.read(file, scanner.offset(), need)?;
    }
}

/// As [`walk`], and shows the records of a chunk together, some thousand at most; half of a batch may be
/// among them.
///
/// # Errors
/// As [`walk`].
pub fn walk_together<F: FsFile, E: From<io::Error>>(
    file: &F,
    scanner: &mut Scanner,
    mut visit: impl FnMut(&[RecordRef<'_>]) -> Result<(), E>,
) -> Result<Stop, E> {
    let mut window = Window::new();
    loop {
        let mut records = Vec::new();
        let (mut need, mut shown) = (None, 0);
        while need.is_none() && records.len() < TOGETHER_MAX {
            match scanner.step(&window.bytes()[shown..]) {
                Step::Record(record) => {
                    shown += record.header.size() as usize;
                    records.push(record);
                }
                Step::Stop(stop) => {
                    visit(&records)?;
                    return Ok(stop);
                }
                Step::NeedMore(bytes) => need = Some(bytes),
            }
        }
        visit(&records)?;
        drop(records);
        window.start += shown;
        if let Some(need) = need {
            window.read(file, scanner.offset(), need)?;
        }
    }
}

/// The bytes of a file from a scanner's offset on, as far as they were read.
struct Window {
    buffer: Vec<u8>,
    /// Those that the scanner has not passed are `start..end`.
    start: usize,
    end: usize,
    at_end: bool,
}

impl Window {
    fn new() -> Self {
        Self {
            buffer: vec![0; CHUNK_BYTES],
            start: 0,
            end: 0,
            at_end: false,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads more from `offset` on, where the window starts: at least `need` bytes, unless the file ends
    /// before.
    ///
    /// # Errors
    /// The read error; that the file ends, if it was read to its end already.
    fn read<F: FsFile>(&mut self, file: &F, offset: u64, need: u64) -> io::Result<()> {
        if self.at_end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let want = (need as usize).max(CHUNK_BYTES);
        if self.buffer.len() < want {
            self.buffer.resize(want, 0);
        }
        while self.end < self.buffer.len() {
            let at = offset + self.end as u64;
            match file.read_at(at, &mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.at_end = true;
                    break;
                }
                Ok(n) => self.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What a scan of (part of) a segment found.
#[derive(Debug)]
pub struct Scanned {
    /// One entry per data record, in the order of the log.
    pub entries: Vec<HintEntry>,
    /// Of the data records that expire: when, and their sizes.
    pub expiring: Vec<(u64, u64)>,
    /// Highest LSN that a MARK stated.
    pub marked: u64,
    /// Its LINK and the LINK's own LSN.
    pub link: Option<(Link, u64)>,
    /// It ends with a FOOTER.
    pub footer: Option<Footer>,
    /// Last whole record: offset, `place`, LSN.
    pub last: Option<LastRecord>,
    /// Where and why reading stopped.
    pub stop: Stop,
    /// Highest LSN of any whole record, those of an unfinished batch included.
    pub max_lsn: u64,
    /// Whole records.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Scanned {
    /// When the records that expire do.
    pub fn expiry(&self, now: u64) -> ExpiryHistogram {
        ExpiryHistogram::of(self.expiring.iter().copied(), now)
    }
}

/// A record by which a hint is bound to its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRecord {
    /// Where it starts.
    pub offset: u64,
    /// Its `place` check.
    pub place: u32,
    /// Its LSN.
    pub lsn: u64,
    /// Bytes of it, padding included.
    pub size: u64,
}

/// Scans the segment from `from` to `limit`; data records become entries.
///
/// `next_lsn` as in [`Scanner::new`]. What an unfinished batch said is left out.
pub fn scan<F: FsFile>(
    file: &F,
    header: &SegmentHeader,
    from: u64,
    limit: u64,
    next_lsn: u64,
    hash_key: &HashKey,
) -> io::Result<Scanned> {
    let mut scanner = Scanner::resume(header, from, limit, next_lsn);
    let mut entries: Vec<HintEntry> = Vec::new();
    let mut expiring = Vec::new();
    let (mut marked, mut link, mut footer, mut last) = (0, None, None, None);
    let (mut records, mut bytes, mut max_lsn) = (0, 0, 0);
    let stop = walk(file, &mut scanner, |record| -> io::Result<()> {
        let header = &record.header;
        records += 1;
        max_lsn = max_lsn.max(header.lsn);
        bytes += header.size();
        match header.kind {
            Kind::Set | Kind::SetExpiring | Kind::Tombstone => {
                entries.push(HintEntry::new(
                    hash_key.fingerprint(record.key),
                    header.lsn,
                    record.offset,
                    header.size(),
                    header.kind,
                ));
                let at = record
                    .expires_at
                    .map(|at| (record.offset, at, header.size()));
                expiring.extend(at);
            }
            Kind::Mark => {
                if let Ok(mark) = Mark::of(record) {
                    marked = marked.max(mark.durable_lsn.get());
                }
            }
            Kind::Link => link = Link::of(record).ok().map(|l| (l, header.lsn)),
            Kind::Footer => footer = Footer::of(record).ok(),
            Kind::BatchHead => {}
        }
        if header.framing != Framing::InBatch {
            last = Some(LastRecord {
                offset: record.offset,
                place: header.place,
                lsn: header.lsn,
                size: header.size(),
            });
        }
        Ok(())
    })?;
    let stop = match planted!("half_batches_kept") {
        true => Stop {
            offset: stop.rejected_at,
            next_lsn: scanner.next_lsn(),
            ..stop
        },
        false => stop,
    };
    entries.retain(|entry| entry.offset() < stop.offset);
    expiring.retain(|(offset, _, _)| *offset < stop.offset);
    Ok(Scanned {
        entries,
        expiring: expiring
            .into_iter()
            .map(|(_, at, size)| (at, size))
            .collect(),
        marked,
        link,
        footer,
        last,
        stop,
        max_lsn,
        records,
        bytes,
    })
}

/// Highest durable LSN that a MARK states anywhere in `from..limit`, on the grid of 8 bytes.
pub fn find_marks<F: FsFile>(
    file: &F,
    header: &SegmentHeader,
    from: u64,
    limit: u64,
) -> io::Result<u64> {
    let mut best = 0;
    let mut buffer = vec![0u8; CHUNK_BYTES];
    let mut at = from;
    while at < limit {
        let want = (limit - at).min(CHUNK_BYTES as u64) as usize;
        let mut got = 0;
        while got < want {
            match file.read_at(at + got as u64, &mut buffer[got..want]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let found = kvs_format::scan::find_mark(header, at, &buffer[..got]);
        best = best.max(found.unwrap_or(0));
        if got < want || want < CHUNK_BYTES {
            break;
        }
        // The next chunk starts early enough to hold a MARK that lies across the edge.
        at += CHUNK_BYTES as u64 - (MARK_RECORD_BYTES - 8);
    }
    Ok(best)
}

/// Summary of the data records among `entries`: count, lowest and highest LSN, bytes.
pub fn summary(entries: &[HintEntry]) -> (u64, u64, u64, u64) {
    let min = entries.iter().map(HintEntry::lsn).min().unwrap_or(0);
    let max = entries.iter().map(HintEntry::lsn).max().unwrap_or(0);
    let bytes = entries.iter().map(HintEntry::size).sum();
    (entries.len() as u64, min, max, bytes)
}
