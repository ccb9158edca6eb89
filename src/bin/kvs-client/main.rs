//! `kvs-client`: one command to a server, and its answer.
//!
//! Parses arguments, calls the library, turns the answer into text and an exit code.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kvs::KvsClient;
use kvs::client::ClientError;

const AFTER_HELP: &str = "\
Put `--` before a key or value that begins with `-`.

Exit codes:
  0  done; also for `get` of a missing key, which prints `Key not found`
  1  `rm` of a missing key
  2  wrong usage
  5  the server refused, or the value could not be printed
  6  the server cannot be reached, or the connection broke";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Client of kvs-server, and of anything else that speaks Redis' protocol.
#[derive(Debug, Parser)]
#[command(name = "kvs-client", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
struct Server {
    /// Where the server listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4000")]
    addr: String,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the value of a key, or `Key not found`
    Get {
        key: OsString,
        #[command(flatten)]
        server: Server,
    },
    /// Store a value under a key
    Set {
        key: OsString,
        #[arg(allow_negative_numbers = true)]
        value: OsString,
        #[command(flatten)]
        server: Server,
    },
    /// Remove a key
    Rm {
        key: OsString,
        #[command(flatten)]
        server: Server,
    },
}

fn main() -> ExitCode {
    // Wrong usage ends in here: clap prints and exits with 2.
    let cli = Cli::parse();
    let Err(failure) = run(&cli.verb) else {
        return ExitCode::SUCCESS;
    };
    let (code, text) = failure.outcome(cli.verb.addr());
    if code == 0 {
        return ExitCode::SUCCESS;
    }
    let mut line = Vec::new();
    escape(text.as_bytes(), &mut line);
    line.push(b'\n');
    // Nobody is left to be told when standard error is closed; the code still says it.
    let _ = io::stderr().write_all(&line);
    ExitCode::from(code)
}

/// Why a command did not work.
#[derive(Debug)]
enum Failure {
    /// No answer, or one that says no.
    Client(ClientError),
    /// Standard output took no more.
    Output(io::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    /// Exit code, and what is said of a server at `addr`.
    fn outcome(&self, addr: &str) -> (u8, String) {
        match self {
            // `kvs-client get key | head`: the reader has what it wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => (0, String::new()),
            Self::Output(error) => (5, format!("kvs-client: standard output: {error}")),
            Self::Client(error @ ClientError::KeyNotFound) => (1, error.to_string()),
            Self::Client(ClientError::Server(text)) => {
                (5, format!("kvs-client: the server refused: {text}"))
            }
            Self::Client(error @ ClientError::Unexpected) => (5, format!("kvs-client: {error}")),
            Self::Client(error) => {
                let next = "is kvs-server running there?";
                (6, format!("kvs-client: {addr}: {error}; {next}"))
            }
        }
    }
}

impl Verb {
    fn addr(&self) -> &str {
        match self {
            Self::Get { server, .. } | Self::Set { server, .. } | Self::Rm { server, .. } => {
                &server.addr
            }
        }
    }
}

fn run(verb: &Verb) -> Result<(), Failure> {
    let mut client = KvsClient::connect(verb.addr())?;
    let stream = client.stream();
    let timeouts = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    timeouts.map_err(ClientError::Io)?;
    match verb {
        Verb::Get { key, .. } => {
            let value = client.get(bytes(key))?;
            print(value.as_deref()).map_err(Failure::Output)
        }
        Verb::Set { key, value, .. } => Ok(client.set(bytes(key), bytes(value))?),
        Verb::Rm { key, .. } => Ok(client.remove(bytes(key))?),
    }
}

fn bytes(arg: &OsStr) -> &[u8] {
    arg.as_bytes()
}

/// The value and a newline: as it is into a pipe or a file, escaped on a terminal.
fn print(value: Option<&[u8]>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut line = Vec::new();
    match value {
        None => line.extend(b"Key not found"),
        Some(value) if stdout.is_terminal() => escape(value, &mut line),
        Some(value) => line.extend(value),
    }
    line.push(b'\n');
    stdout.write_all(&line)?;
    stdout.flush()
}

/// Text as it is; control bytes and what is no text as `\x1b`.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.is_control() {
                true => out.extend(c.escape_default().to_string().bytes()),
                false => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        for byte in chunk.invalid() {
            out.extend(format!("\\x{byte:02x}").bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same error of the system, from the reader of the output and from the server.
    #[test]
    fn a_connection_that_breaks_is_no_reader_that_has_enough() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::Output(broken()).outcome("addr").0, 0);
        let (code, text) = Failure::Client(broken().into()).outcome("addr");
        assert_eq!(code, 6);
        assert!(text.starts_with("kvs-client: addr: "), "{text}");
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::Output(full).outcome("addr").0, 5);
    }
}
