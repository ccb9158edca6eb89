//! Keys and values as they stand in the mapped segment: nothing is copied.

use std::fmt;
use std::ops::Deref;

use kvs_format::record::Kind;

use crate::engine::expiry::Expiry;
use crate::storage::pin::Pin;

/// Some bytes of a pinned segment.
#[derive(Clone)]
struct Slice {
    pin: Pin,
    offset: u64,
    len: u32,
    /// The 8 bytes before it say when its record expires.
    stamped: bool,
}

impl Slice {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.pin
            .map
            .slice(self.offset, u64::from(self.len))
            .expect("what was published once stays published")
    }
}

macro_rules! borrowed_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Slice);

        impl $name {
            #[inline]
            pub(crate) fn new(pin: Pin, offset: u64, len: u32) -> Self {
                Self(Slice {
                    pin,
                    offset,
                    len,
                    stamped: false,
                })
            }
        }

        impl Deref for $name {
            type Target = [u8];

            #[inline]
            fn deref(&self) -> &[u8] {
                self.0.bytes()
            }
        }

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

borrowed_bytes! {
    /// A value in the mapped segment it was written to.
    ///
    /// `'static` and `Send`: it outlives overwriting, compaction and the store handle. As long as it
    /// lives, the disk space of its segment is not given back, so copy it out if you hold it for long.
    /// Cost: one atomic increment to make or clone, one decrement to drop.
    Value
}

borrowed_bytes! {
    /// A key in the mapped segment it was written to; lives like a [`Value`].
    Key
}

impl Key {
    /// The key of a record; if that `expires`, the 8 bytes before the key say when.
    #[inline]
    pub(crate) fn of_record(pin: Pin, offset: u64, len: u32, expires: bool) -> Self {
        let mut key = Self::new(pin, offset, len);
        key.0.stamped = expires;
        key
    }

    /// When the key expires, in the version it was found in.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        let Slice {
            pin,
            offset,
            stamped,
            ..
        } = &self.0;
        let extension = Kind::SetExpiring.extension();
        let bytes = match stamped {
            true => pin.map.slice(offset - extension, extension),
            false => None,
        };
        match bytes.and_then(|bytes| bytes.first_chunk()) {
            Some(bytes) => Expiry::At(u64::from_le_bytes(*bytes)),
            None => Expiry::Never,
        }
    }
}
