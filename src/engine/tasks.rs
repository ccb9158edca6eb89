//! What is to be done beside the writers, and whether it could be.

use crate::sync::thread::JoinHandle;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
}

pub(crate) struct SealJob<F: Fs> {
    pub(crate) segment: Arc<Segment<F>>,
    pub(crate) map: MapWriter,
    pub(crate) end: End,
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
}

pub(crate) struct State<F: Fs> {
    pub(crate) tasks: VecDeque<Task<F>>,
    /// Nobody waits for these: they come when there is no task.
    pub(crate) hints: VecDeque<HintJob>,
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
    pub(crate) fn next(&mut self) -> Option<Task<F>> {
        let task = self.tasks.pop_front();
        task.or_else(|| self.hints.pop_front().map(Task::Hint))
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
