//! How far a segment may be read.
//!
//! Its only writer stores records and then lets readers see them. A reader that sees the new length
//! sees what was stored below it, although it takes no lock: the length is stored with Release and
//! loaded with Acquire. `tests/threads/orders.rs` tries every order.

use crate::sync::atomic::{AtomicU64, Ordering};

/// A length that only grows.
#[derive(Debug)]
pub struct Published(AtomicU64);

impl Default for Published {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Published {
    /// Bytes that may be read: everything below.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Lets readers see everything below `end`; called by the one writer.
    #[inline]
    pub fn grow(&self, end: u64) {
        self.0.store(end, Ordering::Release);
    }
}
