//! What goes wrong with files: the world failed, or the bytes are damaged.

use std::io;
use std::path::PathBuf;

use kvs_format::DecodeError;

/// Result of a storage operation.
pub type Result<T> = std::result::Result<T, StorageError>;

/// Why a storage operation failed.
#[derive(Debug)]
pub enum StorageError {
    /// The operating system refused `op` on `path`.
    Io {
        /// What was being done, for a person: "sync", "rename".
        op: &'static str,
        /// File or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The bytes at `offset` of `path` are not those that were written.
    Corrupt {
        /// File.
        path: PathBuf,
        /// Bytes from its start.
        offset: u64,
        /// What is wrong with them.
        reason: DecodeError,
    },
    /// A file that must exist does not.
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Something stands where a new directory is to be made.
    Exists {
        /// What.
        path: PathBuf,
    },
    /// Another process, or another kind of open in this one, holds the directory.
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory or a file in it is not safe to use.
    Unsafe {
        /// File or directory.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
}

impl StorageError {
    /// True if the device, or the quota, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(
            self,
            Self::Io { source, .. } if matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        )
    }
}
