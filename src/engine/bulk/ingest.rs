//! Taking pairs, writing them, making them count.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvs_format::manifest::{Edit, MergedBody};
use kvs_format::record::{Draft, Kind};
use kvs_format::segment::{PAGE_BYTES, SegmentKind};
use kvs_format::system::{FOOTER_RECORD_BYTES, Footer, MARK_RECORD_BYTES};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

use crate::engine::bulk::tables::{Source, Tables};
use crate::engine::bulk::writing::Writing;
use crate::engine::catalog::End;
use crate::engine::core::{Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::expiry::Expiry;
use crate::engine::merged::{EDIT_BYTES, Output};
use crate::engine::pending::Ticket;
use crate::engine::report::LoadReport;
use crate::engine::reserve::Need;
use crate::engine::tasks::{FailOnPanic, Fresh};
use crate::engine::upkeep::SHRINKING_BYTES_MIN;
use crate::storage::fs::Fs;

/// How much larger its segments are than those of a log in a store of the size that the load leads to.
const SIZE_FACTOR: u64 = 4;

/// Changes that are not worth another round outside the section.
const FEW_CHANGES: usize = 64;

/// Rounds of changes repeated outside the section, at most.
const ROUNDS_MAX: usize = 16;

/// A load under way. Dropped before it counts, it leaves nothing behind.
struct Ingest<'a, F: Fs> {
    engine: &'a Engine<F>,
    lsn: u64,
    outputs: Vec<Output<F>>,
    report: LoadReport,
    /// Bytes in the outputs that are full.
    full: u64,
    /// Pairs in the last output.
    records: u64,
    writing: Writing<F>,
    /// Numbers of the outputs that ended before there were threads, which nobody has synced.
    unsynced: Vec<usize>,
    /// The manifest lists the outputs, or may.
    listed: bool,
}

impl<F: Fs> Drop for Ingest<'_, F> {
    fn drop(&mut self) {
        self.writing.abandon();
        if !self.listed {
            self.engine.remove_outputs(&self.outputs);
        } else if std::thread::panicking() {
            // The manifest may list what the index does not have: the store has failed, and nothing
            // may be dropped that such a load would bring back.
            return;
        }
        self.engine.section.lock().loads.end(self.lsn);
    }
}

impl<F: Fs> Engine<F> {
    /// See [`crate::Store::load`] and [`crate::Store::try_load`].
    pub fn load<I, K, V, E>(&self, pairs: I) -> Result<LoadReport, E>
    where
        I: Iterator<Item = Result<(K, V), E>>,
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
        E: From<Error>,
    {
        self.load_with(pairs.map(|pair| pair.map(|(key, value)| (key, value, None))))
    }

    /// As [`Engine::load`], with when each value expires; `None`: as the store says.
    pub fn load_with<I, K, V, E>(&self, pairs: I) -> Result<LoadReport, E>
    where
        I: Iterator<Item = Result<(K, V, Option<Expiry>), E>>,
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
        E: From<Error>,
    {
        self.check_writable(&mut self.section.lock())?;
        let mut pairs = pairs;
        let mut ingest: Option<Ingest<'_, F>> = None;
        while let Some(pair) = pairs.next() {
            let (key, value, expiry) = pair?;
            let (key, value) = (key.as_ref(), value.as_ref());
            Self::check_sizes(key, value)?;
            let ingest = match &mut ingest {
                Some(ingest) => ingest,
                None => ingest.insert(self.begin_load()?),
            };
            let taken = ingest.take(key, value, expiry, || pairs.size_hint().0 as u64);
            taken.map_err(|error| ingest.cause(error))?;
        }
        let Some(mut ingest) = ingest else {
            return Ok(LoadReport::default());
        };
        let report = ingest.finish().map_err(|error| ingest.cause(error))?;
        drop(ingest);
        self.keep_reserve();
        let compact = self.wants_compaction(&mut self.section.lock());
        if compact {
            let _fails = FailOnPanic(&self.upkeep);
            self.compact_automatically();
        }
        Ok(report)
    }

    /// Takes the load's place among the writes.
    fn begin_load(&self) -> Result<Ingest<'_, F>> {
        // Half a record must not be followed by others.
        let _fails = FailOnPanic(&self.upkeep);
        let mut guard = self.section.lock();
        let section = &mut *guard;
        self.check_writable(section)?;
        self.make_room_for(section, MARK_RECORD_BYTES, Need::Values)?;
        let lsn = self.put_mark(section)?;
        section.loads.begin(lsn);
        drop(guard);
        Ok(Ingest {
            engine: self,
            lsn,
            outputs: Vec::new(),
            report: LoadReport::default(),
            full: 0,
            records: 0,
            writing: Writing::new(self, lsn),
            unsynced: Vec::new(),
            listed: false,
        })
    }

    /// A merged segment of `capacity` bytes, or of less if the disk has no more, down to `least`. Never
    /// in the room of the reserve: that is for what makes room.
    fn create_for_load(&self, mut capacity: u64, least: u64) -> Result<Fresh<F>> {
        {
            let mut section = self.section.lock();
            self.check_writable(&mut section)?;
            if self.reserve.is_lent() {
                self.take_reserve_back(&section)?;
            }
        }
        loop {
            let smaller = (capacity / 2).next_multiple_of(4096);
            match self.create_segment(SegmentKind::Merged, capacity, false) {
                Err(Error::DiskFull { .. })
                    if self.config.segment_bytes.is_none()
                        && smaller >= least.max(SHRINKING_BYTES_MIN) =>
                {
                    capacity = smaller;
                }
                created => return created,
            }
        }
    }
}

impl<F: Fs> Ingest<'_, F> {
    /// Writes one pair; at least `left` more are expected.
    #[inline]
    fn take(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry: Option<Expiry>,
        left: impl FnOnce() -> u64,
    ) -> Result<()> {
        // One that has expired is stored like any other: it is the removal of its key.
        let expires_at = match expiry {
            None => self.engine.default_expiry(),
            Some(Expiry::Never) => None,
            Some(Expiry::At(ms)) => Some(ms),
        };
        let draft = Draft::new(Kind::Set, expires_at, key, value).expect("lengths were checked");
        let size = draft.size();
        if !self.outputs.last().is_some_and(|last| last.has_room(size)) {
            self.next_output(size, left())?;
        }
        let output = self.outputs.last_mut().expect("one was just made");
        output.expiring.extend(expires_at.map(|at| (at, size)));
        let segment = &output.fresh.segment;
        self.writing
            .put(self.engine, segment, &draft, output.offset, key, value)?;
        output.offset += size;
        self.records += 1;
        self.report.pairs += 1;
        self.report.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    #[cold]
    fn next_output(&mut self, size: u64, left: u64) -> Result<()> {
        self.end_last()?;
        let engine = self.engine;
        let config = &engine.config;
        // What is yet to come is about as large as what has come. A hint may say anything.
        let average = match self.report.pairs {
            0 => size,
            pairs => self.full / pairs,
        };
        let coming = left.saturating_mul(average).min(u64::MAX / 4);
        let stored: u64 = {
            let section = engine.section.lock();
            section.ends.values().map(|end| end.length).sum()
        };
        // Each costs two syncs that the load waits for.
        let expected = stored + self.full + coming;
        let usual = config.segment_size(expected.saturating_mul(SIZE_FACTOR), 0);
        let least = (PAGE_BYTES + size + FOOTER_RECORD_BYTES).next_multiple_of(4096);
        let fresh = engine.create_for_load(usual.max(least), least)?;
        // Nobody reads it meanwhile, and nobody stores through its map.
        let output = Output::new(fresh, false);
        self.writing.begin(output.offset);
        self.outputs.push(output);
        Ok(())
    }

    /// FOOTER, and what is known of the output then.
    fn end_last(&mut self) -> Result<()> {
        let Some(number) = self.outputs.len().checked_sub(1) else {
            return Ok(());
        };
        let last = &mut self.outputs[number];
        let (records, lsn) = (std::mem::take(&mut self.records), self.lsn);
        let payload = last.offset - PAGE_BYTES;
        let footer = Footer {
            records: U64::new(records),
            min_lsn: U64::new(lsn),
            max_lsn: U64::new(lsn),
            payload_bytes: U64::new(payload),
        };
        let segment = Arc::clone(&last.fresh.segment);
        let footer = footer.as_bytes();
        let record = self
            .writing
            .put_footer(self.engine, &segment, last.offset, footer)?;
        last.offset += record.size;
        let end = End {
            length: last.offset,
            end_lsn: lsn,
            min_lsn: lsn,
            max_lsn: lsn,
            records,
            cut: None,
        };
        last.ended(end, record, payload, self.engine.now_ms());
        self.full += last.offset;
        let sorted = self
            .writing
            .end_output(self.engine, &segment, number, last.offset)?;
        if let Some(entries) = sorted {
            last.entries = entries;
            self.unsynced.push(number);
        }
        Ok(())
    }

    /// All of it counts, or an error and nothing.
    fn finish(&mut self) -> Result<LoadReport> {
        let _fails = FailOnPanic(&self.engine.upkeep);
        self.end_last()?;
        let engine = self.engine;
        // Everything that is older than the load is visible.
        engine.wait(Ticket(self.lsn))?;
        while let Some((output, entries)) = self.writing.entries()? {
            self.outputs[output].entries = entries;
        }
        for output in &mut self.outputs {
            output.fresh.map.publish(output.offset);
        }
        // Nothing is moved until the load is in the index.
        let _one = engine.compaction.lock();
        let mut tables = self.tables()?;
        self.sync()?;
        self.catch_up(&mut tables);
        self.list()?;
        self.catch_up(&mut tables);
        self.publish(tables);
        self.report.segments = self.outputs.len() as u64;
        for output in self.outputs.drain(..) {
            let Some(hint) = output.into_hint() else {
                continue;
            };
            match engine.config.threads {
                true => engine.submit_hint(hint),
                false => engine.write_hint_of(&hint),
            }
        }
        Ok(self.report)
    }

    /// Why it failed: if a thread did, that comes before whatever followed from it.
    fn cause(&mut self, error: Error) -> Error {
        match error {
            Error::Poisoned => self.writing.end().err().unwrap_or(error),
            error => error,
        }
    }

    /// Files and names are durable.
    fn sync(&mut self) -> Result<()> {
        let engine = self.engine;
        self.writing.end()?;
        for number in &self.unsynced {
            engine.sync_written(self.outputs[*number].segment())?;
        }
        engine.sync_dir()
    }

    fn tables(&self) -> Result<Tables> {
        let engine = self.engine;
        let (removed, shards) = {
            let mut section = engine.section.lock();
            engine.check_writable(&mut section)?;
            (
                section.loads.keep_changes(self.lsn),
                engine.index.snapshot(),
            )
        };
        let source = Source {
            engine,
            lsn: self.lsn,
            outputs: &self.outputs,
            removed: &removed,
            shards: &shards,
        };
        let tables = source.tables()?;
        if let Some(max) = engine.config.index_bytes_max {
            // The old tables stay until the new ones are in their places.
            let made = tables.shards.iter().flatten();
            let made: usize = made.map(|table| table.allocation_size()).sum();
            let bytes = engine.index.bytes() + made as u64;
            if bytes > max {
                return Err(Error::IndexFull { bytes, max });
            }
        }
        Ok(tables)
    }

    /// Repeats what writers have done meanwhile, until little is left.
    fn catch_up(&self, tables: &mut Tables) {
        for _ in 0..ROUNDS_MAX {
            let (changes, view) = {
                let mut section = self.engine.section.lock();
                let changes = section.loads.take_changes(self.lsn);
                (changes, Arc::clone(&section.view))
            };
            let bits = self.engine.index.bits();
            tables.repeat(&self.outputs, bits, &view, &changes);
            if changes.len() < FEW_CHANGES {
                return;
            }
        }
    }

    /// COMPACT without inputs.
    fn list(&mut self) -> Result<()> {
        let engine = self.engine;
        let bodies: Vec<MergedBody> = self.outputs.iter().filter_map(Output::body).collect();
        {
            // Room for saying so: a full disk must show while nothing has changed.
            let mut manifest = engine.manifest.lock();
            let manifest = manifest.as_mut().ok_or(Error::ReadOnly)?;
            let bytes = EDIT_BYTES * (2 + bodies.len() as u64);
            manifest
                .reserve(&engine.fs, bytes)
                .map_err(|error| engine.or_disk_full(error.into()))?;
        }
        self.listed = true;
        let edit = Edit::Compact {
            outputs: &bodies,
            inputs: &[],
        };
        // Names nothing, but stands behind: a last edit that was damaged cannot be told from one that was
        // never finished, and with it the load would be gone. Compaction's own FORGET comes in time.
        let behind = Edit::Forget { ids: &[] };
        let listed = engine.edit(&edit).and_then(|()| engine.edit(&behind));
        listed.inspect_err(|_| {
            engine.poison(&mut engine.section.lock());
        })
    }

    /// Readers see it. Cannot fail: the manifest says that it is there.
    fn publish(&mut self, mut tables: Tables) {
        let engine = self.engine;
        let mut guard = engine.section.lock();
        let section: &mut Section<F> = &mut guard;
        let changes = section.loads.take_changes(self.lsn);
        tables.repeat(&self.outputs, engine.index.bits(), &section.view, &changes);
        let mut view = (*section.view).clone();
        for output in &self.outputs {
            view = view.with(&output.fresh.segment.slot);
        }
        section.view = Arc::new(view);
        engine.index.set_view(&section.view);
        let mut segments = engine.segments.write();
        for (output, live) in self.outputs.iter().zip(&tables.live) {
            let segment = &output.fresh.segment;
            segments.insert(segment.header.id, Arc::clone(segment));
            let end = output.end.map(|end| (segment.header.id, end));
            section.ends.extend(end);
            segment.slot.gain(live.bytes - live.expiring, false);
            segment.slot.gain(live.expiring, true);
            let payload = segment.slot.payload.load(Ordering::Relaxed);
            section.payload += payload;
            section.dead += payload - live.bytes;
        }
        drop(segments);
        engine.expect_cold_reads(
            self.outputs
                .iter()
                .map(|output| &*output.fresh.segment.slot),
        );
        for (slot, lost) in tables.lost.values() {
            slot.lose(lost.bytes - lost.expiring, false);
            slot.lose(lost.expiring, true);
            section.dead += lost.bytes;
        }
        self.report.superseded = self.report.pairs - tables.shown;
        let shards = tables.shards.into_iter().enumerate();
        let tables = shards.filter_map(|(shard, table)| Some((shard, table?)));
        let before = engine.index.replace(tables.collect());
        engine.index_changed();
        section.loads.end(self.lsn);
        drop(guard);
        // Outside the section: that takes its time.
        drop(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;
    use crate::engine::options::Options;
    use crate::storage::location::{WINDOW_BYTES, WINDOWS_MAX};
    use crate::storage::real::RealFs;

    #[test]
    fn a_load_for_which_there_are_no_windows_is_refused_whole() {
        let mut config = Config::new(&Options::new().segment_bytes(64 << 10));
        config.reserve = false;
        let engine = Engine::open(RealFs::in_memory(), config).unwrap();
        engine.set(b"before", b"1").unwrap();
        let load = || engine.load((0..200u8).map(|i| Ok::<_, Error>(([i], [i; 1000]))));
        // All but the one that is used, one that may have been prepared, and one for the load.
        let most = WINDOWS_MAX as u64 - 3;
        let lease = engine.windows.lease(most * WINDOW_BYTES).unwrap();
        assert!(matches!(load(), Err(Error::StoreFull)));
        assert_eq!((engine.len(), engine.segments.read().len()), (1, 1));
        drop(lease);
        assert_eq!(load().unwrap().segments, 4);
        assert_eq!(engine.len(), 201);
    }

    #[test]
    fn a_hint_does_not_stay_when_its_segment_is_gone() {
        let engine = Engine::open(RealFs::in_memory(), Config::new(&Options::new())).unwrap();
        let mut ingest = engine.begin_load().unwrap();
        ingest.take(b"key", b"value", None, || 0).unwrap();
        ingest.end_last().unwrap();
        let id = ingest.outputs[0].segment().header.id;
        let hint = kvs_format::name::hint(id);
        let there = || engine.fs.list().unwrap().contains(&hint.to_string());
        engine.write_output_hint(&ingest.outputs[0]);
        assert!(there());
        // As if compaction had retired it before the hint was written.
        let job = ingest.outputs.pop().unwrap().into_hint().unwrap();
        engine.write_hint_of(&job);
        assert!(!there());
    }
}
