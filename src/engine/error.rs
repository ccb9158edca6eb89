//! What can go wrong, told so that the caller knows whether the write happened.
//!
//! "Certainly not applied": [`Error::KeyTooLong`], [`Error::ValueTooLong`], [`Error::DiskFull`],
//! [`Error::IndexFull`], [`Error::Poisoned`] from a write, [`Error::ReadOnly`], [`Error::Closed`]. "Unknown until reopened,
//! then wholly there or wholly absent": [`Error::Io`] from a write, `flush` or `close`.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::string::FromUtf8Error;

use kvs_format::DecodeError;

use crate::storage::error::StorageError;

/// Result of an operation on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on a store failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The key to remove does not exist.
    KeyNotFound,
    /// The operating system refused `op` on `path`. For a write: outcome unknown until reopened.
    Io {
        /// What was being done.
        op: &'static str,
        /// File or directory; empty for an error that came from elsewhere.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes on disk are not those that were written.
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Bytes from its start.
        offset: u64,
        /// What is wrong there.
        reason: DecodeError,
    },
    /// A file of the store does not exist.
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Something stands where a new directory is to be made. Nothing was changed.
    Exists {
        /// What.
        path: PathBuf,
    },
    /// Part of the store is damaged (see [`crate::RecoveryReport::damage`]): it cannot be copied as a
    /// whole one.
    Incomplete {
        /// The store's directory.
        path: PathBuf,
    },
    /// Another process, or another kind of open in this process, holds the store.
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// This process has the store open already, with other options.
    OptionsDiffer {
        /// The store's directory.
        path: PathBuf,
    },
    /// The directory, or a file in it, is not safe to use.
    Unsafe {
        /// File or directory.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// An option has a value that makes no sense.
    InvalidOption {
        /// The option.
        option: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A write to a store that was opened read-only.
    ReadOnly,
    /// The key is longer than the format allows. Certainly not applied.
    KeyTooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// The value is longer than the format allows. Certainly not applied.
    ValueTooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// A batch is larger than a segment can be. Certainly not applied.
    BatchTooLarge {
        /// Its bytes.
        bytes: u64,
        /// The most allowed.
        max: u64,
    },
    /// There is no room on the device for another segment. Certainly not applied.
    DiskFull {
        /// The store's directory.
        path: PathBuf,
    },
    /// The index would take more memory than [`crate::Options::index_bytes_max`] allows. Certainly not
    /// applied.
    IndexFull {
        /// Bytes it would take.
        bytes: u64,
        /// The most allowed.
        max: u64,
    },
    /// Values still held keep more bytes of removed segments on disk than
    /// [`crate::Options::pinned_bytes_max`]: compacting would not give space back.
    Pinned {
        /// Bytes they keep.
        bytes: u64,
        /// The most allowed.
        max: u64,
    },
    /// The snapshot was given up, and will answer nothing else: removed segments that old snapshots and
    /// values kept took more disk than [`crate::Options::pinned_bytes_max`].
    SnapshotExpired {
        /// The most allowed, in bytes.
        max: u64,
    },
    /// All 65,536 index windows of 256 MiB are in use. Certainly not applied.
    StoreFull,
    /// An earlier sync failed: nothing written after the last good one can be trusted, and nothing
    /// more is accepted until the store is reopened.
    Poisoned,
    /// The store was closed.
    Closed,
    /// The value to add to is not a decimal integer of 64 bits. Certainly not applied.
    NotAnInteger,
    /// The sum does not fit 64 bits. Certainly not applied.
    Overflow,
    /// A value asked for as text is not UTF-8.
    NotUtf8(FromUtf8Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyNotFound => f.write_str("Key not found"),
            Self::Io { op, path, source } if path.as_os_str().is_empty() => {
                write!(f, "cannot {op}: {source}")
            }
            Self::Io { op, path, source } => {
                write!(f, "cannot {op}: {}: {source}", path.display())
            }
            Self::Corrupt {
                path,
                offset,
                reason,
            } => write!(
                f,
                "corrupt: {} at offset {offset}: {reason}",
                path.display()
            ),
            Self::Missing { path } => write!(f, "corrupt: {} is missing", path.display()),
            Self::Exists { path } => {
                write!(f, "{} exists and is not an empty directory", path.display())
            }
            Self::Incomplete { path } => {
                write!(f, "part of the store in {} is damaged", path.display())
            }
            Self::Locked { path } => {
                write!(f, "{} is in use by another process", path.display())
            }
            Self::OptionsDiffer { path } => write!(
                f,
                "{} is already open in this process with other options",
                path.display()
            ),
            Self::Unsafe { path, reason } => {
                write!(f, "refusing {}: {reason}", path.display())
            }
            Self::InvalidOption { option, expected } => {
                write!(f, "option {option} must be {expected}")
            }
            Self::ReadOnly => f.write_str("the store was opened read-only"),
            Self::KeyTooLong { len, max } => {
                write!(f, "key of {len} bytes, at most {max} are allowed")
            }
            Self::ValueTooLong { len, max } => {
                write!(f, "value of {len} bytes, at most {max} are allowed")
            }
            Self::BatchTooLarge { bytes, max } => {
                write!(f, "batch of {bytes} bytes, at most {max} fit a segment")
            }
            Self::DiskFull { path } => {
                write!(f, "no space left for another segment in {}", path.display())
            }
            Self::IndexFull { bytes, max } => write!(
                f,
                "the index would take {bytes} bytes of memory, at most {max} are allowed"
            ),
            Self::Pinned { bytes, max } => write!(
                f,
                "values still held keep {bytes} bytes of removed segments on disk, at most {max} are allowed"
            ),
            Self::SnapshotExpired { max } => write!(
                f,
                "the snapshot was given up: more than {max} bytes of removed segments were kept on disk"
            ),
            Self::StoreFull => f.write_str("the store has used up its 16 TiB of address space"),
            Self::Poisoned => f.write_str(
                "an earlier sync failed: reopen the store to find out what reached the disk",
            ),
            Self::Closed => f.write_str("the store is closed"),
            Self::NotAnInteger => f.write_str("the value is not an integer or out of range"),
            Self::Overflow => f.write_str("the sum would overflow"),
            Self::NotUtf8(source) => write!(f, "value is not UTF-8: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Corrupt { reason, .. } => Some(reason),
            Self::NotUtf8(source) => Some(source),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Self::Io {
            op: "complete the operation",
            path: PathBuf::new(),
            source,
        }
    }
}

impl From<FromUtf8Error> for Error {
    fn from(source: FromUtf8Error) -> Self {
        Self::NotUtf8(source)
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io { op, path, source } => Self::Io { op, path, source },
            StorageError::Corrupt {
                path,
                offset,
                reason,
            } => Self::Corrupt {
                path,
                offset,
                reason,
            },
            StorageError::Missing { path } => Self::Missing { path },
            StorageError::Exists { path } => Self::Exists { path },
            StorageError::Locked { path } => Self::Locked { path },
            StorageError::Unsafe { path, reason } => Self::Unsafe { path, reason },
        }
    }
}
