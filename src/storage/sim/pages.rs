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

use crate::storage::sim::grain::{Dice, Grain, Lost};
use crate::storage::sim::image::{Content, PAGE, SECTOR_BYTES, all_zero};
use crate::storage::sim::rng::Rng;

type Block = [u8; SECTOR_BYTES];

/// Sectors of a page: what a disk with larger sectors writes as a whole.
const PAGE_SECTORS: u64 = (PAGE / SECTOR_BYTES) as u64;

/// A sector as it once was.
#[derive(Clone, Debug)]
struct Version {
    /// Number of the write that made it.
    at: u64,
    block: Arc<Block>,
}

/// Versions of one sector besides the durable one, oldest first.
#[derive(Clone, Debug, Default)]
struct Sector {
    /// Written before a sync that failed, not since.
    limbo: Vec<Version>,
    /// Written since the last sync, failed or not.
    dirty: Vec<Version>,
}

impl Sector {
    fn count(&self) -> u64 {
        (self.limbo.len() + self.dirty.len()) as u64
    }

    fn versions(&self) -> impl Iterator<Item = &Version> {
        self.limbo.iter().chain(&self.dirty)
    }

    /// The version of that number, counted from 1; 0 is the durable one.
    fn version(&self, number: u64, durable: Block) -> Block {
        let index = number.checked_sub(1);
        let found = index.and_then(|index| self.versions().nth(index as usize));
        found.map_or(durable, |version| *version.block)
    }
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

/// How what was not synced survives.
#[derive(Clone, Copy)]
pub(super) struct Survival<'a> {
    pub(super) grain: Grain,
    pub(super) lost: Lost,
    /// What the disk holds or held besides this file.
    pub(super) others: &'a [Content],
}

/// One file.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    durable: Vec<u8>,
    latest: Vec<u8>,
    sectors: BTreeMap<u64, Sector>,
    length: Length,
    /// How many writes there were.
    writes: u64,
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
            writes: 0,
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
        self.writes += 1;
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
        self.writes += 1;
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
    pub(super) fn mixed_image(&mut self, mut rng: Rng, how: Survival<'_>) -> Content {
        if self.is_settled() {
            return self.durable_image();
        }
        let len = self.length.mixed(&mut rng, how.grain);
        let mut dice = Dice::new(rng, how.others);
        let mut bytes = self.durable.clone();
        match how.grain {
            Grain::Page => self.choose_pages(&mut bytes, &mut dice),
            grain => {
                for (sector, versions) in &self.sectors {
                    let durable = block_of(&self.durable, *sector);
                    let mut block = versions.version(dice.version(versions.count()), durable);
                    if grain == Grain::Byte {
                        let other = versions.version(dice.version(versions.count()), durable);
                        block = dice.torn(&block, &other);
                    }
                    put_block(&mut bytes, *sector, &block);
                }
            }
        }
        match how.lost {
            Lost::Old => {}
            Lost::Stale => self.bring_back(&mut bytes, len, &mut dice),
            Lost::Garbage => self.garble(&mut bytes, &mut dice),
        }
        Content::with_len(bytes, len)
    }

    /// Each page as it was at one moment.
    fn choose_pages(&self, bytes: &mut Vec<u8>, dice: &mut Dice<'_>) {
        let mut pages: Vec<u64> = self.sectors.keys().map(|s| s / PAGE_SECTORS).collect();
        pages.dedup();
        for page in pages {
            let of_page = || {
                self.sectors
                    .range(page * PAGE_SECTORS..(page + 1) * PAGE_SECTORS)
            };
            let versions = of_page().flat_map(|(_, sector)| sector.versions());
            let mut moments: Vec<u64> = versions.map(|version| version.at).collect();
            moments.sort_unstable();
            moments.dedup();
            let chosen = dice.version(moments.len() as u64).checked_sub(1);
            let Some(moment) = chosen.map(|index| moments[index as usize]) else {
                continue;
            };
            for (sector, versions) in of_page() {
                let then = versions.versions().take_while(|v| v.at <= moment).last();
                if let Some(version) = then {
                    put_block(bytes, *sector, &version.block);
                }
            }
        }
    }

    /// Sectors that nothing was ever synced to, and in which nothing survived, may show what the disk
    /// held there before.
    fn bring_back(&self, bytes: &mut Vec<u8>, len: u64, dice: &mut Dice<'_>) {
        let first_new = self.length.durable.div_ceil(SECTOR_BYTES as u64);
        let grown = first_new..len.div_ceil(SECTOR_BYTES as u64);
        // Zeros written over zeros are at no risk.
        let changed = self.sectors.iter().filter(|(sector, versions)| {
            let durable = block_of(&self.durable, **sector);
            versions.versions().any(|version| *version.block != durable)
        });
        let changed = changed.map(|(sector, _)| *sector);
        let mut blank: Vec<u64> = changed.chain(grown).collect();
        blank.retain(|sector| {
            all_zero(&block_of(&self.durable, *sector)) && all_zero(&block_of(bytes, *sector))
        });
        blank.sort_unstable();
        blank.dedup();
        for sector in blank {
            if dice.rng.chance(5)
                && let Some(block) = dice.stale(sector)
            {
                put_block(bytes, sector, &block);
            }
        }
    }

    /// Bytes that some write has changed may be anything.
    fn garble(&self, bytes: &mut Vec<u8>, dice: &mut Dice<'_>) {
        for (sector, versions) in &self.sectors {
            if !dice.rng.chance(2) {
                continue;
            }
            let durable = block_of(&self.durable, *sector);
            let mut block = block_of(bytes, *sector);
            let changed = |at: usize| versions.versions().any(|v| v.block[at] != durable[at]);
            dice.garble(&mut block, changed);
            put_block(bytes, *sector, &block);
        }
    }

    /// How many images the file may have that differ in whole sectors or in length; at most `most`.
    pub(super) fn choices(&self, most: u64) -> u64 {
        let sectors = self.sectors.values().map(|versions| versions.count() + 1);
        let lengths = self.length.all().len() as u64;
        sectors.fold(lengths, |product, n| product.saturating_mul(n).min(most))
    }

    /// One of those images; takes its digits off `number`.
    pub(super) fn chosen_image(&mut self, number: &mut u64) -> Content {
        if self.is_settled() {
            return self.durable_image();
        }
        let mut digit = |base: u64| {
            let digit = *number % base;
            *number /= base;
            digit
        };
        let lengths = self.length.all();
        let len = lengths[digit(lengths.len() as u64) as usize];
        let mut bytes = self.durable.clone();
        for (sector, versions) in &self.sectors {
            let durable = block_of(&self.durable, *sector);
            let block = versions.version(digit(versions.count() + 1), durable);
            put_block(&mut bytes, *sector, &block);
        }
        Content::with_len(bytes, len)
    }

    /// Notes that `latest` has a new version of `sector`.
    fn touch(&mut self, sector: u64) {
        let block = Arc::new(block_of(&self.latest, sector));
        let version = Version {
            at: self.writes,
            block,
        };
        self.sectors.entry(sector).or_default().dirty.push(version);
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

    /// Every one that the file had since the last sync.
    fn all(&self) -> Vec<u64> {
        let mut all = vec![self.durable];
        for len in self.limbo.iter().chain(&self.dirty) {
            if !all.contains(len) {
                all.push(*len);
            }
        }
        all
    }

    /// One that the file had since the last sync, or one in between that ends with a unit.
    fn mixed(&self, rng: &mut Rng, grain: Grain) -> u64 {
        let mut all = vec![self.durable];
        all.extend(self.limbo.iter().chain(&self.dirty));
        let unit = match grain {
            Grain::Byte => 1,
            Grain::Sector => SECTOR_BYTES as u64,
            Grain::Page => PAGE as u64,
        };
        match rng.below(4) {
            0 => self.durable,
            1 => self.latest(),
            2 => all[rng.below(all.len() as u64) as usize],
            _ => {
                let low = all.iter().copied().min().unwrap_or(0);
                let high = all.iter().copied().max().unwrap_or(0);
                let (first, last) = (low.div_ceil(unit), high / unit);
                match last.checked_sub(first) {
                    Some(more) => (first + rng.below(more + 1)) * unit,
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
