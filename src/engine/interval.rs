//! The level `Interval`: writes return at once and are synced soon, on a thread of their own.
//!
//! A sync is asked for when half of the interval has passed since the oldest write that is not yet
//! in a group. If the device is so slow that a write has stayed undurable for the whole interval, no
//! other write of this level is acknowledged before it is durable. So what a power cut can take
//! back was acknowledged within one interval, however slow the device: the loss is bounded, and
//! writers slow down instead (`everysec` of Redis bounds it the same way, at two seconds).

use std::time::Duration;

use crate::sync::MutexGuard;

use crate::engine::core::{Engine, Section};
use crate::engine::deadlines::Deadlines;
use crate::engine::error::{Error, Result};
use crate::engine::pending::Ticket;
use crate::engine::tasks::FailOnPanic;
use crate::storage::fs::Fs;

impl<F: Fs> Engine<F> {
    /// Keeps the bound: returns when no write of this level has been undurable for longer than its
    /// interval.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the sync failed; nothing was written.
    #[inline]
    pub(crate) fn keep_bound<'a>(
        &'a self,
        mut guard: MutexGuard<'a, Section<F>>,
    ) -> Result<MutexGuard<'a, Section<F>>> {
        while let Some(deadline) = guard.deadlines.first()
            && (self.config.clock)() >= deadline
        {
            let last = Ticket(guard.next_lsn - 1);
            drop(guard);
            self.wait(last).map_err(|_| Error::Poisoned)?;
            guard = self.section.lock();
        }
        Ok(guard)
    }

    /// True if a write of this level has been undurable for longer than its interval.
    pub(crate) fn is_late(&self, section: &Section<F>) -> bool {
        let deadline = section.deadlines.first();
        deadline.is_some_and(|deadline| (self.config.clock)() >= deadline)
    }

    /// A write of this level has been stored. True if nobody will sync it: there is no thread.
    #[inline]
    #[must_use]
    pub(crate) fn owe_sync(&self, section: &mut Section<F>, interval: Duration) -> bool {
        // A write after the oldest one, of the same interval, changes nothing.
        section
            .deadlines
            .open
            .is_none_or(|(_, least)| interval < least)
            && self.owe_sync_by(section, interval)
    }

    #[cold]
    fn owe_sync_by(&self, section: &mut Section<F>, interval: Duration) -> bool {
        let now = (self.config.clock)();
        let deadline = now.saturating_add(interval);
        let open = &mut section.deadlines.open;
        if open.is_none_or(|(first, _)| deadline < first) {
            *open = Some((deadline, interval));
            return !self.sync_at(now.saturating_add(interval / 2));
        }
        if let Some((_, least)) = open {
            *least = interval;
        }
        false
    }

    /// Asks the thread for a sync; false if there is none to be had.
    fn sync_at(&self, at: Duration) -> bool {
        if !self.config.threads {
            // Time moves from call to call: the next write of the level will see to it.
            return true;
        }
        let mut state = self.interval.state.lock();
        if state.due.is_none_or(|due| at < due) {
            state.due = Some(at);
        }
        if state.worker.is_none()
            && !state.stop
            && let Some(engine) = self.me.upgrade()
        {
            state.worker = crate::sync::thread::Builder::new()
                .name("kvs-interval".to_owned())
                .spawn(move || engine.sync_when_due())
                .ok();
        }
        let is_there = state.worker.is_some();
        drop(state);
        self.interval.changed.notify_all();
        is_there
    }

    fn sync_when_due(&self) {
        let _guard = FailOnPanic(&self.upkeep);
        let mut state = self.interval.state.lock();
        while !state.stop {
            let Some(due) = state.due else {
                self.interval.changed.wait(&mut state);
                continue;
            };
            let now = (self.config.clock)();
            if now < due {
                self.interval.changed.wait_for(&mut state, due - now);
                continue;
            }
            state.due = None;
            drop(state);
            let owes_more = self.settle_deadlines();
            state = self.interval.state.lock();
            if owes_more {
                let now = (self.config.clock)();
                state.due = Some(state.due.map_or(now, |due| due.min(now)));
            }
        }
    }

    /// Syncs what is owed. True if something is still owed that nobody has been asked for: what was
    /// waited for can become durable by a sealed segment, without a group.
    fn settle_deadlines(&self) -> bool {
        let (last, open) = {
            let mut section = self.section.lock();
            let last = section.next_lsn - 1;
            if section.durable_lsn >= last {
                section.deadlines = Deadlines::default();
                return false;
            }
            (last, section.deadlines.open)
        };
        // An error has poisoned the store. What is owed by another write has been asked for by it.
        let settled = self.wait(Ticket(last));
        settled.is_ok() && open.is_some() && self.section.lock().deadlines.open == open
    }

    /// Ends the thread.
    pub(crate) fn stop_interval(&self) {
        let worker = {
            let mut state = self.interval.state.lock();
            state.stop = true;
            state.worker.take()
        };
        self.interval.changed.notify_all();
        if let Some(worker) = worker
            && worker.join().is_err()
        {
            self.upkeep_failed();
        }
    }
}
