//! Who waits for the disk without holding a thread: tasks ask for a ticket, one thread waits for the
//! newest, all that it covers are told at once.
//!
//! The group that was told last is about to ask again: the thread gives it the time of a sync, at most
//! two milliseconds, before it begins the next one for the first of them alone.
//!
//! Invariants
//! - Whoever has asked is told: also if a sync fails or the thread ends.
//! - A failure is final: what it covers is never called durable later.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::Error;
use crate::engines::{Engine, EngineError, Ticket};

/// Longer than this nobody is waited for, however slow the device.
const PATIENCE_MAX: Duration = Duration::from_millis(2);

/// A group of so many is worth the whole time of a sync.
const LARGE_GROUP: usize = 8;

#[derive(Default)]
struct Asked {
    /// The newest ticket.
    newest: Option<Ticket>,
    /// How many have asked since the last sync began.
    count: usize,
    /// How many there must be for the thread to be woken.
    enough: usize,
    stop: bool,
}

#[derive(Default)]
struct Progress {
    durable: Option<Ticket>,
    failed: Option<Arc<EngineError>>,
}

/// See the head of this file.
pub struct Syncs {
    asked: Mutex<Asked>,
    more: Condvar,
    progress: watch::Sender<Progress>,
}

impl Syncs {
    /// With a thread that waits for `engine`'s disk; `None` if the system refuses one.
    pub fn start<E: Engine>(engine: E) -> Option<Running> {
        let syncs = Arc::new(Self {
            asked: Mutex::default(),
            more: Condvar::new(),
            progress: watch::Sender::new(Progress::default()),
        });
        let own = Arc::clone(&syncs);
        let thread = std::thread::Builder::new()
            .name("kvs-sync".into())
            .spawn(move || own.work(&engine));
        Some(Running {
            syncs,
            thread: Some(thread.ok()?),
        })
    }

    /// Returns when everything up to `ticket` is durable.
    ///
    /// # Errors
    /// What the sync said that it waited for, or one before.
    pub async fn wait(&self, ticket: Ticket) -> Result<(), Arc<EngineError>> {
        let is_settled =
            |progress: &Progress| progress.durable >= Some(ticket) || progress.failed.is_some();
        let mut progress = self.progress.subscribe();
        if !is_settled(&progress.borrow()) {
            self.ask(ticket);
        }
        let gone = |_| Arc::new(EngineError::Store(Error::Closed));
        let settled = progress.wait_for(is_settled).await.map_err(gone)?;
        match &settled.failed {
            Some(error) if settled.durable < Some(ticket) => Err(Arc::clone(error)),
            _ => Ok(()),
        }
    }

    fn ask(&self, ticket: Ticket) {
        let mut asked = self.asked.lock();
        asked.newest = asked.newest.max(Some(ticket));
        asked.count += 1;
        if asked.count >= asked.enough {
            self.more.notify_one();
        }
    }

    fn work<E: Engine>(&self, engine: &E) {
        let _end = End(self);
        let (mut group, mut took) = (0, Duration::ZERO);
        loop {
            let ticket = {
                let mut asked = self.asked.lock();
                asked.enough = 1;
                while asked.count == 0 && !asked.stop {
                    self.more.wait(&mut asked);
                }
                if asked.count == 0 {
                    return;
                }
                asked.enough = group;
                let weight = group.min(LARGE_GROUP) as u32;
                let patience = took * weight / LARGE_GROUP as u32;
                let until = Instant::now() + patience.min(PATIENCE_MAX);
                while asked.count < asked.enough && !asked.stop {
                    if self.more.wait_until(&mut asked, until).timed_out() {
                        break;
                    }
                }
                group = std::mem::take(&mut asked.count);
                asked.newest
            };
            let started = Instant::now();
            let outcome = ticket.map_or(Ok(()), |ticket| engine.wait(ticket));
            took = started.elapsed();
            self.progress.send_modify(|progress| match outcome {
                Ok(()) if progress.failed.is_none() => progress.durable = ticket,
                Ok(()) => {}
                Err(error) => {
                    progress.failed.get_or_insert_with(|| Arc::new(error));
                }
            });
        }
    }
}

/// Tells everybody if the thread ends, in good order or in a panic.
struct End<'a>(&'a Syncs);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.progress.send_modify(|progress| {
            let closed = || Arc::new(EngineError::Store(Error::Closed));
            progress.failed.get_or_insert_with(closed);
        });
    }
}

/// The thread, which ends when this is dropped, when all who had asked are told.
pub struct Running {
    pub syncs: Arc<Syncs>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.syncs.asked.lock().stop = true;
        self.syncs.more.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
