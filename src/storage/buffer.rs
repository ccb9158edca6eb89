//! Memory for files that are read whole.

use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut};

use crate::storage::raw::mmap::LARGE_BYTES;

/// From how many bytes on large pages are asked for. Those of fewer are not worth it where the first touch of a
/// large page is slow, as on a virtual machine whose host has yet to find the memory.
const PAGED_BYTES_MIN: usize = 8 * LARGE_BYTES as usize;

/// Bytes, all zero at first.
///
/// Many of them are mapped by themselves, in large pages if the system has some: otherwise the first touch of
/// every 4 KiB is a fault, which takes longer than copying what is read there.
#[derive(Debug)]
pub struct Buffer(Memory);

#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    Pages { map: MmapMut, len: usize },
}

impl Buffer {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        // Whole large pages: such a map begins at one, too.
        if len >= PAGED_BYTES_MIN
            && let Ok(map) = MmapMut::map_anon(len.next_multiple_of(LARGE_BYTES as usize))
        {
            // Without it the pages are small.
            let _ = map.advise(Advice::HugePage);
            return Self(Memory::Pages { map, len });
        }
        Self(Memory::Heap(vec![0; len]))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Pages { map, len } => &map[..*len],
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Pages { map, len } => &mut map[..*len],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_ones_are_zeros_that_can_be_written() {
        let large = PAGED_BYTES_MIN;
        for len in [0, 1, large - 1, large, large + 1] {
            let mut buffer = Buffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            assert!(buffer.iter().all(|byte| *byte == 7));
            let paged = matches!(buffer.0, Memory::Pages { .. });
            assert_eq!(paged, len >= large);
        }
    }
}
