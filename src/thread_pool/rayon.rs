//! Work stealing, by the crate `rayon`.

use std::sync::Arc;

use crate::Result;
use crate::thread_pool::{ThreadPool, at_least_one, contained, no_thread};

/// `threads` threads of a `rayon` pool of its own, not the global one.
#[derive(Clone, Debug)]
pub struct RayonThreadPool {
    pool: Arc<rayon::ThreadPool>,
}

impl ThreadPool for RayonThreadPool {
    fn new(threads: u32) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(at_least_one(threads)?)
            .thread_name(|n| format!("kvs-rayon-{n}"))
            .build()
            .map_err(|error| no_thread(std::io::Error::other(error)))?;
        Ok(Self {
            pool: Arc::new(pool),
        })
    }

    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static,
    {
        // Contained: rayon ends the process when a job panics and no handler was set.
        self.pool.spawn(move || contained(job));
    }
}
