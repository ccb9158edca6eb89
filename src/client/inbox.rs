//! Bytes of replies between a socket and the decoder.

use crate::client::error::ClientResult;
use crate::protocol::{DecodeStep, Reply, ReplyDecoder};

/// Longest reply that a client takes.
const REPLY_BYTES_MAX: usize = 1 << 30;

/// Bytes of requests that are sent before replies are read. Small enough that a server which waits
/// for its replies to be read has taken them all, so both sides never wait for each other.
pub const WINDOW_BYTES: usize = 32 << 10;

#[derive(Debug)]
pub struct Inbox {
    decoder: ReplyDecoder,
    /// Bytes read and not yet understood stand in `start..end`; the rest is room.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            decoder: ReplyDecoder::new(REPLY_BYTES_MAX),
            bytes: vec![0; 16 << 10],
            start: 0,
            end: 0,
        }
    }
}

impl Inbox {
    /// The next reply, if all of it is here. What nobody asked for is passed over.
    pub fn next(&mut self) -> ClientResult<Option<Reply>> {
        loop {
            match self.decoder.step(&self.bytes[self.start..self.end])? {
                DecodeStep::Reply { reply, used } => {
                    self.start += used;
                    if !matches!(reply, Reply::Push(_)) {
                        return Ok(Some(reply));
                    }
                }
                DecodeStep::NeedMore { used } => {
                    self.start += used;
                    return Ok(None);
                }
            }
        }
    }

    /// Room to read into, never empty.
    pub fn space(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.bytes.len() {
            self.bytes.resize(2 * self.end, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were read into the room.
    pub fn filled(&mut self, len: usize) {
        self.end += len;
    }
}
