//! What a server needs of a store: bytes, and what an engine may leave out.
//!
//! | operation | `KvStore` | `SledKvsEngine` | any other `KvsEngine` |
//! |---|---|---|---|
//! | get, set, remove, flush | yes | yes | yes, of text; flush does nothing |
//! | batch | yes | yes | no |
//! | append without waiting for the disk | yes | appends are not waited for | no |
//! | scan, len | yes | yes | no |
//! | compare-and-swap | no | yes | no |
//! | stats | yes | yes | no |
//! | compact, verify, checkpoint | yes | no | no |
//! | cursor, expiry | yes | no | no |
//!
//! Elsewhere: which command needs which operation (`server`).

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use crate::{Batch, Error};

/// What an engine may be asked for beyond `get`, `set`, `remove` and `flush`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// [`Engine::write`].
    Batch,
    /// [`Engine::append`] without waiting for the disk.
    Append,
    /// [`Engine::scan`].
    Scan,
    /// [`Engine::len`].
    Len,
    /// [`Engine::compare_and_swap`].
    CompareAndSwap,
    /// [`Engine::scan_from`].
    Cursor,
    /// [`SetOptions::expires_at_ms`], [`Engine::expires_at`], [`Engine::expire`].
    Expiry,
    /// [`Engine::stats`].
    Stats,
    /// [`Engine::compact`].
    Compact,
    /// [`Engine::checkpoint`].
    Checkpoint,
    /// [`Engine::verify`].
    Verify,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Batch => "batch",
            Self::Append => "append",
            Self::Scan => "scan",
            Self::Len => "len",
            Self::CompareAndSwap => "compare-and-swap",
            Self::Cursor => "cursor",
            Self::Expiry => "expiry",
            Self::Stats => "stats",
            Self::Compact => "compact",
            Self::Checkpoint => "checkpoint",
            Self::Verify => "verify",
        })
    }
}

/// Why an engine did not do it.
#[derive(Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// This engine cannot do that, ever. Nothing was changed.
    Unsupported {
        /// What it cannot do.
        operation: Operation,
    },
    /// It tried; the error says whether anything was changed.
    Store(Error),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported { operation } => write!(f, "{operation} not supported"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unsupported { .. } => None,
            Self::Store(error) => Some(error),
        }
    }
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// Result of an operation of an engine.
pub type EngineResult<T> = Result<T, EngineError>;

/// How a value is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetOptions {
    /// When it ends, in milliseconds since 1970; `None`: never. Needs [`Operation::Expiry`].
    pub expires_at_ms: Option<u64>,
}

/// A place in the order in which an engine makes writes durable: whoever has waited for one has waited
/// for all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket with this number; an engine counts its own.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// What [`Engine::newest`] found.
#[derive(Clone, Debug)]
pub struct Newest<V> {
    /// The value; `None` if there is none.
    pub value: Option<V>,
    /// When it ends, in milliseconds since 1970; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// What must be waited for before anybody is told; `None`: nothing.
    pub ticket: Option<Ticket>,
}

/// Names and numbers that an engine tells about itself or its work.
pub type Figures = Vec<(&'static str, u64)>;

/// Is shown keys and values, and says when to stop.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A store of bytes that a server can be generic over.
///
/// A clone is another handle of the same store. What an engine lacks keeps its default, which
/// answers [`EngineError::Unsupported`]; [`Engine::supports`] tells beforehand.
pub trait Engine: Clone + Send + Sync + 'static {
    /// A value that was read.
    type Value: AsRef<[u8]> + Send + Sync + 'static;

    /// Its name, for messages: `kvs`.
    fn name(&self) -> &'static str;

    /// Whether it can do that.
    fn supports(&self, operation: Operation) -> bool;

    /// Longest key it stores, in bytes.
    fn key_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// The newest value under `key`.
    ///
    /// # Errors
    /// Whatever keeps the engine from reading it.
    fn get(&self, key: &[u8]) -> EngineResult<Option<Self::Value>>;

    /// Lets the engine ask for what gets of `keys` will wait for. A hint, which must not wait for a disk;
    /// keys may be longer than it stores. The default does nothing.
    fn prefetch(&self, keys: &[&[u8]]) {
        let _ = keys;
    }

    /// Stores `value` under `key`, and returns as durable as the engine was opened.
    ///
    /// # Errors
    /// Whatever keeps the engine from storing it.
    fn set(&self, key: &[u8], value: &[u8], options: SetOptions) -> EngineResult<()>;

    /// Removes `key`; false if there was nothing.
    ///
    /// # Errors
    /// As [`Engine::set`].
    fn remove(&self, key: &[u8]) -> EngineResult<bool>;

    /// Makes every write that has returned durable.
    ///
    /// # Errors
    /// [`EngineError::Store`] if that failed.
    fn flush(&self) -> EngineResult<()>;

    /// Applies all of `batch` or nothing.
    ///
    /// # Errors
    /// As [`Engine::set`].
    fn write(&self, batch: &Batch) -> EngineResult<()> {
        let _ = batch;
        unsupported(Operation::Batch)
    }

    /// As [`Engine::write`], but returns when the batch is ordered among all writes and seen by
    /// [`Engine::newest`], perhaps before it is durable and seen by [`Engine::get`]. The ticket is what
    /// [`Engine::wait`] must have returned for before anybody is told that the batch is written;
    /// `None`: it is as durable as it is to be. The default writes.
    ///
    /// # Errors
    /// As [`Engine::set`].
    fn append(&self, batch: &Batch) -> EngineResult<Option<Ticket>> {
        self.write(batch)?;
        Ok(None)
    }

    /// Returns when everything up to the ticket is as durable as the engine was opened, and seen by
    /// [`Engine::get`]. The default returns at once.
    ///
    /// # Errors
    /// As [`Engine::flush`]; what became of the writes is then not known.
    fn wait(&self, ticket: Ticket) -> EngineResult<()> {
        let _ = ticket;
        Ok(())
    }

    /// The newest value under `key`, also one that was only appended. The default is what
    /// [`Engine::get`] sees.
    ///
    /// # Errors
    /// As [`Engine::get`].
    fn newest(&self, key: &[u8]) -> EngineResult<Newest<Self::Value>> {
        let value = self.get(key)?;
        let expires_at_ms = match value.is_some() && self.supports(Operation::Expiry) {
            true => self.expires_at(key)?.flatten(),
            false => None,
        };
        Ok(Newest {
            value,
            expires_at_ms,
            ticket: None,
        })
    }

    /// Shows `visit` all pairs whose key begins with `prefix`, until it breaks off.
    ///
    /// # Errors
    /// As [`Engine::get`].
    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> EngineResult<()> {
        let _ = (prefix, visit);
        unsupported(Operation::Scan)
    }

    /// Counts the keys.
    ///
    /// # Errors
    /// As [`Engine::get`].
    fn len(&self) -> EngineResult<u64> {
        unsupported(Operation::Len)
    }

    /// Gives `key` the value `new` (`None`: removes it) if it has the value `expected` (`None`: no
    /// value), in one step; says whether it did.
    ///
    /// # Errors
    /// As [`Engine::set`].
    fn compare_and_swap(
        &self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> EngineResult<bool> {
        let _ = (key, expected, new);
        unsupported(Operation::CompareAndSwap)
    }

    /// Shows `visit` about `count` keys from `cursor` on (0 to begin), and returns the next cursor
    /// (0 at the end). A key that is there all the while is shown at least once.
    ///
    /// # Errors
    /// As [`Engine::get`].
    fn scan_from(
        &self,
        cursor: u64,
        count: u64,
        visit: &mut dyn FnMut(&[u8]),
    ) -> EngineResult<u64> {
        let _ = (cursor, count, visit);
        unsupported(Operation::Cursor)
    }

    /// The time by which values end, in milliseconds since 1970.
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }

    /// How long a value is to live of which nothing is said, in milliseconds; `None`: for ever. Whoever
    /// sets a value says when it ends, so it is asked first.
    fn default_ttl_ms(&self) -> Option<u64> {
        None
    }

    /// When `key` ends, in milliseconds since 1970: `None` if it has no value, `Some(None)` if it
    /// never does.
    ///
    /// # Errors
    /// As [`Engine::get`].
    fn expires_at(&self, key: &[u8]) -> EngineResult<Option<Option<u64>>> {
        let _ = key;
        unsupported(Operation::Expiry)
    }

    /// Lets the value of `key` end then (`None`: never); false if it has none. A time that is over
    /// removes it.
    ///
    /// # Errors
    /// As [`Engine::set`].
    fn expire(&self, key: &[u8], at_ms: Option<u64>) -> EngineResult<bool> {
        let _ = (key, at_ms);
        unsupported(Operation::Expiry)
    }

    /// What the store holds and costs.
    ///
    /// # Errors
    /// As [`Engine::get`].
    fn stats(&self) -> EngineResult<Figures> {
        unsupported(Operation::Stats)
    }

    /// Gives back the space of what was overwritten and removed; tells what it did.
    ///
    /// # Errors
    /// As [`Engine::set`].
    fn compact(&self) -> EngineResult<Figures> {
        unsupported(Operation::Compact)
    }

    /// Makes a copy of everything in the new directory `dest`, a store of its own; tells what it did.
    ///
    /// # Errors
    /// As [`Engine::set`].
    fn checkpoint(&self, dest: &Path) -> EngineResult<Figures> {
        let _ = dest;
        unsupported(Operation::Checkpoint)
    }

    /// Reads everything and checks it; damage is counted as `damage`.
    ///
    /// # Errors
    /// As [`Engine::get`].
    fn verify(&self) -> EngineResult<Figures> {
        unsupported(Operation::Verify)
    }
}

fn unsupported<T>(operation: Operation) -> EngineResult<T> {
    Err(EngineError::Unsupported { operation })
}
