//! RESP2 and RESP3 with no socket: bytes in, values out, and back.
//!
//! ```text
//! client bytes -> RequestParser -> arguments -> Command          (command)
//! Reply -> encode -> Output -> slices for a vectored write       (reply, output)
//! server bytes -> ReplyDecoder -> Reply                          (decode)
//! ```
//!
//! A request is a flat array of bulk strings, an inline `PING` or an empty line. Nothing nests, so
//! there is no depth to run out of; every length is held against [`Limits`] when it is announced,
//! and nothing is allocated by it.
//!
//! Invariants
//! - Parsers resume: bytes that were looked at are not looked at again, whatever the pieces they
//!   came in. Fed byte by byte equals fed at once.
//! - After a [`ProtocolError`] the position in the stream is lost: report it and close.
//!
//! Elsewhere: what a command does (`server::execute`), who reads and writes sockets (`server`,
//! `client`).
//!
//! Design: Redis serialization protocol specification, versions 2 and 3.

pub mod command;
mod decode;
mod error;
mod number;
mod output;
mod reply;
mod request;

pub use command::{Command, CommandError};
pub use decode::{DecodeStep, ReplyDecoder};
pub use error::ProtocolError;
pub use output::Output;
pub use reply::{Reply, Text, Version};
pub use request::{Limits, RequestParser, Step, encode_request};

pub use number::{float, integer};
