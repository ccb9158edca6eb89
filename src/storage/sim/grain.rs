//! What a disk may do to bytes that were written and not yet synced: in units of which size they
//! survive, and what stands where they did not.
//!
//! A sector is what a disk promises to write as a whole; some promise a page, and one that promises
//! nothing still writes each byte or does not. Where an unsynced write did not survive, the old bytes
//! stand; a file that grew may show bytes that the disk held before, of whatever file; and a sector that
//! was being written when the power went may hold anything. Bytes that no write has changed since the
//! last sync are never touched: rewriting a byte with the same value puts it at no risk.

use std::fmt;
use std::str::FromStr;

use crate::storage::sim::image::{Content, SECTOR_BYTES};
use crate::storage::sim::rng::Rng;

/// What survives or not as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grain {
    /// One byte.
    Byte,
    /// A sector of 512 bytes.
    Sector,
    /// A page of 4,096 bytes, as it was at one moment.
    Page,
}

/// What stands where a write did not survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// What stood there when the file was last synced; zeros where it was shorter.
    Old,
    /// The same; but where nothing was ever synced, maybe what another file has, or had in this life
    /// or an earlier one, at the same place.
    Stale,
    /// The same; but bytes that a write would have changed may be any.
    Garbage,
}

impl Grain {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Byte, Self::Sector, Self::Page];
}

impl Lost {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Old, Self::Stale, Self::Garbage];
}

impl fmt::Display for Grain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Byte => "byte",
            Self::Sector => "sector",
            Self::Page => "page",
        })
    }
}

impl FromStr for Grain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL
            .into_iter()
            .find(|grain| grain.to_string() == text);
        found.ok_or_else(|| format!("no grain is called {text:?}"))
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "old",
            Self::Stale => "stale",
            Self::Garbage => "garbage",
        })
    }
}

impl FromStr for Lost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|lost| lost.to_string() == text);
        found.ok_or_else(|| format!("nothing that is lost reads as {text:?}"))
    }
}

/// How the dice fall for one file.
pub(super) struct Dice<'a> {
    pub(super) rng: Rng,
    /// What the disk held besides this file.
    others: &'a [Content],
    /// Of eight units, how many are the durable and how many the latest version; the others are any.
    old: u64,
    new: u64,
}

impl<'a> Dice<'a> {
    pub(super) fn new(mut rng: Rng, others: &'a [Content]) -> Self {
        // With every unit decided by a fair coin, "all but one" would never be seen. So a bias is
        // drawn first.
        const BIASES: [(u64, u64); 7] = [(8, 0), (7, 0), (4, 4), (0, 0), (0, 7), (0, 8), (1, 6)];
        let (old, new) = BIASES[rng.below(BIASES.len() as u64) as usize];
        Self {
            rng,
            others,
            old,
            new,
        }
    }

    /// Which of `count` versions behind the durable one survives: 0 is the durable one.
    pub(super) fn version(&mut self, count: u64) -> u64 {
        match self.rng.below(8) {
            die if die < self.old => 0,
            die if die < self.old + self.new => count,
            _ => self.rng.below(count + 1),
        }
    }

    /// Some bytes of `one` and the others of `other`: torn at one place, or everywhere.
    pub(super) fn torn(
        &mut self,
        one: &[u8; SECTOR_BYTES],
        other: &[u8; SECTOR_BYTES],
    ) -> [u8; SECTOR_BYTES] {
        let mut block = *one;
        if self.rng.chance(4) {
            let at = self.rng.below(SECTOR_BYTES as u64 + 1) as usize;
            block[at..].copy_from_slice(&other[at..]);
        } else {
            for (byte, other) in block.iter_mut().zip(other) {
                if self.rng.chance(4) {
                    *byte = *other;
                }
            }
        }
        block
    }

    /// Bytes of `block` for which `changed` says so, turned to anything.
    pub(super) fn garble(
        &mut self,
        block: &mut [u8; SECTOR_BYTES],
        changed: impl Fn(usize) -> bool,
    ) {
        for (at, byte) in block.iter_mut().enumerate() {
            if changed(at) {
                *byte = self.rng.next() as u8;
            }
        }
    }

    /// What some other file has in this sector, if it has anything there.
    pub(super) fn stale(&mut self, sector: u64) -> Option<[u8; SECTOR_BYTES]> {
        let start = usize::try_from(sector).ok()? * SECTOR_BYTES;
        let has = |content: &&Content| content.bytes().len() > start;
        let count = self.others.iter().filter(has).count() as u64;
        let chosen = self.rng.below(count.max(1)) as usize;
        let bytes = self.others.iter().filter(has).nth(chosen)?.bytes();
        let bytes = &bytes[start..bytes.len().min(start + SECTOR_BYTES)];
        let mut block = [0; SECTOR_BYTES];
        block[..bytes.len()].copy_from_slice(bytes);
        Some(block)
    }
}
