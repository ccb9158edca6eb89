//! Which segments to rewrite, and when: pure functions of what they hold.

/// Garbage below which a store is never compacted by itself, in bytes.
pub const GARBAGE_BYTES_MIN: u64 = 1 << 20;

/// Garbage below which no writer waits for compaction, in bytes: a few of the smallest segments that
/// are being written, sealed and prepared.
const BRAKE_BYTES_MIN: u64 = 32 << 20;

/// What planning needs to know of an ended segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The segment.
    pub id: u64,
    /// Bytes of its data records.
    pub payload: u64,
    /// Bytes of those that are the newest of their key and have not expired, as far as is known.
    pub live: u64,
    /// Some may have expired that are not known to have.
    pub due: bool,
    /// Bytes of tombstones that had to stay when it was written, and still would.
    pub kept: u64,
    /// Lowest LSN of its data records.
    pub min_lsn: u64,
}

impl Load {
    /// Bytes that are not the newest of their key, or have expired.
    fn dead(&self) -> u64 {
        self.payload - self.live.min(self.payload)
    }

    /// Bytes that rewriting it would give back.
    fn garbage(&self) -> u64 {
        self.dead().saturating_sub(self.kept)
    }

    /// True if at least one part in `parts` of it is garbage.
    fn is_worth(&self, parts: u64) -> bool {
        self.payload == 0 || (self.garbage() > 0 && self.garbage() * parts >= self.payload)
    }
}

/// How eager to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything that holds any garbage: a person asked.
    Everything,
    /// What is worth its copying: at least a quarter is garbage.
    Worthwhile,
    /// The i-th segment if bit i is set, whatever it holds: no choice may do harm, and tests try all.
    #[cfg(feature = "testing")]
    Subset(u64),
}

/// Part of a segment that must be garbage to be worth copying the rest: a quarter.
pub const WORTHWHILE_PARTS: u64 = 4;

/// The same for a store that is being closed, and will be no smaller for as long as it stays so.
pub const CLOSING_PARTS: u64 = 32;

/// The segments to rewrite, oldest records first: an old value and its tombstone then go in the same
/// step, or the value before the tombstone.
pub fn plan(loads: &[Load], mode: Mode) -> Vec<Load> {
    let chosen = loads.iter().enumerate().filter(|chosen| {
        let (_i, load) = chosen;
        match mode {
            // A segment without any record (cut at its start) goes too.
            Mode::Everything => load.dead() > 0 || load.due || load.payload == 0,
            Mode::Worthwhile => load.is_worth(WORTHWHILE_PARTS),
            #[cfg(feature = "testing")]
            Mode::Subset(mask) => mask >> (_i % 64) & 1 == 1,
        }
    });
    let mut chosen: Vec<Load> = chosen.map(|(_, load)| *load).collect();
    chosen.sort_by_key(|load| load.min_lsn);
    chosen
}

/// Cuts what was chosen into steps that each write about `bytes_max` or, if a single segment has
/// more, that one.
pub fn steps(chosen: &[Load], bytes_max: u64) -> Vec<Vec<Load>> {
    let mut steps: Vec<Vec<Load>> = Vec::new();
    let mut live = 0;
    for load in chosen {
        match steps.last_mut() {
            Some(step) if load.live == 0 || live + load.live <= bytes_max => step.push(*load),
            _ => {
                steps.push(vec![*load]);
                live = 0;
            }
        }
        live += load.live;
    }
    steps
}

/// The next step of a compaction that goes on for ever: the segments with the largest part of
/// garbage, of those of which at least one part in `parts` is, up to `bytes_max` to be copied.
pub fn best(loads: &[Load], parts: u64, bytes_max: u64) -> Vec<Load> {
    let mut worth: Vec<Load> = loads
        .iter()
        .filter(|load| load.is_worth(parts))
        .copied()
        .collect();
    // a.garbage / a.payload > b.garbage / b.payload, without a division; the empty ones first.
    worth.sort_by(|a, b| {
        let of = |x: &Load, y: &Load| u128::from(x.garbage()) * u128::from(y.payload);
        of(b, a)
            .cmp(&of(a, b))
            .then(a.payload.cmp(&b.payload))
            .then(a.min_lsn.cmp(&b.min_lsn))
    });
    let first = steps(&worth, bytes_max).into_iter().next();
    first.unwrap_or_default()
}

/// Amounts of garbage at which something begins to happen, in bytes.
///
/// Held near 2/3 of the live bytes a store of small pairs, with its hints, its reserve, two segments ahead
/// and one compaction output, stays below three times its keys and values. With garbage of 17/32 the
/// best segments are three fifths garbage if keys are overwritten at random (Rosenblum & Ousterhout,
/// 1992, section 3.5, for cleaning the fullest of evenly used segments): two bytes are copied for three
/// that come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Compaction begins, and yields.
    pub begin: u64,
    /// It yields no more.
    pub hurry: u64,
    /// Writers wait for it.
    pub brake: u64,
}

impl Marks {
    /// Of a store with this much that is alive.
    pub fn of(live: u64) -> Self {
        Self {
            begin: (live / 32 * 17).max(GARBAGE_BYTES_MIN),
            hurry: (live / 32 * 19).max(GARBAGE_BYTES_MIN * 8),
            brake: (live / 32 * 21).max(BRAKE_BYTES_MIN),
        }
    }

    /// How hard writers are braked, in parts of 1000: the more, the further `dead` is beyond the mark;
    /// all of it at an eighth more.
    pub fn pressure(&self, dead: u64) -> u64 {
        let excess = dead.saturating_sub(self.brake);
        (excess * 1000 / (self.brake / 8)).min(1000)
    }
}

/// Whether a store with this much data and garbage compacts in the write that finds it: garbage
/// outweighs what is alive, and there is more of it than the last compaction had to leave.
pub fn wanted(payload: u64, dead: u64, floor: u64) -> bool {
    let live = payload - dead.min(payload);
    dead > live.max(GARBAGE_BYTES_MIN) && dead > floor
}

/// Whether a store is worth compacting before it is closed: a fifth of it is garbage.
///
/// Well before [`Marks::begin`], where a store that was overwritten for long comes to rest: pairs of 16
/// and 100 bytes take 1.52 times their size with records and hints, so that with garbage of 17/32 they would stay
/// at 2.3 times for as long as the store is closed. Such a store is compacted, and takes 1.7 times at most.
/// With garbage of a quarter they take 1.9 times; for less, four bytes and more would be copied for each that
/// comes back, and whoever opens and closes a store for every write would wait for that often.
pub fn wanted_to_close(payload: u64, dead: u64) -> bool {
    let live = payload - dead.min(payload);
    dead > (live / 4).max(GARBAGE_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(id: u64, payload: u64, live: u64) -> Load {
        Load {
            id,
            payload,
            live,
            due: false,
            kept: 0,
            min_lsn: id,
        }
    }

    fn ids(loads: &[Load]) -> Vec<u64> {
        loads.iter().map(|load| load.id).collect()
    }

    #[test]
    fn only_segments_with_enough_garbage_are_worth_copying() {
        let loads = [
            load(1, 1000, 1000),
            load(2, 1000, 751),
            load(3, 1000, 750),
            load(4, 1000, 0),
            load(5, 0, 0),
        ];
        assert_eq!(ids(&plan(&loads, Mode::Worthwhile)), [3, 4, 5]);
        assert_eq!(ids(&plan(&loads, Mode::Everything)), [2, 3, 4, 5]);
    }

    /// C-11: what had to stay is not garbage, or it would be copied for ever.
    #[test]
    fn tombstones_that_had_to_stay_are_not_worth_copying_again() {
        let stays = Load {
            kept: 1000,
            ..load(1, 1000, 0)
        };
        assert_eq!(plan(&[stays], Mode::Worthwhile), []);
        assert_eq!(best(&[stays], CLOSING_PARTS, u64::MAX), []);
        assert_eq!(
            ids(&plan(&[stays], Mode::Everything)),
            [1],
            "a person asked"
        );
        let more = Load {
            kept: 700,
            ..load(1, 1000, 0)
        };
        assert_eq!(ids(&plan(&[more], Mode::Worthwhile)), [1]);
    }

    #[test]
    fn steps_are_bounded_by_what_they_write_and_never_empty() {
        let loads = [
            load(1, 100, 60),
            load(2, 100, 40),
            load(3, 100, 1),
            load(4, 900, 800),
            load(5, 100, 0),
        ];
        let cut: Vec<_> = steps(&loads, 100).iter().map(|step| ids(step)).collect();
        assert_eq!(cut, [vec![1, 2], vec![3], vec![4, 5]]);
        assert_eq!(steps(&loads, u64::MAX).len(), 1);
        assert_eq!(steps(&loads, 0).len(), 4, "what writes nothing goes along");
        assert!(steps(&[], 100).is_empty());
    }

    #[test]
    fn the_fullest_of_garbage_are_rewritten_first() {
        let loads = [
            load(1, 1000, 500),
            load(2, 1000, 200),
            load(3, 4000, 600),
            load(4, 1000, 900),
            load(5, 0, 0),
        ];
        assert_eq!(ids(&best(&loads, 4, u64::MAX)), [5, 3, 2, 1]);
        assert_eq!(ids(&best(&loads, 4, 800)), [5, 3, 2]);
        assert_eq!(ids(&best(&loads, 32, u64::MAX)), [5, 3, 2, 1, 4]);
        assert!(best(&loads[3..4], 4, u64::MAX).is_empty());
    }

    #[test]
    fn a_store_compacts_in_a_write_when_garbage_outweighs_data() {
        let mib = 1 << 20;
        assert!(!wanted(mib, mib, 0), "one MiB is not worth it");
        assert!(wanted(3 * mib, 2 * mib, 0));
        assert!(!wanted(4 * mib, 2 * mib, 0), "half is not more than half");
        assert!(
            !wanted(3 * mib, 2 * mib, 2 * mib),
            "what had to stay does not count again"
        );
    }

    #[test]
    fn compaction_begins_before_it_hurries_and_hurries_before_writers_wait() {
        for live in [0, 1 << 20, 144 << 20, 1 << 40] {
            let marks = Marks::of(live);
            assert!(marks.begin < marks.hurry && marks.hurry < marks.brake);
            assert!(marks.begin >= GARBAGE_BYTES_MIN);
            assert_eq!(marks.pressure(marks.brake), 0);
            assert_eq!(marks.pressure(marks.brake / 16 * 17), 500);
            assert_eq!(marks.pressure(u64::MAX / 1000), 1000);
        }
        // A store that is left alone where compaction begins, or a step of it later.
        let (live, begin) = (144 << 20, Marks::of(144 << 20).begin);
        assert!(wanted_to_close(live + begin, begin));
        assert!(wanted_to_close(live + begin / 4 * 3, begin / 4 * 3));
        assert!(wanted_to_close(130 << 20, 30 << 20));
        assert!(!wanted_to_close(130 << 20, 20 << 20));
        assert!(!wanted_to_close(1 << 20, 1 << 20));
    }
}
