//! How long one connection may take, and what the others see of it: slow readers, slow senders, those
//! that never stop, and the end of a server that is busy.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gate::Gate;
use kvs::engines::{Engine, EngineResult, Operation, SetOptions, Visit};
use kvs::server::ServerOptions;
use kvs::thread_pool::{SharedQueueThreadPool, ThreadPool};
use kvs::{KvStore, KvsClient, KvsEngine, KvsServer, Result};

use crate::harness::{
    DRIVERS, Driver, PATIENCE, Told, ask, everywhere, in_memory, start, until_alone,
};

mod gate {
    use std::sync::{Condvar, Mutex};

    #[derive(Default)]
    pub struct Gate {
        state: Mutex<(usize, bool)>,
        changed: Condvar,
    }

    impl Gate {
        /// Waits until it is open.
        pub fn pass(&self) {
            let mut state = self.state.lock().unwrap();
            state.0 += 1;
            self.changed.notify_all();
            drop(self.changed.wait_while(state, |state| !state.1).unwrap());
        }

        /// Waits until somebody waits.
        pub fn until_reached(&self) {
            let state = self.state.lock().unwrap();
            drop(
                self.changed
                    .wait_while(state, |state| state.0 == 0)
                    .unwrap(),
            );
        }

        pub fn open(&self) {
            self.state.lock().unwrap().1 = true;
            self.changed.notify_all();
        }
    }
}

/// A store in which `get` of the key `gate` waits.
#[derive(Clone)]
struct Gated {
    store: KvStore,
    gate: Arc<Gate>,
}

impl Gated {
    fn new() -> Self {
        Self {
            store: in_memory(),
            gate: Arc::default(),
        }
    }
}

impl KvsEngine for Gated {
    fn set(&self, key: String, value: String) -> Result<()> {
        self.store.set(key, value)
    }

    fn get(&self, key: String) -> Result<Option<String>> {
        if key == "gate" {
            self.gate.pass();
        }
        self.store.get(key)
    }

    fn remove(&self, key: String) -> Result<()> {
        self.store.remove(key)
    }
}

fn request(args: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    kvs::protocol::encode_request(args, &mut bytes);
    bytes
}

// Those that never stop.

#[test]
fn an_import_without_end_leaves_a_single_thread_to_others_in_between() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = KvsServer::new(in_memory(), SharedQueueThreadPool::new(1).unwrap());
    let stopper = server.stopper();
    let thread = std::thread::spawn(move || server.run_on(listener));
    let stop = AtomicBool::new(false);
    let flood = TcpStream::connect(addr).unwrap();
    let answered = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Fewer than 128 commands in what one read takes.
            let requests = request(&["SET", "k", &"v".repeat(400)]).repeat(100);
            while !stop.load(Ordering::SeqCst) {
                if (&flood).write_all(&requests).is_err() {
                    break;
                }
            }
        });
        scope.spawn(|| std::io::copy(&mut &flood, &mut std::io::sink()));
        std::thread::sleep(Duration::from_millis(300));
        let other = KvsClient::connect(addr).unwrap();
        other.stream().set_read_timeout(Some(PATIENCE / 2)).unwrap();
        let mut other = other;
        let answered = (0..3).all(|_| other.call(&["PING"]).is_ok());
        stop.store(true, Ordering::SeqCst);
        flood.shutdown(std::net::Shutdown::Both).unwrap();
        answered
    });
    stopper.stop();
    thread.join().unwrap().unwrap();
    assert!(answered, "nobody else is served during an import");
}

// Slow readers.

/// Bytes that a connection takes while nobody reads.
fn capacity() -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _reader = listener.accept().unwrap();
    writer.set_nonblocking(true).unwrap();
    let (chunk, mut taken) = (vec![0; 64 << 10], 0);
    loop {
        match (&writer).write(&chunk) {
            Ok(len) => taken += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn who_reads_at_once_gets_a_reply_above_the_limit() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let store = in_memory();
        for key in ["a", "b"] {
            store.store().set(key, vec![b'x'; 24 << 20]).unwrap();
        }
        let options = ServerOptions::new().output_bytes_max(1 << 20);
        let running = start(*driver, store, options);
        let mut client = running.client();
        let value = client.get("a").unwrap().unwrap();
        assert_eq!(value.len(), 24 << 20);
        let both = client.call(&["MGET", "a", "b"]).unwrap();
        let kvs::protocol::Reply::Array(both) = both else {
            panic!("an array");
        };
        assert_eq!(both.len(), 2);
        // Small ones before it, in one burst.
        let mut pipeline = client.pipeline();
        (0..20).for_each(|_| pipeline.push(&["PING"]));
        pipeline.push(&["GET", "b"]);
        assert_eq!(pipeline.run().unwrap().len(), 21);
    }
}

#[test]
fn who_has_more_to_be_asked_and_reads_nothing_is_cut_off() {
    let capacity = capacity();
    for driver in DRIVERS {
        let _told = Told(*driver);
        let store = in_memory();
        // After eight turns the socket is full, or more than two thirds full, or nearly.
        let sizes: Vec<usize> = (11..20).map(|part| capacity / 20_000 * part).collect();
        for size in &sizes {
            let key = size.to_string();
            store.store().set(key, vec![b'x'; *size]).unwrap();
        }
        let options = ServerOptions::new().write_max(Duration::from_millis(300));
        let running = start(*driver, store, options);
        let send = |size: &usize| {
            let mut socket = running.socket();
            let asked = request(&["GET", &size.to_string()]);
            // More than the socket takes replies of, and no more than two reads take requests of.
            let count = ((31 << 10) / asked.len()).max(capacity / size + 100);
            socket.write_all(&asked.repeat(count)).unwrap();
            socket
        };
        let _sockets: Vec<TcpStream> = sizes.iter().map(send).collect();
        until_alone(&running);
    }
}

// Slow senders.

#[test]
fn nobody_keeps_a_request_open_by_a_byte_now_and_then() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let options = ServerOptions::new().request_max(Duration::from_millis(400));
        let running = start(*driver, in_memory(), options);
        let mut socket = running.socket();
        // Two whole ones first: the time is that of the one that is begun.
        socket
            .write_all(b"PING\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9000\r\n")
            .unwrap();
        socket.read_exact(&mut [0; 14]).unwrap();
        let pause = Duration::from_millis(20);
        socket.set_read_timeout(Some(pause)).unwrap();
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE / 2, "it keeps its place");
            match socket
                .write_all(b"x")
                .and_then(|()| socket.read(&mut [0; 9]))
            {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
        // One that goes on may take longer, and so may many small ones.
        let mut socket = running.socket();
        let value = vec![b'x'; 640 << 10];
        socket
            .write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$655360\r\n")
            .unwrap();
        for part in value.chunks(10 << 10) {
            socket.write_all(part).unwrap();
            std::thread::sleep(pause);
        }
        socket.write_all(b"\r\n").unwrap();
        let mut reply = [0; 5];
        socket.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+OK\r\n");
        // Always with the beginning of the next.
        let mut reply = [0; 7];
        socket.write_all(b"PI").unwrap();
        for _ in 0..60 {
            socket.write_all(b"NG\r\nPI").unwrap();
            socket.read_exact(&mut reply).unwrap();
            assert_eq!(&reply, b"+PONG\r\n");
            std::thread::sleep(pause);
        }
    }
}

// The end.

/// Like `start`, with one thread; the outcome is told when the server has returned.
fn start_alone(
    driver: Driver,
    engine: impl KvsEngine,
    options: ServerOptions,
) -> (
    std::net::SocketAddr,
    kvs::server::Stopper,
    mpsc::Receiver<Result<()>>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    let stopper = match driver {
        Driver::Blocking => {
            let pool = SharedQueueThreadPool::new(1).unwrap();
            let server = KvsServer::new(engine, pool).options(options);
            let stopper = server.stopper();
            std::thread::spawn(move || tell.send(server.run_on(listener)));
            stopper
        }
        #[cfg(feature = "async")]
        Driver::Tokio => {
            let server = kvs::server::AsyncKvsServer::new(engine).options(options);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let stopper = server.stopper();
            std::thread::spawn(move || {
                let _ = tell.send(runtime.block_on(server.run_on(listener)));
                runtime.shutdown_background();
            });
            stopper
        }
    };
    (addr, stopper, told)
}

#[test]
fn a_command_that_does_not_end_is_not_waited_for_longer_than_said() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let engine = Gated::new();
        let gate = Arc::clone(&engine.gate);
        let options = ServerOptions::new().drain_max(Duration::from_millis(200));
        let (addr, stopper, told) = start_alone(*driver, engine, options);
        let mut socket = TcpStream::connect(addr).unwrap();
        socket.write_all(&request(&["GET", "gate"])).unwrap();
        gate.until_reached();
        stopper.stop();
        let outcome = told.recv_timeout(PATIENCE / 2);
        gate.open();
        outcome.expect("it returns while the command runs").unwrap();
    }
}

/// A store whose keys have no end, all of them `key`, and in no order.
#[derive(Clone)]
struct Endless {
    store: KvStore,
    begun: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Endless {
    fn new() -> Self {
        Self {
            store: in_memory(),
            begun: Arc::default(),
            ended: Arc::default(),
        }
    }
}

strings_of_its_store!(Endless);

impl Engine for Endless {
    type Value = kvs::Value;

    fn name(&self) -> &'static str {
        "endless"
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
        Engine::set(&self.store, key, value, options)
    }

    fn remove(&self, key: &[u8]) -> EngineResult<bool> {
        Engine::remove(&self.store, key)
    }

    fn flush(&self) -> EngineResult<()> {
        Engine::flush(&self.store)
    }

    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> EngineResult<()> {
        self.begun.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        while begun.elapsed() < 2 * PATIENCE {
            if b"key".starts_with(prefix) && visit(b"key", b"").is_break() {
                self.ended.store(true, Ordering::SeqCst);
                break;
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

#[test]
fn a_walk_over_all_keys_breaks_off_when_the_server_has_ended() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let engine = Endless::new();
        let (begun, ended) = (Arc::clone(&engine.begun), Arc::clone(&engine.ended));
        let options = ServerOptions::new().drain_max(Duration::from_millis(100));
        let (addr, stopper, told) = start_alone(*driver, engine, options);
        let _walker = walk(addr, &begun);
        stopper.stop();
        told.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(until(&ended), "it walks on without a server");
    }
}

/// Whether that comes true.
fn until(flag: &AtomicBool) -> bool {
    let start = Instant::now();
    while !flag.load(Ordering::SeqCst) && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    flag.load(Ordering::SeqCst)
}

/// A client for which an endless walk has begun.
fn walk(addr: std::net::SocketAddr, begun: &AtomicBool) -> TcpStream {
    let mut socket = TcpStream::connect(addr).unwrap();
    // No key is like it: nothing is found that would fill the reply.
    socket.write_all(&request(&["KEYS", "none*"])).unwrap();
    assert!(until(begun), "it walks");
    socket
}

/// A pool with a thread for one job and none for another.
#[derive(Clone)]
struct OneJob(Arc<AtomicBool>);

impl ThreadPool for OneJob {
    fn new(_: u32) -> Result<Self> {
        Ok(Self(Arc::default()))
    }

    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static,
    {
        assert!(!self.0.swap(true, Ordering::SeqCst), "no thread");
        std::thread::spawn(job);
    }
}

#[test]
fn a_walk_over_all_keys_breaks_off_when_the_thread_that_waits_has_failed() {
    let engine = Endless::new();
    let (begun, ended) = (Arc::clone(&engine.begun), Arc::clone(&engine.ended));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = KvsServer::new(engine, OneJob::new(1).unwrap());
    let thread = std::thread::spawn(move || server.run_on(listener));
    let mut walker = walk(addr, &begun);
    TcpStream::connect(addr)
        .unwrap()
        .write_all(&request(&["PING"]))
        .unwrap();
    thread.join().expect_err("it has no thread for the PING");
    assert!(until(&ended), "it walks on without a server");
    walker.set_read_timeout(Some(PATIENCE)).unwrap();
    let left = walker.read(&mut [0; 64]);
    assert!(!left.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
}

#[cfg(feature = "async")]
#[test]
fn a_walk_over_all_keys_breaks_off_when_its_server_is_dropped() {
    let engine = Endless::new();
    let (begun, ended) = (Arc::clone(&engine.begun), Arc::clone(&engine.ended));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let server = kvs::server::AsyncKvsServer::new(engine);
    let task = runtime.spawn(server.run_on(listener));
    let _walker = walk(addr, &begun);
    task.abort();
    let broken_off = until(&ended);
    runtime.shutdown_background();
    assert!(broken_off, "it walks on without a server");
}

#[test]
fn what_has_come_when_it_is_told_to_stop_is_answered() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let engine = Gated::new();
        let gate = Arc::clone(&engine.gate);
        let (addr, stopper, told) = start_alone(*driver, engine, ServerOptions::new());
        let mut others: Vec<TcpStream> =
            (0..8).map(|_| TcpStream::connect(addr).unwrap()).collect();
        let mut reply = [0; 7];
        for other in &mut others {
            other.set_read_timeout(Some(PATIENCE)).unwrap();
            other.write_all(b"PING\r\n").unwrap();
            other.read_exact(&mut reply).unwrap();
        }
        let mut busy = TcpStream::connect(addr).unwrap();
        busy.write_all(&request(&["GET", "gate"])).unwrap();
        gate.until_reached();
        // The only thread is busy: nobody has looked at these.
        for other in &mut others {
            other.write_all(b"PING\r\n").unwrap();
        }
        stopper.stop();
        std::thread::sleep(Duration::from_millis(100));
        gate.open();
        for other in &mut others {
            let got = other.read_exact(&mut reply);
            assert!(got.is_ok() && &reply == b"+PONG\r\n", "{got:?}");
        }
        told.recv_timeout(PATIENCE).unwrap().unwrap();
    }
}

// Patterns.

#[test]
fn long_patterns_are_refused() {
    everywhere(|running| {
        let mut client = running.client();
        client.set("k", "1").unwrap();
        let refused = "-ERR pattern is too long";
        let longest = "*".repeat(1024);
        assert_eq!(ask(&mut client, &format!("KEYS {longest}")), "[\"k\"]");
        assert_eq!(ask(&mut client, &format!("KEYS {longest}*")), refused);
        assert!(ask(&mut client, &format!("CONFIG GET {longest}")).contains("maxclients"));
        assert_eq!(
            ask(&mut client, &format!("CONFIG GET save {longest}*")),
            refused
        );
    });
}

// The client.

#[cfg(feature = "async")]
#[test]
fn the_asynchronous_client_reads_replies_before_it_sends_a_large_request() {
    use kvs::client::AsyncKvsClient;
    everywhere(|running| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let done = runtime.block_on(async {
            let mut client = AsyncKvsClient::connect(running.addr).await.unwrap();
            client.set("big", "x".repeat(1 << 20)).await.unwrap();
            let large = "y".repeat(32 << 20);
            let mut commands = vec![vec!["GET", "big"]; 32];
            commands.push(vec!["SET", "big", &large]);
            commands.push(vec!["STRLEN", "big"]);
            let pipeline = client.pipeline(&commands);
            tokio::time::timeout(PATIENCE, pipeline).await
        });
        let replies = done.expect("both sides wait for each other").unwrap();
        assert_eq!(replies.len(), 34);
        assert_eq!(replies[33], kvs::protocol::Reply::Integer(32 << 20));
    });
}
