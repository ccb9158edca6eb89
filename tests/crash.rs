//! Power cuts, everywhere. Goal: whatever survives of what was not yet synced, the store that is
//! opened afterwards shows a prefix of the commits that holds everything it promised (O1 to O5), goes
//! on from there (O6, O7) and leaves no file behind (O11).
//!
//! Method, with the strength called S2 in the guarantees: small workloads on the simulated disk; a cut
//! behind every operation the disk recorded; for each cut what was synced only, everything, every
//! subset of up to six pending names, and seeded mixes of 512-byte sectors, lengths and names. The
//! real engine opens every image that was not seen before. For a sample of them the recovery itself is
//! cut everywhere in the same way, and a second life is lived and cut again.
//!
//! `KVS_CRASH_MIXES=n` tries n mixes per cut instead of 64. `KVS_CRASH_NESTED=n` cuts the recovery and
//! a second life of every n-th image instead of every 64th. `KVS_RESURRECTION=1` tries all 1920 cases of
//! the bounded suite of removals and compactions instead of every eighth.

use std::collections::HashMap;
use std::time::Duration;

use kvs::testing::open;
use kvs::testing::sim::{Crash, Image, Replay, SimFs, Survive};
use kvs::{Durability, Options};
use kvs_model::{
    Fill, How, Level, Op, Oracle, Pairs, Runner, Setup, ValueSpec, pairs, run, strays,
};

fn number(name: &str, default: u64) -> u64 {
    let wanted = std::env::var(name).ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    cuts: u64,
    images: u64,
    distinct: u64,
    nested: u64,
    second_lives: u64,
}

fn value(len: u32) -> ValueSpec {
    ValueSpec {
        len,
        fill: Fill::Unique,
    }
}

fn set(key: u8, len: u32) -> Op {
    Op::Set {
        key,
        value: value(len),
    }
}

fn remove(key: u8) -> Op {
    Op::Remove { key }
}

fn batch(writes: &[(u8, Option<u32>)]) -> Op {
    let writes = writes.iter().map(|(key, len)| (*key, len.map(value)));
    Op::Batch(writes.collect())
}

fn update(key: u8, how: How) -> Op {
    Op::Update { key, how }
}

/// A workload that was run, and everything needed to judge what a cut leaves of it.
struct Trial<'a> {
    name: &'a str,
    options: Options,
    fs: SimFs,
    oracle: Oracle,
    /// Images seen: what they recovered to.
    seen: HashMap<u64, Pairs>,
    counts: Counts,
}

impl Trial<'_> {
    fn fail(&self, crash: Crash, nested: &str, what: &str) -> ! {
        let lines = self.fs.log_lines();
        panic!(
            "{}: {what}\n  at {crash}{nested}\n  the disk had recorded:\n{}",
            self.name,
            lines[..crash.cut].join("\n")
        );
    }

    /// Cuts everywhere.
    fn run(&mut self) {
        let mixes = number("KVS_CRASH_MIXES", 64);
        let every = number("KVS_CRASH_NESTED", 64).max(1);
        let mut replay = self.fs.replay();
        loop {
            self.counts.cuts += 1;
            for survive in survivals(&replay, mixes, replay.cut() as u64) {
                let crash = Crash {
                    cut: replay.cut(),
                    survive,
                };
                let image = replay.image(survive);
                self.counts.images += 1;
                let new = self.judge(crash, &image);
                if new && self.counts.distinct.is_multiple_of(every) {
                    self.cut_recovery(crash, &image);
                    self.live_again(crash, &image);
                }
            }
            if !replay.advance() {
                break;
            }
        }
    }

    /// The store on `image` shows what may have survived. True if the image is new.
    fn judge(&mut self, crash: Crash, image: &Image) -> bool {
        let digest = image.digest();
        let new = !self.seen.contains_key(&digest);
        if new {
            self.counts.distinct += 1;
            match recovered(image, &self.options) {
                Ok(found) => self.seen.insert(digest, found),
                Err(what) => self.fail(crash, "", &what),
            };
        }
        if let Err(what) = self.oracle.survived(crash.cut, &self.seen[&digest]) {
            self.fail(crash, "", &what);
        }
        new
    }

    /// O6: recovery, cut at any of its own steps and begun again, ends where it would have ended.
    fn cut_recovery(&mut self, crash: Crash, image: &Image) {
        let expected = self.seen[&image.digest()].clone();
        let fs = SimFs::from_image(image);
        if let Err(error) = open(fs.clone(), &self.options, 77) {
            self.fail(crash, "", &error.to_string());
        }
        let mut tried = HashMap::new();
        let mut replay = fs.replay();
        loop {
            for survive in survivals(&replay, 3, replay.cut() as u64) {
                let again = replay.image(survive);
                if tried.insert(again.digest(), ()).is_some() {
                    continue;
                }
                self.counts.nested += 1;
                let wrong = match recovered(&again, &self.options) {
                    Ok(found) if found == expected => continue,
                    Ok(_) => "the second recovery ended elsewhere".to_owned(),
                    Err(what) => what,
                };
                let second = Crash {
                    cut: replay.cut(),
                    survive,
                };
                let lines = fs.log_lines()[..second.cut].join("\n");
                let nested = format!(", its recovery cut at {second} after\n{lines}");
                self.fail(crash, &nested, &wrong);
            }
            if !replay.advance() {
                break;
            }
        }
    }

    /// O7: what is written after recovery is as safe as what was written before.
    fn live_again(&mut self, crash: Crash, image: &Image) {
        let fs = SimFs::from_image(image);
        let engine = match open(fs.clone(), &self.options, 78) {
            Ok(engine) => engine,
            Err(error) => self.fail(crash, "", &error.to_string()),
        };
        let mut oracle = Oracle::found(&self.seen[&image.digest()]);
        oracle.promise(fs.log_len());
        for round in 0u8..4 {
            let begun = fs.log_len();
            let (key, value) = (vec![b'k', round % 3], vec![round; 40]);
            let done = engine.set(&key, &value);
            oracle.commit(begun, vec![(key, Some(value.into()))]);
            let flushed = match round {
                2 => engine.flush().map(|()| oracle.promise(fs.log_len())),
                _ => Ok(()),
            };
            if let Err(error) = done.and(flushed) {
                self.fail(crash, ", second life", &error.to_string());
            }
        }
        drop(engine);
        let mut replay = fs.replay();
        loop {
            for survive in survivals(&replay, 2, 1 + replay.cut() as u64) {
                self.counts.second_lives += 1;
                let judged = recovered(&replay.image(survive), &self.options)
                    .and_then(|found| oracle.survived(replay.cut(), &found));
                if let Err(what) = judged {
                    let second = Crash {
                        cut: replay.cut(),
                        survive,
                    };
                    let lines = fs.log_lines()[..second.cut].join("\n");
                    let nested = format!(", its second life cut at {second} after\n{lines}");
                    self.fail(crash, &nested, &what);
                }
            }
            if !replay.advance() {
                break;
            }
        }
    }
}

/// Both extremes, all subsets of names, and `mixes` mixes that are others at every cut.
fn survivals(replay: &Replay, mixes: u64, cut: u64) -> Vec<Survive> {
    let first = cut.wrapping_mul(1009);
    replay.survivals(first..first + mixes)
}

/// Opens the image, and the result of that once more: the pairs, if both show the same and nothing
/// is left over.
fn recovered(image: &Image, options: &Options) -> Result<Pairs, String> {
    let fs = SimFs::from_image(image);
    let engine = open(fs.clone(), options, 42).map_err(|e| format!("it does not open: {e}"))?;
    let found = pairs(&engine)?;
    if engine.len() < found.len() as u64 {
        return Err(format!("len() is {} of {}", engine.len(), found.len()));
    }
    let strays = strays(&fs)?;
    if !strays.is_empty() {
        return Err(format!("left over: {strays:?}"));
    }
    drop(engine);
    let again = open(fs.clone(), options, 43).map_err(|e| format!("not a second time: {e}"))?;
    match pairs(&again)? == found {
        true => Ok(found),
        false => Err("opened a second time it shows something else".to_owned()),
    }
}

/// Runs the workload and cuts it everywhere.
#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
fn survives_every_cut(name: &str, durability: Durability, ops: &[Op]) {
    let setup = Setup {
        durability,
        write_path: false,
        seed: 5,
    };
    let mut runner = Runner::new(setup).unwrap();
    for op in ops {
        runner.apply(op).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let mut trial = Trial {
        name,
        options: runner.options(),
        fs: runner.fs().clone(),
        oracle: runner.oracle().clone(),
        seen: HashMap::new(),
        counts: Counts::default(),
    };
    let started = std::time::Instant::now();
    trial.run();
    println!("{name}: {:?} in {:.1?}", trial.counts, started.elapsed());
}

#[test]
fn a_store_is_created_and_written_to() {
    let ops = [
        set(1, 10),
        set(2, 700),
        set(1, 30),
        remove(2),
        Op::Flush,
        set(3, 10),
    ];
    survives_every_cut("create", Durability::Os, &ops);
}

#[test]
fn every_sync_write_survives() {
    let ops = [
        set(1, 10),
        set(2, 700),
        set(1, 1500),
        remove(2),
        batch(&[(3, Some(600)), (4, Some(10)), (1, None)]),
        set(4, 20),
    ];
    survives_every_cut("sync", Durability::Sync, &ops);
}

#[test]
fn segments_are_rotated_while_nothing_is_synced() {
    let ops = [
        set(1, 900),
        set(2, 40),
        Op::Rotate,
        set(1, 50),
        set(3, 600),
        Op::Rotate,
        remove(2),
        set(4, 70_000),
        set(5, 5),
    ];
    survives_every_cut("rotate", Durability::Os, &ops);
}

#[test]
fn batches_are_whole() {
    let ops = [
        batch(&[(1, Some(10)), (2, Some(1200)), (3, Some(10))]),
        batch(&[(1, None), (2, Some(30)), (2, Some(31)), (4, Some(500))]),
        Op::Rotate,
        batch(&[(3, None), (4, None)]),
        batch(&[(5, Some(40_000)), (6, Some(18_000))]),
        batch(&[(7, Some(10)), (1, Some(10))]),
    ];
    survives_every_cut("batches", Durability::Os, &ops);
}

/// All of a load or nothing, and every promise made before it and behind it.
#[test]
fn loads_are_whole() {
    let load = |pairs: &[(u8, u32)]| {
        let pairs = pairs.iter().map(|(key, len)| (*key, value(*len)));
        Op::Load(pairs.collect())
    };
    let ops = [
        load(&[(1, 10), (2, 700), (1, 20)]),
        set(2, 30),
        remove(1),
        set(3, 600),
        // Two segments, with one key in both.
        load(&[(1, 500), (4, 33_000), (3, 10), (5, 32_000), (1, 9)]),
        remove(4),
        Op::CompactSome { mask: 0b110 },
        load(&[(4, 10), (2, 10)]),
        set(5, 10),
        Op::Compact,
        remove(2),
        Op::Reopen,
        load(&[(2, 20)]),
    ];
    survives_every_cut("loads", Durability::Os, &ops);
}

/// C-6, C-7, with what came of one compaction in the next.
#[test]
fn what_was_removed_stays_removed_through_compaction() {
    let ops = [
        set(1, 600),
        set(2, 600),
        set(3, 10),
        Op::Rotate,
        remove(1),
        set(2, 20),
        Op::Rotate,
        set(4, 10),
        Op::Compact,
        remove(3),
        set(1, 30),
        Op::Compact,
        remove(1),
        set(5, 10),
    ];
    survives_every_cut("compact", Durability::Os, &ops);
}

#[test]
fn what_was_removed_stays_removed_through_compaction_of_some_segments() {
    let ops = [
        set(1, 300),
        set(2, 10),
        Op::Rotate,
        set(1, 20),
        Op::Rotate,
        remove(1),
        remove(2),
        set(3, 10),
        // The segment with the tombstones goes, those with the values stay.
        Op::CompactSome { mask: 0b100 },
        Op::CompactSome { mask: 0b010 },
        Op::Reopen,
        Op::CompactSome { mask: 0b110 },
        set(3, 20),
    ];
    survives_every_cut("compact some", Durability::Os, &ops);
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

#[test]
fn a_closed_store_is_opened_again_in_place() {
    let ops = [
        set(1, 600),
        set(2, 10),
        Op::Reopen,
        set(3, 700),
        Op::Reopen,
        Op::Reopen,
        remove(1),
        Op::Kill,
        set(4, 10),
        Op::Reopen,
        Op::Compact,
        set(2, 30),
        Op::Reopen,
        set(5, 10),
    ];
    survives_every_cut("reopen", Durability::Os, &ops);
}

#[test]
fn of_an_interval_only_what_is_younger_is_lost() {
    let wait = |ms| Op::Wait { ms };
    let ops = [
        set(1, 10),
        wait(60),
        set(2, 600),
        wait(60),
        // The first is older than its interval of 100 ms: it is durable before this one is written.
        set(3, 10),
        batch(&[(1, None), (4, Some(700))]),
        Op::At(Level::Short),
        wait(10),
        set(1, 20),
        Op::At(Level::Os),
        wait(60),
        set(5, 10),
        Op::Rotate,
        Op::At(Level::Long),
        set(5, 900),
        wait(200),
        remove(2),
        set(2, 30),
    ];
    let interval = Durability::Interval(Duration::from_millis(100));
    survives_every_cut("interval", interval, &ops);
}

#[test]
fn levels_mix_and_what_survives_is_a_prefix_of_all() {
    let number = ValueSpec {
        len: 0,
        fill: Fill::Number,
    };
    let ops = [
        Op::At(Level::Os),
        set(1, 600),
        update(2, How::Add(5)),
        Op::At(Level::Sync),
        update(2, How::Add(5)),
        update(1, How::IfAbsent(value(10))),
        Op::At(Level::Os),
        update(1, How::Replace(Some(number))),
        update(1, How::Add(-7)),
        Op::Rotate,
        update(
            1,
            How::Swap {
                equal: true,
                new: None,
            },
        ),
        Op::At(Level::Short),
        update(1, How::IfAbsent(value(30))),
        Op::Wait { ms: 50 },
        update(
            1,
            How::Swap {
                equal: false,
                new: Some(value(9)),
            },
        ),
        Op::Compact,
        update(2, How::Replace(None)),
        Op::At(Level::Sync),
        update(3, How::IfAbsent(value(800))),
    ];
    survives_every_cut("levels", Durability::Os, &ops);
}

#[test]
fn what_has_expired_is_removed() {
    let expiring = |key, past| Op::SetExpiring {
        key,
        value: value(300),
        past,
    };
    let ops = [
        set(1, 10),
        expiring(1, true),
        expiring(2, false),
        Op::Rotate,
        expiring(2, true),
        set(3, 10),
        Op::Compact,
        expiring(1, false),
    ];
    survives_every_cut("expire", Durability::Os, &ops);
}
