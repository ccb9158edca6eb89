//! Finding out that the store has outgrown memory, and telling the kernel: see [`crate::engine::cold`].

use std::sync::atomic::Ordering;

use crate::engine::core::Engine;
use crate::engine::segment::Slot;
use crate::storage::fs::Fs;
use crate::storage::memory;

/// A store below this is not worth the question.
const ASKED_FROM: u64 = 64 << 20;

impl<F: Fs> Engine<F> {
    /// Has pages brought in one by one from now on, if the segments have outgrown memory: those of `ended`,
    /// which will not be written any more, and the first time of all others.
    pub(crate) fn expect_cold_reads<'a>(&self, ended: impl Iterator<Item = &'a Slot>) {
        let cold = &self.cold;
        if cold.one_by_one.load(Ordering::Relaxed) {
            ended.for_each(|slot| slot.map().expect_scattered_reads());
            return;
        }
        let segments = self.segments.read();
        let stored: u64 = segments.values().map(|s| s.slot.map().len()).sum();
        let from = self.config.memory_bytes.map_or(ASKED_FROM, |_| 0);
        if stored < from {
            return;
        }
        let memory = self.config.memory_bytes;
        let memory = memory.or_else(|| *cold.memory.get_or_init(memory::usable));
        if memory.is_some_and(|bytes| stored > bytes / 2) {
            cold.one_by_one.store(true, Ordering::Relaxed);
            for segment in segments.values() {
                segment.slot.map().expect_scattered_reads();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::config::Config;
    use crate::engine::options::{Durability, Options};
    use crate::storage::fs::Access;
    use crate::storage::real::RealFs;

    /// An open store that takes this for its memory.
    fn store(fs: RealFs, memory: u64) -> Arc<Engine<RealFs>> {
        let options = Options::new().segment_bytes(64 << 10);
        let mut config = Config::new(&options);
        config.threads = false;
        config.memory_bytes = Some(memory);
        Engine::open(fs, config).expect("it opens")
    }

    /// Of every segment that ended, whether the kernel takes it to be read at random: "rr" among the
    /// flags of its map (proc(5), "VmFlags").
    fn scattered(engine: &Engine<RealFs>) -> Vec<bool> {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("it can be read");
        let ended: Vec<u64> = engine.section.lock().ends.keys().copied().collect();
        let segments = engine.segments.read();
        let of = |id: &u64| {
            let start = segments[id].slot.map().from(0).as_ptr().addr();
            let from = maps
                .lines()
                .position(|line| line.starts_with(&format!("{start:x}-")))
                .expect("it is mapped");
            let flags = maps
                .lines()
                .skip(from)
                .find_map(|line| line.strip_prefix("VmFlags:"));
            flags
                .expect("a map has flags")
                .split(' ')
                .any(|f| f == "rr")
        };
        ended.iter().map(of).collect()
    }

    fn fill(engine: &Engine<RealFs>, keys: std::ops::Range<u32>) {
        for i in keys {
            let (key, value) = (i.to_le_bytes(), [i as u8; 1000]);
            engine
                .set_at(Durability::Os, &key, &value)
                .expect("it is stored");
        }
    }

    #[test]
    fn a_store_that_memory_holds_is_read_ahead_and_one_that_it_does_not_is_not() {
        let engine = store(RealFs::in_memory(), 1 << 20);
        fill(&engine, 0..200);
        let before = scattered(&engine);
        assert!(before.len() > 2, "{before:?}");
        assert!(!before.contains(&true), "{before:?}");
        fill(&engine, 200..1000);
        let after = scattered(&engine);
        assert!(after.len() > 10, "{after:?}");
        assert!(!after.contains(&false), "{after:?}");
        for i in 0..1000u32 {
            let value = engine.get(&i.to_le_bytes()).expect("it is read");
            assert_eq!(value.as_deref(), Some(&[i as u8; 1000][..]));
        }
    }

    #[test]
    fn what_is_found_at_opening_and_what_compaction_writes_is_known_for_cold_too() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let path = dir.path().join("store");
        let open = |memory| {
            let fs = RealFs::open(&path, Access::ReadWrite).expect("it can be locked");
            store(fs, memory)
        };
        let engine = open(1 << 30);
        fill(&engine, 0..300);
        fill(&engine, 0..150);
        engine.close().expect("it closes");
        drop(engine);
        let engine = open(100 << 10);
        let found = scattered(&engine);
        assert!(found.len() > 3 && !found.contains(&false), "{found:?}");
        engine.compact().expect("it can be compacted");
        let merged = scattered(&engine);
        assert!(!merged.is_empty() && !merged.contains(&false), "{merged:?}");
        assert_eq!(engine.pairs().expect("pairs").count(), 300);
    }
}
