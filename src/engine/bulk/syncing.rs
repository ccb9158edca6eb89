//! Work for a load beside the thread that writes it.
//!
//! What is written goes to the disk while the next of it is written, so that little is left for the
//! sync at the end; and that one runs while the index is made. The entries of an output that is whole
//! are sorted here. A failed sync poisons, whenever it comes: see
//! [`crate::engine::segment::Segment::sync`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use kvs_format::hint::HintEntry;

use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::hints;
use crate::engine::segment::Segment;
use crate::engine::tasks::FailOnPanic;
use crate::storage::fs::Fs;

/// Bytes after which what was written is sent to the disk. What is brought in ahead of the writer is
/// written with it, as zeros: at most a quarter more.
pub(super) const STEP_BYTES: u64 = 32 << 20;

enum Job<F: Fs> {
    Sync(Arc<Segment<F>>),
    /// Number of the output, and its entries.
    Sort(usize, Vec<HintEntry>),
}

/// The thread that works for one load.
pub(super) struct Syncing<F: Fs> {
    jobs: Sender<Job<F>>,
    sorted: Receiver<(usize, Vec<HintEntry>)>,
    abandoned: Arc<AtomicBool>,
    worker: JoinHandle<Result<()>>,
}

impl<F: Fs> Syncing<F> {
    /// `None` where there are no threads, or none is to be had: the caller does it all.
    pub(super) fn start(engine: &Engine<F>) -> Option<Self> {
        // Schedules that a test chooses know nothing of this thread.
        if !engine.config.threads || cfg!(kvs_shuttle) {
            return None;
        }
        let engine = engine.me.upgrade()?;
        let (jobs, to_do) = channel();
        let (done, sorted) = channel();
        let abandoned = Arc::<AtomicBool>::default();
        let is_abandoned = Arc::clone(&abandoned);
        let worker = std::thread::Builder::new()
            .name("kvs-load".to_owned())
            .spawn(move || engine.work_for_load(&to_do, &done, &is_abandoned))
            .ok()?;
        Some(Self {
            jobs,
            sorted,
            abandoned,
            worker,
        })
    }

    /// All that the segment holds now becomes durable before [`Syncing::end`] returns.
    pub(super) fn sync(&self, segment: &Arc<Segment<F>>) {
        // If it has failed, the end says so.
        let _ = self.jobs.send(Job::Sync(Arc::clone(segment)));
    }

    /// Sorts what [`Syncing::sorted`] then returns.
    pub(super) fn sort(&self, output: usize, entries: Vec<HintEntry>) {
        let _ = self.jobs.send(Job::Sort(output, entries));
    }

    /// Waits for the entries of an output that are sorted, in the order in which they were sent.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the thread has ended: its own error is what [`Syncing::end`] returns.
    pub(super) fn sorted(&self) -> Result<(usize, Vec<HintEntry>)> {
        self.sorted.recv().map_err(|_| Error::Poisoned)
    }

    /// Nothing of it counts: what was asked for and not begun is left undone.
    pub(super) fn abandon(self) {
        self.abandoned.store(true, Ordering::Relaxed);
        let _ = self.end();
    }

    /// Waits for what was asked for.
    pub(super) fn end(self) -> Result<()> {
        drop(self.jobs);
        self.worker.join().unwrap_or(Err(Error::Poisoned))
    }
}

impl<F: Fs> Engine<F> {
    fn work_for_load(
        &self,
        jobs: &Receiver<Job<F>>,
        sorted: &Sender<(usize, Vec<HintEntry>)>,
        abandoned: &AtomicBool,
    ) -> Result<()> {
        let _fails = FailOnPanic(&self.upkeep);
        for job in jobs {
            if abandoned.load(Ordering::Relaxed) {
                break;
            }
            match job {
                Job::Sync(segment) => self.sync_output(&segment)?,
                Job::Sort(output, mut entries) => {
                    hints::sort(&mut entries, self.index.bits());
                    // The load may have given up.
                    let _ = sorted.send((output, entries));
                }
            }
        }
        Ok(())
    }
}
