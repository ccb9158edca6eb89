//! Why bytes are not what they should be.
//!
//! A decoder reports; it never repairs and never decides what the damage means. Whether the same
//! [`DecodeError`] is a torn tail or corruption is for recovery to say, which knows where it stood.

use core::fmt;

/// Why a decoder rejected the bytes it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the thing does.
    Truncated {
        /// Bytes the thing needs.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The file does not start with the magic of its kind.
    BadMagic,
    /// The file is of a format version this reader does not know.
    BadVersion {
        /// The version found.
        found: u16,
    },
    /// A checksum over a whole header, edit or file does not match.
    BadCrc {
        /// The checksum stored.
        stored: u32,
        /// The checksum of the bytes as read.
        computed: u32,
    },
    /// The record header does not belong here: damaged, stale, or copied from another place.
    BadPlace {
        /// The `place` check stored.
        stored: u32,
        /// The check of the bytes as read, at this offset of this segment.
        computed: u32,
    },
    /// The record's body, kind or lengths are not those that were written.
    BadContent {
        /// The `content` check stored.
        stored: u32,
        /// The check of the bytes as read.
        computed: u32,
    },
    /// A log segment counts its records densely; this one is out of turn.
    BadLsn {
        /// The number that must stand here.
        expected: u64,
        /// The number that does.
        found: u64,
    },
    /// A kind or framing that this version does not define, or not in this place.
    BadKind {
        /// The kind byte.
        kind: u8,
        /// The framing byte.
        framing: u8,
    },
    /// A length or count that its kind does not allow.
    BadLength {
        /// The length found, in bytes or items.
        found: u64,
        /// The length allowed.
        allowed: u64,
    },
    /// A batch whose records do not add up to what its head announced.
    BadBatch,
    /// Bytes that must be zero are not.
    NotZero,
    /// The header names another segment than the file name does.
    WrongId {
        /// The id that was expected.
        expected: u64,
        /// The id in the header.
        found: u64,
    },
    /// The header has another salt, kind or store than the manifest says.
    WrongIdentity,
    /// A hint does not describe the segment it stands beside.
    NotBound,
    /// Bytes follow where the end was said to be.
    AfterEnd,
    /// Hint entries out of order, or an entry that points outside its segment.
    BadEntry {
        /// Index of the entry.
        index: u64,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { need, have } => write!(f, "needs {need} bytes, has {have}"),
            Self::BadMagic => f.write_str("not a file of this kind (magic)"),
            Self::BadVersion { found } => write!(
                f,
                "format version {found}, this program reads {}",
                crate::FORMAT_VERSION
            ),
            Self::BadCrc { stored, computed } => {
                write!(f, "checksum {stored:08x} stored, {computed:08x} computed")
            }
            Self::BadPlace { stored, computed } => write!(
                f,
                "record header damaged or out of place (check {stored:08x} stored, {computed:08x} computed)"
            ),
            Self::BadContent { stored, computed } => write!(
                f,
                "record content damaged (check {stored:08x} stored, {computed:08x} computed)"
            ),
            Self::BadLsn { expected, found } => {
                write!(f, "record number {found} where {expected} must stand")
            }
            Self::BadKind { kind, framing } => {
                write!(
                    f,
                    "record kind {kind} with framing {framing} is not legal here"
                )
            }
            Self::BadLength { found, allowed } => {
                write!(f, "length {found} where {allowed} is allowed")
            }
            Self::BadBatch => f.write_str("batch does not add up to its head"),
            Self::NotZero => f.write_str("reserved bytes are not zero"),
            Self::WrongId { expected, found } => {
                write!(f, "header names segment {found}, expected {expected}")
            }
            Self::WrongIdentity => f.write_str("file belongs to another store or an earlier life"),
            Self::AfterEnd => f.write_str("bytes behind the end"),
            Self::NotBound => f.write_str("hint does not describe this segment"),
            Self::BadEntry { index } => write!(f, "hint entry {index} is out of order or range"),
        }
    }
}

impl core::error::Error for DecodeError {}
