//! Several threads at once: readers beside readers, readers beside writers, durable writers beside
//! each other; each beside its ceiling in the same run.
//!
//! `cargo bench --bench concurrent [PART…]`, parts: readers, ycsb, durable, latency, fill.
//! `KVS_BENCH_KEYS` and `KVS_BENCH_ROUNDS` change the size. Durable writers sync to the directory that
//! `KVS_BENCH_DIR` names (default: the system's temporary directory).

#![allow(clippy::print_stdout)]

mod common;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Random, WarmMemory, key, median, row, scale, seconds, sum, warm_memory};
use kvs::{Batch, Durability, Options, Store};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use parking_lot::{Condvar, Mutex, RwLock};

const VALUE_BYTES: usize = 100;

/// Memory that a put takes at most: of the log, and of an index that grows or of compaction's outputs.
const BYTES_A_PUT: usize = 320;

type Map = RwLock<hashbrown::HashMap<Box<[u8]>, Box<[u8]>>>;

fn value(i: usize) -> [u8; VALUE_BYTES] {
    [i as u8; VALUE_BYTES]
}

fn directory() -> tempfile::TempDir {
    match std::env::var_os("KVS_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .expect("a directory can be made")
}

/// A store of `n` keys in `dir`, filled in batches.
fn filled(dir: &std::path::Path, n: usize) -> Store {
    let store = Store::open(dir).expect("the store opens");
    for start in (0..n).step_by(1000) {
        let mut batch = Batch::new();
        for i in start..(start + 1000).min(n) {
            batch.set(key(i), value(i));
        }
        store.write(&batch).expect("write");
    }
    store
}

/// Nanoseconds an operation when `threads` threads do `each` operations at once.
fn together(threads: usize, each: usize, work: impl Fn(usize, usize) + Sync) -> f64 {
    let start = Barrier::new(threads + 1);
    let mut time = 0.0;
    std::thread::scope(|scope| {
        let (start, work) = (&start, &work);
        let running: Vec<_> = (0..threads)
            .map(|t| {
                scope.spawn(move || {
                    start.wait();
                    for i in 0..each {
                        work(t, i);
                    }
                })
            })
            .collect();
        start.wait();
        time = seconds(|| {
            for thread in running {
                thread.join().expect("no thread panics");
            }
        });
    });
    time * 1e9 / (threads * each) as f64
}

/// One thread against two, both reading everything at random.
fn readers(keys: usize, rounds: usize) {
    let dir = directory();
    warm_memory(keys * 300 / (1 << 20) + 64);
    let store = filled(dir.path(), keys);
    let (mut one, mut two, mut plain, mut many) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        let get = |t: usize, i: usize| {
            let mut random = Random((round * 1_000_003 + t * 7 + i * 31) as u64);
            let value = store.get(key(random.below(keys))).expect("get");
            assert_ne!(sum(&value.expect("it is there")), 1);
        };
        one.push(together(1, keys, get));
        two.push(together(2, keys, get));
        let reader = store.reader();
        plain.push(
            seconds(|| {
                for i in 0..keys {
                    let mut random = Random((round * 1_000_003 + i * 31) as u64);
                    let value = reader.get(key(random.below(keys))).expect("get");
                    assert_ne!(sum(value.expect("it is there")), 1);
                }
            }) * 1e9
                / keys as f64,
        );
        let mut random = Random(round as u64);
        many.push(
            seconds(|| {
                for _ in 0..keys / 64 {
                    let wanted: Vec<_> = (0..64).map(|_| key(random.below(keys))).collect();
                    for value in store.get_many(&wanted).expect("get") {
                        assert_ne!(sum(&value.expect("it is there")), 1);
                    }
                }
            }) * 1e9
                / (keys / 64 * 64) as f64,
        );
    }
    println!("{}", row("get: 1 thread", &one, None));
    println!("{}", row("get: 2 threads (each op)", &two, Some(&one)));
    println!("{}", row("get: a reader", &plain, Some(&one)));
    println!("{}", row("get: many, 64 at once", &many, Some(&one)));
}

/// Ranks by a Zipf distribution with exponent 0.99 (Gray et al., "Quickly Generating Billion-Record
/// Synthetic Databases", 1994, as in YCSB).
struct Zipf {
    n: f64,
    alpha: f64,
    eta: f64,
    zeta: f64,
}

impl Zipf {
    fn new(n: usize) -> Self {
        let theta = 0.99f64;
        let zeta = |n: usize| (1..=n).map(|i| (i as f64).powf(-theta)).sum::<f64>();
        let (zeta_n, zeta_2) = (zeta(n), zeta(2));
        let n = n as f64;
        Self {
            n,
            alpha: 1.0 / (1.0 - theta),
            eta: (1.0 - (2.0 / n).powf(1.0 - theta)) / (1.0 - zeta_2 / zeta_n),
            zeta: zeta_n,
        }
    }

    fn pick(&self, random: &mut Random) -> usize {
        let u = random.next() as f64 / u64::MAX as f64;
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(0.99) {
            return 1;
        }
        let rank = self.n * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as usize).min(self.n as usize - 1)
    }
}

/// YCSB A: half reads, half overwrites, Zipf, two threads.
fn ycsb(keys: usize, rounds: usize) {
    let zipf = Zipf::new(keys);
    let (mut of_map, mut of_store) = (vec![], vec![]);
    let pick = |t: usize, i: usize, round: usize| {
        let mut random = Random((round * 1_000_003 + t * 77_777_777 + i) as u64);
        // The popular keys are spread over the key space.
        let rank = zipf.pick(&mut random);
        let spread = Random(rank as u64).below(keys);
        (spread, random.next().is_multiple_of(2))
    };
    for round in 0..rounds {
        let map = Map::default();
        let mut warm = WarmMemory::new(keys * BYTES_A_PUT);
        for i in 0..keys {
            if i % 1024 == 0 {
                warm.keep((keys - i) * BYTES_A_PUT);
            }
            map.write().insert(key(i).into(), value(i).into());
        }
        of_map.push(together(2, keys, |t, i| {
            let (k, read) = pick(t, i, round);
            match read {
                true => assert!(map.read().get(&key(k)[..]).is_some_and(|v| sum(v) != 1)),
                false => {
                    map.write().insert(key(k).into(), value(i).into());
                }
            }
        }));
        drop(map);
        warm_memory(keys * 300 / (1 << 20) + 64);
        let dir = directory();
        let store = filled(dir.path(), keys);
        // The map takes no more memory now; a log does.
        let warm = Mutex::new(WarmMemory::new(keys * BYTES_A_PUT));
        of_store.push(together(2, keys, |t, i| {
            if t == 0 && i % 1024 == 0 {
                // By then half of what both did were puts.
                warm.lock().keep((keys - i) * BYTES_A_PUT);
            }
            let (k, read) = pick(t, i, round);
            match read {
                true => {
                    let value = store.get(key(k)).expect("get");
                    assert!(value.is_some_and(|v| sum(&v) != 1));
                }
                false => store.set(key(k), value(i)).expect("set"),
            }
        }));
    }
    println!("{}", row("YCSB A, 2 threads: map", &of_map, None));
    println!(
        "{}",
        row("YCSB A, 2 threads: kvs", &of_store, Some(&of_map))
    );
}

/// The ceiling of durable writes: bare appends to a mapped, fully allocated file, syncs shared by
/// whoever waits. No checksums, no index, no recovery.
struct BareLog {
    file: std::fs::File,
    log: Mutex<(kvs::testing::FileMap, u64)>,
    synced: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl BareLog {
    fn new(dir: &std::path::Path, bytes: u64) -> Self {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join("bare"))
            .expect("a file can be created");
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)
            .expect("space can be allocated");
        file.sync_all().expect("sync");
        let map = kvs::testing::FileMap::new(&file, bytes).expect("the file can be mapped");
        Self {
            file,
            log: Mutex::new((map, 0)),
            synced: Mutex::new((0, false)),
            changed: Condvar::new(),
        }
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let mine = {
            let mut log = self.log.lock();
            log.0.append(&[&[1u8; 24], key, value], 144);
            log.1 += 1;
            log.1
        };
        let mut synced = self.synced.lock();
        while synced.0 < mine {
            if synced.1 {
                self.changed.wait(&mut synced);
                continue;
            }
            synced.1 = true;
            drop(synced);
            let end = self.log.lock().1;
            self.file.sync_data().expect("sync");
            synced = self.synced.lock();
            *synced = (end, false);
            self.changed.notify_all();
        }
    }
}

/// What the kernel says of the calling thread.
#[derive(Clone, Copy)]
struct Account {
    /// How often others were let in although it would have gone on.
    involuntary: i64,
    /// How often it waited for something.
    voluntary: i64,
    /// How long it had a processor; not while the host of a virtual machine had it.
    ran: Duration,
    at: Instant,
}

impl Account {
    fn now() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("a thread may ask about itself");
        let ran = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("it has a clock");
        Self {
            involuntary: usage.involuntary_context_switches(),
            voluntary: usage.voluntary_context_switches(),
            ran: ran.into(),
            at: Instant::now(),
        }
    }

    /// Whether it lost its processor since `then` to others, or to the host for most of the last `ns`. What
    /// was measured before that took `before`: none of it excuses the last.
    fn lost_processor(&self, then: &Self, ns: u64, before: u64) -> bool {
        let stood = (self.at - then.at).saturating_sub(self.ran - then.ran);
        let of_last = (stood.as_nanos() as u64).saturating_sub(before);
        let stolen = self.voluntary == then.voluntary && of_last > ns / 2;
        self.involuntary != then.involuntary || stolen
    }
}

/// Latencies of one thread. Slow ones in which it did not wait, but somebody else had the processor, stand
/// apart: there, too few processors are measured.
struct Latencies {
    own: Vec<u64>,
    apart: Vec<u64>,
    account: Account,
    unasked: u32,
    /// Nanoseconds of those since it was asked.
    since: u64,
}

impl Latencies {
    /// Above this it is asked whether others had the processor.
    const SLOW_NS: u64 = 100_000;

    /// Asked so often anyway, so that what happened earlier does not excuse a slow one.
    const ASKED_EVERY: u32 = 64;

    fn new(capacity: usize) -> Self {
        Self {
            own: Vec::with_capacity(capacity),
            apart: Vec::new(),
            account: Account::now(),
            unasked: 0,
            since: 0,
        }
    }

    /// What was done meanwhile is not measured.
    fn skip(&mut self) {
        (self.account, self.unasked, self.since) = (Account::now(), 0, 0);
    }

    #[inline]
    fn add(&mut self, ns: u64) {
        self.unasked += 1;
        let slow = ns >= Self::SLOW_NS;
        let mut lost = false;
        if slow || self.unasked == Self::ASKED_EVERY {
            let account = Account::now();
            lost = account.lost_processor(&self.account, ns, self.since);
            (self.account, self.unasked, self.since) = (account, 0, 0);
        } else {
            self.since += ns;
        }
        match slow && lost {
            true => self.apart.push(ns),
            false => self.own.push(ns),
        }
    }

    /// Sorted, and what stands apart in words.
    fn finish(mut self) -> (Vec<u64>, String) {
        self.own.sort_unstable();
        let longest = self.apart.iter().max().copied().unwrap_or(0) as f64 / 1e6;
        let apart = format!(
            "{} without a processor, up to {longest:.2} ms, apart",
            self.apart.len()
        );
        (self.own, apart)
    }
}

fn percentile(sorted: &[u64], p: f64) -> f64 {
    let at = ((sorted.len() as f64 * p) as usize).min(sorted.len() - 1);
    sorted[at] as f64
}

/// KiB that the process has had written to storage.
fn written_kib() -> f64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Durable puts: alone, and by several threads that share syncs.
fn durable(rounds: usize, each: usize) {
    for threads in [1, 8, 32] {
        let each = each / threads.min(8);
        let (mut bare, mut ours) = (vec![], vec![]);
        let (mut bare_p50, mut our_p50, mut kib) = (vec![], vec![], vec![]);
        let mut groups = vec![];
        for _ in 0..rounds {
            let dir = directory();
            let log = BareLog::new(dir.path(), (each * threads * 144 + 4096) as u64);
            let latencies = Mutex::new(Vec::new());
            let timed = |work: &dyn Fn()| {
                let start = Instant::now();
                work();
                if threads == 1 {
                    latencies.lock().push(start.elapsed().as_nanos() as u64);
                }
            };
            bare.push(together(threads, each, |t, i| {
                timed(&|| log.put(&key(t * each + i), &value(i)));
            }));
            bare_p50.push(take_median(&latencies));
            drop(log);
            let options = Options::new().durability(Durability::Sync);
            let store = options.open(dir.path()).expect("the store opens");
            store.set("warm", "up").expect("set");
            let before = written_kib();
            ours.push(together(threads, each, |t, i| {
                timed(&|| store.set(key(t * each + i), value(i)).expect("set"));
            }));
            our_p50.push(take_median(&latencies));
            groups.push((each * threads) as f64 / store.stats().group_commits as f64);
            kib.push((written_kib() - before) / (each * threads) as f64);
        }
        println!(
            "{}",
            row(
                &format!("durable, {threads} threads: bare log"),
                &bare,
                None
            )
        );
        println!(
            "{}",
            row(
                &format!("durable, {threads} threads: kvs"),
                &ours,
                Some(&bare)
            )
        );
        if threads == 1 {
            let ratio = median(&our_p50) / median(&bare_p50);
            println!("  alone, p50 against the bare log: {ratio:.2}x");
        }
        println!(
            "  written: {:.2} KiB a put, {:.1} puts a sync",
            median(&kib),
            median(&groups)
        );
    }
}

fn take_median(latencies: &Mutex<Vec<u64>>) -> f64 {
    let mut all = std::mem::take(&mut *latencies.lock());
    if all.is_empty() {
        return 0.0;
    }
    all.sort_unstable();
    percentile(&all, 0.5)
}

/// Latencies of gets, then of puts, while compaction runs and another thread syncs in a loop.
fn latency(keys: usize, rounds: usize) {
    for (name, is_put) in [("get", false), ("put", true)] {
        let (mut p50, mut p999, mut worst) = (vec![], vec![], vec![]);
        for round in 0..rounds {
            let dir = directory();
            let store = filled(dir.path(), keys);
            // Garbage to compact.
            for start in (0..keys / 2).step_by(1000) {
                let mut batch = Batch::new();
                for i in start..start + 1000 {
                    batch.set(key(i * 2 % keys), value(i));
                }
                store.write(&batch).expect("write");
            }
            let stop = AtomicBool::new(false);
            let compactions = AtomicU64::new(0);
            let mut all = Latencies::new(keys);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        store.compact().expect("compact");
                        compactions.fetch_add(1, Ordering::Relaxed);
                        store.flush().expect("flush");
                    }
                });
                let mut random = Random(round as u64);
                for i in 0..keys {
                    let k = random.below(keys);
                    let start = Instant::now();
                    match is_put {
                        true => store.set(key(k), value(i)).expect("set"),
                        false => {
                            let value = store.get(key(k)).expect("get");
                            assert!(value.is_some_and(|v| sum(&v) != 1));
                        }
                    }
                    all.add(start.elapsed().as_nanos() as u64);
                }
                stop.store(true, Ordering::Relaxed);
            });
            let (all, _) = all.finish();
            p50.push(percentile(&all, 0.5));
            p999.push(percentile(&all, 0.999));
            worst.push(percentile(&all, 1.0));
        }
        println!(
            "{name} beside compaction and syncs: p50 {:.0} ns, p99.9 {:.0} ns, max {:.0} us",
            median(&p50),
            median(&p999),
            median(&worst) / 1e3
        );
    }
}

/// The longest put of a fill, with compaction as it comes.
fn fill(puts: usize, rounds: usize) {
    for _ in 0..rounds {
        let mut warm = WarmMemory::new(puts * BYTES_A_PUT);
        let dir = directory();
        let store = Store::open(dir.path()).expect("the store opens");
        let mut all = Latencies::new(puts);
        let started = Instant::now();
        for i in 0..puts {
            if i % 1024 == 0 {
                warm.keep((puts - i) * BYTES_A_PUT);
                all.skip();
            }
            let start = Instant::now();
            store.set(key(i), value(i)).expect("set");
            all.add(start.elapsed().as_nanos() as u64);
        }
        let rate = puts as f64 / started.elapsed().as_secs_f64();
        let (all, apart) = all.finish();
        println!(
            "fill of {puts}: {:.0} k/s, p99.9 {:.1} us, max {:.2} ms; {apart}",
            rate / 1e3,
            percentile(&all, 0.999) / 1e3,
            percentile(&all, 1.0) / 1e6
        );
        drop(store);
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn main() {
    let scale = scale();
    let smoke = scale.rounds == 1;
    let parts: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    println!("{:<34} {:>12}  [     low     high]  against", "", "median");
    if wanted("readers") {
        readers(scale.keys, scale.rounds);
    }
    if wanted("ycsb") {
        ycsb(scale.keys, scale.rounds);
    }
    if wanted("durable") {
        durable(scale.rounds.min(3), if smoke { 64 } else { 4000 });
    }
    if wanted("latency") {
        latency(scale.keys, scale.rounds.min(3));
    }
    if wanted("fill") {
        fill(
            if smoke { 20_000 } else { scale.keys * 5 },
            scale.rounds.min(3),
        );
    }
}
