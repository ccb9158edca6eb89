//! How long opening takes, per key: from hint files after a clean close, without them, and after a
//! process that was killed. `KVS_BENCH_KEYS` (default one million) sets the size.

#![allow(clippy::print_stdout)]

mod common;

use std::time::Instant;

use common::{key, median, scale, warm_memory};
use kvs::Store;

fn main() {
    let scale = scale();
    let n = scale.keys;
    let dir = tempfile::tempdir().expect("a directory can be made");
    warm_memory(n * 300 / (1 << 20) + 64);
    let store = Store::open(dir.path()).expect("the store opens");
    for i in 0..n {
        store.set(key(i), [i as u8; 100]).expect("set");
    }
    store.close().expect("close");
    let open = |label: &str| {
        let mut samples = Vec::new();
        for _ in 0..scale.rounds {
            warm_memory(n * 50 / (1 << 20) + 64);
            let start = Instant::now();
            let store = Store::open(dir.path()).expect("the store opens");
            let first = store.get(key(n / 2)).expect("get").is_some();
            samples.push(start.elapsed().as_secs_f64() * 1e9 / n as f64);
            assert!(first && store.len() == n as u64);
        }
        println!(
            "{label:<24} {:>7.1} ns a key, {:>8.1} ms",
            median(&samples),
            median(&samples) * n as f64 / 1e6
        );
    };
    open("hints");
    for file in std::fs::read_dir(dir.path()).expect("the directory can be read") {
        let path = file.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "hint") {
            std::fs::remove_file(path).expect("a hint can be removed");
        }
    }
    open("no hints: scan");
}
