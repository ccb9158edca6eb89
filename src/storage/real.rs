//! The real file system: one directory opened once, files reached relative to it.
//!
//! No symbolic link is followed and nothing but regular files of ours is opened, so that a name
//! planted in the directory cannot lead elsewhere. Stores go through the map on file systems that
//! promise that an allocated block stays writable (ext4, xfs, tmpfs); elsewhere they go through
//! `write`, since a store into a hole of a full disk would end the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FallocateFlags, MemfdFlags, Mode, OFlags};

use crate::storage::error::{Result, StorageError};
use crate::storage::fs::{Access, Fs, FsFile};
use crate::storage::raw::mmap::{Map, MapWriter};

/// How records reach the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorePath {
    /// By storing into the shared map.
    Map,
    /// By `pwrite`.
    Write,
}

/// A store directory, or memory that behaves like one.
#[derive(Debug)]
pub struct RealFs {
    path: PathBuf,
    place: Place,
    store_path: StorePath,
}

#[derive(Debug)]
enum Place {
    /// The open directory; holds the lock as long as it lives.
    Directory { dir: File, owner: u32 },
    /// Anonymous memory files by name: the in-memory mode.
    Memory(Mutex<Vec<(String, File)>>),
}

/// Which directory this is, whatever path leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirectoryId {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
}

fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_path_buf();
    move |source| StorageError::Io { op, path, source }
}

/// File systems on which a store through a map into an allocated block cannot fail for want of
/// space: ext2/3/4, xfs, tmpfs (`statfs(2)`, `f_type`).
const MAP_STORE_ALLOWED: [u64; 3] = [0xEF53, 0x5846_5342, 0x0102_1994];

/// The directory that holds `path`.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync the parent directory", path))
}

/// Creates `path` with mode 0700, and the directories above it that are missing; every name is
/// durable before the next one is made.
fn create_directory(path: &Path) -> Result<()> {
    let parent = parent_of(path);
    if !parent.exists() {
        create_directory(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        // The umask may have taken bits away.
        Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(io_error("set the mode of the directory", path))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io_error("create the directory", path)(error)),
    }
    sync_directory(parent)
}

impl RealFs {
    /// Opens (and if `access` allows, creates with mode 0700) the directory `path`, without locking.
    ///
    /// A directory that exists keeps its mode. One that anybody may write to, without the sticky
    /// bit, is refused.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let dir = match File::open(path) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && access == Access::ReadWrite =>
            {
                create_directory(path)?;
                File::open(path)
            }
            opened => opened,
        }
        .map_err(io_error("open the directory", path))?;
        let metadata = dir
            .metadata()
            .map_err(io_error("look at the directory", path))?;
        if !metadata.is_dir() {
            return Err(StorageError::Unsafe {
                path: path.to_path_buf(),
                reason: "not a directory",
            });
        }
        if metadata.mode() & 0o002 != 0 && metadata.mode() & 0o1000 == 0 {
            return Err(StorageError::Unsafe {
                path: path.to_path_buf(),
                reason: "the directory is writable by everybody and has no sticky bit",
            });
        }
        let statfs = rustix::fs::fstatfs(&dir)
            .map_err(|e| io_error("look at the file system", path)(e.into()))?;
        let store_path = match MAP_STORE_ALLOWED.contains(&(statfs.f_type as u64)) {
            true => StorePath::Map,
            false => StorePath::Write,
        };
        Ok(Self {
            path: path.to_path_buf(),
            place: Place::Directory {
                owner: metadata.uid(),
                dir,
            },
            store_path,
        })
    }

    /// True if there is no manifest yet: nothing in the directory has ever been acknowledged.
    pub fn is_new(&self) -> bool {
        let manifest = Fs::open(self, kvs_format::name::MANIFEST, Access::Read);
        matches!(manifest, Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Makes the directory's own name durable: a life that created it may have been cut short before
    /// it could.
    pub fn sync_name(&self) -> Result<()> {
        match self.place {
            Place::Directory { .. } => match sync_directory(parent_of(&self.path)) {
                // Not ours to read, so the directory was not ours to create.
                Err(StorageError::Io { source, .. })
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Ok(())
                }
                synced => synced,
            },
            Place::Memory(_) => Ok(()),
        }
    }

    /// A store directory that exists only in memory.
    pub fn in_memory() -> Self {
        Self {
            path: PathBuf::from(":memory:"),
            place: Place::Memory(Mutex::default()),
            store_path: StorePath::Map,
        }
    }

    /// Stores records by `pwrite` whatever the file system: how other file systems are served.
    #[must_use]
    pub fn with_store_path(mut self, store_path: StorePath) -> Self {
        self.store_path = store_path;
        self
    }

    /// The same open directory once more: the lock is one, and held until both are dropped.
    pub fn try_clone(&self) -> Result<Self> {
        let place = match &self.place {
            Place::Directory { dir, owner } => Place::Directory {
                dir: dir
                    .try_clone()
                    .map_err(io_error("open the directory", &self.path))?,
                owner: *owner,
            },
            Place::Memory(files) => {
                let clone = |(name, file): &(String, File)| Ok((name.clone(), file.try_clone()?));
                let files: io::Result<_> = files.lock().iter().map(clone).collect();
                Place::Memory(Mutex::new(
                    files.map_err(io_error("open the directory", &self.path))?,
                ))
            }
        };
        Ok(Self {
            path: self.path.clone(),
            place,
            store_path: self.store_path,
        })
    }

    /// True for the in-memory mode: there is nothing to make durable.
    pub fn is_memory(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }

    /// Device and inode of the directory; `None` in memory.
    pub fn id(&self) -> Result<Option<DirectoryId>> {
        let Place::Directory { dir, .. } = &self.place else {
            return Ok(None);
        };
        let metadata = dir
            .metadata()
            .map_err(io_error("look at the directory", &self.path))?;
        Ok(Some(DirectoryId {
            device: metadata.dev(),
            inode: metadata.ino(),
        }))
    }

    /// Takes the directory's lock without waiting: shared to read, exclusive to write. Held until
    /// this value is dropped.
    ///
    /// # Errors
    /// [`StorageError::Locked`] if another open of the directory is in the way.
    pub fn lock(&self, access: Access) -> Result<()> {
        let Place::Directory { dir, .. } = &self.place else {
            return Ok(());
        };
        let taken = match access {
            Access::Read => dir.try_lock_shared(),
            Access::ReadWrite => dir.try_lock(),
        };
        taken.map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => StorageError::Locked {
                path: self.path.clone(),
            },
            std::fs::TryLockError::Error(error) => {
                io_error("lock the directory", &self.path)(error)
            }
        })
    }

    /// Gives the lock up while this value is still in use by somebody who only looks at maps.
    pub fn unlock(&self) {
        if let Place::Directory { dir, .. } = &self.place {
            // It cannot fail for a descriptor that holds the lock; closing would do the same.
            let _ = dir.unlock();
        }
    }

    fn create_with(&self, name: &str, extra: OFlags) -> io::Result<RealFile> {
        match &self.place {
            Place::Directory { dir, .. } => {
                let file = File::from(rustix::fs::openat(
                    dir,
                    name,
                    OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | extra,
                    Mode::from_raw_mode(0o600),
                )?);
                self.check(&file)?;
                // The umask may have taken bits away.
                rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600))?;
                Ok(self.file(file))
            }
            Place::Memory(files) => {
                let mut files = files.lock();
                let known = files.iter().position(|(known, _)| known == name);
                if extra.contains(OFlags::EXCL) && known.is_some() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
                let clone = file.try_clone()?;
                match known {
                    Some(at) => files[at].1 = clone,
                    None => files.push((name.to_owned(), clone)),
                }
                Ok(self.file(file))
            }
        }
    }

    /// Refuses what is not a regular file of somebody we trust.
    fn check(&self, file: &File) -> io::Result<()> {
        let Place::Directory { owner, .. } = &self.place else {
            return Ok(());
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let trusted = [0, *owner, rustix::process::geteuid().as_raw()];
        if !trusted.contains(&metadata.uid()) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the file belongs to another user",
            ));
        }
        Ok(())
    }

    fn file(&self, file: File) -> RealFile {
        RealFile {
            file,
            store_path: self.store_path,
            memory: self.is_memory(),
        }
    }
}

impl Fs for RealFs {
    type File = RealFile;

    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        match &self.place {
            Place::Directory { dir, .. } => {
                let mut names = Vec::new();
                for entry in rustix::fs::Dir::read_from(dir)? {
                    // A name that is not UTF-8 is not ours.
                    if let Ok(name) = entry?.file_name().to_str()
                        && name != "."
                        && name != ".."
                    {
                        names.push(name.to_owned());
                    }
                }
                Ok(names)
            }
            Place::Memory(files) => Ok(files.lock().iter().map(|(name, _)| name.clone()).collect()),
        }
    }

    fn create(&self, name: &str) -> io::Result<RealFile> {
        self.create_with(name, OFlags::EXCL)
    }

    fn create_or_truncate(&self, name: &str) -> io::Result<RealFile> {
        // Not O_TRUNC: the file is looked at before it is changed.
        let file = self.create_with(name, OFlags::empty())?;
        file.file.set_len(0)?;
        Ok(file)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<RealFile> {
        match &self.place {
            Place::Directory { dir, .. } => {
                let mode = match access {
                    Access::Read => OFlags::RDONLY,
                    Access::ReadWrite => OFlags::RDWR,
                };
                let file = File::from(rustix::fs::openat(
                    dir,
                    name,
                    mode | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
                    Mode::empty(),
                )?);
                self.check(&file)?;
                Ok(self.file(file))
            }
            Place::Memory(files) => {
                let files = files.lock();
                let found = files.iter().find(|(known, _)| known == name);
                let (_, file) = found.ok_or(io::ErrorKind::NotFound)?;
                Ok(self.file(file.try_clone()?))
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        match &self.place {
            Place::Directory { dir, .. } => Ok(rustix::fs::renameat(dir, from, dir, to)?),
            Place::Memory(files) => {
                let mut files = files.lock();
                files.retain(|(known, _)| known != to);
                let found = files.iter_mut().find(|(known, _)| known == from);
                found.ok_or(io::ErrorKind::NotFound)?.0 = to.to_owned();
                Ok(())
            }
        }
    }

    fn link(&self, name: &str, to: &Self) -> io::Result<()> {
        match (&self.place, &to.place) {
            (Place::Directory { dir: from, .. }, Place::Directory { dir: to, .. }) => {
                // Of a symbolic link the link itself, which opening refuses.
                Ok(rustix::fs::linkat(from, name, to, name, AtFlags::empty())?)
            }
            _ => Err(io::ErrorKind::CrossesDevices.into()),
        }
    }

    fn publish(&self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        File::open(parent_of(to))?.sync_all()
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match &self.place {
            Place::Directory { dir, .. } => Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?),
            Place::Memory(files) => {
                files.lock().retain(|(known, _)| known != name);
                Ok(())
            }
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        match &self.place {
            Place::Directory { dir, .. } => dir.sync_all(),
            Place::Memory(_) => Ok(()),
        }
    }
}

/// An open file of a [`RealFs`].
#[derive(Debug)]
pub struct RealFile {
    file: File,
    store_path: StorePath,
    memory: bool,
}

/// What direct writes are aligned to: a page, which is a whole number of sectors nearly everywhere.
const DIRECT_BYTES: u64 = 4096;

impl RealFile {
    /// Writes by `O_DIRECT`, whole pages, what is around `bytes` as the file shows it; the cache
    /// forgets these pages. Its length stays.
    fn write_past_cache(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let from = offset - offset % DIRECT_BYTES;
        let end = offset + bytes.len() as u64;
        let len = end.next_multiple_of(DIRECT_BYTES) - from;
        let mut buffer = vec![0u8; (len + DIRECT_BYTES) as usize];
        // An allocator promises no such alignment: there is a page to spare.
        let skip = buffer.as_ptr().align_offset(DIRECT_BYTES as usize);
        let pages = buffer
            .get_mut(skip..skip + len as usize)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mut read = 0;
        while read < pages.len() {
            match self.file.read_at(&mut pages[read..], from + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let start = (offset - from) as usize;
        pages[start..start + bytes.len()].copy_from_slice(bytes);
        let before = self.len()?;
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        rustix::fs::fcntl_setfl(&self.file, flags | OFlags::DIRECT)?;
        let written = self.file.write_all_at(pages, from);
        rustix::fs::fcntl_setfl(&self.file, flags)?;
        written?;
        match from + len > before {
            true => self.file.set_len(before.max(end)),
            false => Ok(()),
        }
    }
}

impl FsFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        loop {
            return match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
                Ok(()) => Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                // No allocation here (ext2, ext3, some network and FUSE file systems): zeros do the
                // same, and are synced before the segment is used.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                    let zeros = vec![0u8; 1 << 16];
                    let mut at = old;
                    while at < len {
                        let n = (len - at).min(zeros.len() as u64);
                        self.file.write_all_at(&zeros[..n as usize], at)?;
                        at += n;
                    }
                    Ok(())
                }
                Err(error) => Err(error.into()),
            };
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_back(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.write_past_cache(offset, bytes) {
            // No such thing on this file system or device, or in other pieces than ours.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) =>
            {
                self.write_at(offset, bytes)
            }
            written => written,
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.memory {
            true => Ok(()),
            false => self.file.sync_data(),
        }
    }

    fn map(&self, len: u64, access: Access) -> io::Result<(Arc<Map>, MapWriter)> {
        // Where records are written by `pwrite`, the map is only for reading them back.
        let access = match self.store_path {
            StorePath::Map => access,
            StorePath::Write => Access::Read,
        };
        Map::new(&self.file, len, access)
    }

    fn keep_large(&self, map: &Map) {
        if self.store_path == StorePath::Map
            && let Ok(file) = self.file.try_clone()
        {
            map.keep_large(file);
        }
    }

    fn release_pages(&self, map: &Map) {
        if self.store_path == StorePath::Map && !self.memory {
            map.map_again();
        }
    }

    fn store(&self, map: &mut MapWriter, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        if self.store_path == StorePath::Map {
            map.store(offset, parts);
            return Ok(());
        }
        // One call for one record.
        let record = parts.concat();
        self.file.write_all_at(&record, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_back_changes_nothing_around_it() {
        let dir = tempfile::tempdir().unwrap();
        let fs = RealFs::open(dir.path(), Access::ReadWrite).unwrap();
        for len in [1u64, 4095, 4096, 10_000] {
            let file = Fs::create(&fs, &format!("file {len}")).unwrap();
            let whole: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            file.write_at(0, &whole).unwrap();
            for (from, to) in [(0, len), (len / 3, len / 2), (len - 1, len), (len / 2, len)] {
                file.write_back(from, &whole[from as usize..to as usize])
                    .unwrap();
                assert_eq!(file.len().unwrap(), len, "{from} to {to}");
                let mut read = vec![0; len as usize];
                file.read_exact_at(0, &mut read).unwrap();
                assert!(read == whole, "{from} to {to} of {len}");
            }
            // Bytes that the file does not show yet are written all the same, also behind its end.
            file.write_back(len, &[7; 100]).unwrap();
            assert_eq!(file.len().unwrap(), len + 100);
            let mut read = [0; 100];
            file.read_exact_at(len, &mut read).unwrap();
            assert_eq!(read, [7; 100]);
        }
    }
}
