//! `KvStore`: the course's store of strings, over [`Store`].

use std::path::{Path, PathBuf};

use crate::engine::Ticket as Place;
use crate::engines::engine::{
    Engine, EngineResult, Figures, Newest, Operation, SetOptions, Ticket, Visit,
};
use crate::engines::kvs_engine::{EngineVisitor, KvsEngine};
use crate::{Batch, Compaction, Cursor, Error, Expiry, Options, Result, Store, Value};

/// A persistent map from `String` to `String`, with the signatures of the PingCAP course.
///
/// A clone is another handle of the same store. New code wants [`Store`]: it takes bytes and its
/// reads copy nothing.
///
/// ```
/// # fn main() -> kvs::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// use kvs::{KvStore, KvsError};
///
/// let store = KvStore::open(dir.path())?;
/// store.set("key".to_owned(), "value".to_owned())?;
/// assert_eq!(store.get("key".to_owned())?.as_deref(), Some("value"));
///
/// store.remove("key".to_owned())?;
/// assert_eq!(store.get("key".to_owned())?, None);
/// assert!(matches!(store.remove("key".to_owned()), Err(KvsError::KeyNotFound)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KvStore {
    store: Store,
}

impl KvStore {
    /// Opens the store in the directory `path`, creating both if need be, with default options but for
    /// [`Compaction::Foreground`]: who walks the directory between two calls meets no file that is just
    /// being removed.
    ///
    /// # Errors
    /// Those of [`Options::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let options = Options::new().compaction(Compaction::Foreground);
        options.open(path.into()).map(Self::from_store)
    }

    /// The course's face of a store opened with options of one's own, or held in memory.
    #[must_use]
    pub fn from_store(store: Store) -> Self {
        Self { store }
    }

    /// The store of bytes underneath, for what the course does not ask for.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Stores `value` under `key`, replacing an older one.
    ///
    /// How much of it outlives a killed process or a power cut is the durability of the store.
    ///
    /// # Errors
    /// Those of [`Store::set`].
    pub fn set(&self, key: String, value: String) -> Result<()> {
        self.store.set(key, value)
    }

    /// A copy of the newest value under `key`; `None` if it was never set or was removed.
    ///
    /// # Errors
    /// [`Error::NotUtf8`] if the value, written through [`Store`], is no text (the error carries
    /// its bytes); those of [`Store::get`].
    pub fn get(&self, key: String) -> Result<Option<String>> {
        match self.store.get(key)? {
            Some(value) => Ok(Some(String::from_utf8(value.to_vec())?)),
            None => Ok(None),
        }
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`] if there was nothing to remove; those of [`Store::remove`].
    pub fn remove(&self, key: String) -> Result<()> {
        if self.store.remove(key)? {
            Ok(())
        } else {
            Err(Error::KeyNotFound)
        }
    }
}

impl KvsEngine for KvStore {
    fn set(&self, key: String, value: String) -> Result<()> {
        Self::set(self, key, value)
    }

    fn get(&self, key: String) -> Result<Option<String>> {
        Self::get(self, key)
    }

    fn remove(&self, key: String) -> Result<()> {
        Self::remove(self, key)
    }

    fn visit<V: EngineVisitor>(self, visitor: V) -> V::Output {
        visitor.visit(self)
    }
}

/// Microseconds.
fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Longest key of the file format.
const KEY_BYTES_MAX: usize = kvs_format::KEY_BYTES_MAX;

fn expiry(at_ms: Option<u64>) -> Expiry {
    at_ms.map_or(Expiry::Never, Expiry::At)
}

fn ends(expiry: Expiry) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::At(ms) => Some(ms),
    }
}

impl Engine for KvStore {
    type Value = Value;

    fn name(&self) -> &'static str {
        "kvs"
    }

    fn supports(&self, operation: Operation) -> bool {
        use Operation::{
            Append, Batch, Checkpoint, Compact, Cursor, Expiry, Len, Scan, Stats, Verify,
        };
        matches!(
            operation,
            Append | Batch | Checkpoint | Compact | Cursor | Expiry | Len | Scan | Stats | Verify
        )
    }

    fn key_bytes_max(&self) -> usize {
        KEY_BYTES_MAX
    }

    fn get(&self, key: &[u8]) -> EngineResult<Option<Value>> {
        Ok(self.store.get(key)?)
    }

    fn prefetch(&self, keys: &[&[u8]]) {
        self.store.prefetch(keys);
    }

    fn set(&self, key: &[u8], value: &[u8], options: SetOptions) -> EngineResult<()> {
        let expiry = expiry(options.expires_at_ms);
        let options = crate::SetOptions::new().expiry(expiry);
        self.store.set_with(key, value, &options)?;
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.store.now_ms()
    }

    fn default_ttl_ms(&self) -> Option<u64> {
        self.store.default_ttl_ms()
    }

    fn expires_at(&self, key: &[u8]) -> EngineResult<Option<Option<u64>>> {
        Ok(self.store.expires_at(key)?.map(ends))
    }

    fn expire(&self, key: &[u8], at_ms: Option<u64>) -> EngineResult<bool> {
        Ok(match at_ms {
            Some(ms) => self.store.expire_at(key, ms)?,
            None => self.store.persist(key)? || self.store.contains_key(key)?,
        })
    }

    fn remove(&self, key: &[u8]) -> EngineResult<bool> {
        Ok(self.store.remove(key)?)
    }

    fn flush(&self) -> EngineResult<()> {
        Ok(self.store.flush()?)
    }

    fn write(&self, batch: &Batch) -> EngineResult<()> {
        Ok(self.store.write(batch)?)
    }

    fn append(&self, batch: &Batch) -> EngineResult<Option<Ticket>> {
        let ticket = self.store.append(batch)?;
        Ok(ticket.map(|Place(lsn)| Ticket::new(lsn)))
    }

    fn wait(&self, ticket: Ticket) -> EngineResult<()> {
        Ok(self.store.wait(Place(ticket.number()))?)
    }

    fn newest(&self, key: &[u8]) -> EngineResult<Newest<Value>> {
        let newest = self.store.newest(key)?;
        Ok(Newest {
            value: newest.value,
            expires_at_ms: newest.expires_at,
            ticket: newest.ticket.map(|Place(lsn)| Ticket::new(lsn)),
        })
    }

    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> EngineResult<()> {
        for pair in self.store.prefix(prefix)? {
            let (key, value) = pair?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn scan_from(
        &self,
        cursor: u64,
        count: u64,
        visit: &mut dyn FnMut(&[u8]),
    ) -> EngineResult<u64> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let (next, keys) = self.store.scan(Cursor::from(cursor), count)?;
        keys.iter().for_each(|key| visit(key));
        Ok(next.into())
    }

    fn len(&self) -> EngineResult<u64> {
        Ok(self.store.len())
    }

    fn stats(&self) -> EngineResult<Figures> {
        let stats = self.store.stats();
        Ok(vec![
            ("keys", stats.keys),
            ("live_bytes", stats.live_bytes),
            ("dead_bytes", stats.dead_bytes),
            ("expired_bytes", stats.expired_bytes),
            ("pinned_bytes", stats.pinned_bytes),
            ("index_bytes", stats.index_bytes),
            ("disk_bytes", stats.disk_bytes),
            ("segments", stats.segments.len() as u64),
            ("last_lsn", stats.last_lsn),
            ("durable_lsn", stats.durable_lsn),
            ("reserve_bytes", stats.reserve_bytes),
            ("group_commits", stats.groups.count),
            ("group_writers", stats.groups.writers),
            ("group_largest", stats.groups.largest),
            ("syncs", stats.syncs),
            ("sync_us", micros(stats.sync_time)),
            ("written_records", stats.written_records),
            ("written_bytes", stats.written_bytes),
            ("appended_bytes", stats.appended_bytes),
            ("compaction_steps", stats.compaction.steps),
            ("compaction_bytes_read", stats.compaction.bytes_read),
            ("compaction_bytes_written", stats.compaction.bytes_written),
            (
                "compaction_bytes_given_back",
                stats.compaction.bytes_given_back,
            ),
            ("compaction_us", micros(stats.compaction.time)),
            ("brakes", stats.compaction.brakes),
            ("brake_us", micros(stats.compaction.brake_time)),
        ])
    }

    fn compact(&self) -> EngineResult<Figures> {
        let report = self.store.compact()?;
        Ok(vec![
            ("segments_before", report.segments_before),
            ("segments_after", report.segments_after),
            ("bytes_before", report.bytes_before),
            ("bytes_after", report.bytes_after),
            ("records_moved", report.records_moved),
            ("records_expired", report.records_expired),
            ("tombstones_kept", report.tombstones_kept),
        ])
    }

    fn checkpoint(&self, dest: &Path) -> EngineResult<Figures> {
        let report = self.store.checkpoint(dest)?;
        Ok(vec![
            ("segments", report.segments),
            ("bytes", report.bytes),
            ("linked", report.linked),
            ("copied", report.copied),
            ("bytes_copied", report.bytes_copied),
        ])
    }

    fn verify(&self) -> EngineResult<Figures> {
        let report = self.store.verify()?;
        Ok(vec![
            ("segments", report.segments),
            ("records", report.records),
            ("bytes", report.bytes),
            ("damage", report.damage.len() as u64),
        ])
    }
}
