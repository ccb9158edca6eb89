//! The seam's calls, served from memory: each is counted, may fail, takes effect, is recorded.
//!
//! All of that happens under one lock, so the record has the order in which things happened.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::storage::fs::{Access, Fs, FsFile};
use crate::storage::raw::mmap::{Map, MapWriter};
use crate::storage::sim::SimFs;
use crate::storage::sim::disk::{Disk, Inode};
use crate::storage::sim::fault::{Call, Effect, Fault};
use crate::storage::sim::image::{Content, PAGE};
use crate::storage::sim::journal::{Change, Outcome};

/// An open file of a [`SimFs`].
#[derive(Clone, Debug)]
pub struct SimFile {
    fs: SimFs,
    inode: Arc<Inode>,
    access: Access,
}

impl Disk {
    /// Applies and records `change`, or does what `fault` says instead.
    fn change<T>(
        &mut self,
        fault: Option<Fault>,
        change: Change,
        apply: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(fault) = fault else {
            let done = apply(self)?;
            self.journal.push(change, Outcome::Done);
            return Ok(done);
        };
        if fault.effect == Effect::Whole {
            apply(self)?;
            self.journal.push(change, Outcome::FailedApplied);
        } else {
            self.journal.push(change, Outcome::Failed);
        }
        Err(fault.error())
    }

    /// Writes with `apply` as much of `bytes` as `fault` leaves, and records it.
    fn write(
        &mut self,
        fault: Option<Fault>,
        inode: &Inode,
        offset: u64,
        bytes: &[u8],
        apply: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let applied = match fault.map(|fault| fault.effect) {
            None | Some(Effect::Whole) => bytes,
            Some(Effect::Half) => &bytes[..bytes.len() / 2],
            Some(Effect::None) => &[],
        };
        if !applied.is_empty() {
            apply(applied)?;
        }
        let change = Change::Write {
            inode: inode.id,
            offset,
            bytes: applied.into(),
        };
        let Some(fault) = fault else {
            self.journal.push(change, Outcome::Done);
            return Ok(());
        };
        let outcome = match applied.is_empty() {
            true => Outcome::Failed,
            false => Outcome::FailedApplied,
        };
        self.journal.push(change, outcome);
        Err(fault.error())
    }

    fn sync(&mut self, fault: Option<Fault>, change: Change) -> io::Result<()> {
        let outcome = match fault {
            None => Outcome::Done,
            Some(_) => Outcome::Failed,
        };
        self.journal.push(change, outcome);
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn create(&mut self, fault: Option<Fault>, name: &str) -> io::Result<Arc<Inode>> {
        let inode = self.new_inode(&Content::new(Vec::new()))?;
        let name: Arc<str> = name.into();
        let change = Change::Create {
            name: Arc::clone(&name),
            inode: inode.id,
        };
        self.change(fault, change, |disk| {
            disk.names.insert(name, Arc::clone(&inode));
            Ok(inode)
        })
    }
}

/// Fails where a fault says so; for calls that change nothing.
fn check(fault: Option<Fault>) -> io::Result<()> {
    fault.map_or(Ok(()), |fault| Err(fault.error()))
}

impl SimFs {
    fn handle(&self, inode: Arc<Inode>, access: Access) -> SimFile {
        SimFile {
            fs: self.clone(),
            inode,
            access,
        }
    }
}

impl Fs for SimFs {
    type File = SimFile;

    fn path(&self) -> &Path {
        &self.1.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        check(disk.faults.next(Call::List)?)?;
        let here = |path: &Arc<str>| {
            let name = path.strip_prefix(&*self.1.prefix)?;
            (!name.contains('/')).then(|| name.to_owned())
        };
        Ok(disk.names.keys().filter_map(here).collect())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let name = self.full(name);
        let mut disk = self.disk();
        let fault = disk.faults.next(Call::Create)?;
        if disk.names.contains_key(&name) {
            return Err(Errno::EXIST.into());
        }
        let inode = disk.create(fault, &name)?;
        Ok(self.handle(inode, Access::ReadWrite))
    }

    fn create_or_truncate(&self, name: &str) -> io::Result<SimFile> {
        let name = self.full(name);
        let mut disk = self.disk();
        let fault = disk.faults.next(Call::CreateOrTruncate)?;
        let Some(inode) = disk.names.get(&name).map(Arc::clone) else {
            let inode = disk.create(fault, &name)?;
            return Ok(self.handle(inode, Access::ReadWrite));
        };
        let change = Change::Truncate { inode: inode.id };
        disk.change(fault, change, |_| inode.file.set_len(0))?;
        Ok(self.handle(inode, Access::ReadWrite))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<SimFile> {
        let name = self.full(name);
        let mut disk = self.disk();
        check(disk.faults.next(Call::Open)?)?;
        let inode = Arc::clone(disk.find(&name)?);
        Ok(self.handle(inode, access))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.full(from), self.full(to));
        let mut disk = self.disk();
        let fault = disk.faults.next(Call::Rename)?;
        disk.find(&from)?;
        let change = Change::Rename {
            from: Arc::clone(&from),
            to: Arc::clone(&to),
        };
        disk.change(fault, change, |disk| {
            if let Some(inode) = disk.names.remove(&from) {
                disk.names.insert(to, inode);
            }
            Ok(())
        })
    }

    /// # Panics
    /// If `to` is on another disk.
    fn link(&self, name: &str, to: &Self) -> io::Result<()> {
        assert!(Arc::ptr_eq(&self.0, &to.0), "one disk");
        let (from, to) = (self.full(name), to.full(name));
        let mut disk = self.disk();
        let fault = disk.faults.next(Call::Link)?;
        let inode = Arc::clone(disk.find(&from)?);
        if disk.names.contains_key(&to) {
            return Err(Errno::EXIST.into());
        }
        let change = Change::Link {
            inode: inode.id,
            to: Arc::clone(&to),
        };
        disk.change(fault, change, |disk| {
            disk.names.insert(to, inode);
            Ok(())
        })
    }

    /// # Panics
    /// If this is not a subdirectory.
    fn publish(&self, to: &Path) -> io::Result<()> {
        let from: Arc<str> = self.1.prefix.as_str().into();
        assert!(!from.is_empty(), "the disk itself has no other name");
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let to: Arc<str> = format!("{name}/").into();
        let mut disk = self.disk();
        let fault = disk.faults.next(Call::Publish)?;
        if disk.names.keys().any(|name| name.starts_with(&*to)) {
            return Err(Errno::NOTEMPTY.into());
        }
        let change = Change::RenameDir {
            from: Arc::clone(&from),
            to: Arc::clone(&to),
        };
        disk.change(fault, change, |disk| {
            for (name, inode) in std::mem::take(&mut disk.names) {
                let name = match name.strip_prefix(&*from) {
                    Some(inside) => format!("{to}{inside}").into(),
                    None => name,
                };
                disk.names.insert(name, inode);
            }
            Ok(())
        })?;
        let fault = disk.faults.next(Call::SyncDir)?;
        disk.sync(fault, Change::SyncDir)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let name = self.full(name);
        let mut disk = self.disk();
        let fault = disk.faults.next(Call::Unlink)?;
        disk.find(&name)?;
        let change = Change::Unlink {
            name: Arc::clone(&name),
        };
        disk.change(fault, change, |disk| {
            disk.names.remove(&name);
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        let change = match self.1.prefix.as_str() {
            "" => Change::SyncDir,
            prefix => Change::SyncSubdir {
                prefix: prefix.into(),
            },
        };
        let mut disk = self.disk();
        let fault = disk.faults.next(Call::SyncDir)?;
        disk.sync(fault, change)
    }
}

impl SimFile {
    /// The memory file, for a test that must not make a call.
    #[cfg(test)]
    pub(super) fn memory(&self) -> &std::fs::File {
        &self.inode.file
    }

    fn writable(&self) -> io::Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::Read => Err(Errno::BADF.into()),
        }
    }
}

impl FsFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        check(self.fs.disk().faults.next(Call::Len)?)?;
        self.inode.len()
    }

    /// Whole pages up to its length: a simulated file counts as having no holes.
    fn allocated(&self) -> io::Result<u64> {
        check(self.fs.disk().faults.next(Call::Allocated)?)?;
        Ok(self.inode.len()?.next_multiple_of(PAGE as u64))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut disk = self.fs.disk();
        let fault = disk.faults.next(Call::Allocate)?;
        self.writable()?;
        let inode = self.inode.id;
        disk.change(fault, Change::Allocate { inode, len }, |_| {
            // A hole reads and maps like allocated zeros, and costs nothing.
            match len > self.inode.len()? {
                true => self.inode.file.set_len(len),
                false => Ok(()),
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.fs.disk();
        let fault = disk.faults.next(Call::SetLen)?;
        self.writable()?;
        let inode = self.inode.id;
        disk.change(fault, Change::SetLen { inode, len }, |_| {
            self.inode.file.set_len(len)
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        check(self.fs.disk().faults.next(Call::ReadAt)?)?;
        self.inode.file.read_at(buf, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.fs.disk();
        let fault = disk.faults.next(Call::WriteAt)?;
        self.writable()?;
        disk.write(fault, &self.inode, offset, bytes, |bytes| {
            self.inode.file.write_all_at(bytes, offset)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let before = self.fs.disk().before.take();
        if let Some(act) = before {
            act();
        }
        let mut disk = self.fs.disk();
        let fault = disk.faults.next(Call::SyncData)?;
        let inode = self.inode.id;
        let synced = disk.sync(fault, Change::SyncData { inode });
        let during = disk.during.take();
        drop(disk);
        if let Some(act) = during {
            act();
        }
        synced
    }

    fn map(&self, len: u64, access: Access) -> io::Result<(Arc<Map>, MapWriter)> {
        check(self.fs.disk().faults.next(Call::Map)?)?;
        if access == Access::ReadWrite && self.access == Access::Read {
            return Err(Errno::ACCESS.into());
        }
        Map::new(&self.inode.file, len, access)
    }

    /// # Panics
    /// If the record ends behind the end of the file: on a real file system the kernel would kill
    /// the process there.
    fn store(&self, map: &mut MapWriter, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut disk = self.fs.disk();
        let fault = disk.faults.next(Call::Store)?;
        let record = parts.concat();
        let (end, len) = (offset + record.len() as u64, self.inode.len()?);
        assert!(
            end <= len,
            "store at {offset}..{end} of a file {len} bytes long"
        );
        disk.write(fault, &self.inode, offset, &record, |bytes| {
            map.store(offset, &[bytes]);
            Ok(())
        })
    }
}
