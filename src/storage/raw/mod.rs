//! All `unsafe` of the library, behind what is safe to call.

pub mod checksum;
pub mod mmap;
pub mod pinned;
pub mod prefetch;
