//! The wall clock, by which records expire; nothing is ever ordered by it.
//!
//! It never runs backwards: whoever asks gets at least what anybody was told before in this process.
//! So a key that has expired stays expired however the system's clock is set, and what compaction has
//! dropped by one reading no later reading calls alive. Nothing on disk states the time: after a
//! restart the clock is what the system says.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock and the latest time it told.
struct Source {
    now: Box<dyn Fn() -> SystemTime + Send + Sync>,
    latest: AtomicU64,
}

/// A clock that never runs backwards; clones are the same clock.
#[derive(Clone)]
pub(crate) struct WallClock(Arc<Source>);

impl WallClock {
    /// The system's: one for the whole process.
    pub(crate) fn system() -> Self {
        static SYSTEM: OnceLock<WallClock> = OnceLock::new();
        SYSTEM.get_or_init(|| Self::new(SystemTime::now)).clone()
    }

    pub(crate) fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(Source {
            now: Box::new(now),
            latest: AtomicU64::new(0),
        }))
    }

    /// Milliseconds since 1970; 0 before.
    pub(crate) fn now_ms(&self) -> u64 {
        let since = (self.0.now)().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, millis);
        let latest = self.0.latest.load(Ordering::Acquire);
        match now > latest {
            true => now.max(self.0.latest.fetch_max(now, Ordering::AcqRel)),
            false => latest,
        }
    }
}

/// Milliseconds of `time`, as many as can be told.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl PartialEq for WallClock {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for WallClock {}

impl Hash for WallClock {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self == Self::system() {
            true => f.write_str("System"),
            false => f.write_str("Injected"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: Arc<AtomicU64>) -> WallClock {
        WallClock::new(move || UNIX_EPOCH + Duration::from_millis(ms.load(Ordering::Relaxed)))
    }

    /// L-1.
    #[test]
    fn the_clock_never_runs_backwards_whoever_asks() {
        let ms = Arc::new(AtomicU64::new(1_000));
        let clock = at(Arc::clone(&ms));
        let other = clock.clone();
        assert_eq!(clock.now_ms(), 1_000);
        ms.store(5_000, Ordering::Relaxed);
        assert_eq!(other.now_ms(), 5_000);
        ms.store(2_000, Ordering::Relaxed);
        assert_eq!(clock.now_ms(), 5_000);
        ms.store(5_001, Ordering::Relaxed);
        assert_eq!(clock.now_ms(), 5_001);
    }

    #[test]
    fn a_time_before_1970_is_0_and_one_beyond_counting_is_the_last() {
        let clock = WallClock::new(|| UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(clock.now_ms(), 0);
        assert_eq!(millis(Duration::MAX), u64::MAX);
    }

    #[test]
    fn clocks_are_equal_only_to_themselves() {
        let clock = at(Arc::default());
        assert_eq!(clock, clock.clone());
        assert_ne!(clock, at(Arc::default()));
        assert_eq!(WallClock::system(), WallClock::system());
        assert_ne!(WallClock::system(), clock);
    }
}
