//! Opening a store: read everything, decide, and only then change anything.
//!
//! Order, so that a refused open changes no byte and every step can be repeated after another cut:
//! manifest, ended segments (by hint or scan), unsealed segments (by scan), verdict; then re-dirty
//! and sync what is kept, SEAL and CUT, trim, remove what is left over, FORGET.
//!
//! The bytes of an unsealed segment are written back before they are trusted: after a failed sync of
//! an earlier life the kernel may hold pages as clean that never reached the disk.

mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use kvs_format::DecodeError;
use kvs_format::hash::HashKey;
use kvs_format::hint::{ExpiryHistogram, HintEntry};
use kvs_format::manifest::Edit;
use kvs_format::name::{self, Name};
use kvs_format::record::{HEADER_BYTES, Kind, parse_header};
use kvs_format::segment::{PAGE_BYTES, SegmentHeader, SegmentKind};
use zerocopy::byteorder::little_endian::U64;

use crate::engine::catalog::{self, Catalog, End, LogEnd, Manifest, SegmentMeta};
use crate::engine::config::Config;
use crate::engine::error::{Error, Result};
use crate::engine::hints::{self, Hint};
use crate::engine::load::{self, Source};
use crate::engine::report::{Damage, RecoveryReport, TornTail};
use crate::engine::scan::{Scanned, find_marks, scan, summary};
use crate::engine::segment::{Segment, Slot, View, read_header};
use crate::index::Index;
use crate::storage::error::StorageError;
use crate::storage::fs::{Access, Fs, FsFile};
use crate::storage::raw::mmap::MapWriter;
use crate::storage::window::Windows;
use verdict::{Stopped, Successor, Verdict, verdict};

/// Bytes of ended segments beyond which more than one thread is worth starting.
const PARALLEL_BYTES: u64 = 16 << 20;

/// Bytes written back at a time.
const REDIRTY_BYTES: usize = 1 << 20;

/// An unsealed segment in which writing may go on.
pub struct Resumable<F: Fs> {
    /// The segment.
    pub segment: Arc<Segment<F>>,
    /// Its writer.
    pub map: MapWriter,
    /// Offset behind its last record.
    pub offset: u64,
    /// Its data records so far: count, lowest and highest LSN, bytes.
    pub summary: (u64, u64, u64, u64),
    /// Its hint, if it has one, covers this much.
    pub hinted: u64,
}

/// A store as it was found, ready to be used.
pub struct Recovered<F: Fs> {
    /// Writer of the manifest; `None` when read-only.
    pub manifest: Option<Manifest<F>>,
    /// Key of the fingerprint hash.
    pub hash_key: HashKey,
    /// Live segments by id.
    pub segments: BTreeMap<u64, Arc<Segment<F>>>,
    /// How each of them ends; the resumable one is not among them.
    pub ends: BTreeMap<u64, End>,
    /// Window -> segment.
    pub view: Arc<View>,
    /// The loaded index.
    pub index: Index<View>,
    /// Free windows.
    pub windows: Windows,
    /// Where writing may go on.
    pub resumable: Option<Resumable<F>>,
    /// End of the last ended log segment.
    pub log_end: LogEnd,
    /// LSN of the next record.
    pub next_lsn: u64,
    /// Highest LSN known to be durable.
    pub durable_lsn: u64,
    /// Ended segments of which much is covered by no hint.
    pub unhinted: Vec<u64>,
    /// What was found and done.
    pub report: RecoveryReport,
}

/// Where a segment's index entries come from.
enum Entries {
    Hint(Hint),
    Own(Vec<HintEntry>, ExpiryHistogram),
}

impl Entries {
    fn expiry(&self) -> ExpiryHistogram {
        match self {
            Self::Hint(hint) => hint.expiry,
            Self::Own(_, expiry) => *expiry,
        }
    }

    fn as_slice(&self) -> &[HintEntry] {
        match self {
            Self::Hint(hint) => hint.entries(),
            Self::Own(entries, _) => entries,
        }
    }
}

/// A live segment while opening.
struct Opened<F: Fs> {
    meta: SegmentMeta,
    header: SegmentHeader,
    file: F::File,
    file_len: u64,
}

/// What reading a segment gave and took.
struct Whole {
    entries: Entries,
    /// How much of the segment its hint covers.
    covered: u64,
    hints_used: u64,
    /// Records scanned, and their bytes.
    records: u64,
    bytes: u64,
    damage: Option<Error>,
}

impl Default for Whole {
    fn default() -> Self {
        Self {
            entries: Entries::Own(Vec::new(), ExpiryHistogram::EMPTY),
            covered: 0,
            hints_used: 0,
            records: 0,
            bytes: 0,
            damage: None,
        }
    }
}

struct Driver<'a, F: Fs> {
    fs: &'a F,
    config: &'a Config,
    hash_key: HashKey,
    shard_bits: u8,
    unhinted: Vec<u64>,
    report: RecoveryReport,
}

fn io_at<F: Fs>(fs: &F, op: &'static str, name: &str) -> impl Fn(io::Error) -> Error {
    let path = fs.path_of(name);
    move |source| {
        Error::from(StorageError::Io {
            op,
            path: path.clone(),
            source,
        })
    }
}

/// Opens the store in `fs`.
pub fn recover<F: Fs>(fs: &F, config: &Config) -> Result<Recovered<F>> {
    let names = fs.list().map_err(io_at(fs, "list the directory", ""))?;
    // A number that no store of ours can have reached is not ours.
    let ours = |name: &Name| match name {
        Name::Segment(id) | Name::Hint(id) => *id <= catalog::ID_MAX,
        _ => true,
    };
    let ours: Vec<Name> = names
        .iter()
        .filter_map(|n| name::parse(n))
        .filter(ours)
        .collect();
    if !ours.contains(&Name::Manifest) {
        return create(fs, config, &ours);
    }
    let read = catalog::read(fs)?;
    let mut driver = Driver {
        fs,
        config,
        hash_key: HashKey::from_bytes(&read.catalog.store.hash_key),
        shard_bits: read.catalog.store.shard_bits,
        unhinted: Vec::new(),
        report: RecoveryReport::default(),
    };
    let manifest_end = read.end;
    let leftovers = match config.read_only {
        true => Vec::new(),
        false => driver.leftovers(&read.catalog, &ours, manifest_end)?,
    };
    if config.read_only
        && let Err(error) = driver.leftovers(&read.catalog, &ours, manifest_end)
    {
        driver.damaged(error)?;
    }
    driver.run(read, &ours, leftovers)
}

/// A directory without a manifest: a new store, or nothing to read, or damage.
fn create<F: Fs>(fs: &F, config: &Config, ours: &[Name]) -> Result<Recovered<F>> {
    if ours.iter().any(|name| matches!(name, Name::Segment(_))) {
        // The manifest is durable before the first segment is created.
        return Err(Error::Missing {
            path: fs.path_of(name::MANIFEST),
        });
    }
    let random = || {
        (config.entropy)().map_err(|source| Error::Io {
            op: "get random bytes",
            path: std::path::PathBuf::new(),
            source,
        })
    };
    let hash_key = random()?;
    let manifest = match config.read_only {
        true => None,
        false => Some(Manifest::create(
            fs,
            random()?,
            random()?,
            hash_key,
            config.shard_bits,
        )?),
    };
    let view = Arc::new(View::default());
    Ok(Recovered {
        manifest,
        hash_key: HashKey::from_bytes(&hash_key),
        segments: BTreeMap::new(),
        ends: BTreeMap::new(),
        index: Index::new(config.shard_bits, &view),
        view,
        windows: Windows::default(),
        resumable: None,
        log_end: LogEnd {
            id: 0,
            end: 0,
            lsn: 0,
            next_lsn: 1,
        },
        next_lsn: 1,
        durable_lsn: 0,
        unhinted: Vec::new(),
        report: RecoveryReport {
            clean: true,
            ..RecoveryReport::default()
        },
    })
}

impl<F: Fs> Driver<'_, F> {
    fn corrupt(&self, name: &str, offset: u64, reason: DecodeError) -> Error {
        Error::Corrupt {
            path: self.fs.path_of(name),
            offset,
            reason,
        }
    }

    /// Damage: refuses, or, read-only, writes it down and goes on with what can be verified.
    fn damaged(&mut self, error: Error) -> Result<()> {
        if !self.config.read_only {
            return Err(error);
        }
        let (file, offset) = match &error {
            Error::Corrupt { path, offset, .. } => (path.clone(), *offset),
            Error::Missing { path } => (path.clone(), 0),
            _ => return Err(error),
        };
        self.report.incomplete = true;
        self.report.damage.push(Damage {
            file,
            offset,
            reason: match &error {
                Error::Corrupt { reason, .. } => reason.to_string(),
                _ => "the file is missing".to_owned(),
            },
        });
        Ok(())
    }

    /// Files of no further use. A segment the manifest does not know, although it was written to,
    /// is not among them: then the manifest has lost an edit.
    fn leftovers(
        &self,
        catalog: &Catalog,
        ours: &[Name],
        manifest_end: u64,
    ) -> Result<Vec<String>> {
        let mut leftovers = Vec::new();
        for name in ours {
            match *name {
                Name::Manifest | Name::Reserve => {}
                Name::ManifestTmp => leftovers.push(name::MANIFEST_TMP.to_owned()),
                Name::Hint(id) if !catalog.live.contains_key(&id) => {
                    leftovers.push(name::hint(id).to_string());
                }
                Name::Segment(id) if !catalog.live.contains_key(&id) => {
                    // Forgotten, and back because its unlinking did not survive.
                    let known = catalog.retired.contains(&id) || id <= catalog.newest_log;
                    if !known && self.was_written(id)? {
                        let reason = DecodeError::WrongId {
                            expected: 0,
                            found: id,
                        };
                        return Err(self.corrupt(name::MANIFEST, manifest_end, reason));
                    }
                    leftovers.push(name::segment(id).to_string());
                }
                _ => {}
            }
        }
        Ok(leftovers)
    }

    /// True if the file is the log segment of that id and begins with a LINK: it was activated. Until a
    /// new file is synced it may show what another segment left on the disk, header and all.
    fn was_written(&self, id: u64) -> Result<bool> {
        let name = name::segment(id);
        let failed = io_at(self.fs, "read the segment", &name);
        let file = self.fs.open(&name, Access::Read).map_err(&failed)?;
        let mut page = vec![0u8; PAGE_BYTES as usize + HEADER_BYTES];
        match file.read_exact_at(0, &mut page) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(failed(error)),
        }
        let Ok(header) = SegmentHeader::decode(&page) else {
            return Ok(false);
        };
        let mut record = [0u8; HEADER_BYTES];
        record.copy_from_slice(&page[PAGE_BYTES as usize..]);
        let first = parse_header(&header.place_key(), PAGE_BYTES, &record);
        Ok(header.kind == SegmentKind::Log
            && (header.id == id || planted!("stale_header_believed"))
            && matches!(first, Ok(Some(record)) if record.kind == Kind::Link))
    }

    fn run(
        mut self,
        read: catalog::ReadManifest,
        ours: &[Name],
        leftovers: Vec<String>,
    ) -> Result<Recovered<F>> {
        let catalog = &read.catalog;
        let clean = catalog.clean.is_some() || catalog.unsealed().next().is_none();
        self.report.clean = clean && !catalog.poisoned;

        let mut to_read: Vec<(Opened<F>, End)> = Vec::new();
        let mut unsealed: Vec<Opened<F>> = Vec::new();
        let metas: Vec<SegmentMeta> = catalog.live.values().copied().collect();
        for meta in metas {
            let opened = match self.open_segment(meta) {
                Ok(opened) => opened,
                Err(error) => {
                    self.damaged(error)?;
                    continue;
                }
            };
            match meta.end {
                Some(end) => to_read.push((opened, end)),
                None => unsealed.push(opened),
            }
        }
        let mut ended: Vec<(Opened<F>, Entries)> = Vec::new();
        for (whole, (opened, end)) in self.read_ended(&to_read).into_iter().zip(to_read) {
            let (entries, covered) = self.note(whole?)?;
            if end.length.saturating_sub(covered) > hints::PREFIX_BYTES {
                self.unhinted.push(opened.meta.id);
            }
            ended.push((opened, entries));
        }

        let log = match catalog.clean {
            Some(clean) => {
                let vouched = (clean.length.get(), clean.lsn.get());
                self.read_clean(unsealed, vouched, read.end)?
            }
            None => self.read_unclean(unsealed, catalog)?,
        };

        // Nothing has been changed so far; from here on nothing is refused for what was read.
        let mut manifest = None;
        let mut log_end = catalog.log_end;
        let mut next_lsn = match catalog.clean {
            Some(clean) => clean.lsn.get() + 1,
            None => log_end.next_lsn,
        };
        let mut durable_lsn = catalog.durable_lsn;
        next_lsn = next_lsn.max(log.next_lsn);
        if !self.config.read_only {
            let highest = ours.iter().map(|name| match name {
                Name::Segment(id) | Name::Hint(id) => *id,
                _ => 0,
            });
            let highest = highest.max().unwrap_or(0);
            let retired: Vec<u64> = read.catalog.retired.iter().copied().collect();
            // Also those that are not there: the name may be gone, but not yet durably.
            let names = retired.iter().map(|id| name::segment(*id).to_string());
            let names: BTreeSet<String> = names.collect();
            // What the manifest never knew goes first: on a full disk it may be in the way.
            let leftovers = planted!("leftovers_kept", Vec::new(), leftovers);
            let leftovers: BTreeSet<String> = leftovers.into_iter().collect();
            self.report.leftovers_removed = self.remove(&(&leftovers - &names))?;
            let mut writer = Manifest::resume(self.fs, read)?;
            writer.catalog.next_id = writer.catalog.next_id.max(highest.saturating_add(1));
            // Not before the COMPACT that retired them is surely durable.
            self.report.leftovers_removed += self.remove(&names)?;
            self.settle(&mut writer, &log, &retired)?;
            if writer.wants_rewrite() {
                let salt = (self.config.entropy)();
                let salt = salt.map_err(io_at(self.fs, "get random bytes", ""))?;
                writer.rewrite(self.fs, salt)?;
            }
            for (opened, _) in &ended {
                let length = opened.meta.end.map_or(0, |end| end.length);
                if opened.file_len > length {
                    let name = name::segment(opened.meta.id);
                    self.trim(&opened.file, &name, length)?;
                }
            }
            log_end = writer.catalog.log_end;
            durable_lsn = durable_lsn.max(writer.catalog.durable_lsn);
            if log.clean.is_none() {
                next_lsn = next_lsn.max(log_end.next_lsn);
            }
            manifest = Some(writer);
        }
        self.finish(ended, log, manifest, log_end, next_lsn, durable_lsn)
    }

    fn open_segment(&self, meta: SegmentMeta) -> Result<Opened<F>> {
        let name = name::segment(meta.id);
        let access = match self.config.read_only {
            true => Access::Read,
            false => Access::ReadWrite,
        };
        let file = self.fs.open(&name, access).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return Error::Missing {
                    path: self.fs.path_of(&name),
                };
            }
            io_at(self.fs, "open the segment", &name)(error)
        })?;
        let header = read_header(self.fs, &file, &name, meta.id)?;
        if header.kind != meta.kind || header.salt != meta.salt {
            return Err(self.corrupt(&name, 0, DecodeError::WrongIdentity));
        }
        let file_len = file
            .len()
            .map_err(io_at(self.fs, "look at the segment", &name))?;
        let need = meta.end.map_or(meta.allocated, |end| end.length);
        if file_len < need {
            let have = file_len;
            return Err(self.corrupt(&name, have, DecodeError::Truncated { need, have }));
        }
        Ok(Opened {
            meta,
            header,
            file,
            file_len,
        })
    }

    /// Entries of a segment whose records count up to `length`, with LSN `end_lsn` last; all of them
    /// must be valid.
    fn read_whole(&self, opened: &Opened<F>, length: u64, end_lsn: u64) -> Result<Whole> {
        let mut whole = Whole::default();
        if length == PAGE_BYTES {
            return Ok(whole);
        }
        let name = name::segment(opened.meta.id);
        let merged = opened.meta.kind == SegmentKind::Merged;
        let hint = self
            .hint(opened, length)
            .filter(|hint| match hint.covered == length {
                true => merged || hint.end_lsn == end_lsn,
                false => !merged,
            });
        whole.covered = hint.as_ref().map_or(0, |hint| hint.covered);
        whole.hints_used = u64::from(hint.is_some());
        let (from, next_lsn) = match hint {
            Some(hint) if hint.covered == length => {
                whole.entries = Entries::Hint(hint);
                return Ok(whole);
            }
            Some(ref hint) => (hint.covered, hint.end_lsn.saturating_add(1)),
            None => (PAGE_BYTES, 0),
        };
        let scanned = self.scan(opened, from, length, next_lsn)?;
        (whole.records, whole.bytes) = (scanned.records, scanned.bytes);
        let ends = scanned.stop.offset == length && scanned.stop.reason.is_none();
        let ordered = merged || scanned.stop.next_lsn.checked_sub(1) == Some(end_lsn);
        if !ends || !ordered {
            let stop = scanned.stop;
            let reason = stop.reason.unwrap_or(DecodeError::BadLsn {
                expected: end_lsn,
                found: stop.next_lsn.saturating_sub(1),
            });
            whole.damage = Some(self.corrupt(&name, stop.rejected_at, reason));
        }
        whole.entries = self.merge(hint, scanned);
        Ok(whole)
    }

    /// Reads the ended segments, by several threads if that is worth it. Whatever was found, in the
    /// order asked for.
    fn read_ended(&self, segments: &[(Opened<F>, End)]) -> Vec<Result<Whole>> {
        let results: Vec<OnceLock<Result<Whole>>> =
            segments.iter().map(|_| OnceLock::new()).collect();
        let next = AtomicUsize::new(0);
        let read = || {
            while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed))
                && let Some((opened, end)) = segments.get(i)
            {
                let whole = self.read_whole(opened, end.length, end.end_lsn);
                assert!(results[i].set(whole).is_ok(), "each is read once");
            }
        };
        let bytes: u64 = segments.iter().map(|(_, end)| end.length).sum();
        let threads = match self.config.threads && bytes >= PARALLEL_BYTES {
            true => load::threads().min(segments.len()),
            false => 1,
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Without a thread this one reads everything.
                let _ = std::thread::Builder::new().spawn_scoped(scope, read);
            }
            read();
        });
        let whole = |result: OnceLock<_>| result.into_inner().expect("every segment was read");
        results.into_iter().map(whole).collect()
    }

    /// Puts down in the report what reading a segment took and found.
    fn note(&mut self, whole: Whole) -> Result<(Entries, u64)> {
        self.report.hints_used += whole.hints_used;
        self.report.records_scanned += whole.records;
        self.report.bytes_scanned += whole.bytes;
        if let Some(error) = whole.damage {
            self.damaged(error)?;
        }
        Ok((whole.entries, whole.covered))
    }

    fn hint(&self, opened: &Opened<F>, vouched: u64) -> Option<Hint> {
        hints::load(
            self.fs,
            &opened.file,
            &opened.header,
            vouched,
            self.shard_bits,
            &self.hash_key,
        )
    }

    fn scan(&self, opened: &Opened<F>, from: u64, limit: u64, next_lsn: u64) -> Result<Scanned> {
        let name = name::segment(opened.meta.id);
        let scanned = scan(
            &opened.file,
            &opened.header,
            from,
            limit,
            next_lsn,
            &self.hash_key,
        )
        .map_err(io_at(self.fs, "read the segment", &name))?;
        Ok(scanned)
    }

    /// Hint entries and scanned ones, sorted as in a hint.
    fn merge(&self, hint: Option<Hint>, scanned: Scanned) -> Entries {
        let clock = &self.config.wall_clock;
        let expiry = match &hint {
            None => scanned.expiry(clock.now_ms()),
            Some(hint) => {
                let mut expiry = hint.expiry;
                for (at, size) in &scanned.expiring {
                    expiry.add(*at, *size, || clock.now_ms());
                }
                expiry
            }
        };
        let mut entries = hint.map_or_else(Vec::new, |hint| hint.entries().to_vec());
        entries.extend(scanned.entries);
        // Stable: it finds the sorted run of the hint and merges.
        entries.sort_by_key(|entry| entry.sort_key(self.shard_bits));
        Entries::Own(entries, expiry)
    }

    /// After a clean close: at most one unsealed segment, known to its last byte.
    fn read_clean(
        &mut self,
        unsealed: Vec<Opened<F>>,
        (length, lsn): (u64, u64),
        manifest_end: u64,
    ) -> Result<Log<F>> {
        let mut log = Log {
            next_lsn: lsn + 1,
            ..Log::default()
        };
        for opened in unsealed {
            let whole = self.read_whole(&opened, length, lsn)?;
            let (entries, hinted) = self.note(whole)?;
            if self.record_follows(&opened, length)? {
                let reason = DecodeError::BadLsn {
                    expected: 0,
                    found: lsn + 1,
                };
                let error = self.corrupt(name::MANIFEST, manifest_end, reason);
                self.damaged(error)?;
            }
            log.clean = Some((opened, entries, length, hinted));
        }
        Ok(log)
    }

    fn record_follows(&self, opened: &Opened<F>, offset: u64) -> Result<bool> {
        if opened.file_len < offset + HEADER_BYTES as u64 {
            return Ok(false);
        }
        let mut bytes = [0u8; HEADER_BYTES];
        let name = name::segment(opened.meta.id);
        opened
            .file
            .read_exact_at(offset, &mut bytes)
            .map_err(io_at(self.fs, "read the segment", &name))?;
        let key = opened.header.place_key();
        Ok(matches!(parse_header(&key, offset, &bytes), Ok(Some(_))))
    }

    /// After an unclean stop: find out where the log ends.
    fn read_unclean(&mut self, unsealed: Vec<Opened<F>>, catalog: &Catalog) -> Result<Log<F>> {
        let mut durable = catalog.durable_lsn;
        let mut max_lsn = catalog.log_end.next_lsn - 1;
        let mut found = Vec::new();
        for (i, opened) in unsealed.into_iter().enumerate() {
            let name = name::segment(opened.meta.id);
            let vouched = match catalog.last_clean {
                Some(clean) if clean.id.get() == opened.meta.id => clean.length.get(),
                _ => 0,
            };
            let hint = self.hint(&opened, vouched).filter(|_| i == 0);
            let (from, next_lsn) = match (&hint, i) {
                (Some(hint), _) => {
                    self.report.hints_used += 1;
                    (hint.covered, hint.end_lsn.saturating_add(1))
                }
                (None, 0) => (PAGE_BYTES, catalog.log_end.next_lsn),
                (None, _) => (PAGE_BYTES, 0),
            };
            let scanned = self.scan(&opened, from, opened.file_len, next_lsn)?;
            self.report.records_scanned += scanned.records;
            self.report.bytes_scanned += scanned.bytes;
            let marks = find_marks(
                &opened.file,
                &opened.header,
                scanned.stop.offset,
                opened.file_len,
            )
            .map_err(io_at(self.fs, "read the segment", &name))?;
            let marks = planted!("marks_not_searched", 0, marks);
            durable = durable.max(scanned.marked).max(marks);
            // An LSN that no store of ours can have reached was made up; it does not push ours ahead.
            let seen = [scanned.max_lsn, marks].into_iter();
            let seen = seen.filter(|lsn| *lsn < catalog::NUMBER_MAX).max();
            max_lsn = max_lsn.max(seen.unwrap_or(0));
            found.push((opened, scanned, hint, vouched));
        }

        let mut log = Log::default();
        let mut expected = catalog.log_end;
        let mut rest = found.into_iter().peekable();
        while let Some((opened, scanned, hint, vouched)) = rest.next() {
            let name = name::segment(opened.meta.id);
            if let Some((link, _)) = scanned.link
                && (
                    link.previous_id.get(),
                    link.previous_end.get(),
                    link.previous_lsn.get(),
                ) != (expected.id, expected.end, expected.lsn)
            {
                let error = self.corrupt(&name, PAGE_BYTES, DecodeError::WrongIdentity);
                self.damaged(error)?;
            }
            let stop = scanned.stop;
            let successor = match rest.peek() {
                None => Successor::None,
                Some((_, next, _, _)) => match next.link {
                    None => Successor::Unreadable,
                    Some((link, own_lsn)) => Successor::Link {
                        own_lsn,
                        id: link.previous_id.get(),
                        end: link.previous_end.get(),
                        lsn: link.previous_lsn.get(),
                    },
                },
            };
            // A segment whose LINK is not there has no record: nothing was expected but the LINK.
            let next_lsn = match stop.next_lsn {
                0 => expected.next_lsn,
                lsn => lsn,
            };
            let stopped = Stopped {
                id: opened.meta.id,
                offset: stop.offset,
                next_lsn,
                footer: scanned.footer.is_some(),
            };
            let verdict = verdict(durable, stopped, successor);
            if verdict == Verdict::Corrupt {
                let reason = stop.reason.unwrap_or(DecodeError::BadLsn {
                    expected: next_lsn,
                    found: 0,
                });
                let error = self.corrupt(&name, stop.rejected_at, reason);
                self.damaged(error)?;
            }
            let go_on = verdict == Verdict::GoOn;
            if !go_on && stop.reason.is_some() {
                self.report.torn_tail = Some(TornTail {
                    segment: opened.meta.id,
                    offset: stop.offset,
                });
            }
            let covered = hint.as_ref().map_or(PAGE_BYTES, |hint| hint.covered);
            if stop.offset.saturating_sub(covered) > hints::PREFIX_BYTES {
                self.unhinted.push(opened.meta.id);
            }
            let entries = self.merge(hint, scanned);
            let (records, min_lsn, max_data_lsn, _) = summary(entries.as_slice());
            let end = End {
                length: stop.offset,
                end_lsn: next_lsn - 1,
                min_lsn,
                max_lsn: max_data_lsn,
                records,
                cut: (!go_on).then_some(max_lsn.max(next_lsn - 1) + 1),
            };
            expected = LogEnd {
                id: opened.meta.id,
                end: end.length,
                lsn: end.end_lsn,
                next_lsn,
            };
            log.next_lsn = next_lsn;
            let dirty_from = vouched.max(PAGE_BYTES);
            log.kept.push((opened, entries, end, dirty_from));
            if !go_on {
                break;
            }
        }
        for (opened, scanned, _, _) in rest {
            if scanned.link.is_some() {
                self.report.dropped_segments += 1;
            }
            log.dropped.push(opened.meta.id);
        }
        Ok(log)
    }

    /// Removes these files, durably; returns how many there were.
    fn remove(&self, names: &BTreeSet<String>) -> Result<u64> {
        let mut removed = 0;
        for name in names {
            match self.fs.unlink(name) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_at(self.fs, "remove", name)(error)),
            }
        }
        if !names.is_empty() {
            // Also if nothing was there: the name may be gone, but not yet durably.
            self.fs
                .sync_dir()
                .map_err(io_at(self.fs, "sync the directory", ""))?;
        }
        Ok(removed)
    }

    /// Gives back what stands behind the end of a segment, unless somebody may still look at it.
    fn trim(&self, file: &F::File, name: &str, length: u64) -> Result<()> {
        match self.config.trim {
            true => file
                .set_len(length)
                .map_err(io_at(self.fs, "trim the segment", name)),
            false => Ok(()),
        }
    }

    /// Makes the verdict durable.
    fn settle(&mut self, manifest: &mut Manifest<F>, log: &Log<F>, retired: &[u64]) -> Result<()> {
        for (opened, _, end, dirty_from) in &log.kept {
            self.redirty(opened, *dirty_from, end)?;
        }
        let dropped: Vec<U64> = log.dropped.iter().map(|id| U64::new(*id)).collect();
        for (opened, _, end, _) in &log.kept {
            let edit = match end.cut {
                None => Edit::Seal(catalog::seal_body(opened.meta.id, end)),
                Some(next_lsn) => Edit::Cut {
                    cut: catalog::cut_body(opened.meta.id, end, next_lsn),
                    dropped: &dropped,
                },
            };
            if !planted!("tail_not_cut") || end.cut.is_none() {
                manifest.append(self.fs, &edit)?;
            }
            let name = name::segment(opened.meta.id);
            self.trim(&opened.file, &name, end.length)?;
        }
        let names = log.dropped.iter().flat_map(|id| {
            let names = [name::segment(*id), name::hint(*id)];
            names.map(|name| name.to_string())
        });
        self.report.leftovers_removed += self.remove(&names.collect())?;
        let mut gone: Vec<U64> = retired.iter().map(|id| U64::new(*id)).collect();
        gone.extend(&dropped);
        if !gone.is_empty() {
            manifest.append(self.fs, &Edit::Forget { ids: &gone })?;
        }
        Ok(())
    }

    /// Writes the kept bytes of an unsealed segment back, checks that they are still what was
    /// scanned, and syncs them.
    fn redirty(&self, opened: &Opened<F>, from: u64, end: &End) -> Result<()> {
        let name = name::segment(opened.meta.id);
        let failed = io_at(self.fs, "write the segment back", &name);
        let mut buffer = vec![0u8; REDIRTY_BYTES.min((end.length - from.min(end.length)) as usize)];
        let mut at = from;
        while at < end.length {
            let n = (end.length - at).min(buffer.len() as u64) as usize;
            opened
                .file
                .read_exact_at(at, &mut buffer[..n])
                .map_err(&failed)?;
            let back = &buffer[..planted!("not_written_back", 0, n)];
            opened.file.write_back(at, back).map_err(&failed)?;
            at += n as u64;
        }
        if end.length > PAGE_BYTES {
            let again = scan(
                &opened.file,
                &opened.header,
                PAGE_BYTES,
                end.length,
                0,
                &self.hash_key,
            )
            .map_err(&failed)?;
            if again.stop.offset != end.length {
                let reason = again.stop.reason.unwrap_or(DecodeError::NotBound);
                return Err(self.corrupt(&name, again.stop.rejected_at, reason));
            }
        }
        opened
            .file
            .sync_data()
            .map_err(io_at(self.fs, "sync the segment", &name))
    }

    fn finish(
        mut self,
        ended: Vec<(Opened<F>, Entries)>,
        log: Log<F>,
        manifest: Option<Manifest<F>>,
        log_end: LogEnd,
        next_lsn: u64,
        durable_lsn: u64,
    ) -> Result<Recovered<F>> {
        let windows = Windows::default();
        let mut view = View::default();
        let mut segments = BTreeMap::new();
        let mut ends = BTreeMap::new();
        let mut sources: Vec<(Arc<Slot>, Entries)> = Vec::new();
        let ended = ended
            .into_iter()
            .filter_map(|(opened, entries)| Some((opened.meta.end?, opened, entries)));
        let kept = log
            .kept
            .into_iter()
            .map(|(opened, entries, end, _)| (end, opened, entries));
        for (end, opened, entries) in ended.chain(kept) {
            let (segment, mut map) = self.join(opened, end.length, &windows, Access::Read)?;
            map.publish(end.length);
            view = view.with(&segment.slot);
            sources.push((Arc::clone(&segment.slot), entries));
            ends.insert(segment.header.id, end);
            segments.insert(segment.header.id, segment);
        }
        let stored: u64 = ends.values().map(|end| end.length).sum();
        let mut resumable = None;
        if let Some((opened, entries, length, hinted)) = log.clean {
            let access = match self.config.read_only {
                true => Access::Read,
                false => Access::ReadWrite,
            };
            let room = match self.config.read_only {
                true => length,
                false => self.config.room_for(length, stored),
            };
            let (segment, mut map) = self.join(opened, room, &windows, access)?;
            map.publish(length);
            view = view.with(&segment.slot);
            let summary = summary(entries.as_slice());
            sources.push((Arc::clone(&segment.slot), entries));
            segments.insert(segment.header.id, Arc::clone(&segment));
            resumable = Some(Resumable {
                segment,
                map,
                offset: length,
                summary,
                hinted,
            });
        }
        let view = Arc::new(view);
        let index = Index::new(self.shard_bits, &view);
        let borrowed: Vec<Source<'_>> = sources
            .iter()
            .map(|(slot, entries)| Source {
                slot,
                entries: entries.as_slice(),
                expiry: entries.expiry(),
            })
            .collect();
        load::load(&index, &borrowed);
        self.report.segments = segments.len() as u64;
        self.report.keys = index.len();
        Ok(Recovered {
            manifest,
            hash_key: self.hash_key,
            segments,
            ends,
            view,
            index,
            windows,
            resumable,
            log_end,
            next_lsn,
            durable_lsn,
            unhinted: self.unhinted,
            report: self.report,
        })
    }

    fn join(
        &self,
        opened: Opened<F>,
        map_len: u64,
        windows: &Windows,
        access: Access,
    ) -> Result<(Arc<Segment<F>>, MapWriter)> {
        let name = name::segment(opened.meta.id);
        let lease = windows.lease(map_len).ok_or(Error::StoreFull)?;
        let (map, writer) =
            opened
                .file
                .map(map_len, access)
                .map_err(io_at(self.fs, "map the segment", &name))?;
        let slot = Slot::new(&map, &opened.header, lease);
        let segment = Arc::new(Segment::new(opened.header, opened.file, slot));
        Ok((segment, writer))
    }
}

/// The unsealed end of the log.
struct Log<F: Fs> {
    /// After a clean close: the segment, its entries, its length, how much its hint covers.
    clean: Option<(Opened<F>, Entries, u64, u64)>,
    /// After an unclean stop: segments to be sealed or cut, and from where on they may be dirty.
    kept: Vec<(Opened<F>, Entries, End, u64)>,
    /// Segments to be given up whole.
    dropped: Vec<u64>,
    /// LSN behind the last record that counts.
    next_lsn: u64,
}

impl<F: Fs> Default for Log<F> {
    fn default() -> Self {
        Self {
            clean: None,
            kept: Vec::new(),
            dropped: Vec::new(),
            next_lsn: 0,
        }
    }
}
