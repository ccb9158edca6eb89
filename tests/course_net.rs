//! The suites of PingCAP's "Practical Networked Applications in Rust", projects 3 to 5, in our own
//! words: the two binaries, a store shared by threads, and the same by futures (the course has an old
//! futures crate; here it is `async` and `await`). The pools of project 4 are in `thread_pool.rs`.

#[cfg(feature = "server")]
mod project_3 {
    //! `kvs-client` and `kvs-server`, as processes.

    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpListener;
    use std::path::Path;
    use std::process::{Child, Command, Output, Stdio};
    use std::time::{Duration, Instant};

    use tempfile::TempDir;

    const RUNTIMES: [&str; 4] = ["async", "rayon", "shared-queue", "naive"];

    /// An address that was free a moment ago.
    fn free_addr() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    }

    fn client(args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kvs-client"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn server_command(dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvs-server"));
        command
            .args(args)
            .current_dir(dir)
            .env_remove("KVS_DIR")
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// What a server says that must not come up; one that does is killed.
    fn refused(dir: &Path, args: &[&str]) -> Output {
        let mut child = server_command(dir, args).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = child.try_wait().unwrap().is_some();
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        assert!(ended, "{args:?} came up: {}", text(&output.stderr));
        output
    }

    /// A server process that says it listens; killed when dropped.
    struct Server {
        child: Child,
        log: String,
        stderr: BufReader<std::process::ChildStderr>,
    }

    impl Server {
        fn start(dir: &Path, args: &[&str]) -> Self {
            let mut child = server_command(dir, args).spawn().unwrap();
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            let mut log = String::new();
            while !log.contains("listening on ") {
                let len = stderr.read_line(&mut log).unwrap();
                assert!(len > 0, "the server ended: {log}");
            }
            Self { child, log, stderr }
        }

        /// Ends it by `signal`; its exit code, and all it said.
        fn end(mut self, signal: &str) -> (Option<i32>, String) {
            let pid = self.child.id().to_string();
            let killed = Command::new("kill").args([signal, &pid]).status().unwrap();
            assert!(killed.success());
            let status = self.child.wait().unwrap();
            let mut log = std::mem::take(&mut self.log);
            self.stderr.read_to_string(&mut log).unwrap();
            (status.code(), log)
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn wrong_usage_of_the_client_fails() {
        for args in [
            &[][..],
            &["get"],
            &["get", "extra", "argument"],
            &["get", "key", "--addr", "invalid-addr"],
            &["get", "key", "--unknown-flag"],
            &["set"],
            &["set", "missing-value"],
            &["set", "extra", "extra", "argument"],
            &["set", "key", "value", "--addr", "invalid-addr"],
            &["set", "key", "value", "--unknown-flag"],
            &["rm"],
            &["rm", "extra", "argument"],
            &["rm", "key", "--addr", "invalid-addr"],
            &["rm", "key", "--unknown-flag"],
            &["unknown"],
        ] {
            let output = client(args);
            assert!(!output.status.success(), "{args:?}");
            assert!(
                !output.stderr.is_empty() && output.stdout.is_empty(),
                "{args:?}"
            );
        }
    }

    #[test]
    fn wrong_usage_of_the_server_fails() {
        let dir = TempDir::new().unwrap();
        for args in [
            &["--addr", "invalid-addr"][..],
            &["--engine", "invalid-engine"],
            &["--runtime", "invalid-runtime"],
            &["--threads", "0"],
            &["--addr", "0.0.0.0:0"],
            &["--password-file", "no-such-file"],
            &["--engine", "sled", "--durability", "sync"],
            &["unexpected"],
        ] {
            let output = refused(dir.path(), args);
            assert!(!output.status.success(), "{args:?}");
            assert!(!output.stderr.is_empty(), "{args:?}");
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing was created"
        );
    }

    #[test]
    fn both_tell_their_version() {
        for program in [
            env!("CARGO_BIN_EXE_kvs-client"),
            env!("CARGO_BIN_EXE_kvs-server"),
        ] {
            let output = Command::new(program).arg("-V").output().unwrap();
            assert!(output.status.success());
            assert!(text(&output.stdout).contains(env!("CARGO_PKG_VERSION")));
        }
    }

    #[test]
    fn the_server_tells_version_engine_and_address_on_stderr() {
        for engine in ["kvs", "sled"] {
            let (dir, addr) = (TempDir::new().unwrap(), free_addr());
            let server = Server::start(dir.path(), &["--engine", engine, "--addr", &addr]);
            for word in [env!("CARGO_PKG_VERSION"), engine, &addr] {
                assert!(server.log.contains(word), "{word}: {}", server.log);
            }
        }
    }

    #[test]
    fn the_engine_is_the_one_that_lies_in_the_directory() {
        for (first, other) in [("sled", "kvs"), ("kvs", "sled")] {
            let (dir, addr) = (TempDir::new().unwrap(), free_addr());
            let server = Server::start(dir.path(), &["--engine", first, "--addr", &addr]);
            assert!(
                client(&["set", "key", "value", "--addr", &addr])
                    .status
                    .success()
            );
            let (code, _) = server.end("-TERM");
            assert_eq!(code, Some(0));
            let before = files(dir.path());

            let args = ["--engine", other, "--addr", &addr];
            let output = refused(dir.path(), &args);
            assert_eq!(output.status.code(), Some(5));
            let said = text(&output.stderr);
            assert!(said.contains(&format!("engine {first}")), "{said}");
            assert_eq!(files(dir.path()), before, "nothing was created");

            // Without being told it takes the right one.
            let server = Server::start(dir.path(), &["--addr", &addr]);
            assert!(
                server.log.contains(&format!("engine {first}")),
                "{}",
                server.log
            );
            assert_eq!(client(&["get", "key", "--addr", &addr]).stdout, b"value\n");
        }
        let (dir, addr) = (TempDir::new().unwrap(), free_addr());
        let server = Server::start(dir.path(), &["--addr", &addr]);
        assert!(server.log.contains("engine kvs"), "{}", server.log);
    }

    fn files(dir: &Path) -> Vec<String> {
        let names = walkdir::WalkDir::new(dir).into_iter().map(|entry| {
            let entry = entry.unwrap();
            entry.path().display().to_string()
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// The course's walk through set, get, rm, kill, restart.
    fn access(engine: &str, runtime: &str) {
        let (dir, addr) = (TempDir::new().unwrap(), free_addr());
        let args = ["--engine", engine, "--runtime", runtime, "--addr", &addr];
        let server = Server::start(dir.path(), &args);
        let ask = |args: &[&str]| client(&[args, &["--addr", &addr]].concat());
        let silent = |args: &[&str]| {
            let output = ask(args);
            assert!(
                output.status.success(),
                "{args:?}: {}",
                text(&output.stderr)
            );
            assert!(
                output.stdout.is_empty() && output.stderr.is_empty(),
                "{args:?}"
            );
        };
        let prints = |args: &[&str], wanted: &str| {
            let output = ask(args);
            assert!(output.status.success(), "{args:?}");
            assert_eq!(text(&output.stdout), wanted, "{args:?}");
        };
        silent(&["set", "key1", "value1"]);
        prints(&["get", "key1"], "value1\n");
        silent(&["set", "key1", "value2"]);
        prints(&["get", "key1"], "value2\n");
        prints(&["get", "key2"], "Key not found\n");
        let missing = ask(&["rm", "key2"]);
        assert!(!missing.status.success());
        assert_eq!(text(&missing.stderr), "Key not found\n");
        silent(&["set", "key2", "value3"]);
        silent(&["rm", "key1"]);

        // Killed, and started again at once, in the same place.
        if engine == "sled" {
            // sled writes within half a second.
            std::thread::sleep(Duration::from_millis(1000));
        }
        server.end("-KILL");
        let _server = Server::start(dir.path(), &args);
        prints(&["get", "key2"], "value3\n");
        prints(&["get", "key1"], "Key not found\n");
    }

    #[test]
    fn client_and_server_with_the_engine_kvs() {
        RUNTIMES.iter().for_each(|runtime| access("kvs", runtime));
    }

    #[test]
    fn client_and_server_with_the_engine_sled() {
        access("sled", "async");
        access("sled", "shared-queue");
    }

    #[test]
    fn a_signal_ends_it_in_good_order() {
        for runtime in RUNTIMES {
            for signal in ["-TERM", "-INT"] {
                let (dir, addr) = (TempDir::new().unwrap(), free_addr());
                let server = Server::start(dir.path(), &["--runtime", runtime, "--addr", &addr]);
                let idle = std::net::TcpStream::connect(&addr).unwrap();
                assert!(client(&["set", "a", "1", "--addr", &addr]).status.success());
                let started = Instant::now();
                let (code, log) = server.end(signal);
                assert_eq!(code, Some(0), "{runtime} {signal}: {log}");
                assert!(log.ends_with("stopped\n"), "{log}");
                assert!(
                    started.elapsed() < Duration::from_secs(4),
                    "idle clients are not waited for"
                );
                drop(idle);
                let store = kvs::Store::open(dir.path()).unwrap();
                assert!(store.recovery().clean, "{runtime}: closed, not abandoned");
            }
        }
    }

    #[test]
    fn start_waits_a_moment_for_the_lock_and_the_address() {
        let (dir, addr) = (TempDir::new().unwrap(), free_addr());
        let store = kvs::Store::open(dir.path()).unwrap();
        let listener = TcpListener::bind(&addr).unwrap();
        let freed = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(store);
            std::thread::sleep(Duration::from_millis(300));
            drop(listener);
        });
        let server = Server::start(dir.path(), &["--addr", &addr]);
        freed.join().unwrap();
        // Not for ever: the store is in use, then only the address.
        let other = free_addr();
        let locked = refused(dir.path(), &["--addr", &other]);
        assert_eq!(locked.status.code(), Some(3), "{}", text(&locked.stderr));
        let elsewhere = TempDir::new().unwrap();
        let taken = refused(elsewhere.path(), &["--addr", &addr]);
        assert_eq!(taken.status.code(), Some(5), "{}", text(&taken.stderr));
        assert!(
            text(&taken.stderr).contains(&addr),
            "{}",
            text(&taken.stderr)
        );
        drop(server);
    }

    #[test]
    fn a_password_is_asked_for() {
        let (dir, addr) = (TempDir::new().unwrap(), free_addr());
        let file = dir.path().join("password");
        std::fs::write(&file, "secret\n").unwrap();
        let data = dir.path().join("data");
        let data = data.to_str().unwrap();
        let args = [
            "--dir",
            data,
            "--addr",
            &addr,
            "--password-file",
            file.to_str().unwrap(),
        ];
        let _server = Server::start(dir.path(), &args);
        let refused = client(&["get", "a", "--addr", &addr]);
        assert_eq!(refused.status.code(), Some(5));
        assert!(
            text(&refused.stderr).contains("NOAUTH"),
            "{}",
            text(&refused.stderr)
        );
        let mut client = kvs::KvsClient::connect(&addr).unwrap();
        let ok = client.call(&["AUTH", "secret"]).unwrap();
        assert_eq!(ok, kvs::protocol::Reply::OK);
    }

    #[test]
    fn a_server_that_is_not_there_is_said_to_be() {
        let addr = free_addr();
        let output = client(&["get", "a", "--addr", &addr]);
        assert_eq!(output.status.code(), Some(6));
        assert!(
            text(&output.stderr).contains(&addr),
            "{}",
            text(&output.stderr)
        );
    }
}

/// Project 4: the store itself, shared by threads.
mod project_4 {
    use std::sync::{Arc, Barrier};

    use kvs::KvStore;
    use tempfile::TempDir;

    #[test]
    fn concurrent_set() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        let barrier = Arc::new(Barrier::new(1001));
        for n in 0..1000 {
            let (store, barrier) = (store.clone(), Arc::clone(&barrier));
            std::thread::spawn(move || {
                store.set(format!("key{n}"), format!("value{n}")).unwrap();
                drop(store);
                barrier.wait();
            });
        }
        barrier.wait();
        for reopened in [false, true] {
            let store = match reopened {
                true => KvStore::open(dir.path()).unwrap(),
                false => store.clone(),
            };
            for n in 0..1000 {
                assert_eq!(
                    store.get(format!("key{n}")).unwrap(),
                    Some(format!("value{n}"))
                );
            }
        }
    }

    #[test]
    fn concurrent_get() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        for n in 0..100 {
            store.set(format!("key{n}"), format!("value{n}")).unwrap();
        }
        for store in [store.clone(), KvStore::open(dir.path()).unwrap()] {
            std::thread::scope(|scope| {
                for thread in 0..100 {
                    let store = store.clone();
                    scope.spawn(move || {
                        for n in 0..100 {
                            let n = (n + thread) % 100;
                            let found = store.get(format!("key{n}")).unwrap();
                            assert_eq!(found, Some(format!("value{n}")));
                        }
                    });
                }
            });
        }
    }
}

/// Project 5: the same by futures.
mod project_5 {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::Thread;

    use kvs::KvsError;
    use kvs::future::{KvStore, KvsEngine};
    use kvs::thread_pool::{NaiveThreadPool, SharedQueueThreadPool, ThreadPool};
    use tempfile::TempDir;

    /// No runtime: the thread parks until the task is woken.
    fn block_on<F: Future>(future: F) -> F::Output {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(output) => return output,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    fn text(s: &str) -> String {
        s.to_owned()
    }

    fn the_basics<E: KvsEngine>(open: impl Fn() -> E) {
        let store = open();
        block_on(async {
            assert_eq!(store.get(text("key1")).await.unwrap(), None);
            store.set(text("key1"), text("value1")).await.unwrap();
            store.set(text("key2"), text("value2")).await.unwrap();
            assert_eq!(store.get(text("key1")).await.unwrap(), Some(text("value1")));
            store.set(text("key1"), text("value3")).await.unwrap();
            assert_eq!(store.get(text("key1")).await.unwrap(), Some(text("value3")));
            store.remove(text("key2")).await.unwrap();
            assert_eq!(store.get(text("key2")).await.unwrap(), None);
            let gone = store.remove(text("key2")).await;
            assert!(matches!(gone, Err(KvsError::KeyNotFound)), "{gone:?}");
        });
        drop(store);
        let store = open();
        block_on(async {
            assert_eq!(store.get(text("key1")).await.unwrap(), Some(text("value3")));
            assert_eq!(store.get(text("key2")).await.unwrap(), None);
        });
    }

    /// All of them begun before the first is waited for.
    fn ten_thousand_sets_in_flight<P: ThreadPool>() {
        const SETS: usize = 10_000;
        let dir = TempDir::new().unwrap();
        let store = KvStore::<P>::open(dir.path(), 8).unwrap();
        let sets: Vec<_> = (0..SETS)
            .map(|n| store.set(format!("key{n}"), format!("value{n}")))
            .collect();
        block_on(async {
            for set in sets {
                set.await.unwrap();
            }
        });
        drop(store);
        let store = KvStore::<P>::open(dir.path(), 8).unwrap();
        let gets: Vec<_> = (0..SETS).map(|n| store.get(format!("key{n}"))).collect();
        block_on(async {
            for (n, get) in gets.into_iter().enumerate() {
                assert_eq!(get.await.unwrap(), Some(format!("value{n}")));
            }
        });
    }

    fn a_dropped_future_loses_no_write<P: ThreadPool>() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::<P>::open(dir.path(), 2).unwrap();
        for n in 0..500 {
            let set = store.set(format!("key{n}"), format!("value{n}"));
            if n % 2 == 0 {
                // Polled once, then given up.
                let mut set = Box::pin(set);
                let mut context = Context::from_waker(Waker::noop());
                let _ = Pin::new(&mut set).poll(&mut context);
            }
        }
        // Behind them in the queue; the others may still run on other threads for a moment.
        block_on(store.set(text("last"), text("x"))).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        for n in 0..500 {
            while block_on(store.get(format!("key{n}"))).unwrap() != Some(format!("value{n}")) {
                assert!(std::time::Instant::now() < until, "key{n} was lost");
            }
        }
    }

    fn all<P: ThreadPool>() {
        let dir = TempDir::new().unwrap();
        the_basics(|| KvStore::<P>::open(dir.path(), 1).unwrap());
        ten_thousand_sets_in_flight::<P>();
        a_dropped_future_loses_no_write::<P>();
        #[cfg(feature = "sled")]
        {
            let dir = TempDir::new().unwrap();
            let open = || sled::Config::new().path(dir.path()).open();
            let patiently = || {
                // sled lets go of its lock on a thread of its own.
                (0..200).find_map(|_| {
                    let db = open().ok();
                    if db.is_none() {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    db
                })
            };
            the_basics(|| {
                let db = patiently().expect("sled opens");
                kvs::future::SledKvsEngine::<P>::new(db, 1).unwrap()
            });
        }
    }

    #[test]
    fn by_the_naive_pool() {
        all::<NaiveThreadPool>();
    }

    #[test]
    fn by_the_pool_with_a_shared_queue() {
        all::<SharedQueueThreadPool>();
    }

    #[cfg(feature = "rayon")]
    #[test]
    fn by_the_pool_of_rayon() {
        all::<kvs::thread_pool::RayonThreadPool>();
    }

    /// What the trait promises: futures outlive the handle and move between threads.
    #[test]
    fn futures_outlive_their_engine() {
        fn begun<E: KvsEngine>(
            engine: E,
        ) -> impl Future<Output = kvs::Result<()>> + Send + 'static {
            engine.set(text("a"), text("b"))
        }
        let dir = TempDir::new().unwrap();
        let store = KvStore::<SharedQueueThreadPool>::open(dir.path(), 1).unwrap();
        let set = begun(store.clone());
        std::thread::spawn(move || block_on(set))
            .join()
            .unwrap()
            .unwrap();
        assert_eq!(block_on(store.get(text("a"))).unwrap(), Some(text("b")));
    }
}
