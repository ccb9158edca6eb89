//! Maps whose published bytes never change.
//!
//! A segment file is mapped once for its whole life. [`MapWriter`] is the only thing that can change
//! the mapped bytes; there is one per map and it stores only at or above the published length.
//! [`Map::slice`] gives out bytes only below it. So no byte that anybody can see is ever written.
//!
//! Invariants
//! - `published` never shrinks, and grows only after the bytes below it were stored.
//! - The mapped range stays mapped until the [`Map`] is dropped; slices borrow the `Map`.
//! - No `&mut [u8]` over a map exists anywhere.
//!
//! Outside the contract (README, "Assumptions"): another program truncating or writing the file.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use parking_lot::Mutex;
use rustix::event::EventfdFlags;

use crate::storage::published::Published;
use crate::storage::raw::prefetch::{LINE_BYTES, prefetch};
use crate::storage::window::WindowLease;

/// Whether a file may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
}

/// Bytes of the page cache that one page-table entry can show, if they are one piece of memory: a
/// reader who jumps about then needs 214 to 270 ns for a record instead of 320 to 410.
pub const LARGE_BYTES: u64 = 2 << 20;

/// Bytes that an event counter takes at a time.
const SINK_BYTES: usize = 8;

/// Lines of a record that are asked for: what comes behind them the processor fetches ahead by itself.
const FRONT_LINES: u64 = 3;

/// A mapped segment: bytes below the published length may be read.
#[derive(Debug)]
pub struct Map {
    raw: MmapRaw,
    published: Published,
    /// The mapped file, if what is brought in of it shall be in large pieces.
    large: Mutex<Option<File>>,
    /// Pages come one by one: see [`Map::expect_scattered_reads`].
    scattered: AtomicBool,
    /// Index windows of this segment: given back only when it is unmapped.
    lease: std::sync::OnceLock<WindowLease>,
}

/// The one writer of a [`Map`].
#[derive(Debug)]
pub struct MapWriter {
    map: Arc<Map>,
    writable: bool,
}

impl Map {
    /// Maps the first `len` bytes of `file`, nothing published.
    pub fn new(file: &File, len: u64, access: Access) -> io::Result<(Arc<Self>, MapWriter)> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut options = MmapOptions::new();
        options.len(len);
        let raw = match access {
            Access::Read => options.map_raw_read_only(file)?,
            Access::ReadWrite => options.map_raw(file)?,
        };
        let map = Arc::new(Self {
            raw,
            published: Published::default(),
            large: Mutex::new(None),
            scattered: AtomicBool::new(false),
            lease: std::sync::OnceLock::new(),
        });
        let writer = MapWriter {
            map: Arc::clone(&map),
            writable: access == Access::ReadWrite,
        };
        Ok((map, writer))
    }

    /// Hands the segment's windows to the map, which gives them back when it is unmapped.
    pub fn keep(&self, lease: WindowLease) {
        let given = self.lease.set(lease);
        debug_assert!(given.is_ok(), "a map has one lease");
    }

    /// Bytes that may be read: everything below.
    #[inline]
    pub fn published(&self) -> u64 {
        self.published.get()
    }

    /// Bytes mapped.
    pub fn len(&self) -> u64 {
        self.raw.len() as u64
    }

    /// The `len` bytes at `offset`; `None` if not all of them are published.
    #[inline]
    pub fn slice(&self, offset: u64, len: u64) -> Option<&[u8]> {
        self.from(offset).get(..len as usize)
    }

    /// The published bytes from `offset` on; none if it is not published.
    #[inline]
    pub fn from(&self, offset: u64) -> &[u8] {
        let published = self.published();
        if offset >= published {
            return &[];
        }
        let len = (published - offset) as usize;
        // SAFETY: `from_raw_parts` asks for `len` initialised bytes that nobody changes while the
        // slice lives.
        // 1. In the map: `offset + len` is the published length, and `publish` keeps that at or below
        //    the mapped length, which fits `usize`.
        // 2. Backed by the file: published bytes were stored below the file's length, and a file is
        //    never cut below its published length.
        // 3. Unchanged: only `MapWriter` stores, only at or above `published`, through raw pointers;
        //    the Acquire load above orders its stores before this read.
        // 4. Alive: the slice borrows `self`, and unmapping happens in `self`'s drop.
        // 5. Others: the directory lock keeps out a second store. A person truncating or writing the
        //    file by hand is outside the contract.
        unsafe { std::slice::from_raw_parts(self.raw.as_ptr().add(offset as usize), len) }
    }

    /// Brings the cache lines at the front of the record at `offset` into the processor's caches, without
    /// waiting for them.
    #[inline]
    pub fn prefetch(&self, offset: u64) {
        let address = self.raw.as_ptr().addr();
        for line in 0..FRONT_LINES {
            prefetch(address.wrapping_add((offset + line * LINE_BYTES) as usize));
        }
    }

    /// From now on [`Map::populate`] asks for pieces of [`LARGE_BYTES`], until [`Map::keep_small`] or the
    /// writer is gone. `file` is the mapped one. The first piece is there at once, as it was on disk.
    pub fn keep_large(&self, file: File) {
        // With larger pages a table entry shows more than that.
        if rustix::param::page_size() == 4096 {
            *self.large.lock() = Some(file);
            self.bring_in_large(0, 1);
        }
    }

    /// Nothing more is brought in in large pieces.
    pub fn keep_small(&self) {
        *self.large.lock() = None;
    }

    /// Lets the page cache have `from..to` in large pieces, as far as it has nothing of it yet.
    ///
    /// The advice that makes it do so holds for a map, and cannot be taken back from it; there, it would
    /// make every later read of a cold page one of 2 MiB. So it goes to a map that is gone at once.
    fn bring_in_large(&self, from: u64, to: u64) {
        let large = self.large.lock();
        let Some(file) = &*large else {
            return;
        };
        let from = from / LARGE_BYTES * LARGE_BYTES;
        let to = to.next_multiple_of(LARGE_BYTES).min(self.len());
        let mut options = MmapOptions::new();
        options.offset(from).len((to - from) as usize);
        // Nothing depends on it.
        let Ok(map) = options.map_raw_read_only(file) else {
            return;
        };
        // "Random" keeps the kernel from bringing in as much again behind it.
        if map.advise(Advice::HugePage).is_err() || map.advise(Advice::Random).is_err() {
            return;
        }
        let Ok(sink) = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        else {
            return;
        };
        // The kernel copies a few bytes of each piece, which brings it in, and answers an error if that
        // fails. Advice to populate would do, too, but may have to wait for a time slice with the lock of the
        // address space in its hands; then the writer's allocator waits for it.
        for at in (0..map.len().saturating_sub(SINK_BYTES)).step_by(LARGE_BYTES as usize) {
            // SAFETY: `from_raw_parts` asks for bytes that can be read and that nobody changes meanwhile.
            // 1. Mapped: `at + SINK_BYTES` is below the map's length.
            // 2. Nothing in this process reads through the slice: it goes to a system call. Where the file
            //    has no such bytes (any more), or they cannot be read, the kernel answers EFAULT.
            // 3. The writer may store into them by now, through another map. What is copied is of no use to
            //    anybody: a number in a counter that is thrown away.
            let bytes = unsafe { std::slice::from_raw_parts(map.as_ptr().add(at), SINK_BYTES) };
            let _ = rustix::io::write(&sink, bytes);
        }
    }

    /// Brings the pages of `from..to` in, ready to be written, as far as the file has them.
    pub fn populate(&self, from: u64, to: u64) {
        let to = to.min(self.len());
        if from < to {
            self.bring_in_large(from, to);
            let len = (to - from) as usize;
            let _ = self
                .raw
                .advise_range(Advice::PopulateWrite, from as usize, len);
        }
    }

    /// Forgets which pages this process has mapped; the next look at one maps it again, with the same
    /// bytes.
    ///
    /// Before a sync of much that was stored page by page: the kernel takes the write permission of every
    /// mapped page away by itself, and tells all other processors of each.
    pub fn unmap_pages(&self) {
        // SAFETY: `unchecked_advise` asks that nobody relies on bytes that the advice throws away.
        // `MADV_DONTNEED` throws none away here: every `Map` is a shared map of a file (`map_raw`,
        // `map_raw_read_only`), whose stored bytes stay in the file's pages, dirty ones as dirty ones.
        // The range stays mapped, so slices stay valid: a look at one faults, and finds them.
        let _ = unsafe { self.raw.unchecked_advise(UncheckedAdvice::DontNeed) };
    }

    /// Takes the write permission of all mapped pages away, as [`Map::unmap_pages`] does, where others read
    /// meanwhile.
    pub fn map_again(&self) {
        self.unmap_pages();
        self.map_pages();
    }

    /// Maps the pages of the published bytes, so that nobody who reads them waits for it.
    pub fn map_pages(&self) {
        let len = self.published().min(self.len()) as usize;
        // Nobody who waits for the lock of the address space waits for all of it.
        for from in (0..len).step_by(LARGE_BYTES as usize) {
            let piece = (len - from).min(LARGE_BYTES as usize);
            let _ = self.raw.advise_range(Advice::PopulateRead, from, piece);
        }
    }

    /// From now on a page that is not in memory comes with those around it; not if it was said that it is to
    /// come alone.
    pub fn expect_ordered_reads(&self) {
        if !self.scattered.load(Ordering::SeqCst) {
            self.advise(Advice::Normal);
        }
        // Somebody may have come in between.
        if self.scattered.load(Ordering::SeqCst) {
            self.advise(Advice::Random);
        }
    }

    /// From now on a page that is not in memory comes alone, without those around it.
    pub fn expect_scattered_reads(&self) {
        if !self.scattered.swap(true, Ordering::SeqCst) {
            self.advise(Advice::Random);
        }
    }

    /// Has `from..to` brought in, without waiting for it, if the kernel would not do so by itself.
    #[inline]
    pub fn read_ahead(&self, from: u64, to: u64) {
        if self.scattered.load(Ordering::Relaxed) {
            let to = to.min(self.published());
            let len = to.saturating_sub(from) as usize;
            let _ = self.raw.advise_range(Advice::WillNeed, from as usize, len);
        }
    }

    /// Tells the kernel how the segment will be used from now on.
    pub fn advise(&self, advice: Advice) {
        let _ = self.raw.advise(advice);
    }
}

impl Drop for MapWriter {
    fn drop(&mut self) {
        self.map.keep_small();
    }
}

impl MapWriter {
    /// Copies `parts`, one behind the other, to `offset`, which must not be published yet.
    ///
    /// # Panics
    /// If the range is not between the published and the mapped length, or the map is read-only: a
    /// bug of the caller, which chose the offset.
    pub fn store(&mut self, offset: u64, parts: &[&[u8]]) {
        let end = parts
            .iter()
            .try_fold(offset, |end, part| end.checked_add(part.len() as u64))
            .expect("a record ends below 2^64");
        assert!(
            self.writable && offset >= self.map.published() && end <= self.map.len(),
            "store outside the writable part of a segment"
        );
        let mut at = offset as usize;
        for part in parts {
            // SAFETY: `copy_nonoverlapping` asks for readable source, writable destination, no
            // overlap, no concurrent access to the destination.
            // 1. Destination in the map and mapped writable: asserted above.
            // 2. File-backed: the caller allocated the file at least to `end` (whole, before it
            //    stored the first record); otherwise the kernel would raise SIGBUS, not corrupt.
            // 3. Nobody else: `&mut self` on the only writer, and readers stay below `published`,
            //    which is at or below `offset`.
            // 4. No overlap: a `part` that borrows this map lies below `published`.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    part.as_ptr(),
                    self.map.raw.as_mut_ptr().add(at),
                    part.len(),
                );
            }
            at += part.len();
        }
    }

    /// Lets readers see everything below `end`.
    ///
    /// # Panics
    /// If `end` is beyond the map or below what was published already.
    pub fn publish(&mut self, end: u64) {
        assert!(
            end <= self.map.len() && end >= self.map.published(),
            "published length only grows, within the map"
        );
        self.map.published.grow(end);
    }

    /// Ends writing: the pages lose their write permission, so that not even a stray pointer in this
    /// process can change them.
    pub fn seal(self) -> io::Result<()> {
        if !self.writable {
            return Ok(());
        }
        // SAFETY: `mprotect` asks for a page-aligned range of this process's own mapping.
        // 1. `as_mut_ptr` and `len` are the mapping `memmap2` made at offset 0: page-aligned.
        // 2. Taking write permission away breaks nobody: the only writer is consumed here.
        unsafe {
            rustix::mm::mprotect(
                self.map.raw.as_mut_ptr().cast(),
                self.map.raw.len(),
                rustix::mm::MprotectFlags::READ,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_is_brought_in_in_large_pieces_is_what_was_there() {
        let file = tempfile::tempfile().expect("a file can be made");
        let len = 3 * LARGE_BYTES + 4096;
        file.set_len(len).expect("it can be long");
        let marks = [0, LARGE_BYTES - 3, LARGE_BYTES, len - 8];
        for at in marks {
            file.write_all_at(&at.to_le_bytes()[..3], at)
                .expect("it can be written");
        }
        let (map, mut writer) = Map::new(&file, len, Access::ReadWrite).expect("it can be mapped");
        map.keep_large(file.try_clone().expect("a second handle"));
        // Past the end, across pieces, nothing at all.
        for (from, to) in [(0, 4096), (LARGE_BYTES - 1, LARGE_BYTES + 1), (5, 5)] {
            map.populate(from, to);
        }
        map.populate(len - 1, len + LARGE_BYTES);
        writer.publish(4096);
        writer.store(4096, &[b"what", b"comes"]);
        writer.publish(len);
        let mut expected = vec![0; len as usize];
        file.read_exact_at(&mut expected, 0)
            .expect("it can be read");
        assert_eq!(&expected[4096..4105], b"whatcomes");
        for at in marks {
            let found = &expected[at as usize..at as usize + 3];
            assert_eq!(found, &at.to_le_bytes()[..3], "{at}");
        }
        assert!(map.from(0) == expected, "the map shows what the file has");
        assert!(map.large.lock().is_some());
        writer.seal().expect("it can be sealed");
        assert!(map.large.lock().is_none(), "no handle is kept");
    }

    #[test]
    fn pages_that_are_mapped_again_show_what_was_stored_before_and_after() {
        let file = tempfile::tempfile().expect("a file can be made");
        let len = LARGE_BYTES + 8192;
        file.set_len(len).expect("it can be long");
        let (map, mut writer) = Map::new(&file, len, Access::ReadWrite).expect("it can be mapped");
        // KiB of it that this process has mapped.
        let mapped = || {
            let maps = std::fs::read_to_string("/proc/self/smaps").expect("it can be read");
            let start = format!("{:x}-", map.raw.as_ptr().addr());
            let mut mine = maps.lines().skip_while(|line| !line.starts_with(&start));
            let resident = mine.find(|line| line.starts_with("Rss:"));
            let size = resident.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
            size.unwrap_or(0u64)
        };
        let stored = vec![b'x'; LARGE_BYTES as usize];
        writer.store(0, &[&stored]);
        writer.publish(LARGE_BYTES);
        let held = map.from(0);
        map.unmap_pages();
        assert_eq!(mapped(), 0);
        assert!(held == stored, "what is held stays");
        map.map_again();
        assert!(mapped() >= LARGE_BYTES >> 10, "nobody has to wait for it");
        writer.store(LARGE_BYTES, &[b"more"]);
        writer.publish(LARGE_BYTES + 4);
        assert!(held == stored, "what is held stays");
        let mut found = vec![0; LARGE_BYTES as usize + 4];
        file.read_exact_at(&mut found, 0).expect("it can be read");
        assert!(found[..stored.len()] == stored && found[stored.len()..] == *b"more");
        assert!(map.from(0) == found, "the map shows what the file has");
    }
}
