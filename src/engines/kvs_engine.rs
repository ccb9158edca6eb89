//! The course's engine trait: strings in, strings out, shared by threads.

use crate::Result;

/// A store of strings that a server can be generic over.
///
/// A clone is another handle of the same store: writes through one are seen through all others.
/// Methods take `&self`; implementations do their own locking.
pub trait KvsEngine: Clone + Send + 'static {
    /// Stores `value` under `key`, replacing an older one.
    ///
    /// # Errors
    /// Whatever keeps the engine from storing it.
    fn set(&self, key: String, value: String) -> Result<()>;

    /// The newest value under `key`; `None` if it was never set or was removed.
    ///
    /// # Errors
    /// Whatever keeps the engine from reading it; [`crate::Error::NotUtf8`] if it is no text.
    fn get(&self, key: String) -> Result<Option<String>>;

    /// Removes `key`.
    ///
    /// # Errors
    /// [`crate::Error::KeyNotFound`] if there was nothing to remove; whatever keeps the engine from
    /// removing it.
    fn remove(&self, key: String) -> Result<()>;
}
