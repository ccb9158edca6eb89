//! Whether the index has changed since a writer looked.
//!
//! A writer looks its key up before it enters the section, and again inside only if another one has
//! changed the index meanwhile. So the change comes first and is counted afterwards: who has seen the
//! new count finds the new index.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Counts changes of the index by writers.
#[derive(Debug)]
pub struct Version(AtomicU64);

impl Default for Version {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Version {
    /// To be compared with what it is later.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The index has changed. For the holder of the section only, so no read-modify-write is needed.
    #[inline]
    pub fn changed(&self) {
        let version = self.0.load(Ordering::Relaxed);
        self.0.store(version + 1, Ordering::Release);
    }
}
