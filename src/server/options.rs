//! How a server behaves.

use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::Limits;

/// How a server behaves: a builder.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) limits: Limits,
    pub(crate) clients_max: usize,
    pub(crate) output_bytes_max: usize,
    pub(crate) buffered_bytes_max: usize,
    pub(crate) request_max: Duration,
    pub(crate) idle_max: Option<Duration>,
    pub(crate) auth_max: Duration,
    pub(crate) write_max: Duration,
    pub(crate) drain_max: Duration,
    pub(crate) writes_wait: bool,
    pub(crate) checkpoints: Option<PathBuf>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            password: None,
            limits: Limits::default(),
            clients_max: 10_000,
            output_bytes_max: 64 << 20,
            buffered_bytes_max: 1 << 30,
            request_max: Duration::from_secs(30),
            idle_max: None,
            auth_max: Duration::from_secs(10),
            write_max: Duration::from_secs(30),
            drain_max: Duration::from_secs(5),
            writes_wait: true,
            checkpoints: None,
        }
    }
}

impl ServerOptions {
    /// No password, 10,000 connections, 64 MiB of replies waiting a connection, 1 GiB of requests and
    /// replies of all of them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What `AUTH` must give before anything else is answered. Default: nothing.
    #[must_use]
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// How much of a request is accepted after `AUTH`. Before it, if there is a password:
    /// [`Limits::BEFORE_AUTH`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Most connections at once; more are told so and closed. Default: 10,000.
    #[must_use]
    pub fn clients_max(mut self, clients: usize) -> Self {
        self.clients_max = clients;
        self
    }

    /// Bytes of replies a client may leave unread; who leaves more is cut off. Reading of its
    /// requests stops long before. Default: 64 MiB; less than 1 MiB is taken for 1 MiB.
    ///
    /// One reply may always be larger. What is above the limit is not copied, so it keeps its part of
    /// the store on disk; it must be read at 1 MiB a second, on an average, after the time of
    /// [`ServerOptions::write_max`].
    #[must_use]
    pub fn output_bytes_max(mut self, bytes: usize) -> Self {
        self.output_bytes_max = bytes;
        self
    }

    /// Bytes of all connections together that may wait in memory: requests that have not come whole and
    /// replies that are not read. Whoever needs more when they are used up is told so and cut off.
    /// Default: 1 GiB.
    #[must_use]
    pub fn buffered_bytes_max(mut self, bytes: usize) -> Self {
        self.buffered_bytes_max = bytes;
        self
    }

    /// How long a request may take from its first byte to its last, and a second more for each 16 KiB
    /// of it that have come; who takes longer, or sends nothing for so long in between, is closed.
    /// Default: 30 s.
    #[must_use]
    pub fn request_max(mut self, silence: Duration) -> Self {
        self.request_max = silence;
        self
    }

    /// How long a connection may take to give the password, if there is one; what it sends meanwhile
    /// gains no time. Default: 10 s.
    #[must_use]
    pub fn auth_max(mut self, auth: Duration) -> Self {
        self.auth_max = auth;
        self
    }

    /// How long a client may take nothing of the replies that wait for it. Default: 30 s.
    #[must_use]
    pub fn write_max(mut self, write: Duration) -> Self {
        self.write_max = write;
        self
    }

    /// Closes connections that send nothing for so long. Default: never.
    #[must_use]
    pub fn idle_max(mut self, idle: Option<Duration>) -> Self {
        self.idle_max = idle;
        self
    }

    /// How long a connection in the middle of a request may send nothing.
    pub(crate) fn silence_max(&self) -> Duration {
        let idle = self.idle_max.unwrap_or(self.request_max);
        self.request_max.min(idle)
    }

    /// How long the end of a server waits for commands that run and replies that are being written.
    /// A command that takes longer goes on in the background, unanswered, with the engine it runs on;
    /// but `KEYS` and `RANDOMKEY` break off. Then up to a quarter of a second more for those that are just
    /// ending, so that the engine can be closed, and a flush.
    /// Default: 5 s.
    #[must_use]
    pub fn drain_max(mut self, drain: Duration) -> Self {
        self.drain_max = drain;
        self
    }

    /// The directory below which `KVS.CHECKPOINT` makes copies of the store, each in a new directory of
    /// the name that the client gives: 1 to 64 letters, digits, `_` and `-`. Default: none, and the
    /// command is refused.
    #[must_use]
    pub fn checkpoints(mut self, dir: impl Into<PathBuf>) -> Self {
        self.checkpoints = Some(dir.into());
        self
    }

    /// Whether a write may wait for a disk, as at [`crate::Durability::Sync`]. If not, the
    /// asynchronous server runs it where it is instead of making room for others first. Default: true.
    #[must_use]
    pub fn writes_wait(mut self, wait: bool) -> Self {
        self.writes_wait = wait;
        self
    }
}
