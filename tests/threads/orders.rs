//! Every order in which other threads may see what a thread does with atomics, by `loom` (Norris and
//! Demsky, "CDSChecker", 2013): the cells of the engine that are read without a lock, and how a segment
//! stays mapped while somebody looks at it. All orders are tried, so the models are small.
//!
//! Nothing here is run without `RUSTFLAGS="--cfg kvs_loom" cargo test -p kvs-threads --test orders`;
//! `.ci/run` does that.
//!
//! Of the other atomics of the library none is a way to something: counters and hints are Relaxed and
//! right at any moment; `has_pending`, `poisoned` and `failed` are followed by taking the lock under
//! which they were set; the clock's latest time is one cell with `fetch_max`; pins are `Arc`s.
#![cfg(kvs_loom)]

use kvs::testing::{Published, Version};
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex, RwLock};
use loom::thread;

/// Whoever sees a length sees what was stored below it, and never a smaller one again.
#[test]
fn what_is_published_is_there() {
    loom::model(|| {
        let published = Arc::new(Published::default());
        // Bytes of the map: plain stores there, whose order nobody promises.
        let bytes: Arc<[AtomicU64; 3]> = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let readers = [(); 2].map(|()| {
            let (published, bytes) = (published.clone(), bytes.clone());
            thread::spawn(move || {
                let mut last = 0;
                for _ in 0..2 {
                    let end = published.get();
                    assert!(end >= last, "it shrinks");
                    for byte in &bytes[..end as usize] {
                        assert_eq!(byte.load(Ordering::Relaxed), 1, "published and not there");
                    }
                    last = end;
                }
            })
        });
        bytes[0].store(1, Ordering::Relaxed);
        published.grow(1);
        bytes[1].store(1, Ordering::Relaxed);
        bytes[2].store(1, Ordering::Relaxed);
        published.grow(3);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

/// A writer looks before it enters the section, and again if the version has moved: what it acts on is
/// the newest.
#[test]
fn a_writer_acts_on_the_newest_that_there_is() {
    loom::model(|| {
        let store = Arc::new((Mutex::new(()), Version::default(), RwLock::new(0u64)));
        let writers = [(); 2].map(|()| {
            let store = store.clone();
            thread::spawn(move || {
                let (section, version, index) = &*store;
                let before = version.get();
                let mut known = *index.read().unwrap();
                let section = section.lock().unwrap();
                if version.get() != before {
                    known = *index.read().unwrap();
                }
                let mut newest = index.write().unwrap();
                assert_eq!(*newest, known, "it has changed and nobody said so");
                *newest = known + 1;
                drop(newest);
                version.changed();
                drop(section);
            })
        });
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(*store.2.read().unwrap(), 2);
    });
}

/// What a segment's pins share: the map ends with the last of them.
struct Map {
    bytes: Arc<AtomicU64>,
    unmapped: Arc<AtomicBool>,
}

impl Drop for Map {
    fn drop(&mut self) {
        // Something else may be mapped in its place.
        self.bytes.store(u64::MAX, Ordering::Relaxed);
        let twice = self.unmapped.swap(true, Ordering::Relaxed);
        assert!(!twice, "unmapped twice");
    }
}

/// Pins are taken under the shard's lock, on one of several counters, and may be passed on; the segment
/// is taken out of the view under the same lock. Nobody who has a pin sees the map go.
#[test]
fn what_is_pinned_stays_mapped_until_the_last_pin_goes() {
    loom::model(|| {
        let bytes = Arc::new(AtomicU64::new(7));
        let unmapped = Arc::new(AtomicBool::new(false));
        let map = Arc::new(Map {
            bytes: bytes.clone(),
            unmapped: unmapped.clone(),
        });
        let stripes: [Arc<Arc<Map>>; 2] = std::array::from_fn(|_| Arc::new(map.clone()));
        drop(map);
        let view = Arc::new(RwLock::new(Some(stripes)));
        let readers = [0, 1].map(|stripe| {
            let (view, bytes) = (view.clone(), bytes.clone());
            thread::spawn(move || {
                let found = view.read().unwrap();
                let pin = found.as_ref().map(|stripes| stripes[stripe].clone());
                drop(found);
                if let Some(pin) = pin {
                    assert_eq!(bytes.load(Ordering::Relaxed), 7, "gone under a pin");
                    assert!(!pin.unmapped.load(Ordering::Relaxed));
                }
            })
        });
        let retired = view.write().unwrap().take();
        drop(retired);
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(unmapped.load(Ordering::Relaxed), "kept for nobody");
    });
}
