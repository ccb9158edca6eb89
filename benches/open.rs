//! How long opening takes, per key: from hint files after a clean close, without them, and after a
//! process that was killed, each beside what `kvs plan` forecasts; and of a store of one key. The constants
//! of the forecast are what is printed here: time a key from hints, a byte of log that is read, and of
//! one key. `KVS_BENCH_KEYS` (default one million) sets the size.

#![allow(clippy::print_stdout)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{key, median, scale, warm_memory};
use kvs::{Plan, Store};

/// Copies the files of `from` to the new directory `to`, onto the disk.
fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).expect("the directory can be read") {
        let path = file.expect("an entry").path();
        let copy = to.join(path.file_name().expect("a name"));
        std::fs::copy(&path, &copy).expect("a file can be copied");
        let copy = std::fs::File::open(copy).expect("it is there");
        copy.sync_all().expect("a file can be synced");
    }
}

/// As [`copy`], of a store that is open and not written to: what its threads still do must not fall
/// between two files. Until the manifest says the same afterwards.
fn copy_open(from: &Path, to: &Path) {
    let manifest = || std::fs::read(from.join("MANIFEST")).expect("the manifest can be read");
    loop {
        let before = manifest();
        copy(from, to);
        if manifest() == before {
            return;
        }
        for file in std::fs::read_dir(to).expect("the directory can be read") {
            let path = file.expect("an entry").path();
            std::fs::remove_file(path).expect("a file can be removed");
        }
    }
}

/// Opening what a killed process leaves, for writing: what is read is written again and synced, too.
fn killed(n: usize, rounds: usize, clean: f64, forecast: Duration) {
    let [dir, left] = [(), ()].map(|()| tempfile::tempdir().expect("a directory can be made"));
    let store = Store::open(dir.path()).expect("the store opens");
    for i in 0..n {
        store.set(key(i), [i as u8; 100]).expect("set");
    }
    copy_open(dir.path(), left.path());
    drop(store);
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..rounds {
        // Recovery repairs it.
        let again = tempfile::tempdir().expect("a directory can be made");
        copy(left.path(), again.path());
        let start = Instant::now();
        let store = Store::open(again.path()).expect("the store opens");
        times.push(start.elapsed().as_secs_f64() * 1e9);
        bytes = store.recovery().bytes_scanned;
        assert_eq!(store.len(), n as u64);
    }
    let time = median(&times);
    println!(
        "{:<24} {:>7.1} ns a key, {:>8.1} ms, forecast {:>8.1} ms",
        "killed",
        time / n as f64,
        time / 1e6,
        forecast.as_secs_f64() * 1e3
    );
    let more = (time - clean).max(0.0) / (bytes as f64).max(1.0);
    println!("killed: {bytes} bytes of log are read, {more:.2} ns each");
}

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
    let open = |dir: &Path, n: usize, label: &str, forecast: Option<Duration>| {
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
        median(&samples) * n as f64
    };
    let one = tempfile::tempdir().expect("a directory can be made");
    let store = Store::open(one.path()).expect("the store opens");
    store.set(key(0), [0; 100]).expect("set");
    store.close().expect("close");
    let plan = Plan::new(1, 16, 100).forecast().expect("a small store");
    open(one.path(), 1, "one key", Some(plan.open_clean));
    let clean = open(dir.path(), n, "hints", Some(forecast.open_clean));
    killed(n, scale.rounds, clean, forecast.open_killed);
    for file in std::fs::read_dir(dir.path()).expect("the directory can be read") {
        let path = file.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "hint") {
            std::fs::remove_file(path).expect("a hint can be removed");
        }
    }
    open(dir.path(), n, "no hints: scan", None);
}
