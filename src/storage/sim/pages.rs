//! One file as a power cut sees it: what is surely on the disk and what may be there instead.
//!
//! Write-back may run at any moment, so a sector written several times since the last sync can be on
//! the disk in any of these versions, or still in the old one, whatever became of its neighbours. A
//! successful sync ends the doubt for everything dirty. A failed sync does not: the kernel takes the
//! pages for clean afterwards and the next sync skips them (the "fsyncgate" of 2018), so only
//! writing a sector again, and syncing that, ends its doubt.
//!
//! Invariants
//! - `latest` is what a reader of the live file sees; `durable` what is on the disk at the least.
//! - They differ only in sectors listed in `sectors`; there the last version is the one in `latest`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::storage::sim::image::{Content, all_zero};
use crate::storage::sim::rng::Rng;

/// What the disk writes as a whole.
pub const SECTOR_BYTES: usize = 512;

type Block = Arc<[u8; SECTOR_BYTES]>;

/// Versions of one sector besides the durable one, oldest first.
#[derive(Clone, Debug, Default)]
struct Sector {
    /// Written before a sync that failed, not since.
    limbo: Vec<Block>,
    /// Written since the last sync, failed or not.
    dirty: Vec<Block>,
}

/// The length of a file, with the same doubts as its sectors.
#[derive(Clone, Debug)]
struct Length {
    durable: u64,
    limbo: Vec<u64>,
    dirty: Vec<u64>,
    /// End of what was written since the last sync: a sync that succeeds makes it readable.
    needed: u64,
}

/// One file.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    durable: Vec<u8>,
    latest: Vec<u8>,
    sectors: BTreeMap<u64, Sector>,
    length: Length,
    /// Images of `durable` and `latest`, made when first asked for.
    durable_image: Option<Content>,
    latest_image: Option<Content>,
}

impl Pages {
    /// A file that is wholly durable.
    pub(super) fn new(content: &Content) -> Self {
        Self {
            durable: content.bytes().to_vec(),
            latest: content.bytes().to_vec(),
            sectors: BTreeMap::new(),
            length: Length::new(content.len()),
            durable_image: Some(content.clone()),
            latest_image: Some(content.clone()),
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if self.latest.len() < end {
            self.latest.resize(end, 0);
        }
        self.latest[start..end].copy_from_slice(bytes);
        for sector in start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            self.touch(sector as u64);
        }
        self.length.write(end as u64);
        self.latest_image = None;
    }

    pub(super) fn allocate(&mut self, len: u64) {
        if len > self.length.latest() {
            self.length.change(len);
            self.latest_image = None;
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.length.change(len);
        self.latest_image = None;
        // Bytes cut off are gone, should the file grow again: they turn to zero.
        let cut = usize::try_from(len).unwrap_or(usize::MAX);
        let first = len / SECTOR_BYTES as u64;
        let mut cut_off: Vec<u64> = self
            .sectors
            .range(len.div_ceil(SECTOR_BYTES as u64)..)
            .map(|(sector, _)| *sector)
            .collect();
        if cut < self.latest.len() {
            for sector in first..=((self.latest.len() - 1) / SECTOR_BYTES) as u64 {
                let start = sector as usize * SECTOR_BYTES;
                let end = self.latest.len().min(start + SECTOR_BYTES);
                if !all_zero(&self.latest[start.max(cut)..end]) {
                    cut_off.push(sector);
                }
            }
            self.latest.truncate(cut);
        }
        cut_off.sort_unstable();
        cut_off.dedup();
        for sector in cut_off {
            self.touch(sector);
        }
    }

    pub(super) fn sync(&mut self, succeeded: bool) {
        if succeeded {
            let Self {
                durable, latest, ..
            } = self;
            self.sectors.retain(|sector, versions| {
                if versions.dirty.is_empty() {
                    return true;
                }
                put_block(durable, *sector, &block_of(latest, *sector));
                false
            });
        } else {
            for versions in self.sectors.values_mut() {
                versions.limbo.append(&mut versions.dirty);
            }
        }
        self.length.sync(succeeded);
        self.durable_image = None;
    }

    /// True if only one image of the file is possible.
    pub(super) fn is_settled(&self) -> bool {
        self.sectors.is_empty() && self.length.is_settled()
    }

    /// Nothing survives that need not.
    pub(super) fn durable_image(&mut self) -> Content {
        let (bytes, len) = (&self.durable, self.length.durable);
        self.durable_image
            .get_or_insert_with(|| Content::with_len(bytes.clone(), len))
            .clone()
    }

    /// Everything survives.
    pub(super) fn latest_image(&mut self) -> Content {
        let (bytes, len) = (&self.latest, self.length.latest());
        self.latest_image
            .get_or_insert_with(|| Content::with_len(bytes.clone(), len))
            .clone()
    }

    /// Each sector, and the length, survives as the dice say.
    pub(super) fn mixed_image(&mut self, rng: &mut Rng) -> Content {
        if self.is_settled() {
            return self.durable_image();
        }
        let len = self.length.mixed(rng);
        // With every sector decided by a fair coin, "all but one" would never be seen. So a bias is
        // drawn first: how many of eight sectors are the durable and how many the latest version;
        // the others are any version.
        const BIASES: [(u64, u64); 7] = [(8, 0), (7, 0), (4, 4), (0, 0), (0, 7), (0, 8), (1, 6)];
        let (old, new) = BIASES[rng.below(BIASES.len() as u64) as usize];
        let mut bytes = self.durable.clone();
        for (sector, versions) in &self.sectors {
            let count = (versions.limbo.len() + versions.dirty.len()) as u64;
            let die = rng.below(8);
            // 0 is the durable one.
            let version = match die {
                _ if die < old => 0,
                _ if die < old + new => count,
                _ => rng.below(count + 1),
            };
            if let Some(index) = version.checked_sub(1) {
                let mut all = versions.limbo.iter().chain(&versions.dirty);
                if let Some(block) = all.nth(index as usize) {
                    put_block(&mut bytes, *sector, block);
                }
            }
        }
        Content::with_len(bytes, len)
    }

    /// Notes that `latest` has a new version of `sector`.
    fn touch(&mut self, sector: u64) {
        let block = Arc::new(block_of(&self.latest, sector));
        self.sectors.entry(sector).or_default().dirty.push(block);
    }
}

impl Length {
    fn new(len: u64) -> Self {
        Self {
            durable: len,
            limbo: Vec::new(),
            dirty: Vec::new(),
            needed: 0,
        }
    }

    fn latest(&self) -> u64 {
        let newest = self.dirty.last().or(self.limbo.last());
        *newest.unwrap_or(&self.durable)
    }

    fn is_settled(&self) -> bool {
        self.limbo.is_empty() && self.dirty.is_empty()
    }

    fn write(&mut self, end: u64) {
        self.needed = self.needed.max(end);
        if end > self.latest() {
            self.dirty.push(end);
        }
    }

    fn change(&mut self, len: u64) {
        if len != self.latest() {
            self.dirty.push(len);
        }
    }

    fn sync(&mut self, succeeded: bool) {
        if !succeeded {
            self.limbo.append(&mut self.dirty);
        } else if let Some(last) = self.dirty.last() {
            *self = Self::new(*last);
        } else {
            // Lengths in limbo stay there, but what this sync covered can be read.
            self.durable = self.durable.max(self.needed);
            for len in &mut self.limbo {
                *len = (*len).max(self.needed);
            }
        }
        self.needed = 0;
    }

    /// One that the file had since the last sync, or one in between that ends with a sector.
    fn mixed(&self, rng: &mut Rng) -> u64 {
        let mut all = vec![self.durable];
        all.extend(self.limbo.iter().chain(&self.dirty));
        match rng.below(4) {
            0 => self.durable,
            1 => self.latest(),
            2 => all[rng.below(all.len() as u64) as usize],
            _ => {
                let low = all.iter().copied().min().unwrap_or(0);
                let high = all.iter().copied().max().unwrap_or(0);
                let (first, last) = (
                    low.div_ceil(SECTOR_BYTES as u64),
                    high / SECTOR_BYTES as u64,
                );
                match last.checked_sub(first) {
                    Some(more) => (first + rng.below(more + 1)) * SECTOR_BYTES as u64,
                    None => low,
                }
            }
        }
    }
}

/// The bytes of `sector`; zeros behind the end of `bytes`.
fn block_of(bytes: &[u8], sector: u64) -> [u8; SECTOR_BYTES] {
    let mut block = [0; SECTOR_BYTES];
    let start = bytes.len().min(sector as usize * SECTOR_BYTES);
    let end = bytes.len().min(start + SECTOR_BYTES);
    block[..end - start].copy_from_slice(&bytes[start..end]);
    block
}

fn put_block(bytes: &mut Vec<u8>, sector: u64, block: &[u8; SECTOR_BYTES]) {
    let start = sector as usize * SECTOR_BYTES;
    if bytes.len() < start + SECTOR_BYTES {
        if all_zero(block) {
            if let Some(tail) = bytes.get_mut(start..) {
                tail.fill(0);
            }
            return;
        }
        bytes.resize(start + SECTOR_BYTES, 0);
    }
    bytes[start..start + SECTOR_BYTES].copy_from_slice(block);
}
