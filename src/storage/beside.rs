//! A directory that gets its name when it is whole.
//!
//! Until then it stands beside the name it is to have, as `.NAME.partial`. A crash leaves that, or
//! the whole directory, never a part of it under its name; the next try for the same name, or anybody,
//! may remove what was left.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kvs_format::name;

use crate::storage::error::{Result, StorageError};
use crate::storage::fs::{Access, Fs};
use crate::storage::real::{DirectoryId, RealFs};

/// Removes the directory again unless it got its name.
#[derive(Debug)]
pub struct Beside {
    // Keeps the lock until all is removed.
    dir: RealFs,
    temporary: PathBuf,
    path: PathBuf,
    whole: bool,
}

fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_path_buf();
    move |source| StorageError::Io { op, path, source }
}

/// Refuses a path that is taken, unless by an empty directory.
fn check_free(path: &Path) -> Result<()> {
    let taken = || StorageError::Exists {
        path: path.to_path_buf(),
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("look at", path)(error)),
        Ok(metadata) if !metadata.is_dir() => Err(taken()),
        Ok(_) => {
            let mut entries = path.read_dir().map_err(io_error("list", path))?;
            match entries.next() {
                None => Ok(()),
                Some(_) => Err(taken()),
            }
        }
    }
}

/// Refuses a path below the directory `outside`.
fn check_outside(path: &Path, outside: DirectoryId) -> Result<()> {
    // What does not exist yet cannot lead anywhere else.
    let existing = path.ancestors().find(|path| path.exists());
    let existing = existing.unwrap_or(Path::new("/"));
    let real = existing
        .canonicalize()
        .map_err(io_error("look at", existing))?;
    for ancestor in real.ancestors() {
        let metadata = ancestor.metadata().map_err(io_error("look at", ancestor))?;
        if (metadata.dev(), metadata.ino()) == (outside.device, outside.inode) {
            return Err(StorageError::Unsafe {
                path: path.to_path_buf(),
                reason: "it lies inside the store",
            });
        }
    }
    Ok(())
}

/// Removes what an earlier try left; refuses what is none of ours.
fn clear(fs: &RealFs) -> Result<()> {
    let names = fs.list().map_err(io_error("list", fs.path()))?;
    if !names.iter().all(|name| name::parse(name).is_some()) {
        return Err(StorageError::Exists {
            path: fs.path().to_path_buf(),
        });
    }
    for name in names {
        fs.unlink(&name)
            .map_err(io_error("remove", &fs.path_of(&name)))?;
    }
    Ok(())
}

impl Beside {
    /// An empty directory, locked, that may become `path`. That must not exist, or be an empty
    /// directory, and must not lie inside `outside`.
    ///
    /// # Errors
    /// [`StorageError::Exists`], [`StorageError::Unsafe`], [`StorageError::Locked`] if another try for
    /// the same path is under way, [`StorageError::Io`].
    pub fn create(path: &Path, outside: Option<DirectoryId>) -> Result<(Self, RealFs)> {
        let path = std::path::absolute(path).map_err(io_error("look at", path))?;
        let Some(name) = path.file_name() else {
            return Err(StorageError::Exists { path });
        };
        if let Some(outside) = outside {
            check_outside(&path, outside)?;
        }
        check_free(&path)?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(".partial");
        let temporary = path.with_file_name(temporary);
        let fs = match RealFs::open(&temporary, Access::ReadWrite) {
            // Another try gave it its name just now.
            Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(StorageError::Locked { path: temporary });
            }
            opened => opened?,
        };
        fs.lock(Access::ReadWrite)?;
        // Another try may have given it its name before it let go of the lock: then it is whole.
        // The name itself is looked at: a link of that name leads to a directory of somebody else's.
        let there = temporary.symlink_metadata().ok();
        let id = there.as_ref().map(|m| DirectoryId {
            device: m.dev(),
            inode: m.ino(),
        });
        match there {
            Some(there) if !there.is_dir() => {
                return Err(StorageError::Unsafe {
                    path: temporary,
                    reason: "not a directory",
                });
            }
            Some(_) if id != fs.id()? => return Err(StorageError::Locked { path: temporary }),
            Some(there)
                if there.uid() != rustix::process::geteuid().as_raw()
                    || there.mode() & 0o022 != 0 =>
            {
                return Err(StorageError::Unsafe {
                    path: temporary,
                    reason: "others may write to the directory, or it is theirs",
                });
            }
            Some(_) => {}
            None => return Err(StorageError::Locked { path: temporary }),
        }
        // From here on nobody else can give the path to anything of ours.
        check_free(&path)?;
        clear(&fs)?;
        let beside = Self {
            dir: fs.try_clone()?,
            temporary,
            path,
            whole: false,
        };
        Ok((beside, fs))
    }

    /// What it is to be called, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It has got its name.
    pub fn keep(mut self) {
        self.whole = true;
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if self.whole {
            return;
        }
        // Best effort: what is left says by its name what it is.
        for name in self.dir.list().unwrap_or_default() {
            if name::parse(&name).is_some() {
                let _ = self.dir.unlink(&name);
            }
        }
        let _ = std::fs::remove_dir(&self.temporary);
    }
}
