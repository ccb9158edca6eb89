//! The compaction thread: one step after the other as long as there is enough garbage.
//!
//! Between two pieces of a step it rests as long as it worked, so that it takes at most half of a
//! core from writers and readers; once garbage grows faster than that it rests no more, and in the
//! end writers wait for it: a moment every few hundred KiB, without a lock, and never for longer than
//! [`BRAKE_WAIT_MAX`], whatever becomes of the thread.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::engine::compaction::plan::{GARBAGE_BYTES_MIN, Marks, WORTHWHILE_PARTS, best};
use crate::engine::compaction::step::{Halt, Pace};
use crate::engine::core::Engine;
use crate::engine::error::Result;
use crate::engine::report::CompactProgress;
use crate::storage::fs::Fs;

/// Garbage that writers may add between two waits.
const BRAKE_BYTES: u64 = 256 << 10;

/// Longest wait of a writer for one step, as the brake takes hold.
const BRAKE_WAIT_MIN: Duration = Duration::from_millis(10);

/// Longest wait of a writer for one step.
const BRAKE_WAIT_MAX: Duration = Duration::from_millis(25);

/// Shortest and longest sleep before another look whether keys have expired: the clock may be set.
const LOOK_MIN: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(60);

/// Longest rest between two pieces.
const REST_MAX: Duration = Duration::from_millis(20);

/// Tells everybody that the thread is gone, and poisons if it panicked.
struct Working<'a, F: Fs>(&'a Engine<F>);

impl<F: Fs> Drop for Working<'_, F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.upkeep_failed();
        }
        self.0.background.ended();
    }
}

impl<F: Fs> Engine<F> {
    /// For a writer that holds no lock: makes sure that the thread is at work if there is enough
    /// garbage, and waits a moment for it if there is far too much. False if there is no thread.
    pub(super) fn ask_for_compaction(&self) -> bool {
        let brake = {
            let mut section = self.section.lock();
            let watch = section.count_expired_at != u64::MAX
                && !std::mem::replace(&mut section.watched, true);
            let dead = section.garbage();
            let marks = Marks::of(section.payload.saturating_sub(dead));
            section.compact_floor = match dead {
                dead if dead < marks.begin => marks.begin,
                dead if dead < marks.brake => marks.brake,
                dead => dead + BRAKE_BYTES,
            };
            if dead < marks.begin && !watch {
                return true;
            }
            let more = BRAKE_WAIT_MAX - BRAKE_WAIT_MIN;
            let wait = BRAKE_WAIT_MIN + more * marks.pressure(dead) as u32 / 1000;
            (dead >= marks.brake).then_some(wait)
        };
        let asked = self.background.ask(|| {
            // Ended by closing: until then the thread keeps the engine.
            let engine = self.me.upgrade().ok_or(std::io::ErrorKind::NotFound)?;
            std::thread::Builder::new()
                .name("kvs-compaction".to_owned())
                .spawn(move || engine.compact_in_background())
        });
        if let Some(most) = brake {
            let begin = Instant::now();
            self.background.brake(most);
            self.counters.note_brake(begin.elapsed());
        }
        asked
    }

    fn compact_in_background(&self) {
        let _working = Working(self);
        while self.background.next(self.until_expiry()) {
            let mut failed = false;
            while self.background.stop_by().is_none() {
                match self.step_in_background() {
                    Ok(true) => self.background.stepped(),
                    Ok(false) => break,
                    Err(_) => {
                        failed = true;
                        break;
                    }
                }
            }
            let mut section = self.section.lock();
            let dead = section.garbage();
            let live = section.payload.saturating_sub(dead);
            let marks = Marks::of(live);
            section.compact_floor = match dead < marks.begin {
                true => marks.begin,
                // What is left cannot be given back now: it is in the active segment, damaged, held,
                // or the disk is full. Worth another look when there is more.
                false => {
                    let more = if failed { live / 4 } else { live / 16 };
                    dead + more.max(GARBAGE_BYTES_MIN)
                }
            };
        }
    }

    /// One step; false if there is nothing worth doing.
    fn step_in_background(&self) -> Result<bool> {
        let _one = self.compaction.lock();
        let mut last = self.end_of_sealed()?;
        let (dead, marks, active_is_over) = {
            let mut section = self.section.lock();
            self.recount_expired(&mut section, self.now_ms());
            let dead = section.garbage();
            let live = section.payload.saturating_sub(dead);
            let is_over = section.active.as_ref().is_some_and(|active| {
                let expired = active.segment.slot.expiring.expired(self.now_ms());
                expired >= GARBAGE_BYTES_MIN && expired * 2 >= active.payload
            });
            (dead, Marks::of(live), is_over)
        };
        if dead < marks.begin || self.check_pinned().is_err() {
            return Ok(false);
        }
        let mut step = best(&self.loads(last), WORTHWHILE_PARTS, self.step_bytes());
        if step.is_empty() && active_is_over {
            // Nobody may write any more, and so never end it.
            last = self.end_log_for_compaction()?;
            step = best(&self.loads(last), WORTHWHILE_PARTS, self.step_bytes());
        }
        if step.is_empty() {
            return Ok(false);
        }
        let mut hurries = dead >= marks.hurry;
        let mut since = Instant::now();
        let mut control = |_: &CompactProgress| {
            if self
                .background
                .stop_by()
                .is_some_and(|by| Instant::now() >= by)
            {
                return ControlFlow::Break(());
            }
            // Not known at this moment: as it was.
            if let Some(section) = self.section.try_lock() {
                hurries = section.garbage() >= marks.hurry;
            }
            if !hurries {
                let rest = Instant::now();
                self.background.rest(since.elapsed().min(REST_MAX));
                self.counters.note_rest(rest.elapsed());
            }
            since = Instant::now();
            ControlFlow::Continue(())
        };
        let mut pace = Pace::new(&mut control);
        match self.compact_step(&step, last, &mut pace) {
            // A step that gave nothing back would give nothing the next time.
            Ok(report) => Ok(report.bytes_after < report.bytes_before),
            Err(Halt::Cancelled) => Ok(false),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    /// How long the thread may sleep before it looks whether keys have expired; `None` if none will.
    fn until_expiry(&self) -> Option<Duration> {
        let at = self.section.lock().count_expired_at;
        let wait = at.saturating_sub(self.now_ms());
        (at != u64::MAX).then(|| Duration::from_millis(wait).clamp(LOOK_MIN, LOOK_MAX))
    }

    /// Starts the thread if there is something that expires, and it does not run yet.
    pub(crate) fn watch_expiry(&self) {
        let may_expire = self.section.lock().count_expired_at != u64::MAX;
        if may_expire && !self.config.read_only && self.config.compacts_in_background() {
            // Without a thread writes look.
            let _ = self.ask_for_compaction();
        }
    }

    /// Ends the thread after its step, or soon after `by`.
    pub(crate) fn stop_compaction(&self, by: Instant) {
        if let Some(worker) = self.background.stop(by)
            && worker.join().is_err()
        {
            self.upkeep_failed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;
    use crate::engine::error::Error;
    use crate::engine::options::Options;
    use crate::storage::real::RealFs;

    #[test]
    fn a_compaction_thread_that_panics_is_noticed_by_the_next_write() {
        let config = Config::new(&Options::new());
        let engine = Engine::open(RealFs::in_memory(), config).unwrap();
        engine.set(b"k", b"1").unwrap();
        let panicked = std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let _working = Working(&engine);
                panic!("on purpose");
            });
            worker.join().is_err()
        });
        assert!(panicked);
        assert!(matches!(engine.set(b"k", b"2"), Err(Error::Poisoned)));
        assert!(engine.close_within(Duration::ZERO).is_err());
    }
}
