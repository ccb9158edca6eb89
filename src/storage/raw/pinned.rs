//! Bytes of a segment together with the pin that keeps them where they are.

use std::ops::Deref;
use std::ptr::NonNull;

use crate::storage::pin::{Pin, Stripe};

/// Some bytes of a pinned segment: they stay what they are for as long as this lives.
///
/// Their address stands in it, so that looking at them costs nothing: whoever has just read a record goes on
/// to its value without asking the segment's map again.
#[derive(Clone, Debug)]
pub struct PinnedBytes {
    bytes: NonNull<[u8]>,
    _pin: Pin,
}

// What the two below rest on.
const _: () = {
    const fn both<T: Send + Sync>() {}
    both::<Pin>();
};

// SAFETY: what makes it neither `Send` nor `Sync` is the pointer.
// 1. It is used as a `&[u8]` only, which is both.
// 2. What keeps the bytes, an `Arc<Stripe>`, is both.
unsafe impl Send for PinnedBytes {}
// SAFETY: as for `Send`.
unsafe impl Sync for PinnedBytes {}

/// How bytes of a segment are found: a closure, but one that can always be a part of its caller.
pub trait Find {
    /// The bytes; `None` if they are not there.
    fn find(self, stripe: &Stripe) -> Option<&[u8]>;
}

impl PinnedBytes {
    /// What `find` finds in the segment that `pin` keeps; the pin, if it finds nothing.
    #[inline(always)]
    pub fn new(pin: Pin, find: impl Find) -> Result<Self, Pin> {
        match find.find(&pin).map(NonNull::from) {
            Some(bytes) => Ok(Self { bytes, _pin: pin }),
            None => Err(pin),
        }
    }
}

impl Deref for PinnedBytes {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: `as_ref` asks for bytes that may be read, and that nobody changes, while the slice lives.
        // 1. They were a `&[u8]` when they were found, by a function that takes a `&Stripe` of any
        //    lifetime: so it was borrowed from the stripe, or from what lives for ever.
        // 2. The stripe lives: `_pin` is a counted reference to it, taken before, given to nobody, and
        //    dropped with this, which the slice borrows. A clone has a count of its own.
        // 3. It stays borrowed: while there is a count other than the own, `Arc` gives nobody a `&mut
        //    Stripe`, and none is given out here.
        unsafe { self.bytes.as_ref() }
    }
}
