//! Files and maps: the floor that touches the operating system.
//!
//! [`fs`] is the seam: everything above goes through its traits, so that tests can put a simulated
//! file system underneath ([`sim`], feature `testing`) that crashes at any operation. [`raw`] holds
//! every line of `unsafe` in the library.
//!
//! Elsewhere: what the bytes mean (`kvs_format`), which segments there are (`engine::catalog`).

pub mod beside;
pub mod buffer;
pub mod error;
pub mod fs;
pub mod location;
pub mod memory;
pub mod pin;
pub mod published;
#[allow(unsafe_code)]
pub mod raw;
pub mod real;
pub mod window;

#[cfg(feature = "testing")]
pub mod sim;
