//! The pairs of a load on their way into its outputs.
//!
//! Nobody looks at an output before it is whole. So its records are not stored one by one through the
//! map, each page with a fault of its own that competes with the syncs for the cores: they are gathered
//! in a chunk that stays in the cache and written with one call.
//!
//! A load of more than one chunk has two threads beside the one that takes its pairs. The first writes
//! the chunks, takes the fingerprints of their keys and sorts the entries of outputs that are whole; the
//! second syncs what the first has written while more is written, so that little is left for the sync at
//! the end. A failed sync poisons, whenever it comes: see [`crate::engine::segment::Segment::sync`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use kvs_format::hint::HintEntry;
use kvs_format::name;
use kvs_format::record::{Draft, Framing, HEADER_BYTES, Kind};

use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::hints;
use crate::engine::scan::LastRecord;
use crate::engine::segment::Segment;
use crate::engine::tasks::FailOnPanic;
use crate::storage::fs::{Fs, FsFile};

/// Bytes of a chunk: what a core's own cache holds, and enough that the call is nothing beside the copy.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks of a load: one that is filled, one that is written, and some between.
const CHUNKS: usize = 4;

/// Bytes after which what was written is sent to the disk.
const SYNC_BYTES: u64 = 16 << 20;

/// Where a record stands in its chunk.
#[derive(Clone, Copy)]
struct Placed {
    at: u32,
    key_len: u16,
    expires: bool,
    /// Bytes of the record, which may be more than the chunk's if its value was written by itself.
    size: u64,
}

/// Records of one output, one behind the other.
#[derive(Default)]
struct Chunk {
    /// Offset of the first in its segment.
    offset: u64,
    /// Either none or [`CHUNK_BYTES`].
    bytes: Vec<u8>,
    /// How many of them are used.
    used: usize,
    placed: Vec<Placed>,
}

impl Chunk {
    fn begin(&mut self, offset: u64) {
        self.offset = offset;
        self.used = 0;
        self.placed.clear();
        if self.bytes.is_empty() {
            self.bytes = vec![0; CHUNK_BYTES];
        }
    }

    /// Appends `parts` and what pads them to `size`.
    #[inline]
    fn append(&mut self, parts: &[&[u8]], size: usize) {
        let record = &mut self.bytes[self.used..self.used + size];
        let mut at = 0;
        for part in parts {
            record[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        record[at..].fill(0);
        self.used += size;
    }
}

enum Job<F: Fs> {
    Write(Arc<Segment<F>>, Chunk),
    /// The output of this number is whole and this long.
    End(usize, Arc<Segment<F>>, u64),
}

/// The threads that work for one load.
struct Beside<F: Fs> {
    jobs: Sender<Job<F>>,
    /// Chunks that were written.
    chunks: Receiver<Chunk>,
    /// Outputs that were ended, and their entries.
    ended: Receiver<(usize, Vec<HintEntry>)>,
    abandoned: Arc<AtomicBool>,
    writer: JoinHandle<Result<()>>,
    syncer: JoinHandle<Result<()>>,
}

/// What writes the outputs of one load.
pub(super) struct Writing<F: Fs> {
    lsn: u64,
    chunk: Chunk,
    /// Of what was written without threads.
    entries: Vec<HintEntry>,
    beside: Option<Beside<F>>,
    alone: bool,
    /// Outputs that were ended by the threads, and whose entries they have not returned.
    out: usize,
}

impl<F: Fs> Writing<F> {
    /// Of a load that has this LSN.
    pub(super) fn new(engine: &Engine<F>, lsn: u64) -> Self {
        Self {
            lsn,
            chunk: Chunk::default(),
            entries: Vec::new(),
            beside: None,
            // Schedules that a test chooses know nothing of these threads.
            alone: !engine.config.threads || cfg!(kvs_shuttle),
            out: 0,
        }
    }

    /// What follows is written to another output, from `offset` on. What was written before has ended.
    pub(super) fn begin(&mut self, offset: u64) {
        self.chunk.begin(offset);
    }

    /// Header and expiry of a record at `offset`, for which the chunk has room then unless the record is
    /// larger than a whole one.
    #[inline]
    fn place<'d>(
        &mut self,
        engine: &Engine<F>,
        segment: &Arc<Segment<F>>,
        draft: &'d Draft,
        offset: u64,
    ) -> Result<([u8; HEADER_BYTES], &'d [u8])> {
        if draft.size() > (CHUNK_BYTES - self.chunk.used) as u64 {
            self.flush(engine, segment, true)?;
            self.chunk.begin(offset);
        }
        let place_key = &segment.slot.stripes.any().place_key;
        Ok(draft.place(place_key, offset, self.lsn, Framing::Single))
    }

    /// Writes a record at `offset` of the output `segment`, behind the one before.
    #[inline]
    pub(super) fn put(
        &mut self,
        engine: &Engine<F>,
        segment: &Arc<Segment<F>>,
        draft: &Draft,
        offset: u64,
        key: &[u8],
        value: &[u8],
    ) -> Result<()> {
        let size = draft.size();
        let (header, extension) = self.place(engine, segment, draft, offset)?;
        let placed = Placed {
            at: self.chunk.used as u32,
            key_len: key.len() as u16,
            expires: !extension.is_empty(),
            size,
        };
        self.chunk.placed.push(placed);
        if size <= CHUNK_BYTES as u64 {
            let parts = [&header[..], extension, key, value];
            self.chunk.append(&parts, size as usize);
            return Ok(());
        }
        // The chunk is empty and has room for all but the value.
        let before = HEADER_BYTES + extension.len() + key.len();
        self.chunk.append(&[&header[..], extension, key], before);
        engine.write_run(segment, offset + before as u64, value)?;
        self.flush(engine, segment, true)?;
        self.chunk.begin(offset + size);
        Ok(())
    }

    /// Writes the FOOTER `payload` at `offset`; what the hint says of it.
    pub(super) fn put_footer(
        &mut self,
        engine: &Engine<F>,
        segment: &Arc<Segment<F>>,
        offset: u64,
        payload: &[u8],
    ) -> Result<LastRecord> {
        let draft =
            Draft::new(Kind::Footer, None, &[], payload).expect("a FOOTER is within the limits");
        let size = draft.size();
        let (header, _) = self.place(engine, segment, &draft, offset)?;
        self.chunk.append(&[&header[..], payload], size as usize);
        let mut place = [0u8; 4];
        place.copy_from_slice(&header[..4]);
        Ok(LastRecord {
            offset,
            place: u32::from_le_bytes(place),
            lsn: self.lsn,
            size,
        })
    }

    /// The output of this number ends at `length`. Its entries, sorted, if they are there already;
    /// otherwise [`Writing::entries`] returns them.
    pub(super) fn end_output(
        &mut self,
        engine: &Engine<F>,
        segment: &Arc<Segment<F>>,
        output: usize,
        length: u64,
    ) -> Result<Option<Vec<HintEntry>>> {
        self.flush(engine, segment, false)?;
        if let Some(beside) = &self.beside {
            let end = Job::End(output, Arc::clone(segment), length);
            // If it has failed, the end of the load says so.
            let _ = beside.jobs.send(end);
            self.out += 1;
            return Ok(None);
        }
        engine.trim_output(segment, length)?;
        let mut entries = std::mem::take(&mut self.entries);
        hints::sort(&mut entries, engine.index.bits());
        Ok(Some(entries))
    }

    /// The entries that [`Writing::end_output`] did not return: number of the output, and what it holds.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if a thread has ended: its own error is what [`Writing::end`] returns.
    pub(super) fn entries(&mut self) -> Result<Option<(usize, Vec<HintEntry>)>> {
        let Some(beside) = self.beside.as_ref().filter(|_| self.out > 0) else {
            return Ok(None);
        };
        self.out -= 1;
        let ended = beside.ended.recv();
        ended.map(Some).map_err(|_| Error::Poisoned)
    }

    /// Returns when everything that was given to threads is written and synced.
    pub(super) fn end(&mut self) -> Result<()> {
        let Some(beside) = self.beside.take() else {
            return Ok(());
        };
        drop(beside.jobs);
        let written = beside.writer.join().unwrap_or(Err(Error::Poisoned));
        let synced = beside.syncer.join().unwrap_or(Err(Error::Poisoned));
        // What failed in writing may be what came of a failed sync.
        synced.and(written)
    }

    /// Nothing of it counts: what was asked for and not begun is left undone.
    pub(super) fn abandon(&mut self) {
        if let Some(beside) = &self.beside {
            beside.abandoned.store(true, Ordering::Relaxed);
        }
        let _ = self.end();
    }

    /// Sends the chunk on its way. More follows if it is full; [`Chunk::begin`] comes before that.
    #[cold]
    fn flush(&mut self, engine: &Engine<F>, segment: &Arc<Segment<F>>, full: bool) -> Result<()> {
        if self.chunk.used == 0 {
            return Ok(());
        }
        if full && self.beside.is_none() && !self.alone {
            self.beside = Beside::start(engine, self.lsn, &mut self.entries);
            self.alone = self.beside.is_none();
        }
        let Some(beside) = &self.beside else {
            return engine.write_chunk(segment, &self.chunk, self.lsn, &mut self.entries);
        };
        let chunk = std::mem::take(&mut self.chunk);
        let _ = beside.jobs.send(Job::Write(Arc::clone(segment), chunk));
        self.chunk = beside.chunks.recv().map_err(|_| Error::Poisoned)?;
        Ok(())
    }
}

impl<F: Fs> Beside<F> {
    /// `None` if no threads are to be had: the caller does it all, and keeps its `entries`.
    fn start(engine: &Engine<F>, lsn: u64, entries: &mut Vec<HintEntry>) -> Option<Self> {
        let engine = engine.me.upgrade()?;
        let abandoned = Arc::<AtomicBool>::default();
        let (to_sync, syncs) = channel::<Arc<Segment<F>>>();
        let syncer = {
            let (engine, abandoned) = (Arc::clone(&engine), Arc::clone(&abandoned));
            let sync = move || {
                let _fails = FailOnPanic(&engine.upkeep);
                while let Ok(first) = syncs.recv() {
                    // What was asked for meanwhile is synced once.
                    let mut segments = vec![first];
                    segments.extend(syncs.try_iter());
                    segments.dedup_by(|next, segment| Arc::ptr_eq(next, segment));
                    for segment in segments {
                        if abandoned.load(Ordering::Relaxed) {
                            return Ok(());
                        }
                        engine.sync_written(&segment)?;
                    }
                }
                Ok(())
            };
            let builder = std::thread::Builder::new().name("kvs-load-sync".to_owned());
            builder.spawn(sync).ok()?
        };
        let (jobs, to_do) = channel();
        let (written, chunks) = channel();
        let (done, ended) = channel();
        for _ in 1..CHUNKS {
            let _ = written.send(Chunk::default());
        }
        let mut worker = Worker {
            lsn,
            entries: Vec::new(),
            unsynced: 0,
            written,
            done,
            to_sync,
        };
        let is_abandoned = Arc::clone(&abandoned);
        let (give, taken) = channel();
        let work = move || {
            let _fails = FailOnPanic(&engine.upkeep);
            worker.entries = taken.recv().unwrap_or_default();
            for job in &to_do {
                if is_abandoned.load(Ordering::Relaxed) {
                    break;
                }
                worker.work(&engine, job)?;
            }
            Ok(())
        };
        let builder = std::thread::Builder::new().name("kvs-load".to_owned());
        let Ok(writer) = builder.spawn(work) else {
            // Nobody is left who sends to it.
            let _ = syncer.join();
            return None;
        };
        let _ = give.send(std::mem::take(entries));
        Some(Self {
            jobs,
            chunks,
            ended,
            abandoned,
            writer,
            syncer,
        })
    }
}

/// The thread that writes.
struct Worker<F: Fs> {
    lsn: u64,
    /// Of the output that is written.
    entries: Vec<HintEntry>,
    /// Bytes written that nobody was asked to sync.
    unsynced: u64,
    written: Sender<Chunk>,
    done: Sender<(usize, Vec<HintEntry>)>,
    to_sync: Sender<Arc<Segment<F>>>,
}

impl<F: Fs> Worker<F> {
    fn work(&mut self, engine: &Engine<F>, job: Job<F>) -> Result<()> {
        match job {
            Job::Write(segment, chunk) => {
                engine.write_chunk(&segment, &chunk, self.lsn, &mut self.entries)?;
                // Not those of the chunk: a large value was written by itself.
                let sizes = chunk.placed.iter().map(|placed| placed.size);
                self.unsynced += sizes.sum::<u64>();
                // The load may have given up.
                let _ = self.written.send(chunk);
                if self.unsynced >= SYNC_BYTES {
                    self.sync(&segment);
                }
            }
            Job::End(output, segment, length) => {
                engine.trim_output(&segment, length)?;
                self.sync(&segment);
                let mut entries = std::mem::take(&mut self.entries);
                // The next output is about as large.
                self.entries.reserve(entries.len());
                hints::sort(&mut entries, engine.index.bits());
                let _ = self.done.send((output, entries));
            }
        }
        Ok(())
    }

    fn sync(&mut self, segment: &Arc<Segment<F>>) {
        self.unsynced = 0;
        // If it has failed, the end of the load says so.
        let _ = self.to_sync.send(Arc::clone(segment));
    }
}

impl<F: Fs> Engine<F> {
    /// Writes a chunk and appends what the hint says of its records.
    fn write_chunk(
        &self,
        segment: &Segment<F>,
        chunk: &Chunk,
        lsn: u64,
        entries: &mut Vec<HintEntry>,
    ) -> Result<()> {
        self.write_run(segment, chunk.offset, &chunk.bytes[..chunk.used])?;
        entries.extend(chunk.placed.iter().map(|placed| {
            let (kind, extension) = match placed.expires {
                true => (Kind::SetExpiring, 8),
                false => (Kind::Set, 0),
            };
            let key = placed.at as usize + HEADER_BYTES + extension;
            let key = &chunk.bytes[key..key + usize::from(placed.key_len)];
            let offset = chunk.offset + u64::from(placed.at);
            HintEntry::new(
                self.hash_key.fingerprint(key),
                lsn,
                offset,
                placed.size,
                kind,
            )
        }));
        Ok(())
    }

    fn write_run(&self, segment: &Segment<F>, offset: u64, bytes: &[u8]) -> Result<()> {
        let name = name::segment(segment.header.id);
        let written = segment.file.write_at(offset, bytes);
        let written = written.map_err(self.io("write the merged segment", &name));
        written.map_err(|error| self.or_disk_full(error))
    }

    /// No byte behind its FOOTER.
    fn trim_output(&self, segment: &Segment<F>, length: u64) -> Result<()> {
        let name = name::segment(segment.header.id);
        let trimmed = segment.file.set_len(length);
        trimmed.map_err(self.io("trim the merged segment", &name))
    }
}
