//! The one checksum: CRC-32 (IEEE 802.3, reflected, polynomial 0xEDB88320, as in zlib).
//!
//! Two uses of it protect a record. `content` covers what a record says (from its kind byte to the
//! end of its body) and travels unchanged when compaction moves the record; `place` covers where it
//! says it (salt, segment, offset, LSN) and is computed anew at each place. A record copied byte for
//! byte to any other place, or left over from an earlier life of the file, fails `place`.
//!
//! A CRC finds damage; it does not stop a person who can read the salt and write the file.

use core::fmt;

use crc32fast::Hasher;

use crate::record::{CONTENT_START, HEADER_BYTES};
use crate::segment::PAGE_BYTES;

/// The same checksums, computed by instructions that not every processor has. Each says `None` to what it
/// does not compute.
///
/// Whoever hands them to [`use_fast`] has found out that this processor has the instructions: that takes
/// the standard library, and calling them `unsafe`, and this crate has neither.
#[derive(Clone, Copy, Debug)]
pub struct Fast {
    /// CRC-32 of the first bytes of a slice, from the CRC-32 of what stands before them. It may look at up
    /// to 127 bytes behind them, as far as the slice goes, and is fastest if they are there.
    pub crc32: fn(u32, &[u8], usize) -> Option<u32>,
    /// [`PlaceKey::place`], from the CRC-32 of the identity of the file.
    pub place: fn(u32, u64, &[u8; 20]) -> Option<u32>,
    /// [`PlaceKey::holds`], likewise.
    pub holds: fn(u32, u64, &[u8], usize) -> Option<bool>,
}

#[cfg(feature = "std")]
static FAST: std::sync::OnceLock<Fast> = std::sync::OnceLock::new();

/// From now on checksums are computed by `fast`, in the whole process; the first call counts.
#[cfg(feature = "std")]
pub fn use_fast(fast: Fast) {
    FAST.get_or_init(|| fast);
}

/// Whether checksums are computed by instructions for it.
#[must_use]
pub fn is_fast() -> bool {
    fast().is_some()
}

#[inline]
fn fast() -> Option<&'static Fast> {
    #[cfg(feature = "std")]
    return FAST.get();
    #[cfg(not(feature = "std"))]
    None
}

/// Below this many bytes a table is as good.
const FAST_BYTES_MIN: usize = 32;

/// CRC-32 of `bytes`.
#[must_use]
#[inline]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32_from(0, bytes, bytes.len())
}

/// CRC-32 of what stands before, whose CRC-32 is `before`, and then the first `len` bytes of `room`.
///
/// # Panics
/// If `room` is shorter.
#[must_use]
#[inline]
pub fn crc32_from(before: u32, room: &[u8], len: usize) -> u32 {
    if len >= FAST_BYTES_MIN
        && let Some(crc) = fast().and_then(|fast| (fast.crc32)(before, room, len))
    {
        return crc;
    }
    if before == 0 {
        // It asks what the processor can do only if there is enough to do.
        return crc32fast::hash(&room[..len]);
    }
    from(&Hasher::new_with_initial(before), &room[..len])
}

/// CRC-32 of the concatenation of `parts`.
#[must_use]
pub fn crc32_of_parts(parts: &[&[u8]]) -> u32 {
    let add = |before, part: &&[u8]| crc32_from(before, part, part.len());
    parts.iter().fold(0, add)
}

/// The start states that bind checks to one life of one file: CRC-32 of its identity.
///
/// For a segment the identity is salt (16 bytes) then id (u64 LE); for a manifest, store id
/// (16 bytes) then salt (16 bytes).
///
/// Made once per file and kept: asking what the CPU can do costs as much as checking 30 bytes.
#[derive(Clone)]
pub struct PlaceKey {
    state: u32,
    start: Hasher,
    /// Four zero bytes before `start`: what is checked at every record is then two whole blocks of
    /// 16 bytes, which saves a third of the time.
    place: Hasher,
    content: Hasher,
}

impl fmt::Debug for PlaceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PlaceKey").field(&self.state).finish()
    }
}

#[inline]
fn from(start: &Hasher, bytes: &[u8]) -> u32 {
    let mut hasher = start.clone();
    hasher.update(bytes);
    hasher.finalize()
}

/// As much of `room`, which stands at `offset` of a file, as lies in the pages of its first `len` bytes: what
/// is behind them may have to be brought in, or be unreadable, and is not asked for.
#[inline]
pub(crate) fn of_its_pages(room: &[u8], offset: u64, len: usize) -> &[u8] {
    // Wrapping: an offset near 2^64 is for the checks to refuse.
    let end = offset.wrapping_add(len as u64);
    let pages = end.wrapping_sub(1) | (PAGE_BYTES - 1);
    let most = pages.wrapping_sub(offset).wrapping_add(1);
    room.get(..most as usize).unwrap_or(room)
}

/// The start state from which four zero bytes lead to `state`.
const fn before_four_zeros(state: u32) -> u32 {
    let mut register = !state;
    let mut bits = 0;
    while bits < 32 {
        // A step forward shifts right and adds the polynomial if a 1 falls out; the polynomial's own
        // top bit tells on the way back whether it did.
        register = match register >> 31 {
            1 => (register ^ 0xEDB8_8320) << 1 | 1,
            _ => register << 1,
        };
        bits += 1;
    }
    !register
}

impl PlaceKey {
    fn of(state: u32) -> Self {
        Self {
            state,
            start: Hasher::new_with_initial(state),
            place: Hasher::new_with_initial(before_four_zeros(state)),
            content: Hasher::new(),
        }
    }

    /// Start state of segment `id` with `salt`.
    #[must_use]
    pub fn of_segment(salt: &[u8; 16], id: u64) -> Self {
        Self::of(crc32_of_parts(&[salt, &id.to_le_bytes()]))
    }

    /// Start state of the manifest of `store_id` with `salt`.
    #[must_use]
    pub fn of_manifest(store_id: &[u8; 16], salt: &[u8; 16]) -> Self {
        Self::of(crc32_of_parts(&[store_id, salt]))
    }

    /// `content` of a record whose bytes from the kind byte to the end of the body are the first `len` of
    /// `room`: the same in every file. What follows them in `room` does not matter; if it is much, less
    /// is copied.
    ///
    /// # Panics
    /// If `room` is shorter.
    #[must_use]
    #[inline]
    pub fn content(&self, room: &[u8], len: usize) -> u32 {
        match fast().and_then(|fast| (fast.crc32)(0, room, len)) {
            Some(crc) => crc,
            None => from(&self.content, &room[..len]),
        }
    }

    /// `place` of a record whose header bytes 4 to 23 are `rest`, standing at `offset`.
    #[must_use]
    #[inline]
    pub fn place(&self, offset: u64, rest: &[u8; 20]) -> u32 {
        match fast().and_then(|fast| (fast.place)(self.state, offset, rest)) {
            Some(place) => place,
            None => self.place_by_tables(offset, rest),
        }
    }

    #[inline]
    fn place_by_tables(&self, offset: u64, rest: &[u8; 20]) -> u32 {
        // One update over one array: two updates of 8 and 20 bytes cost about 7 ns more.
        let mut bytes = [0u8; 32];
        bytes[4..12].copy_from_slice(&offset.to_le_bytes());
        bytes[12..].copy_from_slice(rest);
        from(&self.place, &bytes)
    }

    /// Whether both checks of a record standing at `offset` hold. The record, header and body, is the first
    /// `len` bytes of `room`, of which what follows does not matter, as for [`PlaceKey::content`]. Of that
    /// only what lies in a page with the record is looked at.
    #[must_use]
    #[inline(always)]
    pub fn holds(&self, offset: u64, room: &[u8], len: usize) -> bool {
        if len < HEADER_BYTES {
            return false;
        }
        match fast().and_then(|fast| (fast.holds)(self.state, offset, room, len)) {
            Some(holds) => holds,
            None => self.holds_by_tables(offset, room, len),
        }
    }

    #[inline(never)]
    fn holds_by_tables(&self, offset: u64, room: &[u8], len: usize) -> bool {
        let stored = || {
            let (place, rest) = room.split_first_chunk()?;
            let (content, _) = rest.split_first_chunk()?;
            let (place, content) = (u32::from_le_bytes(*place), u32::from_le_bytes(*content));
            Some((
                place,
                content,
                rest.first_chunk()?,
                room.get(CONTENT_START..len)?,
            ))
        };
        stored().is_some_and(|(place, content, rest, body)| {
            self.place_by_tables(offset, rest) == place && from(&self.content, body) == content
        })
    }

    /// Check of a manifest edit standing at `offset`: offset, then `rest` (all after its check).
    #[must_use]
    pub fn edit(&self, offset: u64, rest: &[u8]) -> u32 {
        let mut hasher = self.start.clone();
        hasher.update(&offset.to_le_bytes());
        hasher.update(rest);
        hasher.finalize()
    }
}
