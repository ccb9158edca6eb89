//! Writing hint files, and deciding whether one may be used.
//!
//! A hint is never needed: whatever goes wrong with it, the segment is scanned. So writing one is
//! best effort and unsynced; its checksum tells a whole one from the rest.

use kvs_format::hash::{Fingerprint, HashKey, shard_of};
use kvs_format::hint::{ExpiryHistogram, HintEntry, HintHeader, HintRef, entries_of, hash_check};
use kvs_format::name;
use kvs_format::record::{HEADER_BYTES as RECORD_HEADER_BYTES, parse_header};
use kvs_format::segment::{PAGE_BYTES, SegmentHeader};
use zerocopy::IntoBytes;

use crate::engine::scan::{LastRecord, Scanned, scan, summary};
use crate::storage::buffer::Buffer;
use crate::storage::fs::{Access, Fs, FsFile};

/// Bytes of a log that must lie behind the last hint before closing writes another.
pub const PREFIX_BYTES: u64 = 1 << 20;

/// A hint file in memory whose checks held and which belongs to its segment.
#[derive(Debug)]
pub struct Hint {
    bytes: Buffer,
    /// Data records below this offset have an entry.
    pub covered: u64,
    /// LSN of the last record below it.
    pub end_lsn: u64,
    /// When those of them that expire do.
    pub expiry: ExpiryHistogram,
}

impl Hint {
    /// Its entries, in the order of the format.
    pub fn entries(&self) -> &[HintEntry] {
        let start = kvs_format::hint::HEADER_BYTES;
        let end = self.bytes.len() - kvs_format::hint::TRAILER_BYTES;
        zerocopy::FromBytes::ref_from_bytes(&self.bytes[start..end])
            .expect("a hint that was decoded has whole entries")
    }
}

impl Hint {
    /// True if the segment holds a record, live or dead, of the key with this fingerprint that is
    /// not newer than `lsn`: of equal LSN are pairs of one load, of which one counts.
    pub fn has_older(&self, fingerprint: Fingerprint, shard_bits: u8, lsn: u64) -> bool {
        let entries = entries_of(self.entries(), shard_bits, fingerprint);
        entries.iter().any(|entry| entry.lsn() <= lsn)
    }
}

/// The hint of the segment, if there is one that may be used up to `vouched`: the offset up to which
/// the manifest says that records are durable.
pub fn load<F: Fs>(
    fs: &F,
    segment: &F::File,
    header: &SegmentHeader,
    vouched: u64,
    shard_bits: u8,
    hash_key: &HashKey,
) -> Option<Hint> {
    let file = fs.open(&name::hint(header.id), Access::Read).ok()?;
    let len = usize::try_from(file.len().ok()?).ok()?;
    let mut head = [0u8; kvs_format::hint::HEADER_BYTES];
    // No more than one entry for every record that can stand below `vouched`: a stray large file of
    // that name is not worth its memory.
    let entries = vouched / RECORD_HEADER_BYTES as u64;
    let most = kvs_format::hint::file_bytes(entries)?;
    if len < head.len() || len as u64 > most {
        return None;
    }
    file.read_exact_at(0, &mut head).ok()?;
    if head[..8] != kvs_format::hint::MAGIC {
        return None;
    }
    let mut bytes = Buffer::zeroed(len);
    file.read_exact_at(0, &mut bytes).ok()?;
    let hint = HintRef::decode(&bytes).ok()?;
    let h = &hint.header;
    let bound = h.segment_id == header.id
        && h.salt == header.salt
        && h.shard_bits == shard_bits
        && h.hash_check == hash_check(hash_key)
        && h.covered <= vouched
        && h.last_offset >= PAGE_BYTES
        && h.last_offset < h.covered;
    if planted!("hint_unbound") {
        return Some(Hint {
            covered: h.covered.min(vouched),
            end_lsn: h.end_lsn,
            expiry: hint.expiry,
            bytes,
        });
    }
    if !bound {
        return None;
    }
    let mut record = [0u8; RECORD_HEADER_BYTES];
    segment.read_exact_at(h.last_offset, &mut record).ok()?;
    let last = parse_header(&header.place_key(), h.last_offset, &record).ok()??;
    let ends = h.last_offset.checked_add(last.size()) == Some(h.covered);
    if !ends || last.lsn != h.end_lsn || last.place != h.last_place {
        return None;
    }
    let (covered, end_lsn, expiry) = (h.covered, h.end_lsn, hint.expiry);
    Some(Hint {
        bytes,
        covered,
        end_lsn,
        expiry,
    })
}

/// The bytes of a hint over `entries` (any order; sorted here) up to `last`.
pub fn encode(
    header: &SegmentHeader,
    entries: &mut [HintEntry],
    expiry: &ExpiryHistogram,
    last: &LastRecord,
    shard_bits: u8,
    hash_key: &HashKey,
) -> Vec<u8> {
    sort(entries, shard_bits);
    encode_sorted(header, entries, expiry, last, shard_bits, hash_key)
}

/// The same of entries that are sorted.
pub fn encode_sorted(
    header: &SegmentHeader,
    entries: &[HintEntry],
    expiry: &ExpiryHistogram,
    last: &LastRecord,
    shard_bits: u8,
    hash_key: &HashKey,
) -> Vec<u8> {
    let (count, min_lsn, max_lsn, _) = summary(entries);
    let head = HintHeader {
        shard_bits,
        segment_id: header.id,
        salt: header.salt,
        covered: last.offset + last.size,
        end_lsn: last.lsn,
        last_offset: last.offset,
        last_place: last.place,
        count,
        hash_check: hash_check(hash_key),
        min_lsn,
        max_lsn,
    };
    let mut bytes = head.encode().to_vec();
    bytes.extend_from_slice(entries.as_bytes());
    bytes.extend_from_slice(&expiry.encode());
    let crc = kvs_format::crc::crc32(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Where in the low word the bits of the shard begin: see [`shard_of`].
const SHARD_SHIFT: u32 = 50;

/// Hash bits that are spread over the buckets of a shard, at most.
const BUCKET_BITS_MAX: u32 = 12;

/// Sorts as the format wants it: into shards by counting, then each of them, which fits a core's cache, by
/// counting again, with about one entry to a bucket since hashes are spread evenly; what is left to be
/// compared are the few of one bucket (a million entries: 24 ms instead of 52 with shards that are sorted by
/// comparing).
pub fn sort(entries: &mut [HintEntry], shard_bits: u8) {
    let shard = |entry: &HintEntry| shard_of(entry.fingerprint().lo, shard_bits);
    let mut unsorted = entries.to_vec();
    let ends = spread(entries, &mut unsorted, 1 << shard_bits, shard);
    let mut start = 0;
    for end in ends {
        let (from, to) = (&unsorted[start..end], &mut entries[start..end]);
        sort_shard(from, to, shard_bits);
        start = end;
    }
}

/// Sorts the entries `from` of one shard into `to`.
fn sort_shard(from: &[HintEntry], to: &mut [HintEntry], shard_bits: u8) {
    if from.len() < 2 {
        to.copy_from_slice(from);
        return;
    }
    let bits = from.len().ilog2().min(BUCKET_BITS_MAX);
    // The word by which they are sorted without the bits of the shard, which are all the same.
    let low = (1u64 << SHARD_SHIFT) - 1;
    let left = 64 - u32::from(shard_bits);
    let bucket = |entry: &HintEntry| {
        let lo = entry.fingerprint().lo;
        let high = (lo >> (SHARD_SHIFT + u32::from(shard_bits))) << SHARD_SHIFT;
        ((high | (lo & low)) >> (left - bits)) as usize
    };
    let ends = spread(from, to, 1 << bits, bucket);
    let mut start = 0;
    for end in ends {
        if end - start > 1 {
            to[start..end].sort_unstable_by(|a, b| {
                let words = a.fingerprint().lo.cmp(&b.fingerprint().lo);
                words.then_with(|| a.sort_key(shard_bits).cmp(&b.sort_key(shard_bits)))
            });
        }
        start = end;
    }
}

/// Copies `from` to `to`, bucket by bucket; where each of them ends.
fn spread(
    from: &[HintEntry],
    to: &mut [HintEntry],
    buckets: usize,
    bucket: impl Fn(&HintEntry) -> usize,
) -> Vec<usize> {
    let mut places = vec![0usize; buckets];
    for entry in from {
        places[bucket(entry)] += 1;
    }
    let mut sum = 0;
    for place in &mut places {
        sum += std::mem::replace(place, sum);
    }
    for entry in from {
        let place = &mut places[bucket(entry)];
        to[*place] = *entry;
        *place += 1;
    }
    places
}

/// Writes a hint file, in place: its name never vanishes, and half of one is no hint.
pub fn write<F: Fs>(fs: &F, id: u64, bytes: &[u8]) -> std::io::Result<()> {
    let file = fs.create_or_truncate(&name::hint(id))?;
    file.write_at(0, bytes).inspect_err(|_| {
        // On a full disk half of one must not take the room that something needed could use.
        let _ = file.set_len(0);
    })
}

/// Scans the segment up to `limit` and writes its hint. When its records expire, which the scan
/// tells, and whether the hint was written.
pub fn write_for<F: Fs>(
    fs: &F,
    file: &F::File,
    header: &SegmentHeader,
    limit: u64,
    shard_bits: u8,
    hash_key: &HashKey,
    now: u64,
) -> (Option<ExpiryHistogram>, bool) {
    let scanned = scan(file, header, PAGE_BYTES, limit, 0, hash_key);
    let Some(scanned) = scanned.ok().filter(|scanned| scanned.stop.offset == limit) else {
        return (None, false);
    };
    let expiry = scanned.expiry(now);
    let written = write_scanned(fs, header, scanned, shard_bits, hash_key, now);
    (Some(expiry), written)
}

/// Writes the hint of a segment that was scanned from its first record.
pub fn write_scanned<F: Fs>(
    fs: &F,
    header: &SegmentHeader,
    mut scanned: Scanned,
    shard_bits: u8,
    hash_key: &HashKey,
    now: u64,
) -> bool {
    let Some(last) = scanned.last else {
        return false;
    };
    let expiry = scanned.expiry(now);
    let bytes = encode(
        header,
        &mut scanned.entries,
        &expiry,
        &last,
        shard_bits,
        hash_key,
    );
    write(fs, header.id, &bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvs_format::record::Kind;

    /// Also of hashes that are not spread at all, and of one key many times.
    #[test]
    fn sorting_gives_what_comparing_gives() {
        let mut state = 1u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state ^ (state >> 29)
        };
        for shard_bits in [0, 1, 4, 10] {
            for len in [0usize, 1, 2, 3, 100, 5_000] {
                for mask in [
                    u64::MAX,
                    0xFF << 48,
                    0xF << 60,
                    0xFF,
                    1 << 63 | 1 << 50 | 1,
                    0,
                ] {
                    let mut entry = || {
                        let fp = Fingerprint {
                            lo: random() & mask,
                            hi: random() & mask & 3,
                        };
                        let (lsn, offset) = (random() % 3, random() % (1 << 27) * 8);
                        HintEntry::new(fp, lsn, offset, 40, Kind::Set)
                    };
                    let mut entries: Vec<HintEntry> = (0..len).map(|_| entry()).collect();
                    let mut wanted = entries.clone();
                    wanted.sort_by_key(|entry| entry.sort_key(shard_bits));
                    sort(&mut entries, shard_bits);
                    assert!(entries == wanted, "{shard_bits} {len} {mask:x}");
                }
            }
        }
    }
}
