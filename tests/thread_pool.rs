//! Thread pools: every job runs, a panic costs nothing, and a store survives being shared by one.
//! The first part is the suite of project 4 of the course in our own words.
//!
//! Panics are raised without the panic hook, so that a passing test prints none.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use kvs::thread_pool::{NaiveThreadPool, SharedQueueThreadPool, ThreadPool};
use kvs::{Error, KvStore, KvsEngine, Result};
use tempfile::TempDir;

/// Long enough that only a job that never runs takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `count` messages.
fn wait_for(count: usize, done: &mpsc::Receiver<()>) {
    for n in 0..count {
        done.recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("{n} of {count} jobs have run: {error}"));
    }
}

fn all_jobs_run<P: ThreadPool>(pool: P) {
    const JOBS: usize = 20;
    const ADDS: usize = 1000;
    let sum = Arc::new(AtomicUsize::new(0));
    let (sender, done) = mpsc::channel();
    for _ in 0..JOBS {
        let (sum, sender) = (Arc::clone(&sum), sender.clone());
        pool.spawn(move || {
            for _ in 0..ADDS {
                sum.fetch_add(1, Ordering::SeqCst);
            }
            sender.send(()).unwrap();
        });
    }
    wait_for(JOBS, &done);
    assert_eq!(sum.load(Ordering::SeqCst), JOBS * ADDS);
}

/// Panics when it is dropped.
struct Nasty;

impl Drop for Nasty {
    fn drop(&mut self) {
        resume_unwind(Box::new("dropped"));
    }
}

fn panics_cost_nothing<P: ThreadPool>(threads: u32) {
    let pool = P::new(threads).unwrap();
    for n in 0..1000 {
        pool.spawn(move || match n % 2 {
            0 => resume_unwind(Box::new(n)),
            _ => resume_unwind(Box::new(Nasty)),
        });
    }
    // All threads are still there: this many jobs meet.
    let meeting = Arc::new(Barrier::new(threads as usize));
    let (sender, done) = mpsc::channel();
    for _ in 0..threads {
        let (meeting, sender) = (Arc::clone(&meeting), sender.clone());
        pool.spawn(move || {
            meeting.wait();
            sender.send(()).unwrap();
        });
    }
    wait_for(threads as usize, &done);
    all_jobs_run(pool);
}

fn queued_jobs_run_after_the_last_handle_is_gone<P: ThreadPool>() {
    let pool = P::new(1).unwrap();
    let (go, gate) = mpsc::channel::<()>();
    let (sender, done) = mpsc::channel();
    pool.spawn(move || gate.recv().unwrap());
    for _ in 0..10 {
        let sender = sender.clone();
        pool.spawn(move || sender.send(()).unwrap());
    }
    // A pool that waited here would wait for ever.
    drop(pool.clone());
    drop(pool);
    go.send(()).unwrap();
    wait_for(10, &done);
}

fn a_job_may_hold_the_last_handle<P: ThreadPool>() {
    let pool = P::new(1).unwrap();
    let (sender, done) = mpsc::channel();
    let own = pool.clone();
    let (go, gate) = mpsc::channel::<()>();
    pool.spawn(move || {
        gate.recv().unwrap();
        drop(own);
        sender.send(()).unwrap();
    });
    drop(pool);
    go.send(()).unwrap();
    wait_for(1, &done);
}

fn zero_threads_are_refused<P: ThreadPool>() {
    match P::new(0).map(|_| ()) {
        Err(Error::InvalidOption { option, .. }) => assert_eq!(option, "threads"),
        other => panic!("{other:?}"),
    }
}

/// Every job sets its own keys and one that all share; then every job reads them.
fn a_store_is_shared<E: KvsEngine, P: ThreadPool>(engine: &E, pool: P) {
    const JOBS: usize = 50;
    const KEYS: usize = 40;
    let (sender, done) = mpsc::channel();
    for job in 0..JOBS {
        let (engine, sender) = (engine.clone(), sender.clone());
        pool.spawn(move || {
            for n in 0..KEYS {
                engine
                    .set(format!("{job}.{n}"), format!("{}", job * n))
                    .unwrap();
                engine.set("shared".to_owned(), format!("{job}")).unwrap();
            }
            sender.send(()).unwrap();
        });
    }
    wait_for(JOBS, &done);
    for job in 0..JOBS {
        let (engine, sender) = (engine.clone(), sender.clone());
        pool.spawn(move || {
            for n in 0..KEYS {
                let found = engine.get(format!("{job}.{n}")).unwrap();
                assert_eq!(found, Some(format!("{}", job * n)));
            }
            engine.remove(format!("{job}.0")).unwrap();
            sender.send(()).unwrap();
        });
    }
    wait_for(JOBS, &done);
    let last: usize = engine
        .get("shared".to_owned())
        .unwrap()
        .unwrap()
        .parse()
        .unwrap();
    assert!(last < JOBS);
    let removed = engine.remove("7.0".to_owned());
    assert!(matches!(removed, Err(Error::KeyNotFound)), "{removed:?}");
}

fn kv_store_is_shared<P: ThreadPool>() {
    let dir = TempDir::new().unwrap();
    let store = KvStore::open(dir.path()).unwrap();
    a_store_is_shared(&store, P::new(8).unwrap());
    // As it was, after a reopen.
    drop(store);
    let store = KvStore::open(dir.path()).unwrap();
    assert_eq!(
        store.get("49.39".to_owned()).unwrap().as_deref(),
        Some("1911")
    );
    assert_eq!(store.get("49.0".to_owned()).unwrap(), None);
}

macro_rules! suite {
    ($name:ident, $pool:ty) => {
        mod $name {
            use super::*;

            #[test]
            fn all_jobs_run() -> Result<()> {
                super::all_jobs_run(<$pool>::new(4)?);
                Ok(())
            }

            #[test]
            fn panics_cost_nothing() {
                super::panics_cost_nothing::<$pool>(4);
            }

            #[test]
            fn queued_jobs_run_after_the_last_handle_is_gone() {
                super::queued_jobs_run_after_the_last_handle_is_gone::<$pool>();
            }

            #[test]
            fn a_job_may_hold_the_last_handle() {
                super::a_job_may_hold_the_last_handle::<$pool>();
            }

            #[test]
            fn zero_threads_are_refused() {
                super::zero_threads_are_refused::<$pool>();
            }

            #[test]
            fn kv_store_is_shared() {
                super::kv_store_is_shared::<$pool>();
            }
        }
    };
}

suite!(naive, NaiveThreadPool);
suite!(shared_queue, SharedQueueThreadPool);
#[cfg(feature = "rayon")]
suite!(rayon, kvs::thread_pool::RayonThreadPool);
