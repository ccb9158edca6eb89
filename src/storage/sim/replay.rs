//! From the record of operations to the images a power cut may leave.
//!
//! A cut falls behind some operation of the record; then the dice of a [`Survive`] say what of the
//! pending state is there afterwards. [`Replay`] walks over the record once and makes images at every
//! stop, so that a workload of n operations costs n steps and not n².

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::storage::sim::image::{Content, Image};
use crate::storage::sim::journal::{Base, Change, InodeId, Op, Outcome};
use crate::storage::sim::names::{Directory, Names};
use crate::storage::sim::pages::Pages;
use crate::storage::sim::rng::Rng;

/// What of the pending state survives the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Survive {
    /// Nothing but what was synced.
    SyncedOnly,
    /// Everything: also what a killed process leaves.
    Everything,
    /// Each sector, each length and each change of names as the dice say.
    Mix {
        /// Decides the dice. The same seed gives the same image.
        seed: u64,
    },
    /// The changes of names that a mask tells.
    Names {
        /// Bit i: the i-th pending change survives, counted from the oldest; from the 65th change on
        /// the bits repeat.
        mask: u64,
        /// What becomes of the files' bytes.
        contents: Contents,
    },
}

/// What becomes of the bytes where only names are diced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contents {
    /// Only what was synced.
    Synced,
    /// Everything.
    Latest,
}

/// Where a cut fell and what survived it: how to make the image again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Crash {
    /// How many operations came before the cut.
    pub cut: usize,
    /// What survived.
    pub survive: Survive,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // To be pasted into a call of `SimFs::image`.
        write!(f, "image({}, ", self.cut)?;
        match self.survive {
            Survive::SyncedOnly => write!(f, "Survive::SyncedOnly)"),
            Survive::Everything => write!(f, "Survive::Everything)"),
            Survive::Mix { seed } => write!(f, "Survive::Mix {{ seed: {seed} }})"),
            Survive::Names { mask, contents } => write!(
                f,
                "Survive::Names {{ mask: {mask:#b}, contents: Contents::{contents:?} }})"
            ),
        }
    }
}

/// Up to this many pending changes of names, every subset of them is tried.
pub const NAMES_EXHAUSTIVE_MAX: usize = 6;

/// With more of them, this many subsets.
pub const NAME_SUBSETS: usize = 1 << NAMES_EXHAUSTIVE_MAX;

/// A cursor over the record: the state after some number of operations.
#[derive(Clone, Debug)]
pub struct Replay {
    ops: Arc<[Op]>,
    cut: usize,
    names: Directory,
    files: BTreeMap<InodeId, Pages>,
}

impl Replay {
    pub(super) fn new(base: &Base, ops: Arc<[Op]>) -> Self {
        let pages = |(inode, content): (&InodeId, &Content)| (*inode, Pages::new(content));
        Self {
            ops,
            cut: 0,
            names: Directory::new(base.names.clone()),
            files: base.files.iter().map(pages).collect(),
        }
    }

    /// How many operations the state includes.
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// How many operations were recorded.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Takes in the next operation; false if there is none.
    pub fn advance(&mut self) -> bool {
        let ops = Arc::clone(&self.ops);
        let Some(op) = ops.get(self.cut) else {
            return false;
        };
        self.cut += 1;
        self.apply(op);
        true
    }

    /// Takes in operations until `cut` of them are in.
    ///
    /// # Panics
    /// If more are in already, or fewer were recorded.
    #[track_caller]
    pub fn advance_to(&mut self, cut: usize) {
        assert!(
            (self.cut..=self.ops.len()).contains(&cut),
            "cut {cut}: the cursor is at {} of {}",
            self.cut,
            self.ops.len()
        );
        while self.cut < cut {
            self.advance();
        }
    }

    /// True if nothing is pending: every image is the same.
    pub fn is_settled(&self) -> bool {
        self.names.pending() == 0 && self.files.values().all(Pages::is_settled)
    }

    /// How many changes of names are pending.
    pub fn pending_names(&self) -> usize {
        self.names.pending()
    }

    /// Masks for [`Survive::Names`]: all subsets of up to [`NAMES_EXHAUSTIVE_MAX`] pending changes,
    /// of more of them [`NAME_SUBSETS`], the empty and the full one among them.
    pub fn name_masks(&self) -> Vec<u64> {
        let count = self.pending_names();
        if count <= NAMES_EXHAUSTIVE_MAX {
            return (0..1 << count).collect();
        }
        let mut masks = vec![0, u64::MAX];
        // All but one, each one alone: where a missing sync of the directory shows.
        for i in 0..count.min(NAME_SUBSETS / 4) {
            masks.extend([1 << i, !(1 << i)]);
        }
        let mut rng = Rng::new(self.cut as u64, count as u64);
        masks.resize_with(NAME_SUBSETS, || rng.next());
        masks
    }

    /// What is worth trying here: both extremes, all of [`Self::name_masks`] with both kinds of
    /// contents, and one mix per seed. A single one if nothing is pending.
    pub fn survivals(&self, seeds: Range<u64>) -> Vec<Survive> {
        let mut all = vec![Survive::SyncedOnly];
        if self.is_settled() {
            return all;
        }
        all.push(Survive::Everything);
        if self.pending_names() > 0 {
            for mask in self.name_masks() {
                for contents in [Contents::Synced, Contents::Latest] {
                    all.push(Survive::Names { mask, contents });
                }
            }
        }
        all.extend(seeds.map(|seed| Survive::Mix { seed }));
        all
    }

    /// What a cut here leaves.
    pub fn image(&mut self, survive: Survive) -> Image {
        match survive {
            Survive::SyncedOnly => {
                let names = self.names.surviving(|_| false);
                self.fill(names, |_, pages| pages.durable_image())
            }
            Survive::Everything => {
                let names = self.names.surviving(|_| true);
                self.fill(names, |_, pages| pages.latest_image())
            }
            Survive::Names { mask, contents } => {
                let names = self.names.surviving(|i| mask >> (i % 64) & 1 == 1);
                self.fill(names, |_, pages| match contents {
                    Contents::Synced => pages.durable_image(),
                    Contents::Latest => pages.latest_image(),
                })
            }
            Survive::Mix { seed } => {
                // Biased for the same reason as sectors are.
                let mut rng = Rng::new(seed, u64::MAX);
                let bias = [0, 1, 4, 4, 7, 8][rng.below(6) as usize];
                let names = self.names.surviving(|_| rng.chance(bias));
                self.fill(names, |inode, pages| {
                    pages.mixed_image(&mut Rng::new(seed, inode))
                })
            }
        }
    }

    fn fill(
        &mut self,
        names: Names,
        mut content: impl FnMut(InodeId, &mut Pages) -> Content,
    ) -> Image {
        let mut image = Image::new();
        for (name, inode) in names {
            if let Some(pages) = self.files.get_mut(&inode) {
                image.insert(name, content(inode, pages));
            }
        }
        image
    }

    fn apply(&mut self, op: &Op) {
        let succeeded = op.outcome == Outcome::Done;
        // A failed sync is the one failure that leaves something behind.
        match &op.change {
            Change::SyncData { inode } => {
                if let Some(pages) = self.files.get_mut(inode) {
                    pages.sync(succeeded);
                }
            }
            Change::SyncDir => self.names.sync("", succeeded),
            Change::SyncSubdir { prefix } => self.names.sync(prefix, succeeded),
            _ if op.outcome == Outcome::Failed => {}
            Change::Create { name, inode } => {
                self.names.create(name, *inode);
                let empty = Content::new(Vec::new());
                self.files.insert(*inode, Pages::new(&empty));
            }
            Change::Rename { from, to } => self.names.rename(from, to),
            Change::Link { inode, to } => self.names.create(to, *inode),
            Change::RenameDir { from, to } => self.names.rename_dir(from, to),
            Change::Unlink { name } => self.names.unlink(name),
            Change::Write {
                inode,
                offset,
                bytes,
            } => self.with_file(*inode, |pages| pages.write(*offset, bytes)),
            Change::Allocate { inode, len } => self.with_file(*inode, |pages| pages.allocate(*len)),
            Change::SetLen { inode, len } => self.with_file(*inode, |pages| pages.set_len(*len)),
            Change::Truncate { inode } => self.with_file(*inode, |pages| pages.set_len(0)),
        }
    }

    /// Files without a name when the record began are unknown; no cut can bring them back.
    fn with_file(&mut self, inode: InodeId, change: impl FnOnce(&mut Pages)) {
        if let Some(pages) = self.files.get_mut(&inode) {
            change(pages);
        }
    }
}
