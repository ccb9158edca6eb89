//! No pool at all: the yardstick for the others.

use std::sync::{Arc, Mutex, PoisonError};

use crate::Result;
use crate::thread_pool::{ThreadPool, at_least_one, contained};

/// A new thread for every job. The number of threads is checked and otherwise ignored.
///
/// If the system refuses another thread, the job runs in the thread that asked.
#[derive(Clone, Debug)]
pub struct NaiveThreadPool;

impl ThreadPool for NaiveThreadPool {
    fn new(threads: u32) -> Result<Self> {
        at_least_one(threads).map(|_| Self)
    }

    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static,
    {
        // Shared, because a refused thread keeps the closure it was given.
        let job = Arc::new(Mutex::new(Some(job)));
        let take = {
            let job = Arc::clone(&job);
            move || job.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let run = {
            let take = take.clone();
            move || {
                if let Some(job) = take() {
                    contained(job);
                }
            }
        };
        let started = std::thread::Builder::new()
            .name("kvs-naive".into())
            .spawn(run);
        if started.is_err()
            && let Some(job) = take()
        {
            contained(job);
        }
    }
}
