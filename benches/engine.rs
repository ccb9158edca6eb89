//! Puts, gets and misses beside their ceilings in the same run: a locked map of boxed keys and values
//! in memory; bare appends into a mapped file; a bare table of places in a bare log, which is what a get that
//! finds values of any length in a log can at best do. Rounds are interleaved, medians count, and what
//! matters is the last column: how many times as fast as the map.
//!
//! `cargo bench --bench engine` prints the table, then criterion's own measurements of single
//! operations. A bulk load is measured beside the same records, checks and keys alike, put into a mapped
//! file by nobody else, both with their one sync at the end; `-- load` measures nothing but that.
//! `KVS_BENCH_KEYS` and `KVS_BENCH_ROUNDS` change the size of the table.

#![allow(clippy::print_stdout)]

#[path = "common/ceilings.rs"]
mod ceilings;
mod common;

use std::hint::black_box;

use ceilings::{
    BareTable, Map, VALUE_BYTES, bare_load, bare_log, fill_map, miss_map, read_all, value,
};
use common::{absent, key, row, scale, seconds, shuffled, sum, warm_memory};
use criterion::Criterion;
use kvs::{Batch, Options, Store};

/// What `work` makes of a file in `dir` that exists only meanwhile.
fn with_file(dir: &std::path::Path, work: impl FnOnce(&std::fs::File) -> f64) -> f64 {
    let path = dir.join("bare");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("a file can be created");
    let time = work(&file);
    std::fs::remove_file(path).expect("the file can be removed");
    time
}

/// Bulk loads beside their ceiling.
fn loads() {
    let scale = scale();
    let (mut bare, mut loaded) = (Vec::new(), Vec::new());
    let n = scale.keys;
    let mib = n * 300 / (1 << 20) + 64;
    for round in 0..scale.rounds as u64 {
        let order = shuffled(n, round + 5);
        let per = |time: f64| time * 1e9 / n as f64;
        warm_memory(mib);
        let dir = tempfile::tempdir().expect("a directory can be made");
        bare.push(per(with_file(dir.path(), |file| bare_load(file, &order))));
        warm_memory(mib);
        let store = Store::open(dir.path()).expect("the store opens");
        loaded.push(per(seconds(|| {
            let pairs = order.iter().map(|i| (key(*i as usize), value(*i as usize)));
            let report = store.load(pairs).expect("load");
            assert_eq!(report.superseded, 0);
        })));
        assert_eq!(store.len(), n as u64);
    }
    println!("{n} keys loaded; the last column: how many times as fast as the bare log");
    println!("{}", row("load: bare mapped log", &bare, None));
    println!("{}", row("load: kvs", &loaded, Some(&bare)));
}

#[derive(Default)]
struct Samples {
    put_map: Vec<f64>,
    put: Vec<f64>,
    put_batch: Vec<f64>,
    bare: Vec<f64>,
    get_map: Vec<f64>,
    get_bare: Vec<f64>,
    get: Vec<f64>,
    get_unverified: Vec<f64>,
    get_reader: Vec<f64>,
    get_many: Vec<f64>,
    miss_map: Vec<f64>,
    miss: Vec<f64>,
    overwrite: Vec<f64>,
    overwrite_beside: Vec<f64>,
    snapshot_made: Vec<f64>,
    snapshot_get: Vec<f64>,
    iterate: Vec<f64>,
    scan: Vec<f64>,
    verify_gbs: Vec<f64>,
    index_bytes: f64,
    /// Part of the mapped log.
    large_pages: f64,
}

/// How much of the mapped segments stands behind page-table entries of 2 MiB.
fn large_pages() -> f64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let (mut is_segment, mut all, mut large) = (false, 0.0, 0.0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let kib = || line.split_whitespace().nth(1)?.parse::<f64>().ok();
        match first {
            "Rss:" if is_segment => all += kib().unwrap_or_default(),
            "FilePmdMapped:" if is_segment => large += kib().unwrap_or_default(),
            first if !first.ends_with(':') => is_segment = line.ends_with(".seg"),
            _ => {}
        }
    }
    large / f64::max(all, 1.0)
}

fn round(n: usize, seed: u64, samples: &mut Samples) {
    let order = shuffled(n, seed);
    let per = |time: f64| time * 1e9 / n as f64;
    let mib = n * 300 / (1 << 20) + 64;

    warm_memory(mib);
    let map = Map::default();
    samples.put_map.push(per(fill_map(&map, &order)));

    warm_memory(mib);
    let dir = tempfile::tempdir().expect("a directory can be made");
    samples
        .bare
        .push(per(with_file(dir.path(), |file| bare_log(file, n))));

    warm_memory(mib);
    let store = Store::open(dir.path()).expect("the store opens");
    samples.put.push(per(seconds(|| {
        for i in &order {
            let i = *i as usize;
            store.set(key(i), value(i)).expect("set");
        }
    })));
    samples.index_bytes = store.stats().index_bytes as f64 / n as f64;
    samples.large_pages = large_pages();

    let get_order = shuffled(n, seed ^ 1);
    let from_map = |key: &[u8]| map.read().get(key).map_or(0, |v| sum(v));
    let from_store =
        |store: &Store, key: &[u8]| store.get(key).expect("get").map_or(0, |v| sum(&v));
    // Both once to touch every page, once to measure.
    for samples in [None, Some(&mut samples.get_map)] {
        let time = per(read_all(&get_order, from_map));
        samples.into_iter().for_each(|samples| samples.push(time));
    }
    let bare = BareTable::filled(&order);
    for samples in [None, Some(&mut samples.get_bare)] {
        let time = per(read_all(&get_order, |key| bare.get(key).map_or(0, sum)));
        samples.into_iter().for_each(|samples| samples.push(time));
    }
    drop(bare);
    for samples in [None, Some(&mut samples.get)] {
        let time = per(read_all(&get_order, |key| from_store(&store, key)));
        samples.into_iter().for_each(|samples| samples.push(time));
    }
    let reader = store.reader();
    samples.get_reader.push(per(read_all(&get_order, |key| {
        reader.get(key).expect("get").map_or(0, sum)
    })));
    drop(reader);
    let mut total = 0u64;
    samples.get_many.push(per(seconds(|| {
        for some in get_order.chunks(64) {
            let keys: Vec<_> = some.iter().map(|i| key(*i as usize)).collect();
            for value in store.get_many(&keys).expect("get") {
                total = total.wrapping_add(value.map_or(0, |value| sum(&value)));
            }
        }
    })));
    assert_eq!(total, ceilings::total_of(n), "every byte was read");
    samples.miss_map.push(per(miss_map(&map, &get_order)));
    samples.miss.push(per(seconds(|| {
        for i in &get_order {
            assert!(store.get(absent(*i as usize)).expect("get").is_none());
        }
    })));
    let mut bytes = 0;
    let time = seconds(|| {
        let report = store.verify().expect("verify");
        assert!(report.damage.is_empty());
        bytes = report.bytes;
    });
    samples.verify_gbs.push(bytes as f64 / time / 1e9);
    drop(store);
    let bare = Options::new()
        .verify_reads(false)
        .open(dir.path())
        .expect("the store opens");
    // Once to touch every page of the fresh map, once to measure.
    read_all(&get_order, |key| from_store(&bare, key));
    samples
        .get_unverified
        .push(per(read_all(&get_order, |key| from_store(&bare, key))));
    drop(bare);

    let dir = tempfile::tempdir().expect("a directory can be made");
    warm_memory(mib);
    let store = Store::open(dir.path()).expect("the store opens");
    samples.put_batch.push(per(seconds(|| {
        for chunk in order.chunks(1000) {
            let mut batch = Batch::new();
            for i in chunk {
                batch.set(key(*i as usize), value(*i as usize));
            }
            store.write(&batch).expect("write");
        }
    })));
}

/// What a snapshot costs to make, to read, and those who write meanwhile.
fn snapshots(n: usize, seed: u64, samples: &mut Samples) {
    let per = |time: f64| time * 1e9 / n as f64;
    warm_memory(n * 500 / (1 << 20) + 64);
    let dir = tempfile::tempdir().expect("a directory can be made");
    let options = Options::new().compaction(kvs::Compaction::Manual);
    let store = options.open(dir.path()).expect("the store opens");
    for i in 0..n {
        store.set(key(i), value(i)).expect("set");
    }
    let overwrite = |samples: &mut Vec<f64>, seed| {
        let order = shuffled(n, seed);
        samples.push(per(seconds(|| {
            for i in &order {
                let i = *i as usize;
                store.set(key(i), value(i)).expect("set");
            }
        })));
    };
    overwrite(&mut samples.overwrite, seed);
    let mut snapshot = None;
    let time = seconds(|| snapshot = Some(store.snapshot().expect("snapshot")));
    samples.snapshot_made.push(time * 1e9);
    overwrite(&mut samples.overwrite_beside, seed ^ 1);
    let snapshot = snapshot.expect("it was made");
    samples
        .snapshot_get
        .push(per(read_all(&shuffled(n, seed ^ 2), |key| {
            snapshot.get(key).expect("get").map_or(0, |v| sum(&v))
        })));
    let mut pairs = 0;
    samples.iterate.push(per(seconds(|| {
        for pair in snapshot.iter() {
            black_box(pair.expect("pair"));
            pairs += 1;
        }
    })));
    assert_eq!(pairs, n, "every pair was shown");
    drop(snapshot);
    let (mut cursor, mut keys) = (kvs::Cursor::START, 0);
    samples.scan.push(per(seconds(|| {
        loop {
            let (next, some) = store.scan(cursor, 100).expect("scan");
            keys += some.len();
            cursor = next;
            if cursor.is_end() {
                break;
            }
        }
    })));
    assert_eq!(keys, n, "every key was shown");
}

fn table() {
    let scale = scale();
    let mut samples = Samples::default();
    for n in 0..scale.rounds {
        round(scale.keys, n as u64 * 2 + 17, &mut samples);
        snapshots(scale.keys, n as u64 * 4 + 23, &mut samples);
    }
    let s = &samples;
    let keys = scale.keys;
    println!(
        "{keys} keys of 16 bytes, values of {VALUE_BYTES}; {} rounds",
        scale.rounds
    );
    println!("{:<34} {:>12}  [     low     high]  vs map", "", "median");
    println!("{}", row("put: map", &s.put_map, None));
    println!("{}", row("put: kvs", &s.put, Some(&s.put_map)));
    println!(
        "{}",
        row("put: kvs, batches of 1000", &s.put_batch, Some(&s.put_map))
    );
    println!("{}", row("put: bare mapped log", &s.bare, Some(&s.put_map)));
    println!("{}", row("get: map", &s.get_map, None));
    println!(
        "{}",
        row("get: bare table and log", &s.get_bare, Some(&s.get_map))
    );
    println!("{}", row("get: kvs", &s.get, Some(&s.get_map)));
    println!(
        "{}",
        row("get: kvs, unverified", &s.get_unverified, Some(&s.get_map))
    );
    println!(
        "{}",
        row("get: kvs, by a reader", &s.get_reader, Some(&s.get_map))
    );
    println!(
        "{}",
        row("get: kvs, 64 at once", &s.get_many, Some(&s.get_map))
    );
    println!("{}", row("miss: map", &s.miss_map, None));
    println!("{}", row("miss: kvs", &s.miss, Some(&s.miss_map)));
    println!("{}", row("overwrite: kvs", &s.overwrite, None));
    println!(
        "{}",
        row("overwrite: beside a snapshot", &s.overwrite_beside, None)
    );
    println!("{}", row("snapshot: making one", &s.snapshot_made, None));
    println!(
        "{}",
        row("snapshot: get", &s.snapshot_get, Some(&s.get_map))
    );
    println!("{}", row("iterate, a pair", &s.iterate, None));
    println!("{}", row("scan, 100 at a time, a key", &s.scan, None));
    println!(
        "verify: {:.2} GB/s, index: {:.1} bytes a key, behind 2 MiB page-table entries: {:.0} % of the log",
        common::median(&s.verify_gbs),
        s.index_bytes,
        100.0 * s.large_pages
    );
}

fn single_operations(c: &mut Criterion) {
    let n = scale().keys.min(100_000);
    let store = Options::new().open_in_memory().expect("the store opens");
    for i in 0..n {
        store.set(key(i), value(i)).expect("set");
    }
    let mut at = 0;
    c.bench_function("get", |b| {
        b.iter(|| {
            at = (at + 7919) % n;
            black_box(store.get(key(at)).expect("get"))
        });
    });
    c.bench_function("get, missing", |b| {
        b.iter(|| {
            at = (at + 7919) % n;
            black_box(store.get(absent(at)).expect("get"))
        });
    });
    c.bench_function("set, overwriting", |b| {
        b.iter(|| {
            at = (at + 7919) % n;
            store.set(key(at), value(at)).expect("set");
        });
    });
}

fn main() {
    loads();
    if std::env::args().any(|arg| arg == "load") {
        return;
    }
    table();
    let mut criterion = Criterion::default().configure_from_args();
    single_operations(&mut criterion);
    criterion.final_summary();
}
