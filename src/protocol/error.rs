//! Why bytes are not RESP. Where Redis has a text for it, `Display` is that text.

use std::fmt;

/// The bytes are not the protocol, or more than is allowed. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The number of arguments is no number or above the limit.
    ArrayLength,
    /// As [`ProtocolError::ArrayLength`], by the tighter limit before `AUTH`.
    ArrayLengthBeforeAuth,
    /// The length of a string is no number or above the limit.
    BulkLength,
    /// As [`ProtocolError::BulkLength`], by the tighter limit before `AUTH`.
    BulkLengthBeforeAuth,
    /// All arguments together are above the limit.
    RequestLength,
    /// An argument does not begin with `$`.
    ExpectedBulk {
        /// What it begins with.
        got: u8,
    },
    /// A line that announces a length has no end.
    HeaderTooLong,
    /// A string is not followed by CR LF.
    ExpectedEnd,
    /// A line that is neither an array nor empty nor `PING`.
    Inline,
    /// A reply begins with a byte that no type has.
    UnknownType {
        /// That byte.
        got: u8,
    },
    /// A reply is not what its type says.
    BadReply,
    /// Replies nest deeper than is allowed.
    TooDeep,
    /// A reply is longer than is allowed.
    ReplyLength,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            Self::ArrayLength => f.write_str("invalid multibulk length"),
            Self::ArrayLengthBeforeAuth => f.write_str("unauthenticated multibulk length"),
            Self::BulkLength => f.write_str("invalid bulk length"),
            Self::BulkLengthBeforeAuth => f.write_str("unauthenticated bulk length"),
            Self::RequestLength => f.write_str("too big request"),
            Self::ExpectedBulk { got } => {
                write!(f, "expected '$', got '{}'", got.escape_ascii())
            }
            Self::HeaderTooLong => f.write_str("too big count string"),
            Self::ExpectedEnd => f.write_str("expected CR LF after bulk"),
            Self::Inline => f.write_str("inline commands other than PING are not accepted"),
            Self::UnknownType { got } => {
                write!(f, "unknown reply type '{}'", got.escape_ascii())
            }
            Self::BadReply => f.write_str("malformed reply"),
            Self::TooDeep => f.write_str("reply nested too deep"),
            Self::ReplyLength => f.write_str("too big reply"),
        }
    }
}

impl std::error::Error for ProtocolError {}
