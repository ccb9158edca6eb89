//! `kvs-server` and `kvs-client` as processes: what they create and with which rights, how many files
//! they may open, and which exit code says what.
#![cfg(feature = "server")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kvs::KvsClient;
use kvs::protocol::Reply;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// The server in a shell that says `before` first.
fn command(dir: &Path, before: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{before}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_kvs-server"))
        .args(["--addr", "127.0.0.1:0"])
        .args(args)
        .current_dir(dir)
        .env_remove("KVS_DIR")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// A server that listens; killed when dropped.
struct Server {
    child: Child,
    addr: SocketAddr,
    log: String,
}

impl Server {
    fn start(dir: &Path, before: &str, args: &[&str]) -> Self {
        let mut child = command(dir, before, args).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let addr = loop {
            if let Some((_, addr)) = log.split_once("listening on ") {
                break addr.trim().parse().unwrap();
            }
            let len = stderr.read_line(&mut log).unwrap();
            assert!(len > 0, "the server ended: {log}");
        };
        Self { child, addr, log }
    }

    fn client(&self) -> KvsClient {
        let client = KvsClient::connect(self.addr).unwrap();
        client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// Its limit of open files as the system tells it: soft and hard.
    fn files_max(&self) -> Vec<String> {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.child.id())).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words = line.unwrap().split_whitespace().skip(3).take(2);
        words.map(str::to_owned).collect()
    }

    fn files(&self) -> u64 {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        open.count() as u64
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server says that must not come up; one that does is killed.
fn refused(dir: &Path, args: &[&str]) -> Output {
    let mut child = command(dir, "true", args).spawn().unwrap();
    let until = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = child.try_wait().unwrap().is_some();
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    assert!(ended, "{args:?} came up: {}", said(&output));
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn setting(client: &mut KvsClient, name: &str) -> String {
    match client.call(&["CONFIG", "GET", name]).unwrap() {
        Reply::Array(pair) => match &pair[1] {
            Reply::Bulk(value) => String::from_utf8(value.clone()).unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

// What is created.

/// What others than the owner may do to anything in or below `dir`.
fn open_to_others(dir: &Path) -> Vec<(PathBuf, u32)> {
    let all = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    all.map(|entry| {
        let mode = entry.metadata().unwrap().permissions().mode();
        (entry.into_path(), mode & 0o777)
    })
    .filter(|(_, mode)| mode & 0o077 != 0)
    .collect()
}

#[test]
fn what_the_server_creates_is_its_account_s_alone() {
    for engine in ["kvs", "sled"] {
        for umask in ["0", "022"] {
            let dir = TempDir::new().unwrap();
            let umask = format!("umask {umask}");
            let args = ["--engine", engine, "--dir", "new/deep"];
            let server = Server::start(dir.path(), &umask, &args);
            server.client().set("a", "1").unwrap();
            let new = dir.path().join("new");
            assert!(new.join("deep").is_dir());
            assert_eq!(open_to_others(&new), [], "{engine} at {umask}");
        }
    }
}

#[test]
fn a_server_that_is_refused_creates_nothing() {
    let dir = TempDir::new().unwrap();
    for args in [
        &["--engine", "sled", "--durability", "sync", "--dir", "new"][..],
        &["--dir", "new", "--password-file", "none"],
    ] {
        refused(dir.path(), args);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "{args:?}"
        );
    }
}

// Open files.

#[test]
fn as_many_files_as_the_system_allows_may_be_open() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path(), "ulimit -S -n 100", &[]);
    let limits = server.files_max();
    assert_eq!(limits[0], limits[1], "soft and hard");
    let hard = getrlimit(Resource::Nofile).maximum;
    if hard.is_none_or(|hard| hard > 10_200) {
        assert_eq!(setting(&mut server.client(), "maxclients"), "10000");
        assert!(!server.log.contains("connections"), "{}", server.log);
    }
}

#[test]
fn clients_leave_files_for_the_store() {
    for runtime in ["async", "shared-queue"] {
        let dir = TempDir::new().unwrap();
        let args = ["--runtime", runtime];
        let server = Server::start(dir.path(), "ulimit -n 120", &args);
        let mut client = server.client();
        let most: usize = setting(&mut client, "maxclients").parse().unwrap();
        assert!((8..=120 - 64).contains(&most), "{most}");
        assert!(
            server.log.contains(&format!("{most} connections")),
            "{}",
            server.log
        );
        let mut others: Vec<KvsClient> = (1..most).map(|_| server.client()).collect();
        for other in &mut others {
            other.call(&["PING"]).unwrap();
        }
        // One more is told so, and the store goes on: it can begin new segments.
        let mut said = Vec::new();
        let mut more = TcpStream::connect(server.addr).unwrap();
        more.set_read_timeout(Some(PATIENCE)).unwrap();
        more.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"-ERR max number of clients reached\r\n");
        client.set("a", "1").unwrap();
        assert!(server.files() + 50 <= 120, "{} files", server.files());
    }
}

#[test]
fn without_free_files_those_who_are_in_are_served_at_once() {
    let dir = TempDir::new().unwrap();
    let args = ["--runtime", "shared-queue"];
    let server = Server::start(dir.path(), "true", &args);
    let mut client = server.client();
    client.call(&["PING"]).unwrap();
    let pid = Pid::from_child(&server.child);
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = |current| Rlimit {
        current,
        maximum: hard,
    };
    // What is open stays open.
    prlimit(Some(pid), Resource::Nofile, limit(Some(1))).unwrap();
    let mut waiting = TcpStream::connect(server.addr).unwrap();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    waiting.write_all(b"PING\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    for _ in 0..100 {
        client.call(&["PING"]).unwrap();
    }
    let took = started.elapsed();
    // Who waits is let in when there is room again.
    prlimit(Some(pid), Resource::Nofile, limit(hard)).unwrap();
    waiting.read_exact(&mut [0; 7]).unwrap();
    assert!(took < Duration::from_secs(3), "100 pings took {took:?}");
}

// The end.

fn request(args: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    kvs::protocol::encode_request(args, &mut bytes);
    bytes
}

/// What `server` says from now on, and its exit code; `None` if it does not end.
fn ended(server: &mut Server) -> Option<i32> {
    let until = Instant::now() + PATIENCE;
    loop {
        match server.child.try_wait().unwrap() {
            Some(status) => return status.code(),
            None if Instant::now() > until => return None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn a_signal_closes_the_store_in_good_order_and_without_its_garbage() {
    for runtime in ["async", "rayon", "shared-queue", "naive"] {
        for signal in [Signal::TERM, Signal::INT] {
            let dir = TempDir::new().unwrap();
            let mut server = Server::start(dir.path(), "true", &["--runtime", runtime]);
            let mut client = server.client();
            // Garbage for closing, not enough for the background: 3 of 10 are overwritten.
            let value = "v".repeat(32 << 10);
            for n in (0..200).chain(0..60) {
                client.set(n.to_string(), &value).unwrap();
            }
            // One is still asked for when it ends.
            let mut last = TcpStream::connect(server.addr).unwrap();
            last.write_all(&request(&["SET", "last", "1"])).unwrap();
            last.read_exact(&mut [0; 5]).unwrap();
            last.write_all(&request(&["KEYS", "*"])).unwrap();
            kill_process(Pid::from_child(&server.child), signal).unwrap();
            let told = format!("{runtime} after {signal:?}");
            assert_eq!(ended(&mut server), Some(0), "{told}");
            let store = kvs::Store::open(dir.path()).unwrap();
            assert!(store.recovery().clean, "{told}: {}", store.recovery());
            assert_eq!(store.len(), 201, "{told}");
            let stats = store.stats();
            let most = stats.live_bytes / 8;
            assert!(stats.dead_bytes < most, "{told}: {}", stats.dead_bytes);
        }
    }
}

/// It is not waited for, and nothing is lost by it.
#[test]
fn a_signal_ends_a_server_with_a_busy_client_in_time() {
    for runtime in ["async", "shared-queue"] {
        let dir = TempDir::new().unwrap();
        let mut server = Server::start(dir.path(), "true", &["--runtime", runtime]);
        let busy = TcpStream::connect(server.addr).unwrap();
        let (mut writer, reader) = (busy.try_clone().unwrap(), busy);
        let counting = std::thread::spawn(move || {
            let mut replies = BufReader::new(reader).lines();
            let mut answered = 0_u64;
            while let Some(Ok(reply)) = replies.next() {
                answered = reply.trim_start_matches(':').parse().unwrap();
            }
            answered
        });
        let asking = std::thread::spawn(move || {
            let requests = request(&["INCR", "n"]).repeat(100);
            while writer.write_all(&requests).is_ok() {}
        });
        std::thread::sleep(Duration::from_millis(300));
        kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
        assert_eq!(ended(&mut server), Some(0), "{runtime}");
        asking.join().unwrap();
        let answered = counting.join().unwrap();
        assert!(answered > 0);
        let store = kvs::Store::open(dir.path()).unwrap();
        assert!(store.recovery().clean, "{runtime}: {}", store.recovery());
        let stored = store.get("n").unwrap().unwrap();
        let stored: u64 = std::str::from_utf8(&stored).unwrap().parse().unwrap();
        assert!(stored >= answered, "{stored} of {answered}");
    }
}

// The engine sled.

#[test]
fn a_store_of_sled_that_is_open_or_damaged_has_its_exit_code() {
    let dir = TempDir::new().unwrap();
    let db = sled::open(dir.path()).unwrap();
    db.insert("a", "1").unwrap();
    db.flush().unwrap();
    let output = refused(dir.path(), &["--engine", "sled"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("in use"), "{}", said(&output));
    drop(db);
    std::fs::write(dir.path().join("conf"), "no settings, but long enough").unwrap();
    let output = refused(dir.path(), &["--engine", "sled"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
}

#[test]
fn a_name_alone_is_no_store_of_sled() {
    for directory in [false, true] {
        let dir = TempDir::new().unwrap();
        let conf = dir.path().join("conf");
        match directory {
            true => std::fs::create_dir(&conf).unwrap(),
            false => std::fs::write(&conf, "mine\n").unwrap(),
        }
        let server = Server::start(dir.path(), "true", &[]);
        assert!(server.log.contains("engine kvs"), "{}", server.log);
        assert!(!dir.path().join("blobs").exists());
        if !directory {
            assert_eq!(std::fs::read(&conf).unwrap(), b"mine\n");
        }
    }
}

// The client.

#[test]
fn a_reader_that_has_enough_is_no_failure_of_the_client() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path(), "true", &[]);
    server.client().set("a", "v".repeat(1 << 20)).unwrap();
    let addr = server.addr.to_string();
    let client = |to: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvs-client"));
        command.args(["get", "a", "--addr", &addr]).stdout(to);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut closed = client(Stdio::piped());
    drop(closed.stdout.take());
    let output = closed.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let full = std::fs::File::create("/dev/full").unwrap();
    let output = client(full.into()).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(
        said(&output).contains("standard output"),
        "{}",
        said(&output)
    );
}
