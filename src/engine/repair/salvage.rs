//! Reading what is whole of a segment, and saying what is not.
//!
//! Behind damage the next record is looked for on the grid of 8 bytes; it counts if both of its checks
//! hold, which bind it to segment, offset and LSN. So what is found was written there by this store: a
//! value cannot plant a record, and one that was moved does not pass.

use std::collections::HashMap;

use kvs_format::DecodeError;
use kvs_format::crc::PlaceKey;
use kvs_format::hash::{Fingerprint, HashKey};
use kvs_format::record::{Framing, HEADER_BYTES, Kind, RecordRef, complete, parse_header};
use kvs_format::segment::{PAGE_BYTES, SegmentKind};
use kvs_format::system::{BatchHead, Mark};

use crate::engine::catalog::NUMBER_MAX;
use crate::engine::repair::inventory::Item;
use crate::engine::repair::window::Window;
use crate::engine::report::{Lost, TornTail};
use crate::storage::fs::{Fs, FsFile};

/// Bytes searched at a time.
const SEARCH_BYTES: u64 = 64 << 10;

/// The newest version of a key that was found.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub lsn: u64,
    pub offset: u64,
    /// Index of the segment.
    pub item: u32,
    /// Removed, or expired: there only to shadow older versions.
    pub gone: bool,
}

/// A batch whose last record has not come.
struct Open {
    start: u64,
    lsn: u64,
    left: u32,
    entries: Vec<(Fingerprint, Entry)>,
    /// One of its records is lost.
    broken: bool,
}

/// The end of a segment of which nothing says where it is.
struct Tail {
    item: usize,
    at: u64,
    next_lsn: Option<u64>,
    batch: Option<Open>,
    /// What stands there is no clean end.
    dirty: Option<String>,
}

/// What was found so far.
pub struct Survey {
    /// Of a random key: nobody outside can choose keys that collide.
    hash_key: HashKey,
    /// Unix milliseconds: what expires by then is gone.
    now: u64,
    pub newest: HashMap<Fingerprint, Entry>,
    pub lost: Vec<Lost>,
    pub torn_tail: Option<TornTail>,
    pub records: u64,
    pub bytes: u64,
    pub broken_batches: u64,
    /// Highest LSN that anything states to be durable.
    durable_lsn: u64,
    tails: Vec<Tail>,
}

impl Survey {
    pub fn new(hash_key: HashKey, now: u64, durable_lsn: u64) -> Self {
        Self {
            hash_key,
            now,
            newest: HashMap::new(),
            lost: Vec::new(),
            torn_tail: None,
            records: 0,
            bytes: 0,
            broken_batches: 0,
            durable_lsn,
            tails: Vec::new(),
        }
    }

    /// Reads the segment with this index.
    pub fn read<F: Fs>(&mut self, fs: &F, index: usize, item: &Item<F>) {
        let key = item.header.place_key();
        let is_log = item.header.kind == SegmentKind::Log;
        let limit = item.limit;
        let mut window = Window::new(&item.file, limit);
        let mut at = PAGE_BYTES;
        let mut next_lsn = item.first_lsn.filter(|_| is_log);
        let mut gap: Option<(u64, String)> = None;
        let mut batch: Option<Open> = None;
        let (mut data, mut footer) = (0u64, false);
        let first_lost = self.lost.len();
        loop {
            let decoded = decode(&mut window, &key, at, limit);
            let record = match decoded {
                Ok(Some(record)) => record,
                other => {
                    let reason = match other {
                        Err(reason) => reason.to_string(),
                        Ok(_) => "no record".to_owned(),
                    };
                    gap.get_or_insert((at, reason));
                    match search(&mut window, &key, at + 8, limit) {
                        Some(next) => {
                            at = next;
                            continue;
                        }
                        None => break,
                    }
                }
            };
            let header = record.header;
            if let Some((start, reason)) = gap.take() {
                let before = header.lsn.saturating_sub(1);
                let lsns = next_lsn.filter(|next| is_log && *next <= before);
                self.lost.push(Lost {
                    file: fs.path_of(&item.name),
                    offset: start,
                    bytes: at - start,
                    lsns: lsns.map(|next| (next, before)),
                    records: lsns.map(|next| before - next + 1),
                    reason,
                });
                if let Some(batch) = &mut batch {
                    batch.broken = true;
                }
            }
            self.records += 1;
            self.bytes += header.size();
            data += u64::from(header.kind.is_data());
            footer = header.kind == Kind::Footer;
            self.visit(index, &record, &mut batch);
            next_lsn = Some(header.lsn.saturating_add(1));
            at += header.size();
            if at >= limit {
                break;
            }
        }
        let (end, reason) = match gap {
            Some((start, reason)) => (start, Some(reason)),
            None => (at, None),
        };
        for (offset, bytes, error) in &window.unreadable {
            // Unless it is in a range that is reported anyway.
            let from = self.lost[first_lost..].iter();
            let mut known = from.map(|lost| (lost.offset, lost.offset + lost.bytes));
            if *offset >= end.max(item.whole) || !known.any(|(a, b)| a <= *offset && *offset < b) {
                self.lost.push(Lost {
                    file: fs.path_of(&item.name),
                    offset: *offset,
                    bytes: *bytes,
                    lsns: None,
                    records: None,
                    reason: error.to_string(),
                });
            }
        }
        if end < item.whole {
            let last = item.whole_lsn.filter(|_| is_log);
            let lsns = next_lsn.zip(last).filter(|(next, last)| next <= last);
            self.lost.push(Lost {
                file: fs.path_of(&item.name),
                offset: end,
                bytes: item.whole - end,
                lsns,
                records: lsns.map(|(next, last)| last - next + 1),
                reason: reason.unwrap_or_else(|| "the file is too short".to_owned()),
            });
            self.end_batch(batch.take(), true);
        } else if item.end.is_none() && !footer {
            let dirty = reason.filter(|_| !is_zero(&mut window, end, limit));
            self.tails.push(Tail {
                item: index,
                at: end,
                next_lsn,
                batch: batch.take(),
                dirty,
            });
        }
        self.end_batch(batch, true);
        // Of a merged segment only the sum is known.
        let mut unknown = self.lost[first_lost..].iter_mut();
        let mut unknown = unknown.by_ref().filter(|lost| lost.records.is_none());
        if let (Some(lost), None, Some(end)) = (unknown.next(), unknown.next(), item.end) {
            lost.records = (!is_log).then(|| end.records.saturating_sub(data));
        }
    }

    fn visit(&mut self, index: usize, record: &RecordRef<'_>, batch: &mut Option<Open>) {
        let header = &record.header;
        let framed = header.framing != Framing::Single && header.kind.is_data();
        if !framed {
            // Its last record would have come before.
            let open = batch.take();
            self.end_batch(open, true);
        }
        match header.kind {
            Kind::BatchHead => {
                *batch = BatchHead::of(record).ok().map(|head| Open {
                    start: record.offset,
                    lsn: header.lsn,
                    left: head.count.get(),
                    entries: Vec::new(),
                    broken: false,
                });
            }
            Kind::Mark => {
                let stated = Mark::of(record).map_or(0, |mark| mark.durable_lsn.get());
                if stated < header.lsn && stated < NUMBER_MAX {
                    self.durable_lsn = self.durable_lsn.max(stated);
                }
            }
            Kind::Link | Kind::Footer => {}
            Kind::Set | Kind::SetExpiring | Kind::Tombstone => {
                let entry = Entry {
                    lsn: header.lsn,
                    offset: record.offset,
                    item: index as u32,
                    gone: header.kind == Kind::Tombstone
                        || record.expires_at.is_some_and(|at| at <= self.now),
                };
                let fingerprint = self.hash_key.fingerprint(record.key);
                if !framed {
                    self.keep(fingerprint, entry);
                    return;
                }
                // Without its head it is a part of a batch all the same.
                let open = batch.get_or_insert_with(|| Open {
                    start: record.offset,
                    lsn: header.lsn,
                    left: 0,
                    entries: Vec::new(),
                    broken: true,
                });
                open.left = open.left.saturating_sub(1);
                open.entries.push((fingerprint, entry));
                if header.framing == Framing::BatchEnd {
                    let open = batch.take();
                    let short = open.as_ref().is_some_and(|open| open.left > 0);
                    self.end_batch(open, short);
                }
            }
        }
    }

    /// Takes in what there is of a batch. `short`: records of it are missing.
    fn end_batch(&mut self, batch: Option<Open>, short: bool) {
        let Some(batch) = batch else {
            return;
        };
        self.broken_batches += u64::from(short || batch.broken);
        for (fingerprint, entry) in batch.entries {
            self.keep(fingerprint, entry);
        }
    }

    fn keep(&mut self, fingerprint: Fingerprint, entry: Entry) {
        let newest = self.newest.entry(fingerprint).or_insert(entry);
        // Of a load, all of whose pairs have one LSN, the last pair counts: ids and offsets ascend.
        if entry.lsn >= newest.lsn {
            *newest = entry;
        }
    }

    /// When all is read: what the ends of unsealed segments mean.
    pub fn settle<F: Fs>(&mut self, fs: &F, items: &[Item<F>]) {
        for tail in std::mem::take(&mut self.tails) {
            let item = &items[tail.item];
            let begun = tail.batch.as_ref().map(|batch| (batch.start, batch.lsn));
            let promised = match (begun, tail.next_lsn) {
                (Some((_, lsn)), _) | (None, Some(lsn)) => lsn <= self.durable_lsn,
                (None, None) => false,
            };
            let short = item.len < item.allocated;
            let merged = item.header.kind == SegmentKind::Merged;
            if promised || short || merged {
                let last = tail
                    .next_lsn
                    .filter(|next| promised && *next <= self.durable_lsn);
                self.lost.push(Lost {
                    file: fs.path_of(&item.name),
                    offset: tail.at,
                    bytes: item.allocated.max(item.limit).saturating_sub(tail.at),
                    lsns: last.map(|next| (next, self.durable_lsn)),
                    records: None,
                    reason: match (short, tail.dirty) {
                        (true, _) => "the file is too short".to_owned(),
                        (false, Some(reason)) => reason,
                        (false, None) => "records are missing".to_owned(),
                    },
                });
                self.end_batch(tail.batch, true);
            } else if tail.dirty.is_some() || begun.is_some() {
                // A write that was not finished, and not promised: opening drops it too.
                self.torn_tail = Some(TornTail {
                    segment: item.header.id,
                    offset: begun.map_or(tail.at, |(start, _)| start),
                });
            }
        }
    }
}

/// The record at `at`, if one fits below `limit`.
fn decode<'w, F: FsFile>(
    window: &'w mut Window<'_, F>,
    key: &PlaceKey,
    at: u64,
    limit: u64,
) -> Result<Option<RecordRef<'w>>, DecodeError> {
    let have = limit.saturating_sub(at);
    let head = window.at(at, HEADER_BYTES as u64);
    let Some(head) = head.first_chunk::<HEADER_BYTES>() else {
        return match head.iter().all(|byte| *byte == 0) {
            true => Ok(None),
            false => Err(DecodeError::Truncated {
                need: HEADER_BYTES as u64,
                have,
            }),
        };
    };
    let Some(header) = parse_header(key, at, head)? else {
        return Ok(None);
    };
    let need = header.unpadded();
    if need > have {
        return Err(DecodeError::Truncated { need, have });
    }
    // Not LSNs that no store can have reached: somebody who knows the salt made them up.
    if header.lsn >= NUMBER_MAX {
        return Err(DecodeError::BadLsn {
            expected: NUMBER_MAX,
            found: header.lsn,
        });
    }
    complete(key, header, at, window.at(at, need)).map(Some)
}

/// The next offset from `at` on where a whole record stands.
fn search<F: FsFile>(
    window: &mut Window<'_, F>,
    key: &PlaceKey,
    mut at: u64,
    limit: u64,
) -> Option<u64> {
    while at + HEADER_BYTES as u64 <= limit {
        let chunk = window.at(at, SEARCH_BYTES);
        let mut next = None;
        let mut from = 0;
        while let Some(head) = chunk
            .get(from..)
            .and_then(|c| c.first_chunk::<HEADER_BYTES>())
        {
            // Most of what is no record shows here already.
            let likely = head[16] <= 2 && (1..=7).contains(&head[17]);
            if likely && matches!(parse_header(key, at + from as u64, head), Ok(Some(_))) {
                next = Some(at + from as u64);
                break;
            }
            from += 8;
        }
        at += from as u64;
        if let Some(next) = next {
            if matches!(decode(window, key, next, limit), Ok(Some(_))) {
                return Some(next);
            }
            at = next + 8;
        }
    }
    None
}

fn is_zero<F: FsFile>(window: &mut Window<'_, F>, mut at: u64, limit: u64) -> bool {
    while at < limit {
        let chunk = window.at(at, SEARCH_BYTES);
        if chunk.iter().any(|byte| *byte != 0) {
            return false;
        }
        at += chunk.len() as u64;
    }
    true
}
