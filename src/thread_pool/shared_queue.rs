//! A fixed number of threads and one queue.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::Result;
use crate::thread_pool::{ThreadPool, at_least_one, contained, no_thread};

type Job = Box<dyn FnOnce() + Send + 'static>;

struct Queue {
    jobs: VecDeque<Job>,
    /// No handle is left: nothing more will come.
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

/// What the handles hold together; the threads hold `Shared`, so that it ends with the handles.
struct Handles(Arc<Shared>);

impl Drop for Handles {
    fn drop(&mut self) {
        self.0.queue.lock().closed = true;
        self.0.more.notify_all();
    }
}

/// `threads` threads that take jobs from one queue, first come, first served.
///
/// The queue has no bound: who spawns without end must hold back by itself.
#[derive(Clone)]
pub struct SharedQueueThreadPool {
    handles: Arc<Handles>,
}

impl fmt::Debug for SharedQueueThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.handles.0.queue.lock().jobs.len();
        f.debug_struct("SharedQueueThreadPool")
            .field("waiting", &waiting)
            .finish_non_exhaustive()
    }
}

impl ThreadPool for SharedQueueThreadPool {
    fn new(threads: u32) -> Result<Self> {
        let threads = at_least_one(threads)?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                closed: false,
            }),
            more: Condvar::new(),
        });
        // Before the threads: if one is refused, those that were started end with it.
        let handles = Arc::new(Handles(Arc::clone(&shared)));
        for _ in 0..threads {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("kvs-queue".into())
                .spawn(move || work(&shared))
                .map_err(no_thread)?;
        }
        Ok(Self { handles })
    }

    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static,
    {
        let shared = &self.handles.0;
        shared.queue.lock().jobs.push_back(Box::new(job));
        shared.more.notify_one();
    }
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let mut queue = shared.queue.lock();
            loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.closed {
                    return;
                }
                shared.more.wait(&mut queue);
            }
        };
        contained(job);
    }
}
