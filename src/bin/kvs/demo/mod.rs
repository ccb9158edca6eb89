//! `kvs demo`: put, get, kill -9 and recovery, on the reader's own machine and files.
//!
//! 1. Every pair of a corpus is stored, read back without a copy and compared.
//! 2. Some pairs are stored again, each synced to disk.
//! 3. A child writes and acknowledges every write over a pipe, until SIGKILL.
//! 4. The store is opened again and compared with every pair and every acknowledgement.
//!
//! A step that does not hold ends the demo with its reason. The store lies in a temporary
//! directory that goes away however the demo ends (`scratch`).

mod corpus;
mod latency;
pub mod scratch;
pub mod writer;

use std::fmt;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use kvs::{Durability, Options, Store};

use crate::exit::{Answer, Failure};
use crate::output::Output;
use crate::people::size;
use corpus::Corpus;
use latency::Latencies;
use scratch::Scratch;

/// A machine too slow for the whole corpus stores part of it: the demo has 30 s for everything.
const PUT_TIME_MAX: Duration = Duration::from_secs(6);
/// Synced writes wait for the disk: enough for a 99th percentile, on a slow disk fewer.
const SYNCED_PUTS: usize = 200;
const SYNCED_TIME_MAX: Duration = Duration::from_secs(3);

/// Why the demo did not hold.
#[derive(Debug)]
pub enum DemoError {
    /// A call of the system failed.
    Io {
        what: &'static str,
        source: std::io::Error,
    },
    /// The store answered with something that was not stored.
    Wrong { key: Vec<u8>, when: &'static str },
    /// The store holds more or fewer keys than were stored.
    Count { expected: u64, found: u64 },
    /// The writing child ended by itself, or never acknowledged a write.
    Child(&'static str),
}

impl DemoError {
    /// Whether the store, rather than the machine around it, is at fault.
    pub fn is_about_data(&self) -> bool {
        matches!(self, Self::Wrong { .. } | Self::Count { .. })
    }

    fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::Wrong { key, when } => {
                let key = String::from_utf8_lossy(key);
                write!(
                    f,
                    "{when}, `{key}` was not what was stored; please report this"
                )
            }
            Self::Count { expected, found } => write!(
                f,
                "the store should hold {expected} keys and holds {found}; please report this"
            ),
            Self::Child(what) => write!(f, "the writing child {what}"),
        }
    }
}

/// Runs the demonstration and prints its table.
pub fn run(out: &mut Output) -> Result<Answer, Failure> {
    let begin = Instant::now();
    let mut corpus = Corpus::collect();
    let mut scratch = Scratch::create()?;
    let dir = scratch.path().join("store");

    if !out.json {
        out.line(format_args!("corpus    {corpus}"))?;
        out.line(format_args!("store     {}", scratch.path().display()))?;
        out.line("")?;
    }
    latency::header(out)?;

    let store = Options::new().durability(Durability::Os).open(&dir)?;
    let stored = put(&store, &corpus, Durability::Os)?;
    corpus.truncate(stored.count());
    stored.row("put", out)?;
    get(&store, &corpus, "right after it was stored")?.row("get, compared", out)?;
    store.close()?;

    let store = Options::new().durability(Durability::Sync).open(&dir)?;
    put(&store, &corpus, Durability::Sync)?.row("put, synced", out)?;
    store.close()?;

    let acknowledged = writer::kill_in_flight(&dir)?;

    let store = Store::open(&dir)?;
    let recovery = store.recovery().clone();
    get(&store, &corpus, "after the kill")?.row("get, after kill", out)?;
    let keys = writer::check(&store, acknowledged)?;
    let expected = corpus.pairs().len() as u64 + keys;
    if store.len() != expected {
        return Err(DemoError::Count {
            expected,
            found: store.len(),
        }
        .into());
    }
    store.close()?;

    let (files, bytes) = disk_usage(&dir)?;
    scratch.remove()?;

    if out.json {
        return out
            .object(|o| {
                o.plain("acknowledged", acknowledged)
                    .plain("keys", expected)
                    .plain("missing", 0)
                    .plain("wrong", 0)
                    .plain("clean", recovery.clean)
                    .plain("records_scanned", recovery.records_scanned)
                    .plain("disk_bytes", bytes)
                    .plain("files", files)
                    .plain("seconds", begin.elapsed().as_secs_f64());
            })
            .map(|()| Answer::Yes);
    }
    out.line("")?;
    out.line(format_args!(
        "kill -9   in mid-flight, {acknowledged} writes after the child began"
    ))?;
    out.line(format_args!("recovery  {recovery}"))?;
    out.line(format_args!(
        "check     every acknowledged write is there: {expected} keys, 0 missing, 0 wrong"
    ))?;
    out.line(format_args!(
        "disk      {} in {files} files, removed again",
        size(bytes)
    ))?;
    out.line(format_args!(
        "time      {:.1} s",
        begin.elapsed().as_secs_f64()
    ))?;
    Ok(Answer::Yes)
}

/// Stores the corpus from its first pair, or, synced, some of its last: the small ones.
fn put(store: &Store, corpus: &Corpus, durability: Durability) -> Result<Latencies, Failure> {
    let mut latencies = Latencies::new();
    let begin = Instant::now();
    let pairs = corpus.pairs();
    let synced = pairs.len() - SYNCED_PUTS.min(pairs.len());
    let (pairs, time_max) = match durability {
        Durability::Sync => (&pairs[synced..], SYNCED_TIME_MAX),
        _ => (pairs, PUT_TIME_MAX),
    };
    for (key, value) in pairs {
        if begin.elapsed() > time_max {
            break;
        }
        let start = Instant::now();
        store.set(key, value)?;
        latencies.add(start.elapsed(), value.len());
    }
    Ok(latencies)
}

/// Reads every pair and compares it, byte for byte, with what was stored.
fn get(store: &Store, corpus: &Corpus, when: &'static str) -> Result<Latencies, Failure> {
    let mut latencies = Latencies::new();
    for (key, value) in corpus.pairs() {
        let start = Instant::now();
        let found = store.get(key)?;
        let elapsed = start.elapsed();
        // `found` borrows the mapped file: nothing has been copied.
        if found.as_deref() != Some(value.as_slice()) {
            let key = key.clone();
            return Err(DemoError::Wrong { key, when }.into());
        }
        latencies.add(elapsed, value.len());
    }
    Ok(latencies)
}

/// Number of files in `dir`, and the bytes of disk they take.
fn disk_usage(dir: &Path) -> Result<(u64, u64), DemoError> {
    use std::os::unix::fs::MetadataExt;
    let list = || -> std::io::Result<(u64, u64)> {
        let (mut files, mut bytes) = (0, 0);
        for entry in std::fs::read_dir(dir)? {
            files += 1;
            bytes += entry?.metadata()?.blocks() * 512;
        }
        Ok((files, bytes))
    };
    list().map_err(DemoError::io("listing the store"))
}

/// A child process that does not outlive its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only if it is gone already, which is what we want.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
