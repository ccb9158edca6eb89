//! Linearisability through sockets. Goal: every command, and every transaction as a whole, takes effect
//! at one moment between its sending and its reply, also when every write waits for a disk and others
//! go on meanwhile on what is not durable yet.
//!
//! Method: connections of a server over a durable store send single commands, commands of several keys
//! and transactions about four keys, and record when they sent, when the reply was there, and what it
//! said. The checker of `tests/linear.rs`, which is checked there, looks for an order over all keys at
//! once. Every driver is asked; segments are of the smallest size, so that rotation and compaction are
//! met.
//!
//! `KVS_LINEAR_SECONDS=n` records for n seconds per driver instead of four.

#[path = "linear/checker.rs"]
mod checker;
#[path = "server/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "linear/history.rs"]
#[allow(dead_code)]
mod history;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use kvs::protocol::Reply;
use kvs::server::ServerOptions;
use kvs::{Durability, KvStore, KvsClient, Options, SEGMENT_BYTES_MIN};

use checker::linearise;
use harness::{DRIVERS, Running, Told, start_with};
use history::{Call, Op, State};

const KEYS: usize = 4;
const CLIENTS: usize = 4;
/// Commands of a client between two moments at which everybody waits.
const CALLS: usize = 25;

fn seconds() -> u64 {
    let wanted = std::env::var("KVS_LINEAR_SECONDS").ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(4)
}

/// splitmix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

fn key(id: usize) -> String {
    format!("key-{id}")
}

fn number(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::Null => None,
        Reply::Bulk(text) => Some(std::str::from_utf8(text).unwrap().parse().unwrap()),
        other => panic!("{other:?}"),
    }
}

fn integer(reply: &Reply) -> i64 {
    match reply {
        Reply::Integer(number) => *number,
        other => panic!("{other:?}"),
    }
}

fn items(reply: &Reply) -> &[Reply] {
    match reply {
        Reply::Array(items) => items,
        other => panic!("{other:?}"),
    }
}

/// What all connections share.
#[derive(Default)]
struct Recorder {
    clock: AtomicU64,
    calls: Mutex<Vec<Call>>,
    /// Makes every value one of a kind.
    values: AtomicU64,
}

impl Recorder {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// A value that nobody else writes, nor gets to by adding one a few times.
    fn fresh(&self) -> i64 {
        self.values.fetch_add(1, Ordering::Relaxed) as i64 * 100_000
    }

    fn record(&self, thread: usize, call: impl FnOnce() -> Op) {
        let start = self.now();
        let op = call();
        let end = self.now();
        let call = Call {
            op,
            thread,
            start,
            end,
        };
        self.calls.lock().unwrap().push(call);
    }

    fn read_all(&self, client: &mut KvsClient) -> Op {
        let keys: Vec<String> = (0..KEYS).map(key).collect();
        let mut command = vec!["MGET"];
        command.extend(keys.iter().map(String::as_str));
        let reply = client.call(&command).unwrap();
        let seen = items(&reply).iter().map(number).collect();
        Op::Snapshot { seen }
    }

    fn work(&self, thread: usize, client: &mut KvsClient, random: &mut Random) {
        let mut last = None;
        for _ in 0..CALLS {
            let id = random.below(KEYS);
            let other = (id + 1 + random.below(KEYS - 1)) % KEYS;
            let (name, other_name) = (key(id), key(other));
            let new = self.fresh();
            let text = new.to_string();
            let choice = random.below(16);
            self.record(thread, || {
                let mut ask = |args: &[&str]| client.call(args).unwrap();
                match choice {
                    0..=2 => {
                        let seen = number(&ask(&["GET", &name]));
                        last = seen;
                        Op::Read { key: id, seen }
                    }
                    3 | 4 => self.read_all(client),
                    5 | 6 => {
                        assert_eq!(ask(&["SET", &name, &text]), Reply::OK);
                        Op::Set { key: id, new }
                    }
                    7 => Op::Remove {
                        key: id,
                        found: integer(&ask(&["DEL", &name])) == 1,
                    },
                    8 => Op::SetIfAbsent {
                        key: id,
                        new,
                        stored: integer(&ask(&["SETNX", &name, &text])) == 1,
                    },
                    9 => {
                        let expected = last.unwrap_or(-1).to_string();
                        let cas = ["KVS.CAS", &name, "VALUE", &expected, "SET", &text];
                        let swapped = integer(&ask(&cas)) == 1;
                        Op::Swap {
                            key: id,
                            expected: Some(last.unwrap_or(-1)),
                            new: Some(new),
                            swapped,
                        }
                    }
                    10 => Op::Replace {
                        key: id,
                        new: Some(new),
                        old: number(&ask(&["GETSET", &name, &text])),
                    },
                    11 => Op::Add {
                        key: id,
                        by: 1,
                        sum: integer(&ask(&["INCR", &name])),
                    },
                    12 | 13 => {
                        let second = (new + 1).to_string();
                        let reply = ask(&["MSET", &name, &text, &other_name, &second]);
                        assert_eq!(reply, Reply::OK);
                        Op::Batch {
                            writes: vec![(id, Some(new)), (other, Some(new + 1))],
                        }
                    }
                    _ => {
                        let pipeline = client.pipeline();
                        let replies = pipeline
                            .arg(["MULTI"])
                            .arg(["GET", &name])
                            .arg(["INCR", &other_name])
                            .arg(["SET", &name, &text])
                            .arg(["EXEC"])
                            .run()
                            .unwrap();
                        let replies = items(&replies[4]);
                        let read = Op::Read {
                            key: id,
                            seen: number(&replies[0]),
                        };
                        let add = Op::Add {
                            key: other,
                            by: 1,
                            sum: integer(&replies[1]),
                        };
                        assert_eq!(replies[2], Reply::OK);
                        Op::Together {
                            ops: vec![read, add, Op::Set { key: id, new }],
                        }
                    }
                }
            });
        }
    }

    /// One round: everybody asks, then everything is quiet.
    fn round(&self, running: &Running, clients: &mut [KvsClient], seed: u64) -> Vec<Call> {
        let ready = Barrier::new(clients.len());
        std::thread::scope(|scope| {
            for (thread, client) in clients.iter_mut().enumerate() {
                let ready = &ready;
                scope.spawn(move || {
                    let mut random = Random(seed.wrapping_mul(1000) + thread as u64);
                    ready.wait();
                    self.work(thread, client, &mut random);
                });
            }
        });
        let mut client = running.client();
        // Fills segments, and says what became of it all.
        client.set("filler", vec![b'x'; 20_000]).unwrap();
        self.record(clients.len(), || self.read_all(&mut client));
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

#[test]
fn what_connections_are_told_has_an_order() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let dir = tempfile::TempDir::new().unwrap();
        let options = Options::new()
            .durability(Durability::Sync)
            .segment_bytes(SEGMENT_BYTES_MIN);
        let engine = KvStore::from_store(options.open(dir.path()).unwrap());
        let store = engine.store().clone();
        let running = start_with(CLIENTS as u32 + 1, *driver, engine, ServerOptions::new());
        let mut clients: Vec<KvsClient> = (0..CLIENTS).map(|_| running.client()).collect();
        let recorder = Recorder::default();
        let mut state: State = vec![None; KEYS];
        let end = Instant::now() + Duration::from_secs(seconds());
        let (mut rounds, mut calls_in_all) = (0, 0);
        while Instant::now() < end || rounds < 5 {
            rounds += 1;
            let calls = recorder.round(&running, &mut clients, rounds);
            calls_in_all += calls.len() as u64;
            if let Err(stuck) = linearise(&state, &calls) {
                let shown = stuck.order.iter().map(|i| format!("  {:?}", calls[*i]));
                let left = (0..calls.len()).filter(|i| !stuck.order.contains(i));
                let left = left.map(|i| format!("  {:?}", calls[i]));
                panic!(
                    "round {rounds}, undecided: {}, from {state:?} this far:\n{}\nleft:\n{}",
                    stuck.undecided,
                    shown.collect::<Vec<_>>().join("\n"),
                    left.collect::<Vec<_>>().join("\n")
                );
            }
            let Some(Op::Snapshot { seen }) = calls.last().map(|call| &call.op) else {
                panic!("a round ends with a look at everything");
            };
            state.clone_from(seen);
        }
        assert_eq!(calls_in_all, rounds * (CLIENTS * CALLS + 1) as u64);
        let syncs = store.stats().group_commits;
        assert!(
            syncs > 0 && syncs < calls_in_all,
            "{syncs} syncs of {calls_in_all}"
        );
    }
}
