//! The store against a model of it. Goal: whatever is done to it, in any order, it shows what the
//! model shows; after a power cut, one of the states that may be left. Method: random operations
//! (`kvs-model`) on a simulated disk whose clock moves, beginning at each level of durability. A list that fails is made as
//! short as can be and printed: pasted into `run`, it fails again.
//!
//! `KVS_MODEL_CASES=n` runs n lists per test instead of 170.

use std::cell::Cell;
use std::time::Duration;

use kvs::Durability;
use kvs_model::{Op, Setup, Tally, ops, run, setup, shrunk};
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
