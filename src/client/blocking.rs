//! The blocking client.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::client::convert::{done, removed, value};
use crate::client::error::{ClientError, ClientResult};
use crate::client::inbox::{Inbox, WINDOW_BYTES};
use crate::protocol::{Reply, encode_request};

/// How long connecting takes at most.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A connection to a server.
///
/// After [`ClientError::Io`] or [`ClientError::Protocol`] it is of no more use: connect anew.
///
/// ```no_run
/// use kvs::KvsClient;
///
/// let mut client = KvsClient::connect("127.0.0.1:4000")?;
/// client.set("key", "value")?;
/// assert_eq!(client.get("key")?.as_deref(), Some(&b"value"[..]));
/// let replies = client.pipeline().arg(["INCR", "a"]).arg(["INCR", "b"]).run()?;
/// assert_eq!(replies.len(), 2);
/// # Ok::<(), kvs::client::ClientError>(())
/// ```
#[derive(Debug)]
pub struct KvsClient {
    stream: TcpStream,
    inbox: Inbox,
}

impl KvsClient {
    /// Connects to the server at `addr`.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn connect(addr: impl ToSocketAddrs) -> ClientResult<Self> {
        let mut last = None;
        for addr in addr.to_socket_addrs()? {
            match TcpStream::connect_timeout(&addr, CONNECT_MAX) {
                Ok(stream) => return Self::over(stream),
                Err(error) => last = Some(error),
            }
        }
        let none = || io::Error::new(ErrorKind::InvalidInput, "no address to connect to");
        Err(last.unwrap_or_else(none).into())
    }

    /// Over a connection that is there already.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn over(stream: TcpStream) -> ClientResult<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            inbox: Inbox::default(),
        })
    }

    /// The connection, to set timeouts on.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The value of `key`; `None` if there is none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> ClientResult<Option<Vec<u8>>> {
        value(self.call(&[&b"GET"[..], key.as_ref()])?)
    }

    /// Stores `value` under `key`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> ClientResult<()> {
        done(self.call(&[&b"SET"[..], key.as_ref(), value.as_ref()])?)
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// [`ClientError::KeyNotFound`] if there was nothing to remove; else as the others.
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> ClientResult<()> {
        removed(self.call(&[&b"DEL"[..], key.as_ref()])?)
    }

    /// Sends any command and waits for its reply, which may be an error of the server's.
    ///
    /// # Errors
    /// [`ClientError::Io`], [`ClientError::Protocol`].
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> ClientResult<Reply> {
        let mut request = Vec::new();
        encode_request(args, &mut request);
        self.stream.write_all(&request)?;
        self.reply()
    }

    /// Several commands that are sent without waiting in between.
    pub fn pipeline(&mut self) -> Pipeline<'_> {
        Pipeline {
            client: self,
            requests: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn reply(&mut self) -> ClientResult<Reply> {
        loop {
            if let Some(reply) = self.inbox.next()? {
                return Ok(reply);
            }
            match self.stream.read(self.inbox.space()) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                Ok(len) => self.inbox.filled(len),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Commands to be sent together: see [`KvsClient::pipeline`].
#[derive(Debug)]
pub struct Pipeline<'a> {
    client: &'a mut KvsClient,
    requests: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Pipeline<'_> {
    /// Adds a command: its name and arguments.
    #[must_use]
    pub fn arg<A: AsRef<[u8]>>(mut self, args: impl AsRef<[A]>) -> Self {
        self.push(args.as_ref());
        self
    }

    /// As [`Pipeline::arg`], in a loop.
    pub fn push<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        encode_request(args, &mut self.requests);
        self.ends.push(self.requests.len());
    }

    /// Sends them and waits for all replies, in order; each may be an error of the server's.
    ///
    /// # Errors
    /// [`ClientError::Io`], [`ClientError::Protocol`]: how many were run is not known then.
    pub fn run(self) -> ClientResult<Vec<Reply>> {
        let Self {
            client,
            requests,
            ends,
        } = self;
        let mut replies = Vec::with_capacity(ends.len());
        let (mut sent, mut from) = (0, 0);
        while sent < ends.len() {
            // As many as fit into the window, at least one.
            let fit = ends[sent..].partition_point(|end| end - from <= WINDOW_BYTES);
            let next = sent + fit.max(1);
            client.stream.write_all(&requests[from..ends[next - 1]])?;
            for _ in sent..next {
                replies.push(client.reply()?);
            }
            (sent, from) = (next, ends[next - 1]);
        }
        Ok(replies)
    }
}

impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Io(error) => error,
            other => Self::other(other),
        }
    }
}
