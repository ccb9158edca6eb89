//! The server: Redis' protocol in front of any engine.
//!
//! ```text
//! socket <-> driver (blocking, on a thread pool; or tokio) <-> Session -> execute -> Engine
//! ```
//!
//! A session knows no socket, `execute` knows no session: both drivers run the same commands.
//!
//! What was pipelined is one read, one pass over the engine and one write; its writes are committed
//! as one batch before any of them is answered, so a burst of durable writes waits for the disk once.
//! Commands that read and write (`INCR`, `APPEND`, `SET NX`, `KVS.CAS`, …) and transactions
//! (`MULTI`, `EXEC`, `WATCH`) are atomic among all connections of one server. Who writes to the
//! engine beside the server is not kept out of them.
//!
//! With a password: a connection is closed after ten wrong ones. After the eleventh different one in a row from one
//! address, on whatever connections, none of that address is looked at for 250 ms, after the next for
//! twice as long, up to 16 s; `AUTH` and `HELLO` then answer how long it is still.
//!
//! A thread of a blocking driver's pool that runs a burst of durable writes waits for the disk with
//! it: so many bursts share a sync as the pool has threads. The asynchronous driver waits for all of
//! them in one thread.
//!
//! What an engine lacks answers `-ERR expiry not supported by engine 'sled'` and does not stand in
//! `COMMAND`; any other command answers Redis' unknown-command error. Both keep the connection.
//! Patterns have at most 1,024 bytes.
//!
//! | commands | need of the engine | `kvs` | `sled` | any [`KvsEngine`] |
//! |---|---|---|---|---|
//! | `PING` `ECHO` `QUIT` `RESET` `SELECT` `AUTH` `HELLO` `CLIENT` `COMMAND` `INFO` `CONFIG` `TIME` | – | yes | yes | yes |
//! | `MULTI` `EXEC` `DISCARD` `WATCH` `UNWATCH` | batch, if several keys change | yes | yes | one key |
//! | `GET` `SET` `SETNX` `GETSET` `GETDEL` `GETEX` `MGET` `APPEND` `STRLEN` `GETRANGE` `SETRANGE` `INCR` `INCRBY` `INCRBYFLOAT` `DECR` `DECRBY` `KVS.CAS` | – | yes | yes | text |
//! | `DEL` `UNLINK` `EXISTS` `TOUCH` `TYPE` `COPY` | – | yes | yes | text |
//! | `MSET` `MSETNX` `RENAME` `RENAMENX` | batch | yes | yes | no |
//! | `KEYS` `RANDOMKEY` | scan | yes | yes | no |
//! | `DBSIZE` | len | yes | yes | no |
//! | `KVS.STATS` | stats | yes | yes | no |
//! | `KVS.COMPACT` `KVS.VERIFY` `KVS.CHECKPOINT` | compact, verify, checkpoint | yes | no | no |
//! | `SCAN` | cursor | yes | no | no |
//! | `EXPIRE` `PEXPIRE` `EXPIREAT` `PEXPIREAT` `PERSIST` `TTL` `PTTL` `EXPIRETIME` `PEXPIRETIME` `SETEX` `PSETEX`, `SET` and `GETEX` with a time | expiry | yes | no | no |
//!
//! Elsewhere: the bytes (`protocol`), what an engine can (`engines`), who runs jobs
//! (`thread_pool`), the other side (`client`).

mod admin;
mod bind;
mod blocking;
mod execute;
mod glob;
mod guesses;
mod locks;
mod options;
mod patience;
#[cfg(feature = "async")]
mod runtime;
mod session;
mod shared;
mod stop;
#[cfg(feature = "async")]
mod syncs;
mod unread;
mod view;

use std::net::{TcpListener, ToSocketAddrs};

use crate::Result;
use crate::engines::{Engine, EngineVisitor, KvsEngine};
use crate::thread_pool::ThreadPool;

pub use bind::bind;
pub use options::ServerOptions;
#[cfg(feature = "async")]
pub use runtime::AsyncKvsServer;
pub use stop::Stopper;

/// A server over any engine and any thread pool.
///
/// ```no_run
/// use kvs::thread_pool::{SharedQueueThreadPool, ThreadPool};
/// use kvs::{KvStore, server::KvsServer};
///
/// let engine = KvStore::open("my-store")?;
/// let pool = SharedQueueThreadPool::new(4)?;
/// KvsServer::new(engine, pool).run("127.0.0.1:4000")?;
/// # Ok::<(), kvs::Error>(())
/// ```
#[derive(Debug)]
pub struct KvsServer<E, P> {
    engine: E,
    pool: P,
    options: ServerOptions,
    stopper: Stopper,
}

impl<E: KvsEngine, P: ThreadPool> KvsServer<E, P> {
    /// A server of `engine` whose connections are served by `pool`.
    #[must_use]
    pub fn new(engine: E, pool: P) -> Self {
        Self {
            engine,
            pool,
            options: ServerOptions::default(),
            stopper: Stopper::new(),
        }
    }

    /// The same with other options.
    #[must_use]
    pub fn options(mut self, options: ServerOptions) -> Self {
        self.options = options;
        self
    }

    /// What ends it from elsewhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Listens at `addr` and serves until it is stopped; then answers what it has received, flushes
    /// the engine and returns.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if it cannot listen there, or flush.
    pub fn run(self, addr: impl ToSocketAddrs) -> Result<()> {
        let listener = TcpListener::bind(addr)?;
        self.run_on(listener)
    }

    /// As [`KvsServer::run`], on a listener that is there already.
    ///
    /// # Errors
    /// As [`KvsServer::run`].
    pub fn run_on(self, listener: TcpListener) -> Result<()> {
        self.engine.visit(Run {
            pool: self.pool,
            listener,
            options: self.options,
            stopper: self.stopper,
        })
    }
}

struct Run<P> {
    pool: P,
    listener: TcpListener,
    options: ServerOptions,
    stopper: Stopper,
}

impl<P: ThreadPool> EngineVisitor for Run<P> {
    type Output = Result<()>;

    fn visit<E: Engine>(self, engine: E) -> Result<()> {
        blocking::serve(
            engine,
            &self.pool,
            self.listener,
            self.options,
            self.stopper,
        )
    }
}
