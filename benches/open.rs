//! How long opening takes, per key: from hint files after a clean close, without them, and after a
//! process that was killed, each beside what `kvs plan` forecasts. `KVS_BENCH_KEYS` (default one million) sets the size.

#![allow(clippy::print_stdout)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{key, median, scale, warm_memory};
use kvs::{Plan, Store};

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
    let forecast = Plan::new(n as u64, 16, 100)
        .forecast()
        .expect("a small store");
    let open = |dir: &Path, label: &str, forecast: Option<Duration>| {
        let mut samples = Vec::new();
        for _ in 0..scale.rounds {
            warm_memory(n * 50 / (1 << 20) + 64);
            let start = Instant::now();
            let store = Store::open_read_only(dir).expect("the store opens");
            let first = store.get(key(n / 2)).expect("get").is_some();
            samples.push(start.elapsed().as_secs_f64() * 1e9 / n as f64);
            assert!(first && store.len() == n as u64);
        }
        let forecast = forecast.map_or(String::new(), |time| {
            format!(", forecast {:>8.1} ms", time.as_secs_f64() * 1e3)
        });
        println!(
            "{label:<24} {:>7.1} ns a key, {:>8.1} ms{forecast}",
            median(&samples),
            median(&samples) * n as f64 / 1e6
        );
    };
    open(dir.path(), "hints", Some(forecast.open_clean));
    // What a killed process leaves: the store's files while it is open.
    let killed = tempfile::tempdir().expect("a directory can be made");
    let store = Store::open(dir.path()).expect("the store opens");
    store.set(key(0), [0; 100]).expect("set");
    for file in std::fs::read_dir(dir.path()).expect("the directory can be read") {
        let path = file.expect("an entry").path();
        let name = path.file_name().expect("a name");
        std::fs::copy(&path, killed.path().join(name)).expect("a file can be copied");
    }
    store.close().expect("close");
    open(killed.path(), "killed", Some(forecast.open_killed));
    for file in std::fs::read_dir(dir.path()).expect("the directory can be read") {
        let path = file.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "hint") {
            std::fs::remove_file(path).expect("a hint can be removed");
        }
    }
    open(dir.path(), "no hints: scan", None);
}
