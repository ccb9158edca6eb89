//! File name <-> segment id. Plain strings; sixteen lower-case hexadecimal digits, so that a
//! directory listing sorts by id.

/// Name of the one authoritative file.
pub const MANIFEST: &str = "MANIFEST";

/// Name under which a rewritten manifest is prepared before it replaces [`MANIFEST`].
pub const MANIFEST_TMP: &str = "MANIFEST.tmp";

/// Name of the file that only occupies room: see `SPEC.md`, section 1.
pub const RESERVE: &str = "RESERVE";

/// What a file name in a store directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// [`MANIFEST`].
    Manifest,
    /// [`MANIFEST_TMP`].
    ManifestTmp,
    /// [`RESERVE`].
    Reserve,
    /// Segment file with this id.
    Segment(u64),
    /// Hint file of the segment with this id.
    Hint(u64),
}

/// Bytes of a segment or hint file name, at most.
pub const NAME_BYTES_MAX: usize = 21;

/// A file name of at most [`NAME_BYTES_MAX`] bytes, without allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileName {
    bytes: [u8; NAME_BYTES_MAX],
    len: usize,
}

impl FileName {
    fn new(id: u64, suffix: &str) -> Self {
        let mut bytes = [0u8; NAME_BYTES_MAX];
        for (i, slot) in bytes.iter_mut().take(16).enumerate() {
            let digit = (id >> (60 - 4 * i)) & 0xF;
            *slot = b"0123456789abcdef"[digit as usize];
        }
        let len = 16 + suffix.len();
        bytes[16..len].copy_from_slice(suffix.as_bytes());
        Self { bytes, len }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }
}

impl core::ops::Deref for FileName {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl core::fmt::Display for FileName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Name of the segment file with this id.
#[must_use]
pub fn segment(id: u64) -> FileName {
    FileName::new(id, ".seg")
}

/// Name of the hint file of the segment with this id.
#[must_use]
pub fn hint(id: u64) -> FileName {
    FileName::new(id, ".hint")
}

/// What `name` stands for; `None` for a file that is not ours.
#[must_use]
pub fn parse(name: &str) -> Option<Name> {
    match name {
        MANIFEST => return Some(Name::Manifest),
        MANIFEST_TMP => return Some(Name::ManifestTmp),
        RESERVE => return Some(Name::Reserve),
        _ => {}
    }
    let (digits, suffix) = name.split_at_checked(16)?;
    let mut id = 0u64;
    for digit in digits.bytes() {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        id = id << 4 | u64::from(value);
    }
    match suffix {
        ".seg" => Some(Name::Segment(id)),
        ".hint" => Some(Name::Hint(id)),
        _ => None,
    }
}
