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

use crate::record::CONTENT_START;

/// CRC-32 of `bytes`.
#[must_use]
#[inline]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// CRC-32 of the concatenation of `parts`.
#[must_use]
pub fn crc32_of_parts(parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// The start states that bind checks to one life of one file: CRC-32 of its identity.
///
/// For a segment the identity is salt (16 bytes) then id (u64 LE); for a manifest, store id
/// (16 bytes) then salt (16 bytes).
///
/// Made once per file and kept: asking what the CPU can do costs as much as checking 30 bytes.
#[derive(Clone)]
pub struct PlaceKey {
    start: Hasher,
    /// Four zero bytes before `start`: what is checked at every record is then two whole blocks of
    /// 16 bytes, which saves a third of the time.
    place: Hasher,
    content: Hasher,
}

impl fmt::Debug for PlaceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.start.clone().finalize();
        f.debug_tuple("PlaceKey").field(&state).finish()
    }
}

#[inline]
fn from(start: &Hasher, bytes: &[u8]) -> u32 {
    let mut hasher = start.clone();
    hasher.update(bytes);
    hasher.finalize()
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

    /// `content` of a record whose bytes from the kind byte to the end of the body are `bytes`: the
    /// same in every file.
    #[must_use]
    #[inline]
    pub fn content(&self, bytes: &[u8]) -> u32 {
        from(&self.content, bytes)
    }

    /// `place` of a record whose header bytes 4 to 23 are `rest`, standing at `offset`.
    #[must_use]
    #[inline]
    pub fn place(&self, offset: u64, rest: &[u8; 20]) -> u32 {
        // One update over one array: two updates of 8 and 20 bytes cost about 7 ns more.
        let mut bytes = [0u8; 32];
        bytes[4..12].copy_from_slice(&offset.to_le_bytes());
        bytes[12..].copy_from_slice(rest);
        from(&self.place, &bytes)
    }

    /// Whether both checks of a record standing at `offset` hold; `record` begins with its header and ends
    /// with its body.
    #[must_use]
    #[inline]
    pub fn holds(&self, offset: u64, record: &[u8]) -> bool {
        let stored = || {
            let (place, rest) = record.split_first_chunk()?;
            let (content, _) = rest.split_first_chunk()?;
            Some((
                u32::from_le_bytes(*place),
                u32::from_le_bytes(*content),
                rest.first_chunk()?,
            ))
        };
        stored().is_some_and(|(place, content, rest)| {
            self.place(offset, rest) == place && self.content(&record[CONTENT_START..]) == content
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
