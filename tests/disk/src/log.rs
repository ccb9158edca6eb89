//! What was written to a disk, in order, and what is left of it when the power goes.
//!
//! The model of a disk with a volatile cache: a flush makes durable what was written before it
//! *arrived*, once it has *ended*. Of everything else any part may survive, in pieces of one block,
//! which is what the loop device calls its sector.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a block: the sector of the disk, hence the smallest piece that survives or does not.
pub const BLOCK: usize = 4096;

/// A disk's content; blocks that are not there are zero.
#[derive(Clone, Debug, Default)]
pub struct Blocks(HashMap<u64, Arc<[u8; BLOCK]>>);

impl Blocks {
    /// Reads an image.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(image: &File) -> io::Result<Self> {
        let len = image.metadata()?.len();
        let mut blocks = Self::default();
        let mut piece = vec![0; 256 * BLOCK];
        let mut at = 0;
        while at < len {
            let n = image.read_at(&mut piece, at)?;
            if n == 0 {
                break;
            }
            if piece[..n].iter().any(|byte| *byte != 0) {
                blocks.write(at, &piece[..n]);
            }
            at += n as u64;
        }
        Ok(blocks)
    }

    /// Writes an image of `len` bytes, with holes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(len)?;
        for (number, block) in &self.0 {
            file.write_all_at(&block[..], number * BLOCK as u64)?;
        }
        Ok(())
    }

    /// The `len` bytes at `offset`.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (at, number, within, n) in pieces(offset, len) {
            if let Some(block) = self.0.get(&number) {
                bytes[at..at + n].copy_from_slice(&block[within..within + n]);
            }
        }
        bytes
    }

    /// Puts `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (at, number, within, n) in pieces(offset, bytes.len()) {
            let block = self.0.entry(number);
            let block = block.or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(block)[within..within + n].copy_from_slice(&bytes[at..at + n]);
        }
    }

    /// Whether `pattern` stands in any block.
    pub fn contain(&self, pattern: &[u8]) -> bool {
        self.0.values().any(|block| has(&block[..], pattern))
    }
}

/// Whether `pattern` stands anywhere in `bytes`.
pub fn has(bytes: &[u8], pattern: &[u8]) -> bool {
    !pattern.is_empty() && bytes.windows(pattern.len()).any(|part| part == pattern)
}

/// Where the bytes of a range lie: offset in the range, block, offset in the block, how many.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, u64, usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = offset + at as u64;
        let within = (start % BLOCK as u64) as usize;
        let n = (len - at).min(BLOCK - within);
        let piece = (at, start / BLOCK as u64, within, n);
        at += n;
        (n > 0).then_some(piece)
    })
}

/// Something that happened to the disk.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes were written.
    Write {
        /// Bytes from the start of the disk.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// A flush has ended.
    Flush {
        /// It began after so many events: they are durable.
        covers: usize,
    },
}

/// What survives of what no flush covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survive {
    /// Nothing.
    Nothing,
    /// All of it.
    Everything,
    /// Each write whole, not at all, or in part, block by block.
    Some,
}

/// A disk and its history.
#[derive(Debug)]
pub struct Disk {
    len: u64,
    base: Blocks,
    now: Blocks,
    events: Vec<Event>,
}

impl Disk {
    /// A disk of `len` bytes that holds `base`.
    pub fn new(len: u64, base: Blocks) -> Self {
        Self {
            len,
            now: base.clone(),
            base,
            events: Vec::new(),
        }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// How much has happened: what is asked of a disk cut at this position is what it holds now.
    pub fn position(&self) -> usize {
        self.events.len()
    }

    /// What it holds as long as it has power.
    pub fn now(&self) -> &Blocks {
        &self.now
    }

    /// Writes that happened and flushes that ended, until now.
    pub fn counts(&self) -> (usize, usize) {
        let flush = |event: &&Event| matches!(event, Event::Flush { .. });
        let flushes = self.events.iter().filter(flush).count();
        (self.events.len() - flushes, flushes)
    }

    /// Writes.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.now.write(offset, bytes);
        let bytes = bytes.into();
        self.events.push(Event::Write { offset, bytes });
    }

    /// Ends a flush that began at position `covers`.
    pub fn flushed(&mut self, covers: usize) {
        self.events.push(Event::Flush { covers });
    }

    /// What is there when the power goes at position `cut`, by the dice of `seed`.
    pub fn after_cut(&self, cut: usize, survive: Survive, seed: u64) -> Blocks {
        let past = &self.events[..cut.min(self.events.len())];
        let covers = past.iter().map(|event| match event {
            Event::Flush { covers } => *covers,
            Event::Write { .. } => 0,
        });
        let durable = covers.max().unwrap_or(0);
        let mut random = Random(seed);
        let mut blocks = self.base.clone();
        for (number, event) in past.iter().enumerate() {
            let Event::Write { offset, bytes } = event else {
                continue;
            };
            let whole = match survive {
                _ if number < durable => true,
                Survive::Nothing => continue,
                Survive::Everything => true,
                Survive::Some => match random.below(8) {
                    0..3 => true,
                    3..6 => continue,
                    _ => false,
                },
            };
            for (at, _, _, n) in pieces(*offset, bytes.len()) {
                if whole || random.below(2) == 0 {
                    blocks.write(offset + at as u64, &bytes[at..at + n]);
                }
            }
        }
        blocks
    }
}

/// SplitMix64: small, seedable, the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        let mut disk = Disk::new(16 * BLOCK as u64, Blocks::default());
        disk.write(0, &[1; BLOCK]); // 0
        let covers = disk.position();
        disk.write(BLOCK as u64, &[2; BLOCK]); // 1, while the flush is under way
        disk.flushed(covers); // 2
        disk.write(0, &[3; 2 * BLOCK]); // 3
        disk
    }

    #[test]
    fn a_flush_covers_what_was_written_before_it_began() {
        let disk = disk();
        let first = |cut, survive| {
            let blocks = disk.after_cut(cut, survive, 0);
            let bytes = blocks.read(0, 2 * BLOCK);
            (bytes[0], bytes[BLOCK])
        };
        assert_eq!(first(2, Survive::Nothing), (0, 0), "not yet ended");
        assert_eq!(first(3, Survive::Nothing), (1, 0));
        assert_eq!(first(3, Survive::Everything), (1, 2));
        assert_eq!(first(4, Survive::Everything), (3, 3));
        assert_eq!(disk.now().read(0, 1), [3]);
        assert_eq!(disk.counts(), (3, 1));
    }

    #[test]
    fn of_what_is_not_covered_any_part_survives_and_nothing_else() {
        let disk = disk();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..400 {
            let bytes = disk.after_cut(4, Survive::Some, seed).read(0, 2 * BLOCK);
            assert!(bytes.chunks(BLOCK).all(|b| b.iter().all(|x| *x == b[0])));
            seen.insert((bytes[0], bytes[BLOCK]));
        }
        let all = [(1, 0), (1, 2), (1, 3), (3, 0), (3, 2), (3, 3)];
        assert_eq!(seen, all.into_iter().collect());
    }

    #[test]
    fn an_image_is_what_the_disk_held() {
        let path = std::env::temp_dir().join(format!("kvs-disk-image-{}", std::process::id()));
        let disk = disk();
        disk.now().save(&path, disk.len()).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), disk.len());
        let loaded = Blocks::load(&file).unwrap();
        let len = disk.len() as usize;
        assert_eq!(loaded.read(0, len), disk.now().read(0, len));
        assert!(loaded.contain(&[3; 100]) && !loaded.contain(&[1; 100]));
    }

    #[test]
    fn ranges_are_taken_apart_at_blocks() {
        let mut blocks = Blocks::default();
        let bytes: Vec<u8> = (0..10_000u32).map(|i| i as u8 | 1).collect();
        blocks.write(4000, &bytes);
        assert_eq!(blocks.read(4000, 10_000), bytes);
        assert_eq!(blocks.read(3990, 10), [0; 10]);
        assert_eq!(blocks.read(14_000, 10), [0; 10]);
    }
}
