//! Which segments to rewrite: a pure function of what they hold.

/// Garbage below which a store is never compacted by itself, in bytes.
pub const GARBAGE_BYTES_MIN: u64 = 1 << 20;

/// What planning needs to know of an ended segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The segment.
    pub id: u64,
    /// Bytes of its data records.
    pub payload: u64,
    /// Bytes of those that are the newest of their key.
    pub live: u64,
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

/// The segments to rewrite together, by id.
pub fn plan(loads: &[Load], mode: Mode) -> Vec<u64> {
    let chosen = loads.iter().enumerate().filter(|chosen| {
        let (_i, load) = chosen;
        let dead = load.payload - load.live.min(load.payload);
        match mode {
            // A segment without any record (cut at its start) goes too.
            Mode::Everything => dead > 0 || load.payload == 0,
            Mode::Worthwhile => dead > 0 && dead * 4 >= load.payload,
            #[cfg(feature = "testing")]
            Mode::Subset(mask) => mask >> (_i % 64) & 1 == 1,
        }
    });
    chosen.map(|(_, load)| load.id).collect()
}

/// Whether a store with this much data and garbage compacts by itself: garbage outweighs what is
/// alive, and there is more of it than the last compaction had to leave.
pub fn wanted(payload: u64, dead: u64, floor: u64) -> bool {
    let live = payload - dead.min(payload);
    dead > live.max(GARBAGE_BYTES_MIN) && dead > floor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(id: u64, payload: u64, live: u64) -> Load {
        Load { id, payload, live }
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
        assert_eq!(plan(&loads, Mode::Worthwhile), [3, 4]);
        assert_eq!(plan(&loads, Mode::Everything), [2, 3, 4, 5]);
    }

    #[test]
    fn a_store_compacts_by_itself_when_garbage_outweighs_data() {
        let mib = 1 << 20;
        assert!(!wanted(mib, mib, 0), "one MiB is not worth it");
        assert!(wanted(3 * mib, 2 * mib, 0));
        assert!(!wanted(4 * mib, 2 * mib, 0), "half is not more than half");
        assert!(
            !wanted(3 * mib, 2 * mib, 2 * mib),
            "what had to stay does not count again"
        );
    }
}
