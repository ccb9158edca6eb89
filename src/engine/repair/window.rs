//! Reading a file of which parts may be unreadable.
//!
//! What cannot be read reads as zeros, a page at a time, and is remembered: no record that lies in it
//! passes its checks, and the range is reported as what it is.

use std::io;

use crate::storage::fs::FsFile;

/// Bytes read at a time.
const CHUNK_BYTES: u64 = 256 << 10;

/// Bytes tried again one by one when a chunk cannot be read: what a device loses at a time.
const PAGE_BYTES: u64 = 4096;

/// A view that moves over a file.
pub struct Window<'a, F: FsFile> {
    file: &'a F,
    len: u64,
    buffer: Vec<u8>,
    start: u64,
    /// Where reading failed: offset and length, and the first error.
    pub unreadable: Vec<(u64, u64, io::Error)>,
}

impl<'a, F: FsFile> Window<'a, F> {
    /// Over the first `len` bytes. Those the file does not have read as zeros.
    pub fn new(file: &'a F, len: u64) -> Self {
        Self {
            file,
            len,
            buffer: Vec::new(),
            start: 0,
            unreadable: Vec::new(),
        }
    }

    /// The bytes from `offset` on, `want` of them, or up to the end.
    pub fn at(&mut self, offset: u64, want: u64) -> &[u8] {
        let want = want.min(self.len.saturating_sub(offset));
        let end = self.start + self.buffer.len() as u64;
        if offset < self.start || offset + want > end {
            self.fill(
                offset,
                want.max(CHUNK_BYTES).min(self.len.saturating_sub(offset)),
            );
        }
        let from = (offset - self.start) as usize;
        &self.buffer[from..from + want as usize]
    }

    /// All of it, and what of it could not be read.
    pub fn whole(mut self) -> (Vec<u8>, Vec<(u64, u64, io::Error)>) {
        let len = self.len;
        self.at(0, len);
        (self.buffer, self.unreadable)
    }

    fn fill(&mut self, offset: u64, len: u64) {
        self.start = offset;
        self.buffer.clear();
        self.buffer.resize(len as usize, 0);
        if read(self.file, offset, &mut self.buffer).is_ok() {
            return;
        }
        self.buffer.fill(0);
        let mut at = 0;
        while at < len {
            // Up to the next boundary of the file's pages.
            let n = (PAGE_BYTES - (offset + at) % PAGE_BYTES).min(len - at);
            let page = &mut self.buffer[at as usize..(at + n) as usize];
            if let Err(error) = read(self.file, offset + at, page) {
                page.fill(0);
                self.note(offset + at, n, error);
            }
            at += n;
        }
    }

    fn note(&mut self, offset: u64, len: u64, error: io::Error) {
        let covers =
            |(from, n, _): &&mut (u64, u64, io::Error)| (*from..=*from + *n).contains(&offset);
        match self.unreadable.iter_mut().find(covers) {
            Some((from, n, _)) => *n = (*n).max(offset + len - *from),
            None => self.unreadable.push((offset, len, error)),
        }
    }
}

/// Reads as much as the file has; the rest stays as it is.
fn read<F: FsFile>(file: &F, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(offset, buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                offset += n as u64;
                buffer = &mut buffer[n..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
