//! The asynchronous driver: a tokio task for each connection.
//!
//! Reads of the store run where the task is: they wait for memory at most. So do writes to an engine
//! that appends without waiting: one thread waits for the disk for all tasks (`server::syncs`). A burst
//! of writes to an engine that does not first lets the other tasks of its thread move on
//! (`block_in_place`).

use std::future::pending;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::Result;
use crate::engines::{Engine, EngineError, EngineVisitor, KvsEngine};
use crate::server::options::ServerOptions;
use crate::server::patience::Patience;
use crate::server::session::{Session, Turn};
use crate::server::shared::{Client, LAST_LOOK, Running, Shared, is_last};
use crate::server::stop::Stopper;
use crate::server::syncs::Syncs;
use crate::server::unread::Unread;

/// How long accepting rests when the process is out of file descriptors.
const REST: Duration = Duration::from_millis(50);

/// A server over any engine, inside a tokio runtime of several threads.
///
/// ```no_run
/// # async fn f() -> kvs::Result<()> {
/// use kvs::{KvStore, server::AsyncKvsServer};
///
/// AsyncKvsServer::new(KvStore::open("my-store")?).run("127.0.0.1:4000").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncKvsServer<E> {
    engine: E,
    options: ServerOptions,
    stopper: Stopper,
}

impl<E: KvsEngine> AsyncKvsServer<E> {
    /// A server of `engine`.
    #[must_use]
    pub fn new(engine: E) -> Self {
        Self {
            engine,
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

    /// As [`crate::KvsServer::run`].
    ///
    /// # Errors
    /// As [`crate::KvsServer::run`].
    pub async fn run(self, addr: impl ToSocketAddrs) -> Result<()> {
        let listener = TcpListener::bind(addr).await?;
        self.serve(listener).await
    }

    /// As [`crate::KvsServer::run_on`].
    ///
    /// # Errors
    /// As [`crate::KvsServer::run`].
    pub async fn run_on(self, listener: std::net::TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        self.serve(TcpListener::from_std(listener)?).await
    }

    async fn serve(self, listener: TcpListener) -> Result<()> {
        let run = Run {
            listener,
            options: self.options,
            stopper: self.stopper,
        };
        self.engine.visit(run).await
    }
}

struct Run {
    listener: TcpListener,
    options: ServerOptions,
    stopper: Stopper,
}

impl EngineVisitor for Run {
    type Output = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

    fn visit<E: Engine>(self, engine: E) -> Self::Output {
        Box::pin(serve(engine, self))
    }
}

/// Runs what may wait, without holding up the other tasks of this thread.
fn waiting(work: &mut dyn FnMut()) {
    let many = Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    match many {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

async fn serve<E: Engine>(engine: E, run: Run) -> Result<()> {
    let Run {
        listener,
        options,
        stopper,
    } = run;
    let drain_max = options.drain_max;
    let shared = Arc::new(Shared::new(engine, options));
    *shared.addr.lock() = listener.local_addr().ok();
    let running = Running::new(&shared);
    let (stop, stopped) = watch::channel(false);
    stopper.on_stop(move || {
        stop.send_replace(true);
    });
    let mut syncing = match shared.options.writes_wait {
        true => Syncs::start(shared.engine.clone()),
        false => None,
    };
    let mut tasks = JoinSet::new();
    let mut ended = stopped.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = ended.wait_for(|stopped| *stopped) => break,
            accepted = listener.accept() => accepted,
        };
        // Those that have ended.
        while tasks.try_join_next().is_some() {}
        let (stream, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !matches!(error.kind(), ErrorKind::ConnectionAborted) {
                    // Out of descriptors or memory: nobody is helped by trying at once.
                    tokio::time::sleep(REST).await;
                }
                continue;
            }
        };
        let Some(client) = shared.enter(Some(addr), stream.local_addr().ok()) else {
            let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
            continue;
        };
        let mut session = Session::new(Arc::clone(&shared), Arc::clone(&client));
        session.on_wait(waiting);
        let syncs = syncing.as_ref().map(|running| Arc::clone(&running.syncs));
        if syncs.is_some() {
            session.defer_waits();
        }
        if stream.set_nodelay(true).is_ok() {
            let shared = Arc::clone(&shared);
            let stopped = stopped.clone();
            tasks.spawn(connection(stream, session, client, shared, syncs, stopped));
        }
    }
    // Who comes now is refused by the system.
    drop(listener);
    // A clock of its own: the runtime's stands still while all its threads run commands.
    let (over, is_over) = oneshot::channel();
    let (drained, is_drained) = std::sync::mpsc::channel::<()>();
    let clock = std::thread::Builder::new().name("kvs-drain".into());
    let clock = clock.spawn(move || {
        let _ = is_drained.recv_timeout(drain_max);
        let _ = over.send(());
    });
    let late = async {
        match clock {
            Ok(_) => drop(is_over.await),
            Err(_) => tokio::time::sleep(drain_max).await,
        }
    };
    tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => {}
        () = late => {}
    }
    drop(drained);
    drop(running);
    // Not waited for: one that runs a command ends it first, unless it walks over all keys, and drops
    // its connection itself.
    tasks.abort_all();
    tasks.detach_all();
    waiting(&mut || drop(syncing.take()));
    // One that was in the middle of a burst may answer it yet: what it answers is flushed, too.
    let since = Instant::now();
    while !is_last(&shared, since) {
        // Aborted tasks are dropped by the runtime, be this its only thread.
        waiting(&mut || std::thread::sleep(LAST_LOOK));
        tokio::task::yield_now().await;
    }
    let mut outcome = Ok(());
    waiting(&mut || outcome = shared.engine.flush());
    match outcome {
        Ok(()) => Ok(()),
        Err(EngineError::Store(error)) => Err(error),
        Err(error) => Err(io::Error::other(error).into()),
    }
}

/// Serves one connection to its end.
async fn connection<E: Engine>(
    mut stream: TcpStream,
    mut session: Session<E>,
    client: Arc<Client>,
    shared: Arc<Shared<E>>,
    syncs: Option<Arc<Syncs>>,
    mut stopped: watch::Receiver<bool>,
) {
    let cut = Arc::new(Notify::new());
    let cutter = Arc::clone(&cut);
    client.on_kill(move || cutter.notify_one());
    let options = &shared.options;
    let mut unread = Unread::new(Arc::clone(&shared));
    let mut patience = Patience::new(session.is_trusted(), Instant::now());
    loop {
        let turn = session.turn();
        let ran = matches!(turn, Turn::More | Turn::Wait) || !session.output().is_empty();
        let (trusted, midway) = (session.is_trusted(), session.is_midway());
        patience.turned(trusted, ran, midway, Instant::now());
        if !session.output().is_empty() {
            let written = tokio::select! {
                biased;
                written = write(&mut session, &mut unread, &stream, options) => written,
                () = cut.notified() => return,
            };
            if written.is_err() {
                return;
            }
        }
        match turn {
            Turn::Close => return,
            Turn::More => {
                tokio::task::yield_now().await;
                continue;
            }
            Turn::Wait => {
                let (Some(ticket), Some(syncs)) = (session.waits_for(), &syncs) else {
                    return;
                };
                let failed = tokio::select! {
                    biased;
                    waited = syncs.wait(ticket) => waited.err(),
                    () = cut.notified() => return,
                };
                session.settle(failed.as_deref());
                continue;
            }
            Turn::Idle => {}
        }
        if *stopped.borrow() {
            // What has come already is answered still. The system is asked: the runtime knows of it only
            // since it last asked.
            match rustix::io::read(&stream, session.space()) {
                Ok(len @ 1..) => session.filled(len),
                Err(rustix::io::Errno::INTR) => {}
                _ => return,
            }
            // One that sends without end is aborted here when the drain is over.
            tokio::task::yield_now().await;
            continue;
        }
        let now = Instant::now();
        let until = patience.until_read(options, now);
        // Who always has something to read would never be found late by the read.
        if until.is_some_and(|until| now >= until) {
            return;
        }
        let late = async {
            match until {
                Some(until) => sleep_until(until.into()).await,
                // Most of the time: no timer is set for it.
                None => pending().await,
            }
        };
        // What has come in time is read, though it is late by now.
        let read = tokio::select! {
            biased;
            () = cut.notified() => return,
            _ = stopped.wait_for(|stopped| *stopped) => continue,
            read = stream.read(session.space()) => read,
            () = late => return,
        };
        match read {
            Ok(len @ 1..) => {
                patience.read(len);
                session.filled(len);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Writes all that waits.
async fn write<E: Engine>(
    session: &mut Session<E>,
    unread: &mut Unread<E>,
    stream: &TcpStream,
    options: &ServerOptions,
) -> io::Result<()> {
    while !session.output().is_empty() {
        let output = session.output();
        let written = match output.pieces() {
            1 => stream.try_write(output.first()),
            _ => stream.try_write_vectored(&output.slices()),
        };
        match written {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => session.written(len),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !unread.may_wait(session, Instant::now()) {
                    return Err(ErrorKind::OutOfMemory.into());
                }
                timeout(options.write_max, stream.writable()).await??;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    unread.nothing();
    Ok(())
}
