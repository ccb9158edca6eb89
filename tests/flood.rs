//! The server process under clients that want to use it up: ten thousand connections, requests that are
//! never finished, replies that are never read. Goal: others are served meanwhile, and its memory stays
//! within what is stated.
//!
//! Method: `kvs-server` as a process of its own, so that its memory can be measured from outside.
//! Elsewhere: single clients that misbehave, and time limits (`tests/server/misbehaviour.rs`).
#![cfg(feature = "server")]
#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kvs::KvsClient;
use rustix::process::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 9_990;

struct Server {
    child: Child,
    addr: SocketAddr,
    _dir: TempDir,
}

impl Server {
    fn start(runtime: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_kvs-server"))
            .args(["--addr", "127.0.0.1:0", "--runtime", runtime, "--dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let addr = loop {
            let line = lines.next().expect("the server listens").unwrap();
            if let Some((_, addr)) = line.split_once("listening on ") {
                break addr.parse().unwrap();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            addr,
            _dir: dir,
        }
    }

    /// Private memory, in bytes.
    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<usize>().unwrap() << 10
    }

    fn client(&self) -> KvsClient {
        let client = KvsClient::connect(self.addr).unwrap();
        client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const RUNTIMES: [&str; 2] = ["async", "shared-queue"];

#[test]
fn ten_thousand_connections_cost_little_and_keep_nobody_out() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    if limit
        .current
        .is_some_and(|files| files < CONNECTIONS as u64 + 200)
    {
        let why = format!("only {:?} open files are allowed", limit.current);
        assert!(std::env::var_os("KVS_REQUIRE_ALL").is_none(), "{why}");
        println!("SKIPPED: {why}");
        return;
    }
    for runtime in RUNTIMES {
        let server = Server::start(runtime);
        let mut client = server.client();
        client.set("a", "1").unwrap();
        let before = server.memory();
        let mut crowd = Vec::with_capacity(CONNECTIONS);
        for n in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(server.addr).unwrap();
            if n % 2 == 0 {
                // In the middle of a request.
                stream
                    .write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\nab")
                    .unwrap();
            }
            crowd.push(stream);
        }
        let started = Instant::now();
        for _ in 0..100 {
            assert_eq!(client.get("a").unwrap().unwrap(), b"1");
        }
        let took = started.elapsed();
        assert!(took < PATIENCE, "{runtime}: 100 gets took {took:?}");
        // A new one is served too.
        assert_eq!(server.client().get("a").unwrap().unwrap(), b"1");
        let each = server.memory().saturating_sub(before) / CONNECTIONS;
        assert!(each < 32 << 10, "{runtime}: {each} bytes a connection");
        // Those in the middle may go on, the last of them at least: connecting them all may take long.
        let half = &mut crowd[CONNECTIONS - 2];
        half.write_all(&[b'x'; 998]).unwrap();
        half.write_all(b"\r\n").unwrap();
        let mut reply = [0; 5];
        half.set_read_timeout(Some(PATIENCE)).unwrap();
        half.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+OK\r\n");
        println!("{runtime}: {each} bytes a connection, 100 gets beside {CONNECTIONS} in {took:?}");
    }
}

/// Writes until nothing is taken any more for a while; how much was.
fn push(stream: &mut TcpStream, bytes: &[u8], most: usize) -> usize {
    let timeout = Some(Duration::from_millis(500));
    stream.set_write_timeout(timeout).unwrap();
    let mut taken = 0;
    while taken < most {
        match stream.write(bytes) {
            Ok(len) => taken += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => break,
        }
    }
    taken
}

#[test]
fn who_never_reads_is_not_read_from_for_long() {
    for runtime in RUNTIMES {
        let server = Server::start(runtime);
        let mut client = server.client();
        client.set("large", vec![b'x'; 100_000]).unwrap();
        let before = server.memory();
        let requests = b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n".repeat(1000);
        let mut crowd: Vec<TcpStream> = (0..8)
            .map(|_| TcpStream::connect(server.addr).unwrap())
            .collect();
        for stream in &mut crowd {
            // As one piece would be 25 million gets, of 2.5 TB.
            let taken = push(stream, &requests, 600 << 20);
            assert!(taken < 300 << 20, "{runtime}: {taken} bytes were taken");
        }
        let grown = server.memory().saturating_sub(before);
        assert!(
            grown < 64 << 20,
            "{runtime}: {grown} bytes for 8 who never read"
        );
        assert_eq!(client.get("large").unwrap().unwrap().len(), 100_000);
    }
}

#[test]
fn announced_lengths_take_no_memory() {
    for runtime in RUNTIMES {
        let server = Server::start(runtime);
        let mut client = server.client();
        let before = server.memory();
        let mut crowd = Vec::new();
        for _ in 0..500 {
            let mut stream = TcpStream::connect(server.addr).unwrap();
            stream
                .write_all(b"*1024\r\n$3\r\nSET\r\n$67108864\r\nx")
                .unwrap();
            crowd.push(stream);
        }
        client.set("a", "1").unwrap();
        let grown = server.memory().saturating_sub(before);
        assert!(
            grown < 32 << 20,
            "{runtime}: {grown} bytes for 500 announcements"
        );
    }
}
