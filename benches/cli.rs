//! What the command line costs: a process that starts, gets one key and exits; import and export of
//! pairs of 100-byte values. `KVS_BENCH_KEYS` (default one million) sets how many.
//!
//! Beside them what they cannot be faster than: a process that does nothing, and the same pairs through
//! the library.

#![allow(clippy::print_stdout)]

mod common;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Random, median, scale, seconds, warm_memory};
use kvs::{Batch, Store};

const VALUE_BYTES: usize = 100;

fn kvs(dir: &Path, arguments: &[&str]) {
    let status = Command::new(env!("CARGO_BIN_EXE_kvs"))
        .args(arguments)
        .current_dir(dir)
        .env_remove("KVS_DIR")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("kvs starts").success(), "{arguments:?}");
}

fn text(random: &mut Random) -> String {
    let letter = |_| char::from(b'a' + random.below(26) as u8);
    (0..VALUE_BYTES).map(letter).collect()
}

fn key(i: usize) -> String {
    format!("key {i:012}")
}

/// The lines of `n` pairs.
fn write_lines(path: &Path, n: usize, line: impl Fn(&str, &str) -> String) {
    let mut random = Random(1);
    let mut to = BufWriter::new(File::create(path).expect("a file can be made"));
    for i in 0..n {
        let line = line(&key(i), &text(&mut random));
        to.write_all(line.as_bytes()).expect("it can be written");
    }
    to.flush().expect("it can be written");
}

fn main() {
    let scale = scale();
    let starts = if scale.rounds == 1 { 20 } else { 400 };
    let dir = tempfile::tempdir().expect("a directory can be made");
    let small = dir.path().join("small");
    let store = Store::open(&small).expect("the store opens");
    for i in 0..10 {
        store.set(format!("key {i}"), "value").expect("set");
    }
    store.close().expect("close");
    start("true (nothing)", starts, || {
        let status = Command::new("true").status();
        assert!(status.expect("true starts").success());
    });
    start("kvs --version", starts, || kvs(&small, &["--version"]));
    start("kvs get, of ten keys", starts, || {
        kvs(&small, &["get", "key 5"])
    });
    transfer(dir.path(), scale.keys, scale.rounds);
}

fn start(name: &str, starts: usize, mut run: impl FnMut()) {
    let mut samples: Vec<f64> = (0..starts).map(|_| seconds(&mut run) * 1e3).collect();
    samples.sort_by(f64::total_cmp);
    println!(
        "{name:<34} {:>7.2} ms  [{:.2} best, {:.2} p99]",
        median(&samples),
        samples[0],
        samples[samples.len() * 99 / 100]
    );
}

fn transfer(dir: &Path, n: usize, rounds: usize) {
    warm_memory(n * 400 / (1 << 20) + 64);
    let json = |k: &str, v: &str| format!("{{\"key\":\"{k}\",\"value\":\"{v}\"}}\n");
    write_lines(&dir.join("in.ndjson"), n, json);
    write_lines(&dir.join("in.tsv"), n, |k, v| format!("{k}\t{v}\n"));
    let store = dir.join("store");
    let rate = |name: &str, work: &mut dyn FnMut(usize)| {
        let samples: Vec<f64> = (0..rounds)
            .map(|round| n as f64 / seconds(|| work(round)) / 1e3)
            .collect();
        let low = samples.iter().copied().fold(f64::INFINITY, f64::min);
        let high = samples.iter().copied().fold(0.0, f64::max);
        println!(
            "{name:<34} {:>7.0} k pairs/s  [{low:.0} {high:.0}]",
            median(&samples)
        );
    };
    rate("library, batches, then close", &mut |round| {
        let store = Store::open(dir.join(format!("library {round}"))).expect("the store opens");
        let value = [b'v'; VALUE_BYTES];
        for from in (0..n).step_by(4096) {
            let mut batch = Batch::new();
            for i in from..n.min(from + 4096) {
                batch.set(key(i), value);
            }
            store.write(&batch).expect("write");
        }
        store.close().expect("close");
    });
    for format in ["ndjson", "tsv"] {
        let from = format!("in.{format}");
        rate(&format!("import {format}"), &mut |_| {
            let _ = std::fs::remove_dir_all(&store);
            kvs(dir, &["-d", "store", "import", format, &from]);
        });
    }
    kvs(dir, &["-d", "store", "export", "kvx", "in.kvx"]);
    rate("import kvx", &mut |_| {
        let _ = std::fs::remove_dir_all(&store);
        kvs(dir, &["-d", "store", "import", "kvx", "in.kvx"]);
    });
    for format in ["ndjson", "tsv", "kvx"] {
        rate(&format!("export {format} > /dev/null"), &mut |_| {
            kvs(dir, &["-d", "store", "export", format]);
        });
        let to = format!("out.{format}");
        rate(&format!("export {format} to a file, synced"), &mut |_| {
            kvs(dir, &["-d", "store", "export", format, &to]);
        });
        let lengths = [&format!("in.{format}"), &to].map(|name| {
            let metadata = std::fs::metadata(dir.join(name));
            metadata.expect("it was written").len()
        });
        assert_eq!(
            lengths[0], lengths[1],
            "{format}: all that went in came out"
        );
    }
}
