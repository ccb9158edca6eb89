//! Why a client has no answer.

use std::fmt;
use std::io;

use crate::protocol::ProtocolError;

/// Result of a call of a client.
pub type ClientResult<T> = std::result::Result<T, ClientError>;

/// Why a call of a client failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The key to remove does not exist.
    KeyNotFound,
    /// The connection failed. Of a write it is not known whether it happened.
    Io(io::Error),
    /// The other side does not speak the protocol.
    Protocol(ProtocolError),
    /// The server refused; the text is the server's.
    Server(String),
    /// The server answered something else than the command has for an answer.
    Unexpected,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyNotFound => f.write_str("Key not found"),
            Self::Io(error) => error.fmt(f),
            Self::Protocol(error) => error.fmt(f),
            Self::Server(text) => f.write_str(text),
            Self::Unexpected => f.write_str("the server's answer is none to this command"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Protocol(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ProtocolError> for ClientError {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}
