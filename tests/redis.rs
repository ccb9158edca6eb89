//! The server beside a real Redis, and Redis' own tools against the server.
//!
//! Method: the same commands, made up from a seed over a handful of keys, go to both over a bare
//! connection; every reply must be the same byte for byte, errors included, in both versions of the
//! protocol, one by one and pipelined. Then `redis-cli` and `redis-benchmark` are let loose.
//!
//! Elsewhere: every command with arguments that it refuses (`redis/conform.rs`), clients that programs
//! use (`redis/clients.rs`).
//!
//! Needs `redis-server`, `redis-cli` and `redis-benchmark` (Debian: redis-server, redis-tools).
//! `KVS_REDIS_SEED=n` is another seed, `KVS_REDIS_ROUNDS=n` another number of rounds.
#![allow(clippy::print_stdout)]

#[path = "redis/clients.rs"]
mod clients;
#[path = "redis/conform.rs"]
mod conform;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kvs::protocol::{DecodeStep, Reply, ReplyDecoder, encode_request};
use kvs::server::Stopper;
use kvs::thread_pool::{SharedQueueThreadPool, ThreadPool};
use kvs::{KvStore, KvsServer, Options};

/// Whether the tool is there; if all tools are required, it must be.
fn is_there(tool: &str) -> bool {
    let started = Command::new(tool).arg("--version").output();
    if let Err(error) = &started {
        assert!(
            std::env::var_os("KVS_REQUIRE_ALL").is_none(),
            "{tool}: {error}"
        );
        println!("SKIPPED: {tool} cannot be started: {error}");
    }
    started.is_ok()
}

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

struct Kvs {
    addr: SocketAddr,
    stopper: Stopper,
    thread: Option<std::thread::JoinHandle<kvs::Result<()>>>,
    _dir: Option<tempfile::TempDir>,
}

impl Kvs {
    fn start() -> Self {
        Self::start_with(Options::new().open_in_memory().unwrap(), None)
    }

    /// Over a store in a directory.
    fn start_at(level: kvs::Durability) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Options::new().durability(level).open(dir.path()).unwrap();
        Self::start_with(store, Some(dir))
    }

    fn start_with(store: kvs::Store, dir: Option<tempfile::TempDir>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let engine = KvStore::from_store(store);
        let server = KvsServer::new(engine, SharedQueueThreadPool::new(2).unwrap());
        let stopper = server.stopper();
        let thread = Some(std::thread::spawn(move || server.run_on(listener)));
        Self {
            addr,
            stopper,
            thread,
            _dir: dir,
        }
    }
}

impl Drop for Kvs {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Redis {
    addr: SocketAddr,
    child: Child,
}

impl Redis {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let port = addr.port().to_string();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(addr).is_err() {
            assert!(Instant::now() < until, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { addr, child }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that hands out replies as the bytes they came in.
struct Bare {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Bare {
    fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            bytes: Vec::new(),
        }
    }

    fn send(&mut self, requests: &[Vec<Vec<u8>>]) {
        let mut bytes = Vec::new();
        requests
            .iter()
            .for_each(|request| encode_request(request, &mut bytes));
        self.stream.write_all(&bytes).unwrap();
    }

    fn reply(&mut self) -> (Reply, Vec<u8>) {
        loop {
            let mut decoder = ReplyDecoder::new(1 << 28);
            if let DecodeStep::Reply { reply, used } = decoder.step(&self.bytes).unwrap() {
                return (reply, self.bytes.drain(..used).collect());
            }
            let mut piece = [0; 4096];
            let len = self.stream.read(&mut piece).unwrap();
            assert!(len > 0, "closed behind {}", self.bytes.escape_ascii());
            self.bytes.extend(&piece[..len]);
        }
    }
}

/// splitmix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const KEYS: &[&str] = &["a", "b", "c", "key:1", ""];

const VALUES: &[&str] = &[
    "",
    "x",
    "0",
    "7",
    "-3",
    "9223372036854775807",
    "-9223372036854775808",
    "1.5",
    "hello world",
    "\u{0}\r\n",
    "01",
    "+1",
    " 1",
    "1e2",
];

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "5",
    "-5",
    "100",
    "9223372036854775807",
    "-9223372036854775808",
    "x",
    "",
    "1.5",
    "01",
];

/// `k` a key, `v` a value, `n` a number; a word in brackets is one of those it lists, or left out.
const FORMS: &[&str] = &[
    "GET k",
    "SET k v",
    "SET k v [NX|XX|GET|KEEPTTL]",
    "SET k v [NX|XX] [GET]",
    "SET k v EXAT 4000000000",
    "GETEX k [PERSIST]",
    "GETEX k PXAT 4100000000000",
    "EXPIREAT k 4200000000 [NX|XX|GT|LT]",
    "PEXPIREAT k 4000000000007 [NX|XX|GT|LT]",
    "PEXPIREAT k 1",
    "EXPIRE k x",
    "EXPIRETIME k",
    "PEXPIRETIME k",
    "PERSIST k",
    "SET k v v",
    "SETNX k v",
    "GETSET k v",
    "GETDEL k",
    "GETEX k",
    "MGET k k",
    "MGET k",
    "MSET k v k v",
    "MSET k v k",
    "MSETNX k v k v",
    "APPEND k v",
    "STRLEN k",
    "GETRANGE k n n",
    "SETRANGE k n v",
    "INCR k",
    "DECR k",
    "INCRBY k n",
    "DECRBY k n",
    "DEL k k",
    "UNLINK k",
    "EXISTS k k k",
    "TYPE k",
    "TOUCH k k",
    "RENAME k k",
    "RENAMENX k k",
    "COPY k k [REPLACE]",
    "COPY k k DB n",
    "DBSIZE",
    "PING",
    "PING v",
    "ECHO v",
    "SELECT n",
    "GET",
    "SET k",
    "GETRANGE k n",
    "ECHO v v",
    "NOSUCH v v",
    "NOSUCH",
    "CLIENT NOSUCH",
    "CLIENT SETNAME",
    "CLIENT GETNAME",
    "CONFIG NOSUCH x",
    "COMMAND NOSUCH",
    "OBJECT",
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "EXEC",
    "DISCARD",
    "WATCH k",
    "UNWATCH",
    "HELLO 4",
    "HELLO x",
    "SELECT x",
    "KEYS key:?",
    "KEYS nothing*",
    "COMMAND GETKEYS GET k",
    "COMMAND GETKEYS MSET k v k v",
    "COMMAND GETKEYS PING",
    "COMMAND GETKEYS NOSUCH",
    "CLIENT KILL 1.2.3.4:5",
    "CLIENT REPLY x",
    "RESET",
    "CONFIG GET save",
    "CONFIG GET nothing",
    "INCRBYFLOAT k x",
    "AUTH x",
    "AUTH",
];

fn request(random: &mut Random) -> Vec<Vec<u8>> {
    let mut request = Vec::new();
    for word in random.one(FORMS).split(' ') {
        let word = match word {
            "k" => random.one(KEYS),
            "v" => random.one(VALUES),
            "n" => random.one(NUMBERS),
            word => match word.strip_prefix('[') {
                None => word,
                Some(list) => {
                    let list: Vec<&str> = list.trim_end_matches(']').split('|').collect();
                    match random.below(list.len() + 1) {
                        0 => continue,
                        n => list[n - 1],
                    }
                }
            },
        };
        request.push(word.as_bytes().to_vec());
    }
    request
}

/// Redis refuses some of what we accept or says it otherwise; each with its reason.
fn is_known_difference(request: &[Vec<u8>]) -> bool {
    let word = |at: usize| request.get(at).map(|arg| arg.to_ascii_uppercase());
    match (word(0).as_deref(), word(1).as_deref()) {
        // We have no other databases to copy to.
        (Some(b"COPY"), _) => request.len() > 4,
        (Some(b"SELECT"), _) => true,
        // Commands that we do not have.
        (Some(b"OBJECT"), _) => true,
        _ => false,
    }
}

#[test]
fn replies_are_those_of_redis_byte_for_byte() {
    if !is_there("redis-server") {
        return;
    }
    let redis = Redis::start();
    let seed = number_from("KVS_REDIS_SEED", 1);
    let rounds = number_from("KVS_REDIS_ROUNDS", 60);
    let (mut compared, mut errors) = (0, 0);
    let mut differences = std::collections::BTreeSet::new();
    'rounds: for round in 0..rounds {
        let kvs = Kvs::start();
        let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(round));
        let mut theirs = Bare::connect(redis.addr);
        theirs.send(&[vec![b"FLUSHALL".to_vec()]]);
        theirs.reply();
        let mut ours = Bare::connect(kvs.addr);
        if round % 2 == 1 {
            let hello = vec![vec![b"HELLO".to_vec(), b"3".to_vec()]];
            for bare in [&mut theirs, &mut ours] {
                bare.send(&hello);
                bare.reply();
            }
        }
        let requests: Vec<_> = (0..200)
            .map(|_| request(&mut random))
            .filter(|request| !is_known_difference(request))
            .collect();
        // One by one, then in bursts of some.
        for burst in requests.chunks([1, 7, 200][(round % 3) as usize]) {
            theirs.send(burst);
            ours.send(burst);
            for request in burst {
                let (wanted, their_bytes) = theirs.reply();
                let (_, our_bytes) = ours.reply();
                let shown: Vec<String> = request
                    .iter()
                    .map(|a| a.escape_ascii().to_string())
                    .collect();
                if our_bytes != their_bytes {
                    // From here on the two stores are not the same.
                    differences.insert(format!(
                        "{shown:?}: {} for {} (seed {seed}, round {round})",
                        our_bytes.escape_ascii(),
                        their_bytes.escape_ascii()
                    ));
                    continue 'rounds;
                }
                compared += 1;
                errors += u64::from(matches!(wanted, Reply::Error(_)));
            }
        }
    }
    let differences: Vec<String> = differences.into_iter().collect();
    assert!(differences.is_empty(), "\n{}\n", differences.join("\n"));
    assert!(compared > 100 * rounds && errors > rounds && errors < compared / 2);
}

fn run(tool: &str, addr: SocketAddr, args: &[&str], input: &[u8]) -> Output {
    let port = addr.port().to_string();
    let mut child = Command::new(tool)
        .args(["-p", &port])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn redis_cli_works() {
    if !is_there("redis-cli") {
        return;
    }
    let kvs = Kvs::start();
    let cli = |args: &[&str]| said(&run("redis-cli", kvs.addr, args, b""));
    assert_eq!(cli(&["SET", "a", "1"]), "OK\n");
    assert_eq!(cli(&["-3", "INCR", "a"]), "2\n");
    assert_eq!(cli(&["GET", "a"]), "2\n");
    assert_eq!(cli(&["MGET", "a", "none"]), "2\n\n");
    assert!(cli(&["INFO"]).contains("redis_version:"));
    assert!(cli(&["LPUSH", "a", "b"]).contains("ERR unknown command"));
    // Commands from standard input, as typed.
    let output = run(
        "redis-cli",
        kvs.addr,
        &[],
        b"SET \"x y\" \"1\\n2\"\nGET \"x y\"\nDBSIZE\n",
    );
    assert_eq!(said(&output), "OK\n1\n2\n2\n");
    // Mass insertion: a raw stream, then an empty line and an ECHO.
    let mut stream = Vec::new();
    for n in 0..10_000 {
        let (key, value) = (format!("key:{n}"), format!("value:{n}"));
        encode_request(&["SET", &key, &value], &mut stream);
    }
    let output = run("redis-cli", kvs.addr, &["--pipe"], &stream);
    assert!(
        said(&output).contains("errors: 0, replies: 10000"),
        "{}",
        said(&output)
    );
    assert_eq!(cli(&["DBSIZE"]), "10002\n");
    assert_eq!(cli(&["GET", "key:9999"]), "value:9999\n");
}

#[test]
fn redis_benchmark_works() {
    if !is_there("redis-benchmark") {
        return;
    }
    let kvs = Kvs::start();
    for pipeline in ["1", "16"] {
        let args = [
            "-t",
            "ping,set,get,incr,mset",
            "-n",
            "2000",
            "-c",
            "20",
            "-P",
            pipeline,
            "-r",
            "1000",
            "--csv",
        ];
        let output = run("redis-benchmark", kvs.addr, &args, b"");
        assert!(output.status.success(), "{}", said(&output));
        let said = said(&output);
        for test in [
            "PING_INLINE",
            "PING_MBULK",
            "SET",
            "GET",
            "INCR",
            "MSET (10 keys)",
        ] {
            assert!(said.contains(&format!("\"{test}\",")), "{test}: {said}");
        }
        assert!(!said.contains("rror"), "{said}");
    }
}
