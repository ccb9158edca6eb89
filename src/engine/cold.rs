//! Reading what memory cannot hold.
//!
//! Where a page of a map is not in memory, the kernel brings in as many around it as the device's
//! read-ahead says: 128 KiB as a rule, 8 MiB on some. That is how a store that fits in memory is there
//! soon after a start. In one that does not, each get then drives out what others need: 160 gets a second
//! instead of 15,000 where a quarter of the data fits and the read-ahead is 8 MiB. So the maps of a store
//! that is larger than half of the memory get their pages one by one, and whoever goes through the log in
//! its order asks for what comes next himself.
//!
//! The step is taken once, and not back before the store is opened again.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use crate::storage::pin::Stripe;

/// Bytes that are asked for before somebody who reads on and on comes to them.
const AHEAD_BYTES: u64 = 2 << 20;

/// Whether pages come one by one.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    /// What the system said.
    pub(crate) memory: OnceLock<Option<u64>>,
    pub(crate) one_by_one: AtomicBool,
}

/// What somebody who reads a store in the order of its log has asked for.
#[derive(Debug, Default)]
pub(crate) struct ReadOn {
    segment_id: u64,
    asked_to: u64,
}

impl ReadOn {
    /// Comes to `offset` of a segment.
    #[inline]
    pub(crate) fn come_to(&mut self, stripe: &Stripe, offset: u64) {
        if let Some((from, to)) = self.next(stripe.segment_id, offset) {
            stripe.map.read_ahead(from, to);
        }
    }

    /// What to ask for there: twice [`AHEAD_BYTES`] at first, then as much again when that much is left.
    #[inline]
    fn next(&mut self, segment_id: u64, offset: u64) -> Option<(u64, u64)> {
        if self.segment_id == segment_id && offset + AHEAD_BYTES <= self.asked_to {
            return None;
        }
        if self.segment_id != segment_id {
            *self = Self {
                segment_id,
                asked_to: 0,
            };
        }
        let from = self.asked_to.max(offset);
        self.asked_to = offset + 2 * AHEAD_BYTES;
        Some((from, self.asked_to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_on_has_each_byte_asked_for_once_and_before_he_comes_to_it() {
        let mut on = ReadOn::default();
        let (mut to, mut times) = (5000, 0);
        for offset in (5000..(64u64 << 20)).step_by(140) {
            if let Some((from, end)) = on.next(1, offset) {
                assert_eq!(from, to, "at {offset}");
                (to, times) = (end, times + 1);
            }
            assert!(to >= offset + AHEAD_BYTES);
        }
        assert!(times <= 33, "{times}");
        // Another segment, and a leap over what nobody wants.
        assert_eq!(on.next(2, 100), Some((100, 100 + 2 * AHEAD_BYTES)));
        let far = 100 + 9 * AHEAD_BYTES;
        assert_eq!(on.next(2, far), Some((far, far + 2 * AHEAD_BYTES)));
    }
}
