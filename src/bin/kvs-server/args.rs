//! Flags and their help texts.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use kvs::Durability;

use crate::exit::Failure;

/// Environment variable that names the store's directory; empty counts as unset.
const DIR_VARIABLE: &str = "KVS_DIR";

const AFTER_HELP: &str = "\
Speaks RESP2 and RESP3: redis-cli and every Redis client can be used.

Exit codes:
  0  told to stop, by SIGTERM or SIGINT; everything is on disk
  2  wrong usage
  3  the store is open in another process
  4  damaged data found
  5  the system refused: I/O error, no space, no permission, address in use, another engine's files";

/// Server of a key-value store, in the protocol of Redis.
#[derive(Debug, Parser)]
#[command(name = "kvs-server", version, after_help = AFTER_HELP)]
pub struct Args {
    /// Where to listen
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4000")]
    pub addr: SocketAddr,

    /// What keeps the data [default: what lies in the directory, else kvs]
    #[arg(long)]
    pub engine: Option<EngineName>,

    /// What runs the connections: tokio, or one of the thread pools
    #[arg(long, value_enum, default_value_t = Runtime::Async)]
    pub runtime: Runtime,

    /// How many threads run them [default: one for each processor, at least 2]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,

    /// Directory of the data [default: $KVS_DIR, else the current directory]
    #[arg(short, long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// When a write is answered (engine kvs): once the system has it, which survives a killed
    /// process, as does the like with the disk a second behind at most; or once the disk has it,
    /// which survives a power cut
    #[arg(long, value_enum, default_value_t = Level::Os)]
    pub durability: Level,

    /// File whose first line is what `AUTH` must give before anything else is answered
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// Directory below which `KVS.CHECKPOINT NAME` makes copies of the store (engine kvs)
    /// [default: none, the command is refused]
    #[arg(long, value_name = "DIR")]
    pub checkpoint_dir: Option<PathBuf>,

    /// Listen to other machines without a password
    #[arg(long)]
    no_protection: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// The store of this library.
    Kvs,
    /// The crate sled.
    Sled,
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvs => "kvs",
            Self::Sled => "sled",
        })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Runtime {
    /// A tokio runtime
    Async,
    /// A pool of the crate rayon
    Rayon,
    /// A pool with one queue
    SharedQueue,
    /// A new thread for every piece of work
    Naive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// The operating system has it
    Os,
    /// The operating system has it, and the disk within a second
    Interval,
    /// The disk has it
    Sync,
}

impl Level {
    pub fn level(self) -> Durability {
        match self {
            Self::Os => Durability::Os,
            Self::Interval => Durability::Interval(Duration::from_secs(1)),
            Self::Sync => Durability::Sync,
        }
    }

    /// Whether a write waits for the disk.
    pub fn waits(self) -> bool {
        self == Self::Sync
    }
}

impl Args {
    /// The directory, absolute so that messages name it in full.
    pub fn dir(&self) -> PathBuf {
        let named = || std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty());
        let dir = self.dir.clone().or_else(|| named().map(PathBuf::from));
        let dir = dir.unwrap_or_else(|| PathBuf::from("."));
        std::path::absolute(&dir).unwrap_or(dir)
    }

    pub fn threads(&self) -> u32 {
        let processors = || std::thread::available_parallelism().map_or(2, |n| n.get() as u32);
        self.threads.unwrap_or_else(|| processors().max(2))
    }

    /// First line of the password file.
    pub fn password(&self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(file) = &self.password_file else {
            return Ok(None);
        };
        let bytes = std::fs::read(file).map_err(|source| Failure::Password {
            file: file.clone(),
            source,
        })?;
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.is_empty() {
            true => Err(Failure::EmptyPassword { file: file.clone() }),
            false => Ok(Some(line.to_vec())),
        }
    }

    /// Refuses to let other machines in without a password, unless that is said to be meant.
    pub fn check_exposure(&self, password: bool) -> Result<(), Failure> {
        if self.addr.ip().is_loopback() || password || self.no_protection {
            return Ok(());
        }
        Err(Failure::Exposed { addr: self.addr })
    }
}
