//! Verbs, flags and their help texts.
//!
//! Keys and values are the argument's bytes as the system hands them over, UTF-8 or not.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use kvs_format::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::bytes::Coding;

/// Environment variable that names the store's directory; empty counts as unset.
pub const DIR_VARIABLE: &str = "KVS_DIR";

/// Exit codes and what they say, for the help and the manual page.
pub const EXIT_CODES: [(&str, &str); 7] = [
    ("0", "done"),
    (
        "1",
        "not found, the answer is no, or --keep-going left something out",
    ),
    ("2", "wrong usage"),
    (
        "3",
        "the store is open in another process and stayed so for --wait seconds",
    ),
    (
        "4",
        "damaged data found, in the store or in what is imported",
    ),
    (
        "5",
        "the system refused: I/O error, no space, no permission, no store",
    ),
    (
        "130",
        "interrupted (143: terminated); what was done is whole",
    ),
];

fn after_help() -> String {
    let mut text =
        String::from("Put `--` before a key or value that begins with `-`.\n\nExit codes:\n");
    for (code, meaning) in EXIT_CODES {
        text.push_str(&format!("  {code:<3}  {meaning}\n"));
    }
    text
}

/// Embedded, memory-mapped, crash-safe key-value store.
#[derive(Debug, Parser)]
#[command(name = "kvs", version, after_help = after_help())]
pub struct Cli {
    /// Directory of the store [default: $KVS_DIR, else the current directory]
    #[arg(short, long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Wait this long for a store that another process has open
    #[arg(long, global = true, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub wait: Duration,

    /// Answer with one JSON object a line
    #[arg(long, global = true)]
    pub json: bool,

    /// No progress bar and no closing words on standard error
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// When to use colours; `auto`: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: When,

    #[command(subcommand)]
    pub verb: Verb,
}

/// When to do what a terminal is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

/// How keys stand on the command line.
#[derive(Args, Clone, Copy, Debug)]
pub struct KeyCoding {
    /// Keys are hexadecimal digits, given and printed
    #[arg(long, conflicts_with = "key_b64")]
    key_hex: bool,
    /// Keys are base64, given and printed
    #[arg(long)]
    key_b64: bool,
}

impl KeyCoding {
    pub fn coding(self) -> Coding {
        match (self.key_hex, self.key_b64) {
            (true, _) => Coding::Hex,
            (_, true) => Coding::Base64,
            _ => Coding::Plain,
        }
    }
}

/// Formats of import and export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A directory tree: a file's path below it is the key, its content the value
    Files,
    /// One JSON object a line: `key` and `value`, or `key_b64` and `value_b64` where not UTF-8, and
    /// `expires_at` in milliseconds since 1970 where the key expires
    Ndjson,
    /// Key, tab, value, line feed; `\t`, `\n`, `\r` and `\\` stand for those bytes
    Tsv,
    /// The export format of kvs: binary, versioned, checksummed
    Kvx,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the value of a key, or `Key not found`
    Get {
        #[arg(allow_negative_numbers = true)]
        key: OsString,
        #[command(flatten)]
        coding: KeyCoding,
        /// The value's bytes and nothing else; a missing key prints nothing and exits with 1
        #[arg(long)]
        raw: bool,
        /// Write the value's bytes to a file; a missing key writes nothing and exits with 1
        #[arg(short, long, value_name = "FILE", conflicts_with_all = ["raw", "json"])]
        output: Option<PathBuf>,
    },
    /// Store a value under a key; on disk when the command returns
    Set {
        #[arg(allow_negative_numbers = true)]
        key: OsString,
        /// The value; `-` reads it from standard input
        #[arg(
            value_name = "VALUE",
            allow_negative_numbers = true,
            required_unless_present_any = ["literal", "value_file"],
            conflicts_with_all = ["literal", "value_file"]
        )]
        value: Option<OsString>,
        /// The value, whatever it looks like: `--value=-` is a dash
        #[arg(
            long = "value",
            value_name = "VALUE",
            allow_hyphen_values = true,
            conflicts_with = "value_file"
        )]
        literal: Option<OsString>,
        /// The value is this file's content; `-` is standard input
        #[arg(long, value_name = "FILE")]
        value_file: Option<PathBuf>,
        /// The key is gone after this long: seconds, or with a unit: `500ms`, `90s`, `15m`, `2h`, `1.5d`
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        ttl: Option<Duration>,
        #[command(flatten)]
        coding: KeyCoding,
    },
    /// Remove a key; on disk when the command returns
    Rm {
        #[arg(allow_negative_numbers = true)]
        key: OsString,
        #[command(flatten)]
        coding: KeyCoding,
    },
    /// Exit with 0 if the key is there, with 1 if not; prints nothing
    Exists {
        #[arg(allow_negative_numbers = true)]
        key: OsString,
        #[command(flatten)]
        coding: KeyCoding,
    },
    /// Print how many seconds a key has left, or `never`; exit with 1 if it is not there
    Ttl {
        #[arg(allow_negative_numbers = true)]
        key: OsString,
        #[command(flatten)]
        coding: KeyCoding,
    },
    /// Let a key expire after a time, or at one; on disk when the command returns
    Expire {
        #[arg(allow_negative_numbers = true)]
        key: OsString,
        /// Seconds from now, or with a unit: `500ms`, `90s`, `15m`, `2h`, `1.5d`
        #[arg(
            value_name = "DURATION",
            value_parser = duration,
            required_unless_present_any = ["at", "ms"],
            conflicts_with_all = ["at", "ms"]
        )]
        after: Option<Duration>,
        /// At this time: seconds since 1970, as `date +%s` prints them
        #[arg(long, value_name = "TIME", value_parser = seconds, conflicts_with = "ms")]
        at: Option<Duration>,
        /// At this time: milliseconds since 1970
        #[arg(long, value_name = "TIME")]
        ms: Option<u64>,
        #[command(flatten)]
        coding: KeyCoding,
    },
    /// Let a key live for ever; exit with 1 if it is not there or does so already
    Persist {
        #[arg(allow_negative_numbers = true)]
        key: OsString,
        #[command(flatten)]
        coding: KeyCoding,
    },
    /// Print keys and values, one pair a line with a tab between them, in no particular order
    Scan {
        /// Only keys that begin with this
        #[arg(default_value = "", hide_default_value = true)]
        prefix: OsString,
        #[command(flatten)]
        coding: KeyCoding,
        /// Keys only
        #[arg(long)]
        keys: bool,
        /// Stop after this many
        #[arg(long, value_name = "COUNT")]
        limit: Option<u64>,
        /// End lines with a zero byte instead of a line feed
        #[arg(short = '0', long, conflicts_with = "json")]
        null: bool,
    },
    /// Print keys, one a line, in no particular order
    Keys {
        /// Only keys that begin with this
        #[arg(default_value = "", hide_default_value = true)]
        prefix: OsString,
        #[command(flatten)]
        coding: KeyCoding,
        /// Stop after this many
        #[arg(long, value_name = "COUNT")]
        limit: Option<u64>,
        /// End lines with a zero byte instead of a line feed
        #[arg(short = '0', long, conflicts_with = "json")]
        null: bool,
    },
    /// Print the number of keys
    Count {
        /// Only keys that begin with this
        #[arg(allow_negative_numbers = true)]
        prefix: Option<OsString>,
        #[command(flatten)]
        coding: KeyCoding,
    },
    /// Print what the store holds and what it takes up
    Stats,
    /// Read everything and check every checksum
    Verify,
    /// Rewrite the live records and give back the space of the others
    Compact,
    /// Copy the store as it is now into a new directory: a store of its own
    ///
    /// On the same file system unchanging files become hard links, which take no space and are damaged
    /// together with the store's; on another one, and with --copy, all is copied and checked.
    Backup {
        /// New directory
        #[arg(value_name = "DEST")]
        dest: PathBuf,
        /// An earlier backup; what it holds already is linked from there instead of copied
        #[arg(long, value_name = "BACKUP")]
        since: Option<PathBuf>,
        /// Share no file with the store
        #[arg(long)]
        copy: bool,
    },
    /// Copy a backup into the new directory --dir, checking every record
    Restore {
        /// The backup
        #[arg(value_name = "SRC")]
        source: PathBuf,
    },
    /// Salvage what is whole of a damaged store into a new directory; the store is not changed
    ///
    /// Exits with 0 if nothing is lost, and with 4 if anything may be.
    Repair {
        /// New directory
        #[arg(
            value_name = "DEST",
            required_unless_present = "dry_run",
            conflicts_with = "dry_run"
        )]
        dest: Option<PathBuf>,
        /// Write nothing; say what could be salvaged and what is lost
        #[arg(long)]
        dry_run: bool,
    },
    /// Store what a file, a directory tree or standard input holds; on disk when it exits with 0
    Import {
        #[arg(value_name = "FORMAT")]
        format: Format,
        /// File, or directory for `files` [default: standard input]
        #[arg(value_name = "FROM")]
        from: Option<PathBuf>,
        /// Leave out what cannot be read or stored, count it, and exit with 1
        #[arg(long)]
        keep_going: bool,
        /// Store everything at once, or nothing: faster, but nobody else gets at the store until then
        #[arg(long)]
        bulk: bool,
    },
    /// Apply sets and removes, one JSON object a line, all of them or none; on disk when it exits with 0
    ///
    /// `{"set":KEY,"value":VALUE}` or `{"remove":KEY}`; `set_b64`, `value_b64` and `remove_b64` in base64
    /// where not UTF-8. A set may have a `ttl`, as `set --ttl` takes it, counted from when its line is read,
    /// or `expires_at` in milliseconds since 1970. Of a key that comes twice the last operation counts.
    Batch {
        /// File with the operations [default: standard input]
        #[arg(value_name = "FILE")]
        from: Option<PathBuf>,
        /// Apply them in batches of so many, each all or nothing, instead of one
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
        every: Option<u64>,
    },
    /// Write every pair to a file, a directory tree or standard output
    Export {
        #[arg(value_name = "FORMAT")]
        format: Format,
        /// File, or new directory for `files` [default: standard output]
        #[arg(value_name = "TO")]
        to: Option<PathBuf>,
        /// The same as TO
        #[arg(short, long, value_name = "TO", conflicts_with = "to")]
        output: Option<PathBuf>,
        /// Only keys that begin with this
        #[arg(long, value_name = "PREFIX", allow_hyphen_values = true)]
        prefix: Option<OsString>,
        #[command(flatten)]
        coding: KeyCoding,
        /// Leave out keys that cannot be file names, count them, and exit with 1
        #[arg(long)]
        keep_going: bool,
    },
    /// Tell what memory, disk and time to open a store will take, from its pairs; opens nothing
    Plan {
        /// How many keys
        #[arg(long, value_name = "COUNT")]
        keys: u64,
        /// Bytes of a key
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(..=KEY_BYTES_MAX as u64))]
        key_len: u64,
        /// Bytes of a value
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(..=VALUE_BYTES_MAX as u64))]
        value_len: u64,
        /// Keys expire, which takes 8 bytes more each
        #[arg(long)]
        ttl: bool,
    },
    /// Show, again and again, how large the store is and what happens to it; Ctrl-C ends it
    ///
    /// The store may be open in another process: its files are then looked at without its lock, and keys
    /// and garbage are not known.
    Top {
        /// Time from one look to the next
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
        interval: Duration,
        /// Look once
        #[arg(long)]
        once: bool,
    },
    /// Print the completions of a shell
    Completions { shell: Shell },
    /// Print the manual page of kvs, or of a verb
    Man {
        verb: Option<String>,
        /// Write all pages into this directory instead
        #[arg(short, long, value_name = "DIR", conflicts_with = "verb")]
        output: Option<PathBuf>,
    },
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
        let refuse = |text: &str| {
            Self::command()
                .error(ErrorKind::ArgumentConflict, text)
                .exit();
        };
        match &self.verb {
            Verb::Demo if self.dir.is_some() => {
                refuse("`demo` works in a temporary directory of its own and takes no --dir");
            }
            Verb::Completions { .. } | Verb::Man { .. } if self.json => {
                refuse("`completions` and `man` print texts of their own and take no --json");
            }
            Verb::Plan { .. } if self.dir.is_some() => {
                refuse("`plan` computes and opens no store: it takes no --dir");
            }
            Verb::Get { raw: true, .. } if self.json => {
                refuse("--raw prints the value's bytes, --json an object: choose one");
            }
            Verb::Restore { .. } if self.dir.is_none() && !has_dir_variable() => {
                refuse("`restore` needs --dir, the new directory to restore to");
            }
            Verb::Import {
                format: Format::Files,
                from: None,
                ..
            } => refuse("`import files` needs the directory to read"),
            Verb::Export {
                format: Format::Files,
                to: None,
                output: None,
                ..
            } => refuse("`export files` needs a new directory to write"),
            _ => {}
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

fn has_dir_variable() -> bool {
    std::env::var_os(DIR_VARIABLE).is_some_and(|dir| !dir.is_empty())
}

/// Seconds, with a fraction if need be, as a duration.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

/// Seconds between two looks: from a tenth to an hour.
fn interval(text: &str) -> Result<Duration, String> {
    let time = seconds(text)?;
    match (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time) {
        true => Ok(time),
        false => Err("not from 0.1 to 3600".to_owned()),
    }
}

/// Units of a duration, in seconds; the longer of two that end alike first.
const UNITS: [(&str, f64); 5] = [
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("d", 86_400.0),
];

/// A number with a unit behind it; without one, seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let unit = UNITS.iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(unit)?;
        Some((number, *seconds))
    });
    let (number, unit) = unit.unwrap_or((text, 1.0));
    let wrong = || "not a number of seconds, or a number and `ms`, `s`, `m`, `h` or `d`".to_owned();
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        for (text, ms) in [
            ("2", 2_000),
            ("0.25", 250),
            ("250ms", 250),
            ("90s", 90_000),
            ("15m", 900_000),
            ("2h", 7_200_000),
            ("1.5d", 129_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "s", "1w", "-1s", "1 s", "NaN", "1e300d", "1hs"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_may_have_a_fraction_and_no_sign() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("10"), Ok(Duration::from_secs(10)));
        for wrong in ["-1", "NaN", "inf", "", "2s", "1e300"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
