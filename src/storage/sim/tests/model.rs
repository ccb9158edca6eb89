//! Random workloads against a model too simple to be wrong: it keeps every state the files ever had
//! and asks of each sector of an image whether it stood there at a moment when it may have been
//! written back.

use std::collections::BTreeMap;

use super::*;
use crate::storage::sim::rng::Rng;

/// What a file looked like after some operation.
#[derive(Clone)]
struct Moment {
    cut: usize,
    bytes: Vec<u8>,
}

/// A workload of `count` steps on files with one name each; what the live files looked like after
/// each operation, and where the last successful sync of each was.
fn workload(seed: u64, count: usize, faults: bool) -> (SimFs, Vec<Image>) {
    let fs = SimFs::new();
    fs.put("durable", &sectors("xyz"));
    let mut rng = Rng::new(seed, 0);
    let mut history = vec![fs.snapshot()];
    while history.len() <= count {
        let name = ["durable", "a", "b", "c"][rng.below(4) as usize];
        if faults && rng.chance(1) {
            let effect = [Effect::None, Effect::Half, Effect::Whole][rng.below(3) as usize];
            fs.fail_at(1, Fault::once(Errno::IO).after(effect));
        }
        let before = fs.log_len();
        if let Ok(file) = fs.open(name, Access::ReadWrite) {
            let (offset, len) = (rng.below(3000), rng.below(1500));
            let byte = (rng.below(255) + 1) as u8;
            let _ = match rng.below(10) {
                0..4 => file.write_at(offset, &vec![byte; len as usize]),
                4 => file.allocate(offset),
                5 => file.set_len(offset),
                6 => file.sync_data(),
                7 => fs.sync_dir(),
                8 => fs.rename(name, ["a", "b", "d"][rng.below(3) as usize]),
                _ => fs.unlink(name),
            };
        } else {
            let _ = fs.create(name);
        }
        fs.clear_faults();
        if fs.log_len() > before {
            history.push(fs.snapshot());
        }
    }
    (fs, history)
}

#[test]
fn everything_is_what_readers_saw_at_the_cut() {
    for seed in 0..40 {
        let (fs, history) = workload(seed, 120, seed % 2 == 1);
        let mut replay = fs.replay();
        for (cut, live) in history.iter().enumerate() {
            replay.advance_to(cut);
            let everything = replay.image(Survive::Everything);
            assert_eq!(everything, *live, "seed {seed}, cut {cut}");
        }
        assert!(!replay.advance(), "the record ends with the workload");
    }
}

#[test]
fn a_cursor_and_a_replay_from_the_start_make_the_same_images() {
    for seed in 0..6 {
        let (fs, _) = workload(seed, 60, true);
        let mut replay = fs.replay();
        for cut in 0..=fs.log_len() {
            replay.advance_to(cut);
            let mut again = replay.clone();
            for survive in replay.survivals(0..4) {
                let crash = Crash { cut, survive };
                let image = replay.image(survive);
                assert_eq!(image, fs.image(cut, survive), "workload {seed}, {crash}");
                assert_eq!(image, again.image(survive), "workload {seed}, {crash}");
            }
        }
    }
}

#[test]
fn different_seeds_give_different_images() {
    let (fs, _) = workload(1, 40, false);
    let digests: BTreeSet<u64> = images(&fs).iter().map(Image::digest).collect();
    assert!(digests.len() > 300, "{} of 1000 seeds", digests.len());
}

/// One file that keeps its name, so that the model needs no idea of names.
fn one_file(seed: u64) -> (SimFs, Vec<Moment>, BTreeMap<usize, bool>) {
    let (fs, file) = durable("abcd");
    let mut rng = Rng::new(seed, 1);
    let mut moments = vec![Moment {
        cut: 0,
        bytes: fs.read("f"),
    }];
    let mut syncs = BTreeMap::new();
    for _ in 0..40 {
        let (offset, len) = (rng.below(3000), rng.below(1500) + 1);
        match rng.below(8) {
            0..5 => {
                let byte = rng.below(256) as u8;
                file.write_at(offset, &vec![byte; len as usize]).unwrap();
            }
            5 => file.allocate(offset).unwrap(),
            6 => file.set_len(offset).unwrap(),
            _ => {
                file.sync_data().unwrap();
                syncs.insert(fs.log_len(), true);
            }
        }
        moments.push(Moment {
            cut: fs.log_len(),
            bytes: fs.read("f"),
        });
    }
    (fs, moments, syncs)
}

#[test]
fn every_sector_of_every_mix_stood_there_since_the_last_sync() {
    for workload in 0..40 {
        let (fs, moments, syncs) = one_file(workload);
        let mut replay = fs.replay();
        for cut in 0..=fs.log_len() {
            replay.advance_to(cut);
            let synced = syncs.range(..=cut).next_back().map_or(0, |(at, _)| *at);
            let possible = moments.iter().filter(|m| (synced..=cut).contains(&m.cut));
            let possible: Vec<&[u8]> = possible.map(|m| &*m.bytes).collect();
            let lengths = possible.iter().map(|bytes| bytes.len());
            let (low, high) = (lengths.clone().min().unwrap(), lengths.max().unwrap());
            for survive in replay.survivals(0..20) {
                let crash = Crash { cut, survive };
                let bytes = replay.image(survive).read("f").unwrap();
                assert!((low..=high).contains(&bytes.len()), "{workload}: {crash}");
                for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    let start = number * SECTOR_BYTES;
                    let stood = |then: &&[u8]| {
                        let then = then.get(start..).unwrap_or_default();
                        let shared = then.len().min(sector.len());
                        sector[..shared] == then[..shared]
                            && sector[shared..].iter().all(|byte| *byte == 0)
                    };
                    let known = possible.iter().any(stood);
                    assert!(known, "{workload}: {crash}: sector {number}");
                }
            }
            let settled = replay.survivals(0..1).len() == 1;
            assert!(settled || synced < cut, "{workload}: cut {cut} is a sync");
        }
    }
}

#[test]
fn the_synced_image_is_what_readers_saw_at_the_last_sync() {
    for workload in 0..40 {
        let (fs, moments, syncs) = one_file(workload);
        let mut replay = fs.replay();
        for cut in 0..=fs.log_len() {
            replay.advance_to(cut);
            let synced = syncs.range(..=cut).next_back().map_or(0, |(at, _)| *at);
            let moment = moments.iter().rfind(|m| m.cut == synced).unwrap();
            let image = replay.image(Survive::SyncedOnly);
            assert_eq!(image.read("f").unwrap(), moment.bytes, "{workload}: {cut}");
        }
    }
}
