//! A file to write: it takes the place of what stands there only when it is whole and on disk.
//!
//! Until then the old one stays as it is: a backup that fails today leaves yesterday's. What is not
//! whole takes a free name, or stands beside the old file with `.partial` behind its name. Pipes and
//! devices are written directly.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A file that is being written.
pub struct Target {
    file: File,
    /// `None` for a pipe or a device.
    fresh: Option<Fresh>,
}

struct Fresh {
    temporary: PathBuf,
    path: PathBuf,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // Gone already if it has got its name.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The file that `path` names, through links; `path` itself if there is none.
pub fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn beside(path: &Path, prefix: &str, suffix: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(prefix);
    name.push(path.file_name().unwrap_or_default());
    name.push(suffix);
    path.with_file_name(name)
}

impl Target {
    pub fn create(path: &Path) -> io::Result<Self> {
        let path = resolved(path);
        let old = match fs::metadata(&path) {
            Ok(old) if !old.is_file() => {
                let file = OpenOptions::new().write(true).open(&path)?;
                return Ok(Self { file, fresh: None });
            }
            Ok(old) => {
                // Who may not write the old one may not replace it.
                OpenOptions::new().write(true).open(&path)?;
                Some(old)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let temporary = beside(&path, ".", &format!(".{}.tmp", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)?;
        let fresh = Fresh { temporary, path };
        if let Some(old) = old {
            file.set_permissions(old.permissions())?;
        }
        Ok(Self {
            file,
            fresh: Some(fresh),
        })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Makes the bytes durable, then gives them their name, durably; not the old file's if they are
    /// not `complete`.
    pub fn finish(self, complete: bool) -> io::Result<()> {
        let Some(fresh) = &self.fresh else {
            return Ok(());
        };
        self.file.sync_all()?;
        let name = match complete || !fresh.path.exists() {
            true => fresh.path.clone(),
            false => beside(&fresh.path, "", ".partial"),
        };
        fs::rename(&fresh.temporary, &name)?;
        let parent = match name.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent)?.sync_all()
    }
}
