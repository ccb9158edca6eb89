//! Power cuts, everywhere. Goal: whatever survives of what was not yet synced, the store that is
//! opened afterwards shows a prefix of the commits that holds everything it promised (O1 to O5), goes
//! on from there (O6, O7), by hints as by a scan (O8), changes nothing when it only reads (O9), neither
//! panics nor refuses (O10), and leaves no file behind (O11).
//!
//! Method, with the strength called S2 in the guarantees: small workloads on the simulated disk; a cut
//! behind every operation the disk recorded. For each cut, if few images are possible all of them; else
//! what was synced only, everything, every subset of up to six pending names, and seeded mixes of
//! sectors, lengths and names. Then harsher disks: bytes or pages instead of sectors, stale bytes of other
//! files or garbage where something was lost. The real engine opens every image that was not seen
//! before. For a sample of them the recovery itself is cut everywhere in the same way, for a sample of
//! these once more; and a second life is lived, with compaction, closing and opening, and cut everywhere.
//! What a first life had on the disk, the second may find there.
//!
//! A failure tells the story of its cuts. One command goes through it again, and prints what the disk
//! had recorded at each cut, which files were left, and the verdict:
//!
//! ```text
//! KVS_CRASH_REPLAY='sync@23/byte:garbage:77,recovery@4/mix:5' \
//!   cargo test --no-default-features --test crash replay -- --nocapture
//! ```
//!
//! `KVS_CRASH_IMAGES=n` opens n images in the test of all workloads in turn, random ones among them,
//! instead of 5,000, with seeds from `KVS_CRASH_SEED` on. `KVS_CRASH_MIXES=n` tries n mixes per cut
//! of the others instead of 6. `KVS_RESURRECTION=1` tries all 1920 cases of the bounded suite of
//! removals and compactions instead of every eighth.

#[path = "crash/trial.rs"]
mod trial;
#[path = "crash/workloads.rs"]
mod workloads;

use std::cell::Cell;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kvs::testing::sim::{SimFs, Survive};
use kvs::testing::{open, open_with_threads};
use kvs::{Durability, Error, Options};
use kvs_model::{Op, Setup, pairs, run};
use trial::{Counts, Effort, Story, Trial, retell};
use workloads::{remove, set, stage};

fn number(name: &str, default: u64) -> u64 {
    let wanted = std::env::var(name).ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Runs the workload and cuts it everywhere.
#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
fn survives_every_cut(name: &str) {
    let effort = Effort {
        mixes: number("KVS_CRASH_MIXES", 6),
        seed: 0,
        choices: 32,
        nested: 700,
        compared: 29,
    };
    let started = Instant::now();
    let stage = stage(name).unwrap_or_else(|what| panic!("{name}: {what}"));
    let left = Cell::new(u64::MAX);
    let mut trial = Trial::new(stage, effort, &left);
    if let Err(what) = trial.run() {
        panic!("{name}: {what}");
    }
    let Counts { cuts, opened, .. } = trial.counts;
    assert!(cuts > 20 && opened > 40, "{name}: {:?}", trial.counts);
    println!("{name}: {:?} in {:.1?}", trial.counts, started.elapsed());
}

#[test]
fn a_store_is_created_and_written_to() {
    survives_every_cut("create");
}

#[test]
fn every_sync_write_survives() {
    survives_every_cut("sync");
}

#[test]
fn segments_are_rotated_while_nothing_is_synced() {
    survives_every_cut("rotate");
}

#[test]
fn batches_are_whole() {
    survives_every_cut("batches");
}

/// All of a load or nothing, and every promise made before it and behind it.
#[test]
fn loads_are_whole() {
    survives_every_cut("loads");
}

/// C-6, C-7, with what came of one compaction in the next.
#[test]
fn what_was_removed_stays_removed_through_compaction() {
    survives_every_cut("compact");
}

#[test]
fn what_was_removed_stays_removed_through_compaction_of_some_segments() {
    survives_every_cut("compact-some");
}

#[test]
fn a_closed_store_is_opened_again_in_place() {
    survives_every_cut("reopen");
}

#[test]
fn the_log_goes_on_in_a_segment_of_an_earlier_life() {
    survives_every_cut("resume");
}

#[test]
fn of_an_interval_only_what_is_younger_is_lost() {
    survives_every_cut("interval");
}

#[test]
fn levels_mix_and_what_survives_is_a_prefix_of_all() {
    survives_every_cut("levels");
}

#[test]
fn what_has_expired_is_removed() {
    survives_every_cut("expire");
}

#[test]
fn hints_come_and_go() {
    survives_every_cut("hints");
}

/// B-1, B-2: what lands while a sync is under way is no part of it.
#[test]
fn a_group_is_durable_when_it_is_told_and_what_comes_late_is_not_in_it() {
    survives_every_cut("group");
}

/// C-4, C-14: what is written during a compaction makes records dead that it has copied or given up.
#[test]
fn what_is_written_during_a_compaction_survives_it() {
    survives_every_cut("meanwhile");
}

#[test]
fn a_copy_made_meanwhile_does_the_store_no_harm() {
    survives_every_cut("checkpoint");
}

/// All workloads in turn and a new random one in each round, with other seeds in each, until so many
/// images were opened.
#[test]
#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
fn as_many_images_as_are_asked_for() {
    let (images, seed) = (
        number("KVS_CRASH_IMAGES", 5_000),
        number("KVS_CRASH_SEED", 1),
    );
    let left = Cell::new(images);
    let (mut counts, mut rounds) = (Counts::default(), 0);
    let (started, mut told) = (Instant::now(), Instant::now());
    while left.get() > 0 {
        let round = seed + rounds;
        let random = |n: u64| format!("random:{}", round * 4 + n);
        let mut names: Vec<String> = (0..4).map(random).collect();
        if rounds % 4 == 3 {
            names.extend(workloads::NAMES.map(str::to_owned));
        }
        for name in names {
            let effort = Effort {
                mixes: 4,
                seed: round,
                choices: 16,
                nested: 300,
                compared: 61,
            };
            let stage = stage(&name).unwrap_or_else(|what| panic!("{name}: {what}"));
            let mut trial = Trial::new(stage, effort, &left);
            if let Err(what) = trial.run() {
                panic!("seed {seed}, {name}: {what}");
            }
            counts += trial.counts;
        }
        rounds += 1;
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            println!("  round {rounds}: {counts:?} in {:.0?}", started.elapsed());
        }
    }
    println!(
        "seed {seed}, {rounds} rounds: {counts:?} in {:.1?}",
        started.elapsed()
    );
    assert!(counts.opened >= images, "{counts:?}");
}

/// Without a story of its own it goes through one whose end is known.
#[test]
#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn replay_of_one_image() {
    let asked = std::env::var("KVS_CRASH_REPLAY").ok();
    let text = asked.as_deref();
    let text = text.unwrap_or("sync@40/byte:garbage:77,life@30/page:stale:3,recovery@1/mix:5");
    let story = Story::parse(text).unwrap();
    assert_eq!(story.to_string(), text, "what is written is what was read");
    let (told, verdict) = retell(&story, stage).unwrap();
    if asked.is_some() {
        println!("{told}");
    }
    match verdict {
        Ok(n) => println!("the store shows the state after {n} commits"),
        Err(what) => panic!("{what}"),
    }
    for line in [
        "sync: the disk records",
        "life: ",
        "recovery: ",
        "MANIFEST: ",
    ] {
        assert!(
            asked.is_some() || told.contains(line),
            "{line:?} in\n{told}"
        );
    }
}

/// Found by disks that show old bytes of other files: a segment that was being created looked like another
/// one, which had been written to, and the store refused to open for an edit that the manifest had lost.
#[test]
fn a_new_segment_that_shows_the_bytes_of_another_is_a_leftover() {
    let fs = SimFs::new();
    let options = Options::new().segment_bytes(64 << 10).shard_bits(2);
    let engine = open(fs.clone(), &options, 1).unwrap();
    engine.set(b"key", b"value").unwrap();
    engine.flush().unwrap();
    drop(engine);
    let name = |id: u64| format!("{id:016x}.seg");
    fs.copy(&name(1), &name(2));
    let engine = open(fs.clone(), &options, 2).unwrap();
    assert_eq!(engine.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
    assert!(!fs.names().contains(&name(2)), "{:?}", fs.names());

    // One of its own id was written to: then the manifest has lost an edit.
    drop(engine);
    let other = SimFs::new();
    let engine = open(other.clone(), &options, 3).unwrap();
    for _ in 0..3 {
        engine.set(b"key", b"other").unwrap();
        engine.rotate_now().unwrap();
    }
    drop(engine);
    fs.put(&name(3), &other.read(&name(3)));
    let refused = open(fs.clone(), &options, 4).map(|_| ());
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
}

/// T-12: the sync of a full segment takes long, and a write to the next one is acknowledged meanwhile.
/// It must not be, or both are lost.
#[test]
fn a_group_waits_for_the_segment_before_its_own() {
    let fs = SimFs::new();
    let options = Options::new().segment_bytes(64 << 10).shard_bits(2);
    let engine = open_with_threads(fs.clone(), &options, 1, || Duration::ZERO).unwrap();
    engine.set_at(Durability::Os, b"first", b"1").unwrap();
    let (entered, sealing) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    // The next segment is made first: its header is synced.
    fs.before_sync(2, move || {
        entered.send(()).unwrap();
        let _ = released.recv_timeout(Duration::from_secs(20));
    });
    engine.rotate_now().unwrap();
    sealing.recv_timeout(Duration::from_secs(20)).unwrap();
    let writer = {
        let engine = std::sync::Arc::clone(&engine);
        std::thread::spawn(move || engine.set_at(Durability::Sync, b"second", b"2"))
    };
    // Time enough to do it wrong.
    let until = Instant::now() + Duration::from_millis(300);
    while !writer.is_finished() && Instant::now() < until {
        std::thread::yield_now();
    }
    let early = writer.is_finished();
    let cut = fs.log_len();
    let image = fs.image(cut, Survive::SyncedOnly);
    drop(release);
    writer.join().unwrap().unwrap();
    let later = fs.image(fs.log_len(), Survive::SyncedOnly);
    let has = |image, key: &[u8]| {
        let engine = open(SimFs::from_image(image), &options, 2).unwrap();
        engine.get(key).unwrap().is_some()
    };
    assert!(has(&later, b"first") && has(&later, b"second"));
    assert!(!early || has(&image, b"second"), "told, and lost");
}

/// Every history of four writes to two keys, each in a segment of its own, and every choice of which
/// of them to compact, twice; with the power cut, and with all hints gone.
#[test]
#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
fn no_choice_of_segments_to_compact_brings_a_key_back() {
    let writes = [set(1, 10), remove(1), set(2, 10), remove(2)];
    let mut cases = 0;
    for history in 0..256usize {
        for mask in 1u8..16 {
            let mut ops = Vec::new();
            for step in 0..4 {
                ops.extend([writes[history >> (2 * step) & 3].clone(), Op::Rotate]);
            }
            let cut = Op::Crash {
                back: 0,
                survive: Survive::SyncedOnly,
            };
            ops.extend([
                Op::CompactSome { mask },
                cut.clone(),
                Op::CompactSome { mask: !mask },
                cut,
                Op::Compact,
            ]);
            let setup = Setup {
                durability: Durability::Os,
                write_path: false,
                seed: 1,
            };
            cases += 1;
            if let Err(failure) = run(&ops, &setup) {
                panic!("{failure}\n{ops:?}");
            }
        }
    }
    println!("all {cases} cases of four writes to two keys");
}

/// Closing writes a hint of a log that is longer than a mebibyte, and the next life goes on behind it: what
/// it covers comes from the hint and the rest from the log, after a close as after a kill, and the same without
/// the hint. The other workloads are too small to have one.
#[test]
fn a_hint_of_the_first_part_of_a_log_serves_whatever_came_behind_it() {
    let options = Options::new()
        .segment_bytes(4 << 20)
        .compaction(kvs::Compaction::Manual)
        .shard_bits(2);
    let name = |n: u32| format!("key-{n}").into_bytes();
    for closed in [true, false] {
        let fs = SimFs::new();
        let engine = open(fs.clone(), &options, 3).unwrap();
        for n in 0..1200u32 {
            engine.set(&name(n), &[n as u8; 1000]).unwrap();
        }
        engine.close().unwrap();
        drop(engine);
        let engine = open(fs.clone(), &options, 4).unwrap();
        for n in 0..40u32 {
            engine.set(&name(2 * n), &[7; 30]).unwrap();
            assert!(engine.remove(&name(2 * n + 1)).unwrap());
            engine.set_expiring(&name(1190 + n), &[8; 30], 1).unwrap();
            engine
                .set_expiring(&name(5000 + n), &[9; 30], u64::MAX)
                .unwrap();
        }
        let expected = pairs(&engine).unwrap();
        assert_eq!(expected.len(), 1190 - 40 + 40);
        if closed {
            engine.close().unwrap();
        }
        drop(engine);
        let mut image = fs.snapshot();
        let hints: Vec<String> = image.names();
        let hint = hints.iter().find(|name| name.ends_with(".hint")).unwrap();
        for with_hint in [true, false] {
            let engine = open(SimFs::from_image(&image), &options, 5).unwrap();
            assert_eq!(pairs(&engine).unwrap(), expected, "hint {with_hint}");
            let told = engine.recovery();
            assert_eq!(told.hints_used, u64::from(with_hint), "closed {closed}");
            match with_hint {
                true => assert!((160..400).contains(&told.records_scanned)),
                false => assert!(told.records_scanned >= 1360),
            }
            assert!(engine.verify().unwrap().damage.is_empty());
            image.remove(hint);
        }
    }
}

/// C-2, C-3, C-7: the same histories, all of them durable, and every choice of segments to compact,
/// then all the others with what came of it: two keys, up to four segments, six operations. The power is
/// cut behind every call of both compactions, with every subset of the unlinks and other names that may
/// survive it: whatever is found must be what was there.
///
/// Which of the two keys is written first makes no difference, so only one is tried.
#[test]
#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
fn no_cut_of_a_compaction_brings_a_key_back() {
    let every = number("KVS_RESURRECTION", 8).max(1);
    let (mut all, mut cases, mut images, mut distinct) = (0u64, 0u64, 0u64, 0u64);
    let options = Setup {
        durability: Durability::Os,
        write_path: false,
        seed: 1,
    }
    .options();
    for history in (0..256usize).filter(|history| history & 2 == 0) {
        for mask in 1..16u64 {
            all += 1;
            if !all.is_multiple_of(every) {
                continue;
            }
            cases += 1;
            let fs = SimFs::new();
            let engine = open(fs.clone(), &options, 1).unwrap();
            for step in 0..4u8 {
                let write = history >> (2 * step) & 3;
                let key = [b'k', (write >> 1) as u8];
                match write & 1 {
                    0 => engine.set(&key, &[step; 10]).unwrap(),
                    _ => drop(engine.remove(&key).unwrap()),
                }
                engine.rotate_now().unwrap();
            }
            engine.flush().unwrap();
            let expected = pairs(&engine).unwrap();
            let start = fs.log_len();
            engine.compact_subset(mask).unwrap();
            engine.compact_subset(!mask).unwrap();
            drop(engine);
            let mut replay = fs.replay();
            replay.advance_to(start);
            let mut seen = std::collections::HashSet::new();
            loop {
                for survive in replay.survivals(0..0) {
                    let image = replay.image(survive);
                    images += 1;
                    if !seen.insert(image.digest()) {
                        continue;
                    }
                    distinct += 1;
                    let found = open(SimFs::from_image(&image), &options, 2)
                        .map_err(|error| error.to_string())
                        .and_then(|engine| pairs(&engine));
                    if found.as_ref() != Ok(&expected) {
                        panic!(
                            "history {history:08b}, mask {mask:04b}, cut {}, {survive:?}: \
                             {found:?} instead of {expected:?}\n{}",
                            replay.cut(),
                            fs.log_lines()[..replay.cut()].join("\n")
                        );
                    }
                }
                if !replay.advance() {
                    break;
                }
            }
        }
    }
    println!("{cases} of {all} cases, {images} images, {distinct} of them distinct");
}
