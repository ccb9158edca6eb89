//! The live view: names and the anonymous memory files behind them.
//!
//! Real memory files, so that a map of one, a read and a write of it see the same bytes, as on the
//! real file system, and no `unsafe` is needed here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SeekFrom};

use crate::storage::sim::fault::Faults;
use crate::storage::sim::image::{Content, Image, PAGE, all_zero};
use crate::storage::sim::journal::{Base, InodeId, Journal};
use crate::storage::sim::meanwhile::Meanwhile;

/// One file; lives as long as a name or a handle does.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) id: InodeId,
    pub(super) file: File,
}

impl Inode {
    pub(super) fn new(id: InodeId, content: &Content) -> io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("sim", MemfdFlags::CLOEXEC)?);
        file.set_len(content.len())?;
        let inode = Self { id, file };
        inode.write_changed(&[], content.bytes())?;
        Ok(inode)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// All its bytes; holes are not looked at.
    pub(super) fn content(&self) -> io::Result<Content> {
        let len = self.len()?;
        let mut bytes = Vec::new();
        let mut at = 0;
        while at < len {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                // Nothing but a hole from here on.
                Err(rustix::io::Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            at = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?;
            bytes.resize(at as usize, 0);
            self.file
                .read_exact_at(&mut bytes[start as usize..], start)?;
        }
        Ok(Content::with_len(bytes, len))
    }

    /// Makes the file hold `new`, in place: maps of it see the change. Pages that are equal in `old`,
    /// which is what it holds, are left alone.
    pub(super) fn replace(&self, old: &[u8], new: &[u8]) -> io::Result<()> {
        if old.len() != new.len() {
            self.file.set_len(new.len() as u64)?;
        }
        self.write_changed(&old[..old.len().min(new.len())], new)
    }

    /// `old` continues with zeros.
    fn write_changed(&self, old: &[u8], new: &[u8]) -> io::Result<()> {
        for (number, page) in new.chunks(PAGE).enumerate() {
            let start = number * PAGE;
            let rest = old.get(start..).unwrap_or_default();
            let (before, beyond) = page.split_at(rest.len().min(page.len()));
            if *before != rest[..before.len()] || !all_zero(beyond) {
                self.file.write_all_at(page, start as u64)?;
            }
        }
        Ok(())
    }
}

/// Everything that one `SimFs` is, behind its lock.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) names: BTreeMap<Arc<str>, Arc<Inode>>,
    pub(super) next_inode: InodeId,
    pub(super) faults: Faults,
    pub(super) journal: Journal,
    /// What is to be done before and during a sync.
    pub(super) before: Meanwhile,
    pub(super) during: Meanwhile,
}

impl Disk {
    pub(super) fn new(image: &Image) -> io::Result<Self> {
        let base = Base::of(image);
        let mut names = BTreeMap::new();
        for (name, id) in &base.names {
            let inode = Inode::new(*id, &base.files[id])?;
            names.insert(Arc::clone(name), Arc::new(inode));
        }
        Ok(Self {
            names,
            next_inode: base.files.len() as InodeId,
            faults: Faults::default(),
            journal: Journal::new(base),
            before: Meanwhile::default(),
            during: Meanwhile::default(),
        })
    }

    /// The file called `name`.
    pub(super) fn find(&self, name: &str) -> io::Result<&Arc<Inode>> {
        let found = self.names.get(name);
        found.ok_or_else(|| rustix::io::Errno::NOENT.into())
    }

    /// A new number and the file of it.
    pub(super) fn new_inode(&mut self, content: &Content) -> io::Result<Arc<Inode>> {
        let inode = Arc::new(Inode::new(self.next_inode, content)?);
        self.next_inode += 1;
        Ok(inode)
    }

    /// What a reader sees.
    pub(super) fn snapshot(&self) -> io::Result<Image> {
        let mut image = Image::new();
        for (name, inode) in &self.names {
            image.insert(Arc::clone(name), inode.content()?);
        }
        Ok(image)
    }

    /// Starts the record anew: what a reader sees is durable from now on.
    pub(super) fn rebase(&mut self) -> io::Result<()> {
        let mut base = Base {
            older: Arc::clone(&self.journal.base.older),
            ..Base::default()
        };
        for (name, inode) in &self.names {
            base.names.insert(Arc::clone(name), inode.id);
            base.files.insert(inode.id, inode.content()?);
        }
        self.journal.base = base;
        self.journal.ops.clear();
        Ok(())
    }
}
