//! What a snapshot holds, and how it is taken away from it. Knows nothing of the engine.
//!
//! Every look goes through a door that is shut when the snapshot is given up: one per stripe, so that
//! threads do not fight over one lock.
//!
//! Lock order: `Engine::snapshots`, then `Engine::retired`, then doors; nothing is locked under a door.

use std::sync::Arc;

use crate::engine::segment::View;
use crate::index::ShardSnapshot;
use crate::storage::pin::{STRIPES, stripe_of_thread};
use crate::sync::RwLock;

/// What a snapshot looks at.
pub(crate) struct Held {
    pub(crate) shards: Vec<ShardSnapshot<View>>,
    /// The one that all shards had.
    pub(crate) view: Arc<View>,
}

/// Shut for good when what it leads to is taken away.
// A cache line pair of its own: neighbours' locks must not fight.
#[repr(align(128))]
struct Door(RwLock<Option<Arc<Held>>>);

/// A snapshot as the engine knows it.
pub(crate) struct Frozen {
    doors: [Door; STRIPES],
    /// Highest LSN given out when it was made.
    pub(crate) lsn: u64,
    /// Keys in it.
    pub(crate) len: u64,
    /// When it was made, in milliseconds since 1970.
    pub(crate) now: u64,
}

impl Frozen {
    /// Of what is looked at through its doors.
    pub(crate) fn new(held: &Arc<Held>, lsn: u64, len: u64, now: u64) -> Self {
        Self {
            doors: std::array::from_fn(|_| Door(RwLock::new(Some(Arc::clone(held))))),
            lsn,
            len,
            now,
        }
    }

    /// Looks at what it holds; `None` if it was given up.
    #[inline]
    pub(crate) fn look<R>(&self, at: impl FnOnce(&Arc<Held>) -> R) -> Option<R> {
        self.doors[stripe_of_thread()].0.read().as_ref().map(at)
    }

    /// Takes away what it holds. Waits for nobody but those who are just looking, which takes a memory access or two.
    pub(crate) fn give_up(&self) {
        let mut held = Vec::with_capacity(STRIPES);
        for door in &self.doors {
            held.extend(door.0.write().take());
        }
        // Unmapping takes its time: behind the doors, not in them.
        drop(held);
    }
}
