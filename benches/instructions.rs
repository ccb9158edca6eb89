//! Instructions of one put, get, miss and so on, as valgrind counts them, beside those in
//! `instructions.json`. A count does not depend on how busy the machine is, so a few percent are noticed.
//!
//! `cargo bench --bench instructions` fails if an operation takes more than it did; `-- --write` puts the
//! counts on file instead. Needs valgrind; without it nothing is checked, unless `KVS_REQUIRE_ALL` is set.
//!
//! Method: this program runs itself under `valgrind --tool=callgrind`, once with N and once with 2 N
//! operations of one kind on the same store of 50,000 keys; the difference, divided by N, is one of them.
//! What comes before and after cancels out. The store is in memory, without threads, and its salts are
//! always the same. So not counted: what the kernel does, pages brought in ahead of the writer, sealing of
//! segments. The few instructions that make a key are.

#![allow(clippy::print_stdout)]

#[path = "instructions/baseline.rs"]
mod baseline;
mod common;

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};

use baseline::{Baseline, Counts, compare};
use common::{absent, key, shuffled};
use kvs::{Batch, Compaction, Options, Store};

/// Keys of the store, and operations of the shorter run.
const KEYS: usize = 50_000;

const VALUE: [u8; 100] = [7; 100];

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");

const WRITE: &str = "cargo bench --bench instructions -- --write";

/// Runs the operation for each of the numbers, which are shuffled and below twice [`KEYS`].
type Work = fn(&Store, &[u32]);

/// Number `i` of the keys that are there.
fn present(i: u32) -> [u8; 16] {
    key(i as usize % KEYS)
}

/// Number `i` of those that are not.
fn new(i: u32) -> [u8; 16] {
    key(KEYS + i as usize)
}

fn get(store: &Store, order: &[u32]) {
    for i in order {
        let value = store.get(present(*i)).expect("get");
        black_box(&value.expect("it is there")[..]);
    }
}

const OPERATIONS: [(&str, Work); 9] = [
    ("put", |store, order| {
        for i in order {
            store.set(new(*i), VALUE).expect("set");
        }
    }),
    ("put, batches of 1000", |store, order| {
        for chunk in order.chunks(1000) {
            let mut batch = Batch::new();
            for i in chunk {
                batch.set(new(*i), VALUE);
            }
            store.write(&batch).expect("write");
        }
    }),
    ("overwrite", |store, order| {
        for i in order {
            store.set(present(*i), VALUE).expect("set");
        }
    }),
    ("get", get),
    (UNVERIFIED, get),
    ("get, reader", |store, order| {
        let reader = store.reader();
        for i in order {
            let value = reader.get(present(*i)).expect("get");
            black_box(value.expect("it is there"));
        }
    }),
    ("get, 64 at once", |store, order| {
        for chunk in order.chunks(64) {
            let keys: Vec<_> = chunk.iter().map(|i| present(*i)).collect();
            for value in store.get_many(&keys).expect("get") {
                black_box(&value.expect("it is there")[..]);
            }
        }
    }),
    ("miss", |store, order| {
        for i in order {
            let value = store.get(absent(*i as usize)).expect("get");
            assert!(black_box(value).is_none());
        }
    }),
    ("iterate", |store, order| {
        for _ in 0..order.len() / KEYS {
            let mut pairs = 0;
            for pair in store.iter().expect("iter") {
                black_box(pair.expect("pair"));
                pairs += 1;
            }
            assert_eq!(pairs, KEYS);
        }
    }),
];

const UNVERIFIED: &str = "get, unverified";

/// A store of [`KEYS`] keys, then `n` operations called `name`.
fn run(name: &str, n: usize) -> ! {
    let (_, work) = OPERATIONS
        .iter()
        .find(|(known, _)| *known == name)
        .expect("an operation");
    // One segment holds everything: none ends in one of the runs only.
    let options = Options::new()
        .compaction(Compaction::Manual)
        .segment_bytes(kvs::SEGMENT_BYTES_MAX)
        .verify_reads(name != UNVERIFIED);
    let store = kvs::testing::open_in_memory(&options, 1).expect("the store opens");
    for i in shuffled(KEYS, 3) {
        store.set(key(i as usize), VALUE).expect("set");
    }
    let order = shuffled(2 * KEYS, 4);
    work(&store, &order[..n]);
    // Without closing: a hint file takes the longer, the more there is.
    std::process::exit(0);
}

/// Instructions of a run under valgrind.
fn counted(name: &str, n: usize, dir: &Path) -> Result<u64, String> {
    let out = dir.join(format!("{n}"));
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    // Without the environment, which lies on the stack and moves what is above it.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let ran = Command::new("valgrind")
        .env_clear()
        .env("PATH", path)
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(own)
        .args(["--run", name, &n.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success() {
        return Err(format!(
            "{name}, {n} under valgrind: {}\n{said}",
            ran.status
        ));
    }
    let text = std::fs::read_to_string(&out).map_err(|error| format!("{out:?}: {error}"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.and_then(|total| total.trim().parse().ok());
    total.ok_or(format!("{out:?}: no totals"))
}

/// Instructions of one operation: both runs at once, since counts do not mind.
fn count(name: &str) -> Result<f64, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (short, long) = std::thread::scope(|scope| {
        let short = scope.spawn(|| counted(name, KEYS, dir.path()));
        let long = counted(name, 2 * KEYS, dir.path());
        (short.join().expect("no panic"), long)
    });
    let more = long?.checked_sub(short?);
    let more = more.ok_or(format!("{name}: fewer instructions for more operations"))?;
    // A tenth of an instruction is all that is ever looked at.
    Ok((more as f64 / KEYS as f64 * 10.0).round() / 10.0)
}

/// Target and version of the compiler, as `rustc -vV` calls them.
fn compiler() -> Result<(String, String), String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let said = Command::new(rustc)
        .arg("-vV")
        .output()
        .map_err(|error| format!("rustc: {error}"))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let line = |name| said.lines().find_map(|line| line.strip_prefix(name));
    match (line("host: "), line("release: ")) {
        (Some(host), Some(release)) => Ok((host.to_owned(), release.to_owned())),
        _ => Err(format!("rustc -vV said {said:?}")),
    }
}

/// Counts everything, and compares or writes. False if something takes more than it did.
fn check(write: bool) -> Result<bool, String> {
    let (target, rustc) = compiler()?;
    let text = match std::fs::read_to_string(FILE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
        read => read.map_err(|error| format!("{FILE}: {error}"))?,
    };
    let mut file = Baseline::parse(&text).map_err(|error| format!("{FILE}: {error}"))?;
    let mut now = Counts::new();
    for (name, _) in OPERATIONS {
        now.insert(name.to_owned(), count(name)?);
    }
    let mut new = Baseline::default();
    new.insert(&target, &rustc, now.clone());
    println!("instructions an operation, rustc {rustc}, {target}");
    let mut good = true;
    match file.choose(&target, &rustc) {
        None => println!("no baseline for {target}; to add: {}", new.to_text()),
        Some(chosen) => {
            let verdict = compare(&chosen, &now);
            let percent = 100.0 * chosen.tolerance;
            println!("{}", verdict.table);
            if chosen.rustc != rustc {
                println!(
                    "no baseline for rustc {rustc}: beside that of {}, {percent:.0} % allowed; to add, \
                     with `{WRITE}`: {}",
                    chosen.rustc,
                    new.to_text()
                );
            }
            if !verdict.better.is_empty() {
                println!(
                    "better by more than {percent:.0} %: {}; put it on file with `{WRITE}`",
                    verdict.better.join("; ")
                );
            }
            if !verdict.worse.is_empty() && !write {
                println!(
                    "FAILED: more than {percent:.0} % above the baseline, or not in it: {}\nif that is \
                     meant, and the commit says why: `{WRITE}`",
                    verdict.worse.join("; ")
                );
                good = false;
            }
        }
    }
    if write {
        file.insert(&target, &rustc, now);
        std::fs::write(FILE, file.to_text()).map_err(|error| format!("{FILE}: {error}"))?;
        println!("written: {FILE}");
    }
    Ok(good)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, name, n] = &args[..]
        && mode == "--run"
    {
        run(name, n.parse().expect("a number"));
    }
    if args.iter().any(|arg| arg == "--test") {
        // That each runs: as a process of its own, since a run ends with one.
        let own = std::env::current_exe().expect("a path");
        for (name, _) in OPERATIONS {
            let run = Command::new(&own)
                .args(["--run", name, &KEYS.to_string()])
                .status();
            assert!(run.expect("it starts").success(), "{name}");
        }
        return ExitCode::SUCCESS;
    }
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        println!("SKIPPED: valgrind cannot be started: {error}");
        return match std::env::var_os("KVS_REQUIRE_ALL") {
            None => ExitCode::SUCCESS,
            Some(_) => ExitCode::FAILURE,
        };
    }
    match check(args.iter().any(|arg| arg == "--write")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
