//! How much of what a segment holds has expired, known without reading it.
//!
//! A histogram counts every record of the segment that expires, dead ones too, as hints do; beside it
//! stands how much of that is the newest of its key. What has expired and is not the newest is
//! garbage anyway, and is counted as dead. So of the histogram's expired bytes at least those are alive
//! that are more than the dead ones: never more than there are, all of them once everything in the
//! segment has expired, and with the dead ones together at least half of all garbage at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use kvs_format::hint::ExpiryHistogram;

use crate::sync::Mutex;

/// A segment's records that expire.
#[derive(Debug, Default)]
pub struct Expiring {
    /// Bytes of those that are the newest of their key.
    live: AtomicU64,
    /// All of them; `None` if there are none.
    all: Mutex<Option<Box<ExpiryHistogram>>>,
}

impl Expiring {
    /// A record was written that expires at this Unix millisecond.
    pub fn add(&self, at: u64, size: u64, now: impl FnOnce() -> u64) {
        let mut all = self.all.lock();
        let histogram = all.get_or_insert_with(|| Box::new(ExpiryHistogram::EMPTY));
        histogram.add(at, size, now);
    }

    /// What all records together say, from a hint or a scan of the whole segment.
    pub fn set(&self, histogram: &ExpiryHistogram) {
        let some = histogram.total() > 0;
        *self.all.lock() = some.then(|| Box::new(*histogram));
    }

    /// One became the newest of its key.
    pub fn gain(&self, bytes: u64) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One is no longer the newest of its key.
    pub fn lose(&self, bytes: u64) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Of all records.
    pub fn histogram(&self) -> ExpiryHistogram {
        self.all
            .lock()
            .as_deref()
            .copied()
            .unwrap_or(ExpiryHistogram::EMPTY)
    }

    /// Bytes of those that are the newest of their key, expired or not.
    #[cfg(feature = "testing")]
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// True if any record expires.
    pub fn is_any(&self) -> bool {
        self.all.lock().is_some()
    }

    /// Bytes of records that are the newest of their key and have expired, as far as is known.
    pub fn expired(&self, now: u64) -> u64 {
        let all = self.all.lock();
        let Some(histogram) = all.as_deref() else {
            return 0;
        };
        let live = self.live.load(Ordering::Relaxed);
        let dead = histogram.total().saturating_sub(live);
        histogram.expired(now).saturating_sub(dead).min(live)
    }

    /// When that may change next.
    pub fn next_change(&self, now: u64) -> Option<u64> {
        self.all.lock().as_deref()?.next_change(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dead_is_not_counted_as_expired_too() {
        let expiring = Expiring::default();
        assert_eq!((expiring.expired(u64::MAX), expiring.is_any()), (0, false));
        for at in [100, 200, 300, 400] {
            expiring.add(at, 10, || 0);
            expiring.gain(10);
        }
        assert_eq!(expiring.expired(99), 0);
        assert_eq!(expiring.expired(1_000), 40);
        // The one of 400 is overwritten.
        expiring.lose(10);
        assert!(expiring.expired(250) <= 20);
        assert_eq!(expiring.expired(1_000), 30);
        assert!(expiring.next_change(150).is_some_and(|at| at > 150));
        assert_eq!(expiring.next_change(1_000), None);
    }
}
