//! SIGKILL in the middle of writing, over and over on one store: nothing acknowledged may be lost,
//! nothing may come back, and the one operation in flight happened whole or not at all.
//!
//! Method: a child (this test binary again) performs operations `first..`, each a function of the
//! seed and its number, and writes the number into a pipe when the call has returned. The pipe is
//! the journal: what is in it survives the child. The parent kills the child 1 to 20 ms, now and then
//! 100 ms, after its first acknowledgement, opens the store and compares it with a model fed from
//! the journal. Segments are of the smallest size, so that kills hit rotation, sealing, hints and
//! compaction; every fifth kill, not counted, hits recovery itself.
//!
//! A kill leaves the kernel's memory alone, so both durability levels must pass. What a power cut
//! leaves is simulated elsewhere (`tests/crash.rs`).
//!
//! `KVS_KILL_SEED` repeats the operations of a run; the moments of its kills cannot be repeated. The soak
//! of everything at once (`kill/mixed.rs`) is `KVS_KILL_CYCLES=n` long instead of 25.

#[path = "kill/mixed.rs"]
mod mixed;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvs::{Durability, Options, SEGMENT_BYTES_MIN, SegmentKind, Store};
use tempfile::TempDir;

/// Kills of a writing child, each with acknowledged writes since the one before.
const KILLS: u64 = 50;
/// Rounds that must have filled a segment, and that must have compacted.
const MET_MIN: u64 = 2;
const KEYS: u64 = 60;
const SIGKILL: i32 = 9;
/// Far more than a child needs to open a store on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const CHILD: &str = "KVS_KILL_CHILD";
const CHILD_TEST: &str = "the_child_writes_until_it_is_killed";

/// SplitMix64: small, seedable, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[derive(Debug)]
enum Operation {
    Set(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Flush,
    Compact,
}

/// Operation number `i` of the run.
fn operation(seed: u64, i: u64) -> Operation {
    let mut random = Random(seed ^ i.wrapping_mul(0xD6E8_FEB8_6659_FD93));
    match random.below(1000) {
        0..60 => Operation::Compact,
        60..80 => Operation::Flush,
        80..260 => Operation::Remove(key(random.below(KEYS))),
        _ => Operation::Set(key(random.below(KEYS)), value(&mut random, i)),
    }
}

/// From the empty key to one of 2,000 bytes, most of them short.
fn key(id: u64) -> Vec<u8> {
    match id {
        0 => Vec::new(),
        1 => vec![b'k'; 2000],
        id => format!("key {id}").into_bytes(),
    }
}

/// Nothing, a few bytes, some pages, or more than a segment holds; the number of its operation all
/// over it.
fn value(random: &mut Random, i: u64) -> Vec<u8> {
    let len = match random.below(400) {
        0..12 => SEGMENT_BYTES_MIN + random.below(40_000),
        12..30 => 0,
        30..200 => random.below(200),
        200..320 => random.below(6_000),
        _ => random.below(30_000),
    };
    let number = i.to_le_bytes();
    number.into_iter().cycle().take(len as usize).collect()
}

fn options(level: Durability) -> Options {
    Options::new()
        .durability(level)
        .segment_bytes(SEGMENT_BYTES_MIN)
}

/// What the child is told: the fields of its environment variable.
struct Orders<'a> {
    level: Durability,
    seed: u64,
    first: u64,
    dir: &'a str,
}

impl<'a> Orders<'a> {
    fn encode(&self) -> String {
        let level = match self.level {
            Durability::Os => "os",
            _ => "sync",
        };
        format!("{level} {} {} {}", self.seed, self.first, self.dir)
    }

    fn decode(text: &'a str) -> Option<Self> {
        let mut fields = text.splitn(4, ' ');
        Some(Self {
            level: match fields.next()? {
                "os" => Durability::Os,
                _ => Durability::Sync,
            },
            seed: fields.next()?.parse().ok()?,
            first: fields.next()?.parse().ok()?,
            dir: fields.next()?,
        })
    }
}

/// Not a test by itself: what the parent starts. Does nothing without its orders.
#[test]
fn the_child_writes_until_it_is_killed() {
    let Ok(orders) = std::env::var(CHILD) else {
        return;
    };
    let orders = Orders::decode(&orders).expect("orders from the parent");
    let store = options(orders.level).open(orders.dir).unwrap();
    for i in orders.first.. {
        match operation(orders.seed, i) {
            Operation::Set(key, value) => store.set(key, value).unwrap(),
            Operation::Remove(key) => drop(store.remove(key).unwrap()),
            Operation::Flush => store.flush().unwrap(),
            Operation::Compact => drop(store.compact().unwrap()),
        }
        // One write call, hence whole or not at all.
        let acknowledgement = format!("ack {i}\n");
        let sent = io::stderr().write_all(acknowledgement.as_bytes());
        sent.expect("a parent that listens");
    }
}

/// When to kill.
enum Kill {
    /// So long after the first acknowledgement.
    WhileWriting(Duration),
    /// So long after the start, writing or not.
    WhileOpening(Duration),
}

/// Starts a child, kills it, and returns how many operations it has acknowledged.
fn run_and_kill(orders: &Orders<'_>, kill: Kill) -> u64 {
    let acknowledged = AtomicU64::new(0);
    let take = |number: &str| {
        let count = acknowledged.load(Ordering::Relaxed);
        let expected = (orders.first + count).to_string();
        assert_eq!(number, expected, "in order, none left out");
        acknowledged.store(count + 1, Ordering::Relaxed);
    };
    start_and_kill(CHILD_TEST, (CHILD, &orders.encode()), kill, take);
    acknowledged.into_inner()
}

/// Starts this program again for one `test`, with `orders` in its environment; what it acknowledges goes
/// to `take`.
fn start_and_kill(test: &str, orders: (&str, &str), kill: Kill, take: impl Fn(&str) + Sync) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(orders.0, orders.1)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let pipe = child.stderr.take().unwrap();
    let acknowledged = AtomicU64::new(0);
    thread::scope(|scope| {
        let journal = scope.spawn(|| {
            read_journal(pipe, |number| {
                take(number);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            })
        });
        match kill {
            Kill::WhileOpening(after) => thread::sleep(after),
            Kill::WhileWriting(after) => {
                while acknowledged.load(Ordering::Relaxed) == 0
                    && !journal.is_finished()
                    && start.elapsed() < PATIENCE
                {
                    thread::sleep(Duration::from_micros(100));
                }
                thread::sleep(after);
            }
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let complaints = journal.join().unwrap();
        assert_eq!(
            status.signal(),
            Some(SIGKILL),
            "the child said: {complaints}"
        );
    });
}

/// Takes acknowledgements to the end of the pipe; returns whatever else the child had to say.
fn read_journal(pipe: impl io::Read, take: impl Fn(&str)) -> String {
    let mut complaints = String::new();
    for line in BufReader::new(pipe).lines() {
        let line = line.unwrap();
        match line.strip_prefix("ack ") {
            Some(number) => take(number),
            None => complaints = complaints + &line + "\n",
        }
    }
    complaints
}

/// What the store must hold: the journal, applied.
#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, Vec<u8>>);

impl Model {
    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Set(key, value) => drop(self.0.insert(key, value)),
            Operation::Remove(key) => drop(self.0.remove(&key)),
            Operation::Flush | Operation::Compact => {}
        }
    }

    /// Applies the operation that was in flight if the store shows that it happened.
    fn settle(&mut self, operation: Operation, store: &Store) {
        let happened = match &operation {
            Operation::Set(key, value) => {
                store.get(key).unwrap().as_deref() == Some(value.as_slice())
            }
            Operation::Remove(key) => store.get(key).unwrap().is_none(),
            Operation::Flush | Operation::Compact => true,
        };
        if happened {
            self.apply(operation);
        }
    }

    fn assert_equals(&self, store: &Store) {
        for id in 0..KEYS {
            let key = key(id);
            let (found, expected) = (store.get(&key).unwrap(), self.0.get(&key));
            assert!(
                found.as_deref() == expected.map(Vec::as_slice),
                "key {id}: {} instead of {}",
                describe(found.as_deref()),
                describe(expected.map(Vec::as_slice)),
            );
        }
        assert_eq!(store.len(), self.0.len() as u64);
        let mut pairs = BTreeMap::new();
        for pair in store.iter().unwrap() {
            let (key, value) = pair.unwrap();
            let twice = pairs.insert(key.to_vec(), value.to_vec());
            assert_eq!(twice, None, "key {} twice", key.escape_ascii());
        }
        assert!(pairs == self.0, "iteration differs from get");
    }
}

/// A value by its length and the number of the operation that wrote it.
fn describe(value: Option<&[u8]>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(value) => match value.first_chunk() {
            Some(number) => {
                let number = u64::from_le_bytes(*number);
                format!("{} bytes of operation {number}", value.len())
            }
            None => format!("{value:02x?}"),
        },
    }
}

/// Names what is needed to look into a failure, and keeps the store for it.
struct Evidence {
    seed: u64,
    dir: TempDir,
}

impl Drop for Evidence {
    fn drop(&mut self) {
        if thread::panicking() {
            self.dir.disable_cleanup(true);
            let (seed, dir) = (self.seed, self.dir.path().display());
            let text = format!("KVS_KILL_SEED={seed}, store kept in {dir}\n");
            // A second failure would hide the first.
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }
}

fn seed() -> u64 {
    match std::env::var("KVS_KILL_SEED") {
        Ok(seed) => seed.parse().expect("KVS_KILL_SEED is a number"),
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            now.as_nanos() as u64 ^ u64::from(std::process::id())
        }
    }
}

/// Highest id of a segment that compaction wrote.
fn newest_merged(store: &Store) -> Option<u64> {
    let segments = store.stats().segments.into_iter();
    let merged = segments.filter(|segment| segment.kind == SegmentKind::Merged);
    merged.map(|segment| segment.id).max()
}

/// A segment and its hint, MANIFEST: after a close nothing else may be there.
fn assert_no_leftovers(dir: &Path, segments: usize) {
    let files = std::fs::read_dir(dir).unwrap().count();
    assert!(
        files <= 2 * segments + 1,
        "{files} files for {segments} segments"
    );
}

fn survives_kills(level: Durability) {
    let seed = seed();
    let evidence = Evidence {
        seed,
        dir: TempDir::new().unwrap(),
    };
    let dir = evidence.dir.path().join("store");
    let mut random = Random(seed);
    let mut model = Model::default();
    let mut next = 0;
    let mut merged = None;
    let (mut kills, mut rotations, mut compactions) = (0, 0, 0);
    for round in 0u64.. {
        if kills >= KILLS && rotations >= MET_MIN && compactions >= MET_MIN {
            break;
        }
        assert!(
            kills < 10 * KILLS,
            "met {rotations} rotations, {compactions} compactions in {next} operations"
        );
        let opening = round % 5 == 4;
        let micros = match round % 5 {
            // Long enough for a compaction to come to its end on a slow machine.
            3 => 20_000 + random.below(80_000),
            _ => 1_000 + random.below(19_000),
        };
        let kill = if opening {
            Kill::WhileOpening(Duration::from_micros(random.below(15_000)))
        } else {
            Kill::WhileWriting(Duration::from_micros(micros))
        };
        let orders = Orders {
            level,
            seed,
            first: next,
            dir: dir.to_str().unwrap(),
        };
        let acknowledged = run_and_kill(&orders, kill);
        if !opening {
            assert!(acknowledged > 0, "round {round}: the kill met no writes");
            kills += 1;
        }
        let mut bytes = 0;
        for i in next..next + acknowledged {
            let operation = operation(seed, i);
            if let Operation::Set(_, value) = &operation {
                bytes += value.len() as u64;
            }
            model.apply(operation);
        }
        next += acknowledged;
        // More than fits one segment.
        rotations += u64::from(bytes > SEGMENT_BYTES_MIN);

        // Read-only leaves all the mending to the next child, which may be killed at it.
        let read_only = round % 2 == 1;
        let store = options(level).read_only(read_only).open(&dir).unwrap();
        let recovery = store.recovery();
        assert!(!recovery.incomplete, "round {round}: {recovery}");
        // Every byte a child has stored is in the kernel's memory: no segment can be missing a link.
        assert_eq!(recovery.dropped_segments, 0, "round {round}: {recovery}");
        model.settle(operation(seed, next), &store);
        next += 1;
        model.assert_equals(&store);
        compactions += u64::from(newest_merged(&store) > merged);
        if round % 10 == 0 {
            assert_eq!(store.verify().unwrap().damage, [], "round {round}");
        }
        if round % 4 == 0 {
            // Few segments let the next child get further with its own compactions.
            store.compact().unwrap();
            model.assert_equals(&store);
        }
        merged = newest_merged(&store);
        let segments = store.stats().segments.len();
        store.close().unwrap();
        if !read_only {
            assert_no_leftovers(&dir, segments);
        }
    }

    let store = options(level).open(&dir).unwrap();
    model.assert_equals(&store);
}

#[test]
fn nothing_acknowledged_is_lost_at_os() {
    survives_kills(Durability::Os);
}

#[test]
fn nothing_acknowledged_is_lost_at_sync() {
    survives_kills(Durability::Sync);
}
