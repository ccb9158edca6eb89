//! What was done to the files, in order: enough to say later what a cut at any point would leave.
//!
//! Only calls that change something, or make it durable, are recorded; those that failed because a
//! test wanted it are recorded with what they did nevertheless.
//!
//! Elsewhere: what the operations leave behind after a cut (`replay`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::storage::sim::image::{Content, Image};

/// Number of a file: stays with it through renames, never used twice in one `SimFs`.
pub type InodeId = u64;

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new, empty file under a new name.
    Create {
        /// Name.
        name: Arc<str>,
        /// File.
        inode: InodeId,
    },
    /// Bytes stored, by `write_at` or by `store`: one call, one operation.
    Write {
        /// File.
        inode: InodeId,
        /// Where.
        offset: u64,
        /// What was applied: of a failed call, maybe less than was asked.
        bytes: Arc<[u8]>,
    },
    /// The file made at least `len` long.
    Allocate {
        /// File.
        inode: InodeId,
        /// Length.
        len: u64,
    },
    /// The file made exactly `len` long.
    SetLen {
        /// File.
        inode: InodeId,
        /// Length.
        len: u64,
    },
    /// An existing file emptied by `create_or_truncate`.
    Truncate {
        /// File.
        inode: InodeId,
    },
    /// A file given another name, which loses the file it had.
    Rename {
        /// Old name.
        from: Arc<str>,
        /// New name.
        to: Arc<str>,
    },
    /// A file given a second name, in another directory.
    Link {
        /// File.
        inode: InodeId,
        /// New name.
        to: Arc<str>,
    },
    /// A directory given another name, with all that is in it.
    RenameDir {
        /// What names in it began with.
        from: Arc<str>,
        /// What they begin with now.
        to: Arc<str>,
    },
    /// A name removed.
    Unlink {
        /// Name.
        name: Arc<str>,
    },
    /// Bytes and length of a file made durable.
    SyncData {
        /// File.
        inode: InodeId,
    },
    /// All names made durable.
    SyncDir,
    /// All names made durable that are in a directory beside the store's.
    SyncSubdir {
        /// What they begin with.
        prefix: Arc<str>,
    },
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Done,
    /// It failed and did nothing. A failed sync leaves what it should have made durable in doubt
    /// for good.
    Failed,
    /// It did what [`Op::change`] says and failed nevertheless.
    FailedApplied,
}

/// One recorded operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What.
    pub change: Change,
    /// With what outcome.
    pub outcome: Outcome,
}

/// The state the record starts from; all of it durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Base {
    pub(super) names: BTreeMap<Arc<str>, InodeId>,
    pub(super) files: BTreeMap<InodeId, Content>,
    /// What was on the disk before.
    pub(super) older: Arc<[Content]>,
}

impl Base {
    /// The files of `image`, numbered from 0 in the order of their names.
    pub(super) fn of(image: &Image) -> Self {
        let mut base = Self::default();
        for (id, (name, content)) in (0..).zip(image.entries()) {
            base.names.insert(Arc::clone(name), id);
            base.files.insert(id, content.clone());
        }
        base
    }
}

/// The record.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) base: Base,
    pub(super) ops: Vec<Op>,
    pub(super) on: bool,
}

impl Journal {
    pub(super) fn new(base: Base) -> Self {
        Self {
            base,
            ops: Vec::new(),
            on: true,
        }
    }

    pub(super) fn push(&mut self, change: Change, outcome: Outcome) {
        if self.on {
            self.ops.push(Op { change, outcome });
        }
    }

    /// One line per operation: number, what, on which file, where.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut names: BTreeMap<InodeId, Arc<str>> = BTreeMap::new();
        for (name, inode) in &self.base.names {
            names.insert(*inode, Arc::clone(name));
        }
        let mut lines = Vec::with_capacity(self.ops.len());
        for (number, op) in self.ops.iter().enumerate() {
            let takes_effect = op.outcome != Outcome::Failed;
            match &op.change {
                Change::Create { name, inode } if takes_effect => {
                    names.insert(*inode, Arc::clone(name));
                }
                Change::Rename { from, to } if takes_effect => {
                    for name in names.values_mut().filter(|name| *name == from) {
                        *name = Arc::clone(to);
                    }
                }
                _ => {}
            }
            let line = Line {
                number,
                op,
                names: &names,
            };
            lines.push(line.to_string());
        }
        lines
    }
}

struct Line<'a> {
    number: usize,
    op: &'a Op,
    names: &'a BTreeMap<InodeId, Arc<str>>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = |inode: &InodeId| match self.names.get(inode) {
            Some(name) => format!("{name} #{inode}"),
            None => format!("#{inode}"),
        };
        write!(f, "{:>4} ", self.number)?;
        match &self.op.change {
            Change::Create { name, inode } => write!(f, "create {name} #{inode}"),
            Change::Write {
                inode,
                offset,
                bytes,
            } => write!(f, "write {} {offset}+{}", file(inode), bytes.len()),
            Change::Allocate { inode, len } => write!(f, "allocate {} {len}", file(inode)),
            Change::SetLen { inode, len } => write!(f, "set_len {} {len}", file(inode)),
            Change::Truncate { inode } => write!(f, "truncate {}", file(inode)),
            Change::Rename { from, to } => write!(f, "rename {from} -> {to}"),
            Change::Link { inode, to } => write!(f, "link {} -> {to}", file(inode)),
            Change::RenameDir { from, to } => write!(f, "rename {from} -> {to}"),
            Change::Unlink { name } => write!(f, "unlink {name}"),
            Change::SyncData { inode } => write!(f, "sync_data {}", file(inode)),
            Change::SyncDir => write!(f, "sync_dir"),
            Change::SyncSubdir { prefix } => write!(f, "sync_dir {prefix}"),
        }?;
        match self.op.outcome {
            Outcome::Done => Ok(()),
            Outcome::Failed => write!(f, " FAILED"),
            Outcome::FailedApplied => write!(f, " FAILED, but applied"),
        }
    }
}
