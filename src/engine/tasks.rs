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
        if idle || self.stop || waiting > self.hints_may_wait {
            return self.sealed_hints.pop_front().map(Task::HintOfSealed);
        }
        None
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
        assert_eq!(sealed(state.next(true)), Some(3));
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

    #[test]
    fn hints_that_are_missing_when_a_store_is_opened_are_written() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let options = Options::new().segment_bytes(4 << 20);
        let open = || options.open(dir.path()).expect("it opens");
        let store = open();
        for i in 0..10_000u32 {
            store.set(i.to_le_bytes(), [0; 1000]).expect("set");
        }
        store.close().expect("close");
        let mut hints = files(dir.path(), ".hint");
        hints.sort();
        assert_eq!(hints.len(), 3);
        // The third is of the segment that is gone on with.
        for hint in &hints[..2] {
            std::fs::remove_file(hint).expect("it can be removed");
        }
        let store = open();
        assert_eq!(store.recovery().hints_used, 1);
        wait_for_hints(dir.path(), 3);
        store.close().expect("close");
        let store = open();
        assert_eq!(store.recovery().hints_used, 3);
        assert_eq!(store.len(), 10_000);
    }
}
