//! How much of the store compaction could drop, counted now and then: what is dead is counted by the
//! writes that make it so, what has expired by looking at every segment's histogram.

use crate::engine::core::{Engine, Section};
use crate::storage::fs::Fs;

/// Milliseconds between two counts of what has expired, at least: and one more for every segment,
/// since writers wait for it.
const COUNT_MS_MIN: u64 = 1_000;

/// At most: the clock may be set.
const COUNT_MS_MAX: u64 = 60_000;

impl<F: Fs> Section<F> {
    /// Bytes that compaction can drop, as far as is known.
    pub(crate) fn garbage(&self) -> u64 {
        (self.dead + self.expired).min(self.payload)
    }
}

impl<F: Fs> Engine<F> {
    /// Counts what has expired, if it is time.
    pub(crate) fn count_expired(&self, section: &mut Section<F>) {
        let now = self.now_ms();
        if now >= section.count_expired_at {
            self.recount_expired(section, now);
        }
    }

    /// Counts what has expired, and says when to do so again. Cost: looks at every segment.
    pub(crate) fn recount_expired(&self, section: &mut Section<F>, now: u64) {
        let (mut slots, mut next) = (0, None);
        section.expired = 0;
        for slot in section.view.slots() {
            slots += 1;
            if slot.expiring.is_any() {
                section.expired += slot.expiring.expired(now);
                let change = slot.expiring.next_change(now).unwrap_or(u64::MAX);
                next = Some(change.min(next.unwrap_or(u64::MAX)));
            }
        }
        // Without anything to look at the thread sleeps until it is asked again.
        section.watched &= next.is_some();
        section.count_expired_at = next.map_or(u64::MAX, |next| {
            let earliest = now.saturating_add(COUNT_MS_MIN + slots);
            next.clamp(earliest, earliest.saturating_add(COUNT_MS_MAX))
        });
    }
}
