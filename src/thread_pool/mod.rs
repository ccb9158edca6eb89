//! Thread pools behind one trait: who runs a job, and what becomes of one that panics.
//!
//! | pool | a job runs on | at most at once |
//! |---|---|---|
//! | [`NaiveThreadPool`] | a thread of its own | as many as there are jobs |
//! | [`SharedQueueThreadPool`] | the first of its threads that is free | `threads` |
//! | [`RayonThreadPool`] (feature `rayon`) | a thread of a work-stealing pool | `threads` |
//!
//! Invariants
//! - A job that panics ends neither the process nor a thread of the pool: every job runs inside
//!   `contained`, in all pools.
//! - A job that was accepted runs. Dropping the last handle does not wait for jobs and takes none
//!   back: the threads finish what is queued, then end. Who needs to know when waits for the jobs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Error, Result};

mod naive;
#[cfg(feature = "rayon")]
mod rayon;
mod shared_queue;

pub use self::naive::NaiveThreadPool;
#[cfg(feature = "rayon")]
pub use self::rayon::RayonThreadPool;
pub use self::shared_queue::SharedQueueThreadPool;

/// Threads that run jobs. A clone is another handle of the same pool.
///
/// ```
/// use kvs::thread_pool::{SharedQueueThreadPool, ThreadPool};
///
/// let pool = SharedQueueThreadPool::new(2)?;
/// let (sender, receiver) = std::sync::mpsc::channel();
/// pool.spawn(move || drop(sender.send(6 * 7)));
/// assert_eq!(receiver.recv(), Ok(42));
/// # Ok::<(), kvs::Error>(())
/// ```
pub trait ThreadPool: Clone + Send + 'static {
    /// A pool of `threads` threads.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if `threads` is zero, [`Error::Io`] if the system refuses a thread.
    fn new(threads: u32) -> Result<Self>;

    /// Has `job` run on a thread of the pool, some time. Does not wait for it.
    ///
    /// A panic of `job` is reported by the panic hook and goes no further.
    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static;
}

/// Runs `job`; a panic ends here.
fn contained(job: impl FnOnce()) {
    let Err(payload) = catch_unwind(AssertUnwindSafe(job)) else {
        return;
    };
    // What was thrown may panic in turn when it is dropped; the second one is leaked instead.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

fn at_least_one(threads: u32) -> Result<usize> {
    match threads {
        0 => Err(Error::InvalidOption {
            option: "threads",
            expected: "at least 1",
        }),
        threads => Ok(threads as usize),
    }
}

fn no_thread(source: std::io::Error) -> Error {
    Error::Io {
        op: "start a thread",
        path: std::path::PathBuf::new(),
        source,
    }
}
