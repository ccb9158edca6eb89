//! The store against a model of it. Goal: whatever is done to it, in any order, it shows what the
//! model shows; after a power cut, one of the states that may be left. Method: random operations
//! (`kvs-model`) on a simulated disk whose clock moves, beginning at each level of durability. A list that fails is made as
//! short as can be and printed: pasted into `run`, it fails again.
//!
//! `KVS_MODEL_CASES=n` runs n lists per test instead of 170.
//!
//! What a program can do to a store is among the operations, or stands in a list of exceptions with a
//! reason: the last test compares the public methods with what the model calls.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use kvs::Durability;
use kvs::testing::sim::{Errno, Fault, Survive};
use kvs_model::{
    Fill, Op, Oracle, Pairs, Setup, Strike, Tally, ValueSpec, ops, run, setup, shrunk,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Lists of operations per level, and operations in each.
const CASES: u32 = 170;
const OPS: std::ops::Range<usize> = 200..260;

fn cases() -> u32 {
    let wanted = std::env::var("KVS_MODEL_CASES").ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(CASES)
}

/// Runs lists of operations until one fails; that one is made short and printed.
#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
fn compare(name: &str, cases: u32, lists: impl Strategy<Value = (Vec<Op>, Setup)>) {
    let config = Config {
        cases,
        failure_persistence: None,
        // Leaving out operations ourselves is faster than proptest's shrinking.
        max_shrink_iters: 0,
        ..Config::default()
    };
    let total = Cell::new(Tally::default());
    let outcome = TestRunner::new(config).run(&lists, |(ops, setup)| {
        let Ok(tally) = run(&ops, &setup) else {
            let (ops, failure) = shrunk(&ops, &setup);
            let failure = failure.map_or_else(String::new, |failure| failure.to_string());
            panic!("{failure}\n{setup:?}\n{ops:#?}");
        };
        let mut sum = total.get();
        sum += tally;
        total.set(sum);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{}", error.to_string().lines().next().unwrap_or_default());
    }
    println!("{name}: {cases} lists, {:?}", total.get());
}

#[test]
fn at_level_os_the_store_is_what_the_model_says() {
    compare("Os", cases(), (ops(OPS), setup(Durability::Os)));
}

#[test]
fn at_level_sync_the_store_is_what_the_model_says() {
    compare("Sync", cases(), (ops(OPS), setup(Durability::Sync)));
}

#[test]
fn at_level_interval_the_store_is_what_the_model_says() {
    let interval = Durability::Interval(Duration::from_millis(30));
    compare("Interval", cases(), (ops(OPS), setup(interval)));
}

/// What a fuzzer does: any bytes are a list of operations.
#[test]
fn arbitrary_bytes_are_operations_that_the_store_survives() {
    let bytes = proptest::collection::vec(any::<u8>(), 0..600);
    let lists = bytes.prop_map(|bytes| {
        let setup = Setup {
            durability: Durability::Os,
            write_path: bytes.len() % 2 == 0,
            seed: 1,
        };
        (Op::decode_all(&bytes), setup)
    });
    compare("bytes", cases(), lists);
}

/// The model is what every other test believes: a history by hand, and what may be left of it, what not.
#[test]
fn the_oracle_takes_what_may_be_and_refuses_what_may_not() {
    let write = |key: &str, value: &str| {
        let version = (!value.is_empty()).then(|| value.as_bytes().to_vec().into());
        (key.as_bytes().to_vec(), version)
    };
    let state = |pairs: &[(&str, &str)]| -> Pairs {
        let pair = |(key, value): &(&str, &str)| {
            (key.as_bytes().to_vec(), value.as_bytes().to_vec().into())
        };
        pairs.iter().map(pair).collect()
    };
    let mut oracle = Oracle::new();
    oracle.commit(0, vec![write("a", "1")]);
    oracle.commit(10, vec![write("b", "1"), write("c", "1")]);
    oracle.promise(20);
    oracle.commit(30, vec![write("a", "2")]);
    oracle.commit(40, vec![write("b", "")]);
    oracle.commit(50, vec![write("d", "1")]);
    let after = [
        state(&[]),
        state(&[("a", "1")]),
        state(&[("a", "1"), ("b", "1"), ("c", "1")]),
        state(&[("a", "2"), ("b", "1"), ("c", "1")]),
        state(&[("a", "2"), ("c", "1")]),
        state(&[("a", "2"), ("c", "1"), ("d", "1")]),
    ];
    // Behind how many operations the cut falls, and which of these states it may leave.
    let may_be = [
        (60, 2..=5),
        (45, 2..=4),
        (25, 2..=2),
        (15, 0..=2),
        (5, 0..=1),
    ];
    for (cut, allowed) in may_be {
        for (n, found) in after.iter().enumerate() {
            let said = oracle.survived(cut, found).ok();
            let expected = allowed.contains(&n).then_some(n);
            assert_eq!(said, expected, "cut {cut}, the state after {n}");
        }
    }
    let never = [
        ("half a batch", state(&[("a", "1"), ("b", "1")])),
        (
            "a later write without an earlier",
            state(&[("a", "1"), ("c", "1"), ("d", "1")]),
        ),
        (
            "what was removed",
            state(&[("a", "2"), ("b", "1"), ("c", "1"), ("d", "1")]),
        ),
        ("an old value", state(&[("a", "1"), ("c", "1")])),
        (
            "what nobody wrote",
            state(&[("a", "3"), ("c", "1"), ("d", "1")]),
        ),
        (
            "a value of another key",
            state(&[("a", "2"), ("c", "2"), ("d", "1")]),
        ),
    ];
    for (what, found) in &never {
        assert!(oracle.survived(60, found).is_err(), "{what}");
    }

    // A write that failed is there whole or not at all.
    oracle.doubt(60, vec![write("e", "1"), write("c", "")]);
    let whole = state(&[("a", "2"), ("d", "1"), ("e", "1")]);
    assert_eq!(oracle.survived(70, &whole), Ok(6));
    assert_eq!(oracle.survived(70, &after[5]), Ok(5));
    assert!(oracle.survived(55, &whole).is_err(), "it had not begun");
    let half = state(&[("a", "2"), ("c", "1"), ("d", "1"), ("e", "1")]);
    assert!(oracle.survived(70, &half).is_err(), "half of what failed");

    // An interval is over: what is older is durable before the next is acknowledged.
    let ms = Duration::from_millis;
    let mut oracle = Oracle::new();
    oracle.commit(0, vec![write("a", "1")]);
    oracle.owe(ms(100));
    oracle.keep_bound(ms(99), 10);
    assert_eq!(oracle.survived(20, &after[0]), Ok(0));
    oracle.keep_bound(ms(100), 10);
    assert!(
        oracle.survived(20, &after[0]).is_err(),
        "older than its interval"
    );
    assert_eq!(oracle.survived(20, &after[1]), Ok(1));
}

/// Public methods, and how the model does the same: text of its sources.
const IN_MODEL: &[(&str, &str)] = &[
    ("Batch::new", "Batch::new()"),
    ("Batch::remove", "batch.remove("),
    ("Batch::set", "batch.set("),
    ("Batch::set_with_expiry", "batch.set_with_expiry("),
    ("Snapshot::contains_key", "snapshot.contains_key("),
    ("Snapshot::get", "snapshot.get("),
    ("Snapshot::get_many", "snapshot.get_many("),
    ("Snapshot::iter", "snapshot.iter()"),
    ("Snapshot::keys", "snapshot.keys()"),
    ("Snapshot::len", "snapshot.len()"),
    ("Snapshot::lsn", "snapshot.lsn()"),
    ("Snapshot::prefix", "snapshot.prefix("),
    ("Store::close", "engine.close()"),
    ("Store::compact", "engine.compact()"),
    ("Store::compare_and_swap", "engine.compare_and_swap("),
    ("Store::contains_key", "engine.contains_key("),
    ("Store::expire_at", "engine.expire_at("),
    ("Store::expires_at", ".expires_at("),
    ("Store::fetch_update", "engine.fetch_update("),
    ("Store::flush", "engine.flush()"),
    ("Store::get", "engine.get("),
    ("Store::get_into", ".get_into("),
    ("Store::get_many", "engine.get_many("),
    ("Store::increment", "engine.increment("),
    ("Store::iter", ".pairs()"),
    ("Store::keys", "snapshot.keys()"),
    ("Store::len", "engine.len()"),
    ("Store::load", ".load("),
    ("Store::load_with_expiry", ".load_with("),
    ("Store::open", "open_by_clock("),
    ("Store::open_read_only", "read_only(true)"),
    ("Store::persist", "engine.persist("),
    ("Store::prefetch", "engine.prefetch("),
    ("Store::prefix", "snapshot.prefix("),
    ("Store::reader", "engine.reader()"),
    ("Store::remove", "engine.remove_at("),
    ("Store::scan", ".scan_keys("),
    ("Store::scan_pairs", ".scan_pairs("),
    ("Store::set", "engine.set_at("),
    ("Store::set_if_absent", "engine.set_if_absent("),
    ("Store::set_with", "engine.set_with("),
    ("Store::snapshot", ".snapshot()"),
    ("Store::stats", ".stats()"),
    ("Store::try_load", ".load("),
    ("Store::try_load_with_expiry", ".load_with("),
    ("Store::verify", "engine.verify()"),
    ("Store::with_durability", "Op::At(level)"),
    ("Store::write", "engine.write_at("),
];

/// Public methods that the model does not call, and why not.
const NOT_IN_MODEL: &[(&str, &str)] = &[
    (
        "Store::checkpoint",
        "makes another store: tests/checkpoint.rs",
    ),
    (
        "Store::checkpoint_with",
        "is `checkpoint` with options: tests/checkpoint.rs",
    ),
    ("Batch::entries", "shows what was put in"),
    ("Batch::is_empty", "is `len() == 0`"),
    ("Batch::len", "counts what was put in"),
    ("Batch::operations", "shows what was put in"),
    ("Snapshot::is_empty", "is `len() == 0`"),
    (
        "Store::compact_with",
        "is `compact` that can be ended: tests/compaction.rs",
    ),
    (
        "Store::expire_in",
        "is `expire_at` from now on: tests/expiry.rs",
    ),
    ("Store::is_empty", "is `len() == 0`"),
    ("Store::latency", "tells how long calls took"),
    ("Store::now_ms", "tells the time"),
    ("Store::path", "says what it was told"),
    (
        "Store::recovery",
        "tells what opening found: tests/crash.rs, tests/damage.rs",
    ),
    (
        "Store::ttl",
        "is `expires_at` less the time: tests/expiry.rs",
    ),
];

/// Names of the public methods of `types` in a source file, as `Type::method`.
fn public_methods(source: &str, types: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut of: Option<&str> = None;
    for line in source.lines() {
        if let Some(rest) = line.strip_prefix("impl") {
            // The type that the block is of: the last word before its generics or its brace.
            let subject = rest.trim_end_matches('{').trim();
            let is_trait = subject.contains(" for ");
            let name = |name: &&&str| {
                subject.split(['<', '>', ' ']).any(|word| word == **name) && !is_trait
            };
            of = types.iter().find(name).copied();
        } else if line == "}" {
            of = None;
        } else if let (Some(of), Some(rest)) = (of, line.strip_prefix("    pub fn ")) {
            let end = rest.find(['(', '<']).unwrap_or(rest.len());
            found.push(format!("{of}::{}", &rest[..end]));
        }
    }
    found
}

/// What is wrong with the two lists, given the methods there are and the sources of the model.
fn left_out(
    methods: &[String],
    model: &str,
    listed: &[(&str, &str)],
    excepted: &[(&str, &str)],
) -> Vec<String> {
    let mut wrong = Vec::new();
    for method in methods {
        let is_it = |(name, _): &&(&str, &str)| name == method;
        match (listed.iter().find(is_it), excepted.iter().find(is_it)) {
            (Some((_, call)), None) if !model.contains(call) => {
                wrong.push(format!("{method} is not called: no {call:?} in the model"));
            }
            (None, None) => wrong.push(format!("{method} is not among the model's operations")),
            (Some(_), Some(_)) => wrong.push(format!("{method} stands in both lists")),
            _ => {}
        }
    }
    let there: BTreeSet<&str> = methods.iter().map(String::as_str).collect();
    let both = listed.iter().chain(excepted);
    let gone = both.filter(|(name, _)| !there.contains(name));
    wrong.extend(gone.map(|(name, _)| format!("there is no {name}")));
    wrong
}

fn sources(dir: &Path, all: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, all),
            false => all.push(std::fs::read_to_string(&path).unwrap()),
        }
    }
}

#[test]
fn whatever_a_program_can_do_to_a_store_the_model_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut engine, mut model) = (Vec::new(), Vec::new());
    sources(&root.join("src/engine"), &mut engine);
    sources(&root.join("tests/model/src"), &mut model);
    let types = ["Store", "Snapshot", "Batch"];
    let of = |source: &String| public_methods(source, &types);
    let methods: Vec<String> = engine.iter().flat_map(of).collect();
    assert!(methods.len() > 40, "the methods are found: {methods:?}");
    let model = model.join("\n");
    let wrong = left_out(&methods, &model, IN_MODEL, NOT_IN_MODEL);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_method_that_the_model_leaves_out_is_noticed() {
    let source = "impl<F: Fs> Store<F> {\n    pub fn used(&self) {\n    }\n    pub fn forgotten<T>(\n    \
                  pub(crate) fn inner(&self)\n}\nimpl Clone for Store {\n    pub fn no(&self)\n}\n\
                  impl Options {\n    pub fn open(&self)\n}\n";
    let methods = public_methods(source, &["Store", "Batch"]);
    assert_eq!(methods, ["Store::used", "Store::forgotten"]);
    let used = ("Store::used", "engine.used(");
    let forgotten = ("Store::forgotten", "reason");
    let wrong = |model, listed: &[_], excepted: &[_]| left_out(&methods, model, listed, excepted);
    let called = "engine.used(1)";
    assert_eq!(wrong(called, &[used], &[forgotten]), Vec::<String>::new());
    assert_eq!(wrong("", &[used], &[forgotten]).len(), 1);
    assert_eq!(wrong(called, &[used], &[]).len(), 1);
    assert_eq!(wrong(called, &[used], &[forgotten, used]).len(), 1);
    assert_eq!(
        wrong(called, &[used, ("Store::gone", "")], &[forgotten]).len(),
        1
    );
}

/// With no room for the next segment a compaction takes what has ended before: the newest records stay where
/// they are, and nobody syncs them.
/// As it was found: the model took a key whose loaded value was over at once for one that a walk has missed.
#[test]
fn a_walk_misses_no_key_that_a_load_has_ended() {
    let value = ValueSpec {
        len: 23,
        fill: Fill::Unique,
    };
    let scan = |count| Op::Scan {
        count,
        pairs: false,
    };
    let list = [
        Op::Set { key: 5, value },
        Op::Set { key: 7, value },
        scan(0),
        Op::LoadExpiring(vec![(5, value, Some(0)), (7, value, Some(0))]),
        scan(9),
    ];
    for seed in 0..20 {
        let setup = Setup {
            durability: Durability::Os,
            write_path: false,
            seed,
        };
        run(&list, &setup).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

#[test]
fn a_compaction_on_a_full_disk_promises_nothing_of_what_it_cannot_end() {
    let setup = Setup {
        durability: Durability::Os,
        write_path: false,
        seed: 1,
    };
    let value = |len| ValueSpec {
        len,
        fill: Fill::Number,
    };
    let key = |key| Op::Set {
        key,
        value: value(9),
    };
    let list = |k| {
        vec![
            Op::Fail(Strike {
                k,
                fault: Fault::forever(Errno::NOSPC),
            }),
            Op::Load(vec![(1, value(2000))]),
            key(2),
            Op::Compact,
            Op::Reopen,
            key(3),
            Op::Reopen,
        ]
    };
    for k in 20..40 {
        for back in 10..40 {
            let mut ops = list(k);
            ops.push(Op::Crash {
                back,
                survive: Survive::SyncedOnly,
            });
            if let Err(failure) = run(&ops, &setup) {
                panic!("call {k}, {back} back: {failure}");
            }
        }
    }
}
