//! Keys and values as they stand in the mapped segment: nothing is copied.

use std::fmt;
use std::ops::Deref;

use kvs_format::record::Kind;

use crate::engine::expiry::Expiry;
use crate::storage::pin::{Pin, Stripe};
use crate::storage::raw::pinned::{Find, PinnedBytes};

/// Where published bytes stand.
struct Place {
    offset: u64,
    len: u64,
}

impl Find for Place {
    #[inline]
    fn find(self, stripe: &Stripe) -> Option<&[u8]> {
        stripe.map.slice(self.offset, self.len)
    }
}

/// The `len` bytes at `offset` of a pinned segment.
#[inline]
fn pinned(pin: Pin, offset: u64, len: u64) -> PinnedBytes {
    PinnedBytes::new(pin, Place { offset, len }).expect("what was published once stays published")
}

macro_rules! borrowed_bytes {
    ($name:ident) => {
        impl AsRef<[u8]> for $name {
            #[inline]
            fn as_ref(&self) -> &[u8] {
                self
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(\"{}\")", stringify!($name), self.escape_ascii())
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                **self == **other
            }
        }

        impl Eq for $name {}

        impl PartialEq<[u8]> for $name {
            fn eq(&self, other: &[u8]) -> bool {
                **self == *other
            }
        }

        impl PartialEq<&[u8]> for $name {
            fn eq(&self, other: &&[u8]) -> bool {
                **self == **other
            }
        }

        impl<const N: usize> PartialEq<&[u8; N]> for $name {
            fn eq(&self, other: &&[u8; N]) -> bool {
                **self == other[..]
            }
        }

        impl From<$name> for Vec<u8> {
            fn from(bytes: $name) -> Vec<u8> {
                bytes.to_vec()
            }
        }
    };
}

/// A value in the mapped segment it was written to.
///
/// `'static` and `Send`: it outlives overwriting, compaction and the store handle. As long as it
/// lives, the disk space of its segment is not given back, so copy it out if you hold it for long.
/// Cost: one atomic increment to make or clone, one decrement to drop.
#[derive(Clone)]
pub struct Value(PinnedBytes);

/// A key in the mapped segment it was written to; lives like a [`Value`].
#[derive(Clone)]
pub struct Key {
    /// With when it expires before it, if it does.
    bytes: PinnedBytes,
    expires: bool,
}

borrowed_bytes!(Value);
borrowed_bytes!(Key);

impl Value {
    #[inline]
    pub(crate) fn new(pin: Pin, offset: u64, len: u32) -> Self {
        Self(pinned(pin, offset, len.into()))
    }

    #[inline(always)]
    pub(crate) fn of(bytes: PinnedBytes) -> Self {
        Self(bytes)
    }
}

impl Deref for Value {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes that say when a key expires.
const STAMP_BYTES: u64 = Kind::SetExpiring.extension();

impl Key {
    /// The key of a record; if that `expires`, the 8 bytes before the key say when.
    #[inline]
    pub(crate) fn of_record(pin: Pin, offset: u64, len: u32, expires: bool) -> Self {
        let stamp = if expires { STAMP_BYTES } else { 0 };
        Self {
            bytes: pinned(pin, offset - stamp, stamp + u64::from(len)),
            expires,
        }
    }

    /// When the key expires, in the version it was found in.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        match self.bytes.first_chunk() {
            Some(stamp) if self.expires => Expiry::At(u64::from_le_bytes(*stamp)),
            _ => Expiry::Never,
        }
    }
}

impl Deref for Key {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self.expires {
            true => &self.bytes[STAMP_BYTES as usize..],
            false => &self.bytes,
        }
    }
}
