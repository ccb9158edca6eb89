//! The store as a program sees it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::engine::batch::Batch;
use crate::engine::checkpoint::{self, CheckpointOptions, CheckpointProgress, CheckpointReport};
use crate::engine::config::Config;
use crate::engine::core::Engine;
use crate::engine::cursor::Cursor;
use crate::engine::error::{Error, Result};
use crate::engine::expiry::{Expiry, SetOptions, Ttl};
use crate::engine::iter::{Iter, Keys, Prefix};
#[cfg(feature = "latency")]
use crate::engine::latency::LatencyReport;
use crate::engine::latency::Timed;
use crate::engine::options::{Durability, Options};
use crate::engine::pending::Ticket;
use crate::engine::reader::Reader;
use crate::engine::registry;
use crate::engine::report::{
    CloseReport, CompactProgress, CompactReport, LoadReport, RecoveryReport, Stats, VerifyReport,
};
use crate::engine::rmw::{Newest, Update};
use crate::engine::snapshot::Snapshot;
use crate::engine::value::{Key, Value};
use crate::storage::fs::Access;
use crate::storage::real::{DirectoryId, RealFs, StorePath};

/// The engine and what must happen when its last handle goes.
pub(crate) struct Handle {
    engine: Mutex<Option<Arc<Engine<RealFs>>>>,
    path: PathBuf,
    // Dropped last, also if closing panics.
    registration: Registration,
}

/// Holds the store's place among the open ones.
struct Registration(Option<DirectoryId>);

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            registry::gone(id);
        }
    }
}

impl Handle {
    /// Closes once; threads have ended and the lock is free when it returns.
    fn close(&self, budget: Duration) -> Result<CloseReport> {
        let Some(engine) = self.engine.lock().take() else {
            return Ok(CloseReport::default());
        };
        let mut release = Release {
            engine: &engine,
            id: self.registration.0,
            clean: false,
        };
        let closed = engine.close_within(budget);
        release.clean = closed.is_ok();
        closed
    }
}

/// Gives the directory free, whatever closing came to.
struct Release<'a> {
    engine: &'a Engine<RealFs>,
    id: Option<DirectoryId>,
    clean: bool,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if let (false, Some(id)) = (self.clean, self.id) {
            registry::taint(id);
        }
        // An iterator may keep the engine a while longer; the store is free all the same.
        self.engine.fs.unlock();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Best effort: whoever wants to know calls `close`.
        let _ = self.close(Duration::ZERO);
    }
}

/// An open key-value store: bytes to bytes, in one directory.
///
/// A handle is cheap to clone, and all clones are one store. It is closed when the last one is
/// dropped; [`Store::close`] does the same and says what went wrong.
///
/// Reads copy nothing and never wait for a writer. Keys have 0 to 65,535 bytes, values up to
/// 4 GiB − 128 KiB.
///
/// ```
/// let dir = std::env::temp_dir().join(format!("kvs-store-{}", std::process::id()));
/// let store = kvs::Store::open(&dir)?;
/// store.set("greeting", "hello")?;
/// assert_eq!(store.get("greeting")?.as_deref(), Some(&b"hello"[..]));
/// store.close()?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), kvs::Error>(())
/// ```
///
/// Design: Sheehy & Smith, "Bitcask: A Log-Structured Hash Table for Fast Key/Value Data", 2010.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine<RealFs>>,
    /// Of the writes through this handle.
    level: Durability,
    // Behind `engine`: dropped after it, so that closing finds the last reference.
    handle: Arc<Handle>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.handle.path)
            .field("keys", &self.len())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in directory `path` with the default [`Options`], creating it if need be.
    ///
    /// # Errors
    /// See [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// Opens the store in `path` for reading: a shared lock, and nothing is written or created.
    ///
    /// What an unclean stop left is recovered in memory. Of a corrupt store what can be verified is
    /// served, and [`RecoveryReport::incomplete`] says so.
    ///
    /// # Errors
    /// See [`Options::open`].
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().read_only(true).open(path)
    }

    pub(crate) fn open_with(path: &Path, options: &Options) -> Result<Self> {
        let access = match options.read_only {
            true => Access::Read,
            false => Access::ReadWrite,
        };
        let mut fs = RealFs::open(path, access)?;
        if options.force_write_path {
            fs = fs.with_store_path(StorePath::Write);
        }
        let id = fs.id()?;
        let open = || {
            fs.lock(access)?;
            if access == Access::ReadWrite && fs.is_new() {
                fs.sync_name()?;
            }
            let mut config = Config::new(options);
            config.trim = !id.is_some_and(registry::is_tainted);
            let engine = Engine::open(fs, config)?;
            Ok(Arc::new(Handle {
                engine: Mutex::new(Some(engine)),
                path: path.to_path_buf(),
                registration: Registration(id),
            }))
        };
        let handle = match id {
            Some(id) => registry::share(id, options, path, open)?,
            None => open()?,
        };
        Self::of(handle)
    }

    pub(crate) fn open_memory(options: &Options) -> Result<Self> {
        let mut config = Config::new(options);
        // There is no disk to be full, and nothing is left to be small.
        config.reserve = false;
        config.close_budget = Duration::ZERO;
        Self::of_memory(Engine::open(RealFs::in_memory(), config)?)
    }

    /// The only store over `engine`, which is in memory.
    pub(crate) fn of_memory(engine: Arc<Engine<RealFs>>) -> Result<Self> {
        Self::of(Arc::new(Handle {
            engine: Mutex::new(Some(engine)),
            path: PathBuf::from(":memory:"),
            registration: Registration(None),
        }))
    }

    fn of(handle: Arc<Handle>) -> Result<Self> {
        let engine = handle.engine.lock().clone();
        match engine {
            Some(engine) => Ok(Self {
                level: engine.config.durability,
                engine,
                handle,
            }),
            None => Err(Error::Closed),
        }
    }

    /// The directory, as it was given when the store was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.handle.path
    }

    /// What opening found and did.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        self.engine.recovery()
    }

    /// Newest value stored under `key`; `None` if it was never set, was removed or has expired.
    ///
    /// Nothing is copied: the [`Value`] borrows the mapped segment and keeps its disk space from
    /// being given back, so copy it out if you hold it for long. Cost: one probe, one read of the
    /// record, no lock that a writer holds for longer than a memory access.
    ///
    /// A media error under the mapped record ends the process with SIGBUS; [`Store::get_into`]
    /// returns it as an error instead.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if the record no longer matches its checks (names file and offset),
    /// [`crate::Error::Poisoned`] if a sync failed and the key was written since the last good one.
    #[inline(always)]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        // No closure: it might not become a part of this, and this always becomes one of its caller.
        let begun = self.engine.timers.begin(Timed::Get);
        let found = self.engine.get(key.as_ref());
        self.engine.timers.end(Timed::Get, begun);
        found
    }

    /// The newest values of `keys`, in their order, each as [`Store::get`] gives it.
    ///
    /// Not a snapshot: every key is looked up on its own. Cost: for many keys of a store larger than
    /// the processor's caches less than half of as many gets, since their memory accesses overlap.
    ///
    /// # Errors
    /// As [`Store::get`], for the first key that meets one.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        self.engine.get_many(keys)
    }

    /// Asks for the memory that gets of `keys` will wait for, without waiting for the records: for some
    /// dozen keys that are known a little before they are read.
    ///
    /// A hint, and never an error. Cost: about that of finding that the keys are not there. Where the
    /// processor has no such instruction (there is one for x86-64 and 64-bit ARM) it helps little.
    ///
    /// ```
    /// let store = kvs::Options::new().open_in_memory()?;
    /// store.set("a", "1")?;
    /// store.prefetch(&["a", "b"]);
    /// assert_eq!(store.get("a")?.as_deref(), Some(&b"1"[..]));
    /// # Ok::<(), kvs::Error>(())
    /// ```
    pub fn prefetch<K: AsRef<[u8]>>(&self, keys: &[K]) {
        self.engine.prefetch(keys);
    }

    /// A reader for hot loops: it pins what it reads once, and its values are plain slices that
    /// borrow it.
    ///
    /// ```
    /// let store = kvs::Options::new().open_in_memory()?;
    /// store.set("a", "1")?;
    /// let reader = store.reader();
    /// assert_eq!(reader.get("a")?, Some(&b"1"[..]));
    /// # Ok::<(), kvs::Error>(())
    /// ```
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(&self.engine)
    }

    /// This store with another level for the writes through the returned handle.
    ///
    /// ```
    /// use kvs::Durability;
    ///
    /// let store = kvs::Options::new().open_in_memory()?;
    /// store.set("draft", "may be lost in a power cut")?;
    /// store.with_durability(Durability::Sync).set("order", "is on disk now")?;
    /// # Ok::<(), kvs::Error>(())
    /// ```
    #[must_use]
    pub fn with_durability(&self, level: Durability) -> Self {
        Self {
            level,
            ..self.clone()
        }
    }

    /// Copies the newest value of `key` into `out`, replacing what it held; false if there is none.
    ///
    /// Reads by `pread` and always checks: a read error is an error.
    ///
    /// # Errors
    /// As [`Store::get`], and [`crate::Error::Io`].
    pub fn get_into(&self, key: impl AsRef<[u8]>, out: &mut Vec<u8>) -> Result<bool> {
        self.engine.get_into(key.as_ref(), out)
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.engine.contains_key(key.as_ref())
    }

    /// How many keys have a value. Keys that have expired count until compaction has given their space
    /// back. Cost: one memory access.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.engine.len()
    }

    /// True if [`Store::len`] is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stores `value` under `key`, to expire as [`Options::default_ttl`] says: usually never, also if
    /// the value before was to expire.
    ///
    /// Returns, and becomes visible, as the store's [`crate::Durability`] says. Garbage may make it wait
    /// or compact: see [`crate::Compaction`].
    ///
    /// # Errors
    /// Certainly not applied: [`crate::Error::KeyTooLong`], [`crate::Error::ValueTooLong`],
    /// [`crate::Error::DiskFull`], [`crate::Error::StoreFull`], [`crate::Error::Poisoned`],
    /// [`crate::Error::ReadOnly`], [`crate::Error::Closed`]. Unknown until reopened:
    /// [`crate::Error::Io`].
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        let set = || self.engine.set_at(self.level, key.as_ref(), value.as_ref());
        self.engine.timers.time(Timed::Put, set)
    }

    /// Stores `value` under `key` as `options` say; whether it did, which it does unless they set a
    /// condition that does not hold.
    ///
    /// One atomic step against all writers. If the condition does not hold, the call returns when what
    /// it rests on is as durable as its writer was promised.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use kvs::{SetOptions, Ttl};
    ///
    /// let store = kvs::Options::new().open_in_memory()?;
    /// let lease = SetOptions::new().ttl(Duration::from_secs(30)).if_absent();
    /// assert!(store.set_with("lease", "me", &lease)?);
    /// assert!(!store.set_with("lease", "you", &lease)?);
    /// assert!(matches!(store.ttl("lease")?, Some(Ttl::Left(_))));
    /// # Ok::<(), kvs::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::set`]; with a condition or [`SetOptions::keep_ttl`] also as [`Store::get`].
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        self.engine
            .set_with(self.level, key.as_ref(), value.as_ref(), options)
    }

    /// When `key` expires; `None` if it has no value.
    ///
    /// Cost: as [`Store::get`].
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn expires_at(&self, key: impl AsRef<[u8]>) -> Result<Option<Expiry>> {
        self.engine.expires_at(key.as_ref())
    }

    /// How long `key` has left; `None` if it has no value.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Ttl>> {
        self.engine.ttl(key.as_ref())
    }

    /// Lets `key` expire at this Unix millisecond; false if it has no value. A time that is over
    /// removes it.
    ///
    /// One atomic step against all writers. Cost and durability: as storing the value again, which is
    /// what it does, unless the key is to expire then already.
    ///
    /// # Errors
    /// As [`Store::get`] and [`Store::set`]; where the key is removed, as [`Store::remove`].
    pub fn expire_at(&self, key: impl AsRef<[u8]>, ms: u64) -> Result<bool> {
        self.engine.expire_at(self.level, key.as_ref(), ms)
    }

    /// Lets `key` expire after `ttl`: see [`Store::expire_at`].
    ///
    /// # Errors
    /// As [`Store::expire_at`].
    pub fn expire_in(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool> {
        self.engine.expire_in(self.level, key.as_ref(), ttl)
    }

    /// The time by which keys expire, in Unix milliseconds: see [`Options::clock`].
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.engine.now_ms()
    }

    /// How long values live of which nothing is said: see [`Options::default_ttl`].
    pub(crate) fn default_ttl_ms(&self) -> Option<u64> {
        self.engine.config.default_ttl
    }

    /// Lets `key` live for ever; false if it has no value or does so already.
    ///
    /// Cost and durability: as [`Store::expire_at`].
    ///
    /// # Errors
    /// As [`Store::expire_at`].
    pub fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.engine.persist(self.level, key.as_ref())
    }

    /// Removes `key`; false if it had no value (then nothing is written).
    ///
    /// # Errors
    /// As [`Store::set`]. On a full disk removing goes on in room that the store has set aside: 1/16 of
    /// it, 1 to 64 MiB, once it has 4 MiB.
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let remove = || self.engine.remove_at(self.level, key.as_ref());
        self.engine.timers.time(Timed::Remove, remove)
    }

    /// Applies all of `batch` or nothing, for readers and after any crash.
    ///
    /// # Errors
    /// As [`Store::set`], and [`crate::Error::BatchTooLarge`].
    pub fn write(&self, batch: &Batch) -> Result<()> {
        let write = || self.engine.write_at(self.level, batch);
        self.engine.timers.time(Timed::Put, write)
    }

    /// Stores all of `pairs` at about the rate of the disk's bare log: a bulk load. All of them or
    /// nothing, for readers and after any crash; durable when it returns, at every level.
    ///
    /// Pairs may come in any order; sorted ones are not faster. Of a key that comes twice, the later
    /// pair counts. Reads and writes go on meanwhile, and see nothing of the load until all of it is
    /// there. Its place in the order of writes is where its first pair was taken: a key that somebody
    /// else has written or removed since then keeps that ([`LoadReport::superseded`]).
    ///
    /// Cost: about 40 bytes of memory a pair until its hints are written, which is soon after it returns,
    /// and the index of the keys' shards a second time at its end; a `Vec` of pairs or a few hundred of them are better written as a
    /// [`Batch`]. The iterator may read and write this store. Compaction goes on while it gives pairs; the
    /// end of the load waits for the step that is under way.
    ///
    /// Values expire as [`Options::default_ttl`] says; [`Store::load_with_expiry`] takes when each does.
    ///
    /// ```
    /// let store = kvs::Options::new().open_in_memory()?;
    /// let report = store.load((0..100_000u32).map(|i| (i.to_be_bytes(), "value")))?;
    /// assert_eq!((report.pairs, store.len()), (100_000, 100_000));
    /// # Ok::<(), kvs::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::set`], and [`crate::Error::Corrupt`] if an older record of a key is damaged. Nothing
    /// is applied then; only after [`crate::Error::Io`] it is unknown until the store is reopened. A
    /// sync that failed poisons the store.
    pub fn load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<LoadReport> {
        self.engine.load(pairs.into_iter().map(Ok::<_, Error>))
    }

    /// As [`Store::load`], of pairs that may turn out not to be had: the first error ends it, and
    /// nothing is applied.
    ///
    /// ```
    /// let store = kvs::Options::new().open_in_memory()?;
    /// let lines = ["a=1", "b=2", "nonsense"];
    /// let pairs = lines.map(|line| line.split_once('=').ok_or("no equals sign".into()));
    /// let loaded: Result<_, Box<dyn std::error::Error>> = store.try_load(pairs);
    /// assert!(loaded.is_err() && store.is_empty());
    /// # Ok::<(), kvs::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::load`], and what `pairs` gave.
    pub fn try_load<K, V, E>(
        &self,
        pairs: impl IntoIterator<Item = Result<(K, V), E>>,
    ) -> Result<LoadReport, E>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
        E: From<Error>,
    {
        self.engine.load(pairs.into_iter())
    }

    /// As [`Store::load`], with when each value expires, whatever [`Options::default_ttl`] says. One that
    /// has expired takes the place of its key's older value like any other, and is never seen.
    ///
    /// ```
    /// use kvs::Expiry;
    ///
    /// let store = kvs::Options::new().open_in_memory()?;
    /// let at = store.now_ms() + 60_000;
    /// store.load_with_expiry([("a", "1", Expiry::At(at)), ("b", "2", Expiry::Never)])?;
    /// assert_eq!(store.expires_at("a")?, Some(Expiry::At(at)));
    /// # Ok::<(), kvs::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn load_with_expiry<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V, Expiry)>,
    ) -> Result<LoadReport> {
        self.try_load_with_expiry(pairs.into_iter().map(Ok::<_, Error>))
    }

    /// As [`Store::load_with_expiry`], of pairs that may turn out not to be had: the first error ends it,
    /// and nothing is applied.
    ///
    /// # Errors
    /// As [`Store::load`], and what `pairs` gave.
    pub fn try_load_with_expiry<K, V, E>(
        &self,
        pairs: impl IntoIterator<Item = Result<(K, V, Expiry), E>>,
    ) -> Result<LoadReport, E>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
        E: From<Error>,
    {
        let said = |(key, value, expiry)| (key, value, Some(expiry));
        self.engine
            .load_with(pairs.into_iter().map(|pair| pair.map(said)))
    }

    /// As [`Store::write`], and returns when the batch is stored, with what is to be waited for before
    /// anybody is told.
    pub(crate) fn append(&self, batch: &Batch) -> Result<Option<Ticket>> {
        self.engine.append_at(self.level, batch)
    }

    /// Returns when what was appended is as durable as it was to be.
    pub(crate) fn wait(&self, ticket: Ticket) -> Result<()> {
        self.engine.wait_for(Some(ticket))
    }

    /// As [`Store::get`], of what is appended.
    pub(crate) fn newest(&self, key: &[u8]) -> Result<Newest> {
        self.engine.newest(key)
    }

    /// Stores `value` under `key` if it has no value; whether it did.
    ///
    /// Atomic against all writers. If there is a value already, the call returns when that value is as
    /// durable as its writer was promised.
    ///
    /// # Errors
    /// As [`Store::set`].
    pub fn set_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<bool> {
        self.engine
            .set_if_absent(self.level, key.as_ref(), value.as_ref())
    }

    /// Makes `new` the value of `key` if its value is `expected`; whether it was. `None` stands for no
    /// value, on both sides.
    ///
    /// Atomic against all writers of all levels.
    ///
    /// ```
    /// let store = kvs::Options::new().open_in_memory()?;
    /// assert!(store.compare_and_swap("lock", None, Some(b"me"))?);
    /// assert!(!store.compare_and_swap("lock", None, Some(b"you"))?);
    /// assert!(store.compare_and_swap("lock", Some(b"me"), None)?);
    /// # Ok::<(), kvs::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::get`] and [`Store::set`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool> {
        self.engine
            .compare_and_swap(self.level, key.as_ref(), expected, new)
    }

    /// Asks `update` what to do with the value of `key` and does it; returns the value it was asked
    /// about.
    ///
    /// Atomic against all writers: if another one comes between, `update` is asked again about the
    /// newer value, so it should do nothing but answer. A new value expires as [`Options::default_ttl`]
    /// says, not when the old one was to.
    ///
    /// # Errors
    /// As [`Store::get`] and [`Store::set`].
    pub fn fetch_update(
        &self,
        key: impl AsRef<[u8]>,
        update: impl FnMut(Option<&[u8]>) -> Update,
    ) -> Result<Option<Value>> {
        self.engine.fetch_update(self.level, key.as_ref(), update)
    }

    /// Adds `by` to the decimal integer stored under `key`, 0 if there is none; returns the sum.
    ///
    /// Atomic against all writers. The key expires when it did before; a new one as
    /// [`Options::default_ttl`] says.
    ///
    /// # Errors
    /// [`crate::Error::NotAnInteger`], [`crate::Error::Overflow`]; as [`Store::get`] and
    /// [`Store::set`].
    pub fn increment(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64> {
        self.engine.increment(self.level, key.as_ref(), by)
    }

    /// The whole store as it is now, to be read while writes and compaction go on.
    ///
    /// A write that has returned is in it, a batch is in it whole or not at all, and what comes later is
    /// not. Cost: a reference to each of at most 1,024 shards, taken under the lock of the writers; then
    /// see [`Snapshot`].
    ///
    /// # Errors
    /// [`crate::Error::Poisoned`] after a failed sync, if anything was written since the last good one.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.engine.snapshot()
    }

    /// Some keys from `cursor` on, and the cursor to go on with: [`Cursor::START`] to begin, and again at
    /// the end. For walking through all keys of a large store in small calls, with nothing held in
    /// between; [`Store::keys`] shows one moment instead.
    ///
    /// Whatever is written, compacted, closed and opened again between calls: a key that has a value
    /// from the first call to the last comes exactly once, whether its value changes or not; one that
    /// never has a value does not come; any other comes once or not at all. The order is that of a hash.
    ///
    /// Looks at `count` entries, at least one, at most [`Cursor::COUNT_MAX`], and at all that share the
    /// last one's place; that may be a few more keys than `count`, or fewer, even none, if some have
    /// expired. Any cursor may be given, also of another store: it is a place to go on from.
    ///
    /// Cost: looks at a whole index shard (1/1024 of the keys) for each that it takes keys from, and
    /// reads their records, values included if reads are verified.
    ///
    /// ```
    /// use kvs::Cursor;
    ///
    /// let store = kvs::Options::new().open_in_memory()?;
    /// for i in 0..100 {
    ///     store.set(format!("key {i}"), "")?;
    /// }
    /// let (mut cursor, mut count) = (Cursor::START, 0);
    /// loop {
    ///     let (next, keys) = store.scan(cursor, 10)?;
    ///     count += keys.len();
    ///     if next.is_end() {
    ///         break;
    ///     }
    ///     cursor = next;
    /// }
    /// assert_eq!(count, 100);
    /// # Ok::<(), kvs::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::iter`], and [`crate::Error::Corrupt`].
    pub fn scan(&self, cursor: Cursor, count: usize) -> Result<(Cursor, Vec<Key>)> {
        self.engine.scan_keys(cursor, count)
    }

    /// As [`Store::scan`], with the values. Each is the newest of its key at some moment of the call.
    ///
    /// # Errors
    /// As [`Store::scan`].
    pub fn scan_pairs(&self, cursor: Cursor, count: usize) -> Result<(Cursor, Vec<(Key, Value)>)> {
        self.engine.scan_pairs(cursor, count)
    }

    /// All pairs as they are now, in no stated order: those of a [`Store::snapshot`] of its own.
    ///
    /// # Errors
    /// [`crate::Error::Poisoned`] after a failed sync, if anything was written since the last good one.
    pub fn iter(&self) -> Result<Iter> {
        self.engine.pairs()
    }

    /// All keys as they are now, in no stated order.
    ///
    /// # Errors
    /// As [`Store::iter`].
    pub fn keys(&self) -> Result<Keys> {
        Ok(Keys(self.engine.pairs()?))
    }

    /// All pairs whose key begins with `prefix`, as they are now, in no stated order.
    ///
    /// Cost: looks at every key; there is no ordered index.
    ///
    /// # Errors
    /// As [`Store::iter`].
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Prefix> {
        Ok(Prefix::new(self.engine.pairs()?, prefix.as_ref()))
    }

    /// Makes every write that has returned durable.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if the sync failed; the store is then poisoned.
    pub fn flush(&self) -> Result<()> {
        self.engine.flush()
    }

    /// Rewrites every segment that holds garbage, in the calling thread. Reads and writes go on.
    ///
    /// Works in steps that each copy up to 256 MiB, oldest records first, and give back what they have
    /// rewritten; on a full disk in smaller steps, and in the room that the store has set aside. What was
    /// written before is durable afterwards, unless the disk had no room for the next segment of the log:
    /// then the newest records stay as they are.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if a segment is damaged (it is then left alone),
    /// [`crate::Error::DiskFull`] if there is no room for any step (if there is for some, the report
    /// says what was left), [`crate::Error::Pinned`], [`crate::Error::Io`]. Steps that were done stay
    /// done.
    pub fn compact(&self) -> Result<CompactReport> {
        self.engine.compact()
    }

    /// As [`Store::compact`]; `control` is told how far it has come, about every 512 KiB that were
    /// read and after each segment, and ends it by answering [`ControlFlow::Break`].
    ///
    /// A run that is ended gives up the step it is in, keeps the ones before it, and says so in its
    /// report: the store is as good as before. `control` may read and write the store, but not
    /// compact, load or close it.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use std::time::{Duration, Instant};
    ///
    /// # let dir = std::env::temp_dir().join(format!("kvs-compact-{}", std::process::id()));
    /// # let store = kvs::Store::open(&dir)?;
    /// let end = Instant::now() + Duration::from_secs(5);
    /// let report = store.compact_with(|_progress| match Instant::now() < end {
    ///     true => ControlFlow::Continue(()),
    ///     false => ControlFlow::Break(()),
    /// })?;
    /// assert!(!report.cancelled);
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), kvs::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::compact`].
    pub fn compact_with(
        &self,
        control: impl FnMut(&CompactProgress) -> ControlFlow<()>,
    ) -> Result<CompactReport> {
        self.engine.compact_with(control)
    }

    /// A copy of the store as it is now, in the new directory `dest`: a store of its own, which holds
    /// every write that had returned before the call, and of the ones under way some prefix.
    ///
    /// Segments that are no longer written become hard links where the file system allows it; the one
    /// being written, at most 256 MiB unless a value is larger, is copied. So it takes time and space
    /// for that one, and the space of the others only as the store itself gives them up. Neither store
    /// ever changes a file that it shares; nor are those read: [`Store::verify`] on the copy does. Reads, writes and compaction go on; no write waits for more
    /// than a look at the list of segments. Everything the copy holds is durable when the call returns,
    /// whatever level it was written at.
    ///
    /// `dest` must not exist or be an empty directory. A crash leaves none or a whole one, and maybe a
    /// directory `.NAME.partial` beside it, which the next try for the same name removes.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("kvs-checkpoint-{}", std::process::id()));
    /// let store = kvs::Store::open(dir.join("store"))?;
    /// store.set("a", "1")?;
    /// store.checkpoint(dir.join("copy"))?;
    /// store.set("a", "2")?;
    /// let copy = kvs::Store::open(dir.join("copy"))?;
    /// assert_eq!(copy.get("a")?.as_deref(), Some(&b"1"[..]));
    /// # drop(copy);
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), kvs::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Exists`], [`crate::Error::Unsafe`] if `dest` lies inside the store,
    /// [`crate::Error::Locked`] if somebody else is making `dest`, [`crate::Error::DiskFull`],
    /// [`crate::Error::Corrupt`] if what must be copied is damaged, [`crate::Error::Incomplete`] for a
    /// store opened read-only of which a part is; [`crate::Error::Poisoned`], [`crate::Error::Io`].
    pub fn checkpoint(&self, dest: impl AsRef<Path>) -> Result<CheckpointReport> {
        let options = CheckpointOptions::new();
        self.checkpoint_with(dest, &options, |_| ControlFlow::Continue(()))
    }

    /// As [`Store::checkpoint`], with [`CheckpointOptions`]; `control` is told how far it has come,
    /// after each segment and each MiB that is copied, and ends it by answering
    /// [`ControlFlow::Break`]: nothing is left then, and the report says so.
    ///
    /// # Errors
    /// As [`Store::checkpoint`]; for [`CheckpointOptions::since`] what opening that store may say.
    pub fn checkpoint_with(
        &self,
        dest: impl AsRef<Path>,
        options: &CheckpointOptions,
        mut control: impl FnMut(&CheckpointProgress) -> ControlFlow<()>,
    ) -> Result<CheckpointReport> {
        checkpoint::to_directory(&self.engine, dest.as_ref(), options, &mut control)
    }

    /// What the store holds and costs. Cost: looks at every shard and segment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// How long calls took since the store was opened. With the feature `latency` only; one call in 16
    /// is measured, for about two nanoseconds a call.
    #[cfg(feature = "latency")]
    #[must_use]
    pub fn latency(&self) -> LatencyReport {
        self.engine.timers.report()
    }

    /// Reads every record from disk and checks it. Damage is in the report, not an error.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if a file cannot be read.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.engine.verify()
    }

    /// Closes the store if this is its last handle: everything is durable then, and the next open
    /// need not recover. Other handles keep it open.
    ///
    /// May compact for [`Options::close_budget`]. What could not be done, and costs only space or
    /// time, is in the report.
    ///
    /// # Errors
    /// Why not everything could be made durable or said to be. Nothing that was durable is lost: the
    /// next open recovers.
    pub fn close(self) -> Result<CloseReport> {
        let Self { engine, handle, .. } = self;
        let budget = match engine.config.compacts_in_background() {
            true => engine.config.close_budget,
            false => Duration::ZERO,
        };
        drop(engine);
        match Arc::into_inner(handle) {
            None => Ok(CloseReport::default()),
            Some(handle) => handle.close(budget),
        }
    }
}

impl Options {
    /// Opens the store in directory `path`, creating it if it does not exist and the options allow
    /// writing.
    ///
    /// A store that this process has open already, with equal options, is shared.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::OptionsDiffer`], [`Error::Corrupt`], [`Error::Missing`],
    /// [`Error::Unsafe`], [`Error::InvalidOption`], [`Error::Io`]. A refused open changes no byte.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store> {
        self.check()?;
        Store::open_with(path.as_ref(), self)
    }

    /// Opens a store that exists only in memory and goes with its last handle.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], [`Error::Io`].
    pub fn open_in_memory(&self) -> Result<Store> {
        self.check()?;
        Store::open_memory(self)
    }
}
