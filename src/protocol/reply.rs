//! Replies, of both versions of the protocol.

use std::borrow::Cow;
use std::fmt;

/// Words of our own or bytes from the wire.
pub type Text = Cow<'static, [u8]>;

/// Which of the two protocols a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// RESP2, what a connection begins with.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

/// An answer. `V` is how a stored value is held; a reply from the wire has none of those.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply<V = Vec<u8>> {
    /// A short text without line ends: `OK`.
    Simple(Text),
    /// An error: its code in capitals, then a text.
    Error(Text),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Bytes of the store, not copied if they are many.
    Value(V),
    /// There is no such thing.
    Null,
    /// There is no such list; in RESP3 the same as `Null`.
    NullArray,
    /// A list.
    Array(Vec<Reply<V>>),
    /// Pairs; in RESP2 a list of twice the length.
    Map(Vec<(Reply<V>, Reply<V>)>),
    /// A list without order; in RESP2 a list.
    Set(Vec<Reply<V>>),
    /// Something nobody asked for; in RESP2 a list.
    Push(Vec<Reply<V>>),
    /// Yes or no; in RESP2 1 or 0.
    Bool(bool),
    /// A float; in RESP2 its digits.
    Double(f64),
    /// Digits of a number of any length; in RESP2 a string.
    BigNumber(Vec<u8>),
    /// A text for people, with its format (`txt`, `mkd`); in RESP2 the text.
    Verbatim([u8; 3], Vec<u8>),
}

impl<V> Reply<V> {
    /// `+OK`.
    pub const OK: Self = Self::Simple(Cow::Borrowed(b"OK"));

    /// An error with this text.
    pub fn error(text: impl fmt::Display) -> Self {
        Self::Error(Cow::Owned(text.to_string().into_bytes()))
    }

    /// A string.
    pub fn bulk(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bulk(bytes.into())
    }

    /// 1 or 0: how commands say yes and no in both versions.
    #[must_use]
    pub fn flag(yes: bool) -> Self {
        Self::Integer(i64::from(yes))
    }

    /// A count.
    #[must_use]
    pub fn count(count: u64) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }
}
