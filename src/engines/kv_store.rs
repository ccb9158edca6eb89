//! `KvStore`: the course's store of strings, over [`Store`].

use std::path::PathBuf;

use crate::engines::kvs_engine::KvsEngine;
use crate::{Error, Result, Store};

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
    /// Opens the store in the directory `path`, creating both if need be, with default options.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Store::open(path.into()).map(Self::from_store)
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
}
