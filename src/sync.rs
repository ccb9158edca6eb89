//! Locks and threads of the store, from one place, so that a test can choose the schedule.
//!
//! They are those of `parking_lot` and `std`. Built with `--cfg kvs_shuttle` they are those of
//! `shuttle`, which runs one thread at a time and decides at every lock which one goes on:
//! `tests/schedules.rs`. What is not on the way of a write, a read, a compaction or a close stays as
//! it is (the table of open stores, bringing pages in).
//!
//! Atomics whose ordering somebody relies on come from here too. Built with `--cfg kvs_loom` they are
//! those of `loom`, which tries every order in which their effects may be seen:
//! `tests/threads/orders.rs`. Counters, hints and flags behind which there is nothing to be seen are
//! `std`'s wherever they stand.

#[cfg(kvs_loom)]
pub use loom::sync::atomic;
#[cfg(not(kvs_loom))]
pub use std::sync::atomic;

#[cfg(not(kvs_shuttle))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(kvs_shuttle))]
pub use std::thread;

#[cfg(kvs_shuttle)]
pub use chosen::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(kvs_shuttle)]
pub use shuttle::thread;

/// The interface of `parking_lot` over the locks of `shuttle`: a panic does not poison, and a
/// condition takes a guard by reference.
#[cfg(kvs_shuttle)]
mod chosen {
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;
    use std::time::Duration;

    use shuttle::sync;
    pub use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

    /// As `parking_lot::Mutex`.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(sync::Mutex<T>);

    /// As `parking_lot::MutexGuard`.
    #[derive(Debug)]
    pub struct MutexGuard<'a, T> {
        of: &'a sync::Mutex<T>,
        /// `None` while waiting.
        inner: Option<sync::MutexGuard<'a, T>>,
    }

    /// As `parking_lot::RwLock`.
    #[derive(Debug, Default)]
    pub struct RwLock<T>(sync::RwLock<T>);

    /// As `parking_lot::Condvar`.
    #[derive(Debug, Default)]
    pub struct Condvar(sync::Condvar);

    /// As `parking_lot::WaitTimeoutResult`, of a wait whose time is up.
    #[derive(Clone, Copy, Debug)]
    pub struct TimedOut;

    impl TimedOut {
        pub fn timed_out(self) -> bool {
            true
        }
    }

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            MutexGuard {
                of: &self.0,
                inner: Some(inner),
            }
        }

        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            let inner = self.0.try_lock().ok()?;
            Some(MutexGuard {
                of: &self.0,
                inner: Some(inner),
            })
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.inner.as_ref().expect("it is taken only while waiting")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.inner.as_mut().expect("it is taken only while waiting")
        }
    }

    impl<T> RwLock<T> {
        pub fn new(value: T) -> Self {
            Self(sync::RwLock::new(value))
        }

        pub fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        pub fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Condvar {
        pub fn new() -> Self {
            Self(sync::Condvar::new())
        }

        pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            guard.inner = guard.inner.take().map(|inner| {
                let woken = self.0.wait(inner);
                woken.unwrap_or_else(PoisonError::into_inner)
            });
        }

        /// Returns when somebody else has had a turn: as if the time were over at once.
        pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> TimedOut {
            guard.inner = None;
            shuttle::thread::yield_now();
            let inner = guard.of.lock().unwrap_or_else(PoisonError::into_inner);
            guard.inner = Some(inner);
            TimedOut
        }

        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}
