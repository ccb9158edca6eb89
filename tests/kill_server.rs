//! SIGKILL of `kvs-server` under concurrent load, over and over on one directory. Goal: whatever was
//! answered is there when the server is back, at every level; nothing is there that nobody wrote; and
//! what survives of a connection is the beginning of what it sent.
//!
//! Method: connections send bursts of sets and removes of keys of their own, and increments of one
//! counter of all, and keep a journal here, in the process that lives on: what was sent, and how much
//! of it was answered. The server is killed at a random moment; every fifth kill, not counted, hits it
//! while it starts. Then it is started again and asked for everything.
//!
//! A kill leaves the kernel's memory alone, so every level must pass. What a power cut leaves is
//! simulated elsewhere (`tests/crash.rs`, `tests/server/bursts.rs`).
//!
//! `KVS_SERVER_KILLS=n` is how often each level is killed under load (default 10); `KVS_KILL_SEED`
//! repeats what is sent, not the moments.
#![cfg(feature = "server")]

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvs::protocol::{DecodeStep, Reply, ReplyDecoder, encode_request};
use kvs::{KvsClient, Store};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const CLIENTS: usize = 4;
const KEYS: usize = 12;
const BURST_MAX: usize = 8;
const COUNTER: &str = "counter";

/// SplitMix64: small, seedable, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// A running `kvs-server`; killed when dropped.
struct Server {
    child: Child,
    addr: SocketAddr,
}

impl Server {
    fn spawn(dir: &Path, level: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_kvs-server"))
            .args(["--addr", "127.0.0.1:0", "--durability", level, "--dir"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[expect(
        clippy::zombie_processes,
        reason = "a test that fails here ends the process that would wait"
    )]
    fn start(dir: &Path, level: &str) -> Self {
        let mut child = Self::spawn(dir, level);
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        loop {
            let at = said.len();
            let len = lines.read_line(&mut said).unwrap();
            assert!(len > 0, "the server does not listen: {said}");
            if let Some((_, addr)) = said[at..].split_once("listening on ") {
                let addr = addr.trim().parse().unwrap();
                // Whatever else it says must find a reader.
                std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
                return Self { child, addr };
            }
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    fn end(mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Debug)]
enum Sent {
    /// A key's new value.
    Change(usize, Option<Vec<u8>>),
    Increment,
}

/// What one client has sent in all its life.
#[derive(Default)]
struct Journal {
    sent: Vec<Sent>,
    /// How much of it is known to be done: answered, or found to be there after a kill.
    done: usize,
    /// What is known to be undone: sent, not answered and not there after a kill.
    undone: HashSet<usize>,
    last_sum: i64,
}

fn key(client: usize, key: usize) -> String {
    format!("client {client}, key {key}")
}

/// One of a kind: who wrote it and when, all over.
fn value(client: usize, number: usize, random: &mut Random) -> Vec<u8> {
    let len = match random.below(40) {
        0 => 60_000 + random.below(40_000),
        1..4 => random.below(20),
        _ => 20 + random.below(1_000),
    };
    let text = format!("{client}.{number} ");
    let mut value = text.clone().into_bytes();
    value.extend(text.bytes().cycle().take(len));
    value
}

/// Sends bursts until the server is gone.
fn work(addr: SocketAddr, client: usize, journal: &mut Journal, random: &mut Random) {
    let Ok(mut stream) = std::net::TcpStream::connect(addr) else {
        return;
    };
    stream.set_nodelay(true).unwrap();
    let (mut decoder, mut bytes) = (ReplyDecoder::new(1 << 20), Vec::new());
    loop {
        let first = journal.sent.len();
        let mut burst = Vec::new();
        for _ in 0..=random.below(BURST_MAX) {
            let at = random.below(KEYS);
            let number = journal.sent.len();
            let sent = match random.below(10) {
                0 => Sent::Increment,
                1 | 2 => Sent::Change(at, None),
                _ => Sent::Change(at, Some(value(client, number, random))),
            };
            let name = key(client, at);
            match &sent {
                Sent::Increment => encode_request(&["INCR", COUNTER], &mut burst),
                Sent::Change(_, None) => encode_request(&["DEL", &name], &mut burst),
                Sent::Change(_, Some(value)) => {
                    encode_request(&[b"SET", name.as_bytes(), value], &mut burst);
                }
            }
            journal.sent.push(sent);
        }
        // Nobody knows how much of it the server has read if it fails.
        if stream.write_all(&burst).is_err() {
            return;
        }
        for number in first..journal.sent.len() {
            let reply = loop {
                if let DecodeStep::Reply { reply, used } = decoder.step(&bytes).unwrap() {
                    bytes.drain(..used);
                    decoder = ReplyDecoder::new(1 << 20);
                    break reply;
                }
                let mut piece = [0; 4096];
                match std::io::Read::read(&mut stream, &mut piece) {
                    Ok(len @ 1..) => bytes.extend(&piece[..len]),
                    _ => return,
                }
            };
            match (&journal.sent[number], reply) {
                (Sent::Increment, Reply::Integer(sum)) => {
                    assert!(sum > journal.last_sum, "{sum} after {}", journal.last_sum);
                    journal.last_sum = sum;
                }
                (Sent::Change(_, None), Reply::Integer(0 | 1)) => {}
                (Sent::Change(_, Some(_)), Reply::Simple(_)) => {}
                (sent, reply) => panic!("{sent:?}: {reply:?}"),
            }
            journal.done = number + 1;
        }
    }
}

impl Journal {
    /// The keys as they are when the first `count` of what was sent are done.
    fn after(&self, count: usize) -> BTreeMap<usize, &[u8]> {
        let mut keys = BTreeMap::new();
        for (number, sent) in self.sent[..count].iter().enumerate() {
            match sent {
                _ if self.undone.contains(&number) => {}
                Sent::Change(key, Some(value)) => drop(keys.insert(*key, value.as_slice())),
                Sent::Change(key, None) => drop(keys.remove(key)),
                Sent::Increment => {}
            }
        }
        keys
    }

    /// Compares with what the server has, and takes note of what became of what was not answered.
    fn check(&mut self, client: usize, found: &BTreeMap<usize, Vec<u8>>, round: u64) {
        let found: BTreeMap<usize, &[u8]> = found.iter().map(|(k, v)| (*k, &v[..])).collect();
        // The longest beginning that explains it: what changes nothing may be there or not.
        let fits = (self.done..=self.sent.len()).rev();
        let fits = fits.into_iter().find(|count| self.after(*count) == found);
        let Some(count) = fits else {
            let short = |keys: &BTreeMap<usize, &[u8]>| {
                let start = |v: &&[u8]| v[..v.len().min(16)].escape_ascii().to_string();
                let keys = keys.iter().map(|(k, v)| format!("{k}: {}", start(v)));
                keys.collect::<Vec<_>>().join(", ")
            };
            panic!(
                "round {round}, client {client}: {} sent, {} done\nfound:  {}\nwanted: {}\nor up to {}",
                self.sent.len(),
                self.done,
                short(&found),
                short(&self.after(self.done)),
                short(&self.after(self.sent.len()))
            );
        };
        self.undone.extend(count..self.sent.len());
        self.done = self.sent.len();
    }
}

/// What the server has of each client's keys, and the counter.
fn ask_all(addr: SocketAddr) -> (Vec<BTreeMap<usize, Vec<u8>>>, i64) {
    let mut client = KvsClient::connect(addr).unwrap();
    let all = (0..CLIENTS).map(|who| {
        let mut found = BTreeMap::new();
        for at in 0..KEYS {
            if let Some(value) = client.get(key(who, at)).unwrap() {
                found.insert(at, value);
            }
        }
        found
    });
    let all = all.collect();
    let sum = client.get(COUNTER).unwrap();
    let sum = sum.map_or(0, |sum| std::str::from_utf8(&sum).unwrap().parse().unwrap());
    (all, sum)
}

#[expect(clippy::print_stdout, reason = "what a soak has done is worth telling")]
fn survives_kills(level: &str) {
    let from_environment = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let kills = from_environment("KVS_SERVER_KILLS").unwrap_or(10);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = from_environment("KVS_KILL_SEED").unwrap_or(now.as_nanos() as u64);
    let told = Told(seed, Some(TempDir::new().unwrap()));
    let dir = told.1.as_ref().unwrap().path().join("store");
    std::fs::create_dir(&dir).unwrap();
    let mut random = Random(seed);
    let mut journals: Vec<Mutex<Journal>> = (0..CLIENTS).map(|_| Mutex::default()).collect();
    let (mut under_load, mut answered, mut answered_all) = (0, 0, 0);
    let mut least_sum = 0;
    for round in 0u64.. {
        if under_load == kills {
            break;
        }
        let known: Vec<usize> = journals
            .iter_mut()
            .map(|journal| journal.get_mut().unwrap().done)
            .collect();
        if round % 5 == 4 {
            let mut child = Server::spawn(&dir, level);
            std::thread::sleep(Duration::from_micros(random.below(15_000) as u64));
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            let server = Server::start(&dir, level);
            let addr = server.addr;
            std::thread::scope(|scope| {
                for (client, journal) in journals.iter().enumerate() {
                    let mut random = Random(seed ^ (round << 8) ^ client as u64);
                    scope.spawn(move || {
                        work(addr, client, &mut journal.lock().unwrap(), &mut random)
                    });
                }
                std::thread::sleep(Duration::from_millis(30 + random.below(200) as u64));
                server.kill();
            });
            under_load += 1;
        }
        let server = Server::start(&dir, level);
        let (found, sum) = ask_all(server.addr);
        let mut open = 0;
        for (client, (journal, found)) in journals.iter_mut().zip(&found).enumerate() {
            let journal = journal.get_mut().unwrap();
            answered = answered.max(journal.done);
            answered_all += journal.done - known[client];
            let unanswered = &journal.sent[journal.done..];
            open += unanswered
                .iter()
                .filter(|s| matches!(s, Sent::Increment))
                .count() as i64;
            least_sum = least_sum.max(journal.last_sum);
            journal.check(client, found, round);
        }
        assert!(
            (least_sum..=least_sum + open + CLIENTS as i64 * BURST_MAX as i64).contains(&sum),
            "round {round}: counter {sum}, {least_sum} answered, {open} open"
        );
        least_sum = sum;
        for journal in &mut journals {
            journal.get_mut().unwrap().last_sum = sum;
        }
        match round % 3 {
            0 => server.end(),
            _ => server.kill(),
        }
    }
    let sent: usize = journals
        .iter_mut()
        .map(|j| j.get_mut().unwrap().sent.len())
        .sum();
    assert!(
        answered > 100,
        "the kills met no load: {sent} sent, {answered} answered"
    );
    let store = Store::open(&dir).unwrap();
    assert_eq!(store.verify().unwrap().damage, []);
    store.close().unwrap();
    println!(
        "{level}, seed {seed}: {under_load} kills under load, {sent} requests sent, {answered_all} \
         answered, lost: 0"
    );
}

/// Names what is needed to look into a failure, and keeps the store for it.
struct Told(u64, Option<TempDir>);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.1.take()
        {
            let text = format!(
                "KVS_KILL_SEED={}, store kept in {}\n",
                self.0,
                dir.keep().display()
            );
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

#[test]
fn nothing_answered_is_lost_at_sync() {
    survives_kills("sync");
}

#[test]
fn nothing_answered_is_lost_at_interval() {
    survives_kills("interval");
}
