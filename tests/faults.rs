//! Calls that fail. Goal: no call of the file system is so placed that its failure makes the store
//! panic, hang, answer wrongly, acknowledge what is not durable, or go on after a failed sync; and
//! whatever was acknowledged is there when the store is opened again (O1 to O7, O12).
//!
//! Method: a workload that uses everything (rotation, batches, compaction, hints, closing, opening)
//! is run once to count its calls, then once more for each call and each kind of failure: `EIO` and
//! `ENOSPC`, once and for ever, having done nothing, half, or all of the work. After every operation
//! the model is asked; the power is cut soon after the failure and, in several ways, at the end; or
//! the process is killed, the store opened again, written to, and cut again.

use std::sync::mpsc;
use std::time::Duration;

use kvs::testing::open;
use kvs::testing::sim::{Call, Effect, Errno, Fault, Outcome, SimFs, Survive};
use kvs::{Durability, Error};
use kvs_model::{Fill, How, Level, Only, Op, Runner, Setup, Span, Tally, ValueSpec, pairs};

/// Longer than any trial takes on any machine: then it hangs.
const HANGS: Duration = Duration::from_secs(120);

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

fn workload(durability: Durability) -> Vec<Op> {
    let level = match durability {
        Durability::Sync => Level::Sync,
        _ => Level::Os,
    };
    vec![
        set(1, 300),
        set(2, 900),
        set(7, 60),
        Op::Update {
            key: 8,
            how: How::Add(3),
        },
        Op::Flush,
        Op::Remove { key: 1 },
        Op::Batch(vec![(3, Some(value(700))), (2, None), (4, Some(value(9)))]),
        Op::Rotate,
        set(1, 20),
        Op::SetExpiring {
            key: 3,
            value: value(10),
            past: true,
        },
        set(5, 66_000),
        Op::Remove { key: 4 },
        Op::Load(vec![
            (2, value(400)),
            (7, value(40_000)),
            (9, value(30_000)),
            (2, value(8)),
        ]),
        Op::Compact,
        set(2, 50),
        Op::Reopen,
        Op::Load(vec![(9, value(10))]),
        Op::At(Level::Short),
        set(6, 10),
        Op::SetWith {
            key: 9,
            value: value(400),
            span: Span::In(20),
            only: Only::Absent,
        },
        Op::Expire {
            key: 5,
            ms: Some(25),
        },
        Op::Expire {
            key: 7,
            ms: Some(90),
        },
        Op::Wait { ms: 30 },
        // The interval is over: it syncs first.
        Op::Update {
            key: 8,
            how: How::Replace(Some(value(20))),
        },
        Op::Update {
            key: 8,
            how: How::IfAbsent(value(5)),
        },
        Op::ReadAll,
        Op::At(level),
        Op::Rotate,
        Op::Remove { key: 6 },
        Op::Expire { key: 7, ms: None },
        Op::Flush,
        Op::Compact,
        Op::Reopen,
        set(7, 800),
    ]
}

fn faults() -> Vec<Fault> {
    vec![
        Fault::once(Errno::IO),
        Fault::once(Errno::IO).after(Effect::Half),
        Fault::once(Errno::IO).after(Effect::Whole),
        Fault::once(Errno::NOSPC),
        Fault::forever(Errno::IO),
        Fault::forever(Errno::NOSPC).after(Effect::Half),
    ]
}

fn setup(durability: Durability) -> Setup {
    Setup {
        durability,
        write_path: durability == Durability::Os,
        seed: 9,
    }
}

const CUTS: [Survive; 5] = [
    Survive::SyncedOnly,
    Survive::Everything,
    Survive::Mix { seed: 1 },
    Survive::Mix { seed: 2 },
    Survive::Mix { seed: 3 },
];

/// The workload with call `k` failing; what the disk then holds is opened in every way.
fn trial(durability: Durability, k: u64, fault: Fault) -> Result<Tally, String> {
    let fs = SimFs::new();
    fs.fail_at(k, fault);
    let mut runner = Runner::over(setup(durability), fs).map_err(|e| e.to_string())?;
    for op in workload(durability) {
        runner.apply(&op).map_err(|e| e.to_string())?;
    }
    let end = runner.fs().log_len();
    runner.survives(end..=end, &CUTS)?;
    // Soon after the failure, when what it left behind is being built upon.
    let mix = Survive::Mix { seed: k };
    let log = runner.fs().log();
    if let Some(at) = log.iter().position(|op| op.outcome != Outcome::Done) {
        runner.survives(at..=at + 12, &[mix])?;
    }
    // What was recovered is durable, whatever became of the syncs of the life before; and recovery
    // may be cut at each of its steps.
    runner.apply(&Op::Kill).map_err(|e| e.to_string())?;
    for op in [set(1, 40), Op::Flush, set(2, 40), Op::Rotate, set(3, 40)] {
        runner.apply(&op).map_err(|e| e.to_string())?;
    }
    let second = runner.fs().log_len();
    let either = [Survive::SyncedOnly, mix][k as usize % 2];
    runner.survives(end..=second, &[either])?;
    runner.survives(second..=second, &CUTS[..3])?;
    for op in [Op::Compact, Op::Reopen, Op::Check] {
        runner.apply(&op).map_err(|e| e.to_string())?;
    }
    Ok(runner.tally())
}

#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
fn every_call_fails(durability: Durability) {
    let fs = SimFs::new();
    let mut runner = Runner::over(setup(durability), fs.clone()).unwrap();
    for op in workload(durability) {
        runner.apply(&op).unwrap();
    }
    let calls = fs.calls();
    drop(runner);

    let (done, progress) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        for k in 0..calls {
            for fault in faults() {
                let outcome = trial(durability, k, fault);
                if done.send((k, fault, outcome)).is_err() {
                    return;
                }
            }
        }
    });
    let (mut trials, mut total) = (0u64, Tally::default());
    let mut last = None;
    loop {
        match progress.recv_timeout(HANGS) {
            Ok((k, fault, outcome)) => {
                let tally = outcome.unwrap_or_else(|e| {
                    panic!("{durability:?}, call {k} of {calls}, {fault:?}: {e}")
                });
                last = Some((k, fault));
                trials += 1;
                total += tally;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the trial after {last:?} hangs"),
        }
    }
    worker
        .join()
        .unwrap_or_else(|_| panic!("the trial after {last:?} panicked"));
    println!("{durability:?}: {calls} calls, {trials} trials, {total:?}");
}

#[test]
fn no_failing_call_does_harm_at_level_os() {
    every_call_fails(Durability::Os);
}

#[test]
fn no_failing_call_does_harm_at_level_sync() {
    every_call_fails(Durability::Sync);
}

#[test]
fn a_failed_sync_is_told_and_nothing_is_accepted_after_it() {
    let options = setup(Durability::Sync).options();
    let fs = SimFs::new();
    let engine = open(fs.clone(), &options, 1).unwrap();
    engine.set(b"old", b"1").unwrap();
    fs.fail_call(Call::SyncData, 0, Fault::once(Errno::IO));
    let refused = engine.set(b"new", b"2");
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    assert!(matches!(engine.set(b"x", b"3"), Err(Error::Poisoned)));
    assert!(matches!(engine.remove(b"old"), Err(Error::Poisoned)));
    assert!(matches!(
        engine.flush(),
        Err(Error::Poisoned | Error::Io { .. })
    ));
    assert!(engine.compact().is_err());
    assert_eq!(engine.get(b"old").unwrap().as_deref(), Some(&b"1"[..]));
    assert!(matches!(engine.get(b"new"), Err(Error::Poisoned)));
    assert!(
        engine.close().is_err(),
        "it must not say that it closed cleanly"
    );
    drop(engine);

    let engine = open(fs.clone(), &options, 2).unwrap();
    assert_eq!(engine.get(b"old").unwrap().as_deref(), Some(&b"1"[..]));
    // The page cache still had it: from now on it must stay.
    let new = engine.get(b"new").unwrap().map(|value| value.to_vec());
    engine.set(b"x", b"3").unwrap();
    let cut = SimFs::from_image(&fs.image(fs.log_len(), Survive::SyncedOnly));
    let after = pairs(&open(cut, &options, 3).unwrap()).unwrap();
    let value = |key: &[u8]| after.get(key).map(|version| version.value.clone());
    assert_eq!(value(b"new"), new);
    assert_eq!(value(b"x"), Some(b"3".to_vec()));
}

/// Found by the model: the failed sync of an edit leaves the edit where readers see it, but no later
/// sync makes it durable. The next life wrote behind it; a cut then left a manifest with a hole.
#[test]
fn an_edit_of_the_manifest_whose_sync_failed_is_not_built_upon() {
    let options = setup(Durability::Os).options();
    for syncs in 0..6 {
        let fs = SimFs::new();
        let engine = open(fs.clone(), &options, 1).unwrap();
        engine.set(b"k", b"1").unwrap();
        engine.flush().unwrap();
        fs.fail_call(Call::SyncData, syncs, Fault::once(Errno::IO));
        let _ = engine.rotate_now().and_then(|()| engine.close());
        fs.clear_faults();
        drop(engine);
        for life in 2..4 {
            let engine = open(fs.clone(), &options, life).unwrap();
            engine.set(b"k", b"2").unwrap();
            engine.close().unwrap();
        }
        for seed in 0..64 {
            let image = fs.image(fs.log_len(), Survive::Mix { seed });
            let engine = open(SimFs::from_image(&image), &options, 9)
                .unwrap_or_else(|e| panic!("failed sync {syncs}, seed {seed}: {e}"));
            assert_eq!(engine.get(b"k").unwrap().as_deref(), Some(&b"2"[..]));
        }
    }
}

/// The CLEAN of a close whose sync failed is seen by the next life, which goes on in the segment it names
/// and makes the file longer: no cut may then leave the one without the other.
#[test]
fn a_clean_close_whose_sync_failed_is_written_again_before_it_is_built_upon() {
    let options = setup(Durability::Os).options();
    let mut images = 0;
    for syncs in 0..6 {
        let fs = SimFs::new();
        let engine = open(fs.clone(), &options, 1).unwrap();
        engine.set(b"k", b"1").unwrap();
        engine.flush().unwrap();
        fs.fail_call(Call::SyncData, syncs, Fault::once(Errno::IO));
        let _ = engine.close();
        fs.clear_faults();
        drop(engine);
        let begun = fs.log_len();
        let engine = open(fs.clone(), &options, 2).unwrap();
        engine.set(b"k", &[2; 600]).unwrap();
        engine.flush().unwrap();
        engine.set(b"l", b"3").unwrap();
        drop(engine);
        let mut replay = fs.replay();
        replay.advance_to(begun);
        loop {
            let mut survivals = replay.survivals(0..24);
            survivals.extend(replay.harsh_survivals(0..9));
            for survive in survivals {
                let image = replay.image(survive);
                let cut = format!("failed sync {syncs}, cut {}, {survive}", replay.cut());
                let engine = open(SimFs::from_image(&image), &options, 9)
                    .unwrap_or_else(|e| panic!("{cut}: {e}"));
                assert!(engine.get(b"k").unwrap().is_some(), "{cut}");
                images += 1;
            }
            if !replay.advance() {
                break;
            }
        }
    }
    assert!(images > 500, "{images}");
}
