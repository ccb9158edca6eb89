//! What is to be sent: bytes of our own, and large values by reference.

use std::collections::VecDeque;
use std::io::{IoSlice, Write};

use crate::protocol::reply::{Reply, Version};

/// Values up to here are copied next to their framing: cheaper than another slice of a vectored
/// write, and the segment they come from is let go at once.
const COPIED_BYTES_MAX: usize = 8 << 10;

/// Where a buffer of our own is ended and another begun, so that none grows by copying itself.
const CHUNK_BYTES: usize = 64 << 10;

/// Most slices of one vectored write; the system's limit is 1,024.
const SLICES_MAX: usize = 64;

#[derive(Debug)]
enum Chunk<V> {
    Own(Vec<u8>),
    Value(V),
}

impl<V: AsRef<[u8]>> Chunk<V> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Value(value) => value.as_ref(),
        }
    }
}

/// Encoded replies that wait to be written.
#[derive(Debug)]
pub struct Output<V> {
    chunks: VecDeque<Chunk<V>>,
    /// Bytes of the first chunk that are written.
    written: usize,
    len: usize,
    /// Bytes that waited when the last reply was appended and wait still.
    before_last: usize,
    /// A chunk of our own that was written, for the next one.
    spare: Vec<u8>,
}

impl<V> Default for Output<V> {
    fn default() -> Self {
        Self {
            chunks: VecDeque::new(),
            written: 0,
            len: 0,
            before_last: 0,
            spare: Vec::new(),
        }
    }
}

impl<V: AsRef<[u8]>> Output<V> {
    /// Nothing to write.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes that wait in front of the last reply.
    #[must_use]
    pub fn len_before_last(&self) -> usize {
        self.before_last
    }

    /// Bytes that wait and are held by copy, not by reference.
    #[must_use]
    pub fn own_len(&self) -> usize {
        let own = self.chunks.iter().map(|chunk| match chunk {
            Chunk::Own(bytes) => bytes.len(),
            Chunk::Value(_) => 0,
        });
        own.sum()
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes that wait, in order, as many pieces as one write takes.
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.written;
        let pieces = self.chunks.iter().take(SLICES_MAX);
        pieces
            .map(|chunk| IoSlice::new(&chunk.bytes()[std::mem::take(&mut skip)..]))
            .collect()
    }

    /// The first piece of the bytes that wait; empty if none do.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        self.chunks
            .front()
            .map_or(&[], |chunk| &chunk.bytes()[self.written..])
    }

    /// How many pieces wait.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.chunks.len()
    }

    /// The first `len` bytes are written.
    ///
    /// # Panics
    /// If there were not so many.
    pub fn advance(&mut self, len: usize) {
        assert!(len <= self.len, "no more is written than waits");
        self.len -= len;
        self.before_last = self.before_last.saturating_sub(len);
        self.written += len;
        while let Some(first) = self.chunks.front() {
            let bytes = first.bytes().len();
            if self.written < bytes {
                break;
            }
            self.written -= bytes;
            if let Some(Chunk::Own(mut bytes)) = self.chunks.pop_front()
                && bytes.capacity() <= 2 * CHUNK_BYTES
            {
                bytes.clear();
                self.spare = bytes;
            }
        }
    }

    /// Copies what is held by reference, so that a slow reader holds none of the store.
    pub fn detach(&mut self) {
        for (at, chunk) in self.chunks.iter_mut().enumerate() {
            if let Chunk::Value(value) = chunk {
                // Of the first one a part may be written.
                let from = match at {
                    0 => std::mem::take(&mut self.written),
                    _ => 0,
                };
                *chunk = Chunk::Own(value.as_ref()[from..].to_vec());
            }
        }
    }

    /// Appends `reply` in the form that `version` has for it.
    pub fn encode(&mut self, reply: Reply<V>, version: Version) {
        self.before_last = self.len;
        self.put(reply, version);
    }

    fn put(&mut self, reply: Reply<V>, version: Version) {
        let three = version == Version::Resp3;
        match reply {
            Reply::Simple(text) => self.line(b'+', &text),
            Reply::Error(text) => self.line(b'-', &text),
            Reply::Integer(number) => self.number(b':', number),
            Reply::Bulk(bytes) => self.bulk(&bytes),
            Reply::Value(value) => self.value(value),
            Reply::Null | Reply::NullArray if three => self.raw(b"_\r\n"),
            Reply::Null => self.raw(b"$-1\r\n"),
            Reply::NullArray => self.raw(b"*-1\r\n"),
            Reply::Array(items) => self.list(b'*', items, version),
            Reply::Set(items) => self.list(if three { b'~' } else { b'*' }, items, version),
            Reply::Push(items) => self.list(if three { b'>' } else { b'*' }, items, version),
            Reply::Map(pairs) => {
                match three {
                    true => self.count(b'%', pairs.len()),
                    false => self.count(b'*', 2 * pairs.len()),
                }
                for (key, value) in pairs {
                    self.put(key, version);
                    self.put(value, version);
                }
            }
            Reply::Bool(yes) if three => self.raw(if yes { b"#t\r\n" } else { b"#f\r\n" }),
            Reply::Bool(yes) => self.number(b':', i64::from(yes)),
            Reply::Double(number) => {
                let digits = if number.is_nan() {
                    "nan".to_owned()
                } else {
                    number.to_string()
                };
                match three {
                    true => self.line(b',', digits.as_bytes()),
                    false => self.bulk(digits.as_bytes()),
                }
            }
            Reply::BigNumber(digits) if three => self.line(b'(', &digits),
            Reply::BigNumber(digits) => self.bulk(&digits),
            Reply::Verbatim(format, text) if three => {
                self.count(b'=', text.len() + 4);
                self.raw(&format);
                self.raw(b":");
                self.raw(&text);
                self.raw(b"\r\n");
            }
            Reply::Verbatim(_, text) => self.bulk(&text),
        }
    }

    fn list(&mut self, kind: u8, items: Vec<Reply<V>>, version: Version) {
        self.count(kind, items.len());
        for item in items {
            self.put(item, version);
        }
    }

    fn count(&mut self, kind: u8, count: usize) {
        self.number(kind, count);
    }

    fn number(&mut self, kind: u8, number: impl std::fmt::Display) {
        let chunk = self.chunk(24);
        let before = chunk.len();
        chunk.push(kind);
        // Writing into a Vec cannot fail.
        let _ = write!(chunk, "{number}\r\n");
        self.len += self.last_len() - before;
    }

    /// A text on a line of its own; what would end the line early becomes a blank.
    fn line(&mut self, kind: u8, text: &[u8]) {
        let chunk = self.chunk(text.len() + 3);
        chunk.push(kind);
        let clean = |byte: &u8| match byte {
            b'\r' | b'\n' => b' ',
            byte => *byte,
        };
        chunk.extend(text.iter().map(clean));
        chunk.extend_from_slice(b"\r\n");
        self.len += text.len() + 3;
    }

    fn bulk(&mut self, bytes: &[u8]) {
        self.count(b'$', bytes.len());
        self.raw(bytes);
        self.raw(b"\r\n");
    }

    fn value(&mut self, value: V) {
        let len = value.as_ref().len();
        if len <= COPIED_BYTES_MAX {
            return self.bulk(value.as_ref());
        }
        self.count(b'$', len);
        self.chunks.push_back(Chunk::Value(value));
        self.len += len;
        self.raw(b"\r\n");
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.chunk(bytes.len()).extend_from_slice(bytes);
        self.len += bytes.len();
    }

    fn last_len(&self) -> usize {
        self.chunks.back().map_or(0, |chunk| chunk.bytes().len())
    }

    /// The chunk that `more` bytes are to be appended to. At least some are.
    fn chunk(&mut self, more: usize) -> &mut Vec<u8> {
        let fits = match self.chunks.back() {
            Some(Chunk::Own(bytes)) => bytes.len() + more <= CHUNK_BYTES || bytes.is_empty(),
            _ => false,
        };
        if !fits {
            let next = std::mem::take(&mut self.spare);
            self.chunks.push_back(Chunk::Own(next));
        }
        match self.chunks.back_mut() {
            Some(Chunk::Own(bytes)) => bytes,
            _ => unreachable!("a chunk of our own was just made sure of"),
        }
    }
}
