//! What is done to a store before the power is cut.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvs::testing::open;
use kvs::testing::sim::SimFs;
use kvs::{Batch, Durability};
use kvs_model::{Fill, How, Level, Only, Op, Oracle, Runner, Setup, Span, ValueSpec, Write, pairs};

use crate::trial::Stage;

/// Names of the workloads that are always the same. Besides there are `random:0`, `random:1` and so on.
pub const NAMES: [&str; 16] = [
    "create",
    "sync",
    "rotate",
    "batches",
    "loads",
    "compact",
    "compact-some",
    "reopen",
    "interval",
    "levels",
    "expire",
    "hints",
    "group",
    "meanwhile",
    "checkpoint",
    "resume",
];

/// Does what the name stands for to a new store.
///
/// # Errors
/// What the store must not do, or that nothing is called so.
pub fn stage(name: &str) -> Result<Stage, String> {
    if let Some(seed) = name.strip_prefix("random:") {
        let seed = seed.parse().map_err(|_| format!("{seed:?} is no seed"))?;
        return random(name, seed);
    }
    match name {
        "group" => group(name),
        "meanwhile" => meanwhile(name),
        "checkpoint" => checkpoint(name),
        _ => {
            let (durability, ops) = ops(name).ok_or_else(|| format!("no workload {name:?}"))?;
            of_ops(name, setup(durability), &ops)
        }
    }
}

fn setup(durability: Durability) -> Setup {
    Setup {
        durability,
        write_path: false,
        seed: 5,
    }
}

fn of_ops(name: &str, setup: Setup, ops: &[Op]) -> Result<Stage, String> {
    let mut runner = Runner::new(setup).map_err(|e| format!("{name}: {e}"))?;
    for op in ops {
        runner.apply(op).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(finished(name, setup, &runner))
}

fn finished(name: &str, setup: Setup, runner: &Runner) -> Stage {
    Stage {
        name: name.to_owned(),
        options: runner.options(),
        sync: setup.durability == Durability::Sync,
        fs: runner.fs().clone(),
        oracle: runner.oracle().clone(),
        begin: 0,
    }
}

fn value(len: u32) -> ValueSpec {
    ValueSpec {
        len,
        fill: Fill::Unique,
    }
}

pub fn set(key: u8, len: u32) -> Op {
    Op::Set {
        key,
        value: value(len),
    }
}

pub fn remove(key: u8) -> Op {
    Op::Remove { key }
}

fn batch(writes: &[(u8, Option<u32>)]) -> Op {
    let writes = writes.iter().map(|(key, len)| (*key, len.map(value)));
    Op::Batch(writes.collect())
}

fn load(pairs: &[(u8, u32)]) -> Op {
    let pairs = pairs.iter().map(|(key, len)| (*key, value(*len)));
    Op::Load(pairs.collect())
}

fn update(key: u8, how: How) -> Op {
    Op::Update { key, how }
}

fn ops(name: &str) -> Option<(Durability, Vec<Op>)> {
    let os = |ops| Some((Durability::Os, ops));
    match name {
        "create" => os(vec![
            set(1, 10),
            set(2, 700),
            set(1, 30),
            remove(2),
            Op::Flush,
            set(3, 10),
        ]),
        "sync" => Some((
            Durability::Sync,
            vec![
                set(1, 10),
                set(2, 700),
                set(1, 1500),
                remove(2),
                batch(&[(3, Some(600)), (4, Some(10)), (1, None)]),
                set(4, 20),
                Op::Rotate,
                set(4, 30),
            ],
        )),
        "rotate" => os(vec![
            set(1, 900),
            set(2, 40),
            Op::Rotate,
            set(1, 50),
            set(3, 600),
            Op::Rotate,
            remove(2),
            set(4, 70_000),
            set(5, 5),
        ]),
        "batches" => os(vec![
            batch(&[(1, Some(10)), (2, Some(1200)), (3, Some(10))]),
            batch(&[(1, None), (2, Some(30)), (2, Some(31)), (4, Some(500))]),
            Op::Rotate,
            batch(&[(3, None), (4, None)]),
            batch(&[(5, Some(40_000)), (6, Some(18_000))]),
            batch(&[(7, Some(10)), (1, Some(10))]),
        ]),
        "loads" => os(vec![
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
        ]),
        "compact" => os(vec![
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
        ]),
        "compact-some" => os(vec![
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
        ]),
        "reopen" => os(vec![
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
        ]),
        "interval" => Some((Durability::Interval(Duration::from_millis(100)), interval())),
        "levels" => os(levels()),
        "expire" => os(expire()),
        "hints" => os(vec![
            set(1, 600),
            remove(2),
            Op::Rotate,
            set(2, 300),
            set(1, 20),
            Op::Rotate,
            Op::DropHint { which: 0 },
            set(3, 10),
            Op::Reopen,
            remove(1),
            Op::CompactSome { mask: 0b101 },
            Op::DropHint { which: 1 },
            set(2, 40),
            Op::Kill,
            set(4, 10),
            Op::Compact,
            Op::Reopen,
        ]),
        // The log goes on in a segment of an earlier life, again and again.
        "resume" => os(vec![
            set(1, 100),
            Op::Reopen,
            set(2, 3000),
            Op::Flush,
            set(3, 10),
            Op::Reopen,
            batch(&[(1, None), (4, Some(900))]),
            Op::Kill,
            set(5, 10),
            Op::Flush,
            remove(4),
            Op::Kill,
            Op::Rotate,
            set(1, 700),
        ]),
        _ => None,
    }
}

fn interval() -> Vec<Op> {
    let wait = |ms| Op::Wait { ms };
    vec![
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
    ]
}

fn levels() -> Vec<Op> {
    let number = ValueSpec {
        len: 0,
        fill: Fill::Number,
    };
    let swap = |equal, new| How::Swap { equal, new };
    vec![
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
        update(1, swap(true, None)),
        Op::At(Level::Short),
        update(1, How::IfAbsent(value(30))),
        Op::Wait { ms: 50 },
        update(1, swap(false, Some(value(9)))),
        Op::Compact,
        update(2, How::Replace(None)),
        Op::At(Level::Sync),
        update(3, How::IfAbsent(value(800))),
    ]
}

fn expire() -> Vec<Op> {
    let expiring = |key, past| Op::SetExpiring {
        key,
        value: value(300),
        past,
    };
    let set_with = |key, span| Op::SetWith {
        key,
        value: value(40),
        span,
        only: Only::Always,
    };
    vec![
        set(1, 10),
        set(4, 500),
        expiring(2, false),
        Op::Rotate,
        // It shadows the segment before, and goes on to when it is compacted alone.
        expiring(1, true),
        set_with(4, Span::In(0)),
        Op::Rotate,
        expiring(2, true),
        set(3, 10),
        set_with(5, Span::In(200)),
        Op::CompactSome { mask: 0b010 },
        Op::Expire {
            key: 3,
            ms: Some(0),
        },
        Op::Compact,
        Op::Expire { key: 5, ms: None },
        expiring(1, false),
    ]
}

/// Groups of writes that share a sync, and writes that land while it is under way: each of them counts
/// to the next group.
fn group(name: &str) -> Result<Stage, String> {
    let setup = setup(Durability::Sync);
    let (fs, options) = (SimFs::new(), setup.options());
    let engine = open(fs.clone(), &options, 5).map_err(|e| e.to_string())?;
    let mut oracle = Oracle::new();
    oracle.promise(fs.log_len());
    let writes = |round: u8, n: u8| -> Vec<Write> {
        let write = |key: u8, len: usize| (vec![b'g', key], Some(vec![round * 16 + n; len].into()));
        match n {
            2 => vec![write(2, 700), write(0, 10), write(3, 20)],
            _ => vec![write(n, 100 + 90 * usize::from(round))],
        }
    };
    let as_batch = |writes: &[Write]| {
        let mut batch = Batch::new();
        for (key, version) in writes {
            if let Some(version) = version {
                batch.set(key, &version.value);
            }
        }
        batch
    };
    for round in 0..4u8 {
        let mut last = 0;
        for n in 0..3 {
            let (begun, writes) = (fs.log_len(), writes(round, n));
            let ticket = engine
                .append_pending(&as_batch(&writes))
                .map_err(|e| e.to_string())?;
            last = ticket.unwrap_or(last);
            oracle.commit(begun, writes);
        }
        // What lands during the sync.
        let late: Arc<Mutex<Option<(usize, u64)>>> = Arc::default();
        let (told, disk, within) = (Arc::clone(&late), fs.clone(), Arc::downgrade(&engine));
        let landing = as_batch(&writes(round, 4));
        fs.during_sync(0, move || {
            let begun = disk.log_len();
            let ticket = within
                .upgrade()
                .map(|engine| engine.append_pending(&landing));
            if let Some(Ok(Some(ticket))) = ticket {
                *told.lock().expect("nobody panicked") = Some((begun, ticket));
            }
        });
        engine.wait_until(last).map_err(|e| e.to_string())?;
        oracle.promise(fs.log_len());
        let landed = late.lock().map_err(|e| e.to_string())?.take();
        let (begun, ticket) = landed.ok_or("nothing was written during the sync")?;
        oracle.commit(begun, writes(round, 4));
        if round % 2 == 0 {
            engine.wait_until(ticket).map_err(|e| e.to_string())?;
            oracle.promise(fs.log_len());
        }
        if round == 1 {
            engine.rotate_now().map_err(|e| e.to_string())?;
        }
    }
    Ok(Stage {
        name: name.to_owned(),
        options,
        sync: true,
        fs,
        oracle,
        begin: 0,
    })
}

/// C-4, C-14: keys are written and removed while a compaction copies what they had.
fn meanwhile(name: &str) -> Result<Stage, String> {
    let setup = setup(Durability::Os);
    let (fs, options) = (SimFs::new(), setup.options());
    let engine = open(fs.clone(), &options, 5).map_err(|e| e.to_string())?;
    let mut oracle = Oracle::new();
    oracle.promise(fs.log_len());
    let put = |oracle: &mut Oracle, key: u8, value: Option<(u8, usize)>| {
        let (begun, key) = (fs.log_len(), vec![b'm', key]);
        let value = value.map(|(fill, len)| vec![fill; len]);
        let done = match &value {
            Some(value) => engine.set(&key, value),
            None => engine.remove(&key).map(|_| ()),
        };
        oracle.commit(begun, vec![(key, value.map(Into::into))]);
        done.map_err(|e| e.to_string())
    };
    for round in 0..4u8 {
        // Two segments of two keys; later one of each is overwritten, and the other is worth copying.
        let keys: &[u8] = if round == 0 { &[0, 1, 2, 3] } else { &[0, 3] };
        for key in keys {
            put(
                &mut oracle,
                *key,
                Some((round, 200 * usize::from(*key) + 10)),
            )?;
            if key % 2 == 1 {
                engine.rotate_now().map_err(|e| e.to_string())?;
            }
        }
        let (mut looks, mut wrong) = (0, Ok(()));
        let report = engine.compact_with(|_| {
            looks += 1;
            let change = match looks {
                // One that is yet to be copied, and one that has been.
                1 => put(&mut oracle, 2, Some((round | 0x80, 90)))
                    .and_then(|()| put(&mut oracle, 1, None)),
                2 => put(&mut oracle, 1, Some((round | 0x80, 700))),
                _ => Ok(()),
            };
            wrong = wrong.clone().and(change);
            ControlFlow::Continue(())
        });
        report.map_err(|e| e.to_string())?;
        wrong?;
        if looks < 2 && round > 0 {
            return Err(format!("compaction {round} looked up {looks} times"));
        }
        oracle.promise(fs.log_len());
        if pairs(&engine)? != *oracle.current() {
            return Err(format!("compaction {round} leaves something else"));
        }
    }
    Ok(Stage {
        name: name.to_owned(),
        options,
        sync: false,
        fs: fs.clone(),
        oracle,
        begin: 0,
    })
}

/// A copy is made while the store is in use; it must do the store no harm.
fn checkpoint(name: &str) -> Result<Stage, String> {
    let setup = setup(Durability::Os);
    let mut runner = Runner::new(setup).map_err(|e| e.to_string())?;
    let apply = |runner: &mut Runner, ops: Vec<Op>| {
        ops.iter()
            .try_for_each(|op| runner.apply(op))
            .map_err(|e| e.to_string())
    };
    let before = vec![
        set(1, 600),
        set(2, 30),
        Op::Rotate,
        remove(1),
        set(3, 700),
        Op::Rotate,
        set(2, 10),
    ];
    apply(&mut runner, before)?;
    let to = runner.fs().subdirectory("partial");
    let copied = runner.engine().checkpoint_by(&to, "/sim/copy");
    copied.map_err(|e| e.to_string())?;
    apply(&mut runner, vec![set(1, 20), Op::Compact, remove(3)])?;
    Ok(finished(name, setup, &runner))
}

/// Operations that a seed decides, on keys and values of every size.
fn random(name: &str, seed: u64) -> Result<Stage, String> {
    // SplitMix64, as the dice of the disk: a seed means the same for ever.
    let mut state = seed.wrapping_mul(0xD1B5_4A32_D192_ED03) ^ 0xC0FF_EE00;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let durability = match next() % 4 {
        0 => Durability::Sync,
        1 => Durability::Interval(Duration::from_millis(30)),
        _ => Durability::Os,
    };
    let setup = Setup {
        durability,
        write_path: next().is_multiple_of(4),
        seed: 6 + seed % 50_000,
    };
    let most = 8 + (next() % 24) as usize;
    let mut ops = Vec::new();
    while ops.len() < most {
        let bytes: Vec<u8> = (0..64).map(|_| next() as u8).collect();
        for op in Op::decode_all(&bytes) {
            let fits = match &op {
                // The disk's record must be of one piece, and of calls that succeed.
                Op::Crash { .. } | Op::Fail(_) | Op::DamageHint { .. } => false,
                // What only reads leaves nothing.
                Op::Check
                | Op::ReadAll
                | Op::Snapshot { .. }
                | Op::ReadSnapshot { .. }
                | Op::DropSnapshot { .. }
                | Op::Scan { .. } => false,
                _ => true,
            };
            ops.extend(fits.then_some(op));
        }
    }
    ops.truncate(most);
    of_ops(name, setup, &ops)
}
