//! Replies as a client reads them.

use crate::protocol::error::ProtocolError;
use crate::protocol::number::{float, integer};
use crate::protocol::reply::Reply;

/// The longest line but for errors and simple strings; a big number may need some.
const LINE_BYTES_MAX: usize = 64 << 10;

/// How deep lists may stand in lists. Redis' deepest reply, that of `COMMAND DOCS`, has 8.
const DEPTH_MAX: usize = 32;

/// What [`ReplyDecoder::step`] found.
#[derive(Debug, PartialEq)]
pub enum DecodeStep {
    /// A whole reply. Drop `used` bytes from the front of the buffer before the next call.
    Reply {
        /// The reply.
        reply: Reply,
        /// Bytes taken since the last call that took some.
        used: usize,
    },
    /// The reply is not complete. Drop `used` bytes, they are understood; call again with more.
    NeedMore {
        /// Bytes that are done with.
        used: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Array,
    Set,
    Push,
    Map,
    /// Something to know beside the reply that follows; read and dropped.
    Attribute,
}

#[derive(Debug)]
struct Open {
    kind: Kind,
    left: u64,
    items: Vec<Reply>,
}

#[derive(Clone, Copy, Debug)]
enum Blob {
    Bulk,
    Error,
    Verbatim,
}

/// Finds replies in a growing buffer. Understands both versions, whichever was asked for.
///
/// ```
/// use kvs::protocol::{DecodeStep, Reply, ReplyDecoder};
///
/// let mut decoder = ReplyDecoder::new(1 << 20);
/// let step = decoder.step(b"*2\r\n:1\r\n:").unwrap();
/// assert_eq!(step, DecodeStep::NeedMore { used: 8 });
/// let step = decoder.step(b":2\r\n").unwrap();
/// let reply = Reply::Array(vec![Reply::Integer(1), Reply::Integer(2)]);
/// assert_eq!(step, DecodeStep::Reply { reply, used: 4 });
/// ```
#[derive(Debug)]
pub struct ReplyDecoder {
    reply_bytes_max: usize,
    /// Bytes of the reply so far.
    bytes: usize,
    /// Bytes of the current line that were searched for its end.
    searched: usize,
    /// A string whose announcement was read.
    blob: Option<(Blob, usize)>,
    open: Vec<Open>,
}

enum Item {
    Whole(Reply),
    Begun,
}

impl ReplyDecoder {
    /// At the start of a stream of replies of at most `reply_bytes_max` bytes each.
    #[must_use]
    pub fn new(reply_bytes_max: usize) -> Self {
        Self {
            reply_bytes_max,
            bytes: 0,
            searched: 0,
            blob: None,
            open: Vec::new(),
        }
    }

    /// Goes on with the reply; `buffer` begins behind what was dropped.
    ///
    /// # Errors
    /// A [`ProtocolError`]; from then on the stream cannot be understood.
    pub fn step(&mut self, buffer: &[u8]) -> Result<DecodeStep, ProtocolError> {
        let mut used = 0;
        loop {
            let before = used;
            let Some(item) = self.item(buffer, &mut used)? else {
                let pending = buffer.len() - used;
                if self.bytes + pending > self.reply_bytes_max {
                    return Err(ProtocolError::ReplyLength);
                }
                return Ok(DecodeStep::NeedMore { used });
            };
            self.bytes += used - before;
            if self.bytes > self.reply_bytes_max {
                return Err(ProtocolError::ReplyLength);
            }
            let Item::Whole(reply) = item else { continue };
            if let Some(reply) = self.place(reply) {
                self.bytes = 0;
                return Ok(DecodeStep::Reply { reply, used });
            }
        }
    }

    /// Puts `item` where it belongs; gives back the reply that it completes.
    fn place(&mut self, mut item: Reply) -> Option<Reply> {
        loop {
            let Some(open) = self.open.last_mut() else {
                return Some(item);
            };
            open.items.push(item);
            open.left -= 1;
            if open.left > 0 {
                return None;
            }
            let open = self.open.pop()?;
            match open.kind {
                Kind::Attribute => return None,
                kind => item = close(kind, open.items),
            }
        }
    }

    /// The next thing that stands at `used`, if all of it is there; steps over it.
    fn item(&mut self, buffer: &[u8], used: &mut usize) -> Result<Option<Item>, ProtocolError> {
        if let Some((kind, len)) = self.blob {
            let Some(rest) = buffer[*used..].get(len..) else {
                return Ok(None);
            };
            match rest {
                [] | [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => {}
                _ => return Err(ProtocolError::ExpectedEnd),
            }
            let bytes = buffer[*used..*used + len].to_vec();
            *used += len + 2;
            self.blob = None;
            return whole_blob(kind, bytes).map(|reply| Some(Item::Whole(reply)));
        }
        let rest = &buffer[*used..];
        let from = self.searched.min(rest.len());
        let Some(end) = rest[from..].iter().position(|byte| *byte == b'\n') else {
            self.searched = rest.len();
            return match rest.len() > LINE_BYTES_MAX {
                true => Err(ProtocolError::HeaderTooLong),
                false => Ok(None),
            };
        };
        let end = from + end;
        self.searched = 0;
        *used += end + 1;
        let [kind, line @ ..] = &rest[..end] else {
            return Err(ProtocolError::UnknownType { got: b'\n' });
        };
        let Some(line) = line.strip_suffix(b"\r") else {
            return Err(ProtocolError::ExpectedEnd);
        };
        let reply = match kind {
            b'+' => Reply::Simple(line.to_vec().into()),
            b'-' => Reply::Error(line.to_vec().into()),
            b':' => Reply::Integer(integer(line).ok_or(ProtocolError::BadReply)?),
            b'_' if line.is_empty() => Reply::Null,
            b'#' if line == b"t" => Reply::Bool(true),
            b'#' if line == b"f" => Reply::Bool(false),
            b',' if line == b"nan" => Reply::Double(f64::NAN),
            b',' => Reply::Double(float(line).ok_or(ProtocolError::BadReply)?),
            b'(' if is_big_number(line) => Reply::BigNumber(line.to_vec()),
            b'$' if line == b"-1" => Reply::Null,
            b'*' if line == b"-1" => Reply::NullArray,
            b'$' => return self.begin_blob(Blob::Bulk, line),
            b'!' => return self.begin_blob(Blob::Error, line),
            b'=' => return self.begin_blob(Blob::Verbatim, line),
            b'*' => return self.begin_list(Kind::Array, line),
            b'~' => return self.begin_list(Kind::Set, line),
            b'>' => return self.begin_list(Kind::Push, line),
            b'%' => return self.begin_list(Kind::Map, line),
            b'|' => return self.begin_list(Kind::Attribute, line),
            b'_' | b'#' | b'(' => return Err(ProtocolError::BadReply),
            got => return Err(ProtocolError::UnknownType { got: *got }),
        };
        Ok(Some(Item::Whole(reply)))
    }

    fn begin_blob(&mut self, kind: Blob, line: &[u8]) -> Result<Option<Item>, ProtocolError> {
        let len = length(line)?;
        let len = usize::try_from(len).map_err(|_| ProtocolError::ReplyLength)?;
        if len > self.reply_bytes_max {
            return Err(ProtocolError::ReplyLength);
        }
        self.blob = Some((kind, len));
        Ok(Some(Item::Begun))
    }

    fn begin_list(&mut self, kind: Kind, line: &[u8]) -> Result<Option<Item>, ProtocolError> {
        let mut left = length(line)?;
        // An item has at least three bytes.
        if left > self.reply_bytes_max as u64 / 3 {
            return Err(ProtocolError::ReplyLength);
        }
        if matches!(kind, Kind::Map | Kind::Attribute) {
            left *= 2;
        }
        let items = Vec::new();
        match (left, kind) {
            (0, Kind::Attribute) => return Ok(Some(Item::Begun)),
            (0, kind) => return Ok(Some(Item::Whole(close(kind, items)))),
            _ if self.open.len() >= DEPTH_MAX => return Err(ProtocolError::TooDeep),
            _ => self.open.push(Open { kind, left, items }),
        }
        Ok(Some(Item::Begun))
    }
}

fn length(line: &[u8]) -> Result<u64, ProtocolError> {
    let number = integer(line).ok_or(ProtocolError::BadReply)?;
    u64::try_from(number).map_err(|_| ProtocolError::BadReply)
}

fn is_big_number(line: &[u8]) -> bool {
    let digits = line.strip_prefix(b"-").unwrap_or(line);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn whole_blob(kind: Blob, bytes: Vec<u8>) -> Result<Reply, ProtocolError> {
    Ok(match kind {
        Blob::Bulk => Reply::Bulk(bytes),
        Blob::Error => Reply::Error(bytes.into()),
        Blob::Verbatim => match bytes.split_first_chunk::<4>() {
            Some((&[a, b, c, b':'], text)) => Reply::Verbatim([a, b, c], text.to_vec()),
            _ => return Err(ProtocolError::BadReply),
        },
    })
}

fn close(kind: Kind, items: Vec<Reply>) -> Reply {
    match kind {
        Kind::Set => Reply::Set(items),
        Kind::Push => Reply::Push(items),
        Kind::Map => {
            let mut items = items.into_iter();
            let pairs = std::iter::from_fn(|| Some((items.next()?, items.next()?)));
            Reply::Map(pairs.collect())
        }
        Kind::Array | Kind::Attribute => Reply::Array(items),
    }
}
