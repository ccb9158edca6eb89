//! The bytes of a `kvs` store, and nothing else.
//!
//! `SPEC.md` beside this crate is the normative text; these modules are its Rust form. Everything
//! here works on byte slices that somebody else read or will write: no files, no clock, no threads,
//! no `unsafe`, and reading allocates nothing, whatever the bytes say.
//!
//! | module | what it knows |
//! |---|---|
//! | [`record`] | the 24-byte record header, its two checks, encoding and decoding |
//! | [`system`] | what the store writes about itself: LINK, MARK, FOOTER, batch heads |
//! | [`segment`] | the immutable first page of a segment file |
//! | [`scan`] | a run of bytes -> records, then why the run ended |
//! | [`manifest`] | the edits of the one authoritative file |
//! | [`hint`] | a segment's keys and locations without its values |
//! | [`kvx`] | the export of a store: a stream of pairs, checked one by one and as a whole |
//! | [`hash`] | the keyed 128-bit fingerprint of a key |
//! | [`crc`] | the one checksum, and exactly which bytes it covers |
//! | `clmul` | the same checksum by wide instructions, for x86-64 processors that have them |
//! | [`name`] | file name <-> segment id |
//!
//! Order of belief, the same in every decoder: bound a length by the bytes at hand, check the bytes
//! as they were read, only then use a field.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "std")]
extern crate std;

#[cfg(target_arch = "x86_64")]
pub mod clmul;
pub mod crc;
pub mod error;
pub mod hash;
pub mod hint;
pub mod kvx;
pub mod manifest;
pub mod name;
pub mod record;
pub mod scan;
pub mod segment;
pub mod system;

pub use error::DecodeError;

/// Version of every file of this format; a reader refuses any other.
pub const FORMAT_VERSION: u16 = 1;

/// Records, manifest edits and hint tables start at multiples of this many bytes.
pub const ALIGN: u64 = 8;

/// Longest key in bytes: the length field has 16 bits. The empty key is a key like any other.
pub const KEY_BYTES_MAX: usize = 65_535;

/// Longest value in bytes: 4 GiB less 128 KiB, so that a record with the longest key, the first
/// page and the closing records of its segment always end below [`SEGMENT_BYTES_MAX`].
pub const VALUE_BYTES_MAX: usize = 0xFFFE_0000;

/// Longest segment file in bytes, so that an offset fits 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 32;

const _: () = assert!(
    segment::PAGE_BYTES
        + record::size_of_record(record::Kind::SetExpiring, KEY_BYTES_MAX, VALUE_BYTES_MAX)
        + system::CLOSING_BYTES
        <= SEGMENT_BYTES_MAX
);

/// `len` rounded up to the next multiple of [`ALIGN`].
#[must_use]
pub const fn aligned(len: u64) -> u64 {
    (len + (ALIGN - 1)) & !(ALIGN - 1)
}
