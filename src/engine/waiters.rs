//! Where threads wait for a sync: who leads, what is durable, what went wrong.
//!
//! Every waiting thread has a seat of its own and is told there, once, what became of it. So a group
//! is let go without its threads queueing for one lock, and nobody is woken for nothing: those whose
//! writes are durable return, and of the others one is told to lead.
//!
//! Invariants
//! - `leading` is true from the moment a thread is told to lead until it has stopped.
//! - A queued thread is told exactly once, by whoever takes it off the queue.
//! - The queue is empty if nobody leads.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, thread};

use crate::engine::error::{Error, Result};
use crate::engine::report::{GROUP_SIZES, GroupStats};

/// What went wrong, to be told to every waiter.
#[derive(Clone, Debug)]
struct Failure {
    op: &'static str,
    path: PathBuf,
    kind: io::ErrorKind,
    code: Option<i32>,
    text: String,
}

impl Failure {
    fn of(error: &Error) -> Self {
        match error {
            Error::Io { op, path, source } => Self {
                op,
                path: path.clone(),
                kind: source.kind(),
                code: source.raw_os_error(),
                text: source.to_string(),
            },
            other => Self {
                op: "complete the commit",
                path: PathBuf::new(),
                kind: io::ErrorKind::Other,
                code: None,
                text: other.to_string(),
            },
        }
    }

    fn to_error(&self) -> Error {
        Error::Io {
            op: self.op,
            path: self.path.clone(),
            source: match self.code {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(self.kind, self.text.clone()),
            },
        }
    }
}

/// Threads for which it is worth waiting as long as a sync takes.
const LARGE_GROUP: usize = 8;

/// Longer than this nobody is waited for, however slow the device.
const PATIENCE_MAX: Duration = Duration::from_millis(2);

const WAIT: u8 = 0;
const DURABLE: u8 = 1;
const FAILED: u8 = 2;
const LEAD: u8 = 3;

/// Where one thread waits.
#[derive(Debug, Default)]
struct Seat {
    told: Mutex<u8>,
    changed: Condvar,
}

thread_local! {
    // One is enough: a thread waits for one store at a time.
    static SEAT: Arc<Seat> = Arc::default();
}

impl Seat {
    /// The calling thread's, with nothing told yet.
    fn mine() -> Arc<Self> {
        // A store may be dropped by a thread that is already ending.
        // Chosen schedules run all threads on one.
        let seat = match cfg!(kvs_shuttle) {
            true => Arc::default(),
            false => SEAT.try_with(Arc::clone).unwrap_or_default(),
        };
        *seat.told.lock() = WAIT;
        seat
    }

    fn tell(&self, what: u8) {
        *self.told.lock() = what;
        self.changed.notify_one();
    }

    fn listen(&self) -> u8 {
        let mut told = self.told.lock();
        while *told == WAIT {
            self.changed.wait(&mut told);
        }
        *told
    }
}

#[derive(Debug)]
struct Queued {
    lsn: u64,
    seat: Arc<Seat>,
}

#[derive(Debug)]
struct State {
    durable_lsn: u64,
    leading: bool,
    /// What went wrong, if that is known before waiters may be told.
    cause: Option<Failure>,
    failure: Option<Failure>,
    queue: Vec<Queued>,
    /// How many waited when the last sync began, and how long it took.
    last_group: usize,
    last_sync: Duration,
    /// Groups made durable.
    groups: GroupStats,
}

/// All that wait for one store.
#[derive(Debug)]
pub(crate) struct Commit {
    state: Mutex<State>,
    /// Length of the queue, to be looked at without the lock.
    queued: AtomicUsize,
}

impl Commit {
    pub(crate) fn new(durable_lsn: u64) -> Self {
        Self {
            state: Mutex::new(State {
                durable_lsn,
                leading: false,
                cause: None,
                failure: None,
                queue: Vec::new(),
                last_group: 0,
                last_sync: Duration::ZERO,
                groups: GroupStats::default(),
            }),
            queued: AtomicUsize::new(0),
        }
    }

    /// Waits until `lsn` is durable, or until the caller must lead: then true.
    ///
    /// # Errors
    /// What the failed sync said.
    pub(crate) fn wait_or_lead(&self, lsn: u64) -> Result<bool> {
        let seat = {
            let mut state = self.state.lock();
            if state.durable_lsn >= lsn {
                return Ok(false);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.to_error());
            }
            if !state.leading {
                state.leading = true;
                return Ok(true);
            }
            let seat = Seat::mine();
            state.queue.push(Queued {
                lsn,
                seat: Arc::clone(&seat),
            });
            self.queued.store(state.queue.len(), Ordering::Relaxed);
            seat
        };
        match seat.listen() {
            LEAD => Ok(true),
            DURABLE => Ok(false),
            _ => Err(match &self.state.lock().failure {
                Some(failure) => failure.to_error(),
                None => Error::Poisoned,
            }),
        }
    }

    /// Gives those whom the last sync let go time to join again.
    ///
    /// The first of them to be back would otherwise sync for itself alone, and all others wait for two
    /// syncs. Ends when as many wait as did then, after the time of a sync at the latest; a small group
    /// is worth less waiting.
    pub(crate) fn gather(&self) {
        let (others, patience) = {
            let state = self.state.lock();
            let weight = state.last_group.min(LARGE_GROUP) as u32;
            let patience = state.last_sync * weight / LARGE_GROUP as u32;
            (
                state.last_group.saturating_sub(1),
                patience.min(PATIENCE_MAX),
            )
        };
        if others == 0 {
            return;
        }
        let started = Instant::now();
        while self.queued.load(Ordering::Relaxed) < others && started.elapsed() < patience {
            thread::yield_now();
        }
    }

    /// The group that waits now is being synced.
    pub(crate) fn close_group(&self) {
        let mut state = self.state.lock();
        state.last_group = state.queue.len() + 1;
    }

    /// The sync took so long.
    pub(crate) fn note_sync(&self, took: Duration) {
        let mut state = self.state.lock();
        state.last_sync = took;
        let size = state.last_group as u64;
        state.groups.count += 1;
        state.groups.writers += size;
        state.groups.largest = state.groups.largest.max(size);
        let power = (size.max(1).ilog2() as usize).min(GROUP_SIZES - 1);
        state.groups.by_size[power] += 1;
    }

    /// Lets go of everybody who waits for `lsn` or less: what they wrote is durable and visible.
    pub(crate) fn advance(&self, lsn: u64) {
        let released = {
            let mut state = self.state.lock();
            state.durable_lsn = state.durable_lsn.max(lsn);
            let durable = state.durable_lsn;
            let (released, rest) = std::mem::take(&mut state.queue)
                .into_iter()
                .partition::<Vec<_>, _>(|queued| queued.lsn <= durable);
            state.queue = rest;
            self.queued.store(state.queue.len(), Ordering::Relaxed);
            released
        };
        for queued in released {
            queued.seat.tell(DURABLE);
        }
    }

    /// Remembers why waiters will have to be let go with an error; the first cause counts.
    pub(crate) fn blame(&self, error: &Error) {
        let mut state = self.state.lock();
        state.cause.get_or_insert_with(|| Failure::of(error));
    }

    /// Lets everybody go with an error: the cause if there is one, else the first that is told.
    pub(crate) fn fail(&self, error: &Error) {
        let released = {
            let mut state = self.state.lock();
            let cause = state.cause.clone();
            state
                .failure
                .get_or_insert_with(|| cause.unwrap_or_else(|| Failure::of(error)));
            self.queued.store(0, Ordering::Relaxed);
            std::mem::take(&mut state.queue)
        };
        for queued in released {
            queued.seat.tell(FAILED);
        }
    }

    /// The leader has done its part: the next one leads, if anybody waits.
    pub(crate) fn stop_leading(&self) {
        let next = {
            let mut state = self.state.lock();
            state.leading = !state.queue.is_empty();
            let next = state.leading.then(|| state.queue.swap_remove(0));
            self.queued.store(state.queue.len(), Ordering::Relaxed);
            next
        };
        if let Some(next) = next {
            next.seat.tell(LEAD);
        }
    }

    /// Group commits so far.
    pub(crate) fn groups(&self) -> u64 {
        self.state.lock().groups.count
    }

    /// What they were like, and who waits for the next one.
    pub(crate) fn group_stats(&self) -> GroupStats {
        let state = self.state.lock();
        GroupStats {
            waiting: state.queue.len() as u64,
            ..state.groups
        }
    }
}
