//! The blocking driver: one thread waits for all sockets, a pool's threads read, run and write.
//!
//! A connection that has something to read or room to write becomes a job of the pool. The job reads
//! until nothing is there, runs bursts, writes, and gives the connection back to the waiting thread.
//! So a pool of four threads serves any number of connections, and one that sends without end gets
//! its turn like the others.
//!
//! Invariants
//! - A connection is armed (`epoll`, one shot) or held by one job, never both.
//! - A job that ends in a panic closes its connection.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use crate::engines::Engine;
use crate::server::options::ServerOptions;
use crate::server::patience::Patience;
use crate::server::session::{Session, Turn};
use crate::server::shared::{LAST_LOOK, Running, Shared, is_last};
use crate::server::stop::Stopper;
use crate::server::unread::Unread;
use crate::thread_pool::ThreadPool;

const LISTENER: u64 = 0;
const STOP: u64 = 1;
/// Keys of connections are their ids, which begin with 1, behind the two above.
const FIRST: u64 = 2;

/// Bursts and reads that a connection gets before others do.
const TURNS_MAX: usize = 8;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(500);

/// How often it is looked whether the last jobs are done, once it ends.
const DRAIN_TICK: Duration = Duration::from_millis(5);

/// How long nobody is accepted when the process is out of file descriptors.
const REST: Duration = Duration::from_millis(50);

/// What a connection waits for.
const READING: u8 = 0;
const WRITING: u8 = 1;
const WORKING: u8 = 2;

struct Connection<E: Engine> {
    key: u64,
    stream: TcpStream,
    session: Mutex<(Session<E>, Unread<E>, Patience)>,
    waits: AtomicU8,
    /// Milliseconds since the start of the driver at which it has waited for too long.
    until: AtomicU64,
}

struct Driver<E: Engine> {
    shared: Arc<Shared<E>>,
    stopper: Stopper,
    epoll: OwnedFd,
    started: Instant,
    connections: Mutex<HashMap<u64, Arc<Connection<E>>>>,
}

/// Serves `listener` until `stopper` is told to stop, then drains and flushes.
pub fn serve<E: Engine, P: ThreadPool>(
    engine: E,
    pool: &P,
    listener: TcpListener,
    options: ServerOptions,
    stopper: Stopper,
) -> crate::Result<()> {
    let drain_max = options.drain_max;
    let shared = Arc::new(Shared::new(engine, options));
    *shared.addr.lock() = listener.local_addr().ok();
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
    let driver = Arc::new(Driver {
        shared: Arc::clone(&shared),
        stopper,
        epoll,
        started: Instant::now(),
        connections: Mutex::default(),
    });
    let ending = Ending {
        driver: Arc::clone(&driver),
        _running: Running::new(&shared),
    };
    let mut listener = Some(listener);
    if let Some(listener) = &listener {
        driver.watch(listener, LISTENER, EventFlags::IN)?;
    }
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let bell = Arc::new(bell.map_err(io::Error::from)?);
    driver.watch(&bell, STOP, EventFlags::IN)?;
    let ring = Arc::clone(&bell);
    driver.stopper.on_stop(move || {
        // Fails only if it rings already.
        let _ = rustix::io::write(&ring, &1_u64.to_ne_bytes());
    });

    let mut events = Vec::with_capacity(256);
    let mut last_tick = Instant::now();
    // When accepting goes on, if it rests: meanwhile the listener is not waited for.
    let mut rest: Option<Instant> = None;
    let mut end: Option<Instant> = None;
    loop {
        let tick = match (end, rest) {
            (Some(_), _) => DRAIN_TICK,
            (None, Some(_)) => REST,
            (None, None) => TICK,
        };
        let timeout = Timespec::try_from(tick).ok();
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&driver.epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => {
                    if let Some(listener) = &listener
                        && !driver.accept(listener)
                    {
                        epoll::delete(&driver.epoll, listener).map_err(io::Error::from)?;
                        rest = Some(Instant::now() + REST);
                    }
                }
                STOP => {}
                key => driver.dispatch(key, pool),
            }
        }
        if let Some(listener) = &listener
            && rest.is_some_and(|rest| Instant::now() >= rest)
        {
            driver.watch(listener, LISTENER, EventFlags::IN)?;
            rest = None;
        }
        if driver.stopper.is_stopped() && end.is_none() {
            // Who comes now is refused by the system.
            listener = None;
            end = Some(Instant::now() + drain_max);
            // Once: it goes on ringing.
            let _ = epoll::delete(&driver.epoll, &bell);
            driver.end_readers();
        }
        if last_tick.elapsed() >= TICK {
            last_tick = Instant::now();
            driver.cut_late();
        }
        if let Some(end) = end
            && (driver.connections.lock().is_empty() || Instant::now() >= end)
        {
            break;
        }
    }
    drop(ending);
    drop(driver);
    let since = Instant::now();
    while !is_last(&shared, since) {
        std::thread::sleep(LAST_LOOK);
    }
    match shared.engine.flush() {
        Ok(()) => Ok(()),
        Err(crate::engines::EngineError::Store(error)) => Err(error),
        Err(error) => Err(io::Error::other(error).into()),
    }
}

/// Ends the connections when the waiting thread ends, be it by an error or a panic.
struct Ending<E: Engine> {
    driver: Arc<Driver<E>>,
    // Behind `drop`: a job that goes on finds its connection gone and its server over.
    _running: Running<E>,
}

impl<E: Engine> Drop for Ending<E> {
    fn drop(&mut self) {
        for connection in std::mem::take(&mut *self.driver.connections.lock()).into_values() {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

impl<E: Engine> Driver<E> {
    fn watch(&self, fd: impl std::os::fd::AsFd, key: u64, flags: EventFlags) -> io::Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(key), flags)?;
        Ok(())
    }

    /// From the start to `moment`; without one, for ever.
    fn milliseconds(&self, moment: Option<Instant>) -> u64 {
        moment.map_or(u64::MAX, |moment| {
            (moment - self.started).as_millis() as u64
        })
    }

    /// Lets all in that wait. False if that fails for want of descriptors or memory: nobody is helped
    /// by trying again at once.
    fn accept(self: &Arc<Self>, listener: &TcpListener) -> bool {
        loop {
            let (stream, addr) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return true,
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => continue,
                    _ => return false,
                },
            };
            let Some(client) = self.shared.enter(Some(addr), stream.local_addr().ok()) else {
                let _ = (&stream).write_all(b"-ERR max number of clients reached\r\n");
                continue;
            };
            let session = Session::new(Arc::clone(&self.shared), Arc::clone(&client));
            if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
                continue;
            }
            let key = client.id + FIRST;
            let patience = Patience::new(session.is_trusted(), Instant::now());
            let until = patience.until_read(&self.shared.options, Instant::now());
            let unread = Unread::new(Arc::clone(&self.shared));
            let connection = Arc::new(Connection {
                key,
                stream,
                session: Mutex::new((session, unread, patience)),
                waits: AtomicU8::new(READING),
                until: AtomicU64::new(self.milliseconds(until)),
            });
            let weak = Arc::downgrade(&connection);
            client.on_kill(move || {
                if let Some(connection) = weak.upgrade() {
                    let _ = connection.stream.shutdown(Shutdown::Both);
                }
            });
            self.connections.lock().insert(key, Arc::clone(&connection));
            let flags = EventFlags::IN | EventFlags::ONESHOT;
            if self.watch(&connection.stream, key, flags).is_err() {
                self.close(&connection);
            }
        }
    }

    /// Makes a job of the connection, which is not armed any more.
    fn dispatch<P: ThreadPool>(self: &Arc<Self>, key: u64, pool: &P) {
        let Some(connection) = self.connections.lock().get(&key).cloned() else {
            return;
        };
        if connection.waits.swap(WORKING, Ordering::AcqRel) == WORKING {
            return;
        }
        let driver = Arc::clone(self);
        pool.spawn(move || {
            let mut job = Job {
                driver: &driver,
                connection: &connection,
                next: Next::Close,
            };
            job.next = job.run();
        });
    }

    fn close(&self, connection: &Connection<E>) {
        self.connections.lock().remove(&connection.key);
        let _ = epoll::delete(&self.epoll, &connection.stream);
        let _ = connection.stream.shutdown(Shutdown::Both);
    }

    /// Gives the connection back to the waiting thread.
    fn arm(&self, connection: &Connection<E>, flags: EventFlags, waits: u8) {
        connection.waits.store(waits, Ordering::Release);
        let key = EventData::new_u64(connection.key);
        let flags = flags | EventFlags::ONESHOT;
        if epoll::modify(&self.epoll, &connection.stream, key, flags).is_err() {
            self.close(connection);
        }
    }

    /// Lets all connections end when they have read what has come: behind it stands the end of their
    /// input. Those that wait are woken by that, and those at work find it later.
    fn end_readers(&self) {
        for connection in self.connections.lock().values() {
            let _ = connection.stream.shutdown(Shutdown::Read);
        }
    }

    /// Ends connections that wait for too long.
    fn cut_late(&self) {
        let now = self.milliseconds(Some(Instant::now()));
        let late = |connection: &Arc<Connection<E>>| {
            connection.waits.load(Ordering::Acquire) != WORKING
                && now > connection.until.load(Ordering::Relaxed)
        };
        let all: Vec<_> = self.connections.lock().values().cloned().collect();
        for connection in all.iter().filter(|connection| late(connection)) {
            // Wakes its job, which finds the end.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

/// What becomes of a connection when its job ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    Write,
    /// It has more to do, but others come first. All it was answered so far is written.
    Again,
    Close,
}

struct Job<'a, E: Engine> {
    driver: &'a Driver<E>,
    connection: &'a Connection<E>,
    /// `Close` until the job has come to its end.
    next: Next,
}

impl<E: Engine> Drop for Job<'_, E> {
    fn drop(&mut self) {
        let (driver, connection) = (self.driver, self.connection);
        match self.next {
            Next::Read => driver.arm(connection, EventFlags::IN, READING),
            Next::Write => driver.arm(connection, EventFlags::OUT, WRITING),
            // There is room at once, unless the client reads nothing: then it is waited for to read.
            Next::Again => driver.arm(connection, EventFlags::OUT, WRITING),
            Next::Close => driver.close(connection),
        }
    }
}

impl<E: Engine> Job<'_, E> {
    fn run(&self) -> Next {
        let mut held = self.connection.session.lock();
        let (session, unread, patience) = &mut *held;
        let next = self.serve(session, unread, patience);
        let (options, now) = (&self.driver.shared.options, Instant::now());
        let until = match next {
            Next::Read => patience.until_read(options, now),
            Next::Write | Next::Again => patience.until_written(options, now),
            Next::Close => None,
        };
        if until.is_some_and(|until| now >= until) {
            return Next::Close;
        }
        let until = self.driver.milliseconds(until);
        self.connection.until.store(until, Ordering::Relaxed);
        next
    }

    fn serve(
        &self,
        session: &mut Session<E>,
        unread: &mut Unread<E>,
        patience: &mut Patience,
    ) -> Next {
        let connection = self.connection;
        let mut stream = &connection.stream;
        let (mut turns, mut drained) = (0, false);
        let mut turn = Turn::Idle;
        loop {
            // First what waits from before: a client that does not read gets no more to read.
            match write(session, stream) {
                Ok(true) => unread.nothing(),
                Ok(false) => {
                    return match unread.may_wait(session, Instant::now()) {
                        true => Next::Write,
                        false => Next::Close,
                    };
                }
                Err(_) => return Next::Close,
            }
            if turn == Turn::More && turns >= TURNS_MAX {
                return Next::Again;
            }
            turn = session.turn();
            let ran = turn == Turn::More || !session.output().is_empty();
            let (trusted, midway) = (session.is_trusted(), session.is_midway());
            patience.turned(trusted, ran, midway, Instant::now());
            turns += usize::from(turn == Turn::More);
            if !session.output().is_empty() {
                continue;
            }
            match turn {
                // It waits inside its turns.
                Turn::Wait | Turn::Close => return Next::Close,
                Turn::More => continue,
                // What has come meanwhile fires at once, behind the others.
                Turn::Idle if drained || turns >= TURNS_MAX => return Next::Read,
                Turn::Idle => {}
            }
            let space = session.space();
            let room = space.len();
            match stream.read(space) {
                Ok(0) => return Next::Close,
                Ok(len) => {
                    turns += 1;
                    patience.read(len);
                    // Less than there was room for: that was all for now.
                    drained = len < room;
                    session.filled(len);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => drained = true,
                    ErrorKind::Interrupted => {}
                    _ => return Next::Close,
                },
            }
        }
    }
}

/// Writes what waits; false if the socket takes no more now.
fn write<E: Engine>(session: &mut Session<E>, mut stream: &TcpStream) -> io::Result<bool> {
    while !session.output().is_empty() {
        let output = session.output();
        let written = match output.pieces() {
            1 => stream.write(output.first()),
            _ => stream.write_vectored(&output.slices()),
        };
        match written {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => session.written(len),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => return Ok(false),
                ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
    Ok(true)
}
