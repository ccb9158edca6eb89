//! A simulated file system: it fails on demand and knows what a power cut may leave behind.
//!
//! [`SimFs`] behaves like a directory of the real one and records every change. Afterwards it tells,
//! for a cut behind any of the recorded operations, what the directory may hold when power is back:
//! an [`Image`], from which the next `SimFs` starts. So a test can cut a workload everywhere, open the
//! store on each image, and cut that recovery again.
//!
//! # What may survive a power cut
//! - A *sector* of 512 bytes survives as a whole, in any version written since the last successful
//!   sync of its file or in the one synced then, whatever becomes of its neighbours: the kernel writes
//!   back when and in what order it likes. Stores through a map and writes are the same in this.
//! - The *length* of a file may be any it had since, or between those. Bytes inside it that did not
//!   survive read as zero. A file made shorter may have its old length and its old bytes back.
//! - A *sync* of a file that succeeds makes durable what was written before it, and the length needed
//!   to read it, whichever handle wrote it; never the name.
//! - *Names* become durable when the directory is synced. Until then each creation, rename and
//!   unlinking survives or not, regardless of the others, of the files' bytes and of their syncs; only
//!   changes of the same name keep their order. So a synced file may have no name, an unlinked one may
//!   be back, and a rename may be there before the bytes of its file.
//! - A *directory* on the same disk ([`SimFs::subdirectory`]) has syncs of its own. Renaming it moves
//!   all names in it or none, and is a change of the directory it stands in.
//! - Harsher disks ([`Survive::Harsh`]) let single bytes survive instead of sectors, or only whole pages;
//!   show old bytes of other files where nothing was ever synced; or leave anything at all in bytes that
//!   were being changed ([`Grain`], [`Lost`]).
//! - A *failed sync* leaves what it covered in doubt for good: readers go on seeing it, a later sync
//!   succeeds and does not change that. Only what is written again, and then synced, is durable.
//!
//! A killed process loses nothing: drop the store, [`SimFs::clear_faults`], and open the same `SimFs`
//! again; what was pending still is. ([`SimFs::snapshot`] has the same bytes, but all durable.)
//!
//! Not simulated: sectors that cannot be read, media faults.
//! Damage can be done by hand ([`SimFs::edit`]). There is no lock: two stores on one `SimFs` are the
//! test's own fault.
//!
//! # Method
//! ```no_run
//! # use kvs::testing::sim::{Crash, SimFs};
//! # fn workload(_: SimFs) {}
//! # fn check(_: SimFs, _: Crash) {}
//! let fs = SimFs::new();
//! workload(fs.clone());
//! let mut replay = fs.replay();
//! loop {
//!     for survive in replay.survivals(0..8) {
//!         let crash = Crash { cut: replay.cut(), survive };
//!         check(SimFs::from_image(&replay.image(survive)), crash);
//!     }
//!     if !replay.advance() {
//!         break;
//!     }
//! }
//! ```
//!
//! Invariants
//! - What a replay calls latest is what readers of the live files see.
//! - An image depends on the record, the cut and the [`Survive`] alone, never on the way there.

mod calls;
mod disk;
mod fault;
mod grain;
mod image;
mod journal;
mod meanwhile;
mod names;
mod pages;
mod replay;
pub(in crate::storage) mod rng;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::storage::sim::disk::Disk;
use crate::storage::sim::fault::{Plan, Trouble};
use crate::storage::sim::meanwhile::Meanwhile;

pub use calls::SimFile;
pub use fault::{Call, Effect, Errno, Fault, Mode};
pub use grain::{Grain, Lost};
pub use image::{Content, Image, SECTOR_BYTES};
pub use journal::{Change, InodeId, Op, Outcome};
pub use replay::{Contents, Crash, NAME_SUBSETS, NAMES_EXHAUSTIVE_MAX, Replay, Survive};

/// One simulated directory. Clones are the same directory.
#[derive(Clone, Debug)]
pub struct SimFs(Arc<Mutex<Disk>>, Arc<Place>);

/// Which directory of the disk.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// What its names begin with: nothing, or a name and a slash.
    prefix: String,
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

/// What failed here is the test machine, not the simulation.
const MEMORY: &str = "anonymous memory files can be made, read and written";

impl SimFs {
    /// An empty directory; records.
    pub fn new() -> Self {
        Self::from_image(&Image::new())
    }

    /// A directory that holds `image`, all of it durable; records.
    ///
    /// # Panics
    /// Like everything here that cannot fail by plan, if the machine has no memory or no file
    /// descriptors left.
    pub fn from_image(image: &Image) -> Self {
        let root = Place {
            path: PathBuf::from("/sim"),
            prefix: String::new(),
        };
        let disk = Disk::new(image).expect(MEMORY);
        Self(Arc::new(Mutex::new(disk)), Arc::new(root))
    }

    /// The directory called `name` on the same disk, beside the files of this one. There is one as
    /// soon as it holds a file; in images its files are called `name/file`.
    #[must_use]
    pub fn subdirectory(&self, name: &str) -> Self {
        let place = Place {
            path: self.1.path.join(name),
            prefix: format!("{name}/"),
        };
        Self(Arc::clone(&self.0), Arc::new(place))
    }

    fn full(&self, name: &str) -> Arc<str> {
        format!("{}{name}", self.1.prefix).into()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock()
    }

    /// Fails the `k`-th call from now, `k` = 0 being the next one. Replaces an earlier plan.
    pub fn fail_at(&self, k: u64, fault: Fault) {
        self.plan(k, None, Trouble::Fault(fault));
    }

    /// Fails the `k`-th call of one kind from now, `k` = 0 being the next one. With
    /// [`Mode::Forever`] later calls of this kind fail too, others never.
    pub fn fail_call(&self, call: Call, k: u64, fault: Fault) {
        self.plan(k, Some(call), Trouble::Fault(fault));
    }

    /// Switches the machine off at the `k`-th call from now: it and all later ones fail with `EIO`,
    /// do nothing and are not recorded.
    pub fn crash_at(&self, k: u64) {
        self.plan(k, None, Trouble::Crash);
    }

    /// Has `act` done while a sync of a file is under way, the `k`-th from now, `k` = 0 being the next
    /// one: what it writes is not covered by that sync. Replaces what was asked for earlier.
    pub fn during_sync(&self, k: u64, act: impl FnOnce() + Send + 'static) {
        self.disk().during = Meanwhile::new(k, Box::new(act));
    }

    /// As [`Self::during_sync`], before that sync has begun: what it writes is covered.
    pub fn before_sync(&self, k: u64, act: impl FnOnce() + Send + 'static) {
        self.disk().before = Meanwhile::new(k, Box::new(act));
    }

    /// Ends the plan: every call succeeds again.
    pub fn clear_faults(&self) {
        self.disk().faults.set(None);
    }

    fn plan(&self, at: u64, only: Option<Call>, what: Trouble) {
        self.disk().faults.set(Some(Plan { at, only, what }));
    }

    /// How many fallible calls there were since the last plan was made or cleared, or else since the
    /// beginning; of all kinds, failed ones included.
    pub fn calls(&self) -> u64 {
        self.disk().faults.calls()
    }

    /// How many calls the plan made fail.
    pub fn fired(&self) -> u64 {
        self.disk().faults.fired()
    }

    /// Switches recording on or off. Either way the record is emptied; switched on, it starts from
    /// what readers see, as if that were durable.
    pub fn set_recording(&self, on: bool) {
        let mut disk = self.disk();
        disk.journal.on = on;
        disk.journal.ops = Vec::new();
        if on {
            disk.rebase().expect(MEMORY);
        }
    }

    /// Says what was on the disk before: what [`Lost::Stale`] may bring back.
    pub fn set_older(&self, older: Vec<Content>) {
        self.disk().journal.base.older = older.into();
    }

    /// How many operations were recorded: the cut that is now.
    pub fn log_len(&self) -> usize {
        self.disk().journal.ops.len()
    }

    /// The recorded operations.
    pub fn log(&self) -> Vec<Op> {
        self.disk().journal.ops.clone()
    }

    /// The recorded operations for a person, one line each.
    pub fn log_lines(&self) -> Vec<String> {
        self.disk().journal.lines()
    }

    /// A cursor at the beginning of what was recorded until now.
    pub fn replay(&self) -> Replay {
        let disk = self.disk();
        Replay::new(&disk.journal.base, disk.journal.ops.as_slice().into())
    }

    /// What a cut behind the first `cut` recorded operations leaves. To make many images, use
    /// [`Self::replay`].
    ///
    /// # Panics
    /// If fewer operations were recorded.
    #[track_caller]
    pub fn image(&self, cut: usize, survive: Survive) -> Image {
        let mut replay = self.replay();
        replay.advance_to(cut);
        replay.image(survive)
    }

    /// How many changes of names are pending behind the first `cut` recorded operations.
    ///
    /// # Panics
    /// If fewer operations were recorded.
    #[track_caller]
    pub fn pending_names(&self, cut: usize) -> usize {
        let mut replay = self.replay();
        replay.advance_to(cut);
        replay.pending_names()
    }

    /// What readers see now.
    pub fn snapshot(&self) -> Image {
        self.disk().snapshot().expect(MEMORY)
    }

    /// Names of all files, sorted.
    pub fn names(&self) -> Vec<String> {
        let disk = self.disk();
        disk.names.keys().map(|name| name.to_string()).collect()
    }

    /// All bytes of a file.
    ///
    /// # Panics
    /// If there is none called `name`.
    #[track_caller]
    pub fn read(&self, name: &str) -> Vec<u8> {
        let disk = self.disk();
        let Some(inode) = disk.names.get(name) else {
            panic!("no file {name}");
        };
        inode.content().expect(MEMORY).to_vec()
    }

    /// Changes the bytes of a file behind everybody's back, open maps of it included. (Making a
    /// mapped file shorter lets readers of the map be killed, as it would in life.)
    ///
    /// This and the other ways of doing damage are not recorded. They start the record anew, from
    /// what readers see then, as if all of that were durable.
    ///
    /// # Panics
    /// If there is none called `name`.
    #[track_caller]
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let Some(inode) = disk.names.get(name).map(Arc::clone) else {
            panic!("no file {name}");
        };
        let old = inode.content().expect(MEMORY).to_vec();
        let mut new = old.clone();
        change(&mut new);
        inode.replace(&old, &new).expect(MEMORY);
        disk.damaged(name, Some(Content::new(new)));
    }

    /// Creates a file, or puts a new one in the place of an old one. See [`Self::edit`].
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut disk = self.disk();
        let content = Content::new(bytes.to_vec());
        let inode = disk.new_inode(&content).expect(MEMORY);
        disk.names.insert(name.into(), inode);
        disk.damaged(name, Some(content));
    }

    /// Copies a file, over another if there is one. See [`Self::edit`].
    ///
    /// # Panics
    /// If there is none called `name`.
    #[track_caller]
    pub fn copy(&self, name: &str, to: &str) {
        let bytes = self.read(name);
        self.put(to, &bytes);
    }

    /// Removes a file; false if there was none. See [`Self::edit`].
    pub fn remove(&self, name: &str) -> bool {
        let mut disk = self.disk();
        let found = disk.names.remove(name).is_some();
        disk.damaged(name, None);
        found
    }
}

impl Disk {
    /// Starts the record anew after `name` got this content or was removed.
    fn damaged(&mut self, name: &str, content: Option<Content>) {
        if !self.journal.on {
            return;
        }
        if !self.journal.ops.is_empty() {
            self.rebase().expect(MEMORY);
            return;
        }
        // Nothing happened since the last start: only this file differs from it.
        if let Some(old) = self.journal.base.names.remove(name) {
            self.journal.base.files.remove(&old);
        }
        if let (Some(content), Some(inode)) = (content, self.names.get(name)) {
            self.journal.base.names.insert(name.into(), inode.id);
            self.journal.base.files.insert(inode.id, content);
        }
    }
}
