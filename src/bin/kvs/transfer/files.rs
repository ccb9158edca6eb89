//! A directory tree: a file's path below the directory is the key, its content the value.
//!
//! Regular files only. Links, pipes and devices have no place in a store, so they are errors rather
//! than silently forgotten; empty directories hold no file and leave no key. On the way out a key is
//! a path only if it stays below the directory and is spelled the one way a path below it is: what was
//! imported fits, and nothing is ever written elsewhere.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kvs_format::{VALUE_BYTES_MAX, name};

/// A file of the tree.
pub struct Found {
    pub path: PathBuf,
    pub key: Vec<u8>,
}

/// Walks the tree below `root`; the store's own files, if it lies there, are not part of it.
pub struct Walk {
    root: PathBuf,
    /// The store's directory, which may come to be while the tree is walked.
    store: PathBuf,
    /// Directories to go, as paths below the root.
    directories: Vec<PathBuf>,
    open: Option<(PathBuf, bool, fs::ReadDir)>,
}

/// Bytes of all files below `root`, for a bar; `None` if they cannot be known.
pub fn total(root: &Path, store: &Path) -> Option<u64> {
    let bytes = |found: Result<Found, Obstacle>| fs::metadata(found.ok()?.path).ok();
    Walk::new(root, store)
        .map(|found| Some(bytes(found)?.len()))
        .sum()
}

/// What stands in the way.
#[derive(Debug)]
pub struct Obstacle {
    pub path: PathBuf,
    pub reason: String,
}

impl Walk {
    pub fn new(root: &Path, store: &Path) -> Self {
        Self {
            root: root.to_owned(),
            store: store.to_owned(),
            directories: vec![PathBuf::new()],
            open: None,
        }
    }

    fn obstacle(&self, below: &Path, reason: impl ToString) -> Obstacle {
        Obstacle {
            path: self.root.join(below),
            reason: reason.to_string(),
        }
    }

    fn next_file(&mut self) -> Result<Option<Found>, Obstacle> {
        loop {
            let Some((directory, is_store, entries)) = &mut self.open else {
                let Some(directory) = self.directories.pop() else {
                    return Ok(None);
                };
                let path = self.root.join(&directory);
                let opened = fs::metadata(&path).and_then(|m| Ok((m, fs::read_dir(&path)?)));
                let (metadata, entries) = opened.map_err(|e| self.obstacle(&directory, e))?;
                let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
                let store = fs::metadata(&self.store).ok().map(identity);
                let is_store = store == Some(identity(metadata));
                self.open = Some((directory, is_store, entries));
                continue;
            };
            let (below, is_store) = (directory.clone(), *is_store);
            let Some(entry) = entries.next() else {
                self.open = None;
                continue;
            };
            let entry = entry.map_err(|e| self.obstacle(&below, e))?;
            let file_name = entry.file_name();
            if is_store && file_name.to_str().and_then(name::parse).is_some() {
                continue;
            }
            let below = below.join(&file_name);
            let kind = entry.file_type().map_err(|e| self.obstacle(&below, e))?;
            if kind.is_dir() {
                self.directories.push(below);
            } else if kind.is_file() {
                return Ok(Some(Found {
                    path: self.root.join(&below),
                    key: below.into_os_string().as_bytes().to_vec(),
                }));
            } else {
                let what = match kind.is_symlink() {
                    true => "is a symbolic link",
                    false => "is neither a file nor a directory",
                };
                return Err(self.obstacle(&below, what));
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Found, Obstacle>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_file().transpose()
    }
}

/// The content of a regular file, or as much as shows that it is too long for a value.
pub fn content(path: &Path) -> io::Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags};
    // What was a file a moment ago may be a link or a pipe by now: neither followed nor waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "is no file"));
    }
    let mut bytes = Vec::new();
    file.take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a tree into a directory that is new or empty.
pub struct Tree {
    root: PathBuf,
    /// The directory of the last file: most files share theirs with the one before.
    last: PathBuf,
}

/// Why a pair did not become a file.
pub enum Refused {
    /// The key cannot be a path here.
    Key(String),
    /// The system did not do it.
    Io(PathBuf, io::Error),
}

impl Tree {
    pub fn create(root: &Path) -> io::Result<Self> {
        match DirBuilder::new().create(root) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if fs::read_dir(root)?.next().is_some() {
                    return Err(io::Error::new(
                        ErrorKind::AlreadyExists,
                        "a tree is written into a new or empty directory, and this one is not empty",
                    ));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(Self {
            root: root.to_owned(),
            last: PathBuf::new(),
        })
    }

    pub fn write(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        let below = path_of(key).map_err(|reason| Refused::Key(reason.to_owned()))?;
        let path = self.root.join(below);
        let made = self.make(below, &path, value);
        made.map_err(|error| match error.kind() {
            // Nothing was there when we began: another key is in the way.
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
                Refused::Key(
                    "another key is a file where this one needs a directory, or the \
                              other way round"
                        .to_owned(),
                )
            }
            ErrorKind::InvalidFilename => Refused::Key("too long for a file name".to_owned()),
            _ => Refused::Io(path, error),
        })
    }

    fn make(&mut self, below: &Path, path: &Path, value: &[u8]) -> io::Result<()> {
        if let Some(parent) = below.parent()
            && parent != self.last
        {
            DirBuilder::new()
                .recursive(true)
                .create(self.root.join(parent))?;
            self.last = parent.to_owned();
        }
        // Never an existing file, nor through a link.
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(value)
    }

    /// Makes all of it durable.
    pub fn sync(&self) -> io::Result<()> {
        let root = File::open(&self.root)?;
        // One call for the file system is far cheaper than one for each of thousands of files.
        Ok(rustix::fs::syncfs(root)?)
    }
}

/// The path below a directory that `key` spells.
fn path_of(key: &[u8]) -> Result<&Path, &'static str> {
    if key.is_empty() {
        return Err("an empty key is no file name");
    }
    if key.contains(&0) {
        return Err("a file name cannot hold a zero byte");
    }
    for component in key.split(|&byte| byte == b'/') {
        match component {
            b"" => return Err("a path begins or ends with `/` or has `//` in it"),
            b"." | b".." => return Err("`.` and `..` lead elsewhere"),
            _ => {}
        }
    }
    Ok(Path::new(OsStr::from_bytes(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_stay_below_are_paths() {
        for good in [&b"a"[..], b"a/b", b".a", b"..a/b..", b"a/...", b"\xff/\n"] {
            assert!(path_of(good).is_ok(), "{}", good.escape_ascii());
        }
        for bad in [
            &b""[..],
            b"/",
            b"/a",
            b"a/",
            b"a//b",
            b".",
            b"..",
            b"../a",
            b"a/../b",
            b"a/..",
            b"./a",
            b"a\0",
        ] {
            assert!(path_of(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
