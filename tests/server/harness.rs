//! A server in a thread, and scripts of commands and replies.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvs::protocol::Reply;
use kvs::server::{ServerOptions, Stopper};
use kvs::thread_pool::{SharedQueueThreadPool, ThreadPool};
use kvs::{KvStore, KvsClient, KvsEngine, KvsServer, Options, Result};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
pub enum Driver {
    Blocking,
    #[cfg(feature = "async")]
    Tokio,
}

pub const DRIVERS: &[Driver] = &[
    Driver::Blocking,
    #[cfg(feature = "async")]
    Driver::Tokio,
];

/// A server in a thread, stopped when dropped.
pub struct Running {
    pub addr: SocketAddr,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Running {
    pub fn client(&self) -> KvsClient {
        let client = KvsClient::connect(self.addr).unwrap();
        client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    pub fn socket(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn stop(mut self) -> Result<()> {
        self.stopper.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn start<E: KvsEngine>(driver: Driver, engine: E, options: ServerOptions) -> Running {
    start_with(2, driver, engine, options)
}

/// With so many threads: one for each burst that waits at once, if the driver is the blocking one.
pub fn start_with<E: KvsEngine>(
    threads: u32,
    driver: Driver,
    engine: E,
    options: ServerOptions,
) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (stopper, thread) = match driver {
        Driver::Blocking => {
            let pool = SharedQueueThreadPool::new(threads).unwrap();
            let server = KvsServer::new(engine, pool).options(options);
            let stopper = server.stopper();
            (stopper, std::thread::spawn(move || server.run_on(listener)))
        }
        #[cfg(feature = "async")]
        Driver::Tokio => {
            let server = kvs::server::AsyncKvsServer::new(engine).options(options);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let stopper = server.stopper();
            let run = move || runtime.block_on(server.run_on(listener));
            (stopper, std::thread::spawn(run))
        }
    };
    Running {
        addr,
        stopper,
        thread: Some(thread),
    }
}

pub fn in_memory() -> KvStore {
    KvStore::from_store(Options::new().open_in_memory().unwrap())
}

/// A server over a store in memory, in every driver.
pub fn everywhere(test: impl Fn(&Running)) {
    for driver in DRIVERS {
        let _told = Told(*driver);
        test(&start(*driver, in_memory(), ServerOptions::new()));
    }
}

/// Says which driver it was if the test fails.
pub struct Told(pub Driver);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "with the driver {:?}", self.0);
        }
    }
}

/// Waits until no other client is there.
pub fn until_alone(running: &Running) {
    std::thread::sleep(Duration::from_millis(50));
    let mut client = running.client();
    let until = Instant::now() + PATIENCE / 2;
    loop {
        let list = ask(&mut client, "CLIENT LIST");
        if list.matches("id=").count() == 1 {
            break;
        }
        assert!(Instant::now() < until, "never cut off: {list}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One line for a reply, as `redis-cli` has it, more or less; without blanks at its end.
pub fn show(reply: &Reply) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match reply {
        Reply::Simple(bytes) => text(bytes).replace("\\'", "'"),
        Reply::Error(bytes) => format!("-{}", text(bytes).replace("\\'", "'").trim_end()),
        Reply::Integer(number) => format!(":{number}"),
        Reply::Bulk(bytes) => format!("\"{}\"", text(bytes).replace("\\'", "'")),
        Reply::Null => "(nil)".to_owned(),
        Reply::NullArray => "(nil array)".to_owned(),
        Reply::Array(items) => {
            let items: Vec<String> = items.iter().map(show).collect();
            format!("[{}]", items.join(" "))
        }
        other => format!("{other:?}"),
    }
}

pub fn words(line: &str) -> Vec<&str> {
    let unquoted = |word| if word == "''" { "" } else { word };
    line.split(' ').map(unquoted).collect()
}

pub fn ask(client: &mut KvsClient, line: &str) -> String {
    show(&client.call(&words(line)).unwrap())
}

/// Runs a script of `command => reply` lines, one by one and then, over an emptied store, pipelined.
pub fn script(running: &Running, script: &str) {
    let lines: Vec<(&str, &str)> = script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(" => ").expect(line))
        .collect();
    let mut client = running.client();
    for (command, wanted) in &lines {
        assert_eq!(ask(&mut client, command), *wanted, "{command}");
    }
    for reply in client
        .call(&["KEYS", "*"])
        .map(|keys| match keys {
            Reply::Array(keys) => keys,
            _ => Vec::new(),
        })
        .unwrap()
    {
        if let Reply::Bulk(key) = reply {
            client.remove(key).unwrap();
        }
    }
    let mut client = running.client();
    let mut pipeline = client.pipeline();
    for (command, _) in &lines {
        pipeline.push(&words(command));
    }
    for ((command, wanted), reply) in lines.iter().zip(pipeline.run().unwrap()) {
        assert_eq!(show(&reply), *wanted, "{command}, pipelined");
    }
}
