//! Engines on a thread pool.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::future::oneshot::{Receiver, oneshot};
use crate::thread_pool::ThreadPool;
use crate::{Error, Result, engines};

/// A store of strings whose answers are futures.
///
/// A call begins at once, not when its future is first polled, and ends whether or not the future is
/// kept. A clone is another handle of the same store.
pub trait KvsEngine: Clone + Send + 'static {
    /// Stores `value` under `key`, replacing an older one.
    ///
    /// # Errors
    /// Whatever keeps the engine from storing it.
    fn set(
        &self,
        key: String,
        value: String,
    ) -> impl Future<Output = Result<()>> + Send + 'static + use<Self>;

    /// The newest value under `key`; `None` if it was never set or was removed.
    ///
    /// # Errors
    /// Whatever keeps the engine from reading it.
    fn get(
        &self,
        key: String,
    ) -> impl Future<Output = Result<Option<String>>> + Send + 'static + use<Self>;

    /// Removes `key`.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`] if there was nothing to remove; whatever keeps the engine from removing
    /// it.
    fn remove(&self, key: String) -> impl Future<Output = Result<()>> + Send + 'static + use<Self>;
}

/// The answer of a call that has begun.
struct Answer<T>(Receiver<Result<T>>);

impl<T> Future for Answer<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let lost = || Error::from(std::io::Error::other("the job of this call panicked"));
        let answer = Pin::new(&mut self.0).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|| Err(lost())))
    }
}

/// Has `work` done by `pool`, from now on.
fn begin<P: ThreadPool, T: Send + 'static>(
    pool: &P,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Answer<T> {
    let (sender, receiver) = oneshot();
    pool.spawn(move || sender.send(work()));
    Answer(receiver)
}

macro_rules! on_a_pool {
    ($name:ident) => {
        impl<P: ThreadPool> KvsEngine for $name<P> {
            fn set(
                &self,
                key: String,
                value: String,
            ) -> impl Future<Output = Result<()>> + Send + 'static + use<P> {
                let engine = self.engine.clone();
                begin(&self.pool, move || {
                    engines::KvsEngine::set(&engine, key, value)
                })
            }

            fn get(
                &self,
                key: String,
            ) -> impl Future<Output = Result<Option<String>>> + Send + 'static + use<P> {
                let engine = self.engine.clone();
                begin(&self.pool, move || engines::KvsEngine::get(&engine, key))
            }

            fn remove(
                &self,
                key: String,
            ) -> impl Future<Output = Result<()>> + Send + 'static + use<P> {
                let engine = self.engine.clone();
                begin(&self.pool, move || engines::KvsEngine::remove(&engine, key))
            }
        }
    };
}

/// [`crate::KvStore`] on a thread pool.
///
/// ```
/// # fn main() -> kvs::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// use kvs::future::{KvStore, KvsEngine};
/// use kvs::thread_pool::SharedQueueThreadPool;
///
/// let store = KvStore::<SharedQueueThreadPool>::open(dir.path(), 4)?;
/// let task = async move {
///     store.set("key".to_owned(), "value".to_owned()).await?;
///     assert_eq!(store.get("key".to_owned()).await?.as_deref(), Some("value"));
///     kvs::Result::Ok(())
/// };
/// # tokio::runtime::Builder::new_multi_thread().build()?.block_on(task)
/// # }
/// ```
#[derive(Clone)]
pub struct KvStore<P> {
    engine: engines::KvStore,
    pool: P,
}

impl<P: ThreadPool> KvStore<P> {
    /// Opens the store in the directory `path`, creating both if need be; at most `concurrency` calls
    /// run at once (with [`crate::thread_pool::NaiveThreadPool`]: any number).
    ///
    /// # Errors
    /// Those of [`crate::Store::open`] and of [`ThreadPool::new`].
    pub fn open(path: impl Into<PathBuf>, concurrency: u32) -> Result<Self> {
        let pool = P::new(concurrency)?;
        Ok(Self::from_store(engines::KvStore::open(path)?, pool))
    }

    /// A store that is open, on a pool that is there.
    #[must_use]
    pub fn from_store(engine: engines::KvStore, pool: P) -> Self {
        Self { engine, pool }
    }
}

on_a_pool!(KvStore);

/// [`crate::SledKvsEngine`] on a thread pool.
#[cfg(feature = "sled")]
#[derive(Clone)]
pub struct SledKvsEngine<P> {
    engine: engines::SledKvsEngine,
    pool: P,
}

#[cfg(feature = "sled")]
impl<P: ThreadPool> SledKvsEngine<P> {
    /// The database `db`; at most `concurrency` calls run at once.
    ///
    /// # Errors
    /// Those of [`ThreadPool::new`].
    pub fn new(db: sled::Db, concurrency: u32) -> Result<Self> {
        Ok(Self {
            engine: engines::SledKvsEngine::new(db),
            pool: P::new(concurrency)?,
        })
    }
}

#[cfg(feature = "sled")]
on_a_pool!(SledKvsEngine);
