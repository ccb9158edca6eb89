//! How long calls take, in histograms, with the feature `latency`; without it nothing is measured and
//! nothing costs anything.
//!
//! One call in 16 is measured, chosen by a counter of its thread, so that what the other calls
//! pay is an addition; syncs and steps of compaction are all measured. Threads are spread over
//! histograms of their own.

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timed {
    Get,
    Put,
    Remove,
    Sync,
    CompactionStep,
}

#[cfg(not(feature = "latency"))]
#[derive(Debug, Default)]
pub(crate) struct Timers(());

/// A call that has begun.
#[cfg(not(feature = "latency"))]
pub(crate) struct Begun(());

#[cfg(not(feature = "latency"))]
impl Timers {
    #[inline(always)]
    pub(crate) fn time<T>(&self, _what: Timed, act: impl FnOnce() -> T) -> T {
        act()
    }

    #[inline(always)]
    pub(crate) fn begin(&self, _what: Timed) -> Begun {
        Begun(())
    }

    #[inline(always)]
    pub(crate) fn end(&self, _what: Timed, _begun: Begun) {}
}

#[cfg(feature = "latency")]
pub(crate) use on::Timers;
#[cfg(feature = "latency")]
pub use on::{Latency, LatencyReport};

#[cfg(feature = "latency")]
mod on {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use hdrhistogram::Histogram;

    use super::Timed;
    use crate::sync::Mutex;

    /// One call in so many is measured: at 25 ns for two looks at the clock, 2 ns a call.
    pub(super) const SAMPLE: u32 = 16;

    /// Longest time that is told apart, in nanoseconds: a minute.
    const LONGEST_NS: u64 = 60_000_000_000;

    /// Threads that do not share histograms.
    const STRIPES: usize = 8;

    const KINDS: usize = 5;

    /// Histograms of one stripe, made when they are first needed: about 60 KiB each.
    type Stripe = [Option<Histogram<u64>>; KINDS];

    /// All histograms of a store.
    #[derive(Debug, Default)]
    pub(crate) struct Timers([Mutex<Stripe>; STRIPES]);

    thread_local! {
        static CALLS: Cell<u32> = const { Cell::new(0) };
        static MINE: usize = {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES
        };
    }

    /// Two significant digits.
    fn histogram() -> Option<Histogram<u64>> {
        Histogram::new_with_bounds(1, LONGEST_NS, 2).ok()
    }

    /// A call that has begun, and when, if it is measured.
    pub(crate) struct Begun(Option<Instant>);

    impl Timers {
        #[inline]
        pub(crate) fn time<T>(&self, what: Timed, act: impl FnOnce() -> T) -> T {
            let begun = self.begin(what);
            let done = act();
            self.end(what, begun);
            done
        }

        #[inline]
        pub(crate) fn begin(&self, what: Timed) -> Begun {
            let rare = matches!(what, Timed::Sync | Timed::CompactionStep);
            let call = CALLS.with(|calls| calls.replace(calls.get().wrapping_add(1)));
            Begun((rare || call.is_multiple_of(SAMPLE)).then(Instant::now))
        }

        #[inline]
        pub(crate) fn end(&self, what: Timed, begun: Begun) {
            if let Begun(Some(begun)) = begun {
                self.record(what, begun.elapsed());
            }
        }

        #[cold]
        pub(super) fn record(&self, what: Timed, took: Duration) {
            let mut stripe = self.0[MINE.with(|mine| *mine)].lock();
            let place = &mut stripe[what as usize];
            if place.is_none() {
                *place = histogram();
            }
            if let Some(histogram) = place {
                let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                histogram.saturating_record(ns.max(1));
            }
        }

        fn latency(&self, what: Timed) -> Latency {
            let mut all = histogram();
            for stripe in &self.0 {
                if let (Some(all), Some(part)) = (&mut all, &stripe.lock()[what as usize]) {
                    // Of the same bounds: it always fits.
                    let _ = all.add(part);
                }
            }
            let Some(all) = all.filter(|all| !all.is_empty()) else {
                return Latency::default();
            };
            let ns = Duration::from_nanos;
            let quantile = |q| ns(all.value_at_quantile(q));
            Latency {
                samples: all.len(),
                min: ns(all.min()),
                mean: ns(all.mean() as u64),
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: ns(all.max()),
            }
        }

        pub(crate) fn report(&self) -> LatencyReport {
            LatencyReport {
                get: self.latency(Timed::Get),
                put: self.latency(Timed::Put),
                remove: self.latency(Timed::Remove),
                sync: self.latency(Timed::Sync),
                compaction_step: self.latency(Timed::CompactionStep),
            }
        }
    }

    /// How long one kind of call took. All zero if there was none.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Latency {
        /// Calls that were measured.
        pub samples: u64,
        /// The shortest.
        pub min: Duration,
        /// Their mean.
        pub mean: Duration,
        /// Half of them took no longer.
        pub p50: Duration,
        /// Nine of ten took no longer.
        pub p90: Duration,
        /// 99 of 100 took no longer.
        pub p99: Duration,
        /// 999 of 1000 took no longer.
        pub p999: Duration,
        /// The longest.
        pub max: Duration,
    }

    /// How long calls took since the store was opened, to two significant digits: see
    /// [`crate::Store::latency`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct LatencyReport {
        /// [`crate::Store::get`]; one call in 16 is measured.
        pub get: Latency,
        /// [`crate::Store::set`] and [`crate::Store::write`]; one call in 16 is measured.
        pub put: Latency,
        /// [`crate::Store::remove`]; one call in 16 is measured.
        pub remove: Latency,
        /// Syncs of segments, all of them.
        pub sync: Latency,
        /// Steps of compaction, all of them, rests included.
        pub compaction_step: Latency,
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_threads_recorded_is_told_together() {
            let timers = Timers::default();
            assert_eq!(timers.report(), LatencyReport::default());
            std::thread::scope(|scope| {
                for thread in 0..10u64 {
                    let timers = &timers;
                    scope.spawn(move || {
                        for i in 1..=100 {
                            let ns = (thread * 100 + i) * 1000;
                            timers.record(Timed::Put, Duration::from_nanos(ns));
                        }
                    });
                }
            });
            timers.record(Timed::Sync, Duration::from_secs(3600));
            timers.record(Timed::Get, Duration::ZERO);
            let report = timers.report();
            assert_eq!(report.put.samples, 1000);
            let near = |time: Duration, us: u64| {
                let off = time.as_nanos() as f64 / (us as f64 * 1000.0);
                assert!((0.99..1.01).contains(&off), "{time:?} for {us} us");
            };
            near(report.put.min, 1);
            near(report.put.p50, 500);
            near(report.put.p90, 900);
            near(report.put.p99, 990);
            near(report.put.p999, 999);
            near(report.put.max, 1000);
            near(report.put.mean, 500);
            assert_eq!((report.get.samples, report.get.min.as_nanos()), (1, 1));
            near(report.sync.max, 60_000_000);
            assert_eq!(report.remove, Latency::default());
        }
    }
}
