//! A run of bytes -> records, then why the run ended.
//!
//! [`Scanner`] is fed whatever bytes are at hand and asks for more when a record goes beyond them;
//! it never looks behind `limit`, allocates nothing and never steps by a length it has not checked.
//! Where a batch does not add up, the stop is the start of the batch: a consumer keeps what a batch
//! says to itself until its last record has come ([`Framing::BatchEnd`]).

use crate::VALUE_BYTES_MAX;
use crate::crc::PlaceKey;
use crate::error::DecodeError;
use crate::record::{
    Framing, HEADER_BYTES, Header, Kind, RawHeader, RecordRef, complete, parse_header,
};
use crate::segment::{PAGE_BYTES, SegmentHeader, SegmentKind};
use crate::system::{self, BatchHead, Link, Mark};
use zerocopy::FromBytes;

/// What [`Scanner::step`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A whole record with both checks intact.
    Record(RecordRef<'a>),
    /// The next record needs this many bytes from [`Scanner::offset`] on.
    NeedMore(u64),
    /// Nothing valid follows.
    Stop(Stop),
}

/// Where and why a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Offset behind the last record that counts; the start of the batch if one was open.
    pub offset: u64,
    /// LSN that a record there would have in a log segment.
    pub next_lsn: u64,
    /// Offset of the bytes that were rejected: behind `offset` only if a batch was open.
    pub rejected_at: u64,
    /// `None`: zeros or the limit, the clean end. Otherwise what is wrong with those bytes.
    pub reason: Option<DecodeError>,
}

#[derive(Clone, Copy, Debug)]
struct OpenBatch {
    offset: u64,
    lsn: u64,
    records_left: u32,
    bytes_left: u64,
}

/// Walks the records of one segment.
#[derive(Clone, Debug)]
pub struct Scanner {
    key: PlaceKey,
    kind: SegmentKind,
    mark_salt: [u8; 8],
    offset: u64,
    limit: u64,
    next_lsn: u64,
    any_lsn: bool,
    batch: Option<OpenBatch>,
    footer_seen: bool,
}

impl Scanner {
    /// Scans `segment` from its first record to `limit`.
    ///
    /// `next_lsn`: the LSN its LINK must have; 0 if that is not known (then the LINK decides).
    /// Merged segments have no such order and ignore it.
    #[must_use]
    pub fn new(segment: &SegmentHeader, limit: u64, next_lsn: u64) -> Self {
        Self::resume(segment, PAGE_BYTES, limit, next_lsn)
    }

    /// Scans from `offset` on, where a record must start, to `limit`.
    #[must_use]
    pub fn resume(segment: &SegmentHeader, offset: u64, limit: u64, next_lsn: u64) -> Self {
        Self {
            key: segment.place_key(),
            kind: segment.kind,
            mark_salt: segment.mark_salt(),
            offset,
            limit,
            next_lsn,
            any_lsn: next_lsn == 0,
            batch: None,
            footer_seen: false,
        }
    }

    /// Offset of the next record: where the bytes given to [`Scanner::step`] must start.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// LSN the next record must have in a log segment.
    #[must_use]
    pub fn next_lsn(&self) -> u64 {
        self.next_lsn
    }

    #[cold]
    fn stop(&self, reason: Option<DecodeError>) -> Step<'static> {
        // An open batch makes any end an unclean one.
        let reason = match (self.batch, reason) {
            (Some(_), None) => Some(DecodeError::BadBatch),
            (_, reason) => reason,
        };
        let (offset, next_lsn) = match self.batch {
            Some(batch) => (batch.offset, batch.lsn),
            None => (self.offset, self.next_lsn),
        };
        Step::Stop(Stop {
            offset,
            next_lsn,
            rejected_at: self.offset,
            reason,
        })
    }

    /// Decodes the record at [`Scanner::offset`]; `bytes` are the file's bytes from there on, as
    /// many as are at hand.
    #[inline]
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Step<'a> {
        let left = self.limit.saturating_sub(self.offset);
        if left == 0 {
            return self.stop(None);
        }
        if left < HEADER_BYTES as u64 {
            // Too short for a record: only padding may stand here.
            if (bytes.len() as u64) < left {
                return Step::NeedMore(left);
            }
            let zero = bytes[..left as usize].iter().all(|byte| *byte == 0);
            return self.stop((!zero).then_some(DecodeError::Truncated {
                need: HEADER_BYTES as u64,
                have: left,
            }));
        }
        if let Some(record) = self.ordinary(bytes, left) {
            self.pass(&record.header);
            return Step::Record(record);
        }
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Step::NeedMore(HEADER_BYTES as u64);
        };
        let header = match parse_header(&self.key, self.offset, head) {
            Ok(Some(header)) => header,
            Ok(None) => return self.stop(None),
            Err(error) => return self.stop(Some(error)),
        };
        if let Err(error) = self.legal_here(&header) {
            return self.stop(Some(error));
        }
        if header.size() > left {
            return self.stop(Some(DecodeError::Truncated {
                need: header.size(),
                have: left,
            }));
        }
        if (bytes.len() as u64) < header.size() {
            return Step::NeedMore(header.size());
        }
        let record = match complete(&self.key, header, self.offset, bytes) {
            Ok(record) => record,
            Err(error) => return self.stop(Some(error)),
        };
        if let Err(error) = self.accept(&record) {
            return self.stop(Some(error));
        }
        self.pass(&header);
        Step::Record(record)
    }

    /// The record here, if it is an ordinary one: a value that does not expire, in no batch, where one may
    /// stand, all of it at hand, with both checks intact, which are computed at once. Anything else is
    /// looked at in full: this says yes to nothing that would be refused there.
    #[inline(always)]
    fn ordinary<'a>(&self, bytes: &'a [u8], left: u64) -> Option<RecordRef<'a>> {
        let (raw, body) = RawHeader::ref_from_prefix(bytes).ok()?;
        let (key_len, value_len) = (raw.key_len.get(), raw.value_len.get());
        let lsn = raw.lsn.get();
        let is_merged = self.kind == SegmentKind::Merged;
        let may_stand_here = !self.footer_seen
            && self.batch.is_none()
            && (is_merged || (self.offset != PAGE_BYTES && (self.any_lsn || lsn == self.next_lsn)));
        if !may_stand_here
            || raw.kind != Kind::Set as u8
            || raw.framing != Framing::Single as u8
            || lsn == 0
            || value_len as usize > VALUE_BYTES_MAX
        {
            return None;
        }
        let header = Header {
            place: raw.place.get(),
            content: raw.content.get(),
            lsn,
            framing: Framing::Single,
            kind: Kind::Set,
            key_len,
            value_len,
        };
        let size = header.size();
        let len = header.unpadded() as usize;
        if size > left || size > bytes.len() as u64 || !self.key.holds(self.offset, bytes, len) {
            return None;
        }
        let (key, value) = body[..len - HEADER_BYTES].split_at(usize::from(key_len));
        Some(RecordRef {
            offset: self.offset,
            header,
            expires_at: None,
            key,
            value,
        })
    }

    /// The next record stands behind this one.
    #[inline(always)]
    fn pass(&mut self, header: &Header) {
        self.offset += header.size();
        self.next_lsn = header.lsn.saturating_add(1);
        self.any_lsn = false;
    }

    /// What the header alone can break: order, kind, framing.
    #[inline(always)]
    fn legal_here(&self, header: &Header) -> Result<(), DecodeError> {
        let bad_kind = DecodeError::BadKind {
            kind: header.kind as u8,
            framing: header.framing as u8,
        };
        if self.footer_seen {
            return Err(bad_kind);
        }
        if self.kind == SegmentKind::Merged {
            let legal = header.framing == Framing::Single
                && (header.kind.is_data() || header.kind == Kind::Footer);
            return if legal { Ok(()) } else { Err(bad_kind) };
        }
        if !self.any_lsn && header.lsn != self.next_lsn {
            return Err(DecodeError::BadLsn {
                expected: self.next_lsn,
                found: header.lsn,
            });
        }
        let first = self.offset == PAGE_BYTES;
        if first != (header.kind == Kind::Link) {
            return Err(bad_kind);
        }
        if let Some(batch) = self.batch {
            let framing = match batch.records_left {
                1 => Framing::BatchEnd,
                _ => Framing::InBatch,
            };
            if !header.kind.is_data() {
                return Err(bad_kind);
            }
            let last_too_short = batch.records_left == 1 && header.size() != batch.bytes_left;
            if header.framing != framing || header.size() > batch.bytes_left || last_too_short {
                return Err(DecodeError::BadBatch);
            }
        } else if header.framing != Framing::Single && header.kind != Kind::BatchHead {
            return Err(bad_kind);
        }
        Ok(())
    }

    /// What the body of a system record can break, and what it changes for the records behind it.
    #[inline(always)]
    fn accept(&mut self, record: &RecordRef<'_>) -> Result<(), DecodeError> {
        match record.header.kind {
            Kind::BatchHead => {
                let head = BatchHead::of(record)?;
                let bytes = head.bytes.get();
                let room = self.limit - self.offset - record.header.size();
                if head.count.get() == 0 || bytes > room {
                    return Err(DecodeError::BadBatch);
                }
                self.batch = Some(OpenBatch {
                    offset: self.offset,
                    lsn: record.header.lsn,
                    records_left: head.count.get(),
                    bytes_left: bytes,
                });
            }
            Kind::Mark => {
                let mark = Mark::of(record)?;
                // A mark speaks of syncs that finished before it was written.
                if mark.salt != self.mark_salt || mark.durable_lsn.get() >= record.header.lsn {
                    return Err(DecodeError::WrongIdentity);
                }
            }
            Kind::Link => {
                let link = Link::of(record)?;
                if link.previous_lsn.get() >= record.header.lsn {
                    return Err(DecodeError::BadLsn {
                        expected: link.previous_lsn.get().saturating_add(1),
                        found: record.header.lsn,
                    });
                }
            }
            Kind::Footer => self.footer_seen = true,
            Kind::Set | Kind::SetExpiring | Kind::Tombstone => match &mut self.batch {
                Some(batch) if batch.records_left > 1 => {
                    batch.records_left -= 1;
                    batch.bytes_left -= record.header.size();
                }
                _ => self.batch = None,
            },
        }
        Ok(())
    }
}

/// Highest `durable_lsn` that a MARK states anywhere in `bytes`, which stand at `offset` (a
/// multiple of 8) of `segment`.
///
/// Looks at every multiple of 8 for whole MARK records and for nothing else: what it finds is used
/// to tell damage from a torn tail, never replayed. A value cannot plant one: both checks are bound
/// to salt, segment and offset.
#[must_use]
pub fn find_mark(segment: &SegmentHeader, offset: u64, bytes: &[u8]) -> Option<u64> {
    let key = segment.place_key();
    let salt = segment.mark_salt();
    let size = system::MARK_RECORD_BYTES as usize;
    let mut best = None;
    let mut at = 0;
    while let Some(window) = bytes.get(at..at + size) {
        // Cheap test first: kind and lengths of a MARK, then its salt.
        if window[16..24] == [0, Kind::Mark as u8, 0, 0, 16, 0, 0, 0] && window[32..40] == salt {
            let record = crate::record::decode(&key, offset + at as u64, window);
            if let Ok(Some(record)) = record
                && let Ok(mark) = Mark::of(&record)
                && mark.durable_lsn.get() < record.header.lsn
            {
                best = best.max(Some(mark.durable_lsn.get()));
            }
        }
        at += 8;
    }
    best
}
