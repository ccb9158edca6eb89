//! What is measured: each kind of work, in the process that does it.
//!
//! Throughput is measured without timing single operations; latencies, in a pass of their own, include
//! about 50 ns for reading the clock twice. Every byte of every value that is read is summed, and where
//! nobody writes the sums are compared with what they should be.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::data::{Data, KEY_BYTES_MAX, Random, Zipf, picked, shuffled, sum};
use crate::engines::{self, Engine, Level, Setup};
use crate::job::{Job, Outcome, Stored, Work};
use crate::probe::{self, Cost, Meter};

/// Keys of one write where keys are written many at a time.
const BATCH: usize = 1000;

/// Overwrites for every key.
const OVERWRITES: u64 = 5;

/// How often the space that a directory takes is looked at.
const SPACE_SAMPLE: Duration = Duration::from_millis(10);

/// Overwrites between two syncs, beside gets.
const SYNC_EVERY: u64 = 1000;

/// How often so many are made, where an engine can: the same load for every engine, which leaves it time
/// to compact.
const OVERWRITES_EVERY: Duration = Duration::from_millis(10);

/// Most points of a drawn line.
const POINTS_MAX: usize = 300;

/// Keys whose values are compared byte by byte.
const VERIFIED: usize = 2000;

/// Most operations that are timed one by one.
const TIMED_MAX: usize = 300_000;

/// Does the job with its engine; `None` if the engine is not here.
pub fn run(job: &Job) -> Option<Outcome> {
    if let Some(members) = &job.members {
        std::fs::write(members, std::process::id().to_string())
            .expect("the control group takes this process");
    } else {
        probe::warm_memory(job.warm);
    }
    engines::with(&job.engine, Running { job })
}

struct Running<'a> {
    job: &'a Job,
}

impl engines::Work for Running<'_> {
    type Output = Outcome;

    fn run<E: Engine>(self) -> Outcome {
        let job = self.job;
        let known = engines::known(&job.engine).expect("the engine is known");
        let setup = Setup {
            dir: job.dir.clone(),
            level: match job.work {
                Work::Durable { .. } => Level::Durable,
                _ => Level::Relaxed,
            },
            name: known.name,
            keys: job.shape.keys,
            payload: job.shape.payload(),
            value_len: job.shape.value_len,
            cache: job.cache,
        };
        let bench = Bench::<E> {
            job,
            setup,
            data: Data::new(job.shape),
            has_files: known.can.files,
            engine: std::marker::PhantomData,
        };
        bench.run()
    }
}

/// When a stretch is cut.
#[derive(Clone, Copy, Debug)]
struct Deadline(Instant);

impl Deadline {
    fn after(seconds: f64) -> Self {
        Self(Instant::now() + Duration::from_secs_f64(seconds))
    }

    /// Looks at the clock at every 64th operation only.
    #[inline]
    fn over(self, n: usize) -> bool {
        n.is_multiple_of(64) && Instant::now() >= self.0
    }
}

fn histogram() -> Histogram<u64> {
    // Three digits, up to a minute.
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are good")
}

fn record(histogram: &mut Histogram<u64>, from: Instant, to: Instant) {
    histogram.saturating_record((to - from).as_nanos() as u64);
}

/// Adds latencies, and the curve of them.
fn latencies(outcome: &mut Outcome, prefix: &str, histogram: &Histogram<u64>) {
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
        let value = histogram.value_at_quantile(quantile);
        outcome.set(&format!("{prefix}{name}_ns"), value as f64);
    }
    outcome.set(&format!("{prefix}max_ns"), histogram.max() as f64);
    outcome.set(&format!("{prefix}samples"), histogram.len() as f64);
}

/// Does `work` with every input at once, each in a thread of its own. The time is that from the first
/// thread's beginning to the last one's end.
fn together<I: Sync, T: Send>(inputs: &[I], work: impl Fn(&I) -> T + Sync) -> (Vec<T>, Cost) {
    let start = Barrier::new(inputs.len());
    let meter = Meter::start();
    let timed: Vec<(T, Instant, Instant)> = std::thread::scope(|scope| {
        let (start, work) = (&start, &work);
        let running: Vec<_> = inputs
            .iter()
            .map(|input| {
                scope.spawn(move || {
                    start.wait();
                    let began = Instant::now();
                    let result = work(input);
                    (result, began, Instant::now())
                })
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join();
        let results = running.into_iter().map(join);
        results.map(|r| r.expect("no thread panics")).collect()
    });
    let mut cost = meter.stop();
    let began = timed.iter().map(|(_, began, _)| *began).min();
    let ended = timed.iter().map(|(_, _, ended)| *ended).max();
    if let (Some(began), Some(ended)) = (began, ended) {
        cost.seconds = (ended - began).as_secs_f64();
    }
    (
        timed.into_iter().map(|(result, _, _)| result).collect(),
        cost,
    )
}

/// All of several histograms.
fn joined(parts: Vec<Histogram<u64>>) -> Histogram<u64> {
    let mut all = histogram();
    for part in parts {
        all.add(part).expect("the same bounds");
    }
    all
}

struct Bench<'a, E> {
    job: &'a Job,
    setup: Setup,
    data: Data,
    has_files: bool,
    engine: std::marker::PhantomData<E>,
}

impl<E: Engine> Bench<'_, E> {
    fn run(&self) -> Outcome {
        let mut outcome = match &self.job.work {
            Work::Load => self.load(),
            Work::Fill { batch, each } => self.fill(*batch, *each),
            Work::Get { threads, missing } => self.get(*threads, *missing),
            Work::Ycsb { reads } => self.ycsb(*reads),
            Work::Durable { threads } => self.durable(*threads),
            Work::Overwrite => self.overwrite(),
            Work::GetBeside => self.get_beside(),
            Work::PutBeside => self.put_beside(),
            Work::Open { extra } => self.open(*extra),
            Work::Kill { extra } => self.kill(*extra),
            Work::Short => self.short(),
            Work::Verify { stored, done } => self.verify(*stored, *done),
        };
        outcome.set("process_seconds", probe::processor_time().as_secs_f64());
        outcome
    }

    fn dir(&self) -> &Path {
        &self.job.dir
    }

    fn keys(&self) -> u64 {
        self.job.shape.keys
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.job.seconds)
    }

    /// Opens what is there; an engine without files is filled first.
    fn opened(&self) -> E {
        let engine = E::open(&self.setup);
        if !self.has_files {
            self.put_all(&engine, Deadline::after(f64::from(u32::MAX)));
        }
        engine
    }

    /// All keys in a random order, in batches; how many by the deadline.
    fn put_all(&self, engine: &E, deadline: Deadline) -> u64 {
        let order = shuffled(self.keys(), self.job.seed);
        let mut done = 0;
        for chunk in order.chunks(BATCH) {
            if deadline.over(0) {
                break;
            }
            engine.put_many(&self.data, chunk, 0);
            done += chunk.len() as u64;
        }
        done
    }

    /// Rate, processor time and written bytes of `done` operations.
    fn costs(&self, outcome: &mut Outcome, cost: Cost, done: u64) {
        let per = |x: f64| x / done.max(1) as f64;
        outcome.set("ops_per_s", done as f64 / cost.seconds);
        outcome.set("cpu_ns", per(cost.processor) * 1e9);
        outcome.set("done", done as f64);
        outcome.set("seconds", cost.seconds);
    }

    fn cut(&self, outcome: &mut Outcome, done: u64, wanted: u64) {
        if done < wanted {
            let share = done as f64 * 100.0 / wanted as f64;
            let note = format!("cut after {:.0} s at {share:.0} %", self.job.seconds);
            outcome.notes.push(note);
        }
    }

    fn bytes_of(&self, keys: u64) -> f64 {
        (keys.max(1) * (self.job.shape.key_len + self.job.shape.value_len) as u64) as f64
    }

    /// What is left when all is written: private memory, then disk space and written bytes after closing.
    fn left(&self, outcome: &mut Outcome, engine: E, keys: u64, private: u64, written: u64) {
        let private = probe::private_bytes().saturating_sub(private);
        outcome.set("private_mib", private as f64 / f64::from(1 << 20));
        outcome.set("private_a_key", private as f64 / keys.max(1) as f64);
        let start = Instant::now();
        engine.close();
        outcome.set("close_ms", start.elapsed().as_secs_f64() * 1e3);
        if self.has_files {
            let payload = self.bytes_of(keys);
            outcome.set(
                "disk_factor",
                probe::disk_bytes(self.dir()) as f64 / payload,
            );
            let written = probe::written_bytes().saturating_sub(written);
            outcome.set("written_factor", written as f64 / payload);
        }
    }

    fn load(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let order = shuffled(self.keys(), self.job.seed);
        let (private, written) = (probe::private_bytes(), probe::written_bytes());
        let engine = E::open(&self.setup);
        let (meter, deadline) = (Meter::start(), self.deadline());
        let mut done = 0;
        for chunk in order.chunks(BATCH) {
            if deadline.over(0) {
                break;
            }
            engine.put_many(&self.data, chunk, 0);
            done += chunk.len() as u64;
        }
        self.costs(&mut outcome, meter.stop(), done);
        self.cut(&mut outcome, done, self.keys());
        self.left(&mut outcome, engine, done, private, written);
        outcome
    }

    fn fill(&self, batch: usize, each: bool) -> Outcome {
        let mut outcome = Outcome::default();
        let order = shuffled(self.keys(), self.job.seed);
        let mut timed = histogram();
        let (private, written) = (probe::private_bytes(), probe::written_bytes());
        let engine = E::open(&self.setup);
        let switched = probe::interruptions();
        let (meter, deadline) = (Meter::start(), self.deadline());
        let mut done = 0;
        let mut buffer = [0; KEY_BYTES_MAX];
        for (n, chunk) in order.chunks(batch).enumerate() {
            if deadline.over(n * batch.min(64)) {
                break;
            }
            match (batch, each) {
                (1, false) => {
                    let i = u64::from(chunk[0]);
                    engine.put(self.data.key(i, &mut buffer), self.data.value(i, 0));
                }
                (1, true) => {
                    let i = u64::from(chunk[0]);
                    let (key, value) = (self.data.key(i, &mut buffer), self.data.value(i, 0));
                    let start = Instant::now();
                    engine.put(key, value);
                    record(&mut timed, start, Instant::now());
                }
                _ => engine.put_many(&self.data, chunk, 0),
            }
            done += chunk.len() as u64;
        }
        self.costs(&mut outcome, meter.stop(), done);
        if each {
            latencies(&mut outcome, "", &timed);
            outcome.set("interruptions", (probe::interruptions() - switched) as f64);
        }
        self.cut(&mut outcome, done, self.keys());
        self.left(&mut outcome, engine, done, private, written);
        outcome
    }

    /// Gets by one thread; how many by the deadline, and the sum of all bytes.
    fn read(&self, engine: &E, keys: &[u32], missing: bool, deadline: Deadline) -> (u64, u64) {
        let reader = engine.reader();
        let mut buffer = [0; KEY_BYTES_MAX];
        let (mut done, mut total) = (0, 0u64);
        for (n, i) in keys.iter().enumerate() {
            if deadline.over(n) {
                break;
            }
            let i = u64::from(*i);
            let found = match missing {
                true => E::get(&reader, self.data.absent(i, &mut buffer), sum),
                false => E::get(&reader, self.data.key(i, &mut buffer), sum),
            };
            match (found, missing) {
                (Some(bytes), false) => total = total.wrapping_add(bytes),
                (None, true) => {}
                (found, _) => panic!("key {i}: found {}", found.is_some()),
            }
            done += 1;
        }
        (done, total)
    }

    fn expected(&self, keys: &[u32]) -> u64 {
        keys.iter().fold(0u64, |total, i| {
            total.wrapping_add(sum(self.data.value(u64::from(*i), 0)))
        })
    }

    /// A sequence of gets for each thread, among the keys that are there.
    fn orders(&self, engine: &E, threads: usize, outcome: &mut Outcome) -> Vec<Vec<u32>> {
        // A load that was cut stored the beginning of its order.
        let loaded = shuffled(self.keys(), self.job.seed);
        let there = self.stored(engine, &loaded, outcome);
        let count = (self.keys() as usize).min(1_000_000);
        (0..threads as u64)
            .map(|t| {
                let at = picked(there as u64, count, self.job.seed ^ (t + 1) << 32);
                at.into_iter().map(|n| loaded[n as usize]).collect()
            })
            .collect()
    }

    /// How much of the beginning of an order is there: a load that was cut has stored nothing behind its end.
    fn stored(&self, engine: &E, order: &[u32], outcome: &mut Outcome) -> usize {
        let mut buffer = [0; KEY_BYTES_MAX];
        let there = order.partition_point(|i| {
            let key = self.data.key(u64::from(*i), &mut buffer);
            engine.get_now(key, |_| ()).is_some()
        });
        assert!(there > 0, "something is stored");
        if there < order.len() {
            outcome.notes.push(format!("{there} keys are there"));
        }
        there
    }

    fn get(&self, threads: usize, missing: bool) -> Outcome {
        let mut outcome = Outcome::default();
        let private = probe::private_bytes();
        let engine = self.opened();
        let orders = self.orders(&engine, threads, &mut outcome);
        // Once to touch every page and fill every cache.
        self.read(&engine, &orders[0], missing, self.deadline());
        let (results, cost) = together(&orders, |order| {
            self.read(&engine, order, missing, self.deadline())
        });
        for ((done, total), order) in results.iter().zip(&orders) {
            let expected = self.expected(&order[..*done as usize]);
            assert!(missing || *total == expected, "every byte was read");
        }
        let done = results.iter().map(|(done, _)| done).sum();
        self.costs(&mut outcome, cost, done);
        let held = probe::private_bytes().saturating_sub(private);
        outcome.set("private_mib", held as f64 / f64::from(1 << 20));
        let timed = self.timed_gets(&engine, &orders, missing, &mut outcome);
        latencies(&mut outcome, "", &timed);
        // The second time in a table of shapes: beside the numbers of the fill.
        for (from, to) in [
            ("ops_per_s", "get_per_s"),
            ("p50_ns", "get_p50_ns"),
            ("p99_ns", "get_p99_ns"),
        ] {
            let value = outcome.get(from).unwrap_or(0.0);
            outcome.set(to, value);
        }
        engine.close();
        outcome
    }

    /// The same gets again, each timed.
    fn timed_gets(
        &self,
        engine: &E,
        orders: &[Vec<u32>],
        missing: bool,
        outcome: &mut Outcome,
    ) -> Histogram<u64> {
        let deadline = self.deadline();
        let (parts, _) = together(orders, |order| {
            let (mut timed, before) = (histogram(), probe::interruptions());
            let reader = engine.reader();
            let mut buffer = [0; KEY_BYTES_MAX];
            for (n, i) in order.iter().take(TIMED_MAX).enumerate() {
                if deadline.over(n) {
                    break;
                }
                let i = u64::from(*i);
                let key = match missing {
                    true => self.data.absent(i, &mut buffer),
                    false => self.data.key(i, &mut buffer),
                };
                let start = Instant::now();
                let found = E::get(&reader, key, sum);
                record(&mut timed, start, Instant::now());
                assert_eq!(found.is_none(), missing, "key {i}");
            }
            (timed, probe::interruptions() - before)
        });
        let switched: u64 = parts.iter().map(|(_, switched)| switched).sum();
        outcome.set("interruptions", switched as f64);
        joined(parts.into_iter().map(|(timed, _)| timed).collect())
    }

    /// Two threads; each operation is the number of a key, or of one to overwrite with the top bit set.
    fn ycsb(&self, reads: u64) -> Outcome {
        const OVERWRITE: u32 = 1 << 31;
        let mut outcome = Outcome::default();
        let engine = self.opened();
        let count = (self.keys() as usize).min(1_000_000);
        let zipf = Zipf::new(self.keys());
        let orders: Vec<Vec<u32>> = (0..2)
            .map(|t| {
                let mut random = Random(self.job.seed ^ (t + 7) << 32 ^ reads << 48);
                let mut one = || {
                    let key = zipf.pick(&mut random) as u32;
                    let read = random.below(100) < reads;
                    key | if read { 0 } else { OVERWRITE }
                };
                (0..count).map(|_| one()).collect()
            })
            .collect();
        let warm = shuffled(self.keys(), self.job.seed ^ 5);
        let loaded = shuffled(self.keys(), self.job.seed);
        let there = self.stored(&engine, &loaded, &mut outcome);
        assert_eq!(there, loaded.len(), "the load was cut");
        self.read_any(&engine, &warm, self.deadline());
        let version = AtomicU64::new(1);
        let deadline = self.deadline();
        let turn = |order: &[u32], mut timed: Option<&mut Histogram<u64>>, deadline: Deadline| {
            let mut buffer = [0; KEY_BYTES_MAX];
            let version = version.fetch_add(1, Ordering::Relaxed);
            let reader = (reads == 100).then(|| engine.reader());
            let (mut done, mut total) = (0u64, 0u64);
            for (n, what) in order.iter().enumerate() {
                if deadline.over(n) {
                    break;
                }
                let i = u64::from(what & !OVERWRITE);
                let key = self.data.key(i, &mut buffer);
                let start = timed.is_some().then(Instant::now);
                if what & OVERWRITE != 0 {
                    engine.put(key, self.data.value(i, version));
                } else {
                    let found = match &reader {
                        Some(reader) => E::get(reader, key, sum),
                        None => engine.get_now(key, sum),
                    };
                    total = total.wrapping_add(found.expect("it is there"));
                }
                if let (Some(timed), Some(start)) = (timed.as_deref_mut(), start) {
                    record(timed, start, Instant::now());
                }
                done += 1;
            }
            std::hint::black_box(total);
            done
        };
        let (done, cost) = together(&orders, |order| turn(order, None, deadline));
        let done = done.iter().sum();
        self.costs(&mut outcome, cost, done);
        self.cut(&mut outcome, done, 2 * count as u64);
        let deadline = self.deadline();
        let (parts, _) = together(&orders, |order| {
            let mut timed = histogram();
            let order = &order[..order.len().min(TIMED_MAX)];
            turn(order, Some(&mut timed), deadline);
            timed
        });
        latencies(&mut outcome, "", &joined(parts));
        engine.close();
        outcome
    }

    /// Gets without comparing sums, to warm caches of a store that has been overwritten.
    fn read_any(&self, engine: &E, keys: &[u32], deadline: Deadline) {
        let mut buffer = [0; KEY_BYTES_MAX];
        let mut total = 0u64;
        for (n, i) in keys.iter().enumerate() {
            if deadline.over(n) {
                break;
            }
            let found = engine.get_now(self.data.key(u64::from(*i), &mut buffer), sum);
            total = total.wrapping_add(found.expect("it is there"));
        }
        std::hint::black_box(total);
    }

    fn durable(&self, threads: usize) -> Outcome {
        let mut outcome = Outcome::default();
        let written = probe::written_bytes();
        let engine = E::open(&self.setup);
        let next = AtomicU64::new(0);
        let deadline = self.deadline();
        let (parts, cost) = together(&vec![(); threads], |()| {
            let mut timed = histogram();
            let mut buffer = [0; KEY_BYTES_MAX];
            while !deadline.over(0) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= self.keys() {
                    // Not stored: given back, so that the counter tells what was.
                    next.fetch_sub(1, Ordering::Relaxed);
                    break;
                }
                let key = self.data.key(i, &mut buffer);
                let begin = Instant::now();
                engine.put(key, self.data.value(i, 0));
                record(&mut timed, begin, Instant::now());
            }
            timed
        });
        let all = joined(parts);
        let done = next.into_inner().min(self.keys());
        assert_eq!(done, all.len(), "every put was timed");
        self.costs(&mut outcome, cost, done);
        latencies(&mut outcome, "", &all);
        self.cut(&mut outcome, done, self.keys());
        self.left(&mut outcome, engine, done, 0, written);
        outcome
    }

    /// The keys that are overwritten, in order.
    fn overwritten(&self) -> Vec<u32> {
        let count = (self.keys() * OVERWRITES) as usize;
        picked(self.keys(), count, self.job.seed ^ 3)
    }

    fn overwrite(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let order = self.overwritten();
        let private = probe::private_bytes();
        let engine = E::open(&self.setup);
        self.put_all(&engine, Deadline::after(f64::from(u32::MAX)));
        let payload = self.bytes_of(self.keys());
        let written = probe::written_bytes();
        let stop = AtomicBool::new(false);
        let mut done = 0;
        let mut cost = None;
        let mut samples = Vec::new();
        std::thread::scope(|scope| {
            let began = Instant::now();
            let stop = &stop;
            let sampler = self.has_files.then(|| {
                scope.spawn(move || {
                    let mut samples = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let used = probe::disk_bytes(self.dir()) as f64 / payload;
                        samples.push([began.elapsed().as_secs_f64(), used]);
                        std::thread::sleep(SPACE_SAMPLE);
                    }
                    samples
                })
            });
            let (meter, deadline) = (Meter::start(), self.deadline());
            let mut buffer = [0; KEY_BYTES_MAX];
            for (n, i) in order.iter().enumerate() {
                if deadline.over(n) {
                    break;
                }
                let i = u64::from(*i);
                engine.put(
                    self.data.key(i, &mut buffer),
                    self.data.value(i, n as u64 + 1),
                );
                done += 1;
            }
            cost = Some(meter.stop());
            stop.store(true, Ordering::Relaxed);
            if let Some(sampler) = sampler {
                samples = sampler.join().expect("no thread panics");
            }
        });
        self.costs(&mut outcome, cost.expect("it was measured"), done);
        self.cut(&mut outcome, done, order.len() as u64);
        let peak = samples.iter().map(|sample| sample[1]).fold(0.0, f64::max);
        self.left(&mut outcome, engine, self.keys(), private, written);
        if self.has_files {
            outcome.set("peak_factor", peak);
            let total = probe::written_bytes().saturating_sub(written) as f64;
            outcome.set("written_factor", total / self.bytes_of(done));
            outcome.series.insert("space".to_owned(), thinned(&samples));
        }
        outcome
    }

    /// Gets, each timed, for as long as `beside` goes on.
    fn get_beside(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let engine = self.opened();
        let stop = AtomicBool::new(false);
        let order = picked(self.keys(), self.keys() as usize, self.job.seed ^ 9);
        self.read_any(&engine, &order, self.deadline());
        let mut timed = histogram();
        let mut puts = 0;
        std::thread::scope(|scope| {
            let (engine, stop) = (&engine, &stop);
            let writer = scope.spawn(move || {
                let mut random = Random(self.job.seed ^ 11);
                let mut buffer = [0; KEY_BYTES_MAX];
                let mut next = Instant::now() + OVERWRITES_EVERY;
                let mut puts = 0;
                while !stop.load(Ordering::Relaxed) {
                    let i = random.below(self.keys());
                    puts += 1;
                    engine.put(self.data.key(i, &mut buffer), self.data.value(i, puts));
                    if puts.is_multiple_of(SYNC_EVERY) {
                        engine.sync();
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                        next = Instant::now().max(next) + OVERWRITES_EVERY;
                    }
                }
                puts
            });
            let switched = probe::interruptions();
            let (meter, deadline) = (Meter::start(), self.deadline());
            let mut buffer = [0; KEY_BYTES_MAX];
            let mut done = 0;
            let mut total = 0u64;
            for (n, i) in order.iter().cycle().enumerate() {
                if deadline.over(n) {
                    break;
                }
                let key = self.data.key(u64::from(*i), &mut buffer);
                let start = Instant::now();
                let found = engine.get_now(key, sum);
                record(&mut timed, start, Instant::now());
                total = total.wrapping_add(found.expect("it is there"));
                done += 1;
            }
            std::hint::black_box(total);
            let cost = meter.stop();
            stop.store(true, Ordering::Relaxed);
            puts = writer.join().expect("no thread panics");
            outcome.set("beside_per_s", puts as f64 / cost.seconds);
            outcome.set("interruptions", (probe::interruptions() - switched) as f64);
            self.costs(&mut outcome, cost, done);
        });
        latencies(&mut outcome, "", &timed);
        engine.close();
        outcome
    }

    fn put_beside(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let engine = self.opened();
        let stop = AtomicBool::new(false);
        let mut timed = histogram();
        std::thread::scope(|scope| {
            let (engine, stop) = (&engine, &stop);
            let syncer = scope.spawn(move || {
                let mut syncs = 0;
                while !stop.load(Ordering::Relaxed) {
                    engine.sync();
                    syncs += 1;
                }
                syncs
            });
            let mut random = Random(self.job.seed ^ 13);
            let mut buffer = [0; KEY_BYTES_MAX];
            let switched = probe::interruptions();
            let (meter, deadline) = (Meter::start(), self.deadline());
            let mut done = 0;
            while !deadline.over(done as usize) {
                let i = random.below(self.keys());
                let key = self.data.key(i, &mut buffer);
                let value = self.data.value(i, done + 1);
                let start = Instant::now();
                engine.put(key, value);
                record(&mut timed, start, Instant::now());
                done += 1;
            }
            let cost = meter.stop();
            stop.store(true, Ordering::Relaxed);
            let syncs: u64 = syncer.join().expect("no thread panics");
            outcome.set("beside_per_s", syncs as f64 / cost.seconds);
            outcome.set("interruptions", (probe::interruptions() - switched) as f64);
            self.costs(&mut outcome, cost, done);
        });
        latencies(&mut outcome, "", &timed);
        engine.close();
        outcome
    }

    fn open(&self, extra: u64) -> Outcome {
        let mut outcome = Outcome::default();
        let order = shuffled(self.keys(), self.job.seed);
        let private = probe::private_bytes();
        let mut buffer = [0; KEY_BYTES_MAX];
        let start = Instant::now();
        let engine = E::open(&self.setup);
        let ready = start.elapsed();
        // The first of the order was stored even if the load was cut.
        let i = u64::from(order[0]);
        let found = engine.get_now(self.data.key(i, &mut buffer), sum);
        let answered = start.elapsed();
        assert_eq!(found, Some(sum(self.data.value(i, 0))), "the first key");
        outcome.set("ready_ms", ready.as_secs_f64() * 1e3);
        outcome.set("open_ms", answered.as_secs_f64() * 1e3);
        let held = probe::private_bytes().saturating_sub(private);
        outcome.set("private_mib", held as f64 / f64::from(1 << 20));
        if extra > 0 {
            let mut random = Random(self.job.seed ^ 17);
            let sample = extra.min(20_000);
            let there = (0..sample).filter(|_| {
                let i = self.keys() + random.below(extra);
                let found = engine.get_now(self.data.key(i, &mut buffer), sum);
                assert!(found.is_none_or(|found| found == sum(self.data.value(i, 0))));
                found.is_some()
            });
            let share = there.count() as f64 / sample as f64;
            outcome.set("survived", share * 100.0);
        } else {
            // Fewer than in other rows: with a cold cache each may wait for the device.
            let there = self.stored(&engine, &order, &mut outcome);
            let mut random = Random(self.job.seed ^ 19);
            let (mut timed, deadline) = (histogram(), Deadline::after(3.0));
            for _ in 0..5000 {
                if deadline.over(0) {
                    break;
                }
                let i = u64::from(order[random.below(there as u64) as usize]);
                let key = self.data.key(i, &mut buffer);
                let start = Instant::now();
                let found = engine.get_now(key, sum);
                record(&mut timed, start, Instant::now());
                assert_eq!(found, Some(sum(self.data.value(i, 0))), "key {i}");
            }
            latencies(&mut outcome, "", &timed);
        }
        engine.close();
        outcome
    }

    fn kill(&self, extra: u64) -> Outcome {
        let engine = E::open(&self.setup);
        let mut buffer = [0; KEY_BYTES_MAX];
        for i in self.keys()..self.keys() + extra {
            engine.put(self.data.key(i, &mut buffer), self.data.value(i, 0));
        }
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL)
            .expect("a process may kill itself");
        panic!("it was killed");
    }

    fn short(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let engine = E::open(&self.setup);
        let deadline = self.deadline();
        let (parts, cost) = together(&[1u64, 2], |t| {
            let mut timed = histogram();
            let mut random = Random(self.job.seed ^ (t + 21) << 32);
            let mut buffer = [0; KEY_BYTES_MAX];
            let reader = engine.reader();
            while !deadline.over(0) {
                let i = random.below(self.keys());
                let key = self.data.key(i, &mut buffer);
                let begin = Instant::now();
                let found = E::get(&reader, key, sum);
                record(&mut timed, begin, Instant::now());
                assert_eq!(found, Some(sum(self.data.value(i, 0))), "key {i}");
            }
            timed
        });
        let all = joined(parts);
        self.costs(&mut outcome, cost, all.len());
        latencies(&mut outcome, "", &all);
        let mut timed = histogram();
        let mut random = Random(self.job.seed ^ 23);
        let mut buffer = [0; KEY_BYTES_MAX];
        let (meter, deadline) = (Meter::start(), self.deadline());
        while !deadline.over(0) {
            let i = random.below(self.keys());
            let key = self.data.key(i, &mut buffer);
            let value = self.data.value(i, timed.len() + 1);
            let begin = Instant::now();
            engine.put(key, value);
            record(&mut timed, begin, Instant::now());
        }
        let cost = meter.stop();
        outcome.set("put_per_s", timed.len() as f64 / cost.seconds);
        latencies(&mut outcome, "put_", &timed);
        engine.close();
        outcome
    }

    fn verify(&self, stored: Stored, done: u64) -> Outcome {
        let mut outcome = Outcome::default();
        let engine = E::open(&self.setup);
        let mut random = Random(self.job.seed ^ 29);
        let versions: HashMap<u64, u64> = match stored {
            Stored::Shuffled => {
                let order = shuffled(self.keys(), self.job.seed);
                let sample = (0..VERIFIED).map(|_| order[random.below(done) as usize]);
                sample.map(|i| (i.into(), 0)).collect()
            }
            Stored::Counted => (0..VERIFIED).map(|_| (random.below(done), 0)).collect(),
            Stored::Overwritten => {
                let mut versions: HashMap<u64, u64> = (0..VERIFIED)
                    .map(|_| (random.below(self.keys()), 0))
                    .collect();
                for (n, i) in self.overwritten().iter().take(done as usize).enumerate() {
                    if let Some(version) = versions.get_mut(&u64::from(*i)) {
                        *version = n as u64 + 1;
                    }
                }
                versions
            }
        };
        let mut buffer = [0; KEY_BYTES_MAX];
        for (i, version) in &versions {
            let expected = self.data.value(*i, *version);
            let same = engine.get_now(self.data.key(*i, &mut buffer), |value| value == expected);
            assert_eq!(
                same,
                Some(true),
                "key {i}, version {version}, after reopening"
            );
            let key = self.data.absent(*i, &mut buffer);
            assert!(
                engine.get_now(key, |_| ()).is_none(),
                "a key that was never stored"
            );
        }
        outcome.set("verified", versions.len() as f64);
        engine.close();
        outcome
    }
}

/// At most so many points as can be drawn; of those between, the highest.
fn thinned(samples: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let step = samples.len().div_ceil(POINTS_MAX).max(1);
    let highest = |chunk: &[[f64; 2]]| {
        let most = chunk.iter().map(|sample| sample[1]).fold(0.0, f64::max);
        [chunk[0][0], most]
    };
    samples.chunks(step).map(highest).collect()
}

#[cfg(test)]
mod tests;
