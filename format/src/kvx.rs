//! `kvx`: the pairs of a store as a stream, to keep, to carry elsewhere and to read back.
//!
//! ```text
//!  header, 16 bytes   | magic (8) | version u16 | 0 (2) | crc u32 of the 12 bytes before |
//!  frame              | head u32 | body u32 | index u64 | kind u8 | 0 | klen u16 | vlen u32 | body |
//!                     0          4          8           16        17  18         20         24
//!    kind 1, pair               body = key, value
//!    kind 2, expiring pair      body = expires_at u64 (Unix milliseconds), key, value
//!    kind 3, end                body = count u64, bytes u64, whole u32, 0 (4); klen 0, vlen 24
//! ```
//!
//! Invariants
//! - `head` covers bytes 4 to 23 of the frame, `body` the body: lengths are believed before the body is
//!   there, the body only when all of it is.
//! - `index` counts frames from 0: one that is lost, doubled or out of turn is noticed at once.
//! - The end frame says how many pairs and bytes came before it and the CRC-32 of all of those bytes;
//!   nothing follows it. A stream without it was cut.
//!
//! Both halves are fed by the caller, know no file and keep no bytes: [`Encoder`] returns what stands
//! before the key, [`Decoder`] borrows from the bytes at hand and says how many it needs.

use byteorder::{ByteOrder, LittleEndian};
use crc32fast::Hasher;

use crate::crc::{crc32, crc32_of_parts};
use crate::error::DecodeError;
use crate::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// First bytes of every export.
pub const MAGIC: [u8; 8] = *b"kvs-kvx\0";

/// Version of this format; a reader refuses any other.
pub const VERSION: u16 = 1;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 16;

/// Bytes of a frame before its body.
pub const FRAME_BYTES: usize = 24;

/// Bytes of the end frame.
pub const END_BYTES: usize = FRAME_BYTES + END_BODY_BYTES;

const END_BODY_BYTES: usize = 24;

const KIND_PAIR: u8 = 1;
const KIND_EXPIRING: u8 = 2;
const KIND_END: u8 = 3;

/// Bytes of a frame's beginning, at most: with the time of expiry.
const PREFIX_BYTES_MAX: usize = FRAME_BYTES + 8;

/// What stands before the key in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    bytes: [u8; PREFIX_BYTES_MAX],
    len: usize,
}

impl core::ops::Deref for Prefix {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Writes an export: [`Encoder::header`], then for each pair its [`Encoder::pair`], key and value, then
/// [`Encoder::end`].
#[derive(Clone, Debug)]
pub struct Encoder {
    index: u64,
    bytes: u64,
    whole: Hasher,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// At the beginning of an export.
    #[must_use]
    pub fn new() -> Self {
        let mut whole = Hasher::new();
        whole.update(&Self::header());
        Self {
            index: 0,
            bytes: HEADER_BYTES as u64,
            whole,
        }
    }

    /// The 16 bytes at the beginning.
    #[must_use]
    pub fn header() -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        LittleEndian::write_u16(&mut bytes[8..10], VERSION);
        let crc = crc32(&bytes[..12]);
        LittleEndian::write_u32(&mut bytes[12..], crc);
        bytes
    }

    /// What stands before `key` and `value` in the stream; the caller writes the three in turn.
    ///
    /// `expires_at`: Unix milliseconds from which on the pair counts as removed.
    ///
    /// # Errors
    /// [`DecodeError::BadLength`] if the key or the value is longer than a store can hold.
    pub fn pair(
        &mut self,
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) -> Result<Prefix, DecodeError> {
        check_lengths(key.len() as u64, value.len() as u64)?;
        let mut prefix = Prefix {
            bytes: [0; PREFIX_BYTES_MAX],
            len: FRAME_BYTES,
        };
        let mut kind = KIND_PAIR;
        if let Some(at) = expires_at {
            kind = KIND_EXPIRING;
            prefix.len = PREFIX_BYTES_MAX;
            LittleEndian::write_u64(&mut prefix.bytes[FRAME_BYTES..], at);
        }
        let body = crc32_of_parts(&[&prefix[FRAME_BYTES..], key, value]);
        let frame = frame(self.index, kind, key.len() as u16, value.len() as u32, body);
        prefix.bytes[..FRAME_BYTES].copy_from_slice(&frame);
        for part in [&prefix[..], key, value] {
            self.whole.update(part);
            self.bytes += part.len() as u64;
        }
        self.index += 1;
        Ok(prefix)
    }

    /// How many pairs have been encoded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.index
    }

    /// The end frame: the last bytes of the stream.
    #[must_use]
    pub fn end(self) -> [u8; END_BYTES] {
        let mut bytes = [0u8; END_BYTES];
        let body = &mut bytes[FRAME_BYTES..];
        LittleEndian::write_u64(&mut body[0..8], self.index);
        LittleEndian::write_u64(&mut body[8..16], self.bytes);
        LittleEndian::write_u32(&mut body[16..20], self.whole.finalize());
        let crc = crc32(body);
        let frame = frame(self.index, KIND_END, 0, END_BODY_BYTES as u32, crc);
        bytes[..FRAME_BYTES].copy_from_slice(&frame);
        bytes
    }
}

fn frame(index: u64, kind: u8, key_len: u16, value_len: u32, body: u32) -> [u8; FRAME_BYTES] {
    let mut bytes = [0u8; FRAME_BYTES];
    LittleEndian::write_u32(&mut bytes[4..8], body);
    LittleEndian::write_u64(&mut bytes[8..16], index);
    bytes[16] = kind;
    LittleEndian::write_u16(&mut bytes[18..20], key_len);
    LittleEndian::write_u32(&mut bytes[20..24], value_len);
    let head = crc32(&bytes[4..]);
    LittleEndian::write_u32(&mut bytes[..4], head);
    bytes
}

fn check_lengths(key: u64, value: u64) -> Result<(), DecodeError> {
    for (found, allowed) in [(key, KEY_BYTES_MAX as u64), (value, VALUE_BYTES_MAX as u64)] {
        if found > allowed {
            return Err(DecodeError::BadLength { found, allowed });
        }
    }
    Ok(())
}

/// One pair of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Unix milliseconds from which on the pair counts as removed.
    pub expires_at: Option<u64>,
}

/// What the bytes at hand give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The next frame needs this many bytes in all; there are fewer.
    NeedMore(u64),
    /// The header was here: drop `used` bytes from the front.
    Header {
        /// Bytes of it.
        used: usize,
    },
    /// A pair: drop `used` bytes from the front.
    Pair {
        /// The pair.
        pair: Pair<'a>,
        /// Bytes of its frame.
        used: usize,
    },
    /// The end, and all is well if no byte follows: drop `used` bytes from the front.
    End {
        /// Pairs that came before.
        count: u64,
        /// Bytes of the end frame.
        used: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Frames,
    End,
}

/// Reads an export from bytes that come in any portions.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    index: u64,
    bytes: u64,
    whole: Hasher,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// At the beginning of an export.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Header,
            index: 0,
            bytes: 0,
            whole: Hasher::new(),
        }
    }

    /// Bytes before the next frame: where an error stands.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.bytes
    }

    /// Whether the end frame has been read.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.state == State::End
    }

    /// Reads one frame from the front of `bytes`, which begin at [`Decoder::offset`].
    ///
    /// Takes nothing if it answers with [`Step::NeedMore`] or an error: it may be called again with
    /// more. Call it with what is left, however little, when no more will come: after the end frame
    /// any byte is an error, and before it [`Step::NeedMore`] means that the stream was cut.
    ///
    /// # Errors
    /// Whatever makes the bytes no export.
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, DecodeError> {
        match self.state {
            State::Header => self.header(bytes),
            State::Frames => self.frame(bytes),
            State::End if bytes.is_empty() => Ok(Step::NeedMore(0)),
            State::End => Err(DecodeError::AfterEnd),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> usize {
        self.whole.update(bytes);
        self.bytes += bytes.len() as u64;
        bytes.len()
    }

    fn header<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, DecodeError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(DecodeError::BadMagic);
        }
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(Step::NeedMore(HEADER_BYTES as u64));
        };
        check(&header[12..], &header[..12])?;
        let found = LittleEndian::read_u16(&header[8..10]);
        if found != VERSION {
            return Err(DecodeError::BadVersion { found });
        }
        if header[10..12] != [0; 2] {
            return Err(DecodeError::NotZero);
        }
        self.state = State::Frames;
        let used = self.take(header);
        Ok(Step::Header { used })
    }

    fn frame<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, DecodeError> {
        let Some(frame) = bytes.first_chunk::<FRAME_BYTES>() else {
            return Ok(Step::NeedMore(FRAME_BYTES as u64));
        };
        check(&frame[..4], &frame[4..])?;
        let found = LittleEndian::read_u64(&frame[8..16]);
        if found != self.index {
            return Err(DecodeError::BadLsn {
                expected: self.index,
                found,
            });
        }
        if frame[17] != 0 {
            return Err(DecodeError::NotZero);
        }
        let key_len = usize::from(LittleEndian::read_u16(&frame[18..20]));
        let value_len = LittleEndian::read_u32(&frame[20..24]);
        let extension = match frame[16] {
            KIND_PAIR => 0,
            KIND_EXPIRING => 8,
            KIND_END => return self.end(bytes, key_len, value_len),
            kind => return Err(DecodeError::BadKind { kind, framing: 0 }),
        };
        check_lengths(key_len as u64, u64::from(value_len))?;
        let size = (FRAME_BYTES + extension + key_len) as u64 + u64::from(value_len);
        let Some(all) = usize::try_from(size)
            .ok()
            .and_then(|size| bytes.get(..size))
        else {
            return Ok(Step::NeedMore(size));
        };
        let body = &all[FRAME_BYTES..];
        check(&frame[4..8], body)?;
        let (expiry, rest) = body.split_at(extension);
        let (key, value) = rest.split_at(key_len);
        let expires_at = (extension > 0).then(|| LittleEndian::read_u64(expiry));
        let used = self.take(all);
        self.index += 1;
        let pair = Pair {
            key,
            value,
            expires_at,
        };
        Ok(Step::Pair { pair, used })
    }

    fn end<'a>(
        &mut self,
        bytes: &'a [u8],
        key_len: usize,
        value_len: u32,
    ) -> Result<Step<'a>, DecodeError> {
        if key_len != 0 || value_len as usize != END_BODY_BYTES {
            return Err(DecodeError::BadLength {
                found: key_len as u64 + u64::from(value_len),
                allowed: END_BODY_BYTES as u64,
            });
        }
        let Some(all) = bytes.first_chunk::<END_BYTES>() else {
            return Ok(Step::NeedMore(END_BYTES as u64));
        };
        let body = &all[FRAME_BYTES..];
        check(&all[4..8], body)?;
        for (at, allowed) in [(0, self.index), (8, self.bytes)] {
            let found = LittleEndian::read_u64(&body[at..at + 8]);
            if found != allowed {
                return Err(DecodeError::BadLength { found, allowed });
            }
        }
        let stored = LittleEndian::read_u32(&body[16..20]);
        let computed = self.whole.clone().finalize();
        if stored != computed {
            return Err(DecodeError::BadCrc { stored, computed });
        }
        if body[20..] != [0; 4] {
            return Err(DecodeError::NotZero);
        }
        self.state = State::End;
        let count = self.index;
        let used = self.take(all);
        Ok(Step::End { count, used })
    }
}

/// The four bytes `check` against the CRC-32 of `covered`.
fn check(check: &[u8], covered: &[u8]) -> Result<(), DecodeError> {
    let (stored, computed) = (LittleEndian::read_u32(check), crc32(covered));
    if stored != computed {
        return Err(DecodeError::BadCrc { stored, computed });
    }
    Ok(())
}
