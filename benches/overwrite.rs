//! What compaction costs and what it gives back: every key is overwritten five times, in random
//! order, in batches of 1000; with compaction in the background, and without any.
//!
//! Space is what the files of the directory occupy on disk (`st_blocks`), sampled every 10 ms and
//! after closing, in key and value bytes. Rates are of the overwrites alone, beside each other,
//! interleaved. `KVS_BENCH_KEYS` (default one million) sets the size.

#![allow(clippy::print_stdout)]

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Random, key, median, scale, warm_memory};
use kvs::{Batch, Compaction, Options, Store};

const VALUE_BYTES: usize = 100;
const BATCH: usize = 1000;
const TIMES: usize = 5;

/// Bytes of disk that everything in `dir` occupies. A file that goes meanwhile occupies nothing.
fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("the directory can be read");
    let blocks = entries.flatten().filter_map(|entry| entry.metadata().ok());
    blocks.map(|metadata| metadata.blocks() * 512).sum()
}

fn put(store: &Store, ids: impl Iterator<Item = usize>, mark: u8) {
    let mut batch = Batch::new();
    for id in ids {
        batch.set(key(id), [mark; VALUE_BYTES]);
        if batch.len() == BATCH {
            store.write(&batch).expect("write");
            batch = Batch::new();
        }
    }
    store.write(&batch).expect("write");
}

/// What one run showed; space in multiples of the key and value bytes.
struct Run {
    overwrites_per_s: f64,
    most: f64,
    closed: f64,
    close_s: f64,
}

fn run(n: usize, compaction: Compaction, seed: u64) -> Run {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let options = Options::new().compaction(compaction);
    let store = options.open(dir.path()).expect("the store opens");
    put(&store, 0..n, 0);
    let pairs = (n * (16 + VALUE_BYTES)) as f64;
    let done = AtomicBool::new(false);
    let (seconds, most) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(disk_bytes(dir.path()));
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        let mut random = Random(seed);
        let start = Instant::now();
        put(&store, (0..TIMES * n).map(|_| random.below(n)), seed as u8);
        let seconds = start.elapsed().as_secs_f64();
        if std::env::var_os("KVS_BENCH_STATS").is_some() {
            let stats = store.stats();
            println!(
                "live {} dead {} disk {} segments {}\n{:?} syncs {} in {:?}",
                stats.live_bytes >> 20,
                stats.dead_bytes >> 20,
                stats.disk_bytes >> 20,
                stats.segments.len(),
                stats.compaction,
                stats.syncs,
                stats.sync_time
            );
        }
        done.store(true, Ordering::Relaxed);
        (seconds, sampler.join().expect("the sampler ends"))
    });
    let start = Instant::now();
    let report = store.close().expect("close");
    let close_s = start.elapsed().as_secs_f64();
    if std::env::var_os("KVS_BENCH_STATS").is_some() {
        println!("{report:?}");
    }
    Run {
        overwrites_per_s: (TIMES * n) as f64 / seconds,
        most: most as f64 / pairs,
        closed: disk_bytes(dir.path()) as f64 / pairs,
        close_s,
    }
}

fn main() {
    let scale = scale();
    let n = scale.keys;
    // A bare reading of the disk takes longer than the writing: three rounds will do.
    let rounds = scale.rounds.min(3);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (runs, compaction) in [
            (&mut with, Compaction::Background),
            (&mut without, Compaction::Manual),
        ] {
            warm_memory(n * 400 / (1 << 20) + 64);
            runs.push(run(n, compaction, 1 + round as u64));
        }
    }
    let all = |runs: &[Run], of: fn(&Run) -> f64| runs.iter().map(of).collect::<Vec<f64>>();
    let worst = |runs: &[Run], of: fn(&Run) -> f64| all(runs, of).into_iter().fold(0.0, f64::max);
    for (name, runs) in [("background", &with), ("off", &without)] {
        println!(
            "compaction {name:<12} {:>9.0} overwrites/s, at most {:.2}x, closed {:.2}x in {:.2} s",
            median(&all(runs, |run| run.overwrites_per_s)),
            worst(runs, |run| run.most),
            worst(runs, |run| run.closed),
            median(&all(runs, |run| run.close_s)),
        );
    }
    let rate = |runs: &[Run]| median(&all(runs, |run| run.overwrites_per_s));
    println!(
        "rate with compaction     {:.2} of without",
        rate(&with) / rate(&without)
    );
}
