//! The asynchronous client.

use std::io::{self, ErrorKind};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::client::convert::{done, removed, value};
use crate::client::error::ClientResult;
use crate::client::inbox::{Inbox, WINDOW_BYTES};
use crate::protocol::{Reply, encode_request};

/// A connection to a server, inside a tokio runtime.
///
/// A call whose future is dropped may have been run. The connection stays in step: the next call
/// passes over the replies that nobody waited for, and errs if a request went out in part only.
///
/// ```no_run
/// # async fn f() -> kvs::client::ClientResult<()> {
/// use kvs::client::AsyncKvsClient;
///
/// let mut client = AsyncKvsClient::connect("127.0.0.1:4000").await?;
/// client.set("key", "value").await?;
/// assert_eq!(client.get("key").await?.as_deref(), Some(&b"value"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncKvsClient {
    stream: TcpStream,
    inbox: Inbox,
    /// Replies that are still to come and that nobody waits for.
    owed: usize,
    /// A request is being sent.
    sending: bool,
}

impl AsyncKvsClient {
    /// Connects to the server at `addr`.
    ///
    /// # Errors
    /// [`crate::client::ClientError::Io`].
    pub async fn connect(addr: impl ToSocketAddrs) -> ClientResult<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            inbox: Inbox::default(),
            owed: 0,
            sending: false,
        })
    }

    /// The value of `key`; `None` if there is none.
    ///
    /// # Errors
    /// [`crate::client::ClientError`].
    pub async fn get(&mut self, key: impl AsRef<[u8]>) -> ClientResult<Option<Vec<u8>>> {
        value(self.call(&[&b"GET"[..], key.as_ref()]).await?)
    }

    /// Stores `value` under `key`.
    ///
    /// # Errors
    /// [`crate::client::ClientError`].
    pub async fn set(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> ClientResult<()> {
        done(
            self.call(&[&b"SET"[..], key.as_ref(), value.as_ref()])
                .await?,
        )
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// [`crate::client::ClientError::KeyNotFound`] if there was nothing to remove; else as the others.
    pub async fn remove(&mut self, key: impl AsRef<[u8]>) -> ClientResult<()> {
        removed(self.call(&[&b"DEL"[..], key.as_ref()]).await?)
    }

    /// Sends any command and waits for its reply, which may be an error of the server's.
    ///
    /// # Errors
    /// [`crate::client::ClientError::Io`], [`crate::client::ClientError::Protocol`].
    pub async fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> ClientResult<Reply> {
        let mut request = Vec::new();
        encode_request(args, &mut request);
        self.send(&request, 1).await?;
        self.reply().await
    }

    /// Sends several commands, each its name and arguments, without waiting in between; then waits
    /// for all replies, in order.
    ///
    /// # Errors
    /// As [`AsyncKvsClient::call`]; how many were run is not known then.
    pub async fn pipeline<C, A>(&mut self, commands: &[C]) -> ClientResult<Vec<Reply>>
    where
        C: AsRef<[A]>,
        A: AsRef<[u8]>,
    {
        let mut replies = Vec::with_capacity(commands.len());
        let (mut requests, mut count) = (Vec::new(), 0);
        let mut request = Vec::new();
        for command in commands {
            request.clear();
            encode_request(command.as_ref(), &mut request);
            // A longer one goes alone: then nothing waits to be read that it could wait for.
            if count > 0 && requests.len() + request.len() > WINDOW_BYTES {
                self.exchange(&requests, count, &mut replies).await?;
                requests.clear();
                count = 0;
            }
            requests.extend_from_slice(&request);
            count += 1;
        }
        if count > 0 {
            self.exchange(&requests, count, &mut replies).await?;
        }
        Ok(replies)
    }

    /// Sends `requests`, which are so many, and appends their replies.
    async fn exchange(
        &mut self,
        requests: &[u8],
        count: usize,
        replies: &mut Vec<Reply>,
    ) -> ClientResult<()> {
        self.send(requests, count).await?;
        for _ in 0..count {
            replies.push(self.reply().await?);
        }
        Ok(())
    }

    async fn send(&mut self, requests: &[u8], count: usize) -> ClientResult<()> {
        if self.sending {
            // An earlier call was given up in the middle of its request.
            return Err(io::Error::from(ErrorKind::BrokenPipe).into());
        }
        while self.owed > 0 {
            self.reply().await?;
        }
        self.sending = true;
        self.stream.write_all(requests).await?;
        self.sending = false;
        self.owed = count;
        Ok(())
    }

    async fn reply(&mut self) -> ClientResult<Reply> {
        loop {
            if let Some(reply) = self.inbox.next()? {
                self.owed = self.owed.saturating_sub(1);
                return Ok(reply);
            }
            // Nothing is lost if this future is dropped here: what was read is in the inbox.
            let len = self.stream.read(self.inbox.space()).await?;
            match len {
                0 => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                len => self.inbox.filled(len),
            }
        }
    }
}
