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

/// Enough that two of some dozen concurrent bursts rarely meet by chance.
const STRIPES: usize = 1024;

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

/// Keys of a stripe that are watched, and by whom.
#[derive(Default)]
struct Stripe {
    watched: HashMap<Box<[u8]>, Vec<Weak<Watch>>>,
    /// How many keys may be watched before those that nobody watches any more are looked for.
    tidy_at: usize,
}

impl Stripe {
    fn watch(&mut self, key: &[u8], watch: &Arc<Watch>) {
        if self.watched.len() >= self.tidy_at {
            self.watched.retain(|_, who| {
                who.retain(|watch| watch.strong_count() > 0);
                !who.is_empty()
            });
            self.tidy_at = 8 + 2 * self.watched.len();
        }
        let who = self.watched.entry(key.into()).or_default();
        who.retain(|watch| watch.strong_count() > 0);
        let known = who
            .iter()
            .any(|w| std::ptr::eq(w.as_ptr(), Arc::as_ptr(watch)));
        if !known {
            who.push(Arc::downgrade(watch));
        }
    }

    fn changed(&mut self, key: &[u8]) {
        if self.watched.is_empty() {
            return;
        }
        for watch in self.watched.remove(key).into_iter().flatten() {
            if let Some(watch) = watch.upgrade() {
                watch.changed.store(true, Ordering::Release);
            }
        }
    }
}

/// All stripes.
pub struct Locks {
    stripes: Box<[Mutex<Stripe>]>,
    /// Whether a key was ever watched: set under its stripe, so who takes that later sees it.
    watched: AtomicBool,
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            watched: AtomicBool::new(false),
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
    pub fn lock(&self, stripes: &mut Vec<usize>) -> Held<'_> {
        stripes.sort_unstable();
        stripes.dedup();
        let take = |at: &usize| (*at, self.stripes[*at].lock());
        Held {
            locks: self,
            guards: stripes.iter().map(take).collect(),
        }
    }
}

/// Stripes that are held.
pub struct Held<'a> {
    locks: &'a Locks,
    guards: Vec<(usize, MutexGuard<'a, Stripe>)>,
}

impl Held<'_> {
    fn stripe(&mut self, key: &[u8]) -> &mut Stripe {
        let stripe = self.locks.stripe(key);
        let at = self.guards.binary_search_by_key(&stripe, |(at, _)| *at);
        &mut self.guards[at.expect("the stripes of a burst are taken before it runs")].1
    }

    /// `watch` is told when `key` changes.
    pub fn watch(&mut self, key: &[u8], watch: &Arc<Watch>) {
        self.locks.watched.store(true, Ordering::Relaxed);
        self.stripe(key).watch(key, watch);
    }

    /// `key` has changed.
    pub fn changed(&mut self, key: &[u8]) {
        if self.locks.watched.load(Ordering::Relaxed) {
            self.stripe(key).changed(key);
        }
    }
}
