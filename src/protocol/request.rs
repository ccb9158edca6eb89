//! Requests: where the arguments of the next command stand in the bytes received so far.

use std::ops::Range;

use crate::protocol::error::ProtocolError;
use crate::protocol::number::integer;

/// The longest line that announces a length: a sign, 19 digits, and what surrounds them.
const HEADER_BYTES_MAX: usize = 32;

/// The longest inline line: `PING`, blanks, and its end.
const INLINE_BYTES_MAX: usize = 64;

/// How much of a request is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most arguments, the command's name included.
    pub args: usize,
    /// Longest argument, in bytes.
    pub arg_bytes: usize,
    /// All arguments and their framing, in bytes.
    pub request_bytes: usize,
    /// These are the limits before `AUTH`: errors say so.
    pub before_auth: bool,
}

impl Limits {
    /// Before `AUTH`, where there is a password: Redis' own, 10 arguments of 16 KiB.
    pub const BEFORE_AUTH: Self = Self {
        args: 10,
        arg_bytes: 16 << 10,
        request_bytes: 164 << 10,
        before_auth: true,
    };
}

impl Default for Limits {
    /// 1,024 arguments; 64 MiB an argument; 65 MiB together.
    fn default() -> Self {
        Self {
            args: 1024,
            arg_bytes: 64 << 20,
            request_bytes: 65 << 20,
            before_auth: false,
        }
    }
}

/// What [`RequestParser::step`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A whole request: where its arguments are. Drop `used` bytes from the front of the buffer
    /// before the next call. No arguments (an empty line or array): nothing is asked.
    Request {
        /// Ranges of the buffer, the command's name first.
        args: &'a [Range<usize>],
        /// Bytes of the request.
        used: usize,
    },
    /// The request is not complete: call again with the same bytes and more behind them.
    NeedMore,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before the first byte.
    Start,
    /// In the line `*n`.
    Array,
    /// In a line that begins with something else.
    Inline,
    /// In the line `$n` of an argument.
    Bulk,
    /// In an argument of so many bytes.
    Argument(usize),
}

/// Finds requests in a growing buffer.
///
/// ```
/// use kvs::protocol::{Limits, RequestParser, Step};
///
/// let mut parser = RequestParser::new(Limits::default());
/// assert_eq!(parser.step(b"*1\r\n$4\r\nPI"), Ok(Step::NeedMore));
/// let bytes = b"*1\r\n$4\r\nPING\r\n";
/// let Ok(Step::Request { args, used }) = parser.step(bytes) else { panic!() };
/// assert_eq!((&bytes[args[0].clone()], used), (&b"PING"[..], 14));
/// ```
#[derive(Debug)]
pub struct RequestParser {
    limits: Limits,
    state: State,
    /// First byte not yet understood.
    at: usize,
    /// First byte of the current line not yet searched for its end.
    searched: usize,
    /// Arguments still to come.
    left: usize,
    args: Vec<Range<usize>>,
}

impl RequestParser {
    /// At the start of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Start,
            at: 0,
            searched: 0,
            left: 0,
            args: Vec::new(),
        }
    }

    /// Other limits, from the next length that is announced on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Goes on with the request that `buffer` begins with.
    ///
    /// After [`Step::NeedMore`], `buffer` must begin with the bytes it had then.
    ///
    /// # Errors
    /// A [`ProtocolError`]; from then on the stream cannot be understood.
    pub fn step(&mut self, buffer: &[u8]) -> Result<Step<'_>, ProtocolError> {
        loop {
            match self.state {
                State::Start => {
                    self.at = 0;
                    self.searched = 0;
                    self.args.clear();
                    self.state = match buffer.first() {
                        None => return Ok(Step::NeedMore),
                        Some(b'*') => State::Array,
                        Some(_) => State::Inline,
                    };
                }
                State::Array => {
                    let Some(count) = self.length(buffer)? else {
                        return Ok(Step::NeedMore);
                    };
                    let too_many = match self.limits.before_auth {
                        true => ProtocolError::ArrayLengthBeforeAuth,
                        false => ProtocolError::ArrayLength,
                    };
                    let count = count.ok_or(ProtocolError::ArrayLength)?;
                    // As Redis does: an array of less than nothing asks nothing.
                    self.left = usize::try_from(count.max(0)).map_err(|_| too_many)?;
                    if self.left > self.limits.args {
                        return Err(too_many);
                    }
                    match self.left {
                        0 => return Ok(self.done()),
                        _ => self.state = State::Bulk,
                    }
                }
                State::Bulk => {
                    match buffer.get(self.at) {
                        None => return Ok(Step::NeedMore),
                        Some(b'$') => {}
                        Some(&got) => return Err(ProtocolError::ExpectedBulk { got }),
                    }
                    let Some(len) = self.length(buffer)? else {
                        return Ok(Step::NeedMore);
                    };
                    let len = len.and_then(|len| usize::try_from(len).ok());
                    let len = len.ok_or(ProtocolError::BulkLength)?;
                    if len > self.limits.arg_bytes {
                        return Err(match self.limits.before_auth {
                            true => ProtocolError::BulkLengthBeforeAuth,
                            false => ProtocolError::BulkLength,
                        });
                    }
                    if self.at + len > self.limits.request_bytes {
                        return Err(ProtocolError::RequestLength);
                    }
                    self.state = State::Argument(len);
                }
                State::Argument(len) => {
                    let end = self.at + len;
                    match buffer.get(end..) {
                        None | Some([] | [b'\r']) => return Ok(Step::NeedMore),
                        Some([b'\r', b'\n', ..]) => {}
                        Some(_) => return Err(ProtocolError::ExpectedEnd),
                    }
                    self.args.push(self.at..end);
                    self.at = end + 2;
                    self.searched = self.at;
                    self.left -= 1;
                    match self.left {
                        0 => return Ok(self.done()),
                        _ => self.state = State::Bulk,
                    }
                }
                State::Inline => {
                    let Some(end) = self.line_end(buffer, INLINE_BYTES_MAX) else {
                        match buffer.len() > INLINE_BYTES_MAX {
                            true => return Err(ProtocolError::Inline),
                            false => return Ok(Step::NeedMore),
                        }
                    };
                    self.at = end + 1;
                    let word = buffer[..end].trim_ascii();
                    if !word.is_empty() {
                        // Nothing else: a browser can be made to send lines to any port.
                        if !word.eq_ignore_ascii_case(b"PING") {
                            return Err(ProtocolError::Inline);
                        }
                        let start = buffer[..end].len() - buffer[..end].trim_ascii_start().len();
                        self.args.push(start..start + word.len());
                    }
                    return Ok(self.done());
                }
            }
        }
    }

    fn done(&mut self) -> Step<'_> {
        self.state = State::Start;
        Step::Request {
            args: &self.args,
            used: self.at,
        }
    }

    /// Offset of the line feed that ends the line at hand, if it comes within `max` bytes.
    fn line_end(&mut self, buffer: &[u8], max: usize) -> Option<usize> {
        let end = buffer.len().min(self.at + max);
        let from = self.searched.min(end);
        let found = buffer[from..end].iter().position(|byte| *byte == b'\n');
        self.searched = end;
        found.map(|at| from + at)
    }

    /// The number in the line at hand, behind its first byte, and steps over the line; `None` while
    /// its end is missing, `Some(None)` if it is no number.
    fn length(&mut self, buffer: &[u8]) -> Result<Option<Option<i64>>, ProtocolError> {
        let Some(end) = self.line_end(buffer, HEADER_BYTES_MAX) else {
            return match buffer.len() - self.at >= HEADER_BYTES_MAX {
                true => Err(ProtocolError::HeaderTooLong),
                false => Ok(None),
            };
        };
        let line = &buffer[self.at + 1..end];
        let number = line.strip_suffix(b"\r").and_then(integer);
        self.at = end + 1;
        self.searched = self.at;
        Ok(Some(number))
    }
}

/// Appends the request of these arguments, the command's name first.
pub fn encode_request<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing into a Vec cannot fail.
    let _ = write!(out, "*{}\r\n", args.len());
    for arg in args {
        let arg = arg.as_ref();
        let _ = write!(out, "${}\r\n", arg.len());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}
