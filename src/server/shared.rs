//! What all connections of a server share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::server::guesses::Peers;
use crate::server::locks::Locks;
use crate::server::options::ServerOptions;

/// A connection as the others see it.
pub struct Client {
    pub id: u64,
    pub addr: Option<SocketAddr>,
    pub laddr: Option<SocketAddr>,
    pub since: Instant,
    pub name: Mutex<Vec<u8>>,
    pub lib_name: Mutex<Vec<u8>>,
    pub lib_version: Mutex<Vec<u8>>,
    /// Name of the last command.
    pub last: Mutex<&'static str>,
    killed: AtomicBool,
    /// Ends the connection from outside.
    cut: Mutex<Option<Cut>>,
}

type Cut = Arc<dyn Fn() + Send + Sync>;

impl Client {
    /// Ends the connection; what it asked for and is not answered yet is done all the same.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        // Not under the lock: what it cuts may be dropped by it, and then leaves.
        let cut = self.cut.lock().clone();
        if let Some(cut) = cut {
            cut();
        }
    }

    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// How `kill` wakes who waits for the connection.
    pub fn on_kill(&self, cut: impl Fn() + Send + Sync + 'static) {
        *self.cut.lock() = Some(Arc::new(cut));
        // Killed before anybody listened.
        if self.is_killed() {
            self.kill();
        }
    }
}

/// Counters since the start, or since `CONFIG RESETSTAT`.
#[derive(Default)]
pub struct Counters {
    pub commands: AtomicU64,
    pub connections: AtomicU64,
    pub rejected: AtomicU64,
    pub read_bytes: AtomicU64,
    pub written_bytes: AtomicU64,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub errors: AtomicU64,
}

impl Counters {
    pub fn add(&self, counter: fn(&Self) -> &AtomicU64, by: u64) {
        counter(self).fetch_add(by, Ordering::Relaxed);
    }

    pub fn reset(&self) {
        for counter in [
            &self.commands,
            &self.connections,
            &self.rejected,
            &self.read_bytes,
            &self.written_bytes,
            &self.hits,
            &self.misses,
            &self.errors,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Ends what still runs when its driver ends, however that does: see [`Shared::over`].
pub struct Running<E>(Arc<Shared<E>>);

impl<E> Running<E> {
    pub fn new(shared: &Arc<Shared<E>>) -> Self {
        Self(Arc::clone(shared))
    }
}

impl<E> Drop for Running<E> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// How long the end of a server waits for commands that have outlasted the drain.
const LAST_MAX: Duration = Duration::from_millis(250);

/// Waits between two looks at who still holds what connections share.
pub const LAST_LOOK: Duration = Duration::from_millis(1);

/// True once nobody else holds what connections share, and with it the engine, or if that was waited for
/// from `since` on for long enough: whoever was answered last may need a moment to end.
pub fn is_last<E>(shared: &Arc<Shared<E>>, since: Instant) -> bool {
    Arc::strong_count(shared) == 1 || since.elapsed() >= LAST_MAX
}

/// See the head of this file.
pub struct Shared<E> {
    pub engine: E,
    pub options: ServerOptions,
    pub locks: Locks,
    pub counters: Counters,
    /// Who has guessed passwords.
    pub peers: Peers,
    /// The server has ended: a command that still runs is to break off as soon as it may.
    pub over: AtomicBool,
    pub since: Instant,
    /// Bytes of requests and replies that wait in memory.
    buffered_bytes: AtomicUsize,
    /// Where it listens.
    pub addr: Mutex<Option<SocketAddr>>,
    next_id: AtomicU64,
    clients: Mutex<BTreeMap<u64, Arc<Client>>>,
}

impl<E> Shared<E> {
    pub fn new(engine: E, options: ServerOptions) -> Self {
        Self {
            engine,
            options,
            locks: Locks::default(),
            counters: Counters::default(),
            peers: Peers::default(),
            over: AtomicBool::new(false),
            since: Instant::now(),
            buffered_bytes: AtomicUsize::new(0),
            addr: Mutex::new(None),
            next_id: AtomicU64::new(1),
            clients: Mutex::default(),
        }
    }

    /// A new connection, listed until `leave`; `None` if there are too many.
    pub fn enter(
        &self,
        addr: Option<SocketAddr>,
        laddr: Option<SocketAddr>,
    ) -> Option<Arc<Client>> {
        let mut clients = self.clients.lock();
        if clients.len() >= self.options.clients_max {
            self.counters.add(|c| &c.rejected, 1);
            return None;
        }
        self.counters.add(|c| &c.connections, 1);
        let client = Arc::new(Client {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            addr,
            laddr,
            since: Instant::now(),
            name: Mutex::default(),
            lib_name: Mutex::default(),
            lib_version: Mutex::default(),
            last: Mutex::new("NULL"),
            killed: AtomicBool::new(false),
            cut: Mutex::new(None),
        });
        clients.insert(client.id, Arc::clone(&client));
        Some(client)
    }

    /// What waits of one connection was so many bytes and is now so many.
    pub fn buffers(&self, before: usize, now: usize) {
        self.buffered_bytes.fetch_add(now, Ordering::Relaxed);
        self.buffered_bytes.fetch_sub(before, Ordering::Relaxed);
    }

    /// Whether so many bytes more may wait.
    pub fn has_room(&self, bytes: usize) -> bool {
        let all = self.buffered_bytes.load(Ordering::Relaxed);
        all.saturating_add(bytes) <= self.options.buffered_bytes_max
    }

    pub fn leave(&self, client: &Client) {
        self.clients.lock().remove(&client.id);
        let cut = client.cut.lock().take();
        drop(cut);
    }

    pub fn clients(&self) -> Vec<Arc<Client>> {
        self.clients.lock().values().cloned().collect()
    }
}
