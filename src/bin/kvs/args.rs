//! Verbs, flags and their help texts.
//!
//! Keys and values are the argument's bytes as the system hands them over, UTF-8 or not.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

/// Environment variable that names the store's directory; empty counts as unset.
pub const DIR_VARIABLE: &str = "KVS_DIR";

const AFTER_HELP: &str = "\
Put `--` before a key or value that begins with `-`.

Exit codes:
  0  done
  1  not found, or the answer is no
  2  wrong usage
  3  the store is open in another process
  4  damaged data found
  5  the system refused: I/O error, no space, no permission, no store";

/// Embedded, memory-mapped, crash-safe key-value store.
#[derive(Debug, Parser)]
#[command(name = "kvs", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Directory of the store [default: $KVS_DIR, else the current directory]
    #[arg(short, long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,

    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the value of a key, or `Key not found`
    Get {
        key: OsString,
        /// The value's bytes and nothing else; a missing key prints nothing and exits with 1
        #[arg(long)]
        raw: bool,
    },
    /// Store a value under a key; on disk when the command returns
    Set {
        key: OsString,
        #[arg(allow_negative_numbers = true)]
        value: OsString,
    },
    /// Remove a key; on disk when the command returns
    Rm { key: OsString },
    /// Exit with 0 if the key is there, with 1 if not; prints nothing
    Exists { key: OsString },
    /// Print keys and values, one pair a line with a tab between them, in no particular order
    Scan {
        /// Only keys that begin with this
        #[arg(default_value = "", hide_default_value = true)]
        prefix: OsString,
        /// Keys only
        #[arg(long)]
        keys: bool,
        /// Stop after this many
        #[arg(long, value_name = "COUNT")]
        limit: Option<u64>,
    },
    /// Print the number of keys
    Count {
        /// Only keys that begin with this
        prefix: Option<OsString>,
    },
    /// Print what the store holds and what it takes up
    Stats,
    /// Read everything and check every checksum
    Verify,
    /// Rewrite the live records and give back the space of the others
    Compact,
    /// Show put, get, kill -9 and recovery in a temporary store; at most 30 s, leaves nothing
    Demo,
    /// The demo's child that is killed
    #[command(hide = true)]
    DemoWriter,
    /// The demo's child that removes the temporary directory, however the demo ends
    #[command(hide = true)]
    DemoJanitor,
}

impl Cli {
    /// What clap's attributes cannot say; exits like clap does.
    pub fn check(&self) {
        if matches!(self.verb, Verb::Demo) && self.dir.is_some() {
            let text = "`demo` works in a temporary directory of its own and takes no --dir";
            Self::command()
                .error(ErrorKind::ArgumentConflict, text)
                .exit();
        }
    }

    /// The store's directory, absolute so that messages name it in full.
    pub fn dir(&self) -> PathBuf {
        let dir = self
            .dir
            .clone()
            .or_else(|| {
                std::env::var_os(DIR_VARIABLE)
                    .filter(|dir| !dir.is_empty())
                    .map(PathBuf::from)
            })
            .unwrap_or_else(|| PathBuf::from("."));
        std::path::absolute(&dir).unwrap_or(dir)
    }
}
