//! A copy of a store that is open, as a store of its own.
//!
//! One look inside the writer section says what the copy consists of: the ended segments, and the
//! active one up to its last record. Everything behind that look happens beside the writers. Ended
//! segments get a second name in the copy; what cannot be linked is copied from the open file, so it
//! does not matter if compaction removes its name meanwhile. The prefix of the active segment is
//! copied byte by byte, with its id and salt, and its end stands in the manifest as a CUT: the copy
//! goes on in a segment of its own.
//!
//! Invariants
//! - Only files that nobody writes any more are linked: sealed or merged in the manifest, and exactly
//!   as long as it says. So opening the copy trims nothing, and appends to nothing, that is shared.
//! - The directory gets its name after every file, name and the manifest in it are durable.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvs_format::DecodeError;
use kvs_format::manifest::ManifestHeader;
use kvs_format::name;
use kvs_format::segment::{PAGE_BYTES, SegmentKind};
use zerocopy::byteorder::little_endian::U64;

use crate::engine::catalog::{self, Catalog, End, LogEnd, Manifest, SegmentMeta};
use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::hints;
use crate::engine::pending::Ticket;
use crate::engine::scan::scan;
use crate::engine::segment::{Segment, read_header};
use crate::storage::beside::Beside;
use crate::storage::error::StorageError;
use crate::storage::fs::{Access, Fs, FsFile};
use crate::storage::real::RealFs;

/// Bytes copied at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Bytes at the end of a segment that are compared before an older copy of it is used again.
const TAIL_BYTES: u64 = 4096;

/// How [`crate::Store::checkpoint_with`] makes a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointOptions {
    links: bool,
    since: Option<PathBuf>,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        Self {
            links: true,
            since: None,
        }
    }
}

impl CheckpointOptions {
    /// Links where that is possible.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether files may be shared with the store. Without it every record is copied and checked: the
    /// copy then survives damage to the store's files, and takes their space once more.
    #[must_use]
    pub fn links(mut self, links: bool) -> Self {
        self.links = links;
        self
    }

    /// An older copy of the same store: segments that it holds already are linked from there instead of
    /// copied, so that copies on another device share what has not changed. Each is whole by itself.
    ///
    /// Used again is a segment of the same id and salt, and of the same length, with the same last
    /// bytes; the bytes between are not compared. The older copy must not be open for writing.
    #[must_use]
    pub fn since(mut self, copy: impl Into<PathBuf>) -> Self {
        self.since = Some(copy.into());
        self
    }
}

/// How far a checkpoint has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointProgress {
    /// Bytes of segments linked or copied.
    pub bytes_done: u64,
    /// Bytes of all segments.
    pub bytes_total: u64,
}

/// What a checkpoint consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// Segments in it.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Segments that are files of the store too.
    pub linked: u64,
    /// Segments that are files of the older copy too.
    pub shared: u64,
    /// Segments that were copied.
    pub copied: u64,
    /// Bytes of those.
    pub bytes_copied: u64,
    /// It was ended before it was whole: there is no copy.
    pub cancelled: bool,
    /// How long it took.
    pub duration: Duration,
}

/// Told how far it has come; says whether to go on.
pub(crate) type Control<'a> = dyn FnMut(&CheckpointProgress) -> ControlFlow<()> + 'a;

/// See [`crate::Store::checkpoint_with`].
pub(crate) fn to_directory(
    engine: &Engine<RealFs>,
    dest: &Path,
    options: &CheckpointOptions,
    control: &mut Control<'_>,
) -> Result<CheckpointReport> {
    let previous = match &options.since {
        None => None,
        Some(path) => {
            let fs = RealFs::open(path, Access::Read)?;
            fs.lock(Access::Read)?;
            Some(Previous::read(fs)?)
        }
    };
    let (beside, to) = Beside::create(dest, engine.fs.id()?)?;
    let source = Sources {
        links: options.links,
        previous: previous.as_ref(),
    };
    let report = engine.checkpoint(&to, beside.path(), &source, control)?;
    if !report.cancelled {
        beside.keep();
    }
    Ok(report)
}

/// An older copy.
pub struct Previous<F: Fs> {
    fs: F,
    catalog: Catalog,
}

impl<F: Fs> Previous<F> {
    /// The store in `fs`, of which only sealed segments are used.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none, [`Error::Corrupt`], [`Error::Io`].
    pub fn read(fs: F) -> Result<Self> {
        let catalog = read_catalog(&fs)?;
        Ok(Self { fs, catalog })
    }
}

/// Where segments may come from.
pub struct Sources<'a, F: Fs> {
    /// Links into the store are allowed.
    pub links: bool,
    /// An older copy.
    pub previous: Option<&'a Previous<F>>,
}

fn read_catalog<F: Fs>(fs: &F) -> Result<Catalog> {
    match catalog::read(fs) {
        Ok(read) => Ok(read.catalog),
        Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::Missing {
                path: fs.path_of(name::MANIFEST),
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// A segment of the copy.
struct Part<F: Fs> {
    segment: Arc<Segment<F>>,
    end: End,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody writes it any more.
    Ended,
    /// Complete, and about to become so.
    Sealing,
    /// Written, or not yet recovered in the file.
    Written,
}

/// What the copy consists of.
struct Cut<F: Fs> {
    parts: Vec<Part<F>>,
    catalog: Catalog,
    last_lsn: u64,
}

/// Why it ended before it was whole.
enum Halt {
    Cancelled,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

struct Maker<'a, F: Fs> {
    engine: &'a Engine<F>,
    to: &'a F,
    sources: &'a Sources<'a, F>,
    control: &'a mut Control<'a>,
    progress: CheckpointProgress,
    report: CheckpointReport,
}

impl<F: Fs> Engine<F> {
    /// Makes a copy in the empty directory `to` and gives it the path `dest`.
    ///
    /// # Errors
    /// See [`crate::Store::checkpoint`]. What is in `to` then is of no use.
    pub fn checkpoint(
        &self,
        to: &F,
        dest: &Path,
        sources: &Sources<'_, F>,
        control: &mut Control<'_>,
    ) -> Result<CheckpointReport> {
        let started = Instant::now();
        let mut maker = Maker {
            engine: self,
            to,
            sources,
            // Two borrows of different lives in one struct.
            control: &mut |progress| control(progress),
            progress: CheckpointProgress::default(),
            report: CheckpointReport::default(),
        };
        let made = maker.make(dest);
        let mut report = maker.report;
        report.duration = started.elapsed();
        match made {
            Ok(()) => Ok(report),
            Err(Halt::Cancelled) => {
                report.cancelled = true;
                Ok(report)
            }
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    /// What the store consists of at this moment.
    fn cut(&self) -> Result<Cut<F>> {
        if self.report.incomplete {
            return Err(Error::Incomplete {
                path: self.fs.path().to_path_buf(),
            });
        }
        let mut guard = self.section.lock();
        let section = &mut *guard;
        if !self.config.read_only {
            self.check_writable(section)?;
            self.reap(section)?;
        }
        let segments = self.segments.read();
        let known = self.manifest.lock().as_ref().map(|m| m.catalog.clone());
        let catalog = match known {
            Some(catalog) => catalog,
            // Nobody writes it while a reader has the lock.
            None => read_catalog(&self.fs)?,
        };
        let last_lsn = section.next_lsn - 1;
        let prefix = |length, (records, min_lsn, max_lsn)| End {
            length,
            end_lsn: last_lsn,
            min_lsn,
            max_lsn,
            records,
            cut: Some(last_lsn + 1),
        };
        let mut parts = Vec::with_capacity(segments.len());
        for (id, segment) in segments.iter() {
            let sealed = catalog.live.get(id).and_then(|meta| meta.end);
            let ended = section.ends.get(id).copied();
            let is = |other: Option<&Arc<Segment<F>>>| {
                other.is_some_and(|other| Arc::ptr_eq(other, segment))
            };
            let active = section.active.as_ref();
            let resumable = section.resumable.as_ref();
            let (end, state) = if let Some(active) = active.filter(|a| is(Some(&a.segment))) {
                let summary = (active.records, active.min_lsn, active.max_lsn);
                (prefix(active.offset, summary), State::Written)
            } else if let Some(resumable) = resumable.filter(|r| is(Some(&r.segment))) {
                let (records, min_lsn, max_lsn, _) = resumable.summary;
                let summary = (records, min_lsn, max_lsn);
                (prefix(resumable.offset, summary), State::Written)
            } else {
                match (ended, sealed) {
                    (Some(end), _) if is(section.sealing.as_ref()) => (end, State::Sealing),
                    (_, Some(end)) => (end, State::Ended),
                    (Some(end), None) if self.config.read_only => (end, State::Written),
                    // Of a compaction: an output before its edit, or a victim behind it.
                    _ => continue,
                }
            };
            parts.push(Part {
                segment: Arc::clone(segment),
                end,
                state,
            });
        }
        Ok(Cut {
            parts,
            catalog,
            last_lsn,
        })
    }
}

impl<F: Fs> Cut<F> {
    /// The manifest's state for the copy.
    fn catalog(&self) -> Catalog {
        let mut catalog = self.catalog.clone();
        catalog.live = self
            .parts
            .iter()
            .map(Part::meta)
            .collect::<BTreeMap<_, _>>();
        catalog.retired.clear();
        (catalog.clean, catalog.last_clean) = (None, None);
        catalog.poisoned = false;
        let next_lsn = self.last_lsn + 1;
        catalog.store.next_lsn = U64::new(next_lsn.max(catalog.store.next_lsn.get()));
        let logs = catalog.live.values();
        let newest = logs
            .filter(|meta| meta.kind == SegmentKind::Log)
            .max_by_key(|meta| meta.id);
        if let Some((meta, end)) = newest.and_then(|meta| Some((meta, meta.end?)))
            && meta.id >= catalog.log_end.id
        {
            catalog.log_end = LogEnd {
                id: meta.id,
                end: end.length,
                lsn: end.end_lsn,
                next_lsn: end.cut.unwrap_or(end.end_lsn + 1),
            };
        }
        catalog
    }
}

impl<F: Fs> Part<F> {
    fn meta(&self) -> (u64, SegmentMeta) {
        let header = &self.segment.header;
        let meta = SegmentMeta {
            id: header.id,
            kind: header.kind,
            salt: header.salt,
            allocated: self.end.length,
            end: Some(self.end),
        };
        (header.id, meta)
    }
}

impl<F: Fs> Maker<'_, F> {
    fn make(&mut self, dest: &Path) -> std::result::Result<(), Halt> {
        let engine = self.engine;
        let cut = engine.cut()?;
        self.report.segments = cut.parts.len() as u64;
        self.report.bytes = cut.parts.iter().map(|part| part.end.length).sum();
        self.progress.bytes_total = self.report.bytes;
        // At once, before compaction removes names: what has no name any more must be copied.
        for part in cut.parts.iter().filter(|p| p.state == State::Ended) {
            self.place(part)?;
        }
        if !engine.config.read_only {
            engine.wait(Ticket(cut.last_lsn))?;
        }
        for part in cut.parts.iter().filter(|p| p.state == State::Sealing) {
            engine.wait_for_seal(part.end.end_lsn);
            if engine.upkeep.has_failed() {
                return Err(Error::Poisoned.into());
            }
            self.place(part)?;
        }
        for part in cut.parts.iter().filter(|p| p.state == State::Written) {
            self.copy(part)?;
        }
        let random = || (engine.config.entropy)().map_err(engine.io("get random bytes", ""));
        let header = ManifestHeader {
            store_id: random()?,
            salt: random()?,
        };
        // Syncs the directory when everything is in it.
        Manifest::write_whole(self.to, header, 1, cut.catalog())
            .map_err(|error| self.or_disk_full(error))?;
        self.to
            .publish(dest)
            .map_err(self.io("give the directory its name", ""))?;
        Ok(())
    }

    fn look(&mut self, bytes: u64) -> std::result::Result<(), Halt> {
        self.progress.bytes_done += bytes;
        match (self.control)(&self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Halt::Cancelled),
        }
    }

    /// Links a segment that nobody writes any more, or copies it.
    fn place(&mut self, part: &Part<F>) -> std::result::Result<(), Halt> {
        let id = part.segment.header.id;
        let shared = self.sources.previous.filter(|previous| {
            self.is_in(previous, part).unwrap_or(false)
                && self.link(&previous.fs, part).unwrap_or(false)
        });
        if shared.is_some() {
            self.report.shared += 1;
        } else if self.sources.links && self.link(&self.engine.fs, part).unwrap_or(false) {
            self.report.linked += 1;
        } else {
            // Whatever was linked before it was found to be another file.
            let _ = self.to.unlink(&name::segment(id));
            return self.copy(part);
        }
        self.look(part.end.length)
    }

    /// Links a segment from `from`, and its hint if it has a good one; false if that is not the file.
    fn link(&self, from: &F, part: &Part<F>) -> Result<bool> {
        let header = &part.segment.header;
        let name = name::segment(header.id);
        // Longer than it says: somebody may trim it yet.
        if part.segment.file.len()? != part.end.length {
            return Ok(false);
        }
        from.link(&name, self.to)?;
        let file = self.to.open(&name, Access::Read)?;
        if file.len()? != part.end.length
            || read_header(self.to, &file, &name, header.id)? != *header
        {
            return Ok(false);
        }
        // The store has synced what it sealed; whoever copied an older backup may not have.
        file.sync_data()?;
        let bits = self.engine.index.bits();
        let key = &self.engine.hash_key;
        let hint = hints::load(from, &file, header, part.end.length, bits, key);
        if hint.is_some_and(|hint| hint.covered == part.end.length) {
            // Best effort: without it the segment is scanned.
            let _ = from.link(&name::hint(header.id), self.to);
        }
        Ok(true)
    }

    /// Whether the older copy has this segment, sealed, with the same last bytes.
    fn is_in(&self, previous: &Previous<F>, part: &Part<F>) -> Result<bool> {
        let header = &part.segment.header;
        let name = name::segment(header.id);
        let sealed = previous.catalog.live.get(&header.id);
        let length = part.end.length;
        let same = |meta: &SegmentMeta| {
            meta.salt == header.salt && meta.end.is_some_and(|end| end.length == length)
        };
        if !sealed.is_some_and(same) {
            return Ok(false);
        }
        let file = previous.fs.open(&name, Access::Read)?;
        let from = length.saturating_sub(TAIL_BYTES);
        let mut tails = [
            vec![0; (length - from) as usize],
            vec![0; (length - from) as usize],
        ];
        part.segment.file.read_exact_at(from, &mut tails[0])?;
        file.read_exact_at(from, &mut tails[1])?;
        Ok(file.len()? == length && tails[0] == tails[1])
    }

    /// Copies a segment up to its end, and checks every record of the copy.
    fn copy(&mut self, part: &Part<F>) -> std::result::Result<(), Halt> {
        let header = part.segment.header;
        let name = name::segment(header.id);
        let length = part.end.length;
        let file = self
            .to
            .create(&name)
            .map_err(self.io("create the segment", &name))?;
        let mut buffer = vec![0; CHUNK_BYTES.min(length as usize)];
        let mut at = 0;
        while at < length {
            let n = (length - at).min(buffer.len() as u64) as usize;
            part.segment
                .file
                .read_exact_at(at, &mut buffer[..n])
                .map_err(self.engine.io("read the segment", &name))?;
            file.write_at(at, &buffer[..n])
                .map_err(self.io("write the copy", &name))?;
            at += n as u64;
            self.look(n as u64)?;
        }
        file.sync_data().map_err(self.io("sync the copy", &name))?;
        let corrupt = |offset, reason| {
            Halt::Failed(Error::Corrupt {
                path: self.engine.fs.path_of(&name),
                offset,
                reason,
            })
        };
        if read_header(self.to, &file, &name, header.id).ok() != Some(header) {
            return Err(corrupt(0, DecodeError::WrongIdentity));
        }
        let key = &self.engine.hash_key;
        let scanned = scan(&file, &header, PAGE_BYTES, length, 0, key)
            .map_err(self.io("read the copy", &name))?;
        let stop = scanned.stop;
        if stop.offset != length || stop.reason.is_some() {
            let reason = stop.reason.unwrap_or(DecodeError::NotBound);
            return Err(corrupt(stop.rejected_at, reason));
        }
        // Best effort.
        let (bits, now) = (self.engine.index.bits(), self.engine.now_ms());
        hints::write_scanned(self.to, &header, scanned, bits, key, now);
        self.report.copied += 1;
        self.report.bytes_copied += length;
        Ok(())
    }

    fn or_disk_full(&self, error: StorageError) -> Error {
        match error.is_disk_full() {
            true => Error::DiskFull {
                path: self.to.path().to_path_buf(),
            },
            false => error.into(),
        }
    }

    fn io(&self, op: &'static str, name: &str) -> impl Fn(std::io::Error) -> Error {
        let (directory, path) = (self.to.path().to_path_buf(), self.to.path_of(name));
        move |source| {
            let path = path.clone();
            let error = StorageError::Io { op, path, source };
            match error.is_disk_full() {
                true => Error::DiskFull {
                    path: directory.clone(),
                },
                false => error.into(),
            }
        }
    }
}
