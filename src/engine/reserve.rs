//! A file of allocated blocks that nobody uses, so that a full disk is not a dead end.
//!
//! Removing and compacting are the only ways out of a full disk, and both need room first: a
//! tombstone is a record, and what compaction gives back it gives back after it has copied. When
//! either finds no room the reserve is *lent*: half of it to tombstones, so that they cannot use up
//! what compaction needs, the rest to compaction. From then on nothing is set until it is whole again.
//!
//! A store gets its reserve when its segments take up [`STORE_BYTES_MIN`]; a smaller one has little to
//! give back, and shall stay small. Nothing else depends on the file: it has no content, is not synced
//! and not missed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sync::Mutex;
use kvs_format::name;

use crate::storage::fs::{Access, Fs, FsFile};

/// Bytes of segments from which on a store has a reserve.
const STORE_BYTES_MIN: u64 = 4 << 20;

/// Bytes of the reserve, at least: a few log segments of tombstones and a small output.
const BYTES_MIN: u64 = 1 << 20;

/// Bytes of the reserve, at most.
const BYTES_MAX: u64 = 64 << 20;

/// What of the store it is: as much as one segment, or one step of compaction.
const STORE_PARTS: u64 = 16;

/// Bytes of a log segment made in the reserve's room, beyond the record that needs it: enough for a
/// thousand tombstones, so that most of the reserve stays for compaction.
pub(crate) const RESCUE_BYTES: u64 = 64 << 10;

/// What room is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Values: not at the price of the reserve.
    Values,
    /// Tombstones or compaction: what makes room.
    Removal,
}

/// How much of the reserve is given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loan {
    /// Half of it, once: for tombstones.
    Half,
    /// What there is: for what compaction writes.
    Rest,
}

/// The reserve of an open store.
#[derive(Debug)]
pub(crate) struct Reserve {
    enabled: bool,
    /// Bytes it occupies.
    held: Mutex<u64>,
    lent: AtomicBool,
}

/// Bytes a store of `stored` bytes sets aside.
pub(crate) fn target(stored: u64) -> u64 {
    match stored < STORE_BYTES_MIN {
        true => 0,
        false => (stored / STORE_PARTS)
            .clamp(BYTES_MIN, BYTES_MAX)
            .next_multiple_of(4096),
    }
}

impl Reserve {
    /// As it was found when a store of `stored` bytes was opened. One that should have a reserve and
    /// has none has lent it.
    pub(crate) fn found<F: Fs>(fs: &F, enabled: bool, stored: u64) -> Self {
        // Also for who only looks.
        let held = fs
            .open(name::RESERVE, Access::Read)
            .and_then(|file| file.allocated())
            .unwrap_or(0);
        Self {
            enabled,
            held: Mutex::new(held),
            lent: AtomicBool::new(enabled && held * 4 < target(stored) * 3),
        }
    }

    /// True if it was used up and nothing may be set before it is back.
    #[inline]
    pub(crate) fn is_lent(&self) -> bool {
        self.lent.load(Ordering::Relaxed)
    }

    /// Bytes it occupies.
    pub(crate) fn bytes(&self) -> u64 {
        *self.held.lock()
    }

    /// Makes it as large as a store of `stored` bytes needs it, or takes it back if it was lent.
    ///
    /// # Errors
    /// What allocating said; it is then as large as it was.
    pub(crate) fn keep<F: Fs>(&self, fs: &F, stored: u64) -> io::Result<()> {
        let target = target(stored);
        let mut held = self.held.lock();
        // A quarter more or less is not worth a call.
        let fits = target <= *held + *held / 4 && *held <= target + target / 4;
        if !self.enabled || (fits && !self.is_lent()) {
            return Ok(());
        }
        if target == 0 {
            if *held > 0 {
                fs.unlink(name::RESERVE)?;
            }
            *held = 0;
            self.lent.store(false, Ordering::Relaxed);
            return Ok(());
        }
        let file = match fs.open(name::RESERVE, Access::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs.create(name::RESERVE)?,
            opened => opened?,
        };
        let made = match target < *held {
            true => file.set_len(target),
            false => file.allocate(target),
        };
        if let Err(error) = made {
            // Part of it may have been allocated: whoever needs room now shall find it.
            let _ = match *held {
                0 => fs.unlink(name::RESERVE),
                held => file.set_len(held),
            };
            return Err(error);
        }
        *held = target;
        self.lent.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Gives room away. False if there was none to give.
    pub(crate) fn lend<F: Fs>(&self, fs: &F, loan: Loan) -> bool {
        let mut held = self.held.lock();
        if *held == 0 {
            return false;
        }
        let (left, given) = match loan {
            Loan::Half if self.is_lent() => return false,
            Loan::Half => {
                let half = *held / 2;
                let file = fs.open(name::RESERVE, Access::ReadWrite);
                (half, file.and_then(|file| file.set_len(half)))
            }
            Loan::Rest => (0, fs.unlink(name::RESERVE)),
        };
        if given.is_err() {
            return false;
        }
        *held = left;
        self.lent.store(true, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::real::RealFs;

    fn bytes_on_disk(fs: &RealFs) -> Option<u64> {
        let file = fs.open(name::RESERVE, Access::Read).ok()?;
        Some(file.allocated().unwrap())
    }

    #[test]
    fn it_grows_and_shrinks_with_the_store_and_small_stores_have_none() {
        let dir = tempfile::tempdir().unwrap();
        let fs = RealFs::open(dir.path(), Access::ReadWrite).unwrap();
        let reserve = Reserve::found(&fs, true, 0);
        assert!(!reserve.is_lent());
        reserve.keep(&fs, STORE_BYTES_MIN - 1).unwrap();
        assert_eq!(bytes_on_disk(&fs), None);
        let mib = 1 << 20;
        for (stored, want) in [
            (4 * mib, mib),
            (64 * mib, 4 * mib),
            (70 * mib, 4 * mib),
            (4096 * mib, 64 * mib),
            (32 * mib, 2 * mib),
            (mib, 0),
        ] {
            reserve.keep(&fs, stored).unwrap();
            assert_eq!(reserve.bytes(), want, "of {stored}");
            assert_eq!(bytes_on_disk(&fs).unwrap_or(0), want, "of {stored}");
        }
    }

    #[test]
    fn what_is_lent_is_known_to_be_missing_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let fs = RealFs::open(dir.path(), Access::ReadWrite).unwrap();
        let reserve = Reserve::found(&fs, true, 0);
        for loan in [Loan::Half, Loan::Rest] {
            assert!(!reserve.lend(&fs, loan), "there is nothing to lend yet");
        }
        assert!(!reserve.is_lent());
        reserve.keep(&fs, 8 << 20).unwrap();
        assert!(reserve.lend(&fs, Loan::Half) && reserve.is_lent());
        assert_eq!(bytes_on_disk(&fs), Some(512 << 10));
        assert!(Reserve::found(&fs, true, 8 << 20).is_lent());
        assert!(!reserve.lend(&fs, Loan::Half), "the rest is for compaction");
        assert!(reserve.lend(&fs, Loan::Rest) && reserve.is_lent());
        assert!(!reserve.lend(&fs, Loan::Rest));
        assert_eq!(bytes_on_disk(&fs), None);

        let again = Reserve::found(&fs, true, 8 << 20);
        assert!(again.is_lent());
        again.keep(&fs, 8 << 20).unwrap();
        assert!(!again.is_lent());
        assert_eq!(Reserve::found(&fs, true, 8 << 20).bytes(), 1 << 20);
        assert!(!Reserve::found(&fs, false, 8 << 20).is_lent());
    }
}
