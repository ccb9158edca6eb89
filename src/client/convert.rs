//! From replies to what the calls of a client return.

use crate::client::error::{ClientError, ClientResult};
use crate::protocol::Reply;

/// The reply, unless it is an error of the server's.
pub fn checked(reply: Reply) -> ClientResult<Reply> {
    match reply {
        Reply::Error(text) => Err(ClientError::Server(
            String::from_utf8_lossy(&text).into_owned(),
        )),
        reply => Ok(reply),
    }
}

/// Of `GET`.
pub fn value(reply: Reply) -> ClientResult<Option<Vec<u8>>> {
    match checked(reply)? {
        Reply::Null => Ok(None),
        Reply::Bulk(bytes) => Ok(Some(bytes)),
        _ => Err(ClientError::Unexpected),
    }
}

/// Of `SET`.
pub fn done(reply: Reply) -> ClientResult<()> {
    match checked(reply)? {
        Reply::Simple(_) => Ok(()),
        _ => Err(ClientError::Unexpected),
    }
}

/// Of `DEL` of one key.
pub fn removed(reply: Reply) -> ClientResult<()> {
    match checked(reply)? {
        Reply::Integer(1) => Ok(()),
        Reply::Integer(0) => Err(ClientError::KeyNotFound),
        _ => Err(ClientError::Unexpected),
    }
}
