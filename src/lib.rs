//! Embedded, memory-mapped, crash-safe key-value store with zero-copy reads.
#![deny(unsafe_code)]

mod index;
mod storage;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing {
    //! The file system seam and its simulation.
    pub use crate::storage::fs::{Access, Fs, FsFile};
    pub use crate::storage::real::RealFs;
    pub use crate::storage::sim;
}
