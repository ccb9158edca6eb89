//! The server over real sockets, in every driver: what Redis would answer, what a burst costs, what
//! a transaction sees, and what becomes of clients that misbehave.
//!
//! Every test of behaviour runs over the blocking driver (a pool of two threads) and, with the
//! feature `async`, over tokio. Engines that count or fail stand in for the store where a test needs
//! to see what reaches it.

/// The face of strings of an engine that tests make around a `store`.
macro_rules! strings_of_its_store {
    ($engine:ty) => {
        impl kvs::KvsEngine for $engine {
            fn set(&self, key: String, value: String) -> kvs::Result<()> {
                self.store.set(key, value)
            }

            fn get(&self, key: String) -> kvs::Result<Option<String>> {
                self.store.get(key)
            }

            fn remove(&self, key: String) -> kvs::Result<()> {
                self.store.remove(key)
            }

            fn visit<V: kvs::engines::EngineVisitor>(self, visitor: V) -> V::Output {
                visitor.visit(self)
            }
        }
    };
}

#[path = "server/bursts.rs"]
mod bursts;
#[path = "server/commands.rs"]
mod commands;
#[path = "server/harness.rs"]
mod harness;
#[path = "server/misbehaviour.rs"]
mod misbehaviour;
#[path = "server/patience.rs"]
mod patience;

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvs::engines::{Engine, EngineResult, Operation, SetOptions, Visit};
use kvs::protocol::Reply;
use kvs::server::ServerOptions;
use kvs::thread_pool::{NaiveThreadPool, SharedQueueThreadPool, ThreadPool};
use kvs::{Batch, Durability, Error, KvStore, KvsClient, KvsEngine, KvsServer, Options, Result};
use tempfile::TempDir;

use harness::{DRIVERS, Told, ask, everywhere, in_memory, show, start};

// Bursts.

/// A store that counts the writes that reach it, and fails them if told to.
#[derive(Clone)]
struct Watched {
    store: KvStore,
    writes: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
}

impl Watched {
    fn new(store: KvStore) -> Self {
        Self {
            store,
            writes: Arc::default(),
            fails: Arc::default(),
        }
    }

    fn count(&self) -> EngineResult<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        match self.fails.load(Ordering::SeqCst) {
            true => Err(Error::Poisoned.into()),
            false => Ok(()),
        }
    }
}

strings_of_its_store!(Watched);

impl Engine for Watched {
    type Value = kvs::Value;

    fn name(&self) -> &'static str {
        "watched"
    }

    fn supports(&self, operation: Operation) -> bool {
        Engine::supports(&self.store, operation)
    }

    fn key_bytes_max(&self) -> usize {
        self.store.key_bytes_max()
    }

    fn get(&self, key: &[u8]) -> EngineResult<Option<kvs::Value>> {
        Engine::get(&self.store, key)
    }

    fn set(&self, key: &[u8], value: &[u8], options: SetOptions) -> EngineResult<()> {
        self.count()?;
        Engine::set(&self.store, key, value, options)
    }

    fn remove(&self, key: &[u8]) -> EngineResult<bool> {
        self.count()?;
        Engine::remove(&self.store, key)
    }

    fn expires_at(&self, key: &[u8]) -> EngineResult<Option<Option<u64>>> {
        self.store.expires_at(key)
    }

    fn flush(&self) -> EngineResult<()> {
        Engine::flush(&self.store)
    }

    fn write(&self, batch: &Batch) -> EngineResult<()> {
        self.count()?;
        Engine::write(&self.store, batch)
    }

    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> EngineResult<()> {
        self.store.scan(prefix, visit)
    }

    fn len(&self) -> EngineResult<u64> {
        self.store.len()
    }
}

#[test]
fn a_burst_of_durable_writes_is_one_commit_and_reads_its_own_writes() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let dir = TempDir::new().unwrap();
        let store = Options::new()
            .durability(Durability::Sync)
            .open(dir.path())
            .unwrap();
        let engine = Watched::new(KvStore::from_store(store));
        let writes = Arc::clone(&engine.writes);
        let running = start(*driver, engine, ServerOptions::new());
        let mut client = running.client();
        let mut pipeline = client.pipeline();
        for n in 0..30 {
            let (key, value) = (format!("k{n}"), n.to_string());
            pipeline.push(&["SET", &key, &value]);
            pipeline.push(&["GET", &key]);
            pipeline.push(&["INCR", "count"]);
        }
        let replies = pipeline.run().unwrap();
        for n in 0..30 {
            assert_eq!(replies[3 * n], Reply::OK);
            assert_eq!(replies[3 * n + 1], Reply::bulk(n.to_string()));
            assert_eq!(replies[3 * n + 2], Reply::Integer(n as i64 + 1));
        }
        // One if the burst came in one piece; TCP may have cut it.
        let commits = writes.load(Ordering::SeqCst);
        assert!((1..=4).contains(&commits), "{commits} commits of 60 writes");
        drop(client);
        running.stop().unwrap();
    }
}

#[test]
fn a_commit_that_fails_is_the_answer_to_all_that_depend_on_it() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let engine = Watched::new(in_memory());
        let fails = Arc::clone(&engine.fails);
        let running = start(*driver, engine, ServerOptions::new());
        let mut client = running.client();
        client.set("before", "1").unwrap();
        fails.store(true, Ordering::SeqCst);
        let replies = client
            .pipeline()
            .arg(["SET", "a", "1"])
            .arg(["GET", "before"])
            .arg(["GET", "a"])
            .arg(["PING"])
            .arg(["INCR", "b"])
            .run()
            .unwrap();
        for at in [0, 2, 4] {
            assert!(
                matches!(&replies[at], Reply::Error(text) if text.starts_with(b"ERR ")),
                "{at}: {replies:?}"
            );
        }
        assert_eq!(replies[1], Reply::bulk("1"));
        assert_eq!(replies[3], Reply::Simple(b"PONG".into()));
        fails.store(false, Ordering::SeqCst);
        assert_eq!(ask(&mut client, "MGET a b"), "[(nil) (nil)]");
    }
}

#[test]
fn one_key_too_long_does_not_spoil_its_burst() {
    everywhere(|running| {
        let long = "k".repeat(65_536);
        let replies = running
            .client()
            .pipeline()
            .arg(["SET", "a", "1"])
            .arg(["SET", &long, "1"])
            .arg(["MSET", "b", "1", &long, "1"])
            .arg(["MGET", "a", "b"])
            .run()
            .unwrap();
        let shown: Vec<String> = replies.iter().map(show).collect();
        let refused = "-ERR key of 65536 bytes, at most 65535 are allowed";
        assert_eq!(shown, ["OK", refused, refused, "[\"1\" (nil)]"]);
    });
}

#[test]
fn large_values_go_through_whole() {
    everywhere(|running| {
        let mut client = running.client();
        for len in [0, 1, 8 << 10, (8 << 10) + 1, 100_000, 20 << 20] {
            let value: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
            client.set("large", &value).unwrap();
            assert!(
                client.get("large").unwrap().unwrap() == value,
                "{len} bytes"
            );
        }
        // More replies at once than any socket takes.
        let mut pipeline = client.pipeline();
        (0..20).for_each(|_| pipeline.push(&["GET", "large"]));
        let replies = pipeline.run().unwrap();
        let all = |reply: &Reply| matches!(reply, Reply::Bulk(bytes) if bytes.len() == 20 << 20);
        assert!(replies.iter().all(all));
    });
}

// Engines.

/// The least an engine can be, and not `Sync`.
#[derive(Clone)]
struct Course {
    map: Arc<Mutex<HashMap<String, String>>>,
    _not_sync: std::cell::Cell<()>,
}

impl KvsEngine for Course {
    fn set(&self, key: String, value: String) -> Result<()> {
        self.map.lock().unwrap().insert(key, value);
        Ok(())
    }

    fn get(&self, key: String) -> Result<Option<String>> {
        Ok(self.map.lock().unwrap().get(&key).cloned())
    }

    fn remove(&self, key: String) -> Result<()> {
        let removed = self.map.lock().unwrap().remove(&key);
        removed.map(drop).ok_or(Error::KeyNotFound)
    }
}

#[test]
fn an_engine_that_is_no_more_than_the_course_asks_is_served() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let engine = Course {
            map: Arc::default(),
            _not_sync: std::cell::Cell::new(()),
        };
        let running = start(*driver, engine, ServerOptions::new());
        let mut client = running.client();
        let missing = |operation| format!("-ERR {operation} not supported by engine 'strings'");
        for (command, wanted) in [
            ("SET a 1", "OK".to_owned()),
            ("INCR a", ":2".to_owned()),
            ("GET a", "\"2\"".to_owned()),
            ("SET b 1", "OK".to_owned()),
            ("DEL a b c", ":2".to_owned()),
            ("GET \u{e4}", "(nil)".to_owned()),
            ("MSET a 1 b 2", missing("batch")),
            ("KEYS *", missing("scan")),
            ("DBSIZE", missing("len")),
            ("KVS.STATS", missing("stats")),
            ("MULTI", "OK".to_owned()),
            ("SET a 1", "QUEUED".to_owned()),
            ("SET b 1", "QUEUED".to_owned()),
            ("EXEC", missing("batch")),
            ("EXISTS a b", ":0".to_owned()),
        ] {
            assert_eq!(ask(&mut client, command), wanted, "{command}");
        }
        let reply = client.call(&[&b"SET"[..], b"a", b"\xff"]).unwrap();
        assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
        assert_eq!(client.call(&[&b"GET"[..], b"\xff"]).unwrap(), Reply::Null);
    }
}

#[cfg(feature = "sled")]
#[test]
fn sled_is_served() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let dir = TempDir::new().unwrap();
        let engine = kvs::SledKvsEngine::new(sled::open(dir.path()).unwrap());
        let running = start(*driver, engine, ServerOptions::new());
        harness::script(
            &running,
            "
            SET a 1 => OK
            INCR a => :2
            MSET b 1 c 2 => OK
            MULTI => OK
            DEL b => QUEUED
            INCR c => QUEUED
            EXEC => [:1 :3]
            DBSIZE => :2
            KEYS a* => [\"a\"]
            RENAME a z => OK
            MGET a b c z => [(nil) (nil) \"3\" \"2\"]
            KVS.COMPACT => -ERR compact not supported by engine 'sled'
            TTL a => -ERR expiry not supported by engine 'sled'
        ",
        );
        running.stop().unwrap();
        let engine = kvs::SledKvsEngine::new(sled::open(dir.path()).unwrap());
        assert_eq!(
            KvsEngine::get(&engine, "z".to_owned()).unwrap().as_deref(),
            Some("2")
        );
        // What a server does not need, a program may.
        assert!(engine.compare_and_swap(b"z", Some(b"2"), None).unwrap());
        assert!(!engine.compare_and_swap(b"z", Some(b"2"), None).unwrap());
        let gone = engine.compact();
        assert!(matches!(
            gone,
            Err(kvs::engines::EngineError::Unsupported {
                operation: Operation::Compact
            })
        ));
    }
}

// The end.

#[test]
fn a_stopped_server_has_answered_what_it_received_and_kept_what_it_answered() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let dir = TempDir::new().unwrap();
        let running = start(
            *driver,
            KvStore::open(dir.path()).unwrap(),
            ServerOptions::new(),
        );
        let acknowledged = AtomicUsize::new(0);
        let addr = running.addr;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = KvsClient::connect(addr).unwrap();
                for n in 0.. {
                    match client.set(format!("{n}"), "x") {
                        Ok(()) => acknowledged.store(n + 1, Ordering::SeqCst),
                        Err(_) => break,
                    }
                }
            });
            let _idle = running.socket();
            while acknowledged.load(Ordering::SeqCst) < 100 {
                std::thread::yield_now();
            }
            let started = Instant::now();
            running.stop().unwrap();
            assert!(started.elapsed() < Duration::from_secs(10));
        });
        assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
        let store = KvStore::open(dir.path()).unwrap();
        for n in 0..acknowledged.load(Ordering::SeqCst) {
            assert!(
                store.get(format!("{n}")).unwrap().is_some(),
                "{n} was acknowledged"
            );
        }
    }
}

#[test]
fn every_pool_serves() {
    fn serves<P: ThreadPool>() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = KvsServer::new(in_memory(), P::new(1).unwrap());
        let stopper = server.stopper();
        let thread = std::thread::spawn(move || server.run_on(listener));
        std::thread::scope(|scope| {
            for n in 0..8 {
                scope.spawn(move || {
                    let mut client = KvsClient::connect(addr).unwrap();
                    for round in 0..50 {
                        let key = format!("{n}.{round}");
                        client.set(&key, &key).unwrap();
                        assert_eq!(client.get(&key).unwrap().unwrap(), key.as_bytes());
                        client.remove(&key).unwrap();
                        assert!(client.remove(&key).is_err());
                    }
                });
            }
        });
        stopper.stop();
        thread.join().unwrap().unwrap();
    }
    serves::<NaiveThreadPool>();
    serves::<SharedQueueThreadPool>();
    #[cfg(feature = "rayon")]
    serves::<kvs::thread_pool::RayonThreadPool>();
}

// The asynchronous client.

#[cfg(feature = "async")]
#[test]
fn the_asynchronous_client_stays_in_step_when_a_call_is_dropped() {
    use kvs::client::{AsyncKvsClient, ClientError};
    everywhere(|running| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut client = AsyncKvsClient::connect(running.addr).await.unwrap();
            client.set("a", "1").await.unwrap();
            assert_eq!(client.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
            client.set("b", "2").await.unwrap();
            for _ in 0..100 {
                {
                    let call = client.get("a");
                    let mut call = std::pin::pin!(call);
                    // Polled once: the request is sent, its reply is not there yet, or is.
                    let waker = std::task::Waker::noop();
                    let mut context = std::task::Context::from_waker(waker);
                    let _ = Future::poll(call.as_mut(), &mut context);
                }
                assert_eq!(client.get("b").await.unwrap().as_deref(), Some(&b"2"[..]));
            }
            client.remove("a").await.unwrap();
            let gone = client.remove("a").await;
            assert!(matches!(gone, Err(ClientError::KeyNotFound)), "{gone:?}");
            let commands: Vec<[&str; 2]> = vec![["INCR", "n"]; 5000];
            let replies = client.pipeline(&commands).await.unwrap();
            assert_eq!(replies.last(), Some(&Reply::Integer(5000)));
        });
    });
}
