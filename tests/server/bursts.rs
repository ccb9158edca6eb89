//! Bursts of durable writes of several connections: who waits for what, and what a failed sync is told
//! to.
//!
//! Method: an engine that keeps every wait for the disk until the test lets it go, or fails it, shows
//! what goes on meanwhile; then real syncs, and syncs of a simulated disk that fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kvs::engines::{Engine, EngineResult, EngineVisitor, Newest, Operation, SetOptions, Ticket};
use kvs::protocol::Reply;
use kvs::server::ServerOptions;
use kvs::testing::sim::{Call, Errno, Fault, SimFs, Survive};
use kvs::{Batch, Durability, Error, KvStore, KvsClient, KvsEngine, Options, Result, testing};
use tempfile::TempDir;

use crate::harness::{
    DRIVERS, Driver, PATIENCE, Running, Told, ask, in_memory, show, start, start_with,
};

/// What the waits of a [`Gated`] engine come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Shut,
    Fails,
}

/// A durable store whose waits the test decides about.
#[derive(Clone)]
struct Gated {
    store: KvStore,
    gate: Arc<(Mutex<Gate>, Condvar)>,
    appended: Arc<AtomicUsize>,
    /// Keys it was told that it will be asked for.
    prefetched: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Gated {
    fn new(dir: &TempDir) -> Self {
        let options = Options::new().durability(Durability::Sync);
        Self {
            store: KvStore::from_store(options.open(dir.path()).unwrap()),
            gate: Arc::new((Mutex::new(Gate::Open), Condvar::new())),
            appended: Arc::default(),
            prefetched: Arc::default(),
        }
    }

    fn set_gate(&self, gate: Gate) {
        *self.gate.0.lock().unwrap() = gate;
        self.gate.1.notify_all();
    }

    /// Returns when so many batches have been appended in all.
    fn until_appended(&self, count: usize) {
        let until = Instant::now() + PATIENCE;
        while self.appended.load(Ordering::SeqCst) < count {
            let appended = self.appended.load(Ordering::SeqCst);
            assert!(Instant::now() < until, "{appended} appended, not {count}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

strings_of_its_store!(Gated);

impl Engine for Gated {
    type Value = kvs::Value;

    fn name(&self) -> &'static str {
        "gated"
    }

    fn supports(&self, operation: Operation) -> bool {
        Engine::supports(&self.store, operation)
    }

    fn get(&self, key: &[u8]) -> EngineResult<Option<kvs::Value>> {
        Engine::get(&self.store, key)
    }

    fn prefetch(&self, keys: &[&[u8]]) {
        Engine::prefetch(&self.store, keys);
        let mut prefetched = self.prefetched.lock().unwrap();
        prefetched.extend(keys.iter().map(|key| key.to_vec()));
    }

    fn set(&self, key: &[u8], value: &[u8], options: SetOptions) -> EngineResult<()> {
        Engine::set(&self.store, key, value, options)
    }

    fn remove(&self, key: &[u8]) -> EngineResult<bool> {
        Engine::remove(&self.store, key)
    }

    fn flush(&self) -> EngineResult<()> {
        Engine::flush(&self.store)
    }

    fn append(&self, batch: &Batch) -> EngineResult<Option<Ticket>> {
        let ticket = self.store.append(batch)?;
        self.appended.fetch_add(1, Ordering::SeqCst);
        Ok(ticket)
    }

    fn wait(&self, ticket: Ticket) -> EngineResult<()> {
        let mut gate = self.gate.0.lock().unwrap();
        while *gate == Gate::Shut {
            gate = self.gate.1.wait(gate).unwrap();
        }
        if *gate == Gate::Fails {
            return Err(Error::Poisoned.into());
        }
        drop(gate);
        self.store.wait(ticket)
    }

    fn newest(&self, key: &[u8]) -> EngineResult<Newest<kvs::Value>> {
        self.store.newest(key)
    }

    fn len(&self) -> EngineResult<u64> {
        self.store.len()
    }
}

/// Runs `test` over a gated engine with every driver.
fn gated(test: impl Fn(&Running, &Gated)) {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let dir = TempDir::new().unwrap();
        let engine = Gated::new(&dir);
        let running = start_with(8, *driver, engine.clone(), ServerOptions::new());
        test(&running, &engine);
        engine.set_gate(Gate::Open);
    }
}

/// Asks in a thread of its own, for an answer that is waited for.
fn later(mut client: KvsClient, line: &'static str) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || ask(&mut client, line))
}

/// Several at once: of one, or of what is written, nothing is to be had by it.
#[test]
fn an_engine_is_told_of_the_keys_that_a_burst_reads_before_the_first_is_read() {
    gated(|running, engine| {
        let told = || std::mem::take(&mut *engine.prefetched.lock().unwrap());
        let mut client = running.client();
        assert_eq!(ask(&mut client, "SET a 1"), "OK");
        assert_eq!(ask(&mut client, "GET a"), "\"1\"");
        assert_eq!(ask(&mut client, "MSET b 1 c 2"), "OK");
        assert_eq!(told(), [b""; 0]);
        ask(&mut client, "MGET a none c");
        assert_eq!(told(), [&b"a"[..], b"none", b"c"]);
        // However the bytes arrive: sooner or later together.
        let until = Instant::now() + PATIENCE;
        loop {
            let pipeline = client.pipeline().arg(["GET", "a"]).arg(["SET", "d", "1"]);
            let replies = pipeline.arg(["GET", "b"]).run().unwrap();
            assert_eq!(
                replies.iter().map(show).collect::<Vec<_>>(),
                ["\"1\"", "OK", "\"1\""]
            );
            if told() == [b"a", b"b"] {
                break;
            }
            assert!(Instant::now() < until, "never told");
        }
    });
}

#[test]
fn a_burst_that_waits_for_the_disk_keeps_nobody_from_its_keys() {
    gated(|running, engine| {
        let mut reader = running.client();
        assert_eq!(ask(&mut reader, "SET n 10"), "OK");
        engine.set_gate(Gate::Shut);
        // One behind the other, each reading what the one before has appended.
        let asked: Vec<_> = (2..=5)
            .map(|count| {
                let asked = later(running.client(), "INCR n");
                engine.until_appended(count);
                asked
            })
            .collect();
        assert_eq!(ask(&mut reader, "GET n"), "\"10\"", "only what is durable");
        assert!(asked.iter().all(|asked| !asked.is_finished()), "not before");
        engine.set_gate(Gate::Open);
        let answers: Vec<String> = asked
            .into_iter()
            .map(|asked| asked.join().unwrap())
            .collect();
        assert_eq!(answers, [":11", ":12", ":13", ":14"]);
        assert_eq!(ask(&mut reader, "GET n"), "\"14\"");
    });
}

#[test]
fn whatever_rests_on_a_pending_write_waits_for_it() {
    gated(|running, engine| {
        let mut client = running.client();
        for (line, wanted) in [
            // Refusals too: what they say is not true before.
            ("SETNX k x", ":0"),
            ("SET k x NX", "(nil)"),
            ("KVS.CAS k VALUE wrong SET x", ":0"),
            ("GETSET k y", "\"1\""),
            ("DEL k other", ":1"),
            ("APPEND k 2", ":2"),
            ("MGET k other", "[\"1\" (nil)]"),
            ("EXISTS k k", ":2"),
            ("WATCH k", "OK"),
            ("RENAME k z", "OK"),
        ] {
            engine.set_gate(Gate::Open);
            ask(&mut client, "DEL k other z");
            engine.set_gate(Gate::Shut);
            let before = engine.appended.load(Ordering::SeqCst);
            let set = later(running.client(), "SET k 1");
            engine.until_appended(before + 1);
            let asked = later(running.client(), line);
            std::thread::sleep(Duration::from_millis(20));
            assert!(!asked.is_finished(), "{line} was answered at once");
            // What does not rest on it does not wait.
            assert_eq!(ask(&mut client, "GET k"), "(nil)", "{line}");
            assert_eq!(ask(&mut client, "EXISTS other"), ":0", "{line}");
            engine.set_gate(Gate::Open);
            assert_eq!(set.join().unwrap(), "OK");
            assert_eq!(asked.join().unwrap(), wanted, "{line}");
        }
    });
}

#[test]
fn who_has_written_reads_the_newest_in_the_same_burst() {
    gated(|running, engine| {
        let mut first = running.client();
        engine.set_gate(Gate::Shut);
        let set = later(running.client(), "SET k 1");
        engine.until_appended(1);
        let burst = std::thread::spawn(move || {
            let pipeline = first
                .pipeline()
                .arg(["SET", "own", "1"])
                .arg(["GET", "k"])
                .run();
            pipeline.unwrap().iter().map(show).collect::<Vec<_>>()
        });
        engine.until_appended(2);
        engine.set_gate(Gate::Open);
        assert_eq!(set.join().unwrap(), "OK");
        assert_eq!(burst.join().unwrap(), ["OK", "\"1\""]);
    });
}

#[test]
fn a_failed_sync_is_the_answer_to_all_that_rest_on_it() {
    gated(|running, engine| {
        let mut client = running.client();
        assert_eq!(ask(&mut client, "SET before 1"), "OK");
        engine.set_gate(Gate::Shut);
        let mut first = running.client();
        let first = std::thread::spawn(move || {
            let pipeline = first
                .pipeline()
                .arg(["SET", "k", "1"])
                .arg(["PING"])
                .arg(["GET", "before"])
                .arg(["GET", "k"])
                .run();
            pipeline.unwrap()
        });
        engine.until_appended(2);
        // Has written nothing, and read what was never durable.
        let second = later(running.client(), "SETNX k 2");
        let mut third = running.client();
        let third = std::thread::spawn(move || {
            let pipeline = third.pipeline();
            let pipeline = pipeline.arg(["MULTI"]).arg(["INCR", "k"]).arg(["EXEC"]);
            pipeline.arg(["GET", "before"]).run().unwrap()
        });
        engine.until_appended(3);
        std::thread::sleep(Duration::from_millis(20));
        engine.set_gate(Gate::Fails);
        let is_error =
            |reply: &Reply| matches!(reply, Reply::Error(text) if text.starts_with(b"ERR "));
        let first = first.join().unwrap();
        assert!(is_error(&first[0]) && is_error(&first[3]), "{first:?}");
        assert_eq!(first[1], Reply::Simple(b"PONG".into()));
        assert_eq!(first[2], Reply::bulk("1"), "was durable before");
        let second = second.join().unwrap();
        assert!(second.starts_with("-ERR "), "{second}");
        let third = third.join().unwrap();
        assert_eq!(third[0], Reply::OK);
        assert!(is_error(&third[2]), "{third:?}");
        assert_eq!(third[3], Reply::bulk("1"));
    });
}

#[test]
fn a_transaction_that_was_overtaken_reads_what_overtook_it() {
    gated(|running, engine| {
        let mut client = running.client();
        assert_eq!(ask(&mut client, "SET k 0"), "OK");
        assert_eq!(ask(&mut client, "WATCH k"), "OK");
        assert_eq!(ask(&mut client, "MULTI"), "OK");
        assert_eq!(ask(&mut client, "SET k mine"), "QUEUED");
        engine.set_gate(Gate::Shut);
        let set = later(running.client(), "SET k 1");
        engine.until_appended(2);
        let exec = std::thread::spawn(move || {
            let reply = ask(&mut client, "EXEC");
            (reply, ask(&mut client, "GET k"))
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!exec.is_finished());
        engine.set_gate(Gate::Open);
        assert_eq!(set.join().unwrap(), "OK");
        let (exec, seen) = exec.join().unwrap();
        assert_eq!((&*exec, &*seen), ("(nil array)", "\"1\""));
    });
}

/// Clients and what each does, all to the same few keys.
const CLIENTS: usize = 12;
const EACH: usize = 150;

fn durable(dir: &TempDir) -> KvStore {
    let options = Options::new().durability(Durability::Sync);
    KvStore::from_store(options.open(dir.path()).unwrap())
}

#[test]
fn increments_of_many_share_syncs_and_none_is_lost() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let dir = TempDir::new().unwrap();
        let engine = durable(&dir);
        let options = ServerOptions::new();
        let running = start_with(CLIENTS as u32, *driver, engine.clone(), options);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = running.client();
                    let mut last = 0;
                    for _ in 0..EACH {
                        let replies = client
                            .pipeline()
                            .arg(["INCR", "n"])
                            .arg(["INCR", "n"])
                            .arg(["GET", "n"])
                            .run()
                            .unwrap();
                        let (Reply::Integer(one), Reply::Integer(two)) = (&replies[0], &replies[1])
                        else {
                            panic!("{replies:?}");
                        };
                        assert!(*one > last && *two == one + 1, "{last} {replies:?}");
                        assert_eq!(replies[2], Reply::bulk(two.to_string()));
                        last = *two;
                    }
                });
            }
        });
        let increments = CLIENTS * EACH * 2;
        let mut client = running.client();
        assert_eq!(
            client.get("n").unwrap().unwrap(),
            increments.to_string().as_bytes()
        );
        let syncs = engine.store().stats().group_commits as usize;
        // A burst of its own would be a sync for two; all that wait at once share one.
        assert!(
            syncs > 0 && syncs <= increments / 4,
            "{syncs} syncs of {increments}"
        );
    }
}

#[test]
fn a_watched_key_is_never_overwritten_unseen() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let dir = TempDir::new().unwrap();
        let running = start(*driver, durable(&dir), ServerOptions::new());
        let won = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let mut client = running.client();
                    for _ in 0..80 {
                        assert_eq!(ask(&mut client, "WATCH n"), "OK");
                        let old = client.get("n").unwrap();
                        let old: u64 = old
                            .map_or(0, |old| std::str::from_utf8(&old).unwrap().parse().unwrap());
                        let new = (old + 1).to_string();
                        let replies = client
                            .pipeline()
                            .arg(["MULTI"])
                            .arg(["SET", "n", &new])
                            .arg(["EXEC"])
                            .run()
                            .unwrap();
                        if replies[2] != Reply::NullArray {
                            assert_eq!(show(&replies[2]), "[OK]");
                            won.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        let won = won.into_inner();
        assert!(won >= 80, "somebody always wins: {won}");
        let mut client = running.client();
        assert_eq!(
            client.get("n").unwrap().unwrap(),
            won.to_string().as_bytes()
        );
    }
}

// A disk that fails.

/// The store over a simulated disk, at `Sync`.
#[derive(Clone)]
struct Simulated(Arc<testing::Engine<SimFs>>);

impl Simulated {
    fn open(fs: SimFs) -> Self {
        let options = Options::new()
            .durability(Durability::Sync)
            .segment_bytes(kvs::SEGMENT_BYTES_MIN);
        let started = Instant::now();
        let clock = move || started.elapsed();
        Self(testing::open_with_threads(fs, &options, 1, clock).unwrap())
    }
}

impl KvsEngine for Simulated {
    fn set(&self, key: String, value: String) -> Result<()> {
        self.0.set(key.as_bytes(), value.as_bytes())
    }

    fn get(&self, _: String) -> Result<Option<String>> {
        Ok(None)
    }

    fn remove(&self, key: String) -> Result<()> {
        self.0.remove(key.as_bytes()).map(drop)
    }

    fn visit<V: EngineVisitor>(self, visitor: V) -> V::Output {
        visitor.visit(self)
    }
}

impl Engine for Simulated {
    type Value = kvs::Value;

    fn name(&self) -> &'static str {
        "simulated"
    }

    fn supports(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Batch | Operation::Len)
    }

    fn get(&self, key: &[u8]) -> EngineResult<Option<kvs::Value>> {
        Ok(self.0.get(key)?)
    }

    fn set(&self, key: &[u8], value: &[u8], _: SetOptions) -> EngineResult<()> {
        Ok(self.0.set(key, value)?)
    }

    fn remove(&self, key: &[u8]) -> EngineResult<bool> {
        Ok(self.0.remove(key)?)
    }

    fn flush(&self) -> EngineResult<()> {
        Ok(self.0.flush()?)
    }

    fn write(&self, batch: &Batch) -> EngineResult<()> {
        Ok(self.0.write(batch)?)
    }

    fn append(&self, batch: &Batch) -> EngineResult<Option<Ticket>> {
        Ok(self.0.append_pending(batch)?.map(Ticket::new))
    }

    fn wait(&self, ticket: Ticket) -> EngineResult<()> {
        Ok(self.0.wait_until(ticket.number())?)
    }

    fn newest(&self, key: &[u8]) -> EngineResult<Newest<kvs::Value>> {
        let (value, ticket) = self.0.get_pending(key)?;
        Ok(Newest {
            value,
            expires_at_ms: None,
            ticket: ticket.map(Ticket::new),
        })
    }

    fn len(&self) -> EngineResult<u64> {
        Ok(self.0.len())
    }
}

/// Increments until something fails; the last sum that was answered.
fn increment_until_it_fails(running: &Running) -> i64 {
    let mut client = running.client();
    let mut last = 0;
    loop {
        match client.call(&["INCR", "n"]).unwrap() {
            Reply::Integer(sum) => last = sum,
            Reply::Error(_) => return last,
            other => panic!("{other:?}"),
        }
    }
}

fn fails_at_sync(driver: Driver, nth: u64) {
    let fs = SimFs::new();
    let engine = Simulated::open(fs.clone());
    let running = start(driver, engine.clone(), ServerOptions::new());
    let mut client = running.client();
    assert_eq!(ask(&mut client, "SET n 0"), "OK");
    fs.fail_call(Call::SyncData, nth, Fault::once(Errno::IO));
    let answered = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| increment_until_it_fails(&running)))
            .collect();
        let answered = asked.into_iter().map(|asked| asked.join().unwrap());
        answered.max().unwrap()
    });
    assert_eq!(fs.fired(), 1, "sync {nth}");
    // Nobody gets further: a store whose sync failed takes no more.
    assert!(
        ask(&mut client, "INCR n").starts_with("-ERR "),
        "sync {nth}"
    );
    assert!(
        running.stop().is_err(),
        "what was lost is not called flushed"
    );

    // What a power cut leaves: everything that was answered, and no more than one step of each client
    // beyond it.
    let image = fs.image(fs.log_len(), Survive::SyncedOnly);
    let store = testing::open(SimFs::from_image(&image), &Options::new(), 2).unwrap();
    let kept = store.get(b"n").unwrap().unwrap();
    let kept: i64 = std::str::from_utf8(&kept).unwrap().parse().unwrap();
    assert!(
        (answered..=answered + 6).contains(&kept),
        "sync {nth}: {answered} answered, {kept} kept"
    );
}

#[test]
fn what_was_answered_before_a_sync_failed_outlives_a_power_cut() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        for nth in [0, 1, 2, 5, 20, 60] {
            fails_at_sync(*driver, nth);
        }
    }
}

#[test]
fn several_keys_are_read_at_one_moment() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let running = start(*driver, in_memory(), ServerOptions::new());
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = running.client();
                for n in 0..4000 {
                    let n = n.to_string();
                    client.call(&["MSET", "a", &n, "b", &n, "c", &n]).unwrap();
                }
                done.store(true, Ordering::SeqCst);
            });
            let mut client = running.client();
            let mut seen = 0;
            while !done.load(Ordering::SeqCst) || seen == 0 {
                let mut pipeline = client.pipeline();
                (0..50).for_each(|_| pipeline.push(&["MGET", "a", "b", "c"]));
                for reply in pipeline.run().unwrap() {
                    let Reply::Array(values) = &reply else {
                        panic!("{reply:?}");
                    };
                    assert!(values.windows(2).all(|two| two[0] == two[1]), "{reply:?}");
                    seen += 1;
                }
            }
        });
    }
}
