//! `kvs-server`: an engine behind Redis' protocol.
//!
//! Parses arguments, opens the engine that lies in the directory, serves until it is told to stop;
//! whatever is true of the data is the library's doing.
//!
//! Elsewhere: what an argument means (`args`), which engine lies in a directory (`directory`), how
//! many files may be open and who may read new ones (`files`), what an exit code means (`exit`).

mod args;
mod directory;
mod exit;
mod files;

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use kvs::engines::SledKvsEngine;
use kvs::server::{AsyncKvsServer, KvsServer, ServerOptions, Stopper, bind};
use kvs::thread_pool::{NaiveThreadPool, RayonThreadPool, SharedQueueThreadPool, ThreadPool};
use kvs::{Error, KvStore, KvsEngine, Options, Store};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use args::{Args, EngineName, Level, Runtime};
use exit::Failure;

/// How long start waits for a lock or an address that a server before it may still hold.
const PATIENCE: Duration = Duration::from_millis(800);

/// Most connections, if as many files may be open.
const CLIENTS_MAX: usize = 10_000;

fn main() -> ExitCode {
    // Wrong usage ends in here: clap prints and exits with 2.
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log(format_args!("{failure}"));
            ExitCode::from(failure.code())
        }
    }
}

/// One line on standard error. Nobody is left to be told when it is closed.
fn log(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "kvs-server: {line}");
}

fn run(args: &Args) -> Result<(), Failure> {
    files::allow_many();
    files::keep_private();
    let password = args.password()?;
    args.check_exposure(password.is_some())?;
    let dir = args.dir();
    let engine = directory::choose(&dir, args.engine)?;
    if engine == EngineName::Sled && args.durability != Level::Os {
        return Err(Failure::NoLevels { engine });
    }
    log(format_args!(
        "version {}, engine {engine}, address {}, directory {}",
        env!("CARGO_PKG_VERSION"),
        args.addr,
        dir.display(),
    ));
    let mut options = ServerOptions::new()
        .clients_max(CLIENTS_MAX)
        .writes_wait(args.durability.waits());
    if let Some(password) = password {
        options = options.password(password);
    }
    if let Some(dir) = &args.checkpoint_dir {
        options = options.checkpoints(std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
    }
    match engine {
        EngineName::Kvs => {
            let options_of_store = Options::new().durability(args.durability.level());
            let open = || options_of_store.open(&dir).map_err(Failure::Store);
            let store = patiently(is_locked, open)?;
            log(format_args!("{}", store.recovery()));
            let last = store.clone();
            serve(KvStore::from_store(store), args, options)?;
            close(last)?;
        }
        EngineName::Sled => {
            // The engine kvs makes its own.
            files::create_directory(&dir)?;
            let db = patiently(is_locked, || open_sled(&dir))?;
            serve(SledKvsEngine::new(db), args, options)?;
        }
    }
    log(format_args!("stopped"));
    Ok(())
}

/// Closes the store in good order, so that the next start need not recover. A command that has outlasted
/// the drain keeps it open: what was acknowledged is as durable then, and the next start recovers.
fn close(store: Store) -> Result<(), Failure> {
    let report = store.close().map_err(Failure::Store)?;
    if !report.closed {
        log(format_args!(
            "a command that still runs keeps the store open"
        ));
    }
    Ok(())
}

/// A server that was just killed may not be gone yet.
fn patiently<T>(
    again: impl Fn(&Failure) -> bool,
    mut action: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        match action() {
            Err(failure) if again(&failure) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

/// Whether another process holds the store.
fn is_locked(failure: &Failure) -> bool {
    matches!(failure, Failure::Store(Error::Locked { .. }))
}

/// sled has no kind of its own for a store that is taken: it is told by the text.
fn open_sled(dir: &Path) -> Result<sled::Db, Failure> {
    sled::open(dir).map_err(|error| match error {
        sled::Error::Io(source) if source.to_string().starts_with("could not acquire lock") => {
            Failure::Store(Error::Locked {
                path: dir.to_path_buf(),
            })
        }
        source => Failure::Sled {
            dir: dir.to_path_buf(),
            source,
        },
    })
}

fn serve<E: KvsEngine>(engine: E, args: &Args, options: ServerOptions) -> Result<(), Failure> {
    let failed = |source| Failure::Listen {
        addr: args.addr,
        source,
    };
    let listener = bind(args.addr, PATIENCE).map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    let mut options = options;
    if let Some(room) = files::room().filter(|room| *room < CLIENTS_MAX) {
        log(format_args!(
            "the limit of open files leaves room for {room} connections"
        ));
        options = options.clients_max(room);
    }
    log(format_args!("listening on {local}"));
    match args.runtime {
        Runtime::Async => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(args.threads() as usize)
                .enable_all()
                .build()
                .map_err(Failure::Runtime)?;
            let server = AsyncKvsServer::new(engine).options(options);
            on_signal(server.stopper())?;
            let outcome = runtime.block_on(server.run_on(listener));
            // Commands that outlast the drain are not waited for.
            runtime.shutdown_background();
            outcome?;
        }
        Runtime::Rayon => pooled::<E, RayonThreadPool>(engine, args, options, listener)?,
        Runtime::SharedQueue => {
            pooled::<E, SharedQueueThreadPool>(engine, args, options, listener)?
        }
        Runtime::Naive => pooled::<E, NaiveThreadPool>(engine, args, options, listener)?,
    }
    Ok(())
}

fn pooled<E: KvsEngine, P: ThreadPool>(
    engine: E,
    args: &Args,
    options: ServerOptions,
    listener: TcpListener,
) -> Result<(), Failure> {
    let server = KvsServer::new(engine, P::new(args.threads())?).options(options);
    on_signal(server.stopper())?;
    Ok(server.run_on(listener)?)
}

/// SIGTERM and SIGINT end the server in good order; a second one ends it as it stands.
fn on_signal(stopper: Stopper) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Failure::Runtime)?;
    let wait = move || {
        for (n, signal) in signals.forever().enumerate() {
            if n > 0 {
                std::process::exit(128 + signal);
            }
            log(format_args!("signal {signal}, draining"));
            stopper.stop();
        }
    };
    std::thread::Builder::new()
        .name("kvs-signals".into())
        .spawn(wait)
        .map_err(Failure::Runtime)?;
    Ok(())
}
