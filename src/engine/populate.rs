//! Pages of the active segment, and of a compaction's outputs, are brought in ahead of the writer, on a
//! thread of their own.
//!
//! The first store into a page of a mapped file costs a fault: 30 to 200 ns a record of 140 bytes.
//! `MADV_POPULATE_WRITE` takes the faults elsewhere. It dirties what it brings in, so it stays 16 MiB
//! ahead at most, and as much of the next segment, begins only when a segment or the one before has proved to
//! be filling, and is not used where syncs are frequent: each would write the zeros ahead as well (ENOSPC is
//! no matter: the file is allocated whole).
//!
//! Nothing depends on it: a page that was not brought in faults as it always did.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use crate::storage::raw::mmap::{LARGE_BYTES, Map};

/// Bytes asked for at a time.
pub(crate) const STEP_BYTES: u64 = 1 << 20;

/// Bytes brought in of a segment that a fast writer will come to, before it does.
pub(crate) const HEAD_BYTES: u64 = 8 * LARGE_BYTES;

/// How far ahead of the writer.
const AHEAD_BYTES: u64 = 16 << 20;

#[derive(Default)]
struct State {
    /// What to bring in next, one range a map: they take turns.
    asks: VecDeque<(Weak<Map>, u64, u64)>,
    worker: Option<JoinHandle<()>>,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The thread, once there is one.
#[derive(Default)]
pub(crate) struct Populate(Arc<Shared>);

/// Where the writer stands with one segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    /// Asked for up to here.
    asked: u64,
    /// Ask again when the writer gets here; `u64::MAX`: never.
    pub(crate) at: u64,
}

impl Ahead {
    /// Of a segment in which the writer stands at `offset`.
    pub(crate) fn new(enabled: bool, offset: u64) -> Self {
        Self {
            asked: offset,
            at: match enabled {
                true => offset + STEP_BYTES,
                false => u64::MAX,
            },
        }
    }

    /// As [`Ahead::new`], where everything below `brought_in` is there already and the next is wanted at once.
    pub(crate) fn going_on(enabled: bool, offset: u64, brought_in: u64) -> Self {
        Self {
            asked: brought_in,
            at: match enabled {
                true => offset,
                false => u64::MAX,
            },
        }
    }

    /// Asks again a step later.
    pub(crate) fn put_off(&mut self, offset: u64) {
        self.at = offset + STEP_BYTES;
    }

    /// The next range to bring in, when the writer has got to `offset` of `capacity`.
    fn next(&mut self, offset: u64, capacity: u64) -> (u64, u64) {
        let from = self.asked.max(offset);
        let to = (offset + AHEAD_BYTES).min(capacity);
        self.asked = to;
        self.at = match to == capacity {
            true => u64::MAX,
            false => offset + STEP_BYTES,
        };
        (from, to)
    }
}

impl Populate {
    /// Asks for what comes next; the writer has got to `offset` of `capacity`.
    #[cold]
    pub(crate) fn ask(&self, ahead: &mut Ahead, map: &Weak<Map>, offset: u64, capacity: u64) {
        let (from, to) = ahead.next(offset, capacity);
        self.bring_in_from(map, from, to, offset);
    }

    /// Asks for `from..to`, all of which the writer has before it.
    pub(crate) fn bring_in(&self, map: &Weak<Map>, from: u64, to: u64) {
        self.bring_in_from(map, from, to, 0);
    }

    fn bring_in_from(&self, map: &Weak<Map>, from: u64, to: u64, offset: u64) {
        if from >= to {
            return;
        }
        let mut state = self.0.state.lock();
        if state.stop {
            return;
        }
        // Of the same segment, what was asked for and not begun is still wanted.
        let same = state.asks.iter_mut().find(|(asked, ..)| asked.ptr_eq(map));
        match same {
            Some((_, start, end)) => (*start, *end) = (from.min(*start).max(offset), to),
            None => state.asks.push_back((Weak::clone(map), from, to)),
        }
        if state.worker.is_none() {
            let shared = Arc::clone(&self.0);
            let spawned = std::thread::Builder::new()
                .name("kvs-populate".to_owned())
                .spawn(move || shared.work());
            match spawned {
                Ok(worker) => state.worker = Some(worker),
                Err(_) => state.stop = true,
            }
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// Ends the thread. Nothing is brought in afterwards.
    pub(crate) fn stop(&self) {
        let worker = {
            let mut state = self.0.state.lock();
            state.stop = true;
            state.asks.clear();
            state.worker.take()
        };
        self.0.changed.notify_one();
        if let Some(worker) = worker {
            // It only advises the kernel: a panic in it has harmed nothing.
            let _ = worker.join();
        }
    }
}

impl Drop for Populate {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        while !state.stop {
            let Some((map, from, to)) = state.asks.pop_front() else {
                self.changed.wait(&mut state);
                continue;
            };
            // Whole large pieces, or what is left of them.
            let end = to.min((from / LARGE_BYTES + 1) * LARGE_BYTES);
            if end < to {
                state.asks.push_back((Weak::clone(&map), end, to));
            }
            drop(state);
            if let Some(map) = map.upgrade() {
                map.populate(from, end);
            }
            state = self.state.lock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_asked_for_once_and_never_beyond_the_segment() {
        let capacity = 20 << 20;
        let mut ahead = Ahead::new(true, 4096);
        let (mut offset, mut covered) = (4096, 4096 + STEP_BYTES);
        while offset < capacity {
            offset += 140;
            if offset >= ahead.at {
                let (from, to) = ahead.next(offset, capacity);
                assert!(
                    from >= covered && from - covered < 140,
                    "no gap, no overlap"
                );
                assert!(to <= capacity && to <= offset + AHEAD_BYTES);
                covered = to;
            }
        }
        assert_eq!(covered, capacity);
        let mut ahead = Ahead::going_on(true, 4096, HEAD_BYTES);
        assert!(ahead.at <= 4096, "at once");
        let (from, to) = ahead.next(4136, capacity);
        assert_eq!((from, to), (HEAD_BYTES, 4136 + AHEAD_BYTES));
        assert_eq!(Ahead::going_on(false, 4096, HEAD_BYTES).at, u64::MAX);
        let mut ahead = Ahead::going_on(true, 4096, HEAD_BYTES);
        let (from, to) = ahead.next(4136, HEAD_BYTES);
        assert!(from >= to, "there is no more of it");
        assert_eq!(Ahead::new(false, 4096).at, u64::MAX);
    }
}
