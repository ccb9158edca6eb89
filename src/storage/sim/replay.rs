//! From the record of operations to the images a power cut may leave.
//!
//! A cut falls behind some operation of the record; then the dice of a [`Survive`] say what of the
//! pending state is there afterwards. [`Replay`] walks over the record once and makes images at every
//! stop, so that a workload of n operations costs n steps and not n².

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use crate::storage::sim::grain::{Grain, Lost};
use crate::storage::sim::image::{Content, Image};
use crate::storage::sim::journal::{Base, Change, InodeId, Op, Outcome};
use crate::storage::sim::names::{Directory, Names};
use crate::storage::sim::pages::{Pages, Survival};
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
    /// As a mix, in other units, and with other things in the place of what did not survive.
    Harsh {
        /// Decides the dice.
        seed: u64,
        /// What survives as a whole.
        grain: Grain,
        /// What stands where it did not.
        lost: Lost,
    },
    /// One of all that a cut may leave in whole sectors: see [`Replay::choices`].
    Choice {
        /// Its number.
        number: u64,
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

/// What a [`Survive`] is called in a [`Crash`] that is written down, and how to read it.
impl fmt::Display for Survive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SyncedOnly => write!(f, "synced"),
            Self::Everything => write!(f, "everything"),
            Self::Mix { seed } => write!(f, "mix:{seed}"),
            Self::Harsh { seed, grain, lost } => write!(f, "{grain}:{lost}:{seed}"),
            Self::Choice { number } => write!(f, "choice:{number}"),
            Self::Names { mask, contents } => {
                let contents = match contents {
                    Contents::Synced => "synced",
                    Contents::Latest => "latest",
                };
                write!(f, "names:{contents}:{mask:#x}")
            }
        }
    }
}

impl FromStr for Survive {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is nothing that survives");
        let number = |digits: &str| match digits.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).map_err(|_| wrong()),
            None => digits.parse().map_err(|_| wrong()),
        };
        let words: Vec<&str> = text.split(':').collect();
        Ok(match words[..] {
            ["synced"] => Self::SyncedOnly,
            ["everything"] => Self::Everything,
            ["mix", seed] => Self::Mix {
                seed: number(seed)?,
            },
            ["choice", n] => Self::Choice { number: number(n)? },
            ["names", contents, mask] => Self::Names {
                mask: number(mask)?,
                contents: match contents {
                    "synced" => Contents::Synced,
                    "latest" => Contents::Latest,
                    _ => return Err(wrong()),
                },
            },
            [grain, lost, seed] => Self::Harsh {
                seed: number(seed)?,
                grain: grain.parse()?,
                lost: lost.parse()?,
            },
            _ => return Err(wrong()),
        })
    }
}

/// As `12/mix:3`: behind twelve operations; to be read by [`str::parse`].
impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cut, self.survive)
    }
}

impl FromStr for Crash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (cut, survive) = text
            .split_once('/')
            .ok_or_else(|| format!("{text:?} is no cut: it has no slash"))?;
        Ok(Self {
            cut: cut
                .parse()
                .map_err(|_| format!("{cut:?} is no number of operations"))?,
            survive: survive.parse()?,
        })
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
    /// What was on the disk before.
    older: Arc<[Content]>,
}

impl Replay {
    pub(super) fn new(base: &Base, ops: Arc<[Op]>) -> Self {
        let pages = |(inode, content): (&InodeId, &Content)| (*inode, Pages::new(content));
        Self {
            ops,
            cut: 0,
            names: Directory::new(base.names.clone()),
            files: base.files.iter().map(pages).collect(),
            older: Arc::clone(&base.older),
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

    /// One image per seed from harsher disks: all grains with all that may stand where something was
    /// lost, in turn. None if nothing is pending.
    pub fn harsh_survivals(&self, seeds: Range<u64>) -> Vec<Survive> {
        if self.is_settled() {
            return Vec::new();
        }
        let harsh = |seed: u64| Survive::Harsh {
            seed,
            grain: Grain::ALL[(seed % 3) as usize],
            lost: Lost::ALL[(seed / 3 % 3) as usize],
        };
        seeds.map(harsh).collect()
    }

    /// How many images a cut here may leave that differ in names, in whole sectors or in lengths that
    /// a file had: the numbers of [`Survive::Choice`] go up to it. `None` if there are more than `most`.
    pub fn choices(&self, most: u64) -> Option<u64> {
        let enough = most.saturating_add(1);
        let names = match self.pending_names() {
            count @ 0..64 => 1u64 << count,
            _ => enough,
        };
        let files = self.files.values().map(|pages| pages.choices(enough));
        let all = files.fold(names, |product, n| product.saturating_mul(n).min(enough));
        (all <= most).then_some(all)
    }

    /// Everything that was ever in a file until here, as readers saw it last: what a life that
    /// begins after a cut may meet again ([`SimFs::set_older`](super::SimFs::set_older)).
    pub fn contents(&mut self) -> Vec<Content> {
        let mut all: Vec<Content> = self.files.values_mut().map(Pages::latest_image).collect();
        all.retain(|content| !content.bytes().is_empty());
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
            Survive::Mix { seed } => self.mixed(seed, Grain::Sector, Lost::Old),
            Survive::Harsh { seed, grain, lost } => self.mixed(seed, grain, lost),
            Survive::Choice { number } => {
                let count = self.pending_names();
                let names = self.names.surviving(|i| number >> (i % 64) & 1 == 1);
                let mut rest = number.checked_shr(count as u32).unwrap_or(0);
                // All of them have their digits, whether they have a name or not.
                let contents: BTreeMap<InodeId, Content> = self
                    .files
                    .iter_mut()
                    .map(|(inode, pages)| (*inode, pages.chosen_image(&mut rest)))
                    .collect();
                self.fill(names, |inode, _| contents[&inode].clone())
            }
        }
    }

    fn mixed(&mut self, seed: u64, grain: Grain, lost: Lost) -> Image {
        // Biased for the same reason as sectors are.
        let mut rng = Rng::new(seed, u64::MAX);
        let bias = [0, 1, 4, 4, 7, 8][rng.below(6) as usize];
        let names = self.names.surviving(|_| rng.chance(bias));
        let mut everything = Vec::new();
        if lost == Lost::Stale {
            let files = self.files.iter_mut();
            everything.extend(files.map(|(inode, pages)| (*inode, pages.latest_image())));
        }
        let older = Arc::clone(&self.older);
        self.fill(names, |inode, pages| {
            let others = everything.iter().filter(|(other, _)| *other != inode);
            let others: Vec<Content> = match lost {
                Lost::Stale => others
                    .map(|(_, content)| content.clone())
                    .chain(older.iter().cloned())
                    .collect(),
                _ => Vec::new(),
            };
            let how = Survival {
                grain,
                lost,
                others: &others,
            };
            pages.mixed_image(Rng::new(seed, inode), how)
        })
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
