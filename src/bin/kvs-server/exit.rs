//! Exit codes, and the line on standard error that says what, where and what to do next.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use kvs::Error;

use crate::args::EngineName;

/// Why there is no server, or no more.
#[derive(Debug)]
pub enum Failure {
    Store(Error),
    Sled { dir: PathBuf, source: sled::Error },
    Directory { dir: PathBuf, source: io::Error },
    OtherEngine { dir: PathBuf, found: EngineName },
    BothEngines { dir: PathBuf },
    NoLevels { engine: EngineName },
    Listen { addr: SocketAddr, source: io::Error },
    Runtime(io::Error),
    Password { file: PathBuf, source: io::Error },
    EmptyPassword { file: PathBuf },
    Exposed { addr: SocketAddr },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    pub fn code(&self) -> u8 {
        match self {
            Self::Exposed { .. } | Self::EmptyPassword { .. } | Self::NoLevels { .. } => 2,
            Self::Store(Error::Locked { .. }) => 3,
            Self::Store(Error::Corrupt { .. } | Error::Missing { .. })
            | Self::Sled {
                source: sled::Error::Corruption { .. },
                ..
            } => 4,
            _ => 5,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error @ Error::Locked { .. }) => {
                write!(f, "{error}; stop it, or choose another --dir")
            }
            Self::Store(error @ (Error::Corrupt { .. } | Error::Missing { .. })) => {
                write!(
                    f,
                    "{error}; nothing was changed; `kvs verify` lists all damage"
                )
            }
            Self::Store(error) => error.fmt(f),
            Self::Sled { dir, source } => {
                write!(f, "cannot open the sled store {}: {source}", dir.display())
            }
            Self::Directory { dir, source } => {
                write!(f, "cannot create {}: {source}", dir.display())
            }
            Self::OtherEngine { dir, found } => write!(
                f,
                "{} holds a store of the engine {found}; choose that, or another --dir",
                dir.display()
            ),
            Self::BothEngines { dir } => write!(
                f,
                "{} holds files of more than one engine; move one of them elsewhere",
                dir.display()
            ),
            Self::NoLevels { engine } => write!(
                f,
                "the engine {engine} cannot let a write wait for the disk: leave out --durability"
            ),
            Self::Listen { addr, source } => write!(f, "cannot listen on {addr}: {source}"),
            Self::Runtime(source) => write!(f, "cannot start: {source}"),
            Self::Password { file, source } => {
                write!(f, "cannot read {}: {source}", file.display())
            }
            Self::EmptyPassword { file } => {
                write!(f, "{}: the first line is empty", file.display())
            }
            Self::Exposed { addr } => write!(
                f,
                "{addr} can be reached from other machines: give a --password-file, or say \
                 --no-protection if that is meant"
            ),
        }
    }
}
