//! What is to be done beside the writers, and whether it could be.

use crate::sync::thread::JoinHandle;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::sync::{Condvar, Mutex};

use kvs_format::hint::HintEntry;
use kvs_format::segment::SegmentHeader;

use crate::engine::catalog::End;
use crate::engine::scan::LastRecord;
use crate::engine::segment::Segment;
use crate::storage::fs::Fs;
use crate::storage::raw::mmap::MapWriter;

/// Most bytes of segments whose hints may wait, and of those whose hints closing still writes: closing takes
/// a tenth of a second longer for them, and opening after a crash, or a checkpoint, which does without.
/// Compaction, too, does without: it keeps tombstones that a hint may show to be of no use, once, and then
/// they wait no more.
pub(crate) const HINTS_WAITING_MAX: u64 = 128 << 20;

/// A segment that exists, durably, and holds no record yet.
pub(crate) struct Fresh<F: Fs> {
    pub(crate) segment: Arc<Segment<F>>,
    pub(crate) map: MapWriter,
    pub(crate) capacity: u64,
    /// Bytes from its start on that were brought in for the writer; 0: none.
    pub(crate) brought_in: u64,
}

pub(crate) struct SealJob<F: Fs> {
    pub(crate) segment: Arc<Segment<F>>,
    pub(crate) map: MapWriter,
    pub(crate) end: End,
    /// It was filled fast: most of its pages are in memory, and dirty.
    pub(crate) fast: bool,
    /// Bytes of sealed segments whose hints may wait from now on: see [`State::next`].
    pub(crate) hints_may_wait: u64,
}

/// The hint of a segment that counts already. It does not hold the segment, which may be compacted away.
pub(crate) struct HintJob {
    pub(crate) header: SegmentHeader,
    /// Sorted as they stand in the hint.
    pub(crate) entries: Vec<HintEntry>,
    /// When those that expire do, and their sizes.
    pub(crate) expiring: Vec<(u64, u64)>,
    pub(crate) last: LastRecord,
}

pub(crate) enum Task<F: Fs> {
    Prepare {
        bytes: u64,
        stored: u64,
        large: bool,
    },
    Seal(SealJob<F>),
    Hint(HintJob),
    HintOfSealed(SealedHint<F>),
}

/// The hint of a sealed segment of this length, if it is still there.
pub(crate) struct SealedHint<F: Fs> {
    pub(crate) segment: Weak<Segment<F>>,
    pub(crate) length: u64,
}

pub(crate) struct State<F: Fs> {
    pub(crate) tasks: VecDeque<Task<F>>,
    /// Nobody waits for these: they come when there is no task.
    pub(crate) hints: VecDeque<HintJob>,
    pub(crate) sealed_hints: VecDeque<SealedHint<F>>,
    pub(crate) hints_may_wait: u64,
    /// Compaction has missed one: in this life they wait no more.
    pub(crate) hints_wanted: bool,
    /// Of segments that had none when the store was opened.
    pub(crate) missing_hints: VecDeque<SealedHint<F>>,
    pub(crate) prepared: Option<Fresh<F>>,
    pub(crate) preparing: bool,
    /// No segment could be prepared since the last rotation: not tried again before the next.
    pub(crate) prepare_failed: bool,
    /// LSN of the FOOTER of the last segment that was sealed; only grows.
    pub(crate) sealed_lsn: u64,
    pub(crate) worker: Option<JoinHandle<()>>,
    pub(crate) stop: bool,
}

impl<F: Fs> State<F> {
    /// What to do next.
    ///
    /// Hints of sealed segments wait, up to so many bytes, while the store is being overwritten: what is
    /// compacted away before its turn needs none, and the processor and the room are wanted elsewhere.
    /// They come when nothing else has for a while (`idle`).
    pub(crate) fn next(&mut self, idle: bool) -> Option<Task<F>> {
        let task = self.tasks.pop_front();
        let task = task.or_else(|| self.hints.pop_front().map(Task::Hint));
        if task.is_some() {
            return task;
        }
        let gone = |hint: &SealedHint<F>| hint.segment.strong_count() == 0;
        self.sealed_hints.retain(|hint| !gone(hint));
        let waiting: u64 = self.sealed_hints.iter().map(|hint| hint.length).sum();
        if idle || self.stop || self.hints_wanted || waiting > self.hints_may_wait {
            return self.sealed_hints.pop_front().map(Task::HintOfSealed);
        }
        None
    }

    /// A hint to be written when there is nothing else: one after each while in which nothing was to be
    /// done, for nobody has asked how many there are. When the thread ends, all of them or, if that would
    /// take long, none: opening does without.
    pub(crate) fn next_missing(&mut self, idle: bool) -> Option<Task<F>> {
        let bytes: u64 = self.missing_hints.iter().map(|hint| hint.length).sum();
        if self.stop && bytes > HINTS_WAITING_MAX {
            self.missing_hints.clear();
        }
        match idle || self.stop {
            true => self.missing_hints.pop_front().map(Task::HintOfSealed),
            false => None,
        }
    }
}

/// Work beside the writers.
pub(crate) struct Upkeep<F: Fs> {
    pub(crate) state: Mutex<State<F>>,
    pub(crate) changed: Condvar,
    pub(crate) failed: AtomicBool,
}

impl<F: Fs> Default for Upkeep<F> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                tasks: VecDeque::new(),
                hints: VecDeque::new(),
                sealed_hints: VecDeque::new(),
                hints_may_wait: 0,
                hints_wanted: false,
                missing_hints: VecDeque::new(),
                prepared: None,
                preparing: false,
                prepare_failed: false,
                sealed_lsn: 0,
                worker: None,
                stop: false,
            }),
            changed: Condvar::new(),
            failed: AtomicBool::new(false),
        }
    }
}

impl<F: Fs> Upkeep<F> {
    /// A sync failed outside the section.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Compaction keeps tombstones for want of hints.
    pub(crate) fn want_hints(&self) {
        self.state.lock().hints_wanted = true;
        self.changed.notify_all();
    }

    pub(crate) fn fail(&self) {
        // Under the lock: whoever looked and is about to wait must not miss it.
        let state = self.state.lock();
        self.failed.store(true, Ordering::Release);
        drop(state);
        self.changed.notify_all();
    }
}

/// A thread that panicked must not leave anybody waiting.
pub(crate) struct FailOnPanic<'a, F: Fs>(pub(crate) &'a Upkeep<F>);

impl<F: Fs> Drop for FailOnPanic<'_, F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;
    use crate::engine::core::Engine;
    use crate::engine::options::{Durability, Options};
    use crate::storage::real::RealFs;

    fn sealed(hint: Option<Task<RealFs>>) -> Option<u64> {
        match hint? {
            Task::HintOfSealed(hint) => Some(hint.length),
            _ => None,
        }
    }

    #[test]
    fn hints_that_may_wait_come_when_too_many_do_or_nothing_else_does() {
        let options = Options::new().segment_bytes(64 << 10);
        let mut config = Config::new(&options);
        config.threads = false;
        let engine = Engine::open(RealFs::in_memory(), config).expect("it opens");
        for i in 0..300u32 {
            let stored = engine.set_at(Durability::Os, &i.to_le_bytes(), &[0; 1000]);
            stored.expect("it is stored");
        }
        let mut segments: Vec<_> = engine.segments.read().values().cloned().collect();
        assert!(segments.len() > 4);
        segments.truncate(4);
        let upkeep = Upkeep::<RealFs>::default();
        let mut state = upkeep.state.lock();
        for (segment, length) in segments.iter().zip(1..) {
            let segment = Arc::downgrade(segment);
            state.sealed_hints.push_back(SealedHint { segment, length });
        }
        // 1 + 2 + 3 + 4: the first two must not wait.
        state.hints_may_wait = 7;
        assert_eq!(sealed(state.next(false)), Some(1));
        assert_eq!(sealed(state.next(false)), Some(2));
        assert!(state.next(false).is_none());
        state.hints_wanted = true;
        assert_eq!(sealed(state.next(false)), Some(3));
        state.hints_wanted = false;
        // What is gone needs none.
        let gone = Arc::downgrade(
            &engine
                .segments
                .write()
                .remove(&segments[0].header.id)
                .unwrap(),
        );
        drop(segments.remove(0));
        engine.index.set_view(&Arc::default());
        engine.section.lock().view = Arc::default();
        assert_eq!(gone.strong_count(), 0);
        let lost = SealedHint {
            segment: gone,
            length: 100,
        };
        state.sealed_hints.push_front(lost);
        assert!(state.next(false).is_none(), "it does not count");
        state.stop = true;
        assert_eq!(sealed(state.next(false)), Some(4));
        assert!(state.next(true).is_none());
    }

    #[test]
    fn missing_hints_come_one_by_one_and_do_not_keep_a_store_from_closing() {
        let mut config = Config::new(&Options::new());
        config.threads = false;
        let engine = Engine::open(RealFs::in_memory(), config).expect("it opens");
        engine.set(b"k", b"v").expect("it is stored");
        let segments = engine.segments.read();
        let segment = segments.values().next().expect("there is one");
        let missing = |length| SealedHint {
            segment: Arc::downgrade(segment),
            length,
        };
        let upkeep = Upkeep::<RealFs>::default();
        let mut state = upkeep.state.lock();
        state
            .missing_hints
            .extend([1, HINTS_WAITING_MAX, 2].map(missing));
        assert!(state.next_missing(false).is_none());
        assert_eq!(sealed(state.next_missing(true)), Some(1));
        state.stop = true;
        assert!(state.next_missing(false).is_none(), "that takes long");
        state
            .missing_hints
            .extend([HINTS_WAITING_MAX - 1, 1].map(missing));
        assert_eq!(
            sealed(state.next_missing(false)),
            Some(HINTS_WAITING_MAX - 1)
        );
        assert_eq!(sealed(state.next_missing(false)), Some(1));
        assert!(state.next_missing(true).is_none());
    }

    #[test]
    fn hints_that_compaction_missed_wait_no_more() {
        let options = Options::new()
            .segment_bytes(64 << 10)
            .compaction(crate::engine::options::Compaction::Manual);
        let engine = Engine::open(RealFs::in_memory(), Config::new(&options)).expect("it opens");
        let started = std::time::Instant::now();
        let set = |key: u32| {
            let stored = engine.set(&key.to_le_bytes(), &[0; 1000]);
            stored.expect("it is stored");
        };
        // Much of it garbage, then segments without any, then a tombstone that may shadow something there.
        (0..1000).for_each(|i| set(i % 100));
        (1000..1200).for_each(set);
        engine.remove(&5u32.to_le_bytes()).expect("it is removed");
        (0..100).for_each(set);
        engine.remove(&5u32.to_le_bytes()).expect("it is removed");
        let report = engine.compact().expect("it is compacted");
        let wanted = engine.upkeep.state.lock().hints_wanted;
        let slow = started.elapsed() >= std::time::Duration::from_secs(1);
        assert!(report.tombstones_kept > 0 || slow, "{report:?}");
        assert!(wanted || slow);
        // The hints are written by now or a little later.
        let goes = (0..600).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            set(0);
            engine.compact().expect("it is compacted").tombstones_kept == 0
        });
        assert!(goes, "a tombstone that shadows nothing stays");
        engine
            .close_within(std::time::Duration::ZERO)
            .expect("close");
    }

    fn files(dir: &std::path::Path, suffix: &str) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).expect("it can be read");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths
            .filter(|path| path.to_string_lossy().ends_with(suffix))
            .collect()
    }

    fn wait_for_hints(dir: &std::path::Path, wanted: usize) {
        for _ in 0..600 {
            if files(dir, ".hint").len() >= wanted {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{} hints of {wanted}", files(dir, ".hint").len());
    }

    #[test]
    fn hints_of_a_store_that_was_overwritten_come_by_themselves() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let options = Options::new()
            .segment_bytes(64 << 10)
            .compaction(crate::engine::options::Compaction::Manual);
        let store = options.open(dir.path()).expect("it opens");
        for i in 0..1000u32 {
            store.set((i % 100).to_le_bytes(), [0; 1000]).expect("set");
        }
        store.flush().expect("flush");
        // The active segment and the prepared one have none.
        let wanted = files(dir.path(), ".seg").len() - 2;
        assert!(wanted > 5, "{wanted}");
        wait_for_hints(dir.path(), wanted);
    }

    /// The files of a store as a killed process leaves them, but its hints. Nobody writes; but a segment may just be prepared,
    /// so the manifest comes first: what it names is there.
    fn killed(dir: &std::path::Path) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a directory can be made");
        for suffix in [kvs_format::name::MANIFEST, ""] {
            for file in files(dir, suffix) {
                let name = file.file_name().expect("it has a name");
                if name.to_string_lossy().ends_with(".hint") || copy.path().join(name).exists() {
                    continue;
                }
                std::fs::copy(&file, copy.path().join(name)).expect("it can be copied");
            }
        }
        copy
    }

    #[test]
    fn hints_that_are_missing_after_a_kill_are_written() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let options = Options::new()
            .segment_bytes(4 << 20)
            .durability(Durability::Os);
        let open = |dir: &tempfile::TempDir| options.open(dir.path()).expect("it opens");
        let store = open(&dir);
        for i in 0..11_000u32 {
            store.set(i.to_le_bytes(), [0; 1000]).expect("set");
        }
        wait_for_hints(dir.path(), 2);
        let (waits, closes) = (killed(dir.path()), killed(dir.path()));
        // Two segments were sealed, the third is by recovery.
        let store = open(&waits);
        assert_eq!(store.recovery().hints_used, 0);
        wait_for_hints(waits.path(), 3);
        drop(store);
        open(&closes).close().expect("close");
        for copy in [&waits, &closes] {
            let store = open(copy);
            assert_eq!(store.recovery().hints_used, 3);
            assert_eq!(store.len(), 11_000);
        }
    }
}
