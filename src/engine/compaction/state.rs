//! Where writers, the compaction thread and closing meet. Knows nothing of the engine.
//!
//! Its lock is taken last and held for a moment; nobody does anything under it but look and wait.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
struct State {
    /// There is something to do.
    asked: bool,
    /// The thread is at work, as opposed to waiting to be asked.
    running: bool,
    /// Steps it has finished.
    steps: u64,
    /// Time by which the thread is to end.
    stop: Option<Instant>,
    worker: Option<JoinHandle<()>>,
}

/// The thread that compacts, once there is one.
#[derive(Debug, Default)]
pub(crate) struct Background {
    state: Mutex<State>,
    changed: Condvar,
}

impl Background {
    /// Asks for compaction; `spawn` starts the thread, once. False if there is none and none can be
    /// had.
    pub(crate) fn ask(&self, spawn: impl FnOnce() -> io::Result<JoinHandle<()>>) -> bool {
        let mut state = self.state.lock();
        if state.stop.is_some() {
            return true;
        }
        if state.worker.is_none() {
            match spawn() {
                Ok(worker) => state.worker = Some(worker),
                Err(_) => return false,
            }
        }
        state.asked = true;
        state.running = true;
        drop(state);
        self.changed.notify_all();
        true
    }

    /// For the thread: waits until it is asked, or for so long; false if it is to end.
    pub(crate) fn next(&self, most: Option<Duration>) -> bool {
        let until = most.map(|most| Instant::now() + most);
        let mut state = self.state.lock();
        loop {
            if state.stop.is_some() {
                state.running = false;
                return false;
            }
            if std::mem::take(&mut state.asked) {
                return true;
            }
            state.running = false;
            self.changed.notify_all();
            match until {
                None => self.changed.wait(&mut state),
                Some(until) => {
                    if self.changed.wait_until(&mut state, until).timed_out()
                        && state.stop.is_none()
                    {
                        state.asked = false;
                        state.running = true;
                        return true;
                    }
                }
            }
        }
    }

    /// For the thread: it ends, however it does.
    pub(crate) fn ended(&self) {
        self.state.lock().running = false;
        self.changed.notify_all();
    }

    /// For the thread: one step is done.
    pub(crate) fn stepped(&self) {
        self.state.lock().steps += 1;
        self.changed.notify_all();
    }

    /// For the thread: does nothing for a while, unless it is to end.
    pub(crate) fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        while state.stop.is_none() && !self.changed.wait_until(&mut state, until).timed_out() {}
    }

    /// Time by which the thread is to end, once it is.
    pub(crate) fn stop_by(&self) -> Option<Instant> {
        self.state.lock().stop
    }

    /// For a writer: waits until the thread has done a step, is idle or is to end, but no longer than
    /// `most`.
    pub(crate) fn brake(&self, most: Duration) {
        let until = Instant::now() + most;
        let mut state = self.state.lock();
        let steps = state.steps;
        while state.running && state.stop.is_none() && state.steps == steps {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Tells the thread to end by `by`, and everybody else not to start another.
    pub(crate) fn stop(&self, by: Instant) -> Option<JoinHandle<()>> {
        let mut state = self.state.lock();
        state.stop = Some(by);
        let worker = state.worker.take();
        drop(state);
        self.changed.notify_all();
        worker
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A thread that counts how often it was asked, and takes its time.
    fn counting(shared: &Arc<Background>, count: &Arc<Mutex<u32>>) -> io::Result<JoinHandle<()>> {
        let (shared, count) = (Arc::clone(shared), Arc::clone(count));
        std::thread::Builder::new().spawn(move || {
            while shared.next(None) {
                *count.lock() += 1;
                shared.rest(Duration::from_millis(20));
                shared.stepped();
            }
            shared.ended();
        })
    }

    #[test]
    fn one_thread_serves_everybody_who_asks_and_ends_when_told() {
        let (shared, count) = <(Arc<Background>, Arc<Mutex<u32>>)>::default();
        for _ in 0..3 {
            assert!(shared.ask(|| counting(&shared, &count)));
            shared.brake(Duration::from_secs(60));
        }
        let worker = shared.stop(Instant::now()).unwrap();
        worker.join().unwrap();
        assert!((1..=3).contains(&*count.lock()));
        assert!(shared.ask(|| unreachable!("no thread is started any more")));
        let start = Instant::now();
        shared.brake(Duration::from_secs(60));
        shared.rest(Duration::from_secs(60));
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "nobody waits for a thread that ended"
        );
    }

    #[test]
    fn a_writer_waits_no_longer_than_it_said() {
        let shared = Background::default();
        shared.state.lock().running = true;
        let start = Instant::now();
        shared.brake(Duration::from_millis(20));
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(20), "{waited:?}");
        assert!(waited < Duration::from_secs(30), "{waited:?}");
    }

    #[test]
    fn without_a_thread_the_asker_is_told() {
        let shared = Background::default();
        assert!(!shared.ask(|| Err(io::ErrorKind::WouldBlock.into())));
        shared.brake(Duration::from_secs(60));
    }
}
