//! The seam between the store and the file system.
//!
//! Generic, not dynamic: the real one costs nothing. Every change of a file or of a name goes through
//! here, so the simulated one can record it, fail it, or decide after a cut which of it survived.
//!
//! Rules for callers
//! - A segment's bytes are changed by [`FsFile::store`] only, one record per call, never below the
//!   published length; its header page by [`FsFile::write_at`] before it is used, and so the records of a
//!   merged segment that a bulk load writes, of which nothing is published before all of it is written.
//! - Nothing is durable before [`FsFile::sync_data`] (bytes and length) or [`Fs::sync_dir`] (names).
//! - A failed sync is final: the caller stops trusting what it wrote and never repeats the call.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::storage::raw::mmap::Access;
use crate::storage::raw::mmap::{Map, MapWriter};

/// One store directory. Names are plain file names without a separator.
pub trait Fs: Send + Sync + 'static {
    /// A file in it.
    type File: FsFile;

    /// The directory's path, for messages.
    fn path(&self) -> &Path;

    /// Names of everything in the directory, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates a file that must not exist; mode 0600 whatever the umask.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Creates a file or empties an existing one; mode 0600.
    fn create_or_truncate(&self, name: &str) -> io::Result<Self::File>;

    /// Opens an existing regular file; never follows a symbolic link.
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File>;

    /// Gives `from` the name `to`, replacing it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Gives file `name` the same name in the directory `to` as well: a hard link.
    ///
    /// # Errors
    /// Whatever the system says, and it may for many reasons: another device, a file system without
    /// links, too many of them. The caller copies.
    fn link(&self, name: &str, to: &Self) -> io::Result<()>;

    /// Gives this directory, whose names are durable, the path `to`, where there may be an empty one;
    /// durable when it returns.
    fn publish(&self, to: &Path) -> io::Result<()>;

    /// Removes a name.
    fn unlink(&self, name: &str) -> io::Result<()>;

    /// Makes the directory's names durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// The path of a file in it, for messages.
    fn path_of(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

/// One open file.
pub trait FsFile: Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Bytes of disk it occupies.
    fn allocated(&self) -> io::Result<u64>;

    /// Makes it at least `len` bytes long with every block allocated; new bytes are zero.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Makes it exactly `len` bytes long; never below a mapped segment's published length.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reads up to `buf.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes all of `bytes`, which the file shows at `offset` already, once more, so that they reach the
    /// disk with the next sync even if an earlier one has failed.
    ///
    /// After a failed write the kernel shows the bytes as if they were there. Writing them again by
    /// [`FsFile::write_at`] is not enough: ext4 (seen on Linux 6.18) then fills the block and leaves
    /// it marked as never written, so that it reads as zeros when the cache is gone.
    fn write_back(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_at(offset, bytes)
    }

    /// Makes bytes and length durable (`fdatasync`). An error is final.
    fn sync_data(&self) -> io::Result<()>;

    /// Maps the first `len` bytes; the file may still be shorter, as long as nobody looks there.
    fn map(&self, len: u64, access: Access) -> io::Result<(Arc<Map>, MapWriter)>;

    /// Asks for large pieces of the page cache where `map`, a map of this file, is brought in ahead of the
    /// writer (`Map::keep_large`). They make each sync write at least 2 MiB. Only the real one has any.
    fn keep_large(&self, _map: &Map) {}

    /// Before a sync of much that was stored through `map`, a map of this file, while others read it: lets the
    /// kernel have the write permission of all its pages at once (`Map::map_again`). Only the real one has
    /// any.
    fn release_pages(&self, _map: &Map) {}

    /// Stores the concatenation of `parts` at `offset` of the mapped segment: one record.
    ///
    /// Through the map where the file system allows it, else by `write`; the bytes are visible in the
    /// map afterwards either way, and become readable when the caller publishes them.
    fn store(&self, map: &mut MapWriter, offset: u64, parts: &[&[u8]]) -> io::Result<()>;

    /// Reads exactly `buf.len()` bytes at `offset`.
    fn read_exact_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(offset, buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    offset += n as u64;
                    buf = &mut buf[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
