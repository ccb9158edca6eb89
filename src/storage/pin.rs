//! What keeps a segment mapped while somebody looks at it.
//!
//! A pin is one counted reference. To keep threads from fighting over one counter, every segment
//! has [`STRIPES`] of them, each in a cache line of its own; a thread always takes the same stripe,
//! and a clone stays on its original's. The map goes when the last pin of the last stripe goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvs_format::crc::PlaceKey;

use crate::storage::location::Word;
use crate::storage::raw::mmap::Map;

/// Counters per segment.
pub const STRIPES: usize = 16;

/// One counter's worth of a mapped segment, and what a reader needs to know of it.
#[derive(Debug)]
#[repr(align(128))]
pub struct Stripe {
    /// The bytes.
    pub map: Arc<Map>,
    /// Start state of the segment's `place` checks.
    pub place_key: PlaceKey,
    /// Number of the segment.
    pub segment_id: u64,
    /// First of its windows.
    pub base: u16,
}

/// Keeps a segment mapped. Costs one atomic increment to take, one decrement to drop.
pub type Pin = Arc<Stripe>;

/// The stripes of one segment.
#[derive(Clone, Debug)]
pub struct Stripes([Pin; STRIPES]);

impl Stripes {
    /// The stripes of a freshly mapped segment.
    pub fn new(map: &Arc<Map>, place_key: &PlaceKey, segment_id: u64, base: u16) -> Self {
        Self(std::array::from_fn(|_| {
            Arc::new(Stripe {
                map: Arc::clone(map),
                place_key: place_key.clone(),
                segment_id,
                base,
            })
        }))
    }

    /// Any stripe, to look without pinning.
    #[inline]
    pub fn any(&self) -> &Pin {
        &self.0[0]
    }

    /// How many pins there are.
    pub fn count(&self) -> u64 {
        // One of each stripe's is ours.
        let others = |stripe: &Pin| Arc::strong_count(stripe) as u64 - 1;
        self.0.iter().map(others).sum()
    }

    /// Pins the segment on this thread's stripe.
    #[inline]
    pub fn pin(&self) -> Pin {
        Arc::clone(&self.0[stripe_of_thread()])
    }
}

impl Stripe {
    /// Offset of the record that `word` names.
    #[inline]
    pub fn offset_of(&self, word: Word) -> u64 {
        word.offset(self.base)
    }

    /// Brings the record that `word` names into the processor's caches, without waiting for it.
    #[inline]
    pub fn prefetch(&self, word: Word) {
        self.map.prefetch(self.offset_of(word));
    }
}

/// The number, below [`STRIPES`], of the counters that the calling thread takes.
#[inline]
pub fn stripe_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
    }
    MINE.with(|stripe| *stripe)
}
