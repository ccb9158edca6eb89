//! Who may change a key now, and who wants to know that it changed.
//!
//! A stripe is a lock for all keys of one hash. A connection whose burst may write, or must see several
//! keys at one moment, takes the stripes of all keys that the burst names, in order, before it runs it,
//! and lets them go when its changes are appended, before they are durable. So a read-modify-write and
//! a transaction see no other connection's change in between, and writes share a sync of the disk also
//! if they are to the same keys. Bursts of plain reads take none.
//!
//! Who writes to the engine beside the server is not kept out.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

/// A byte each. Two bursts of 64 keys meet by chance once in sixteen times.
const STRIPES: usize = 1 << 16;

/// Parts of what is watched, each with a lock.
const PARTS: usize = 256;

/// Set when a watched key changes.
#[derive(Debug, Default)]
pub struct Watch {
    changed: AtomicBool,
}

impl Watch {
    pub fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }
}

/// Keys that are watched, and by whom.
#[derive(Default)]
struct Watched {
    keys: HashMap<Box<[u8]>, Vec<Weak<Watch>>>,
    /// How many keys may be watched before those that nobody watches any more are looked for.
    tidy_at: usize,
}

impl Watched {
    fn watch(&mut self, key: &[u8], watch: &Arc<Watch>) {
        if self.keys.len() >= self.tidy_at {
            self.keys.retain(|_, who| {
                who.retain(|watch| watch.strong_count() > 0);
                !who.is_empty()
            });
            self.tidy_at = 8 + 2 * self.keys.len();
        }
        let who = self.keys.entry(key.into()).or_default();
        who.retain(|watch| watch.strong_count() > 0);
        let known = who
            .iter()
            .any(|w| std::ptr::eq(w.as_ptr(), Arc::as_ptr(watch)));
        if !known {
            who.push(Arc::downgrade(watch));
        }
    }

    fn changed(&mut self, key: &[u8]) {
        for watch in self.keys.remove(key).into_iter().flatten() {
            if let Some(watch) = watch.upgrade() {
                watch.changed.store(true, Ordering::Release);
            }
        }
    }
}

/// All stripes, and all that is watched.
pub struct Locks {
    stripes: Box<[Mutex<()>]>,
    watched: Box<[Mutex<Watched>]>,
    /// Whether a key was ever watched: set under its stripe, so who takes that later sees it.
    any: AtomicBool,
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            watched: (0..PARTS).map(|_| Mutex::default()).collect(),
            any: AtomicBool::new(false),
            hasher: RandomState::new(),
        }
    }
}

impl Locks {
    /// The stripe of `key`.
    pub fn stripe(&self, key: &[u8]) -> usize {
        self.hasher.hash_one(key) as usize % STRIPES
    }

    /// Takes these stripes, each once; sorts the list.
    pub fn lock<'a>(&'a self, stripes: &'a mut Vec<usize>) -> Held<'a> {
        stripes.sort_unstable();
        stripes.dedup();
        Held {
            locks: self,
            guards: stripes.iter().map(|at| self.stripes[*at].lock()).collect(),
            stripes,
        }
    }
}

/// Stripes that are held.
pub struct Held<'a> {
    locks: &'a Locks,
    #[expect(dead_code, reason = "they let go when they are dropped")]
    guards: Vec<MutexGuard<'a, ()>>,
    stripes: &'a [usize],
}

impl Held<'_> {
    /// What is watched of the part that has `key`, whose stripe is held.
    fn watched(&self, key: &[u8]) -> MutexGuard<'_, Watched> {
        let stripe = self.locks.stripe(key);
        let held = self.stripes.binary_search(&stripe).is_ok();
        assert!(held, "the stripes of a burst are taken before it runs");
        self.locks.watched[stripe % PARTS].lock()
    }

    /// `watch` is told when `key` changes.
    pub fn watch(&mut self, key: &[u8], watch: &Arc<Watch>) {
        self.locks.any.store(true, Ordering::Relaxed);
        self.watched(key).watch(key, watch);
    }

    /// `key` has changed.
    pub fn changed(&mut self, key: &[u8]) {
        if self.locks.any.load(Ordering::Relaxed) {
            self.watched(key).changed(key);
        }
    }
}
