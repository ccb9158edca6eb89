//! The names of a directory as a power cut sees them.
//!
//! Every change of names is pending until the directory it is in is synced. Each pending change survives or
//! not, whatever becomes of the others; a rename moves its file wholly or not at all. Changes of the
//! same name keep their order: a name never goes back behind a later change that survived.
//!
//! Invariants
//! - `durable` with all of `pending` applied, in order, gives `latest`.
//! - The first of `pending` is in doubt: what is certain and not behind a doubt went into `durable`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::storage::sim::journal::InodeId;

/// Which file has which name.
pub(super) type Names = BTreeMap<Arc<str>, InodeId>;

#[derive(Clone, Debug)]
enum Edit {
    Set(Arc<str>, InodeId),
    Remove(Arc<str>),
    Move(Arc<str>, Arc<str>, InodeId),
    /// A directory, by what its names begin with.
    MoveAll(Arc<str>, Arc<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Since the last sync of the directory.
    Dirty,
    /// Before a sync that failed: in doubt for good.
    Limbo,
    /// Synced, but behind a change in doubt, after which it must be applied.
    Certain,
}

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    durable: Names,
    latest: Names,
    pending: Vec<(Edit, Standing)>,
}

impl Directory {
    pub(super) fn new(durable: Names) -> Self {
        Self {
            latest: durable.clone(),
            durable,
            pending: Vec::new(),
        }
    }

    pub(super) fn create(&mut self, name: &Arc<str>, inode: InodeId) {
        self.change(Edit::Set(Arc::clone(name), inode));
    }

    pub(super) fn unlink(&mut self, name: &Arc<str>) {
        self.change(Edit::Remove(Arc::clone(name)));
    }

    pub(super) fn rename(&mut self, from: &Arc<str>, to: &Arc<str>) {
        if let Some(inode) = self.latest.get(from) {
            self.change(Edit::Move(Arc::clone(from), Arc::clone(to), *inode));
        }
    }

    pub(super) fn rename_dir(&mut self, from: &Arc<str>, to: &Arc<str>) {
        self.change(Edit::MoveAll(Arc::clone(from), Arc::clone(to)));
    }

    fn change(&mut self, edit: Edit) {
        edit.apply(&mut self.latest);
        self.pending.push((edit, Standing::Dirty));
    }

    /// Syncs the directory whose names begin with `prefix`.
    pub(super) fn sync(&mut self, prefix: &str, succeeded: bool) {
        let end = match succeeded {
            true => Standing::Certain,
            false => Standing::Limbo,
        };
        for (edit, standing) in &mut self.pending {
            if *standing == Standing::Dirty && edit.directory() == prefix {
                *standing = end;
            }
        }
        let doubt = |(_, standing): &(Edit, Standing)| *standing != Standing::Certain;
        let certain = self.pending.iter().position(doubt);
        let certain = certain.unwrap_or(self.pending.len());
        for (edit, _) in self.pending.drain(..certain) {
            edit.apply(&mut self.durable);
        }
    }

    /// How many changes are in doubt.
    pub(super) fn pending(&self) -> usize {
        let doubt = |(_, standing): &&(Edit, Standing)| *standing != Standing::Certain;
        self.pending.iter().filter(doubt).count()
    }

    /// The names if those changes in doubt survive, counted from the oldest, that `survives` names.
    pub(super) fn surviving(&self, mut survives: impl FnMut(usize) -> bool) -> Names {
        let mut names = self.durable.clone();
        let mut number = 0;
        for (edit, standing) in &self.pending {
            let applies = *standing == Standing::Certain || {
                number += 1;
                survives(number - 1)
            };
            if applies {
                edit.apply(&mut names);
            }
        }
        names
    }
}

impl Edit {
    /// What the names of the directory begin with that it changes.
    fn directory(&self) -> &str {
        match self {
            Self::Set(name, _) | Self::Remove(name) | Self::Move(name, _, _) => {
                &name[..name.rfind('/').map_or(0, |slash| slash + 1)]
            }
            Self::MoveAll(..) => "",
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Set(name, inode) => {
                names.insert(Arc::clone(name), *inode);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Move(from, to, inode) => {
                names.remove(from);
                names.insert(Arc::clone(to), *inode);
            }
            Self::MoveAll(from, to) => {
                let inside: Vec<_> = names
                    .iter()
                    .filter(|(name, _)| name.starts_with(&**from))
                    .map(|(name, inode)| (Arc::clone(name), *inode))
                    .collect();
                for (name, inode) in inside {
                    names.remove(&name);
                    names.insert(format!("{to}{}", &name[from.len()..]).into(), inode);
                }
            }
        }
    }
}
